"""The process that forks workers, seen from the server: it starts, forks, kills, tells who has exited.

When it ends, its children end with it, and another is started.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from tileserver.errors import TileServerError
from tileserver.executor.channel import Channel, Drain

log = logging.getLogger("tileserver.executor")

_START_LIMIT: Final = 60.0
_END_LIMIT: Final = 5.0
_AGAIN: Final = 0.02

# What a worker inherits of the server's environment. Never secrets: UDF code can read all of it.
_ENVIRONMENT: Final = ("PATH", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "SSL_CERT_FILE", "SSL_CERT_DIR")
WORKER_SETTINGS: Final = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",  # the default one reserves a GiB of address space
    "MALLOC_ARENA_MAX": "2",
    # Arrays come and go with every tile; to get their pages from the kernel anew may cost more than the sums.
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(64 * 2**20),
    "OPENBLAS_NUM_THREADS": "1",  # a pool of processes already uses every core
    "OMP_NUM_THREADS": "1",
    "GDAL_CACHEMAX": "128",  # MB, for each worker
    "PYTHONUNBUFFERED": "",
    "PYTHONDONTWRITEBYTECODE": "1",
    "MPLBACKEND": "agg",
}


class Child(NamedTuple):
    """A forked worker: its process, and the server's ends of what it talks through."""

    pid: int
    channel: Channel
    stdout: Drain
    stderr: Drain
    exited: asyncio.Future[int]  # its exit status; negative: the signal that ended it


class Zygote:
    """``lost`` is called when the zygote has ended, and every worker with it."""

    def __init__(
        self,
        *,
        scratch: Path,
        limits: Mapping[str, Any],
        max_body: int,
        max_log: int,
        lost: Callable[[], None],
    ) -> None:
        self._scratch = scratch
        self._limits = dict(limits)
        self._max_body = max_body
        self._max_log = max_log
        self._lost = lost
        self._forking: dict[int, asyncio.Future[tuple[int, asyncio.Future[int]]]] = {}
        self._alive: dict[int, asyncio.Future[int]] = {}
        self._listening = False
        self._tickets = 0

    async def start(self) -> None:
        """:raises TileServerError: when it isn't ready within a minute."""
        loop = asyncio.get_running_loop()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        self._started: asyncio.Future[None] = loop.create_future()
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "tileserver.worker"),
            *(str(theirs.fileno()), json.dumps(self._limits)),
            stdin=asyncio.subprocess.DEVNULL,
            env=self._environment(),
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
        theirs.close()
        loop.add_reader(self._control, self._hear)
        self._listening = True
        try:
            await asyncio.wait_for(self._started, _START_LIMIT)
        except TimeoutError:
            self._stop_listening()
            self._process.kill()
            raise TileServerError("the worker processes did not start within a minute") from None

    async def close(self) -> None:
        """End it, and all workers."""
        self._stop_listening()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._process.wait(), _END_LIMIT)
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def fork(self) -> Child:
        """A new worker, as yet nobody's.

        :raises TileServerError: when the zygote ends meanwhile, or can't fork.
        :raises OSError: when this machine, or this process, has no more of what it takes.
        """
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        (out_read, out_write), (err_read, err_write) = _two_pipes()
        self._tickets += 1
        ticket = self._tickets
        forked: asyncio.Future[tuple[int, asyncio.Future[int]]] = loop.create_future()
        self._forking[ticket] = forked
        stdout, stderr = Drain(out_read, self._max_log), Drain(err_read, self._max_log)
        try:
            request = json.dumps({"fork": ticket}).encode()
            socket.send_fds(self._control, [request], [theirs.fileno(), out_write, err_write])
            pid, exited = await asyncio.wait_for(forked, _START_LIMIT)
        except BaseException:
            ours.close()
            stdout.close()
            stderr.close()
            raise
        finally:
            self._forking.pop(ticket, None)
            theirs.close()
            os.close(out_write)
            os.close(err_write)
        ours.setblocking(False)
        _, channel = await loop.create_unix_connection(lambda: Channel(self._max_body), sock=ours)
        return Child(pid, channel, stdout, stderr, exited)

    def kill(self, pid: int) -> None:
        """End a worker and all that it started."""
        try:
            self._control.send(json.dumps({"kill": pid}).encode())
        except BlockingIOError:  # the zygote is busy, and must hear of it nevertheless
            asyncio.get_running_loop().call_later(_AGAIN, self.kill, pid)
        except OSError:
            return

    def interrupt(self, pid: int) -> None:
        """Ask a worker's run to end by itself. Not through the zygote: when that gets to it, the worker may
        have begun another run."""
        if pid in self._alive:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGINT)

    def _environment(self) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        places = dict.fromkeys(("HOME", "TMPDIR", "MPLCONFIGDIR"), str(self._scratch))
        return {**inherited, **WORKER_SETTINGS, **places}

    def _hear(self) -> None:
        while True:
            try:
                text = self._control.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                text = b""
            if not text:
                self._end()
                return
            self._heard(json.loads(text))

    def _heard(self, message: Mapping[str, Any]) -> None:
        if "ready" in message:
            self._started.set_result(None)
        elif "forked" in message:
            # It may have exited before whoever waits for it goes on.
            exited = self._alive[message["pid"]] = asyncio.get_running_loop().create_future()
            waiting = self._forking.get(message["forked"])
            if waiting is not None and not waiting.done():
                waiting.set_result((message["pid"], exited))
        elif "failed" in message:
            waiting = self._forking.get(message["failed"])
            if waiting is not None and not waiting.done():
                waiting.set_exception(TileServerError(f"no worker could be forked: {message['reason']}"))
        else:
            self._alive.pop(message["exited"]).set_result(message["status"])

    def _end(self) -> None:
        self._stop_listening()
        if not self._started.done():
            self._started.set_exception(TileServerError("the worker processes ended while starting"))
            return
        for pending in self._forking.values():
            if not pending.done():
                pending.set_exception(TileServerError("the worker processes were restarted"))
        for pid, exited in self._alive.items():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)  # what workers have started doesn't end with them
            exited.set_result(-signal.SIGKILL)
        self._alive.clear()
        self._lost()

    def _stop_listening(self) -> None:
        if self._listening:
            self._listening = False
            asyncio.get_running_loop().remove_reader(self._control)
            self._control.close()


def _two_pipes() -> tuple[tuple[int, int], tuple[int, int]]:
    first = os.pipe()
    try:
        return first, os.pipe()
    except OSError:
        for descriptor in first:
            os.close(descriptor)
        raise
