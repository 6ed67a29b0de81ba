"""A raster on a web Mercator grid: which parts of it, from which pixels, by which kernel.

The same for files, of which windows are read, and for arrays in memory. Nearest and bilinear are computed
here, other kernels by GDAL.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import Resampling

from tileserver.raster import gdal, sampling
from tileserver.raster.positions import MERCATOR, Grid, Part, Source, covered, positions
from tileserver.raster.sampling import Flags, Window

# Kernels that are computed here, and how many pixels they need around.
_KERNELS: Final = {"nearest": 0, "bilinear": 1}
_REACH: Final = 3  # of GDAL's kernels, in pixels of the grid
RESAMPLINGS: Final = tuple(name for name in Resampling.__members__ if name != "gauss")  # that isn't for warps


class Values(NamedTuple):
    """``bands`` (bands, height, width) and what of them has no data, (1 or bands, height, width); None where
    nothing is hidden. What hidden pixels hold means nothing."""

    bands: NDArray[Any]
    hidden: Flags | None


class Level(Protocol):
    """A raster at one of its resolutions; ``read`` gives a window of it, which may be thinned out."""

    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    def read(self, window: Window) -> Values: ...


class InMemory(NamedTuple):
    """An array as a raster of one level."""

    values: Values

    @property
    def width(self) -> int:
        return int(self.values.bands.shape[2])

    @property
    def height(self) -> int:
        return int(self.values.bands.shape[1])

    def read(self, window: Window) -> Values:
        part = (slice(None), slice(window.top, window.bottom), slice(window.left, window.right))
        bands, hidden = self.values
        return Values(bands[part], None if hidden is None else hidden[part])


def placed(
    source: Source,
    grid: Grid,
    *,
    level: Callable[[float], Level],
    bands: tuple[int, Any],
    resampling: str,
) -> Values:
    """The raster on the grid; hidden where it doesn't reach.

    :param level: which resolution to read when a pixel of the grid takes that many of the raster's.
    :param bands: how many, and their dtype.
    """
    shape = (grid.height, grid.width)
    parts = covered(source, grid)
    if len(parts) == 1 and parts[0][1:] == (slice(0, shape[1]), slice(0, shape[0])):
        found = _part(source, grid, parts[0], level, resampling)
        if found is not None:
            return found
        parts = []
    result = np.zeros((bands[0], *shape), bands[1])
    hidden: Flags = np.ones((bands[0], *shape), bool)
    for part in parts:
        found = _part(source, grid.part(part.columns, part.rows), part, level, resampling)
        if found is None:
            continue
        place = (slice(None), part.rows, part.columns)
        # Turns of the same raster may overlap by a pixel: what is there stays.
        new = hidden[place] if found.hidden is None else hidden[place] & ~found.hidden
        np.copyto(result[place], found.bands, where=new)
        hidden[place] &= ~new
    return Values(result, hidden)


def _part(
    source: Source, grid: Grid, part: Part, level: Callable[[float], Level], resampling: str
) -> Values | None:
    """The raster in one of its turns; None where nothing of it is there."""
    columns, rows, step = positions(source, grid)
    if source.period is not None:
        columns -= part.turn * source.period
    chosen = level(step)
    width, height = chosen.width, chosen.height
    if (width, height) != (source.width, source.height):
        columns *= width / source.width
        rows *= height / source.height
    reach = _KERNELS.get(resampling)
    margin = math.ceil(_REACH * max(1.0, step * width / source.width)) + 1 if reach is None else reach
    window = sampling.window(columns, rows, width=width, height=height, margin=margin)
    if window is None:
        return None
    values = chosen.read(window)
    if reach is None:
        place = _transform(source, part, chosen, window, values)
        return _by_gdal(values, place, source.crs, grid, resampling)
    columns -= window.left
    rows -= window.top
    height, width = values.bands.shape[1:]
    if (width, height) != (window.width, window.height):
        columns *= width / window.width
        rows *= height / window.height
    if resampling == "nearest":
        found = sampling.nearest(values.bands, columns, rows)
    else:
        found = sampling.bilinear(*values, columns, rows)
    hidden = None if values.hidden is None else sampling.nearest(values.hidden, columns, rows)
    if not window.whole:
        beyond = sampling.outside(columns, rows, width=width, height=height)
        hidden = beyond[None] if hidden is None else hidden | beyond
    return Values(found, hidden)


def _transform(source: Source, part: Part, level: Level, window: Window, values: Values) -> Affine:
    """From pixels that were read to coordinates, in the turn in which they are needed."""
    turn = part.turn * source.period if source.period is not None else 0.0
    height, width = values.bands.shape[1:]
    return (
        source.transform
        * Affine.translation(turn, 0.0)
        * Affine.scale(source.width / level.width, source.height / level.height)
        * Affine.translation(window.left, window.top)
        * Affine.scale(window.width / width, window.height / height)
    )


def _by_gdal(values: Values, transform: Affine, crs: str, grid: Grid, resampling: str) -> Values:
    """Bands that hide different pixels go one by one."""
    bands, hidden = values
    options: dict[str, Any] = {
        "place": (transform, crs),
        "target": (grid.bounds, MERCATOR),
        "shape": (grid.height, grid.width),
        "resampling": resampling,
    }
    if hidden is None or (hidden == hidden[0]).all():
        found, unseen = gdal.warped(bands, None if hidden is None else hidden[0], **options)
        return Values(found, None if unseen is None else unseen[None])
    each = [gdal.warped(bands[n : n + 1], hidden[n], **options) for n in range(len(bands))]
    flags = [np.zeros(found.shape[1:], bool) if unseen is None else unseen for found, unseen in each]
    return Values(np.concatenate([found for found, _ in each]), np.stack(flags))
