"""``fused.load`` of addresses, from folders that stand for them or fetched (contract, sections 10, 13)."""

from __future__ import annotations

import datetime as dt
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.conftest import Server
from tileserver import fetching
from tileserver.errors import NotFound
from tileserver.fetching import Fetcher, NotFetched, is_public, public_addresses

COMMIT = "f928ee1bdd1bd0d6ed4dbc6d9bf60bd7fbd2e8a1"
TREE = f"https://github.com/fusedio/udfs/tree/{COMMIT}"
COMMON = "FACTOR = 3\ndef scaled(n): return FACTOR * n\n"
META = {
    "job_config": {
        "steps": [
            {
                "udf": {
                    "name": "Grid",
                    "entrypoint": "make",
                    "source": "grid_code.py",
                    "parameters": {"n": 5},
                    "headers": [{"module_name": "tools", "source_file": "my_tools.py"}],
                }
            }
        ]
    }
}
MIRRORED = {
    "mirror/public/common/common.py": COMMON,
    "mirror/public/Grid/meta.json": json.dumps(META),
    "mirror/public/Grid/grid_code.py": "import tools\n@fused.udf\ndef make(n: int = 1): return tools.K * n\n",
    "mirror/public/Grid/my_tools.py": "K = 10\n",
    "mirror/public/User/User.py": f"common = fused.load('{TREE}/public/common/')\nX = common.FACTOR\n",
}


def using(expression: str) -> str:
    return f"@fused.udf\ndef udf(url: str = None): return {expression}\n"


UDFS = {
    "app/literal.py": using(f"fused.load('{TREE}/public/common/').scaled(2)"),
    "app/module.py": f"common = fused.load('{TREE}/public/common')\n{using('common.FACTOR')}",
    "app/grid.py": using(
        f"[fused.load('{TREE}/public/Grid')(), fused.run(fused.load('{TREE}/public/Grid'), n=2)]"
    ),
    "app/tools.py": using(f"fused.load('{TREE}/public/Grid').utils.K"),
    "app/user.py": using(f"fused.load('{TREE}/public/User').X"),
    "app/file.py": using(f"fused.load('{TREE.replace('tree', 'blob')}/public/common/common.py').FACTOR"),
    "app/computed.py": using("fused.load(url).FACTOR"),
    "app/spread.py": using(f"fused.submit(fused.load('{TREE}/public/Grid'), [1, 2]).result.tolist()"),
}


@pytest.fixture
def server(serve: Callable[..., Server], tmp_path: Path) -> Server:
    for name, text in MIRRORED.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "mirror/public/large").mkdir()
    with (tmp_path / "mirror/public/large/large.py").open("wb") as file:
        file.truncate(2**33)
    (tmp_path / "passwd.py").write_text("")
    (tmp_path / "mirror/public/linked").symlink_to(tmp_path)
    pairs = [f"{TREE}/={tmp_path}/mirror", f"{TREE.replace('tree', 'blob')}={tmp_path}/mirror"]
    return serve(UDFS, *[word for pair in pairs for word in ("--source-map", pair)])


def test_an_address_is_read_from_its_folder(server: Server) -> None:
    """Helpers without a UDF, UDFs in Fused's layout with modules, files, and what those load in turn."""
    found = {name: server.get(f"/{{app}}/{name}.json") for name in ("literal", "module", "grid", "tools")}
    found |= {name: server.get(f"/{{app}}/{name}.json") for name in ("user", "file", "spread")}

    assert {name: response.json() for name, response in found.items()} == {
        "literal": 6,
        "module": 3,
        "grid": [50, 20],
        "tools": 10,
        "user": 3,
        "file": 3,
        "spread": [10, 20],
    }
    assert server.get("/{app}/literal.json").headers["x-cache"] == "hit"


def test_an_edit_of_a_loaded_source_is_an_edit_of_the_udf(server: Server, tmp_path: Path) -> None:
    """Its stored results no longer count, also where it is loaded by what the UDF loads."""
    before = [server.get(f"/{{app}}/{name}.json").json() for name in ("literal", "user")]
    (tmp_path / "mirror/public/common/common.py").write_text(COMMON.replace("3", "4"))
    until = time.monotonic() + 1

    while (after := [server.get(f"/{{app}}/{n}.json").json() for n in ("literal", "user")]) != [8, 4]:
        assert time.monotonic() < until

    assert (before, after) == ([6, 3], [8, 4])


def test_a_computed_address_is_asked_for_and_not_stored(server: Server) -> None:
    """Nobody knows before the run what it depends on."""
    query = {"url": f"{TREE}/public/common"}

    first, second = (server.get("/{app}/computed.json", params=query) for _ in range(2))

    assert (first.json(), second.json()) == (3, 3)
    assert second.headers["cache-control"] == "no-store"
    assert second.headers["x-cache"] == "miss"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (f"{TREE}/public/nothing", "has no such source"),
        (f"{TREE}/../../etc", "no folder stands for"),
        (f"{TREE}x/public/common", "nothing is fetched from github.com"),
        (f"{TREE}/public/%00", "no folder stands for"),
        (f"{TREE}/public/large/large.py", "larger than"),
        (f"{TREE}/public/linked/passwd.py", "no folder stands for"),
        ("https://example.org/x.py", "nothing is fetched from example.org"),
    ],
)
def test_what_has_no_folder_is_not_found(server: Server, url: str, says: str) -> None:
    """Nothing is fetched unless a setting allows it, and no address leads out of its folder."""
    response = server.get("/{app}/computed.json", params={"url": url})

    assert response.status_code == 422
    assert response.json()["detail"].startswith("LookupError: ")
    assert says in response.json()["detail"]


def test_the_platform_gives_the_udf_object_of_an_address(server: Server) -> None:
    """contract, section 10: ``GET /code-proxy/by-url``, for whoever has an access token."""
    access = server.access
    _, token = access.create_token("me")
    access.close()
    path, headers = "/server/v1/code-proxy/by-url", {"Authorization": f"Bearer {token}"}

    found = server.get(path, params={"url": f"{TREE}/public/Grid"}, headers=headers)
    body = json.loads(found.json()["udf_body"])

    assert (body["type"], body["name"], body["entrypoint"]) == ("geopandas_v2", "Grid", "make")
    assert body["code"] == MIRRORED["mirror/public/Grid/grid_code.py"]
    assert body["parameters"] == {"n": 5}
    modules = [(h["module_name"], h["source_code"]) for h in body["headers"]]
    assert ("tools", "K = 10\n") in modules
    assert server.get(path, params={"url": f"{TREE}/public/Grid"}).status_code == 401
    assert server.get(path, params={"url": "https://example.org/a"}, headers=headers).status_code == 404
    assert server.get(path, headers=headers).status_code == 422


# -- fetching


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("140.82.121.4", True),
        ("2606:50c0:8000::154", True),
        *(
            (text, False)
            for text in ("127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254")
        ),
        *((text, False) for text in ("0.0.0.0", "100.64.0.1", "224.0.0.1", "255.255.255.255", "::1", "::")),
        *((text, False) for text in ("fe80::1", "fd00::1", "ff02::1", "::ffff:127.0.0.1", "2002:7f00:1::")),
        *((text, False) for text in ("64:ff9b::7f00:1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "nonsense")),
    ],
)
def test_only_addresses_of_the_public_internet_are_public(address: str, public: bool) -> None:
    """Nor is one that wraps another that isn't."""
    assert is_public(address) is public


def test_a_host_with_a_private_address_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where another of its addresses is public."""
    rows = [(socket.AF_INET, 1, 6, "", (address, 443)) for address in ("140.82.121.4", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: rows)

    with pytest.raises(NotFetched, match="is not at a public address"):
        public_addresses("rebind.example.org")


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://github.com/a/b/tree/main/x", True),
        ("https://github.com/a/b", True),
        ("https://github.com/a/bb/tree/main/x", False),
        ("https://github.com/a/b/../c/tree/main/x", False),
        ("https://github.com/a/b/%2e%2e/c/x", False),
        ("https://github.com/a/b/x%2fy", False),
        ("https://github.com/a/b/x\\y", False),
        ("https://github.com/a/b//x", False),
        ("https://github.com/a/b/x?y=1", False),
        ("http://github.com/a/b/x", False),
        ("https://me@github.com/a/b/x", False),
        ("https://github.com:8443/a/b/x", False),
        ("https://github.com.example.org/a/b/x", False),
        ("ftp://github.com/a/b/x", False),
        ("file:///etc/passwd", False),
        ("https://[::1/a", False),
    ],
)
def test_the_list_is_compared_by_segments(url: str, allowed: bool, tmp_path: Path) -> None:
    """What only looks as if it were on the list is not."""
    assert Fetcher(["https://github.com/a/b/"], tmp_path).allows(url) is allowed


class Pages(BaseHTTPRequestHandler):
    """A web server of a few pages, which counts what is asked for."""

    pages: ClassVar[dict[str, tuple[int, dict[str, str], bytes]]] = {}
    asked: ClassVar[list[str]] = []
    enough: ClassVar[threading.Event] = threading.Event()

    def do_GET(self) -> None:
        Pages.asked.append(f"{self.headers['host'].partition(':')[0]}{self.path}")
        status, headers, body = Pages.pages.get(Pages.asked[-1], (404, {}, b""))
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        with suppress(OSError):
            while "x-drip" in headers and not Pages.enough.wait(0.01):
                self.wfile.write(b" ")
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as it is overridden
        pass


HOSTS = ("raw.githubusercontent.com", "example.org")


def certificate(folder: Path) -> Path:
    """A certificate of these hosts, signed by itself, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in HOSTS]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path = folder / "certificate.pem"
    path.write_bytes(made.public_bytes(encoding) + key.private_bytes(encoding, form, none))
    return path


@pytest.fixture
def web(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Arguments of a fetcher that finds the pages by TLS, on a loopback address that it takes for public."""
    path = certificate(tmp_path)
    served = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    served.socket = context.wrap_socket(served.socket, server_side=True)
    thread = threading.Thread(target=served.serve_forever, args=(0.02,))
    thread.start()
    Pages.pages, Pages.asked = {}, []
    trust = ssl.create_default_context(cafile=str(path))
    yield {"resolve": lambda _: ["127.0.0.1"], "port": served.server_port, "tls": trust}
    Pages.enough.set()
    served.shutdown()
    served.server_close()
    thread.join()


RAW = f"raw.githubusercontent.com/fusedio/udfs/{COMMIT}"
REPOSITORY = "https://github.com/fusedio/udfs"


def page(text: str) -> tuple[int, dict[str, str], bytes]:
    return 200, {}, text.encode()


def test_a_commit_is_fetched_once_and_kept(web: dict[str, Any], tmp_path: Path) -> None:
    """It can't change. Another process that has the same folder needn't fetch it either."""
    Pages.pages = {
        f"{RAW}/public/Grid/meta.json": page(json.dumps(META)),
        f"{RAW}/public/Grid/grid_code.py": page("import tools\n"),
        f"{RAW}/public/Grid/my_tools.py": page("K = 10\n"),
    }
    found = [Fetcher([REPOSITORY], tmp_path / "kept", **web).load(f"{TREE}/public/Grid/") for _ in range(2)]

    assert len(Pages.asked) == 3
    assert found[0] == found[1]
    assert (found[0].name, found[0].entry, found[0].files["grid_code.py"]) == (
        "Grid",
        "make",
        "import tools\n",
    )
    assert found[0].modules["tools"] == "my_tools.py"


def test_a_folder_without_meta_is_its_source_and_its_utils(web: dict[str, Any], tmp_path: Path) -> None:
    """As the older folders of published UDFs are; a blob is one file."""
    Pages.pages = {f"{RAW}/x/common/common.py": page(COMMON), f"{RAW}/x/common/utils.py": page("U = 1\n")}
    fetcher = Fetcher([REPOSITORY], tmp_path, **web)

    folder = fetcher.load(f"{TREE}/x/common")
    blob = fetcher.load(f"{TREE.replace('tree', 'blob')}/x/common/common.py")

    assert (folder.files["common.py"], dict(folder.modules)) == (COMMON, {"utils": "utils.py"})
    assert (blob.name, blob.files) == ("common", {"common.py": COMMON})


def test_a_branch_is_asked_for_again(web: dict[str, Any], tmp_path: Path) -> None:
    """After a while; the old text does where the new one can't be had."""
    clock = [0.0]
    url = "https://example.org/code/common.py"
    fetcher = Fetcher(["https://example.org/code"], tmp_path, clock=lambda: clock[0], **web)

    Pages.pages = {"example.org/code/common.py": page("A = 1")}
    first = fetcher.load(url)
    Pages.pages = {"example.org/code/common.py": page("A = 2")}
    within = fetcher.load(url)
    clock[0] = fetching.KEEP + 1
    later = fetcher.load(url)
    Pages.pages = {}
    clock[0] *= 3
    gone = fetcher.load(url)

    texts = [found.files["common.py"] for found in (first, within, later, gone)]
    assert texts == ["A = 1", "A = 1", "A = 2", "A = 2"]


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ((404, {}, b""), "there is no such file"),
        ((500, {}, b""), "status 500"),
        ((302, {"location": "https://example.org/other/x.py"}, b""), "not on the list"),
        ((302, {"location": "http://example.org/code/x.py"}, b""), "not on the list"),
        ((302, {"location": "https://169.254.169.254/latest"}, b""), "not on the list"),
        ((302, {"location": "x.py"}, b""), "redirects too often"),
        ((200, {}, b"\xff\xfe"), "no UTF-8 text"),
        ((200, {}, b"#" * (4 * 1024 * 1024 + 1)), "larger than"),
        ((200, {"content-length": "9"}, b"A = 1"), "ended before its end"),
    ],
    ids=["gone", "broken", "off the list", "not https", "metadata", "circle", "binary", "large", "cut off"],
)
def test_what_is_no_source_is_refused(
    web: dict[str, Any], tmp_path: Path, answer: tuple[int, dict[str, str], bytes], says: str
) -> None:
    """Redirects stay on the list, and amounts are bounded."""
    Pages.pages = {"example.org/code/x.py": answer}

    with pytest.raises(NotFound, match=says):
        Fetcher(["https://example.org/code"], tmp_path / "kept", **web).load("https://example.org/code/x.py")
    assert all(asked == "example.org/code/x.py" for asked in Pages.asked)


def test_a_page_that_never_ends_is_cut_off(
    web: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However steadily it comes."""
    monkeypatch.setattr(fetching, "_WHOLE_LIMIT", 0.3)
    Pages.pages = {"example.org/code/x.py": (200, {"x-drip": "1", "content-length": "9999999"}, b"")}
    Pages.enough.clear()

    with pytest.raises(NotFound, match="longer than"):
        Fetcher(["https://example.org/code"], tmp_path / "kept", **web).load("https://example.org/code/x.py")


def test_meta_can_not_name_files_elsewhere(web: dict[str, Any], tmp_path: Path) -> None:
    """A file's name is no path."""
    meta = {"job_config": {"steps": [{"udf": {"source": "../../other/x.py"}}]}}
    Pages.pages = {f"{RAW}/x/meta.json": page(json.dumps(meta))}

    with pytest.raises(NotFound, match="outside of its folder"):
        Fetcher([REPOSITORY], tmp_path, **web).load(f"{TREE}/x")


def test_a_certificate_of_another_host_is_refused(web: dict[str, Any], tmp_path: Path) -> None:
    """The address is checked by name as ever, although it was looked up before."""
    with pytest.raises(NotFound, match="could not be fetched"):
        Fetcher(["https://github.org"], tmp_path, **web).load("https://github.org/x.py")
    assert Pages.asked == []


@pytest.mark.parametrize("url", ["https://github.com/a/b", "https://github.com/a/b/issues/1/x"])
def test_of_github_only_trees_and_blobs_are_sources(tmp_path: Path, url: str) -> None:
    """Nothing else names files."""
    with pytest.raises(NotFound, match="no tree or blob"):
        Fetcher(["https://github.com/a/b"], tmp_path).load(url)


def test_a_loopback_address_is_never_fetched(serve: Callable[..., Server]) -> None:
    """Not even from a host that is on the list, in a real server."""
    server = serve({"app/computed.py": UDFS["app/computed.py"]}, "--fetch-allow", "https://localhost")

    response = server.get("/{app}/computed.json", params={"url": "https://localhost/x.py"})

    assert "localhost is not at a public address" in response.json()["detail"]
