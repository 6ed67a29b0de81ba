"""Values at positions in an array: of the nearest pixel, or between the four around it.

A value counts as far as it is visible: what is hidden never bleeds into its neighbours. A result is hidden
where the pixel that it falls on is.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tileserver.raster.positions import Coordinates

Bands = NDArray[Any]
Flags = NDArray[np.bool_]
Index = NDArray[np.intp]

# Ties between two pixels, which rounding would decide anew for each: the right and the lower one.
_TIE: Final = 1e-6
_CHUNK: Final = 8192  # pixels at a time, so that what lies between stays in the processor's cache


class Window(NamedTuple):
    """Columns and rows of a raster, ends excluded."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def pixels(self) -> int:
        return (self.right - self.left) * (self.bottom - self.top)

    @property
    def empty(self) -> bool:
        return self.left >= self.right or self.top >= self.bottom


def window(columns: Coordinates, rows: Coordinates, *, width: int, height: int, margin: int) -> Window:
    """What must be read of a raster of this size to sample it there, with a margin of pixels around."""
    left, right = _span(columns, width, margin)
    top, bottom = _span(rows, height, margin)
    return Window(left, top, right, bottom)


def _span(values: Coordinates, count: int, margin: int) -> tuple[int, int]:
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        finite = values[np.isfinite(values)]
        if finite.size == 0:
            return 0, 0
        low, high = float(finite.min()), float(finite.max())
    low, high = max(low, -_TIE), min(high, count - _TIE)
    if low > high:
        return 0, 0
    return max(0, int(low + _TIE) - margin), min(count, int(high + _TIE) + 1 + margin)


def outside(columns: Coordinates, rows: Coordinates, *, width: int, height: int) -> Flags | None:
    """Which positions lie outside of a raster of this size; None when none does."""
    across, down = _outside(columns, width), _outside(rows, height)
    if across is None or down is None:
        found = down if across is None else across
        return None if found is None else np.broadcast_to(found, np.broadcast(columns, rows).shape)
    return across | down


def _outside(values: Coordinates, count: int) -> Flags | None:
    if values.min() >= -_TIE and values.max() < count - _TIE:  # not so when there is a NaN
        return None
    return ~((values >= -_TIE) & (values < count - _TIE))


def _pixels(values: Coordinates, count: int) -> Index:
    """The pixel on which each position falls; the nearest one for a position that is outside."""
    with np.errstate(invalid="ignore"):
        found = (values + _TIE).astype(np.intp)
    return np.clip(found, 0, count - 1, out=found)


def nearest(bands: Bands, columns: Coordinates, rows: Coordinates) -> Bands:
    """``bands`` (…, height, width) at positions counted in its pixels, without a copy where they are just
    its pixels in their order."""
    height, width = bands.shape[-2:]
    across, down = _pixels(columns, width), _pixels(rows, height)
    if across.shape[0] == 1 and down.shape[1] == 1:
        result = bands
        for axis, index in ((-2, down[:, 0]), (-1, across[0])):
            result = _take(result, index, axis)
        return result
    flat = down * width + across
    shape = bands.shape[:-2]
    result = np.empty((*shape, *flat.shape), bands.dtype)
    for source, target in zip(bands.reshape(-1, height * width), result.reshape(-1, *flat.shape), strict=True):
        np.take(source, flat, out=target, mode="wrap")  # in range: the mode that doesn't check is faster
    return result


def _take(bands: Bands, index: Index, axis: int) -> Bands:
    if len(index) == index[-1] - index[0] + 1 and (np.diff(index) == 1).all():
        part = [slice(None)] * bands.ndim
        part[axis] = slice(index[0], index[-1] + 1)
        return bands[tuple(part)]
    return bands.take(index, axis=axis)


def bilinear(bands: Bands, hidden: Flags | None, columns: Coordinates, rows: Coordinates) -> Bands:
    """``bands`` (bands, height, width) between its pixels' centres, of the dtype of ``bands``.

    ``hidden`` (1 or bands, height, width) says what not to count.
    """
    if _on_centres(columns) and _on_centres(rows):
        return nearest(bands, columns, rows)
    weights = None if hidden is None else ~hidden
    layers = bands if hidden is None else np.where(hidden, bands.dtype.type(0), bands)
    shape = np.broadcast(columns, rows).shape
    result = np.empty((len(bands), *shape), bands.dtype)
    at_once = max(1, _CHUNK // shape[1])
    for first in range(0, shape[0], at_once):
        some = slice(first, first + at_once)
        down = rows[some] if len(rows) > 1 else rows
        across = columns[some] if len(columns) > 1 else columns
        _blend(layers, weights, across, down, result[:, some])
    return result


def _on_centres(values: Coordinates) -> bool:
    apart = values - np.floor(values)
    return bool((np.abs(apart - 0.5) < 1e-4).all())


def _blend(
    layers: Bands, weights: Flags | None, columns: Coordinates, rows: Coordinates, result: Bands
) -> None:
    height, width = layers.shape[1:]
    (left, right, across), (top, bottom, down) = _between(columns, width), _between(rows, height)
    kind = np.result_type(layers.dtype, np.float32)
    corners = (top * width + left, top * width + right, bottom * width + left, bottom * width + right)
    shares = across.astype(kind), down.astype(kind)
    divisors = None if weights is None else [_mixed(layer.reshape(-1), corners, shares) for layer in weights]
    for number, (layer, target) in enumerate(zip(layers, result, strict=True)):
        mixed = _mixed(layer.reshape(-1), corners, shares)
        if divisors is not None:
            divisor = divisors[number % len(divisors)]
            np.divide(mixed, divisor, out=mixed, where=divisor > 0)
        if target.dtype.kind in "iu":
            np.rint(mixed, out=mixed)
        np.copyto(target, mixed, casting="unsafe")


def _between(values: Coordinates, count: int) -> tuple[Index, Index, Coordinates]:
    """The pixels before and after each position, and how far it is on the way; at the edges the last one."""
    values = np.nan_to_num(np.clip(values - 0.5, 0.0, count - 1.0))
    before = values.astype(np.intp)
    return before, np.minimum(before + 1, count - 1), values - before


def _mixed(layer: Bands, corners: tuple[Index, ...], shares: tuple[Any, Any]) -> Bands:
    across, down = shares
    first, second, third, fourth = (
        layer.take(corner, mode="wrap").astype(across.dtype, copy=False) for corner in corners
    )
    for left, right in ((first, second), (third, fourth)):
        right -= left
        right *= across
        left += right
    third -= first
    third *= down
    first += third
    return first
