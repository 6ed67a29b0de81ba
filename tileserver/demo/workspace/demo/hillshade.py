import fused
import numpy as np
from rio_tiler.colormap import cmap

from tileserver import raster

AREA = [-84.4137, 36.4463, -84.0780, 36.7329]
# Metres that get the first and the last colour, in every tile the same. The lowest place here is at
# 236 m, but colormaps of land begin with the sea.
LOWEST, HIGHEST = -200, 1150


@fused.udf
def udf(
    bounds: fused.types.Bounds = None,
    azimuth: float = 315,
    altitude: float = 45,
    colormap: str = "gist_earth",
    size: int = 256,
):
    """Shaded relief of Jacksboro, Tennessee

    Computed from a digital elevation model. The light comes from `azimuth` (degrees from north,
    clockwise) and stands `altitude` degrees over the horizon; `colormap` colours the elevation.
    """
    west, south, east, north = bounds or AREA
    if west > AREA[2] or east < AREA[0] or south > AREA[3] or north < AREA[1]:
        return None  # nothing here: a transparent tile

    # One pixel more on each side, so that slopes at the edge of a tile continue in the next one.
    dem = raster.read("data/jacksboro_dem.tif", bounds or AREA, size, resampling="cubic", buffer=1)
    elevation = dem.array[0].astype("float32").filled(np.nan)
    shade = hillshade(elevation, dem.pixel_size, azimuth, altitude)

    known = np.isfinite(shade)
    colors = np.array([cmap.get(colormap)[index] for index in range(256)])
    height = np.where(known, (elevation - LOWEST) / (HIGHEST - LOWEST), 0).clip(0, 1)
    rgba = colors[(height * 255).astype(int)] * np.where(known, shade, 0)[..., None]
    rgba[..., 3] = known * 255
    return dem.with_array(rgba.clip(0, 255).astype("uint8").transpose(2, 0, 1)).cropped(1)


def hillshade(elevation: np.ndarray, pixel: float, azimuth: float, altitude: float) -> np.ndarray:
    """How bright each pixel is: 1 on level ground, more where it faces the light, less where it doesn't."""
    down, right = np.gradient(elevation, pixel)
    direction, height = np.radians(azimuth), np.radians(altitude)
    # The surface's normal is (-right, down, 1) in east, north, up; the light's direction likewise.
    light = np.sin(direction) * np.cos(height), np.cos(direction) * np.cos(height), np.sin(height)
    cosine = (-right * light[0] + down * light[1] + light[2]) / np.sqrt(1 + right**2 + down**2)
    return 0.3 + 0.7 * np.clip(cosine, 0, None) / max(light[2], 0.1)
