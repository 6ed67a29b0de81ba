"""``fused.run`` and ``fused.load`` of what is not in this process: by tokens, of other canvases, over the
worker's channel (contract, section 13)."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Server, serving

VALUES = """
import fused
import numpy as np

@fused.udf(cache_max_age="0s")
def udf(kind: str = "text", n: int = 3):
    import geopandas as gpd, pandas as pd, shapely, xarray as xr
    array = np.arange(n * 4, dtype="int16").reshape(n, 4)
    return {
        "text": "<b>hello</b>",
        "number": 7,
        "list": [1, "two", None],
        "none": None,
        "array": array,
        "cube": np.ones((2, n, 4), dtype="float32"),
        "pair": (array.astype("uint8"), [1.0, 2.0, 3.0, 4.0]),
        "table": pd.DataFrame({"a": [1, 2], "b": ["x", None]}, index=[5, 6]),
        "features": gpd.GeoDataFrame({"a": [1]}, geometry=[shapely.Point(1, 2)], crs="EPSG:32632"),
        "bundle": {"t": pd.DataFrame({"a": [1]}), "r": array, "s": "text"},
        "xarray": xr.Dataset({"depth": (("y", "x"), np.ones((n, 4)))}),
    }[kind]
"""

ECHO = """
@fused.udf(cache_max_age="0s")
def udf(a=None, b: int = 0, c: list = None, d: fused.types.Bounds = None):
    return {"a": a, "b": b, "c": c, "d": d}
"""

FILES = {
    "lib/values.py": VALUES,
    "lib/echo.py": ECHO,
    "lib/canvas.toml": "public_name = true\n",
    "lib/fails.py": "@fused.udf\ndef udf():\n    print('before')\n    raise ValueError('boom')\n",
    "lib/unfit.py": "@fused.udf\ndef udf():\n    return object()\n",
    "lib/slow.py": "import time\n@fused.udf\ndef udf(s: float = 60): time.sleep(s); return s\n",
    "lib/tile.py": "@fused.udf\ndef udf(bounds: fused.types.Bounds = None): return bounds\n",
    "lib/headers.py": "@fused.udf\ndef udf(): return dict(fused.context.get_headers())\n",
    "lib/common.py": (
        "import helper\nFACTOR = 3\ndef scaled(n): return helper.BASE + FACTOR * n\n"
        "@fused.udf\ndef udf(n: int = 1): return scaled(n)\n"
    ),
    "lib/helper.py": "BASE = 100\n",
    "hidden/data.py": "@fused.udf\ndef udf(): return 1\n",
    "app/ask.py": """
import time

@fused.udf(cache_max_age="0s")
def udf(code: str):
    names = {}
    exec(code, {"fused": fused, "time": time}, names)
    return names["found"]
""",
    "app/near.py": "@fused.udf\ndef udf(n: int = 1):\n    print('near', n)\n    return n + 1\n",
    "app/seen.py": "@fused.udf\ndef udf(): return fused.context.get_header('x-mine')\n",
    "app/again.py": """
@fused.udf(cache_max_age="0s")
def udf(token: str, depth: int = 0):
    return [fused.context.get_recursion_factor(), fused.run(token, token=token, depth=depth + 1)]
""",
    "app/circle.py": "@fused.udf\ndef udf(token: str): return fused.run(token, token=token)\n",
    "app/deep.py": """
@fused.udf(cache_max_age="0s")
def udf(token: str, depth: int = 1, wide: int = 1):
    if depth == 4:
        return 1
    args = [{"token": token, "depth": depth + 1, "wide": wide, "n": n} for n in range(wide)]
    return sum(fused.submit(token, args).result)
""",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("elsewhere") / "w", FILES) as running:
        access = running.access
        access.share("hidden", team=True)
        access.close()
        yield running


def ask(server: Server, code: str, **headers: str) -> Any:
    """What code finds inside a run of the canvas ``app``; ``{lib}`` stands for a token in it."""
    for canvas, token in server.tokens.items():
        code = code.replace(f"{{{canvas}}}", token)
    response = server.get("/{app}/ask.json", params={"code": code}, headers=headers)
    assert response.status_code == 200, response.text
    return response.json()


def failure(server: Server, code: str) -> str:
    """The message that code inside a run fails with."""
    for canvas, token in server.tokens.items():
        code = code.replace(f"{{{canvas}}}", token)
    response = server.get("/{app}/ask.json", params={"code": code})
    assert response.status_code == 422, response.text
    return str(response.json()["detail"])


SHAPES = {
    "text": ("v", "<b>hello</b>"),
    "number": ("v", 7),
    "list": ("v", [1, "two", None]),
    "none": ("v is None", True),
    "array": ("[v.dtype.name, v.tolist()]", ["int16", [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]]),
    "cube": ("[v.dtype.name, list(v.shape)]", ["float32", [2, 3, 4]]),
    "pair": ("[list(v[0].shape), v[1]]", [[3, 4], [1.0, 2.0, 3.0, 4.0]]),
    "table": ("[list(v.columns), list(v.index), v.a.tolist()]", [["a", "b"], [5, 6], [1, 2]]),
    "features": ("[type(v).__name__, v.crs.to_epsg(), v.geometry[0].x]", ["GeoDataFrame", 32632, 1.0]),
    "bundle": ("[v['t'].a.tolist(), v['r'].shape[1], v['s']]", [[1], 4, "text"]),
    "xarray": ("[type(v).__name__, list(v.data_vars)]", ["Dataset", ["depth"]]),
}


@pytest.mark.parametrize("kind", list(SHAPES))
def test_a_value_comes_back_as_it_was_returned(server: Server, kind: str) -> None:
    """contract, sections 7.4 and 13: what a UDF that is run by its token returns is rebuilt."""
    expression, expected = SHAPES[kind]

    found = ask(server, f"v = fused.run('{{lib}}/values', kind='{kind}'); found = {expression}")

    assert found == expected


def test_parameters_of_a_token_are_those_of_a_url(server: Server) -> None:
    """contract, section 4.2: text where nothing is annotated, JSON for containers."""
    call = "fused.run('{lib}/echo', a=1, b=2, c=[1, 'x'], d=[1, 2, 3, 4], unknown=5)"

    assert ask(server, f"found = {call}") == {"a": "1", "b": 2, "c": [1, "x"], "d": [1.0, 2.0, 3.0, 4.0]}


def test_x_y_and_z_run_a_tile(server: Server) -> None:
    """As a tile request would."""
    west, south, east, north = ask(server, "found = fused.run('{lib}/tile', x=1, y=0, z=1)")

    assert (west, south, east) == (0, 0, 180)
    assert north == pytest.approx(85.0511287798)


@pytest.mark.parametrize(
    ("code", "starts"),
    [
        (
            "found = fused.run('{lib}/fails')",
            "UdfRuntimeError: The UDF returned the following error in line 4:\nValueError: boom",
        ),
        ("found = fused.run('{lib}/unfit')", "UdfSerializationError: The UDF returned the following error"),
        ("found = fused.run('{lib}/nothing')", "LookupError: no UDF called 'nothing' here"),
        ("found = fused.run('fc_nosuch/x')", "LookupError: unknown token"),
        ("found = fused.run('{hidden}/data')", "PermissionError: this canvas needs the header"),
        (
            "found = fused.run('hidden/data')",
            "LookupError: no UDF called 'hidden/data' that this one may use",
        ),
        ("found = fused.run('{lib}/echo', b='x')", "UdfRuntimeError: The UDF returned the following error"),
        ("found = fused.run('{lib}/tile', x=9, y=0, z=1)", "LookupError: tile 1/9/0 is outside"),
        ("found = fused.load('{hidden}/data')", "PermissionError: "),
        ("found = fused.utils.data", "AttributeError: fused.utils has no 'data': unknown token"),
        ("found = fused.load('https://github.com/a/b/tree/c/d')", "LookupError: no folder stands for"),
    ],
)
def test_what_goes_wrong_elsewhere_is_told_here(server: Server, code: str, starts: str) -> None:
    """Message and line of the UDF that failed come through; a token opens what it opens for anybody."""
    assert failure(server, code).startswith(starts)


def test_an_error_elsewhere_can_be_caught(server: Server) -> None:
    """By the classes that the client of Fused has, with the name of what was raised."""
    code = """
try: fused.run('{lib}/fails')
except fused.types.UdfRuntimeError as error: found = error.child_exception_class
"""
    assert ask(server, code) == "ValueError"


def test_only_who_may_read_the_code_gets_the_traceback(server: Server) -> None:
    """A token without the right to the code gives the message, and no line of the source."""
    server.write({"plain/fails.py": "SECRET = 'words'\n@fused.udf\ndef udf(): raise ValueError(1 / 0)\n"})
    access = server.access
    token = access.share("plain").token
    access.close()

    response = server.get("/{app}/ask.json", params={"code": f"found = fused.run('{token}/fails')"})

    assert response.json()["detail"].endswith("ZeroDivisionError: division by zero")
    assert "raise ValueError" not in response.headers["x-fused-metadata"]
    assert failure(server, f"found = fused.load('{token}/fails')").startswith(
        "PermissionError: the code of 'fails' may not be read"
    )


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("u = fused.load('{lib}/common'); found = [u.FACTOR, u.scaled(2), u(n=5), u(5)]", [3, 106, 115, 115]),
        (
            "u = fused.load('{lib}/common'); found = [u.name, u.entrypoint, u.utils.BASE]",
            ["common", "udf", 100],
        ),
        ("u = fused.load('lib/common'); found = fused.run(u, n=1)", 103),
        ("found = fused.run('lib/common', n=1)", 103),
        ("found = fused.load('app/near')(n=1)", 2),
        ("found = fused.load('me@example.org/near')(n=1)", 2),
        ("found = fused.load('team/near')(n=1)", 2),
        ("found = fused.load('near', collection_name='app', cache_key=1)(1)", 2),
        ("found = fused.load('common', collection_name='lib').FACTOR", 3),
        (
            "u = fused.load('@fused.udf\\ndef f(n: int): return n + 1\\n'); found = [u(n='2'), u.name]",
            [3, "f"],
        ),
        ("found = fused.run('@fused.udf\\ndef f(n: int): return n + 1\\n', n=1)", 2),
        ("found = fused.load('near.py')(n=3)", 4),
        ("import asyncio; found = asyncio.run(fused.run_async('{lib}/common', n=1))", 103),
        ("import asyncio; found = asyncio.run(fused.run('{lib}/common', n=1, sync=False))", 103),
        ("import asyncio; found = asyncio.run(fused.load_async('{lib}/common')).FACTOR", 3),
        ("found = fused.run('{lib}/common', parameters={'n': 2}, engine='remote', max_retry=1)", 106),
        ("found = fused.load('near').set_parameters({'n': 4})()", 5),
        ("found = [fused.utils.common.BASE, fused.utils['echo'].BASE, fused.utils.near(n=1)]", [100, 100, 2]),
    ],
)
def test_what_can_be_loaded_and_run(server: Server, code: str, expected: object) -> None:
    """contract, section 13: tokens, names of canvases, code, and objects of all of these."""
    assert ask(server, f"found = None\n{code}") == expected


def test_a_stranger_learns_nothing_of_who_asked(server: Server) -> None:
    """Headers go to UDFs of the same canvas, never along with a token."""
    headers = {"x-mine": "1"}

    assert ask(server, "found = fused.run('{lib}/headers')", **headers) == {}
    assert ask(server, "found = fused.submit('seen', [{}]).result.tolist()", **headers) == ["1"]


def test_a_run_whose_nested_run_looked_at_the_caller_is_not_stored(server: Server) -> None:
    """It depends on the caller as much."""
    server.write(
        {"app/outer.py": "@fused.udf\ndef udf(): return fused.submit('seen', [{}]).result.tolist()\n"}
    )

    first = server.get("/{app}/outer.json", headers={"x-mine": "one"})
    second = server.get("/{app}/outer.json", headers={"x-mine": "two"})

    assert (first.json(), second.json()) == (["one"], ["two"])
    assert second.headers["cache-control"] == "private, no-store"


def test_a_run_that_loads_what_it_computes_is_not_stored(server: Server) -> None:
    """Its revision can't know the source; one that is written in the code is part of the revision."""
    token = server.tokens["lib"]
    server.write(
        {
            "app/computed.py": f"@fused.udf\ndef udf(): return fused.load('{token}' + '/common').FACTOR\n",
            "app/literal.py": f"@fused.udf\ndef udf(): return fused.load('{token}/common').FACTOR\n",
        }
    )
    computed = [server.get("/{app}/computed.json") for _ in range(2)]
    literal = [server.get("/{app}/literal.json") for _ in range(2)]

    assert [response.json() for response in computed + literal] == [3, 3, 3, 3]
    assert {response.headers["cache-control"] for response in computed} == {"no-store"}
    assert [response.headers["x-cache"] for response in computed] == ["miss", "miss"]
    assert [response.headers["x-cache"] for response in literal] == ["miss", "hit"]


# -- depth, circles, workers, limits


def test_runs_by_token_end_at_the_limit(server: Server) -> None:
    """contract, section 14: five UDFs may call one another, also by tokens; each knows how deep it is."""
    token = f"{server.tokens['app']}/again"

    response = server.get("/{app}/again.json", params={"token": token})

    assert response.status_code == 422
    assert "RecursionError: UDFs run each other more than 5 deep" in response.json()["detail"]
    assert response.json()["detail"].count("The UDF returned the following error") == 4


def test_the_depth_of_the_caller_counts(server: Server) -> None:
    """``Fused-Recursion`` is what a client says of itself."""
    headers = {"Fused-Recursion": "5"}

    response = server.get("/{app}/ask", params={"code": "found = fused.run('near')"}, headers=headers)

    assert "RecursionError" in response.json()["detail"]


def test_a_udf_that_waits_for_itself_fails_at_once(server: Server) -> None:
    """Identical calls are one run, so that it would wait for ever."""
    token = f"{server.tokens['app']}/circle"
    started = time.monotonic()

    response = server.get("/{app}/circle.json", params={"token": token})

    assert "RecursionError: UDFs call one another in a circle" in response.json()["detail"]
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_that_wait_for_one_another_make_room(tmp_path: Path, workers: int) -> None:
    """Four deep, two wide and three at once, with fewer workers than runs that wait."""
    with serving(tmp_path / "w", {"app/deep.py": FILES["app/deep.py"]}, "--workers", str(workers)) as server:
        token = f"{server.tokens['app']}/deep"
        with ThreadPoolExecutor(3) as threads:
            asked = [
                threads.submit(server.get, "/{app}/deep.json", params={"token": token, "wide": 2, "n": n})
                for n in range(3)
            ]
            found = [task.result().json() for task in asked]

    assert found == [8, 8, 8]


def test_a_nested_run_ends_with_the_run_that_called_it(serve: Callable[..., Server]) -> None:
    """Its time is what is left of the other's, whatever its own limit is."""
    files = {
        "app/slow.py": "import time, pathlib\n@fused.udf\ndef udf(s: float = 60): time.sleep(s); return s\n",
        "app/outer.py": "@fused.udf\ndef udf(): return fused.submit('slow', [{}]).result.tolist()\n",
        "app/canvas.toml": "[udf.outer]\ntime_limit = '2s'\n[udf.slow]\ntime_limit = '60s'\n",
    }
    server = serve(files, "--workers", "1")
    started = time.monotonic()

    response = server.get("/{app}/outer")
    metadata = json.loads(response.headers["x-fused-metadata"])

    assert (response.status_code, metadata["error_type"]) == (422, "timeout_error")
    # The one worker is free again, for a run that would else wait for the nested one.
    assert server.get("/{app}/slow.json?s=0.1").json() == 0.1
    assert time.monotonic() - started < 15


# -- submit and map


def test_submit_collects_a_frame_by_arguments(server: Server) -> None:
    """contract, section 13: the index holds the arguments; results that are no frames are a column."""
    found = ask(
        server,
        "f = fused.submit('near', [1, 2, 3])\nfound = [f.index.name, list(f.index), f.result.tolist()]",
    )

    assert found == ["n", [1, 2, 3], [2, 3, 4]]


def test_submit_concatenates_frames(server: Server) -> None:
    """The arguments come before the index that the frames have; geometry and CRS stay."""
    code = """
@fused.udf
def part(n: int, k: int = 1):
    import geopandas as gpd, shapely
    return gpd.GeoDataFrame({"v": [n * k] * n}, geometry=[shapely.Point(n, i) for i in range(n)], crs=4326)
---
f = fused.submit(fused.load(SOURCE), [{"n": 1, "k": 5}, {"n": 2, "k": 7}])
found = [list(f.index.names), [list(i) for i in f.index], f.v.tolist(), type(f).__name__, f.crs.to_epsg()]
"""
    head, _, tail = code.partition("---\n")
    found = ask(server, tail.replace("SOURCE", repr(head)))

    assert found == [
        ["n", "k", None],
        [[1, 5, 0], [2, 7, 0], [2, 7, 1]],
        [5, 14, 14],
        "GeoDataFrame",
        4326,
    ]


def test_a_function_inside_a_udf_is_submitted_by_its_code(server: Server) -> None:
    """It runs in other workers, for frames of arguments as well, with constants for all."""
    source = """
@fused.udf
def udf():
    import os
    import pandas as pd

    @fused.udf
    def work(a: int, b: int, c: int = 0):
        import os
        return [a + b + c, os.getpid()]

    rows = pd.DataFrame({"a": [1, 2], "b": [10, 20]})
    found = fused.submit(work, rows, c=100, max_workers=2, drop_index=True)
    values = found.result.tolist()
    return [[v for v, _ in values], found.index.name, os.getpid() in [pid for _, pid in values]]
"""
    server.write({"app/inner.py": source})

    assert server.get("/{app}/inner.json").json() == [[111, 122], "arg_pos", False]


def test_a_pool_tells_how_its_runs_stand(server: Server) -> None:
    """``collect=False`` and ``udf.map`` give a pool, with the methods that the client's has."""
    code = """
p = fused.load('near').map([1, 2], max_retry=0)
p.wait()
found = [len(p), p.done(), p.all_succeeded(), p.results(), p[0].logs(), p.df().result.tolist(),
         p.status().to_dict(), p.errors(), list(p), p.arg_df().n.tolist(), p[1].status(),
         p.logs_df().status.tolist()]
"""
    assert ask(server, code) == [
        *(2, True, True, [2, 3], "near 1\n", [2, 3]),
        *({"success": 2}, {}, [2, 3], [1, 2], "success", ["success", "success"]),
    ]


def test_failed_runs_are_left_out_or_raised(server: Server) -> None:
    """``ignore_exceptions`` keeps what succeeded; else the first error is raised."""
    rows = "[{'b': 1}, {'b': 'x'}]"
    call = f"fused.submit('{{lib}}/echo', {rows}, max_retry=0"

    assert ask(server, f"found = len({call}, ignore_exceptions=True))") == 1
    assert ask(
        server, f"p = {call}, collect=False); p.wait(); found = [list(p.success()), list(p.errors())]"
    ) == [
        [0],
        [1],
    ]
    assert failure(server, f"found = {call})").startswith("UdfRuntimeError: The UDF returned")


@pytest.mark.parametrize(
    ("call", "starts"),
    [
        ("fused.submit('near', [])", "ValueError: arg_list is empty"),
        ("fused.submit('ask', ['x'])", "UdfSelfRecursionError: ask can't submit itself"),
        ("fused.submit('{lib}/echo', [1])", "ValueError: for a UDF by its token"),
        ("fused.submit('seen', [1])", "ValueError: arg_list takes a list of dicts"),
        ("fused.submit('near', [1], execution_type='x')", "ValueError: execution_type takes"),
        ("fused.submit(print, [{}])", "TypeError: fused.run takes"),
    ],
)
def test_what_can_not_be_submitted_is_said(server: Server, call: str, starts: str) -> None:
    """Before anything runs."""
    assert failure(server, f"found = {call}").startswith(starts)


def test_submitted_runs_go_on_at_the_same_time(server: Server) -> None:
    """Three runs that wait for one another's marks could not end one after the other."""
    source = """
import os, time
@fused.udf(cache_max_age="0s")
def udf(n: int):
    folder = fused.file_path("marks")
    open(f"{folder}/{n}", "w").close()
    until = time.monotonic() + 20
    while len(os.listdir(folder)) < 3:
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True
"""
    server.write({"app/meet.py": source})

    assert ask(server, "found = fused.submit('meet', [1, 2, 3]).result.tolist()") == [True, True, True]


def test_debug_mode_runs_the_first_here(server: Server) -> None:
    """To be stepped through."""
    assert ask(server, "found = fused.submit('near', [5, 6], debug_mode=True)") == 6
    assert ask(server, "found = fused.submit('near', [5, 6], engine='local').result.tolist()") == [6, 7]


# -- posted code


def posted(server: Server, token: str, code: str, **step: object) -> Any:
    udf = {"type": "geopandas_v2", "name": "udf", "entrypoint": "udf", "code": code, "parameters": {}, **step}
    body = {"step_config": json.dumps({"type": "udf", "udf": udf}), "format": "json"}
    return server.get("/run/udf", "POST", json=body, headers={"Authorization": f"Bearer {token}"})


def test_posted_code_reaches_what_its_token_may_use(server: Server) -> None:
    """By name the canvases of the token that posted it, never others; their code only for administrators."""
    access = server.access
    _, admin = access.create_token("a", scope="admin")
    _, runner = access.create_token("r", scope="run", canvases=["hidden"])
    access.close()
    code = "@fused.udf\ndef udf(): return fused.{}"

    assert posted(server, admin, code.format("run('hidden/data')")).json() == 1
    assert posted(server, runner, code.format("run('hidden/data')")).json() == 1
    assert posted(server, runner, code.format("run('data')")).json() == 1
    assert posted(server, admin, code.format("load('hidden/data').code")).json() == FILES["hidden/data.py"]
    refused = posted(server, runner, code.format("load('hidden/data').code"))
    assert refused.json()["detail"].startswith("PermissionError: the code of 'data' may not be read")
    stranger = posted(server, runner, code.format("run('app/near')"))
    assert stranger.json()["detail"].startswith("LookupError: no UDF called 'app/near' that this one may use")


def test_what_a_worker_asks_is_checked(server: Server) -> None:
    """UDF code can write any frame; a malformed one is refused, and nothing else is disturbed."""
    code = """
from tileserver.worker import nested
found = []
for what, facts in [("run", {}), ("run", {"name": "near"}), ("open", {"name": "x"}), ("source", {"name": 3}),
                    ("run", {"name": "near", "parameters": {}, "tile": 1}),
                    ("run", {"name": "n", "parameters": {}, "code": 1}),
                    ("run", {"name": "near", "parameters": {}, "max_age": {}}),
                    ("run", {"name": "n", "parameters": {}, "code": "x", "modules": 5})]:
    try: nested.ask(what, facts)
    except Exception as error: found.append(type(error).__name__)
"""
    assert ask(server, code) == ["BadRequest"] * 7 + ["InvalidBody"]


def test_a_udf_that_is_run_without_a_server_may_run_others(tmp_path: Path) -> None:
    """``tileserver udf run`` starts workers for what the UDF calls, as the server would."""
    files = {name: text for name, text in FILES.items() if name.startswith(("app/near", "lib/"))}
    values = "fused.submit('near', [1, 2]).result.tolist(), fused.run('lib/common')"
    files["app/both.py"] = f"@fused.udf\ndef udf(): return [{values}]\n"
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    command = [sys.executable, "-m", "tileserver", "udf", "run", "app/both", "--format", "json"]
    done = subprocess.run([*command, "--workspace", str(tmp_path), "-o", str(tmp_path / "out.json")])

    assert done.returncode == 0
    assert json.loads((tmp_path / "out.json").read_text()) == [[2, 3], 103]
