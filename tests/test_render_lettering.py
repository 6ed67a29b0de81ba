"""Texts in the letters that the font of pictures has."""

from __future__ import annotations

import pytest
from PIL import ImageFont

from tileserver.render.legend import draw
from tileserver.render.lettering import writable


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("Plain_text 1.5%", "Plain_text 1.5%"),
        ("Z\u00fcrich, S\u00e3o Paulo, \u0141\u00f3d\u017a", "Zurich, Sao Paulo, Lodz"),
        ("Stra\u00dfe, \u00d8rsted, \u00c6gir", "Strasse, Orsted, AEgir"),
        ("cafe\u0301", "cafe"),
        ("m\u00b2, \u00b5g/m\u00b3, 20\u00a0\u00b0C", "m2, ug/m3, 20\u00a0\u00b0C"),
        ("10 \u2013 20, \u2265 20, \u2260 0", "10 - 20, >= 20, != 0"),
        ("a\u202eb\u200bc\u00add", "abcd"),
        ("two\nlines", "two\nlines"),
        ("\u6771\u4eac", "\u6771\u4eac"),
    ],
)
def test_what_the_font_does_not_have_is_written_as_people_type_it(text: str, written: str) -> None:
    """docs/styles.md: without accents; other scripts stay as they are."""
    assert writable(text) == written


def test_the_letters_of_ascii_are_there() -> None:
    """Nothing that is written in their place is a box."""
    font = ImageFont.load_default(20)
    box = bytes(font.getmask("\uffff"))

    assert all(bytes(font.getmask(chr(code))) != box for code in range(33, 127))


def test_legends_are_written_so() -> None:
    """Their own classes, too, which are from one number to another."""
    item = {"kind": "class", "symbol": "fill", "color": "#ff0000"}

    def drawn(label: str) -> bytes:
        return draw({"title": "", "items": [{**item, "label": label}]})

    assert drawn("10 \u2013 20") == drawn("10 - 20")
    assert drawn("\u2265 20") == drawn(">= 20")
