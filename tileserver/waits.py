"""Which results wait for which: UDFs that call one another with the same arguments would wait for ever,
since identical calls are one run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tileserver.errors import UdfError


class Waits:
    """Used from one event loop. Results are known by their cache keys."""

    def __init__(self) -> None:
        self._waiting: dict[str, Counter[str]] = {}

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
