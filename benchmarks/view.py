"""How long a map view of 30 tiles takes, cold and warm, ours beside TiTiler's: ``python -m benchmarks.view``.

A view is six by five tiles of one large raster, asked for as a browser does: all at once over six connections
that stay open, tiles from the middle outwards. Cold views were never asked for; a warm one is the same again
for somebody else, a known one for the same browser, which has validators. Views are drawn at random, and
every server is asked for each of them in turn, with two workers, ours with sandbox and cache and everything
else on. Exit status 1 when ours is no faster.
"""

from __future__ import annotations

import argparse
import http.client
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from mercantile import Tile

from benchmarks import scenes, tile_servers
from benchmarks.refusals import percentile

COLUMNS, ROWS = 6, 5
CONNECTIONS: Final = 6  # of a browser to one host
ZOOM: Final = 17
_WARMING: Final = 3  # views before those that count


class Took(NamedTuple):
    """Milliseconds until the first and the last tile of a view were there."""

    first: float
    last: float


class Browser:
    """One that has looked at nothing yet: its connections, and validators of what it has."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connections = [
            http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
            for _ in range(CONNECTIONS)
        ]
        self._etags: dict[str, str] = {}
        for connection in self._connections:
            connection.connect()

    def look(self, paths: Sequence[str]) -> Took:
        """Ask for all tiles of a view.

        :raises RuntimeError: for an answer that is neither a tile nor that it is still the same.
        """
        queue = list(reversed(paths))
        started = time.perf_counter()

        def work(connection: http.client.HTTPConnection) -> list[float]:
            times = []
            while queue:
                path = queue.pop()
                known = self._etags.get(path)
                connection.request("GET", path, headers={"If-None-Match": known} if known else {})
                response = connection.getresponse()
                response.read()
                times.append(1000 * (time.perf_counter() - started))
                if response.status not in (200, 304):
                    raise RuntimeError(f"{path}: {response.status}")
                if etag := response.headers.get("etag"):
                    self._etags[path] = etag
            return times

        with ThreadPoolExecutor(CONNECTIONS) as threads:
            times = [time for found in threads.map(work, self._connections) for time in found]
        return Took(min(times), max(times))

    def close(self) -> None:
        for connection in self._connections:
            connection.close()


def views(scene: scenes.Scene, seed: int = 0) -> Iterator[list[Tile]]:
    """Views that have no tile in common, each from its middle outwards; they start at a block of four."""
    inside = set(scene.inside(ZOOM))
    corners = [tile for tile in inside if tile.x % 8 == 0 and tile.y % 8 == 0]
    random.Random(seed).shuffle(corners)
    for corner in corners:
        steps = [(x, y) for x in range(COLUMNS) for y in range(ROWS)]
        steps.sort(key=lambda step: (step[0] - 2.5) ** 2 + (step[1] - 2) ** 2)
        tiles = [Tile(corner.x + x, corner.y + y, ZOOM) for x, y in steps]
        if inside.issuperset(tiles):
            yield tiles


def measure(
    servers: Mapping[str, tuple[str, tile_servers.Path_]], found: Iterator[list[Tile]], rounds: int
) -> dict[tuple[str, str], list[Took]]:
    """Times of each server and case. They take turns, in another order for each view."""
    times: dict[tuple[str, str], list[Took]] = {}
    for number, tiles in zip(range(_WARMING + rounds), found, strict=False):
        names = list(servers)
        random.Random(number).shuffle(names)
        for name in names:
            url, path = servers[name]
            paths = [path(tile) for tile in tiles]
            first, second = Browser(url), Browser(url)
            took = {"cold": first.look(paths), "warm": second.look(paths), "known": first.look(paths)}
            first.close()
            second.close()
            if number >= _WARMING:
                for case, one in took.items():
                    times.setdefault((name, case), []).append(one)
    return times


def report(times: Mapping[tuple[str, str], Sequence[Took]]) -> Iterator[str]:
    """Print the table; yield what is no faster than TiTiler."""
    print("| view | server | last tile ms | middle half | first tile ms | times TiTiler |")
    print("| --- | --- | --- | --- | --- | --- |")
    for case in ("cold", "warm", "known"):
        its = percentile(sorted(took.last for took in times["TiTiler", case]), 0.5)
        for name in dict.fromkeys(name for name, _ in times):
            lasts = sorted(took.last for took in times[name, case])
            firsts = sorted(took.first for took in times[name, case])
            low, median, high = (percentile(lasts, share) for share in (0.25, 0.5, 0.75))
            first = percentile(firsts, 0.5)
            numbers = f"{median:7.1f} | {low:.1f}-{high:.1f} | {first:.1f} | {its / median:.1f}"
            print(f"| {case} | {name} | {numbers} |")
            if name != "TiTiler" and median > its:
                yield f"a {case} view takes {name} {median / its:.2f} times TiTiler's time"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="views that count")
    parser.add_argument("--side", type=int, default=20_000, help="of the raster, in pixels")
    parser.add_argument("--folder", type=Path, help="where generated rasters are kept")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as running:
        folder = chosen.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        scene = scenes.imagery(folder, chosen.side)
        servers = {
            "tileserver": running.enter_context(tile_servers.ours(scene)),
            "tileserver, metatile = 4": running.enter_context(tile_servers.ours(scene, metatile=4)),
            "TiTiler": running.enter_context(tile_servers.titiler(scene)),
        }
        found = views(scene)
        tile_servers.check(tuple(servers.values()), next(found)[:6])
        times = measure(servers, found, chosen.rounds)
    missed = list(report(times))
    for text in missed:
        print(text, file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
