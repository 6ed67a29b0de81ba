"""The OpenAPI document of a canvas: one GET for each UDF, its parameters typed as far as JSON Schema goes.

A pure function of signatures. A default that its own schema would refuse is left out: the function knows
it, and a document that contradicts itself is refused by the programs that it is for.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from tileserver import formats
from tileserver.params import is_reserved
from tileserver.protocol import Json
from tileserver.signature import Parameter
from tileserver.udf import Udf

Schema = dict[str, Any]

SESSION: Final = "fused_session_token"
PASSCODE: Final = "canvas_passcode"
ACCESS_TOKEN: Final = "access_token"  # noqa: S105 - the name of a scheme

_SCHEMES: Final[dict[str, Schema]] = {
    SESSION: {
        "type": "apiKey",
        "in": "query",
        "name": "fused_session_token",
        "description": "A session token of the canvas; it opens all of its UDFs.",
    },
    PASSCODE: {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "The words fused-canvas-passcode, a space, and the passcode of the canvas.",
    },
    ACCESS_TOKEN: {"type": "http", "scheme": "bearer", "description": "An access token of this server."},
}

_SHARED: Final[dict[str, Schema]] = {
    "cache_max_age": {
        "name": "cache_max_age",
        "in": "query",
        "required": False,
        "description": "How old a stored result may be, in seconds. 0 runs the UDF and stores nothing.",
        "schema": {"type": "integer", "minimum": 0},
    },
    "format": {
        "name": "format",
        "in": "query",
        "required": False,
        "description": "The format of the result.",
        "schema": {"type": "string", "enum": list(formats.FORMATS), "default": "json"},
    },
}


def document(
    title: str, udfs: Iterable[Udf], base_url: str, *, security: str | None, description: str = ""
) -> dict[str, Any]:
    """OpenAPI 3.0.3 of these UDFs below ``base_url``, for callers who need the ``security`` scheme.

    UDFs that ask for another machine (``engine=``), and those that their canvas doesn't list, are left out.
    """
    info = {
        "title": title,
        "version": "1.0.0",
        **({"description": _text(description)} if description else {}),
    }
    return {
        "openapi": "3.0.3",
        "info": info,
        "servers": [{"url": base_url}],
        "security": [{security: []}] if security else [],
        "paths": dict(_paths(udf for udf in udfs if udf.listed and not udf.signature.engine)),
        "components": {
            "parameters": _SHARED,
            "securitySchemes": {security: _SCHEMES[security]} if security else {},
        },
    }


def as_json(document: Mapping[str, Any]) -> bytes:
    """The document as ASCII, which can say all that Python's texts can."""
    return json.dumps(document, allow_nan=False).encode()


def _paths(udfs: Iterable[Udf]) -> Iterator[tuple[str, Schema]]:
    taken: set[str] = set()
    for udf in udfs:
        operation: Schema = {
            "operationId": _unique(udf.name.replace("-", "_").replace("/", "_"), taken),
            "summary": f"Run UDF: {udf.name}",
        }
        if description := udf.about or udf.signature.doc:
            operation["description"] = _text(description)
        operation["parameters"] = [
            *(_parameter(p, udf) for p in udf.signature.parameters if not is_reserved(p.name)),
            *({"$ref": f"#/components/parameters/{name}"} for name in _SHARED),
        ]
        operation["responses"] = {
            "200": {"description": "The result."},
            "422": {"description": "A malformed request, or the UDF failed; `detail` says how."},
        }
        yield f"/{quote(udf.name, safe='')}", {"get": operation}


def _unique(wanted: str, taken: set[str]) -> str:
    name, count = wanted, 1
    while name in taken:
        count += 1
        name = f"{wanted}_{count}"
    taken.add(name)
    return name


def _text(text: str) -> str:
    """A text without halves of characters, which few parsers of JSON take."""
    return text.encode("utf-8", errors="replace").decode()


# -- parameters


def _parameter(parameter: Parameter, udf: Udf) -> Schema:
    found = _read(parameter.annotation)
    schema = found.schema()
    if parameter.choices and all(isinstance(choice, str) for choice in parameter.choices):
        schema["enum"] = list(parameter.choices)
    default = udf.defaults.get(parameter.name, parameter.literal)
    if default is not None and (shown := _fitting(default, schema)) is not None:
        schema["default"] = shown
    stored = udf.defaults.get(parameter.name) is not None
    return {
        "name": parameter.name,
        "in": "query",
        "required": parameter.required and not found.optional and not stored,
        "schema": schema,
    }


def _fitting(value: Json, schema: Schema) -> Json:
    """A default as the schema takes it; None where it doesn't."""
    kind = schema["type"]
    if kind == "string" and not isinstance(value, str):
        # As a query would say it.
        value = _said(value)
    if not _is(value, kind) or _said(value) is None or value not in schema.get("enum", [value]):
        return None
    if isinstance(value, list) and not all(_is_item(item, schema["items"]) for item in value):
        return None
    form = _FORMS.get(schema.get("format", ""))
    return value if form is None or form.fullmatch(str(value)) else None


def _is_item(value: Json, schema: Schema) -> bool:
    return "type" not in schema or (value is not None and _fitting(value, schema) == value)


def _said(value: Json) -> str | None:
    """A value as JSON; None for what JSON hasn't: infinity, numbers of thousands of digits, halves of
    characters."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (ValueError, RecursionError):
        return None
    return text


# RFC 3339 is narrower than what Python reads.
_FORMS: Final = {
    "date-time": re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII),
    "date": re.compile(r"\d{4}-\d\d-\d\d", re.ASCII),
    "uuid": re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}", re.ASCII),
}


def _is(value: Json, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _PYTHON[kind])


_PYTHON: Final[dict[str, type | tuple[type, ...]]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
}


# -- annotations


@dataclass(frozen=True, slots=True)
class _Annotation:
    """The bare name of an annotation, what stands in its brackets, and whether None is one of its values."""

    name: str
    inner: tuple[ast.expr, ...] = ()
    optional: bool = False

    def schema(self) -> Schema:
        if self.name in _ARRAYS:
            return {"type": "array", "items": self._items()}
        return dict(_TYPES.get(self.name, {"type": "string"}))

    def _items(self) -> Schema:
        members = [_of(node) for node in self.inner if not _is_ellipsis(node)]
        schemas = [member.schema() for member in members]
        plain = len(schemas) == 1 and not members[0].optional and members[0].name in _SCALARS
        return schemas[0] if plain else {}


_ARRAYS: Final = frozenset({"list", "List", "tuple", "Tuple", "set", "Set", "frozenset"})
_SCALARS: Final = frozenset({"str", "int", "float", "bool"})

_BOUNDS: Final = {
    "type": "string",
    "description": "An area: [west, south, east, north] in degrees as JSON, or a GeoJSON FeatureCollection",
}
_GEOMETRY: Final = {"type": "string", "description": "A geometry as WKT or GeoJSON"}
_TYPES: Final[dict[str, Schema]] = {
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "dict": {"type": "object"},
    "Dict": {"type": "object"},
    "datetime": {"type": "string", "format": "date-time"},
    "date": {"type": "string", "format": "date"},
    "time": {"type": "string", "format": "time"},
    "UUID": {"type": "string", "format": "uuid"},
    "GeoDataFrame": {
        "type": "string",
        "description": "A GeoJSON FeatureCollection, or [west, south, east, north] in degrees as JSON",
    },
    "DataFrame": {"type": "string", "description": "A table as JSON: a list of records, or columns"},
    **dict.fromkeys(
        (
            *("Geometry", "BaseGeometry", "Point", "MultiPoint", "LineString", "MultiLineString"),
            *("LinearRing", "Polygon", "MultiPolygon", "GeometryCollection"),
        ),
        _GEOMETRY,
    ),
    **dict.fromkeys(("Bounds", "Bbox", "Tile", "TileXYZ", "TileGDF", "ViewportGDF"), _BOUNDS),
}


def _read(text: str) -> _Annotation:
    try:
        return _of(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return _Annotation("")


def _of(node: ast.expr) -> _Annotation:
    match node:
        case ast.Constant(value=str(text)):
            return _read(text)
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return _Annotation(name)
        case ast.BinOp(op=ast.BitOr()):
            return _union(tuple(_members(node)))
        case ast.Subscript(value=outer, slice=index):
            inner = tuple(index.elts) if isinstance(index, ast.Tuple) else (index,)
            name = _of(outer).name
            if name == "Optional":
                return _union((*inner, ast.Constant(None)))
            if name == "Union":
                return _union(inner)
            return _of(inner[0]) if name == "Annotated" and inner else _Annotation(name, inner)
    return _Annotation("")


def _members(node: ast.expr) -> Iterator[ast.expr]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        yield from _members(node.left)
        yield from _members(node.right)
    else:
        yield node


def _union(members: tuple[ast.expr, ...]) -> _Annotation:
    """``Optional[T]`` is a T; a union of several types is none of them."""
    kinds = [member for member in members if not _is_none(member)]
    optional = len(kinds) < len(members)
    if len(kinds) != 1:
        return _Annotation("", optional=optional)
    found = _of(kinds[0])
    return _Annotation(found.name, found.inner, optional=optional or found.optional)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _is_ellipsis(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is ...
