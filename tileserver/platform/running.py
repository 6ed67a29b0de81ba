"""Running a posted UDF: at once, or started now and asked for later."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from tileserver import pipeline, responses
from tileserver.access import Grant, Identity
from tileserver.errors import BadRequest, Forbidden
from tileserver.params import Address, Call, Caller
from tileserver.platform.common import Get, Post, body_of, identify, services_of
from tileserver.requests import leaving, query_of
from tileserver.runs import Runs
from tileserver.services import Answer

# The client gives up on one request after 5 seconds.
WAIT: Final = 2.0
MAX_RUN_ID: Final = 200

Outcome = tuple[Call, Answer]


def make_runs() -> Runs[Outcome]:
    return Runs(lambda outcome: len(outcome[1].stored.encoded.body))


# -- running posted code


async def run_posted(request: Request) -> Response:
    """Run the UDF of the body, and answer with its result."""
    identity, call = await _posted_call(request)
    run_id = _run_id(request)
    if run_id is None:
        answer = await pipeline.answer(call, services_of(request), leaving(request))
        return await _respond(request, identity, (call, answer))
    outcome = await _start(request, identity, run_id, call, wait=call.time_limit * 2)
    return await _respond(request, identity, outcome)


async def start_posted(request: Request) -> Response:
    """Start it; with the result where that comes at once, else to be asked for by the run's id."""
    identity, call = await _posted_call(request)
    run_id = _run_id(request)
    if run_id is None:
        raise BadRequest("a run that is started needs the header Fused-Run-Id, to be asked for later")
    return await _respond(request, identity, await _start(request, identity, run_id, call, wait=WAIT))


async def get_run(request: Request) -> Response:
    """The result of a run that was started, or 202 while there is none."""
    identity = _poster(request)
    request.state.facts["route"] = "get_run"
    key = (identity.id, request.path_params["run_id"])
    return await _respond(request, identity, await _runs(request).get(key, wait=WAIT))


def _run_id(request: Request) -> str | None:
    """The caller's own id of a run: a run of one id starts once, however often it is posted."""
    run_id = request.headers.get("fused-run-id")
    if run_id is not None and not 1 <= len(run_id) <= MAX_RUN_ID:
        raise BadRequest(f"Fused-Run-Id has 1 to {MAX_RUN_ID} characters, not {len(run_id)}")
    return run_id


async def _start(
    request: Request, identity: Identity, run_id: str, call: Call, *, wait: float
) -> Outcome | None:
    async def run() -> Outcome:
        return call, await pipeline.answer(call, services_of(request))

    return await _runs(request).start((identity.id, run_id), run, wait=wait)


async def _posted_call(request: Request) -> tuple[Identity, Call]:
    facts = request.state.facts
    facts["route"] = "posted"
    identity = _poster(request)
    address = Address()
    if "z" in request.path_params:
        address = Address.of_tile(*(request.path_params[name] for name in ("z", "x", "y")))
    call = await pipeline.resolve_posted(
        await body_of(request),
        identity,
        address,
        query_of(request),
        services_of(request),
        Caller.of(request.headers.items(), identity.shown),
    )
    facts |= {"canvas": call.bundle.canvas or None, "udf": call.udf.name}
    return identity, call


def _poster(request: Request) -> Identity:
    identity = identify(request, "run")
    services = services_of(request)
    level = services.executor.level
    if level == "off" and not services.settings.is_loopback:
        raise Forbidden("this server runs no posted code: its sandbox is off and its host is not loopback")
    if level == "D":
        raise Forbidden("this server runs no posted code: its machine can't confine it (tileserver doctor)")
    request.state.grant = _grant(identity)
    return identity


def _grant(identity: Identity) -> Grant:
    """Posters know their code, and nobody else gets their answers."""
    return Grant(f"@{identity.id}", None, True, "", may_read_code=True, restricted=True)


async def _respond(request: Request, identity: Identity, outcome: Outcome | None) -> Response:
    if outcome is None:
        return Response(status_code=202, headers={"cache-control": "no-store"})
    call, answer = outcome
    return await responses.respond(request, _grant(identity), call, answer, http_max_age=0)


def _runs(request: Request) -> Runs[Outcome]:
    runs: Runs[Outcome] = request.app.state.runs
    return runs


_RUN: Final = "/realtime/{client_id}/api/v1/run/udf"
_TILE: Final = "/tiles/{z}/{x}/{y}"

# Below the platform's root.
ROUTES: Final = (
    Post(_RUN, run_posted),
    Post(f"{_RUN}{_TILE}", run_posted),
    Post(f"{_RUN}/start", start_posted),
    Post(f"{_RUN}/start{_TILE}", start_posted),
    Get(f"{_RUN}/get/{{run_id}}", get_run),
)

# Below ``/run`` of the server itself.
SHARED_ROUTES: Final = (Post("/udf", run_posted), Post(f"/udf{_TILE}", run_posted))
