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


def between(path: Path, bounds: Area, width: int, height: int) -> Array:
    """Bilinear values of the visible pixels around each place, in float64; NaN where the nearest is hidden."""
    with rasterio.open(path) as file:
        columns, rows = located(file, bounds, width, height)
        values, seen = file.read().astype(float), file.read_masks() > 0
        size = (file.width, file.height)
    inside = (columns >= 0) & (columns < size[0]) & (rows >= 0) & (rows < size[1])
    total, weight = np.zeros((len(values), *columns.shape)), np.zeros((len(values), *columns.shape))
    for right in (0, 1):
        for below in (0, 1):
            column, row = np.floor(columns - 0.5) + right, np.floor(rows - 0.5) + below
            share = (1 - np.abs(columns - 0.5 - column)) * (1 - np.abs(rows - 0.5 - row))
            column = np.clip(column, 0, size[0] - 1).astype(int)
            row = np.clip(row, 0, size[1] - 1).astype(int)
            visible = seen[:, row, column] * share
            total += visible * np.where(seen, values, 0)[:, row, column]
            weight += visible
    at = np.where(inside, rows, 0).astype(int), np.where(inside, columns, 0).astype(int)
    with np.errstate(invalid="ignore"):
        result: Array = np.where(seen[:, *at] & inside, total / weight, np.nan)
    return result


@given(
    name=st.sampled_from(sorted(set(PLACES) - {"degrees of the whole Earth", "degrees from 0 to 360"})),
    across=shares,
    down=shares,
    zoom=st.integers(3, 16),
)
def test_bilinear_is_exact_within_rounding(
    smooth: dict[str, Path], name: str, across: float, down: float, zoom: int
) -> None:
    """Between the centres of the visible pixels around each place, whatever the system."""
    tile = tile_in(name, across, down, zoom)

    found = raster.read(smooth[name], tile, size=64, resampling="bilinear").array

    expected = between(smooth[name], mercantile.xy_bounds(tile), 64, 64)
    hidden = np.ma.getmaskarray(found)
    assert (hidden != np.isnan(expected)).mean() <= 0.0005
    assert np.nanmax(np.abs(np.where(hidden, np.nan, found.filled(0)) - expected), initial=0) < 0.01


@pytest.fixture(scope="module")
def smooth(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Hills of float32, with a lake of no data."""
    folder = tmp_path_factory.mktemp("smooth")
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    hills = (100 * np.sin(rows / 15) + 80 * np.cos(columns / 20)).astype(np.float32)
    hills[90:130, 140:190] = -9999
    return {
        name: write(folder / f"{n}.tif", hills[None], crs, from_bounds(*box, WIDTH, HEIGHT), nodata=-9999)
        for n, (name, (crs, box)) in enumerate(PLACES.items())
    }


# -- what is hidden, beside rio-tiler

UTM = from_bounds(*PLACES["utm"][1], WIDTH, HEIGHT)
ROWS, COLUMNS = np.mgrid[:HEIGHT, :WIDTH]
ROUND = (ROWS - 115) ** 2 + (COLUMNS - 155) ** 2 < 90**2
COLOURS = np.stack([(ROWS * 0.9 + 20), (COLUMNS * 0.7 + 20), 40 + 0.0 * ROWS]).astype(np.uint8)


def with_nodata(folder: Path) -> Path:
    return write(
        folder / "a.tif", np.where(ROUND, COLOURS, 0).astype(np.uint8), "EPSG:32633", UTM, nodata=0
    )


def with_nan(folder: Path) -> Path:
    bands = np.where(ROUND, COLOURS, np.nan).astype(np.float32)
    return write(folder / "a.tif", bands, "EPSG:32633", UTM, nodata=np.nan)


def with_alpha(folder: Path) -> Path:
    return write(folder / "a.tif", COLOURS, "EPSG:32633", UTM, alpha=np.where(ROUND, 255, 0))


def with_an_internal_mask(folder: Path) -> Path:
    return write(folder / "a.tif", COLOURS, "EPSG:32633", UTM, mask=ROUND)


def with_a_mask_beside_it(folder: Path) -> Path:
    path = write(folder / "a.tif", COLOURS, "EPSG:32633", UTM)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as file:
        file.write_mask(ROUND)
    assert Path(f"{path}.msk").exists()
    return path


def with_overviews_of_its_mask(folder: Path) -> Path:
    return write(folder / "a.tif", COLOURS, "EPSG:32633", UTM, mask=ROUND, overviews=(2, 4))


def with_nothing_hidden(folder: Path) -> Path:
    return write(folder / "a.tif", COLOURS, "EPSG:32633", UTM)


MASKS = [
    *(with_nodata, with_nan, with_alpha, with_an_internal_mask, with_a_mask_beside_it),
    *(with_overviews_of_its_mask, with_nothing_hidden),
]


@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "cubic"])
@pytest.mark.parametrize("zoom", [6, 8])
@pytest.mark.parametrize("make", MASKS, ids=lambda make: make.__name__)
def test_what_is_hidden_is_what_rio_tiler_hides(
    tmp_path: Path, make: Callable[[Path], Path], zoom: int, resampling: str
) -> None:
    """Nodata, NaN, alpha and masks; the bands are the same ones, the values near, the edges within a pixel."""
    path = make(tmp_path)
    tile = tile_in("utm", 0.4, 0.4, zoom)
    with quiet(), Reader(str(path)) as reader:
        kernel: Any = resampling
        expected = reader.tile(tile.x, tile.y, tile.z, resampling_method=kernel, reproject_method=kernel).array

    found = raster.read(path, tile, resampling=resampling).array

    assert found.shape == expected.shape and found.dtype == expected.dtype
    hidden, beside = np.ma.getmaskarray(found), np.ma.getmaskarray(expected)
    if resampling == "nearest":
        assert (hidden != beside).mean() < 0.01
    else:  # GDAL's kernels blend masks in two steps
        assert (hidden != beside).mean() < 0.025
    both = ~hidden & ~beside
    assert np.median(np.abs(found.data.astype(float) - expected.data)[both]) <= 1
