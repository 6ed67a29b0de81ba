"""Where a pixel lies: georeferenced rasters on a tile's own grid, and arrays at another size.

The work is that of ``tileserver.raster``, which does the same with files. Longitudes repeat every 360
degrees, so 0..360 data and dateline crossings are whole.
"""

from __future__ import annotations

import numpy as np
from mercantile import Tile

from tileserver import tiles
from tileserver.raster import gdal, sampling
from tileserver.raster.gdal import north_up as north_up
from tileserver.raster.placing import InMemory, Values, placed
from tileserver.raster.positions import LONLAT as LONLAT
from tileserver.raster.positions import MERCATOR as MERCATOR
from tileserver.raster.positions import Grid, Source, lonlat
from tileserver.raster.positions import mercator as mercator
from tileserver.render.classify import Classified
from tileserver.render.pixels import Raster
from tileserver.tiles import Bounds


def lonlat_bounds(bounds: Bounds, crs: str) -> Bounds:
    """West, south, east, north in degrees of bounds in another CRS, -180 to 180 over the antimeridian."""
    west, south, east, north = bounds
    if crs == MERCATOR:  # what a tile is made of: GDAL would take longer for its bounds than for its pixels
        (west, east), (south, north) = lonlat(np.array([west, east]), np.array([south, north]))
        west, south, east, north = float(west), float(south), float(east), float(north)
    elif crs != LONLAT:
        from rasterio.warp import transform_bounds

        west, south, east, north = transform_bounds(crs, LONLAT, *bounds)
    if west > east or west < -180 or east > 180:
        west, east = -180.0, 180.0
    return (west, south, east, north)


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
    height, width = data.bands.shape[1:]
    source = Source(crs, north_up(bounds, width, height), width, height)
    hidden = None if data.hidden is None else data.hidden[None]
    found = placed(
        source,
        Grid(tiles.mercator_bounds(tile), pixels, pixels),
        level=lambda step: InMemory(Values(data.bands, hidden)),
        bands=(len(data.bands), data.bands.dtype),
        resampling=resampling,
    )
    # All bands of the array hide the same pixels.
    return Raster(found.bands, None if found.hidden is None else found.hidden[0])


def resize(data: Raster, pixels: int, resampling: str) -> Raster:
    """The raster resampled to a square of ``pixels`` a side."""
    height, width = data.bands.shape[1:]
    if (height, width) == (pixels, pixels):
        return data
    if resampling == "nearest":
        steps = (np.arange(pixels) + 0.5) / pixels
        rows, columns = (steps * height)[:, None], (steps * width)[None, :]
        hidden = None if data.hidden is None else sampling.nearest(data.hidden, columns, rows)
        return Raster(sampling.nearest(data.bands, columns, rows), hidden)
    unit = (0.0, 0.0, float(pixels), float(pixels))
    bands, hidden = gdal.warped(
        data.bands,
        data.hidden,
        place=(north_up(unit, width, height), MERCATOR),
        target=(unit, MERCATOR),
        shape=(pixels, pixels),
        resampling=resampling,
    )
    return Raster(bands, hidden)
