"""UDFs and canvases: what ``fused.load`` reads and ``udf.to_fused`` writes."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from tileserver.access import Credentials, Share
from tileserver.canvas import DEFAULT_CANVAS, Canvas
from tileserver.errors import Forbidden, InvalidBody, UnknownUdf
from tileserver.platform.common import (
    CLIENT_ID,
    Delete,
    Get,
    Post,
    answer,
    canvas_id,
    canvas_of_id,
    canvases_of,
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
from tileserver.posted import Posted, parse_udf
from tileserver.protocol import Json
from tileserver.saving import delete_udf, save_canvas, save_udf


async def health(request: Request) -> Response:
    """Alive. Needs no token."""
    return answer({"status": "ok"})


async def user(request: Request) -> Response:
    """Who the token's holder is; there are no accounts, so a token's name has to do."""
    identity = identify(request, "run")
    return answer(
        {
            "id": identity.id,
            "email": email_of(identity),
            "handle": identity.name or identity.id,
            "name": identity.name,
            "execution_environment_id": CLIENT_ID,
        }
    )


async def instances(request: Request) -> Response:
    """Where UDFs can run: here."""
    identify(request, "run")
    endpoint = str(request.base_url)
    one = {"client_id": CLIENT_ID, "name": CLIENT_ID, "endpoint": endpoint, "preference_rank": 100}
    return answer([one])


# -- loading


async def udf_by_token(request: Request) -> Response:
    """The source of a shared UDF, for tokens that let their holders read it. Needs no access token."""
    services = services_of(request)
    share, _, name = request.path_params["token"].partition("/")
    credentials = Credentials(authorization=request.headers.get("authorization"))
    grant = services.access.grant(share, credentials)
    found = await services.catalog.resolve(grant.canvas, grant.udf or name)
    if not grant.reaches(found.udf.name) or found.extension is not None:
        raise UnknownUdf(f"no UDF called {name!r} here")
    if not grant.may_read_code:
        raise Forbidden("this token does not let its holders read the code; run the UDF instead")
    return answer(_udf_object(await services.catalog.canvas(grant.canvas), found.udf.name))


async def udf_by_name(request: Request) -> Response:
    """A UDF by its canvas and name, or by the name of a canvas in the place of its owner."""
    places = (request.path_params["collection"], request.path_params.get("owner"))
    found = await udf_of_name(request, identify(request), request.path_params["slug"], places)
    return answer(_udf_object(*found))


async def udf_by_id(request: Request) -> Response:
    canvas, name = await udf_of_id(request, identify(request), request.path_params["id"])
    return answer(_udf_object(canvas, name))


async def udfs(request: Request) -> Response:
    identity = identify(request)
    rows = [(c, name) for c in await canvases_of(request, identity) for name in sorted(c.udfs)]
    return answer([_udf_object(canvas, name) for canvas, name in page(request, rows)])


async def public_udfs(request: Request) -> Response:
    """None: a self-hosted server has no community. A list, since clients page until it is empty."""
    return answer([])


def _udf_object(canvas: Canvas, name: str) -> dict[str, Json]:
    """A UDF as the client reads it; ``udf_body`` is JSON text."""
    udf, source = canvas.udfs[name], canvas.bundle.udfs[name]
    files = canvas.bundle.files
    identifier = udf_id(canvas.name, name)
    body: dict[str, Any] = {
        "type": "geopandas_v2",
        "name": name,
        "entrypoint": udf.signature.entry,
        "code": files[source.path],
        "parameters": dict(udf.defaults),
        "headers": [
            {"module_name": module, "source_file": path.rpartition("/")[2], "source_code": files[path]}
            for module, path in sorted(source.modules.items())
            if path in files
        ],
        "metadata": {"fused:id": identifier, "fused:slug": name, "fused:description": udf.description},
        "cache_max_age": udf.signature.max_age,
        "collection_id": canvas_id(canvas.name),
        "collection_name": canvas.name,
    }
    return {
        "id": identifier,
        "slug": name,
        "udf_body": json.dumps(body),
        "udf_type": "auto",
        "is_visible": True,
        "collection_id": canvas_id(canvas.name),
        "collection_name": canvas.name,
    }


def _remove(request: Request, canvas: str, name: str) -> None:
    services = services_of(request)
    delete_udf(services.settings.workspace, canvas, name)
    with contextlib.suppress(UnknownUdf):  # its folder was a canvas by this UDF alone
        services.catalog.load(canvas)


# -- saving


async def save_new(request: Request) -> Response:
    """Save a UDF under a name that isn't taken in its canvas."""
    identity = identify(request)
    document = await object_of(request)
    wanted = text_of(document, "collection_id")
    canvas = DEFAULT_CANVAS
    if wanted is not None:
        canvas = (await canvas_of_id(request, identity, wanted)).name
    return await _save(request, canvas, document, replace=False)


async def save_again(request: Request) -> Response:
    """Save a UDF in the place of one that is there; another name moves it."""
    identity = identify(request)
    canvas, name = await udf_of_id(request, identity, request.path_params["id"])
    document = await object_of(request)
    renamed = (text_of(document, "slug") or name) != name
    response = await _save(request, canvas.name, document, replace=not renamed, name=name)
    if renamed:
        _remove(request, canvas.name, name)
    return response


async def _save(
    request: Request, canvas: str, document: dict[str, Any], *, replace: bool, name: str | None = None
) -> Response:
    identify(request, canvas=canvas)
    body = document.get("udf_body")
    if not isinstance(body, str):
        raise InvalidBody(("body", "udf_body"), "is not JSON text", "string_type")
    udf: Posted = parse_udf(body)
    slug = text_of(document, "slug") or name or udf.name
    services = services_of(request)
    save_udf(services.settings.workspace, canvas, slug, udf, replace=replace)
    return answer(_udf_object(services.catalog.load(canvas), slug))


async def delete(request: Request) -> Response:
    canvas, name = await udf_of_id(request, identify(request), request.path_params["id"])
    gone = _udf_object(canvas, name)
    _remove(request, canvas.name, name)
    return answer(gone)


# -- canvases


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
    save_canvas(services_of(request).settings.workspace, name)
    _share(request, name, document)
    return answer(_canvas_object(request, services_of(request).catalog.load(name)))


async def change_canvas(request: Request) -> Response:
    """Another passcode or access scope; a canvas keeps its name, which its UDFs' addresses need."""
    canvas = await canvas_of_id(request, identify(request), request.path_params["id"])
    document = await object_of(request)
    if (text_of(document, "name") or canvas.name) != canvas.name:
        raise InvalidBody(("body", "name"), "a canvas keeps its name", "value_error")
    _share(request, canvas.name, document)
    return answer(_canvas_object(request, canvas))


def _share(request: Request, canvas: str, document: dict[str, Any]) -> None:
    passcode = text_of(document, "passcode")
    scope = text_of(document, "access_scope") or "team"
    if scope not in {"public", "team"}:
        raise InvalidBody(("body", "access_scope"), "takes public or team", "value_error")
    services_of(request).access.share(canvas, passcode=passcode, team=scope == "team" and passcode is None)


async def share_canvas(request: Request) -> Response:
    """Share a canvas, for the team unless it was shared otherwise; ``new_token`` ends its old token."""
    canvas = await canvas_of_id(request, identify(request), request.query_params.get("collection_id", ""))
    access = services_of(request).access
    if _shared(request, canvas.name) is None:
        access.share(canvas.name, team=True)
    elif request.query_params.get("new_token", "").lower() == "true":
        access.rotate(canvas.name)
    return answer(_canvas_object(request, canvas))


async def unshare_canvas(request: Request) -> Response:
    canvas = await canvas_of_id(request, identify(request), request.query_params.get("collection_id", ""))
    services_of(request).access.unshare(canvas.name)
    return answer(_canvas_object(request, canvas))


def _shared(request: Request, canvas: str) -> Share | None:
    return next((s for s in services_of(request).access.shares() if s.canvas == canvas), None)


def _canvas_object(request: Request, canvas: Canvas) -> dict[str, Json]:
    """A canvas as the client reads it. Its token is for administrators; a passcode can't be read again."""
    share = _shared(request, canvas.name)
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


_BY_NAME: Final = "by-collection/{collection}/by-slug/{slug}"

ROUTES: Final = (
    Get("/health", health),
    Get("/user/self", user),
    Get("/realtime-instance/available", instances),
    Get("/udf/shared/by-token/{token:path}", udf_by_token),
    Get(f"/udf/by-user-email/{{owner}}/{_BY_NAME}", udf_by_name),
    Get(f"/udf/by-user-handle/{{owner}}/{_BY_NAME}", udf_by_name),
    Get(f"/udf/exec-env/self/{_BY_NAME}", udf_by_name),
    Get("/udf/by-id/{id}", udf_by_id),
    Get("/udf/self", udfs),
    Get("/udf/exec-env/self", udfs),
    Get("/udf/public", public_udfs),
    Post("/udf/new", save_new),
    Post("/udf/by-id/{id}", save_again),
    Delete("/udf/by-id/{id}", delete),
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
