"""Vector tiles, ours and others' in turn: ``python -m benchmarks.mvt``.

Generates layers of several kinds around one tile of zoom 12, checks for each that the decoded tiles of all
contenders agree, then times them in shuffled order, round after round, and prints a table of Markdown:
medians, the middle half of the times, and the median of each round's ratios, as those stay when the load of
the machine changes. The obvious way is what mapbox-vector-tile's documentation suggests for a frame.
With ``--postgis`` its server, where it is installed, holds the same layers and makes the same tiles.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import geopandas as gpd
import mapbox_vector_tile
import mercantile
import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from benchmarks.processes import be_like_a_worker
from tileserver.formats import FORMATS, Kind
from tileserver.protocol import Job, RenderOptions
from tileserver.render.classify import Classified
from tileserver.render.vector_tile import mvt

TILE: Final = mercantile.Tile(x=2200, y=1343, z=12)
EXTENT: Final = 4096
BUFFER: Final = 64
_BOX: Final = mercantile.xy_bounds(TILE)
_SIDE: Final = _BOX.right - _BOX.left
_UNIT: Final = _SIDE / EXTENT
_OVERSHOOT: Final = 0.15  # of the tile's side, all around

# Shares of features: PostGIS keeps points just outside of the buffer, and drops vertices of lines on purpose.
_TOLERATED: Final = {"obvious": 0.0, "postgis": 0.01}

LAYERS: Final = {
    "points 10k": ("points", 10_000),
    "points 100k": ("points", 100_000),
    "buildings 5k": ("buildings", 5_000),
    "large polygons 500": ("large", 500),
    "lines 5k": ("lines", 5_000),
}


def _places(count: int, chance: np.random.Generator) -> NDArray[np.float64]:
    low, high = -_OVERSHOOT, 1 + _OVERSHOOT
    inside: NDArray[np.float64] = chance.uniform(low, high, (count, 2))
    placed: NDArray[np.float64] = inside * _SIDE + np.array([_BOX.left, _BOX.bottom])
    return placed


def _points(count: int, chance: np.random.Generator) -> Any:
    return shapely.points(_places(count, chance))


def _buildings(count: int, chance: np.random.Generator) -> Any:
    """Rectangles, and every other one with a corner cut out: five or seven vertices with the closing one."""
    plain = np.array([(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)], float)
    notched = np.array([(0, 0), (1, 0), (1, 0.5), (0.5, 0.5), (0.5, 1), (0, 1), (0, 0)])
    shapes = [plain if index % 2 else notched for index in range(count)]
    sizes = np.array([len(one) for one in shapes])
    size, angle = chance.uniform(8, 40, (count, 2)), chance.uniform(0, np.pi, count)
    owner = np.repeat(np.arange(count), sizes)
    x, y = (np.concatenate(shapes) * size[owner]).T
    cos, sin = np.cos(angle)[owner], np.sin(angle)[owner]
    turned = np.column_stack([x * cos - y * sin, x * sin + y * cos]) + _places(count, chance)[owner]
    return shapely.polygons(shapely.linearrings(turned, indices=owner))


def _large(count: int, chance: np.random.Generator) -> Any:
    """Coasts of about 1200 vertices: a circle with waves, finer ones lower."""
    vertices = 1200
    angle = np.linspace(0, 2 * np.pi, vertices, endpoint=False)
    waves = np.arange(2, 120)
    heights = chance.normal(0, 0.35, (count, len(waves))) / waves**0.9
    phases = chance.uniform(0, 2 * np.pi, (count, len(waves)))
    radius = np.ones((count, vertices))
    for index, wave in enumerate(waves):
        radius += heights[:, index, None] * np.sin(wave * angle + phases[:, index, None])
    radius = np.clip(radius, 0.2, None) * chance.uniform(100, 400, count)[:, None] * _UNIT
    rings = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    return shapely.polygons(rings + _places(count, chance)[:, None])


def _lines(count: int, chance: np.random.Generator) -> Any:
    """Roads of 50 vertices that bend a little at each."""
    turns = chance.normal(0, 0.25, (count, 50)).cumsum(axis=1) + chance.uniform(0, 2 * np.pi, (count, 1))
    steps = np.stack([np.cos(turns), np.sin(turns)], axis=-1) * chance.uniform(5, 30, (count, 1, 1))
    return shapely.linestrings(steps.cumsum(axis=1) + _places(count, chance)[:, None])


_MAKERS: Final = {"points": _points, "buildings": _buildings, "large": _large, "lines": _lines}


def layer(kind: str, count: int, *, crs: int = 3857) -> gpd.GeoDataFrame:
    """Features around the tile with an id and five attributes, always the same."""
    chance = np.random.default_rng(12)
    columns = {
        "id": np.arange(count),
        "name": [f"{kind} {number:x}" for number in chance.integers(0, 2**40, count)],
        "class": chance.choice(["residential", "commercial", "industrial", "farm", "other"], count),
        "height": chance.gamma(2, 5, count).round(2),
        "floors": chance.integers(1, 12, count),
        "listed": chance.random(count) < 0.1,
    }
    return gpd.GeoDataFrame(columns, geometry=_MAKERS[kind](count, chance), crs=3857).to_crs(crs)


def ours(frame: gpd.GeoDataFrame) -> bytes:
    """What a worker does with the frame that a UDF returns, TileJSON's facts included."""
    job = Job(
        owner="benchmark",
        bundle="benchmark",
        udf="benchmark",
        arguments={},
        formats=("mvt",),
        default="tile",
        options=RenderOptions(extent=EXTENT, buffer=BUFFER),
        tile=TILE,
    )
    return mvt(Classified(Kind.FEATURES, frame, frame), FORMATS["mvt"], job)[0]


def obvious(frame: gpd.GeoDataFrame) -> bytes:
    """To EPSG:3857, clipped, as records, encoded by mapbox-vector-tile."""
    margin = BUFFER * _UNIT
    placed = frame.to_crs(3857).clip(
        (_BOX.left - margin, _BOX.bottom - margin, _BOX.right + margin, _BOX.top + margin)
    )
    geometries = placed.geometry.to_list()
    records = placed.drop(columns=["geometry"]).to_dict("records")
    found = [
        {"geometry": geometry, "id": record["id"], "properties": record}
        for geometry, record in zip(geometries, records, strict=True)
    ]
    options = {"quantize_bounds": tuple(_BOX), "extents": EXTENT}
    body: bytes = mapbox_vector_tile.encode({"name": "udf", "features": found}, default_options=options)
    return body


@dataclass(frozen=True, slots=True)
class Features:
    """A decoded tile by the ids of its features."""

    shapes: dict[int, BaseGeometry]
    properties: dict[int, dict[str, Any]]

    @classmethod
    def of(cls, body: bytes) -> Features:
        decoded = mapbox_vector_tile.decode(body, default_options={"y_coord_down": True})["udf"]
        found = [one for one in decoded["features"] if one["geometry"]["coordinates"]]
        shapes = {
            one["properties"].get("id", one["id"]): shapely.geometry.shape(one["geometry"]) for one in found
        }
        properties = {one["properties"].get("id", one["id"]): one["properties"] for one in found}
        for number, known in properties.items():
            known["id"] = number
        return cls(shapes, properties)

    @property
    def invalid(self) -> int:
        return sum(not shape.is_valid for shape in self.shapes.values())


@dataclass(frozen=True, slots=True)
class Differences:
    """How another's tile differs from ours; ``far`` are shapes that differ by more than rounding can."""

    compared: int
    absent: int
    extra: int
    properties: int
    far: int

    def within(self, share: float) -> bool:
        """Whether shapes of no more than this share of the features differ, and no property at all."""
        return not self.properties and self.absent + self.extra + self.far <= share * self.compared


def differences(mine: Features, other: Features) -> Differences:
    """Compare feature by feature."""
    both = mine.shapes.keys() & other.shapes.keys()
    return Differences(
        compared=len(both),
        absent=len(mine.shapes.keys() - both),
        extra=len(other.shapes.keys() - both),
        properties=sum(mine.properties[one] != other.properties[one] for one in both),
        far=sum(_far(mine.shapes[one], other.shapes[one]) for one in both),
    )


def _far(one: BaseGeometry, other: BaseGeometry) -> bool:
    """Whether two roundings of a shape are further apart than the diagonal of a unit each, and for polygons
    than that along their whole edge."""
    if one.area or other.area:
        difference = shapely.symmetric_difference(shapely.make_valid(one), shapely.make_valid(other))
        return bool(difference.area > 1 + 0.75 * max(one.length, other.length))
    return bool(shapely.hausdorff_distance(one, other) > 1.5)


@dataclass(slots=True)
class Contest:
    """Times of each contender in milliseconds, an entry for each round."""

    times: dict[str, list[float]] = field(default_factory=dict)

    def ratio(self, one: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(self.times[one], self.times[other], strict=True))


def contest(
    contenders: dict[str, Callable[[], bytes]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Contest:
    """Each contender once a round, in an order that changes."""
    found = Contest({name: [] for name in contenders})
    order = list(contenders)
    chance = random.Random(12)
    for _ in range(rounds):
        chance.shuffle(order)
        for name in order:
            gc.collect()
            started = clock()
            contenders[name]()
            found.times[name].append(1000 * (clock() - started))
    return found


def row(name: str, inside: int, found: Contest) -> str:
    """One line of the table."""
    cells = [f"| {name:<18}", f"{inside:6d}"]
    cells += [_spread(found.times["ours"]), _spread(found.times["obvious"])]
    cells += [f"{found.ratio('obvious', 'ours'):5.1f}"]
    if "postgis" in found.times:
        cells += [_spread(found.times["postgis"]), f"{found.ratio('ours', 'postgis'):5.2f}"]
    return " | ".join(cells) + " |"


def _spread(times: Sequence[float]) -> str:
    low, middle, high = statistics.quantiles(times, n=4)
    return f"{middle:6.1f} ({low:.1f}-{high:.1f})"


def heading(*, with_postgis: bool) -> str:
    names = ["layer", "in tile", "ours ms", "obvious ms", "obvious / ours"]
    names += ["PostGIS ms", "ours / PostGIS"] if with_postgis else []
    return "| " + " | ".join(names) + " |\n|" + " --- |" * len(names)


def _measured(chosen: argparse.Namespace) -> Iterator[str]:
    with ExitStack() as stack:
        database = None
        if chosen.postgis:
            from benchmarks import postgis  # needs a driver that nothing else does

            database = stack.enter_context(postgis.running())
        yield heading(with_postgis=database is not None)
        for name in chosen.layer or LAYERS:
            frame = layer(*LAYERS[name], crs=chosen.crs)
            contenders: dict[str, Callable[[], bytes]] = {
                "ours": partial(ours, frame),
                "obvious": partial(obvious, frame),
            }
            if database is not None:
                contenders["postgis"] = partial(database.tile, database.table(frame), TILE, EXTENT, BUFFER)
            mine = Features.of(contenders["ours"]())
            if mine.invalid:
                raise RuntimeError(f"{name}: {mine.invalid} invalid polygons of ours")
            for other in list(contenders)[1:]:
                found = differences(mine, Features.of(contenders[other]()))
                print(f"{name}: {other}: {found}", file=sys.stderr)
                if not found.within(_TOLERATED[other]):
                    raise RuntimeError(f"{name}: ours and {other} don't agree: {found}")
            yield row(name, len(mine.shapes), contest(contenders, chosen.rounds))


def main() -> int:
    """Check, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--crs", type=int, choices=(3857, 4326), default=3857, help="of the layers")
    parser.add_argument("--layer", action="append", choices=LAYERS, help="only this one; may be repeated")
    parser.add_argument("--postgis", action="store_true", help="against ST_AsMVT, too")
    chosen = parser.parse_args()
    for line in _measured(chosen):
        print(line, flush=True)
    print(f"\nEPSG:{chosen.crs}, {chosen.rounds} rounds, load average {os.getloadavg()[0]:.1f}")
    return 0


if __name__ == "__main__":
    be_like_a_worker("benchmarks.mvt")
    sys.exit(main())
