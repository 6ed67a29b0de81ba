"""Statuses, headers and bodies of everything that goes wrong: the contract's section 11, row by row."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import Server, serving
from tileserver import settings
from tileserver.app import create_app
from tileserver.errors import Overloaded, TileServerError, TooManyRequests, UdfError
from tileserver.executor import Answers
from tileserver.interest import Interest
from tileserver.metadata import MAX_METADATA, metadata
from tileserver.platform.common import MAX_BODY
from tileserver.posted import MAX_CODE
from tileserver.protocol import Bundle, Encoded, Job

ENTRY = "import fused, os, sys\n\n@fused.udf\n"
FILES = {
    "city/hello.py": f"{ENTRY}def udf(name: str = '', n: int = 1):\n    return {{'hello': name, 'n': n}}\n",
    "city/needs.py": f"{ENTRY}def udf(n: int):\n    return n\n",
    "city/nothing.py": f"{ENTRY}def udf():\n    return None\n",
    "city/boom.py": f"{ENTRY}def udf():\n    print('out')\n    print('err', file=sys.stderr)\n"
    "    return helper()\n\n\ndef helper():\n    raise LookupError('so what')\n",
    "city/deep.py": f"import fused\nimport toolbox\n\n@fused.udf\ndef udf():\n    return toolbox.fail()\n",  # noqa: F541
    "city/toolbox.py": "def fail():\n    x = 1\n    return x / 0\n",
    "city/broken.py": f"{ENTRY}def udf():\n    return (\n",
    "city/late.py": f"{ENTRY}def udf():\n    exec(compile('x = (', 'late.py', 'exec'))\n",
    "city/odd.py": f"{ENTRY}def udf():\n    return object()\n",
    "city/slow.py": f"import time\n{ENTRY}def udf():\n    time.sleep(60)\n",
    "city/leave.py": f"{ENTRY}def udf():\n    os._exit(3)\n",
    "city/loud.py": f"{ENTRY}def udf():\n    print('begin'); print('é\\n' * 700_000); print('end')\n"
    "    print('\\U0001f600' * 700_000, file=sys.stderr)\n"
    "    raise ValueError('ö\\n' * 50_000 + '\\r\\nx: y')\n",
    "city/quiet.py": f"{ENTRY}def udf():\n    print('ü\\n' * 700_000)\n    return 1\n",
    "city/where.py": f"{ENTRY}def udf():\n    import pandas\n    here = os.path.abspath('a.csv')\n"
    "    text = f'{here} {os.getcwd()} {pandas.__file__} {fused.__file__} {os.__file__} {sys.prefix}'\n"
    "    text += ' ' + os.environ['TMPDIR']\n    print(text)\n    print(text, file=sys.stderr)\n"
    "    raise ValueError(text)\n",
    "city/warns.py": f"{ENTRY}def udf():\n    import warnings\n    warnings.warn('old')\n"
    "    print(os.getcwd())\n    return 1\n",
    "city/layer.py": f"{ENTRY}def udf(bounds: fused.types.Bounds = None):\n    return None\n",
    "city/single.py": f"{ENTRY}def udf():\n    return 1\n",
    "city/canvas.toml": "[udf.single]\nmode = 'single'\n",
    "team/hello.py": f"{ENTRY}def udf():\n    return 'team'\n",
    "locked/hello.py": f"{ENTRY}def udf():\n    return 'locked'\n",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    flags = ("--time-limit", "3s", "--output-limit", "1MB")
    with serving(tmp_path_factory.mktemp("statuses"), FILES, *flags) as running:
        access = running.access
        running.tokens["team"] = access.share("team", team=True).token
        running.tokens["locked"] = access.share("locked", passcode="sesame").token
        running.tokens["shut"] = access.create_shared_token("city", "where").token
        running.tokens["mute"] = access.create_shared_token("city", "boom").token
        access.close()
        yield running


def refused(response: httpx.Response, status: int) -> Any:
    """What a refusal says: JSON, ``x-fused-error``, no metadata, for no cache and for any origin."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-fused-error"]
    assert "x-fused-metadata" not in response.headers
    assert "x-fused-cached" not in response.headers
    assert response.headers["cache-control"] == "no-store"
    return response.json()["detail"]


def failed(response: httpx.Response) -> dict[str, Any]:
    """The metadata of a UDF's failure: 422, JSON, no ``x-fused-error``, for no cache and for any origin."""
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/json"
    assert "x-fused-error" not in response.headers
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["access-control-allow-origin"] == "*"
    facts: dict[str, Any] = json.loads(response.headers["x-fused-metadata"])
    assert facts["has_exception"] is True
    assert isinstance(response.json()["detail"], str)
    return facts


# -- the table


def test_success(server: Server) -> None:
    """Contract, section 11, row "success"."""
    first, second = (server.get("/{city}/hello?name=row") for _ in range(2))

    assert (first.status_code, first.json()) == (200, {"hello": "row", "n": 1})
    assert first.headers["content-type"] == "application/json"
    assert json.loads(first.headers["x-fused-metadata"])["has_exception"] is False
    assert first.headers["x-fused-request-id"] != second.headers["x-fused-request-id"]
    assert ["x-fused-cached" in answer.headers for answer in (first, second)] == [False, True]


def test_none_is_empty(server: Server) -> None:
    """Contract, section 11, row "UDF returned None"."""
    response = server.get("/{city}/nothing")

    assert (response.status_code, response.content) == (200, b"")
    assert "x-fused-metadata" in response.headers


@pytest.mark.parametrize(
    ("path", "python_class", "errormsg", "line"),
    [
        ("boom", "LookupError", "LookupError: so what", 7),
        ("deep", "ZeroDivisionError", "ZeroDivisionError: division by zero", 6),
        ("broken", "SyntaxError", "SyntaxError: '(' was never closed", 5),
        ("late", "SyntaxError", "SyntaxError: '(' was never closed", 5),
        ("hello?n=many", "ValueError", "ValueError: parameter 'n' takes a whole number", 4),
        ("needs", "TypeError", "TypeError: udf() missing 1 required positional argument: 'n'", 4),
    ],
)
def test_a_udf_that_raises(server: Server, path: str, python_class: str, errormsg: str, line: int) -> None:
    """Contract, section 11, row "UDF raised / bad parameter value / missing parameter": message, class, and
    the line of the UDF's own source."""
    response = server.get(f"/{{city}}/{path}")
    facts = failed(response)

    assert facts.keys() == {
        *("stdout", "stderr", "has_exception", "exception_class"),
        *("errormsg", "exception", "lineno", "error_type"),
    }
    assert facts["exception_class"] == python_class
    assert facts["errormsg"].startswith(errormsg)
    assert facts["exception"].startswith(errormsg)
    assert facts["lineno"] == line
    assert facts["error_type"] is None
    assert response.json()["detail"].startswith(errormsg)


@pytest.mark.parametrize("path", ["odd", "hello.png", "hello?format=csv"])
def test_a_result_that_can_not_be_written(server: Server, path: str) -> None:
    """Contract, section 11, row "result not serialisable"."""
    facts = failed(server.get(f"/{{city}}/{path}"))

    assert facts["error_type"] == "serialization_error"
    assert facts["errormsg"].startswith("Result serialization failed:")


def test_a_result_beyond_the_limit(server: Server) -> None:
    """Sizes have limits, which are named."""
    server.write({"city/large.py": f"{ENTRY}def udf():\n    return 'x' * 2_000_000\n"})
    facts = failed(server.get("/{city}/large"))

    assert "limit of 1000000 (output_limit)" in facts["errormsg"]


def test_a_udf_that_takes_too_long(server: Server) -> None:
    """Contract, section 11, row "exceeded the time limit"."""
    facts = failed(server.get("/{city}/slow"))

    assert facts["error_type"] == "timeout_error"
    assert "limit of 3 s" in facts["errormsg"]


def test_a_udf_that_ends_its_process(server: Server) -> None:
    """It is the UDF's failure, and the next run is not touched by it."""
    facts = failed(server.get("/{city}/leave"))

    assert "status 3" in facts["errormsg"]
    assert server.get("/{city}/hello?name=after").status_code == 200


def test_a_malformed_body(server: Server) -> None:
    """Contract, section 11, row "malformed request": a list that says where, what, and of which kind."""
    _, secret = server.access.create_token("poster")
    response = httpx.post(
        f"{server.url}/run/udf",
        json={"step_config": json.dumps({"udf": {"code": 5}})},
        headers={"authorization": f"Bearer {secret}"},
    )

    assert response.status_code == 422
    (found,) = response.json()["detail"]
    assert found.keys() == {"loc", "msg", "type"}
    assert found["loc"] == ["body", "step_config", "udf", "code"]
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/fc_unknown/hello", "unknown token"),
        ("/fsh_unknown", "unknown token"),
        (f"/{'0' * 64}", "unknown token"),
        ("/UDF_Nobody", "unknown token"),
        ("/fc_team/nowhere/hello", "unknown token"),
        ("/{city}/nobody", "no UDF called 'nobody'"),
        ("/{city}/toolbox", "no UDF called 'toolbox'"),
    ],
)
def test_what_is_unknown(server: Server, path: str, says: str) -> None:
    """Contract, section 11, row "unknown token or UDF name"; the header says the same as the body."""
    response = server.get(path)

    assert says in refused(response, 404)
    assert response.headers["x-fused-error"] == response.json()["detail"]


def test_who_is_not_authorised_or_not_allowed(server: Server) -> None:
    """Contract, section 11, row "not authorised / not allowed"."""
    _, other = server.access.create_token("other", canvases=["city"])
    nobody = server.get("/{team}/hello")
    stranger = server.get("/{team}/hello", headers={"authorization": f"Bearer {other}"})

    assert "access token" in refused(nobody, 401)
    assert nobody.headers["www-authenticate"]
    assert "not for this canvas" in refused(stranger, 403)
    assert "passcode" in refused(server.get("/{locked}/hello"), 401)


def test_who_tries_too_often(serve: Callable[..., Server]) -> None:
    """Contract, section 11, row "rate limited": 429, and when to come back."""
    server = serve({"city/hello.py": FILES["city/hello.py"]})
    server.access.share("city", passcode="sesame")
    wrong = {"authorization": "fused-canvas-passcode guess"}
    answers = [server.get("/{city}/hello", headers=wrong) for _ in range(11)]

    assert [answer.status_code for answer in answers] == [401] * 10 + [429]
    refused(answers[-1], 429)
    assert int(answers[-1].headers["retry-after"]) > 0


@pytest.mark.anyio
async def test_who_comes_when_all_is_busy(serve: Callable[..., Server]) -> None:
    """Beyond the queue: 503 with ``Retry-After``, never 422; who waits already is served."""
    source = f"import time\n{ENTRY}def udf(n: int):\n    time.sleep(1)\n    return n\n"
    server = serve({"city/busy.py": source}, "--queue-limit", "2")
    token = server.tokens["city"]
    async with httpx.AsyncClient(timeout=30) as client:
        answers = await asyncio.gather(
            *(client.get(f"{server.url}/{token}/busy?n={n}") for n in range(12)),
        )
    late = [answer for answer in answers if answer.status_code == 503]

    assert {answer.status_code for answer in answers} == {200, 503}
    assert len(late) >= 12 - 3 - 2  # three workers at most, and two who wait
    for answer in late:
        assert "queue_limit" in refused(answer, 503)
        assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"])
@pytest.mark.parametrize(
    "path",
    [
        *("/{city}/hello", "/{city}/hello.json", "/{city}/hello/run/file", "/{city}/layer/run/tiles/0/0/0"),
        *("/{city}", "/{city}.api.json", "/server/v1/realtime-shared/{city}/hello", "/fc_unknown/x"),
    ],
)
def test_a_method_that_is_not_allowed(server: Server, path: str, method: str) -> None:
    """405 says which are."""
    response = server.get(path, method)

    assert response.status_code == 405
    assert response.headers["allow"] == "GET, HEAD, OPTIONS"
    assert method in response.json()["detail"]
    assert response.headers["cache-control"] == "no-store"


# -- addresses that are refused before anything runs


@pytest.mark.parametrize(
    ("tile", "says"),
    [
        ("1/2/0", "from 0 to 1"),
        ("1/0/2.png", "from 0 to 1"),
        ("0/0/1@2x.png", "from 0 to 0"),
        ("31/0/0", "outside 0 to 30"),
        ("99999999999/0/0", "z of a tile is a whole number"),
        ("-1/0/0", "z of a tile is a whole number from 0"),
        ("1/x/0", "x of a tile is a whole number from 0"),
        ("1/0/%200", "y of a tile"),
        ("1/0", "/run/tiles/{z}/{x}/{y}"),
        ("1/0/0/0", "/run/tiles/{z}/{x}/{y}"),
        ("metadata.json", "/run/tiles/{z}/{x}/{y}"),
    ],
)
def test_a_tile_that_there_is_not(server: Server, tile: str, says: str) -> None:
    """Contract, section 5.1: 404 at once, naming the valid range."""
    response = server.get(f"/{{city}}/layer/run/tiles/{tile}")

    assert says in refused(response, 404)
    assert "run;" not in response.headers["server-timing"]


@pytest.mark.parametrize(
    "extension",
    [
        "aux.xml",
        "csvt",
        "prj",
        "cpg",
        "dbf",
        "shx",
        "ovr",
        "msk",
        "tfw",
        "wld",
        "idx",
        "tif.aux.xml",
        "png.ovr",
    ],
)
def test_a_sidecar_that_there_is_not(server: Server, extension: str) -> None:
    """What GIS programs look for beside a layer: 404 without a run."""
    response = server.get(f"/{{city}}/layer.{extension}")

    refused(response, 404)
    assert "run;" not in response.headers["server-timing"]


@pytest.mark.parametrize(
    "path", ["hello.docx", "hello?format=docx", "hello?=docx", "hello?dtype_out_vector=docx"]
)
@pytest.mark.parametrize("tail", ["", "/layer/run/tiles/0/0/0"])
def test_a_format_that_there_is_not(server: Server, path: str, tail: str) -> None:
    """Contract, section 3: 422 that lists the known ones."""
    if tail:
        path = tail.lstrip("/") + path.removeprefix("hello")
    detail = refused(server.get(f"/{{city}}/{path}"), 422)

    assert "unknown format 'docx'" in detail
    assert all(name in detail for name in ("parquet", "geojson", "mvt", "png", "npy"))


def test_a_tile_of_a_udf_that_has_none(server: Server) -> None:
    """``mode = single``."""
    assert "mode = single" in refused(server.get("/{city}/single/run/tiles/0/0/0"), 422)


@pytest.mark.parametrize(
    ("query", "limit"),
    [
        ("size=4097", "4096"),
        ("size=99999999999999999999", "4096"),
        ("buffer=4097", "4096"),
        ("extent=65537", "65536"),
        ("&".join(["a=1"] * 2001), "2000"),
    ],
)
def test_a_size_beyond_the_limit(server: Server, query: str, limit: str) -> None:
    """422 that names the limit."""
    assert limit in refused(server.get(f"/{{city}}/layer/run/tiles/0/0/0?{query}"), 422)


def test_a_picture_beyond_the_limit(server: Server) -> None:
    """``@4x`` of a size that is allowed by itself."""
    detail = refused(server.get("/{city}/layer/run/tiles/0/0/0@4x.png?size=2048"), 422)

    assert "8192 pixels" in detail and "4096 (max_tile_pixels)" in detail


@pytest.mark.parametrize("path", ["boom", "hello?n=many", "odd", "hello.docx", "nobody"])
def test_what_fails_is_never_stored(server: Server, path: str) -> None:
    """Asked again, it is tried again, and no cache between may keep it."""
    for _ in range(2):
        response = server.get(f"/{{city}}/{path}", headers={"origin": "https://a.example"})
        assert response.status_code >= 400
        assert response.headers["cache-control"] == "no-store"
        assert "etag" not in response.headers
        assert "x-fused-cached" not in response.headers
        assert response.headers["access-control-allow-origin"] == "*"


# -- what is told


def test_who_may_read_the_code_gets_the_traceback(server: Server) -> None:
    """In the body and at the end of stderr, from the first frame of user code on."""
    facts = failed(server.get("/{city}/boom"))

    assert facts["stdout"] == "out\n"
    assert facts["stderr"] == (
        "err\nTraceback (most recent call last):\n"
        '  File "boom.py", line 7, in udf\n    return helper()\n           ^^^^^^^^\n'
        "  File \"boom.py\", line 11, in helper\n    raise LookupError('so what')\nLookupError: so what\n"
    )


def test_who_may_not_read_the_code_gets_the_message(server: Server) -> None:
    """Message, class, line and what was printed."""
    response = server.get("/{mute}")
    facts = failed(response)

    assert (facts["stdout"], facts["stderr"]) == ("out\n", "err\nLookupError: so what\n")
    assert (facts["exception_class"], facts["lineno"]) == ("LookupError", 7)
    assert "traceback" not in response.json()
    assert "helper" not in response.text + response.headers["x-fused-metadata"]


@pytest.mark.parametrize("path", ["/{city}/where", "/{shut}"])
def test_no_path_of_the_machine_is_told(server: Server, path: str) -> None:
    """Neither of the workspace, nor of the scratch folder, nor of the libraries: in message, traceback,
    stdout and stderr."""
    response = server.get(path)
    failed(response)
    told = response.text + str(response.headers)

    assert "a.csv . pandas/__init__.py fused/__init__.py os.py ." in told
    for place in (server.workspace, server.workspace.parent, Path(json.__file__).parent.parent):
        assert str(place) not in told
    assert "site-packages" not in told
    assert "/.tileserver" not in told


def test_no_path_of_the_machine_is_told_by_what_went_well(server: Server) -> None:
    """Warnings name files."""
    facts = json.loads(server.get("/{city}/warns").headers["x-fused-metadata"])

    assert facts["stdout"] == ".\n"
    assert facts["stderr"].startswith("warns.py:6: UserWarning: old\n")


@pytest.mark.parametrize("path", ["loud", "quiet"])
def test_megabytes_of_output_fit_the_header(server: Server, path: str) -> None:
    """Contract, section 11, "header safety": ASCII, one line, at most 8 KB; the ends are kept."""
    response = server.get(f"/{{city}}/{path}")
    (raw,) = [value for name, value in response.headers.raw if name == b"x-fused-metadata"]
    facts = json.loads(raw)

    assert len(raw) <= MAX_METADATA <= 8192
    assert raw.isascii() and b"\n" not in raw and b"\r" not in raw
    assert "x" not in response.headers
    if path == "loud":
        assert facts["stdout"].startswith("begin\n")
        assert facts["stderr"].rstrip().endswith("x: y")
        assert facts["errormsg"].startswith("ValueError: ö\n")
        assert facts["lineno"] == 7


texts = st.text() | st.text(max_size=20).map(lambda text: text * 2000)


@given(stdout=texts, stderr=texts, name=texts, message=texts, line=st.none() | st.integers())
def test_metadata_fits_whatever_it_holds(
    stdout: str, stderr: str, name: str, message: str, line: int | None
) -> None:
    """Contract, section 11: as above, for any text; what is short is whole."""
    given_facts = {"stdout": stdout, "stderr": stderr, "exception_class": name, "errormsg": message}
    header = metadata({**given_facts, "exception": message, "lineno": line, "has_exception": True})
    found = json.loads(header)

    assert len(header) <= MAX_METADATA
    assert header.isascii() and header.isprintable()
    assert found["lineno"] == line
    assert stderr.endswith(found["stderr"])
    if len(json.dumps(given_facts)) + len(json.dumps(message)) < 1000:
        assert {key: found[key] for key in given_facts} == given_facts
    for key, text in (("exception_class", name), ("errormsg", message), ("stdout", stdout)):
        assert text.startswith(found[key].partition("...")[0].rstrip("\n")) or found[key] == text


# -- faults of the server


class Raising:
    """An executor that raises the same thing for every run."""

    ready = True

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def run(
        self, job: Job, bundle: Bundle, answers: Answers | None = None, interest: Interest | None = None
    ) -> Encoded:
        raise self.error

    def stats(self) -> dict[str, Any]:
        return {}

    @property
    def level(self) -> str:
        return "A"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


async def answered(workspace: Path, error: Exception) -> httpx.Response:
    (workspace / "city").mkdir()
    (workspace / "city/hello.py").write_text(FILES["city/hello.py"])
    loaded = settings.load(workspace, flags={}, environ={})
    app = create_app(loaded, executor=Raising(error), fixed_tokens={"fc_a": "city"})
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client,
    ):
        return await client.get("/fc_a/hello", headers={"origin": "https://a.example"})


@pytest.mark.anyio
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("in /srv/secret"),
        TileServerError("the key is 1234"),
        KeyError("x"),
        RecursionError(),
        MemoryError(),
        UnicodeEncodeError("ascii", "é", 0, 1, "no"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_a_fault_of_the_server(tmp_path: Path, error: Exception) -> None:
    """Contract, section 11, row "server fault": 500, and never a word of what went wrong."""
    response = await answered(tmp_path, error)

    assert refused(response, 500) == "internal server error"
    assert response.headers["x-fused-error"] == "internal server error"
    assert response.headers["access-control-allow-origin"] == "*"
    assert "Traceback" not in response.text
    assert "secret" not in response.text + str(response.headers)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("error", "status", "after"),
    [
        (Overloaded("busy", retry_after=7), 503, "7"),
        (TooManyRequests("too often", retry_after=9), 429, "9"),
        (UdfError("ValueError: x", exception_class="ValueError"), 422, None),
    ],
)
async def test_what_an_executor_says(
    tmp_path: Path, error: TileServerError, status: int, after: str | None
) -> None:
    """Contract, section 11: errors keep their status on the way through every layer."""
    response = await answered(tmp_path, error)

    assert response.status_code == status
    assert response.headers.get("retry-after") == after
    assert response.json()["detail"] == error.message


# -- bodies


def posted(server: Server, body: bytes) -> httpx.Response:
    _, secret = server.access.create_token("poster")
    headers = {"authorization": f"Bearer {secret}"}
    return httpx.post(f"{server.url}/run/udf", content=body, headers=headers, timeout=60)


def test_a_body_beyond_the_limit(server: Server) -> None:
    """It is refused as soon as it is too long, and the limit named."""
    assert str(MAX_BODY) in refused(posted(server, b" " * (MAX_BODY + 1)), 422)


def test_code_beyond_the_limit(server: Server) -> None:
    """Likewise."""
    step = {"type": "udf", "udf": {"name": "x", "code": "#" * (MAX_CODE + 1)}}
    body = json.dumps({"step_config": json.dumps(step)}).encode()

    answer = posted(server, body)
    refused(answer, 422)
    assert str(MAX_CODE) in answer.text
