"""Wrong passcodes, counted for each canvas and address: ten a minute, then none is looked at.

They are counted in the database, so that all web processes count together. Addresses are kept as keyed
hashes, for a minute.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable
from typing import Final

from tileserver.errors import TooManyRequests
from tileserver.state import State

LIMIT: Final = 10
WINDOW: Final = 60.0  # seconds

_IPV6_SITE: Final = 64  # bits; whoever has one IPv6 address has as many of a site as they like


class Attempts:
    """The wrong passcodes of one state."""

    def __init__(self, state: State, clock: Callable[[], float]) -> None:
        self._state = state
        self._clock = clock

    def check(self, canvas: str, address: str | None) -> None:
        """Let another attempt pass.

        :raises TooManyRequests: after ``LIMIT`` wrong ones, until fewer of them lie within ``WINDOW``.
        """
        now = self._clock()
        (row,) = self._state.rows(
            "SELECT count(*) AS number, min(at) AS oldest FROM wrong_passcodes"
            " WHERE source = ? AND at > ? AND at <= ?",
            *(self._source(canvas, address), now - WINDOW, now),
        )
        if row["number"] >= LIMIT:
            wait = max(1, math.ceil(row["oldest"] + WINDOW - now))
            raise TooManyRequests(f"{LIMIT} wrong passcodes in a minute; wait {wait} s", retry_after=wait)

    def add(self, canvas: str, address: str | None) -> None:
        """Count a wrong one, and forget old ones."""
        now = self._clock()
        with self._state.transaction() as database:
            database.execute("DELETE FROM wrong_passcodes WHERE at <= ? OR at > ?", (now - WINDOW, now))
            database.execute(
                "INSERT INTO wrong_passcodes VALUES (?, ?)", (self._source(canvas, address), now)
            )

    def _source(self, canvas: str, address: str | None) -> bytes:
        return self._state.keyed("passcode attempts", canvas.encode(), _site(address or "").encode())


def _site(address: str) -> str:
    """An address as far as it tells one caller from another."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if found.version == 4:
        return str(found)
    mapped = found.ipv4_mapped
    return str(mapped) if mapped else str(ipaddress.ip_network((found, _IPV6_SITE), strict=False))
