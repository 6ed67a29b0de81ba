"""The header ``x-fused-metadata``: what a run has printed and how it failed, cut to what a header can hold.

Standard output is cut in its middle, standard error at its beginning. Output of a run that is kept is cut
when it is made, so that a stored result costs little, and nothing when it is answered with.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from tileserver.redaction import Redaction

MAX_METADATA: Final = 8000  # bytes; proxies refuse a header beyond 8 KiB


def printed(facts: Mapping[str, Any], redact: Redaction) -> dict[str, str]:
    """What a run has printed, as far as callers may and can see it."""
    stdout, stderr = (redact(str(facts.get(name, ""))) for name in ("stdout", "stderr"))
    return {"stdout": _middle_out(stdout, MAX_METADATA), "stderr": _end(stderr, MAX_METADATA)}


def metadata(facts: Mapping[str, Any]) -> str:
    """The value of the header: ASCII JSON of at most ``MAX_METADATA`` bytes."""
    stdout, stderr = str(facts.get("stdout", "")), str(facts.get("stderr", ""))
    chosen: dict[str, Any] = {
        "stdout": stdout,
        "stderr": stderr,
        "has_exception": bool(facts.get("has_exception", False)),
        "exception_class": _cut(facts.get("exception_class"), 200),
        "errormsg": _cut(facts.get("errormsg"), 1000),
        "exception": _cut(facts.get("exception"), 1000),
        "lineno": facts.get("lineno"),
        "error_type": facts.get("error_type"),
    }
    text = json.dumps(chosen)
    room = MAX_METADATA
    while len(text) > MAX_METADATA:
        room = room * 3 // 4
        chosen["stdout"] = _middle_out(stdout, room)
        chosen["stderr"] = _end(stderr, room)
        text = json.dumps(chosen)
    return text


def _cut(text: str | None, room: int) -> str | None:
    """As much of a text as is ``room`` characters long in JSON, where some take six or twelve."""
    if text is None or len(json.dumps(text[: room + 1])) <= room:
        return text
    kept = text[:room]
    while len(json.dumps(kept)) > room:
        kept = kept[: len(kept) * 3 // 4]
    return f"{kept}..."


def _middle_out(text: str, room: int) -> str:
    if len(text) <= room:
        return text
    half = room // 2
    return f"{text[:half]}\n...\n{text[len(text) - half :]}"


def _end(text: str, room: int) -> str:
    return text if len(text) <= room else text[-room:]
