"""Which parts of the shapes a coat paints, in its order, in batches; and its colours and sizes for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tileserver.render.paint import LARGEST, Paint

Floats = NDArray[np.float64]
Index = NDArray[np.int64]

_BATCH: Final = 128_000  # vertices and pixels that are worked on at a time: what caches hold


class Chosen(NamedTuple):
    """Parts that a coat paints, in its order: their indices, and for each the number of its feature among
    those of the coat."""

    parts: Index
    features: Index

    def where(self, kept: NDArray[np.bool_]) -> Chosen:
        return self if kept.all() else Chosen(self.parts[kept], self.features[kept])

    def batches(self, costs: NDArray[Any]) -> Iterator[Chosen]:
        """Runs of parts that cost no more than a batch together; features stay whole."""
        if not len(self.parts):
            return
        begins = np.flatnonzero(np.diff(self.features, prepend=-1))
        spent = np.cumsum(costs)[np.append(begins[1:], len(costs)) - 1]
        start = 0
        while start < len(begins):
            before = spent[start - 1] if start else 0
            stop = max(start + 1, int(np.searchsorted(spent, before + _BATCH, "right")))
            inside = slice(begins[start], begins[stop] if stop < len(begins) else None)
            yield Chosen(self.parts[inside], self.features[inside])
            start = stop


def chosen(paint: Paint, rows: Index) -> Chosen:
    """The parts, by their rows, of the features that the coat has."""
    wanted = paint.features
    place = np.full(int(max(rows.max(initial=-1), wanted.max(initial=-1))) + 1, -1, np.int64)
    place[wanted] = np.arange(len(wanted))
    found = place[rows]
    parts = np.flatnonzero(found >= 0)
    features = found[parts]
    if (np.diff(features) < 0).any():
        order = np.argsort(features, kind="stable")
        parts, features = parts[order], features[order]
    return Chosen(parts, features)


def colours(values: Any) -> Floats:
    """Premultiplied colours, (4,) for all or (n, 4); one that is no colour is transparent."""
    found = np.array(values, np.float64)
    if found.ndim == 2 and len(found) and (found == found[0]).all():
        found = found[0]
    found[~np.isfinite(found).all(axis=-1)] = 0
    np.clip(found, 0, 1, out=found)
    found[..., :3] *= found[..., 3:]
    return found


def sizes(values: Any, features: Index) -> Floats:
    """For each part the width or radius of its feature; 0 for what is none."""
    found = np.asarray(values, np.float64)
    found = np.full(len(features), found) if found.ndim == 0 else found[features]
    return np.clip(np.where(np.isfinite(found), found, 0), 0, LARGEST)


def tinted(found: Chosen, premultiplied: Floats) -> Chosen:
    """Parts that are not transparent."""
    alpha = premultiplied[..., 3]
    if alpha.ndim == 0:
        return found.where(np.full(len(found.parts), bool(alpha > 0)))
    return found.where(alpha[found.features] > 0)
