"""Requests and answers between web processes: frames as those of workers (``protocol.py``), in both
directions of a socket that has no name.

A request is a frame with its head and the first piece of its body, then a frame for each further piece; an
answer likewise. ``more`` says that another piece follows. A connection serves one request at a time; who
gives up on one closes it.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple, cast

from tileserver.protocol import LENGTHS, MAX_HEADER, pack

PIECE: Final = 256 * 1024  # bytes of a body in one frame
_MOST: Final = 2 * PIECE  # bytes that are read ahead of whoever takes them


class Lost(Exception):
    """The other end is gone."""


class Frame(NamedTuple):
    header: dict[str, Any]
    body: bytes


class Frames(asyncio.Protocol):
    """One end of a connection, used by one reader and one writer."""

    def __init__(self) -> None:
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport
        self._buffer = bytearray()
        self._frames: deque[Frame] = deque()
        self._is_full = False
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()

    async def read(self) -> Frame | None:
        """The next frame; None once there will be no more."""
        while not self._frames:
            if self.closed.done():
                return None
            self._arrived.clear()
            await self._arrived.wait()
        frame = self._frames.popleft()
        if self._is_full and not self._frames and not self._transport.is_closing():
            self._is_full = False
            self._transport.resume_reading()
        return frame

    async def write(self, header: Mapping[str, Any], body: bytes = b"") -> None:
        """Send a frame, and wait until there is room for another.

        :raises Lost: when nobody is there any more.
        """
        if self._transport.is_closing():
            raise Lost
        self._transport.writelines([piece for piece in pack(header, body) if piece])
        await self._writable.wait()

    def close(self) -> None:
        self._transport.abort()

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._writable.set()
        if not self.closed.done():
            self.closed.set_result(None)
        self._arrived.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        try:
            self._frames.extend(self._complete())
        except (ValueError, RecursionError):
            self.close()
            return
        if self._frames:
            self._arrived.set()
            if not self._is_full and sum(len(frame.body) for frame in self._frames) > _MOST:
                self._is_full = True
                self._transport.pause_reading()

    def _complete(self) -> Iterator[Frame]:
        """The frames that have come whole.

        :raises ValueError: for bytes that are no frames.
        """
        start, buffer = 0, self._buffer
        while len(buffer) - start >= LENGTHS.size:
            header_length, body_length = LENGTHS.unpack_from(buffer, start)
            if not 0 < header_length <= MAX_HEADER or body_length > PIECE:
                raise ValueError
            middle = start + LENGTHS.size + header_length
            end = middle + body_length
            if len(buffer) < end:
                break
            header = json.loads(buffer[start + LENGTHS.size : middle])
            if not isinstance(header, dict):
                raise ValueError
            yield Frame(header, bytes(memoryview(buffer)[middle:end]))
            start = end
        if start:
            del buffer[:start]


def pieces(body: bytes) -> Iterator[bytes]:
    """A body in parts that fit a frame; there is always one."""
    if len(body) <= PIECE:
        yield body
        return
    for start in range(0, len(body), PIECE):
        yield body[start : start + PIECE]


def to_text(headers: list[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    """Headers as JSON can hold them."""
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]


def to_bytes(headers: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
