"""Expressions mean what they mean to MapLibre: its own evaluator is asked about generated ones."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.node import StyleSpec, style_spec
from tileserver import styles
from tileserver.render import columns
from tileserver.styles import StyleFault
from tileserver.styles.colours import Colour
from tileserver.styles.evaluate import EvaluationError, Feature, evaluate
from tileserver.styles.expressions import Node, parse
from tileserver.styles.layers import check_zoom, read_filter


@pytest.fixture(scope="module")
def spec() -> Iterator[StyleSpec]:
    with style_spec() as found:
        yield found


# -- expressions of every operator, most of them with values of the right types

COLOURS = (
    "#fff",
    "#d94801",
    "#08306b80",
    "rgba(10, 200, 30, 0.25)",
    "hsl(210, 50%, 40%)",
    "teal",
    "transparent",
)
TEXTS = st.sampled_from(
    ["", "a", "B c", "12", " 7 ", "1e3", "0x1F", "teal", "#d94801", "true", "null", "Ünï"]
)
NUMBERS = st.one_of(
    st.integers(-20, 20), st.sampled_from([0.5, -0.25, 1e21, 1e-7, 123456789.125, 3.0, -0.0, 0.1])
)
NAMES = st.sampled_from(["number", "text", "flag", "mixed", "missing"])


def stops(outputs: st.SearchStrategy[Any], first: bool) -> st.SearchStrategy[list[Any]]:
    """Inputs in order, each with an output; a step begins with an output."""
    inputs = st.lists(st.integers(-10, 10), min_size=1, max_size=4, unique=True).map(sorted)
    paired = inputs.flatmap(
        lambda found: st.tuples(st.just(found), st.lists(outputs, min_size=len(found), max_size=len(found)))
    )
    flat = paired.map(lambda pair: [one for both in zip(*pair, strict=True) for one in both])
    return st.tuples(outputs, flat).map(lambda pair: [pair[0], *pair[1]]) if first else flat


def lists(*parts: Any) -> st.SearchStrategy[list[Any]]:
    """An expression of an operator and its arguments."""
    return st.tuples(*(part if isinstance(part, st.SearchStrategy) else st.just(part) for part in parts)).map(
        list
    )


GET = lists("get", NAMES)
CURVES = st.one_of(st.just(["linear"]), st.sampled_from([["exponential", 1.5], ["exponential", 0.5]]))


@functools.cache
def numbers(depth: int) -> st.SearchStrategy[Any]:
    if depth == 0:
        return st.one_of(NUMBERS, GET, st.just(["get", "number"]))
    inner, values = numbers(depth - 1), anything(depth - 1)
    one = st.sampled_from(["abs", "sqrt", "ln", "log10", "floor", "ceil", "round", "-"])
    two = st.sampled_from(["-", "/", "%", "^", "min", "max", "+", "*"])
    return st.one_of(
        inner,
        lists(one, inner),
        lists(two, inner, inner),
        lists("to-number", values),
        lists("to-number", values, values),
        lists("number", values, inner),
        *choices(numbers, depth),
    )


@functools.cache
def strings(depth: int) -> st.SearchStrategy[Any]:
    if depth == 0:
        return st.one_of(TEXTS, GET, st.just(["get", "text"]), st.just(["geometry-type"]))
    values = anything(depth - 1)
    case = st.sampled_from(["upcase", "downcase"])
    return st.one_of(
        lists("to-string", values),
        lists("concat", values, values),
        lists(case, strings(depth - 1)),
        lists("string", values, strings(depth - 1)),
        *choices(strings, depth, curve=False),
    )


@functools.cache
def booleans(depth: int) -> st.SearchStrategy[Any]:
    if depth == 0:
        return st.one_of(lists("has", NAMES), lists("==", GET, st.one_of(NUMBERS, TEXTS)))
    inner, values = booleans(depth - 1), anything(depth - 1)
    compare = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
    return st.one_of(
        lists("!", inner),
        lists(st.sampled_from(["all", "any"]), inner, inner),
        lists(compare, numbers(depth - 1), numbers(depth - 1)),
        lists(compare, strings(depth - 1), strings(depth - 1)),
        lists(compare, GET, values),
        lists("==", GET, st.sampled_from([True, None])),
    )


@functools.cache
def colours(depth: int) -> st.SearchStrategy[Any]:
    if depth == 0:
        return st.one_of(st.sampled_from(COLOURS), st.sampled_from(COLOURS), GET)
    return st.one_of(
        lists("to-color", strings(depth - 1), st.sampled_from(COLOURS)), *choices(colours, depth)
    )


def choices(kind: Any, depth: int, *, curve: bool = True) -> Iterator[st.SearchStrategy[Any]]:
    """What may give any type."""
    inner, asked = kind(depth - 1), numbers(depth - 1)
    yield lists("case", booleans(depth - 1), inner, inner)
    yield lists("match", GET, 3, inner, [5, 12], inner, inner)
    yield lists("match", GET, ["a", "teal"], inner, "12", inner, inner)
    yield lists("coalesce", GET, inner)
    yield st.tuples(asked, stops(inner, first=True)).map(lambda pair: ["step", pair[0], *pair[1]])
    if curve:
        outputs = stops(inner, first=False)
        yield st.tuples(CURVES, asked, outputs).map(lambda all_: ["interpolate", all_[0], all_[1], *all_[2]])


@functools.cache
def anything(depth: int) -> st.SearchStrategy[Any]:
    return st.one_of(numbers(depth), strings(depth), booleans(depth))


PROPERTIES = st.fixed_dictionaries(
    {},
    optional={
        "number": NUMBERS,
        "text": TEXTS,
        "flag": st.booleans(),
        "mixed": st.one_of(NUMBERS, TEXTS, st.booleans()),
    },
)
FEATURES = st.lists(
    st.fixed_dictionaries(
        {"properties": PROPERTIES, "geometry": st.sampled_from(["Point", "LineString", "Polygon"])}
    ),
    min_size=1,
    max_size=6,
)
DEFAULTS: dict[str, Any] = {"number": 5.0, "color": Colour(0, 0, 0, 1), "formatted": "", "filter": False}


def scalar(node: Node, feature: dict[str, Any], zoom: float, default: Any) -> Any:
    try:
        found = evaluate(node, Feature(feature["properties"], feature["geometry"], zoom))
    except EvaluationError:
        return default
    return default if found is None or (isinstance(found, float) and math.isnan(found)) else found


def vectorised(node: Node, features: list[dict[str, Any]], zoom: float, default: Any) -> list[Any]:
    frame = pd.DataFrame(
        {name: [f["properties"].get(name) for f in features] for name in node.attributes}, dtype=object
    )
    table = columns.Table(
        count=len(features),
        columns={name: columns.column(name, frame[name]) for name in frame.columns},
        families=np.array([f["geometry"] for f in features], object),
        zoom=zoom,
    )
    values = columns.evaluate(node, table)
    return [_at(values, row, default) for row in range(len(features))]


def _at(values: columns.Values, row: int, default: Any) -> Any:
    def one(array: Any) -> Any:
        return array[row if len(array) > 1 else 0]

    match int(one(values.tags)):
        case columns.BOOLEAN:
            return bool(one(values.numbers))
        case columns.NUMBER:
            number = float(one(values.numbers))
            return default if math.isnan(number) else number
        case columns.TEXT:
            return one(values.texts)
        case columns.COLOUR:
            return Colour(*one(values.colours).tolist())
    return default


def alike(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, Colour):
        return bool(np.allclose(ours, theirs, atol=1e-9))
    if isinstance(theirs, str) and not isinstance(ours, str):
        theirs = float(theirs)  # Infinity
    if isinstance(ours, float) and not isinstance(theirs, bool):
        return ours == theirs or math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-12)
    return type(ours) is type(theirs) and bool(ours == theirs)


def read(kind: Any, expression: Any) -> Node | StyleFault:
    try:
        if kind == "filter":
            return read_filter(expression, "x")
        node = parse(expression, kind, "x")
        check_zoom(node, "x")
    except StyleFault as fault:
        return fault
    return node


def check(spec: StyleSpec, kind: str, expression: Any, features: list[dict[str, Any]], zoom: float) -> None:
    """What we read is read by MapLibre too, and has the same value for each feature, in both of our
    evaluations."""
    asked = [{**feature, "zoom": zoom} for feature in features]
    theirs = spec.ask(type=kind, expression=expression, features=asked)
    node = read(kind, expression)
    if isinstance(node, StyleFault):
        known = isinstance(theirs, dict) or "older form" in node.reason
        assert known, f"we refuse {expression}: {node.message}"
        return
    assert isinstance(theirs, list), f"they refuse {expression}: {theirs}"
    default = DEFAULTS[kind]
    ours = [scalar(node, feature, zoom, default) for feature in features]
    whole = vectorised(node, features, zoom, default)
    for number, feature in enumerate(features):
        assert alike(ours[number], theirs[number]), (expression, feature, ours[number], theirs[number])
        assert alike(whole[number], theirs[number]), (expression, feature, whole[number], theirs[number])


@pytest.mark.parametrize("curve", [["linear"], ["exponential", 2]], ids=str)
@pytest.mark.parametrize("last", [1, 2**53, 1.7e18, 1e300])
def test_a_curve_goes_on_as_it_ends(curve: list[Any], last: float) -> None:
    """However large the number of its last stop is, such as a time in nanoseconds."""
    node = read("number", ["interpolate", curve, ["get", "a"], -last, 3, last, 5])
    assert not isinstance(node, StyleFault)
    features = [{"properties": {"a": a}, "geometry": "Point"} for a in (-2 * last, -last, last, 2 * last)]

    assert vectorised(node, features, 4, None) == [3, 3, 5, 5]


EXAMPLES = settings(max_examples=300)


@EXAMPLES
@given(st.sampled_from([1, 2, 2, 3]).flatmap(numbers).filter(lambda found: isinstance(found, list)), FEATURES)
def test_numbers(spec: StyleSpec, expression: Any, features: list[dict[str, Any]]) -> None:
    """Arithmetic, curves and conversions."""
    check(spec, "number", expression, features, 4)


@EXAMPLES
@given(st.sampled_from([1, 2, 2, 3]).flatmap(colours).filter(lambda found: isinstance(found, list)), FEATURES)
def test_colours(spec: StyleSpec, expression: Any, features: list[dict[str, Any]]) -> None:
    """Colours between colours, by name and by data."""
    check(spec, "color", expression, features, 4)


@EXAMPLES
@given(st.sampled_from([1, 2, 2, 3]).flatmap(strings).filter(lambda found: isinstance(found, list)), FEATURES)
def test_labels(spec: StyleSpec, expression: Any, features: list[dict[str, Any]]) -> None:
    """Texts, and numbers as JavaScript writes them."""
    check(spec, "formatted", expression, features, 4)


@EXAMPLES
@given(st.integers(0, 3).flatmap(booleans), FEATURES)
def test_filters(spec: StyleSpec, expression: Any, features: list[dict[str, Any]]) -> None:
    """Comparisons and logic; what can't be compared lets nothing through."""
    check(spec, "filter", expression, features, 4)


@settings(max_examples=100)
@given(CURVES, st.lists(numbers(0), min_size=2, max_size=2), st.floats(-1, 20, allow_nan=False), FEATURES)
def test_zoom(
    spec: StyleSpec, curve: Any, outputs: list[Any], zoom: float, features: list[dict[str, Any]]
) -> None:
    """A curve over the zoom, between values of the data."""
    check(spec, "number", ["interpolate", curve, ["zoom"], 3, outputs[0], 12, outputs[1]], features, zoom)


@pytest.mark.parametrize(
    "expression",
    [
        ["+", ["zoom"], 1],
        ["case", ["has", "a"], ["interpolate", ["linear"], ["zoom"], 0, 1, 5, 2], 1],
        ["get"],
        ["interpolate", ["linear"], ["get", "a"], 1, 2, 1, 3],
        ["match", ["get", "a"], "x", 1, "x", 2, 3],
        ["match", ["get", "a"], 1.5, 1, 3],
        ["step", ["get", "a"], 1, "x", 2],
        ["upcase", 3],
        ["abs", "x"],
        ["nonsense", 1],
    ],
    ids=str,
)
def test_what_maplibre_refuses_is_refused(spec: StyleSpec, expression: Any) -> None:
    """Faults of types, stops, labels and of zoom in the wrong place."""
    assert "errors" in spec.ask(type="number", expression=expression, features=[])
    with pytest.raises(StyleFault):
        check_zoom(parse(expression, "number", "x"), "x")


@pytest.mark.parametrize("name", sorted(styles.shipped()))
def test_shipped_styles_pass_the_official_validator(spec: StyleSpec, name: str) -> None:
    """As they are shipped, parameters and all."""
    assert spec.faults(dict(styles.shipped()[name].document)) == []


def test_the_validator_finds_faults(spec: StyleSpec) -> None:
    """It is asked in a way in which it would say so."""
    assert spec.faults({"version": 8, "sources": {}, "layers": [{"id": "a", "type": "fill"}]})
