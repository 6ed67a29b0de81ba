"""Running jobs somewhere: the seam between the server and whatever executes UDF code."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

from tileserver.interest import Interest
from tileserver.protocol import Bundle, Encoded, Job

# Answers what a run asks of the server while it runs: a header and a body each way. What it raises is
# raised again inside the run. The header's "deadline" is that of the run (see ``Job``), and is the server's.
Answers: TypeAlias = Callable[[Mapping[str, Any], bytes], Awaitable[tuple[dict[str, Any], bytes]]]


class Executor(Protocol):
    """Runs jobs of canvases; entering it makes it ready, leaving it ends every process it started."""

    async def run(
        self, job: Job, bundle: Bundle, answers: Answers | None = None, interest: Interest | None = None
    ) -> Encoded:
        """Run one job; ``answers`` serves its nested calls. A job in whose ``interest`` nobody is left is not
        begun, and not gone on with for long.

        ``meta`` of the answer has ``stdout``, ``stderr``, ``queue_ms`` and ``run_ms`` besides what the
        worker said.

        :raises UdfError: when the function failed, took too long or ended its process.
        :raises BadRequest: when the worker refused the request before running anything.
        :raises Overloaded: when the queue is full or the wait in it too long.
        """
        ...

    def stats(self) -> dict[str, Any]: ...

    @property
    def ready(self) -> bool: ...

    @property
    def level(self) -> str:
        """How well UDF code is confined: ``A`` to ``D`` (see ``sandbox``), or ``off``."""
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
