"""Arrays and images as pictures, GeoTIFF and NPY: values, masks, positions, every format read again."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import geopandas as gpd
import mercantile
import numpy as np
import pytest
import shapely
import xarray as xr
from affine import Affine
from mercantile import Tile
from PIL import Image
from pyproj import Transformer
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from tileserver import tiles
from tileserver.errors import BadRequest, UnsupportedOutput
from tileserver.formats import FORMATS
from tileserver.protocol import Job, RenderOptions
from tileserver.render import encode
from tileserver.render.raster import check_options, transparent

TILE = Tile(x=8, y=5, z=4)
GREY = np.arange(256, dtype=np.uint8).reshape(16, 16)
RGB = np.stack([GREY, GREY[::-1], np.full_like(GREY, 7)])


def job(*formats: str, tile: Tile | None = None, **options: Any) -> Job:
    return Job("c", "b", "u", {}, formats or ("png",), "tile", RenderOptions(**options), tile)


def image(value: object, wanted: Job) -> Image.Image:
    return Image.open(io.BytesIO(encode(value, wanted)[0]))


def rgba(value: object, wanted: Job) -> np.ndarray[Any, Any]:
    return np.asarray(image(value, wanted).convert("RGBA"))


def centres(tile: Tile, pixels: int = 256) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Longitudes and latitudes of the middle of each pixel of a tile, by pyproj."""
    box = mercantile.xy_bounds(tile)
    steps = (np.arange(pixels) + 0.5) / pixels
    x, y = np.meshgrid(box.left + steps * (box.right - box.left), box.top - steps * (box.top - box.bottom))
    lon, lat = Transformer.from_crs(3857, 4326, always_xy=True).transform(x, y)
    return np.asarray(lon), np.asarray(lat)


# Values


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (np.array([[0, 100, 255]], np.uint8), [0, 100, 255]),
        (np.array([[0.0, 0.5, 1.0, 2.0, -1.0]], np.float32), [0, 128, 255, 255, 0]),
        (np.array([[0.0, 0.5, 1.0]], np.float64), [0, 128, 255]),
        (np.array([[0.0, 0.25, 1.0]], np.float16), [0, 64, 255]),
        (np.array([[0, 32768, 65535]], np.uint16), [0, 128, 255]),
        (np.array([[-32768, 0, 32767]], np.int16), [0, 128, 255]),
        (np.array([[-128, 0, 127]], np.int8), [0, 128, 255]),
        (np.array([[0, 2**63, 2**64 - 1]], np.uint64), [0, 128, 255]),
        (np.array([[-(2**63), 0, 2**63 - 1]], np.int64), [0, 128, 255]),
        (np.array([[False, True]]), [0, 255]),
        (np.array([[0.0, np.inf, -np.inf]]), [0, 255, 0]),
    ],
    ids=lambda value: str(value.dtype) if isinstance(value, np.ndarray) else "",
)
def test_value_rules(value: np.ndarray[Any, Any], shown: list[int]) -> None:
    """Bytes as they are, floats from 0 to 1, other integers over their range, booleans black or white."""
    assert rgba(value, job())[0, :, 0].tolist() == shown


@pytest.mark.parametrize(
    ("bands", "mode"),
    [(1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA"), (5, "RGB")],
    ids=["grey", "grey and alpha", "RGB", "RGBA", "the first three of five"],
)
def test_number_of_bands(bands: int, mode: str) -> None:
    """One to four bands are grey or colour with or without alpha; of more, the first three are shown."""
    value = np.stack([np.full((8, 8), 10 * (index + 1), np.uint8) for index in range(bands)])

    made = image(value, job())

    assert made.mode == mode
    assert np.asarray(made).reshape(8, 8, -1)[0, 0].tolist() == [10 * (n + 1) for n in range(len(mode))]


@pytest.mark.parametrize("name", ["png", "webp", "apng", "gif"])
@pytest.mark.parametrize(
    "value",
    [
        np.ma.masked_less(np.stack([GREY] * 3), 16),
        np.where(GREY < 16, np.nan, GREY / 255.0),
        np.where(GREY < 16, 0, GREY),
    ],
    ids=["masked", "NaN", "nodata"],
)
def test_missing_pixels_are_transparent(name: str, value: np.ndarray[Any, Any]) -> None:
    """Masked, NaN and nodata pixels are invisible, all others are opaque."""
    alpha = rgba(value, job(name, nodata=0))[..., 3]

    assert (alpha[0] == 0).all()
    assert (alpha[1:] == 255).all()


def test_a_pixel_of_nodata_in_one_band_is_still_visible() -> None:
    """A colour with one zero in it isn't nodata; one of zeros alone is."""
    value = np.zeros((3, 1, 2), np.uint8)
    value[1, 0, 1] = 90

    assert rgba(value, job(nodata=0))[0, :, 3].tolist() == [0, 255]


def test_jpeg_puts_transparency_on_white() -> None:
    """JPEG drops alpha: what was transparent is white."""
    value = np.ma.masked_array(np.zeros((3, 8, 8), np.uint8), True)

    assert rgba(value, job("jpeg"))[4, 4].tolist() == [255, 255, 255, 255]


@pytest.mark.parametrize(
    ("rescale", "shown"),
    [
        (((0, 100),), [128, 255, 0]),
        (((0, 100), (0, 400), (-100, 100)), [128, 128, 128]),
    ],
    ids=["one for all", "one for each"],
)
def test_rescale(rescale: tuple[tuple[float, float], ...], shown: list[int]) -> None:
    """A range, or one for each band, takes the place of the type's rule."""
    value = np.array([50, 200, 0], np.int32)[:, None, None] * np.ones((3, 2, 2), np.int32)

    assert rgba(value, job(rescale=rescale))[0, 0, :3].tolist() == shown


def test_rescale_leaves_alpha_alone() -> None:
    """One range is for colours; alpha keeps its meaning."""
    value = np.full((4, 2, 2), 100, np.uint8)

    assert rgba(value, job(rescale=((0.0, 100.0),)))[0, 0].tolist() == [255, 255, 255, 100]


@pytest.mark.parametrize(
    ("value", "options", "message"),
    [
        (RGB, {"rescale": ((0.0, 1.0),) * 2}, "2 ranges for 3 band"),
        (RGB, {"colormap": "viridis"}, "colormap needs one band"),
        (GREY.astype(complex), {}, "complex128"),
    ],
    ids=["rescale", "colormap", "complex"],
)
def test_options_that_do_not_fit_the_bands(value: Any, options: dict[str, Any], message: str) -> None:
    """What can't be shown as asked is an error that says why."""
    with pytest.raises(UnsupportedOutput, match=message):
        encode(value, job(**options))


@pytest.mark.parametrize("name", ["png", "webp"])
def test_colormap(name: str) -> None:
    """A single band is looked up in the colormap by its 8-bit value; missing pixels stay transparent."""
    value = np.ma.masked_equal(np.array([[0, 255, 9]], np.uint8), 9)

    colours = rgba(value, job(name, colormap="Viridis"))[0]

    assert colours[0].tolist() == [68, 1, 84, 255]
    assert colours[1].tolist() == [253, 231, 36, 255]
    assert colours[2, 3] == 0


def test_colormapped_png_is_indexed() -> None:
    """A colormap stays a palette in PNG, also when all 256 colours and transparency are needed."""
    assert image(GREY, job(colormap="viridis")).mode == "P"

    full = np.ma.masked_array(np.vstack([GREY, GREY]), np.arange(512).reshape(32, 16) < 16)
    shown = rgba(full, job(colormap="viridis"))
    assert shown[0, 0, 3] == 0
    assert shown[16:].tolist() == rgba(GREY, job(colormap="viridis")).tolist()


def test_unknown_colormap_is_refused_before_the_run() -> None:
    """An unknown name is an error that gives near ones."""
    check_options(RenderOptions(colormap="TERRAIN"))
    with pytest.raises(BadRequest, match="viridis"):
        check_options(RenderOptions(colormap="virdis"))


# Formats


@pytest.mark.parametrize(
    ("name", "kind", "exact"),
    [("png", "PNG", 0), ("webp", "WEBP", 0), ("apng", "PNG", 0), ("gif", "GIF", 12), ("jpeg", "JPEG", 60)],
)
def test_every_picture_format_opens_again(name: str, kind: str, exact: int) -> None:
    """What is written is what a reader sees: exactly, except in the formats that can't."""
    made = image(RGB, job(name))

    assert made.format == kind
    assert encode(RGB, job(name))[1] == FORMATS[name].media_type
    difference = np.moveaxis(RGB, 0, -1).astype(int) - np.asarray(made.convert("RGB"))
    assert np.abs(difference).mean() <= exact


@pytest.mark.parametrize("name", ["png", "webp", "gif", "jpeg", "apng"])
def test_empty_pictures(name: str) -> None:
    """No data is a transparent picture of the tile's size; white where a format knows no transparency."""
    made = np.asarray(
        Image.open(io.BytesIO(transparent(FORMATS[name], job(size=64, scale=2)))).convert("RGBA")
    )

    assert made.shape == (128, 128, 4)
    assert np.unique(made[..., 3]).tolist() == ([255] if name == "jpeg" else [0])
    assert name != "jpeg" or (made == 255).all()


@pytest.mark.parametrize(
    "value",
    [
        np.arange(6, dtype=np.int16),
        np.array(5.5),
        GREY,
        np.zeros((4, 4, 3), np.float32),
        np.zeros((2, 3, 4, 5), bool),
        np.array([[1 + 2j]]),
        np.array(["2024-01-01"], "M8[ns]"),
    ],
    ids=lambda value: f"{value.dtype} {value.shape}",
)
def test_npy_is_the_array_as_returned(value: np.ndarray[Any, Any]) -> None:
    """Shape and type are the function's own."""
    again = np.load(io.BytesIO(encode(value, job("npy", "tiff", "parquet", "json"))[0]), allow_pickle=False)

    assert again.dtype == value.dtype
    np.testing.assert_array_equal(again, value)


def test_npy_fills_masked_values() -> None:
    """Masked floats are NaN, other masked values 0."""
    for value, missing in ((np.array([[1.0, 2.0]]), "nan"), (np.array([[1, 2]]), "0")):
        again = np.load(io.BytesIO(encode(np.ma.masked_equal(value, 2), job("npy"))[0]))
        assert str(again[0, 1]) == missing


def opened(value: object, wanted: Job, read: Callable[[Any], Any]) -> Any:
    with MemoryFile(encode(value, wanted)[0]) as memory, memory.open() as dataset:
        return read(dataset)


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        (name, name)
        for name in ("uint8", "int8", "uint16", "int16", "int32", "int64", "uint64", "float32", "float64")
    ]
    + [("complex64", "complex64"), ("bool", "uint8"), ("float16", "float32"), (">i2", "int16")],
    ids=str,
)
def test_tiff_keeps_every_type(dtype: str, stored: str) -> None:
    """A GeoTIFF holds the numbers as they are, booleans as bytes, half floats as floats."""
    value = np.arange(12).reshape(3, 4).astype(dtype)

    band = opened((value, [0, 0, 4, 3]), job("tiff"), lambda dataset: dataset.read(1))

    assert band.dtype == stored
    np.testing.assert_array_equal(band, value)


def test_tiff_of_a_pair() -> None:
    """Bounds georeference the file, and the tags let a client rebuild the pair; nothing is nodata."""
    bounds = [10.0, 40.0, 12.0, 41.0]
    body, media_type, facts = encode((GREY, bounds), job("npy", "tiff", tile=TILE))

    with MemoryFile(body) as memory, memory.open() as dataset:
        tags = dataset.tags(ns="fused")
        assert (dataset.crs.to_epsg(), list(dataset.bounds), dataset.nodata) == (4326, bounds, None)
    assert (media_type, facts["bounds"]) == ("image/tiff", bounds)
    assert tags["orig_type"] == "numpy.ndarray"
    assert (json.loads(tags["shape"]), json.loads(tags["bounds"])) == ([16, 16], bounds)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("array", {"orig_type": "xarray.DataArray", "shape": "[4, 5]"}),
        ("dataset", {"orig_type": "xarray.Dataset", "key": "height", "shape": "[1, 4, 5]"}),
    ],
)
def test_tiff_of_xarray(name: str, expected: dict[str, str]) -> None:
    """An xarray object keeps its CRS and the name of its variable, and has no bounds tag."""
    array = xr.DataArray(
        np.zeros((4, 5)),
        dims=("y", "x"),
        coords={"y": [3.5, 2.5, 1.5, 0.5], "x": [0.5, 1.5, 2.5, 3.5, 4.5]},
        attrs={"crs": "EPSG:3857"},
    )
    value = array if name == "array" else xr.Dataset({"height": array})

    crs, tags = opened(value, job("npy", "tiff"), lambda dataset: (dataset.crs, dataset.tags(ns="fused")))

    assert crs.to_epsg() == 3857
    assert tags == expected


def test_tiff_of_an_xarray_pair() -> None:
    """Bounds beside an xarray object make the pair that a client can rebuild, with a plain array in it."""
    value = xr.DataArray(np.zeros((4, 5)), dims=("y", "x")), [0, 0, 5, 4]

    tags = opened(value, job("npy", "tiff"), lambda dataset: dataset.tags(ns="fused"))

    assert (tags["orig_type"], tags["bounds"]) == ("numpy.ndarray", "[0.0, 0.0, 5.0, 4.0]")


def test_tiff_of_coordinates_without_a_crs() -> None:
    """Coordinates of an unknown system are kept; in a tile the file lies in the tile's grid."""
    value = xr.DataArray(
        np.zeros((4, 5)), dims=("y", "x"), coords={"y": np.arange(4) * 1e3, "x": np.arange(5) * 1e3}
    )

    bounds, crs = opened(value, job("tiff"), lambda dataset: (dataset.bounds, dataset.crs))
    assert (tuple(bounds), crs) == ((-500.0, -500.0, 4500.0, 3500.0), None)

    in_tile = opened(value, job("tiff", tile=TILE), lambda dataset: dataset.bounds)
    assert in_tile.left == pytest.approx(tiles.mercator_bounds(TILE)[0])


def test_tiff_of_a_bare_array() -> None:
    """Without bounds a file has no place, in a tile it has the tile's."""
    with pytest.warns(NotGeoreferencedWarning):
        assert opened(GREY, job("tiff"), lambda dataset: dataset.crs) is None

    left, top = opened(
        GREY, job("tiff", tile=TILE), lambda dataset: (dataset.bounds.left, dataset.bounds.top)
    )
    assert (left, top) == pytest.approx((tiles.mercator_bounds(TILE)[0], tiles.mercator_bounds(TILE)[3]))


def test_tiff_keeps_masks() -> None:
    """Masked pixels are hidden by a mask band."""
    value = np.ma.masked_less(GREY, 16)

    mask = opened((value, [0, 0, 1, 1]), job("tiff"), lambda dataset: dataset.dataset_mask())

    assert (mask == np.where(GREY < 16, 0, 255)).all()


# Encoded images


def coded(form: str, colour: str = "red", size: int = 16) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), colour).save(buffer, form)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "AVIF", "TIFF"])
def test_encoded_images_are_sent_as_they_are(form: str) -> None:
    """With no format asked, or its own, an image keeps every byte and its own media type."""
    body = coded(form)
    media_type = f"image/{form.lower()}"
    nothing_asked = Job("c", "b", "u", {}, (), "data", RenderOptions())

    assert encode(body, nothing_asked)[:2] == (body, media_type)
    if form != "AVIF":
        assert encode(io.BytesIO(body), job(form.lower()))[:2] == (body, media_type)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "GIF", "AVIF", "TIFF"])
@pytest.mark.parametrize("name", ["png", "webp", "jpeg"])
def test_encoded_images_are_transcoded_when_asked(form: str, name: str) -> None:
    """Another format asked for by name gets the same picture in that format."""
    body, media_type, _ = encode(coded(form), job(name))

    assert media_type == FORMATS[name].media_type
    red = np.asarray(Image.open(io.BytesIO(body)).convert("RGB"))[8, 8].astype(int)
    assert np.abs(red - (255, 0, 0)).max() < 8


def test_an_image_in_a_larger_scale_is_resampled() -> None:
    """At @2x an encoded image has the size of the tile."""
    assert image(coded("PNG"), job(tile=TILE, scale=2, exact=True)).size == (512, 512)


def test_an_image_with_bounds_is_warped() -> None:
    """An encoded image that covers half of a tile fills that half."""
    west, south, east, north = tiles.bounds(TILE)

    made = rgba((coded("PNG"), [west, south, (west + east) / 2, north]), job(tile=TILE))

    assert (made[:, :128] == (255, 0, 0, 255)).all()
    assert (made[:, 128:, 3] == 0).all()


def test_a_broken_image_is_an_error() -> None:
    """Bytes that only begin like an image can't be transcoded."""
    with pytest.raises(UnsupportedOutput, match="can't be decoded"):
        encode(coded("JPEG")[:60], job("webp"))


# Tiles


@pytest.mark.parametrize("z", range(15))
def test_pixels_of_a_tile_are_the_source_at_their_coordinate(z: int) -> None:
    """At every zoom each pixel has the value of the source pixel that its centre lies in."""
    west, south, east, north = 10.0, 44.0, 18.0, 50.0
    source = np.random.default_rng(z).integers(1, 255, (900, 1100), np.uint8)
    tile = mercantile.tile(13.7, 46.3, z)
    lon, lat = centres(tile)
    rows, columns = (
        np.floor((north - lat) / 6.0 * 900).astype(int),
        np.floor((lon - west) / 8.0 * 1100).astype(int),
    )
    inside = (rows >= 0) & (rows < 900) & (columns >= 0) & (columns < 1100)

    made = rgba((source, [west, south, east, north]), job(tile=tile))

    assert (made[..., 3] == np.where(inside, 255, 0)).all()
    assert (made[..., 0][inside] == source[rows[inside], columns[inside]]).all()


@pytest.mark.parametrize("crs", [3857, 32633, 3035], ids=str)
def test_any_reference_system_is_exact(crs: int) -> None:
    """Data in metres of any CRS lands where its own coordinates say."""
    to_crs = Transformer.from_crs(4326, crs, always_xy=True)
    x0, y0 = to_crs.transform(13.0, 46.0)
    source = np.random.default_rng(1).integers(1, 255, (400, 500)).astype(np.uint8)
    array = xr.DataArray(
        source,
        dims=("y", "x"),
        coords={"y": y0 + 50000 - 100.0 * (np.arange(400) + 0.5), "x": x0 + 100.0 * (np.arange(500) + 0.5)},
        attrs={"crs": f"EPSG:{crs}"},
    )
    tile = mercantile.tile(13.2, 46.2, 10)
    x, y = to_crs.transform(*centres(tile))
    rows, columns = np.floor((y0 + 50000 - y) / 100).astype(int), np.floor((x - x0) / 100).astype(int)
    inside = (rows >= 0) & (rows < 400) & (columns >= 0) & (columns < 500)

    made = rgba(array, job(tile=tile))

    assert inside.mean() > 0.2
    assert (made[..., 3] == np.where(inside, 255, 0)).all()
    assert (made[..., 0][inside] == source[rows[inside], columns[inside]]).mean() > 0.9999


@pytest.mark.parametrize("resampling", ["nearest", "bilinear"])
@pytest.mark.parametrize(
    "bounds",
    [[-180, -90, 180, 90], [0, -90, 360, 90]],
    ids=["-180 to 180", "0 to 360"],
)
def test_the_whole_world(bounds: list[float], resampling: str) -> None:
    """Global data covers every tile to the edges of the world, whichever way its longitudes count."""
    lon = bounds[0] + np.arange(720) * 0.5 + 0.25
    source = np.tile(np.where(np.mod(lon, 360) < 180, 200, 50).astype(np.uint8), (360, 1))

    for x, shade in ((0, 50), (1, 200)):
        made = rgba((source, bounds), job(tile=Tile(x=x, y=1, z=1), resampling=resampling))
        assert (made[..., 3] == 255).all()
        assert (made[:, 2:-2, 0] == shade).all()


@pytest.mark.parametrize("resampling", ["nearest", "cubic"])
def test_a_box_over_the_dateline(resampling: str) -> None:
    """Data from 170 to -170 degrees is seen on both sides of the dateline and nowhere else."""
    value = (np.full((10, 20), 90, np.uint8), [170, -10, -170, 10])

    east = rgba(value, job(tile=Tile(x=1, y=1, z=1), resampling=resampling))[..., 3]
    west = rgba(value, job(tile=Tile(x=0, y=1, z=1), resampling=resampling))[..., 3]

    assert (east[5, -10:] == 255).all()
    assert (west[5, :10] == 255).all()
    assert (east[5, :200] == 0).all()
    assert (west[5, 50:] == 0).all()


def test_a_pair_with_the_bounds_of_the_tile_is_the_tile() -> None:
    """What a function made for the bounds it was given keeps its own pixels, to half a pixel."""
    west, south, east, north = tiles.bounds(TILE)
    step = (east - west) / 16

    for bounds in ([west, south, east, north], [west + 0.4 * step, south, east, north]):
        made = image((GREY, bounds), job(tile=TILE))
        assert (np.asarray(made) == GREY).all()
    assert image((GREY, [west + 0.6 * step, south, east, north]), job(tile=TILE)).size == (256, 256)


def test_bare_arrays_keep_their_shape_unless_a_size_is_asked() -> None:
    """An array is the tile as it is; a size or scale in the address resamples it."""
    assert image(np.zeros((3, 300, 200), np.uint8), job(tile=TILE)).size == (200, 300)

    doubled = np.asarray(image(GREY, job(tile=TILE, size=16, scale=2, exact=True)))
    assert (doubled == GREY.repeat(2, axis=0).repeat(2, axis=1)).all()


def test_smooth_resampling_never_mixes_in_hidden_values() -> None:
    """Bilinear pixels beside a hole have the colour of what is visible."""
    value = np.ma.masked_equal(np.full((16, 16), 100, np.float32), 0)
    value[:, :8] = np.ma.masked
    value.data[:, :8] = 1e6

    made = rgba(value, job(tile=TILE, exact=True, resampling="bilinear", rescale=((0.0, 200.0),)))

    assert set(made[..., 0][made[..., 3] > 0].tolist()) == {128}
    assert (made[:, :120, 3] == 0).all()
    assert (made[:, 136:, 3] == 255).all()


def test_data_elsewhere_is_empty() -> None:
    """A raster that doesn't reach the tile is a transparent picture that says so."""
    body, _, facts = encode((GREY, [100, 0, 101, 1]), job(tile=TILE))

    assert facts["empty"] is True
    assert facts["bounds"] == [100, 0, 101, 1]
    assert Image.open(io.BytesIO(body)).size == (256, 256)


def test_an_array_without_pixels_is_empty() -> None:
    """An array with a side of 0 is no data, rather than an error."""
    assert encode(np.zeros((3, 0, 256), np.uint8), job(tile=TILE))[2]["empty"] is True


@pytest.mark.parametrize(
    "value", [np.zeros((65, 10), np.uint8), coded("PNG", size=65)], ids=["array", "image"]
)
def test_tiles_have_a_largest_side(value: object) -> None:
    """A side over the limit is an error that names it; without a tile there is no such limit."""
    with pytest.raises(UnsupportedOutput, match="max_tile_pixels"):
        encode(value, job(tile=TILE, max_pixels=64))

    assert max(image(value, job(max_pixels=64)).size) == 65


@pytest.mark.parametrize("name", ["png", "jpeg", "gif", "webp", "apng"])
def test_features_are_drawn_in_every_format(name: str) -> None:
    """A GeoDataFrame asked for as a picture is drawn at the tile's size."""
    frame = gpd.GeoDataFrame(geometry=[shapely.box(*tiles.bounds(TILE)).buffer(-2)], crs=4326)

    made = image(frame, job(name, tile=TILE, scale=2))

    assert made.size == (512, 512)
    assert np.asarray(made.convert("RGB"))[256, 256].tolist() != [255, 255, 255]


@pytest.mark.parametrize("upwards", [False, True], ids=["north first", "south first"])
def test_a_geotiff_in_memory_is_warped_when_a_picture_is_asked(upwards: bool) -> None:
    """Bytes of a GeoTIFF know where they lie: asked for as PNG, they are put on the tile."""
    north_to_south = np.repeat(np.array([200, 50], np.uint8), 8)[:, None] * np.ones((16, 16), np.uint8)
    step = -2.5 if not upwards else 2.5
    place = Affine(0.625, 0, 0, 0, step, 20 if upwards else 60)
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff", width=16, height=16, count=1, dtype="uint8", crs="EPSG:4326", transform=place
        ) as dataset:
            dataset.write(north_to_south[::-1] if upwards else north_to_south, 1)
        made = rgba(memory.read(), job("png", tile=TILE))

    lon, lat = centres(TILE)
    assert (made[..., 3] == np.where(lon < 10, 255, 0)).all()
    assert (made[..., 0][lon < 10] == np.where(lat > 40, 200, 50)[lon < 10]).all()
