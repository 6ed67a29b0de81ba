"""What the platform's routes share: who asks, what the body says, and the form of answers."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tileserver.access import Identity, Scope
from tileserver.canvas import DEFAULT_CANVAS, Canvas
from tileserver.errors import BadRequest, InvalidBody, NotFound
from tileserver.requests import credentials_of, path_of, segments
from tileserver.services import Services

MAX_BODY: Final = 16 * 2**20  # it is read on the event loop, where others wait meanwhile
MAX_PAGE: Final = 1000  # rows of one answer
CLIENT_ID: Final = "local"  # of the one place where UDFs run; any other is accepted, too

Item = TypeVar("Item")

Get = partial(Route, methods=["GET"])
Post = partial(Route, methods=["POST"])
Put = partial(Route, methods=["PUT"])
Delete = partial(Route, methods=["DELETE"])

_SPACE: Final = uuid.UUID("5f0ad3ee-8d8e-5b2c-9a35-1d7d1f3a6c11")


def services_of(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def identify(request: Request, scope: Scope = "admin", *, canvas: str | None = None) -> Identity:
    """Who asks, by an access token of this scope that may use the canvas.

    :raises Unauthorized: without a token.
    :raises Forbidden: with one that doesn't reach that far.
    """
    return services_of(request).access.require(credentials_of(request), scope, canvas)


def segments_after(request: Request, marker: str) -> list[str]:
    """The segments of a path behind a marker."""
    return segments(path_of(request).partition(marker)[2])


async def body_of(request: Request) -> bytes:
    """The whole body; refused as soon as it is too long.

    :raises BadRequest: beyond ``MAX_BODY`` bytes.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise BadRequest(f"the body is longer than {MAX_BODY} bytes")
    return bytes(body)


async def object_of(request: Request) -> dict[str, Any]:
    """The body as a JSON object; an empty one stands for an object with nothing in it.

    :raises InvalidBody: when it is something else.
    """
    body = await body_of(request)
    try:
        found = json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError):
        raise InvalidBody(("body",), "is not JSON", "json_invalid") from None
    if not isinstance(found, dict):
        raise InvalidBody(("body",), "is not a JSON object", "dict_type")
    return found


def text_of(document: dict[str, Any], name: str) -> str | None:
    """A field that is text or not there.

    :raises InvalidBody: when it is something else.
    """
    value = document.get(name)
    if not isinstance(value, str | None):
        raise InvalidBody(("body", name), "is not text", "string_type")
    return value


def switch_of(document: dict[str, Any], name: str) -> bool | None:
    """A field that is true, false or not there.

    :raises InvalidBody: when it is something else.
    """
    value = document.get(name)
    if not isinstance(value, bool | None):
        raise InvalidBody(("body", name), "is not true or false", "bool_type")
    return value


def answer(content: Any, status: int = 200) -> Response:
    """JSON for whoever asked, and for nobody's cache."""
    return JSONResponse(content, status, {"cache-control": "no-store"})


def window(request: Request) -> tuple[int, int]:
    """How many rows of a list the query wants to ``skip``, and its ``limit`` of those that follow.

    :raises BadRequest: when they are no whole numbers.
    """
    numbers = [request.query_params.get(name, default) for name, default in (("skip", "0"), ("limit", "100"))]
    if not all(number.isascii() and number.isdigit() and len(number) < 10 for number in numbers):
        raise BadRequest("skip and limit take whole numbers of at most 9 digits")
    skip, limit = (int(number) for number in numbers)
    return skip, min(limit, MAX_PAGE)


def page(request: Request, items: Sequence[Item]) -> list[Item]:
    """The part of a list that ``skip`` and ``limit`` of the query ask for; beyond its end there is nothing,
    which is how clients know that they have read all of it.

    :raises BadRequest: see ``window``.
    """
    skip, limit = window(request)
    return list(items[skip : skip + limit])


# -- ids: made from names, so that they need no table and stay the same on every server of a workspace


def canvas_id(canvas: str) -> str:
    return str(uuid.uuid5(_SPACE, canvas))


def udf_id(canvas: str, udf: str) -> str:
    return str(uuid.uuid5(_SPACE, f"{canvas}/{udf}"))


async def canvases_of(request: Request, identity: Identity) -> list[Canvas]:
    """The canvases that an access token may use, by name."""
    return [c for c in await services_of(request).catalog.canvases() if identity.may_use(c.name)]


async def canvas_of_id(request: Request, identity: Identity, wanted: str) -> Canvas:
    """:raises NotFound: when there is none of this id that the token may use."""
    for canvas in await canvases_of(request, identity):
        if wanted in {canvas_id(canvas.name), canvas.name}:
            return canvas
    raise NotFound(f"no canvas has the id {wanted!r}")


async def udf_of_id(request: Request, identity: Identity, wanted: str) -> tuple[Canvas, str]:
    """The canvas and the name of a UDF.

    :raises NotFound: when there is none of this id that the token may use.
    """
    for canvas in await canvases_of(request, identity):
        for name in canvas.udfs:
            if udf_id(canvas.name, name) == wanted:
                return canvas, name
    raise NotFound(f"no UDF has the id {wanted!r}")


async def udf_of_name(
    request: Request, identity: Identity, name: str, *, collection: str, owner: str | None
) -> tuple[Canvas, str]:
    """The canvas and the name of a UDF that a collection and its owner name (see ``choose``).

    :raises NotFound: when there is none, or more than one to choose from.
    """
    candidates = [canvas for canvas in await canvases_of(request, identity) if name in canvas.udfs]
    return choose(request, candidates, name, collection=collection, owner=owner), name


def choose(
    request: Request, candidates: Sequence[Canvas], name: str, *, collection: str, owner: str | None
) -> Canvas:
    """The canvas that is meant, of those that have a UDF of this name. Clients name the collection
    ``default`` when their user named none: that is the canvas which has the owner's name, else the canvas
    ``default``, else the only candidate.

    :raises NotFound: when there is none, or more than one to choose from.
    """
    place = collection
    if collection == DEFAULT_CANVAS and owner and services_of(request).catalog.has(owner):
        place = owner
    for canvas in candidates:
        if canvas.name == place:
            return canvas
    if place != DEFAULT_CANVAS or not candidates:
        raise NotFound(f"no UDF called {name!r} in the canvas {place!r}")
    if len(candidates) > 1:
        names = ", ".join(canvas.name for canvas in candidates)
        raise NotFound(f"several canvases have a UDF called {name!r}; name one of them: {names}")
    return candidates[0]


def email_of(identity: Identity) -> str:
    """An address for the holder of a token: there are no accounts, so its name has to do."""
    return identity.email or f"{identity.id}@localhost"
