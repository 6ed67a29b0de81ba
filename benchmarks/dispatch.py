"""What running a UDF costs besides the UDF: ``python -m benchmarks.dispatch``.

In one run, on loopback: round trips of results of three sizes over HTTP, uncached, beside a process pool of
the standard library behind the same HTTP; calls a second with all workers busy; the pool alone; what a worker
costs to fork, to confine, to kill and to replace; memory; and a map view whose tiles wait for data.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.refusals import percentile
from tileserver.access import Access
from tileserver.errors import UdfTimeout
from tileserver.executor.local import LocalPool
from tileserver.protocol import Bundle, Job, Source

SIZES: Final = {"empty": 0, "20 KB": 20_000, "1 MB": 1_000_000}
WORKERS: Final = 8
_UDF: Final = "import fused\n@fused.udf(cache_max_age=0)\ndef udf(size: int = 0):\n    return 'x' * size\n"
_WAITS: Final = (
    "import fused, time\n@fused.udf\ndef udf(bounds: fused.types.Bounds):\n"
    "    time.sleep(0.05)\n    return None\n"
)
FILES: Final = {"city/text.py": _UDF, "city/waits.py": _WAITS}


def text(size: int) -> str:
    """What the UDF does, for the process pool."""
    return "x" * size


# -- over HTTP


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, str, int, float]]:
    """A server of its own: its address, the canvas's token, its process, and seconds until it was ready."""
    for name, source in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(source)
    access = Access(folder / ".tileserver")
    token = access.share("city").token
    access.close()
    command = [sys.executable, "-m", "tileserver", "serve", str(folder), "--port", "0", "--json"]
    started = time.perf_counter()
    with subprocess.Popen(
        [*command, "--workers", str(WORKERS)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            yield url, token, process.pid, time.perf_counter() - started
        finally:
            process.terminate()


@contextmanager
def peer() -> Iterator[str]:
    """A ``ProcessPoolExecutor`` behind the same HTTP server: no time limit, no sandbox, no encoding."""
    with ProcessPoolExecutor(WORKERS) as pool:

        async def run(request: Request) -> Response:
            loop = asyncio.get_running_loop()
            return Response(await loop.run_in_executor(pool, text, int(request.query_params["size"])))

        config = uvicorn.Config(Starlette(routes=[Route("/text", run)]), port=0, log_level="error")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            server.should_exit = True
            thread.join()


def fetch(url: str, path: str, count: int, body: int | None = None) -> list[float]:
    """Milliseconds of requests one after the other over one connection.

    :raises RuntimeError: for an answer of another length.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    times = []
    try:
        for _ in range(count):
            started = time.perf_counter()
            connection.request("GET", path)
            response = connection.getresponse()
            content = response.read()
            times.append(1000 * (time.perf_counter() - started))
            if response.status != 200 or (body is not None and len(content) != body):
                raise RuntimeError(f"{path}: {response.status}, {len(content)} bytes")
    finally:
        connection.close()
    return times


def rate(url: str, path: str, seconds: float, connections: int = 32) -> float:
    """Requests a second with this many outstanding."""
    end = time.perf_counter() + seconds

    def ask(_: int) -> int:
        count = 0
        while time.perf_counter() < end:
            count += len(fetch(url, path, 20))
        return count

    started = time.perf_counter()
    with ThreadPoolExecutor(connections) as threads:
        total = sum(threads.map(ask, range(connections)))
    return total / (time.perf_counter() - started)


def figures(times: list[float]) -> tuple[float, float]:
    """The median and the 99th percentile."""
    ordered = sorted(times)
    return percentile(ordered, 0.5), percentile(ordered, 0.99)


def processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def over_http(requests: int) -> Iterator[str]:
    """The rows of what a client sees."""
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder)) as (url, token, pid, ready),
        peer() as other,
    ):
        yield f"server ready after {ready:.2f} s"
        fetch(url, f"/{token}/text.html", 100)
        fetch(other, "/text?size=0", 100)
        yield "| over HTTP, uncached | p50 ms | p99 ms | process pool p50 | p99 | p50 of ours / its |"
        yield "| --- | --- | --- | --- | --- | --- |"
        for name, size in SIZES.items():
            mine, its = [], []
            for _ in range(5):  # in turn, so that the machine's moods meet both
                mine += fetch(url, f"/{token}/text.html?size={size}", requests // 5, size)
                its += fetch(other, f"/text?size={size}", requests // 5, size)
            (a, b), (c, d) = figures(mine), figures(its)
            yield f"| {name} | {a:.2f} | {b:.2f} | {c:.2f} | {d:.2f} | {a / c:.2f} |"
        ours, theirs = rate(url, f"/{token}/text.html", 4), rate(other, "/text?size=0", 4)
        yield f"32 outstanding: {ours:.0f} requests/s, process pool {theirs:.0f}/s"
        fetch(url, f"/{token}/waits/run/tiles/7/0/0.mvt", 1)
        yield f"48 tiles at once that wait 50 ms each: the last after {_view(url, token):.0f} ms"
        before = processor_seconds(pid)
        fetch(url, f"/{token}/text.html?size=20000", requests)
        used = 1000 * (processor_seconds(pid) - before) / requests
        yield f"processor time of the web process for each uncached 20 KB: {used:.2f} ms"


def _view(url: str, token: str) -> float:
    started = time.perf_counter()
    paths = [f"/{token}/waits/run/tiles/6/{n % 8}/{n // 8}.mvt" for n in range(48)]
    with ThreadPoolExecutor(48) as threads:
        list(threads.map(lambda path: fetch(url, path, 1), paths))
    return 1000 * (time.perf_counter() - started)


# -- the pool alone


def bundle(folder: Path, owner: str = "city") -> Bundle:
    (folder / owner).mkdir(exist_ok=True)
    loop = "@fused.udf\ndef udf():\n    while True: pass\n"
    rest = "import time\n@fused.udf\ndef udf():\n    time.sleep(2)\n"
    files = {"text.py": _UDF, "loop.py": loop, "rest.py": rest}
    udfs = {name: Source(f"{name}.py", "udf", {}, {}) for name in ("text", "loop", "rest")}
    return Bundle(owner, owner, owner, str(folder / owner), files, udfs, {})


def job(owner: str = "city", udf: str = "text", limit: float = 30.0, **arguments: Any) -> Job:
    return Job(owner, owner, udf, arguments, ("html",), "data", time_limit=limit)


async def alone(folder: Path, requests: int) -> list[str]:
    """The rows of what the server itself sees."""
    rows = []
    async with LocalPool(state_dir=folder / ".tileserver", workers=WORKERS) as pool:
        city = bundle(folder)
        await _timed(lambda: pool.run(job(), city), 200)
        for name, size in SIZES.items():
            p50, p99 = figures(await _timed(partial(pool.run, job(size=size), city), requests))
            rows.append(f"dispatch, {name}: p50 {p50:.2f} ms, p99 {p99:.2f} ms")
        started, count = time.perf_counter(), 8 * requests
        gate = asyncio.Semaphore(32)

        async def one() -> None:
            async with gate:
                await pool.run(job(), city)

        await asyncio.gather(*(one() for _ in range(count)))
        rows.append(f"32 outstanding: {count / (time.perf_counter() - started):.0f} calls/s")
        rows.append(await _forks(pool))
        rows.append(await _new_owners(pool, folder))
        rows.append(await _kill(pool, city))
    return rows


async def _timed(run: Callable[[], Any], count: int) -> list[float]:
    times = []
    for _ in range(count):
        started = time.perf_counter()
        await run()
        times.append(1000 * (time.perf_counter() - started))
    return times


async def _forks(pool: LocalPool) -> str:
    times = []
    for _ in range(20):
        started = time.perf_counter()
        child = await pool._zygote.fork()
        times.append(1000 * (time.perf_counter() - started))
        pool._zygote.kill(child.pid)
        for end in (child.channel, child.stdout, child.stderr):
            end.close()
    p50, p99 = figures(times)
    return f"a worker forked: p50 {p50:.1f} ms, p99 {p99:.1f} ms"


async def _new_owners(pool: LocalPool, folder: Path) -> str:
    times = []
    for number in range(20):
        owner = f"owner{number}"
        found = bundle(folder, owner)
        times += await _timed(partial(pool.run, job(owner), found), 1)
    p50, p99 = figures(times)
    return f"the first run of a new owner, its worker confined: p50 {p50:.1f} ms, p99 {p99:.1f} ms"


async def _kill(pool: LocalPool, city: Bundle) -> str:
    over, after = [], []
    for _ in range(5):
        started = time.perf_counter()
        try:
            await pool.run(job(udf="loop", limit=0.5), city)
        except UdfTimeout:
            over.append(1000 * (time.perf_counter() - started) - 500)
        after += await _timed(lambda: pool.run(job(), city), 1)
    return (
        f"killed and answered {max(over):.0f} ms after the limit at most; next run within {max(after):.0f} ms"
    )


async def memory(folder: Path) -> list[str]:
    """Proportional set size of workers that have each run once."""
    rows = []
    for count in (1, 8, 32):
        async with LocalPool(state_dir=folder / ".tileserver", workers=count) as pool:
            found = bundle(folder)
            runs = asyncio.gather(*(pool.run(job(udf="rest"), found) for _ in range(count)))
            pids: list[int] = []
            while len(pids) < count and not runs.done():
                await asyncio.sleep(0.1)
                pids = [worker.child.pid for worker in pool._workers.values() if worker.busy]
            await asyncio.sleep(0.5)
            total = sum(map(_pss, pids))
            await runs
        rows.append(
            f"memory of {len(pids)} workers: {total / 2**20:.0f} MiB, {total / len(pids) / 2**20:.1f} each"
        )
    return rows


def _pss(pid: int) -> int:
    facts: Mapping[str, str] = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()[1:]
    )
    return int(facts["Pss"].split()[0]) * 1024


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=1000, help="of each size")
    chosen = parser.parse_args()
    for row in over_http(chosen.requests):
        print(row, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for row in asyncio.run(alone(Path(folder), chosen.requests)):
            print(f"pool: {row}", flush=True)
        for row in asyncio.run(memory(Path(folder))):
            print(row, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
