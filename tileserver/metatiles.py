"""Metatiles: which tiles one run makes together, and what it made of each.

A block of n x n tiles covers the ground of one tile of a lower zoom, so a UDF that is told bounds alone runs
for that. Whether its result can be cut is known afterwards; one that can't is run tile by tile from then on.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tileserver import replies, tiles
from tileserver.errors import UdfKilled
from tileserver.params import Call
from tileserver.protocol import Encoded

log = logging.getLogger("tileserver")


class Metatiles:
    """Remembers of each UDF, as long as it isn't edited, that it has no blocks."""

    def __init__(self) -> None:
        self._refused: dict[tuple[str, str], str] = {}  # of an owner's UDF, the revision

    def block(self, call: Call) -> Mapping[str, Call]:
        """The calls that one run answers, by key, row by row from the north-west; none where the call is run
        by itself."""
        side = self._side(call)
        if side == 1 or call.tile is None:
            return {}
        _, members = tiles.block(call.tile, side)
        calls = [replace(call, tile=member) for member in members]
        return {one.cache_key(): one for one in calls}

    def cut(self, encoded: Encoded, call: Call, block: Mapping[str, Call]) -> Mapping[str, Encoded]:
        """The results of a block's run by key: all of them, or the call's own where the others have no use
        for theirs.

        :raises UdfKilled: when the worker's answer isn't that of a block.
        """
        own = call.cache_key()
        if "uncut" in encoded.meta:
            self._refuse(call, str(encoded.meta["uncut"])[:200])
            meta = {name: fact for name, fact in encoded.meta.items() if name != "uncut"}
            return {own: replace(encoded, meta=meta)}
        results = dict(zip(block, _split(encoded, len(block)), strict=True))
        if not encoded.meta.get("read_caller"):
            return results
        self._refuse(call, "its results depend on who asks")
        return {own: results[own]}

    def _side(self, call: Call) -> int:
        wanted = call.udf.settings.metatile
        if wanted == 1 or call.tile is None or call.max_age == 0:
            return 1
        if self._refused.get(_udf(call)) == call.udf.revision:
            return 1
        if not call.udf.signature.knows_only_bounds:
            self._refuse(call, "a UDF that is run for a block takes its bounds (bounds: fused.types.Bounds)")
            return 1
        size = call.udf.signature.parameter("size")
        if size is not None and not size.required and size.literal is None and "size" not in call.arguments:
            self._refuse(call, "its parameter size has no number as its default")
            return 1
        side: int = min(wanted, 2**call.tile.z)
        while side > 1 and side * _pixels(call) > call.options.max_pixels:
            side //= 2
        return side

    def _refuse(self, call: Call, reason: str) -> None:
        """Run the UDF tile by tile from now on."""
        self._refused[_udf(call)] = call.udf.revision
        log.warning("%s/%s: metatile is ignored: %s", call.udf.canvas, call.udf.name, reason)


def _split(encoded: Encoded, count: int) -> list[Encoded]:
    meta = dict(encoded.meta)
    listed = meta.pop("tiles", None)
    if not isinstance(listed, list) or len(listed) != count:
        raise _broken()
    start, results = 0, []
    for entry in listed:
        end, media_type, facts = _entry(entry, start, len(encoded.body))
        body = encoded.body[start:end]
        results.append(Encoded(body, media_type, encoded.created, {**replies.checked(facts), **meta}))
        start = end
    return results


def _entry(entry: Any, start: int, size: int) -> tuple[int, str, Mapping[str, Any]]:
    if not (
        isinstance(entry, list) and len(entry) == 3 and type(entry[0]) is int and isinstance(entry[2], dict)
    ):
        raise _broken()
    end, media_type, facts = entry
    if not start <= end <= size:
        raise _broken()
    return end, replies.media_type(media_type), facts


def _broken() -> UdfKilled:
    return UdfKilled("the worker's answer for a block of tiles is none")


def _udf(call: Call) -> tuple[str, str]:
    return call.bundle.owner, call.udf.name


def _pixels(call: Call) -> int:
    """Side of one tile as the UDF makes it: by its own parameter ``size``, else as it is drawn."""
    own = call.udf.signature.parameter("size")
    asked = call.arguments.get("size", own.literal if own is not None else None)
    if isinstance(asked, str) and asked.isascii() and asked.isdigit() and len(asked) < 10:
        asked = int(asked)
    if own is not None and isinstance(asked, int) and not isinstance(asked, bool):
        return max(1, asked) * call.options.scale
    return call.options.pixels
