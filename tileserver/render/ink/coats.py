"""Coats of paint: which features are painted how, one coat over the other.

Features of a coat are painted one by one in order, so translucent ones that overlap add up, within a coat and
between coats, as in MapLibre. Work is done in batches of bounded size, and large canvases in strips.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tileserver.render.ink import cells, discs, strokes
from tileserver.render.ink.blending import Canvas, Layer, Pixels
from tileserver.render.ink.cells import Edges, Floats, Index
from tileserver.render.ink.shapes import Paths, Shapes, joined

_BATCH: Final = 128_000  # vertices and pixels that are worked on at a time: what caches hold
_STRIP: Final = 2**20  # pixels of a canvas
_SHARED: Final = 8  # radius in pixels up to which discs of one size share pictures that are kept
_LARGEST: Final = 4096.0  # pixels of a width or radius; more is more than any picture


@dataclass(frozen=True, slots=True)
class Paint:
    """One coat.

    ``features`` are the rows that are painted, as indices in their order (later ones over earlier ones) or as
    a mask; None for all. What may differ from feature to feature is one value for all, or an array with an
    entry for each of ``features``: ``colour`` and ``stroke_colour`` are straight red, green, blue and alpha
    (0 to 1); ``width`` of a line, ``radius`` and, around it, ``stroke_width`` of a circle are in pixels.
    ``dash`` holds pixels drawn and left out in turn. A coat of lines is for lines and the rings of
    polygons, if ``of`` doesn't choose. What has a value that is no number, or no width, is not painted.
    """

    kind: Literal["fill", "line", "circle"]
    colour: Any = (0.0, 0.0, 0.0, 1.0)
    features: NDArray[Any] | None = None
    width: Any = 1.0
    radius: Any = 3.0
    stroke_colour: Any = (0.0, 0.0, 0.0, 0.0)
    stroke_width: Any = 0.0
    dash: Sequence[float] = ()
    cap: strokes.Cap = "round"
    join: strokes.Join = "round"
    of: Literal["lines", "polygons"] | None = None

    @property
    def reach(self) -> float:
        """How far from its geometry the coat is seen, in pixels."""
        if self.kind == "fill":
            return 1.0
        if self.kind == "line":
            return 1.0 + _largest(self.width) * (1.0 if self.join == "miter" else 0.5)
        return 1.0 + _largest(self.radius) + _largest(self.stroke_width)


def painted(shapes: Shapes, coats: Sequence[Paint], width: int, height: int) -> Pixels:
    """The coats one over the other on a transparent canvas: RGBA (4, height, width), straight alpha."""
    strip = max(1, min(height, _STRIP // width))
    picture = np.empty((4, height, width), np.uint8)
    for top in range(0, height, strip):
        canvas = Canvas(width, min(strip, height - top))
        for coat in coats:
            _PAINTERS[coat.kind](canvas, shapes.lowered(top), coat)
        picture[:, top : top + canvas.height] = canvas.straight()
    return picture


def _largest(values: Any) -> float:
    found = np.asarray(values, np.float64)
    found = found[np.isfinite(found)]
    return min(float(found.max(initial=0.0)), _LARGEST)


def _colours(values: Any) -> Floats:
    """Premultiplied colours, (4,) for all or (n, 4); one that is no colour is transparent."""
    found = np.array(values, np.float64)
    if found.ndim == 2 and len(found) and (found == found[0]).all():
        found = found[0]
    found[~np.isfinite(found).all(axis=-1)] = 0
    np.clip(found, 0, 1, out=found)
    found[..., :3] *= found[..., 3:]
    return found


def _sizes(values: Any, features: Index) -> Floats:
    """For each part the width or radius of its feature; 0 for what is none."""
    found = np.asarray(values, np.float64)
    found = np.full(len(features), found) if found.ndim == 0 else found[features]
    return np.clip(np.where(np.isfinite(found), found, 0), 0, _LARGEST)


# Outlines whose items are the distinct ones of these numbers of features, in order.
_Covered = tuple[Edges, Index]


class _Chosen(NamedTuple):
    """Parts that a coat paints, in its order: their indices, and for each the number of its feature among
    those of the coat."""

    parts: Index
    features: Index

    def where(self, kept: NDArray[np.bool_]) -> _Chosen:
        return self if kept.all() else _Chosen(self.parts[kept], self.features[kept])

    def batches(self, costs: NDArray[Any]) -> Iterator[_Chosen]:
        """Runs of parts that cost no more than a batch together; features stay whole."""
        if not len(self.parts):
            return
        begins = np.flatnonzero(np.diff(self.features, prepend=-1))
        spent = np.cumsum(costs)[np.append(begins[1:], len(costs)) - 1]
        start = 0
        while start < len(begins):
            before = spent[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(spent, before + _BATCH, "right")))
            inside = slice(begins[start], begins[stop] if stop < len(begins) else None)
            yield _Chosen(self.parts[inside], self.features[inside])
            start = stop


def _chosen(paint: Paint, rows: Index) -> _Chosen:
    """The parts, by their rows, of the features that the coat has."""
    wanted = paint.features
    if wanted is None:
        return _Chosen(np.arange(len(rows)), rows)
    if wanted.dtype == np.bool_:
        wanted = np.flatnonzero(wanted)
    place = np.full(int(max(rows.max(initial=-1), wanted.max(initial=-1))) + 1, -1, np.int64)
    place[wanted] = np.arange(len(wanted))
    found = place[rows]
    parts = np.flatnonzero(found >= 0)
    features = found[parts]
    if (np.diff(features) < 0).any():
        order = np.argsort(features, kind="stable")
        parts, features = parts[order], features[order]
    return _Chosen(parts, features)


def _fill(canvas: Canvas, shapes: Shapes, paint: Paint) -> None:
    rings, colours = shapes.rings, _colours(paint.colour)
    chosen = _tinted(_chosen(paint, rings.rows), colours)
    costs = rings.sizes[chosen.parts] + _area(rings.boxes(chosen.parts), canvas, 0.0)

    def covers() -> Iterator[_Covered]:
        for batch in chosen.batches(costs):
            yield _ring_edges(rings.taken(batch.parts), _items(batch.features)), batch.features

    _blend(canvas, covers(), colours)


def _line(canvas: Canvas, shapes: Shapes, paint: Paint) -> None:
    both = {"lines": (shapes.lines,), "polygons": (shapes.rings,), None: (shapes.lines, shapes.rings)}
    paths, colours = joined(both[paint.of]), _colours(paint.colour)
    chosen = _tinted(_chosen(paint, paths.rows), colours)
    chosen = chosen.where(_sizes(paint.width, chosen.features) > 0)
    costs = paths.sizes[chosen.parts] + _area(paths.boxes(chosen.parts), canvas, paint.reach)

    def covers() -> Iterator[_Covered]:
        for batch in chosen.batches(costs):
            items = _items(batch.features)
            taken = paths.taken(batch.parts)
            halves = np.zeros(int(items[-1]) + 1)
            halves[items] = _sizes(paint.width, batch.features) / 2
            only = np.zeros(len(items), np.int64) if paint.dash else taken.filled(2 * halves[items])
            found = strokes.segments(taken, items, only)
            found = strokes.visible(found, 2 * halves + 2, canvas.width, canvas.height)
            if paint.dash:
                found = strokes.dashed(found, paint.dash)
            yield strokes.outlines(found, halves, join=paint.join, cap=paint.cap), batch.features

    _blend(canvas, covers(), colours)


def _circle(canvas: Canvas, shapes: Shapes, paint: Paint) -> None:
    points, inner, outer = shapes.points, _colours(paint.colour), _colours(paint.stroke_colour)
    chosen = _chosen(paint, points.rows)
    radii = _sizes(paint.radius, chosen.features)
    around = radii + _sizes(paint.stroke_width, chosen.features)
    x, y = points.x[chosen.parts], points.y[chosen.parts]
    seen = (around > 0) & (x > -around) & (x < canvas.width + around)
    seen &= (y > -around) & (y < canvas.height + around)
    reach = np.ceil(around).astype(np.int64)
    chosen, radii, around, reach = chosen.where(seen), radii[seen], around[seen], reach[seen]
    x, y = x[seen], y[seen]
    border = 2 * int(reach.max(initial=0))
    place = np.arange(len(x))
    batches = [batch.parts for batch in _Chosen(place, place).batches((2 * reach + 1) ** 2)]
    stamps = discs.stamps(x, y)
    if (around == radii).all() and inner.ndim == 1 and (reach == reach[:1]).all():
        size = _Size(int(reach.max(initial=1)), canvas.width, border)
        blocks = (_block(stamps, which, radii, around, size) for which in batches)
        canvas.flat(((block.pixels.ravel(), block.inner, block.pictures) for block in blocks), inner, border)
        return
    for which in batches:
        found = [
            _block(
                stamps, which[reach[which] == one], radii, around, _Size(int(one), canvas.width, border)
            ).cells
            for one in np.unique(reach[which])
        ]
        pixels, of_disc, of_both, items = (np.concatenate(column) for column in zip(*found, strict=True))
        if len(found) > 1:
            # A disc has no pixel twice, so what is equal may come in any order: a stable sort takes longer.
            order = np.argsort(items)
            pixels, of_disc, of_both, items = (part[order] for part in (pixels, of_disc, of_both, items))
        features = chosen.features[items]
        layers = (Layer(of_disc, features, inner), Layer(of_both - of_disc, features, outer))
        canvas.each(pixels, layers, border)


_PAINTERS: Final = {"fill": _fill, "line": _line, "circle": _circle}


class _Size(NamedTuple):
    """How far discs reach from their pixel, and the canvas they are stamped on: with a border on every side
    that is wide enough for any disc that is seen."""

    reach: int
    width: int
    border: int


class _Block(NamedTuple):
    """Discs of like size: their pixels (n, k), the pictures (m, k) of discs and of what is around them, too,
    which picture each disc has, and its number."""

    pixels: Index
    inner: Floats
    outer: Floats
    pictures: Index
    items: Index

    @property
    def cells(self) -> tuple[Index, Floats, Floats, Index]:
        """Pixels, coverage by the disc and by both, and the number of the disc, all flat."""
        inner, outer = self.inner[self.pictures].ravel(), self.outer[self.pictures].ravel()
        return self.pixels.ravel(), inner, outer, np.repeat(self.items, self.pixels.shape[1])


def _block(stamps: discs.Stamps, which: Index, radii: Floats, around: Floats, size: _Size) -> _Block:
    reach, width, border = size
    phases, radii, around = stamps.phases[which], radii[which], around[which]
    if (radii == radii[0]).all() and (around == around[0]).all() and reach <= _SHARED:
        numbers = phases
        inner, outer = (discs.pictures(float(sizes[0]), reach) for sizes in (radii, around))
    else:
        numbers = np.arange(len(which))
        inner, outer = (discs.covered(phases, sizes, reach) for sizes in (radii, around))
    inner, outer = inner.reshape(len(inner), -1), outer.reshape(len(outer), -1)
    used = np.flatnonzero(outer.max(axis=0) > 0)
    inner, outer = inner[:, used], outer[:, used]
    down, across = np.divmod(used, 2 * reach + 1)
    pitch = width + 2 * border
    corners = (stamps.rows[which] + (border - reach)) * pitch + stamps.columns[which] + (border - reach)
    return _Block(corners[:, None] + (down * pitch + across), inner, outer, numbers, which)


def _tinted(chosen: _Chosen, colours: Floats) -> _Chosen:
    """Parts that are not transparent."""
    alpha = colours[..., 3]
    if alpha.ndim == 0:
        return chosen.where(np.full(len(chosen.parts), bool(alpha > 0)))
    return chosen.where(alpha[chosen.features] > 0)


def _items(features: Index) -> Index:
    """Numbers from 0 for features that ascend."""
    return np.cumsum(np.diff(features, prepend=features[:1]) > 0)


def _area(boxes: Floats, canvas: Canvas, reach: float) -> Floats:
    """Pixels of the canvas in each box (west, north, east, south) and around it."""
    across = np.clip(boxes[2] + reach, 0, canvas.width) - np.clip(boxes[0] - reach, 0, canvas.width)
    down = np.clip(boxes[3] + reach, 0, canvas.height) - np.clip(boxes[1] - reach, 0, canvas.height)
    area: Floats = across * down
    return area


def _ring_edges(rings: Paths, items: Index) -> Edges:
    """Edges of rings that wind around what they enclose once, and of holes that wind the other way."""
    inside = np.ones(len(rings.x), np.bool_)
    inside[np.cumsum(rings.sizes) - 1] = False
    first = np.flatnonzero(inside)
    x0, y0, x1, y1 = rings.x[first], rings.y[first], rings.x[first + 1], rings.y[first + 1]
    turned = np.repeat((rings.areas > 0) == rings.hole, rings.sizes - 1)
    if turned.any():
        x0, x1 = np.where(turned, x1, x0), np.where(turned, x0, x1)
        y0, y1 = np.where(turned, y1, y0), np.where(turned, y0, y1)
    return Edges(x0, y0, x1, y1, np.repeat(items, rings.sizes - 1))


def _blend(canvas: Canvas, outlines: Iterable[_Covered], colours: Floats) -> None:
    found = ((cells.covered(edges, canvas.width, canvas.height), features) for edges, features in outlines)
    if colours.ndim == 1:
        canvas.flat(((covered.pixels, covered.coverage, None) for covered, _ in found), colours)
        return
    for covered, features in found:
        distinct = features[np.diff(features, prepend=-1) != 0]
        canvas.each(covered.pixels, [Layer(covered.coverage, distinct[covered.items], colours)])
