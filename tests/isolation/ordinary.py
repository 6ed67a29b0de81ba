"""Run a command as an ordinary user, though the interpreter may lie where only root can go.

    python ordinary.py UID FOLDER... -- COMMAND...

In a mount namespace of its own, every folder that would stop the user on the way to the interpreter, the
sources or one of the FOLDERs is covered by one that doesn't, with only what is needed in it. Then the
process gives up root for good and becomes the command.
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from pathlib import Path

NEW_MOUNTS, BIND, PRIVATE, RECURSIVE = 0x20000, 0x1000, 0x40000, 0x4000

libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    text = (None if kind is None else kind.encode(), None if options is None else options.encode())
    checked(libc.mount(source.encode(), target.encode(), text[0], flags, text[1]))


def blocked(path: Path) -> Path | None:
    """The first folder on the way to a path that others may not search."""
    return next((p for p in reversed(path.parents) if p.stat().st_mode & 0o1 == 0), None)


def uncover(needed: list[Path]) -> None:
    checked(libc.unshare(NEW_MOUNTS))
    mount("none", "/", None, PRIVATE | RECURSIVE)
    mount("none", "/mnt", "tmpfs", 0, "mode=755")
    covers: dict[Path, list[Path]] = {}
    for path in needed:
        if (cover := blocked(path)) is not None:
            covers.setdefault(cover, []).append(path)
    for cover, paths in covers.items():
        keep = Path(tempfile.mkdtemp(dir="/mnt"))
        for number, path in enumerate(paths):
            (keep / str(number)).mkdir()
            mount(str(path), str(keep / str(number)), None, BIND | RECURSIVE)
        mount("none", str(cover), "tmpfs", 0, "mode=755")
        for number, path in enumerate(paths):
            path.mkdir(mode=0o755, parents=True, exist_ok=True)
            mount(str(keep / str(number)), str(path), None, BIND | RECURSIVE)


def main() -> None:
    split = sys.argv.index("--")
    uid, folders, command = int(sys.argv[1]), sys.argv[2:split], sys.argv[split + 1 :]
    sources = Path(__file__).resolve().parent.parent.parent
    needed = [Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), sources, *map(Path, folders)]
    uncover(list(dict.fromkeys(path.resolve() for path in needed)))
    for folder in folders:
        for place, _, names in os.walk(folder):
            for name in (place, *(os.path.join(place, name) for name in names)):
                os.chown(name, uid, uid, follow_symlinks=False)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    os.environ["HOME"] = folders[0] if folders else "/"
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
