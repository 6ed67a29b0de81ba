"""Tokens of single UDFs, and forgetting what is stored of UDFs."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, TypedDict

from starlette.requests import Request
from starlette.responses import Response

from tileserver.access import Identity, SharedToken
from tileserver.access.store import MAX_METADATA
from tileserver.cache import Rule
from tileserver.canvas import DEFAULT_CANVAS
from tileserver.errors import BadRequest, InvalidBody, InvalidTile, NotFound
from tileserver.platform.common import (
    CLIENT_ID,
    Delete,
    Get,
    Post,
    answer,
    email_of,
    identify,
    object_of,
    services_of,
    switch_of,
    text_of,
    udf_id,
    udf_of_id,
    udf_of_name,
    window,
)
from tileserver.protocol import Json
from tileserver.requests import credentials_of
from tileserver.subject import TileKey
from tileserver.tiles import valid_tile

MOST_TILES: Final = 50_000


async def forget(request: Request) -> Response:
    """Forget what is stored of a UDF, or of one of its tiles."""
    canvas, name = await udf_of_id(request, identify(request), request.path_params["id"])
    asked = {key: request.query_params[key] for key in ("z", "x", "y") if key in request.query_params}
    if asked and len(asked) < 3:
        raise BadRequest("z, x and y go together: all of them, or none")
    tiles = frozenset({_tile(asked, ("query",))}) if asked else None
    await services_of(request).cache.forget(Rule(canvas.name, name, tiles=tiles))
    return Response(status_code=204, headers={"cache-control": "no-store"})


async def forget_tiles(request: Request) -> Response:
    """Forget many tiles of a UDF at once."""
    identifier = request.path_params["id"]
    canvas, name = await udf_of_id(request, identify(request), identifier)
    tiles = (await object_of(request)).get("tiles")
    if not isinstance(tiles, list) or not 1 <= len(tiles) <= MOST_TILES:
        raise InvalidBody(("body", "tiles"), f"takes 1 to {MOST_TILES} tiles", "value_error")
    wanted = frozenset(_tile(tile, ("body", "tiles", number)) for number, tile in enumerate(tiles))
    count = await services_of(request).cache.forget(Rule(canvas.name, name, tiles=wanted))
    return answer({"udf_id": identifier, "tiles_requested": len(tiles), "objects_deleted": count})


def _tile(tile: Any, where: tuple[str | int, ...]) -> TileKey:
    if not isinstance(tile, dict) or not {"z", "x", "y"} <= tile.keys():
        raise InvalidBody(where, "is not {z, x, y}", "value_error")
    try:
        found = valid_tile(*(str(tile[key]) for key in ("z", "x", "y")))
    except InvalidTile as error:
        raise InvalidBody(where, error.message, "value_error") from None
    return (found.z, found.x, found.y)


# -- tokens of one UDF


async def new_token(request: Request) -> Response:
    """A token that runs one UDF for whoever has it."""
    identity = identify(request)
    document = await object_of(request)
    if text_of(document, "udf_id") is not None:
        canvas, name = await udf_of_id(request, identity, document["udf_id"])
    else:
        slug, owner = text_of(document, "udf_slug") or "", text_of(document, "udf_email")
        canvas, name = await udf_of_name(request, identity, slug, collection=DEFAULT_CANVAS, owner=owner)
    access = services_of(request).access
    wanted = _wanted(document)
    made = access.create_shared_token(canvas.name, name)
    return answer(_token_object(identity, access.change_shared_token(made.token, **wanted)))


async def tokens(request: Request) -> Response:
    identity = identify(request)
    skip, limit = window(request)
    rows = services_of(request).access.shared_tokens(canvases=identity.canvases, skip=skip, limit=limit)
    return answer([_token_object(identity, one) for one in rows])


async def token(request: Request) -> Response:
    """A token, for its administrators; for everybody where it lets all its holders read the code."""
    access = services_of(request).access
    identity = access.identify(credentials_of(request))
    if identity is None or not identity.is_admin:
        with suppress(NotFound):
            one = access.shared_token(request.path_params["token"])
            if one.code and one.enabled and not one.team:
                return answer(_token_object(None, one))
    identity = identify(request)
    return answer(_token_object(identity, _token(request, identity)))


async def change_token(request: Request) -> Response:
    """Switch a token on or off, or its cache; say who may use it and read its code. What the body doesn't
    name stays."""
    identity = identify(request)
    found = _token(request, identity)
    wanted = _wanted(await object_of(request))
    return answer(
        _token_object(identity, services_of(request).access.change_shared_token(found.token, **wanted))
    )


async def delete_token(request: Request) -> Response:
    identity = identify(request)
    found = _token(request, identity)
    services_of(request).access.revoke_shared_token(found.token)
    return answer(_token_object(identity, found))


class _Wanted(TypedDict):
    enabled: bool | None
    caching: bool | None
    code: bool | None
    team: bool | None
    metadata: dict[str, Json] | None


def _wanted(document: dict[str, Any]) -> _Wanted:
    """What a body says of a token.

    :raises InvalidBody: naming the field that is wrong.
    """
    scope, metadata = text_of(document, "access_scope"), document.get("metadata_json")
    if scope not in {None, "public", "team"}:
        raise InvalidBody(("body", "access_scope"), "takes public or team", "value_error")
    if not isinstance(metadata, dict | None):
        raise InvalidBody(("body", "metadata_json"), "is not a JSON object", "dict_type")
    if len(json.dumps(metadata)) > MAX_METADATA:
        raise InvalidBody(("body", "metadata_json"), f"is longer than {MAX_METADATA} characters", "too_long")
    return {
        "enabled": switch_of(document, "enabled"),
        "caching": switch_of(document, "cache"),
        "code": switch_of(document, "public_read"),
        "team": None if scope is None else scope == "team",
        "metadata": metadata,
    }


def _token(request: Request, identity: Identity) -> SharedToken:
    """The token of a path.

    :raises NotFound: when there is none, or its canvas is one of others.
    """
    found = services_of(request).access.shared_token(request.path_params["token"])
    if not identity.may_use(found.canvas):
        raise NotFound("no such shared token")
    return found


def _token_object(identity: Identity | None, one: SharedToken) -> dict[str, Json]:
    return {
        "token": one.token,
        "udf_email": None if identity is None else email_of(identity),
        "udf_slug": one.udf,
        "udf_id": udf_id(one.canvas, one.udf),
        "enabled": one.enabled,
        "client_id": CLIENT_ID,
        "public_read": one.code,
        "access_scope": "team" if one.team else "public",
        "cache": one.caching,
        "metadata_json": dict(one.metadata),
        "last_updated": datetime.fromtimestamp(one.changed, UTC).isoformat(),
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
