"""The one line from an address to bytes: access, catalogue, call, cache, executor.

``admit`` decides access, ``resolve`` turns an address into a call (``resolve_posted`` a posted body),
and ``answer`` a call into bytes. No step calls the next; only this module knows them all.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from typing import Any, Final, NamedTuple

from tileserver import asks, paths
from tileserver.access import Credentials, Grant, Identity
from tileserver.cache import Compute, Leaving, Outcome, Stored
from tileserver.canvas import DEFAULT_CANVAS
from tileserver.errors import (
    BadRequest,
    Forbidden,
    UdfError,
    UnknownUdf,
    without_traceback,
)
from tileserver.executor import Answers
from tileserver.interest import Interest
from tileserver.metadata import printed
from tileserver.params import NOBODY, Address, Call, Caller, QueryItems, build_call
from tileserver.paths import Reading
from tileserver.posted import Posted, build, parse
from tileserver.protocol import Bundle, Encoded, Json
from tileserver.reaching import name_of, reached, source, with_sources
from tileserver.services import Answer, Doors, Services, Target, Visit
from tileserver.styles import DEFAULT, Style, completed
from tileserver.styles.parameters import Summary
from tileserver.subject import Subject
from tileserver.tiles import sample_tile

_RECENT_AGE: Final = 86400  # seconds; what is recent ends sooner by itself


async def admit(
    readings: Sequence[Reading], credentials: Credentials, services: Doors
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
    return await _styled(await named(target, grant, query, services, caller, arguments), services)


async def named(
    target: Target,
    grant: Grant,
    query: QueryItems,
    services: Doors,
    caller: Caller = NOBODY,
    arguments: Mapping[str, Json] | None = None,
) -> Call:
    """``resolve``, but for what a style leaves to the data (see ``settled``)."""
    found = await services.catalog.resolve(grant.canvas, name_of(grant, target.name))
    if not grant.reaches(found.udf.name):
        raise UnknownUdf(f"no UDF called {found.udf.name!r} here")
    address = target.address
    if found.extension is not None:
        address = replace(address, extension=found.extension)
    udf, bundle = await with_sources(found.udf, found.bundle, services)
    call = build_call(
        *(udf, bundle, address, query),
        limits=services.limits,
        arguments=arguments,
        caller=caller,
    )
    return call if grant.caching else replace(call, max_age=0)


async def _styled(call: Call, services: Services) -> Call:
    """A call whose style, if there is something to draw, leaves nothing open."""
    if call.style is None or not call.style.is_open:
        return call
    return replace(call, style=await settled(call.style, call, services))


async def settled(style: Style, call: Call, services: Services) -> Style:
    """A style with what it leaves open filled from the data: that of the sample tile of the UDF's own
    defaults, whatever the call asks for, so that all tiles of a revision have the same colours.

    :raises BadRequest: when the data doesn't say it.
    """
    if not style.is_open:
        return style
    sample = _sample(call, services)
    key = sample.cache_key()
    summary = services.summaries.get(key)
    if summary is None:
        try:
            facts = (await answer(sample, services)).stored.encoded.meta
        except (UdfError, BadRequest):
            return completed(style, Summary(), call.udf.styles)
        summary = Summary.of(facts.get("summary"))
        if not sample.max_age and not facts.get("read_caller"):  # no cache keeps it
            services.summaries.set(key, summary)
    return completed(style, summary, call.udf.styles)


class Basis(NamedTuple):
    """The stored sample that a style was settled by: its key, its age at most, and when it was made."""

    key: str
    max_age: int
    created: float

    def holds(self, doors: Doors) -> bool:
        """Whether a style would be settled by the same one now."""
        head = doors.cache.head(self.key, self.max_age)
        return head is not None and head.created == self.created


def settled_before(call: Call, doors: Doors) -> tuple[Call, Basis | None] | None:
    """A call with its style settled, and by what, where what that takes is stored; None where it has to be
    run."""
    if call.style is None or not call.style.is_open:
        return call, None
    sample = _sample(call, doors)
    stored = doors.cache.stored(sample.cache_key(), sample.max_age)
    if stored is None:
        return None
    summary = Summary.of(stored.encoded.meta.get("summary"))
    style = completed(call.style, summary, call.udf.styles)
    return replace(call, style=style), Basis(stored.key, sample.max_age, stored.encoded.created)


def _sample(call: Call, doors: Doors) -> Call:
    """The call that a style is settled by."""
    address = Address(tile=sample_tile(call.udf.settings.bounds, call.udf.settings.minzoom))
    query = [("format", "mvt"), ("style", DEFAULT)]
    caller = replace(call.caller, headers={})
    sample = build_call(call.udf, call.bundle, address, query, limits=doors.limits, caller=caller)
    return replace(sample, options=replace(sample.options, summary=True))


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
    return await _posted_call(posted, base, address, [*query, *posted.query], services, caller)


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
    return identity.may_use(canvas) and services.catalog.has(canvas)


async def _posted_call(
    posted: Posted, base: _Base, address: Address, query: QueryItems, services: Services, caller: Caller
) -> Call:
    udf, bundle = await with_sources(*build(posted, *base), services)
    call = build_call(
        udf, bundle, address, query, limits=services.limits, arguments=posted.parameters, caller=caller
    )
    call = await _styled(call, services)
    # Whoever posts code asks for a value: nothing is nothing, also in a tile.
    return call if call.tile is None else replace(call, default="value")


async def answer(
    call: Call, services: Services, leaving: Leaving | None = None, visit: Visit | None = None
) -> Answer:
    """Stored bytes, the bytes of a run under way, or those of a run of its own. ``leaving`` returns when
    whoever asked has left; without it they are taken to wait to the end. Of what isn't stored, the partial
    requests of a ``visit`` get the bytes of its last run, as long as that is recent, and so do whole ones of
    a reader whose partial request has made that run.

    :raises UdfError: when the function failed.
    :raises ClientGone: when whoever asked has left.
    :raises Overloaded: when no worker was free in time.
    """
    started = time.perf_counter()

    block: dict[str, Call] = {}  # of the run that makes several tiles: their calls by key

    def together() -> Mapping[str, Callable[[], Subject]]:
        block.update(services.metatiles.block(call))
        return {key: member.subject for key, member in block.items()}

    async def run(interest: Interest) -> Encoded | Mapping[str, Encoded]:
        looks: list[bool] = []  # one for each nested run that looked at the caller
        answers = answers_of(call, services, looks, block)
        job = replace(call.job(), metatile=math.isqrt(len(block))) if block else call.job()
        try:
            encoded = await services.executor.run(job, call.bundle, answers, interest)
        except UdfError as error:
            error.read_caller |= bool(looks)
            raise
        meta = {**encoded.meta, **printed(encoded.meta, services.redact)}
        encoded = replace(encoded, meta={**meta, "read_caller": True} if looks else meta)
        return services.metatiles.cut(encoded, call, block) if block else encoded

    stored, outcome = await _stored(call, services, run, together, leaving, visit)
    took = 1000 * (time.perf_counter() - started)
    if outcome in ("hit", "stale"):
        return Answer(stored, outcome, {"cache": took})
    return Answer(stored, outcome, _stages(took, stored.encoded.meta))


def _stages(took: float, meta: Mapping[str, Any]) -> dict[str, float]:
    """What a request waited for, in milliseconds: the cache had what a run doesn't account for. A run that
    was under way counts from its end back to when the request came."""
    left, stages = took, {}
    for name in ("encode", "run", "queue"):
        stages[name] = min(max(meta.get(f"{name}_ms", 0.0), 0.0), left)
        left -= stages[name]
    return {"cache": left, **dict(reversed(stages.items()))}


async def _stored(
    call: Call,
    services: Services,
    run: Compute,
    together: Callable[[], Mapping[str, Callable[[], Subject]]],
    leaving: Leaving | None,
    visit: Visit | None,
) -> tuple[Stored, Outcome]:
    key = call.cache_key()
    recent = services.recent
    if visit is not None and visit.partial:
        place = f"{key}/{visit.place}"
        if call.max_age == 0:
            stored, outcome = await recent.get_or_compute(place, run, max_age=_RECENT_AGE, leaving=leaving)
            if outcome != "hit":
                # Whoever has a run made to know about a file may then read it whole.
                recent.keep(f"{key}/{visit.reader}", stored)
            return stored, outcome
        if known := recent.stored(place, _RECENT_AGE):
            return known, "hit"
    elif (
        visit is not None
        and call.max_age == 0
        and (known := recent.stored(f"{key}/{visit.reader}", _RECENT_AGE))
    ):
        return known, "hit"
    stored, outcome = await services.cache.get_or_compute(
        key,
        run,
        max_age=call.max_age,
        stale_while_revalidate=call.stale_while_revalidate,
        stale_if_error=call.stale_if_error,
        subject=call.subject,
        together=together,
        leaving=leaving,
    )
    if visit is not None and (call.max_age == 0 or stored.encoded.meta.get("uncounted")):
        recent.keep(f"{key}/{visit.place}", stored)
    return stored, outcome


# -- what a run asks while it runs


def answers_of(call: Call, services: Services, looks: list[bool], block: Collection[str] = ()) -> Answers:
    """Serves what a run asks for while it runs, noting in ``looks`` which nested runs looked at the caller.
    ``block`` has the keys of all that the run makes, where that is more than one result. What comes from a
    worker is as untrusted as a request."""
    this_run = object()
    most = services.settings.queue_limit
    own_key = cache(call.cache_key)

    async def answers(header: Mapping[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        with services.waits.asking(call.bundle.owner, this_run, len(body), most=most):
            return await answered(header, body)

    async def answered(header: Mapping[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        asked = asks.parse(header, body)
        if isinstance(asked, asks.Load):
            found = await source(asked.name, call.bundle, services)
            return {}, json.dumps(found.to_json()).encode()
        nested, reads_code = await _nested_call(call, asked, header.get("deadline"), services)
        key = nested.cache_key()
        if key in block:
            nested = replace(nested, max_age=0)  # or it would wait for itself
        try:
            with ExitStack() as waits:
                for made in block or (own_key(),):
                    waits.enter_context(services.waits.waiting(made, key, may_join=nested.max_age > 0))
                encoded = (await answer(nested, services)).stored.encoded
        except UdfError as error:
            looks.extend([True] * error.read_caller)
            # A copy: others may wait for the same run.
            raise error if reads_code else without_traceback(error) from None
        looks.extend([True] * bool(encoded.meta.get("read_caller")))
        return {"media_type": encoded.media_type, "meta": dict(encoded.meta)}, encoded.body

    return answers


async def _nested_call(
    call: Call, asked: asks.Run, deadline: float | None, services: Services
) -> tuple[Call, bool]:
    """The call that a run makes, and whether its code may be known to that run: of a UDF by its token, of one
    by its name as far as the owner of the run reaches, or of code that it passes on."""
    deeper = replace(
        call.caller,
        recursion=call.caller.recursion + 1 + asked.depth,
        nested=call.caller.nested + 1,
        deadline=deadline,
    )
    if asked.code is not None:
        posted = replace(asked.code, parameters=asked.parameters)
        base = _Base(call.bundle, call.bundle.udfs[call.udf.name].modules, call.udf.revision)
        return await _posted_call(posted, base, asked.address, asked.query, services, deeper), True
    if asked.name == call.udf.name:
        udf, bundle = call.udf, call.bundle
    else:
        grant, name = await reached(asked.name, call.bundle, services)
        if grant is not None:
            # Another owner's code learns nothing of who called this one.
            stranger = replace(deeper, headers={})
            target = Target(grant.share, name or None, asked.address)
            nested = await resolve(target, grant, asked.query, services, stranger, asked.parameters)
            return nested, grant.may_read_code
        found = await services.catalog.resolve(call.bundle.canvas, name)
        udf, bundle = await with_sources(found.udf, replace(found.bundle, owner=call.bundle.owner), services)
    limits = services.limits
    arguments = asked.parameters
    made = build_call(
        udf, bundle, asked.address, asked.query, limits=limits, arguments=arguments, caller=deeper
    )
    return await _styled(made, services), True
