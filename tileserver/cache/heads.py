"""What is known of a stored result without its body, and reading that from disk alone.

Reads are by a connection of its own that can't write, beside that of ``disk.py``. A head that can't be read
is none: the record is then read as a whole, where its checksum is looked at and trouble is told.
"""

from __future__ import annotations

import io
import json
import sqlite3
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from tileserver.cache.record import FRAME, MAGIC, Stored

_ROOM: Final = 4096  # bytes that hold the head of most records
_SHORT: Final = 1024  # bytes of a head that is worth remembering
_IN_ROW: Final = 1  # diskcache's names of where a value lies: in its row, or in a file beside the database
_IN_FILE: Final = 2


class Head(NamedTuple):
    """A stored result but for its body, of which ``size`` is the length in bytes. ``etag`` is the strong
    validator, quotes included."""

    etag: str
    media_type: str
    created: float
    meta: Mapping[str, Any]
    size: int


def head_of(stored: Stored) -> Head:
    encoded = stored.encoded
    return Head(stored.etag, encoded.media_type, encoded.created, encoded.meta, len(encoded.body))


class Heads:
    """The heads of the records in a folder of the disk tier. Used from one thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._database: sqlite3.Connection | None = None

    def get(self, key: str) -> Head | None:
        """The head of a key's record; None when there is none that can be read."""
        with suppress(OSError, sqlite3.Error, ValueError, KeyError, TypeError):
            return self._read(key)
        return None

    def close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _read(self, key: str) -> Head | None:
        if self._database is None:
            self._database = _opened(self._folder / "cache.db")
        row = self._database.execute(
            "SELECT rowid, mode, filename FROM Cache WHERE key = ? AND raw = 1", (key,)
        ).fetchone()
        if row is None:
            return None
        if row[1] == _IN_ROW:
            with self._database.blobopen("Cache", "value", row[0], readonly=True) as blob:
                return _head(blob, len(blob), key)
        path = (self._folder / str(row[2])).resolve()
        if row[1] != _IN_FILE or not path.is_relative_to(self._folder):
            return None
        with path.open("rb", buffering=0) as file:
            return _head(file, path.stat().st_size, key)


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.as_uri()}?mode=ro", uri=True, timeout=0.1, isolation_level=None, check_same_thread=False
    )


def _head(record: sqlite3.Blob | io.RawIOBase, total: int, key: str) -> Head | None:
    """The head of a record of ``total`` bytes, when it is that key's."""
    start: bytes = record.read(_ROOM)
    magic, _, length = FRAME.unpack_from(start.ljust(FRAME.size, b"\0"))
    end = FRAME.size + length
    if magic != MAGIC or end > total:
        return None
    if end > len(start):
        start += record.read(end - len(start))
    text = start[FRAME.size : end]
    found = _parsed(text) if length <= _SHORT else json.loads(text)
    if found["key"] != key:
        return None
    return Head(found["etag"], found["media_type"], found["created"], found["meta"], total - end)


@lru_cache(maxsize=4096)
def _parsed(text: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text)
    return found
