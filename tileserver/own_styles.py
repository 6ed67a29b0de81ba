"""The styles of a canvas: the files ``styles/<name>.json`` in its folder."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tileserver.styles import Style, StyleFault, Styles, read

MAX_STYLE: Final = 1024 * 1024
_PATH: Final = re.compile(r"styles/([A-Za-z0-9_-]{1,128})\.json", re.ASCII)


def read_styles(folder: Path, paths: Iterable[str]) -> Styles:
    """By name, the styles among the files of a canvas (paths in its folder), or what is wrong with them."""
    names = {path: match[1] for path in paths if (match := _PATH.fullmatch(path))}
    return {name: _read(folder / path, name) for path, name in names.items()}


def _read(path: Path, name: str) -> Style | StyleFault:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_STYLE + 1)
    except OSError as error:
        return StyleFault("", f"can't be read: {error}")
    if len(text) > MAX_STYLE:
        return StyleFault("", f"is larger than {MAX_STYLE} bytes")
    try:
        return read(text, name)
    except StyleFault as fault:
        return fault
