"""The result of one run for a block of tiles, cut into those tiles.

What is georeferenced is put on each tile's grid as if the function had returned it for that tile; an array
that is the block's own grid is cut where its tiles meet. What is neither can't be cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from mercantile import Tile

from tileserver import tiles
from tileserver.formats import PICTURES, Kind
from tileserver.protocol import Job
from tileserver.render import Part, chosen, encode_classified, is_nothing, naming, warp
from tileserver.render.classify import Classified, classify

_GRIDS: Final = frozenset({Kind.RASTER, Kind.GEORASTER})


class NotCuttable(Exception):
    """The result says nothing of the single tiles of its block; the message says why."""


def encode_block(value: object, job: Job, *, size: object) -> list[Part]:
    """Body, media type and facts of each tile of the job's block, row by row from the north-west.

    :param size: what the function was told of the block's pixels, if it takes that.
    :raises NotCuttable: for a result that must be made for each tile by itself.
    :raises UnsupportedOutput: as ``encode`` does.
    """
    with naming(value):
        return _encoded(classify(value), job, size)


def _encoded(found: Classified, job: Job, size: object) -> list[Part]:
    assert job.tile is not None, "only a tile lies in a block"
    whole, members = tiles.block(job.tile, job.metatile)
    if _is_grid_of(found, whole):
        parts = _cut(found, members, job, size)
    elif is_nothing(found, job) or _lies_somewhere(found, job):
        parts = [found] * len(members)
    else:
        raise NotCuttable("it returned neither features nor an array that says where it lies")
    return [
        encode_classified(part, replace(job, tile=member, metatile=1))
        for part, member in zip(parts, members, strict=True)
    ]


def _is_grid_of(found: Classified, tile: Tile) -> bool:
    """Whether the result is an array that fills the tile, whatever it shows."""
    if found.kind not in _GRIDS:
        return False
    return found.bounds is None or found.crs is None or warp.covers_tile(found, tile)


def _lies_somewhere(found: Classified, job: Job) -> bool:
    """Whether the result is one that is clipped or warped to a tile."""
    if found.kind is Kind.FEATURES:
        name = chosen(found, job).name
        return name == "mvt" or name in PICTURES
    return found.kind is Kind.GEORASTER and found.bounds is not None and chosen(found, job).name in PICTURES


def _cut(found: Classified, members: Sequence[Tile], job: Job, size: object) -> list[Classified]:
    """The squares of an array that are the block's tiles.

    Without bounds nobody knows that it is the block's array and no smaller one, unless the function was
    told the size. One with fewer pixels than it was told, or than the tiles together, would blur them.
    """
    array: Any = found.value
    height, width = array.shape[-2:]
    side = job.metatile
    if chosen(found, job).name not in PICTURES:
        raise NotCuttable("files of arrays are not cut")
    if isinstance(size, int | float):
        if min(height, width) < size:
            raise NotCuttable(f"its array of {width} x {height} pixels is smaller than its size, {size}")
    elif found.bounds is None or min(height, width) < side * job.options.pixels:
        raise NotCuttable("it declares no parameter size, and its array may be too small for a block")
    if height == 0 or height % side or width % side:
        raise NotCuttable(f"its array of {width} x {height} pixels is no {side} x {side} tiles")
    rows, columns = height // side, width // side
    parts = []
    for index, member in enumerate(members):
        top, left = index // side * rows, index % side * columns
        square = array[..., top : top + rows, left : left + columns]
        bounds = None if found.bounds is None else _bounds(found, member)
        parts.append(replace(found, value=square, bounds=bounds))
    return parts


def _bounds(found: Classified, member: Tile) -> tiles.Bounds:
    """Where a square lies, in the array's own terms, so that it is known for that tile's grid."""
    return tiles.mercator_bounds(member) if found.crs == warp.MERCATOR else tiles.bounds(member)
