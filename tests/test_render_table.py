"""Rows and features in the textual and binary table formats, opened in the libraries that read them."""

from __future__ import annotations

import csv
import io
import json
import time
import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import geopandas as gpd
import numpy as np
import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree

from tileserver.errors import UnsupportedOutput
from tileserver.formats import FORMATS, Kind
from tileserver.protocol import Job
from tileserver.render import encoder
from tileserver.render.classify import Classified

JOB = Job(owner="c", bundle="b", udf="u", arguments={}, formats=(), default="data")


def encoded(value: Any, name: str, kind: Kind | None = None) -> tuple[bytes, dict[str, Any]]:
    """A value in a format; frames are sorted into their kind."""
    if kind is None:
        kind = Kind.FEATURES if isinstance(value, gpd.GeoDataFrame) else Kind.TABLE
    row = FORMATS[name]
    return encoder(row)(Classified(kind, value, value), row, JOB)


def strict(body: bytes) -> Any:
    """JSON parsed without the tokens that only Python knows."""

    def refuse(token: str) -> None:
        raise AssertionError(f"{token} is not JSON")

    return json.loads(body, parse_constant=refuse)


def simple(value: Any) -> Any:
    return strict(encoded(value, "json", Kind.SIMPLE)[0])


@pytest.fixture
def cities() -> gpd.GeoDataFrame:
    """Two points in Web Mercator, at known degrees."""
    points = gpd.GeoSeries([shapely.Point(10, 50), shapely.Point(-20, 40)], crs=4326).to_crs(3857)
    return gpd.GeoDataFrame({"name": ["a", "b"], "size": [1, 2]}, geometry=points)


@pytest.fixture
def wild() -> pd.DataFrame:
    """A column of every dtype that has a form in every format."""
    return pd.DataFrame(
        {
            "whole": [1, 2**62],
            "real": [1.5, np.nan],
            "single": np.array([0.5, np.inf], dtype="float32"),
            "flag": [True, False],
            "text": ["<a&b>", None],
            "category": pd.Categorical(["x", None]),
            "nullable": pd.array([1, None], dtype="Int64"),
            "instant": pd.DatetimeIndex(["2024-01-02 03:04:05", "NaT"]),
            "zoned": pd.DatetimeIndex(["2024-01-02 03:04:05", "NaT"]).tz_localize("Europe/Berlin"),
            "utc": pd.DatetimeIndex(["2024-01-02 03:04:05.25", "NaT"]).tz_localize("UTC"),
            "span": pd.to_timedelta(["90s", None]),
            "period": pd.PeriodIndex(["2024-01", "2024-02"], freq="M"),
            "interval": pd.cut(pd.Series([1, 5]), [0, 3, 6]),
            "nested": [[1, 2], [3]],
            "record": [{"k": 1}, {"k": 2}],
            "raw": [b"\x00\xff", b""],
        }
    )


def test_json_of_a_table_is_an_array_of_row_objects(wild: pd.DataFrame) -> None:
    """Each row is an object; what is missing or not finite is null, times are ISO 8601, spans seconds."""
    first, second = strict(encoded(wild, "json")[0])

    assert first == {
        "whole": 1,
        "real": 1.5,
        "single": 0.5,
        "flag": True,
        "text": "<a&b>",
        "category": "x",
        "nullable": 1,
        "instant": "2024-01-02T03:04:05",
        "zoned": "2024-01-02T03:04:05+01:00",
        "utc": "2024-01-02T03:04:05.250000+00:00",
        "span": 90.0,
        "period": "2024-01",
        "interval": "(0, 3]",
        "nested": [1, 2],
        "record": {"k": 1},
        "raw": "AP8=",
    }
    assert second["whole"] == 2**62
    missing = ("real", "single", "text", "category", "nullable", "instant", "zoned", "utc", "span")
    assert {second[name] for name in missing} == {None}


def test_json_of_features_is_a_feature_collection_in_degrees(cities: gpd.GeoDataFrame) -> None:
    """Features are reprojected, and their bounds are reported in degrees."""
    body, facts = encoded(cities, "json")

    found = strict(body)
    assert found["type"] == "FeatureCollection"
    assert found["features"][0]["properties"] == {"name": "a", "size": 1}
    assert found["features"][1]["geometry"]["coordinates"] == pytest.approx([-20, 40])
    assert facts["bounds"] == pytest.approx([-20, 40, 10, 50])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (float("nan"), None),
        (float("-inf"), None),
        (pd.NaT, None),
        (pd.NA, None),
        (np.bool_(True), True),
        (2**70, 2**70),
        (Decimal("1.5"), 1.5),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (pd.Timestamp("2024-01-02", tz="UTC"), "2024-01-02T00:00:00+00:00"),
        (datetime(2024, 1, 2, tzinfo=UTC), "2024-01-02T00:00:00+00:00"),
        (date(2024, 1, 2), "2024-01-02"),
        (np.datetime64("2024-01-02T03"), "2024-01-02T03"),
        (np.datetime64("NaT"), None),
        (timedelta(minutes=1), 60.0),
        (np.timedelta64(1500, "ms"), 1.5),
        ({3, 1, 2}, [1, 2, 3]),
        ((1, (2,)), [1, [2]]),
        ({1: "a", None: "b", False: "c"}, {"1": "a", "null": "b", "false": "c"}),
        (np.array([[1.0, np.nan]]), [[1.0, None]]),
        (np.array(5), 5),
        (np.ma.MaskedArray([1, 2], [False, True]), [1, None]),
        (pd.Series([1.0, None]), [1.0, None]),
        (pd.DataFrame({"a": [1]}), [{"a": 1}]),
        (shapely.Point(1, 2), {"type": "Point", "coordinates": [1.0, 2.0]}),
        ("\ud800", "\ud800"),
    ],
    ids=repr,
)
def test_simple_values_become_plain_json(value: Any, expected: Any) -> None:
    """Python, numpy and pandas values have a form that every JSON parser takes."""
    assert simple({"v": value}) == {"v": expected}


ANY_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.datetimes(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner),
    max_leaves=20,
)


@given(ANY_VALUE)
def test_json_is_always_strict(value: Any) -> None:
    """No nesting of plain values makes anything but strict JSON, in a value or in a column."""
    simple(value)

    column = pd.DataFrame({"v": pd.Series([value, None], dtype=object)})
    assert len(strict(encoded(column, "json")[0])) == 2


def test_json_names_the_column_and_type_it_cannot_say() -> None:
    """An object without a JSON form is an error that names where it is and what it is."""
    frame = pd.DataFrame({"fine": [1], "odd": [1j]})

    with pytest.raises(UnsupportedOutput, match=r"^Result serialization failed: column 'odd': .* complex"):
        encoded(frame, "json")


def test_json_refuses_a_value_that_holds_itself() -> None:
    """A circular list is an error, not a crash."""
    circular: list[Any] = []
    circular.append(circular)

    with pytest.raises(UnsupportedOutput, match=r"^Result serialization failed: list"):
        encoded(circular, "json", Kind.SIMPLE)


def test_json_text_is_a_json_string() -> None:
    """A str asked as JSON is a string in quotes."""
    assert strict(encoded('a "b"\u2028', "json", Kind.TEXT)[0]) == 'a "b"\u2028'


def test_json_of_a_bundle_has_its_tables_as_rows(cities: gpd.GeoDataFrame) -> None:
    """Asked for JSON alone, a bundle is an object with rows and feature collections in it."""
    value = {"rows": pd.DataFrame({"a": [1]}), "places": cities, "n": 2, 'q"': "text"}

    found = strict(encoded(value, "json", Kind.BUNDLE)[0])

    assert (found["rows"], found["n"], found['q"']) == ([{"a": 1}], 2, "text")
    assert found["places"]["type"] == "FeatureCollection"


def test_json_of_a_bundle_with_a_raster_is_refused() -> None:
    """A raster has no JSON form; the error names its key."""
    with pytest.raises(UnsupportedOutput, match=r"key 'picture': .*ndarray"):
        encoded({"picture": np.zeros((2, 2))}, "json", Kind.BUNDLE)


@pytest.mark.parametrize(
    ("columns", "keys"),
    [
        (["a", "a", "a_2"], ["a", "a_3", "a_2"]),
        ([1, "1"], ["1", "1_2"]),
        ([("x", "y"), ("x", "")], ["x_y", "x"]),
        ([None, 2.5], ["null", "2.5"]),
    ],
    ids=["repeated", "numbers", "levels", "odd"],
)
def test_column_names_become_distinct_text(columns: list[Any], keys: list[str]) -> None:
    """No column is lost to another one of the same name."""
    frame = pd.DataFrame([range(len(columns))], columns=pd.Index(columns))

    assert list(strict(encoded(frame, "json")[0])[0]) == keys


def test_geojson_of_a_plain_table_has_null_geometries() -> None:
    """A frame without geometry is a FeatureCollection of features without a place."""
    found = strict(encoded(pd.DataFrame({"a": [1]}), "geojson")[0])

    assert found["features"] == [{"type": "Feature", "properties": {"a": 1}, "geometry": None}]


def test_geojson_keeps_further_geometry_columns_and_missing_ones(cities: gpd.GeoDataFrame) -> None:
    """A second geometry column is among the properties, in degrees; a missing geometry is null."""
    cities["centre"] = cities.geometry
    cities.loc[1, "geometry"] = None

    first, second = strict(encoded(cities, "geojson")[0])["features"]

    assert first["properties"]["centre"]["coordinates"] == pytest.approx([10, 50])
    assert second["geometry"] is None


def test_geojson_opens_in_geopandas(cities: gpd.GeoDataFrame) -> None:
    """What we write is read back with the same places and values."""
    found = gpd.read_file(io.BytesIO(encoded(cities, "geojson")[0]))

    assert found.geom_equals_exact(cities.to_crs(4326), 1e-9).all()
    assert found["size"].tolist() == [1, 2]


@pytest.mark.parametrize("name", ["json", "geojson", "csv", "parquet", "feather", "excel", "xml"])
def test_features_report_their_bounds_in_every_format(name: str, cities: gpd.GeoDataFrame) -> None:
    """Bounds in degrees come with features whatever the format; without rows there are none."""
    assert encoded(cities, name)[1]["bounds"] == pytest.approx([-20, 40, 10, 50])
    assert "bounds" not in encoded(cities.iloc[:0], name)[1]


def test_parquet_restores_dtypes_and_index(wild: pd.DataFrame) -> None:
    """Parquet gives back the same frame, its named index included."""
    frame = wild.drop(columns=["period", "interval"]).set_index("text")

    found = pd.read_parquet(io.BytesIO(encoded(frame, "parquet")[0]))

    nested = ["nested"]
    pd.testing.assert_frame_equal(found.drop(columns=nested), frame.drop(columns=nested))
    assert [list(cell) for cell in found["nested"]] == [[1, 2], [3]]


@pytest.mark.parametrize("count", [2, 0], ids=["rows", "empty"])
@pytest.mark.parametrize("name", ["parquet", "feather"])
def test_features_keep_geometry_and_crs(name: str, count: int, cities: gpd.GeoDataFrame) -> None:
    """GeoParquet and Arrow files open as a GeoDataFrame with its CRS, also without rows."""
    frame = cities.iloc[:count]
    read = {"parquet": gpd.read_parquet, "feather": gpd.read_feather}[name]

    found = read(io.BytesIO(encoded(frame, name)[0]))

    assert found.crs == frame.crs
    assert found.geom_equals(frame).all()
    assert found["name"].tolist() == frame["name"].tolist()


def test_geoparquet_has_geo_metadata(cities: gpd.GeoDataFrame) -> None:
    """The file metadata has the key by which clients know GeoParquet."""
    metadata = pyarrow.parquet.read_schema(io.BytesIO(encoded(cities, "parquet")[0])).metadata

    assert json.loads(metadata[b"geo"])["primary_column"] == "geometry"


def test_parquet_column_names_are_text() -> None:
    """Numbers as column names become text; pandas attributes that JSON can't say do no harm."""
    frame = pd.DataFrame({0: [1], ("a", "b"): [2]})
    frame.attrs["odd"] = object()

    assert pd.read_parquet(io.BytesIO(encoded(frame, "parquet")[0])).columns.tolist() == ["0", "a_b"]


@pytest.mark.parametrize("name", ["parquet", "feather"])
@pytest.mark.parametrize(
    "cells", [[1, "a"], [object()], [1j], [2**70]], ids=["mixed", "object", "complex", "huge"]
)
def test_arrow_formats_name_the_column_they_cannot_hold(name: str, cells: list[Any]) -> None:
    """What Arrow can't convert is an error that names the column."""
    frame = pd.DataFrame({"fine": [1] * len(cells), "odd": pd.Series(cells, dtype=object)})

    with pytest.raises(UnsupportedOutput, match=rf"^Result serialization failed: {name} .*'odd'"):
        encoded(frame, name)


def test_parquet_names_a_repeated_column() -> None:
    """Two columns of one name can't be told apart in Parquet."""
    with pytest.raises(UnsupportedOutput, match="called 'a'"):
        encoded(pd.DataFrame([[1, 2]], columns=["a", "a"]), "parquet")


def test_feather_is_an_uncompressed_arrow_file(wild: pd.DataFrame) -> None:
    """The body is an Arrow IPC file, which pandas opens too."""
    body = encoded(wild.drop(columns=["period", "interval"]), "feather")[0]

    assert pa.ipc.open_file(body).read_all()["whole"].to_pylist() == [1, 2**62]
    assert pd.read_feather(io.BytesIO(body))["zoned"].dt.tz is not None


def test_csv_has_a_header_no_index_and_wkt(cities: gpd.GeoDataFrame) -> None:
    """CSV leaves the index out and writes geometry as exact WKT in the frame's coordinates."""
    frame = cities.set_index(pd.Index(["p", "q"], name="key"))

    found = pd.read_csv(io.BytesIO(encoded(frame, "csv")[0]))

    assert found.columns.tolist() == ["name", "size", "geometry"]
    assert shapely.from_wkt(found["geometry"][0]) == cities.geometry[0]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_csv_gives_back_any_text(cells: list[str]) -> None:
    """Quotes, commas and line ends of any kind inside a cell survive."""
    frame = pd.DataFrame({"n": range(len(cells)), "text": pd.Series(cells, dtype=object)})

    lines = list(csv.reader(io.StringIO(encoded(frame, "csv")[0].decode(), newline="")))

    assert [line[1] for line in lines[1:]] == cells


def sheet(frame: pd.DataFrame) -> Any:
    return openpyxl.load_workbook(io.BytesIO(encoded(frame, "excel")[0]), rich_text=False)["udf"]


def test_excel_opens_with_every_dtype(wild: pd.DataFrame) -> None:
    """A workbook holds numbers, dates and flags as such, and all else as text."""
    found = sheet(wild)
    row = dict(zip((cell.value for cell in found[1]), (cell.value for cell in found[2]), strict=True))

    assert row["instant"] == datetime(2024, 1, 2, 3, 4, 5)
    assert row["zoned"] == "2024-01-02T03:04:05+01:00"
    assert (row["whole"], row["flag"], row["nested"], row["span"]) == (1, True, "[1,2]", 90)
    assert found.cell(3, 1).value == str(2**62)


@pytest.mark.parametrize("text", ["=1+1", "#N/A", "+1", "\x00tail", "2024-01-01"])
def test_excel_never_takes_text_for_anything_else(text: str) -> None:
    """Text that looks like a formula or an error stays text; characters XML can't hold are left out."""
    cell = sheet(pd.DataFrame({"=a": [text]}))["A2"]

    assert (cell.data_type, cell.value) == ("s", text.replace("\x00", ""))


def test_excel_says_when_a_geometry_is_too_long() -> None:
    """A cell holds 32,767 characters: a longer WKT becomes a note, a longer text an error."""
    ring = shapely.Point(0, 0).buffer(1, quad_segs=500)
    frame = gpd.GeoDataFrame({"a": [1]}, geometry=[ring], crs=4326)

    assert sheet(frame)["B2"].value.startswith("POLYGON (its ")
    with pytest.raises(UnsupportedOutput, match="32,767 characters"):
        encoded(pd.DataFrame({"a": ["x" * 32_768]}), "excel")


@pytest.mark.parametrize("shape", [(1_048_576, 1), (1, 16_385)], ids=["rows", "columns"])
def test_excel_names_the_limit_of_a_sheet(shape: tuple[int, int]) -> None:
    """More rows or columns than a sheet has are an error that names both limits."""
    frame = pd.DataFrame(np.zeros(shape, dtype="int8"))

    with pytest.raises(UnsupportedOutput, match="1,048,575 rows below its header and 16,384 columns"):
        encoded(frame, "excel")


def test_xml_opens_in_pandas_and_lxml() -> None:
    """XML has a row element for each row, valid element names, and no forbidden character."""
    frame = pd.DataFrame({"a b": ["<&\x01\r", None], "2nd": [1, 2], "größe": [True, False]})

    body = encoded(frame, "xml")[0]

    assert [child.tag for child in etree.fromstring(body)[0]] == ["a_b", "_2nd", "größe"]
    assert etree.fromstring(body).findtext("row/a_b") == "<&\r"
    assert pd.read_xml(io.BytesIO(body))["_2nd"].tolist() == [1, 2]


@given(st.text(), st.text())
def test_xml_is_always_well_formed(name: str, value: str) -> None:
    """No column name and no text makes XML that a strict parser refuses."""
    root = etree.fromstring(encoded(pd.DataFrame({name: pd.Series([value], dtype=object)}), "xml")[0])

    assert len(root) == 1 and len(root[0]) == 1


def test_crs_without_degrees_is_refused() -> None:
    """A CRS that has no transformation to degrees is named."""
    local = (
        'ENGCRS["site",EDATUM["site"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],LENGTHUNIT["metre",1]]'
    )
    frame = gpd.GeoDataFrame(geometry=[shapely.Point(1, 2)], crs=local)

    with pytest.raises(UnsupportedOutput, match="'site'"):
        encoded(frame, "geojson")


def test_a_hundred_thousand_rows_take_no_longer_than_they_should() -> None:
    """JSON of a large table is written by column; the bound is wide, it catches value-by-value code."""
    count = 100_000
    frame = pd.DataFrame(
        {
            **{f"n{number}": np.random.default_rng(number).random(count) for number in range(4)},
            "text": [f"row {number}" for number in range(count)],
            "utc": pd.date_range("2020", periods=count, freq="s", tz="UTC"),
        }
    )

    begin = time.process_time()
    body, _ = encoded(frame, "json")

    assert time.process_time() - begin < 5
    assert body.count(b"{") == count
