"""``tileserver.raster.read`` beside each pixel projected by itself, and beside rio-tiler."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
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
from PIL import Image
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


def read(*arguments: Any, **options: Any) -> Any:
    """The array alone."""
    return raster.read(*arguments, **options).array


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
    """Bilinear values of the visible pixels around each place, in float64; NaN where hidden."""
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

    found = read(smooth[name], tile, size=64, resampling="bilinear")

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
    return write(folder / "a.tif", np.where(ROUND, COLOURS, 0).astype(np.uint8), "EPSG:32633", UTM, nodata=0)


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
    """Nodata, NaN, alpha and masks: the same bands, near values, edges within a pixel."""
    path = make(tmp_path)
    tile = tile_in("utm", 0.4, 0.4, zoom)
    with quiet(), Reader(str(path)) as reader:
        kernel: Any = resampling
        kernels: Any = {"resampling_method": kernel, "reproject_method": kernel}
        expected: Any = reader.tile(*tile, **kernels).array

    found = read(path, tile, resampling=resampling)

    assert found.shape == expected.shape and found.dtype == expected.dtype
    hidden, beside = np.ma.getmaskarray(found), np.ma.getmaskarray(expected)
    if resampling == "nearest":
        assert (hidden != beside).mean() < 0.01
    else:  # GDAL's kernels blend masks in two steps
        assert (hidden != beside).mean() < 0.025
    both = ~hidden & ~beside
    assert np.median(np.abs(found.data.astype(float) - expected.data)[both]) <= 1


def test_a_value_given_as_nodata_wins_over_the_files(tmp_path: Path) -> None:
    """And hides band by band, as rasterio does."""
    bands = np.stack([np.full((50, 50), 7), np.full((50, 50), 9)]).astype(np.uint8)
    path = write(tmp_path / "a.tif", bands, "EPSG:4326", from_bounds(0, 0, 10, 10, 50, 50), nodata=9)

    found = read(path, [1, 1, 2, 2], nodata=7)

    assert found.mask[0].all() and not found.mask[1].any()


def mosaic(path: Path, bands: Sequence[str]) -> Path:
    """A virtual file of 10 x 10 pixels from 0 to 10 degrees; ``bands`` is what each consists of."""
    text = "".join(
        f'<VRTRasterBand dataType="Byte" band="{n}">{b}</VRTRasterBand>' for n, b in enumerate(bands, 1)
    )
    place = "<SRS>EPSG:4326</SRS><GeoTransform>0,1,0,10,0,-1</GeoTransform>"
    path.write_text(f'<VRTDataset rasterXSize="10" rasterYSize="10">{place}{text}</VRTDataset>')
    return path


def part(name: str, band: int = 1) -> str:
    file = f'<SourceFilename relativeToVRT="1">{name}</SourceFilename>'
    return f"<SimpleSource>{file}<SourceBand>{band}</SourceBand></SimpleSource>"


def plain(path: Path, *values: int) -> Path:
    """A file of as many bands, each of one value."""
    bands = np.stack([np.full((10, 10), value, np.uint8) for value in values])
    return write(path, bands, "EPSG:4326", from_bounds(0, 0, 10, 10, 10, 10))


def test_bands_may_hide_what_they_like(tmp_path: Path) -> None:
    """Each by a value or a mask of its own."""
    plain(tmp_path / "a.tif", 1, 2, 3), plain(tmp_path / "none.tif", 0), plain(tmp_path / "all.tif", 255)
    kinds = {
        "values": [
            "<NoDataValue>1</NoDataValue>",
            "<NoDataValue>1</NoDataValue>",
            "<NoDataValue>3</NoDataValue>",
        ],
        "masks": [
            f'<MaskBand><VRTRasterBand dataType="Byte">{part(name)}</VRTRasterBand></MaskBand>'
            for name in ("none.tif", "all.tif", "none.tif")
        ],
    }
    for kind, hiding in kinds.items():
        bands = [
            f"{more}{part('a.tif', n)}" if kind == "values" else part("a.tif", n) + more
            for n, more in enumerate(hiding, 1)
        ]
        found = read(mosaic(tmp_path / f"{kind}.vrt", bands), [1, 1, 9, 9], 4)

        hidden = np.ma.getmaskarray(found).reshape(3, -1)
        assert [bool(band.all()) for band in hidden] == [True, False, True], kind
        assert not hidden[1].any() and (found[1] == 2).all()


# -- every file


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32", "float64", "complex64"]
)
@pytest.mark.parametrize("resampling", ["nearest", "bilinear"])
def test_every_dtype_stays_what_it_is(tmp_path: Path, dtype: str, resampling: str) -> None:
    """Values and dtype; scale and offset are left alone."""
    bands = np.full((2, 50, 60), 100, dtype)
    path = write(tmp_path / "a.tif", bands, "EPSG:32633", from_bounds(*PLACES["utm"][1], 60, 50))
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (0.5, 0.5), (10, 10)

    found = read(path, tile_in("utm", 0.5, 0.5, 9), resampling=resampling)

    assert found.dtype == dtype and (found == 100).all() and not np.ma.is_masked(found)


@pytest.mark.parametrize("turned", [0, 30, 90, 180])
@pytest.mark.parametrize("flipped", [False, True])
def test_any_affine_transform(tmp_path: Path, turned: float, flipped: bool) -> None:
    """Rotated grids, and those whose first row is the southern one."""
    size = Affine.scale(1000, 1000 if flipped else -1000)
    path = write(
        tmp_path / "a.tif",
        numbered(),
        "EPSG:32633",
        Affine.translation(500000, 5300000) * Affine.rotation(turned) * size,
    )
    with rasterio.open(path) as file:
        x, y = file.transform * (100, 100)
        longitude, latitude = Transformer.from_crs(32633, 4326, always_xy=True).transform(x, y)
    for zoom in (5, 8, 11):
        tile = mercantile.tile(longitude, latitude, zoom)

        found = read(path, tile)

        assert off(found, exact(path, mercantile.xy_bounds(tile))) <= 0.0002
        assert found.count() > 100


def with_control_points(folder: Path) -> Path:
    """Without a transform, but with control points in degrees; beside it the same by a transform."""
    place = Affine.translation(10, 50) * Affine.rotation(20) * Affine.scale(0.02, -0.02)
    points = [
        GroundControlPoint(row, column, *(place * (column, row)), 0)
        for row in (0, 115, HEIGHT)
        for column in (0, 155, WIDTH)
    ]
    path = write(folder / "gcps.tif", COLOURS, None, Affine.identity())
    with quiet(), rasterio.open(path, "r+") as file:
        file.gcps = (points, rasterio.CRS.from_epsg(4326))
    write(folder / "placed.tif", COLOURS, "EPSG:4326", place)
    return path


@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "cubic"])
def test_a_mirrored_file_beyond_180_degrees(tmp_path: Path, resampling: str) -> None:
    """Columns that count from the east, asked for in another turn around the Earth."""
    bands = np.tile(np.arange(360, dtype=np.int16), (1, 180, 1))
    path = write(tmp_path / "a.tif", bands, "EPSG:4326", Affine(-1, 0, 360, 0, -1, 90))

    found = read(path, [-170, -5, -160, 5], 10, resampling=resampling)

    assert found[0, 5].tolist() == list(range(169, 159, -1))


@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "cubic"])
@pytest.mark.parametrize("dtype", ["complex_int16", "complex64", "complex128"])
def test_complex_values_keep_both_parts(tmp_path: Path, dtype: str, resampling: str) -> None:
    """Whole ones become complex64, which numpy has."""
    bands = np.full((1, HEIGHT, WIDTH), 3 - 4j, np.complex64)
    path = write(tmp_path / "a.tif", bands, "EPSG:32633", UTM, dtype=dtype)

    found = read(path, tile_in("utm", 0.5, 0.5, 9), resampling=resampling)

    assert found.dtype == ("complex64" if dtype == "complex_int16" else dtype)
    assert np.allclose(found.compressed(), 3 - 4j) and found.count() > 0


def test_a_part_of_a_file_is_named_as_gdal_has_it(tmp_path: Path) -> None:
    """A directory of a TIFF here, as a variable of a netCDF file; it is opened anew, too."""
    path = plain(tmp_path / "a.tif", 7)
    assert (read(f"GTIFF_DIR:1:{path}", [1, 1, 9, 9], 4) == 7).all()

    plain(tmp_path / "b.tif", 8).replace(path)
    assert (read(f"GTIFF_DIR:1:{path}", [1, 1, 9, 9], 4) == 8).all()


def test_control_points_place_a_file(tmp_path: Path) -> None:
    """As an affine transform does that says the same."""
    path = with_control_points(tmp_path)
    tile = mercantile.tile(11, 49, 6)

    found = read(path, tile)

    expected = read(tmp_path / "placed.tif", tile)
    assert 1000 < found.count() < found.size
    assert (np.ma.getmaskarray(found) != np.ma.getmaskarray(expected)).mean() < 0.01
    assert (
        np.ma.median(  # type: ignore[no-untyped-call]  # numpy.ma
            np.ma.abs(found.astype(int) - expected.astype(int))
        )
        <= 1
    )


def test_rational_polynomials_place_a_file(tmp_path: Path) -> None:
    """What satellite scenes come with: as rio-tiler's warp puts it."""
    one = " ".join(["1"] + ["0"] * 19)
    line, sample = (" ".join("1" if n == at else "0" for n in range(20)) for at in (2, 1))
    path = write(tmp_path / "a.tif", COLOURS, None, Affine.identity())
    with quiet(), rasterio.open(path, "r+") as file:
        file.update_tags(
            ns="RPC",
            LINE_OFF="115",
            SAMP_OFF="155",
            LAT_OFF="45",
            LONG_OFF="10",
            HEIGHT_OFF="0",
            LINE_SCALE="115",
            SAMP_SCALE="155",
            LAT_SCALE="-1",
            LONG_SCALE="2",
            HEIGHT_SCALE="500",
            LINE_NUM_COEFF=line,
            LINE_DEN_COEFF=one,
            SAMP_NUM_COEFF=sample,
            SAMP_DEN_COEFF=one,
        )

    found = read(path, [8, 44, 12, 46], size=310)

    middle = found[:, found.shape[1] // 2, 155].astype(int)
    assert found.count() > 0.95 * found.size
    assert np.abs(middle - COLOURS[:, 115, 155].astype(int)).max() <= 2


def test_a_file_that_says_nothing_is_an_error_that_does(tmp_path: Path) -> None:
    """No CRS, no control points."""
    path = write(tmp_path / "a.tif", COLOURS, None, Affine.identity())

    with pytest.raises(ValueError, match="does not say where it lies"):
        raster.read(path, (0, 0, 0))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"area": [9, 0, 1]}, "outside the matrix"),
        ({"area": "here"}, "an area is bounds"),
        ({"area": [1, 1, 1, 2]}, "no extent"),
        ({"area": [0, 89, 1, 90]}, "no extent"),
        ({"bands": 4}, "bands 1 to 3"),
        ({"bands": []}, "bands 1 to 3"),
        ({"resampling": "sharp"}, "none of nearest, bilinear"),
        ({"size": 0}, "size is one or more pixels"),
        ({"size": 256.0}, "size is a width in pixels"),
        ({"size": (256,)}, "size is a width in pixels"),
    ],
)
def test_a_wrong_argument_says_what_is_taken(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    """Before anything is read."""
    path = with_nothing_hidden(tmp_path)

    with pytest.raises(Exception, match=said):
        raster.read(path, **{"area": (0, 0, 0), **options})


def test_bands_come_in_the_order_wanted(tmp_path: Path) -> None:
    """Numbers from 1; an alpha band counts when it is named."""
    path, tile = with_alpha(tmp_path), tile_in("utm", 0.5, 0.5, 8)

    every = read(path, tile)
    some = read(path, tile, bands=[3, 1])

    assert every.shape[0] == 3 and np.ma.allequal(some, every[[2, 0]])
    assert read(path, tile, bands=4).data.max() == 255
    assert np.ma.allequal(read(path, tile, np.int64(256), bands=np.int64(2)), every[1:2])


# -- where it lies, and at which resolution


@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "cubic"])
@pytest.mark.parametrize("tile", [(0, 0, 3), (16383, 16383, 14), (1 << 23, 1 << 23, 24)])
def test_outside_of_the_file_all_is_masked(tmp_path: Path, tile: Any, resampling: str) -> None:
    """In the shape and dtype that is asked for."""
    found = read(with_nothing_hidden(tmp_path), tile, size=64, resampling=resampling)

    assert found.shape == (3, 64, 64) and found.dtype == np.uint8 and found.mask.all()


@given(zoom=st.integers(0, 12))
def test_an_overview_is_read_that_has_a_pixel_for_each(pyramid: Path, zoom: int) -> None:
    """The coarsest that does: at its own resolution the result is exact."""
    tile = tile_in("utm", 0.5, 0.5, zoom)
    bounds = mercantile.xy_bounds(tile)
    # Of 250 m on the ground a pixel, which web Mercator stretches by 1.5 at 48 degrees north.
    step = (bounds.right - bounds.left) / 256 / 1.5 / 250
    level = next((n for n in (2, 1, 0) if 2 ** (n + 1) <= step), None)

    found = read(pyramid, tile)

    assert off(found, exact(pyramid, bounds, level=level)) <= 0.0002


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With overviews of 2, 4 and 8."""
    band = numbered(1600, 1200)
    place = from_bounds(*PLACES["utm"][1], 1600, 1200)
    return write(tmp_path_factory.mktemp("pyramid") / "a.tif", band, "EPSG:32633", place, overviews=(2, 4, 8))


def test_a_huge_window_is_thinned_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more pixels are held than a bound, and the picture is the same to a pixel of the result."""
    band = (np.add.outer(np.arange(900), np.arange(1200)) // 10).astype(np.int16)[None]
    path = write(tmp_path / "a.tif", band, "EPSG:32633", from_bounds(*PLACES["utm"][1], 1200, 900))
    tile = tile_in("utm", 0.5, 0.5, 5)
    whole = read(path, tile, size=64)
    monkeypatch.setattr("tileserver.raster.reading._MOST_PIXELS", 300 * 300)

    thin = read(path, tile, size=64)

    assert (thin.mask != whole.mask).mean() < 0.02
    assert np.ma.max(np.ma.abs(thin - whole)) <= 2


@pytest.mark.parametrize("resampling", ["nearest", "bilinear"])
def test_an_aligned_file_is_read_without_resampling(tmp_path: Path, resampling: str) -> None:
    """Bit for bit the file's pixels, at its own zoom and at its overview's."""
    box = mercantile.xy_bounds(mercantile.Tile(530, 350, 10))
    path = write(
        tmp_path / "a.tif", numbered(1024, 1024), "EPSG:3857", from_bounds(*box, 1024, 1024), overviews=(2, 4)
    )
    with rasterio.open(path) as file:
        own, coarse = file.read(), file.read(out_shape=(1, 256, 256))

    found = read(path, (530 * 4 + 1, 350 * 4 + 2, 12), resampling=resampling)
    above = read(path, (530, 350, 10), resampling=resampling)

    assert np.array_equal(found, own[:, 512:768, 256:512]) and not np.ma.is_masked(found)
    assert np.array_equal(above, coarse)


def test_bounds_over_the_antimeridian(places: dict[str, Path]) -> None:
    """West may exceed east, or go on beyond 180: the same picture of both sides."""
    for name in ("degrees over the antimeridian", "utm over the antimeridian", "degrees of the whole Earth"):
        south, north = (14.0, 17.5) if "utm" in name else (-15.0, -5.0)
        beyond = raster.read(places[name], [179, south, 181, north])
        across = raster.read(places[name], [179, south, -179, north])

        assert np.ma.allequal(beyond.array, across.array)
        assert np.ma.count(beyond.array) > 0.8 * beyond.array.size
        assert off(beyond.array, exact(places[name], beyond.bounds, 256, beyond.array.shape[1])) <= 0.0002


@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "cubic", "average"])
def test_bounds_give_what_rio_tiler_gives(tmp_path: Path, resampling: str) -> None:
    """Size, place and picture of an area that is no tile; the height follows from the area."""
    path, area = with_nothing_hidden(tmp_path), [13.2, 47.6, 15.1, 48.9]
    with quiet(), Reader(str(path)) as reader:
        kernel: Any = resampling
        expected = reader.part(
            tuple(area), dst_crs="EPSG:3857", width=300, resampling_method=kernel, reproject_method=kernel
        )

    found = raster.read(path, area, size=300, resampling=resampling)

    assert abs(found.array.shape[1] - expected.height) <= 1
    assert np.allclose(found.bounds, expected.bounds, atol=0.01)
    high = min(found.array.shape[1], expected.height)
    apart = np.abs(found.array[:, :high].astype(int) - expected.array[:, :high].astype(int))
    assert np.percentile(apart.filled(0), 99) <= 2


def test_every_way_to_say_an_area(tmp_path: Path) -> None:
    """A tile, x y z, its bounds, a box and frames: the same pixels."""
    import geopandas as gpd
    import shapely

    path, tile = with_nothing_hidden(tmp_path), tile_in("utm", 0.5, 0.5, 8)
    box = shapely.box(*mercantile.bounds(tile))
    frame = gpd.GeoDataFrame(geometry=[box], crs=4326)
    expected = raster.read(path, tile)

    for area in (
        *((tile.x, tile.y, tile.z), list(mercantile.bounds(tile)), box, frame, frame.to_crs(3857)),
        frame.assign(x=tile.x, y=tile.y, z=tile.z),
    ):
        found = raster.read(path, area)
        assert np.ma.allequal(found.array, expected.array, fill_value=False)
        assert np.allclose(found.bounds, expected.bounds)


@pytest.mark.parametrize("resampling", ["nearest", "bilinear", "cubic"])
def test_a_buffer_goes_around_and_comes_off(tmp_path: Path, resampling: str) -> None:
    """Neighbours of a tile's pixels, and then the tile as it is without."""
    path, tile = with_nothing_hidden(tmp_path), tile_in("utm", 0.4, 0.5, 9)
    plain = raster.read(path, tile, resampling=resampling)

    wide = raster.read(path, tile, buffer=3, resampling=resampling)
    cropped = wide.cropped(3)

    assert wide.array.shape == (3, 262, 262)
    apart = np.abs(cropped.array.astype(int) - plain.array.astype(int))
    assert apart.max() <= (1 if resampling == "cubic" else 0)
    assert np.allclose(cropped.bounds, plain.bounds)


def test_another_array_takes_the_place(tmp_path: Path) -> None:
    """Of the same height and width only; metres are those on the ground."""
    found = raster.read(with_nothing_hidden(tmp_path), [14, 47.9, 14.5, 48.1])

    shown = found.with_array(found.array[0] > 100)

    assert shown.bounds == found.bounds and shown.transform == found.transform
    assert abs(found.pixel_size * 256 - 37200) < 200  # half a degree at 48 degrees north
    with pytest.raises(ValueError, match="doesn't fit"):
        found.with_array(found.array[:, 1:])


# -- handles


def open_files(folder: Path) -> list[str]:
    links = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))
    targets = [str(link.readlink()) for link in links if link.is_symlink()]
    return [target for target in targets if target.startswith(str(folder))]


def test_a_file_stays_open_and_is_opened_anew_when_it_has_changed(tmp_path: Path) -> None:
    """By its size or time, its mask's and overviews' too; replaced as a whole or in place."""
    path, tile = with_nothing_hidden(tmp_path), tile_in("utm", 0.5, 0.5, 8)
    first = read(path, tile)
    assert len(open_files(tmp_path)) == 1

    other = write(tmp_path / "b.tif", 255 - COLOURS, "EPSG:32633", UTM)
    other.replace(path)
    second = read(path, tile)
    with_a_mask_beside_it(tmp_path)
    third = read(path, tile_in("utm", 0.1, 0.1, 8))

    assert np.array_equal(second, 255 - first) and np.ma.is_masked(third)
    assert len([name for name in open_files(tmp_path) if name.endswith(".tif")]) == 1


def test_a_mosaic_is_opened_anew_when_one_of_its_files_has_changed(tmp_path: Path) -> None:
    """It would go on reading the one that was there."""
    path = mosaic(tmp_path / "a.vrt", [part("a.tif")])
    plain(tmp_path / "a.tif", 1)
    assert (read(path, [1, 1, 9, 9], 4) == 1).all()

    plain(tmp_path / "b.tif", 2).replace(tmp_path / "a.tif")

    assert (read(path, [1, 1, 9, 9], 4) == 2).all()


def test_a_file_elsewhere_is_read_anew_after_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of what GDAL remembers of it is left."""
    plain(tmp_path / "a.tif", 1)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.ranges", str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}/a.tif"
        first = read(url, [1, 1, 9, 9], 4)
        plain(tmp_path / "b.tif", 2).replace(tmp_path / "a.tif")
        now = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now + 61)
        second = read(url, [1, 1, 9, 9], 4)
        server.kill()
    handles.close()

    assert (first == 1).all() and (second == 2).all()


def test_a_forked_process_opens_its_own(tmp_path: Path) -> None:
    """It would share its place in the file with its parent, and both would read what lies elsewhere."""
    path, tile = with_nothing_hidden(tmp_path), tile_in("utm", 0.5, 0.5, 8)
    expected = read(path, tile)
    child = os.fork()
    if child == 0:
        opened = len(open_files(tmp_path))
        same = np.array_equal(read(path, tile), expected)
        os._exit(0 if same and len(open_files(tmp_path)) == opened + 1 else 1)

    assert os.waitpid(child, 0)[1] == 0
    assert np.array_equal(read(path, tile), expected)


def test_so_many_files_stay_open_and_no_more(tmp_path: Path) -> None:
    """The least recently read ones go, overviews among them; all of them when that is asked for."""
    tile = tile_in("utm", 0.5, 0.5, 6)
    for number in range(20):
        (tmp_path / str(number)).mkdir()
        raster.read(with_overviews_of_its_mask(tmp_path / str(number)), tile, size=64)

    held = open_files(tmp_path)
    handles.close()

    assert len(held) == 24 and any("/19/" in name for name in held) and not any("/0/" in n for n in held)
    assert not open_files(tmp_path)


def test_threads_have_handles_of_their_own(tmp_path: Path) -> None:
    """GDAL's belong to one thread; those of a thread close with it."""
    path, tile = with_nothing_hidden(tmp_path), tile_in("utm", 0.5, 0.5, 8)
    expected = read(path, tile)
    found: list[Any] = []

    def work() -> None:
        found.extend(read(path, tile) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(found) == 20 and all(np.array_equal(one, expected) for one in found)
    assert len(open_files(tmp_path)) == 1


def test_a_file_that_is_not_there_is_rasterios_error(tmp_path: Path) -> None:
    """With its own message."""
    with pytest.raises(rasterio.errors.RasterioIOError, match=r"none\.tif"):
        raster.read(tmp_path / "none.tif", (0, 0, 0))


def test_an_address_is_read_in_ranges_and_stays_open(tmp_path: Path) -> None:
    """The same pixels as from the disk; once they are read, another look at them asks for nothing more."""
    path, tile = with_overviews_of_its_mask(tmp_path), tile_in("utm", 0.5, 0.5, 8)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.ranges", str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        url = f"http://127.0.0.1:{server.stdout.readline().strip()}/{path.name}"
        found = read(url, tile)
        server.kill()
        again = read(url, tile)
        requests = server.stdout.read().split()
    handles.close()

    assert 2 <= len(requests) < 12
    assert np.ma.allequal(found, read(path, tile), fill_value=False) and np.ma.allequal(again, found)


# -- as a tile


def test_what_is_read_for_a_tile_is_drawn_as_it_is(tmp_path: Path) -> None:
    """A georaster on the tile's own grid: neither warped again nor copied."""
    from tileserver.render import warp

    tile = tile_in("utm", 0.5, 0.5, 9)
    found = raster.read(with_nothing_hidden(tmp_path), tile)

    sorted_in = classify(found)

    assert np.shares_memory(sorted_in.value, found.array) and sorted_in.crs == "EPSG:3857"
    assert warp.covers_tile(sorted_in, tile)


UDF = """
import os
from tileserver import raster

@fused.udf
def udf(bounds: fused.types.Bounds = [13, 47, 15, 49], size: int = 256):
    return raster.read("a.tif", bounds, size)
"""
HANDLES = """
import os
from tileserver import raster

@fused.udf(cache_max_age=0)
def udf():
    files = [os.readlink(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd") if n != "x"
             and os.path.exists(f"/proc/self/fd/{n}")]
    count = sum(name.endswith("a.tif") for name in files)
    raster.read("a.tif", [13, 47, 15, 49])
    return [os.getpid(), count]
"""


def test_a_udf_of_two_lines_serves_the_pixels(serve: Callable[..., Server], tmp_path: Path) -> None:
    """Confined as it is: tiles, twice their size too, and a georeferenced file; the handle outlives a run."""
    server = serve({"city/photo.py": UDF, "city/handles.py": HANDLES}, "--workers", "1")
    path = with_an_internal_mask(server.workspace / "city")
    tile = tile_in("utm", 0.4, 0.1, 8)
    place = f"{tile.z}/{tile.x}/{tile.y}"

    plain = server.get(f"/{{city}}/photo/run/tiles/{place}.png")
    twice = server.get(f"/{{city}}/photo/run/tiles/{place}@2x.png")
    whole = server.get("/{city}/photo.tiff")
    (first, _), (second, kept) = (server.get("/{city}/handles.json").json() for _ in range(2))

    for response, size in ((plain, 256), (twice, 512)):
        assert response.status_code == 200, response.text
        picture = np.asarray(Image.open(io.BytesIO(response.content)).convert("RGBA"))
        expected = read(path, tile, size)
        hidden = np.ma.getmaskarray(expected)[0]
        assert picture.shape == (size, size, 4)
        assert 0 < hidden.mean() < 1 and np.array_equal(picture[..., 3] == 0, hidden)
        assert np.array_equal(picture[~hidden][:, :3], np.moveaxis(expected.data, 0, -1)[~hidden])
    with rasterio.MemoryFile(whole.content) as memory, memory.open() as file:
        assert file.crs.to_epsg() == 3857 and file.width == 256
    assert (second, kept) == (first, 1)
