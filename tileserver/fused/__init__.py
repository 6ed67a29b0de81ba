"""The names that a UDF sees as ``fused``.

``install`` enters this package into ``sys.modules`` under that name, in worker processes only. A name
that isn't here fails with a sentence that says so.
"""

from __future__ import annotations

import importlib.abc
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NoReturn, overload

from tileserver import __version__ as __version__
from tileserver.fused import api, context, core, types
from tileserver.fused.caching import Function, cache
from tileserver.fused.context import get_header, get_headers
from tileserver.fused.files import download, file_path
from tileserver.fused.neighbours import UdfObject, load, load_async, run, run_async
from tileserver.fused.submitting import submit
from tileserver.fused.tables import get_chunk_from_table, get_chunks_metadata
from tileserver.fused.values import options, secret, secrets, utils

__all__ = [
    "UdfObject",
    "api",
    "cache",
    "context",
    "core",
    "download",
    "file_path",
    "get_chunk_from_table",
    "get_chunks_metadata",
    "get_header",
    "get_headers",
    "load",
    "load_async",
    "options",
    "run",
    "run_async",
    "secret",
    "secrets",
    "submit",
    "types",
    "udf",
    "utils",
]


@overload
def udf(function: Function, /) -> Function: ...
@overload
def udf(
    *,
    name: str | None = ...,
    cache_max_age: str | int | None = ...,
    default_parameters: dict[str, Any] | None = ...,
    headers: Sequence[Any] | None = ...,
    engine: str | None = ...,
    instance_type: str | None = ...,
    disk_size_gb: int | None = ...,
    region: str | None = ...,
) -> Callable[[Function], Function]: ...
def udf(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    cache_max_age: str | int | None = None,
    default_parameters: dict[str, Any] | None = None,
    headers: Sequence[Any] | None = None,
    engine: str | None = None,
    instance_type: str | None = None,
    disk_size_gb: int | None = None,
    region: str | None = None,
) -> Any:
    """Mark a function as a UDF; it stays a plain function.

    The server reads ``cache_max_age`` and ``default_parameters`` from the source. The other arguments
    say where Fused runs a UDF and change nothing here.
    """

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        function.__fused_udf__ = True  # type: ignore[attr-defined]
        return function

    return mark if function is None else mark(function)


def __getattr__(name: str) -> NoReturn:
    if name.startswith("__"):
        raise AttributeError(name)
    raise AttributeError(_not_provided(name))


def _not_provided(name: str) -> str:
    return f"fused.{name} is not provided by tileserver; provided: {', '.join(sorted(__all__))}"


class _Refusal(importlib.abc.MetaPathFinder):
    """Says the same of ``import fused.NAME`` and ``from fused import NAME``."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        parent, _, name = fullname.partition(".")
        if parent == "tileserver":
            parent, _, name = name.partition(".")
        if parent == "fused" and name:
            raise ImportError(_not_provided(name))


_refusal = _Refusal()


def install() -> None:
    """Make ``import fused`` give this package. For worker processes; never in the server."""
    if _refusal not in sys.meta_path:
        sys.meta_path.insert(0, _refusal)
    sys.modules["fused"] = sys.modules[__name__]
    for public in (api, context, core, types):
        sys.modules["fused." + public.__name__.rpartition(".")[2]] = public
