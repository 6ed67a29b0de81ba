"""Drawing vectors, ours and others' in turn: ``python -m benchmarks.draw``.

The layers of ``benchmarks.mvt`` in pixels of their tile, painted in 256 x 256 pixels: from arrays of
coordinates to RGBA. Points are also painted as the default style does, with a ring, and with colours and
sizes of their own. Cairo and Skia are called once for each feature, from lists that are ready. Pictures are
compared first: the mean difference of pixels from cairo's may be ``_MEAN`` of 255, that of all but one in a
hundred ``_MOST``, which is what kinds of antialiasing differ by, most where the edges of others' rings and
discs let what is below shine through. Then they take turns in shuffled order, and
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
from benchmarks.processes import be_like_a_worker
from tileserver.render.ink import Paths, Points, Shapes, painted
from tileserver.render.ink.shapes import NO_PATHS, NO_POINTS
from tileserver.render.paint import Paint

SIZE: Final = 256
_MEAN: Final = 8.0
_MOST: Final = 40.0
_OF_CAIRO: Final = 0.6
_OF_SKIA: Final = {"points": 0.25, "rings": 0.75, "colours": 0.75, "sizes": 0.75, "all of it": 0.75}

FILL: Final = (0.29, 0.64, 0.71, 0.55)
INK: Final = (0.05, 0.29, 0.37, 0.7)
DOT: Final = (0.86, 0.36, 0.20, 0.92)
RING: Final = (1.0, 1.0, 1.0, 0.75)
RADIUS: Final = 3.0
SIZES: Final = (2.0, 8.0)
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


# Points of ``LAYERS`` in other coats.
POINTS: Final = {
    f"{coat}, {name}": (coat, LAYERS[name][1])
    for coat in ("rings", "colours", "sizes", "all of it")
    for name in ("points 10k", "points 100k")
}


def dots(coat: str, count: int) -> Paint:
    """A coat of points: of one colour and size where it says nothing else."""
    chance = np.random.default_rng(count)
    colours = np.column_stack([chance.uniform(0, 1, (count, 3)), np.full(count, INK[3])])
    sizes = chance.uniform(*SIZES, count)
    everything = np.arange(count)
    match coat:
        case "rings":
            return Paint("circle", everything, DOT, radius=3.2, stroke_colour=RING, stroke_width=1.0)
        case "colours":
            return Paint("circle", everything, colours, radius=RADIUS)
        case "sizes":
            return Paint("circle", everything, INK, radius=sizes)
        case "all of it":
            return Paint("circle", everything, colours, radius=sizes, stroke_colour=RING, stroke_width=1.0)
    return Paint("circle", everything, INK, radius=RADIUS)


def drawing(name: str) -> Drawing:
    """What of a layer the tile shows."""
    coat, count = POINTS.get(name) or LAYERS[name]
    kind = "points" if name in POINTS else coat
    geometry = np.asarray(layer(kind, count).geometry.array)
    boxes = shapely.bounds(geometry)
    low, high = np.array([_BOX.left, _BOX.bottom]), np.array([_BOX.right, _BOX.top])
    geometry = geometry[((boxes[:, :2] <= high) & (boxes[:, 2:] >= low)).all(axis=1)]
    metres = shapely.get_coordinates(geometry)
    x, y = (metres[:, 0] - _BOX.left) / _SIDE * SIZE, (_BOX.top - metres[:, 1]) / _SIDE * SIZE
    rows = np.arange(len(geometry))
    if kind == "points":
        shapes = Shapes(Points(x, y, rows), NO_PATHS, NO_PATHS)
        return Drawing(coat, shapes, np.stack([x, y], axis=1).tolist(), (dots(coat, len(rows)),))
    sizes = shapely.get_num_coordinates(geometry).astype(np.int64)
    ring = np.full(len(rows), kind != "lines")
    paths = Paths(x, y, sizes, rows, ring, np.zeros(len(rows), np.bool_))
    lists = [part.tolist() for part in np.split(np.stack([x, y], axis=1), np.cumsum(sizes)[:-1])]
    if kind == "lines":
        line = Paint("line", rows, INK, width=WIDTH, cap="round", join="round")
        return Drawing(kind, Shapes(NO_POINTS, paths, NO_PATHS), lists, (line,))
    both = (Paint("fill", rows, FILL), Paint("line", rows, INK, width=OUTLINE, cap="round", join="round"))
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
        if coat.kind == "circle":
            _circles_by_cairo(context, one.lists, coat)
            continue
        context.set_source_rgba(*coat.colour)
        context.set_line_width(coat.width)
        for feature in one.lists:
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


def _circles_by_cairo(context: Any, features: Lists, coat: Paint) -> None:
    colours, radii = _for_each(coat, len(features))
    ring = coat.stroke_width
    context.set_line_width(ring)
    for feature, colour, radius in zip(features, colours, radii, strict=True):
        context.set_source_rgba(*colour)
        context.arc(*feature, radius, 0, 2 * np.pi)
        context.fill()
        if ring:
            context.set_source_rgba(*coat.stroke_colour)
            context.arc(*feature, radius + ring / 2, 0, 2 * np.pi)
            context.stroke()


def _for_each(coat: Paint, count: int) -> tuple[Lists, Lists]:
    """Colours and radii, as others take them."""
    colours = np.broadcast_to(coat.colour, (count, 4))
    return colours.tolist(), np.broadcast_to(coat.radius, (count,)).tolist()


def skia_(one: Drawing) -> bytes:
    """Premultiplied, red first."""
    surface = skia.Surface.MakeRaster(
        skia.ImageInfo.Make(SIZE, SIZE, skia.kRGBA_8888_ColorType, skia.kPremul_AlphaType)
    )
    canvas = surface.getCanvas()
    for coat in one.coats:
        if coat.kind == "circle":
            _circles_by_skia(canvas, one.lists, coat)
            continue
        paint = skia.Paint(AntiAlias=True, Color4f=skia.Color4f(*coat.colour), StrokeWidth=coat.width)
        if coat.kind == "line":
            paint.setStyle(skia.Paint.kStroke_Style)
            paint.setStrokeJoin(skia.Paint.kRound_Join)
            paint.setStrokeCap(skia.Paint.kRound_Cap)
        for feature in one.lists:
            path = skia.Path()
            path.addPoly([skia.Point(*vertex) for vertex in feature], one.kind != "lines")
            canvas.drawPath(path, paint)
    return bytes(surface.makeImageSnapshot().tobytes())


def _circles_by_skia(canvas: Any, features: Lists, coat: Paint) -> None:
    colours, radii = _for_each(coat, len(features))
    width = float(coat.stroke_width)
    disc = skia.Paint(AntiAlias=True, Color4f=skia.Color4f(*colours[0]))
    ring = skia.Paint(AntiAlias=True, Color4f=skia.Color4f(*coat.stroke_colour), StrokeWidth=width)
    ring.setStyle(skia.Paint.kStroke_Style)
    own = np.ndim(coat.colour) > 1
    for feature, colour, radius in zip(features, colours, radii, strict=True):
        if own:
            disc.setColor4f(skia.Color4f(*colour))
        canvas.drawCircle(*feature, radius, disc)
        if width:
            canvas.drawCircle(*feature, radius + width / 2, ring)


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
    aims = [("cairo", _OF_CAIRO)] + ([("skia", _OF_SKIA[kind])] if kind in _OF_SKIA else [])
    return [
        f"{kind}: {found.ratio('ours', other):.2f} of {other}'s time, aim {aim}"
        for other, aim in aims
        if found.ratio("ours", other) > aim
    ]


def _measured(layers: Sequence[str], rounds: int, failures: list[str]) -> Iterator[str]:
    names = ["layer", "features", "ours ms", "cairo ms", "ours / cairo", "skia ms", "ours / skia"]
    yield "| " + " | ".join(names) + " |\n|" + " --- |" * len(names)
    for name in layers:
        one = drawing(name)
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
        cells = [f"{name:<22}", f"{len(one.lists):6d}", _spread(found.times["ours"])]
        for other in ("cairo", "skia"):
            cells += [_spread(found.times[other]), f"{found.ratio('ours', other):5.2f}"]
        yield "| " + " | ".join(cells) + " |"


def main() -> int:
    """Compare, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument(
        "--layer", action="append", choices=[*LAYERS, *POINTS], help="only this one; may be repeated"
    )
    chosen = parser.parse_args()
    failures: list[str] = []
    for line in _measured(chosen.layer or [*LAYERS, *POINTS], chosen.rounds, failures):
        print(line, flush=True)
    print(f"\n{chosen.rounds} rounds, load average {os.getloadavg()[0]:.1f}")
    print("\n".join(failures), file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    be_like_a_worker("benchmarks.draw")
    sys.exit(main())
