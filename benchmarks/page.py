"""How soon a map page is drawn, and what it weighs: ``python -m benchmarks.page``.

Starts the demo and opens its maps in headless Chromium again and again, with the browser's and the server's
caches warm; the time is the page's own, from the start of its navigation to the first time that its map is
idle. Then it adds up all that a map page can load, as it is sent. Exit status 1 when a bound is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import httpx
from playwright.sync_api import Browser

from tests.browser import chromium
from tileserver import pages

LONGEST: Final = 2500  # milliseconds to an idle map
HEAVIEST: Final = 600_000  # bytes, compressed
MAPS: Final = ("blue_marble", "hillshade", "countries", "airports", "earthquakes")

_WATCH: Final = """
new MutationObserver(() => {
  if (document.documentElement?.dataset.map === "idle") window.idleAt ??= performance.now();
}).observe(document, { attributes: true, subtree: true, attributeFilter: ["data-map"] });
"""


def times(browser: Browser, address: str, rounds: int) -> list[float]:
    """Milliseconds to an idle map, each time in a new tab; one visit before them warms the caches."""
    context = browser.new_context(viewport={"width": 1000, "height": 700})
    found = []
    for _ in range(rounds + 1):
        page = context.new_page()
        page.add_init_script(_WATCH)
        page.goto(address)
        page.wait_for_selector("html[data-map=idle]", state="attached")
        found.append(float(page.evaluate("window.idleAt")))
        page.close()
    context.close()
    return found[1:]


def weight(url: str) -> int:
    """Bytes of all files that a map page can load, as they are sent."""
    sent = 0
    for path in pages.STATIC.rglob("*"):
        if path.suffix in {".js", ".css", ".json", ".html"}:
            with httpx.stream("GET", f"{url}/static/{path.relative_to(pages.STATIC)}") as answer:
                sent += sum(len(chunk) for chunk in answer.iter_raw())
    return sent


@contextmanager
def _demo() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as home:
        command = [sys.executable, "-m", "tileserver", "demo", "--port", "0", "--json"]
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "HOME": home, "XDG_STATE_HOME": home},
        )
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    missed = False
    with _demo() as url, chromium() as browser:
        print("| map         | median ms | slowest ms |\n| ----------- | --------- | ---------- |")
        for name in MAPS:
            found = times(browser, f"{url}/fc_demo/{name}/map", rounds)
            missed |= statistics.median(found) > LONGEST
            print(f"| {name:11} | {statistics.median(found):9.0f} | {max(found):10.0f} |")
        sent = weight(url)
    print(f"\nA page weighs {sent / 1000:.0f} kB at most.")
    sys.exit(missed or sent > HEAVIEST)


if __name__ == "__main__":
    main()
