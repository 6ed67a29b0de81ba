"""Session tokens: a shared canvas for somebody who has no credential, for a day at most.

A session ends with its share's token, and with the access token that made it: it refers to both, so neither
has to know of it.
"""

from __future__ import annotations

import hmac
import sqlite3
from collections.abc import Callable
from typing import Final

from tileserver.access.forms import digest, random_text
from tileserver.access.values import Session
from tileserver.errors import BadRequest, Forbidden, Unauthorized
from tileserver.state import State

DEFAULT_TTL: Final = 3600
MAX_TTL: Final = 86400


class Sessions:
    """The sessions of one state. A ``share`` is the hash of a canvas's token."""

    def __init__(self, state: State, clock: Callable[[], float]) -> None:
        self._state = state
        self._clock = clock

    def mint(self, share: bytes, made_by: str, ttl: int) -> Session:
        """A new session of a share, made by the access token of this id, for ``ttl`` seconds.

        :raises BadRequest: for a time that is no whole number of seconds up to a day.
        """
        if isinstance(ttl, bool) or not isinstance(ttl, int) or not 1 <= ttl <= MAX_TTL:
            raise BadRequest(f"ttl takes a whole number of seconds from 1 to {MAX_TTL}, not {ttl!r:.40}")
        now = self._clock()
        # Clients read the time in the middle to know when to ask for another.
        token = f"{random_text(10)}:{int(now + ttl)}:{random_text(40)}"
        with self._state.transaction() as database:
            database.execute("DELETE FROM sessions WHERE expires <= ?", (now,))
            database.execute("DELETE FROM sessions WHERE share NOT IN (SELECT token_hash FROM shares)")
            database.execute(
                "INSERT INTO sessions VALUES (?, ?, ?, ?)", (digest(token), share, made_by, now + ttl)
            )
        return Session(token, now + ttl)

    def check(self, token: str, share: bytes) -> float:
        """Let a session of this share pass; when it ends by itself (Unix seconds).

        :raises Unauthorized: for an unknown, expired or revoked one.
        :raises Forbidden: for one of another share.
        """
        hashed = digest(token)
        rows = self._state.rows(
            "SELECT sessions.*, access_tokens.expires AS made_by_expires, shares.expires AS share_expires"
            " FROM sessions JOIN access_tokens ON access_tokens.id = made_by"
            " JOIN shares ON shares.token_hash = share WHERE sessions.token_hash = ?",
            hashed,
        )
        ends = _ends(rows[0]) if rows and hmac.compare_digest(rows[0]["token_hash"], hashed) else 0.0
        if ends <= self._clock():
            raise Unauthorized("the session token is unknown or has expired")
        if not hmac.compare_digest(rows[0]["share"], share):
            raise Forbidden("this session token is for another canvas")
        return ends

    def end(self, share: bytes) -> None:
        """End every session of a share."""
        self._state.change("DELETE FROM sessions WHERE share = ?", share)


def _ends(row: sqlite3.Row) -> float:
    """When a session ends: by itself, with the access token that made it, or with the share."""
    until: list[float | None] = [row["expires"], row["made_by_expires"], row["share_expires"]]
    return min(end for end in until if end is not None)
