"""From a query to a call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mercantile import Tile

from tileserver.errors import BadRequest, UnknownFormat
from tileserver.params import DEFAULT_MAX_AGE, Address, Call, Limits, build_call, parse_query
from tileserver.protocol import Bundle
from tileserver.signature import read
from tileserver.udf import Udf, UdfSettings

TILE = Address(tile=Tile(x=1, y=0, z=1))
BUNDLE = Bundle("b", "c", "c", "/c", {}, {}, {})


def udf(parameters: str = "n: int = 1", *, decorator: str = "@fused.udf", **settings: object) -> Udf:
    signature = read(f"{decorator}\ndef udf({parameters}): pass\n")
    return Udf("c", "u", "r1", signature, UdfSettings.from_table(settings), "u", "", {})


def call(query: str = "", address: Address = Address(), **options: Any) -> Call:
    made = udf(**options)
    return build_call(made, BUNDLE, address, parse_query(query.encode()), limits=Limits())


def test_parameters_of_the_udf_are_arguments_and_others_are_ignored() -> None:
    """Contract, section 4.3.1."""
    assert call("n=5&m=6&utm_source=x").arguments == {"n": "5"}


def test_a_posted_none_is_an_argument() -> None:
    """None in the body is passed as None, not left to the default (contract, section 5)."""
    posted = {"n": None, "m": 1}

    found = build_call(udf(), BUNDLE, Address(), (), limits=Limits(), arguments=posted)

    assert found.arguments == {"n": None}


def test_a_udf_with_kwargs_gets_the_others_as_strings() -> None:
    """Contract, section 4.3.1; reserved names and render options stay out."""
    found = call("n=5&m=6&format=json&_x=1&colormap=viridis", parameters="n, **kwargs")

    assert found.arguments == {"n": "5", "m": "6"}


def test_a_stored_default_yields_to_the_request_and_none_to_the_function() -> None:
    """Contract, section 4.3: defaults stored beside a UDF come first; None is none at all."""
    stored = replace(udf("n: int = 1, m=2"), defaults={"n": 7, "m": None})

    def arguments(query: bytes) -> object:
        return build_call(stored, BUNDLE, Address(), parse_query(query), limits=Limits()).arguments

    assert arguments(b"") == {"n": 7}
    assert arguments(b"n=5&m=6") == {"n": "5", "m": "6"}


def test_a_reserved_name_is_never_an_argument() -> None:
    """Contract, section 4.1: also where the UDF declares a parameter of that name."""
    found = call("format=csv&cache_max_age=5&_x=1&n=2", parameters="format='', cache_max_age=0, _x=0, n=1")

    assert found.arguments == {"n": "2"}
    assert (found.formats, found.max_age) == (("csv",), 5)


def test_a_single_format_is_one_call_whoever_asks() -> None:
    """Contract, section 8: a browser's ``Accept`` counts in the key only where it chooses the format."""

    def key(query: str, *, page: bool) -> str:
        return call(query, Address(page=page)).cache_key()

    assert key("format=csv", page=True) == key("format=csv", page=False)
    assert key("", page=True) != key("", page=False)
    assert key("format=csv,png", page=True) != key("format=csv,png", page=False)


def test_a_repeated_key_is_a_list() -> None:
    """Contract, section 4.3.3."""
    assert call("n=1&n=2").arguments == {"n": ["1", "2"]}


def test_a_tile_overrides_what_the_query_says_of_it() -> None:
    """Contract, section 5.1: such parameters don't even count for the cache."""
    found = call("bounds=[1,2,3,4]&n=2", TILE, parameters="bounds=None, n=1")

    assert found.arguments == {"n": "2"}
    assert found.tile == TILE.tile


@pytest.mark.parametrize(
    ("query", "extension", "formats"),
    [
        ("", None, ()),
        ("format=csv", None, ("csv",)),
        ("=png", None, ("png",)),
        ("format=npy,tiff,parquet,json", None, ("npy", "tiff", "parquet", "json")),
        ("format=JPG", None, ("jpeg",)),
        ("format=csv&=png", None, ("csv",)),
        ("format=csv", "json", ("json",)),
        ("dtype_out_vector=csv&dtype_out_raster=png", None, ("vector:csv", "raster:png")),
        ("format=&dtype_out_vector=csv", None, ("vector:csv",)),
    ],
)
def test_the_first_source_of_formats_wins(query: str, extension: str | None, formats: Sequence[str]) -> None:
    """Contract, section 7.3.1: extension, ``format``, the empty name, the legacy pair."""
    assert call(query, Address(extension=extension)).formats == formats


def test_an_unknown_format_names_the_known_ones() -> None:
    """Contract, section 3: 422 with a list."""
    with pytest.raises(UnknownFormat, match=r"'docx'; known: parquet, geojson"):
        call("format=docx")


@pytest.mark.parametrize(
    ("query", "settings", "decorator", "age"),
    [
        ("", {}, "@fused.udf", DEFAULT_MAX_AGE),
        ("", {}, "@fused.udf(cache_max_age='1h')", 3600),
        ("", {"cache_max_age": "2h"}, "@fused.udf(cache_max_age='1h')", 7200),
        ("cache_max_age=3s", {"cache_max_age": "2h"}, "@fused.udf(cache_max_age='1h')", 3),
        ("cache=false", {}, "@fused.udf", 0),
        ("cache_max_age=1d", {"cache": False}, "@fused.udf", 0),
    ],
    ids=["default", "decorator", "canvas.toml", "query", "cache=false", "switched off"],
)
def test_the_age_of_the_caller_beats_the_settings_beat_the_decorator(
    query: str, settings: dict[str, Any], decorator: str, age: int
) -> None:
    """Contract, section 8, precedence; docs/workspace.md."""
    assert call(query, decorator=decorator, **settings).max_age == age


def test_noise_of_the_client_does_not_change_the_key() -> None:
    """Contract, section 4.1: calls that differ in reserved names only share one entry, in any order."""
    plain = call("n=1&m=2", parameters="n, m")
    noisy = call(
        "profile=False&m=2&_stream_logs=false&n=1&fused_cache_disable_stream=true&cache_max_age=9",
        parameters="n, m",
    )

    assert plain.cache_key() == noisy.cache_key()


@pytest.mark.parametrize("query", ["n=2", "format=csv", "rescale=0,1", "colormap=viridis", "size=512"])
def test_what_changes_the_answer_changes_the_key(query: str) -> None:
    """Contract, section 8: arguments, formats and rendering are in the key."""
    assert call(query).cache_key() != call("").cache_key()


def test_each_tile_and_revision_has_its_own_key() -> None:
    """Contract, section 8."""
    other = Udf("c", "u", "r2", udf().signature, UdfSettings(), "u", "", {})
    keys = {
        call("").cache_key(),
        call("", TILE).cache_key(),
        call("", Address(tile=Tile(x=0, y=0, z=1))).cache_key(),
        build_call(other, BUNDLE, Address(), [], limits=Limits()).cache_key(),
    }

    assert len(keys) == 4


def test_render_options_are_the_udfs_own_where_it_declares_them() -> None:
    """docs/http.md: ``colormap`` is an argument of a UDF that has such a parameter."""
    found = call("colormap=reds&rescale=0,10&rescale=5,6", parameters="colormap: str = ''")

    assert found.arguments == {"colormap": "reds"}
    assert found.options.colormap is None
    assert found.options.rescale == ((0.0, 10.0), (5.0, 6.0))


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("rescale=1", "rescale takes min,max"),
        ("rescale=2,1", "min below max"),
        ("rescale=a,b", "rescale takes a number"),
        ("rescale=nan,1", "min below max"),
        ("nodata=x", "nodata takes a number"),
        ("resampling=best", "resampling takes one of nearest, bilinear"),
        ("size=0", "size takes a whole number from 1 to 4096"),
        ("size=99999", "size takes a whole number"),
        ("size=%C2%B2", "size takes a whole number"),
        ("buffer=-1", "buffer takes"),
        ("cache_max_age=soon", "cache_max_age: 'soon' is not a duration"),
    ],
)
def test_a_malformed_option_says_what_it_takes(query: str, says: str) -> None:
    """docs/http.md: 422, and nothing has run."""
    with pytest.raises(BadRequest, match=says):
        call(query)


def test_a_scale_beyond_the_pixel_limit_names_the_limit() -> None:
    """docs/settings.md, ``max_tile_pixels``."""
    with pytest.raises(BadRequest, match="limit of 4096"):
        call("size=2048", Address(tile=TILE.tile, scale=4))


def test_a_udf_of_mode_single_has_no_tiles() -> None:
    """docs/workspace.md: 422 that names the mode."""
    with pytest.raises(BadRequest, match="mode = single"):
        call("", TILE, mode="single")


def test_a_query_that_is_not_utf8_is_refused() -> None:
    """A clear error instead of replacement characters in an argument."""
    with pytest.raises(BadRequest, match="UTF-8"):
        parse_query(b"n=%ff")


def test_too_many_parameters_are_refused() -> None:
    """Thousands of parameters are refused before they are read."""
    with pytest.raises(BadRequest, match="more than 2000"):
        parse_query(b"&".join([b"a=1"] * 3000))


@given(st.lists(st.tuples(st.text(min_size=1), st.text())))
def test_any_query_is_read_or_refused(items: list[tuple[str, str]]) -> None:
    """Whatever is in a query, the outcome is a call or a BadRequest, never another exception."""
    try:
        build_call(udf(parameters="n, **rest"), BUNDLE, TILE, items, limits=Limits())
    except BadRequest:
        pass
