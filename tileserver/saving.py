"""Canvases and UDFs that are saved over HTTP: written into the workspace, in Fused's folder layout.

Each file is replaced as a whole, and a new UDF's folder appears complete or not at all. No name leads out
of its canvas, by no link either.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tileserver.canvas import CANVAS_NAME
from tileserver.errors import BadRequest, Conflict, NotFound
from tileserver.posted import Posted
from tileserver.protocol import Json
from tileserver.signature import read

NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9 ._-]{0,127}", re.ASCII)


def save_canvas(workspace: Path, name: str) -> None:
    """A new canvas with nothing in it.

    :raises BadRequest: for a name that a canvas can't have.
    :raises Conflict: when there is one of this name.
    """
    folder = _canvas_folder(workspace, name)
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise Conflict(f"there is a canvas called {name!r} already") from None
    _write(folder / "canvas.toml", f"title = {json.dumps(name)}\n")


def save_udf(workspace: Path, canvas: str, name: str, udf: Posted, *, replace: bool) -> None:
    """Write a UDF whose source can be read; its canvas is made where it is missing. ``replace`` allows one of
    this name to be there.

    :raises BadRequest: for a name that a UDF can't have, or a place outside of the canvas.
    :raises Conflict: for a UDF of this name that isn't to be replaced.
    """
    folder = _canvas_folder(workspace, canvas)
    files = _files(name, udf)
    target = _inside(folder, name)
    flat = _inside(folder, f"{name}.py")
    if (flat.is_file() or target.exists()) and not replace:
        raise Conflict(f"the canvas {canvas!r} has a UDF called {name!r} already")
    if flat.is_file() and _is_one_file(folder, udf):
        _write(flat, udf.code)  # it stays in the layout that its owner chose
        return
    if not folder.is_dir():
        save_canvas(workspace, canvas)
    if target.is_dir():
        for path, text in files.items():
            _write(_inside(target, path), text)
        flat.unlink(missing_ok=True)  # it would be served in the place of the folder
        return
    draft = folder / f".{secrets.token_hex(8)}"
    draft.mkdir()
    try:
        for path, text in files.items():
            _write(draft / path, text)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # it is there only where something went wrong
    flat.unlink(missing_ok=True)


def delete_udf(workspace: Path, canvas: str, name: str) -> None:
    """Remove a UDF's file or folder.

    :raises NotFound: when there is none.
    """
    folder = _canvas_folder(workspace, canvas)
    target, flat = _inside(folder, name), _inside(folder, f"{name}.py")
    if flat.is_file():  # it is the one that is served; a folder of this name may be anything
        flat.unlink()
    elif (target / f"{name}.py").is_file():
        # Out of sight in one step; what is left of it afterwards doesn't matter.
        gone = folder / f".{secrets.token_hex(8)}"
        target.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
    else:
        raise NotFound(f"the canvas {canvas!r} has no UDF called {name!r}")


def _is_one_file(folder: Path, udf: Posted) -> bool:
    """Whether a UDF needs nothing but its source: its modules are the canvas's own, and its code says all
    of its parameters."""
    for module, text in udf.modules.items():
        path = folder / f"{module.replace('.', '/')}.py"
        try:
            if path.read_text("utf-8-sig") != text:
                return False
        except (OSError, ValueError):
            return False
    return _stored(udf.parameters) == _stored(read(udf.code, udf.entry).defaults)


def _canvas_folder(workspace: Path, name: str) -> Path:
    if not CANVAS_NAME.fullmatch(name):
        raise BadRequest(f"a canvas's name is letters, digits, _ and -, not {name[:80]!r}")
    return _inside(workspace, name)


def _inside(folder: Path, name: str) -> Path:
    """A path below a folder, also once links are followed."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BadRequest(f"{name[:80]!r} leads out of its folder")
    return path


def _files(name: str, udf: Posted) -> dict[str, str]:
    """Files of a UDF's folder by their names: the meta file first, since it names the others."""
    if not NAME.fullmatch(name) or name.endswith((" ", ".", ".py")) or name == "__pycache__":
        raise BadRequest(
            f"a UDF's name begins with a letter, digit or _ and goes on with those, spaces, dots and hyphens,"
            f" up to 128 in all, not {name[:140]!r}"
        )
    modules = {f"{module.replace('.', '_')}.py": text for module, text in udf.modules.items()}
    if len(modules) < len(udf.modules):
        raise BadRequest("two modules have names that differ only in dots and underscores")
    if f"{name}.py" in modules:
        raise BadRequest(f"a module has the UDF's own name, {name!r}")
    headers = [
        {"module_name": module, "source_file": f"{module.replace('.', '_')}.py"} for module in udf.modules
    ]
    described: dict[str, Any] = {
        "type": "geopandas_v2",
        "name": name,
        "entrypoint": udf.entry,
        "parameters": _stored(udf.parameters),
        "metadata": None,
        "source": f"{name}.py",
        "headers": headers,
    }
    meta = {
        "version": "0.0.3",
        "job_config": {"name": None, "steps": [{"type": "udf", "udf": described}]},
    }
    return {**modules, "meta.json": json.dumps(meta, indent=2) + "\n", f"{name}.py": udf.code}


def _stored(parameters: Mapping[str, Json]) -> dict[str, Json]:
    return {name: value for name, value in parameters.items() if value is not None}


def _write(path: Path, text: str) -> None:
    """Replace a file as a whole, on disk when this returns."""
    draft = path.with_name(f".{secrets.token_hex(8)}")
    try:
        with draft.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)  # it is there only where something went wrong
