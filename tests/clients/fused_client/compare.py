"""Whether what the server sent equals what the client's own engine returned."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import rioxarray  # noqa: F401  # the attribute "rio" of xarray's objects
import xarray as xr
from geopandas.testing import assert_geodataframe_equal
from PIL import Image
from values import WITH_BOUNDS, XARRAYS


def assert_same(sent: Any, local: Any) -> None:
    """Same type, same values, same dtypes, index, names and CRS."""
    assert type(sent) is type(local), f"{_shown(sent)} instead of {_shown(local)}"
    match local:
        case gpd.GeoDataFrame():
            assert sent.crs == local.crs, f"CRS {sent.crs!r} instead of {local.crs!r}"
            assert sent.active_geometry_name == local.active_geometry_name
            for name in local.columns[local.dtypes == "geometry"]:
                assert sent[name].crs == local[name].crs
            assert_geodataframe_equal(sent, local, check_crs=False)
        case pd.DataFrame():
            pd.testing.assert_frame_equal(sent, local, check_exact=True)
        case np.ndarray():
            assert sent.dtype == local.dtype and sent.shape == local.shape, (
                f"{_shown(sent)} instead of {_shown(local)}"
            )
            np.testing.assert_array_equal(sent, local, strict=True)
        case xr.DataArray() | xr.Dataset():
            xr.testing.assert_identical(sent, local)
        case dict():
            assert list(sent) == list(local)
            for name, value in local.items():
                assert_same(sent[name], value)
        case list() | tuple():
            assert len(sent) == len(local), f"{sent!r} instead of {local!r}"
            for one, other in zip(sent, local, strict=True):
                assert_same(one, other)
        case _:
            assert sent == local, f"{sent!r} instead of {local!r}"


def _shown(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{type(value).__name__} of {value.dtype} {value.shape}"
    return f"{type(value).__name__} {str(value)[:200]}"


# -- where what is sent is not what the engine returned


@dataclass(frozen=True)
class Difference:
    """Why a case's values are not the same, and what is compared instead of each."""

    reason: str
    local: Callable[[Any], Any] = lambda value: value
    sent: Callable[[Any], Any] = lambda value: value


def _frame(series: pd.Series) -> pd.DataFrame:
    return series.to_frame("value" if series.name is None else series.name)


def _picture(data: Any) -> xr.Dataset:
    pixels = np.asarray(Image.open(io.BytesIO(data) if isinstance(data, bytes) else data)).astype("int64")
    if pixels.ndim == 2:
        return xr.Dataset({"image": (("y", "x"), pixels)})
    return xr.Dataset({"image": (("band", "y", "x"), np.moveaxis(pixels, 2, 0))})


def _promoted(pair: tuple[Any, Any]) -> tuple[Any, Any]:
    """The pair as the client's reader of GeoTIFF has it: floats (or complex numbers), NaN where masked."""
    array, bounds = pair
    return _floats(array), list(bounds)


def _floats(array: Any) -> Any:
    array = np.ma.asarray(array)
    wide = array.dtype.kind in "iu" and array.dtype.itemsize > 2
    kind = array.dtype if array.dtype.kind in "fc" else np.dtype("float64" if wide else "float32")
    kind = np.dtype("float32") if kind == np.float16 else kind
    return array.astype(kind).filled(np.nan)


def _grid(value: Any) -> dict[str, Any]:
    """What a GeoTIFF keeps of an xarray object: values, where they are, and the names of variables."""
    if isinstance(value, tuple):
        return {"values": _floats(getattr(value[0], "values", value[0])), "bounds": list(value[1])}
    if isinstance(value, xr.Dataset):
        return {name: _grid(array) for name, array in value.data_vars.items()}
    if value["y"][0] < value["y"][-1]:
        value = value.isel(y=slice(None, None, -1))
    values = _floats(value.values)
    return {
        "values": values if values.ndim == 3 else values[None],
        "x": value["x"].to_numpy().astype(float),
        "y": value["y"].to_numpy().astype(float),
        "crs": None if value.rio.crs is None else value.rio.crs.to_wkt(),
    }


def _of_object(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.astype(object).where(frame.notna(), None)


def _column(name: str, kind: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    return lambda frame: frame.assign(**{name: frame[name].astype(kind)})


def _listed(frame: pd.DataFrame) -> pd.DataFrame:
    """Cells that are arrays, as lists."""
    return frame.map(lambda cell: cell.tolist() if isinstance(cell, np.ndarray) else cell)


_PYTHON = Difference("JSON has no such type: the encoder's own rules (contract, sections 7.1 and 7.4)", None)
_TIFF = Difference(
    "the client reads every GeoTIFF masked, which makes floats of its numbers (contract, section 7.4)",
    _promoted,
)
_XARRAY = Difference(
    "the client builds the array from a GeoTIFF: values, place, CRS and variable, nothing else", _grid, _grid
)
_PICTURE = Difference("the client reads PNG as a dataset of its bands (contract, section 7.2)", _picture)
_MASKED = Difference("NPY has no masks: NaN, or 0 (contract, section 13, inferred)", lambda a: a.filled(0))
_SERIES = Difference("a series is sent as a table of one column (contract, section 7.1)", _frame)
_SHAPES = Difference(
    "geometries are sent as a layer with one column (contract, section 7.1)",
    lambda shapes: gpd.GeoDataFrame(
        geometry=shapes if isinstance(shapes, gpd.GeoSeries) else gpd.GeoSeries([shapes], crs=4326)
    ),
)

DIFFERENCES = {
    "tuple": replace(_PYTHON, local=list),
    "tuple_of_nothing": Difference(
        "a pair of nothing is no data (contract, section 13, inferred)", lambda _: None
    ),
    "timestamp": replace(_PYTHON, local=pd.Timestamp.isoformat),
    "numpy_int": replace(_PYTHON, local=int),
    "numpy_float": replace(_PYTHON, local=float),
    "numpy_bool": replace(_PYTHON, local=bool),
    "list_of_numpy": replace(_PYTHON, local=lambda values: [value.item() for value in values]),
    "array_masked": _MASKED,
    "array_masked_float": replace(_MASKED, local=lambda array: array.filled(np.nan)),
    **dict.fromkeys(WITH_BOUNDS, _TIFF),
    **dict.fromkeys(XARRAYS, _XARRAY),
    "dataset_of_two": Difference(
        "a GeoTIFF is one variable: several are its bands (contract, section 7.4, inferred)",
        lambda two: {"image": {**_grid(two["low"]), "values": _floats(two.to_array().values)}},
        _grid,
    ),
    "table_object": Difference("pandas reads text from Arrow as text, not as objects", _column("a", "str")),
    "table_categories": Difference("Parquet keeps the categories of text only", _column("numbers", "int64")),
    "table_times": Difference("Parquet has no seconds: milliseconds", _column("seconds", "M8[ms]")),
    "table_lists": Difference("pandas reads lists from Arrow as arrays", sent=_listed),
    "geo_columns": Difference("pandas reads lists from Arrow as arrays", sent=_listed),
    "index_times": Difference(
        "a frequency is no part of a table", lambda frame: frame.set_axis(frame.index._with_freq(None))
    ),
    "series": _SERIES,
    "series_unnamed": _SERIES,
    "series_indexed": _SERIES,
    "arrow": Difference(
        "the client reads a table of Arrow's as pandas' (contract, section 7.1)",
        lambda table: _listed(table.to_pandas()),
        _listed,
    ),
    "geoseries": _SHAPES,
    "geometry_point": _SHAPES,
    "geometry_polygon": _SHAPES,
    "geo_without_geometry": Difference(
        "a layer without geometry is a table (contract, section 7.4)", pd.DataFrame
    ),
    "bundle_rasters": replace(_TIFF, local=lambda bundle: {**bundle, "placed": _promoted(bundle["placed"])}),
    "png_bytes": _PICTURE,
    "png_stream": _PICTURE,
    "response_html": Difference(
        "a response is passed through (contract, section 7.1)", lambda r: r.body.decode()
    ),
}


def assert_as_sent(name: str, sent: Any, local: Any) -> None:
    """The two are the same, but for what the table says of this case."""
    if isinstance(local, pd.DataFrame):
        # The client makes text of them, whatever they are.
        local.columns = [str(column) for column in local.columns]
    difference = DIFFERENCES.get(name, Difference("none"))
    assert_same(difference.sent(sent), difference.local(local))
