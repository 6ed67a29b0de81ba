"""Styles with parameters: ``choropleth(attribute=mag, range=0:9)``.

A document declares them in its ``metadata`` under ``tileserver:parameters`` with values that make it
complete: ``attribute`` is a name, which ``$attribute`` stands for in the document; ``range`` is what stops
of curves over that attribute are written for, and they are stretched to another; ``values`` are what ``$1``,
``$2`` and so on stand for as labels of a ``match``, whose branches without a value are left out. What a
reference leaves open is filled from what the data has in it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from tileserver.errors import BadRequest
from tileserver.styles.bounds import LARGEST
from tileserver.styles.evaluate import text_of
from tileserver.styles.fault import StyleFault

KEY: Final = "tileserver:parameters"
MAX_CLASSES: Final = 10
_REFERENCE: Final = re.compile(r"\s*([A-Za-z0-9_-]{1,128})\s*(?:\((.*)\))?\s*", re.DOTALL)
_ARGUMENT: Final = re.compile(r'\s*(\w+)\s*=(?:\s*"((?:[^"\\]|\\.)*)"\s*|([^,"]*))(?:,|$)', re.DOTALL)
_PLACEHOLDER: Final = "$attribute"
_NUMBERED: Final = re.compile(r"\$\d{1,4}", re.ASCII)
_NARROWEST: Final = 1e-12  # of a range, as a part of its numbers
_STEEPEST: Final = 600.0  # logarithm of a curve's base
_UNTELLING: Final = frozenset(
    {"id", "fid", "gid", "objectid", "lon", "lat", "lng", "longitude", "latitude", "x", "y"}
)


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a reference gives a style; None leaves a parameter open."""

    attribute: str | None = None
    range: tuple[float, float] | None = None
    values: tuple[str, ...] | None = None


NO_ARGUMENTS: Final = Arguments()


@dataclass(frozen=True, slots=True)
class Summary:
    """What sample tiles have in them: by attribute a range of its numbers, or its distinct values."""

    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, facts: Any) -> Summary:
        """From what a worker says, which is not trusted to be well-formed."""
        ranges: dict[str, tuple[float, float]] = {}
        values: dict[str, tuple[str, ...]] = {}
        for name, fact in facts.items() if isinstance(facts, dict) else ():
            numbers = fact.get("range") if isinstance(fact, dict) else None
            classes = fact.get("values") if isinstance(fact, dict) else None
            if isinstance(numbers, list) and len(numbers) == 2 and all(map(_is_finite, numbers)):
                ranges[str(name)] = rounded(float(numbers[0]), float(numbers[1]))
            if isinstance(classes, list) and 0 < len(classes) <= MAX_CLASSES:
                values[str(name)] = tuple(str(one) for one in classes)
        return cls(ranges, values)

    @property
    def number(self) -> str | None:
        """The first attribute whose numbers say something."""
        return next((name for name in self.ranges if name.lower() not in _UNTELLING), None)

    @property
    def category(self) -> str | None:
        """The first attribute with few values, but more than one."""
        return next((name for name, found in self.values.items() if len(found) > 1), None)


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def rounded(low: float, high: float) -> tuple[float, float]:
    """A range that is easy to read and holds the given one: whole steps of a tenth or so of its length."""
    length = high - low
    if length > max(_NARROWEST * max(abs(low), abs(high)), 1 / LARGEST):
        step: float = 10.0 ** math.floor(math.log10(length))
        if length / step < 2:
            step /= 10
        return _plain(math.floor(low / step) * step), _plain(math.ceil(high / step) * step)
    half = max(0.5, abs(low) * _NARROWEST)
    return low - half, low + half


def _plain(number: float) -> float:
    """Without the last digits, which are those that a calculation leaves."""
    return float(f"{number:.15g}")


def parse_reference(text: str) -> tuple[str, Arguments]:
    """The name of a style and what the reference gives it.

    :raises BadRequest: when it is no reference.
    """
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise BadRequest(
            f"style takes a name such as default or choropleth(attribute=mag), not {text[:60]!r}"
        )
    name, inside = match.groups()
    given: dict[str, str] = {}
    at = 0
    while inside and at < len(inside):
        argument = _ARGUMENT.match(inside, at)
        if argument is None:
            raise BadRequest(f"style: {inside[at : at + 40]!r} is no NAME=VALUE")
        key, quoted, bare = argument.groups()
        given[key] = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else bare.strip()
        at = argument.end()
    return name, _arguments(given)


def _arguments(given: Mapping[str, str]) -> Arguments:
    for key in given.keys() - {"attribute", "range", "values"}:
        raise BadRequest(f"style: unknown parameter {key[:40]!r}; known: attribute, range, values")
    return Arguments(
        attribute=given.get("attribute") or None,
        range=_range(given["range"]) if "range" in given else None,
        values=_values(given["values"]) if "values" in given else None,
    )


def _range(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(":"))
    except ValueError:
        raise BadRequest(f"style: range takes min:max, not {text[:40]!r}") from None
    if not (abs(low) <= LARGEST and abs(high) <= LARGEST and low < high):
        raise BadRequest(f"style: range takes min:max with min below max, not {text[:40]!r}")
    return low, high


def _values(text: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(part.strip() for part in text.split("|") if part.strip()))
    if not 0 < len(found) <= MAX_CLASSES:
        raise BadRequest(f"style: values takes 1 to {MAX_CLASSES} values, separated by |")
    return found


def check(value: Any) -> None:
    """What a document declares as its parameters.

    :raises StyleFault: with the path of what is wrong.
    """
    path = f"metadata.{KEY}"
    if not isinstance(value, dict):
        raise StyleFault(path, "takes an object")
    for key in value.keys() - {"attribute", "range", "values"}:
        raise StyleFault(f"{path}.{key}", "is no parameter; known: attribute, range, values")
    if value and not isinstance(value.get("attribute"), str):
        raise StyleFault(f"{path}.attribute", "takes the name of an attribute")
    own = value.get("range", [0, 1])
    if not (isinstance(own, list) and len(own) == 2 and all(map(_is_finite, own)) and own[0] < own[1]):
        raise StyleFault(f"{path}.range", "takes [min, max] with min below max")


def declared(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters of a document; none in one that is complete as it is."""
    found = document.get("metadata", {})
    found = found.get(KEY, {}) if isinstance(found, dict) else {}
    return found if isinstance(found, dict) else {}


def left_open(document: Mapping[str, Any], given: Arguments) -> frozenset[str]:
    """The parameters of a document that nothing was given for."""
    return frozenset(name for name in declared(document) if getattr(given, name, None) is None)


def completed(document: Mapping[str, Any], given: Arguments, summary: Summary) -> Arguments | None:
    """The arguments with what the data says of those left open; None where it says nothing of them."""
    wanted = declared(document)
    attribute = given.attribute
    if attribute is None:
        attribute = summary.number if "range" in wanted else summary.category
    if attribute is None:
        return None
    found = replace(given, attribute=attribute)
    if "range" in wanted and found.range is None:
        found = replace(found, range=summary.ranges.get(attribute))
    if "values" in wanted and found.values is None:
        found = replace(found, values=summary.values.get(attribute))
    return None if left_open(document, found) else found


def reference(name: str, given: Arguments) -> str:
    """The reference that gives a style these arguments."""
    parts = []
    if given.attribute is not None:
        parts.append(f"attribute={_quoted(given.attribute)}")
    if given.range is not None:
        parts.append(f"range={text_of(given.range[0])}:{text_of(given.range[1])}")
    if given.values is not None:
        parts.append(f"values={_quoted('|'.join(given.values))}")
    return f"{name}({', '.join(parts)})" if parts else name


def _quoted(text: str) -> str:
    if re.fullmatch(r"[\w|. -]+", text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def fill(document: Mapping[str, Any], given: Arguments) -> dict[str, Any]:
    """The document with its parameters in their places."""
    own = declared(document)
    if not own:
        return dict(document)
    scale = _scale(own.get("range"), given.range)
    values = tuple(given.values or ())
    filled: dict[str, Any] = _filled(
        dict(document), str(given.attribute or own.get("attribute")), scale, values
    )
    return filled


_Scale = tuple[
    float, float, float
]  # where the range begins, its share of the declared one, where that begins


def _scale(own: Any, given: tuple[float, float] | None) -> _Scale:
    if given is None or not isinstance(own, list):
        return (0.0, 1.0, 0.0)
    return (given[0], (given[1] - given[0]) / (own[1] - own[0]), float(own[0]))


def _filled(value: Any, attribute: str, scale: _Scale, values: Sequence[str]) -> Any:
    if isinstance(value, str):
        return value.replace(_PLACEHOLDER, attribute)
    if isinstance(value, dict):
        return {key: _filled(one, attribute, scale, values) for key, one in value.items()}
    if not isinstance(value, list):
        return value
    if value[:1] in (["interpolate"], ["step"]) and _asks(value[1:3]):
        value = _stretched(value, scale)
    elif value[:1] == ["match"] and _asks(value[1:2]):
        value = _labelled(value, values)
    return [_filled(one, attribute, scale, values) for one in value]


def _asks(parts: Any) -> bool:
    """Whether the attribute is looked at in an expression."""
    return parts == ["get", _PLACEHOLDER] or (isinstance(parts, list) and any(map(_asks, parts)))


def _stretched(curve: list[Any], scale: _Scale) -> list[Any]:
    """The curve over another range, of the same form: a base grows with the length of what it is a
    power of."""
    first, share, own = scale
    head = curve[:3]
    if head[0] == "interpolate" and head[1][:1] == ["exponential"] and share != 1:
        head[1] = _bent(head[1][1], share)
    pairs = curve[3:]
    stops = [_plain(first + (stop - own) * share) for stop in pairs[::2]]
    return [*head, *(one for pair in zip(stops, pairs[1::2], strict=True) for one in pair)]


def _bent(base: float, share: float) -> list[Any]:
    """The kind of a curve; straight where the base would be no number, as it is over the smallest ranges."""
    exponent = math.log(base) / share
    return ["exponential", math.exp(exponent)] if abs(exponent) < _STEEPEST else ["linear"]


def _labelled(match: list[Any], values: Sequence[str]) -> list[Any]:
    found = match[:2]
    for at in range(2, len(match) - 1, 2):
        number = match[at]
        if not (isinstance(number, str) and _NUMBERED.fullmatch(number)):
            found += match[at : at + 2]
        elif not values:
            return match
        elif int(number[1:]) <= len(values):
            found += [values[int(number[1:]) - 1], match[at + 1]]
    return [*found, match[-1]]
