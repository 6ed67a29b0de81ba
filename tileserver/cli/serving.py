"""Commands that serve, and the one that makes something to serve."""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from tileserver import __version__, settings
from tileserver.cli.base import access_of, command, load, setting_options, share_row, show


@command("serve")
@click.argument(
    "folder", metavar="[WORKSPACE]", required=False, type=click.Path(path_type=Path, file_okay=False)
)
@setting_options
def serve(folder: Path | None, workspace: Path, as_json: bool, flags: dict[str, object]) -> None:
    """Serve a workspace until it is stopped.

    Example: tileserver serve my-maps --port 8080
    """
    chosen = load(folder or workspace, flags)
    from tileserver.server import serve as run

    run(chosen, announce=lambda url: show(as_json, {"url": url}, f"tileserver {__version__} at {url}"))


@command("demo")
@setting_options
def demo(workspace: Path, as_json: bool, flags: dict[str, object]) -> None:
    """Serve the bundled demo: real data, no account, no internet.

    Example: tileserver demo --port 8001
    """
    from tileserver.demo import TOKENS, prepare
    from tileserver.server import serve as run

    with _private_folder() as folder:
        chosen = settings.load(prepare(folder), flags=flags, environ=os.environ)
        token = next(iter(TOKENS))

        def announce(url: str) -> None:
            show(as_json, {"url": url, "token": token}, _TOUR.format(base=f"{url}/{token}"))

        run(chosen, announce=announce, fixed_tokens=TOKENS)


_TOUR = """The demo is running. Open:

  {base}/blue_marble/map
  {base}/hillshade/map
  {base}/countries/map
  {base}/earthquakes/map

or ask for data:

  curl '{base}/earthquakes.json?min_magnitude=4'
  curl -O {base}/airports.parquet

Stop it with Ctrl-C."""


@contextmanager
def _private_folder() -> Iterator[Path]:
    """Where the demo keeps its state: the user's own folder for such things, else a temporary one."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    folder = Path(home) / "tileserver-demo"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        usable = os.access(folder, os.W_OK) and folder.stat().st_uid == os.getuid()
    except OSError:
        usable = False
    if usable:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="tileserver-demo-") as temporary:
        yield Path(temporary)


_FIRST_UDF = '''"""Hills that the browser draws: change a number, save, and move the map."""

import fused


@fused.udf
def udf(bounds: fused.types.Bounds = None, wavelength: float = 20.0):
    """Waves over the world, one pixel at a time."""
    import numpy as np

    west, south, east, north = bounds or [-180, -85, 180, 85]
    lon = np.linspace(west, east, 256)
    lat = np.linspace(north, south, 256)[:, None]
    height = np.sin(2 * np.pi * lon / wavelength) * np.cos(2 * np.pi * lat / wavelength)

    red, green, blue = 40 + 90 * (height + 1), 90 + 60 * (height + 1), 160 - 50 * height
    return np.stack([red, green, blue]).astype("uint8")
'''
_FIRST_CANVAS = """title = "My first canvas"

[udf.waves]
maxzoom = 12
"""


@command("init")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
def init(folder: Path, workspace: Path, as_json: bool) -> None:
    """Make a new workspace with one canvas and one UDF to edit.

    Example: tileserver init my-maps
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise click.UsageError(f"{folder} is not empty; name a new folder.")
    folder.mkdir(parents=True, exist_ok=True)
    chosen = load(folder)
    canvas = folder / "first"
    canvas.mkdir()
    (canvas / "waves.py").write_text(_FIRST_UDF)
    (canvas / "canvas.toml").write_text(_FIRST_CANVAS)
    (folder / ".gitignore").write_text(".tileserver/\n")
    row = share_row(chosen, access_of(chosen).share("first", code=True))
    lines = (
        f"{folder} has one canvas, 'first', with one UDF: {canvas / 'waves.py'}",
        f"  tileserver serve {shlex.quote(str(folder))}",
        f"  then open {row['url']}/waves/map, edit the file, and move the map",
    )
    show(as_json, {"workspace": str(folder), **row}, "\n".join(lines))
