"""Columns as indices into the layer's table of values (specification 4.1 and 4.4).

A column is factorised by its dtype, so that Python sees at most each distinct value, and of numbers and
texts none. A missing value has the index -1: its feature has no such attribute. Tables of different
columns are apart.
"""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from tileserver.render.mvt import ragged, varints
from tileserver.render.plain import flat_column, utf8

_INT64: Final = range(-(2**63), 2**63)

# Keys of the message Value, and of the field "values" of a layer that holds it.
_VALUES: Final = 0x22
_STRING: Final = 0x0A
_FLOAT: Final = 0x15
_DOUBLE: Final = 0x19
_UINT: Final = 0x28
_SINT: Final = 0x30
_BOOL: Final = 0x38


class Column(NamedTuple):
    """For each row the index of its value, or -1; and the ``distinct`` values as fields of a layer."""

    codes: NDArray[np.int64]
    values: bytes
    distinct: int


def column(name: str, series: pd.Series[Any]) -> Column:
    """A column with the types that its values have.

    :raises UnsupportedOutput: naming the column and the type that has no form.
    """
    kind = series.dtype
    if isinstance(kind, np.dtype):
        if kind.kind in "biuf" and kind.itemsize <= 8:
            return _numbers(series.to_numpy(), None)
        if kind.kind in "Mm":
            return _factorised(name, series)
    if isinstance(kind, pd.api.extensions.ExtensionDtype):
        if isinstance(kind, pd.CategoricalDtype | pd.DatetimeTZDtype):
            return _factorised(name, series)
        if isinstance(kind, pd.StringDtype):
            return _texts(name, series)
        if kind.kind in "biuf" and not isinstance(kind, pd.ArrowDtype | pd.SparseDtype):
            missing = series.isna().to_numpy()
            return _numbers(series.fillna(kind.type(0)).to_numpy(kind.type), missing)
    if pd.api.types.infer_dtype(series, skipna=True) == "string":
        return _texts(name, series)
    return _any(flat_column(series, name))


def _numbers(values: NDArray[Any], missing: NDArray[np.bool_] | None) -> Column:
    kind = values.dtype.kind
    if kind == "u" and values.dtype.itemsize == 8 and int(values.max(initial=0)) not in _INT64:
        return _any([None if gone else value for value, gone in _with(values.tolist(), missing)])
    if kind == "f":
        values = values.astype("<f4" if values.dtype.itemsize <= 4 else "<f8", copy=False)
        finite = np.isfinite(values)
        missing = ~finite if missing is None else missing | ~finite
        # By their bits: a negative zero is no zero.
        found = values.view(f"i{values.dtype.itemsize}")
    else:
        found = values.view(np.uint8) if kind == "b" else values.astype(np.int64, copy=False)
    if missing is not None and missing.any():
        codes = np.full(len(values), -1, np.int64)
        codes[~missing], distinct = pd.factorize(found[~missing])
    elif (found[1:] > found[:-1]).all():  # as ids mostly are
        codes, distinct = np.arange(len(found)), found
    else:
        codes, distinct = pd.factorize(found)
    if kind == "f":
        return Column(codes, _reals(distinct.view(values.dtype)), len(distinct))
    table = _flags(distinct) if kind == "b" else _integers(distinct)
    return Column(codes.astype(np.int64, copy=False), table, len(distinct))


def _with(values: list[Any], missing: NDArray[np.bool_] | None) -> Any:
    return zip(values, [False] * len(values) if missing is None else missing, strict=True)


def _reals(values: NDArray[Any]) -> bytes:
    size = values.dtype.itemsize
    table = np.empty((len(values), 3 + size), np.uint8)
    table[:, :3] = (_VALUES, 1 + size, _FLOAT if size == 4 else _DOUBLE)
    table[:, 3:] = np.ascontiguousarray(values).view(np.uint8).reshape(-1, size)
    return table.tobytes()


def _flags(values: NDArray[np.uint8]) -> bytes:
    return b"".join(bytes((_VALUES, 2, _BOOL, int(value))) for value in values)


def _integers(values: NDArray[np.int64]) -> bytes:
    negative = values < 0
    numbers = np.where(negative, (values << 1) ^ (values >> 63), values).view(np.uint64)
    sizes = varints.lengths(numbers)
    table = np.empty((len(values), 4), np.uint64)
    table[:, 0] = _VALUES
    table[:, 1] = 1 + sizes
    table[:, 2] = np.where(negative, _SINT, _UINT)
    table[:, 3] = numbers
    lengths = np.ones(table.shape, np.uint8)
    lengths[:, 3] = sizes
    return varints.encoded(table.ravel(), lengths.ravel()).tobytes()


def _texts(name: str, series: pd.Series[Any]) -> Column:
    try:
        found = pa.array(series, from_pandas=True)
    except (pa.ArrowException, UnicodeError, TypeError):  # a lone surrogate, or no text after all
        return _any(flat_column(series, name))
    if isinstance(found, pa.ChunkedArray):
        found = found.combine_chunks()
    coded = found.dictionary_encode()
    codes = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    texts = coded.dictionary
    _, offsets, data = texts.buffers()
    if not len(texts):
        return Column(codes, b"", 0)
    wide = np.int64 if pa.types.is_large_string(texts.type) else np.int32
    bounds = np.frombuffer(offsets, wide)[texts.offset : texts.offset + len(texts) + 1]
    flat = np.frombuffer(data, np.uint8)[bounds[0] : bounds[-1]] if data else np.zeros(0, np.uint8)
    return Column(codes, _strings(flat, np.diff(bounds).astype(np.int64)), len(texts))


def _strings(flat: NDArray[np.uint8], sizes: NDArray[np.int64]) -> bytes:
    """Texts of these sizes, in UTF-8, as values."""
    lengths = sizes.astype(np.uint32)
    heads = np.empty((len(sizes), 4), np.uint32)
    heads[:, 0] = _VALUES
    heads[:, 1] = 1 + varints.lengths(lengths) + lengths
    heads[:, 2] = _STRING
    heads[:, 3] = lengths
    taken = varints.lengths(heads.ravel())
    per_text = np.int64(2) + taken[1::4] + taken[3::4]
    return ragged.interleaved(varints.encoded(heads.ravel(), taken), per_text, flat, sizes).tobytes()


def _factorised(name: str, series: pd.Series[Any]) -> Column:
    """Instants, durations and categories: written once for each distinct value."""
    codes, distinct = pd.factorize(series)
    table = column(name, pd.Series(flat_column(pd.Series(distinct), name), dtype=object))
    # A category that is no value has no code there.
    return Column(np.append(table.codes, -1)[codes], table.values, table.distinct)


def _any(values: list[Any]) -> Column:
    """Plain values of whatever types, which stay apart."""
    known: dict[bytes, int] = {}
    codes = np.full(len(values), -1, np.int64)
    for row, value in enumerate(values):
        if value is not None:
            codes[row] = known.setdefault(_value(value), len(known))
    return Column(codes, b"".join(known), len(known))


def _value(value: str | bool | float) -> bytes:
    """One value; an integer beyond 64 bits is text."""
    if isinstance(value, bool):
        return bytes((_VALUES, 2, _BOOL, value))
    if isinstance(value, float):
        return struct.pack("<BBBd", _VALUES, 9, _DOUBLE, value)
    if isinstance(value, int) and value in _INT64:
        return _integers(np.array([value], np.int64))
    text = np.frombuffer(utf8(str(value)), np.uint8)
    return _strings(text, np.array([len(text)]))
