"""Takes the README's pictures from the demo: docs/map-page.png and docs/canvas-page.png.

python scripts/picture.py
"""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, sync_playwright

DOCS = Path(__file__).parent.parent / "docs"
IDLE = "html[data-map=idle]"
DONE = "article[data-udf]:nth-of-type(6)[data-thumbnail]"


def main() -> None:
    command = [sys.executable, "-m", "tileserver", "demo", "--port", "0", "--json"]
    home = tempfile.mkdtemp()  # the demo as it comes, whatever this machine's own has become
    environ = {**os.environ, "HOME": home, "XDG_STATE_HOME": home}
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environ
    )
    try:
        assert server.stdout is not None
        url = json.loads(server.stdout.readline())["url"]
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=shutil.which("chromium") or shutil.which("google-chrome"),
                args=["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"],
            )
            photograph(browser, f"{url}/fc_demo/hillshade/map", IDLE, "light", DOCS / "map-page.png")
            photograph(browser, f"{url}/fc_demo", DONE, "dark", DOCS / "canvas-page.png")
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
        shutil.rmtree(home)


def photograph(browser: Browser, address: str, ready: str, scheme: Any, picture: Path) -> None:
    page = browser.new_page(viewport={"width": 1040, "height": 680}, color_scheme=scheme)
    page.goto(address)
    page.wait_for_selector(ready, state="attached")
    # 256 colours are a third of the size and look the same.
    taken = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    taken.quantize(256).save(picture, optimize=True)
    page.close()


main()
