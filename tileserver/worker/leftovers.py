"""What a run leaves behind in its process: reasons for which it should not serve another.

Looked at after every run, so each look is a system call or two. A library's own threads and descriptors,
there since an early run, are no reason; that their number keeps growing is.
"""

from __future__ import annotations

import os
import threading
from typing import Final

_MEMORY_SHARE: Final = 0.6
_MORE_THREADS: Final = 16
_MORE_DESCRIPTORS: Final = 64
_EARLY_RUNS: Final = 3


class Leftovers:
    """Looks after each run; ``memory`` is the worker's limit in bytes, None where it has none."""

    def __init__(self, memory: int | None) -> None:
        self._memory = memory
        self._runs = 0
        self._pages = os.sysconf("SC_PAGE_SIZE")
        self._at_start = self._resident()
        self._threads = self._descriptors = 0

    def found(self) -> str | None:
        """The first of ``children``, ``memory``, ``threads`` and ``descriptors`` that is a reason."""
        self._runs += 1
        try:
            threads = len(os.listdir("/proc/self/task"))
            descriptors = len(os.listdir("/proc/self/fd"))
        except OSError:  # not even one more can be opened
            return "descriptors"
        if self._runs <= _EARLY_RUNS:
            self._threads = max(self._threads, threads)
            self._descriptors = max(self._descriptors, descriptors)
        if _has_children():
            return "children"
        if any(thread.name.startswith("Thread-") for thread in threading.enumerate()):
            return "threads"  # the run's own: those of libraries have names
        if self._memory is not None and self._resident() - self._at_start > _MEMORY_SHARE * self._memory:
            return "memory"
        if threads > self._threads + _MORE_THREADS or threads > 8 * _MORE_THREADS:
            return "threads"
        if descriptors > self._descriptors + _MORE_DESCRIPTORS or descriptors > 8 * _MORE_DESCRIPTORS:
            return "descriptors"
        return None

    def _resident(self) -> int:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * self._pages


def _has_children() -> bool:
    """Whether a child is still alive; those that have ended are seen off. Orphans of children count, since
    this process inherits them."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True
