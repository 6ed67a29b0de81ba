"""HTML pages, SVG, ready-made responses and zip bundles.

A page stands alone: no script, no address outside itself, every value escaped, light or dark as the
reader's system is. A bundle has a member for each key and ``meta.json`` with their content types.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import zipfile
from collections.abc import AsyncIterable
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any, Final

import pandas as pd

from tileserver import replies
from tileserver.errors import UnsupportedOutput
from tileserver.formats import BUNDLE_MEDIA_TYPE, FORMATS, Format, Kind
from tileserver.protocol import Job
from tileserver.render import encoder, features
from tileserver.render.classify import Classified, classify, type_name
from tileserver.render.plain import distinct, dumps, flat_columns, plain, written

Encoding = tuple[bytes, dict[str, Any]]

_FAILED: Final = "Result serialization failed:"
_ROWS_SHOWN: Final = 1000
_COLUMNS_SHOWN: Final = 100
_CELL_SHOWN: Final = 200  # characters
_JSON_SHOWN: Final = 1_000_000  # characters

# Images that every browser shows; others are shown as PNG.
_SHOWN_AS_THEY_ARE: Final = frozenset({"image/png", "image/jpeg", "image/webp", "image/gif", "image/avif"})

_MEMBER_FORMATS: Final = {
    Kind.TABLE: "parquet",
    Kind.FEATURES: "parquet",
    Kind.RASTER: "npy",
    Kind.ARRAY: "npy",
    Kind.GEORASTER: "tiff",
    Kind.TEXT: "html",
    Kind.SIMPLE: "json",
    Kind.NONE: "json",
}

_BYTES: Final = "application/octet-stream"


def html(found: Classified, row: Format, job: Job) -> Encoding:
    """Text as it is; a table, a picture or a plain value as a page that shows it."""
    if found.kind is Kind.TEXT:
        return found.value.encode("utf-8", "replace"), {}
    if found.kind in (Kind.TABLE, Kind.FEATURES):
        facts = features.frame_facts(found.value) if found.kind is Kind.FEATURES else {}
        return _page(job, _table(found.value, job)), facts
    if found.kind in (Kind.SIMPLE, Kind.ARRAY):
        return _page(job, _json_block(found.value)), {}
    content, facts = _picture(found, job)
    return _page(job, content), facts


def svg(found: Classified, row: Format, job: Job) -> Encoding:
    """Text as it is."""
    return found.value.encode("utf-8", "replace"), {}


def response(found: Classified) -> tuple[bytes, str, dict[str, Any]]:
    """Body, media type and facts of a Starlette response or its like.

    Facts: ``status``, and ``headers`` with Content-Disposition and those ``x-`` headers that are not the
    server's own.

    :raises UnsupportedOutput: when the response has neither a body, a path nor an iterator of chunks, or
        a status or header that can't be sent.
    """
    value = found.value
    status = _status(value)
    headers = {str(name).lower(): str(text) for name, text in (getattr(value, "headers", None) or {}).items()}
    media_type = headers.get("content-type") or getattr(value, "media_type", None) or _BYTES
    kept = {name: text for name, text in headers.items() if replies.may_set(name)}
    for name, text in (*kept.items(), ("content-type", str(media_type))):
        if not replies.is_header(name, text):
            raise UnsupportedOutput(f"{_FAILED} {type_name(value)}: the header {name!r} can't be sent")
    if len(kept) > replies.MOST_HEADERS:
        raise UnsupportedOutput(
            f"{_FAILED} {type_name(value)} has {len(kept)} headers of its own; at most "
            f"{replies.MOST_HEADERS} can be sent"
        )
    facts = {"kind": str(Kind.RESPONSE), "format": "response", "status": status, "headers": kept}
    return b"" if status in replies.BODYLESS else _body(value), str(media_type), facts


def bundle(found: Classified, job: Job) -> Encoding:
    """A zip with a member for each key and ``meta.json``: ``{"files": {member: {"content_type": …}}}``.

    A member is named as its key, which clients read it by, but for what could lead out of a folder. Tables
    are
    (Geo)Parquet, arrays NPY, georeferenced rasters GeoTIFF, text HTML, images and responses their own type,
    dicts with any of these zip, all else JSON.

    :raises UnsupportedOutput: naming the key whose value can't be written.
    """
    members = distinct(["meta.json", *(_member_name(key) for key in found.value)])[1:]
    listed: dict[str, dict[str, str]] = {}
    page = io.BytesIO()
    with zipfile.ZipFile(page, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, (key, value) in zip(members, found.value.items(), strict=True):
            body, media_type = _member(key, value, job)
            archive.writestr(_entry(name), body)
            listed[name] = {"content_type": media_type}
        archive.writestr(_entry("meta.json"), dumps({"files": listed}))
    return page.getvalue(), {}


# Bundles


def _member(key: object, value: object, job: Job) -> tuple[bytes, str]:
    try:
        found = classify(value)
        if found.kind is Kind.BUNDLE:
            return bundle(found, job)[0], BUNDLE_MEDIA_TYPE
        if found.kind is Kind.IMAGE:
            return found.value, found.media_type or _BYTES
        if found.kind is Kind.RESPONSE:
            body, media_type, _ = response(found)
            return body, media_type
        row = FORMATS[_MEMBER_FORMATS[found.kind]]
        return encoder(row)(found, row, job)[0], row.media_type
    except UnsupportedOutput as problem:
        raise UnsupportedOutput(problem.message.replace(_FAILED, f"{_FAILED} key {str(key)!r}:", 1)) from None


def _member_name(key: object) -> str:
    """A key as a path inside of any folder: not absolute, no way up, at most 200 bytes."""
    name = re.sub(r"[\x00-\x1f\x7f\\\ud800-\udfff]", "_", str(key))
    name = re.sub(r"^[A-Za-z]:|^/|//+|(?<![^/])\.{1,2}(?![^/])|/$", "_", name)
    return name.encode()[:200].decode(errors="ignore") or "_"


def _entry(name: str) -> zipfile.ZipInfo:
    # A fixed time, so that equal results are equal bytes.
    entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry


# Responses


def _status(value: Any) -> int:
    status = value.status_code
    if isinstance(status, int) and int(status) in replies.STATUSES:
        return int(status)
    raise UnsupportedOutput(f"{_FAILED} {type_name(value)} has the status {status!r}; 200 to 599 can be sent")


def _body(value: Any) -> bytes:
    body = getattr(value, "body", None)
    if isinstance(body, str):
        return body.encode("utf-8", "replace")
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    chunks = getattr(value, "body_iterator", None)
    if isinstance(chunks, AsyncIterable):
        return asyncio.run(_collected(chunks))
    path = getattr(value, "path", None)
    if path is not None:
        try:
            return Path(path).read_bytes()
        except OSError as problem:
            raise UnsupportedOutput(
                f"{_FAILED} the file of the {type_name(value)} can't be read: {problem.strerror}"
            ) from None
    raise UnsupportedOutput(f"{_FAILED} {type_name(value)} has no body, path or body_iterator")


async def _collected(chunks: AsyncIterable[str | bytes]) -> bytes:
    return b"".join([chunk.encode() if isinstance(chunk, str) else bytes(chunk) async for chunk in chunks])


# Pages


def _table(frame: pd.DataFrame, job: Job) -> str:
    """The first rows and columns of a table; long cells are cut, and geometries with them."""
    shown = frame.iloc[:_ROWS_SHOWN, :_COLUMNS_SHOWN]
    columns = flat_columns(shown)
    numeric = [
        pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind) for kind in shown.dtypes
    ]
    head = "".join(
        f"<th{' class=n' if right else ''}>{escape(name)}</th>"
        for name, right in zip(columns, numeric, strict=True)
    )
    lines = "\n".join(
        f"<tr>{''.join(_cell(value, right) for value, right in zip(values, numeric, strict=True))}</tr>"
        for values in zip(*columns.values(), strict=True)
    )
    note = _size_note(frame, len(shown.columns), job)
    empty = "" if len(frame) else '<p class="empty">There are no rows.</p>'
    table = f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{lines}\n</tbody></table>"
    return f'<p class="note">{note}</p>\n<div class="scroll">{table}</div>{empty}'


def _size_note(frame: pd.DataFrame, columns: int, job: Job) -> str:
    count, width = frame.shape
    size = f"{_count(count, 'row')}, {_count(width, 'column')}"
    left_out = []
    if count > _ROWS_SHOWN:
        left_out.append(f"the first {_ROWS_SHOWN:,} rows")
    if width > columns:
        left_out.append(f"the first {columns:,} columns")
    if not left_out:
        return size
    return f"{size}. Shown: {' and '.join(left_out)}; the address with <code>.csv</code> has all."


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _cell(value: Any, right: bool) -> str:
    if value is None:
        return f'<td class="none{" n" if right else ""}"></td>'
    said = value if isinstance(value, str) else written(value)
    if len(said) > _CELL_SHOWN:
        said = f"{said[:_CELL_SHOWN]}…"
    return f"<td{' class=n' if right else ''}>{escape(said)}</td>"


def _json_block(value: object) -> str:
    try:
        said = json.dumps(plain(value), ensure_ascii=False, allow_nan=False, indent=2)
    except (RecursionError, ValueError) as problem:
        raise UnsupportedOutput(f"{_FAILED} {type_name(value)}: {problem}") from None
    note = ""
    if len(said) > _JSON_SHOWN:
        size = f"{_JSON_SHOWN:,} of {len(said):,} characters"
        note = f'<p class="note">Shown: the first {size}; the address with <code>.json</code> has all.</p>\n'
        said = said[:_JSON_SHOWN]
    return f'{note}<pre class="scroll">{escape(said)}</pre>'


def _picture(found: Classified, job: Job) -> tuple[str, dict[str, Any]]:
    if found.kind is Kind.IMAGE and found.media_type in _SHOWN_AS_THEY_ARE:
        body, media_type = found.value, found.media_type
        facts: dict[str, Any] = {}
    else:
        row = FORMATS["png"]
        body, facts = encoder(row)(found, row, replace(job, formats=(row.name,)))
        media_type = facts.pop("media_type", row.media_type)
    address = f"data:{media_type};base64,{base64.b64encode(body).decode()}"
    caption = _picture_note(found)
    return (
        f'<p class="note">{caption}</p>\n<figure><img alt="{escape(job.udf)}" src="{address}"></figure>',
        facts,
    )


def _picture_note(found: Classified) -> str:
    if found.kind is Kind.IMAGE:
        return escape(found.media_type or "image")
    bands, height, width = found.value.shape
    note = f"{width:,} by {height:,} pixels, {_count(bands, 'band')}, {found.value.dtype}"
    if found.bounds is None:
        return escape(note)
    box = ", ".join(f"{edge:.6g}" for edge in found.bounds)
    return escape(f"{note}; bounds {box}")


def _page(job: Job, content: str) -> bytes:
    title = escape(job.udf)
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{title}</h1>
{content}
</body>
</html>
"""
    return page.encode("utf-8", "replace")


_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5d6b7c; --paper: #fff; --line: #dfe4ea;
  --band: #f5f7f9; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e9f0; --soft: #94a1b2; --paper: #14181e; --line: #2d3540; --band: #1b2129; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 90rem; padding: 1.5rem; color: var(--ink); background: var(--paper);
  font: 0.9rem/1.5 system-ui, sans-serif; }
h1 { margin: 0 0 0.75rem; font-size: 1.25rem; font-weight: 600; overflow-wrap: anywhere; }
code, pre { font-family: ui-monospace, monospace; font-size: 0.85rem; }
.note, .empty { margin: -0.5rem 0 1rem; color: var(--soft); }
.empty { margin: 1rem 0; }
.scroll { overflow: auto; max-height: calc(100vh - 7.5rem); border: 1px solid var(--line);
  border-radius: 8px; }
table { border-collapse: separate; border-spacing: 0; width: 100%; }
th, td { padding: 0.4rem 0.75rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
td { max-width: 32rem; overflow-wrap: break-word; }
th { position: sticky; top: 0; background: var(--band); font-weight: 600; white-space: nowrap; }
tbody tr:last-child td { border-bottom: 0; }
tbody tr:hover { background: var(--band); }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.none::after { content: "-"; color: var(--soft); }
pre { margin: 0; padding: 1rem; background: var(--band); white-space: pre-wrap; overflow-wrap: anywhere; }
figure { margin: 0; display: inline-block; max-width: 100%; border: 1px solid var(--line); border-radius: 8px;
  overflow: hidden;
  background: repeating-conic-gradient(var(--band) 0 25%, var(--paper) 0 50%) 0 0 / 16px 16px; }
img { display: block; max-width: 100%; height: auto; min-width: 16rem; image-rendering: pixelated; }
"""
