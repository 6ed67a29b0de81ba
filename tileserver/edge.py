"""What every answer carries, whatever made it: one plain ASGI middleware around the application.

It refuses foreign Host headers, answers preflight requests, adds the CORS and safety headers, times the
request and writes its log line. ``Manners`` is what it knows, for whoever answers in front of it.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tileserver.requestlog import About, RequestLog

log = logging.getLogger("tileserver.access")

Pairs = tuple[tuple[bytes, bytes], ...]  # header fields, names in lower case

_ALWAYS: Final[Pairs] = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))
_ORIGIN: Final = b"access-control-allow-origin"
_EXPOSED_NAMES: Final = (
    b"ETag, Content-Length, Content-Range, Server-Timing, x-cache, x-fused-metadata, x-fused-cached,"
    b" x-fused-error, x-fused-request-id"
)
_EXPOSED: Final = (b"access-control-expose-headers", _EXPOSED_NAMES)
_PREFLIGHT: Final = {
    "access-control-allow-methods": "GET, HEAD, OPTIONS",
    "access-control-allow-headers": "Authorization, Range, If-None-Match, If-Match, If-Range,"
    " X-Fused-Cache-Disable, Fused-Py-Version, Fused-Recursion",
    "access-control-max-age": "86400",
}
_HOSTS: Final = 1024  # Host headers that are remembered
_LONGEST_HOST: Final = 300  # characters; no name is longer


class Manners:
    """What is the same for all answers of a server. ``cors_origins`` is ``("*",)`` or a list; () turns CORS
    off."""

    def __init__(self, *, allows_host: Callable[[str], bool], cors_origins: Iterable[str]) -> None:
        self._allows = lru_cache(_HOSTS)(allows_host)
        self._origins = frozenset(cors_origins)
        self._for_all = ((_ORIGIN, b"*"), _EXPOSED) if "*" in self._origins else None

    def allows_host(self, host: str) -> bool:
        """Whether this server answers for a Host header."""
        return len(host) <= _LONGEST_HOST and self._allows(host)

    def cors(self, path: str, origin: str | None) -> Pairs:
        """CORS fields of a shared route; other routes have none."""
        return () if _is_platform(path) or path == "/metrics" else self.cors_of_shared(origin)

    def cors_of_shared(self, origin: str | None) -> Pairs:
        """CORS fields of any shared route."""
        if self._for_all is not None:
            return self._for_all
        if origin is not None and origin in self._origins:
            return ((_ORIGIN, origin.encode("latin-1")), _EXPOSED)
        return ()

    def dressed(self, fields: Iterable[tuple[bytes, bytes]], cors: Pairs) -> list[tuple[bytes, bytes]]:
        """The fields of an answer and those that all carry, in the place of those of the same names."""
        ours = dict((*_ALWAYS, *cors))
        kept = [field for field in fields if field[0] not in ours and field[0] not in _OF_THE_REQUEST]
        if cors and self._for_all is None:
            vary = b", ".join(value for name, value in kept if name == b"vary")
            kept = [field for field in kept if field[0] != b"vary"]
            kept.append((b"vary", b"%b, Origin" % vary if vary else b"Origin"))
        return [*kept, *ours.items()]


_OF_THE_REQUEST: Final = frozenset({b"x-fused-request-id", b"server-timing"})


def new_id() -> str:
    """The id of a request, for people to find its line in the log by: unlike all others, but no secret."""
    return f"{random.getrandbits(128):032x}"  # five times as fast as what can't be guessed


def of_the_request(request_id: str, timings: Mapping[str, float]) -> Pairs:
    """The fields that no other answer has alike; ``timings`` are milliseconds."""
    timing = ", ".join([f"{name};dur={milliseconds:.2f}" for name, milliseconds in timings.items()])
    return ((b"x-fused-request-id", request_id.encode()), (b"server-timing", timing.encode()))


# Counts an answer: route, status, outcome of the cache, seconds, bytes of body (see ``metrics``).
Observe = Callable[[str, int, str | None, float, int], None]


class Edge:
    """Wraps the application. ``observe`` is told of every answer."""

    def __init__(self, app: ASGIApp, *, manners: Manners, requests: RequestLog, observe: Observe) -> None:
        self.app = app
        self.manners = manners
        self.requests = requests
        self.observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        # Another web process may have read it: the clock is the machine's.
        started = state.get("started") or time.perf_counter()
        facts: dict[str, Any] = {"timings": {}}
        state["facts"] = facts
        request_id = new_id()
        status, begun, size = 500, False, 0
        headers = Headers(scope=scope)
        cors = self.manners.cors(scope["path"], headers.get("origin"))

        async def finish(message: Message) -> None:
            nonlocal status, begun, size
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                facts["timings"]["total"] = 1000 * (time.perf_counter() - started)
                fresh = of_the_request(request_id, facts["timings"])
                message["headers"] = [*self.manners.dressed(message["headers"], cors), *fresh]
            elif scope["method"] != "HEAD":
                size += len(message.get("body", b""))
            await send(message)

        try:
            await (self._early(scope, headers, cors) or self.app)(scope, receive, finish)
        except Exception:  # the last place: the caller learns nothing of it, the log everything
            log.exception("internal error in request %s", request_id)
            if not begun:
                await _refusal(500, "internal server error")(scope, receive, finish)
        finally:
            route, outcome = _route(scope, facts), facts.get("cache")
            total = facts["timings"].get("total", 0.0)
            self.observe(route, status, outcome, total / 1000, size)
            about = {"method": scope["method"], "route": route}
            about |= {k: facts[k] for k in ("canvas", "udf", "tile") if facts.get(k) is not None}
            self.requests.note(About(about), status, outcome, total, request_id)

    def _early(self, scope: Scope, headers: Headers, cors: Pairs) -> ASGIApp | None:
        """An answer that needs no application: too long a head, a foreign host, or a preflight request."""
        if refusal := scope["state"].get("refusal"):
            return _refusal(422, refusal)
        if not self.manners.allows_host(headers.get("host", "")):
            return _refusal(400, "this server does not answer for this Host (allowed_hosts)")
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers and cors:
            return Response(status_code=204, headers=_PREFLIGHT)
        return None


def _is_platform(path: str) -> bool:
    shared = path.startswith("/server/v1/realtime-shared/")
    return path.startswith(("/server/v1/", "/run/")) and not shared


def _route(scope: Scope, facts: Mapping[str, Any]) -> str:
    """The name of the route in the log and in what is counted."""
    if route := facts.get("route"):
        return str(route)
    if _is_platform(scope["path"]):
        return "platform"
    return "static" if scope["path"].startswith("/static/") else "other"


def _refusal(status: int, text: str) -> Response:
    headers = {"x-fused-error": text, "cache-control": "no-store", "content-type": "application/json"}
    return Response(json.dumps({"detail": text}), status, headers)
