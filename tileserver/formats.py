"""The table of output formats: names, extensions, media types, and what each can hold.

Media types are exact: clients compare some of them by equality (no charset on JSON, for one).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tileserver.errors import UnknownFormat


class Kind(StrEnum):
    """What a UDF returned, as far as the choice of a format goes."""

    TABLE = "table"  # rows without geometry
    FEATURES = "features"  # rows with geometry
    RASTER = "raster"  # an array and nothing else
    GEORASTER = "georaster"  # an array that knows where it lies
    IMAGE = "image"  # an encoded image
    ARRAY = "array"  # an array that is no picture: a list of numbers, texts or times
    TEXT = "text"  # str, taken for HTML
    SIMPLE = "simple"  # what JSON can say
    BUNDLE = "bundle"  # a dict of tables, rasters and texts
    RESPONSE = "response"  # a ready-made HTTP response
    NONE = "none"  # no data


_ROWS = frozenset({Kind.TABLE, Kind.FEATURES})
_PIXELS = frozenset({Kind.RASTER, Kind.GEORASTER})
_NOTHING: frozenset[Kind] = frozenset()


# How messages call them.
SAID: dict[Kind, str] = {
    Kind.TABLE: "a table without geometry",
    Kind.FEATURES: "a table with geometry",
    Kind.RASTER: "an array",
    Kind.GEORASTER: "an array with bounds",
    Kind.IMAGE: "an encoded image",
    Kind.ARRAY: "an array that is no picture",
    Kind.TEXT: "text",
    Kind.SIMPLE: "a plain value",
}


@dataclass(frozen=True, slots=True)
class Format:
    """``holds``: chosen from a list of preferences for these kinds. ``also``: able to hold these too,
    when it is the only format asked for."""

    name: str
    extensions: tuple[str, ...]
    media_type: str
    holds: frozenset[Kind]
    also: frozenset[Kind]
    encoder: str  # import path, resolved in the worker only


_TABLE = "tileserver.render.table"
_RASTER = "tileserver.render.raster"
_DOCUMENT = "tileserver.render.document"
_DRAWN = frozenset({Kind.FEATURES, Kind.IMAGE})
_SHEET = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"

# fmt: off
FORMATS: dict[str, Format] = {
    row.name: row
    for row in (
        Format("parquet", ("parquet", "pq"), "application/octet-stream", _ROWS, _NOTHING, f"{_TABLE}:parquet"),
        Format("geojson", ("geojson",), "application/geo+json", _ROWS, _NOTHING, f"{_TABLE}:geojson"),
        Format("json", ("json",), "application/json", _ROWS | {Kind.SIMPLE, Kind.ARRAY, Kind.TEXT}, frozenset({Kind.BUNDLE}), f"{_TABLE}:json_rows"),
        Format("csv", ("csv",), "text/csv; charset=utf-8", _ROWS, _NOTHING, f"{_TABLE}:csv"),
        Format("mvt", ("mvt", "pbf"), "application/vnd.mapbox-vector-tile", frozenset({Kind.FEATURES}), _NOTHING, "tileserver.render.vector_tile:mvt"),
        Format("feather", ("feather",), "application/vnd.apache.arrow.file", _ROWS, _NOTHING, f"{_TABLE}:feather"),
        Format("excel", ("xlsx",), _SHEET, _ROWS, _NOTHING, f"{_TABLE}:excel"),
        Format("xml", ("xml",), "application/xml", _ROWS, _NOTHING, f"{_TABLE}:xml"),
        Format("html", ("html",), "text/html; charset=utf-8", _ROWS | _PIXELS | {Kind.IMAGE, Kind.TEXT, Kind.SIMPLE, Kind.ARRAY}, _NOTHING, f"{_DOCUMENT}:html"),
        Format("png", ("png",), "image/png", _PIXELS, _DRAWN, f"{_RASTER}:picture"),
        Format("jpeg", ("jpeg", "jpg"), "image/jpeg", _PIXELS, _DRAWN, f"{_RASTER}:picture"),
        Format("gif", ("gif",), "image/gif", _PIXELS, _DRAWN, f"{_RASTER}:picture"),
        Format("webp", ("webp",), "image/webp", _PIXELS, _DRAWN, f"{_RASTER}:picture"),
        Format("apng", ("apng",), "image/apng", _PIXELS, _DRAWN, f"{_RASTER}:picture"),
        Format("svg", ("svg",), "image/svg+xml", frozenset({Kind.TEXT}), _NOTHING, f"{_DOCUMENT}:svg"),
        Format("tiff", ("tiff", "tif"), "image/tiff", _PIXELS, frozenset({Kind.IMAGE}), f"{_RASTER}:tiff"),
        Format("npy", ("npy",), "application/x-numpy-data", frozenset({Kind.RASTER, Kind.ARRAY}), frozenset({Kind.GEORASTER}), f"{_RASTER}:npy"),
    )
}
# fmt: on

BUNDLE_MEDIA_TYPE = "application/zip"
PICTURES = frozenset(name for name, row in FORMATS.items() if row.encoder == f"{_RASTER}:picture")
_ALIASES = {"jpg": "jpeg", "tif": "tiff", "pbf": "mvt", "pq": "parquet", "xlsx": "excel"}

# Files that GIS programs look for beside a layer; a quick 404, never a run.
SIDECARS = frozenset({"aux.xml", "csvt", "prj", "cpg", "dbf", "shx", "ovr", "msk", "tfw", "wld", "idx"})


def sidecar(name: str) -> str | None:
    """The extension of a side-car file, where a name has one."""
    return next((e for e in SIDECARS if name.endswith(f".{e}") and name.removesuffix(f".{e}")), None)


def named(name: str) -> Format:
    """The format of a name or alias, in any case.

    :raises UnknownFormat: naming the known ones.
    """
    lowered = name.strip().lower()
    row = FORMATS.get(_ALIASES.get(lowered, lowered))
    if row is None:
        raise UnknownFormat(f"unknown format {name[:40]!r}; known: {', '.join(FORMATS)}")
    return row
