"""The part of a raster file in an area, on the map's grid: what is read of it, and what is hidden.

Of the usual file (a CRS, an affine transform of any kind) the window that is needed is read, of the overview
that fits. What is placed by control points is GDAL's to warp.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tileserver.raster import gdal, handles
from tileserver.raster.georaster import Georaster, grid
from tileserver.raster.handles import Handle
from tileserver.raster.placing import RESAMPLINGS, Values, placed
from tileserver.raster.positions import Grid, Source
from tileserver.raster.sampling import Flags, Window

# Pixels of a window at most, where a file has no overviews: beyond it is thinned out while it is read.
_MOST_PIXELS: Final = 1 << 24


def read(
    path: str | os.PathLike[str],
    area: Any,
    size: int | tuple[int, int] = 256,
    *,
    bands: int | Sequence[int] | None = None,
    resampling: str = "nearest",
    nodata: float | None = None,
    buffer: int = 0,
) -> Georaster:
    """The part of a raster file in an area, in web Mercator, north up.

    :param path: of a file that GDAL reads, or its address (``https://…``, ``s3://…``, ``/vsicurl/…``). It
        stays open for the next call; a local file that has changed is opened anew.
    :param area: bounds ``[west, south, east, north]`` in degrees (west may exceed east over the
        antimeridian), a tile ``(x, y, z)`` or ``mercantile.Tile``, a shapely geometry in degrees, or a
        GeoDataFrame.
    :param size: the width in pixels, to which the height follows from the area; or (width, height).
    :param bands: numbers of bands from 1, in the order wanted; all but an alpha band when None.
    :param resampling: ``nearest`` and ``bilinear`` are fast; the others of ``rasterio.enums.Resampling`` that
        can warp (``cubic``, ``average``, ``mode``, …) are GDAL's.
    :param nodata: the value that means no data, instead of what the file says.
    :param buffer: pixels more on every side, for filters that look at neighbours (see ``Georaster.cropped``).
    :returns: values in the file's dtype, scale and offset not applied. Masked: what lies outside of the file,
        nodata values band by band, NaN, and what the file's mask or alpha band hides wholly.
    :raises ValueError: for an area, size, band or resampling that isn't one, and a file that doesn't say
        where it lies.
    :raises rasterio.errors.RasterioIOError: when the file can't be read.
    """
    target = grid(area, size, buffer)
    if resampling not in RESAMPLINGS:
        raise ValueError(f"resampling {resampling!r} is none of {', '.join(RESAMPLINGS)}")
    name, handle = handles.opened(path)
    level = _FileLevel(handle, _numbers(bands, handle), nodata)
    with handles.environment(name):
        if handle.source is not None:
            data, hidden = _from_file(name, level, handle.source, target, resampling)
        else:
            data, hidden = gdal.warped_file(
                name, handle, target, bands=level.bands, nodata=nodata, resampling=resampling
            )
    mask: Any = np.ma.nomask
    if hidden is not None and hidden.any():
        mask = np.broadcast_to(hidden, data.shape).copy() if hidden.shape != data.shape else hidden
    return Georaster(np.ma.MaskedArray(data, mask), target.bounds)


@dataclass(frozen=True)
class _FileLevel:
    """A file, or one of its overviews, with the bands that are wanted and the value that is none."""

    handle: Handle
    bands: tuple[int, ...]
    nodata: float | None

    @property
    def width(self) -> int:
        return self.handle.width

    @property
    def height(self) -> int:
        return self.handle.height

    def read(self, window: Window) -> Values:
        shape = (window.height, window.width)
        if window.height * window.width > _MOST_PIXELS:
            thin = math.sqrt(window.height * window.width / _MOST_PIXELS)
            shape = (math.ceil(window.height / thin), math.ceil(window.width / thin))
        place = ((window.top, window.bottom), (window.left, window.right))
        values = self.handle.dataset.read(self.bands, window=place, out_shape=(len(self.bands), *shape))
        return Values(values, self._hidden(values, {"window": place, "out_shape": shape}))

    def _hidden(self, values: NDArray[Any], options: dict[str, Any]) -> Flags | None:
        """By value, else by the file's mask or alpha band; NaN in any case."""
        hidden: Flags | None = None
        handle = self.handle
        if any(value is not None for value in self._values):
            hidden = self._by_value(values)
        elif handle.alpha is not None:
            hidden = (handle.dataset.read(handle.alpha, **options) == 0)[None]
        elif handle.masked:
            numbers = self.bands if handle.apart else self.bands[:1]
            hidden = handle.dataset.read_masks(numbers, **options) == 0
        if values.dtype.kind in "fc":
            unknown = np.isnan(values)
            hidden = unknown if hidden is None else hidden | unknown
        return hidden if hidden is not None and hidden.any() else None

    @property
    def _values(self) -> list[float | None]:
        """What means no data in each of the bands."""
        return [self.handle.nodata[n - 1] if self.nodata is None else self.nodata for n in self.bands]

    def _by_value(self, values: NDArray[Any]) -> Flags | None:
        nodata = [None if one is None or math.isnan(one) else one for one in self._values]
        if len(set(nodata)) == 1:
            return None if nodata[0] is None else np.asarray(values == nodata[0])
        none = np.zeros(values.shape[1:], bool)
        return np.stack(
            [none if one is None else band == one for one, band in zip(nodata, values, strict=True)]
        )


def _from_file(name: str, level: _FileLevel, source: Source, target: Grid, resampling: str) -> Values:
    def coarser(step: float) -> _FileLevel:
        return replace(level, handle=handles.overview(name, level.handle, step))

    bands = (len(level.bands), handles.dtype(level.handle, level.bands))
    return placed(source, target, level=coarser, bands=bands, resampling=resampling)


def _numbers(bands: int | Sequence[int] | None, handle: Handle) -> tuple[int, ...]:
    if bands is None:
        return handle.bands
    numbers = (operator.index(bands),) if isinstance(bands, int | np.integer) else tuple(bands)
    if not numbers or not all(number in handle.dataset.indexes for number in numbers):
        raise ValueError(f"bands {bands!r}: the file has bands 1 to {handle.dataset.count}")
    return numbers
