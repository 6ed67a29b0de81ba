"""The demo: a workspace with one canvas and its data, shipped inside the package.

A server runs a private copy of it, so that its functions can be edited whoever owns the installed
package, and its state lies beside nothing else.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

CANVAS: Final = "demo"
TOKENS: Final[Mapping[str, str]] = {"fc_demo": CANVAS}

_SHIPPED: Final = Path(__file__).parent / "workspace"


def prepare(folder: Path) -> Path:
    """Copy the demo's workspace into ``folder``, which only its owner may enter; returns the workspace.

    A copy that is there already is only completed, so that edits in it stay, unless what is shipped has
    changed since: then every file of the demo is written again.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    workspace, mark = folder / "workspace", folder / "shipped"
    files = [path for path in sorted(_SHIPPED.rglob("*")) if path.is_file() and path.suffix != ".pyc"]
    digest = _digest(files)
    current = mark.is_file() and mark.read_text("ascii") == digest
    for path in files:
        target = workspace / path.relative_to(_SHIPPED)
        if not (current and target.exists()):
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Content only: the package's own files may be read-only.
            shutil.copyfile(path, target)
    mark.write_text(digest, encoding="ascii")
    return workspace


def _digest(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(_SHIPPED)} {path.stat().st_size}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
