"""The few calls to the kernel that Python has no function for."""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Any, Final

PR_SET_PDEATHSIG: Final = 1
PR_SET_DUMPABLE: Final = 4
PR_SET_KEEPCAPS: Final = 8
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_NO_NEW_PRIVS: Final = 38
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_RAISE: Final = 2

MACHINE: Final = platform.machine()

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.prctl.restype = ctypes.c_int


def prctl(option: int, *values: int) -> None:
    """:raises OSError: when the kernel refuses."""
    padded = (*values, 0, 0, 0, 0)[:4]
    _checked(_libc.prctl(option, *(ctypes.c_ulong(value) for value in padded)))


def syscall(number: int, *values: Any) -> int:
    """A system call; integers travel as longs, pointers and None as they are.

    :raises OSError: when the kernel refuses.
    """
    return _checked(
        _libc.syscall(ctypes.c_long(number), *(ctypes.c_long(v) if isinstance(v, int) else v for v in values))
    )


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
