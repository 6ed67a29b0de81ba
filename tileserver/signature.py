"""A UDF's parameters and decorator arguments, read from its source by ``ast``; nothing is executed.

Decides which query names are arguments, and which parameter a tile run fills. The values are made by
the worker, which has the real annotations.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, time
from functools import cached_property, lru_cache
from typing import Any, Final

from tileserver.protocol import Json
from tileserver.units import parse_duration

# A frame or a box put into one of these can only fail (see Signature.tile_parameter).
_PLAIN_TYPES: Final = frozenset(
    {"int", "float", "str", "bool", "bytes", "complex", "list", "dict", "tuple", "set", "frozenset"}
    | {"List", "Dict", "Tuple", "Set", "Literal", "UUID", "date", "datetime", "time"}
)

# Annotations whose value in a tile run has the tile's bounds and nothing else.
_BOUNDS_TYPES: Final = frozenset({"Bounds", "Bbox", "list", "List", "tuple", "Tuple", "str"})

_LONGEST_INT: Final = 4096  # bits; Python writes no number of more than 4300 digits


class NotAUdf(Exception):
    """The source has no decorated function: a module, not a UDF."""


class BrokenSource(Exception):
    """The source can't be served; ``lineno`` counts from 1."""

    def __init__(self, reason: str, lineno: int | None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.lineno = lineno


@dataclass(frozen=True, slots=True)
class Parameter:
    """``default`` is text as written in the source; ``literal`` its value where it is a literal, or ISO 8601
    where it is a date or a time of given numbers, as the annotation says."""

    name: str
    annotation: str
    default: str | None
    literal: Json
    keyword_only: bool = False

    @property
    def required(self) -> bool:
        return self.default is None

    @property
    def choices(self) -> tuple[Json, ...]:
        """The values of a ``Literal[...]`` annotation."""
        name, _, inner = self.annotation.strip("\"' ").rpartition("Literal[")
        if not inner or name.rpartition(".")[0] not in {"", "typing"} or not inner.endswith("]"):
            return ()
        found = _plain(_literal(_parsed(f"[{inner}")))
        return tuple(found) if isinstance(found, list) else ()

    @property
    def type_name(self) -> str:
        """The bare name of the annotation: ``Optional[list[int]]`` gives ``list``."""
        return _bare(self.annotation)


@lru_cache(maxsize=1024)
def _bare(annotation: str) -> str:
    text = annotation.strip().strip("\"'")
    while True:
        if text.endswith("| None"):
            text = text[: -len("| None")].strip()
        elif text.startswith("None |"):
            text = text[len("None |") :].strip()
        elif text.startswith(("Optional[", "typing.Optional[")):
            text = text[text.index("[") + 1 : -1].strip()
        else:
            return text.partition("[")[0].rpartition(".")[2]


@dataclass(frozen=True)  # no slots: what follows from the parameters is worked out once
class Signature:
    """The entry point of a source.

    ``takes_any`` is set by ``**kwargs``. ``neighbours`` are the names it passes literally to
    ``fused.load``, ``run`` or ``submit``; ``computed`` says that other names may come up at run time.
    ``engine`` is the machine that the decorator asks for, as written.
    """

    entry: str
    parameters: tuple[Parameter, ...]
    takes_any: bool
    max_age: int | None
    doc: str
    lineno: int
    defaults: Mapping[str, Json]
    engine: str | None
    neighbours: frozenset[str]
    computed: bool

    def parameter(self, name: str) -> Parameter | None:
        return next((p for p in self.parameters if p.name == name), None)

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(p.name for p in self.parameters)

    @property
    def takes_tile(self) -> bool:
        """Whether the signature itself says that this is a tile layer."""
        names = self.names
        return "bounds" in names or "bbox" in names or {"x", "y", "z"} <= names

    @property
    def tile_parameter(self) -> str | None:
        """The parameter that a tile run fills with the tile (Fused's rules): ``bounds``, else ``bbox``,
        else the first positional one, unless it can't hold a tile or x, y and z are declared."""
        names = self.names
        for name in ("bounds", "bbox"):
            if name in names:
                return name
        first = next((p for p in self.parameters if not p.keyword_only), None)
        if first is None or {"x", "y", "z"} <= names or first.type_name in _PLAIN_TYPES:
            return None
        return first.name

    @cached_property
    def knows_only_bounds(self) -> bool:
        """Whether all that a tile run tells the function of its tile is where that lies: not its zoom."""
        parameter = self.parameter(self.tile_parameter or "")
        return (
            parameter is not None
            and parameter.type_name in _BOUNDS_TYPES
            and not {"x", "y", "z"} & self.names
        )

    @cached_property
    def filled_by_tile(self) -> frozenset[str]:
        """Every parameter whose value comes from the tile's address, not from the query."""
        filled = {"x", "y", "z"} & self.names
        return frozenset(filled | ({self.tile_parameter} if self.tile_parameter else set()))


def read(source: str, entry: str | None = None) -> Signature:
    """Read the entry point of a UDF's source: ``entry``, else the only decorated function, else the
    one called ``udf``.

    :raises NotAUdf: when nothing is decorated.
    :raises BrokenSource: for syntax errors, several candidates, or decorator arguments that are wrong.
    """
    try:
        return _signature(ast.parse(source), entry)
    except SyntaxError as error:
        raise BrokenSource(f"SyntaxError: {error.msg}", error.lineno) from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise BrokenSource(f"{type(error).__name__}: {error}", None) from None


def _signature(tree: ast.Module, entry: str | None) -> Signature:
    function, decorator = _entry(tree, entry)
    arguments = _decorator_arguments(decorator)
    named, computed = _neighbours(tree)
    return Signature(
        entry=function.name,
        parameters=tuple(_parameters(function.args)),
        takes_any=function.args.kwarg is not None,
        max_age=_max_age(arguments.get("cache_max_age"), decorator.lineno),
        # Escapes can write halves of characters, which no answer could carry.
        doc=(ast.get_docstring(function) or "").encode(errors="replace").decode(),
        lineno=function.lineno,
        defaults=_stored_defaults(arguments.get("default_parameters")),
        engine=_written(arguments.get("engine") or arguments.get("instance_type")),
        neighbours=named,
        computed=computed,
    )


Function = ast.FunctionDef | ast.AsyncFunctionDef


def _entry(tree: ast.Module, entry: str | None) -> tuple[Function, ast.expr]:
    found: dict[str, tuple[Function, ast.expr]] = {}
    for node in tree.body:
        if isinstance(node, Function):
            for decorator in node.decorator_list:
                if _is_udf(decorator):
                    found[node.name] = (node, decorator)
    if not found:
        raise NotAUdf("no function is decorated with @fused.udf")
    if entry is not None and entry in found:
        return found[entry]
    if entry is None and len(found) == 1:
        return next(iter(found.values()))
    if entry is None and "udf" in found:
        return found["udf"]
    wanted = entry or "udf"
    line = next(iter(found.values()))[0].lineno
    names = ", ".join(found)
    raise BrokenSource(
        f"no UDF called {wanted!r} among the decorated functions: {names}; rename one to {wanted}",
        line,
    )


def _is_udf(decorator: ast.expr) -> bool:
    target = decorator.func if isinstance(decorator, ast.Call) else decorator
    if isinstance(target, ast.Name):
        return target.id == "udf"
    return (
        isinstance(target, ast.Attribute)
        and target.attr == "udf"
        and isinstance(target.value, ast.Name)
        and target.value.id == "fused"
    )


def _decorator_arguments(decorator: ast.expr) -> dict[str, ast.expr]:
    if not isinstance(decorator, ast.Call):
        return {}
    return {keyword.arg: keyword.value for keyword in decorator.keywords if keyword.arg}


def _parsed(expression: str) -> ast.expr | None:
    try:
        return ast.parse(expression, mode="eval").body
    except SyntaxError:
        return None


def _literal(node: ast.expr | None) -> Any:
    try:
        return ast.literal_eval(node) if node is not None else None
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _written(node: ast.expr | None) -> str | None:
    return None if node is None else ast.unparse(node)


def _max_age(node: ast.expr | None, lineno: int) -> int | None:
    value = _literal(node)
    if value is None:
        return None
    try:
        return parse_duration(value)
    except ValueError as error:
        raise BrokenSource(f"cache_max_age: {error}", lineno) from None


def _stored_defaults(node: ast.expr | None) -> dict[str, Json]:
    value = _plain(_literal(node))
    return value if isinstance(value, dict) else {}


def _parameters(arguments: ast.arguments) -> Iterator[Parameter]:
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    defaults += arguments.defaults
    for argument, default in zip(positional, defaults, strict=True):
        yield _parameter(argument, default, keyword_only=False)
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield _parameter(argument, default, keyword_only=True)


def _parameter(argument: ast.arg, default: ast.expr | None, *, keyword_only: bool) -> Parameter:
    found = Parameter(
        name=argument.arg,
        annotation="" if argument.annotation is None else ast.unparse(argument.annotation),
        default=None if default is None else ast.unparse(default),
        literal=_plain(_literal(default)),
        keyword_only=keyword_only,
    )
    if isinstance(default, ast.Call) and found.type_name in _MOMENTS:
        return replace(found, literal=_moment(default, found.type_name))
    return found


_MOMENTS: Final[dict[str, Callable[..., date | datetime | time]]] = {
    "date": date,
    "datetime": datetime,
    "time": time,
}


def _moment(call: ast.Call, name: str) -> str | None:
    """``datetime.date(2024, 5, 17)`` as people write the value; None for any other call."""
    if call.keywords or ast.unparse(call.func).rpartition(".")[2] != name:
        return None
    numbers = [_literal(argument) for argument in call.args]
    try:
        return _MOMENTS[name](*numbers).isoformat().removesuffix(":00")  # as browsers write whole minutes
    except (TypeError, ValueError, OverflowError):
        return None


def _plain(value: Any) -> Json:
    """A literal as JSON can say it; None where it can't."""
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, int) and value.bit_length() > _LONGEST_INT:
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return None


def neighbours(source: str) -> tuple[frozenset[str], bool]:
    """The names that a source passes to ``fused.load``, ``run`` and ``submit``, and whether others may
    come up at run time. ``source`` must parse."""
    return _neighbours(ast.parse(source))


def _neighbours(tree: ast.Module) -> tuple[frozenset[str], bool]:
    names: set[str] = set()
    computed = False
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        target = node.func
        if target.attr not in {"load", "run", "submit"} or not isinstance(target.value, ast.Name):
            continue
        if target.value.id != "fused":
            continue
        first = node.args[0] if node.args else next((k.value for k in node.keywords), None)
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            names.add(first.value)
        else:
            computed = True
    return frozenset(names), computed
