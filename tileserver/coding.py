"""Content codings: which one a client takes (RFC 9110, section 12.5.3), and bodies written in it.

A body is compressed once for each coding as long as there is room to remember it; a large one in a thread,
as everybody else would have to wait for it.
"""

from __future__ import annotations

import asyncio
import gzip
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

import zstandard

from tileserver.cache import Stored

_FROM: Final = 1024  # bytes; less isn't worth it
_IN_A_THREAD_FROM: Final = 256 * 1024  # bytes; about 10 ms
_TYPES: Final = ("text/", "application/json", "application/geo+json", "application/xml")
_TILES: Final = frozenset({"application/vnd.mapbox-vector-tile", "image/svg+xml"})

# The first one that the client takes is used.
_CODINGS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "zstd": lambda body: zstandard.compress(body, 3),
    "gzip": lambda body: gzip.compress(body, 5, mtime=0),
}


def choose(accept_encoding: str, media_type: str, size: int) -> str | None:
    """The coding for a body of ``size`` bytes; None where it is sent as it is."""
    if size < _FROM or not (media_type.startswith(_TYPES) or media_type in _TILES):
        return None
    taken = _taken(accept_encoding)
    return next((coding for coding in _CODINGS if coding in taken), None)


def _taken(header: str) -> set[str]:
    """The codings that an Accept-Encoding header allows."""
    allowed = set()
    for item in header.lower().split(","):
        name, _, parameters = item.partition(";")
        weight = parameters.replace(" ", "").removeprefix("q=")
        if name.strip() and weight not in {"0", "0.0", "0.00", "0.000"}:
            allowed.add(name.strip())
    return allowed


class Coder:
    """Compressed bodies, those used last up to ``size`` bytes. Used from one event loop."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._made: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._bytes = 0

    def made(self, etag: str, coding: str) -> bytes | None:
        """The body of the result with this validator in a coding, where it is remembered."""
        made = self._made.get((etag, coding))
        if made is not None:
            self._made.move_to_end((etag, coding))
        return made

    async def coded(self, stored: Stored, coding: str) -> bytes:
        """The body of a result in a coding that ``choose`` gave."""
        key = (stored.etag, coding)
        made = self.made(*key)
        if made is not None:
            return made
        body, code = stored.encoded.body, _CODINGS[coding]
        made = code(body) if len(body) < _IN_A_THREAD_FROM else await asyncio.to_thread(code, body)
        self._remember(key, made)
        return made

    def _remember(self, key: tuple[str, str], made: bytes) -> None:
        if 4 * len(made) > self._size or key in self._made:
            return
        self._made[key] = made
        self._bytes += len(made)
        while self._bytes > self._size:
            self._bytes -= len(self._made.popitem(last=False)[1])
