"""Drawing vectors, ours and others' in turn: ``python -m benchmarks.draw``.

The layers of ``benchmarks.mvt`` in pixels of their tile, painted in 256 x 256 pixels: from arrays of
coordinates to RGBA. Cairo and Skia are called once for each feature, from lists that are ready. Pictures are
compared first: the mean difference of pixels from cairo's may be ``_MEAN`` of 255, that of all but one in a
hundred ``_MOST``, which is what kinds of antialiasing differ by. Then they take turns in shuffled order, and
a table of Markdown shows medians, the middle half of the times, and the median of each round's ratios. Times
are the processor's, as each has one thread. The status is 1 when an aim is missed. Memory is kept as workers
keep it, for all alike.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import cairocffi
import numpy as np
import shapely
import skia
from numpy.typing import NDArray

from benchmarks.mvt import _BOX, _SIDE, LAYERS, Contest, _spread, contest, layer
from tileserver.executor.zygote import _WORKER_SETTINGS
from tileserver.render.ink import Paint, Paths, Points, Shapes, painted
from tileserver.render.ink.shapes import NO_PATHS, NO_POINTS

SIZE: Final = 256
_MEAN: Final = 4.0
_MOST: Final = 40.0
_OF_CAIRO: Final = 0.6
_OF_SKIA: Final = 0.25  # for points

FILL: Final = (0.29, 0.64, 0.71, 0.55)
INK: Final = (0.05, 0.29, 0.37, 0.7)
RADIUS: Final = 3.0
OUTLINE: Final = 0.9
WIDTH: Final = 1.6

Lists = list[Any]
Picture = NDArray[np.uint8]


class Drawing(NamedTuple):
    """A layer: ``shapes`` for us, ``lists`` of features for others, the coats, and how many features."""

    kind: str
    shapes: Shapes
    lists: Lists
    coats: Sequence[Paint]


def drawing(kind: str, count: int) -> Drawing:
    """What of a layer the tile shows."""
    geometry = np.asarray(layer(kind, count).geometry.array)
    boxes = shapely.bounds(geometry)
    low, high = np.array([_BOX.left, _BOX.bottom]), np.array([_BOX.right, _BOX.top])
    geometry = geometry[((boxes[:, :2] <= high) & (boxes[:, 2:] >= low)).all(axis=1)]
    metres = shapely.get_coordinates(geometry)
    x, y = (metres[:, 0] - _BOX.left) / _SIDE * SIZE, (_BOX.top - metres[:, 1]) / _SIDE * SIZE
    rows = np.arange(len(geometry))
    if kind == "points":
        coats = (Paint("circle", INK, radius=RADIUS),)
        return Drawing(
            kind, Shapes(Points(x, y, rows), NO_PATHS, NO_PATHS), np.stack([x, y], axis=1).tolist(), coats
        )
    sizes = shapely.get_num_coordinates(geometry).astype(np.int64)
    ring = np.full(len(rows), kind != "lines")
    paths = Paths(x, y, sizes, rows, ring, np.zeros(len(rows), np.bool_))
    lists = [part.tolist() for part in np.split(np.stack([x, y], axis=1), np.cumsum(sizes)[:-1])]
    if kind == "lines":
        return Drawing(kind, Shapes(NO_POINTS, paths, NO_PATHS), lists, (Paint("line", INK, width=WIDTH),))
    both = (Paint("fill", FILL), Paint("line", INK, width=OUTLINE))
    return Drawing(kind, Shapes(NO_POINTS, NO_PATHS, paths), lists, both)


def ours(one: Drawing) -> bytes:
    points, lines, rings = one.shapes
    shapes = Shapes(points, lines.thinned(), rings.thinned())
    return np.moveaxis(painted(shapes, one.coats, SIZE, SIZE), 0, -1).tobytes()


def cairo(one: Drawing) -> bytes:
    """Premultiplied, blue first."""
    surface = cairocffi.ImageSurface(cairocffi.FORMAT_ARGB32, SIZE, SIZE)
    context = cairocffi.Context(surface)
    context.set_line_join(cairocffi.LINE_JOIN_ROUND)
    context.set_line_cap(cairocffi.LINE_CAP_ROUND)
    for coat in one.coats:
        context.set_source_rgba(*coat.colour)
        context.set_line_width(coat.width)
        for feature in one.lists:
            if coat.kind == "circle":
                context.arc(*feature, coat.radius, 0, 2 * np.pi)
                context.fill()
                continue
            context.move_to(*feature[0])
            for vertex in feature[1:]:
                context.line_to(*vertex)
            if one.kind != "lines":
                context.close_path()
            if coat.kind == "fill":
                context.fill()
            else:
                context.stroke()
    return bytes(surface.get_data())


def skia_(one: Drawing) -> bytes:
    """Premultiplied, red first."""
    surface = skia.Surface.MakeRaster(
        skia.ImageInfo.Make(SIZE, SIZE, skia.kRGBA_8888_ColorType, skia.kPremul_AlphaType)
    )
    canvas = surface.getCanvas()
    for coat in one.coats:
        paint = skia.Paint(AntiAlias=True, Color4f=skia.Color4f(*coat.colour), StrokeWidth=coat.width)
        if coat.kind == "line":
            paint.setStyle(skia.Paint.kStroke_Style)
            paint.setStrokeJoin(skia.Paint.kRound_Join)
            paint.setStrokeCap(skia.Paint.kRound_Cap)
        for feature in one.lists:
            if coat.kind == "circle":
                canvas.drawCircle(*feature, coat.radius, paint)
                continue
            path = skia.Path()
            path.addPoly([skia.Point(*vertex) for vertex in feature], one.kind != "lines")
            canvas.drawPath(path, paint)
    return bytes(surface.makeImageSnapshot().tobytes())


_CONTENDERS: Final[dict[str, Callable[[Drawing], bytes]]] = {"ours": ours, "cairo": cairo, "skia": skia_}


def premultiplied(name: str, body: bytes) -> NDArray[np.float64]:
    """A picture as (256, 256, 4) levels of premultiplied red, green, blue and alpha."""
    picture = np.frombuffer(body, np.uint8).reshape(SIZE, SIZE, 4).astype(np.float64)
    if name == "ours":
        picture[..., :3] *= picture[..., 3:] / 255
    return picture[..., [2, 1, 0, 3]] if name == "cairo" else picture


def differences(one: Drawing, other: str) -> tuple[float, float]:
    """Mean, and the 99th of a hundred, of the largest difference of each pixel's channels."""
    mine, theirs = (premultiplied(name, _CONTENDERS[name](one)) for name in ("ours", other))
    found = np.abs(mine - theirs).max(axis=-1)
    return float(found.mean()), float(np.percentile(found, 99))


def missed(kind: str, found: Contest) -> list[str]:
    aims = [("cairo", _OF_CAIRO)] + ([("skia", _OF_SKIA)] if kind == "points" else [])
    return [
        f"{kind}: {found.ratio('ours', other):.2f} of {other}'s time, aim {aim}"
        for other, aim in aims
        if found.ratio("ours", other) > aim
    ]


def _measured(layers: Sequence[str], rounds: int, failures: list[str]) -> Iterator[str]:
    names = ["layer", "features", "ours ms", "cairo ms", "ours / cairo", "skia ms", "ours / skia"]
    yield "| " + " | ".join(names) + " |\n|" + " --- |" * len(names)
    for name in layers:
        one = drawing(*LAYERS[name])
        for other in ("cairo", "skia"):
            mean, most = differences(one, other)
            print(f"{name}: {other}: mean {mean:.2f}, 99th percentile {most:.0f}", file=sys.stderr)
            # Skia's outlines of what is smaller than a pixel are paler than anybody's.
            if other == "cairo" and (mean > _MEAN or most > _MOST):
                raise RuntimeError(f"{name}: the picture is another than {other}'s: {mean:.2f}, {most:.0f}")
        found = contest(
            {who: partial(call, one) for who, call in _CONTENDERS.items()}, rounds, time.process_time
        )
        failures += missed(one.kind, found)
        cells = [f"{name:<18}", f"{len(one.lists):6d}", _spread(found.times["ours"])]
        for other in ("cairo", "skia"):
            cells += [_spread(found.times[other]), f"{found.ratio('ours', other):5.2f}"]
        yield "| " + " | ".join(cells) + " |"


def main() -> int:
    """Compare, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--layer", action="append", choices=LAYERS, help="only this one; may be repeated")
    chosen = parser.parse_args()
    failures: list[str] = []
    for line in _measured(chosen.layer or list(LAYERS), chosen.rounds, failures):
        print(line, flush=True)
    print(f"\n{chosen.rounds} rounds, load average {os.getloadavg()[0]:.1f}")
    print("\n".join(failures), file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    kept = {name: value for name, value in _WORKER_SETTINGS.items() if name.startswith("MALLOC_")}
    if kept.items() <= os.environ.items():
        sys.exit(main())
    # The allocator reads them when a process starts.
    os.execve(sys.executable, [sys.executable, "-m", "benchmarks.draw", *sys.argv[1:]], os.environ | kept)
