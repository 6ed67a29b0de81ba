"""Stored results: one door, two tiers, single flight.

``get_or_compute`` decides by age whether a stored result may be used, lets identical requests wait for one
run, and never stores a failure. Below it a memory tier stands in front of a disk tier. What was purged, by
whichever process, is forgotten here within a second, and isn't stored by runs that were under way.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Protocol

from tileserver.cache.disk import DiskTier, folder_clear, folder_purge, folder_stats
from tileserver.cache.label import NOTHING, Label, Rule, arguments_of
from tileserver.cache.memory import MemoryTier
from tileserver.cache.recent import RecentTier
from tileserver.cache.record import Head, Stored
from tileserver.errors import ClientGone, Overloaded, UdfError, UdfKilled, UdfTimeout, without_output
from tileserver.interest import Interest
from tileserver.protocol import Encoded
from tileserver.subject import Subject

__all__ = [
    "Cache",
    "CacheTier",
    "Head",
    "Outcome",
    "Rule",
    "Stored",
    "arguments_of",
    "folder_clear",
    "folder_purge",
    "folder_stats",
]

Outcome = Literal["hit", "miss", "shared", "stale"]
# Runs once; what it is given says whether anybody still waits for it. It makes one result, or several by key.
Made = Encoded | Mapping[str, Encoded]
Compute = Callable[[Interest], Awaitable[Made]]
# What a result is of, worked out when it is made.
Of = Callable[[], Subject]
# Returns when whoever asked has left.
Leaving = Callable[[], Awaitable[None]]

# A result from further in the future than this was stored under another clock, and is of unknown age.
_CLOCK_SLACK: Final = 5.0
_FAILED: Final = frozenset({500, 502, 503, 504})  # what RFC 5861, section 4, takes for an error


class CacheTier(Protocol):
    """Keeps results by key; forgetting one at any time is allowed, returning a wrong one never."""

    def get(self, key: str) -> Stored | None: ...

    def head(self, key: str) -> Head | None: ...

    def set(self, stored: Stored) -> None: ...

    def forget(self, rule: Rule) -> int: ...

    def news(self, *, now: bool = True) -> Sequence[Rule]:
        """The rules by which other processes have forgotten results since the last look."""
        ...

    def stats(self) -> dict[str, Any]: ...

    def close(self) -> None: ...


class _NotMade(Exception):
    """A run that was to make this result, too, has made others only."""


class _Making(NamedTuple):
    """What a run is to store, by key, and what of that has been forgotten since it began."""

    labels: Mapping[str, Label]
    forgotten: set[str]


class _Flight(NamedTuple):
    """A result of a run under way, and who waits for that."""

    task: asyncio.Task[Stored]
    interest: Interest


def _nothing() -> Subject:
    return Subject()


def _alone() -> Mapping[str, Of]:
    return {}


class Cache:
    """Used from one event loop. ``tiers`` come fastest first; ``keeps`` says which results are stored."""

    def __init__(
        self,
        *tiers: CacheTier,
        clock: Callable[[], float] = time.time,
        secret: bytes = b"",
        keeps: Callable[[Stored], bool] | None = None,
    ) -> None:
        self._tiers = tiers
        self._keeps = keeps or _is_storable
        self._clock = clock
        self._secret = secret
        self._flights: dict[str, _Flight] = {}
        self._runs: set[asyncio.Task[Any]] = set()
        self._makings: dict[asyncio.Task[Any], _Making] = {}  # of the runs under way
        self._counts = {"hit": 0, "miss": 0, "shared": 0, "stale": 0}

    @classmethod
    def open(cls, folder: Path, disk_size: int, memory_size: int, secret: bytes) -> Cache:
        """A memory tier in front of a disk tier in ``folder``; sizes are bytes, and ``secret`` (at most 64
        bytes) is what seals and digests are keyed with."""
        return cls(MemoryTier(memory_size), DiskTier(folder, disk_size, secret), secret=secret)

    @classmethod
    def recent(cls, size: int) -> Cache:
        """One that keeps for a few seconds whatever may be given to more than one request, up to ``size``
        bytes (see ``RecentTier``)."""
        return cls(RecentTier(size), keeps=_for_everybody)

    async def get_or_compute(
        self,
        key: str,
        compute: Compute,
        *,
        max_age: int,
        stale_while_revalidate: int = 0,
        stale_if_error: int = 0,
        subject: Of = _nothing,
        together: Callable[[], Mapping[str, Of]] = _alone,
        leaving: Leaving | None = None,
    ) -> tuple[Stored, Outcome]:
        """A stored result no older than ``max_age`` seconds, that of a run under way, or that of a run of
        its own. An age of zero always runs, and stores nothing.

        For so many seconds more (RFC 5861), a stored result is returned while one run in the background makes
        a new one, or in the place of a run that failed or found no room.

        ``together`` is asked when a run begins: it gives the keys of all results that the run makes, this
        one's included, and what they are of. Whoever asks for one of them meanwhile joins the run.

        A run goes on when whoever began it leaves: others may wait for it, and it is stored; it is told when
        nobody is left. Results that depend on their caller (``meta["read_caller"]``) and answers of status
        400 and above are neither stored nor shared. What ``compute`` raises goes to everybody who waited.

        :raises ClientGone: once ``leaving`` returns.
        """
        if max_age == 0:
            return self._counted(await self._own(key, compute, leaving), "miss")
        stored = self._stored(key, max_age)
        if stored is not None:
            return self._counted(stored, "hit")
        stored = self._stored(key, max_age + stale_while_revalidate) if stale_while_revalidate else None
        if stored is not None:
            self._refresh(key, compute, subject, together)
            return self._counted(stored, "stale")
        failure: UdfError | Overloaded | None = None
        try:
            made, outcome = await self._made(key, compute, subject, together, leaving)
        except (UdfError, Overloaded) as error:
            failure = error
        if stale_if_error and (failure is not None or made.encoded.meta.get("status") in _FAILED):
            stored = self._stored(key, max_age + stale_if_error)
            if stored is not None:
                return self._counted(stored, "stale")
        if failure is not None:
            raise failure
        return self._counted(made, outcome)

    async def _made(
        self,
        key: str,
        compute: Compute,
        subject: Of,
        together: Callable[[], Mapping[str, Of]],
        leaving: Leaving | None,
    ) -> tuple[Stored, Outcome]:
        """The result of a run under way, or of one that begins now."""
        while (flight := self._flights.get(key)) is not None and flight.interest.is_open:
            try:
                joined = await self._joined(flight, leaving)
            except _NotMade:
                continue
            if joined is not None:
                return joined, "shared"
            return await self._own(key, compute, leaving), "miss"
        return await _waited(self._take_off(key, compute, subject, together), leaving), "miss"

    def _refresh(
        self, key: str, compute: Compute, subject: Of, together: Callable[[], Mapping[str, Of]]
    ) -> None:
        """Begin a run for those who come later, unless one is under way. Nobody's leaving ends it."""
        flight = self._flights.get(key)
        if flight is None or not flight.interest.is_open:
            flight = self._take_off(key, compute, subject, together)
            self._followed(asyncio.create_task(_waited(flight, None)))

    def _take_off(
        self, key: str, compute: Compute, subject: Of, together: Callable[[], Mapping[str, Of]]
    ) -> _Flight:
        """Begin a run, and let those who ask for what it makes join it."""
        self._notice(now=True)  # so that what was purged before the run doesn't count against its result
        labels = {one: Label.of(of(), self._secret) for one, of in (together() or {key: subject}).items()}
        interest, making = Interest(), _Making(labels, set())
        run = asyncio.create_task(self._run_and_store(key, compute(interest), making))
        self._makings[run] = making
        run.add_done_callback(lambda _: self._makings.pop(run))
        self._followed(run)
        for one in labels:
            other = self._flights.get(one)
            if one == key or other is None or not other.interest.is_open:
                task = asyncio.create_task(_one_of(run, one))
                self._followed(task)
                self._announce(one, _Flight(task, interest))
        return self._flights[key]

    def _announce(self, key: str, flight: _Flight) -> None:
        self._flights[key] = flight
        flight.task.add_done_callback(lambda _: self._landed(key, flight))

    def stored(self, key: str, max_age: int) -> Stored | None:
        """A stored result no older than ``max_age`` seconds, counted as a hit. None says nothing:
        ``get_or_compute`` knows what to do then."""
        stored = self._stored(key, max_age) if max_age else None
        if stored is not None:
            self._counts["hit"] += 1
        return stored

    def head(self, key: str, max_age: int) -> Head | None:
        """The head of what ``stored`` would give, without reading a body; nothing is counted."""
        self._notice()
        for tier in self._tiers if max_age else ():
            head = tier.head(key)
            if head is not None and self._is_fresh(head.created, max_age):
                return head
        return None

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
        interest = Interest()
        run = asyncio.create_task(self._run(key, compute(interest), {key: NOTHING}))
        self._followed(run)
        task = asyncio.create_task(_one_of(run, key))
        self._followed(task)
        return await _waited(_Flight(task, interest), leaving)

    def _followed(self, task: asyncio.Task[Any]) -> None:
        self._runs.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._runs.discard(task)
        if not task.cancelled():
            task.exception()  # it has been told to those who waited; nobody may be left to ask

    async def forget(self, rule: Rule) -> int:
        """Forget results by a rule, and what runs under way would store; how many the largest tier had."""
        self._heed(rule)
        counts = [await asyncio.to_thread(self._tiers[-1].forget, rule)] if self._tiers else [0]
        # Afterwards, or they would be filled again from what is below them.
        counts += [tier.forget(rule) for tier in self._tiers[:-1]]
        self._notice(now=True)
        return max(counts)

    def _heed(self, rule: Rule) -> None:
        """What runs under way make of this is neither stored nor shared any more."""
        for making in self._makings.values():
            forgotten = {key for key, label in making.labels.items() if rule.covers(label)}
            making.forgotten.update(forgotten)
            for key in forgotten:
                self._flights.pop(key, None)

    def _notice(self, *, now: bool = False) -> None:
        """Forget here what other processes have forgotten below."""
        for number, tier in enumerate(self._tiers):
            for rule in tier.news(now=now):
                self._heed(rule)
                for faster in self._tiers[:number]:
                    faster.forget(rule)

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

    def _stored(self, key: str, max_age: int) -> Stored | None:
        self._notice()
        for number, tier in enumerate(self._tiers):
            stored = tier.get(key)
            if stored is not None and self._is_fresh(stored.encoded.created, max_age):
                for faster in self._tiers[:number]:
                    faster.set(stored)
                return stored
        return None

    def _is_fresh(self, created: float, max_age: int) -> bool:
        return -_CLOCK_SLACK <= self._clock() - created <= max_age

    async def _run(
        self, key: str, computed: Awaitable[Made], labels: Mapping[str, Label]
    ) -> Mapping[str, Stored]:
        """The results of a run by key; not all that it was to make have to be there."""
        made = await computed
        results = {key: made} if isinstance(made, Encoded) else made
        return {one: Stored(one, encoded, _etag(encoded), labels[one]) for one, encoded in results.items()}

    async def _run_and_store(
        self, key: str, computed: Awaitable[Made], making: _Making
    ) -> Mapping[str, Stored]:
        results = await self._run(key, computed, making.labels)
        self._notice()
        for one, stored in results.items():
            if one not in making.forgotten:
                self._keep(stored)
        return results

    def keep(self, key: str, stored: Stored) -> None:
        """Store the result of another cache's run."""
        self._keep(replace(stored, key=key))

    def _keep(self, stored: Stored) -> None:
        if self._keeps(stored):
            for tier in self._tiers:
                tier.set(stored)

    def _landed(self, key: str, flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    def _counted(self, stored: Stored, outcome: Outcome) -> tuple[Stored, Outcome]:
        self._counts[outcome] += 1
        return stored, outcome


async def _one_of(run: asyncio.Task[Mapping[str, Stored]], key: str) -> Stored:
    """One of the results of a run.

    :raises _NotMade: when the run hasn't made it.
    """
    results = await asyncio.shield(run)
    if key not in results:
        raise _NotMade
    return results[key]


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
