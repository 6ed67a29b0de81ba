"""Requests that differ by their address alone, on one connection: answered as if each had come by itself."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Scope
from uvicorn.server import ServerState

from tests.test_front import FILES, Both, both, until
from tests.test_slow_clients import Connect, Connection, listening
from tileserver import wire
from tileserver.front import Caller
from tileserver.wire import Bounds

pytestmark = pytest.mark.anyio

TILE = "/{city}/tile/run/tiles/3/4/%d.png"
PASSCODE = "Authorization: fused-canvas-passcode sesame\r\n"
VOLATILE = re.compile(rb"(date|server-timing|x-fused-request-id): [^\r]*\r\n|max-age=\d+")


class Wired:
    """One server in this process, its socket, and how many heads it has taken apart."""

    def __init__(self, doors: Both, connect: Connect, state: ServerState) -> None:
        self.doors, self.connect, self.state = doors, connect, state
        self.heads = 0
        caller_of = doors.front.caller_of

        def counted(scope: Scope) -> Caller | None:
            self.heads += 1
            return caller_of(scope)

        doors.front.caller_of = counted  # type: ignore[method-assign]  # so that it is counted

    def head(self, path: str, fields: str = "", method: str = "GET") -> bytes:
        text = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n"
        return text.format(**self.doors.tokens).encode()

    @property
    def protocol(self) -> wire.Protocol:
        (found,) = self.state.connections
        return cast(wire.Protocol, found)


@asynccontextmanager
async def wired(workspace: Path, **flags: object) -> AsyncIterator[Wired]:
    """One where tiles 0 to 5 of a column, and numbers 1 and 2, are stored."""
    state = ServerState()
    async with both(workspace, **flags) as doors, listening(Bounds(), doors.front, state) as connect:
        for path in [*(TILE % y for y in range(6)), "/{city}/data.json?n=1", "/{city}/data.json?n=2"]:
            assert (await doors.ask(path)).status_code == 200
        assert (await doors.ask("/{lock}/data.json", headers=LOCK)).status_code == 200
        yield Wired(doors, connect, state)


LOCK = {"authorization": "fused-canvas-passcode sesame"}


async def answer(connection: Connection, *, bodiless: bool = False) -> tuple[bytes, bytes]:
    """Head and body of the next answer."""
    head = await asyncio.wait_for(connection.reader.readuntil(b"\r\n\r\n"), 20)
    length = re.search(rb"content-length: (\d+)", head)
    if length is None or bodiless or head.startswith(b"HTTP/1.1 304"):
        return head, b""
    return head, await asyncio.wait_for(connection.reader.readexactly(int(length[1])), 20)


async def asked(connection: Connection, data: bytes) -> tuple[bytes, bytes]:
    connection.writer.write(data)
    return await answer(connection)


async def test_fields_that_stay_the_same_are_taken_apart_once(tmp_path: Path) -> None:
    """However many tiles are asked for; each is the right one, counted, and written down."""
    async with wired(tmp_path) as server:
        connection = await server.connect()
        found = [await asked(connection, server.head(TILE % y)) for y in (0, 1, 2, 1)]

        assert server.heads == 1
        assert server.state.total_requests == 4
        for (head, body), y in zip(found, (0, 1, 2, 1), strict=True):
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"\r\ndate: " in head or not server.state.default_headers
            assert f"y={y}".encode() in body
        assert len({head for head, _ in found}) == 4  # each with an id of its own


async def test_what_was_not_asked_for_before_is_taken_apart(tmp_path: Path) -> None:
    """An address is looked at by the rules once before it is known."""
    async with wired(tmp_path) as server:
        connection = await server.connect()
        await asked(connection, server.head(TILE % 0))
        head, _ = await asked(connection, server.head("/{city}/data.json?n=77"))
        assert b"x-cache: miss" in head
        again, _ = await asked(connection, server.head("/{city}/data.json?n=77"))

        assert b"x-cache: hit" in again
        assert server.heads == 3


@pytest.mark.parametrize(
    "fields",
    [
        "Accept: text/html\r\n",
        "Accept-Encoding: gzip\r\n",
        "Origin: https://a.example\r\n",
        "Range: bytes=0-3\r\n",
        'If-None-Match: "other"\r\n',
        PASSCODE,
        "X: y\r\n",
        "Fused-Recursion: 2\r\n",
    ],
)
async def test_other_fields_are_taken_apart(tmp_path: Path, fields: str) -> None:
    """Whoever says something else is somebody else, or wants it otherwise."""
    async with wired(tmp_path) as server:
        connection = await server.connect()
        await asked(connection, server.head(TILE % 0))
        found, body = await asked(connection, server.head(TILE % 0, fields))
        alone, body_alone = await asked(await server.connect(), server.head(TILE % 0, fields))

        assert server.heads == 3
        assert (VOLATILE.sub(b"", found), body) == (VOLATILE.sub(b"", alone), body_alone)


async def test_a_token_that_was_revoked_is_known_no_more(tmp_path: Path) -> None:
    """Seen at the next request, on the same connection."""
    async with wired(tmp_path) as server:
        connection = await server.connect()
        for _ in range(2):
            head, _ = await asked(connection, server.head("/{one}.json"))
            assert head.startswith(b"HTTP/1.1 200 ")
        server.doors.access.revoke_shared_token(server.doors.tokens["one"])

        head, _ = await asked(connection, server.head("/{one}.json"))
        assert head.startswith(b"HTTP/1.1 404 ")


async def test_an_edit_is_seen(tmp_path: Path) -> None:
    """As by any request: within a moment, without another connection."""
    async with wired(tmp_path) as server:
        connection = await server.connect()
        first, _ = await asked(connection, server.head("/{city}/data.json?n=1"))
        (tmp_path / "city" / "data.py").write_text(FILES["city/data.py"] + "\n# edited\n")

        async with asyncio.timeout(10):
            while b"x-cache: hit" in first:
                first, _ = await asked(connection, server.head("/{city}/data.json?n=1"))
                await asyncio.sleep(0.01)
        assert b"x-cache: miss" in first


async def test_a_passcode_holds_for_who_has_said_it(tmp_path: Path) -> None:
    """The fields of one request say nothing of the next one that leaves them out."""
    async with wired(tmp_path) as server:
        connection = await server.connect()
        statuses = []
        for fields in (PASSCODE, PASSCODE, "", PASSCODE, ""):
            head, _ = await asked(connection, server.head("/{lock}/data.json", fields))
            statuses.append(int(head.split()[1]))

        assert statuses == [200, 200, 401, 200, 401]


async def test_what_looks_like_a_head_within_a_field_is_none(tmp_path: Path) -> None:
    """A proxy sends heads of many people over one connection, and who writes a long one may choose where it
    is cut: what is known must be a whole head, or one caller would lend others a credential."""
    async with wired(tmp_path) as server:
        path = "/{lock}/data.json".format(**server.doors.tokens)
        connection = await server.connect()
        connection.writer.write(f"GET {path} HTTP/1.1\r\n{PASSCODE}X: ".encode())
        await connection.writer.drain()
        await until(server.doors, TILE % 0, lambda _: server.protocol._read > 0)
        inner = server.head(path)
        head, _ = await asked(connection, inner)
        assert head.startswith(b"HTTP/1.1 200 ")

        head, _ = await asked(connection, inner)
        assert head.startswith(b"HTTP/1.1 401 ")


async def test_a_body_that_comes_later_is_no_head(tmp_path: Path) -> None:
    """Not even if it has the very fields of the head that it belongs to."""
    async with wired(tmp_path) as server:
        length = len(server.head(TILE % 1, "Content-Length: 999\r\n"))
        fields = f"Content-Length: {length}\r\n"
        connection = await server.connect()
        first, _ = await asked(connection, server.head(TILE % 2, fields))
        connection.writer.write(server.head(TILE % 1, fields))
        await until(server.doors, TILE % 0, lambda _: not server.protocol._in_body)
        last, body = await asked(connection, server.head(TILE % 3))

        assert 100 <= length <= 999
        assert first.startswith(b"HTTP/1.1 200 ")
        assert last.startswith(b"HTTP/1.1 200 ")
        assert b"y=3" in body


async def test_the_end_of_a_body_is_no_beginning_of_a_head(tmp_path: Path) -> None:
    """Not even if it would be one, together with the head that comes behind it."""
    async with wired(tmp_path) as server:
        inner = server.head(TILE % 1)
        body = inner.partition(b"\r\n")[0] + b"\r\nRange: bytes=0-3\r\nX: "
        connection = await server.connect()
        await asked(connection, server.head(TILE % 2, f"Content-Length: {len(body)}\r\n"))
        behind, _ = await asked(connection, body + inner)
        whole, _ = await asked(connection, body + inner)

        assert behind.startswith(b"HTTP/1.1 200 ")
        assert whole.startswith(b"HTTP/1.1 206 ")


async def test_another_version_or_method_is_taken_apart(tmp_path: Path) -> None:
    """What is known is known of GET in HTTP/1.1, whichever comes first."""
    async with wired(tmp_path) as server:
        connection = await server.connect(server.head(TILE % 1, method="HEAD"))
        await answer(connection, bodiless=True)
        _, body = await asked(connection, server.head(TILE % 1))
        assert b"y=1" in body
        put, _ = await asked(connection, server.head(TILE % 1, method="PUT"))
        assert put.startswith(b"HTTP/1.1 405 ")

        await asked(connection, server.head(TILE % 1))
        last, _ = await asked(connection, server.head(TILE % 1).replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert b"\r\nconnection: close\r\n" in last
        assert await connection.rest() == b""


async def test_a_long_head_is_not_kept(tmp_path: Path) -> None:
    """There may be thousands of connections."""
    async with wired(tmp_path) as server:
        connection = await server.connect()
        for _ in range(2):
            await asked(connection, server.head(TILE % 0, f"X: {'a' * wire._LONGEST}\r\n"))

        assert server.heads == 2


async def test_nothing_more_is_written_to_who_takes_nothing(tmp_path: Path) -> None:
    """An answer waits until there is room for it."""
    async with wired(tmp_path) as server:
        connection = await server.connect()
        await asked(connection, server.head(TILE % 0))
        protocol = server.protocol
        protocol.pause_writing()
        connection.writer.write(server.head(TILE % 1))
        await until(
            server.doors, TILE % 0, lambda _: server.state.total_requests > 1 or bool(server.state.tasks)
        )
        assert server.state.total_requests == 1

        protocol.resume_writing()
        _, body = await answer(connection)
        assert b"y=1" in body


async def test_heads_that_come_together_are_each_answered(tmp_path: Path) -> None:
    """Also where the same ones have come together before."""
    async with wired(tmp_path) as server:
        connection = await server.connect()
        pair = server.head(TILE % 1) + server.head(TILE % 2)
        for _ in range(3):
            connection.writer.write(pair)
            bodies = [(await answer(connection))[1] for _ in range(2)]
            assert [b"y=1" in bodies[0], b"y=2" in bodies[1]] == [True, True]


async def test_a_connection_in_use_is_no_idle_one(tmp_path: Path) -> None:
    """The clock of an idle connection starts with its last answer."""
    async with wired(tmp_path) as server:
        connection = await server.connect()
        await asked(connection, server.head(TILE % 0))
        protocol = server.protocol
        await asked(connection, server.head(TILE % 1))
        protocol.timeout_keep_alive_handler()
        assert not protocol.transport.is_closing()
        assert protocol.is_idle

        protocol._answered_at -= protocol.timeout_keep_alive
        protocol.timeout_keep_alive_handler()
        assert protocol.transport.is_closing()


POOL = [
    *((TILE % y, "", "GET") for y in range(3)),
    ("/{city}/data.json?n=1", "", "GET"),
    ("/{city}/data.json?n=2", "Accept: */*\r\n", "GET"),
    (TILE % 1, "Accept: */*\r\n", "GET"),
    (TILE % 1, "", "HEAD"),
    (TILE % 1, "Range: bytes=0-3\r\n", "GET"),
    ("/{lock}/data.json", PASSCODE, "GET"),
    ("/{lock}/data.json", "", "GET"),
    ("/{city}/nobody", "", "GET"),
    ("/fc_nobody/data.json", "", "GET"),
    (TILE % 2, "Content-Length: 5\r\n\r\nGET /", "GET"),
]


async def test_every_order_and_every_cut_is_answered_alike(tmp_path: Path) -> None:
    """Whatever comes before a request, and in whichever pieces it comes."""
    async with wired(tmp_path) as server:

        def data(number: int) -> bytes:
            path, fields, method = POOL[number]
            if "\r\n\r\n" in fields:
                return server.head(path, fields).removesuffix(b"\r\n")
            return server.head(path, fields, method)

        async def told(connection: Connection, number: int) -> tuple[Any, ...]:
            head, body = await answer(connection, bodiless=POOL[number][2] == "HEAD")
            return VOLATILE.sub(b"", head), body

        alone = []
        for number in range(len(POOL)):
            connection = await server.connect(data(number))
            alone.append(await told(connection, number))

        requests = 0

        async def check(numbers: list[int], together: set[int], cuts: list[int]) -> None:
            nonlocal requests
            requests += len(numbers)
            connection = await server.connect()
            whole = b"".join(data(number) for number in numbers)
            ends = list(accumulate(len(data(number)) for number in numbers))
            apart = {end for place, end in enumerate(ends) if place not in together}
            places = sorted({cut % (len(whole) + 1) for cut in cuts} | apart | {0, len(whole)})
            for start, end in pairwise(places):
                connection.writer.write(whole[start:end])
                for _ in range(3):  # so that the server has read it before there is more
                    await asyncio.sleep(0)
            for number in numbers:
                assert await told(connection, number) == alone[number]
            connection.writer.close()

        loop = asyncio.get_running_loop()

        @given(
            st.lists(st.integers(0, len(POOL) - 1), min_size=1, max_size=8),
            st.sets(st.integers(0, 7), max_size=4),
            st.lists(st.integers(0, 2000), max_size=3),
        )
        def run(numbers: list[int], together: set[int], cuts: list[int]) -> None:
            asyncio.run_coroutine_threadsafe(check(numbers, together, cuts), loop).result(60)

        await asyncio.to_thread(run)
        assert 0 < server.heads - len(alone) < requests
