"""The font of labels and legends: Open Sans, as styles have it where they name none."""

from __future__ import annotations

from functools import lru_cache

from PIL import ImageFont
from ttf_opensans import OPENSANS_REGULAR


@lru_cache(maxsize=64)
def font(size: float) -> ImageFont.FreeTypeFont:
    """Of this size in pixels. It has the letters of Latin, Greek and Cyrillic; others are boxes."""
    return ImageFont.truetype(OPENSANS_REGULAR.path, size)
