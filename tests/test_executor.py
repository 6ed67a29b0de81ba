"""The pool of worker processes, with real ones: what a run gives, and what a bad one costs."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tileserver.catalog import Catalog
from tileserver.errors import BadRequest, CoercionError, Overloaded, UdfError, UdfKilled, UdfTimeout
from tileserver.executor import watch
from tileserver.executor.channel import Channel, ChannelClosed
from tileserver.executor.local import LocalPool
from tileserver.params import Address, Limits, build_call
from tileserver.protocol import Encoded

pytestmark = pytest.mark.anyio

UDFS = {
    "echo": "def udf(n: int = 1):\n    return n",
    "boom": "def udf():\n    print('before')\n    raise ValueError('boom')",
    "sleep": "def udf(s: float = 60):\n    import time\n    print('going', flush=True)\n    time.sleep(s)\n    return s",
    "die": "def udf():\n    import os\n    print('last words')\n    os._exit(3)",
    "crash": "def udf():\n    import os, signal\n    os.kill(os.getpid(), signal.SIGSEGV)",
    "pid": "def udf():\n    import os\n    return os.getpid()",
    "leave": "def udf():\n    import builtins\n    builtins.left = 1\n    return 1",
    "find": "def udf():\n    import builtins\n    return getattr(builtins, 'left', 0)",
    "flood": "def udf():\n    for _ in range(40):\n        print('x' * 100_000)\n    return 1",
    "raw": "def udf():\n    import os\n    os.write(1, b'raw out')\n    os.write(2, b'raw err')\n    return 1",
    "big": "def udf():\n    return 'x' * 200_000",
    "spoil": "def udf():\n    import os\n    os.close(0); os.write(3, b'x' * 100)\n    return 1",
    "environ": "def udf():\n    import os\n    return dict(os.environ)",
    "arrays": """def udf(n: int = 1):
    import resource
    import numpy as np
    def faults():
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    before = faults()
    for _ in range(n):
        kept = [np.ones(1_000_000) for _ in range(4)]
        del kept
    return faults() - before""",
}


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    for canvas in ("one", "two"):
        for name, body in UDFS.items():
            path = tmp_path / canvas / f"{name}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"import fused\n@fused.udf\n{body}\n")
    return tmp_path


@asynccontextmanager
async def pool(workspace: Path, **options: Any) -> AsyncIterator[LocalPool]:
    async with LocalPool(state_dir=workspace / ".tileserver", **{"workers": 2, **options}) as running:
        yield running


async def run(
    running: LocalPool, workspace: Path, address: str, *, time_limit: float = 20, **arguments: object
) -> Encoded:
    canvas, _, name = address.partition("/")
    found = await Catalog(workspace).resolve(canvas, name)
    query = [(key, str(value)) for key, value in arguments.items()]
    limits = Limits(time_limit=time_limit)
    call = build_call(found.udf, found.bundle, Address(), [*query, ("format", "json")], limits=limits)
    return await running.run(call.job(), call.bundle)


async def test_a_run_gives_encoded_bytes_and_its_output(workspace: Path) -> None:
    """Arguments go in as text; what comes back is encoded already."""
    async with pool(workspace) as running:
        encoded = await run(running, workspace, "one/echo", n=7)

        assert (encoded.body, encoded.media_type) == (b"7", "application/json")
        assert encoded.meta["run_ms"] >= 0


async def test_a_failure_has_its_line_and_what_was_printed(workspace: Path) -> None:
    """The same worker serves the next run."""
    async with pool(workspace, workers=1) as running:
        before = (await run(running, workspace, "one/pid")).body
        with pytest.raises(UdfError, match="ValueError: boom") as failure:
            await run(running, workspace, "one/boom")

        assert (failure.value.lineno, failure.value.exception_class) == (5, "ValueError")
        assert failure.value.stdout == "before\n"
        assert 'raise ValueError("boom")' in failure.value.traceback.replace("'", '"')
        assert (await run(running, workspace, "one/pid")).body == before


async def test_an_argument_that_does_not_fit_is_a_coercion_error(workspace: Path) -> None:
    """The class survives the way from the worker."""
    async with pool(workspace) as running:
        with pytest.raises(CoercionError, match="n"):
            await run(running, workspace, "one/echo", n="seven")


async def test_a_refused_option_is_the_requests_fault(workspace: Path) -> None:
    """Nothing has run."""
    async with pool(workspace) as running:
        with pytest.raises(BadRequest, match="colormap"):
            await run(running, workspace, "one/echo", colormap="nosuch")


@pytest.mark.parametrize(
    ("name", "says"), [("die", "exited with status 3"), ("crash", "killed by SIGSEGV")], ids=["exit", "crash"]
)
async def test_a_worker_that_dies_fails_its_own_run_only(workspace: Path, name: str, says: str) -> None:
    """docs/design.md: the reason is told, others don't notice, the worker is replaced."""
    async with pool(workspace) as running:
        failing = asyncio.ensure_future(run(running, workspace, f"one/{name}"))
        others = [run(running, workspace, "one/echo", n=n) for n in range(5)]
        results = await asyncio.gather(*others)

        with pytest.raises(UdfKilled, match=says):
            await failing
        assert [encoded.body for encoded in results] == [b"0", b"1", b"2", b"3", b"4"]
        assert (await run(running, workspace, "one/echo")).body == b"1"


async def test_what_a_dead_worker_printed_is_kept(workspace: Path) -> None:
    """Often the only hint there is."""
    async with pool(workspace) as running:
        with pytest.raises(UdfKilled) as failure:
            await run(running, workspace, "one/die")

        assert failure.value.stdout == "last words\n"


async def test_a_run_beyond_its_limit_is_killed(workspace: Path) -> None:
    """docs/design.md: its worker is gone, its output kept, the next run is answered."""
    async with pool(workspace, workers=1) as running:
        pid = int((await run(running, workspace, "one/pid")).body)
        with pytest.raises(UdfTimeout, match=r"longer than its limit of 0\.3 s") as failure:
            await run(running, workspace, "one/sleep", time_limit=0.3)

        assert failure.value.stdout == "going\n"
        assert int((await run(running, workspace, "one/pid")).body) != pid
        assert not _alive(pid)


async def test_a_run_cut_short_by_the_one_that_called_it_is_nobody_elses(workspace: Path) -> None:
    """Who waits for the same result without such a deadline runs it again."""
    found = await Catalog(workspace).resolve("one", "sleep")
    call = build_call(found.udf, found.bundle, Address(), [("format", "json")], limits=Limits())
    async with pool(workspace) as running:
        job = replace(call.job(), nested=1, deadline=time.monotonic() + 0.3)
        with pytest.raises(UdfTimeout, match="than the run that called it may") as failure:
            await running.run(job, call.bundle)

    assert failure.value.read_caller


async def test_canvases_never_share_a_worker(workspace: Path) -> None:
    """What one canvas leaves in a process, another one can't find, however few workers there are."""
    async with pool(workspace, workers=1) as running:
        await run(running, workspace, "one/leave")

        assert (await run(running, workspace, "one/find")).body == b"1"
        assert (await run(running, workspace, "two/find")).body == b"0"
        assert (await run(running, workspace, "one/find")).body == b"0"


async def test_an_edit_is_run_by_the_same_worker(workspace: Path) -> None:
    """A new bundle, not a new process."""
    async with pool(workspace, workers=1) as running:
        before = (await run(running, workspace, "one/pid")).body
        (workspace / "one/echo.py").write_text("import fused\n@fused.udf\ndef udf():\n    return 'edited'\n")

        assert (await run(running, workspace, "one/echo")).body == b'"edited"'
        assert (await run(running, workspace, "one/pid")).body == before


async def test_a_flood_of_output_is_cut_in_the_middle(workspace: Path) -> None:
    """docs/settings.md, ``log_limit``: its beginning and end are kept."""
    async with pool(workspace, log_limit=100_000) as running:
        output = (await run(running, workspace, "one/flood")).meta["stdout"]

        assert 99_000 < len(output) < 101_000
        assert "bytes left out" in output


async def test_output_below_python_is_kept_too(workspace: Path) -> None:
    """C libraries write to the descriptors, not to sys.stdout."""
    async with pool(workspace) as running:
        meta = (await run(running, workspace, "one/raw")).meta

        assert (meta["stdout"], meta["stderr"]) == ("raw out", "raw err")


async def test_a_result_over_the_limit_is_refused_in_the_worker(workspace: Path) -> None:
    """docs/settings.md, ``output_limit``; the message names it."""
    async with pool(workspace, output_limit=100_000) as running:
        with pytest.raises(UdfError, match="output_limit"):
            await run(running, workspace, "one/big")


async def test_runs_beyond_the_queue_are_refused_at_once(workspace: Path) -> None:
    """docs/settings.md, ``queue_limit``: 503, never 422."""
    async with pool(workspace, workers=1, queue_limit=2) as running:
        tasks = [asyncio.ensure_future(run(running, workspace, "one/sleep", s=0.5)) for _ in range(6)]
        results = await asyncio.gather(*tasks, return_exceptions=True)

        refused = [error for error in results if isinstance(error, Overloaded)]
        assert refused and len(refused) < 6
        assert all(isinstance(result, Encoded | Overloaded) for result in results)


async def test_a_wait_beyond_its_limit_is_refused(workspace: Path) -> None:
    """docs/settings.md, ``queue_time_limit``."""
    async with pool(workspace, workers=1) as running:
        first = asyncio.ensure_future(run(running, workspace, "one/sleep", s=1))
        while not running.stats()["busy"]:
            await asyncio.sleep(0.01)
        running._queue_time_limit = 0.2
        with pytest.raises(Overloaded, match="queue_time_limit"):
            await asyncio.gather(*[run(running, workspace, "one/sleep", s=1) for _ in range(2)])

        assert (await first).body == b"1.0"


async def test_a_worker_that_writes_to_the_channel_is_ended(workspace: Path) -> None:
    """What is no frame is not believed; whatever the descriptor was, the next run is answered."""
    async with pool(workspace, workers=1) as running:
        for _ in range(3):
            try:
                await run(running, workspace, "one/spoil")
            except UdfError:
                pass

        assert (await run(running, workspace, "one/echo")).body == b"1"


async def test_a_worker_inherits_nothing_of_the_servers_environment(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials of the operator are not the UDF's."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-for-udfs")
    async with pool(workspace) as running:
        body = (await run(running, workspace, "one/environ")).body

        assert b"not-for-udfs" not in body


async def test_arrays_of_a_tiles_size_take_no_new_memory_each_time(workspace: Path) -> None:
    """To get 8,000 pages of 32 MB from the kernel anew costs more than what a tile computes with them."""
    async with pool(workspace, workers=1) as running:
        await run(running, workspace, "one/arrays")
        pages = int((await run(running, workspace, "one/arrays", n=10)).body)

        assert pages < 2000


async def test_a_lost_zygote_is_replaced(workspace: Path) -> None:
    """All its children end with it; the next run is answered by new ones."""
    async with pool(workspace) as running:
        pid = int((await run(running, workspace, "one/pid")).body)
        os.kill(running._zygote._process.pid, signal.SIGKILL)
        await running._zygote._process.wait()

        assert (await run(running, workspace, "one/echo")).body == b"1"
        assert not _alive(pid)


async def test_nothing_is_left_when_the_pool_ends(workspace: Path) -> None:
    """Neither workers nor the zygote."""
    async with pool(workspace) as running:
        pids = [running._zygote._process.pid, int((await run(running, workspace, "one/pid")).body)]

    assert not any(_alive(pid) for pid in pids)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def test_workers_that_end_at_the_same_time_are_all_seen_off(workspace: Path) -> None:
    """However many signals come at once: the process that forks goes on, and knows all who have ended."""
    async with pool(workspace, workers=2) as running:
        zygote = running._zygote._process.pid
        for _ in range(5):
            children = [await running._zygote.fork() for _ in range(10)]
            for child in children:
                running._zygote.kill(child.pid)
                for end in (child.channel, child.stdout, child.stderr):
                    end.close()

        assert (await run(running, workspace, "one/echo")).body == b"1"
        assert running._zygote._process.pid == zygote
        assert running._zygote._process.returncode is None


async def test_a_run_that_fills_its_scratch_is_ended(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the quota, long before its time limit; its worker's scratch goes with it, and the next run is served."""
    monkeypatch.setattr(watch, "_SCRATCH", 2**20)
    fills = "import os, time\n@fused.udf\ndef udf():\n    path = os.path.join(os.environ['TMPDIR'], 'x')\n"
    (workspace / "one/fills.py").write_text(
        f"{fills}    open(path, 'wb').write(b'x' * (8 * 2**20))\n    time.sleep(60)\n"
    )
    async with pool(workspace) as running:
        with pytest.raises(UdfKilled, match="into its scratch"):
            await run(running, workspace, "one/fills", time_limit=30)

        assert (await run(running, workspace, "one/echo")).body == b"1"
        async with asyncio.timeout(5):
            while _has_file(workspace / ".tileserver/scratch"):
                await asyncio.sleep(0)


def _has_file(folder: Path) -> bool:
    try:
        return any(folder.rglob("x"))
    except FileNotFoundError:  # it is being removed
        return True


def test_the_largest_goes_when_all_together_use_too_much() -> None:
    """Though none of them has passed its own limit."""
    code = "import sys; held = b'x' * int(sys.argv[1]); print('ready', flush=True); sys.stdin.read()"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(size * 2**20)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,
        )
        for size in (20, 80)
    ]
    try:
        for process in started:
            assert process.stdout is not None and process.stdout.readline()
        pids = [process.pid for process in started]

        found = watch.largest_over(pids, each=2**30, together=60 * 2**20)

        assert found is not None and found[0] == pids[1]
        assert "all runs together" in found[1]
        assert watch.largest_over(pids, each=2**30, together=2**30) is None
    finally:
        for process in started:
            process.communicate()


async def test_a_worker_that_has_gone_leaves_no_error_that_nobody_takes() -> None:
    """Asking it fails once; its end says no more of that later, when nobody listens."""
    ours, theirs = socket.socketpair()
    with theirs:
        _, channel = await asyncio.get_running_loop().create_unix_connection(lambda: Channel(0), sock=ours)
        channel.close()

        with pytest.raises(ChannelClosed):
            await channel.request({"type": "run"}, b"")

        unheard: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
        await channel.closed
        del channel
        gc.collect()
        assert unheard == []
