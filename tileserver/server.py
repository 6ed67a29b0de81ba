"""Processes around the application: serve it, run one UDF without it, say what this machine has."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Mapping
from contextlib import closing, suppress
from functools import partial
from typing import Any, cast

import uvicorn

from tileserver import __version__, doctor, pipeline
from tileserver.access import Access
from tileserver.app import create_app, create_relay, in_front_of, local_pool
from tileserver.cache import Cache
from tileserver.catalog import Catalog
from tileserver.errors import ConfigurationError, InvalidTile
from tileserver.forwarding import Forwarding
from tileserver.front import Front
from tileserver.params import Address, Call, QueryItems, build_call
from tileserver.processes import Acceptor, Door, Place, Supervisor
from tileserver.protocol import Encoded
from tileserver.reaching import with_sources
from tileserver.services import Services, make_sources
from tileserver.settings import Settings
from tileserver.telemetry import configure_logging
from tileserver.vault import Vault
from tileserver.wire import KEEP_ALIVE, Bounds, Protocol

_GRACE = 30
_TURN = 0.0005  # seconds that a thread, as of the log, may compute before the event loop gets its turn
_END_LIMIT = 10  # seconds beyond that, for what is not a request


def serve(
    settings: Settings,
    *,
    announce: Callable[[str], None],
    fixed_tokens: Mapping[str, str] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; ``announce`` is called with the address once it answers.

    :raises ConfigurationError: when the state can't be used, or the address can't be listened on.
    """
    configure_logging(settings.log_format)
    Access(settings.state_dir).close()  # what is wrong with it is told before anything is started
    listener = _listen(settings)
    url = _url(settings, listener)

    def ready() -> None:
        announce(url)
        sys.stdout.flush()

    def work(place: Place, *, ready: Callable[[], None]) -> None:
        if place.is_owner:
            app = in_front_of(create_app(settings, fixed_tokens=fixed_tokens))
        else:
            app = create_relay(settings, place.channel, fixed_tokens=fixed_tokens)
        _answer(settings, app, listener, ready, place)

    if settings.http_workers == 1:
        _answer(settings, in_front_of(create_app(settings, fixed_tokens=fixed_tokens)), listener, ready)
    else:
        Supervisor(listener, settings.http_workers, work, grace=_GRACE + _END_LIMIT).run(ready)


def _answer(
    settings: Settings,
    app: Front,
    listener: socket.socket,
    ready: Callable[[], None],
    place: Place | None = None,
) -> None:
    """Answer what comes to the listener, as one of several processes or as the only one, until SIGTERM or
    SIGINT."""
    trusted = Forwarding(settings.trusted_proxies) if settings.trusted_proxies else None
    protocol = partial(Protocol, bounds=Bounds.of_process(), forwarding=trusted)
    server = _Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            http=cast(type[asyncio.Protocol], protocol),
            ws="none",
            lifespan="on",
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=_GRACE,
        )
    )
    # uvicorn raises the signal again when it has shut down; stopping as asked is a success.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, server.handle_exit)
    try:
        _run(_serve(server, app, listener, ready, place))
    except SystemExit:  # uvicorn's way to say so
        raise ConfigurationError("the server could not start; the log above says why") from None


class _Server(uvicorn.Server):
    """uvicorn's server, with what there is to do for one of several processes."""

    _acceptor: Acceptor | None = None

    def join(self, listener: socket.socket, place: Place, app: Front) -> None:
        """Take this process's share of the connections, and what the others hand to the owner."""
        state = self.server_state

        protocol = cast(Callable[..., asyncio.Protocol], self.config.http_protocol_class)
        make = partial(protocol, config=self.config, server_state=state, app_state=self.lifespan.state)
        count = state.connections.__len__
        self._acceptor = Acceptor(listener, place.shares, place.number, make=make, count=count)
        if place.is_owner:
            task = asyncio.create_task(Door(place.channel, app.app).serve())
            state.tasks.add(task)  # those are waited for when it stops
            task.add_done_callback(state.tasks.discard)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._acceptor is not None:
            self._acceptor.close()
        await super().shutdown(sockets)


async def _serve(
    server: _Server, app: Front, listener: socket.socket, ready: Callable[[], None], place: Place | None
) -> None:
    serving = asyncio.ensure_future(server.serve(sockets=[listener] if place is None else []))
    while not (server.started or serving.done()):
        await asyncio.sleep(0.01)
    if server.started:
        if place is not None:
            server.join(listener, place, app)
        ready()
    await serving
    if not server.started:
        raise ConfigurationError("the server could not start; the log above says why")


def _run(main: Coroutine[Any, Any, None]) -> None:
    sys.setswitchinterval(_TURN)
    with suppress(ImportError):
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main)
        return
    asyncio.run(main)


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"can't listen on {settings.host} port {settings.port}: {error.strerror}; --port takes another"
        ) from None
    listener.set_inheritable(False)
    return listener


def _url(settings: Settings, listener: socket.socket) -> str:
    if settings.public_url:
        return settings.public_url
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{listener.getsockname()[1]}"


async def run_once(
    settings: Settings, canvas: str, name: str, query: QueryItems, tile: str | None
) -> Encoded:
    """Run one UDF of a workspace in a worker of its own, without a server or its cache. What it calls runs in
    workers beside it.

    :raises UdfError: when it failed; see ``Executor.run``.
    """
    address = Address()
    if tile is not None:
        parts = tile.split("/")
        if len(parts) != 3:
            raise InvalidTile(f"a tile is z/x/y, not {tile!r}")
        address = Address.of_tile(*parts)
    with closing(Access(settings.state_dir)) as access, closing(Vault(settings.state_dir)) as vault:
        catalog = Catalog(settings.workspace, vault.of)
        async with local_pool(settings, workers=1) as pool:
            sources = make_sources(settings)
            services = Services(settings, access, catalog, Cache(), sources, pool, vault)
            call = await _call(canvas, name, address, query, services)
            return await pool.run(call.job(), call.bundle, pipeline.answers_of(call, services, []))


async def _call(canvas: str, name: str, address: Address, query: QueryItems, services: Services) -> Call:
    resolved = await services.catalog.resolve(canvas, name)
    if resolved.extension is not None:
        address = Address(tile=address.tile, scale=address.scale, extension=resolved.extension)
    udf, bundle = await with_sources(resolved.udf, resolved.bundle, services)
    return build_call(udf, bundle, address, query, limits=services.limits)


def examine(settings: Settings) -> dict[str, Any]:
    """Versions of what matters, where this workspace keeps things, and what its sandbox stops: found out by
    attacking from inside a worker.

    :raises ConfigurationError: when the settings ask for what this machine can't enforce.
    """
    libraries = ("starlette", "uvicorn", "numpy", "pandas", "geopandas", "rasterio", "rio-tiler", "shapely")
    versions = {name: _version(name) for name in (*libraries, "pyarrow", "pillow")}
    return {
        "tileserver": __version__,
        "python": f"{platform.python_version()} at {sys.executable}",
        "system": f"{platform.system()} {platform.release()}, {os.cpu_count()} cores",
        **versions,
        "workspace": str(settings.workspace),
        "canvases": ", ".join(Catalog(settings.workspace).names()) or "none",
        "state": str(settings.state_dir),
        "cache": str(settings.cache_dir),
        "workers": str(settings.workers),
        "sandbox": asyncio.run(_attacked(settings)).to_json(),
    }


async def _attacked(settings: Settings) -> doctor.Report:
    async with local_pool(settings, workers=1) as pool:
        return await doctor.examine(pool, settings.state_dir)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
