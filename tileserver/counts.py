"""Numbers of a server that outlive its processes: each process counts into a file of its own, by memory
mapping, and whoever is asked adds all files up.

A file is locked while a process counts into it, and taken up by the next one that finds it free: what a
process that was killed has counted stays, and there are never more files than there were processes at once.
"""

from __future__ import annotations

import fcntl
import logging
import mmap
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

log = logging.getLogger("tileserver")

_MOST: Final = 256  # processes at once
_HEAD: Final = 3  # numbers before the table: which layout, whose process, since when (seconds of the epoch)


class Table(NamedTuple):
    """What one file holds; ``pid`` is None once its process has ended."""

    number: int
    pid: int | None
    since: float
    values: memoryview[float]


class Counts:
    """A table of ``size`` numbers; ``layout`` (below 2**53) says what they mean. Used from one thread.

    ``values`` is there to be counted in. Until ``open`` and after ``close`` it is of this process alone.
    """

    def __init__(self, size: int, layout: int) -> None:
        self._size = size
        self._layout = float(layout)
        self._file: tuple[int, int, mmap.mmap] | None = None  # its number and descriptor
        self._folder: Path | None = None
        self._since = time.time()
        self._all = self._alone()
        self.values: memoryview[float] = self._all[_HEAD:]

    def open(self, folder: Path) -> None:
        """Count on in a file of this folder; what can't be kept there is counted in memory."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            number, descriptor = self._free_file(folder)
        except OSError as error:
            log.warning("what is counted is not kept (%s): %s", folder, error.strerror)
            return
        length = 8 * (_HEAD + self._size)
        try:
            # Room is made now: writing where there is none would end the process.
            os.posix_fallocate(descriptor, 0, length)
            mapped = mmap.mmap(descriptor, length)
        except OSError as error:
            os.close(descriptor)
            log.warning("what is counted is not kept (%s): %s", folder, error.strerror)
            return
        so_far = self.values
        self._file, self._folder = (number, descriptor, mapped), folder
        self._all = memoryview(mapped).cast("d")
        self.values = self._all[_HEAD:]
        known = self._all[0] == self._layout
        for place, value in enumerate(so_far):
            self.values[place] = value + (self.values[place] if known else 0)
        self._all[0], self._all[1], self._all[2] = self._layout, os.getpid(), self._since

    def tables(self) -> list[Table]:
        """What all processes have counted, this one first."""
        number = self._file[0] if self._file else 0
        own = Table(number, os.getpid(), self._since, self.values)
        return [own, *self._others()]

    def close(self) -> None:
        """Leave the file to the next process."""
        if self._file is None:
            return
        _, descriptor, mapped = self._file
        self._file, everything = None, self._all
        self._all = self._alone()
        self.values.release()
        self.values = self._all[_HEAD:]
        everything.release()
        mapped.close()
        os.close(descriptor)

    def _alone(self) -> memoryview[float]:
        return memoryview(bytearray(8 * (_HEAD + self._size))).cast("d")

    def _free_file(self, folder: Path) -> tuple[int, int]:
        for number in range(_MOST):
            descriptor = os.open(folder / str(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                os.close(descriptor)
                continue
            return number, descriptor
        raise OSError(0, f"{_MOST} processes count there already")

    def _others(self) -> Iterator[Table]:
        if self._file is None or self._folder is None:
            return
        for number in range(_MOST):
            if number == self._file[0]:
                continue
            with suppress(FileNotFoundError), _opened(self._folder / str(number)) as descriptor:
                content = os.pread(descriptor, 8 * (_HEAD + self._size), 0)
                if len(content) < 8 * (_HEAD + self._size):
                    continue
                values = memoryview(content).cast("d")
                if values[0] == self._layout:
                    pid = int(values[1]) if _is_locked(descriptor) else None
                    yield Table(number, pid, values[2], values[_HEAD:])


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    return False
