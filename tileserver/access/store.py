"""What owners make and change: shared canvases, tokens of single UDFs, access tokens."""

from __future__ import annotations

import hmac
import json
import secrets
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Final, get_args

from tileserver.access.forms import base62, digest, fits_header, random_text
from tileserver.access.values import AccessToken, Level, Scope, Share, SharedToken
from tileserver.errors import BadRequest, NotFound
from tileserver.protocol import Json
from tileserver.state import State

Clock = Callable[[], float]

MAX_METADATA: Final = 64 * 1024  # characters of JSON

_PASSCODE: Final = "a passcode is printable ASCII without spaces at its ends, and not empty"
_SECRET_LENGTH: Final = 40
_ID_LENGTH: Final = 10


class Store:
    """The tokens of one state folder."""

    def __init__(self, state_dir: Path, *, clock: Clock = time.time) -> None:
        """:raises ConfigurationError: when the state can't be used (see ``State``)."""
        self._state = State(state_dir)
        self._clock = clock

    def close(self) -> None:
        self._state.close()

    def keyed(self, purpose: str) -> bytes:
        """32 bytes that only the holder of the key file can make, different for each purpose."""
        return self._state.keyed(purpose)

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
        """Share a canvas, or change how it is shared: its token stays, its sessions end. ``expires`` is
        seconds from now.

        Without a passcode or ``team`` anyone who has the token may call it.

        :raises BadRequest: for a passcode together with ``team``, or one that no header can carry.
        """
        if passcode is not None and team:
            raise BadRequest("a canvas is shared with a passcode or with the team, not with both")
        if passcode is not None and not fits_header(passcode):
            raise BadRequest(_PASSCODE)
        salt = secrets.token_bytes(16) if passcode is not None else None
        hashed = self._passcode_hash(salt, passcode) if salt is not None and passcode is not None else None
        listed = None if udfs is None else json.dumps(sorted(udfs))
        options = (team, salt, hashed, listed, code, caching, self._until(expires))
        nonce = secrets.token_bytes(16)
        fresh = (canvas, digest(self._canvas_token(canvas, nonce)), nonce, self._clock())
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
            database.execute(
                "DELETE FROM sessions WHERE share = (SELECT token_hash FROM shares WHERE canvas = ?)",
                (canvas,),
            )
        return self._share_of(canvas)

    def change_share(
        self,
        canvas: str,
        *,
        team: bool | None = None,
        passcode: str | None = None,
        code: bool | None = None,
        caching: bool | None = None,
    ) -> Share:
        """Change what is given of how a canvas is shared, and leave the rest; an empty passcode takes it
        away, and the team needs none. Sessions end where somebody else may enter from now on.

        :raises NotFound: when it isn't shared.
        :raises BadRequest: for a passcode that no header can carry.
        """
        row = next(iter(self._state.rows("SELECT * FROM shares WHERE canvas = ?", canvas)), None)
        if row is None:
            raise NotFound(f"canvas {canvas!r} is not shared")
        if passcode and not fits_header(passcode):
            raise BadRequest(_PASSCODE)
        is_team = bool(row["team"]) if team is None else team
        salt, hashed = row["passcode_salt"], row["passcode_hash"]
        if is_team or passcode == "":
            salt = hashed = None
        elif passcode is not None:
            salt = secrets.token_bytes(16)
            hashed = self._passcode_hash(salt, passcode)
        with self._state.transaction() as database:
            database.execute(
                "UPDATE shares SET team = ?, passcode_salt = ?, passcode_hash = ?, code = coalesce(?, code),"
                " caching = coalesce(?, caching) WHERE canvas = ?",
                (is_team, salt, hashed, code, caching, canvas),
            )
            if (is_team, salt) != (bool(row["team"]), row["passcode_salt"]):
                database.execute("DELETE FROM sessions WHERE share = ?", (row["token_hash"],))
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
            *(digest(self._canvas_token(canvas, nonce)), nonce, canvas),
            missing=f"canvas {canvas!r} is not shared",
        )
        return self._share_of(canvas)

    def shares(self) -> list[Share]:
        """Every shared canvas, expired ones included, by name."""
        return [self._share(row) for row in self._state.rows("SELECT * FROM shares ORDER BY canvas")]

    def share_of(self, canvas: str) -> Share | None:
        """How a canvas is shared; None when it isn't, or was until some time."""
        rows = self._state.rows("SELECT * FROM shares WHERE canvas = ?", canvas)
        return self._share(rows[0]) if rows and not self._expired(rows[0]) else None

    # -- tokens of one UDF

    def create_shared_token(self, canvas: str, udf: str, *, caching: bool = True) -> SharedToken:
        """A new token that opens one UDF to anyone who has it."""
        nonce = secrets.token_bytes(16)
        token = self._udf_token(canvas, udf, nonce)
        now = self._clock()
        self._state.change(
            "INSERT INTO shared_tokens (token_hash, nonce, canvas, udf, enabled, caching, created, changed)"
            " VALUES (?, ?, ?, ?, 1, ?, ?, ?)",
            *(digest(token), nonce, canvas, udf, caching, now, now),
        )
        return self.shared_token(token)

    def shared_token(self, token: str) -> SharedToken:
        """:raises NotFound: when there is no such token."""
        row = self._row("SELECT * FROM shared_tokens WHERE token_hash = ?", token)
        if row is None:
            raise NotFound("no such shared token")
        return self._shared(row)

    def shared_tokens(
        self, *, canvases: Collection[str] | None = None, skip: int = 0, limit: int | None = None
    ) -> list[SharedToken]:
        """Tokens of one UDF, disabled ones included, by canvas and UDF: of these canvases, or of all."""
        listed = None if canvases is None else json.dumps(sorted(canvases))
        rows = self._state.rows(
            "SELECT * FROM shared_tokens WHERE ?1 IS NULL OR canvas IN (SELECT value FROM json_each(?1))"
            " ORDER BY canvas, udf, created, token_hash LIMIT ?2 OFFSET ?3",
            *(listed, -1 if limit is None else limit, skip),
        )
        return [self._shared(row) for row in rows]

    def change_shared_token(
        self,
        token: str,
        *,
        enabled: bool | None = None,
        caching: bool | None = None,
        code: bool | None = None,
        team: bool | None = None,
        metadata: Mapping[str, Json] | None = None,
    ) -> SharedToken:
        """Change what is given (see ``SharedToken``) and leave the rest.

        :raises NotFound: when there is no such token.
        :raises BadRequest: for too much metadata.
        """
        text = None if metadata is None else json.dumps(dict(metadata))
        if text is not None and len(text) > MAX_METADATA:
            raise BadRequest(f"the metadata of a token is at most {MAX_METADATA} characters of JSON")
        self._change(
            "UPDATE shared_tokens SET enabled = coalesce(?, enabled), caching = coalesce(?, caching),"
            " code = coalesce(?, code), team = coalesce(?, team), metadata = coalesce(?, metadata),"
            " changed = ? WHERE token_hash = ?",
            *(enabled, caching, code, team, text, self._clock(), digest(token)),
            missing="no such shared token",
        )
        return self.shared_token(token)

    def enable_shared_token(self, token: str) -> SharedToken:
        """:raises NotFound: when there is no such token."""
        return self.change_shared_token(token, enabled=True)

    def disable_shared_token(self, token: str) -> SharedToken:
        """:raises NotFound: when there is no such token."""
        return self.change_shared_token(token, enabled=False)

    def revoke_shared_token(self, token: str) -> None:
        """:raises NotFound: when there is no such token."""
        self._change(
            "DELETE FROM shared_tokens WHERE token_hash = ?", digest(token), missing="no such shared token"
        )

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
        token_id, secret = random_text(_ID_LENGTH), f"ts_{random_text(_SECRET_LENGTH)}"
        listed = None if canvases is None else json.dumps(sorted(canvases))
        row = (digest(secret), token_id, name, scope, listed, self._clock(), self._until(expires))
        self._state.change("INSERT INTO access_tokens VALUES (?, ?, ?, ?, ?, ?, ?)", *row)
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
            for row in self._state.rows("SELECT * FROM access_tokens ORDER BY created, id")
        ]

    def revoke(self, token_id: str) -> None:
        """:raises NotFound: when there is no access token of this id."""
        self._change(
            "DELETE FROM access_tokens WHERE id = ?",
            token_id,
            missing=f"no access token has the id {token_id!r}",
        )

    # -- rows and derivations

    def _row(self, statement: str, token: str) -> sqlite3.Row | None:
        """The row of a token's hash; compared once more, in constant time."""
        hashed = digest(token)
        rows = self._state.rows(statement, hashed)
        return rows[0] if rows and hmac.compare_digest(rows[0]["token_hash"], hashed) else None

    def _change(self, statement: str, *values: object, missing: str) -> None:
        if self._state.change(statement, *values) == 0:
            raise NotFound(missing)

    def _expired(self, row: sqlite3.Row) -> bool:
        return row["expires"] is not None and row["expires"] <= self._clock()

    def _until(self, seconds: int | None) -> float | None:
        return None if seconds is None else self._clock() + seconds

    def _share_of(self, canvas: str) -> Share:
        return self._share(self._state.rows("SELECT * FROM shares WHERE canvas = ?", canvas)[0])

    def _share(self, row: sqlite3.Row) -> Share:
        return Share(
            canvas=row["canvas"],
            token=self._canvas_token(row["canvas"], row["nonce"]),
            level=level_of(row),
            udfs=_listed(row["udfs"]),
            code=bool(row["code"]),
            caching=bool(row["caching"]),
            created=row["created"],
            expires=row["expires"],
        )

    def _shared(self, row: sqlite3.Row) -> SharedToken:
        return SharedToken(
            canvas=row["canvas"],
            udf=row["udf"],
            token=self._udf_token(row["canvas"], row["udf"], row["nonce"]),
            enabled=bool(row["enabled"]),
            caching=bool(row["caching"]),
            code=bool(row["code"]),
            team=bool(row["team"]),
            metadata=json.loads(row["metadata"]),
            created=row["created"],
            changed=row["changed"],
        )

    def _canvas_token(self, canvas: str, nonce: bytes) -> str:
        return "fc_" + base62(self._state.keyed("canvas token", canvas.encode(), nonce))

    def _udf_token(self, canvas: str, udf: str, nonce: bytes) -> str:
        return "fsh_" + base62(self._state.keyed("udf token", canvas.encode(), udf.encode(), nonce))

    def _passcode_hash(self, salt: bytes, passcode: str) -> bytes:
        # A passcode is too short for any hash to protect; without the key it can't even be guessed at.
        return self._state.keyed("passcode", salt, passcode.encode(errors="replace"))


def level_of(row: sqlite3.Row) -> Level:
    if row["team"]:
        return "team"
    return "public" if row["passcode_hash"] is None else "passcode"


def _listed(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(json.loads(text))


def names_of(text: str | None) -> frozenset[str] | None:
    return None if text is None else frozenset(json.loads(text))
