"""Which kind of value a UDF returned (see ``Kind``), by its shape rather than by its name.

Libraries are looked up among those already loaded: a value of theirs can't exist otherwise.
"""

from __future__ import annotations

import datetime
import decimal
import io
import json
import math
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tileserver.errors import UnsupportedOutput
from tileserver.formats import Kind
from tileserver.tiles import Bounds

_PIXELS = frozenset({Kind.RASTER, Kind.GEORASTER, Kind.IMAGE})
_DATA = _PIXELS | {Kind.TABLE, Kind.FEATURES, Kind.BUNDLE}
_SIMPLE = (
    *(bool, int, float, list, tuple, set, frozenset, dict, uuid.UUID, decimal.Decimal),
    *(datetime.date, datetime.time, datetime.timedelta),
)


@dataclass(frozen=True, slots=True)
class Classified:
    """A value made uniform for the encoders.

    | kind | ``value`` |
    | --- | --- |
    | table | ``pandas.DataFrame`` |
    | features | ``geopandas.GeoDataFrame`` with an active geometry column |
    | raster, georaster | ``numpy.ma.MaskedArray`` or ``numpy.ndarray`` (bands, height, width), any dtype |
    | image | bytes |
    | text | str |
    | array | the Python number or list that ``original``, a numpy array, comes down to |
    | simple | as returned; numpy scalars as Python values |
    | bundle, response | as returned |

    ``bounds`` are west, south, east, north in ``crs`` (a WKT or ``EPSG:n`` text; EPSG:4326 for a pair
    ``(array, bounds)``); both are None for an xarray object that doesn't say where it lies.
    ``original`` is what the UDF returned, for encoders that must say so.
    """

    kind: Kind
    value: Any
    original: Any
    bounds: Bounds | None = None
    crs: str | None = None
    media_type: str | None = None


def classify(value: object) -> Classified:
    """Sort a value into its kind.

    :raises UnsupportedOutput: for a type that nothing can write; the message names the Python type.
    """
    for rule in _RULES:
        found = rule(value)
        if found is not None:
            return found
    raise UnsupportedOutput(
        f"Result serialization failed: a UDF can't return {type_name(value)}; it can return a DataFrame, "
        "GeoDataFrame, shapely geometry, Arrow table, array, (array, bounds), xarray object, encoded image, "
        "str, number, date, list, dict or Response"
    )


def type_name(value: object) -> str:
    """The name of a value's type as error messages give it: ``numpy.ndarray``, ``list``."""
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _is(value: object, module: str, *names: str) -> bool:
    loaded = sys.modules.get(module)
    types = tuple(kind for name in names if isinstance(kind := getattr(loaded, name, None), type))
    return isinstance(value, types)


def _nothing(value: object) -> Classified | None:
    absent = value is None or (isinstance(value, tuple) and len(value) == 2 and value[0] is None)
    if absent and (value is None or value[1] is None or _bounds(value[1]) is not None):  # type: ignore[index]  # a pair
        return Classified(Kind.NONE, None, value)
    return None


def _text(value: object) -> Classified | None:
    return Classified(Kind.TEXT, str(value), value) if isinstance(value, str) else None


def _image(value: object) -> Classified | None:
    if isinstance(value, io.BytesIO):
        body = value.getvalue()
    elif isinstance(value, bytes | bytearray | memoryview):
        body = bytes(value)
    else:
        return None
    media_type = sniff(body)
    if media_type is None:
        raise UnsupportedOutput(
            f"Result serialization failed: these {len(body)} bytes ({type_name(value)}) are no image; "
            "PNG, JPEG, WebP, GIF, AVIF and TIFF are known"
        )
    return Classified(Kind.IMAGE, body, value, media_type=media_type)


def sniff(body: bytes) -> str | None:
    """The media type of an encoded image by its first bytes, None for anything else."""
    if body.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if body.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if body.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if body[:4] == b"RIFF" and body[8:12] == b"WEBP":
        return "image/webp"
    if body[4:12] in (b"ftypavif", b"ftypavis"):
        return "image/avif"
    if body.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
        return "image/tiff"
    return None


def _array(value: object) -> Classified | None:
    if isinstance(value, np.generic):
        return Classified(Kind.SIMPLE, _plain(np.asarray(value)), value)
    if not isinstance(value, np.ndarray):
        return None
    if value.dtype.names is not None and value.ndim == 1:
        import pandas

        return Classified(Kind.TABLE, pandas.DataFrame.from_records(value), value)
    if value.dtype.kind == "O":
        return Classified(Kind.SIMPLE, value.tolist(), value)
    if value.ndim < 2 or value.dtype.kind not in "buifc":
        return Classified(Kind.ARRAY, _plain(value), value)
    return Classified(Kind.RASTER, bands_first(value), value)


def _plain(array: NDArray[Any]) -> Any:
    """A number or nested lists; times to the microsecond, finer ones would come out as integers."""
    if array.dtype.kind in "mM":
        array = array.astype(f"{array.dtype.kind}8[us]")
    return array.tolist()


def bands_first(array: NDArray[Any]) -> NDArray[Any]:
    """(bands, height, width) of an array with two dimensions or more; leading ones are cut at index 0.

    (height, width, bands) is recognised when the last axis could be the bands of a picture (1 to 4) and
    the first, longer one couldn't.
    """
    while array.ndim > 3:
        array = array[0]
    if array.ndim == 2:
        return array[None]
    first, middle, last = array.shape
    return np.moveaxis(array, -1, 0) if min(first, middle) > 4 >= last >= 1 else array


def _frame(value: object) -> Classified | None:
    if _is(value, "geopandas", "GeoDataFrame"):
        return _geoframe(value, value)
    if _is(value, "geopandas", "GeoSeries"):
        return _features(value, value, None)
    if _is(value, "pandas", "DataFrame"):
        return Classified(Kind.TABLE, value, value)
    if _is(value, "pandas", "Series"):
        series: Any = value
        return Classified(Kind.TABLE, series.to_frame("value" if series.name is None else series.name), value)
    if _is(value, "shapely", "Geometry"):
        return _features([value], value, "EPSG:4326")
    return None


def _features(geometry: Any, original: object, crs: str | None) -> Classified:
    import geopandas

    return Classified(Kind.FEATURES, geopandas.GeoDataFrame(geometry=geometry, crs=crs), original)


def _geoframe(frame: Any, original: object) -> Classified:
    """Without an active geometry a frame is a table, unless it is an empty map layer."""
    if frame.active_geometry_name in frame.columns:
        return Classified(Kind.FEATURES, frame, original)
    if len(frame) == 0 and len(frame.columns) == 0:
        return _features([], original, "EPSG:4326")
    import pandas

    return Classified(Kind.TABLE, pandas.DataFrame(frame), original)


def _xarray(value: object) -> Classified | None:
    array: Any = value
    if not _is(value, "xarray", "DataArray", "Dataset"):
        return None
    from tileserver.render import xarrays

    is_array = _is(value, "xarray", "DataArray")
    if is_array and array.ndim == 0:
        return Classified(Kind.SIMPLE, _plain(array.values), value)
    found = xarrays.grid(array) if is_array else xarrays.stacked(array)
    if found is None:
        frame = array.to_dataframe(name=array.name or "value") if is_array else array.to_dataframe()
        return Classified(Kind.TABLE, frame.reset_index(), value)
    if found.bands.dtype.kind not in "buifc":
        raise UnsupportedOutput(
            f"Result serialization failed: {type_name(value)} of {found.bands.dtype} is no raster"
        )
    return Classified(Kind.GEORASTER, found.bands, value, bounds=found.bounds, crs=found.crs)


def _georaster(value: object) -> Classified | None:
    """What ``tileserver.raster`` reads."""
    if not _is(value, "tileserver.raster.georaster", "Georaster"):
        return None
    found: Any = value
    bands = bands_first(found.array)
    return Classified(Kind.GEORASTER, bands, value, bounds=found.bounds, crs=found.crs)


def _arrow(value: object) -> Classified | None:
    if not hasattr(value, "__arrow_c_stream__"):
        if _is(value, "polars", "LazyFrame"):
            return _arrow(value.collect())  # type: ignore[attr-defined]  # polars isn't a dependency
        return None
    import pyarrow

    try:
        table = pyarrow.table(value)
    except (TypeError, ValueError, NotImplementedError):  # by which pyarrow says that these are no records
        # A stream of one column rather than of records.
        column = pyarrow.chunked_array(value).to_pandas()
        return Classified(Kind.TABLE, column.to_frame("value"), value)
    return _arrow_frame(table, value)


def _arrow_frame(table: Any, original: object) -> Classified:
    """GeoArrow columns, or WKB ones named by GeoParquet metadata, make features."""
    if any(
        (field.metadata or {}).get(b"ARROW:extension:name", b"").startswith(b"geoarrow")
        for field in table.schema
    ):
        import geopandas

        return _geoframe(geopandas.GeoDataFrame.from_arrow(table), original)
    frame = table.to_pandas()
    said = (table.schema.metadata or {}).get(b"geo")
    if said is None:
        return Classified(Kind.TABLE, frame, original)
    import geopandas

    geo = json.loads(said)
    name = geo["primary_column"]
    crs = geo["columns"][name].get("crs", "EPSG:4326")
    frame[name] = geopandas.GeoSeries.from_wkb(frame[name], crs=crs)
    return _geoframe(geopandas.GeoDataFrame(frame, geometry=name), original)


def _response(value: object) -> Classified | None:
    if isinstance(value, type) or not (hasattr(value, "status_code") and hasattr(value, "headers")):
        return None
    if not any(hasattr(value, part) for part in ("body", "body_iterator", "path")):
        return None
    return Classified(Kind.RESPONSE, value, value)


def _pillow(value: object) -> Classified | None:
    """A Pillow image is a raster of its pixels; palettes and colour spaces other than RGB are resolved."""
    if not _is(value, "PIL.Image", "Image"):
        return None
    image: Any = value
    if image.mode not in {"L", "LA", "RGB", "RGBA", "I", "I;16", "F"}:
        grey = image.mode == "1"
        image = image.convert("L" if grey else "RGBA" if image.has_transparency_data else "RGB")
    pixels = np.asarray(image)
    bands = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    return Classified(Kind.RASTER, bands, pixels)


def _figure(value: object) -> Classified | None:
    if not _is(value, "matplotlib.figure", "Figure"):
        return None
    buffer = io.BytesIO()
    value.savefig(buffer, format="png")  # type: ignore[attr-defined]  # known by its loaded module
    return Classified(Kind.IMAGE, buffer.getvalue(), value, media_type="image/png")


def _pair(value: object) -> Classified | None:
    if not isinstance(value, tuple | list) or len(value) != 2 or isinstance(value[0], str | int | float):
        return None
    bounds = _bounds(value[1])
    if bounds is None:
        return None
    found = classify(value[0])
    if found.kind not in _PIXELS:
        return None
    kind = Kind.IMAGE if found.kind is Kind.IMAGE else Kind.GEORASTER
    return replace(found, kind=kind, original=value, bounds=_checked(bounds), crs="EPSG:4326")


def _bounds(value: object) -> tuple[float, ...] | None:
    """Four numbers, whichever way they are said; None for anything else."""
    if _is(value, "geopandas", "GeoDataFrame", "GeoSeries"):
        frame: Any = value
        if len(frame) == 0:
            return None
        return tuple(map(float, (frame if frame.crs is None else frame.to_crs(4326)).total_bounds))
    if _is(value, "shapely", "Geometry"):
        return tuple(map(float, value.bounds))  # type: ignore[attr-defined]  # known by its loaded module
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if not isinstance(value, list | tuple) or len(value) != 4:
        return None
    if not all(isinstance(one, int | float | np.number) and not isinstance(one, bool) for one in value):
        return None
    return tuple(map(float, value))


def _checked(bounds: tuple[float, ...]) -> Bounds:
    """West below east (a box over the dateline ends beyond 180), south below north."""
    west, south, east, north = bounds
    if west > east:
        east += 360.0
    plausible = (
        all(map(math.isfinite, bounds)) and -540 <= west < east <= 720 and -100 <= south < north <= 100
    )
    if not plausible:
        raise UnsupportedOutput(
            f"Result serialization failed: the bounds {list(bounds)} beside the array are not west, south, "
            "east, north in degrees"
        )
    return (west, south, east, north)


def _mapping(value: object) -> Classified | None:
    """A dict is a bundle as soon as one of its values is a table, raster or image."""
    if not isinstance(value, dict):
        return None
    kind = Kind.BUNDLE if any(_is_data(item) for item in value.values()) else Kind.SIMPLE
    return Classified(kind, value, value)


def _is_data(value: object) -> bool:
    # Without these, long lists and strings would be classified only to be thrown away.
    if value is None or isinstance(value, str | int | float):
        return False
    try:
        return classify(value).kind in _DATA
    except UnsupportedOutput:
        return False


def _simple(value: object) -> Classified | None:
    known = isinstance(value, _SIMPLE) or _is(value, "pandas", "Timestamp", "Timedelta") or _is_missing(value)
    return Classified(Kind.SIMPLE, value, value) if known else None


def _is_missing(value: object) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and (value is pandas.NA or value is pandas.NaT)


_RULES: tuple[Callable[[object], Classified | None], ...] = (
    *(_nothing, _text, _image, _array, _georaster, _frame, _xarray, _arrow),
    *(_response, _pillow, _figure, _pair, _mapping, _simple),
)
