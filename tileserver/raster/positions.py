"""Where in a raster file each pixel of a web Mercator grid lies, exactly or as good as exactly.

Systems whose rows depend on y alone and columns on x alone are computed per row and per column. Any other is
projected at Chebyshev nodes and interpolated by the polynomial through them; what that misses at points
between is measured, and a grid on which it is over a ten-thousandth of a pixel is projected pixel by pixel.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from tileserver.tiles import Bounds

MERCATOR: Final = "EPSG:3857"
LONLAT: Final = "EPSG:4326"
RADIUS: Final = 6378137.0
CIRCUMFERENCE: Final = 2 * math.pi * RADIUS

_DEGREES: Final = (8, 20)  # nodes along each axis: nearly always, and before giving up
# Of a pixel, the raster's or the grid's, whichever is smaller: 0.02 % of nearest pixels are then a neighbour.
_TOLERANCE: Final = 1e-4
_SINGLE: Final = 1 << 17  # multiplications; OpenBLAS takes a second thread from 2^18
_TIE: Final = 1e-6
_CHECKED: Final = 9  # points along each axis, edges included, at which the polynomial is compared

Coordinates = NDArray[np.float64]


class Grid(NamedTuple):
    """A grid of square-ish pixels in web Mercator: bounds in metres, north up."""

    bounds: Bounds
    width: int
    height: int

    def at(self, columns: Coordinates, rows: Coordinates) -> tuple[Coordinates, Coordinates]:
        """Metres of positions counted in pixels from the upper left corner."""
        west, south, east, north = self.bounds
        return (
            west + columns * ((east - west) / self.width),
            north - rows * ((north - south) / self.height),
        )

    def part(self, columns: slice, rows: slice) -> Grid:
        """The pixels of these columns and rows."""
        (west, east), (north, south) = self.at(
            np.array([columns.start, columns.stop], float), np.array([rows.start, rows.stop], float)
        )
        bounds = (float(west), float(south), float(east), float(north))
        return Grid(bounds, columns.stop - columns.start, rows.stop - rows.start)


@dataclass(frozen=True)
class Source:
    """Where a raster lies: its CRS as text, the transform from its pixels to that, and its size."""

    crs: str
    transform: Affine
    width: int
    height: int

    @functools.cached_property
    def system(self) -> str:
        """``EPSG:4326`` or ``EPSG:3857`` for any spelling of them, else the text itself."""
        return simple(self.crs)

    @functools.cached_property
    def period(self) -> float | None:
        """Pixels of one turn around the Earth to the east, where columns repeat; None where they don't. Below
        zero where the raster is mirrored."""
        turn = CIRCUMFERENCE if self.system == MERCATOR else 360.0 if is_geographic(self.system) else None
        straight = self.transform.b == 0 == self.transform.d
        return turn / self.transform.a if turn is not None and straight else None

    @functools.cached_property
    def separable(self) -> bool:
        """Whether columns depend on x alone and rows on y alone."""
        return self.period is not None and self.system in (LONLAT, MERCATOR)

    @functools.cached_property
    def area(self) -> Bounds | None:
        """The raster's extent in web Mercator metres, its east beyond the antimeridian where it crosses that.

        None where it can't be told: then it may be anywhere.
        """
        return _area(self)


class Positions(NamedTuple):
    """Columns and rows of a raster, in its pixels and not yet rounded, of each pixel centre of a grid.

    Both (height, width), or (1, width) and (height, 1). Not finite where a pixel has no place in the raster's
    system. ``step`` is how many of the raster's pixels one of the grid's takes, along an axis.

    A place that falls between two pixels, as it does where grids align at half a pixel, is moved to the right
    and down by so little that only rounding is: else that would decide for each pixel anew.
    """

    columns: Coordinates
    rows: Coordinates
    step: float


def positions(source: Source, grid: Grid) -> Positions:
    """Where the grid's pixel centres lie in the raster, as far around the Earth as the grid itself does."""
    x = np.arange(grid.width, dtype=np.float64) + 0.5
    y = np.arange(grid.height, dtype=np.float64) + 0.5
    if source.separable:
        step = _separable_step(source, grid)
        columns, rows = _located(source, *grid.at(x[None, :], y[:, None]))
    else:
        known = _Check.of(source, grid)
        step = known.step()
        for degree in _DEGREES:
            found = known.polynomial(degree, _TOLERANCE * min(1.0, step))
            if found is not None:
                columns, rows = found
                break
        else:
            columns, rows = _located(source, *np.broadcast_arrays(*grid.at(x[None, :], y[:, None])))
    columns += _TIE * min(1.0, step)
    rows += _TIE * min(1.0, step)
    return Positions(columns, rows, step)


class Part(NamedTuple):
    """Columns and rows of a grid that a raster can reach, in its ``turn`` around the Earth."""

    turn: int
    columns: slice
    rows: slice


def covered(source: Source, grid: Grid) -> list[Part]:
    """The parts of the grid that the raster can reach, one for each turn in which it lies there."""
    if source.area is None:
        return [Part(0, slice(0, grid.width), slice(0, grid.height))]
    west, south, east, north = source.area
    left, bottom, right, top = grid.bounds
    across, down = (right - left) / grid.width, (top - bottom) / grid.height
    rows = _within(top - north, top - south, down, grid.height)
    turns = range(math.ceil((left - east) / CIRCUMFERENCE), math.floor((right - west) / CIRCUMFERENCE) + 1)
    parts = [
        Part(turn, _within(west + moved - left, east + moved - left, across, grid.width), rows)
        for turn in turns
        for moved in (turn * CIRCUMFERENCE,)
    ]
    return [
        part for part in parts if part.columns.start < part.columns.stop and part.rows.start < part.rows.stop
    ]


def _within(low: float, high: float, pixel: float, count: int) -> slice:
    return slice(max(0, math.floor(low / pixel)), min(count, math.ceil(high / pixel)))


def mercator(longitude: Coordinates, latitude: Coordinates) -> tuple[Coordinates, Coordinates]:
    """Degrees to metres; latitudes beyond 89.9 degrees are drawn in, the map ends long before."""
    latitude = np.clip(latitude, -89.9, 89.9)
    return (
        np.radians(longitude) * RADIUS,
        np.arcsinh(np.tan(np.radians(latitude))) * RADIUS,
    )


def lonlat(x: Coordinates, y: Coordinates) -> tuple[Coordinates, Coordinates]:
    """Metres to degrees; longitudes go on beyond 180."""
    return np.degrees(x / RADIUS), np.degrees(np.arctan(np.sinh(y / RADIUS)))


@functools.lru_cache(maxsize=64)
def simple(crs: str) -> str:
    """``EPSG:4326`` and ``EPSG:3857`` for any spelling of them, else the text itself."""
    if crs in (LONLAT, MERCATOR):
        return crs
    from rasterio.crs import CRS

    code = CRS.from_user_input(crs).to_epsg()
    return f"EPSG:{code}" if code in (4326, 3857) else crs


@functools.lru_cache(maxsize=64)
def is_geographic(crs: str) -> bool:
    """Whether coordinates are longitudes and latitudes, in degrees."""
    from rasterio.crs import CRS

    return bool(CRS.from_user_input(crs).is_geographic)


@functools.lru_cache(maxsize=64)
def _transformer(origin: str, target: str) -> Any:
    from pyproj import Transformer

    return Transformer.from_crs(origin, target, always_xy=True)


def projected(crs: str, x: Coordinates, y: Coordinates) -> tuple[Coordinates, Coordinates]:
    """Web Mercator metres in another system; infinite where that has no place for them."""
    found: tuple[Coordinates, Coordinates] = _transformer(MERCATOR, crs).transform(x, y)
    return found


def _located(source: Source, x: Coordinates, y: Coordinates) -> tuple[Coordinates, Coordinates]:
    """Columns and rows of places in web Mercator, each exactly."""
    if source.system == LONLAT:
        x, y = lonlat(x, y)
    elif source.system != MERCATOR:
        there, y = projected(source.system, x, y)
        if source.period is not None:
            # As many turns as the place itself, so that no seam runs through a tile.
            here = np.degrees(x / RADIUS)
            there = there + 360.0 * np.rint((here - there) / 360.0)
        x = there
    back = ~source.transform
    if back.b == 0 == back.d:
        return x * back.a + back.c, y * back.e + back.f
    with np.errstate(invalid="ignore"):  # no times infinity
        return x * back.a + y * back.b + back.c, x * back.d + y * back.e + back.f


def _separable_step(source: Source, grid: Grid) -> float:
    west, south, east, north = grid.bounds
    columns, rows = _located(source, np.array([west, east]), np.array([north, south]))
    return math.sqrt(abs((columns[1] - columns[0]) * (rows[1] - rows[0])) / (grid.width * grid.height))


class _Check(NamedTuple):
    """Exact positions at points all over a grid: what a polynomial is measured by."""

    source: Source
    grid: Grid
    known: tuple[Coordinates, Coordinates]  # columns and rows

    @classmethod
    def of(cls, source: Source, grid: Grid) -> _Check:
        return cls(source, grid, _exact(source, grid, np.linspace(0.0, 1.0, _CHECKED)))

    def step(self) -> float:
        """The median over the grid; 1 where the system has no places."""
        across, down = (_CHECKED - 1) / self.grid.width, (_CHECKED - 1) / self.grid.height
        with np.errstate(invalid="ignore"):
            (cx, rx), (cy, ry) = (
                [np.diff(values, axis=axis)[: _CHECKED - 1, : _CHECKED - 1] for values in self.known]
                for axis in (1, 0)
            )
            areas = np.abs(cx * ry - cy * rx) * across * down
        ordered = sorted(areas[np.isfinite(areas)].tolist())
        return math.sqrt(ordered[len(ordered) // 2]) if ordered else 1.0

    def polynomial(self, degree: int, bound: float) -> tuple[Coordinates, Coordinates] | None:
        """Columns and rows by polynomials, or None when those of this degree miss by more than a bound."""
        nodes = _nodes(degree)
        values = _exact(self.source, self.grid, nodes)
        between = _checked_weights(degree)
        for known, through in zip(self.known, values, strict=True):
            with np.errstate(invalid="ignore"):
                missed = np.abs(between @ through @ between.T - known).max()
            if not missed <= bound:  # or is no number
                return None
        across, down = _pixel_weights(degree, self.grid.width), _pixel_weights(degree, self.grid.height)
        columns, rows = (_product(down, through @ across.T) for through in values)
        return columns, rows


def _product(left: Coordinates, right: Coordinates) -> Coordinates:
    """A matrix product in pieces so small that no thread is woken for them, which waits when others run."""
    result = np.empty((len(left), right.shape[1]))
    at_once = max(1, _SINGLE // right.size)
    for first in range(0, len(left), at_once):
        some = slice(first, first + at_once)
        np.matmul(left[some], right, out=result[some])
    return result


def _exact(source: Source, grid: Grid, along: Coordinates) -> tuple[Coordinates, Coordinates]:
    x, y = np.meshgrid(along * grid.width, along * grid.height)
    return _located(source, *grid.at(x, y))


@functools.lru_cache(maxsize=8)
def _nodes(degree: int) -> Coordinates:
    """Chebyshev nodes of the first kind from 0 to 1."""
    result: Coordinates = 0.5 - 0.5 * np.cos((2 * np.arange(degree) + 1) * np.pi / (2 * degree))
    return result


def _weights(degree: int, along: Coordinates) -> Coordinates:
    """What each node's value counts for at each place (places, nodes): the barycentric formula."""
    order = np.arange(degree)
    signed = (-1.0) ** order * np.sin((2 * order + 1) * np.pi / (2 * degree))
    distance = along[:, None] - _nodes(degree)
    exact = np.abs(distance) < 1e-14
    parts = signed / np.where(exact, 1.0, distance)
    met = exact.any(axis=1)
    if met.any():
        parts[met] = exact[met]
    result: Coordinates = parts / parts.sum(axis=1, keepdims=True)
    return result


@functools.lru_cache(maxsize=8)
def _checked_weights(degree: int) -> Coordinates:
    return _weights(degree, np.linspace(0.0, 1.0, _CHECKED))


@functools.lru_cache(maxsize=16)
def _pixel_weights(degree: int, count: int) -> Coordinates:
    """At the centres of so many pixels."""
    return _weights(degree, (np.arange(count) + 0.5) / count)


def _area(source: Source) -> Bounds | None:
    edge = np.linspace(0.0, 1.0, 33)
    one, zero = np.ones_like(edge), np.zeros_like(edge)
    # Once around: the sides of the raster, one after the other.
    around = np.concatenate([edge, one, edge[::-1], zero]), np.concatenate([zero, edge, one, edge[::-1]])
    a, b, c, d, e, f = source.transform[:6]
    across, down = around[0] * source.width, around[1] * source.height
    x, y = a * across + b * down + c, d * across + e * down + f
    if source.system == MERCATOR:
        return (float(x.min()), float(y.min()), float(x.max()), float(y.max()))
    longitude, latitude = (
        (x, y) if source.system == LONLAT else _transformer(source.system, LONLAT).transform(x, y)
    )
    if not (np.isfinite(longitude).all() and np.isfinite(latitude).all()):
        return None
    if source.period is None:
        longitude = np.unwrap(longitude, period=360.0)
        if abs(longitude[-1] - longitude[0]) > 180.0:
            return None  # once around a pole
    elif source.system != LONLAT:
        longitude = x  # a datum moves it by less than what is added below
    west, east = float(longitude.min()), float(longitude.max())
    south, north = float(latitude.min()), float(latitude.max())
    if source.system != LONLAT:
        # What an edge does between two of its points, generously.
        more_x, more_y = 0.01 * (east - west) + 0.01, 0.01 * (north - south) + 0.01
        west, south, east, north = west - more_x, south - more_y, east + more_x, north + more_y
    if not (-1000 < west < east < 1000 and south < north):
        return None
    (left, right), (bottom, top) = mercator(np.array([west, east]), np.array([south, north]))
    return (float(left), float(bottom), float(right), float(top))
