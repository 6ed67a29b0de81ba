"""A canvas of premultiplied colours, and how what is painted later comes over it.

What lies over one another is one value: the colour that it adds, and the share of all below that it hides.
So a stack of things of one coat is put together in pairs, pairs of pairs and so on, and no pixel of the
canvas is touched twice. Nothing is rounded to 8 bits before the end, so a hundred faint layers add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Index = NDArray[np.int64]
Pixels = NDArray[np.uint8]

# What an opaque thing lets through: nothing that could be seen, but a number with a logarithm.
_LEAST: Final = 1e-9
# What lets through less hides what is below it.
_HIDDEN: Final = 1 / 1024


# Pixels, and how much of each is covered; or one picture after the other, rows of coverage by their numbers.
Cover = tuple[Index, Floats | Singles, Index | None]


class Canvas:
    """Pixels of red, green, blue and alpha, all transparent, or those of ``below``."""

    def __init__(self, width: int, height: int, below: Pixels | None = None) -> None:
        self.width = width
        self.height = height
        self._colours = np.zeros((4, width * height), np.float32)
        if below is not None:
            np.divide(below.reshape(4, -1), 255, out=self._colours, casting="unsafe")
            self._colours[:3] *= self._colours[3]

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

    def each(self, pixels: Index, colours: Singles) -> None:
        """Blend cells (their colours (n, 4) premultiplied by how much they cover) in their order."""
        pixels, colours = stacked(pixels, colours)
        self._colours[:, pixels] = self._colours[:, pixels] * (1 - colours[:, 3]) + colours.T

    def over(self, front: Front) -> None:
        """Blend what has been collected."""
        self._colours *= front.left
        self._colours[:3] += front.colours
        self._colours[3] += 1 - front.left

    def straight(self) -> Pixels:
        """RGBA (4, height, width) with straight alpha."""
        alpha = self._colours[3]
        rgba = self._colours[:3] * (255 / np.maximum(alpha, _LEAST))
        levels = np.empty((4, len(alpha)), np.uint8)
        # Adding a half and cutting off rounds what is not negative.
        levels[:3] = np.minimum(rgba + 0.5, 255)
        levels[3] = np.minimum(alpha * 255 + 0.5, 255)
        levels[:3, levels[3] == 0] = 0
        return levels.reshape(4, self.height, self.width)


class Front:
    """What lies over a canvas, collected from the front to the back: what is hidden need not be painted.
    ``colours`` are premultiplied red, green and blue, ``left`` is the share of the canvas that is seen."""

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self.height = height
        self.colours = np.zeros((3, height * width), np.float32)
        self.left = np.ones(height * width, np.float32)

    def hidden(self, reach: int) -> NDArray[np.bool_]:
        """The pixels of which nothing is seen, nor of any that is not further away than this along both axes.
        Of those that are as near to an edge all may be seen."""
        left = self.left.reshape(self.height, self.width).copy()
        for seen in (left, left.T):
            # The largest of a window, from the largest of smaller ones.
            width, wanted = 1, min(2 * reach + 1, len(seen))
            while width < wanted:
                step = min(width, wanted - width)
                np.maximum(seen[:-step], seen[step:], out=seen[:-step])
                width += step
            seen[reach:] = seen[: max(len(seen) - reach, 0)].copy()
            seen[:reach] = seen[len(seen) - reach :] = 1
        return left.ravel() < _HIDDEN

    def behind(
        self, pixels: Index, alpha: Singles, ends: Sequence[int], inks: Callable[[int], Singles]
    ) -> None:
        """Put runs of cells behind all that is there and one another. Within a run, which goes on to its end,
        no two are of a pixel.

        :param inks: gives premultiplied red, green or blue of the cells.
        """
        through = 1 - alpha
        shares = np.empty_like(through)
        start = 0
        for stop in ends:
            where = pixels[start:stop]
            left = self.left.take(where, out=shares[start:stop])
            self.left[where] = left * through[start:stop]
            start = stop
        for channel, values in enumerate(self.colours):
            np.add(values, np.bincount(pixels, shares * inks(channel), len(values)), out=values)


def stacked(pixels: Index, colours: Singles) -> tuple[Index, Singles]:
    """Each pixel once, ascending, with all its cells over one another in their order."""
    # The sort of plain numbers is many times as fast as one of indices.
    keys = (pixels.astype(np.uint64) << np.uint64(32)) | np.arange(len(pixels), dtype=np.uint64)
    keys.sort()
    places = (keys >> np.uint64(32)).astype(np.int64)
    keys &= np.uint64(0xFFFFFFFF)
    colours = colours.take(keys.astype(np.int64), axis=0)
    begins = np.flatnonzero(np.diff(places, prepend=-1))
    pixels = places[begins]
    sizes = np.diff(begins, append=len(places))
    while len(pixels) < len(colours):
        # Of each stack the first, third, ... cell, and above it the one that follows, if there is one.
        half = (sizes + 1) >> 1
        starts = np.cumsum(half) - half
        lower = np.arange(int(starts[-1] + half[-1]))
        lower *= 2
        lower += np.repeat(begins - 2 * starts, half)
        paired = np.ones(len(lower), np.bool_)
        paired[(starts + half - 1)[(sizes & 1) == 1]] = False
        which = np.flatnonzero(paired)
        upper = colours.take(lower[which] + 1, axis=0)
        colours = colours.take(lower, axis=0)
        below = colours.take(which, axis=0)
        below *= 1 - upper[:, 3:]
        below += upper
        colours[which] = below
        begins, sizes = starts, half
    return pixels, colours
