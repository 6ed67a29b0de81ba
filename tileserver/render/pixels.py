"""What a number looks like: arrays of any dtype become 8-bit colours and transparency.

uint8 is shown as it is, floats from 0 to 1, other integers over their type's whole range, booleans as
black and white; ``rescale`` replaces these rules. One rule says which pixels are hidden, for all encoders.
"""

from __future__ import annotations

import difflib
import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tileserver.errors import BadRequest, UnsupportedOutput
from tileserver.protocol import RenderOptions
from tileserver.styles.colours import Colour

Bytes = NDArray[np.uint8]
Flags = NDArray[np.bool_]
Ramp = tuple[tuple[float, str], ...]  # values with colours such as #d94801
_RAMP_COLOURS = 17


@dataclass(frozen=True, slots=True)
class Raster:
    """Data on its way to a picture: 1 to 4 ``bands`` (bands, height, width); True in ``hidden``
    (height, width) is a pixel without data; None hides nothing."""

    bands: NDArray[Any]
    hidden: Flags | None = None

    @property
    def colours(self) -> int:
        """How many bands are colour; a second or fourth one is alpha."""
        return 1 if len(self.bands) < 3 else 3


@dataclass(frozen=True, slots=True)
class Picture:
    """8-bit ``colours`` (1 or 3, height, width) and ``alpha`` (height, width), None where all is opaque.
    They may be the function's own arrays: nobody writes into them.

    With a ``palette`` (256, 4), RGBA, the single colour band holds indices into it. ``ramp`` says which
    values of a single band have which colours.
    """

    colours: Bytes
    alpha: Bytes | None = None
    palette: Bytes | None = None
    ramp: Ramp = ()

    @property
    def empty(self) -> bool:
        return self.alpha is not None and int(self.alpha.max()) == 0


def raster(value: NDArray[Any], nodata: float | None) -> Raster:
    """The bands to show, and the pixels that have no data.

    Of more than four bands the first three are shown. A pixel is hidden when all its colour bands are
    masked or ``nodata``, or when one of them is NaN: no colour can be made of that.

    :raises UnsupportedOutput: for complex numbers and other dtypes that aren't brightness.
    """
    if value.dtype.kind not in "buif":
        raise UnsupportedOutput(
            f"Result serialization failed: an array of {value.dtype} is no picture; take its real part, "
            "or ask for npy or tiff"
        )
    shown = value[:3] if len(value) > 4 else value
    bands = np.ma.getdata(shown)
    colours = bands[: 1 if len(bands) < 3 else 3]
    missing: Flags | None = np.ma.getmaskarray(shown)[: len(colours)] if np.ma.is_masked(shown) else None
    if nodata is not None:
        equal: Flags = np.isnan(colours) if np.isnan(nodata) else colours == nodata
        missing = equal if missing is None else missing | equal
    hidden: Flags | None = None if missing is None else np.asarray(missing.all(axis=0))
    if colours.dtype.kind == "f":
        unknown: Flags = np.isnan(colours).any(axis=0)
        hidden = unknown if hidden is None else hidden | unknown
    return Raster(bands, hidden if hidden is not None and hidden.any() else None)


def picture(data: Raster, options: RenderOptions) -> Picture:
    """Colours by the value rules, ``rescale`` and ``colormap``, or by ``stops``.

    A colormap is looked up by the 8-bit value, so data that isn't uint8 usually wants ``rescale`` too.

    :raises UnsupportedOutput: when ``rescale`` or ``colormap`` don't fit the number of bands.
    """
    bands, colours = data.bands, data.colours
    if (options.colormap is not None or options.stops) and colours > 1:
        raise UnsupportedOutput(
            f"Result serialization failed: colormap needs one band, the result has {len(bands)}"
        )
    if options.stops:
        return _between_stops(data, options.stops)
    ranges = _ranges(options.rescale, len(bands), colours)
    if bands.dtype == np.uint8 and not options.rescale:
        shades = bands
    else:
        shades = np.stack([_shade(band, limits) for band, limits in zip(bands, ranges, strict=True)])
    alpha: Bytes | None = shades[colours] if len(shades) > colours else None
    if data.hidden is not None:
        opaque = np.uint8(255) if alpha is None else alpha
        alpha = np.where(data.hidden, np.uint8(0), opaque)
    palette = None if options.colormap is None else colormap(options.colormap)
    ramp = _ramp(ranges[0] or _limits_shown(bands.dtype), palette) if colours == 1 else ()
    return Picture(shades[:colours], alpha, palette, ramp)


def _between_stops(data: Raster, stops: tuple[tuple[float, ...], ...]) -> Picture:
    """Each pixel's colour between those of the nearest stops; beyond the last ones, theirs."""
    table = np.array(stops)
    values = np.nan_to_num(data.bands[0].astype(np.float64))
    rgba = np.stack([np.interp(values, table[:, 0], 255.0 * part) for part in table[:, 1:].T])
    if len(data.bands) > 1:
        rgba[3] *= _shade(data.bands[1], None) / 255.0
    if data.hidden is not None:
        rgba[3][data.hidden] = 0.0
    shades: Bytes = np.rint(rgba).astype(np.uint8)
    opaque = (shades[3] == 255).all()
    ramp = tuple((stop[0], Colour(*stop[1:]).css) for stop in stops)
    return Picture(shades[:3], None if opaque else shades[3], ramp=ramp)


def _ramp(limits: tuple[float, float], palette: Bytes | None) -> Ramp:
    """The colours along a range of values: all shades of grey, or some of a palette's."""
    if palette is None:
        return ((limits[0], "#000000"), (limits[1], "#ffffff"))
    places = np.linspace(0.0, 1.0, _RAMP_COLOURS)
    chosen = palette[np.rint(places * 255).astype(int)] / 255
    values = limits[0] + places * (limits[1] - limits[0])
    return tuple(
        (round(float(value), 10), Colour(*(float(part) for part in colour)).css)
        for value, colour in zip(values, chosen, strict=True)
    )


def _limits_shown(dtype: np.dtype[Any]) -> tuple[float, float]:
    return (0.0, 255.0) if dtype == np.uint8 else _limits(dtype)


def coloured(image: Picture) -> Picture:
    """The same picture without a palette: three colour bands, and alpha where the palette has it."""
    if image.palette is None:
        return image
    rgba = image.palette[image.colours[0]]
    alpha: Bytes | None = rgba[..., 3]
    if image.alpha is not None:
        alpha = (rgba[..., 3] * (image.alpha / 255.0)).astype(np.uint8)
    elif (image.palette[:, 3] == 255).all():
        alpha = None
    return Picture(np.moveaxis(rgba[..., :3], -1, 0), alpha)


@functools.lru_cache(maxsize=16)
def colormap(name: str) -> Bytes:
    """256 RGBA colours of one of rio-tiler's colormaps; upper and lower case are the same.

    :raises BadRequest: for an unknown name, with the nearest known ones.
    """
    from rio_tiler.colormap import cmap

    known = cmap.list()
    lowered = name.strip().lower()
    if lowered not in known:
        near = difflib.get_close_matches(lowered, known, n=4, cutoff=0.4) or ["viridis", "terrain", "rdylgn"]
        raise BadRequest(f"unknown colormap {name[:40]!r}; near it: {', '.join(near)}")
    colours: Any = cmap.get(lowered)
    return np.array([colours[index] for index in range(256)], np.uint8)


def _ranges(
    rescale: tuple[tuple[float, float], ...], bands: int, colours: int
) -> list[tuple[float, float] | None]:
    """One range or None per band; a single one, or one for each colour, leaves alpha alone."""
    if len(rescale) in (0, 1):
        return [rescale[0] if rescale and index < colours else None for index in range(bands)]
    if len(rescale) in (colours, bands):
        return [*rescale, *([None] * (bands - len(rescale)))]
    raise UnsupportedOutput(
        f"Result serialization failed: rescale has {len(rescale)} ranges for {bands} band(s); "
        "give one for all or one for each"
    )


def _shade(band: NDArray[Any], limits: tuple[float, float] | None) -> Bytes:
    if limits is None:
        if band.dtype == np.uint8:
            return band
        limits = _limits(band.dtype)
    low, high = limits
    # float32 is exact for the small types; the span of a 64-bit integer would overflow in its own.
    small = band.dtype.itemsize <= 2 or band.dtype == np.float32
    values: NDArray[np.floating[Any]] = band.astype(np.float32 if small else np.float64)
    values -= low
    values /= high - low
    values *= 255.0
    np.fmax(values, 0.0, out=values)  # of NaN and a number, the number
    np.fmin(values, 255.0, out=values)
    shaded: Bytes = np.rint(values, out=values).astype(np.uint8)
    return shaded


def _limits(dtype: np.dtype[Any]) -> tuple[float, float]:
    if dtype.kind in "fb":
        return (0.0, 1.0)
    info = np.iinfo(dtype)
    return (float(info.min), float(info.max))
