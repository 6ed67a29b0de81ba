"""Sources that ``fused.load`` takes from outside the canvas, as the server reads them.

A UDF whose code names such a source literally gets it in its bundle, and its revision counts it; whatever
names it only as it runs asks for it then.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import lru_cache
from typing import Final

from tileserver.errors import Forbidden, NotFound, TileServerError, TooManyRequests, Unauthorized
from tileserver.fetching import Fetcher
from tileserver.mirror import Mirror
from tileserver.protocol import Bundle, Foreign
from tileserver.signature import neighbours
from tileserver.udf import Udf

SourceOf = Callable[[str], Awaitable[Foreign]]

_LOOK_EVERY: Final = 0.5
_MOST: Final = 50  # sources of one UDF from elsewhere
_REMEMBERED: Final = 256
_TOKEN: Final = re.compile(r"(fc_|fsh_|UDF_).+|[0-9a-f]{64}(/.*)?", re.ASCII)


def is_address(name: str) -> bool:
    return "://" in name


def is_token(name: str) -> bool:
    """Whether a client of Fused takes a text for a token, rather than for a name."""
    return _TOKEN.fullmatch(name) is not None


class Sources:
    """What stands behind the addresses that UDFs load, from folders or fetched. Used from one event loop."""

    def __init__(self, mirror: Mirror, fetcher: Fetcher) -> None:
        self._mirror = mirror
        self._fetcher = fetcher
        self._known: OrderedDict[str, tuple[Foreign | TileServerError, float]] = OrderedDict()
        self._reading: dict[str, asyncio.Task[Foreign]] = {}

    async def load(self, url: str) -> Foreign:
        """The source of an address as it was at most half a second ago.

        :raises NotFound: when there is none; the message says why.
        """
        known = self._known.get(url)
        if known is not None and time.monotonic() - known[1] < _LOOK_EVERY:
            if isinstance(known[0], TileServerError):
                raise NotFound(known[0].message)
            return known[0]
        reading = self._reading.get(url)
        if reading is None:
            reading = asyncio.ensure_future(self._read(url))
            self._reading[url] = reading
            reading.add_done_callback(lambda done: self._done(url, done))
        return await asyncio.shield(reading)

    async def _read(self, url: str) -> Foreign:
        # A folder that stands for it beats the network, also when what is asked for isn't in it.
        load = self._mirror.load
        if self._mirror.place(url) is None and self._fetcher.allows(url.rstrip("/")):
            load = self._fetcher.load
        return await asyncio.to_thread(load, url)

    def _done(self, url: str, reading: asyncio.Task[Foreign]) -> None:
        del self._reading[url]
        if reading.cancelled():
            return
        error = reading.exception()
        if error is None or isinstance(error, TileServerError):
            self._known[url] = (reading.result() if error is None else error, time.monotonic())
            self._known.move_to_end(url)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)


async def complete(udf: Udf, bundle: Bundle, source_of: SourceOf) -> tuple[Udf, Bundle]:
    """A UDF and its bundle with the sources that its code names literally; what can't be had is left out, so
    that whoever asks for it is told why as it runs."""
    pending = list(foreign_names(udf.name, bundle))
    found: dict[str, Foreign] = {}
    while pending and len(found) < _MOST:
        name = pending.pop()
        if name in found:
            continue
        try:
            found[name] = await source_of(name)
        except (NotFound, Unauthorized, Forbidden, TooManyRequests):
            continue
        # Only addresses: plain names mean something else over there.
        pending.extend(n for text in found[name].files.values() for n in _names(text) if is_address(n))
    if not found:
        return udf, bundle
    facts = [udf.revision, sorted((name, source.digest) for name, source in found.items())]
    revision = hashlib.blake2b(json.dumps(facts).encode(), digest_size=12).hexdigest()
    return replace(udf, revision=revision), _completed(bundle, found)


_bundles: Final[OrderedDict[tuple[str, tuple[tuple[str, str], ...]], Bundle]] = OrderedDict()


def _completed(bundle: Bundle, found: dict[str, Foreign]) -> Bundle:
    """The bundle with the sources; made once, as each request for a tile needs it."""
    key = (f"{bundle.owner}/{bundle.id}", tuple(sorted((n, source.digest) for n, source in found.items())))
    if key not in _bundles:
        _bundles[key] = bundle.with_foreign(found)
        if len(_bundles) > _REMEMBERED:
            _bundles.popitem(last=False)
    return _bundles[key]


_foreign: Final[OrderedDict[tuple[str, str], frozenset[str]]] = OrderedDict()


def foreign_names(udf: str, bundle: Bundle) -> frozenset[str]:
    """The names of sources elsewhere that are written in the code of a UDF, its modules and neighbours."""
    key = (bundle.id, udf)
    if key not in _foreign:
        _foreign[key] = _foreign_names(udf, bundle)
        if len(_foreign) > 16 * _REMEMBERED:
            _foreign.popitem(last=False)
    return _foreign[key]


def _foreign_names(udf: str, bundle: Bundle) -> frozenset[str]:
    seen: set[str] = set()
    names: set[str] = set()
    pending = [udf]
    while pending:
        source = bundle.udfs.get(pending.pop())
        if source is None or source.path in seen:
            continue
        seen.add(source.path)
        for path in {source.path, *source.modules.values()}:
            for name in _names(bundle.files.get(path, "")):
                own = name.removeprefix(f"{bundle.canvas}/")
                if own in bundle.udfs:
                    pending.append(own)
                elif _is_foreign(own, bundle):
                    names.add(own)
    return frozenset(names)


def _is_foreign(name: str, bundle: Bundle) -> bool:
    if "\n" in name or name.endswith(".py"):
        return is_address(name)
    # Posted code outside of a canvas has no neighbours, so that a plain name is one of a canvas.
    return is_address(name) or is_token(name) or "/" in name or not bundle.canvas


@lru_cache(maxsize=2048)
def _names(text: str) -> frozenset[str]:
    try:
        return neighbours(text)[0]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return frozenset()
