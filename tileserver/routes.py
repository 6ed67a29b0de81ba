"""The shared addresses: from a path to one of a UDF's answers.

A path is a token, a UDF's name where the token is a canvas's, and which answer is wanted. The same
routes stand at ``/`` and at ``/server/v1/realtime-shared/``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final
from urllib.parse import quote, urlencode

from mercantile import Tile
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import Receive, Scope, Send

from tileserver import documents, layers, openapi, pages, pipeline, responses, wmts
from tileserver.access import Grant
from tileserver.errors import (
    BadRequest,
    InvalidTile,
    NotFound,
    TileServerError,
    UdfError,
    Unauthorized,
    UnknownUdf,
)
from tileserver.params import Address, Call, Caller, QueryItems, is_reserved
from tileserver.paths import Reading, readings
from tileserver.requests import SESSION, credentials_of, leaving, path_of, query_of, segments, visit_of
from tileserver.services import Services, Target

_WHOLE_WORLD: Final = Tile(x=0, y=0, z=0)

_DOCUMENTS: Final = (
    *("/run/tiles.json", "/run/style.json", "/run/legend.json", "/run/legend.png", "/map"),
    *(".api.json", ".wmts.xml"),
)

Resource = Callable[[Request, Target, Grant, Services], Awaitable[Response]]


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
            response = await _answer(request, self._services())
        await response(scope, receive, send)


async def _answer(request: Request, services: Services) -> Response:
    facts = request.state.facts
    candidates = readings(segments(path_of(request).removeprefix(request.scope.get("root_path", ""))))
    started = time.perf_counter()
    try:
        reading, grant = await pipeline.admit(candidates, credentials_of(request), services)
    except TileServerError as error:
        with suppress(NotFound, BadRequest):
            facts["route"] = _resource(candidates[0])[0] if candidates else "other"
        if isinstance(error, Unauthorized) and _is_page(request, facts.get("route")):
            nonce = pages.new_nonce()
            page = pages.locked_page(error.scheme, nonce)
            # Nobody's page may lay itself over a form that takes a passcode.
            return HTMLResponse(page, error.status, headers=pages.headers(nonce, framed=False))
        raise
    facts["timings"]["access"] = 1000 * (time.perf_counter() - started)
    facts["canvas"] = grant.canvas
    request.state.grant = grant
    try:
        facts["route"], resource, address = _resource(reading)
    except InvalidTile:
        facts["route"] = "tile"
        raise
    return await resource(request, Target(reading.share, reading.name, address), grant, services)


def _is_page(request: Request, route: str | None) -> bool:
    """Whether somebody looks at one of our pages without having shown anything yet."""
    shown = "authorization" in request.headers or SESSION in request.query_params
    return route in {"map", "canvas"} and _wants_page(request) and not shown


def _wants_page(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "")


def _resource(reading: Reading) -> tuple[str, Resource, Address]:
    """Which answer a path asks for, by the name that the log has for it.

    :raises NotFound: when there is no such answer.
    """
    if not reading.tail and reading.name is None and reading.is_canvas:
        return "canvas", canvas, Address()
    if (result := reading.result()) is not None:
        return result[0], run, result[1]
    match reading.tail:
        case ("run", "tiles.json"):
            return "tilejson", tilejson, Address(tile=_WHOLE_WORLD)
        case (".wmts.xml",) if reading.name is None and reading.is_canvas:
            return "wmts", capabilities, Address(tile=_WHOLE_WORLD)
        case ("run", "style.json"):
            return "style", style, Address(tile=_WHOLE_WORLD)
        case ("run", "legend.json"):
            return "legend", legend, Address(tile=_WHOLE_WORLD)
        case ("run", "legend.png"):
            return "legend", legend_picture, Address(tile=_WHOLE_WORLD)
        case (".api.json",) if reading.name is None and reading.is_canvas:
            return "openapi", api, Address()
        case ("map",):
            return "map", map_page, Address(tile=_WHOLE_WORLD)
    raise NotFound("no such address; a UDF answers at /TOKEN/NAME and /TOKEN/NAME/run/tiles/{z}/{x}/{y}")


# -- answers


async def run(request: Request, target: Target, grant: Grant, services: Services) -> Response:
    """A single run or a tile."""
    if target.address.tile is None and _wants_page(request):
        target = replace(target, address=replace(target.address, page=True))
    call = await _resolved(request, target, grant, services)
    answer = await pipeline.answer(call, services, leaving(request), visit_of(request))
    return await responses.respond(request, grant, call, answer, http_max_age=services.settings.http_max_age)


async def tilejson(request: Request, target: Target, grant: Grant, services: Services) -> Response:
    """TileJSON; the query's parameters are those of its tiles."""
    call = await _resolved(request, target, grant, services)
    layer = await layers.describe(call, services)
    document = documents.tilejson(layer, _tiles_url(request, layer, grant))
    return _document(request, grant, document)


async def style(request: Request, target: Target, grant: Grant, services: Services) -> Response:
    """A MapLibre style; the query's parameters are those of its tiles."""
    call = await _resolved(request, target, grant, services)
    layer = await layers.describe(call, services)
    chosen = await layers.style(call, query_of(request), services)
    # The style is drawn from the same vector tiles, whatever its name.
    tilejson_url = f"{_base(request)}/run/tiles.json?{_handed_on(request, layer, grant, without='style')}"
    document = documents.style(layer, chosen, tilejson_url, _tiles_url(request, layer, grant))
    return _document(request, grant, document)


async def legend(request: Request, target: Target, grant: Grant, services: Services) -> Response:
    """The legend of a UDF's style."""
    call = await _resolved(request, target, grant, services)
    return _document(request, grant, await layers.legend(call, query_of(request), services))


async def legend_picture(request: Request, target: Target, grant: Grant, services: Services) -> Response:
    """The legend as a picture."""
    call = await _resolved(request, target, grant, services)
    call = await layers.legend_call(call, query_of(request), services)
    answer = await pipeline.answer(call, services, leaving(request))
    return await responses.respond(request, grant, call, answer, http_max_age=services.settings.http_max_age)


async def map_page(request: Request, target: Target, grant: Grant, services: Services) -> Response:
    """A page with the UDF on a map, or with its result."""
    try:
        call, layer = await _as_layer(request, target, grant, services)
    except UdfError as error:
        where = "" if error.lineno is None else f" (line {error.lineno})"
        page = pages.broken_page(target.name or grant.udf or "", f"{services.redact(error.message)}{where}")
        return HTMLResponse(page, error.status, headers=pages.headers(pages.new_nonce()))
    nonce = pages.new_nonce()
    other_style = "style" in request.query_params and "style" not in call.udf.signature.names
    may_know = grant.may_read_code and not other_style
    fault = services.redact(call.udf.style_fault) if may_know else ""
    page = pages.map_page(call.udf, _path(request), nonce, layer=layer, style_fault=fault)
    return HTMLResponse(page, headers=pages.headers(nonce))


async def _as_layer(request: Request, target: Target, grant: Grant, services: Services) -> tuple[Call, bool]:
    """What a page asks for, and whether that is a layer: ``canvas.toml`` may say that it never is."""
    try:
        call = await _resolved(request, target, grant, services)
    except BadRequest:
        try:
            return await _resolved(request, replace(target, address=Address()), grant, services), False
        except BadRequest:  # of the query, as for an unknown style: the page is there, and tells it
            call = await _called(request, replace(target, address=Address()), grant, [], services)
            return call, call.udf.is_layer
    return call, call.udf.is_layer or await _is_layer(call, services)


async def _is_layer(call: Call, services: Services) -> bool:
    """Whether a UDF that takes no bounds returns something for a map; one that fails says so on its page."""
    try:
        await layers.describe(call, services)
    except (NotFound, BadRequest):
        return False
    except UdfError:
        return True
    return True


async def canvas(request: Request, target: Target, grant: Grant, services: Services) -> Response:
    """The UDFs that a token reaches."""
    found = await services.catalog.canvas(grant.canvas)
    udfs = [udf for name, udf in sorted(found.udfs.items()) if grant.reaches(name)]
    if _wants_page(request):
        broken = {
            name: services.redact(str(problem))
            for name, problem in sorted(found.broken.items())
            if grant.reaches(name)
        }
        nonce = pages.new_nonce()
        page = pages.canvas_page(found.title, found.description, udfs, broken, _path(request), nonce)
        return HTMLResponse(page, headers=pages.headers(nonce))
    base = _base(request)
    rows = [
        {"name": udf.name, "title": udf.title, "description": udf.description, "url": f"{base}/{udf.name}"}
        for udf in udfs
    ]
    return JSONResponse(
        {"canvas": found.name, "title": found.title, "udfs": rows}, headers={"cache-control": "no-store"}
    )


async def api(request: Request, target: Target, grant: Grant, services: Services) -> Response:
    """OpenAPI of the UDFs that a token reaches."""
    found = await services.catalog.canvas(grant.canvas)
    udfs = [udf for name, udf in sorted(found.udfs.items()) if grant.reaches(name)]
    document = openapi.document(
        found.name, udfs, _base(request), security=_security(grant), description=found.description
    )
    return responses.document(request, openapi.as_json(document), _kept(grant))


async def capabilities(request: Request, target: Target, grant: Grant, services: Services) -> Response:
    """WMTS capabilities of the layers that a token reaches. The query is that of another way to ask for the
    same, and says nothing."""
    found = await services.catalog.canvas(grant.canvas)
    calls = []
    for name, udf in sorted(found.udfs.items()):
        if grant.reaches(name) and udf.is_layer and udf.listed:
            with suppress(TileServerError):  # of a UDF that can't be called like this, as when it needs more
                calls.append(await _called(request, replace(target, name=name), grant, [], services))
    described = await layers.describe_all(calls, services)
    base, session = _base(request), _session(request, grant)

    def tiles_url(layer: documents.Layer, tile: str) -> str:
        # Clients of WMTS take tiles of the size that the matrix says, and no others.
        query = urlencode([("size", str(wmts.TILE_SIZE)), ("_v", layer.revision), *session])
        return f"{base}/{quote(layer.name, safe='')}/run/tiles/{tile}?{query}"

    def legend_url(layer: documents.Layer) -> str:
        query = urlencode([("_v", layer.revision), *session])
        return f"{base}/{quote(layer.name, safe='')}/run/legend.png?{query}"

    url = f"{base}.wmts.xml" + (f"?{urlencode(session)}" if session else "")
    body = wmts.capabilities(
        *(found.title, found.description, described), url=url, tiles_url=tiles_url, legend_url=legend_url
    )
    return responses.document(request, body, _kept(grant), "application/xml")


def _security(grant: Grant) -> str | None:
    """The scheme of the credential that opens a share; a name that isn't public takes an access token even
    where the canvas is."""
    if grant.level == "team":
        return openapi.SESSION
    if grant.level == "passcode":
        return openapi.PASSCODE
    return openapi.ACCESS_TOKEN if grant.restricted else None


# -- parts of them


async def _resolved(request: Request, target: Target, grant: Grant, services: Services) -> Call:
    facts = request.state.facts
    if target.name is None and grant.udf is None:
        raise UnknownUdf("a canvas token needs a UDF's name after it")
    call = await _called(request, target, grant, query_of(request), services)
    facts["udf"] = call.udf.name
    if call.tile is not None and facts["route"] == "tile":
        facts["tile"] = f"{call.tile.z}/{call.tile.x}/{call.tile.y}"
    return call


async def _called(
    request: Request, target: Target, grant: Grant, query: QueryItems, services: Services
) -> Call:
    call = await pipeline.resolve(target, grant, query, services, _caller(request, grant))
    # Whatever extension the address had, clients know the UDF by its name.
    share = grant.share if grant.udf is not None else f"{grant.share}/{call.udf.name}"
    headers = {**call.caller.headers, "fused-share-token": share}
    return replace(call, caller=replace(call.caller, headers=headers))


def _caller(request: Request, grant: Grant) -> Caller:
    """What the UDF may see of a request that came by a share token, besides that."""
    shown: dict[str, str] = {}
    if grant.session:
        shown["fused-session-token"] = request.query_params[SESSION]
    if grant.identity is not None:
        shown |= grant.identity.shown
    return Caller.of(request.headers.items(), shown)


def _document(request: Request, grant: Grant, document: Mapping[str, Any]) -> Response:
    return responses.document(request, json.dumps(document).encode(), _kept(grant))


def _kept(grant: Grant) -> str:
    """How long a document may be kept. Whoever has one with a session has the session: it must not stay."""
    if grant.session:
        return "private, no-store"
    return "private, no-cache" if grant.restricted else "public, no-cache"


def _session(request: Request, grant: Grant) -> QueryItems:
    """What a document's URLs carry of the session that it was asked for with."""
    return [(SESSION, request.query_params[SESSION])] if grant.session else []


def _tiles_url(request: Request, layer: documents.Layer, grant: Grant) -> str:
    base = f"{_base(request)}/run/tiles/{{z}}/{{x}}/{{y}}.{layer.extension}"
    return f"{base}?{_handed_on(request, layer, grant)}"


def _handed_on(request: Request, layer: documents.Layer, grant: Grant, without: str = "") -> str:
    """The query of the addresses in a document."""
    own = [pair for pair in _own_parameters(request) if pair[0] != without]
    return urlencode([*own, ("_v", layer.revision), *_session(request, grant)])


def _own_parameters(request: Request) -> QueryItems:
    """The query without reserved names: what every tile of the document is asked with."""
    return [(name, value) for name, value in request.query_params.multi_items() if not is_reserved(name)]


def _path(request: Request) -> str:
    """The path that the UDF's other addresses begin with, as this request wrote it."""
    path = path_of(request)
    for ending in _DOCUMENTS:
        path = path.removesuffix(ending)
    # With two slashes before it, a token would be the name of a host.
    return f"/{path.strip('/')}"


def _base(request: Request) -> str:
    """The same as an absolute URL; the Host has been checked at the edge."""
    services_url: str | None = request.app.state.public_url
    origin = services_url or f"{request.url.scheme}://{request.url.netloc}"
    return origin.rstrip("/") + _path(request)
