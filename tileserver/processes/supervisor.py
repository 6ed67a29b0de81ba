"""The process that starts the web processes, replaces those that die, and stops them.

It has no event loop, no thread and no work of its own, so that it can fork at any time and has nothing to
die of. Web processes die with it.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from types import FrameType
from typing import Any, Final, NoReturn, Protocol

from tileserver.errors import ConfigurationError
from tileserver.processes.acceptor import Shares
from tileserver.sandbox.system import PR_SET_PDEATHSIG, prctl

log = logging.getLogger("tileserver")

_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_PAUSE: Final = 0.3  # before another one takes the place of one that was killed before it was ready


@dataclass(frozen=True, slots=True)
class Place:
    """One of the web processes, or whoever has taken its place. ``channel`` is its end of what leads to the
    owner."""

    number: int
    channel: socket.socket
    shares: Shares

    @property
    def is_owner(self) -> bool:
        return self.number == 0


class Work(Protocol):
    """What a web process does until it is stopped; ``ready`` is called once it answers.

    :raises ConfigurationError: when it can't.
    """

    def __call__(self, place: Place, *, ready: Callable[[], None]) -> None: ...


@dataclass(slots=True)
class _Child:
    place: int
    pipe: int  # what it says of its start
    said: dict[str, Any] | None = None

    def listen(self) -> dict[str, Any]:
        """What it has said of its start, once it has; nothing when it has died before that."""
        if self.said is None:
            with open(self.pipe, "rb") as pipe:
                text = pipe.read()
            self.said = json.loads(text) if text else {}
        return self.said


class Supervisor:
    """``number`` web processes that answer at ``listener``; one of them is the owner."""

    def __init__(self, listener: socket.socket, number: int, work: Work, *, grace: float) -> None:
        self._listener = listener
        self._number = number
        self._work = work
        self._grace = grace
        self._door, self._knockers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._shares = Shares(number)
        self._children: dict[int, _Child] = {}
        self._pid = os.getpid()
        self._stopping = False
        self._failure: str | None = None

    def run(self, announce: Callable[[], None]) -> None:
        """Until SIGTERM or SIGINT; ``announce`` is called once all of them answer.

        :raises ConfigurationError: when one can't start, now or in the place of another.
        """
        for number in _STOP_SIGNALS:
            signal.signal(number, self._stop)
        signal.signal(signal.SIGALRM, self._kill)
        gc.freeze()
        for place in range(self._number):
            self._start(place)
        if all("ready" in child.listen() for child in tuple(self._children.values())):
            announce()
        while self._children:
            self._reap()
        signal.setitimer(signal.ITIMER_REAL, 0)
        if self._failure is not None:
            raise ConfigurationError(self._failure)

    def _start(self, place: int) -> None:
        """Fork; signals wait until the child is known, or has none of this process's handlers any more."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
        if not self._stopping:
            pipe, speaking = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.close(pipe)
                self._become_child(place, FileIO(speaking, "w"))
            os.close(speaking)
            self._children[pid] = _Child(place, pipe)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)

    def _become_child(self, number: int, pipe: FileIO) -> NoReturn:
        status = 1
        try:
            for name in (*_STOP_SIGNALS, signal.SIGALRM):
                signal.signal(name, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)
            os.setpgid(0, 0)  # Ctrl-C is for the supervisor, who passes it on
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != self._pid:
                os._exit(1)  # it has died before it could take this one along
            place = Place(number, self._door if number == 0 else self._knockers, self._shares)
            (self._knockers if place.is_owner else self._door).close()
            self._work(place, ready=lambda: _say(pipe, {"ready": True}))
            status = 0
        except ConfigurationError as error:
            _say(pipe, {"error": error.message})
        except BaseException:  # it must not go on as a second supervisor
            log.exception("a web process failed")
        finally:
            os._exit(status)

    def _reap(self) -> None:
        """Wait for a process to end, and start another in its place."""
        pid, status = os.waitpid(-1, 0)
        child = self._children.pop(pid, None)
        if child is None:
            return  # somebody else's, left to the first process of a container
        self._shares.leave(child.place)
        said = child.listen()
        if self._stopping:
            return
        code = os.waitstatus_to_exitcode(status)
        if code > 0 and "ready" not in said:
            self._failure = said.get("error", "the server could not start; the log above says why")
            self._stop()
            return
        how = f"signal {-code}" if code < 0 else f"status {code}"
        log.warning("a web process has ended (%s); another takes its place", how)
        if "ready" not in said:
            time.sleep(_PAUSE)
        self._start(child.place)

    def _stop(self, number: int = signal.SIGTERM, frame: FrameType | None = None) -> None:
        """Tell all of them; the owner ends once nobody can hand anything to it any more."""
        if self._stopping:
            return
        self._stopping = True
        self._listener.close()
        self._knockers.close()
        signal.setitimer(signal.ITIMER_REAL, self._grace)
        self._tell(signal.SIGTERM)

    def _kill(self, number: int, frame: FrameType | None) -> None:
        self._tell(signal.SIGKILL)

    def _tell(self, number: signal.Signals) -> None:
        for pid in self._children:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def _say(pipe: FileIO, what: dict[str, Any]) -> None:
    """The one thing that a process says of its start."""
    if not pipe.closed:
        with pipe:
            pipe.write(json.dumps(what).encode())
