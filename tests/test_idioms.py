"""UDFs written the way published ones are, in tests/idioms, each over HTTP: they answer in the class and
format that their author meant. Their data is made here.
"""

from __future__ import annotations

import ast
import importlib.util
import io
import json
import re
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import geopandas as gpd
import httpx
import mapbox_vector_tile
import numpy as np
import pandas as pd
import pytest
import rasterio
from PIL import Image

from tests.conftest import Server, serving

FOLDER = Path(__file__).parent / "idioms"
# West of San Francisco, where the data lies.
TILE = "9/81/197"


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of the canvas ``places``."""
    workspace = tmp_path_factory.mktemp("idioms") / "workspace"
    make_data(workspace / "places/data")
    paths = [path for path in (FOLDER / "places").rglob("*") if path.suffix in {".py", ".json"}]
    files = {str(path.relative_to(FOLDER)): path.read_text() for path in paths}
    elsewhere = "https://github.com/example/udfs/tree/0123456789abcdef/public"
    with serving(workspace, files, "--source-map", f"{elsewhere}={FOLDER / 'sources'}") as server:
        yield server


def make_data(folder: Path) -> None:
    """Earthquakes as CSV, heights as GeoTIFF, places as GeoParquet, and a catalogue of scenes."""
    folder.mkdir(parents=True)
    numbers = np.random.default_rng(1)
    quakes = {
        "time": pd.date_range("2024-01-01", periods=200, freq="D").strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lat": 37.5 + numbers.random(200),
        "lng": -122.9 + numbers.random(200),
        "magnitude": np.round(3 + 3 * numbers.random(200), 1),
    }
    pd.DataFrame(quakes).to_csv(folder / "quakes.csv", index=False)
    heights = np.arange(100 * 100, dtype="int16").reshape(1, 100, 100)
    heights[0, :5] = -32768
    profile = {"driver": "GTiff", "width": 100, "height": 100, "count": 1, "dtype": "int16"}
    place = {"crs": "EPSG:4326", "transform": rasterio.Affine(0.01, 0, -123.0, 0, -0.01, 38.5)}
    with rasterio.open(folder / "dem.tif", "w", **profile, **place, nodata=-32768) as dataset:
        dataset.write(heights)
    towns = gpd.points_from_xy([-122.42, -122.27, -121.89], [37.77, 37.8, 37.33])
    names = ["San Francisco", "Oakland", "San José"]
    gpd.GeoDataFrame({"name": names}, geometry=towns, crs=4326).to_parquet(folder / "places.parquet")
    (folder / "items.json").write_text(json.dumps(scenes()))


def scenes() -> dict[str, Any]:
    ring = [[-123, 37], [-122, 37], [-122, 38], [-123, 38], [-123, 37]]
    shared = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "bbox": [-123, 37, -122, 38],
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "links": [],
        "assets": {},
    }
    facts = [{"datetime": "2024-01-01T00:00:00Z", "eo:cloud_cover": cloud} for cloud in (10, 90)]
    features = [{**shared, "id": f"scene{number}", "properties": one} for number, one in enumerate(facts)]
    return {"type": "FeatureCollection", "features": features}


def is_rows(*columns: str, count: int | None = None) -> Callable[[httpx.Response], bool]:
    def check(answer: httpx.Response) -> bool:
        rows = answer.json()
        return [*rows[0]] == [*columns] and (count is None or len(rows) == count)

    return check


def is_picture(size: tuple[int, int], mode: str) -> Callable[[httpx.Response], bool]:
    def check(answer: httpx.Response) -> bool:
        image = Image.open(io.BytesIO(answer.content))
        return image.size == size and image.mode == mode and image.getextrema() != ((0, 0),)

    return check


def is_text(*parts: str) -> Callable[[httpx.Response], bool]:
    return lambda answer: all(part in answer.text for part in parts)


def is_features(count: int, *names: str) -> Callable[[httpx.Response], bool]:
    def check(answer: httpx.Response) -> bool:
        features = answer.json()["features"]
        return len(features) == count and {*names} <= features[0]["properties"].keys()

    return check


def is_layer(*names: str) -> Callable[[httpx.Response], bool]:
    def check(answer: httpx.Response) -> bool:
        layer = mapbox_vector_tile.decode(answer.content)["udf"]
        return sorted(feature["properties"]["name"] for feature in layer["features"]) == sorted(names)

    return check


def is_tiff(shape: tuple[int, int, int], crs: int) -> Callable[[httpx.Response], bool]:
    def check(answer: httpx.Response) -> bool:
        with rasterio.open(io.BytesIO(answer.content)) as dataset:
            return bool(dataset.read().shape == shape and dataset.crs.to_epsg() == crs)

    return check


HTML, JSON, PNG = "text/html; charset=utf-8", "application/json", "image/png"

CASES = {
    "hexagons": ("hexagons?min_count=2", JSON, is_rows("hex", "cnt", "magnitude", "km2")),
    "hexagons as CSV": ("hexagons.csv", "text/csv; charset=utf-8", is_text("hex,cnt,magnitude,km2\r\n")),
    "a chart": ("chart?bins=5", HTML, is_text("vega", '"maxbins": 5')),
    "a page of a template": ("page?title=A%20%26%20B&n=2", HTML, is_text("<h1>A & B</h1>", "<p>")),
    "a page of a template, whatever the format": ("page.png", HTML, is_text("<h1>Earthquakes</h1>")),
    "a page by helpers from elsewhere": ("helped?name=Ada", HTML, is_text("<p>Hello Ada</p>")),
    "a page of an f-string": ("fstring?zoom=3", HTML, is_text('data-zoom="3"', "/run/tiles/{z}/{x}/{y}")),
    "bytes of colours": (f"shade/run/tiles/{TILE}", PNG, is_picture((256, 256), "RGB")),
    "bytes of colours as WebP": (
        f"shade/run/tiles/{TILE}?power=2&format=webp",
        "image/webp",
        is_picture((256, 256), "RGB"),
    ),
    "bytes of colours alone": ("shade.png", PNG, is_picture((256, 256), "RGB")),
    "a masked window of a GeoTIFF": (
        f"elevation/run/tiles/{TILE}?rescale=0,10&colormap=viridis",
        PNG,
        is_picture((256, 256), "P"),
    ),
    "a masked GeoTIFF": ("elevation?format=png", PNG, is_picture((100, 100), "LA")),
    "an encoded picture with bounds": ("palette?cmap=magma", PNG, is_picture((100, 100), "RGBA")),
    "an encoded picture in a tile": (f"palette/run/tiles/{TILE}", PNG, is_picture((256, 256), "RGBA")),
    "rows of a file": (
        "stations.json?min_magnitude=5&columns=[%22lat%22,%22lng%22]&when=2024-03-01",
        JSON,
        is_rows("lat", "lng"),
    ),
    "rows of a file as Parquet": (
        "stations?format=npy,tiff,parquet,json",
        "application/octet-stream",
        lambda answer: len(pd.read_parquet(io.BytesIO(answer.content))) == 200,
    ),
    "features of the old tile argument": (
        f"tiled/run/tiles/{TILE}",
        "application/vnd.mapbox-vector-tile",
        is_layer("San Francisco"),
    ),
    "features of a projected layer": (
        "nearest.geojson?point=POINT(-121.9%2037.3)&n=2",
        "application/geo+json",
        is_features(2, "name", "km"),
    ),
    "a dataset": ("cube.tiff", "image/tiff", is_tiff((1, 100, 100), 4326)),
    "a dataset in a box": (
        "cube?bounds=[-122.5,37.7,-122.2,38.0]&format=npy,tiff,parquet,json",
        "image/tiff",
        is_tiff((1, 31, 31), 4326),
    ),
    "a figure": ("figure", PNG, is_picture((288, 216), "RGBA")),
    "a summary of other UDFs": (
        "summary",
        JSON,
        lambda answer: [*answer.json()] == ["strong", "strongest", "hexes", "first"],
    ),
    "scenes of a catalogue": (
        f"catalog/run/tiles/{TILE}?format=geojson",
        "application/geo+json",
        is_features(1, "eo:cloud_cover"),
    ),
    "scenes of a catalogue, none": ("catalog.json?max_cloud=5", JSON, lambda answer: answer.json() == []),
    "a pair of nothing": (
        "footprint/run/tiles/1/0/0",
        PNG,
        lambda answer: Image.open(io.BytesIO(answer.content)).getextrema()[-1] == (0, 0),
    ),
    "a pair of something": (f"footprint/run/tiles/{TILE}", PNG, is_picture((64, 64), "RGBA")),
    "the old folder layout": (
        "Old_Layout.geojson?resolution=6",
        "application/geo+json",
        lambda answer: (
            [f["properties"]["name"] for f in answer.json()["features"]]
            == ["Oakland", "San Francisco", "San José"]
        ),
    ),
}


@pytest.mark.parametrize(("path", "media_type", "check"), CASES.values(), ids=CASES.keys())
def test_udf_answers_as_its_author_meant(
    places: Server, path: str, media_type: str, check: Callable[[httpx.Response], bool]
) -> None:
    """The right status, content type and content (contract, section 13)."""
    answer = places.get(f"/{{places}}/{path}")

    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == media_type
    assert check(answer), answer.content[:300]


def test_empty_tile_of_a_vector_udf(places: Server) -> None:
    """A UDF that wants a closer zoom returns None: no features, and what it printed is told."""
    answer = places.get("/{places}/tiled/run/tiles/1/0/0.mvt")

    assert (answer.status_code, answer.content) == (200, b"")
    assert json.loads(answer.headers["x-fused-metadata"])["stdout"] == "zoom in\n"


def test_download_is_made_once(places: Server) -> None:
    """What a UDF gets with ``requests`` inside of ``@fused.cache`` is got once for all arguments."""
    asked = []

    class Towns(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = b'[{"name": "Oakland"}, {"name": "Berkeley"}]'
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Towns) as source:
        threading.Thread(target=source.serve_forever).start()
        url = f"http://127.0.0.1:{source.server_port}/towns.json"
        everything = places.get("/{places}/download.json", params={"url": url})
        some = places.get("/{places}/download.json", params={"url": url, "name": "Oak"})
        source.shutdown()

    assert everything.json() == [{"name": "Oakland"}, {"name": "Berkeley"}]
    assert some.json() == [{"name": "Oakland"}]
    assert asked == ["/towns.json"]


def test_every_udf_is_asked(places: Server) -> None:
    """No idiom without its case."""
    asked = {path.partition("?")[0].partition("/")[0].partition(".")[0] for path, _, _ in CASES.values()}
    udfs = {path.stem for path in (FOLDER / "places").rglob("*.py") if "@fused.udf" in path.read_text()}

    assert udfs == asked | {"download"}


# What published UDFs import most.
IMPORTED = (
    *("pandas", "geopandas", "shapely", "numpy", "rasterio", "requests", "jinja2", "h3", "altair", "duckdb"),
    *("pyarrow", "matplotlib", "pystac_client", "xarray"),
)


def test_what_published_udfs_import_can_be_installed() -> None:
    """Contract, section 13: by the server itself or the extra ``udfs``, for the idioms here as well."""
    project = tomllib.loads((FOLDER.parent.parent / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["udfs"]]
    installed = {re.split(r"[^\w-]", text)[0].replace("-", "_") for text in wanted}
    provided = {"fused", "fastapi", "starlette", *sys.stdlib_module_names}
    own = {path.stem for path in FOLDER.rglob("*.py")}

    trees = [ast.parse(path.read_text()) for path in FOLDER.rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    imported = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    imported |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}

    assert {*IMPORTED} <= installed
    # Two come with packages of another name: pillow and pystac-client.
    assert {name.partition(".")[0] for name in imported} - provided - own <= {*installed, "PIL", "pystac"}
    assert [name for name in IMPORTED if importlib.util.find_spec(name) is None] == []
