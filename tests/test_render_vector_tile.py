"""Vector tiles, decoded and compared with the exact geometry; real boundaries among them."""

from __future__ import annotations

from importlib import resources
from typing import Any

import geopandas as gpd
import mapbox_vector_tile
import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from mercantile import Tile
from shapely.geometry.base import BaseGeometry

from tileserver import tiles
from tileserver.errors import UnsupportedOutput
from tileserver.formats import FORMATS, Kind
from tileserver.protocol import Job, Json, RenderOptions
from tileserver.render.classify import Classified
from tileserver.render.drawing import draw
from tileserver.render.mvt.grid import Grid
from tileserver.render.mvt.parts import Parts
from tileserver.render.vector_tile import encode_layer, mvt, tile_features

WORLD = Tile(x=0, y=0, z=0)


def encoded(
    frame: gpd.GeoDataFrame,
    tile: Tile | None = WORLD,
    *,
    options: RenderOptions | None = None,
    bounds: Json = None,
) -> tuple[bytes, dict[str, Any]]:
    job = Job(
        owner="c",
        bundle="b",
        udf="u",
        arguments={} if bounds is None else {"bounds": bounds},
        formats=("mvt",),
        default="tile",
        options=options or RenderOptions(),
        tile=tile,
    )
    return mvt(Classified(Kind.FEATURES, frame, frame), FORMATS["mvt"], job)


def decoded(body: bytes) -> list[dict[str, Any]]:
    """Features of the one layer, coordinates in tile units with y downwards."""
    layers = mapbox_vector_tile.decode(body, default_options={"y_coord_down": True})
    assert list(layers) == ["udf"]
    found: list[dict[str, Any]] = layers["udf"]["features"]
    return found


def features_of(frame: gpd.GeoDataFrame, tile: Tile = WORLD, **how: Any) -> list[dict[str, Any]]:
    return decoded(encoded(frame, tile, **how)[0])


def frame_of(*geometries: shapely.Geometry | None, crs: Any = 4326, **columns: Any) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(columns, geometry=list(geometries), crs=crs)


def properties_of(**columns: Any) -> dict[str, Any]:
    """Properties of one point with these columns, as decoded."""
    found: dict[str, Any] = features_of(frame_of(shapely.Point(0, 0), **columns))[0]["properties"]
    return found


def test_point_lies_where_mercator_puts_it() -> None:
    """Longitude 0 and the equator are the middle of the world's tile; y runs down."""
    north, middle = features_of(frame_of(shapely.Point(90, 66.51326), shapely.Point(0, 0)))

    assert north["geometry"] == {"type": "Point", "coordinates": [3072, 1024]}
    assert middle["geometry"]["coordinates"] == [2048, 2048]


@pytest.mark.parametrize("crs", [3857, 32632, None, "OGC:CRS84"])
def test_every_crs_ends_in_the_same_place(crs: Any) -> None:
    """Frames are reprojected from their CRS; without one they are in degrees."""
    place = gpd.GeoSeries([shapely.Point(9, 48)], crs=4326)
    frame = gpd.GeoDataFrame(
        geometry=place.set_crs(None, allow_override=True) if crs is None else place.to_crs(crs)
    )
    expected = features_of(frame_of(shapely.Point(9, 48)), Tile(x=8, y=5, z=4))

    assert features_of(frame, Tile(x=8, y=5, z=4)) == expected


@pytest.mark.parametrize(
    ("crs", "box", "west", "east"),
    [
        (4326, (170, 0, 180, 10), 170, 180),
        (4326, (170, 0, 190, 10), -180, 180),
        (4326, (190, 0, 350, 10), -170, -10),
        (4326, (-200, 0, -190, 10), 160, 170),
        (4326, (0, 0, 360, 10), -180, 180),
        (3857, (19e6, 0, 21e6, 1e6), -180, 180),
        (3857, (19e6, 0, 20037508.34278925, 1e6), 170.6799, 180),
        (3857, (21e6, 0, 22e6, 1e6), -171.3538, -162.3706),
    ],
    ids=str,
)
def test_bounds_are_those_of_the_tiles_that_show_it(
    crs: int, box: tuple[float, float, float, float], west: float, east: float
) -> None:
    """Longitudes beyond 180 degrees are on the other side; over the antimeridian it is all around."""
    _, facts = encoded(frame_of(shapely.box(*box), crs=crs))

    assert facts["bounds"][::2] == pytest.approx([west, east], abs=1e-3)


def test_layer_has_the_extent_asked_for() -> None:
    """The extent option sets the units of the tile."""
    body, _ = encoded(frame_of(shapely.Point(0, 0)), options=RenderOptions(extent=512))

    layer = mapbox_vector_tile.decode(body)["udf"]
    assert (layer["extent"], layer["version"]) == (512, 2)
    assert layer["features"][0]["geometry"]["coordinates"] == [256, 256]


def units(x: float, y: float, tile: Tile) -> tuple[float, float]:
    """Degrees of a place in tile units."""
    side = 2.0**tile.z * 4096
    mercator_x = ((x + tile.x * 4096) / side - 0.5) * 360
    north = np.pi * (1 - 2 * (y + tile.y * 4096) / side)
    return mercator_x, float(np.degrees(np.arctan(np.sinh(north))))


@pytest.mark.parametrize(("x", "kept"), [(-64, True), (-65, False), (4160, True), (4161, False)])
def test_points_are_kept_up_to_the_edge_of_the_buffer(x: int, kept: bool) -> None:
    """A point on the edge of the buffer is in the tile, one unit further it isn't."""
    tile = Tile(x=5, y=6, z=4)
    inward = 1e-6 if x < 0 else -1e-6  # degrees and back cost the last digits

    body, facts = encoded(frame_of(shapely.Point(*units(x + inward, 100, tile))), tile)

    assert bool(body) is kept
    assert facts.get("empty", False) is not kept


def test_multipoint_keeps_the_points_in_the_tile() -> None:
    """Of a multipoint only those points are left that the tile holds."""
    points = shapely.MultiPoint([(1, 1), (2, 2), (100, 50)])

    (found,) = features_of(frame_of(points), Tile(x=8, y=7, z=4))

    assert len(found["geometry"]["coordinates"]) == 2


DEGREE = 20037508.342789244 / 180  # metres at the equator
ROUND = [160.0, 179.5, 180.0, 181.0, 190.0, 275.0, 355.0, 360.0]


@pytest.mark.parametrize("crs", [4326, 3857, None, "OGC:CRS84", 4269])
@pytest.mark.parametrize("moved", [0.0, -360.0])
def test_longitudes_around_the_earth_are_in_its_tiles(crs: Any, moved: float) -> None:
    """Points from 0 to 360 degrees, or from -360 to 0, lie where those within 180 degrees do."""
    x = (np.array(ROUND) + moved) * (DEGREE if crs == 3857 else 1)
    frame = frame_of(*(shapely.Point(one, 0) for one in x), crs=crs, n=range(len(ROUND)))
    within = (np.array(ROUND) + 180) % 360 - 180

    for column in range(4):
        found = features_of(frame, Tile(x=column, y=1, z=2), options=RenderOptions(buffer=0))
        west, east = column * 90 - 180, column * 90 - 90
        expected = [row for row, place in enumerate(within) if west <= place <= east or place + 360 == east]

        assert [one["properties"]["n"] for one in found] == expected
        for one, row in zip(found, expected, strict=True):
            place = 180 if within[row] == -180 and east == 180 else within[row]
            assert one["geometry"]["coordinates"] == [round((place - west) / 90 * 4096), 4096]


def test_a_row_at_both_sides_of_the_world_is_one_feature() -> None:
    """A box over the antimeridian has two parts in the one tile of zoom 0, each up to the buffer; a point on
    it is at both edges, and one beyond it only in one place."""
    box, point = features_of(frame_of(shapely.box(170, 0, 190, 10), shapely.Point(180, 0)))
    (far,) = features_of(frame_of(shapely.Point(200, 0)))

    parts = [part.bounds for part in shapely.get_parts(shapely.geometry.shape(box["geometry"]))]
    assert sorted(parts) == [(-64, 1934, 114, 2048), (3982, 1934, 4160, 2048)]
    assert sorted(point["geometry"]["coordinates"]) == [[0, 2048], [4096, 2048]]
    assert far["geometry"]["coordinates"] == [228, 2048]


@pytest.mark.parametrize(
    "geometry",
    [
        shapely.Point(1e6, 0),
        shapely.Point(-600, 0),
        shapely.box(545, 0, 560, 10),
        shapely.Point(float("inf"), 0),
        shapely.MultiPoint([(float("inf"), 0), (1e6, 1)]),
    ],
    ids=str,
)
def test_what_is_more_than_a_world_away_is_left_out(geometry: shapely.Geometry) -> None:
    """Only one world to the west and one to the east are looked at."""
    frame = frame_of(geometry)

    assert [encoded(frame, Tile(x=x, y=y, z=1))[0] for x in (0, 1) for y in (0, 1)] == [b""] * 4


def test_what_ends_at_the_antimeridian_is_no_further() -> None:
    """Where nothing reaches beyond, there is nothing in the buffer at the other side."""
    frame = frame_of(shapely.box(170, 0, 180, 10), shapely.LineString([(170, 5), (180, 5)]))
    edge = frame_of(shapely.LineString([(180, 0), (180, 10)]))

    assert encoded(frame, Tile(x=0, y=1, z=2))[0] == b""
    assert features_of(edge, Tile(x=0, y=1, z=2))[0]["geometry"]["coordinates"] == [[0, 4096], [0, 3639]]


@pytest.mark.parametrize("crs", [4326, 3857])
@pytest.mark.parametrize("address", [(0, 0, 0), (2, 0, 1), (2, 3, 1), (5, 0, 15), (5, 31, 15)], ids=str)
def test_pictures_show_the_same_beyond_the_antimeridian(crs: int, address: tuple[int, int, int]) -> None:
    """What a tile is filled with is filled in the drawn one, in every column of pixels."""
    z, x, y = address
    tile = Tile(x=x, y=y, z=z)
    shapes = np.array(
        [shapely.box(170, 0, 190, 40), shapely.box(-183, 1, -178, 10), shapely.box(200, 0, 390, 20)]
    )
    if crs == 3857:
        shapes = shapely.transform(shapes, lambda xy: xy * DEGREE)
    frame = gpd.GeoDataFrame(geometry=shapes, crs=crs)
    job = Job("c", "b", "u", {}, ("png",), "tile", RenderOptions(), tile)

    picture = draw(frame, job)[0][3] > 0

    union = shapely.union_all([shapely.geometry.shape(one["geometry"]) for one in features_of(frame, tile)])
    places = (np.arange(256) + 0.5) * 16
    for row in (100, 120, 125, 200):
        filled = shapely.contains_xy(union, places, np.full(256, places[row]))
        # A pixel at an edge is drawn in part.
        steps = np.flatnonzero(np.diff(filled))
        sure = np.ones(256, np.bool_)
        for step in (-2, -1, 0, 1, 2, 3):
            sure[np.clip(steps + step, 0, 255)] = False
        assert (picture[row] == filled)[sure].all()


def test_polygon_is_cut_at_the_buffer() -> None:
    """A polygon larger than the tile becomes the buffered tile."""
    world = shapely.box(-180, -85, 180, 85)

    (found,) = features_of(frame_of(world), Tile(x=5, y=6, z=4), options=RenderOptions(buffer=8))

    assert shapely.geometry.shape(found["geometry"]).equals(shapely.box(-8, -8, 4104, 4104))


def test_exterior_rings_have_positive_area_and_holes_negative() -> None:
    """Rings are wound as the specification wants, whatever way the input was wound."""
    ring = shapely.box(-90, -60, 90, 60, ccw=False).exterior
    hole = shapely.box(-45, -30, 45, 30, ccw=False).exterior

    (found,) = features_of(frame_of(shapely.Polygon(ring, [hole])))

    outer, inner = (shapely.LinearRing(ring) for ring in found["geometry"]["coordinates"])
    assert outer.is_ccw and not inner.is_ccw  # counter-clockwise with y upwards is positive area


def test_poles_are_cut_and_not_infinite() -> None:
    """Polygons to the pole reach the edge of the world's tile and no further than its buffer."""
    antarctica = shapely.box(-180, -90, 180, -60)

    (found,) = features_of(frame_of(antarctica, crs=4326))

    assert shapely.geometry.shape(found["geometry"]).bounds[3] == 4096 + 64


def test_invalid_input_becomes_valid_polygons() -> None:
    """A bow tie that the tile's edge cuts, and one wholly inside, are both valid in the tile."""
    inside = shapely.Polygon([(-40, -40), (40, 40), (40, -40), (-40, 40)])
    cut = shapely.Polygon([(150, -40), (210, 40), (210, -40), (150, 40)])

    found = [shapely.geometry.shape(one["geometry"]) for one in features_of(frame_of(inside, cut))]

    assert [one.is_valid and one.area > 0 for one in found] == [True, True]


def test_overlapping_parts_are_united() -> None:
    """Where two parts of a multipolygon overlap there is no hole."""
    both = shapely.MultiPolygon([shapely.box(0, 0, 40, 40), shapely.box(20, 20, 60, 60)])

    (found,) = features_of(frame_of(both))

    assert shapely.geometry.shape(found["geometry"]).covers(shapely.Point(2048 + 30 * 4096 / 360, 1690))


@pytest.mark.parametrize(
    "geometry",
    [
        shapely.box(10, 10, 10.001, 10.001),
        shapely.LineString([(10, 10), (10.001, 10)]),
        shapely.LineString([(10, 10), (10, 10)]),
        shapely.Point(),
        shapely.Point(float("nan"), 1),
        shapely.Point(0, 90),
        None,
    ],
    ids=["polygon", "line", "zero line", "empty", "nan", "pole", "missing"],
)
def test_nothing_to_draw_is_left_out(geometry: shapely.Geometry | None) -> None:
    """What collapses on the grid, or has no place, is no feature; alone it makes an empty tile."""
    body, facts = encoded(frame_of(geometry))

    assert (body, facts["empty"]) == (b"", True)


def test_families_of_one_row_become_one_feature_each() -> None:
    """A nested collection is split into points, lines and polygons with the same properties."""
    inner = shapely.GeometryCollection([shapely.LineString([(0, 0), (50, 50)]), shapely.Point(3, 3)])
    mixed = shapely.GeometryCollection(
        [shapely.box(10, 10, 20, 20), inner, shapely.LinearRing([(0, 0), (9, 0), (9, 9)])]
    )

    found = features_of(frame_of(mixed, shapely.Point(1, 1), name=["mixed", "last"]))

    assert [one["geometry"]["type"] for one in found] == ["Point", "MultiLineString", "Polygon", "Point"]
    assert [one["properties"]["name"] for one in found] == ["mixed"] * 3 + ["last"]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        ("é", "é"),
        (2**63, str(2**63)),
        (pd.Timestamp("2024-01-02", tz="UTC"), "2024-01-02T00:00:00+00:00"),
        ([1, {"k": None}], '[1,{"k":null}]'),
        (pd.Timedelta("90s"), 90.0),
    ],
    ids=repr,
)
def test_values_have_the_type_they_had(cell: Any, expected: Any) -> None:
    """Numpy scalars are numbers, times and structures text; an integer beyond 64 bits is text."""
    found = properties_of(v=pd.Series([cell], dtype=object))["v"]

    assert (found, type(found)) == (expected, type(expected))


@pytest.mark.parametrize("missing", [None, float("nan"), float("inf"), pd.NaT, pd.NA], ids=repr)
def test_missing_values_are_left_out(missing: Any) -> None:
    """A feature has no property where its row has no value."""
    assert properties_of(v=pd.Series([missing], dtype=object), kept=1) == {"kept": 1}


def test_equal_numbers_of_two_types_stay_apart() -> None:
    """An integer 1, a float 1.0 and a flag in one layer keep their types."""
    found = properties_of(whole=[1], real=[1.0], flag=[True])

    assert [type(found[name]) for name in ("whole", "real", "flag")] == [int, float, bool]


VALUES = (
    st.text()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
)


@given(st.lists(st.dictionaries(st.text(max_size=3), VALUES, max_size=4), min_size=1, max_size=5))
def test_any_properties_come_back_as_they_were(rows: list[dict[str, Any]]) -> None:
    """Whatever the mixture of types under a name, each feature decodes to its own values and types."""
    names = sorted({name for row in rows for name in row})
    columns = {name: [row.get(name) for row in rows] for name in names}
    places = Parts.of(np.array([shapely.Point(1, 1)] * len(rows)), np.arange(len(rows)))
    points = tile_features(places, None, Grid(WORLD, 4096, 64))
    table = {name: pd.Series(values, dtype=object) for name, values in columns.items()}

    body = encode_layer("udf", points, table, ids=None, extent=4096)

    found = [one["properties"] for one in decoded(body)]
    assert found == rows
    assert [{k: type(v) for k, v in one.items()} for one in found] == [
        {k: type(v) for k, v in row.items()} for row in rows
    ]


@pytest.mark.parametrize(
    ("column", "ids"),
    [
        ([7, 2**53], [7, 2**53]),
        ([-1, 2], [0, 0]),
        ([3, 3], [0, 0]),
        (["7", "8"], [0, 0]),
        ([1.0, 2.0], [0, 0]),
    ],
    ids=["whole", "negative", "repeated", "text", "real"],
)
def test_ids_come_from_a_whole_number_column_called_id(column: list[Any], ids: list[int]) -> None:
    """Only distinct whole numbers from 0 are feature ids; without any the decoder says 0."""
    found = features_of(frame_of(shapely.Point(1, 1), shapely.Point(2, 2), id=column))

    assert [one["id"] for one in found] == ids


def test_fields_say_the_type_of_each_column() -> None:
    """TileJSON learns the field types from dtypes; geometry columns are no fields."""
    place = gpd.GeoSeries([shapely.Point(0, 0)], crs=4326)
    frame = frame_of(
        shapely.Point(0, 0),
        n=[1],
        r=[0.5],
        b=[True],
        s=["x"],
        t=pd.to_datetime(["2024-01-01"]),
        c=pd.Categorical([3]),
        o=pd.Series([1.5], dtype=object),
        d=pd.to_timedelta(["1s"]),
        other=place,
    )

    assert encoded(frame)[1]["fields"] == {
        "n": "Number",
        "r": "Number",
        "b": "Boolean",
        "s": "String",
        "t": "String",
        "c": "Number",
        "o": "Number",
        "d": "Number",
    }


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0, 0, 20037508.342789244, 20037508.342789244), (0, 0, 180, 85.0511287798066)),
        ((-20037508.35, 0, 20037508.35, 0), (-180, 0, 180, 0)),
        ((1.9e7, 0, 2.1e7, 0), (-180, 0, 180, 0)),
        ((2.1e7, 0, 2.2e7, 0), (-171.35379033, 0, -162.37063750, 0)),
        ((0, -1e10, 0, 1e10), (0, -90, 0, 90)),
    ],
)
def test_bounds_from_mercator_are_on_one_globe(box: tiles.Bounds, expected: tiles.Bounds) -> None:
    """What goes over the antimeridian is all around; what lies beyond it is where it would be before it."""
    west, south, east, north = box
    frame = frame_of(shapely.LineString([(west, south), (east, north)]), crs=3857)

    assert encoded(frame)[1]["bounds"] == pytest.approx(list(expected), abs=1e-8)


def test_the_name_of_a_geometry_column_is_not_written() -> None:
    """So it may be anything that names a column."""
    points = gpd.GeoSeries([shapely.Point(0, 0)], crs=4326)
    frame = gpd.GeoDataFrame({1j: points, "name": ["a"]}, geometry=1j)

    assert features_of(frame)[0]["properties"] == {"name": "a"}


@pytest.mark.parametrize("bounds", ["[0.1, 0.1, 1, 1]", [0.1, 0.1, 1, 1]], ids=["text", "list"])
def test_without_a_tile_bounds_choose_it(bounds: Json) -> None:
    """A single run makes the smallest tile that holds its bounds."""
    body, _ = encoded(frame_of(shapely.Point(0.5, 0.5)), None, bounds=bounds)

    assert decoded(body) == features_of(frame_of(shapely.Point(0.5, 0.5)), Tile(x=128, y=127, z=8))


@pytest.mark.parametrize("bounds", [None, "[1,2]", "x", "[5,0,1,9]", '[0,0,"a",1]', "[0,0,NaN,1]"])
def test_without_tile_and_bounds_the_error_says_what_to_ask(bounds: Json) -> None:
    """A vector tile needs a tile; bounds that are none don't help."""
    with pytest.raises(UnsupportedOutput, match=r"mvt needs a tile: ask .*run/tiles/\{z\}/\{x\}/\{y\}.mvt"):
        encoded(frame_of(shapely.Point(0, 0)), None, bounds=bounds)


REAL = resources.files("tileserver") / "demo" / "workspace" / "demo" / "data" / "countries_50m.parquet"


def exact(frame: gpd.GeoDataFrame, grid: Grid) -> list[BaseGeometry]:
    """The features cut by an intersection with the buffered tile, unrounded, in tile units."""
    inside = shapely.intersection(
        shapely.make_valid(frame.geometry.to_numpy()), shapely.box(-180, -86, 180, 86)
    )
    placed = shapely.make_valid(shapely.transform(inside, grid.from_degrees))
    return list(shapely.intersection(placed, shapely.box(*grid.box)))


@pytest.mark.parametrize(
    "address",
    [(0, 0, 0), (2, 0, 3), (2, 2, 1), (4, 15, 9), (5, 16, 10), (6, 34, 16), (8, 135, 86)],
    ids=lambda address: "/".join(map(str, address)),
)
def test_real_boundaries_are_valid_and_within_a_unit(address: tuple[int, int, int]) -> None:
    """Every country polygon of a tile is valid, none is missing or too much, edges move by a unit at most.

    A piece narrower than a unit may vanish, so the truth is compared without those.
    """
    z, x, y = address
    tile = Tile(x=x, y=y, z=z)
    frame = gpd.read_parquet(str(REAL))
    frame["row"] = range(len(frame))
    truth = exact(frame, Grid(tile, 4096, 64))

    shapes = [
        (one["properties"]["row"], shapely.geometry.shape(one["geometry"]))
        for one in features_of(frame, tile)
    ]

    found = {row: shape for row, shape in shapes if shape.geom_type.endswith("Polygon")}
    assert all(shape.is_valid for shape in found.values())
    assert set(found) <= {row for row, shape in enumerate(truth) if shape.area > 0}
    for row, shape in enumerate(truth):
        wide = shape.buffer(-0.75)
        if row in found:
            assert found[row].difference(shape.buffer(1.01)).area < 1e-6
            assert wide.difference(found[row].buffer(1.01)).area < 1e-6
        else:
            assert wide.is_empty
