"""What the map page offers beside the map: form, addresses to take along, inspecting, tiles and their facts.

One server and one browser for all of them; a page is loaded once for each group of features.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from playwright.sync_api import Browser, expect

from tests.browser import Tab, chromium, tab
from tests.conftest import Server, serving

FORM = """
import datetime
from typing import Literal
import numpy as np

@fused.udf
def udf(bounds: fused.types.Bounds = None, count: int = 3, ratio: float = 0.5, on: bool = True,
        kind: Literal["a", "b"] = "a", day: datetime.date = "2024-05-01", area: fused.types.Bounds = None):
    x = np.linspace(0, 1000, 256)
    return ((x[None, :] + x[:, None]) / 2000 * ratio).astype("float32")
"""
HALF = """
import numpy as np

@fused.udf
def udf(bounds: fused.types.Bounds = None, ok: bool = False):
    if bounds and bounds[0] >= 0 and not ok:
        raise ValueError("no river east of Greenwich")
    picture = np.zeros((3, 256, 256), "uint8")
    picture[1] = 90
    return picture
"""
POINTS = """
import geopandas as gpd
from shapely.geometry import Point, box

@fused.udf
def udf(bounds: fused.types.Bounds = None):
    names = ["here", "around"]
    shapes = [Point(10, 20), box(-20, -10, 40, 50)]
    return gpd.GeoDataFrame({"name": names, "n": [1, 2]}, geometry=shapes, crs=4326)
"""
DEEP = """
import numpy as np

@fused.udf
def udf(bounds: fused.types.Bounds = None):
    return np.arange(65536, dtype="uint16").reshape(256, 256)
"""
SINGLE = """
@fused.udf
def udf(area: fused.types.Bounds = None):
    return {"area": area}
"""
FILES = {
    "city/form.py": FORM,
    "city/half.py": HALF,
    "city/points.py": POINTS,
    "city/deep.py": DEEP,
    "city/single.py": SINGLE,
    "city/canvas.toml": '[udf.single]\nmode = "single"\n[udf.points]\nbounds = [-20, -10, 40, 50]\n',
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("tools") / "w", FILES) as running:
        yield running


@contextmanager
def opened(browser: Browser, server: Server, path: str, **options: Any) -> Iterator[Tab]:
    """A page of the canvas; whatever it does, it asks no other host and complains of nothing."""
    with tab(browser, server.url, **options) as found:
        found.open(f"{server.url}/{server.tokens['city']}/{path}")
        yield found
        assert found.foreign == []
        assert [line for line in found.complaints if "status of 422" not in line] == []


def idle(found: Tab) -> None:
    found.page.wait_for_selector("html[data-map=idle]", state="attached")


def go(found: Tab, to: str) -> None:
    """To another state of the page, as the back button goes there."""
    found.page.evaluate(
        "(to) => { history.replaceState(null, '', location.pathname + to);"
        " dispatchEvent(new Event('popstate')) }",
        to,
    )


def query(url: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(url).query)


# -- parameters


def test_the_form_is_typed_by_the_signature(browser: Browser, server: Server) -> None:
    """Steps, a switch, choices, a date, an area from the map; a reset; back and reload reproduce."""
    with opened(browser, server, "form/map?count=5#2/10/20") as found:
        page = found.page
        types = {
            name: page.get_attribute(f"[name={name}]", "type") for name in ("count", "ratio", "on", "day")
        }
        assert types == {"count": "number", "ratio": "number", "on": "checkbox", "day": "date"}
        assert page.get_attribute("[name=count]", "step") == "1"
        assert page.locator("[name=kind] option").all_inner_texts() == ["a", "b"]
        assert page.input_value("[name=count]") == "5" and page.input_value("[name=day]") == "2024-05-01"

        page.select_option("[name=kind]", "b")
        page.wait_for_url(lambda url: "kind=b" in url)
        idle(found)
        page.click(".field.area > button")
        page.wait_for_url(lambda url: "area=" in url)
        idle(found)
        west, south, east, north = json.loads(query(page.url)["area"][0])
        assert west < 20 < east and south < 10 < north
        page.click("button[aria-label='Reset count']")
        page.wait_for_url(lambda url: "count" not in url)
        idle(found)
        assert page.input_value("[name=count]") == "3"

        page.go_back()
        expect(page.locator("[name=count]")).to_have_value("5")
        idle(found)
        assert [
            url for url in found.requests if "/run/tiles/" in url and "kind=b" in url and "count=5" in url
        ]
        page.reload()
        found.settled()
        assert page.input_value("[name=kind]") == "b"
        assert "#2/10/20" in page.url


def test_a_refused_value_is_told_at_its_field(browser: Browser, server: Server) -> None:
    """In the server's words, tied to the input, and gone once the value is right."""
    with opened(browser, server, "form/map?day=yesterday") as found:
        page = found.page
        assert found.state == "error"
        assert "'day'" in page.inner_text("#parameter-day-fault")
        assert page.get_attribute("[name=day]", "aria-invalid") == "true"
        assert page.get_attribute("[name=day]", "aria-describedby") == "parameter-day-fault"
        assert page.inner_text("#parameter-count-fault") == ""
        page.fill("[name=day]", "2024-06-01")
        idle(found)
        assert page.get_attribute("[name=day]", "aria-invalid") is None


def test_an_area_is_taken_from_a_map_where_the_result_is_none(browser: Browser, server: Server) -> None:
    """A UDF of mode ``single`` has no tiles; its page has a small map for its area."""
    with opened(browser, server, "single/map#3/50/10") as found:
        page = found.page
        page.wait_for_selector(".field #map canvas")
        page.click(".field.area > button")
        page.wait_for_url(lambda url: "area=" in url)
        west, south, east, north = json.loads(query(page.url)["area"][0])
        expect(page.locator("#result")).to_contain_text(str(west))

    assert west < 10 < east and south < 50 < north


# -- to take along


def test_addresses_for_other_programs(browser: Browser, server: Server) -> None:
    """With the parameters of the moment, without the revision; copied also without a clipboard API."""
    with opened(browser, server, "points/map?x=1#3/20/10") as found:
        page = found.page
        page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
        page.click("#actions .primary")
        uses = {
            row.locator(".label").inner_text(): row.locator("code").text_content() or ""
            for row in page.locator(".use").all()
        }
        base = f"{server.url}/{server.tokens['city']}/points"
        page.evaluate(
            "document.addEventListener('copy', () => {"
            " window.copied = getSelection().toString() || document.activeElement.value })"
        )
        page.locator(".use button").nth(1).click()
        expect(page.locator(".use button").nth(1)).to_have_text("Copied")
        copied = page.evaluate("window.copied")
        page.keyboard.press("Escape")
        expect(page.locator("#uses")).to_be_hidden()

    assert copied == uses["Tiles as pictures (XYZ)"] == f"{base}/run/tiles/{{z}}/{{x}}/{{y}}.png?x=1"
    assert uses["Vector tiles (MVT)"] == f"{base}/run/tiles/{{z}}/{{x}}/{{y}}.mvt?x=1"
    assert uses["TileJSON"] == f"{base}/run/tiles.json?x=1"
    assert uses["QGIS, for the connection dialog"] == uses["Vector tiles (MVT)"]
    quoted = uses["QGIS, for scripts"].split("url=")[1].split("&")[0]
    assert "{z}/{x}/{y}" not in quoted and "{z}" in quoted and ":" not in quoted
    assert unquote(quoted) == uses["Vector tiles (MVT)"]
    assert f"{base}/run/tiles.json?x=1" in uses["MapLibre"] and '"source-layer":"udf"' in uses["MapLibre"]
    assert uses["Leaflet"].startswith(f'L.tileLayer("{base}/run/tiles/')
    for program in ("pandas", "geopandas", "DuckDB", "curl"):
        assert f"{base}." in uses[program]
    assert not any("_v=" in text for text in uses.values())


# -- inspecting


def test_a_click_tells_the_attributes_of_all_features_there(browser: Browser, server: Server) -> None:
    """One after the other, marked on the map; a hover names one; Escape closes."""
    with opened(browser, server, "points/map#3/20/10") as found:
        page = found.page
        page.mouse.move(*found.place(10, 20))
        expect(page.locator(".tip")).to_have_text("here")
        page.mouse.click(*found.place(10, 20))
        expect(page.locator(".pager")).to_contain_text("1 of 2")
        expect(page.locator(".attributes")).to_contain_text("here")
        page.click("button[aria-label='Next feature']")
        expect(page.locator(".attributes")).to_contain_text("around")
        page.keyboard.press("Escape")
        expect(page.locator(".attributes")).to_have_count(0)
        page.keyboard.press("i")
        page.mouse.click(*found.place(10, 20))
        assert not page.is_checked("#inspect")
        expect(page.locator(".attributes")).to_have_count(0)
        assert "Points" in page.inner_text("#legend") and "Areas" in page.inner_text("#legend")


def test_a_popup_beside_the_panel_can_be_read(browser: Browser, server: Server) -> None:
    """Where there is too little room between the place and the panel, the popup lies over that."""
    with opened(browser, server, "form/map?ratio=1.0#2/0/0") as found:
        page = found.page
        panel = page.locator("#panel").bounding_box()
        assert panel is not None
        page.mouse.click(panel["x"] + panel["width"] + 30, panel["y"] + panel["height"] / 2)
        expect(page.locator(".attributes tr", has_text="value")).to_be_visible()
        seen = page.evaluate(
            """() => {
                const edge = document.getElementById("panel").getBoundingClientRect().right;
                const popup = document.querySelector(".maplibregl-popup-content");
                const { left, top, height } = popup.getBoundingClientRect();
                const [seen, y] = [[], top + height / 2];
                for (let x = left + 9; x < edge; x += 9) seen.push(document.elementFromPoint(x, y));
                return seen.map((one) => popup.contains(one));
            }"""
        )

    assert seen and all(seen)


def test_a_legend_says_what_its_ends_are(browser: Browser, server: Server) -> None:
    """Whole numbers are not rounded, and what the heading says is not said again."""
    with opened(browser, server, "deep/map") as found:
        marks = found.page.locator("#legend .marks span")
        assert [marks.nth(at).inner_text() for at in (0, -1)] == ["0", "65535"]
    with opened(browser, server, "points/map?style=choropleth") as found:
        assert found.page.inner_text("#legend h2").lower() == "n"
        assert found.page.locator("#legend .item p").count() == 0


def test_a_click_tells_the_value_behind_a_pixel(browser: Browser, server: Server) -> None:
    """The colour of the tile, and the number that the function returned there."""
    with opened(browser, server, "form/map?ratio=1.0#2/0/0") as found:
        page = found.page
        page.mouse.click(*found.place(22.5, -20))
        row = page.locator(".attributes tr", has_text="value")
        value = float(row.locator("td").inner_text())
        colour = page.locator(".attributes tr", has_text="colour").locator("td").inner_text()
        z = round(page.evaluate("window.map.getZoom()")) + 1
        column, line = page.evaluate(
            "(z) => { const p = maplibregl.MercatorCoordinate.fromLngLat([22.5, -20]);"
            " return [p.x * 2 ** z % 1, p.y * 2 ** z % 1] }",
            z,
        )

    assert abs(value - (column + line) / 2) < 0.02
    assert abs(int(colour.strip()[1:3], 16) / 255 - value) < 0.02


# -- tiles


def test_tiles_tell_their_facts(browser: Browser, server: Server) -> None:
    """Borders with z/x/y, bytes, milliseconds and where from; a badge for the view; cached the next time."""
    with opened(browser, server, "half/map?ok=true#2/0/0") as found:
        page = found.page
        page.keyboard.press("b")
        page.evaluate("new Promise((resolve) => map.once('idle', () => resolve()))")
        facts = "map.querySourceFeatures('tile-borders').map((one) => one.properties.facts).filter(Boolean)"
        expect(page.locator("#timing")).to_contain_text("p50")
        lines = page.evaluate(facts)
        assert any(line.startswith("3/4/3\n") and "kB · " in line and " ms · run" in line for line in lines)
        assert page.inner_text("#timing").startswith("uncached · p50 ")
        page.reload()
        found.settled()
        expect(page.locator("#timing")).to_contain_text("cached · p50")
        expect(page.locator("#timing .warm")).to_have_count(1)


def test_failed_tiles_are_marked_and_explained_once(browser: Browser, server: Server) -> None:
    """One entry for all of them: exception, line, traceback, place and address; as JSON; and another try."""
    with opened(browser, server, "half/map#2/0/0") as found:
        page = found.page
        assert found.state == "error"
        entries = page.locator("#errors article")
        expect(entries).to_have_count(1)
        text = entries.inner_text()
        assert "tiles failed" in text and "ValueError: no river east of Greenwich" in text
        assert "line 7" in text and 'File "half.py", line 7' in text and "/half/run/tiles/3/" in text
        assert page.evaluate("map.queryRenderedFeatures({ layers: ['failed'] }).length") > 0
        page.evaluate(
            "navigator.clipboard.writeText = (text) => { window.copied = text; return Promise.resolve() }"
        )
        page.get_by_role("button", name="Copy as JSON").click()
        report = json.loads(page.evaluate("window.copied"))
        assert report["lineno"] == 7 and report["count"] > 1 and report["tiles"][0].startswith("3/")

        server.write({"city/half.py": HALF.replace("and not ok", "and False")})
        with page.expect_response(lambda answer: "tiles.json" in answer.url and answer.ok):
            page.get_by_role("button", name="Try again").click()
        idle(found)
        expect(page.locator("#errors")).to_be_hidden()
    server.write({"city/half.py": HALF})


def test_a_slow_answer_overwrites_nothing_newer(browser: Browser, server: Server) -> None:
    """Progress counts tiles; what was asked for before the last change does not come onto the map."""
    with opened(browser, server, "half/map?ok=true#2/0/0") as found:
        page = found.page
        held: list[Any] = []
        page.route(lambda url: "/run/tiles/" in url and "x=1" in url, lambda route: held.append(route))
        go(found, "?ok=true&x=1#2/0/0")
        expect(page.locator("#loading")).to_contain_text("tiles")
        assert page.get_attribute("#progress", "aria-valuenow") == "0"
        go(found, "?ok=true&x=2#2/0/0")
        idle(found)
        for route in held:
            route.abort()
        expect(page.locator("#errors")).to_be_hidden()
        expect(page.locator("#progress")).to_be_hidden()
        assert found.state == "idle"
