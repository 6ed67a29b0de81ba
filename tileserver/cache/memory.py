"""The tier in memory: the results used last, up to a number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

from tileserver.cache.label import Rule
from tileserver.cache.record import Head, Stored

_OVERHEAD: Final = 2048  # what a result costs besides its body and its log


class MemoryTier:
    """Least recently used results go first. One that would take a quarter of the tier is not kept."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._held: OrderedDict[str, Stored] = OrderedDict()
        self._bytes = 0

    def get(self, key: str) -> Stored | None:
        stored = self._held.get(key)
        if stored is not None:
            self._held.move_to_end(key)
        return stored

    def head(self, key: str) -> Head | None:
        stored = self.get(key)
        return stored.head if stored is not None else None

    def set(self, stored: Stored) -> None:
        if not self._size:
            return
        cost = _cost(stored)
        self._forget(stored.key)
        if cost * 4 > self._size:
            return
        self._held[stored.key] = stored
        self._bytes += cost
        while self._bytes > self._size:
            self._forget(next(iter(self._held)))

    def forget(self, rule: Rule) -> int:
        found = [key for key, stored in self._held.items() if rule.covers(stored.label)]
        for key in found:
            self._forget(key)
        return len(found)

    def news(self, *, now: bool = True) -> Sequence[Rule]:
        """None: nobody else has this memory."""
        return ()

    def stats(self) -> dict[str, Any]:
        return {"entries": len(self._held), "bytes": self._bytes}

    def close(self) -> None:
        self._held.clear()
        self._bytes = 0

    def _forget(self, key: str) -> None:
        stored = self._held.pop(key, None)
        if stored is not None:
            self._bytes -= _cost(stored)


def _cost(stored: Stored) -> int:
    meta = stored.encoded.meta
    headers = sum(len(name) + len(str(text)) for name, text in meta.get("headers", {}).items())
    printed = len(meta.get("stdout", "")) + len(meta.get("stderr", ""))
    return len(stored.encoded.body) + printed + headers + _OVERHEAD
