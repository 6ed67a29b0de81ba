"""Access: which token opens what, for whom, until when, and what a stolen database gives away."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tileserver.access import Access, Credentials, Grant
from tileserver.errors import BadRequest, ConfigurationError, Forbidden, NotFound, Unauthorized, UnknownToken

NOBODY = Credentials()


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
def state(tmp_path: Path) -> Path:
    return tmp_path / ".tileserver"


@pytest.fixture
def access(state: Path, clock: Clock) -> Iterator[Access]:
    opened = Access(state, clock=clock)
    yield opened
    opened.close()


@pytest.fixture
def other(access: Access, state: Path, clock: Clock) -> Iterator[Access]:
    """The same state, opened by another process (here: connection)."""
    opened = Access(state, clock=clock)
    yield opened
    opened.close()


def bearer(secret: str) -> Credentials:
    return Credentials(authorization=f"Bearer {secret}")


def passcode(text: str) -> Credentials:
    return Credentials(authorization=f"fused-canvas-passcode {text}")


# -- public canvases


def test_public_token_opens_its_canvas(access: Access) -> None:
    """The token alone opens a public canvas, without its source code."""
    token = access.share("city").token

    assert access.grant(token, NOBODY) == Grant("city", None, True, token, False, False)


def test_share_token_is_long_and_alphanumeric(access: Access) -> None:
    """A canvas token is fc_ and at least 20 characters that need no escaping in URLs."""
    token = access.share("city").token

    assert token.startswith("fc_")
    assert len(token) >= 23
    assert token.removeprefix("fc_").isalnum()
    assert token.isascii()


@pytest.mark.parametrize("header", ["Bearer nonsense", "fused-canvas-passcode x", "Basic eDp5", "", "é"])
def test_public_token_ignores_headers_it_does_not_need(access: Access, header: str) -> None:
    """Clients attach credentials to every request; a public canvas doesn't mind wrong ones."""
    token = access.share("city").token

    assert access.grant(token, Credentials(authorization=header)).canvas == "city"


@pytest.mark.parametrize(
    "token", ["fc_unknown", "fsh_unknown", "fc_", "", "UDF_x", "fc_a' OR 1=1 --", "fc_é", "0" * 64]
)
def test_unknown_and_malformed_tokens_are_unknown(access: Access, token: str) -> None:
    """Whatever isn't a token of ours is answered alike."""
    access.share("city")

    with pytest.raises(UnknownToken):
        access.grant(token, NOBODY)


def test_sharing_again_keeps_the_token_and_changes_the_terms(access: Access) -> None:
    """An owner may tighten or loosen a share without breaking its address."""
    first = access.share("city", code=True)
    second = access.share("city", team=True)

    assert second.token == first.token
    assert (second.level, second.code) == ("team", False)
    assert access.shares() == [second]


def test_share_limited_to_some_udfs(access: Access) -> None:
    """A share may reach only the UDFs it names."""
    grant = access.grant(access.share("city", udfs=["roads"]).token, NOBODY)

    assert grant.reaches("roads")
    assert not grant.reaches("secrets")


def test_share_with_code_may_read_it(access: Access) -> None:
    """--code lets token holders read the source."""
    assert access.grant(access.share("city", code=True).token, NOBODY).may_read_code


def test_share_without_caching_says_so(access: Access) -> None:
    """The switch that turns a share's caching off reaches the grant."""
    assert not access.grant(access.share("city", caching=False).token, NOBODY).caching


def test_rotated_token_is_unknown(access: Access) -> None:
    """Rotation gives a new token on the same terms and ends the old one."""
    old = access.share("city", code=True)
    new = access.rotate("city")

    assert (new.token != old.token, new.code) == (True, True)
    assert access.grant(new.token, NOBODY).canvas == "city"
    with pytest.raises(UnknownToken):
        access.grant(old.token, NOBODY)


def test_unshared_token_never_comes_back(access: Access) -> None:
    """A canvas shared anew gets a token that was never given out before."""
    old = access.share("city").token
    access.unshare("city")

    assert access.share("city").token != old
    with pytest.raises(UnknownToken):
        access.grant(old, NOBODY)


def test_expired_share_is_unknown(access: Access, clock: Clock) -> None:
    """A share ends at the second it was given until; its owner still sees it."""
    share = access.share("city", expires=60)

    clock.now += 59
    assert access.grant(share.token, NOBODY).canvas == "city"
    clock.now += 1
    with pytest.raises(UnknownToken):
        access.grant(share.token, NOBODY)
    assert access.shares() == [share]


def test_fixed_token_opens_and_reads_only_where_it_is_given(state: Path, access: Access) -> None:
    """The demo's token works in the demo and nowhere else."""
    demo = Access(state, fixed={"fc_demo": "demo"})

    grant = demo.grant("fc_demo", bearer("anything"))
    demo.close()

    assert grant == Grant("demo", None, True, "fc_demo", True, False)
    with pytest.raises(UnknownToken):
        access.grant("fc_demo", NOBODY)


# -- passcodes


def test_passcode_opens_a_protected_canvas(access: Access) -> None:
    """The right passcode opens, the scheme's case doesn't matter, and the answer is private."""
    token = access.share("city", passcode="open sesame").token

    grant = access.grant(token, Credentials("Fused-Canvas-Passcode open sesame"))

    assert (grant.canvas, grant.restricted) == ("city", True)


@pytest.mark.parametrize(
    "header", [None, "", "fused-canvas-passcode", "fused-canvas-passcode no", "Bearer sesame"]
)
def test_missing_or_wrong_passcode_is_unauthorized(access: Access, header: str | None) -> None:
    """Anything but the passcode gets 401."""
    token = access.share("city", passcode="sesame").token

    with pytest.raises(Unauthorized):
        access.grant(token, Credentials(authorization=header))


@pytest.mark.parametrize("text", ["", " x", "x\n", "naïve"], ids=["empty", "space", "newline", "not-ascii"])
def test_passcode_that_no_header_carries_is_refused(access: Access, text: str) -> None:
    """A passcode that could never be sent back is refused when it is set."""
    with pytest.raises(BadRequest, match="printable ASCII"):
        access.share("city", passcode=text)


def test_passcode_and_team_exclude_each_other(access: Access) -> None:
    """A canvas has one access level."""
    with pytest.raises(BadRequest, match="not with both"):
        access.share("city", passcode="x", team=True)


# -- access tokens and team canvases


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "Fused-Service-Token", "FUSED-SERVICE-TOKEN"])
def test_member_opens_a_team_canvas(access: Access, scheme: str) -> None:
    """An access token opens team canvases under both schemes, in any case."""
    token = access.share("city", team=True).token
    _, secret = access.create_token()

    grant = access.grant(token, Credentials(authorization=f"{scheme} {secret}"))

    assert (grant.canvas, grant.restricted, grant.may_read_code) == ("city", True, False)


@pytest.mark.parametrize("header", [None, "Bearer", "Bearer ts_wrong", "fused-canvas-passcode x"])
def test_team_canvas_without_a_valid_token_is_unauthorized(access: Access, header: str | None) -> None:
    """No token and an unknown one get 401."""
    token = access.share("city", team=True).token

    with pytest.raises(Unauthorized):
        access.grant(token, Credentials(authorization=header))


def test_token_for_another_canvas_is_forbidden(access: Access) -> None:
    """A valid token that isn't granted for this canvas gets 403."""
    token = access.share("city", team=True).token
    _, secret = access.create_token(canvases=["sea"])

    with pytest.raises(Forbidden):
        access.grant(token, bearer(secret))


@pytest.mark.parametrize(
    ("scope", "canvases", "reads"),
    [("admin", None, True), ("admin", ["city"], True), ("admin", ["sea"], False), ("run", None, False)],
)
def test_only_an_admin_of_the_canvas_reads_its_code(
    access: Access, scope: str, canvases: list[str] | None, reads: bool
) -> None:
    """The scope admin adds reading of code, where the token reaches the canvas."""
    token = access.share("city").token
    _, secret = access.create_token(scope=scope, canvases=canvases)  # type: ignore[arg-type]  # parametrised text

    assert access.grant(token, bearer(secret)).may_read_code is reads


def test_identity_of_a_token(access: Access) -> None:
    """A valid token says who, with which scope, and for which canvases."""
    token_id, secret = access.create_token("ci", scope="admin", canvases=["b", "a"])

    identity = access.identify(bearer(secret))

    assert identity is not None
    assert (identity.id, identity.name, identity.is_admin) == (token_id, "ci", True)
    assert identity.may_use("a")
    assert not identity.may_use("c")


def test_revoked_token_identifies_nobody(access: Access) -> None:
    """Revocation counts from the next question on."""
    token_id, secret = access.create_token()

    access.revoke(token_id)

    assert access.identify(bearer(secret)) is None
    assert access.tokens() == []


def test_expired_access_token_identifies_nobody(access: Access, clock: Clock) -> None:
    """An access token ends at the second it was given until."""
    _, secret = access.create_token(expires=10)

    clock.now += 10

    assert access.identify(bearer(secret)) is None


def test_unknown_scope_is_refused(access: Access) -> None:
    """A scope that doesn't exist is named together with those that do."""
    with pytest.raises(BadRequest, match="admin or run, not 'root'"):
        access.create_token(scope="root")  # type: ignore[arg-type]  # what is tested


# -- tokens of one UDF


def test_udf_token_opens_one_udf(access: Access) -> None:
    """An fsh_ token reaches its UDF, and no other of the canvas."""
    shared = access.create_shared_token("city", "roads")

    grant = access.grant(shared.token, NOBODY)

    assert (grant.canvas, grant.udf, grant.restricted) == ("city", "roads", False)
    assert grant.reaches("roads")
    assert not grant.reaches("rails")


def test_disabled_udf_token_is_unknown_until_enabled(access: Access) -> None:
    """Disabling is reversible and looks like an unknown token meanwhile."""
    token = access.create_shared_token("city", "roads").token

    assert not access.disable_shared_token(token).enabled
    with pytest.raises(UnknownToken):
        access.grant(token, NOBODY)
    assert access.enable_shared_token(token).enabled
    assert access.grant(token, NOBODY).udf == "roads"


def test_revoked_udf_token_is_unknown(access: Access) -> None:
    """Revoking is for good, and touches no other token of the same UDF."""
    first, second = (access.create_shared_token("city", "roads") for _ in range(2))

    access.revoke_shared_token(first.token)

    assert access.shared_tokens() == [second]
    with pytest.raises(UnknownToken):
        access.grant(first.token, NOBODY)


def test_changing_what_is_not_there_is_not_found(access: Access) -> None:
    """Each change names its object; one that doesn't exist is an error."""
    for change in (access.unshare, access.rotate, access.revoke, access.revoke_shared_token):
        with pytest.raises(NotFound):
            change("nothing")


# -- several processes, and what they keep


def test_changes_of_another_process_count_at_once(access: Access, other: Access) -> None:
    """What another process shares, revokes or disables is seen by the next question."""
    token = access.share("city", team=True).token
    token_id, secret = access.create_token()
    shared = access.create_shared_token("city", "roads").token
    assert other.grant(token, bearer(secret)).canvas == "city"

    access.revoke(token_id)
    access.disable_shared_token(shared)

    with pytest.raises(Unauthorized):
        other.grant(token, bearer(secret))
    with pytest.raises(UnknownToken):
        other.grant(shared, NOBODY)


def test_reading_goes_on_while_another_process_writes(access: Access, other: Access, state: Path) -> None:
    """An open write transaction elsewhere doesn't hold up a request."""
    token = access.share("city").token
    writer = sqlite3.connect(state / "database", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("DELETE FROM shares")

    assert other.grant(token, NOBODY).canvas == "city"
    writer.execute("ROLLBACK")
    writer.close()


def test_tokens_survive_reopening_and_are_seen_again(state: Path) -> None:
    """A new process derives the same share tokens from the key file."""
    first = Access(state)
    share = first.share("city")
    shared = first.create_shared_token("city", "roads")
    first.close()

    second = Access(state)

    assert (second.shares(), second.shared_tokens()) == ([share], [shared])
    assert second.grant(share.token, NOBODY).canvas == "city"
    second.close()


def test_two_processes_may_make_the_state_at_once(state: Path) -> None:
    """Whoever comes first makes the key; the others use it."""
    made: list[Access] = []
    threads = [threading.Thread(target=lambda: made.append(Access(state))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    token = made[0].share("city").token

    assert [one.grant(token, NOBODY).canvas for one in made] == ["city"] * 6
    assert sorted(path.name for path in state.iterdir() if path.name.startswith("key")) == ["key"]
    for one in made:
        one.close()


def test_database_reveals_no_token_and_no_passcode(access: Access, state: Path) -> None:
    """Everything usable is missing from a copy of the database, and from its log."""
    secrets = [
        access.share("city", passcode="tr0ub4dor").token,
        "tr0ub4dor",
        access.create_shared_token("city", "roads").token,
        access.create_token("ci")[1],
    ]

    stored = b"".join(path.read_bytes() for path in state.glob("database*"))

    assert b"city" in stored
    assert [text for text in secrets if text.rpartition("_")[2].encode() in stored] == []


def test_state_is_private(access: Access, state: Path) -> None:
    """Only the owner may enter the folder or read its files."""
    access.share("city")

    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (state, *state.iterdir())}

    assert modes[".tileserver"] == 0o700
    assert {mode for name, mode in modes.items() if name != ".tileserver"} == {0o600}


def test_database_without_its_key_is_refused(state: Path) -> None:
    """A lost key isn't replaced in silence: that would end every token."""
    Access(state).close()
    (state / "key").unlink()

    with pytest.raises(ConfigurationError, match="its key is missing"):
        Access(state)
    assert not (state / "key").exists()


def test_key_of_another_database_is_refused(state: Path) -> None:
    """A key that doesn't belong to the database is noticed at the start."""
    Access(state).close()
    (state / "key").write_text("ab" * 32, encoding="ascii")

    with pytest.raises(ConfigurationError, match="belongs to another database"):
        Access(state)


@pytest.mark.parametrize("text", ["", "ab" * 31, "xyz"])
def test_damaged_key_is_refused(state: Path, text: str) -> None:
    """A key that isn't 64 hexadecimal digits is called damaged."""
    Access(state).close()
    (state / "key").write_text(text, encoding="ascii")

    with pytest.raises(ConfigurationError, match="64 hexadecimal digits"):
        Access(state)


def test_lost_database_starts_anew_with_the_old_key(state: Path) -> None:
    """The key alone is enough to begin: nothing in it depends on the database."""
    Access(state).close()
    key = (state / "key").read_bytes()
    for path in state.glob("database*"):
        path.unlink()

    Access(state).close()

    assert (state / "key").read_bytes() == key


def test_unreadable_database_is_a_configuration_error(state: Path) -> None:
    """A file that is no database is named, not shown as a traceback."""
    Access(state).close()
    (state / "database").write_bytes(b"not a database, but long enough to look like one" * 40)

    with pytest.raises(ConfigurationError, match="database can't be used"):
        Access(state)


def test_database_of_a_newer_version_is_refused(state: Path) -> None:
    """An older program doesn't touch what it can't understand."""
    Access(state).close()
    connection = sqlite3.connect(state / "database")
    connection.execute("PRAGMA user_version = 999")
    connection.close()

    with pytest.raises(ConfigurationError, match="newer version"):
        Access(state)


def test_a_version_changes_with_every_change(tmp_path: Path) -> None:
    """By this process, another connection of it, or another process; and with nothing else."""
    mine, beside = Access(tmp_path), Access(tmp_path)
    seen = [mine.version()]
    mine.share("a")
    seen.append(mine.version())
    beside.share("b")
    seen.append(mine.version())
    program = "import sys, pathlib, tileserver.access as a; a.Access(pathlib.Path(sys.argv[1])).share('c')"
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    seen.append(mine.version())

    assert len(set(seen)) == 4
    assert mine.version() == beside.version() == seen[-1]
    beside.close()
    assert mine.version() == seen[-1]
    mine.close()
