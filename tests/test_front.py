"""Stored results answered in front of the application: the same answers, no rule passed by."""

from __future__ import annotations

import asyncio
import gc
import shutil
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from weakref import ref

import httpx
import pytest
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from tileserver import front, settings
from tileserver.access import Access, Credentials
from tileserver.app import create_app, in_front_of
from tileserver.cache import Rule
from tileserver.executor import Answers
from tileserver.formats import named
from tileserver.front import Front
from tileserver.interest import Interest
from tileserver.protocol import Bundle, Encoded, Job

pytestmark = pytest.mark.anyio

FILES = {
    "city/tile.py": "import fused\n@fused.udf\ndef udf(bounds, n: int = 1):\n    return n\n",
    "city/data.py": "import fused\n@fused.udf\ndef udf(n: int = 1):\n    return n\n",
    "city/fresh.py": "import fused\n@fused.udf(cache_max_age=0)\ndef udf(n: int = 1):\n    return n\n",
    "team/data.py": "import fused\n@fused.udf\ndef udf(n: int = 1):\n    return n\n",
    "lock/data.py": "import fused\n@fused.udf\ndef udf(n: int = 1):\n    return n\n",
}
PASSCODE = {"authorization": "fused-canvas-passcode sesame"}


class Making:
    """An executor that answers with what it was asked for, and counts how often it was."""

    ready = True
    level = "off"

    def __init__(self) -> None:
        self.runs = 0
        self.meta: dict[str, Any] = {"stdout": "printed", "headers": {"x-own": "a"}}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        pass

    def stats(self) -> dict[str, Any]:
        return {}

    async def run(
        self, job: Job, bundle: Bundle, answers: Answers | None = None, interest: Interest | None = None
    ) -> Encoded:
        self.runs += 1
        form = named(job.formats[0] if job.formats else "json")
        body = f"{job.udf} {job.arguments} {job.tile} {job.options.scale}"
        return Encoded(f"{body}{job.style}".encode() * 100, form.media_type, time.time(), self.meta)


class Behind:
    """The application behind a front, and how often it was asked."""

    def __init__(self, app: ASGIApp) -> None:
        self.app, self.asked = app, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked += 1
        await self.app(scope, receive, send)


@dataclass
class Both:
    """One server in one process, by both of its doors."""

    workspace: Path
    access: Access
    tokens: Mapping[str, str]
    making: Making
    behind: Behind
    front: Front
    app: Starlette

    async def ask(
        self,
        path: str,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        *,
        whole: bool = False,
    ) -> httpx.Response:
        """Ask the front, or the ``whole`` application behind it."""
        app = self.behind.app if whole else self.front
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as web:
            web.headers.clear()
            return await web.request(method, path.format(**self.tokens), headers=headers)

    async def at_once(self, path: str, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """Ask the front for something that it must answer by itself."""
        before = self.behind.asked
        response = await self.ask(path, headers=headers)
        assert self.behind.asked == before, f"{path} reached the application"
        return response


@asynccontextmanager
async def both(workspace: Path, **flags: object) -> AsyncIterator[Both]:
    for name, text in FILES.items():
        (workspace / name).parent.mkdir(exist_ok=True)
        (workspace / name).write_text(text)
    access = Access(workspace / ".tileserver")
    tokens = {
        "city": access.share("city").token,
        "team": access.share("team", team=True).token,
        "lock": access.share("lock", passcode="sesame").token,
        "one": access.create_shared_token("city", "data").token,
        "bearer": (made := access.create_token("t"))[1],
        "bearer_id": made[0],
    }
    identity = access.identity_of(made[0])
    assert identity is not None
    tokens["session"] = access.mint_session(tokens["team"], 60, by=identity).token
    making = Making()
    app = create_app(settings.load(workspace, flags=flags, environ={}), executor=making)
    async with app.router.lifespan_context(app):
        door = in_front_of(app)
        behind = Behind(app)
        door.app = behind
        yield Both(workspace, access, tokens, making, behind, door, app)
    access.close()


TILE = "/{city}/tile/run/tiles/3/4/2"
CASES: dict[str, tuple[str, dict[str, str]]] = {
    "tile": (f"{TILE}.png", {}),
    "tile by format": (f"{TILE}?format=png", {}),
    "vector tile": (f"{TILE}.mvt", {}),
    "vector tile, gzip": (f"{TILE}.mvt", {"accept-encoding": "gzip"}),
    "scaled": (f"{TILE}@2x.png", {}),
    "data": ("/{city}/data.json?n=2", {}),
    "data, zstd": ("/{city}/data.json?n=2", {"accept-encoding": "gzip, deflate, br, zstd"}),
    "file": ("/{city}/data/run/file?format=csv", {}),
    "as a page": ("/{city}/data", {"accept": "text/html,*/*"}),
    "below the platform": ("/server/v1/realtime-shared/{city}/data/run/file?format=json", {}),
    "token of one UDF": ("/{one}.json", {}),
    "from another origin": (f"{TILE}.png", {"origin": "https://a.example"}),
    "part": (f"{TILE}.png", {"range": "bytes=5-20"}),
    "last part": (f"{TILE}.png", {"range": "bytes=-20"}),
    "part beyond": (f"{TILE}.png", {"range": "bytes=99999-"}),
    "several parts": (f"{TILE}.png", {"range": "bytes=0-1,5-6"}),
    "part of another": (f"{TILE}.png", {"range": "bytes=0-1", "if-range": '"other"'}),
    "part, gzip": ("/{city}/data.json?n=2", {"range": "bytes=0-1", "accept-encoding": "gzip"}),
    "anything new": (f"{TILE}.png", {"if-none-match": "*"}),
    "something new": (f"{TILE}.png", {"if-none-match": '"other", W/"another"'}),
    "match": (f"{TILE}.png", {"if-match": "*"}),
    "passcode": ("/{lock}/data.json", PASSCODE),
    "team": ("/{team}/data.json", {"authorization": "Bearer {bearer}"}),
    "service token": ("/{team}/data.json", {"authorization": "fused-service-token {bearer}"}),
    "session": ("/{team}/data.json?fused_session_token={session}", {}),
    "credential without need": ("/{city}/data.json", {"authorization": "Basic abc"}),
    "older version": (f"{TILE}.png?_v=abc", {}),
    "encoded": ("/{city}/%64ata.json?n=%32&+=1", {}),
}
PASSING = {"x-fused-request-id", "server-timing"}


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Both]:
    async with both(tmp_path) as doors:
        yield doors


def told(response: httpx.Response) -> tuple[int, dict[str, str], bytes]:
    """What two answers to one request have alike."""
    headers = {name: value for name, value in response.headers.items() if name not in PASSING}
    return response.status_code, headers, response.content


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("case", CASES)
async def test_both_doors_give_the_same_answer(served: Both, case: str, method: str) -> None:
    """Status, body, and header by header, for what is stored."""
    path, headers = CASES[case]
    headers = {name: value.format(**served.tokens) for name, value in headers.items()}
    full = {name: value for name, value in headers.items() if name in {"authorization", "accept"}}
    await served.ask(path, headers=full, whole=True)

    whole = await served.ask(path, method, headers, whole=True)
    asked = served.behind.asked
    fast = await served.ask(path, method, headers)

    assert served.behind.asked == asked
    assert told(fast) == told(whole)
    assert fast.headers["x-cache"] == "hit"
    assert list(times(fast)) == list(times(whole)) == ["access", "cache", "total"]
    assert len(fast.headers["x-fused-request-id"]) == 32


def times(response: httpx.Response) -> dict[str, str]:
    parts = (part.partition(";dur=") for part in response.headers["server-timing"].split(", "))
    return {name: time for name, _, time in parts}


@pytest.mark.parametrize("origin", ["https://a.example", "https://b.example", None])
async def test_both_doors_know_the_same_origins(tmp_path: Path, origin: str | None) -> None:
    """docs/settings.md, ``cors_origins``: an answer for one origin is none for another."""
    headers = {} if origin is None else {"origin": origin}
    async with both(tmp_path, cors_origins="https://a.example") as doors:
        await doors.ask(f"{TILE}.png", whole=True)
        whole = await doors.ask(f"{TILE}.png", headers=headers, whole=True)
        fast = [await doors.at_once(f"{TILE}.png", headers=headers) for _ in range(2)]

    assert told(fast[0]) == told(fast[1]) == told(whole)


async def test_a_current_version_may_be_kept_for_good(served: Both) -> None:
    """docs/http.md: an address with the revision in it, as long as that is the present one."""
    await served.ask(f"{TILE}.png")
    canvas = served.app.state.services.catalog.known("city")
    path = f"{TILE}.png?_v={canvas.udfs['tile'].revision}"

    assert "immutable" in (await served.at_once(path)).headers["cache-control"]
    (served.workspace / "city" / "tile.py").write_text(FILES["city/tile.py"] + "# edited\n")
    await until(served, path, lambda response: response.headers["x-cache"] == "miss")
    assert "immutable" not in (await served.at_once(path)).headers["cache-control"]


async def until(served: Both, path: str, seen: Callable[[httpx.Response], bool]) -> None:
    """Ask until an answer is as it should be; a second is what it may take."""
    end = time.monotonic() + 4
    while not seen(await served.ask(path)):
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


ELSEWHERE: dict[str, tuple[str, str, dict[str, str], int]] = {
    "not stored": ("GET", "/{city}/data.json?n=77", {}, 200),
    "never stored": ("GET", "/{city}/fresh.json", {}, 200),
    "asked for fresh": ("GET", "/{city}/data.json?cache=false", {}, 200),
    "unknown token": ("GET", "/fc_x/data.json", {}, 404),
    "unknown UDF": ("GET", "/{city}/nobody", {}, 404),
    "no route": ("GET", "/server/v1/realtime-shared{city}/data.json", {}, 404),
    "no tile": ("GET", "/{city}/tile/run/tiles/0/0/1", {}, 404),
    "bad parameter": ("GET", "/{city}/data.json?size=many", {}, 422),
    "foreign host": ("GET", "/{city}/data.json", {"host": "x.example"}, 400),
    "without credential": ("GET", "/{lock}/data.json", {}, 401),
    "another version": ("GET", "/{city}/data.json", {"if-match": '"other"'}, 412),
    "too deep": ("GET", "/{city}/data.json", {"fused-recursion": "9"}, 422),
    "method": ("DELETE", "/{city}/data.json", {}, 405),
    "page": ("GET", "/{city}/tile/map", {}, 200),
    "canvas": ("GET", "/{city}", {}, 200),
    "home": ("GET", "/", {}, 200),
}


@pytest.mark.parametrize("case", ELSEWHERE)
async def test_all_else_is_the_application_s(served: Both, case: str) -> None:
    """It gets the request unchanged, also where the same address has been answered in front of it."""
    method, path, headers, status = ELSEWHERE[case]
    await served.ask("/{city}/data.json")
    await served.at_once("/{city}/data.json")
    before = served.behind.asked

    response = await served.ask(path, method, headers)

    assert (response.status_code, served.behind.asked) == (status, before + 1)


async def test_a_header_that_is_sent_twice_is_the_application_s(served: Both) -> None:
    """Which of them counts is decided in one place."""
    await served.ask(f"{TILE}.png")
    twice = [("if-none-match", '"a"'), ("if-none-match", "*")]
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(served.front), base_url="http://localhost"
    ) as web:
        before = served.behind.asked
        response = await web.get(f"{TILE}.png".format(**served.tokens), headers=twice)

    assert (response.status_code, served.behind.asked) == (304, before + 1)


# -- access


@pytest.mark.parametrize("case", ["tile", "token of one UDF", "passcode", "team", "session"])
async def test_what_another_process_revokes_is_refused_at_once(served: Both, case: str) -> None:
    """docs/http.md: from the next request on, stored results included."""
    path, headers = CASES[case]
    headers = {name: value.format(**served.tokens) for name, value in headers.items()}
    for _ in range(2):
        assert (await served.ask(path, headers=headers)).status_code == 200
    other = Access(served.workspace / ".tileserver")
    revoke: dict[str, Callable[[], object]] = {
        "tile": lambda: other.unshare("city"),
        "token of one UDF": lambda: other.disable_shared_token(served.tokens["one"]),
        "passcode": lambda: other.change_share("lock", passcode="another"),
        "team": lambda: other.revoke(served.tokens["bearer_id"]),
        "session": lambda: other.revoke(served.tokens["bearer_id"]),
    }

    revoke[case]()

    assert (await served.ask(path, headers=headers)).status_code in {401, 403, 404}
    other.close()


async def test_what_ends_by_itself_is_refused(tmp_path: Path) -> None:
    """docs/http.md: an expired share, an expired access token, a session at its end."""
    now = time.time()
    access = Access(tmp_path / ".tileserver", clock=lambda: now)
    token = access.share("city", expires=60).token
    held = access.grant(token, Credentials())
    version = access.version()

    assert access.holds(held, version)
    now += 61
    assert not access.holds(held, version)
    access.close()


async def test_a_wrong_passcode_counts_once(served: Both) -> None:
    """docs/http.md: ten a minute; being looked at in two places costs nobody two of them."""
    right = await served.ask("/{lock}/data.json", headers=PASSCODE)
    wrong = {"authorization": "fused-canvas-passcode no"}
    statuses = [(await served.ask("/{lock}/data.json", headers=wrong)).status_code for _ in range(11)]

    assert right.status_code == 200
    assert statuses == [401] * 10 + [429]
    assert (await served.ask("/{lock}/data.json", headers=PASSCODE)).status_code == 429


async def test_a_credential_opens_nothing_for_others(served: Both) -> None:
    """What is remembered of a request with one is not found by a request without."""
    assert (await served.ask("/{lock}/data.json", headers=PASSCODE)).status_code == 200
    assert (await served.at_once("/{lock}/data.json", headers=PASSCODE)).status_code == 200

    assert (await served.ask("/{lock}/data.json")).status_code == 401
    assert (
        await served.ask("/{lock}/data.json", headers={"authorization": "fused-canvas-passcode"})
    ).status_code == 401


# -- edits, records, bounds


async def test_an_edit_is_another_result(served: Both) -> None:
    """docs/workspace.md: within a second."""
    await served.ask("/{city}/data.json")
    await served.at_once("/{city}/data.json")
    (served.workspace / "city" / "data.py").write_text(FILES["city/data.py"].replace("1", "3"))

    await until(served, "/{city}/data.json", lambda response: response.headers["x-cache"] == "miss")


async def test_a_style_is_settled_by_the_sample_that_is_stored_now(served: Both) -> None:
    """docs/styles.md: what the data fills is filled again when the sample is made again."""
    path = f"{TILE}.png?style=auto"
    served.making.meta = {"summary": {"kind": {"values": ["a", "b"]}}}
    before = (await served.ask(path)).content
    assert (await served.at_once(path)).content == before
    services = served.app.state.services
    await services.cache.forget(Rule(canvas="city", zooms=(0, 0)))
    served.making.meta = {"summary": {"height": {"range": [0, 9]}}}

    after = (await served.ask(path)).content

    assert after != before
    assert (await served.at_once(path)).content == after


async def test_a_body_where_none_may_be_is_not_sent(served: Both) -> None:
    """RFC 9110, section 15.3.5: what a worker says is one would be the beginning of the next answer."""
    served.making.meta = {"status": 204}
    path = "/{city}/data?n=9"

    made, stored = await served.ask(path), await served.at_once(path)

    assert made.status_code == stored.status_code == 204
    assert made.content == stored.content == b""
    assert "content-length" not in stored.headers


async def test_a_canvas_that_is_gone_leaves_nothing_in_the_log(served: Both) -> None:
    """Looking for it in front of the application is no error that nobody has dealt with."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    await served.ask("/{city}/data.json")
    shutil.rmtree(served.workspace / "city")

    await until(served, "/{city}/data.json", lambda response: response.status_code == 404)
    assert (await served.ask("/{city}/data.json")).status_code == 404
    gc.collect()

    assert told == []


async def test_nothing_new_is_told_by_the_head_alone(tmp_path: Path) -> None:
    """docs/http.md: 304 without the body, on disk, too. A body that is damaged is never sent."""
    async with both(tmp_path, memory_cache=0) as doors:
        etag = (await doors.ask(f"{TILE}.png")).headers["etag"]
        cache = doors.app.state.services.cache
        await until(doors, f"{TILE}.png", lambda _: cache.stats()["DiskTier"]["queued"] == 0)
        with sqlite3.connect(tmp_path / ".tileserver/cache/results.db") as database:
            database.execute(
                "UPDATE entries SET record = CAST(substr(record, 1, length(record) - 1) || x'00' AS BLOB)"
            )
        database.close()

        known = await doors.at_once(f"{TILE}.png", {"if-none-match": etag})
        runs = doors.making.runs
        whole = await doors.ask(f"{TILE}.png", headers={"if-none-match": '"other"'})

    assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", etag)
    assert "content-length" not in known.headers
    assert (whole.status_code, whole.headers["x-cache"], doors.making.runs) == (200, "miss", runs + 1)


async def test_what_is_remembered_is_bounded(served: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked for, the front holds a number of requests, and none that is long."""
    monkeypatch.setattr(front, "_PLANS", 4)
    for n in range(10):
        await served.ask(f"/{{city}}/data.json?n={n}")
    await served.ask("/{city}/data.json?other=" + "x" * 5000)
    for _ in range(2):
        for n in range(10):
            assert (await served.at_once(f"/{{city}}/data.json?n={n}")).status_code == 200

    assert len(served.front._plans) == 4
    assert max(len(target) for target, *_ in served.front._plans) < 100


async def test_what_is_remembered_of_answers_is_bounded(
    served: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Headers are as long as what a UDF prints; however many addresses one result has, few are held."""
    monkeypatch.setattr(front, "_TEXTS", 50_000)
    served.making.meta = {"stdout": "x" * 7000}
    for n in range(20):
        assert (await served.ask(f"/{{city}}/data.json?_v={n}")).status_code == 200

    forms = [form for plan in served.front._plans.values() for form in plan.forms.values()]
    assert 0 < sum(len(form.lasting) for form in forms) <= 50_000 + 9000


async def test_what_a_canvas_was_is_not_kept(served: Both) -> None:
    """Nobody may ever ask again for what was asked of it, and sources of hundreds of UDFs are large."""
    for n in range(5):
        await served.ask(f"/{{city}}/data.json?n={n}")
    catalog = served.app.state.services.catalog
    before = ref(catalog.known("city"))

    (served.workspace / "city" / "data.py").write_text(FILES["city/data.py"].replace("1", "3"))
    await until(served, "/{city}/data.json?n=9", lambda _: catalog.known("city") is not before())
    gc.collect()

    assert before() is None


async def test_a_connection_is_no_other_caller(served: Both) -> None:
    """What is remembered of a caller with a credential holds on their next connection, too."""
    for port in range(5):
        transport = httpx.ASGITransport(served.front, client=("127.0.0.1", port))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as web:
            path = "/{lock}/data.json".format(**served.tokens)
            assert (await web.get(path, headers=PASSCODE)).status_code == 200

    assert len(served.front._plans) == 1


async def test_a_line_of_the_log_is_the_same_by_both_doors(served: Both) -> None:
    """docs/http.md: canvas, UDF and outcome, and the id that the caller got."""
    lines: list[Any] = []
    served.front._requests._write = lambda found, _: lines.extend(found)
    await served.ask(f"{TILE}.png")
    whole = await served.ask(f"{TILE}.png", whole=True)
    fast = await served.at_once(f"{TILE}.png")
    await asyncio.to_thread(served.front._requests.close)

    one, other = ({**line.about.fields, **line._asdict(), "about": None} for line in lines[-2:])
    assert 0 <= other.pop("time") - one.pop("time") < 10
    assert one.pop("id") == whole.headers["x-fused-request-id"]
    assert other.pop("id") == fast.headers["x-fused-request-id"]
    assert isinstance(one.pop("ms"), float)
    assert isinstance(other.pop("ms"), float)
    assert list(one.items()) == list(other.items())
    assert one["tile"] == "3/4/2"
