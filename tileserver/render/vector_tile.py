"""Features as one layer of a Mapbox Vector Tile (specification 2.1): project, clip, quantise, encode.

Tile units count from the north-west corner, y downwards, ``extent`` of them along a side. A feature with
several families of geometry (points, lines, polygons) becomes one feature for each, in row order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import geopandas as gpd
import mapbox_vector_tile
import numpy as np
import pandas as pd
import shapely
from mercantile import Tile
from numpy.typing import NDArray
from pyproj import CRS

from tileserver import tiles
from tileserver.errors import UnsupportedOutput
from tileserver.formats import Format
from tileserver.protocol import Job, Json
from tileserver.render import features
from tileserver.render.classify import Classified
from tileserver.render.plain import distinct, flat_columns, names

Geometries = NDArray[np.object_]
Rows = NDArray[np.intp]
Coordinates = NDArray[np.float64]
Box = tuple[float, float, float, float]

LAYER: Final = "udf"

_MERCATOR: Final = CRS.from_epsg(3857)
_WORLD: Final = 2 * math.pi * 6378137.0  # metres along a side of the tile matrix
# The pole has no place in Mercator. Cut here, the edge lies 139 units outside the one tile of zoom 0.
_LATITUDES: Final = (-1e6, -86.0, 1e6, 86.0)
_INT64: Final = range(-(2**63), 2**63)

_POINT, _LINE, _RING, _POLYGON = range(4)  # shapely's numbers of the types that are no collections


class Grid(NamedTuple):
    """The units of a tile: ``extent`` along a side, and ``buffer`` of them kept around it."""

    tile: Tile
    extent: int
    buffer: int

    @property
    def box(self) -> Box:
        return (-self.buffer, -self.buffer, self.extent + self.buffer, self.extent + self.buffer)

    def from_metres(self, xy: Coordinates) -> Coordinates:
        """Tile units of EPSG:3857."""
        return self._from_world(0.5 + xy[:, 0] / _WORLD, 0.5 - xy[:, 1] / _WORLD)

    def from_degrees(self, xy: Coordinates) -> Coordinates:
        """Tile units of EPSG:4326, for latitudes short of the poles."""
        north = np.arcsinh(np.tan(np.radians(xy[:, 1])))
        return self._from_world(0.5 + xy[:, 0] / 360, 0.5 - north / (2 * math.pi))

    def _from_world(self, x: Coordinates, y: Coordinates) -> Coordinates:
        side = 2.0**self.tile.z
        return np.column_stack([(x * side - self.tile.x), (y * side - self.tile.y)]) * self.extent


class Parts(NamedTuple):
    """Points, lines and polygons, and the row of the frame that each belongs to."""

    geometries: Geometries
    rows: Rows

    def where(self, kept: Any) -> Parts:
        return Parts(self.geometries[kept], self.rows[kept])

    def of_type(self, number: int) -> Parts:
        return self.where(shapely.get_type_id(self.geometries) == number)


def mvt(found: Classified, row: Format, job: Job) -> tuple[bytes, dict[str, Any]]:
    """The layer ``udf``; no bytes when nothing of the frame lies in the buffered tile.

    Facts: ``bounds`` of the whole frame, ``fields`` with the TileJSON type of each property, ``empty``.

    :raises UnsupportedOutput: without a tile and without bounds to find one from.
    """
    grid = Grid(_tile(job), job.options.extent, job.options.buffer)
    frame: gpd.GeoDataFrame = found.value
    geometries, rows = tile_geometries(frame.geometry, grid)
    table = _attributes(frame)
    facts = {**features.facts(frame), "fields": _fields(table)}
    if not len(geometries):
        return b"", {**facts, "empty": True}
    ids = _ids(table)
    body = encode_layer(
        LAYER,
        geometries,
        flat_columns(table.iloc[rows]),
        ids=None if ids is None else ids[rows],
        extent=grid.extent,
    )
    return body, facts


def encode_layer(
    name: str,
    geometries: Geometries,
    properties: Mapping[str, list[Any]],
    *,
    ids: NDArray[np.int64] | None,
    extent: int,
) -> bytes:
    """One layer as a vector tile.

    ``geometries`` have whole numbers of tile units for coordinates, polygons wound as the specification
    wants; ``properties`` are columns of str, bool, int, float or None (left out) beside them.
    """
    columns = {key: [_wire(value) for value in column] for key, column in properties.items()}
    listed = [
        {
            "geometry": geometry,
            "properties": {key: column[row] for key, column in columns.items() if column[row] is not None},
            **({} if ids is None else {"id": int(ids[row])}),
        }
        for row, geometry in enumerate(geometries)
    ]
    options = {"y_coord_down": True, "extents": extent, "check_winding_order": False}
    body: bytes = mapbox_vector_tile.encode({"name": name, "features": listed}, default_options=options)
    return body


def tile_geometries(geometries: gpd.GeoSeries, grid: Grid) -> Parts:
    """What the tile holds of the geometries, in whole tile units, in row order.

    All points of a row are one geometry, likewise all lines and all polygons. What collapses on the grid
    is left out.
    """
    parts = _clipped(_projected(geometries, grid), grid.box)
    families = (_points(parts), _lines(parts), _polygons(parts))
    found = _joined(families)
    order = np.argsort(found.rows, kind="stable")
    return Parts(found.geometries[order], found.rows[order])


def _tile(job: Job) -> Tile:
    if job.tile is not None:
        return job.tile
    box = _box(job.arguments.get("bounds"))
    if box is None:
        raise UnsupportedOutput(
            "Result serialization failed: mvt needs a tile: ask …/run/tiles/{z}/{x}/{y}.mvt, or give "
            "bounds=[west,south,east,north]"
        )
    return tiles.bounding_tile(box)


def _box(value: Json) -> tiles.Bounds | None:
    """Four numbers, or their JSON text, that are bounds on the globe."""
    try:
        listed = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return None
    if not isinstance(listed, list) or len(listed) != 4:
        return None
    if not all(isinstance(number, (int, float)) and math.isfinite(number) for number in listed):
        return None
    west, south, east, north = (float(number) for number in listed)  # type: ignore[arg-type]
    if not (-180 <= west <= east <= 180 and -90 <= south <= north <= 90):
        return None
    limit = tiles.MAX_LATITUDE
    return (west, max(-limit, min(limit, south)), east, max(-limit, min(limit, north)))


# Attributes


class _Double(float):
    """A float that equals no int: the encoder finds values by equality, and would write 1.0 as 1."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Double) and float(self) == float(other)

    __hash__ = float.__hash__


def _wire(value: Any) -> Any:
    """A value as the encoder takes it: integers beyond 64 bits are text."""
    if type(value) is float:
        return _Double(value)
    if type(value) is int and value not in _INT64:
        return str(value)
    return value


def _attributes(frame: gpd.GeoDataFrame) -> pd.DataFrame:
    """The columns that become properties: all without geometry, by distinct names."""
    kept = [index for index in range(frame.shape[1]) if not features.is_geometry(frame.iloc[:, index])]
    table = pd.DataFrame(frame).iloc[:, kept]
    return table.set_axis(distinct(names(table)), axis="columns")


def _fields(table: pd.DataFrame) -> dict[str, features.FieldType]:
    return {name: features.field_type(table[name]) for name in table.columns}


def _ids(table: pd.DataFrame) -> NDArray[Any] | None:
    """A column of distinct whole numbers from 0 that is called ``id``; positions are no ids, as they
    would name another feature in every tile."""
    if "id" not in table.columns or not pd.api.types.is_integer_dtype(table["id"].dtype):
        return None
    column = table["id"]
    if column.hasnans or not column.is_unique or (column < 0).any():
        return None
    return column.to_numpy(dtype=np.uint64)


# Geometry


def _projected(geometries: gpd.GeoSeries, grid: Grid) -> Parts:
    """The parts whose boxes meet the buffered tile, in float tile units."""
    in_metres = geometries.crs is not None and geometries.crs == _MERCATOR
    placed = geometries if in_metres else features.lonlat(geometries)
    parts = _exploded(shapely.force_2d(placed.to_numpy()), np.arange(len(placed)))
    parts = parts.where(np.isfinite(shapely.bounds(parts.geometries)).all(axis=1))
    if not in_metres:
        parts = _clipped(parts, _LATITUDES)
    convert = grid.from_metres if in_metres else grid.from_degrees
    boxes = shapely.bounds(parts.geometries)
    corners = np.column_stack([convert(boxes[:, [0, 3]]), convert(boxes[:, [2, 1]])])
    near = parts.where(_meets(corners, grid.box))
    return Parts(shapely.transform(near.geometries, convert), near.rows)


def _exploded(geometries: Geometries, rows: Rows) -> Parts:
    """Collections taken apart, however deep; rings become lines, missing and empty ones vanish."""
    while True:
        geometries, index = shapely.get_parts(geometries, return_index=True)
        rows = rows[index]
        types = shapely.get_type_id(geometries)
        if not (types > _POLYGON).any():
            break
    rings = types == _RING
    if rings.any():
        coordinates, owner = shapely.get_coordinates(geometries[rings], return_index=True)
        geometries[rings] = shapely.linestrings(coordinates, indices=owner)
    return Parts(geometries, rows).where(~shapely.is_empty(geometries))


def _meets(boxes: Coordinates, box: Box) -> NDArray[np.bool_]:
    """Which boxes share at least a point with the one; the edge counts."""
    west, south, east, north = box
    found: NDArray[np.bool_] = (
        (boxes[:, 0] <= east) & (boxes[:, 2] >= west) & (boxes[:, 1] <= north) & (boxes[:, 3] >= south)
    )
    return found


def _clipped(parts: Parts, box: Box) -> Parts:
    """What lies in the box; only parts that cross its edge are cut, and polygons made valid for it."""
    west, south, east, north = box
    boxes = shapely.bounds(parts.geometries)
    whole = (boxes[:, 0] >= west) & (boxes[:, 2] <= east) & (boxes[:, 1] >= south) & (boxes[:, 3] <= north)
    crossing = parts.where(~whole & _meets(boxes, box))
    if not len(crossing.rows):
        return parts.where(whole)
    cut = crossing.geometries.copy()
    invalid = ~shapely.is_valid(cut)
    cut[invalid] = _made_valid(cut[invalid])
    return _joined((parts.where(whole), _exploded(shapely.clip_by_rect(cut, *box), crossing.rows)))


def _joined(several: Sequence[Parts]) -> Parts:
    return Parts(
        np.concatenate([one.geometries for one in several]), np.concatenate([one.rows for one in several])
    )


def _made_valid(geometries: Geometries) -> Geometries:
    # "structure" unites overlapping parts; the other method would make a hole of the overlap.
    made: Geometries = shapely.make_valid(geometries, method="structure", keep_collapsed=False)
    return made


def _quantised(geometries: Geometries) -> Geometries:
    snapped: Geometries = shapely.transform(geometries, np.rint)
    return snapped


def _gathered(parts: Parts, collect: Callable[..., Geometries]) -> Parts:
    """One geometry for each row, in row order."""
    order = np.argsort(parts.rows, kind="stable")
    rows, index, counts = np.unique(parts.rows[order], return_inverse=True, return_counts=True)
    ordered = parts.geometries[order]
    if (counts == 1).all():
        return Parts(ordered, rows)
    return Parts(collect(ordered, indices=index), rows)


def _points(parts: Parts) -> Parts:
    points = parts.of_type(_POINT)
    return _gathered(Parts(_quantised(points.geometries), points.rows), shapely.multipoints)


def _lines(parts: Parts) -> Parts:
    lines = parts.of_type(_LINE)
    lines = Parts(_quantised(lines.geometries), lines.rows)
    return _gathered(lines.where(shapely.length(lines.geometries) > 0), shapely.multilinestrings)


def _polygons(parts: Parts) -> Parts:
    """Polygons that are valid on the grid, exterior rings clockwise as seen on the screen."""
    polygons = parts.of_type(_POLYGON)
    boxes = np.rint(shapely.bounds(polygons.geometries))
    wide = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    exact = _gathered(polygons.where(wide), shapely.multipolygons)
    snapped = Parts(_quantised(exact.geometries), exact.rows)
    valid = shapely.is_valid(snapped.geometries)
    found = _joined((snapped.where(valid), _repaired(exact.where(~valid))))
    # Positive area with y downwards is what the specification calls clockwise.
    return Parts(shapely.orient_polygons(found.geometries, exterior_cw=False), found.rows)


def _repaired(exact: Parts) -> Parts:
    """Polygons snapped to the grid so that they stay valid, from their unrounded form."""
    snapped = shapely.set_precision(_made_valid(exact.geometries), 1.0)
    return _gathered(_exploded(snapped, exact.rows).of_type(_POLYGON), shapely.multipolygons)
