"""A style over features: which of them each layer draws, and in which colours and sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

import geopandas as gpd
import numpy as np
from numpy.typing import NDArray

from tileserver.render import columns, features
from tileserver.render.columns import ERROR, NULL, NUMBER, TEXT, Table, evaluate
from tileserver.render.paint import Labels, Numbers, Paint
from tileserver.styles import colours as css
from tileserver.styles.layers import Layer

_DRAWN: Final = {
    "fill": ("Polygon",),
    "line": ("LineString", "Polygon"),
    "circle": ("Point",),
    "symbol": ("Point", "LineString", "Polygon"),
}
_FURTHEST_ZOOM: Final = -2.0
_ANY_SIZE: Final = np.True_


def paints(
    layers: Iterable[Layer], frame: gpd.GeoDataFrame, rows: Any, families: NDArray[np.object_], zoom: float
) -> Iterator[Paint | Labels]:
    """What the layers draw of features, lowest first.

    A feature is a row of the frame (its position) with a family of geometry: ``Point``, ``LineString`` or
    ``Polygon``. ``zoom`` is the map's: a tile of 512 pixels at zoom 3 is drawn for zoom 3, one of 256 pixels
    for zoom 2.
    """
    shown = [layer for layer in layers if layer.shown_at(zoom)]
    table = _table(shown, frame, np.asarray(rows, np.intp), families, zoom)
    for layer in shown:
        chosen = _chosen(layer, table)
        if len(chosen):
            yield from (made for made in _drawn(layer, table, chosen) if len(made.features))


def map_zoom(metres_per_pixel: float) -> float:
    """The zoom of a map whose pixels (at scale 1) have this size at the equator."""
    world = 2 * math.pi * 6378137.0
    return max(math.log2(world / 512 / metres_per_pixel), _FURTHEST_ZOOM)


def _table(
    layers: Sequence[Layer], frame: gpd.GeoDataFrame, rows: NDArray[np.intp], families: Any, zoom: float
) -> Table:
    nodes = [node for layer in layers for node in (layer.filter, *layer.values.values()) if node is not None]
    asked = frozenset[str]().union(*(node.attributes for node in nodes))
    found = {}
    if asked:
        attributes = features.attributes(frame)
        for name in asked & attributes.keys():
            found[name] = columns.column(name, attributes[name].iloc[rows])
    return Table(len(rows), found, np.asarray(families, object), zoom)


def _chosen(layer: Layer, table: Table) -> NDArray[np.intp]:
    """The features that a layer draws, in the order of its sort key."""
    names = np.array(_DRAWN["symbol"], object)
    drawn = np.isin(names.astype(str), _DRAWN[layer.type])
    if layer.filter is not None and not layer.filter.attributes:
        drawn &= evaluate(layer.filter, Table(len(names), {}, names, table.zoom)).true
    shown = drawn[columns.positions(table.families, names)]
    if layer.filter is not None and layer.filter.attributes:
        shown &= evaluate(layer.filter, table).true
    chosen = np.flatnonzero(shown)
    key = _numbers(layer, f"{layer.type}-sort-key", table, chosen)
    if isinstance(key, float):
        return chosen
    return chosen[np.argsort(key, kind="stable")]


def _drawn(layer: Layer, table: Table, chosen: NDArray[np.intp]) -> Iterator[Paint | Labels]:
    match layer.type:
        case "symbol":
            yield _labels(layer, table, chosen)
        case "line":
            yield _line(layer, table, chosen)
        case "circle":
            yield _circle(layer, table, chosen)
        case "fill":
            yield _visible(Paint("fill", chosen, _colours(layer, "fill", table, chosen)))
            if layer.values["fill-outline-color"] is not None:
                outline = _colours(layer, "fill-outline", table, chosen, opacity="fill")
                yield _visible(Paint("line", chosen, outline, join="round"))


def _line(layer: Layer, table: Table, chosen: NDArray[np.intp]) -> Paint:
    found = Paint(
        kind="line",
        features=chosen,
        colour=_colours(layer, "line", table, chosen),
        width=_numbers(layer, "line-width", table, chosen),
        dash=layer.constant("line-dasharray"),
        cap=layer.constant("line-cap"),
        join=layer.constant("line-join"),
    )
    return _visible(found, np.asarray(found.width) > 0)


def _circle(layer: Layer, table: Table, chosen: NDArray[np.intp]) -> Paint:
    found = Paint(
        kind="circle",
        features=chosen,
        colour=_colours(layer, "circle", table, chosen),
        radius=_numbers(layer, "circle-radius", table, chosen),
        stroke_colour=_colours(layer, "circle-stroke", table, chosen),
        stroke_width=np.maximum(_numbers(layer, "circle-stroke-width", table, chosen), 0.0),
    )
    radius, ring = np.asarray(found.radius), np.asarray(found.stroke_width)
    return _visible(found, (radius >= 0) & (radius + ring > 0))


def _visible(paint: Paint, sized: Any = _ANY_SIZE) -> Paint:
    """Without what can't be seen."""
    seen = np.asarray(paint.colour)[..., 3] > 0
    seen = seen | ((np.asarray(paint.stroke_colour)[..., 3] > 0) & (np.asarray(paint.stroke_width) > 0))
    seen = np.broadcast_to(seen & sized, paint.features.shape)
    if seen.all():
        return paint
    each = {"width": 1, "radius": 1, "stroke_width": 1, "colour": 2, "stroke_colour": 2}
    values = {name: getattr(paint, name) for name in each}
    kept = {name: one[seen] for name, one in values.items() if np.ndim(one) == each[name]}
    return replace(paint, features=paint.features[seen], **kept)


def _labels(layer: Layer, table: Table, chosen: NDArray[np.intp]) -> Labels:
    values = evaluate(layer.node("text-field"), table)
    texts = np.broadcast_to(np.where(values.has(TEXT), values.texts, ""), (table.count,))[chosen]
    size = np.broadcast_to(_numbers(layer, "text-size", table, chosen), (len(chosen),))
    said = np.array([bool(text.strip()) for text in texts], bool) & (size > 0)
    colours = (_colours(layer, name, table, chosen, opacity="text") for name in ("text", "text-halo"))
    colour, halo = (np.broadcast_to(found, (len(chosen), 4))[said] for found in colours)
    halo_width = np.broadcast_to(_numbers(layer, "text-halo-width", table, chosen), (len(chosen),))
    key = np.broadcast_to(_numbers(layer, "symbol-sort-key", table, chosen), (len(chosen),))
    return Labels(
        features=chosen[said],
        texts=tuple(texts[said]),
        size=size[said],
        colour=colour,
        halo_colour=halo,
        halo_width=halo_width[said],
        key=key[said],
        anchor=layer.constant("text-anchor"),
        offset=layer.constant("text-offset"),
        max_width=layer.constant("text-max-width"),
        padding=layer.constant("text-padding"),
        overlap=layer.constant("text-allow-overlap"),
    )


def _numbers(layer: Layer, name: str, table: Table, chosen: NDArray[np.intp]) -> Any:
    """A number for each feature (n,), or one for all of them; the default where it has no value."""
    node = layer.values[name]
    default = float(layer.default[name] or 0.0)
    if node is None:
        return default
    values = evaluate(node, table)
    numbers = np.where(values.has(NUMBER) & ~np.isnan(values.numbers), values.numbers, default)
    return float(numbers[0]) if len(numbers) == 1 else numbers[chosen]


def _colours(
    layer: Layer, name: str, table: Table, chosen: NDArray[np.intp], opacity: str | None = None
) -> Numbers:
    """Colours (n, 4) with their opacities, or one (4,) for all features."""
    node = layer.node(f"{name}-color")
    values = evaluate(node, table)
    missing = values.has(ERROR) | values.has(NULL)
    colours = np.where(missing[:, None], _default_colour(layer, name), values.colours)
    share = np.clip(_numbers(layer, f"{opacity or name}-opacity", table, chosen), 0.0, 1.0)
    found = colours[0] if len(colours) == 1 else colours[chosen]
    if np.ndim(share) and found.ndim == 1:
        found = np.broadcast_to(found, (len(chosen), 4))
    result: Numbers = np.array(found, float)
    result[..., 3] = np.clip(result[..., 3], 0.0, 1.0) * share
    return result


def _default_colour(layer: Layer, name: str) -> Numbers:
    default = layer.default[f"{name}-color"]
    return np.array(css.parse(default) if default else (0.0, 0.0, 0.0, 0.0), float)
