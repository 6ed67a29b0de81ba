"""Style documents: what is read of them, what is refused and where, references, and legends."""

from __future__ import annotations

import copy
import json
import math
import time
from typing import Any

import pytest

from tileserver import styles
from tileserver.errors import BadRequest
from tileserver.styles import StyleFault, colours, completed, find, parse
from tileserver.styles.colours import Colour
from tileserver.styles.legend import legend
from tileserver.styles.parameters import Summary, parse_reference, rounded

DOCUMENT: dict[str, Any] = {
    "version": 8,
    "sources": {"udf": {"type": "vector"}},
    "layers": [
        {
            "id": "a",
            "type": "circle",
            "source": "udf",
            "source-layer": "udf",
            "paint": {"circle-radius": ["interpolate", ["linear"], ["get", "mag"], 0, 1, 8, 20]},
        }
    ],
}


def changed(*path: Any, to: Any) -> dict[str, Any]:
    """The document with another value at one place."""
    document = copy.deepcopy(DOCUMENT)
    place: Any = document
    for step in path[:-1]:
        place = place.setdefault(step, {}) if isinstance(place, dict) else place[step]
    place[path[-1]] = to
    return document


PAINT = ("layers", 0, "paint")
NESTED: Any = ["zoom"]
for _ in range(500):
    NESTED = ["abs", NESTED]


@pytest.mark.parametrize(
    ("document", "path"),
    [
        (changed("version", to=7), "version"),
        (changed("sources", to={"other": {}}), "sources"),
        (changed("sprite", to="x"), "sprite"),
        (changed("layers", 0, "type", to="heatmap"), "layers[0].type"),
        (changed("layers", 0, "source", to="other"), "layers[0].source"),
        (changed("layers", 0, "id", to=""), "layers[0].id"),
        (changed("layers", 0, "minzoom", to="3"), "layers[0].minzoom"),
        (changed("layers", 0, "layout", "visibility", to="hidden"), "layers[0].layout.visibility"),
        (changed("layers", 0, "layout", "visibility", to=[]), "layers[0].layout.visibility"),
        (changed("layers", 0, "filter", to=[["get", "a"]]), "layers[0].filter[0]"),
        (changed("metadata", "tileserver:parameters", to=["a"]), "metadata.tileserver:parameters"),
        (
            changed("metadata", "tileserver:parameters", to={"attribute": "a", "range": [0, 0]}),
            "metadata.tileserver:parameters.range",
        ),
        (changed(*PAINT, "circle-color", to="hsl(1e999, 50%, 50%)"), "layers[0].paint.circle-color"),
        (changed(*PAINT, "circle-colour", to="#fff"), "layers[0].paint.circle-colour"),
        (changed(*PAINT, "circle-color", to="reddish"), "layers[0].paint.circle-color"),
        (changed(*PAINT, "circle-opacity", to=2), "layers[0].paint.circle-opacity"),
        (changed(*PAINT, "circle-radius", 4, to="big"), "layers[0].paint.circle-radius[4]"),
        (changed(*PAINT, "circle-radius", 3, to=9), "layers[0].paint.circle-radius[5]"),
        (changed(*PAINT, "circle-radius", 1, to=["cubic"]), "layers[0].paint.circle-radius[1]"),
        (changed(*PAINT, "circle-radius", 2, to=["gett", "a"]), "layers[0].paint.circle-radius[2][0]"),
        (changed(*PAINT, "circle-radius", to={"stops": []}), "layers[0].paint.circle-radius"),
        (changed(*PAINT, "circle-radius", to=["+", ["zoom"], 1]), "layers[0].paint.circle-radius"),
        (changed("layers", 0, "filter", to=["==", "a", 1]), "layers[0].filter"),
        (changed("layers", 0, "filter", to=["all", ["in", "a", 1]]), "layers[0].filter[1]"),
        (
            changed("metadata", "tileserver:raster", to={"rescale": [5, 1]}),
            "metadata.tileserver:raster.rescale",
        ),
        (
            changed("metadata", "tileserver:raster", to={"colormap": [[0, "#fff"], [0, "#000"]]}),
            "metadata.tileserver:raster.colormap[1][0]",
        ),
        (changed("layers", to=[DOCUMENT["layers"][0]] * 2), "layers[1].id"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_fault_is_named_by_its_path(document: Any, path: str) -> None:
    """``layers[0].paint.fill-color[3]``: where in the document, and what would be accepted."""
    with pytest.raises(StyleFault) as caught:
        parse(document, "city")

    assert caught.value.path == path
    assert caught.value.message.startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (math.nan, "circle-radius"),
        (10**400, "circle-radius"),
        (["match", ["get", "a"], math.inf, 1, 2], "circle-radius[2]"),
        (["step", ["get", "a"], 1, 10**400, 2], "circle-radius[3]"),
        (["+", *[1] * 30_000], "circle-radius"),
        (NESTED, "circle-radius[1][1][1]"),
    ],
)
def test_what_is_too_much_is_refused_by_its_path(value: Any, path: str) -> None:
    """Numbers that are none or too large, and documents that would take long or end the stack."""
    with pytest.raises(StyleFault) as caught:
        styles.read(json.dumps(changed(*PAINT, "circle-radius", to=value)), "mine")
    assert caught.value.path.startswith(f"layers[0].paint.{path}")


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(changed(*PAINT, "circle-color", to="rgb(" + "1" * 200_000)),
        json.dumps(changed(*PAINT, "circle-radius", to=["to-number", "1" * 200_000 + "x"])),
        json.dumps({**DOCUMENT, "x" * 200_000: 1}),
        json.dumps({**DOCUMENT, "layers": [{"id": str(at)} for at in range(9000)]}),
    ],
)
def test_hostile_documents_are_refused_at_once(text: str) -> None:
    """Whatever is in them, in a second and in few words."""
    started = time.perf_counter()
    with pytest.raises(StyleFault) as caught:
        styles.read(text, "mine")
    assert time.perf_counter() - started < 4
    assert len(caught.value.message) < 1100


def test_a_reference_is_read_at_once() -> None:
    """Spaces and quotes that are nowhere closed."""
    started = time.perf_counter()
    with pytest.raises(BadRequest):
        find("choropleth(attribute=" + " " * 20_000 + '"x)')
    assert time.perf_counter() - started < 4


def test_constants_are_what_javascript_makes_of_them() -> None:
    """Nothing to choose from, and digits for more than a number holds."""
    for value, expected in (
        (["min"], math.inf),
        (["max"], -math.inf),
        (["to-number", f"0x{'f' * 400}"], math.inf),
    ):
        radius = (
            parse(changed(*PAINT, "circle-radius", to=["+", 0, value]), "mine")
            .layers[0]
            .node("circle-radius")
        )
        assert radius.value == expected


def test_a_near_name_is_suggested() -> None:
    """For a property, an operator and a style."""
    with pytest.raises(StyleFault, match="circle-color"):
        parse(changed(*PAINT, "circle-colour", to="#fff"), "city")
    with pytest.raises(StyleFault, match="near it: interpolate"):
        parse(changed(*PAINT, "circle-color", to=["to-color", ["interpolat", 1]]), "city")
    with pytest.raises(BadRequest, match="near it: magnitude"):
        find("magnitud")


@pytest.mark.parametrize(
    "text", ["", "a b", "choropleth(attribute)", "choropleth(colour=red)", "choropleth(range=5:1)", "x" * 200]
)
def test_what_is_no_reference_is_refused(text: str) -> None:
    """By whatever is wrong with it."""
    with pytest.raises(BadRequest):
        find(text)


def test_parameters_take_their_places() -> None:
    """The attribute, its range in all curves over it, and classes by their order."""
    style = find("choropleth(attribute=people, range=100:300)")
    colour = json.dumps(style.document["layers"][0]["paint"]["fill-color"])
    kinds = find('categorical(attribute="road, kind", values=main street|path)').document
    match = kinds["layers"][0]["paint"]["fill-color"]

    assert '["get", "people"]' in colour
    assert [number in colour for number in ("100.0", "150.0", "300.0")] == [True] * 3
    assert match[:2] == ["match", ["to-string", ["get", "road, kind"]]]
    assert match[2::2][:2] == ["main street", "path"] and len(match) == 7


@pytest.mark.parametrize(
    "reference", ["magnitude(attribute=mag, range=-1:9.5)", "categorical(attribute=k, values=a b|c)"]
)
def test_a_reference_finds_its_style_again(reference: str) -> None:
    """What documents say of a style is enough to ask for it."""
    assert find(find(reference).reference) == find(reference)


def test_a_quoted_name_may_hold_anything() -> None:
    """Quotes and commas of an attribute's name are escaped on the way back."""
    style = find(r'choropleth(attribute="a \"b\", (c)=d", range=0:1)')

    assert style.given.attribute == 'a "b", (c)=d'
    assert parse_reference(style.reference)[1] == style.given


@pytest.mark.parametrize(
    ("reference", "summary", "expected"),
    [
        ("auto", Summary({"id": (0, 9), "pop": (0, 10)}), "choropleth(attribute=pop, range=0:10)"),
        ("auto", Summary({}, {"kind": ("a", "b")}), "categorical(attribute=kind, values=a|b)"),
        ("auto", Summary(), "default"),
        ("choropleth", Summary({"pop": (0, 10)}), "choropleth(attribute=pop, range=0:10)"),
        (
            "choropleth(attribute=b)",
            Summary({"a": (0, 1), "b": (2, 3)}),
            "choropleth(attribute=b, range=2:3)",
        ),
        ("magnitude(range=0:5)", Summary({"m": (0, 1)}), "magnitude(attribute=m, range=0:5)"),
    ],
)
def test_what_is_left_open_comes_from_the_data(reference: str, summary: Summary, expected: str) -> None:
    """The first telling attribute, its range or values; what was written stays."""
    assert completed(find(reference), summary).reference == expected


def test_what_the_data_does_not_say_has_to_be_written() -> None:
    """The answer says how."""
    with pytest.raises(BadRequest, match=r"choropleth needs \(attribute, range\)"):
        completed(find("choropleth"), Summary())


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ((0.3, 8.9), (0.0, 9.0)),
        ((-13.0, 1234.0), (-100.0, 1300.0)),
        ((5.0, 5.0), (4.5, 5.5)),
        ((0.00012, 0.00034), (0.0001, 0.0004)),
        ((1.2e-15, 3.4e-15), (1e-15, 4e-15)),
        ((-1.5e299, 1e299), (-2e299, 1e299)),
        ((1e15, 1e15), (1e15 - 1000, 1e15 + 1000)),
    ],
)
def test_ranges_are_easy_to_read(facts: tuple[float, float], expected: tuple[float, float]) -> None:
    """Whole steps that hold what was found."""
    assert rounded(*facts) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["choropleth", "magnitude", "auto"])
@pytest.mark.parametrize("numbers", [(1e-15, 2e-15), (0, 1e-5), (7, 7), (1e17, 1e17 + 64), (-1e299, 1e299)])
def test_numbers_of_any_size_have_colours(name: str, numbers: tuple[float, float]) -> None:
    """Also where the style's own curves are steep."""
    made = completed(find(name), Summary.of({"a": {"range": [*map(float, numbers)]}}))
    stops = legend(made, {"Point"})["items"][0]["stops"]

    assert stops[0][0] <= numbers[0] and numbers[1] <= stops[-1][0]
    assert find(made.reference).digest == made.digest


@pytest.mark.parametrize(
    "facts",
    [
        None,
        [],
        {"a": 1},
        {"a": {"range": [10**400, 10**401]}},
        {"a": {"range": ["x", None]}},
        {"a": {"values": 3}},
    ],
)
def test_a_workers_summary_is_not_trusted(facts: Any) -> None:
    """What is malformed says nothing."""
    assert Summary.of(facts) == Summary()


# -- legends


def test_a_gradient_and_sizes_of_points() -> None:
    """Colours with their opacity; some values with the size that they have."""
    found = legend(find("magnitude(attribute=mag, range=0:8)"), {"Point"})
    gradient, *sizes = found["items"]

    assert found["title"] == "mag"
    assert gradient["kind"] == "gradient" and gradient["stops"][0] == [0, "#fee391d9"]
    assert [(one["label"], one["size"]) for one in sizes[:3]] == [("0", 4), ("4", 11.2), ("8", 48)]
    assert sizes[-1]["label"] == "No data"


def test_classes_of_a_match() -> None:
    """Each with its label, and the rest."""
    items = legend(find("categorical(attribute=k, values=a|b)"), {"Polygon"})["items"]

    assert [(one["symbol"], one["label"]) for one in items] == [
        ("fill", "a"),
        ("fill", "b"),
        ("fill", "Other"),
    ]
    assert items[0] == {
        "kind": "class",
        "symbol": "fill",
        "label": "a",
        "color": "#4477aabf",
        "outline": "#4a5960",
    }


def test_others_are_others_also_where_a_class_is_blank() -> None:
    """A style that takes a missing value for a blank text has a colour of its own for anything else."""
    colour = ["match", ["to-string", ["get", "a"]], "", "#f00", "road", "#00f", "#999"]
    items = legend(parse(changed(*PAINT, "circle-color", to=colour), "x"), {"Point"})["items"]

    assert [one["color"] for one in items] == ["#ff0000", "#0000ff", "#999999"]


def test_a_legend_is_short_enough_to_read() -> None:
    """A hundred classes, and that there are others."""
    pairs = [one for at in range(5000) for one in (str(at), "red")]
    document = changed(*PAINT, "circle-color", to=["match", ["get", "kind"], *pairs, "blue"])
    started = time.perf_counter()
    items = legend(styles.read(json.dumps(document), "mine"), {"Point"})["items"]

    assert time.perf_counter() - started < 4
    assert len(items) == 101 and items[-1]["label"] == "and others"


def test_a_legend_has_colours_where_a_curve_has_none() -> None:
    """Where the powers of a base are no numbers."""
    curve = ["interpolate", ["exponential", 10], ["get", "a"], 0, "red", 1000, "blue"]
    items = legend(parse(changed(*PAINT, "circle-color", to=curve), "mine"), {"Point"})["items"]

    assert {colour[0] for _, colour in items[0]["stops"]} == {"#"}


def test_classes_of_a_step_are_told_by_their_limits() -> None:
    """Below the first, between two, from the last one on."""
    colour = ["step", ["get", "a"], "#000", 10, "#00f", 20, "#fff"]
    items = legend(parse(changed(*PAINT, "circle-color", to=colour), "x"), {"Point"})["items"]

    assert [one["label"] for one in items] == ["< 10", "10 \u2013 20", "\u2265 20"]
    assert [one["color"] for one in items] == ["#000000", "#0000ff", "#ffffff"]


@pytest.mark.parametrize(
    ("families", "labels"),
    [(["Polygon"], ["Areas"]), (["LineString"], ["Lines"]), (["Point", "Polygon"], ["Areas", "Points"])],
    ids=str,
)
def test_a_legend_shows_what_there_is(families: list[str], labels: list[str]) -> None:
    """Of the default style only symbols of the data's own kinds of geometry."""
    assert [item["label"] for item in legend(styles.default(), families)["items"]] == labels


@pytest.mark.parametrize(
    ("text", "colour"),
    [
        ("#f80", (1, 0x88 / 255, 0, 1)),
        ("#11223380", (0x11 / 255, 0x22 / 255, 0x33 / 255, 0x80 / 255)),
        ("RGB(10%, 20%, 30%)", (0.1, 0.2, 0.3, 1)),
        ("rgb(255 0 0 / 50%)", (1, 0, 0, 0.5)),
        ("hsla(120, 100%, 25%, .5)", (0, 0.5, 0, 0.5)),
        (" Teal ", (0, 0x80 / 255, 0x80 / 255, 1)),
        ("transparent", (0, 0, 0, 0)),
        ("rgb(1, 2 3)", None),
        ("#ff", None),
        ("hsl(120, 1, 2)", None),
        ("blueish", None),
    ],
)
def test_colours_as_css_writes_them(text: str, colour: tuple[float, ...] | None) -> None:
    """Names, digits, rgb and hsl in both spellings."""
    found = colours.parse(text)

    assert (found is None) == (colour is None)
    assert found is None or found == pytest.approx(Colour(*colour or ()))
