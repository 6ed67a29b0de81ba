"""Whether anybody still waits for a run: callers join and leave, and whoever runs it watches."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Interest:
    """Used from one event loop. ``is_open`` says that the run may still be joined: not once it was given
    up."""

    def __init__(self) -> None:
        self._count = 0
        self._nobody = asyncio.Event()
        self._somebody = asyncio.Event()
        self.is_open = True

    @contextmanager
    def joined(self) -> Iterator[None]:
        """One more waits, inside the block."""
        self._count += 1
        self._nobody.clear()
        self._somebody.set()
        try:
            yield
        finally:
            self._count -= 1
            if self._count == 0:
                self._somebody.clear()
                self._nobody.set()

    async def lost_for(self, seconds: float) -> None:
        """Return when nobody has waited for that long, and let nobody join any more."""
        while True:
            await self._nobody.wait()
            if seconds:
                try:
                    await asyncio.wait_for(self._somebody.wait(), seconds)
                except TimeoutError:
                    pass
                else:
                    continue
            # Somebody may have joined since the event that has woken this.
            if self._count == 0:
                self.is_open = False
                return
