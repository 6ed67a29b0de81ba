"""What of a text the font has that pictures are lettered with: hardly more than ASCII.

A letter with an accent is written without it, and a sign as people type it who don't have it. Other scripts
stay as they are, and are boxes.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import Any, Final

from PIL import ImageFont

_DASHES: Final = dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-")
_SIGNS: Final = {
    "\u2264": "<=",
    "\u2265": ">=",
    "\u2260": "!=",
    "\u00d7": "x",
    "\u00b5": "u",
    "\u20ac": "EUR",
}
_QUOTES: Final = {"\u201a": "'", "\u2032": "'", "\u201e": '"', "\u2033": '"', "\u2022": "\u00b7"}
_PAIRS: Final = {
    "\u00df": "ss",
    "\u00e6": "ae",
    "\u00c6": "AE",
    "\u0153": "oe",
    "\u0152": "OE",
    "\u00fe": "th",
}
_STROKES: Final = dict(
    zip("\u00f8\u00d8\u0142\u0141\u0111\u0110\u00f0\u00d0\u0127\u0126\u0131", "oOlLdDdDhHi", strict=True)
)
_TYPED: Final = _DASHES | _SIGNS | _QUOTES | _PAIRS | _STROKES
_UNSEEN: Final = {"Cf", "Mn", "Me"}  # marks, and what only says how to write


def writable(text: str) -> str:
    """The text in letters that the font has, as far as it can be."""
    return text if text.isascii() else "".join(map(_written, text))


@lru_cache(maxsize=4096)
def _written(letter: str) -> str:
    if letter.isascii() or letter.isspace() or _has(letter):
        return letter
    if letter in _TYPED:
        return _TYPED[letter]
    if unicodedata.category(letter) in _UNSEEN:
        return ""
    parts = [one for one in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(one)]
    written = "".join(_TYPED.get(one, one) for one in parts)
    return written if all(one.isascii() or _has(one) for one in written) else letter


def _has(letter: str) -> bool:
    return bytes(_font().getmask(letter)) != bytes(_font().getmask("\uffff"))


@lru_cache(maxsize=1)
def _font() -> Any:
    return ImageFont.load_default(20)
