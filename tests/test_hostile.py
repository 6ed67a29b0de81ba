"""Requests that nobody would write, by the hundred, to a real server: none of them is its fault.

Examples are drawn from fixed seeds, so that a run of this file is the same as the one before.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import httpx
import pytest
import requests
import schemathesis
import schemathesis.openapi
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import APIOperation, Case, GenerationMode
from schemathesis.core.result import Ok

from tests.conftest import Server, serving

# Every run leaves a byte in the scratch folder.
ENTRY = """
import datetime, os, tempfile, uuid
from typing import *
import geopandas as gpd, pandas as pd, shapely
import fused

with open(os.path.join(tempfile.gettempdir(), "runs"), "ab") as file:
    file.write(b".")

"""
EVERY_ANNOTATION = """
    a, b: str = "", c: int = 0, d: float = 0.5, e: bool = True, f: list = [], g: List[int] = [1],
    h: dict = {}, i: Dict[str, int] = {}, j: tuple = (), k: Tuple[int, ...] = (1, 2), l: Optional[int] = None,
    m: float | None = None, n: Literal["x", "y"] = "x", o: set = None, p: uuid.UUID = None,
    q: datetime.datetime = None, r: datetime.date = None, s: datetime.time = None, t: pd.DataFrame = None,
    u: gpd.GeoDataFrame = None, v: shapely.Geometry = None, w: fused.types.Bounds = [1, 2, 3, 4],
    aa: fused.types.Bbox = None, bb: fused.types.Tile = None, cc: fused.types.TileXYZ = None,
    dd: fused.types.TileGDF = None, ee: fused.types.ViewportGDF = None, ff: "datetime" = None, gg: Any = None,
    hh: "Bounds | None" = None, ii: bytes = b"", jj: int | str = 1, *, kk: "int" = 3, **kwargs
"""
FILES = {
    "city/types.py": f"{ENTRY}@fused.udf\ndef udf({EVERY_ANNOTATION}):\n    return sorted(locals())\n",
    "city/plain.py": f"{ENTRY}@fused.udf\ndef udf(n: int = 1, s: str = ''):\n    return {{'n': n, 's': s}}\n",
    "city/layer.py": f"{ENTRY}@fused.udf\ndef udf(bounds: fused.types.Bounds = None, k: int = 1):\n"
    "    return gpd.GeoDataFrame({'k': [k]}, geometry=[shapely.Point(0, 0)], crs=4326)\n",
    "city/only.py": f"{ENTRY}@fused.udf\ndef udf():\n    return 1\n",
    "city/canvas.toml": "[udf.only]\nmode = 'single'\n",
}


@dataclass(frozen=True)
class Target:
    """A server, a client that sends an address as it is, and the number of runs so far."""

    server: Server
    client: httpx.Client
    token: str

    def ask(self, path: bytes, method: str = "GET", **options: Any) -> httpx.Response:
        target = b"/" + self.token.encode() + path
        return self.client.request(method, self.server.url, extensions={"target": target}, **options)

    @property
    def runs(self) -> int:
        state = self.server.workspace / ".tileserver"
        return sum(path.stat().st_size for path in state.rglob("runs"))


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    workspace: Path = tmp_path_factory.mktemp("hostile")
    with (
        serving(workspace, FILES, "--time-limit", "20s") as server,
        httpx.Client(timeout=30, headers={"accept": "*/*"}) as client,
    ):
        found = Target(server, client, server.tokens["city"])
        assert found.ask(b"/plain").json() == {"n": 1, "s": ""}
        assert found.runs == 1
        yield found


def check(response: httpx.Response) -> None:
    """Never the server's fault; an error is JSON that says what is wrong, for this caller only."""
    assert response.status_code < 500, response.text[:500]
    if response.status_code >= 400:
        assert response.headers["content-type"] == "application/json"
        assert response.json()["detail"]
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["access-control-allow-origin"] == "*"
        assert ("x-fused-error" in response.headers) != ("x-fused-metadata" in response.headers)


bounded = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)

# -- queries

NAMES = [
    *("n", "s", "k", "a", "w", "bounds", "x", "format", "", "cache_max_age", "cache", "size", "rescale"),
    *("colormap", "nodata", "resampling", "buffer", "extent", "dtype_out_vector", "dtype_out_raster", "_v"),
    *("fused_session_token", "profile", "style", "_stream_logs", "N"),
]
VALUES = [
    *(
        "",
        "1",
        "-1",
        "0",
        "1e999",
        "nan",
        "NaN",
        "inf",
        "null",
        "true",
        "[]",
        "{}",
        "[1,2,3,4]",
        "png",
        "mvt",
    ),
    *("json,png", "png," * 50, ",,,", "docx", "90d", "9" * 400, "1" * 5000, "0x10", "１２", "²", "1_000"),
    *("\0", "\r\nset-cookie: a=b", "../../etc/passwd", "%00", "\ud7ff", "😀" * 100, "a" * 20000, "'\"<>&;#+"),
    *("[" * 3000, "1,2", "2,1", "nan,nan", "-0", " 5 ", "\u202e", "SRID=4326;POINT (1 1)", "POINT EMPTY"),
]
texts = st.sampled_from(VALUES) | st.text(max_size=30)
queries = st.lists(st.tuples(st.sampled_from(NAMES) | st.text(max_size=8), texts), max_size=6)
ROUTES = [
    *(b"/plain", b"/plain.json", b"/plain/run", b"/plain/run/file", b"/types", b"/layer", b"/only"),
    *(b"/layer/run/tiles/0/0/0", b"/layer/run/tiles/3/4/2@2x.png", b"/layer/run/tiles/1/0/0.mvt"),
    *(b"/only/run/tiles/0/0/0", b"/layer/run/tiles.json", b"/plain/map", b".api.json", b""),
]


def encoded(pairs: list[tuple[str, str]]) -> bytes:
    def quoted(text: str) -> bytes:
        return quote_from_bytes(text.encode("utf-8", "replace")).encode()

    return b"&".join(quoted(name) + b"=" + quoted(value) for name, value in pairs)


@bounded
@given(route=st.sampled_from(ROUTES), query=queries, method=st.sampled_from(["GET", "HEAD"]))
def test_any_parameters_have_an_answer(
    target: Target, route: bytes, query: list[tuple[str, str]], method: str
) -> None:
    """Contract, sections 4 and 11: a result, or 4xx; what was refused for itself has run nothing."""
    before = target.runs
    response = target.ask(route + b"?" + encoded(query), method)

    if method == "GET":
        check(response)
    assert response.status_code < 500
    if "x-fused-error" in response.headers:
        assert target.runs == before


FRAGMENTS = (
    b"% %0 %zz %00 %ff %C3%28 %ED%A0%80 & = + ; ? / # n [] ' \" < \\ ^ ` { | } ~ : @ ! $ * , 1".split()
)
fragments = st.sampled_from(FRAGMENTS)


@bounded
@given(route=st.sampled_from(ROUTES), pieces=st.lists(fragments, max_size=25))
def test_any_query_string_has_an_answer(target: Target, route: bytes, pieces: list[bytes]) -> None:
    """Contract, section 4: broken percent-encoding included."""
    before = target.runs
    response = target.ask(route + b"?" + b"".join(pieces))

    check(response)
    if "x-fused-error" in response.headers:
        assert target.runs == before


# -- paths


segments = (
    fragments
    | st.sampled_from(
        [b"/", b"..", b".", b".png", b"plain", b"run", b"tiles", b"0", b"-1", b"map", b".api.json"]
    )
    | st.text(max_size=6).map(lambda text: quote_from_bytes(text.encode("utf-8", "replace")).encode())
)


@bounded
@given(start=st.sampled_from([b"/", b"/plain", b"/layer/run/tiles/"]), pieces=st.lists(segments, max_size=8))
def test_any_path_has_an_answer(target: Target, start: bytes, pieces: list[bytes]) -> None:
    """Contract, sections 3 and 11."""
    before = target.runs
    response = target.ask(start + b"".join(pieces))

    check(response)
    if "x-fused-error" in response.headers:
        assert target.runs == before


numbers = st.sampled_from(
    ["0", "1", "-1", "30", "31", "1.5", "1e3", "", " 1", "٣", "x", "NaN", "0x1", "9" * 30, "+1", "1_0", "%31"]
) | st.integers(-5, 2**40).map(str)


@bounded
@given(z=numbers, x=numbers, y=numbers, tail=st.sampled_from(["", ".png", "@2x", "@9x", "@2x.mvt", ".docx"]))
def test_any_tile_is_one_or_is_refused_at_once(target: Target, z: str, x: str, y: str, tail: str) -> None:
    """Contract, section 5.1: outside the matrix or malformed, 404 or 422 without a run."""
    before = target.runs
    path = "/".join(quote_from_bytes(part.encode(), safe="%+").replace("+", "%2B") for part in (z, x, y))
    response = target.ask(f"/layer/run/tiles/{path}{tail}".encode())

    check(response)
    if response.status_code != 200:
        assert response.status_code in {404, 422}
        assert target.runs == before


# -- headers


@bounded
@given(
    name=st.sampled_from(
        [
            *("authorization", "accept", "accept-encoding", "range", "if-none-match", "if-range", "if-match"),
            *("fused-recursion", "origin", "content-length", "x-forwarded-host", "cookie", "expect"),
        ]
    ),
    value=st.sampled_from(
        [
            *(b"", b"Bearer", b"fused-canvas-passcode", b"Basic \xff", b"bytes=", b"bytes=-"),
            *(
                b"bytes=9-1",
                b"bytes=0-0",
                b"bytes=99999999999999999999-",
                b"*",
                b'"',
                b"W/",
                b",,,",
                b"gzip;q=x",
            ),
            *(b"-1", b"99999999999999999999", b"0", b"null", b"text/html;q=nan", b"\x80\xff", b"a" * 5000),
        ]
    ),
)
def test_any_header_has_an_answer(target: Target, name: str, value: bytes) -> None:
    """What a header says can be wrong, and is then as if it weren't there."""
    if name in {"content-length", "expect"}:
        return  # of the transfer itself: the parser's to judge
    response = target.ask(b"/plain?n=1", headers=[(name.encode(), value)])

    assert response.status_code in {200, 206, 304, 412, 416, 422}


# -- posted


bodies = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["step_config", "udf", "code", "name", "entrypoint", "parameters", "headers", "format"]
            )
            | st.text(max_size=5),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def secret(target: Target) -> str:
    """An access token that may post code."""
    return target.server.access.create_token("tester", scope="run")[1]


@bounded
@given(body=bodies.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60))
def test_any_body_has_an_answer(target: Target, secret: str, body: bytes) -> None:
    """Contract, section 9: 422 that names the field, never the server's fault."""
    before = target.runs
    response = httpx.post(
        f"{target.server.url}/run/udf",
        content=body,
        headers={"authorization": f"Bearer {secret}"},
        timeout=30,
    )

    assert 400 <= response.status_code < 500, response.text
    assert response.json()["detail"]
    assert target.runs == before


# -- by the canvas's own document


def statuses(base: str, operation: APIOperation[Any, Any, Any, Any], examples: int) -> set[int]:
    """Call an operation with what its schemas allow and with what they don't; the statuses of the answers."""
    found = set()
    allowed, forbidden = (operation.as_strategy(generation_mode=mode) for mode in GenerationMode)
    with requests.Session() as session:

        @settings(bounded, max_examples=examples)
        @given(case=allowed | forbidden)
        def call(case: Case[Any]) -> None:
            response = case.call(base, session, timeout=30)
            found.add(response.status_code)
            assert response.status_code in {200, 422}, response.text
            if response.status_code != 200:
                assert response.headers["content-type"] == ["application/json"]
                assert "detail" in json.loads(response.content)

        call()
    return found


def fuzz(url: str, examples: int) -> dict[str, set[int]]:
    """The statuses of every operation of a document."""
    document = requests.get(url, timeout=30).json()
    (server,) = document["servers"]
    found = {}
    for result in schemathesis.openapi.from_dict(document).get_all_operations():
        assert isinstance(result, Ok)
        operation = result.ok()
        found[operation.path] = statuses(server["url"], operation, examples)
    return found


def test_the_demo_holds_to_its_document(demo: Server) -> None:
    """Contract, section 12: whatever a generated client sends, no 5xx."""
    called = fuzz(f"{demo.url}/fc_demo.api.json", examples=12)

    assert {"/earthquakes", "/hillshade", "/housing", "/hello"} <= called.keys()
    assert 200 in called["/hello"]


def test_every_annotation_holds_to_its_document(target: Target) -> None:
    """Contract, sections 5 and 12: likewise, for parameters of every kind."""
    called = fuzz(f"{target.server.url}/{target.token}.api.json", examples=80)

    assert called.keys() == {"/layer", "/only", "/plain", "/types"}
    assert all(200 in found for found in called.values())
