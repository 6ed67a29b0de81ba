import fused

from tileserver import raster

WORLD = [-180, -85.0511, 180, 85.0511]


@fused.udf
def udf(bounds: fused.types.Bounds = None, size: int = 256):
    """The Earth from space

    NASA's Blue Marble, read from a Cloud Optimized GeoTIFF. A map asks for one tile after another and
    gives its bounds; without bounds it is the whole Earth. `size` is the width in pixels.
    """
    return raster.read("data/blue_marble.tif", bounds or WORLD, size, resampling="cubic")
