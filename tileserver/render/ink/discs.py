"""Round symbols: how much of each pixel a disc covers.

The edge of a disc is taken as straight within a pixel, at the place where the mean of its curve lies; small
discs are looked at through a finer grid. Places are rounded to 1/16 of a pixel, which is not seen and lets
discs of one size share the few hundred pictures that there are of them.
"""

from __future__ import annotations

import functools
import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Index = NDArray[np.int64]

PHASES: Final = 16
_FINE: Final = 3.0  # radius in pixels of the grid that a disc is looked at through


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


def covered(phases: Index, radii: Floats, reach: int) -> Singles:
    """Coverage (n, side * side) by discs in the pixels as far as ``reach``, which no radius exceeds, from
    that of the centre."""
    down, across = np.divmod(phases, PHASES)
    smallest = float(radii.min(initial=_FINE))
    grain = min(8, math.ceil(_FINE / max(smallest, 0.1)))
    side = 2 * reach + 1
    places = ((np.arange(side * grain) + 0.5) / grain - reach).astype(np.float32)
    shifts = (np.arange(PHASES) / PHASES).astype(np.float32)[:, None]
    along = (places - shifts) * np.float32(grain)
    x, y = along[across][:, None, :], along[down][:, :, None]
    sizes = (radii * grain).astype(np.float32)[:, None, None]
    fine = _half_plane(x, y, sizes)
    if (radii <= 0).any():
        fine[radii <= 0] = 0
    if grain > 1:
        fine = fine.reshape(len(phases), side, grain, side, grain).mean(axis=(2, 4))
    return fine.reshape(len(phases), side * side)


@functools.lru_cache(maxsize=16)
def pictures(radius: float, reach: int) -> Singles:
    """Coverage (256, side * side) by discs of one radius at every phase; not to be changed."""
    phases = np.arange(PHASES * PHASES)
    return covered(phases, np.full(len(phases), radius), reach)


def _half_plane(x: Singles, y: Singles, radius: Singles) -> Singles:
    """The part of unit squares around (x, y) that lies within the radius of the origin."""
    distance = np.maximum(np.sqrt(x * x + y * y), np.float32(1e-6))
    # A curve bulges over its chord by this much on average.
    depth = radius - 1 / (24 * np.maximum(radius, np.float32(0.5))) - distance
    # Along the normal a square is a trapezoid: its top as wide as long - short, its foot as long + short.
    one, other = np.abs(x) / distance, np.abs(y) / distance
    long = np.maximum(np.maximum(one, other), np.float32(0.5))
    short = np.maximum(np.minimum(one, other), np.float32(1e-6))
    size = np.abs(depth)
    slope = np.minimum(size, (long - short) / 2)
    rest = np.clip((long + short) / 2 - size, 0, short)
    bend = (short * short - rest * rest) / (2 * short)
    share = np.minimum((slope + bend) / long, np.float32(0.5))
    covered: Singles = np.float32(0.5) + np.copysign(share, depth)
    return covered
