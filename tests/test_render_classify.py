"""Every class of value that a UDF may return, and what it is taken for."""

from __future__ import annotations

import datetime
import decimal
import io
import uuid
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import shapely
import xarray as xr
from matplotlib.figure import Figure
from PIL import Image
from rioxarray.raster_array import RasterArray
from starlette.responses import HTMLResponse

from tileserver.errors import UnsupportedOutput
from tileserver.formats import Kind
from tileserver.render.classify import classify

BOUNDS = [10.0, 40.0, 12.0, 41.0]
POINTS = gpd.GeoDataFrame({"a": [1, 2]}, geometry=gpd.points_from_xy([10, 12], [40, 41]), crs=4326)
RGB = np.zeros((3, 8, 8), np.uint8)


def encoded(form: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, form)
    return buffer.getvalue()


def labelled(y: Any, x: Any, **names: Any) -> xr.DataArray:
    data = np.arange(len(y) * len(x), dtype="float32").reshape(len(y), len(x))
    return xr.DataArray(data, dims=("y", "x"), coords={"y": y, "x": x, **names})


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        pytest.param(None, Kind.NONE, id="None"),
        pytest.param((None, None), Kind.NONE, id="no array, no bounds"),
        pytest.param((None, BOUNDS), Kind.NONE, id="no array"),
        pytest.param([None, None], Kind.SIMPLE, id="a list of two nulls is a list"),
        pytest.param([], Kind.SIMPLE, id="empty list"),
        pytest.param("<b>hi</b>", Kind.TEXT, id="str"),
        pytest.param(5, Kind.SIMPLE, id="int"),
        pytest.param(float("nan"), Kind.SIMPLE, id="nan"),
        pytest.param(np.float32(1.5), Kind.SIMPLE, id="numpy scalar"),
        pytest.param(pd.Timestamp("2024-01-02"), Kind.SIMPLE, id="Timestamp"),
        pytest.param(pd.Timedelta("1h"), Kind.SIMPLE, id="Timedelta"),
        pytest.param(pd.NaT, Kind.SIMPLE, id="NaT"),
        pytest.param(pd.NA, Kind.SIMPLE, id="NA"),
        pytest.param(datetime.time(1), Kind.SIMPLE, id="time"),
        pytest.param(decimal.Decimal("1.5"), Kind.SIMPLE, id="Decimal"),
        pytest.param(uuid.UUID(int=1), Kind.SIMPLE, id="UUID"),
        pytest.param({1, 2}, Kind.SIMPLE, id="set"),
        pytest.param((1, [1, 2, 3, 4]), Kind.SIMPLE, id="a number beside four numbers"),
        pytest.param({"a": "x", "b": [1]}, Kind.SIMPLE, id="dict of JSON"),
        pytest.param({"a": pd.DataFrame({"x": [1]}), "b": "text"}, Kind.BUNDLE, id="dict with a table"),
        pytest.param({"a": RGB}, Kind.BUNDLE, id="dict with an array"),
        pytest.param({"a": {"b": encoded("PNG")}}, Kind.BUNDLE, id="nested dict with an image"),
        pytest.param({"a": np.arange(3)}, Kind.SIMPLE, id="dict with a list of numbers"),
        pytest.param(np.arange(3), Kind.ARRAY, id="1-d array"),
        pytest.param(np.array(3.0), Kind.ARRAY, id="0-d array"),
        pytest.param(np.array([["a", "b"]]), Kind.ARRAY, id="array of text"),
        pytest.param(np.array([{}], object), Kind.SIMPLE, id="array of objects"),
        pytest.param(np.zeros(2, [("a", int), ("b", float)]), Kind.TABLE, id="structured array"),
        pytest.param(np.zeros((8, 8)), Kind.RASTER, id="2-d array"),
        pytest.param(np.ma.masked_equal(RGB, 0), Kind.RASTER, id="masked array"),
        pytest.param((RGB, BOUNDS), Kind.GEORASTER, id="pair"),
        pytest.param([RGB, tuple(BOUNDS)], Kind.GEORASTER, id="pair as a list"),
        pytest.param((RGB, np.array(BOUNDS)), Kind.GEORASTER, id="pair with array bounds"),
        pytest.param((RGB, shapely.box(10, 40, 12, 41)), Kind.GEORASTER, id="pair with a box"),
        pytest.param((RGB, POINTS), Kind.GEORASTER, id="pair with a frame"),
        pytest.param((encoded("PNG"), BOUNDS), Kind.IMAGE, id="image and bounds"),
        pytest.param(pd.DataFrame({"a": [1]}), Kind.TABLE, id="DataFrame"),
        pytest.param(pd.Series([1, 2]), Kind.TABLE, id="Series"),
        pytest.param(POINTS, Kind.FEATURES, id="GeoDataFrame"),
        pytest.param(POINTS.geometry, Kind.FEATURES, id="GeoSeries"),
        pytest.param(gpd.GeoDataFrame({"a": [1]}), Kind.TABLE, id="GeoDataFrame without geometry"),
        pytest.param(gpd.GeoDataFrame(), Kind.FEATURES, id="empty GeoDataFrame"),
        pytest.param(shapely.Point(1, 2), Kind.FEATURES, id="geometry"),
        pytest.param(pa.table({"a": [1]}), Kind.TABLE, id="Arrow table"),
        pytest.param(pa.chunked_array([[1, 2]]), Kind.TABLE, id="Arrow column"),
        pytest.param(POINTS.to_arrow(), Kind.FEATURES, id="GeoArrow stream"),
        pytest.param(labelled([1.5, 0.5], [0.5, 1.5]), Kind.GEORASTER, id="DataArray"),
        pytest.param(xr.DataArray(np.zeros((8, 8))), Kind.GEORASTER, id="DataArray without coordinates"),
        pytest.param(xr.DataArray([1, 2], dims="time"), Kind.TABLE, id="1-d DataArray"),
        pytest.param(xr.DataArray(1.5), Kind.SIMPLE, id="0-d DataArray"),
        pytest.param(HTMLResponse("hi"), Kind.RESPONSE, id="Response"),
        pytest.param(Image.new("RGB", (8, 8)), Kind.RASTER, id="Pillow image"),
    ],
)
def test_kinds(value: object, kind: Kind) -> None:
    """Each type of the contract is sorted into its kind."""
    assert classify(value).kind is kind


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "AVIF", "TIFF"])
def test_encoded_images_are_recognised_by_their_first_bytes(form: str) -> None:
    """Bytes of any kind, and a BytesIO read to its end, are images with the media type of their format."""
    stream = io.BytesIO(encoded(form))
    stream.read()

    for value in (encoded(form), bytearray(encoded(form)), memoryview(encoded(form)), stream):
        found = classify(value)
        assert (found.kind, found.value, found.media_type) == (
            Kind.IMAGE,
            encoded(form),
            f"image/{form.lower()}",
        )


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (object(), "object"),
        (b"hello", "bytes"),
        (io.BytesIO(b"hello"), "_io.BytesIO"),
        (lambda: 1, "function"),
        (xr.DataArray(np.array([["a"]])), "xarray.core.dataarray.DataArray"),
    ],
    ids=["object", "bytes", "BytesIO", "function", "xarray of text"],
)
def test_other_values_are_refused_by_name(value: object, name: str) -> None:
    """What can't be written is an error that names the Python type."""
    with pytest.raises(UnsupportedOutput) as error:
        classify(value)

    assert error.value.message.startswith("Result serialization failed:")
    assert name in error.value.message


@pytest.mark.parametrize(
    ("shape", "bands"),
    [
        ((8, 9), (1, 8, 9)),
        ((3, 8, 9), (3, 8, 9)),
        ((8, 9, 3), (3, 8, 9)),
        ((8, 9, 4), (4, 8, 9)),
        ((8, 9, 1), (1, 8, 9)),
        ((4, 8, 3), (4, 8, 3)),
        ((12, 2, 2), (12, 2, 2)),
        ((12, 8, 9), (12, 8, 9)),
        ((5, 3, 8, 9), (3, 8, 9)),
    ],
    ids=str,
)
def test_bands_come_first(shape: tuple[int, ...], bands: tuple[int, ...]) -> None:
    """Arrays become (bands, height, width), whatever their number of dimensions."""
    assert classify(np.zeros(shape)).value.shape == bands


@pytest.mark.parametrize(
    "bounds", [[10, 41, 12, 40], [500000, 0, 600000, 1], [10, 40, 10, 41], [0, 0, np.inf, 1]], ids=str
)
def test_bounds_that_are_not_degrees_are_refused(bounds: list[float]) -> None:
    """Bounds upside down, in metres, without area or infinite are an error that shows them."""
    with pytest.raises(UnsupportedOutput, match="west, south, east, north in degrees"):
        classify((RGB, bounds))


def test_bounds_over_the_dateline_end_beyond_180() -> None:
    """A western edge above the eastern one means a box over the dateline."""
    assert classify((RGB, [170, -10, -170, 10])).bounds == (170, -10, 190, 10)


def test_bounds_of_a_projected_frame_are_degrees() -> None:
    """A frame given as bounds is taken to longitude and latitude first."""
    assert classify((RGB, POINTS.to_crs(3857))).bounds == pytest.approx(tuple(BOUNDS))


@pytest.mark.parametrize("ascending", [True, False])
def test_xarray_is_turned_north_up(ascending: bool) -> None:
    """The first row of the bands is the northern one, whichever way y runs."""
    y = [40.5, 41.5, 42.5] if ascending else [42.5, 41.5, 40.5]
    found = classify(labelled(y, [10.5, 11.5]))

    assert found.value[0, :, 0].tolist() == ([4, 2, 0] if ascending else [0, 2, 4])
    assert (found.bounds, found.crs) == ((10, 40, 12, 43), "EPSG:4326")


@pytest.mark.parametrize("where", ["spatial_ref", "epsg", "attribute"])
def test_xarray_keeps_its_reference_system(where: str) -> None:
    """A CRS is found as rioxarray, stackstac and hand-written attributes leave it."""
    array: Any = labelled([4500015.0, 4499985.0], [500015.0, 500045.0])
    if where == "spatial_ref":
        array = RasterArray(array).write_crs(32633)
    elif where == "epsg":
        array = array.assign_coords(epsg=32633)
    else:
        array.attrs["crs"] = "EPSG:32633"

    found = classify(array)

    assert (found.bounds, found.crs) == ((500000, 4499970, 500060, 4500030), "EPSG:32633")


@pytest.mark.parametrize(
    ("x", "y"),
    [([0, 1, 2], [0, 1, 2]), ([5e5, 5.1e5], [4e6, 4.1e6])],
    ids=["pixel numbers", "metres of no known system"],
)
def test_xarray_of_unknown_place_has_bounds_of_no_crs(x: list[float], y: list[float]) -> None:
    """Coordinates that can't be degrees, without a CRS, are kept but say nothing about the place."""
    found = classify(labelled(y, x))

    step_x, step_y = (x[1] - x[0]) / 2, (y[1] - y[0]) / 2
    assert found.bounds == (x[0] - step_x, y[0] - step_y, x[-1] + step_x, y[-1] + step_y)
    assert found.crs is None


def test_xarray_dimensions_in_any_order() -> None:
    """Bands, latitude and longitude are recognised by name; a time of length one is dropped."""
    array = xr.DataArray(
        np.zeros((4, 1, 5, 2)),
        dims=("lon", "time", "lat", "band"),
        coords={"lon": [0.5, 1.5, 2.5, 3.5], "lat": [4.5, 3.5, 2.5, 1.5, 0.5]},
    )

    found = classify(array)

    assert found.value.shape == (2, 5, 4)
    assert found.bounds == (0, 0, 4, 5)


def test_variables_of_a_dataset_are_bands() -> None:
    """A Dataset of several variables has one band for each."""
    first = labelled([1.5, 0.5], [0.5, 1.5])

    found = classify(xr.Dataset({"red": first, "green": first + 10}))

    assert found.value[:, 0, 0].tolist() == [0, 10]
    assert found.bounds == (0, 0, 2, 2)


def test_fill_value_of_an_xarray_is_masked() -> None:
    """Pixels equal to the _FillValue attribute have no data."""
    array = labelled([1.5, 0.5], [0.5, 1.5]).astype("int16").assign_attrs(_FillValue=3)

    assert classify(array).value.mask.tolist() == [[[False, False], [False, True]]]


def test_geoparquet_metadata_makes_features() -> None:
    """An Arrow table with WKB and GeoParquet metadata has its geometry and CRS back."""
    buffer = io.BytesIO()
    POINTS.to_crs(3857).to_parquet(buffer)
    buffer.seek(0)

    found = classify(pa.parquet.read_table(buffer))

    assert found.value.crs == "EPSG:3857"
    assert found.value.geometry.iloc[0].geom_type == "Point"


def test_a_figure_is_a_png() -> None:
    """A matplotlib figure is drawn."""
    found = classify(Figure(figsize=(1, 1)))

    assert found.media_type == "image/png"
    assert Image.open(io.BytesIO(found.value)).size == (100, 100)
