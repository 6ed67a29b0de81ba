"""Runs that nobody waits for any more: not begun, gone on with for a while, then interrupted, then killed."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.conftest import Server

SLOW = """
import os, time
@fused.udf
def udf(name: str, seconds: float = 60, stubborn: bool = False):
    marks = fused.file_path("marks")
    open(f"{marks}/{name}.begun", "w").close()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            time.sleep(0.02)
        except KeyboardInterrupt:
            open(f"{marks}/{name}.interrupted", "w").close()
            if not stubborn: raise
    open(f"{marks}/{name}.done", "w").close()
    return os.getpid()
"""
WHICH = "import os\n@fused.udf(cache_max_age='0s')\ndef udf():\n    return os.getpid()\n"
FILES = {"city/slow.py": SLOW, "city/which.py": WHICH}


@pytest.fixture
def server(serve: Callable[..., Server]) -> Server:
    return serve(FILES, "--workers", "1", "--abandon-grace", "1s")


def marked(server: Server, name: str) -> Path:
    return server.workspace / ".tileserver/udf-cache/city/files/marks" / name


def until(what: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for something that is to happen."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"


def leave(server: Server, query: str, *, once: Callable[[], bool] | None = None) -> None:
    """Ask for a run over a connection of its own, and close that once something holds."""
    parts = urlsplit(server.url)
    with socket.create_connection((str(parts.hostname), int(parts.port or 80))) as connection:
        path = f"/{server.tokens['city']}/slow?{query}"
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
        until(once or (lambda: True))


def test_a_run_that_was_abandoned_in_the_queue_never_begins(server: Server) -> None:
    """The only worker is busy; whoever waited behind that has left before it was free."""
    parts = urlsplit(server.url)
    connection = socket.create_connection((str(parts.hostname), int(parts.port or 80)))
    connection.sendall(
        f"GET /{server.tokens['city']}/slow?name=first&seconds=1 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    )
    until(lambda: marked(server, "first.begun").exists())

    leave(server, "name=second&seconds=0")

    assert b"200 OK" in connection.recv(1000)
    connection.close()
    assert server.get("/{city}/which").status_code == 200
    assert not marked(server, "second.begun").exists()


def test_a_short_run_goes_on_and_is_stored(server: Server) -> None:
    """A map that was moved and moved back finds its tile."""
    leave(server, "name=short&seconds=0.4", once=lambda: marked(server, "short.begun").exists())

    until(lambda: marked(server, "short.done").exists())
    answer = server.get("/{city}/slow?name=short&seconds=0.4")

    assert answer.headers["x-cache"] in ("hit", "shared")
    assert not marked(server, "short.interrupted").exists()


def test_a_long_run_is_interrupted_and_its_worker_stays(server: Server) -> None:
    """It may end by itself: the same process serves the next run."""
    before = server.get("/{city}/which").json()
    leave(server, "name=long", once=lambda: marked(server, "long.begun").exists())

    until(lambda: marked(server, "long.interrupted").exists())

    assert server.get("/{city}/which").json() == before
    assert not marked(server, "long.done").exists()


def test_a_run_that_does_not_stop_is_killed(server: Server) -> None:
    """A second after it was asked to: the next run has another process."""
    before = server.get("/{city}/which").json()
    leave(server, "name=stubborn&stubborn=true", once=lambda: marked(server, "stubborn.begun").exists())

    started = time.monotonic()
    after = server.get("/{city}/which").json()

    assert after != before
    assert time.monotonic() - started < 4
    assert marked(server, "stubborn.interrupted").exists()


def test_whoever_comes_back_in_time_gets_the_run_under_way(server: Server) -> None:
    """One that has lost its client is joined like any other."""
    leave(server, "name=joined&seconds=0.8", once=lambda: marked(server, "joined.begun").exists())

    answer = server.get("/{city}/slow?name=joined&seconds=0.8")

    assert answer.status_code == 200
    assert answer.headers["x-cache"] in ("shared", "hit")
