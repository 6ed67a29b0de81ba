"""Contract, section 13, execution: how the source of a UDF becomes one call, over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.conftest import Server, serving


def meta(**udf_object: object) -> str:
    return json.dumps({"version": "0.0.3", "job_config": {"steps": [{"type": "udf", "udf": udf_object}]}})


FILES = {
    "c/fresh.py": """
seen = []


def helper(value):
    seen.append(value)
    return seen


@fused.udf
def udf(n: int = 1):
    return helper(n)
""",
    "c/several.py": """
import fused


@fused.udf
def other(n: int = 1):
    return n + 1


@fused.udf(cache_max_age=0)
def udf(n: int = 1):
    return [other(n), fused.run(other, n="41")]
""",
    "c/bare.py": "from fused import udf\n@udf\ndef anything(n: int = 1):\n    return n\n",
    "c/called.py": "from fused import udf\n@udf(cache_max_age='1h')\ndef any(n: int = 1):\n    return n\n",
    "c/awaited.py": "import asyncio\n@fused.udf\nasync def udf(n: int = 1):\n    await asyncio.sleep(0)\n"
    "    return n\n",
    "c/unclear.py": "@fused.udf\ndef one():\n    return 1\n\n\n@fused.udf\ndef two():\n    return 2\n",
    "c/inner.py": "def make():\n    @fused.udf\n    def udf():\n        return 'inner'\n    return udf\n\n\n"
    "@fused.udf\ndef outer():\n    return make()()\n",
    "c/stored.py": "@fused.udf(name='Other', default_parameters={'n': 7, 'm': None}, engine='large')\n"
    "def udf(n: int = 1, m: int = 2):\n    return [n, m]\n",
    # Fused's folder layout
    "c/Deep/Deep.py": "from utils import double\nfrom helpers import triple\n\n\n"
    "@fused.udf\ndef first():\n    return 'first'\n\n\n"
    "@fused.udf\ndef second(n: int):\n    return [double(n), triple(n)]\n",
    "c/Deep/utils.py": "def double(n):\n    return 2 * n\n",
    "c/Deep/extra.py": "def triple(n):\n    return 3 * n\n",
    "c/Deep/README.md": "# Deep\n",
    "c/Deep/meta.json": meta(
        type="geopandas_v2",
        name="Deep",
        entrypoint="second",
        parameters={"n": 7},
        source="Deep.py",
        headers=[
            {"module_name": "utils", "source_file": "utils.py"},
            {"module_name": "helpers", "source_file": "extra.py"},
        ],
        metadata={"fused:udfType": "vector_single_none"},
    ),
    # lines
    "c/lines.py": "\n\n# a comment\n\n\n@fused.udf\ndef udf(n: int = 0):\n    text = '''\n    two lines\n'''"
    "\n    return 1 / n\n",
    "c/helped.py": "def divide(n):\n    return 1 / n\n\n\n@fused.udf\ndef udf():\n    return divide(0)\n",
    "c/again.py": "@fused.udf\ndef udf(n: int = 0):\n    return fused.run('again', n=n + 1)\n",
    "c/once.py": "@fused.udf\ndef udf():\n    return 'once'\n",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("execution"), FILES) as running:
        yield running


def test_a_source_is_executed_anew_for_each_run(server: Server) -> None:
    """One namespace for helpers, imports and the UDF; nothing of it is left for the next run."""
    for _ in range(3):
        assert server.get("/{c}/fresh?n=5&cache_max_age=0").json() == [5]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("several", [2, 42]), ("bare", 1), ("called", 1), ("awaited", 1), ("inner", "inner")],
)
def test_which_function_is_called(server: Server, name: str, expected: object) -> None:
    """The only decorated one, else the one called ``udf``; every spelling of the decorator, at the top
    level only. The others stay functions that it may call or run, and a coroutine is awaited."""
    assert server.get(f"/{{c}}/{name}?format=json").json() == expected


def test_several_functions_without_a_choice_are_an_error(server: Server) -> None:
    """It names them, and fails only this UDF."""
    response = server.get("/{c}/unclear")

    assert response.status_code == 422
    assert "one, two" in response.json()["detail"]


def test_the_decorator_stores_defaults(server: Server) -> None:
    """``default_parameters`` come before the function's own; the request's values override both."""
    assert server.get("/{c}/stored").json() == [7, 2]
    assert server.get("/{c}/stored?n=3&m=4").json() == [3, 4]


def test_a_folder_of_fused_is_a_udf(server: Server) -> None:
    """Entry point, modules and stored parameters come from ``meta.json``; the request's win."""
    assert server.get("/{c}/Deep").json() == [14, 21]
    assert server.get("/{c}/Deep?n=1").json() == [2, 3]
    assert server.get("/{c}/Deep/run/tiles/0/0/0.json").json() == [14, 21]


@pytest.mark.parametrize(("name", "line"), [("lines", 11), ("helped", 7)])
def test_lines_are_those_of_the_udfs_own_text(server: Server, name: str, line: int) -> None:
    """Blank lines, comments and literals over several lines count; of a helper it is the line that called."""
    response = server.get(f"/{{c}}/{name}")

    assert response.json()["error"] == "ZeroDivisionError"
    assert json.loads(response.headers["x-fused-metadata"])["lineno"] == line
    assert server.get("/{c}/lines?n=1").json() == 1.0


def test_udfs_that_run_one_another_end_at_the_limit(server: Server) -> None:
    """Five deep, counted on from what the caller says; then an error, never a hang."""
    endless = server.get("/{c}/again")
    statuses = [
        server.get("/{c}/once?cache_max_age=0", headers={"fused-recursion": str(depth)}).status_code
        for depth in (1, 5, 6)
    ]

    assert endless.status_code == 422
    assert "RecursionError" in endless.json()["detail"]
    assert statuses == [200, 200, 422]
