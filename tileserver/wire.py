"""How much of a request's head is taken in, what is said of a request that is no HTTP, and answers that are
there at once.

A head beyond the limits is read to its end without being kept, and its request reaches the application with
``refusal`` in its state: the answer is made where all answers are, with every header that they carry. Only
a head without end is cut off. What ``front.py`` can answer without waiting is written here: a task and its
messages cost more than such an answer.
"""

from __future__ import annotations

import json
from typing import Any, Final, cast

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from tileserver.front import Front, Reply, written

MAX_TARGET: Final = 65_535  # bytes; no more fits the parser of addresses
MAX_HEADERS: Final = 131_072  # bytes of all names and values together
MAX_READ: Final = 2**20  # bytes of a head that are read at all


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
        self._refusal = ""

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
        super().on_headers_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if isinstance(app, Front) and not self._has_to_wait(cycle):
            reply = app.at_once(cast(Scope, cycle.scope))
            if reply is not None:
                self._send(reply, cycle)
                return
            app = app.app
        super()._start_asgi_task(cycle, app)

    def _has_to_wait(self, cycle: RequestResponseCycle) -> bool:
        """Whether there is something to be done before an answer, or a client that doesn't take it in. What
        stands in line behind other requests is begun by their ends: each at once would be in the other."""
        return bool(
            cycle.waiting_for_100_continue
            or self.flow.write_paused
            or self.pipeline
            or self.transport.is_closing()
        )

    def _send(self, reply: Reply, cycle: RequestResponseCycle) -> None:
        """Write an answer as a whole."""
        head = [STATUS_LINE[reply.status], reply.lasting.text, written(reply.passing)]
        if self.server_state.default_headers:
            head.append(written(tuple(self.server_state.default_headers)))
        if not cycle.keep_alive:
            head.append(b"connection: close\r\n")
        head.append(b"\r\n")
        if reply.body:
            head.append(reply.body)
        self.transport.writelines(head)  # one call to the kernel, and no copy of the body
        cycle.response_started = cycle.response_complete = True
        if not cycle.keep_alive:
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
