"""What is drawn of features, worked out: values for each feature, no expressions and no styles.

``render/styling.py`` makes these, in the order in which they are drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Paint:
    """One layer of a style. ``features`` are positions among the features that were asked about, first drawn
    first.

    ``colour`` is red, green, blue and opacity from 0 to 1, not multiplied: (n, 4) for n features, or (4,)
    for all of them. Lengths are pixels of the style (at scale 1), (n,) or one for all: the ``width`` of a
    line, the ``radius`` of a circle, and the ``stroke_width`` of the ring around it. ``dash`` counts widths
    of the line.
    """

    kind: Literal["fill", "line", "circle"]
    features: NDArray[np.intp]
    colour: Numbers
    width: Numbers | float = 1.0
    radius: Numbers | float = 0.0
    stroke_colour: Numbers | None = None
    stroke_width: Numbers | float = 0.0
    dash: tuple[float, ...] = ()
    cap: Literal["butt", "round", "square"] = "butt"
    join: Literal["miter", "round", "bevel"] = "miter"

    def lengths(self, value: Numbers | float) -> Numbers:
        """One of its lengths, for each feature (n,)."""
        return np.broadcast_to(np.asarray(value, float), self.features.shape)

    def colours(self, value: Numbers) -> Numbers:
        """One of its colours, for each feature (n, 4)."""
        return np.broadcast_to(value, (len(self.features), 4))


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
