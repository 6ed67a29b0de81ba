"""What this machine offers to keep UDF code in its place, found out by attacking from inside a worker.

Versions of the kernel's interfaces say what should hold; an attack says what does. Each is one that a hostile
UDF would try, run as a UDF in the sandbox that the server would use.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tileserver import sandbox
from tileserver.errors import TileServerError
from tileserver.executor.local import LocalPool
from tileserver.protocol import Bundle, Job, Source
from tileserver.sandbox import Level, Part

PLANTED: Final = Path("/tmp/tileserver-planted")  # noqa: S108 - where every program may write
METADATA_WARNING: Final = (
    "169.254.169.254 answers, where clouds hand out their machines' credentials, and UDF code may reach it:"
    " set network to public"
)
METADATA: Final = ("169.254.169.254", 80)

# Name, whether it must fail or work, and the body; "t" holds the targets. Refusals come as exceptions.
_ATTEMPTS: Final[tuple[tuple[str, bool, str], ...]] = (
    ("read the server's database", True, "open(t['database'], 'rb').read(1)"),
    ("read the server's key", True, "open(t['key'], 'rb').read(1)"),
    ("read the server's environment", True, "open(f\"/proc/{t['server']}/environ\", 'rb').read(1)"),
    ("read the server's memory", True, "open(f\"/proc/{t['server']}/mem\", 'rb').seek(0)"),
    ("list the workspace", True, "os.listdir(t['workspace'])"),
    ("read another canvas", True, "open(t['other'] + '/secret.txt').read()"),
    ("write into the workspace", True, "open(t['workspace'] + '/planted.py', 'w')"),
    ("write into the system's temporary folder", True, f"open({str(PLANTED)!r}, 'w')"),
    ("read a file of the system", True, "open(t['file']).read(1)"),
    ("change a file of the server's", True, "open_to_all(t['database'])"),
    ("set the server's limits", True, "__import__('resource').prlimit(t['server'], 4, (0, 0))"),
    ("make memory that nobody counts", True, "os.memfd_create('x')"),
    ("signal the server", True, "os.kill(t['server'], 0)"),
    ("trace the server", True, "call(101, 117, 0x4206, t['server'], 0, 0)"),
    ("copy the server's memory", True, "call(310, 270, t['server'], 0, 0, 0, 0, 0)"),
    ("take a file from the server", True, "call(438, 438, os.pidfd_open(t['server']), 0, 0)"),
    ("make a user namespace", True, "call(272, 97, 0x10000000)"),
    ("mount", True, "call(165, 40, 0, 0, 0, 0, 0)"),
    ("open by handle", True, "call(304, 265, -100, 0, 0)"),
    ("set up io_uring", True, "call(425, 425, 1, 0)"),
    ("load a program into the kernel", True, "call(321, 280, 0, 0, 0)"),
    ("make a unix socket", True, "socket.socket(socket.AF_UNIX)"),
    ("make a raw socket", True, "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)"),
    ("become another user", True, "os.setuid(0)"),
    ("outlive the server", True, "call(157, 167, 1, 0, 0, 0, 0)"),
    ("write into its scratch", False, "open(os.path.join(os.environ['TMPDIR'], 'x'), 'w').write('x')"),
    ("write into its cache", False, "open(os.path.join(os.environ['TILESERVER_UDF_CACHE'], 'x'), 'w')"),
    ("import a module that nothing has used", False, "__import__('wave')"),
    ("start a program", False, "__import__('subprocess').run(['true'], check=True)"),
    ("compute with a library", False, "__import__('numpy').linalg.inv([[2.0, 1.0], [1.0, 2.0]])"),
)
_IF_OFF: Final = ("make a socket", True, "socket.socket()")
_IF_PUBLIC: Final = ("connect to this machine", True, "socket.create_connection(('127.0.0.1', t['port']), 2)")

_SOURCE: Final = """
import ctypes, errno, os, platform, socket

libc = ctypes.CDLL(None, use_errno=True)


def call(x86_64, aarch64, *values):
    number = x86_64 if platform.machine() == "x86_64" else aarch64
    if libc.syscall(ctypes.c_long(number), *(ctypes.c_long(int(v)) for v in values)) == -1:
        refusal = ctypes.get_errno()
        if refusal not in (errno.EFAULT, errno.EINVAL, errno.EBADF):  # those mean that it would have gone on
            raise OSError(refusal, os.strerror(refusal))


def open_to_all(path):  # chmod may say that it was done
    before = os.stat(path).st_mode
    os.chmod(path, 0o666)
    if os.stat(path).st_mode == before:
        raise PermissionError(errno.EPERM, "its mode stays what it was")
    os.chmod(path, before & 0o7777)


@fused.udf
def udf(t: dict, attempts: list):
    said = {}
    for name, body in attempts:
        try:
            eval(body, {**globals(), "t": t})
        except Exception as error:
            said[name] = [getattr(error, "errno", None) or 0, f"{type(error).__name__}: {error}"]
        else:
            said[name] = None
    return said
"""

# What the system says to somebody who may not, or to whom it doesn't offer the thing at all.
_REFUSALS: Final = frozenset(
    {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EROFS, errno.EAFNOSUPPORT, errno.EOPNOTSUPP}
)
_HIDDEN: Final = frozenset({errno.ENOENT, errno.ESRCH})  # the server's process, to workers that can't see it


@dataclass(frozen=True, slots=True)
class Attempt:
    """What happened to one attempt: it should be refused, or should work. ``reason`` is what stopped it, and
    ``was_refused`` whether that was the system: an attack that fails for another reason proves nothing."""

    name: str
    is_attack: bool
    reason: str | None
    was_refused: bool = False

    @property
    def is_well(self) -> bool:
        return self.was_refused if self.is_attack else self.reason is None

    @property
    def outcome(self) -> str:
        """For people."""
        if not self.is_attack:
            return self.reason or "yes"
        if self.reason is None:
            return "succeeded"
        return self.reason if self.was_refused else f"could not be tried: {self.reason}"


@dataclass(frozen=True, slots=True)
class Report:
    """``level`` is that of the parts in force, and D where an attack got through."""

    level: Level
    parts: tuple[str, ...]
    missing: Mapping[Part, str]
    attempts: tuple[Attempt, ...]
    notes: tuple[str, ...]

    @property
    def failures(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if not attempt.is_well]

    def to_json(self) -> dict[str, Any]:
        return {
            "level": self.level,
            "parts": list(self.parts),
            "missing": dict(self.missing),
            "attacks": {a.name: a.outcome for a in self.attempts if a.is_attack},
            "works": {a.name: a.outcome for a in self.attempts if not a.is_attack},
            "notes": list(self.notes),
        }


async def examine(pool: LocalPool, state_dir: Path) -> Report:
    """Attack from inside a worker of a pool that runs, whose state is in ``state_dir``."""
    confinement = pool.confinement
    attempts = list(_ATTEMPTS)
    if confinement.network == "off":
        attempts.append(_IF_OFF)
    if confinement.network == "public":
        attempts.append(_IF_PUBLIC)
    with tempfile.TemporaryDirectory(dir=state_dir) as place, socket.create_server(("127.0.0.1", 0)) as here:
        targets = _targets(Path(place), state_dir, here.getsockname()[1])
        said = await _attempted(pool, state_dir, targets, attempts)
    PLANTED.unlink(missing_ok=True)
    done = tuple(_judged(name, is_attack, body, said.get(name)) for name, is_attack, body in attempts)
    notes = confinement.notes
    if confinement.network == "on" and metadata_answers():
        notes = (*notes, METADATA_WARNING)
    level = confinement.level if all(a.is_well for a in done if a.is_attack) else "D"
    missing = {part: sandbox.PARTS[part] for part in sorted(confinement.missing)}
    return Report(level, tuple(sorted(confinement.parts)), missing, done, notes)


def _judged(name: str, is_attack: bool, body: str, said: tuple[int, str] | None) -> Attempt:
    if said is None:
        return Attempt(name, is_attack, None)
    number, reason = said
    refusals = _REFUSALS | (_HIDDEN if "t['server']" in body else frozenset())
    return Attempt(name, is_attack, reason, was_refused=number in refusals)


def _targets(place: Path, state_dir: Path, port: int) -> dict[str, Any]:
    other = place / "workspace/other"
    other.mkdir(parents=True)
    (other / "secret.txt").write_text("a file of another canvas")
    for name in ("database", "key"):  # where there is none yet, something to be read in its place
        if not (state_dir / name).exists():
            (place / name).write_text("x")
    found = {
        name: str(p if (p := state_dir / name).exists() else place / name) for name in ("database", "key")
    }
    return {
        **found,
        "file": next(p for p in ("/etc/passwd", "/etc/hostname", "/proc/version") if Path(p).exists()),
        "server": os.getpid(),
        "workspace": str(other.parent),
        "other": str(other),
        "port": port,
    }


async def _attempted(
    pool: LocalPool, state_dir: Path, targets: Mapping[str, Any], attempts: list[tuple[str, bool, str]]
) -> dict[str, tuple[int, str] | None]:
    folder = state_dir / "posted" / "doctor"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    source = Source("doctor.py", "udf", {}, {})
    bundle = Bundle("doctor", "@doctor", "", str(folder), {"doctor.py": _SOURCE}, {"doctor": source}, {})
    arguments = {"t": json.dumps(targets), "attempts": json.dumps([[n, body] for n, _, body in attempts])}
    job = Job("@doctor", bundle.id, "doctor", arguments, ("json",), "data", time_limit=30.0)
    try:
        answer = await pool.run(job, bundle)
    except TileServerError as error:
        return {name: None if is_attack else (0, error.message) for name, is_attack, _ in attempts}
    said: dict[str, tuple[int, str] | None] = json.loads(answer.body)
    return said


def metadata_answers(timeout: float = 0.3) -> bool:
    """Whether the address answers where clouds hand out credentials of their machines."""
    with suppress(OSError), socket.create_connection(METADATA, timeout):
        return True
    return False
