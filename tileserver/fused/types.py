"""Annotations that say in which form a UDF wants an area; ``worker.arguments`` makes the values. The errors
of runs elsewhere, by the names that the client of Fused has for them.

All areas are in degrees, EPSG:4326. Each accepts a list of west, south, east, north, or a GeoJSON
FeatureCollection; in a tile run it receives the tile.
"""

from __future__ import annotations

from typing import Final, NoReturn


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


class UdfRuntimeError(RuntimeError):
    """A UDF that ran elsewhere has failed; ``child_exception_class`` names what it raised."""

    def __init__(self, *args: object, child_exception_class: str | None = None) -> None:
        super().__init__(*args)
        self.child_exception_class = child_exception_class


class UdfTimeoutError(RuntimeError):
    """A UDF that ran elsewhere took too long."""


class UdfSerializationError(Exception):
    """What a UDF elsewhere returned has no form in which it could come back."""


class UdfSelfRecursionError(Exception):
    """A UDF submits itself."""


class JobPoolTailTimeoutError(TimeoutError):
    """``tail`` of a pool of runs took longer than it was given; the pool is cancelled."""

    def __init__(self, message: str, *, timeout: float, not_succeeded_args: list[object]) -> None:
        super().__init__(message)
        self.timeout = timeout
        self.not_succeeded_args = not_succeeded_args


_PROVIDED: Final = sorted(name for name, value in globals().items() if isinstance(value, type))


def __getattr__(name: str) -> NoReturn:
    if name.startswith("__"):
        raise AttributeError(name)
    raise AttributeError(
        f"fused.types.{name} is not provided by tileserver; provided: {', '.join(_PROVIDED)}"
    )
