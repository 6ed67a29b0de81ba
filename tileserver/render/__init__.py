"""Any Python value in the first acceptable format that can hold it.

``encode`` sorts the value into a kind, chooses the format, and calls that format's encoder by its
import path, so that nothing heavy is imported before it is needed. Runs in the worker, beside the data.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from tileserver.errors import UnsupportedOutput
from tileserver.formats import BUNDLE_MEDIA_TYPE, FORMATS, PICTURES, SAID, Format, Kind
from tileserver.protocol import Default, Job
from tileserver.render.classify import Classified, classify, type_name

# An encoder returns the body, and facts about it: "bounds", "empty", "media_type" when it isn't the format's.
Encoder = Callable[[Classified, Format, Job], tuple[bytes, dict[str, Any]]]
# Body, media type and facts.
Part = tuple[bytes, str, dict[str, Any]]

_PIXELS = frozenset({Kind.RASTER, Kind.GEORASTER, Kind.IMAGE})
_MARKUP: Final = re.compile(r"\s*<[!?A-Za-z]")


def encode(value: object, job: Job) -> Part:
    """Body, media type and facts of a UDF's result.

    :raises UnsupportedOutput: when the only format asked for can't hold it, or nothing can. The message
        names the Python type.
    """
    with naming(value):
        return encode_classified(classify(value), job)


@contextmanager
def naming(value: object) -> Iterator[None]:
    """What can't be written is said with the Python type of the UDF's result."""
    try:
        yield
    except UnsupportedOutput as problem:
        name = type_name(value)
        if name not in problem.message:
            problem.args = (f"{problem.message} (the result is a {name})",)
        raise


def encode_classified(found: Classified, job: Job) -> Part:
    """``encode`` of a value that has been sorted."""
    if is_nothing(found, job):
        return _nothing(job)
    if found.kind is Kind.RESPONSE:
        from tileserver.render.document import response

        return response(found)
    if found.kind is Kind.BUNDLE:
        return _bundle(found, job)
    row = chosen(found, job)
    body, facts = encoder(row)(found, row, job)
    media_type = facts.pop("media_type", row.media_type)
    return body, media_type, {"kind": str(found.kind), "format": row.name, **facts}


def _bundle(found: Classified, job: Job) -> Part:
    """A zip whatever was asked for, unless that is JSON alone and JSON can say all of it."""
    from tileserver.render.document import bundle

    if job.formats == ("json",):
        row = FORMATS["json"]
        with suppress(UnsupportedOutput):
            body, facts = encoder(row)(found, row, job)
            return body, row.media_type, {"kind": str(found.kind), "format": row.name, **facts}
    body, facts = bundle(found, job)
    return body, BUNDLE_MEDIA_TYPE, {"kind": str(found.kind), "format": "zip", **facts}


def is_nothing(found: Classified, job: Job) -> bool:
    """None; and a table without rows or an empty list where no format asked for can say that. In a tile
    without a format they are a layer with nothing in it."""
    if found.kind is Kind.NONE:
        return True
    if found.kind is Kind.TABLE:
        empty = len(found.value) == 0
    else:
        empty = found.kind is Kind.SIMPLE and isinstance(found.value, list | tuple) and not found.value
    if not empty or not (job.tile is not None or job.formats):
        return False
    return not any(
        found.kind in FORMATS[name].holds for name in (wanted.rpartition(":")[2] for wanted in job.formats)
    )


def chosen(found: Classified, job: Job) -> Format:
    """The format that a value is written in. Markup that nobody asked to have as JSON alone stays HTML, in a
    list that prefers JSON, too."""
    if found.kind is Kind.TEXT and len(job.formats) > 1 and _MARKUP.match(found.value):
        offered = [name for name in job.formats if found.kind in FORMATS[name.rpartition(":")[2]].holds]
        if offered == ["json"]:
            return FORMATS["html"]
    return choose(found.kind, job.formats, job.default)


def encoder(row: Format) -> Encoder:
    module, _, name = row.encoder.partition(":")
    return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]


def choose(kind: Kind, wanted: tuple[str, ...], default: Default) -> Format:
    """The first format of the list that holds the kind, else the kind's default.

    :raises UnsupportedOutput: when exactly one was asked for and it can't hold the kind.
    """
    if len(wanted) == 1 and ":" not in wanted[0]:
        only = FORMATS[wanted[0]]
        if kind in only.holds or kind in only.also:
            return only
        able = ", ".join(name for name, row in FORMATS.items() if kind in row.holds | row.also)
        raise UnsupportedOutput(
            f"Result serialization failed: {only.name} can't hold {SAID[kind]}; {able} can"
        )
    for entry in wanted:
        # "vector:csv" and "raster:png" are the two legacy parameters, each for its own kinds only.
        group, _, name = entry.rpartition(":")
        row = FORMATS[name]
        if (group == "vector" and kind in _PIXELS) or (group == "raster" and kind not in _PIXELS):
            continue
        if kind in row.holds or (group and kind in row.also):
            return row
    return FORMATS[_default(kind, default)]


def _default(kind: Kind, default: Default) -> str:
    if default == "page":
        return "html"
    if kind in _PIXELS:
        return "png"
    if kind is Kind.FEATURES and default in ("tile", "value"):
        return "mvt"
    if kind is Kind.TEXT and default == "data":
        return "html"
    return "json"


def _nothing(job: Job) -> Part:
    """No data: a transparent picture where a map wants one, else an empty body."""
    facts: dict[str, Any] = {"kind": str(Kind.NONE), "empty": True}
    first = job.formats[0].rpartition(":")[2] if job.formats else ""
    if job.default == "tile" and (first in PICTURES or not first):
        from tileserver.render.raster import transparent

        row = FORMATS[first or "png"]
        return transparent(row, job), row.media_type, {**facts, "format": row.name}
    media_type = FORMATS[first].media_type if first else "application/json"
    return b"", media_type, {**facts, "format": first or "json"}
