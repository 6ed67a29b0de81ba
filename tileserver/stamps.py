"""By what a change of a canvas's files is noticed: their times, sizes and inodes."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

MAX_FILES: Final = 10_000
FOLDER: Final = "."  # the canvas's folder itself, among the paths below it
Stamp = tuple[int, int, int, int]  # times of change, size, inode


def stamp_of(path: Path | str) -> Stamp | None:
    """None for what isn't there, and for pipes and devices, which to read may never end."""
    try:
        facts = os.stat(path)
    except (OSError, ValueError):  # a name from a URL may be one that no file can have
        return None
    if not (stat.S_ISREG(facts.st_mode) or stat.S_ISDIR(facts.st_mode)):
        return None
    return (facts.st_mtime_ns, facts.st_ctime_ns, facts.st_size, facts.st_ino)


def stamps_of(folder: Path, globs: frozenset[str]) -> dict[str, Stamp]:
    """Stamps of the canvas's files by their path in it, and of the files that globs find."""
    found = dict(_walk(folder))
    for pattern in globs:
        found |= globbed(folder, pattern)
    return found


def _walk(folder: Path) -> Iterator[tuple[str, Stamp]]:
    """The canvas's folder, and its files as far as ``MAX_FILES``. Twice a second for every canvas in use, so
    there are no ``Path`` objects here."""
    root = str(folder)
    if (stamp := stamp_of(root)) is not None:
        yield FOLDER, stamp
    left = MAX_FILES
    pending = [""]  # folders in it, with a slash at their end; the next one last
    while pending:
        prefix = pending.pop()
        try:
            entries = sorted(os.scandir(f"{root}/{prefix}"), key=lambda entry: entry.name)
        except OSError:
            continue
        folders = []
        for entry in entries:
            name = entry.name
            if name[0] == ".":
                continue
            if _is_folder(entry):
                if name != "__pycache__" and not entry.is_symlink():
                    folders.append(f"{prefix}{name}/")
            elif not name.endswith((".pyc", "~", ".swp")) and (stamp := stamp_of(f"{root}/{prefix}{name}")):
                yield f"{prefix}{name}", stamp
                left -= 1
                if not left:
                    return
        pending.extend(reversed(folders))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def globbed(folder: Path, pattern: str) -> dict[str, Stamp]:
    """Stamps of files that match a glob, absolute or relative to the canvas."""
    paths = glob.iglob(str(folder / pattern), recursive=True)
    return {path: stamp for path in paths if (stamp := stamp_of(path)) is not None}
