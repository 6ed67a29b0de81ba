"""Our encoder beside mapbox-vector-tile: decoded, both say the same, on generated and on real features.

The reference gets each feature apart, clipped by shapely and unrounded; of ours every polygon must be valid.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from importlib import resources
from typing import Any, cast

import geopandas as gpd
import mapbox_vector_tile
import numpy as np
import pandas as pd
import pytest
import shapely
import shapely.affinity
from hypothesis import assume, given
from hypothesis import strategies as st
from mercantile import Tile
from shapely.geometry.base import BaseGeometry

from tileserver.formats import FORMATS, Kind
from tileserver.protocol import Job, RenderOptions
from tileserver.render.classify import Classified
from tileserver.render.mvt.grid import Grid
from tileserver.render.plain import flat_columns
from tileserver.render.vector_tile import mvt

TILE = Tile(x=17, y=11, z=5)
GRID = Grid(TILE, 4096, 64)
SIDE = 2 * math.pi * 6378137.0
DATA = resources.files("tileserver") / "demo" / "workspace" / "demo" / "data"

Found = dict[tuple[int, str], tuple[BaseGeometry, dict[str, Any]]]


def metres(geometry: BaseGeometry, tile: Tile = TILE) -> BaseGeometry:
    """A geometry in units of a tile in EPSG:3857."""

    def placed(xy: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        world = (xy / 4096 + (tile.x, tile.y)) / 2.0**tile.z - 0.5
        moved: np.ndarray[Any, Any] = world * (SIDE, -SIDE)
        return moved

    moved: BaseGeometry = shapely.transform(geometry, placed)
    return moved


def frame_in_units(geometries: Sequence[BaseGeometry], **columns: Any) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(
        {"row": range(len(geometries)), **columns}, geometry=[metres(one) for one in geometries], crs=3857
    )


def family(geometry: BaseGeometry) -> str:
    return geometry.geom_type.removeprefix("Multi")


def decoded(body: bytes) -> Found:
    """Features of a tile by their row and kind."""
    if not body:
        return {}
    layer = mapbox_vector_tile.decode(body, default_options={"y_coord_down": True})["udf"]
    shapes = [(shapely.geometry.shape(one["geometry"]), one["properties"]) for one in layer["features"]]
    found = {(known["row"], family(shape)): (shape, known) for shape, known in shapes if not shape.is_empty}
    assert len(found) == len([shape for shape, _ in shapes if not shape.is_empty])
    return found


def encoded(frame: gpd.GeoDataFrame, tile: Tile) -> bytes:
    job = Job(
        owner="c",
        bundle="b",
        udf="u",
        arguments={},
        formats=("mvt",),
        default="tile",
        options=RenderOptions(),
        tile=tile,
    )
    return mvt(Classified(Kind.FEATURES, frame, frame), FORMATS["mvt"], job)[0]


def ours(frame: gpd.GeoDataFrame, tile: Tile = TILE) -> Found:
    return decoded(encoded(frame, tile))


def simple(geometry: BaseGeometry) -> list[BaseGeometry]:
    """The points, lines and polygons of a geometry."""
    parts: list[BaseGeometry] = [part for part in shapely.get_parts(geometry) if not part.is_empty]
    if all(part.geom_type in {"Point", "LineString", "Polygon"} for part in parts):
        return parts
    return [found for part in parts for found in simple(part)]


def pieces(geometry: BaseGeometry, grid: Grid) -> list[BaseGeometry]:
    """What the tile shows of a geometry in units, unrounded: its points, its lines, its polygons."""
    found: list[BaseGeometry] = []
    for kind, several in (
        ("Point", shapely.multipoints),
        ("LineString", shapely.multilinestrings),
        ("Polygon", shapely.multipolygons),
    ):
        parts = [part for part in simple(geometry) if part.geom_type == kind]
        if kind == "Polygon" and parts:
            # Parts may overlap: united they have the same outline.
            together = cast("BaseGeometry", shapely.multipolygons(np.array(parts)))
            parts = [shapely.make_valid(together, method="structure", keep_collapsed=False)]
        cut = [one for part in parts for one in simple(part.intersection(shapely.box(*grid.box)))]
        if left := [one for one in cut if one.geom_type == kind]:
            found.append(cast("BaseGeometry", several(np.array(left))))
    return found


def turned(geometry: BaseGeometry, grid: Grid) -> BaseGeometry:
    """A geometry in units of a tile, with copies a world further of those parts that reach over the edges
    of the world or lie on them."""
    world = grid.extent * 2.0**grid.tile.z
    west = -grid.tile.x * float(grid.extent)
    parts = simple(geometry)
    for part in simple(geometry):
        left, _, right, _ = part.bounds
        if right > west + world + 0.5 or left >= west + world - 0.5:
            parts.append(shapely.affinity.translate(part, -world))
        if left < west - 0.5 or right <= west + 0.5:
            parts.append(shapely.affinity.translate(part, world))
    return shapely.GeometryCollection(parts)


def reference(frame: gpd.GeoDataFrame, grid: Grid = GRID) -> Found:
    """What mapbox-vector-tile makes of the same features; unrounded where its rounding makes polygons
    invalid, for those have no certain outline."""
    placed = frame if frame.crs == 3857 else frame.clip((-180, -86, 180, 86)).to_crs(3857)
    rows = placed.drop(columns="geometry")
    columns = flat_columns(rows)
    listed = []
    exact = {}
    for index, geometry in enumerate(placed.geometry):
        units = turned(shapely.transform(geometry, grid.from_metres), grid)
        values = {name: column[index] for name, column in columns.items() if column[index] is not None}
        for piece in pieces(units, grid):
            listed.append({"geometry": piece, "properties": values})
            exact[values["row"], family(piece)] = piece
    options = {"y_coord_down": True, "extents": grid.extent}
    body = mapbox_vector_tile.encode({"name": "udf", "features": listed}, default_options=options)
    found = decoded(body) if listed else {}
    return {key: (one if one.is_valid else exact[key], known) for key, (one, known) in found.items()}


def assert_same(mine: Found, other: Found) -> None:
    """The same features but for what rounding ends, no further apart than a unit, all polygons valid."""
    for key in mine.keys() | other.keys():
        if key not in mine or key not in other:
            one = (mine.get(key) or other[key])[0]
            assert shapely.buffer(one, -1).is_empty and (one.area or one.length <= 4), key
            continue
        (one, values), (two, others) = mine[key], other[key]
        assert values == others
        for name, value in values.items():
            # The reference takes 1.0 and 1 for one value, with the type of the first it meets.
            assert type(value) is type(others[name]) or {type(value), type(others[name])} == {int, float}
        assert one.is_valid or key[1] != "Polygon"
        assert_close(one, two)


def assert_close(one: BaseGeometry, two: BaseGeometry) -> None:
    """Two roundings of a shape: half the diagonal of a unit each."""
    if one.area:
        assert one.buffer(-1.01).difference(two.buffer(1.01)).area < 1e-6
        assert two.buffer(-1.01).difference(one.buffer(1.01)).area < 1e-6
    else:
        assert shapely.hausdorff_distance(one, two) <= math.sqrt(2) + 1e-9


PLACES = st.tuples(st.floats(-300, 4400), st.floats(-300, 4400))
NEAR = st.tuples(st.floats(100, 130), st.floats(100, 130))
POINTS = st.builds(shapely.Point, PLACES) | st.builds(
    shapely.MultiPoint, st.lists(PLACES, min_size=1, max_size=5)
)
RUNS = st.lists(PLACES, min_size=3, max_size=9) | st.lists(NEAR, min_size=3, max_size=9)
LINES = st.builds(shapely.LineString, RUNS)
# Any ring at all: bow ties, spikes, slivers and what collapses are among them.
RINGS = st.builds(shapely.Polygon, RUNS)


@st.composite
def holed(draw: st.DrawFn) -> shapely.Polygon:
    """A box with up to two smaller ones cut out of it, that may meet."""
    (x, y), side = draw(PLACES), draw(st.floats(2, 2000))
    holes = []
    for _ in range(draw(st.integers(0, 2))):
        left, top = draw(st.floats(0, 0.8)), draw(st.floats(0, 0.8))
        size = draw(st.floats(0.01, 0.19))
        corners = (left + size, top + size)
        holes.append(
            shapely.box(
                x + left * side, y + top * side, x + corners[0] * side, y + corners[1] * side
            ).exterior
        )
    return shapely.Polygon(shapely.box(x, y, x + side, y + side).exterior, holes)


SIMPLE = POINTS | LINES | RINGS | holed()
MIXED = SIMPLE | st.builds(shapely.GeometryCollection, st.lists(SIMPLE, min_size=1, max_size=4))


@given(st.lists(MIXED, min_size=1, max_size=6))
def test_generated_features_are_those_of_the_reference(geometries: list[BaseGeometry]) -> None:
    """Whatever the mixture of kinds, and whatever the rings: same features, within a unit, valid."""
    frame = frame_in_units(geometries)

    assert_same(ours(frame), reference(frame))


@given(st.lists(RINGS | holed(), min_size=1, max_size=3))
def test_parts_of_a_multipolygon_are_valid_together(polygons: list[shapely.Polygon]) -> None:
    """Parts that overlap or touch are one valid feature."""
    frame = frame_in_units([shapely.MultiPolygon(polygons)])

    assert_same(ours(frame), reference(frame))


CELLS = st.none() | st.one_of(
    st.text(max_size=5),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.datetimes(min_value=dt.datetime(1970, 1, 1), max_value=dt.datetime(2200, 1, 1)).map(pd.Timestamp),
    st.lists(st.integers(0, 9), max_size=3),
    st.dictionaries(st.text(max_size=2), st.integers(0, 9), max_size=2),
    st.sampled_from([np.int8(-3), np.uint64(2**64 - 1), np.float32(0.1), np.bool_(True), pd.NA, pd.NaT]),
)


@given(st.lists(CELLS, min_size=1, max_size=8))
def test_cells_of_any_type_are_those_of_the_reference(cells: list[Any]) -> None:
    """Cells of mixed types keep them, save that the reference writes a whole float as an integer."""
    points = [shapely.Point(9 * index, 5) for index in range(len(cells))]
    frame = frame_in_units(points, cell=pd.Series(cells, dtype=object))
    plain = flat_columns(frame[["cell"]])["cell"]

    found = [known.get("cell") for _, known in ours(frame).values()]

    expected = [
        str(one) if type(one) is int and abs(one) >= 2**63 and one != -(2**63) else one for one in plain
    ]
    assert found == expected
    assert [type(one) for one in found] == [type(one) for one in expected]


COLUMNS: dict[str, Any] = {
    **{
        kind: np.array([0, 1, 100, 1], kind)
        for kind in ("int8", "uint8", "int16", "uint16", "int32", "uint32")
    },
    "int64": np.array([-(2**63), 2**63 - 1, -1, 0]),
    "uint64": np.array([0, 2**63 - 1, 1, 1], np.uint64),
    "float16": np.array([0.5, -1.5, 0.1, 0.5], np.float16),
    "float32": np.array([0.1, np.nan, np.inf, -0.3], np.float32),
    "float64": np.array([0.1, np.nan, -np.inf, 1e300]),
    "bool": np.array([True, False, True, True]),
    "str": ["a", "", "ü€😀", None],
    "string": pd.array(["a", None, "a", "b"], dtype="string"),
    "python-string": pd.array(["a", None, "a", "b"], dtype="string[python]"),
    "long": ["x" * 200, "y" * 20_000, "x" * 200, "z"],
    "surrogate": pd.Series(["a\ud800", "b", "a\ud800", None], dtype=object),
    "Int64": pd.array([1, None, -5, 1], dtype="Int64"),
    "UInt8": pd.array([1, None, 5, 1], dtype="UInt8"),
    "Float32": pd.array([0.1, None, 2.0, 0.1], dtype="Float32"),
    "boolean": pd.array([True, None, False, True], dtype="boolean"),
    "category": pd.Categorical(["b", None, "a", "b"], categories=["a", "b", "unused"]),
    "numbers": pd.Categorical([2.5, 1.0, None, 2.5]),
    "datetime": np.array(["2024-01-02", "NaT", "2024-01-02T03:04:05", "1999-12-31"], "M8[s]"),
    "zoned": pd.to_datetime(["2024-01-02", "NaT", "2024-07-02", "2024-01-02"]).tz_localize("Europe/Berlin"),
    "timedelta": pd.to_timedelta(["1s", None, "90min", "1s"]),
    "period": pd.period_range("2024-01", periods=4, freq="M"),
    "date": pd.Series([dt.date(2024, 1, 2), None, dt.date(2024, 1, 2), dt.date(1, 1, 1)], dtype=object),
    "arrow": pd.array([1, None, 3, 1], dtype="int64[pyarrow]"),
    "none": pd.Series([None] * 4, dtype=object),
    "sparse": pd.arrays.SparseArray([0, 0, 7, 0]),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_columns_of_every_dtype_say_what_other_formats_say(name: str) -> None:
    """Each dtype gives the values that a table in another format has, of their types, without nulls."""
    frame = frame_in_units([shapely.Point(9 * index, 5) for index in range(4)], cell=COLUMNS[name])
    plain = flat_columns(frame[["cell"]])["cell"]
    if name == "surrogate":
        plain = ["a\\ud800", "b", "a\\ud800", None]

    found = [known.get("cell") for _, known in ours(frame).values()]

    assert found == plain
    assert [type(one) for one in found] == [type(one) for one in plain]


@pytest.mark.parametrize(
    "ids",
    [
        np.array([0, 1, 2**32]),
        np.array([5, 2**64 - 1, 7], np.uint64),
        pd.array([1, 2, 3], dtype="Int64"),
        np.array([127, 128, 16384], np.uint32),
    ],
    ids=["int64", "uint64", "Int64", "uint32"],
)
def test_ids_are_written_whatever_their_size(ids: Any) -> None:
    """Ids up to 64 bits, as the reference reads them."""
    frame = frame_in_units([shapely.Point(9, 9)] * 3, id=ids)

    body = encoded(frame, TILE)

    assert [one["id"] for one in mapbox_vector_tile.decode(body)["udf"]["features"]] == list(ids)


def test_features_without_attributes_are_features() -> None:
    """A frame of geometries alone has features without properties."""
    frame = gpd.GeoDataFrame(geometry=[metres(shapely.Point(5, 6))], crs=3857)

    body = encoded(frame, TILE)

    (found,) = mapbox_vector_tile.decode(body, default_options={"y_coord_down": True})["udf"]["features"]
    assert (found["properties"], found["geometry"]["coordinates"]) == ({}, [5, 6])


EDGES = [(0, 0, 0), (1, 0, 0), (1, 1, 1), (2, 0, 0), (2, 0, 1), (2, 1, 0), (2, 3, 1), (2, 3, 0)]


@pytest.mark.parametrize("address", EDGES, ids=lambda one: "/".join(map(str, one)))
def test_what_reaches_over_the_antimeridian_goes_on_at_the_other_side(address: tuple[int, int, int]) -> None:
    """Features that run over 180 degrees are in the tiles beside it; those that end there are no further."""
    shapes = [
        shapely.box(-190, -10, -170, 20),
        shapely.box(170, -10, 180, 20),
        shapely.LineString([(150, -40), (190, 40)]),
        shapely.box(-10, -10, 350, 20),
        shapely.box(0, 30, 360, 40),
        shapely.MultiPoint([(180, 5), (181, 6), (-179, 7), (-182, 8), (350, 9)]),
        shapely.MultiPolygon([shapely.box(160, 0, 180, 5), shapely.box(180, 0, 200, 5)]),
        shapely.GeometryCollection([shapely.Point(355, 5), shapely.Polygon([(170, 0), (540, 40), (200, 0)])]),
        shapely.Polygon([(150, -40), (210, 40), (210, -40), (150, 40)]),
    ]
    rows = {"row": range(len(shapes))}
    frame = gpd.GeoDataFrame(rows, geometry=shapes, crs=4326)
    z, x, y = address
    tile = Tile(x=x, y=y, z=z)
    grid = Grid(tile, 4096, 64)
    units = shapely.transform(np.array(shapes), grid.from_degrees)
    placed = gpd.GeoDataFrame(rows, geometry=[metres(one, tile) for one in units], crs=3857)

    expected = reference(placed, grid)

    assert_same(ours(frame, tile), expected)
    assert_same(ours(placed, tile), expected)


@given(st.lists(MIXED, min_size=1, max_size=6), st.sampled_from([(0, 0), (0, 1), (1, 1), (31, 0), (0, 31)]))
def test_generated_features_go_on_at_the_other_side(
    geometries: list[BaseGeometry], columns: tuple[int, int]
) -> None:
    """Whatever lies around the tile at one edge of the world is in that at the other as in the reference."""
    x, other = columns
    zoom = max(columns).bit_length()
    drawn, shown = Tile(x=x, y=0, z=zoom), Tile(x=other, y=0, z=zoom)
    edges = (-x * 4096, (2**zoom - x) * 4096)
    ends = shapely.bounds(np.array([part for one in geometries for part in simple(one)]))[:, ::2]
    # Where half a unit decides, rounding does.
    assume(all(abs(abs(end - edge) - 0.5) > 1e-3 for end in ends.ravel() for edge in edges))
    frame = gpd.GeoDataFrame(
        {"row": range(len(geometries))}, geometry=[metres(one, drawn) for one in geometries], crs=3857
    )

    assert_same(ours(frame, shown), reference(frame, Grid(shown, 4096, 64)))


def test_poles_have_no_place_but_what_leads_there_has() -> None:
    """A line and a cap up to the pole are cut like in the reference; a point on it is left out."""
    shapes = [shapely.LineString([(20, 0), (20, 90)]), shapely.box(-60, 70, 60, 90), shapely.Point(0, -90)]
    frame = gpd.GeoDataFrame({"row": [0, 1, 2]}, geometry=shapes, crs=4326)
    world = Tile(x=0, y=0, z=0)

    found = ours(frame, world)

    assert found.keys() == {(0, "LineString"), (1, "Polygon")}
    assert_same(found, reference(frame, Grid(world, 4096, 64)))


def test_a_coordinate_that_is_no_place_takes_its_geometry_with_it() -> None:
    """Boxes overlook a NaN inside a line or a ring: neither is drawn to a wrong place."""
    nan = float("nan")
    with np.errstate(invalid="ignore"):
        broken = [
            shapely.LineString([(10, 10), (nan, 20), (30, 30)]),
            shapely.LineString([(-500, 10), (nan, 20), (30, 30)]),
            shapely.Polygon([(10, 10), (50, 10), (nan, 30), (10, 50)]),
        ]
        frame = frame_in_units([*broken, shapely.MultiPoint([(nan, 1), (7, 8)])])

    assert ours(frame).keys() == {(3, "Point")}


@pytest.mark.parametrize("epsg", [3035, 32632, 2154, 4839, 3995])
@pytest.mark.parametrize(
    "address", [(4, 8, 5), (7, 66, 44), (10, 535, 357)], ids=lambda one: "/".join(map(str, one))
)
def test_what_lies_elsewhere_is_told_in_any_crs(epsg: int, address: tuple[int, int, int]) -> None:
    """Projecting only what may meet the tile loses nothing."""
    z, x, y = address
    frame = gpd.read_parquet(str(DATA / "countries_50m.parquet")).cx[-10:40, 35:70].reset_index(drop=True)
    frame = frame[["geometry"]].assign(row=range(len(frame))).to_crs(epsg)
    tile = Tile(x=x, y=y, z=z)

    found, expected = ours(frame, tile), ours(frame.to_crs(4326), tile)

    assert found.keys() == expected.keys()
    for key, (shape, _) in found.items():
        assert shape.equals(expected[key][0])


@pytest.mark.parametrize("name", ["airports", "countries_50m", "earthquakes"])
@pytest.mark.parametrize(
    "address", [(0, 0, 0), (2, 0, 1), (3, 4, 2), (5, 17, 10)], ids=lambda one: "/".join(map(str, one))
)
def test_real_features_are_those_of_the_reference(name: str, address: tuple[int, int, int]) -> None:
    """Every feature of the demo, with all it says, as the reference has it."""
    z, x, y = address
    tile = Tile(x=x, y=y, z=z)
    frame = gpd.read_parquet(str(DATA / f"{name}.parquet"))
    frame["row"] = range(len(frame))

    assert_same(ours(frame, tile), reference(frame, Grid(tile, 4096, 64)))
