"""How much of a request's head is taken in, what is said of a request that is no HTTP, and answers that are
there at once.

A head beyond the limits is read to its end without being kept, and its request reaches the application with
``refusal`` in its state: the answer is made where all answers are, with every header that they carry. Only
a head without end is cut off. What ``front.py`` can answer without waiting is written here: a task and its
messages cost more than such an answer.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final, cast

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from tileserver.front import Front, Reply, written

MAX_TARGET: Final = 65_535  # bytes; no more fits the parser of addresses
MAX_HEADERS: Final = 131_072  # bytes of all names and values together
MAX_READ: Final = 2**20  # bytes of a head that are read at all


class _Answered:
    """What uvicorn looks at of a request that has been answered, as it takes in the rest of it."""

    response_started = response_complete = keep_alive = True
    disconnected = more_body = False
    message_event = asyncio.Event()


_ANSWERED: Final = _Answered()


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol with bounds."""

    _in_head = False

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:
            self._read += len(data)
            if self._read > MAX_READ and not self.transport.is_closing():
                self._cut_off("422 Unprocessable Entity", f"the head is longer than {MAX_READ} bytes")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._read, self._kept = True, 0, 0
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
        else:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._refusal:
            self.url = b"/"
            self.scope["state"]["refusal"] = self._refusal
        if not self._is_answered():
            super().on_headers_complete()

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
        reply = self.app.at_once(cast(Scope, self.scope))
        if reply is not None:
            self._send(reply)
        return reply is not None

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

    def _send(self, reply: Reply) -> None:
        """Write an answer as a whole."""
        keeps = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        parts = [STATUS_LINE[reply.status], reply.lasting.text, written(reply.passing)]
        if self.server_state.default_headers:
            parts.append(written(tuple(self.server_state.default_headers)))
        parts.append(b"\r\n" if keeps else b"connection: close\r\n\r\n")
        if reply.body:
            parts.append(reply.body)
        self.transport.writelines(parts)  # one call to the kernel, and no copy of the body
        self.cycle = cast(RequestResponseCycle, _ANSWERED)
        if not keeps:
            self.transport.close()
        self.on_response_complete()

    def send_400_response(self, msg: str) -> None:
        self._in_head = False
        self._cut_off(
            "400 Bad Request", "this is not a valid HTTP request; bytes of an address are percent-encoded"
        )

    def _cut_off(self, status: str, text: str) -> None:
        """What can't be parsed has no method and no origin to answer to: the least that can be said."""
        body = json.dumps({"detail": text}).encode()
        head = [
            f"HTTP/1.1 {status}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            f"x-fused-error: {text}",
            "cache-control: no-store",
            "x-content-type-options: nosniff",
            "connection: close",
        ]
        self.transport.write("\r\n".join([*head, "", ""]).encode() + body)
        self.transport.close()
