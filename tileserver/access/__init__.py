"""Who may reach what: share tokens of canvases and UDFs, passcodes, access tokens, sessions.

Every question is answered from the database, so a change by another process counts from the next
request on. Tokens are looked up by SHA-256; those that their owner may see again are derived from the
key file. Catalogue and caches come after, never before.
"""

from __future__ import annotations

import hmac
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from tileserver.access.attempts import Attempts
from tileserver.access.forms import CANVAS_TOKEN, UDF_TOKEN
from tileserver.access.sessions import DEFAULT_TTL, Sessions
from tileserver.access.store import Clock, Store, level_of, names_of
from tileserver.access.values import (
    AccessToken,
    Credentials,
    Grant,
    Identity,
    Level,
    Scope,
    Session,
    Share,
    SharedToken,
)
from tileserver.errors import Forbidden, TooManyRequests, Unauthorized, UnknownToken
from tileserver.state import Version

__all__ = [
    "Access",
    "AccessToken",
    "Credentials",
    "Grant",
    "Identity",
    "Level",
    "Scope",
    "Session",
    "Share",
    "SharedToken",
]

_PASSCODE_SCHEME: Final = "fused-canvas-passcode"
_TOKEN_SCHEMES: Final = ("bearer", "fused-service-token")


class Access(Store):
    """The tokens of one state folder, and what they open.

    ``fixed`` maps tokens to canvases that are public and readable without being in the database.
    """

    def __init__(
        self, state_dir: Path, *, fixed: Mapping[str, str] | None = None, clock: Clock = time.time
    ) -> None:
        """:raises ConfigurationError: when the state can't be used (see ``State``)."""
        super().__init__(state_dir, clock=clock)
        self._fixed = dict(fixed or {})
        self._sessions = Sessions(self._state, clock)
        self._attempts = Attempts(self._state, clock)

    def grant(self, token: str, credentials: Credentials) -> Grant:
        """What a share token of a URL opens for this caller.

        :raises UnknownToken: for unknown, disabled, expired and rotated tokens.
        :raises Unauthorized: when the canvas needs a credential and there is none, or a wrong one.
        :raises Forbidden: when the credential is good, but not for this canvas.
        :raises TooManyRequests: after too many wrong passcodes.
        """
        if token in self._fixed:
            return Grant(self._fixed[token], None, True, token, may_read_code=True, restricted=False)
        if CANVAS_TOKEN.fullmatch(token):
            return self._shared_grant(self._row_of(token), token, credentials)
        if UDF_TOKEN.fullmatch(token):
            return self._udf_grant(token, credentials)
        raise UnknownToken

    def grant_named(self, name: str, canvas: str, credentials: Credentials, *, public: bool) -> Grant:
        """What a name that stands in the place of a canvas's token opens. Names are no secrets: where the
        canvas doesn't say that its name is ``public``, it is unknown to all but who has a credential for it.

        :raises UnknownToken: and the others as ``grant`` does.
        """
        identity = self.identify(credentials)
        is_member = identity is not None and identity.may_use(canvas)
        rows = self._state.rows("SELECT * FROM shares WHERE canvas = ?", canvas)
        if rows and not self._expired(rows[0]):
            if level_of(rows[0]) == "public" and not (public or is_member):
                raise UnknownToken
            try:
                grant = self._shared_grant(rows[0], name, credentials)
            except (Unauthorized, Forbidden, TooManyRequests):
                if public:
                    raise
                raise UnknownToken from None
            return replace(grant, restricted=grant.restricted or not public)
        is_open = public and not rows  # a share that has expired doesn't become public by that
        if not (is_open or is_member):
            raise UnknownToken
        reads_code = _reads_code(identity, canvas)
        return Grant(canvas, None, True, name, reads_code, restricted=not is_open, identity=identity)

    def version(self) -> Version:
        """What changes whenever anything that grants go by has changed, by whichever process."""
        return self._state.version()

    def holds(self, grant: Grant, version: Version) -> bool:
        """Whether a grant given at this version is what ``grant`` would give now: nothing has changed since,
        and it has not ended by itself."""
        return version == self._state.version() and (grant.until is None or self._clock() < grant.until)

    def identify(self, credentials: Credentials) -> Identity | None:
        """The holder of the access token in the header; None without a valid one."""
        secret = credentials.of_scheme(*_TOKEN_SCHEMES)
        if not secret:
            return None
        row = self._row("SELECT * FROM access_tokens WHERE token_hash = ?", secret)
        if row is None or self._expired(row):
            return None
        return _identity(row)

    def identity_of(self, token_id: str) -> Identity | None:
        """The holder of the access token of this id, for runs that it began; None once that is no longer
        valid."""
        rows = self._state.rows("SELECT * FROM access_tokens WHERE id = ?", token_id)
        if not rows or self._expired(rows[0]):
            return None
        return _identity(rows[0])

    def require(self, credentials: Credentials, scope: Scope = "run", canvas: str | None = None) -> Identity:
        """The holder of an access token of this scope that may use the canvas; ``admin`` includes ``run``.

        :raises Unauthorized: without a valid token.
        :raises Forbidden: with one that doesn't reach that far.
        """
        identity = self.identify(credentials)
        if identity is None:
            raise Unauthorized("this needs the header Authorization: Bearer <access token>")
        if scope == "admin" and not identity.is_admin:
            raise Forbidden("this needs an access token of scope admin")
        if canvas is not None and not identity.may_use(canvas):
            raise Forbidden(f"this access token is not for the canvas {canvas!r}")
        return identity

    def _row_of(self, canvas_token: str) -> sqlite3.Row:
        row = self._row("SELECT * FROM shares WHERE token_hash = ?", canvas_token)
        if row is None or self._expired(row):
            raise UnknownToken
        return row

    def _shared_grant(self, row: sqlite3.Row, share: str, credentials: Credentials) -> Grant:
        identity = self.identify(credentials)
        session_ends = self._enter(row, credentials, identity)
        return Grant(
            canvas=row["canvas"],
            udf=None,
            caching=bool(row["caching"]),
            share=share,
            may_read_code=bool(row["code"]) or _reads_code(identity, row["canvas"]),
            restricted=level_of(row) != "public",
            udfs=names_of(row["udfs"]),
            session=session_ends is not None,
            identity=identity,
            level=level_of(row),
            until=_first(row["expires"], session_ends, _end_of(identity)),
        )

    def _enter(self, row: sqlite3.Row, credentials: Credentials, identity: Identity | None) -> float | None:
        """Let a caller into a shared canvas; when their session ends, if it is one that lets them in. The
        header counts first, where it is of the kind that the canvas asks for."""
        canvas, level = row["canvas"], level_of(row)
        if level == "public":
            return None
        if level == "team":
            by_header = identity is not None and identity.may_use(canvas)
        else:
            by_header = bool(credentials.of_scheme(_PASSCODE_SCHEME))
        if credentials.session_token and not by_header:
            return self._sessions.check(credentials.session_token, row["token_hash"])
        if level == "team":
            _check_member(canvas, identity)
        else:
            self._check_passcode(row, credentials)
        return None

    def _udf_grant(self, token: str, credentials: Credentials) -> Grant:
        row = self._row("SELECT * FROM shared_tokens WHERE token_hash = ?", token)
        if row is None or not row["enabled"]:
            raise UnknownToken
        identity = self.identify(credentials)
        if row["team"]:
            _check_member(row["canvas"], identity)
        return Grant(
            canvas=row["canvas"],
            udf=row["udf"],
            caching=bool(row["caching"]),
            share=token,
            may_read_code=bool(row["code"]) or _reads_code(identity, row["canvas"]),
            restricted=bool(row["team"]),
            identity=identity,
            until=_end_of(identity),
        )

    def _check_passcode(self, row: sqlite3.Row, credentials: Credentials) -> None:
        given = credentials.of_scheme(_PASSCODE_SCHEME)
        if not given:
            raise Unauthorized(
                "this canvas needs the header Authorization: fused-canvas-passcode <passcode>",
                scheme=_PASSCODE_SCHEME,
            )
        self._attempts.check(row["canvas"], credentials.address)
        if not hmac.compare_digest(self._passcode_hash(row["passcode_salt"], given), row["passcode_hash"]):
            if credentials.counts:
                self._attempts.add(row["canvas"], credentials.address)
            raise Unauthorized("wrong passcode", scheme=_PASSCODE_SCHEME)

    # -- sessions

    def mint_session(self, canvas_token: str, ttl: int = DEFAULT_TTL, *, by: Identity) -> Session:
        """A session token that opens a whole canvas for ``ttl`` seconds, without any other credential. It
        ends earlier with the share, and with the access token that made it.

        :raises UnknownToken: when no canvas is shared under the token.
        :raises Forbidden: for somebody who may not use the canvas themselves.
        :raises BadRequest: for a ttl that is no whole number of seconds up to a day.
        """
        row = self._row_of(canvas_token)
        _check_member(row["canvas"], by)
        if level_of(row) == "passcode" and not by.is_admin:
            raise Forbidden("sessions of a canvas with a passcode need an access token of scope admin")
        return self._sessions.mint(row["token_hash"], by.id, ttl)

    def revoke_sessions(self, canvas_token: str, *, by: Identity) -> None:
        """End every session of a canvas.

        :raises UnknownToken: when no canvas is shared under the token.
        :raises Forbidden: without the scope admin for the canvas.
        """
        row = self._row_of(canvas_token)
        _check_member(row["canvas"], by)
        if not by.is_admin:
            raise Forbidden("this needs an access token of scope admin")
        self._sessions.end(row["token_hash"])


def _identity(row: sqlite3.Row) -> Identity:
    return Identity(row["id"], row["name"], row["scope"], names_of(row["canvases"]), row["expires"])


def _end_of(identity: Identity | None) -> float | None:
    return None if identity is None else identity.expires


def _first(*times: float | None) -> float | None:
    """The earliest of those that there are."""
    return min((time for time in times if time is not None), default=None)


def _check_member(canvas: str, identity: Identity | None) -> None:
    if identity is None:
        raise Unauthorized("this canvas needs the header Authorization: Bearer <access token>")
    if not identity.may_use(canvas):
        raise Forbidden("this access token is not for this canvas")


def _reads_code(identity: Identity | None, canvas: str) -> bool:
    return identity is not None and identity.is_admin and identity.may_use(canvas)
