"""Rows and features as JSON, GeoJSON, CSV, Parquet, Feather, Excel and XML.

The textual formats leave the index out and make column names distinct; Parquet and Feather keep the
index. GeoJSON (and JSON of features) is in EPSG:4326, all others keep the frame's own coordinates.
"""

from __future__ import annotations

import csv as csv_writer
import io
import re
from collections import Counter
from typing import Any, Final
from xml.sax.saxutils import escape

import geopandas as gpd
import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import shapely
from openpyxl.cell import WriteOnlyCell
from openpyxl.styles import Font

from tileserver.errors import UnsupportedOutput
from tileserver.formats import Format, Kind
from tileserver.protocol import Job
from tileserver.render import features
from tileserver.render.classify import Classified, classify, type_name
from tileserver.render.plain import (
    distinct,
    dumps,
    flat_columns,
    names,
    plain_column,
    plain_columns,
    rows,
    utf8,
    written,
)

Encoding = tuple[bytes, dict[str, Any]]

_FAILED: Final = "Result serialization failed:"

_SHEET_ROWS: Final = 1_048_576
_SHEET_COLUMNS: Final = 16_384
_CELL_CHARACTERS: Final = 32_767
_EXACT: Final = 2**53  # numbers in a sheet are doubles
_FIRST_DAY: Final = pd.Timestamp(1900, 1, 1)  # a sheet has no date before it


def json_rows(found: Classified, row: Format, job: Job) -> Encoding:
    """A table as an array of row objects, features as a FeatureCollection, any other value as itself.

    :raises UnsupportedOutput: naming the column or key, and the Python type, that JSON can't say.
    """
    return _json(found), _facts(found)


def geojson(found: Classified, row: Format, job: Job) -> Encoding:
    """A FeatureCollection in EPSG:4326; the features of a plain table have null geometries.

    Further geometry columns are GeoJSON geometries among the properties.
    """
    return _feature_collection(found.value), _facts(found)


def csv(found: Classified, row: Format, job: Job) -> Encoding:
    """A header and a line for each row (RFC 4180, UTF-8); geometry is WKT."""
    columns = flat_columns(found.value)
    page = io.StringIO(newline="")
    # With "\r\n" as the end of a line the writer quotes either of the two inside a cell.
    writer = csv_writer.writer(page, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return page.getvalue().encode("utf-8", "replace"), _facts(found)


def parquet(found: Classified, row: Format, job: Job) -> Encoding:
    """Parquet with the pandas metadata that restores the index; GeoParquet for features.

    :raises UnsupportedOutput: naming the column that Arrow can't hold.
    """
    frame = _arrow_frame(found)
    page = io.BytesIO()
    try:
        if isinstance(frame, gpd.GeoDataFrame):
            frame.to_parquet(page)
        else:
            pyarrow.parquet.write_table(pa.Table.from_pandas(frame), page)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as problem:
        raise _unfit_column(frame, row, problem) from None
    return page.getvalue(), _facts(found)


def feather(found: Classified, row: Format, job: Job) -> Encoding:
    """An Arrow IPC file, uncompressed as every reader can take it; geometry is WKB with ``geo`` metadata.

    :raises UnsupportedOutput: naming the column that Arrow can't hold.
    """
    frame = _arrow_frame(found)
    page = io.BytesIO()
    try:
        if isinstance(frame, gpd.GeoDataFrame):
            frame.to_feather(page, compression="uncompressed")
        else:
            table = pa.Table.from_pandas(frame)
            with pa.ipc.new_file(page, table.schema) as writer:
                writer.write_table(table)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as problem:
        raise _unfit_column(frame, row, problem) from None
    return page.getvalue(), _facts(found)


def excel(found: Classified, row: Format, job: Job) -> Encoding:
    """A workbook with one sheet: a bold header that stays in view, and a line for each row.

    Text is never taken for a formula. Instants without a time zone are dates; with one they are ISO 8601
    text, because a sheet has no time zones.

    :raises UnsupportedOutput: naming the limit of a sheet that is exceeded.
    """
    count, width = found.value.shape
    if count >= _SHEET_ROWS or width > _SHEET_COLUMNS:
        raise UnsupportedOutput(
            f"{_FAILED} a sheet has at most {_SHEET_ROWS - 1:,} rows below its header and {_SHEET_COLUMNS:,} "
            f"columns, and this {type_name(found.original)} has {count:,} rows and {width:,} columns"
        )
    columns = _sheet_columns(found.value)
    workbook = openpyxl.Workbook(write_only=True)
    sheet = workbook.create_sheet("udf")
    sheet.freeze_panes = "A2"
    sheet.append([_header_cell(sheet, name) for name in columns])
    for values in zip(*columns.values(), strict=True):
        sheet.append([_cell(sheet, value) for value in values])
    page = io.BytesIO()
    workbook.save(page)
    return page.getvalue(), _facts(found)


def xml(found: Classified, row: Format, job: Job) -> Encoding:
    """``<data><row><column>value</column>…</row>…</data>``, as pandas reads it; missing values are empty.

    Column names become valid element names; characters that XML 1.0 can't hold are left out.
    """
    columns = flat_columns(found.value)
    tags = distinct(_element_name(name) for name in columns)
    lines = (
        "".join(_element(tag, value) for tag, value in zip(tags, values, strict=True))
        for values in zip(*columns.values(), strict=True)
    )
    body = "\n".join(f"<row>{line}</row>" for line in lines)
    return (
        f"<?xml version='1.0' encoding='utf-8'?>\n<data>\n{body}\n</data>\n".encode(),
        _facts(found),
    )


def _facts(found: Classified) -> dict[str, Any]:
    return features.frame_facts(found.value) if found.kind is Kind.FEATURES else {}


# JSON and GeoJSON


def _json(found: Classified) -> bytes:
    if found.kind is Kind.FEATURES:
        return _feature_collection(found.value)
    if found.kind is Kind.TABLE:
        return utf8(written(rows(plain_columns(found.value), len(found.value))))
    if found.kind is Kind.BUNDLE:
        members = (dumps(str(key)) + b":" + _member(key, value) for key, value in found.value.items())
        return b"{" + b",".join(members) + b"}"
    if found.kind in (Kind.SIMPLE, Kind.ARRAY, Kind.TEXT, Kind.NONE):
        return dumps(found.value)
    raise UnsupportedOutput(f"{_FAILED} JSON has no form for {found.kind} ({type_name(found.original)})")


def _member(key: object, value: object) -> bytes:
    try:
        return _json(classify(value))
    except UnsupportedOutput as problem:
        raise UnsupportedOutput(problem.message.replace(_FAILED, f"{_FAILED} key {str(key)!r}:", 1)) from None


def _feature_collection(frame: pd.DataFrame) -> bytes:
    geometries, properties = _split(frame)
    head = '{"type":"Feature","properties":'
    lines = ",".join(
        f'{head}{written(line)},"geometry":{geometry or "null"}}}'
        for line, geometry in zip(rows(properties, len(frame)), geometries, strict=True)
    )
    return utf8(f'{{"type":"FeatureCollection","features":[{lines}]}}')


def _split(frame: pd.DataFrame) -> tuple[list[str | None], dict[str, list[Any]]]:
    """The active geometries as GeoJSON text, and the columns of properties."""
    active = frame.active_geometry_name if isinstance(frame, gpd.GeoDataFrame) else None
    geometries: list[str | None] = [None] * len(frame)
    properties: dict[str, list[Any]] = {}
    for position, (label, name) in enumerate(zip(frame.columns, distinct(names(frame)), strict=True)):
        series = frame.iloc[:, position]
        if features.is_geometry(series):
            series = features.lonlat(series)
        if active is not None and label == active:
            geometries = list(shapely.to_geojson(series.to_numpy()))
        else:
            properties[name] = plain_column(series, name=name)
    return geometries, properties


# Arrow


def _arrow_frame(found: Classified) -> pd.DataFrame:
    """A shallow copy whose column names are text, without pandas attributes: those need not be JSON.

    :raises UnsupportedOutput: when two columns have the same name.
    """
    labels = names(found.value)
    repeated = [name for name, count in Counter(labels).items() if count > 1]
    if repeated:
        raise UnsupportedOutput(
            f"{_FAILED} two columns of the {type_name(found.original)} are called {repeated[0]!r}"
        )
    frame: pd.DataFrame
    if found.kind is Kind.FEATURES:
        active = labels[list(found.value.columns).index(found.value.active_geometry_name)]
        frame = found.value.set_axis(labels, axis="columns").set_geometry(active)
    else:
        frame = pd.DataFrame(found.value).set_axis(labels, axis="columns")
        for name in labels:
            if features.is_geometry(frame[name]):
                frame[name] = shapely.to_wkb(frame[name].to_numpy())
    frame.attrs = {}
    return frame


def _unfit_column(frame: pd.DataFrame, row: Format, problem: Exception) -> UnsupportedOutput:
    for name in frame.columns:
        series = frame[name]
        if features.is_geometry(series):
            continue
        try:
            pa.array(series, from_pandas=True)
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as reason:
            held = ", ".join(sorted({type_name(value) for value in series.dropna()})[:3])
            return UnsupportedOutput(f"{_FAILED} {row.name} can't hold column {name!r} of {held}: {reason}")
    return UnsupportedOutput(f"{_FAILED} {row.name} can't hold this table: {problem}")


# Excel

_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _sheet_columns(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """Flat columns, but instants as datetimes, and geometries too long for a cell as a note that says so."""
    columns = flat_columns(frame)
    for position, name in enumerate(columns):
        series = frame.iloc[:, position]
        if features.is_geometry(series):
            columns[name] = [_short_wkt(value) for value in columns[name]]
        elif pd.api.types.is_datetime64_dtype(series.dtype) and not (series < _FIRST_DAY).any():
            columns[name] = [None if pd.isna(value) else value.to_pydatetime(warn=False) for value in series]
        # Before the workbook is begun: a half-written one leaves its temporary file behind.
        longest = max((len(value) for value in (name, *columns[name]) if isinstance(value, str)), default=0)
        if longest > _CELL_CHARACTERS:
            raise UnsupportedOutput(
                f"{_FAILED} a cell has at most {_CELL_CHARACTERS:,} characters, and column {name[:40]!r} "
                f"has a text of {longest:,}"
            )
    return columns


def _short_wkt(wkt: str | None) -> str | None:
    if wkt is None or len(wkt) <= _CELL_CHARACTERS:
        return wkt
    return f"{wkt.partition(' ')[0]} (its {len(wkt):,} characters of WKT are too many for a cell)"


def _header_cell(sheet: Any, name: str) -> WriteOnlyCell:
    cell = _text_cell(sheet, name)
    cell.font = Font(bold=True)
    return cell


def _cell(sheet: Any, value: Any) -> Any:
    if isinstance(value, int) and abs(value) > _EXACT:
        return str(value)
    return _text_cell(sheet, value) if isinstance(value, str) else value


def _text_cell(sheet: Any, text: str) -> WriteOnlyCell:
    cell = WriteOnlyCell(sheet, _NOT_IN_XML.sub("", text))
    cell.data_type = "s"  # else "=1+1" would be a formula and "#N/A" an error
    return cell


# XML

_NAME_START = (
    "A-Z_a-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02ff\u0370-\u037d\u037f-\u1fff\u200c-\u200d\u2070-\u218f"
    "\u2c00-\u2fef\u3001-\ud7ff\uf900-\ufdcf\ufdf0-\ufffd\U00010000-\U000effff"
)
_NOT_IN_NAME = re.compile(f"[^{_NAME_START}0-9.\u00b7\u0300-\u036f\u203f-\u2040-]")
_NO_START = re.compile(f"[^{_NAME_START}]")


def _element_name(name: str) -> str:
    tag = _NOT_IN_NAME.sub("_", name)
    return f"_{tag}" if not tag or _NO_START.match(tag) else tag


def _element(tag: str, value: Any) -> str:
    if value is None:
        return f"<{tag}/>"
    said = value if isinstance(value, str) else written(value)
    # A reader turns a bare carriage return into a line feed.
    return f"<{tag}>{escape(_NOT_IN_XML.sub('', said), {chr(13): '&#13;'})}</{tag}>"
