"""A canvas of premultiplied colours, and how what is painted later comes over it.

Where several things of one coat cover a pixel, each dims all below it by what it hides: the shares that stay
visible are products, so sums of logarithms, and no pixel is touched twice. Nothing is rounded to 8 bits
before the end, so a hundred faint layers add up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Index = NDArray[np.int64]
Pixels = NDArray[np.uint8]

# What an opaque thing lets through: nothing that could be seen, but a number with a logarithm.
_LEAST: Final = 1e-9


# Pixels, and how much of each is covered; or one picture after the other, rows of coverage by their numbers.
Cover = tuple[Index, Floats, Index | None]


class Layer(NamedTuple):
    """Colours (premultiplied, (4,) or (n, 4)) that cover cells so far; ``inks`` are the colours' numbers."""

    coverage: Floats
    inks: Index
    colours: Floats

    def taken(self, order: Index) -> Layer:
        inks = self.inks if self.colours.ndim == 1 else self.inks[order]
        return Layer(self.coverage[order], inks, self.colours)

    def channel(self, number: int) -> Floats:
        if self.colours.ndim == 1:
            values = self.colours[number]
        else:
            values = self.colours[:, number][self.inks]
        shares: Floats = self.coverage * values
        return shares


class Canvas:
    """Pixels of red, green, blue and alpha, first all transparent."""

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self.height = height
        self._colours = np.zeros((4, width * height), np.float32)

    def flat(self, batches: Iterable[Cover], colour: Floats, border: int = 0) -> None:
        """Blend cells of one colour (premultiplied); as they are alike, their order makes no difference.

        :param border: pixels are those of a canvas that is wider by this on every side.
        """
        through = np.zeros((self.height + 2 * border) * (self.width + 2 * border))
        for pixels, coverage, pictures in batches:
            passing = np.log(np.maximum(1 - colour[3] * coverage, _LEAST))
            np.add.at(through, pixels, passing if pictures is None else passing[pictures].ravel())
        wide = through.reshape(self.height + 2 * border, self.width + 2 * border)
        inner = wide[border : border + self.height, border : border + self.width]
        left = np.exp(inner.ravel().astype(np.float32))
        self._colours *= left
        np.subtract(1, left, out=left)
        pure = (colour / max(colour[3], _LEAST)).astype(np.float32)
        self._colours += pure[:, None] * left

    def each(self, pixels: Index, layers: Sequence[Layer], border: int = 0) -> None:
        """Blend cells in their order. The layers of a cell are side by side in it, not over one another.

        :param border: as of ``flat``.
        """
        if not len(pixels):
            return
        # The sort of plain numbers is many times as fast as one of indices.
        keys = (pixels.astype(np.uint64) << np.uint64(32)) | np.arange(len(pixels), dtype=np.uint64)
        keys.sort()
        order = (keys & np.uint64(0xFFFFFFFF)).astype(np.int64)
        places = (keys >> np.uint64(32)).astype(np.int64)
        layers = [layer.taken(order) for layer in layers]
        begins = np.flatnonzero(np.diff(places, prepend=-1))
        sizes = np.diff(begins, append=len(places))
        through = np.log(np.maximum(1 - sum(layer.channel(3) for layer in layers), _LEAST))
        sums = np.cumsum(through)
        last = sums[begins + sizes - 1]
        seen = np.exp(np.repeat(last, sizes) - sums)
        left = np.exp(last - sums[begins] + through[begins])
        rows, columns = np.divmod(places[begins], self.width + 2 * border)
        rows -= border
        columns -= border
        inside = (rows >= 0) & (rows < self.height) & (columns >= 0) & (columns < self.width)
        where = (rows * self.width + columns)[inside]
        for number, values in enumerate(self._colours):
            ink = sum(layer.channel(number) for layer in layers)
            values[where] = values[where] * left[inside] + np.add.reduceat(seen * ink, begins)[inside]

    def straight(self) -> Pixels:
        """RGBA (4, height, width) with straight alpha."""
        alpha = self._colours[3]
        rgba = self._colours[:3] * (255 / np.maximum(alpha, _LEAST))
        levels = np.empty((4, len(alpha)), np.uint8)
        # Adding a half and cutting off rounds what is not negative.
        levels[:3] = np.minimum(rgba + 0.5, 255)
        levels[3] = alpha * 255 + 0.5
        levels[:3, levels[3] == 0] = 0
        return levels.reshape(4, self.height, self.width)
