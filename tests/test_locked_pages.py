"""Pages of canvases that are not public: they ask for the passcode or token, and then are what they are."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, expect

from tests.browser import chromium, tab
from tests.conftest import Server, serving

RIVER = """
import numpy as np
@fused.udf
def udf(bounds: fused.types.Bounds = None):
    picture = np.zeros((3, 256, 256), "uint8")
    picture[0] = 200
    return picture
"""
FILES = {
    "city/river.py": RIVER,
    "city/number.py": "@fused.udf\ndef udf():\n    return 'forty-two'\n",
    "city/chart.py": "@fused.udf\ndef udf():\n    return '<style>h1 {color: rgb(1,2,3)}</style><h1>A'\n",
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("locked") / "w", FILES) as running:
        yield running


def test_the_shell_has_nothing_of_the_canvas(server: Server) -> None:
    """For a browser that has shown nothing yet: 401, a form, and no name, parameter or data."""
    server.access.share("city", passcode="sesame")
    html = {"accept": "text/html"}

    for tail in ("/river/map", ""):
        page = server.get(f"/{{city}}{tail}", headers=html)
        assert page.status_code == 401
        assert page.headers["content-type"].startswith("text/html")
        assert page.headers["cache-control"] == "no-store"
        assert "Passcode" in page.text and "udf" not in page.text and "river" not in page.text
    data = server.get("/{city}/river/run/tiles.json", headers=html)
    tried = server.get("/{city}/river/map", headers={**html, "authorization": "fused-canvas-passcode wrong"})
    assert [r.headers["content-type"] for r in (data, tried)] == ["application/json"] * 2


def test_a_passcode_opens_the_map(browser: Browser, server: Server) -> None:
    """A wrong one is told; the right one is kept for the tab and sent as a header, never in an address."""
    token = server.access.share("city", passcode="sesame").token
    with tab(browser, server.url) as found:
        found.page.goto(f"{server.url}/{token}/river/map")
        found.page.fill("input[name=secret]", "guess")
        found.page.click("#lock button")
        found.page.wait_for_selector("#message:has-text('wrong passcode')")
        found.complaints.clear()  # the browser's own line on the 401

        found.page.fill("input[name=secret]", "sesame")
        found.page.click("#lock button")
        found.settled()
        shown = found.pixels()

        assert found.state == "idle"
        assert (shown[300, 700] == (200, 0, 0)).all()
        assert not [url for url in found.requests if "sesame" in url]
        assert found.complaints == [] and found.foreign == []
        found.page.goto(f"{server.url}/{token}")
        found.page.wait_for_selector("article")
        found.page.goto(f"{server.url}/{token}/number/map")
        found.settled()
        expect(found.page.frame_locator("#result iframe").locator("body")).to_have_text("forty-two")
        found.page.goto(f"{server.url}/{token}/chart/map")
        found.settled()
        chart = found.page.frame_locator("#result iframe").locator("h1")
        assert chart.evaluate("one => getComputedStyle(one).color") == "rgb(1, 2, 3)"


def test_a_broken_function_says_why_to_who_has_the_passcode(browser: Browser, server: Server) -> None:
    """On its page, in the place of the map."""
    server.write({"city/broken.py": "@fused.udf\ndef udf(:\n"})
    token = server.access.share("city", passcode="sesame").token
    with tab(browser, server.url) as found:
        found.page.goto(f"{server.url}/{token}/broken/map")
        found.page.fill("input[name=secret]", "sesame")
        found.page.click("#lock button")
        expect(found.page.locator(".reason")).to_contain_text("SyntaxError")


def test_an_access_token_opens_a_team_canvas(browser: Browser, server: Server) -> None:
    """The shell asks for what the canvas wants; another tab begins anew."""
    token = server.access.share("city", team=True).token
    _, secret = server.access.create_token("viewer", scope="run")
    with tab(browser, server.url) as found:
        found.page.goto(f"{server.url}/{token}/river/map")
        assert "Access token" in found.page.inner_text("#lock")
        found.page.fill("input[name=secret]", secret)
        found.page.click("#lock button")
        found.settled()
        assert found.state == "idle"
    with tab(browser, server.url) as other:
        other.page.goto(f"{server.url}/{token}/river/map")
        assert other.page.is_visible("input[name=secret]")


def test_programs_get_the_error_they_know(server: Server) -> None:
    """Without ``Accept: text/html`` nothing has changed."""
    server.access.share("city", passcode="sesame")

    answer = httpx.get(f"{server.url}/{server.tokens['city']}/river/map")

    assert answer.status_code == 401
    assert answer.json()["detail"].startswith("this canvas needs the header Authorization")
