"""A curious UDF reads and changes nothing but its own; each refusal is for the right reason."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import Server
from tileserver import sandbox

REFUSED = ("PermissionError", "Operation not permitted", "Permission denied")


def opened(server: Server, path: str | Path, mode: str = "rb") -> str:
    """What a UDF is told that opens a path."""
    answer = server.get(f"/{{hostile}}/opener.json?path={path}&mode={mode}&cache_max_age=0")
    return answer.text


def evaluated(server: Server, body: str) -> str:
    answer = server.get("/{hostile}/evaluate.json", params={"body": body, "cache_max_age": 0})
    return answer.text


def test_the_sandbox_has_the_highest_level_that_there_is(hostile: Server) -> None:
    """All parts hold on the machine of the tests; the server says which level that is."""
    as_root = Path(f"/proc/{hostile.process.pid}").stat().st_uid == 0
    expected = "A" if as_root else "B"

    assert hostile.get("/readyz").json() == {"status": "ready", "sandbox": expected}
    assert sandbox.level_of(sandbox.available()) in ("A", "B")


def test_a_canvas_reads_its_own_files(hostile: Server) -> None:
    """Also where the workspace, the interpreter and the libraries lie under folders of mode 0700."""
    assert hostile.get("/{hostile}/reads_own.json").json() == [{"a": 1, "b": 2}]


def test_an_author_is_told_what_can_be_read(hostile: Server) -> None:
    """A file that is there and can't be opened is puzzling: the traceback says which ones can."""
    answer = hostile.get("/{hostile}/opener.json?path=/etc/passwd")

    assert "reads its canvas and the folders of data_dirs" in answer.json()["traceback"]


@pytest.mark.parametrize(
    "path",
    [
        *(".tileserver", ".tileserver/database", ".tileserver/key", ".tileserver/cache"),
        *(".tileserver/udf-cache/innocent", ".tileserver/scratch", ".", "other", "other/data/secret.csv"),
    ],
)
def test_state_and_other_canvases_are_out_of_reach(hostile: Server, path: str) -> None:
    """Database, key, caches, the workspace itself, another canvas's files."""
    hostile.get("/{innocent}/calm.json")

    said = opened(hostile, hostile.workspace / path)

    assert "PermissionError: [Errno 13]" in said, said


@pytest.mark.parametrize("name", ["environ", "mem", "maps", "cwd", "fd/0", "root/etc/passwd"])
def test_the_servers_process_is_out_of_reach(hostile: Server, name: str) -> None:
    """Through /proc neither its environment nor its memory nor its files can be had."""
    said = opened(hostile, f"/proc/{hostile.process.pid}/{name}")

    assert "PermissionError: [Errno 13]" in said, said


@pytest.mark.parametrize("path", ["/etc/passwd", "/etc/shadow", "/root", "/home", "/var/log", "/"])
def test_the_system_is_out_of_reach(hostile: Server, path: str) -> None:
    """Only libraries and what they need of it can be read."""
    assert "PermissionError: [Errno 13]" in opened(hostile, path)


@pytest.mark.parametrize(
    "path", ["hostile/planted.py", "planted", "other/planted.py", "/tmp/planted", "/dev/shm/p"]
)
def test_nothing_can_be_written_outside_scratch_and_cache(hostile: Server, path: str) -> None:
    """Not even into the canvas itself."""
    said = opened(hostile, path if path.startswith("/") else hostile.workspace / path, "w")

    assert "PermissionError: [Errno 13]" in said, said


def test_scratch_and_the_owners_cache_can_be_written(hostile: Server) -> None:
    """Its scratch is the worker's temporary folder; the cache is the owner's."""
    for place in ("TMPDIR", "TILESERVER_UDF_CACHE"):
        said = evaluated(hostile, f"open(os.path.join(os.environ['{place}'], 'x'), 'w').write('abc')")
        assert '"3"' in said, said


@pytest.mark.parametrize(
    "body",
    [
        "os.kill({pid}, 0)",
        "os.kill({pid}, 9)",
        "os.setuid(0)",
        "os.chroot('.')",
        "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)",
        "os.unshare(0x10000000) if hasattr(os, 'unshare') else os.setuid(0)",
    ],
)
def test_what_would_lead_out_is_refused(hostile: Server, body: str) -> None:
    """Signals to the server, identities, namespaces, raw sockets."""
    said = evaluated(hostile, body.format(pid=hostile.process.pid))

    assert "PermissionError: [Errno 1] Operation not permitted" in said, said
    assert hostile.process.poll() is None


@pytest.mark.parametrize(
    ("call", "values"),
    [
        pytest.param(101, "0x4206, {pid}, 0, 0", id="ptrace"),
        pytest.param(310, "{pid}, 0, 0, 0, 0, 0", id="process_vm_readv"),
        pytest.param(272, "0x10000000", id="unshare"),
        pytest.param(165, "0, 0, 0, 0, 0", id="mount"),
        pytest.param(304, "-100, 0, 0", id="open_by_handle_at"),
        pytest.param(425, "1, 0", id="io_uring"),
        pytest.param(321, "0, 0, 0", id="bpf"),
        pytest.param(157, "1, 0, 0, 0, 0", id="outlive"),
        pytest.param(56, "0x10000011, 0, 0, 0, 0", id="clone_into_a_namespace"),
        pytest.param(56, "0x8011, 0, 0, 0, 0", id="a_child_of_the_zygotes"),
        pytest.param(302, "{pid}, 4, 0, 0", id="prlimit"),
        pytest.param(203, "{pid}, 0, 0", id="sched_setaffinity"),
        pytest.param(144, "{pid}, 0, 0", id="sched_setscheduler"),
        pytest.param(141, "0, {pid}, 0", id="setpriority"),
        pytest.param(141, "2, 0, 0", id="setpriority_of_a_user"),
        pytest.param(251, "1, {pid}, 0", id="ioprio_set"),
        pytest.param(279, "{pid}, 0, 0, 0, 0, 0", id="move_pages"),
        pytest.param(66, "0, 0, 0", id="semctl"),
        pytest.param(31, "0, 0, 0", id="shmctl"),
        pytest.param(71, "0, 0, 0", id="msgctl"),
        pytest.param(72, "0, 1024, 0", id="lease"),
        pytest.param(16, "0, 0x40086602, 0", id="file_flags"),
    ],
)
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86_64")
def test_system_calls_that_lead_out_are_refused(hostile: Server, call: int, values: str) -> None:
    """EPERM, not an error of their arguments: the filter has seen them."""
    numbers = values.format(pid=hostile.process.pid)
    body = f"(ctypes.CDLL(None, use_errno=True).syscall({call}, {numbers}), ctypes.get_errno())"

    assert "(-1, 1)" in evaluated(hostile, body)


@pytest.mark.parametrize(
    "change",
    ["os.chmod({path!r}, 0o777)", "os.utime({path!r}, (1, 1))", "os.setxattr({path!r}, 'user.x', b'1')"],
)
@pytest.mark.parametrize("name", [".tileserver/database", "other/data/secret.csv", "hostile/data/own.csv"])
def test_what_is_known_of_files_is_not_changed(hostile: Server, name: str, change: str) -> None:
    """Landlock lets a user change modes, times and attributes of all that it owns, wherever that is."""
    path = hostile.workspace / name
    before = path.stat()

    said = evaluated(hostile, change.format(path=str(path)))

    assert '"None"' in said or "Operation not supported" in said, said
    assert (path.stat().st_mode, path.stat().st_mtime) == (before.st_mode, before.st_mtime)
    assert os.listxattr(path) == []


def test_files_of_its_own_can_be_copied(hostile: Server) -> None:
    """Copying sets modes and times, too, and does not mind."""
    said = evaluated(hostile, "__import__('shutil').copy2('data/own.csv', os.environ['TMPDIR'])")

    assert "own.csv" in said and "Error" not in said


def test_memory_that_no_process_has_mapped_is_not_to_be_had(hostile: Server) -> None:
    """No limit would count it."""
    assert "Function not implemented" in evaluated(hostile, "os.memfd_create('x')")


def test_sockets_of_this_machines_programs_are_refused(hostile: Server) -> None:
    """A database or a container engine listens on a path; no UDF may connect to one."""
    assert "Address family not supported" in evaluated(hostile, "socket.socket(socket.AF_UNIX)")


def test_no_descriptor_of_the_server_is_inherited(hostile: Server) -> None:
    """A worker has its standard streams and its channel; the rest are files that it opened itself."""
    said = evaluated(
        hostile, "[os.readlink(f'/proc/self/fd/{n}') for n in os.listdir('/proc/self/fd') if n != '3']"
    )

    assert "database" not in said and "cache.db" not in said and "[eventpoll]" not in said


def test_the_environment_holds_nothing_of_the_servers(hostile: Server) -> None:
    """Workers begin with an environment that is made for them."""
    said = evaluated(hostile, "sorted(os.environ)")

    assert "TILESERVER_UDF_CACHE" in said
    assert "SECRET_OF_THE_SERVER" not in said


def test_posted_code_is_confined_too(hostile: Server) -> None:
    """It runs, writes into the folder that is its poster's, and reads no canvas."""
    headers = {"Authorization": f"Bearer {hostile.tokens['access']}"}
    code = (
        "@fused.udf\ndef udf():\n    import os\n    open('mine.txt', 'w').write('abc')\n"
        f"    return sorted(os.listdir('.')) + [open({str(hostile.workspace / 'other/hello.py')!r}).read()]"
    )
    step = '{"type": "udf", "udf": {"name": "a", "entrypoint": "udf", "code": %s, "parameters": {}}}'
    import json

    answer = hostile.get(
        "/run/udf", "POST", headers=headers, json={"step_config": step % json.dumps(code), "format": "json"}
    )

    assert answer.status_code == 422
    assert "PermissionError: [Errno 13]" in answer.text
