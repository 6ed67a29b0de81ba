"""Every row of docs/contract.md is held by a test that exists."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.test_fused_client import stories

ROOT: Final = Path(__file__).parent.parent
PAGE: Final = ROOT / "docs/contract.md"
SECTIONS: Final = (
    *("1", "2", "3", "4", "4.1", "4.2", "4.3", "5", "5.1", "6", "7", "7.1", "7.2", "7.3", "7.4", "7.5"),
    *("8", "8.1", "9", "10", "11", "12", "13", "13.1", "13.2", "14", "15"),
)
PARENTS: Final = frozenset({"4", "7", "13"})  # have their rows in their parts
HEADER: Final = "| id | rule | decides | held by |"

_HEADING: Final = re.compile(r"##+ (\d+(?:\.\d+)?)\.? ")
_ID: Final = re.compile(r"`(\d+(?:\.\d+)?)-[a-z0-9-]+`")
_TEST: Final = re.compile(r"`(test_\w+\.py::test_\w+)(?:\[(\w+)\])?`")
# Tests of which a row may name one case, in brackets.
CASES: Final = {"test_fused_client.py::test_story": frozenset(stories())}


@dataclass(frozen=True, slots=True)
class Row:
    section: str
    cells: tuple[str, ...]

    @property
    def id(self) -> str:
        return self.cells[0]

    @property
    def tests(self) -> tuple[str, ...]:
        return tuple(self.cells[-1].split(", "))


def sections() -> list[str]:
    return [match[1] for line in PAGE.read_text().splitlines() if (match := _HEADING.match(line))]


def rows() -> Iterator[Row]:
    """The rows of all tables, with the section that each stands in."""
    section = ""
    for line in PAGE.read_text().splitlines():
        if match := _HEADING.match(line):
            section = match[1]
        elif line.startswith("|") and line != HEADER and set(line) != set("| -"):
            cells = re.split(r"(?<!\\)\|", line.strip())[1:-1]
            yield Row(section, tuple(cell.strip() for cell in cells))


def functions() -> frozenset[str]:
    """Every test function of the suite, as ``file.py::name``."""
    return frozenset(
        f"{path.name}::{node.name}"
        for path in ROOT.glob("tests/**/test_*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    )


def test_every_section_is_there_in_order_and_has_rows() -> None:
    """None is missing, none is empty."""
    assert sections() == list(SECTIONS)
    assert {row.section for row in rows()} == set(SECTIONS) - PARENTS


def test_every_row_has_an_id_of_its_section() -> None:
    """Four cells, an id that begins with the section's number, and no id twice."""
    listed = list(rows())
    malformed = [row.cells for row in listed if len(row.cells) != 4]
    misplaced = [row.id for row in listed if not (m := _ID.fullmatch(row.id)) or m[1] != row.section]
    repeated = [name for name, count in Counter(row.id for row in listed).items() if count > 1]

    assert (malformed, misplaced, repeated) == ([], [], [])


def test_every_row_has_a_rule_and_says_who_decided() -> None:
    """Fused's own word has an empty cell; else it is a decision, or an extension of our own."""
    wrong = [
        row.id for row in rows() if not row.cells[1] or not re.match(r"(decision|own)\b|$", row.cells[2])
    ]

    assert wrong == []


def test_every_row_is_held_by_a_test() -> None:
    """One at least, and nothing else in its cell: no row waits for its test."""
    without = {row.id: row.cells[-1] for row in rows() if not all(map(_TEST.fullmatch, row.tests))}

    assert without == {}


def test_the_named_tests_exist() -> None:
    """A test that is renamed or removed takes its rows along; so does a case of one."""
    known = functions()
    missing = {
        f"{name}[{case}]": row.id
        for row in rows()
        for name, case in _TEST.findall(row.cells[-1])
        if name not in known or (case and case not in CASES.get(name, ()))
    }

    assert missing == {}


def test_no_row_names_a_test_twice() -> None:
    """It would look better held than it is."""
    assert [row.id for row in rows() if len(set(row.tests)) != len(row.tests)] == []
