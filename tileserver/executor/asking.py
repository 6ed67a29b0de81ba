"""The nested calls of one run: served as tasks, which end with the run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

from tileserver import errors
from tileserver.errors import BadRequest, Overloaded, TileServerError
from tileserver.executor import Answers
from tileserver.executor.channel import Channel, ChannelClosed

log = logging.getLogger("tileserver.executor")

_MOST: Final = 64  # at the same time
_NO_ANSWER: Final = TileServerError("the server could not answer")


class Asking:
    """``changed`` is called when a call begins: a worker that waits leaves its place in the pool to others.
    ``deadline`` is the run's own, on the monotonic clock."""

    def __init__(
        self, channel: Channel, answers: Answers | None, changed: Callable[[], None], deadline: float
    ) -> None:
        self._channel = channel
        self._answers = answers or _nothing_to_ask
        self._changed = changed
        self._deadline = deadline
        self._tasks: set[asyncio.Task[None]] = set()
        self.count = 0

    def hear(self, header: dict[str, Any], body: bytes) -> None:
        """A frame from the run that asks for something."""
        task = asyncio.create_task(self._serve(header, body))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, header: dict[str, Any], body: bytes) -> None:
        self.count += 1
        self._changed()
        try:
            reply, content = await self._answered(header, body)
        except TileServerError as error:
            if error.status == 500:
                log.error("a nested call could not be answered: %s", error.message)  # noqa: TRY400 - ours
                error = _NO_ANSWER
            reply, content = {"failure": errors.describe(error)}, b""
        except Exception:  # whatever was asked for: somebody waits for an answer
            log.exception("a nested call could not be answered")
            reply, content = {"failure": errors.describe(_NO_ANSWER)}, b""
        finally:
            self.count -= 1
        with suppress(ChannelClosed):
            self._channel.send({"type": "answer", "number": header.get("number"), **reply}, content)

    async def _answered(self, header: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        if self.count > _MOST:
            raise Overloaded(f"a run may wait for {_MOST} others at a time")
        return await self._answers({**header, "deadline": self._deadline}, body)

    def end(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()


async def _nothing_to_ask(header: Mapping[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
    raise BadRequest("this run can't call others")
