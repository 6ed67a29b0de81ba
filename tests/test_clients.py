"""Map programs that people have: each pixel that they show lies where the tile says it lies.

The UDF colours a tile's pixels by their column (red), their row (green) and the tile's own place (blue), so
that every pixel on a screen tells which pixel of which tile it is.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import mercantile
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser

from tests.browser import chromium, site, tab
from tests.conftest import Server, serving
from tests.node import CLIENTS, home, installed

VENDOR = Path(__file__).parent.parent / "tileserver/static/vendor"

WHERE = """
import fused
import numpy as np

@fused.udf
def udf(x: int, y: int, z: int):
    column, row = np.meshgrid(np.arange(256), np.arange(256))
    return np.stack([column, row, np.full_like(row, (x * 7 + y * 13 + z * 29) % 256)]).astype("uint8")
"""

PLACES_UDF = """
import fused, geopandas as gpd, shapely

@fused.udf
def udf(bounds: fused.types.Tile):
    area = shapely.Point(8.5, 47.4).buffer(0.1) - shapely.Point(8.5, 47.4).buffer(0.05)
    rows = {"name": ["Zürich", None], "people": [427_000, 1], "share": [0.25, 1.5], "large": [True, False]}
    return gpd.GeoDataFrame(rows, geometry=[shapely.Point(8.5, 47.4), area], crs=4326)
"""

# A place for each zoom from 0 to 14, and the edges of the world.
VIEWS = [
    *(
        (0, 0.0, 0.0),
        (1, 20.0, 10.0),
        (2, -75.3, 40.1),
        (3, 100.7, -30.2),
        (4, 2.35, 48.85),
        (5, 139.7, 35.7),
    ),
    *((6, -58.4, -34.6), (7, 77.2, 28.6), (8, 18.4, -33.9), (9, -0.1, 51.5), (10, 151.2, -33.9)),
    *((11, -84.25, 36.6), (12, 13.4, 52.5), (13, 103.8, 1.3), (14, -122.4, 37.8)),
    *((3, -170.0, 80.0), (3, 170.0, -80.0), (14, -179.995, 0.004), (14, 179.995, -84.99), (9, 0.0, 84.9)),
]
WORLD = 2 * 20037508.342789244  # metres of EPSG:3857
PLACES = [(column, row) for column in (13, 140, 301, 499) for row in (17, 150, 333, 490)]


@pytest.fixture(scope="module")
def where(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(
        tmp_path_factory.mktemp("where") / "workspace", {"grid/where.py": WHERE, "grid/places.py": PLACES_UDF}
    ) as server:
        yield server


def template(server: Server) -> str:
    return f"{server.url}/{server.tokens['grid']}/where/run/tiles/{{z}}/{{x}}/{{y}}.png"


def assert_in_place(
    shown: NDArray[np.uint8], z: int, at: Callable[[int, int], tuple[float, float]], within: float = 1.6
) -> None:
    """Pixels on the screen are those of the tile at their coordinate, to within so many pixels."""
    count = 0
    for column, row in PLACES:
        lon, lat = at(column, row)
        fx, fy = ((lon + 180) / 360) % 1, 0.5 - math.asinh(math.tan(math.radians(lat))) / (2 * math.pi)
        if not 0 <= fy < 1:
            continue
        x, y = fx * 2**z, fy * 2**z
        u, v = (x % 1) * 256, (y % 1) * 256
        if not (3 < u < 253 and 3 < v < 253):
            continue
        red, green, blue = (int(number) for number in shown[row, column])
        assert blue == (int(x) * 7 + int(y) * 13 + z * 29) % 256, f"another tile at {column},{row}"
        assert abs(red + 0.5 - u) <= within, f"{red} is not column {u:.1f} at {column},{row}"
        assert abs(green + 0.5 - v) <= within, f"{green} is not row {v:.1f} at {column},{row}"
        count += 1
    assert count >= 4


# -- Leaflet and MapLibre, on a page of another origin


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of somebody's own page, which shows our tiles."""
    folder = tmp_path_factory.mktemp("pages")
    for name in ("page.html", "page.js"):
        shutil.copy(CLIENTS / name, folder)
    shutil.copytree(installed() / "leaflet", folder / "leaflet")
    shutil.copytree(VENDOR / "maplibre-gl", folder / "maplibre-gl")

    with site(folder) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.mark.parametrize("client", ["leaflet", "maplibre"])
def test_a_browser_shows_every_pixel_in_its_place(
    browser: Browser, where: Server, pages: str, client: str
) -> None:
    """Zoom 0 to 14 and the edges of the world, from another origin."""
    with tab(browser, where.url, pages, viewport={"width": 512, "height": 512}) as found:
        found.page.goto(f"{pages}/page.html")
        found.page.evaluate(f"window.client = clients.{client}({json.dumps(template(where))}); 0")
        for z, lon, lat in VIEWS:
            if client == "maplibre" and z < 1:
                continue  # it shows no world smaller than its window
            found.page.evaluate(f"client.show({lon}, {lat}, {z})")
            shown = found.pixels()
            at = found.page.evaluate(f"{json.dumps(PLACES)}.map(([x, y]) => client.at(x + 0.5, y + 0.5))")
            assert_in_place(shown, z, lambda c, r, at=at: at[PLACES.index((c, r))])  # type: ignore[misc]
        assert found.complaints == []
        assert found.foreign == []


def test_maplibre_draws_vector_tiles_by_their_tilejson(browser: Browser, where: Server, pages: str) -> None:
    """From another origin: the document, the tiles, their attributes, and the colour on the screen."""
    url = f"{where.url}/{where.tokens['grid']}/places/run/tiles.json"
    with tab(browser, where.url, pages, viewport={"width": 512, "height": 512}) as found:
        found.page.goto(f"{pages}/page.html")
        found.page.evaluate(f"window.client = clients.vector({json.dumps(url)}); 0")
        found.page.evaluate("client.show(8.575, 47.4, 9)")  # the middle of the ring's right half
        drawn = found.page.evaluate("client.found()")

        assert drawn[0] == {"people": 1, "share": 1.5, "large": False}
        assert all(row == drawn[0] for row in drawn)  # once for each tile that it lies in
        assert (found.pixels()[256, 256] == (204, 0, 0)).all()
        assert found.complaints == []


def test_leaflet_draws_a_file_of_features(browser: Browser, where: Server, pages: str) -> None:
    """From another origin, with the headers that such a page may read."""
    url = f"{where.url}/{where.tokens['grid']}/places.geojson?bounds=8,47,9,48"
    with tab(browser, where.url, pages, viewport={"width": 512, "height": 512}) as found:
        found.page.goto(f"{pages}/page.html")
        found.page.evaluate(
            f"clients.geojson({json.dumps(url)}).then((client) => {{ window.client = client }})"
        )

        assert [row["people"] for row in found.page.evaluate("client.found()")] == [427_000, 1]
        assert found.page.evaluate("client.etag").startswith('"')
        assert found.complaints == []


# -- node.js


def test_the_library_of_vector_tiles_reads_ours(where: Server) -> None:
    """``@mapbox/vector-tile``: version 2, one layer, attributes of their types, places to within a unit."""
    installed()
    tile = mercantile.tile(8.5, 47.4, 9)
    url = f"{where.url}/{where.tokens['grid']}/places/run/tiles/{tile.z}/{tile.x}/{tile.y}.mvt"
    arguments = [str(home() / "bin/node"), "read_tile.mjs", url, *map(str, (tile.z, tile.x, tile.y))]
    found = subprocess.run(arguments, cwd=CLIENTS, check=True, capture_output=True, text=True, timeout=60)
    (layer,) = json.loads(found.stdout)
    point, area = layer["features"]

    assert (layer["name"], layer["version"], layer["extent"]) == ("udf", 2, 4096)
    assert point["properties"] == {"name": "Zürich", "people": 427_000, "share": 0.25, "large": True}
    assert point["geometry"]["type"] == "Point" and area["geometry"]["type"] == "Polygon"
    assert point["geometry"]["coordinates"] == pytest.approx([8.5, 47.4], abs=360 / 2**9 / 4096)
    assert len(area["geometry"]["coordinates"]) == 2  # with its hole


# -- QGIS


def qgis(address: str, views: list[tuple[int, float, float]], folder: Path, *, vector: bool = False) -> None:
    """Have QGIS draw views into a folder: 0.png and so on."""
    job = {"url": address, "vector": vector, "folder": str(folder), "views": views}
    subprocess.run(
        ["/usr/bin/python3", str(CLIENTS / "qgis_render.py")],
        input=json.dumps(job),
        text=True,
        check=True,
        capture_output=True,
        timeout=120,
    )


def view_of(folder: Path, number: int) -> NDArray[np.uint8]:
    return np.asarray(Image.open(folder / f"{number}.png").convert("RGB"))


@pytest.mark.large
def test_qgis_shows_every_pixel_in_its_place(where: Server, tmp_path: Path) -> None:
    """As an XYZ layer, zoom 0 to 14 and the edges of the world."""
    views = [(z, *mercantile.xy(lon, lat)) for z, lon, lat in VIEWS]
    qgis(template(where), views, tmp_path)

    for number, (z, x, y) in enumerate(views):
        step = WORLD / 256 / 2**z

        def at(column: int, row: int, x: float = x, y: float = y, step: float = step) -> tuple[float, float]:
            east = x + (column + 0.5 - 256) * step
            place = mercantile.lnglat(east, y - (row + 0.5 - 256) * step)
            return place.lng, place.lat if abs(east) < WORLD / 2 else 90.0  # QGIS repeats no world

        # Of a view that reaches over the edge of the world QGIS stretches the rest by a pixel or two.
        crosses = abs(x) + 256 * step > WORLD / 2 or abs(y) + 256 * step > WORLD / 2
        assert_in_place(view_of(tmp_path, number), z, at, within=3.5 if crosses else 1.6)


@pytest.mark.large
def test_qgis_draws_vector_tiles(demo: Server, tmp_path: Path) -> None:
    """Land is filled, the sea is not."""
    views = [(5, *mercantile.xy(lon, lat)) for lon, lat in ((-55, -10), (20, 5), (-30, -20), (-150, 0))]
    address = f"{demo.url}/fc_demo/countries/run/tiles/{{z}}/{{x}}/{{y}}.mvt"
    qgis(address, views, tmp_path, vector=True)

    brazil, africa, *seas = (view_of(tmp_path, number)[256, 256] for number in range(4))
    for sea in seas:
        assert (sea != brazil).any()
        assert (sea != africa).any()
