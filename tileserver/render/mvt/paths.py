"""Runs of coordinates in whole tile units: the points of a row, a line, or a ring of a polygon.

A vertex that says nothing is left out: one that repeats the one before, or lies on the straight way
between its neighbours.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

from tileserver.render.mvt import ragged
from tileserver.render.mvt.parts import LINE, POINT, Convert, Found, Geometries, Parts, Rows
from tileserver.render.mvt.ragged import Sizes

Units = NDArray[np.int64]


class Paths(NamedTuple):
    """Coordinates of all paths, how many each has, and the row of the frame that it belongs to."""

    x: Units
    y: Units
    sizes: Sizes
    rows: Rows

    def in_row_order(self) -> Paths:
        """Paths of a row beside each other, in the order they have."""
        if (self.rows[1:] >= self.rows[:-1]).all():
            return self
        return self.taken(np.argsort(self.rows, kind="stable"))

    def taken(self, which: NDArray[np.int64]) -> Paths:
        """These paths, in this order."""
        index = ragged.gathered(self.sizes, which)
        return Paths(self.x[index], self.y[index], self.sizes[which], self.rows[which])

    def thinned(self, kept: NDArray[np.bool_]) -> Paths:
        """These vertices, and the paths that still have any."""
        if kept.all():
            return self
        sizes = ragged.summed(kept, self.sizes)
        filled = sizes > 0
        return Paths(self.x[kept], self.y[kept], sizes[filled], self.rows[filled])


_NONE = np.zeros(0, np.int64)
NO_PATHS = Paths(_NONE, _NONE, _NONE, _NONE)


def points(found: Found) -> Paths:
    """All points of a row as one path, none left out."""
    whole, cut = found.whole.of_type(POINT), found.cut.of_type(POINT)
    if not len(whole.rows) + len(cut.rows):
        return NO_PATHS
    # The box of a point is the point.
    xy = np.concatenate([whole.boxes[:, :2], cut.boxes[:, :2]])
    rows = np.concatenate([whole.rows, cut.rows])
    x, y = rounded(xy)
    single = Paths(x, y, np.ones(len(rows), np.int64), rows)
    if (rows[1:] > rows[:-1]).all():
        return single
    ordered = single.in_row_order()
    rows, sizes = np.unique(ordered.rows, return_counts=True)
    return Paths(ordered.x, ordered.y, sizes, rows)


def lines(found: Found) -> Paths:
    """Lines that have a length on the grid."""
    whole, cut = _long(found.whole.of_type(LINE)), _long(found.cut.of_type(LINE))
    if not len(whole.rows) + len(cut.rows):
        return NO_PATHS
    geometries, rows, xy = placed(whole, cut, found.convert)
    sizes = shapely.get_num_coordinates(geometries).astype(np.int64)
    x, y = rounded(xy)
    return _straightened(Paths(x, y, sizes, rows)).in_row_order()


def placed(whole: Parts, cut: Parts, convert: Convert) -> tuple[Geometries, Rows, NDArray[np.float64]]:
    """Geometries that are to be converted, then those that are not; their rows; all coordinates in tile
    units. Those with a coordinate that is no place are left out."""
    geometries = np.concatenate([whole.geometries, cut.geometries])
    rows = np.concatenate([whole.rows, cut.rows])
    xy = convert(shapely.get_coordinates(whole.geometries))
    if len(cut.rows):
        xy = np.concatenate([xy, shapely.get_coordinates(cut.geometries)])
    if np.isfinite(xy).all():
        return geometries, rows, xy
    owner = shapely.get_coordinates(geometries, return_index=True)[1]
    lost = np.zeros(len(rows), np.bool_)
    lost[owner[~np.isfinite(xy).all(axis=1)]] = True
    return geometries[~lost], rows[~lost], xy[~lost[owner]]


def _long(parts: Parts) -> Parts:
    """Parts, in tile units by their boxes, that are not one point on the grid."""
    boxes = np.rint(parts.boxes)
    return parts.where((boxes[:, 2] > boxes[:, 0]) | (boxes[:, 3] > boxes[:, 1]))


def rounded(xy: NDArray[np.float64]) -> tuple[Units, Units]:
    """X and y on the grid. Wide integers: products of differences don't fit into 32 bits."""
    return np.rint(xy[:, 0]).astype(np.int64), np.rint(xy[:, 1]).astype(np.int64)


def _straightened(paths: Paths) -> Paths:
    """Without repeated and collinear vertices; a line of one place is gone, but one may come back."""
    x, y, sizes, rows = paths
    first = ragged.starts(sizes)
    kept = np.ones(len(x), np.bool_)
    kept[1:] = (x[1:] != x[:-1]) | (y[1:] != y[:-1])
    kept[first] = True
    x, y, sizes, rows = paths.thinned(kept)
    long = sizes > 1
    if not long.all():
        x, y, sizes, rows = Paths(x, y, sizes, rows).taken(np.flatnonzero(long))
    east, south = np.diff(x), np.diff(y)
    turn = east[:-1] * south[1:] != south[:-1] * east[1:]
    turn |= east[:-1] * east[1:] + south[:-1] * south[1:] < 0
    kept = np.ones(len(x), np.bool_)
    kept[1:-1] = turn
    first = ragged.starts(sizes)
    kept[first] = True
    kept[first + sizes - 1] = True
    return Paths(x, y, sizes, rows).thinned(kept)
