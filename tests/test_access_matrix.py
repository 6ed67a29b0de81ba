"""Who gets what: every kind of caller at every kind of address, in one table."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.conftest import Server, serving
from tileserver.access import Access, Credentials
from tileserver.platform.common import canvas_id, udf_id

P = "/server/v1"
UDF = "import fused\n@fused.udf\ndef udf():\n    return [1]\n"
CANVASES = ("open", "read", "locked", "team", "sea")
POSTED = {"type": "udf", "udf": {"entrypoint": "udf", "code": UDF, "parameters": {}}}

# "wrong" and "passcode" send a passcode, "session" and "ended" a session token of the canvas asked for.
# "run" and "admin" hold access tokens of these scopes for every canvas, "limited" one of scope admin for the
# canvas sea alone; those of the last two have ended.
TABLE = """
                        nobody wrong passcode session ended run admin limited expired revoked
run of a public canvas     200   200      200     200   200 200   200     200     200     200
run behind a passcode      401   401      200     200   401 401   401     401     401     401
run of the team            401   401      401     200   401 200   200     403     401     401
tile of the team           401   401      401     200   401 200   200     403     401     401
page of the team           401   401      401     200   401 200   200     403     401     401
list of the team           401   401      401     200   401 200   200     403     401     401
name of the team           404   404      404     200   404 200   200     404     404     404
UDF token                  200   200      200     200   200 200   200     200     200     200
UDF token of the team      401   401      401     401   401 200   200     403     401     401
disabled UDF token         404   404      404     404   404 404   404     404     404     404
code of a public canvas    403   403      403     403   403 403   200     403     403     403
code that is shared        200   200      200     200   200 200   200     200     200     200
code of the team           401   401      401     403   401 403   200     403     401     401
load by name               401   401      401     401   401 403   200     404     401     401
load by id                 401   401      401     401   401 403   200     404     401     401
save                       401   401      401     401   401 403   200     404     401     401
share                      401   401      401     401   401 403   200     404     401     401
list canvases              401   401      401     401   401 200   200     200     401     401
canvas by name             401   401      401     401   401 200   200     404     401     401
list secrets               401   401      401     401   401 403   200     403     401     401
read a secret              401   401      401     401   401 403   200     403     401     401
list UDF tokens            401   401      401     401   401 403   200     200     401     401
read a UDF token           401   401      401     401   401 403   200     404     401     401
make a UDF token           401   401      401     401   401 403   200     404     401     401
posted run                 401   401      401     401   401 200   200     200     401     401
posted run in a canvas     401   401      401     401   401 200   200     403     401     401
started run                401   401      401     401   401 200   200     200     401     401
saved run                  401   401      401     401   401 200   200     404     401     401
forget results             401   401      401     401   401 403   204     404     401     401
forget tiles               401   401      401     401   401 403   200     404     401     401
make a session             401   401      401     403   401 200   200     403     401     401
session behind a passcode  401   401      401     403   401 403   200     403     401     401
end sessions               401   401      401     401   401 403   204     403     401     401
who am I                   401   401      401     401   401 200   200     200     401     401
health                     200   200      200     200   200 200   200     200     200     200
"""


CALLERS = TABLE.strip().splitlines()[0].split()


@dataclass(frozen=True)
class Ask:
    """A request; ``canvas`` is the one whose session counts."""

    path: str
    canvas: str = "team"
    method: str = "GET"
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


def posted(**fields: Any) -> dict[str, Any]:
    step = {**POSTED, "udf": {**POSTED["udf"], **fields}}  # type: ignore[dict-item]  # a literal above
    return {"step_config": json.dumps(step), "format": "json"}


_RUN = f"{P}/realtime/local/api/v1/run/udf"
_SECRETS = f"{P}/realtime/team/api/v1/secrets"
_CACHE = f"{P}/realtime-shared/local/udf-cache/by-id/{udf_id('team', 'a')}"
_SESSION = f"{P}/session-token/by-access-token"
ASKS = {
    "run of a public canvas": Ask("/{open}/a"),
    "run behind a passcode": Ask("/{locked}/a", "locked"),
    "run of the team": Ask("/{team}/a"),
    "tile of the team": Ask(f"{P}/realtime-shared/{{team}}/a/run/tiles/0/0/0"),
    "page of the team": Ask("/{team}/a/map"),
    "list of the team": Ask("/{team}"),
    "name of the team": Ask("/fc_any/team/a"),
    "UDF token": Ask("/{udf}"),
    "UDF token of the team": Ask("/{team_udf}"),
    "disabled UDF token": Ask("/{disabled_udf}"),
    "code of a public canvas": Ask(f"{P}/udf/shared/by-token/{{open}}/a"),
    "code that is shared": Ask(f"{P}/udf/shared/by-token/{{read}}/a"),
    "code of the team": Ask(f"{P}/udf/shared/by-token/{{team}}/a"),
    "load by name": Ask(f"{P}/udf/exec-env/self/by-collection/team/by-slug/a"),
    "load by id": Ask(f"{P}/udf/by-id/{udf_id('team', 'a')}"),
    "save": Ask(
        f"{P}/udf/by-id/{udf_id('team', 'a')}", "team", "POST", {"udf_body": json.dumps({"code": UDF})}
    ),
    "share": Ask(f"{P}/collection/share?collection_id={canvas_id('team')}", "team", "POST"),
    "list canvases": Ask(f"{P}/collection/self"),
    "canvas by name": Ask(f"{P}/collection/by-name/team"),
    "list secrets": Ask(_SECRETS),
    "read a secret": Ask(f"{_SECRETS}/KEY"),
    "list UDF tokens": Ask(f"{P}/udf-access-token/self"),
    "read a UDF token": Ask(f"{P}/udf-access-token/by-token/{{team_udf}}"),
    "make a UDF token": Ask(f"{P}/udf-access-token/new", "team", "POST", {"udf_id": udf_id("team", "a")}),
    "posted run": Ask("/run/udf", "team", "POST", posted()),
    "posted run in a canvas": Ask(_RUN, "team", "POST", posted(collection_name="team")),
    "started run": Ask(f"{_RUN}/start", "team", "POST", posted(), {"fused-run-id": "matrix"}),
    "saved run": Ask(f"{_RUN}/saved/team/a"),
    "forget results": Ask(f"{_CACHE}/delete", "team", "DELETE"),
    "forget tiles": Ask(f"{_CACHE}/batch-delete", "team", "POST", {"tiles": [{"z": 0, "x": 0, "y": 0}]}),
    "make a session": Ask(f"{_SESSION}/{{team}}", "team", "POST", {"ttl": 60}),
    "session behind a passcode": Ask(f"{_SESSION}/{{locked}}", "locked", "POST", {"ttl": 60}),
    "end sessions": Ask(f"{_SESSION}/{{open}}", "open", "DELETE"),
    "who am I": Ask(f"{P}/user/self"),
    "health": Ask(f"{P}/health"),
}


def rows() -> Iterator[tuple[str, list[int]]]:
    for line in TABLE.strip().splitlines()[1:]:
        numbers = line.split()[-len(CALLERS) :]
        yield line[: line.index(numbers[0])].strip(), [int(number) for number in numbers]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    from tileserver.vault import Vault

    with serving(
        tmp_path_factory.mktemp("matrix") / "w", {f"{name}/a.py": UDF for name in CANVASES}
    ) as running:
        access = running.access
        access.share("open")
        access.share("locked", passcode="sesame")
        access.share("team", team=True)
        for name, canvas in (("udf", "open"), ("team_udf", "team"), ("disabled_udf", "open")):
            running.tokens[name] = access.create_shared_token(canvas, "a").token
        access.change_shared_token(running.tokens["team_udf"], team=True)
        access.disable_shared_token(running.tokens["disabled_udf"])
        vault = Vault(running.workspace / ".tileserver")
        vault.set("team", "KEY", "value")
        vault.close()
        yield running


@pytest.fixture(scope="module")
def shown(server: Server) -> dict[str, dict[str, Any]]:
    """What each caller sends: a header, or a session token for each canvas."""
    access = server.access
    past = Access(server.workspace / ".tileserver", clock=lambda: time.time() - 7200)
    _, secret = access.create_token(scope="admin")
    maker = access.require(Credentials(authorization=f"Bearer {secret}"))
    tokens = {
        "run": access.create_token(scope="run"),
        "admin": access.create_token(scope="admin"),
        "limited": access.create_token(scope="admin", canvases=["sea"]),
        "expired": access.create_token(scope="admin", expires=0),
        "revoked": access.create_token(scope="admin"),
    }
    access.revoke(tokens["revoked"][0])

    def sessions(by: Access) -> dict[str, str]:
        return {c: by.mint_session(server.tokens[c], 3600, by=maker).token for c in CANVASES}

    return {
        "nobody": {},
        "wrong": {"authorization": "fused-canvas-passcode guess"},
        "passcode": {"authorization": "fused-canvas-passcode sesame"},
        "ended": {"session": sessions(past)},
        "session": {"session": sessions(access)},
        **{name: {"authorization": f"Bearer {secret}"} for name, (_, secret) in tokens.items()},
    }


@pytest.mark.parametrize(("name", "expected"), list(rows()), ids=[name for name, _ in rows()])
def test_who_gets_what(
    server: Server, shown: dict[str, dict[str, Any]], name: str, expected: list[int]
) -> None:
    """Contract, section 6: 401 without a credential, 403 with one that doesn't reach, 404 for unknown."""
    ask = ASKS[name]

    def status(caller: str) -> int:
        what = dict(shown[caller])
        session = what.pop("session", None)
        path = ask.path
        if session is not None:
            path += f"{'&' if '?' in path else '?'}fused_session_token={session[ask.canvas]}"
        answer = server.get(path, ask.method, json=ask.body, headers={**what, **ask.headers})
        assert answer.status_code < 400 or "x-fused-error" in answer.headers
        return answer.status_code

    assert dict(zip(CALLERS, map(status, CALLERS), strict=True)) == dict(zip(CALLERS, expected, strict=True))


def test_every_row_of_the_table_is_asked() -> None:
    """The table and the requests name the same rows."""
    assert [name for name, _ in rows()] == list(ASKS)
