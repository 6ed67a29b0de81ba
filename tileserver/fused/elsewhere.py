"""Runs and sources that the server is asked for: by a token, of another canvas, in another worker.

What goes wrong over there is raised here as one of the errors that the client of Fused raises.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from tileserver.errors import (
    BadRequest,
    Forbidden,
    NotFound,
    TileServerError,
    UdfError,
    UdfTimeout,
    Unauthorized,
    UnsupportedOutput,
)
from tileserver.fused import state, wire
from tileserver.fused.types import UdfRuntimeError, UdfSerializationError, UdfTimeoutError
from tileserver.protocol import Foreign
from tileserver.units import parse_duration
from tileserver.worker import nested

# Of fused.run itself; they say how and where Fused runs a UDF, which is settled here.
RESERVED: Final = frozenset(
    {"engine", "instance_type", "cache_max_age", "cache", "sync", "verbose", "max_retry", "type"}
    | {"disk_size_gb", "cache_verbose", "cache_reset", "cache_storage"}
)


@dataclass(frozen=True, slots=True)
class Code:
    """The source of a UDF that is passed on to be run."""

    text: str
    entry: str | None
    modules: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run elsewhere gave, and what it printed."""

    value: Any
    logs: str


def run(
    name: str, parameters: Mapping[str, Any], *, code: Code | None = None, as_query: bool = False
) -> Outcome:
    """Have a UDF run elsewhere; ``parameters`` are those of ``fused.run``, its options among them.

    :raises UdfRuntimeError: when the UDF failed, and its kinds.
    :raises LookupError: when there is no such UDF.
    :raises PermissionError: when it is not for whoever owns this run.
    """
    current = state.current()
    given = {key: value for key, value in parameters.items() if key not in RESERVED and key[:1] != "_"}
    asked: dict[str, Any] = {"name": name, "depth": len(state.nested.get())}
    if not {"x", "y", "z"} - given.keys() and parameters.get("type") != "file":
        asked["tile"] = [int(given.pop(key)) for key in ("z", "x", "y")]
    asked["parameters"] = {key: wire.parameter(value, as_query=as_query) for key, value in given.items()}
    asked["max_age"] = _max_age(parameters)
    if code is not None:
        asked |= {"code": code.text, "entry": code.entry}
        asked["modules"] = [{"module_name": n, "source_code": text} for n, text in code.modules.items()]
    try:
        answer, body = nested.ask("run", asked)
    except TileServerError as error:
        current.read_caller |= isinstance(error, UdfError) and error.read_caller
        _raise(error)
    meta = answer["meta"]
    current.read_caller |= bool(meta.get("read_caller"))
    current.uncounted |= bool(meta.get("uncounted"))
    logs = f"{meta.get('stdout', '')}{meta.get('stderr', '')}"
    if parameters.get("verbose") and logs:
        sys.stdout.write(logs)
    return Outcome(wire.result(body, str(answer["media_type"])), logs)


def source(name: str) -> Foreign:
    """The source of a UDF elsewhere. A run that asks for one is not stored: its revision doesn't count it.

    :raises LookupError: when there is none.
    :raises PermissionError: when whoever owns this run may not read it.
    """
    state.current().uncounted = True
    try:
        _, body = nested.ask("source", {"name": name})
    except TileServerError as error:
        _raise(error)
    return Foreign.from_json(json.loads(body))


def _max_age(parameters: Mapping[str, Any]) -> int | None:
    if parameters.get("cache") is False:
        return 0
    age = parameters.get("cache_max_age")
    return None if age is None else parse_duration(age)


def _raise(error: TileServerError) -> NoReturn:
    if isinstance(error, UdfError):
        if error.stdout:
            sys.stdout.write(error.stdout)
        where = "" if error.lineno is None else f" in line {error.lineno}"
        text = f"The UDF returned the following error{where}:\n{error.message}"
        if isinstance(error, UdfTimeout):
            raise UdfTimeoutError(text) from None
        if isinstance(error, UnsupportedOutput):
            raise UdfSerializationError(text) from None
        raise UdfRuntimeError(text, child_exception_class=error.exception_class) from None
    if isinstance(error, NotFound):
        raise LookupError(error.message) from None
    if isinstance(error, Unauthorized | Forbidden):
        raise PermissionError(error.message) from None
    if isinstance(error, BadRequest):
        raise ValueError(error.message) from None
    raise RuntimeError(error.message) from None
