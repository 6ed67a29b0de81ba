"""Clients that take their time, that are many, or that say two things at once: raw bytes to the protocol.

Bounds are scaled down, so that nobody waits for the real ones.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Protocol

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from tileserver import wire
from tileserver.answers import Asked
from tileserver.front import Caller, Front, Reply
from tileserver.wire import Bounds

pytestmark = pytest.mark.anyio

GET = b"GET / HTTP/1.1\r\nHost: here\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 10\r\n\r\n"
NO_TIME = Bounds(head=0.2, body=0.2)


class Connection:
    """The client's end of one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of the next answer."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        return int(head.split()[1]), await self.reader.readexactly(length)

    async def rest(self) -> bytes:
        """All until the server closes it; nothing after it has."""
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""


async def count_body(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what it was given."""
    request = Request(scope, receive)
    facts = {"body": len(await request.body()), "hosts": request.headers.getlist("host")}
    await JSONResponse(facts)(scope, receive, send)


class Connect(Protocol):
    async def __call__(self, data: bytes = b"") -> Connection: ...


@asynccontextmanager
async def listening(
    bounds: Bounds, app: ASGIApp = count_body, state: ServerState | None = None
) -> AsyncIterator[Connect]:
    """A server of these bounds, and what connects to it; ``state`` has the server's ends of connections."""
    config = uvicorn.Config(
        app, log_config=None, ws="none", lifespan="off", proxy_headers=False, timeout_keep_alive=60
    )
    config.load()
    state = state or ServerState()
    make = partial(wire.Protocol, config=config, server_state=state, app_state={}, bounds=bounds)
    server = await asyncio.get_running_loop().create_server(make, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    made: list[Connection] = []

    async def connect(data: bytes = b"") -> Connection:
        made.append(Connection(*await asyncio.open_connection("127.0.0.1", port)))
        made[-1].writer.write(data)
        return made[-1]

    try:
        yield connect
    finally:
        for connection in made:
            connection.writer.close()
        server.close()


async def dribble(connection: Connection, data: bytes, pause: float = 0.02) -> None:
    """One byte at a time, for as long as the server listens."""
    for byte in data:
        if connection.writer.is_closing() or connection.reader.at_eof():
            return
        connection.writer.write(bytes([byte]))
        await asyncio.sleep(pause)


@pytest.mark.parametrize("start", [b"", b"GET", GET[:-2]])
async def test_a_head_that_does_not_end_is_cut_off(start: bytes) -> None:
    """Nothing at all, a word, or all but the last line: 408, and the connection is closed."""
    async with listening(NO_TIME) as connect:
        connection = await connect(start)
        status, body = await connection.answer()

        assert status == 408
        assert json.loads(body)["detail"] == "the head was not complete within 0.2 s"
        assert await connection.rest() == b""


async def test_a_head_that_dribbles_gains_no_time() -> None:
    """Each byte would be in time; the whole is not."""
    async with listening(NO_TIME) as connect:
        connection = await connect()
        dribbling = asyncio.create_task(dribble(connection, GET[:-4] + b"a" * 500))
        status, _ = await connection.answer()
        dribbling.cancel()

        assert status == 408


async def test_a_body_that_dribbles_is_cut_off() -> None:
    """Its application is told that the client has left."""
    async with listening(NO_TIME) as connect:
        connection = await connect(POST + b"123")
        status, body = await connection.answer()

        assert status == 408
        assert json.loads(body)["detail"] == "the body was not complete within 0.2 s"


async def test_empty_lines_do_not_hold_a_connection() -> None:
    """They begin no request, and stop no clock for longer than a head may take."""
    async with listening(NO_TIME) as connect:
        connection = await connect(GET)
        assert (await connection.answer())[0] == 200
        dribbling = asyncio.create_task(dribble(connection, b"\r\n" * 200))
        status, _ = await connection.answer()
        dribbling.cancel()

        assert status == 408


async def test_who_is_in_time_is_served_for_as_long_as_the_run_takes() -> None:
    """Bounds are for the request, not for the answer; the next request begins anew."""

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(3 * NO_TIME.head)
        await PlainTextResponse("done")(scope, receive, send)

    async with listening(NO_TIME, slow) as connect:
        connection = await connect()
        for _ in range(2):
            connection.writer.write(GET)
            assert await connection.answer() == (200, b"done")


async def test_beyond_the_bound_an_idle_connection_makes_room() -> None:
    """Who waits for nothing loses least."""
    async with listening(Bounds(connections=2)) as connect:
        first, second = await connect(GET), await connect(POST)
        assert (await first.answer())[0] == 200

        third = await connect(GET)

        assert (await third.answer())[0] == 200
        assert await first.rest() == b""
        second.writer.write(b"0123456789")
        assert json.loads((await second.answer())[1])["body"] == 10


async def test_beyond_the_bound_nobody_at_work_is_cut_off() -> None:
    """The new one gets 503 and when to come back."""
    async with listening(Bounds(connections=2)) as connect:
        busy = [await connect(POST), await connect(POST)]
        for connection in busy:
            connection.writer.write(b"01234")
            await connection.writer.drain()
        refused = await connect(GET)
        head = await refused.reader.readuntil(b"\r\n\r\n")

        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1\r\n" in head
        for connection in busy:
            connection.writer.write(b"56789")
            assert (await connection.answer())[0] == 200


LARGE = b"x" * 2**26  # bytes; more than sockets hold


async def answer_at_length(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse(LARGE)(scope, receive, send)


async def only_one(state: ServerState) -> wire.Protocol:
    """The server's end of the only connection, once its client has an answer to take."""
    while not (protocols := list(state.connections)) or not waiting(protocols[0]):
        await asyncio.sleep(0.01)
    (protocol,) = protocols
    assert isinstance(protocol, wire.Protocol)
    return protocol


def waiting(protocol: asyncio.Protocol) -> int:
    """Bytes of an answer that the client hasn't taken."""
    assert isinstance(protocol, wire.Protocol)
    return protocol.transport.get_write_buffer_size()


@pytest.mark.parametrize("header", [b"", b"Connection: close\r\n"])
async def test_who_takes_nothing_of_an_answer_is_given_up(header: bytes) -> None:
    """It would hold the answer and its connection for ever, also one that the server has closed."""
    state = ServerState()
    async with listening(Bounds(taking=0.1), answer_at_length, state) as connect:
        await connect(GET[:-2] + header + b"\r\n")
        await only_one(state)

        async with asyncio.timeout(10):
            while state.connections:
                await asyncio.sleep(0.01)


async def test_who_takes_some_of_an_answer_is_waited_for() -> None:
    """However slow it is: a look finds that less is left than at the last one."""
    state = ServerState()
    async with listening(Bounds(taking=3600), answer_at_length, state) as connect:
        connection = await connect(GET)
        protocol = await only_one(state)
        for _ in range(3):
            protocol._look()
            before = waiting(protocol)
            while waiting(protocol) == before:
                await connection.reader.read(2**16)

        assert not protocol.transport.is_closing()


async def test_an_answer_that_is_not_taken_yet_is_no_idle_connection() -> None:
    """What is on its way to a slow client is not cut off to make room for another."""
    state = ServerState()
    async with listening(Bounds(connections=1), answer_at_length, state) as connect:
        first = await connect(GET)
        await only_one(state)
        second = await connect(GET)

        assert (await second.answer())[0] == 503
        assert await first.answer() == (200, LARGE)


class Ready(Front):
    """A front that has an answer to one address."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def caller_of(self, scope: Scope) -> Caller | None:
        return Caller(Asked(scope["method"], {}), None, as_page=False, shown=b"", origin=None)

    def at_once(self, caller: Caller, scope: Scope) -> Reply | None:
        return Reply(200, b"content-length: 5\r\n", b"known") if scope["path"] == "/known" else None


async def test_a_request_behind_an_answer_that_was_there_is_no_idle_connection() -> None:
    """Pipelined, it keeps its connection for as long as its run takes."""
    state = ServerState()
    timers: list[object] = []

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        timers.extend(vars(protocol)["timeout_keep_alive_task"] for protocol in state.connections)
        await PlainTextResponse("made")(scope, receive, send)

    async with listening(Bounds(), Ready(run), state) as connect:
        connection = await connect(GET.replace(b"/ ", b"/known ") + GET)

        assert await connection.answer() == (200, b"known")
        assert await connection.answer() == (200, b"made")
    assert timers == [None]


async def test_two_hosts_are_none() -> None:
    """RFC 9112, section 3.2: who reads the first and who reads the last would mean different servers."""
    async with listening(Bounds()) as connect:
        connection = await connect(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")

        assert json.loads((await connection.answer())[1])["hosts"] == []


CHUNKED = b"POST / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n"


@pytest.mark.parametrize(
    "data",
    [
        CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n012345",
        b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 5, 6\r\n\r\n012345",
        b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: +5\r\n\r\n01234",
        b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: -5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 0x5\r\n\r\n01234",
        b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length : 5\r\n\r\n01234",
        b"POST / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        CHUNKED + b"\r\n0x5\r\n01234\r\n0\r\n\r\n",
        CHUNKED + b"\r\n-1\r\n\r\n",
        CHUNKED + b"\r\nfffffffffffffffff\r\n",
        CHUNKED + b"\r\n5\r\n0123456\r\n0\r\n\r\n",
        CHUNKED + b"\r\n5\n01234\r\n0\r\n\r\n",
        CHUNKED + b"\r\n;\r\n",
        b"GET / HTTP/1.1\r\nHost: here\r\nX: a\r\n folded\r\n\r\n",
        b"GET / HTTP/1.1\nHost: here\n\n",
        b"GET /a b HTTP/1.1\r\nHost: here\r\n\r\n",
    ],
    ids=lambda data: data[:60].split(b"here\r\n")[-1].decode().strip() or "chunk",
)
async def test_what_can_be_read_in_two_ways_is_refused(data: bytes) -> None:
    """RFC 9112, sections 6 and 7: smuggling begins where a proxy and the server disagree about an end. The
    connection is closed, so that nothing that follows is taken for a request."""
    async with listening(Bounds()) as connect:
        connection = await connect(data + GET)
        received = await connection.rest()

        assert received.startswith(b"HTTP/1.1 400 ")
        assert received.count(b"HTTP/1.1 ") == 1


async def test_garbage_after_a_request_does_not_answer_it() -> None:
    """An answer under way is not broken into: its client would take the refusal for its own."""

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"8")]})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        await asyncio.sleep(30)

    async with listening(Bounds(), slow) as connect:
        connection = await connect(GET)
        received = await connection.reader.readuntil(b"half")
        connection.writer.write(b"\x00nonsense\r\n\r\n")

        assert received.startswith(b"HTTP/1.1 200 ")
        assert await connection.rest() == b""
