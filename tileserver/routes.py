"""The shared addresses: from a path to one of a UDF's answers.

A path is a token, a UDF's name where the token is a canvas's, and which answer is wanted. The same
routes stand at ``/`` and at ``/server/v1/realtime-shared/``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final
from urllib.parse import unquote, urlencode

from mercantile import Tile
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import Receive, Scope, Send

from tileserver import documents, pages, pipeline, responses, tiles
from tileserver.access import Credentials, Grant
from tileserver.errors import BadRequest, InvalidTile, NotFound, UdfError, UnknownToken, UnknownUdf
from tileserver.params import Address, Call, Caller, QueryItems, is_reserved, parse_query
from tileserver.pipeline import Services, Target

_CANVAS_TOKEN: Final = re.compile(r"fc_[A-Za-z0-9]+", re.ASCII)
_JOINED_TOKEN: Final = re.compile(r"(fc_[A-Za-z0-9]+)-(.+)", re.ASCII)
_UDF_TOKEN: Final = re.compile(r"(fsh_[A-Za-z0-9]+|[0-9a-f]{64})(?:\.(.+))?", re.ASCII)

_WHOLE_WORLD: Final = Tile(x=0, y=0, z=0)

Resource = Callable[[Request, Target, Services], Awaitable[Response]]


class SharedRoutes:
    """The ASGI application of the shared addresses; GET and HEAD only."""

    def __init__(self, services: Callable[[], Services]) -> None:
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        if request.method not in {"GET", "HEAD"}:
            allow = {"allow": "GET, HEAD, OPTIONS", "cache-control": "no-store"}
            status = 204 if request.method == "OPTIONS" else 405
            detail = None if status == 204 else {"detail": f"{request.method} is not allowed here"}
            response: Response = JSONResponse(detail, status, allow) if detail else Response(None, 204, allow)
        else:
            token, name, tail = split(_segments(scope))
            resource, address = _resource(name, tail, token)
            response = await resource(request, Target(token, name, address), self._services())
        await response(scope, receive, send)


def _segments(scope: Scope) -> list[str]:
    """Path segments below the mount, each decoded by itself, so that an encoded slash stays inside."""
    raw = scope.get("raw_path") or scope["path"].encode()
    path = raw.decode("latin-1").partition("?")[0].removeprefix(scope.get("root_path", ""))
    return [unquote(segment, errors="replace") for segment in path.strip("/").split("/")]


def split(segments: list[str]) -> tuple[str, str | None, list[str]]:
    """Token, UDF name and rest of a path. A token of one UDF has an extension at most for a name.

    :raises UnknownToken: when the first segment has the form of no token.
    """
    first, rest = segments[0], segments[1:]
    if _CANVAS_TOKEN.fullmatch(first):
        return first, (rest[0] if rest else None), rest[1:]
    if joined := _JOINED_TOKEN.fullmatch(first):
        return joined[1], joined[2], rest
    if single := _UDF_TOKEN.fullmatch(first):
        return single[1], single[2], rest
    raise UnknownToken


def _resource(name: str | None, tail: list[str], token: str) -> tuple[Resource, Address]:
    match tail:
        case [] if name is None and token.startswith("fc_"):
            return canvas, Address()
        case [] | ["run"] | ["run", "file"]:
            return run, Address()
        case ["run", "tiles", z, x, last]:
            found = tiles.parse(z, x, last)
            return run, Address(tile=found.tile, scale=found.scale, extension=found.extension)
        case ["run", "tiles", *_]:
            raise InvalidTile("a tile's address is .../run/tiles/{z}/{x}/{y}")
        case ["run", "tiles.json"]:
            return tilejson, Address(tile=_WHOLE_WORLD)
        case ["map"]:
            return map_page, Address(tile=_WHOLE_WORLD)
    raise NotFound("no such address; a UDF answers at /TOKEN/NAME and /TOKEN/NAME/run/tiles/{z}/{x}/{y}")


# -- answers


async def run(request: Request, target: Target, services: Services) -> Response:
    """A single run or a tile."""
    if target.address.tile is None and "text/html" in request.headers.get("accept", ""):
        target = replace(target, address=replace(target.address, page=True))
    grant, call = await _resolved(request, target, services, "tile" if target.address.tile else "run")
    answer = await pipeline.answer(call, services)
    facts = request.state.facts
    facts["timings"].update(answer.timings)
    facts["cache"] = answer.outcome
    return responses.respond(request, grant, call, answer, http_max_age=services.settings.http_max_age)


async def tilejson(request: Request, target: Target, services: Services) -> Response:
    """TileJSON; the query's parameters are those of its tiles."""
    grant, call = await _resolved(request, target, services, "tilejson")
    layer = await pipeline.describe(call, services)
    base = f"{_base(request)}/run/tiles/{{z}}/{{x}}/{{y}}.{layer.extension}"
    query = urlencode([*_own_parameters(request), ("_v", layer.revision)])
    scope = "private" if grant.restricted else "public"
    return JSONResponse(
        documents.tilejson(layer, f"{base}?{query}"), headers={"cache-control": f"{scope}, no-cache"}
    )


async def map_page(request: Request, target: Target, services: Services) -> Response:
    """A page with the UDF on a map."""
    _, call = await _resolved(request, target, services, "map")
    layer = call.udf.is_layer or await _is_layer(call, services)
    nonce = pages.new_nonce()
    page = pages.map_page(call.udf, _path(request), nonce, layer=layer)
    return HTMLResponse(page, headers=pages.headers(nonce))


async def _is_layer(call: Call, services: Services) -> bool:
    """Whether a UDF that takes no bounds returns something for a map; one that fails says so on its page."""
    try:
        await pipeline.describe(call, services)
    except (NotFound, BadRequest):
        return False
    except UdfError:
        return True
    return True


async def canvas(request: Request, target: Target, services: Services) -> Response:
    """The UDFs that a token reaches."""
    grant = pipeline.admit(target, _credentials(request), services)
    request.state.facts |= {"route": "canvas", "canvas": grant.canvas}
    found = await services.catalog.canvas(grant.canvas)
    udfs = [udf for name, udf in sorted(found.udfs.items()) if grant.reaches(name)]
    if "text/html" in request.headers.get("accept", ""):
        page = pages.canvas_page(found.title, found.description, udfs, _path(request))
        return HTMLResponse(page, headers=pages.headers(pages.new_nonce()))
    base = _base(request)
    rows = [
        {"name": udf.name, "title": udf.title, "description": udf.description, "url": f"{base}/{udf.name}"}
        for udf in udfs
    ]
    return JSONResponse(
        {"canvas": found.name, "title": found.title, "udfs": rows}, headers={"cache-control": "no-store"}
    )


# -- parts of them


async def _resolved(request: Request, target: Target, services: Services, route: str) -> tuple[Grant, Call]:
    facts = request.state.facts
    facts["route"] = route
    started = time.perf_counter()
    request.state.grant = grant = pipeline.admit(target, _credentials(request), services)
    facts["timings"]["access"] = 1000 * (time.perf_counter() - started)
    facts["canvas"] = grant.canvas
    if target.name is None and grant.udf is None:
        raise UnknownUdf("a canvas token needs a UDF's name after it")
    query = parse_query(request.scope["query_string"])
    call = await pipeline.resolve(target, grant, query, services, _caller(request, target, grant))
    facts["udf"] = call.udf.name
    if call.tile is not None and route == "tile":
        facts["tile"] = f"{call.tile.z}/{call.tile.x}/{call.tile.y}"
    return grant, call


def _caller(request: Request, target: Target, grant: Grant) -> Caller:
    """What the UDF may see of a request that came by a share token."""
    share = grant.share if target.name is None or grant.udf is not None else f"{grant.share}/{target.name}"
    shown = {"fused-share-token": share}
    if "fused_session_token" in request.query_params:
        shown["fused-session-token"] = request.query_params["fused_session_token"]
    return Caller.of(request.headers.items(), shown)


def _credentials(request: Request) -> Credentials:
    return Credentials(
        authorization=request.headers.get("authorization"),
        session_token=request.query_params.get("fused_session_token"),
    )


def _own_parameters(request: Request) -> QueryItems:
    """The query without reserved names: what every tile of the document is asked with."""
    return [(name, value) for name, value in request.query_params.multi_items() if not is_reserved(name)]


def _path(request: Request) -> str:
    """The path that the UDF's other addresses begin with, as this request wrote it."""
    raw: bytes = request.scope.get("raw_path") or request.url.path.encode()
    path = raw.decode("latin-1").partition("?")[0]
    for ending in ("/run/tiles.json", "/map"):
        path = path.removesuffix(ending)
    return path.rstrip("/")


def _base(request: Request) -> str:
    """The same as an absolute URL; the Host has been checked at the edge."""
    services_url: str | None = request.app.state.public_url
    origin = services_url or f"{request.url.scheme}://{request.url.netloc}"
    return origin.rstrip("/") + _path(request)
