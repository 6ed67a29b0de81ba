"""A user of its own for each worker, where the server runs as root.

All powers of root go but one: to read and search folders without asking whose they are, which lets the
interpreter and the workspace lie under folders of root's own. It is kept only where Landlock bounds it.
"""

from __future__ import annotations

import ctypes
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final

from tileserver.sandbox.system import (
    MACHINE,
    PR_CAP_AMBIENT,
    PR_CAP_AMBIENT_RAISE,
    PR_SET_DUMPABLE,
    PR_SET_KEEPCAPS,
    prctl,
    syscall,
)

_CAPABILITY_VERSION: Final = 0x20080522
_DAC_READ_SEARCH: Final = 2
_SYS_PTRACE: Final = 19
_CAPSET: Final = {"x86_64": 126, "aarch64": 91}

# Far from the numbers that people and packages get; where a container has only some, the last of those.
FIRST: Final = 0x70000000
COUNT: Final = 65536


def first_id() -> int | None:
    """The first of a run of user and group numbers for workers; None where this process can't change its
    user, or has too few numbers."""
    if os.geteuid() != 0:
        return None
    ends = []
    for name in ("uid_map", "gid_map"):
        with suppress(OSError):
            for line in Path(f"/proc/self/{name}").read_text("ascii").splitlines():
                start, _, length = (int(part) for part in line.split())
                if start <= FIRST and start + length >= FIRST + COUNT:
                    ends.append(FIRST + COUNT)
                    break
                if length >= 4096:
                    ends.append(start + length)
                    break
    if len(ends) < 2:
        return None
    return FIRST if min(ends) == FIRST + COUNT else min(ends) - 4096


def can_become() -> bool:
    """Whether this process may change its user, tried on a child that ends at once: root in a container may
    lack the power."""
    if (first := first_id()) is None:
        return False
    pid = os.fork()
    if pid == 0:
        status = 1
        with suppress(BaseException):  # whatever it is, it means no
            become(first, first, reads_all=False)
            status = 0
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def can_read_all() -> bool:
    """Whether this process has the power that ``become`` can keep. Containers often lack it."""
    return _has(_DAC_READ_SEARCH)


def can_trace() -> bool:
    """Whether this process may look into those of other users."""
    return _has(_SYS_PTRACE)


def _has(capability: int) -> bool:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text("utf-8", errors="replace").splitlines():
            if line.startswith("CapPrm:"):
                return bool(int(line.split()[1], 16) >> capability & 1)
    return False


def become(uid: int, gid: int, *, reads_all: bool) -> None:
    """Become a user that owns nothing but its scratch, in the one group of its owner. ``reads_all`` keeps the
    power to read any file, for whoever is bounded otherwise.

    :raises OSError: when the kernel refuses.
    """
    os.setgroups([gid])
    os.setresgid(gid, gid, gid)
    if reads_all:
        prctl(PR_SET_KEEPCAPS, 1)
    os.setresuid(uid, uid, uid)
    if reads_all:
        _keep_only(_DAC_READ_SEARCH)
    prctl(PR_SET_DUMPABLE, 1)  # lost with the user; without it a process can't read its own /proc


def give_up_powers(*, reads_all: bool) -> None:
    """Remain root, for want of another user, without what root may do; ``reads_all`` as in ``become``.

    :raises OSError: when the kernel refuses.
    """
    _keep_only(_DAC_READ_SEARCH if reads_all else None)


def _keep_only(capability: int | None) -> None:
    bit = 0 if capability is None else 1 << capability
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    # effective, permitted and inheritable, for each half of the 64 capabilities
    sets = struct.pack("=IIIIII", bit, bit, bit, 0, 0, 0)
    syscall(_CAPSET[MACHINE], ctypes.c_char_p(header), ctypes.c_char_p(sets))
    if capability is not None:
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability)  # also for programs that it starts
