"""What is in force is known: parts make levels, and the doctor attacks instead of asking."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.conftest import running
from tests.test_statuses import Raising
from tileserver import doctor, sandbox, settings
from tileserver.access import Access
from tileserver.app import create_app
from tileserver.errors import ConfigurationError
from tileserver.executor.confinement import Confinement, unreadable
from tileserver.executor.local import LocalPool
from tileserver.sandbox import Part

ALL: frozenset[Part] = frozenset({"user", "no_new_privs", "limits", "landlock", "seccomp"})


@pytest.mark.parametrize(
    ("missing", "level"),
    [
        ((), "A"),
        (("user",), "B"),
        (("landlock",), "C"),
        (("user", "landlock"), "D"),
        (("seccomp",), "D"),
        (("no_new_privs",), "D"),
        (("limits",), "D"),
    ],
)
def test_a_set_of_parts_has_the_highest_level_that_it_holds(missing: tuple[Part, ...], level: str) -> None:
    """A wants all of them, B can do without users, C without Landlock."""
    assert sandbox.level_of(ALL - set(missing)) == level


def test_strict_refuses_to_start_below_level_b(tmp_path: Path) -> None:
    """And says what is missing."""
    with pytest.raises(ConfigurationError, match="needs level B, and this machine has level D: missing"):
        Confinement(tmp_path, mode="strict", parts=frozenset({"limits"}))

    assert Confinement(tmp_path, mode="strict", parts=ALL - {"user"}).level == "B"


@pytest.mark.parametrize("network", ["off", "public"])
def test_a_network_that_can_not_be_enforced_refuses_to_start(tmp_path: Path, network: str) -> None:
    """A setting that does nothing would be worse than none."""
    with pytest.raises(ConfigurationError, match=f"network = {network} can't be enforced"):
        Confinement(tmp_path, network=network, parts=ALL - {"seccomp"})


def test_a_place_that_another_user_can_not_reach_is_named(tmp_path: Path) -> None:
    """The folder that is in the way, not the file behind it."""
    (tmp_path / "shut/deep").mkdir(parents=True)
    (tmp_path / "shut").chmod(0o700)

    assert unreadable([str(tmp_path / "shut/deep")], os.getuid() + 1) is not None
    assert unreadable(["/usr/lib"], os.getuid() + 1) is None


@pytest.mark.anyio
@pytest.mark.parametrize("parts", [(), ("no_new_privs", "limits")], ids=["nothing", "limits"])
async def test_the_doctor_sees_attacks_that_succeed(tmp_path: Path, parts: tuple[Part, ...]) -> None:
    """Without the parts that stop them files are read and written, and the level is D."""
    confinement = Confinement(tmp_path, parts=frozenset(parts))
    async with LocalPool(state_dir=tmp_path, workers=1, confinement=confinement) as pool:
        report = await doctor.examine(pool, tmp_path)

    succeeded = {attempt.name for attempt in report.failures}
    assert report.level == "D"
    assert {"read another canvas", "read a file of the system", "make a unix socket"} <= succeeded
    assert "compute with a library" not in succeeded


@pytest.mark.anyio
async def test_the_doctor_sees_what_holds(tmp_path: Path) -> None:
    """With all that this machine offers, every attack is refused, and what should work does."""
    async with LocalPool(state_dir=tmp_path, workers=1) as pool:
        report = await doctor.examine(pool, tmp_path)

    assert report.failures == []
    assert report.level == pool.level


def test_the_doctor_prints_one_level_and_what_is_missing(tmp_path: Path) -> None:
    """For people, and as JSON for programs."""
    told = subprocess.run(
        [sys.executable, "-m", "tileserver", "doctor", "--workspace", str(tmp_path), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    facts = json.loads(told.stdout)["sandbox"]

    assert facts["level"] in ("A", "B")
    assert facts["missing"].keys() == ALL - set(facts["parts"])
    assert "succeeded" not in facts["attacks"].values()
    assert set(facts["works"].values()) == {"yes"}


class Level(Raising):
    """An executor of some level, that has nothing to run."""

    def __init__(self, level: str) -> None:
        super().__init__(RuntimeError("it ran"))
        self._level = level

    @property
    def level(self) -> str:
        return self._level


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("level", "host", "runs"),
    [
        ("A", "0.0.0.0", True),
        ("C", "0.0.0.0", True),
        ("D", "127.0.0.1", False),
        ("off", "127.0.0.1", True),
        ("off", "0.0.0.0", False),
    ],
)
async def test_posted_code_is_refused_where_it_can_not_be_confined(
    tmp_path: Path, level: str, host: str, runs: bool
) -> None:
    """Below level C, and with the sandbox off where others than this machine may ask."""
    flags = {"host": host, "allowed_hosts": "127.0.0.1"}
    chosen = settings.load(tmp_path, flags=flags, environ={})
    access = Access(chosen.state_dir)
    _, secret = access.create_token("poster", scope="run")
    access.close()
    app = create_app(chosen, executor=Level(level))
    step = json.dumps({"type": "udf", "udf": {"code": "@fused.udf\ndef udf(): return 1\n"}})

    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url="http://127.0.0.1"
        ) as client,
    ):
        headers = {"authorization": f"Bearer {secret}"}
        answer = await client.post("/run/udf", json={"step_config": step}, headers=headers)

    assert answer.status_code == (500 if runs else 403)
    assert runs or "this server runs no posted code" in answer.json()["detail"]


def test_data_dirs_can_be_read_and_not_written(tmp_path: Path) -> None:
    """What else a UDF may read is the operator's to say."""
    (tmp_path / "w/city").mkdir(parents=True)
    (tmp_path / "survey").mkdir()
    (tmp_path / "survey/a.txt").write_text("abc")
    source = "@fused.udf\ndef udf(mode: str = 'r'):\n    return open(PATH, mode).read()\n"
    path = str(tmp_path / "survey/a.txt")
    (tmp_path / "w/city/reads.py").write_text(source.replace("PATH", repr(path)))
    token = (access := Access(tmp_path / "w/.tileserver")).share("city").token
    access.close()

    with running("serve", str(tmp_path / "w"), "--data-dirs", str(tmp_path / "survey")) as (_, line):
        assert httpx.get(f"{line['url']}/{token}/reads.json").json() == "abc"
        assert "PermissionError" in httpx.get(f"{line['url']}/{token}/reads.json?mode=a").text
    with running("serve", str(tmp_path / "w")) as (_, line):
        assert "PermissionError" in httpx.get(f"{line['url']}/{token}/reads.json?cache_max_age=0").text


def test_the_sandbox_can_be_switched_off(tmp_path: Path) -> None:
    """Then it says so wherever it is asked."""
    (tmp_path / "city").mkdir()
    (tmp_path / "city/passwd.py").write_text("@fused.udf\ndef udf(): return open('/etc/passwd').read(4)\n")
    token = (access := Access(tmp_path / ".tileserver")).share("city").token
    access.close()

    with running("serve", str(tmp_path), "--sandbox", "off") as (_, line):
        assert httpx.get(f"{line['url']}/readyz").json()["sandbox"] == "off"
        assert httpx.get(f"{line['url']}/{token}/passwd.json").status_code == 200
