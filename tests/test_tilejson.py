"""TileJSON over HTTP: real fields and bounds, chosen formats, and the specification's rules as checks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import mapbox_vector_tile
import mercantile
import pytest

from tests.conftest import Server, serving
from tests.counting import runs

ENTRY = """
import fused, numpy as np, geopandas as gpd, pandas as pd, shapely

"""
# Another column with each zoom, and nothing at the first.
DEEP = """
@fused.udf(cache_max_age=0)
def udf(bounds: fused.types.Tile, z: int):
    row = {f"zoom_{z}": [z], "name": ["a"], "on": [True], "when": pd.to_datetime(["2024-01-01"])}
    return gpd.GeoDataFrame(row, geometry=[shapely.Point(8.01, 47.01).buffer(0.5)], crs=4326)
"""
FILES = {
    "city/canvas.toml": "[udf.far]\nbounds = [-900, -90, 900, inf]\nminzoom = 24\n"
    "[udf.deep_only]\nbounds = [8, 47, 9, 48]\nminzoom = 9\n"
    "[udf.everywhere]\nmode = 'tile'\n",
    "city/deep.py": ENTRY + DEEP,
    "city/far.py": ENTRY + DEEP,
    "city/deep_only.py": f"{ENTRY}@fused.udf\ndef udf(bounds: fused.types.Tile, z: int):\n"
    "    assert z >= 9, 'too much data'\n"
    "    return gpd.GeoDataFrame({'k': [1]}, geometry=[shapely.Point(8.5, 47.5).buffer(1)], crs=4326)\n",
    "city/picture.py": f"{ENTRY}@fused.udf\ndef udf(bounds: fused.types.Bounds, gain: float = 1):\n"
    "    return np.full((3, 256, 256), 9 * gain, 'uint8')\n",
    "city/nothing.py": f"{ENTRY}@fused.udf\ndef udf(bounds: fused.types.Bounds):\n"
    "    return gpd.GeoDataFrame({'k': [1]}, geometry=[None], crs=4326)\n",
    "city/island.py": f"{ENTRY}@fused.udf\ndef udf(bounds: fused.types.Bounds):\n"
    "    return gpd.GeoDataFrame({'k': [1]}, geometry=gpd.points_from_xy([0], [0]), crs=4326)\n",
    "city/bare.py": f"{ENTRY}@fused.udf\ndef udf(n: int = 20):\n    return np.full((3, n, n), 9, 'uint8')\n",
    "city/everywhere.py": f"{ENTRY}@fused.udf\ndef udf():\n    return np.full((3, 9, 9), 9, 'uint8')\n",
    "city/somewhere.py": f"{ENTRY}@fused.udf\ndef udf(n: int = 20):\n"
    "    return np.full((3, n, n), 9, 'uint8'), (8, 47, 9, 48)\n",
    "city/area.py": f"{ENTRY}@fused.udf\ndef udf(area: fused.types.Bounds):\n"
    "    return np.full((3, 9, 9), 9, 'uint8')\n",
    "locked/picture.py": f"{ENTRY}@fused.udf\ndef udf(bounds: fused.types.Bounds):\n"
    "    return np.full((3, 256, 256), 9, 'uint8')\n",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("tilejson"), FILES) as running:
        yield running


def described(server: Server, name: str, query: str = "") -> dict[str, Any]:
    response = server.get(f"/{{city}}/{name}/run/tiles.json{query}")
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    document: dict[str, Any] = response.json()
    check(document)
    return document


def check(document: dict[str, Any]) -> None:
    """The rules of TileJSON 3.0.0, section 3, each by its number."""
    assert re.fullmatch(r"3\.\d+\.\d+", document["tilejson"])  # 3.1
    assert document["tiles"] and all(urlsplit(url).scheme in {"http", "https"} for url in document["tiles"])
    assert all(url.count(part) == 1 for url in document["tiles"] for part in ("{z}", "{x}", "{y}"))  # 3.2
    west, south, east, north = document["bounds"]  # 3.5
    assert -180 <= west < east <= 180 and -90 <= south < north <= 90
    lon, lat, zoom = document["center"]  # 3.6
    assert west <= lon <= east and south <= lat <= north
    low, high = document["minzoom"], document["maxzoom"]  # 3.11, 3.12
    assert type(low) is int and type(high) is int and 0 <= low <= high <= 30
    assert low <= zoom <= high
    assert document["scheme"] in {"xyz", "tms"}  # 3.14
    assert all(isinstance(document[name], str) for name in ("name", "description", "attribution"))
    if "vector_layers" in document:  # 3.3
        ids = [row["id"] for row in document["vector_layers"]]
        assert ids and len(set(ids)) == len(ids)
        for row in document["vector_layers"]:
            assert all(isinstance(about, str) for about in row["fields"].values())  # 3.3.2
            assert low <= row["minzoom"] <= row["maxzoom"] <= high  # 3.3.4


def test_fields_are_those_of_the_tiles(server: Server) -> None:
    """docs/http.md: names and types as they are encoded, of every sample."""
    document = described(server, "deep")
    (row,) = document["vector_layers"]
    tile = httpx.get(document["tiles"][0].format(z=2, x=2, y=1)).content
    ((name, layer),) = mapbox_vector_tile.decode(tile).items()
    properties = layer["features"][0]["properties"]

    assert name == row["id"]
    assert {"name": "String", "on": "Boolean", "when": "String", "zoom_0": "Number"}.items() <= row[
        "fields"
    ].items()
    assert {field for field in row["fields"] if field.startswith("zoom_")} > {"zoom_0"}
    assert properties.keys() - {"zoom_2"} <= row["fields"].keys()
    assert document["bounds"] == pytest.approx([7.51, 46.51, 8.51, 47.51], abs=1e-6)
    assert document["tileserver:bounds_source"] == "samples"


def test_samples_are_few_and_kept(server: Server) -> None:
    """docs/http.md: up to eight runs, once, also of a UDF that keeps no results."""
    before = runs(server.url)
    first = described(server, "deep", "?z=0")
    sampled = runs(server.url) - before
    second = described(server, "deep", "?z=0")

    assert sampled <= 8
    assert runs(server.url) - before == sampled
    assert first == second


@pytest.mark.parametrize("form", ["mvt", "png"])
def test_bounds_reach_over_the_border_that_a_point_lies_on(server: Server, form: str) -> None:
    """docs/http.md: it is of the tile behind the border, which clients ask for if the bounds meet it."""
    west, south, east, north = described(server, "island", f"?format={form}")["bounds"]

    assert (west, north) == (0, 0)
    assert -2e-6 < south < 0 < east < 2e-6
    for zoom in range(1, 15):
        assert mercantile.tile(0, 0, zoom) in mercantile.tiles(west, south, east, north, zoom)


def test_settings_count_as_far_as_they_can(server: Server) -> None:
    """docs/workspace.md: bounds are cut to the world, and a first zoom moves the last."""
    document = described(server, "far")

    assert document["bounds"] == [-180, -85.051129, 180, 85.051129]
    assert (document["minzoom"], document["maxzoom"]) == (24, 24)
    assert document["tileserver:bounds_source"] == "canvas.toml"


def test_a_layer_of_deep_zooms_is_looked_at_there(server: Server) -> None:
    """Where bounds and first zoom are set, no sample is of a zoom that the layer hasn't."""
    assert described(server, "deep_only")["vector_layers"][0]["fields"] == {"k": "Number"}


def test_a_layer_without_anything_is_of_the_world(server: Server) -> None:
    """Bounds that nobody knows are said to be unknown."""
    document = described(server, "nothing")

    assert document["tileserver:bounds_source"] == "world"


@pytest.mark.parametrize(
    ("name", "query", "kind", "extension"),
    [
        ("deep", "", "mvt", "mvt"),
        ("deep", "?format=png", "png", "png"),
        ("deep", "?format=pbf", "mvt", "mvt"),
        ("deep", "?format=mvt,png", "mvt", "mvt"),
        ("picture", "", "png", "png"),
        ("picture", "?format=webp", "webp", "webp"),
        ("picture", "?format=mvt,png", "png", "png"),
    ],
)
def test_a_format_can_be_chosen(server: Server, name: str, query: str, kind: str, extension: str) -> None:
    """docs/http.md: ``?format=`` is what the tiles of the document are."""
    document = described(server, name, query)
    url = document["tiles"][0]

    assert document["format"] == kind
    assert ("vector_layers" in document) == (kind == "mvt")
    assert urlsplit(url).path.endswith(f"{{y}}.{extension}")
    assert httpx.get(url.format(z=0, x=0, y=0)).status_code == 200


def test_a_format_that_is_no_tile_is_refused(server: Server) -> None:
    """There is no map of spreadsheets; the answer says what was returned."""
    response = server.get("/{city}/deep/run/tiles.json?format=csv")

    assert response.status_code == 404
    assert "no map layer" in response.json()["detail"]


@pytest.mark.parametrize("document", ["tiles.json", "style.json", "legend.json"])
def test_a_picture_without_a_place_is_no_layer(server: Server, document: str) -> None:
    """docs/http.md: it would be the same in every tile; the tile itself is still answered."""
    response = server.get(f"/{{city}}/bare/run/{document}")

    assert response.status_code == 404
    assert "without bounds" in response.json()["detail"]
    assert server.get("/{city}/bare/run/tiles/1/0/0").status_code == 200


@pytest.mark.parametrize("name", ["somewhere", "area", "everywhere"])
def test_a_picture_with_a_place_is_a_layer(server: Server, name: str) -> None:
    """By its bounds, by the tile that the function is told of, or by its settings."""
    assert described(server, name)["format"] == "png"


def test_parameters_are_those_of_the_tiles(server: Server) -> None:
    """The query goes into the template, with the revision that lets tiles be kept."""
    document = described(server, "picture", "?gain=2&gain=3&rescale=0,9&_x=1&cache_max_age=60")
    query = parse_qs(urlsplit(document["tiles"][0]).query)

    assert query.keys() == {"gain", "rescale", "_v"}
    assert query["gain"] == ["2", "3"]


def test_a_session_is_repeated(server: Server) -> None:
    """docs/http.md: its tiles open with the session that the document was asked for with."""
    with closing(server.access) as access:
        token = access.share("locked", team=True).token
        _, secret = access.create_token("tester", scope="run")
    bearer = {"authorization": f"Bearer {secret}"}
    minted = httpx.post(f"{server.url}/server/v1/session-token/by-access-token/{token}", headers=bearer)
    session = minted.json()["session_token"]
    url = f"{server.url}/{token}/picture/run/tiles.json"
    document = httpx.get(f"{url}?fused_session_token={session}")
    tile = httpx.get(document.json()["tiles"][0].format(z=0, x=0, y=0))

    assert document.headers["cache-control"] == "private, no-store"
    assert tile.status_code == 200
    assert tile.headers["cache-control"].startswith("private")
    assert session not in httpx.get(url, headers=bearer).text


@pytest.mark.parametrize(
    ("tile", "says"),
    [
        ("3/8/0", "0 to 7"),
        ("3/0/8.png", "0 to 7"),
        ("0/1/0@2x.png", "0 to 0"),
        ("31/0/0", "0 to 30"),
        ("-1/0/0", "whole number from 0"),
        ("1/-1/0", "whole number from 0"),
        ("1/0/+1", "whole number from 0"),
        ("1e3/0/0", "whole number from 0"),
        ("2/1.0/0", "whole number from 0"),
        ("٣/0/0", "whole number from 0"),
        ("2/１/0", "whole number from 0"),
        ("2/²/0", "whole number from 0"),
        (f"2/{'9' * 4000}/0", "whole number from 0"),
        ("2/9999999999/0", "0 to 3"),
        ("2/0x1/0", "whole number from 0"),
        ("2/1_0/0", "whole number from 0"),
        ("2/%201/0", "whole number from 0"),
        ("2/1%00/0", "whole number from 0"),
        ("2/1%2F1/0", "whole number from 0"),
        ("2/1", "{z}/{x}/{y}"),
        ("2/1/1/1", "{z}/{x}/{y}"),
        ("", "{z}/{x}/{y}"),
    ],
)
def test_a_tile_outside_is_not_found_at_once(server: Server, tile: str, says: str) -> None:
    """OGC API Tiles (OGC 20-057): 404 for a tile outside; the answer names the range, and nothing runs."""
    before = runs(server.url)
    response = server.get(f"/{{city}}/picture/run/tiles/{tile}")

    assert response.status_code == 404
    assert says in response.json()["detail"]
    assert response.headers["cache-control"] == "no-store"
    assert runs(server.url) == before
