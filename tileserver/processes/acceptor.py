"""How connections are shared out among web processes that listen at one socket.

Whoever the kernel wakes first would take all connections of a burst. Each process writes how many it has into
memory that all of them share; one that has more than another leaves a new connection to the others for a
moment, and takes it only when they don't.
"""

from __future__ import annotations

import asyncio
import mmap
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

_MOMENT: Final = 0.005
_AGAIN: Final = 0.1  # after there was no descriptor left
_ABSENT: Final = 2**32  # connections of a process that takes none


class Shares:
    """Connections of each process, made before they are forked."""

    def __init__(self, number: int) -> None:
        self._counts = memoryview(mmap.mmap(-1, 8 * number)).cast("Q")
        for place in range(number):
            self.leave(place)

    def leave(self, place: int) -> None:
        self._counts[place] = _ABSENT

    def has_least(self, place: int, count: int) -> bool:
        """Note how many this process has; whether no other one has fewer."""
        self._counts[place] = count
        return count <= min(self._counts)


class Acceptor:
    """Takes connections from ``listener`` and gives them to protocols that ``make`` makes; ``count`` says how
    many there are."""

    def __init__(
        self,
        listener: socket.socket,
        shares: Shares,
        place: int,
        *,
        make: Callable[[], asyncio.Protocol],
        count: Callable[[], int],
    ) -> None:
        self._listener = listener
        self._shares = shares
        self._place = place
        self._make = make
        self._count = count
        self._loop = asyncio.get_running_loop()
        self._later: asyncio.TimerHandle | None = None
        self._starting: set[asyncio.Task[None]] = set()
        listener.setblocking(False)
        self._listen()

    def close(self) -> None:
        self._shares.leave(self._place)
        if self._later is not None:
            self._later.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()

    def _listen(self) -> None:
        self._later = None
        self._shares.has_least(self._place, self._count())
        self._loop.add_reader(self._listener, self._knocked)

    def _knocked(self) -> None:
        if self._shares.has_least(self._place, self._count() + len(self._starting)):
            self._accept()
        else:
            self._loop.remove_reader(self._listener)
            self._later = self._loop.call_later(_MOMENT, self._take)

    def _take(self) -> None:
        self._listen()
        self._accept()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another process was faster, or the client thought better of it
        except OSError:
            self._loop.remove_reader(self._listener)
            self._later = self._loop.call_later(_AGAIN, self._listen)
            return
        task = self._loop.create_task(self._start(connection))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _start(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        with suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(self._make, connection)
