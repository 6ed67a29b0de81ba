"""What is in force is known: parts make levels, and the doctor attacks instead of asking."""

from __future__ import annotations

import errno
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
from tileserver.protocol import Bundle
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


OLDER = """
import fcntl, os, socket, sys, tempfile
from tileserver.sandbox import seccomp
from tileserver.sandbox.system import PR_SET_NO_NEW_PRIVS, prctl
path = tempfile.NamedTemporaryFile().name
open(path, "w").write("kept")
prctl(PR_SET_NO_NEW_PRIVS, 1)
seccomp.install(seccomp.assemble("on", shared=seccomp.Shared(user=True, signals=True, truncation=True)))
held = open(path)
for attack in (
    lambda: os.truncate(path, 0),
    lambda: os.open(path, os.O_RDONLY | os.O_TRUNC),
    lambda: os.kill(os.getppid(), 0),
    lambda: fcntl.fcntl(held, fcntl.F_SETOWN, os.getppid()),
    lambda: fcntl.fcntl(held, fcntl.F_SETSIG, 9),
    lambda: fcntl.ioctl(socket.socket(), 0x8901, os.getppid().to_bytes(4, sys.byteorder)),
):
    try:
        attack()
    except PermissionError as error:
        print(error.errno)
os.kill(os.getpid(), 0)
os.chmod(held.fileno(), 0o777)
print(open(path).read(), os.stat(path).st_mode & 0o100)
open(path, "w").write("written")
print(open(path).read())
"""


def test_what_an_older_landlock_leaves_open_is_closed(tmp_path: Path) -> None:
    """Before its third version it lets files be cut short that can only be read; before its sixth it doesn't
    keep signals inside, whoever sends them. Ordinary writing goes on."""
    told = subprocess.run(
        [sys.executable, "-c", OLDER],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent), "TMPDIR": str(tmp_path)},
    )

    assert told.stdout.splitlines() == ["1"] * 6 + ["kept 0", "written"], told


def test_a_folder_that_holds_the_workspace_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Programs may lie in a folder that the workspace lies in, too (an editable install, or one in /usr/src).
    Only what is beside the workspace can be read then, and it is told."""
    workspace = tmp_path / "project/workspace"
    beside, data, city = tmp_path / "project/lib", workspace / "data", workspace / "city"
    for folder in (beside, data, city, workspace / ".tileserver"):
        folder.mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path / "project")])
    state = workspace / ".tileserver"
    confinement = Confinement(state, workspace=workspace, read=[workspace], parts=ALL - {"user"})
    bundle = Bundle("b", "city", "city", str(city), {}, {}, {})
    confinement.prepare()

    allowed = confinement.plan(bundle, 0).read

    within = {path for path in allowed if path.startswith(str(tmp_path))}
    assert within == {str(path) for path in (beside, data, city)}
    assert [note for note in confinement.notes if str(tmp_path / "project") in note]


@pytest.mark.parametrize(
    ("said", "was_refused"),
    [
        ((errno.EPERM, "PermissionError"), True),
        ((errno.EACCES, "PermissionError"), True),
        ((errno.ENOENT, "FileNotFoundError"), False),
        ((errno.ETIMEDOUT, "TimeoutError"), False),
        ((0, "NameError"), False),
        (None, False),
    ],
)
def test_an_attack_that_fails_for_another_reason_proves_nothing(
    said: tuple[int, str] | None, was_refused: bool
) -> None:
    """What isn't there, or takes too long, was not refused."""
    attempt = doctor._judged("read a file", True, "open('x')", said)

    assert attempt.is_well is was_refused
    assert was_refused or attempt.outcome.startswith("succeeded" if said is None else "could not be tried")


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
