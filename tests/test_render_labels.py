"""Labels on pictures: legible, apart from one another, and the same in neighbouring tiles."""

from __future__ import annotations

import json
import time
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import shapely
from mercantile import Tile
from numpy.typing import NDArray

from tileserver.protocol import Job, RenderOptions
from tileserver.render.drawing import draw

WORLD = Tile(x=0, y=0, z=0)


def job(tile: Tile, layout: dict[str, Any] | None = None, **options: Any) -> Job:
    layer = {
        "id": "names",
        "type": "symbol",
        "source": "udf",
        "source-layer": "udf",
        "layout": {"text-field": "{name}", "text-size": 14, **(layout or {})},
        "paint": {"text-color": "#c00", "text-halo-color": "#fff", "text-halo-width": 2},
    }
    style = json.dumps({"version": 8, "sources": {}, "layers": [layer]})
    return Job("c", "b", "u", {}, ("png",), "tile", RenderOptions(**options), tile, style=style)


def named(*geometry: Any, names: list[str] | None = None) -> gpd.GeoDataFrame:
    chosen = names or [f"Place {number}" for number in range(len(geometry))]
    return gpd.GeoDataFrame({"name": chosen}, geometry=list(geometry), crs=4326)


def picture(frame: gpd.GeoDataFrame, wanted: Job) -> NDArray[np.int_]:
    return draw(frame, wanted)[0].astype(int)


def letters(rgba: NDArray[np.int_]) -> NDArray[np.bool_]:
    """Pixels of the text itself."""
    return np.asarray((rgba[3] > 200) & (rgba[0] > 150) & (rgba[1] < 60))


def test_a_label_is_at_its_point() -> None:
    """Letters in their colour in the middle of the tile, with a halo around them."""
    rgba = picture(named(shapely.Point(0, 0), names=["Nowhere"]), job(WORLD))
    rows, columns = np.nonzero(letters(rgba))

    assert rows.mean() == pytest.approx(128, abs=4) and columns.mean() == pytest.approx(128, abs=4)
    assert ((rgba[3] > 200) & (rgba[:3] > 240).all(axis=0)).sum() > letters(rgba).sum()


@pytest.mark.parametrize("scale", [1, 2])
def test_neighbouring_tiles_agree_on_every_label(scale: int) -> None:
    """Of a crowd of places four tiles put together are the picture that one twice the size would be, in
    whatever order their rows come."""
    random = np.random.default_rng(3)
    places = list(map(shapely.Point, random.uniform(-170, 170, 400), random.uniform(-80, 80, 400)))
    crowd = named(*places, names=[f"Town {number * 37 % 1000}" for number in range(400)])

    def tile(x: int, y: int) -> NDArray[np.int_]:
        shuffled = crowd.sample(frac=1, random_state=x + 2 * y)
        return picture(shuffled, job(Tile(x=x, y=y, z=1), scale=scale))

    rows = [np.concatenate([tile(x, y) for x in (0, 1)], axis=2) for y in (0, 1)]
    together = np.concatenate(rows, axis=1)
    whole = picture(crowd, job(WORLD, size=512, scale=scale))

    assert letters(whole).sum() > 2000 * scale
    assert np.abs(together - whole).max() <= 1


def test_labels_do_not_cover_one_another() -> None:
    """Of two that are too near only the one with the lower key is shown, unless they may overlap."""
    near = named(shapely.Point(0, 0), shapely.Point(4, 1), names=["First", "Second"])
    alone = picture(near.iloc[1:], job(WORLD))
    order = {"symbol-sort-key": ["case", ["==", ["get", "name"], "Second"], 0, 1]}

    assert (picture(near, job(WORLD, order)) == alone).all()
    assert not (picture(near, job(WORLD, {"text-allow-overlap": True})) == alone).all()


def test_lines_and_areas_are_named_once_in_their_middle() -> None:
    """The middle of the longest line, within the largest part of an area."""
    parts = shapely.MultiPolygon([shapely.box(-90, -20, -10, 60), shapely.box(60, 0, 70, 10)])
    rgba = picture(named(parts, names=["Area"]), job(WORLD))
    columns = np.nonzero(letters(rgba))[1]
    line = picture(named(shapely.LineString([(-60, 0), (120, 0)]), names=["Line"]), job(WORLD))

    assert columns.mean() == pytest.approx(128 * (1 - 50 / 180), abs=4)
    assert np.nonzero(letters(line))[1].mean() == pytest.approx(128 * (1 + 30 / 180), abs=4)


def test_long_labels_are_wrapped_and_anchored() -> None:
    """Words go on in the next line once ten sizes are full; the anchor says which side is at the point."""
    text = "a label of quite a few words that has to be wrapped somewhere"
    layout = {"text-anchor": "bottom-right", "text-offset": [-1, 0]}
    rgba = picture(named(shapely.Point(90, 0), names=[text]), job(WORLD, layout))
    rows, columns = np.nonzero(letters(rgba))

    assert columns.max() < 192 - 10 and rows.max() <= 128
    assert columns.max() - columns.min() <= 140
    assert rows.max() - rows.min() > 2 * 14


def test_nothing_to_say_is_nothing_to_draw() -> None:
    """Missing, empty and blank names."""
    frame = named(*shapely.points([0, 20, 40], [0, 0, 0]), names=["", "  ", None])  # type: ignore[list-item]

    assert draw(frame, job(WORLD))[1]["empty"] is True


def test_a_thousandfold_crowd_is_drawn_at_once_and_alike_in_neighbours() -> None:
    """Fifty thousand labels within a few pixels of the border of two tiles."""
    random = np.random.default_rng(5)
    xs, ys = random.normal(0, 4, 50_000), random.normal(40, 4, 50_000)
    crowd = named(
        *map(shapely.Point, xs, ys), names=[f"Town {number * 37 % 1000}" for number in range(50_000)]
    )
    started = time.perf_counter()
    west, east = (picture(crowd, job(Tile(x=x, y=0, z=1))) for x in (0, 1))

    assert time.perf_counter() - started < 20
    assert letters(west)[:, -1].any()
    assert abs(west[:, :, -1] - east[:, :, 0]).mean() < 30  # letters go on where the tile ends


@pytest.mark.parametrize(
    "layout",
    [
        {"text-size": 1e9},
        {"text-size": ["/", 1, 0]},
        {"text-field": "word " * 20_000},
        {"text-field": "x" * 99_999},
    ],
)
def test_no_size_or_length_is_too_much(layout: dict[str, Any]) -> None:
    """Texts are drawn as large and as long as a picture could show them."""
    assert letters(picture(named(shapely.Point(0, 0)), job(WORLD, layout))).any()
