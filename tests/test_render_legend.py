"""Legends as pictures."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from tileserver.render.legend import draw
from tileserver.render.summary import summary

BAR = {"kind": "gradient", "label": "", "stops": [[0, "#000000"], [1, "#ffffff"]]}
CLASS = {"kind": "class", "symbol": "fill", "label": "", "color": "#ff0000"}


def pixels(legend: dict[str, Any]) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(draw(legend))).convert("RGBA"))


def ending(value: float) -> bytes:
    return draw({"items": [{**BAR, "stops": [[0, "#000000"], [value, "#ffffff"]]}]})


@pytest.mark.parametrize(
    "legend",
    [
        {"title": "W" * 60, "items": [BAR]},
        {"title": "rain", "items": [{**BAR, "label": "W" * 60}]},
        {"title": "rain", "items": [{**CLASS, "label": "W" * 60}]},
        {"title": "rain", "items": [{**BAR, "stops": [[-1e300, "#000000"], [1e300, "#ffffff"]]}]},
    ],
    ids=["title", "label of a bar", "label of a class", "numbers"],
)
def test_nothing_reaches_over_the_edge(legend: dict[str, Any]) -> None:
    """Long texts are cut, and say so; long numbers are written with a power of ten."""
    found = pixels(legend)

    assert found.shape[1] <= 320 + 24
    edge = found[10:-10, -8:]
    assert (edge == edge[0, 0]).all()
    edge = found[10:-10, :8]
    assert (edge == edge[0, 0]).all()


def test_whole_numbers_are_as_they_are() -> None:
    """The largest of 16 bits is not rounded; others are, to four digits."""
    assert ending(65_535) != ending(65_540)
    assert ending(12_345_678) == ending(12_350_000)


def test_blank_texts_are_no_class() -> None:
    """What has no value and what has a blank one are the same to a style, and need no colour."""
    assert summary({"k": pd.Series(["b", "", None, "a", "b"])}) == {"k": {"values": ["b", "a"]}}
    assert summary({"k": pd.Series(["", None])}) == {}
