"""The only maker of responses for UDF output and for errors.

Decides status, exact media types, ``x-fused-*`` headers, validators, ranges and how long an answer may be
kept. Headers that every answer carries are put on by ``edge.py``.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from tileserver import coding
from tileserver.access import Grant
from tileserver.errors import InvalidBody, MethodNotAllowed, NotFound, TileServerError, UdfError
from tileserver.metadata import metadata
from tileserver.params import Call
from tileserver.pipeline import Answer
from tileserver.protocol import Encoded
from tileserver.redaction import NOTHING_HIDDEN, Redaction

UDF_POLICY: Final = "sandbox allow-scripts allow-forms allow-popups allow-downloads"
_RANGE: Final = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


async def respond(
    request: Request, grant: Grant, call: Call, answer: Answer, *, http_max_age: int
) -> Response:
    """The HTTP response for an answer, conditional and partial requests included; notes for the log where it
    came from."""
    facts = request.state.facts
    facts["timings"].update(answer.timings)
    facts["cache"] = answer.outcome
    encoded = answer.stored.encoded
    missing = _missing(call, encoded)
    if missing is not None:
        return missing
    headers = _headers(request, grant, call, answer, http_max_age)
    body, etag, status = encoded.body, answer.stored.etag, int(encoded.meta.get("status", 200))
    if request.method == "POST":
        return Response(body, status_code=status, headers=headers)
    ranged = "range" in request.headers
    chosen = None if ranged else coding.choose(request.headers.get("accept-encoding", ""), encoded)
    headers["etag"] = etag if chosen is None else f'{etag[:-1]}-{chosen}"'
    if status < 300 and _none_match(request, headers["etag"], etag):
        return Response(status_code=304, headers=headers)
    if ranged and status == 200:
        return _partial(request, body, headers)
    if chosen is not None:
        headers["content-encoding"] = chosen
        body = await request.app.state.coder.coded(answer.stored, chosen)
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
        "x-fused-metadata": metadata({name: encoded.meta.get(name, "") for name in ("stdout", "stderr")}),
    }
    if answer.outcome in ("hit", "stale"):
        headers["x-fused-cached"] = "true"
    return headers


def _cache_control(request: Request, grant: Grant, call: Call, encoded: Encoded, http_max_age: int) -> str:
    if encoded.meta.get("read_caller"):
        return "private, no-store"
    if call.max_age == 0 or encoded.meta.get("status", 200) >= 400 or encoded.meta.get("uncounted"):
        return "no-store"
    scope = "private" if grant.restricted else "public"
    left = math.floor(encoded.created + call.max_age - time.time())  # below zero: seconds past its age
    remaining = max(0, left)
    stale = "".join(
        f", {directive}={seconds + min(0, left)}"
        for directive, seconds in (
            ("stale-while-revalidate", call.stale_while_revalidate),
            ("stale-if-error", call.stale_if_error),
        )
        if seconds + min(0, left) > 0
    )
    if request.query_params.get("_v") == call.udf.revision:
        return f"{scope}, max-age={remaining}, immutable{stale}"
    return f"{scope}, max-age={min(remaining, http_max_age)}{stale}"


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


def document(
    request: Request, body: bytes, cache_control: str, media_type: str = "application/json"
) -> Response:
    """A document that describes UDFs, with a validator of its own."""
    etag = f'"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'
    headers = {"cache-control": cache_control, "etag": etag, "content-type": media_type}
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


def _header_safe(text: str) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in text)[:500]
