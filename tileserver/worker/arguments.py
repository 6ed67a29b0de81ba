"""Arguments of a UDF, made from text by the annotations of its parameters, and from the tile's address.

An annotation that isn't known here leaves its value alone. None stays None, and what a caller doesn't
give is left to the function's own default, which is never coerced.
"""

from __future__ import annotations

import datetime
import inspect
import io
import json
import operator
import re
import types as python_types
import typing
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import mercantile
import pandas as pd
import shapely
from geopandas import GeoDataFrame

from tileserver import tiles
from tileserver.errors import CoercionError
from tileserver.fused import types
from tileserver.protocol import Json, RenderOptions
from tileserver.signature import Parameter, Signature
from tileserver.worker import areas


def coerce(
    function: Callable[..., Any],
    arguments: Mapping[str, Json],
    tile: mercantile.Tile | None,
    *,
    signature: Signature,
    options: RenderOptions,
) -> dict[str, object]:
    """Keyword arguments for a run asked for by a request.

    ``arguments`` are text as in a query, a list where a key was repeated, or other JSON values.

    :raises CoercionError: naming the parameter and what it takes.
    """
    kinds = _kinds(function, signature)
    joined = {name: _joined(kinds.get(name), value) for name, value in arguments.items()}
    return _convert(kinds, joined, tile, signature, options)


def convert(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    tile: mercantile.Tile | None,
    *,
    signature: Signature,
    options: RenderOptions,
) -> dict[str, object]:
    """Keyword arguments for a run asked for by another UDF, whose values may be of any Python type.

    :raises CoercionError: naming the parameter and what it takes.
    """
    return _convert(_kinds(function, signature), arguments, tile, signature, options)


def _convert(
    kinds: Mapping[str, object],
    arguments: Mapping[str, Any],
    tile: mercantile.Tile | None,
    signature: Signature,
    options: RenderOptions,
) -> dict[str, object]:
    filled = signature.filled_by_tile if tile is not None else frozenset()
    values: dict[str, object] = {}
    for name, value in arguments.items():
        if name in filled:
            continue
        if name in kinds:
            values[name] = _value(name, kinds[name], value)
        elif signature.takes_any:
            values[name] = as_text(value)
    if tile is not None:
        values |= _tile_values(kinds, tile, signature)
        values |= _size(values, signature, options)
    return values


# -- annotations


def _kinds(function: Callable[..., Any], signature: Signature) -> dict[str, object]:
    """The type of each parameter, with strings resolved and ``Optional`` taken off; None for none."""
    inner = inspect.unwrap(function)
    annotations = getattr(inner, "__annotations__", {})
    names = getattr(inner, "__globals__", {})
    return {
        parameter.name: _kind(annotations.get(parameter.name, parameter.annotation or None), parameter, names)
        for parameter in signature.parameters
    }


def _kind(annotation: object, parameter: Parameter, names: dict[str, Any]) -> object:
    if isinstance(annotation, typing.ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        annotation = _resolved(annotation, parameter, names)
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _kind(typing.get_args(annotation)[0], parameter, names)
    if origin in (typing.Union, python_types.UnionType):
        inner = [member for member in typing.get_args(annotation) if member is not type(None)]
        return _kind(inner[0], parameter, names) if len(inner) == 1 else None
    return origin if origin is not None else annotation


def _resolved(text: str, parameter: Parameter, names: dict[str, Any]) -> object:
    """What a string annotation means: by the function's globals, else by its name."""
    try:
        found = eval(text, names, {})
    except Exception:  # names imported for type checkers only, or nowhere: user code
        found = None
    if isinstance(found, str):
        return _resolved(found, parameter, names) if found != text else None
    # ``import datetime`` makes "datetime" a module, but the annotation means the class.
    if found is not None and not inspect.ismodule(found):
        return found
    for name, kind in (("GeoDataFrame", GeoDataFrame), ("DataFrame", pd.DataFrame)):
        if name in text:
            return kind
    return _NAMED.get(parameter.type_name.strip("'\""))


_NAMED: Final[dict[str, type]] = {
    kind.__name__: kind
    for kind in (
        *(str, int, float, bool, list, dict, tuple),
        *(datetime.datetime, datetime.date, datetime.time, uuid.UUID),
        *(types.Bounds, types.Bbox, types.Tile, types.TileXYZ, types.TileGDF, types.ViewportGDF),
    )
}


# -- repeated keys


# One value each; every other annotation takes a repeated key as a list.
_SCALARS: Final = (
    *(str, int, float, complex, bytes, uuid.UUID, datetime.date, datetime.time),
    *(pd.DataFrame, shapely.Geometry),
)


def _joined(kind: object, value: Json) -> Json:
    """The value of a repeated key: the last one for a scalar, else the list of all."""
    if not isinstance(value, list):
        return value
    texts = [item for item in value if isinstance(item, str)]
    if not texts or len(texts) < len(value):
        return value  # no repeated key, but a list of the caller's
    return texts[-1] if _is_scalar(kind) else [_json_scalar(text) for text in texts]


def _is_scalar(kind: object) -> bool:
    if kind is typing.Literal:
        return True
    return isinstance(kind, type) and issubclass(kind, _SCALARS)


def _json_scalar(text: str) -> Json:
    # NaN and Infinity are words here, as they are in JSON.
    try:
        value: Json = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, list | dict) else value


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


# -- values


class _Converter(NamedTuple):
    read: Callable[[Any], object]
    takes: str


def _value(name: str, kind: object, value: Any) -> object:
    converter = _converter(kind)
    if value is None or converter is None:
        return value
    try:
        return converter.read(value)
    except Exception as error:  # a library reads the caller's data: any of its errors is the caller's
        python_class = type(error).__name__
        text = f"{python_class}: parameter {name!r} takes {converter.takes}: {error}"
        raise CoercionError(text, exception_class=python_class) from None


def _converter(kind: object) -> _Converter | None:
    if not isinstance(kind, type):
        return None
    if issubclass(kind, shapely.Geometry):
        return _Converter(areas.geometry, "a geometry as WKT or GeoJSON")
    return _CONVERTERS.get(kind)


def as_text(value: Any) -> str | None:
    """A value as a query says it; None stays None."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, list | tuple | dict | bool):
        return json.dumps(value, default=str)
    return str(value)


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, list | dict) else str(value)


def _int(value: Any) -> int:
    if isinstance(value, str):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return operator.index(value)


def _bool(value: Any) -> bool:
    return value.lower() not in ("", "false") if isinstance(value, str) else bool(value)


def _tuple(value: Any) -> tuple[Any, ...]:
    return tuple(areas.plain(value))


def _uuid(value: Any) -> uuid.UUID:
    return value if isinstance(value, uuid.UUID) else uuid.UUID(str(value))


_EPOCH_SECONDS = re.compile(r"[0-9]+(\.[0-9]*)?|\.[0-9]+", re.ASCII)


def _datetime(value: Any) -> datetime.datetime:
    if isinstance(value, datetime.datetime):
        return value
    text = str(value).strip()
    if _EPOCH_SECONDS.fullmatch(text):
        return datetime.datetime.fromtimestamp(float(text), tz=datetime.UTC)
    return datetime.datetime.fromisoformat(text)


def _date(value: Any) -> datetime.date:
    if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
        return value
    return _datetime(value).date()


def _time(value: Any) -> datetime.time:
    if isinstance(value, datetime.time):
        return value
    text = str(value).strip()
    if _EPOCH_SECONDS.fullmatch(text):
        return _datetime(text).time()
    return datetime.time.fromisoformat(text)


def _table(value: Any) -> pd.DataFrame:
    if isinstance(value, pd.DataFrame):
        return value
    return pd.read_json(io.StringIO(_text(value)))


# -- the table of annotations

_AREA: Final = "[west, south, east, north] in degrees, or a GeoJSON FeatureCollection"

_CONVERTERS: Final[dict[type, _Converter]] = {
    str: _Converter(_text, "text"),
    int: _Converter(_int, "a whole number"),
    float: _Converter(float, "a number"),
    bool: _Converter(_bool, "true or false"),
    list: _Converter(areas.plain, "a list as JSON, such as [1, 2]"),
    dict: _Converter(areas.plain, 'an object as JSON, such as {"a": 1}'),
    tuple: _Converter(_tuple, "a list as JSON, such as [1, 2]"),
    uuid.UUID: _Converter(_uuid, "a UUID"),
    datetime.datetime: _Converter(_datetime, "a date and time as ISO 8601, or seconds since 1970"),
    datetime.date: _Converter(_date, "a date as ISO 8601, or seconds since 1970"),
    datetime.time: _Converter(_time, "a time as ISO 8601, or seconds since 1970"),
    pd.DataFrame: _Converter(_table, "a table as JSON: a list of records, or columns"),
    GeoDataFrame: _Converter(areas.features, "a GeoJSON FeatureCollection, or [west, south, east, north]"),
    types.Bounds: _Converter(areas.bounds, _AREA),
    types.Bbox: _Converter(areas.bbox, _AREA),
    types.TileXYZ: _Converter(areas.tile_xyz, _AREA),
    types.Tile: _Converter(areas.tile_gdf, _AREA),
    types.TileGDF: _Converter(areas.tile_gdf, _AREA),
    types.ViewportGDF: _Converter(areas.viewport, _AREA),
}


# -- tile runs


def _tile_values(
    kinds: Mapping[str, object], tile: mercantile.Tile, signature: Signature
) -> dict[str, object]:
    values: dict[str, object] = {name: getattr(tile, name) for name in ("x", "y", "z") if name in kinds}
    name = signature.tile_parameter
    if name is not None:
        values[name] = _as_kind(kinds[name], tile)
    return values


def _as_kind(kind: object, tile: mercantile.Tile) -> object:
    """The tile in the form that an annotation asks for; the frame where it asks for none."""
    bounds = list(tiles.bounds(tile))
    if kind is types.TileXYZ:
        return tile
    if kind is str:
        return json.dumps(bounds)
    if kind in (types.Bounds, list):
        return bounds
    if kind is tuple:
        return tuple(bounds)
    if kind is types.Bbox or (isinstance(kind, type) and issubclass(kind, shapely.Geometry)):
        return areas.box(bounds)
    return areas.tile_frame(tile)


def _size(values: Mapping[str, object], signature: Signature, options: RenderOptions) -> dict[str, object]:
    """``size`` of a tile run, in pixels: n times what the caller, the default or the settings say."""
    parameter = signature.parameter("size")
    if parameter is None or "size" in signature.filled_by_tile:
        return {}
    if "size" in values:
        return {"size": _times(values["size"], options.scale)}
    if parameter.required or (parameter.literal is None and options.scale > 1):
        return {"size": options.pixels}
    return {"size": _times(parameter.literal, options.scale)} if options.scale > 1 else {}


def _times(size: object, scale: int) -> object:
    if scale == 1 or isinstance(size, bool):
        return size
    if isinstance(size, str) and size.isascii() and size.isdigit():
        return str(int(size) * scale)
    return size * scale if isinstance(size, int | float) else size
