"""A legend as a picture: gradients as bars with their values, classes as symbols beside their labels."""

from __future__ import annotations

import bisect
import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw

from tileserver.render import lettering
from tileserver.styles import colours
from tileserver.styles.colours import Colour
from tileserver.styles.evaluate import text_of

_THEMES: Final = {"light": ("#ffffff", "#22303a", "#5b6b75"), "dark": ("#1d262d", "#eef2f4", "#a9b6be")}
_PADDING, _GAP, _SWATCH, _BAR = 12.0, 6.0, 22.0, 14.0
_TEXT, _HEADING = 13.0, 15.0
_WIDEST, _NARROWEST = 320.0, 150.0
_CHARACTERS: Final = 48  # of a label; longer ones are cut
_SHARPER: Final = 4  # symbols are drawn larger and made smaller, which smooths them


def draw(legend: Mapping[str, Any], *, scale: int = 1, theme: str = "light") -> bytes:
    """The PNG of a legend as ``styles.legend`` makes it, transparent where there is nothing to say."""
    pen = _Pen(scale, *_THEMES[theme])
    blocks = _blocks(legend, pen)
    if not blocks:
        return _png(Image.new("RGBA", (scale, scale)))
    width = min(max([_NARROWEST, *(block.width for block in blocks)]), _WIDEST)
    height = sum(block.height for block in blocks) + _GAP * (len(blocks) - 1)
    picture = pen.paper(width + 2 * _PADDING, height + 2 * _PADDING)
    top = _PADDING
    for block in blocks:
        block.draw(picture, top, width)
        top += block.height + _GAP
    return _png(picture)


class _Pen:
    """Lengths at a scale, fonts, and the colours of a theme."""

    def __init__(self, scale: int, ground: str, ink: str, faint: str) -> None:
        self.scale, self.ground, self.ink, self.faint = scale, ground, ink, faint

    def font(self, size: float) -> Any:
        return lettering.font(size * self.scale)

    def length(self, text: str, size: float) -> float:
        return float(self.font(size).getlength(text)) / self.scale

    def fitted(self, text: str, size: float, room: float) -> str:
        """A text, without its end where it is longer than the room."""
        if self.length(text, size) <= room:
            return text
        kept = bisect.bisect_right(
            range(len(text)), room, key=lambda count: self.length(f"{text[:count]}\u2026", size)
        )
        return f"{text[: max(kept - 1, 0)].rstrip()}\u2026"

    def pixels(self, *lengths: float) -> tuple[int, ...]:
        return tuple(round(length * self.scale) for length in lengths)

    def paper(self, width: float, height: float) -> Image.Image:
        wide, high = self.pixels(width, height)
        radius = 6 * self.scale
        side = 2 * radius * _SHARPER
        large = Image.new("L", (side, side))
        ImageDraw.Draw(large).ellipse((0, 0, side - 1, side - 1), fill=255)
        round_one = large.resize((2 * radius, 2 * radius), Image.Resampling.BOX)
        cover = Image.new("L", (wide, high), 255)
        for left, x in ((0, 0), (radius, wide - radius)):
            for top, y in ((0, 0), (radius, high - radius)):
                cover.paste(round_one.crop((left, top, left + radius, top + radius)), (x, y))
        picture = Image.new("RGBA", (wide, high), self.ground)
        picture.putalpha(cover)
        return picture

    def write(
        self,
        picture: Image.Image,
        x: float,
        y: float,
        text: str,
        size: float,
        colour: str,
        anchor: str = "lm",
    ) -> None:
        place = (x * self.scale, y * self.scale)
        ImageDraw.Draw(picture).text(place, text, fill=colour, font=self.font(size), anchor=anchor)


class _Heading:
    def __init__(self, text: str, pen: _Pen) -> None:
        self.text, self.pen = pen.fitted(text, _HEADING, _WIDEST), pen
        self.width, self.height = pen.length(self.text, _HEADING), _HEADING + 4

    def draw(self, picture: Image.Image, top: float, width: float) -> None:
        self.pen.write(picture, _PADDING, top + self.height / 2, self.text, _HEADING, self.pen.ink)


class _Gradient:
    def __init__(self, item: Mapping[str, Any], title: str, pen: _Pen) -> None:
        self.pen = pen
        self.stops = [(float(value), _colour(colour)) for value, colour in item["stops"]]
        named = " ".join(filter(None, (_cut(str(item.get("label", ""))), _in_brackets(item.get("unit")))))
        self.label = "" if named == title else pen.fitted(named, _TEXT, _WIDEST)
        self.width = max(_NARROWEST, pen.length(self.label, _TEXT))
        self.height = (_TEXT + 6 if self.label else 0) + _BAR + 4 + _TEXT + 4

    def draw(self, picture: Image.Image, top: float, width: float) -> None:
        pen = self.pen
        if self.label:
            pen.write(picture, _PADDING, top + _TEXT / 2 + 1, self.label, _TEXT, pen.faint)
            top += _TEXT + 6
        left, upper, right, lower = pen.pixels(_PADDING, top, _PADDING + width, top + _BAR)
        values = np.array([value for value, _ in self.stops])
        places = np.linspace(values[0], values[-1], right - left)
        table = np.array([colour for _, colour in self.stops])
        row = np.stack([np.interp(places, values, part) for part in table.T], axis=-1)
        bar = np.broadcast_to(np.rint(255 * row).astype(np.uint8), (lower - upper, right - left, 4))
        picture.alpha_composite(Image.fromarray(np.ascontiguousarray(bar)), (left, upper))
        ImageDraw.Draw(picture).rectangle((left, upper, right - 1, lower - 1), outline=pen.faint)
        self._write_values(picture, top + _BAR + 4 + _TEXT / 2, width)

    def _write_values(self, picture: Image.Image, y: float, width: float) -> None:
        """The first and last value, and those between that have room."""
        first, last = self.stops[0][0], self.stops[-1][0]
        taken: list[tuple[float, float]] = []
        for value in (first, last, *(value for value, _ in self.stops[1:-1])):
            text = _number(value)
            length = self.pen.length(text, _TEXT)
            share = (value - first) / (last - first) if last > first else 0.0
            x = min(max(_PADDING + share * width - length / 2, _PADDING), _PADDING + width - length)
            if all(x >= right + 8 or x + length <= left - 8 for left, right in taken):
                taken.append((x, x + length))
                self.pen.write(picture, x, y, text, _TEXT, self.pen.ink)


class _Class:
    def __init__(self, item: Mapping[str, Any], pen: _Pen, swatch: float) -> None:
        self.item, self.pen, self.swatch = item, pen, swatch
        self.label = pen.fitted(_cut(str(item.get("label", ""))), _TEXT, _WIDEST - swatch - 8)
        self.width = swatch + 8 + pen.length(self.label, _TEXT)
        tall = float(item.get("size", 0)) + 4 if item.get("symbol") == "circle" else 0
        self.height = min(max(_TEXT + 5, tall), 60)

    def draw(self, picture: Image.Image, top: float, width: float) -> None:
        symbol = self._symbol()
        left, upper = self.pen.pixels(_PADDING, top)
        picture.alpha_composite(symbol, (left, upper))
        middle = top + self.height / 2
        self.pen.write(picture, _PADDING + self.swatch + 8, middle, self.label, _TEXT, self.pen.ink)

    def _symbol(self) -> Image.Image:
        width, height = self.pen.pixels(self.swatch, self.height)
        unit = self.pen.scale * _SHARPER
        large = Image.new("RGBA", (width * _SHARPER, height * _SHARPER))
        ink = ImageDraw.Draw(large)
        fill, outline = _bytes(self.item["color"]), self.item.get("outline")
        edge = _bytes(outline) if outline else None
        x, y, size = large.width / 2, large.height / 2, float(self.item.get("size", 1.5))
        if self.item["symbol"] == "circle":
            radius = min(size / 2, 28) * unit
            box = (x - radius, y - radius, x + radius, y + radius)
            ink.ellipse(box, fill=fill, outline=edge, width=unit if edge else 0)
        elif self.item["symbol"] == "line":
            thick = max(1.0, min(size, 8)) * unit
            ink.rectangle((0, y - thick / 2, large.width, y + thick / 2), fill=fill)
        else:
            ink.rectangle(
                (0, unit, large.width - 1, large.height - unit), fill=fill, outline=edge, width=unit
            )
        # Colours are multiplied by their opacity while pixels are put together, so that no edge is dark.
        return large.convert("RGBa").resize((width, height), Image.Resampling.BOX).convert("RGBA")


def _blocks(legend: Mapping[str, Any], pen: _Pen) -> list[Any]:
    items: Sequence[Mapping[str, Any]] = legend.get("items", [])
    title = " ".join(filter(None, (_cut(str(legend.get("title", ""))), _in_brackets(legend.get("unit")))))
    largest = max((float(item.get("size", 0)) for item in items if item.get("symbol") == "circle"), default=0)
    swatch = max(_SWATCH, min(largest, 56) + 2)
    found: list[Any] = [_Heading(title, pen)] if title and items else []
    return found + [
        _Gradient(item, title, pen) if item["kind"] == "gradient" else _Class(item, pen, swatch)
        for item in items
    ]


def _in_brackets(unit: object) -> str:
    return f"({_cut(str(unit))})" if unit else ""


def _cut(text: str) -> str:
    return text if len(text) <= _CHARACTERS else f"{text[: _CHARACTERS - 1]}\u2026"


def _number(value: float) -> str:
    """A whole number below a million as it is, of others four digits; in groups of three."""
    said = value if value.is_integer() and abs(value) < 1e6 else float(f"{value:.4g}")
    if abs(said) >= 1e15:
        return f"{said:g}"
    return f"{said:,.0f}" if abs(said) >= 1e4 else text_of(said)


def _colour(css: str) -> Colour:
    return colours.parse(css) or Colour(0.0, 0.0, 0.0, 1.0)


def _bytes(css: str) -> tuple[int, ...]:
    return tuple(round(255 * part) for part in _colour(css))


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
