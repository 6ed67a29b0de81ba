"""Takes the README's picture of the map page, from the demo: docs/map-page.png.

python scripts/picture.py
"""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).parent.parent / "docs/map-page.png"


def main() -> None:
    command = [sys.executable, "-m", "tileserver", "demo", "--port", "0", "--json"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        taken = photograph(f"{url}/fc_demo/hillshade/map")
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
    # 256 colours are a third of the size and look the same.
    Image.open(io.BytesIO(taken)).convert("RGB").quantize(256).save(PICTURE, optimize=True)


def photograph(address: str) -> bytes:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"),
            args=["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"],
        )
        page = browser.new_page(viewport={"width": 960, "height": 540})
        page.goto(address)
        page.wait_for_selector("html[data-map=idle]", state="attached")
        return page.screenshot()


main()
