"""Runs that are asked for later: once each, kept for a while, and no more than fit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tileserver import runs as module
from tileserver.errors import NotFound, Overloaded, UdfError
from tileserver.runs import Runs

pytestmark = pytest.mark.anyio


def counted(result: bytes = b"done") -> tuple[list[int], Callable[[], Coroutine[Any, Any, bytes]]]:
    """A run and a list that grows by each time it runs."""
    calls: list[int] = []

    async def run() -> bytes:
        calls.append(1)
        return result

    return calls, run


async def test_one_id_is_one_run() -> None:
    """However often it is posted; its result can be fetched again."""
    runs = Runs(len)
    calls, run = counted()

    results = [await runs.start(("token", "id"), run, wait=5) for _ in range(3)]

    assert (results, calls) == ([b"done"] * 3, [1])
    assert await runs.get(("token", "id"), wait=0) == b"done"


async def test_one_id_of_two_tokens_is_two_runs() -> None:
    """Ids are the callers' own."""
    runs = Runs(len)
    calls, run = counted()

    await runs.start(("one", "id"), run, wait=5)
    await runs.start(("two", "id"), run, wait=5)

    assert calls == [1, 1]
    with pytest.raises(NotFound):
        await runs.get(("three", "id"), wait=0)


async def test_a_run_goes_on_while_nobody_waits() -> None:
    """Until then there is no result; afterwards there is."""
    runs, go = Runs(len), asyncio.Event()

    async def run() -> bytes:
        await go.wait()
        return b"late"

    assert await runs.start(("token", "id"), run, wait=0) is None
    assert await runs.get(("token", "id"), wait=0) is None
    go.set()
    assert await runs.get(("token", "id"), wait=5) == b"late"


async def test_what_a_run_raises_is_raised_to_everybody() -> None:
    """Also to those who ask later."""
    runs = Runs(len)

    async def run() -> bytes:
        raise UdfError("ValueError: boom")

    for _ in range(2):
        with pytest.raises(UdfError, match="boom"):
            await runs.start(("token", "id"), run, wait=5)


async def test_a_run_that_was_refused_may_be_tried_again() -> None:
    """Clients repeat a POST after 503: it has never run. Who asks meanwhile is told why."""
    runs, calls = Runs(len), 0

    async def run() -> bytes:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise Overloaded("no room")
        return b"done"

    with pytest.raises(Overloaded):
        await runs.start(("token", "id"), run, wait=5)
    with pytest.raises(Overloaded):
        await runs.get(("token", "id"), wait=0)
    assert await runs.start(("token", "id"), run, wait=5) == b"done"


async def test_the_oldest_results_are_let_go_when_all_are_too_large() -> None:
    """Their ids are still known not to run again."""
    runs = Runs(len, limit=25)
    calls, run = counted(b"x" * 10)

    for number in range(3):
        await runs.start(("token", str(number)), run, wait=5)

    with pytest.raises(NotFound, match="no longer kept"):
        await runs.start(("token", "0"), run, wait=5)
    assert await runs.get(("token", "2"), wait=0) == b"x" * 10
    assert len(calls) == 3


async def test_there_is_an_end_to_what_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond it new runs are refused, and after a while the old ones are forgotten."""
    monkeypatch.setattr(module, "MOST", 2)
    runs = Runs(len)
    _, run = counted()
    for number in range(2):
        await runs.start(("token", str(number)), run, wait=5)

    with pytest.raises(Overloaded):
        await runs.start(("token", "2"), run, wait=5)
    monkeypatch.setattr(module, "KEEP", -1.0)
    assert await runs.start(("token", "2"), run, wait=5) == b"done"


async def test_closing_ends_what_runs() -> None:
    """No task is left behind."""
    runs, ended = Runs(len), asyncio.Event()

    async def run() -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return b""

    await runs.start(("token", "id"), run, wait=0)
    await asyncio.sleep(0)
    await runs.close()

    assert ended.is_set()
