"""A style is one document: MapLibre's canvas and our pictures have the same colours of the same features."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import mercantile
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser

from tests.browser import chromium, site, tab
from tests.conftest import Server, serving
from tests.node import CLIENTS, StyleSpec, style_spec
from tileserver import styles

VENDOR = Path(__file__).parent.parent / "tileserver/static/vendor"

# Corners of tiles of 256 pixels, which are the middle of each view: the map's zoom, and the corner's tile.
VIEWS = {1: (2, 2), 3: (13, 6), 5: (20, 40)}

# Features in pixels of each view: a field of squares, lines below them, dots on the right.
FIGURES = """
import fused
import geopandas as gpd
import mercantile
import numpy as np
import shapely

VIEWS = {1: (2, 2), 3: (13, 6), 5: (20, 40)}
CLASSES = ["wood", "water", "field", "town", "rock"]

def figures():
    for row in range(4):
        for column in range(5):
            x, y = 20 + 62 * column, 20 + 62 * row
            yield shapely.box(x, y, x + 48, y + 48)
    for row in range(6):
        y = 280 + 30 * row
        yield shapely.LineString([(20, y), (160, y + 20), (320, y)])
    for row in range(9):
        for column in range(3):
            yield shapely.Point(365 + 52 * column, 36 + 55 * row)

def located(zoom, corner):
    def place(pixels):
        world = (np.array(corner) * 256 + pixels - 256) / (256 * 2 ** (zoom + 1))
        metres = (world - 0.5) * (1, -1) * 40075016.68557849
        return metres
    return place

@fused.udf
def udf(bounds: fused.types.Bounds = None, kinds: str = ""):
    shapes, rows = [], []
    for zoom, corner in VIEWS.items():
        for number, figure in enumerate(figures()):
            if kinds and figure.geom_type not in kinds:
                continue
            shapes.append(shapely.transform(figure, located(zoom, corner)))
            share = number * 7 % 53 / 52
            rows.append({"value": 100 * share if number % 11 else None, "mag": 8 * share,
                         "class": CLASSES[number % 5] if number % 13 else None, "wide": number % 3 == 0})
    return gpd.GeoDataFrame(rows, geometry=shapes, crs=3857)
"""

OWN = """
{"version": 8, "sources": {"udf": {"type": "vector"}}, "layers": [
  {"id": "a", "type": "fill", "source": "udf", "source-layer": "udf", "paint": {
    "fill-color": ["interpolate", ["exponential", 2], ["get", "mag"], 0, "rgba(255,0,0,0.5)", 8, "#00f"],
    "fill-opacity": ["interpolate", ["linear"], ["zoom"], 1, 0.4, 5, 1]}},
  {"id": "b", "type": "line", "source": "udf", "source-layer": "udf",
   "filter": ["all", ["!=", ["geometry-type"], "Point"], ["get", "wide"]], "layout": {"line-cap": "square"},
   "paint": {
    "line-color": ["match", ["get", "class"], "wood", "#060", ["water", "town"], "#09c", "#c60"],
    "line-width": ["step", ["get", "value"], 2, 30, 5, 60, 9]}},
  {"id": "c", "type": "line", "source": "udf", "source-layer": "udf", "filter": ["!", ["get", "wide"]],
   "paint": {
    "line-color": "#333", "line-width": 6}},
  {"id": "d", "type": "circle", "source": "udf", "source-layer": "udf",
   "layout": {"circle-sort-key": ["get", "mag"]}, "paint": {
    "circle-color": ["case", [">", ["get", "value"], 50], "#f0f",
      ["coalesce", ["get", "none"], "hsl(90, 60%, 40%)"]],
    "circle-radius": ["+", 6, ["get", "mag"]], "circle-stroke-width": 3, "circle-stroke-opacity": 0.5}}
]}
"""

REFERENCES = {
    "default": "default",
    "choropleth": "choropleth(attribute=value, range=0:100)",
    "categorical": "categorical(attribute=class, values=wood|water|field)",
    "magnitude": "magnitude(attribute=mag, range=0:8)",
    "terrain": "terrain",
    "imagery": "imagery",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    files = {"shapes/figures.py": FIGURES, "shapes/styles/own.json": OWN}
    with serving(tmp_path_factory.mktemp("shapes") / "workspace", files) as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("page")
    shutil.copy(CLIENTS / "style.html", folder)
    shutil.copytree(VENDOR / "maplibre-gl", folder / "maplibre-gl")
    with site(folder) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def test_every_shipped_style_is_compared() -> None:
    """A style that is added is added here."""
    assert REFERENCES.keys() == styles.shipped().keys()


@pytest.mark.parametrize("reference", [*REFERENCES.values(), "own"])
def test_maplibre_and_our_pictures_have_the_same_colours(
    browser: Browser, server: Server, page: str, reference: str
) -> None:
    """Where both are flat they are equal to a rounding; edges, which both smooth in their own way, are
    alike."""
    base = f"{server.url}/{server.tokens['shapes']}/figures/run"
    with tab(browser, server.url, page, viewport={"width": 512, "height": 512}) as found:
        found.page.goto(f"{page}/style.html")
        for zoom, corner in VIEWS.items():
            lon, lat = mercantile.ul(*corner, zoom + 1)
            address = f"{base}/style.json?{urlencode({'style': reference})}"
            found.page.evaluate("(view) => show(...view)", [address, [lon, lat], zoom])

            assert_alike(found.pixels(), ours(server, zoom, corner, reference))
        # Rows without a value are among the figures; of these MapLibre tells, and draws the default.
        assert [one for one in found.complaints if "found null instead" not in one] == []
        assert found.foreign == []


def ours(server: Server, zoom: int, corner: tuple[int, int], reference: str) -> NDArray[np.uint8]:
    """Four tiles around a corner, on white."""
    picture = Image.new("RGBA", (512, 512), "white")
    for x in (0, 1):
        for y in (0, 1):
            place = f"{zoom + 1}/{corner[0] - 1 + x}/{corner[1] - 1 + y}.png"
            answer = server.get(f"/{{shapes}}/figures/run/tiles/{place}", params={"style": reference})
            assert answer.status_code == 200, answer.text
            picture.alpha_composite(
                Image.open(io.BytesIO(answer.content)).convert("RGBA"), (256 * x, 256 * y)
            )
    return np.asarray(picture.convert("RGB"))


def flat(picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels whose surroundings have one colour."""
    padded = np.pad(picture, ((2, 2), (2, 2), (0, 0)), "edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), (0, 1))
    return np.asarray((around.max(axis=(3, 4)) - around.min(axis=(3, 4))).max(axis=2) <= 1)


def assert_alike(theirs: NDArray[np.uint8], ours: NDArray[np.uint8]) -> None:
    difference = np.abs(theirs.astype(int) - ours).max(axis=2)
    inner = flat(theirs) & flat(ours)
    drawn = inner & (theirs < 250).any(axis=2)

    assert difference[inner].max() <= 2
    assert drawn.sum() > 500, "there was hardly anything to compare"
    assert difference[~inner].mean() < 8
    assert (difference > 128).mean() < 0.001


# -- what else the documents say


@pytest.fixture(scope="module")
def spec() -> Iterator[StyleSpec]:
    with style_spec() as found:
        yield found


@pytest.mark.parametrize("reference", [*REFERENCES.values(), "own", "auto"])
@pytest.mark.parametrize("format_", ["mvt", "png"])
def test_style_documents_pass_the_official_validator(
    server: Server, spec: StyleSpec, reference: str, format_: str
) -> None:
    """Of features as vector tiles and as pictures."""
    answer = server.get("/{shapes}/figures/run/style.json", params={"style": reference, "format": format_})

    assert spec.faults(answer.json()) == []
    assert answer.json()["sources"]["udf"]["type"] == ("vector" if format_ == "mvt" else "raster")


@pytest.mark.parametrize(
    "name", ["airports", "blue_marble", "countries", "earthquakes", "elevation", "hillshade"]
)
def test_style_documents_of_the_demo_pass_the_official_validator(
    demo: Server, spec: StyleSpec, name: str
) -> None:
    """Each as it stands in the demo's ``canvas.toml``."""
    document: Any = demo.get(f"/fc_demo/{name}/run/style.json").json()

    assert spec.faults(document) == []
    assert document["layers"]
