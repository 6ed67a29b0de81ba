"""Circles: discs and the rings around them, each feature's before the next one's.

Where all are of one colour and have no ring, their order makes no difference. All others are painted from
the front to the back, in rounds of circles that don't touch, and those that are hidden by what lies before
them are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np

from tileserver.render.ink import discs
from tileserver.render.ink.blending import Canvas, Cover, Floats, Front, Index, Singles, stacked
from tileserver.render.ink.chosen import Chosen, chosen, colours, sizes
from tileserver.render.ink.shapes import Points
from tileserver.render.paint import Paint

_SHARED: Final = 8  # radius in pixels up to which discs of one size share pictures that are kept
_ROUND: Final = 400  # cells that are sorted in the time that it takes to begin a round


class _Circles(NamedTuple):
    """Circles in drawing order: middles, radii without and with the ring, and numbers of their features."""

    x: Floats
    y: Floats
    inner: Floats
    outer: Floats
    features: Index

    def where(self, kept: Index) -> _Circles:
        x, y, inner, outer, features = self
        return _Circles(x[kept], y[kept], inner[kept], outer[kept], features[kept])


def circle(canvas: Canvas, points: Points, paint: Paint) -> None:
    """Paint circles."""
    fill, ring = colours(paint.colour), colours(paint.stroke_colour)
    found = _seen(canvas, points, paint)
    if not len(found.x):
        return
    if fill.ndim > 1 or (found.outer > found.inner).any():
        _stacked(canvas, found, fill.astype(np.float32), ring.astype(np.float32))
    elif found.outer.max() > _SHARED or (found.outer != found.outer[0]).any():
        canvas.flat(_spans(canvas, found), fill)
    else:
        _stamped(canvas, found, fill)


def _seen(canvas: Canvas, points: Points, paint: Paint) -> _Circles:
    found = chosen(paint, points.rows)
    inner = sizes(paint.radius, found.features)
    outer = inner + sizes(paint.stroke_width, found.features)
    x, y = points.x[found.parts], points.y[found.parts]
    seen = (outer > 0) & (x > -outer) & (x < canvas.width + outer)
    seen &= (y > -outer) & (y < canvas.height + outer)
    return _Circles(x, y, inner, outer, found.features).where(np.flatnonzero(seen))


def _batches(canvas: Canvas, found: _Circles) -> list[Index]:
    """Numbers of circles whose pixels are a batch."""
    side = 2 * found.outer + 2
    place = np.arange(len(side))
    costs = np.minimum(side, canvas.width) * np.minimum(side, canvas.height)
    return [batch.parts for batch in Chosen(place, place).batches(costs)]


def _spans(canvas: Canvas, found: _Circles) -> Iterator[Cover]:
    for which in _batches(canvas, found):
        some = found.where(which)
        spans = discs.spans(some.x, some.y, some.outer, canvas.width, canvas.height)
        yield spans.pixels, spans.covered(some.outer), None


def _stamped(canvas: Canvas, found: _Circles, fill: Floats) -> None:
    """Discs of one size."""
    reach = int(np.ceil(found.outer[0]))
    border = 2 * reach + 1
    pitch = canvas.width + 2 * border
    pictures = discs.pictures(float(found.outer[0]), reach)
    used = np.flatnonzero(pictures.max(axis=0) > 0)
    down, across = np.divmod(used, 2 * reach + 1)
    offsets = (down - reach) * pitch + across - reach
    stamps = discs.stamps(found.x, found.y)
    middles = (stamps.rows + border) * pitch + stamps.columns + border
    shown = pictures[:, used]
    batches = _batches(canvas, found)
    covers = (((middles[which][:, None] + offsets).ravel(), shown, stamps.phases[which]) for which in batches)
    canvas.flat(covers, fill, border)


def _stacked(canvas: Canvas, found: _Circles, fill: Singles, ring: Singles) -> None:
    front = Front(canvas.width, canvas.height)
    columns = np.clip(found.x, 0, canvas.width - 1).astype(np.int64)
    places = np.clip(found.y, 0, canvas.height - 1).astype(np.int64) * canvas.width + columns
    for number, batch in enumerate(reversed(_batches(canvas, found))):
        which = batch
        if number:
            reach = int(np.ceil(found.outer[batch].max())) + 1
            which = batch[~front.hidden(reach)[places[batch]]]
        if len(which):
            _behind(front, found.where(which[::-1]), fill, ring)
    canvas.over(front)


def _behind(front: Front, some: _Circles, fill: Singles, ring: Singles) -> None:
    """Put circles, from the front to the back, behind what is there."""
    rounds = _rounds(some)
    order = np.argsort(rounds, kind="stable")
    some = some.where(order)
    spans = discs.spans(some.x, some.y, some.outer, front.width, front.height)
    inner = spans.covered(some.inner)
    around = spans.covered(some.outer) - inner if (some.outer > some.inner).any() else None

    def inks(channel: int) -> Singles:
        """Premultiplied red, green, blue or alpha of all cells."""
        found = inner * _each(fill[..., channel], some.features, spans.counts)
        if around is not None:
            found += around * _each(ring[..., channel], some.features, spans.counts)
        return found

    lasts = np.flatnonzero(np.diff(rounds[order], append=-1))
    if len(lasts) * _ROUND > len(spans.pixels):
        colours = np.stack([inks(channel)[::-1] for channel in range(4)], axis=1)
        pixels, colours = stacked(spans.pixels[::-1], colours)
        front.behind(pixels, colours[:, 3], [len(pixels)], lambda channel: colours[:, channel])
        return
    front.behind(spans.pixels, inks(3), np.cumsum(spans.counts)[lasts].tolist(), inks)


def _each(inks: Singles, features: Index, counts: Index) -> Singles:
    """A value for each cell of features, or one for all."""
    return inks if inks.ndim == 0 else np.repeat(inks[features], counts)


def _rounds(some: _Circles) -> Index:
    """For each circle the number of a round, later than those of all before it that it might touch: within a
    round no two reach into the same cell of a grid."""
    side = 2 * some.outer.max() + 2
    left = np.floor((some.x - some.outer - 1) / side).astype(np.int64)
    top = np.floor((some.y - some.outer - 1) / side).astype(np.int64)
    left -= left.min()
    top -= top.min()
    pitch = int(left.max()) + 2
    grid = [0] * (pitch * (int(top.max()) + 2))
    found = []
    for cell in (top * pitch + left).tolist():
        right, below = cell + 1, cell + pitch
        across = below + 1
        number = max(grid[cell], grid[right], grid[below], grid[across])
        found.append(number)
        grid[cell] = grid[right] = grid[below] = grid[across] = number + 1
    return np.array(found)
