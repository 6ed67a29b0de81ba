"""Texts on a picture.

Neighbouring tiles must agree on every label that both show. Which of them are shown therefore depends on
nothing but their near surroundings: in two rounds, a label is shown if of those that it collides with none
comes before it. Each tile looks further than that reaches, and orders labels by what they are, not by the
order of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tileserver.render import lettering
from tileserver.render.paint import Labels

REACH: Final = 256  # pixels of the style around a picture whose labels are looked at
_ROUNDS: Final = 2
_LINE_HEIGHT: Final = 1.2  # of the size
_SMALLEST: Final = 4.0  # pixels; what is smaller can't be read
_LARGEST: Final = 512.0  # pixels
_LONGEST: Final = 1000  # characters
_WIDEST_HALO: Final = 0.25  # of the size, as MapLibre has it
_CELLS: Final = 16  # of a picture's width and height, in each of which so many labels are looked at:
_IN_CELL: Final = 8

Boxes = NDArray[np.float64]


def draw(picture: NDArray[np.uint8], labels: Labels, places: NDArray[np.float64], scale: float) -> None:
    """Draw labels at their places (pixels from the upper left corner) into RGBA (height, width, 4)."""
    if not len(places):
        return
    height, width = picture.shape[:2]
    if not labels.overlap:
        kept = _thinned(_ordered(labels, places), places, width / _CELLS, height / _CELLS)
        labels, places = labels.taken(kept), places[kept]
    placed = [_Placed.of(labels, at, place, scale) for at, place in enumerate(places)]
    boxes = np.array([one.box for one in placed])
    shown = np.ones(len(placed), bool)
    if not labels.overlap:
        shown = _uncluttered(_ordered(labels, places), boxes, labels.padding * scale)
    halo = np.array([[one.size * _WIDEST_HALO] for one in placed]) + 2
    wide = boxes + halo * (-1, -1, 1, 1)
    inside = (wide[:, 0] < width) & (wide[:, 1] < height) & (wide[:, 2] > 0) & (wide[:, 3] > 0)
    for at in np.flatnonzero(shown & inside):
        _write(picture, placed[at], labels, int(at), scale)


class _Placed:
    """A label's lines, its font, and the box that it covers."""

    def __init__(self, lines: Sequence[str], font: Any, size: float, box: tuple[float, ...]) -> None:
        self.lines, self.font, self.size, self.box = lines, font, size, box

    @classmethod
    def of(cls, labels: Labels, at: int, place: Any, scale: float) -> _Placed:
        size = min(max(float(labels.size[at]) * scale, _SMALLEST), _LARGEST)
        font = lettering.font(round(size * 4) / 4)
        lines = _wrapped(labels.texts[at][:_LONGEST], font, labels.max_width * size)
        width = max(font.getlength(line) for line in lines)
        height = len(lines) * size * _LINE_HEIGHT
        x, y = float(place[0]) + labels.offset[0] * size, float(place[1]) + labels.offset[1] * size
        left = x - width * (0.0 if "left" in labels.anchor else 1.0 if "right" in labels.anchor else 0.5)
        top = y - height * (0.0 if "top" in labels.anchor else 1.0 if "bottom" in labels.anchor else 0.5)
        left, top = _snapped(left), _snapped(top)
        return cls(lines, font, size, (left, top, left + width, top + height))


def _snapped(place: Any) -> Any:
    """An eighth of a pixel: places of the same label in two tiles differ by a rounding, and hardly any lies
    where eighths are split."""
    return np.round(place * 8 + 0.0137) / 8


def _wrapped(text: str, font: Any, width: float) -> list[str]:
    """Lines no longer than the width, as far as words allow."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and font.getlength(longer) > width:
                lines.append(line)
                longer = word
            line = longer
        if line:
            lines.append(line)
    return lines or [text]


def _ordered(labels: Labels, places: NDArray[np.float64]) -> NDArray[np.intp]:
    """The labels, those that come before others first."""
    order = sorted(
        range(len(places)),
        key=lambda at: (labels.key[at], labels.texts[at], round(places[at][1]), round(places[at][0])),
    )
    return np.array(order, np.intp)


def _thinned(
    order: NDArray[np.intp], places: NDArray[np.float64], width: float, height: float
) -> NDArray[np.intp]:
    """Of each cell of a grid that neighbouring tiles share the first labels: of thousands at one place hardly
    any is shown, and all pairs of them would be too many."""
    cells = np.floor(_snapped(places[order]) / (width, height)).astype(np.int64)
    _, numbers = np.unique(cells, axis=0, return_inverse=True)
    together = np.argsort(numbers, kind="stable")
    begins = np.flatnonzero(np.diff(numbers[together], prepend=-1))
    nth = np.arange(len(order)) - np.repeat(begins, np.diff(begins, append=len(order)))
    return np.sort(order[together[nth < _IN_CELL]])


def _uncluttered(order: NDArray[np.intp], boxes: Boxes, padding: float) -> NDArray[np.bool_]:
    """Which labels are shown."""
    rank = np.empty(len(order), int)
    rank[order] = np.arange(len(order))
    wide = boxes + np.array([-padding, -padding, padding, padding])
    first, second = _collisions(wide)
    losers = np.where(rank[first] > rank[second], first, second)
    shown = np.zeros(len(boxes), bool)
    left = np.ones(len(boxes), bool)
    for _ in range(_ROUNDS):
        beaten = np.zeros(len(boxes), bool)
        beaten[losers[left[first] & left[second]]] = True
        new = left & ~beaten
        shown |= new
        left &= beaten
        left[first[new[second]]] = False
        left[second[new[first]]] = False
    return shown


def _collisions(boxes: Boxes) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs of boxes that overlap."""
    from shapely import STRtree, box

    covered: NDArray[np.object_] = np.asarray(box(*boxes.T))
    tree = STRtree(covered)
    first, second = tree.query(tree.geometries)
    pairs = first < second
    return first[pairs], second[pairs]


def _write(picture: NDArray[np.uint8], placed: _Placed, labels: Labels, at: int, scale: float) -> None:
    """One label over what is there."""
    halo = min(float(labels.halo_width[at]) * scale, placed.size * _WIDEST_HALO)
    reach = int(np.ceil(halo)) + 2
    left, top = int(np.floor(placed.box[0])) - reach, int(np.floor(placed.box[1])) - reach
    width, height = (int(np.ceil(placed.box[side + 2] - placed.box[side])) + 2 * reach + 2 for side in (0, 1))
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + width, picture.shape[1]), min(top + height, picture.shape[0])
    if x0 >= x1 or y0 >= y1:
        return
    below = picture[y0:y1, x0:x1].astype(float) / 255
    for colour, stroke in ((labels.halo_colour[at], halo), (labels.colour[at], 0.0)):
        if colour[3] <= 0 or (stroke <= 0 and colour is labels.halo_colour[at]):
            continue
        cover = _cover(placed, (width, height), (left, top), stroke)[
            y0 - top : y1 - top, x0 - left : x1 - left
        ]
        below = _over(below, colour, cover)
    picture[y0:y1, x0:x1] = np.rint(below * 255)


def _cover(
    placed: _Placed, size: tuple[int, int], origin: tuple[int, int], stroke: float
) -> NDArray[np.float64]:
    """How much of each pixel the text covers, 0 to 1."""
    image = Image.new("L", size)
    pen = ImageDraw.Draw(image)
    x0, y0, x1, _ = placed.box
    for number, line in enumerate(placed.lines):
        # Each line in the middle of the block; its letters in the middle of its height.
        x = (x0 + x1 - placed.font.getlength(line)) / 2 - origin[0]
        y = y0 + (number + 0.5) * placed.size * _LINE_HEIGHT - origin[1]
        pen.text((x, y), line, fill=255, font=placed.font, anchor="lm", stroke_width=stroke, stroke_fill=255)
    return np.asarray(image, float) / 255


def _over(below: NDArray[np.float64], colour: Any, cover: NDArray[np.float64]) -> NDArray[np.float64]:
    """A colour over straight RGBA."""
    share = (cover * colour[3])[..., None]
    alpha = share + below[..., 3:] * (1 - share)
    mixed = colour[:3] * share + below[..., :3] * below[..., 3:] * (1 - share)
    rgb = np.divide(mixed, alpha, out=np.zeros_like(mixed), where=alpha > 0)
    return np.concatenate([rgb, alpha], axis=-1)
