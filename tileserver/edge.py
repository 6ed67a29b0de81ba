"""What every answer carries, whatever made it: one plain ASGI middleware at the outer edge.

It refuses foreign Host headers, answers preflight requests, adds the CORS and safety headers, times the
request and writes its log line. Log lines name the canvas and UDF, never a token or a query.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("tileserver.access")

_EXPOSED = (
    "ETag, Content-Length, Content-Range, Server-Timing, x-cache, x-fused-metadata, x-fused-cached,"
    " x-fused-error, x-fused-request-id"
)
_ALWAYS = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
_PREFLIGHT = {
    "access-control-allow-methods": "GET, HEAD, OPTIONS",
    "access-control-allow-headers": "Authorization, Range, If-None-Match, If-Match, If-Range,"
    " X-Fused-Cache-Disable, Fused-Py-Version, Fused-Recursion",
    "access-control-max-age": "86400",
}


# Counts an answer: route, status, outcome of the cache, seconds, bytes of body (see ``metrics``).
Observe = Callable[[str, int, str | None, float, int], None]


class Edge:
    """Wraps the application. ``cors_origins`` is ``("*",)`` or a list; () turns CORS off. ``observe`` is told
    of every answer."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        allows_host: Callable[[str], bool],
        cors_origins: Iterable[str],
        observe: Observe = lambda *_: None,
    ) -> None:
        self.app = app
        self.observe = observe
        self.allows_host = allows_host
        self.cors_origins = frozenset(cors_origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        # Another web process may have read it: the clock is the machine's.
        started = state.get("started") or time.perf_counter()
        facts: dict[str, Any] = {"timings": {}}
        scope["state"]["facts"] = facts
        request_id = uuid.uuid4().hex
        status, begun, size = 500, False, 0
        cors = self._cors(scope)

        async def finish(message: Message) -> None:
            nonlocal status, begun, size
            if message["type"] == "http.response.start":
                status, begun = message["status"], True
                facts["timings"]["total"] = 1000 * (time.perf_counter() - started)
                timing = _server_timing(facts["timings"])
                ours = {**_ALWAYS, **cors, "x-fused-request-id": request_id, "server-timing": timing}
                message["headers"] = _with(message["headers"], ours)
                if cors and "*" not in self.cors_origins:
                    MutableHeaders(raw=message["headers"]).add_vary_header("Origin")
            elif scope["method"] != "HEAD":
                size += len(message.get("body", b""))
            await send(message)

        try:
            await (self._early(scope, cors) or self.app)(scope, receive, finish)
        except Exception:  # the last place: the caller learns nothing of it, the log everything
            log.exception("internal error in request %s", request_id)
            if not begun:
                await _refusal(500, "internal server error")(scope, receive, finish)
        finally:
            seconds = facts["timings"].get("total", 0.0) / 1000
            self.observe(_route(scope, facts), status, facts.get("cache"), seconds, size)
            _log(scope, status, request_id, facts)

    def _early(self, scope: Scope, cors: Mapping[str, str]) -> ASGIApp | None:
        """An answer that needs no application: too long a head, a foreign host, or a preflight request."""
        headers = Headers(scope=scope)
        if refusal := scope["state"].get("refusal"):
            return _refusal(422, refusal)
        if not self.allows_host(headers.get("host", "")):
            return _refusal(400, "this server does not answer for this Host (allowed_hosts)")
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers and cors:
            return Response(status_code=204, headers=_PREFLIGHT)
        return None

    def _cors(self, scope: Scope) -> dict[str, str]:
        """CORS headers of a shared route; other routes get none."""
        path: str = scope["path"]
        if not self.cors_origins or _is_platform(path) or path == "/metrics":
            return {}
        origin = Headers(scope=scope).get("origin")
        if "*" in self.cors_origins:
            return {"access-control-allow-origin": "*", "access-control-expose-headers": _EXPOSED}
        if origin in self.cors_origins:
            return {"access-control-allow-origin": origin, "access-control-expose-headers": _EXPOSED}
        return {}


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


def _with(headers: Iterable[tuple[bytes, bytes]], ours: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Headers of an answer with ours in the place of those of the same names."""
    encoded = {name.encode("latin-1"): value.encode("latin-1") for name, value in ours.items()}
    return [*(header for header in headers if header[0] not in encoded), *encoded.items()]


def _server_timing(timings: Mapping[str, float]) -> str:
    return ", ".join(f"{name};dur={milliseconds:.2f}" for name, milliseconds in timings.items())


def _log(scope: Scope, status: int, request_id: str, facts: Mapping[str, Any]) -> None:
    if not log.isEnabledFor(logging.INFO):
        return
    fields = {
        "method": scope["method"],
        "route": _route(scope, facts),
        "canvas": facts.get("canvas"),
        "udf": facts.get("udf"),
        "tile": facts.get("tile"),
        "status": status,
        "cache": facts.get("cache"),
        "ms": round(facts["timings"].get("total", 0.0), 2),
        "id": request_id,
    }
    log.info("request", extra={"fields": {k: v for k, v in fields.items() if v is not None}})
