"""What travels between web processes: frames, and a request that no owner takes up."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tileserver.processes.door import Door
from tileserver.processes.frames import PIECE, Frames, Lost, pieces
from tileserver.processes.relay import Relay
from tileserver.protocol import LENGTHS, MAX_HEADER, pack

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def connection() -> AsyncIterator[tuple[Frames, socket.socket]]:
    """One end as the processes have it, and the other as it is."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    _, frames = await asyncio.get_running_loop().create_unix_connection(Frames, sock=ours)
    with theirs:
        yield frames, theirs
        frames.close()
        await frames.closed


def framed(header: object, body: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return LENGTHS.pack(len(text), len(body)) + text + body


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=5), st.lists(st.integers(1, 700), max_size=8))
def test_frames_arrive_whole_wherever_they_are_cut(bodies: list[bytes], cuts: list[int]) -> None:
    """In their order, whatever the pieces are that a socket gives."""

    async def received() -> list[bytes]:
        async with connection() as (frames, theirs):
            data = b"".join(framed({"number": n}, body) for n, body in enumerate(bodies))
            for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True):
                await asyncio.get_running_loop().sock_sendall(theirs, data[start:end])
                await asyncio.sleep(0)
            found = []
            for number in range(len(bodies)):
                frame = await frames.read()
                assert frame is not None and frame.header == {"number": number}
                found.append(frame.body)
            return found

    assert asyncio.run(received()) == bodies


@pytest.mark.parametrize(
    "data",
    [
        LENGTHS.pack(0, 0),
        LENGTHS.pack(MAX_HEADER + 1, 0),
        LENGTHS.pack(2, PIECE + 1),
        framed([1]),
        LENGTHS.pack(3, 0) + b"{]}",
        LENGTHS.pack(90_000, 0) + b"[" * 90_000,
    ],
    ids=["no header", "long header", "long body", "a list", "no JSON", "deep JSON"],
)
async def test_what_is_no_frame_ends_the_connection(data: bytes) -> None:
    """Lengths are looked at before anything is kept for them."""
    async with connection() as (frames, theirs):
        await asyncio.get_running_loop().sock_sendall(theirs, data)

        assert await frames.read() is None
        with pytest.raises(Lost):
            await frames.write({})


async def test_frames_that_nobody_takes_are_not_read() -> None:
    """What waits is in the socket, and its sender waits, too."""
    async with connection() as (frames, theirs):
        sending = asyncio.create_task(
            asyncio.get_running_loop().sock_sendall(theirs, framed({}, b"x" * PIECE) * 40)
        )
        done, _ = await asyncio.wait({sending}, timeout=0.3)
        assert not done
        for _ in range(40):
            frame = await frames.read()
            assert frame is not None and len(frame.body) == PIECE
        await sending


async def test_a_writer_waits_for_its_reader() -> None:
    """Answers don't pile up in the owner."""
    async with connection() as (frames, theirs):
        writing = asyncio.create_task(frames.write({}, b"x" * 4 * PIECE))
        done, _ = await asyncio.wait({writing}, timeout=0.3)
        assert not done
        whole = len(b"".join(pack({}, b"x" * 4 * PIECE)))
        while whole:
            whole -= len(await asyncio.get_running_loop().sock_recv(theirs, 65536))
        await writing


@pytest.mark.parametrize("length", [0, 1, PIECE, PIECE + 1, 3 * PIECE])
def test_pieces_are_the_whole(length: int) -> None:
    """At least one, none longer than a frame holds."""
    body = bytes(range(256)) * (length // 256 + 1)
    found = list(pieces(body[:length]))

    assert b"".join(found) == body[:length]
    assert found and max(map(len, found)) <= PIECE


# -- requests


async def nobody(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("nobody there", 503)(scope, receive, send)


@asynccontextmanager
async def relayed(app: ASGIApp | None, *, patience: float = 20) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a relay, and the owner that has this application; none without."""
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    serving = asyncio.create_task(Door(theirs, app).serve()) if app is not None else None
    relay = Relay(ours, unreachable=nobody, patience=patience)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(relay), base_url="http://here") as client:
        yield client
    ours.close()
    if serving is not None:
        serving.cancel()
        await asyncio.wait({serving})
    theirs.close()


async def echo(request: Request) -> Response:
    body = await request.body()
    scope = request.scope
    address = [scope["path"], scope["raw_path"].decode(), scope["query_string"].decode()]
    facts = [request.method, request.headers.get("x-who"), request.client, *address]
    return Response(json.dumps(facts).encode() + b"\n" + body, headers={"x-kept": KEPT})


KEPT = "\xff"  # no UTF-8, so that it can be read as nothing else
METHODS = ["GET", "POST", "PUT", "DELETE"]
ECHO = Starlette(routes=[Route("/{path:path}", echo, methods=METHODS)])


@pytest.mark.parametrize("method", METHODS)
async def test_a_request_arrives_as_it_was_sent(method: str) -> None:
    """Method, address, headers, client and body; the answer comes back likewise."""
    body = b"" if method == "GET" else bytes(range(256)) * 5000
    async with relayed(ECHO) as client:
        answer = await client.request(method, "/a%2Fb/ü?q=%00&q=1+1", content=body, headers={"x-who": "me"})

    facts, _, rest = answer.content.partition(b"\n")
    address = ["/a/b/ü", "/a%2Fb/%C3%BC", "q=%00&q=1+1"]
    assert json.loads(facts) == [method, "me", ["127.0.0.1", 123], *address]
    assert rest == body
    assert answer.headers["x-kept"] == KEPT


async def test_without_an_owner_there_is_an_answer_all_the_same() -> None:
    """When patience ends."""
    async with relayed(None, patience=0.1) as client:
        answer = await client.get("/")

    assert (answer.status_code, answer.text) == (503, "nobody there")


async def test_a_request_that_ends_its_owner_is_not_asked_for_ever() -> None:
    """Three times in all: it may be what the owners die of."""
    asked = 0

    async def dying(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal asked
        asked += 1  # and no word: the connection ends

    async with relayed(dying) as client:
        assert (await client.get("/")).status_code == 503
        assert asked == 3
        assert (await client.post("/", content=b"x")).status_code == 503
        assert asked == 4
