"""The one line from an address to bytes: access, catalogue, call, cache, executor.

``admit`` decides access, ``resolve`` turns an address into a call (``resolve_posted`` a posted body),
``answer`` a call into bytes, and ``describe`` a call into what map documents say. No step calls the next;
only this module knows them all.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from mercantile import Tile

from tileserver import paths
from tileserver.access import Access, Credentials, Grant, Identity
from tileserver.cache import Cache, Outcome, Stored
from tileserver.canvas import DEFAULT_CANVAS
from tileserver.catalog import Catalog
from tileserver.documents import Layer
from tileserver.errors import BadRequest, Forbidden, NotFound, UdfError, UnknownUdf
from tileserver.executor import Answers, Executor
from tileserver.formats import FORMATS, PICTURES
from tileserver.params import NOBODY, Address, Call, Caller, Limits, QueryItems, build_call
from tileserver.paths import Reading
from tileserver.posted import Posted, build, parse
from tileserver.protocol import Bundle, Encoded, Json
from tileserver.settings import Settings
from tileserver.tiles import MAX_ZOOM, WORLD, Bounds, bounding_tile, bounds, valid_tile
from tileserver.vault import Vault

_SAMPLES = 8


@dataclass(frozen=True, slots=True)
class Services:
    """Everything a request needs; built once by the application's lifespan."""

    settings: Settings
    access: Access
    catalog: Catalog
    cache: Cache
    executor: Executor
    vault: Vault

    @property
    def limits(self) -> Limits:
        chosen = self.settings
        return Limits(chosen.time_limit, chosen.tile_time_limit, chosen.max_tile_pixels)


@dataclass(frozen=True, slots=True)
class Target:
    """What a path says: whose token, which UDF (None for tokens of one UDF), and which of its answers."""

    token: str
    name: str | None
    address: Address


@dataclass(frozen=True, slots=True)
class Answer:
    """The bytes of a call, where they came from, and how long each stage took (milliseconds)."""

    stored: Stored
    outcome: Outcome
    timings: Mapping[str, float] = field(default_factory=dict)


async def admit(
    readings: Sequence[Reading], credentials: Credentials, services: Services
) -> tuple[Reading, Grant]:
    """What a path means, and what they who ask may reach; always decided before any cache is looked at.

    :raises UnknownToken: and ``Unauthorized`` or ``Forbidden``, as the token and credentials deserve.
    """
    return await paths.find(readings, credentials, services.access, services.catalog)


async def resolve(
    target: Target,
    grant: Grant,
    query: QueryItems,
    services: Services,
    caller: Caller = NOBODY,
    arguments: Mapping[str, Json] | None = None,
) -> Call:
    """What is asked for.

    :raises UnknownUdf: for a name that the grant does not reach.
    :raises UdfError: for a UDF whose source is broken.
    :raises BadRequest: for a malformed request; nothing has run.
    """
    found = await services.catalog.resolve(grant.canvas, _name(grant, target.name))
    if not grant.reaches(found.udf.name):
        raise UnknownUdf(f"no UDF called {found.udf.name!r} here")
    address = target.address
    if found.extension is not None:
        address = replace(address, extension=found.extension)
    call = build_call(
        *(found.udf, found.bundle, address, query),
        limits=services.limits,
        arguments=arguments,
        caller=caller,
    )
    return call if grant.caching else replace(call, max_age=0)


async def resolve_posted(
    body: bytes,
    identity: Identity,
    address: Address,
    query: QueryItems,
    services: Services,
    caller: Caller = NOBODY,
) -> Call:
    """What a posted body asks for. The code is its poster's: it has a folder, workers and caches of its own,
    and what a canvas has only where the body names one that the poster may use.

    :raises InvalidBody: when the body isn't one.
    :raises Forbidden: for a canvas of others.
    :raises UdfError: for code that can't be read.
    """
    posted = parse(body)
    base = await _base_of(posted, identity, services)
    return _posted_call(posted, base, address, [*query, *posted.query], services, caller)


class _Base(NamedTuple):
    """What posted code is added to, the modules in it that it may import, and what stands for the rest."""

    bundle: Bundle
    modules: Mapping[str, str]
    revision: str


async def _base_of(posted: Posted, identity: Identity, services: Services) -> _Base:
    owner = f"@{identity.id}"
    collection = posted.collection
    if collection == DEFAULT_CANVAS and not _is_usable(collection, identity, services):
        collection = None  # clients name it when their user named none
    if collection is None:
        folder = services.settings.state_dir / "posted" / identity.id
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return _Base(Bundle(owner, owner, "", str(folder), {}, {}, {}), {}, "")
    if not identity.may_use(collection):
        raise Forbidden(f"this access token is not for the canvas {collection!r}")
    canvas = await services.catalog.canvas(collection)
    return _Base(replace(canvas.bundle, owner=f"{owner}.{canvas.name}"), canvas.modules, canvas.revision)


def _is_usable(canvas: str, identity: Identity, services: Services) -> bool:
    return identity.may_use(canvas) and canvas in services.catalog.names()


def _posted_call(
    posted: Posted, base: _Base, address: Address, query: QueryItems, services: Services, caller: Caller
) -> Call:
    udf, bundle = build(posted, *base)
    call = build_call(
        udf, bundle, address, query, limits=services.limits, arguments=posted.parameters, caller=caller
    )
    # Whoever posts code asks for a value: nothing is nothing, also in a tile.
    return replace(call, default="data") if call.formats else call


def _name(grant: Grant, asked: str | None) -> str:
    """A token of one UDF names it itself; what its path adds is an extension."""
    if grant.udf is None:
        return asked or ""
    return grant.udf if not asked else f"{grant.udf}.{asked}"


async def answer(call: Call, services: Services) -> Answer:
    """Stored bytes, the bytes of a run under way, or those of a run of its own.

    :raises UdfError: when the function failed.
    :raises Overloaded: when no worker was free in time.
    """
    started = time.perf_counter()

    async def run() -> Encoded:
        looks: list[bool] = []  # one for each nested run that looked at the caller
        try:
            encoded = await services.executor.run(call.job(), call.bundle, _answers(call, services, looks))
        except UdfError as error:
            error.read_caller |= bool(looks)
            raise
        return replace(encoded, meta={**encoded.meta, "read_caller": True}) if looks else encoded

    stored, outcome = await services.cache.get_or_compute(
        call.cache_key(), run, tag=call.tag, max_age=call.max_age
    )
    took = 1000 * (time.perf_counter() - started)
    meta = stored.encoded.meta
    if outcome == "hit":
        return Answer(stored, outcome, {"cache": took})
    stages = {"queue": meta.get("queue_ms", 0.0), "run": meta.get("run_ms", 0.0)}
    return Answer(stored, outcome, {"cache": took, **stages, "encode": meta.get("encode_ms", 0.0)})


# -- what a run asks while it runs


def _answers(call: Call, services: Services, looks: list[bool]) -> Answers:
    """Serves the nested calls of a run, noting in ``looks`` which of them looked at the caller. What comes
    from a worker is as untrusted as a request."""

    async def answers(header: Mapping[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        if header.get("ask") != "run":
            raise BadRequest(f"a run can't ask for {header.get('ask')!r}")
        nested = await _nested_call(call, header, services)
        try:
            encoded = (await answer(nested, services)).stored.encoded
        except UdfError as error:
            looks.extend([True] * error.read_caller)
            raise
        looks.extend([True] * bool(encoded.meta.get("read_caller")))
        return {"media_type": encoded.media_type, "meta": dict(encoded.meta)}, encoded.body

    return answers


async def _nested_call(call: Call, asked: Mapping[str, Any], services: Services) -> Call:
    """The call that a run makes: of a UDF by its token, of one of the same owner by its name, or of code
    that it passes on."""
    address, query = _nested_address(asked)
    arguments = asked.get("parameters")
    if not isinstance(arguments, dict):
        raise BadRequest("a nested call has no parameters")
    deeper = replace(call.caller, recursion=call.caller.recursion + 1, nested=call.caller.nested + 1)
    if asked.get("token") is not None:
        # Another owner's code learns nothing of who called this one.
        stranger = replace(deeper, headers={})
        share, _, name = str(asked["token"]).partition("/")
        grant = services.access.grant(share, Credentials())
        target = Target(share, name or None, address)
        return await resolve(target, grant, query, services, stranger, arguments)
    name = str(asked.get("udf"))
    if asked.get("code") is not None:
        posted = Posted(name=name, code=str(asked["code"]), entry=str(asked["entry"]), parameters=arguments)
        base = _Base(call.bundle, call.bundle.udfs[call.udf.name].modules, call.udf.revision)
        return _posted_call(posted, base, address, query, services, deeper)
    if name == call.udf.name:
        udf, bundle = call.udf, call.bundle
    else:
        found = await services.catalog.resolve(call.bundle.canvas, name)
        udf, bundle = found.udf, replace(found.bundle, owner=call.bundle.owner)
    return build_call(udf, bundle, address, query, limits=services.limits, arguments=arguments, caller=deeper)


def _nested_address(asked: Mapping[str, Any]) -> tuple[Address, list[tuple[str, str]]]:
    tile = asked.get("tile")
    found = None
    if isinstance(tile, list) and len(tile) == 3:
        z, x, y = (str(number) for number in tile)
        found = valid_tile(z, x, y)
    query = [("format", str(asked.get("formats") or "npy,tiff,parquet,json"))]
    if asked.get("max_age") is not None:
        query.append(("cache_max_age", str(asked["max_age"])))
    return Address(tile=found), query


async def describe(call: Call, services: Services) -> Layer:
    """What map documents say of a UDF: from ``canvas.toml``, else from sample runs from zoom 0 down.

    ``call`` is a tile call; its arguments and formats are those of the document's tiles.

    :raises NotFound: when what the UDF returns is nothing to put on a map.
    """
    settings = call.udf.settings
    sample = await _sample(call, services)
    kind = sample.meta.get("format", "")
    if kind != "mvt" and kind not in PICTURES:
        raise NotFound(f"{call.udf.name} returns {sample.meta.get('kind')}, which is no map layer")
    box, source = settings.bounds, "canvas.toml"
    if box is None:
        box, source = await _data_bounds(call, sample, services)
    return Layer(
        name=call.udf.name,
        title=call.udf.title,
        description=call.udf.description,
        format=kind,
        extension=FORMATS[kind].extensions[0],
        bounds=box,
        bounds_source=source,
        minzoom=settings.minzoom,
        maxzoom=settings.maxzoom if settings.maxzoom is not None else 22,
        attribution=settings.attribution,
        fields=dict(sample.meta.get("fields", {})),
        revision=call.udf.revision,
    )


async def _sample(call: Call, services: Services) -> Encoded:
    """The tile that shows most: that of the bounds where they are known, else the whole world."""
    box = call.udf.settings.bounds
    tile = bounding_tile(box) if box is not None else Tile(x=0, y=0, z=0)
    return (await answer(replace(call, tile=tile), services)).stored.encoded


async def _data_bounds(call: Call, sample: Encoded, services: Services) -> tuple[Bounds, str]:
    """Bounds of the data, narrowed down tile by tile as long as that makes them finer."""
    tile = Tile(x=0, y=0, z=0)
    box = _bounds_of(sample)
    if box is None:
        return WORLD, "world"
    for _ in range(_SAMPLES - 1):
        finer = bounding_tile(box)
        if finer.z <= tile.z or finer.z > min(MAX_ZOOM, call.udf.settings.maxzoom or MAX_ZOOM):
            break
        tile = finer
        narrowed = _bounds_of((await answer(replace(call, tile=tile), services)).stored.encoded)
        if narrowed is None or _same(narrowed, bounds(tile)):
            break
        box = narrowed
    return box, "samples"


def _bounds_of(encoded: Encoded) -> Bounds | None:
    found = encoded.meta.get("bounds")
    if not isinstance(found, list) or len(found) != 4:
        return None
    west, south, east, north = (float(number) for number in found)
    clipped = (max(west, WORLD[0]), max(south, WORLD[1]), min(east, WORLD[2]), min(north, WORLD[3]))
    return clipped if clipped[0] <= clipped[2] and clipped[1] <= clipped[3] else None


def _same(one: Bounds, other: Bounds) -> bool:
    return all(abs(a - b) < 1e-9 for a, b in zip(one, other, strict=True))
