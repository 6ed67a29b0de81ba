"""What a run asks of the server while it runs, as its worker's frame says it.

Pure. A worker runs other people's code, so that each part of a frame is checked as a request's would be.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from tileserver.errors import BadRequest
from tileserver.params import Address
from tileserver.posted import MAX_CODE, Posted, modules_of
from tileserver.protocol import Json
from tileserver.tiles import valid_tile

MAX_BODY: Final = 8 * 2**20  # it is read on the event loop, where others wait meanwhile
FORMATS: Final = "npy,tiff,parquet,json"  # what can be made into the value again

_LONGEST_NAME: Final = 2000


@dataclass(frozen=True, slots=True)
class Run:
    """A run of another UDF: by its ``name`` (a token, ``canvas/name``, or a name of the same owner), or of
    ``code``. ``depth`` UDFs have called one another inside the worker that asks."""

    name: str
    parameters: Mapping[str, Json]
    address: Address
    query: tuple[tuple[str, str], ...]
    depth: int = 0
    code: Posted | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """The source of a UDF by an address, a token or a name."""

    name: str


def parse(header: Mapping[str, Any], body: bytes) -> Run | Load:
    """Read a frame.

    :raises BadRequest: for anything that isn't one of the two.
    """
    if len(body) > MAX_BODY:
        raise BadRequest(f"what a run asks for is longer than {MAX_BODY} bytes")
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequest("what a run asks for is not JSON") from None
    if not isinstance(asked, dict):
        raise BadRequest("what a run asks for is no JSON object")
    name = asked.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME or not _can_be_written(name):
        raise BadRequest("a run asks for something by its name")
    if header.get("ask") == "source":
        return Load(name)
    if header.get("ask") != "run":
        raise BadRequest(f"a run can't ask for {str(header.get('ask'))[:40]!r}")
    parameters = asked.get("parameters")
    if not isinstance(parameters, dict):
        raise BadRequest("a nested run has no parameters")
    depth = asked.get("depth")
    return Run(
        name=name,
        parameters=parameters,
        address=Address(tile=_tile(asked.get("tile"))),
        query=tuple(_query(asked)),
        depth=depth if isinstance(depth, int) and 0 <= depth < 100 else 0,
        code=_code(name, asked) if asked.get("code") is not None else None,
    )


def _can_be_written(text: str) -> bool:
    """Whether UTF-8 holds a text: JSON can write halves of characters."""
    return text.encode(errors="replace").decode() == text


def _tile(value: object) -> Any:
    if value is None:
        return None
    if not isinstance(value, list) or len(value) != 3:
        raise BadRequest("a tile is z, x and y")
    z, x, y = (str(number) for number in value)
    return valid_tile(z, x, y)


def _query(asked: Mapping[str, Any]) -> list[tuple[str, str]]:
    query = [("format", FORMATS)]
    if asked.get("max_age") is not None:
        query.append(("cache_max_age", str(asked["max_age"])))
    return query


def _code(name: str, asked: Mapping[str, Any]) -> Posted:
    code, entry = asked["code"], asked.get("entry")
    if not isinstance(code, str) or not code.strip() or len(code) > MAX_CODE:
        raise BadRequest(f"the code of a UDF is text of up to {MAX_CODE} characters")
    modules = asked.get("modules")
    return Posted(
        name=name,
        code=code,
        entry=entry if isinstance(entry, str) and entry else None,
        parameters={},
        modules=dict(modules_of(modules, ("modules",))),
    )
