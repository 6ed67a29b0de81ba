"""Connections to public addresses only: a supervisor beside the worker makes each one in its place.

The worker's filter stops at ``connect`` and hands it to the supervisor, which copies the address out of the
worker's memory, judges the copy, and connects the worker's own socket to that copy. So nothing that the
worker changes meanwhile counts (kernel documentation: seccomp_filter, "Userspace Notification"). The
supervisor is no child of the worker, is in its process group, and ends with it; without it every connection
fails.
"""

from __future__ import annotations

import ctypes
import fcntl
import ipaddress
import os
import resource
import socket
import struct
import threading
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Final

from tileserver.sandbox import identity
from tileserver.sandbox.system import prctl, syscall

_RECEIVE: Final = 0xC0502100
_SEND: Final = 0xC0182101
_IS_VALID: Final = 0x40082102
_NOTIFICATION: Final = struct.Struct("=QIIiIQ6Q")
_RESPONSE: Final = struct.Struct("=QqiI")
_PIDFD_OPEN: Final = 434
_PIDFD_GETFD: Final = 438

_LONGEST_ADDRESS: Final = 128
_DOMAIN: Final = 53
_REFUSED: Final = 13  # EACCES
_BUSY: Final = 11  # EAGAIN
_MOST_CONNECTING: Final = 256
_PR_SET_PTRACER: Final = 0x59616D61

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_UNICAST: Final = ipaddress.ip_network("2000::/3")
# Public by its number, and no farther than a virtual machine's host: one cloud has its own services there.
_OF_THE_HOST: Final = ipaddress.ip_address("168.63.129.16")


def open_gate(user: tuple[int, int, bool] | None = None) -> socket.socket:
    """Start a supervisor; what is returned takes the descriptor that the filter gives (``hand_over``).
    ``user`` is whom it becomes, as for ``identity.become``."""
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        # Its parent ends at once, so that the worker has no child that it must not wait for.
        if os.fork() == 0:
            with suppress(BaseException):  # whatever goes wrong: connections fail, nothing else
                # Nothing else of the worker's: what it closes is to be closed.
                os.closerange(3, theirs.fileno())
                os.closerange(theirs.fileno() + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
                if user is not None:
                    identity.become(*user[:2], reads_all=user[2])
                _supervise(theirs)
        os._exit(0)
    theirs.close()
    os.wait()
    return ours


def hand_over(gate: socket.socket, listener: int) -> None:
    """Let the supervisor decide from now on."""
    supervisor = int(gate.recv(16) or 0)
    with suppress(OSError):  # where that is asked for (Yama), it may look into this process
        prctl(_PR_SET_PTRACER, supervisor)
    socket.send_fds(gate, [b"x"], [listener])
    os.close(listener)
    gate.close()


def is_public(address: Address) -> bool:
    """Whether an address is one of the internet at large, also where it carries another one inside."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address in _NAT64:
            return is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        inner = (address.sixtofour, *(address.teredo or ()))
        if address not in _UNICAST or any(one is not None and not is_public(one) for one in inner):
            return False
    return (
        address.is_global and not address.is_multicast and not address.is_reserved and address != _OF_THE_HOST
    )


def _name_servers() -> frozenset[Address]:
    """Where names are looked up on this machine; often an address that is not public."""
    found = set()
    with suppress(OSError):
        for line in Path("/etc/resolv.conf").read_text("utf-8", errors="replace").splitlines():
            words = line.split()
            if len(words) > 1 and words[0] == "nameserver":
                with suppress(ValueError):
                    found.add(ipaddress.ip_address(words[1].partition("%")[0]))
    return frozenset(found)


def may_connect(raw: bytes, name_servers: Collection[Address]) -> bool:
    """Whether a ``sockaddr`` may be connected to."""
    if len(raw) < 2:
        return False
    (family,) = struct.unpack_from("=H", raw)
    if family == socket.AF_UNSPEC:
        return True  # ends a connection
    if family == socket.AF_INET and len(raw) >= 8:
        address: Address = ipaddress.IPv4Address(raw[4:8])
    elif family == socket.AF_INET6 and len(raw) >= 24:
        address = ipaddress.IPv6Address(raw[8:24])
    else:
        return False
    (port,) = struct.unpack_from("!H", raw, 2)
    return is_public(address) or (port == _DOMAIN and address in name_servers)


def _supervise(handed: socket.socket) -> None:
    handed.send(b"%d" % os.getpid())
    _, descriptors, _, _ = socket.recv_fds(handed, 1, 1)
    handed.close()
    (listener,) = descriptors
    name_servers = _name_servers()
    while True:
        buffer = bytearray(_NOTIFICATION.size)
        try:
            fcntl.ioctl(listener, _RECEIVE, buffer)
        except InterruptedError:
            continue
        except FileNotFoundError:  # the caller ended meanwhile; or all have
            if not _has_users(listener):
                return
            continue
        # A connection can take long, and the next one must not wait for it. There may be many that nobody
        # waits for any more: what asked for them was interrupted.
        if threading.active_count() > _MOST_CONNECTING:
            _answer(listener, bytes(buffer), _BUSY)
            continue
        threading.Thread(target=_serve, args=(listener, bytes(buffer), name_servers), daemon=True).start()


def _has_users(listener: int) -> bool:
    import select

    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return not any(event & select.POLLHUP for _, event in poll.poll(0))


def _serve(listener: int, notification: bytes, name_servers: Collection[Address]) -> None:
    identifier, pid, _, _, _, _, descriptor, pointer, length, *_ = _NOTIFICATION.unpack(notification)
    error = _REFUSED
    with suppress(OSError, ValueError):
        error = _connect(listener, identifier, pid, descriptor & 0xFFFFFFFF, pointer, length, name_servers)
    _answer(listener, notification, error)


def _answer(listener: int, notification: bytes, error: int) -> None:
    (identifier,) = struct.unpack_from("=Q", notification)
    with suppress(OSError):  # whoever asked is gone
        fcntl.ioctl(listener, _SEND, _RESPONSE.pack(identifier, 0, -error, 0))


def _connect(
    listener: int,
    identifier: int,
    pid: int,
    descriptor: int,
    pointer: int,
    length: int,
    name_servers: Collection[Address],
) -> int:
    """Connect another process's socket; 0, or the number of the error."""
    if not 0 < length <= _LONGEST_ADDRESS:
        return _REFUSED
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        # The number may be another process's by now; while this call is pending it isn't.
        fcntl.ioctl(listener, _IS_VALID, struct.pack("=Q", identifier))
        memory.seek(pointer)
        raw = memory.read(length)
    if not may_connect(raw, name_servers):
        return _REFUSED
    process = syscall(_PIDFD_OPEN, _leader(pid), 0)
    try:
        fcntl.ioctl(listener, _IS_VALID, struct.pack("=Q", identifier))
        theirs = syscall(_PIDFD_GETFD, process, descriptor, 0)
    finally:
        os.close(process)
    try:
        connect = ctypes.CDLL(None, use_errno=True).connect
        return 0 if connect(theirs, raw, len(raw)) == 0 else ctypes.get_errno()
    finally:
        os.close(theirs)


def _leader(thread: int) -> int:
    """The process that a thread belongs to."""
    for line in Path(f"/proc/{thread}/status").read_text("utf-8", errors="replace").splitlines():
        if line.startswith("Tgid:"):
            return int(line.split()[1])
    raise ProcessLookupError(thread)
