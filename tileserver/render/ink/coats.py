"""Coats of paint: what of the shapes is painted how, one coat over the other.

Features of a coat are painted one by one in order, so translucent ones that overlap add up, within a coat and
between coats, as in MapLibre. Work is done in batches of bounded size, and large canvases in strips.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np

from tileserver.render.ink import cells, strokes
from tileserver.render.ink.blending import Canvas, Pixels
from tileserver.render.ink.cells import Edges, Floats, Index
from tileserver.render.ink.chosen import chosen, colours, sizes, tinted
from tileserver.render.ink.circles import circle
from tileserver.render.ink.shapes import Paths, Shapes, joined
from tileserver.render.paint import Paint

_STRIP: Final = 2**20  # pixels of a canvas


def painted(
    shapes: Shapes, coats: Sequence[Paint], width: int, height: int, below: Pixels | None = None
) -> Pixels:
    """The coats, whose lengths are pixels, one over the other: RGBA (4, height, width), straight alpha.

    :param below: a picture that they are painted on; else the canvas is transparent.
    """
    strip = max(1, min(height, _STRIP // width))
    picture = np.empty((4, height, width), np.uint8)
    for top in range(0, height, strip):
        inside = slice(top, min(top + strip, height))
        canvas = Canvas(width, inside.stop - top, None if below is None else below[:, inside])
        for coat in coats:
            _PAINTERS[coat.kind](canvas, shapes.lowered(top), coat)
        picture[:, inside] = canvas.straight()
    return picture


# Outlines whose items are the distinct ones of these numbers of features, in order.
_Covered = tuple[Edges, Index]


def _fill(canvas: Canvas, shapes: Shapes, paint: Paint) -> None:
    rings, inks = shapes.rings, colours(paint.colour)
    found = tinted(chosen(paint, rings.rows), inks)
    costs = rings.sizes[found.parts] + _area(rings.boxes(found.parts), canvas, 0.0)

    def covers() -> Iterator[_Covered]:
        for batch in found.batches(costs):
            yield _ring_edges(rings.taken(batch.parts), _items(batch.features)), batch.features

    _blend(canvas, covers(), inks)


def _line(canvas: Canvas, shapes: Shapes, paint: Paint) -> None:
    several = [paths for paths in (shapes.lines, shapes.rings) if len(chosen(paint, paths.rows).parts)]
    paths, inks = joined(several), colours(paint.colour)
    found = tinted(chosen(paint, paths.rows), inks)
    found = found.where(sizes(paint.width, found.features) > 0)
    costs = paths.sizes[found.parts] + _area(paths.boxes(found.parts), canvas, paint.reach)

    def covers() -> Iterator[_Covered]:
        for batch in found.batches(costs):
            items = _items(batch.features)
            taken = paths.taken(batch.parts)
            widths = np.zeros(int(items[-1]) + 1)
            widths[items] = sizes(paint.width, batch.features)
            only = np.zeros(len(items), np.int64) if paint.dash else taken.filled(widths[items])
            parts = strokes.segments(taken, items, only)
            parts = strokes.visible(parts, widths + 2, canvas.width, canvas.height)
            if paint.dash:
                parts = strokes.dashed(parts, paint.dash, widths)
            yield strokes.outlines(parts, widths / 2, join=paint.join, cap=paint.cap), batch.features

    _blend(canvas, covers(), inks)


def _circle(canvas: Canvas, shapes: Shapes, paint: Paint) -> None:
    circle(canvas, shapes.points, paint)


_PAINTERS: Final = {"fill": _fill, "line": _line, "circle": _circle}


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


def _blend(canvas: Canvas, outlines: Iterable[_Covered], inks: Floats) -> None:
    found = ((cells.covered(edges, canvas.width, canvas.height), features) for edges, features in outlines)
    if inks.ndim == 1:
        canvas.flat(((covered.pixels, covered.coverage, None) for covered, _ in found), inks)
        return
    for covered, features in found:
        distinct = features[np.diff(features, prepend=-1) != 0]
        of_items = inks[distinct].astype(np.float32).take(covered.items, axis=0)
        of_items *= covered.coverage.astype(np.float32)[:, None]
        canvas.each(covered.pixels, of_items)
