"""The shipped style is one document for the browser's vectors and for drawn pictures."""

from __future__ import annotations

from matplotlib.colors import to_rgba

from tileserver import style
from tileserver.render import drawing


def test_every_layer_draws_the_vector_tiles_layer() -> None:
    """MapLibre finds the features of a tile in the layer ``udf``."""
    layers = style.default()["layers"]

    assert [layer["source-layer"] for layer in layers] == ["udf"] * len(layers)
    assert {layer["source"] for layer in layers} == set(style.default()["sources"])


def test_drawn_pictures_take_their_colours_from_the_document() -> None:
    """Fill, outline, line, casing, point and ring, with their opacities."""
    assert to_rgba("#4aa3b5", 0.55) == drawing.FILL == drawing._colour("udf-fill", "fill")
    assert drawing._colour("udf-point", "circle-stroke") == drawing.RING
    assert style.paint("udf-point")["circle-radius"] == drawing.POINT_RADIUS
