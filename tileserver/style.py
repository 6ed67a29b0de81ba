"""The styles that come with the package: MapLibre style documents in the top folder ``styles``.

The browser draws vector tiles with them, and ``render/drawing.py`` pictures, so both look alike.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

# Beside this file where the package is installed, beside the package where it runs from its sources.
_FOLDERS: Final = (Path(__file__).parent / "styles", Path(__file__).parent.parent / "styles")


@functools.cache
def default() -> Mapping[str, Any]:
    """The document that draws features of a UDF that has no style of its own; not to be changed."""
    folder = next(place for place in _FOLDERS if place.is_dir())
    document: dict[str, Any] = json.loads((folder / "default.json").read_text("utf-8"))
    return document


def paint(layer: str) -> Mapping[str, Any]:
    """The paint properties of one layer of the default style, by its id."""
    found: Mapping[str, Any] = next(one["paint"] for one in default()["layers"] if one["id"] == layer)
    return found
