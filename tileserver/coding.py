"""Content codings: which one a client takes (RFC 9110, section 12.5.3), and bodies written in it.

A body is compressed once for each coding as long as there is room to remember it; a large one in a thread,
as everybody else would have to wait for it.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final

import zstandard
from isal import igzip

from tileserver.cache import Stored

_FROM: Final = 1024  # bytes; less isn't worth it
_OVERHEAD: Final = 300  # bytes that a compressed body costs besides itself
_IN_A_THREAD_FROM: Final = 256 * 1024  # bytes; about 10 ms
_TYPES: Final = ("text/", "application/json", "application/geo+json", "application/xml")
_TILES: Final = frozenset({"application/vnd.mapbox-vector-tile", "image/svg+xml"})

# The first one that the client takes is used.
_CODINGS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "zstd": lambda body: zstandard.compress(body, 3),
    "gzip": lambda body: igzip.compress(body, 2, mtime=0),
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

    async def coded(self, stored: Stored, coding: str) -> bytes:
        """The body of a result in a coding that ``choose`` gave."""
        made = self.at_once(stored, coding)
        if made is None:
            made = await asyncio.to_thread(_CODINGS[coding], stored.encoded.body)
            self._remember((stored.etag, coding), made)
        return made

    def at_once(self, stored: Stored, coding: str) -> bytes | None:
        """The same; None where making it would keep everybody else waiting."""
        key, body = (stored.etag, coding), stored.encoded.body
        made = self._made.get(key)
        if made is not None:
            self._made.move_to_end(key)
        elif len(body) < _IN_A_THREAD_FROM:
            made = _CODINGS[coding](body)
            self._remember(key, made)
        return made

    def _remember(self, key: tuple[str, str], made: bytes) -> None:
        if 4 * len(made) > self._size or key in self._made:
            return
        self._made[key] = made
        self._bytes += len(made) + _OVERHEAD
        while self._bytes > self._size:
            self._bytes -= len(self._made.popitem(last=False)[1]) + _OVERHEAD
