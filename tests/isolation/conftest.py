"""A server with hostile and innocent UDFs in it, run as root and as an ordinary user."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Server, running
from tests.isolation.sources import CANVASES, LIMIT, MEMORY

ORDINARY = 23456


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(
            "root",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can be root"),
        ),
        "user",
    ],
)
def hostile(request: pytest.FixtureRequest) -> Iterator[Server]:
    """One server for all cases: each of them must leave it as it was. ``user`` is who runs the tests, or,
    where that is root, somebody who has nothing but the workspace."""
    folder = Path(tempfile.mkdtemp(prefix="tileserver-isolation-"))
    private = folder / "private"  # root's own, as the parents of a workspace may be
    workspace = private / "workspace"
    server = Server("", workspace, None)  # type: ignore[arg-type]  # filled in below
    server.write(CANVASES)
    private.chmod(0o700)
    access = server.access
    for canvas in ("hostile", "innocent", "other"):
        server.tokens[canvas] = access.share(canvas, code=True).token
    server.tokens["access"] = access.create_token("poster", scope="run")[1]
    access.close()
    launcher: tuple[str, ...] = ()
    if request.param == "user" and os.geteuid() == 0:
        folder.chmod(0o755)
        launcher = (
            sys.executable,
            str(Path(__file__).parent / "ordinary.py"),
            str(ORDINARY),
            str(private),
            "--",
        )
    flags = ("--time-limit", f"{LIMIT}s", "--memory-limit", str(MEMORY), "--output-limit", "16MiB")
    with running(
        *("serve", str(workspace), *flags, "--abandon-grace", "1s", "--workers", "4"), launcher=launcher
    ) as (process, line):
        server.url, server.process = line["url"], process
        yield server
    shutil.rmtree(folder, ignore_errors=True)
