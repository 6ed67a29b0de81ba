"""What answers say of this machine's folders: only what lies below them."""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path
from typing import Final

_HERE: Final = str(Path(__file__).parent)
# Where every Linux system has its programs: to hide these would hide nothing.
_COMMON: Final = frozenset({"/", "/usr", "/usr/local"})


class Redaction:
    """Makes paths relative to the innermost of some folders, to the libraries, or to Python's own folder; of
    such a folder itself it leaves a dot."""

    def __init__(self, folders: Iterable[str | os.PathLike[str]] = ()) -> None:
        libraries = [sysconfig.get_path(name) for name in ("purelib", "platlib", "stdlib")]
        known = [*(os.fspath(folder) for folder in folders), *libraries, _HERE, sys.prefix, sys.base_prefix]
        hidden = {path.rstrip("/") for name in known for path in (name, os.path.realpath(name))}
        longest_first = sorted(hidden - _COMMON - {""}, key=lambda path: (-len(path), path))
        names = "|".join(map(re.escape, longest_first))
        self._pattern = re.compile(rf"(?:{names})(?:(/)|(?![\w-]|\.\w))")

    def __call__(self, text: str) -> str:
        return self._pattern.sub(lambda found: "" if found[1] else ".", text)


NOTHING_HIDDEN: Final = Redaction()
