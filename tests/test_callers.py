"""What a UDF sees of its caller, and what looking does to storing and sharing its result."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import httpx
import pytest

from tests.conftest import Server, serving

HEADERS = "import fused\n@fused.udf\ndef udf(n: int = 0):\n    return dict(fused.context.get_headers())\n"
CONTEXT = (
    "import fused\n@fused.udf\ndef udf():\n    c = fused.context\n"
    "    return [c.get_share_token(), c.get_header('FUSED-Session-Token'), c.get_user_email()]\n"
)
LOOKS = (
    "import fused, time, uuid\n@fused.udf\ndef udf(look: bool = True, fail: bool = False, n: int = 0):\n"
    "    time.sleep(0.3)\n    who = fused.context.get_header('x-who') if look else None\n"
    "    if fail: raise ValueError(f'no {who}')\n    return [who, uuid.uuid4().hex]\n"
)
FILES = {
    "city/headers.py": HEADERS,
    "city/context.py": CONTEXT,
    "city/looks.py": LOOKS,
    "city/dies.py": "import fused, os, time\n@fused.udf\ndef udf():\n"
    "    print(fused.context.get_header('x-who'), flush=True)\n    time.sleep(1)\n    os._exit(3)\n",
    "city/cached.py": "import fused\n@fused.cache\ndef who(): return fused.context.get_header('x-who')\n"
    "@fused.cache\nasync def later(): return fused.context.get_header('x-who')\n"
    "@fused.cache\ndef plain():\n    import uuid\n    return uuid.uuid4().hex\n"
    "@fused.udf\nasync def udf():\n    return [who(), await later(), plain()]\n",
    "city/parent.py": "import fused\n@fused.udf\ndef udf():\n    return fused.run('looks')\n",
    "city/end.py": "import fused\n@fused.udf\ndef udf():\n    return 'end'\n",
    "city/careful.py": "import fused\n@fused.udf\ndef udf(away: bool = False):\n"
    "    try:\n        pool = fused.submit('end', [{}], collect=False) if away else None\n"
    "        return pool.results()[0] if away else fused.run('end')\n"
    "    except Exception as error:\n        return type(error).__name__\n",
    "city/canvas.toml": "public_name = true\n",
    "team/context.py": CONTEXT,
}
CREDENTIALS = {
    "Authorization": "Bearer secret",
    "Cookie": "a=secret",
    "Proxy-Authorization": "secret",
    "Proxy-Connection": "secret",
}
FORWARDING = {
    "Forwarded": "for=secret",
    "X-Forwarded-For": "secret",
    "X-Forwarded-Host": "secret",
    "X-Original-Forwarded-For": "secret",
    "X-Real-IP": "secret",
    "Via": "1.1 secret",
    "True-Client-IP": "secret",
    "CF-Connecting-IP": "secret",
}
CLAIMS = {
    "Fused-Share-Token": "secret",
    "Fused-Session-Token": "secret",
    "Fused-Share-User-Email": "secret",
    "Fused-Share-Execution-Environment-Id": "secret",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("callers") / "w", FILES) as running:
        running.access.share("team", team=True)
        running.tokens["fsh"] = running.access.create_shared_token("city", "context").token
        yield running


def bearer(server: Server, name: str = "") -> dict[str, str]:
    return {"authorization": f"Bearer {server.access.create_token(name)[1]}"}


# -- what is seen


@pytest.mark.parametrize(
    "sent", [CREDENTIALS, FORWARDING, CLAIMS], ids=["credentials", "forwarding", "claims"]
)
def test_what_no_udf_sees(server: Server, sent: dict[str, str]) -> None:
    """Contract, section 6: never credentials, never what proxies add, and never what a caller says in the
    server's name."""
    seen = server.get("/{city}/headers", headers={**sent, "X-Custom": "seen"}).json()

    assert seen["x-custom"] == "seen"
    assert "secret" not in json.dumps(seen)


@pytest.mark.parametrize(
    ("path", "share"),
    [
        ("{city}/context", "{city}/context"),
        ("{city}/context.json", "{city}/context"),
        ("{city}/context/run/file", "{city}/context"),
        ("{city}/context/run/tiles/0/0/0?format=json", "{city}/context"),
        ("{city}-context", "{city}/context"),
        ("{fsh}", "{fsh}"),
        ("{fsh}.json", "{fsh}"),
        ("fc_a/city/context.json", "fc_a/city/context"),
    ],
)
def test_the_share_token_that_was_used(server: Server, path: str, share: str) -> None:
    """Contract, section 6: ``Fused-Share-Token`` is the token, with the UDF's name after a canvas's."""
    seen = server.get(f"/{path}").json()[0]

    assert seen == share.format(**server.tokens)


def test_the_session_token_that_was_used(server: Server) -> None:
    """Contract, section 6: ``Fused-Session-Token``, only where it was what opened the canvas."""
    path = f"/server/v1/session-token/by-access-token/{server.tokens['team']}"
    token = server.get(path, "POST", headers=bearer(server)).json()["session_token"]
    query = f"?fused_session_token={token}"

    assert server.get(f"/{{team}}/context{query}").json()[1] == token
    assert server.get(f"/{{team}}/context{query}", headers=bearer(server)).json()[1] is None
    assert server.get(f"/{{city}}/context{query}").json()[1] is None


def test_the_address_of_the_user(server: Server) -> None:
    """There are no accounts: the name of an access token is its holder's address where it is one."""
    path = "/{team}/context"

    assert server.get(path, headers=bearer(server, "me@example.org")).json()[2] == "me@example.org"
    assert server.get(path, headers=bearer(server, "notebook")).json()[2] is None
    assert server.get("/{city}/context").json()[2] is None


def test_posted_code_sees_its_poster_and_no_token(server: Server) -> None:
    """Contract, section 6: nothing of the credential that let it in."""
    headers = {**bearer(server, "me@example.org"), "x-custom": "seen"}
    step = {"udf": {"code": HEADERS, "entrypoint": "udf"}}
    body = {"step_config": json.dumps(step), "format": "json"}

    seen = server.get("/run/udf", "POST", json=body, headers=headers).json()

    assert (seen["x-custom"], seen["fused-share-user-email"]) == ("seen", "me@example.org")
    assert headers["authorization"].split()[1] not in json.dumps(seen)
    assert "fused-share-token" not in seen


def test_a_chain_of_udfs_that_is_too_long_is_refused(server: Server) -> None:
    """Contract, section 10: ``Fused-Recursion`` counts from 1, and ends above 5; nonsense counts as 1."""
    answers = {
        depth: server.get("/{city}/context", headers={"fused-recursion": depth})
        for depth in ("1", "5", "6", "99999999", "x", "-3")
    }

    assert {depth for depth, answer in answers.items() if answer.status_code == 422} == {"6", "99999999"}
    facts = json.loads(answers["6"].headers["x-fused-metadata"])
    assert (facts["exception_class"], facts["has_exception"]) == ("RecursionError", True)


# -- what looking does


@pytest.mark.parametrize("udf", ["looks", "parent", "headers", "context"])
def test_a_result_that_depends_on_its_caller_is_not_stored(server: Server, udf: str) -> None:
    """Each request runs, and nobody may keep the answer; in a UDF that another one runs, too."""
    answers = [server.get(f"/{{city}}/{udf}", headers={"x-who": who}) for who in ("a", "b", "a")]

    assert [answer.headers["x-cache"] for answer in answers] == ["miss"] * 3
    assert {answer.headers["cache-control"] for answer in answers} == {"private, no-store"}
    assert not any("x-fused-cached" in answer.headers for answer in answers)


def test_a_result_that_does_not_look_is_stored(server: Server) -> None:
    """What counts is the run, not the source: the same UDF is stored when it doesn't look."""
    answers = [server.get("/{city}/looks?look=false", headers={"x-who": who}) for who in ("a", "b")]

    assert [answer.headers["x-cache"] for answer in answers] == ["miss", "hit"]
    assert answers[0].text == answers[1].text


@pytest.mark.parametrize("away", ["true", "false"])
def test_a_result_that_depends_on_how_deep_its_caller_is_is_not_stored(server: Server, away: str) -> None:
    """Nobody else gets what a UDF made of being unable to call another one, here or in another worker."""
    path = f"/{{city}}/careful.json?away={away}"

    assert server.get(path, headers={"fused-recursion": "5"}).text != '"end"'
    assert server.get(path).text == '"end"'


@pytest.mark.anyio
@pytest.mark.parametrize("query", ["n=1", "n=2&fail=true"])
async def test_callers_at_once_get_their_own(server: Server, query: str) -> None:
    """Who has joined a run that turns out to look at its caller gets a run of their own, failed ones too."""
    callers = [f"caller{number}" for number in range(5)]
    url = f"{server.url}/{server.tokens['city']}/looks?{query}"

    async with httpx.AsyncClient(timeout=60) as client:
        answers = await asyncio.gather(*(client.get(url, headers={"x-who": who}) for who in callers))

    assert [who in answer.text for who, answer in zip(callers, answers, strict=True)] == [True] * 5
    assert len({answer.text for answer in answers}) == 5


@pytest.mark.anyio
async def test_callers_at_once_share_what_does_not_look(server: Server) -> None:
    """Otherwise identical requests are one run, whoever asks."""
    url = f"{server.url}/{server.tokens['city']}/looks?look=false&n=3"

    async with httpx.AsyncClient(timeout=60) as client:
        answers = await asyncio.gather(*(client.get(url, headers={"x-who": str(n)}) for n in range(5)))

    assert len({answer.text for answer in answers}) == 1


@pytest.mark.anyio
async def test_what_a_run_printed_before_its_end_is_its_callers_alone(server: Server) -> None:
    """Who has joined a run that was killed learns that, and not what it had printed of somebody else."""
    url = f"{server.url}/{server.tokens['city']}/dies"
    callers = [f"caller{number}" for number in range(3)]

    async with httpx.AsyncClient(timeout=60) as client:
        answers = await asyncio.gather(*(client.get(url, headers={"x-who": who}) for who in callers))

    told = [json.loads(answer.headers["x-fused-metadata"])["stdout"] for answer in answers]
    assert [answer.status_code for answer in answers] == [422] * 3
    assert sorted(told)[:2] == ["", ""]
    assert sorted(told)[2] == f"{callers[told.index(max(told))]}\n"


def test_what_fused_cache_made_of_a_caller_is_not_kept(server: Server) -> None:
    """It would be given to the next one; what doesn't look at the caller is kept."""
    first, second = (server.get("/{city}/cached", headers={"x-who": who}) for who in ("a", "b"))

    assert (first.json()[:2], second.json()[:2]) == (["a", "a"], ["b", "b"])
    assert first.json()[2] == second.json()[2]
    assert second.headers["cache-control"] == "private, no-store"
