"""Who asks, and at which address, where proxies stand in front of the server: ``X-Forwarded-For``, ``-Proto``
and ``-Host``, of those proxies that are trusted and of nobody else.

The client is the last address in the chain that is no trusted proxy's: what stands before it, anybody may
have written. Where the chain can't be read, it ends there.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, MutableMapping, Sequence
from functools import lru_cache
from typing import Any

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Scope = MutableMapping[str, Any]  # of ASGI


class Forwarding:
    """Knows which proxies are trusted."""

    def __init__(self, trusted: Sequence[Network]) -> None:
        self._trusts = lru_cache(4096)(lambda text: _is_in(_address(text), trusted))

    def rewrite(self, scope: Scope) -> None:
        """Make a request what it was when it reached the outermost trusted proxy."""
        if not (scope["client"] and self._trusts(scope["client"][0])):
            return
        scope["client"] = (self._client(scope), 0)
        scheme = _last(scope, b"x-forwarded-proto").lower()
        if scheme in {"http", "https"}:
            scope["scheme"] = scheme
        if host := _last(scope, b"x-forwarded-host"):
            others = [header for header in scope["headers"] if header[0] != b"host"]
            scope["headers"] = [(b"host", host.encode("latin-1")), *others]

    def _client(self, scope: Scope) -> str:
        found: str = scope["client"][0]
        for text in reversed(list(_values(scope, b"x-forwarded-for"))):
            address = _address(text)
            if address is None:
                break
            found = str(address)
            if not self._trusts(found):
                break
        return found


def _values(scope: Scope, name: bytes) -> Iterator[str]:
    """The parts of all headers of a name, in their order."""
    for header, value in scope["headers"]:
        if header == name:
            parts = (part.strip() for part in value.decode("latin-1").split(","))
            yield from filter(None, parts)


def _last(scope: Scope, name: bytes) -> str:
    """What the proxy next to us has said; proxies that add to a header add at its end."""
    *_, last = ("", *_values(scope, name))
    return last


def _address(text: str) -> Address | None:
    """An address, with or without a port; None for anything else."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _is_in(address: Address | None, networks: Sequence[Network]) -> bool:
    return address is not None and any(address in network for network in networks)
