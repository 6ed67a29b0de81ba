"""The manual's page on operating: its proxy is set up as it says, and is a real one."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx

from benchmarks.processes import wait_for
from tests.conftest import Server

PAGE = Path(__file__).parent.parent / "docs/operating.md"
FILES = {
    "city/red.py": "import fused\n@fused.udf\ndef udf(bounds: fused.types.Bounds):\n"
    "    import numpy\n    return numpy.zeros((3, 8, 8), 'uint8')\n",
    "city/echo.py": "import fused\n@fused.udf\ndef udf(s: str = ''):\n    return len(s)\n",
    "tileserver.toml": re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)[0],
}


@contextmanager
def nginx(folder: Path, server: Server) -> Iterator[str]:
    """The manual's nginx in front of a server, without TLS; its address."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    sites = re.findall(r"```nginx\n(.*?)```", PAGE.read_text(), re.DOTALL)[0]
    sites = sites.replace("127.0.0.1:8000", server.url.removeprefix("http://"))
    sites = sites.replace("listen 443 ssl http2;", f"listen 127.0.0.1:{port};")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    settings = folder / "nginx.conf"
    user = "user root;\n" if os.getuid() == 0 else ""  # the folder of a test is nobody else's
    settings.write_text(
        f"{user}daemon off;\npid {folder}/pid;\nerror_log {folder}/log;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{places}{sites}}}\n"
    )
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program is not None, "nginx is not installed; scripts/test installs it"
    with subprocess.Popen(
        [program, "-p", str(folder), "-c", str(settings)], stderr=subprocess.DEVNULL
    ) as process:
        try:
            wait_for(lambda: _listens(port))
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    with closing(socket.socket()) as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0


def test_the_proxy_of_the_manual(serve: Callable[..., Server], tmp_path: Path) -> None:
    """Absolute addresses are the proxy's, long addresses pass, and each client has its own attempts."""
    server = serve(FILES, "--http-workers", "2")
    folder = tmp_path / "nginx"
    folder.mkdir()
    host = {"host": "tiles.example.org"}
    with nginx(folder, server) as url, httpx.Client(base_url=url, headers=host, timeout=30) as client:
        token = server.tokens["city"]
        document = client.get(f"/{token}/red/run/tiles.json").json()
        long = client.get(f"/{token}/echo?format=json&s={'a' * 60_000}")
        elsewhere = client.get(f"/{token}/echo", headers={"host": "elsewhere.example"})

        assert document["tiles"][0].startswith(f"http://tiles.example.org/{token}/red/")
        assert json.loads(long.text) == 60_000
        assert elsewhere.status_code == 400

        locked = server.access.share("city", passcode="right").token
        wrong = {"authorization": "fused-canvas-passcode wrong", "x-forwarded-for": "127.0.0.1"}
        tried = [client.get(f"/{locked}", headers=wrong).status_code for _ in range(11)]
        assert tried == [401] * 10 + [429]
