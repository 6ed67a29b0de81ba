"""Session tokens: who makes them, what they open and until when; passcodes that are guessed at; names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from tests.conftest import Server, serving
from tileserver.access import Access, Credentials, Identity
from tileserver.errors import (
    BadRequest,
    Forbidden,
    NotFound,
    TooManyRequests,
    Unauthorized,
    UnknownToken,
)

NOBODY = Credentials()
UDF = "import fused\n@fused.udf\ndef udf():\n    return [fused.context.get_header('Fused-Session-Token')]\n"


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def access(tmp_path: Path, clock: Clock) -> Iterator[Access]:
    opened = Access(tmp_path / ".tileserver", clock=clock)
    yield opened
    opened.close()


def holder(access: Access, scope: str = "run", **options: object) -> Identity:
    """Somebody with a new access token."""
    _, secret = access.create_token(scope=scope, **options)  # type: ignore[arg-type]  # parametrised
    return access.require(Credentials(authorization=f"Bearer {secret}"))


def session(token: str) -> Credentials:
    return Credentials(session_token=token)


# -- sessions


def test_a_session_opens_the_whole_canvas_until_it_ends(access: Access, clock: Clock) -> None:
    """Contract, section 6: minted for a canvas, for as many seconds as were asked for."""
    token = access.share("city", team=True).token
    made = access.mint_session(token, 60, by=holder(access))

    grant = access.grant(token, session(made.token))
    assert (grant.canvas, grant.session, grant.restricted, grant.may_read_code) == ("city", True, True, False)
    assert made.expires == clock.now + 60
    clock.now += 60
    with pytest.raises(Unauthorized):
        access.grant(token, session(made.token))


def test_a_session_is_for_one_canvas(access: Access) -> None:
    """At another team canvas it is known, and not allowed."""
    city, sea = (access.share(name, team=True).token for name in ("city", "sea"))
    made = access.mint_session(city, by=holder(access))

    with pytest.raises(Forbidden, match="another canvas"):
        access.grant(sea, session(made.token))


@pytest.mark.parametrize("end", ["revoke", "rotate", "unshare", "share", "change", "maker"])
def test_what_ends_a_session(access: Access, end: str) -> None:
    """Its owner, another token, other conditions, and the end of the access token that made it."""
    share = access.share("city", team=True)
    by = holder(access, "admin")
    made = access.mint_session(share.token, by=by)
    ends: dict[str, Callable[[], object]] = {
        "revoke": lambda: access.revoke_sessions(share.token, by=by),
        "rotate": lambda: access.rotate("city"),
        "unshare": lambda: access.unshare("city"),
        "share": lambda: access.share("city", team=True),
        "change": lambda: access.change_share("city", team=False, passcode="sesame"),
        "maker": lambda: access.revoke(by.id),
    }
    ends[end]()

    now = access.share_of("city") or access.share("city", team=True)
    with pytest.raises(Unauthorized):
        access.grant(now.token, session(made.token))


@pytest.mark.parametrize("ttl", [0, -1, 86401, 1.5, True, "60"])
def test_a_session_lasts_a_second_to_a_day(access: Access, ttl: object) -> None:
    """Contract, section 6: at most 86,400 seconds."""
    token = access.share("city", team=True).token

    with pytest.raises(BadRequest, match="1 to 86400"):
        access.mint_session(token, ttl, by=holder(access))  # type: ignore[arg-type]  # what is tested


def test_who_may_make_sessions(access: Access) -> None:
    """Who may enter; past a passcode only an administrator, since a session needs none."""
    team, locked = access.share("city", team=True).token, access.share("vault", passcode="x").token
    run, other = holder(access), holder(access, canvases=["sea"])

    with pytest.raises(Forbidden):
        access.mint_session(team, by=other)
    with pytest.raises(Forbidden, match="scope admin"):
        access.mint_session(locked, by=run)
    with pytest.raises(Forbidden, match="scope admin"):
        access.revoke_sessions(team, by=run)
    with pytest.raises(UnknownToken):
        access.mint_session("fc_unknown", by=run)
    assert access.grant(
        locked, session(access.mint_session(locked, by=holder(access, "admin")).token)
    ).session


def test_a_wrong_session_does_not_hide_a_good_header(access: Access) -> None:
    """A header of the kind that the canvas asks for counts first."""
    token = access.share("city", team=True).token
    _, secret = access.create_token()

    grant = access.grant(token, Credentials(f"Bearer {secret}", "nonsense"))

    assert not grant.session


def test_a_session_token_is_stored_as_a_hash(access: Access, tmp_path: Path) -> None:
    """A copy of the database opens nothing."""
    made = access.mint_session(access.share("city", team=True).token, by=holder(access))

    stored = b"".join(path.read_bytes() for path in (tmp_path / ".tileserver").glob("database*"))

    assert all(part.encode() not in stored for part in made.token.split(":")[::2])
    assert made.token not in repr(made)


# -- passcodes that are guessed at


def test_ten_wrong_passcodes_a_minute_are_enough(access: Access, clock: Clock) -> None:
    """The eleventh isn't looked at, right or wrong; a minute later it is. Other addresses go on."""
    token = access.share("city", passcode="sesame").token

    def knock(passcode: str, address: str = "192.0.2.1") -> bool:
        shown = Credentials(f"fused-canvas-passcode {passcode}", None, address)
        return access.grant(token, shown).canvas == "city"

    for _ in range(10):
        with pytest.raises(Unauthorized):
            knock("guess")
    with pytest.raises(TooManyRequests) as caught:
        knock("sesame")
    assert caught.value.retry_after == 60
    assert knock("sesame", "192.0.2.2")
    clock.now += 60
    assert knock("sesame")


def test_one_ipv6_site_is_one_caller(access: Access) -> None:
    """Who has one IPv6 address has many; they count together."""
    token = access.share("city", passcode="sesame").token
    for number in range(10):
        with pytest.raises(Unauthorized):
            access.grant(token, Credentials("fused-canvas-passcode no", None, f"2001:db8::{number}"))

    with pytest.raises(TooManyRequests):
        access.grant(token, Credentials("fused-canvas-passcode no", None, "2001:db8::ffff"))


# -- names in the place of tokens


def test_a_name_is_unknown_to_who_has_no_credential(access: Access) -> None:
    """Names are no secrets: they open to members, and to all where the canvas says so."""
    access.share("city")
    _, secret = access.create_token(canvases=["city"])
    _, other = access.create_token(canvases=["sea"])

    for shown in (NOBODY, Credentials("Bearer nonsense"), Credentials(f"Bearer {other}")):
        with pytest.raises(UnknownToken):
            access.grant_named("fc_team/city", "city", shown, public=False)
    member = access.grant_named("fc_team/city", "city", Credentials(f"Bearer {secret}"), public=False)
    anybody = access.grant_named("fc_team/city", "city", NOBODY, public=True)
    assert (member.canvas, member.restricted) == ("city", True)
    assert (anybody.canvas, anybody.restricted) == ("city", False)


def test_a_name_asks_what_its_canvas_asks(access: Access) -> None:
    """A public name of a canvas with a passcode still wants the passcode; other names don't even say so."""
    access.share("city", passcode="sesame")

    with pytest.raises(Unauthorized):
        access.grant_named("fc_team/city", "city", NOBODY, public=True)
    with pytest.raises(UnknownToken):
        access.grant_named("fc_team/city", "city", NOBODY, public=False)


# -- changing a share


def test_what_a_change_does_not_name_stays(access: Access) -> None:
    """The token, its UDFs and its end stay; a passcode stays until it is taken away or the team comes."""
    share = access.share("city", passcode="sesame", udfs=["a"], expires=60)

    changed = access.change_share("city", code=True, caching=False)
    assert (changed.token, changed.level, changed.udfs, changed.expires) == (
        *(share.token, "passcode", ("a",), share.expires),
    )
    assert (changed.code, changed.caching) == (True, False)
    assert access.change_share("city", team=False).level == "passcode"
    assert access.change_share("city", passcode="").level == "public"
    access.change_share("city", passcode="again")
    assert access.change_share("city", team=True).level == "team"
    assert access.change_share("city", team=False).level == "public"
    with pytest.raises(NotFound):
        access.change_share("sea", team=True)
    with pytest.raises(BadRequest, match="printable ASCII"):
        access.change_share("city", passcode=" x")


# -- over HTTP


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(
        tmp_path_factory.mktemp("sessions") / "w", {"city/who.py": UDF, "open/who.py": UDF}
    ) as running:
        running.access.share("city", team=True)
        yield running


def bearer(server: Server, scope: str = "run", **options: object) -> dict[str, str]:
    _, secret = server.access.create_token(scope=scope, **options)  # type: ignore[arg-type]  # parametrised
    return {"authorization": f"Bearer {secret}"}


def mint(server: Server, method: str = "POST", path: str = "{city}", **options: object) -> httpx.Response:
    address = f"/server/v1/session-token/by-access-token/{path}"
    return server.get(address, method, **options)


def test_a_session_is_minted_used_and_revoked(server: Server) -> None:
    """Contract, section 6: POST gives it, the query takes it, DELETE ends all of them with 204."""
    made = mint(server, json={"ttl": 120}, headers=bearer(server))
    body = made.json()

    assert (made.status_code, made.headers["cache-control"]) == (200, "no-store")
    assert body.keys() == {"token", "session_token", "expires_at"}
    assert body["token"] == server.tokens["city"]
    left = datetime.fromisoformat(body["expires_at"]) - datetime.now(UTC)
    assert 100 < left.total_seconds() <= 120
    path = f"/{{city}}/who?fused_session_token={body['session_token']}"
    answer = server.get(path)
    assert (answer.status_code, answer.json()) == (200, [body["session_token"]])
    assert answer.headers["cache-control"] == "private, no-store"
    gone = mint(server, "DELETE", headers=bearer(server, "admin"))
    assert (gone.status_code, gone.content) == (204, b"")
    assert server.get(path).status_code == 401


def test_the_default_ttl_is_an_hour(server: Server) -> None:
    """Contract, section 6: an empty body is a body without ttl."""
    body = mint(server, headers=bearer(server)).json()

    left = datetime.fromisoformat(body["expires_at"]) - datetime.now(UTC)
    assert 3500 < left.total_seconds() <= 3600


@pytest.mark.parametrize("path", ["{city}", "{city}/who", "{city}-who", "fc_team/city", "fc_team/city/who"])
def test_a_canvas_is_meant_by_every_form_of_its_token(server: Server, path: str) -> None:
    """What follows the canvas doesn't count: a session is for all of it."""
    assert mint(server, path=path, headers=bearer(server)).json()["token"] == server.tokens["city"]


@pytest.mark.parametrize(
    ("body", "status"),
    [('{"ttl": 0}', 422), ('{"ttl": "x"}', 422), ("[]", 422), ("{", 422), ('{"a": 1}', 200)],
)
def test_a_malformed_body_is_named(server: Server, body: str, status: int) -> None:
    """Contract, section 11: 422 with a list that names the field."""
    answer = mint(server, content=body, headers=bearer(server))

    assert answer.status_code == status
    assert status == 200 or answer.json()["detail"][0]["loc"][0] == "body"


def test_who_gets_what(server: Server) -> None:
    """Contract, section 6: 401 without a credential, 403 with one for another canvas, 404 for no canvas."""
    other, run = bearer(server, canvases=["open"]), bearer(server)

    assert mint(server).status_code == 401
    assert mint(server, headers={"authorization": "Bearer nonsense"}).status_code == 401
    assert mint(server, headers=other).status_code == 403
    assert mint(server, path="fc_unknown", headers=run).status_code == 404
    assert mint(server, path="fsh_unknown", headers=run).status_code == 404
    assert mint(server, path="fc_team/city", headers=other).status_code == 404
    assert mint(server, "DELETE", headers=run).status_code == 403
    assert mint(server, "DELETE", path="fc_unknown", headers=bearer(server, "admin")).status_code == 404


def test_a_session_can_not_make_another(server: Server) -> None:
    """Contract, section 6: neither in the query nor as a bearer token."""
    token = mint(server, headers=bearer(server)).json()["session_token"]

    assert mint(server, path=f"{{city}}?fused_session_token={token}").status_code == 403
    assert mint(server, headers={"authorization": f"Bearer {token}"}).status_code == 401
    assert mint(server, path="{city}?fused_session_token=nonsense").status_code == 401


def test_a_run_can_not_say_whose_session_it_is(server: Server) -> None:
    """The header that names a session is the server's own word."""
    forged = {"fused-session-token": "forged", **bearer(server)}

    assert server.get("/{city}/who", headers=forged).json() == [None]


def test_guessing_a_passcode_is_stopped_over_http(serve: Callable[..., Server]) -> None:
    """After ten wrong ones the right one gets 429 too, with Retry-After; other canvases go on."""
    server = serve({"city/a.py": UDF, "sea/a.py": UDF})
    for canvas in ("city", "sea"):
        server.access.share(canvas, passcode="sesame")

    def knock(canvas: str, passcode: str) -> httpx.Response:
        header = {"authorization": f"fused-canvas-passcode {passcode}"}
        return server.get(f"/{{{canvas}}}/a", headers=header)

    assert [knock("city", "guess").status_code for _ in range(10)] == [401] * 10
    stopped = knock("city", "sesame")
    assert stopped.status_code == 429
    assert 1 <= int(stopped.headers["retry-after"]) <= 60
    assert "x-fused-error" in stopped.headers
    assert knock("sea", "sesame").status_code == 200
