"""What UDF code may reach: everything, public addresses only, or nothing."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Server
from tileserver.sandbox import gate

CONNECT = """
import socket
@fused.udf(cache_max_age="0s")
def udf(host: str, port: int):
    socket.create_connection((host, port), 2).close()
    return "connected"
"""
EVALUATE = "import socket\n@fused.udf\ndef udf(body: str):\n    return str(eval(body))\n"
FILES = {"city/connect.py": CONNECT, "city/evaluate.py": EVALUATE}


def said(server: Server, host: str, port: int) -> str:
    return server.get(f"/{{city}}/connect.json?host={host}&port={port}").text


def evaluated(server: Server, body: str) -> str:
    return server.get("/{city}/evaluate.json", params={"body": body}).text


def test_everything_can_be_reached_where_the_network_is_on(serve: Callable[..., Server]) -> None:
    """The default: most UDFs fetch what they work on, from this machine's neighbours too."""
    server = serve(FILES, "--network", "on")

    with socket.create_server(("127.0.0.1", 0)) as here:
        assert said(server, "127.0.0.1", here.getsockname()[1]) == '"connected"'


def test_nothing_can_be_reached_where_the_network_is_off(serve: Callable[..., Server]) -> None:
    """There are no sockets to connect with, of either family and of any type."""
    server = serve(FILES, "--network", "off")

    with socket.create_server(("127.0.0.1", 0)) as here:
        assert "Address family not supported" in said(server, "127.0.0.1", here.getsockname()[1])
    assert "Address family not supported" in said(server, "::1", 80)
    assert "Address family" in evaluated(server, "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)")
    assert "socket.socket" in evaluated(server, "socket.socketpair()")


def test_this_machine_and_its_network_can_not_be_reached_in_public(serve: Callable[..., Server]) -> None:
    """Loopback, private and link-local addresses are refused, in every spelling, and so is what would reach
    one without ``connect``."""
    server = serve(FILES, "--network", "public")

    with socket.create_server(("127.0.0.1", 0)) as here:
        port = here.getsockname()[1]
        for host in ("127.0.0.1", "127.9.9.9", "0.0.0.0", "localhost", "::ffff:127.0.0.1", "10.1.2.3"):
            assert "Permission denied" in said(server, host, port), host
    assert "Permission denied" in said(server, "169.254.169.254", 80)
    refused = "Operation not permitted"
    assert refused in evaluated(server, "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)")
    assert refused in evaluated(server, "socket.socket(socket.AF_INET, socket.SOCK_STREAM, 132)")
    assert refused in evaluated(server, f"socket.socket().sendto(b'x', 0x20000000, ('127.0.0.1', {port}))")
    assert refused in evaluated(
        server, f"socket.socket().sendmsg([b'x'], [], 0x20000000, ('127.0.0.1', {port}))"
    )


def test_a_packet_goes_where_the_address_says(serve: Callable[..., Server]) -> None:
    """A route in its header would send it to a neighbour first."""
    server = serve(FILES, "--network", "public")

    refused = "Operation not permitted"
    route = "bytes((131, 7, 4, 10, 0, 0, 1, 0))"
    assert refused in evaluated(server, f"socket.socket().setsockopt(0, 4, {route})")
    assert refused in evaluated(server, "socket.socket(socket.AF_INET6).setsockopt(41, 57, bytes(24))")
    assert '"None"' in evaluated(server, "socket.socket().setsockopt(socket.IPPROTO_TCP, 1, 1)")


def test_a_worker_that_closes_its_channel_is_missed_at_once(serve: Callable[..., Server]) -> None:
    """Its supervisor holds nothing of the worker's open."""
    server = serve(FILES, "--network", "public", "--time-limit", "20s")

    body = "[__import__('os').closerange(3, 1000), __import__('time').sleep(60)]"
    assert "ended in the middle" in evaluated(server, body)


INSIDE = """
import ctypes, fcntl, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
assert libc.unshare(0x40000000) == 0  # a network of its own, in which this machine has a public address
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
    for name, address in ((b"lo", "127.0.0.1"), (b"lo:1", "8.8.8.8")):
        request = struct.pack("16sHH4s16s", name, socket.AF_INET, 0, socket.inet_aton(address), b"")
        fcntl.ioctl(control, 0x8916, request)
    fcntl.ioctl(control, 0x8914, struct.pack("16sH22s", b"lo", 0x1 | 0x40, b""))
from tileserver.sandbox import SYSTEM, Plan, available, confine
servers = [socket.create_server((host, 4443)) for host in ("8.8.8.8", "127.0.0.1")]
pid = os.fork()
if pid == 0:
    os.setsid()
    parts = tuple(available() - {"user"})
    confine(Plan(parts=parts, read=(*SYSTEM, sys.prefix, sys.base_prefix, *sys.path), network="public"))
    for host in ("8.8.8.8", "127.0.0.1"):
        try:
            with socket.create_connection((host, 4443), 5) as connection:
                print(host, "connected to", connection.getpeername()[0], flush=True)
        except OSError as error:
            print(host, error.strerror, flush=True)
    os._exit(0)
os.waitpid(pid, 0)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a network to try it in")
def test_public_addresses_can_be_reached_in_public() -> None:
    """The connection is made by the supervisor, and is the worker's own socket."""
    told = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(INSIDE)],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)},
    )

    assert told.stdout.splitlines() == ["8.8.8.8 connected to 8.8.8.8", "127.0.0.1 Permission denied"], told


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a network to try it in")
def test_a_supervisor_makes_so_many_connections_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were interrupted go on in it, and a thread each would use up the machine's."""
    text = "from tileserver.sandbox import gate; gate._MOST_CONNECTING = 0\n" + textwrap.dedent(INSIDE)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent.parent))

    told = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=30)

    assert told.stdout.splitlines() == [
        "8.8.8.8 Resource temporarily unavailable",
        "127.0.0.1 Resource temporarily unavailable",
    ], told


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *(("8.8.8.8", True), ("2001:4860:4860::8888", True), ("127.0.0.1", False), ("10.0.0.1", False)),
        *(("172.16.0.1", False), ("192.168.1.1", False), ("169.254.169.254", False), ("100.64.0.1", False)),
        *(("0.0.0.0", False), ("255.255.255.255", False), ("224.0.0.1", False), ("240.0.0.1", False)),
        *(("::1", False), ("::", False), ("fe80::1", False), ("fd00::1", False), ("ff02::1", False)),
        *(("::ffff:127.0.0.1", False), ("::ffff:10.0.0.1", False), ("::ffff:8.8.8.8", True)),
        *(
            ("64:ff9b::808:808", True),
            ("64:ff9b:1::808:808", False),
            ("fec0::1", False),
            ("::8.8.8.8", False),
        ),
        ("168.63.129.16", False),  # a cloud's own services, at an address that looks like any other
        *(("64:ff9b::7f00:1", False), ("2002:7f00:1::", False), ("2002:a00:1::", False)),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    """An address that carries another one inside counts as that."""
    assert gate.is_public(ipaddress.ip_address(address)) is public


def _address(family: int, host: str, port: int) -> bytes:
    if family == socket.AF_INET:
        return struct.pack("=H", family) + struct.pack("!H", port) + socket.inet_aton(host) + bytes(8)
    packed = socket.inet_pton(family, host)
    return struct.pack("=H", family) + struct.pack("!HI", port, 0) + packed + bytes(4)


def test_a_private_name_server_may_be_asked_for_names_only() -> None:
    """Those of this machine, at the port of the domain name system."""
    servers = {ipaddress.ip_address("10.0.0.53")}

    assert gate.may_connect(_address(socket.AF_INET, "10.0.0.53", 53), servers)
    assert not gate.may_connect(_address(socket.AF_INET, "10.0.0.53", 80), servers)
    assert not gate.may_connect(_address(socket.AF_INET, "10.0.0.54", 53), servers)
    assert gate.may_connect(_address(socket.AF_INET6, "2001:4860:4860::8888", 443), servers)


@pytest.mark.parametrize(
    "raw", [b"", b"\x02", b"\x02\x00\x00", b"\x01\x00/run/socket", b"\x11\x00" + bytes(14)]
)
def test_what_is_no_address_of_the_internet_is_refused(raw: bytes) -> None:
    """Too short, of a path, of another family."""
    assert not gate.may_connect(raw, ())
