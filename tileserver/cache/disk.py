"""The tier on disk: diskcache, held to bytes.

Reads are done where they are asked for (about 20 µs; a thread hop costs more), writes by one background
thread. Nothing is ever pickled or unpickled. Trouble with the disk is a miss or a result not stored, never an
error of a request.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import diskcache
from diskcache.core import MODE_BINARY, MODE_RAW, UNKNOWN

from tileserver.cache.record import Stored, from_bytes, to_bytes

log = logging.getLogger("tileserver.cache")

_GENERATION: Final = "generation"  # a file whose stamp changes when the folder is cleared
_READ_WAIT: Final = 0.1
_QUEUE_BYTES: Final = 64 * 2**20
_TROUBLE: Final = (OSError, sqlite3.Error, diskcache.Timeout)


def generation(folder: Path | None) -> int:
    """A number that changes when the folder is cleared."""
    try:
        return os.stat(folder / _GENERATION).st_mtime_ns if folder is not None else 0
    except OSError:
        return 0


class _BytesDisk(diskcache.Disk):  # type: ignore[misc]  # diskcache has no types
    """Text keys and bytes only, in both directions; other rows are no entries of ours."""

    def put(self, key: Any) -> tuple[Any, bool]:
        if not isinstance(key, str):
            raise TypeError("keys are text")
        return key, True

    def get(self, key: Any, raw: bool) -> Any:
        if not raw or not isinstance(key, str):
            raise OSError("a key that this program did not write")
        return key

    def store(self, value: Any, read: bool, key: Any = UNKNOWN) -> tuple[int, int, str | None, Any]:
        if not isinstance(value, bytes):
            raise TypeError("values are bytes")
        stored: tuple[int, int, str | None, Any] = super().store(value, read=False, key=key)
        return stored

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> bytes:
        # Left to itself, diskcache unpickles a row that says it is a pickle, and opens any file it names.
        if mode == MODE_RAW and isinstance(value, bytes):
            return value
        if mode == MODE_BINARY and filename is not None:
            folder = Path(self._directory).resolve()
            path = (folder / filename).resolve()
            if path.is_relative_to(folder):
                return path.read_bytes()
        raise OSError("a value that this program did not write")


class DiskTier:
    """Results in a private folder, up to ``size`` bytes (None keeps the limit that the folder has);
    those stored longest ago go first."""

    def __init__(self, folder: Path, size: int | None) -> None:
        self._folder = folder
        self._size = size
        self._reported: set[type[BaseException]] = set()
        self._counts = {"errors": 0, "dropped": 0}
        self._cache: diskcache.Cache | None = self._open()
        self._queue: queue.SimpleQueue[tuple[str, bytes] | threading.Event | None] = queue.SimpleQueue()
        self._queued = 0
        self._lock = threading.Lock()
        self._writer = threading.Thread(target=self._write_all, name="cache-writer", daemon=True)
        self._writer.start()

    def get(self, key: str) -> Stored | None:
        if self._cache is None:
            return None
        try:
            raw = self._cache.get(key)
            stored = from_bytes(raw, key) if raw is not None else None
            if raw is not None and stored is None:
                self._cache.delete(key)
        except (*_TROUBLE, ValueError, KeyError, TypeError) as error:
            self._report(error)
            return None
        return stored

    def set(self, stored: Stored) -> None:
        raw = to_bytes(stored)
        with self._lock:
            if self._queued + len(raw) > _QUEUE_BYTES and self._queued:
                self._counts["dropped"] += 1
                return
            self._queued += len(raw)
        self._queue.put((stored.key, raw))

    def forget(self, matches: Callable[[str], bool]) -> int:
        """Forget every result whose key matches, also what is still to be written; how many there were."""
        written = threading.Event()
        self._queue.put(written)
        written.wait()
        count = 0
        if self._cache is not None:
            for key in list(self._cache):
                count += bool(matches(key) and self._cache.delete(key, retry=True))
            (self._folder / _GENERATION).touch()
        return count

    def clear(self) -> int:
        count = 0
        if self._cache is not None:
            count = self._cache.clear(retry=True)
            (self._folder / _GENERATION).touch()
        return count

    def stats(self) -> dict[str, Any]:
        if self._cache is None:
            return {"entries": 0, "bytes": 0, **self._counts}
        try:
            return {"entries": len(self._cache), "bytes": self._cache.volume(), **self._counts}
        except _TROUBLE as error:
            self._report(error)
            return {"entries": 0, "bytes": 0, **self._counts}

    def close(self) -> None:
        """Finish what is queued, then let go of the folder."""
        self._queue.put(None)
        self._writer.join(10)
        if self._cache is not None:
            with contextlib.suppress(*_TROUBLE):
                self._cache.close()

    def _write_all(self) -> None:
        while (item := self._queue.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
                continue
            key, raw = item
            try:
                if self._cache is not None:
                    self._cache.set(key, raw, retry=False)
            except _TROUBLE as error:
                self._report(error)
            finally:
                with self._lock:
                    self._queued -= len(raw)

    def _open(self) -> diskcache.Cache | None:
        for _ in range(2):
            try:
                self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                limit = {"size_limit": self._size} if self._size is not None else {}
                return diskcache.Cache(
                    str(self._folder),
                    timeout=_READ_WAIT,
                    disk=_BytesDisk,
                    eviction_policy="least-recently-stored",
                    **limit,
                )
            except sqlite3.DatabaseError as error:
                self._report(error)
                self._set_aside()
            except (*_TROUBLE, ValueError) as error:
                self._report(error)
                break
        log.error("nothing is stored on disk: %s can't be used", self._folder)
        return None

    def _set_aside(self) -> None:
        """A database that can't be read makes room for a new one."""
        for name in ("cache.db", "cache.db-wal", "cache.db-shm"):
            with contextlib.suppress(OSError):
                os.replace(self._folder / name, self._folder / f"{name}.damaged")

    def _report(self, error: BaseException) -> None:
        self._counts["errors"] += 1
        if type(error) not in self._reported:
            self._reported.add(type(error))
            log.warning("the disk cache in %s: %s: %s", self._folder, type(error).__name__, error)
