"""Circles: discs and the rings around them, each feature's before the next one's.

Where all are of one colour and have no ring, their order makes no difference. All others are painted from the
front to the back, and those that what lies before them hides are not painted at all. The largest are outlines.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from tileserver.render.ink import cells, discs
from tileserver.render.ink.blending import Canvas, Floats, Front, Index, Singles
from tileserver.render.ink.cells import Edges
from tileserver.render.ink.chosen import Chosen, chosen, colours, sizes
from tileserver.render.ink.shapes import Points
from tileserver.render.paint import Paint

_SHARED: Final = 8  # radius in pixels up to which discs of one size share pictures that are kept
_STAMPED: Final = 32  # up to which they are stamped: of a larger one most is not seen, or all is the same
_SIDES: Final = 12  # of an outline, for each square root of a pixel of its radius


class _Circles(NamedTuple):
    """Circles in drawing order: middles, radii without and with the ring, and numbers of their features."""

    x: Floats
    y: Floats
    inner: Floats
    outer: Floats
    features: Index

    def where(self, kept: Index) -> _Circles:
        return _Circles(*(column[kept] for column in self))


def circle(canvas: Canvas, points: Points, paint: Paint) -> None:
    """Paint circles."""
    fill, ring = colours(paint.colour), colours(paint.stroke_colour)
    found = _seen(canvas, points, paint)
    if found.outer.max(initial=0) > _STAMPED:
        _outlined(canvas, found, fill, ring)
    elif fill.ndim == 1 and (found.outer == found.inner).all():
        _flat(canvas, found, fill)
    elif len(found.features):
        _stacked(canvas, found, fill, ring)


def _seen(canvas: Canvas, points: Points, paint: Paint) -> _Circles:
    found = chosen(paint, points.rows)
    inner = sizes(paint.radius, found.features)
    outer = inner + sizes(paint.stroke_width, found.features)
    x, y = points.x[found.parts], points.y[found.parts]
    seen = (outer > 0) & (x > -outer) & (x < canvas.width + outer)
    seen &= (y > -outer) & (y < canvas.height + outer)
    return _Circles(x, y, inner, outer, found.features).where(np.flatnonzero(seen))


def _batches(costs: Index) -> list[Index]:
    place = np.arange(len(costs))
    return [batch.parts for batch in Chosen(place, place).batches(costs)]


class _Block(NamedTuple):
    """Discs of like reach: their pixels (n, k), the pictures (m, k) of discs and of what is around them, too,
    which picture each has, and its number among all."""

    pixels: Index
    inner: Singles
    outer: Singles
    pictures: Index
    numbers: Index


def _blocks(found: _Circles, which: Index, reach: Index, pitch: int, border: int) -> list[_Block]:
    """The circles ``which``, by their reach, on a canvas with a border wide enough for any that is seen."""
    return [
        _block(found, which[reach[which] == one], int(one), pitch, border) for one in np.unique(reach[which])
    ]


def _block(found: _Circles, which: Index, reach: int, pitch: int, border: int) -> _Block:
    some = found.where(which)
    stamps = discs.stamps(some.x, some.y)
    alike = (some.inner == some.inner[0]).all() and (some.outer == some.outer[0]).all()
    if alike and reach <= _SHARED:
        numbers = stamps.phases
        inner, outer = (discs.pictures(float(radii[0]), reach) for radii in (some.inner, some.outer))
    else:
        numbers = np.arange(len(which))
        outer = discs.covered(stamps.phases, some.outer, reach)
        same = (some.inner == some.outer).all()
        inner = outer if same else discs.covered(stamps.phases, some.inner, reach)
    used = np.flatnonzero(outer.max(axis=0) > 0)
    down, across = np.divmod(used, 2 * reach + 1)
    corners = (stamps.rows + (border - reach)) * pitch + stamps.columns + (border - reach)
    pixels = corners[:, None] + (down * pitch + across)
    return _Block(pixels, inner[:, used], outer[:, used], numbers, which)


def _flat(canvas: Canvas, found: _Circles, fill: Floats) -> None:
    reach = np.ceil(found.outer).astype(np.int64)
    border = 2 * int(reach.max(initial=1))
    blocks = (
        block
        for which in _batches((2 * reach + 1) ** 2)
        for block in _blocks(found, which, reach, canvas.width + 2 * border, border)
    )
    canvas.flat(((block.pixels.ravel(), block.inner, block.pictures) for block in blocks), fill, border)


def _stacked(canvas: Canvas, found: _Circles, fill: Floats, ring: Floats) -> None:
    reach = np.ceil(found.outer).astype(np.int64)
    widest = int(reach.max())
    border = 2 * widest
    front = Front(canvas, border)
    fill, ring = fill.astype(np.float32), ring.astype(np.float32)
    stamps = discs.stamps(found.x, found.y)
    centres = (stamps.rows + border) * front.pitch + stamps.columns + border
    for number, which in enumerate(reversed(_batches((2 * reach + 1) ** 2))):
        if number:
            which = which[~front.hidden(widest)[centres[which]]]
        blocks = _blocks(found, which, reach, front.pitch, border)
        if not blocks:
            continue
        pixels = [block.pixels.ravel() for block in blocks]
        inks = [_inks(block, found.features[block.numbers], fill, ring) for block in blocks]
        if len(blocks) == 1:
            front.behind(pixels[0], inks[0])
            continue
        # In drawing order again; a disc has no pixel twice, so its own may come in any order.
        owner = np.concatenate([np.repeat(block.numbers, block.pixels.shape[1]) for block in blocks])
        order = np.argsort(owner)
        front.behind(np.concatenate(pixels)[order], np.concatenate(inks)[order])
    canvas.over(front)


def _inks(block: _Block, features: Index, fill: Singles, ring: Singles) -> Singles:
    """Premultiplied colours of all cells (n * k, 4)."""
    if fill.ndim == ring.ndim == 1:
        both = block.inner[..., None] * fill + (block.outer - block.inner)[..., None] * ring
        return both[block.pictures].reshape(-1, 4)
    inner = block.inner[block.pictures][..., None]
    inks = inner * _each(fill, features)
    if block.outer is not block.inner and ring[..., 3].any():
        around = (block.outer - block.inner)[block.pictures][..., None]
        inks += around * _each(ring, features)
    found: Singles = inks.reshape(-1, 4)
    return found


def _each(inks: Singles, features: Index) -> Singles:
    return inks if inks.ndim == 1 else inks[features][:, None]


def _outlined(canvas: Canvas, found: _Circles, fill: Floats, ring: Floats) -> None:
    """Each feature is two items: its disc, and what is between that and the outer edge."""
    inks = np.stack(
        [np.broadcast_to(one, (int(found.features.max()) + 1, 4)) for one in (fill, ring)], axis=1
    )
    sides = np.ceil(_SIDES * np.sqrt(found.outer)).astype(np.int64)
    area = np.minimum(np.pi * found.outer**2, canvas.width * canvas.height)
    for which in _batches(3 * sides + area.astype(np.int64)):
        some, count = found.where(which), sides[which]
        item = 2 * np.arange(len(which))
        edges = [
            _round(some.x, some.y, some.inner, count, item),
            _round(some.x, some.y, some.outer, count, item + 1),
            _round(some.x, some.y, some.inner, -count, item + 1),
        ]
        outlines = Edges(*(np.concatenate(column) for column in zip(*edges, strict=True)))
        covered = cells.covered(outlines, canvas.width, canvas.height)
        colour = inks[some.features].reshape(-1, 4)[covered.items] * covered.coverage[:, None]
        canvas.each(covered.pixels, colour.astype(np.float32))


def _round(x: Floats, y: Floats, radii: Floats, sides: Index, items: Index) -> Edges:
    """Outlines of circles with as many sides; the other way round where that is negative. Their areas are
    those of the circles."""
    count = np.abs(sides)
    owner = np.repeat(np.arange(len(count)), count)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    turn = 2 * np.pi / sides
    radii = radii * np.sqrt(np.abs(turn / np.sin(turn)))
    ends = []
    for step in (number, (number + 1) % count[owner]):
        angle = step * turn[owner]
        ends += [x[owner] + radii[owner] * np.cos(angle), y[owner] + radii[owner] * np.sin(angle)]
    return Edges(*ends, items[owner])
