"""Requests at the edges of what there is to ask: limits, encodings, addresses that point elsewhere, and names
that would be something else in a document. Sent as they are, byte by byte.
"""

from __future__ import annotations

import html
import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from html.parser import HTMLParser
from urllib.parse import quote, urlsplit

import httpx
import pytest
from lxml import etree

from tests.conftest import Server, serving
from tests.counting import runs

HOSTILE = "\"'><script>alert(1)</script>]]>&lt;\u2028\u202e\x0b<!--"
NAME = "a\"'&<b onload=x> {z} %41"

FILES = {
    "city/canvas.toml": f"title = {json.dumps(HOSTILE)}\ndescription = {json.dumps(HOSTILE)}\n"
    f"[udf.{json.dumps(NAME)}]\nattribution = {json.dumps(HOSTILE)}\n",
    f"city/{NAME}.py": f"import fused, numpy as np\n@fused.udf\ndef udf(bounds: fused.types.Bounds = None,"
    f" text: str = {HOSTILE!r}):\n    {HOSTILE!r}\n    return np.full((3, 256, 256), 200, 'uint8')\n",
    "city/told.py": "import fused\n@fused.udf\ndef udf(**kwargs):\n    return kwargs\n",
    "city/red.py": "import fused, numpy as np\n@fused.udf\ndef udf(bounds: fused.types.Bounds = None):\n"
    "    return np.full((3, 256, 256), 200, 'uint8')\n",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    workspace = tmp_path_factory.mktemp("hostile")
    (workspace / "city").mkdir()
    # Of a name that is no UTF-8, where the file system takes it.
    with open(os.fsencode(workspace / "city") + b"/bad\xff.py", "w") as file:
        file.write("import fused\n@fused.udf\ndef udf(bounds: fused.types.Bounds = None):\n    return None\n")
    with serving(workspace, FILES) as running:
        yield running


def send(server: Server, target: str | bytes, method: str = "GET", **headers: str) -> httpx.Response:
    """Ask for a target exactly as it is written; ``{city}`` in it stands for the token."""
    written = target if isinstance(target, bytes) else target.encode()
    written = written.replace(b"{city}", server.tokens["city"].encode())
    with httpx.Client(timeout=30) as client:
        return client.request(method, server.url, headers=headers, extensions={"target": written})


def refused(response: httpx.Response, *statuses: int) -> str:
    """The message of an error: JSON, kept nowhere, with everything that every answer carries."""
    assert response.status_code in statuses, (response.status_code, response.text[:300])
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["x-fused-request-id"]
    return str(response.json()["detail"])


# -- limits


def test_parameters_by_the_thousand(server: Server) -> None:
    """docs/http.md: 2,000 are read, one more is refused with the limit, and nothing runs."""
    most = "&".join(f"p{number}={number}" for number in range(2000))
    before = runs(server.url)

    assert len(send(server, f"/{{city}}/told?{most}").json()) == 2000
    assert "2000" in refused(send(server, f"/{{city}}/told?{most}&one=more"), 422)
    for empty in ("&" * 30_000, "=&" * 15_000, "a&" * 20_000):
        response = send(server, f"/{{city}}/told?{empty}")
        assert response.status_code in {200, 422}
    assert runs(server.url) <= before + 4


@pytest.mark.parametrize("text", ["[" * 20_000, '{"a":' * 9_000, "1" * 40_000, '"' * 30_000, "[1," * 15_000])
def test_deep_and_long_values_are_text_or_refused(server: Server, text: str) -> None:
    """What a parser of JSON would fall over in is an argument like others."""
    response = send(server, f"/{{city}}/told?a={quote(text)[:60_000]}")

    assert response.status_code in {200, 422}


@pytest.mark.parametrize(
    "query",
    [
        *(
            "size=0",
            "size=-1",
            "size=99999",
            "size=1e3",
            "size=%D9%A3",
            "size=%EF%BC%91",
            "size=+1",
            "size=1_0",
        ),
        *("buffer=-1", "buffer=1e3", "buffer=4097", "extent=0", "extent=-1", "extent=%C2%B2"),
        *("rescale=1", "rescale=nan,nan", "rescale=2,1", "rescale=0,inf", "rescale=,", "rescale=0,1,2"),
        *("resampling=exec", "nodata=x", "format=..%2f..", "format=png%00", "format=%0d%0aa:b"),
        *(
            "cache_max_age=-1",
            "cache_max_age=1e9d",
            "cache_max_age=%D9%A3d",
            "cache_max_age=nan",
            "colormap=../x",
        ),
    ],
)
def test_render_options_have_ranges(server: Server, query: str) -> None:
    """docs/http.md: 422 that names the parameter; nothing has run."""
    before = runs(server.url)
    message = refused(send(server, f"/{{city}}/red/run/tiles/3/1/1?{query}"), 422)

    assert query.partition("=")[0] in message
    assert runs(server.url) <= before + (query.startswith(("colormap", "nodata")))


# -- encodings


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/{city}/red%00",
            "/{city}/%00",
            "/{city}%00/red",
            "/%00",
            "/{city}/red%00.png",
            "/{city}/..%00/red",
        ),
        *(
            "/{city}/..",
            "/{city}/../red",
            "/{city}/%2e%2e/red",
            "/{city}/..%2fred",
            "/{city}/..%2f..%2fetc%2fpasswd",
        ),
        *(
            "/{city}/%2fetc%2fpasswd",
            "/{city}/red%2f..",
            "/{city}/red/run/tiles/../tiles/0/0/0",
            "/{city}/red/./run",
        ),
        *(
            "/{city}/.",
            "/{city}//red",
            "/{city}/red//run",
            "/../{city}/red",
            "/static/../app.py",
            "/static/%2e%2e/app.py",
        ),
        *("/static/..%2fapp.py", "/static/%2fetc%2fpasswd", "/static//etc/passwd", "/static/..%5capp.py"),
        *(
            "/{city}/canvas.toml",
            "/{city}/.tileserver",
            "/.tileserver/database",
            "/{city}/red.py",
            "/{city}/red%20",
        ),
        *(
            "/{city}/%C3%28",
            "/{city}/%ED%A0%80",
            "/{city}/%FF",
            "/{city}/r%65d%2",
            "/{city}/%",
            "/{city}/RED",
        ),
        *(
            "/{city};a=b/red",
            "/{city}/red;a=b",
            "/fc_%00",
            "/fsh_%2e%2e",
            "/UDF_..",
            "/UDF_%2fred",
            "/fc_/../x",
        ),
        *("/fc_..%2f..%2fcity/red", "/fc_team/../city", "/fc_team/..%2fcity/red", "/fc_team/%00/red"),
    ],
)
def test_a_path_leads_to_what_it_names_or_nowhere(server: Server, path: str) -> None:
    """Nothing is unfolded, decoded twice or taken for a file; no answer shows one, and nothing runs."""
    before = runs(server.url)
    response = send(server, path)

    assert response.status_code in {404, 422}
    for words in ("root:", "import ", "SQLite", "[udf."):
        assert words not in response.text
    assert runs(server.url) == before


@pytest.mark.parametrize(
    "query", ["a=%FF", "a=%C3%28", "a=%ED%A0%80", "%FF=a", "a=%00", "a=%", "a=%zz", "%00=%00"]
)
def test_bytes_that_are_no_text_are_marked(server: Server, query: str) -> None:
    """A query is UTF-8; what isn't is replaced or refused, and is never the server's fault."""
    response = send(server, f"/{{city}}/told?{query}")

    assert response.status_code in {200, 422}
    assert response.status_code == 422 or all(isinstance(text, str) for text in response.json().values())


# -- addresses that point elsewhere

STRANGERS = [
    "evil.example",
    "127.0.0.1.evil.example",
    "evil.example:80",
    "localhost@evil.example",
    "localhost evil",
    "localhost,evil.example",
    "localhost/evil",
    "localhost#",
    "localhost?",
    "[::1",
    "localhost:port",
    "localhost\\evil.example",
    "",
    "127.0.0.1:",
]
DOCUMENTS = [
    "/{city}/red/run/tiles.json",
    "/{city}.wmts.xml",
    "/{city}.api.json",
    "/{city}",
    "/{city}/red/map",
]


def urls_of(response: httpx.Response) -> set[str]:
    """The hosts of every absolute URL in an answer, other than those that name a namespace or a schema."""
    found = re.findall(r"https?://[^\s\"'<>\\)]+", response.text)
    public = {"www.opengis.net", "schemas.opengis.net", "www.w3.org"}
    return {urlsplit(url).netloc for url in found} - public


@pytest.mark.parametrize("path", DOCUMENTS)
def test_absolute_urls_are_of_our_host(server: Server, path: str) -> None:
    """Whatever else a request says of where it was sent."""
    own = urlsplit(server.url).netloc
    lies = {
        "X-Forwarded-Host": "evil.example",
        "X-Forwarded-Proto": "gopher",
        "X-Forwarded-Prefix": "//evil.example",
        "X-Original-URL": "//evil.example/",
        "X-Rewrite-URL": "/evil",
        "Forwarded": "host=evil.example;proto=https",
        "X-Host": "evil.example",
        "Origin": "https://evil.example",
        "Referer": "https://evil.example/",
    }
    for headers in ({}, lies):
        response = send(server, path, **headers)
        assert response.status_code == 200
        assert urls_of(response) <= {own}
        assert "evil" not in response.text


@pytest.mark.parametrize("host", STRANGERS)
@pytest.mark.parametrize("path", ["/{city}/red/run/tiles.json", "/{city}.wmts.xml", "/healthz", "/metrics"])
def test_another_host_has_no_answer(server: Server, path: str, host: str) -> None:
    """docs/settings.md, ``allowed_hosts``: 400, before anything is looked at."""
    target = path.replace("{city}", server.tokens["city"])
    head = raw(server, f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())

    if host == "127.0.0.1:":
        assert head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 400"))
    else:
        assert head.startswith(b"HTTP/1.1 400")
    assert b"evil" not in head


@pytest.mark.parametrize(
    "target",
    ["http://evil.example/{city}/red/run/tiles.json", "//evil.example/{city}", "evil.example:443", "*"],
)
@pytest.mark.parametrize("method", ["GET", "CONNECT", "OPTIONS"])
def test_a_target_with_a_host_changes_nothing(server: Server, target: str, method: str) -> None:
    """RFC 9112, 3.2: no proxy, no tunnel, and no URL of the host that the target names."""
    written = target.replace("{city}", server.tokens["city"])
    own = urlsplit(server.url).netloc
    head = raw(server, f"{method} {written} HTTP/1.1\r\nHost: {own}\r\nConnection: close\r\n\r\n".encode())

    assert re.match(rb"HTTP/1.1 (200|204|400|404|405|422) ", head)
    assert b"evil.example/fc_" not in head


def raw(server: Server, request: bytes) -> bytes:
    parts = urlsplit(server.url)
    with closing(socket.create_connection((parts.hostname, parts.port), timeout=20)) as connection:
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


# -- what is echoed


class Elements(HTMLParser):
    """The elements of a page, and attributes that would run something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.handlers: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


@pytest.mark.parametrize("path", DOCUMENTS)
def test_names_and_titles_stay_text_in_documents(server: Server, path: str) -> None:
    """XML, JSON and HTML that parse, with the hostile words whole in them, and nothing of theirs."""
    path = path.replace("/red", f"/{quote(NAME, safe='')}")
    response = send(server, path, accept="text/html" if path.endswith(("map", "{city}")) else "*/*")
    kind = response.headers["content-type"]

    assert response.status_code == 200
    if kind == "application/xml":
        document = etree.fromstring(response.content)
        titles = {element.text for element in document.iter("{*}Title")}
        assert HOSTILE.replace("\x0b", "\ufffd") in titles
        assert NAME in {element.text for element in document.iter("{*}Identifier")}
        assert not list(document.iter("{*}script", "{*}b"))
    elif kind == "application/json":
        assert "<script>" in json.dumps(response.json())
        assert response.headers["x-content-type-options"] == "nosniff"
    else:
        page = Elements(response.text)
        assert page.handlers == [] and "b" not in page.tags
        assert "<script>alert" not in response.text
        assert html.unescape(response.text).count(HOSTILE) >= 1


def test_a_template_has_the_name_encoded(server: Server) -> None:
    """Braces and percent signs of a name are not the template's."""
    document = send(server, f"/{{city}}/{quote(NAME, safe='')}/run/tiles.json").json()
    (template,) = document["tiles"]

    assert document["attribution"] == HOSTILE
    assert (template.count("{z}"), template.count("{x}"), template.count("{y}")) == (1, 1, 1)
    url = template.replace("{z}", "1").replace("{x}", "0").replace("{y}", "1")
    assert httpx.get(url).status_code == 200


def test_a_template_of_wmts_has_the_name_encoded(server: Server) -> None:
    """The same for WMTS, whose programs replace names in braces, too."""
    document = etree.fromstring(send(server, "/{city}.wmts.xml").content)
    templates = [element.attrib["template"] for element in document.iter("{*}ResourceURL")]

    assert len(templates) >= 2
    for template in templates:
        url = template.replace("{TileMatrix}", "1").replace("{TileCol}", "0").replace("{TileRow}", "1")
        assert "{" not in url
        assert httpx.get(url).status_code == 200


def test_a_name_that_is_no_text_breaks_nothing(server: Server) -> None:
    """A file of such a name lies in the canvas: it is left out, and the others are served."""
    for path in DOCUMENTS:
        assert send(server, path, accept="text/html").status_code == 200
