"""Results that nobody wants kept, for the few seconds in which whoever asked reads them in pieces.

A client that reads a file by HEAD and Range sends many requests for what it takes for one file. Where nothing
is stored, they are cut from the bytes of the last run that the same client caused.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final

from tileserver.cache.label import EVERYTHING, Rule
from tileserver.cache.record import Head, Stored

KEPT: Final = 10.0  # seconds
_MOST: Final = 256  # results


class RecentTier:
    """Results of the last ``KEPT`` seconds, up to ``size`` bytes; the oldest go first. Used from one event
    loop."""

    def __init__(self, size: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._clock = clock
        self._held: OrderedDict[str, tuple[Stored, float]] = OrderedDict()  # with the time of their end
        self._bytes = 0

    def get(self, key: str) -> Stored | None:
        held = self._held.get(key)
        return held[0] if held is not None and self._clock() < held[1] else None

    def head(self, key: str) -> Head | None:
        stored = self.get(key)
        return stored.head if stored is not None else None

    def set(self, stored: Stored) -> None:
        self._forget(stored.key)
        if len(stored.encoded.body) > self._size:
            return
        self._held[stored.key] = (stored, self._clock() + KEPT)
        self._bytes += len(stored.encoded.body)
        while self._bytes > self._size or len(self._held) > _MOST:
            self._forget(next(iter(self._held)))
        asyncio.get_running_loop().call_later(KEPT + 0.1, self._forget_ended)

    def forget(self, rule: Rule) -> int:
        found = [key for key, (stored, _) in self._held.items() if rule.covers(stored.label)]
        for key in found:
            self._forget(key)
        return len(found)

    def news(self, *, now: bool = True) -> Sequence[Rule]:
        """None: nobody else has this memory."""
        return ()

    def stats(self) -> dict[str, Any]:
        return {"entries": len(self._held), "bytes": self._bytes}

    def close(self) -> None:
        self.forget(EVERYTHING)

    def _forget_ended(self) -> None:
        now = self._clock()
        for key in [key for key, (_, end) in self._held.items() if end <= now]:
            self._forget(key)

    def _forget(self, key: str) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            self._bytes -= len(held[0].encoded.body)
