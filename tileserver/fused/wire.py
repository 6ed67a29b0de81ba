"""Values on their way to another run and back: parameters as the client of Fused writes them, results as it
reads them."""

from __future__ import annotations

import datetime as dt
import io
import json
import uuid
import zipfile
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet
import shapely

from tileserver.protocol import Json


def parameter(value: Any, *, as_query: bool = False) -> Json:
    """A parameter as a UDF elsewhere is given it: containers, frames and booleans are JSON text, geometries
    WKT, times ISO 8601; numbers stay numbers but in a query.

    :raises TypeError: for a value that has no such form.
    """
    if isinstance(value, gpd.GeoDataFrame):
        return str(value.to_json(default=_plain))
    if isinstance(value, pd.DataFrame):
        return str(value.to_json(orient="records", default_handler=_plain))
    if isinstance(value, shapely.Geometry):
        return shapely.to_wkt(value, rounding_precision=-1)
    if isinstance(value, list | tuple | dict | bool):
        return json.dumps(value, default=_plain)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return str(value) if as_query else value
    plain = _plain(value)
    return str(plain) if as_query and isinstance(plain, int | float) else plain


def _plain(value: Any) -> Any:
    """What JSON can't say, as it can."""
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, np.integer) and not isinstance(value, np.timedelta64):
        return int(value)
    if isinstance(value, np.floating):
        return float(value)
    if isinstance(value, pd.Timedelta | dt.timedelta):
        return value.total_seconds()
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, np.ndarray):
        return [
            item if isinstance(item, bool | int | float | str) else _plain(item) for item in value.tolist()
        ]
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    if isinstance(value, list):
        return value
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, shapely.Geometry):
        return shapely.to_wkt(value, rounding_precision=-1)
    raise TypeError(f"a {type(value).__qualname__} can't be passed to a UDF that runs elsewhere")


def result(body: bytes, media_type: str) -> Any:
    """The value that a UDF elsewhere returned. What isn't known stays bytes."""
    kind = media_type.partition(";")[0].strip()
    if not body:
        return None
    match kind:
        case "application/json":
            return json.loads(body)
        case "application/octet-stream":
            return _frame(body)
        case "application/x-numpy-data":
            return np.load(io.BytesIO(body), allow_pickle=False)
        case "image/tiff":
            return _raster(body)
        case "image/png":
            return _picture(body)
        case "application/zip":
            return _bundle(body)
        case "text/html":
            return body.decode("utf-8", "replace")
    return body


def _frame(body: bytes) -> pd.DataFrame:
    """A table, with its geometry and CRS where it has them; column names are text."""
    metadata = pyarrow.parquet.read_metadata(io.BytesIO(body)).metadata or {}
    if b"geo" in metadata:
        frame: pd.DataFrame = gpd.read_parquet(io.BytesIO(body))
    else:
        frame = pyarrow.parquet.read_table(io.BytesIO(body)).to_pandas()
    frame.columns = pd.Index([str(name) for name in frame.columns], dtype=object)
    return frame


def _raster(body: bytes) -> Any:
    """What the tags of a GeoTIFF say that it was: an array, an array and its bounds, or an xarray object."""
    import rioxarray
    import xarray
    from rasterio.io import MemoryFile

    with MemoryFile(body) as memory, memory.open() as dataset:
        tags = dataset.tags(ns="fused")
        opened: Any = rioxarray.open_rasterio(dataset, masked=True)
        found = opened.load()
    kind = tags.get("orig_type")
    if kind == "numpy.ndarray":
        array = found.to_numpy()
        shape = tuple(json.loads(tags["shape"]))
        if len(shape) < array.ndim:
            array = array.reshape(shape) if array.size == np.prod(shape) else array.squeeze()
        return (array, json.loads(tags["bounds"])) if "bounds" in tags else array
    if kind == "xarray.DataArray":
        return found
    return xarray.Dataset({tags.get("key") or "image": found})


def _picture(body: bytes) -> Any:
    """A picture as the client gives it: an xarray data set whose variable is called ``image``."""
    import xarray
    from PIL import Image

    pixels = np.asarray(Image.open(io.BytesIO(body)))
    if pixels.ndim == 2:
        return xarray.Dataset({"image": (("y", "x"), pixels)})
    return xarray.Dataset({"image": (("band", "y", "x"), np.moveaxis(pixels, -1, 0))})


def _bundle(body: bytes) -> dict[str, Any]:
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        members = json.loads(archive.read("meta.json"))["files"]
        return {name: result(archive.read(name), str(fact["content_type"])) for name, fact in members.items()}
