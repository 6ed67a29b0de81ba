"""Session tokens of shared canvases: made for somebody who has no credential, and ended together."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from tileserver.access import Identity, Session
from tileserver.access.sessions import DEFAULT_TTL
from tileserver.errors import BadRequest, Forbidden, InvalidBody, UnknownToken
from tileserver.paths import Reading, readings
from tileserver.platform.common import (
    Delete,
    Post,
    answer,
    identify,
    object_of,
    segments_after,
    services_of,
)
from tileserver.requests import credentials_of

_PATH: Final = "/session-token/by-access-token/"


async def mint(request: Request) -> Response:
    """A session token of a canvas, for ``ttl`` seconds of the body."""
    identity = _maker(request)
    ttl = (await object_of(request)).get("ttl")
    token, session = _minted(request, identity, DEFAULT_TTL if ttl is None else ttl)
    return answer(
        {
            "token": token,
            "session_token": session.token,
            "expires_at": datetime.fromtimestamp(session.expires, UTC).isoformat(),
        }
    )


async def revoke(request: Request) -> Response:
    """End every session of a canvas."""
    identity = identify(request)
    for token in _tokens(request, identity):
        with suppress(UnknownToken):
            services_of(request).access.revoke_sessions(token, by=identity)
            return Response(status_code=204, headers={"cache-control": "no-store"})
    raise UnknownToken


def _maker(request: Request) -> Identity:
    """Who asks, by an access token: whoever came in by a session token gets no other one.

    :raises Forbidden: for a session token.
    """
    access, credentials = services_of(request).access, credentials_of(request)
    if credentials.session_token and access.identify(credentials) is None:
        for reading in _readings(request):
            with suppress(UnknownToken):
                if reading.kind == "token" and access.grant(reading.share, credentials).session:
                    raise Forbidden("a session token can't make another one")
    return identify(request, "run")


def _minted(request: Request, identity: Identity, ttl: int) -> tuple[str, Session]:
    for token in _tokens(request, identity):
        with suppress(UnknownToken):
            try:
                return token, services_of(request).access.mint_session(token, ttl, by=identity)
            except BadRequest as error:
                raise InvalidBody(("body", "ttl"), error.message, "value_error") from None
    raise UnknownToken


def _tokens(request: Request, identity: Identity) -> list[str]:
    """The canvas tokens that a path may mean; what follows the canvas doesn't count."""
    found = []
    for reading in _readings(request):
        if reading.kind == "token" and reading.is_canvas:
            found.append(reading.share)
        elif reading.kind == "canvas":
            name = reading.share.partition("/")[2]
            share = services_of(request).access.share_of(name) if identity.may_use(name) else None
            found += [share.token] if share is not None else []
    return found


def _readings(request: Request) -> list[Reading]:
    return readings(segments_after(request, _PATH))


ROUTES: Final = (Post(f"{_PATH}{{token:path}}", mint), Delete(f"{_PATH}{{token:path}}", revoke))
