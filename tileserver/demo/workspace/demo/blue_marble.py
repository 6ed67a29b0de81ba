import fused
from grid import located, read

WORLD = [-180, -85.0511, 180, 85.0511]


@fused.udf
def udf(bounds: fused.types.Bounds = None, size: int = 256):
    """The Earth from space

    NASA's Blue Marble, read from a Cloud Optimized GeoTIFF. A map asks for one tile after another and
    gives its bounds; without bounds it is the whole Earth. `size` is the width in pixels.
    """
    image = read("data/blue_marble.tif", bounds or WORLD, size)
    return located(image.data, image)
