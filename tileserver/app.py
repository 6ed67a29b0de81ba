"""The application: services built by the lifespan, routes, one seam for errors, and the edge around it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple, cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Match, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from tileserver import __version__, metrics, pages, platform, responses
from tileserver.access import Access
from tileserver.answers import UDF_POLICY
from tileserver.cache import Cache
from tileserver.catalog import Catalog
from tileserver.coding import Coder
from tileserver.doctor import METADATA_WARNING, metadata_answers
from tileserver.edge import Edge, Manners
from tileserver.errors import MethodNotAllowed, NotFound, Overloaded, TileServerError
from tileserver.executor import Executor
from tileserver.executor.confinement import Confinement
from tileserver.executor.local import LocalPool
from tileserver.front import Front
from tileserver.metrics import Measured, Metrics
from tileserver.processes import Relay
from tileserver.redaction import Redaction
from tileserver.requestlog import RequestLog
from tileserver.requests import credentials_of, is_local
from tileserver.routes import SharedRoutes
from tileserver.sandbox import DESCRIPTIONS
from tileserver.services import Doors, Services, make_sources
from tileserver.settings import Settings
from tileserver.telemetry import write_requests
from tileserver.tidying import tidy
from tileserver.vault import Vault

log = logging.getLogger("tileserver")


def create_app(
    settings: Settings,
    *,
    executor: Executor | None = None,
    fixed_tokens: Mapping[str, str] | None = None,
) -> Starlette:
    """The server for a workspace.

    ``executor`` takes the place of the local pool; ``fixed_tokens`` maps tokens that are accepted as they
    are to canvases (the demo's).
    """
    memory = _Memory.of(settings)
    counted = Metrics()
    manners = Manners(allows_host=settings.allows_host, cors_origins=settings.cors_origins)
    requests = RequestLog(write_requests)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        access = Access(settings.state_dir, fixed=fixed_tokens or {})
        vault = Vault(settings.state_dir)
        cache = _open_cache(settings, access, memory.results)
        counted.open(settings.state_dir / "metrics")
        app.state.runs = platform.make_runs()
        looking = asyncio.create_task(_tell_metadata(settings))
        tidy(settings.state_dir, lambda: {token.id for token in access.tokens()})
        try:
            async with executor or local_pool(settings) as running:
                _tell_level(running)
                catalog = Catalog(settings.workspace, vault.of)
                sources = make_sources(settings)
                names = catalog.names()
                redact = _redaction(settings, names)
                measured = Measured(running, counted)
                app.state.services = Services(
                    settings, access, catalog, cache, sources, measured, vault, redact
                )
                for name in names:
                    for problem in catalog.load(name).problems:
                        log.warning("%s/%s", name, problem)
                yield
        finally:
            looking.cancel()
            await app.state.runs.close()
            await cache.close()
            vault.close()
            access.close()
            counted.close()
            await asyncio.to_thread(requests.close)

    def services() -> Services:
        return cast(Services, app.state.services)

    shared = SharedRoutes(services)
    app = Starlette(
        routes=[
            Route("/", home),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", prometheus),
            Mount("/static", _Static(directory=pages.STATIC), middleware=[Middleware(GZipMiddleware)]),
            Mount("/run", routes=[*platform.SHARED_ROUTES, Mount("/", _NothingElse(platform.SHARED_ROUTES))]),
            Mount(
                "/server/v1",
                routes=[
                    *platform.ROUTES,
                    Mount("/realtime-shared", shared),
                    Mount("/", _NothingElse(platform.ROUTES)),
                ],
            ),
            Mount("/server", _NothingElse()),
            Mount("/", shared),
        ],
        exception_handlers={
            TileServerError: _failed,
            HTTPException: _refused,
        },
        middleware=[Middleware(Edge, manners=manners, requests=requests, observe=counted.observe_request)],
        lifespan=lifespan,
    )
    app.state.metrics = counted
    app.state.public_url = settings.public_url
    app.state.coder = Coder(memory.coded)
    app.state.manners, app.state.requests = manners, requests
    app.state.fixed_tokens = dict(fixed_tokens or {})
    return app


def in_front_of(app: Starlette) -> Front:
    """The application with what answers stored results in front of it."""
    state = app.state
    return Front(
        app,
        doors=lambda: cast(Services | None, getattr(state, "services", None)),
        coder=state.coder,
        manners=state.manners,
        requests=state.requests,
        observe=state.metrics.observe_request,
    )


def create_relay(
    settings: Settings, channel: socket.socket, *, fixed_tokens: Mapping[str, str] | None = None
) -> Front:
    """A web process besides the owner (see ``processes``): it answers with what is stored, and hands
    everything else to the owner."""
    memory = _Memory.of(settings)
    counted = Metrics()
    manners = Manners(allows_host=settings.allows_host, cors_origins=settings.cors_origins)
    requests = RequestLog(write_requests)
    opened: list[Doors] = []

    @asynccontextmanager
    async def opening() -> AsyncIterator[None]:
        access = Access(settings.state_dir, fixed=fixed_tokens or {})
        vault = Vault(settings.state_dir)
        cache = _open_cache(settings, access, memory.results)
        counted.open(settings.state_dir / "metrics")
        try:
            catalog = Catalog(settings.workspace, vault.of)
            opened.append(Doors(settings, access, catalog, cache, make_sources(settings)))
            yield
        finally:
            opened.clear()
            await cache.close()
            vault.close()
            access.close()
            counted.close()
            await asyncio.to_thread(requests.close)

    unreachable = Edge(_unreachable, manners=manners, requests=requests, observe=counted.observe_request)
    patience = settings.queue_time_limit
    return Front(
        Relay(channel, unreachable=unreachable, patience=patience, opening=opening),
        doors=lambda: opened[0] if opened else None,
        coder=Coder(memory.coded),
        manners=manners,
        requests=requests,
        observe=counted.observe_request,
    )


async def _unreachable(scope: Scope, receive: Receive, send: Send) -> None:
    response = responses.failure(Overloaded("the server is restarting; ask again", retry_after=1))
    await response(scope, receive, send)


class _Memory(NamedTuple):
    """Bytes of memory that one web process keeps: for results, and for their compressed bodies."""

    results: int
    coded: int

    @classmethod
    def of(cls, settings: Settings) -> _Memory:
        share = settings.memory_cache // settings.http_workers
        return cls(share - share // 4, share // 4)


def _open_cache(settings: Settings, access: Access, memory: int) -> Cache:
    return Cache.open(settings.cache_dir, settings.cache_size, memory, access.keyed("cache"))


def local_pool(settings: Settings, *, workers: int | None = None) -> LocalPool:
    """The pool of a workspace, as its settings say.

    :raises ConfigurationError: when they ask for a sandbox or a network that this machine can't enforce.
    """
    confinement = Confinement(
        settings.state_dir,
        mode=settings.sandbox,
        network=settings.network,
        memory=settings.memory_limit,
        workspace=settings.workspace,
        cache_dir=settings.cache_dir,
        read=settings.data_dirs,
    )
    return LocalPool(
        state_dir=settings.state_dir,
        workers=workers or settings.workers,
        queue_limit=settings.queue_limit,
        queue_time_limit=settings.queue_time_limit,
        output_limit=settings.output_limit,
        log_limit=settings.log_limit,
        abandon_grace=settings.abandon_grace,
        memory_limit=settings.memory_limit,
        confinement=confinement,
    )


async def _tell_metadata(settings: Settings) -> None:
    if settings.network == "on" and await asyncio.to_thread(metadata_answers):
        log.warning("network: %s", METADATA_WARNING)


def _tell_level(executor: Executor) -> None:
    level = executor.level
    text = {**DESCRIPTIONS, "off": "switched off"}[level]
    if level in ("A", "B"):
        log.info("sandbox: level %s, %s", level, text)
    else:
        log.warning("sandbox: level %s, %s; 'tileserver doctor' says what is missing", level, text)


# -- routes of the server itself


async def home(request: Request) -> Response:
    """What this is; the demo's UDFs where it is the demo."""
    request.state.facts["route"] = "home"
    if "text/html" not in request.headers.get("accept", ""):
        return JSONResponse(
            {"name": "tileserver", "version": __version__}, headers={"cache-control": "no-cache"}
        )
    page = pages.home_page(sorted(request.app.state.fixed_tokens))
    return HTMLResponse(page, headers=pages.headers(pages.new_nonce()))


async def healthz(request: Request) -> Response:
    """Alive."""
    request.state.facts["route"] = "healthz"
    return JSONResponse({"status": "ok"}, headers={"cache-control": "no-store"})


async def readyz(request: Request) -> Response:
    """Able to run a UDF; asked of the pool's book-keeping, not of a worker."""
    request.state.facts["route"] = "readyz"
    ready = request.app.state.services.executor.ready
    level = request.app.state.services.executor.level
    status = {"status": "ready" if ready else "starting", "sandbox": level}
    return JSONResponse(status, 200 if ready else 503, {"cache-control": "no-store"})


async def prometheus(request: Request) -> Response:
    """What the server counts of itself, for whoever sits at the machine or holds an admin's token."""
    request.state.facts["route"] = "metrics"
    services: Services = request.app.state.services
    if not is_local(request):
        services.access.require(credentials_of(request), "admin")
    text = request.app.state.metrics.text(services.executor.stats())
    headers = {"cache-control": "no-store", "content-type": metrics.MEDIA_TYPE}
    return PlainTextResponse(text, headers=headers)


class _NothingElse:
    """What is there besides these routes: nothing, or one of them asked by another method."""

    def __init__(self, routes: Sequence[Route] = ()) -> None:
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = [route for route in self._routes if route.matches(scope)[0] is Match.PARTIAL]
        methods = {method for route in found for method in route.methods or ()}
        if methods:
            raise MethodNotAllowed(scope["method"], ", ".join(sorted(methods)))
        raise NotFound("no such address")


class _Static(StaticFiles):
    """Our own files. An address that names the version of them all never changes what it gives."""

    def get_path(self, scope: Scope) -> str:
        path = super().get_path(scope)
        first, _, rest = path.partition("/")
        return rest if first == pages.version() else path

    def file_response(self, *args: object, **kwargs: object) -> Response:
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        scope = cast(Scope, args[2] if len(args) > 2 else kwargs["scope"])
        versioned = f"/{pages.version()}/" in scope["path"]
        response.headers["cache-control"] = "public, max-age=31536000, immutable" if versioned else "no-cache"
        if response.media_type == "text/html":  # the frame that takes UDFs' HTML
            response.headers["content-security-policy"] = UDF_POLICY
        return response


# -- errors become responses here and nowhere else


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, TileServerError)
    if error.status == 500:
        log.error("internal error: %s", error.message)
    grant = getattr(request.state, "grant", None)
    return responses.failure(
        error,
        may_read_code=grant is not None and grant.may_read_code,
        redact=request.app.state.services.redact,
    )


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    allow = {"allow": "GET, HEAD"} if error.status_code == 405 else {}
    headers = {"cache-control": "no-store", "x-fused-error": str(error.detail), **allow}
    return JSONResponse({"detail": error.detail}, error.status_code, headers)


def _redaction(settings: Settings, names: Sequence[str]) -> Redaction:
    canvases = [settings.workspace / name for name in names]
    return Redaction([settings.state_dir, settings.cache_dir, settings.workspace, *canvases])
