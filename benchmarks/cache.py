"""What the disk cache costs with a thousand entries and with a million: ``python -m benchmarks.cache``.

Fills a folder with small results of tiles, opens it again, and measures looking up, storing, purging and
making room; beside it diskcache with its own defaults, which stores the body alone, without checksum, type or
age. Exit status 1 when a look-up in the larger cache costs more than four times one in the smaller, or its
opening more than a tenth of a second.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import diskcache

from benchmarks.refusals import percentile
from tileserver.cache.database import Database, Write
from tileserver.cache.disk import DiskTier
from tileserver.cache.label import Label, Rule
from tileserver.cache.record import Records, Stored
from tileserver.protocol import Encoded

ZOOM: Final = 12  # its tiles are enough for 16 million entries
SECRET: Final = b"benchmark"
BOUND: Final = 4.0  # times
OPENING: Final = 1e5  # microseconds
_ROOM: Final = 100 * 2**30


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one store; times are microseconds, rates per second, and -1 is what was not measured."""

    entries: int
    fill: float
    opened: float
    get50: float
    get99: float
    set50: float
    set99: float
    written: float
    purge: float
    evicted: float
    get99_meanwhile: float
    waited: float
    size: int


def stored(number: int, body: bytes) -> Stored:
    """The result of a tile; each thousand of them has an argument of its own."""
    tile = (ZOOM, number % 2**ZOOM, number // 2**ZOOM)
    label = Label("city", "buildings", "r1", tile, (f"{number // 1000:016x}",))
    meta = {"stdout": "", "stderr": "", "run_ms": 1.0, "queue_ms": 0.1}
    return Stored(
        f"{number:040x}", Encoded(body, "image/png", time.time(), meta), '"0123456789abcdef"', label
    )


def ours(folder: Path, entries: int, size: int, samples: int) -> Figures:
    """The figures of this server's tier on disk."""
    body = os.urandom(size)
    database = Database.make(folder, wait=10)
    fill = _timed(lambda: _fill(database, entries, body))
    database.close()
    gc.collect()
    started = time.perf_counter()
    tier = DiskTier(folder, _ROOM, SECRET)
    found = tier.get(f"{0:040x}")
    opened = 1e6 * (time.perf_counter() - started)
    assert found is not None and found.encoded.body == body
    gets = _each(tier.get, _asked(entries, samples))
    fresh = [stored(entries + number, body) for number in range(samples)]
    started = time.perf_counter()
    sets = _each(tier.set, fresh)
    tier.close()
    written = samples / (time.perf_counter() - started)

    database = Database.make(folder, wait=10)
    purge = _timed(
        lambda: _expect(database.purge(Rule("city", "buildings", ((f"{0:016x}",),))), min(entries, 1000))
    )
    keys = [f"{random.randrange(entries):040x}" for _ in range(samples)]
    meanwhile = _gets_while_writing(folder, database, body, keys, samples)
    counts = database.counts()
    started = time.perf_counter()
    evicted = database.trim(int(0.8 * counts.bytes)) / (time.perf_counter() - started)
    database.close()
    return Figures(
        entries, entries / fill, opened, *gets, *sets, written, 1e6 * purge, evicted, *meanwhile, counts.size
    )


def _asked(entries: int, samples: int) -> list[str]:
    """Keys, each once: what hasn't been asked for lately, of a small store as of a large one."""
    return [f"{number:040x}" for number in random.sample(range(entries), min(samples, entries))]


def _fill(database: Database, entries: int, body: bytes) -> None:
    records = Records(SECRET)
    for start in range(0, entries, 1000):
        results = [stored(number, body) for number in range(start, min(start + 1000, entries))]
        database.put([Write(one, records.to_bytes(one), 0) for one in results])


def _gets_while_writing(
    folder: Path, database: Database, body: bytes, keys: Sequence[str], samples: int
) -> tuple[float, float]:
    """While results are stored, and others make room for them, as fast as that goes: the 99th percentile of a
    look-up, and the longest that one was kept waiting by anything but the shortage of processors (the log of
    the scheduler tells them apart), in microseconds."""
    limit = database.counts().bytes
    tier = DiskTier(folder, limit + limit // 8, SECRET)  # it keeps an eighth for the log and for what comes
    fresh = [stored(10**7 + number, body) for number in range(samples)]
    times, waits = [], []
    with Path("/proc/thread-self/schedstat").open("rb", buffering=0) as schedule:
        for key, one in zip(keys, fresh, strict=True):
            tier.set(one)
            ready, busy, started = _ready(schedule), time.thread_time(), time.perf_counter()
            tier.get(key)
            took = time.perf_counter() - started
            times.append(1e6 * took)
            waits.append(1e6 * (took - (time.thread_time() - busy)) - (_ready(schedule) - ready) / 1000)
    tier.close()
    return percentile(sorted(times), 0.99), max(waits)


def _ready(schedule: IO[bytes]) -> int:
    """How long (nanoseconds) this thread has waited for a processor so far."""
    schedule.seek(0)
    return int(schedule.read(100).split()[1])


def theirs(folder: Path, entries: int, size: int, samples: int) -> Figures:
    """The figures of diskcache; a tag for each thousand, with its index, is what it can purge by."""
    body = os.urandom(size)
    options: dict[str, Any] = {"size_limit": _ROOM, "tag_index": True}
    cache = diskcache.Cache(str(folder), **options)

    def fill() -> None:
        for start in range(0, entries, 1000):
            with cache.transact():
                for number in range(start, min(start + 1000, entries)):
                    cache.set(f"{number:040x}", body, tag=str(number // 1000))

    filled = _timed(fill)
    cache.close()
    gc.collect()
    started = time.perf_counter()
    cache = diskcache.Cache(str(folder), **options)
    assert cache.get(f"{0:040x}") == body
    opened = 1e6 * (time.perf_counter() - started)
    gets = _each(cache.get, _asked(entries, samples))
    started = time.perf_counter()
    sets = _each(
        lambda number: cache.set(f"{number:040x}", body, tag="new"), range(entries, entries + samples)
    )
    written = samples / (time.perf_counter() - started)
    purge = _timed(lambda: _expect(cache.evict("0"), min(entries, 1000)))
    size_on_disk = cache.volume()
    cache.reset("size_limit", int(0.8 * size_on_disk))
    before = len(cache)
    started = time.perf_counter()
    with suppress(diskcache.Timeout):
        cache.cull()
    evicted = (before - len(cache)) / (time.perf_counter() - started)
    cache.close()
    return Figures(
        entries, entries / filled, opened, *gets, *sets, written, 1e6 * purge, evicted, -1, -1, size_on_disk
    )


def _timed(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def _expect(count: int, wanted: int) -> None:
    if count != wanted:
        raise RuntimeError(f"{count} results were purged, not {wanted}")


def _each(act: Callable[[Any], object], values: Sequence[Any]) -> tuple[float, float]:
    """Microseconds of each call, the median and the 99th percentile."""
    times = []
    for value in values:
        started = time.perf_counter()
        act(value)
        times.append(1e6 * (time.perf_counter() - started))
    times.sort()
    return percentile(times, 0.5), percentile(times, 0.99)


_ROWS: Final[Sequence[tuple[str, Callable[[Figures], float]]]] = (
    ("opened and one looked up, ms", lambda one: one.opened / 1000),
    ("get p50, us", lambda one: one.get50),
    ("get p99, us", lambda one: one.get99),
    ("set p50, us, for who asks", lambda one: one.set50),
    ("set p99, us, for who asks", lambda one: one.set99),
    ("written one by one, per s", lambda one: one.written),
    ("purge of 1,000, ms", lambda one: one.purge / 1000),
    ("evicted, per s", lambda one: one.evicted),
    ("get p99 meanwhile, us", lambda one: one.get99_meanwhile),
    ("longest wait in it, ms", lambda one: one.waited / 1000),
    ("on disk, MB", lambda one: one.size / 1e6),
)


def table(columns: Sequence[tuple[str, Figures]]) -> str:
    """Figures as a table of Markdown."""
    head = [f"{name} {figures.entries:,}" for name, figures in columns]
    lines = [
        f"| {'':<28} | " + " | ".join(f"{name:>19}" for name in head) + " |",
        f"| {'-' * 28} | " + " | ".join(["-" * 18 + ":"] * len(head)) + " |",
    ]
    for name, of in _ROWS:
        values = (of(figures) for _, figures in columns)
        cells = (f"{'':>19}" if value < 0 else f"{value:>19,.2f}" for value in values)
        lines.append(f"| {name:<28} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    """Measure, print, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--entries", type=int, nargs="+", default=[1000, 1_000_000])
    parser.add_argument("--size", type=int, default=100, help="bytes of a body")
    parser.add_argument("--samples", type=int, default=20_000, help="calls of each kind")
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's temporary folder)")
    parser.add_argument("--alone", action="store_true", help="without diskcache")
    chosen = parser.parse_args()
    columns: list[tuple[str, Figures]] = []
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        for number, entries in enumerate(chosen.entries):
            folder = Path(name) / str(number)
            columns.append(("ours", ours(folder / "ours", entries, chosen.size, chosen.samples)))
            if not chosen.alone:
                columns.append(("diskcache", theirs(folder / "theirs", entries, chosen.size, chosen.samples)))
    print(table(columns))
    mine = [figures for name, figures in columns if name == "ours"]
    small, large = mine[0], mine[-1]
    ratio = large.get50 / small.get50
    print(f"\na get of {large.entries:,} costs {ratio:.1f} times one of {small.entries:,}")
    return int(ratio > BOUND or large.opened > OPENING)


if __name__ == "__main__":
    sys.exit(main())
