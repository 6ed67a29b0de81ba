"""The units of a tile, and where a tile lies in the coordinates that data comes in.

Units count from the north-west corner, y downwards (specification 4.3.1). Mercator is EPSG:3857; its
poles lie nowhere.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
from mercantile import Tile
from numpy.typing import NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

Coordinates = NDArray[np.float64]
Box = tuple[float, float, float, float]

_WORLD: Final = 2 * math.pi * 6378137.0  # metres along a side of the tile matrix
_SAMPLES: Final = 33  # along a side of the tile


class Grid(NamedTuple):
    """The units of a tile: ``extent`` along a side, and ``buffer`` of them kept around it."""

    tile: Tile
    extent: int
    buffer: int

    @property
    def box(self) -> Box:
        return (-self.buffer, -self.buffer, self.extent + self.buffer, self.extent + self.buffer)

    def from_metres(self, xy: Coordinates) -> Coordinates:
        """Tile units of EPSG:3857."""
        x, y = xy[:, 0] / _WORLD, xy[:, 1] / -_WORLD
        x += 0.5
        y += 0.5
        return self._from_world(x, y)

    def from_degrees(self, xy: Coordinates) -> Coordinates:
        """Tile units of EPSG:4326, for latitudes short of the poles."""
        north = np.arcsinh(np.tan(np.radians(xy[:, 1])))
        return self._from_world(0.5 + xy[:, 0] / 360, 0.5 - north / (2 * math.pi))

    def _from_world(self, x: Coordinates, y: Coordinates) -> Coordinates:
        units = np.empty((len(x), 2))
        units[:, 0] = self._units(x, self.tile.x)
        units[:, 1] = self._units(y, self.tile.y)
        return units

    def _units(self, world: Coordinates, index: int) -> Coordinates:
        """Of places along a side of the matrix, 0 to 1; in place, as new memory costs more than sums."""
        world *= 2.0**self.tile.z
        world -= index
        world *= self.extent
        return world

    def window(self, *, metres: bool) -> Box:
        """The buffered tile and a unit more, in EPSG:3857 or 4326: for rounding is not the same both ways."""
        west, north, east, south = (
            (edge / self.extent + index) / 2.0**self.tile.z - 0.5
            for edge, index in zip(self._wide, (self.tile.x, self.tile.y) * 2, strict=True)
        )
        if metres:
            return (west * _WORLD, -south * _WORLD, east * _WORLD, -north * _WORLD)
        return (west * 360, _latitude(south), east * 360, _latitude(north))

    def world(self, *, metres: bool) -> tuple[float, float]:
        """Once around the earth and a unit of the tile, in EPSG:3857 or 4326."""
        around = _WORLD if metres else 360.0
        return around, around / 2.0**self.tile.z / self.extent

    @property
    def _wide(self) -> Box:
        west, north, east, south = self.box
        return (west - 1, north - 1, east + 1, south + 1)

    def window_in(self, crs: CRS, degrees: CRS) -> Box | None:
        """A box that holds the buffered tile in another CRS; None where the tile has no such box.

        The tile is sampled all over; between two neighbours the box is trusted to stray by no more than the
        largest step there is, so that a cut through the tile makes the box enormous instead of wrong.
        """
        west, south, east, north = self.window(metres=False)
        lon, lat = np.meshgrid(np.linspace(west, east, _SAMPLES), np.linspace(south, north, _SAMPLES))
        try:
            change = Transformer.from_crs(degrees, crs, always_xy=True)
            x, y = change.transform(lon, lat)
        except ProjError:
            return None
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            return None
        x_step, y_step = (
            max(np.abs(np.diff(values, axis=axis)).max() for axis in (0, 1)) for values in (x, y)
        )
        return (
            float(x.min() - x_step),
            float(y.min() - y_step),
            float(x.max() + x_step),
            float(y.max() + y_step),
        )


def _latitude(world: float) -> float:
    """Of a place in the tile matrix, 0 at the equator and half a side at its edges, southwards."""
    return math.degrees(math.atan(math.sinh(-2 * math.pi * world)))
