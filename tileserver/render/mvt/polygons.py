"""Polygons on the grid: rings that are valid there, wound as the specification wants (4.3.3.3, 4.3.3.4).

Rounding makes valid polygons invalid. Those are found, and only those are snapped to the grid with their
topology, from their unrounded form.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import numpy as np
import shapely
from numpy.typing import NDArray

from tileserver.render.mvt import ragged
from tileserver.render.mvt.parts import POLYGON, Found, Geometries, Parts, Rows, made_valid, polygons_in
from tileserver.render.mvt.paths import NO_PATHS, Paths, Units, placed, rounded
from tileserver.render.mvt.ragged import Sizes

Index = NDArray[np.int64]


class _Rings(NamedTuple):
    """Coordinates of rings without the closing one; rings of a polygon follow each other, exterior first."""

    x: Units
    y: Units
    sizes: Sizes
    polygons: Index  # which each ring belongs to
    exterior: NDArray[np.bool_]

    def vertices(self, kept: NDArray[np.bool_]) -> _Rings:
        """These vertices, and the rings that still have any."""
        if kept.all():
            return self
        sizes = ragged.summed(kept, self.sizes)
        filled = sizes > 0
        return _Rings(self.x[kept], self.y[kept], sizes[filled], self.polygons[filled], self.exterior[filled])

    def rings(self, kept: NDArray[np.bool_]) -> _Rings:
        """These rings."""
        if kept.all():
            return self
        inside = np.repeat(kept, self.sizes)
        return _Rings(
            self.x[inside], self.y[inside], self.sizes[kept], self.polygons[kept], self.exterior[kept]
        )

    def before(self, values: NDArray[Any]) -> NDArray[Any]:
        """For each vertex the value of the one before it in the ring."""
        first = ragged.starts(self.sizes)
        shifted = np.empty_like(values)
        shifted[1:] = values[:-1]
        shifted[first] = values[first + self.sizes - 1]
        return shifted

    def after(self, values: NDArray[Any]) -> NDArray[Any]:
        """For each vertex the value of the one after it in the ring."""
        first = ragged.starts(self.sizes)
        shifted = np.empty_like(values)
        shifted[:-1] = values[1:]
        shifted[first + self.sizes - 1] = values[first]
        return shifted


def polygons(found: Found) -> Paths:
    """Rings of valid polygons in row order; each exterior ring is followed by its holes."""
    whole, cut = _wide(found.whole.of_type(POLYGON)), _wide(found.cut.of_type(POLYGON))
    if not len(whole.rows) + len(cut.rows):
        return NO_PATHS
    geometries, rows, xy = placed(whole, cut, found.convert)
    closed, owners = _closed(geometries)
    rings = _thinned(_on_grid(xy, closed, owners))
    bad = _invalid_rows(rings, rows)
    if len(bad):
        broken = np.isin(rows, bad)
        repaired, origin = _repaired(_exact(xy, closed, owners, broken), rows[broken])
        repaired = repaired._replace(polygons=repaired.polygons + len(rows))
        rings = _joined(rings.rings(~broken[rings.polygons]), repaired)
        rows = np.concatenate([rows, origin])
    return _wound(rings, rows).in_row_order()


def _wide(parts: Parts) -> Parts:
    """Polygons, in tile units by their boxes, that may have an area on the grid."""
    boxes = np.rint(parts.boxes)
    return parts.where((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))


def _closed(geometries: Geometries) -> tuple[Sizes, Index]:
    """How many coordinates each ring has, the closing one too, and which polygon it belongs to."""
    if not shapely.get_num_interior_rings(geometries).any():
        return shapely.get_num_coordinates(geometries).astype(np.int64), np.arange(len(geometries))
    rings, owners = shapely.get_rings(geometries, return_index=True)
    return shapely.get_num_coordinates(rings).astype(np.int64), owners.astype(np.int64)


def _on_grid(xy: NDArray[np.float64], closed: Sizes, owners: Index) -> _Rings:
    """Rounded; the closing coordinate goes as the first that repeats it."""
    x, y = rounded(xy)
    exterior = np.ones(len(owners), np.bool_)
    exterior[1:] = owners[1:] != owners[:-1]
    return _distinct(_Rings(x, y, closed, owners, exterior))


def _distinct(rings: _Rings) -> _Rings:
    """Without vertices that repeat the one before; of a ring in one place nothing is left."""
    return rings.vertices((rings.x != rings.before(rings.x)) | (rings.y != rings.before(rings.y)))


def _thinned(rings: _Rings) -> _Rings:
    """Rings with an area, without vertices on a straight way, be it back where it came from.

    What lies behind such a spike may be another, so there is a next look until there is none. A hole ends
    with the ring around it. An area of zero is no reason to end: that of a bow tie is.
    """
    while len(rings.sizes):
        east, south = rings.x - rings.before(rings.x), rings.y - rings.before(rings.y)
        next_east, next_south = rings.after(east), rings.after(south)
        straight = east * next_south == south * next_east
        spikes = straight & (east * next_east + south * next_south < 0)
        rings = rings.vertices(~straight)
        if not spikes.any():
            break
        rings = _distinct(rings)
    if not len(rings.sizes):
        return rings
    surrounded = np.zeros(rings.polygons[-1] + 1, np.bool_)
    surrounded[rings.polygons[rings.exterior]] = True
    return rings.rings(surrounded[rings.polygons])


def _invalid_rows(rings: _Rings, rows: Rows) -> Rows:
    """Rows whose polygons are not valid together (4.3.4.4); convex ones need no look."""
    alone = np.bincount(rows[rings.polygons], minlength=1)[rows[rings.polygons]] == 1
    doubtful = ~alone
    doubtful[alone] = ~_convex(rings.rings(alone))
    if not doubtful.any():
        return np.zeros(0, np.int64)
    left = rings.rings(doubtful)
    xy = np.column_stack([left.x, left.y]).astype(np.float64)
    built, owners = _grouped(_built(xy, left.sizes, left.polygons), rows[np.unique(left.polygons)])
    return owners[~shapely.is_valid(built)]


def _built(xy: NDArray[np.float64], sizes: Sizes, polygons: Index) -> Geometries:
    """Polygons of rings, exterior first, that belong to these in ascending order."""
    owners = np.repeat(np.arange(len(sizes)), sizes)
    rings = cast("Geometries", shapely.linearrings(xy, indices=owners))
    return cast("Geometries", shapely.polygons(rings, indices=np.unique(polygons, return_inverse=True)[1]))


def _convex(rings: _Rings) -> NDArray[np.bool_]:
    """Which rings turn to one side only, and once around: they don't cross themselves."""
    east, south = rings.x - rings.before(rings.x), rings.y - rings.before(rings.y)
    left = ragged.summed(east * rings.after(south) > south * rings.after(east), rings.sizes)
    down = (south > 0) | ((south == 0) & (east > 0))
    turns = ragged.summed(down != rings.before(down), rings.sizes)
    convex: NDArray[np.bool_] = ((left == rings.sizes) | (left == 0)) & (turns == 2)
    return convex


def _grouped(geometries: Geometries, rows: Rows) -> tuple[Geometries, Rows]:
    """One polygon or multipolygon for each row, in row order."""
    order = np.argsort(rows, kind="stable")
    distinct, index, counts = np.unique(rows[order], return_inverse=True, return_counts=True)
    if (counts == 1).all():
        return geometries[order], distinct
    return cast("Geometries", shapely.multipolygons(geometries[order], indices=index)), distinct


def _exact(xy: NDArray[np.float64], closed: Sizes, owners: Index, wanted: NDArray[np.bool_]) -> Geometries:
    """These polygons as they were before rounding."""
    kept = wanted[owners]
    return _built(xy[np.repeat(kept, closed)], closed[kept], owners[kept])


def _repaired(exact: Geometries, rows: Rows) -> tuple[_Rings, Rows]:
    """Rings snapped to the grid so that they stay valid, and the row of each polygon."""
    together, grouped = _grouped(exact, rows)
    invalid = ~shapely.is_valid(together)
    together[invalid] = made_valid(together[invalid])
    snapped, index = polygons_in(shapely.set_precision(together, 1.0))
    closed, owners = _closed(snapped)
    return _thinned(_on_grid(shapely.get_coordinates(snapped), closed, owners)), grouped[index]


def _joined(one: _Rings, other: _Rings) -> _Rings:
    return _Rings(*(np.concatenate(column) for column in zip(one, other, strict=True)))


def _wound(rings: _Rings, rows: Rows) -> Paths:
    """Exterior rings with positive area where y runs down, which is clockwise on the screen, holes with
    negative (4.3.3.3)."""
    x, y = rings.x, rings.y
    area = ragged.summed(x * rings.after(y) - rings.after(x) * y, rings.sizes)
    turned = (area > 0) != rings.exterior
    if turned.any():
        first = ragged.starts(rings.sizes)
        index = np.arange(len(x))
        mirrored = np.repeat(np.where(turned, 2 * first + rings.sizes - 1, 0), rings.sizes)
        index = np.where(np.repeat(turned, rings.sizes), mirrored - index, index)
        x, y = x[index], y[index]
    return Paths(x, y, rings.sizes, rows[rings.polygons])
