"""How much of a request is taken in and how long that may take, what is said of one that is no HTTP, and
answers that are there at once.

A head beyond the limits is read to its end without being kept, and its request reaches the application with
``refusal`` in its state: the answer is made where all answers are, with every header that they carry. A head
without end, or one that dribbles, is cut off. What ``front.py`` can answer without waiting is written here: a
task and its messages cost more than such an answer. Whoever asks for many tiles says the same with each, but
for the address: the fields of a head that are those of the last one are not taken apart again.
"""

from __future__ import annotations

import asyncio
import json
import resource
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from tileserver.forwarding import Forwarding
from tileserver.front import Caller, Front, Reply, written

MAX_TARGET: Final = 65_535  # bytes; no more fits the parser of addresses
MAX_HEADERS: Final = 131_072  # bytes of all names and values together
MAX_READ: Final = 2**20  # bytes of a head that are read at all
KEEP_ALIVE: Final = 75  # seconds; longer than proxies keep theirs, who would lose a race otherwise

_MOST_DESCRIPTORS: Final = 16_384
_LONGEST: Final = 8192  # bytes of a head that is remembered
_INVALID: Final = "this is not a valid HTTP request; bytes of an address are percent-encoded"


@dataclass(frozen=True, slots=True)
class Bounds:
    """Seconds in which a head, and then a body, must be complete, and in which something of an answer must be
    taken, and how many connections a process keeps: beyond that an idle one makes room for a new one, or the
    new one gets 503."""

    head: float = 20.0
    body: float = 60.0
    taking: float = 60.0
    connections: int = 1000

    @classmethod
    def of_process(cls) -> Bounds:
        """As many connections as a third of the descriptors that this process may have."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_MOST_DESCRIPTORS, hard)
        if soft != resource.RLIM_INFINITY and soft < most:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        return cls(connections=most // 3)


class _Answered:
    """What uvicorn looks at of a request that has been answered, as it takes in the rest of it."""

    response_started = response_complete = keep_alive = True
    disconnected = more_body = False
    message_event = asyncio.Event()


_ANSWERED: Final = _Answered()


class _Known(NamedTuple):
    """A head, but for its first line, and whom it comes from."""

    rest: bytes
    caller: Caller


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol with bounds."""

    _late: asyncio.TimerHandle | None = None
    _looking: asyncio.TimerHandle | None = None
    _untaken: int | None = None  # bytes that the client had to take at the last look
    _known: _Known | None = None  # of the last request, where that was answered at once
    _asks: Caller | None = None  # whose request has been answered at once just now
    _answered_at: float = 0.0
    _lasting: tuple[list[tuple[bytes, bytes]], bytes] = ([], b"")  # uvicorn's own fields, and as written

    def __init__(
        self, *args: Any, bounds: Bounds, forwarding: Forwarding | None = None, **options: Any
    ) -> None:
        super().__init__(*args, **options)
        self._bounds = bounds
        self._forwarding = forwarding
        self._in_head = True  # it is begun by the connection: who says nothing is late, too
        self._in_body = False
        self._read = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        full = len(self.connections) >= self._bounds.connections
        super().connection_made(transport)  # type: ignore[arg-type]  # it is one for TCP
        self._look()
        if full and not self._make_room():
            self._cut_off("503 Service Unavailable", "too many connections", "retry-after: 1")
            return
        self._expect_in_time(self._bounds.head)

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_nothing()
        if self._looking is not None:
            self._looking.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._untaken = None  # it has taken all that waited before

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return  # it has been cut off
        if self._known is not None and self._is_answered_again(data, self._known):
            return
        self._known = self._asks = None
        begins = not self._in_body and (not self._in_head or self._read == 0)
        super().data_received(data)
        if begins and self._asks is not None:
            self._remember(data, self._asks)
        if self._in_head:
            self._read += len(data)
            if self._read > MAX_READ and not self.transport.is_closing():
                self._cut_off("422 Unprocessable Entity", f"the head is longer than {MAX_READ} bytes")
        # Nearly every request comes in one piece, and costs no timer.
        if self._in_body:
            self._expect_in_time(self._bounds.body)
        elif self._in_head or self._is_left_idle():
            self._expect_in_time(self._bounds.head)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._unset_keepalive_if_required()  # an answer that was there at once may have set it just now
        self._in_head, self._read, self._kept, self._hosts = True, 0, 0, 0
        self._refusal, self._looked = "", False

    def on_url(self, url: bytes) -> None:
        if len(self.url) + len(url) > MAX_TARGET:
            self._refusal = f"the address is longer than {MAX_TARGET} bytes, path and query together"
        else:
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._kept += len(name) + len(value)
        if self._kept > MAX_HEADERS:
            self._refusal = f"the headers are longer than {MAX_HEADERS} bytes together"
            return
        super().on_header(name, value)
        self._hosts += self.headers[-1][0] == b"host"

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._expect_nothing()
        if self._hosts > 1:
            # Who reads the first one and who reads the last would mean different servers (RFC 9112, 3.2).
            self.headers[:] = [header for header in self.headers if header[0] != b"host"]
        if self._refusal:
            self.url = b"/"
            self.scope["state"]["refusal"] = self._refusal
        if self._forwarding is not None:
            self._forwarding.rewrite(cast(dict[str, Any], self.scope))
        if not self._is_answered():
            super().on_headers_complete()  # raises for a target that is no address
        self._in_body = True

    def on_message_complete(self) -> None:
        self._in_body = False
        self._expect_nothing()
        super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        # What has been looked at here need not be looked at again.
        super()._start_asgi_task(cycle, app.app if self._looked else app)

    # -- answers that are there at once

    def _is_answered(self) -> bool:
        """Answer a request without waiting, if that can be done; the rest is the application's."""
        path, _, query = self.url.partition(b"?")
        plain = path[:1] == b"/" and path.isascii() and b"%" not in path and b"#" not in self.url
        if not (plain and isinstance(self.app, Front)) or self._has_to_wait():
            return False
        self._looked = True
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["path"], self.scope["raw_path"] = path.decode("ascii"), path
        self.scope["query_string"] = query
        scope = cast(Scope, self.scope)
        caller = self.app.caller_of(scope)
        reply = None if caller is None else self.app.at_once(caller, scope)
        if reply is None:
            return False
        keeps = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        self._asks = caller if keeps else None
        self._send(reply, keeps=keeps)
        return True

    def _remember(self, data: bytes, caller: Caller) -> None:
        """Whom a head comes from, where that is all of what has come, and there is nothing but a head."""
        line, _, rest = data.partition(b"\r\n")
        whole = line[:4] == b"GET " and line[-9:] == b" HTTP/1.1" and data.find(b"\r\n\r\n") == len(data) - 4
        if whole and not (self._in_head or self._in_body) and len(rest) <= _LONGEST:
            self._known = _Known(rest, caller)

    def _is_answered_again(self, data: bytes, known: _Known) -> bool:
        """Answer a request whose head is known but for its address, and whose address was asked for before:
        that such a head is a valid one has been seen, of either part."""
        line, _, rest = data.partition(b"\r\n")
        if rest != known.rest or line[:4] != b"GET " or line[-9:] != b" HTTP/1.1" or self.flow.write_paused:
            return False
        reply = cast(Front, self.app).again(known.caller, line[4:-9])
        if reply is None:
            return False
        self._write(reply, b"\r\n")
        self.server_state.total_requests += 1
        self._answered_at = self.loop.time()  # see timeout_keep_alive_handler
        return True

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that has been idle for long; what is answered again sets no timer anew."""
        left = self._answered_at + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self.timeout_keep_alive_task = self.loop.call_later(left, self.timeout_keep_alive_handler)
        else:
            super().timeout_keep_alive_handler()

    def _has_to_wait(self) -> bool:
        """Whether something comes before an answer: the one to an earlier request, or a client's willingness
        to go on, to take something in, or to speak HTTP at all."""
        return bool(
            (self.cycle is not None and not self.cycle.response_complete)
            or self.expect_100_continue
            or self.flow.write_paused
            or self.transport.is_closing()
            or self.parser.should_upgrade()
        )

    def _send(self, reply: Reply, *, keeps: bool) -> None:
        """Write an answer as a whole, and be ready for the next request."""
        self._write(reply, b"\r\n" if keeps else b"connection: close\r\n\r\n")
        self.cycle = cast(RequestResponseCycle, _ANSWERED)
        if not keeps:
            self.transport.close()
        self.on_response_complete()

    def _write(self, reply: Reply, end: bytes) -> None:
        fields = self.server_state.default_headers
        if fields is not self._lasting[0]:  # uvicorn makes others each second
            self._lasting = (fields, written(fields))
        head = b"%b%b%b%b" % (STATUS_LINE[reply.status], reply.fields, self._lasting[1], end)
        self.transport.writelines((head, reply.body) if reply.body else (head,))  # no copy of the body

    def _unsupported_upgrade_warning(self) -> None:
        """Whoever offers another protocol is answered in this one; that is nothing to warn of."""

    def send_400_response(self, msg: str) -> None:
        self._cut_off("400 Bad Request", _INVALID)

    def _is_left_idle(self) -> bool:
        """Whether nothing ends the connection: empty lines begin no request, but have stopped its clock."""
        answered = self.cycle is None or self.cycle.response_complete
        return answered and self.timeout_keep_alive_task is None

    def _expect_in_time(self, seconds: float) -> None:
        if self._late is None and not self.transport.is_closing():
            self._late = self.loop.call_later(seconds, self._give_up, seconds)

    def _expect_nothing(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _give_up(self, seconds: float) -> None:
        part = "body" if self._in_body else "head"
        self._cut_off("408 Request Timeout", f"the {part} was not complete within {seconds:g} s")

    def _look(self) -> None:
        """Give up a client that has taken nothing since the last look: what waits for it would wait for ever,
        also on a connection that is closing."""
        waits = self.transport.get_write_buffer_size()
        before, self._untaken = self._untaken, None
        if waits and (self.flow.write_paused or self.transport.is_closing()):
            if before is not None and waits >= before:
                self.transport.abort()
                return
            self._untaken = waits
        self._looking = self.loop.call_later(self._bounds.taking, self._look)

    @property
    def is_idle(self) -> bool:
        """Whether it waits for its next request, and its client has the last answer."""
        return self.timeout_keep_alive_task is not None and not self.transport.get_write_buffer_size()

    def _make_room(self) -> bool:
        """Close a connection that waits for its next request; False when there is none."""
        for connection in self.connections:
            if isinstance(connection, Protocol) and connection.is_idle:
                self.connections.discard(connection)
                connection.transport.close()
                return True
        return False

    def _cut_off(self, status: str, text: str, *headers: str) -> None:
        """What can't be parsed has no method and no origin to answer to: the least that can be said; nothing
        where that would be taken for a part of another answer."""
        answered = self.cycle is None or self.cycle.response_complete
        if answered:
            silent = self._in_body
        else:
            silent = bool(self.pipeline) or self.cycle.response_started or not self.cycle.more_body
        self._in_head = self._in_body = False
        self._expect_nothing()
        if silent:
            self.transport.close()
            return
        body = json.dumps({"detail": text}).encode()
        head = [
            f"HTTP/1.1 {status}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            f"x-fused-error: {text}",
            "cache-control: no-store",
            "x-content-type-options: nosniff",
            "connection: close",
            *headers,
        ]
        self.transport.write("\r\n".join([*head, "", ""]).encode() + body)
        self.transport.close()
