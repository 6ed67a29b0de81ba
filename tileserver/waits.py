"""Which results wait for which, and how many runs wait at all.

UDFs that call one another with the same arguments would wait for ever, since identical calls are one run.
Each run that waits keeps a worker process that does nothing, and what it asks for in memory: both are bounded
for each owner.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tileserver.errors import Overloaded, UdfError

MOST_BYTES: Final = 128 * 2**20  # of what the runs of one owner ask for at the same time


class Waits:
    """Used from one event loop. Results are known by their cache keys."""

    def __init__(self) -> None:
        self._waiting: dict[str, Counter[str]] = {}
        self._asking: dict[str, Counter[object]] = {}
        self._bytes: Counter[str] = Counter()

    @contextmanager
    def waiting(self, key: str, other: str, *, may_join: bool) -> Iterator[None]:
        """``key`` waits for ``other`` inside the block; ``may_join`` says that it is content with a run of
        ``other`` that is under way.

        :raises UdfError: when that run waits for ``key`` itself.
        """
        if may_join and self._reaches(other, key):
            raise UdfError(
                "RecursionError: UDFs call one another in a circle, with the same arguments",
                exception_class="RecursionError",
            )
        others = self._waiting.setdefault(key, Counter())
        others[other] += 1
        try:
            yield
        finally:
            others[other] -= 1
            if not others[other]:
                del others[other]
            if not others and self._waiting.get(key) is others:
                del self._waiting[key]

    @contextmanager
    def asking(self, owner: str, run: object, size: int, *, most: int) -> Iterator[None]:
        """A run asks for something, ``size`` bytes of it, inside the block; at most ``most`` runs of an owner
        do so at the same time, each as often as it likes.

        :raises Overloaded: beyond that.
        """
        runs = self._asking.setdefault(owner, Counter())
        if run not in runs and len(runs) >= most:
            raise Overloaded(f"{most} runs of this canvas wait for others already (queue_limit)")
        if self._bytes[owner] + size > MOST_BYTES:
            raise Overloaded(f"the runs of this canvas ask for more than {MOST_BYTES} bytes at the same time")
        runs[run] += 1
        self._bytes[owner] += size
        try:
            yield
        finally:
            runs[run] -= 1
            self._bytes[owner] -= size
            if not runs[run]:
                del runs[run]
            if not runs:
                del self._asking[owner], self._bytes[owner]

    def _reaches(self, start: str, end: str) -> bool:
        seen: set[str] = set()
        pending = [start]
        while pending:
            key = pending.pop()
            if key == end:
                return True
            if key not in seen:
                seen.add(key)
                pending.extend(self._waiting.get(key, ()))
        return False
