"""Python, numpy and pandas values as strict JSON can say them.

One set of rules for every textual format: missing and non-finite numbers are null, times are ISO 8601,
durations are seconds, bytes are base64, geometries are GeoJSON, sets are sorted lists.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import math
import uuid
from collections import deque
from collections.abc import Iterable, Mapping
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd
import shapely
from shapely.geometry.base import BaseGeometry

from tileserver.errors import UnsupportedOutput
from tileserver.render.classify import type_name

_AS_IT_IS = frozenset({str, int, bool, type(None)})
_AS_TEXT = (uuid.UUID, PurePath, pd.Period, pd.Interval)
_MISSING = (type(pd.NaT), type(pd.NA))
_LISTS = (list, tuple, range, deque, pd.Index)
_WRITER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def dumps(value: object) -> bytes:
    """A value as UTF-8 JSON.

    :raises UnsupportedOutput: for a type that JSON can't say, and for a value that holds itself.
    """
    try:
        return utf8(written(plain(value)))
    except (
        RecursionError,
        ValueError,
    ) as problem:  # ValueError: an integer of thousands of digits
        raise UnsupportedOutput(f"Result serialization failed: {type_name(value)}: {problem}") from None


def written(value: object) -> str:
    """The compact JSON text of a value that is plain already."""
    return _WRITER.encode(value)


def utf8(json_text: str) -> bytes:
    """JSON text as bytes; a lone surrogate becomes the escape that JSON has for it."""
    return json_text.encode("utf-8", "backslashreplace")


def plain(value: Any) -> Any:
    """A value as None, bool, int, float, str, list and dict, all the way down.

    :raises UnsupportedOutput: naming the type that has no such form.
    """
    if type(value) in _AS_IT_IS:
        return value
    if isinstance(value, _MISSING):
        return None
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, (float, np.floating, Decimal)):
        number = float(value)
        return number if math.isfinite(number) else None
    if isinstance(value, (str, *_AS_TEXT)):
        return str(value)
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)) and not isinstance(value, np.timedelta64):
        return int(value)
    return _plain_time(value)


def _plain_time(value: Any) -> Any:
    if isinstance(value, (dt.date, dt.time)):  # datetime and pd.Timestamp are dates
        return value.isoformat()
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, np.datetime64):
        return None if np.isnat(value) else str(value)
    if isinstance(value, np.timedelta64):
        return None if np.isnat(value) else float(value / np.timedelta64(1, "s"))
    return _plain_container(value)


def _plain_container(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key_text(key): plain(item) for key, item in value.items()}
    if isinstance(value, _LISTS):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        # Sets of text iterate in another order in every process; one result must be one body.
        return sorted((plain(item) for item in value), key=written)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    if isinstance(value, BaseGeometry):
        return json.loads(shapely.to_geojson(value))
    if isinstance(value, np.ndarray):
        return _plain_array(value)
    if isinstance(value, pd.Series):
        return plain_column(value)
    if isinstance(value, pd.DataFrame):
        return rows(plain_columns(value), len(value))
    raise UnsupportedOutput(f"Result serialization failed: JSON has no form for {type_name(value)}")


def _plain_array(array: np.ndarray[Any, Any]) -> Any:
    if array.dtype.kind in "mM" or array.dtype.names:
        # ``tolist`` would give bare integers for nanoseconds, and tuples for records.
        return [plain(item) for item in array] if array.ndim else plain(array[()])
    return plain(array.tolist())


def key_text(key: object) -> str:
    """A mapping's key as JSON wants it: text is kept, all else is what JSON would say of the value."""
    said = plain(key)
    return said if isinstance(said, str) else written(said)


def names(frame: pd.DataFrame) -> list[str]:
    """Column names as text."""
    return [name_of(label) for label in frame.columns]


def name_of(label: object) -> str:
    """A column's label as text; the levels of a MultiIndex are joined by an underscore."""
    if isinstance(label, tuple):
        return "_".join(key_text(level) for level in label if level != "")
    return key_text(label)


def distinct(wanted: Iterable[str]) -> list[str]:
    """The names, each repetition with the first of ``_2``, ``_3``, … that makes it distinct."""
    listed = list(wanted)
    taken = set(listed)
    seen: set[str] = set()
    for position, name in enumerate(listed):
        if name in seen:
            number = 2
            while f"{name}_{number}" in taken:
                number += 1
            listed[position] = f"{name}_{number}"
            taken.add(listed[position])
        seen.add(name)
    return listed


def plain_columns(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """The columns of a frame by distinct name, each a list of plain values; the index is left out."""
    return {
        name: plain_column(frame.iloc[:, position], name=name)
        for position, name in enumerate(distinct(names(frame)))
    }


def rows(columns: Mapping[str, list[Any]], count: int) -> list[dict[str, Any]]:
    """Columns of equal length turned into row objects."""
    if not columns:
        return [{} for _ in range(count)]
    keys = tuple(columns)
    return [dict(zip(keys, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def plain_column(series: pd.Series[Any], *, name: str | None = None) -> list[Any]:
    """A column as a list of plain values, by its dtype where that is faster than value by value.

    :raises UnsupportedOutput: naming the column and the Python type.
    """
    kind = series.dtype
    if isinstance(kind, np.dtype) and kind.kind in "biuf" and kind.itemsize <= 8:
        return _numbers(series.to_numpy())
    if isinstance(kind, (np.dtype, pd.DatetimeTZDtype)) and kind.kind == "M":
        return _instants(series)
    if isinstance(kind, pd.CategoricalDtype):
        choices = [*plain_column(series.cat.categories.to_series(), name=name), None]
        return [choices[code] for code in series.cat.codes]
    try:
        return [plain(value) for value in series]
    except UnsupportedOutput as problem:
        where = f"column {name!r}: " if name is not None else ""
        raise UnsupportedOutput(problem.message.replace("failed: ", f"failed: {where}", 1)) from None
    except RecursionError:
        raise UnsupportedOutput(f"Result serialization failed: column {name!r} holds itself") from None


def flat_columns(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """As ``plain_columns``, for cells that hold one value: lists and objects are JSON text, columns of
    geometries are WKT in the coordinates they have."""
    return {
        name: flat_column(frame.iloc[:, position], name)
        for position, name in enumerate(distinct(names(frame)))
    }


def flat_column(series: pd.Series[Any], name: str) -> list[Any]:
    """One column as ``flat_columns`` has it."""
    if series.dtype.name == "geometry":
        return list(shapely.to_wkt(series.to_numpy(), rounding_precision=-1))
    column = plain_column(series, name=name)
    if isinstance(series.dtype, np.dtype) and series.dtype.kind != "O":
        return column
    return [written(value) if isinstance(value, (list, dict)) else value for value in column]


def _numbers(values: np.ndarray[Any, Any]) -> list[Any]:
    finite = np.isfinite(values)
    if finite.all():
        numbers: list[Any] = values.tolist()
        return numbers
    cells = values.astype(object)
    cells[~finite] = None
    return list(cells)


def _instants(series: pd.Series[Any]) -> list[Any]:
    """ISO 8601 text; a whole column is written to the second or to its full precision."""
    zone = series.dt.tz
    if zone is not None and str(zone) != "UTC":
        return [plain(value) for value in series]
    values = (series if zone is None else series.dt.tz_localize(None)).to_numpy()
    missing = np.isnat(values)
    seconds = values.astype("M8[s]")
    whole = bool((missing | (seconds == values)).all())
    written = np.datetime_as_string(seconds if whole else values)
    suffix = "" if zone is None else "+00:00"
    return [None if gone else f"{stamp}{suffix}" for stamp, gone in zip(written, missing, strict=True)]
