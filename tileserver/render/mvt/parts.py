"""The points, lines and polygons of a frame that meet a tile, cut at the edge of its buffer.

Most of a frame may lie elsewhere, so boxes are compared before anything is projected, in the frame's own
coordinates; only what crosses the edge is built as a geometry in tile units, as only that must be cut.

What reaches beyond the antimeridian goes on at the other side, as it does in pictures: there is a copy of it
one world to the west or east. What lies on it is on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import geopandas as gpd
import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import CRS

from tileserver.render import features
from tileserver.render.mvt.grid import Box, Coordinates, Grid

Geometries = NDArray[np.object_]
Rows = NDArray[np.int64]
Convert = Callable[[Coordinates], Coordinates]

# The pole has no place in Mercator. Cut here, the edge lies 139 units outside the one tile of zoom 0.
_LATITUDES: Final = (-1e6, -86.0, 1e6, 86.0)

POINT, LINE, RING, POLYGON = range(4)  # shapely's numbers of the types that are no collections


class Parts(NamedTuple):
    """Points, lines and polygons, the row of the frame that each belongs to, its box and its type."""

    geometries: Geometries
    rows: Rows
    boxes: Coordinates
    types: NDArray[np.int32]

    @classmethod
    def of(cls, geometries: Geometries, rows: Rows) -> Parts:
        return cls(geometries, rows, shapely.bounds(geometries), shapely.get_type_id(geometries))

    def where(self, kept: NDArray[np.bool_]) -> Parts:
        if kept.all():
            return self
        which = np.flatnonzero(kept)
        return Parts(self.geometries[which], self.rows[which], self.boxes[which], self.types[which])

    def of_type(self, number: int) -> Parts:
        return self.where(self.types == number)


class Found(NamedTuple):
    """Parts inside the buffered tile, still to be converted, and pieces of those that crossed its edge,
    in tile units."""

    whole: Parts
    cut: Parts
    convert: Convert


def found(parts: Parts, crs: CRS | None, grid: Grid) -> Found:
    """What the buffered tile holds of the geometries of a frame, collections among them.

    :raises UnsupportedOutput: when their CRS has no way to degrees.
    """
    metres = crs is not None and crs == features.MERCATOR
    if not metres and crs is not None and not features.is_lonlat(crs):
        parts = _in_degrees(parts, crs, grid)
    window = grid.window(metres=metres)
    world, unit = grid.world(metres=metres)
    turns = [turn for turn in (-world, world) if _any_beyond(parts.boxes, turn, unit)]
    if not _are_simple(parts):
        far = _far(parts.boxes, window)
        for turn in turns:
            far &= _far(parts.boxes, _moved(window, -turn))
        parts = _exploded(parts.where(~far))
    copies = [_copied(parts, turn, unit, window) for turn in turns]
    parts = joined((parts.where(meets(parts.boxes, window) & _finite(parts.boxes)), *copies))
    convert = grid.from_metres if metres else grid.from_degrees
    if not metres:
        parts = _clipped(parts, _LATITUDES)
    inside = _corners(parts, convert)
    whole = _within(inside, grid.box)
    crossing = parts.where(~whole & meets(inside, grid.box))
    if len(crossing.rows):
        placed = shapely.transform(shapely.force_2d(crossing.geometries), convert)
        crossing = _cut(placed, crossing.rows, grid.box)
    return Found(parts._replace(boxes=inside).where(whole), crossing, convert)


def _any_beyond(boxes: Coordinates, turn: float, unit: float) -> bool:
    """Whether there may be something to move by that much: mostly not, which is seen at a glance."""
    edge = abs(turn) / 2 - unit / 2
    if turn < 0:
        return bool(np.fmax.reduce(boxes[:, 2], initial=0.0) >= edge)
    return bool(np.fmin.reduce(boxes[:, 0], initial=0.0) <= -edge)


def _copied(parts: Parts, turn: float, unit: float, window: Box) -> Parts:
    """What reaches over the edge of the world, or lies on it, where it meets the window when it is moved.

    Half a unit is too little to be seen. A point so near before the edge is rounded on to it, and MapLibre
    draws none that lies on the eastern edge of its tile.
    """
    boxes = parts.boxes
    near, far = (boxes[:, 0], boxes[:, 2]) if turn < 0 else (-boxes[:, 2], -boxes[:, 0])
    edge = abs(turn) / 2
    beyond = (far > edge + unit / 2) | (near >= edge - unit / 2)
    found = parts.where(beyond & meets(boxes, _moved(window, -turn)) & _finite(boxes))
    if not len(found.rows):
        return found
    move = np.array([turn, 0.0])
    geometries = shapely.transform(shapely.force_2d(found.geometries), lambda xy: xy + move)
    return found._replace(geometries=geometries, boxes=found.boxes + np.tile(move, 2))


def _moved(box: Box, turn: float) -> Box:
    west, south, east, north = box
    return (west + turn, south, east + turn, north)


def meets(boxes: Coordinates, box: Box) -> NDArray[np.bool_]:
    """Which boxes share at least a point with the one; the edge counts."""
    west, south, east, north = box
    kept: NDArray[np.bool_] = (
        (boxes[:, 0] <= east) & (boxes[:, 2] >= west) & (boxes[:, 1] <= north) & (boxes[:, 3] >= south)
    )
    return kept


def made_valid(geometries: Geometries) -> Geometries:
    """Valid polygons for those that are not."""
    # "structure" unites overlapping parts; the other method would make a hole of the overlap.
    made: Geometries = shapely.make_valid(geometries, method="structure", keep_collapsed=False)
    return made


def polygons_in(geometries: Geometries) -> tuple[Geometries, Rows]:
    """The polygons in collections however deep, and the index of the geometry that each comes from."""
    parts = _exploded(Parts.of(geometries, np.arange(len(geometries))))
    polygons = parts.of_type(POLYGON)
    return polygons.geometries, polygons.rows


def joined(several: Sequence[Parts]) -> Parts:
    several = [parts for parts in several if len(parts.rows)] or several[:1]
    if len(several) == 1:
        return several[0]
    return Parts(*(np.concatenate(column) for column in zip(*several, strict=True)))


def _in_degrees(parts: Parts, crs: CRS, grid: Grid) -> Parts:
    """In EPSG:4326, of another CRS: only what is not plainly elsewhere."""
    boxes = parts.boxes
    # Between two CRSs in degrees longitudes stay what they are, beyond 180, too: there is no one window.
    endless = any(_any_beyond(boxes, turn, 0.0) for turn in (-360.0, 360.0)) and crs.is_geographic
    window = None if endless else grid.window_in(crs, features.LONLAT)
    rows = np.arange(len(parts.rows))
    if window is not None:
        # A straight edge becomes another straight edge, not the curve it would be: over a long one the two
        # stray from each other, by less than its length.
        reach = np.maximum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])[:, None]
        reached = np.hstack([boxes[:, :2] - reach, boxes[:, 2:] + reach])
        rows = np.flatnonzero(~_far(reached, window))
    near = gpd.GeoSeries(parts.geometries[rows], crs=crs)
    return Parts.of(features.lonlat(near).to_numpy(), rows)


def _far(boxes: Coordinates, window: Box) -> NDArray[np.bool_]:
    """Which boxes are known to lie outside; a collection with a place that is none is looked into."""
    return _finite(boxes) & ~meets(boxes, window)


def _finite(boxes: Coordinates) -> NDArray[np.bool_]:
    west, south, east, north = np.isfinite(boxes).T
    finite: NDArray[np.bool_] = west & south & east & north
    return finite


def _corners(parts: Parts, convert: Convert) -> Coordinates:
    """Boxes in tile units, where y runs the other way."""
    boxes = parts.boxes
    if (parts.types == POINT).all():
        return np.tile(convert(boxes[:, :2]), 2)
    return np.hstack([convert(boxes[:, [0, 3]]), convert(boxes[:, [2, 1]])])


def _within(boxes: Coordinates, box: Box) -> NDArray[np.bool_]:
    west, south, east, north = box
    inside: NDArray[np.bool_] = (
        (boxes[:, 0] >= west) & (boxes[:, 2] <= east) & (boxes[:, 1] >= south) & (boxes[:, 3] <= north)
    )
    return inside


def _are_simple(parts: Parts) -> bool:
    """Whether nothing has to be taken apart."""
    types = parts.types
    return bool(((types == POINT) | (types == LINE) | (types == POLYGON)).all())


def _exploded(parts: Parts) -> Parts:
    """Collections taken apart, however deep; rings become lines, missing and empty ones vanish."""
    if _are_simple(parts):
        return parts.where(~np.isnan(parts.boxes[:, 0]))
    geometries, rows = parts.geometries, parts.rows
    while True:
        geometries, index = shapely.get_parts(geometries, return_index=True)
        rows = rows[index]
        types = shapely.get_type_id(geometries)
        if not (types > POLYGON).any():
            break
    rings = types == RING
    if rings.any():
        coordinates, owner = shapely.get_coordinates(geometries[rings], return_index=True)
        geometries[rings] = shapely.linestrings(coordinates, indices=owner)
    filled = ~shapely.is_empty(geometries)
    return Parts.of(geometries[filled], rows[filled])


def _clipped(parts: Parts, box: Box) -> Parts:
    """What lies in the box; only parts that cross its edge are cut."""
    whole = _within(parts.boxes, box)
    if whole.all():
        return parts
    crossing = parts.where(~whole & meets(parts.boxes, box))
    return joined((parts.where(whole), _cut(crossing.geometries, crossing.rows, box)))


def _cut(geometries: Geometries, rows: Rows, box: Box) -> Parts:
    """The pieces of the geometries inside of the box, polygons made valid for it."""
    coordinates, owner = shapely.get_coordinates(geometries, return_index=True)
    if not np.isfinite(coordinates).all():  # a place that is none, which boxes overlook
        nowhere = np.bincount(owner[~np.isfinite(coordinates).all(axis=1)], minlength=len(rows)) > 0
        geometries, rows = geometries[~nowhere], rows[~nowhere]
    # What clips rings follows the box from one crossing to the next: it needs to know where the inside is.
    invalid = ~shapely.is_valid(geometries)
    if invalid.any():
        geometries = geometries.copy()
        geometries[invalid] = made_valid(geometries[invalid])
    return _exploded(Parts.of(shapely.clip_by_rect(geometries, *box), rows))
