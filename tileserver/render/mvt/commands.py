"""Geometry as the integers of specification 4.3: commands with their counts, zigzag parameters.

The cursor starts at 0 for each feature and runs on over its paths; closing a ring doesn't move it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tileserver.render.mvt import ragged
from tileserver.render.mvt.parts import Rows
from tileserver.render.mvt.paths import Paths
from tileserver.render.mvt.ragged import Sizes

_MOVE_TO: Final = 1
_LINE_TO: Final = 2
_CLOSE_PATH: Final = 7 | 1 << 3


class Kind(IntEnum):
    """GeomType of a feature (4.3.4)."""

    POINT = 1
    LINESTRING = 2
    POLYGON = 3


class Drawn(NamedTuple):
    """Features: the integers of all, how many each has, its type, and the row it belongs to."""

    integers: NDArray[np.uint32]
    sizes: Sizes
    kinds: NDArray[np.uint8]
    rows: Rows


def drawn(kind: Kind, paths: Paths) -> Drawn:
    """One feature for each row; its paths must be beside each other."""
    if not len(paths.rows):
        none = np.zeros(0, np.int64)
        return Drawn(none.astype(np.uint32), none, none.astype(np.uint8), none)
    begins = np.ones(len(paths.rows), np.bool_)
    begins[1:] = paths.rows[1:] != paths.rows[:-1]
    heads = np.flatnonzero(begins)
    first = ragged.starts(paths.sizes)
    parameters = np.empty((len(paths.x), 2), np.uint32)
    for column, values in enumerate((paths.x, paths.y)):
        steps = np.diff(values, prepend=0)
        steps[first[heads]] = values[first[heads]]
        parameters[:, column] = (steps << 1) ^ (steps >> 63)
    integers, sizes = _woven(kind, parameters, paths.sizes)
    return Drawn(
        integers,
        np.add.reduceat(sizes, heads),
        np.full(len(heads), kind, np.uint8),
        paths.rows[heads],
    )


def merged(several: Sequence[Drawn]) -> Drawn:
    """Features in row order; those of a row in the order of the sequences."""
    filled = [one for one in several if len(one.rows)]
    if len(filled) == 1:
        return filled[0]
    if not filled:
        return several[0]
    integers, sizes, kinds, rows = (np.concatenate(column) for column in zip(*filled, strict=True))
    order = np.argsort(rows, kind="stable")
    return Drawn(integers[ragged.gathered(sizes, order)], sizes[order], kinds[order], rows[order])


def _woven(kind: Kind, parameters: NDArray[np.uint32], counts: Sizes) -> tuple[NDArray[np.uint32], Sizes]:
    """The commands of each path among its parameters, and how many integers a path has."""
    extra = {Kind.POINT: 1, Kind.LINESTRING: 2, Kind.POLYGON: 3}[kind]
    sizes = 2 * counts + extra
    at = ragged.starts(sizes)
    integers = np.empty(int(sizes.sum()), np.uint32)
    is_parameter = np.ones(len(integers), np.bool_)
    is_parameter[at] = False
    integers[at] = _MOVE_TO | ((counts if kind is Kind.POINT else 1) << 3)
    if kind is not Kind.POINT:
        is_parameter[at + 3] = False
        integers[at + 3] = _LINE_TO | (counts - 1) << 3
    if kind is Kind.POLYGON:
        is_parameter[at + sizes - 1] = False
        integers[at + sizes - 1] = _CLOSE_PATH
    integers[is_parameter] = parameters.ravel()
    return integers, sizes
