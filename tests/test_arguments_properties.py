"""What callers write in a query, read back: the contract's sections 4.2 and 5 for values of any kind."""

from __future__ import annotations

import datetime
import functools
import json
import math
import uuid
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import example, given
from hypothesis import strategies as st
from mercantile import Tile

import tileserver.fused
from tileserver.errors import CoercionError
from tileserver.params import Address, Limits, build_call, parse_query
from tileserver.protocol import Bundle, Json, RenderOptions
from tileserver.signature import Signature, read
from tileserver.udf import Udf, UdfSettings
from tileserver.worker import arguments

IMPORTS = """
import datetime, typing, uuid
from typing import *
import geopandas as gpd, numpy as np, pandas as pd, shapely
"""
BUNDLE = Bundle("b", "c", "c", "/c", {}, {}, {})


@functools.cache
def function(parameters: str) -> tuple[Callable[..., Any], Signature]:
    """``def udf(PARAMETERS)`` and its signature."""
    source = f"{IMPORTS}\n@fused.udf\ndef udf({parameters}): pass\n"
    names: dict[str, Any] = {"fused": tileserver.fused}
    exec(compile(source, "udf.py", "exec", dont_inherit=True), names)
    return names["udf"], read(source)


def coerced(parameters: str, given: dict[str, Json], tile: Tile | None = None) -> dict[str, Any]:
    udf, signature = function(parameters)
    return arguments.coerce(udf, given, tile, signature=signature, options=RenderOptions())


def encoded(value: Any) -> str | list[str] | None:
    """A value as the Python client writes it into a query; a list stands for a repeated key."""
    match value:
        case None:
            return None
        case bool():
            return "true" if value else "false"
        case set() | np.ndarray():
            return [str(item) for item in value]
        case list() | tuple() | dict():
            return json.dumps(value)
        case pd.Timedelta():
            return str(value.total_seconds())
        case datetime.date() | datetime.time():
            return value.isoformat()
        case gpd.GeoDataFrame():
            return str(value.to_json())
        case pd.DataFrame():
            return json.dumps(value.to_dict("records"))
        case shapely.Geometry():
            return str(shapely.to_wkt(value, rounding_precision=-1))
    return str(value)


def sent(annotation: str, value: Any) -> Any:
    """What a UDF gets for a value that a client sends: through the query string and back."""
    parameters = f"p: {annotation} = None" if annotation else "p=None"
    text = encoded(value)
    query = urlencode({} if text is None else {"p": text}, doseq=True)
    udf = Udf("c", "u", "r", function(parameters)[1], UdfSettings(), "u", "", {})
    call = build_call(udf, BUNDLE, Address(), parse_query(query.encode()), limits=Limits())
    return coerced(parameters, dict(call.arguments)).get("p")


# -- what is sent comes back


finite = st.floats(allow_nan=False, allow_infinity=False)
jsons = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)
offsets = st.integers(-23, 23).map(lambda hours: datetime.timezone(datetime.timedelta(hours=hours)))

VALUES: dict[str, tuple[str, st.SearchStrategy[Any]]] = {
    "text": ("str", st.text()),
    "text without annotation": ("", st.text()),
    "text of a literal": ("Literal['a', 'b']", st.sampled_from("ab")),
    "int": ("int", st.integers()),
    "optional int": ("Optional[int]", st.none() | st.integers()),
    "int of a string": ("'int'", st.integers()),
    "float": ("float", st.floats(allow_nan=False)),
    "bool": ("bool", st.booleans()),
    "uuid": ("uuid.UUID", st.uuids()),
    "list": ("list", st.lists(jsons, max_size=5)),
    "list of": ("List[int]", st.lists(st.integers())),
    "dict": ("dict", st.dictionaries(st.text(max_size=5), jsons, max_size=5)),
    "dict of": ("Dict[str, float] | None", st.dictionaries(st.text(max_size=5), finite)),
    "datetime": ("datetime.datetime", st.datetimes() | st.datetimes(timezones=offsets)),
    "date": ("datetime.date", st.dates()),
    "time": ("datetime.time", st.times() | st.times(timezones=offsets)),
    "bounds": ("fused.types.Bounds", st.lists(finite, min_size=4, max_size=4)),
}


@pytest.mark.parametrize("kind", VALUES)
@given(data=st.data())
def test_a_value_comes_back_as_it_was(kind: str, data: st.DataObject) -> None:
    """Contract, section 4.2: for every annotation whose values compare."""
    annotation, values = VALUES[kind]
    value = data.draw(values)
    found = sent(annotation, value)

    assert found == value
    assert type(found) is type(value)


@given(st.lists(jsons, max_size=5).map(tuple))
def test_a_tuple_comes_back_as_it_was(value: tuple[Any, ...]) -> None:
    """Contract, section 4.2: by JSON, which knows lists only; inner ones stay lists."""
    assert sent("tuple", value) == value
    assert sent("tuple[Any, ...]", value) == value


@given(st.sets(st.integers(), min_size=2) | st.sets(finite, min_size=2))
def test_a_set_is_a_repeated_key(value: set[float]) -> None:
    """Contract, section 4.2: all of it, for a list or for no annotation; the last for a scalar."""
    assert sent("list", value) == list(value)
    assert sent("", value) == list(value)
    assert sent("float", value) == float(list(value)[-1])


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=20))
def test_an_array_is_a_repeated_key(value: list[int]) -> None:
    """Contract, section 4.2; the same list as JSON gives the same."""
    assert sent("list", np.array(value)) == value == sent("list", value)


@given(st.integers(-(2**63), 2**63 - 1), st.floats(width=32, allow_nan=False))
def test_a_numpy_number_is_a_number(whole: int, real: float) -> None:
    """Contract, section 4.2."""
    assert sent("int", np.int64(whole)) == whole
    assert sent("float", np.float64(real)) == real


@given(st.datetimes(datetime.datetime(1700, 1, 1), datetime.datetime(2200, 1, 1)))
def test_a_timestamp_is_a_datetime(value: datetime.datetime) -> None:
    """Contract, section 4.2."""
    assert sent("datetime.datetime", pd.Timestamp(value)) == value


@given(st.timedeltas(datetime.timedelta(days=-9000), datetime.timedelta(days=9000)))
def test_a_timedelta_is_seconds(value: datetime.timedelta) -> None:
    """Contract, section 4.2."""
    assert sent("float", pd.Timedelta(value)) == value.total_seconds()


@given(
    st.lists(
        st.fixed_dictionaries({"n": st.integers(-(10**9), 10**9), "w": st.text("abc ", min_size=1)}),
        min_size=1,
    )
)
def test_a_table_comes_back_with_its_rows(rows: list[dict[str, Any]]) -> None:
    """Contract, section 4.2: as records."""
    found = sent("pd.DataFrame", pd.DataFrame(rows))

    assert found["n"].tolist() == [row["n"] for row in rows]
    assert found["w"].tolist() == [row["w"] for row in rows]


# Binary fractions, which WKT and GeoJSON keep exactly.
degrees = st.integers(-(180 * 64), 180 * 64).map(lambda number: number / 64)
points = st.builds(shapely.Point, degrees, degrees)
boxes = st.tuples(degrees, degrees, degrees, degrees).map(
    lambda four: shapely.box(
        min(four[0], four[2]), min(four[1], four[3]), max(four[0], four[2]) + 1, max(four[1], four[3]) + 1
    )
)
lines = st.lists(st.tuples(degrees, degrees), min_size=2).map(shapely.LineString)


@given(points | boxes | lines)
def test_a_geometry_comes_back_as_it_was(value: shapely.Geometry) -> None:
    """Contract, section 4.2: as WKT; as GeoJSON, too (ours)."""
    assert sent("shapely.Geometry", value).equals_exact(value)
    assert coerced("p: shapely.Geometry", {"p": shapely.to_geojson(value)})["p"].equals_exact(value)


@given(st.lists(boxes, min_size=1, max_size=5), st.integers())
def test_a_geodataframe_comes_back_with_geometry_and_columns(
    shapes: list[shapely.Geometry], number: int
) -> None:
    """Contract, section 4.2: as a FeatureCollection, in degrees."""
    value = gpd.GeoDataFrame({"n": [number % 2**53] * len(shapes)}, geometry=shapes, crs=4326)
    found = sent("gpd.GeoDataFrame", value)

    assert found.crs == "EPSG:4326"
    assert found["n"].tolist() == value["n"].tolist()
    assert found.geometry.geom_equals_exact(value.geometry, 0).all()
    assert sent("fused.types.Bounds", value) == value.total_bounds.tolist()


@given(boxes)
def test_an_area_is_the_same_in_every_form(area: shapely.Polygon) -> None:
    """Contract, section 5: list, commas and FeatureCollection, for each of the types of areas."""
    four = list(area.bounds)
    frame = gpd.GeoDataFrame(geometry=[area], crs=4326)
    for text in (json.dumps(four), ",".join(map(str, four)), str(frame.to_json())):
        assert coerced("p: fused.types.Bounds", {"p": text})["p"] == four
        assert coerced("p: fused.types.Bbox", {"p": text})["p"].bounds == area.bounds
        assert coerced("p: fused.types.ViewportGDF", {"p": text})["p"].total_bounds.tolist() == four


# -- what doesn't fit is told, never raised otherwise


ANNOTATIONS = [
    *(
        "",
        "str",
        "int",
        "float",
        "bool",
        "list",
        "List[int]",
        "list[dict]",
        "dict",
        "Dict[str, int]",
        "tuple",
    ),
    *(
        "tuple[int, ...]",
        "Optional[int]",
        "int | None",
        "int | str",
        "Literal['a', 1]",
        "set",
        "bytes",
        "Any",
    ),
    *("complex", "uuid.UUID", "datetime.datetime", "datetime.date", "datetime.time", "pd.DataFrame"),
    *("gpd.GeoDataFrame", "shapely.Geometry", "shapely.Point", "fused.types.Bounds", "fused.types.Bbox"),
    *("fused.types.TileXYZ", "fused.types.Tile", "fused.types.TileGDF", "fused.types.ViewportGDF"),
    *("'int'", "'datetime'", "'GeoDataFrame'", "'Bounds'", "'Nonsense'", "np.ndarray"),
]
features = st.fixed_dictionaries(
    {"type": st.sampled_from(["FeatureCollection", "Feature", "Point", 5])},
    optional={
        "features": st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "type": st.just("Feature"),
                    "properties": st.none() | st.dictionaries(st.sampled_from("xyz"), jsons),
                    "geometry": jsons
                    | st.fixed_dictionaries(
                        {"type": st.sampled_from(["Point", "Polygon"]), "coordinates": jsons}
                    ),
                },
            ),
            max_size=3,
        )
        | jsons,
        "coordinates": jsons,
    },
)
texts = (
    st.text()
    | jsons.map(json.dumps)
    | features.map(json.dumps)
    | st.lists(st.floats() | st.integers(), max_size=5).map(json.dumps)
    | st.text('0123456789.-:TZ+e,[]{}" ', max_size=30)
    | st.sampled_from(
        ["[" * 5000, "1" * 5000, "9" * 400, "1e400", "\0", "POINT (1", "POINT EMPTY", "NaN", "1,2,3,4,"]
    )
)


def outcome(annotation: str, given: Json) -> dict[str, Any] | CoercionError:
    """The arguments, or why there are none; any other error fails the test."""
    try:
        return coerced(f"p: {annotation}" if annotation else "p", {"p": given})
    except CoercionError as error:
        return error


def check(found: dict[str, Any] | CoercionError) -> None:
    if isinstance(found, CoercionError):
        assert found.message.startswith(f"{found.exception_class}: parameter 'p' takes ")
    else:
        assert found.keys() == {"p"}


@pytest.mark.parametrize("annotation", ANNOTATIONS)
@given(text=texts)
def test_any_text_is_taken_or_told(annotation: str, text: str) -> None:
    """Contract, section 5: a failure names the parameter, and what is taken; nothing else ever comes out."""
    check(outcome(annotation, text))


@pytest.mark.parametrize("annotation", ANNOTATIONS)
@given(repeated=st.lists(texts, min_size=2, max_size=5))
def test_any_repeated_key_is_taken_or_told(annotation: str, repeated: list[str]) -> None:
    """Contract, section 4.3: likewise, with as many values as a query has."""
    check(outcome(annotation, [*repeated]))


@given(text=st.text(), more=st.dictionaries(st.text(), st.text()))
def test_text_is_never_changed_where_nothing_is_asked_of_it(text: str, more: dict[str, Json]) -> None:
    """Contract, sections 4.3 and 5: without annotation, and in ``**kwargs``."""
    others = {name: value for name, value in more.items() if name != "p"}

    assert coerced("p, **kwargs", {"p": text, **others}) == {"p": text, **others}


@given(st.text())
@example("False")
@example("FALSE")
@example("")
@example("0")
@example("off")
@example(" false")
def test_a_bool_is_false_for_two_texts_only(text: str) -> None:
    """Contract, section 5: ``false`` in any case, and nothing at all."""
    assert coerced("p: bool", {"p": text})["p"] is (text.lower() not in {"false", ""})


@given(st.text("0123456789_+- ", max_size=12) | st.text(max_size=4))
def test_an_int_is_what_python_reads(text: str) -> None:
    """Contract, section 5: spaces around it, and ``_`` within."""
    try:
        expected = int(text)
    except ValueError:
        with pytest.raises(CoercionError):
            coerced("p: int", {"p": text})
    else:
        assert coerced("p: int", {"p": text})["p"] == expected


@given(st.floats(0, 4e9) | st.integers(0, 4_000_000_000))
def test_digits_are_seconds_since_1970(seconds: float) -> None:
    """Contract, section 5: date and time in UTC."""
    text = f"{seconds:.3f}" if isinstance(seconds, float) else str(seconds)
    expected = datetime.datetime.fromtimestamp(float(text), tz=datetime.UTC)

    assert coerced("p: datetime.datetime", {"p": text})["p"] == expected
    assert coerced("p: datetime.date", {"p": text})["p"] == expected.date()
    assert coerced("p: datetime.time", {"p": text})["p"] == expected.time()


@pytest.mark.parametrize(
    ("annotation", "text", "expected"),
    [
        ("float", "NAN", math.nan),
        ("float", "  1_0.5 ", 10.5),
        ("bool", "off", True),
        ("datetime.datetime", "0", datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)),
        ("datetime.date", "2024-05-06T23:59:59", datetime.date(2024, 5, 6)),
        ("datetime.time", "07:08:09.5+02:00", datetime.time.fromisoformat("07:08:09.500+02:00")),
        ("list[int]", '["1", null]', ["1", None]),
        ("tuple", '"ab"', ("a", "b")),
        ("Optional[datetime.date]", "2024-05-06", datetime.date(2024, 5, 6)),
        (
            "Optional[uuid.UUID]",
            "{12345678123456781234567812345678}",
            uuid.UUID(int=0x12345678123456781234567812345678),
        ),
        ("Optional[Literal[1]]", "1", "1"),
        ("frozenset", "[1]", "[1]"),
        ("Callable", "f", "f"),
    ],
)
def test_more_lines_of_the_table(annotation: str, text: str, expected: object) -> None:
    """Contract, section 5."""
    found = coerced(f"p: {annotation}", {"p": text})["p"]

    assert found == expected or (isinstance(expected, float) and math.isnan(expected) and math.isnan(found))


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        *(("float", ""), ("float", "1,5"), ("tuple", "1,2"), ("list", ""), ("dict", "{'a': 1}")),
        *(("datetime.datetime", ""), ("datetime.datetime", "1.2.3"), ("datetime.datetime", "9" * 30)),
        *(("datetime.date", "06.05.2024"), ("datetime.time", "25:00"), ("uuid.UUID", "")),
        *(("shapely.Geometry", ""), ("shapely.Geometry", '{"type": "Nonsense"}'), ("pd.DataFrame", "")),
        *(("gpd.GeoDataFrame", "[1, 2]"), ("gpd.GeoDataFrame", "POINT (1 2)")),
        *((f"fused.types.{name}", "[1, 2, 3]") for name in ("Bounds", "Bbox", "Tile", "TileXYZ", "TileGDF")),
        *(("fused.types.ViewportGDF", "[]"), ("fused.types.Bounds", "[1, 2, 3, NaN]")),
    ],
)
def test_more_lines_that_do_not_fit(annotation: str, text: str) -> None:
    """Contract, section 5."""
    with pytest.raises(CoercionError, match="parameter 'p' takes "):
        coerced(f"p: {annotation}", {"p": text})


tiles = st.integers(0, 30).flatmap(
    lambda z: st.builds(Tile, x=st.integers(0, 2**z - 1), y=st.integers(0, 2**z - 1), z=st.just(z))
)


@given(
    tile=tiles, text=st.text(), annotation=st.sampled_from(["", ": fused.types.Bounds", ": fused.types.Tile"])
)
def test_a_tile_fills_its_parameter_whatever_the_query_says(tile: Tile, text: str, annotation: str) -> None:
    """Contract, section 5.1: for any tile there is, the area of its address, and its numbers."""
    query: dict[str, Json] = {"bounds": text, "x": text, "n": "3"}
    found = coerced(f"bounds{annotation}, x: int, z, n: int = 0", query, tile)

    assert (found["x"], found["z"], found["n"]) == (tile.x, tile.z, 3)
    box = found["bounds"] if annotation.endswith("Bounds") else found["bounds"].total_bounds.tolist()
    assert -180 <= box[0] < box[2] <= 180 and -85.06 < box[1] < box[3] < 85.06
