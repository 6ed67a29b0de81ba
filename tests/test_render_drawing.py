"""Features drawn as pictures: position, seams, blending, families of geometry."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely
from mercantile import Tile

from tileserver import styles, tiles
from tileserver.errors import UnsupportedOutput
from tileserver.protocol import Job, RenderOptions
from tileserver.render.drawing import draw
from tileserver.styles.evaluate import evaluate


def _colour(layer: str, kind: str) -> tuple[float, ...]:
    """Red, green, blue and opacity of the default style."""
    values = next(one.values for one in styles.default().layers if one.id == layer)
    colour, opacity = values[f"{kind}-color"], values[f"{kind}-opacity"]
    assert colour is not None and opacity is not None
    return (*evaluate(colour)[:3], evaluate(opacity))


FILL, LINE = _colour("udf-fill", "fill"), _colour("udf-line", "line")
POINT = _colour("udf-point", "circle")


def job(tile: Tile | None = None, **options: Any) -> Job:
    return Job("c", "b", "u", {}, ("png",), "tile", RenderOptions(**options), tile)


def frame(*geometry: Any, crs: Any = 4326) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(geometry=list(geometry), crs=crs)


def scattered() -> gpd.GeoDataFrame:
    """Points, lines and polygons, many of them over the edges of tiles."""
    random = np.random.default_rng(7)
    x, y = random.uniform(-60, 60, 120), random.uniform(-60, 60, 120)
    points = np.asarray(shapely.points(x, y))
    lines = np.asarray(shapely.linestrings(np.reshape(np.c_[x, y], (40, 3, 2))))
    return frame(*points, *lines, *shapely.buffer(points[::4], 6))


WORLD = Tile(x=0, y=0, z=0)


def styled(*layers: dict[str, Any]) -> str:
    """A style of layers that differ in the given type, layout and paint."""
    source = {"source": "udf", "source-layer": "udf"}
    numbered = [{"id": str(number), **source, **layer} for number, layer in enumerate(layers)]
    return json.dumps({"version": 8, "sources": {}, "layers": numbered})


BY_NUMBER = ["interpolate", ["linear"], ["get", "number"], 0, "#d00000", 199, "#0040ff"]
SEAMS = {
    "default": None,
    "wide lines": styled(
        {"type": "line", "layout": {"line-join": "round"}, "paint": {"line-width": 31, "line-opacity": 0.5}},
        {"type": "line", "paint": {"line-width": 5, "line-color": BY_NUMBER}},
    ),
    "dashes": styled(
        {
            "type": "line",
            "layout": {"line-cap": "square", "line-join": "bevel"},
            "paint": {"line-width": ["+", 2, ["%", ["get", "number"], 7]], "line-dasharray": [3, 2.5, 1]},
        }
    ),
    "rings": styled(
        {"type": "fill", "paint": {"fill-color": BY_NUMBER, "fill-opacity": 0.6}},
        {
            "type": "circle",
            "paint": {
                "circle-color": BY_NUMBER,
                "circle-opacity": 0.4,
                "circle-radius": ["*", 0.5, ["%", ["get", "number"], 41]],
                "circle-stroke-width": 3,
                "circle-stroke-color": "#fff",
                "circle-stroke-opacity": 0.7,
            },
        },
    ),
    "wider than what is looked for at first": styled(
        {"type": "circle", "paint": {"circle-radius": 90, "circle-opacity": 0.05}}
    ),
    "texts between": styled(
        {"type": "fill", "paint": {"fill-color": "#9bc"}},
        {
            "type": "symbol",
            "layout": {"text-field": ["concat", "No. ", ["to-string", ["get", "number"]]]},
            "paint": {"text-color": "#700", "text-halo-color": "#fff", "text-halo-width": 2},
        },
        {"type": "circle", "paint": {"circle-color": BY_NUMBER, "circle-opacity": 0.7}},
    ),
}


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("style", SEAMS.values(), ids=SEAMS.keys())
def test_neighbouring_tiles_meet_without_a_seam(scale: int, style: str | None) -> None:
    """Four tiles put together are the picture that one twice the size would be."""

    def tile(tile: Tile, **options: Any) -> Any:
        shown = scattered()
        return draw(
            shown.assign(number=range(len(shown))), replace(job(tile, scale=scale, **options), style=style)
        )[0]

    parts = [[tile(Tile(x=x, y=y, z=1)) for x in (0, 1)] for y in (0, 1)]
    together = np.concatenate([np.concatenate(row, axis=2) for row in parts], axis=1)

    # The same pixels per degree, strokes included: twice the size, not twice the scale.
    whole = tile(WORLD, size=512)

    premultiplied = [one[:3] * (one[3] / 255) for one in (together, whole)]
    assert np.abs(together[3].astype(int) - whole[3]).max() <= 1
    assert np.abs(premultiplied[0] - premultiplied[1]).max() <= 1.01


def test_a_row_has_the_same_label_in_every_tile_that_shows_a_part_of_it() -> None:
    """The largest part is named, also where it is far away from a tile that shows another."""
    islands = shapely.MultiPolygon([shapely.box(-150, -60, -60, 60), shapely.box(1, -1, 9, 7)])
    style = styled({"type": "symbol", "layout": {"text-field": "Islands"}})
    names = [
        draw(frame(islands), replace(job(Tile(x=x, y=y, z=3)), style=style))[0][3].any()
        for x, y in ((1, 3), (4, 3))
    ]

    assert names == [True, False]


def test_a_point_at_the_dateline_is_whole() -> None:
    """A dot on the eastern edge of the world goes on at the western one."""
    east = draw(frame(shapely.Point(180, 0)), job(WORLD))[0]

    assert east[3, 128, 255] > 200
    assert east[3, 128, 0] > 200


@pytest.mark.parametrize(
    ("geometry", "colour"),
    [
        (shapely.Point(0, 0), POINT),
        (shapely.MultiPoint([(0, 0), (90, 0)]), POINT),
        (shapely.LineString([(-90, 0), (90, 0)]), LINE),
        (shapely.LinearRing([(-90, 0), (90, 0), (0, 60)]), LINE),
        (shapely.MultiLineString([[(-90, 0), (90, 0)], [(0, 10), (0, 60)]]), LINE),
        (shapely.box(-40, -40, 40, 40), FILL),
        (shapely.MultiPolygon([shapely.box(-40, -40, 40, 40), shapely.box(60, 0, 90, 40)]), FILL),
        (shapely.GeometryCollection([shapely.GeometryCollection([shapely.box(-40, -40, 40, 40)])]), FILL),
        (shapely.from_wkt("POLYGON Z ((-40 -40 1, 40 -40 1, 40 40 1, -40 40 1, -40 -40 1))"), FILL),
    ],
    ids=lambda value: str(value)[:18] if isinstance(value, shapely.Geometry) else "",
)
def test_every_family_of_geometry_is_drawn(geometry: Any, colour: tuple[float, ...]) -> None:
    """The middle of the world has the colour of the family's style."""
    rgba = draw(frame(geometry, None, shapely.Point()), job(WORLD, size=128, scale=4))[0]

    assert rgba[:, 256, 256] / 255 == pytest.approx(colour, abs=0.12)


def test_holes_are_empty() -> None:
    """Nothing is filled within a hole."""
    ring = shapely.box(-60, -60, 60, 60).difference(shapely.box(-30, -30, 30, 30))
    rgba = draw(frame(ring), job(WORLD))[0]

    assert rgba[3, 128, 128] == 0
    assert rgba[3, 128, 128 + 32] > 0


@pytest.mark.parametrize("z", [0, 5, 14])
def test_a_point_is_at_its_pixel(z: int) -> None:
    """The middle of a dot lies where its coordinate is in the tile, at every zoom."""
    address = tiles.bounding_tile((11.0, 46.0, 11.0, 46.0))
    tile = Tile(x=address.x >> (address.z - z), y=address.y >> (address.z - z), z=z)
    west, south, east, north = tiles.mercator_bounds(tile)
    point = frame(shapely.Point(west + (east - west) * 0.3, south + (north - south) * 0.6), crs=3857)

    alpha = draw(point.to_crs(4326), job(tile, size=512))[0][3].astype(float)

    rows, columns = np.indices(alpha.shape) + 0.5
    assert (alpha * columns).sum() / alpha.sum() == pytest.approx(0.3 * 512, abs=0.2)
    assert (alpha * rows).sum() / alpha.sum() == pytest.approx(0.4 * 512, abs=0.2)


@pytest.mark.parametrize("crs", [None, 3857, 32633, "OGC:CRS84"], ids=str)
def test_any_reference_system_lands_in_the_same_place(crs: Any) -> None:
    """The same polygon in another system, or without one (degrees), gives the same picture."""
    box = frame(shapely.box(12, 45, 16, 48).segmentize(0.1))
    tile = Tile(x=8, y=5, z=4)
    expected = draw(box, job(tile))[0]

    other = box.set_crs(None, allow_override=True) if crs is None else box.to_crs(crs)

    assert np.abs(draw(other, job(tile))[0].astype(int) - expected).max() <= 12


def test_overlapping_fills_accumulate() -> None:
    """Two half-transparent polygons are denser where they overlap, by the rule of alpha blending."""
    rgba = draw(frame(shapely.box(-60, -60, 20, 60), shapely.box(-20, -60, 60, 60)), job(WORLD))[0]
    one, two = rgba[3, 128, 128 - 30] / 255, rgba[3, 128, 128] / 255

    assert two == pytest.approx(1 - (1 - one) ** 2, abs=0.02)


def test_edges_have_no_dark_fringe() -> None:
    """Half-covered pixels of a dot keep its colours; only their alpha is lower."""
    rgba = draw(frame(shapely.Point(0, 0)), job(WORLD))[0]
    edge = (rgba[3] > 20) & (rgba[3] < 120)

    assert edge.any()
    assert rgba[0][edge].min() > POINT[0] * 255 - 20


def test_poles_are_cut_at_the_end_of_the_map() -> None:
    """A polygon to the south pole fills the map to its lower edge and breaks nothing."""
    for south in (
        frame(shapely.box(-180, -90, 180, -60)),
        frame(shapely.box(-180, -90, 180, -60)).to_crs(3857),
    ):
        rgba = draw(south, job(WORLD))[0]
        assert (rgba[3, 250] > 0).all()
        assert (rgba[3, 100] == 0).all()


def test_nothing_in_the_tile_is_empty() -> None:
    """A frame without rows, or with all of them elsewhere, is a transparent picture that says so."""
    for nothing in (frame(), frame(shapely.Point(100, 50))):
        rgba, facts = draw(nothing, job(Tile(x=0, y=0, z=3)))
        assert facts["empty"] is True
        assert not rgba[3].any()
        assert rgba.shape == (4, 256, 256)


@pytest.mark.parametrize(
    ("geometry", "shape"),
    [
        (shapely.box(0, 0, 10, 10), (512, 512)),
        (shapely.box(0, 0, 20, 1), (49, 512)),
        (shapely.Point(5, 5), (24, 24)),
    ],
    ids=["square", "wide", "point"],
)
def test_a_single_run_fits_the_data(geometry: Any, shape: tuple[int, int]) -> None:
    """Without a tile the picture has the data's proportions, and space around it."""
    rgba, facts = draw(frame(geometry), job())

    assert rgba.shape[1:] == pytest.approx(shape, abs=3)
    assert facts["bounds"] == list(geometry.bounds)
    assert rgba[3, :7].max() == 0
    assert rgba[3].max() > 100


def test_strokes_grow_with_the_scale() -> None:
    """At scale 2 a dot has four times the pixels; as its edge fades within one, not two, some more."""
    one, two = (draw(frame(shapely.Point(0, 0)), job(WORLD, scale=scale))[0][3] for scale in (1, 2))

    assert two.sum() / one.sum() == pytest.approx(4.5, rel=0.1)


def test_lines_may_be_dashed() -> None:
    """Dashes and gaps in turn, counted in widths of the line."""
    style = styled({"type": "line", "paint": {"line-dasharray": [7, 3], "line-width": 4}})
    line = frame(shapely.LineString([(-150, 0), (150, 0)]))

    row = draw(line, replace(job(WORLD, size=512), style=style))[0][3, 256, 50:460] > 128

    assert row.mean() == pytest.approx(0.7, abs=0.05)
    assert (row[1:] != row[:-1]).sum() == pytest.approx(2 * 410 / 40, abs=2)


def test_invalid_polygons_are_drawn() -> None:
    """A bow-tie that reaches out of the tile doesn't fail the picture."""
    bow = shapely.Polygon([(-100, -60), (100, 60), (100, -60), (-100, 60)])

    assert draw(frame(bow), job(Tile(x=0, y=0, z=1)))[0][3].any()


def test_places_that_are_none_hide_only_their_own_part() -> None:
    """A coordinate that is no number, or lies at infinity, takes its line or polygon along, nothing else."""
    with np.errstate(invalid="ignore"):
        nowhere = [
            shapely.LineString([(0, 0), (np.nan, 10), (20, 20)]),
            shapely.LineString([(0, 0), (np.inf, 10)]),
            shapely.Point(np.nan, 3),
            shapely.Polygon([(0, 0), (10, 0), (np.nan, 10), (0, 0)]),
        ]

    assert draw(frame(*nowhere), job(WORLD))[1]["empty"] is True
    assert draw(frame(*nowhere, shapely.Point(0, 0)), job(WORLD))[0][3, 128, 128] > 200


def test_what_is_far_larger_than_the_tile_covers_it() -> None:
    """The whole world as one polygon fills a tile of zoom 22 evenly, and a line around it passes through."""
    tile = Tile(x=2**21, y=2**21, z=22)
    world = shapely.box(-170, -80, 170, 80)
    equator = shapely.LineString([(-170, -1e-6), (170, -1e-6)])

    rgba = draw(frame(world, equator), job(tile))[0]

    assert rgba[3, 200].min() == rgba[3, 200].max() == pytest.approx(FILL[3] * 255, abs=1)
    assert rgba[3].max(axis=0).min() > 240


def test_a_row_of_several_families_is_drawn_once_in_each() -> None:
    """A collection's polygons, lines and points have their own styles, one above the other."""
    mixed = shapely.GeometryCollection(
        [shapely.box(-90, -60, 90, 60), shapely.LineString([(-90, 0), (90, 0)]), shapely.Point(0, 40)]
    )

    rgba = draw(frame(mixed), job(WORLD, size=128, scale=4))[0] / 255

    assert rgba[:, 300, 200] == pytest.approx(FILL, abs=0.02)
    assert rgba[:3, 256, 200] == pytest.approx(LINE[:3], abs=0.02)
    assert rgba[:3, int(256 - 512 * 0.1214), 256] == pytest.approx(POINT[:3], abs=0.05)


def test_a_crs_that_no_map_knows_is_named() -> None:
    """Like vector tiles, which say so."""
    local = (
        'ENGCRS["site",EDATUM["site"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],LENGTHUNIT["metre",1]]'
    )
    with pytest.raises(UnsupportedOutput, match="'site' has no transformation to EPSG:3857"):
        draw(frame(shapely.Point(1, 2), crs=local), job(WORLD))


@pytest.mark.parametrize("box", [(170, -20, 190, 20), (-30, 10, 40, 60)], ids=str)
def test_the_crs_of_geoparquet_is_degrees(box: tuple[float, float, float, float]) -> None:
    """OGC:CRS84 differs from EPSG:4326 by the order of its axes alone; nothing is projected on the way."""
    expected, facts = draw(frame(shapely.box(*box)), job(WORLD))
    found, others = draw(frame(shapely.box(*box), crs="OGC:CRS84"), job(WORLD))

    assert np.array_equal(found, expected)
    assert others == facts
