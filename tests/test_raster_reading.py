"""``tileserver.raster.read`` beside each pixel projected by itself, and beside rio-tiler."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mercantile
import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp, Resampling
from rasterio.transform import from_bounds
from rio_tiler.io import Reader

from tests.conftest import Server
from tileserver import raster
from tileserver.raster import handles
from tileserver.render.classify import classify

Area = tuple[float, float, float, float]
Array = NDArray[Any]

# CRS, and the bounds in it of a raster that says much about it.
PLACES: dict[str, tuple[str, Area]] = {
    "utm": ("EPSG:32633", (300000, 5200000, 700000, 5500000)),
    "utm over the antimeridian": ("EPSG:32601", (100000, 1500000, 800000, 2000000)),
    "degrees": ("EPSG:4326", (5, 40, 20, 55)),
    "degrees of the whole Earth": ("EPSG:4326", (-180, -90, 180, 90)),
    "degrees from 0 to 360": ("EPSG:4326", (0, -90, 360, 90)),
    "degrees over the antimeridian": ("EPSG:4326", (170, -20, 195, 0)),
    "degrees of another datum": ("EPSG:4267", (-110, 30, -90, 50)),
    "another datum, over the antimeridian": ("EPSG:4167", (165, -50, 190, -30)),
    "web Mercator": ("EPSG:3857", (500000, 5000000, 1500000, 6000000)),
    "Mercator of the ellipsoid": ("EPSG:3395", (500000, 5000000, 1500000, 6000000)),
    "Lambert's conic": ("EPSG:3035", (2500000, 1500000, 6500000, 5000000)),
    "Albers": ("EPSG:5070", (-2000000, 500000, 2000000, 3000000)),
    "the north pole": ("EPSG:3413", (-3000000, -3000000, 3000000, 3000000)),
    "beside the south pole": ("EPSG:3031", (500000, 500000, 2500000, 2000000)),
    "the whole Earth in an ellipse": ("ESRI:54009", (-18040000, -9020000, 18040000, 9020000)),
    "Swiss": ("EPSG:2056", (2485000, 1075000, 2830000, 1290000)),
}
WIDTH, HEIGHT = 310, 230


@contextmanager
def quiet() -> Iterator[None]:
    """rio-tiler and rasterio warn of what these files are about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def write(
    path: Path,
    bands: Array,
    crs: str | None,
    transform: Affine,
    *,
    alpha: Array | None = None,
    mask: Array | None = None,
    overviews: Sequence[int] = (),
    **profile: Any,
) -> Path:
    """A GeoTIFF of ``bands`` (bands, height, width)."""
    layers = bands if alpha is None else np.concatenate([bands, alpha[None].astype(bands.dtype)])
    shape = {"count": len(layers), "height": bands.shape[1], "width": bands.shape[2]}
    tiled = {"tiled": True, "blockxsize": 64, "blockysize": 64}
    options = {**shape, **tiled, "dtype": bands.dtype, "crs": crs, "transform": transform, **profile}
    with quiet(), rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        with rasterio.open(path, "w", driver="GTiff", **options) as file:
            file.write(layers)
            if alpha is not None:
                file.colorinterp = [*[ColorInterp.undefined] * len(bands), ColorInterp.alpha]
            if mask is not None:
                file.write_mask(mask)
        if overviews:
            with rasterio.open(path, "r+") as file:
                file.build_overviews(list(overviews), Resampling.average)
    return path


def numbered(width: int = WIDTH, height: int = HEIGHT, first: int = 1) -> Array:
    """A band in which every pixel has a value of its own."""
    return (first + np.arange(width * height, dtype=np.int32)).reshape(1, height, width)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("places")
    return {
        name: write(folder / f"{n}.tif", numbered(), crs, from_bounds(*box, WIDTH, HEIGHT))
        for n, (name, (crs, box)) in enumerate(PLACES.items())
    }


def located(file: Any, bounds: Area, width: int, height: int) -> tuple[Array, Array]:
    """Column and row in the file of each pixel centre of a web Mercator grid, by pyproj, one by one."""
    west, south, east, north = bounds
    x = west + (np.arange(width) + 0.5) * (east - west) / width
    y = north - (np.arange(height) + 0.5) * (north - south) / height
    x, y = np.meshgrid(x, y)
    if file.crs.to_epsg() == 3857:
        there, up = x, y
    else:
        there, up = Transformer.from_crs(3857, file.crs, always_xy=True).transform(x, y)
    if file.crs.is_geographic or file.crs.to_epsg() == 3857:
        turn = 360.0 if file.crs.is_geographic else 2 * np.pi * 6378137
        there = file.bounds.left + np.mod(there - file.bounds.left, turn)
    there, up = (np.where(np.isfinite(there + up), one, -1e12) for one in (there, up))
    back = ~file.transform
    return there * back.a + up * back.b + back.c, there * back.d + up * back.e + back.f


def exact(path: Path, bounds: Area, width: int = 256, height: int = 256, level: int | None = None) -> Any:
    """The nearest pixel of each, of one overview; masked outside of the file."""
    options = {} if level is None else {"OVERVIEW_LEVEL": level}
    with rasterio.open(path, **options) as file:
        columns, rows = located(file, bounds, width, height)
        inside = (columns >= 0) & (columns < file.width) & (rows >= 0) & (rows < file.height)
        columns, rows = np.where(inside, columns, 0).astype(int), np.where(inside, rows, 0).astype(int)
        bands = file.read()[:, rows, columns]
        return np.ma.MaskedArray(bands, np.broadcast_to(~inside, bands.shape))


def off(found: Any, expected: Any) -> float:
    """The share of pixels that differ, in value or in being masked."""
    differs = np.ma.getmaskarray(found) != np.ma.getmaskarray(expected)
    both = ~np.ma.getmaskarray(found) & ~np.ma.getmaskarray(expected)
    return float((differs | (both & (np.ma.getdata(found) != np.ma.getdata(expected)))).mean())


def tile_in(name: str, across: float, down: float, zoom: int) -> mercantile.Tile:
    """The tile of a zoom that holds a place of the raster, given as shares of its width and height."""
    crs, (west, south, east, north) = PLACES[name]
    to_degrees = Transformer.from_crs(crs, 4326, always_xy=True)
    longitude, latitude = to_degrees.transform(west + across * (east - west), north + down * (south - north))
    if not np.isfinite(longitude + latitude):
        longitude, latitude = 0.0, 0.0
    longitude = (longitude + 180) % 360 - 180
    return mercantile.tile(longitude, max(-85, min(85, latitude)), zoom)


shares = st.floats(-0.1, 1.1)


@given(name=st.sampled_from(sorted(PLACES)), across=shares, down=shares, zoom=st.integers(0, 20))
def test_nearest_is_exact_in_every_system_at_every_zoom(
    places: dict[str, Path], name: str, across: float, down: float, zoom: int
) -> None:
    """No more than 0.02 % of the pixels are off those that each pixel's own projection falls on."""
    tile = tile_in(name, across, down, zoom)

    found = raster.read(places[name], tile)

    assert off(found.array, exact(places[name], mercantile.xy_bounds(tile))) <= 0.0002
