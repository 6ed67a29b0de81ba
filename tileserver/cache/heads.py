"""Heads of records on disk, read without their bodies.

A connection of its own that can't write, beside that of ``disk.py``. A head that can't be read is none; the
record is then read as a whole, where trouble is told.
"""

from __future__ import annotations

import io
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Final

from tileserver.cache.record import HEAD_ROOM, Head, head_from_bytes, head_length

_IN_ROW: Final = 1  # diskcache's names of where a value lies: in its row, or in a file beside the database
_IN_FILE: Final = 2


class Heads:
    """The heads of the records in a folder of the disk tier. Used from one thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._database: sqlite3.Connection | None = None

    def get(self, key: str) -> Head | None:
        """The head of a key's record; None when there is none that can be read."""
        with suppress(OSError, sqlite3.Error, ValueError, KeyError, TypeError):
            start = self._start(key)
            return head_from_bytes(start, key) if start is not None else None
        return None

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _start(self, key: str) -> bytes | None:
        if self._database is None:
            self._database = _opened(self._folder / "cache.db")
        row = self._database.execute(
            "SELECT rowid, mode, filename FROM Cache WHERE key = ? AND raw = 1", (key,)
        ).fetchone()
        if row is None:
            return None
        if row[1] == _IN_ROW:
            with self._database.blobopen("Cache", "value", row[0], readonly=True) as blob:
                return _read(blob)
        path = (self._folder / row[2]).resolve()
        if row[1] != _IN_FILE or not path.is_relative_to(self._folder):
            return None
        with path.open("rb", buffering=0) as file:
            return _read(file)


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.as_uri()}?mode=ro", uri=True, timeout=0.1, isolation_level=None, check_same_thread=False
    )


def _read(record: sqlite3.Blob | io.RawIOBase) -> bytes:
    start: bytes = record.read(HEAD_ROOM)
    missing = (head_length(start) or 0) - len(start)
    return start + record.read(missing) if missing > 0 else start
