"""Where pixels lie. A file without a UDF is a module: the UDFs beside it can import it."""

import warnings

import numpy as np
import xarray as xr
from rio_tiler.io import Reader
from rio_tiler.models import ImageData

TILE_CRS = "EPSG:3857"  # web Mercator, the grid of map tiles


def read(path: str, bounds: list[float], size: int, buffer: int = 0) -> ImageData:
    """Read the part of a raster file within ``bounds`` (degrees), ``size`` pixels wide.

    ``buffer`` adds pixels on every side, for filters that look at a pixel's neighbours. Of a Cloud
    Optimized GeoTIFF only the blocks and the overview that are needed are read.
    """
    with Reader(path) as file, warnings.catch_warnings():
        # A file that reaches the poles is cut where web Mercator ends, as it should be.
        warnings.filterwarnings("ignore", "Adjusting dataset latitudes")
        return file.part(
            tuple(bounds),
            bounds_crs="EPSG:4326",
            dst_crs=TILE_CRS,
            width=size,
            buffer=buffer,
            resampling_method="cubic",
            reproject_method="cubic",
        )


def located(bands: np.ndarray, image: ImageData, buffer: int = 0) -> xr.DataArray:
    """``bands`` (bands, height, width) with the place of the image they were made from.

    ``buffer`` takes as many pixels off on every side.
    """
    left, bottom, right, top = image.bounds
    x = left + (np.arange(image.width) + 0.5) * (right - left) / image.width
    y = top - (np.arange(image.height) + 0.5) * (top - bottom) / image.height
    whole = xr.DataArray(bands, {"y": y, "x": x}, ("band", "y", "x"), attrs={"crs": TILE_CRS})
    return whole[:, buffer : image.height - buffer, buffer : image.width - buffer]


def padded(bounds: list[float]) -> list[float]:
    """Bounds made larger by 5 %: a symbol near the edge of one tile reaches into the next."""
    west, south, east, north = bounds
    x, y = 0.05 * (east - west), 0.05 * (north - south)
    return [west - x, south - y, east + x, north + y]
