"""``docs/clients.md``: what it has people type works as it stands, against the demo."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import mercantile
import pyogrio
import pytest
import rasterio
from playwright.sync_api import Browser

from tests.browser import chromium, tab
from tests.conftest import Server
from tests.test_clients import pages as pages  # a page of somebody's own, with MapLibre and Leaflet

PAGE = (Path(__file__).parent.parent / "docs/clients.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:8000"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def without_download(source: str) -> str:
    """Tests download no extension of DuckDB: the one that they have installed is loaded."""
    if "INSTALL httpfs" not in source:
        return source
    spec = importlib.util.find_spec("duckdb_extension_httpfs")
    assert spec is not None and spec.origin is not None
    (extension,) = Path(spec.origin).parent.glob("extensions/*/httpfs.duckdb_extension")
    return source.replace("INSTALL httpfs; LOAD httpfs", f"LOAD '{extension}'")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.mark.parametrize("source", blocks("python"), ids=lambda source: source.split()[1])
def test_a_snippet_of_python_reads_something(demo: Server, source: str) -> None:
    """Every value that it makes holds something."""
    names: dict[str, Any] = {}
    exec(without_download(source.replace(ADDRESS, demo.url)), names)
    made = [value for name, value in names.items() if name in {"houses", "quakes", "shades", "small", "tile"}]

    assert all(len(value) > 0 for value in made if hasattr(value, "__len__"))
    assert made or "duckdb" in source


@pytest.mark.parametrize("line", [line for block in blocks("console") for line in block.splitlines()])
def test_a_command_names_what_its_program_opens(demo: Server, line: str) -> None:
    """The data source of each, opened by the library that the program is made of."""
    program, *_, source = shlex.split(line.replace(ADDRESS, demo.url))
    if program == "gdalinfo":
        with rasterio.open(source) as opened:
            assert opened.count == 4
    elif program == "ogrinfo":
        assert len(pyogrio.read_dataframe(source)) > 0
    else:
        assert program == "curl"
        assert httpx.get(source, timeout=30).status_code == 200


@pytest.mark.parametrize("source", blocks("js"), ids=["maplibre", "leaflet"])
def test_a_snippet_of_a_web_page_draws_tiles(browser: Browser, demo: Server, pages: str, source: str) -> None:
    """On a page of another origin, without a complaint."""
    with tab(browser, demo.url, pages, viewport={"width": 512, "height": 512}) as found:
        found.page.goto(f"{pages}/page.html")
        found.page.evaluate('maplibregl.setWorkerUrl("maplibre-gl/maplibre-gl-csp-worker.js")')
        with found.page.expect_response(re.compile("/run/tiles/[0-9]")) as answer:
            found.page.evaluate(f"() => {{ {source.replace(ADDRESS, demo.url)} }}")

        assert answer.value.status == 200
        assert found.complaints == [] and found.foreign == []


@pytest.mark.parametrize("url", sorted(set(re.findall(rf"`({ADDRESS}/[^`]+)`", PAGE))))
def test_an_address_in_the_text_answers(demo: Server, url: str) -> None:
    """Templates with a tile in their place."""
    tile = mercantile.Tile(x=1, y=1, z=2)
    for name, value in (("z", tile.z), ("x", tile.x), ("y", tile.y)):
        url = url.replace(f"${{{name}}}", str(value)).replace(f"{{{name}}}", str(value))
    assert "{" not in urlsplit(url).path
    assert httpx.get(url.replace(ADDRESS, demo.url), timeout=30).status_code == 200
