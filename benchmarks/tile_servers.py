"""Tiles of one large raster over HTTP, ours beside TiTiler's: what ``--http`` does in ``benchmarks.cog``.

Both servers have two workers, ours with its sandbox and everything else on. Tiles are drawn at random from
the whole raster and five zooms, each is asked for once of each server, so that no cache of tiles helps; the
servers take turns. The client runs on the same machine.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import numpy as np
from mercantile import Tile
from PIL import Image

from benchmarks.refusals import percentile
from benchmarks.scenes import Scene
from tileserver.access import Access

CONNECTIONS: Final = 8
WORKERS: Final = 2
ZOOMS: Final = (14, 15, 16, 17, 18)
RATE_AIM: Final = 3.0  # times TiTiler's tiles a second
P99_AIM: Final = 0.5  # of TiTiler's
_TURN: Final = 200  # tiles
_OFF: Final = 0.02  # of the pixels; TiTiler's warp approximates

_UDF: Final = """\
import fused
from tileserver import raster


@fused.udf
def udf(bounds: fused.types.Bounds, size: int = 256):
    return raster.read("{path}", bounds, size)
"""
# What TiTiler's manual recommends for performance.
_TITILER: Final = {
    "CPL_VSIL_CURL_CACHE_SIZE": "200000000",
    "GDAL_BAND_BLOCK_CACHE": "HASHSET",
    "GDAL_CACHEMAX": "200",
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MULTIPLEX": "YES",
    "GDAL_HTTP_VERSION": "2",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
    "VSI_CACHE": "TRUE",
    "VSI_CACHE_SIZE": "5000000",
}

# The path of a tile on a server.
Path_ = Callable[[Tile], str]


@contextmanager
def ours(scene: Scene) -> Iterator[tuple[str, Path_]]:
    """Our server's address, and where its tiles are."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "city").mkdir()
        (folder / "city/photo.py").write_text(_UDF.format(path=scene.path))
        access = Access(folder / ".tileserver")
        token = access.share("city").token
        access.close()
        options = ("--port", "0", "--json", "--workers", str(WORKERS), "--data-dirs", str(scene.path.parent))
        with subprocess.Popen(
            [sys.executable, "-m", "tileserver", "serve", name, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            try:
                assert process.stdout is not None
                url = json.loads(process.stdout.readline())["url"]
                yield url, lambda tile: f"/{token}/photo/run/tiles/{tile.z}/{tile.x}/{tile.y}.png"
            finally:
                process.terminate()


@contextmanager
def titiler(scene: Scene) -> Iterator[tuple[str, Path_]]:
    """TiTiler's address, and where its tiles are."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "benchmarks.titiler_app:app", "--port", str(port)]
    with subprocess.Popen(
        [*command, "--workers", str(WORKERS), "--no-access-log", "--log-level", "error"],
        env={**os.environ, **_TITILER},
    ) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            _until_it_answers(url, process)
            source = quote(str(scene.path), safe="")
            place = "/cog/tiles/WebMercatorQuad"
            yield url, lambda tile: f"{place}/{tile.z}/{tile.x}/{tile.y}.png?url={source}"
        finally:
            process.terminate()


def _until_it_answers(url: str, process: subprocess.Popen[Any]) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        try:
            fetch(url, ["/openapi.json"])
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise RuntimeError("TiTiler did not start; it comes with: pip install --group benchmark")


def fetch(url: str, paths: Sequence[str]) -> tuple[list[float], list[bytes]]:
    """Milliseconds and bodies of requests one after the other over one connection.

    :raises RuntimeError: for an answer that isn't 200.
    """
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    times, bodies = [], []
    try:
        for path in paths:
            started = time.perf_counter()
            connection.request("GET", path)
            response = connection.getresponse()
            bodies.append(response.read())
            times.append(1000 * (time.perf_counter() - started))
            if response.status != 200:
                raise RuntimeError(f"{path}: {response.status}, {bodies[-1][:200]!r}")
    finally:
        connection.close()
    return times, bodies


def drawn(scene: Scene, seed: int = 0) -> list[Tile]:
    """Tiles inside of the raster in random order, as many of each zoom as go round."""
    chance = random.Random(seed)
    every = {zoom: scene.inside(zoom) for zoom in ZOOMS}
    shuffled = {zoom: chance.sample(tiles, len(tiles)) for zoom, tiles in every.items()}
    most = max(len(tiles) for tiles in shuffled.values())
    # The few tiles of low zooms are spread over the whole, the many of high ones come when they are gone.
    ranked = [
        ((rank + chance.random()) * min(4.0, most / max(1, len(tiles))), tile)
        for tiles in shuffled.values()
        for rank, tile in enumerate(tiles)
    ]
    return [tile for _, tile in sorted(ranked)]


def check(servers: Sequence[tuple[str, Path_]], tiles: Sequence[Tile]) -> float:
    """The share of pixels that differ between the servers' pictures.

    :raises RuntimeError: when it is more than approximation explains.
    """
    shares = []
    for tile in tiles:
        pictures = []
        for url, path in servers:
            _, (body,) = fetch(url, [path(tile)])
            pictures.append(np.asarray(Image.open(io.BytesIO(body)).convert("RGBA")))
        shares.append(float((pictures[0] != pictures[1]).any(axis=-1).mean()))
    if max(shares) > _OFF:
        raise RuntimeError(f"the servers' pictures differ in {max(shares):.1%} of their pixels")
    return max(shares)


def turn(server: tuple[str, Path_], tiles: Sequence[Tile]) -> tuple[float, list[float]]:
    """Seconds for all tiles over all connections, and milliseconds of each."""
    url, path = server
    shares = [[path(tile) for tile in tiles[n::CONNECTIONS]] for n in range(CONNECTIONS)]
    started = time.perf_counter()
    with ThreadPoolExecutor(CONNECTIONS) as threads:
        times = [time for found, _ in threads.map(lambda paths: fetch(url, paths), shares) for time in found]
    return time.perf_counter() - started, times


def compare(scene: Scene, seconds: float) -> Iterator[str]:
    """Print the table; yield the aims that are missed."""
    tiles = drawn(scene)
    with ours(scene) as mine, titiler(scene) as its:
        samples, rest = tiles[:20], tiles[20:]
        differing = check((mine, its), samples)
        # Workers that have run: the first second of a server's life isn't what is compared.
        for server in (mine, its):
            turn(server, rest[:_TURN])
        rest = rest[_TURN:]
        spent = {"tileserver": 0.0, "TiTiler": 0.0}
        times: dict[str, list[float]] = {name: [] for name in spent}
        ratios = []
        while rest and min(spent.values()) < seconds:
            some, rest = rest[:_TURN], rest[_TURN:]
            took = {}
            for name, server in (("tileserver", mine), ("TiTiler", its)):
                took[name], found = turn(server, some)
                spent[name] += took[name]
                times[name] += found
            ratios.append(took["TiTiler"] / took["tileserver"])
    yield from _report(spent, {name: sorted(found) for name, found in times.items()}, ratios, differing)


def _report(
    spent: dict[str, float], times: dict[str, list[float]], ratios: list[float], differing: float
) -> Iterator[str]:
    print("| server     | tiles | tiles/s | p50 ms | p99 ms |\n| --- | --- | --- | --- | --- |")
    for name, found in times.items():
        p50, p99 = percentile(found, 0.5), percentile(found, 0.99)
        print(f"| {name:<10} | {len(found)} | {len(found) / spent[name]:7.1f} | {p50:6.1f} | {p99:6.1f} |")
    rate = spent["TiTiler"] / spent["tileserver"]
    share = percentile(times["tileserver"], 0.99) / percentile(times["TiTiler"], 0.99)
    spread = f"{min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} turns"
    print(
        f"{rate:.2f} times the tiles a second ({spread}), {share:.2f} of the p99; "
        f"pictures differ in {differing:.2%} of their pixels at most"
    )
    if rate < RATE_AIM:
        yield f"{rate:.2f} times TiTiler's tiles a second, not {RATE_AIM:g}"
    if share > P99_AIM:
        yield f"{share:.2f} of TiTiler's p99, not {P99_AIM:g}"
