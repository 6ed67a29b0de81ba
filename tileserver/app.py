"""The application: services built by the lifespan, routes, one seam for errors, and the edge around it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import cast

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Match, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from tileserver import __version__, pages, platform, responses
from tileserver.access import Access
from tileserver.cache import Cache
from tileserver.catalog import Catalog
from tileserver.coding import Coder
from tileserver.doctor import METADATA_WARNING, metadata_answers
from tileserver.edge import Edge, Manners
from tileserver.errors import MethodNotAllowed, NotFound, TileServerError
from tileserver.executor import Executor
from tileserver.executor.confinement import Confinement
from tileserver.executor.local import LocalPool
from tileserver.front import Front
from tileserver.pipeline import Services, make_sources
from tileserver.redaction import Redaction
from tileserver.requestlog import RequestLog
from tileserver.routes import SharedRoutes
from tileserver.sandbox import DESCRIPTIONS
from tileserver.settings import Settings
from tileserver.telemetry import write_requests
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
    coded_size = settings.memory_cache // 4
    manners = Manners(allows_host=settings.allows_host, cors_origins=settings.cors_origins)
    requests = RequestLog(write_requests)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        access = Access(settings.state_dir, fixed=fixed_tokens or {})
        vault = Vault(settings.state_dir)
        cache = Cache.open(settings.cache_dir, settings.cache_size, settings.memory_cache - coded_size)
        app.state.runs = platform.make_runs()
        looking = asyncio.create_task(_tell_metadata(settings))
        try:
            async with executor or local_pool(settings) as running:
                _tell_level(running)
                catalog = Catalog(settings.workspace, vault.of)
                sources = make_sources(settings)
                names = catalog.names()
                redact = _redaction(settings, names)
                app.state.services = Services(
                    settings, access, catalog, cache, running, vault, sources, redact
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
            await asyncio.to_thread(requests.close)

    def services() -> Services:
        return cast(Services, app.state.services)

    shared = SharedRoutes(services)
    app = Starlette(
        routes=[
            Route("/", home),
            Route("/healthz", healthz),
            Route("/readyz", readyz),
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
        middleware=[Middleware(Edge, manners=manners, requests=requests)],
        lifespan=lifespan,
    )
    app.state.public_url = settings.public_url
    app.state.coder = Coder(coded_size)
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
    )


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
        return JSONResponse({"name": "tileserver", "version": __version__})
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
    """Our own files; a URL with the version in it never changes its content."""

    def file_response(self, *args: object, **kwargs: object) -> Response:
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        scope = args[2] if len(args) > 2 else kwargs["scope"]
        versioned = f"v={__version__}".encode() in cast(dict[str, bytes], scope)["query_string"]
        age = "public, max-age=31536000, immutable" if versioned else "no-cache"
        response.headers["cache-control"] = age
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
