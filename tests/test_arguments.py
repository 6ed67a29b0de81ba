"""How a UDF's arguments are made: contract, sections 4.3, 5 and 5.1, row by row."""

from __future__ import annotations

import datetime
import json
import math
import uuid
from typing import Any

import pandas as pd
import pytest
import shapely
from geopandas import GeoDataFrame
from mercantile import Tile

import tileserver.fused
from tileserver import signature, tiles
from tileserver.errors import CoercionError
from tileserver.protocol import RenderOptions
from tileserver.worker import arguments

TILE = Tile(x=1, y=1, z=2)
BOUNDS = list(tiles.bounds(TILE))
BOX = shapely.box(*tiles.bounds(TILE))
SQUARE = {"type": "Polygon", "coordinates": [[[1, 2], [3, 2], [3, 4], [1, 4], [1, 2]]]}
COLLECTION = {
    "type": "FeatureCollection",
    "features": [{"type": "Feature", "properties": {}, "geometry": SQUARE}],
}

IMPORTS = """
import datetime, typing, uuid
from typing import *
import geopandas as gpd, numpy as np, pandas as pd, shapely
from shapely.geometry import Polygon
class Custom: pass
"""


def coerced(
    parameters: str, given: dict[str, Any], tile: Tile | None = None, **options: Any
) -> dict[str, Any]:
    """The arguments of ``def udf(PARAMETERS)`` for a request."""
    imports = options.pop("imports", IMPORTS)
    source = f"{imports}\n@fused.udf\ndef udf({parameters}): pass\n"
    names: dict[str, Any] = {"fused": tileserver.fused}
    exec(compile(source, "udf.py", "exec", dont_inherit=True), names)
    found = signature.read(source)
    return arguments.coerce(names["udf"], given, tile, signature=found, options=RenderOptions(**options))


def one(annotation: str, given: Any, **options: Any) -> Any:
    """The value of one parameter for a request."""
    parameter = f"p: {annotation}" if annotation else "p"
    return coerced(parameter, {"p": given}, **options)["p"]


@pytest.mark.parametrize(
    ("annotation", "text", "expected"),
    [
        ("", "5", "5"),
        ("str", "5", "5"),
        ("int", "5", 5),
        ("int", " 1_000 ", 1000),
        ("float", "1e3", 1000.0),
        ("float", "-inf", -math.inf),
        ("bool", "true", True),
        ("bool", "FALSE", False),
        ("bool", "", False),
        ("bool", "0", True),
        ("bool", "no", True),
        ("list", "[1, 2]", [1, 2]),
        ("List", '["a"]', ["a"]),
        ("list[int]", '["1"]', ["1"]),
        ("List[int]", "[1.5]", [1.5]),
        ("dict", '{"a": 1}', {"a": 1}),
        ("Dict[str, int]", '{"a": "1"}', {"a": "1"}),
        ("tuple", "[1, 2]", (1, 2)),
        ("tuple[int, ...]", "[1]", (1,)),
        ("Optional[int]", "5", 5),
        ("int | None", "5", 5),
        ("None | float", "5", 5.0),
        ("Optional[list[int]]", "[5]", [5]),
        ("Annotated[int, 'pixels']", "5", 5),
        ("int | str", "5", "5"),
        ("Union[int, float, None]", "5", "5"),
        ("Literal['a', 'b']", "c", "c"),
        ("set", "[1]", "[1]"),
        ("bytes", "x", "x"),
        ("Any", "5", "5"),
        ("complex", "1j", "1j"),
        ("Custom", "5", "5"),
        ("np.float32", "5", "5"),
        ("uuid.UUID", "12345678123456781234567812345678", uuid.UUID("12345678123456781234567812345678")),
        ("datetime.datetime", "2024-05-06T07:08:09", datetime.datetime(2024, 5, 6, 7, 8, 9)),
        (
            "datetime.datetime",
            "2024-05-06T07:08:09Z",
            datetime.datetime(2024, 5, 6, 7, 8, 9, tzinfo=datetime.UTC),
        ),
        ("datetime.datetime", "86400.5", datetime.datetime(1970, 1, 2, 0, 0, 0, 500000, tzinfo=datetime.UTC)),
        ("datetime.date", "2024-05-06", datetime.date(2024, 5, 6)),
        ("datetime.date", "86400", datetime.date(1970, 1, 2)),
        ("datetime.time", "07:08", datetime.time(7, 8)),
        ("datetime.time", "3600", datetime.time(1, 0)),
    ],
)
def test_text_becomes_the_annotated_type(annotation: str, text: str, expected: object) -> None:
    """The table of contract, section 5, for values that compare with ``==``."""
    value = one(annotation, text)

    assert value == expected
    assert type(value) is type(expected)


def test_float_accepts_nan() -> None:
    """Python's own spelling of not-a-number is a float."""
    assert math.isnan(one("float", "nan"))


@pytest.mark.parametrize(
    ("annotation", "text", "python_class"),
    [
        ("int", "5.0", "ValueError"),
        ("int", "", "ValueError"),
        ("int", "abc", "ValueError"),
        ("float", "abc", "ValueError"),
        ("list", "1,2", "JSONDecodeError"),
        ("dict", "", "JSONDecodeError"),
        ("tuple", "5", "TypeError"),
        ("uuid.UUID", "x", "ValueError"),
        ("datetime.datetime", "yesterday", "ValueError"),
        ("pd.DataFrame", "nonsense", "ValueError"),
        ("gpd.GeoDataFrame", json.dumps(SQUARE), "ValueError"),
        ("shapely.Geometry", "POINT (x)", "GEOSException"),
        ("fused.types.Bounds", "[1, 2, 3]", "ValueError"),
        ("fused.types.Bounds", '[1, 2, 3, "4"]', "ValueError"),
        ("fused.types.Tile", "[1, 2, 3, 4, 5]", "ValueError"),
        ("fused.types.Bbox", json.dumps(SQUARE), "ValueError"),
        ("fused.types.Bounds", '{"type": "FeatureCollection", "features": []}', "ValueError"),
    ],
)
def test_text_that_does_not_fit_names_the_parameter(annotation: str, text: str, python_class: str) -> None:
    """A failed coercion says which parameter, what it takes, and Python's own message."""
    with pytest.raises(CoercionError) as caught:
        one(annotation, text)

    assert caught.value.message.startswith(f"{python_class}: parameter 'p' takes ")
    assert caught.value.exception_class == python_class


@pytest.mark.parametrize("annotation", ["", "int", "list", "fused.types.Bounds", "gpd.GeoDataFrame"])
def test_none_stays_none(annotation: str) -> None:
    """None is passed as None whatever the annotation."""
    assert one(annotation, None) is None


@pytest.mark.parametrize(
    "text", ['[{"a": 1}, {"a": 2}]', '{"a": {"0": 1, "1": 2}}'], ids=["records", "columns"]
)
def test_dataframe_reads_json(text: str) -> None:
    """A table may come as records or as columns."""
    assert one("pd.DataFrame", text)["a"].tolist() == [1, 2]


def test_geodataframe_reads_a_feature_collection() -> None:
    """A FeatureCollection becomes rows in degrees."""
    frame = one("gpd.GeoDataFrame", json.dumps(COLLECTION))

    assert isinstance(frame, GeoDataFrame)
    assert frame.crs == "EPSG:4326"
    assert frame.geometry[0].equals(shapely.box(1, 2, 3, 4))


def test_geodataframe_reads_four_numbers_as_a_box() -> None:
    """Four numbers become one box."""
    frame = one("gpd.GeoDataFrame", "[1, 2, 3, 4]")

    assert len(frame) == 1
    assert frame.geometry[0].equals(shapely.box(1, 2, 3, 4))


@pytest.mark.parametrize("annotation", ["shapely.Geometry", "Polygon", "shapely.geometry.base.BaseGeometry"])
@pytest.mark.parametrize(
    "text", ["POLYGON ((1 2, 3 2, 3 4, 1 4, 1 2))", json.dumps(SQUARE)], ids=["wkt", "geojson"]
)
def test_geometry_reads_wkt_and_geojson(annotation: str, text: str) -> None:
    """A geometry may come as WKT, or as GeoJSON (ours)."""
    assert one(annotation, text).equals(shapely.box(1, 2, 3, 4))


AREAS = pytest.mark.parametrize(
    "text", ["[1, 2, 3, 4]", "1,2,3,4", json.dumps(COLLECTION)], ids=["list", "commas", "features"]
)


@AREAS
def test_bounds_are_a_list_of_four(text: str) -> None:
    """Every spelling of an area gives a plain list of four numbers."""
    assert one("fused.types.Bounds", text) == [1, 2, 3, 4]


@AREAS
def test_bbox_is_a_polygon(text: str) -> None:
    """``Bbox`` is the box of the area."""
    assert one("fused.types.Bbox", text).equals(shapely.box(1, 2, 3, 4))


@AREAS
@pytest.mark.parametrize("name", ["Tile", "TileGDF"])
def test_tile_is_a_frame_with_the_bounding_tile(name: str, text: str) -> None:
    """``Tile`` is one row with x, y, z of the smallest tile that holds the area, and its geometry."""
    frame = one(f"fused.types.{name}", text)

    expected = tiles.bounding_tile((1, 2, 3, 4))
    assert list(frame.columns) == ["x", "y", "z", "geometry"]
    assert tuple(frame.loc[0, ["x", "y", "z"]]) == tuple(expected)
    assert frame.crs == "EPSG:4326"


def test_tile_keeps_the_x_y_z_it_is_given() -> None:
    """A FeatureCollection that names its tile is believed."""
    feature = {"type": "Feature", "geometry": SQUARE, "properties": {"x": 7, "y": 8, "z": 9}}
    text = json.dumps({"type": "FeatureCollection", "features": [feature]})

    assert tuple(one("fused.types.Tile", text).loc[0, ["x", "y", "z"]]) == (7, 8, 9)
    assert one("fused.types.TileXYZ", text) == Tile(x=7, y=8, z=9)


@AREAS
def test_tile_xyz_is_a_mercantile_tile(text: str) -> None:
    """``TileXYZ`` is the smallest tile that holds the area."""
    assert one("fused.types.TileXYZ", text) == tiles.bounding_tile((1, 2, 3, 4))


def test_the_whole_world_is_the_tile_of_zoom_0() -> None:
    """Latitudes beyond web Mercator don't fail."""
    assert one("fused.types.TileXYZ", "[-180, -90, 180, 90]") == Tile(x=0, y=0, z=0)


@AREAS
def test_viewport_has_no_x_y_z(text: str) -> None:
    """``ViewportGDF`` adds nothing to the geometry."""
    assert list(one("fused.types.ViewportGDF", text).columns) == ["geometry"]


@pytest.mark.parametrize(
    ("annotation", "text", "expected"),
    [
        ("'int'", "5", int),
        ("'float'", "5", float),
        ("'Optional[int]'", "5", int),
        ("'list[int]'", "[5]", list),
        ("'datetime'", "2024-05-06", datetime.datetime),
        ("'datetime.datetime'", "2024-05-06", datetime.datetime),
        ("'date'", "2024-05-06", datetime.date),
        ("'time'", "07:08", datetime.time),
        ("'UUID'", "12345678123456781234567812345678", uuid.UUID),
        ("'uuid.UUID'", "12345678123456781234567812345678", uuid.UUID),
        ("'pd.DataFrame'", "[]", pd.DataFrame),
        ("'Optional[geopandas.GeoDataFrame]'", "[1, 2, 3, 4]", GeoDataFrame),
        ("'Bounds'", "[1, 2, 3, 4]", list),
        ("'Bounds | None'", "[1, 2, 3, 4]", list),
        ("'Optional[Tile]'", "[1, 2, 3, 4]", GeoDataFrame),
        ("'fused.types.TileXYZ'", "[1, 2, 3, 4]", Tile),
        ("Optional['Bounds']", "[1, 2, 3, 4]", list),
        ("'Nonsense'", "5", str),
    ],
)
@pytest.mark.parametrize(
    "imports", [IMPORTS, "", "import time, datetime"], ids=["imported", "bare", "modules"]
)
def test_string_annotations_are_resolved(annotation: str, text: str, expected: type, imports: str) -> None:
    """A string means what the function's globals say, else the well-known type of that name."""
    if annotation.startswith("Optional["):
        imports = f"{imports}\nfrom typing import Optional"

    assert type(one(annotation, text, imports=imports)) is expected


def test_postponed_annotations_are_resolved() -> None:
    """``from __future__ import annotations`` changes nothing."""
    imports = """
from __future__ import annotations
from datetime import date as day
Bounds = fused.types.Bounds
"""

    values = coerced(
        "d: day, b: Bounds, n: int = 1", {"d": "2024-05-06", "b": "[1,2,3,4]", "n": "2"}, imports=imports
    )

    assert values == {"d": datetime.date(2024, 5, 6), "b": [1, 2, 3, 4], "n": 2}


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        ("list", [1, "a", True, "NaN"]),
        ("List[str]", [1, "a", True, "NaN"]),
        ("tuple", (1, "a", True, "NaN")),
        ("", [1, "a", True, "NaN"]),
        ("set", [1, "a", True, "NaN"]),
        ("str", "NaN"),
        ("bool", True),
        ("Literal['a', 'b']", "NaN"),
    ],
)
def test_a_repeated_key_is_a_list_or_its_last_value(annotation: str, expected: object) -> None:
    """Containers get all values, read as JSON scalars where they are any; scalars get the last."""
    assert one(annotation, ["1", "a", "true", "NaN"]) == expected


def test_bounds_may_be_a_repeated_key() -> None:
    """An array on the wire is a repeated key."""
    assert one("fused.types.Bounds", ["1", "2", "3", "4"]) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("annotation", "given", "expected"),
    [
        ("int", 5, 5),
        ("int", 5.0, 5),
        ("float", 5, 5.0),
        ("str", 5, "5"),
        ("str", [1, 2], "[1, 2]"),
        ("bool", False, False),
        ("list", [1, 2], [1, 2]),
        ("dict", {"a": [1]}, {"a": [1]}),
        ("tuple", [1, 2], (1, 2)),
        ("fused.types.Bounds", [1, 2, 3, 4], [1, 2, 3, 4]),
        ("", {"a": 1}, {"a": 1}),
    ],
)
def test_json_values_are_coerced_too(annotation: str, given: Any, expected: object) -> None:
    """Stored defaults and posted objects may hold more than text."""
    assert one(annotation, given) == expected


def test_a_table_may_be_a_list_of_records() -> None:
    """A list of JSON objects is not a repeated key."""
    assert one("pd.DataFrame", [{"a": 1}, {"a": 2}])["a"].tolist() == [1, 2]


def test_names_that_are_no_parameters_are_ignored() -> None:
    """Other query names don't reach the function."""
    assert coerced("n: int = 1", {"n": "2", "other": "3"}) == {"n": 2}


def test_kwargs_receive_the_rest_as_text() -> None:
    """``**kwargs`` gets every other name, as text."""
    values = coerced("n: int = 1, **kwargs", {"n": "2", "a": "3", "b": 4, "c": [1], "d": True})

    assert values == {"n": 2, "a": "3", "b": "4", "c": "[1]", "d": "true"}


def test_missing_values_are_left_to_the_default() -> None:
    """What isn't given isn't passed, so that the function's own default applies."""
    assert coerced("a: int = 'x', b=2", {}) == {}


# -- tile runs


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ("bounds: fused.types.Bounds", {"bounds": BOUNDS}),
        ("bounds: 'fused.types.Bounds' = None", {"bounds": BOUNDS}),
        ("n: int = 1, bounds: fused.types.Bounds = None", {"bounds": BOUNDS}),
        ("bbox: fused.types.Bounds", {"bbox": BOUNDS}),
        ("bounds: fused.types.TileXYZ", {"bounds": TILE}),
        ("bounds: list", {"bounds": BOUNDS}),
        ("bounds: tuple", {"bounds": tuple(BOUNDS)}),
        ("bounds: str", {"bounds": json.dumps(BOUNDS)}),
        ("area: fused.types.Bounds, k=1", {"area": BOUNDS}),
        ("n: int", {}),
        ("words: list = None", {}),
        ("", {}),
        ("x, y, z", {"x": 1, "y": 1, "z": 2}),
        ("a, x: int, y: int, z: int", {"x": 1, "y": 1, "z": 2}),
        ("z, bounds: fused.types.Bounds", {"z": 2, "bounds": BOUNDS}),
        ("bounds: fused.types.Bounds, **kwargs", {"bounds": BOUNDS}),
    ],
)
def test_a_tile_run_fills_the_tile_parameter(parameters: str, expected: dict[str, object]) -> None:
    """``bounds``, else ``bbox``, else the first parameter that can hold it; x, y and z where declared."""
    assert coerced(parameters, {}, TILE) == expected


@pytest.mark.parametrize(
    "parameters",
    ["bounds", "bounds=None", "bbox", "area=None", "bounds: fused.types.Tile", "a: fused.types.TileGDF"],
)
def test_a_tile_is_a_frame_unless_annotated_otherwise(parameters: str) -> None:
    """Without an annotation the function gets one row with x, y, z and the tile's geometry."""
    (frame,) = coerced(parameters, {}, TILE).values()

    assert list(frame.columns) == ["x", "y", "z", "geometry"]
    assert tuple(frame.loc[0, ["x", "y", "z"]]) == (1, 1, 2)
    assert frame.geometry[0].equals(BOX)
    assert frame.crs == "EPSG:4326"


@pytest.mark.parametrize("annotation", ["fused.types.Bbox", "Polygon", "shapely.Geometry | None"])
def test_a_tile_may_be_a_polygon(annotation: str) -> None:
    """Geometry annotations get the tile's box."""
    assert coerced(f"bounds: {annotation}", {}, TILE)["bounds"].equals(BOX)


def test_the_tile_overrides_the_query() -> None:
    """A ``bounds`` in the query of a tile counts for nothing, not even as an error."""
    assert coerced("bounds: fused.types.Bounds, z: int = 0", {"bounds": "nonsense", "z": "x"}, TILE) == {
        "bounds": BOUNDS,
        "z": 2,
    }


def test_a_single_run_injects_nothing() -> None:
    """Without a tile, x, y, z and bounds are ordinary parameters."""
    assert coerced("bounds: fused.types.Bounds = None, z: int = 0", {"z": "3"}) == {"z": 3}


@pytest.mark.parametrize(
    ("parameter", "given", "scale", "expected"),
    [
        ("size: int = 512", {}, 1, {}),
        ("size: int = 512", {}, 2, {"size": 1024}),
        ("size: int = 512", {"size": "100"}, 1, {"size": 100}),
        ("size: int = 512", {"size": "100"}, 3, {"size": 300}),
        ("size=None", {}, 1, {}),
        ("size=None", {}, 2, {"size": 600}),
        ("size", {}, 1, {"size": 300}),
        ("size", {}, 2, {"size": 600}),
        ("size", {"size": "100"}, 2, {"size": "200"}),
        ("size: str = 'big'", {"size": "small"}, 2, {"size": "small"}),
    ],
)
def test_a_tile_run_scales_size(
    parameter: str, given: dict[str, str], scale: int, expected: dict[str, Any]
) -> None:
    """At ``@nx`` a declared ``size`` is n times what the caller, the default or the settings say."""
    values = coerced(f"bounds: fused.types.Bounds, {parameter}", given, TILE, size=300, scale=scale)

    assert values == {"bounds": BOUNDS, **expected}


def test_size_of_a_single_run_is_an_ordinary_parameter() -> None:
    """Only tiles have a scale."""
    assert coerced("size: int = 512", {}, None, size=300, scale=2) == {}
