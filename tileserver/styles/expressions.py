"""Expressions of the MapLibre style language: from JSON to checked nodes.

Types are inferred as MapLibre does it: where a number, text or boolean is wanted of a value that is only
known when a feature is drawn, the node asserts it; where a colour or a label is wanted, it converts. What is
constant is worked out here, so that its faults are found when a style is read.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from tileserver.styles.fault import StyleFault

Type = Literal["null", "number", "string", "boolean", "color", "value", "formatted"]
Annotation = Literal["assert", "coerce", "omit"]

MAX_SAFE: Final = 2**53 - 1


@dataclass(frozen=True, slots=True)
class Node:
    """One step of an expression. ``value`` is what a ``literal`` says, the attribute of ``get`` and ``has``,
    the (base, inputs) of ``interpolate`` and ``step``, the labels of each branch of ``match``.

    The arguments of a curve are its input and its outputs, of ``match`` the input, an output for each branch
    and what else, of ``case`` conditions and outputs in turn and what else.
    """

    op: str
    type: Type
    args: tuple[Node, ...] = ()
    value: Any = None

    def walk(self) -> Iterator[Node]:
        """The node and all below it."""
        yield self
        for arg in self.args:
            yield from arg.walk()

    @property
    def attributes(self) -> frozenset[str]:
        """The attributes of features that it looks at."""
        return frozenset(node.value for node in self.walk() if node.op in {"get", "has"})

    @property
    def is_constant(self) -> bool:
        return self.op == "literal"


def literal(value: Any) -> Node:
    return Node("literal", type_of(value), value=value)


def type_of(value: object) -> Type:
    """The type that MapLibre has for a plain value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return "string" if isinstance(value, str) else "color"


def is_expression(value: object) -> bool:
    """Whether a property's value is an expression rather than a constant."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], str) and value[0] in OPERATORS


def parse(value: Any, expected: Type | None, path: str, annotation: Annotation | None = None) -> Node:
    """The node of an expression that gives what is expected.

    :raises StyleFault: with the path of what is wrong.
    """
    node = _fitted(_node(value, expected, path), expected, path, annotation)
    if node.op == "literal" or not _is_foldable(node):
        return node
    from tileserver.styles.evaluate import EvaluationError, evaluate

    try:
        return Node("literal", node.type, value=evaluate(node))
    except EvaluationError as error:
        raise StyleFault(path, str(error)) from None


def _is_foldable(node: Node) -> bool:
    if node.op in {"get", "has", "zoom", "geometry-type"}:
        return False
    deep = node.op in _ANNOTATIONS
    return all(_is_foldable(arg) if deep and not arg.is_constant else arg.is_constant for arg in node.args)


_ANNOTATIONS: Final = frozenset({"number", "string", "boolean", "to-number", "to-string", "to-color"})


def _fitted(node: Node, expected: Type | None, path: str, annotation: Annotation | None) -> Node:
    if expected is None or expected in {"value", node.type}:
        return node
    how = annotation
    if expected in {"number", "string", "boolean"} and node.type == "value":
        how = how or "assert"
    elif expected in {"color", "formatted"} and node.type in {"value", "string"}:
        how = how or "coerce"
    else:
        raise StyleFault(path, f"expected {_said(expected)}, not {_said(node.type)}")
    if how == "omit":
        return node
    if how == "assert":
        return Node(expected, expected, (node,))
    name = "to-color" if expected == "color" else "to-string"
    return Node(name, "color" if expected == "color" else expected, (node,))


def _said(kind: Type) -> str:
    return {"formatted": "a label", "color": "a colour", "null": "null", "value": "any value"}.get(
        kind, f"a {kind}"
    )


def _node(value: Any, expected: Type | None, path: str) -> Node:
    if value is None or isinstance(value, str | bool | int | float):
        if isinstance(value, float) and not math.isfinite(value):
            raise StyleFault(path, "is no finite number")
        return literal(value)
    if isinstance(value, dict):
        raise StyleFault(path, "an object is no expression; functions with stops are written as interpolate")
    if not isinstance(value, list) or not value:
        raise StyleFault(path, "an expression is a list that begins with its operator")
    name = value[0]
    if not isinstance(name, str):
        raise StyleFault(
            f"{path}[0]", 'the operator of an expression is text; write ["literal", [...]] for a list'
        )
    reader = OPERATORS.get(name)
    if reader is None:
        near = difflib.get_close_matches(name, OPERATORS, n=3, cutoff=0.5)
        hint = f"; near it: {', '.join(near)}" if near else f"; known: {', '.join(OPERATORS)}"
        raise StyleFault(f"{path}[0]", f"unknown operator {name[:40]!r}{hint}")
    return reader(value, expected, path)


# -- one reader for each operator


def _count(value: Sequence[Any], path: str, low: int, high: int | None = None) -> None:
    """Whether an operator has as many arguments as it takes."""
    count = len(value) - 1
    if count < low or (high is not None and count > high):
        wanted = str(low) if high == low else f"{low} or more" if high is None else f"{low} to {high}"
        raise StyleFault(path, f"{value[0]} takes {wanted} arguments, not {count}")


def _literal(value: list[Any], expected: Type | None, path: str) -> Node:
    _count(value, path, 1, 1)
    if isinstance(value[1], list | dict):
        raise StyleFault(f"{path}[1]", "lists and objects are of no use in this subset")
    return _node(value[1], expected, f"{path}[1]")


def _attribute(kind: Type) -> Reader:
    def read(value: list[Any], expected: Type | None, path: str) -> Node:
        _count(value, path, 1, 1)
        if not isinstance(value[1], str):
            raise StyleFault(f"{path}[1]", f"{value[0]} takes the name of an attribute")
        return Node(value[0], kind, value=value[1])

    return read


def _bare(kind: Type) -> Reader:
    def read(value: list[Any], expected: Type | None, path: str) -> Node:
        _count(value, path, 0, 0)
        return Node(value[0], kind)

    return read


def _call(kind: Type, argument: Type, low: int, high: int | None) -> Reader:
    def read(value: list[Any], expected: Type | None, path: str) -> Node:
        _count(value, path, low, high)
        args = tuple(parse(one, argument, f"{path}[{at}]") for at, one in enumerate(value[1:], 1))
        return Node(value[0], kind, args)

    return read


def _comparison(value: list[Any], expected: Type | None, path: str) -> Node:
    _count(value, path, 2, 2)
    ordered = value[0] not in {"==", "!="}
    left, right = (parse(value[at], "value", f"{path}[{at}]") for at in (1, 2))
    for at, side in ((1, left), (2, right)):
        if side.type in {"color", "formatted"} or (ordered and side.type in {"null", "boolean"}):
            raise StyleFault(f"{path}[{at}]", f"{_said(side.type)} can't be compared by {value[0]}")
    if left.type != right.type and "value" not in {left.type, right.type}:
        raise StyleFault(path, f"{_said(left.type)} can't be compared with {_said(right.type)}")
    untyped = "value" in {left.type, right.type}
    if ordered and left.type == "value" and right.type != "value":
        left, untyped = Node(right.type, right.type, (left,)), False
    elif ordered and right.type == "value" and left.type != "value":
        right, untyped = Node(left.type, left.type, (right,)), False
    return Node(value[0], "boolean", (left, right), untyped)


def _outputs_expected(expected: Type | None) -> Type | None:
    return None if expected == "value" else expected


def _case(value: list[Any], expected: Type | None, path: str) -> Node:
    _count(value, path, 3)
    if len(value) % 2:
        raise StyleFault(path, "case takes conditions and outputs in turn, then what else")
    wanted = _outputs_expected(expected)
    args: list[Node] = []
    for at in range(1, len(value) - 1, 2):
        args.append(parse(value[at], "boolean", f"{path}[{at}]"))
        args.append(parse(value[at + 1], wanted, f"{path}[{at + 1}]"))
        wanted = wanted or args[-1].type
    args.append(parse(value[-1], wanted, f"{path}[{len(value) - 1}]"))
    assert wanted is not None
    return Node("case", wanted, tuple(args))


def _match(value: list[Any], expected: Type | None, path: str) -> Node:
    _count(value, path, 4)
    if len(value) % 2 == 0:
        raise StyleFault(path, "match takes its input, labels and outputs in turn, then what else")
    wanted = _outputs_expected(expected)
    kind: Type | None = None
    branches: list[tuple[Any, ...]] = []
    outputs: list[Node] = []
    seen: set[str] = set()
    for at in range(2, len(value) - 1, 2):
        labels = value[at] if isinstance(value[at], list) else [value[at]]
        kind = _check_labels(labels, kind, seen, f"{path}[{at}]")
        branches.append(tuple(labels))
        outputs.append(parse(value[at + 1], wanted, f"{path}[{at + 1}]"))
        wanted = wanted or outputs[-1].type
    asked = parse(value[1], "value", f"{path}[1]")
    outputs.append(parse(value[-1], wanted, f"{path}[{len(value) - 1}]"))
    if asked.type not in {"value", kind}:
        raise StyleFault(f"{path}[1]", f"expected what the labels are, {_said(kind or 'value')}")
    assert wanted is not None
    return Node("match", wanted, (asked, *outputs), tuple(branches))


def _check_labels(labels: list[Any], kind: Type | None, seen: set[str], path: str) -> Type:
    """The type of all labels so far: texts or whole numbers, each once."""
    if not labels:
        raise StyleFault(path, "a branch needs a label")
    for label in labels:
        if isinstance(label, bool) or not isinstance(label, str | int | float):
            raise StyleFault(path, "labels are texts or whole numbers")
        if not isinstance(label, str) and (label != math.floor(label) or abs(label) > MAX_SAFE):
            raise StyleFault(path, "labels that are numbers are whole numbers")
        if kind not in {None, type_of(label)}:
            raise StyleFault(path, "labels are all texts or all numbers")
        kind = type_of(label)
        written = label if isinstance(label, str) else str(int(label))
        if written in seen:
            raise StyleFault(path, f"the label {written!r} is there twice")
        seen.add(written)
    assert kind is not None
    return kind


def _step(value: list[Any], expected: Type | None, path: str) -> Node:
    _count(value, path, 4)
    if len(value) % 2 == 0:
        raise StyleFault(path, "step takes its input, the first output, then stops and outputs in turn")
    asked = parse(value[1], "number", f"{path}[1]")
    rest = [(None, -math.inf, 2), *((at, value[at], at + 1) for at in range(3, len(value), 2))]
    kind, labels, outputs = _stops(value, rest, _outputs_expected(expected), path)
    return Node("step", kind, (asked, *outputs), (1.0, labels))


def _interpolate(value: list[Any], expected: Type | None, path: str) -> Node:
    _count(value, path, 4)
    if len(value) % 2 == 0:
        raise StyleFault(path, "interpolate takes its kind, its input, then stops and outputs in turn")
    base = _base(value[1], f"{path}[1]")
    asked = parse(value[2], "number", f"{path}[2]")
    rest = [(at, value[at], at + 1) for at in range(3, len(value), 2)]
    kind, labels, outputs = _stops(value, rest, _outputs_expected(expected), path)
    if kind not in {"number", "color"}:
        raise StyleFault(path, f"{_said(kind)} can't be interpolated")
    return Node("interpolate", kind, (asked, *outputs), (base, labels))


def _base(value: Any, path: str) -> float:
    if value == ["linear"]:
        return 1.0
    if isinstance(value, list) and len(value) == 2 and value[0] == "exponential":
        if isinstance(value[1], bool) or not isinstance(value[1], int | float) or not value[1] > 0:
            raise StyleFault(f"{path}[1]", "exponential takes its base, a number above 0")
        return float(value[1])
    raise StyleFault(path, 'takes ["linear"] or ["exponential", base]')


def _stops(
    value: list[Any], rest: Sequence[tuple[int | None, Any, int]], wanted: Type | None, path: str
) -> tuple[Type, tuple[float, ...], list[Node]]:
    labels: list[float] = []
    outputs: list[Node] = []
    for at, label, place in rest:
        if isinstance(label, bool) or not isinstance(label, int | float):
            raise StyleFault(f"{path}[{at}]", "a stop is a number, not an expression")
        if labels and not labels[-1] < label:
            raise StyleFault(f"{path}[{at}]", "stops ascend")
        outputs.append(parse(value[place], wanted, f"{path}[{place}]"))
        wanted = wanted or outputs[-1].type
        labels.append(float(label))
    assert wanted is not None
    return wanted, tuple(labels), outputs


def _coalesce(value: list[Any], expected: Type | None, path: str) -> Node:
    _count(value, path, 1)
    wanted = _outputs_expected(expected)
    args: list[Node] = []
    for at, one in enumerate(value[1:], 1):
        args.append(parse(one, wanted, f"{path}[{at}]", "omit"))
        wanted = wanted or args[-1].type
    assert wanted is not None
    # An annotation of an argument would fail for null, which is what is meant to be passed over.
    needs = expected not in {None, "value"} and any(arg.type != expected for arg in args)
    return Node("coalesce", "value" if needs else wanted, tuple(args))


Reader = Callable[[list[Any], "Type | None", str], Node]

_NUMBERS: Final = _call("number", "number", 1, 1)
OPERATORS: Final[dict[str, Reader]] = {
    "literal": _literal,
    "get": _attribute("value"),
    "has": _attribute("boolean"),
    "zoom": _bare("number"),
    "geometry-type": _bare("string"),
    **dict.fromkeys(("==", "!=", "<", "<=", ">", ">="), _comparison),
    "!": _call("boolean", "boolean", 1, 1),
    "all": _call("boolean", "boolean", 0, None),
    "any": _call("boolean", "boolean", 0, None),
    "case": _case,
    "match": _match,
    "coalesce": _coalesce,
    "step": _step,
    "interpolate": _interpolate,
    "number": _call("number", "value", 1, None),
    "string": _call("string", "value", 1, None),
    "boolean": _call("boolean", "value", 1, None),
    "to-number": _call("number", "value", 1, None),
    "to-string": _call("string", "value", 1, 1),
    "to-color": _call("color", "value", 1, None),
    "concat": _call("string", "value", 0, None),
    "upcase": _call("string", "string", 1, 1),
    "downcase": _call("string", "string", 1, 1),
    "+": _call("number", "number", 0, None),
    "*": _call("number", "number", 0, None),
    "-": _call("number", "number", 1, 2),
    "/": _call("number", "number", 2, 2),
    "%": _call("number", "number", 2, 2),
    "^": _call("number", "number", 2, 2),
    "min": _call("number", "number", 0, None),
    "max": _call("number", "number", 0, None),
    **dict.fromkeys(("abs", "sqrt", "ln", "log10", "floor", "ceil", "round"), _NUMBERS),
}
