"""A UDF that crashes, hangs, floods or hoards fails its own request, in time, and nobody else's."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.conftest import Server
from tests.isolation.sources import FAULTS, LIMIT

GROWTH = 32 * 2**20


def resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def strays(server: Server) -> list[str]:
    """Processes of this server's workers that are not workers: what a UDF has started and left behind."""
    mark, found = str(server.workspace).encode(), []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            pid = int(folder.name)
            if mark in (folder / "environ").read_bytes() and os.getpgid(pid) != pid:
                found.append(f"{pid} {(folder / 'stat').read_text()[:60]}")
        except OSError:
            continue
    return found


@contextmanager
def innocents(server: Server) -> Iterator[list[httpx.Response]]:
    """Ordinary requests beside whatever happens in the block; all of them are to succeed."""
    answers: list[httpx.Response] = []
    going = True

    def ask(number: int) -> None:
        while going:
            answers.append(server.get(f"/{{innocent}}/calm.json?n={number}&cache_max_age=0"))

    with ThreadPoolExecutor(3) as threads:
        asked = [threads.submit(ask, number) for number in range(2)]
        try:
            yield answers
        finally:
            going = False
            for one in asked:
                one.result()


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_its_own_requests_alone(hostile: Server, name: str) -> None:
    """It is answered within its limit and a second, with the reason; innocents succeed meanwhile; the
    server is
    the same process with the same memory, and nothing of the UDF is left."""
    fault = FAULTS[name]
    before = resident(hostile.process.pid)

    with innocents(hostile) as others:
        started = time.monotonic()
        answer = hostile.get(f"/{{hostile}}/{name}?cache_max_age=0&format=json,html")
        took = time.monotonic() - started

    if fault.status:
        assert answer.status_code == fault.status, answer.text[:500]
        assert any(word in answer.text for word in fault.words), answer.text[:500]
    assert took < LIMIT + 1
    assert [one.status_code for one in others] == [200] * len(others)
    assert hostile.process.poll() is None
    assert hostile.get("/{innocent}/calm.json?cache_max_age=0").status_code == 200
    assert resident(hostile.process.pid) - before < GROWTH
    gone_by = time.monotonic() + 5
    while strays(hostile):
        assert time.monotonic() < gone_by, strays(hostile)


def test_nothing_that_a_worker_sends_is_unpickled(hostile: Server) -> None:
    """The trap of the pickled result was not sprung, in the worker or in the server."""
    assert not Path("/tmp/tileserver-pickled").exists()


def test_the_limits_hold_after_whatever_was_left_in_scratch(hostile: Server) -> None:
    """Folders too deep to walk through stop neither those who look after memory, nor the next worker that has
    the same place for its scratch."""
    assert "scratch" in hostile.get("/{hostile}/deep_folders?cache_max_age=0").text

    answer = hostile.get("/{hostile}/memory_in_children?cache_max_age=0")

    assert "memory_limit" in answer.text
    scratch = hostile.workspace / ".tileserver/scratch"
    with ThreadPoolExecutor(8) as threads:
        answers = threads.map(
            lambda n: hostile.get(f"/{{innocent}}/calm.json?n={n}&cache_max_age=0").status_code, range(16)
        )
        assert set(answers) == {200}
    gone_by = time.monotonic() + 5
    while any(path.name.startswith("gone-") for path in scratch.iterdir()):
        assert time.monotonic() < gone_by, list(scratch.iterdir())


def test_one_owner_does_not_starve_another(hostile: Server) -> None:
    """While endless loops of one canvas wait for workers, another canvas is served."""
    with ThreadPoolExecutor(10) as threads:
        loops = [threads.submit(hostile.get, f"/{{hostile}}/loop?cache_max_age=0&n={n}") for n in range(8)]
        time.sleep(0.2)
        started = time.monotonic()
        assert hostile.get("/{innocent}/calm.json?cache_max_age=0").status_code == 200
        took = time.monotonic() - started
        statuses = {loop.result().status_code for loop in loops}

    assert took < 1
    assert statuses <= {422, 503}
