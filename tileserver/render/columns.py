"""Expressions of a style over whole columns: the rules of ``styles/evaluate.py``, for all features at once.

A value of mixed types is kept as one array for each type and a tag that says which one counts; an array of
length 1 stands for all features. What fails is tagged as an error, and goes on to the property's default.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tileserver.render.plain import flat_column
from tileserver.styles.colours import Colour
from tileserver.styles.evaluate import colour_of, number_of, text_of
from tileserver.styles.expressions import Node

NULL, BOOLEAN, NUMBER, TEXT, COLOUR, ERROR = range(6)
_TAGS: Final = {"null": NULL, "boolean": BOOLEAN, "number": NUMBER, "string": TEXT, "color": COLOUR}
_TAGS_OF: Final = {type(None): NULL, bool: BOOLEAN, int: NUMBER, float: NUMBER, str: TEXT, Colour: COLOUR}
_INT64: Final = range(-(2**63), 2**64)

Flags = NDArray[np.bool_]
_ALL_GOOD: Final = np.ones(1, bool)
_NO_NUMBERS: Final = np.zeros(1)
_NO_TEXTS: Final = np.full(1, "", object)
_NO_COLOURS: Final = np.zeros((1, 4))


@dataclass(frozen=True, slots=True)
class Values:
    """``tags`` (n,), ``numbers`` (n,), which hold booleans too, ``texts`` (n,) and ``colours`` (n, 4); n may
    be 1 in each of them."""

    tags: NDArray[np.uint8]
    numbers: NDArray[np.float64] = field(default_factory=lambda: _NO_NUMBERS)
    texts: NDArray[np.object_] = field(default_factory=lambda: _NO_TEXTS)
    colours: NDArray[np.float64] = field(default_factory=lambda: _NO_COLOURS)

    @classmethod
    def of(cls, tag: int, **data: Any) -> Values:
        return cls(np.full(1, tag, np.uint8), **data)

    def where(self, good: Flags) -> Values:
        """The same, and an error where it isn't good."""
        tags = np.where(good | (self.tags == ERROR), self.tags, ERROR).astype(np.uint8)
        return Values(tags, self.numbers, self.texts, self.colours)

    def has(self, tag: int) -> Flags:
        found: Flags = self.tags == tag
        return found

    @property
    def true(self) -> Flags:
        found: Flags = self.has(BOOLEAN) & (self.numbers != 0)
        return found


@dataclass(frozen=True, slots=True)
class Table:
    """Features: a column of values for each attribute that the expressions look at, the ``families`` of their
    geometry (``Point``, ``LineString``, ``Polygon``), and the map's zoom."""

    count: int
    columns: Mapping[str, Values]
    families: NDArray[np.object_]
    zoom: float


def column(name: str, series: pd.Series[Any]) -> Values:
    """A column as the features of a vector tile have it: numbers, texts, booleans, and nothing for what is
    missing."""
    kind = series.dtype
    if isinstance(kind, np.dtype) and kind.kind in "biuf":
        numbers = series.to_numpy(np.float64)
        tag = BOOLEAN if kind.kind == "b" else NUMBER
        return Values(np.where(np.isfinite(numbers), tag, NULL).astype(np.uint8), np.nan_to_num(numbers))
    if pd.api.types.infer_dtype(series, skipna=True) == "string":
        missing = series.isna().to_numpy(bool)
        texts = np.where(missing, "", series.to_numpy(object))
        return Values(np.where(missing, NULL, TEXT).astype(np.uint8), texts=texts)
    return _mixed(flat_column(series, name))


def _mixed(values: Sequence[Any]) -> Values:
    plain = [str(one) if type(one) is int and one not in _INT64 else one for one in values]
    tags = np.array([_TAGS_OF[type(one)] for one in plain], np.uint8)
    numbers = np.array([float(one) if isinstance(one, bool | int | float) else 0.0 for one in plain], float)
    texts = np.empty(len(plain), object)
    texts[:] = [one if isinstance(one, str) else "" for one in plain]
    return Values(tags, numbers, texts)


def evaluate(node: Node, table: Table) -> Values:
    """The values of an expression for all features of a table."""
    with np.errstate(all="ignore"):
        return _evaluate(node, table)


def _evaluate(node: Node, table: Table) -> Values:
    match node.op:
        case "literal":
            return constant(node.value)
        case "get":
            return table.columns.get(node.value, Values.of(NULL))
        case "has":
            found = table.columns.get(node.value, Values.of(NULL))
            return _flags(~found.has(NULL))
        case "zoom":
            return constant(float(table.zoom))
        case "geometry-type":
            return Values.of(TEXT, texts=table.families)
    return _OPERATORS.get(node.op, _called)(node, table)


def constant(value: Any) -> Values:
    tag = _TAGS_OF[type(value)]
    if tag == TEXT:
        texts = np.empty(1, object)
        texts[0] = value
        return Values.of(tag, texts=texts)
    if tag == COLOUR:
        return Values.of(tag, colours=np.array([value], float))
    return Values.of(tag, numbers=np.array([0.0 if value is None else float(value)]))


def _flags(values: Any, good: Any = _ALL_GOOD) -> Values:
    flags = np.atleast_1d(np.asarray(values, float))
    return Values.of(BOOLEAN, numbers=flags).where(np.asarray(good, bool))


def _chosen(choices: Sequence[tuple[Flags, Values]], otherwise: Values) -> Values:
    """For each feature the first value whose condition holds, else the last."""
    result = otherwise
    for condition, values in reversed(choices):
        if condition.all():
            result = values
        elif condition.any():
            result = Values(
                np.where(condition, values.tags, result.tags),
                _merged(condition, values.numbers, result.numbers),
                _merged(condition, values.texts, result.texts),
                _merged(condition[:, None], values.colours, result.colours),
            )
    return result


def _merged(condition: Flags, values: NDArray[Any], others: NDArray[Any]) -> NDArray[Any]:
    """``np.where``, but for what neither has."""
    return values if values is others else np.where(condition, values, others)


def _taken(outputs: Sequence[Values], at: NDArray[np.intp]) -> Values:
    """Of constants, the one at each feature's position."""
    return Values(
        np.concatenate([one.tags for one in outputs])[at],
        np.concatenate([one.numbers for one in outputs])[at],
        np.concatenate([one.texts for one in outputs])[at],
        np.concatenate([one.colours for one in outputs])[at],
    )


def _case(node: Node, table: Table) -> Values:
    choices: list[tuple[Flags, Values]] = []
    for condition, output in zip(node.args[:-1:2], node.args[1:-1:2], strict=True):
        tested = _evaluate(condition, table)
        choices += [(tested.has(ERROR), Values.of(ERROR)), (tested.true, _evaluate(output, table))]
    return _chosen(choices, _evaluate(node.args[-1], table))


def _match(node: Node, table: Table) -> Values:
    asked = _evaluate(node.args[0], table)
    labels = [label for group in node.value for label in group]
    branches = np.array([at for at, group in enumerate(node.value) for _ in group] + [-1])
    textual = isinstance(labels[0], str)
    data: NDArray[Any] = asked.texts if textual else asked.numbers
    index = pd.Index(labels, dtype=object) if textual else pd.Index(np.array(labels, float))
    found = branches[index.get_indexer(data)]
    found = np.where(asked.has(TEXT if textual else NUMBER), found, -1)
    outputs = [_evaluate(output, table) for output in node.args[1:]]
    if all(output.is_constant for output in node.args[1:]):
        return _taken(outputs, found).where(~asked.has(ERROR))  # what else is the last, at -1
    choices = [(asked.has(ERROR), Values.of(ERROR))]
    choices += [(found == at, output) for at, output in enumerate(outputs[:-1])]
    return _chosen(choices, outputs[-1])


def _curve(node: Node, table: Table) -> Values:
    base, labels = node.value
    outputs = [_evaluate(output, table) for output in node.args[1:]]
    if len(outputs) == 1:
        return outputs[0]
    asked = _evaluate(node.args[0], table)
    good = asked.has(NUMBER) & ~np.isnan(asked.numbers)
    place = np.searchsorted(np.array(labels), asked.numbers, side="right") - 1
    last = len(labels) - 1
    if all(output.is_constant for output in node.args[1:]):
        at = np.clip(place, 0, last)
        low = _taken(outputs, at)
        if node.op == "step":
            return low.where(good)
        # Below the first stop and from the last one on, nothing is added.
        high = _taken(outputs, np.where(place < 0, 0, np.minimum(at + 1, last)))
        ends, part = np.array(labels), np.minimum(at, last - 1)
        inside = np.where((place < 0) | (place >= last), ends[part], asked.numbers)
        return _between(inside, base, (ends[part], ends[part + 1]), low, high).where(good)
    choices = [(~good, Values.of(ERROR))]
    for at in np.unique(np.clip(place, 0, last)):
        inside = np.clip(place, 0, last) == at
        if node.op == "interpolate" and at < last and (place >= 0).any():
            between = _between(asked.numbers, base, labels[at : at + 2], outputs[at], outputs[at + 1])
            choices.append((inside & (place >= 0), between))
        choices.append((inside, outputs[at]))
    return _chosen(choices, Values.of(ERROR))


def _between(asked: Any, base: float, labels: Any, low: Values, high: Values) -> Values:
    length, along = labels[1] - labels[0], asked - labels[0]
    share = along / length if base == 1 else (np.power(base, along) - 1) / (np.power(base, length) - 1)
    numbers = low.numbers + share * (high.numbers - low.numbers)
    colours = low.colours + share[:, None] * (high.colours - low.colours)
    return Values(low.tags, numbers, colours=colours).where(high.tags != ERROR)


def _coalesce(node: Node, table: Table) -> Values:
    choices = []
    for arg in node.args:
        values = _evaluate(arg, table)
        choices.append((~values.has(NULL), values))
    return _chosen(choices, Values.of(NULL))


def _logical(node: Node, table: Table) -> Values:
    """``all`` ends with the first that is false, ``any`` with the first that is true; what comes after can't
    fail."""
    choices = []
    for arg in node.args:
        values = _evaluate(arg, table)
        choices.append((values.has(ERROR) | (values.true == (node.op == "any")), values))
    return _chosen(choices, constant(node.op == "all"))


def _compared(node: Node, table: Table) -> Values:
    left, right = (_evaluate(arg, table) for arg in node.args)
    alike = left.tags == right.tags
    failed = left.has(ERROR) | right.has(ERROR)
    textual = alike & left.has(TEXT)
    numeric = alike & (left.has(NUMBER) | left.has(BOOLEAN))
    compare: Callable[[Any, Any], Any] = _COMPARISONS[node.op]
    if node.op in {"==", "!="}:
        equal = (alike & left.has(NULL)) | (numeric & (left.numbers == right.numbers))
        equal = equal | (textual & _text_wise(np.equal, left.texts, right.texts))
        return _flags(equal == (node.op == "=="), ~failed)
    result = np.where(
        textual, _text_wise(compare, left.texts, right.texts), compare(left.numbers, right.numbers)
    )
    return _flags(result, ~failed & alike & (left.has(TEXT) | left.has(NUMBER)))


def _text_wise(compare: Any, left: Any, right: Any) -> Any:
    return np.asarray(compare(*np.broadcast_arrays(left, right)), bool)


_COMPARISONS: Final[dict[str, Any]] = {
    "==": np.equal,
    "!=": np.not_equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}


def _asserted(node: Node, table: Table) -> Values:
    choices = []
    for arg in node.args:
        values = _evaluate(arg, table)
        choices.append((values.has(_TAGS[node.type]) | values.has(ERROR), values))
    return _chosen(choices, Values.of(ERROR))


def _converted(node: Node, table: Table) -> Values:
    convert = _to_number if node.op == "to-number" else _to_colour
    choices = []
    for arg in node.args:
        values = _evaluate(arg, table)
        made = convert(values)
        choices.append((values.has(ERROR) | ~made.has(NULL), made))
    return _chosen(choices, Values.of(ERROR))


def _to_number(values: Values) -> Values:
    """Null for what is no number."""
    texts = values.has(TEXT)
    numbers = np.where(values.has(NULL), 0.0, values.numbers)
    if texts.any():
        numbers = np.where(texts, _for_each(number_of, values.texts).astype(float), numbers)
    tags = np.where(np.isnan(numbers), NULL, NUMBER)
    return Values(np.where(values.has(ERROR), ERROR, tags).astype(np.uint8), numbers)


def _to_colour(values: Values) -> Values:
    """Null for what is no colour."""
    codes, distinct = pd.factorize(values.texts)
    found = [colour_of(text) for text in distinct]
    palette = np.array([colour or (0.0, 0.0, 0.0, 0.0) for colour in found], float).reshape(-1, 4)
    known = np.array([colour is not None for colour in found], bool)[codes] & values.has(TEXT)
    tags = np.where(known | values.has(COLOUR), COLOUR, NULL)
    tags = np.where(values.has(ERROR), ERROR, tags).astype(np.uint8)
    return Values(tags, colours=np.where(known[:, None], palette[codes], values.colours))


def positions(values: NDArray[Any], among: NDArray[Any]) -> NDArray[np.intp]:
    """Where each value is among others; -1 for those that aren't."""
    found: NDArray[np.intp] = pd.Index(among).get_indexer(values)
    return found


def _for_each(convert: Callable[[Any], Any], values: NDArray[Any]) -> NDArray[Any]:
    """A function of one value over an array, called once for each distinct one."""
    codes, distinct = pd.factorize(values, use_na_sentinel=False)
    made = np.empty(len(distinct), object)
    made[:] = [convert(value) for value in distinct]
    result: NDArray[Any] = made[codes]
    return result


def texts_of(values: Values) -> NDArray[np.object_]:
    """Values as ``to-string`` has them."""
    texts = np.where(values.has(TEXT), values.texts, "")
    if values.has(NUMBER).any():
        texts = np.where(values.has(NUMBER), _for_each(text_of, values.numbers), texts)
    if values.has(BOOLEAN).any():
        texts = np.where(values.has(BOOLEAN), np.where(values.numbers != 0, "true", "false"), texts)
    if values.has(COLOUR).any():
        written = np.array([text_of(Colour(*row)) for row in values.colours.tolist()], object)
        texts = np.where(values.has(COLOUR), written, texts)
    return texts.astype(object)


def _called(node: Node, table: Table) -> Values:
    args = [_evaluate(arg, table) for arg in node.args]
    good = functools.reduce(lambda so_far, arg: so_far & ~arg.has(ERROR), args, np.ones(1, bool))
    if node.op == "!":
        return _flags(~args[0].true, good)
    if node.type in {"string", "formatted"}:
        if node.op in {"upcase", "downcase"}:
            texts = _for_each(str.upper if node.op == "upcase" else str.lower, args[0].texts)
        else:
            texts = functools.reduce(np.add, map(texts_of, args), np.full(1, "", object))
        return Values.of(TEXT, texts=texts).where(good)
    numbers = _NUMERIC[node.op](*(arg.numbers for arg in args))
    return Values.of(NUMBER, numbers=np.atleast_1d(np.asarray(numbers, float))).where(good)


def _rounded(a: Any) -> Any:
    return np.where(a < 0, -np.floor(0.5 - a), np.floor(a + 0.5))


def _power(a: Any, b: Any) -> Any:
    return np.where((np.abs(a) == 1) & ~np.isfinite(b), np.nan, np.where(np.isnan(b), np.nan, np.power(a, b)))


_NUMERIC: Final[dict[str, Callable[..., Any]]] = {
    "+": lambda *numbers: functools.reduce(np.add, numbers, 0.0),
    "*": lambda *numbers: functools.reduce(np.multiply, numbers, 1.0),
    "-": lambda a, *b: a - b[0] if b else -a,
    "/": np.divide,
    "%": np.fmod,
    "^": _power,
    "min": lambda *numbers: functools.reduce(np.minimum, numbers),
    "max": lambda *numbers: functools.reduce(np.maximum, numbers),
    "abs": np.abs,
    "sqrt": np.sqrt,
    "ln": np.log,
    "log10": lambda a: np.log(a) / np.log(10),
    "floor": np.floor,
    "ceil": np.ceil,
    "round": _rounded,
}
_OPERATORS: Final[dict[str, Callable[[Node, Table], Values]]] = {
    "case": _case,
    "match": _match,
    "step": _curve,
    "interpolate": _curve,
    "coalesce": _coalesce,
    "all": _logical,
    "any": _logical,
    **dict.fromkeys(_COMPARISONS, _compared),
    **dict.fromkeys(("number", "string", "boolean"), _asserted),
    **dict.fromkeys(("to-number", "to-color"), _converted),
}
