"""The only maker of responses for UDF output and for errors.

What ``answers.py`` decides of a result becomes a response here; so do errors, with exact media types and
``x-fused-*`` headers. Headers that every answer carries are put on by ``edge.py``.
"""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from tileserver import answers
from tileserver.access import Grant
from tileserver.answers import UDF_POLICY, Asked, Choice, Terms
from tileserver.errors import InvalidBody, MethodNotAllowed, NotFound, TileServerError, UdfError
from tileserver.metadata import metadata
from tileserver.params import Call
from tileserver.redaction import NOTHING_HIDDEN, Redaction
from tileserver.requests import query_of
from tileserver.services import Answer


async def respond(
    request: Request, grant: Grant, call: Call, answer: Answer, *, http_max_age: int
) -> Response:
    """The HTTP response for an answer, conditional and partial requests included; notes for the log where it
    came from.

    :raises PreconditionFailed: when the caller wants a version that is no longer the present one.
    """
    facts = request.state.facts
    facts["timings"].update(answer.timings)
    facts["cache"] = answer.outcome
    stored, head = answer.stored, answer.stored.head
    terms = Terms.of(call, grant, dict(query_of(request)).get("_v"), http_max_age)
    if answers.is_missing(head, terms):
        if terms.empty == "404":
            return failure(NotFound(f"{call.udf.name} has nothing in this tile"))
        head = answers.without_picture(head)
    asked = Asked.of(request.method, request.headers.raw)
    posted = asked.method == "POST"
    choice = Choice(int(head.meta.get("status", 200)), head.etag) if posted else answers.choose(asked, head)
    body = stored.encoded.body
    if choice.coding is not None:
        body = await request.app.state.coder.coded(stored, choice.coding)
    response = Response(answers.part(asked, choice, body), choice.status)
    response.raw_headers = [
        *answers.lasting_fields(head, terms, choice, answer.outcome),
        *answers.passing_fields(head, terms, choice, len(body), time.time()),
    ]
    return response


def document(
    request: Request, body: bytes, cache_control: str, media_type: str = "application/json"
) -> Response:
    """A document that describes UDFs, with a validator of its own."""
    etag = f'"{hashlib.blake2b(body, digest_size=16).hexdigest()}"'
    headers = {"cache-control": cache_control, "etag": etag, "content-type": media_type}
    if cache_control.startswith("private"):
        headers["vary"] = "Authorization"
    if answers.none_match(Asked.of(request.method, request.headers.raw), etag):
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
