"""What is answered with a stored result: status, header fields, and which of its bytes.

Validators, preconditions, ranges (RFC 9110, sections 13 and 14), content codings and ages are decided here,
of the head of a record, for every door that a request may come through. Fields are pairs of bytes, names in
lower case. ``edge.py`` adds those that all answers carry.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from tileserver import coding
from tileserver.access import Grant
from tileserver.cache import Head, Outcome
from tileserver.errors import PreconditionFailed
from tileserver.metadata import metadata
from tileserver.params import Call
from tileserver.replies import BODYLESS
from tileserver.udf import Empty

Pair = tuple[bytes, bytes]

UDF_POLICY: Final = "sandbox allow-scripts allow-forms allow-popups allow-downloads"
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
# Whoever is told that nothing is new has these (RFC 9110, section 15.4.5).
_OF_THE_BODY: Final = frozenset({b"content-type", b"content-disposition", b"x-fused-metadata"})
# What a worker gives for the body of one of these would be read as the next answer.
_WITHOUT_BODY: Final = BODYLESS | {416}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request says of how it wants its answer. Fields that were sent twice are joined by commas."""

    method: str
    fields: Mapping[bytes, bytes]

    @classmethod
    def of(cls, method: str, fields: Iterable[Pair]) -> Asked:
        joined: dict[bytes, bytes] = {}
        for name, value in fields:
            joined[name] = b"%b, %b" % (joined[name], value) if name in joined else value
        return cls(method, joined)

    def text(self, name: bytes) -> str | None:
        value = self.fields.get(name)
        return None if value is None else value.decode("latin-1")


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms a result is given: ``private`` ones aren't for shared caches; ``max_age`` is the oldest
    that the caller takes (0: it is not kept), ``http_max_age`` the longest that anybody may keep it without
    asking, unless the address names the revision that it is of (``immutable``). ``stale`` are the directives
    of RFC 5861 that hold beyond its age. ``empty`` is what ``canvas.toml`` wants in the place of a picture of
    nothing, in a tile. Ages are seconds."""

    private: bool
    max_age: int
    http_max_age: int
    immutable: bool
    empty: Empty
    stale: tuple[tuple[str, int], ...] = ()

    @classmethod
    def of(cls, call: Call, grant: Grant, version: str | None, http_max_age: int) -> Terms:
        """Those of a call; ``version`` is what the address says in ``_v``."""
        return cls(
            private=grant.restricted,
            max_age=call.max_age,
            http_max_age=http_max_age,
            immutable=version == call.udf.revision,
            empty=call.udf.settings.empty if call.tile is not None else "transparent",
            stale=(
                ("stale-while-revalidate", call.stale_while_revalidate),
                ("stale-if-error", call.stale_if_error),
            ),
        )


class Choice(NamedTuple):
    """Status and validator of an answer, the coding of its body, and where a part of it begins and ends."""

    status: int
    etag: str
    coding: str | None = None
    span: tuple[int, int] | None = None


def is_missing(head: Head, terms: Terms) -> bool:
    """Whether an image tile has nothing in it where ``canvas.toml`` wants no picture for that."""
    wanted = terms.empty != "transparent"
    return wanted and bool(head.meta.get("empty")) and head.media_type.startswith("image/")


def without_picture(head: Head) -> Head:
    """The head of an answer of no content in the place of a picture of nothing, as old as that."""
    return head._replace(etag=f'{head.etag[:-1]}-204"', meta={**head.meta, "status": 204}, size=0)


def choose(asked: Asked, head: Head) -> Choice:
    """What a GET or HEAD request is answered with, of the result with this head.

    :raises PreconditionFailed: when ``If-Match`` names another one.
    """
    status = int(head.meta.get("status", 200))
    wanted = asked.text(b"range") if asked.method == "GET" and status == 200 else None
    chosen = None
    if wanted is None and (accepted := asked.text(b"accept-encoding")) is not None:
        chosen = coding.choose(accepted, head.media_type, head.size)
    etag = head.etag if chosen is None else f'{head.etag[:-1]}-{chosen}"'
    if status < 300:
        if (known := asked.text(b"if-match")) is not None and not _is_among(etag, known, weak=False):
            raise PreconditionFailed("If-Match names another version than the present one")
        if (known := asked.text(b"if-none-match")) is not None:
            for tag in dict.fromkeys((etag, head.etag)):
                if _is_among(tag, known, weak=True):
                    return Choice(304, tag)
    if wanted is not None and asked.text(b"if-range") in (None, etag):
        span = _span(wanted, head.size)
        if span is not None:
            return Choice(206 if span[0] < span[1] else 416, etag, None, span)
    return Choice(status, etag, chosen)


def part(asked: Asked, choice: Choice, body: bytes) -> bytes:
    """What is sent of a body in the coding that was chosen."""
    if asked.method == "HEAD" or choice.status in _WITHOUT_BODY:
        return b""
    return body if choice.span is None else body[slice(*choice.span)]


def may_be_known(asked: Asked) -> bool:
    """Whether the head of a record may be enough to answer with."""
    return b"if-none-match" in asked.fields or asked.method == "HEAD"


def none_match(asked: Asked, etag: str) -> bool:
    """Whether the caller has what this validator is of."""
    known = asked.text(b"if-none-match")
    return known is not None and _is_among(etag, known, weak=True)


def _is_among(etag: str, header: str, *, weak: bool) -> bool:
    """Whether a list of validators has this one (RFC 9110, section 8.8.3.2); ``weak`` takes weak ones."""
    tags = {tag.strip() for tag in header.split(",")}
    return "*" in tags or etag in tags or (weak and f"W/{etag}" in tags)


def _span(wanted: str, size: int) -> tuple[int, int] | None:
    """The first byte of a range, and the one after its last; nothing in between where it lies beyond the
    body. None for what is no range, or several: then the whole is sent."""
    match = _RANGE.fullmatch(wanted.strip())
    if match is None or match[0] == "bytes=-":
        return None
    if not match[1]:
        return max(0, size - int(match[2])), size
    start = int(match[1])
    if match[2] and int(match[2]) < start:
        return None
    stop = min(int(match[2]) + 1, size) if match[2] else size
    return (start, stop) if start < size else (size, size)


# -- fields


def lasting_fields(head: Head, terms: Terms, choice: Choice, outcome: Outcome) -> list[Pair]:
    """The fields of an answer that are the same as long as the record is."""
    printed = {name: head.meta.get(name, "") for name in ("stdout", "stderr")}
    vary = b"Accept, Accept-Encoding, Authorization" if terms.private else b"Accept, Accept-Encoding"
    fields = [
        *((name.encode("latin-1"), str(text).encode("latin-1")) for name, text in _own(head).items()),
        (b"content-type", head.media_type.encode("latin-1")),
        (b"content-security-policy", UDF_POLICY.encode()),
        (b"accept-ranges", b"bytes"),
        (b"vary", vary),
        (b"x-cache", outcome.encode()),
        (b"x-fused-metadata", metadata(printed).encode()),
        (b"etag", choice.etag.encode()),
    ]
    if outcome in ("hit", "stale"):
        fields.append((b"x-fused-cached", b"true"))
    if choice.coding is not None:
        fields.append((b"content-encoding", choice.coding.encode()))
    if choice.status == 304:
        return [field for field in fields if field[0] not in _OF_THE_BODY]
    return fields


def _own(head: Head) -> Mapping[str, object]:
    headers = head.meta.get("headers", {})
    return headers if isinstance(headers, dict) else {}


def passing_fields(head: Head, terms: Terms, choice: Choice, size: int, now: float) -> list[Pair]:
    """The others: how long the answer may be kept from now on, and how long it is. ``size`` is the length of
    the whole body, in its coding."""
    fields = [(b"cache-control", _cache_control(head, terms, choice.status, now).encode())]
    if choice.span is not None:
        start, stop = choice.span
        where = f"{start}-{stop - 1}" if start < stop else "*"
        fields.append((b"content-range", f"bytes {where}/{size}".encode()))
        size = stop - start
    if choice.status not in BODYLESS:
        fields.append((b"content-length", str(size).encode()))
    return fields


def _cache_control(head: Head, terms: Terms, status: int, now: float) -> str:
    if head.meta.get("read_caller"):
        return "private, no-store"
    if terms.max_age == 0 or status >= 400 or head.meta.get("uncounted"):
        return "no-store"
    scope = "private" if terms.private else "public"
    left = math.floor(head.created + terms.max_age - now)  # below zero: seconds past its age
    remaining, past = max(0, left), min(0, left)
    stale = "".join(
        f", {directive}={seconds + past}" for directive, seconds in terms.stale if seconds + past > 0
    )
    if terms.immutable:
        return f"{scope}, max-age={remaining}, immutable{stale}"
    return f"{scope}, max-age={min(remaining, terms.http_max_age)}{stale}"
