"""PNG as two other decoders read it: every colour type, depth and width, and never a wrong pixel.

The decoders are Pillow and GDAL; the layout of the file is the PNG Specification's.
"""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from tileserver.formats import FORMATS
from tileserver.render import png
from tileserver.render.pixels import Picture, coloured
from tileserver.render.raster import encode_picture

Array = np.ndarray[Any, Any]

SHAPES = [(1, 1), (1, 7), (7, 1), (2, 2), (3, 5), (5, 8), (4, 9), (16, 17), (33, 31), (64, 257)]
RAMP = np.stack([np.arange(256)] * 3 + [np.full(256, 255)], axis=-1).astype(np.uint8)
RAMP[:, 1] ^= 0x55
CLEAR = np.where(np.arange(256) % 3 == 0, 255, np.arange(256))[:, None] * np.array([0, 0, 0, 1])
GLASS = (RAMP * np.array([1, 1, 1, 0]) + CLEAR).astype(np.uint8)  # colours of every opacity


def chunks(body: bytes) -> Iterator[tuple[str, bytes]]:
    """Names and data of the chunks; their checksums are right."""
    assert body[:8] == b"\x89PNG\r\n\x1a\n"
    at = 8
    while at < len(body):
        (length,) = struct.unpack_from(">I", body, at)
        data = body[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", body, at + 8 + length)[0] == zlib.crc32(body[at + 4 : at + 8] + data)
        yield body[at + 4 : at + 8].decode(), data
        at += 12 + length


def header(body: bytes) -> tuple[int, ...]:
    """Width, height, bit depth, colour type, and the three methods."""
    return struct.unpack(">IIBBBBB", dict(chunks(body))["IHDR"])


def filters(body: bytes) -> set[int]:
    """The filter types of all rows."""
    width, height, depth, kind, *_ = header(body)
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    stream = zlib.decompress(b"".join(data for name, data in chunks(body) if name == "IDAT"))
    row = 1 + -(-width * depth * channels // 8)
    assert len(stream) == row * height
    return set(stream[::row])


def gdal(body: bytes) -> tuple[Array, dict[int, tuple[int, int, int, int]] | None]:
    """Bands and colour table as GDAL reads them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with MemoryFile(body) as memory, memory.open() as dataset:
            indexed = dataset.colorinterp[0].name == "palette"
            return dataset.read(), dataset.colormap(1) if indexed else None


def check_bands(bands: Array) -> bytes:
    """The file, after both decoders have found every sample in it."""
    body = png.encode(list(bands))
    channels, height, width = bands.shape
    with Image.open(io.BytesIO(body)) as image:
        assert image.mode == {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[channels]
        np.testing.assert_array_equal(
            np.asarray(image).reshape(height, width, channels), np.moveaxis(bands, 0, -1)
        )
    found, _ = gdal(body)
    np.testing.assert_array_equal(found, bands)
    assert len(filters(body)) == 1
    return body


def check_indexed(indices: Array, palette: Array, hidden: Array | None = None) -> bytes | None:
    """The file, after both decoders have found every colour in it; hidden pixels are transparent."""
    body = png.encode_indexed(indices, palette, hidden)
    if body is None:
        return None
    expected = palette[indices]
    if hidden is not None:
        expected[hidden] = 0
    with Image.open(io.BytesIO(body)) as image:
        assert image.mode in ("P", "1")
        np.testing.assert_array_equal(np.asarray(image.convert("RGBA")), expected)
    (band,), table = gdal(body)
    assert table is not None
    lookup = np.zeros((256, 4), np.uint8)
    for index, colour in table.items():
        lookup[index] = colour
    np.testing.assert_array_equal(lookup[band], expected)
    return body


def values(shape: tuple[int, ...], look: str) -> Array:
    rng = np.random.default_rng(sum(shape))
    if look == "noise":
        return rng.integers(0, 256, shape, np.uint8)
    if look == "slope":
        return np.add.outer(np.arange(shape[-2]), np.arange(shape[-1])).astype(np.uint8) + np.zeros(
            shape, np.uint8
        )
    if look == "classes":
        return np.repeat(rng.integers(0, 256, (*shape[:-1], 1), np.uint8), shape[-1], axis=-1)
    return np.full(shape, 200, np.uint8)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("channels", [1, 2, 3, 4], ids=["grey", "grey and alpha", "RGB", "RGBA"])
@pytest.mark.parametrize("look", ["noise", "slope", "classes", "flat"])
def test_samples_are_read_as_written(channels: int, shape: tuple[int, int], look: str) -> None:
    """Grey and colour, with and without alpha, of any size: each sample is the array's."""
    check_bands(values((channels, *shape), look))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("layout", ["interleaved", "upside down", "every other pixel", "read-only"])
def test_memory_layout_does_not_matter(channels: int, layout: str) -> None:
    """Views into arrays of another order are written like any array, and aren't written into."""
    bands = values((channels, 20, 30), "noise")
    if layout == "interleaved":
        bands = np.moveaxis(np.ascontiguousarray(np.moveaxis(bands, 0, -1)), -1, 0)
    elif layout == "upside down":
        bands = bands[:, ::-1]
    elif layout == "every other pixel":
        bands = bands[:, ::2, ::2]
    else:
        bands.setflags(write=False)
    before = bands.copy()

    check_bands(bands)

    np.testing.assert_array_equal(bands, before)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("colours", [1, 2, 3, 4, 5, 15, 16, 17, 100, 255, 256])
@pytest.mark.parametrize("palette", [RAMP, GLASS], ids=["opaque", "every opacity"])
@pytest.mark.parametrize("share", [None, 0.0, 0.3, 1.0], ids=["no mask", "nothing", "some", "all"])
def test_colours_are_read_as_written(
    shape: tuple[int, int], colours: int, palette: Array, share: float | None
) -> None:
    """Any number of colours, in any width, with and without hidden pixels: each is the palette's."""
    rng = np.random.default_rng(colours)
    chosen = rng.permutation(256)[:colours].astype(np.uint8)
    indices = chosen[rng.integers(0, colours, shape)]
    hidden = None if share is None else rng.random(shape) < share

    body = check_indexed(indices, palette, hidden)

    visible = indices if hidden is None else indices[~hidden]
    used = len(np.unique(visible)) + (hidden is not None and bool(hidden.any()))
    assert (body is None) == (used > 256)
    if body is not None:
        smallest = next(depth for depth in (1, 2, 4, 8) if used <= 2**depth)
        assert header(body) == (shape[1], shape[0], smallest, 3, 0, 0, 0)
        assert filters(body) <= {0, 2}


def test_a_colour_twice_in_the_palette_is_written_once() -> None:
    """256 indices of 128 colours leave room for the transparent one, and 16 colours fit 4 bits."""
    indices = np.arange(256, dtype=np.uint8).reshape(16, 16)
    hidden = indices == 77

    half = check_indexed(indices, RAMP[np.arange(256) // 2 * 2], hidden)
    few = check_indexed(indices, RAMP[np.arange(256) // 16 * 16])

    assert half is not None and header(half)[2] == 8
    assert few is not None and header(few)[2] == 4


def test_a_palette_may_be_short() -> None:
    """Fewer than 256 colours are a palette, too."""
    assert check_indexed(np.array([[0, 1], [2, 0]], np.uint8), RAMP[:3]) is not None


def test_transparency_is_written_where_there_is_any() -> None:
    """An opaque palette has no tRNS chunk; of another, the opaque end is left out."""
    indices = np.arange(3, dtype=np.uint8)[None]

    opaque = dict(chunks(png.encode_indexed(indices, RAMP) or b""))
    hidden = dict(chunks(png.encode_indexed(indices, RAMP, np.array([[False, True, False]])) or b""))

    assert list(opaque) == ["IHDR", "PLTE", "IDAT", "IEND"]
    assert list(hidden) == ["IHDR", "PLTE", "tRNS", "IDAT", "IEND"]
    assert (hidden["tRNS"], len(hidden["PLTE"])) == (b"\0", 9)


def test_the_filter_fits_the_picture() -> None:
    """Rows of slopes are written as differences, classes as they are; few colours are never filtered."""
    rows, columns = np.mgrid[:64, :64]
    slope = (rows * 3 + columns**2 // 40).astype(np.uint8)
    # Classes: numbers without an order, in waving stripes, and a pixel in ten of another class.
    rng = np.random.default_rng(1)
    classes = ((rows + 6 * np.sin(columns / 5.0)) // 3).astype(np.uint8) % 40
    classes = np.where(rng.random((64, 64)) < 0.1, rng.integers(0, 40, (64, 64)), classes)
    classes = rng.permutation(256).astype(np.uint8)[classes]

    assert filters(check_bands(slope[None])) == {2}
    assert filters(check_bands(np.stack([slope, slope // 2, slope]))) == {2}
    assert filters(check_indexed(slope, RAMP) or b"") == {2}
    assert filters(check_indexed(slope // 16, RAMP) or b"") == {0}
    assert filters(check_bands(classes[None])) == {0}
    assert filters(check_indexed(classes, RAMP) or b"") == {0}


def test_a_long_stream_is_written_in_several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one chunk can't hold goes on in the next."""
    monkeypatch.setattr(png, "_CHUNK", 1000)

    body = check_bands(values((3, 64, 64), "noise"))

    lengths = [len(data) for name, data in chunks(body) if name == "IDAT"]
    assert len(lengths) > 2 and set(lengths[:-1]) == {1000}


def test_without_isal_the_standard_library_deflates() -> None:
    """Where the wheel is absent the same pixels are written by zlib."""
    code = (
        "import sys; sys.modules['isal'] = None\n"
        "import numpy, zlib\nfrom tileserver.render import png\nassert png._deflate is zlib.compress\n"
        "band = (numpy.arange(400) % 251).astype('u1').reshape(20, 20)\n"
        "sys.stdout.buffer.write(png.encode([band, band.T]))"
    )

    body = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60).stdout

    band = (np.arange(400) % 251).astype(np.uint8).reshape(20, 20)
    np.testing.assert_array_equal(gdal(body)[0], [band, band.T])
    assert body != png.encode([band, band.T])  # which is what this environment has the wheel for


shapes = st.tuples(st.integers(1, 40), st.integers(1, 40))


def arrays(channels: st.SearchStrategy[int]) -> st.SearchStrategy[Array]:
    """Arrays of a few values or of many."""
    return st.tuples(channels, shapes, st.sampled_from([1, 2, 4, 16, 255])).flatmap(
        lambda drawn: npst.arrays(np.uint8, (drawn[0], *drawn[1]), elements=st.integers(0, drawn[2]))
    )


@given(arrays(st.integers(1, 4)))
def test_any_samples(bands: Array) -> None:
    """Generated arrays are read as written."""
    check_bands(bands)


@given(
    arrays(st.just(1)),
    st.one_of(st.just(RAMP), st.just(GLASS), npst.arrays(np.uint8, (256, 4))),
    st.integers(0, 255),
    st.booleans(),
)
@example(np.zeros((1, 1, 1), np.uint8), RAMP, 0, True)
def test_any_indices(bands: Array, palette: Array, fill: int, masked: bool) -> None:
    """Generated indices, palettes and masks are read as written."""
    indices = bands[0]
    hidden = (indices * 7 + np.arange(indices.shape[1]) * 13) % 256 <= fill if masked else None

    assert check_indexed(indices, palette, hidden) is not None or len(np.unique(indices)) == 256


@pytest.mark.parametrize(("colours", "palette"), [(1, False), (1, True), (3, False)])
@pytest.mark.parametrize("alpha", [None, 0, 90, 255])
@pytest.mark.parametrize("name", ["png", "apng", "webp"])
def test_pictures_of_a_format_have_the_same_colours(
    name: str, colours: int, alpha: int | None, palette: bool
) -> None:
    """With and without a palette, opaque, hidden in part and half transparent: the picture's own pixels."""
    bands = values((colours, 24, 36), "slope")
    opacity = None if alpha is None else np.where(bands[0] % 5 == 0, alpha, 255).astype(np.uint8)
    picture = Picture(bands, opacity, RAMP if palette else None)
    plain = coloured(picture)
    expected = np.full((24, 36, 4), 255, np.uint8)
    expected[..., :3] = np.moveaxis(plain.colours, 0, -1)
    if plain.alpha is not None:
        expected[..., 3] = plain.alpha

    found = np.asarray(Image.open(io.BytesIO(encode_picture(picture, FORMATS[name]))).convert("RGBA"))

    visible = expected[..., 3] > 0
    np.testing.assert_array_equal(found[..., 3], expected[..., 3])
    np.testing.assert_array_equal(found[visible], expected[visible])
