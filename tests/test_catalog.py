"""Canvases on disk: what is found, what is broken, and what an edit changes."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from tileserver import canvas
from tileserver.canvas import Canvas, Secrets, read_canvas
from tileserver.catalog import Catalog
from tileserver.errors import NotFound, UdfError, UnknownFormat, UnknownUdf
from tileserver.udf import Udf

UDF = "import fused\n\n@fused.udf\ndef udf(n: int = 1):\n    return n\n"


def write(workspace: Path, files: dict[str, str]) -> Catalog:
    for name, text in files.items():
        path = workspace / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Catalog(workspace)


def revision(catalog: Catalog, name: str, canvas: str = "city") -> str:
    return catalog.load(canvas).udfs[name].revision


def test_a_canvas_is_a_folder_with_a_udf_or_a_canvas_toml(tmp_path: Path) -> None:
    """docs/workspace.md: other folders, hidden ones and odd names are not canvases."""
    catalog = write(
        tmp_path,
        {
            "city/a.py": UDF,
            "empty/canvas.toml": 'title = "Later"',
            "notes/readme.txt": "",
            ".tileserver/x.py": UDF,
            "not a name/a.py": UDF,
            "file.py": UDF,
        },
    )

    assert catalog.names() == ["city", "empty"]


def test_links_pipes_and_devices_keep_no_canvas_from_being_read(tmp_path: Path) -> None:
    """Those that lead to themselves, or that to read would never end."""
    catalog = write(tmp_path, {"city/a.py": UDF, "city/styles/x.json": "{}"})
    for place in ("", "city", "city/styles"):
        (tmp_path / place / "loop.json").symlink_to("loop.json")
    (tmp_path / "city" / "zero.py").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "city" / "pipe.py")
    os.mkfifo(tmp_path / "city" / "styles" / "pipe.json")

    assert catalog.names() == ["city"]
    assert list(catalog.load("city").udfs) == ["a"]


def test_both_layouts_are_read_and_modules_are_told_apart(tmp_path: Path) -> None:
    """docs/workspace.md: one file for a UDF, or Fused's folder with meta.json and utils.py."""
    meta = {
        "job_config": {
            "steps": [
                {
                    "udf": {
                        "entrypoint": "second",
                        "parameters": {"n": 7},
                        "source": "Deep.py",
                        "headers": [{"module_name": "helpers", "source_file": "utils.py"}],
                    }
                }
            ]
        }
    }
    two = "@fused.udf\ndef first(): pass\n@fused.udf\ndef second(n: int): return n\n"
    canvas = write(
        tmp_path,
        {
            "city/flat.py": UDF,
            "city/shared.py": "X = 1\n",
            "city/Deep/Deep.py": two,
            "city/Deep/utils.py": "Y = 2\n",
            "city/Deep/meta.json": json.dumps(meta),
        },
    ).load("city")

    assert set(canvas.udfs) == {"flat", "Deep"}
    assert canvas.udfs["Deep"].signature.entry == "second"
    assert canvas.udfs["Deep"].defaults == {"n": 7}
    assert canvas.bundle.udfs["flat"].modules == {"shared": "shared.py"}
    assert canvas.bundle.udfs["Deep"].modules == {
        "shared": "shared.py",
        "utils": "Deep/utils.py",
        "helpers": "Deep/utils.py",
    }
    assert canvas.problems == ()


@pytest.mark.parametrize(
    ("hint", "parameters", "toml", "layer"),
    [
        ("auto", "bounds", "", True),
        ("auto", "n", "", False),
        ("vector_tile", "n", "", True),
        ("raster", "n", "", True),
        ("vector_single", "bounds", "", True),
        ("vector_single_none", "bounds", "", False),
        ("vector_single_none", "bounds", "[udf.Deep]\nmode = 'tile'\n", True),
        ("something_new", "bounds", "", True),
        (7, "n", "", False),
    ],
)
def test_a_meta_json_hints_at_the_use_of_its_udf(
    tmp_path: Path, hint: object, parameters: str, toml: str, layer: bool
) -> None:
    """Contract, section 13: ``fused:udfType`` says whether a UDF is a layer, unless canvas.toml does; it
    refuses no address."""
    udf_object = {"source": "Deep.py", "metadata": {"fused:udfType": hint}}
    files = {
        "city/canvas.toml": toml,
        "city/Deep/Deep.py": f"@fused.udf\ndef udf({parameters}): pass\n",
        "city/Deep/meta.json": json.dumps({"job_config": {"steps": [{"udf": udf_object}]}}),
    }

    udf = write(tmp_path, files).load("city").udfs["Deep"]

    assert udf.is_layer is layer
    assert udf.settings.mode != "single"


def test_packages_of_a_canvas_are_importable_by_their_dotted_names(tmp_path: Path) -> None:
    """As Python would find them from the canvas's folder."""
    canvas = write(tmp_path, {"city/a.py": UDF, "city/lib/__init__.py": "", "city/lib/geo.py": ""}).load(
        "city"
    )

    assert canvas.bundle.udfs["a"].modules == {"lib": "lib/__init__.py", "lib.geo": "lib/geo.py"}


@pytest.mark.parametrize(
    ("file", "text", "reason", "line"),
    [
        ("bad.py", "import fused\n@fused.udf\ndef udf(:\n", "SyntaxError", 3),
        ("bad.py", "@fused.udf\ndef a(): pass\n@fused.udf\ndef b(): pass\n", "no UDF called 'udf'", 2),
        ("canvas.toml", "title =\n", "can't be read", None),
        ("canvas.toml", "[udf.good]\nmode = 'fast'\n", "mode: takes one of auto, tile, single", None),
        ("canvas.toml", "[udf.good]\nmod = 'tile'\n", "unknown key 'mod'", None),
        ("good/meta.json", "{", "is not JSON", None),
        ("good/good.py", UDF, "good.py has the same name and is served", None),
    ],
)
def test_what_is_broken_is_listed_and_the_rest_is_served(
    tmp_path: Path, file: str, text: str, reason: str, line: int | None
) -> None:
    """Each problem names its file, the reason and, where there is one, the line."""
    extra = {"city/good/good.py": UDF} if file == "good/meta.json" else {"city/good.py": UDF}
    canvas = write(tmp_path, {**extra, f"city/{file}": text}).load("city")

    assert "good" in canvas.udfs
    assert [(p.path, p.line) for p in canvas.problems] == [(file, line)]
    assert reason in canvas.problems[0].reason


def test_a_broken_udf_answers_with_its_own_error(tmp_path: Path) -> None:
    """Contract, section 11: a syntax error has the line of its own."""
    canvas = write(tmp_path, {"city/bad.py": "@fused.udf\ndef udf(:\n"}).load("city")

    with pytest.raises(UdfError, match="SyntaxError") as failure:
        canvas.find("bad.json")

    assert (failure.value.exception_class, failure.value.lineno) == ("SyntaxError", 2)


@pytest.mark.parametrize(
    ("asked", "name", "extension"),
    [("a", "a", None), ("a.csv", "a", "csv"), ("a.pbf", "a", "mvt"), ("report.v2", "report.v2", None)],
)
def test_a_name_may_have_an_extension(tmp_path: Path, asked: str, name: str, extension: str | None) -> None:
    """Contract, section 3: an exact name beats a name with an extension."""
    canvas = write(tmp_path, {"city/a.py": UDF, "city/report.v2.py": UDF, "city/report.py": UDF}).load("city")

    udf, found = canvas.find(asked)

    assert (udf.name, found) == (name, extension)


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ("b", UnknownUdf),
        ("b.csv", UnknownUdf),
        ("a.docx", UnknownFormat),
        ("a.csvt", NotFound),
        ("a.aux.xml", NotFound),
    ],
)
def test_other_names_are_refused(tmp_path: Path, asked: str, error: type[Exception]) -> None:
    """Contract, section 3 and docs/http.md: unknown UDF, unknown format, side-cars of GIS programs."""
    canvas = write(tmp_path, {"city/a.py": UDF}).load("city")

    with pytest.raises(error):
        canvas.find(asked)


EDITS = {
    "its source": ("city/a.py", UDF + "\n# edited\n", True),
    "a module": ("city/shared.py", "X = 2\n", True),
    "a data file": ("city/data/x.csv", "1,2\n", True),
    "its settings": ("city/canvas.toml", "[udf.a]\nsize = 512\n", True),
    "the environment": ("city/canvas.toml", '[env]\nREGION = "eu"\n', True),
    "a neighbour it names": ("city/b.py", UDF + "\n# edited\n", True),
    "a neighbour of that": ("city/c.py", UDF + "\n# edited\n", True),
    "a stranger": ("city/d.py", UDF + "\n# edited\n", False),
    "another UDF's settings": ("city/canvas.toml", "[udf.d]\nsize = 512\n", False),
    "another canvas": ("town/a.py", UDF, False),
}


@pytest.mark.parametrize(("file", "text", "changes"), EDITS.values(), ids=EDITS)
def test_a_revision_covers_what_can_change_the_answer(
    tmp_path: Path, file: str, text: str, changes: bool
) -> None:
    """docs/workspace.md: and nothing else, so that an edit elsewhere keeps tiles cached."""
    catalog = write(
        tmp_path,
        {
            "city/a.py": UDF.replace("return n", "return fused.run('b')"),
            "city/b.py": UDF.replace("return n", "return fused.load('c')(n)"),
            "city/c.py": UDF,
            "city/d.py": UDF,
            "city/shared.py": "X = 1\n",
            "city/data/x.csv": "1\n",
        },
    )
    before = revision(catalog, "a")

    write(tmp_path, {file: text})

    assert (revision(catalog, "a") != before) is changes


def test_a_computed_neighbour_makes_the_whole_canvas_count(tmp_path: Path) -> None:
    """docs/design.md: a name that only a run knows may be any."""
    catalog = write(
        tmp_path, {"city/a.py": UDF.replace("return n", "return fused.run(str(n))"), "city/d.py": UDF}
    )
    before = revision(catalog, "a")

    write(tmp_path, {"city/d.py": UDF + "\n# edited\n"})

    assert revision(catalog, "a") != before


def test_data_outside_the_canvas_counts_where_a_glob_names_it(tmp_path: Path) -> None:
    """docs/workspace.md, ``data``."""
    outside = tmp_path / "elsewhere"
    write(
        tmp_path,
        {
            "work/city/a.py": UDF,
            "work/city/canvas.toml": f'[udf.a]\ndata = ["{outside}/*.csv"]\n',
            "elsewhere/x.csv": "1\n",
        },
    )
    catalog = Catalog(tmp_path / "work")
    before = revision(catalog, "a")

    write(tmp_path, {"elsewhere/x.csv": "1,2\n"})

    assert revision(catalog, "a") != before


@pytest.mark.anyio
async def test_an_edit_is_seen_at_the_next_request(tmp_path: Path) -> None:
    """docs/workspace.md: without a restart; for the UDF's own file, at once."""
    catalog = write(tmp_path, {"city/a.py": UDF})
    before = (await catalog.resolve("city", "a")).udf.revision

    write(tmp_path, {"city/a.py": UDF + "\n# edited\n"})

    assert (await catalog.resolve("city", "a")).udf.revision != before


@pytest.mark.anyio
async def test_a_mended_udf_is_served_at_the_next_request(tmp_path: Path) -> None:
    """Somebody has just fixed the line that the error named."""
    catalog = write(tmp_path, {"city/a.py": "@fused.udf\ndef udf(:\n"})
    with pytest.raises(UdfError):
        await catalog.resolve("city", "a")

    write(tmp_path, {"city/a.py": UDF})

    assert (await catalog.resolve("city", "a")).udf.name == "a"


@pytest.mark.anyio
async def test_a_new_udf_is_served_at_the_next_request(tmp_path: Path) -> None:
    """No waiting for the next look at the folder."""
    catalog = write(tmp_path, {"city/a.py": UDF})
    await catalog.resolve("city", "a")

    write(tmp_path, {"city/b.py": UDF})

    assert (await catalog.resolve("city", "b.json")).udf.name == "b"


@pytest.mark.anyio
async def test_requests_go_on_while_a_canvas_is_looked_at(tmp_path: Path) -> None:
    """Only one that comes long after the last look waits for the next, which sees what has changed."""
    now, may_look = [0.0], threading.Event()
    may_look.set()

    def secrets_of(_: str) -> Secrets:
        assert may_look.wait(30)
        return Secrets()

    write(tmp_path, {"city/a.py": UDF})
    catalog = Catalog(tmp_path, secrets_of, clock=lambda: now[0])
    before = await catalog.canvas("city")
    write(tmp_path, {"city/table.csv": "1"})
    may_look.clear()

    now[0] = 0.7
    assert await catalog.canvas("city") is before
    assert await catalog.canvas("city") is before
    now[0] = 0.9
    waiting = asyncio.create_task(catalog.canvas("city"))
    may_look.set()

    assert (await waiting).udfs["a"].revision != before.udfs["a"].revision


@pytest.mark.anyio
async def test_an_edit_during_a_look_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file that is asked for is served as it is now, not as a look that was under way has read it."""
    catalog = write(tmp_path, {"city/a.py": UDF})
    edits = [f"{UDF}# during the look\n"]

    def read_and_edit(*arguments: Any) -> Canvas:
        canvas = read_canvas(*arguments)
        if edits:
            write(tmp_path, {"city/a.py": edits.pop()})
        return canvas

    await catalog.resolve("city", "a")
    write(tmp_path, {"city/a.py": f"{UDF}# before it\n"})
    monkeypatch.setattr("tileserver.catalog.read_canvas", read_and_edit)

    found = await catalog.resolve("city", "a")

    assert found.bundle.files["a.py"].endswith("# during the look\n")


@pytest.mark.parametrize("edited", ["city/a.py", "outside/data.csv"])
def test_an_edit_while_a_canvas_is_read_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edited: str
) -> None:
    """Whatever was read before it is read again: what a file was taken for is what it was before."""
    toml = f'[udf.a]\ndata = ["{tmp_path}/outside/*.csv"]\n'
    files = {"city/a.py": UDF, "city/canvas.toml": toml, "outside/data.csv": "1"}
    catalog = write(tmp_path, files)
    make = canvas._Reader._udf

    def make_then_edit(reader: canvas._Reader, *facts: Any) -> Udf:
        made = make(reader, *facts)
        (tmp_path / edited).write_text(f"{files[edited]}\n# edited\n")
        return made

    monkeypatch.setattr(canvas._Reader, "_udf", make_then_edit)
    before = revision(catalog, "a")
    monkeypatch.undo()

    assert revision(catalog, "a") != before


def test_a_canvas_that_is_not_there_says_so(tmp_path: Path) -> None:
    """Whatever the name is made of."""
    for name in ("nowhere", "../etc", ""):
        with pytest.raises(UnknownUdf, match="has no canvas called"):
            Catalog(tmp_path).load(name)


def test_a_neighbour_may_be_named_with_its_canvas(tmp_path: Path) -> None:
    """``canvas/name`` is the same neighbour as ``name``: its edits change the revision too."""
    folder = tmp_path / "city"
    folder.mkdir()
    (folder / "a.py").write_text("@fused.udf\ndef udf(): return fused.run('city/b')\n")
    (folder / "b.py").write_text("@fused.udf\ndef udf(): return 1\n")
    before = Catalog(tmp_path).load("city").udfs["a"].revision
    (folder / "b.py").write_text("@fused.udf\ndef udf(): return 2\n")

    assert Catalog(tmp_path).load("city").udfs["a"].revision != before


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["a\0.png", "\0", "../a.x", "a" * 300 + ".y", "/", "\ud800.z", ".", ""])
async def test_a_name_that_no_file_can_have_is_unknown(tmp_path: Path, name: str) -> None:
    """Names come from URLs."""
    catalog = write(tmp_path, {"city/a.py": UDF})
    await catalog.canvas("city")

    with pytest.raises(UnknownUdf):
        await catalog.resolve("city", name)
