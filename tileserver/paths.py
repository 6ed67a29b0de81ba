"""Which share a path means: every form that tokens and names have, and which of its readings counts.

A path can often be read in several ways. They are tried in the order of ``readings``; the first whose token
or name is known to access is meant, so a token never loses to a name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, Literal

from tileserver.access import Access, Credentials, Grant
from tileserver.access.forms import CANVAS_TOKEN, UDF_TOKEN
from tileserver.canvas import DEFAULT_CANVAS
from tileserver.catalog import Catalog
from tileserver.errors import (
    Forbidden,
    InvalidTile,
    NotFound,
    TooManyRequests,
    Unauthorized,
    UnknownToken,
    UnknownUdf,
)
from tileserver.params import Address

_DOCUMENT: Final = re.compile(rf"({CANVAS_TOKEN.pattern})(\.[a-z.]+)", re.ASCII)
_NAMED_DOCUMENT: Final = re.compile(r"([A-Za-z0-9_-]+)(\.[a-z.]+)", re.ASCII)
_ONE_UDF: Final = re.compile(rf"({UDF_TOKEN.pattern})(?:\.(.+))?", re.ASCII)
_TEAM: Final = re.compile(r"fc_[A-Za-z0-9_.-]+", re.ASCII)
_UDF_NAME: Final = re.compile(r"UDF_(.+)")
_JOINED: Final = re.compile(rf"({CANVAS_TOKEN.pattern})-(.+)", re.ASCII)


Result = tuple[Literal["run", "tile"], Address]


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to read a path.

    ``share`` is a token, or a canvas's or UDF's name in its place: ``kind`` says which. ``name`` is the UDF's
    that follows a canvas, or the extension that follows a single UDF; ``tail`` is what follows that. A
    document of a whole canvas has no name, and its extension for a tail.
    """

    share: str
    name: str | None = None
    tail: tuple[str, ...] = ()
    kind: Literal["token", "canvas", "udf"] = "token"

    @property
    def is_canvas(self) -> bool:
        """Whether the share is that of a whole canvas."""
        return self.share.startswith("fc_")

    def result(self) -> Result | None:
        """Which of the UDF's results is asked for; None for something else, a document perhaps.

        :raises InvalidTile: for a malformed tile, or one outside the matrix.
        """
        match self.tail:
            case () | ("run",) | ("run", "file"):
                return "run", Address()
            case ("run", "tiles", z, x, last):
                return "tile", Address.of_tile(z, x, last)
            case ("run", "tiles", *_):
                raise InvalidTile("a tile's address is .../run/tiles/{z}/{x}/{y}")
        return None


def readings(segments: Sequence[str]) -> list[Reading]:
    """The ways to read a path's decoded segments, in the order in which they are tried; there may be none."""
    first, rest = segments[0], tuple(segments[1:])
    found = []
    if CANVAS_TOKEN.fullmatch(first):
        found.append(Reading(first, rest[0] if rest else None, rest[1:]))
    if document := _DOCUMENT.fullmatch(first):
        found.append(Reading(document[1], None, (document[2], *rest)))
    if single := _ONE_UDF.fullmatch(first):
        found.append(Reading(single[1], single[2], rest))
    if _UDF_NAME.fullmatch(first):
        found.append(Reading(first, None, rest, "udf"))
    if _TEAM.fullmatch(first) and rest:
        if document := _NAMED_DOCUMENT.fullmatch(rest[0]):
            found.append(Reading(f"{first}/{document[1]}", None, (document[2], *rest[1:]), "canvas"))
        found.append(Reading(f"{first}/{rest[0]}", rest[1] if rest[1:] else None, rest[2:], "canvas"))
    if joined := _JOINED.fullmatch(first):
        found.append(Reading(joined[1], joined[2], rest))
    return found


async def find(
    candidates: Sequence[Reading], credentials: Credentials, access: Access, catalog: Catalog
) -> tuple[Reading, Grant]:
    """The reading that counts, and what its share opens for this caller.

    :raises UnknownToken: when no token or name is known.
    :raises NotFound: for a UDF's name that several canvases have.
    :raises Unauthorized: and the others as ``Access.grant`` does.
    """
    for reading in candidates:
        with suppress(UnknownToken):
            if reading.kind == "canvas":
                return reading, await _grant_of_canvas(reading, credentials, access, catalog)
            if reading.kind == "udf":
                return await _grant_of_udf(reading, credentials, access, catalog)
            return reading, access.grant(reading.share, credentials)
    raise UnknownToken


async def _grant_of_canvas(
    reading: Reading, credentials: Credentials, access: Access, catalog: Catalog
) -> Grant:
    """By ``fc_<team>/<canvas>``; a server has one team, whatever it is called."""
    try:
        canvas = await catalog.canvas(reading.share.partition("/")[2])
    except UnknownUdf:
        raise UnknownToken from None
    return access.grant_named(reading.share, canvas.name, credentials, public=canvas.public_name)


async def _grant_of_udf(
    reading: Reading, credentials: Credentials, access: Access, catalog: Catalog
) -> tuple[Reading, Grant]:
    """By ``UDF_<Name>``, in the only canvas that has it among those that the caller may use by name."""
    wanted = reading.share.removeprefix("UDF_")
    grants: list[Grant] = []
    refused: list[Unauthorized | Forbidden | TooManyRequests] = []
    for canvas in await catalog.canvases():
        name = canvas.stem(wanted)
        if name is None:
            continue
        share = f"UDF_{name}"
        with suppress(UnknownToken):
            try:
                grant = access.grant_named(share, canvas.name, credentials, public=canvas.public_name)
                grants.append(replace(grant, udf=name))
            except (Unauthorized, Forbidden, TooManyRequests) as error:
                refused.append(error)
    if not grants and refused:
        raise refused[0]
    grants = [grant for grant in grants if grant.udf == wanted] or grants
    if len(grants) > 1:
        grants = [grant for grant in grants if grant.canvas == DEFAULT_CANVAS]
        if not grants:
            raise NotFound(f"several canvases have a UDF called {wanted!r}; use fc_<team>/<canvas>/{wanted}")
    if not grants:
        raise UnknownToken
    (grant,) = grants
    extension = wanted.removeprefix(str(grant.udf)).removeprefix(".")
    return replace(reading, share=grant.share, name=extension or None), grant
