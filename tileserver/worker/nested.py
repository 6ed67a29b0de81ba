"""The worker's end of the channel, and what a run asks of the server over it while it runs.

A worker reads the channel itself until a run asks for something; from then on a thread reads, so that
several threads of a run may wait for answers at the same time.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import threading
from collections.abc import Mapping
from typing import Any, Final

from tileserver.errors import restore
from tileserver.protocol import LENGTHS, pack

Frame = tuple[dict[str, Any], bytes]


class Line:
    """A connected channel. One thread sends or receives jobs; any may ask."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._sending = threading.Lock()
        self._reader: threading.Thread | None = None
        self._jobs: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        self._answers: dict[int, queue.SimpleQueue[Frame]] = {}
        self._asked = 0

    def receive(self) -> Frame:
        """The next frame that is no answer."""
        return self._read() if self._reader is None else self._jobs.get()

    def send(self, header: Mapping[str, Any], body: bytes = b"") -> None:
        with self._sending:
            for piece in pack(header, body):
                self._channel.sendall(piece)

    def ask(self, header: Mapping[str, Any], body: bytes) -> Frame:
        """Send a question and wait for its answer."""
        answer: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        with self._sending:
            self._asked += 1
            number = self._asked
            self._answers[number] = answer
            if self._reader is None:
                self._reader = threading.Thread(target=self._read_on, daemon=True, name="channel")
                self._reader.start()
        self.send({"type": "ask", "number": number, **header}, body)
        return answer.get()

    def _read_on(self) -> None:
        while True:
            header, body = self._read()
            if header["type"] == "answer":
                waiting = self._answers.pop(header["number"], None)
                if waiting is not None:
                    waiting.put((header, body))
            else:
                self._jobs.put((header, body))

    def _read(self) -> Frame:
        header_length, body_length = LENGTHS.unpack(self._exactly(LENGTHS.size))
        return json.loads(self._exactly(header_length)), self._exactly(body_length)

    def _exactly(self, length: int) -> bytes:
        buffer = bytearray(length)
        view = memoryview(buffer)
        while view:
            count = self._channel.recv_into(view)
            if not count:
                os._exit(0)  # the server has no more use for this worker
            view = view[count:]
        return bytes(buffer)


_connected: Final[list[Line]] = []


def connect(line: Line) -> None:
    """Make a line the one that ``ask`` uses."""
    _connected[:] = [line]


def connected() -> bool:
    """Whether this process has a server."""
    return bool(_connected)


def ask(what: str, facts: Mapping[str, Any]) -> Frame:
    """Ask the server something for the run under way; see ``asks`` on the server's side for what.

    :raises TileServerError: of the class that the server raised.
    :raises RuntimeError: where this process has no server.
    """
    if not _connected:
        raise RuntimeError("there is no server here that could run or load other UDFs")
    answer, content = _connected[0].ask({"ask": what}, json.dumps(facts).encode())
    if "failure" in answer:
        raise restore(answer["failure"])
    return answer, content
