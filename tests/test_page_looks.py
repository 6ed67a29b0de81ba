"""How the pages look and weigh: both themes, phones, faults that axe finds, bytes, time to an idle map."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.browser import Tab, chromium, tab
from tests.conftest import Server
from tests.test_clients import installed
from tileserver import pages

OBSERVED = """
new MutationObserver(() => {
  if (document.documentElement?.dataset.map === "idle") window.idleAt ??= performance.now();
}).observe(document, { attributes: true, subtree: true, attributeFilter: ["data-map"] });
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def visit(found: Tab, demo: Server, path: str) -> None:
    if path.endswith("/map"):
        found.open(f"{demo.url}{path}")
        return
    found.page.goto(f"{demo.url}{path}")
    for card in found.page.locator("article[data-udf]").all():
        card.scroll_into_view_if_needed()
    expect(found.page.locator("article[data-udf]:not([data-thumbnail])")).to_have_count(0, timeout=30_000)


def faults(found: Tab) -> list[tuple[str, Any]]:
    """What axe-core calls serious or worse."""
    found.page.evaluate((installed() / "axe-core/axe.min.js").read_text() + "; 0")
    violations = found.page.evaluate("axe.run().then((results) => results.violations)")
    return [
        (one["id"], [node["target"] for node in one["nodes"]])
        for one in violations
        if one["impact"] in {"serious", "critical"}
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/", "/fc_demo", "/fc_demo/earthquakes/map", "/fc_demo/housing/map"])
def test_a_phone_shows_every_page_without_a_fault(
    browser: Browser, demo: Server, path: str, scheme: str
) -> None:
    """400 pixels wide, in both colour schemes: nothing sticks out, axe finds nothing, nobody complains."""
    size = {"width": 400, "height": 700}
    with tab(browser, demo.url, viewport=size, color_scheme=scheme) as found:
        visit(found, demo, path)
        if path.endswith("/map"):
            found.page.click("#panel > summary")

        assert found.page.evaluate("document.documentElement.scrollWidth") <= 400
        assert faults(found) == []
        assert found.complaints == [] and found.foreign == []
        brightness = found.pixels()[-8:-4, 2:6].mean()
        assert brightness < 80 if scheme == "dark" else brightness > 175


def test_the_theme_is_chosen_and_kept(browser: Browser, demo: Server) -> None:
    """A switch turns pages and base map; dialogs, layers and an opened list are without fault in both."""
    with tab(browser, demo.url) as found:
        found.open(f"{demo.url}/fc_demo/airports/map#3/5/-160")
        page = found.page
        column, row = found.place(-160, 5)
        before = found.pixels()[row, column].mean()
        page.keyboard.press("t")
        page.evaluate("new Promise((resolve) => map.once('idle', () => resolve()))")
        assert before > 175 > 80 > found.pixels()[row, column].mean()
        page.keyboard.press("?")
        expect(page.locator("#help")).to_contain_text("Borders of tiles")
        assert faults(found) == []
        page.keyboard.press("Escape")
        page.keyboard.press("/")
        expect(page.locator("[name=state]")).to_be_focused()
        page.click("#actions .primary")
        assert faults(found) == []
        page.keyboard.press("Escape")
        page.reload()
        found.settled()
        assert page.get_attribute("html", "data-theme") == "dark"
        page.keyboard.press("t")
        assert page.get_attribute("html", "data-theme") is None
        assert found.complaints == [] and found.foreign == []


def test_layers_and_base_maps_are_shown_as_wished(browser: Browser, demo: Server) -> None:
    """Opacity, hiding, four base maps and none, and back to the layer's bounds."""
    with tab(browser, demo.url) as found:
        found.open(f"{demo.url}/fc_demo/blue_marble/map#3/-10/-125")
        page = found.page
        spot = found.place(-125, -10)

        def colour() -> tuple[int, ...]:
            page.evaluate(
                "new Promise((resolve) => { map.once('idle', () => resolve()); map.triggerRepaint() })"
            )
            return tuple(int(part) for part in found.pixels()[spot[1], spot[0]])

        sea = colour()
        page.locator("#opacity").fill("50")
        half = colour()
        page.click("#visible")
        hidden = colour()
        seen = {hidden}
        for base in ("dark", "none"):
            page.select_option("#base", base)
            seen.add(colour())
        page.select_option("#base", "graticule")
        page.evaluate("new Promise((resolve) => { map.once('idle', () => resolve()); map.triggerRepaint() })")
        labels = page.evaluate(
            "map.queryRenderedFeatures({ layers: ['degrees'] }).map((one) => one.properties.label)"
        )
        assert found.place(0, 0) != (500, 350)
        page.click("#zoom-to-layer")
        page.evaluate("new Promise((resolve) => map.once('idle', () => resolve()))")
        zoom = page.evaluate("map.getZoom()")

    assert sum(sea) < sum(half) < sum(hidden)
    assert all(abs(2 * h - (s + g)) <= 6 for h, s, g in zip(half, sea, hidden, strict=True))
    assert len(seen) == 3
    assert any(label.endswith("°W") for label in labels) and any(label.endswith("°S") for label in labels)
    assert zoom < 2


def test_the_pages_weigh_less_than_600_kb(demo: Server) -> None:
    """All that a map page can load, as it is sent: MapLibre, countries, scripts and styles."""
    files = [path for path in pages.STATIC.rglob("*") if path.suffix in {".js", ".css", ".json", ".html"}]
    sent = 0
    for path in files:
        with httpx.stream("GET", f"{demo.url}/static/{path.relative_to(pages.STATIC)}") as answer:
            sent += sum(len(chunk) for chunk in answer.iter_raw())

    assert {"maplibre-gl-csp.js", "maplibre-gl-csp-worker.js", "countries.json"} <= {p.name for p in files}
    assert 400_000 < sent < 600_000


def test_the_demo_is_idle_soon(browser: Browser, demo: Server) -> None:
    """docs/benchmarks.md: under 2.5 s with a warm cache; four times that here, where others are at work."""
    context = browser.new_context(viewport={"width": 1000, "height": 700})
    for _ in range(2):  # the first one warms the caches
        page = context.new_page()
        page.add_init_script(OBSERVED)
        page.goto(f"{demo.url}/fc_demo/blue_marble/map")
        page.wait_for_selector("html[data-map=idle]", state="attached")
        took = page.evaluate("window.idleAt")
        page.close()
    context.close()

    assert took < 4 * 2500
