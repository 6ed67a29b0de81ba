"""Stored results: ages, single flight, tiers, and what damage costs."""

from __future__ import annotations

import asyncio
import os
import pickle
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tileserver.cache import Cache, Stored, folder_clear, folder_stats
from tileserver.cache.disk import DiskTier
from tileserver.cache.memory import MemoryTier
from tileserver.cache.record import from_bytes, to_bytes
from tileserver.interest import Interest
from tileserver.protocol import Encoded

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


async def ask(cache: Cache, compute: Counter, *, key: str = "k", max_age: int = 60) -> tuple[bytes, str]:
    stored, outcome = await cache.get_or_compute(key, compute, max_age=max_age)
    return stored.encoded.body, outcome


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
    size = 2_000_000
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
    "another key's": lambda raw: to_bytes(stored("other", b"body"), b""),
    "foreign": lambda raw: b"GIF89a" * 100,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
async def test_damage_is_a_miss(damage: Callable[[bytes], bytes]) -> None:
    """docs/design.md: never a wrong tile."""
    raw = to_bytes(stored(body=b"body"), b"")

    assert from_bytes(raw, "k", b"") == stored(body=b"body")
    assert from_bytes(damage(raw), "k", b"") is None


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("mode", [1, 2, 3, 4], ids=["raw", "binary", "text", "pickle"])
async def test_a_planted_row_runs_no_code_and_reads_no_other_file(tmp_path: Path, mode: int) -> None:
    """Whatever the row says it is: no pickle is loaded, no file outside the folder is opened."""
    tier = await reopened(tmp_path / "cache", [stored()])
    tier.close()
    secret = tmp_path / "secret"
    secret.write_bytes(to_bytes(stored(body=b"secret")))
    with sqlite3.connect(tmp_path / "cache/cache.db") as database:
        bomb = pickle.dumps(_Bomb(tmp_path / "exploded"))
        database.execute("UPDATE Cache SET mode = ?, value = ?, filename = '../secret'", (mode, bomb))
    database.close()

    tier = DiskTier(tmp_path / "cache", 10**9)

    assert tier.get("k") is None
    assert not (tmp_path / "exploded").exists()
    tier.set(stored())
    tier.close()


async def test_a_database_that_is_none_is_set_aside(tmp_path: Path) -> None:
    """A new one takes its place."""
    await asyncio.to_thread((tmp_path / "cache.db").write_bytes, b"this is no database" * 1000)

    tier = await reopened(tmp_path, [stored()])

    assert tier.get("k") == stored()
    tier.close()


async def test_a_place_that_can_not_be_used_means_slower_not_down(tmp_path: Path) -> None:
    """docs/design.md: here a file stands where the folder should be."""
    (tmp_path / "file").write_text("")

    tier = await reopened(tmp_path / "file", [stored()])

    assert tier.get("k") is None
    assert tier.stats()["entries"] == 0
    tier.close()


async def test_a_folder_deleted_under_a_server_is_a_miss(tmp_path: Path) -> None:
    """Its files are gone; requests don't notice."""
    tier = await reopened(tmp_path / "cache", [stored(body=os.urandom(100_000))])
    shutil.rmtree(tmp_path / "cache")

    assert tier.get("k") is None
    tier.set(stored("new"))
    tier.close()


async def test_clearing_from_another_process_empties_memory_too(tmp_path: Path) -> None:
    """``tileserver cache clear`` beside a running server."""
    clock = Clock()
    cache, compute = Cache.open(tmp_path, 10**9, 10**7, b""), Counter(clock)
    cache._clock = clock
    await ask(cache, compute)
    await asyncio.to_thread(lambda: None)

    for tier in cache._tiers:
        if isinstance(tier, MemoryTier):
            tier._looked = float("-inf")
    while folder_stats(tmp_path)["entries"] == 0:
        await asyncio.sleep(0.01)
    assert folder_clear(tmp_path) == 1

    assert await ask(cache, compute) == (b"x2", "miss")
    await cache.close()


async def test_stats_count_entries_and_bytes(tmp_path: Path) -> None:
    """What ``tileserver cache stats`` prints."""
    (await reopened(tmp_path, [stored("a"), stored("b")])).close()

    facts = folder_stats(tmp_path)

    assert facts["entries"] == 2
    assert facts["bytes"] > 0
    assert folder_stats(tmp_path / "nowhere")["entries"] == 0
