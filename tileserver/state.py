"""The private folder of a server: the key file and the SQLite database, made together, safe to kill.

The key is written before the database exists and never again; whatever must not be usable from a copy of
the database alone is derived from it or keyed with it.
"""

from __future__ import annotations

import hashlib
import hmac
import mmap
import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tileserver.errors import ConfigurationError

_SCHEMAS: Final[tuple[tuple[str, ...], ...]] = (
    (
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
        """CREATE TABLE shares (
            canvas TEXT PRIMARY KEY, token_hash BLOB NOT NULL UNIQUE, nonce BLOB NOT NULL,
            team INTEGER NOT NULL, passcode_salt BLOB, passcode_hash BLOB,
            udfs TEXT, code INTEGER NOT NULL, caching INTEGER NOT NULL,
            created REAL NOT NULL, expires REAL
        )""",
        """CREATE TABLE shared_tokens (
            token_hash BLOB PRIMARY KEY, nonce BLOB NOT NULL, canvas TEXT NOT NULL, udf TEXT NOT NULL,
            enabled INTEGER NOT NULL, caching INTEGER NOT NULL, created REAL NOT NULL
        ) WITHOUT ROWID""",
        """CREATE TABLE access_tokens (
            token_hash BLOB PRIMARY KEY, id TEXT NOT NULL UNIQUE, name TEXT NOT NULL, scope TEXT NOT NULL,
            canvases TEXT, created REAL NOT NULL, expires REAL
        ) WITHOUT ROWID""",
    ),
    (
        "ALTER TABLE shared_tokens ADD COLUMN code INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE shared_tokens ADD COLUMN team INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE shared_tokens ADD COLUMN metadata TEXT NOT NULL DEFAULT '{}'",
        "ALTER TABLE shared_tokens ADD COLUMN changed REAL NOT NULL DEFAULT 0",
        "UPDATE shared_tokens SET changed = created",
        # A session lasts as long as the share (by its token's hash) and the access token that made it.
        """CREATE TABLE sessions (
            token_hash BLOB PRIMARY KEY, share BLOB NOT NULL, made_by TEXT NOT NULL, expires REAL NOT NULL
        ) WITHOUT ROWID""",
        "CREATE TABLE wrong_passcodes (source BLOB NOT NULL, at REAL NOT NULL)",
        "CREATE INDEX wrong_passcodes_of_source ON wrong_passcodes (source, at)",
        """CREATE TABLE secrets (
            canvas TEXT NOT NULL, name TEXT NOT NULL, nonce BLOB NOT NULL, sealed BLOB NOT NULL,
            digest BLOB NOT NULL, changed REAL NOT NULL, PRIMARY KEY (canvas, name)
        ) WITHOUT ROWID""",
    ),
)


# What a database was at one moment, as far as two of them can be told apart.
Version = bytes
_HEADS: Final = 96  # bytes: two copies of the head of SQLite's shared index of the log

# By device and inode. They are never let go of: closing a file ends all locks that this process has on it,
# also those of connections that SQLite has open.
_indexes: Final[dict[tuple[int, int], mmap.mmap]] = {}


class State:
    """The open database and the key of one state folder, used from one thread at a time."""

    def __init__(self, folder: Path) -> None:
        """Open the state, making what is missing.

        :raises ConfigurationError: when the database's key is missing or another, or either can't be used.
        """
        path = self._path = folder / "database"
        self._index: mmap.mmap | None = None
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_mode & 0o7777 != 0o711:  # where workers pass through to what is theirs
                folder.chmod(0o700)
            self._key = _key(folder / "key", may_make=not path.exists())
            _make_private(path)
            self.database = sqlite3.connect(path, timeout=2.0, isolation_level=None, check_same_thread=False)
            self.database.row_factory = sqlite3.Row
        except (OSError, sqlite3.Error) as error:
            raise ConfigurationError(f"the state in {folder} can't be used: {error}") from None
        try:
            self._prepare()
        except sqlite3.Error as error:
            self.close()
            raise ConfigurationError(f"{path} can't be used: {error}") from None
        except ConfigurationError:
            self.close()
            raise

    def close(self) -> None:
        self.database.close()

    def keyed(self, purpose: str, *parts: bytes) -> bytes:
        """32 bytes that only the holder of the key can make (HMAC-SHA256), different for each purpose."""
        pieces = (purpose.encode(), *parts)
        message = b"".join(len(piece).to_bytes(4, "big") + piece for piece in pieces)
        return hmac.digest(self._key, message, hashlib.sha256)

    def rows(self, statement: str, *values: object) -> list[sqlite3.Row]:
        """What a query finds; columns by their names."""
        return self.database.execute(statement, values).fetchall()

    def version(self) -> Version:
        """What changes with every change of the database, by whichever process: the head of the shared index
        of its log (https://sqlite.org/walformat.html, section 2.1), by which SQLite itself notices what
        others have committed. To ask SQLite costs its locks, thirty times as much."""
        if self._index is None:
            self._index = _index_of(self._path)
        if self._index is not None:
            return self._index[:_HEADS]
        (others,) = self.database.execute("PRAGMA data_version").fetchone()
        return repr((others, self.database.total_changes)).encode()

    def change(self, statement: str, *values: object) -> int:
        """How many rows one statement changed."""
        with self.transaction() as database:
            return database.execute(statement, values).rowcount

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of it or nothing, on disk when the block ends."""
        self.database.execute("BEGIN IMMEDIATE")
        try:
            yield self.database
        except BaseException:
            self.database.execute("ROLLBACK")
            raise
        self.database.execute("COMMIT")

    def _prepare(self) -> None:
        self.database.execute("PRAGMA journal_mode = WAL")
        self.database.execute("PRAGMA synchronous = FULL")
        with self.transaction() as database:
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version > len(_SCHEMAS):
                raise ConfigurationError("the database was made by a newer version of tileserver")
            for statements in _SCHEMAS[version:]:
                for statement in statements:
                    database.execute(statement)
            database.execute(f"PRAGMA user_version = {len(_SCHEMAS)}")
            self._check_key(database)

    def _check_key(self, database: sqlite3.Connection) -> None:
        mark = self.keyed("key check")
        database.execute("INSERT OR IGNORE INTO meta VALUES ('key_check', ?)", (mark,))
        (stored,) = database.execute("SELECT value FROM meta WHERE name = 'key_check'").fetchone()
        if not hmac.compare_digest(stored, mark):
            raise ConfigurationError("the file key in the state folder belongs to another database")


def _index_of(path: Path) -> mmap.mmap | None:
    """The shared index of a database's log, which a connection of this process has open; None without one."""
    name = f"{path}-shm"
    try:
        facts = os.stat(name, follow_symlinks=False)
        place = (facts.st_dev, facts.st_ino)
        if place not in _indexes and facts.st_size >= mmap.PAGESIZE:
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            _indexes[place] = mmap.mmap(descriptor, mmap.PAGESIZE, prot=mmap.PROT_READ)
    except (OSError, ValueError):
        return None
    return _indexes.get(place)


def _make_private(path: Path) -> None:
    """An empty database file of mode 0600, unless there is one. That is never opened here: closing a file
    ends all locks that this process has on it, also those of connections that SQLite has open."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def _key(path: Path, *, may_make: bool) -> bytes:
    if not path.exists():
        if not may_make:
            raise ConfigurationError(
                f"the database in {path.parent} is there but its key is missing: "
                f"put back the file {path.name}, or delete the database, which ends every token in it"
            )
        _make_key(path)
    text = path.read_text("ascii", errors="replace").strip()
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise ConfigurationError(f"{path} is damaged: it should hold 64 hexadecimal digits")
    return key


def _make_key(path: Path) -> None:
    """Write a new key so that it is there whole or not at all, and the first of two processes wins."""
    draft = path.with_name(f"key.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        draft.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
