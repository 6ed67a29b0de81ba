"""The file of stored results: SQLite, written by one thread, read by others without waiting for it (WAL).

A row is a record and where it belongs; what results share (canvas, UDF, revision, arguments) is a *variant*,
a row of its own. Row ids grow, so that the oldest go first without an index of times, and a purge is over all
ids up to one. What is live is counted by SQLite's pages, so that neither volume nor number needs a scan.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sqlite3
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from tileserver.cache.label import Label, Rule
from tileserver.cache.record import HEAD_ROOM, Stored, head_length
from tileserver.tiles import MAX_ZOOM

_NAME: Final = "results.db"
_FILES: Final = (_NAME, f"{_NAME}-wal", f"{_NAME}-shm")
_VERSION: Final = 1
_SCHEMA: Final = (
    """CREATE TABLE variants (
        id INTEGER PRIMARY KEY, digest INTEGER NOT NULL UNIQUE, canvas TEXT NOT NULL, udf TEXT NOT NULL,
        revision TEXT NOT NULL, arguments TEXT NOT NULL, old INTEGER NOT NULL DEFAULT 0
    )""",
    "CREATE INDEX variants_of_udf ON variants (canvas, udf)",
    "CREATE INDEX variants_of_old_revisions ON variants (id) WHERE old = 1",
    """CREATE TABLE entries (
        id INTEGER PRIMARY KEY, key INTEGER NOT NULL UNIQUE, variant INTEGER NOT NULL,
        z INTEGER, x INTEGER, y INTEGER, record BLOB NOT NULL
    )""",
    "CREATE INDEX entries_of_variant ON entries (variant, z, x, y)",
    "CREATE TABLE counts (entries INTEGER NOT NULL)",
    "INSERT INTO counts VALUES (0)",
    # What was purged: rows up to "upto", by a rule; "done" once they have been deleted.
    """CREATE TABLE purges (
        id INTEGER PRIMARY KEY AUTOINCREMENT, upto INTEGER NOT NULL, at REAL NOT NULL, done INTEGER NOT NULL,
        rule TEXT NOT NULL
    )""",
    "CREATE INDEX purges_under_way ON purges (id) WHERE done = 0",
    f"PRAGMA user_version = {_VERSION}",
)
_PAGE: Final = 4096  # bytes
_MEMORY: Final = 16 * 1024  # KiB of pages that a connection keeps
_AT_ONCE: Final = 2000  # rows of one transaction of a purge
LONGEST: Final = 2**29  # bytes of a record; whatever is longer wasn't written here
_PURGES_KEPT: Final = 86400.0  # seconds; no run under way is older
_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT})

Identity = tuple[int, int]


class Write(NamedTuple):
    """A result to be stored; ``seen`` is the last purge that whoever made it knew of."""

    stored: Stored
    raw: bytes
    seen: int


class Purge(NamedTuple):
    id: int
    upto: int
    done: bool
    rule: Rule


class Counts(NamedTuple):
    """``bytes`` is what live results take, ``size`` that of all files."""

    entries: int
    bytes: int
    size: int


def identity(folder: Path) -> Identity | None:
    """Which file stands there now; None for none."""
    try:
        found = os.stat(folder / _NAME, follow_symlinks=False)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def is_damage(error: BaseException) -> bool:
    """Whether an error says that the file is no database of results, or no longer one."""
    code = getattr(error, "sqlite_errorcode", 0)
    return (
        code & 0xFF in _DAMAGE
        or code == sqlite3.SQLITE_IOERR_SHORT_READ
        or (code == sqlite3.SQLITE_ERROR and "no such" in str(error))
    )


def remove(folder: Path, which: Identity | None = None) -> bool:
    """Delete the database, with ``which`` only if it is that one; every process that has it open notices."""
    with _alone(folder):
        if which is not None and identity(folder) != which:
            return False
        _remove(folder)
        return True


def _remove(folder: Path) -> None:
    for name in _FILES:
        with suppress(FileNotFoundError):
            (folder / name).unlink()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other process makes or deletes the database meanwhile."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


class Database:
    """One connection, used from one thread at a time."""

    def __init__(self, folder: Path, *, wait: float, fresh: bool = False) -> None:
        """Open the database of a folder, which is there; ``wait`` is how long (seconds) to wait for another
        writer, and a ``fresh`` one gets its tables first.

        :raises sqlite3.Error: when it can't be opened.
        """
        self._folder = folder
        self._revisions: dict[tuple[str, str], str] = {}
        self._log_limit = 2**62
        self.identity = identity(folder)
        if self.identity is None:
            raise sqlite3.OperationalError(f"there is no database in {folder}")
        place = f"file:{quote(str(folder.absolute() / _NAME))}?mode=rw"
        self._connection = sqlite3.connect(
            place, uri=True, timeout=wait, isolation_level=None, check_same_thread=False
        )
        try:
            self._set_up(fresh=fresh)
        except sqlite3.Error:
            self.close()
            raise

    @classmethod
    def make(cls, folder: Path, *, wait: float) -> Database:
        """Open it, or make it where there is none or no good one.

        :raises OSError: and ``sqlite3.Error`` when that can't be done.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(folder):
            if not _all_regular(folder):
                _remove(folder)
            for last in (False, True):
                if identity(folder) is None:
                    _remove(folder)
                    os.close(os.open(folder / _NAME, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
                try:
                    return cls(folder, wait=wait, fresh=True)
                except sqlite3.Error as error:
                    if last or not is_damage(error):
                        raise
                    _remove(folder)
        raise AssertionError  # the last turn returns or raises

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._connection.close()

    def _set_up(self, *, fresh: bool) -> None:
        run = self._connection.execute
        (version,) = run("PRAGMA user_version").fetchone()
        (tables,) = run("SELECT COUNT(*) FROM sqlite_master").fetchone()
        if version == 0 and tables == 0 and not fresh:
            raise sqlite3.OperationalError("a database that has no tables yet")
        if version == 0 and tables == 0:
            run(f"PRAGMA page_size = {_PAGE}")
            run("PRAGMA auto_vacuum = INCREMENTAL")
            run("PRAGMA journal_mode = WAL")
            with self.transaction():
                for statement in _SCHEMA:
                    run(statement)
        elif version != _VERSION:
            error = sqlite3.DatabaseError("a database of another program, or of another version of this one")
            error.sqlite_errorcode = sqlite3.SQLITE_NOTADB
            raise error
        run("PRAGMA synchronous = NORMAL")
        run("PRAGMA temp_store = MEMORY")
        run(f"PRAGMA cache_size = -{_MEMORY}")
        (self._page,) = run("PRAGMA page_size").fetchone()
        run("SELECT entries FROM counts").fetchone()

    def limit_log(self, size: int) -> None:
        """Hold the write-ahead log to about ``size`` bytes, as ``trim`` makes sure."""
        self._log_limit = size
        self._connection.execute(f"PRAGMA wal_autocheckpoint = {max(16, size // self._page // 2)}")
        self._connection.execute(f"PRAGMA journal_size_limit = {size}")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with suppress(sqlite3.Error):  # what has failed may have ended it
                self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    # -- reading

    def get(self, key: str) -> tuple[int, bytes] | None:
        """The id and the record under a key, which may be another one's of the same number."""
        row: tuple[int, bytes] | None = self._connection.execute(
            "SELECT id, record FROM entries WHERE key = ? AND length(record) <= ?", (_number(key), LONGEST)
        ).fetchone()
        return row

    def start(self, key: str) -> tuple[int, bytes] | None:
        """The id of the record under a key, and as much of its beginning as holds its head."""
        row = self._connection.execute("SELECT id FROM entries WHERE key = ?", (_number(key),)).fetchone()
        if row is None:
            return None
        try:
            opened = self._connection.blobopen("entries", "record", row[0], readonly=True)
        except sqlite3.OperationalError as error:
            if "no such rowid" in str(error):
                return None  # deleted or replaced since
            raise
        with opened as record:
            start = record.read(HEAD_ROOM)
            missing = (head_length(start) or 0) - len(start)
            return row[0], start + record.read(missing) if missing > 0 else start

    def purges(self, after: int) -> list[Purge]:
        """The purges after that one."""
        rows = self._connection.execute(
            "SELECT id, upto, done, rule FROM purges WHERE id > ? ORDER BY id", (after,)
        )
        return [Purge(id_, upto, bool(done), Rule.from_json(rule)) for id_, upto, done, rule in rows]

    def under_way(self) -> list[int]:
        """The ids of purges whose results have not all been deleted yet."""
        return [id_ for (id_,) in self._connection.execute("SELECT id FROM purges WHERE done = 0")]

    def last_purge(self) -> int:
        (last,) = self._connection.execute("SELECT COALESCE(MAX(id), 0) FROM purges").fetchone()
        return int(last)

    def counts(self) -> Counts:
        (entries,) = self._connection.execute("SELECT entries FROM counts").fetchone()
        pages, free = self._pages()
        return Counts(entries, (pages - free) * self._page, pages * self._page + self._log_size())

    def _pages(self) -> tuple[int, int]:
        """How many pages the database has, and how many of them are free."""
        (pages,) = self._connection.execute("PRAGMA page_count").fetchone()
        (free,) = self._connection.execute("PRAGMA freelist_count").fetchone()
        return pages, free

    def _log_size(self) -> int:
        try:
            return os.stat(self._folder / _FILES[1]).st_size
        except OSError:
            return 0

    # -- writing

    def put(self, writes: Sequence[Write]) -> None:
        """Store results, all or none; not those that a purge has overtaken."""
        run = self._connection.execute
        with self.transaction():
            purges = self.purges(min(write.seen for write in writes))
            change = 0
            for stored, raw, seen in writes:
                label = stored.label
                if any(purge.id > seen and purge.rule.covers(label) for purge in purges):
                    continue
                change += 1 - run("DELETE FROM entries WHERE key = ?", (_number(stored.key),)).rowcount
                place = label.tile or (None, None, None)
                run(
                    "INSERT INTO entries (key, variant, z, x, y, record) VALUES (?, ?, ?, ?, ?, ?)",
                    (_number(stored.key), self._variant(label), *place, raw),
                )
            self._count(change)

    def _variant(self, label: Label) -> int:
        self._notice_revision(label)
        facts = [label.owner, label.udf, label.revision, label.arguments]
        digest = _number(json.dumps(facts))
        row = self._connection.execute("SELECT id FROM variants WHERE digest = ?", (digest,)).fetchone()
        if row is not None:
            return int(row[0])
        revision = "" if label.is_posted else label.revision
        values = (digest, label.canvas, label.udf, revision, " ".join(label.arguments))
        made = self._connection.execute(
            "INSERT INTO variants (digest, canvas, udf, revision, arguments) VALUES (?, ?, ?, ?, ?)", values
        )
        return int(made.lastrowid or 0)

    def _notice_revision(self, label: Label) -> None:
        """Results of other revisions of a UDF than the one stored last are the first to go. (Posted code has
        no revisions: each text is a UDF of its own.)"""
        name = (label.canvas, label.udf)
        if label.is_posted or self._revisions.get(name) == label.revision:
            return
        self._connection.execute(
            "UPDATE variants SET old = (revision <> ?1)"
            " WHERE canvas = ?2 AND udf = ?3 AND revision <> '' AND old <> (revision <> ?1)",
            (label.revision, *name),
        )
        self._revisions[name] = label.revision

    def _count(self, change: int) -> None:
        self._connection.execute("UPDATE counts SET entries = entries + ?", (change,))

    def _delete(self, ids: Sequence[int]) -> int:
        """Delete rows, and variants that have none any more; part of a transaction."""
        run = self._connection.execute
        gone = run(
            "DELETE FROM entries WHERE id IN (SELECT value FROM json_each(?)) RETURNING variant",
            (json.dumps(ids),),
        ).fetchall()
        run(
            "DELETE FROM variants WHERE id IN (SELECT value FROM json_each(?))"
            " AND NOT EXISTS (SELECT 1 FROM entries WHERE variant = variants.id)",
            (json.dumps(sorted({variant for (variant,) in gone})),),
        )
        self._count(-len(gone))
        return len(gone)

    # -- making room

    def trim(self, limit: int) -> int:
        """Delete what takes more than ``limit`` bytes, results of older revisions first, then those stored
        longest ago; how many. Gives back to the file system what the file is larger than that."""
        removed = 0
        while (counts := self.counts()).bytes > limit and counts.entries > 0:
            average = counts.bytes / counts.entries
            wanted = int((counts.bytes - 0.98 * limit) / average) + 1
            with self.transaction():
                gone = self._delete(self._oldest(min(wanted, _AT_ONCE)))
            if not gone:
                break  # the count was wrong: nothing is there
            removed += gone
        pages, free = self._pages()
        if pages * self._page > limit and free:
            self._connection.executescript(f"PRAGMA incremental_vacuum({_AT_ONCE})")  # execute: one page
        if self._log_size() > self._log_limit:  # where readers never pause, it doesn't start over by itself
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        return removed

    def _oldest(self, most: int) -> list[int]:
        run = self._connection.execute
        rows = run(
            "SELECT id FROM entries WHERE variant IN (SELECT id FROM variants WHERE old = 1) LIMIT ?", (most,)
        ).fetchall()
        if not rows:
            rows = run("SELECT id FROM entries ORDER BY id LIMIT ?", (most,)).fetchall()
        return [id_ for (id_,) in rows]

    # -- purging

    def purge(self, rule: Rule) -> int:
        """Forget results by a rule; how many there were. Whoever has this database open heeds the rule from
        its first transaction on, and the rest of it gives others a turn to write."""
        now = time.time()
        self._connection.execute("PRAGMA synchronous = FULL")  # the rule outlives a power cut
        with self.transaction():
            self._connection.execute("DELETE FROM purges WHERE done = 1 AND at < ?", (now - _PURGES_KEPT,))
            made = self._connection.execute(
                "INSERT INTO purges (upto, at, done, rule)"
                " VALUES ((SELECT COALESCE(MAX(id), 0) FROM entries), ?, 0, ?)",
                (now, rule.to_json()),
            )
        return self._finish(int(made.lastrowid or 0))

    def finish(self) -> None:
        """Go on with purges that were left unfinished."""
        for purge in self.under_way():
            self._finish(purge)

    def _finish(self, id_: int) -> int:
        upto, text = self._connection.execute("SELECT upto, rule FROM purges WHERE id = ?", (id_,)).fetchone()
        rule = Rule.from_json(text)
        variants = self._variants(rule)
        count = 0
        for start in range(0, len(variants), _AT_ONCE):
            chosen = json.dumps(variants[start : start + _AT_ONCE])
            if rule.tiles is None and rule.zooms is None and rule.bounds is None:
                count += self._delete_all(_ROWS, (chosen, upto))
            for place in _places(rule):
                count += self._delete_all(_TILES, (chosen, upto, *place))
        with self.transaction():
            self._connection.execute("UPDATE purges SET done = 1 WHERE id = ?", (id_,))
        return count

    def _variants(self, rule: Rule) -> list[int]:
        low, high = ("", "\U0010ffff") if rule.canvas is None else (rule.canvas, rule.canvas)
        values = (low, high, rule.udf, json.dumps(rule.arguments))
        return [id_ for (id_,) in self._connection.execute(_VARIANTS, values)]

    def _delete_all(self, query: str, values: Sequence[Any]) -> int:
        count = 0
        while rows := self._connection.execute(query, values).fetchall():
            with self.transaction():
                count += self._delete([id_ for (id_,) in rows])
            time.sleep(0.001)
        return count


_VARIANTS: Final = """
    SELECT id FROM variants WHERE canvas BETWEEN ?1 AND ?2 AND (?3 IS NULL OR udf = ?3) AND NOT EXISTS (
        SELECT 1 FROM json_each(?4) AS argument WHERE NOT EXISTS (
            SELECT 1 FROM json_each(argument.value) AS digest WHERE instr(variants.arguments, digest.value)
        )
    )
"""
_ROWS: Final = """
    SELECT id FROM entries WHERE variant IN (SELECT value FROM json_each(?1)) AND id <= ?2 LIMIT 2000
"""
_TILES: Final = """
    SELECT id FROM entries WHERE variant IN (SELECT value FROM json_each(?1)) AND id <= ?2
    AND z = ?3 AND x BETWEEN ?4 AND ?5 AND y BETWEEN ?6 AND ?7 LIMIT 2000
"""


def _places(rule: Rule) -> Iterator[tuple[int, int, int, int, int]]:
    """The tiles of a rule as rectangles: zoom, first and last column, first and last row."""
    if rule.tiles is not None:
        yield from ((z, x, x, y, y) for z, x, y in sorted(rule.tiles))
    elif rule.zooms is not None or rule.bounds is not None:
        low, high = rule.zooms or (0, MAX_ZOOM)
        for z in range(low, high + 1):
            yield from ((z, *one) for one in rule.ranges(z))


def _number(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def _all_regular(folder: Path) -> bool:
    for name in _FILES:
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(os.lstat(folder / name).st_mode):
                return False
    return True
