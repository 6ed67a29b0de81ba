"""What damage, foreign hands, full disks and other processes do to the cache on disk.

Whatever happens is a miss or slower service: never a wrong result, never an error of a request.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.test_cache import reopened, stored
from tileserver.cache import Cache, folder_clear, folder_stats
from tileserver.cache.database import Database, Write
from tileserver.cache.disk import DiskTier
from tileserver.cache.label import Label
from tileserver.cache.memory import MemoryTier
from tileserver.cache.record import Records
from tileserver.interest import Interest
from tileserver.protocol import Encoded

pytestmark = pytest.mark.anyio


def seen(tier: DiskTier, key: str, timeout: float = 20) -> bool:
    """Whether a result comes to lie in the database, as another process sees it, in time."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        tier.news(now=True)
        tier.set(stored(key, key.encode()))
        try:
            if folder_stats(tier._folder)["entries"]:
                database = Database(tier._folder, wait=1)
                found = database.get(key)
                database.close()
                if found is not None:
                    return True
        except sqlite3.Error:
            continue
    return False


# -- what stands in the place of the database


def _text(path: Path) -> None:
    path.write_bytes(b"this is no database" * 1000)


def _foreign(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE entries (a)")
    database.close()


def _link(path: Path) -> None:
    (path.parent.parent / "elsewhere").write_bytes(b"keep me")
    path.symlink_to(path.parent.parent / "elsewhere")


PLACED: dict[str, Callable[[Path], object]] = {
    "text": _text,
    "nothing": Path.touch,
    "another program's database": _foreign,
    "a fifo": os.mkfifo,
    "a link": _link,
}


@pytest.mark.parametrize("place", PLACED.values(), ids=PLACED)
async def test_what_is_no_database_of_ours_makes_room(
    tmp_path: Path, place: Callable[[Path], object]
) -> None:
    """A new one takes its place, and a link's target stays as it is."""
    (tmp_path / "cache").mkdir()
    place(tmp_path / "cache/results.db")

    tier = await reopened(tmp_path / "cache", [stored()])

    assert tier.get("k") == stored()
    tier.close()
    if (tmp_path / "elsewhere").exists():
        assert (tmp_path / "elsewhere").read_bytes() == b"keep me"


async def test_a_place_that_can_not_be_used_means_slower_not_down(tmp_path: Path) -> None:
    """Here a file stands where the folder should be; once it is gone, results are stored."""
    (tmp_path / "file").write_text("")
    tier = await reopened(tmp_path / "file", [stored()])
    assert tier.get("k") is None
    assert tier.stats()["entries"] == 0

    (tmp_path / "file").unlink()

    assert seen(tier, "k")
    tier.close()


# -- planted and damaged rows


class _Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def planted(folder: Path, statement: str, *values: object) -> None:
    with sqlite3.connect(folder / "results.db") as database:
        database.execute(statement, values)
    database.close()


@pytest.mark.parametrize("value", ["pickle", b"", 7, 1.5, "text", b"\xff" * 100], ids=str)
async def test_a_planted_row_is_a_miss_and_runs_no_code(tmp_path: Path, value: object) -> None:
    """Whatever it holds; what is stored afterwards takes its place."""
    (await reopened(tmp_path / "cache", [stored()])).close()
    bomb = pickle.dumps(_Bomb(tmp_path / "exploded"))
    planted(tmp_path / "cache", "UPDATE entries SET record = ?", bomb if value == "pickle" else value)

    tier = DiskTier(tmp_path / "cache", 10**9)

    assert tier.get("k") is None
    assert not (tmp_path / "exploded").exists()
    tier.close()
    tier = await reopened(tmp_path / "cache", [stored()])
    assert tier.get("k") == stored()
    tier.close()


class _Overtaken:
    """A connection after whose first query all rows are deleted by another."""

    def __init__(self, connection: sqlite3.Connection, folder: Path) -> None:
        self._connection, self._folder = connection, folder

    def execute(self, *query: Any) -> sqlite3.Cursor:
        rows = self._connection.execute(*query).fetchall()
        planted(self._folder, "DELETE FROM entries")
        return self._connection.execute("SELECT value FROM json_each(?)", (str([id_ for (id_,) in rows]),))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


async def test_a_result_that_goes_while_its_head_is_read_is_a_miss(tmp_path: Path) -> None:
    """It is replaced or trimmed between two looks: no damage, for which all others would go, too."""
    tier = await reopened(tmp_path, [stored()])
    tier.news(now=True)
    reads = tier._reads
    assert reads is not None and tier.head("k") is not None
    reads._connection = _Overtaken(reads._connection, tmp_path)  # type: ignore[assignment]

    assert tier.head("k") is None
    assert tier.stats()["errors"] == 0
    assert tier._damaged is None
    tier.close()


async def test_what_can_not_be_written_keeps_nothing_else_from_it(tmp_path: Path) -> None:
    """The one thread that writes goes on."""
    tier = DiskTier(tmp_path, 10**9)
    tier.set(stored("bad", odd=object()))
    while tier.stats()["queued"]:
        pass
    tier.set(stored())
    tier.close()

    tier = await reopened(tmp_path, [])
    assert tier.get("k") == stored()
    tier.close()


async def test_a_row_copied_to_another_key_is_a_miss(tmp_path: Path) -> None:
    """A record names its key."""
    (await reopened(tmp_path, [stored("a", b"a"), stored("b", b"b")])).close()
    planted(tmp_path, "UPDATE entries SET record = (SELECT record FROM entries ORDER BY id DESC)")

    tier = DiskTier(tmp_path, 10**9)

    assert tier.get("a") is None
    assert tier.get("b") == stored("b", b"b")
    tier.close()


async def test_a_record_of_another_server_is_a_miss(tmp_path: Path) -> None:
    """Checksums are keyed with the server's key: nobody else can make one."""
    tier = DiskTier(tmp_path, 10**9, b"ours")
    tier.set(stored())
    tier.close()

    other = DiskTier(tmp_path, 10**9, b"theirs")

    assert other.get("k") is None
    other.close()


@pytest.mark.parametrize("seed", range(4))
async def test_flipped_bits_are_never_a_wrong_result(tmp_path: Path, seed: int) -> None:
    """Anywhere in the database, while it is open: each result is as it was, or missing; and the server goes
    on storing."""
    chance = random.Random(seed)
    bodies = {f"k{n}": chance.randbytes(chance.choice([50, 3000, 20_000])) for n in range(60)}
    (await reopened(tmp_path, [stored(key, body) for key, body in bodies.items()])).close()
    tier = DiskTier(tmp_path, 10**9)
    path = tmp_path / "results.db"
    with path.open("r+b") as file:
        for _ in range(200):
            place = chance.randrange(path.stat().st_size)
            file.seek(place)
            old = file.read(1)[0]
            file.seek(place)
            file.write(bytes([old ^ (1 << chance.randrange(8))]))

    for key, body in bodies.items():
        found = tier.get(key)
        assert found is None or found == stored(key, body)

    assert seen(tier, "new")
    tier.close()


CUT = {"nothing is left": 0, "in the middle of a page": 10_001, "half": 200_000}


@pytest.mark.parametrize("size", CUT.values(), ids=CUT)
async def test_a_database_cut_short_under_a_server_is_replaced(tmp_path: Path, size: int) -> None:
    """Requests don't notice, and what comes later is stored."""
    bodies = {f"k{n}": os.urandom(20_000) for n in range(30)}
    (await reopened(tmp_path, [stored(key, body) for key, body in bodies.items()])).close()
    tier = DiskTier(tmp_path, 10**9)
    os.truncate(tmp_path / "results.db", size)

    for key, body in bodies.items():
        found = tier.get(key)
        assert found is None or found == stored(key, body)

    assert seen(tier, "new")
    tier.close()


# -- the folder


@pytest.mark.parametrize("what", ["the folder", "the database"])
async def test_what_was_deleted_under_a_server_comes_back(tmp_path: Path, what: str) -> None:
    """What was stored is forgotten, in memory, too; what comes later is stored."""
    folder = tmp_path / "cache"
    cache = Cache(MemoryTier(10**7), DiskTier(folder, 10**9), clock=lambda: 1000.0)
    tier = cache._tiers[1]
    assert isinstance(tier, DiskTier)
    await cache.get_or_compute("k", _once, max_age=60)
    assert seen(tier, "other")

    if what == "the folder":
        shutil.rmtree(folder)
    else:
        (folder / "results.db").unlink()
    tier._looked = float("-inf")  # as if a moment had passed

    assert cache.stored("k", 60) is None
    assert seen(tier, "k")
    tier.news(now=True)
    assert cache.stored("k", 60) is not None
    await cache.close()


async def _once(interest: Interest) -> Encoded:
    return Encoded(b"x", "text/plain", 1000.0, {})


async def test_clearing_from_another_process_empties_memory_too(tmp_path: Path) -> None:
    """``tileserver cache clear`` beside a running server; a run under way isn't stored."""
    cache = Cache.open(tmp_path, 10**9, 10**7, b"")
    cache._clock = lambda: 1000.0
    tier = cache._tiers[1]
    assert isinstance(tier, DiskTier)
    await cache.get_or_compute("k", _once, max_age=60)
    assert seen(tier, "other")
    gate = asyncio.Event()

    async def slow(interest: Interest) -> Encoded:
        await gate.wait()
        return await _once(interest)

    running = asyncio.ensure_future(cache.get_or_compute("slow", slow, max_age=60))
    await asyncio.sleep(0)
    assert await asyncio.to_thread(folder_clear, tmp_path) >= 1
    tier._looked = float("-inf")
    gate.set()
    await running

    assert cache.stored("k", 60) is None
    assert cache.stored("slow", 60) is None
    await cache.close()


async def test_clearing_empties_memory_also_where_no_database_follows(tmp_path: Path) -> None:
    """Another process has just begun to make one, say."""
    cache = Cache.open(tmp_path, 10**9, 10**7, b"")
    cache._clock = lambda: 1000.0
    tier = cache._tiers[1]
    assert isinstance(tier, DiskTier)
    await cache.get_or_compute("k", _once, max_age=60)
    tier.news(now=True)
    assert tier._reads is not None

    (tmp_path / "new").touch()
    (tmp_path / "new").rename(tmp_path / "results.db")
    tier._looked = float("-inf")

    assert cache.stored("k", 60) is None
    await cache.close()


async def test_the_folder_is_private(tmp_path: Path) -> None:
    """Results may be anybody's data."""
    tier = DiskTier(tmp_path / "cache", 10**6)
    tier.close()

    assert os.stat(tmp_path / "cache").st_mode & 0o777 == 0o700
    assert os.stat(tmp_path / "cache/results.db").st_mode & 0o777 == 0o600


# -- in processes of their own


def program(text: str, *arguments: object) -> list[str]:
    """A Python program with what these tests need at hand."""
    head = "import os, sys, resource, signal, time\nfrom pathlib import Path\n"
    head += "from tests.test_cache import stored\nfrom tileserver.cache.disk import DiskTier\n"
    head += "from tileserver.cache import folder_stats\nfolder = Path(sys.argv[1])\n"
    return [sys.executable, "-c", head + text, *map(str, arguments)]


FULL = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
tier = DiskTier(folder, 10**9)
tier.set(stored("before", b"b" * 1000))
while not folder_stats(folder)["entries"]:
    pass
size = max(path.stat().st_size for path in folder.iterdir())
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 50_000, resource.RLIM_INFINITY))
n = 0
while not tier.stats()["errors"]:
    n += 1
    tier.set(stored(f"big{n}", os.urandom(200_000)))
    assert tier.get("before") == stored("before", b"b" * 1000)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
tier.set(stored("after"))
tier.close()
tier = DiskTier(folder, 10**9)
assert tier.get("before") is not None and tier.get("after") == stored("after")
tier.close()
print("went on")
"""


def test_a_full_disk_means_slower_not_down(tmp_path: Path) -> None:
    """Nothing new is stored, what is stored is found, and once there is room again, storing goes on."""
    done = subprocess.run(program(FULL, tmp_path), capture_output=True, text=True, timeout=100, check=False)

    assert done.stdout == "went on\n", done.stderr


READ_ONLY = """
os.chmod(folder, 0o555)
if os.getuid() == 0:
    os.setuid(65534)
tier = DiskTier(folder, 10**9)
tier.set(stored("new"))
assert tier.get("k") in (None, stored())
tier.news(now=True)
tier.close()
assert tier.stats()["errors"] > 0
print("went on")
"""


def test_a_folder_that_can_only_be_read_means_slower_not_down(tmp_path: Path) -> None:
    """As another user than root."""
    tier = DiskTier(tmp_path, 10**9)
    tier.set(stored())
    tier.close()

    done = subprocess.run(
        program(READ_ONLY, tmp_path), capture_output=True, text=True, timeout=100, check=False
    )

    assert done.stdout == "went on\n", done.stderr


WRITING = """
tier = DiskTier(folder, int(sys.argv[2]))
print("begun", flush=True)
n = 0
while True:
    n += 1
    key = f"{sys.argv[3]}{n % 500}"
    tier.set(stored(key, key.encode() * (1 + n % 3000)))
    tier.news(now=False)
    found = tier.get(key)
    assert found is None or set(found.encoded.body.split(key.encode())) == {b""}, key
"""


@pytest.fixture
def writers(tmp_path: Path) -> Iterator[Callable[[int, str], subprocess.Popen[str]]]:
    """Processes that store as fast as they can, in one folder; a wrong result ends them."""
    started = []

    def start(size: int, name: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            program(WRITING, tmp_path / "cache", size, name), stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


async def test_a_kill_in_the_middle_of_a_write_leaves_no_wrong_result(
    tmp_path: Path, writers: Callable[[int, str], subprocess.Popen[str]]
) -> None:
    """Again and again: what can be read is whole, the database is sound, and its count is true."""
    chance = random.Random(7)
    for _ in range(5):
        process = writers(20_000_000, "k")
        size = (tmp_path / "cache/results.db-wal").stat
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and (
            size().st_size < chance.randrange(200_000, 1_000_000)
            or folder_stats(tmp_path / "cache")["entries"] == 0
        ):
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()

        tier = DiskTier(tmp_path / "cache", 20_000_000)
        for n in range(500):
            found = tier.get(f"k{n}")
            assert found is None or set(found.encoded.body.split(f"k{n}".encode())) == {b""}
        tier.close()
        with sqlite3.connect(tmp_path / "cache/results.db") as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            counted = database.execute(
                "SELECT (SELECT COUNT(*) FROM entries), entries FROM counts"
            ).fetchone()
            assert counted[0] == counted[1] > 0
        database.close()


async def test_two_servers_may_use_one_folder(
    tmp_path: Path, writers: Callable[[int, str], subprocess.Popen[str]]
) -> None:
    """Each finds what the other has stored, with the folder held to its size; neither ends."""
    processes = [writers(8_000_000, "a"), writers(8_000_000, "a")]
    tier = DiskTier(tmp_path / "cache", 8_000_000)

    deadline = time.monotonic() + 30
    while folder_stats(tmp_path / "cache")["bytes"] < 1_500_000 and time.monotonic() < deadline:
        pass
    found = [one for n in range(500) if (one := tier.get(f"a{n}")) is not None]

    assert found
    assert [process.poll() for process in processes] == [None, None]
    tier.close()


# -- room


def volume(folder: Path) -> int:
    """Bytes that the files of a folder take, as the file system has them."""
    total = 0
    for path in folder.iterdir():
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


@pytest.mark.parametrize("body", [100, 5000, 100_000])
async def test_the_folder_keeps_its_size(tmp_path: Path, body: int) -> None:
    """All files together, while four times as much goes through it; what was stored last is there."""
    size = 2_000_000
    tier = DiskTier(tmp_path, size)
    largest = 0
    for n in range(4 * size // (body + 500)):
        tier.set(stored(f"k{n}", os.urandom(body)))
        largest = max(largest, volume(tmp_path))
    tier.close()
    largest = max(largest, volume(tmp_path))

    assert largest <= size + size // 8
    tier = DiskTier(tmp_path, size)
    assert tier.get(f"k{n}") is not None
    assert tier.stats()["bytes"] > size // 2
    assert tier.stats()["dropped"] == 0
    tier.close()


async def test_a_smaller_size_shrinks_the_folder(tmp_path: Path) -> None:
    """What is free is given back to the file system."""
    (await reopened(tmp_path, [stored(f"k{n}", os.urandom(50_000)) for n in range(100)])).close()
    assert volume(tmp_path) > 5_000_000

    (await reopened(tmp_path, [stored("new")], size=1_000_000)).close()

    assert volume(tmp_path) < 1_200_000


async def test_results_of_older_revisions_go_first(tmp_path: Path) -> None:
    """Nobody asks for them, unless an edit is undone: as long as there is room, they are found."""
    database = Database.make(tmp_path, wait=1)
    for key, revision in [("kept", "2"), ("old", "1"), ("older", "1"), ("new", "2")]:
        one = replace(stored(key, os.urandom(20_000)), label=Label("c", "u", revision))
        database.put([Write(one, Records(b"").to_bytes(one), 0)])
    assert database.get("old") is not None

    database.trim(database.counts().bytes - 10_000)

    assert database.get("old") is None
    assert database.get("kept") is not None
    assert database.get("new") is not None
    database.close()
