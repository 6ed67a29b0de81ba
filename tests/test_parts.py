"""One run, many requests: HEAD, ranges and conditions are cut from the same bytes, kept or not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import fsspec
import pandas as pd
import pytest

from tests.conftest import Server, serving
from tileserver.cache import Cache, Stored
from tileserver.cache.recent import KEPT, RecentTier
from tileserver.protocol import Encoded

# Every run's bytes are others, so that whatever is cut from another run shows.
RANDOM = "import fused, os, numpy as np\n{}\ndef udf(bounds: list = None, n: int = 1):\n    {}\n"
TEXT = "return {'run': os.urandom(2000).hex()}"
FILES = {
    "city/kept.py": RANDOM.format("@fused.udf", TEXT),
    "city/fresh.py": RANDOM.format("@fused.udf(cache_max_age=0)", TEXT),
    "city/caller.py": RANDOM.format(
        "@fused.udf(cache_max_age=0)",
        "return {'a': os.urandom(20).hex(), 'b': str(fused.context.get_headers())}",
    ),
    "city/wrong.py": RANDOM.format("@fused.udf(cache_max_age=0)", "raise ValueError(os.urandom(9).hex())"),
    "city/table.py": "import fused, os, numpy as np, pandas as pd\n@fused.udf(cache_max_age=0)\ndef udf():\n"
    "    return pd.DataFrame({'a': np.arange(50_000) + int.from_bytes(os.urandom(5))})\n",
    "team/fresh.py": RANDOM.format("@fused.udf(cache_max_age=0)", TEXT),
}
ADDRESSES = ["/{city}/kept.json", "/{city}/kept/run/file?format=json", "/{city}/kept/run/tiles/3/4/2.json"]
FRESH = "/{city}/fresh.json"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("parts"), FILES) as running:
        yield running


@pytest.mark.parametrize("path", [*ADDRESSES, FRESH])
def test_every_request_is_cut_from_the_same_bytes(server: Server, path: str) -> None:
    """docs/http.md: on files and tiles, stored or not."""
    whole = server.get(path, headers={"accept-encoding": "identity"})
    etag, size = whole.headers["etag"], len(whole.content)
    head = server.get(path, "HEAD", headers={"accept-encoding": "identity"})
    first = server.get(path, headers={"range": "bytes=0-99"})
    last = server.get(path, headers={"range": "bytes=-100", "if-range": etag})
    matched = server.get(path, "HEAD", headers={"if-match": etag, "accept-encoding": "identity"})

    assert (head.status_code, int(head.headers["content-length"]), head.content) == (200, size, b"")
    assert (first.status_code, first.content) == (206, whole.content[:100])
    assert (last.status_code, last.content) == (206, whole.content[-100:])
    assert matched.status_code == 200
    assert {one.headers["etag"] for one in (head, first, last, matched)} == {etag}
    assert {one.headers["x-cache"] for one in (head, first, last, matched)} == {"hit"}


@pytest.mark.parametrize("path", [ADDRESSES[0], FRESH])
def test_a_reader_that_begins_by_asking_for_the_length(server: Server, path: str) -> None:
    """HEAD, the end, then the rest, as readers of parquet do: one run."""
    path = f"{path}?n=2"
    size = int(server.get(path, "HEAD", headers={"accept-encoding": "identity"}).headers["content-length"])
    parts = [server.get(path, headers={"range": f"bytes={n}-{n + 999}"}) for n in range(0, size, 1000)]

    assert {part.status_code for part in parts} == {206}
    assert len({part.headers["etag"] for part in parts}) == 1
    assert sum(len(part.content) for part in parts) == size


def test_a_whole_get_of_what_is_not_kept_always_runs(server: Server) -> None:
    """docs/http.md: age 0 says so. Parts are of the last run."""
    one, other = (server.get(f"{FRESH}?n=3") for _ in range(2))
    part = server.get(f"{FRESH}?n=3", headers={"range": "bytes=0-199"})

    assert one.content != other.content
    assert [one.headers["x-cache"], other.headers["x-cache"]] == ["miss", "miss"]
    assert part.content == other.content[:200]
    assert {answer.headers["cache-control"] for answer in (one, other, part)} == {"no-store"}


def test_what_the_caller_has_asked_not_to_keep(server: Server) -> None:
    """The same by the query as by the decorator, and beside what is stored."""
    stored = server.get(ADDRESSES[0])
    path = f"{ADDRESSES[0]}?cache_max_age=0"
    one = server.get(path)

    assert server.get(path, headers={"range": "bytes=0-99"}).content == one.content[:100]
    assert server.get(ADDRESSES[0], headers={"range": "bytes=0-99"}).content == stored.content[:100]


def test_another_address_is_another_reader(server: Server) -> None:
    """Also one that comes to the same."""
    one = server.get(f"{FRESH}?n=4")
    part = server.get(f"{FRESH}?n=%34", headers={"range": "bytes=0-99"})

    assert part.content != one.content[:100]


def test_another_credential_is_another_reader(server: Server) -> None:
    """docs/http.md: what one has caused is not given to another."""
    access = server.access
    access.share("team", team=True)
    bearers = [{"authorization": f"Bearer {access.create_token(name)[1]}"} for name in "ab"]
    access.close()
    wholes = [server.get("/{team}/fresh.json", headers=bearer) for bearer in bearers]
    parts = [server.get("/{team}/fresh.json", headers={**b, "range": "bytes=0-99"}) for b in bearers]

    assert [part.content for part in parts] == [whole.content[:100] for whole in wholes]
    assert server.get("/{team}/fresh.json", headers={"range": "bytes=0-99"}).status_code == 401


def test_a_run_that_reads_its_caller_is_for_one_request(server: Server) -> None:
    """docs/http.md: neither stored nor given to anybody else, nor to the same caller again."""
    whole = server.get("/{city}/caller.json")
    part = server.get("/{city}/caller.json", headers={"range": "bytes=0-30"})

    assert whole.headers["cache-control"] == "private, no-store"
    assert (part.status_code, part.headers["x-cache"]) == (206, "miss")
    assert part.content != whole.content[:31]


def test_a_failure_is_not_remembered(server: Server) -> None:
    """It may have been the last one."""
    one, other = (server.get("/{city}/wrong.json", headers={"range": "bytes=0-1"}) for _ in range(2))

    assert (one.status_code, other.status_code) == (422, 422)
    assert one.json()["detail"] != other.json()["detail"]


def test_if_match_wants_the_present_version(server: Server) -> None:
    """RFC 9110, 13.1.1: 412 for any other one, and for weak validators; no body is begun."""
    etag = server.get(ADDRESSES[0], headers={"accept-encoding": "identity"}).headers["etag"]
    plain = {"accept-encoding": "identity"}
    given = {
        condition: server.get(ADDRESSES[0], headers={**plain, "if-match": condition})
        for condition in (etag, "*", f'"a", {etag}', '"other"', f"W/{etag}")
    }

    assert [answer.status_code for answer in given.values()] == [200, 200, 200, 412, 412]
    assert given['"other"'].headers["cache-control"] == "no-store"
    assert "If-Match" in given['"other"'].json()["detail"]


def test_if_match_before_if_none_match(server: Server) -> None:
    """RFC 9110, 13.2.2: the order in which conditions are looked at."""
    etag = server.get(ADDRESSES[0], headers={"accept-encoding": "identity"}).headers["etag"]
    headers = {"if-match": '"other"', "if-none-match": etag, "range": "bytes=0-1"}

    assert server.get(ADDRESSES[0], headers=headers).status_code == 412
    assert server.get(ADDRESSES[0], headers={**headers, "if-match": etag}).status_code == 304


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ({"range": "bytes=0-1,4-5"}, 200),
        ({"range": "items=0-1"}, 200),
        ({"range": "bytes=5-2"}, 200),
        ({"range": "bytes=999999-"}, 416),
        ({"range": "bytes=-0"}, 416),
        ({"range": "bytes=0-1", "if-range": 'W/"a"'}, 200),
        ({"range": "bytes=0-1", "if-range": "Wed, 21 Oct 2015 07:28:00 GMT"}, 200),
    ],
)
def test_other_ranges(server: Server, sent: dict[str, str], status: int) -> None:
    """RFC 9110, section 14: the whole, or nothing of it with its length."""
    whole = server.get(ADDRESSES[0], headers={"accept-encoding": "identity"})
    answer = server.get(ADDRESSES[0], headers={"accept-encoding": "identity", **sent})

    assert answer.status_code == status
    if status == 200:
        assert answer.content == whole.content
    else:
        assert answer.headers["content-range"] == f"bytes */{len(whole.content)}"
        assert answer.headers["cache-control"] == "no-store"


def test_head_ignores_ranges(server: Server) -> None:
    """RFC 9110, 14.2: they are defined for GET."""
    head = server.get(ADDRESSES[0], "HEAD", headers={"range": "bytes=0-1", "accept-encoding": "identity"})

    assert (head.status_code, "content-range" in head.headers) == (200, False)


@pytest.mark.parametrize("coding", ["identity", "gzip", "zstd"])
def test_nothing_new_says_what_it_is_of(server: Server, coding: str) -> None:
    """RFC 9110, 15.4.5: validator, age and Vary as in the 200; no length, no type."""
    whole = server.get(ADDRESSES[0], headers={"accept-encoding": coding})
    known = server.get(
        ADDRESSES[0], headers={"accept-encoding": coding, "if-none-match": f"W/{whole.headers['etag']}"}
    )

    assert (known.status_code, known.content) == (304, b"")
    for name in ("etag", "cache-control", "vary"):
        assert known.headers[name] == whole.headers[name]
    assert not {"content-length", "content-type", "x-fused-metadata"} & known.headers.keys()


def test_pandas_reads_one_run(server: Server) -> None:
    """A client that reads parquet in pieces gets one table: each run begins to count somewhere else."""
    url = f"{server.url}/{server.tokens['city']}/table.parquet"
    with fsspec.open(url, block_size=2**16) as file:
        column = pd.read_parquet(file)["a"]

    assert len(column) == 50_000
    assert (column.diff().dropna() == 1).all()


# -- what is recent


def stored(key: str, size: int = 10) -> Stored:
    return Stored(key, Encoded(b"x" * size, "text/plain", time.time(), {}), '"a"')


@pytest.mark.anyio
async def test_recent_results_end() -> None:
    """docs/http.md: ten seconds after the run, used or not; their memory is given back."""
    now = [0.0]
    tier = RecentTier(1000, clock=lambda: now[0])
    tier.set(stored("a"))

    now[0] = KEPT - 0.1
    assert tier.get("a") is not None
    now[0] = KEPT
    assert tier.get("a") is None
    tier._forget_ended()
    assert tier.stats() == {"entries": 0, "bytes": 0}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("sizes", "left"),
    [([400, 400, 400], (2, 800)), ([1001], (0, 0)), ([1] * 300, (256, 256))],
)
async def test_recent_results_are_bounded(sizes: list[int], left: tuple[int, int]) -> None:
    """In bytes and in number, the oldest go first."""
    tier = RecentTier(1000)
    for number, size in enumerate(sizes):
        tier.set(stored(str(number), size))

    assert tuple(tier.stats().values()) == left


@pytest.mark.anyio
async def test_readers_that_come_at_once_share_a_run() -> None:
    """Each wants a part of the same file: one run makes it."""
    cache, runs = Cache.recent(1000), []
    gate = asyncio.Event()

    async def run(_: object) -> Encoded:
        runs.append(1)
        await gate.wait()
        return Encoded(b"x", "text/plain", time.time(), {})

    asked = [asyncio.create_task(cache.get_or_compute("k", run, max_age=86400)) for _ in range(3)]
    await asyncio.sleep(0)
    gate.set()
    outcomes = [outcome for _, outcome in await asyncio.gather(*asked)]

    assert (len(runs), sorted(outcomes)) == (1, ["miss", "shared", "shared"])
