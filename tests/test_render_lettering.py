"""What labels and legends are lettered with."""

from __future__ import annotations

import pytest

from tileserver.render.legend import draw
from tileserver.render.lettering import font


@pytest.mark.parametrize(
    "text",
    [
        "".join(map(chr, range(33, 127))),
        "Z\u00fcrich S\u00e3o\u00a0Paulo \u0141\u00f3d\u017a \u00c5rhus Ha\u015fim H\u1ed9i\u00a0An",
        "\u0388\u03bb\u03bb\u03b7\u03bd\u03b5\u03c2 \u041a\u0438\u0457\u0432 \u042f\u043b\u0442\u0430",
        "m\u00b2 \u00b5g \u00b0C \u20ac \u00d7 \u2013 \u2014 \u2265 \u2264 \u2260 \u2026 \u201equotes\u201c",
    ],
    ids=["ASCII", "Latin", "Greek and Cyrillic", "signs"],
)
def test_the_font_has_these_letters(text: str) -> None:
    """docs/styles.md: none of them is a box."""
    box = bytes(font(20).getmask("\uffff"))

    assert [one for one in text if not one.isspace() and bytes(font(20).getmask(one)) == box] == []


def test_accents_are_drawn() -> None:
    """A legend says what the data says."""
    item = {"kind": "class", "symbol": "fill", "color": "#ff0000"}

    def drawn(label: str) -> bytes:
        return draw({"title": "", "items": [{**item, "label": label}]})

    assert drawn("Z\u00fcrich") != drawn("Zurich")
