"""What clients add to every call changes nothing: the contract's sections 4.1 and 8, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import Server, serving

FILES = {
    "city/count.py": "import fused, uuid\n@fused.udf\ndef udf(a: str = '', b: int = 0):\n"
    "    return {'run': uuid.uuid4().hex, 'a': a, 'b': b}\n",
    "city/rest.py": "import fused\n@fused.udf\ndef udf(**kwargs):\n    return kwargs\n",
    "city/taken.py": "import fused\n@fused.udf\ndef udf(format='own', cache='own', profile='own', _x='own'):"
    "\n    return [format, cache, profile, _x]\n",
}

# As the Python client sends them with each call, and older ones did.
NOISE = [
    "profile=False",
    "profile=True",
    "_stream_logs=false",
    "_anything=1&_=2",
    "fused_cache_disable_stream=true",
    "dtype_in=json",
    "cache=true",
    "cache_max_age=7776000",
    "fused_session_token=of-another-canvas",
    "_v=old",
    "utm_source=mail&unknown=1",
    "profile=False&_stream_logs=false&fused_cache_disable_stream=true&dtype_in=json",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("noise"), FILES) as running:
        yield running


@pytest.mark.parametrize("place", ["{noise}&a=x&b=1", "a=x&{noise}&b=1", "b=1&a=x&{noise}"])
@pytest.mark.parametrize("noise", NOISE)
def test_noise_in_the_query_finds_the_same_entry(server: Server, noise: str, place: str) -> None:
    """Contract, section 4.1: calls that differ in reserved names share one entry, in any order."""
    plain = server.get("/{city}/count?a=x&b=1")
    noisy = server.get(f"/{{city}}/count?{place.format(noise=noise)}")

    assert noisy.json() == plain.json()
    assert noisy.headers["x-cache"] == "hit"
    assert noisy.headers["etag"] == plain.headers["etag"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Fused-Cache-Disable", "true"),
        ("Fused-Py-Version", "2.9.5"),
        ("Fused-Recursion", "1"),
        ("Authorization", "Bearer of-somebody"),
        ("Cache-Control", "no-cache"),
        ("Cookie", "a=b"),
    ],
)
def test_noise_in_headers_finds_the_same_entry(server: Server, name: str, value: str) -> None:
    """Contract, section 8: ``X-Fused-Cache-Disable`` comes with every call, and disables nothing."""
    plain = server.get("/{city}/count?a=headers")
    noisy = server.get("/{city}/count?a=headers", headers={name: value})

    assert noisy.json() == plain.json()
    assert noisy.headers["x-cache"] == "hit"


@pytest.mark.parametrize(
    "query", ["a=p+q", "a=p%20q", "%61=p%20q", "a=%70+%71", "a=p+q&", "&&a=p+q", "a=p+q#x"]
)
def test_spellings_of_a_query_find_the_same_entry(server: Server, query: str) -> None:
    """Contract, section 4.2: what is decoded counts."""
    plain = server.get("/{city}/count?a=p+q")
    other = server.get(f"/{{city}}/count?{query}")

    assert other.json() == plain.json()
    assert other.json()["a"] == "p q"


@pytest.mark.parametrize(
    "path", ["count/run", "count/run/file", "count.json", "count?format=json", "count?=JSON"]
)
def test_addresses_of_a_run_find_the_same_bytes(server: Server, path: str) -> None:
    """Contract, section 3: with and without a format they are two entries at most, each found again."""
    first, second = (server.get(f"/{{city}}/{path}") for _ in range(2))

    assert first.json() == second.json()
    assert second.headers["x-cache"] == "hit"


def test_what_is_asked_for_counts(server: Server) -> None:
    """Contract, section 8: another argument or format is another entry."""
    found = {
        server.get(f"/{{city}}/count?{query}").json()["run"]
        for query in ("", "a=1", "b=1", "a=1&b=1", "a=&b=1", "format=json", "a=%201", "a=1%20")
    }

    assert len(found) == 8


def test_a_udf_that_takes_anything_gets_no_noise(server: Server) -> None:
    """Contract, section 4.1: reserved names are never passed on."""
    noise = "&".join(NOISE[:9]).replace("cache=true&", "")
    response = server.get(f"/{{city}}/rest?{noise}&n=1&n2=a+b")

    assert response.json() == {"n": "1", "n2": "a b"}


def test_a_reserved_name_stays_reserved_in_a_signature(server: Server) -> None:
    """Contract, section 4.1: the reserved meaning wins, and the default applies."""
    response = server.get("/{city}/taken?format=json&cache=true&profile=True&_x=1")

    assert response.json() == ["own"] * 4
