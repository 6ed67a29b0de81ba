"""Lines with a width, as closed outlines.

Each segment has an edge on either side. Where two meet, the edges of the inner side end where they cross, or
lead through the vertex where a segment is too short for that; those of the outer side meet in a point, or in
an arc. So an outline winds around no place less than once that its line covers, and seldom more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tileserver.render.ink.cells import Edges, Floats, Index
from tileserver.render.ink.shapes import Paths
from tileserver.render.paint import Cap, Join

# Arcs are polygons, and shallow ones a point, that are no further than this from it, in pixels.
_ROUND: Final = 0.06
# MapLibre's default: the longest miter as a share of the width; longer ones are cut off.
_MITER_LIMIT: Final = 2.0
_SHORTEST: Final = 1e-6  # pixels; a shorter segment has no direction
_DENSEST: Final = 0.5  # pixels; dashes never repeat within less


class Segments(NamedTuple):
    """Segments of lines from (x0, y0) to (x1, y1), with the index of the one that follows and that goes
    before (-1: an end), how far along its line each begins, and its item. Where a line fills its ring,
    ``only`` is the side (1 or -1) that has an outline, else 0."""

    x0: Floats
    y0: Floats
    x1: Floats
    y1: Floats
    after: Index
    before: Index
    begin: Floats
    items: Index
    only: Index

    def where(self, kept: NDArray[np.bool_]) -> Segments:
        """These segments, whose neighbours have the numbers that they had."""
        columns: Any = (column[kept] for column in self)
        return Segments(*columns)

    @property
    def lengths(self) -> Floats:
        return np.hypot(self.x1 - self.x0, self.y1 - self.y0)


def segments(paths: Paths, items: Index, only: Index) -> Segments:
    """Segments of paths with these items, and sides that have an outline."""
    x, y, sizes = paths.x, paths.y, paths.sizes
    ends = np.cumsum(sizes)
    inside = np.ones(max(len(x) - 1, 0), np.bool_)
    inside[ends[:-1] - 1] = False
    inside &= (np.abs(np.diff(x)) > _SHORTEST) | (np.abs(np.diff(y)) > _SHORTEST)
    first = np.flatnonzero(inside)
    owner = np.repeat(np.arange(len(sizes)), sizes)[first]
    number = np.arange(len(first))
    heads = np.diff(owner, prepend=-1) != 0
    tails = np.diff(owner, append=-1) != 0
    after, before = np.where(tails, -1, number + 1), np.where(heads, -1, number - 1)
    round_ = paths.ring[owner[heads]]
    after[np.flatnonzero(tails)[round_]] = np.flatnonzero(heads)[round_]
    before[np.flatnonzero(heads)[round_]] = np.flatnonzero(tails)[round_]
    found = Segments(
        *(x[first], y[first], x[first + 1], y[first + 1], after, before),
        *(np.zeros(len(first)), items[owner], only[owner]),
    )
    along = np.cumsum(found.lengths) - found.lengths
    runs = np.diff(np.append(np.flatnonzero(heads), len(first)))
    return found._replace(begin=along - np.repeat(along[heads], runs))


def visible(found: Segments, reach: Floats, width: int, height: int) -> Segments:
    """What of the segments comes as near to the canvas as ``reach``, by their items; those that go on
    further are cut, so that one from the other end of the world costs no more than another. Filled rings stay
    whole."""
    x0, y0, x1, y1 = found[:4]
    far = np.where(found.only != 0, np.inf, reach[found.items])
    near = (np.maximum(x0, x1) >= -far) & (np.minimum(x0, x1) <= width + far)
    near &= (np.maximum(y0, y1) >= -far) & (np.minimum(y0, y1) <= height + far)
    low, high = np.zeros(len(x0)), np.ones(len(x0))
    wide = np.flatnonzero(near & (np.maximum(np.abs(x1 - x0), np.abs(y1 - y0)) > width + height))
    limit = far[wide]
    for begin, end, side in ((x0, x1, width), (y0, y1, height)):
        start, run = begin[wide], (end - begin)[wide]
        with np.errstate(divide="ignore", invalid="ignore"):
            one, other = (-limit - start) / run, (side + limit - start) / run
        still = run == 0
        low[wide] = np.maximum(low[wide], np.where(still, 0, np.minimum(one, other)))
        high[wide] = np.minimum(high[wide], np.where(still, 1, np.maximum(one, other)))
    near &= low < high
    if near.all() and not len(wide):
        return found
    lengths = found.lengths
    cut = found._replace(
        x0=x0 + low * (x1 - x0),
        y0=y0 + low * (y1 - y0),
        x1=np.where(high < 1, x0 + high * (x1 - x0), x1),
        y1=np.where(high < 1, y0 + high * (y1 - y0), y1),
        begin=found.begin + low * lengths,
        after=np.where(high < 1, -1, found.after),
        before=np.where(low > 0, -1, found.before),
    )
    return _kept(cut, near)


def _kept(found: Segments, kept: NDArray[np.bool_]) -> Segments:
    """These segments; neighbours that are gone, or don't know of each other, are ends."""
    number = np.append(np.where(kept, np.cumsum(kept) - 1, -1), -1)
    after, before = number[found.after][kept], number[found.before][kept]
    rest = found.where(kept)
    own = np.arange(len(after))
    return rest._replace(
        after=np.where((after >= 0) & (before[after] == own), after, -1) if len(own) else after,
        before=np.where((before >= 0) & (after[before] == own), before, -1) if len(own) else before,
    )


def dashed(found: Segments, pattern: Sequence[float], widths: Floats) -> Segments:
    """The segments in pieces: from a line's start, as many of its widths, by item, as the pattern says are
    drawn and left out in turn."""
    steps = np.array([*pattern, *pattern] if len(pattern) % 2 else pattern, np.float64)
    whole = float(steps.sum())
    if whole <= 0 or not len(found.items):
        return found
    unit = np.maximum(widths, _DENSEST / whole)[found.items]
    offsets = np.cumsum(steps) - steps
    drawn, gaps = offsets[::2], steps[::2]
    lengths, period = found.lengths, whole * unit
    begin, end = found.begin, found.begin + lengths
    first = np.floor(begin / period).astype(np.int64)
    count = (np.floor(end / period).astype(np.int64) - first + 1) * len(drawn)
    owner = np.repeat(np.arange(len(count)), count)
    dash = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count) + first[owner] * len(drawn)
    start = (dash // len(drawn) * whole + drawn[dash % len(drawn)]) * unit[owner]
    stop = start + gaps[dash % len(drawn)] * unit[owner]
    low, high = np.maximum(start, begin[owner]), np.minimum(stop, end[owner])
    kept = high > low
    owner, dash, low, high = (part[kept] for part in (owner, dash, low, high))
    share = np.stack([low - begin[owner], high - begin[owner]]) / lengths[owner]
    run_x, run_y = (found.x1 - found.x0)[owner], (found.y1 - found.y0)[owner]
    # A dash goes on over a vertex when the next piece, of the segment that follows, is of the same dash.
    number = np.arange(len(owner))
    goes_on = np.zeros(len(owner), np.bool_)
    goes_on[:-1] = (
        (found.after[owner[:-1]] == owner[1:]) & (owner[1:] != owner[:-1]) & (dash[1:] == dash[:-1])
    )
    comes = np.zeros_like(goes_on)
    comes[1:] = goes_on[:-1]
    return Segments(
        found.x0[owner] + share[0] * run_x,
        found.y0[owner] + share[0] * run_y,
        found.x0[owner] + share[1] * run_x,
        found.y0[owner] + share[1] * run_y,
        np.where(goes_on, number + 1, -1),
        np.where(comes, number - 1, -1),
        low,
        found.items[owner],
        np.zeros(len(owner), np.int64),
    )


def outlines(found: Segments, halves: Floats, *, join: Join, cap: Cap) -> Edges:
    """Closed outlines of lines with these half widths, by item."""
    if not len(found.items):
        return Edges(*found[:4], found.items)
    half, lengths = halves[found.items], found.lengths
    along = np.stack([found.x1 - found.x0, found.y1 - found.y0]) / lengths
    across = np.stack([-along[1], along[0]]) * half
    start, end = np.stack(found[:2]), np.stack(found[2:4])
    one = np.flatnonzero(found.after >= 0)
    two = found.after[one]
    cosine = np.clip((along[:, one] * along[:, two]).sum(axis=0), -1, 1)
    turns = np.arctan2(along[0, one] * along[1, two] - along[1, one] * along[0, two], cosine)
    with np.errstate(divide="ignore", invalid="ignore"):
        slant = np.sqrt((1 - cosine) / (1 + cosine))  # the tangent of half the turn
        meeting = (across[:, one] + across[:, two]) / (1 + cosine)
        stretch = np.sqrt(2 / (1 + cosine))  # of the meeting point, against half the width
    shared = half[one]
    crossing = shared * slant * 2 <= np.minimum(lengths[one], lengths[two])
    pointed = stretch <= _MITER_LIMIT if join == "miter" else shared * (stretch - 1) <= _ROUND
    edges = []
    for side in (1.0, -1.0):
        ends, starts = end + side * across, start + side * across
        inner = side * turns > 0
        merged = np.where(inner, crossing, pointed)
        place = end[:, one] + side * meeting
        ends[:, one] = np.where(merged, place, ends[:, one])
        starts[:, two] = np.where(merged, place, starts[:, two])
        present = found.only * side >= 0
        edges.append(_Lines(starts, ends, found.items).along(side, present))
        loose = np.flatnonzero(~merged & present[one])
        corners = _Lines(ends[:, one[loose]], starts[:, two[loose]], found.items[one[loose]])
        centre, within = end[:, one[loose]], inner[loose]
        edges.append(corners.ending(centre).along(side, within))
        edges.append(corners.beginning(centre).along(side, within))
        if join != "round":
            edges.append(corners.along(side, ~within))
        else:
            around = corners.along(1.0, ~within)
            bent = _arcs(around, centre[:, ~within], turns[loose][~within], shared[loose][~within])
            edges.append(bent.along(side))
    for tips, middles, reach in ((found.after < 0, end, across), (found.before < 0, start, -across)):
        where = np.flatnonzero(tips)
        lid = _Lines((middles + reach)[:, where], (middles - reach)[:, where], found.items[where])
        if cap == "round":
            half_turn = np.full(len(where), -np.pi)
            edges.append(_arcs(lid, middles[:, where], half_turn, half[where]))
        elif cap == "square":
            out = np.stack([reach[1], -reach[0]])[:, where]
            far, back = lid.start + out, lid.end + out
            edges += [lid.ending(far), _Lines(far, back, lid.items), lid.beginning(back)]
        else:
            edges.append(lid)
    from_, to, items = (np.concatenate(column, axis=-1) for column in zip(*edges, strict=True))
    return Edges(from_[0], from_[1], to[0], to[1], items)


class _Lines(NamedTuple):
    """Edges of outlines: where each begins and ends (2, n), and its item."""

    start: Floats
    end: Floats
    items: Index

    def along(self, side: float, kept: NDArray[np.bool_] | None = None) -> _Lines:
        """These edges, as the outline passes them: on one side of a line forwards, on the other back."""
        start, end, items = self
        if kept is not None and not kept.all():
            start, end, items = start[:, kept], end[:, kept], items[kept]
        return _Lines(start, end, items) if side > 0 else _Lines(end, start, items)

    def ending(self, end: Floats) -> _Lines:
        return self._replace(end=end)

    def beginning(self, start: Floats) -> _Lines:
        return self._replace(start=start)


def _arcs(chords: _Lines, centre: Floats, turn: Floats, radius: Floats) -> _Lines:
    """Edges along arcs around centres instead of chords, by these angles."""
    leaves, arrives, items = chords
    step = 2 * np.arccos(np.maximum(1 - _ROUND / np.maximum(radius, _ROUND), 0))
    count = np.maximum(np.ceil(np.abs(turn) / step), 1).astype(np.int64)
    owner = np.repeat(np.arange(len(count)), count)
    last = np.cumsum(count) - 1
    number = np.arange(len(owner)) - np.repeat(last + 1 - count, count)
    angle = np.arctan2(*(leaves - centre)[::-1])[owner] + number * (turn / count)[owner]
    start = centre[:, owner] + radius[owner] * np.stack([np.cos(angle), np.sin(angle)])
    # The very same numbers where it meets other edges: an outline with a gap would run out over its row.
    start[:, last + 1 - count] = leaves
    end = np.empty_like(start)
    end[:, :-1] = start[:, 1:]
    end[:, last] = arrives
    return _Lines(start, end, items[owner])
