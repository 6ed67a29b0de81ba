"""The value of an expression for one feature, as MapLibre's own evaluation has it.

For legends and for what is constant; ``render/styling.py`` has the same rules for whole columns.
"""

from __future__ import annotations

import functools
import math
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tileserver.styles import colours
from tileserver.styles.colours import Colour
from tileserver.styles.expressions import Node, Type, type_of


class EvaluationError(Exception):
    """The expression has no value for this feature: its property has the default then."""


@dataclass(frozen=True, slots=True)
class Feature:
    """What expressions see of a feature of a vector tile, and the map's zoom (of tiles of 512 pixels)."""

    properties: Mapping[str, Any] = field(default_factory=dict)
    geometry: str = "Point"
    zoom: float = 0.0


NOWHERE: Final = Feature()


def evaluate(node: Node, feature: Feature = NOWHERE) -> Any:
    """None, bool, number, text or ``Colour``.

    :raises EvaluationError: where MapLibre's evaluation fails.
    """
    match node.op:
        case "literal":
            return node.value
        case "get":
            return feature.properties.get(node.value)
        case "has":
            return node.value in feature.properties
        case "zoom":
            return feature.zoom
        case "geometry-type":
            return feature.geometry
        case "case":
            return _case(node, feature)
        case "match":
            return _match(node, feature)
        case "step" | "interpolate":
            return _curve(node, feature)
        case "coalesce":
            return next((v for arg in node.args if (v := evaluate(arg, feature)) is not None), None)
        case "all":
            return all(evaluate(arg, feature) for arg in node.args)
        case "any":
            return any(evaluate(arg, feature) for arg in node.args)
        case "==" | "!=" | "<" | "<=" | ">" | ">=":
            return _compared(node, *(evaluate(arg, feature) for arg in node.args))
        case "number" | "string" | "boolean":
            return _asserted(node.type, [functools.partial(evaluate, arg, feature) for arg in node.args])
        case "to-number" | "to-color":
            return _converted(node.op, [functools.partial(evaluate, arg, feature) for arg in node.args])
    return _CALLS[node.op](*(evaluate(arg, feature) for arg in node.args))


def _case(node: Node, feature: Feature) -> Any:
    for condition, output in zip(node.args[:-1:2], node.args[1:-1:2], strict=True):
        if evaluate(condition, feature):
            return evaluate(output, feature)
    return evaluate(node.args[-1], feature)


def _match(node: Node, feature: Feature) -> Any:
    value = evaluate(node.args[0], feature)
    kind = type_of(value)
    for labels, output in zip(node.value, node.args[1:-1], strict=True):
        if any(kind == type_of(label) and value == label for label in labels):
            return evaluate(output, feature)
    return evaluate(node.args[-1], feature)


def _curve(node: Node, feature: Feature) -> Any:
    base, labels = node.value
    if len(labels) == 1:
        return evaluate(node.args[1], feature)
    value = evaluate(node.args[0], feature)
    if math.isnan(value):
        raise EvaluationError("the input of a curve is not a number")
    at = bisect_right(labels, value) - 1
    if at < 0 or node.op == "step" or at == len(labels) - 1:
        return evaluate(node.args[1 + max(at, 0)], feature)
    share = progress(value, base, labels[at], labels[at + 1])
    low, high = (evaluate(node.args[1 + index], feature) for index in (at, at + 1))
    if node.type == "color":
        return Colour(*(a + share * (b - a) for a, b in zip(low, high, strict=True)))
    return low + share * (high - low)


def progress(value: float, base: float, low: float, high: float) -> float:
    """How far an input lies between two stops."""
    if base == 1:
        return (value - low) / (high - low)
    return quotient(power(base, value - low) - 1, power(base, high - low) - 1)


def _compared(node: Node, left: Any, right: Any) -> bool:
    kinds = type_of(left), type_of(right)
    same = kinds[0] == kinds[1] and left == right
    if node.op in {"==", "!="}:
        return same == (node.op == "==")
    if node.value and (kinds[0] != kinds[1] or kinds[0] not in {"string", "number"}):
        raise EvaluationError(f"{node.op} takes two numbers or two texts, not {kinds[0]} and {kinds[1]}")
    if node.op.startswith("<"):
        return bool(left < right) or (node.op == "<=" and same)
    return bool(left > right) or (node.op == ">=" and same)


def _asserted(kind: Type, values: list[Callable[[], Any]]) -> Any:
    found: Any = None
    for value in values:
        found = value()
        if type_of(found) == kind:
            return found
    raise EvaluationError(f"expected a {kind}, not a {type_of(found)}")


def _converted(op: str, values: list[Callable[[], Any]]) -> Any:
    found: Any = None
    for value in values:
        found = value()
        made = number_of(found) if op == "to-number" else colour_of(found)
        if made is not None and made == made:  # noqa: PLR0124  # NaN is not
            return made
    raise EvaluationError(f"{found!r} is no {'number' if op == 'to-number' else 'colour'}")


def colour_of(value: Any) -> Colour | None:
    """A colour, or what a text means as one."""
    if isinstance(value, str):
        return colours.parse(value)
    return value if isinstance(value, Colour) else None


_DECIMAL: Final = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_RADIX: Final = re.compile(r"0(x[0-9a-f]+|o[0-7]+|b[01]+)", re.ASCII | re.IGNORECASE)
_ENDLESS: Final = {"Infinity": math.inf, "+Infinity": math.inf, "-Infinity": -math.inf, "": 0.0}
_BLANK: Final = " \t\n\v\f\r\u00a0\u1680\u2028\u2029\u202f\u205f\u3000\ufeff" + "".join(
    map(chr, range(0x2000, 0x200B))
)


def number_of(value: Any) -> float:
    """JavaScript's ``Number``: null is 0, a blank text is 0, other texts are numbers or NaN."""
    if value is None:
        return 0.0
    if isinstance(value, bool | int | float):
        return float(value)
    if not isinstance(value, str):
        return math.nan
    text = value.strip(_BLANK)
    if text in _ENDLESS:
        return _ENDLESS[text]
    if _RADIX.fullmatch(text):
        number = int(text, 0)
        return float(number) if number.bit_length() < 1024 else math.inf
    return float(text) if _DECIMAL.fullmatch(text) else math.nan


def text_of(value: Any) -> str:
    """JavaScript's ``String``, with nothing for null: a whole number has no decimal point."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Colour):
        red, green, blue = (text_of(round(255 * part)) for part in value[:3])
        return f"rgba({red},{green},{blue},{text_of(value.alpha)})"
    return value if isinstance(value, str) else _number_text(float(value))


def _number_text(number: float) -> str:
    """ECMAScript, Number::toString."""
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    if number == 0:
        return "0"
    mantissa, _, exponent = f"{number!r:s}".partition("e")
    if not exponent and abs(number) >= 1e-6:
        return mantissa.removesuffix(".0")
    sign, digits, point = _digits(number)
    if 0 < point <= 21:
        return f"{sign}{digits.ljust(point, '0')}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{fraction}e{point - 1:+d}"


def _digits(number: float) -> tuple[str, str, int]:
    """The sign, the shortest digits, and where among them the decimal point stands."""
    mantissa, _, exponent = repr(abs(number)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = f"{whole}{fraction}"
    point = len(whole) + int(exponent or 0)
    stripped = digits.lstrip("0")
    point -= len(digits) - len(stripped)
    return "-" if number < 0 else "", stripped.rstrip("0"), point


# -- arithmetic as IEEE 754 and JavaScript have it: nothing fails


def quotient(a: float, b: float) -> float:
    if b == 0:
        return math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a) * math.copysign(1, b)
    return a / b


def power(a: float, b: float) -> float:
    if math.isnan(b) or (abs(a) == 1 and math.isinf(b)):
        return math.nan
    try:
        return math.pow(a, b)
    except OverflowError:
        return -math.inf if a < 0 and b % 2 == 1 else math.inf
    except ValueError:
        if a != 0:
            return math.nan
        return math.copysign(math.inf, a) if b % 2 == 1 else math.inf


def _remainder(a: float, b: float) -> float:
    return math.nan if b == 0 or math.isinf(a) else math.fmod(a, b)


def _logarithm(a: float) -> float:
    return math.log(a) if a > 0 else -math.inf if a == 0 else math.nan


def _whole(rounding: Callable[[float], int]) -> Callable[[float], float]:
    return lambda a: float(rounding(a)) if math.isfinite(a) else a


def _rounded(a: float) -> int:
    """To the nearest, halves away from zero."""
    return -math.floor(0.5 - a) if a < 0 else math.floor(a + 0.5)


def _extreme(choose: Callable[..., float]) -> Callable[..., float]:
    none = -choose(-math.inf, math.inf)
    return lambda *numbers: math.nan if any(map(math.isnan, numbers)) else choose(numbers, default=none)


_CALLS: Final[dict[str, Callable[..., Any]]] = {
    "!": lambda a: not a,
    "to-string": text_of,
    "concat": lambda *values: "".join(map(text_of, values)),
    "upcase": str.upper,
    "downcase": str.lower,
    "+": lambda *numbers: functools.reduce(lambda a, b: a + b, numbers, 0.0),
    "*": lambda *numbers: functools.reduce(lambda a, b: a * b, numbers, 1.0),
    "-": lambda a, *b: a - b[0] if b else -a,
    "/": quotient,
    "%": _remainder,
    "^": power,
    "min": _extreme(min),
    "max": _extreme(max),
    "abs": abs,
    "sqrt": lambda a: math.sqrt(a) if a >= 0 else math.nan,
    "ln": _logarithm,
    "log10": lambda a: _logarithm(a) / math.log(10),
    "floor": _whole(math.floor),
    "ceil": _whole(math.ceil),
    "round": _whole(_rounded),
}
