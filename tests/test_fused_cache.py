"""``fused.cache``: what is one result, how long it lives, and what happens when things go wrong."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import shapely
import xarray
from geopandas import GeoDataFrame

from tests.bundles import bundle, value
from tests.bundles import worker_process as worker_process
from tests.conftest import serving
from tileserver.fused import cache
from tileserver.fused.fingerprint import fingerprint


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The canvas's cache folder."""
    path = tmp_path / "cache"
    monkeypatch.setenv("TILESERVER_UDF_CACHE", str(path))
    return path


def counted(**options: Any) -> tuple[Callable[..., Any], list[Any]]:
    """A cached function, and the arguments of the calls that got through to it."""
    calls: list[Any] = []

    def double(n: Any, m: int = 1) -> Any:
        calls.append(n)
        return n * 2

    return (cache(**options) if options else cache)(double), calls


def entries(folder: Path) -> list[Path]:
    return list(folder.rglob("*.pickle"))


def test_a_second_call_is_not_computed() -> None:
    """The bare decorator stores and finds."""
    double, calls = counted()

    assert [double(2), double(2), double(3)] == [4, 4, 6]
    assert calls == [2, 3]


def test_spellings_of_one_call_are_one_entry() -> None:
    """Positional, keyword and default arguments make the same key."""
    double, calls = counted()

    double(2)
    double(n=2)
    double(2, 1)
    double(m=1, n=2)

    assert calls == [2]


def test_none_is_a_result() -> None:
    """A stored None is found."""
    calls = []

    @cache
    def nothing() -> None:
        calls.append(1)

    nothing()
    nothing()

    assert calls == [1]


def test_another_source_is_another_function() -> None:
    """Two functions of one name whose text differs don't share results."""

    def make(which: int) -> Callable[[], int]:
        if which == 1:

            @cache
            def answer() -> int:
                return 1
        else:

            @cache
            def answer() -> int:
                return 2

        return answer

    assert [make(1)(), make(2)()] == [1, 2]


def test_variables_outside_the_function_do_not_count() -> None:
    """Contract, section 8.1: the source and the arguments make the key, not what the function looks up."""
    factor = 2

    @cache
    def times(n: int) -> int:
        return n * factor

    assert times(3) == 6
    factor = 10
    assert [times(3), times(4)] == [6, 40]


def test_variables_outside_of_the_body_do_not_count(tmp_path: Path, worker_process: None) -> None:
    """contract, section 8.1: the key is the function's text and its arguments, frames by their content."""
    source = """
    import pandas as pd
    FACTOR = {factor}
    @fused.cache
    def total(frame, k=1): return int(frame.a.sum()) * FACTOR * k
    @fused.udf
    def udf(a: int = 1): return total(pd.DataFrame({{"a": [a, 2]}}))
    """
    first, second = (bundle(tmp_path, {"hello.py": source.format(factor=n)}) for n in (1, 10))

    assert [value(first), value(second), value(second, a=2)] == [3, 3, 40]


@pytest.mark.parametrize("storage", ["auto", "mount", "local"])
def test_every_storage_is_the_owners_folder(storage: str, folder: Path) -> None:
    """contract, section 8.1: accepted for what it says elsewhere; there is one kind here."""
    double, calls = counted(cache_storage=storage)

    double(2)
    double(2)

    assert (calls, len(entries(folder))) == ([2], 1)


def test_results_outlive_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """contract, section 8.1: a new server, with new workers, finds what the old one's stored."""
    source = """
import random
@fused.cache
def number(): return random.random()
@fused.udf(cache_max_age="0s")
def udf(): return number()
"""
    monkeypatch.delenv("TILESERVER_UDF_CACHE")
    found = []
    for _ in range(2):
        with serving(tmp_path / "w", {"a/hello.py": source}) as server:
            found.append(server.get("/{a}/hello.json").json())

    assert found[0] == found[1]


def test_results_are_copies() -> None:
    """Changing a result doesn't change what is stored."""
    double, _ = counted()

    double([1]).append("spoilt")

    assert double([1]) == [1, 1]


@pytest.mark.parametrize("age", ["0s", 0, "0"])
def test_age_0_neither_reads_nor_stores(age: str | int, folder: Path) -> None:
    """With age 0 the function always runs and nothing is written."""
    double, calls = counted(cache_max_age=age)

    double(2)
    double(2)

    assert calls == [2, 2]
    assert entries(folder) == []


@pytest.mark.parametrize("option", ["cache_max_age", "ttl"])
def test_an_entry_older_than_the_age_is_computed_anew(option: str, folder: Path) -> None:
    """The age counts from when the result was stored."""
    double, calls = counted(**{option: "1h"})
    double(2)

    for seconds, expected in ((3500, [2]), (3700, [2, 2])):
        then = time.time() - seconds
        os.utime(entries(folder)[0], (then, then))
        double(2)
        assert calls == expected


def test_the_default_age_is_48_hours(folder: Path) -> None:
    """Without an age a result lives for two days."""
    double, calls = counted()
    double(2)

    then = time.time() - 49 * 3600
    os.utime(entries(folder)[0], (then, then))
    double(2)

    assert calls == [2, 2]


@pytest.mark.parametrize("option", ["cache_reset", "reset"])
def test_reset_computes_anew_and_stores(option: str, folder: Path) -> None:
    """With reset the function always runs, and its result is kept for others."""
    double, calls = counted(**{option: True})

    double(2)
    double(2)

    assert calls == [2, 2]
    assert len(entries(folder)) == 1


def test_a_call_may_ask_for_reset() -> None:
    """``cache_reset=True`` in a call isn't passed on."""
    double, calls = counted()

    double(2)
    double(2, cache_reset=True)
    double(2)

    assert calls == [2, 2]


def test_excluded_parameters_do_not_count() -> None:
    """``cache_key_exclude`` names parameters that don't change the result."""
    double, calls = counted(cache_key_exclude=["m"])

    double(2, m=1)
    double(2, m=object)

    assert calls == [2]


def test_verbose_says_what_happened(capsys: pytest.CaptureFixture[str]) -> None:
    """``cache_verbose`` prints whether the result was there."""
    double, _ = counted(cache_verbose=True)

    double(2)
    double(2)

    assert [line.rpartition(": ")[2] for line in capsys.readouterr().out.splitlines()] == [
        "computed and stored",
        "found",
    ]


@pytest.mark.parametrize("path", ["sub/dir", "/sub/dir"])
def test_a_folder_is_inside_the_canvas_cache(path: str, folder: Path) -> None:
    """``cache_folder_path`` is a subfolder, also when it looks absolute."""
    double, _ = counted(cache_folder_path=path, cache_storage="local")

    double(2)

    assert [entry.parent for entry in entries(folder)] == [folder / "sub" / "dir"]


def test_a_folder_cannot_leave_the_canvas_cache() -> None:
    """``..`` is refused."""
    with pytest.raises(ValueError, match="leaves the canvas's cache folder"):
        counted(path="../other")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"max_age": "1h"}, TypeError, "no option 'max_age'; known: cache_max_age"),
        ({"cache_max_age": "soon"}, ValueError, "'soon' is not a duration"),
    ],
    ids=["name", "age"],
)
def test_wrong_options_are_named(options: dict[str, Any], error: type[Exception], text: str) -> None:
    """An unknown option or a malformed age fails where it is written."""
    with pytest.raises(error, match=text):
        counted(**options)


def test_an_exception_is_not_stored() -> None:
    """A failure is raised, and tried again the next time."""
    calls = []

    @cache
    def fails() -> None:
        calls.append(1)
        raise OSError("down")

    for _ in range(2):
        with pytest.raises(OSError, match="down"):
            fails()

    assert calls == [1, 1]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:-3],
        lambda content: content[:-1] + b"?",
        lambda content: b"x" * 99,
    ],
    ids=["empty", "cut", "changed", "foreign"],
)
def test_a_damaged_entry_is_a_miss(damage: Callable[[bytes], bytes], folder: Path) -> None:
    """An entry that isn't what was written is computed and written again."""
    double, calls = counted()
    double(2)
    (entry,) = entries(folder)
    entry.write_bytes(damage(entry.read_bytes()))

    assert [double(2), double(2)] == [4, 4]
    assert calls == [2, 2]


def test_a_result_that_cannot_be_stored_is_returned(capsys: pytest.CaptureFixture[str]) -> None:
    """What can't be pickled is passed on, with a line that says so."""

    @cache
    def opened() -> Any:
        return threading.Lock()

    assert opened().acquire()
    assert "can't be stored" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_costs_only_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a place to store, the function runs each time."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("TILESERVER_UDF_CACHE", str(tmp_path / "file"))
    double, calls = counted()

    assert [double(2), double(2)] == [4, 4]
    assert calls == [2, 2]
    assert "was not stored" in capsys.readouterr().err


def test_nothing_is_left_beside_the_entry(folder: Path) -> None:
    """Locks and temporary files are gone when the result is stored."""
    double, _ = counted()

    double(2)

    assert [path.suffix for path in folder.iterdir()] == [".pickle"]


def test_async_functions_are_cached() -> None:
    """Tasks that ask for the same result at once compute it once."""
    calls = []

    @cache
    async def double(n: int) -> int:
        calls.append(n)
        await asyncio.sleep(0)
        return 2 * n

    async def both() -> list[int]:
        return list(await asyncio.gather(double(2), double(2)))

    assert asyncio.run(both()) == [4, 4]
    assert asyncio.run(both()) == [4, 4]
    assert calls == [2]


def test_threads_that_ask_at_once_compute_once() -> None:
    """The second caller waits for the first and takes its result."""
    started, calls = threading.Event(), []

    @cache
    def slow() -> int:
        calls.append(1)
        started.wait(5)
        return 7

    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(slow())) for _ in range(4)]
    for thread in threads:
        thread.start()
    started.set()
    for thread in threads:
        thread.join()

    assert results == [7] * 4
    assert calls == [1]


def test_waiting_ends_with_the_timeout() -> None:
    """A lock that isn't released in time is ignored: the caller computes for itself."""
    inside, leave = threading.Event(), threading.Event()
    calls: list[int] = []

    @cache(concurrent_lock_timeout=0.05)
    def slow() -> int:
        calls.append(1)
        if len(calls) == 1:
            inside.set()
            leave.wait(10)
        return len(calls)

    first = threading.Thread(target=slow)
    first.start()
    inside.wait(5)
    second = slow()
    leave.set()
    first.join()

    assert second == 2


SCRIPT = """
import sys, pandas as pd
from tileserver.fused import cache
{decorated}
print(work(pd.DataFrame({{"a": [1, 2], "b": ["x", None]}}), words={{"x", "y", "z"}}))
"""
WORK = """
@cache
def work(frame, words):
    print("computed", file=sys.stderr)
    return len(frame)
"""


def started(tmp_path: Path, decorated: str, **variables: str) -> subprocess.Popen[str]:
    """Another worker process that runs the function."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(decorated=decorated))
    return subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **variables},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_results_are_shared_between_processes(tmp_path: Path) -> None:
    """Two workers that ask at once run the function once, and a later one not at all."""
    both = [started(tmp_path, WORK) for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in both]
    outputs.append(started(tmp_path, WORK).communicate(timeout=60))

    assert [out for out, _ in outputs] == ["2\n"] * 3
    assert "".join(err for _, err in outputs) == "computed\n"


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path, folder: Path) -> None:
    """A worker killed in the middle doesn't make the next one wait."""
    mortal = """
import os, signal
@cache(concurrent_lock_timeout=1e6)
def work(frame, words):
    if "DIE" in os.environ: os.kill(os.getpid(), signal.SIGKILL)
    return len(frame)
"""
    started(tmp_path, mortal, DIE="1").communicate(timeout=60)
    left = list(folder.rglob("*.lock"))

    out, _ = started(tmp_path, mortal).communicate(timeout=60)

    assert len(left) == 1
    assert out == "2\n"


def test_a_new_run_of_the_same_source_finds_the_result(tmp_path: Path, worker_process: None) -> None:
    """Sources are executed anew for each run; edits elsewhere in the file keep the result too."""
    source = """
    import random
    @fused.cache
    def number(n): return random.random()
    @fused.udf
    def udf(): return number(1)
    """
    first, second = (bundle(tmp_path, {"hello.py": source + end}) for end in ("", "# a remark\n"))

    assert value(first) == value(first) == value(second)


def test_classes_of_the_udf_can_be_stored(tmp_path: Path, worker_process: None) -> None:
    """A result may be of a class that the source defines."""
    source = """
    import random
    class Box:
        def __init__(self): self.n = random.random()
    @fused.cache
    def box(): return Box()
    @fused.udf
    def udf():
        found = box()
        return [found.n, isinstance(found, Box)]
    """
    canvas = bundle(tmp_path, {"hello.py": source})

    assert value(canvas) == value(canvas)
    assert value(canvas)[1] is True


# -- what is the same argument

FRAME = pd.DataFrame({"a": [1, 2], "b": ["x", None]})
PLACES = GeoDataFrame({"n": [1]}, geometry=[shapely.Point(1, 2)], crs="EPSG:4326")


def local(n: int) -> int:
    return n


@pytest.mark.parametrize(
    "make",
    [
        lambda: {"b": 1, "a": [2]},
        lambda: FRAME.copy(),
        lambda: FRAME.set_index("a"),
        lambda: FRAME.set_index(["a", "b"]),
        lambda: FRAME["b"].copy(),
        lambda: FRAME["b"].astype("category"),
        lambda: pd.Series(pd.to_datetime(["2024-01-01"], utc=True)),
        lambda: pd.Series([[1, 2], {"a": 1}]),
        lambda: PLACES.copy(),
        lambda: PLACES.geometry.copy(),
        lambda: shapely.Point(1, 2),
        lambda: np.arange(6).reshape(2, 3),
        lambda: np.asfortranarray(np.arange(6).reshape(2, 3)),
        lambda: np.array(["a", None], dtype=object),
        lambda: np.ma.masked_equal(np.arange(3), 1),
        lambda: np.float32(1.5),
        lambda: xarray.DataArray(np.arange(3), dims="x", attrs={"crs": "EPSG:4326"}),
        lambda: {1, "a", (2, 3)},
        lambda: Path("a/b"),
        lambda: local,
        lambda: np,
        lambda: b"\x00",
    ],
)
def test_equal_values_have_one_fingerprint(make: Callable[[], Any]) -> None:
    """A value made twice is the same argument."""
    assert fingerprint(make()) == fingerprint(make())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, "1"),
        (1, True),
        (1, 1.0),
        ([1, 2], (1, 2)),
        ([1, [2]], [[1], 2]),
        (["ab", "c"], ["a", "bc"]),
        ({"a": 1}, {"a": 2}),
        (FRAME, FRAME.assign(a=[1, 3])),
        (FRAME, FRAME.rename(columns={"a": "c"})),
        (FRAME, FRAME.set_axis([5, 6])),
        (FRAME, FRAME.astype({"a": "float64"})),
        (FRAME, FRAME.fillna({"b": "y"})),
        (FRAME["a"], FRAME["a"].set_axis([5, 6])),
        (PLACES, PLACES.set_geometry([shapely.Point(1, 3)], crs=PLACES.crs)),
        (PLACES, PLACES.set_crs("EPSG:3857", allow_override=True)),
        (shapely.Point(1, 2), shapely.Point(1, 3)),
        (np.arange(6), np.arange(6).reshape(2, 3)),
        (np.arange(3), np.arange(3).astype("int32")),
        (np.ma.masked_equal(np.arange(3), 1), np.ma.masked_equal(np.arange(3), 2)),
        (xarray.DataArray([1, 2], dims="x"), xarray.DataArray([1, 2], dims="y")),
    ],
)
def test_different_values_have_different_fingerprints(one: Any, other: Any) -> None:
    """Content, type, names and coordinates all count."""
    assert fingerprint(one) != fingerprint(other)


def test_a_value_that_cannot_be_a_key_says_how_to_leave_it_out() -> None:
    """An argument that is no data names its type and the way around it."""
    double, _ = counted()

    with pytest.raises(TypeError, match=r"a lock can't be part of a cache key.*cache_key_exclude"):
        double(threading.Lock())
