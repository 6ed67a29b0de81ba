"""A file without a UDF is a module: the UDFs beside it can import it."""


def padded(bounds: list[float]) -> list[float]:
    """Bounds made larger by 5 %: a symbol near the edge of one tile reaches into the next."""
    west, south, east, north = bounds
    x, y = 0.05 * (east - west), 0.05 * (north - south)
    return [west - x, south - y, east + x, north + y]
