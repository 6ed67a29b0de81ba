"""A digest of any argument by its content: equal values give equal digests in every process.

Frames, arrays and geometries are read as data, so that two frames with equal rows are one argument.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import marshal
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import pandas as pd
import shapely
from geopandas import GeoDataFrame, GeoSeries

_PLAIN = (type(None), bool, int, float, complex, str)


def fingerprint(value: object) -> str:
    """A digest in hexadecimal digits.

    :raises TypeError: for a value that is neither data nor can be pickled.
    """
    digest = hashlib.blake2b(digest_size=20)
    for piece in _pieces(value):
        # Lengths keep ("ab", "c") apart from ("a", "bc").
        digest.update(len(piece).to_bytes(8, "big"))
        digest.update(piece)
    return digest.hexdigest()


def _pieces(value: Any) -> Iterator[bytes]:
    yield type(value).__qualname__.encode()
    if isinstance(value, _PLAIN):
        yield repr(value).encode("utf-8", "surrogatepass")
    elif isinstance(value, bytes | bytearray | memoryview):
        yield bytes(value)
    elif isinstance(value, Mapping):
        yield from sorted(_pair(key, item) for key, item in value.items())
    elif isinstance(value, set | frozenset):
        yield from sorted(fingerprint(item).encode() for item in value)
    elif isinstance(value, list | tuple):
        for item in value:
            yield fingerprint(item).encode()
    else:
        yield from _data(value)


def _pair(key: object, value: object) -> bytes:
    return f"{fingerprint(key)}{fingerprint(value)}".encode()


def _data(value: Any) -> Iterator[bytes]:
    xarray = sys.modules.get("xarray")
    if isinstance(value, np.ma.MaskedArray):
        yield from _array(np.ma.getdata(value))
        yield from _array(np.ma.getmaskarray(value))
    elif isinstance(value, np.ndarray | np.generic):
        yield from _array(np.asarray(value))
    elif isinstance(value, shapely.Geometry):
        yield _wkb(np.asarray([value], dtype=object))
    elif isinstance(value, pd.DataFrame):
        yield from _frame(value)
    elif isinstance(value, pd.Series):
        yield from _column(value.index)
        yield from _column(value)
    elif isinstance(value, pd.Index):
        yield from _column(value)
    elif xarray is not None and isinstance(value, xarray.DataArray | xarray.Dataset):
        yield fingerprint(value.to_dict(data="array")).encode()
    elif isinstance(value, FunctionType):
        yield source_of(value).encode()
    elif isinstance(value, ModuleType):
        yield value.__name__.encode()
    else:
        yield _pickled(value)


def _array(array: np.ndarray[Any, Any]) -> Iterator[bytes]:
    yield f"{array.dtype.str}{array.shape}".encode()
    if array.dtype.hasobject:
        yield fingerprint(array.tolist()).encode()
    else:
        yield np.ascontiguousarray(array).tobytes()


def _frame(frame: pd.DataFrame) -> Iterator[bytes]:
    yield from _column(frame.index)
    for position in range(frame.shape[1]):
        yield from _column(frame.iloc[:, position])
    if isinstance(frame, GeoDataFrame):
        yield str(frame.active_geometry_name).encode()


def _column(column: Any) -> Iterator[bytes]:
    """Name, type and values of a series or an index, without the index of a series."""
    dtype = column.dtype
    yield fingerprint(column.name).encode()
    yield str(dtype).encode()
    if isinstance(column, GeoSeries):
        yield str(column.crs).encode()
        yield _wkb(column.to_numpy())
    elif isinstance(dtype, np.dtype) and not dtype.hasobject:
        yield from _array(column.to_numpy())
    elif isinstance(dtype, pd.StringDtype | pd.DatetimeTZDtype):
        yield pd.util.hash_pandas_object(column, index=False).to_numpy().tobytes()
    else:
        yield fingerprint(column.tolist()).encode()


def _wkb(geometries: np.ndarray[Any, Any]) -> bytes:
    return fingerprint(shapely.to_wkb(geometries, include_srid=True).tolist()).encode()


def _pickled(value: object) -> bytes:
    try:
        return pickle.dumps(value, protocol=5)
    except Exception as error:  # the value's own class says how it is pickled: user code
        text = f"a {type(value).__qualname__} can't be part of a cache key ({error})"
        raise TypeError(f"{text}; name its parameter in cache_key_exclude") from None


def source_of(function: Callable[..., Any]) -> str:
    """A function's text, and where it stands: the same text elsewhere may see other globals.

    :raises TypeError: for a callable that isn't written in Python.
    """
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        raise TypeError(f"takes a function, not a {type(function).__qualname__}")
    return f"{code.co_filename}:{code.co_qualname}\n{_text(code.co_filename, code)}"


@functools.lru_cache(maxsize=1024)
def _text(filename: str, code: CodeType) -> str:
    # Sources are executed anew for each run but compiled once, so code objects are what stays.
    try:
        return inspect.getsource(code)
    except (OSError, TypeError):
        return marshal.dumps(code).hex()  # made by exec: there is no text
