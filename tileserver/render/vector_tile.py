"""Features as one layer of a Mapbox Vector Tile (specification 2.1): project, clip, quantise, encode.

Tile units count from the north-west corner, y downwards, ``extent`` of them along a side. A feature with
several families of geometry (points, lines, polygons) becomes one feature for each, in row order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Final

import geopandas as gpd
import numpy as np
import pandas as pd
from mercantile import Tile
from numpy.typing import NDArray
from pyproj import CRS

from tileserver import tiles
from tileserver.errors import UnsupportedOutput
from tileserver.formats import Format
from tileserver.protocol import Job, Json
from tileserver.render import features
from tileserver.render.classify import Classified
from tileserver.render.mvt import parts
from tileserver.render.mvt.attributes import column
from tileserver.render.mvt.commands import Drawn, Kind, drawn, merged
from tileserver.render.mvt.grid import Grid
from tileserver.render.mvt.layer import layer
from tileserver.render.mvt.parts import Parts
from tileserver.render.mvt.paths import lines, points
from tileserver.render.mvt.polygons import polygons
from tileserver.render.summary import summary

LAYER: Final = "udf"


def mvt(found: Classified, row: Format, job: Job) -> tuple[bytes, dict[str, Any]]:
    """The layer ``udf``; no bytes when nothing of the frame lies in the buffered tile.

    Facts: ``bounds`` of the whole frame, ``fields`` with the TileJSON type of each property, ``families`` of
    its geometry, ``empty``; and a ``summary`` of the properties where the job asks for it.

    :raises UnsupportedOutput: without a tile and without bounds to find one from.
    """
    grid = Grid(_tile(job), job.options.extent, job.options.buffer)
    frame: gpd.GeoDataFrame = found.value
    series = frame.geometry
    crs = series.crs
    everything = Parts.of(series.to_numpy(), np.arange(len(series)))
    shown = tile_features(everything, crs, grid)
    table = features.attributes(frame)
    facts = {
        **features.facts(everything.boxes, crs),
        "fields": {name: features.field_type(series) for name, series in table.items()},
        "families": features.families(everything.types),
    }
    if job.options.summary:
        facts["summary"] = summary(table)
    if not len(shown.rows):
        return b"", {**facts, "empty": True}
    ids = _ids(table)
    body = encode_layer(
        LAYER,
        shown,
        {name: _taken(series, shown.rows) for name, series in table.items()},
        ids=None if ids is None else ids[shown.rows],
        extent=grid.extent,
    )
    return body, facts


def encode_layer(
    name: str,
    drawn: Drawn,
    table: Mapping[str, pd.Series[Any]],
    *,
    ids: NDArray[np.uint64] | None,
    extent: int,
) -> bytes:
    """One layer as a vector tile; ``table`` and ``ids`` have a row for each feature."""
    columns = {name: column(name, series) for name, series in table.items()}
    return layer(name, drawn, columns, ids=ids, extent=extent)


def tile_features(everything: Parts, crs: CRS | None, grid: Grid) -> Drawn:
    """What the tile holds of the geometries of a frame, as features in row order.

    All points of a row are one feature, likewise all lines and all polygons. What collapses on the grid
    is left out.
    """
    found = parts.found(everything, crs, grid)
    return merged(
        (
            drawn(Kind.POINT, points(found)),
            drawn(Kind.LINESTRING, lines(found)),
            drawn(Kind.POLYGON, polygons(found)),
        )
    )


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


def _taken(series: pd.Series[Any], rows: NDArray[np.int64]) -> pd.Series[Any]:
    """The values of these rows: to take the index along would cost as much again."""
    return pd.Series(series.array.take(rows), dtype=series.dtype, copy=False)


def _ids(table: Mapping[str, pd.Series[Any]]) -> NDArray[Any] | None:
    """A column of distinct whole numbers from 0 that is called ``id``; positions are no ids, as they
    would name another feature in every tile."""
    found = table.get("id")
    if found is None or not pd.api.types.is_integer_dtype(found.dtype) or found.hasnans:
        return None
    numbers = found.to_numpy()
    ascending = bool((numbers[1:] > numbers[:-1]).all())  # as they mostly are, which is seen at a glance
    if not (ascending or found.is_unique) or (numbers < 0).any():
        return None
    return found.to_numpy(dtype=np.uint64)
