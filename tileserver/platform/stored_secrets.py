"""Secrets of canvases over HTTP: what ``fused.secrets`` of the Python client reads and writes.

A secret belongs to a canvas. The client names a place to run in (``client_id``), which is a canvas's name
here; the place that it finds by itself stands for the canvas ``default``, else for the only one there is.
"""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from tileserver.canvas import DEFAULT_CANVAS
from tileserver.errors import BadRequest, InvalidBody
from tileserver.platform.common import (
    CLIENT_ID,
    Delete,
    Get,
    Put,
    answer,
    identify,
    object_of,
    services_of,
    text_of,
)


async def names(request: Request) -> Response:
    """An object whose keys are the names: their values are asked for one by one."""
    canvas = _canvas(request)
    return answer({secret.name: None for secret in services_of(request).vault.names(canvas)})


async def value(request: Request) -> Response:
    return answer(services_of(request).vault.get(_canvas(request), _key(request)))


async def put(request: Request) -> Response:
    """Store a secret, in the place of one of this name."""
    canvas = _canvas(request)
    new = text_of(await object_of(request), "value")
    if new is None:
        raise InvalidBody(("body", "value"), "field required", "missing")
    services = services_of(request)
    services.vault.set(canvas, _key(request), new)
    services.catalog.load(canvas)  # so that the next request sees it
    return answer(_key(request))


async def unset(request: Request) -> Response:
    services, canvas = services_of(request), _canvas(request)
    services.vault.unset(canvas, _key(request))
    services.catalog.load(canvas)
    return answer(_key(request))


def _canvas(request: Request) -> str:
    """The canvas whose secrets are meant; always one that the access token, of scope admin, may use.

    :raises BadRequest: when that can't be told.
    :raises Forbidden: when it is a canvas of others.
    """
    identity = identify(request)
    place: str = request.path_params["client_id"]
    known = services_of(request).catalog.names()
    if place in known and place != CLIENT_ID:
        identify(request, canvas=place)
        return place
    usable = [name for name in known if identity.may_use(name)]
    if DEFAULT_CANVAS in usable:
        return DEFAULT_CANVAS
    if len(usable) != 1:
        names = ", ".join(usable) or "none"
        raise BadRequest(
            f"a secret belongs to a canvas, and {place!r} is none; name it in the place of the client_id."
            f" This token may use: {names}"
        )
    return usable[0]


def _key(request: Request) -> str:
    key: str = request.path_params["key"]
    return key


_SECRETS: Final = "/realtime/{client_id}/api/v1/secrets"

ROUTES: Final = (
    Get(_SECRETS, names),
    Get(f"{_SECRETS}/{{key}}", value),
    Put(f"{_SECRETS}/{{key}}", put),
    Delete(f"{_SECRETS}/{{key}}", unset),
)
