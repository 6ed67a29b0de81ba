"""Whether a tile gets dearer with what there is besides it: ``python -m benchmarks.serve --scaling``.

Servers of the same UDF, alone and in a large workspace, take turns: processor time of the web process for a
stored tile and for a run, and what a client sees. The tier in memory is off, so that each stored tile is read
from disk.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.dispatch import processor_seconds
from benchmarks.serve import get
from tileserver.access import Access
from tileserver.cache.disk import DiskTier
from tileserver.cache.record import Stored
from tileserver.protocol import Encoded

GROWTH: Final = 1.25  # of the processor time; what is beyond it has grown
_UDF: Final = "import fused\n@fused.udf\ndef udf({}bounds: list = None):\n    return 'x' * 100\n"

# Starts a server of a workspace with flags: its address and its process.
Serve = Callable[..., AbstractContextManager[tuple[str, int]]]


@dataclass(frozen=True)
class Size:
    """How much of something there is: canvases, UDFs in the canvas, parameters, stored results."""

    name: str
    canvases: int = 1
    udfs: int = 1
    parameters: int = 1
    entries: int = 0


def sizes(entries: int) -> list[Size]:
    return [
        Size("alone"),
        Size("1,000 canvases", canvases=1000),
        Size("1,000 UDFs in the canvas", udfs=1000),
        Size("50 parameters", parameters=50),
        Size(f"{entries:,} stored tiles", entries=entries),
    ]


def workspace(folder: Path, size: Size) -> str:
    """Make one; the token of the canvas that is asked."""
    for number in range(size.canvases):
        canvas = folder / ("city" if number == 0 else f"other{number}")
        canvas.mkdir(parents=True)
        (canvas / "tile.py").write_text(_UDF.format(_parameters(size)))
    for number in range(1, size.udfs):
        (folder / "city" / f"other{number}.py").write_text(_UDF.format(""))
    access = Access(folder / ".tileserver")
    token = access.share("city").token
    access.close()
    fill(folder / ".tileserver" / "cache", size.entries)
    return token


def _parameters(size: Size) -> str:
    return "".join(f"p{number}: int = 1, " for number in range(size.parameters))


def fill(folder: Path, entries: int) -> None:
    """Store results of 100 bytes, which nobody asks for."""
    if not entries:
        return
    tier = DiskTier(folder, 2**34)
    for number in range(entries):
        encoded = Encoded(b"x" * 100, "text/html", time.time(), {})
        tier.set(Stored(f"0000-{number:040x}.9/{number}/0", encoded, f'"{number:032x}"'))
        while number % 1000 == 0 and tier.stats()["entries"] < number - 10_000:
            time.sleep(0.05)  # what can't be written in time would be dropped
    tier.close()


def query(size: Size) -> str:
    return "&".join(f"p{number}=2" for number in range(size.parameters))


@dataclass
class Place:
    """A server and what it took so far: microseconds of processor, milliseconds that a client waited."""

    size: Size
    url: str
    token: str
    pid: int
    stored: list[float]
    made: list[float]
    waited: list[float]

    def tile(self, x: int, y: int = 0) -> str:
        return f"/{self.token}/tile/run/tiles/16/{x}/{y}.html?{query(self.size)}"

    def ask(self, paths: list[str]) -> float:
        """Milliseconds of a request, one after the other."""
        started = time.perf_counter()
        for _ in get(self.url, paths):
            pass
        return 1000 * (time.perf_counter() - started) / len(paths)

    def measure(self, turn: int, count: int) -> None:
        before = processor_seconds(self.pid)
        self.waited.append(self.ask([self.tile(0)] * count))
        between = processor_seconds(self.pid)
        misses = count // 10
        self.ask([self.tile(1 + number, turn) for number in range(misses)])
        self.stored.append(1e6 * (between - before) / count)
        self.made.append(1e6 * (processor_seconds(self.pid) - between) / misses)


def rows(chosen: argparse.Namespace, serve: Serve) -> Iterator[str]:
    """The table, whose last column says what has grown."""
    with ExitStack() as started, tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        places = []
        for size in sizes(chosen.entries):
            root = Path(folder) / size.name.replace(" ", "-")
            token = workspace(root, size)
            url, pid = started.enter_context(serve(root, "--memory-cache", "0", "--workers", "1"))
            places.append(Place(size, url, token, pid, [], [], []))
            places[-1].ask([places[-1].tile(0)] * 20)
        for turn in range(chosen.rounds):
            for place in places:
                place.measure(turn + 1, chosen.requests)
        alone = places[0]
        yield "| what there is | stored: processor us | ms | run: processor us | grown |"
        yield "| --- | --- | --- | --- | --- |"
        for place in places:
            stored, made = statistics.median(place.stored), statistics.median(place.made)
            grown = [
                name
                for name, now, then in (("stored", stored, alone.stored), ("run", made, alone.made))
                if now > GROWTH * statistics.median(then)
            ]
            yield (
                f"| {place.size.name} | {stored:.0f} | {statistics.median(place.waited):.2f} | {made:.0f} |"
                f" {', '.join(grown)} |"
            )
