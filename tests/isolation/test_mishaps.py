"""What goes wrong with worker processes at the worst moment: nothing is lost, nothing is kept."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tileserver.errors import TileServerError, UdfError, UdfKilled
from tileserver.executor import trees
from tileserver.executor.local import LocalPool
from tileserver.executor.zygote import Child, Zygote
from tileserver.interest import Interest
from tileserver.protocol import Bundle, Job, Source
from tileserver.worker import __main__ as worker

pytestmark = pytest.mark.anyio

UDF = """
import os, time
@fused.udf
def udf(name: str = "", forks: int = 0):
    if not name: return os.getpid()
    for _ in range(forks):
        if os.fork() == 0:
            time.sleep(3600)
    open(name + ".begun", "w").close()
    try:
        time.sleep(3600)
    except KeyboardInterrupt:
        open(name + ".interrupted", "w").close()
        raise
"""


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[LocalPool]:
    async with LocalPool(state_dir=tmp_path / "state", workers=1, abandon_grace=0.1) as running:
        yield running


async def run(pool: LocalPool, folder: Path, *, interest: Interest | None = None, **arguments: Any) -> Any:
    """A UDF of posted code, which may write into its folder."""
    posted = folder / "state/posted/somebody"
    posted.mkdir(parents=True, exist_ok=True)
    bundle = Bundle("b", "@b", "", str(posted), {"u.py": UDF}, {"u": Source("u.py", "udf", {}, {})}, {})
    job = Job("@b", "b", "u", arguments, ("json",), "data", time_limit=20.0)
    return json.loads((await pool.run(job, bundle, interest=interest)).body)


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not what():
            await asyncio.sleep(0.01)


def processes_of(folder: Path) -> list[int]:
    """Those that a UDF in a folder has started, and workers in it."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder) in str((place / "cwd").readlink()):
                found.append(int(place.name))
        except OSError:
            continue
    return found


async def test_a_worker_that_exits_before_it_is_known_is_seen_off(tmp_path: Path) -> None:
    """The news of both may come at the same moment."""
    limits = {"output_limit": 1, "udf_cache": ""}
    zygote = Zygote(scratch=tmp_path, limits=limits, max_body=1, max_log=1, lost=lambda: None)
    heard, held = zygote._heard, []

    def together(message: Mapping[str, Any]) -> None:
        if "forked" in message:
            os.kill(message["pid"], signal.SIGKILL)
            held.append(message)
            return
        if "exited" in message:
            heard(held.pop())
        heard(message)

    zygote._heard = together  # type: ignore[method-assign]
    await zygote.start()
    try:
        child = await zygote.fork()
        assert await asyncio.wait_for(child.exited, 5) == -signal.SIGKILL
    finally:
        await zygote.close()


async def test_a_machine_that_can_not_fork_costs_no_worker_that_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The zygote says so and goes on, without what it was given for the worker."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    given = [os.dup(0) for _ in range(3)]

    def full() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", full)
    worker._Zygote(theirs, {})._fork(7, *given)

    assert json.loads(ours.recv(1000))["failed"] == 7
    for descriptor in given:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
    ours.close()
    theirs.close()


async def test_a_worker_that_could_not_be_started_is_tried_again(
    pool: LocalPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits is served as soon as the machine can fork again."""
    fork, failures = Zygote.fork, [OSError(errno.EMFILE, "Too many open files"), TileServerError("full")]

    async def failing(zygote: Zygote) -> Child:
        if failures:
            raise failures.pop()
        return await fork(zygote)

    first = await run(pool, tmp_path)
    monkeypatch.setattr(Zygote, "fork", failing)
    for each in tuple(pool._workers.values()):
        pool._retire(each, "runs")

    assert await run(pool, tmp_path) != first
    assert not failures


async def test_a_zygote_that_ends_leaves_nothing_of_its_workers(pool: LocalPool, tmp_path: Path) -> None:
    """Processes that a run has started do not end by the worker's death signal. The next run has another
    zygote, also where that could not be started at once."""
    running = asyncio.create_task(run(pool, tmp_path, name="here", forks=3))
    await until(lambda: (tmp_path / "state/posted/somebody/here.begun").exists())
    start, failures = pool._zygote.start, [TileServerError("not now")]

    async def failing() -> None:
        if failures:
            raise failures.pop()
        await start()

    pool._zygote.start = failing  # type: ignore[method-assign]
    pool._zygote._process.kill()

    with pytest.raises(UdfKilled, match="SIGKILL"):
        await running
    await until(lambda: not processes_of(tmp_path))
    assert await run(pool, tmp_path) > 0
    assert not failures


async def test_an_interrupt_does_not_wait_for_the_zygote(pool: LocalPool, tmp_path: Path) -> None:
    """It may be forking; by then the worker could have begun somebody else's run."""
    interest = Interest()
    with interest.joined():
        running = asyncio.create_task(run(pool, tmp_path, name="gone", interest=interest))
        await until(lambda: (tmp_path / "state/posted/somebody/gone.begun").exists())
        os.kill(pool._zygote._process.pid, signal.SIGSTOP)

    try:
        await until(lambda: (tmp_path / "state/posted/somebody/gone.interrupted").exists())
        with pytest.raises(UdfError):
            await running
    finally:
        os.kill(pool._zygote._process.pid, signal.SIGCONT)


async def test_a_worker_without_its_channel_is_killed(pool: LocalPool, tmp_path: Path) -> None:
    """One that does not end by itself when its channel is closed would be kept for ever."""
    await run(pool, tmp_path)
    (one,) = [each for each in pool._workers.values() if each.owner == "@b"]
    one.busy = True
    os.kill(one.child.pid, signal.SIGSTOP)
    one.child.channel.close()

    pool._release(one)

    assert await asyncio.wait_for(asyncio.shield(one.exited), 5) == -signal.SIGKILL
    await until(lambda: one.child.pid not in pool._workers)


async def test_an_answer_of_any_shape_is_an_answer(
    pool: LocalPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker may say anything, also as the reason for which it should be retired."""
    await run(pool, tmp_path)
    (one,) = [each for each in pool._workers.values() if each.owner == "@b"]

    async def answered(*_: object) -> tuple[dict[str, Any], bytes]:
        return {"type": "failure", "retire": ["threads"], "message": "no"}, b""

    monkeypatch.setattr(one.child.channel, "request", answered)

    with pytest.raises(UdfError):
        await run(pool, tmp_path)


async def test_whoever_joins_as_the_last_one_leaves_is_waited_for() -> None:
    """Both may happen before whoever watches is told."""
    interest = Interest()
    watching = [asyncio.create_task(interest.lost_for(seconds)) for seconds in (0, 0.01)]
    await asyncio.sleep(0)
    with interest.joined():
        pass
    with interest.joined():
        await asyncio.sleep(0.05)
        assert interest.is_open
    await asyncio.wait_for(asyncio.gather(*watching), 5)
    assert not interest.is_open


def test_a_tree_is_removed_however_it_was_made(tmp_path: Path) -> None:
    """Deeper than a program can recurse or a path can say, shut, numerous, with links to what is others'."""
    outside, tree = tmp_path / "outside", tmp_path / "tree"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (tree / "shut/inner").mkdir(parents=True)
    (tree / "shut/inner/file").write_text("x")
    (tree / "link").symlink_to(outside)
    (tree / "shut/link").symlink_to(outside / "kept")
    (tree / "shut/inner").chmod(0)
    (tree / "shut").chmod(0o300)
    _dig(tree, 3000)

    assert trees.size(tree, most=2**30) > 2**30
    trees.remove(tree)

    assert not tree.exists()
    assert (outside / "kept").read_text() == "kept"


def _dig(folder: Path, depth: int) -> None:
    place = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=place)
        inner = os.open("d", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = inner
    os.close(place)


def test_the_size_of_a_tree_is_that_of_its_files(tmp_path: Path) -> None:
    """Not of what links lead to; too many files are too much."""
    (tmp_path / "in/side").mkdir(parents=True)
    for number in range(10):
        (tmp_path / f"in/side/{number}").write_bytes(b"x" * 8192)
    (tmp_path / "link").symlink_to("/usr")

    assert 10 * 8192 <= trees.size(tmp_path, most=2**30) < 2**20
    assert trees.size(tmp_path, most=8192) > 8192
    assert trees.size(tmp_path, most=2**30, most_files=5) > 2**30


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_is_given_to_a_group_is_what_is_in_the_folder(tmp_path: Path) -> None:
    """Nothing that a link in it leads to."""
    (tmp_path / "mine/deep").mkdir(parents=True)
    (tmp_path / "others").mkdir()
    (tmp_path / "mine/link").symlink_to(tmp_path / "others")
    (tmp_path / "mine/deep/file").write_text("x")

    trees.give(tmp_path / "mine", 12345)

    assert (tmp_path / "mine/deep/file").stat().st_gid == 12345
    assert (tmp_path / "mine/deep").stat().st_mode & 0o7777 == 0o2770
    assert (tmp_path / "others").stat().st_gid == 0
