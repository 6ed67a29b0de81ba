"""Stored tiles beside nginx's static files: ``python -m benchmarks.serve``.

The same 1,024 tiles of 20 KB from the memory tier, from the disk tier and as 304, asked for by wrk over 32
connections, in turn with nginx serving them as files; everything that is on by default is on. Needs wrk and
nginx (``apt-get install wrk nginx-light``), which are started here and ended here. ``--scaling`` measures
whether what there is besides makes a tile dearer.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from tileserver.access import Access

TILES: Final = 1024
CONNECTIONS: Final = 32
ZOOM: Final = 6  # has 4,096 tiles
MEMORY_AIM: Final = 150  # MiB of the web process, with an empty memory tier
P99_AIM: Final = 5.0  # ms

# Noise, which no encoder makes smaller: 20 KB of PNG.
UDF: Final = """import fused
@fused.udf
def udf(x: int, y: int, z: int):
    import numpy as np
    seed = (z * 4096 + x) * 4096 + y
    return np.random.default_rng(seed).integers(0, 256, (1, 141, 141)).astype("uint8")
"""

# Every connection asks for the tiles in turn, from another one on.
_WRK: Final = """local requests = {}
local next = 0
function init(args)
  for line in io.lines(args[1]) do
    local path, etag = line:match("^(%S+) ?(.*)$")
    local headers = {}
    if etag ~= "" then headers["If-None-Match"] = etag end
    requests[#requests + 1] = wrk.format("GET", path, headers)
  end
  math.randomseed(os.time())
  next = math.random(#requests)
end
function request()
  next = next % #requests + 1
  return requests[next]
end
function done(summary, latency, all)
  local e = summary.errors
  io.write(string.format("RESULT %d %d %f %f %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), e.connect + e.read + e.write + e.status + e.timeout))
end
"""

_NGINX: Final = """{user}worker_processes auto;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000;
  types {{ image/png png; }}
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  server {{ listen 127.0.0.1:{port} reuseport; root {folder}/files; }}
}}
"""


class Round(NamedTuple):
    """Requests a second and milliseconds."""

    rate: float
    p50: float
    p99: float


@dataclass(frozen=True)
class Case:
    """Something that is asked for: where, which paths, and at least what share of nginx's rate."""

    name: str
    url: str
    paths: Path
    aim: float | None = None


# -- servers


@contextmanager
def tileserver(workspace: Path, *flags: str) -> Iterator[tuple[str, int]]:
    """A server of ours, its log in a file: its address and the process that answers."""
    command = [sys.executable, "-m", "tileserver", "serve", str(workspace), "--port", "0", "--json"]
    with (
        (workspace / "log").open("a") as log,
        subprocess.Popen(
            [*command, "--log-format", "json", *flags], stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["url"], process.pid
        finally:
            process.terminate()


@contextmanager
def nginx(folder: Path) -> Iterator[str]:
    """Nginx with as many workers as there are cores, serving ``folder/files``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = folder / "nginx.conf"
    user = "user root;\n" if os.geteuid() == 0 else ""  # the folder is private
    config.write_text(_NGINX.format(folder=folder, port=port, user=user))
    with subprocess.Popen(
        ["nginx", "-c", str(config), "-p", str(folder)], stderr=subprocess.DEVNULL
    ) as process:
        try:
            _wait_for(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise RuntimeError("nginx did not start")


# -- what is asked for


def paths_of(token: str) -> list[str]:
    return [f"/{token}/noise/run/tiles/{ZOOM}/{n % 64}/{n // 64}.png" for n in range(TILES)]


def get(url: str, paths: list[str]) -> Iterator[tuple[bytes, dict[str, str]]]:
    """Bodies and headers, one request after the other.

    :raises RuntimeError: for an answer that is not 200.
    """
    host, port = url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    try:
        for path in paths:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                raise RuntimeError(f"{path}: {response.status}")
            yield body, {name.lower(): value for name, value in response.getheaders()}
    finally:
        connection.close()


def prepared(folder: Path, token: str, filled: str, others: list[str], static: str) -> list[str]:
    """Fill the cache, write what it holds as files for nginx, see that all say the same; the validators.

    :raises RuntimeError: when they don't.
    """
    paths, etags = paths_of(token), []
    for path, (body, headers) in zip(paths, get(filled, paths), strict=True):
        file = folder / "files" / path.removeprefix(f"/{token}/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(body)
        etags.append(headers["etag"])
    time.sleep(1)  # what writes to the disk tier is behind
    plain = [path.removeprefix(f"/{token}") for path in paths]
    for url, asked in [(static, plain), (filled, paths), *((other, paths) for other in others)]:
        for name, (body, headers) in zip(plain, get(url, asked), strict=True):
            if body != (folder / "files" / name[1:]).read_bytes():
                raise RuntimeError(f"{url}{name} has other bytes than the run had")
            if url != static and headers["x-cache"] != "hit":
                raise RuntimeError(f"{url}{name} was not stored")
    return etags


def listed(file: Path, paths: list[str], etags: list[str] | None = None) -> Path:
    rows = paths if etags is None else [f"{p} {e}" for p, e in zip(paths, etags, strict=True)]
    file.write_text("\n".join(rows) + "\n")
    return file


# -- measuring


def wrk(case: Case, script: Path, seconds: int, threads: int) -> Round:
    """One round.

    :raises RuntimeError: when an answer was an error.
    """
    command = ["wrk", f"-t{threads}", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(script), case.url]
    done = subprocess.run([*command, str(case.paths)], capture_output=True, text=True, check=True)
    found = next(line.split() for line in done.stdout.splitlines() if line.startswith("RESULT"))
    requests, microseconds, p50, p99, errors = (float(word) for word in found[1:])
    if errors:
        raise RuntimeError(f"{case.name}: {errors:.0f} errors")
    return Round(1e6 * requests / microseconds, p50 / 1000, p99 / 1000)


def median(rounds: list[Round]) -> Round:
    return Round(*(statistics.median(figures) for figures in zip(*rounds, strict=True)))


def resident(pid: int) -> float:
    """MiB of memory that a process has."""
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def measure(chosen: argparse.Namespace, folder: Path) -> bool:
    """Print the table; whether every aim was met."""
    workspace = folder / "workspace"
    (workspace / "bench").mkdir(parents=True)
    (workspace / "bench" / "noise.py").write_text(UDF)
    access = Access(workspace / ".tileserver")
    token = access.share("bench").token
    access.close()
    processes = [] if chosen.http_workers is None else ["--http-workers", str(chosen.http_workers)]
    with ExitStack() as servers:
        start = servers.enter_context
        memory, _ = start(tileserver(workspace, *processes))
        disk, pid = start(tileserver(workspace, "--memory-cache", "0", "--workers", "1", *processes))
        static = start(nginx(folder))
        empty = resident(pid)
        etags = prepared(folder, token, memory, [disk], static)
        paths = paths_of(token)
        plain = [path.removeprefix(f"/{token}") for path in paths]
        ours = listed(folder / "ours", paths)
        known = listed(folder / "known", paths, etags)
        theirs = [headers["etag"] for _, headers in get(static, plain)]
        cases = [
            Case("nginx, file", static, listed(folder / "plain", plain)),
            Case("memory hit", memory, ours, 0.45),
            Case("disk hit", disk, ours, 0.30),
            Case("304 by the head on disk", disk, known),
            Case("nginx, 304", static, listed(folder / "plain-known", plain, theirs)),
        ]
        script = folder / "tiles.lua"
        script.write_text(_WRK)
        rounds: dict[str, list[Round]] = {case.name: [] for case in cases}
        for _ in range(chosen.rounds):
            for case in cases:
                rounds[case.name].append(wrk(case, script, chosen.seconds, chosen.threads))
        return _told(cases, rounds, empty, resident(pid))


def _told(cases: list[Case], rounds: dict[str, list[Round]], empty: float, used: float) -> bool:
    peers = [found.rate for found in rounds["nginx, file"]]
    missed = []
    print("| answer | requests/s | p50 ms | p99 ms | of nginx (spread) | aim |")
    print("| --- | --- | --- | --- | --- | --- |")
    for case in cases:
        found = median(rounds[case.name])
        ratios = [one.rate / peer for one, peer in zip(rounds[case.name], peers, strict=True)]
        ratio = statistics.median(ratios)
        aim = "" if case.aim is None else f"{case.aim:.2f}"
        print(
            f"| {case.name} | {found.rate:,.0f} | {found.p50:.2f} | {found.p99:.2f} |"
            f" {ratio:.2f} ({min(ratios):.2f}-{max(ratios):.2f}) | {aim} |"
        )
        if case.aim is not None and (ratio < case.aim or found.p99 > P99_AIM):
            missed.append(case.name)
    print(f"web process with an empty memory tier: {empty:.0f} MiB at first, {used:.0f} MiB afterwards")
    if used > MEMORY_AIM:
        missed.append("memory")
    if missed:
        print(f"missed: {', '.join(missed)}")
    return not missed


def main() -> int:
    """Measure and print; 1 when an aim is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each round")
    parser.add_argument("--threads", type=int, default=1, help="of wrk")
    parser.add_argument("--http-workers", type=int, help="web processes of ours")
    parser.add_argument("--folder", type=Path, help="where files and cache lie; default: a temporary folder")
    parser.add_argument("--scaling", action="store_true", help="what a tile costs in a large workspace")
    parser.add_argument("--requests", type=int, default=2000, help="of each round of --scaling")
    parser.add_argument("--entries", type=int, default=1_000_000, help="stored tiles of --scaling")
    chosen = parser.parse_args()
    if chosen.scaling:
        from benchmarks.scaling import rows

        for row in rows(chosen, tileserver):
            print(row, flush=True)
        return 0
    for program in ("wrk", "nginx"):
        if shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None:
            parser.error(f"{program} is not installed: apt-get install wrk nginx-light")
    os.environ["PATH"] += ":/usr/sbin"
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        return 0 if measure(chosen, Path(folder)) else 1


if __name__ == "__main__":
    sys.exit(main())
