"""Which properties a layer of a style may have, what they take, and what they are when nothing is said.

The defaults, ranges and names are those of the MapLibre style specification.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from tileserver.styles.expressions import Type

Kind = Literal["number", "color", "formatted", "constant", "choice", "switch", "numbers", "texts"]


@dataclass(frozen=True, slots=True)
class Property:
    """``kind`` says what it takes; numbers, colours and labels may be expressions, a ``constant`` is a
    number only. ``low`` and ``high`` bound constants, ``choices`` are the words of a ``choice``."""

    kind: Kind
    default: Any = None
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    count: int | None = None

    @property
    def type(self) -> Type | None:
        """What an expression must give; None where there may be none."""
        return self.kind if self.kind in {"number", "color", "formatted"} else None


_OPACITY: Final = Property("number", 1.0, 0.0, 1.0)
_BLACK: Final = Property("color", "#000000")
_KEY: Final = Property("number")


def _length(default: float) -> Property:
    return Property("number", default, 0.0)


_ANCHORS: Final = (
    *("center", "left", "right", "top", "bottom"),
    *("top-left", "top-right", "bottom-left", "bottom-right"),
)

PAINT: Final[Mapping[str, Mapping[str, Property]]] = {
    "fill": {
        "fill-color": _BLACK,
        "fill-opacity": _OPACITY,
        "fill-outline-color": Property("color"),
    },
    "line": {
        "line-color": _BLACK,
        "line-opacity": _OPACITY,
        "line-width": _length(1.0),
        "line-dasharray": Property("numbers", (), 0.0),
    },
    "circle": {
        "circle-color": _BLACK,
        "circle-opacity": _OPACITY,
        "circle-radius": _length(5.0),
        "circle-stroke-color": _BLACK,
        "circle-stroke-opacity": _OPACITY,
        "circle-stroke-width": _length(0.0),
    },
    "symbol": {
        "text-color": _BLACK,
        "text-opacity": _OPACITY,
        "text-halo-color": Property("color", "rgba(0, 0, 0, 0)"),
        "text-halo-width": _length(0.0),
    },
}
LAYOUT: Final[Mapping[str, Mapping[str, Property]]] = {
    "fill": {"fill-sort-key": _KEY},
    "line": {
        "line-cap": Property("choice", "butt", choices=("butt", "round", "square")),
        "line-join": Property("choice", "miter", choices=("bevel", "round", "miter")),
        "line-sort-key": _KEY,
    },
    "circle": {"circle-sort-key": _KEY},
    "symbol": {
        "text-field": Property("formatted", ""),
        "text-size": _length(16.0),
        "text-font": Property("texts", ("Open Sans Regular", "Arial Unicode MS Regular")),
        "text-anchor": Property("choice", "center", choices=_ANCHORS),
        "text-offset": Property("numbers", (0.0, 0.0), count=2),
        "text-max-width": Property("constant", 10.0, 0.0),
        "text-padding": Property("constant", 2.0, 0.0),
        "text-allow-overlap": Property("switch", False),
        "symbol-sort-key": _KEY,
    },
}
LAYER_TYPES: Final = tuple(PAINT)
