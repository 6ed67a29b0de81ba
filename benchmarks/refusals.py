"""How long a server takes to refuse what is malformed: ``python -m benchmarks.refusals``.

Starts a server of a throw-away workspace on loopback, sends each kind of malformed request a number of
times over a few connections, and prints percentiles of the time from the first byte sent to the last
byte received. Exit status 1 when the 99th percentile of all is not below the bound.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from tileserver.access import Access

BOUND: Final = 50.0  # milliseconds, of the 99th percentile

# A UDF that has run leaves a file: none may.
_RUNS: Final = "import fused, pathlib, tempfile\n(pathlib.Path(tempfile.gettempdir()) / 'ran').touch()\n"
FILES: Final = {
    "city/hello.py": f"{_RUNS}\n@fused.udf\ndef udf(n: int = 1):\n    return n\n",
    "city/layer.py": f"{_RUNS}\n@fused.udf\ndef udf(bounds: fused.types.Bounds = None):\n    return None\n",
    "city/single.py": f"{_RUNS}\n@fused.udf\ndef udf():\n    return 1\n",
    "city/canvas.toml": "[udf.single]\nmode = 'single'\n",
    "team/hello.py": f"{_RUNS}\n@fused.udf\ndef udf():\n    return 1\n",
}


@dataclass(frozen=True, slots=True)
class Place:
    """A running server and what opens its canvases; ``secret`` is an access token."""

    url: str
    workspace: Path
    public: str
    team: str
    secret: str

    @property
    def ran(self) -> bool:
        """Whether any UDF has run."""
        return any(self.workspace.rglob("ran"))


@dataclass(frozen=True, slots=True)
class Kind:
    """One malformed request and the status that it deserves."""

    name: str
    status: int
    path: str
    method: str = "GET"
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def kinds(place: Place) -> list[Kind]:
    """Every kind of refusal that needs no run."""
    city, tile = f"/{place.public}", f"/{place.public}/layer/run/tiles/0/0/0"
    bearer = {"authorization": f"Bearer {place.secret}"}
    no_code = json.dumps({"step_config": json.dumps({"type": "udf", "udf": {"name": "x"}})}).encode()
    return [
        Kind("unknown token", 404, "/fc_nobodyhasthis/hello"),
        Kind("unknown UDF", 404, f"{city}/nobody"),
        Kind("no such address", 404, f"{city}/hello/nothing/here"),
        Kind("tile outside the matrix", 404, f"{city}/layer/run/tiles/1/2/0.png"),
        Kind("tile that is no number", 404, f"{city}/layer/run/tiles/1/x/0"),
        Kind("tile of a single UDF", 422, f"{city}/single/run/tiles/0/0/0"),
        Kind("unknown extension", 422, f"{city}/hello.docx"),
        Kind("unknown format", 422, f"{city}/hello?format=docx"),
        Kind("malformed option", 422, f"{tile}?rescale=1"),
        Kind("unknown colormap", 422, f"{tile}?colormap=nosuch"),
        Kind("malformed age", 422, f"{city}/hello?cache_max_age=soon"),
        Kind("too large a size", 422, f"{tile}@4x.png?size=4096"),
        Kind("too many parameters", 422, f"{city}/hello?{'&'.join(['n=1'] * 3000)}"),
        Kind("too long an address", 422, f"{city}/hello?n={'1' * 70_000}"),
        Kind("query that is no UTF-8", 422, f"{city}/hello?n=%ff"),
        Kind("side-car file", 404, f"{city}/layer.aux.xml"),
        Kind("method not allowed", 405, f"{city}/hello", "POST", b"{}"),
        Kind("body that is no JSON", 422, "/run/udf", "POST", b"{" * 10_000, bearer),
        Kind("body without code", 422, "/run/udf", "POST", no_code, bearer),
        Kind("code without credential", 401, "/run/udf", "POST", no_code),
        Kind("canvas without credential", 401, f"/{place.team}/hello"),
        Kind("foreign host", 400, f"{city}/hello", headers={"host": "maps.example.org"}),
    ]


@contextmanager
def serving(workspace: Path) -> Iterator[Place]:
    """A server of its own for a workspace that is made here."""
    for name, text in FILES.items():
        path = workspace / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    access = Access(workspace / ".tileserver")
    public, team = access.share("city").token, access.share("team", team=True).token
    secret = access.create_token("benchmark")[1]
    access.close()
    command = [sys.executable, "-m", "tileserver", "serve", str(workspace), "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield Place(json.loads(process.stdout.readline())["url"], workspace, public, team, secret)
        finally:
            process.terminate()


def measure(place: Place, kind: Kind, requests: int, connections: int) -> list[float]:
    """Milliseconds of each request, in ascending order.

    :raises RuntimeError: for an answer of another status.
    """
    share = -(-requests // connections)
    with ThreadPoolExecutor(connections) as pool:
        lists = pool.map(lambda _: list(_times(place.url, kind, share)), range(connections))
        return sorted(time for found in lists for time in found)


def _times(url: str, kind: Kind, count: int) -> Iterator[float]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    try:
        connection.connect()
        for _ in range(count):
            started = time.perf_counter()
            connection.request(kind.method, kind.path, kind.body, dict(kind.headers))
            response = connection.getresponse()
            body = response.read()
            yield 1000 * (time.perf_counter() - started)
            if response.status != kind.status or "detail" not in json.loads(body):
                raise RuntimeError(f"{kind.name}: {response.status} {body[:200]!r}, not {kind.status}")
    finally:
        connection.close()


def percentile(ascending: Sequence[float], share: float) -> float:
    """The value below which this share of the values lies."""
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))]


def table(rows: Iterable[tuple[str, Sequence[float]]]) -> str:
    """Percentiles as a table of Markdown; times are in milliseconds and in ascending order."""
    lines = [f"| {'refusal':<26} | p50 ms | p99 ms | max ms |", f"| {'-' * 26} | ------ | ------ | ------ |"]
    for name, times in rows:
        figures = (percentile(times, 0.5), percentile(times, 0.99), times[-1])
        lines.append(" | ".join([f"| {name:<26}", *(f"{figure:6.2f}" for figure in figures)]) + " |")
    return "\n".join(lines)


def main() -> int:
    """Measure, print, compare with the bound."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--requests", type=int, default=400, help="of each kind")
    parser.add_argument("--connections", type=int, default=4)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as place:
        rows = [
            (kind.name, measure(place, kind, chosen.requests, chosen.connections)) for kind in kinds(place)
        ]
        ran = place.ran
    everything = sorted(time for _, times in rows for time in times)
    worst = percentile(everything, 0.99)
    print(table([*rows, ("**all**", everything)]))
    print(f"\np99 of all is {worst:.2f} ms, the bound {BOUND:g} ms")
    print("UDFs have run: that is an error" if ran else "no UDF has run")
    return int(ran or worst >= BOUND)


if __name__ == "__main__":
    sys.exit(main())
