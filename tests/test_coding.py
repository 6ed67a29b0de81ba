"""Content codings: what a client takes, and bodies that are compressed once."""

from __future__ import annotations

import gzip
import os

import pytest
import zstandard

from tileserver.cache import Stored
from tileserver.coding import Coder, choose
from tileserver.protocol import Encoded

LARGE = 300 * 1024


def stored(body: bytes, media_type: str = "application/json", etag: str = '"a"') -> Stored:
    return Stored("key", Encoded(body, media_type, 0.0, {}), etag)


@pytest.mark.parametrize(
    ("accept", "coding"),
    [
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip;q=1.0, zstd;q=0", "gzip"),
        ("GZIP", "gzip"),
        ("br", None),
        ("", None),
    ],
)
def test_the_coding_is_one_that_the_client_takes(accept: str, coding: str | None) -> None:
    """RFC 9110, section 12.5.3; zstd before gzip."""
    assert choose(accept, "application/json", 2000) == coding


@pytest.mark.parametrize(
    ("media_type", "length", "coding"),
    [
        ("application/vnd.mapbox-vector-tile", 2000, "gzip"),
        ("text/csv; charset=utf-8", 2000, "gzip"),
        ("application/json", 100, None),
        ("image/png", 2000, None),
        ("application/octet-stream", 2000, None),
    ],
)
def test_only_what_gains_by_it_is_compressed(media_type: str, length: int, coding: str | None) -> None:
    """Pictures and parquet are compressed already, short answers aren't worth it."""
    assert choose("gzip", media_type, length) == coding


@pytest.mark.anyio
@pytest.mark.parametrize("length", [2000, LARGE])
async def test_a_body_comes_back_from_each_coding(length: int) -> None:
    """Also a large one, which another thread compresses."""
    coder, body = Coder(2**20), os.urandom(length // 2) * 2

    assert gzip.decompress(await coder.coded(stored(body), "gzip")) == body
    assert zstandard.decompress(await coder.coded(stored(body), "zstd")) == body


@pytest.mark.anyio
async def test_a_body_is_compressed_once() -> None:
    """As long as it is remembered: a result is known by its validator."""
    coder = Coder(2**20)

    first = await coder.coded(stored(b"x" * 2000), "gzip")

    assert await coder.coded(stored(b"x" * 2000), "gzip") is first
    assert await coder.coded(stored(b"y" * 2000, etag='"b"'), "gzip") is not first


@pytest.mark.anyio
async def test_what_was_used_longest_ago_makes_room() -> None:
    """No more is remembered than there is room for, and nothing where there is none."""
    bodies = {f'"{n}"': os.urandom(2000) for n in range(5)}
    coder, without = Coder(9000), Coder(0)

    first = {tag: await coder.coded(stored(body, etag=tag), "gzip") for tag, body in bodies.items()}

    assert await coder.coded(stored(bodies['"4"'], etag='"4"'), "gzip") is first['"4"']
    assert await coder.coded(stored(bodies['"0"'], etag='"0"'), "gzip") is not first['"0"']
    made = await without.coded(stored(b"x" * 2000), "gzip")
    assert await without.coded(stored(b"x" * 2000), "gzip") is not made


@pytest.mark.anyio
async def test_small_bodies_cost_more_than_their_bytes() -> None:
    """However well bodies compress, no more of them are remembered than memory was given for."""
    coder = Coder(10_000)
    bodies = [stored(b"x" * 2000, etag=f'"{n}"') for n in range(100)]

    first = [await coder.coded(body, "gzip") for body in bodies]

    assert sum(map(len, first)) < 10_000
    assert await coder.coded(bodies[-1], "gzip") is first[-1]
    assert await coder.coded(bodies[0], "gzip") is not first[0]
