"""Values that are worth finding out once: kept for a while, the oldest out of too many forgotten."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

Value = TypeVar("Value")

_MOST: Final = 4096


class Kept(Generic[Value]):
    """Used from one event loop. ``seconds`` is how long a value counts."""

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._values: dict[str, tuple[float, Value]] = {}

    def get(self, key: str) -> Value | None:
        since, value = self._values.get(key, (None, None))
        return value if since is not None and self._clock() - since <= self._seconds else None

    def set(self, key: str, value: Value) -> None:
        self._values.pop(key, None)
        self._values[key] = (self._clock(), value)
        if len(self._values) > _MOST:
            del self._values[next(iter(self._values))]
