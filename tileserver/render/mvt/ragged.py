"""Runs of unequal length in one flat array: how they are found, taken and put together.

A flat array has a companion ``sizes``, the length of each run; runs follow one another without gaps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Sizes = NDArray[np.int64]


def starts(sizes: Sizes) -> Sizes:
    """Where each run begins."""
    first = np.cumsum(sizes)
    first -= sizes
    return first


def gathered(sizes: Sizes, order: NDArray[Any]) -> Sizes:
    """The indices, into the flat array, of these runs in this order."""
    taken = sizes[order]
    shift = starts(sizes)[order] - starts(taken)
    index = np.repeat(shift, taken)
    index += np.arange(len(index))
    return index


def summed(values: NDArray[Any], sizes: Sizes) -> Sizes:
    """The sum over each run; 0 for an empty one. Bytes are summed in 32 bits, which are five times faster."""
    narrow = values.dtype.itemsize == 1 and len(values) * 10 < 2**31
    total = np.zeros(len(values) + 1, np.int32 if narrow else np.int64)
    np.cumsum(values, out=total[1:])
    ends = np.cumsum(sizes)
    found: Sizes = (total[ends] - total[ends - sizes]).astype(np.int64)
    return found


def interleaved(
    first: NDArray[Any], first_sizes: Sizes, second: NDArray[Any], second_sizes: Sizes
) -> NDArray[Any]:
    """Run by run, one of the first and then one of the second."""
    if _alike(first_sizes) and _alike(second_sizes):
        count = len(first_sizes)
        return np.hstack([first.reshape(count, -1), second.reshape(count, -1)]).ravel()
    both = np.column_stack([first_sizes, second_sizes]).ravel()
    of_first = np.repeat(np.tile(np.array([True, False]), len(first_sizes)), both)
    woven = np.empty(len(of_first), np.result_type(first, second))
    woven[of_first] = first
    woven[~of_first] = second
    return woven


def _alike(sizes: Sizes) -> bool:
    return bool(len(sizes)) and bool((sizes == sizes[0]).all())
