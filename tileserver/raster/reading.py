"""The part of a raster file in an area, on the map's grid: which way it is read, and what is hidden.

The usual file (a CRS, an affine transform of any kind) is read as the window that is needed of the overview
that fits, and sampled here. What is placed by control points is GDAL's to warp, and so are other kernels than
nearest and bilinear.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import Resampling

from tileserver.raster import gdal, handles, sampling
from tileserver.raster.georaster import Georaster, grid
from tileserver.raster.handles import Handle
from tileserver.raster.positions import MERCATOR, Coordinates, Grid, Part, Source, covered, positions
from tileserver.raster.sampling import Flags, Window

# Pixels read at most for one that is shown, where a file has no overviews: 16 million of a band are many for
# one tile, and what is beyond is thinned out while it is read.
_MOST_PIXELS: Final = 1 << 24
_KERNELS: Final = {"nearest": 0, "bilinear": 1}
# How far GDAL's kernels reach, in pixels that are shown.
_REACH: Final = 3


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
    :param area: bounds ``[west, south, east, north]`` in degrees (west may exceed east over the antimeridian),
        a tile ``(x, y, z)`` or ``mercantile.Tile``, a shapely geometry in degrees, or a GeoDataFrame.
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
    if resampling not in Resampling.__members__ or resampling == "gauss":
        raise ValueError(
            f"resampling {resampling!r} is none of {', '.join(n for n in Resampling.__members__ if n != 'gauss')}"
        )
    name, handle = handles.opened(path)
    with handles.environment(name):
        wanted = _Wanted(name, handle, _numbers(bands, handle), resampling, nodata, target)
        data, hidden = _whole(wanted) if handle.source is not None else _by_points(wanted)
    mask: Any = np.ma.nomask
    if hidden is not None and hidden.any():
        mask = np.broadcast_to(hidden, data.shape).copy() if hidden.shape != data.shape else hidden
    return Georaster(np.ma.MaskedArray(data, mask), target.bounds)


class _Wanted(NamedTuple):
    """What one call of ``read`` asks for."""

    name: str
    handle: Handle
    bands: tuple[int, ...]
    resampling: str
    nodata: float | None
    grid: Grid


# Values (bands, height, width) and what of them is hidden, (1 or bands, height, width).
_Values = tuple[NDArray[Any], Flags | None]


def _numbers(bands: int | Sequence[int] | None, handle: Handle) -> tuple[int, ...]:
    if bands is None:
        return handle.bands
    numbers = (bands,) if isinstance(bands, int) else tuple(bands)
    if not numbers or not all(number in handle.dataset.indexes for number in numbers):
        raise ValueError(f"bands {bands!r}: the file has bands 1 to {handle.dataset.count}")
    return numbers


def _whole(wanted: _Wanted) -> _Values:
    """All parts of the grid that the file reaches, and nothing elsewhere."""
    assert wanted.handle.source is not None
    shape = (wanted.grid.height, wanted.grid.width)
    parts = covered(wanted.handle.source, wanted.grid)
    if len(parts) == 1 and parts[0][1:] == (slice(0, shape[1]), slice(0, shape[0])):
        found = _part(wanted, parts[0])
        if found is not None:
            return found
        parts = []
    data = np.zeros((len(wanted.bands), *shape), _dtype(wanted))
    hidden: Flags = np.ones((len(wanted.bands), *shape), bool)
    for part in parts:
        found = _part(wanted, part)
        if found is None:
            continue
        values, unseen = found
        place = (slice(None), part.rows, part.columns)
        # Turns of the same file may overlap by a pixel: what is there stays.
        new = hidden[place] if unseen is None else hidden[place] & ~unseen
        np.copyto(data[place], values, where=new)
        hidden[place] &= ~new
    return data, hidden


def _dtype(wanted: _Wanted) -> Any:
    return np.result_type(*(wanted.handle.dataset.dtypes[number - 1] for number in wanted.bands))


def _part(wanted: _Wanted, part: Part) -> _Values | None:
    """The values of one part of the grid; None where nothing of the file is in it."""
    source = wanted.handle.source
    assert source is not None
    target = wanted.grid.part(part.columns, part.rows)
    columns, rows, step = positions(source, target)
    if source.period is not None:
        columns -= part.turn * source.period
    level = handles.overview(wanted.name, wanted.handle, step)
    size = {"width": level.dataset.width, "height": level.dataset.height}
    if level is not wanted.handle:
        columns *= size["width"] / source.width
        rows *= size["height"] / source.height
    reach = _KERNELS.get(wanted.resampling)
    margin = math.ceil(_REACH * max(1.0, step * size["width"] / source.width)) + 1 if reach is None else reach
    box = sampling.window(columns, rows, **size, margin=margin)
    if box is None:
        return None
    values, hidden = _read(wanted, level, box)
    (height, width) = values.shape[1:]
    if reach is None:
        return _by_kernel(wanted, target, values, hidden, _moved(source, part, level, box, (width, height)))
    columns -= box.left
    rows -= box.top
    if (width, height) != (box.width, box.height):
        columns *= width / box.width
        rows *= height / box.height
    if wanted.resampling == "nearest":
        found = sampling.nearest(values, columns, rows)
    else:
        found = sampling.bilinear(values, hidden, columns, rows)
    if hidden is not None:
        hidden = sampling.nearest(hidden, columns, rows)
    if not box.whole:
        beyond = sampling.outside(columns, rows, width=width, height=height)
        hidden = beyond[None] if hidden is None else hidden | beyond
    return found, hidden


def _moved(source: Source, part: Part, level: Handle, box: Window, size: tuple[int, int]) -> Affine:
    """The transform of the pixels that were read, in the turn in which they are needed."""
    turn = part.turn * source.period if source.period is not None else 0.0
    across, down = source.width / level.dataset.width, source.height / level.dataset.height
    return (
        source.transform
        * Affine.translation(turn, 0.0)
        * Affine.scale(across, down)
        * Affine.translation(box.left, box.top)
        * Affine.scale(box.width / size[0], box.height / size[1])
    )


def _read(wanted: _Wanted, level: Handle, box: Window) -> _Values:
    """The pixels of a window, thinned out when they are too many."""
    window = ((box.top, box.bottom), (box.left, box.right))
    options: dict[str, Any] = {"window": window}
    if box.width * box.height > _MOST_PIXELS:
        thin = math.sqrt(box.width * box.height / _MOST_PIXELS)
        options["out_shape"] = (math.ceil(box.height / thin), math.ceil(box.width / thin))
    values = level.dataset.read(wanted.bands, **_shaped(options, len(wanted.bands)))
    return values, _hidden(wanted, level, values, options)


def _shaped(options: dict[str, Any], bands: int) -> dict[str, Any]:
    return {**options, "out_shape": (bands, *options["out_shape"])} if "out_shape" in options else options


def _hidden(wanted: _Wanted, level: Handle, values: NDArray[Any], options: dict[str, Any]) -> Flags | None:
    """What has no data, (1 or bands, height, width): by value, else by the file's mask or alpha band."""
    hidden: Flags | None = None
    nodata = level.nodata if wanted.nodata is None else wanted.nodata
    if nodata is not None:
        if not math.isnan(nodata):
            hidden = values == nodata
    elif level.alpha is not None:
        hidden = (level.dataset.read(level.alpha, **options) == 0)[None]
    elif level.masked:
        hidden = (level.dataset.read_masks(wanted.bands[0], **options) == 0)[None]
    if values.dtype.kind in "fc":
        unknown = np.isnan(values)
        hidden = unknown if hidden is None else hidden | unknown
    return hidden if hidden is not None and hidden.any() else None


def _by_kernel(
    wanted: _Wanted, target: Grid, values: NDArray[Any], hidden: Flags | None, transform: Affine
) -> _Values:
    """By another of GDAL's kernels; bands that hide different pixels go one by one."""
    assert wanted.handle.source is not None
    options: dict[str, Any] = {
        "place": (transform, wanted.handle.source.crs),
        "target": (target.bounds, MERCATOR),
        "shape": (target.height, target.width),
        "resampling": wanted.resampling,
    }
    if hidden is None or len(hidden) == 1 or (hidden == hidden[0]).all():
        found, unseen = gdal.warped(values, None if hidden is None else hidden[0], **options)
        return found, None if unseen is None else unseen[None]
    each = [gdal.warped(values[n : n + 1], hidden[n], **options) for n in range(len(values))]
    unseen = [np.zeros(found.shape[1:], bool) if flags is None else flags for found, flags in each]
    return np.concatenate([found for found, _ in each]), np.stack(unseen)


def _by_points(wanted: _Wanted) -> _Values:
    """Of a file placed by control points or rational polynomials: as GDAL warps it."""
    pixels = _dtype(wanted)
    values, seen = gdal.warped_file(
        wanted.handle, wanted.grid, bands=wanted.bands, nodata=wanted.nodata, resampling=wanted.resampling
    )
    hidden: Flags = ~seen
    if pixels.kind in "fc":
        hidden = hidden | np.isnan(values)
    return values, hidden
