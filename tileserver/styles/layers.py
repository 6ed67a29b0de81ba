"""The layers of a style document: from JSON to checked ``Layer`` objects.

A layer draws the features that its filter lets through, below the layers that follow it: polygons as fills,
lines and the outlines of polygons as lines, points as circles, labels at points and in the middle of all
else.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

from tileserver.styles import colours
from tileserver.styles.expressions import Node, is_expression, literal, parse
from tileserver.styles.fault import StyleFault
from tileserver.styles.properties import LAYER_TYPES, LAYOUT, PAINT, Property

LayerType = Literal["fill", "line", "circle", "symbol"]
LABEL: Final = "tileserver:label"
LEGEND: Final = "tileserver:legend"
_KEYS: Final = (
    *("id", "type", "source", "source-layer", "filter", "layout", "paint", "minzoom", "maxzoom", "metadata"),
)


@dataclass(frozen=True, slots=True)
class Layer:
    """``values`` has a node for each property of its type, its default where the document says nothing; None
    for a property without either. ``label`` is what a legend calls it, ``in_legend`` whether it is there at
    all."""

    id: str
    type: LayerType
    filter: Node | None
    values: Mapping[str, Node | None]
    minzoom: float = -math.inf
    maxzoom: float = math.inf
    visible: bool = True
    label: str = ""
    in_legend: bool = True
    default: Mapping[str, Any] = field(default_factory=dict)

    def shown_at(self, zoom: float) -> bool:
        """Whether it is drawn at a zoom of the map."""
        return self.visible and self.minzoom <= zoom < self.maxzoom

    def node(self, name: str) -> Node:
        """A property that always has a value."""
        found = self.values[name]
        assert found is not None, name
        return found

    def constant(self, name: str) -> Any:
        """The value of a property that takes no expression."""
        return self.node(name).value


def read_layers(value: Any) -> tuple[Layer, ...]:
    """The list ``layers`` of a document.

    :raises StyleFault: with the path of what is wrong.
    """
    if not isinstance(value, list):
        raise StyleFault("layers", "takes a list of layers")
    found = [_layer(one, f"layers[{at}]") for at, one in enumerate(value)]
    known: set[str] = set()
    for at, layer in enumerate(found):
        if layer.id in known:
            raise StyleFault(f"layers[{at}].id", f"{layer.id!r} is the id of another layer, too")
        known.add(layer.id)
    return tuple(found)


def _layer(value: Any, path: str) -> Layer:
    if not isinstance(value, dict):
        raise StyleFault(path, "a layer is an object")
    check_keys(value, _KEYS, path)
    name, kind = value.get("id"), value.get("type")
    if not isinstance(name, str) or not name:
        raise StyleFault(f"{path}.id", "a layer needs an id")
    if kind not in LAYER_TYPES:
        raise StyleFault(f"{path}.type", f"takes one of {', '.join(LAYER_TYPES)}, not {str(kind)[:40]!r}")
    for key in ("source", "source-layer"):
        if value.get(key) != "udf":
            raise StyleFault(f"{path}.{key}", 'takes "udf": the tiles of the UDF and their only layer')
    layout = _object(value.get("layout", {}), f"{path}.layout")
    about = _object(value.get("metadata", {}), f"{path}.metadata")
    values = {
        **_properties(_object(value.get("paint", {}), f"{path}.paint"), PAINT[kind], f"{path}.paint"),
        **_properties(
            {key: one for key, one in layout.items() if key != "visibility"}, LAYOUT[kind], f"{path}.layout"
        ),
    }
    filtered = None if "filter" not in value else read_filter(value["filter"], f"{path}.filter")
    return Layer(
        id=name,
        type=cast("LayerType", kind),
        filter=filtered,
        values=values,
        minzoom=_zoom(value, "minzoom", -math.inf, path),
        maxzoom=_zoom(value, "maxzoom", math.inf, path),
        visible=_visible(layout.get("visibility", "visible"), f"{path}.layout.visibility"),
        label=str(about.get(LABEL, "")),
        in_legend=about.get(LEGEND, True) is not False,
        default={key: one.default for key, one in {**PAINT[kind], **LAYOUT[kind]}.items()},
    )


def check_keys(value: Mapping[str, Any], known: Iterable[str], path: str) -> None:
    """Whether an object has known keys only.

    :raises StyleFault: naming the nearest known ones.
    """
    listed = list(known)
    for key in value:
        if key not in listed:
            near = difflib.get_close_matches(key, listed, n=2, cutoff=0.6)
            hint = f"near it: {', '.join(near)}" if near else f"known: {', '.join(listed)}"
            place = f"{path}.{key}" if path else key
            raise StyleFault(place, f"is not in the subset of the style language that is read here; {hint}")


def _object(value: Any, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise StyleFault(path, "takes an object")
    return value


def _zoom(layer: Mapping[str, Any], key: str, default: float, path: str) -> float:
    value = layer.get(key)
    if key not in layer:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 24:
        raise StyleFault(f"{path}.{key}", "takes a number from 0 to 24")
    return float(value)


def _visible(value: Any, path: str) -> bool:
    if value not in ("visible", "none"):  # a set takes no lists
        raise StyleFault(path, "takes visible or none")
    return bool(value == "visible")


# -- properties


def _properties(given: Mapping[str, Any], known: Mapping[str, Property], path: str) -> dict[str, Node | None]:
    check_keys(given, known, path)
    return {
        name: _default(one) if name not in given else _property(given[name], one, f"{path}.{name}")
        for name, one in known.items()
    }


def _default(one: Property) -> Node | None:
    if one.default is None:
        return None
    return literal(colours.parse(one.default) if one.kind == "color" else one.default)


def _property(value: Any, one: Property, path: str) -> Node:
    if one.kind == "formatted" and isinstance(value, str):
        value = with_tokens(value)
    if is_expression(value) and one.kind not in {"numbers", "texts"}:
        if one.type is None:
            raise StyleFault(path, "takes a constant here, not an expression")
        node = parse(value, one.type, path)
        check_zoom(node, path)
        return node
    return literal(_constant(value, one, path))


def _constant(value: Any, one: Property, path: str) -> Any:
    match one.kind:
        case "color":
            found = colours.parse(value) if isinstance(value, str) else None
            if found is None:
                raise StyleFault(path, f"takes a colour such as #d94801, not {str(value)[:40]!r}")
            return found
        case "number" | "constant":
            return _number(value, one, path)
        case "choice":
            if value not in one.choices:
                raise StyleFault(path, f"takes one of {', '.join(one.choices)}, not {str(value)[:40]!r}")
        case "switch":
            if not isinstance(value, bool):
                raise StyleFault(path, "takes true or false")
        case "numbers":
            if not isinstance(value, list) or (one.count and len(value) != one.count):
                raise StyleFault(path, f"takes a list of {one.count or ''} numbers".replace("  ", " "))
            return tuple(_number(number, one, f"{path}[{at}]") for at, number in enumerate(value))
        case "texts":
            if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
                raise StyleFault(path, "takes a list of texts")
            return tuple(value)
        case "formatted" if not isinstance(value, str):
            raise StyleFault(path, f"takes a text or an expression, not {str(value)[:40]!r}")
    return value


def _number(value: Any, one: Property, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise StyleFault(path, f"takes a number, not {str(value)[:40]!r}")
    if (one.low is not None and value < one.low) or (one.high is not None and value > one.high):
        bound = f"from {one.low:g} to {one.high:g}" if one.high is not None else f"of {one.low:g} or more"
        raise StyleFault(path, f"takes a number {bound}, not {value:g}")
    return float(value)


_TOKEN: Final = re.compile(r"{([^{}]+)}")


def check_zoom(node: Node, path: str) -> None:
    """Whether ``zoom`` stands only where MapLibre allows it: as the input of the outermost curve."""
    curve = node.op in {"step", "interpolate"} and node.args[0].op == "zoom"
    inner = node.args[1:] if curve else (node,)
    if any(found.op == "zoom" for one in inner for found in one.walk()):
        raise StyleFault(path, "zoom may only be the input of the outermost step or interpolate")


def read_filter(value: Any, path: str) -> Node:
    """A filter: an expression that is true or false.

    :raises StyleFault: also for filters of the older form, which are no expressions.
    """
    _refuse_older(value, path)
    return parse(value, "boolean", path)


def _refuse_older(value: Any, path: str) -> None:
    """A comparison of constants is a filter of the older form to MapLibre, and would mean something else."""
    if not isinstance(value, list) or not value or not isinstance(value[0], str):
        return
    if value[0] in {"all", "any"}:
        for at, one in enumerate(value[1:], 1):
            _refuse_older(one, f"{path}[{at}]")
    older = value[0] in {"==", "!=", "<", "<=", ">", ">="} and not any(
        isinstance(one, list) for one in value[1:3]
    )
    if older or value[0] in {"none", "in", "!in", "!has"} or value[:2] in (["has", "$id"], ["has", "$type"]):
        raise StyleFault(
            path, 'filters of the older form are not read; write ["==", ["get", "name"], "value"]'
        )


def with_tokens(text: str) -> Any:
    """A label such as ``{name}`` as the expression that MapLibre takes it for."""
    if not _TOKEN.search(text):
        return text
    parts: list[Any] = ["concat"]
    at = 0
    for match in _TOKEN.finditer(text):
        parts += [*([text[at : match.start()]] if match.start() > at else []), ["get", match[1]]]
        at = match.end()
    return [*parts, *([text[at:]] if at < len(text) else [])]
