"""The other names in ``fused``: what is there, what isn't, and who asked for a run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bundles import bundle, run, value
from tests.bundles import worker_process as worker_process
from tileserver import fused
from tileserver.errors import UdfError

pytestmark = pytest.mark.usefixtures("worker_process")


def returning(folder: Path, expression: str, before: str = "") -> object:
    """What a UDF that returns an expression gives."""
    canvas = bundle(folder, {"hello.py": f"{before}\n@fused.udf\ndef udf(): return {expression}\n"})
    return value(canvas)


HEADERS = {
    "Accept-Language": "de",
    "Fused-Share-Token": "fc_x/hello",
    "Fused-Share-User-Email": "me@example.org",
}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("fused.context.get_header('accept-language')", "de"),
        ("fused.context.get_header('ACCEPT-LANGUAGE')", "de"),
        ("fused.context.get_header('x-none')", None),
        ("fused.context.get_headers()['Accept-language']", "de"),
        ("fused.context.get_headers().get('Accept-Language')", "de"),
        ("'fused-share-token' in fused.context.get_headers()", True),
        ("fused.context.get_share_token()", "fc_x/hello"),
        ("fused.context.get_user_email()", "me@example.org"),
    ],
)
def test_reading_the_caller_is_noted(tmp_path: Path, expression: str, expected: object) -> None:
    """A run that looks at its caller says so, since its result isn't anybody else's."""
    canvas = bundle(tmp_path, {"hello.py": f"@fused.udf\ndef udf(): return [{expression}]"})

    encoded = run(canvas, headers=HEADERS)

    assert value(canvas, headers=HEADERS) == [expected]
    assert encoded.meta["read_caller"] is True


def test_reading_the_caller_in_a_neighbour_or_thread_is_noted(tmp_path: Path) -> None:
    """It counts wherever in the run it happens."""
    source = """
    import threading
    @fused.udf
    def udf(): fused.run("other")
    """
    other = (
        "import threading\n@fused.udf\ndef udf():\n  t = threading.Thread(target=fused.context.get_headers)\n"
    )
    canvas = bundle(tmp_path, {"hello.py": source, "other.py": other + "  t.start(); t.join()"})

    assert run(canvas).meta["read_caller"] is True


def test_this_udf_is_the_one_that_runs(tmp_path: Path) -> None:
    """Inside a neighbour it is the neighbour; it isn't a look at the caller."""
    source = "@fused.udf\ndef udf(): return [fused.context.this_udf().name, fused.run('other')]"
    files = {"hello.py": source, "other.py": "@fused.udf\ndef udf(): return fused.context.this_udf().name"}
    canvas = bundle(tmp_path, files)

    assert value(canvas) == ["hello", "other"]
    assert "read_caller" not in run(canvas).meta


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("fused.secrets['K']", "KeyError: \"no secret called 'K'\""),
        ("fused.secrets.K", "AttributeError: no secret called 'K'"),
        ("fused.secret('K')", "KeyError: \"no secret called 'K'\""),
        ("fused.ingest", "AttributeError: fused.ingest is not provided by tileserver; provided: "),
        ("fused.api.schedule_udf", "AttributeError: fused.api.schedule_udf is not provided by tileserver; "),
        ("__import__('fused.h3')", "ImportError: fused.h3 is not provided by tileserver; provided: "),
        ("fused.udf(nonsense=1)", "TypeError: "),
    ],
)
def test_what_is_not_there_is_said(tmp_path: Path, expression: str, message: str) -> None:
    """A missing secret or name fails with a sentence."""
    with pytest.raises(UdfError) as caught:
        returning(tmp_path, expression)

    assert caught.value.message.startswith(message)


@pytest.mark.parametrize(
    "statement", ["import fused.h3", "from fused import h3", "from fused.h3 import read"]
)
def test_importing_what_is_not_there_says_so(tmp_path: Path, statement: str) -> None:
    """Every form of import gives the same sentence."""
    with pytest.raises(UdfError, match="ImportError: fused.h3 is not provided by tileserver"):
        returning(tmp_path, "1", statement)


@pytest.mark.parametrize(
    "statement",
    [
        "import fused",
        "import fused.types",
        "from fused.types import Bounds",
        "from fused import cache, udf, types",
        "import fused.api, fused.context, fused.core",
        "from fused.api import list, upload",
        "from fused.core import create_path",
    ],
)
def test_importing_what_is_there_works(tmp_path: Path, statement: str) -> None:
    """``fused`` and its submodules import in every form."""
    assert returning(tmp_path, "1", statement) == 1


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("len(fused.secrets)", 0),
        ("list(fused.secrets)", []),
        ("fused.secrets.get('K', 'd')", "d"),
        ("repr(fused.secrets)", "<fused.secrets>"),
        ("hasattr(fused.secrets, 'K')", False),
        ("hasattr(fused, 'h3')", False),
        ("[fused.options.show.enable_tqdm, fused.options.auth.scopes]", [None, None]),
        ("fused.options.data_directory.name", "files"),
        ("[fused.options.base_url]", [None]),
    ],
)
def test_harmless_questions_are_answered(tmp_path: Path, expression: str, expected: object) -> None:
    """Looking for something isn't an error."""
    assert returning(tmp_path, expression) == expected


def test_options_can_be_set_and_are_forgotten(tmp_path: Path) -> None:
    """What one run sets, the next doesn't see."""
    source = """
    before = fused.options.x
    fused.options.x = 3
    @fused.udf
    def udf(): return [before, fused.options.x]
    """
    canvas = bundle(tmp_path, {"hello.py": source})

    assert value(canvas) == value(canvas) == [None, 3]


def test_the_decorator_accepts_what_fused_accepts() -> None:
    """All documented arguments are taken, and the function stays callable."""

    @fused.udf(
        name="n",
        cache_max_age="1h",
        default_parameters={"a": 1},
        headers=[],
        engine="remote",
        instance_type="m5",
        disk_size_gb=1,
        region="eu",
    )
    def work(a: int) -> int:
        """Documentation."""
        return a + 1

    assert work(1) == 2
    assert (work.__name__, work.__doc__) == ("work", "Documentation.")


def test_outside_of_a_run_there_is_no_context() -> None:
    """Names that belong to a run say that there is none."""
    with pytest.raises(RuntimeError, match="only while a UDF runs"):
        fused.context.get_headers()


def test_the_name_fused_is_entered_by_install_only() -> None:
    """Importing the package changes nothing; the server never installs it."""
    check = "assert 'fused' not in sys.modules; f.install(); import fused; print(fused is f)"
    script = f"import sys, tileserver.fused as f; {check}"

    done = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": ":".join(sys.path)}, capture_output=True
    )

    assert done.stdout == b"True\n"
