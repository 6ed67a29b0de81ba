"""Round symbols: how much of each pixel a disc covers.

A pixel is covered by as much as the edge of a disc is beyond its middle, along the way from the disc's: that
is within a few hundredths of the exact area. Small discs are looked at through a finer grid.

Where many discs of one size have one colour, places are rounded to 1/16 of a pixel, which is not seen and
lets them share the few hundred pictures that there are of them.
"""

from __future__ import annotations

import functools
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Index = NDArray[np.int64]

PHASES: Final = 16
_SMALL: Final = 2.0  # radius in pixels below which a disc is looked at through a finer grid
_GRAIN: Final = 8  # parts of a pixel of that, along a side
_CORNER: Final = 0.71  # pixels from the middle of one to its corner


class Stamps(NamedTuple):
    """Where discs lie: the pixel that holds each centre, and the place in it as the number of a phase."""

    columns: Index
    rows: Index
    phases: Index


def stamps(x: Floats, y: Floats) -> Stamps:
    """Places in pixels, rounded to phases."""
    columns, across = np.divmod(np.rint(x * PHASES).astype(np.int64), PHASES)
    rows, down = np.divmod(np.rint(y * PHASES).astype(np.int64), PHASES)
    return Stamps(columns, rows, down * PHASES + across)


@functools.lru_cache(maxsize=16)
def pictures(radius: float, reach: int) -> Singles:
    """Coverage (256, side * side) by discs of one radius, at every phase, in the pixels as far as ``reach``
    from that of the middle; not to be changed."""
    down, across = np.divmod(np.arange(PHASES * PHASES), PHASES)
    places = np.arange(-reach, reach + 1) + 0.5
    from_x, from_y = places - across[:, None] / PHASES, places - down[:, None] / PHASES
    x, y = np.broadcast_arrays(from_x.astype(np.float32)[:, None, :], from_y.astype(np.float32)[:, :, None])
    found = _fine(x, y, np.full(x.shape, radius, np.float32), _GRAIN)
    return found.reshape(len(down), -1)


class Spans(NamedTuple):
    """Pixels of a canvas that discs may cover, disc by disc: how many of each, and how far, along x and y,
    they are from its middle."""

    pixels: Index
    counts: Index
    x: Singles
    y: Singles

    def covered(self, radii: Floats) -> Singles:
        """How much of each pixel is covered by discs with these radii, that are none larger."""
        sizes = np.repeat(radii.astype(np.float32), self.counts)
        found = _fine(self.x, self.y, sizes, 1)
        if radii.min(initial=_SMALL) < _SMALL:
            small = np.flatnonzero(sizes < _SMALL)
            found[small] = _fine(self.x[small], self.y[small], sizes[small], _GRAIN)
        return found


def spans(x: Floats, y: Floats, radii: Floats, width: int, height: int) -> Spans:
    """Pixels of a canvas whose middles are not much further than a radius from a place."""
    reach = radii + _CORNER
    first = np.clip(np.ceil(y - reach - 0.5), 0, height).astype(np.int64)
    count = np.clip(np.floor(y + reach + 0.5), 0, height).astype(np.int64) - first
    owner = np.repeat(np.arange(len(count)), np.maximum(count, 0))
    starts = np.cumsum(np.maximum(count, 0)) - np.maximum(count, 0)
    row = np.arange(len(owner)) + (first - starts)[owner]
    down = row + 0.5 - y[owner]
    half = np.sqrt(np.maximum(reach[owner] ** 2 - down * down, 0))
    left = np.clip(np.ceil(x[owner] - half - 0.5), 0, width).astype(np.int64)
    right = np.clip(np.floor(x[owner] + half + 0.5), 0, width).astype(np.int64)
    sizes = np.maximum(right - left, 0)
    begins = np.cumsum(sizes) - sizes
    cells = np.arange(int(sizes.sum()))
    across = (cells - np.repeat(begins, sizes)).astype(np.float32)
    across += np.repeat((left + 0.5 - x[owner]).astype(np.float32), sizes)
    counts = np.bincount(owner, sizes, len(count)).astype(np.int64)
    pixels = cells + np.repeat(row * width + left - begins, sizes)
    return Spans(pixels, counts, across, np.repeat(down.astype(np.float32), sizes))


def _fine(x: Singles, y: Singles, radii: Singles, grain: int) -> Singles:
    """Coverage of pixels whose middles are at (x, y) from that of a disc, each looked at in grain * grain
    parts."""
    # With this radius the sum over all pixels is the area of the disc.
    edge = np.sqrt(np.maximum(radii * radii - 1 / (12 * grain**2), 0)) * grain + np.float32(0.5)
    found = np.zeros(x.shape, np.float32)
    steps = ((np.arange(grain) + 0.5) / grain - 0.5).tolist()
    for down in steps:
        for across in steps:
            away = np.square(x + np.float32(across)) + np.square(y + np.float32(down))
            part = edge - np.sqrt(away, out=away) * grain
            found += np.clip(part, 0, 1, out=part)
    found /= grain * grain
    found[radii <= 0] = 0
    return found
