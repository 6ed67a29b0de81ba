"""A real browser for tests: Chromium, which reaches the servers of the test and no other host."""

from __future__ import annotations

import functools
import io
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    *("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
_COMPLAINTS = frozenset({"error", "warning"})
DONE = "html[data-map=idle],html[data-map=error]"


@dataclass
class Tab:
    """A page and what happened on it: requests to the server, to other hosts, and complaints."""

    page: Page
    requests: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def open(self, url: str) -> None:
        """Go there and wait until the map has drawn everything, or gave up."""
        self.page.goto(url)
        self.settled()

    def settled(self) -> None:
        self.page.wait_for_selector(DONE, state="attached")

    @property
    def state(self) -> str | None:
        return self.page.get_attribute("html", "data-map")

    def pixels(self) -> NDArray[np.uint8]:
        """What is on the screen: (height, width, 3)."""
        return np.asarray(Image.open(io.BytesIO(self.page.screenshot())).convert("RGB"))

    def place(self, lon: float, lat: float) -> tuple[int, int]:
        """Where the map shows a coordinate: column and row on the screen."""
        x, y = self.page.evaluate(
            "([lon, lat]) => { const p = window.map.project([lon, lat]); return [p.x, p.y] }", [lon, lat]
        )
        return round(x), round(y)


@contextmanager
def site(folder: Path) -> Iterator[str]:
    """The address of somebody's own pages, which lie in a folder."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@contextmanager
def chromium() -> Iterator[Browser]:
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    assert path, f"these tests need a browser: one of {', '.join(NAMES)}"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def tab(browser: Browser, *origins: str, **options: Any) -> Iterator[Tab]:
    """A tab that may only reach these origins."""
    page = browser.new_page(**{"viewport": {"width": 1000, "height": 700}, **options})
    found = Tab(page)

    def check(route: Any) -> None:
        url = route.request.url
        parts = urlsplit(url)
        if parts.scheme in {"blob", "data"} or f"{parts.scheme}://{parts.netloc}" in origins:
            found.requests.append(url)
            route.continue_()
        else:
            found.foreign.append(url)
            route.abort()

    page.route("**/*", check)
    page.on(
        "console",
        lambda message: found.complaints.append(message.text) if message.type in _COMPLAINTS else None,
    )
    page.on("pageerror", lambda error: found.complaints.append(str(error)))
    try:
        yield found
    finally:
        page.close()
