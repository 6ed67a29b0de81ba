"""Whether the server keeps its promises while its processes are killed: ``python -m benchmarks.soak``.

Starts a server of two web processes, and asks it for tiles that are stored, tiles that are not and things
that fail; some clients leave before they are answered. Meanwhile the UDF is edited, and workers and web
processes are killed at random. Each tile says which one it is and of which revision, to the last byte.
Prints what was done; exit status 1 when anything was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from benchmarks.processes import children, descriptors, memory, tree, wait_for
from benchmarks.refusals import percentile
from tileserver.access import Access

SEEN_WITHIN: Final = 1.0  # seconds from an edit until nobody gets the code before it
EXCUSED: Final = 2.0  # seconds within which a client notices that the process of its connection was killed
CLIENTS: Final = 8
WORKERS: Final = 3
TIMEOUT: Final = 30.0
MIB: Final = 2**20

_UDF: Final = """import hashlib
import fused

REVISION = {revision}

@fused.udf
def udf(x: int, y: int, z: int, n: int = 0):
    if n < 0:
        raise ValueError("not this one")
    tile = f"{{REVISION}} {{z}}/{{x}}/{{y}} {{n}}"
    return tile + "\\n" + hashlib.sha256(tile.encode()).hexdigest() * 300
"""
# Kinds of requests, and how often each is made.
_KINDS: Final = {
    "hit": 55,
    "miss": 20,
    "head": 5,
    "range": 5,
    "unchanged": 5,
    "fails": 4,
    "unknown": 3,
    "leaves": 3,
}


class Tile(NamedTuple):
    z: int
    x: int
    y: int
    n: int

    def body(self, revision: int) -> bytes:
        """What the UDF of this revision makes of it."""
        text = f"{revision} {self.z}/{self.x}/{self.y} {self.n}"
        return f"{text}\n{hashlib.sha256(text.encode()).hexdigest() * 300}".encode()

    def path(self, token: str) -> str:
        return f"/{token}/tile/run/tiles/{self.z}/{self.x}/{self.y}?format=html&n={self.n}"


class Use(NamedTuple):
    """What a server and all its processes take: bytes, open files, processes."""

    memory: int
    descriptors: int
    processes: int

    @classmethod
    def of(cls, pid: int) -> Use:
        pids = tree(pid)
        return cls(sum(map(memory, pids)), sum(map(descriptors, pids)), len(pids))


_NOTHING: Final = Use(0, 0, 0)


class Answer(NamedTuple):
    """Names of headers are in lower case. Of a request whose client has left, the status is 0."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(slots=True)
class Report:
    """What was asked, and what was wrong."""

    times: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    events: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    before: Use = _NOTHING
    after: Use = _NOTHING

    def table(self) -> str:
        lines = [
            "| request   | number | p50 ms | p99 ms |  max ms |",
            "| --------- | ------ | ------ | ------ | ------- |",
        ]
        for kind in _KINDS:
            times = sorted(self.times[kind]) or [0.0]
            figures = f"{percentile(times, 0.5):6.2f} | {percentile(times, 0.99):6.1f} | {times[-1]:7.1f}"
            lines.append(f"| {kind:<9} | {len(self.times[kind]):6d} | {figures} |")
        events = ", ".join(f"{name} {count}" for name, count in sorted(self.events.items()))
        uses = [
            f"{u.memory / MIB:.0f} MiB, {u.descriptors} open files, {u.processes} processes"
            for u in (self.before, self.after)
        ]
        return "\n".join([*lines, "", events, f"after warming up: {uses[0]}", f"at the end:       {uses[1]}"])


class Lost(Exception):
    """The connection has ended before the answer has."""


class Client:
    """A connection at a time, kept as long as it lasts."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.since = 0.0

    async def ask(self, method: str, path: str, headers: Mapping[str, str], *, leave: bool = False) -> Answer:
        """Status, headers and body; with ``leave``, go away before they come.

        :raises Lost: when the server has closed the connection instead.
        :raises OSError: when there is none to be had.
        """
        if self._streams is None:
            self.since = time.monotonic()
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: {self._host}",
            *(f"{n}: {v}" for n, v in headers.items()),
            "",
            "",
        ]
        try:
            writer.write("\r\n".join(lines).encode())
            if leave:
                await writer.drain()
                await asyncio.sleep(0.005)
                self.close()
                return Answer(0, {}, b"")
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
            found = dict(line.split(": ", 1) for line in head[1:] if line)
            status = int(head[0].split()[1])
            length = 0 if method == "HEAD" or status == 304 else int(found["content-length"])
            body = await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError) as error:
            self.close()
            raise Lost(str(error)) from None
        if found.get("connection") == "close":
            self.close()
        return Answer(status, found, body)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class Soak:
    """Clients, an editor and a killer, at one server."""

    def __init__(self, workspace: Path, url: str, token: str, pid: int, *, seed: int) -> None:
        self.report = Report()
        self._workspace = workspace
        self._url = url
        self._token = token
        self._pid = pid
        self._random = random.Random(seed)
        self._edits: list[float] = [time.monotonic()]  # when each revision was there, from 0
        self._web_kills: list[float] = []
        self._worker_kills: list[float] = []
        self._etags: dict[tuple[Tile, str], int] = {}
        self._numbers = 1000

    async def run(self, seconds: float) -> None:
        """Warm up for a fifth of the time, then kill; web processes not in the last fifth, so that what those
        that came last leave behind is there to be counted."""
        await self._phase(seconds / 5, kills=())
        self.report.before = await self._use()
        await self._phase(seconds * 3 / 5, kills=("worker", "web"))
        await self._phase(seconds / 5, kills=("worker",))
        self.report.after = await self._use()
        self._judge_growth()

    async def _phase(self, seconds: float, *, kills: tuple[str, ...]) -> None:
        end = time.monotonic() + seconds
        tasks = [self._client(end) for _ in range(CLIENTS)]
        await asyncio.gather(*tasks, self._edit(end), self._kill(end, kills))

    # -- clients

    async def _client(self, end: float) -> None:
        client = Client(self._url)
        try:
            while time.monotonic() < end:
                kind = self._random.choices(list(_KINDS), list(_KINDS.values()))[0]
                await self._request(client, kind)
                if self._random.random() < 0.02:
                    client.close()
        finally:
            client.close()

    async def _request(self, client: Client, kind: str) -> None:
        tile, method, headers = self._tile(kind), "HEAD" if kind == "head" else "GET", {}
        path = tile.path("fc_nobody" if kind == "unknown" else self._token)
        etag = None
        if kind == "range":
            headers["range"] = "bytes=0-99"
        if kind == "unchanged":
            known = [found for of, found in self._etags if of == tile]
            etag = headers["if-none-match"] = known[-1] if known else '"none"'
        started = time.monotonic()
        try:
            answer = await asyncio.wait_for(
                client.ask(method, path, headers, leave=kind == "leaves"), TIMEOUT
            )
        except TimeoutError:
            client.close()
            self._problem(f"{kind}: no answer in {TIMEOUT:g} s")
        except Lost:
            self._lost(kind, client.since)
        except OSError as error:
            self._problem(f"{kind}: no connection: {error}")
        else:
            self.report.times[kind].append(1000 * (time.monotonic() - started))
            self._judge(kind, tile, etag, answer, started)

    def _tile(self, kind: str) -> Tile:
        z = self._random.randrange(2, 5)
        x, y = self._random.randrange(4), self._random.randrange(4)
        if kind in {"miss", "leaves"}:
            self._numbers += 1
            return Tile(z, x, y, self._numbers)
        return Tile(z, x, y, -1 - self._random.randrange(9) if kind == "fails" else 0)

    # -- what is right

    def _judge(
        self,
        kind: str,
        tile: Tile,
        etag: str | None,
        answer: Answer,
        started: float,
    ) -> None:
        status, headers, body = answer
        expected = {"range": {206}, "unchanged": {200, 304}, "fails": {422}, "unknown": {404}, "leaves": {0}}
        if status not in expected.get(kind, {200}):
            # A run whose worker was killed fails, as one does whose worker has died of something else.
            killed = any(started <= at <= time.monotonic() for at in (*self._worker_kills, *self._web_kills))
            if status == 422 and killed and b"SIGKILL" in body:
                self.report.events["runs lost with their worker"] += 1
            else:
                self._problem(f"{kind}: status {status}: {body[:200]!r}")
            return
        if kind in {"fails", "unknown", "leaves"}:
            return
        revision = self._revision(kind, tile, etag, answer)
        if revision is None:
            self._problem(f"{kind}: wrong bytes for {tile}: {status} {body[:100]!r}, {len(body)} bytes")
            return
        self._etags[tile, headers["etag"]] = revision
        newest = max(n for n, at in enumerate(self._edits) if n == 0 or at + SEEN_WITHIN <= started)
        if revision < newest:
            self._problem(f"{kind}: {tile} of revision {revision}, when {newest} was to be seen")

    def _revision(self, kind: str, tile: Tile, etag: str | None, answer: Answer) -> int | None:
        """The revision whose bytes these are, all of them; None when they are of none."""
        status, headers, body = answer
        if status == 304:
            return self._etags.get((tile, etag or ""))
        for revision in range(len(self._edits) - 1, -1, -1):
            whole = tile.body(revision)
            if kind == "head":
                known = self._etags.get((tile, headers["etag"]), revision)
                return known if headers["content-length"] == str(len(tile.body(known))) else None
            if body == (whole[:100] if kind == "range" else whole):
                return revision
        return None

    def _lost(self, kind: str, since: float) -> None:
        """A connection may end with its process."""
        now = time.monotonic()
        if any(since <= at and now - at < EXCUSED for at in self._web_kills):
            self.report.events["connections lost with their process"] += 1
        else:
            self._problem(f"{kind}: the connection was closed")

    def _problem(self, text: str) -> None:
        self.report.problems.append(f"{time.strftime('%H:%M:%S')} {text}")

    # -- what is done to it

    async def _edit(self, end: float) -> None:
        while (pause := self._random.uniform(0.5, 3)) + time.monotonic() < end:
            await asyncio.sleep(pause)
            write_udf(self._workspace, len(self._edits))
            self._edits.append(time.monotonic())
            self.report.events["edits"] += 1

    async def _kill(self, end: float, kinds: tuple[str, ...]) -> None:
        while kinds and (pause := self._random.uniform(0.5, 3)) + time.monotonic() < end:
            await asyncio.sleep(pause)
            kind = self._random.choice(kinds)
            web = children(self._pid)
            pids = (
                web
                if kind == "web"
                else [pid for one in web for zygote in children(one) for pid in children(zygote)]
            )
            if not pids:
                continue
            pid = self._random.choice(pids)
            (self._web_kills if kind == "web" else self._worker_kills).append(time.monotonic())
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                name = kind if kind == "worker" else "owner" if children(pid) else "relay"
                self.report.events[f"{name} killed"] += 1

    # -- what it takes

    async def _use(self) -> Use:
        """What the server takes when it has come to rest: with all its processes, and with idle connections
        closed."""
        await asyncio.to_thread(wait_for, lambda: len(tree(self._pid)) >= 4 + WORKERS, 60)
        uses = []
        for _ in range(5):
            await asyncio.sleep(0.2)
            uses.append(Use.of(self._pid))
        return Use(*(min(values) for values in zip(*uses, strict=True)))

    def _judge_growth(self) -> None:
        before, after = self.report.before, self.report.after
        if after.processes > before.processes:
            self._problem(f"processes grew from {before.processes} to {after.processes}")
        if after.descriptors > before.descriptors + 2 * CLIENTS:  # between web processes, both ends
            self._problem(f"open files grew from {before.descriptors} to {after.descriptors}")
        if after.memory > 1.2 * before.memory + 32 * MIB:
            self._problem(f"memory grew from {before.memory // MIB} to {after.memory // MIB} MiB")


def write_udf(workspace: Path, revision: int) -> None:
    """Put a revision in the place of the one before, whole."""
    draft = workspace / "draft"
    draft.write_text(_UDF.format(revision=revision))
    draft.replace(workspace / "soak/tile.py")


@contextmanager
def serving(workspace: Path) -> Iterator[tuple[str, str, subprocess.Popen[str]]]:
    """A server of two web processes: its address, the canvas's token, and its supervisor. Its log is kept in
    the workspace."""
    (workspace / "soak").mkdir(parents=True)
    write_udf(workspace, 0)
    access = Access(workspace / ".tileserver")
    token = access.share("soak").token
    access.close()
    flags = (
        "--http-workers",
        "2",
        "--workers",
        str(WORKERS),
        "--memory-cache",
        "8MiB",
        "--port",
        "0",
        "--json",
    )
    command = [sys.executable, "-m", "tileserver", "serve", str(workspace), *flags]
    with (
        (workspace / "log").open("w") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["url"], token, process
        finally:
            process.terminate()


def soak(workspace: Path, seconds: float, *, seed: int = 1) -> Report:
    """Treat a server like that; what was wrong is in the report."""
    with serving(workspace) as (url, token, process):
        work = Soak(workspace, url, token, process.pid, seed=seed)
        asyncio.run(work.run(seconds))
    if process.returncode != 0:
        work.report.problems.append(f"the server ended with status {process.returncode}")
    faults = [
        line
        for line in (workspace / "log").read_text().splitlines()
        if "exception" in line or "Traceback" in line
    ]
    work.report.problems += [f"the log has {line[:300]}" for line in faults[:5]]
    return work.report


def main() -> int:
    """Soak, print, judge."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of what is done and when")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = soak(Path(folder), chosen.seconds, seed=chosen.seed)
    print(report.table())
    for problem in report.problems[:20]:
        print(problem)
    print(f"{len(report.problems)} problems (seed {chosen.seed})")
    return int(bool(report.problems))


if __name__ == "__main__":
    sys.exit(main())
