"""How much of a request's head is taken in, and what is said of a request that is no HTTP.

A head beyond the limits is read to its end without being kept, and its request reaches the application with
``refusal`` in its state: the answer is made where all answers are, with every header that they carry. Only
a head without end is cut off.
"""

from __future__ import annotations

import json
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

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
