"""The log: one line for each event, for people or for programs, with nothing secret in it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.conftest import running
from tileserver.access import Access

PROGRAM = """
import logging, sys
from tileserver.telemetry import configure_logging
configure_logging(sys.argv[1])
ours, library = logging.getLogger("tileserver.access"), logging.getLogger("library")
ours.info("request", extra={"fields": {"canvas": "city", "ms": 1.5}})
ours.debug("not shown")
library.warning("careful: %s", "it is hot")
library.info("not shown")
try:
    raise ValueError("boom")
except ValueError:
    ours.exception("internal error")
"""


def written(form: str) -> str:
    """What a program with this form of the log writes to standard error."""
    result = subprocess.run([sys.executable, "-c", PROGRAM, form], capture_output=True, text=True, check=True)
    assert result.stdout == ""
    return result.stderr


def test_json_lines() -> None:
    """Each line is an object by itself, exceptions and what libraries say included."""
    request, library, failure = (json.loads(line) for line in written("json").splitlines())

    assert request.items() >= {"level": "info", "event": "request", "canvas": "city", "ms": 1.5}.items()
    assert (library["level"], library["event"]) == ("warning", "careful: it is hot")
    assert (failure["level"], failure["event"]) == ("error", "internal error")
    assert failure["exception"].endswith("ValueError: boom")
    assert all(len(line["time"]) == len("2025-01-01T00:00:00+0000") for line in (request, library, failure))


def test_text_lines() -> None:
    """Time, level, event, facts; a traceback below its line."""
    request, library, failure, *trace = written("text").splitlines()

    assert request[8:] == " info request canvas=city ms=1.5"
    assert library[8:] == " warning careful: it is hot"
    assert failure[8:] == " error internal error"
    assert (trace[0], trace[-1]) == ("Traceback (most recent call last):", "ValueError: boom")


def test_a_name_begins_no_line_of_its_own() -> None:
    """Names are other people's: what they hold stands in the line, and between quotes."""
    program = PROGRAM.replace('"canvas": "city"', r'"canvas": "a\n12:00:00 info request", "udf": "b c"')
    result = subprocess.run(
        [sys.executable, "-c", program, "text"], capture_output=True, text=True, check=True
    )

    first = result.stderr.splitlines()[0]
    assert first[8:] == r' info request canvas="a\n12:00:00 info request" udf="b c" ms=1.5'


# -- requests


FILES = {
    "city/hello.py": "import fused\n@fused.udf\ndef udf(name: str = 'world'):\n    return {'hello': name}\n",
    "city/red.py": "import fused\nimport numpy as np\n@fused.udf\ndef udf(bounds: fused.types.Bounds):\n"
    "    return np.zeros((3, 8, 8), 'uint8')\n",
    "city/boom.py": "import fused\n@fused.udf\ndef udf(n: str):\n    raise ValueError(n)\n",
}
SECRETS = ("sesame", "qu3ry", "s3ssion", "ts_", "fc_", "fsh_")


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The log of a server that was asked for many things, with something secret in each request."""
    workspace = tmp_path_factory.mktemp("log")
    for name, text in FILES.items():
        (workspace / name).parent.mkdir(exist_ok=True)
        (workspace / name).write_text(text)
    file = workspace / "log"
    with (
        file.open("w") as log,
        running("serve", str(workspace), "--log-format", "json", log=log) as (_, line),
        httpx.Client(base_url=line["url"], timeout=30) as client,
    ):
        for url, headers in _secret_requests(Access(workspace / ".tileserver")):
            client.get(url, headers=headers)
    return file.read_text()


def requests(logged: str) -> list[dict[str, Any]]:
    """The lines of requests; the others are the server's own, from its start."""
    lines = [json.loads(line) for line in logged.splitlines()]
    return [line for line in lines if line["event"] == "request"]


def _secret_requests(access: Access) -> Iterator[tuple[str, dict[str, str]]]:
    token = access.share("city", passcode="sesame").token
    single = access.create_shared_token("city", "hello").token
    _, bearer = access.create_token("admin", scope="admin")
    access.close()
    passcode = {"authorization": "fused-canvas-passcode sesame"}
    yield f"/{token}/hello?name=qu3ry", passcode
    yield f"/{token}/red/run/tiles/3/4/2.png?colormap=qu3ry", passcode
    yield f"/{token}/red/run/tiles/3/4/2.png", passcode
    yield f"/{token}/boom?n=qu3ry&fused_session_token=s3ssion", passcode
    yield f"/{token}/hello", {"authorization": "fused-canvas-passcode sesame2"}
    yield f"/{single}.json?name=qu3ry", {"authorization": f"Bearer {bearer}"}
    yield f"/server/v1/realtime-shared/{single}/run/file?name=qu3ry", {"cookie": "a=s3ssion"}
    yield "/fc_unknown/qu3ry?a=qu3ry", {"referer": "https://a.example/?qu3ry", "user-agent": "qu3ry"}
    yield f"/{token}-hello/map?name=qu3ry", {**passcode, "host": "qu3ry.example"}
    yield "/healthz?qu3ry", {"x-forwarded-for": "qu3ry"}


def test_the_log_has_no_secret(logged: str) -> None:
    """docs/http.md: no token, passcode, session or query, in any line; and no second log beside ours."""
    assert [secret for secret in SECRETS if secret in logged] == []
    assert len(requests(logged)) == 10
    events = {json.loads(line)["event"].partition(":")[0] for line in logged.splitlines()}
    assert events - {"network"} == {"sandbox", "request"}


def test_a_line_names_canvas_udf_and_outcome(logged: str) -> None:
    """docs/http.md: what an operator needs to know of a request."""
    facts = [
        {key: line.get(key) for key in ("route", "canvas", "udf", "tile", "status", "cache")}
        for line in requests(logged)
    ]

    def fact(route: str, status: int, *rest: str | None) -> dict[str, object]:
        canvas, udf, tile, cache = rest
        return {"route": route, "canvas": canvas, "udf": udf, "tile": tile, "status": status, "cache": cache}

    assert facts[0] == fact("run", 200, "city", "hello", None, "miss")
    assert facts[2] == fact("tile", 200, "city", "red", "3/4/2", "miss")
    assert facts[3] == fact("run", 422, "city", "boom", None, None)
    assert facts[4] == fact("run", 401, None, None, None, None)
    assert facts[6] == fact("run", 200, "city", "hello", None, "hit")
    assert facts[9] == fact("healthz", 200, None, None, None, None)
    assert all(
        line["event"] == "request" and line["ms"] > 0 and line["method"] == "GET" for line in requests(logged)
    )
