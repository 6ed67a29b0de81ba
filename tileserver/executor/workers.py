"""A worker as the pool sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from tileserver.executor.asking import Asking
from tileserver.executor.zygote import Child


@dataclass(slots=True, eq=False)
class Worker:
    """``ended_by`` says why the pool itself has ended it."""

    child: Child
    slot: int
    owner: str | None = None
    bundle: str | None = None
    environment: Mapping[str, str] | None = field(default=None, repr=False)
    runs: int = 0
    last_udf: str = ""
    busy: bool = False
    asking: Asking | None = None
    ticks: int | None = None
    ended_by: str = ""
    gone: bool = False

    @property
    def exited(self) -> asyncio.Future[int]:
        """Its exit status, once its process has ended."""
        return self.child.exited

    @property
    def usable(self) -> bool:
        return not (self.gone or self.child.channel.closed.done())

    @property
    def takes_a_place(self) -> bool:
        """One that waits for a nested call leaves its place to that: if it did not, workers that all wait for
        one another would wait for ever."""
        return self.usable and not self.waits

    @property
    def waits(self) -> bool:
        """Whether its run waits for nested calls."""
        return self.asking is not None and self.asking.count > 0
