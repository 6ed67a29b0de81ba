"""Tile addresses of the web Mercator quad (OGC ``WebMercatorQuad``): validity and bounds.

Rows count from the north, as in XYZ URLs. Bounds are (west, south, east, north) in degrees unless a
name says otherwise.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import mercantile
from mercantile import Tile

from tileserver.errors import InvalidTile

Bounds = tuple[float, float, float, float]

MAX_ZOOM = 30
MAX_LATITUDE = 85.051129
WORLD: Bounds = (-180.0, -MAX_LATITUDE, 180.0, MAX_LATITUDE)

_NUMBER = re.compile(r"[0-9]{1,10}", re.ASCII)
_LAST = re.compile(r"(?P<y>[^@.]*)(?:@(?P<scale>[1-4])x)?(?:\.(?P<extension>[A-Za-z0-9.]+))?", re.ASCII)


class TileAddress(NamedTuple):
    """What ``{z}/{x}/{y}[@2x][.ext]`` says."""

    tile: Tile
    scale: int
    extension: str | None


def parse(z: str, x: str, last: str) -> TileAddress:
    """Read the three path segments of a tile.

    :raises InvalidTile: when they are no tile of the matrix; the message names the valid range.
    """
    match = _LAST.fullmatch(last)
    if match is None:
        raise InvalidTile(f"tile row {last[:40]!r} is not of the form y, y@2x or y.png")
    tile = valid_tile(z, x, match["y"])
    return TileAddress(tile, int(match["scale"] or 1), match["extension"])


def valid_tile(z: str | int, x: str | int, y: str | int) -> Tile:
    """The tile at (z, x, y).

    :raises InvalidTile: when a number is malformed or outside the matrix.
    """
    for name, text in (("z", str(z)), ("x", str(x)), ("y", str(y))):
        if not _NUMBER.fullmatch(text):
            raise InvalidTile(f"{name} of a tile is a whole number from 0, not {text[:40]!r}")
    zoom, column, row = int(z), int(x), int(y)
    if zoom > MAX_ZOOM:
        raise InvalidTile(f"zoom {zoom} is outside 0 to {MAX_ZOOM}")
    last = 2**zoom - 1
    if column > last or row > last:
        raise InvalidTile(f"tile {zoom}/{column}/{row} is outside the matrix: x and y go from 0 to {last}")
    return Tile(x=column, y=row, z=zoom)


def bounds(tile: Tile) -> Bounds:
    """West, south, east, north of a tile in degrees (EPSG:4326)."""
    box = mercantile.bounds(tile)
    return (box.west, box.south, box.east, box.north)


def mercator_bounds(tile: Tile) -> Bounds:
    """Left, bottom, right, top of a tile in metres (EPSG:3857)."""
    box = mercantile.xy_bounds(tile)
    return (box.left, box.bottom, box.right, box.top)


def clipped(box: Bounds) -> Bounds | None:
    """What of the bounds lies in the world of the tiles."""
    west, south, east, north = box
    inside = (max(west, WORLD[0]), max(south, WORLD[1]), min(east, WORLD[2]), min(north, WORLD[3]))
    return inside if inside[0] <= inside[2] and inside[1] <= inside[3] else None


def reaching(box: Bounds) -> Bounds:
    """The bounds of features, 0.1 m beyond a border of tiles that they end at in the east or south: what lies
    on it is of the tile behind it, and who asks for the tiles within the bounds asks for that one, too."""
    west, south, east, north = box
    if _is_border((east + 180) / 360):
        east = min(east + 1e-6, WORLD[2])
    if _is_border(mercantile.xy(0, south)[1] / mercantile.CE):
        south = max(south - 1e-6, WORLD[1])
    return (west, south, east, north)


def _is_border(fraction: float) -> bool:
    """Whether tiles of any zoom end there, on the way along a side of the world."""
    steps = fraction * 2**MAX_ZOOM
    return bool(abs(steps - round(steps)) < 1e-6)


def sample_tile(box: Bounds | None, minzoom: int = 0) -> Tile:
    """The tile that shows most of a layer: where the bounds are known, the one that holds them, or their
    middle at the layer's first zoom; else the whole world."""
    inside = None if box is None else clipped(box)
    if inside is None:
        return Tile(x=0, y=0, z=0)
    found = bounding_tile(inside)
    if found.z >= minzoom:
        return found
    return mercantile.tile((inside[0] + inside[2]) / 2, (inside[1] + inside[3]) / 2, minzoom)


def bounding_tile(box: Bounds) -> Tile:
    """The smallest tile that holds the bounds."""
    west, south, east, north = box
    return mercantile.bounding_tile(west, south, east, north)


def block(tile: Tile, side: int) -> tuple[Tile, tuple[Tile, ...]]:
    """The block of ``side`` x ``side`` tiles of one zoom that a tile lies in: the tile of a lower zoom that
    covers the same ground, and the block's tiles row by row from the north-west.

    :param side: a power of two, no more than there are tiles along the matrix (2 ** zoom).
    """
    levels = side.bit_length() - 1
    whole = Tile(x=tile.x >> levels, y=tile.y >> levels, z=tile.z - levels)
    left, top = whole.x << levels, whole.y << levels
    parts = (Tile(x=left + n % side, y=top + n // side, z=tile.z) for n in range(side * side))
    return whole, tuple(parts)


def fit_zoom(box: Bounds, *, width: int = 512, height: int = 512) -> int:
    """The largest zoom at which the bounds fit into ``width`` x ``height`` pixels of 512 px tiles."""
    west, south, east, north = box
    x0, y0 = mercantile.xy(west, max(south, -MAX_LATITUDE))
    x1, y1 = mercantile.xy(east, min(north, MAX_LATITUDE))
    circumference = 2 * 20037508.342789244
    span = max((x1 - x0) / width, (y1 - y0) / height) * 512 / circumference
    if span <= 0:
        return MAX_ZOOM
    return max(0, min(MAX_ZOOM, math.floor(-math.log2(span))))
