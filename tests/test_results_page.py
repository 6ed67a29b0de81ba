"""Pages of what is no map: tables, charts and values; and the canvas page, which shows everything small."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.browser import chromium, tab
from tests.conftest import Server, serving

FILES = {
    "city/table.py": """
import pandas as pd
@fused.udf
def udf(n: int = 1000):
    \"\"\"Rows and rows\"\"\"
    return pd.DataFrame({"name": [f"row {i}" for i in range(n)], "size": [(7 * i) % n for i in range(n)]})
""",
    "city/chart.py": """
@fused.udf
def udf(title: str = "Chart"):
    return (
        f"<style>h1 {{ color: rgb(1, 2, 3) }}</style><h1>{title}</h1>"
        "<script>document.body.dataset.origin = self.origin;"
        "try { parent.document } catch { document.body.dataset.kept = 'out' }</script>"
    )
""",
    "city/picture.py": """
from PIL import Image
@fused.udf
def udf():
    return Image.new("RGB", (40, 30), (250, 0, 0))
""",
    "city/field.py": """
import numpy as np
@fused.udf
def udf(bounds: fused.types.Bounds = None):
    picture = np.zeros((3, 256, 256), "uint8")
    picture[0] = 200
    return picture
""",
    "city/array.py": """
import numpy as np
@fused.udf
def udf(n: int = 20):
    return np.full((3, n, n), 90, "uint8")
""",
    "city/empty.py": "@fused.udf\ndef udf():\n    return None\n",
    "city/needy.py": "@fused.udf\ndef udf(name: str):\n    return name\n",
    "city/failing.py": "@fused.udf\ndef udf():\n    raise ValueError('no well')\n",
    "city/broken.py": "@fused.udf\ndef udf(:\n",
}


REFUSED = re.compile("status of (416|422)")  # of an empty body there is no part; of a failure no result


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("results") / "w", FILES) as running:
        yield running


def test_a_table_is_sorted_and_downloaded(browser: Browser, server: Server) -> None:
    """By a column's head, numbers as numbers; more rows when asked; the file is the same function's."""
    with tab(browser, server.url) as found:
        found.open(f"{server.url}/{server.tokens['city']}/table/map?n=500")
        page = found.page
        first = page.locator("#result tbody tr").first
        expect(page.locator("#result tbody tr")).to_have_count(200)
        page.get_by_role("button", name="size").click()
        expect(first).to_contain_text("row 0")
        page.get_by_role("button", name="size").click()
        expect(first.locator("td").nth(1)).to_have_text("499")
        assert page.get_attribute("#result th:nth-child(2)", "aria-sort") == "descending"
        page.get_by_role("button", name="Show more").click()
        expect(page.locator("#result tbody tr")).to_have_count(500)
        with page.expect_download() as download:
            page.get_by_role("link", name="CSV").click()
        assert len(download.value.path().read_text().splitlines()) == 501
        assert found.complaints == [] and found.foreign == []


def test_html_of_a_function_is_kept_apart(browser: Browser, server: Server) -> None:
    """Its styles and scripts work, in an origin that reaches nothing of the page around it."""
    with tab(browser, server.url) as found:
        found.open(f"{server.url}/{server.tokens['city']}/chart/map")
        body = found.page.frame_locator("#result iframe").locator("body")
        expect(body).to_have_attribute("data-kept", "out")
        assert body.get_attribute("data-origin") == "null"
        heading = body.locator("h1")
        assert heading.evaluate("one => getComputedStyle(one).color") == "rgb(1, 2, 3)"
        found.page.fill("[name=title]", "Wells")
        expect(heading).to_have_text("Wells")
        frame = found.page.get_attribute("#result iframe", "src") or ""
        found.page.goto(f"{server.url}{frame}")  # nor is the frame's document ours when it stands alone
        assert found.page.evaluate("self.origin") == "null"


def test_a_page_that_turns_out_to_be_a_table(browser: Browser, server: Server) -> None:
    """A wrong argument hides what a UDF returns; once it is right, the table takes the map's place."""
    with tab(browser, server.url) as found:
        found.open(f"{server.url}/{server.tokens['city']}/table/map?n=many")
        assert found.state == "error"
        found.page.fill("[name=n]", "3")
        expect(found.page.locator("#result tbody tr")).to_have_count(3)
        expect(found.page.locator("#display")).to_be_hidden()


@pytest.mark.parametrize("name", ["array", "picture"])
def test_a_picture_without_a_place_is_shown_once(browser: Browser, server: Server, name: str) -> None:
    """docs/map-page.md: where a function returns no layer, its picture; not in every tile of the world."""
    with tab(browser, server.url) as found:
        found.open(f"{server.url}/{server.tokens['city']}/{name}/map")
        expect(found.page.locator("#result img")).to_have_count(1)
        assert found.state == "idle"
        assert not [url for url in found.requests if "/run/tiles/" in url]


def test_a_canvas_shows_what_its_functions_return(browser: Browser, server: Server) -> None:
    """Kinds, live thumbnails, reasons of those that fail, a search; a run for each function at most."""
    with tab(browser, server.url, viewport={"width": 1000, "height": 1600}) as found:
        page = found.page
        page.goto(f"{server.url}/{server.tokens['city']}")
        expect(page.locator("article[data-udf]:not([data-thumbnail])")).to_have_count(0, timeout=30_000)

        def card(name: str) -> str:
            return f"article[data-udf={name}]"

        names = ("table", "chart", "field", "picture", "array")
        kinds = {name: page.inner_text(f"{card(name)} .kind") for name in names}
        assert kinds.pop("array") == "picture"
        assert kinds == {"table": "table", "chart": "chart", "field": "raster", "picture": "picture"}
        expect(page.locator(f"{card('table')} .thumbnail tbody tr")).to_have_count(5)
        box = page.locator(f"{card('field')} canvas").bounding_box()
        assert box is not None
        middle = found.pixels()[round(box["y"] + box["height"] / 2), round(box["x"] + box["width"] / 2)]
        assert middle.tolist() == [200, 0, 0]
        expect(page.frame_locator(f"{card('chart')} iframe").locator("h1")).to_have_text("Chart")
        expect(page.locator(f"{card('picture')} .thumbnail img")).to_have_js_property("naturalWidth", 40)
        assert page.inner_text(f"{card('empty')} .thumbnail") == "Nothing"
        assert "parameters" in page.inner_text(f"{card('needy')} .thumbnail")
        assert "no well" in page.inner_text(f"{card('failing')} .thumbnail")
        assert "SyntaxError" in page.inner_text(".cards")
        tiles = [url for url in found.requests if "/field/run/tiles/" in url]
        assert 1 <= len(tiles) <= 4

        page.keyboard.press("/")
        page.keyboard.type("rows")
        expect(page.locator("article:visible")).to_have_count(1)
        page.fill("#find", "nothing of the kind")
        expect(page.locator("#nothing")).to_be_visible()
        assert [line for line in found.complaints if not REFUSED.search(line)] == []
        assert found.foreign == []
