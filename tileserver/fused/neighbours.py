"""``fused.load`` and ``fused.run``: UDFs of the same canvas and loaded sources run in this process, all
others where the server runs them.

In this process values pass between UDFs as they are; parameters are coerced by annotation as in a request.
"""

from __future__ import annotations

import asyncio
import inspect
import textwrap
from collections.abc import Callable, Mapping
from functools import partial
from types import ModuleType
from typing import Any, Final

from tileserver import tiles
from tileserver.fused import elsewhere, state
from tileserver.protocol import Foreign, RenderOptions, Source
from tileserver.signature import BrokenSource, NotAUdf, Signature
from tileserver.worker import arguments, calls, nested, sources

DEPTH_LIMIT: Final = 5
_TOKENS: Final = ("fc_", "fsh_", "UDF_")
_HEX: Final = frozenset("0123456789abcdef")


class UdfObject:
    """A UDF of the canvas, or a source from elsewhere. Its attributes are the globals of its source; calling
    it runs it."""

    def __init__(self, name: str, key: str | None = None) -> None:
        bundle = state.current().bundle
        self.key = key or name
        source = bundle.source(self.key)
        self.name = name
        self.code = bundle.files[source.path]
        self.entrypoint = source.entry or _entry(self.code)
        self.collection_name = bundle.canvas or None
        self.metadata: dict[str, Any] = {}
        self._module: ModuleType | None = None

    @property
    def headers(self) -> list[dict[str, str]]:
        """The modules that it may import."""
        bundle = state.current().bundle
        modules = bundle.source(self.key).modules
        return [{"module_name": name, "source_code": bundle.files[path]} for name, path in modules.items()]

    @property
    def utils(self) -> Any:
        """Its module ``utils``, or the only one that it has."""
        modules = self._source.modules
        if "utils" in modules or len(set(modules.values())) == 1:  # one file may have two names
            name = "utils" if "utils" in modules else next(iter(modules))
            return sources.imported(state.current().bundle, self.key, name)
        return self._global("utils")

    @property
    def is_foreign(self) -> bool:
        """Whether it comes from elsewhere than this canvas."""
        return self.key not in state.current().bundle.udfs

    @property
    def parameter_list(self) -> list[str]:
        """The names of its parameters, in order."""
        return [parameter.name for parameter in self._signature.parameters]

    def map(self, arg_list: Any, **options: Any) -> Any:
        """Run it for each of a list of arguments, at the same time; a pool to ask for the results."""
        from tileserver.fused.submitting import submit

        concurrency = options.pop("worker_concurrency", None)
        return submit(self, arg_list, collect=False, n_processes_per_worker=concurrency, **options)

    def run_local(self, *_: Any, **parameters: Any) -> Any:
        """The same as calling it."""
        return run(self, **parameters)

    run_remote = run_local
    run_file = run_local
    run_tile = run_local

    def set_parameters(self, parameters: Mapping[str, Any], *_: Any, **__: Any) -> UdfCall:
        """It, with these parameters where a call gives no others."""
        return UdfCall(self, dict(parameters))

    @property
    def _source(self) -> Source:
        return state.current().bundle.source(self.key)

    @property
    def _signature(self) -> Signature:
        return calls.read_signature(self.code, self._source.entry)

    def _global(self, name: str) -> Any:
        if self._module is None:
            with sources.executed(state.current().bundle, self.key) as module:
                self._module = module
        try:
            return getattr(self._module, name)
        except AttributeError:
            raise AttributeError(f"the source of {self.name!r} defines no {name!r}") from None

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__") or "_module" not in self.__dict__:
            raise AttributeError(attribute)
        return self._global(attribute)

    def __call__(self, *positional: Any, **parameters: Any) -> Any:
        return run(self, **named(self, positional, parameters))

    def __repr__(self) -> str:
        return f"<UDF {self.name}>"


class UdfCall:
    """A loaded UDF with some of its parameters set."""

    def __init__(self, udf: UdfObject, parameters: Mapping[str, Any]) -> None:
        self.udf = udf
        self.parameters = parameters

    def __call__(self, *positional: Any, **parameters: Any) -> Any:
        return self.udf(*positional, **{**self.parameters, **parameters})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "udf" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.udf, name)


def load(
    url_or_udf: object,
    /,
    *,
    cache_key: Any = None,
    import_globals: bool = True,
    collection_name: str | None = None,
) -> UdfObject:
    """A UDF by its name in the same canvas, as ``canvas/name``, by a token or an address, or by its code.

    ``cache_key`` and ``import_globals`` are accepted and change nothing: what is loaded is executed when it
    is first used.

    :raises LookupError: when there is none; the message lists those that there are.
    :raises PermissionError: when its code may not be read.
    """
    name = str(url_or_udf)
    if "\n" in name:
        return _loaded_code(name)
    if collection_name is not None:
        name = f"{collection_name}/{name}"
    current = state.current()
    own = own_name(name)
    if own is None and name.endswith(".py") and "://" not in name:
        return _loaded_file(name)
    key = own or name
    if key not in current.loaded:
        if own is None and key not in current.bundle.foreign:
            _check_elsewhere(key)
            current.bundle = current.bundle.with_foreign({key: elsewhere.source(key)})
        title = key if own is not None else _title(key)
        current.loaded[key] = UdfObject(title, key)
    found: UdfObject = current.loaded[key]
    return found


async def load_async(url_or_udf: object, /, **options: Any) -> UdfObject:
    """The same as ``load``, without keeping others from going on."""
    return await asyncio.to_thread(partial(load, url_or_udf, **options))


def run(udf: Any = None, /, *, sync: bool = True, parameters: Any = None, **rest: Any) -> Any:
    """Run a UDF and return its value: by its name in the same canvas, as ``canvas/name``, by a token, loaded,
    by its code, or a decorated function.

    With ``x``, ``y`` and ``z`` it runs for that tile, as a tile request would. ``sync=False`` gives a
    coroutine. ``cache_max_age`` and ``cache`` say for a run elsewhere which stored result may do; other
    options of Fused, such as ``engine``, are accepted and change nothing.

    :raises LookupError: when there is no such UDF.
    :raises RecursionError: when UDFs run each other more than five deep.
    :raises UdfRuntimeError: when a UDF elsewhere has failed.
    """
    given = {**rest, **(parameters or {})}
    if not sync:
        return run_async(udf, **given)
    if isinstance(udf, UdfCall):
        udf, given = udf.udf, {**udf.parameters, **given}
    if isinstance(udf, str) and "\n" in udf:
        udf = load(udf)
    key = udf.key if isinstance(udf, UdfObject) else own_name(udf) if isinstance(udf, str) else None
    if key is not None:
        return _nested(key, partial(_run_source, key, given))
    if not isinstance(udf, str):
        return _nested(state.udf_name(), partial(_run_function, udf, given))
    _check_elsewhere(udf)
    check_depth(_title(udf))
    return elsewhere.run(udf, given, as_query=is_token(udf)).value


async def run_async(udf: Any = None, /, **options: Any) -> Any:
    """The same as ``run``, without keeping others from going on."""
    return await asyncio.to_thread(partial(run, udf, **options))


def named(udf: UdfObject, positional: tuple[Any, ...], parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters by name, positional ones among them.

    :raises TypeError: for too many, or one that is given twice.
    """
    if not positional:
        return dict(parameters)
    names = udf.parameter_list
    if len(positional) > len(names):
        raise TypeError(f"{udf.name} takes {len(names)} parameters, not {len(positional)}")
    found = dict(zip(names, positional, strict=False))
    if twice := found.keys() & parameters.keys():
        raise TypeError(f"{udf.name} got two values for {min(twice)!r}")
    return {**found, **parameters}


def is_token(name: str) -> bool:
    """Whether a text is a token rather than a name."""
    return name.startswith(_TOKENS) or (len(name.partition("/")[0]) == 64 and set(name[:64]) <= _HEX)


def own_name(name: str) -> str | None:
    """The plain name of a UDF of this canvas; ``canvas/name`` is accepted too, as is its file's name."""
    bundle = state.current().bundle
    own = name.removeprefix(f"{bundle.canvas}/")
    if own in bundle.udfs:
        return own
    return next((n for n, source in bundle.udfs.items() if source.path == name), None)


def check_depth(name: str) -> tuple[str, ...]:
    """The chain of UDFs with one more at its end.

    :raises RecursionError: when that makes it too long.
    """
    chain = (*state.nested.get(), name)
    current = state.current()
    if current.job.recursion + len(chain) > DEPTH_LIMIT:
        current.read_caller |= current.job.recursion > 1  # another caller's run could go on
        raise RecursionError(f"UDFs run each other more than {DEPTH_LIMIT} deep: {' > '.join(chain)}")
    return chain


def decorated_source(function: Callable[..., Any]) -> tuple[str, Signature]:
    """The text of a decorated function, and its signature.

    :raises TypeError: for anything else.
    """
    if not getattr(function, "__fused_udf__", False):
        raise TypeError(
            "fused.run takes the name or the token of a UDF, a loaded UDF, or a function decorated with"
            " @fused.udf"
        )
    text = textwrap.dedent(inspect.getsource(function))
    return text, calls.read_signature(text, None)


def _nested(name: str, work: Callable[[], Any]) -> Any:
    token = state.nested.set(check_depth(name))
    try:
        return work()
    finally:
        state.nested.reset(token)


def _run_source(key: str, parameters: Mapping[str, Any]) -> Any:
    bundle = state.current().bundle
    with sources.executed(bundle, key) as module:
        function, signature = calls.entry_point(bundle, module)
        return _call(function, signature, {**bundle.source(key).defaults, **parameters})


def _run_function(function: Any, parameters: Mapping[str, Any]) -> Any:
    _, signature = decorated_source(function)
    return _call(function, signature, {**signature.defaults, **parameters})


def _call(function: Callable[..., Any], signature: Signature, parameters: Mapping[str, Any]) -> Any:
    given = {
        name: value
        for name, value in parameters.items()
        if name not in elsewhere.RESERVED and name[:1] != "_"
    }
    tile = None
    if not {"x", "y", "z"} - given.keys() and parameters.get("type") != "file":
        z, x, y = (given.pop(name) for name in "zxy")
        tile = tiles.valid_tile(str(z), str(x), str(y))
    values = arguments.convert(function, given, tile, signature=signature, options=RenderOptions())
    return calls.call(function, values)


def _check_elsewhere(name: str) -> None:
    """:raises LookupError: for a name that can't be of anything elsewhere; it lists those that there are."""
    bundle = state.current().bundle
    plain = "/" not in name and not is_token(name)
    if (plain and bundle.canvas) or not (nested.connected() or is_token(name) or "://" in name):
        names = ", ".join(sorted(bundle.udfs))
        raise LookupError(f"no UDF called {name!r} in this canvas; there are: {names}")


def _loaded_code(text: str) -> UdfObject:
    found = Foreign.of("udf", "udf.py", {"udf.py": text})
    key = f"code {found.digest}"
    current = state.current()
    if key not in current.loaded:
        current.bundle = current.bundle.with_foreign({key: found})
        current.loaded[key] = UdfObject(_entry(text) or "udf", key)
    loaded: UdfObject = current.loaded[key]
    return loaded


def _loaded_file(path: str) -> UdfObject:
    """A source of the canvas by its path: one that is no UDF by its name."""
    files = state.current().bundle.files
    text = files.get(path.removeprefix("./"))
    if text is None:
        raise LookupError(f"the canvas has no source {path!r}; there are: {', '.join(sorted(files))}")
    state.current().uncounted = True
    return _loaded_code(f"{text}\n")


def _entry(text: str) -> str | None:
    try:
        return calls.read_signature(text, None).entry
    except (NotAUdf, BrokenSource):
        return None


def _title(name: str) -> str:
    """What to call a UDF that is named by an address or a token."""
    return name.rstrip("/").rpartition("/")[2].removesuffix(".py")
