"""Who may reach what: share tokens of canvases and UDFs, passcodes, access tokens.

Every question is answered from the database, so a change by another process counts from the next
request on. Tokens are looked up by SHA-256; those that their owner may see again are derived from the
key file. Catalogue and caches come after, never before.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import string
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from tileserver.errors import BadRequest, Forbidden, NotFound, Unauthorized, UnknownToken
from tileserver.state import State

Scope = Literal["admin", "run"]
Level = Literal["public", "passcode", "team"]
Clock = Callable[[], float]

_CANVAS_TOKEN: Final = re.compile(r"fc_[A-Za-z0-9]+", re.ASCII)
_UDF_TOKEN: Final = re.compile(r"fsh_[A-Za-z0-9]+", re.ASCII)
_ALPHABET: Final = string.digits + string.ascii_letters
_SHARE_LENGTH: Final = 24  # 142 bits
_SECRET_LENGTH: Final = 40
_ID_LENGTH: Final = 10
_PASSCODE_SCHEME: Final = "fused-canvas-passcode"
_TOKEN_SCHEMES: Final = ("bearer", "fused-service-token")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a caller shows: the ``Authorization`` header and ``fused_session_token`` of the query."""

    authorization: str | None = None
    session_token: str | None = None

    def of_scheme(self, *schemes: str) -> str | None:
        """The value of the header when it has one of these schemes (lower case)."""
        scheme, _, value = (self.authorization or "").strip().partition(" ")
        return value.strip() if scheme.lower() in schemes else None


@dataclass(frozen=True, slots=True)
class Identity:
    """The holder of an access token. ``canvases`` is None where the token isn't limited to some."""

    id: str
    name: str
    scope: Scope
    canvases: frozenset[str] | None

    @property
    def is_admin(self) -> bool:
        return self.scope == "admin"

    def may_use(self, canvas: str) -> bool:
        return self.canvases is None or canvas in self.canvases


@dataclass(frozen=True, slots=True)
class Grant:
    """What a share token and its caller's credentials open.

    ``udf`` is set for the token of one UDF, ``udfs`` where a canvas shares only some. ``restricted``
    says that a credential was needed: such answers are private.
    """

    canvas: str
    udf: str | None
    caching: bool
    share: str
    may_read_code: bool
    restricted: bool
    udfs: frozenset[str] | None = None

    def reaches(self, name: str) -> bool:
        """Whether the UDF of this name may be reached."""
        return self.udf in (None, name) and (self.udfs is None or name in self.udfs)


@dataclass(frozen=True, slots=True)
class Share:
    """A shared canvas, as its owner sees it. Times are Unix seconds."""

    canvas: str
    token: str
    level: Level
    udfs: tuple[str, ...] | None
    code: bool
    caching: bool
    created: float
    expires: float | None


@dataclass(frozen=True, slots=True)
class SharedToken:
    """The token of one UDF, as its owner sees it. ``created`` is in Unix seconds."""

    canvas: str
    udf: str
    token: str
    enabled: bool
    caching: bool
    created: float


@dataclass(frozen=True, slots=True)
class AccessToken:
    """An access token, whose secret is not kept. Times are Unix seconds."""

    id: str
    name: str
    scope: Scope
    canvases: tuple[str, ...] | None
    created: float
    expires: float | None


class Access:
    """The tokens of one state folder.

    ``fixed`` maps tokens to canvases that are public and readable without being in the database.
    """

    def __init__(
        self, state_dir: Path, *, fixed: Mapping[str, str] | None = None, clock: Clock = time.time
    ) -> None:
        """:raises ConfigurationError: when the state can't be used (see ``State``)."""
        self._state = State(state_dir)
        self._fixed = dict(fixed or {})
        self._clock = clock

    def close(self) -> None:
        self._state.close()

    # -- questions

    def grant(self, token: str, credentials: Credentials) -> Grant:
        """What a share token of a URL opens for this caller.

        :raises UnknownToken: for unknown, disabled, expired and rotated tokens.
        :raises Unauthorized: when the canvas needs a credential and there is none, or a wrong one.
        :raises Forbidden: when the credential is good, but not for this canvas.
        """
        if token in self._fixed:
            return Grant(self._fixed[token], None, True, token, may_read_code=True, restricted=False)
        if _CANVAS_TOKEN.fullmatch(token):
            return self._canvas_grant(token, credentials)
        if _UDF_TOKEN.fullmatch(token):
            return self._udf_grant(token, credentials)
        raise UnknownToken

    def identify(self, credentials: Credentials) -> Identity | None:
        """The holder of the access token in the header; None without a valid one."""
        secret = credentials.of_scheme(*_TOKEN_SCHEMES)
        if not secret:
            return None
        row = self._row("SELECT * FROM access_tokens WHERE token_hash = ?", _digest(secret))
        if row is None or self._expired(row):
            return None
        return Identity(row["id"], row["name"], row["scope"], _names(row["canvases"]))

    def _canvas_grant(self, token: str, credentials: Credentials) -> Grant:
        row = self._row("SELECT * FROM shares WHERE token_hash = ?", _digest(token))
        if row is None or self._expired(row):
            raise UnknownToken
        canvas = row["canvas"]
        identity = self.identify(credentials)
        level = _level(row)
        if level == "passcode":
            self._check_passcode(row, credentials)
        elif level == "team":
            _check_member(canvas, identity)
        return Grant(
            canvas=canvas,
            udf=None,
            caching=bool(row["caching"]),
            share=token,
            may_read_code=bool(row["code"]) or _reads_code(identity, canvas),
            restricted=level != "public",
            udfs=_names(row["udfs"]),
        )

    def _udf_grant(self, token: str, credentials: Credentials) -> Grant:
        row = self._row("SELECT * FROM shared_tokens WHERE token_hash = ?", _digest(token))
        if row is None or not row["enabled"]:
            raise UnknownToken
        return Grant(
            canvas=row["canvas"],
            udf=row["udf"],
            caching=bool(row["caching"]),
            share=token,
            may_read_code=_reads_code(self.identify(credentials), row["canvas"]),
            restricted=False,
        )

    def _check_passcode(self, row: Mapping[str, Any], credentials: Credentials) -> None:
        given = credentials.of_scheme(_PASSCODE_SCHEME)
        if not given:
            raise Unauthorized("this canvas needs the header Authorization: fused-canvas-passcode <passcode>")
        if not hmac.compare_digest(self._passcode_hash(row["passcode_salt"], given), row["passcode_hash"]):
            raise Unauthorized("wrong passcode")

    # -- canvases

    def share(
        self,
        canvas: str,
        *,
        passcode: str | None = None,
        team: bool = False,
        udfs: Collection[str] | None = None,
        code: bool = False,
        caching: bool = True,
        expires: int | None = None,
    ) -> Share:
        """Share a canvas, or change how it is shared; its token stays. ``expires`` is seconds from now.

        Without a passcode or ``team`` anyone who has the token may call it.

        :raises BadRequest: for a passcode together with ``team``, or one that no header can carry.
        """
        if passcode is not None and team:
            raise BadRequest("a canvas is shared with a passcode or with the team, not with both")
        if passcode is not None and not _fits_header(passcode):
            raise BadRequest("a passcode is printable ASCII without spaces at its ends, and not empty")
        salt = secrets.token_bytes(16) if passcode is not None else None
        hashed = self._passcode_hash(salt, passcode) if salt is not None and passcode is not None else None
        listed = None if udfs is None else json.dumps(sorted(udfs))
        options = (team, salt, hashed, listed, code, caching, self._until(expires))
        nonce = secrets.token_bytes(16)
        fresh = (canvas, _digest(self._canvas_token(canvas, nonce)), nonce, self._clock())
        with self._state.transaction() as database:
            database.execute(
                "INSERT OR IGNORE INTO shares (canvas, token_hash, nonce, created, team, code, caching)"
                " VALUES (?, ?, ?, ?, 0, 0, 1)",
                fresh,
            )
            database.execute(
                "UPDATE shares SET team = ?, passcode_salt = ?, passcode_hash = ?, udfs = ?, code = ?,"
                " caching = ?, expires = ? WHERE canvas = ?",
                (*options, canvas),
            )
        return self._share_of(canvas)

    def unshare(self, canvas: str) -> None:
        """End the canvas's token for good.

        :raises NotFound: when it isn't shared.
        """
        self._change(
            "DELETE FROM shares WHERE canvas = ?", canvas, missing=f"canvas {canvas!r} is not shared"
        )

    def rotate(self, canvas: str) -> Share:
        """Give a canvas another token, under the same conditions; the old one is unknown from now on.

        :raises NotFound: when it isn't shared.
        """
        nonce = secrets.token_bytes(16)
        self._change(
            "UPDATE shares SET token_hash = ?, nonce = ? WHERE canvas = ?",
            *(_digest(self._canvas_token(canvas, nonce)), nonce, canvas),
            missing=f"canvas {canvas!r} is not shared",
        )
        return self._share_of(canvas)

    def shares(self) -> list[Share]:
        """Every shared canvas, expired ones included, by name."""
        return [self._share(row) for row in self._rows("SELECT * FROM shares ORDER BY canvas")]

    # -- tokens of one UDF

    def create_shared_token(self, canvas: str, udf: str, *, caching: bool = True) -> SharedToken:
        """A new token that opens one UDF to anyone who has it."""
        nonce = secrets.token_bytes(16)
        token = self._udf_token(canvas, udf, nonce)
        row = (_digest(token), nonce, canvas, udf, True, caching, self._clock())
        with self._state.transaction() as database:
            database.execute("INSERT INTO shared_tokens VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        return self._shared_token(_digest(token))

    def shared_tokens(self) -> list[SharedToken]:
        """Every token of one UDF, disabled ones included."""
        rows = self._rows("SELECT * FROM shared_tokens ORDER BY canvas, udf, created")
        return [self._shared(row) for row in rows]

    def enable_shared_token(self, token: str) -> SharedToken:
        """:raises NotFound: when there is no such token."""
        return self._set_enabled(token, enabled=True)

    def disable_shared_token(self, token: str) -> SharedToken:
        """:raises NotFound: when there is no such token."""
        return self._set_enabled(token, enabled=False)

    def cache_shared_token(self, token: str, *, caching: bool) -> SharedToken:
        """Say whether results may be stored and reused for a token.

        :raises NotFound: when there is no such token.
        """
        self._change(
            "UPDATE shared_tokens SET caching = ? WHERE token_hash = ?",
            *(caching, _digest(token)),
            missing="no such shared token",
        )
        return self._shared_token(_digest(token))

    def revoke_shared_token(self, token: str) -> None:
        """:raises NotFound: when there is no such token."""
        self._change(
            "DELETE FROM shared_tokens WHERE token_hash = ?", _digest(token), missing="no such shared token"
        )

    def _set_enabled(self, token: str, *, enabled: bool) -> SharedToken:
        self._change(
            "UPDATE shared_tokens SET enabled = ? WHERE token_hash = ?",
            *(enabled, _digest(token)),
            missing="no such shared token",
        )
        return self._shared_token(_digest(token))

    # -- access tokens

    def create_token(
        self,
        name: str = "",
        *,
        scope: Scope = "run",
        canvases: Collection[str] | None = None,
        expires: int | None = None,
    ) -> tuple[str, str]:
        """The id of a new access token, and its secret, which is not kept. ``expires`` is seconds from now.

        :raises BadRequest: for a scope that doesn't exist.
        """
        if scope not in get_args(Scope):
            raise BadRequest(f"scope takes {' or '.join(get_args(Scope))}, not {scope!r}")
        token_id, secret = _random_text(_ID_LENGTH), f"ts_{_random_text(_SECRET_LENGTH)}"
        listed = None if canvases is None else json.dumps(sorted(canvases))
        row = (_digest(secret), token_id, name, scope, listed, self._clock(), self._until(expires))
        with self._state.transaction() as database:
            database.execute("INSERT INTO access_tokens VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        return token_id, secret

    def tokens(self) -> list[AccessToken]:
        """Every access token, expired ones included, oldest first."""
        return [
            AccessToken(
                id=row["id"],
                name=row["name"],
                scope=row["scope"],
                canvases=_listed(row["canvases"]),
                created=row["created"],
                expires=row["expires"],
            )
            for row in self._rows("SELECT * FROM access_tokens ORDER BY created, id")
        ]

    def revoke(self, token_id: str) -> None:
        """:raises NotFound: when there is no access token of this id."""
        self._change(
            "DELETE FROM access_tokens WHERE id = ?",
            token_id,
            missing=f"no access token has the id {token_id!r}",
        )

    # -- rows and derivations

    def _rows(self, statement: str, *values: object) -> list[dict[str, Any]]:
        cursor = self._state.database.execute(statement, values)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def _row(self, statement: str, digest: bytes) -> dict[str, Any] | None:
        """The row of a hash; compared once more, in constant time."""
        rows = self._rows(statement, digest)
        return rows[0] if rows and hmac.compare_digest(rows[0]["token_hash"], digest) else None

    def _change(self, statement: str, *values: object, missing: str) -> None:
        with self._state.transaction() as database:
            if database.execute(statement, values).rowcount == 0:
                raise NotFound(missing)

    def _expired(self, row: Mapping[str, Any]) -> bool:
        return row["expires"] is not None and row["expires"] <= self._clock()

    def _until(self, seconds: int | None) -> float | None:
        return None if seconds is None else self._clock() + seconds

    def _share_of(self, canvas: str) -> Share:
        return self._share(self._rows("SELECT * FROM shares WHERE canvas = ?", canvas)[0])

    def _share(self, row: Mapping[str, Any]) -> Share:
        return Share(
            canvas=row["canvas"],
            token=self._canvas_token(row["canvas"], row["nonce"]),
            level=_level(row),
            udfs=_listed(row["udfs"]),
            code=bool(row["code"]),
            caching=bool(row["caching"]),
            created=row["created"],
            expires=row["expires"],
        )

    def _shared_token(self, digest: bytes) -> SharedToken:
        return self._shared(self._rows("SELECT * FROM shared_tokens WHERE token_hash = ?", digest)[0])

    def _shared(self, row: Mapping[str, Any]) -> SharedToken:
        return SharedToken(
            canvas=row["canvas"],
            udf=row["udf"],
            token=self._udf_token(row["canvas"], row["udf"], row["nonce"]),
            enabled=bool(row["enabled"]),
            caching=bool(row["caching"]),
            created=row["created"],
        )

    def _canvas_token(self, canvas: str, nonce: bytes) -> str:
        return "fc_" + _base62(self._state.keyed("canvas token", canvas.encode(), nonce))

    def _udf_token(self, canvas: str, udf: str, nonce: bytes) -> str:
        return "fsh_" + _base62(self._state.keyed("udf token", canvas.encode(), udf.encode(), nonce))

    def _passcode_hash(self, salt: bytes, passcode: str) -> bytes:
        # A passcode is too short for any hash to protect; without the key it can't even be guessed at.
        return self._state.keyed("passcode", salt, passcode.encode(errors="replace"))


def _check_member(canvas: str, identity: Identity | None) -> None:
    if identity is None:
        raise Unauthorized("this canvas needs the header Authorization: Bearer <access token>")
    if not identity.may_use(canvas):
        raise Forbidden("this access token is not for this canvas")


def _reads_code(identity: Identity | None, canvas: str) -> bool:
    return identity is not None and identity.is_admin and identity.may_use(canvas)


def _level(row: Mapping[str, Any]) -> Level:
    if row["team"]:
        return "team"
    return "public" if row["passcode_hash"] is None else "passcode"


def _listed(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(json.loads(text))


def _names(text: str | None) -> frozenset[str] | None:
    return None if text is None else frozenset(json.loads(text))


def _fits_header(text: str) -> bool:
    return text.isascii() and text.isprintable() and bool(text) and text == text.strip()


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", errors="replace")).digest()


def _base62(raw: bytes) -> str:
    """The first characters of 32 random bytes written in base 62."""
    number = int.from_bytes(raw, "big")
    text = ""
    for _ in range(_SHARE_LENGTH):
        number, digit = divmod(number, len(_ALPHABET))
        text += _ALPHABET[digit]
    return text


def _random_text(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))
