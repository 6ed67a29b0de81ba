"""The only maker of responses for UDF output and for errors.

Decides status, exact media types, ``x-fused-*`` headers, validators, ranges, compression and how long
an answer may be kept. Headers that every answer carries are put on by ``edge.py``.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import re
import time
from collections.abc import Mapping
from typing import Any, Final

import zstandard
from starlette.requests import Request
from starlette.responses import Response

from tileserver.access import Grant
from tileserver.cache import Stored
from tileserver.errors import InvalidBody, MethodNotAllowed, NotFound, TileServerError, UdfError
from tileserver.params import Call
from tileserver.pipeline import Answer
from tileserver.protocol import Encoded
from tileserver.redaction import NOTHING_HIDDEN, Redaction

UDF_POLICY: Final = "sandbox allow-scripts allow-forms allow-popups allow-downloads"
MAX_METADATA: Final = 8000

_COMPRESS_FROM: Final = 1024
_COMPRESSIBLE: Final = ("text/", "application/json", "application/geo+json", "application/xml")
_COMPRESSIBLE_TILES: Final = ("application/vnd.mapbox-vector-tile", "image/svg+xml")
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


def respond(request: Request, grant: Grant, call: Call, answer: Answer, *, http_max_age: int) -> Response:
    """The HTTP response for an answer, conditional and partial requests included."""
    encoded = answer.stored.encoded
    missing = _missing(call, encoded)
    if missing is not None:
        return missing
    headers = _headers(request, grant, call, answer, http_max_age)
    body, etag = encoded.body, answer.stored.etag
    if request.method == "POST":
        return Response(body, status_code=int(encoded.meta.get("status", 200)), headers=headers)
    if "range" not in request.headers:
        body, coding = _compressed(request, answer.stored)
        if coding:
            headers["content-encoding"] = coding
            etag = f'{etag[:-1]}-{coding}"'
    headers["etag"] = etag
    status = int(encoded.meta.get("status", 200))
    if status < 300 and _none_match(request, etag, answer.stored.etag):
        headers.pop("content-encoding", None)
        return Response(status_code=304, headers=headers)
    if "range" in request.headers and status == 200:
        return _partial(request, body, headers)
    return Response(body, status_code=status, headers=headers)


def _missing(call: Call, encoded: Encoded) -> Response | None:
    """An image tile with nothing in it, where ``canvas.toml`` wants no picture for that."""
    wanted = call.udf.settings.empty
    if not encoded.meta.get("empty") or call.tile is None or not encoded.media_type.startswith("image/"):
        return None
    if wanted == "204":
        return Response(status_code=204, headers={"cache-control": "no-store"})
    if wanted == "404":
        return failure(NotFound(f"{call.udf.name} has nothing in this tile"))
    return None


def _headers(request: Request, grant: Grant, call: Call, answer: Answer, http_max_age: int) -> dict[str, str]:
    encoded = answer.stored.encoded
    headers = {
        **encoded.meta.get("headers", {}),
        "content-type": encoded.media_type,
        "cache-control": _cache_control(request, grant, call, encoded, http_max_age),
        "content-security-policy": UDF_POLICY,
        "accept-ranges": "bytes",
        "vary": "Accept, Accept-Encoding, Authorization" if grant.restricted else "Accept, Accept-Encoding",
        "x-cache": answer.outcome,
        "x-fused-metadata": metadata(_output(encoded.meta, request.app.state.redact)),
    }
    if answer.outcome == "hit":
        headers["x-fused-cached"] = "true"
    return headers


def _output(facts: Mapping[str, Any], redact: Redaction) -> dict[str, str]:
    """What a run that went well has printed."""
    return {name: redact(str(facts.get(name, ""))) for name in ("stdout", "stderr")}


def _cache_control(request: Request, grant: Grant, call: Call, encoded: Encoded, http_max_age: int) -> str:
    if encoded.meta.get("read_caller"):
        return "private, no-store"
    if call.max_age == 0 or encoded.meta.get("status", 200) >= 400 or encoded.meta.get("uncounted"):
        return "no-store"
    scope = "private" if grant.restricted else "public"
    remaining = max(0, math.floor(encoded.created + call.max_age - time.time()))
    if request.query_params.get("_v") == call.udf.revision:
        return f"{scope}, max-age={remaining}, immutable"
    return f"{scope}, max-age={min(remaining, http_max_age)}"


def _compressed(request: Request, stored: Stored) -> tuple[bytes, str | None]:
    encoded = stored.encoded
    wanted = _codings(request.headers.get("accept-encoding", ""))
    kind = encoded.media_type
    suitable = kind.startswith(_COMPRESSIBLE) or kind in _COMPRESSIBLE_TILES
    if len(encoded.body) < _COMPRESS_FROM or not suitable:
        return encoded.body, None
    if "zstd" in wanted:
        return zstandard.compress(encoded.body, 3), "zstd"
    if "gzip" in wanted:
        return gzip.compress(encoded.body, 5, mtime=0), "gzip"
    return encoded.body, None


def _codings(header: str) -> set[str]:
    """The content codings that an Accept-Encoding header allows (RFC 9110, section 12.5.3)."""
    allowed = set()
    for item in header.lower().split(","):
        name, _, parameters = item.partition(";")
        weight = parameters.replace(" ", "").removeprefix("q=")
        if name.strip() and weight not in {"0", "0.0", "0.00", "0.000"}:
            allowed.add(name.strip())
    return allowed


def _none_match(request: Request, *etags: str) -> bool:
    header = request.headers.get("if-none-match")
    if header is None:
        return False
    given = {tag.strip().removeprefix("W/") for tag in header.split(",")}
    return "*" in given or not given.isdisjoint(etags)


def _partial(request: Request, body: bytes, headers: dict[str, str]) -> Response:
    """One range of the body (RFC 9110, section 14); anything more complicated gets the whole."""
    match = _RANGE.fullmatch(request.headers["range"].strip())
    condition = request.headers.get("if-range")
    if match is None or match[0] == "bytes=-" or (condition is not None and condition != headers["etag"]):
        return Response(body, headers=headers)
    size = len(body)
    if match[1]:
        start, stop = int(match[1]), min(int(match[2]) + 1, size) if match[2] else size
    else:
        start, stop = max(0, size - int(match[2])), size
    if match[1] and match[2] and int(match[2]) < start:
        return Response(body, headers=headers)
    if start >= size or start >= stop:
        return Response(status_code=416, headers={**headers, "content-range": f"bytes */{size}"})
    headers["content-range"] = f"bytes {start}-{stop - 1}/{size}"
    return Response(body[start:stop], status_code=206, headers=headers)


def document(request: Request, body: bytes, cache_control: str) -> Response:
    """A JSON document that describes UDFs, with a validator of its own."""
    etag = f'"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'
    headers = {"cache-control": cache_control, "etag": etag, "content-type": "application/json"}
    if cache_control.startswith("private"):
        headers["vary"] = "Authorization"
    if _none_match(request, etag):
        return Response(status_code=304, headers=headers)
    return Response(body, headers=headers)


# -- failures


def failure(
    error: TileServerError, *, may_read_code: bool = False, redact: Redaction = NOTHING_HIDDEN
) -> Response:
    """The response for an error. A UDF's failure carries ``x-fused-metadata``, any other
    ``x-fused-error``, never both: clients tell them apart by that.

    ``redact`` takes paths of this machine out of what a UDF says.
    """
    headers = {"cache-control": "no-store"}
    message = error.message if error.status != 500 else "internal server error"
    if isinstance(error, UdfError):
        message = redact(message)
        headers["x-fused-metadata"] = metadata(_failure_facts(error, message, may_read_code, redact))
        headers["content-security-policy"] = UDF_POLICY
    else:
        headers["x-fused-error"] = _header_safe(message)
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, MethodNotAllowed):
        headers["allow"] = error.allow
    retry_after = getattr(error, "retry_after", None)
    if retry_after is not None:
        headers["retry-after"] = str(retry_after)
    detail: dict[str, Any] = {"detail": error.details if isinstance(error, InvalidBody) else message}
    if isinstance(error, UdfError):
        detail |= {"error": error.exception_class, "lineno": error.lineno}
        if may_read_code and error.traceback:
            detail["traceback"] = redact(error.traceback)
    headers["content-type"] = "application/json"
    return Response(json.dumps(detail), status_code=error.status, headers=headers)


def _failure_facts(error: UdfError, message: str, may_read_code: bool, redact: Redaction) -> dict[str, Any]:
    trace = error.traceback if may_read_code else f"{message}\n"
    return {
        "stdout": redact(error.stdout),
        "stderr": redact(error.stderr + trace),
        "has_exception": True,
        "exception_class": error.exception_class,
        "errormsg": message,
        "exception": message,
        "lineno": error.lineno,
        "error_type": error.error_type,
    }


def metadata(facts: Mapping[str, Any]) -> str:
    """The value of ``x-fused-metadata``: ASCII JSON of at most 8 KB; output is cut to fit, standard
    output in its middle, standard error at its beginning."""
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
        chosen["stderr"] = stderr if len(stderr) <= room else stderr[-room:]
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


def _header_safe(text: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in text)[:500]
