"""Folders that UDF code has filled: counted, given to a group, removed.

What lies in them may be deep, unreadable, numerous, or exchanged for a link at any moment. So every step is
by a descriptor of the folder before it, no link is followed, and nothing recurses as deep as the tree is.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

_DEEPEST: Final = 64
_FOLDER: Final = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def size(folder: Path, *, most: int, most_files: int = 100_000) -> int:
    """Bytes that the files of a folder take. More than ``most`` also where there are too many to count, where
    they lie too deep, or where a folder can't be looked into."""
    total = 0
    try:
        with _opened(folder) as top:
            for count, (_, entry) in enumerate(_entries(top)):
                with suppress(FileNotFoundError):
                    total += entry.stat(follow_symlinks=False).st_blocks * 512
                if total > most or count >= most_files:
                    return most + 1
    except FileNotFoundError:
        return total
    except OSError:
        return most + 1
    return total


def give(folder: Path, group: int) -> None:
    """Let a group, and nobody else, write in a folder and have what is made there."""
    with _opened(folder) as top:
        _give_one(top, group)
        with suppress(OSError):  # too deep: those that are there already aren't the group's
            for place, entry in _entries(top):
                with suppress(OSError):
                    if not entry.is_dir(follow_symlinks=False):
                        os.chown(entry.name, -1, group, dir_fd=place, follow_symlinks=False)
                        continue
                    with _opened(entry.name, place) as inner:
                        _give_one(inner, group)


def _give_one(descriptor: int, group: int) -> None:
    os.fchown(descriptor, -1, group)
    os.fchmod(descriptor, 0o2770)


def remove(folder: Path) -> None:
    """Remove a folder with all that is in it, or as much of it as can be."""
    numbers = itertools.count()
    with suppress(OSError), _opened(folder, forced=True) as top:
        while sum(_remove_one(top, entry.name, numbers) for entry in os.scandir(top)):
            pass
    with suppress(OSError):
        folder.rmdir()


def _remove_one(top: int, name: str, numbers: Iterator[int]) -> bool:
    """Remove what is in ``top``; of a folder, those in it come up into ``top``, so that the tree gets
    flatter. Whether there was anything that could be done."""
    if _removed(name, top):
        return True
    with suppress(OSError), _opened(name, top, forced=True) as inner:
        with os.scandir(inner) as entries:
            for entry in entries:
                if not _removed(entry.name, inner):
                    with _opened(entry.name, inner, forced=True):
                        raised = f".up-{next(numbers)}"
                        os.rename(entry.name, raised, src_dir_fd=inner, dst_dir_fd=top)
        os.rmdir(name, dir_fd=top)
        return True
    return False


def _removed(name: str, place: int) -> bool:
    for remove_as in (os.unlink, os.rmdir):
        with suppress(OSError):
            remove_as(name, dir_fd=place)
            return True
    return False


def _entries(folder: int, depth: int = 0) -> Iterator[tuple[int, os.DirEntry[str]]]:
    """All that is in a folder, each with the descriptor of the folder it is in."""
    if depth > _DEEPEST:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    with os.scandir(folder) as entries:
        for entry in entries:
            yield folder, entry
            if entry.is_dir(follow_symlinks=False):
                with suppress(FileNotFoundError, NotADirectoryError), _opened(entry.name, folder) as inner:
                    yield from _entries(inner, depth + 1)


@contextmanager
def _opened(path: str | Path, place: int | None = None, *, forced: bool = False) -> Iterator[int]:
    """A folder, which is no link; ``forced`` makes its owner able to use it."""
    if forced:
        handle = os.open(path, os.O_PATH | _FOLDER, dir_fd=place)
        try:
            with suppress(OSError):
                Path(f"/proc/self/fd/{handle}").chmod(0o700)
            descriptor = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        finally:
            os.close(handle)
    else:
        descriptor = os.open(path, os.O_RDONLY | _FOLDER, dir_fd=place)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
