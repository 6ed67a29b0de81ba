"""Annotations that say in which form a UDF wants an area; ``worker.arguments`` makes the values.

All areas are in degrees, EPSG:4326. Each accepts a list of west, south, east, north, or a GeoJSON
FeatureCollection; in a tile run it receives the tile.
"""

from __future__ import annotations


class Bounds(list[float]):
    """Receives a plain list ``[west, south, east, north]``."""


class Bbox:
    """Receives a shapely polygon, the box of the area."""


class TileXYZ:
    """Receives a ``mercantile.Tile``: the smallest tile that holds the area, or the given x, y and z."""


class TileGDF:
    """Receives a GeoDataFrame of one row with the columns x, y, z and geometry."""


class Tile:
    """The older name of ``TileGDF``."""


class ViewportGDF:
    """Receives a GeoDataFrame of one row; x, y and z are there only if they were given."""
