"""What keeps UDF code in its place: parts in layers, each used where the kernel offers it.

``confine`` puts a worker into its sandbox, after it is known whose code it will run and before the first
line of that. What is in force is a set of parts, and a set has a level, A to D; nothing is left out silently.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from tileserver.sandbox import gate, identity, landlock, seccomp
from tileserver.sandbox.system import (
    PR_SET_CHILD_SUBREAPER,
    PR_SET_NO_NEW_PRIVS,
    PR_SET_PDEATHSIG,
    prctl,
)

Part = Literal["no_new_privs", "limits", "user", "landlock", "seccomp"]
Level = Literal["A", "B", "C", "D"]

PARTS: Final[Mapping[Part, str]] = {
    "user": "a user of its own for each worker",
    "no_new_privs": "no program gives more rights than its caller has",
    "limits": "limits of memory, processes, open files and file sizes",
    "landlock": "only files of the canvas, the libraries, the owner's cache and the worker's scratch",
    "seccomp": "only system calls that computing needs",
}

_LEVELS: Final[tuple[tuple[Level, frozenset[Part]], ...]] = (
    ("A", frozenset({"user", "no_new_privs", "limits", "landlock", "seccomp"})),
    ("B", frozenset({"no_new_privs", "limits", "landlock", "seccomp"})),
    ("C", frozenset({"user", "no_new_privs", "limits", "seccomp"})),
)

DESCRIPTIONS: Final[Mapping[str, str]] = {
    "A": "isolated",
    "B": "confined",
    "C": "a user of its own only",
    "D": "a process of its own only",
}

# What programs read besides their own files; those that a machine lacks are left out.
SYSTEM: Final = (
    *("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/etc/ssl", "/etc/pki", "/etc/ca-certificates"),
    *("/etc/resolv.conf", "/etc/hosts", "/etc/host.conf", "/etc/nsswitch.conf", "/etc/gai.conf"),
    *("/etc/services", "/etc/protocols", "/etc/mime.types", "/etc/ld.so.cache", "/etc/ld.so.conf"),
    *("/etc/ld.so.conf.d", "/etc/localtime", "/etc/timezone", "/etc/fonts", "/etc/alternatives"),
    *(
        "/run/systemd/resolve",
        "/sys/devices/system/cpu",
        "/sys/fs/cgroup",
        "/proc/uptime",
        "/proc/loadavg",
        "/proc/cpuinfo",
        "/proc/meminfo",
        "/proc/stat",
    ),
    *("/proc/filesystems", "/proc/sys/kernel/random", "/proc/sys/vm/overcommit_memory"),
)
_DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")

_OPEN_FILES: Final = 1024
_PROCESSES: Final = 256


@dataclass(frozen=True, slots=True)
class Plan:
    """How one worker is to be confined. ``read`` and ``write`` are paths (``SYSTEM`` is to be among those
    to read), ``home`` the folder that is its scratch; ``uid`` and ``gid`` stand for the part ``user``;
    ``reads_all`` keeps root's power to read without asking whose a file is, which only Landlock bounds. Sizes
    are bytes; ``memory`` is what the worker may use beyond what it has when it starts."""

    parts: tuple[Part, ...] = ()
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    home: str = ""
    uid: int | None = None
    gid: int | None = None
    reads_all: bool = False
    memory: int = 4 * 2**30
    file_size: int = 2**30
    network: str = "on"
    environment: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Plan:
        lists = {name: tuple(facts[name]) for name in ("parts", "read", "write")}
        return cls(**{**facts, **lists})


def available() -> frozenset[Part]:
    """The parts that this kernel offers to this process."""
    parts: set[Part] = {"no_new_privs", "limits"}
    if identity.can_become():
        parts.add("user")
    if landlock.version() > 0:
        parts.add("landlock")
    if seccomp.is_known_machine() and _has_seccomp():
        parts.add("seccomp")
    return frozenset(parts)


def _has_seccomp() -> bool:
    """Whether a filter can be put on a process: tried on a child that ends at once."""
    pid = os.fork()
    if pid == 0:
        status = 1
        with suppress(BaseException):  # whatever it is, it means no
            prctl(PR_SET_NO_NEW_PRIVS, 1)
            seccomp.install(seccomp.assemble("on"))
            status = 0
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def level_of(parts: frozenset[Part]) -> Level:
    """The highest level whose parts are all there."""
    return next((level for level, needed in _LEVELS if needed <= parts), "D")


def confine(plan: Plan) -> None:
    """Put this process into its sandbox for good. It must have one thread, and have run nobody's code.

    :raises OSError: when the kernel refuses a part of the plan.
    """
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")  # the kernel's first choice
    os.umask(0o007)
    supervisor = gate.open_gate(_supervisor(plan)) if plan.network == "public" else None
    if "limits" in plan.parts:
        _limit(plan)
    if plan.uid is not None and plan.gid is not None:
        identity.become(plan.uid, plan.gid, reads_all=plan.reads_all)
    elif plan.parts and os.geteuid() == 0:
        identity.give_up_powers(reads_all=plan.reads_all)
    prctl(PR_SET_PDEATHSIG, 9)  # forgotten when the user changes
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    if "no_new_privs" in plan.parts:
        prctl(PR_SET_NO_NEW_PRIVS, 1)
    if "landlock" in plan.parts:
        own = f"/proc/{os.getpid()}"
        landlock.restrict((*plan.read, own), (*_DEVICES, *plan.write))
    if "seccomp" in plan.parts:
        # Another user keeps things apart; Landlock does so for signals from its sixth version on, and for
        # truncation from its third.
        version = landlock.version() if "landlock" in plan.parts else 0
        user = plan.uid is None
        shared = seccomp.Shared(user, signals=user and version < 6, truncation=user and version < 3)
        program = seccomp.assemble(plan.network, shared=shared)
        if supervisor is None:
            seccomp.install(program)
        else:
            gate.hand_over(supervisor, seccomp.install(program, seccomp.NEW_LISTENER))


def _supervisor(plan: Plan) -> tuple[int, int, bool] | None:
    """As whom the supervisor runs: as itself where it may look into the worker's memory then, else as the
    worker's user, where Landlock keeps the worker from it."""
    if plan.uid is None or plan.gid is None or identity.can_trace() or "landlock" not in plan.parts:
        return None
    return plan.uid, plan.gid, plan.reads_all


def _limit(plan: Plan) -> None:
    """Address space counts what is only reserved, so what a worker begins with comes on top of its own."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    _set(resource.RLIMIT_AS, pages * resource.getpagesize() + plan.memory)
    _set(resource.RLIMIT_FSIZE, plan.file_size)
    _set(resource.RLIMIT_NOFILE, _OPEN_FILES)
    _set(resource.RLIMIT_CORE, 0)
    # Counted for all processes of a user: only one that has its worker for itself can be held to a few.
    _set(resource.RLIMIT_NPROC, _PROCESSES if plan.uid is not None else _running() + _PROCESSES)


def _set(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    most = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (most, most))


def _running() -> int:
    """Threads of this user, as far as it can see them."""
    user, count = os.getuid(), 0
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            if folder.stat().st_uid == user:
                count += len(os.listdir(folder / "task"))
    return count
