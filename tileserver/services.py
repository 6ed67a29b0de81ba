"""What requests are answered with: the parts of a server, and what is asked of them and what they give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from tileserver.access import Access
from tileserver.cache import Cache, Outcome, Stored
from tileserver.catalog import Catalog
from tileserver.documents import Layer
from tileserver.errors import (
    TileServerError,
)
from tileserver.executor import Executor
from tileserver.fetching import Fetcher
from tileserver.kept import Kept
from tileserver.loading import Sources
from tileserver.metatiles import Metatiles
from tileserver.mirror import Mirror
from tileserver.params import Address, Limits
from tileserver.redaction import NOTHING_HIDDEN, Redaction
from tileserver.settings import Settings
from tileserver.styles.parameters import Summary
from tileserver.vault import Vault
from tileserver.waits import Waits

_RECENT_SIZE: Final = 256 * 2**20  # bytes


class Visit(NamedTuple):
    """What makes requests those of one reader of one file: ``place`` stands for the address and the
    credential, ``reader`` for these and the program that asks. A ``partial`` one wants a part of the file, or
    only to know about it."""

    place: str
    reader: str
    partial: bool


@dataclass(frozen=True, slots=True)
class Doors:
    """What it takes to find out what a request asks for, and whether it is stored."""

    settings: Settings
    access: Access
    catalog: Catalog
    cache: Cache
    sources: Sources

    @property
    def limits(self) -> Limits:
        chosen = self.settings
        return Limits(chosen.time_limit, chosen.tile_time_limit, chosen.max_tile_pixels)


@dataclass(frozen=True, slots=True)
class Services(Doors):
    """Everything a request needs; built once by the application's lifespan."""

    executor: Executor
    vault: Vault
    redact: Redaction = NOTHING_HIDDEN
    waits: Waits = field(default_factory=Waits)
    metatiles: Metatiles = field(default_factory=Metatiles)
    described: Kept[Layer | TileServerError] = field(default_factory=lambda: Kept(60))
    summaries: Kept[Summary] = field(default_factory=lambda: Kept(3600))
    recent: Cache = field(default_factory=lambda: Cache.recent(_RECENT_SIZE))


@dataclass(frozen=True, slots=True)
class Target:
    """What a path says: whose token, which UDF (None for tokens of one UDF), and which of its answers."""

    token: str
    name: str | None
    address: Address


@dataclass(frozen=True, slots=True)
class Answer:
    """The bytes of a call, where they came from, and how long each stage took (milliseconds)."""

    stored: Stored
    outcome: Outcome
    timings: Mapping[str, float] = field(default_factory=dict)


def make_sources(settings: Settings) -> Sources:
    """What ``fused.load`` of an address finds, as the settings say."""
    fetcher = Fetcher(settings.fetch_allow, settings.state_dir / "sources")
    return Sources(Mirror(settings.source_map), fetcher)
