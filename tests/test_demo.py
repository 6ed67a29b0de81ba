"""The bundled demo, over HTTP: real data in every format, and every tile in the right place."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import httpx
import mapbox_vector_tile
import mercantile
import numpy as np
import openpyxl
import pandas as pd
import pyarrow.feather
import pytest
import rasterio
from lxml import etree
from PIL import Image
from rasterio.crs import CRS
from rasterio.io import MemoryFile
from rasterio.warp import transform
from shapely.geometry import shape

from tests.conftest import Server

DATA = Path(__file__).parent.parent / "tileserver/demo/workspace/demo/data"
LAYERS = ("blue_marble", "hillshade", "countries", "airports", "earthquakes")


def fetch(demo: Server, path: str) -> httpx.Response:
    response = demo.get(f"/fc_demo/{path}")
    assert response.status_code == 200, response.text[:500]
    return response


def pixels(demo: Server, path: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(fetch(demo, path).content)).convert("RGBA"))


def test_a_parameter_filters(demo: Server) -> None:
    """``min_magnitude`` is a number, compared as one."""
    features = fetch(demo, "earthquakes.json?min_magnitude=4").json()["features"]

    assert 0 < len(features) < 400
    assert min(feature["properties"]["mag"] for feature in features) >= 4


def test_hello_says_hello(demo: Server) -> None:
    """A dict is JSON."""
    assert fetch(demo, "hello?name=Ada").json()["hello"] == "Ada"


def test_housing_has_a_price_per_area(demo: Server) -> None:
    """The example of the documentation: a column made of two others."""
    frame = pd.read_csv(io.BytesIO(fetch(demo, "housing.csv").content))

    assert np.allclose(frame.price_per_area, frame.price / frame.area, atol=0.01)


# -- every table format in the library that reads it


def test_json_is_a_feature_collection(demo: Server) -> None:
    """Contract, section 7.4; of a frame without geometry, rows."""
    assert fetch(demo, "airports.json").json()["type"] == "FeatureCollection"
    assert fetch(demo, "housing.json").json()[0]["price"] > 0


@pytest.mark.parametrize("extension", ["geojson", "parquet", "feather", "csv", "xlsx", "xml", "html"])
def test_a_table_opens_in_the_library_that_reads_it(demo: Server, extension: str) -> None:
    """Contract, section 7.2: as many rows as the data has, whatever the format."""
    content = fetch(demo, f"airports.{extension}").content
    readers: dict[str, Callable[[], int]] = {
        "geojson": lambda: len(gpd.read_file(io.BytesIO(content))),
        "parquet": lambda: len(gpd.read_parquet(io.BytesIO(content))),
        "feather": lambda: pyarrow.feather.read_table(io.BytesIO(content)).num_rows,
        "csv": lambda: len(pd.read_csv(io.BytesIO(content))),
        "xlsx": lambda: openpyxl.load_workbook(io.BytesIO(content)).worksheets[0].max_row - 1,
        "xml": lambda: len(etree.fromstring(content)),
        "html": lambda: 1000 if b"<table" in content else 0,
    }

    rows = readers[extension]()
    expected = len(gpd.read_parquet(DATA / "airports.parquet"))
    assert rows == (min(expected, 1000) if extension == "html" else expected)


def test_parquet_comes_back_as_it_was(demo: Server) -> None:
    """Contract, section 7.4: CRS, dtypes, nulls and time zones survive."""
    source = gpd.read_parquet(DATA / "earthquakes.parquet")
    frame = gpd.read_parquet(io.BytesIO(fetch(demo, "earthquakes.parquet").content))

    assert frame.crs == source.crs
    assert frame.dtypes[["mag", "time", "tsunami"]].equals(source.dtypes[["mag", "time", "tsunami"]])
    assert len(frame) == len(source)


def test_pandas_and_geopandas_read_the_url_itself(demo: Server) -> None:
    """What people do: HEAD and ranges included."""
    base = f"{demo.url}/fc_demo"

    assert len(pd.read_csv(f"{base}/housing.csv")) == len(pd.read_parquet(f"{base}/housing.parquet"))
    assert len(gpd.read_file(f"{base}/earthquakes.geojson?min_magnitude=4")) > 0


# -- every raster format


@pytest.mark.parametrize("extension", ["png", "jpeg", "jpg", "webp", "gif", "apng"])
def test_a_picture_opens_in_pillow(demo: Server, extension: str) -> None:
    """Contract, section 7.2; tables with geometry are drawn."""
    for path in (f"blue_marble/run/tiles/2/1/1.{extension}", f"countries/run/tiles/2/1/1.{extension}"):
        response = fetch(demo, path)
        image = Image.open(io.BytesIO(response.content))

        assert image.size == (256, 256)
        kind = {"jpg": "jpeg"}.get(extension, extension)
        assert response.headers["content-type"] == f"image/{kind}"


def test_tiff_opens_in_rasterio_where_it_lies(demo: Server) -> None:
    """Contract, section 7.4: georeferenced."""
    with MemoryFile(fetch(demo, "blue_marble.tiff").content) as file, file.open() as raster:
        assert raster.count in (3, 4)
        assert raster.crs is not None


def test_npy_opens_in_numpy(demo: Server) -> None:
    """Contract, section 7.2: plain ``np.save`` bytes."""
    array = np.load(io.BytesIO(fetch(demo, "blue_marble.npy").content))

    assert array.dtype == np.uint8
    assert array.shape[0] in (3, 4)


def test_the_clients_list_gives_each_kind_its_format(demo: Server) -> None:
    """Contract, section 7.3: what the Python client sends with every call."""
    accepted = "?format=npy,tiff,parquet,json"

    assert fetch(demo, f"airports{accepted}").headers["content-type"] == "application/octet-stream"
    assert fetch(demo, f"hello{accepted}").headers["content-type"] == "application/json"
    assert fetch(demo, f"blue_marble{accepted}").headers["content-type"] in (
        "application/x-numpy-data",
        "image/tiff",
    )


def test_no_format_is_a_zip_by_mistake(demo: Server) -> None:
    """A bundle is for dicts of tables and rasters only."""
    assert not zipfile.is_zipfile(io.BytesIO(fetch(demo, "hello").content))


# -- vector tiles


def test_a_vector_tile_has_valid_polygons_with_names(demo: Server) -> None:
    """Contract, section 7.4: one layer called udf, extent 4096."""
    layer = mapbox_vector_tile.decode(fetch(demo, "countries/run/tiles/3/4/2.mvt").content)["udf"]
    names = {feature["properties"]["name"] for feature in layer["features"]}

    assert layer["extent"] == 4096
    assert {"Germany", "Italy", "Sweden"} <= names
    assert all(shape(feature["geometry"]).is_valid for feature in layer["features"])


@pytest.mark.parametrize("extension", ["mvt", "pbf", ""])
def test_features_are_vector_tiles_by_default(demo: Server, extension: str) -> None:
    """Contract, section 7.3.5."""
    suffix = f".{extension}" if extension else ""
    response = fetch(demo, f"airports/run/tiles/3/2/3{suffix}")

    assert response.headers["content-type"] == "application/vnd.mapbox-vector-tile"


def test_an_empty_vector_tile_has_no_bytes_but_a_validator(demo: Server) -> None:
    """docs/workspace.md."""
    response = fetch(demo, "airports/run/tiles/10/600/600.mvt")

    assert response.content == b""
    assert response.headers["etag"]


@pytest.mark.parametrize(("z", "iata"), [(4, "SFO"), (9, "JFK"), (14, "ORD")])
def test_a_point_lies_where_it_should(demo: Server, z: int, iata: str) -> None:
    """Within one unit of the tile's grid."""
    airports = gpd.read_parquet(DATA / "airports.parquet").set_index("iata")
    point = airports.geometry[iata]
    tile = mercantile.tile(point.x, point.y, z)
    layer = mapbox_vector_tile.decode(
        fetch(demo, f"airports/run/tiles/{z}/{tile.x}/{tile.y}.mvt").content,
        default_options={"y_coord_down": True},
    )["udf"]
    found = next(f for f in layer["features"] if f["properties"]["iata"] == iata)

    box = mercantile.xy_bounds(tile)
    x, y = mercantile.xy(point.x, point.y)
    expected = (
        (x - box.left) / (box.right - box.left) * 4096,
        (box.top - y) / (box.top - box.bottom) * 4096,
    )
    assert np.allclose(found["geometry"]["coordinates"], expected, atol=1)


# -- raster tiles


TILES = [
    *((0, 0, 0), (1, 0, 0), (1, 1, 1), (2, 3, 1), (3, 4, 2), (4, 15, 15), (5, 0, 0), (6, 33, 22)),
    *((7, 127, 60), (8, 135, 90), (9, 264, 190), (10, 511, 340), (11, 0, 1024), (12, 4095, 2048)),
    *((13, 4096, 2700), (14, 8800, 5373)),
]


@pytest.mark.parametrize("tile", TILES, ids=lambda tile: "-".join(map(str, tile)))
def test_a_pixel_shows_the_source_at_its_coordinate(demo: Server, tile: tuple[int, int, int]) -> None:
    """Zoom 0 to 14 and the edges of the world: each pixel's colour lies in the range of the source's pixels
    around its place, within what one pixel of the overview that was read, and JPEG, can differ."""
    z, x, y = tile
    shown = pixels(demo, f"blue_marble/run/tiles/{z}/{x}/{y}.png")
    box = mercantile.xy_bounds(mercantile.Tile(x=x, y=y, z=z))
    places = [(u, v) for u in (0, 60, 128, 200, 255) for v in (0, 60, 128, 200, 255)]
    step = (box.right - box.left) / 256
    xs = [box.left + (u + 0.5) * step for u, _ in places]
    ys = [box.top - (v + 0.5) * step for _, v in places]
    lon, lat = transform(CRS.from_epsg(3857), CRS.from_epsg(4326), xs, ys)

    with rasterio.open(DATA / "blue_marble.tif") as source:
        # One pixel of the tile, or of the overview it was read from, in source pixels.
        reach = max(2, round(2 * step / 111320 / source.res[0]))
        whole = source.read()
        for (u, v), one_lon, one_lat in zip(places, lon, lat, strict=True):
            row, column = source.index(one_lon, one_lat)
            rows = slice(max(0, row - reach), row + reach + 1)
            columns = slice(max(0, column - reach), column + reach + 1)
            around = whole[:, rows, columns].reshape(3, -1)
            colour = shown[v, u, :3].astype(int)

            assert shown[v, u, 3] == 255
            assert (colour >= around.min(axis=1).astype(int) - 16).all(), f"pixel {u},{v} is too dark"
            assert (colour <= around.max(axis=1).astype(int) + 16).all(), f"pixel {u},{v} is too bright"


def test_neighbouring_tiles_of_relief_meet_without_a_seam(demo: Server) -> None:
    """The step over the border between two tiles is no larger than the steps beside it."""
    tile = mercantile.tile(-84.25, 36.6, 12)
    left = pixels(demo, f"hillshade/run/tiles/12/{tile.x}/{tile.y}.png").astype(int)
    right = pixels(demo, f"hillshade/run/tiles/12/{tile.x + 1}/{tile.y}.png").astype(int)

    across = np.abs(left[:, -1, :3] - right[:, 0, :3]).mean()
    beside = (
        np.abs(np.diff(left[:, -9:, :3], axis=1)).mean() + np.abs(np.diff(right[:, :9, :3], axis=1)).mean()
    ) / 2
    assert across < 1.5 * beside + 1


def test_relief_is_transparent_where_there_is_no_data(demo: Server) -> None:
    """Not black, and not an error."""
    assert (pixels(demo, "hillshade/run/tiles/5/0/0.png")[..., 3] == 0).all()


def test_parameters_change_the_picture(demo: Server) -> None:
    """The sun from the other side; another colormap."""
    tile = mercantile.tile(-84.25, 36.6, 11)
    base = f"hillshade/run/tiles/11/{tile.x}/{tile.y}.png"
    pictures = [pixels(demo, base + query).tobytes() for query in ("", "?azimuth=135", "?colormap=gray")]

    assert len(set(pictures)) == 3


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_describes_itself(demo: Server, name: str) -> None:
    """docs/http.md: TileJSON with its bounds, and a template whose tiles exist."""
    document = fetch(demo, f"{name}/run/tiles.json").json()
    west, south, east, north = document["bounds"]
    tile = mercantile.tile((west + east) / 2, (south + north) / 2, document["minzoom"])

    assert document["tilejson"] == "3.0.0"
    assert west < east and south < north
    url = document["tiles"][0].format(z=tile.z, x=tile.x, y=tile.y)
    assert httpx.get(url).status_code == 200
    if document["format"] == "mvt":
        assert document["vector_layers"][0]["id"] == "udf"
        assert document["vector_layers"][0]["fields"]


def test_a_dict_is_no_layer(demo: Server) -> None:
    """There is nothing to put on a map, and the answer says so."""
    response = demo.get("/fc_demo/hello/run/tiles.json")

    assert response.status_code == 404
    assert "no map layer" in json.loads(response.text)["detail"]
