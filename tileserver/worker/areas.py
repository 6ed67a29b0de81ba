"""Areas as callers write them (four numbers, GeoJSON, frames) in the forms that UDFs ask for.

Everything is in degrees, EPSG:4326, unless a frame says otherwise.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Final

import mercantile
import numpy as np
import pandas as pd
import shapely
from geopandas import GeoDataFrame

from tileserver import tiles

CRS: Final = "EPSG:4326"


def plain(value: Any) -> Any:
    """JSON text as what it says, arrays and sets as lists; other values as they are."""
    if isinstance(value, str):
        return json.loads(value)
    if isinstance(value, np.ndarray | np.generic | pd.Series):
        return value.tolist()
    return list(value) if isinstance(value, tuple | set | frozenset) else value


def geometry(value: Any) -> shapely.Geometry:
    """A geometry of WKT or GeoJSON."""
    if isinstance(value, shapely.Geometry):
        return value
    text = (value if isinstance(value, str) else json.dumps(value)).strip()
    return shapely.from_geojson(text) if text.startswith("{") else shapely.from_wkt(text)


def features(value: Any) -> GeoDataFrame:
    """A frame of a FeatureCollection or of four numbers, in degrees."""
    if isinstance(value, GeoDataFrame):
        return value
    if isinstance(value, mercantile.Tile):
        return tile_frame(value)
    data = _area_data(value)
    if isinstance(data, shapely.Geometry):
        return GeoDataFrame(geometry=[data], crs=CRS)
    if isinstance(data, dict) and data.get("type") == "FeatureCollection":
        return GeoDataFrame.from_features(data["features"], crs=CRS)
    return GeoDataFrame(geometry=[box(_four_numbers(data))], crs=CRS)


def _area_data(value: Any) -> Any:
    if isinstance(value, str) and value.count(",") == 3 and not value.lstrip().startswith(("[", "{")):
        return [float(part) for part in value.split(",")]
    return value if isinstance(value, shapely.Geometry) else plain(value)


def _four_numbers(data: Any) -> list[float]:
    if not isinstance(data, list) or len(data) != 4:
        raise ValueError("neither a list of 4 numbers nor a FeatureCollection")
    if not all(isinstance(n, int | float) and not isinstance(n, bool) and math.isfinite(n) for n in data):
        raise ValueError("not all 4 are finite numbers")
    return data


def bounds(value: Any) -> list[float]:
    """West, south, east, north in degrees.

    :raises ValueError: for an area without extent, or text that says none.
    """
    if not isinstance(value, GeoDataFrame):
        data = None if isinstance(value, mercantile.Tile) else _area_data(value)
        if isinstance(data, list):
            return _four_numbers(data)
        value = features(value)
    frame = value if value.crs is None else value.to_crs(CRS)
    return _four_numbers([float(number) for number in frame.total_bounds])


def bbox(value: Any) -> shapely.Geometry:
    """The box of an area."""
    return box(bounds(value))


def viewport(value: Any) -> GeoDataFrame:
    """One row: the frame itself where it has one, else the box around all of it."""
    frame = features(value)
    return frame if len(frame) == 1 else GeoDataFrame(geometry=[bbox(frame)], crs=CRS)


def tile_xyz(value: Any) -> mercantile.Tile:
    """The tile that a frame names in x, y and z, else the smallest one that holds the area."""
    if isinstance(value, mercantile.Tile):
        return value
    frame = viewport(value)
    if {"x", "y", "z"} <= set(frame.columns):
        row = frame.iloc[0]
        return mercantile.Tile(x=int(row["x"]), y=int(row["y"]), z=int(row["z"]))
    west, south, east, north = bounds(frame)
    south, north = (max(-tiles.MAX_LATITUDE, min(tiles.MAX_LATITUDE, degrees)) for degrees in (south, north))
    return tiles.bounding_tile((west, south, east, north))


def tile_gdf(value: Any) -> GeoDataFrame:
    """One row that has x, y and z: its own, else those of the smallest tile that holds the area."""
    frame = viewport(value)
    if {"x", "y", "z"} <= set(frame.columns):
        return frame
    tile = tile_xyz(frame)
    columns = [name for name in frame.columns if name not in ("x", "y", "z")]
    return frame.assign(x=tile.x, y=tile.y, z=tile.z)[["x", "y", "z", *columns]]


def box(four: Sequence[float]) -> shapely.Geometry:
    west, south, east, north = four
    return shapely.box(west, south, east, north)


def tile_frame(tile: mercantile.Tile) -> GeoDataFrame:
    """One row with the columns x, y, z and geometry."""
    geometry = [box(tiles.bounds(tile))]
    return GeoDataFrame({"x": [tile.x], "y": [tile.y], "z": [tile.z]}, geometry=geometry, crs=CRS)
