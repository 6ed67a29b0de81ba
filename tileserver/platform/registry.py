"""UDFs: what ``fused.load`` reads and ``udf.to_fused`` writes."""

from __future__ import annotations

import contextlib
import json
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from tileserver import pipeline
from tileserver.canvas import DEFAULT_CANVAS, Canvas
from tileserver.errors import BadRequest, Forbidden, InvalidBody, NotFound, UnknownUdf
from tileserver.paths import readings
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
    segments_after,
    services_of,
    text_of,
    udf_id,
    udf_of_id,
    udf_of_name,
)
from tileserver.posted import Posted, parse_udf
from tileserver.protocol import Foreign, Json
from tileserver.requests import credentials_of
from tileserver.saving import delete_udf, save_udf
from tileserver.signature import BrokenSource, NotAUdf, read


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
    """The source of a shared UDF, for tokens that let their holders read it, and names in their place. Needs
    no access token."""
    services = services_of(request)
    candidates = readings(segments_after(request, "/udf/shared/by-token/"))
    reading, grant = await pipeline.admit(candidates, credentials_of(request), services)
    if reading.tail or (grant.udf is not None and reading.name is not None):
        raise NotFound("the source of a UDF is at by-token/TOKEN/NAME, without anything after it")
    found = await services.catalog.resolve(grant.canvas, grant.udf or reading.name or "")
    if not grant.reaches(found.udf.name) or found.extension is not None:
        raise UnknownUdf(f"no UDF called {reading.name!r} here")
    if not grant.may_read_code:
        raise Forbidden("this token does not let its holders read the code; run the UDF instead")
    return answer(_udf_object(await services.catalog.canvas(grant.canvas), found.udf.name))


async def udf_by_name(request: Request) -> Response:
    """A UDF by its canvas and name, or by the name of a canvas in the place of its owner."""
    asked = request.path_params
    found = await udf_of_name(
        *(request, identify(request), asked["slug"]), collection=asked["collection"], owner=asked.get("owner")
    )
    return answer(_udf_object(*found))


async def udf_by_id(request: Request) -> Response:
    canvas, name = await udf_of_id(request, identify(request), request.path_params["id"])
    return answer(_udf_object(canvas, name))


async def udf_by_url(request: Request) -> Response:
    """The source that stands behind an address, as UDFs here load it."""
    identify(request, "run")
    url = request.query_params.get("url")
    if not url:
        raise BadRequest("this needs the query parameter url")
    found = await services_of(request).sources.load(url)
    body: dict[str, Any] = {
        "type": "geopandas_v2",
        "name": found.name,
        "entrypoint": _entry_of(found),
        "code": found.files[found.path],
        "parameters": dict(found.defaults),
        "headers": [
            {"module_name": module, "source_file": path, "source_code": found.files[path]}
            for module, path in sorted(found.modules.items())
        ],
        "metadata": {"fused:slug": found.name, "fused:gitUrl": url},
    }
    return answer({"id": None, "slug": found.name, "udf_body": json.dumps(body), "udf_type": "auto"})


def _entry_of(found: Foreign) -> str:
    """The function that is called; what has none is loaded for its other names."""
    try:
        return read(found.files[found.path], found.entry).entry
    except (NotAUdf, BrokenSource):
        return found.entry or "udf"


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
    _check_source(udf)
    slug = text_of(document, "slug") or name or udf.name
    services = services_of(request)
    save_udf(services.settings.workspace, canvas, slug, udf, replace=replace)
    return answer(_udf_object(services.catalog.load(canvas), slug))


def _check_source(udf: Posted) -> None:
    """Let pass what a canvas can serve; what it can't isn't written.

    :raises InvalidBody: with the reason, and the line where there is one.
    """
    try:
        read(udf.code, udf.entry)
    except (NotAUdf, BrokenSource) as error:
        line = f" (line {error.lineno})" if isinstance(error, BrokenSource) and error.lineno else ""
        raise InvalidBody(("body", "udf_body", "code"), f"{error}{line}", "value_error") from None


async def delete(request: Request) -> Response:
    canvas, name = await udf_of_id(request, identify(request), request.path_params["id"])
    gone = _udf_object(canvas, name)
    _remove(request, canvas.name, name)
    return answer(gone)


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
    Get("/code-proxy/by-url", udf_by_url),
    Get("/udf/self", udfs),
    Get("/udf/exec-env/self", udfs),
    Get("/udf/public", public_udfs),
    Post("/udf/new", save_new),
    Post("/udf/by-id/{id}", save_again),
    Delete("/udf/by-id/{id}", delete),
)
