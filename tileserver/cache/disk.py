"""The tier on disk: one thread writes, reads are done where they are asked for.

A read costs about 15 µs and never waits for the writer; a thread hop would cost more. What is queued is found
too. Trouble with the disk is a miss or a result not stored, never an error of a request: a database that is
damaged, deleted or replaced makes room for a new one while the server runs.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tileserver.cache.database import LONGEST, Database, Purge, Write, identity, is_damage, remove
from tileserver.cache.label import EVERYTHING, Label, Rule
from tileserver.cache.record import Head, Records, Stored

log = logging.getLogger("tileserver.cache")

_LOOK_EVERY: Final = 0.25  # seconds between looks at what other processes have done
_TRY_EVERY: Final = 1.0  # seconds between tries to open what can't be opened
_READ_WAIT: Final = 0.05
_WRITE_WAIT: Final = 10.0
_QUEUE_BYTES: Final = 64 * 2**20
_BATCH_BYTES: Final = 4 * 2**20
_BATCH: Final = 1000
_OVERHEAD: Final = 1024  # bytes of a record besides its body, about
_TROUBLE: Final = (OSError, sqlite3.Error, ValueError, KeyError, TypeError, OverflowError, MemoryError)


class DiskTier:
    """Results in a private folder that takes up to ``size`` bytes; ``secret`` is the server's, which keys
    seals. Used from one event loop, ``forget`` from any thread."""

    def __init__(self, folder: Path, size: int, secret: bytes = b"") -> None:
        self._folder, self._size = folder, size
        self._records = Records(secret)
        # Of the size, a part is for the write-ahead log, and as much for what is written at once.
        self._part = max(min(size // 16, 16 * 2**20), 2**18)
        self._reported: set[type[BaseException]] = set()
        self._counts = {"errors": 0, "dropped": 0}
        self._changed = threading.Condition()
        self._queue: OrderedDict[str, Write] = OrderedDict()
        self._writing: dict[str, Write] = {}
        self._queued = self._taken = 0  # bytes of all that is yet to be written, and of what is being written
        self._damaged: Database | None = None
        self._closing = False
        self._tried = float("-inf")
        self._writes: Database | None = self._opened()
        self._reads: Database | None = None
        self._looked = float("-inf")
        self._seen = 0
        self._under_way: dict[int, Purge] = {}
        self.news()
        self._writer = threading.Thread(target=self._write_all, name="cache-writer", daemon=True)
        self._writer.start()

    # -- on the event loop

    def get(self, key: str) -> Stored | None:
        write = self._queue.get(key) or self._writing.get(key)
        if write is not None:
            return write.stored
        reads = self._reads
        if reads is None:
            return None
        try:
            row = reads.get(key)
            stored = None if row is None else self._records.from_bytes(row[1], key)
        except _TROUBLE as error:
            self._report(error, reads)
            return None
        return None if row is None or stored is None or self._is_purged(row[0], stored.label) else stored

    def head(self, key: str) -> Head | None:
        write = self._queue.get(key) or self._writing.get(key)
        if write is not None:
            return write.stored.head
        reads = self._reads
        if reads is None:
            return None
        try:
            row = reads.start(key)
            head = None if row is None else self._records.head_from_bytes(row[1], key)
        except _TROUBLE as error:
            self._report(error, reads)
            return None
        return None if row is None or head is None or self._is_purged(row[0], head.label) else head

    def _is_purged(self, row: int, label: Label) -> bool:
        return any(row <= one.upto and one.rule.covers(label) for one in self._under_way.values())

    def set(self, stored: Stored) -> None:
        size = _size(stored)
        if size * 16 > self._size or size > LONGEST:
            return
        with self._changed:
            if self._queued + size > _QUEUE_BYTES and self._queue:
                self._counts["dropped"] += 1
                return
            before = self._queue.pop(stored.key, None)
            self._queued += size - (_size(before.stored) if before else 0)
            self._queue[stored.key] = Write(stored, b"", self._seen)
            self._changed.notify_all()

    def news(self, *, now: bool = True) -> Sequence[Rule]:
        """What other processes have purged since the last look: four looks in a second, or one ``now``."""
        time_ = time.monotonic()
        if not now and time_ - self._looked < _LOOK_EVERY:
            return ()
        self._looked = time_
        try:
            if self._reads is None or identity(self._folder) != self._reads.identity:
                return self._reopen()
            found = self._reads.purges(self._seen)
            self._under_way |= {purge.id: purge for purge in found if not purge.done}
            for purge in found:
                self._drop(purge.rule, purge=purge.id)
            if found:
                self._seen = found[-1].id
            if self._under_way:
                still = set(self._reads.under_way())
                self._under_way = {id_: one for id_, one in self._under_way.items() if id_ in still}
        except _TROUBLE as error:
            self._report(error, self._reads)
            return ()
        return [purge.rule for purge in found]

    def _reopen(self) -> Sequence[Rule]:
        """Another database, or none: whatever was known of the last one is forgotten."""
        had = self._reads
        if had is not None:
            had.close()
        self._reads, self._seen, self._under_way = None, 0, {}
        try:
            if identity(self._folder) is not None:
                reads = Database(self._folder, wait=_READ_WAIT)
                self._under_way = {purge.id: purge for purge in reads.purges(0) if not purge.done}
                self._reads, self._seen = reads, reads.last_purge()
        except _TROUBLE as error:
            self._report(error)
        if had is None:
            return ()
        self._drop(EVERYTHING)
        return (EVERYTHING,)

    def stats(self) -> dict[str, Any]:
        facts = {"entries": 0, "bytes": 0, "size": 0}
        try:
            if self._reads is not None:
                facts = self._reads.counts()._asdict()
        except _TROUBLE as error:
            self._report(error, self._reads)
        return {**facts, "queued": self._queued, **self._counts}

    # -- in any thread

    def forget(self, rule: Rule) -> int:
        """Forget results by a rule, what is queued included; how many there were."""
        with self._changed:
            count = self._drop(rule, writing=False)
            # What is being written is counted and deleted where it is afterwards.
            batch = self._writing
            self._changed.wait_for(lambda: not batch or self._writing is not batch, _WRITE_WAIT)
        database = None
        try:
            database = Database(self._folder, wait=_WRITE_WAIT)
            count += database.purge(rule)
        except _TROUBLE as error:
            self._report(error, database)
        finally:
            if database is not None:
                database.close()
        return count

    def _drop(self, rule: Rule, *, purge: int | None = None, writing: bool = True) -> int:
        """Let go of what is queued, and of what is being ``writing``; with ``purge``, only of what was made
        without knowing of it. How much of the queue that was."""
        with self._changed:
            dropped = 0
            for waiting in (self._queue, self._writing) if writing else (self._queue,):
                for key, write in tuple(waiting.items()):
                    if (purge is None or write.seen < purge) and rule.covers(write.stored.label):
                        del waiting[key]
                        if waiting is self._queue:
                            self._queued -= _size(write.stored)
                            dropped += 1
            return dropped

    def close(self) -> None:
        """Finish what is queued, then let go of the folder."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._writer.join(_WRITE_WAIT)
        reads, self._reads = self._reads, None
        if reads is not None:
            reads.close()

    # -- in the writer's thread

    def _write_all(self) -> None:
        self._attempt(lambda database: database.finish())
        while self._next():
            if self._damaged is not None:
                self._replace(self._damaged)
            if batch := tuple(self._writing.values()):
                self._attempt(lambda database, batch=batch: database.put(self._sealed(batch)))
            with self._changed:
                self._writing = {}
                self._queued -= self._taken
                self._changed.notify_all()
            self._attempt(lambda database: database.trim(self._size - 2 * self._part))
        if self._writes is not None:  # closed by the thread that uses it: anything else may end the process
            self._writes.close()

    def _sealed(self, batch: Sequence[Write]) -> list[Write]:
        return [write._replace(raw=self._records.to_bytes(write.stored)) for write in batch]

    def _next(self) -> bool:
        """Wait for work and take some of it; False when there will be none."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing or self._damaged is not None)
            taken, self._taken = self._writing, 0
            while self._queue and len(taken) < _BATCH and self._taken < min(_BATCH_BYTES, self._part // 2):
                key = next(iter(self._queue))
                taken[key] = self._queue[key]  # in both before it is in one: see get
                self._taken += _size(self._queue.pop(key).stored)
            return bool(taken) or not self._closing

    def _attempt(self, act: Any) -> None:
        database = self._writes
        try:
            if database is None or identity(self._folder) != database.identity:
                if database is not None:
                    database.close()
                database = self._writes = self._opened()
            if database is not None:
                act(database)
        except _TROUBLE as error:
            self._report(error, database)

    def _opened(self) -> Database | None:
        now = time.monotonic()
        if now - self._tried < _TRY_EVERY:
            return None
        self._tried = now
        try:
            database = Database.make(self._folder, wait=_WRITE_WAIT)
            database.limit_log(self._part)
        except _TROUBLE as error:
            self._report(error)
            return None
        self._tried = float("-inf")
        return database

    def _replace(self, damaged: Database) -> None:
        """Delete a damaged database; the next write makes another."""
        try:
            remove(self._folder, damaged.identity)
        except OSError as error:
            self._report(error)
        self._damaged = None

    def _report(self, error: BaseException, database: Database | None = None) -> None:
        self._counts["errors"] += 1
        if type(error) not in self._reported:
            self._reported.add(type(error))
            log.warning("the disk cache in %s: %s: %s", self._folder, type(error).__name__, error)
        if database is not None and is_damage(error):
            with self._changed:
                self._damaged = database
                self._changed.notify_all()


def _size(stored: Stored) -> int:
    return len(stored.encoded.body) + _OVERHEAD


def folder_stats(folder: Path) -> dict[str, int]:
    """What the database of a folder holds."""
    facts = {"entries": 0, "bytes": 0, "size": 0}
    if identity(folder) is None:
        return facts
    database = Database(folder, wait=_WRITE_WAIT)
    try:
        return database.counts()._asdict()
    finally:
        database.close()


def folder_clear(folder: Path) -> int:
    """Delete the database of a folder; how many results it had."""
    if identity(folder) is None:
        return 0
    try:
        count = folder_stats(folder)["entries"]
    except sqlite3.Error:
        count = 0  # damaged: nothing of it is of use
    remove(folder)
    return count


def folder_purge(folder: Path, rule: Rule) -> int:
    """Forget results of a folder by a rule; how many there were."""
    if identity(folder) is None:
        return 0
    database = Database(folder, wait=_WRITE_WAIT)
    try:
        return database.purge(rule)
    finally:
        database.close()
