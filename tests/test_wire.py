"""The bytes of a request: how long an address and headers may be, and what isn't HTTP at all."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from http.client import HTTPResponse

import httpx
import pytest

from tests.conftest import Server, serving
from tileserver.wire import MAX_HEADERS, MAX_READ, MAX_TARGET

FILES = {
    "city/echo.py": "import fused\n@fused.udf\ndef udf(s: str = ''):\n    return {'s': s, 'length': len(s)}\n"
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("wire"), FILES) as running:
        yield running


def sent(server: Server, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to these bytes."""
    url = httpx.URL(server.url)
    with closing(socket.create_connection((url.host, url.port or 80), timeout=20)) as connection:
        with suppress(ConnectionError):  # it may have heard enough
            connection.sendall(request)
        received = b""
        with suppress(ConnectionError):
            while piece := connection.recv(65536):
                received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in rest)
    return int(first.split()[1]), headers, body


def get(target: bytes, *headers: bytes) -> bytes:
    lines = [b"GET " + target + b" HTTP/1.1", b"Host: 127.0.0.1", b"Connection: close", *headers, b"", b""]
    return b"\r\n".join(lines)


def long_address(server: Server, length: int) -> bytes:
    """An address of the UDF that is so many bytes long."""
    start = f"/{server.tokens['city']}/echo?format=json&s=".encode()
    return start + b"a" * (length - len(start))


def test_a_request_line_of_64_kib_is_read(server: Server) -> None:
    """Contract, section 4.2: GeoJSON in a query is long."""
    target = long_address(server, 65536 - len(b"GET  HTTP/1.1"))
    status, _, body = sent(server, get(target))

    assert status == 200
    assert json.loads(body)["length"] > 65_000


def test_real_geojson_of_nearly_64_kib_arrives_whole(server: Server) -> None:
    """Contract, section 4.2: through an ordinary client that percent-encodes it."""
    text = json.dumps({"type": "FeatureCollection", "features": [[n, -n] for n in range(2800)]})
    response = server.get("/{city}/echo", params={"s": text, "format": "json"})

    assert len(str(response.url)) > 60_000
    assert response.json()["s"] == text


@pytest.mark.parametrize("length", [MAX_TARGET + 1, 100_000, MAX_READ - 500])
def test_a_longer_address_is_refused_with_the_limit(server: Server, length: int) -> None:
    """Contract, section 11: 422 that names the limit, with every header that answers carry."""
    status, headers, body = sent(server, get(long_address(server, length)))

    assert status == 422
    assert f"longer than {MAX_TARGET} bytes" in json.loads(body)["detail"]
    assert headers["x-fused-error"] == json.loads(body)["detail"]
    assert headers["content-type"] == "application/json"
    assert headers["cache-control"] == "no-store"
    assert headers["access-control-allow-origin"] == "*"
    assert headers["x-fused-request-id"]


def test_the_longest_address_is_read(server: Server) -> None:
    """The limit itself is allowed."""
    assert sent(server, get(long_address(server, MAX_TARGET)))[0] == 200


@pytest.mark.parametrize(
    "headers", [[b"x: " + b"a" * MAX_HEADERS], [b"x%d: %s" % (n, b"a" * 1000) for n in range(200)]]
)
def test_headers_have_a_limit(server: Server, headers: list[bytes]) -> None:
    """One long one or many."""
    status, _, body = sent(server, get(long_address(server, 200), *headers))

    assert status == 422
    assert f"longer than {MAX_HEADERS} bytes" in json.loads(body)["detail"]


@pytest.mark.parametrize(
    "start", [b"GET /", b"GET / HTTP/1.1\r\nhost: ", b"GET / HTTP/1.1\r\n" + b"x: " + b"a" * 9 + b"\r\nx: "]
)
def test_a_head_without_end_is_cut_off(server: Server, start: bytes) -> None:
    """Nobody can fill the server's memory with one; it answers the next request all the same."""
    url = httpx.URL(server.url)
    with closing(socket.create_connection((url.host, url.port or 80), timeout=20)) as connection:
        connection.sendall(start)
        with pytest.raises(ConnectionError):  # noqa: PT012 - which of the pieces is one too many is TCP's affair
            for _ in range(1000):
                connection.sendall(b"a" * 65536)

    assert server.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    "request_line",
    [
        b"nonsense\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /\xff HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET /a?b=\x00 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: x\r\n\r\n",
    ],
    ids=["word", "no address", "version", "TLS", "raw byte", "null byte", "header", "length"],
)
def test_what_is_no_http_gets_400(server: Server, request_line: bytes) -> None:
    """As JSON, too."""
    status, headers, body = sent(server, request_line)

    assert status == 400
    assert "not a valid HTTP request" in json.loads(body)["detail"]
    assert headers["content-type"] == "application/json"
    assert headers["cache-control"] == "no-store"
    assert headers["connection"] == "close"


def test_a_refused_request_leaves_the_connection_as_it_was(server: Server) -> None:
    """The next request on it is read from its beginning."""
    close = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    long = get(long_address(server, MAX_TARGET + 9)).replace(b"Connection: close\r\n", b"")
    _, _, rest = sent(server, long + close)

    assert b"HTTP/1.1 200 OK" in rest
    assert rest.endswith(b'{"status":"ok"}')


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("s=a+b", "a b"),
        ("s=a%20b", "a b"),
        ("s=a%2Bb", "a+b"),
        ("s=%C3%A9", "é"),
        ("s=%00", "\0"),
        ("s=a%26b%3Dc", "a&b=c"),
        ("s=%zz", "%zz"),
        ("s=", ""),
    ],
)
def test_a_query_is_decoded_once(server: Server, query: str, expected: str) -> None:
    """Contract, section 4.2: ``+`` and ``%20`` are spaces."""
    target = f"/{server.tokens['city']}/echo?format=json&{query}".encode()

    assert json.loads(sent(server, get(target))[2])["s"] == expected


# -- answers that are there at once


def test_requests_behind_one_another_are_answered_in_their_order(server: Server) -> None:
    """RFC 9112, 9.3.2: stored and not, in one packet."""
    path = f"/{server.tokens['city']}/echo.json".encode()
    server.get("/{city}/echo.json?s=stored")
    words = ["stored" if n % 3 else f"new{n}" for n in range(60)]
    asked = [b"GET " + path + f"?s={word} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode() for word in words]
    asked.append(get(path + b"?s=last"))

    _, _, rest = sent(server, b"".join(asked))

    found = re.findall(rb'\{"s": ?"(\w+)"', rest)
    assert [word.decode() for word in found] == [*words, "last"]


@pytest.mark.parametrize(
    ("line", "closes"),
    [(b"HTTP/1.0\r\n", True), (b"HTTP/1.1\r\nConnection: close\r\n", True), (b"HTTP/1.1\r\n", False)],
)
def test_a_connection_is_kept_where_both_want_it(server: Server, line: bytes, closes: bool) -> None:
    """RFC 9112, 9.3: of a stored answer as of any other; its length and date are told."""
    server.get("/{city}/echo.json?s=kept")
    url = httpx.URL(server.url)
    target = f"/{server.tokens['city']}/echo.json?s=kept".encode()
    with closing(socket.create_connection((url.host, url.port or 80), timeout=20)) as connection:
        request = b"GET " + target + b" " + line + b"Host: 127.0.0.1\r\n\r\n"
        connection.sendall(request)
        answer = HTTPResponse(connection)
        answer.begin()
        body = answer.read()
        if not closes:
            connection.sendall(request)
        more = connection.recv(12)

    assert (json.loads(body)["s"], answer.getheader("x-cache")) == ("kept", "hit")
    assert (answer.getheader("connection") == "close") is closes
    assert answer.getheader("date")
    assert more == (b"" if closes else b"HTTP/1.1 200")


def test_a_stored_answer_to_head_has_no_body(server: Server) -> None:
    """Nothing follows its headers."""
    server.get("/{city}/echo.json?s=head")
    target = f"/{server.tokens['city']}/echo.json?s=head".encode()
    status, headers, body = sent(server, get(target).replace(b"GET", b"HEAD", 1))

    assert (status, body, headers["x-cache"]) == (200, b"", "hit")
    assert int(headers["content-length"]) > 0
