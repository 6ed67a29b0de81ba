"""Two web processes are one server: what is promised of one holds for both, and whoever dies is replaced."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any, NamedTuple, cast

import httpx
import pytest

from benchmarks.processes import alive, children, taken_by, tree, wait_for
from tests.conftest import Server, running, serving
from tests.test_platform_running import ADD, P, Poster, body
from tileserver.processes.acceptor import Acceptor, Shares

# A run leaves a byte in the scratch folder, under the name that it is given.
ENTRY = (
    "import fused, os, tempfile, time, uuid\n"
    "def note(name):\n    with open(os.path.join(tempfile.gettempdir(), name), 'ab') as f: f.write(b'.')\n"
)
FILES = {
    "city/count.py": f"{ENTRY}@fused.udf\ndef udf(s: float = 0.0, n: int = 0):\n"
    "    note('runs')\n    time.sleep(s)\n    return uuid.uuid4().hex\n",
    "city/long.py": f"{ENTRY}@fused.udf\ndef udf():\n    note('long')\n    try:\n        time.sleep(60)\n"
    "    except KeyboardInterrupt:\n        note('interrupted')\n        raise\n",
    "city/big.py": "import fused\n@fused.udf\ndef udf(n: int):\n    return 'abcdefg' * n\n",
    "city/caller.py": "import fused\n@fused.udf\ndef udf():\n    return fused.context.get_header('x-who')\n",
}


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


class Pair:
    """A server of two web processes, and connections to the one or the other."""

    def __init__(self, server: Server) -> None:
        self.server = server

    @property
    def owner(self) -> int:
        """The one that has a pool of workers."""
        return next(pid for pid in children(self.server.process.pid) if children(pid))

    @property
    def relay(self) -> int:
        return next(pid for pid in children(self.server.process.pid) if not children(pid))

    def connect(self, pid: int) -> HTTPConnection:
        """A connection that this process has taken; one of two new ones is, since they are shared out."""
        url = httpx.URL(self.server.url)
        others = []
        try:
            while True:
                connection = HTTPConnection(url.host, url.port, timeout=30)
                connection.connect()
                assert connection.sock is not None
                if taken_by(connection.sock) == pid:
                    return connection
                others.append(connection)
        finally:
            for other in others:
                other.close()

    def ask(self, pid: int, path: str, method: str = "GET", **options: Any) -> Answer:
        """Ask one of the processes."""
        with closing(self.connect(pid)) as connection:
            self.send(connection, path, method, **options)
            return received(connection)

    def send(self, connection: HTTPConnection, path: str, method: str = "GET", **options: Any) -> None:
        for canvas, token in self.server.tokens.items():
            path = path.replace(f"{{{canvas}}}", token)
        connection.request(method, path, **options)

    def noted(self, name: str) -> int:
        """How often runs have noted this."""
        state = self.server.workspace / ".tileserver"
        return sum(path.stat().st_size for path in state.rglob(name))


def received(connection: HTTPConnection) -> Answer:
    response: HTTPResponse = connection.getresponse()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, response.read())


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """For tests that end nothing."""
    flags = ("--http-workers", "2", "--abandon-grace", "0")
    with serving(tmp_path_factory.mktemp("pair") / "w", FILES, *flags) as server:
        yield Pair(server)


@pytest.fixture
def mortal(serve: Callable[..., Server]) -> Pair:
    """A server of its own for a test that ends processes."""
    return Pair(serve(FILES, "--http-workers", "2"))


# -- one server


@pytest.mark.anyio
async def test_connections_are_shared_out() -> None:
    """A burst of connections that stay open: each process has as many as the other."""
    shares = Shares(2)
    held: list[list[asyncio.Transport]] = [[], []]

    def protocol(place: int) -> asyncio.Protocol:
        class Holding(asyncio.Protocol):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                held[place].append(cast(asyncio.Transport, transport))

        return Holding()

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        acceptors = [
            Acceptor(
                listener.dup(),
                shares,
                place,
                make=partial(protocol, place),
                count=held[place].__len__,
            )
            for place in range(2)
        ]
        clients = [socket.create_connection(listener.getsockname()) for _ in range(12)]
        while sum(map(len, held)) < 12:
            await asyncio.sleep(0.001)

        assert [len(transports) for transports in held] == [6, 6]
        for transport in (*held[0], *held[1]):
            transport.close()
        for client in clients:
            client.close()
        for acceptor in acceptors:
            acceptor.close()


@pytest.mark.anyio
async def test_a_process_that_takes_none_leaves_them_to_the_others() -> None:
    """Dead, stopped or at its wits' end: whoever has more takes a connection after a moment."""
    shares = Shares(2)
    shares.has_least(0, 0)  # it says that it has none, and takes none
    taken: asyncio.Future[asyncio.Transport] = asyncio.get_running_loop().create_future()

    class Taking(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            taken.set_result(cast(asyncio.Transport, transport))

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        acceptor = Acceptor(listener.dup(), shares, 1, make=Taking, count=lambda: 5)
        with socket.create_connection(listener.getsockname()):
            (await taken).close()
        acceptor.close()


def test_identical_requests_at_both_are_one_run(pair: Pair) -> None:
    """docs/design.md: ten at once, five at each process."""
    before = pair.noted("runs")
    connections = [pair.connect(pid) for pid in (pair.owner, pair.relay) * 5]
    for connection in connections:
        pair.send(connection, "/{city}/count?s=0.5&n=10")
    answers = [received(connection) for connection in connections]
    for connection in connections:
        connection.close()

    assert {answer.status for answer in answers} == {200}
    assert len({answer.body for answer in answers}) == 1
    assert [answer.headers["x-cache"] for answer in answers].count("miss") == 1
    assert pair.noted("runs") == before + 1


def test_what_one_has_stored_the_other_answers(pair: Pair) -> None:
    """The same bytes, validator and headers."""
    first = pair.ask(pair.owner, "/{city}/count?n=20")
    second = pair.ask(pair.relay, "/{city}/count?n=20")
    again = pair.ask(pair.relay, "/{city}/count?n=20", headers={"if-none-match": second.headers["etag"]})

    assert second.body == first.body
    assert second.headers["x-cache"] == "hit"
    assert second.headers["etag"] == first.headers["etag"]
    assert again.status == 304
    assert first.headers.keys() - second.headers.keys() == set()


@pytest.mark.parametrize("length", [0, 1000, 300_000])
def test_answers_of_any_length_arrive_whole(pair: Pair, length: int) -> None:
    """Through the other process: GET, HEAD and Range."""
    path = f"/{{city}}/big?n={length}&format=html"
    whole = pair.ask(pair.relay, path)
    head = pair.ask(pair.relay, path, "HEAD")
    assert (whole.status, head.status, head.body) == (200, 200, b"")
    assert whole.text == "abcdefg" * length
    assert int(head.headers["content-length"]) == len(whole.body)
    if length:
        part = pair.ask(pair.relay, path, headers={"range": "bytes=5-99"})
        assert (part.status, part.body) == (206, whole.body[5:100])


def test_a_request_keeps_its_headers_and_its_connection(pair: Pair) -> None:
    """One request after another on a connection, each with what its client sent."""
    with closing(pair.connect(pair.relay)) as connection:
        for who in ("a", "b", "c"):
            pair.send(connection, "/{city}/caller?format=json", headers={"x-who": who})
            answer = received(connection)
            assert json.loads(answer.body) == who
            assert "total;dur=" in answer.headers["server-timing"]


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        ("/fc_nobody/x", {}, 404),
        ("/{city}/count", {"host": "elsewhere.example"}, 400),
        ("/{city}/count?n=" + "1" * 70_000, {}, 422),
    ],
)
def test_refusals_are_those_of_the_owner(pair: Pair, path: str, headers: dict[str, str], status: int) -> None:
    """Unknown, addressed to another host, too long."""
    here, there = (pair.ask(pid, path, headers=headers) for pid in (pair.owner, pair.relay))

    assert here.status == there.status == status
    assert here.body == there.body
    assert there.headers["access-control-allow-origin"] == "*"


def test_posted_bodies_arrive_whole(pair: Pair) -> None:
    """In many pieces, and in chunks."""
    poster = Poster(pair.server)
    wanted = "x" * 3_000_000
    code = "@fused.udf\ndef main(s: str):\n    return len(s)\n"
    content = json.dumps(body(code, parameters={"s": wanted})).encode()
    whole = pair.ask(pair.relay, P, "POST", body=content, headers=poster.headers)
    pieces = (content[start : start + 50_000] for start in range(0, len(content), 50_000))
    chunked = pair.ask(pair.relay, P, "POST", body=pieces, headers=poster.headers, encode_chunked=True)

    assert json.loads(whole.body) == 3_000_000
    assert (whole.status, chunked.status, chunked.body) == (200, 200, whole.body)


def test_a_body_beyond_the_limit_is_refused_before_its_end(pair: Pair) -> None:
    """The answer comes while the client still sends."""
    content = b" " * (60 * 2**20)
    for place in (pair.owner, pair.relay):
        with closing(pair.connect(place)) as connection:
            pair.send(connection, P, "POST", body=content, headers=Poster(pair.server).headers)
            assert received(connection).status == 422
            pair.send(connection, "/healthz")
            assert received(connection).status == 200


def test_a_run_started_at_one_is_asked_for_at_the_other(pair: Pair) -> None:
    """docs/http.md, platform: runs by their ids."""
    poster = Poster(pair.server)
    headers = {**poster.headers, "fused-run-id": "run-1"}
    content = json.dumps(body(ADD, parameters={"a": 7})).encode()
    started = pair.ask(pair.owner, f"{P}/start", "POST", body=content, headers=headers)
    found = pair.ask(pair.relay, f"{P}/get/run-1", headers=poster.headers)

    assert started.status in {200, 202}
    assert (found.status, json.loads(found.body)) == (200, [7, None])


def test_wrong_passcodes_are_counted_together(serve: Callable[..., Server]) -> None:
    """docs/http.md: ten a minute from one address, wherever they arrive."""
    server = serve({"sea/one.py": FILES["city/count.py"]}, "--http-workers", "2")
    pair = Pair(server)
    token = server.access.share("sea", passcode="right").token
    wrong = {"authorization": "fused-canvas-passcode wrong"}
    places = (pair.owner, pair.relay)
    tried = [pair.ask(places[n % 2], f"/{token}/one", headers=wrong).status for n in range(10)]

    assert tried == [401] * 10
    for place in places:
        assert pair.ask(place, f"/{token}/one", headers=wrong).status == 429


def test_a_client_that_leaves_is_missed_at_the_owner(pair: Pair) -> None:
    """docs/design.md: a run that nobody waits for is not gone on with."""
    connection = pair.connect(pair.relay)
    pair.send(connection, "/{city}/long")
    wait_for(lambda: pair.noted("long") == 1)

    connection.close()

    wait_for(lambda: pair.noted("interrupted") == 1)


# -- changes are seen by both


def test_a_revoked_token_is_refused_at_both(serve: Callable[..., Server]) -> None:
    """From the next request on, stored results included."""
    pair = Pair(serve({"sea/one.py": FILES["city/count.py"]}, "--http-workers", "2"))
    places = (pair.owner, pair.relay)
    assert [pair.ask(place, "/{sea}/one").status for place in places] == [200, 200]

    pair.server.access.unshare("sea")

    assert [pair.ask(place, "/{sea}/one").status for place in places] == [404, 404]


def test_an_edit_is_seen_at_both(serve: Callable[..., Server]) -> None:
    """The next request after it gets the new code's result."""
    source = "import fused\n@fused.udf\ndef udf():\n    return 'first'\n"
    pair = Pair(serve({"sea/one.py": source}, "--http-workers", "2"))
    places = (pair.owner, pair.relay)
    assert [pair.ask(place, "/{sea}/one.json").text for place in places] == ['"first"'] * 2

    pair.server.write({"sea/one.py": source.replace("first", "second")})

    assert [pair.ask(place, "/{sea}/one.json").text for place in places] == ['"second"'] * 2


def test_what_is_cleared_is_gone_at_both(pair: Pair) -> None:
    """Within a second, four here: cleared by a command, which is a process of neither."""
    places = (pair.owner, pair.relay)
    path = "/{city}/count?n=30"
    first = {pair.ask(place, path).body for place in places}
    assert len(first) == 1

    command = [sys.executable, "-m", "tileserver", "cache", "clear", "--workspace"]
    subprocess.run([*command, str(pair.server.workspace)], check=True, capture_output=True)

    for place in places:
        wait_for(lambda: pair.ask(place, path).body not in first, 4)  # noqa: B023 - called at once


# -- whoever dies


def test_a_killed_web_process_is_replaced_and_others_go_on(mortal: Pair) -> None:
    """The owner's requests are unaffected; another process is there within a second, four here."""
    owner, relay = mortal.owner, mortal.relay
    with closing(mortal.connect(owner)) as connection:
        mortal.send(connection, "/{city}/count?s=1")

        os.kill(relay, signal.SIGKILL)

        wait_for(lambda: len(children(mortal.server.process.pid)) == 2 and mortal.relay != relay, 4)
        assert received(connection).status == 200
    assert mortal.owner == owner
    assert mortal.ask(mortal.relay, "/{city}/count").status == 200


def test_a_killed_owner_takes_its_workers_along_and_what_waited_is_asked_again(mortal: Pair) -> None:
    """A GET at the other process is answered all the same; a POST may have done its work, and gets 503."""
    poster = Poster(mortal.server)
    content = json.dumps(body(f"{ENTRY}@fused.udf\ndef main():\n    note('mine')\n    time.sleep(9)\n"))
    before = [pid for pid in tree(mortal.owner) if pid != mortal.owner]
    getting, posting = mortal.connect(mortal.relay), mortal.connect(mortal.relay)
    mortal.send(getting, "/{city}/count?s=2")
    mortal.send(posting, P, "POST", body=content, headers=poster.headers)
    wait_for(lambda: mortal.noted("runs") == 1 and mortal.noted("mine") == 1)
    workers = [pid for pid in tree(mortal.owner) if pid != mortal.owner]
    assert set(before) & set(workers)

    os.kill(mortal.owner, signal.SIGKILL)

    refused, answer = received(posting), received(getting)
    getting.close()
    posting.close()
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert refused.headers["cache-control"] == "no-store"
    assert answer.status == 200
    wait_for(lambda: not any(map(alive, workers)), 4)


def test_a_request_that_arrives_while_there_is_no_owner_waits_for_the_next(mortal: Pair) -> None:
    """Of any method, since nothing was handed over yet."""
    poster = Poster(mortal.server)
    with closing(mortal.connect(mortal.relay)) as connection:
        os.kill(mortal.owner, signal.SIGKILL)
        mortal.send(connection, P, "POST", body=json.dumps(body(ADD)), headers=poster.headers)
        answer = received(connection)

    assert (answer.status, json.loads(answer.body)) == (200, [1, None])


def test_all_of_them_end_with_the_supervisor(mortal: Pair) -> None:
    """Killed or not: no process is left, and the port is free."""
    everything = tree(mortal.server.process.pid)
    assert len(everything) >= 4

    mortal.server.process.kill()
    mortal.server.process.wait(20)

    wait_for(lambda: not any(map(alive, everything)))
    with pytest.raises(httpx.ConnectError):
        mortal.server.get("/healthz")


@pytest.mark.parametrize("place", ["owner", "relay"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopping_finishes_what_runs(mortal: Pair, place: str, number: int) -> None:
    """docs/design.md: at either process; new connections are refused, a second signal does no harm."""
    everything = tree(mortal.server.process.pid)
    with closing(mortal.connect(getattr(mortal, place))) as connection:
        mortal.send(connection, "/{city}/count?s=1.5")
        wait_for(lambda: mortal.noted("runs") == 1)

        mortal.server.process.send_signal(number)
        wait_for(lambda: not _answers(mortal.server))
        mortal.server.process.send_signal(signal.SIGTERM)

        assert received(connection).status == 200
    assert mortal.server.process.wait(20) == 0
    assert not any(map(alive, everything))


def _answers(server: Server) -> bool:
    try:
        return server.get("/healthz").is_success
    except httpx.TransportError:
        return False


def test_a_stopped_web_process_is_replaced_too(mortal: Pair) -> None:
    """Whoever stops one by itself gets another; only the supervisor's end is the server's."""
    relay = mortal.relay
    os.kill(relay, signal.SIGTERM)

    wait_for(lambda: len(children(mortal.server.process.pid)) == 2 and mortal.relay != relay)
    assert mortal.ask(mortal.relay, "/healthz").status == 200


def test_a_server_that_cannot_start_says_so_once(tmp_path: Path) -> None:
    """No loop of restarts: an error, exit status 1 and nothing left."""
    (tmp_path / ".tileserver").mkdir(mode=0o700)
    (tmp_path / ".tileserver/scratch").write_text("a file where a folder belongs")
    command = [
        sys.executable,
        "-m",
        "tileserver",
        "serve",
        str(tmp_path),
        "--port",
        "0",
        "--http-workers",
        "2",
    ]

    found = subprocess.run(command, capture_output=True, text=True, timeout=60)

    assert found.returncode == 1
    assert found.stdout == ""
    assert "could not start" in found.stderr.splitlines()[-1]
    assert found.stderr.count("could not start") == 1


# -- commands


def test_the_demo_runs_on_several_processes(tmp_path: Path) -> None:
    """``tileserver demo --http-workers 2``."""
    environ = {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path)}
    with running("demo", "--http-workers", "2", environ=environ) as (process, line):
        pair = Pair(Server(line["url"], tmp_path, process, {"demo": line["token"]}))
        for place in (pair.owner, pair.relay):
            answer = pair.ask(place, "/{demo}/hello.json")
            assert answer.status == 200, answer.text


def test_commands_take_the_setting_from_the_file(tmp_path: Path) -> None:
    """A workspace that names it works with every command."""
    (tmp_path / "city").mkdir()
    (tmp_path / "city/one.py").write_text("import fused\n@fused.udf\ndef udf():\n    return 1\n")
    (tmp_path / "tileserver.toml").write_text("http_workers = 2\n")
    command = [sys.executable, "-m", "tileserver", "udf", "run", "city/one", "--format", "json"]

    found = subprocess.run([*command, "--workspace", str(tmp_path)], capture_output=True, text=True)

    assert (found.returncode, found.stdout.strip()) == (0, "1")
