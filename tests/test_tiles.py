"""Tile addresses: what is valid, and where a tile lies."""

from __future__ import annotations

import mercantile
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tileserver import tiles
from tileserver.errors import InvalidTile


@pytest.mark.parametrize(
    ("last", "scale", "extension"),
    [
        ("2", 1, None),
        ("2.png", 1, "png"),
        ("2@2x", 2, None),
        ("2@4x.webp", 4, "webp"),
        ("2.aux.xml", 1, "aux.xml"),
    ],
)
def test_the_last_segment_may_have_a_scale_and_an_extension(
    last: str, scale: int, extension: str | None
) -> None:
    """docs/http.md: ``{y}[@2x][.ext]``."""
    found = tiles.parse("3", "4", last)

    assert found == (mercantile.Tile(x=4, y=2, z=3), scale, extension)


@pytest.mark.parametrize(
    ("z", "x", "last", "says"),
    [
        ("1", "2", "0", "x and y go from 0 to 1"),
        ("1", "0", "2", "x and y go from 0 to 1"),
        ("31", "0", "0", "outside 0 to 30"),
        ("-1", "0", "0", "z of a tile is a whole number"),
        ("1", "1.0", "0", "x of a tile is a whole number"),
        ("1", "0", "", "y of a tile is a whole number"),
        ("1", "0", "1@5x", "not of the form"),
        ("١", "0", "0", "z of a tile is a whole number"),
        ("1", "0" * 5000, "0", "x of a tile is a whole number"),
    ],
    ids=lambda value: value[:12],
)
def test_an_address_that_is_no_tile_says_what_one_is(z: str, x: str, last: str, says: str) -> None:
    """docs/http.md: malformed numbers and tiles outside the matrix name the valid range."""
    with pytest.raises(InvalidTile, match=says):
        tiles.parse(z, x, last)


@given(st.integers(0, 28).flatmap(lambda z: st.tuples(st.just(z), *[st.integers(0, 2**z - 1)] * 2)))
def test_the_bounding_tile_of_a_tile_is_itself(address: tuple[int, int, int]) -> None:
    """Bounds and tiles agree down to zoom 28; a hair inside, since edges belong to two tiles."""
    z, x, y = address
    tile = mercantile.Tile(x=x, y=y, z=z)
    west, south, east, north = tiles.bounds(tile)
    dx, dy = (east - west) * 1e-3, (north - south) * 1e-3

    assert tiles.bounding_tile((west + dx, south + dy, east - dx, north - dy)) == tile


@pytest.mark.parametrize(
    ("box", "zoom"), [(tiles.WORLD, 0), ((-90.0, 0.0, 90.0, 66.0), 1), ((0.0, 0.0, 0.0, 0.0), 30)]
)
def test_the_zoom_that_fits_bounds_shows_all_of_them(box: tiles.Bounds, zoom: int) -> None:
    """The largest zoom at which everything is in view."""
    assert tiles.fit_zoom(box) == zoom
