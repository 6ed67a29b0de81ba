"""How fast arrays become PNG, beside Pillow and rio-tiler: ``python -m benchmarks.png``.

Generates imagery, classes and elevation, lets each encoder write each picture, and compares what a decoder
makes of the files before anything is timed. Then all encoders take turns, in a new order each round, in one
process. Ours goes the whole way of a worker, from the returned value to the bytes; rio-tiler from the array
to the bytes; Pillow from an array in its own layout, to which a colormap has been applied beforehand. Exit
status 1 when an aim is missed.
"""

from __future__ import annotations

import argparse
import io
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from mercantile import Tile
from numpy.typing import NDArray
from PIL import Image
from rio_tiler.colormap import cmap
from rio_tiler.models import ImageData

from benchmarks.processes import be_like_a_worker
from benchmarks.refusals import percentile
from tileserver.protocol import Job, RenderOptions
from tileserver.render import encode

Encoder = Callable[[], bytes]

OURS: Final = "tileserver"
PILLOW: Final = "Pillow"
RIO_TILER: Final = "rio-tiler"
INDEXED: Final = "Pillow, indexed"


@dataclass(frozen=True, slots=True)
class Aim:
    """How many times as fast as the peers, and at which share of Pillow's bytes at most."""

    pillow: float
    rio_tiler: float
    size: float


COLOUR: Final = Aim(pillow=12, rio_tiler=8, size=1.1)
PALETTE: Final = Aim(pillow=20, rio_tiler=20, size=0.65)


@dataclass(frozen=True, slots=True)
class Case:
    """A picture, what writes it, and what is aimed at."""

    name: str
    encoders: Mapping[str, Encoder]
    aim: Aim


@dataclass(frozen=True, slots=True)
class Result:
    """Of one encoder: milliseconds in ascending order, and the file's size."""

    encoder: str
    times: Sequence[float]
    size: int

    @property
    def median(self) -> float:
        return percentile(self.times, 0.5)


def cases(side: int, seed: int = 0) -> list[Case]:
    """The pictures of one size: imagery, imagery at the edge of a scene, classes, elevation."""
    rng = np.random.default_rng(seed)
    base = _relief(rng, side, 2.6)
    imagery = np.stack([_band(rng, base) for _ in range(3)])
    rows, columns = np.mgrid[:side, :side] - side / 2
    outside = rows**2 + columns**2 > (0.52 * side) ** 2
    visible = np.where(outside, 0, 255).astype(np.uint8)
    scene = np.concatenate([np.where(outside, 0, imagery), visible[None]]).astype(np.uint8)
    steps = _relief(rng, side, 3.0)
    classes = 21 * np.searchsorted(np.quantile(steps, np.arange(1, 12) / 12), steps) + 10
    elevation = np.clip(256 * _relief(rng, side, 3.4), 0, 255)
    return [
        _colour_case(f"RGB {side}", imagery, np.ma.masked_array(imagery, False)),
        _colour_case(f"RGBA {side}", scene, np.ma.masked_array(scene[:3], [outside] * 3)),
        _palette_case(f"12 classes {side}", classes.astype(np.uint8), "paired"),
        _palette_case(f"elevation {side}", elevation.astype(np.uint8), "terrain"),
    ]


def _relief(rng: np.random.Generator, side: int, roughness: float) -> NDArray[np.float64]:
    """A surface from 0 to 1 whose waves lose power with their frequency, as landscapes do."""
    frequency = np.fft.fftfreq(side)
    distance = np.hypot(frequency[:, None], frequency[None, :])
    distance[0, 0] = 1.0
    waves = rng.normal(size=(side, side)) + 1j * rng.normal(size=(side, side))
    surface = np.fft.ifft2(waves / distance ** (roughness / 2)).real
    low, high = surface.min(), surface.max()
    result: NDArray[np.float64] = (surface - low) / (high - low)
    return result


def _band(rng: np.random.Generator, base: NDArray[np.float64]) -> NDArray[np.uint8]:
    """One colour of imagery: mostly what all colours share, and the noise of a sensor."""
    own = 0.75 * base + 0.25 * _relief(rng, len(base), 2.6)
    return np.clip(40 + 170 * own + rng.normal(0, 2, base.shape), 0, 255).astype(np.uint8)


def _colour_case(name: str, bands: NDArray[np.uint8], masked: Any) -> Case:
    pixels = np.ascontiguousarray(np.moveaxis(bands, 0, -1))
    encoders = {OURS: partial(ours, bands), PILLOW: partial(pillow, pixels)}
    return Case(name, {**encoders, RIO_TILER: partial(rio_tiler, masked)}, COLOUR)


def _palette_case(name: str, indices: NDArray[np.uint8], colormap: str) -> Case:
    colours: Any = cmap.get(colormap)
    palette = np.array([colours[index] for index in range(256)], np.uint8)
    encoders = {
        OURS: partial(ours, indices, colormap),
        PILLOW: partial(pillow, palette[indices]),
        RIO_TILER: partial(rio_tiler, np.ma.masked_array(indices[None], False), colours),
        INDEXED: partial(pillow, indices, palette),
    }
    return Case(name, encoders, PALETTE)


def ours(value: NDArray[np.uint8], colormap: str | None = None) -> bytes:
    """What a worker does with the array that a UDF returned for a tile."""
    job = Job("city", "b", "udf", {}, ("png",), "tile", RenderOptions(colormap=colormap), Tile(8, 5, 4))
    return encode(value, job)[0]


def pillow(pixels: NDArray[np.uint8], palette: NDArray[np.uint8] | None = None) -> bytes:
    """Pillow with its defaults."""
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if palette is not None:
        image.putpalette(palette.tobytes(), "RGBA")
    image.save(buffer, "PNG")
    return buffer.getvalue()


def rio_tiler(bands: Any, colormap: Any = None) -> bytes:
    """rio-tiler's renderer, which is GDAL's PNG driver, with its defaults."""
    body: bytes = ImageData(bands).render(img_format="PNG", colormap=colormap)
    return body


def check(case: Case) -> None:
    """All encoders wrote the same picture.

    :raises RuntimeError: naming the one that didn't.
    """
    pictures = {
        name: np.asarray(Image.open(io.BytesIO(write())).convert("RGBA"))
        for name, write in case.encoders.items()
    }
    for name, picture in pictures.items():
        if not np.array_equal(picture, pictures[PILLOW]):
            raise RuntimeError(f"{case.name}: the pixels of {name} are not those of {PILLOW}")


def measure(case: Case, rounds: int, seed: int = 0) -> list[Result]:
    """Times of all encoders, who take turns."""
    order = random.Random(seed)
    names = list(case.encoders)
    times: dict[str, list[float]] = {name: [] for name in names}
    sizes = {name: len(write()) for name, write in case.encoders.items()}
    for _ in range(rounds):
        for name in order.sample(names, len(names)):
            started = time.perf_counter()
            case.encoders[name]()
            times[name].append(1000 * (time.perf_counter() - started))
    return [Result(name, sorted(times[name]), sizes[name]) for name in names]


def ratios(results: Sequence[Result]) -> dict[str, tuple[float, float]]:
    """Of each peer: its time in ours, and our bytes in its."""
    own = results[0]
    return {peer.encoder: (peer.median / own.median, own.size / peer.size) for peer in results[1:]}


def misses(case: Case, results: Sequence[Result]) -> list[str]:
    """The aims that these results don't reach."""
    found = ratios(results)
    (pillow_times, size), (rio_times, _) = found[PILLOW], found[RIO_TILER]
    return [
        f"{case.name}: {text}"
        for text, missed in (
            (f"{pillow_times:.1f} times Pillow, not {case.aim.pillow:g}", pillow_times < case.aim.pillow),
            (f"{rio_times:.1f} times rio-tiler, not {case.aim.rio_tiler:g}", rio_times < case.aim.rio_tiler),
            (f"{size:.2f} of Pillow's bytes, not {case.aim.size:g}", size > case.aim.size),
        )
        if missed
    ]


def rows(case: Case, results: Sequence[Result]) -> list[str]:
    """Lines of the table: medians, 10th and 90th percentiles, bytes, and our ratios to each peer."""
    found = {OURS: (1.0, 1.0)} | ratios(results)
    return [
        f"| {case.name:<15} | {one.encoder:<15} | {one.median:7.2f} | {percentile(one.times, 0.1):7.2f} | "
        f"{percentile(one.times, 0.9):7.2f} | {one.size:7d} | {found[one.encoder][0]:6.1f} | "
        f"{found[one.encoder][1]:6.2f} |"
        for one in results
    ]


def main() -> int:
    """Check, measure, print, compare with the aims."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=40, help="for each picture")
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 512], help="pixels")
    chosen = parser.parse_args()
    print("| picture         | encoder         |  p50 ms |  p10 ms |  p90 ms |   bytes | faster | bytes  |")
    print("| --------------- | --------------- | ------- | ------- | ------- | ------- | ------ | ------ |")
    missed = []
    for case in (case for side in chosen.sides for case in cases(side)):
        check(case)
        results = measure(case, chosen.rounds)
        print("\n".join(rows(case, results)))
        missed += misses(case, results)
    print("\n".join(["", *missed]) if missed else "\nall aims are met")
    return int(bool(missed))


if __name__ == "__main__":
    be_like_a_worker("benchmarks.png")
    sys.exit(main())
