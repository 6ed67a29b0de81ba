"""How fast tiles are read from rasters, beside rio-tiler and GDAL's warper: ``python -m benchmarks.cog``.

Generates three Cloud Optimized GeoTIFFs (imagery and elevation in UTM, imagery on the map's grid), lets
each reader read the same tiles, and compares them with each pixel's exact projection before timing them. Then
the readers take turns tile by tile, in a new order each time, over a square of neighbouring tiles, as a
map asks for them. With ``--http`` the server is measured beside TiTiler (see ``tile_servers``). Exit status 1
when an aim is missed.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import mercantile
import numpy as np
import rasterio
from mercantile import Tile
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from rio_tiler.io import Reader

from benchmarks import scenes, tile_servers
from benchmarks.mvt import Contest
from benchmarks.processes import be_like_a_worker
from benchmarks.scenes import Scene
from tileserver import raster
from tileserver.raster import handles
from tileserver.raster.gdal import north_up

OURS: Final = "tileserver"
OPENED: Final = "rio-tiler, opened each time"
KEPT: Final = "rio-tiler, kept open"
VRT: Final = "WarpedVRT, kept open"

# Bands and whether they are masked.
Read = Callable[[Tile], Any]


@dataclass(frozen=True, slots=True)
class Case:
    """Tiles of one zoom of one file, how they are resampled, and how many times as fast as rio-tiler opening
    the file each time we want to be. ``level`` is the overview that fits them; None is the file itself."""

    name: str
    scene: Scene
    zoom: int
    level: int | None
    resampling: str
    aim: float


def cases(folder: Path, side: int) -> list[Case]:
    """Native resolution, overviews, and a grid that fits; the zooms that a raster of this side reaches."""
    photo, relief, mercator = (
        make(folder, side) for make in (scenes.imagery, scenes.elevation, scenes.aligned)
    )
    every = [
        Case("imagery, native", photo, 18, None, "nearest", 4),
        Case("imagery, native", photo, 18, None, "bilinear", 4),
        Case("imagery, overview 2", photo, 16, 0, "nearest", 6),
        Case("imagery, overview 2", photo, 16, 0, "bilinear", 6),
        Case("imagery, overview 8", photo, 14, 2, "nearest", 6),
        Case("elevation, native", relief, 13, None, "nearest", 4),
        Case("elevation, native", relief, 13, None, "bilinear", 4),
        Case("elevation, overview 4", relief, 11, 1, "nearest", 6),
        Case("aligned, native", mercator, 18, None, "nearest", 4),
        Case("aligned, overview 4", mercator, 16, 1, "nearest", 4),
    ]
    return [case for case in every if case.level is None or side >> (case.level + 1) >= scenes.BLOCK]


def readers(case: Case) -> tuple[dict[str, Read], Callable[[], None]]:
    """Each way to read a tile, and what closes the files that are kept open."""
    path, kernel = str(case.scene.path), case.resampling
    both: Any = {"resampling_method": kernel, "reproject_method": kernel}
    options = {} if case.level is None else {"OVERVIEW_LEVEL": case.level}
    kept, file = Reader(path), rasterio.open(path, **options)

    def opened(tile: Tile) -> Any:
        with Reader(path) as reader:
            return reader.tile(*tile, **both).array

    def warped(tile: Tile) -> Any:
        place = north_up(tuple(mercantile.xy_bounds(tile)), 256, 256)
        shape = {"width": 256, "height": 256, "resampling": Resampling[kernel]}
        with WarpedVRT(file, crs="EPSG:3857", transform=place, add_alpha=file.nodata is None, **shape) as vrt:
            return vrt.read(list(file.indexes), masked=True)

    def close() -> None:
        handles.close()
        kept.close()  # type: ignore[no-untyped-call]  # rio-tiler
        file.close()

    return {
        OURS: lambda tile: raster.read(path, tile, resampling=kernel).array,
        OPENED: opened,
        KEPT: lambda tile: kept.tile(*tile, **both).array,
        VRT: warped,
    }, close


def exact(case: Case, tile: Tile) -> NDArray[Any]:
    """The pixels of the overview that fits, each by its own projection; between their centres in float64."""
    options = {} if case.level is None else {"OVERVIEW_LEVEL": case.level}
    west, south, east, north = mercantile.xy_bounds(tile)
    steps = (np.arange(256) + 0.5) / 256
    x, y = np.meshgrid(west + steps * (east - west), north - steps * (north - south))
    with rasterio.open(case.scene.path, **options) as file:
        x, y = Transformer.from_crs(3857, file.crs, always_xy=True).transform(x, y)
        back = ~file.transform
        columns, rows = x * back.a + back.c, y * back.e + back.f
        left, top = int(columns.min()) - 1, int(rows.min()) - 1
        window = ((top, int(rows.max()) + 3), (left, int(columns.max()) + 3))
        bands = file.read(window=window, boundless=False)
    columns, rows = columns - left, rows - top
    if case.resampling == "nearest":
        # Where a place falls between two pixels, rounding isn't what is tested.
        result: NDArray[Any] = bands[:, (rows + 1e-6).astype(int), (columns + 1e-6).astype(int)]
        return result
    columns, rows = columns - 0.5, rows - 0.5
    column, row = columns.astype(int), rows.astype(int)
    across, down = columns - column, rows - row
    upper = bands[:, row, column] * (1 - across) + bands[:, row, column + 1] * across
    lower = bands[:, row + 1, column] * (1 - across) + bands[:, row + 1, column + 1] * across
    blended: NDArray[Any] = upper * (1 - down) + lower * down
    return blended


def off(found: Any, expected: NDArray[Any], case: Case) -> float:
    """The share of pixels that are masked or differ from exact ones, by more than rounding."""
    rounding = 0.0 if case.resampling == "nearest" else 0.51
    values = np.ma.getdata(found).astype(float)
    return float((np.ma.getmaskarray(found) | (np.abs(values - expected) > rounding)).mean())


def check(case: Case, found: dict[str, Read], tiles: Sequence[Tile]) -> dict[str, float]:
    """The share of pixels off exact ones, of each reader.

    :raises RuntimeError: when ours is over 0.02 %, or a peer reads something else altogether.
    """
    shares = {
        name: statistics.mean(off(read(tile), exact(case, tile), case) for tile in tiles)
        for name, read in found.items()
    }
    if shares[OURS] > 0.0002:
        raise RuntimeError(f"{case.name}, {case.resampling}: {shares[OURS]:.2%} of our pixels are off")
    for name, read in found.items():
        apart = np.abs(np.ma.getdata(read(tiles[0])).astype(float) - exact(case, tiles[0]))
        if np.median(apart) > 0.01 * np.ptp(exact(case, tiles[0])):
            raise RuntimeError(f"{case.name}, {case.resampling}: {name} reads other pixels")
    return shares


def measure(case: Case, found: dict[str, Read], tiles: Sequence[Tile], seed: int = 0) -> Contest:
    """Each tile by each reader, who take turns."""
    chance, times = random.Random(seed), Contest({name: [] for name in found})
    for tile in tiles:
        for name in chance.sample(list(found), len(found)):
            started = time.perf_counter()
            found[name](tile)
            times.times[name].append(1000 * (time.perf_counter() - started))
    return times


def rows(case: Case, times: Contest, shares: dict[str, float]) -> Iterator[str]:
    """Lines of the table: medians, the middle half, how many times ours, and pixels off exact ones."""
    for name, values in times.times.items():
        low, middle, high = statistics.quantiles(values, n=4)
        spread = f"{middle:7.2f} | {low:6.2f}-{high:<7.2f}"
        yield (
            f"| {case.name:<21} | {case.resampling:<8} | {name:<27} | {spread} | "
            f"{times.ratio(name, OURS):5.1f} | {shares[name]:8.3%} |"
        )


HEADING: Final = (
    "| tiles                 | kernel   | reader                      |  p50 ms | middle half    | times | "
    "off      |\n| --- | --- | --- | --- | --- | --- | --- |"
)


def in_process(folder: Path, side: int, across: int) -> Iterator[str]:
    """Print the table; yield the aims that are missed."""
    print(HEADING)
    for case in cases(folder, side):
        inside = set(case.scene.inside(case.zoom))
        tiles = [tile for tile in case.scene.tiles(case.zoom, across) if tile in inside]
        if len(tiles) < 2:
            continue  # a raster too small for this zoom
        for run in (check, measure):
            found, close = readers(case)  # fresh handles, that have read nothing
            if run is check:
                shares = check(case, found, tiles[:: max(1, len(tiles) // 4)])
            else:
                times = measure(case, found, tiles)
            close()
        print("\n".join(rows(case, times, shares)), flush=True)
        ratio = times.ratio(OPENED, OURS)
        if ratio < case.aim:
            yield f"{case.name}, {case.resampling}: {ratio:.1f} times {OPENED}, not {case.aim:g}"


def main() -> int:
    """Generate, check, measure, print, compare with the aims."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--side", type=int, default=20000, help="of the rasters in pixels")
    parser.add_argument("--across", type=int, default=8, help="side of the square of tiles that is read")
    parser.add_argument("--data", type=Path, help="keep the rasters in this folder")
    parser.add_argument("--http", action="store_true", help="tile servers instead of readers")
    parser.add_argument("--seconds", type=float, default=30, help="for each server, with --http")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")  # of georeferencing that peers give up
    place: AbstractContextManager[Any] = (
        tempfile.TemporaryDirectory() if chosen.data is None else nullcontext(chosen.data)
    )
    with place as name:
        folder = Path(name).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        if chosen.http:
            missed = list(tile_servers.compare(scenes.imagery(folder, chosen.side), chosen.seconds))
        else:
            missed = list(in_process(folder, chosen.side, chosen.across))
    print("\n".join(["", *missed]) if missed else "\nall aims are met")
    return int(bool(missed))


if __name__ == "__main__":
    if "--http" not in sys.argv:  # the servers have settings of their own
        be_like_a_worker("benchmarks.cog")
    sys.exit(main())
