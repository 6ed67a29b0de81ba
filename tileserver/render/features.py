"""Where the rows of a frame lie, and what types its columns have.

Longitude and latitude are EPSG:4326; a frame without a CRS is taken to be in it.
"""

from __future__ import annotations

import math
from typing import Any, Final, Literal

import geopandas as gpd
import mercantile
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from tileserver.errors import UnsupportedOutput
from tileserver.render.plain import distinct, name_of
from tileserver.tiles import Bounds

FieldType = Literal["Number", "String", "Boolean"]

LONLAT: Final = CRS.from_epsg(4326)
MERCATOR: Final = CRS.from_epsg(3857)
_HALF_WORLD: Final = mercantile.CE / 2  # metres in web Mercator; beyond it longitudes begin anew
_EDGE: Final = 180 + 1e-9  # degrees; metres and back cost the last digits

_INFERRED: dict[str, FieldType] = {
    **dict.fromkeys(("integer", "floating", "mixed-integer-float", "decimal"), "Number"),
    **dict.fromkeys(("timedelta", "timedelta64"), "Number"),
    "boolean": "Boolean",
}


def is_geometry(series: pd.Series[Any]) -> bool:
    return bool(series.dtype.name == "geometry")


def is_lonlat(crs: CRS | None) -> bool:
    """Whether coordinates are longitudes and latitudes already: EPSG:4326 and what differs from it by the
    order of its axes, as OGC:CRS84 does, which GeoParquet files have."""
    return crs is None or crs == LONLAT or bool(crs.equals(LONLAT, ignore_axis_order=True))


def lonlat(geometries: gpd.GeoSeries) -> gpd.GeoSeries:
    """The geometries in EPSG:4326; those that have no place there get infinite coordinates.

    :raises UnsupportedOutput: when their CRS has no way to it.
    """
    if is_lonlat(geometries.crs):
        return geometries
    try:
        return geometries.to_crs(LONLAT)
    except ProjError as problem:
        raise without_a_way(geometries.crs, "EPSG:4326", problem) from None


def without_a_way(crs: CRS, other: str, problem: ProjError) -> UnsupportedOutput:
    """What to raise where a CRS has no transformation to another."""
    return UnsupportedOutput(
        f"Result serialization failed: the CRS {crs.name!r} has no transformation to {other}: {problem}"
    )


def lonlat_bounds(boxes: NDArray[np.float64], crs: CRS | None) -> Bounds | None:
    """West, south, east, north in degrees of all boxes; None when nothing has a place on the globe.

    From another CRS it is the box around the transformed box, so it may be wider than the data.
    """
    finite = np.isfinite(boxes)
    if not finite.all():
        boxes = boxes[finite.all(axis=1)]
    if not len(boxes):
        return None
    west, south = (float(edges.min()) for edges in boxes[:, :2].T)
    east, north = (float(edges.max()) for edges in boxes[:, 2:].T)
    if crs is not None and max(-west, -south, east, north) <= _HALF_WORLD and crs == MERCATOR:
        (west, south), (east, north) = mercantile.lnglat(west, south), mercantile.lnglat(east, north)
    elif crs is not None and not is_lonlat(crs):
        try:
            change = Transformer.from_crs(crs, LONLAT, always_xy=True)
            west, south, east, north = change.transform_bounds(west, south, east, north)
        except ProjError:
            return None
        if west > east:  # over the antimeridian
            west, east = -180.0, 180.0
    if max(-south, north) > 90 or max(-west, east) > 360:
        return None
    if max(-west, east) > _EDGE:  # what lies beyond is on the other side
        turned = 360.0 * math.floor((west + 180) / 360)
        west, east = west - turned, east - turned
        west, east = (west, east) if east <= _EDGE else (-180.0, 180.0)
    return (west, south, east, north)


def facts(boxes: NDArray[np.float64], crs: CRS | None) -> dict[str, Any]:
    """``bounds`` as the encoders report them: a list of four, absent when there are none."""
    box = lonlat_bounds(boxes, crs)
    return {} if box is None else {"bounds": list(box)}


def frame_facts(frame: gpd.GeoDataFrame) -> dict[str, Any]:
    """The facts of a whole frame."""
    return facts(shapely.bounds(frame.geometry.to_numpy()), frame.crs)


def families(types: NDArray[np.int32]) -> list[str]:
    """The kinds of geometry that there are, as filters of styles name them; unknown within collections."""
    kinds = set(np.flatnonzero(np.bincount(types[types >= 0])).tolist())
    if shapely.GeometryType.GEOMETRYCOLLECTION in kinds:
        return ["Point", "LineString", "Polygon"]
    return [name for name, of in _FAMILIES.items() if kinds & of]


_FAMILIES = {"Point": {0, 4}, "LineString": {1, 2, 5}, "Polygon": {3, 6}}  # by shapely.GeometryType


def attributes(frame: gpd.GeoDataFrame) -> dict[str, pd.Series[Any]]:
    """The columns that become properties: all without geometry, by distinct names."""
    columns = [(label, series) for label, series in pd.DataFrame(frame).items() if not is_geometry(series)]
    names = distinct(name_of(label) for label, _ in columns)
    return {name: series for name, (_, series) in zip(names, columns, strict=True)}


def field_type(series: pd.Series[Any]) -> FieldType:
    """The TileJSON type of a column's values as they are written (durations are numbers of seconds)."""
    kind = series.cat.categories.dtype if isinstance(series.dtype, pd.CategoricalDtype) else series.dtype
    if pd.api.types.is_bool_dtype(kind):
        return "Boolean"
    if pd.api.types.is_numeric_dtype(kind) or pd.api.types.is_timedelta64_dtype(kind):
        return "Number"
    if pd.api.types.is_object_dtype(kind):
        return _INFERRED.get(pd.api.types.infer_dtype(series, skipna=True), "String")
    return "String"
