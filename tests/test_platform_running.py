"""Posted UDFs and saved ones: run at once, started and asked for later, in a place of their own."""

from __future__ import annotations

import json
import shlex
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Server, serving
from tests.test_platform_registry import Caller

P = "/server/v1/realtime/basic-tier/api/v1/run/udf"
S = "/run/udf"
ADD = "@fused.udf\ndef main(a: int = 1, b: list = None):\n    print('adding')\n    return [a, b]\n"
ONCE = (
    "@fused.udf\ndef main(path: str, wait: str = ''):\n    import os, time\n"
    "    with open(path, 'a') as f: f.write('x')\n"
    "    while wait and not os.path.exists(wait): time.sleep(0.01)\n    return ['done']\n"
)
FILES = {
    "city/hello.py": "import fused\n@fused.udf\ndef udf(n: int = 1):\n    return {'n': n}\n",
    "city/map.py": "import fused\n@fused.udf\ndef udf(bounds: fused.types.Bounds):\n    return bounds\n",
    "city/words.txt": "private words",
    "city/helper.py": "WORD = 'help'\n",
    "sea/hello.py": "import fused\n@fused.udf\ndef udf():\n    return 'sea'\n",
    "sea/only.py": "import fused, uuid\n@fused.udf\ndef udf(n: int = 1):\n    return [n, uuid.uuid4().hex]\n",
    "sea/broken.py": "import fused\n@fused.udf\ndef udf(:\n",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("running") / "w", FILES) as running:
        yield running


def body(code: str, **fields: Any) -> dict[str, Any]:
    """A body as the client posts it: ``step_config`` is JSON in JSON."""
    top = {
        name: fields.pop(name) for name in tuple(fields) if name in {"format", "cache", "profile", "extra"}
    }
    udf = {
        "type": "geopandas_v2",
        "name": "mine",
        "entrypoint": "main",
        "code": code,
        "parameters": {},
        **fields,
    }
    step = {"type": "udf", "name": "mine", "udf": udf, "input": None, "unknown": 1}
    return {"step_config": json.dumps(step), "format": "json", "dtype_in": "json", **top}


class Poster:
    """Somebody who posts code with an access token of scope run."""

    def __init__(self, server: Server, **options: Any) -> None:
        self.server = server
        self.id, secret = server.access.create_token(**{"scope": "run", **options})
        self.headers = {"authorization": f"Bearer {secret}"}

    @property
    def folder(self) -> Path:
        """What the code works in, and the only folder that it may write into besides its cache."""
        return self.server.workspace / ".tileserver/posted" / self.id

    def __call__(self, content: Any, path: str = P, *, run_id: str | None = None) -> httpx.Response:
        headers = self.headers if run_id is None else {**self.headers, "fused-run-id": run_id}
        return self.server.get(path, "POST", json=content, headers=headers)

    def get(self, path: str) -> httpx.Response:
        return self.server.get(path, headers=self.headers)


@pytest.fixture(scope="module")
def poster(server: Server) -> Poster:
    return Poster(server)


# -- one run


@pytest.mark.parametrize("path", [P, S, "/server/v1/realtime/anything/api/v1/run/udf"])
def test_a_posted_udf_runs(poster: Poster, path: str) -> None:
    """Contract, section 9: both addresses, any client_id, entrypoints of any name, ``fused`` without import;
    numbers stay numbers and lists come as JSON text."""
    answer = poster(body(ADD, parameters={"a": 2, "b": "[1, 2]"}), path)

    assert (answer.status_code, answer.json()) == (200, [2, [1, 2]])
    assert answer.headers["content-type"] == "application/json"
    assert json.loads(answer.headers["x-fused-metadata"])["stdout"] == "adding\n"
    assert answer.headers["cache-control"].startswith("private")


def test_the_curl_of_the_documentation_runs(server: Server) -> None:
    """Contract, section 9: a body whose ``step_config`` is encoded twice, typed at a shell."""
    _, secret = server.access.create_token()
    udf: dict[str, Any] = {
        "type": "geopandas_v2",
        "name": "hello",
        "entrypoint": "udf",
        "metadata": {},
        "headers": [],
        "parameters": {"name": "world"},
        "cache_max_age": None,
        "code": '@fused.udf\ndef udf(name: str = "you"):\n    return {"hello": name}\n',
    }
    step = {"type": "udf", "name": "hello", "udf": udf, "input": None}
    data = {
        "step_config": json.dumps(step),
        "dtype_in": "json",
        "format": "json",
        "cache": True,
        "profile": False,
    }
    command = (
        f"curl -sS --max-time 30 -X POST {server.url}/run/udf -H 'Authorization: Bearer {secret}'"
        f" -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(data))}"
    )

    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60, check=True)

    assert json.loads(done.stdout) == {"hello": "world"}


@pytest.mark.parametrize("path", [P, S, f"{P}/start"])
def test_a_posted_udf_runs_for_a_tile(poster: Poster, path: str) -> None:
    """Contract, section 9: the tile's bounds are passed as in any tile run."""
    code = "@fused.udf\ndef main(bounds: fused.types.Bounds):\n    return [round(n) for n in bounds]\n"

    answer = poster(body(code), f"{path}/tiles/1/0/0", run_id=uuid.uuid4().hex)

    assert (answer.status_code, answer.json()) == (200, [-180, 0, 0, 85])
    assert poster(body(code), f"{P}/tiles/1/2/0").status_code == 404


def test_modules_sent_along_are_importable(poster: Poster) -> None:
    """Contract, section 9: ``headers`` are modules."""
    code = "from utils import f\n@fused.udf\ndef main():\n    return [f(2)]\n"
    headers = [
        {"module_name": "utils", "source_code": "def f(n):\n    return 2 * n\n", "source_file": "utils.py"}
    ]

    assert poster(body(code, headers=headers)).json() == [4]


def test_formats_are_taken_from_the_body_and_the_query(poster: Poster) -> None:
    """Contract, section 9: ``format`` of the body is a preference list; legacy names stand in the query."""
    code = "import pandas as pd\n@fused.udf\ndef main():\n    return pd.DataFrame({'a': [1]})\n"
    listed = poster(body(code, format="npy,tiff,parquet,json"))
    legacy = poster(
        {**body(code), "format": None}, f"{P}?dtype_out_vector=csv&fused_cache_disable_stream=true"
    )

    assert listed.headers["content-type"] == "application/octet-stream"
    assert legacy.text.split() == ["a", "1"]


def test_results_are_stored_for_the_same_code_and_arguments(poster: Poster) -> None:
    """Contract, section 8: a hit replays what was printed; ``cache: false`` and age 0 run again."""
    code = (
        "@fused.udf\ndef main(n: int):\n    import uuid\n    print('once')\n    return [uuid.uuid4().hex]\n"
    )
    first, second = (poster(body(code, parameters={"n": 1})) for _ in range(2))

    assert (first.json(), "x-fused-cached" in first.headers) == (second.json(), False)
    assert "x-fused-cached" in second.headers
    assert json.loads(second.headers["x-fused-metadata"])["stdout"]
    assert poster(body(code, parameters={"n": 2})).json() != first.json()
    assert poster(body(f"{code}\n", parameters={"n": 1})).json() != first.json()
    fresh = poster(body(code, parameters={"n": 1}, cache=False))
    assert (fresh.json() != first.json(), fresh.headers["cache-control"]) == (True, "no-store")
    assert poster(body(code, parameters={"n": 1}), f"{P}?cache_max_age=0").json() != first.json()


def test_a_failure_has_the_line_of_the_posted_code(poster: Poster) -> None:
    """Contract, section 11: 422 with metadata and no x-fused-error; whoever posts code may read it."""
    answer = poster(body("@fused.udf\ndef main():\n    x = 1\n    raise KeyError('boom')\n"))
    facts = json.loads(answer.headers["x-fused-metadata"])

    assert (answer.status_code, facts["exception_class"], facts["lineno"]) == (422, "KeyError", 4)
    assert "raise KeyError" in facts["stderr"]
    assert "x-fused-error" not in answer.headers


def test_code_that_cannot_be_read_is_a_failure_of_the_udf(poster: Poster) -> None:
    """Contract, section 11: a SyntaxError has its own line."""
    answer = poster(body("@fused.udf\ndef main():\n    return 1 +\n"))
    facts = json.loads(answer.headers["x-fused-metadata"])

    assert (answer.status_code, facts["exception_class"], facts["lineno"]) == (422, "SyntaxError", 3)


def _step(**changes: Any) -> dict[str, Any]:
    made = body(ADD)
    step = json.loads(made["step_config"])
    step["udf"] |= changes
    return {**made, "step_config": json.dumps(step)}


@pytest.mark.parametrize(
    ("content", "where"),
    [
        ([], ["body"]),
        ("x", ["body"]),
        ({}, ["body", "step_config"]),
        ({"step_config": 1}, ["body", "step_config"]),
        ({"step_config": "{"}, ["body", "step_config"]),
        ({"step_config": "[]"}, ["body", "step_config"]),
        ({"step_config": "{}"}, ["body", "step_config", "udf"]),
        ({"step_config": '{"udf": 1}'}, ["body", "step_config", "udf"]),
        ({"step_config": '{"udf": {}}'}, ["body", "step_config", "udf", "code"]),
        (_step(code=1), ["body", "step_config", "udf", "code"]),
        (_step(code=" "), ["body", "step_config", "udf", "code"]),
        (_step(code="#" * (4 * 2**20 + 1)), ["body", "step_config", "udf", "code"]),
        (_step(entrypoint=1), ["body", "step_config", "udf", "entrypoint"]),
        (_step(parameters=[1]), ["body", "step_config", "udf", "parameters"]),
        (_step(headers={}), ["body", "step_config", "udf", "headers"]),
        (_step(headers=[1]), ["body", "step_config", "udf", "headers", 0]),
        (
            _step(headers=[{"module_name": "../x", "source_code": ""}]),
            ["body", "step_config", "udf", "headers", 0, "module_name"],
        ),
        (_step(cache_max_age="1d"), ["body", "step_config", "udf", "cache_max_age"]),
        (_step(cache_max_age=-1), ["body", "step_config", "udf", "cache_max_age"]),
        (_step(cache_max_age=10**400), ["body", "step_config", "udf", "cache_max_age"]),
        (_step(name="\ud800"), ["body", "step_config", "udf", "name"]),
        (_step(code=f"{ADD}# \ud800"), ["body", "step_config", "udf", "code"]),
        (
            _step(headers=[{"module_name": "m", "source_code": "'\ud800'"}]),
            ["body", "step_config", "udf", "headers", 0, "source_code"],
        ),
        (_step(collection_name=1), ["body", "step_config", "udf", "collection_name"]),
        ({**body(ADD), "format": ["json"]}, ["body", "format"]),
        ({**body(ADD), "cache": "no"}, ["body", "cache"]),
    ],
)
@pytest.mark.parametrize("path", [P, S, f"{P}/start"])
def test_a_malformed_body_names_its_field(
    poster: Poster, path: str, content: Any, where: list[str | int]
) -> None:
    """Contract, section 9: 422 with a list, and nothing has run (there is no metadata of a run)."""
    answer = poster(content, path, run_id=uuid.uuid4().hex)

    assert answer.status_code == 422
    assert [item["loc"] for item in answer.json()["detail"]] == [where]
    assert answer.json()["detail"][0].keys() == {"loc", "msg", "type"}
    assert "x-fused-metadata" not in answer.headers


def test_a_body_that_is_no_json_runs_nothing(poster: Poster) -> None:
    """422 for bytes that are none, deeply nested and empty ones."""
    for content in (b"", b"\xff", b"[" * 100_000, b'{"step_config": NaN'):
        answer = poster.server.get(P, "POST", content=content, headers=poster.headers)
        assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["body"])


def test_an_unknown_format_is_refused_before_the_run(poster: Poster, tmp_path: Path) -> None:
    """422 that names the known ones; the code hasn't run."""
    mark = tmp_path / "ran"
    answer = poster(body(ONCE, parameters={"path": str(mark)}, format="gpx"))

    assert (answer.status_code, "parquet" in answer.json()["detail"]) == (422, True)
    assert not mark.exists()


# -- the fields of a body


def test_a_step_config_may_be_an_object(poster: Poster) -> None:
    """Contract, section 9: JSON text as clients send it, or the object itself."""
    content = body(ADD, parameters={"a": 3})

    assert poster({**content, "step_config": json.loads(content["step_config"])}).json() == [3, None]


@pytest.mark.parametrize("entry", ["first", "second", "udf"])
def test_the_entrypoint_is_called(poster: Poster, entry: str) -> None:
    """Contract, section 9: the function of that name, also where one is called ``udf``."""
    code = "".join(f"@fused.udf\ndef {n}():\n    return [{n!r}]\n" for n in ("first", "udf", "second"))

    assert poster(body(code, entrypoint=entry)).json() == [entry]


def test_parameters_are_what_json_says(poster: Poster) -> None:
    """Contract, section 9: numbers stay numbers, text stays text unless it is annotated, and null is None."""
    code = (
        "@fused.udf\ndef main(n, x, flag, text, parsed: list, none=1, left=2):\n"
        "    return [n, x, flag, text, parsed, none, left]\n"
    )
    given = {"n": 5, "x": 1.5, "flag": True, "text": "[1]", "parsed": "[1]", "none": None}

    assert poster(body(code, parameters=given)).json() == [5, 1.5, True, "[1]", [1], None, 2]


def test_the_age_of_the_object_is_the_decorators(poster: Poster) -> None:
    """Contract, sections 8 and 9: how old a stored result may be, unless the query says otherwise."""
    code = "@fused.udf\ndef main():\n    import uuid\n    return [uuid.uuid4().hex, 'age']\n"
    content = body(code, cache_max_age=0)

    never = [poster(content) for _ in range(2)]
    asked = [poster(content, f"{P}?cache_max_age=60") for _ in range(2)]

    assert never[0].json() != never[1].json()
    assert {answer.headers["cache-control"] for answer in never} == {"no-store"}
    assert asked[0].json() == asked[1].json()
    assert poster(body(code, cache_max_age=3600)).json() == asked[0].json()


def test_fields_that_mean_nothing_here_are_ignored(poster: Poster) -> None:
    """Contract, section 9: what says where Fused runs a UDF, a profile, and whatever else there may be."""
    fields = {
        "metadata": {"fused:id": "x", "fused:slug": 1},
        "collection_id": "nobody's",
        "engine": "large",
        "instance_type": "r5.large",
        "disk_size_gb": 999,
        "region": "eu-west-1",
        "original_headers": "from nowhere import x",
        "unknown": [{}],
    }
    content = body("@fused.udf\ndef main():\n    return ['ran']\n", profile=True, extra=[1], **fields)

    assert poster({**content, "dtype_in": "csv"}).json() == ["ran"]


@pytest.mark.parametrize(
    ("value", "media_type"), [("pd.DataFrame({'a': [1]})", "text/csv"), ("grey", "image/webp")]
)
def test_legacy_formats_may_stand_in_the_body(poster: Poster, value: str, media_type: str) -> None:
    """Contract, section 9: as older clients post them, one for tables and one for pictures."""
    code = (
        "import numpy as np, pandas as pd\ngrey = np.zeros((4, 4), 'uint8')\n"
        f"@fused.udf\ndef main():\n    return {value}\n"
    )
    legacy = {"format": None, "dtype_out_vector": "csv", "dtype_out_raster": "webp"}

    answer = poster({**body(code), **legacy})

    assert answer.headers["content-type"].partition(";")[0] == media_type


@pytest.mark.parametrize("name", ["hello", "../../hello", "a/b", "name with é", "x" * 300, "posted.py"])
def test_a_name_is_only_a_name(server: Server, poster: Poster, name: str) -> None:
    """Contract, section 9: what the code calls itself, never a file, nor a UDF that the canvas has."""
    code = "@fused.udf\ndef main():\n    return [fused.context.this_udf().name]\n"

    assert poster(body(code, name=name)).json() == [name]
    assert poster(body(code, name=name, collection_name="city")).json() == [name]
    assert server.get("/{city}/hello").json() == {"n": 1}


def test_no_data_is_an_empty_body(poster: Poster) -> None:
    """Contract, sections 7.1 and 9: clients read it as None, in a tile too, whatever format was asked for."""
    code = "@fused.udf\ndef main(bounds=None):\n    return None\n"

    for path in (P, f"{P}/tiles/0/0/0", f"{P}/start/tiles/0/0/0"):
        answer = poster(body(code, format="png"), path, run_id=uuid.uuid4().hex)
        assert (answer.status_code, answer.content) == (200, b"")


# -- started, and asked for later


def test_a_quick_run_is_answered_at_once(poster: Poster) -> None:
    """Contract, section 9: ``start`` may give the result itself."""
    answer = poster(body(ADD), f"{P}/start", run_id=uuid.uuid4().hex)

    assert (answer.status_code, answer.json()) == (200, [1, None])


def test_a_slow_run_is_asked_for(poster: Poster) -> None:
    """Contract, section 9: 202 with an empty body within the client's 5 s, until there is a result, which can
    be fetched again; the same POST doesn't run it twice, nor does the address without ``start``."""
    run_id = uuid.uuid4().hex
    content = body(ONCE, parameters={"path": f"ran-{run_id}", "wait": f"go-{run_id}"})

    started = poster(content, f"{P}/start", run_id=run_id)
    asked = poster.get(f"{P}/get/{run_id}")
    retried = poster(content, f"{P}/start", run_id=run_id)

    for answer in (started, asked, retried):
        assert (answer.status_code, answer.content) == (202, b"")
        assert answer.elapsed.total_seconds() < 5
    (poster.folder / f"go-{run_id}").touch()
    done = poster(content, P, run_id=run_id)
    again = poster.get(f"{P}/get/{run_id}")
    assert [(one.status_code, one.json()) for one in (done, again)] == [(200, ["done"])] * 2
    assert (poster.folder / f"ran-{run_id}").read_text() == "x"


def test_a_run_with_an_id_never_runs_twice(poster: Poster) -> None:
    """Contract, section 9: the client repeats a POST after a 502 or 503, without ``start`` too; not even
    ``cache: false`` makes that another run."""
    run_id = uuid.uuid4().hex
    content = body(ONCE, parameters={"path": f"ran-{run_id}"}, cache=False)

    answers = [poster(content, path, run_id=run_id).json() for path in (P, S, P, f"{P}/start")]

    assert answers == [["done"]] * 4
    assert (poster.folder / f"ran-{run_id}").read_text() == "x"


def test_a_run_that_failed_stays_failed(poster: Poster) -> None:
    """What was wrong is told again to who asks again."""
    run_id = uuid.uuid4().hex
    content = body("@fused.udf\ndef main():\n    raise ValueError('boom')\n")

    answers = [poster(content, f"{P}/start", run_id=run_id), poster.get(f"{P}/get/{run_id}")]

    assert [answer.status_code for answer in answers] == [422, 422]
    assert [json.loads(a.headers["x-fused-metadata"])["errormsg"] for a in answers] == [
        "ValueError: boom"
    ] * 2


def test_run_ids_belong_to_the_token(server: Server, poster: Poster) -> None:
    """Nobody else can ask for a run, and the same id of another token is another run."""
    run_id, other = uuid.uuid4().hex, Poster(server)
    code = "@fused.udf\ndef main():\n    import uuid\n    return [uuid.uuid4().hex]\n"
    mine = poster(body(code), f"{P}/start", run_id=run_id).json()

    assert other.get(f"{P}/get/{run_id}").status_code == 404
    assert other(body(code), f"{P}/start", run_id=run_id).json() != mine
    assert poster.get(f"{P}/get/{run_id}").json() == mine
    assert server.get(f"{P}/get/{run_id}").status_code == 401
    server.access.revoke(other.id)
    assert other.get(f"{P}/get/{run_id}").status_code == 401


@pytest.mark.parametrize("run_id", [None, "x" * 201])
def test_a_start_needs_an_id_that_can_be_asked_for(poster: Poster, run_id: str | None) -> None:
    """422; nothing runs that nobody could fetch."""
    assert poster(body(ADD), f"{P}/start", run_id=run_id).status_code == 422


# -- whose code it is


def test_posted_code_has_a_place_of_its_own(server: Server) -> None:
    """Code belongs to the token that posted it: a folder and a cache apart, no files and no secrets."""
    from tileserver.vault import Vault

    vault = Vault(server.workspace / ".tileserver")
    vault.set("city", "KEY", "s3cret")
    vault.close()
    code = (
        "import os\n@fused.udf\ndef main():\n"
        "    return [os.getcwd(), sorted(fused.secrets), os.path.exists('words.txt')]\n"
    )
    one, other = Poster(server), Poster(server)

    (here, secrets, words), (there, *_) = one(body(code)).json(), other(body(code)).json()

    assert (secrets, words, here != there) == ([], False, True)
    granted = one(body(code, collection_name="city")).json()
    assert granted == [str(server.workspace / "city"), ["KEY"], True]


def test_results_of_posted_code_are_not_shared_between_tokens(server: Server) -> None:
    """The cache of each token is its own, also within a canvas that both are granted."""
    code = "@fused.udf\ndef main():\n    import uuid\n    return [uuid.uuid4().hex]\n"
    one, other = Poster(server), Poster(server)

    for fields in ({}, {"collection_name": "city"}):
        results = [poster(body(code, **fields)).json()[0] for poster in (one, other, one, other)]
        assert results[:2] == results[2:]
        assert results[0] != results[1]


def test_fused_cache_of_posted_code_is_not_shared_between_tokens(server: Server) -> None:
    """``@fused.cache`` keeps to the poster, too."""
    code = (
        "@fused.cache\ndef once():\n    import uuid\n    return uuid.uuid4().hex\n"
        "@fused.udf\ndef main(n: int):\n    return [once()]\n"
    )
    one, other = Poster(server), Poster(server)

    mine, again = (one(body(code, parameters={"n": n})).json() for n in (1, 2))

    assert mine == again
    assert other(body(code, parameters={"n": 1})).json() != mine


def test_a_canvas_is_used_only_by_who_is_granted_it(server: Server) -> None:
    """Contract, section 9: ``collection_name`` scopes names; 403 for a canvas of others, 404 for none."""
    code = "import helper\n@fused.udf\ndef main():\n    return [helper.WORD, fused.run('hello', n=3)]\n"
    city, sea = Poster(server, canvases=["city"]), Poster(server, canvases=["sea"])

    assert city(body(code, collection_name="city")).json() == ["help", {"n": 3}]
    assert sea(body(code, collection_name="city")).status_code == 403
    assert city(body(ADD, collection_name="nowhere")).status_code == 403
    assert Poster(server)(body(ADD, collection_name="nowhere")).status_code == 404
    # Clients name "default" when their user named nothing.
    assert sea(body(ADD, collection_name="default")).json() == [1, None]


def test_an_edit_of_the_canvas_is_seen_by_posted_code(serve: Callable[..., Server]) -> None:
    """Its modules and its data count, as they do for the canvas's own UDFs."""
    server = serve(
        {"city/helper.py": "WORD = 'old'\n", "city/a.py": FILES["city/hello.py"], "city/w.txt": "old"}
    )
    poster = Poster(server)
    code = "import helper\n@fused.udf\ndef main():\n    return [helper.WORD, open('w.txt').read()]\n"

    def until(wanted: list[str]) -> bool:
        return any(poster(body(code, collection_name="city")).json() == wanted for _ in range(200))

    assert until(["old", "old"])
    server.write({"city/w.txt": "new words"})
    assert until(["old", "new words"])
    server.write({"city/helper.py": "WORD = 'new'\n"})
    assert until(["new", "new words"])


def test_who_may_post_code(server: Server) -> None:
    """Contract, section 9: an Authorization header is required; nothing else opens it."""
    for path in (P, S, f"{P}/start", f"{P}/tiles/0/0/0", f"{S}/tiles/0/0/0"):
        for headers in (
            {},
            {"authorization": "Bearer nonsense"},
            {"authorization": "fused-canvas-passcode x"},
        ):
            answer = server.get(path, "POST", json=body(ADD), headers=headers)
            assert (answer.status_code, "x-fused-error" in answer.headers) == (401, True)


def test_other_pages_may_not_post_code(server: Server) -> None:
    """Cross-origin reading is for shared GET addresses only."""
    answer = server.get(S, "POST", json={}, headers={"origin": "https://evil.example"})

    assert "access-control-allow-origin" not in answer.headers


# -- saved UDFs


SAVED = f"{P}/saved"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("team/only?n=5", 5),
        ("me@example.org/only?n=5&cache_max_age=0", 5),
        ("sea/only.json?n=6", 6),
        ("team/only", 1),
    ],
)
def test_a_saved_udf_runs_by_its_name(poster: Poster, path: str, expected: int) -> None:
    """Contract, section 9: the legacy address, with the query of shared runs."""
    answer = poster.get(f"{SAVED}/{path}")

    assert (answer.status_code, answer.json()[0]) == (200, expected)
    assert answer.headers["cache-control"].startswith(("private", "no-store"))


def test_a_saved_udf_runs_for_a_tile(poster: Poster) -> None:
    """Contract, section 9: ``…/tiles/{z}/{x}/{y}``, with the cache of the canvas's own tiles."""
    path = f"{SAVED}/team/map/tiles/1/0/1?format=json"

    tiles = [poster.get(path), poster.get(path), poster.server.get("/{city}/map/run/tiles/1/0/1.json")]

    assert [tile.json()[:2] for tile in tiles] == [[-180.0, tiles[0].json()[1]]] * 3
    assert [tile.headers["x-cache"] for tile in tiles] == ["miss", "hit", "hit"]
    assert poster.get(f"{SAVED}/team/map/tiles/1/2/0").status_code == 404


def test_a_saved_udf_needs_a_credential(server: Server) -> None:
    """401 without, 404 for a canvas of others and for names that are unknown or ambiguous."""
    limited = Poster(server, canvases=["city"])

    assert server.get(f"{SAVED}/sea/only").status_code == 401
    assert limited.get(f"{SAVED}/sea/only").status_code == 404
    assert limited.get(f"{SAVED}/team/hello").json() == {"n": 1}
    assert Poster(server).get(f"{SAVED}/team/hello").status_code == 404
    assert Poster(server).get(f"{SAVED}/team/nothing").status_code == 404


def test_the_code_of_a_saved_udf_is_for_administrators(server: Server) -> None:
    """A broken one answers with its own error; an admin token sees the source's traceback."""
    answer = Caller(server)("GET", f"{SAVED.removeprefix('/server/v1')}/sea/broken")

    assert answer.status_code == 422
    assert json.loads(answer.headers["x-fused-metadata"])["exception_class"] == "SyntaxError"
