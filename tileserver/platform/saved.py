"""Runs of saved UDFs by their names, for holders of an access token: addresses from before share tokens."""

from __future__ import annotations

import time
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from tileserver import pipeline, responses
from tileserver.access import Grant, Identity
from tileserver.canvas import DEFAULT_CANVAS
from tileserver.params import Address, Caller
from tileserver.platform.common import Get, canvases_of, choose, identify, services_of
from tileserver.requests import leaving, query_of, visit_of
from tileserver.services import Target


async def run_saved(request: Request) -> Response:
    """A single run or a tile of the UDF that the path names; the query is that of a shared run."""
    services, facts = services_of(request), request.state.facts
    facts["route"] = "saved"
    address = Address(page="text/html" in request.headers.get("accept", ""))
    if "z" in request.path_params:
        address = Address.of_tile(*(request.path_params[name] for name in ("z", "x", "y")))
    started = time.perf_counter()
    identity = identify(request, "run")
    grant, extension = await _grant(request, identity)
    facts["timings"]["access"] = 1000 * (time.perf_counter() - started)
    facts["canvas"], request.state.grant = grant.canvas, grant
    call = await pipeline.resolve(
        Target("", extension, address),
        grant,
        query_of(request),
        services,
        Caller.of(request.headers.items(), identity.shown),
    )
    facts["udf"] = call.udf.name
    answer = await pipeline.answer(call, services, leaving(request), visit_of(request))
    return await responses.respond(request, grant, call, answer, http_max_age=services.settings.http_max_age)


async def _grant(request: Request, identity: Identity) -> tuple[Grant, str | None]:
    """What the path names, and the extension after it. An owner is a canvas, or nobody in particular."""
    owner, name = request.path_params["owner"], request.path_params["name"]
    candidates = [c for c in await canvases_of(request, identity) if c.stem(name) is not None]
    canvas = choose(request, candidates, name, collection=DEFAULT_CANVAS, owner=owner)
    udf = str(canvas.stem(name))
    grant = Grant(
        canvas=canvas.name,
        udf=udf,
        caching=True,
        share="",
        may_read_code=identity.is_admin,
        restricted=True,
        identity=identity,
    )
    return grant, name.removeprefix(udf).removeprefix(".") or None


_SAVED: Final = "/realtime/{client_id}/api/v1/run/udf/saved/{owner}/{name}"

ROUTES: Final = (Get(_SAVED, run_saved), Get(f"{_SAVED}/tiles/{{z}}/{{x}}/{{y}}", run_saved))
