"""The line that the log has of each request: gathered on the event loop, written by one thread.

A line costs the event loop the appending of a few facts. Writing them out as text, many at a time, is the
thread's; a reader of the log that is slow delays nobody but the log. Lines hold names of canvases and UDFs,
never a token or a query.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

_GATHER: Final = 0.05  # seconds in which lines gather before they are written
_MOST: Final = 200_000  # lines that wait at most; beyond it the log says how many are missing


@dataclass(slots=True)
class About:
    """What many lines may share; ``text`` is for whoever writes it, to write it only once."""

    fields: Mapping[str, object]
    text: str = ""


class Line(NamedTuple):
    """One request, at a time in Unix seconds: how it was answered, the outcome in the cache if it got there,
    milliseconds, and the request's id."""

    time: float
    about: About
    status: int
    cache: str | None
    ms: float
    id: str


Write = Callable[[Sequence[Line], int], None]


class RequestLog:
    """Takes lines from the event loop. ``write`` is called from one thread with lines in their order, and how
    many were dropped among them."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._lines: deque[Line] = deque()
        self._dropped = 0
        self._there = threading.Event()
        self._closing = threading.Event()
        self._writing = threading.Lock()
        self._writer: threading.Thread | None = None

    def note(self, about: About, status: int, cache: str | None, ms: float, request_id: str) -> None:
        """Have a line written soon; see ``Line``."""
        if len(self._lines) >= _MOST:
            self._dropped += 1
            return
        self._lines.append(Line(time.time(), about, status, cache, ms, request_id))
        if not self._there.is_set():
            self._wake()

    def close(self) -> None:
        """Write what is left. Lines that are noted later are written, too."""
        writer, self._writer = self._writer, None
        if writer is not None:
            self._closing.set()
            self._there.set()
            writer.join()
            self._closing.clear()
            atexit.unregister(self.close)
        self._flush()

    def _wake(self) -> None:
        self._there.set()
        if self._writer is None:  # begun by the first line: a process that forks before it has no thread
            self._writer = threading.Thread(target=self._write_all, name="request-log", daemon=True)
            self._writer.start()
            atexit.register(self.close)

    def _write_all(self) -> None:
        while not self._closing.is_set():
            self._there.wait()
            self._closing.wait(_GATHER)
            self._flush()

    def _flush(self) -> None:
        with self._writing:
            self._there.clear()
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            dropped, self._dropped = self._dropped, 0
            if lines or dropped:
                try:
                    self._write(lines, dropped)
                except (OSError, ValueError):  # nobody reads the log any more; the server goes on
                    self._dropped += dropped + len(lines)
