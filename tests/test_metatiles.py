"""One run for a block of tiles: what it makes, for whom, and when each tile is run by itself."""

from __future__ import annotations

import io
import json
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import mapbox_vector_tile
import mercantile
import numpy as np
import pytest
from PIL import Image

from tests.conftest import Server, serving

POINTS = """
    import geopandas as gpd
    import numpy as np
    @fused.udf
    def udf(bounds: fused.types.Bounds):
        rng = np.random.default_rng(0)
        points = gpd.points_from_xy(rng.uniform(-180, 180, 500), rng.uniform(-80, 80, 500))
        print("bounds", list(bounds))
        return gpd.GeoDataFrame({"n": range(500)}, geometry=points, crs=4326)
"""
# Bounds of its own: the data lies where it lies, whatever is asked for.
WORLD_ARRAY = """
    import numpy as np
    @fused.udf
    def udf(bounds: fused.types.Bounds):
        rng = np.random.default_rng(0)
        return rng.integers(0, 255, (3, 360, 720), dtype=np.uint8), (-180, -90, 180, 90)
"""
# A value for every place on the ground, in as many pixels as it is told.
SIZED = """
    import numpy as np
    @fused.udf
    def udf(bounds: fused.types.Bounds, size: int = 64):
        west, south, east, north = bounds
        mercator = lambda degrees: np.arcsinh(np.tan(np.radians(degrees)))
        x = west + (np.arange(size) + 0.5) / size * (east - west)
        y = mercator(north) - (np.arange(size) + 0.5) / size * (mercator(north) - mercator(south))
        grid = (np.round(x * 7.3)[None, :] * 31 + np.round(y * 40.7)[:, None] * 17) % 256
        print("size", size)
        return grid.astype(np.uint8){}
"""
IDENTITY = """
    @fused.udf
    def udf(tile: fused.types.TileXYZ):
        import numpy as np
        return np.full((8, 8), tile.x * 16 + tile.y, np.uint8)
"""
BARE = """
    @fused.udf
    def udf(bounds: fused.types.Bounds):
        import numpy as np
        return np.full((8, 8), 7, np.uint8)
"""
FAILING = """
    @fused.udf
    def udf(bounds: fused.types.Bounds):
        raise ValueError("no block today")
"""
CURIOUS = """
    import fused, geopandas as gpd
    from shapely.geometry import box
    @fused.udf
    def udf(bounds: fused.types.Bounds):
        name = fused.context.get_header("x-name")
        return gpd.GeoDataFrame({"name": [name]}, geometry=[box(-180, -80, 180, 80)], crs=4326)
"""
# The same picture whatever it is told, and one of a size that only the function knows.
STUBBORN = """
    import numpy as np
    @fused.udf
    def udf(bounds: fused.types.Bounds, size: int = 64):
        return np.arange(64 * 64).reshape(64, 64).astype(np.uint8)
"""
OWN_SIZE = """
    import numpy as np
    SIDE = 32
    @fused.udf
    def udf(bounds: fused.types.Bounds, size: int = 2 * SIDE):
        return np.arange(size * size).reshape(size, size).astype(np.uint8)
"""
# What lies at 180 degrees west asks for its neighbour in the east, of which it then says the bounds.
ASKING = """
    import fused
    @fused.udf
    def udf(bounds: fused.types.Bounds, udf_token: str):
        import geopandas as gpd
        from shapely.geometry import box
        if bounds[0] > -180:
            world = [box(-180, -80, 180, 80)]
            return gpd.GeoDataFrame({"name": [str(list(bounds))]}, geometry=world, crs=4326)
        return fused.run(udf_token, x=1, y=0, z=2, udf_token=udf_token)
"""
SLOW = POINTS.replace("rng =", "__import__('time').sleep(0.5); rng =")

UDFS = {
    "points": POINTS,
    "world": WORLD_ARRAY,
    "bare_sized": SIZED.format(""),
    "paired": SIZED.format(", bounds"),
    "identity": IDENTITY,
    "bare": BARE,
    "failing": FAILING,
    "curious": CURIOUS,
    "slow": SLOW,
    "stubborn": STUBBORN,
    "own_size": OWN_SIZE,
    "asking": ASKING,
}
ALL = [mercantile.Tile(x=x, y=y, z=2) for x in range(4) for y in range(4)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Every UDF twice: as it is, and by blocks of 2 x 2 tiles."""
    sources = UDFS | {f"{name}_2": source for name, source in UDFS.items()}
    sources |= {"points_8": POINTS, "sized_8": UDFS["bare_sized"]}
    files = {f"canvas/{name}.py": textwrap.dedent(source) for name, source in sources.items()}
    tables = [f"[udf.{name}_2]\nmetatile = 2\n" for name in UDFS]
    tables += ["[udf.points_8]\nmetatile = 8\n", "[udf.sized_8]\nmetatile = 8\n"]
    files["canvas/canvas.toml"] = "\n".join(tables)
    folder = tmp_path_factory.mktemp("metatiles")
    with (folder / "log").open("w") as log, serving(folder / "workspace", files, log=log) as started:
        yield started


@pytest.fixture
def get(server: Server) -> Callable[..., httpx.Response]:
    """A tile of a UDF: (name, tile, what follows in the address)."""

    def ask(name: str, tile: mercantile.Tile, ending: str = ".png", **options: Any) -> httpx.Response:
        return server.get(f"/{{canvas}}/{name}/run/tiles/{tile.z}/{tile.x}/{tile.y}{ending}", **options)

    return ask


def logged(server: Server) -> list[str]:
    return (server.workspace.parent / "log").read_text().splitlines()


def pixels(response: httpx.Response) -> np.ndarray[Any, Any]:
    assert response.status_code == 200, response.text
    return np.asarray(Image.open(io.BytesIO(response.content)).convert("RGBA"))


def stdout(response: httpx.Response) -> str:
    return str(json.loads(response.headers["x-fused-metadata"])["stdout"])


def test_one_run_makes_the_tiles_of_its_block(get: Callable[..., httpx.Response]) -> None:
    """The function is told the block's bounds, once; its other tiles are stored ones from then on."""
    first, *others = [get("points_2", mercantile.Tile(x=x, y=y, z=3), ".mvt") for x in (4, 5) for y in (2, 3)]

    assert first.headers["x-cache"] == "miss"
    assert [other.headers["x-cache"] for other in others] == ["hit"] * 3
    west, south, east, north = mercantile.bounds(mercantile.Tile(x=2, y=1, z=2))
    assert stdout(first).strip() == f"bounds {[west, south, east, north]}"
    assert {stdout(other) for other in others} == {stdout(first)}
    assert get("points_2", mercantile.Tile(x=6, y=2, z=3), ".mvt").headers["x-cache"] == "miss"


@pytest.mark.parametrize("name", ["points", "world", "bare_sized", "paired"])
def test_pictures_of_a_block_are_those_of_single_tiles(get: Callable[..., httpx.Response], name: str) -> None:
    """Pixel by pixel: drawn features, warped rasters, and arrays that fill what they are told."""
    for tile in ALL:
        single, cut = get(name, tile, "@2x.png"), get(f"{name}_2", tile, "@2x.png")

        assert np.array_equal(pixels(single), pixels(cut)), (name, tile)


def test_vector_tiles_of_a_block_are_those_of_single_tiles(get: Callable[..., httpx.Response]) -> None:
    """Feature by feature."""
    for tile in ALL:
        single, cut = get("points", tile, ".mvt"), get("points_8", tile, ".mvt")

        assert mapbox_vector_tile.decode(single.content) == mapbox_vector_tile.decode(cut.content)
        assert single.headers["etag"] == cut.headers["etag"]


def test_a_declared_size_is_that_of_the_whole_block(get: Callable[..., httpx.Response]) -> None:
    """``size`` is n times what it is for a tile; what a caller asks for is that of a tile."""
    assert stdout(get("bare_sized_2", ALL[0])).strip() == "size 128"
    asked = get("bare_sized_2", ALL[0], ".png?size=32")
    assert stdout(asked).strip() == "size 64"
    assert pixels(asked).shape == (32, 32, 4)


def test_neighbours_that_ask_meanwhile_join_the_run(get: Callable[..., httpx.Response]) -> None:
    """Sixteen requests at once for the four blocks of a zoom are four runs; who comes too late for one finds
    what it has stored."""
    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(lambda tile: get("slow_2", tile, ".mvt"), ALL))

    outcomes = Counter(answer.headers["x-cache"] for answer in answers)
    assert outcomes["miss"] == 4
    assert outcomes["shared"] + outcomes["hit"] == 12


def test_a_block_is_no_larger_than_the_limit_of_pixels_and_the_zoom(
    get: Callable[..., httpx.Response],
) -> None:
    """n is halved until n tiles fit ``max_tile_pixels`` (4096), and at zoom 1 there are four tiles."""
    tile = mercantile.Tile(x=5, y=5, z=4)

    assert stdout(get("sized_8", tile)).strip() == "size 512"
    assert stdout(get("sized_8", tile, ".png?size=1024")).strip() == "size 4096"
    assert stdout(get("sized_8", tile, ".png?size=1025")).strip() == "size 2050"
    assert stdout(get("sized_8", mercantile.Tile(x=1, y=1, z=1))).strip() == "size 128"
    assert stdout(get("sized_8", mercantile.Tile(x=0, y=0, z=0))).strip() == "size 64"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("identity", "a UDF that is run for a block takes its bounds"),
        ("bare", "it declares no parameter size"),
        ("stubborn", "its array of 64 x 64 pixels is smaller than its size, 128"),
        ("own_size", "its parameter size has no number as its default"),
    ],
)
def test_what_has_no_blocks_is_run_tile_by_tile_and_the_log_says_so(
    server: Server, get: Callable[..., httpx.Response], name: str, reason: str
) -> None:
    """A UDF that is told the tile, and an array that says neither where it lies nor was told a size."""
    for tile in ALL[:6]:
        cut = get(f"{name}_2", tile)
        assert cut.headers["x-cache"] == "miss"
        assert np.array_equal(pixels(cut), pixels(get(name, tile)))

    lines = [line for line in logged(server) if f"{name}_2: metatile is ignored" in line]
    assert len(lines) == 1
    assert reason in lines[0]


def test_formats_that_are_not_clipped_to_a_tile_have_no_blocks(get: Callable[..., httpx.Response]) -> None:
    """A table of all rows is the answer for each tile by itself."""
    first, second = (get("points_8", tile, ".csv") for tile in ALL[:2])

    assert first.status_code == 200
    assert second.headers["x-cache"] == "miss"


def test_a_failed_block_fails_its_tile_and_stores_nothing(get: Callable[..., httpx.Response]) -> None:
    """The next request runs again."""
    for tile in ALL[:2]:
        failed = get("failing_2", tile)
        assert failed.status_code == 422
        assert "no block today" in failed.json()["detail"]


def test_a_run_that_looks_at_its_caller_serves_that_one_alone(
    server: Server, get: Callable[..., httpx.Response]
) -> None:
    """Its neighbours run for themselves, and not for a block that nobody has a use for."""
    for tile, name in zip(ALL[:4], ("Ada", "Bo", "Cy", "Di"), strict=True):
        answer = get("curious_2", tile, ".mvt", headers={"x-name": name})

        assert answer.headers["x-cache"] == "miss"
        features = mapbox_vector_tile.decode(answer.content)["udf"]["features"]
        assert features[0]["properties"] == {"name": name}
    (line,) = [line for line in logged(server) if "curious_2: metatile is ignored" in line]
    assert "its results depend on who asks" in line


def test_a_run_may_ask_for_a_tile_of_its_own_block(get: Callable[..., httpx.Response]) -> None:
    """It doesn't wait for itself: that tile has a run of its own."""
    names = ("asking", "asking_2")
    answers = [get(name, ALL[0], f".mvt?udf_token={{canvas}}/{name}") for name in names]

    for answer in answers:
        assert answer.status_code == 200, answer.text
        (feature,) = mapbox_vector_tile.decode(answer.content)["udf"]["features"]
        assert feature["properties"] == {"name": str(list(mercantile.bounds(1, 0, 2)))}


def test_without_a_stored_result_there_is_no_block(get: Callable[..., httpx.Response]) -> None:
    """Age 0 keeps nothing, so the neighbours would gain nothing."""
    answer = get("points_2", ALL[0], ".mvt?cache_max_age=0")

    assert stdout(answer).strip() == f"bounds {list(mercantile.bounds(ALL[0]))}"


def test_metatile_takes_a_small_power_of_two(tmp_path: Path) -> None:
    """Anything else is told as a problem of the canvas, with what it takes."""
    files = {"c/points.py": textwrap.dedent(POINTS), "c/canvas.toml": "[udf.points]\nmetatile = 3\n"}
    with (tmp_path / "log").open("w") as log, serving(tmp_path / "workspace", files, log=log) as server:
        assert any("metatile: takes 1, 2, 4 or 8" in line for line in logged(server))
