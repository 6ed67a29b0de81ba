"""The map page, as people see it: in a browser that reaches no other host."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import Browser

from tests.browser import Tab, chromium, tab
from tests.conftest import Server

BOX = """
import fused
import numpy as np

@fused.udf
def udf(bounds: fused.types.Bounds = None):
    picture = np.zeros((3, 256, 256), dtype="uint8")
    picture[0] = COLOUR
    return picture
"""


BROKEN = """
import fused

@fused.udf
def udf(bounds: fused.types.Bounds = None):
    raise ValueError("no river")
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def tiles(found: Tab) -> list[str]:
    return [url for url in found.requests if "/run/tiles/" in url]


def test_the_earth_is_shown_and_no_other_host_asked(browser: Browser, demo: Server) -> None:
    """Sea where the sea is, desert where the desert is, ice on Greenland."""
    with tab(browser, demo.url) as found:
        found.open(f"{demo.url}/fc_demo/blue_marble/map")
        shown = found.pixels().astype(int)

        def colour(lon: float, lat: float) -> NDArray[np.int_]:
            column, row = found.place(lon, lat)
            one: NDArray[np.int_] = shown[row, column]
            return one

        sahara, pacific, greenland = colour(15, 22), colour(-125, -10), colour(-42, 72)
        assert found.state == "idle"
        assert sahara[0] > sahara[2] + 30
        assert pacific[2] > pacific[0] + 10
        assert greenland.min() > 180
        assert found.foreign == []
        assert found.complaints == []


def test_a_changed_parameter_draws_the_map_again(browser: Browser, demo: Server) -> None:
    """With the value in the tiles' addresses and in the page's own, and another picture."""
    with tab(browser, demo.url) as found:
        found.open(f"{demo.url}/fc_demo/hillshade/map")
        before = found.pixels()
        found.requests.clear()
        with found.page.expect_response(lambda answer: "azimuth=135" in answer.url and ".png" in answer.url):
            found.page.fill("input[name=azimuth]", "135")
        found.page.wait_for_selector("html[data-map=idle]", state="attached")

        asked = tiles(found)
        assert asked
        assert all(parse_qs(urlsplit(url).query)["azimuth"] == ["135"] for url in asked)
        assert "azimuth=135" in found.page.url
        assert (before != found.pixels()).any()


def test_features_are_drawn_and_tell_their_attributes(browser: Browser, demo: Server) -> None:
    """A click on a country shows what the function returned of it."""
    with tab(browser, demo.url) as found:
        found.open(f"{demo.url}/fc_demo/countries/map")
        shown = found.pixels()
        land, sea = found.place(-55, -10), found.place(-25, -20)
        assert (shown[land[1], land[0]] != shown[sea[1], sea[0]]).any()
        found.page.mouse.click(*land)

        assert "Brazil" in (found.page.text_content(".attributes") or "")


def test_a_result_that_is_no_layer_is_shown_as_it_is(browser: Browser, demo: Server) -> None:
    """A dict has no place on a map; its parameters work all the same."""
    with tab(browser, demo.url) as found:
        found.open(f"{demo.url}/fc_demo/hello/map?name=Ada")

        assert "Ada" in found.page.inner_text("#result")
        assert found.complaints == []


def test_a_failing_function_says_so_on_the_page(browser: Browser, serve: Callable[..., Server]) -> None:
    """With its message, and for those who may read the code with its line."""
    server = serve({"city/broken.py": BROKEN})
    with tab(browser, server.url) as found:
        found.open(f"{server.url}/{server.tokens['city']}/broken/map")

        assert found.state == "error"
        assert "no river" in (found.page.text_content("body") or "")


def test_a_wrong_argument_is_shown_at_its_field(browser: Browser, demo: Server) -> None:
    """The message names what would be accepted, and the form stays usable."""
    with tab(browser, demo.url) as found:
        found.open(f"{demo.url}/fc_demo/hillshade/map?colormap=nonsense")

        assert found.state == "error"
        assert "nonsense" in found.page.inner_text("#parameter-colormap-fault")
        assert "line 36" in found.page.inner_text("#errors")
        found.page.fill("input[name=colormap]", "gray")
        found.page.wait_for_selector("html[data-map=idle]", state="attached")


def test_what_is_wrong_in_the_address_is_told_on_the_page(browser: Browser, demo: Server) -> None:
    """A link with an unknown style opens the page, which says what the server says."""
    with tab(browser, demo.url) as found:
        found.open(f"{demo.url}/fc_demo/earthquakes/map?style=magnitud")

        assert found.state == "error"
        assert "near it: magnitude" in found.page.inner_text("#errors")


def test_a_legend_has_circles_as_large_as_the_map(browser: Browser, demo: Server) -> None:
    """In pixels, as the style has them."""
    with tab(browser, demo.url) as found:
        found.open(f"{demo.url}/fc_demo/earthquakes/map")
        items = demo.get("/fc_demo/earthquakes/run/legend.json").json()["items"]
        sizes = [item["size"] for item in items if item["kind"] == "class"]
        signs = found.page.locator("#legend .sign.circle").all()

        assert [sign.bounding_box()["width"] for sign in signs] == pytest.approx(sizes, abs=0.5)  # type: ignore[index]


def test_an_edit_changes_the_map(browser: Browser, serve: Callable[..., Server]) -> None:
    """The promise of the product: save the file, load the page, see it."""
    server = serve({"city/box.py": BOX.replace("COLOUR", "200")})
    with tab(browser, server.url) as found:
        address = f"{server.url}/{server.tokens['city']}/box/map"
        found.open(address)
        before = int(found.pixels()[600, 900, 0])
        server.write({"city/box.py": BOX.replace("COLOUR", "40")})
        found.open(address)

        assert abs(before - 200) < 4
        assert abs(int(found.pixels()[600, 900, 0]) - 40) < 4


def test_names_and_texts_are_only_text(browser: Browser, serve: Callable[..., Server]) -> None:
    """Titles, descriptions and defaults from a workspace run nothing on our origin."""
    code = '''
import fused

@fused.udf
def udf(bounds: fused.types.Bounds = None, note: str = "</script><script>window.pwned=1</script>"):
    """<img src=x onerror="window.pwned=1">

    </script><script>window.pwned=1</script>
    """
    return {"a": 1}
'''
    server = serve({"city/evil.py": code})
    with tab(browser, server.url) as found:
        found.open(f"{server.url}/{server.tokens['city']}/evil/map")

        assert found.page.evaluate("window.pwned") is None
        assert found.page.input_value("input[name=note]") == "</script><script>window.pwned=1</script>"


def test_a_point_on_the_border_of_tiles_is_shown(browser: Browser, serve: Callable[..., Server]) -> None:
    """The only one that there is, where the equator meets the prime meridian."""
    frame = "gpd.GeoDataFrame({'name': ['Null Island']}, geometry=gpd.points_from_xy([0], [0]), crs=4326)"
    head = "import fused\nimport geopandas as gpd\n@fused.udf\ndef udf(bounds: fused.types.Bounds = None):\n"
    code = f"{head}    return {frame}\n"
    server = serve({"city/island.py": code})
    with tab(browser, server.url) as found:
        found.open(f"{server.url}/{server.tokens['city']}/island/map")
        found.page.mouse.click(*found.place(0, 0))

        assert "Null Island" in found.page.inner_text(".attributes")
