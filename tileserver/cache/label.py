"""What is kept beside a result to find it again, and the rules of a purge.

Nothing of a caller's query is kept in the clear: an argument is a digest of its name and value, keyed with
the server's key. A rule decides in Python (``covers``) about results in memory and on their way, and as SQL
about those on disk; both go by the same ranges of tiles.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Final

from tileserver.protocol import Json
from tileserver.subject import Subject, TileKey, forms
from tileserver.tiles import MAX_LATITUDE, MAX_ZOOM, Bounds

Range = tuple[int, int, int, int]  # first and last column, first and last row


@dataclass(frozen=True, slots=True)
class Label:
    """``arguments`` are digests; ``canvas`` is empty for code that was posted to none."""

    owner: str = ""
    udf: str = ""
    revision: str = ""
    tile: TileKey | None = None
    arguments: tuple[str, ...] = ()

    @classmethod
    def of(cls, subject: Subject, secret: bytes) -> Label:
        digests = (_digest(secret, name, value) for name, value in subject.values.items())
        return cls(subject.owner, subject.udf, subject.revision, subject.tile, tuple(sorted(digests)))

    @property
    def canvas(self) -> str:
        """The canvas whose results these are, posted code that was added to it included."""
        return self.owner.partition(".")[2] if self.is_posted else self.owner

    @property
    def is_posted(self) -> bool:
        return self.owner.startswith("@")

    def to_json(self) -> list[Any]:
        return [self.owner, self.udf, self.revision, self.tile, self.arguments]

    @classmethod
    def from_json(cls, facts: list[Any]) -> Label:
        owner, udf, revision, tile, arguments = facts
        return cls(owner, udf, revision, None if tile is None else tuple(tile), tuple(arguments))


@dataclass(frozen=True, slots=True)
class Rule:
    """Which results to forget; None leaves a part open, and a rule that says nothing means all.

    Of each item of ``arguments`` one digest has to be there. ``bounds`` is west, south, east, north in
    degrees, west beyond east where it spans 180°; a tile that touches it counts. ``zooms`` is first and last.
    Either, and ``tiles``, leave out what is no tile.
    """

    canvas: str | None = None
    udf: str | None = None
    arguments: tuple[tuple[str, ...], ...] = ()
    zooms: tuple[int, int] | None = None
    bounds: Bounds | None = None
    tiles: frozenset[TileKey] | None = None

    def covers(self, label: Label) -> bool:
        if self.canvas not in (None, label.canvas) or self.udf not in (None, label.udf):
            return False
        if any(set(digests).isdisjoint(label.arguments) for digests in self.arguments):
            return False
        if self.tiles is not None:
            return label.tile in self.tiles
        if self.zooms is None and self.bounds is None:
            return True
        if label.tile is None:
            return False
        z, x, y = label.tile
        return any(x0 <= x <= x1 and y0 <= y <= y1 for x0, x1, y0, y1 in self.ranges(z))

    def ranges(self, z: int) -> Sequence[Range]:
        """The tiles of ``zooms`` and ``bounds`` at a zoom."""
        low, high = self.zooms or (0, MAX_ZOOM)
        return _ranges(self.bounds or (-180.0, -90.0, 180.0, 90.0), z) if low <= z <= high else ()

    def to_json(self) -> str:
        facts = asdict(self)
        return json.dumps({**facts, "tiles": None if self.tiles is None else sorted(self.tiles)})

    @classmethod
    def from_json(cls, text: str) -> Rule:
        facts = json.loads(text)
        return cls(
            canvas=facts["canvas"],
            udf=facts["udf"],
            arguments=tuple(tuple(digests) for digests in facts["arguments"]),
            zooms=None if facts["zooms"] is None else tuple(facts["zooms"]),
            bounds=None if facts["bounds"] is None else tuple(facts["bounds"]),
            tiles=None if facts["tiles"] is None else frozenset((z, x, y) for z, x, y in facts["tiles"]),
        )


EVERYTHING: Final = Rule()
NOTHING: Final = Label()


def arguments_of(values: Mapping[str, Json], secret: bytes) -> tuple[tuple[str, ...], ...]:
    """What ``Rule.arguments`` says of values as a query has them."""
    return tuple(
        tuple(sorted(_digest(secret, name, text) for text in forms(value))) for name, value in values.items()
    )


def _digest(secret: bytes, name: str, value: str) -> str:
    text = f"{len(name)} {name} {value}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, key=secret, digest_size=8).hexdigest()


@lru_cache(maxsize=256)
def _ranges(bounds: Bounds, z: int) -> Sequence[Range]:
    west, south, east, north = bounds
    rows = _touched(_fraction(north), _fraction(south), z)
    spans = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]
    return [(*_touched((w + 180) / 360, (e + 180) / 360, z), *rows) for w, e in spans]


def _fraction(latitude: float) -> float:
    """How far from the north edge of the world to its south edge."""
    within = max(-MAX_LATITUDE, min(MAX_LATITUDE, latitude))
    return (1 - math.asinh(math.tan(math.radians(within))) / math.pi) / 2


def _touched(low: float, high: float, z: int) -> tuple[int, int]:
    count = 2**z
    return max(0, math.ceil(low * count) - 1), min(count - 1, math.floor(high * count))
