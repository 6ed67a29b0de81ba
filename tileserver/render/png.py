"""PNG files, written here: one filter for a whole picture, the fastest deflate there is, palettes kept.

Chapters and sections are those of the PNG Specification, third edition (W3C). Depth is 8 bits a sample for
grey and colour, and the least that holds all indices for palettes; pictures are never interlaced. A general
encoder tries every filter on every row; here a sample of rows decides for all, as rows of one tile are alike.
"""

from __future__ import annotations

import functools
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Flags = NDArray[np.bool_]

# ISA-L deflates several times faster than zlib, at about the size of zlib's level 1.
_deflate: Callable[[Any, int], bytes] = zlib.compress
_crc32: Callable[..., int] = zlib.crc32
try:
    from isal import isal_zlib
except ImportError:
    pass  # no wheel for this platform: the standard library's, same pixels
else:
    _deflate, _crc32 = isal_zlib.compress, isal_zlib.crc32

_LEVEL: Final = 1

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"  # 5.2
_CHUNK: Final = 2**31 - 1  # 5.3: bytes that one chunk can hold
_COLOUR_TYPES: Final = {1: 0, 2: 4, 3: 2, 4: 6}  # 11.2.1, table 10: by the number of channels
_PALETTE: Final = 3

# 9.2, table 11
_NONE: Final = 0
_UP: Final = 2

_BLOCKS: Final = 4  # of a few rows each, spread over the picture, to choose the filter by


def encode(bands: Sequence[Bytes]) -> bytes:
    """Grey, grey and alpha, RGB or RGBA: one to four bands (height, width), 8 bits each (4.3, 6.1)."""
    height, width = bands[0].shape
    return _file(width, height, 8, _COLOUR_TYPES[len(bands)], _filtered(bands, _filter(bands[0])))


def encode_indexed(indices: Bytes, palette: Bytes, hidden: Flags | None = None) -> bytes | None:
    """A picture of indices into a palette of RGBA colours, at 1, 2, 4 or 8 bits a pixel.

    Colours that no pixel shows are left out. None when there are over 256, those of hidden pixels
    (transparent black) among them.

    :param palette: (n, 4) of at most 256 colours; no index is beyond them.
    """
    height, width = indices.shape
    hidden = None if hidden is None or not hidden.any() else hidden
    if hidden is not None:
        # Under hidden pixels a colour that is seen elsewhere, so that no other is counted.
        indices = np.where(hidden, indices.flat[hidden.argmin()], indices)
    raw = indices.tobytes()
    shown = [] if hidden is not None and hidden.all() else _distinct(raw)
    table = _first_of_equals(palette.tobytes())
    if table is not None:
        raw, shown = raw.translate(table), sorted({table[index] for index in shown})
    count = len(shown) + (hidden is not None)
    if count > 256:
        return None
    if count <= 16:
        depth = 1 if count <= 2 else 2 if count <= 4 else 4
        places = bytearray(256)
        for place, index in enumerate(shown, count - len(shown)):
            places[index] = place
        raw, spare = raw.translate(places), 0  # hidden pixels first: the shortest tRNS
        colours = palette[shown]
        if hidden is not None:
            colours = np.concatenate([np.zeros((1, 4), np.uint8), colours])
    else:
        depth = 8  # indices stay as they are: their order is what the filter lives on
        spare = 0 if hidden is None else min(set(range(256)).difference(shown))
        colours = np.zeros((max(shown[-1], spare) + 1, 4), np.uint8)
        colours[shown] = palette[shown]
    indices = np.frombuffer(raw, np.uint8).reshape(height, width)
    if hidden is not None:
        indices = np.where(hidden, np.uint8(spare), indices)
    data = _packed(indices, depth) if depth < 8 else _filtered([indices], _filter(indices))
    return _file(width, height, depth, _PALETTE, data, colours)


def _distinct(data: bytes) -> list[int]:
    """The bytes in it, in ascending order: a sample finds most of them, one pass the rest."""
    found = set(data[::97])
    return sorted(found.union(data.translate(None, bytes(found))))


@functools.lru_cache(maxsize=32)
def _first_of_equals(palette: bytes) -> bytes | None:
    """For each index the first one of the same colour; None when all colours differ."""
    firsts: dict[bytes, int] = {}
    table = [firsts.setdefault(palette[at : at + 4], at // 4) for at in range(0, len(palette), 4)]
    return None if len(firsts) == len(table) else bytes(table).ljust(256, b"\0")


def _filter(band: Bytes) -> int:
    """The filter of all rows (9.1): none where that makes a sample smaller, as with classes, else up.

    One band speaks for all of a picture. Deflate itself compares: it sees repetition as no formula does.
    """
    height, width = band.shape
    blocks = band[None]
    if height >= 8 * _BLOCKS:
        part = height // _BLOCKS
        middle = part // 2
        blocks = band[: part * _BLOCKS].reshape(_BLOCKS, part, width)[:, middle : middle + 5]
    plain = blocks[:, 1:]
    difference = plain - blocks[:, :-1]
    smaller = len(_deflate(plain.tobytes(), _LEVEL)) < len(_deflate(difference.tobytes(), _LEVEL))
    return _NONE if smaller else _UP


def _filtered(bands: Sequence[Bytes], kind: int) -> Bytes:
    """Rows of interleaved samples, each after the byte of its filter (7.2, 9.2).

    Up subtracts the sample above, modulo 256; above the first row all is zero.
    """
    (height, width), channels = bands[0].shape, len(bands)
    data = np.empty((height, 1 + channels * width), np.uint8)
    data[:, 0] = kind
    samples = data[:, 1:].reshape(height, width, channels)
    for channel, band in enumerate(bands):
        if kind == _NONE:
            samples[..., channel] = band
        else:
            samples[0, :, channel] = band[0]
            np.subtract(band[1:], band[:-1], out=samples[1:, :, channel])
    return data


def _packed(indices: Bytes, depth: int) -> Bytes:
    """Rows of indices of fewer than 8 bits, the leftmost in the high bits (7.2), without a filter (12.7)."""
    height, width = indices.shape
    short = -width % (8 // depth)
    rows = np.pad(indices, ((0, 0), (0, short))) if short else np.ascontiguousarray(indices)
    while depth < 8:  # two neighbours become one byte: the left one is the low byte of a pair
        pairs = rows.view("<u2")
        rows = ((pairs << np.uint16(depth)) | (pairs >> np.uint16(8))).astype(np.uint8)
        depth *= 2
    data = np.empty((height, 1 + rows.shape[1]), np.uint8)
    data[:, 0], data[:, 1:] = _NONE, rows
    return data


def _file(width: int, height: int, depth: int, kind: int, data: Bytes, palette: Bytes | None = None) -> bytes:
    """The signature and the chunks in their order (5.6): IHDR, PLTE, tRNS, IDAT, IEND."""
    # 11.2.1: the only compression and filter methods, not interlaced
    parts = [_SIGNATURE, *_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))]
    if palette is not None:
        parts += _chunk(b"PLTE", palette[:, :3].tobytes())  # 11.2.2
        opacities = palette[:, 3].tobytes().rstrip(b"\xff")  # 11.3.1.1: what is left out is opaque
        if opacities:
            parts += _chunk(b"tRNS", opacities)
    stream = memoryview(_deflate(data, _LEVEL))  # 10.1: one zlib stream, in as many chunks as needed (11.2.3)
    for start in range(0, len(stream), _CHUNK):
        parts += _chunk(b"IDAT", stream[start : start + _CHUNK])
    return b"".join([*parts, *_chunk(b"IEND", b"")])


def _chunk(name: bytes, data: bytes | memoryview) -> Iterator[bytes | memoryview]:
    """Length, type, data, and the CRC of type and data (5.3)."""
    yield struct.pack(">I", len(data))
    yield name
    yield data
    yield struct.pack(">I", _crc32(data, _crc32(name)))
