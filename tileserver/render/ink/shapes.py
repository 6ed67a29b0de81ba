"""Geometry in pixels as flat arrays, and the vertices of it that nobody would miss.

Rows say whose each is; they ascend.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tileserver.render.mvt import ragged

Floats = NDArray[np.float64]
Index = NDArray[np.int64]

# Vertices are left out that are no further, in pixels, from the straight way between their neighbours.
_TOLERANCE: Final = 0.05
_LEVELS: Final = 4
_DIRECTIONS: Final = 8


class Points(NamedTuple):
    """Places, and the row of each."""

    x: Floats
    y: Floats
    rows: Index


class Paths(NamedTuple):
    """Runs of vertices: how many each has, and its row; which are rings, that end where they began, and which
    of them holes of the polygon before."""

    x: Floats
    y: Floats
    sizes: Index
    rows: Index
    ring: NDArray[np.bool_]
    hole: NDArray[np.bool_]

    def taken(self, which: Index) -> Paths:
        """These paths, in this order."""
        if len(which) == len(self.sizes) and (np.diff(which) == 1).all():
            return self
        index = ragged.gathered(self.sizes, which)
        x, y, sizes, rows, ring, hole = self
        return Paths(x[index], y[index], sizes[which], rows[which], ring[which], hole[which])

    def boxes(self, which: Index) -> Floats:
        """West, north, east and south (4, n) of these paths."""
        if not len(self.sizes):
            return np.zeros((4, 0))
        at = ragged.starts(self.sizes)
        found = [np.minimum.reduceat(self.x, at), np.minimum.reduceat(self.y, at)]
        found += [np.maximum.reduceat(self.x, at), np.maximum.reduceat(self.y, at)]
        return np.stack(found)[:, which]

    @property
    def areas(self) -> Floats:
        """Area within each ring; positive where y turns from x, which is clockwise on a screen."""
        starts = ragged.starts(self.sizes)
        x, y = self.x - np.repeat(self.x[starts], self.sizes), self.y - np.repeat(self.y[starts], self.sizes)
        twice = np.zeros(len(x))
        twice[:-1] = x[:-1] * y[1:] - x[1:] * y[:-1]  # between paths the second, being a first one, is zero
        return np.add.reduceat(twice, starts) / 2

    def filled(self, widths: Floats) -> Index:
        """For each path that is a ring so narrow that a line of this width fills it, the side of it that is
        outside (1: left of its way, where x is left of y), else 0."""
        areas = self.areas
        west, north, east, south = self.boxes(np.arange(len(self.sizes)))
        # A shape lies in a strip of its breadth and in a circle of its length.
        thin = self.ring & (np.abs(areas) <= widths * np.hypot(east - west, south - north))
        found = np.zeros(len(thin), np.int64)
        which = np.flatnonzero(thin)
        if len(which):
            some = self.taken(which)
            breadth = np.full(len(which), np.inf)
            at = ragged.starts(some.sizes)
            for angle in np.arange(_DIRECTIONS) * np.pi / _DIRECTIONS:
                along = some.x * np.cos(angle) + some.y * np.sin(angle)
                breadth = np.minimum(breadth, np.maximum.reduceat(along, at) - np.minimum.reduceat(along, at))
            which = which[breadth <= widths[which]]
            found[which] = np.where(areas[which] > 0, -1, 1)
        return found

    def thinned(self) -> Paths:
        """Without vertices that are hardly off the way.

        In the first round every other vertex may go, in the next every other of those left, and so on, by
        their numbers in the path: so a path that reaches into two tiles is the same in both.
        """
        x, y, sizes = self.x, self.y, self.sizes
        if not len(sizes) or len(x) < 8 * len(sizes):
            return self
        number = np.arange(len(x)) - np.repeat(ragged.starts(sizes), sizes)
        last = np.zeros(len(x), np.bool_)
        last[np.cumsum(sizes) - 1] = True
        for level in range(_LEVELS):
            middle = np.flatnonzero((number & (2 << level) - 1 == 1 << level) & ~last)
            ax, ay = x[middle] - x[middle - 1], y[middle] - y[middle - 1]
            bx, by = x[middle + 1] - x[middle], y[middle + 1] - y[middle]
            off = np.abs(ax * by - ay * bx)
            # No sharp turn, however small: it is the end of something thin.
            ahead = ax * bx + ay * by
            gone = (off * off <= _TOLERANCE**2 * ((ax + bx) ** 2 + (ay + by) ** 2)) & (ahead > off)
            kept = np.ones(len(x), np.bool_)
            kept[middle[gone]] = False
            x, y, number, last = x[kept], y[kept], number[kept], last[kept]
        return self._replace(x=x, y=y, sizes=np.diff(np.flatnonzero(last), prepend=-1))


class Shapes(NamedTuple):
    """All that may be painted: points, lines, and the rings of polygons."""

    points: Points
    lines: Paths
    rings: Paths

    def lowered(self, top: float) -> Shapes:
        """Seen from a place this many pixels further down."""
        if not top:
            return self
        points, lines, rings = self
        return Shapes(
            points._replace(y=points.y - top),
            lines._replace(y=lines.y - top),
            rings._replace(y=rings.y - top),
        )


def joined(several: Sequence[Paths]) -> Paths:
    """All paths, in the order of their rows."""
    filled = [one for one in several if len(one.sizes)]
    if len(filled) < 2:
        return filled[0] if filled else NO_PATHS
    both = Paths(*(np.concatenate(column) for column in zip(*filled, strict=True)))
    return both.taken(np.argsort(both.rows, kind="stable"))


_NO_ROWS: Final = np.zeros(0, np.int64)
_NO_PLACES: Final = np.zeros(0)
NO_POINTS: Final = Points(_NO_PLACES, _NO_PLACES, _NO_ROWS)
NO_PATHS: Final = Paths(_NO_PLACES, _NO_PLACES, _NO_ROWS, _NO_ROWS, _NO_ROWS > 0, _NO_ROWS > 0)
