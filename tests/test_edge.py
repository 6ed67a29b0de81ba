"""What every answer carries, whatever made it: Host, CORS, safety headers, timings, true lengths."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests.conftest import Server, serving
from tests.test_statuses import Raising
from tileserver import settings
from tileserver.app import create_app
from tileserver.edge import Edge, Manners
from tileserver.executor import Answers
from tileserver.interest import Interest
from tileserver.protocol import Bundle, Encoded, Job
from tileserver.requestlog import Line, RequestLog

FILES = {
    "city/hello.py": "import fused\n@fused.udf\ndef udf(name: str = 'world', n: int = 1):\n"
    "    return {'hello': name, 'n': n, 'long': 'x' * 2000}\n",
    "city/red.py": "import fused\nimport numpy as np\n@fused.udf\ndef udf(bounds: fused.types.Bounds):\n"
    "    a = np.zeros((3, 256, 256), 'uint8'); a[0] = 255\n    return a\n",
    "city/boom.py": "import fused\n@fused.udf\ndef udf(n: int = 1):\n    raise ValueError('boom')\n",
}
TILE = "/{city}/red/run/tiles/3/4/2.png"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that answers for another name than loopback's, too."""
    hosts = "127.0.0.1,tiles.example.org,*.example.net"
    with serving(tmp_path_factory.mktemp("edge"), FILES, "--allowed-hosts", hosts) as running:
        yield running


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("hello")(scope, receive, send)


def edged(app: ASGIApp, origins: tuple[str, ...] = ("*",)) -> Edge:
    """An application behind an edge that answers for the host ``here``."""
    manners = Manners(allows_host=lambda host: host == "here", cors_origins=origins)
    return Edge(app, manners=manners, requests=RequestLog(lambda *_: None), observe=lambda *_: None)


async def ask(
    app: ASGIApp = hello,
    *,
    method: str = "GET",
    path: str = "/fc_a/b",
    headers: Mapping[str, str] | None = None,
    origins: tuple[str, ...] = ("*",),
) -> httpx.Response:
    """Ask an application behind an edge."""
    edge = edged(app, origins)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(edge), base_url="http://here") as client:
        return await client.request(method, path, headers=headers)


# -- Host


@pytest.mark.parametrize(
    "host", ["tiles.example.org", "TILES.example.org:443", "a.b.example.net", "127.0.0.1"]
)
def test_an_allowed_host_is_answered(server: Server, host: str) -> None:
    """docs/settings.md: names count without port and case; documents then name that host."""
    document = server.get("/{city}/red/run/tiles.json", headers={"host": host}).json()

    assert document["tiles"][0].startswith(f"http://{host}/fc_")


@pytest.mark.parametrize("path", ["/", "/healthz", "/{city}/hello", "/static/page.css", "/server/v1/x"])
@pytest.mark.parametrize("host", ["localhost", "example.org", "example.net", "127.0.0.1.example.org", "a b"])
def test_a_foreign_host_is_refused_everywhere(server: Server, path: str, host: str) -> None:
    """docs/settings.md: 400 before anything else is looked at; the header is not repeated."""
    response = server.get(path, headers={"host": host})

    assert response.status_code == 400
    assert "allowed_hosts" in response.json()["detail"]
    assert response.headers["x-fused-error"] == response.json()["detail"]
    assert response.headers["cache-control"] == "no-store"
    assert host not in response.text


def test_a_request_without_a_host_is_refused(server: Server) -> None:
    """HTTP/1.0 allows one; nothing could be said about where it came to."""
    address = httpx.URL(server.url)
    with socket.create_connection((address.host, address.port or 80), timeout=10) as connection:
        connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        answer = connection.recv(4096)

    assert answer.split(b"\r\n")[0].split()[1] == b"400"


# -- CORS


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("origins", "origin", "allowed"),
    [
        (("*",), "https://a.example", "*"),
        (("*",), None, "*"),
        (("https://a.example", "https://b.example"), "https://b.example", "https://b.example"),
        (("https://a.example",), "https://b.example", None),
        (("https://a.example",), "null", None),
        (("https://a.example",), None, None),
        ((), "https://a.example", None),
    ],
)
async def test_which_origins_may_read(
    origins: tuple[str, ...], origin: str | None, allowed: str | None
) -> None:
    """``cors_origins``: never with credentials, and never another origin than the asking one."""
    response = await ask(headers={"origin": origin} if origin else {}, origins=origins)

    assert response.headers.get("access-control-allow-origin") == allowed
    assert "access-control-allow-credentials" not in response.headers
    assert ("access-control-expose-headers" in response.headers) is (allowed is not None)
    assert ("Origin" in response.headers.get("vary", "")) is (allowed not in (None, "*"))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "readable"),
    [
        ("/fc_a/b", True),
        ("/server/v1/realtime-shared/fc_a/b", True),
        ("/server/v1/session-token/by-access-token/fc_a", False),
        ("/server/v1/run", False),
    ],
)
async def test_only_shared_addresses_are_for_other_origins(path: str, readable: bool) -> None:
    """docs/settings.md: none elsewhere, preflight included."""
    preflight = {"origin": "https://a.example", "access-control-request-method": "GET"}
    answers = [await ask(path=path), await ask(path=path, method="OPTIONS", headers=preflight)]

    assert ["access-control-allow-origin" in answer.headers for answer in answers] == [readable] * 2
    assert ("access-control-allow-methods" in answers[1].headers) is readable


@pytest.mark.parametrize(
    "header", ["Range", "If-Range", "If-None-Match", "If-Match", "Authorization", "X-Fused-Cache-Disable"]
)
def test_a_browser_may_send_the_headers_that_clients_send(server: Server, header: str) -> None:
    """Contract, section 3: a preflight request is answered without token or run, for GET and HEAD."""
    asked = {
        "origin": "https://a.example",
        "access-control-request-method": "GET",
        "access-control-request-headers": header.lower(),
    }
    response = server.get("/fc_unknown/hello", "OPTIONS", headers=asked)

    assert (response.status_code, response.content) == (204, b"")
    assert header in response.headers["access-control-allow-headers"].split(", ")
    assert {"GET", "HEAD"} <= set(response.headers["access-control-allow-methods"].split(", "))
    assert "POST" not in response.headers["access-control-allow-methods"]
    assert response.headers["access-control-allow-origin"] == "*"


@pytest.mark.anyio
async def test_a_preflight_request_of_a_stranger_gets_no_leave() -> None:
    """It reaches the application, which says what it allows by itself."""
    asked = {"origin": "https://b.example", "access-control-request-method": "GET"}
    response = await ask(method="OPTIONS", headers=asked, origins=("https://a.example",))

    assert not [name for name in response.headers if name.startswith("access-control-")]


# -- safety headers, on every kind of answer


KINDS: dict[str, tuple[str, str, dict[str, str], int]] = {
    "data": ("GET", "/{city}/hello", {}, 200),
    "tile": ("GET", TILE, {}, 200),
    "tilejson": ("GET", "/{city}/red/run/tiles.json", {}, 200),
    "canvas": ("GET", "/{city}", {}, 200),
    "canvas page": ("GET", "/{city}", {"accept": "text/html"}, 200),
    "home": ("GET", "/", {}, 200),
    "static": ("GET", "/static/page.css", {}, 200),
    "ready": ("GET", "/readyz", {}, 200),
    "options": ("OPTIONS", "/{city}/hello", {}, 204),
    "preflight": ("OPTIONS", "/{city}/hello", {"access-control-request-method": "GET", "origin": "x"}, 204),
    "part": ("GET", TILE, {"range": "bytes=0-9"}, 206),
    "not modified": ("GET", TILE, {"if-none-match": "*"}, 304),
    "foreign host": ("GET", "/{city}/hello", {"host": "x.example"}, 400),
    "unknown token": ("GET", "/fc_x/hello", {}, 404),
    "unknown UDF": ("GET", "/{city}/nobody", {}, 404),
    "no tile": ("GET", "/{city}/red/run/tiles/1/2/3", {}, 404),
    "no file": ("GET", "/static/nothing.css", {}, 404),
    "method": ("POST", "/{city}/hello", {}, 405),
    "method of a page": ("DELETE", "/healthz", {}, 405),
    "range": ("GET", TILE, {"range": "bytes=999999-"}, 416),
    "bad request": ("GET", "/{city}/hello.docx", {}, 422),
    "bad parameter": ("GET", "/{city}/hello?n=many", {}, 422),
    "failed UDF": ("GET", "/{city}/boom", {}, 422),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_answer_carries_the_common_headers(server: Server, kind: str) -> None:
    """docs/http.md; what makes an answer differ does not take them away."""
    method, path, headers, status = KINDS[kind]
    response = server.get(path, method, headers=headers)

    assert response.status_code == status
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["access-control-allow-origin"] == "*"
    exposed = set(response.headers["access-control-expose-headers"].split(", "))
    assert exposed >= {"ETag", "Content-Length", "Content-Range", "Server-Timing", "x-cache"}
    assert exposed >= {"x-fused-metadata", "x-fused-cached", "x-fused-error", "x-fused-request-id"}
    assert re.fullmatch("[0-9a-f]{32}", response.headers["x-fused-request-id"])
    assert timings(response)["total"] > 0
    assert not {"server", "x-powered-by", "set-cookie"} & response.headers.keys()


@pytest.mark.parametrize("kind", ["data", "tile", "part", "not modified", "range", "failed UDF"])
def test_whatever_a_udf_made_is_sandboxed(server: Server, kind: str) -> None:
    """docs/http.md: opened by itself, it shares no origin with our pages."""
    method, path, headers, _ = KINDS[kind]
    policy = server.get(path, method, headers=headers).headers["content-security-policy"]

    assert policy.split()[0] == "sandbox"
    assert "allow-same-origin" not in policy


@pytest.mark.anyio
async def test_headers_of_the_edge_replace_those_of_a_udf() -> None:
    """A ``Response`` of a UDF can't loosen them."""
    loose = {"X-Content-Type-Options": "none", "Referrer-Policy": "unsafe-url", "Server-Timing": "a;dur=1"}
    loose |= {"Access-Control-Allow-Origin": "https://a.example", "X-Fused-Request-Id": "mine"}
    response = await ask(PlainTextResponse("x", headers=loose))

    assert response.headers.get_list("x-content-type-options") == ["nosniff"]
    assert response.headers.get_list("referrer-policy") == ["no-referrer"]
    assert response.headers.get_list("access-control-allow-origin") == ["*"]
    assert response.headers["x-fused-request-id"] != "mine"
    assert list(timings(response)) == ["total"]


# -- timings


def timings(response: httpx.Response) -> dict[str, float]:
    """Server-Timing: names and milliseconds, as browsers read them."""
    parts = [re.fullmatch(r"(\w+);dur=(\d+\.\d+)", p) for p in response.headers["server-timing"].split(", ")]
    return {part[1]: float(part[2]) for part in parts if part}


@pytest.mark.parametrize(
    ("path", "stages"),
    [
        ("/{city}/hello?n=7", ["access", "cache", "queue", "run", "encode", "total"]),
        ("/{city}/hello?n=7", ["access", "cache", "total"]),
        ("/{city}/nobody", ["access", "total"]),
        ("/fc_unknown/x", ["total"]),
    ],
    ids=["run", "hit", "refused after access", "refused"],
)
def test_timings_name_the_stages_that_were_passed(server: Server, path: str, stages: list[str]) -> None:
    """docs/http.md: milliseconds, none longer than the whole."""
    found = timings(server.get(path))

    assert list(found) == stages
    assert all(0 <= took <= found["total"] for took in found.values())


# -- what nobody expected


async def broken(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("secret of the server")


@pytest.mark.anyio
@pytest.mark.parametrize("headers", [{}, {"accept": "text/html"}])
async def test_an_internal_error_tells_nothing(
    caplog: pytest.LogCaptureFixture, headers: dict[str, str]
) -> None:
    """docs/http.md: 500 with the common headers; the log has the rest, under the id that the caller got."""
    response = await ask(broken, headers=headers)

    assert response.status_code == 500
    assert response.json() == {"detail": "internal server error"}
    assert response.headers["x-fused-error"] == "internal server error"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["access-control-allow-origin"] == "*"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "secret" not in str(response.headers)
    assert f"internal error in request {response.headers['x-fused-request-id']}" in caplog.text
    assert "secret of the server" in caplog.text


@pytest.mark.anyio
async def test_an_answer_that_breaks_off_is_not_begun_again() -> None:
    """Nothing can be said any more once a status has been sent."""

    async def half(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError

    sent: list[str] = []

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message["type"])

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"here")]}
    await edged(half, ())(scope, receive, send)

    assert sent == ["http.response.start"]


class Broken(Raising):
    """An executor with a bug, whose message holds a path of this machine."""

    def __init__(self) -> None:
        super().__init__(RuntimeError())

    async def run(
        self, job: Job, bundle: Bundle, answers: Answers | None = None, interest: Interest | None = None
    ) -> Encoded:
        raise RuntimeError(f"{bundle.folder} is not what it was")


@pytest.mark.anyio
@pytest.mark.parametrize("tail", ["hello", "red/run/tiles/0/0/0.png", "red/run/tiles.json", "hello/map"])
async def test_a_bug_anywhere_is_an_internal_error(tmp_path: Path, tail: str) -> None:
    """Through the whole application: no path, no class, no traceback of ours, even for who reads code."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    app = create_app(
        settings.load(tmp_path, flags={}, environ={}), executor=Broken(), fixed_tokens={"fc_a": "city"}
    )
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client,
    ):
        response = await client.get(f"/fc_a/{tail}")

    assert response.status_code == 500
    assert response.json() == {"detail": "internal server error"}
    assert "x-fused-metadata" not in response.headers
    assert str(tmp_path) not in str(response.headers)


@pytest.mark.anyio
async def test_a_line_has_the_id_that_the_caller_got() -> None:
    """So that a report by a user can be found."""
    lines: list[Line] = []
    requests = RequestLog(lambda found, _: lines.extend(found))
    manners = Manners(allows_host=lambda host: host == "here", cors_origins=())
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(
            Edge(hello, manners=manners, requests=requests, observe=lambda *_: None)
        ),
        base_url="http://here",
    ) as client:
        response = await client.get("/fc_a/b")
    requests.close()

    (line,) = lines
    assert line.id == response.headers["x-fused-request-id"]


# -- HEAD and Range


VOLATILE = {"date", "server-timing", "x-fused-request-id", "x-cache", "x-fused-cached"}
VOLATILE |= {"content-security-policy"}  # on pages, with another nonce every time


@pytest.mark.parametrize("coding", ["identity", "gzip"])
@pytest.mark.parametrize(
    "kind", [kind for kind in KINDS if KINDS[kind][0] == "GET" and kind not in {"static", "part", "range"}]
)
def test_head_has_the_headers_of_get(server: Server, kind: str, coding: str) -> None:
    """docs/http.md, on every kind of answer: the true length, and no body."""
    _, path, headers, status = KINDS[kind]
    url = f"{server.url}{path.replace('{city}', server.tokens['city'])}"
    with httpx.Client(headers={**headers, "accept-encoding": coding}, timeout=30) as client:
        with client.stream("GET", url) as get:
            length = len(b"".join(get.iter_raw()))
        head = client.head(url)

    assert (get.status_code, head.status_code, head.content) == (status, status, b"")
    assert {name: value for name, value in head.headers.items() if name not in VOLATILE} == {
        name: value for name, value in get.headers.items() if name not in VOLATILE
    }
    assert status == 304 or int(head.headers["content-length"]) == length


@pytest.mark.parametrize(
    ("asked", "part"),
    [("bytes=0-99", slice(0, 100)), ("bytes=-7", slice(-7, None)), ("bytes=5-", slice(5, None))],
)
def test_a_part_says_where_it_belongs(server: Server, asked: str, part: slice) -> None:
    """RFC 9110, 14.4: Content-Range, its own length, the validator of the whole."""
    whole = server.get(TILE)
    response = server.get(TILE, headers={"range": asked})
    size = len(whole.content)
    first, last, _ = part.indices(size)

    assert response.content == whole.content[part]
    assert response.headers["content-range"] == f"bytes {first}-{last - 1}/{size}"
    assert int(response.headers["content-length"]) == len(response.content)
    assert response.headers["etag"] == whole.headers["etag"]
    assert whole.headers["accept-ranges"] == "bytes"


def test_a_part_of_another_version_is_not_given(server: Server) -> None:
    """RFC 9110, 13.1.5, ``If-Range``: the whole, when what the client has is something else."""
    etag = server.get(TILE).headers["etag"]
    statuses = {
        condition: server.get(TILE, headers={"range": "bytes=0-9", "if-range": condition}).status_code
        for condition in (etag, '"other"', f"W/{etag}", "Wed, 21 Oct 2015 07:28:00 GMT")
    }

    assert list(statuses.values()) == [206, 200, 200, 200]


def test_a_compressed_answer_has_parts_of_the_plain_one(server: Server) -> None:
    """docs/http.md: a part is never content-encoded, also where the client would take that."""
    plain = server.get("/{city}/hello", headers={"accept-encoding": "identity"})
    part = server.get("/{city}/hello", headers={"accept-encoding": "gzip", "range": "bytes=2-20"})

    assert (part.status_code, part.content) == (206, plain.content[2:21])
    assert part.headers["etag"] == plain.headers["etag"]
