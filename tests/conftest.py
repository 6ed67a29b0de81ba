"""What every test may use: real server processes, of a workspace made on the spot and of the demo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import httpx
import pytest
from hypothesis import HealthCheck, settings

from tileserver.access import Access

# How long an example takes says more of what else the machine does than of the code.
settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


@pytest.fixture
def anyio_backend() -> str:
    """Asynchronous tests run on asyncio, as the server does."""
    return "asyncio"


@dataclass
class Server:
    """A running server, its workspace, and a client for it."""

    url: str
    workspace: Path
    process: subprocess.Popen[str]
    tokens: dict[str, str] = field(default_factory=dict)

    def get(self, path: str, method: str = "GET", **options: Any) -> httpx.Response:
        """Ask for a path; ``{city}`` in it stands for the token of the canvas of that name."""
        for canvas, token in self.tokens.items():
            path = path.replace(f"{{{canvas}}}", token)
        return httpx.request(method, f"{self.url}{path}", timeout=30, **options)

    @property
    def access(self) -> Access:
        """The same database as the running server's, as another process would open it."""
        return Access(self.workspace / ".tileserver")

    def write(self, files: dict[str, str]) -> None:
        for name, text in files.items():
            path = self.workspace / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


@contextmanager
def running(
    *arguments: str,
    environ: dict[str, str] | None = None,
    log: int | IO[str] = subprocess.DEVNULL,
    launcher: tuple[str, ...] = (),
) -> Iterator[tuple[subprocess.Popen[str], Any]]:
    """A ``tileserver`` process and the JSON line that it announces itself with; ``log`` takes its log, and
    ``launcher`` is a command that starts it in its place."""
    workers = () if "--workers" in arguments else ("--workers", "3")
    process = subprocess.Popen(
        [*launcher, sys.executable, "-m", "tileserver", *arguments, "--port", "0", "--json", *workers],
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
        env={**os.environ, **(environ or {})},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "the server ended before it was ready"
        yield process, json.loads(line)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        finally:
            process.kill()
            if process.stdout is not None:
                process.stdout.close()


@contextmanager
def serving(
    workspace: Path, files: dict[str, str], *flags: str, log: int | IO[str] = subprocess.DEVNULL
) -> Iterator[Server]:
    """A server of a workspace with these files; every canvas is shared with its code."""
    workspace.mkdir(parents=True, exist_ok=True)
    server = Server("", workspace, None)  # type: ignore[arg-type]  # filled in below
    server.write(files)
    access = server.access
    for canvas in {name.partition("/")[0] for name in files}:
        server.tokens[canvas] = access.share(canvas, code=True).token
    access.close()
    with running("serve", str(workspace), *flags, log=log) as (process, line):
        server.url, server.process = line["url"], process
        yield server


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start servers that end with the test: ``serve({"city/a.py": "…"}, "--time-limit", "2s")``."""
    started: list[AbstractContextManager[Server]] = []

    def start(files: dict[str, str], *flags: str) -> Server:
        context = serving(tmp_path / f"workspace{len(started)}", files, *flags)
        started.append(context)
        return context.__enter__()

    yield start
    for context in started:
        context.__exit__(None, None, None)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The demo, one for the whole session; tests only read from it."""
    home = tmp_path_factory.mktemp("home")
    with running("demo", environ={"HOME": str(home), "XDG_STATE_HOME": str(home)}) as (process, line):
        yield Server(line["url"], home, process, {"demo": line["token"]})
