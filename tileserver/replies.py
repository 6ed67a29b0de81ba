"""What a UDF may decide of its own HTTP response: status, media type, and some headers; which facts of a
result are what they should be.

A worker makes these facts, and the web process looks at them again: what comes from a worker is no more
to be trusted than a request. What can't be sent here could end a header and begin another one.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

STATUSES: Final = range(200, 600)
BODYLESS: Final = frozenset({204, 304})
MOST_HEADERS: Final = 50
LONGEST: Final = 4096  # characters of one value

_LARGEST: Final = sys.float_info.max / 4
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]{1,128}", re.ASCII)
_TEXT: Final = re.compile(r"[\t\x20-\x7e\xa0-\xff]*")
# Headers that are the server's own to set, and those by which proxies in front of it are told what to send.
_OURS: Final = re.compile(
    r"x-(?:fused-.*|cache.*|content-type-options|accel-.*|sendfile.*|lighttpd-.*|litespeed-.*|reproxy-.*)"
)


def may_set(name: str) -> bool:
    """Whether a header is the UDF's to set; ``name`` is in lower case."""
    return name == "content-disposition" or (name.startswith("x-") and not _OURS.fullmatch(name))


def is_header(name: str, text: str) -> bool:
    """Whether this can stand in an HTTP response as one header."""
    return len(text) <= LONGEST and bool(_NAME.fullmatch(name)) and bool(_TEXT.fullmatch(text))


def is_result(header: Mapping[str, Any]) -> bool:
    """Whether a frame that says it is a result has what one has."""
    created = header.get("created")
    return (
        isinstance(header.get("meta"), dict)
        and isinstance(header.get("media_type"), str)
        and _is_number(created)
    )


def _is_number(value: object) -> bool:
    """A finite number, near enough to be a time."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12


def _is_box(value: object) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(_is_number, value))


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_table(value: object) -> bool:
    return isinstance(value, dict)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_value(value: object) -> bool:
    """A number of data, of any size that can still be reckoned with: what lies between two such is finite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < _LARGEST


def _is_ramp(value: object) -> bool:
    """Numbers, each with a colour."""
    return isinstance(value, list) and all(
        isinstance(stop, list) and len(stop) == 2 and _is_value(stop[0]) and _is_text(stop[1])
        for stop in value
    )


# Facts that the web process reads, and what they are.
_FACTS: Final[Mapping[str, Callable[[object], bool]]] = {
    "kind": _is_text,
    "format": _is_text,
    "run_ms": _is_number,
    "encode_ms": _is_number,
    "bounds": _is_box,
    "placed": _is_flag,
    "fields": _is_table,
    "families": _are_texts,
    "ramp": _is_ramp,
}


def checked(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a result, without those that are none, and without a status or headers that no UDF may
    set."""
    facts = {name: fact for name, fact in meta.items() if name not in _FACTS or _FACTS[name](fact)}
    status = facts.pop("status", None)
    if isinstance(status, int) and not isinstance(status, bool) and status in STATUSES:
        facts["status"] = int(status)
    headers = facts.pop("headers", None)
    if isinstance(headers, dict):
        kept = {n: t for n, t in headers.items() if isinstance(t, str) and may_set(n) and is_header(n, t)}
        facts["headers"] = dict(list(kept.items())[:MOST_HEADERS])
    return facts


def media_type(said: object) -> str:
    """A media type that can be sent; bytes of no type for anything else."""
    text = str(said)
    return text if text and is_header("content-type", text) else "application/octet-stream"
