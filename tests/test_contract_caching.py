"""Contract, section 8, as a client sees it: which answers are stored ones."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.conftest import Server, serving

COUNT = """
import uuid
import fused


@fused.udf
def udf(n: int = 1, bounds: fused.types.Bounds = None):
    print("run", n)
    return [uuid.uuid4().hex, n]
"""
FILES = {
    "c/count.py": COUNT,
    "c/never.py": COUNT.replace("@fused.udf", "@fused.udf(cache_max_age='0s')"),
    "c/nothing.py": "import fused\n@fused.udf\ndef udf():\n    print('looked')\n",
    "c/boom.py": "import fused\n@fused.udf\ndef udf():\n    raise ValueError('boom')\n",
    "c/off.py": COUNT,
    "c/canvas.toml": "[udf.off]\ncache = false\n",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("caching"), FILES) as running:
        yield running


def outcome(response: httpx.Response) -> str:
    """How the answer came about; the marker for clients must say the same."""
    assert response.status_code == 200, response.text
    cache = response.headers["x-cache"]
    assert ("x-fused-cached" in response.headers) is (cache == "hit")
    return cache


@pytest.mark.parametrize(
    ("same", "headers"),
    [
        ("n=2&_stream_logs=false&profile=False&fused_cache_disable_stream=true", {}),
        ("dtype_in=json&n=2", {}),
        ("utm_source=x&n=2", {}),
        ("n=2&cache_max_age=3600", {}),
        ("n=2&cache=true", {}),
        ("n=2", {"x-fused-cache-disable": "true"}),
        ("n=2", {"authorization": "Bearer whatever"}),
        ("n=2", {"fused-py-version": "2.9.5", "fused-recursion": "1", "cache-control": "no-cache"}),
    ],
)
def test_what_does_not_change_the_answer_finds_it_stored(
    server: Server, same: str, headers: dict[str, str]
) -> None:
    """8, key: reserved names, credentials, what clients send with every call; in any order."""
    first = server.get("/{c}/count?n=2")

    again = server.get(f"/{{c}}/count?{same}", headers=headers)

    assert outcome(again) == "hit"
    assert again.content == first.content


@pytest.mark.parametrize("other", ["n=4", "n=3&format=html", "n=03&bounds=[0,0,1,1]"])
def test_what_changes_the_answer_is_another_entry(server: Server, other: str) -> None:
    """8, key: arguments and formats."""
    first = server.get("/{c}/count?n=3")

    assert server.get(f"/{{c}}/count?{other}").content != first.content


def test_each_tile_is_an_entry(server: Server) -> None:
    """8, tiles: by z, x and y."""
    tiles = ["0/0/0", "1/0/0", "1/1/0", "1/0/1"]
    first = [server.get(f"/{{c}}/count/run/tiles/{tile}.json").text for tile in tiles]
    second = [server.get(f"/{{c}}/count/run/tiles/{tile}.json").text for tile in tiles]

    assert len(set(first)) == len(tiles)
    assert first == second


def test_two_tokens_of_a_canvas_share_their_results(server: Server) -> None:
    """8, key: what is asked for counts, not who asks."""
    token = server.access.create_shared_token("c", "count").token
    first = server.get("/{c}/count?n=5")

    assert outcome(server.get(f"/{token}?n=5")) == "hit"
    assert server.get(f"/{token}?n=5").content == first.content


def test_a_switch_of_the_share_or_the_udf_turns_caching_off(serve: Callable[..., Server]) -> None:
    """8, token switch: neither read nor stored, for this token or UDF only."""
    server = serve(FILES)
    stored = server.get("/{c}/count").text
    server.access.share("c", code=True, caching=False)

    first, second = (server.get("/{c}/count") for _ in range(2))

    assert outcome(first) == outcome(second) == "miss"
    assert len({stored, first.text, second.text}) == 3
    assert first.headers["cache-control"] == "no-store"
    server.access.share("c", code=True)
    assert server.get("/{c}/count").text == stored
    assert outcome(server.get("/{c}/off")) == outcome(server.get("/{c}/off")) == "miss"


def test_the_caller_s_age_beats_the_decorator_s(server: Server) -> None:
    """8, precedence: an age in the address stores what the decorator would not."""
    assert outcome(server.get("/{c}/never")) == outcome(server.get("/{c}/never")) == "miss"

    server.get("/{c}/never?cache_max_age=1h")

    assert outcome(server.get("/{c}/never?cache_max_age=1h")) == "hit"
    assert outcome(server.get("/{c}/never")) == "miss"


@pytest.mark.parametrize("age", ["0", "0s", "0D"])
def test_age_zero_neither_reads_nor_stores(server: Server, age: str) -> None:
    """8, meaning: in every spelling; ``cache=false`` is the same."""
    stored = server.get("/{c}/count?n=6").text

    fresh = server.get(f"/{{c}}/count?n=6&cache_max_age={age}")

    assert fresh.text != stored
    assert fresh.headers["cache-control"] == "no-store"
    assert server.get("/{c}/count?n=6&cache=false").text not in (stored, fresh.text)
    assert server.get("/{c}/count?n=6").text == stored


def test_none_is_stored_with_its_log(server: Server) -> None:
    """8, ``None`` and logs: an empty body, and what the run had printed."""
    first, second = (server.get("/{c}/nothing") for _ in range(2))

    assert (outcome(first), outcome(second)) == ("miss", "hit")
    assert second.content == b""
    assert json.loads(second.headers["x-fused-metadata"])["stdout"] == "looked\n"


def test_a_failure_is_never_stored(server: Server) -> None:
    """8, errors: no marker, no age, and another run the next time."""
    for _ in range(2):
        response = server.get("/{c}/boom")
        assert response.status_code == 422
        assert "x-fused-cached" not in response.headers
        assert response.headers["cache-control"] == "no-store"


def test_white_space_is_code(serve: Callable[..., Server]) -> None:
    """8, code change: any edit of the text is a miss; the old text finds what it had stored."""
    server = serve({"c/count.py": COUNT})
    first = server.get("/{c}/count").text

    server.write({"c/count.py": f"{COUNT}\n"})
    edited = server.get("/{c}/count").text
    server.write({"c/count.py": COUNT})

    assert edited != first
    assert server.get("/{c}/count").text == first


def test_a_neighbours_edit_makes_its_callers_miss(serve: Callable[..., Server]) -> None:
    """8, nested UDFs: ours notices what a UDF it names has become."""
    child = "import fused\n@fused.udf\ndef udf():\n    return 1\n"
    parent = "import fused\n@fused.udf\ndef udf():\n    return fused.run('child') * 10\n"
    server = serve({"c/child.py": child, "c/parent.py": parent})
    assert server.get("/{c}/parent").json() == 10

    server.write({"c/child.py": child.replace("1", "2")})
    deadline = time.monotonic() + 2
    while (answer := server.get("/{c}/parent").json()) == 10 and time.monotonic() < deadline:
        continue  # an edit is seen within a second

    assert answer == 20
