"""The server's end of a worker's socket and pipes: frames in, frames out, output drained with a cap."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from tileserver import replies
from tileserver.protocol import LENGTHS, MAX_HEADER, pack

_PIPE_READ: Final = 65536
_PAUSE: Final = 0.005


class ChannelClosed(Exception):
    """The worker's end is gone, or what came from it is no frame."""


Heard = Callable[[dict[str, Any], bytes], None]


class Channel(asyncio.BufferedProtocol):
    """One frame at a time: lengths are checked before anything is allocated, and the body is received
    into its final buffer. Until a request is answered, the worker may send frames that ask for something.

    A worker that doesn't read its answers is not listened to: they would pile up here."""

    def __init__(self, max_body: int) -> None:
        self._max_body = max_body
        self._transport: asyncio.Transport | None = None
        self._reply: asyncio.Future[tuple[dict[str, Any], bytes]] | None = None
        self._asked: Heard | None = None
        self._number = 0
        self.has_begun = False
        self._closed = asyncio.get_running_loop().create_future()
        self._expect_lengths()

    async def request(
        self, header: Mapping[str, Any], body: bytes, asked: Heard | None = None
    ) -> tuple[dict[str, Any], bytes]:
        """Send a frame and wait for the one that answers it; ``asked`` is given those that ask, until then.
        ``has_begun`` says whether the worker has taken it up.

        :raises ChannelClosed: when the worker ends, or answers with something else.
        """
        self._reply = asyncio.get_running_loop().create_future()
        self._asked = asked
        self._number += 1
        self.has_begun = False
        try:
            self.send({**header, "number": self._number}, body)
        except ChannelClosed:
            self._reply.cancel()  # nobody waits for it: it must not be told of the end, too
            raise
        return await self._reply

    def send(self, header: Mapping[str, Any], body: bytes) -> None:
        """Send a frame that has no answer.

        :raises ChannelClosed: when the worker has ended.
        """
        if self._transport is None or self._transport.is_closing():
            raise ChannelClosed
        self._transport.writelines([piece for piece in pack(header, body) if piece])

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    @property
    def closed(self) -> asyncio.Future[None]:
        return self._closed

    # -- asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closed.done():
            self._closed.set_result(None)
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(ChannelClosed())

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._buffer)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        while self._filled == len(self._buffer):
            if not self._advance():
                return

    def eof_received(self) -> None:
        return None

    def pause_writing(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def _expect_lengths(self) -> None:
        self._stage = 0
        self._buffer = bytearray(LENGTHS.size)
        self._filled = 0

    def _advance(self) -> bool:
        """One part of a frame is complete; False when the channel was given up."""
        if self._stage == 0:
            header_length, self._body_length = LENGTHS.unpack(self._buffer)
            if not 0 < header_length <= MAX_HEADER or self._body_length > self._max_body:
                self.close()
                return False
            self._stage, self._buffer, self._filled = 1, bytearray(header_length), 0
            return True
        if self._stage == 1:
            try:
                self._header = json.loads(self._buffer)
            except (ValueError, RecursionError):
                self.close()
                return False
            self._stage, self._buffer, self._filled = 2, bytearray(self._body_length), 0
            return True
        header, body = self._header, bytes(self._buffer)
        self._expect_lengths()
        if self._reply is None or self._reply.done() or not isinstance(header, dict):
            self.close()  # an answer that nobody asked for: this worker is not to be trusted
            return False
        kind = header.get("type")
        if kind == "ask" and self._asked is not None:
            self._asked(header, body)
            return True
        # What answers an earlier request comes from something that has outlived it.
        if header.get("number") != self._number or (kind == "result" and not replies.is_result(header)):
            self.close()
            return False
        if kind == "begun":
            self.has_begun = True
        else:
            self._reply.set_result((header, body))
        return True


class Drain:
    """Reads one pipe of a worker for as long as it lives, and keeps the first and last part of what a
    run wrote. Past the limit it reads slowly, so that a flood stops its writer, not the server."""

    def __init__(self, descriptor: int, limit: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor = descriptor
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._open = True
        self._paused: asyncio.TimerHandle | None = None
        self._head = bytearray()
        self._tail = bytearray()
        self._lost = 0
        self._loop.add_reader(descriptor, self._read)

    def take(self) -> str:
        """What was written since the last call; everything already in the pipe is included."""
        for _ in range(self._limit // _PIPE_READ + 2):
            if not self._open or not self._read_once():
                break
        gap = b"\n... %d bytes left out ...\n" % self._lost if self._lost else b""
        text = (bytes(self._head) + gap + bytes(self._tail)).decode("utf-8", "replace")
        self._head.clear()
        self._tail.clear()
        self._lost = 0
        return text

    def close(self) -> None:
        if self._open:
            self._open = False
            self._loop.remove_reader(self._descriptor)
            if self._paused is not None:
                self._paused.cancel()
            os.close(self._descriptor)

    def _read(self) -> None:
        self._read_once()
        if self._open and self._lost:
            self._loop.remove_reader(self._descriptor)
            self._paused = self._loop.call_later(_PAUSE, self._resume)

    def _resume(self) -> None:
        if self._open:
            self._loop.add_reader(self._descriptor, self._read)

    def _read_once(self) -> int:
        try:
            chunk = os.read(self._descriptor, _PIPE_READ)
        except BlockingIOError:
            return 0
        except OSError:
            chunk = b""
        if not chunk:
            self.close()
            return 0
        half = self._limit // 2
        room = max(0, half - len(self._head))
        self._head += chunk[:room]
        self._tail += chunk[room:]
        excess = len(self._tail) - half
        if excess > 0:
            del self._tail[:excess]
            self._lost += excess
        return len(chunk)
