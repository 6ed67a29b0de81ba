"""``fused.cache``: results of a function on disk, by its source and its arguments.

Entries are pickles in a folder that belongs to one canvas, so they are read only by workers that run
that canvas's code; the server never opens them. A damaged entry is a miss, a full disk costs only time. What
a function has made of its caller is not kept: the next one may be another.
"""

from __future__ import annotations

import asyncio
import fcntl
import functools
import hashlib
import inspect
import os
import pickle
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeVar, overload

from tileserver.fused import state
from tileserver.fused.fingerprint import fingerprint, source_of
from tileserver.units import parse_duration

Function = TypeVar("Function", bound=Callable[..., Any])

DEFAULT_MAX_AGE: Final = "48h"
_POLL: Final = 0.02  # seconds between two looks at a lock
_DIGEST: Final = 20
_ALIASES: Final = {
    "reset": "cache_reset",
    "ttl": "cache_max_age",
    "path": "cache_folder_path",
    "storage": "cache_storage",
}


@dataclass(frozen=True, slots=True)
class _Options:
    cache_max_age: str | int = DEFAULT_MAX_AGE
    cache_folder_path: str | None = None
    concurrent_lock_timeout: float = 120
    cache_reset: bool | None = None
    cache_storage: str | None = None  # one kind of storage here; accepted for Fused's sake
    cache_key_exclude: tuple[str, ...] | list[str] | None = None
    cache_verbose: bool | None = None

    @property
    def max_age(self) -> int:
        return parse_duration(self.cache_max_age)


@overload
def cache(function: Function, /) -> Function: ...
@overload
def cache(**options: Any) -> Callable[[Function], Function]: ...
def cache(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Keep a function's results; use it bare or with options. Works on ``async`` functions too.

    :param cache_max_age: oldest result to use: ``30m``, ``48h`` (the default), seconds; 0 never stores.
    :param cache_folder_path: subfolder of the canvas's cache folder.
    :param concurrent_lock_timeout: seconds to wait for another worker that computes the same result.
    :param cache_reset: compute anew each time; a call may also say ``cache_reset=True``.
    :param cache_key_exclude: names of parameters that don't change the result.
    :param cache_verbose: print whether a result was found.
    :raises TypeError: for an unknown option, or for something that isn't a function.
    :raises ValueError: for an age or a folder that is none.
    """
    named = {_ALIASES.get(name, name): value for name, value in options.items()}
    unknown = sorted(named.keys() - set(_Options.__dataclass_fields__))
    if unknown:
        known = ", ".join(_Options.__dataclass_fields__)
        raise TypeError(f"fused.cache has no option {unknown[0]!r}; known: {known}")
    if named.get("cache_max_age", "") is None:
        del named["cache_max_age"]
    checked = _Options(**named)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        store = _Results(function, checked)
        return _asynchronous(store) if inspect.iscoroutinefunction(function) else _synchronous(store)

    return decorate if function is None else decorate(function)


def _synchronous(results: _Results) -> Callable[..., Any]:
    @functools.wraps(results.function)
    def call(*args: Any, **kwargs: Any) -> Any:
        entry = results.entry(args, kwargs)
        found = entry.read()
        if found is not _MISSING:
            return found
        with entry.lock() as lock:
            while not lock.take():
                time.sleep(_POLL)
            found = entry.read()  # another worker may have stored it since
            if found is _MISSING:
                with state.looks() as looks:
                    found = results.function(*args, **kwargs)
                if not looks:
                    entry.write(found)
        return found

    return call


def _asynchronous(results: _Results) -> Callable[..., Any]:
    @functools.wraps(results.function)
    async def call(*args: Any, **kwargs: Any) -> Any:
        entry = results.entry(args, kwargs)
        found = entry.read()
        if found is not _MISSING:
            return found
        with entry.lock() as lock:
            while not lock.take():
                await asyncio.sleep(_POLL)
            found = entry.read()  # another worker may have stored it since
            if found is _MISSING:
                with state.looks() as looks:
                    found = await results.function(*args, **kwargs)
                if not looks:
                    entry.write(found)
        return found

    return call


_MISSING: Final = object()


class _Results:
    """The stored results of one function."""

    def __init__(self, function: Callable[..., Any], options: _Options) -> None:
        self.function = function
        self.options = options
        self.max_age = options.max_age
        self.folder = _subfolder(options.cache_folder_path)
        self.source = source_of(function)
        self.signature = inspect.signature(function)

    def entry(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Entry:
        """The place of one call's result. Takes ``cache_reset`` out of ``kwargs``, unless it is the
        function's own."""
        reset = bool(self.options.cache_reset)
        if "cache_reset" in kwargs and "cache_reset" not in self.signature.parameters:
            reset = bool(kwargs.pop("cache_reset"))
        bound = self.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        excluded = self.options.cache_key_exclude or ()
        arguments = {name: value for name, value in bound.arguments.items() if name not in excluded}
        key = hashlib.blake2b(f"{self.source}\n{fingerprint(arguments)}".encode(), digest_size=_DIGEST)
        path = folder() / self.folder / f"{key.hexdigest()}.pickle"
        return _Entry(path, self, reset)


def _subfolder(text: str | None) -> Path:
    parts = [part for part in PurePosixPath(text or "").parts if part != "/"]
    if ".." in parts:
        raise ValueError(f"cache_folder_path {text!r} leaves the canvas's cache folder")
    return Path(*parts)


def folder() -> Path:
    """Where the results of the owner's functions are."""
    given = os.environ.get("TILESERVER_UDF_CACHE")
    return Path(given) if given else _private_folder()


@functools.lru_cache(maxsize=1)
def _private_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="tileserver-udf-cache-"))


@dataclass(frozen=True, slots=True)
class _Entry:
    path: Path
    results: _Results
    reset: bool

    @property
    def name(self) -> str:
        return self.results.function.__qualname__

    def read(self) -> Any:
        """The stored result, or ``_MISSING``."""
        if self.reset or not self.results.max_age:
            return _MISSING
        try:
            age = time.time() - self.path.stat().st_mtime
            content = self.path.read_bytes() if age <= self.results.max_age else b""
        except OSError:
            return _MISSING
        payload = memoryview(content)[_DIGEST:]
        if not content or _digest(payload) != content[:_DIGEST]:
            return _MISSING
        try:
            value = pickle.loads(payload)
        except Exception:  # a class that has changed since: user code decides how it is rebuilt
            return _MISSING
        self._say("found")
        return value

    def write(self, value: object) -> None:
        if not self.results.max_age:
            return
        try:
            payload = pickle.dumps(value, protocol=5)
        except Exception as error:  # the value's own class says how it is pickled: user code
            print(f"fused.cache: the result of {self.name} can't be stored: {error}", file=sys.stderr)
            return
        try:
            _write_atomically(self.path, _digest(payload) + payload)
        except OSError as error:
            print(f"fused.cache: the result of {self.name} was not stored: {error.strerror}", file=sys.stderr)
        else:
            self._say("computed and stored")

    def _say(self, what: str) -> None:
        if self.results.options.cache_verbose:
            print(f"fused.cache: {self.name}: {what}")

    @contextmanager
    def lock(self) -> Iterator[Lock]:
        lock = Lock(self.path.with_suffix(".lock"), self.results.options.concurrent_lock_timeout)
        if not self.results.max_age:
            lock.give_up()
        try:
            yield lock
        finally:
            lock.release()


def _digest(payload: bytes | memoryview) -> bytes:
    return hashlib.blake2b(payload, digest_size=_DIGEST).digest()


def _write_atomically(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o770, parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".tmp")
    os.fchmod(descriptor, 0o660)  # the owner's other workers may be other users of its group
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise


class Lock:
    """A file lock held by whoever computes an entry. It ends with its process, however that ends."""

    def __init__(self, path: Path, timeout: float) -> None:
        self.path = path
        self.deadline = time.monotonic() + timeout
        self.descriptor: int | None = None

    def give_up(self) -> None:
        self.deadline = 0.0

    def take(self) -> bool:
        """Try once. True when the lock is held, or is not to be waited for any longer."""
        if time.monotonic() >= self.deadline:
            return True
        try:
            self.path.parent.mkdir(mode=0o770, parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o660)
        except OSError:
            return True  # no place for a lock: compute without
        if self._held(descriptor):
            self.descriptor = descriptor
            return True
        os.close(descriptor)
        return False

    def _held(self, descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before us removes the file; a lock on a removed file excludes nobody.
            return os.fstat(descriptor).st_ino == os.stat(self.path).st_ino
        except OSError:
            return False

    def release(self) -> None:
        if self.descriptor is not None:
            self.path.unlink(missing_ok=True)
            os.close(self.descriptor)
            self.descriptor = None
