"""Proxies in front: whose X-Forwarded headers count, and for what."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Server
from tileserver import settings
from tileserver.errors import ConfigurationError
from tileserver.forwarding import Forwarding

FILES = {
    "city/red.py": "import fused\n@fused.udf\ndef udf(bounds: fused.types.Bounds):\n"
    "    import numpy\n    return numpy.zeros((3, 8, 8), 'uint8')\n",
    "city/seen.py": "import fused\n@fused.udf\ndef udf():\n    return sorted(fused.context.get_headers())\n",
}
TRUSTED = ("127.0.0.1", "10.0.0.0/8", "fd00::/8")

Headers = list[tuple[str, str]]


def forwarded(peer: str, headers: Headers) -> dict[str, Any]:
    """What becomes of a request that came from this peer."""
    flags = {"trusted_proxies": ",".join(TRUSTED)}
    networks = settings.load(Path("/nowhere"), flags=flags, environ={}).trusted_proxies
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in [("host", "inner"), *headers]]
    scope: dict[str, Any] = {"scheme": "http", "client": (peer, 4711), "headers": pairs}
    Forwarding(networks).rewrite(scope)
    return scope


def chain(*values: str) -> Headers:
    return [("x-forwarded-for", value) for value in values]


def proto(value: str) -> Headers:
    return [("x-forwarded-proto", value)]


def host(value: str) -> Headers:
    return [("x-forwarded-host", value)]


@pytest.mark.parametrize(
    ("peer", "headers", "client"),
    [
        ("127.0.0.1", [], "127.0.0.1"),
        ("127.0.0.1", chain("198.51.100.7"), "198.51.100.7"),
        ("198.51.100.9", chain("198.51.100.7"), "198.51.100.9"),
        ("127.0.0.1", chain("6.6.6.6, 198.51.100.7"), "198.51.100.7"),
        ("127.0.0.1", chain("6.6.6.6, 198.51.100.7, 10.2.3.4"), "198.51.100.7"),
        ("127.0.0.1", chain("6.6.6.6", "198.51.100.7", "10.2.3.4"), "198.51.100.7"),
        ("127.0.0.1", chain("10.9.9.9, 10.2.3.4"), "10.9.9.9"),
        ("127.0.0.1", chain("198.51.100.7, unknown, 10.2.3.4"), "10.2.3.4"),
        ("127.0.0.1", chain("198.51.100.7, "), "198.51.100.7"),
        ("127.0.0.1", chain(""), "127.0.0.1"),
        ("127.0.0.1", chain("300.1.1.1"), "127.0.0.1"),
        ("127.0.0.1", chain("198.51.100.7:8080"), "198.51.100.7"),
        ("127.0.0.1", chain("2001:db8::7"), "2001:db8::7"),
        ("127.0.0.1", chain("[2001:db8::7]:8080"), "2001:db8::7"),
        ("127.0.0.1", chain("2001:DB8:0::7, fd00::1"), "2001:db8::7"),
        ("127.0.0.1", chain("::ffff:198.51.100.7"), "198.51.100.7"),
        ("127.0.0.1", chain("198.51.100.7, ::ffff:10.1.1.1"), "198.51.100.7"),
        ("::ffff:127.0.0.1", chain("198.51.100.7"), "198.51.100.7"),
        ("::ffff:198.51.100.9", chain("198.51.100.7"), "::ffff:198.51.100.9"),
    ],
)
def test_the_client_is_the_last_address_that_is_no_proxy(peer: str, headers: Headers, client: str) -> None:
    """docs/operating.md: what stands before it in the chain, anybody may have written."""
    assert forwarded(peer, headers)["client"][0] == client


@pytest.mark.parametrize(
    ("peer", "headers", "scheme", "name"),
    [
        ("127.0.0.1", [*proto("https"), *host("maps.example")], "https", "maps.example"),
        ("127.0.0.1", proto("HTTPS"), "https", "inner"),
        ("127.0.0.1", proto("http, https"), "https", "inner"),
        ("127.0.0.1", proto("gopher"), "http", "inner"),
        ("127.0.0.1", [*host("a.example"), *host("b.example:8443")], "http", "b.example:8443"),
        ("127.0.0.1", [("forwarded", "host=a.example;proto=https")], "http", "inner"),
        ("198.51.100.9", [*proto("https"), *host("maps.example")], "http", "inner"),
    ],
)
def test_scheme_and_host_are_what_the_proxy_says(peer: str, headers: Headers, scheme: str, name: str) -> None:
    """Of several, the one that the proxy next to the server has added; strangers say nothing."""
    scope = forwarded(peer, headers)

    assert scope["scheme"] == scheme
    assert [value.decode() for header, value in scope["headers"] if header == b"host"] == [name]


@pytest.mark.parametrize("value", ["10.0.0.1/8", "proxy.example", "10.0.0.0/33", "*"])
def test_what_is_no_network_is_an_error(tmp_path: Path, value: str) -> None:
    """Names are no addresses, and a network has no bits beyond its length."""
    with pytest.raises(ConfigurationError, match="takes addresses or networks"):
        settings.load(tmp_path, flags={"trusted_proxies": value}, environ={})


def test_absolute_addresses_are_those_of_the_proxy(serve: Callable[..., Server]) -> None:
    """TileJSON, whose host must be allowed all the same."""
    flags = ("--trusted-proxies", "127.0.0.1", "--allowed-hosts", "127.0.0.1,maps.example")
    server = serve(FILES, *flags)
    path = "/{city}/red/run/tiles.json"

    def ask(host: str) -> tuple[int, str]:
        headers = {"x-forwarded-proto": "https", "x-forwarded-host": host, "x-forwarded-for": "198.51.100.7"}
        answer = server.get(path, headers=headers)
        return answer.status_code, answer.text

    status, text = ask("maps.example")
    assert (status, json.loads(text)["tiles"][0].split("/fc_")[0]) == (200, "https://maps.example")
    assert ask("elsewhere.example")[0] == 400
    assert ask("maps.example/x")[0] == 400


def test_strangers_are_not_believed(serve: Callable[..., Server]) -> None:
    """Without the setting nobody is."""
    server = serve(FILES)
    headers = {"x-forwarded-proto": "https", "x-forwarded-host": "maps.example"}
    document = server.get("/{city}/red/run/tiles.json", headers=headers).json()

    assert document["tiles"][0].startswith(f"{server.url}/")


def test_udfs_see_none_of_it(serve: Callable[..., Server]) -> None:
    """docs/http.md: no forwarding headers, trusted or not."""
    server = serve(FILES, "--trusted-proxies", "127.0.0.1")
    headers = {"x-forwarded-for": "198.51.100.7", "x-forwarded-proto": "https", "x-who": "me"}
    seen = server.get("/{city}/seen?format=json", headers=headers).json()

    assert "x-who" in seen
    assert not [name for name in seen if "forwarded" in name]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_wrong_passcodes_count_for_the_client_behind_the_proxy(
    serve: Callable[..., Server], workers: str
) -> None:
    """One client's attempts don't lock out another's."""
    server = serve(FILES, "--trusted-proxies", "127.0.0.1", "--http-workers", workers)
    token = server.access.share("city", passcode="right").token

    def try_from(address: str, passcode: str) -> int:
        shown = {"authorization": f"fused-canvas-passcode {passcode}", "x-forwarded-for": address}
        return server.get(f"/{token}", headers=shown).status_code

    assert [try_from("198.51.100.7", "wrong") for _ in range(11)] == [401] * 10 + [429]
    assert try_from("198.51.100.8", "right") == 200
    assert try_from("6.6.6.6, 198.51.100.7", "right") == 429
