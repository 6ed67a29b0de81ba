"""Folders of access tokens that are no more: what their holders' code has left in the state folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

_KEPT: Final = frozenset({"doctor"})  # who works in such a folder without a token


def tidy(state_dir: Path, known: Callable[[], Collection[str]]) -> int:
    """Delete the working folders and caches of posted code whose access token is not among those ``known`` by
    their ids; how many folders. What can't be deleted stays."""
    # First the folders, then the tokens: who has just got one has no folder in this list.
    working = [(folder, folder.name) for folder in _folders(state_dir / "posted")]
    caches = [
        (folder, folder.name[1:].partition(".")[0])
        for folder in _folders(state_dir / "udf-cache")
        if folder.name.startswith("@")
    ]
    ids = _KEPT | frozenset(known())
    gone = [folder for folder, owner in [*working, *caches] if owner not in ids]
    for folder in gone:
        shutil.rmtree(folder, ignore_errors=True)
    return sum(not folder.exists() for folder in gone)


def _folders(parent: Path) -> list[Path]:
    try:
        return [entry for entry in parent.iterdir() if entry.is_dir() and not entry.is_symlink()]
    except OSError:
        return []
