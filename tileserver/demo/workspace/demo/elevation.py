import fused
import numpy as np
from grid import located, read

AREA = [-84.4137, 36.4463, -84.0780, 36.7329]


@fused.udf
def udf(bounds: fused.types.Bounds = None, size: int = 256):
    """Elevation of Jacksboro, Tennessee

    Metres above the sea, as numbers: `elevation.tiff` is data, and a map shows them by the style `terrain`.
    """
    west, south, east, north = bounds or AREA
    if west > AREA[2] or east < AREA[0] or south > AREA[3] or north < AREA[1]:
        return None  # nothing here: a transparent tile
    image = read("data/jacksboro_dem.tif", [west, south, east, north], size)
    return located(image.array.astype("float32").filled(np.nan), image)
