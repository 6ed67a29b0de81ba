"""Looking at the processes of a server from outside, as the kernel knows them."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from tileserver.executor.zygote import WORKER_SETTINGS


def be_like_a_worker(module: str) -> None:
    """Start the program anew, unless it has what workers have in their environment: allocators and libraries
    read that when a process starts."""
    if not WORKER_SETTINGS.items() <= os.environ.items():
        command = [sys.executable, "-m", module, *sys.argv[1:]]
        os.execve(sys.executable, command, os.environ | WORKER_SETTINGS)


def children(pid: int) -> list[int]:
    """The processes that this one has started, oldest first."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii")
    except OSError:
        return []
    return [int(word) for word in text.split()]


def tree(pid: int) -> list[int]:
    """A process and all that come from it."""
    return [pid, *(found for child in children(pid) for found in tree(child))]


def alive(pid: int) -> bool:
    """Whether it runs: what has ended and was not waited for doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def descriptors(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def memory(pid: int) -> int:
    """Bytes that a process has to itself, and its part of those that it shares."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def process_at(connection: socket.socket) -> int | None:
    """The process of this machine that holds the other end of a TCP connection; None before it was taken."""
    here, there = (f"{address[1]:04X}" for address in (connection.getsockname(), connection.getpeername()))
    for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]:
        fields = line.split()
        ours = fields[1].endswith(f":{there}") and fields[2].endswith(f":{here}")
        if ours and fields[9] != "0":
            return next(_holders(f"socket:[{fields[9]}]"), None)
    return None


def taken_by(connection: socket.socket) -> int:
    """The same once it was taken."""
    wait_for(lambda: process_at(connection) is not None)
    found = process_at(connection)
    assert found is not None
    return found


def _holders(name: str) -> Iterator[int]:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            for descriptor in os.listdir(f"/proc/{pid}/fd"):
                with suppress(OSError):
                    if str(Path(f"/proc/{pid}/fd/{descriptor}").readlink()) == name:
                        yield int(pid)


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for something that other processes do.

    :raises TimeoutError: when it isn't so in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("it has not come to that in time")
        time.sleep(0.02)
