"""Code that speaks to the server by its worker's channel itself: it hurts its own run, and nobody else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Server, serving
from tileserver import asks

ENTRY = (
    "import json, os, time\nfrom tileserver.protocol import LENGTHS\nfrom tileserver.worker import nested\n\n"
)
UDF = f"{ENTRY}@fused.udf(cache_max_age=0)\n"
ADD = '@fused.udf\ndef udf(n: int = 1):\n    return {"n": n}\n'
# Answers its run with any frame, and goes no further.
FORGE = (
    f"{UDF}def udf(frame: str):\n    import sys\n    caller = sys._getframe()\n"
    "    while not isinstance(caller.f_locals.get('number'), dict): caller = caller.f_back\n"
    "    answer = {**json.loads(frame), **caller.f_locals['number']}\n"
    "    nested._connected[0].send(answer, b'body')\n"
    "    os.kill(os.getpid(), 19)\n"
)
FILES = {
    "city/hello.py": ADD,
    "sea/hello.py": ADD,
    "city/deep.py": f"{UDF}def udf():\n    head = b'[' * 100_000 + b']' * 100_000\n"
    "    nested._connected[0]._channel.sendall(LENGTHS.pack(len(head), 0) + head)\n    time.sleep(30)\n",
    "city/forge.py": FORGE,
    "lake/forge.py": FORGE,
    # Questions whose answers nobody reads, each to be answered with a number of a MiB.
    "city/deaf.py": f"{UDF}def udf(rounds: int):\n    line = nested._connected[0]\n"
    "    question = {'type': 'ask', 'number': 'x' * 2**20, 'ask': 'run'}\n"
    "    for _ in range(rounds):\n        line.send(question, b'{}')\n    return rounds\n",
    "city/ask.py": f"{UDF}def udf(asked: str, more: int = 0):\n    body = asked.encode() + b' ' * more\n"
    "    return nested._connected[0].ask({'ask': 'run'}, body)[0].get('failure')\n",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("workers") / "w", FILES, "--time-limit", "3s") as running:
        yield running


@pytest.fixture(autouse=True)
def well_afterwards(server: Server) -> Iterator[None]:
    """Others are answered after each of these."""
    yield
    assert server.get("/{sea}/hello?n=4&cache_max_age=0").json() == {"n": 4}


def failure(response: httpx.Response) -> str:
    """What a UDF's failure says; never a fault of the server's."""
    assert response.status_code == 422, response.text
    detail: str = response.json()["detail"]
    return detail


def test_a_frame_nested_too_deep_ends_its_worker(server: Server) -> None:
    """It is no frame."""
    assert "it broke the connection" in failure(server.get("/{city}/deep"))


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"meta": 3},
        {"meta": {}, "media_type": "text/plain"},
        {"meta": {}, "media_type": 5, "created": 1},
        {"meta": {}, "media_type": "text/plain", "created": "now"},
        {"meta": {}, "media_type": "text/plain", "created": float("nan")},
        {"meta": {}, "media_type": "text/plain", "created": 1e308},
    ],
    ids=lambda facts: json.dumps(facts),
)
def test_a_result_that_is_none_ends_its_worker(server: Server, facts: dict[str, Any]) -> None:
    """What a result must have is looked at before anything is made of it."""
    frame = json.dumps({"type": "result", **facts})

    assert "it broke the connection" in failure(server.get("/{city}/forge", params={"frame": frame}))


@pytest.mark.parametrize(
    ("path", "expected"),
    [("{city}/forge", (200, True)), ("{lake}/forge/run/tiles.json", (404, False))],
    ids=["body", "document"],
)
def test_facts_that_are_none_are_left_out(server: Server, path: str, expected: tuple[int, bool]) -> None:
    """Times that are words, and bounds and formats that are anything: the body is still the UDF's."""
    meta = {"run_ms": "x", "encode_ms": [], "bounds": "abcd", "format": {}, "kind": [], "fields": 5}
    frame = {"type": "result", "meta": meta, "media_type": "text/plain", "created": 1}

    answer = server.get(f"/{path}", params={"frame": json.dumps(frame)})

    assert (answer.status_code, answer.text == "body") == expected
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_answers_that_nobody_reads_do_not_pile_up(server: Server) -> None:
    """A worker that doesn't read them is not listened to, until its time is over."""
    before = _memory(server)

    assert "longer than its limit" in failure(server.get("/{city}/deaf?rounds=400"))
    assert _memory(server) - before < 100 * 2**20


def test_what_is_asked_for_has_a_limit(server: Server) -> None:
    """It is read where others wait."""
    answer = server.get("/{city}/ask", params={"asked": '{"name": "hello"}', "more": asks.MAX_BODY})

    assert str(asks.MAX_BODY) in answer.json()["message"]


@pytest.mark.parametrize("code", [None, "@fused.udf\ndef udf(): return 1\n"], ids=["name", "code"])
def test_a_name_that_is_no_text_is_refused(server: Server, code: str | None) -> None:
    """Halves of characters can be written in JSON, and nowhere else."""
    asked = json.dumps({"name": "\ud800", "parameters": {}, "code": code})

    answer = server.get("/{city}/ask", params={"asked": asked})

    assert answer.json()["class"] == "BadRequest"


def _memory(server: Server) -> int:
    """The most bytes that the server's own process has held."""
    for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the system doesn't say")
