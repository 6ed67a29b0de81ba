"""What callers show, what they are granted, and what owners see of their tokens: plain values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from tileserver.protocol import Json

Scope = Literal["admin", "run"]
Level = Literal["public", "passcode", "team"]

_EMAIL: Final = re.compile(r"[^@\s]+@[^@\s]+")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a caller shows: the ``Authorization`` header, ``fused_session_token`` of the query, and the
    address that the request came from. ``counts`` says that a wrong passcode is one of the few that an
    address has; whoever looks before others do leaves it to them."""

    authorization: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    address: str | None = None
    counts: bool = True

    def of_scheme(self, *schemes: str) -> str | None:
        """The value of the header when it has one of these schemes (lower case)."""
        scheme, _, value = (self.authorization or "").strip().partition(" ")
        return value.strip() if scheme.lower() in schemes else None


@dataclass(frozen=True, slots=True)
class Identity:
    """The holder of an access token. ``canvases`` is None where the token isn't limited to some; ``expires``
    is in Unix seconds."""

    id: str
    name: str
    scope: Scope
    canvases: frozenset[str] | None
    expires: float | None = None

    @property
    def is_admin(self) -> bool:
        return self.scope == "admin"

    @property
    def email(self) -> str | None:
        """The token's name, where it is an address: there are no accounts."""
        return self.name if _EMAIL.fullmatch(self.name) else None

    @property
    def shown(self) -> Mapping[str, str]:
        """What a UDF may see of the holder, as a header."""
        return {} if self.email is None else {"fused-share-user-email": self.email}

    def may_use(self, canvas: str) -> bool:
        return self.canvases is None or canvas in self.canvases


@dataclass(frozen=True, slots=True)
class Grant:
    """What a share token and its caller's credentials open.

    ``udf`` is set for the token of one UDF, ``udfs`` where a canvas shares only some. ``share`` is the token,
    or the name that stood in its place. ``restricted`` says that a credential was needed: such answers are
    private; ``session``, that it was a session token. ``level`` says which credential opens the share,
    ``identity`` is the holder of an access token, also where none was needed. ``until`` is when the first of
    all these ends by itself (Unix seconds).
    """

    canvas: str
    udf: str | None
    caching: bool
    share: str
    may_read_code: bool
    restricted: bool
    udfs: frozenset[str] | None = None
    session: bool = False
    identity: Identity | None = None
    level: Level = "public"
    until: float | None = None

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
    """The token of one UDF, as its owner sees it.

    ``code`` lets its holders read the source; ``team`` wants an access token besides; ``metadata`` is the
    owner's own. Times are Unix seconds.
    """

    canvas: str
    udf: str
    token: str
    enabled: bool
    caching: bool
    code: bool
    team: bool
    metadata: Mapping[str, Json]
    created: float
    changed: float


@dataclass(frozen=True, slots=True)
class AccessToken:
    """An access token, whose secret is not kept. Times are Unix seconds."""

    id: str
    name: str
    scope: Scope
    canvases: tuple[str, ...] | None
    created: float
    expires: float | None


@dataclass(frozen=True, slots=True)
class Session:
    """A session token, which is not kept, and the Unix seconds until which it is good."""

    token: str = field(repr=False)
    expires: float
