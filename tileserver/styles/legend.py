"""The legend of a style: what its colours and sizes mean, as data that pages and ``render/legend.py`` draw.

Items are gradients over an attribute's numbers, and classes with a symbol. Colours carry the opacity that
they are drawn with.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tileserver.styles import Style
from tileserver.styles.colours import Colour
from tileserver.styles.evaluate import EvaluationError, Feature, evaluate, text_of
from tileserver.styles.expressions import Node
from tileserver.styles.layers import Layer

_SYMBOLS: Final = {"fill": "fill", "line": "line", "circle": "circle"}
_FAMILIES: Final = {"fill": {"Polygon"}, "line": {"LineString", "Polygon"}, "circle": {"Point"}}
_NAMES: Final = {"fill": "Areas", "line": "Lines", "circle": "Points"}
_ZOOM: Final = 6.0  # of the map, for what depends on it
_SAMPLES: Final = 9  # colours of a gradient that is not straight
_NO_LABEL: Final = "\0"  # of any match; a missing value is the text "" to some
_MOST: Final = 100  # items, and colours of a gradient; nobody reads more

Item = dict[str, Any]


def legend(
    style: Style, families: Collection[str] = (), ramp: Sequence[tuple[float, str]] = ()
) -> dict[str, Any]:
    """``name``, ``title``, ``unit`` and ``items``.

    ``families`` are the kinds of geometry that the data has (``Point``, ``LineString``, ``Polygon``), all
    where it is not known. A ``ramp`` of values and colours is that of a picture with one band, which has no
    other items.
    """
    part = style.raster
    if ramp:
        stops = [[value, colour] for value, colour in ramp]
        items = [{"kind": "gradient", "label": part.label, "unit": part.unit, "stops": stops}]
        return {"name": style.name, "title": style.title or part.label, "unit": part.unit, "items": items}
    found = _items(style, set(families) or {"Point", "LineString", "Polygon"})
    items = list(itertools.islice(found, _MOST))
    if next(found, None) is not None:
        items.append({"kind": "class", "symbol": "fill", "label": "and others", "color": "#00000000"})
    return {"name": style.name, "title": style.title, "unit": style.unit, "items": items}


def _items(style: Style, families: set[str]) -> Iterator[Item]:
    layers = [one for one in style.layers if one.in_legend and one.visible and one.type in _SYMBOLS]
    drawn = [(one, shown) for one in layers if (shown := _families(one) & families)]
    outline = next(
        (_css(one, {}) for one, shown in drawn if one.type == "line" and shown == {"Polygon"}), None
    )
    filled = any(one.type == "fill" for one, _ in drawn)
    for layer, shown in drawn:
        if layer.type == "line" and shown == {"Polygon"} and filled:
            continue
        yield from _layer_items(layer, style.unit, outline if layer.type == "fill" else None)


def _families(layer: Layer) -> set[str]:
    """The kinds of geometry that a layer draws."""
    return {
        family
        for family in _FAMILIES[layer.type]
        if layer.filter is None or family in _named(layer.filter, {family})
    }


def _named(node: Node, families: set[str]) -> set[str]:
    """Those of the families that a filter, as far as it is about them, lets through."""
    if node.op == "all":
        for arg in node.args:
            families = _named(arg, families)
    elif node.op == "any":
        return set().union(*(_named(arg, families) for arg in node.args))
    elif node.op in {"==", "!="} and any(arg.op == "geometry-type" for arg in node.args):
        value = next((arg.value for arg in node.args if arg.is_constant), None)
        return {family for family in families if (family == value) == (node.op == "==")}
    return families


@dataclass(frozen=True, slots=True)
class _Branches:
    """How a colour depends on an attribute: the curve or match, and what is drawn where it doesn't apply."""

    main: Node
    attribute: str
    otherwise: Node | None = None


def _layer_items(layer: Layer, unit: str, outline: str | None) -> Iterator[Item]:
    found = _branches(layer.node(f"{layer.type}-color"))
    size = _size_node(layer)
    if found is None:
        by_size = size if size is not None and size.attributes else None
        if by_size is not None and (sized := _branches(by_size)) is not None:
            yield from (
                _class(layer, _said(value), {sized.attribute: value}) for value in _telling(sized.main)
            )
        else:
            yield _class(layer, layer.label or _NAMES[layer.type], {}, outline)
        return
    main, attribute = found.main, found.attribute
    label = layer.label or attribute
    if main.op == "interpolate":
        yield {"kind": "gradient", "label": label, "unit": unit, "stops": _gradient(layer, main, attribute)}
        if size is not None and attribute in size.attributes:
            yield from (_class(layer, _said(value), {attribute: value}) for value in _telling(main))
    elif main.op == "step":
        yield from _steps(layer, main, attribute, outline)
    else:
        yield from _matches(layer, found, outline)
    if found.otherwise is not None:
        yield _class(layer, "No data", {}, outline)


def _branches(node: Node) -> _Branches | None:
    """The part of an expression that tells values apart, where there is one that a legend can show."""
    match node.op:
        case "interpolate" | "step" if node.args[0].op == "zoom":
            return next((found for arg in node.args[1:] if (found := _branches(arg))), None)
        case "interpolate" | "step" | "match":
            names = node.args[0].attributes
            return _Branches(node, next(iter(names))) if len(names) == 1 else None
        case "case" if len(node.args) == 3 and node.args[2].is_constant:
            found = _branches(node.args[1])
            return None if found is None else _Branches(found.main, found.attribute, node.args[2])
        case "coalesce" | "to-color" | "number":
            return next((found for arg in node.args if (found := _branches(arg))), None)
    return None


def _gradient(layer: Layer, curve: Node, attribute: str) -> list[list[Any]]:
    base, labels = curve.value
    points = list(labels)
    if base != 1 and len(labels) > 1:
        low, high = labels[0], labels[-1]
        points = sorted({*labels, *(low + (high - low) * at / (_SAMPLES - 1) for at in range(_SAMPLES))})
    if len(points) > _MOST:
        points = [*points[: -1 : math.ceil(len(points) / _MOST)], points[-1]]
    return [[_plain(value), _css(layer, {attribute: value})] for value in points]


def _telling(curve: Node) -> list[float]:
    """Up to four of a curve's inputs, which say how large symbols are."""
    labels = [label for label in curve.value[1] if math.isfinite(label)]
    step = max(1, math.ceil((len(labels) - 1) / 3))
    return labels[:: -step or 1][::-1] if len(labels) > 4 else labels


def _steps(layer: Layer, curve: Node, attribute: str, outline: str | None) -> Iterator[Item]:
    labels = curve.value[1]
    for at, low in enumerate(labels):
        high = labels[at + 1] if at + 1 < len(labels) else None
        if at == 0:
            text, value = f"< {_said(labels[1])}", labels[1] - 1e-9 * max(1.0, abs(labels[1]))
        elif high is None:
            text, value = f"\u2265 {_said(low)}", low
        else:
            text, value = f"{_said(low)} \u2013 {_said(high)}", (low + high) / 2
        yield _class(layer, text, {attribute: value}, outline)


def _matches(layer: Layer, found: _Branches, outline: str | None) -> Iterator[Item]:
    for labels in found.main.value:
        text = ", ".join(_said(label) for label in labels)
        yield _class(layer, text, {found.attribute: labels[0]}, outline)
    if found.otherwise is None:
        yield _class(layer, "Other", {found.attribute: _NO_LABEL}, outline)


def _class(layer: Layer, label: str, properties: Mapping[str, Any], outline: str | None = None) -> Item:
    item: Item = {
        "kind": "class",
        "symbol": _SYMBOLS[layer.type],
        "label": label,
        "color": _css(layer, properties),
    }
    size = _size_node(layer)
    if size is not None:
        number = _value(layer, size, properties, 1.0)
        item["size"] = _plain(round(2 * number if layer.type == "circle" else number, 2))
    if layer.type == "circle" and _value(layer, layer.node("circle-stroke-width"), properties, 0.0) > 0:
        outline = _css(layer, properties, "circle-stroke")
    if layer.values.get("fill-outline-color") is not None:
        outline = _css(layer, properties, "fill-outline", "fill")
    return item if outline is None else {**item, "outline": outline}


def _size_node(layer: Layer) -> Node | None:
    return layer.values.get({"circle": "circle-radius", "line": "line-width"}.get(layer.type, ""))


def _css(layer: Layer, properties: Mapping[str, Any], name: str = "", opacity: str = "") -> str:
    """A colour of a layer for a feature with these properties, with its opacity."""
    name = name or layer.type
    black = Colour(0.0, 0.0, 0.0, 1.0)
    colour: Colour = _value(layer, layer.node(f"{name}-color"), properties, black)
    share = min(max(_value(layer, layer.node(f"{opacity or name}-opacity"), properties, 1.0), 0.0), 1.0)
    return colour._replace(alpha=colour.alpha * share).css


def _value(layer: Layer, node: Node, properties: Mapping[str, Any], default: Any) -> Any:
    geometry = {"fill": "Polygon", "line": "LineString"}.get(layer.type, "Point")
    try:
        found = evaluate(node, Feature(properties, geometry, _ZOOM))
    except EvaluationError:
        return default
    numbers = found if isinstance(found, Colour) else (found,)
    return found if all(map(_is_number, numbers)) else default


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _said(value: Any) -> str:
    return value if isinstance(value, str) else text_of(round(value, 6))


def _plain(number: float) -> float | int:
    return int(number) if float(number).is_integer() and abs(number) < 2**53 else number
