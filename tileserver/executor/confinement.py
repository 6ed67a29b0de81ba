"""What the server decides of a worker's sandbox: which parts, which folders, which user.

A worker is confined once it is known whose code it will run. Its scratch is a folder of its own that goes
with it; its owner's cache folder is shared by the owner's workers, and by nobody else: where each worker
has a user of its own, the folder's group is the owner's.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from tileserver import sandbox
from tileserver.errors import ConfigurationError
from tileserver.executor import trees
from tileserver.protocol import Bundle
from tileserver.sandbox import Level, Part, Plan, identity

_PACKAGE: Final = Path(__file__).resolve().parent.parent
_FILE_SIZE: Final = 4 * 2**30


class Confinement:
    """Makes a ``Plan`` for each worker of a pool. ``memory`` is bytes for one worker, ``read`` are folders
    that every UDF may read; ``workspace`` is one that none may beyond its own canvas, ``cache_dir`` one that
    none may at all."""

    def __init__(
        self,
        state_dir: Path,
        *,
        mode: str = "auto",
        network: str = "on",
        memory: int = 4 * 2**30,
        workspace: Path | None = None,
        cache_dir: Path | None = None,
        read: Sequence[Path] = (),
        parts: frozenset[Part] | None = None,
    ) -> None:
        """``parts`` takes the place of those that the kernel offers.

        :raises ConfigurationError: when the mode or the network can't be had on this machine.
        """
        offered = sandbox.available() if parts is None else parts
        self.parts: frozenset[Part] = frozenset() if mode == "off" else offered
        self.mode = mode
        self.network = network
        self._memory = memory
        self._scratch = state_dir / "scratch"
        self._caches = state_dir / "udf-cache"
        self.notes: tuple[str, ...] = ()
        state = [state_dir, *([] if cache_dir is None else [cache_dir])]
        private = [*state, *([] if workspace is None else [workspace])]
        self._system = self._apart_from(private, sandbox.SYSTEM)
        self._read = self._apart_from(private, _program_folders())
        self._read += self._apart_from(state, map(str, read))
        self._reads_all = {"landlock", "no_new_privs"} <= self.parts and identity.can_read_all()
        if "user" in self.parts and not self._reads_all:
            self._without_power(state_dir)
        if "user" not in self.parts:
            self._reads_all = identity.can_read_all()
        self._first = identity.first_id() if "user" in self.parts else None
        self._groups: dict[str, int] = {}
        self._gone = itertools.count()
        if mode == "strict" and self.level not in ("A", "B"):
            missing = ", ".join(sorted(self.missing))
            raise ConfigurationError(
                f"sandbox = strict needs level B, and this machine has level {self.level}: missing {missing}"
            )
        if network != "on" and "seccomp" not in self.parts:
            raise ConfigurationError(
                f"network = {network} can't be enforced on this machine: it needs the part seccomp"
            )

    def _apart_from(self, private: Sequence[Path], folders: Iterable[str]) -> tuple[str, ...]:
        """Folders that may be read; of one that a private folder lies in, what is beside that."""
        found: list[str] = []
        kept = [os.path.realpath(path) for path in private]
        for folder in folders:
            parted = tuple(_beside(folder, kept))
            found += parted
            if parted != (folder,):
                note = (
                    f"{folder} holds the workspace or its state: UDF code may read what is beside those only"
                )
                self.notes += (f"{note}, and import nothing from {folder} itself",)
        return tuple(dict.fromkeys(found))

    def _without_power(self, state_dir: Path) -> None:
        """Other users must then reach their places as any user would. Where something is in the way, workers
        stay root's: better known to be open than closed to what they need."""
        first = identity.first_id() or 0
        stopped_by = unreadable((*self._read, str(state_dir.parent)), first)
        if stopped_by is None:
            state_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
            state_dir.chmod(0o711)
        else:
            self.parts -= {"user"}
            self.notes += (f"workers have no users of their own: those could not read {stopped_by}",)

    @property
    def level(self) -> Level:
        return sandbox.level_of(self.parts)

    @property
    def missing(self) -> frozenset[Part]:
        return frozenset(sandbox.PARTS) - self.parts

    def prepare(self) -> None:
        """Make the folders, and forget what earlier workers left in theirs."""
        if self._scratch.exists():
            trees.remove(self._scratch)
        for folder in (self._scratch, self._caches):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if "user" in self.parts and not self._reads_all:
                folder.chmod(0o711)
        for folder in self._caches.iterdir():
            with suppress(OSError):
                self._groups[folder.name] = folder.stat().st_gid

    def scratch(self, slot: int) -> Path:
        """The scratch of the worker in a slot; slots are counted from 0, one for each worker alive."""
        return self._scratch / str(slot)

    def plan(self, bundle: Bundle, slot: int) -> Plan:
        """The sandbox of a worker for the owner of a bundle, whose folders are made here."""
        uid = gid = None
        if self._first is not None:
            uid, gid = self._first + slot, self._group(bundle.owner)
        home = self.scratch(slot)
        if home.exists():
            trees.remove(self.forget(slot))
        home.mkdir(mode=0o700)
        cache = self._caches / bundle.owner
        written = [cache, *([] if bundle.canvas else [Path(bundle.folder)])]
        for folder in written:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if gid is not None and folder.stat().st_gid != gid:
                trees.give(folder, gid)
        if uid is not None and gid is not None:
            os.chown(home, uid, gid)
        return Plan(
            parts=tuple(sorted(self.parts)),
            read=(*self._system, *self._read, *([bundle.folder] if bundle.canvas else [])),
            write=(str(home), *(str(folder) for folder in written)),
            home=str(home),
            uid=uid,
            gid=gid,
            reads_all=self._reads_all,
            memory=self._memory,
            file_size=_FILE_SIZE,
            network=self.network,
            environment={
                **dict.fromkeys(("HOME", "TMPDIR", "MPLCONFIGDIR", "NUMBA_CACHE_DIR"), str(home)),
                **dict.fromkeys(("USER", "LOGNAME"), "udf"),  # the list of users can't be read
                **({"RES_OPTIONS": "use-vc"} if self.network == "public" else {}),  # names by TCP
            },
        )

    def forget(self, slot: int) -> Path:
        """Free a slot: what its worker has left in its scratch is moved aside, to be removed."""
        aside = self._scratch / f"gone-{next(self._gone)}"
        with suppress(FileNotFoundError):
            self.scratch(slot).rename(aside)
        return aside

    def _group(self, owner: str) -> int:
        """The owner's group: the one that its cache folder has, or the next that none has."""
        assert self._first is not None
        used = set(self._groups.values())
        if not self._first <= self._groups.get(owner, -1) < self._first + identity.COUNT:
            self._groups[owner] = next(n for n in range(self._first, 2**31) if n not in used)
        return self._groups[owner]


def _beside(folder: str, private: Sequence[str]) -> Iterable[str]:
    real = os.path.realpath(folder)
    if not any(os.path.commonpath((real, path)) == real for path in private):
        yield folder
    elif real not in private:
        with suppress(OSError):
            for name in sorted(os.listdir(real)):
                yield from _beside(os.path.join(real, name), private)


def _program_folders() -> Iterable[str]:
    """Where the interpreter and the libraries lie."""
    places = {sys.prefix, sys.base_prefix, sys.exec_prefix, str(_PACKAGE)}
    # The first entry is the script's folder, or the one that the server was started in: no library.
    listed = sys.path if sys.flags.safe_path else sys.path[1:]
    places.update(path for path in listed if path and Path(path).exists())
    places.add(str(Path(sys.executable).resolve().parent))
    return sorted(places)


def unreadable(places: Iterable[str], uid: int) -> str | None:
    """The first of some paths that a user can't reach without the power to read everything: it, or the folder
    above it that stops them."""
    for place in places:
        for step in (*reversed(Path(place).resolve().parents), Path(place).resolve()):
            try:
                facts = step.stat()
            except OSError:
                continue
            needed = 0o5 if step.is_dir() else 0o4
            if facts.st_uid != uid and facts.st_mode & needed != needed:
                return str(step)
    return None
