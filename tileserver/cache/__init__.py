"""Stored results: one door, two tiers, single flight.

``get_or_compute`` decides by age whether a stored result may be used, lets identical requests wait for one
run, and never stores a failure. Below it a memory tier stands in front of a disk tier.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Protocol

from tileserver.cache.disk import DiskTier
from tileserver.cache.heads import Head, Heads, head_of
from tileserver.cache.memory import MemoryTier
from tileserver.cache.recent import RecentTier
from tileserver.cache.record import Stored
from tileserver.errors import ClientGone, UdfError, UdfKilled, UdfTimeout, without_output
from tileserver.interest import Interest
from tileserver.protocol import Encoded

__all__ = ["Cache", "CacheTier", "Head", "Outcome", "Stored", "clear_disk", "disk_stats", "head_of"]

Outcome = Literal["hit", "miss", "shared"]
# Runs once; what it is given says whether anybody still waits for it.
Compute = Callable[[Interest], Awaitable[Encoded]]
# Returns when whoever asked has left.
Leaving = Callable[[], Awaitable[None]]

# A result from further in the future than this was stored under another clock, and is of unknown age.
_CLOCK_SLACK: Final = 5.0


class CacheTier(Protocol):
    """Keeps results by key; forgetting one at any time is allowed, returning a wrong one never."""

    def get(self, key: str) -> Stored | None: ...

    def set(self, stored: Stored) -> None: ...

    def forget(self, matches: Callable[[str], bool]) -> int: ...

    def clear(self) -> int: ...

    def stats(self) -> dict[str, Any]: ...

    def close(self) -> None: ...


class _Flight(NamedTuple):
    """A run under way, and who waits for it."""

    task: asyncio.Task[Stored]
    interest: Interest


class Cache:
    """Used from one event loop. ``tiers`` come fastest first; ``keeps`` says which results are stored,
    ``heads`` reads those of the last tier."""

    def __init__(
        self,
        *tiers: CacheTier,
        clock: Callable[[], float] = time.time,
        keeps: Callable[[Stored], bool] | None = None,
        heads: Heads | None = None,
    ) -> None:
        self._tiers = tiers
        self._heads = heads
        self._keeps = keeps or _is_storable
        self._clock = clock
        self._flights: dict[str, _Flight] = {}
        self._runs: set[asyncio.Task[Stored]] = set()
        self._not_to_keep: set[str] = set()  # of those under way: what was forgotten in the meantime
        self._counts = {"hit": 0, "miss": 0, "shared": 0}

    @classmethod
    def open(cls, folder: Path, disk_size: int, memory_size: int) -> Cache:
        """A memory tier in front of a disk tier in ``folder``; sizes are bytes."""
        return cls(MemoryTier(memory_size, folder), DiskTier(folder, disk_size), heads=Heads(folder))

    @classmethod
    def recent(cls, size: int) -> Cache:
        """One that keeps for a few seconds whatever may be given to more than one request, up to ``size``
        bytes (see ``RecentTier``)."""
        return cls(RecentTier(size), keeps=_for_everybody)

    async def get_or_compute(
        self, key: str, compute: Compute, *, tag: str, max_age: int, leaving: Leaving | None = None
    ) -> tuple[Stored, Outcome]:
        """A stored result no older than ``max_age`` seconds, that of a run under way, or that of a run of
        its own. An age of zero always runs, and stores nothing.

        A run goes on when whoever began it leaves: others may wait for it, and it is stored; it is told when
        nobody is left. Results that depend on their caller (``meta["read_caller"]``) and answers of status
        400 and above are neither stored nor shared. What ``compute`` raises goes to everybody who waited.

        :raises ClientGone: once ``leaving`` returns.
        """
        key = f"{_prefix(tag)}{key}"
        if max_age == 0:
            return self._counted(await self._own(key, compute, leaving), "miss")
        stored = self._stored(key, max_age)
        if stored is not None:
            return self._counted(stored, "hit")
        flight = self._flights.get(key)
        if flight is not None and flight.interest.is_open:
            joined = await self._joined(flight, leaving)
            if joined is not None:
                return self._counted(joined, "shared")
            return self._counted(await self._own(key, compute, leaving), "miss")
        flight = self._begin(key, compute, self._run_and_store)
        self._flights[key] = flight
        flight.task.add_done_callback(lambda _: self._landed(key, flight))
        return self._counted(await _waited(flight, leaving), "miss")

    def peek(self, key: str, max_age: int, *, tag: str) -> Stored | None:
        """What ``get_or_compute`` would answer with at once, counted as a hit; None where it would not."""
        stored = self._stored(f"{_prefix(tag)}{key}", max_age) if max_age else None
        if stored is not None:
            self._counts["hit"] += 1
        return stored

    def head(self, key: str, max_age: int, *, tag: str) -> Head | None:
        """The head of what ``peek`` would give, without reading a body; nothing is counted."""
        if max_age == 0:
            return None
        key = f"{_prefix(tag)}{key}"
        for tier in self._tiers if self._heads is None else self._tiers[:-1]:
            stored = tier.get(key)
            if stored is not None and self._is_fresh(stored.encoded.created, max_age):
                return head_of(stored)
        head = self._heads.get(key) if self._heads is not None else None
        return head if head is not None and self._is_fresh(head.created, max_age) else None

    def count_hit(self) -> None:
        """Count an answer that ``head`` was enough for."""
        self._counts["hit"] += 1

    async def _joined(self, flight: _Flight, leaving: Leaving | None) -> Stored | None:
        """What a run under way gives; None when that is only for whoever began it."""
        try:
            stored = await _waited(flight, leaving)
        except UdfError as error:
            if error.read_caller:
                return None
            if isinstance(error, UdfTimeout | UdfKilled):
                # Whether it had looked at its caller, nobody can say any more; it may have printed that.
                raise without_output(error) from None
            raise
        return stored if _for_everybody(stored) else None

    async def _own(self, key: str, compute: Compute, leaving: Leaving | None) -> Stored:
        """A run that nobody else joins, and that is not stored."""
        return await _waited(self._begin(key, compute, self._run), leaving)

    def _begin(
        self,
        key: str,
        compute: Compute,
        run: Callable[[str, Awaitable[Encoded]], Coroutine[Any, Any, Stored]],
    ) -> _Flight:
        interest = Interest()
        task = asyncio.create_task(run(key, compute(interest)))
        self._runs.add(task)
        task.add_done_callback(self._ended)
        return _Flight(task, interest)

    def _ended(self, task: asyncio.Task[Stored]) -> None:
        self._runs.discard(task)
        if not task.cancelled():
            task.exception()  # it has been told to those who waited; nobody may be left to ask

    async def forget(self, tag: str, endings: Collection[str] | None = None) -> int:
        """Forget what is stored under a tag, and what runs under way would store; with ``endings``, only
        keys that end in one of them, after a full stop. How many results the last tier had."""
        prefix = _prefix(tag)
        wanted = None if endings is None else frozenset(endings)

        def matches(key: str) -> bool:
            if not key.startswith(prefix):
                return False
            return wanted is None or key.removeprefix(prefix).partition(".")[2] in wanted

        self._not_to_keep.update(key for key in self._flights if matches(key))
        count = await asyncio.to_thread(self._tiers[-1].forget, matches)
        for tier in self._tiers[:-1]:  # afterwards, or they would be filled again from what is below them
            tier.forget(matches)
        return count

    def stats(self) -> dict[str, Any]:
        """Outcomes so far, and what each tier holds."""
        return {**self._counts, **{type(tier).__name__: tier.stats() for tier in self._tiers}}

    async def close(self) -> None:
        """End runs under way and finish what is being written."""
        for task in tuple(self._runs):
            task.cancel()
        await asyncio.gather(*self._runs, return_exceptions=True)
        for tier in self._tiers:
            await asyncio.to_thread(tier.close)
        if self._heads is not None:
            self._heads.close()

    def _stored(self, key: str, max_age: int) -> Stored | None:
        for number, tier in enumerate(self._tiers):
            stored = tier.get(key)
            if stored is not None and self._is_fresh(stored.encoded.created, max_age):
                for faster in self._tiers[:number]:
                    faster.set(stored)
                return stored
        return None

    def _is_fresh(self, created: float, max_age: int) -> bool:
        return -_CLOCK_SLACK <= self._clock() - created <= max_age

    async def _run(self, key: str, computed: Awaitable[Encoded]) -> Stored:
        encoded = await computed
        return Stored(key, encoded, _etag(encoded))

    async def _run_and_store(self, key: str, computed: Awaitable[Encoded]) -> Stored:
        stored = await self._run(key, computed)
        if key not in self._not_to_keep:
            self._keep(stored)
        return stored

    def keep(self, key: str, stored: Stored, *, tag: str) -> None:
        """Store the result of another cache's run."""
        self._keep(replace(stored, key=f"{_prefix(tag)}{key}"))

    def _keep(self, stored: Stored) -> None:
        if self._keeps(stored):
            for tier in self._tiers:
                tier.set(stored)

    def _landed(self, key: str, flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
            self._not_to_keep.discard(key)

    def _counted(self, stored: Stored, outcome: Outcome) -> tuple[Stored, Outcome]:
        self._counts[outcome] += 1
        return stored, outcome


async def _waited(flight: _Flight, leaving: Leaving | None) -> Stored:
    """The result of a run, for as long as whoever asked stays."""
    with flight.interest.joined():
        if leaving is None:
            return await asyncio.shield(flight.task)
        gone = asyncio.ensure_future(leaving())
        try:
            await asyncio.wait({flight.task, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
        if flight.task.done():
            return flight.task.result()
        raise ClientGone("the client has left")


@lru_cache(maxsize=4096)
def _prefix(tag: str) -> str:
    """What the keys under a tag begin with."""
    return f"{hashlib.blake2b(tag.encode(), digest_size=8).hexdigest()}-"


def _for_everybody(stored: Stored) -> bool:
    meta = stored.encoded.meta
    return not meta.get("read_caller") and int(meta.get("status", 200)) < 400


def _is_storable(stored: Stored) -> bool:
    """A result of sources that the key doesn't know (``meta["uncounted"]``) may be shared, but not kept."""
    return _for_everybody(stored) and not stored.encoded.meta.get("uncounted")


def _etag(encoded: Encoded) -> str:
    """A strong validator of what is sent: body, media type and status."""
    about = f"{encoded.media_type}\n{encoded.meta.get('status', 200)}\n".encode()
    digest = hashlib.blake2b(about, digest_size=16)
    digest.update(encoded.body)
    return f'"{digest.hexdigest()}"'


def disk_stats(folder: Path) -> dict[str, Any]:
    """What the disk tier in a folder holds."""
    if not folder.is_dir():
        return {"folder": str(folder), "entries": 0, "bytes": 0}
    tier = DiskTier(folder, None)
    try:
        return {"folder": str(folder), **tier.stats()}
    finally:
        tier.close()


def clear_disk(folder: Path) -> int:
    """Forget all results stored in a folder; a server that uses it forgets them within a second."""
    if not folder.is_dir():
        return 0
    tier = DiskTier(folder, None)
    try:
        return tier.clear()
    finally:
        tier.close()
