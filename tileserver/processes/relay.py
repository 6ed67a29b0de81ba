"""A web process's way to the owner: requests that it doesn't answer itself are answered there.

Nothing is handed over before an owner has taken up the connection. When it dies, a GET or HEAD that nothing
was answered to yet is asked again of the next one; any other method may have done its work.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tileserver.processes.frames import Frames, Lost, pieces, to_bytes, to_text

_MOST_IDLE: Final = 64
_AGAIN: Final = 0.05
_MOST_TRIES: Final = 3  # a request that kills its owner must not kill many


class Relay:
    """An ASGI application. ``channel`` leads to the owner's ``Door``; ``unreachable`` answers where no owner
    has taken up the request within ``patience`` seconds. What ``opening`` opens is open as long as the
    process serves."""

    def __init__(
        self,
        channel: socket.socket,
        *,
        unreachable: ASGIApp,
        patience: float,
        opening: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    ) -> None:
        self._channel = channel
        self._channel.setblocking(False)
        self._unreachable = unreachable
        self._patience = patience
        self._opening = opening
        self._idle: list[Frames] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        scope.setdefault("state", {}).setdefault("started", time.perf_counter())
        exchange = _Exchange(scope, receive, send)
        await exchange.begin()
        deadline = asyncio.get_running_loop().time() + self._patience
        for _ in range(_MOST_TRIES):
            try:
                frames = self._kept() or await self._connected(deadline)
            except OSError:  # nobody there in time, or no descriptor left
                break
            if await exchange.run(frames):
                self._keep(frames)
            else:
                frames.close()
            if exchange.is_settled or not exchange.may_be_repeated:
                break
        if not exchange.is_settled:
            await self._unreachable(scope, receive, send)

    def _kept(self) -> Frames | None:
        while self._idle:
            frames = self._idle.pop()
            if not frames.closed.done():
                return frames
        return None

    async def _connected(self, deadline: float) -> Frames:
        """A new connection that an owner has taken up.

        :raises TimeoutError: when none has until then.
        :raises OSError: when it can't be made.
        """
        async with asyncio.timeout_at(deadline):
            while True:
                frames = await self._opened()
                if await frames.read() is not None:
                    return frames
                frames.close()  # that owner has died in between

    async def _opened(self) -> Frames:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            with theirs:
                await self._hand_over(theirs)
        except BaseException:
            ours.close()
            raise
        _, frames = await asyncio.get_running_loop().create_unix_connection(Frames, sock=ours)
        return frames

    async def _hand_over(self, connection: socket.socket) -> None:
        while True:
            try:
                socket.send_fds(self._channel, [b"open"], [connection.fileno()])
                return
            except OSError:  # so many wait already
                await asyncio.sleep(_AGAIN)

    def _keep(self, frames: Frames) -> None:
        if len(self._idle) < _MOST_IDLE:
            self._idle.append(frames)
        else:
            frames.close()

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        async with self._opening():
            await send({"type": "lifespan.startup.complete"})
            await receive()
            for frames in self._idle:
                frames.close()
        await send({"type": "lifespan.shutdown.complete"})


class _Exchange:
    """One request on its way to the owner and back; it may be tried on several connections."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._body = b""
        self._more = True
        self._has_body = False
        self._left = False
        self._begun = False

    async def begin(self) -> None:
        """Take in the beginning of the body."""
        await self._next()

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing more to say: an answer was begun, or nobody waits for one."""
        return self._begun or self._left

    @property
    def may_be_repeated(self) -> bool:
        return self._scope["method"] in {"GET", "HEAD"} and not self._more and not self._has_body

    async def run(self, frames: Frames) -> bool:
        """Whether the connection may serve another request; it may not when the owner was lost, when the
        client has left, or when the answer came before the end of the request."""
        uploading = asyncio.create_task(self._upload(frames))
        complete = False
        try:
            while not complete and (frame := await frames.read()) is not None:
                if not self._begun:
                    self._begun = True
                    headers = to_bytes(frame.header["headers"])
                    status = frame.header["status"]
                    await self._send({"type": "http.response.start", "status": status, "headers": headers})
                complete = not frame.header["more"]
                if complete:
                    uploading.cancel()
                await self._send(
                    {"type": "http.response.body", "body": frame.body, "more_body": not complete}
                )
        finally:
            uploading.cancel()
            await asyncio.wait({uploading})
        return complete and not self._more and not self._left

    async def _upload(self, frames: Frames) -> None:
        """Send the request, then close the connection should the client leave."""
        first, *others = pieces(self._body)
        with suppress(Lost):
            await frames.write({**head_of(self._scope), "more": self._more or bool(others)}, first)
            while others or self._more:
                for number, piece in enumerate(others, 1):
                    await frames.write({"more": self._more or number < len(others)}, piece)
                if self._more and await self._next():
                    others = list(pieces(self._body))
                else:
                    break
        while not self._left:
            await self._next()
        frames.close()

    async def _next(self) -> bool:
        """Take in another piece of the body; False when the client has left instead."""
        message: Message = await self._receive()
        if message["type"] != "http.request":
            self._left = True
            return False
        self._body, self._more = message.get("body", b""), bool(message.get("more_body", False))
        self._has_body |= bool(self._body)
        return True


def head_of(scope: Scope) -> dict[str, Any]:
    """What the owner must know of a request besides its body, as JSON. ``started`` is of the clock that all
    processes of a machine share."""
    state = {name: scope["state"][name] for name in ("refusal", "started") if name in scope.get("state", {})}
    return {
        **{name: scope[name] for name in ("http_version", "method", "scheme", "path", "client", "server")},
        "raw_path": scope["raw_path"].decode("latin-1"),
        "query_string": scope["query_string"].decode("latin-1"),
        "headers": to_text(scope["headers"]),
        "state": state,
    }
