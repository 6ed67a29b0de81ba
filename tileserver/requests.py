"""What a request says, for shared routes and the platform's alike: its path, its query, who asks, and when
they have left."""

from __future__ import annotations

import hashlib
import ipaddress
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final
from urllib.parse import unquote

from starlette.requests import Request

from tileserver.access import Credentials
from tileserver.errors import BadRequest
from tileserver.params import QueryItems, parse_query
from tileserver.services import Visit

SESSION: Final = "fused_session_token"
_FORWARDING: Final = ("forwarded", "via", "x-forwarded-", "x-real-ip")  # how names of such headers begin


def path_of(request: Request) -> str:
    """The path as the request wrote it, percent-encoded."""
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    return raw.decode("latin-1").partition("?")[0]


def segments(path: str) -> list[str]:
    """The segments of a path, each decoded by itself, so that an encoded slash stays inside."""
    return [unquote(segment, errors="replace") for segment in path.strip("/").split("/")]


def query_of(request: Request) -> QueryItems:
    """The query, read once.

    :raises BadRequest: when it is malformed.
    """
    if not hasattr(request.state, "query"):
        request.state.query = parse_query(request.scope["query_string"])
    query: QueryItems = request.state.query
    return query


def credentials_of(request: Request) -> Credentials:
    """What the caller shows. A session token opens shared canvases, and nothing of the platform else; a query
    that will be refused has none."""
    session = None
    with suppress(BadRequest):
        session = dict(query_of(request)).get(SESSION)
    return Credentials(
        authorization=request.headers.get("authorization"),
        session_token=session,
        address=request.client.host if request.client else None,
    )


def is_local(request: Request) -> bool:
    """Whether who asks sits at this machine. What a proxy on it passes on is anybody's; one that adds no
    header passes on the name that it was asked by."""
    client = request.client.host if request.client else ""
    passed_on = any(name.startswith(_FORWARDING) for name in request.headers)
    return not passed_on and _is_loopback(client) and _is_loopback(request.url.hostname or "")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with suppress(ValueError):
        address = ipaddress.ip_address(host)
        return (getattr(address, "ipv4_mapped", None) or address).is_loopback
    return False


def visit_of(request: Request) -> Visit:
    """What tells requests of one reader of one file from all others."""
    shown = request.headers.get("authorization", "")
    facts = [path_of(request), request.scope["query_string"].decode("latin-1"), shown]
    program = [request.client.host if request.client else "", request.headers.get("user-agent", "")]
    partial = request.method == "HEAD" or bool({"range", "if-match"} & set(request.headers.keys()))
    return Visit(_digest(facts), _digest(facts + program), partial)


def _digest(facts: list[str]) -> str:
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).hexdigest()


def leaving(request: Request) -> Callable[[], Awaitable[None]]:
    """What returns once the client has closed its connection, as a browser does for tiles that are no longer
    in view. The body of the request must have been read."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    return left
