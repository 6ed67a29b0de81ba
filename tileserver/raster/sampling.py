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

_CHUNK: Final = 8192  # pixels at a time, so that what lies between stays in the processor's cache


class Window(NamedTuple):
    """Columns and rows of a raster, ends excluded; ``whole`` says that no position lies outside of it."""

    left: int
    top: int
    right: int
    bottom: int
    whole: bool

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top


def window(columns: Coordinates, rows: Coordinates, *, width: int, height: int, margin: int) -> Window | None:
    """What must be read of a raster of this size to sample it there, with a margin of pixels around; None
    when all positions lie outside."""
    across, down = _span(columns, width, margin), _span(rows, height, margin)
    if across is None or down is None:
        return None
    return Window(across[0], down[0], across[1], down[1], across[2] and down[2])


def _span(values: Coordinates, count: int, margin: int) -> tuple[int, int, bool] | None:
    low, high = float(values.min()), float(values.max())
    whole = low >= 0 and high < count  # not so when there is a NaN
    if not whole:
        found = values[_inside(values, count)]
        if found.size == 0:
            return None
        low, high = float(found.min()), float(found.max())
    return max(0, int(low) - margin), min(count, int(high) + 1 + margin), whole


def outside(columns: Coordinates, rows: Coordinates, *, width: int, height: int) -> Flags:
    """Which positions lie outside of a raster of this size."""
    return ~(_inside(columns, width) & _inside(rows, height))


def _inside(values: Coordinates, count: int) -> Flags:
    return (values >= 0) & (values < count)


def _pixels(values: Coordinates) -> Index:
    with np.errstate(invalid="ignore"):  # what has no place is hidden, whatever pixel it falls on
        return values.astype(np.intp)


def nearest(bands: Bands, columns: Coordinates, rows: Coordinates) -> Bands:
    """``bands`` (…, height, width) at positions counted in its pixels, any value where they are outside.

    Without a copy where they are just its pixels in their order.
    """
    height, width = bands.shape[-2:]
    across, down = _pixels(columns), _pixels(rows)
    if len(across) == 1 and down.shape[1] == 1:
        for axis, index, count in ((-2, down[:, 0], height), (-1, across[0], width)):
            bands = _take(bands, np.clip(index, 0, count - 1), axis)
        return bands
    down *= width
    down += across
    result = np.empty((*bands.shape[:-2], *down.shape), bands.dtype)
    layers = bands.reshape(-1, height * width)
    for layer, target in zip(layers, result.reshape(-1, *down.shape), strict=True):
        np.take(layer, down, out=target, mode="clip")
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
    short = [(0, 0), *((0, int(count == 1)) for count in bands.shape[1:])]
    if any(more for _, more in short):  # two pixels along each axis, to be between them
        bands = np.pad(bands, short, mode="edge")
        hidden = None if hidden is None else np.pad(hidden, short, mode="edge")
    columns, rows = _framed(columns, bands.shape[2]), _framed(rows, bands.shape[1])
    weights = None if hidden is None else ~hidden
    layers = bands if hidden is None else np.where(hidden, bands.dtype.type(0), bands)
    shape = np.broadcast(columns, rows).shape
    result = np.empty((len(bands), *shape), bands.dtype)
    if layers[0].size < 4 * result[0].size:  # once for each pixel rather than each time it is taken
        layers = layers.astype(np.result_type(layers.dtype, np.float32))
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
    width = layers.shape[2]
    kind = np.result_type(layers.dtype, np.float32)
    (left, across), (top, down) = _between(columns, kind), _between(rows, kind)
    corner = top * width + left
    corners = (corner, corner + 1, corner + width, corner + (width + 1))
    divisors = None if weights is None else [_mixed(layer, corners, across, down) for layer in weights]
    for number, (layer, target) in enumerate(zip(layers, result, strict=True)):
        mixed = _mixed(layer, corners, across, down)
        if divisors is not None:
            divisor = divisors[number % len(divisors)]
            np.divide(mixed, divisor, out=mixed, where=divisor > 0)
        if target.dtype.kind in "biu":
            np.rint(mixed, out=mixed)
        if target.dtype.kind in "iu" and target.dtype.itemsize == 8:  # whose limits aren't floats
            limits = np.iinfo(target.dtype)
            np.clip(mixed, limits.min, np.nextafter(float(limits.max), 0), out=mixed)
        np.copyto(target, mixed, casting="unsafe")


def _between(values: Coordinates, kind: Any) -> tuple[Index, Any]:
    """The pixel before each position, and the share of the next one."""
    before = values.astype(np.intp)
    return before, (values - before).astype(kind)


def _framed(values: Coordinates, count: int) -> Coordinates:
    """Positions counted from the first pixel's centre, and none before that or behind the last one's."""
    values = values - 0.5
    if not (values.min() >= 0.0 and values.max() < count - 1):
        np.fmax(values, 0.0, out=values)  # of NaN and a number, the number
        np.fmin(values, np.nextafter(count - 1.0, 0.0), out=values)
    return values


def _mixed(layer: Bands, corners: tuple[Index, ...], across: Any, down: Any) -> Bands:
    pixels = layer.reshape(-1)
    first, second, third, fourth = (
        pixels.take(corner, mode="wrap").astype(across.dtype, copy=False) for corner in corners
    )
    upper = _mix(first, second, across)
    return _mix(upper, _mix(third, fourth, across), down)


def _mix(one: Bands, other: Bands, share: Any) -> Bands:
    """In the arrays' own memory."""
    other -= one
    other *= share
    one += other
    return one
