"""Where the owner takes in what other web processes hand to it.

A connection is one end of a pair of sockets that a relay has made, sent through a channel which only our
own processes have inherited: nobody else can knock, whoever they run as. What waits in the channel while one
owner has died is there for the next.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Scope

from tileserver.processes.frames import Frame, Frames, Lost, pieces, to_bytes, to_text

_MESSAGE = 16


class Door:
    """Serves relayed requests from ``channel`` by ``app``."""

    def __init__(self, channel: socket.socket, app: ASGIApp) -> None:
        self._channel = channel
        self._app = app
        self._serving: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Until there is nobody left who could hand something in."""
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        self._channel.setblocking(False)
        loop.add_reader(self._channel, self._admit, ended)
        try:
            await ended
            if self._serving:
                await asyncio.wait(self._serving)
        finally:
            loop.remove_reader(self._channel)
            for task in self._serving:
                task.cancel()

    def _admit(self, ended: asyncio.Future[None]) -> None:
        try:
            message, descriptors, _, _ = socket.recv_fds(self._channel, _MESSAGE, 1)
        except BlockingIOError:
            return
        except OSError:
            message = b""
        if not message:
            asyncio.get_running_loop().remove_reader(self._channel)
            if not ended.done():
                ended.set_result(None)
            return
        for descriptor in descriptors:
            connection = socket.socket(fileno=descriptor)
            connection.set_inheritable(False)
            connection.setblocking(False)
            task = asyncio.get_running_loop().create_task(self._attend(connection))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    async def _attend(self, connection: socket.socket) -> None:
        """One request after another, until the relay closes its end."""
        loop = asyncio.get_running_loop()
        _, frames = await loop.create_unix_connection(Frames, sock=connection)
        try:
            await frames.write({"open": True})
            while (head := await frames.read()) is not None:
                exchange = _Exchange(frames, head)
                await exchange.run(self._app)
                if not exchange.is_complete:
                    return
                await exchange.skip_body()
        except Lost:
            return
        finally:
            frames.close()


class _Exchange:
    """One request and its answer, as ASGI."""

    def __init__(self, frames: Frames, head: Frame) -> None:
        self._frames = frames
        self._scope = _scope_of(head.header)
        self._first: Frame | None = head
        self._more = bool(head.header["more"])
        self._start: dict[str, Any] = {}
        self._over = asyncio.Event()
        self.is_complete = False  # the answer

    async def run(self, app: ASGIApp) -> None:
        """Have it answered."""
        self._frames.closed.add_done_callback(self._left)
        try:
            await app(self._scope, self.receive, self.send)
        finally:
            self._frames.closed.remove_done_callback(self._left)

    async def skip_body(self) -> None:
        """Read what the application has left of the body. Closing the connection instead would be quicker
        than the answer, which is still on its way."""
        while self._more and (frame := await self._frames.read()) is not None:
            self._more = bool(frame.header["more"])

    async def receive(self) -> Message:
        frame, self._first = self._first, None
        if frame is None and self._more:
            frame = await self._frames.read()
        if frame is not None:
            self._more = bool(frame.header["more"])
            return {"type": "http.request", "body": frame.body, "more_body": self._more}
        await self._over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = {"status": message["status"], "headers": to_text(list(message.get("headers", ())))}
            return
        body = b"" if self._scope["method"] == "HEAD" else message.get("body", b"")
        *others, last = pieces(body)
        more = bool(message.get("more_body", False))
        try:
            for piece in others:
                await self._write(piece, more=True)
            await self._write(last, more=more)
        except Lost:
            return  # as if the client had left: whoever answers is told so when it asks
        if not more:
            self.is_complete = True
            self._over.set()

    async def _write(self, piece: bytes, *, more: bool) -> None:
        start, self._start = self._start, {}
        await self._frames.write({**start, "more": more}, piece)

    def _left(self, closed: asyncio.Future[None]) -> None:
        self._over.set()


def _scope_of(head: Mapping[str, Any]) -> Scope:
    """The request as the process that has read it described it (see ``relay.head_of``)."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": head["http_version"],
        "method": head["method"],
        "scheme": head["scheme"],
        "root_path": "",
        "path": head["path"],
        "raw_path": head["raw_path"].encode("latin-1"),
        "query_string": head["query_string"].encode("latin-1"),
        "headers": to_bytes(head["headers"]),
        "client": tuple(head["client"]) if head["client"] else None,
        "server": tuple(head["server"]) if head["server"] else None,
        "state": dict(head["state"]),
    }
