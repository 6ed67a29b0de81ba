"""What a server counts of itself: every answer and run, in a bounded number of series, without secrets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import timeit
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Server, serving
from tileserver import metrics, settings
from tileserver.app import create_app
from tileserver.counts import Counts
from tileserver.errors import BadRequest, Overloaded, TileServerError, UdfError, UdfKilled, UdfTimeout
from tileserver.executor import Answers
from tileserver.interest import Interest
from tileserver.metrics import Measured, Metrics
from tileserver.protocol import Bundle, Encoded, Job

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

FILES = {
    "city/hello.py": "import fused\n@fused.udf\ndef udf(name: str = 'world'):\n    return {'hello': name}\n",
    "city/red.py": "import fused\nimport numpy as np\n@fused.udf\ndef udf(bounds: fused.types.Bounds):\n"
    "    return np.full((3, 256, 256), 200, 'uint8')\n",
    "city/boom.py": "import fused\n@fused.udf\ndef udf(n: int = 1):\n    raise ValueError('boom')\n",
    "city/ends.py": "import fused, os\n@fused.udf\ndef udf():\n    os._exit(3)\n",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("metrics"), FILES) as running:
        yield running


def parsed(text: str) -> Samples:
    """The samples, as Prometheus's own library reads them; each once, and each of a family with its type."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.type in {"counter", "gauge", "histogram"} and family.documentation
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found
            found[key] = sample.value
    return found


def scrape(server: Server) -> Samples:
    response = server.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert response.headers["cache-control"] == "no-store"
    return parsed(response.text)


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((f"tileserver_{name}", frozenset(labels.items())), 0)


# -- what is counted


@pytest.mark.parametrize(
    ("path", "labels"),
    [
        ("/{city}/hello?name=a", {"route": "run", "status": "2xx", "cache": "miss"}),
        ("/{city}/hello?name=a", {"route": "run", "status": "2xx", "cache": "hit"}),
        ("/{city}/red/run/tiles/1/0/0", {"route": "tile", "status": "2xx", "cache": "miss"}),
        ("/{city}/red/run/tiles/1/9/0", {"route": "tile", "status": "4xx", "cache": "none"}),
        ("/{city}/boom", {"route": "run", "status": "4xx", "cache": "none"}),
        ("/{city}/red/run/tiles.json", {"route": "tilejson", "status": "2xx", "cache": "none"}),
        ("/{city}.wmts.xml", {"route": "wmts", "status": "2xx", "cache": "none"}),
        ("/{city}.api.json", {"route": "openapi", "status": "2xx", "cache": "none"}),
        ("/{city}", {"route": "canvas", "status": "2xx", "cache": "none"}),
        ("/{city}/red/map", {"route": "map", "status": "2xx", "cache": "none"}),
        ("/", {"route": "home", "status": "2xx", "cache": "none"}),
        ("/healthz", {"route": "healthz", "status": "2xx", "cache": "none"}),
        ("/readyz", {"route": "readyz", "status": "2xx", "cache": "none"}),
        ("/metrics", {"route": "metrics", "status": "2xx", "cache": "none"}),
        ("/static/nothing", {"route": "static", "status": "4xx", "cache": "none"}),
        ("/server/v1/health", {"route": "platform", "status": "2xx", "cache": "none"}),
        ("/server/v1/udf/self", {"route": "platform", "status": "4xx", "cache": "none"}),
        ("/nobody/knows", {"route": "other", "status": "4xx", "cache": "none"}),
    ],
)
def test_every_answer_is_counted_once(server: Server, path: str, labels: dict[str, str]) -> None:
    """docs/http.md: route, class of status, what the cache said, time and bytes."""
    before = scrape(server)
    response = server.get(path)
    after = scrape(server)
    own = int(labels["route"] == "metrics")  # the scrapes themselves
    place = {name: labels[name] for name in ("route", "cache")}

    assert value(after, "requests_total", **labels) - value(before, "requests_total", **labels) == 1 + own
    count = value(after, "request_seconds_count", **place) - value(before, "request_seconds_count", **place)
    assert count == 1 + own
    assert value(after, "request_seconds_sum", **place) > value(before, "request_seconds_sum", **place)
    sent = [value(found, "sent_bytes_total", route=labels["route"]) for found in (before, after)]
    assert sent[1] - sent[0] >= int(response.headers["content-length"])
    assert own or sent[1] - sent[0] == int(response.headers["content-length"])


def test_what_is_not_sent_is_not_counted(server: Server) -> None:
    """An answer to HEAD has a length and no body; a 304 has neither."""
    etag = server.get("/{city}/hello?name=a").headers["etag"]
    before = scrape(server)
    server.get("/{city}/hello?name=a", method="HEAD")
    assert server.get("/{city}/hello?name=a", headers={"if-none-match": etag}).status_code == 304
    after = scrape(server)

    assert value(after, "sent_bytes_total", route="run") == value(before, "sent_bytes_total", route="run")
    labels = {"route": "run", "status": "3xx", "cache": "hit"}
    assert value(after, "requests_total", **labels) == value(before, "requests_total", **labels) + 1


def test_runs_are_counted_by_how_they_end(server: Server) -> None:
    """docs/http.md: those that gave a result by time, too."""
    before = scrape(server)
    for path in ("hello?name=b", "hello?name=b", "hello?name=c", "boom", "ends"):
        server.get(f"/{{city}}/{path}")
    after = scrape(server)
    new = {
        outcome: value(after, "runs_total", outcome=outcome) - value(before, "runs_total", outcome=outcome)
        for outcome in metrics.RUNS
    }

    assert new == {**dict.fromkeys(metrics.RUNS, 0), "ok": 2, "failed": 1, "killed": 1}
    for name in ("run_seconds_count", "queue_seconds_count"):
        assert value(after, name) - value(before, name) == 2
    assert value(after, "workers", state="busy") == 0
    assert value(after, "workers", state="idle") >= 1


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (UdfTimeout("TimeoutError"), "timeout"),
        (UdfKilled("ended"), "killed"),
        (UdfError("ValueError: boom"), "failed"),
        (Overloaded("too many"), "overloaded"),
        (BadRequest("no"), "refused"),
    ],
)
async def test_every_end_has_its_name(error: TileServerError, outcome: str) -> None:
    """A run that waited in vain counts among those that waited."""
    counted = Metrics()
    with pytest.raises(type(error)):
        await Measured(Ending(error), counted).run(None, None)  # type: ignore[arg-type]
    samples = parsed(counted.text({}))

    assert value(samples, "runs_total", outcome=outcome) == 1
    assert value(samples, "queue_seconds_count") == (outcome == "overloaded")
    assert value(samples, "run_seconds_count") == 0


def test_a_histogram_adds_up() -> None:
    """Prometheus's text format: buckets hold what is at most their limit, and the last of them all."""
    counted = Metrics()
    for seconds in (0.0, 0.0005, 0.0006, 3.0, 1000.0):
        counted.observe_request("tile", 200, "hit", seconds, 10)
    samples = parsed(counted.text({}))
    buckets = [
        value(samples, "request_seconds_bucket", route="tile", cache="hit", le=limit)
        for limit in ("0.0005", "0.001", "1.0", "5.0", "120.0", "+Inf")
    ]

    assert buckets == [2, 3, 3, 4, 4, 5]
    assert value(samples, "request_seconds_sum", route="tile", cache="hit") == pytest.approx(1003.0011)
    assert value(samples, "sent_bytes_total", route="tile") == 50


def test_whatever_is_counted_makes_no_new_series() -> None:
    """Names of routes, outcomes and reasons are of fixed lists; what is on none is "other"."""
    counted = Metrics()
    stats: dict[str, Any] = {"workers": 2, "busy": 1, "retired": 5, "killed": 3, "retired_room": 2}
    for number in range(500):
        counted.observe_request(f'route"{number}\n', number * 7, f"cache{number}", 0.1, 1)
        stats |= {f"retired_wrote {number}": 1, f"killed_{number}": 1}
    samples = parsed(counted.text(stats))

    assert {dict(labels).get("route", "other") for _, labels in samples} == {"other"}
    assert len(samples) < 120
    assert value(samples, "workers_retired_total", reason="room") == 2
    assert value(samples, "workers_retired_total", reason="other") == 3
    assert value(samples, "workers_killed_total", reason="other") == 3
    assert sum(v for (name, _), v in samples.items() if name == "tileserver_requests_total") == 500


def test_counting_costs_next_to_nothing(tmp_path: Path) -> None:
    """It is part of every hit: 0.4 microseconds where it was measured, and never more than 8."""
    counted = Metrics()
    counted.open(tmp_path / "metrics")
    calls = timeit.repeat(
        lambda: counted.observe_request("tile", 200, "hit", 0.0004, 9), number=5000, repeat=9
    )
    counted.close()

    assert min(calls) / 5000 < 8e-6


# -- who may see it


def ask(server: Server, headers: dict[str, str]) -> httpx.Response:
    return server.get("/metrics", headers=headers)


FORWARDED = ["Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Real-IP", "Via"]


@pytest.mark.parametrize("name", FORWARDED)
def test_what_a_proxy_passes_on_needs_an_admin(server: Server, name: str) -> None:
    """A proxy on this machine asks for anybody."""
    with closing(server.access) as access:
        admin, run = (access.create_token("t", scope=scope)[1] for scope in ("admin", "run"))
    proxied = {name: "203.0.113.9"}

    assert ask(server, proxied).status_code == 401
    assert ask(server, {**proxied, "authorization": f"Bearer {run}"}).status_code == 403
    assert ask(server, {**proxied, "authorization": f"Bearer {admin}"}).status_code == 200


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("127.0.0.1", 200),
        ("127.8.9.1", 200),
        ("::1", 200),
        ("::ffff:127.0.0.1", 200),
        ("203.0.113.9", 401),
        ("10.0.0.1", 401),
        ("::ffff:10.0.0.1", 401),
        ("", 401),
        ("testclient", 401),
    ],
)
async def test_only_this_machine_needs_no_token(tmp_path: Path, address: str, status: int) -> None:
    """docs/http.md: from elsewhere, an access token of scope admin."""
    app = create_app(settings.load(tmp_path, flags={}, environ={}), executor=Ending(Overloaded("no")))
    transport = httpx.ASGITransport(app, client=(address, 9))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        response = await client.get("/metrics")

    assert response.status_code == status
    assert ("tileserver_requests_total" in response.text) == (status == 200)


@pytest.mark.parametrize(
    ("host", "status"),
    [("127.0.0.1", 200), ("localhost:8000", 200), ("[::1]:80", 200), ("tiles.example.com", 401)],
)
def test_a_proxy_that_adds_no_header_asks_for_anybody(
    serve: Callable[..., Server], host: str, status: int
) -> None:
    """It passes on the public name that it was asked by."""
    server = serve({}, "--allowed-hosts", "127.0.0.1,localhost,::1,tiles.example.com")

    assert ask(server, {"host": host}).status_code == status


def test_a_page_of_another_origin_does_not_see_it(server: Server) -> None:
    """A browser on this machine shows pages of others, and is loopback, too."""
    response = ask(server, {"origin": "https://a.example"})

    assert "access-control-allow-origin" not in response.headers


def test_nothing_in_it_names_anybody(server: Server) -> None:
    """docs/http.md: no token, canvas, UDF or parameter."""
    server.get("/{city}/hello?name=somebody")
    text = server.get("/metrics").text

    for word in (server.tokens["city"], "hello", "city", "somebody", str(server.workspace)):
        assert word not in text


# -- of several processes

COUNT = """
import os, signal, sys
from pathlib import Path
from tileserver.metrics import Metrics

counted = Metrics()
counted.open(Path(sys.argv[1]))
for _ in range(int(sys.argv[2])):
    counted.observe_request("tile", 200, "hit", 0.001, 10)
print("counted", flush=True)
sys.stdin.read()
"""


def counting(folder: Path, count: int) -> subprocess.Popen[str]:
    """A process that counts so many requests, and waits."""
    process = subprocess.Popen(
        [sys.executable, "-c", COUNT, str(folder), str(count)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "counted\n"
    return process


def end(process: subprocess.Popen[str], number: int) -> None:
    process.send_signal(number)
    process.communicate(timeout=20)


def hits(counted: Metrics) -> float:
    samples = parsed(counted.text({}))
    return value(samples, "requests_total", route="tile", status="2xx", cache="hit")


def processes(counted: Metrics) -> int:
    return sum(name == "tileserver_web_process_resident_bytes" for name, _ in parsed(counted.text({})))


def test_processes_of_a_server_are_one(tmp_path: Path) -> None:
    """Whichever is asked tells of all; what one that was killed has counted stays, its file is taken up."""
    folder = tmp_path / "metrics"
    counted = Metrics()
    counted.open(folder)
    others = [counting(folder, 100), counting(folder, 20)]

    assert (hits(counted), processes(counted)) == (120, 3)
    for process in others:
        end(process, signal.SIGKILL)
    assert (hits(counted), processes(counted)) == (120, 1)
    for _ in range(3):
        end(counting(folder, 1), signal.SIGKILL)
    assert (hits(counted), processes(counted)) == (123, 1)
    assert len(list(folder.iterdir())) == 3
    counted.close()


def test_a_server_that_is_started_again_counts_on(tmp_path: Path) -> None:
    """What has been counted before the file was there, or another layout, included and left out."""
    folder = tmp_path / "metrics"
    counts = Counts(4, layout=7)
    counts.values[2] += 1
    counts.open(folder)
    counts.values[2] += 1
    counts.close()
    counts.values[2] += 1  # of nobody's any more
    again, other = Counts(4, layout=7), Counts(4, layout=8)
    again.open(folder)
    other.open(folder)

    assert list(again.values) == [0, 0, 2, 0]
    assert [list(table.values) for table in other.tables()] == [[0, 0, 0, 0]]
    again.close()
    other.open(tmp_path / "elsewhere")
    other.close()
    other = Counts(4, layout=8)
    other.open(folder)
    assert list(other.values) == [0, 0, 0, 0]
    other.close()


@pytest.mark.parametrize("trouble", ["a file in its place", "damage", "gone"])
def test_trouble_with_the_folder_stops_nothing(tmp_path: Path, trouble: str) -> None:
    """Everything in the state folder but database and key may be deleted, or be damaged."""
    folder = tmp_path / "metrics"
    if trouble == "a file in its place":
        folder.write_text("")
    else:
        folder.mkdir()
        (folder / "0").write_bytes(os.urandom(50))
        (folder / "1").write_bytes(os.urandom(50_000))
    counted = Metrics()
    counted.open(folder)
    if trouble == "gone":
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
    counted.observe_request("tile", 200, "hit", 0.1, 1)

    assert hits(counted) == 1
    counted.close()


# -- health


class Ending:
    """An executor that raises the same thing for every run, and isn't ready."""

    ready = False
    level = "A"

    def __init__(self, error: TileServerError) -> None:
        self.error = error

    async def run(
        self, job: Job, bundle: Bundle, answers: Answers | None = None, interest: Interest | None = None
    ) -> Encoded:
        raise self.error

    def stats(self) -> dict[str, Any]:
        return {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


@pytest.mark.anyio
async def test_a_server_that_can_run_nothing_is_alive_and_not_ready(tmp_path: Path) -> None:
    """docs/http.md: 503 for whoever decides where requests go."""
    app = create_app(settings.load(tmp_path, flags={}, environ={}), executor=Ending(Overloaded("no")))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client,
    ):
        healthy, ready = await client.get("/healthz"), await client.get("/readyz")

    assert healthy.status_code == 200
    assert (ready.status_code, ready.headers["cache-control"]) == (503, "no-store")


def stages(response: httpx.Response) -> set[str]:
    found = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
    assert all(float(milliseconds) >= 0 for milliseconds in found.values())
    return set(found)


def test_a_tile_tells_its_stages(server: Server) -> None:
    """docs/http.md: of a run all six; of a stored tile those that there were."""
    miss = server.get("/{city}/red/run/tiles/5/3/3")
    hit = server.get("/{city}/red/run/tiles/5/3/3")

    assert (miss.headers["x-cache"], hit.headers["x-cache"]) == ("miss", "hit")
    assert stages(miss) == {"access", "cache", "queue", "run", "encode", "total"}
    assert stages(hit) == {"access", "cache", "total"}
