"""One run from a job to bytes: namespace, errors and their lines, modules of the canvas, the process."""

from __future__ import annotations

import os
import sys
import traceback
import types
from pathlib import Path

import pytest
from mercantile import Tile

from tests.bundles import bundle, job, run, value
from tests.bundles import worker_process as worker_process
from tileserver.errors import BadRequest, CoercionError, UdfError, UnknownUdf, UnsupportedOutput
from tileserver.protocol import RenderOptions
from tileserver.worker.runner import run_job

pytestmark = pytest.mark.usefixtures("worker_process")


def test_a_result_says_what_it_is_and_how_long_it_took(tmp_path: Path) -> None:
    """The body is encoded; the facts have the kind, the format and the timings."""
    canvas = bundle(tmp_path, {"hello.py": "@fused.udf\ndef udf(n: int = 3): return {'n': n}"})

    encoded = run(canvas, n="5")

    assert encoded.body == b'{"n":5}'
    assert encoded.media_type == "application/json"
    assert encoded.meta["format"] == "json"
    assert encoded.meta["run_ms"] >= 0
    assert encoded.meta["encode_ms"] >= 0
    assert "read_caller" not in encoded.meta


def test_the_source_runs_fresh_in_one_namespace_each_time(tmp_path: Path) -> None:
    """Helpers and state at module level are visible to the function, and new in every run."""
    source = """
    seen = []
    def note(): seen.append(1); return len(seen)
    @fused.udf
    def udf(): return note()
    """
    canvas = bundle(tmp_path, {"hello.py": source})

    assert [value(canvas), value(canvas)] == [1, 1]


def test_the_namespace_has_name_file_and_fused(tmp_path: Path) -> None:
    """``fused`` is there without an import, and is what an import gives."""
    source = """
    before = fused
    import fused
    from fused.types import Bounds
    @fused.udf
    def udf(): return [__name__, __file__, before is fused, Bounds is fused.types.Bounds]
    """
    canvas = bundle(tmp_path, {"hello.py": source})

    assert value(canvas) == ["hello", str(tmp_path / "hello.py"), True, True]


def test_the_working_directory_is_the_canvas_in_every_run(tmp_path: Path) -> None:
    """A UDF that changes directory doesn't move the next one."""
    (tmp_path / "data.txt").write_text("beside")
    source = """
    import os
    from pathlib import Path
    @fused.udf
    def udf():
        text = Path("data.txt").read_text()
        os.chdir("/")
        return text
    """
    canvas = bundle(tmp_path, {"hello.py": source})
    run(canvas)

    encoded = run_job(job(canvas), canvas)

    assert encoded.body == b'"beside"'


def test_coroutines_are_awaited(tmp_path: Path) -> None:
    """An ``async def`` entry point works."""
    source = """
    import asyncio
    @fused.udf
    async def udf(n: int):
        await asyncio.sleep(0)
        return n
    """
    assert value(bundle(tmp_path, {"hello.py": source}), n="4") == 4


def test_the_entry_point_is_the_one_named_udf(tmp_path: Path) -> None:
    """Other decorated functions stay plain functions of the source."""
    source = """
    @fused.udf
    def other(n): return n + 1
    @fused.udf(cache_max_age="0s", engine="realtime")
    def udf(): return other(1)
    """
    assert value(bundle(tmp_path, {"hello.py": source})) == 2


def test_a_tile_run_passes_the_tile(tmp_path: Path) -> None:
    """The function gets the tile's bounds."""
    canvas = bundle(tmp_path, {"hello.py": "@fused.udf\ndef udf(bounds: fused.types.Bounds): return bounds"})

    assert value(canvas, tile=Tile(x=1, y=1, z=2))[:2] == [-90, 0]


def test_dataclasses_and_pickle_find_the_udf_module(tmp_path: Path) -> None:
    """Classes of the source behave as classes of a module."""
    source = """
    from __future__ import annotations
    import pickle
    from dataclasses import dataclass
    @dataclass
    class Point:
        x: int
    @fused.udf
    def udf(): return pickle.loads(pickle.dumps(Point(3))).x
    """
    assert value(bundle(tmp_path, {"hello.py": source})) == 3
    assert "hello" not in sys.modules


def test_a_udf_may_be_called_like_a_library(tmp_path: Path) -> None:
    """A UDF called ``mercantile`` imports the library, not itself."""
    source = """
    import mercantile, colorsys
    @fused.udf
    def udf(): return [mercantile.tile(0, 1, 1).z, colorsys.rgb_to_hls(0, 0, 0)[0]]
    """
    canvas = bundle(tmp_path, {"mercantile.py": source, "colorsys.py": source})

    assert value(canvas, "mercantile") == value(canvas, "colorsys") == [1, 0.0]


# -- failures


def failure(canvas_folder: Path, source: str, **files: str) -> UdfError:
    """The error of running ``source`` as a UDF."""
    canvas = bundle(
        canvas_folder, {"hello.py": source, **{f"{name}.py": text for name, text in files.items()}}
    )
    with pytest.raises(UdfError) as caught:
        run(canvas)
    return caught.value


def test_an_exception_has_its_class_line_and_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The error names the line of the UDF; the traceback begins there, shows source, and goes to stderr."""
    source = """
    @fused.udf
    def udf():
        raise ValueError("boom")
    """
    error = failure(tmp_path, source)

    assert error.message == "ValueError: boom"
    assert (error.exception_class, error.lineno) == ("ValueError", 3)
    assert error.traceback.splitlines() == [
        "Traceback (most recent call last):",
        '  File "hello.py", line 3, in udf',
        '    raise ValueError("boom")',
        "ValueError: boom",
    ]
    assert capsys.readouterr().err == "", "what a caller may not see must not be among what was printed"


@pytest.mark.parametrize(
    ("source", "message", "lineno"),
    [
        ("def help(): 1 / 0\n@fused.udf\ndef udf():\n  help()\n", "ZeroDivisionError: division by zero", 4),
        ("\n\nnothing\n@fused.udf\ndef udf(): pass\n", "NameError: name 'nothing' is not defined", 2),
        ("import utils\n@fused.udf\ndef udf():\n  utils.fail()\n", "KeyError: 'k'", 4),
        ("import broken\n@fused.udf\ndef udf(): pass\n", "SyntaxError: '(' was never closed", 1),
        ("@fused.udf\ndef udf():\n  eval('1 +')\n", "SyntaxError: invalid syntax", 3),
        ("@fused.udf\ndef udf():\n  fused.run('neighbour')\n", "OSError: there", 3),
        ("@fused.udf\ndef udf():\n  raise SystemExit(1)\n", "SystemExit: 1", 3),
        ("import sys\n@fused.udf\ndef udf():\n  sys.exit()\n", "SystemExit", 4),
        ("@fused.udf\ndef udf():\n  raise KeyboardInterrupt\n", "KeyboardInterrupt", 3),
        ("@fused.udf\ndef udf():\n  raise MemoryError\n", "MemoryError", 3),
        ("@fused.udf\ndef udf():\n  udf()\n", "RecursionError: maximum recursion depth exceeded", 3),
        ("@fused.udf\ndef udf():\n  open('none.csv')\n", "FileNotFoundError: [Errno 2] No such file", 3),
        ("@fused.udf\nasync def udf():\n  1 / 0\n", "ZeroDivisionError: division by zero", 3),
        ("@fused.udf\ndef udf():\n  import no_such_thing\n", "ModuleNotFoundError: No module named", 3),
        ("@fused.udf\ndef udf(n): pass\n", "TypeError: udf() missing 1 required positional argument: 'n'", 2),
        ("@fused.udf\ndef udf(): pass\nudf = 3\n", "TypeError: udf is no longer a function", None),
    ],
    ids=lambda item: item.partition(":")[0] if isinstance(item, str) and "\n" not in item else "",
)
def test_the_line_is_the_first_in_the_udfs_own_source(
    tmp_path: Path, source: str, message: str, lineno: int | None
) -> None:
    """Wherever it is raised, the line is where the UDF's own source took part; a call's is its ``def``."""
    others = {
        "utils": "def fail():\n    raise KeyError('k')",
        "broken": "\n\nx = (",
        "neighbour": "\n\n@fused.udf\ndef udf():\n    raise OSError('there')",
    }
    error = failure(tmp_path, source, **others)

    assert error.message.startswith(message)
    assert error.lineno == lineno


def test_a_syntax_error_has_its_own_line(tmp_path: Path) -> None:
    """A source that doesn't parse is the UDF's fault."""
    error = failure(tmp_path, "@fused.udf\ndef udf():\n  x = (\n")

    assert error.message == "SyntaxError: '(' was never closed"
    assert (error.exception_class, error.lineno) == ("SyntaxError", 3)


def test_several_candidates_without_a_name_are_refused(tmp_path: Path) -> None:
    """A source whose entry point can't be chosen says which there are."""
    error = failure(tmp_path, "@fused.udf\ndef a(): pass\n@fused.udf\ndef b(): pass\n")

    assert "a, b" in error.message


def test_a_traceback_shows_user_code_only(tmp_path: Path) -> None:
    """Neither the frames of the server nor the path of the workspace are in it."""
    source = "@fused.udf\ndef udf():\n    return fused.run('other')\n"
    error = failure(tmp_path, source, other="@fused.udf\ndef udf():\n    raise OSError(__file__)\n")

    assert [line for line in error.traceback.splitlines() if "File" in line] == [
        '  File "hello.py", line 3, in udf',
        '  File "other.py", line 3, in udf',
    ]
    assert str(tmp_path) not in error.traceback + error.message


def test_a_traceback_shows_the_right_line_after_odd_characters(tmp_path: Path) -> None:
    """Lines end where Python's do, not at form feeds and separators."""
    error = failure(tmp_path, "\x0c# a\u2028b\r\n@fused.udf\r\ndef udf():\r\n    raise OSError\r\n")

    assert error.traceback.splitlines()[1:3] == ['  File "hello.py", line 4, in udf', "    raise OSError"]


def test_the_causes_of_an_exception_are_in_its_traceback(tmp_path: Path) -> None:
    """``raise … from`` is told as Python tells it."""
    source = "@fused.udf\ndef udf():\n  try: 1 / 0\n  except Exception as e: raise ValueError('no') from e\n"
    error = failure(tmp_path, source)

    assert "ZeroDivisionError" in error.traceback
    assert "direct cause" in error.traceback


@pytest.mark.parametrize("raised", ["ValueError()", "SystemExit(3)"])
def test_an_exception_that_cannot_be_printed_is_still_reported(tmp_path: Path, raised: str) -> None:
    """A ``__str__`` that raises doesn't hide its exception."""
    source = f"""
    class Odd(Exception):
        def __str__(self): raise {raised}
    @fused.udf
    def udf(): raise Odd
    """
    error = failure(tmp_path, source)

    assert error.message.startswith("Odd: ")
    assert error.lineno == 4


def test_a_huge_message_is_cut(tmp_path: Path) -> None:
    """What a failure says fits into a header frame."""
    error = failure(tmp_path, "@fused.udf\ndef udf(): raise ValueError('x' * 5_000_000)")

    assert len(error.message) + len(error.traceback) < 200_000


def test_a_wrong_argument_is_a_coercion_error(tmp_path: Path) -> None:
    """The message names the parameter; the line is that of the function."""
    canvas = bundle(tmp_path, {"hello.py": "\n\n@fused.udf\ndef udf(n: int): return n"})

    with pytest.raises(CoercionError, match="parameter 'n' takes a whole number") as caught:
        run(canvas, n="x")

    assert (caught.value.exception_class, caught.value.lineno) == ("ValueError", 3)


def test_a_failure_keeps_no_frame_alive(tmp_path: Path) -> None:
    """The error doesn't hold what the UDF held."""
    error = failure(tmp_path, "@fused.udf\ndef udf():\n  big = bytearray(10)\n  raise ValueError")

    assert error.__context__ is None
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert "udf" not in names


def test_unserializable_results_are_named(tmp_path: Path) -> None:
    """A value that nothing can write is an error that names its type."""
    canvas = bundle(tmp_path, {"hello.py": "@fused.udf\ndef udf(): return object()"})

    with pytest.raises(UnsupportedOutput, match="^Result serialization failed: .*object"):
        run(canvas)


def test_a_value_that_fails_while_it_is_encoded_is_unserializable(tmp_path: Path) -> None:
    """User code that runs inside an encoder fails as a serialization error, with its line."""
    source = """
    class Odd(dict):
        def items(self): raise RuntimeError("not now")
        values = keys = __iter__ = items
    @fused.udf
    def udf(): return Odd(a=1)
    """
    with pytest.raises(
        UnsupportedOutput, match="^Result serialization failed: RuntimeError: not now"
    ) as caught:
        run(bundle(tmp_path, {"hello.py": source}))

    assert caught.value.exception_class == "RuntimeError"


def test_wrong_options_are_refused_before_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown colormap is the request's fault, and nothing has run."""
    canvas = bundle(tmp_path, {"hello.py": "@fused.udf\ndef udf(): print('ran')"})

    with pytest.raises(BadRequest):
        run(canvas, options=RenderOptions(colormap="no such map"))

    assert capsys.readouterr().out == ""


def test_an_unknown_udf_is_named(tmp_path: Path) -> None:
    """A job for a UDF that isn't in the bundle says so."""
    with pytest.raises(UnknownUdf, match="'gone'"):
        run(bundle(tmp_path, {}), "gone")


def test_replaced_streams_are_put_back(tmp_path: Path) -> None:
    """A UDF that captures or closes its output doesn't silence the next one."""
    before = sys.stdout, sys.stderr
    canvas = bundle(
        tmp_path,
        {"hello.py": "import io, sys\n@fused.udf\ndef udf(): sys.stdout = sys.stderr = io.StringIO()"},
    )

    run(canvas)

    assert (sys.stdout, sys.stderr) == before


# -- modules of the canvas

USES_UTILS = "import utils\n@fused.udf\ndef udf(): return utils.NAME"


def test_modules_come_from_the_bundle_not_from_disk(tmp_path: Path) -> None:
    """What the server has read is what runs."""
    (tmp_path / "utils.py").write_text("NAME = 'disk'")

    assert value(bundle(tmp_path, {"hello.py": USES_UTILS, "utils.py": "NAME = 'bundle'"})) == "bundle"


def test_an_edited_module_is_seen_and_its_old_form_is_not_mixed_in(tmp_path: Path) -> None:
    """Another text is another module; going back works too."""
    old, new = (bundle(tmp_path, {"hello.py": USES_UTILS, "utils.py": f"NAME = {n}"}) for n in (1, 2))

    assert [value(canvas) for canvas in (old, new, old)] == [1, 2, 1]


def test_an_unchanged_module_stays_warm(tmp_path: Path) -> None:
    """A module is executed once for as long as no module changes, also after an edit of the UDF."""
    utils = "import random\nNAME = random.random()"
    first = bundle(tmp_path, {"hello.py": USES_UTILS, "utils.py": utils})
    second = bundle(tmp_path, {"hello.py": USES_UTILS + " + 0", "utils.py": utils})

    assert value(first) == value(first) == value(second)


def test_udfs_with_different_modules_of_one_name_do_not_mix(tmp_path: Path) -> None:
    """Two UDFs have their own ``utils``, also when one runs the other in the middle."""
    outer = """
    @fused.udf
    def udf():
        got = fused.run('b')
        import utils
        return [utils.NAME, got]
    """
    canvas = bundle(
        tmp_path,
        {"a.py": outer, "b.py": USES_UTILS, "first.py": "NAME = 'a'", "second.py": "NAME = 'b'"},
        modules={"a": {"utils": "first.py"}, "b": {"utils": "second.py"}},
    )

    assert value(canvas, "a") == ["a", "b"]
    assert value(canvas, "b") == "b"
    assert "utils" not in sys.modules


def test_only_a_udfs_own_modules_are_importable(tmp_path: Path) -> None:
    """A UDF doesn't see modules of its neighbours, even if it is run by one."""
    files = {
        "a.py": "import helper\n@fused.udf\ndef udf(): return fused.run('b')",
        "b.py": "@fused.udf\ndef udf():\n  import helper",
        "helper.py": "",
    }
    canvas = bundle(tmp_path, files, modules={"a": {"helper": "helper.py"}, "b": {}})

    with pytest.raises(UdfError, match="No module named 'helper'"):
        run(canvas, "a")


def test_a_canvas_module_comes_before_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``utils`` of the canvas is found although another one is imported; that one is back afterwards."""
    installed = types.ModuleType("utils")
    monkeypatch.setitem(sys.modules, "utils", installed)

    assert value(bundle(tmp_path, {"hello.py": USES_UTILS, "utils.py": "NAME = 1"})) == 1
    assert sys.modules["utils"] is installed


def test_a_canvas_module_never_replaces_the_standard_library(tmp_path: Path) -> None:
    """``json.py`` in a canvas is ignored, and so are ``fused.py`` and ``tileserver.py``."""
    source = "import json, fused, tileserver\n@fused.udf\ndef udf(): return json.loads('[1]')"
    files = dict.fromkeys(("json.py", "fused.py", "tileserver.py", "colorsys.py"), "raise SystemExit")

    assert value(bundle(tmp_path, {"hello.py": source, **files})) == [1]


@pytest.mark.parametrize("with_init", [True, False])
def test_packages_are_importable(tmp_path: Path, with_init: bool) -> None:
    """Modules in folders import by their dotted names, with or without ``__init__.py``."""
    modules = {"pkg.deep.mod": "pkg/deep/mod.py", "pkg.other": "pkg/other.py"}
    files = {"pkg/deep/mod.py": "from ..other import N", "pkg/other.py": "N = 7"}
    if with_init:
        modules["pkg"] = "pkg/__init__.py"
        files["pkg/__init__.py"] = "M = 1"
    source = "from pkg.deep.mod import N\nimport pkg\n@fused.udf\ndef udf(): return N + getattr(pkg, 'M', 1)"
    canvas = bundle(tmp_path, {"hello.py": source, **files}, modules={"hello": modules})

    assert value(canvas) == 8


def test_a_module_may_use_fused(tmp_path: Path) -> None:
    """``fused.cache`` and the types work in modules too."""
    utils = "import fused\n@fused.cache\ndef twice(n): return 2 * n\nNAME = twice(4)"

    assert value(bundle(tmp_path, {"hello.py": USES_UTILS, "utils.py": utils})) == 8


def test_many_module_sets_do_not_pile_up(tmp_path: Path) -> None:
    """Of many different sets the last few stay imported; an old one is imported again, correctly."""
    names = [f"u{n}" for n in range(12)]
    files = {f"{name}.py": USES_UTILS for name in names}
    texts = {f"m{n}.py": f"NAME = {n}" for n in range(12)}
    modules = {name: {"utils": f"m{n}.py"} for n, name in enumerate(names)}
    canvas = bundle(tmp_path, {**files, **texts}, modules=modules)

    assert [value(canvas, name) for name in (*names, *names)] == [*range(12), *range(12)]


# -- the process


def test_the_environment_of_a_bundle_goes_with_it(tmp_path: Path) -> None:
    """Variables of one bundle are undone by the next, to what they were before."""
    os.environ["CITY"] = "before"
    source = "import os\n@fused.udf\ndef udf(): return [os.environ.get('CITY'), os.environ.get('NEW')]"
    first = bundle(tmp_path, {"hello.py": source}, environment={"CITY": "Bern", "NEW": "1"})
    second = bundle(tmp_path, {"hello.py": source})

    assert [value(first), value(second)] == [["Bern", "1"], ["before", None]]
