"""Runs that their caller asks about later, by an id of the caller's own.

A run of one id starts once, however often it is posted; its result is kept for a while, to be fetched.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from tileserver.errors import NotFound, Overloaded

Result = TypeVar("Result")
Key = tuple[str, str]

KEEP: Final = 600.0  # seconds after its end; ids are remembered for as long
MOST: Final = 10_000


@dataclass(slots=True)
class _Run(Generic[Result]):
    task: asyncio.Task[Result] | None  # None once its result has been let go
    ended: float | None = None
    size: int = 0

    @property
    def refused(self) -> bool:
        task = self.task
        return bool(
            task and task.done() and not task.cancelled() and isinstance(task.exception(), Overloaded)
        )


class Runs(Generic[Result]):
    """``size`` tells how many bytes a result holds; the oldest are let go beyond ``limit`` bytes."""

    def __init__(self, size: Callable[[Result], int], limit: int = 512 * 2**20) -> None:
        self._size = size
        self._limit = limit
        self._runs: OrderedDict[Key, _Run[Result]] = OrderedDict()

    async def start(
        self, key: Key, run: Callable[[], Coroutine[Any, Any, Result]], *, wait: float
    ) -> Result | None:
        """Start a run, unless one of this key was; its result when that comes within ``wait`` seconds. One
        that was refused for want of room has never run, and may be started again.

        :raises Overloaded: when too many runs are remembered.
        """
        self._tidy()
        if key in self._runs and self._runs[key].refused:
            del self._runs[key]
        if key not in self._runs:
            if len(self._runs) >= MOST:
                raise Overloaded("too many runs were started in the last minutes", retry_after=60)
            task = asyncio.create_task(run())
            entry = self._runs[key] = _Run(task)
            task.add_done_callback(lambda done: self._ended(entry, done))
        return await self.get(key, wait=wait)

    async def get(self, key: Key, *, wait: float) -> Result | None:
        """The result of a run, or None when it takes longer than ``wait`` seconds; raises what it raised.

        :raises NotFound: when no such run was started, or its result is no longer kept.
        """
        entry = self._runs.get(key)
        if entry is None or entry.task is None:
            raise NotFound("no run of this id is known, or its result is no longer kept")
        done, _ = await asyncio.wait({entry.task}, timeout=wait)
        return entry.task.result() if done else None

    async def close(self) -> None:
        tasks = [entry.task for entry in self._runs.values() if entry.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, entry: _Run[Result], done: asyncio.Task[Result]) -> None:
        entry.ended = time.monotonic()
        if not done.cancelled() and done.exception() is None:
            entry.size = self._size(done.result())
        self._tidy()

    def _tidy(self) -> None:
        """Forget what ended long ago, and the oldest results while all of them are too large."""
        now = time.monotonic()
        for key in [k for k, e in self._runs.items() if e.ended is not None and now - e.ended > KEEP]:
            del self._runs[key]
        total = sum(entry.size for entry in self._runs.values())
        for entry in self._runs.values():
            if total <= self._limit:
                return
            if entry.size:
                total -= entry.size
                entry.size, entry.task = 0, None
