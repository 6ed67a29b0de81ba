"""Closed outlines as exact areas of pixels.

An outline is a bag of directed edges. Each is cut at the borders of pixels; a piece that falls by ``d`` at
the place ``f`` of a pixel's width covers ``d * (1 - f)`` of that pixel and ``d`` of each one to its right.
Summed along a row this is the winding times the covered area (the method of FreeType and Agg, unrounded).
Nothing is sorted: each row of an item gets cells from its leftmost to its rightmost edge.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Index = NDArray[np.int64]

# Less than this is not seen, not even of black on white.
_NOTHING: Final = 1 / 1024


class Edges(NamedTuple):
    """Directed edges in pixels, y downwards; ``items`` number what is covered together, in
    drawing order."""

    x0: Floats
    y0: Floats
    x1: Floats
    y1: Floats
    items: Index

    def where(self, kept: NDArray[np.bool_] | Index) -> Edges:
        x0, y0, x1, y1, items = self
        return Edges(x0[kept], y0[kept], x1[kept], y1[kept], items[kept])


class Cells(NamedTuple):
    """Pixels (row * width + column), how much of each is covered (0 to 1), and by which item, ascending."""

    pixels: Index
    coverage: Floats
    items: Index


def covered(edges: Edges, width: int, height: int) -> Cells:
    """What closed outlines cover of a canvas, by the nonzero rule; where an item overlaps itself within a
    pixel, the areas add up to no more than the pixel."""
    pieces = _by_columns(_by_rows(_inside(edges, width, height)), width)
    if not len(pieces.items):
        none = np.zeros(0, np.int64)
        return Cells(none, none.astype(np.float64), none)
    return _summed(pieces, width)


def _inside(edges: Edges, width: int, height: int) -> Edges:
    """Edges cut at the top and the bottom; what lies beside the canvas becomes a wall along its side."""
    x0, y0, x1, y1, _ = edges
    kept = (y0 != y1) & (np.maximum(y0, y1) > 0) & (np.minimum(y0, y1) < height)
    if not kept.all():
        edges = edges.where(kept)
        x0, y0, x1, y1, _ = edges
    high = (np.minimum(y0, y1) < 0) | (np.maximum(y0, y1) > height)
    if high.any():
        x0, y0, x1, y1 = (column.copy() for column in edges[:4])
        edges = Edges(x0, y0, x1, y1, edges.items)
        ax, ay, bx, by = x0[high], y0[high], x1[high], y1[high]
        slope = (bx - ax) / (by - ay)
        for end_x, end_y, out_x, out_y in ((ax, ay, x0, y0), (bx, by, x1, y1)):
            cut = np.clip(end_y, 0, height)
            # From the nearer end, so that what is far away does not cost precision.
            near = np.abs(cut - ay) < np.abs(cut - by)
            along = np.where(near, ax + (cut - ay) * slope, bx + (cut - by) * slope)
            out_x[high] = np.where(cut == end_y, end_x, along)
            out_y[high] = cut
    west = np.minimum(x0, x1) < 0
    east = np.maximum(x0, x1) > width
    if west.any() or east.any():
        edges = _walled(edges, west | east, width)
    return edges


def _walled(edges: Edges, outside: NDArray[np.bool_], width: int) -> Edges:
    """Edges cut at the sides: up to three pieces of each, those outside moved to the side."""
    x0, y0, x1, y1, items = edges.where(outside)
    run = x1 - x0
    with np.errstate(divide="ignore", invalid="ignore"):
        at = [np.where(run == 0, 0.0, np.clip((side - x0) / run, 0, 1)) for side in (0.0, float(width))]
    first, last = np.minimum(*at), np.maximum(*at)
    stops = np.stack([np.zeros_like(run), first, last, np.ones_like(run)])
    x = np.clip(x0 + stops * run, 0, width)
    y = y0 + stops * (y1 - y0)
    y[-1] = y1
    cut = Edges(x[:-1].T.ravel(), y[:-1].T.ravel(), x[1:].T.ravel(), y[1:].T.ravel(), np.repeat(items, 3))
    cut = cut.where(cut.y0 != cut.y1)
    whole = edges.where(~outside)
    x0, y0, x1, y1 = (np.concatenate([whole[number], cut[number]]) for number in range(4))
    return Edges(x0, y0, x1, y1, np.concatenate([whole.items, cut.items]))


class _Pieces(NamedTuple):
    """Pieces of edges within a row, later within a pixel: its ends along x, its fall."""

    x0: Floats
    x1: Floats
    fall: Floats
    rows: Index
    items: Index


def _by_rows(edges: Edges) -> _Pieces:
    x0, y0, x1, y1, items = edges
    top, bottom = np.minimum(y0, y1), np.maximum(y0, y1)
    first = top.astype(np.int64)
    count = np.ceil(bottom).astype(np.int64)
    count -= first
    if not len(count) or count.max() == 1:
        return _Pieces(x0, x1, y1 - y0, first, items)
    long = np.flatnonzero(count > 1)
    short = np.flatnonzero(count == 1)
    repeated = np.repeat(long, count[long])
    rows = np.arange(len(repeated)) - np.repeat(np.cumsum(count[long]) - count[long], count[long])
    rows += first[repeated]
    ax, ay, bx, by = x0[repeated], y0[repeated], x1[repeated], y1[repeated]
    slope = (bx - ax) / (by - ay)
    down = by > ay
    starts = np.where(down, np.maximum(ay, rows), np.minimum(ay, rows + 1))
    ends = np.where(down, np.minimum(by, rows + 1), np.maximum(by, rows))
    low, high = np.minimum(ax, bx), np.maximum(ax, bx)
    from_x = np.clip(ax + (starts - ay) * slope, low, high)
    to_x = np.clip(ax + (ends - ay) * slope, low, high)
    return _Pieces(
        np.concatenate([x0[short], from_x]),
        np.concatenate([x1[short], to_x]),
        np.concatenate([(y1 - y0)[short], ends - starts]),
        np.concatenate([first[short], rows]),
        np.concatenate([items[short], items[repeated]]),
    )


def _by_columns(pieces: _Pieces, width: int) -> _Pieces:
    """Pieces within one pixel each; ``x0`` becomes the pixel's column and ``x1`` the middle of the piece,
    as a share of the pixel's width."""
    x0, x1, fall, rows, items = pieces
    low, high = np.minimum(x0, x1), np.maximum(x0, x1)
    first = np.floor(low)
    count = np.ceil(high) - first
    long = count > 1
    if not long.any():
        return _Pieces(first, (x0 + x1) / 2 - first, fall, rows, items)
    wide = np.flatnonzero(long)
    short = np.flatnonzero(~long)
    times = count[wide].astype(np.int64)
    repeated = np.repeat(wide, times)
    column = np.arange(len(repeated)) - np.repeat(np.cumsum(times) - times, times) + first[repeated]
    left, right = low[repeated], high[repeated]
    start, end = np.maximum(left, column), np.minimum(right, column + 1)
    share = (end - start) / (right - left)
    return _Pieces(
        np.concatenate([first[short], column]),
        np.concatenate([(low + high)[short] / 2 - first[short], (start + end) / 2 - column]),
        np.concatenate([fall[short], fall[repeated] * share]),
        np.concatenate([rows[short], rows[repeated]]),
        np.concatenate([items[short], items[repeated]]),
    )


def _summed(pieces: _Pieces, width: int) -> Cells:
    columns, middle, fall, rows, items = pieces
    columns = columns.astype(np.int64)
    # Rows of items that have any: a table of their leftmost and rightmost cells.
    top = np.full(int(items.max()) + 1, np.iinfo(np.int64).max)
    bottom = np.zeros(len(top), np.int64)
    np.minimum.at(top, items, rows)
    np.maximum.at(bottom, items, rows)
    heights = np.maximum(bottom - top + 1, 0)
    ends = np.cumsum(heights)
    base = ends - heights - np.where(heights > 0, top, 0)
    lines = base[items] + rows
    total = int(ends[-1])
    left = np.full(total, np.iinfo(np.int32).max, np.int64)
    right = np.full(total, -1, np.int64)
    np.minimum.at(left, lines, columns)
    np.maximum.at(right, lines, columns)
    # One more, to which what lies right of the last edge goes: it sums up to nothing.
    sizes = np.where(right >= 0, right - left + 2, 0)
    starts = np.cumsum(sizes) - sizes
    shift = starts - left
    at = shift[lines] + columns
    part = fall * middle
    count = int(sizes.sum())
    winding = np.bincount(at, fall - part, count)
    winding += np.bincount(at + 1, part, count)
    np.cumsum(winding, out=winding)
    coverage = np.minimum(np.abs(winding, out=winding), 1.0, out=winding)
    owner = np.repeat(np.arange(len(heights)), heights)
    row = np.arange(total) - base[owner]
    seen = np.flatnonzero(coverage > _NOTHING)
    line = np.repeat(np.arange(total), sizes)[seen]
    column = seen - shift[line]
    inside = column < width
    if not inside.all():
        seen, line, column = seen[inside], line[inside], column[inside]
    return Cells(row[line] * width + column, coverage[seen], owner[line])
