"""Secrets of canvases, encrypted at rest with a key derived from the key file.

Each is bound to its canvas and name, so that a row of the database opens nowhere else. What stands for a
canvas's secrets in revisions is keyed: it changes with them, and tells nothing of them.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tileserver.canvas import CANVAS_NAME, Secrets
from tileserver.errors import BadRequest, ConfigurationError, NotFound
from tileserver.state import State

NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)
MAX_VALUE: Final = 64 * 1024  # bytes of UTF-8

_NONCE: Final = 12  # bytes, as AES-GCM wants


@dataclass(frozen=True, slots=True)
class SecretName:
    """A stored secret without its value. ``changed`` is in Unix seconds."""

    canvas: str
    name: str
    changed: float


class Vault:
    """The secrets of one state folder; may be used from any thread."""

    def __init__(self, state_dir: Path, *, clock: Callable[[], float] = time.time) -> None:
        """:raises ConfigurationError: when the state can't be used (see ``State``)."""
        self._state = State(state_dir)
        self._cipher = AESGCM(self._state.keyed("secrets"))
        self._clock = clock
        self._lock = threading.Lock()

    def close(self) -> None:
        self._state.close()

    def set(self, canvas: str, name: str, value: str) -> None:
        """Store a secret, in the place of one of this name.

        :raises BadRequest: for a name or a value that a secret can't have.
        """
        if not CANVAS_NAME.fullmatch(canvas):
            raise BadRequest(f"a canvas's name is letters, digits, _ and -, not {canvas[:80]!r}")
        if not NAME.fullmatch(name):
            raise BadRequest(
                f"a secret's name is letters, digits and _, begins with no digit and has up to 128 of them,"
                f" not {name[:140]!r}"
            )
        raw = _encoded(value)
        nonce = secrets.token_bytes(_NONCE)
        sealed = self._cipher.encrypt(nonce, raw, _place(canvas, name))
        digest = self._state.keyed("secret digest", canvas.encode(), name.encode(), raw)
        with self._lock:
            self._state.change(
                "INSERT OR REPLACE INTO secrets VALUES (?, ?, ?, ?, ?, ?)",
                *(canvas, name, nonce, sealed, digest, self._clock()),
            )

    def get(self, canvas: str, name: str) -> str:
        """:raises NotFound: when the canvas has no secret of this name."""
        values = self.of(canvas).values
        if name not in values:
            raise NotFound(_missing(canvas, name))
        return values[name]

    def unset(self, canvas: str, name: str) -> None:
        """:raises NotFound: when the canvas has no secret of this name."""
        with self._lock:
            gone = self._state.change("DELETE FROM secrets WHERE canvas = ? AND name = ?", canvas, name)
        if not gone:
            raise NotFound(_missing(canvas, name))

    def names(self, canvas: str | None = None) -> list[SecretName]:
        """What is stored, of one canvas or of all, by canvas and name."""
        with self._lock:
            rows = self._state.rows(
                "SELECT canvas, name, changed FROM secrets WHERE ?1 IS NULL OR canvas = ?1"
                " ORDER BY canvas, name",
                canvas,
            )
        return [SecretName(*row) for row in rows]

    def of(self, canvas: str) -> Secrets:
        """The secrets of a canvas, and what stands for them in its revisions.

        :raises ConfigurationError: for one that the database holds but the key doesn't open.
        """
        with self._lock:
            rows = self._state.rows("SELECT * FROM secrets WHERE canvas = ? ORDER BY name", canvas)
        if not rows:
            return Secrets()
        facts = [part for row in rows for part in (row["name"].encode(), row["digest"])]
        digest = self._state.keyed("secrets digest", canvas.encode(), *facts).hex()
        values = {row["name"]: self._opened(canvas, row["name"], row["nonce"], row["sealed"]) for row in rows}
        return Secrets(digest, values)

    def _opened(self, canvas: str, name: str, nonce: bytes, sealed: bytes) -> str:
        try:
            return self._cipher.decrypt(nonce, sealed, _place(canvas, name)).decode()
        except InvalidTag:
            raise ConfigurationError(f"the secret {canvas}/{name} is damaged; set it again") from None


def stored_secrets(state_dir: Path) -> Callable[[str], Secrets]:
    """The secrets of a workspace's canvases for a program that only reads; where nothing was ever stored,
    nothing is made."""
    if not (state_dir / "database").exists():
        return lambda _: Secrets()
    return Vault(state_dir).of


def _encoded(value: str) -> bytes:
    """The bytes of a value. An environment variable can't hold NUL, and nobody means an empty secret."""
    try:
        raw = value.encode()
    except UnicodeEncodeError:
        raise BadRequest("a secret is text that UTF-8 can hold") from None
    if not raw or len(raw) > MAX_VALUE or 0 in raw:
        raise BadRequest(f"a secret is text of 1 to {MAX_VALUE} bytes without NUL, not {len(raw)} bytes")
    return raw


def _place(canvas: str, name: str) -> bytes:
    return f"{canvas}/{name}".encode()


def _missing(canvas: str, name: str) -> str:
    return f"the canvas {canvas!r} has no secret called {name[:140]!r}"
