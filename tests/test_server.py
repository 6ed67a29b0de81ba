"""The server as its users meet it: a real process, spoken to over HTTP."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.conftest import Server, serving

FILES = {
    "city/hello.py": "import fused\n@fused.udf\ndef udf(name: str = 'world', n: int = 1):\n"
    "    print('greeting', name)\n    return {'hello': name, 'n': n}\n",
    "city/red.py": "import fused\nimport numpy as np\n@fused.udf\ndef udf(bounds: fused.types.Bounds):\n"
    "    a = np.zeros((3, 256, 256), 'uint8'); a[0] = 255\n    return a\n",
    "city/boom.py": "import fused\n@fused.udf\ndef udf():\n    print('so far')\n    raise ValueError('boom')\n",
    "city/broken.py": "import fused\n@fused.udf\ndef udf(:\n",
    "city/nothing.py": "import fused\n@fused.udf\ndef udf(bounds: fused.types.Bounds = None):\n    return None\n",
    "city/count.py": "import fused, os, time, uuid\n@fused.udf\ndef udf(s: float = 0.3):\n"
    "    time.sleep(s)\n    return uuid.uuid4().hex\n",
    "city/odd.py": "import fused\n@fused.udf\ndef udf():\n    return object()\n",
    "city/slow.py": "import fused, time\n@fused.udf\ndef udf():\n    time.sleep(60)\n",
    "city/teapot.py": "import fused\nfrom starlette.responses import Response\n@fused.udf\ndef udf():\n"
    "    return Response('short', 418, {'x-pot': '1', 'content-disposition': 'inline', 'set-cookie': 'a=b'})\n",
    "city/caller.py": "import fused\n@fused.udf\ndef udf():\n"
    "    return fused.context.get_header('x-who') or 'nobody'\n",
    "city/path.py": "import fused\n@fused.udf\ndef udf():\n    open('missing.csv')\n",
    "city/canvas.toml": "[udf.nothing]\nempty = '404'\n[udf.hello]\nmode = 'single'\n",
    "other/secret.py": "import fused\n@fused.udf\ndef udf():\n    return 'other'\n",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests that change nothing."""
    with serving(tmp_path_factory.mktemp("server"), FILES, "--time-limit", "3s") as running:
        yield running


def picture(response: httpx.Response) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    assert response.status_code == 200, response.text
    return np.asarray(Image.open(io.BytesIO(response.content)).convert("RGBA"))


# -- what an address gives


@pytest.mark.parametrize("path", ["hello", "hello/run", "hello/run/file", "hello.json", "hello?format=json"])
@pytest.mark.parametrize("root", ["", "/server/v1/realtime-shared"])
def test_a_single_run_has_many_addresses(server: Server, root: str, path: str) -> None:
    """Contract, section 1 and 3: the same answer at each, with the exact media type."""
    response = server.get(f"{root}/{{city}}/{path}")

    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"hello": "world", "n": 1}


def test_parameters_are_typed_and_unknown_ones_ignored(server: Server) -> None:
    """Contract, section 4.3."""
    assert server.get("/{city}/hello?n=5&name=a+b&x=1").json() == {"hello": "a b", "n": 5}


def test_what_was_printed_is_in_the_metadata_of_hits_too(server: Server) -> None:
    """Contract, section 8: a stored answer replays its log, and says that it is stored."""
    first, second = (server.get("/{city}/hello?name=log") for _ in range(2))

    assert json.loads(first.headers["x-fused-metadata"])["stdout"] == "greeting log\n"
    assert first.headers["x-fused-metadata"] == second.headers["x-fused-metadata"]
    assert (first.headers["x-cache"], second.headers["x-cache"]) == ("miss", "hit")
    assert "x-fused-cached" not in first.headers
    assert "x-fused-cached" in second.headers


def test_a_browser_gets_a_page_and_a_program_data(server: Server) -> None:
    """Contract, section 7.3.5: by the Accept header, when no format is asked for."""
    page = server.get("/{city}/hello", headers={"accept": "text/html,*/*"})

    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert server.get("/{city}/hello").headers["content-type"] == "application/json"


@pytest.mark.parametrize("tail", ["", ".png", "?format=png", "?=png", "@1x.png"])
def test_a_tile_is_a_picture(server: Server, tail: str) -> None:
    """Contract, section 3, 4.1: format by default, by extension, by name and by the empty name."""
    response = server.get(f"/{{city}}/red/run/tiles/3/4/2{tail}")

    assert response.headers["content-type"] == "image/png"
    assert picture(response).shape == (256, 256, 4)
    assert (picture(response)[..., :3] == (255, 0, 0)).all()


def test_twice_the_scale_is_twice_the_pixels(server: Server) -> None:
    """docs/http.md, ``@2x``."""
    assert picture(server.get("/{city}/red/run/tiles/3/4/2@2x.png")).shape == (512, 512, 4)


def test_a_canvas_lists_its_udfs(server: Server) -> None:
    """docs/http.md: as JSON, or as a page for a browser."""
    listed = server.get("/{city}").json()

    assert {row["name"] for row in listed["udfs"]} >= {"hello", "red"}
    assert "hello" in server.get("/{city}", headers={"accept": "text/html"}).text


def test_a_token_of_one_udf_needs_no_name(server: Server) -> None:
    """Contract, section 2, ``fsh_``."""
    token = server.access.create_shared_token("city", "hello").token

    assert server.get(f"/{token}").json() == {"hello": "world", "n": 1}
    assert server.get(f"/{token}.json?n=2").json()["n"] == 2
    assert server.get(f"/{token}/hello").status_code == 404


def test_none_is_an_empty_body(server: Server) -> None:
    """Contract, section 11."""
    response = server.get("/{city}/nothing?format=npy,tiff,parquet,json")

    assert (response.status_code, response.content) == (200, b"")


def test_a_response_keeps_its_status_and_its_own_headers(server: Server) -> None:
    """docs/http.md: body, status, Content-Disposition and x- headers; never a cookie, never stored."""
    response = server.get("/{city}/teapot")

    assert (response.status_code, response.text) == (418, "short")
    assert (response.headers["x-pot"], response.headers["content-disposition"]) == ("1", "inline")
    assert "set-cookie" not in response.headers
    assert server.get("/{city}/teapot").headers["x-cache"] == "miss"


# -- errors


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/fc_unknown/hello", 404, "unknown token"),
        ("/nonsense", 404, "unknown token"),
        ("/{city}/nobody", 404, "no UDF called 'nobody'"),
        ("/{city}/nobody.csv", 404, "no UDF called 'nobody'"),
        ("/{city}/secret", 404, "no UDF called 'secret'"),
        ("/{city}/hello/other", 404, "no such address"),
        ("/{city}/hello.docx", 422, "unknown format 'docx'; known: parquet"),
        ("/{city}/hello?format=docx", 422, "unknown format"),
        ("/{city}/hello?cache_max_age=soon", 422, "is not a duration"),
        ("/{city}/hello.aux.xml", 404, "no .aux.xml"),
        ("/{city}/red/run/tiles/metadata.json", 404, "tile's address"),
        ("/{city}/red/run/tiles/1/2/0", 404, "from 0 to 1"),
        ("/{city}/red/run/tiles/-1/0/0", 404, "whole number from 0"),
        ("/{city}/red/run/tiles/31/0/0", 404, "0 to 30"),
        ("/{city}/red/run/tiles/1/0.5/0", 404, "whole number"),
        ("/{city}/red/run/tiles/1/0/0.docx", 422, "unknown format"),
        ("/{city}/red/run/tiles/1/0/0@9x.png", 404, "not of the form"),
        ("/{city}/red/run/tiles/1/0/0?size=5000", 422, "4096"),
        ("/{city}/red/run/tiles/1/0/0?rescale=1", 422, "rescale takes min,max"),
        ("/{city}/red/run/tiles/1/0/0?colormap=nosuch", 422, "nosuch"),
        ("/{city}/hello/run/tiles/1/0/0", 422, "mode = single"),
        ("/{city}/nothing/run/tiles/1/0/0", 404, "nothing in this tile"),
        ("/server/v1/nothing", 404, "no such address"),
        ("/static/nothing.js", 404, "Not Found"),
    ],
)
def test_a_bad_request_says_what_is_wrong(server: Server, path: str, status: int, says: str) -> None:
    """Contract, section 11, docs/http.md: a message, x-fused-error and no metadata; never stored."""
    response = server.get(path)

    assert response.status_code == status
    assert says in response.json()["detail"]
    assert "x-fused-error" in response.headers
    assert "x-fused-metadata" not in response.headers
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "message", "line", "kind"),
    [
        ("boom", "ValueError: boom", 5, None),
        ("broken", "SyntaxError", 3, None),
        ("hello?n=many", "n", 3, None),
        ("odd", "Result serialization failed:", None, "serialization_error"),
        ("hello.png", "Result serialization failed:", None, "serialization_error"),
        ("slow", "longer than its limit of 3 s", None, "timeout_error"),
    ],
)
def test_a_failing_udf_carries_metadata(
    server: Server, path: str, message: str, line: int | None, kind: str | None
) -> None:
    """Contract, section 11: 422, metadata and no x-fused-error; the line is the UDF's own."""
    response = server.get(f"/{{city}}/{path}")
    metadata = json.loads(response.headers["x-fused-metadata"])

    assert response.status_code == 422
    assert message in response.json()["detail"]
    assert message in metadata["errormsg"]
    assert metadata["has_exception"] is True
    assert line is None or metadata["lineno"] == line
    assert metadata["error_type"] == kind
    assert "x-fused-error" not in response.headers
    assert response.headers["cache-control"] == "no-store"


def test_only_who_may_read_the_code_gets_the_traceback(server: Server) -> None:
    """docs/http.md: others get message, class and line, and what was printed."""
    shown = server.get("/{city}/boom")
    token = server.access.create_shared_token("city", "boom").token
    hidden = server.get(f"/{token}")

    assert "raise ValueError" in shown.json()["traceback"]
    assert "raise ValueError" in json.loads(shown.headers["x-fused-metadata"])["stderr"]
    assert "raise ValueError" not in hidden.text + hidden.headers["x-fused-metadata"]
    assert json.loads(hidden.headers["x-fused-metadata"])["stdout"] == "so far\n"
    assert hidden.json()["lineno"] == 5


def test_paths_of_the_machine_are_not_told(server: Server) -> None:
    """docs/http.md: canvas-relative ones instead."""
    response = server.get("/{city}/path")

    assert "missing.csv" in response.text
    assert str(server.workspace) not in response.text + response.headers["x-fused-metadata"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_other_methods_are_not_allowed(server: Server, method: str) -> None:
    """docs/http.md: 405 with Allow."""
    response = server.get("/{city}/hello", method)

    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


# -- headers


@pytest.mark.parametrize(
    "path", ["/{city}/hello", "/{city}/boom", "/fc_unknown/x", "/healthz", "/{city}/red/map"]
)
def test_every_answer_carries_the_common_headers(server: Server, path: str) -> None:
    """docs/http.md: CORS and safety headers on errors too."""
    headers = server.get(path).headers

    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["access-control-allow-origin"] == "*"
    exposed = headers["access-control-expose-headers"]
    assert all(name in exposed for name in ("ETag", "Content-Range", "Server-Timing", "x-cache"))
    assert "total;dur=" in headers["server-timing"]
    assert headers["x-fused-request-id"]
    assert "server" not in headers


def test_stages_of_a_run_are_timed(server: Server) -> None:
    """docs/http.md, Server-Timing."""
    timing = server.get("/{city}/hello?cache_max_age=0").headers["server-timing"]

    assert [part.partition(";")[0].strip() for part in timing.split(",")] == [
        "access",
        "cache",
        "queue",
        "run",
        "encode",
        "total",
    ]


def test_stages_add_up(server: Server) -> None:
    """docs/http.md: the time of a run is not the cache's, too, nor that of whoever joins it late."""

    def ask() -> tuple[str, dict[str, float]]:
        answer = server.get("/{city}/count?s=0.8")
        parts = answer.headers["server-timing"].split(", ")
        return answer.headers["x-cache"], {
            name: float(took) for name, _, took in (p.partition(";dur=") for p in parts)
        }

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ask)
        time.sleep(0.3)
        second = pool.submit(ask)
        answers = dict(one.result() for one in (first, second))

    assert set(answers) == {"miss", "shared"}
    for stages in answers.values():
        total = stages.pop("total")
        assert sum(stages.values()) <= total + 0.1
        assert stages["cache"] < stages["run"]


def test_udf_output_can_not_script_our_pages(server: Server) -> None:
    """docs/http.md: every UDF answer is sandboxed, whatever its type; failures too."""
    for path in ("/{city}/hello.html", "/{city}/hello", "/{city}/boom"):
        policy = server.get(path).headers["content-security-policy"]
        assert policy == "sandbox allow-scripts allow-forms allow-popups allow-downloads"


def test_a_preflight_request_is_answered(server: Server) -> None:
    """Contract, section 3: browsers ask before they send Range or Authorization."""
    headers = {"origin": "https://example.org", "access-control-request-method": "GET"}
    response = server.get("/{city}/hello", "OPTIONS", headers=headers)

    assert response.status_code == 204
    assert "Range" in response.headers["access-control-allow-headers"]


def test_a_foreign_host_is_refused(server: Server) -> None:
    """docs/settings.md, ``allowed_hosts``: 400."""
    response = server.get("/{city}/hello", headers={"host": "evil.example"})

    assert response.status_code == 400
    assert "allowed_hosts" in response.json()["detail"]


def test_head_is_get_without_the_body(server: Server) -> None:
    """Contract, section 3: the same headers, the true length."""
    get, head = (server.get("/{city}/red/run/tiles/3/1/1.png", method) for method in ("GET", "HEAD"))

    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-length", "content-type", "etag", "cache-control"):
        assert head.headers[name] == get.headers[name]


def test_an_answer_that_is_no_success_is_always_sent(server: Server) -> None:
    """RFC 9110, 13.2.1: no condition turns a UDF's own refusal into "not modified"."""
    teapot = server.get("/{city}/teapot", headers={"if-none-match": "*"})

    assert teapot.status_code == server.get("/{city}/teapot").status_code == 418


def test_an_answer_that_is_known_is_not_sent_again(server: Server) -> None:
    """docs/http.md: If-None-Match gives 304 with the same validator."""
    first = server.get("/{city}/red/run/tiles/3/1/2.png")
    again = server.get("/{city}/red/run/tiles/3/1/2.png", headers={"if-none-match": first.headers["etag"]})
    other = server.get("/{city}/red/run/tiles/3/1/2.png", headers={"if-none-match": '"other"'})

    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == first.headers["etag"]
    assert other.status_code == 200


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=0-3", 206, slice(0, 4)),
        ("bytes=-5", 206, slice(-5, None)),
        ("bytes=10-", 206, slice(10, None)),
        ("bytes=10-99999999", 206, slice(10, None)),
        ("bytes=99999999-", 416, None),
        ("bytes=0-1,4-5", 200, slice(None)),
        ("lines=1-2", 200, slice(None)),
    ],
)
def test_a_range_is_cut_from_the_same_bytes(
    server: Server, asked: str, status: int, part: slice | None
) -> None:
    """docs/http.md; never content-encoded."""
    whole = server.get("/{city}/red/run/tiles/3/1/3.png").content
    response = server.get("/{city}/red/run/tiles/3/1/3.png", headers={"range": asked})

    assert response.status_code == status
    assert part is None or response.content == whole[part]
    assert "content-encoding" not in response.headers


@pytest.mark.parametrize(
    ("query", "expected"), [("", "public, max-age=300"), ("?cache_max_age=0", "no-store")]
)
def test_how_long_an_answer_may_be_kept(server: Server, query: str, expected: str) -> None:
    """docs/http.md, Cache-Control."""
    assert server.get(f"/{{city}}/hello{query}").headers["cache-control"] == expected


def test_a_url_with_the_revision_may_be_kept_for_good(server: Server) -> None:
    """docs/http.md: TileJSON hands out such URLs."""
    tiles = server.get("/{city}/red/run/tiles.json").json()["tiles"][0]
    response = httpx.get(tiles.format(z=0, x=0, y=0))

    assert "immutable" in response.headers["cache-control"]
    assert int(response.headers["cache-control"].split("max-age=")[1].split(",")[0]) > 80 * 86400


def test_a_tile_without_a_picture_may_be_kept_like_one(serve: Callable[..., Server]) -> None:
    """docs/http.md: 204 has the ages, a validator of its own and ``x-cache``; 404 is an error, which is not
    kept."""
    settings = "[udf.nothing]\nempty = 'STATUS'\n"
    server = serve(
        {"city/nothing.py": FILES["city/nothing.py"], "city/canvas.toml": settings.replace("STATUS", "204")}
    )
    tile = "/{city}/nothing/run/tiles/1/0/0"
    first, second = server.get(tile), server.get(tile)
    again = server.get(tile, headers={"if-none-match": first.headers["etag"]})
    picture = server.get("/{city}/nothing.png")

    assert [one.status_code for one in (first, second, again)] == [204, 204, 304]
    assert [one.headers["x-cache"] for one in (first, second, again)] == ["miss", "hit", "hit"]
    assert first.content == b"" and "content-length" not in first.headers
    for one in (first, second, again):
        assert one.headers["cache-control"] == picture.headers["cache-control"] == "public, max-age=300"
        assert one.headers["etag"] == first.headers["etag"]
    assert server.get(f"{tile}?cache_max_age=0").headers["cache-control"] == "no-store"
    assert server.get(tile, "HEAD").status_code == 204

    server.write({"city/canvas.toml": settings.replace("STATUS", "404")})
    answers = (server.get(tile, headers={"if-none-match": first.headers["etag"]}) for _ in range(200))
    missing = next(answer for answer in answers if answer.status_code != 304)
    assert missing.status_code == 404
    assert missing.headers["cache-control"] == "no-store"


def test_text_is_compressed_for_who_asks(server: Server) -> None:
    """docs/http.md: gzip, zstd where asked; each with a validator of its own; pictures never."""
    server.write({"city/long.py": "import fused\n@fused.udf\ndef udf():\n    return ['word'] * 1000\n"})
    plain, packed = (
        server.get("/{city}/long", headers={"accept-encoding": coding}) for coding in ("identity", "gzip")
    )
    tile = server.get("/{city}/red/run/tiles/3/1/1.png", headers={"accept-encoding": "gzip"})

    assert packed.headers["content-encoding"] == "gzip"
    assert packed.json() == plain.json()
    assert packed.headers["etag"] != plain.headers["etag"]
    assert "Accept-Encoding" in packed.headers["vary"]
    assert "content-encoding" not in tile.headers


# -- the cache


def test_the_same_tile_again_does_not_reach_a_worker(server: Server) -> None:
    """Its body is that of the first run, which would have made another one."""
    first, second = (server.get("/{city}/count?s=0") for _ in range(2))

    assert first.text == second.text
    assert second.headers["x-cache"] == "hit"
    assert "run;" not in second.headers["server-timing"]


def test_age_zero_always_runs(server: Server) -> None:
    """Contract, section 8: neither read nor stored."""
    first, second = (server.get("/{city}/count?s=0&cache_max_age=0") for _ in range(2))

    assert first.text != second.text


@pytest.mark.anyio
async def test_ten_identical_requests_are_one_run(server: Server) -> None:
    """docs/design.md."""
    url = f"{server.url}/{server.tokens['city']}/count?s=0.4"
    async with httpx.AsyncClient(timeout=30) as client:
        responses = await asyncio.gather(*[client.get(url) for _ in range(10)])

    assert len({response.text for response in responses}) == 1
    assert sorted(response.headers["x-cache"] for response in responses) == ["miss"] + ["shared"] * 9


def test_an_answer_that_depends_on_its_caller_is_not_stored(server: Server) -> None:
    """docs/http.md: private, and made for each."""
    response = server.get("/{city}/caller")

    assert response.headers["cache-control"] == "private, no-store"
    assert server.get("/{city}/caller").headers["x-cache"] == "miss"


def test_a_restart_keeps_what_was_stored(tmp_path: Path) -> None:
    """The disk tier outlives the process; so do the tokens."""
    bodies = []
    for _ in range(2):
        with serving(tmp_path, {"city/count.py": FILES["city/count.py"]}) as server:
            bodies.append(server.get("/{city}/count?s=0").text)

    assert bodies[0] == bodies[1]


# -- access


def test_a_revoked_token_gets_no_stored_tile(server: Server) -> None:
    """docs/design.md: from the next request on, also when another process revoked it."""
    access = server.access
    token = access.create_shared_token("city", "red").token
    tile = f"/{token}/run/tiles/2/1/1.png"
    assert server.get(tile).status_code == 200

    access.disable_shared_token(token)

    assert server.get(tile).status_code == 404


def test_a_passcode_is_asked_for(serve: Callable[..., Server]) -> None:
    """Contract, section 6: 401 without it or with another; answers are private."""
    server = serve({"city/hello.py": FILES["city/hello.py"]})
    server.access.share("city", passcode="open sesame")

    right = server.get("/{city}/hello", headers={"authorization": "Fused-Canvas-Passcode open sesame"})

    assert server.get("/{city}/hello").status_code == 401
    assert (
        server.get("/{city}/hello", headers={"authorization": "fused-canvas-passcode no"}).status_code == 401
    )
    assert right.status_code == 200
    assert right.headers["cache-control"].startswith("private")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "Fused-Service-Token"])
def test_a_team_canvas_wants_an_access_token(serve: Callable[..., Server], scheme: str) -> None:
    """Contract, section 6: 401 without, 403 with one for another canvas."""
    server = serve({"city/hello.py": FILES["city/hello.py"]})
    access = server.access
    access.share("city", team=True)
    _, good = access.create_token("good", canvases=["city"])
    _, other = access.create_token("other", canvases=["town"])

    statuses = [
        server.get("/{city}/hello", headers=headers).status_code
        for headers in (
            {},
            {"authorization": f"{scheme} nonsense"},
            {"authorization": f"{scheme} {other}"},
            {"authorization": f"{scheme} {good}"},
        )
    ]

    assert statuses == [401, 401, 403, 200]


def test_a_public_canvas_ignores_an_authorization_header(server: Server) -> None:
    """Contract, section 6: the client sends one whenever it has one."""
    assert server.get("/{city}/hello", headers={"authorization": "Bearer whatever"}).status_code == 200


# -- edits and processes


def test_an_edit_changes_the_next_tile(serve: Callable[..., Server]) -> None:
    """Without a restart, and only for the UDF that was edited."""
    server = serve({"city/red.py": FILES["city/red.py"], "city/count.py": FILES["city/count.py"]})
    assert picture(server.get("/{city}/red/run/tiles/0/0/0.png"))[0, 0, 0] == 255
    count = server.get("/{city}/count?s=0").text

    server.write({"city/red.py": FILES["city/red.py"].replace("255", "77")})

    assert picture(server.get("/{city}/red/run/tiles/0/0/0.png"))[0, 0, 0] == 77
    assert server.get("/{city}/count?s=0").text == count


def test_ready_means_able_to_run(server: Server) -> None:
    """docs/http.md."""
    assert server.get("/healthz").json() == {"status": "ok"}
    ready = server.get("/readyz").json()
    assert ready["status"] == "ready"
    assert ready["sandbox"] in set("ABCD")


def test_sigterm_ends_with_status_zero_and_finishes_what_runs(serve: Callable[..., Server]) -> None:
    """docs/design.md."""
    server = serve({"city/count.py": FILES["city/count.py"]})
    with httpx.stream("GET", f"{server.url}/{server.tokens['city']}/count?s=0") as warm:
        warm.read()

    async def slow_request() -> httpx.Response:
        async with httpx.AsyncClient(timeout=30) as client:
            task = asyncio.ensure_future(client.get(f"{server.url}/{server.tokens['city']}/count?s=1.5"))
            while not (await client.get(f"{server.url}/readyz")).is_success or not task.done():
                await asyncio.sleep(0.3)
                server.process.send_signal(signal.SIGTERM)
                return await task
            return await task

    assert asyncio.run(slow_request()).status_code == 200
    assert server.process.wait(20) == 0
