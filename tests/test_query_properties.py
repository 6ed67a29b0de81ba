"""One request has one key, however it is spelled; two requests have two: the contract's sections 4 and 8."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from mercantile import Tile

from tileserver import formats
from tileserver.errors import BadRequest
from tileserver.params import (
    MAX_PARAMETERS,
    RESERVED,
    Address,
    Call,
    Limits,
    build_call,
    is_reserved,
    parse_query,
)
from tileserver.protocol import Bundle, Job
from tileserver.signature import read
from tileserver.udf import Udf, UdfSettings

BUNDLE = Bundle("b", "c", "c", "/c", {}, {}, {})
Pairs = list[tuple[str, str]]


def udf(parameters: str) -> Udf:
    signature = read(f"@fused.udf\ndef udf({parameters}): pass\n")
    return Udf("c", "u", "r1", signature, UdfSettings(), "u", "", {})


KNOWN = udf("a=1, b=2, c: list = None, é=3")
ANY = udf("a=1, **rest")
TILED = udf("bounds=None, a=1, x=0, y=0, z=0")


def call(query: Pairs | bytes, made: Udf = KNOWN, address: Address = Address()) -> Call:
    pairs = parse_query(query) if isinstance(query, bytes) else query
    return build_call(made, BUNDLE, address, pairs, limits=Limits())


texts = st.text(max_size=12)
own = st.lists(st.tuples(st.sampled_from(["a", "b", "c", "é"]), texts), max_size=6)
unknown = st.tuples(
    st.text("defgh_ABC", min_size=1, max_size=5).filter(lambda name: not is_reserved(name)), texts
)
noise = st.one_of(
    st.tuples(
        st.sampled_from(["profile", "fused_cache_disable_stream", "dtype_in", "fused_session_token"]), texts
    ),
    st.tuples(st.text(max_size=5).map(lambda name: f"_{name}"), texts),
    st.tuples(st.just("cache_max_age"), st.integers(0, 10**6).map(str)),
    st.tuples(st.just("cache"), st.sampled_from(["true", "false", "", "x"])),
    unknown,
)


def merged(data: st.DataObject, pairs: Pairs, more: Pairs) -> Pairs:
    """Both lists in one, each in its own order."""
    found = list(pairs)
    for pair in more:
        found.insert(data.draw(st.integers(0, len(found))), pair)
    return found


@given(own, st.lists(noise, max_size=5), st.data())
def test_noise_never_counts(pairs: Pairs, more: Pairs, data: st.DataObject) -> None:
    """Contract, section 4.1: reserved and unknown names, anywhere in the query."""
    plain, noisy = call(pairs), call(merged(data, pairs, more))

    assert noisy.arguments == plain.arguments
    assert noisy.cache_key() == plain.cache_key()


@given(own, st.randoms(use_true_random=False))
def test_the_order_of_names_does_not_count(pairs: Pairs, random: Any) -> None:
    """Contract, section 8: that of the values of one name does."""
    names = list(dict(pairs))
    random.shuffle(names)
    reordered = [(name, value) for wanted in names for name, value in pairs if name == wanted]

    assert call(reordered).cache_key() == call(pairs).cache_key()


def spelled(data: st.DataObject, pairs: Pairs) -> bytes:
    """A query string of these pairs, in one of its many spellings."""

    def one(text: str) -> str:
        way = data.draw(st.integers(0, 3))
        if way == 0:
            return quote_plus(text)
        if way == 1:
            return quote(text, safe="")
        if way == 2:
            return quote(text, safe="/:@!$'()*,-._~?")
        return "".join(f"%{byte:02x}" for byte in text.encode())

    separator = data.draw(st.sampled_from(["&", "&&"]))
    return separator.join(f"{one(name)}={one(value)}" for name, value in pairs).encode()


@given(st.lists(st.tuples(st.text(max_size=6), texts), max_size=6), st.data())
def test_every_spelling_is_read_as_the_same(pairs: Pairs, data: st.DataObject) -> None:
    """Contract, section 4.2: ``+`` and ``%20``, encoded more or less than needed, hexadecimal in any case."""
    assert parse_query(spelled(data, pairs)) == pairs


@given(own, st.data())
def test_every_spelling_has_the_same_key(pairs: Pairs, data: st.DataObject) -> None:
    """Contract, section 8."""
    assert call(spelled(data, pairs)).cache_key() == call(pairs).cache_key()


@given(own, own)
def test_other_arguments_have_another_key(one: Pairs, other: Pairs) -> None:
    """Contract, section 8: exactly then; a repeated key isn't the same as one that looks like it."""
    first, second = call(one), call(other)

    assert (first.cache_key() == second.cache_key()) is (dict(first.arguments) == dict(second.arguments))


@given(st.lists(texts, min_size=1, max_size=5))
def test_a_repeated_key_is_the_list_of_its_values(values: list[str]) -> None:
    """Contract, section 4.3: in their order; one value is no list."""
    found = call([("c", value) for value in values]).arguments["c"]

    assert found == (values if len(values) > 1 else values[0])


@given(st.dictionaries(st.text(max_size=6), texts, max_size=6))
def test_kwargs_get_what_is_neither_reserved_nor_an_option(query: dict[str, str]) -> None:
    """Contract, section 4.3: as text."""
    options = {"rescale", "colormap", "nodata", "resampling", "size", "buffer", "extent"}
    assume(
        not {"format", "", "cache_max_age", "dtype_out_vector", "dtype_out_raster", *options} & query.keys()
    )

    assert call(list(query.items()), ANY).arguments == {
        name: value for name, value in query.items() if not is_reserved(name)
    }


@pytest.mark.parametrize("name", sorted(RESERVED | {"_", "_x", "_v"}))
@given(value=texts)
def test_a_reserved_name_never_reaches_a_udf(name: str, value: str) -> None:
    """Contract, section 4.1: not even one with ``**kwargs``."""
    try:
        assert call([(name, value)], ANY).arguments == {}
    except BadRequest:
        assert name in {"format", "", "cache_max_age", "dtype_out_vector", "dtype_out_raster"}


zooms = st.integers(0, 30)


@given(st.data(), zooms, st.lists(st.tuples(st.sampled_from(["bounds", "x", "y", "z"]), texts), max_size=4))
def test_a_tile_is_its_address(data: st.DataObject, z: int, query: Pairs) -> None:
    """Contract, sections 5.1 and 8: what the query says of it doesn't count, and no two share a key."""
    last = 2**z - 1
    tiles = data.draw(
        st.lists(st.builds(Tile, st.integers(0, last), st.integers(0, last), st.just(z)), min_size=2)
    )
    keys = {call(query, TILED, Address(tile=tile)).cache_key() for tile in tiles}

    assert keys == {call([], TILED, Address(tile=tile)).cache_key() for tile in tiles}
    assert len(keys) == len(set(tiles))


named = st.sampled_from(sorted(formats.FORMATS))


@given(st.lists(named, min_size=1, max_size=4), st.sampled_from(["format", ""]), st.data())
def test_a_list_of_formats_is_read_in_its_order(wanted: list[str], name: str, data: st.DataObject) -> None:
    """Contract, section 7.3: in any case, with spaces or empty parts, each once."""
    written = [data.draw(st.sampled_from([f, f.upper(), f" {f} ", f"{f},"])) for f in wanted]

    assert call([(name, ",".join(written))]).formats == tuple(dict.fromkeys(wanted))


@given(st.lists(named, min_size=1, max_size=3), st.lists(named, min_size=1, max_size=3))
def test_other_formats_have_another_key(one: list[str], other: list[str]) -> None:
    """Contract, section 8: the ordered list is in the key."""
    first, second = (call([("format", ",".join(wanted))]) for wanted in (one, other))

    assert (first.cache_key() == second.cache_key()) is (first.formats == second.formats)


OPTIONS = {
    "rescale": st.tuples(st.integers(-9, 0), st.integers(1, 9)).map(lambda pair: f"{pair[0]},{pair[1]}"),
    "colormap": st.sampled_from(["viridis", "magma"]),
    "nodata": st.integers(-9, 9).map(str),
    "resampling": st.sampled_from(["nearest", "cubic"]),
    "size": st.integers(1, 4096).map(str),
    "buffer": st.integers(0, 4096).map(str),
    "extent": st.integers(64, 65536).map(str),
}


@given(st.fixed_dictionaries({}, optional=OPTIONS), st.fixed_dictionaries({}, optional=OPTIONS))
def test_other_options_have_another_key(one: dict[str, str], other: dict[str, str]) -> None:
    """Contract, section 8: how a picture is made is in the key."""
    first, second = call(list(one.items())), call(list(other.items()))

    assert (first.cache_key() == second.cache_key()) is (first.options == second.options)


@given(
    st.lists(
        st.tuples(st.sampled_from([*OPTIONS, *RESERVED, "a", "c"]), texts | st.floats().map(str)), max_size=5
    ),
    st.sampled_from(
        [Address(), Address(tile=Tile(x=0, y=0, z=0)), Address(tile=Tile(x=1, y=0, z=1), scale=4)]
    ),
)
def test_any_request_becomes_a_job_or_is_refused(query: Pairs, address: Address) -> None:
    """Contract, section 11: what becomes a call survives the way to a worker, whatever its numbers are."""
    refused = ""
    try:
        found = call(query, KNOWN, address)
    except BadRequest as error:
        refused = error.message
    else:
        sent = json.loads(json.dumps(found.job().to_json()))
        assert json.dumps(Job.from_json(sent).to_json()) == json.dumps(found.job().to_json())
        assert found.max_age >= 0
    assert len(refused) < 500


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(query: bytes) -> None:
    """Contract, section 4: what isn't percent-encoded UTF-8 is refused as that."""
    try:
        pairs = parse_query(query)
    except BadRequest:
        pairs = []
    assert all(isinstance(part, str) and "\udc80" not in part for pair in pairs for part in pair)


@pytest.mark.parametrize(("count", "taken"), [(MAX_PARAMETERS, True), (MAX_PARAMETERS + 1, False)])
def test_parameters_have_a_limit(count: int, taken: bool) -> None:
    """It is named."""
    query = b"&".join([b"a=1"] * count)
    if taken:
        assert len(parse_query(query)) == count
    else:
        with pytest.raises(BadRequest, match=str(MAX_PARAMETERS)):
            parse_query(query)
