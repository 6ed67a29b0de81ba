"""Base 128 varints of Protocol Buffers for whole arrays at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Unsigned = NDArray[np.unsignedinteger[Any]]


def lengths(values: Unsigned) -> NDArray[np.uint8]:
    """How many bytes each value takes."""
    found = np.ones(len(values), np.uint8)
    if len(values):
        largest = int(values.max())
        bits = 7
        while largest >> bits:
            found += values >= values.dtype.type(1 << bits)
            bits += 7
    return found


def encoded(values: Unsigned, sizes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The bytes of the values, whose ``lengths`` are known."""
    longest = int(sizes.max(initial=1))
    if longest == 1:
        return values.astype(np.uint8)
    narrow = len(sizes) * 10 < 2**31
    ends = np.cumsum(sizes, dtype=np.int32 if narrow else np.int64).astype(np.int64)
    out = np.empty(int(ends[-1]), np.uint8)
    at = np.subtract(ends, sizes, out=ends)
    more = np.uint8(0x80)
    out[at] = (values.astype(np.uint8) & 0x7F) | (sizes > 1) * more
    for index in range(1, longest):
        long = np.flatnonzero(sizes > index)
        at, sizes, values = at[long], sizes[long], values[long]
        shifted = (values >> values.dtype.type(7 * index)).astype(np.uint8) & 0x7F
        out[at + index] = shifted | (sizes > index + 1) * more
    return out
