"""Tokens of single UDFs, secrets, and forgetting stored results, over HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Server, running, serving
from tests.test_platform_registry import Caller, P
from tileserver.platform.common import udf_id

COUNT = (
    "import fused, uuid\n@fused.udf\ndef udf(bounds: fused.types.Bounds = None, n: int = 0):\n"
    "    return [uuid.uuid4().hex]\n"
)
SECRET = (
    "import fused, os\n@fused.udf\ndef udf():\n    return [dict(fused.secrets), os.environ.get('WORD')]\n"
)
FILES = {
    "city/count.py": COUNT,
    "city/secret.py": SECRET,
    "city/canvas.toml": '[env]\nWORD = "secret:KEY"\n',
    "sea/secret.py": SECRET,
    "sea/canvas.toml": '[env]\nWORD = "secret:KEY"\n',
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("tokens") / "w", FILES) as started:
        yield started


@pytest.fixture(scope="module")
def admin(server: Server) -> Caller:
    return Caller(server)


# -- tokens of single UDFs


@pytest.mark.parametrize(
    "udf",
    [
        {"udf_id": udf_id("city", "count")},
        {"udf_slug": "count", "udf_email": "me@example.org"},
        {"udf_slug": "count", "udf_email": "city"},
    ],
    ids=["id", "email", "canvas"],
)
def test_a_token_is_made_listed_and_deleted(server: Server, admin: Caller, udf: dict[str, str]) -> None:
    """Contract, section 10: by id or by name, with the owner's own metadata."""
    body = {**udf, "client_id": "local", "cache": True, "enabled": True, "metadata_json": {"a": [1]}}
    made = admin.json("POST", "/udf-access-token/new", json=body)

    assert made.keys() == {
        *("token", "udf_email", "udf_slug", "udf_id", "enabled", "client_id", "public_read"),
        *("access_scope", "cache", "metadata_json", "last_updated"),
    }
    assert (made["udf_slug"], made["enabled"], made["cache"], made["public_read"], made["access_scope"]) == (
        *("count", True, True, False, "public"),
    )
    assert made["metadata_json"] == {"a": [1]}
    path = f"/udf-access-token/by-token/{made['token']}"
    assert server.get(f"/{made['token']}").status_code == 200
    assert admin.json("GET", path) == made
    assert made in admin.json("GET", "/udf-access-token/self")
    assert admin.json("DELETE", path) == made
    assert server.get(f"/{made['token']}").status_code == 404
    assert admin("GET", path).status_code == 404


def test_a_token_is_changed_by_what_is_named(admin: Caller) -> None:
    """Contract, section 10: the client sends null for what stays."""
    made = admin.json("POST", "/udf-access-token/new", json={"udf_id": udf_id("city", "count")})
    path = f"/udf-access-token/by-token/{made['token']}"
    nothing = dict.fromkeys(("client_id", "cache", "public_read", "access_scope", "metadata_json", "enabled"))

    changes: dict[str, Any] = {"cache": False, "public_read": True, "access_scope": "team"}
    for name, value in (*changes.items(), ("metadata_json", {"k": "v"}), ("enabled", False)):
        before = admin.json("GET", path)
        after = admin.json("POST", path, json={**nothing, name: value})
        assert {**before, name: value, "last_updated": after["last_updated"]} == after


def test_switches_act_at_once_on_stored_results_too(server: Server, admin: Caller) -> None:
    """Contract, sections 2, 6 and 8: disabled is unknown, team wants a credential, no cache runs."""
    made = admin.json("POST", "/udf-access-token/new", json={"udf_id": udf_id("city", "count")})
    path, url = f"/udf-access-token/by-token/{made['token']}", f"/{made['token']}?n=7"
    first = server.get(url).text
    assert server.get(url).text == first

    admin.json("POST", path, json={"enabled": False})
    assert server.get(url).status_code == 404
    admin.json("POST", path, json={"enabled": True, "access_scope": "team"})
    assert server.get(url).status_code == 401
    inside = server.get(url, headers=admin.headers)
    assert (inside.text, inside.headers["cache-control"].partition(",")[0]) == (first, "private")
    admin.json("POST", path, json={"access_scope": "public", "cache": False})
    again = server.get(url)
    assert (again.text != first, again.headers["cache-control"]) == (True, "no-store")
    admin.json("POST", path, json={"cache": True})
    assert server.get(url).text == first


def test_a_readable_token_is_shown_to_everybody(server: Server, admin: Caller) -> None:
    """Contract, section 10: the client asks for a token without needing credentials."""
    made = admin.json(
        "POST", "/udf-access-token/new", json={"udf_id": udf_id("city", "count"), "public_read": True}
    )
    path = f"{P}/udf-access-token/by-token/{made['token']}"

    shown = server.get(path).json()
    assert (shown["token"], shown["udf_email"]) == (made["token"], None)
    admin.json("POST", f"/udf-access-token/by-token/{made['token']}", json={"access_scope": "team"})
    assert server.get(path).status_code == 401
    admin.json("POST", f"/udf-access-token/by-token/{made['token']}", json={"access_scope": "public"})
    admin.json("POST", f"/udf-access-token/by-token/{made['token']}", json={"public_read": False})
    assert server.get(path).status_code == 401
    assert server.get(f"{P}/udf-access-token/by-token/fsh_unknown").status_code == 401


def test_tokens_are_listed_in_parts(server: Server) -> None:
    """Contract, section 10: until an empty list; only those of canvases that the access token may use."""
    for canvas, udf in (("city", "count"), ("sea", "secret"), ("sea", "secret")):
        server.access.create_shared_token(canvas, udf)
    limited = Caller(server, canvases=["sea"])

    rows: list[Any] = []
    while batch := limited.json("GET", "/udf-access-token/self", params={"skip": len(rows), "limit": 1}):
        rows += batch

    assert [row["udf_slug"] for row in rows] == ["secret", "secret"]
    foreign = server.access.shared_tokens(canvases=["city"])[0].token
    assert limited("GET", f"/udf-access-token/by-token/{foreign}").status_code == 404
    assert limited("DELETE", f"/udf-access-token/by-token/{foreign}").status_code == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"enabled": "yes"}, "enabled"),
        ({"cache": 1}, "cache"),
        ({"access_scope": "world"}, "access_scope"),
        ({"metadata_json": []}, "metadata_json"),
        ({"metadata_json": {"a": "x" * 70_000}}, "metadata_json"),
        ({"public_read": {}}, "public_read"),
    ],
)
def test_a_field_that_is_wrong_is_named(
    server: Server, admin: Caller, body: dict[str, Any], field: str
) -> None:
    """Contract, section 11: 422 with a list; no token is made and none changed."""
    udf = {"udf_id": udf_id("city", "count")}
    made = admin.json("POST", "/udf-access-token/new", json=udf)
    number = len(server.access.shared_tokens())

    for path, content in (
        ("/udf-access-token/new", {**udf, **body}),
        (f"/udf-access-token/by-token/{made['token']}", body),
    ):
        response = admin("POST", path, json=content)
        assert (response.status_code, response.json()["detail"][0]["loc"]) == (422, ["body", field])
    assert len(server.access.shared_tokens()) == number
    assert admin.json("GET", f"/udf-access-token/by-token/{made['token']}") == made


# -- secrets


@pytest.fixture
def own(serve: Callable[..., Server]) -> Server:
    return serve(FILES)


def secrets_path(canvas: str, key: str = "") -> str:
    return f"/realtime/{canvas}/api/v1/secrets{key and f'/{key}'}"


def test_a_secret_reaches_its_canvas_alone(own: Server) -> None:
    """Contract, sections 10 and 13: written over HTTP, read by ``fused.secrets`` and ``[env]`` of one canvas;
    the next request sees it, as it would see an edit."""
    admin = Caller(own)
    assert own.get("/{city}/secret").json() == [{}, None]

    admin.json("PUT", secrets_path("city", "KEY"), json={"value": "s3cret"})

    assert admin.json("GET", secrets_path("city", "KEY")) == "s3cret"
    assert list(admin.json("GET", secrets_path("city"))) == ["KEY"]
    assert own.get("/{city}/secret").json() == [{"KEY": "s3cret"}, "s3cret"]
    assert own.get("/{sea}/secret").json() == [{}, None]
    assert admin.json("GET", secrets_path("sea")) == {}
    admin.json("PUT", secrets_path("city", "KEY"), json={"value": "other"})
    assert own.get("/{city}/secret").json() == [{"KEY": "other"}, "other"]
    admin.json("DELETE", secrets_path("city", "KEY"))
    assert own.get("/{city}/secret").json() == [{}, None]
    assert admin("GET", secrets_path("city", "KEY")).status_code == 404


def test_the_list_of_secrets_has_no_values(server: Server, admin: Caller) -> None:
    """The client reads the keys of an object; a value is asked for by its name."""
    admin.json("PUT", secrets_path("city", "QUIET"), json={"value": "never listed"})

    assert "never listed" not in admin("GET", secrets_path("city")).text


def test_the_place_that_a_client_finds_by_itself(own: Server) -> None:
    """The only canvas that the token may use, or the canvas ``default``; else it has to be named."""
    everywhere, city = Caller(own), Caller(own, canvases=["city"])
    city.json("PUT", secrets_path("local", "KEY"), json={"value": "x"})

    assert own.get("/{city}/secret").json() == [{"KEY": "x"}, "x"]
    unnamed = everywhere("PUT", secrets_path("local", "KEY"), json={"value": "y"})
    assert (unnamed.status_code, "city, sea" in unnamed.json()["detail"]) == (422, True)
    own.write({"default/secret.py": SECRET})
    everywhere.json("PUT", secrets_path("basic-tier", "KEY"), json={"value": "z"})
    assert everywhere.json("GET", secrets_path("default", "KEY")) == "z"


def test_secrets_are_for_administrators_of_their_canvas(server: Server) -> None:
    """401 without a token, 403 for scope run and for a canvas of others."""
    for caller, status in (
        (Caller(server, None), 401),
        (Caller(server, "run"), 403),
        (Caller(server, canvases=["sea"]), 403),
    ):
        for method, options in (("GET", {}), ("PUT", {"json": {"value": "x"}}), ("DELETE", {})):
            assert caller(method, secrets_path("city", "KEY"), **options).status_code == status
        assert caller("GET", secrets_path("city")).status_code == status


@pytest.mark.parametrize("body", ["{}", '{"value": 1}', '{"value": null}', "[]", "{", '{"value": ""}'])
def test_a_secret_that_is_none_is_refused(admin: Caller, body: str) -> None:
    """422; nothing is stored."""
    assert admin("PUT", secrets_path("sea", "BAD"), content=body).status_code == 422
    assert admin("GET", secrets_path("sea", "BAD")).status_code == 404


def test_no_log_line_holds_a_secret(tmp_path: Path) -> None:
    """Neither tokens and passcodes nor secrets, queries and run ids, whether requests succeed or fail."""
    workspace, log = tmp_path / "w", tmp_path / "log"
    server = Server("", workspace, None)  # type: ignore[arg-type]  # filled in below
    server.write(FILES)
    server.tokens["city"] = server.access.share("city", passcode="pass-hidden").token
    with (
        log.open("w") as file,
        running("serve", str(workspace), log=file) as (process, line),
    ):
        server.url, server.process = line["url"], process
        admin = Caller(server)
        session = admin.json("POST", f"/session-token/by-access-token/{server.tokens['city']}", json={})[
            "session_token"
        ]
        admin.json("PUT", secrets_path("city", "KEY"), json={"value": "value-hidden"})
        admin("PUT", secrets_path("city", "2KEY"), json={"value": "value-hidden"})
        for path in (f"/{{city}}/count?fused_session_token={session}&n=471147", "/{city}/count?n=x471147"):
            server.get(path, headers={"authorization": "fused-canvas-passcode pass-hidden"})
            server.get(path, headers={"authorization": "fused-canvas-passcode guess-hidden"})
        shared = server.access.create_shared_token("city", "count").token
        server.get(f"/{shared}")
        admin("GET", f"/udf-access-token/by-token/{shared}")
        admin("GET", "/realtime/local/api/v1/run/udf/get/id-hidden")

    text = log.read_text()
    hidden = [server.tokens["city"], shared, session, admin.headers["authorization"].split()[1]]
    assert "count" in text
    assert [word for word in (*hidden, "hidden", "471147") if word in text] == []


# -- forgetting


def cache_path(udf: str, ending: str = "delete") -> str:
    return f"/realtime-shared/local/udf-cache/by-id/{udf}/{ending}"


def tile(server: Server, where: str) -> str:
    return server.get(f"/{{city}}/count/run/tiles/{where}?format=json").text


def test_one_tile_is_forgotten_and_then_everything(server: Server, admin: Caller) -> None:
    """Contract, section 8: z, x and y name one tile; without them all of a UDF goes, with 204."""
    identifier = udf_id("city", "count")
    near, far, single = tile(server, "1/0/0"), tile(server, "1/1/1"), server.get("/{city}/count").text

    gone = admin("DELETE", cache_path(identifier), params={"z": 1, "x": 0, "y": 0})

    assert (gone.status_code, gone.content) == (204, b"")
    assert tile(server, "1/0/0") != near
    assert (tile(server, "1/1/1"), server.get("/{city}/count").text) == (far, single)
    assert admin("DELETE", cache_path(identifier)).status_code == 204
    assert tile(server, "1/1/1") != far
    assert server.get("/{city}/count").text != single


def test_many_tiles_are_forgotten_at_once(server: Server, admin: Caller) -> None:
    """Contract, section 8: the answer counts what was asked for and what went."""
    identifier = udf_id("city", "count")
    admin("DELETE", cache_path(identifier))
    before = [tile(server, f"2/{x}/0") for x in range(3)]

    answer = admin.json(
        "POST",
        cache_path(identifier, "batch-delete"),
        json={"tiles": [{"z": 2, "x": x, "y": 0} for x in (0, 1, 3)]},
    )

    assert answer == {"udf_id": identifier, "tiles_requested": 3, "objects_deleted": 2}
    assert [tile(server, f"2/{x}/0") == before[x] for x in range(3)] == [False, False, True]


@pytest.mark.parametrize("query", ["z=1", "z=1&x=0", "z=&x=&y=", "z=1&x=2&y=0", "z=a&x=0&y=0", "z="])
def test_part_of_a_tile_forgets_nothing(server: Server, admin: Caller, query: str) -> None:
    """Contract, section 8: all three or none, else 422."""
    stored = tile(server, "3/0/0")

    assert admin("DELETE", f"{cache_path(udf_id('city', 'count'))}?{query}").status_code == 422
    assert tile(server, "3/0/0") == stored


@pytest.mark.parametrize(
    "tiles",
    [[], None, {}, [1], [{"z": 1, "x": 0}], [{"z": 1, "x": 2, "y": 0}], [{"z": True, "x": 0, "y": 0}]],
)
def test_a_list_that_names_no_tiles_forgets_nothing(server: Server, admin: Caller, tiles: Any) -> None:
    """Contract, section 8: 1 to 50,000 tiles inside the matrix, else 422 that names the field."""
    stored = tile(server, "3/0/1")
    response = admin("POST", cache_path(udf_id("city", "count"), "batch-delete"), json={"tiles": tiles})

    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"][:2] == ["body", "tiles"]
    assert tile(server, "3/0/1") == stored


@pytest.mark.parametrize(("number", "status"), [(50_000, 200), (50_001, 422)])
def test_a_batch_has_a_limit(admin: Caller, number: int, status: int) -> None:
    """Contract, section 14: 50,000 tiles."""
    tiles = json.dumps({"tiles": [{"z": 18, "x": x, "y": 0} for x in range(number)]})

    path = cache_path(udf_id("city", "count"), "batch-delete")

    assert admin("POST", path, content=tiles).status_code == status


def test_who_may_forget(server: Server) -> None:
    """Contract, section 8: authorisation required; an id of a canvas of others is unknown."""
    identifier = udf_id("city", "count")

    assert Caller(server, None)("DELETE", cache_path(identifier)).status_code == 401
    assert Caller(server, "run")("DELETE", cache_path(identifier)).status_code == 403
    assert Caller(server, canvases=["sea"])("DELETE", cache_path(identifier)).status_code == 404
    assert Caller(server)("DELETE", cache_path("unknown")).status_code == 404
