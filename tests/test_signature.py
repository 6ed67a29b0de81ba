"""What is read from a UDF's source without running it."""

from __future__ import annotations

import pytest

from tileserver.signature import BrokenSource, NotAUdf, neighbours, read


def udf(parameters: str, decorator: str = "@fused.udf", body: str = "pass") -> str:
    return f"import fused\n{decorator}\ndef udf({parameters}):\n    {body}\n"


@pytest.mark.parametrize("decorator", ["@fused.udf", "@fused.udf(name='a')", "@udf", "@udf()"])
def test_four_spellings_of_the_decorator_mark_a_udf(decorator: str) -> None:
    """Contract, section 13: the recognised spellings."""
    assert read(udf("n: int = 3", decorator)).entry == "udf"


def test_a_source_without_the_decorator_is_a_module() -> None:
    """Such files are importable by the canvas's UDFs instead."""
    with pytest.raises(NotAUdf):
        read("def udf():\n    pass\n")


def test_parameters_keep_annotation_default_and_kind() -> None:
    """Names, annotations and defaults as they are written, literals as values."""
    signature = read(udf("bounds: fused.types.Bounds, n: int = 3, *, k: 'str' = 'a', when=now()"))

    assert [(p.name, p.annotation, p.default, p.literal, p.required) for p in signature.parameters] == [
        ("bounds", "fused.types.Bounds", None, None, True),
        ("n", "int", "3", 3, False),
        ("k", "'str'", "'a'", "a", False),
        ("when", "", "now()", None, False),
    ]


@pytest.mark.parametrize(
    ("parameter", "literal"),
    [
        ("p: datetime.date = datetime.date(2024, 5, 7)", "2024-05-07"),
        ("p: date | None = date(2024, 5, 7)", "2024-05-07"),
        ("p: datetime.datetime = datetime.datetime(2024, 5, 7, 10, 30)", "2024-05-07T10:30"),
        ("p: datetime = datetime(2024, 5, 7, 10, 30, 15)", "2024-05-07T10:30:15"),
        ("p: datetime.time = datetime.time(10)", "10:00"),
        ("p: date = date.today()", None),
        ("p: date = date(2024, 13, 7)", None),
        ("p: date = date(year=2024, month=5, day=7)", None),
        ("p: date = date('2024')", None),
        ("p: str = date(2024, 5, 7)", None),
    ],
)
def test_a_default_may_be_a_date(parameter: str, literal: str | None) -> None:
    """Pages, OpenAPI and purges know a date or a time that stands in the signature."""
    found = read(f"import fused\n@fused.udf\ndef udf({parameter}):\n    pass\n").parameters[0]

    assert found.literal == literal
    assert found.default is not None


@pytest.mark.parametrize(
    ("source", "entry", "expected"),
    [
        ("@fused.udf\ndef one(): pass\n", None, "one"),
        ("@fused.udf\ndef one(): pass\n@fused.udf\ndef udf(): pass\n", None, "udf"),
        ("@fused.udf\ndef one(): pass\n@fused.udf\ndef two(): pass\n", "two", "two"),
        ("@fused.udf\nasync def one(): pass\n", None, "one"),
    ],
    ids=["the only one", "the one called udf", "the one named", "asynchronous"],
)
def test_the_entry_point_is_found(source: str, entry: str | None, expected: str) -> None:
    """Contract, section 13: the single decorated function, else the one called ``udf``."""
    assert read(source, entry).entry == expected


def test_several_candidates_are_an_error_that_names_them() -> None:
    """Neither is called ``udf``, so nobody can know which is meant."""
    with pytest.raises(BrokenSource, match="one, two"):
        read("@fused.udf\ndef one(): pass\n@fused.udf\ndef two(): pass\n")


def test_a_syntax_error_has_its_line() -> None:
    """The line is that of the source itself."""
    with pytest.raises(BrokenSource, match="SyntaxError") as broken:
        read("import fused\n\n@fused.udf\ndef udf(:\n")

    assert broken.value.lineno == 4


@pytest.mark.parametrize(
    ("decorator", "age"),
    [("@fused.udf(cache_max_age='1h')", 3600), ("@fused.udf(cache_max_age=0)", 0), ("@fused.udf", None)],
)
def test_the_decorator_says_how_long_results_last(decorator: str, age: int | None) -> None:
    """Contract, section 8: the grammar of ages; none stated is none."""
    assert read(udf("", decorator)).max_age == age


def test_an_age_that_cannot_be_read_is_an_error_with_its_line() -> None:
    """Better at once than a cache that never expires."""
    with pytest.raises(BrokenSource, match="cache_max_age") as broken:
        read(udf("", "@fused.udf(cache_max_age='soon')"))

    assert broken.value.lineno == 2


@pytest.mark.parametrize(
    "source",
    [
        f"@udf\ndef udf(n=0x{'f' * 8000}): pass\n",
        f"@udf\ndef udf(n={'-' * 3000}1): pass\n",
        "@udf\ndef udf(n='\0'): pass\n",
    ],
    ids=["number of thousands of digits", "deep", "null byte"],
)
def test_what_python_itself_can_not_write_is_broken(source: str) -> None:
    """One such source must not keep its canvas from being read."""
    with pytest.raises(BrokenSource, match=r"^[A-Z]\w+Error: "):
        read(source)


def test_what_json_can_not_say_is_no_stored_default() -> None:
    """Keys and revisions are made of them."""
    signature = read(f"@udf(default_parameters={{'a': 0x{'f' * 8000}, 'b': 1}})\ndef udf(a, b): pass\n")

    assert signature.defaults == {"a": None, "b": 1}


def test_a_docstring_has_whole_characters() -> None:
    """Half of one could not be sent."""
    assert read("@udf\ndef udf():\n    'a \\ud800 b'\n").doc == "a ? b"


@pytest.mark.parametrize(
    ("parameters", "filled"),
    [
        ("bounds: fused.types.Bounds = None, n: int = 1", "bounds"),
        ("n: int, bbox=None", "bbox"),
        ("area: fused.types.Tile, k=1", "area"),
        ("area, k=1", "area"),
        ("n: int = 1", None),
        ("names: list[str]", None),
        ("name: 'Optional[str]' = None", None),
        ("name: str | None = None", None),
        ("a, x, y, z", None),
        ("*, area", None),
        ("", None),
    ],
)
def test_which_parameter_a_tile_fills(parameters: str, filled: str | None) -> None:
    """Contract, section 5.1: ``bounds``, ``bbox``, else the first positional one that could hold a tile."""
    assert read(udf(parameters)).tile_parameter == filled


def test_x_y_and_z_are_filled_too() -> None:
    """Contract, section 5.1: declared integers of the tile's address."""
    signature = read(udf("x: int, y: int, z: int, n: int = 0"))

    assert signature.takes_tile
    assert signature.filled_by_tile == {"x", "y", "z"}


def test_neighbours_are_the_names_given_literally() -> None:
    """Revisions depend on them; a computed name means that any may be used."""
    source = "import fused\nfused.load('a')\nfused.run('b', n=1)\nfused.run(name)\nother.load('c')\n"

    assert neighbours(source) == (frozenset({"a", "b"}), True)
