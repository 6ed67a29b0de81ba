import fused

from tileserver import raster

AREA = [-84.4137, 36.4463, -84.0780, 36.7329]


@fused.udf
def udf(bounds: fused.types.Bounds = None, size: int = 256):
    """Elevation of Jacksboro, Tennessee

    Metres above the sea, as numbers: `elevation.tiff` is data, and a map shows them by a style of the canvas,
    `hills`.
    """
    return raster.read("data/jacksboro_dem.tif", bounds or AREA, size, resampling="bilinear")
