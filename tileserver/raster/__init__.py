"""Raster files for functions that make map tiles: ``read`` gives the part in an area, on the map's own grid.

Files stay open from one run to the next, the overview that fits is read, and nothing is warped that lies
right already. Works anywhere, not in a server's workers only; never in the web process.
"""

from __future__ import annotations

from tileserver.raster.georaster import Georaster as Georaster
from tileserver.raster.reading import read as read

__all__ = ["Georaster", "read"]
