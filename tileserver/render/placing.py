"""Where features lie in a picture: what comes near a view, in pixels, in every world that the view shows.

A symbol reaches out of its tile by as much as its width, so features around a tile are found, too, and tiles
meet without a seam. Only what may be seen is projected.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

from tileserver.raster.positions import RADIUS, mercator
from tileserver.render.ink import Paths, Points, Shapes
from tileserver.render.mvt import ragged
from tileserver.tiles import Bounds

Coordinates = NDArray[np.float64]
Geometries = NDArray[np.object_]
Index = NDArray[np.int64]

WORLD: Final = 2 * math.pi * RADIUS

_FAMILIES: Final = np.array(["Point", "LineString", "LineString", "Polygon"], object)  # by type


class View(NamedTuple):
    """What is drawn: bounds in metres (EPSG:3857), size in pixels, and the width of a pixel of the style."""

    bounds: Bounds
    width: int
    height: int
    scale: float

    @property
    def pixel(self) -> float:
        """Its width in metres."""
        return (self.bounds[2] - self.bounds[0]) / self.width


class Placed(NamedTuple):
    """Points, lines and polygons in degrees or metres, by the rows of the frame that they are of. ``worlds``
    says how often each is moved around the earth, ``near`` whether it comes near the view itself."""

    geometries: Geometries
    rows: Index
    worlds: Index
    near: NDArray[np.bool_]
    view: View
    lonlat: bool

    @property
    def families(self) -> NDArray[np.object_]:
        """As filters of styles name them."""
        found: NDArray[np.object_] = _FAMILIES[shapely.get_type_id(self.geometries)]
        return found

    def pixels(self, which: Index) -> tuple[Coordinates, Coordinates, Index]:
        """Places along x and y of the vertices of some, from the upper left corner, and how many each has."""
        geometries = self.geometries[which]
        x, y = shapely.get_coordinates(geometries).T
        if self.lonlat:
            x, y = mercator(x, y)
        sizes = shapely.get_num_coordinates(geometries).astype(np.int64)
        west, _, _, north = self.view.bounds
        worlds = self.worlds[which]
        shift = np.repeat(worlds * WORLD - west, sizes) if worlds.any() else -west
        return (x + shift) / self.view.pixel, (north - y) / self.view.pixel, sizes

    def shapes(self) -> Shapes:
        """What is near as flat arrays, whose rows are positions in these; what has a coordinate that is no
        place is left out."""
        kinds = np.where(self.near, shapely.get_type_id(self.geometries), -1)
        points = np.flatnonzero(kinds == shapely.GeometryType.POINT)
        x, y, _ = self.pixels(points)
        there = np.isfinite(x) & np.isfinite(y)
        return Shapes(
            Points(x[there], y[there], points[there]),
            self._paths(np.flatnonzero(kinds == shapely.GeometryType.LINESTRING), rings=False),
            self._paths(np.flatnonzero(kinds == shapely.GeometryType.POLYGON), rings=True),
        )

    def _paths(self, which: Index, *, rings: bool) -> Paths:
        x, y, sizes = self.pixels(which)
        rows, hole = which, np.zeros(len(which), np.bool_)
        if rings and shapely.get_num_interior_rings(self.geometries[which]).any():
            found, owner = shapely.get_rings(self.geometries[which], return_index=True)
            sizes = shapely.get_num_coordinates(found).astype(np.int64)
            rows, hole = which[owner], np.diff(owner, prepend=-1) == 0
        paths = Paths(x, y, sizes, rows, np.full(len(rows), rings), hole)
        nowhere = ~(np.isfinite(x) & np.isfinite(y))
        if nowhere.any():
            paths = paths.taken(np.flatnonzero(ragged.summed(nowhere, sizes) == 0))
        return paths.thinned()

    def anchors(self, which: Index) -> tuple[Index, Coordinates]:
        """One place for each row and family of geometry, in pixels (n, 2): the points themselves, the middle
        of the longest line, within the largest polygon; and the indices in ``which`` of what they are of."""
        x, y, sizes = self.pixels(which)
        there = np.flatnonzero(ragged.summed(~(np.isfinite(x) & np.isfinite(y)), sizes) == 0)
        which = which[there]
        x, y, _ = self.pixels(which)
        shown = shapely.set_coordinates(shapely.force_2d(self.geometries[which]), np.column_stack([x, y]))
        kinds = shapely.get_type_id(shown)
        lines = kinds == shapely.GeometryType.LINESTRING
        measure = np.where(lines, shapely.length(shown), shapely.area(shown))
        others = np.flatnonzero(kinds != shapely.GeometryType.POINT)
        # The largest of each row comes first; the worlds beside this one have labels of their own.
        facts = np.stack([self.rows[which], kinds, self.worlds[which]])[:, others]
        order = np.lexsort((-measure[others], *facts))
        first = (np.diff(facts[:, order], prepend=-1) != 0).any(axis=0)
        points = np.flatnonzero(kinds == shapely.GeometryType.POINT)
        kept = np.sort(np.concatenate([points, others[order[first]]]))
        places = shapely.point_on_surface(shown[kept])
        middle = lines[kept]
        places[middle] = shapely.line_interpolate_point(shown[kept][middle], 0.5, normalized=True)
        return there[kept], shapely.get_coordinates(places)


def placed(
    geometry: Geometries, boxes: Coordinates, view: View, *, lonlat: bool, reach: float, whole: bool = False
) -> Placed:
    """What of the geometry (degrees, or metres) comes within ``reach`` pixels of the view.

    :param boxes: bounds (n, 4) of the geometry.
    :param whole: with all lines and polygons of rows that come near, as the largest of them may be asked for.
    """
    found = list(_worlds(geometry, boxes, view, lonlat, reach, whole))
    if not found:
        none = np.zeros(0, np.int64)
        return Placed(np.zeros(0, object), none, none, none > 0, view, lonlat)
    geometries, rows, worlds, near = (np.concatenate(column) for column in zip(*found, strict=True))
    if len(found) > 1:
        order = np.argsort(rows, kind="stable")
        geometries, rows, worlds, near = (column[order] for column in (geometries, rows, worlds, near))
    return Placed(geometries, rows, worlds, near, view, lonlat)


def _worlds(
    geometry: Geometries, boxes: Coordinates, view: View, lonlat: bool, reach: float, whole: bool
) -> Iterator[tuple[Geometries, Index, Index, NDArray[np.bool_]]]:
    west, south, east, north = view.bounds
    around = reach * view.pixel
    for world in (-1, 0, 1):
        wide = (west - around - world * WORLD, south - around, east + around - world * WORLD, north + around)
        window = _window(wide, lonlat)
        rows = np.flatnonzero(_meets(boxes, window))
        parts, rows, near = _parts(geometry[rows], rows, window, whole)
        if len(rows):
            yield parts, rows, np.full(len(rows), world), near


def _window(bounds: Bounds, lonlat: bool) -> Bounds:
    """Bounds in metres, in the geometry's own coordinates. What lies beyond the last latitude that has a
    place is drawn in to it."""
    if not lonlat:
        return bounds
    west, east = (math.degrees(x / RADIUS) for x in bounds[::2])
    south, north = (math.degrees(math.atan(math.sinh(y / RADIUS))) for y in bounds[1::2])
    return (west, south, east, north)


def _parts(
    parts: Geometries, rows: Index, window: Bounds, whole: bool
) -> tuple[Geometries, Index, NDArray[np.bool_]]:
    """Points, lines and polygons, collections taken apart; their rows, and which of them meet the window."""
    near = np.ones(len(rows), np.bool_)
    while True:
        kinds = shapely.get_type_id(parts)
        if not (kinds > shapely.GeometryType.POLYGON).any():
            break
        parts, index = shapely.get_parts(parts, return_index=True)
        rows = rows[index]
        near = _meets(shapely.bounds(parts), window)
        kept = ~(shapely.is_missing(parts) | shapely.is_empty(parts)) if whole else near
        parts, rows, near = parts[kept], rows[kept], near[kept]
    rings = kinds == shapely.GeometryType.LINEARRING
    if rings.any():
        coordinates, owner = shapely.get_coordinates(parts[rings], return_index=True)
        parts[rings] = shapely.linestrings(coordinates, indices=owner)
    kept = near | (kinds != shapely.GeometryType.POINT)
    return (parts, rows, near) if kept.all() else (parts[kept], rows[kept], near[kept])


def _meets(boxes: Coordinates, window: Bounds) -> NDArray[np.bool_]:
    """Which boxes touch the window; those of empty and missing geometry don't."""
    west, south, east, north = window
    met: NDArray[np.bool_] = (boxes[:, 0] <= east) & (boxes[:, 2] >= west)
    met &= (boxes[:, 1] <= north) & (boxes[:, 3] >= south)
    return met
