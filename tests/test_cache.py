"""Stored results: ages, single flight, tiers, and what damage costs."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Server
from tileserver.cache import Cache, Rule, Stored, folder_stats
from tileserver.cache.disk import DiskTier
from tileserver.cache.memory import MemoryTier
from tileserver.cache.record import Records
from tileserver.errors import Overloaded, UdfError, UdfTimeout
from tileserver.interest import Interest
from tileserver.protocol import Encoded
from tileserver.subject import Subject

pytestmark = pytest.mark.anyio


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Counter:
    """A computation that counts how often it ran; waits for ``gate`` where there is one."""

    def __init__(
        self, clock: Clock, *, body: bytes = b"x", error: Exception | None = None, **meta: Any
    ) -> None:
        self.runs = 0
        self.gate: asyncio.Event | None = None
        self._clock, self._body, self._error, self._meta = clock, body, error, meta

    async def __call__(self, interest: Interest) -> Encoded:
        self.runs += 1
        if self.gate is not None:
            await self.gate.wait()
        if self._error is not None:
            raise self._error
        return Encoded(self._body + str(self.runs).encode(), "text/plain", self._clock(), self._meta)


async def ask(
    cache: Cache,
    compute: Counter,
    *,
    key: str = "k",
    max_age: int = 60,
    stale_while_revalidate: int = 0,
    stale_if_error: int = 0,
) -> tuple[bytes, str]:
    stored, outcome = await cache.get_or_compute(
        key,
        compute,
        max_age=max_age,
        stale_while_revalidate=stale_while_revalidate,
        stale_if_error=stale_if_error,
    )
    return stored.encoded.body, outcome


async def settled(cache: Cache) -> None:
    """Return when no run is under way."""
    await asyncio.gather(*cache._runs, return_exceptions=True)
    await asyncio.sleep(0)


def memory(clock: Clock) -> Cache:
    return Cache(MemoryTier(10_000_000), clock=clock)


async def test_a_result_is_used_until_it_is_too_old_for_the_reader() -> None:
    """Contract, section 8: age is at most the reader's maximum; another reader may be stricter."""
    clock = Clock()
    cache, compute = memory(clock), Counter(clock)
    await ask(cache, compute)

    clock.now += 60
    assert await ask(cache, compute) == (b"x1", "hit")
    assert await ask(cache, compute, max_age=59) == (b"x2", "miss")
    assert await ask(cache, compute) == (b"x2", "hit")


async def test_age_zero_neither_reads_nor_stores() -> None:
    """Contract, section 8."""
    clock = Clock()
    cache, compute = memory(clock), Counter(clock)

    assert await ask(cache, compute, max_age=0) == (b"x1", "miss")
    assert await ask(cache, compute) == (b"x2", "miss")
    assert await ask(cache, compute, max_age=0) == (b"x3", "miss")
    assert await ask(cache, compute) == (b"x2", "hit")


async def test_a_result_from_the_future_counts_as_none() -> None:
    """A clock that went back says nothing about the age of what is stored."""
    clock = Clock()
    cache, compute = memory(clock), Counter(clock)
    await ask(cache, compute)

    clock.now -= 3600

    assert await ask(cache, compute) == (b"x2", "miss")


async def test_identical_requests_are_one_run() -> None:
    """docs/design.md."""
    clock = Clock()
    cache, compute = memory(clock), Counter(clock)
    compute.gate = asyncio.Event()
    asked = [asyncio.ensure_future(ask(cache, compute)) for _ in range(10)]
    await asyncio.sleep(0)
    compute.gate.set()

    results = await asyncio.gather(*asked)

    assert compute.runs == 1
    assert sorted(outcome for _, outcome in results) == ["miss"] + ["shared"] * 9


async def test_the_first_caller_may_leave() -> None:
    """The others get their answer, and it is stored."""
    clock = Clock()
    cache, compute = memory(clock), Counter(clock)
    compute.gate = asyncio.Event()
    first, second = (asyncio.ensure_future(ask(cache, compute)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.sleep(0)
    compute.gate.set()

    assert await second == (b"x1", "shared")
    assert await ask(cache, compute) == (b"x1", "hit")


async def test_a_failure_reaches_everybody_and_is_not_stored() -> None:
    """Contract, section 8: errors are never cached."""
    clock = Clock()
    cache = memory(clock)
    failing, working = Counter(clock, error=ValueError("boom")), Counter(clock)

    results = await asyncio.gather(*[ask(cache, failing) for _ in range(3)], return_exceptions=True)

    assert [type(result) for result in results] == [ValueError] * 3
    assert failing.runs == 1
    assert await ask(cache, working) == (b"x1", "miss")


async def test_what_depends_on_its_caller_is_made_for_each() -> None:
    """docs/http.md: neither stored nor shared with those who joined."""
    clock = Clock()
    cache, compute = memory(clock), Counter(clock, read_caller=True)
    compute.gate = asyncio.Event()
    asked = [asyncio.ensure_future(ask(cache, compute)) for _ in range(3)]
    await asyncio.sleep(0)
    compute.gate.set()

    bodies = {body for body, _ in await asyncio.gather(*asked)}

    assert bodies == {b"x1", b"x2", b"x3"}
    assert await ask(cache, compute) == (b"x4", "miss")


async def test_an_answer_of_an_error_status_is_not_stored() -> None:
    """docs/http.md: a Response with status 400 or more."""
    clock = Clock()
    cache, compute = memory(clock), Counter(clock, status=404)

    assert [await ask(cache, compute) for _ in range(2)] == [(b"x1", "miss"), (b"x2", "miss")]


async def test_the_validator_is_of_what_is_sent() -> None:
    """Equal bytes have equal validators, other bytes, types and statuses others."""
    cache = memory(Clock())

    async def etag(key: str, body: bytes, media_type: str = "text/plain", **meta: int) -> str:
        async def compute(interest: Interest) -> Encoded:
            return Encoded(body, media_type, 1000.0, meta)

        stored, _ = await cache.get_or_compute(key, compute, max_age=0)
        return stored.etag

    same = await etag("a", b"1")
    others = [await etag("a", b"2"), await etag("a", b"1", "text/html"), await etag("a", b"1", status=201)]

    assert same == await etag("b", b"1")
    assert len({same, *others}) == 4
    assert same.startswith('"') and same.endswith('"')


# -- looking up at once


async def test_what_is_stored_is_found_at_once_and_runs_nothing() -> None:
    """By the reader's age, as ``get_or_compute`` does; age 0 reads nothing."""
    clock = Clock()
    cache, compute = memory(clock), Counter(clock)
    assert cache.stored("k", 60) is None
    await ask(cache, compute)

    found = cache.stored("k", 60)

    assert found is not None and found.encoded.body == b"x1"
    assert cache.stored("k", 0) is None
    clock.now += 61
    assert cache.stored("k", 60) is None
    assert cache.stats()["hit"] == 1


async def test_looking_fills_memory_from_disk(tmp_path: Path) -> None:
    """What was found below is found above the next time."""
    clock = Clock()
    (await reopened(tmp_path, [stored("k", b"x1")])).close()
    held = MemoryTier(10**7)
    cache = Cache(held, DiskTier(tmp_path, 10**9), clock=clock)

    assert cache.stored("k", 60) is not None

    assert held.get("k") is not None
    await cache.close()


# -- beyond the age (RFC 5861)


async def test_a_stale_result_is_returned_while_one_run_refreshes_it() -> None:
    """stale-while-revalidate: at once, to everybody, and the next ones get the new result."""
    clock = Clock()
    cache, compute = memory(clock), Counter(clock)
    await ask(cache, compute)
    compute.gate = asyncio.Event()

    clock.now += 100
    answers = [await ask(cache, compute, stale_while_revalidate=60) for _ in range(5)]
    compute.gate.set()
    await settled(cache)

    assert answers == [(b"x1", "stale")] * 5
    assert await ask(cache, compute, stale_while_revalidate=60) == (b"x2", "hit")
    assert compute.runs == 2


async def test_too_stale_is_a_miss() -> None:
    """The window counts from the end of the age."""
    clock = Clock()
    cache, compute = memory(clock), Counter(clock)
    await ask(cache, compute)

    clock.now += 121

    assert await ask(cache, compute, stale_while_revalidate=60) == (b"x2", "miss")


async def test_age_zero_is_never_stale() -> None:
    """It reads nothing, whatever the windows are, and a failure is a failure."""
    clock = Clock()
    cache, compute = memory(clock), Counter(clock)
    await ask(cache, compute)
    failing = Counter(clock, error=UdfError("ValueError: boom"))

    asked = ask(cache, compute, max_age=0, stale_while_revalidate=10**6, stale_if_error=10**6)
    assert await asked == (b"x2", "miss")
    with pytest.raises(UdfError):
        await ask(cache, failing, max_age=0, stale_while_revalidate=10**6, stale_if_error=10**6)


async def test_a_refresh_has_somebody_who_waits() -> None:
    """A run that nobody waits for is given up; this one isn't, though whoever caused it has left."""
    clock = Clock()
    cache = memory(clock)
    await ask(cache, Counter(clock))
    clock.now += 100
    lost: list[bool] = []

    async def compute(interest: Interest) -> Encoded:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(interest.lost_for(0), 0.01)
            lost.append(True)
        return Encoded(b"new", "text/plain", clock(), {})

    async def leaving() -> None:
        return

    await cache.get_or_compute("k", compute, max_age=60, stale_while_revalidate=60, leaving=leaving)
    await settled(cache)

    assert not lost
    assert (found := cache.stored("k", 60)) is not None and found.encoded.body == b"new"


async def test_a_refresh_that_fails_leaves_what_is_stored() -> None:
    """Until it is too old; the next request tries again."""
    clock = Clock()
    cache = memory(clock)
    await ask(cache, Counter(clock))
    failing = Counter(clock, error=UdfError("ValueError: boom"))
    clock.now += 100

    for _ in range(2):
        assert await ask(cache, failing, stale_while_revalidate=60) == (b"x1", "stale")
        await settled(cache)

    assert failing.runs == 2


FAILURES = {
    "a failure of the UDF": {"error": UdfError("ValueError: boom")},
    "a timeout": {"error": UdfTimeout("TimeoutError: too long")},
    "no room": {"error": Overloaded("too many runs")},
    "an answer of status 503": {"status": 503},
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
async def test_a_stale_result_stands_in_for_a_failure(failure: dict[str, Any]) -> None:
    """stale-if-error: as long as the window lasts, and for each request after a run of its own."""
    clock = Clock()
    cache, failing = memory(clock), Counter(clock, **failure)
    await ask(cache, Counter(clock))

    clock.now += 100
    assert await ask(cache, failing, stale_if_error=60) == (b"x1", "stale")
    assert await ask(cache, failing, stale_if_error=60) == (b"x1", "stale")
    assert failing.runs == 2

    clock.now += 21
    if "error" in failure:
        with pytest.raises(type(failure["error"])):
            await ask(cache, failing, stale_if_error=60)
    else:
        assert (await ask(cache, failing, stale_if_error=60))[1] == "miss"


async def test_a_fault_of_the_server_is_not_covered_up() -> None:
    """Only what runs and queues answer for."""
    clock = Clock()
    cache = memory(clock)
    await ask(cache, Counter(clock))
    clock.now += 100

    with pytest.raises(RuntimeError):
        await ask(cache, Counter(clock, error=RuntimeError("bug")), stale_if_error=60)


async def test_a_run_that_was_given_up_keeps_nobody_from_joining_the_next() -> None:
    """Of the results that a run makes together, each is asked for again while the last run is ending."""
    clock = Clock()
    cache = memory(clock)
    runs: list[Interest] = []
    gate = asyncio.Event()

    async def compute(interest: Interest) -> dict[str, Encoded]:
        runs.append(interest)
        await gate.wait()
        return {key: Encoded(key.encode(), "text/plain", clock(), {}) for key in ("a", "b")}

    def asked(key: str) -> asyncio.Future[tuple[Stored, str]]:
        together = {"a": Subject, "b": Subject}
        return asyncio.ensure_future(
            cache.get_or_compute(key, compute, max_age=60, together=lambda: together)
        )

    first = asked("a")
    while not runs:
        await asyncio.sleep(0)
    first.cancel()
    await runs[0].lost_for(0)
    second, third = asked("a"), asked("b")
    while len(runs) < 2:
        await asyncio.sleep(0)
    gate.set()

    assert (await second)[0].encoded.body == b"a"
    assert (await third)[1] == "shared"
    assert len(runs) == 2


# -- memory


def stored(key: str = "k", body: bytes = b"body", **meta: Any) -> Stored:
    return Stored(key, Encoded(body, "image/png", 1000.0, meta), '"e"')


async def test_memory_keeps_what_was_used_last() -> None:
    """Up to its size in bytes."""
    tier = MemoryTier(30_000)
    for key in "abcd":
        tier.set(stored(key, b"x" * 5000))
    tier.get("a")
    tier.set(stored("e", b"x" * 5000))

    assert [key for key in "abcde" if tier.get(key) is not None] == ["a", "c", "d", "e"]
    assert tier.stats()["bytes"] <= 30_000


async def test_memory_of_no_size_keeps_nothing(tmp_path: Path) -> None:
    """``memory_cache = 0``: a result is found on disk, also before it has been written there."""
    clock = Clock()
    cache, compute = Cache.open(tmp_path, 10**9, 0, b""), Counter(clock)
    cache._clock = clock

    assert [await ask(cache, compute) for _ in range(2)] == [(b"x1", "miss"), (b"x1", "hit")]

    assert cache.stats()["MemoryTier"] == {"entries": 0, "bytes": 0}
    await cache.close()


def test_a_server_without_memory_tier_serves_from_disk(serve: Callable[..., Server]) -> None:
    """Compressed bodies are not remembered either."""
    udf = "import fused\n@fused.udf\ndef udf():\n    return list(range(5000))\n"
    server = serve({"c/u.py": udf}, "--memory-cache", "0")

    answers = [server.get("/{c}/u") for _ in range(3)]

    assert [answer.headers["x-cache"] for answer in answers] == ["miss", "hit", "hit"]
    assert [answer.json()[-1] for answer in answers] == [4999] * 3
    assert answers[2].headers["content-encoding"]


async def test_memory_counts_what_it_holds() -> None:
    """Bodies and logs, through replacing, forgetting and making room; nothing held is nothing counted."""
    tier = MemoryTier(100_000)
    for number in range(200):
        tier.set(stored(f"k{number % 7}", b"x" * (number * 37 % 9000), stdout="log" * (number % 50)))
        held = [one for key in range(7) if (one := tier.get(f"k{key}"))]
        least = sum(len(one.encoded.body) + len(one.encoded.meta["stdout"]) for one in held)
        assert least <= tier.stats()["bytes"] <= 100_000
        assert tier.stats()["entries"] == len(held)

    assert tier.forget(Rule()) == len(held)
    assert tier.stats() == {"entries": 0, "bytes": 0}


async def test_memory_leaves_out_what_would_fill_it() -> None:
    """One large result must not drive out all others."""
    tier = MemoryTier(30_000)
    tier.set(stored("a"))
    tier.set(stored("big", b"x" * 20_000))

    assert tier.get("big") is None
    assert tier.get("a") is not None


# -- disk


async def reopened(folder: Path, put: list[Stored], size: int = 10**9) -> DiskTier:
    """A disk tier after a restart: what was queued before has been written."""
    tier = DiskTier(folder, size)
    for one in put:
        tier.set(one)
    tier.close()
    return DiskTier(folder, size)


@pytest.mark.parametrize("size", [0, 100, 100_000], ids=["empty", "in the database", "in a file"])
async def test_a_result_on_disk_survives_a_restart(tmp_path: Path, size: int) -> None:
    """Body, type, time, log and validator."""
    one = stored(body=os.urandom(size), stdout="log", bounds=[1, 2, 3, 4])
    tier = await reopened(tmp_path, [one])

    assert tier.get("k") == one
    assert tier.get("other") is None
    tier.close()


async def test_the_folder_is_private(tmp_path: Path) -> None:
    """Results may be anybody's data."""
    tier = DiskTier(tmp_path / "cache", 10**6)
    tier.close()

    assert os.stat(tmp_path / "cache").st_mode & 0o777 == 0o700


async def test_disk_makes_room_for_what_is_new(tmp_path: Path) -> None:
    """Under its size, without stopping."""
    size = 2_000_000  # of which a result may take a sixteenth
    tier = await reopened(tmp_path, [stored(f"k{n}", os.urandom(50_000)) for n in range(100)], size)

    assert tier.get("k99") is not None
    assert tier.stats()["bytes"] < 1.2 * size
    tier.close()


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda raw: raw[:-1],
    "cut to nothing": lambda raw: b"",
    "longer": lambda raw: raw + b"x",
    "bit in the magic": lambda raw: bytes([raw[0] ^ 1]) + raw[1:],
    "bit in the checksum": lambda raw: raw[:10] + bytes([raw[10] ^ 1]) + raw[11:],
    "bit in the header": lambda raw: raw[:40] + bytes([raw[40] ^ 1]) + raw[41:],
    "bit in the body": lambda raw: raw[:-3] + bytes([raw[-3] ^ 1]) + raw[-2:],
    "another key's": lambda raw: Records(b"").to_bytes(stored("other", b"body")),
    "foreign": lambda raw: b"GIF89a" * 100,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
async def test_damage_is_a_miss(damage: Callable[[bytes], bytes]) -> None:
    """docs/design.md: never a wrong tile."""
    raw = Records(b"").to_bytes(stored(body=b"body"))

    assert Records(b"").from_bytes(raw, "k") == stored(body=b"body")
    assert Records(b"").from_bytes(damage(raw), "k") is None


async def test_stats_count_entries_and_bytes(tmp_path: Path) -> None:
    """What ``tileserver cache stats`` prints."""
    (await reopened(tmp_path, [stored("a"), stored("b")])).close()

    facts = folder_stats(tmp_path)

    assert facts["entries"] == 2
    assert facts["bytes"] > 0
    assert folder_stats(tmp_path / "nowhere")["entries"] == 0
