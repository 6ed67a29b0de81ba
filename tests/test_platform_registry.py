"""UDFs and canvases over HTTP: loaded, saved, deleted, shared; who may, and what lies on disk afterwards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Server, serving
from tileserver.canvas import DEFAULT_CANVAS

P = "/server/v1"
HELLO = "import fused\n@fused.udf\ndef udf(n: int = 1):\n    return {'n': n}\n"
FILES = {
    "city/canvas.toml": "public_name = true\n",
    "city/hello.py": HELLO,
    "city/scale.py": "FACTOR = 2\n",
    "city/my udf.v1.py": HELLO,
    "sea/hello.py": HELLO,
    "sea/only.py": HELLO,
    "sea/Deep/Deep.py": "import fused\n@fused.udf(cache_max_age='30m')\ndef deep(n: int = 1):\n"
    '    """Deep.\n\n    Below."""\n    from utils import f\n    return f(n)\n',
    "sea/Deep/utils.py": "def f(n):\n    return [n]\n",
}


class Caller:
    """Somebody with an access token, or without one."""

    def __init__(self, server: Server, scope: str | None = "admin", **options: Any) -> None:
        self.server = server
        self.headers = {}
        if scope is not None:
            _, secret = server.access.create_token(scope=scope, **options)  # type: ignore[arg-type]  # a literal
            self.headers = {"authorization": f"Bearer {secret}"}

    def __call__(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.server.get(f"{P}{path}", method, headers=self.headers, **options)

    def json(self, method: str, path: str, **options: Any) -> Any:
        response = self(method, path, **options)
        assert response.status_code == 200, response.text
        return response.json()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the tests that change nothing but tokens."""
    with serving(tmp_path_factory.mktemp("registry") / "w", FILES) as running:
        running.access.share("sea")
        yield running


@pytest.fixture(scope="module")
def admin(server: Server) -> Caller:
    return Caller(server)


def udf_object(code: str = HELLO, **fields: Any) -> str:
    return json.dumps({"type": "geopandas_v2", "entrypoint": "udf", "code": code, "parameters": {}, **fields})


# -- who this is


def test_health_needs_no_token(server: Server) -> None:
    """Contract, section 10: 200."""
    assert server.get(f"{P}/health").status_code == 200


def test_the_client_learns_who_it_is_and_where_udfs_run(server: Server) -> None:
    """Contract, section 10: asked before each object run. A token's name may be an address."""
    mail, plain = Caller(server, "run", name="me@example.org"), Caller(server, "run", name="notebook")

    who = mail.json("GET", "/user/self")
    assert (who["email"], who["handle"]) == ("me@example.org", "me@example.org")
    assert plain.json("GET", "/user/self")["email"].endswith("@localhost")
    (place,) = plain.json("GET", "/realtime-instance/available")
    assert place.keys() == {"client_id", "name", "endpoint", "preference_rank"}
    assert who["execution_environment_id"] == place["client_id"]


@pytest.mark.parametrize(
    ("scheme", "status"),
    [
        *(("Bearer", 200), ("bearer", 200), ("Fused-Service-Token", 200), ("FUSED-SERVICE-TOKEN", 200)),
        *(("Basic", 401), ("fused-canvas-passcode", 401), ("", 401)),
    ],
)
def test_an_access_token_comes_by_two_schemes(server: Server, scheme: str, status: int) -> None:
    """Contract, section 6: ``Bearer`` and ``Fused-Service-Token``, in any case."""
    _, secret = server.access.create_token()
    answer = server.get(f"{P}/user/self", headers={"authorization": f"{scheme} {secret}".strip()})

    assert answer.status_code == status


# -- loading


@pytest.mark.parametrize("path", ["{city}/hello", "{city}-hello", "fc_team/city/hello", "{city}/my%20udf.v1"])
def test_a_readable_token_loads_without_credentials(server: Server, path: str) -> None:
    """Contract, section 10: by-token in every form of the token; ``udf_body`` is JSON text."""
    found = server.get(f"{P}/udf/shared/by-token/{path}")

    assert found.status_code == 200
    assert found.json().keys() >= {"id", "slug", "udf_body", "is_visible", "collection_id", "collection_name"}
    body = json.loads(found.json()["udf_body"])
    assert (body["code"], body["entrypoint"], body["collection_name"]) == (HELLO, "udf", "city")
    assert [header["module_name"] for header in body["headers"]] == ["scale"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("{sea}/hello", 403),
        ("{city}/nothing", 404),
        ("{city}", 404),
        ("{city}/hello/run", 404),
        ("{city}/hello.json", 404),
        ("fc_unknown/hello", 404),
        ("fc_team/sea/hello", 404),
        ("nonsense", 404),
    ],
)
def test_what_does_not_load(server: Server, path: str, status: int) -> None:
    """Contract, section 10, and the sharing option --code: the client says "use run instead of load"."""
    response = server.get(f"{P}/udf/shared/by-token/{path}")

    assert response.status_code == status
    assert response.headers["x-fused-error"] == response.json()["detail"]


def test_a_udf_token_loads_as_long_as_it_may_be_read(server: Server, admin: Caller) -> None:
    """Contract, section 10: ``public_read`` of a token decides, for its holders."""
    token = server.access.create_shared_token("sea", "only").token
    path = f"/udf/shared/by-token/{token}"

    assert server.get(f"{P}{path}").status_code == 403
    server.access.change_shared_token(token, code=True)
    assert server.get(f"{P}{path}").json()["slug"] == "only"
    server.access.change_shared_token(token, code=False)
    assert admin.json("GET", path)["slug"] == "only"


@pytest.mark.parametrize(
    ("path", "canvas"),
    [
        ("/udf/by-user-email/me@example.org/by-collection/sea/by-slug/hello", "sea"),
        ("/udf/by-user-handle/anybody/by-collection/city/by-slug/hello", "city"),
        ("/udf/by-user-handle/city/by-collection/default/by-slug/hello", "city"),
        ("/udf/exec-env/self/by-collection/sea/by-slug/hello", "sea"),
        ("/udf/exec-env/self/by-collection/default/by-slug/only", "sea"),
        ("/udf/exec-env/self/by-collection/city/by-slug/my%20udf.v1", "city"),
    ],
)
def test_loading_by_name(admin: Caller, path: str, canvas: str) -> None:
    """Contract, section 10: a canvas by its name; "default" also stands for the only canvas that has it."""
    found = admin.json("GET", path)

    assert found["collection_name"] == canvas
    assert admin.json("GET", f"/udf/by-id/{found['id']}") == found


def test_a_canvas_in_the_place_of_an_owner_is_the_one_that_is_meant(own: Server) -> None:
    """``fused.load("sea/hello")``: neither the canvas ``default`` nor another one takes its place."""
    own.write({f"{DEFAULT_CANVAS}/hello.py": HELLO, f"{DEFAULT_CANVAS}/apart.py": HELLO})
    admin, path = Caller(own), f"/udf/by-user-handle/sea/by-collection/{DEFAULT_CANVAS}/by-slug"

    assert admin.json("GET", f"{path}/hello")["collection_name"] == "sea"
    assert admin("GET", f"{path}/apart").status_code == 404


def test_a_name_that_two_canvases_have_is_not_guessed(admin: Caller) -> None:
    """404 that names the canvases to choose from."""
    response = admin("GET", "/udf/exec-env/self/by-collection/default/by-slug/hello")

    assert response.status_code == 404
    assert "city, sea" in response.json()["detail"]


def test_the_folder_layout_loads_with_its_modules(admin: Caller) -> None:
    """Contract, section 9: headers are importable modules with their text; the decorator's age is kept."""
    body = json.loads(admin.json("GET", "/udf/exec-env/self/by-collection/sea/by-slug/Deep")["udf_body"])

    assert (body["entrypoint"], body["cache_max_age"]) == ("deep", 1800)
    assert [(header["module_name"], header["source_code"]) for header in body["headers"]] == [
        ("utils", FILES["sea/Deep/utils.py"])
    ]


@pytest.mark.parametrize(
    ("path", "number"),
    [
        ("/udf/self", 5),
        ("/udf/exec-env/self", 5),
        ("/udf/public", 0),
        ("/collection/self", 2),
        ("/collection/self/lite", 2),
        ("/collection/exec-env", 2),
        ("/collection/exec-env/lite", 2),
    ],
)
def test_lists_are_read_until_they_are_empty(admin: Caller, path: str, number: int) -> None:
    """Contract, section 10: ``skip`` counts, and the end is an empty list, or clients would ask for ever."""
    rows: list[Any] = []
    while batch := admin.json("GET", path, params={"skip": len(rows), "limit": 2}):
        assert len(batch) <= 2
        rows += batch

    assert len({json.dumps(row) for row in rows}) == len(rows) == number
    assert admin.json("GET", path, params={"limit": 0}) == []


@pytest.mark.parametrize("query", ["skip=-1", "limit=x", "skip=1.5", "limit=99999999999999999999"])
def test_a_window_that_is_none_is_refused(admin: Caller, query: str) -> None:
    """422, on every list."""
    for path in ("/udf/self", "/collection/self", "/udf-access-token/self"):
        assert admin("GET", f"{path}?{query}").status_code == 422


def test_a_limited_token_sees_only_its_canvases(server: Server) -> None:
    """``token create --canvas`` limits what is listed, loaded and saved."""
    limited = Caller(server, canvases=["sea"])

    assert {row["collection_name"] for row in limited.json("GET", "/udf/self")} == {"sea"}
    assert [row["name"] for row in limited.json("GET", "/collection/self")] == ["sea"]
    assert limited("GET", "/collection/by-name/city").status_code == 404
    assert limited("GET", "/udf/exec-env/self/by-collection/city/by-slug/hello").status_code == 404
    assert limited("POST", "/udf/new", json={"slug": "x", "udf_body": udf_object()}).status_code == 403
    assert limited("POST", "/collection/new", json={"name": "mine"}).status_code == 403


# -- saving


@pytest.fixture
def own(serve: Callable[..., Server]) -> Server:
    """A server for one test that changes its workspace."""
    return serve(FILES)


def test_a_udf_is_saved_run_changed_and_deleted(own: Server) -> None:
    """Contract, section 10: ``udf.to_fused()``; a name that is taken is 409; the folder layout on disk."""
    admin = Caller(own)
    canvas = admin.json("GET", "/collection/by-name/city")["id"]
    wanted = {
        "slug": "fresh",
        "udf_body": udf_object(headers=[{"module_name": "more", "source_code": "X = 1\n"}]),
        "udf_type": "auto",
        "allow_public_read": False,
        "allow_public_list": False,
        "collection_id": canvas,
    }
    made = admin.json("POST", "/udf/new", json=wanted)

    folder = own.workspace / "city/fresh"
    assert (folder / "fresh.py").read_text() == HELLO
    assert {path.name for path in folder.iterdir()} == {"fresh.py", "more.py", "meta.json"}
    assert own.get("/{city}/fresh?n=3").json() == {"n": 3}
    clash = admin("POST", "/udf/new", json=wanted)
    assert (clash.status_code, "already" in clash.json()["detail"]) == (409, True)
    changed = {**wanted, "udf_body": udf_object(HELLO.replace("'n'", "'m'"))}
    assert admin.json("POST", f"/udf/by-id/{made['id']}", json=changed)["id"] == made["id"]
    assert own.get("/{city}/fresh?n=3").json() == {"m": 3}
    admin.json("DELETE", f"/udf/by-id/{made['id']}")
    assert own.get("/{city}/fresh").status_code == 404
    assert not folder.exists()
    assert admin("DELETE", f"/udf/by-id/{made['id']}").status_code == 404


def test_a_udf_without_a_canvas_goes_to_the_default_one(own: Server) -> None:
    """``udf.to_fused()`` without a canvas, loaded again as ``fused.load("name")`` does."""
    admin = Caller(own)

    admin.json("POST", "/udf/new", json={"slug": "mine", "udf_body": udf_object(), "collection_id": None})

    assert (own.workspace / DEFAULT_CANVAS / "mine/mine.py").is_file()
    path = f"/udf/by-user-email/me@example.org/by-collection/{DEFAULT_CANVAS}/by-slug/mine"
    assert admin.json("GET", path)["slug"] == "mine"


def test_another_name_moves_a_udf(own: Server) -> None:
    """Contract, section 2: the old address is 404, without a redirect."""
    admin = Caller(own)
    found = admin.json("GET", "/udf/exec-env/self/by-collection/sea/by-slug/only")

    moved = admin.json("POST", f"/udf/by-id/{found['id']}", json={"slug": "new", "udf_body": udf_object()})

    assert moved["slug"] == "new"
    own.access.share("sea", code=True)
    assert own.get("/{sea}/new").status_code == 200
    assert own.get("/{sea}/only").status_code == 404
    taken = {"slug": "hello", "udf_body": udf_object()}
    assert admin("POST", f"/udf/by-id/{moved['id']}", json=taken).status_code == 409
    assert own.get("/{sea}/new").status_code == 200


def test_a_single_file_stays_one_while_that_is_enough(own: Server) -> None:
    """The owner's layout is kept; modules of its own or stored parameters need a folder."""
    admin = Caller(own)
    found = admin.json("GET", "/udf/exec-env/self/by-collection/city/by-slug/hello")
    path, flat = f"/udf/by-id/{found['id']}", own.workspace / "city/hello.py"
    loaded = json.loads(found["udf_body"])

    admin.json("POST", path, json={"udf_body": json.dumps({**loaded, "code": f"{HELLO}# more\n"})})
    assert flat.read_text() == f"{HELLO}# more\n"
    assert not (own.workspace / "city/hello").exists()
    admin.json("POST", path, json={"udf_body": json.dumps({**loaded, "parameters": {"n": 7}})})
    assert not flat.exists()
    assert own.get("/{city}/hello").json() == {"n": 7}


def test_deleting_a_file_leaves_a_folder_of_that_name(own: Server) -> None:
    """Data beside ``roads.py`` in ``roads/`` isn't the UDF."""
    own.write({"city/hello/data.csv": "a\n1\n"})
    admin = Caller(own)
    found = admin.json("GET", "/udf/exec-env/self/by-collection/city/by-slug/hello")

    admin.json("DELETE", f"/udf/by-id/{found['id']}")

    assert not (own.workspace / "city/hello.py").exists()
    assert (own.workspace / "city/hello/data.csv").is_file()


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, ["body", "udf_body"]),
        ({"udf_body": {}}, ["body", "udf_body"]),
        ({"udf_body": "{"}, ["body", "udf_body"]),
        ({"udf_body": "{}"}, ["body", "udf_body", "code"]),
        ({"udf_body": udf_object("x = 1\n")}, ["body", "udf_body", "code"]),
        ({"udf_body": udf_object("import fused\n@fused.udf\ndef udf(:\n")}, ["body", "udf_body", "code"]),
        ({"udf_body": udf_object(entrypoint="other")}, ["body", "udf_body", "code"]),
        ({"slug": 1, "udf_body": udf_object()}, ["body", "slug"]),
        ({"udf_body": udf_object(headers=[{"module_name": "../x"}])}, None),
        ({"udf_body": udf_object(parameters=[1])}, ["body", "udf_body", "parameters"]),
        ({"udf_body": udf_object(headers=[{"module_name": "m" * 300}])}, None),
        ({"udf_body": udf_object(headers=[{"module_name": "m", "source_code": "\ud800"}])}, None),
        ({"udf_body": udf_object(headers=[{"module_name": "m", "source_code": "#" * 2**22 + "#"}])}, None),
        ({"udf_body": udf_object(headers=[{"module_name": "a.b"}, {"module_name": "a_b"}])}, None),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_what_no_canvas_could_serve_is_not_saved(
    server: Server, admin: Caller, body: dict[str, Any], field: list[str] | None
) -> None:
    """Contract, section 11: 422 with a list that names the field; nothing is written."""
    response = admin("POST", "/udf/new", json={"slug": "bad", **body})

    assert response.status_code == 422
    assert field is None or response.json()["detail"][0]["loc"] == field
    assert not (server.workspace / DEFAULT_CANVAS).exists()


@pytest.mark.parametrize(
    "slug", ["../escape", "a/b", ".hidden", "-x", "x.py", "x.", "x ", "é", "x" * 129, "a\nb", "__pycache__"]
)
def test_a_name_that_is_no_file_is_refused(server: Server, admin: Caller, slug: str) -> None:
    """Names are [A-Za-z0-9_][A-Za-z0-9 ._-]{0,127}; nothing is written outside of a canvas."""
    body = {"slug": slug, "udf_body": udf_object(name=slug)}

    assert admin("POST", "/udf/new", json=body).status_code == 422
    assert not list(server.workspace.glob("escape*"))


def test_saving_does_not_follow_a_link_out_of_its_canvas(own: Server, tmp_path: Path) -> None:
    """A folder that is a link to elsewhere is refused."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (own.workspace / "city/linked").symlink_to(outside)
    admin = Caller(own)
    canvas = admin.json("GET", "/collection/by-name/city")["id"]

    body = {"slug": "linked", "udf_body": udf_object(), "collection_id": canvas}

    assert admin("POST", "/udf/new", json=body).status_code == 422
    assert list(outside.iterdir()) == []


# -- canvases


def test_a_canvas_is_made_shared_and_unshared(own: Server) -> None:
    """Contract, section 10: canvas objects with their scope, token and reading of code."""
    admin = Caller(own)
    made = admin.json(
        "POST",
        "/collection/new",
        json={"name": "new_one", "access_scope": "public", "allow_public_read": True},
    )
    assert made.keys() >= {
        *("id", "name", "access_scope", "last_updated", "allow_public_read"),
        *("share_token", "share_client_id", "passcode"),
    }
    assert (made["access_scope"], made["allow_public_read"]) == ("public", True)
    admin.json("POST", "/udf/new", json={"slug": "a", "udf_body": udf_object(), "collection_id": made["id"]})
    assert own.get(f"/{made['share_token']}/a").status_code == 200
    again = admin.json("POST", "/collection/share", params={"collection_id": made["id"]})
    assert again["share_token"] == made["share_token"]
    fresh = admin.json("POST", "/collection/share", params={"collection_id": made["id"], "new_token": True})
    assert own.get(f"/{made['share_token']}/a").status_code == 404
    assert own.get(f"/{fresh['share_token']}/a").status_code == 200
    gone = admin.json("POST", "/collection/unshare", params={"collection_id": made["id"]})
    assert gone["share_token"] is None
    assert own.get(f"/{fresh['share_token']}/a").status_code == 404
    assert admin("POST", "/collection/new", json={"name": "new_one"}).status_code == 409


def test_passcodes_of_canvases(own: Server) -> None:
    """Contract, sections 6 and 10: set with the canvas, kept by changes that don't name it, taken away by an
    empty one, and without a meaning for the team."""
    admin = Caller(own)
    made = admin.json("POST", "/collection/new", json={"name": "locked", "passcode": "sesame"})
    path, token = f"/collection/by-id/{made['id']}", made["share_token"]
    admin.json("POST", "/udf/new", json={"slug": "a", "udf_body": udf_object(), "collection_id": made["id"]})

    def enters(authorization: str | None = None) -> int:
        headers = {} if authorization is None else {"authorization": authorization}
        return own.get(f"/{token}/a", headers=headers).status_code

    assert (made["access_scope"], made["passcode"]) == ("public", None)
    assert (enters(), enters("fused-canvas-passcode sesame")) == (401, 200)
    admin.json("POST", path, json={"name": "locked", "access_scope": "public"})
    assert (enters(), enters("fused-canvas-passcode sesame")) == (401, 200)
    admin.json("POST", path, json={"name": "locked", "access_scope": "public", "passcode": "other"})
    assert (enters("fused-canvas-passcode sesame"), enters("fused-canvas-passcode other")) == (401, 200)
    admin.json("POST", path, json={"name": "locked", "access_scope": "public", "passcode": ""})
    assert enters() == 200
    both = {"name": "locked", "access_scope": "team", "passcode": "sesame"}
    assert admin.json("POST", path, json=both)["access_scope"] == "team"
    assert enters("fused-canvas-passcode sesame") == 401
    assert enters(Caller(own, "run").headers["authorization"]) == 200


def test_the_cache_of_a_canvas_can_be_switched_off(own: Server) -> None:
    """Contract, section 8: from the next request on nothing of it is stored or read."""
    admin = Caller(own)
    canvas = admin.json("GET", "/collection/by-name/city")["id"]
    assert [own.get("/{city}/hello").headers["x-cache"] for _ in range(2)] == ["miss", "hit"]

    admin.json("POST", f"/collection/by-id/{canvas}", json={"cache": False})

    answer = own.get("/{city}/hello")
    assert (answer.headers["x-cache"], answer.headers["cache-control"]) == ("miss", "no-store")
    assert "x-fused-cached" not in answer.headers


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"access_scope": "world"}, "access_scope"),
        ({"passcode": " x"}, "passcode"),
        ({"passcode": 1}, "passcode"),
        ({"allow_public_read": "yes"}, "allow_public_read"),
        ({"name": "other"}, "name"),
    ],
)
def test_a_canvas_that_cannot_be_shared_like_that(
    server: Server, admin: Caller, body: dict[str, Any], field: str
) -> None:
    """422 with a list that names the field; how the canvas is shared stays."""
    canvas = admin.json("GET", "/collection/by-name/city")

    response = admin("POST", f"/collection/by-id/{canvas['id']}", json=body)

    assert response.status_code == 422
    assert response.json()["detail"][0]["loc"] == ["body", field]
    assert admin.json("GET", f"/collection/by-id/{canvas['id']}") == canvas


@pytest.mark.parametrize("name", ["", "a b", "../x", "é", "x" * 129])
def test_a_name_that_no_canvas_has_is_refused(admin: Caller, name: str) -> None:
    """Names of canvases are letters, digits, _ and -."""
    assert admin("POST", "/collection/new", json={"name": name}).status_code == 422


def test_a_share_that_has_expired_is_shared_anew(own: Server) -> None:
    """Under another token, for the team: nobody who had the old one gets in by that."""
    old = own.access.share("city", expires=0)
    admin = Caller(own)
    canvas = admin.json("GET", "/collection/by-name/city")
    assert canvas["share_token"] is None

    fresh = admin.json("POST", "/collection/share", params={"collection_id": canvas["id"]})

    assert fresh["access_scope"] == "team"
    assert fresh["share_token"] not in {None, old.token}


def test_a_new_canvas_is_not_opened_by_the_token_of_an_old_one(own: Server) -> None:
    """One of its name may have been there, and been deleted without its share."""
    admin = Caller(own)
    old = admin.json("POST", "/collection/new", json={"name": "lake", "access_scope": "public"})
    shutil.rmtree(own.workspace / "lake")

    fresh = admin.json("POST", "/collection/new", json={"name": "lake", "access_scope": "public"})

    assert fresh["share_token"] != old["share_token"]
    assert own.get(f"/{old['share_token']}").status_code == 404
    assert own.get(f"/{fresh['share_token']}").status_code == 200


def test_only_administrators_see_share_tokens(server: Server) -> None:
    """A token of scope run lists canvases without what would open them to others."""
    rows = Caller(server, "run").json("GET", "/collection/self")

    assert [row["name"] for row in rows] == ["city", "sea"]
    assert {row["share_token"] for row in rows} == {None}
