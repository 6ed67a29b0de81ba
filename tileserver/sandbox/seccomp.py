"""A seccomp filter: which system calls UDF code may make, assembled here so that no library is needed.

The list names what a function that computes on data has no use for and what would lead out of the sandbox:
other processes, mounts and namespaces, the kernel's own management, and network where it is off. Refusals are
EPERM, so that a library that only tries goes on (kernel documentation: userspace-api/seccomp_filter).
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from tileserver.sandbox.system import MACHINE, syscall

_SET_MODE_FILTER: Final = 1
NEW_LISTENER: Final = 1 << 3

_ALLOW: Final = 0x7FFF0000
_NOTIFY: Final = 0x7FC00000
_KILL: Final = 0x80000000
_ERRNO: Final = 0x00050000
_EPERM: Final = _ERRNO | 1
_ENOSYS: Final = _ERRNO | 38
_ENOTSUP: Final = _ERRNO | 95
_EAFNOSUPPORT: Final = _ERRNO | 97
_DONE: Final = _ERRNO | 0  # answered as if it had been done

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _ARGUMENTS_AT = 0, 4, 16


class _Machine(NamedTuple):
    """Its number in the kernel's audit interface, and the column of the table below."""

    architecture: int
    column: int


_MACHINES: Final = {"x86_64": _Machine(0xC000003E, 0), "aarch64": _Machine(0xC00000B7, 1)}

# Numbers on x86_64 and on aarch64; None where there is no such call.
_CALLS: Final[dict[str, tuple[int | None, int | None]]] = {
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "kcmp": (312, 272),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "pidfd_getfd": (438, 438),
    "perf_event_open": (298, 241),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    # files by other ways than their paths
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "lookup_dcookie": (212, 18),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    # files' owners: Landlock doesn't ask where a file is when these are changed
    "chown": (92, None),
    "lchown": (94, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "file_setattr": (469, 469),
    # namespaces and identities
    "unshare": (272, 97),
    "setns": (308, 268),
    "setuid": (105, 146),
    "setgid": (106, 144),
    "setreuid": (113, 145),
    "setregid": (114, 143),
    "setresuid": (117, 147),
    "setresgid": (119, 149),
    "setfsuid": (122, 151),
    "setfsgid": (123, 152),
    "setgroups": (116, 159),
    "capset": (126, 91),
    # interfaces of the kernel that are large, and of no use here
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "personality": (135, 92),
    "io_setup": (206, 0),
    "memfd_secret": (447, 447),
    # queues and memory that all processes of a user share
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "semctl": (66, 191),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    # the machine itself
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "vhangup": (153, 58),
    "nfsservctl": (180, 42),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "uselib": (134, None),
}
# Judged by their arguments, or answered otherwise than by EPERM.
_SPECIAL: Final[dict[str, tuple[int | None, int | None]]] = {
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "clone": (56, 220),
    "clone3": (435, 435),
    "prctl": (157, 167),
    "socket": (41, 198),
    "connect": (42, 203),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "sendmmsg": (307, 269),
    "ioctl": (16, 29),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "pidfd_send_signal": (424, 424),
    "seccomp": (317, 277),
    "prlimit64": (302, 261),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "memfd_create": (319, 279),
    "sync": (162, 81),
    "chmod": (90, None),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "fchmod": (91, 52),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "setxattrat": (463, 463),
    "removexattrat": (466, 466),
    "truncate": (76, 45),
    "open": (2, None),
    "openat": (257, 56),
    "openat2": (437, 437),
    "fcntl": (72, 25),
    "setsockopt": (54, 208),
}

_NEW_NAMESPACES: Final = 0x7E020000  # CLONE_NEWNS, -CGROUP, -UTS, -IPC, -USER, -PID and -NET
_FOR_ITS_PARENT: Final = 0x8000  # CLONE_PARENT: a child of the zygote's, which doesn't know of it
_TERMINAL: Final = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
# FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR, FS_IOC_ENABLE_VERITY: what a file's owner may do, though it only reads
_FILE_FLAGS: Final = (0x40086602, 0x401C5820, 0x40806685)
_SIGNAL_TO: Final = (0x8901, 0x8902)  # FIOSETOWN, SIOCSPGRP: who is told of a socket's events
_F_SET_OWNER: Final = (8, 10, 15)  # F_SETOWN, F_SETSIG, F_SETOWN_EX: the same of a file's
_F_SET_LEASE: Final = 1024  # others would wait to open the file
_TRUNCATES, _OPEN_MODE = 0x200, 0x3
# What would lead packets elsewhere than to the address that was judged: IP_OPTIONS; and of IPv6
# IPV6_2292PKTOPTIONS, IPV6_HOPOPTS, IPV6_RTHDRDSTOPTS, IPV6_RTHDR, IPV6_DSTOPTS.
_ROUTES: Final = ((0, (4,)), (41, (6, 54, 55, 57, 59)))
_UNIX, _INET, _INET6 = 1, 2, 10
_FAST_OPEN: Final = 0x20000000  # a flag that makes sending a connection
_OWN_RULES: Final = (1, 4, 36)  # prctl: the death signal, dumping, and who inherits orphans


class _Instruction(NamedTuple):
    code: int
    value: int
    if_true: int = 0
    if_false: int = 0

    @property
    def packed(self) -> bytes:
        return struct.pack("=HBBI", self.code, self.if_true, self.if_false, self.value)


def is_known_machine() -> bool:
    """Whether there is a list for this kind of processor."""
    return MACHINE in _MACHINES


class Shared(NamedTuple):
    """What a worker has in common with processes outside of its sandbox: ``user``; ``signals`` where nothing
    else keeps those inside; ``truncation`` where Landlock doesn't judge it (before its third version)."""

    user: bool
    signals: bool = False
    truncation: bool = False


def assemble(network: str, *, shared: Shared | None = None) -> bytes:
    """The filter for this process, and for what it starts. ``network``: ``on``, ``off``, or ``public``, where
    connecting is for a supervisor to decide (see ``gate``)."""
    machine = _MACHINES[MACHINE]
    program = [
        _Instruction(_LOAD, _ARCHITECTURE_AT),
        _Instruction(_EQUAL, machine.architecture, 1, 0),
        _Instruction(_RETURN, _KILL),
        _Instruction(_LOAD, _NUMBER_AT),
    ]
    if MACHINE == "x86_64":  # the calls of its 32-bit relative are other numbers for the same things
        program += [_Instruction(_AT_LEAST, 0x40000000, 0, 1), _Instruction(_RETURN, _ENOSYS)]
    for numbers in _CALLS.values():
        number = numbers[machine.column]
        if number is not None:
            program += _rule(number, [_Instruction(_RETURN, _EPERM)])
    for name, body in _judged(network, shared or Shared(user=False)):
        number = _SPECIAL[name][machine.column]
        if number is not None:
            program += _rule(number, body)
    program.append(_Instruction(_RETURN, _ALLOW))
    return b"".join(instruction.packed for instruction in program)


def _judged(network: str, shared: Shared) -> Iterable[tuple[str, list[_Instruction]]]:
    yield "setsid", [_Instruction(_RETURN, _DONE)]  # so that all of a worker's children stay in its group
    yield "setpgid", [_Instruction(_RETURN, _DONE)]
    refused_flags = (_NEW_NAMESPACES | _FOR_ITS_PARENT,)
    yield "clone", [*_if(0, _ANY_BIT, refused_flags, _EPERM), _Instruction(_RETURN, _ALLOW)]
    yield "clone3", [_Instruction(_RETURN, _ENOSYS)]  # its flags lie in memory; libraries fall back to clone
    yield "prctl", [*_if(0, _EQUAL, _OWN_RULES, _EPERM), _Instruction(_RETURN, _ALLOW)]
    signalling = _SIGNAL_TO if shared.signals else ()
    refused = (*_TERMINAL, *_FILE_FLAGS, *signalling)
    yield "ioctl", [*_if(1, _EQUAL, refused, _EPERM), _Instruction(_RETURN, _ALLOW)]
    owners = _F_SET_OWNER if shared.signals else ()
    yield "fcntl", [*_if(1, _EQUAL, (_F_SET_LEASE, *owners), _EPERM), _Instruction(_RETURN, _ALLOW)]
    yield "seccomp", [*_if(1, _ANY_BIT, (NEW_LISTENER,), _EPERM), _Instruction(_RETURN, _ALLOW)]
    # Memory that no process has mapped is nobody's to the eye that watches over it.
    yield "memfd_create", [_Instruction(_RETURN, _ENOSYS)]
    yield "sync", [_Instruction(_RETURN, _DONE)]  # of all disks of the machine
    yield from _processes(shared)
    yield from _files(shared)
    yield "socket", _socket_rule(network)
    if network == "public":
        yield "connect", [_Instruction(_RETURN, _NOTIFY)]
        for name, flags_at in (("sendto", 3), ("sendmsg", 2), ("sendmmsg", 3)):
            refusal = _if(flags_at, _ANY_BIT, (_FAST_OPEN,), _EPERM)
            yield name, [*refusal, _Instruction(_RETURN, _ALLOW)]
        yield "setsockopt", _routes_rule()


def _processes(shared: Shared) -> Iterable[tuple[str, list[_Instruction]]]:
    """Limits, scheduling and, where need be, signals: of this process or the caller itself (0) only."""
    own = [*_if(0, _EQUAL, (os.getpid(), 0), _ALLOW), _Instruction(_RETURN, _EPERM)]
    for name in ("prlimit64", "sched_setaffinity", "sched_setscheduler", "sched_setparam", "sched_setattr"):
        yield name, own
    for name, one_process in (("setpriority", 0), ("ioprio_set", 1)):
        yield (
            name,
            [
                _Instruction(_LOAD, _ARGUMENTS_AT),
                _Instruction(_EQUAL, one_process, 1, 0),
                _Instruction(_RETURN, _EPERM),
                *_if(1, _EQUAL, (os.getpid(), 0), _ALLOW),
                _Instruction(_RETURN, _EPERM),
            ],
        )
    if shared.signals:
        yield "kill", own
        yield "tgkill", own
        yield "tkill", [_Instruction(_RETURN, _EPERM)]
        yield "pidfd_send_signal", [_Instruction(_RETURN, _EPERM)]


def _files(shared: Shared) -> Iterable[tuple[str, list[_Instruction]]]:
    """Modes, times and attributes of files: Landlock doesn't ask where a file is when those are changed, and
    a user may change them of all that it owns. Libraries that copy files set them, and are told that it was
    done."""
    done = [_Instruction(_RETURN, _DONE)]
    for name in ("chmod", "fchmodat", "utime", "utimes", "futimesat"):
        yield name, done
    yield "fchmodat2", [_Instruction(_RETURN, _ENOSYS)]
    # By a descriptor, which was opened in the sandbox: a file that is its own where its user is.
    yield "fchmod", done if shared.user else [_Instruction(_RETURN, _ALLOW)]
    by_descriptor = [_Instruction(_LOAD, _ARGUMENTS_AT + 8), _Instruction(_EQUAL, 0, 1, 0), *done]
    by_descriptor += [_Instruction(_LOAD, _ARGUMENTS_AT + 12), _Instruction(_EQUAL, 0, 1, 0), *done]
    yield "utimensat", done if shared.user else [*by_descriptor, _Instruction(_RETURN, _ALLOW)]
    for kind in ("xattr", "xattrat"):
        for change in ("set", "lset", "fset", "remove", "lremove", "fremove"):
            if f"{change}{kind}" in _SPECIAL:
                yield f"{change}{kind}", [_Instruction(_RETURN, _ENOTSUP)]
    if shared.truncation:
        yield "truncate", [_Instruction(_RETURN, _EPERM)]
        yield "openat2", [_Instruction(_RETURN, _ENOSYS)]
        for name, flags_at in (("open", 1), ("openat", 2)):
            yield (
                name,
                [
                    _Instruction(_LOAD, _ARGUMENTS_AT + 8 * flags_at),
                    _Instruction(_AND, _TRUNCATES | _OPEN_MODE),
                    _Instruction(_EQUAL, _TRUNCATES, 0, 1),  # and opens for reading
                    _Instruction(_RETURN, _EPERM),
                    _Instruction(_RETURN, _ALLOW),
                ],
            )


def _routes_rule() -> list[_Instruction]:
    steps: list[_Instruction] = []
    for level, options in _ROUTES:
        refused = _if(2, _EQUAL, options, _EPERM)
        steps += [
            _Instruction(_LOAD, _ARGUMENTS_AT + 8),
            _Instruction(_EQUAL, level, 0, len(refused)),
            *refused,
        ]
    return [*steps, _Instruction(_RETURN, _ALLOW)]


def _socket_rule(network: str) -> list[_Instruction]:
    """Sockets of the internet where the network is on; never one that could reach another program on this
    machine by a path, or the kernel. ``socketpair`` is another call, and allowed."""
    if network == "off":
        return [_Instruction(_RETURN, _EAFNOSUPPORT)]
    families = _if(0, _EQUAL, (_INET, _INET6), None)
    if network == "on":
        return [
            *families,
            _Instruction(_RETURN, _EAFNOSUPPORT),
            *_low_bits_of_type(1, 2),
            _Instruction(_RETURN, _EPERM),
        ]
    # Of TCP alone a supervisor sees every connection; protocols 0 and 6 are TCP for a stream.
    return [
        *families,
        _Instruction(_RETURN, _EAFNOSUPPORT),
        _Instruction(_LOAD, _ARGUMENTS_AT + 16),
        _Instruction(_EQUAL, 0, 2, 0),
        _Instruction(_EQUAL, 6, 1, 0),
        _Instruction(_RETURN, _EPERM),
        *_low_bits_of_type(1),
        _Instruction(_RETURN, _EPERM),
    ]


def _low_bits_of_type(*kinds: int) -> list[_Instruction]:
    """Allow sockets of these types (1 stream, 2 datagram), whatever flags are with them."""
    mask = _Instruction(_AND, 0xF)
    steps = [_Instruction(_LOAD, _ARGUMENTS_AT + 8), mask]
    for left, kind in zip(range(len(kinds) - 1, -1, -1), kinds, strict=True):
        steps.append(_Instruction(_EQUAL, kind, left, 0 if left else 1))
    return [*steps, _Instruction(_RETURN, _ALLOW)]


def _if(argument: int, test: int, values: Sequence[int], action: int | None) -> list[_Instruction]:
    """Compare the low half of an argument with each value; the first that holds gives the action, or, where
    that is None, jumps over the next instruction after these."""
    steps = [_Instruction(_LOAD, _ARGUMENTS_AT + 8 * argument)]
    if action is None:
        # All of them lead behind the one instruction that follows.
        return steps + [
            _Instruction(test, value, len(values) - position, 0) for position, value in enumerate(values)
        ]
    for value in values:
        steps += [_Instruction(test, value, 0, 1), _Instruction(_RETURN, action)]
    return steps


def _rule(number: int, body: list[_Instruction]) -> list[_Instruction]:
    """What happens to one call; every way through the body returns."""
    return [_Instruction(_EQUAL, number, 0, len(body)), *body]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def install(program: bytes, flags: int = 0) -> int:
    """Put a filter on this thread and all that it starts. ``no_new_privs`` must be set.

    :raises OSError: when the kernel refuses.
    """
    held = _Program(len(program) // 8, program)
    number = _SPECIAL["seccomp"][_MACHINES[MACHINE].column]
    assert number is not None
    return syscall(number, _SET_MODE_FILTER, flags, ctypes.byref(held))
