"""``fused.load`` and ``fused.run``: the other UDFs of the same canvas, run in this process.

Values pass between UDFs as they are; parameters are coerced by annotation as in a request.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, Final

from tileserver import tiles
from tileserver.fused import state
from tileserver.protocol import RenderOptions
from tileserver.signature import Signature
from tileserver.worker import arguments, calls, sources

DEPTH_LIMIT: Final = 5
# Of fused.run itself; they say how and where Fused runs a UDF, which is settled here.
_RESERVED: Final = frozenset(
    {"engine", "instance_type", "cache_max_age", "cache", "sync", "verbose", "max_retry"}
)


class UdfObject:
    """A UDF of the canvas. Its attributes are the globals of its source; calling it runs it."""

    def __init__(self, name: str) -> None:
        bundle = state.current().bundle
        self.name = name
        self.code = bundle.files[bundle.udfs[name].path]
        self.entrypoint = bundle.udfs[name].entry
        self._module: ModuleType | None = None

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__") or "_module" not in self.__dict__:
            raise AttributeError(attribute)
        if self._module is None:
            with sources.executed(state.current().bundle, self.name) as module:
                self._module = module
        try:
            return getattr(self._module, attribute)
        except AttributeError:
            raise AttributeError(f"the source of {self.name!r} defines no {attribute!r}") from None

    def __call__(self, **parameters: Any) -> Any:
        return run(self, **parameters)

    def __repr__(self) -> str:
        return f"<UDF {self.name}>"


def load(name: str) -> UdfObject:
    """The UDF of this name in the same canvas.

    :raises LookupError: when there is none; the message lists those that there are.
    :raises ValueError: for an address or a token.
    """
    current = state.current()
    own = _own_name(name)
    if own not in current.loaded:
        current.loaded[own] = UdfObject(own)
    found: UdfObject = current.loaded[own]
    return found


def run(udf: str | UdfObject | Callable[..., Any], /, **parameters: Any) -> Any:
    """Run a UDF of the same canvas, or a decorated function, and return its value.

    With ``x``, ``y`` and ``z`` it runs for that tile, as a tile request would. Options of Fused such as
    ``engine`` and ``cache_max_age`` are accepted and change nothing.

    :raises LookupError: when there is no such UDF.
    :raises RecursionError: when UDFs run each other more than five deep.
    """
    if isinstance(udf, UdfObject):
        udf = udf.name
    name = _own_name(udf) if isinstance(udf, str) else state.udf_name()
    chain = (*state.nested.get(), name)
    if state.current().job.recursion + len(chain) > DEPTH_LIMIT:
        raise RecursionError(f"UDFs run each other more than {DEPTH_LIMIT} deep: {' > '.join(chain)}")
    token = state.nested.set(chain)
    try:
        return _run_neighbour(name, parameters) if isinstance(udf, str) else _run_function(udf, parameters)
    finally:
        state.nested.reset(token)


def _run_neighbour(name: str, parameters: Mapping[str, Any]) -> Any:
    bundle = state.current().bundle
    with sources.executed(bundle, name) as module:
        function, signature = calls.entry_point(bundle, module)
        return _call(function, signature, {**bundle.udfs[name].defaults, **parameters})


def _run_function(function: Callable[..., Any], parameters: Mapping[str, Any]) -> Any:
    if not getattr(function, "__fused_udf__", False):
        raise TypeError(
            "fused.run takes the name of a UDF, a loaded UDF, or a function decorated with @fused.udf"
        )
    text = textwrap.dedent(inspect.getsource(function))
    signature = calls.read_signature(text, None)
    return _call(function, signature, {**signature.defaults, **parameters})


def _call(function: Callable[..., Any], signature: Signature, parameters: Mapping[str, Any]) -> Any:
    given = {name: value for name, value in parameters.items() if name not in _RESERVED}
    tile = None
    if not {"x", "y", "z"} - given.keys():
        z, x, y = (given.pop(name) for name in "zxy")
        tile = tiles.valid_tile(str(z), str(x), str(y))
    values = arguments.convert(function, given, tile, signature=signature, options=RenderOptions())
    return calls.call(function, values)


def _own_name(name: str) -> str:
    """The plain name of a UDF of this canvas; ``canvas/name`` is accepted too."""
    current = state.current()
    own = name.removeprefix(f"{current.bundle.canvas}/")
    if own in current.bundle.udfs:
        return own
    if "://" in name or name.startswith(("fc_", "fsh_", "UDF_")):
        kind = "an address" if "://" in name else "a token"
        raise ValueError(
            f"loading {kind} is not provided by tileserver; UDFs of the same canvas are: {_names()}"
        )
    raise LookupError(f"no UDF called {name!r} in this canvas; there are: {_names()}")


def _names() -> str:
    return ", ".join(sorted(state.current().bundle.udfs))
