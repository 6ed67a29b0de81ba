"""What is drawn of features, worked out: values for each feature, no expressions and no styles.

``render/styling.py`` makes these, in the order in which they are drawn; ``render/ink`` paints them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

Cap = Literal["butt", "round", "square"]
Join = Literal["miter", "round", "bevel"]

LARGEST: Final = 4096.0  # pixels of a width or radius; more is more than any picture


@dataclass(frozen=True, slots=True)
class Paint:
    """One layer of a style. ``features`` are positions among the features that were asked about, first drawn
    first.

    ``colour`` and ``stroke_colour`` are red, green, blue and opacity from 0 to 1, not multiplied: (n, 4) for
    n features, or (4,) for all of them. Lengths, (n,) or one for all, are pixels: of the style (at scale 1)
    as they are made, of the picture as they are painted. They are the ``width`` of a line, the ``radius`` of
    a circle, and the ``stroke_width`` of the ring around it. ``dash`` counts widths of the line that are
    drawn and left out in turn. What has a value that is no number, or no size, is not painted.
    """

    kind: Literal["fill", "line", "circle"]
    features: NDArray[np.intp]
    colour: Any
    width: Numbers | float = 1.0
    radius: Numbers | float = 0.0
    stroke_colour: Any = (0.0, 0.0, 0.0, 0.0)
    stroke_width: Numbers | float = 0.0
    dash: tuple[float, ...] = ()
    cap: Cap = "butt"
    join: Join = "miter"

    def scaled(self, scale: float) -> Paint:
        """With lengths in pixels of a picture in which a pixel of the style is this wide.

        MapLibre lets the edges of circles fade within their radius, over one pixel: half a pixel less.
        """
        width, radius = np.multiply(self.width, scale), np.multiply(self.radius, scale)
        outer = _faded(radius + np.multiply(self.stroke_width, scale))
        inner = _faded(radius)
        return replace(self, width=width, radius=inner, stroke_width=outer - inner)

    @property
    def reach(self) -> float:
        """How far from its geometry it is seen, in pixels."""
        if self.kind == "fill":
            return 1.0
        if self.kind == "circle":
            return 1.0 + _largest(self.radius) + _largest(self.stroke_width)
        # A miter is as long as the width, a square cap reaches as far as its diagonal.
        return 1.0 + _largest(self.width)


def _faded(radius: Numbers) -> Numbers:
    """Where half is seen; of the smallest more than of MapLibre's, which vanish between pixels."""
    return np.maximum(radius - 0.5, radius / 2)


def _largest(values: Numbers | float) -> float:
    found = np.asarray(values, np.float64)
    found = found[np.isfinite(found)]
    return min(float(found.max(initial=0.0)), LARGEST)


@dataclass(frozen=True, slots=True)
class Labels:
    """One layer of texts. ``size`` and ``halo_width`` are pixels, ``offset`` and ``max_width`` count sizes.
    Of two labels that collide, the one with the lower ``key`` is shown."""

    features: NDArray[np.intp]
    texts: tuple[str, ...]
    size: Numbers
    colour: Numbers
    halo_colour: Numbers
    halo_width: Numbers
    key: Numbers
    anchor: str
    offset: tuple[float, float]
    max_width: float
    padding: float
    overlap: bool

    def taken(self, which: NDArray[np.intp]) -> Labels:
        """Those with these numbers."""
        values = ("features", "size", "colour", "halo_colour", "halo_width", "key")
        kept = {name: getattr(self, name)[which] for name in values}
        return replace(self, texts=tuple(self.texts[at] for at in which), **kept)
