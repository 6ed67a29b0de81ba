"""Stored results answered on the event loop, in front of the application that can do everything.

``at_once`` decides access, finds the record and answers, without a task, a thread or a worker. What it can't
answer like that (a miss, an error, a page, anything odd) goes to the wrapped application unchanged, so that
rules stand in one place: this module only remembers what they came to, for as long as nothing they go by has
changed. Access is asked at every request whether anything of it has.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple, TypeVar
from weakref import ref

from starlette.types import ASGIApp, Receive, Scope, Send

from tileserver import answers, pipeline
from tileserver.access import Credentials, Grant
from tileserver.answers import Asked, Choice, Pair, Terms
from tileserver.cache import Cache, Head
from tileserver.canvas import Canvas
from tileserver.coding import Coder
from tileserver.edge import Manners, Observe, Pairs, new_id, of_the_request
from tileserver.errors import TileServerError
from tileserver.loading import foreign_names
from tileserver.params import Call, parse_query
from tileserver.paths import readings
from tileserver.pipeline import Basis
from tileserver.requestlog import About, RequestLog
from tileserver.requests import SESSION, segments
from tileserver.services import Doors, Target
from tileserver.state import Version

log = logging.getLogger("tileserver")

_PLATFORM: Final = "/server/v1/realtime-shared/"
_PLANS: Final = 8192  # requests that are remembered
_LONGEST: Final = 2048  # bytes of an address that is remembered
_ANSWERS: Final = 8  # forms of one answer that are remembered: codings, origins
_TEXTS: Final = 8 * 2**20  # bytes of headers that are written out before all is forgotten
_NOBODY: Final = b""

_T = TypeVar("_T")


def written(fields: Iterable[Pair]) -> bytes:
    """Fields as they stand in an answer (HTTP/1.1)."""
    return b"".join([b"%b: %b\r\n" % field for field in fields])


class Reply(NamedTuple):
    """A whole answer; ``fields`` as ``written``."""

    status: int
    fields: bytes
    body: bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [tuple(line.split(b": ", 1)) for line in self.fields.split(b"\r\n")[:-1]]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


class Caller(NamedTuple):
    """What the header fields of a request say, and where it comes from: who asks, and in which manner.
    ``shown`` stands for the credential and the address, where a credential is shown."""

    asked: Asked
    address: str | None
    as_page: bool
    shown: bytes
    origin: str | None


# What makes two requests ask for the same: the target, whether a page is wanted, and what the caller shows.
_Asks = tuple[bytes, bool, bytes]


@dataclass(slots=True)
class _Form:
    """One form of an answer to one request, of one record: ``lasting`` fields, and others until their age is
    another one."""

    etag: str
    created: float
    lasting: bytes
    size: int = -1
    passing: bytes = b""
    until: float = 0.0


@dataclass(slots=True)
class _Plan:
    """What the rules came to for one request, and what they went by; it ``lasts`` where that is all in the
    database, in the canvas's folder and in what is stored."""

    grant: Grant
    version: Version
    canvas: ref[Canvas]  # there may be many plans of what a canvas once was
    udf: str
    basis: Basis | None
    key: str
    route: str
    terms: Terms
    about: About
    lasts: bool
    forms: dict[tuple[Choice, Pairs], _Form] = field(default_factory=dict)

    def holds(self, doors: Doors) -> bool:
        """Whether the rules would come to the same now."""
        canvas = self.canvas()
        return (
            canvas is not None
            and doors.access.holds(self.grant, self.version)
            and doors.catalog.holds(canvas, self.udf)
            and (self.basis is None or self.basis.holds(doors))
        )


class Front:
    """Wraps an application. ``doors`` gives what a request needs, or None as long as nothing is open;
    ``manners``, ``requests`` and ``observe`` are those of the application's own edge."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        doors: Callable[[], Doors | None],
        coder: Coder,
        manners: Manners,
        requests: RequestLog,
        observe: Observe,
    ) -> None:
        self.app = app
        self._doors = doors
        self._coder = coder
        self._manners = manners
        self._requests = requests
        self._observe = observe
        self._plans: dict[_Asks, _Plan] = {}
        self._texts = 0
        self._salt = secrets.token_bytes(16)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        caller = self.caller_of(scope) if scope["type"] == "http" else None
        reply = None if caller is None else self.at_once(caller, scope)
        await (reply or self.app)(scope, receive, send)

    def caller_of(self, scope: Scope) -> Caller | None:
        """Who asks; None where that is nothing to be answered here, whatever is asked for."""
        if scope["method"] not in ("GET", "HEAD") or scope.get("root_path"):
            return None
        fields = dict(scope["headers"])
        if len(fields) != len(scope["headers"]) or b"fused-recursion" in fields:
            return None
        if scope.get("state", {}).get("refusal"):
            return None
        if not self._manners.allows_host(fields.get(b"host", b"").decode("latin-1")):
            return None
        client = scope.get("client")
        address = client[0] if client else None  # the port is another one for each connection
        asked = Asked(scope["method"], fields)
        as_page = b"text/html" in fields.get(b"accept", b"")
        return Caller(asked, address, as_page, self._shown(fields, address), asked.text(b"origin"))

    def _shown(self, fields: Mapping[bytes, bytes], address: str | None) -> bytes:
        authorization = fields.get(b"authorization")
        if authorization is None:
            return _NOBODY
        text = b"%b\n%b" % (authorization, (address or "").encode())
        return hashlib.blake2b(text, key=self._salt, digest_size=16).digest()

    def at_once(self, caller: Caller, scope: Scope) -> Reply | None:
        """The answer to a request that can be answered now; None for all others."""
        path = (scope.get("raw_path") or scope["path"].encode()).partition(b"?")[0]
        query = scope["query_string"]
        target = b"%b?%b" % (path, query) if query else path
        return self._tried(caller, target, made=True)

    def again(self, caller: Caller, target: bytes) -> Reply | None:
        """The answer to a request for a target that has been asked for before, as it was sent; None for all
        others."""
        return self._tried(caller, target, made=False)

    def _tried(self, caller: Caller, target: bytes, *, made: bool) -> Reply | None:
        try:
            return self._answer(caller, target, made=made)
        except (TileServerError, _Waits):
            return None  # whoever answers it says why
        except Exception:  # a fault here may cost speed, and never an answer
            log.exception("internal error in front of the application")
            return None

    def _answer(self, caller: Caller, target: bytes, *, made: bool) -> Reply | None:
        started = time.perf_counter()
        doors = self._doors()
        if doors is None:
            return None
        plan = self._plan(caller, target, doors, made=made)
        if plan is None:
            return None
        accessed = time.perf_counter()
        asked = caller.asked
        found = self._found(asked, plan, doors.cache)
        if found is None:
            return None
        head, choice, body = found
        cached = time.perf_counter()
        size = head.size if body is None or choice.coding is None else len(body)
        fields = self._fields(plan, head, choice, size, caller.origin)
        total = time.perf_counter() - started
        timings = {
            "access": 1000 * (accessed - started),
            "cache": 1000 * (cached - accessed),
            "total": 1000 * total,
        }
        request_id = new_id()
        own = written(of_the_request(request_id, timings))
        self._requests.note(plan.about, choice.status, "hit", timings["total"], request_id)
        sent = answers.part(asked, choice, body or b"")
        self._observe(plan.route, choice.status, "hit", total, len(sent))
        return Reply(choice.status, fields + own, sent)

    # -- what is asked for

    def _plan(self, caller: Caller, target: bytes, doors: Doors, *, made: bool) -> _Plan | None:
        """What the rules come to, remembered from the last such request where that still holds, or ``made``
        now."""
        asks = (target, caller.as_page, caller.shown)
        plan = self._plans.get(asks)
        if plan is None or not plan.holds(doors):
            plan = self._made(caller, target, doors) if made else None
            if plan is not None and plan.lasts and len(target) <= _LONGEST:
                self._remember(asks, plan)
        method = caller.asked.method
        if plan is not None and plan.about.fields["method"] != method:
            plan.about = About({**plan.about.fields, "method": method})
        return plan

    def _remember(self, asks: _Asks, plan: _Plan) -> None:
        self._plans.pop(asks, None)
        if len(self._plans) >= _PLANS:
            del self._plans[next(iter(self._plans))]
        self._plans[asks] = plan

    def _made(self, caller: Caller, target: bytes, doors: Doors) -> _Plan | None:
        """Ask the rules.

        :raises TileServerError: for what they refuse.
        :raises _Waits: for what they have to wait for.
        """
        path, _, queried = target.partition(b"?")
        candidates = readings(segments(path.decode("latin-1").removeprefix(_PLATFORM)))
        if not candidates or candidates[0].kind != "token":
            return None
        reading = candidates[0]
        result = reading.result()
        version = doors.access.version()
        query = parse_query(queried)
        last = dict(query)
        credentials = Credentials(
            authorization=caller.asked.text(b"authorization"),
            session_token=last.get(SESSION),
            address=caller.address,
            counts=False,
        )
        grant = doors.access.grant(reading.share, credentials)
        if result is None or (reading.name is None and grant.udf is None):
            return None
        route, address = result
        if address.tile is None and caller.as_page:
            address = replace(address, page=True)
        named = _now(pipeline.named(Target(reading.share, reading.name, address), grant, query, doors))
        canvas = doors.catalog.known(grant.canvas)
        settled = None if named.max_age == 0 else pipeline.settled_before(named, doors)
        if canvas is None or settled is None:
            return None
        call, basis = settled
        return _Plan(
            grant=grant,
            version=version,
            canvas=ref(canvas),
            udf=call.udf.name,
            basis=basis,
            key=call.cache_key(),
            route=route,
            terms=Terms.of(call, grant, last.get("_v"), doors.settings.http_max_age),
            about=_about(caller.asked.method, route, call),
            lasts=not foreign_names(call.udf.name, canvas.bundle),
        )

    # -- what is there

    def _found(self, asked: Asked, plan: _Plan, cache: Cache) -> tuple[Head, Choice, bytes | None] | None:
        """The record, what is answered of it, and its body in the coding that was chosen, where there is need
        of one."""
        max_age = plan.terms.max_age
        if answers.may_be_known(asked):
            head = cache.head(plan.key, max_age)
            if head is None or answers.is_missing(head, plan.terms):
                return None
            choice = answers.choose(asked, head)
            if choice.status == 304 or (asked.method == "HEAD" and choice.coding is None):
                cache.count_hit()
                return head, choice, None
        stored = cache.stored(plan.key, max_age)
        if stored is None:
            return None
        head = stored.head
        if answers.is_missing(head, plan.terms):
            return None
        choice = answers.choose(asked, head)
        if choice.coding is None:
            return head, choice, stored.encoded.body
        coded = self._coder.at_once(stored, choice.coding)
        return None if coded is None else (head, choice, coded)

    def _fields(self, plan: _Plan, head: Head, choice: Choice, size: int, origin: str | None) -> bytes:
        """The fields of an answer that others may have, too."""
        cors = self._manners.cors_of_shared(origin)
        like = (choice if choice.span is None else choice._replace(span=(0, 0)), cors)
        form = plan.forms.get(like)
        if form is None or form.etag != head.etag or form.created != head.created:
            lasting = self._manners.dressed(answers.lasting_fields(head, plan.terms, choice, "hit"), cors)
            form = _Form(head.etag, head.created, written(lasting))
            self._texts += len(form.lasting) if plan.lasts else 0
            if self._texts > _TEXTS:  # a header may be as long as what a UDF prints
                self._plans.clear()
                self._texts = 0
            if len(plan.forms) >= _ANSWERS:
                plan.forms.clear()
            plan.forms[like] = form
        now = time.time()
        if choice.span is not None:
            return form.lasting + written(answers.passing_fields(head, plan.terms, choice, size, now))
        if size != form.size or not form.until - 1 <= now < form.until:
            form.passing = written(answers.passing_fields(head, plan.terms, choice, size, now))
            # Ages are whole seconds.
            form.size, form.until = size, now + (head.created + plan.terms.max_age - now) % 1
        return form.lasting + form.passing


def _about(method: str, route: str, call: Call) -> About:
    about: dict[str, object] = {"method": method, "route": route, "canvas": call.udf.canvas}
    about["udf"] = call.udf.name
    if call.tile is not None:
        about["tile"] = f"{call.tile.z}/{call.tile.x}/{call.tile.y}"
    return About(about)


class _Waits(Exception):
    """Something has to be waited for."""


def _now(work: Coroutine[Any, Any, _T]) -> _T:
    """What a coroutine returns that waits for nothing.

    :raises _Waits: when it would; it goes no further then.
    """
    try:
        awaited = work.send(None)
    except StopIteration as done:
        result: _T = done.value
        return result
    work.close()
    if awaited is not None:
        awaited.cancel()  # as the end of a task would: else what becomes of it is called never retrieved
    raise _Waits
