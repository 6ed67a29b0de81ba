"""The tier in memory: the results used last, up to a number of bytes."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tileserver.cache.disk import generation
from tileserver.cache.record import Stored

_OVERHEAD: Final = 2048  # what a result costs besides its body
_LOOK_EVERY: Final = 0.5


class MemoryTier:
    """Least recently used results go first. One that would take a quarter of the tier is not kept.

    ``folder`` is the disk tier's: when that is cleared by another process, this one is, too.
    """

    def __init__(self, size: int, folder: Path | None = None) -> None:
        self._size = size
        self._folder = folder
        self._held: OrderedDict[str, Stored] = OrderedDict()
        self._bytes = 0
        self._generation = generation(folder)
        self._looked = time.monotonic()

    def get(self, key: str) -> Stored | None:
        self._notice_clearing()
        stored = self._held.get(key)
        if stored is not None:
            self._held.move_to_end(key)
        return stored

    def set(self, stored: Stored) -> None:
        cost = _cost(stored)
        self._forget(stored.key)
        if cost * 4 > self._size:
            return
        self._held[stored.key] = stored
        self._bytes += cost
        while self._bytes > self._size:
            self._forget(next(iter(self._held)))

    def forget(self, matches: Callable[[str], bool]) -> int:
        found = [key for key in self._held if matches(key)]
        for key in found:
            self._forget(key)
        return len(found)

    def clear(self) -> int:
        count = len(self._held)
        self._held.clear()
        self._bytes = 0
        return count

    def stats(self) -> dict[str, Any]:
        return {"entries": len(self._held), "bytes": self._bytes}

    def close(self) -> None:
        self.clear()

    def _forget(self, key: str) -> None:
        stored = self._held.pop(key, None)
        if stored is not None:
            self._bytes -= _cost(stored)

    def _notice_clearing(self) -> None:
        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY:
            return
        self._looked = now
        current = generation(self._folder)
        if current != self._generation:
            self._generation = current
            self.clear()


def _cost(stored: Stored) -> int:
    return len(stored.encoded.body) + _OVERHEAD
