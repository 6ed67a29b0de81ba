"""Who waits for a worker, and who is next.

First come, first served within an owner, owners in turn; a run that others wait for goes before those that
nobody waits for, or the pool would wait for itself.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from tileserver.protocol import Job

Worker = TypeVar("Worker")


@dataclass(slots=True, eq=False)
class Waiting(Generic[Worker]):
    """A job and the worker that it is to get."""

    job: Job
    worker: asyncio.Future[Worker]
    is_in_line: bool = True


class Line(Generic[Worker]):
    """The queues of all owners."""

    def __init__(self) -> None:
        self._queues: OrderedDict[str, deque[Waiting[Worker]]] = OrderedDict()

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def length(self, owner: str) -> int:
        return len(self._queues.get(owner, ()))

    def owners(self) -> frozenset[str]:
        """Those with somebody in their queue."""
        return frozenset(self._queues)

    def join(self, job: Job) -> Waiting[Worker]:
        """Wait behind the owner's jobs that are as deep as this one, before those that are less."""
        queue = self._queues.setdefault(job.owner, deque())
        waiting = Waiting[Worker](job, asyncio.get_running_loop().create_future())
        place = next((n for n, w in enumerate(queue) if w.job.nested < job.nested), len(queue))
        queue.insert(place, waiting)
        return waiting

    def leave(self, waiting: Waiting[Worker]) -> None:
        """Wait no longer, served or not."""
        if not waiting.is_in_line:
            return
        waiting.is_in_line = False
        queue = self._queues[waiting.job.owner]
        queue.remove(waiting)
        if not queue:
            del self._queues[waiting.job.owner]

    def served(self, waiting: Waiting[Worker]) -> None:
        """Its owner has had a turn."""
        owner = waiting.job.owner
        self.leave(waiting)
        if owner in self._queues:
            self._queues.move_to_end(owner)

    def first(self) -> Iterator[Waiting[Worker]]:
        """The next of each owner: those with the deepest nested run first, then in turn."""
        heads = [queue[0] for queue in self._queues.values()]
        yield from sorted(heads, key=lambda waiting: -waiting.job.nested)

    def cancel(self) -> None:
        """Nobody will be served any more."""
        for waiting in [w for queue in self._queues.values() for w in queue]:
            waiting.worker.cancel()
