"""Tokens of single UDFs, and forgetting what is stored of UDFs."""

from __future__ import annotations

import hmac
from datetime import UTC, datetime
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from tileserver.access import Identity, SharedToken
from tileserver.canvas import DEFAULT_CANVAS
from tileserver.errors import BadRequest, InvalidBody, NotFound
from tileserver.params import tile_ending
from tileserver.platform.common import (
    CLIENT_ID,
    Delete,
    Get,
    Post,
    answer,
    email_of,
    identify,
    object_of,
    page,
    services_of,
    text_of,
    udf_id,
    udf_of_id,
    udf_of_name,
)
from tileserver.protocol import Json
from tileserver.tiles import valid_tile

MOST_TILES: Final = 50_000


async def forget(request: Request) -> Response:
    """Forget what is stored of a UDF, or of one of its tiles."""
    canvas, name = await udf_of_id(request, identify(request), request.path_params["id"])
    asked = [request.query_params.get(key) for key in ("z", "x", "y")]
    if any(asked) and not all(asked):
        raise BadRequest("z, x and y go together: all of them, or none")
    tiles = None if not all(asked) else [tile_ending(valid_tile(*(str(number) for number in asked)))]
    await services_of(request).cache.forget(f"{canvas.name}/{name}", tiles)
    return Response(status_code=204)


async def forget_tiles(request: Request) -> Response:
    """Forget many tiles of a UDF at once."""
    identifier = request.path_params["id"]
    canvas, name = await udf_of_id(request, identify(request), identifier)
    tiles = (await object_of(request)).get("tiles")
    if not isinstance(tiles, list) or not 1 <= len(tiles) <= MOST_TILES:
        raise InvalidBody(("body", "tiles"), f"takes 1 to {MOST_TILES} tiles", "value_error")
    wanted = [_tile(tile, number) for number, tile in enumerate(tiles)]
    count = await services_of(request).cache.forget(f"{canvas.name}/{name}", wanted)
    return answer({"udf_id": identifier, "tiles_requested": len(tiles), "objects_deleted": count})


def _tile(tile: Any, number: int) -> str:
    if not isinstance(tile, dict) or not {"z", "x", "y"} <= tile.keys():
        raise InvalidBody(("body", "tiles", number), "is not {z, x, y}", "value_error")
    return tile_ending(valid_tile(*(str(tile[key]) for key in ("z", "x", "y"))))


# -- tokens of one UDF


async def new_token(request: Request) -> Response:
    """A token that runs one UDF for whoever has it."""
    identity = identify(request)
    document = await object_of(request)
    if text_of(document, "udf_id") is not None:
        canvas, name = await udf_of_id(request, identity, document["udf_id"])
    else:
        canvas, name = await udf_of_name(
            request,
            identity,
            text_of(document, "udf_slug") or "",
            (DEFAULT_CANVAS, text_of(document, "udf_email")),
        )
    access = services_of(request).access
    made = access.create_shared_token(canvas.name, name, caching=document.get("cache") is not False)
    if document.get("enabled") is False:
        made = access.disable_shared_token(made.token)
    return answer(_token_object(identity, made))


async def tokens(request: Request) -> Response:
    identity = identify(request)
    rows = [t for t in services_of(request).access.shared_tokens() if identity.may_use(t.canvas)]
    return answer([_token_object(identity, one) for one in page(request, rows)])


async def token(request: Request) -> Response:
    identity = identify(request)
    return answer(_token_object(identity, _token(request, identity)))


async def change_token(request: Request) -> Response:
    """Switch a token on or off, or its cache."""
    identity = identify(request)
    found = _token(request, identity)
    document = await object_of(request)
    access = services_of(request).access
    if isinstance(document.get("enabled"), bool):
        switch = access.enable_shared_token if document["enabled"] else access.disable_shared_token
        found = switch(found.token)
    if isinstance(document.get("cache"), bool):
        found = access.change_shared_token(found.token, caching=document["cache"])
    return answer(_token_object(identity, found))


async def delete_token(request: Request) -> Response:
    identity = identify(request)
    found = _token(request, identity)
    services_of(request).access.revoke_shared_token(found.token)
    return answer(_token_object(identity, found))


def _token(request: Request, identity: Identity) -> SharedToken:
    wanted = request.path_params["token"]
    for one in services_of(request).access.shared_tokens():
        if hmac.compare_digest(one.token.encode(), wanted.encode()) and identity.may_use(one.canvas):
            return one
    raise NotFound("no such token")


def _token_object(identity: Identity, one: SharedToken) -> dict[str, Json]:
    return {
        "token": one.token,
        "udf_email": email_of(identity),
        "udf_slug": one.udf,
        "udf_id": udf_id(one.canvas, one.udf),
        "enabled": one.enabled,
        "client_id": CLIENT_ID,
        "public_read": False,
        "access_scope": "public",
        "cache": one.caching,
        "metadata_json": {},
        "last_updated": datetime.fromtimestamp(one.created, UTC).isoformat(),
    }


# Below the prefix of the shared addresses, which come after these.
_CACHE: Final = "/realtime-shared/{client_id}/udf-cache/by-id/{id}"

ROUTES: Final = (
    Delete(f"{_CACHE}/delete", forget),
    Post(f"{_CACHE}/batch-delete", forget_tiles),
    Post("/udf-access-token/new", new_token),
    Get("/udf-access-token/self", tokens),
    Get("/udf-access-token/all", tokens),
    Get("/udf-access-token/by-token/{token}", token),
    Post("/udf-access-token/by-token/{token}", change_token),
    Delete("/udf-access-token/by-token/{token}", delete_token),
)
