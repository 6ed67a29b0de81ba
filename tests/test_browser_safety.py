"""What pages of others, and what UDFs return, can do in a browser that also has our pages open: read what is
public, and nothing else. In Chromium, against the demo and a canvas that means no good.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from playwright.sync_api import Browser

from tests.browser import chromium, tab
from tests.conftest import Server, serving
from tests.counting import runs

# What a script in a UDF's answer tries. Where it gets to is written into the document's title.
ATTACK = """
const got = {origin: self.origin};
const attempt = (name, f) => { try { got[name] = String(f()); } catch (e) { got[name] = e.name; } };
attempt("cookie", () => { document.cookie = "a=b"; return document.cookie; });
attempt("local", () => localStorage.length);
attempt("session", () => sessionStorage.length);
attempt("database", () => indexedDB.open("x") && "opened");
attempt("parent", () => parent === self ? "none" : parent.document.title);
attempt("opener", () => opener ? opener.document.title : "none");
attempt("top", () => { if (top !== self) top.location = "about:blank"; return "tried"; });
attempt("worker", () => navigator.serviceWorker ? "there" : "missing");
document.title = "ran " + JSON.stringify(got);
"""
SCRIPT = f"<script>{ATTACK}</script>"
HTML = f"<!doctype html><title>quiet</title><body onload=\"document.body.dataset.loaded='yes'\">{SCRIPT}"
SVG = f'<svg xmlns="http://www.w3.org/2000/svg"><title>quiet</title><script>{"<![CDATA["}{ATTACK}{"]]>"}</script></svg>'
XHTML = f'<html xmlns="http://www.w3.org/1999/xhtml"><head><title>quiet</title></head><body><script>{"<![CDATA["}{ATTACK}{"]]>"}</script></body></html>'
GIF = b"GIF89a/*" + b"\\x00" * 8 + b"*/=1;document.title='ran as a script';" + HTML.encode()

FILES = {
    "city/html.py": f"import fused\n@fused.udf\ndef udf():\n    return {HTML!r}\n",
    "city/svg.py": f"import fused\n@fused.udf\ndef udf():\n    return {SVG!r}\n",
    "city/value.py": f"import fused\n@fused.udf\ndef udf():\n    return {{'a': {HTML!r}}}\n",
    "city/table.py": "import fused, pandas as pd\n@fused.udf\ndef udf():\n"
    f"    return pd.DataFrame({{{HTML!r}: [{HTML!r}]}})\n",
    "city/made.py": "import fused\nfrom starlette.responses import Response\n\n"
    "@fused.udf\ndef udf(kind: str):\n"
    f"    bodies = {{'html': {HTML!r}, 'svg': {SVG!r}, 'xml': {XHTML!r}, 'gif': {GIF!r}}}\n"
    "    types = {'html': 'text/html', 'svg': 'image/svg+xml', 'xml': 'application/xhtml+xml',\n"
    "             'gif': 'image/gif', 'text': 'text/plain', 'json': 'application/json',\n"
    "             'script': 'text/javascript', 'none': '', 'unknown': 'x/y'}\n"
    "    script = \"document.title = 'ran as a script'\"\n"
    f"    body = script if kind == 'script' else bodies.get(kind, {HTML!r})\n"
    "    headers = {'content-security-policy': 'default-src *', 'set-cookie': 'planted=1; Path=/',\n"
    "               'x-content-type-options': 'sniff', 'service-worker-allowed': '/',\n"
    "               'access-control-allow-credentials': 'true', 'clear-site-data': '\"*\"',\n"
    "               'refresh': '0; url=/planted', 'x-frame-options': 'ALLOWALL', 'x-own': 'kept',\n"
    "               'referrer-policy': 'unsafe-url'}\n"
    "    return Response(body, media_type=types[kind] or None, headers=headers)\n",
    "city/boom.py": f"import fused\n@fused.udf\ndef udf():\n    raise ValueError({HTML!r})\n",
    "city/links.py": "import fused\n@fused.udf\ndef udf(to: str):\n"
    "    return f'<!doctype html><title>quiet</title><link rel=stylesheet href={to}/style><img src={to}/image>'\\\n"
    "        f'<iframe src={to}/frame></iframe><script src={to}/script></script><a id=go href={to}/link>go</a>'\\\n"
    '        f\'<script>fetch("{to}/fetch").catch(() => 0).then(() => document.title = "done")</script>\'\n',
    "city/red.py": "import fused\nimport numpy as np\n@fused.udf\ndef udf(bounds: fused.types.Bounds = None):\n"
    "    return np.full((3, 256, 256), 200, 'uint8')\n",
}


@dataclass
class Stranger:
    """A web server of somebody else; ``seen`` are the paths asked of it, and the Referer of each."""

    url: str
    seen: dict[str, str | None] = field(default_factory=dict)


@pytest.fixture(scope="module")
def stranger() -> Iterator[Stranger]:
    found = Stranger("")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found.seen[self.path] = self.headers.get("referer")
            body = b"<!doctype html><meta charset=utf-8><link rel=icon href=data:,><title>a page</title>"
            self.send_response(200)
            self.send_header("content-type", "text/html; charset=utf-8")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    found.url = f"http://localhost:{server.server_port}"  # another site than 127.0.0.1, and not only a port
    yield found
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("safety"), FILES) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def state_of(server: Server) -> str:
    """The workspace's files, and what is in the database."""
    digest = hashlib.sha256()
    for path in sorted(server.workspace.rglob("*.*")):
        if path.is_file() and ".tileserver" not in path.parts:
            digest.update(f"{path} {path.read_bytes()!r}".encode())
    with closing(server.access) as access:
        digest.update(repr((access.shares(), access.tokens())).encode())
    return digest.hexdigest()


# -- a page of another origin


def test_a_strangers_page_reads_public_tiles_and_data(
    browser: Browser, demo: Server, stranger: Stranger
) -> None:
    """Bytes, validators and timings; as pictures, too."""
    read = """async (base) => {
        const tile = await fetch(`${base}/blue_marble/run/tiles/1/0/0.png`);
        const bytes = (await tile.arrayBuffer()).byteLength;
        const part = await fetch(`${base}/earthquakes.csv`, {headers: {Range: "bytes=0-9"}});
        const rows = await (await fetch(`${base}/earthquakes.json?min_magnitude=6`)).json();
        const wrong = await fetch(`${base}/blue_marble/run/tiles/1/9/0.png`);
        const image = new Image(); image.crossOrigin = "anonymous"; image.src = `${base}/blue_marble/run/tiles/1/1/0.png`;
        await image.decode();
        return {bytes, etag: tile.headers.get("etag"), timing: tile.headers.get("server-timing"),
                cache: tile.headers.get("x-cache"), part: part.status, range: part.headers.get("content-range"),
                rows: rows.features.length, wrong: [wrong.status, (await wrong.json()).detail], width: image.width};
    }"""
    with tab(browser, demo.url, stranger.url) as found:
        found.page.goto(stranger.url)
        told = found.page.evaluate(read, f"{demo.url}/fc_demo")

    assert told["bytes"] > 1000 and told["width"] == 256 and told["rows"] > 0
    assert told["etag"] and "total;dur=" in told["timing"] and told["cache"] in {"hit", "miss", "shared"}
    assert (told["part"], told["range"].partition("/")[0]) == (206, "bytes 0-9")
    assert told["wrong"][0] == 404 and "0 to 1" in told["wrong"][1]


# What the platform's routes change with an access token; a page has none, and sends what it can send.
CHANGES = [
    (
        "POST",
        "/server/v1/udf/new",
        {"name": "planted", "code": "@fused.udf\ndef udf(): return 1", "collection": "city"},
    ),
    ("POST", "/run/udf", {"step_config": json.dumps({"udf": {"code": "@fused.udf\ndef udf(): return 1"}})}),
    (
        "POST",
        "/server/v1/realtime/local/api/v1/run/udf",
        {"code": "import os\n@fused.udf\ndef udf(): return 1"},
    ),
    ("POST", "/server/v1/collection/new", {"name": "planted"}),
    ("POST", "/server/v1/collection/share", {"name": "city", "access_scope": "public"}),
    ("POST", "/server/v1/udf-access-token/new", {"udf": "city/html"}),
    ("PUT", "/server/v1/realtime/city/api/v1/secrets/KEY", {"value": "planted"}),
    ("DELETE", "/server/v1/realtime/city/api/v1/secrets/KEY", None),
    ("POST", "/server/v1/session-token/by-access-token/{city}", {"ttl": 60}),
    ("DELETE", "/server/v1/realtime-shared/local/udf-cache/by-id/city/html/delete", None),
    ("POST", "/{city}/red", {"a": 1}),
    ("DELETE", "/{city}/red", None),
    ("PUT", "/{city}", {"a": 1}),
]


def test_a_strangers_page_changes_nothing(browser: Browser, server: Server, stranger: Stranger) -> None:
    """By fetch with and without preflight, with credentials, by a form, and with our page open beside it."""
    before, ran = state_of(server), runs(server.url)
    attack = """async ([url, method, body]) => {
        const found = [];
        for (const mode of ["cors", "no-cors"]) for (const type of ["text/plain", "application/json", null]) {
            const headers = type ? {"content-type": type} : {};
            const options = {method, mode, credentials: "include", headers};
            if (body !== null) options.body = JSON.stringify(body);
            try { const r = await fetch(url, options); found.push(r.type === "opaque" ? "opaque" : r.status); }
            catch (error) { found.push(error.name); }
        }
        return found;
    }"""
    with tab(browser, server.url, stranger.url) as ours, tab(browser, server.url, stranger.url) as theirs:
        ours.open(f"{server.url}/{server.tokens['city']}/red/map")
        theirs.page.goto(stranger.url)
        ran = runs(server.url)
        for method, path, body in CHANGES:
            url = server.url + path.replace("{city}", server.tokens["city"])
            for told in theirs.page.evaluate(attack, [url, method, body]):
                assert told in {"TypeError", "opaque", 401, 403, 404, 405}, (method, path, told)
        for _, path, body in [change for change in CHANGES if change[0] == "POST"]:
            url = server.url + path.replace("{city}", server.tokens["city"])
            with theirs.page.expect_navigation():
                theirs.page.evaluate(
                    """([url, fields]) => { const form = document.createElement("form");
                        form.action = url; form.method = "post"; form.enctype = "text/plain";
                        const field = document.createElement("input");
                        field.name = JSON.stringify(fields); form.append(field);
                        document.body.append(form); form.submit(); }""",
                    [url, body],
                )
            theirs.page.goto(stranger.url)

    assert state_of(server) == before
    assert runs(server.url) == ran


# -- what UDFs return

SHOWN = [
    *(
        "html",
        "svg",
        "value",
        "value.html",
        "table",
        "table.html",
        "table.xml",
        "table.json",
        "boom",
        "boom.html",
    ),
    *(f"made?kind={kind}" for kind in ("html", "svg", "xml", "gif", "text", "json", "script")),
]


def check(title: str) -> None:
    """Nothing of a document ran, or it ran as nobody: without an origin, storage, parent or opener."""
    if title.startswith("ran "):
        got: dict[str, str] = json.loads(title.removeprefix("ran "))
        assert got["origin"] == "null"
        for name in ("cookie", "local", "session", "database", "parent", "opener"):
            assert got[name] in {"SecurityError", "none"}, (name, got)
    else:
        assert "ran as a script" not in title


@pytest.mark.parametrize("what", SHOWN)
def test_what_a_udf_returns_is_nobody(browser: Browser, server: Server, what: str) -> None:
    """Opened by its address, in the browser that has our page with its passcode open."""
    url = f"{server.url}/{server.tokens['city']}"
    with tab(browser, server.url) as found:
        page = found.page
        page.goto(f"{url}/red/map")
        page.evaluate("sessionStorage.setItem('secret', 'sesame')")
        response = page.goto(f"{url}/{what}", wait_until="load")
        assert response is not None
        headers = response.headers
        check(page.title())

        assert headers["content-security-policy"].startswith("sandbox ")
        assert "allow-same-origin" not in headers["content-security-policy"]
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")
        assert not {"set-cookie", "clear-site-data", "refresh", "service-worker-allowed"} & headers.keys()
        assert page.context.cookies() == []
        assert page.url == f"{url}/{what}"
        page.goto(f"{url}/red/map")
        assert page.evaluate("sessionStorage.getItem('secret')") == "sesame"


@pytest.mark.parametrize("what", ["html", "svg", "made?kind=html", "made?kind=svg", "made?kind=xml"])
def test_what_a_udf_returns_cannot_touch_who_shows_it(browser: Browser, server: Server, what: str) -> None:
    """In a frame of our own page's, and in a window that it has opened."""
    url = f"{server.url}/{server.tokens['city']}"
    with tab(browser, server.url) as found:
        page = found.page
        page.goto(f"{url}/red/map")
        with page.expect_popup() as opened:
            page.evaluate("(url) => { window.open(url) }", f"{url}/{what}")
        window = opened.value
        window.wait_for_load_state()
        title = window.title()
        window.close()

        assert title.startswith("ran ")  # it may: as nobody
        check(title)
        assert page.url.partition("#")[0] == f"{url}/red/map"


@pytest.mark.parametrize("kind", ["none", "unknown"])
def test_what_has_no_type_is_not_looked_into(browser: Browser, server: Server, kind: str) -> None:
    """HTML that isn't called that is a file to keep, not a page."""
    with tab(browser, server.url) as found, found.page.expect_download() as kept:
        found.page.evaluate(
            "(url) => { location.href = url }", f"{server.url}/{server.tokens['city']}/made?kind={kind}"
        )

    assert kept.value.url.endswith(f"kind={kind}")


@pytest.mark.parametrize("what", ["made?kind=script", "value", "made?kind=gif", "html", "made?kind=text"])
def test_our_pages_run_no_script_of_a_udf(browser: Browser, server: Server, what: str) -> None:
    """Not even where somebody managed to write an element into one: scripts need the page's nonce."""
    url = f"{server.url}/{server.tokens['city']}"
    with tab(browser, server.url) as found:
        page = found.page
        page.goto(f"{url}/red/map")
        blocked = page.evaluate(
            """(url) => new Promise((resolve) => {
                const waiting = new Set(["script-src-elem", "script-src-attr", "script", "image"]);
                const seen = (what) => { waiting.delete(what); if (!waiting.size) resolve(!window.planted) };
                document.addEventListener("securitypolicyviolation", (event) => seen(event.effectiveDirective));
                const image = document.createElement("div");
                image.innerHTML = "<img src=/nothing onerror='window.planted = true'>";
                image.firstChild.addEventListener("error", () => seen("image"));
                const script = document.createElement("script");
                script.src = url;
                script.onload = () => resolve(false);
                script.onerror = () => seen("script");
                document.body.append(image, script);
            })""",
            f"{url}/{what}",
        )

        assert blocked
        assert "ran" not in page.title()


@pytest.mark.parametrize("kind", ["gif", "text", "json", "html", "svg"])
def test_what_is_no_script_is_none_for_strangers(
    browser: Browser, server: Server, stranger: Stranger, kind: str
) -> None:
    """A picture that is a script, too, is taken for what its type says."""
    with tab(browser, server.url, stranger.url) as found:
        found.page.goto(stranger.url)
        loaded = found.page.evaluate(
            """(url) => new Promise((resolve) => {
                const script = document.createElement("script");
                script.src = url;
                script.onload = () => resolve(true);
                script.onerror = () => resolve(false);
                document.body.append(script);
            })""",
            f"{server.url}/{server.tokens['city']}/made?kind={kind}",
        )

        assert not loaded
        assert found.page.title() == "a page"


def test_what_a_udf_returns_becomes_no_service_worker(browser: Browser, server: Server) -> None:
    """It would see every later request of our pages."""
    url = f"{server.url}/{server.tokens['city']}"
    with tab(browser, server.url) as found:
        found.page.goto(f"{url}/red/map")
        told = found.page.evaluate(
            "(url) => navigator.serviceWorker.register(url).then(() => 'registered', (e) => e.name)",
            f"{url}/made?kind=script",
        )
        registered = found.page.evaluate(
            "navigator.serviceWorker.getRegistrations().then((all) => all.length)"
        )

        assert told != "registered"
        assert registered == 0


# -- tokens in addresses


def test_no_answer_sends_its_address_along(browser: Browser, server: Server, stranger: Stranger) -> None:
    """Addresses hold tokens: what a page loads, and where its links lead, gets no Referer."""
    stranger.seen.clear()
    query = str(httpx.QueryParams({"to": stranger.url}))
    url = f"{server.url}/{server.tokens['city']}/links?{query}"
    with tab(browser, server.url, stranger.url) as found:
        found.page.goto(url)
        found.page.wait_for_function("document.title == 'done'")
        found.page.click("#go")
        found.page.wait_for_url(f"{stranger.url}/link")

    wanted = {"/style", "/image", "/frame", "/script", "/fetch", "/link"}
    assert wanted <= stranger.seen.keys()
    assert set(stranger.seen.values()) == {None}


@pytest.mark.parametrize(
    "path", ["", "/red/map", "/red.png", "/red/run/tiles/0/0/0.png", "/html", ".api.json", "/boom"]
)
def test_no_page_sends_its_address_along(
    browser: Browser, server: Server, stranger: Stranger, path: str
) -> None:
    """Ours, pictures, documents and errors: whoever leaves one for another site takes nothing along."""
    stranger.seen.clear()
    with tab(browser, server.url, stranger.url) as found:
        found.page.goto(f"{server.url}/{server.tokens['city']}{path}")
        with found.page.expect_navigation(url=f"{stranger.url}/left"):
            found.page.evaluate("(url) => { location.href = url }", f"{stranger.url}/left")

    assert stranger.seen["/left"] is None
