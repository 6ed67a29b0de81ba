"""What a server counts of itself, and its form for Prometheus (text format 0.0.4).

Labels come from the lists below and from nowhere else: however many canvases, UDFs, tokens and addresses
there are, the number of series stays the same. What is counted is a place in one table (see ``counts``), so
that counting a request costs less than a microsecond.
"""

from __future__ import annotations

import hashlib
import os
import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from tileserver import __version__
from tileserver.counts import Counts, Table
from tileserver.errors import Overloaded, TileServerError, UdfError, UdfKilled, UdfTimeout
from tileserver.executor import Answers, Executor
from tileserver.interest import Interest
from tileserver.protocol import Bundle, Encoded, Job

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

ROUTES: Final = (
    *("tile", "run", "tilejson", "style", "legend", "wmts", "openapi", "map", "canvas", "home", "static"),
    *("posted", "get_run", "saved", "platform", "healthz", "readyz", "metrics", "other"),
)
CLASSES: Final = (1, 2, 3, 4, 5)
OUTCOMES: Final = ("none", "hit", "miss", "shared", "stale")
RUNS: Final = ("ok", "failed", "timeout", "killed", "refused", "overloaded", "abandoned")
SECONDS: Final = (
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    120.0,
)
_RETIRED: Final = ("runs", "environment", "room", "children", "memory", "threads", "descriptors", "other")
_KILLED: Final = ("memory", "scratch", "other")

_TIMES: Final = len(SECONDS) + 2  # numbers of a histogram: the sum, each bucket, and what is beyond
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class _Place(NamedTuple):
    """Where a request is counted."""

    answers: int
    times: int
    sent: int


class _Layout:
    """Where each number stands in the table."""

    def __init__(self) -> None:
        self.size = 0
        self.requests = {
            (route, status, outcome): self._take(1)
            for route in ROUTES
            for status in CLASSES
            for outcome in OUTCOMES
        }
        self.times = {(route, outcome): self._take(_TIMES) for route in ROUTES for outcome in OUTCOMES}
        self.sent = {route: self._take(1) for route in ROUTES}
        self.runs = {outcome: self._take(1) for outcome in RUNS}
        self.queue, self.run = self._take(_TIMES), self._take(_TIMES)
        self.places: dict[tuple[str, int, str | None], _Place] = {
            (route, status, None if outcome == "none" else outcome): _Place(
                answers, self.times[route, outcome], self.sent[route]
            )
            for (route, status, outcome), answers in self.requests.items()
        }
        words = repr((ROUTES, CLASSES, OUTCOMES, RUNS, SECONDS)).encode()
        self.digest = int.from_bytes(hashlib.blake2b(words, digest_size=6).digest(), "big")

    def _take(self, count: int) -> int:
        self.size += count
        return self.size - count


_LAYOUT: Final = _Layout()


class Metrics:
    """The counts of this process, and with them those of the server's others. Used from one event loop."""

    def __init__(self) -> None:
        self._counts = Counts(_LAYOUT.size, _LAYOUT.digest)
        self._places = _LAYOUT.places

    def open(self, folder: Path) -> None:
        """Share what is counted with the processes that count in this folder."""
        self._counts.open(folder)

    def close(self) -> None:
        self._counts.close()

    def observe_request(self, route: str, status: int, cache: str | None, seconds: float, size: int) -> None:
        """Count an answer: its route's name in the log, its status, what the cache said of it (None where it
        wasn't asked), how long it took and how many bytes of body were sent."""
        place = self._places.get((route, status // 100, cache))
        if place is None:
            place = _nearest(route, status, cache)
        values = self._counts.values
        values[place.answers] += 1
        values[place.times] += seconds
        values[place.times + 1 + bisect_left(SECONDS, seconds)] += 1
        values[place.sent] += size

    def observe_run(self, outcome: str, queued: float | None = None, took: float | None = None) -> None:
        """Count a run: how it ended, and where they are known, how many seconds it waited and ran."""
        values = self._counts.values
        values[_LAYOUT.runs[outcome]] += 1
        for place, seconds in ((_LAYOUT.queue, queued), (_LAYOUT.run, took)):
            if seconds is not None:
                values[place] += seconds
                values[place + 1 + bisect_left(SECONDS, seconds)] += 1

    def text(self, workers: Mapping[str, Any]) -> str:
        """All of it for Prometheus; ``workers`` are the executor's ``stats``."""
        tables = self._counts.tables()
        total = [sum(values) for values in zip(*(table.values for table in tables), strict=True)]
        lines = [*_counted(total), *_of_workers(workers), *_of_processes(tables)]
        return "\n".join(lines) + "\n"


def _nearest(route: str, status: int, cache: str | None) -> _Place:
    """The place of what no list has."""
    return _LAYOUT.places[
        route if route in ROUTES else "other",
        min(max(status // 100, CLASSES[0]), CLASSES[-1]),
        cache if cache in OUTCOMES[1:] else None,
    ]


class Measured:
    """An executor whose runs are counted."""

    def __init__(self, executor: Executor, metrics: Metrics) -> None:
        self._executor = executor
        self._metrics = metrics

    async def run(
        self, job: Job, bundle: Bundle, answers: Answers | None = None, interest: Interest | None = None
    ) -> Encoded:
        """See ``Executor.run``."""
        started, outcome = time.monotonic(), "abandoned"
        queued = took = None
        try:
            encoded = await self._executor.run(job, bundle, answers, interest)
            outcome, queued = "ok", encoded.meta.get("queue_ms", 0.0) / 1000
            took = time.monotonic() - started - queued
            return encoded
        except TileServerError as error:
            outcome = _outcome(error)
            if outcome == "overloaded":
                queued = time.monotonic() - started
            raise
        finally:
            self._metrics.observe_run(outcome, queued, took)

    def stats(self) -> dict[str, Any]:
        return self._executor.stats()

    @property
    def ready(self) -> bool:
        return self._executor.ready

    @property
    def level(self) -> str:
        return self._executor.level

    async def __aenter__(self) -> Self:
        await self._executor.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._executor.__aexit__(kind, error, trace)


def _outcome(error: TileServerError) -> str:
    for kind, outcome in (
        (UdfTimeout, "timeout"),
        (UdfKilled, "killed"),
        (UdfError, "failed"),
        (Overloaded, "overloaded"),
    ):
        if isinstance(error, kind):
            return outcome
    return "refused"


# -- the text


def _counted(total: Sequence[float]) -> Iterator[str]:
    yield from _head("info", "gauge", "The server's version.")
    yield _sample("info", {"version": __version__}, 1)
    yield from _head("requests_total", "counter", "Answers by route, class of status and cache outcome.")
    for (route, status, outcome), place in _LAYOUT.requests.items():
        if total[place]:
            labels = {"route": route, "status": f"{status}xx", "cache": outcome}
            yield _sample("requests_total", labels, total[place])
    yield from _head("request_seconds", "histogram", "Time from a request to the start of its answer.")
    for (route, outcome), place in _LAYOUT.times.items():
        yield from _histogram("request_seconds", {"route": route, "cache": outcome}, total, place)
    yield from _head("sent_bytes_total", "counter", "Bytes of bodies sent.")
    for route, place in _LAYOUT.sent.items():
        if total[place]:
            yield _sample("sent_bytes_total", {"route": route}, total[place])
    yield from _head("runs_total", "counter", "Runs of UDFs by how they ended.")
    for outcome, place in _LAYOUT.runs.items():
        yield _sample("runs_total", {"outcome": outcome}, total[place])
    yield from _head("queue_seconds", "histogram", "Time that runs waited for a worker.")
    yield from _histogram("queue_seconds", {}, total, _LAYOUT.queue, empty=True)
    yield from _head("run_seconds", "histogram", "Time in their worker of runs that gave a result.")
    yield from _histogram("run_seconds", {}, total, _LAYOUT.run, empty=True)


def _histogram(
    name: str, labels: Mapping[str, str], total: Sequence[float], place: int, *, empty: bool = False
) -> Iterator[str]:
    numbers = total[place + 1 : place + _TIMES]
    if not (empty or any(numbers)):
        return
    below = 0.0
    for limit, number in zip((*map(repr, SECONDS), "+Inf"), numbers, strict=True):
        below += number
        yield _sample(f"{name}_bucket", {**labels, "le": limit}, below)
    yield _sample(f"{name}_sum", labels, total[place])
    yield _sample(f"{name}_count", labels, below)


def _of_workers(stats: Mapping[str, Any]) -> Iterator[str]:
    workers, busy = stats.get("workers", 0), stats.get("busy", 0)
    yield from _head("workers", "gauge", "Worker processes of this server.")
    yield _sample("workers", {"state": "busy"}, busy)
    yield _sample("workers", {"state": "idle"}, workers - busy)
    yield from _head("queued_runs", "gauge", "Runs that wait for a worker.")
    yield _sample("queued_runs", {}, stats.get("queued", 0))
    for name, reasons, text in (
        ("retired", _RETIRED, "Workers that were replaced between runs, by reason."),
        ("killed", _KILLED, "Workers that ended in the middle of a run, by what they used too much of."),
    ):
        yield from _head(f"workers_{name}_total", "counter", text)
        found = {reason: stats.get(f"{name}_{reason}", 0) for reason in reasons[:-1]}
        found["other"] = max(0, stats.get(name, 0) - sum(found.values()))
        for reason, count in found.items():
            yield _sample(f"workers_{name}_total", {"reason": reason}, count)


def _of_processes(tables: Iterable[Table]) -> Iterator[str]:
    """The web processes that live, by the number of the file that they count in."""
    found = {str(table.number): _process(table) for table in tables if table.pid is not None}
    for name, kind, text in (
        ("cpu_seconds_total", "counter", "Processor time of a web process."),
        ("resident_bytes", "gauge", "Memory of a web process."),
        ("open_fds", "gauge", "Open descriptors of a web process."),
        ("start_time_seconds", "gauge", "When a web process began, in seconds of the epoch."),
    ):
        yield from _head(f"web_process_{name}", kind, text)
        for number, facts in found.items():
            if name in facts:
                yield _sample(f"web_process_{name}", {"process": number}, facts[name])


def _process(table: Table) -> dict[str, float]:
    place = Path(f"/proc/{table.pid}")
    try:
        fields = (place / "stat").read_text("utf-8", errors="replace").rpartition(")")[2].split()
        return {
            "cpu_seconds_total": (int(fields[11]) + int(fields[12])) / _TICKS,
            "resident_bytes": int(fields[21]) * _PAGE,
            "open_fds": len(os.listdir(place / "fd")),
            "start_time_seconds": table.since,
        }
    except (OSError, ValueError, IndexError):  # it has just ended, or this system has no such files
        return {"start_time_seconds": table.since}


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP tileserver_{name} {text}"
    yield f"# TYPE tileserver_{name} {kind}"


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    """One line. Labels are words of the lists above and the version: none needs escaping."""
    shown = ",".join(f'{label}="{text}"' for label, text in labels.items())
    number = int(value) if float(value).is_integer() else value
    return f"tileserver_{name}{{{shown}}} {number}" if shown else f"tileserver_{name} {number}"
