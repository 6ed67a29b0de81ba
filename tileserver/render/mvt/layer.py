"""One layer as a vector tile (specification 4.1): every feature of it written at once.

The keys and lengths of a message are varints, too, so all features are one array of integers; only the
table of values is made of bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tileserver.render.mvt import ragged, varints
from tileserver.render.mvt.attributes import Column
from tileserver.render.mvt.commands import Drawn
from tileserver.render.plain import utf8

VERSION: Final = 2

# Keys of fields: number, and how it is written.
_LAYERS: Final = b"\x1a"
_NAME: Final = b"\x0a"
_FEATURES: Final = 0x12
_KEYS: Final = b"\x1a"
_EXTENT: Final = b"\x28"
_VERSION: Final = b"\x78"
_ID: Final = 0x08
_TAGS: Final = 0x12
_TYPE: Final = 0x18
_GEOMETRY: Final = 0x22

# An integer for each feature, or one for all; and which features have it, if not all.
_Field = tuple[int | NDArray[Any], NDArray[np.bool_] | None]


def layer(
    name: str,
    drawn: Drawn,
    columns: Mapping[str, Column],
    *,
    ids: NDArray[np.uint64] | None,
    extent: int,
) -> bytes:
    """A tile with this layer; columns and ids have an entry for each feature."""
    # Short indices belong to what repeats: those of a column with many values are long whatever they are.
    used = sorted(
        ((key, found) for key, found in columns.items() if found.distinct), key=lambda one: one[1].distinct
    )
    features = _features(drawn, [found for _, found in used], ids)
    parts = [
        _VERSION + _varint(VERSION),
        _NAME + _text(name),
        features.tobytes(),
        *(_KEYS + _text(key) for key, _ in used),
        *(found.values for _, found in used),
        _EXTENT + _varint(extent),
    ]
    body = b"".join(parts)
    return b"".join((_LAYERS, _varint(len(body)), body))


def _features(drawn: Drawn, columns: list[Column], ids: NDArray[np.uint64] | None) -> NDArray[np.uint8]:
    """All features: each a head (key, length, id, tags, type) and the integers of its geometry."""
    count = len(drawn.rows)
    lengths = varints.lengths(drawn.integers)
    tags = _tags(columns)
    fields: list[_Field] = []
    if ids is not None:
        fields += [(_ID, None), (ids, None)]
    if tags:
        size = sum((_taken(value, present) for value, present in tags), np.zeros(count, np.int64))
        fields += [(_TAGS, None), (size, None), *tags]
    fields += [(_TYPE, None), (drawn.kinds, None)]
    drawn_size = ragged.summed(lengths, drawn.sizes)
    fields += [(_GEOMETRY, None), (drawn_size, None)]
    size = sum((_taken(value, present) for value, present in fields), drawn_size)
    fields = [(_FEATURES, None), (size, None), *fields]

    wide = np.uint64 if ids is not None and ids.max(initial=0) >= 2**32 else np.uint32
    heads = np.empty((count, len(fields)), wide)
    for index, (value, _) in enumerate(fields):
        heads[:, index] = value
    flat, counts = heads.ravel(), np.full(count, len(fields))
    if any(present is not None for _, present in tags):
        kept = np.ones(heads.shape, np.bool_)
        for index, (_, present) in enumerate(fields):
            if present is not None:
                kept[:, index] = present
        flat, counts = heads[kept], np.add.reduce(kept, axis=1, dtype=np.int64)
    return varints.encoded(
        ragged.interleaved(flat, counts, drawn.integers, drawn.sizes),
        ragged.interleaved(varints.lengths(flat), counts, lengths, drawn.sizes),
    )


def _tags(columns: list[Column]) -> list[_Field]:
    """The index of each key and of its values (4.4), and which features have them if not all."""
    tags: list[_Field] = []
    offset = 0
    for index, column in enumerate(columns):
        present = column.codes >= 0
        some = None if present.all() else present
        tags += [(index, some), ((column.codes + offset).astype(np.uint32), some)]
        offset += column.distinct
    return tags


def _taken(value: int | NDArray[Any], present: NDArray[np.bool_] | None) -> int | NDArray[Any]:
    """How many bytes an entry takes in each head."""
    if isinstance(value, int):
        size = len(_varint(value))
        return size if present is None else size * present
    found = varints.lengths(value.astype(np.uint64, copy=False))
    return found if present is None else found * present


def _text(text: str) -> bytes:
    encoded = utf8(text)
    return _varint(len(encoded)) + encoded


def _varint(value: int) -> bytes:
    written = bytearray()
    while value > 0x7F:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*written, value))
