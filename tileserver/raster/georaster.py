"""An array with its place, which the server draws as it is, and what a function may say an area by."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import mercantile
import numpy as np
from affine import Affine
from numpy.typing import NDArray

from tileserver import tiles
from tileserver.raster.positions import RADIUS, Grid, mercator
from tileserver.tiles import Bounds


@dataclass(frozen=True, slots=True)
class Georaster:
    """Bands on a web Mercator grid.

    ``array`` is a ``numpy.ma.MaskedArray`` (bands, height, width) in the dtype of the file, masked where
    there is no data; ``bounds`` are west, south, east, north in metres of ``crs``, the outer edges of its
    pixels; the first row is the northern one. Returned from a UDF it is drawn where it lies, in its tile
    without another warp.
    """

    array: NDArray[Any]
    bounds: Bounds
    crs: str = "EPSG:3857"

    @property
    def transform(self) -> Affine:
        """From columns and rows to metres, as rasterio has it."""
        west, south, east, north = self.bounds
        height, width = self.array.shape[-2:]
        return Affine((east - west) / width, 0.0, west, 0.0, (south - north) / height, north)

    @property
    def pixel_size(self) -> float:
        """Metres on the ground from one pixel to the next, in the middle of the raster: web Mercator's own
        are longer, the more so towards the poles."""
        west, south, east, north = self.bounds
        stretched = math.cosh((south + north) / 2 / RADIUS)
        return (east - west) / int(self.array.shape[-1]) / stretched

    def with_array(self, array: NDArray[Any]) -> Georaster:
        """Another array in the same place: (height, width) or (bands, height, width), any dtype.

        :raises ValueError: when its height or width is another.
        """
        if array.shape[-2:] != self.array.shape[-2:] or array.ndim not in {2, 3}:
            raise ValueError(
                f"an array of shape {array.shape} doesn't fit where one of {self.array.shape} was; "
                "its last two axes are height and width"
            )
        return replace(self, array=array)

    def cropped(self, pixels: int) -> Georaster:
        """Without the outermost pixels of every side: what ``buffer`` of ``read`` has added."""
        height, width = self.array.shape[-2:]
        columns, rows = slice(pixels, width - pixels), slice(pixels, height - pixels)
        part = Grid(self.bounds, width, height).part(columns, rows)
        return Georaster(self.array[..., rows, columns], part.bounds, self.crs)


def grid(area: Any, size: int | tuple[int, int], buffer: int) -> Grid:
    """The web Mercator grid of an area (see ``reading.read``).

    :raises ValueError: for what is no area, and for one without extent.
    """
    west, south, east, north = _metres(area)
    if not (math.isfinite(west + south + east + north) and west < east and south < north):
        raise ValueError(f"the area {area!r} has no extent in web Mercator")
    if isinstance(size, int | np.integer):
        width = operator.index(size)
        height = max(1, round(width * (north - south) / (east - west)))
    else:
        try:
            width, height = (operator.index(one) for one in size)
        except (TypeError, ValueError):
            raise ValueError(f"size is a width in pixels, or (width, height), not {size!r}") from None
    if width < 1 or height < 1 or buffer < 0:
        raise ValueError(f"size is one or more pixels, not {size!r}, and buffer none or more, not {buffer!r}")
    found = Grid((west, south, east, north), width, height)
    if buffer == 0:
        return found
    return found.part(slice(-buffer, width + buffer), slice(-buffer, height + buffer))


def _metres(area: Any) -> Bounds:
    tile = _tile(area)
    if tile is not None:
        return tiles.mercator_bounds(tile)
    west, south, east, north = _degrees(area)
    if west > east:  # over the antimeridian
        east += 360.0
    limit = tiles.MAX_LATITUDE
    (left, right), (bottom, top) = mercator(
        np.array([west, east]), np.clip(np.array([south, north]), -limit, limit)
    )
    return (float(left), float(bottom), float(right), float(top))


def _tile(area: Any) -> mercantile.Tile | None:
    """A ``mercantile.Tile``, three numbers x, y, z, or a frame of one row that has them as columns."""
    columns = getattr(area, "columns", ())
    if {"x", "y", "z"} <= set(columns) and len(area) == 1:
        area = [area[name].iloc[0] for name in ("x", "y", "z")]
    if isinstance(area, Sequence) and not isinstance(area, str) and len(area) == 3:
        x, y, z = (int(one) for one in area)
        return tiles.valid_tile(z, x, y)
    return None


def _degrees(area: Any) -> Sequence[float]:
    if hasattr(area, "total_bounds"):  # GeoDataFrame, GeoSeries
        area = (area if area.crs is None else area.to_crs(4326)).total_bounds
    elif hasattr(area, "geom_type"):  # shapely
        area = area.bounds
    try:
        found = [float(one) for one in area]
    except (TypeError, ValueError):
        found = []
    if len(found) != 4:
        raise ValueError(
            "an area is bounds [west, south, east, north] in degrees, a tile (x, y, z), a shapely geometry or"
            f" a GeoDataFrame, not {area!r}"
        )
    return found
