"""Where a pixel lies: georeferenced rasters on a tile's own grid, and arrays at another size.

Nearest neighbour looks up each pixel's exact position, so no pixel is off by an approximation; the other
methods are GDAL's. Longitudes repeat every 360 degrees, so 0..360 data and dateline crossings are whole.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
from affine import Affine
from mercantile import Tile
from numpy.typing import NDArray

from tileserver import tiles
from tileserver.render.classify import Classified
from tileserver.render.pixels import Flags, Raster
from tileserver.tiles import Bounds

LONLAT = "EPSG:4326"
MERCATOR = "EPSG:3857"
_RADIUS = 6378137.0
_CIRCUMFERENCE = 2 * math.pi * _RADIUS

Index = NDArray[np.int64]
Coordinates = NDArray[np.float64]


def lonlat_bounds(bounds: Bounds, crs: str) -> Bounds:
    """West, south, east, north in degrees of bounds in another CRS, -180 to 180 over the antimeridian."""
    west, south, east, north = bounds
    if crs != LONLAT:
        from rasterio.warp import transform_bounds

        west, south, east, north = transform_bounds(crs, LONLAT, *bounds)
    if west > east or west < -180 or east > 180:
        west, east = -180.0, 180.0
    return (west, south, east, north)


def transform(bounds: Bounds, width: int, height: int) -> Affine:
    """The affine transform from pixels to coordinates, north up."""
    west, south, east, north = bounds
    return Affine((east - west) / width, 0.0, west, 0.0, (south - north) / height, north)


def covers_tile(found: Classified, tile: Tile) -> bool:
    """Whether the raster is already in the tile's grid: its bounds are the tile's to half a pixel.

    A pair ``(array, bounds)`` with the tile's own degrees counts: what a function computes for the
    bounds it was given is meant for that tile. An xarray object is where its coordinates say.
    """
    if found.bounds is None or found.crs is None:
        return False
    if isinstance(found.original, tuple | list):
        expected = tiles.bounds(tile)
    elif found.crs == MERCATOR:
        expected = tiles.mercator_bounds(tile)
    else:
        return False
    height, width = _size(found)
    half = ((found.bounds[2] - found.bounds[0]) / width / 2, (found.bounds[3] - found.bounds[1]) / height / 2)
    return all(
        abs(is_ - should) <= half[axis % 2]
        for axis, (is_, should) in enumerate(zip(found.bounds, expected, strict=True))
    )


def _size(found: Classified) -> tuple[int, int]:
    if isinstance(found.value, bytes):
        return (256, 256)
    height, width = found.value.shape[-2:]
    return max(1, height), max(1, width)


def to_tile(data: Raster, bounds: Bounds, crs: str, *, tile: Tile, pixels: int, resampling: str) -> Raster:
    """The raster on the tile's web Mercator grid, ``pixels`` a side; hidden where it doesn't reach.

    :param bounds: west, south, east, north of ``data`` in ``crs``.
    """
    target = tiles.mercator_bounds(tile)
    if resampling == "nearest":
        rows, columns = _positions(target, pixels, bounds, _simple(crs), data.bands.shape[1:])
        return _take(data, rows, columns)
    result = Raster(
        np.zeros((len(data.bands), pixels, pixels), data.bands.dtype), np.ones((pixels,) * 2, bool)
    )
    for shifted in _shifts(bounds, _simple(crs), target):
        result = _over(result, _warp(data, shifted, crs, target, MERCATOR, pixels, resampling))
    return result


def resize(data: Raster, pixels: int, resampling: str) -> Raster:
    """The raster resampled to a square of ``pixels`` a side."""
    height, width = data.bands.shape[1:]
    if (height, width) == (pixels, pixels):
        return data
    if resampling == "nearest":
        steps = (np.arange(pixels) + 0.5) / pixels
        return _take(data, (steps * height).astype(int)[:, None], (steps * width).astype(int)[None, :])
    unit = (0.0, 0.0, float(pixels), float(pixels))
    return _warp(data, unit, MERCATOR, unit, MERCATOR, pixels, resampling)


def mercator(longitude: Coordinates, latitude: Coordinates) -> tuple[Coordinates, Coordinates]:
    """Degrees to metres; latitudes beyond 89.9 degrees are drawn in, the map ends long before."""
    latitude = np.clip(latitude, -89.9, 89.9)
    return (
        np.radians(longitude) * _RADIUS,
        np.arcsinh(np.tan(np.radians(latitude))) * _RADIUS,
    )


def _latitude(y: Coordinates) -> Coordinates:
    result: Coordinates = np.degrees(np.arctan(np.sinh(y / _RADIUS)))
    return result


@functools.lru_cache(maxsize=64)
def _simple(crs: str) -> str:
    """``EPSG:4326`` and ``EPSG:3857`` for any spelling of them, else the text itself."""
    if crs in (LONLAT, MERCATOR):
        return crs
    from rasterio.crs import CRS

    code = CRS.from_user_input(crs).to_epsg()
    return f"EPSG:{code}" if code in (4326, 3857) else crs


def _positions(
    target: Bounds, pixels: int, bounds: Bounds, crs: str, shape: tuple[int, ...]
) -> tuple[Index, Index]:
    """Source row and column of each pixel centre of the target, -1 where it is outside.

    In both simple systems rows depend on y alone and columns on x alone: (n, 1) and (1, n) are enough.
    """
    centres = (np.arange(pixels) + 0.5) / pixels
    x: Coordinates = target[0] + centres * (target[2] - target[0])
    y: Coordinates = target[3] - centres * (target[3] - target[1])
    period = None
    if crs == LONLAT:
        x, y, period = np.degrees(x / _RADIUS), _latitude(y), 360.0
    elif crs == MERCATOR:
        period = _CIRCUMFERENCE
    x, y = x[None, :], y[:, None]
    if period is None:
        x, y = _transformed(crs, *np.broadcast_arrays(x, y))
    west, south, east, north = bounds
    along = x - west if period is None else np.mod(x - west, period)
    return (
        _index((north - y) / (north - south), shape[0]),
        _index(along / (east - west), shape[1]),
    )


def _transformed(crs: str, x: Coordinates, y: Coordinates) -> tuple[Coordinates, Coordinates]:
    from pyproj import Transformer

    result: tuple[Coordinates, Coordinates] = Transformer.from_crs(MERCATOR, crs, always_xy=True).transform(
        x, y
    )
    return result


def _index(fraction: Coordinates, count: int) -> Index:
    inside = (fraction >= 0) & (fraction < 1)
    position = np.where(inside, fraction, 0.0) * count
    return np.where(inside, np.minimum(position.astype(np.int64), count - 1), -1)


def _take(data: Raster, rows: Index, columns: Index) -> Raster:
    outside: Flags = (rows < 0) | (columns < 0)
    bands = data.bands[:, rows, columns]
    hidden = outside if data.hidden is None else data.hidden[rows, columns] | outside
    return Raster(bands, hidden if hidden.any() else None)


def _shifts(bounds: Bounds, crs: str, target: Bounds) -> list[Bounds]:
    """The bounds moved by whole turns, wherever they then meet the target."""
    period = {LONLAT: 360.0, MERCATOR: _CIRCUMFERENCE}.get(crs)
    if period is None:
        return [bounds]
    west, south, east, north = bounds
    scale = period / _CIRCUMFERENCE
    low, high = target[0] * scale, target[2] * scale
    first, last = math.ceil((low - east) / period), math.floor((high - west) / period)
    return [(west + n * period, south, east + n * period, north) for n in range(first, last + 1)]


def _over(below: Raster, above: Raster) -> Raster:
    if above.hidden is None or below.hidden is None:
        return above if above.hidden is None else below
    return Raster(np.where(above.hidden, below.bands, above.bands), below.hidden & above.hidden)


def _warp(
    data: Raster, bounds: Bounds, crs: str, target: Bounds, target_crs: str, pixels: int, resampling: str
) -> Raster:
    """GDAL's resampling, with what is visible as an alpha band, so that hidden values never bleed."""
    from rasterio.enums import Resampling
    from rasterio.warp import reproject

    kind = data.bands.dtype
    work = (
        np.dtype(np.uint8) if kind == np.uint8 else np.dtype(np.float64 if kind.itemsize > 2 else np.float32)
    )
    count, height, width = data.bands.shape
    source = np.full((count + 1, height, width), 255, work)
    source[:count] = data.bands
    if data.hidden is not None:
        source[:, data.hidden] = 0
    result = np.zeros((count + 1, pixels, pixels), work)
    reproject(
        source,
        result,
        src_transform=transform(bounds, width, height),
        src_crs=crs,
        dst_transform=transform(target, pixels, pixels),
        dst_crs=target_crs,
        resampling=Resampling[resampling],
        src_alpha=count + 1,
        dst_alpha=count + 1,
        tolerance=0.01,
        SRC_ALPHA_MAX=255,
        DST_ALPHA_MAX=255,
    )
    # Half covered counts as covered: a soft edge would be a second, invented alpha.
    hidden = result[count] < 127.5
    return Raster(_as_type(result[:count], kind), hidden if hidden.any() else None)


def _as_type(values: NDArray[Any], kind: np.dtype[Any]) -> NDArray[Any]:
    if kind == values.dtype or kind.kind == "f":
        return values.astype(kind, copy=False)
    if kind.kind == "b":
        return np.asarray(values >= 0.5)
    info = np.iinfo(kind)
    # Cubic methods overshoot; 64-bit limits aren't floats, hence the step below the upper one.
    high = np.nextafter(float(info.max), 0) if kind.itemsize == 8 else info.max
    result: NDArray[Any] = np.clip(np.rint(values), info.min, high).astype(kind)
    return result
