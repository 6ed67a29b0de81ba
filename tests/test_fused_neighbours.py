"""``fused.load`` and ``fused.run``: neighbours of the same canvas."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bundles import bundle, run, value
from tests.bundles import worker_process as worker_process
from tileserver.errors import UdfError
from tileserver.protocol import Bundle

pytestmark = pytest.mark.usefixtures("worker_process")

COMMON = """
FACTOR = 3
def scaled(n): return FACTOR * n
@fused.udf(default_parameters={"offset": "100"})
def main(n: int = 1, offset: int = 0): return scaled(n) + offset
"""


def calling(folder: Path, body: str, **files: str) -> Bundle:
    """A canvas whose UDF ``hello`` returns an expression, beside ``common``."""
    texts = {"common.py": COMMON, **{f"{name}.py": text for name, text in files.items()}}
    return bundle(folder, {**texts, "hello.py": f"@fused.udf\ndef udf(n: int = 0):\n    return {body}\n"})


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("fused.load('common').scaled(2)", 6),
        ("fused.load('common').FACTOR", 3),
        ("fused.load('common')(n=2)", 106),
        ("fused.load('canvas/common')(n=2)", 106),
        ("fused.run('common', n='2', offset=0)", 6),
        ("fused.run('common', n=2, other=1, engine='local', cache_max_age='0s', cache=False)", 106),
        ("fused.run(fused.load('common'), n=2)", 106),
        ("fused.load('common').entrypoint", "main"),
        ("fused.load('common').name", "common"),
        ("fused.load('common').code.count('FACTOR')", 2),
        ("fused.load('common') is fused.load('common')", True),
        ("fused.run('waits', n=2)", 4),
        ("fused.run('hello', n=5) if n == 0 else n", 5),
        ("fused.run('tiled', x=1, y=1, z=2)[0]", -90.0),
        ("fused.run('frame', area=[1, 2, 3, 4])", ["x", "y", "z", "geometry"]),
        ("fused.run('words', ids=['01', '2'])", ["01", "2"]),
        ("[fused.load('common').run_local(n=2), fused.load('common').run_file(n=2)]", [106, 106]),
        (
            "[fused.load('common').run_remote(n=2), fused.load('tiled').run_tile(x=1, y=1, z=2)[0]]",
            [106, -90],
        ),
    ],
)
def test_neighbours_are_loaded_and_run(tmp_path: Path, expression: str, expected: object) -> None:
    """Globals are attributes, a call is a run, and parameters are coerced by annotation."""
    canvas = calling(
        tmp_path,
        expression,
        waits="@fused.udf\nasync def udf(n): return 2 * n",
        tiled="@fused.udf\ndef udf(bounds: fused.types.Bounds): return bounds",
        frame="@fused.udf\ndef udf(area: fused.types.Tile): return list(area.columns)",
        words="@fused.udf\ndef udf(ids: list): return ids",
    )

    assert value(canvas) == expected


def test_an_async_neighbour_runs_inside_an_async_udf(tmp_path: Path) -> None:
    """``fused.run`` gives a value whether or not an event loop is running."""
    files = {
        "hello.py": "@fused.udf\nasync def udf(): return fused.run('other') + 1",
        "other.py": "@fused.udf\nasync def udf(): return 1",
    }
    assert value(bundle(tmp_path, files)) == 2


def test_an_async_neighbour_that_fails_raises_in_its_caller(tmp_path: Path) -> None:
    """The exception of a neighbour can be caught."""
    body = "try: fused.run('other')\n  except ValueError as e: return str(e)"
    files = {
        "hello.py": f"@fused.udf\nasync def udf():\n  {body}",
        "other.py": "@fused.udf\nasync def udf(): raise ValueError('caught')",
    }
    assert value(bundle(tmp_path, files)) == "caught"


def test_a_decorated_function_can_be_run(tmp_path: Path) -> None:
    """A UDF defined inside another one is called as it is, or run with coercion."""
    source = """
    @fused.udf
    def udf():
        @fused.udf
        def inner(n: int): return n + 1
        return [inner(1), fused.run(inner, n="2")]
    """
    assert value(bundle(tmp_path, {"hello.py": source})) == [2, 3]


def test_a_neighbour_is_executed_only_when_it_is_used(tmp_path: Path) -> None:
    """Loading alone runs nothing."""
    canvas = calling(tmp_path, "fused.load('broken').name", broken="1 / 0\n@fused.udf\ndef udf(): pass")

    assert value(canvas) == "broken"


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("fused.load('gone')", "LookupError: no UDF called 'gone' in this canvas; there are: common, hello"),
        ("fused.run('gone')", "LookupError: no UDF called 'gone' in this canvas; there are: common, hello"),
        ("fused.load('other/common')", "LookupError: no UDF called 'other/common'"),
        ("fused.load('https://example.org/x')", "RuntimeError: there is no server here"),
        ("fused.run('fc_abc/name')", "RuntimeError: there is no server here"),
        ("fused.load('common').nothing", "AttributeError: the source of 'common' defines no 'nothing'"),
        ("fused.run(print)", "TypeError: fused.run takes the name or the token of a UDF"),
        ("fused.run('common', n='x')", "ValueError: parameter 'n' takes a whole number"),
        ("fused.run('common', x=9, y=0, z=1)", "InvalidTile: tile 1/9/0 is outside the matrix"),
    ],
)
def test_what_cannot_be_loaded_or_run_is_said(tmp_path: Path, expression: str, message: str) -> None:
    """Each failure names what was wrong and what there is, at the line that asked."""
    with pytest.raises(UdfError) as caught:
        run(calling(tmp_path, expression))

    assert caught.value.message.startswith(message)
    assert caught.value.lineno == 3


def test_udfs_that_run_each_other_end_at_the_limit(tmp_path: Path) -> None:
    """A loop of neighbours is an error that shows the chain, not a hang."""
    canvas = calling(tmp_path, "fused.run('pong')", pong="@fused.udf\ndef udf(): return fused.run('hello')")

    with pytest.raises(UdfError, match="RecursionError: UDFs run each other more than 5 deep: pong > hello"):
        run(canvas)


def test_the_depth_of_the_request_counts(tmp_path: Path) -> None:
    """A run that is itself nested has less depth left."""
    canvas = calling(tmp_path, "fused.run('common')")

    assert value(canvas, recursion=4) == 103
    with pytest.raises(UdfError, match="RecursionError"):
        run(canvas, recursion=5)


def test_neighbours_run_in_threads(tmp_path: Path) -> None:
    """Side by side is not one inside the other, and each finds its own modules."""
    source = """
    from concurrent.futures import ThreadPoolExecutor as Pool
    @fused.udf
    def udf():
        names = ["a", "b"] * 10
        with Pool(8) as pool:
            return list(pool.map(fused.run, names)) == names
    """
    uses = "@fused.udf\ndef udf():\n  import utils\n  return utils.NAME"
    files = {"hello.py": source, "a.py": uses, "b.py": uses, "ma.py": "NAME = 'a'", "mb.py": "NAME = 'b'"}
    modules = {"hello": {}, "a": {"utils": "ma.py"}, "b": {"utils": "mb.py"}}

    assert value(bundle(tmp_path, files, modules=modules)) is True


def test_the_modules_of_a_neighbour_are_reached_by_import_inside_it(tmp_path: Path) -> None:
    """A loaded neighbour has its own modules, as globals of its source."""
    files = {
        "hello.py": "@fused.udf\ndef udf(): return fused.load('other').utils.NAME",
        "other.py": "import utils\n@fused.udf\ndef udf(): pass",
        "own.py": "NAME = 'own'",
    }
    canvas = bundle(tmp_path, files, modules={"hello": {}, "other": {"utils": "own.py"}})

    assert value(canvas) == "own"


def test_an_edited_neighbour_is_seen_by_a_module_that_loads_it(tmp_path: Path) -> None:
    """A module stays warm only for as long as nothing that it may have loaded changes."""
    uses = "import utils\n@fused.udf\ndef udf(): return utils.N"
    files = {"hello.py": uses, "utils.py": "import fused\nN = fused.load('other').N"}

    def canvas(n: int) -> Bundle:
        return bundle(tmp_path, {**files, "other.py": f"N = {n}\n@fused.udf\ndef udf(): pass"})

    assert [value(canvas(1)), value(canvas(2))] == [1, 2]


def test_this_udf_inside_a_decorated_function_is_its_udf(tmp_path: Path) -> None:
    """A function inside a source belongs to the UDF of that source."""
    source = """
    @fused.udf
    def udf():
        @fused.udf
        def inner(): return fused.context.this_udf().name
        return fused.run(inner)
    """
    assert value(bundle(tmp_path, {"hello.py": source})) == "hello"
