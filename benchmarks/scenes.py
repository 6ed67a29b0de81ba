"""Generated rasters to read: imagery and elevation in UTM, imagery in web Mercator, all Cloud Optimized."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import mercantile
import numpy as np
import rasterio
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.shutil import copy
from rasterio.transform import Affine, from_origin

from benchmarks.png import _relief

BLOCK: Final = 512
_PATTERN: Final = 1024
_EDGE: Final = 32  # pixels
_MERCATOR_ZOOM: Final = 18


@dataclass(frozen=True, slots=True)
class Scene:
    """A file, and where in the world its middle lies, in degrees."""

    path: Path
    longitude: float
    latitude: float

    def tiles(self, zoom: int, across: int) -> list[mercantile.Tile]:
        """A square of tiles around the middle, row by row, as a map asks for them."""
        middle = mercantile.tile(self.longitude, self.latitude, zoom)
        steps = range(-(across // 2), across - across // 2)
        return [mercantile.Tile(middle.x + x, middle.y + y, zoom) for y in steps for x in steps]

    def inside(self, zoom: int) -> list[mercantile.Tile]:
        """Every tile of a zoom that lies in the raster, a few pixels of any overview off its edge."""
        with rasterio.open(self.path) as file:
            back, crs, width, height = ~file.transform, file.crs, file.width, file.height
            to_degrees = Transformer.from_crs(crs, 4326, always_xy=True)
            box = to_degrees.transform_bounds(*file.bounds)
        here = Transformer.from_crs(4326, crs, always_xy=True)
        found = []
        for tile in mercantile.tiles(*box, zooms=zoom):
            west, south, east, north = mercantile.bounds(tile)
            x, y = here.transform(np.array([west, west, east, east]), np.array([south, north, south, north]))
            columns, rows = x * back.a + back.c, y * back.e + back.f
            low, high = min(columns.min(), rows.min()), max(columns.max() - width, rows.max() - height)
            if low >= _EDGE and high <= -_EDGE:
                found.append(tile)
        return found


def imagery(folder: Path, side: int) -> Scene:
    """RGB of 0.6 m a pixel in UTM: no zoom of the map lies halfway between two overviews."""
    return _scene(
        folder / f"imagery-{side}.tif", side, "EPSG:32633", from_origin(500000, 5300000, 0.6, 0.6), 3
    )


def elevation(folder: Path, side: int) -> Scene:
    """float32 of ten metres a pixel in UTM."""
    return _scene(
        folder / f"elevation-{side}.tif", side, "EPSG:32633", from_origin(500000, 5300000, 10, 10), 1
    )


def aligned(folder: Path, side: int) -> Scene:
    """RGB on the grid of web Mercator tiles."""
    corner = mercantile.xy_bounds(mercantile.Tile(140000, 90000, _MERCATOR_ZOOM))
    pixel = (corner.right - corner.left) / 256
    place = from_origin(corner.left, corner.top, pixel, pixel)
    return _scene(folder / f"aligned-{side}.tif", side, "EPSG:3857", place, 3)


def _scene(path: Path, side: int, crs: str, place: Affine, bands: int) -> Scene:
    if not path.exists():
        _write(path, side, crs, place, bands)
    x, y = place * (side / 2, side / 2)
    longitude, latitude = Transformer.from_crs(crs, 4326, always_xy=True).transform(x, y)
    return Scene(path, longitude, latitude)


def _write(path: Path, side: int, crs: str, place: Affine, bands: int) -> None:
    """Block by block, so that a large one takes no memory; complete or not there."""
    rng = np.random.default_rng(side + bands)
    kind = "uint8" if bands == 3 else "float32"
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "count": bands,
        "width": side,
        "height": side,
        "dtype": kind,
    }
    profile |= {"crs": crs, "transform": place, "tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK}
    profile |= {"photometric": "rgb"} if bands == 3 else {"nodata": -9999}
    pattern = np.stack([_relief(rng, _PATTERN, 2.8) for _ in range(bands)])
    plain, whole = path.with_suffix(".plain"), path.with_suffix(".part")
    with rasterio.open(plain, "w", **profile, bigtiff="yes") as file:
        for _, window in file.block_windows(1):
            rows = (window.row_off + np.arange(window.height)) % _PATTERN
            columns = (window.col_off + np.arange(window.width)) % _PATTERN
            file.write(_block(rng, pattern[:, rows[:, None], columns], kind), window=window)
    copy(
        *(plain, whole),
        driver="COG",
        compress="DEFLATE",
        blocksize=BLOCK,
        overview_resampling="average",
        num_threads="ALL_CPUS",
    )
    plain.unlink()
    whole.rename(path)


def _block(rng: np.random.Generator, pattern: NDArray[np.float64], kind: str) -> NDArray[Any]:
    """A part of the pattern, with the noise of a sensor or in metres."""
    if kind == "float32":
        return (2000 * pattern).astype(np.float32)
    noise = rng.normal(0, 1, pattern.shape).astype(np.float32)
    return np.clip(40 + 170 * pattern + noise, 0, 255).astype(np.uint8)
