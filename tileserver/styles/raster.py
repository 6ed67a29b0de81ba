"""The part of a style that is for pictures: how the numbers of a raster become colours.

It stands in the document's ``metadata`` under ``tileserver:raster``, where the MapLibre style language has
room for what others define. What a query says wins over it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tileserver.styles import colours
from tileserver.styles.colours import Colour
from tileserver.styles.fault import StyleFault
from tileserver.styles.layers import check_keys

KEY: Final = "tileserver:raster"
_PATH: Final = f"metadata.{KEY}"
RESAMPLING: Final = ("nearest", "bilinear", "cubic", "cubic_spline", "lanczos", "average", "mode")

Stops = tuple[tuple[float, Colour], ...]


@dataclass(frozen=True, slots=True)
class RasterPart:
    """``rescale`` has one (min, max) for all bands or one for each. ``colormap`` is a name; ``stops`` are
    values with their colours, between which colours are interpolated. ``label`` and ``unit`` are for the
    legend."""

    rescale: tuple[tuple[float, float], ...] = ()
    colormap: str | None = None
    stops: Stops = ()
    nodata: float | None = None
    resampling: str | None = None
    label: str = ""
    unit: str = ""


def read_raster(value: Any) -> RasterPart:
    """The raster part of a document's metadata.

    :raises StyleFault: with the path of what is wrong.
    """
    if value is None:
        return RasterPart()
    if not isinstance(value, dict):
        raise StyleFault(_PATH, "takes an object")
    check_keys(value, ("rescale", "colormap", "nodata", "resampling", "label", "unit"), _PATH)
    colormap = value.get("colormap")
    if colormap is not None and not isinstance(colormap, str | list):
        raise StyleFault(f"{_PATH}.colormap", "takes the name of a colormap, or a list of [value, colour]")
    stops = _stops(colormap) if isinstance(colormap, list) else ()
    if stops and "rescale" in value:
        raise StyleFault(f"{_PATH}.rescale", "is of no use beside stops, which are values themselves")
    return RasterPart(
        rescale=_ranges(value.get("rescale", [])),
        colormap=colormap if isinstance(colormap, str) else None,
        stops=stops,
        nodata=None if value.get("nodata") is None else _number(value["nodata"], f"{_PATH}.nodata"),
        resampling=_resampling(value.get("resampling")),
        **{key: _text(value.get(key, ""), f"{_PATH}.{key}") for key in ("label", "unit")},
    )


def stops_json(stops: Stops) -> list[list[Any]]:
    """Stops as they travel: (value, red, green, blue, alpha)."""
    return [[value, *colour] for value, colour in stops]


def _stops(value: list[Any]) -> Stops:
    found: list[tuple[float, Colour]] = []
    for at, one in enumerate(value):
        path = f"{_PATH}.colormap[{at}]"
        if not isinstance(one, list) or len(one) != 2:
            raise StyleFault(path, "a stop is [value, colour]")
        number = _number(one[0], f"{path}[0]")
        colour = colours.parse(one[1]) if isinstance(one[1], str) else None
        if colour is None:
            raise StyleFault(f"{path}[1]", f"takes a colour such as #d94801, not {str(one[1])[:40]!r}")
        if found and not found[-1][0] < number:
            raise StyleFault(f"{path}[0]", "stops ascend")
        found.append((number, colour))
    if len(found) < 2:
        raise StyleFault(f"{_PATH}.colormap", "takes two stops or more")
    return tuple(found)


def _ranges(value: Any) -> tuple[tuple[float, float], ...]:
    path = f"{_PATH}.rescale"
    if not isinstance(value, list):
        raise StyleFault(path, "takes [min, max], or a list of them for each band")
    listed = [value] if value and not isinstance(value[0], list) else value
    found = []
    for at, one in enumerate(listed):
        place = path if listed is not value else f"{path}[{at}]"
        if not isinstance(one, list) or len(one) != 2:
            raise StyleFault(place, "takes [min, max]")
        low, high = (_number(number, place) for number in one)
        if not low < high:
            raise StyleFault(place, "min must be below max")
        found.append((low, high))
    return tuple(found)


def _number(value: Any, path: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise StyleFault(path, f"takes a number, not {str(value)[:40]!r}")
    return float(value)


def _resampling(value: Any) -> str | None:
    if value is not None and value not in RESAMPLING:
        raise StyleFault(f"{_PATH}.resampling", f"takes one of {', '.join(RESAMPLING)}")
    return None if value is None else str(value)


def _text(value: Any, path: str) -> str:
    if not isinstance(value, str):
        raise StyleFault(path, "takes text")
    return value


def about(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """An object of the metadata, empty where there is none."""
    found = value.get(key, {})
    if not isinstance(found, dict):
        raise StyleFault(f"metadata.{key}", "takes an object")
    return found
