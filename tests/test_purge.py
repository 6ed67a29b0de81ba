"""Forgetting results by what they are of: canvas, UDF, arguments, bounds, zooms."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from tests.conftest import Server, serving
from tests.test_cache import stored
from tileserver.cache import Cache, Rule, arguments_of, folder_purge
from tileserver.cache.database import Database, Write
from tileserver.cache.disk import DiskTier
from tileserver.cache.label import EVERYTHING, Label
from tileserver.cache.memory import MemoryTier
from tileserver.cache.record import Records
from tileserver.interest import Interest
from tileserver.protocol import Encoded, Json
from tileserver.subject import Subject, form, forms
from tileserver.tiles import bounds, valid_tile

pytestmark = pytest.mark.anyio

SECRET = b"the server's key"


def label(udf: str = "u", *, owner: str = "c", tile: str | None = None, **values: str) -> Label:
    z_x_y = None if tile is None else tuple(int(part) for part in tile.split("/"))
    forms_ = {name: form("", value) for name, value in values.items()}
    return Label.of(Subject(owner, udf, "r", z_x_y, forms_), SECRET)  # type: ignore[arg-type]  # three of them


LABELS = {
    "single": label(),
    "other udf": label("v"),
    "other canvas": label(owner="d"),
    "posted": label(owner="@token"),
    "posted to it": label(owner="@token.c"),
    "0/0/0": label(tile="0/0/0"),
    "7/66/45": label(tile="7/66/45"),  # around Geneva
    "7/67/45": label(tile="7/67/45"),
    "7/10/45": label(tile="7/10/45"),
    "12/2117/1453": label(tile="12/2117/1453"),  # Geneva
    "7/0/63": label(tile="7/0/63"),  # at 180 degrees, on either side
    "7/127/63": label(tile="7/127/63"),
    "2024": label(year="2024"),
    "2024, tile": label(tile="7/66/45", year="2024", kind="x"),
    "2025": label(year="2025"),
}
GENEVA = (6.1, 46.1, 6.2, 46.3)


def by(**values: Json) -> tuple[tuple[str, ...], ...]:
    return arguments_of(values, SECRET)


RULES: dict[str, tuple[Rule, set[str]]] = {
    "a canvas": (Rule("c"), set(LABELS) - {"other canvas", "posted"}),
    "another": (Rule("d"), {"other canvas"}),
    "a UDF": (Rule("c", "v"), {"other udf"}),
    "none": (Rule("nowhere"), set()),
    "a value": (Rule("c", None, by(year="2024")), {"2024", "2024, tile"}),
    "two values": (Rule("c", "u", by(year="2024", kind="x")), {"2024, tile"}),
    "a value of another": (Rule("c", "u", by(kind="2024")), set()),
    "zooms": (Rule("c", "u", zooms=(0, 6)), {"0/0/0"}),
    "one zoom": (Rule("c", "u", zooms=(12, 12)), {"12/2117/1453"}),
    "bounds": (Rule("c", "u", bounds=GENEVA), {"0/0/0", "7/66/45", "12/2117/1453", "2024, tile"}),
    "bounds and zooms": (Rule("c", bounds=GENEVA, zooms=(5, 9)), {"7/66/45", "2024, tile"}),
    "across 180 degrees": (Rule("c", bounds=(179, -1, -179, 3), zooms=(7, 7)), {"7/0/63", "7/127/63"}),
    "all of it": (
        Rule("c", "u", by(year="2024"), (7, 7), GENEVA),
        {"2024, tile"},
    ),
    "tiles": (
        Rule("c", "u", tiles=frozenset({(7, 66, 45), (0, 0, 0), (9, 9, 9)})),
        {"0/0/0", "7/66/45", "2024, tile"},
    ),
    "everything": (EVERYTHING, set(LABELS)),
}


def filled(folder: Path) -> Database:
    database = Database.make(folder, wait=10)
    for name, one in LABELS.items():
        result = replace(stored(name), label=one)
        database.put([Write(result, Records(b"").to_bytes(result), database.last_purge())])
    return database


@pytest.mark.parametrize(("rule", "expected"), RULES.values(), ids=RULES)
async def test_a_rule_means_the_same_in_memory_and_on_disk(
    tmp_path: Path, rule: Rule, expected: set[str]
) -> None:
    """The number told is that of what is gone, and nothing else is; also after a round trip of the rule."""
    database = filled(tmp_path)

    assert {name for name, one in LABELS.items() if rule.covers(one)} == expected
    assert Rule.from_json(rule.to_json()) == rule
    assert database.purge(rule) == len(expected)
    assert {name for name in LABELS if database.get(name) is None} == expected
    assert database.counts().entries == len(LABELS) - len(expected)
    database.close()


@pytest.mark.parametrize("tile", ["0/0/0", "7/66/45", "12/2117/1453", "30/554779672/380988921"])
async def test_the_bounds_of_a_tile_cover_it_and_its_neighbours(tile: str) -> None:
    """What touches counts: a neighbour draws what is beyond its edge, too."""
    one = label(tile=tile)
    assert one.tile is not None
    z, x, y = one.tile
    rule = Rule(bounds=bounds(valid_tile(z, x, y)))

    assert rule.covers(one)
    if z:
        assert not rule.covers(label(tile=f"{z}/{x + 2}/{y}"))


# -- values


SAME: list[tuple[str, list[Json], Json]] = [
    ("int", ["2024", 2024, " 2024", "02024", ["1", "2024"]], "2024"),
    ("float", ["2024", "2024.0", 2024, 2.024e3], "2024"),
    ("float", ["0.5", 0.5, ".5", "5e-1"], "0.5"),
    ("bool", ["true", "1", "yes", True], "true"),
    ("bool", ["false", "", False, "False"], "false"),
    ("str", ["a b"], "a b"),
    ("", ["2024", 2024, "2024.0"], "2024"),
    ("", ["text"], "text"),
    ("list", ["[1,2]", "[1, 2]", [1, 2], ["1", "2"]], "[1, 2]"),
    ("dict", ['{"b":1,"a":2}', {"a": 2, "b": 1}], '{"a": 2, "b": 1}'),
    ("date", ["2024-05-01", "2024-05-01T10:00:00"], "2024-05-01"),
    ("datetime", ["2024-05-01T10:00", "2024-05-01 10:00:00"], "2024-05-01T10:00:00"),
    ("UUID", ["{12345678-1234-5678-1234-567812345678}"], "12345678123456781234567812345678"),
]


@pytest.mark.parametrize(("annotation", "values", "asked"), SAME)
async def test_values_count_as_the_udf_takes_them(annotation: str, values: list[Json], asked: Json) -> None:
    """However they are written, and without knowing the annotation when they are purged."""
    assert len({form(annotation, value) for value in values}) == 1
    assert form(annotation, values[0]) in forms(asked)


@pytest.mark.parametrize(("annotation", "value", "asked"), [("str", "true", "1"), ("str", "2024.0", "2024")])
async def test_other_values_are_others(annotation: str, value: str, asked: str) -> None:
    """What only another annotation would make equal is not."""
    assert form(annotation, value) not in forms(asked)


def test_no_value_is_kept_in_the_clear(tmp_path: Path) -> None:
    """Of a query there are digests on disk, which another key would not give."""
    database = Database.make(tmp_path, wait=1)
    result = replace(stored(), label=label(who="ms.secret@example.org"))
    database.put([Write(result, Records(b"").to_bytes(result), 0)])
    database.purge(Rule("nowhere", None, by(who="mr.hidden@example.org")))
    database.close()

    kept = b"".join(path.read_bytes() for path in tmp_path.iterdir())

    assert b"secret" not in kept and b"hidden" not in kept
    assert arguments_of({"a": "1"}, b"one") != arguments_of({"a": "1"}, b"other")


# -- while others use the folder


async def test_a_purge_counts_at_once_for_who_has_the_folder_open(tmp_path: Path) -> None:
    """Before the results are deleted, and also when whoever purged was killed in the middle."""
    filled(tmp_path).close()
    tier = DiskTier(tmp_path, 10**9)
    assert tier.get("single") is not None
    with sqlite3.connect(tmp_path / "results.db") as database:  # the first transaction of a purge, no more
        database.execute(
            "INSERT INTO purges (upto, at, done, rule) VALUES (1000, 0, 0, ?)", (Rule("c", "u").to_json(),)
        )
    database.close()

    assert list(tier.news(now=True)) == [Rule("c", "u")]

    assert tier.get("single") is None
    assert tier.get("other udf") is not None
    tier.close()
    tier = DiskTier(tmp_path, 10**9)  # goes on with it
    tier.set(stored("later"))
    tier.close()
    found = Database(tmp_path, wait=1)
    assert found.get("single") is None
    assert found.under_way() == []
    assert found.counts().entries == 4
    found.close()


async def test_what_runs_while_it_is_purged_is_not_stored(tmp_path: Path) -> None:
    """It may have read what the purge is about; what begins afterwards is stored."""
    cache = Cache(MemoryTier(10**7), DiskTier(tmp_path, 10**9), clock=lambda: 1000.0)
    gates = [asyncio.Event(), asyncio.Event()]

    async def run(key: str, gate: asyncio.Event) -> None:
        async def compute(interest: Interest) -> Encoded:
            await gate.wait()
            return Encoded(b"x", "text/plain", 1000.0, {})

        await cache.get_or_compute(key, compute, max_age=60, subject=lambda: Subject("c", "u"))

    before = asyncio.ensure_future(run("before", gates[0]))
    await asyncio.sleep(0)
    await asyncio.to_thread(folder_purge, tmp_path, Rule("c", "u"))
    after = asyncio.ensure_future(run("after", gates[1]))
    await asyncio.sleep(0)
    for gate in gates:
        gate.set()
    await asyncio.gather(before, after)

    assert cache.stored("before", 60) is None
    assert cache.stored("after", 60) is not None
    await cache.close()
    tier = DiskTier(tmp_path, 10**9)
    assert tier.get("before") is None
    assert tier.get("after") is not None
    tier.close()


async def test_who_asks_after_a_purge_does_not_get_what_began_before_it() -> None:
    """A run under way may have read what the purge is about, so that another one begins; the first one's
    result goes to whoever asked before, and is not stored, whichever ends first."""
    cache = Cache(MemoryTier(10**7), clock=lambda: 1000.0)
    gates = [asyncio.Event(), asyncio.Event()]

    async def run(number: int) -> bytes:
        async def compute(interest: Interest) -> Encoded:
            await gates[number].wait()
            return Encoded(b"%d" % number, "text/plain", 1000.0, {})

        found, _ = await cache.get_or_compute("k", compute, max_age=60, subject=lambda: Subject("c", "u"))
        return found.encoded.body

    before = asyncio.ensure_future(run(0))
    await asyncio.sleep(0)
    await cache.forget(Rule("c", "u"))
    after = asyncio.ensure_future(run(1))
    gates[1].set()
    assert await asyncio.wait_for(after, 20) == b"1"
    gates[0].set()
    assert await before == b"0"

    found = cache.stored("k", 60)
    assert found is not None and found.encoded.body == b"1"
    await cache.close()


async def test_what_is_queued_is_purged_too(tmp_path: Path) -> None:
    """A result that no file has yet."""
    cache = Cache(MemoryTier(0), DiskTier(tmp_path, 10**9), clock=lambda: 1000.0)

    async def compute(interest: Interest) -> Encoded:
        return Encoded(b"x", "text/plain", 1000.0, {})

    for number in range(50):
        await cache.get_or_compute(str(number), compute, max_age=60, subject=lambda: Subject("c", "u"))

    assert await cache.forget(Rule("c", "u")) == 50
    assert not any(cache.stored(str(number), 60) for number in range(50))
    await cache.close()
    tier = DiskTier(tmp_path, 10**9)
    assert tier.stats()["entries"] == 0
    tier.close()


async def test_what_is_being_written_is_purged_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As much as what is queued, and what is stored."""
    begun, go_on = threading.Event(), threading.Event()
    put = Database.put

    def slow_put(database: Database, writes: Sequence[Write]) -> None:
        begun.set()
        assert go_on.wait(20)
        put(database, writes)

    monkeypatch.setattr(Database, "put", slow_put)
    cache = Cache(MemoryTier(0), DiskTier(tmp_path, 10**9), clock=lambda: 1000.0)

    async def compute(interest: Interest) -> Encoded:
        return Encoded(b"x", "text/plain", 1000.0, {})

    async def make(key: str) -> None:
        await cache.get_or_compute(key, compute, max_age=60, subject=lambda: Subject("c", "u"))

    await make("written")
    assert await asyncio.to_thread(begun.wait, 20)
    await make("queued")
    asyncio.get_running_loop().call_later(0.1, go_on.set)

    assert await cache.forget(Rule("c", "u")) == 2
    assert not cache.stored("written", 60) and not cache.stored("queued", 60)
    await cache.close()
    tier = DiskTier(tmp_path, 10**9)
    assert tier.stats()["entries"] == 0
    tier.close()


# -- the command


PURGE = (sys.executable, "-m", "tileserver", "cache", "purge")
UDF = """
import uuid
import fused


@fused.udf
def udf(year: int = 2024, bounds: fused.types.Bounds = None):
    return [uuid.uuid4().hex, year]
"""
FILES = {"c/count.py": UDF, "c/other.py": UDF, "d/count.py": UDF}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("purge"), FILES) as running:
        yield running


def purge(workspace: Path, *arguments: str) -> int:
    done = subprocess.run(
        [*PURGE, *arguments, "--json", "--workspace", str(workspace)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return int(json.loads(done.stdout)["removed"])


ADDRESSES = [
    "/{c}/count",
    "/{c}/count?year=2025",
    "/{c}/count/run/tiles/7/66/45.json",
    "/{c}/count/run/tiles/7/66/45.json?year=2025",
    "/{c}/count/run/tiles/8/0/0.json?year=02024",
    "/{c}/other?year=2025",
    "/{d}/count?year=2025",
]
COMMANDS: dict[str, tuple[list[str], list[int]]] = {
    "a UDF": (["c/count"], [0, 1, 2, 3, 4]),
    "a canvas": (["c"], [0, 1, 2, 3, 4, 5]),
    "a value, given or not": (["c/count", "-p", "year=2024"], [0, 2, 4]),
    "a value of all UDFs": (["c", "-p", "year=2025.0"], [1, 3, 5]),
    "bounds": (["c/count", "--bounds", "6.1,46.1,6.2,46.3"], [2, 3]),
    "a zoom": (["c/count", "--zoom", "8"], [4]),
    "zooms and a value": (["c", "--zoom", "0-7", "-p", "year=2025"], [3]),
}


@pytest.mark.parametrize(("arguments", "expected"), COMMANDS.values(), ids=COMMANDS)
def test_the_command_forgets_what_it_names(server: Server, arguments: list[str], expected: list[int]) -> None:
    """Beside a running server, which forgets it within a second; the number is printed."""
    first = [server.get(address).json() for address in ADDRESSES]
    for address in ADDRESSES:
        assert server.get(address).headers["x-cache"] == "hit"
    settled(server, len(ADDRESSES))

    assert purge(server.workspace, *arguments) == len(expected)

    deadline = time.monotonic() + 4  # four times the bound
    while server.get(ADDRESSES[expected[0]]).json() == first[expected[0]] and time.monotonic() < deadline:
        pass
    again = [server.get(address).json() for address in ADDRESSES]
    assert [n for n, (old, new) in enumerate(zip(first, again, strict=True)) if old != new] == expected


def settled(server: Server, entries: int) -> None:
    """Return once the results are on disk."""
    database = Database(server.workspace / ".tileserver/cache", wait=5)
    deadline = time.monotonic() + 20
    while database.counts().entries < entries and time.monotonic() < deadline:
        pass
    database.close()


def test_a_canvas_that_is_gone_can_be_purged(serve: Callable[..., Server]) -> None:
    """Also without a server: by its name alone."""
    server = serve({"gone/count.py": UDF, "kept/count.py": UDF})
    server.get("/{gone}/count")
    server.get("/{kept}/count")
    settled(server, 2)
    server.process.terminate()
    server.process.wait(20)
    (server.workspace / "gone/count.py").unlink()

    assert purge(server.workspace, "gone") == 1
    assert purge(server.workspace, "gone") == 0
    assert purge(server.workspace, "kept/count", "-p", "year=2024") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["/count"],
        ["c/"],
        ["c/count/x"],
        ["c", "-p", "=2024"],
        ["c", "-p", "year"],
        ["c", "--bounds", "1,2,3"],
        ["c", "--bounds", "1,5,3,4"],
        ["c", "--bounds", "1,nan,3,4"],
        ["c", "--zoom", "9-3"],
        ["c", "--zoom", "a"],
        ["c", "--zoom", "31"],
    ],
)
def test_a_malformed_purge_says_what_it_takes(tmp_path: Path, arguments: list[str]) -> None:
    """One line, exit status 2, and nothing is forgotten."""
    done = subprocess.run(
        [*PURGE, *arguments, "--workspace", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1


# -- what an edit does


PARENT = "import fused\nfrom help import N\n@fused.udf\ndef udf():\n    return [N, fused.run('child')]\n"
CHILD = "import fused\n@fused.udf\ndef udf():\n    return 1\n"


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("c/parent.py", PARENT.replace("[N,", "[-N,"), [-1, 1]),
        ("c/help.py", "N = 2\n", [2, 1]),
        ("c/child.py", CHILD.replace("1", "5"), [1, 5]),
    ],
    ids=["the UDF", "a module it imports", "a neighbour it calls"],
)
def test_an_edit_makes_results_miss(
    serve: Callable[..., Server], path: str, text: str, expected: list[int]
) -> None:
    """Within a second, on disk and in memory."""
    server = serve({"c/parent.py": PARENT, "c/help.py": "N = 1\n", "c/child.py": CHILD})
    assert server.get("/{c}/parent").json() == [1, 1]
    assert server.get("/{c}/parent").headers["x-cache"] == "hit"

    server.write({path: text})

    deadline = time.monotonic() + 4  # four times the bound
    while (answer := server.get("/{c}/parent").json()) == [1, 1] and time.monotonic() < deadline:
        pass
    assert answer == expected


# -- ages beyond the age, over HTTP


OLD = """
import os
import fused


@fused.udf(cache_max_age="1s")
def udf(fail: bool = False):
    path = fused.file_path("ran.txt")
    if os.path.exists(path) and fail:
        raise ValueError("boom")
    with open(path, "a") as file:
        file.write("x")
    return os.path.getsize(path)
"""


def until(server: Server, path: str, outcome: str) -> httpx.Response:
    """The first answer of an outcome."""
    deadline = time.monotonic() + 20
    while (answer := server.get(path)).headers["x-cache"] != outcome and time.monotonic() < deadline:
        pass
    assert answer.headers["x-cache"] == outcome
    return answer


def test_a_stale_answer_says_so_and_is_guarded(serve: Callable[..., Server]) -> None:
    """x-cache and Cache-Control; one refresh; an age in the URL rules; a revoked token gets nothing."""
    server = serve({"c/old.py": OLD, "c/canvas.toml": "[udf.old]\nstale_while_revalidate = '1h'\n"})
    first = server.get("/{c}/old")
    kept = first.headers["cache-control"]
    assert re.fullmatch(r"public, max-age=[01], stale-while-revalidate=3600", kept)

    stale = until(server, "/{c}/old", "stale")

    assert stale.text == first.text == "1"
    assert "x-fused-cached" in stale.headers
    assert stale.headers["cache-control"].startswith("public, max-age=0, stale-while-revalidate=35")
    assert until(server, "/{c}/old", "hit").text == "2"
    until(server, "/{c}/old", "stale")
    assert server.get("/{c}/old?cache_max_age=1").headers["x-cache"] != "stale"
    assert server.get("/{c}/old?cache_max_age=0").headers["x-cache"] == "miss"
    access = server.access
    access.unshare("c")
    access.close()
    refused = server.get("/{c}/old")
    assert refused.status_code == 404
    assert refused.headers["cache-control"] == "no-store"


def test_a_stale_answer_stands_in_for_a_failure(serve: Callable[..., Server]) -> None:
    """Of this revision: after an edit there is none, and the failure is told, for nobody's cache."""
    server = serve({"c/old.py": OLD, "c/canvas.toml": "[udf.old]\nstale_if_error = '1h'\n"})
    assert server.get("/{c}/old?fail=true").status_code == 200

    stale = until(server, "/{c}/old?fail=true", "stale")

    assert stale.text == "1"
    assert ", stale-if-error=3" in stale.headers["cache-control"]
    server.write({"c/old.py": OLD + "\n"})
    deadline = time.monotonic() + 4
    while (answer := server.get("/{c}/old?fail=true")).status_code == 200 and time.monotonic() < deadline:
        pass
    assert answer.status_code == 422
    assert answer.headers["cache-control"] == "no-store"
