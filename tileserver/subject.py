"""What a result is of: canvas, UDF, revision, tile and argument values, as a purge names them.

Values are brought into one form for each meaning (``2024``, ``"2024"`` and ``2024.0`` are one ``int``), by
the names of annotations alone, so that they can be compared without the UDF.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, time
from typing import Any, Final

from tileserver.protocol import Json

TileKey = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Subject:
    """``owner`` is whose code it is (see ``Bundle``), ``tile`` is z, x, y, and ``values`` has the form of
    each argument by its name."""

    owner: str = ""
    udf: str = ""
    revision: str = ""
    tile: TileKey | None = None
    values: Mapping[str, str] = field(default_factory=dict)


def form(annotation: str, value: Json) -> str:
    """The one form of a value that a parameter of this annotation (by its bare name) takes."""
    if isinstance(value, list) and annotation in _SCALARS and value:
        value = value[-1]  # of a repeated key the last one counts
    try:
        return _FORMS.get(annotation, _plain)(value)
    except (ValueError, TypeError, OverflowError, RecursionError):
        return _text(value)


def forms(value: Json) -> frozenset[str]:
    """All forms that a value may have, whatever the annotation is."""
    return frozenset(form(annotation, value) for annotation in ("", *_FORMS))


def _text(value: Json) -> str:
    return f"text {value if isinstance(value, str) else json.dumps(value, sort_keys=True)}"


def _int(value: Any) -> str:
    if isinstance(value, float) and not value.is_integer():
        raise ValueError("no whole number")
    return f"number {int(value)}"


def _number(value: Any) -> str:
    number = float(value)
    whole = math.isfinite(number) and number.is_integer() and abs(number) < 2**53
    return f"number {int(number) if whole else number!r}"


def _bool(value: Any) -> str:
    truth = value.lower() not in ("", "false") if isinstance(value, str) else bool(value)
    return f"switch {truth}"


def _json(value: Any) -> str:
    items = [_loads(v) if isinstance(v, str) else v for v in value] if isinstance(value, list) else value
    return f"json {json.dumps(json.loads(value) if isinstance(value, str) else items, sort_keys=True)}"


def _loads(text: str) -> Any:
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return text if isinstance(found, list | dict) else found


def _moment(value: Any) -> datetime:
    text = str(value).strip()
    if text.replace(".", "", 1).isdecimal():
        return datetime.fromtimestamp(float(text), tz=UTC)
    return datetime.fromisoformat(text)


def _time(value: Any) -> str:
    text = str(value).strip()
    is_number = text.replace(".", "", 1).isdecimal()
    return f"time {(_moment(text).time() if is_number else time.fromisoformat(text)).isoformat()}"


def _plain(value: Any) -> str:
    """Without an annotation a value stays as it is; numbers count as numbers, however they are written."""
    if isinstance(value, bool | list | dict):
        return _json(value)
    try:
        return _number(value)
    except ValueError:
        return _text(value)


_SCALARS: Final = frozenset({"str", "int", "float", "complex", "bytes", "UUID", "date", "datetime", "time"})
_FORMS: Final[Mapping[str, Callable[[Any], str]]] = {
    "str": _text,
    "int": _int,
    "float": _number,
    "bool": _bool,
    "list": _json,
    "tuple": _json,
    "dict": _json,
    "UUID": lambda value: f"uuid {uuid.UUID(str(value))}",
    "datetime": lambda value: f"moment {_moment(value).isoformat()}",
    "date": lambda value: f"date {_moment(value).date().isoformat()}",
    "time": _time,
}
