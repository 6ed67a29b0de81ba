"""Canvases: which there are, new ones, and how they are shared."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, TypedDict

from starlette.requests import Request
from starlette.responses import Response

from tileserver.access.forms import fits_header
from tileserver.canvas import Canvas
from tileserver.errors import InvalidBody, NotFound
from tileserver.platform.common import (
    CLIENT_ID,
    Get,
    Post,
    answer,
    canvas_id,
    canvas_of_id,
    canvases_of,
    identify,
    object_of,
    page,
    services_of,
    switch_of,
    text_of,
)
from tileserver.protocol import Json
from tileserver.saving import save_canvas


async def canvases(request: Request) -> Response:
    identity = identify(request, "run")
    found = page(request, await canvases_of(request, identity))
    return answer([_canvas_object(request, canvas) for canvas in found])


async def canvas_by_name(request: Request) -> Response:
    identity = identify(request, "run")
    return answer(_canvas_object(request, await canvas_of_id(request, identity, request.path_params["name"])))


async def new_canvas(request: Request) -> Response:
    """A new canvas, shared at once under the conditions asked for: for the team, when none are."""
    document = await object_of(request)
    name = text_of(document, "name") or ""
    identify(request, canvas=name)
    wanted = _wanted(document)
    save_canvas(services_of(request).settings.workspace, name)
    access = services_of(request).access
    _share_anew(request, name)  # one of this name may have been there before, and its token be known
    if wanted["team"] is None:  # a passcode without a word on the scope is for everybody who has it
        wanted["team"] = not wanted["passcode"]
    access.change_share(name, **wanted)
    return answer(_canvas_object(request, services_of(request).catalog.load(name)))


async def change_canvas(request: Request) -> Response:
    """Another passcode or access scope: what the body doesn't name stays, and an empty passcode goes. The
    name stays, too: its UDFs' addresses need it."""
    canvas = await canvas_of_id(request, identify(request), request.path_params["id"])
    document = await object_of(request)
    if (text_of(document, "name") or canvas.name) != canvas.name:
        raise InvalidBody(("body", "name"), "a canvas keeps its name", "value_error")
    wanted = _wanted(document)
    access = services_of(request).access
    if access.share_of(canvas.name) is None:
        _share_anew(request, canvas.name)
    access.change_share(canvas.name, **wanted)
    return answer(_canvas_object(request, canvas))


class _Wanted(TypedDict):
    team: bool | None
    passcode: str | None
    code: bool | None
    caching: bool | None


def _wanted(document: dict[str, Any]) -> _Wanted:
    """What a body says of how a canvas is shared.

    :raises InvalidBody: naming the field that is wrong.
    """
    scope, passcode = text_of(document, "access_scope"), text_of(document, "passcode")
    if scope not in {None, "public", "team"}:
        raise InvalidBody(("body", "access_scope"), "takes public or team", "value_error")
    if passcode and not fits_header(passcode):
        raise InvalidBody(("body", "passcode"), "is not printable ASCII", "value_error")
    return {
        "team": None if scope is None else scope == "team",
        "passcode": passcode,
        "code": switch_of(document, "allow_public_read"),
        "caching": switch_of(document, "cache"),
    }


async def share_canvas(request: Request) -> Response:
    """Share a canvas, for the team unless it is shared otherwise; ``new_token`` ends its old token."""
    canvas = await canvas_of_id(request, identify(request), request.query_params.get("collection_id", ""))
    access = services_of(request).access
    if access.share_of(canvas.name) is None:
        _share_anew(request, canvas.name)
    elif request.query_params.get("new_token", "").lower() == "true":
        access.rotate(canvas.name)
    return answer(_canvas_object(request, canvas))


def _share_anew(request: Request, canvas: str) -> None:
    """Share for the team, under a token that was never used: also where the last one has expired."""
    access = services_of(request).access
    with suppress(NotFound):
        access.unshare(canvas)
    access.share(canvas, team=True)


async def unshare_canvas(request: Request) -> Response:
    canvas = await canvas_of_id(request, identify(request), request.query_params.get("collection_id", ""))
    services_of(request).access.unshare(canvas.name)
    return answer(_canvas_object(request, canvas))


def _canvas_object(request: Request, canvas: Canvas) -> dict[str, Json]:
    """A canvas as the client reads it. Its token is for administrators; a passcode can't be read again."""
    share = services_of(request).access.share_of(canvas.name)
    shown = share is not None and identify(request, "run").is_admin
    return {
        "id": canvas_id(canvas.name),
        "name": canvas.name,
        "access_scope": "team" if share is None or share.level == "team" else "public",
        "last_updated": _time(share.created if share else 0.0),
        "allow_public_read": share is not None and share.code,
        "share_token": share.token if share is not None and shown else None,
        "share_client_id": CLIENT_ID if share is not None else None,
        "passcode": None,
        "udfs": list[Json](sorted(canvas.udfs)),
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


ROUTES: Final = (
    Get("/collection/self", canvases),
    Get("/collection/self/lite", canvases),
    Get("/collection/exec-env", canvases),
    Get("/collection/exec-env/lite", canvases),
    Get("/collection/by-name/{name}", canvas_by_name),
    Get("/collection/exec-env/by-slug/{name}", canvas_by_name),
    Get("/collection/by-id/{name}", canvas_by_name),
    Post("/collection/new", new_canvas),
    Post("/collection/by-id/{id}", change_canvas),
    Post("/collection/share", share_canvas),
    Post("/collection/unshare", unshare_canvas),
)
