"""Our own pages: what they show, and that nothing in a workspace or a request can script them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Server, serving
from tileserver import pages
from tileserver.signature import read
from tileserver.udf import Udf, UdfSettings

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"' --><!--&amp;"

FILES = {
    "city/canvas.toml": f"title = '''{HOSTILE}'''\ndescription = '''{HOSTILE}'''\n",
    "city/layer.py": "import fused\n@fused.udf\ndef udf(bounds: fused.types.Bounds, text: str = "
    f'{HOSTILE!r}):\n    """{HOSTILE}\n\n    {HOSTILE}\n    """\n    return None\n',
    'city/a"><svg onload=alert(1)>.py': "import fused\n@fused.udf\ndef udf(): return 1\n",
    "city/broken.py": "import fused\n@fused.udf\ndef udf(:\n",
    "town/roads.py": "import fused\n@fused.udf\ndef udf(bounds: fused.types.Bounds):\n"
    '    """Roads of the town.\n\n    By ``class``.\n    """\n',
    "town/hello.py": "import fused\n@fused.udf\ndef udf(): return 1\n",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A canvas that means no good, and an ordinary one."""
    with serving(tmp_path_factory.mktemp("pages"), FILES) as running:
        yield running


class Page(HTMLParser):
    """A page as a browser reads it: its elements, its text, and what its scripts hold."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.scripts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] == "script":
            self.scripts.append(data)
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment that nobody wrote: {data}")

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def attributes(self) -> list[tuple[str, str]]:
        return [pair for _, attributes in self.elements for pair in attributes.items()]

    @property
    def data(self) -> Any:
        """The JSON that the page hands to its script."""
        (text,) = (script for script in self.scripts if script.strip())
        return json.loads(text)


def udf(source: str, *, title: str = "Layer", description: str = "", name: str = "layer") -> Udf:
    text = f"import fused\n@fused.udf\ndef udf({source}): pass\n"
    return Udf("city", name, "1", read(text), UdfSettings(), title, description, {})


def browse(server: Server, path: str) -> httpx.Response:
    response = server.get(path, headers={"accept": "text/html"})
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    return response


# -- hostile text


def harmless(page: Page) -> bool:
    """Whether a page has no element and no handler that our templates don't write."""
    ours = {"html", "head", "meta", "title", "link", "body", "main", "h1", "h2", "p", "div", "article", "a"}
    ours |= {"ul", "li", "details", "summary", "form", "section", "dialog", "script", "code"}
    ours |= {"label", "input", "span"}
    names = {name for name, _ in page.attributes}
    return {tag for tag, _ in page.elements} <= ours and not any(name.startswith("on") for name in names)


def test_a_map_page_shows_hostile_text_as_text() -> None:
    """Title, description, name, path and default value stand in the page and do nothing."""
    hostile = udf(f"text: str = {HOSTILE!r}", title=HOSTILE, description=HOSTILE, name=HOSTILE)
    page = Page(pages.map_page(hostile, f"/fc_x/{HOSTILE}", "n0nce", layer=True))

    assert harmless(page)
    assert len(page.all("script")) == 3
    assert page.text.count(HOSTILE) == 3  # the title twice, the description
    assert page.data["name"] == HOSTILE
    assert page.data["base"] == f"/fc_x/{HOSTILE}"
    assert page.data["parameters"][0]["default"] == HOSTILE


def test_a_canvas_page_shows_hostile_text_as_text() -> None:
    """Titles, descriptions and names, in the canvas and in its UDFs."""
    listed = [udf("", title=HOSTILE, description=HOSTILE, name=HOSTILE)]
    page = Page(pages.canvas_page(HOSTILE, HOSTILE, listed, {HOSTILE: HOSTILE}, "/fc_x", "n"))

    assert harmless(page)
    assert harmless(Page(pages.broken_page(HOSTILE, HOSTILE)))
    assert len(page.all("script")) == 2
    assert page.text.count(HOSTILE) == 8
    assert list(page.data["udfs"]) == [HOSTILE]


def test_the_home_page_shows_hostile_text_as_text() -> None:
    """Tokens are only letters and digits; if they were not, nothing would happen."""
    assert harmless(Page(pages.home_page([HOSTILE])))


@pytest.mark.parametrize("path", ["", "/layer/map", "/a%22%3E%3Csvg%20onload=alert(1)%3E/map"])
def test_a_hostile_workspace_has_harmless_pages(server: Server, path: str) -> None:
    """The same through the server, with a file's name among the attackers."""
    response = browse(server, f"/{{city}}{path}")

    assert response.status_code == 200
    assert harmless(Page(response.text))


@pytest.mark.parametrize("path", ["/%3Cimg%20src=x%20onerror=alert(1)%3E", "/fc_x/%3Cscript%3E"])
def test_what_a_request_says_comes_back_as_json(server: Server, path: str) -> None:
    """An error is never a page."""
    response = server.get(path, headers={"accept": "text/html"})

    assert response.status_code == 404
    assert response.headers["content-type"] == "application/json"


# -- policy


@pytest.mark.parametrize("path", ["/{town}", "/{town}/roads/map"])
def test_a_token_is_never_the_name_of_a_host(server: Server, path: str) -> None:
    """Of an address with two slashes before it no page makes one that another host is asked for."""
    text = server.get(f"/{path}", headers={"accept": "text/html"}).text

    assert '"//' not in text and "//{}".format(server.tokens["town"]) not in text


@pytest.mark.parametrize("path", ["/", "/{town}", "/{town}/roads/map"])
def test_only_scripts_with_the_nonce_run(server: Server, path: str) -> None:
    """docs/http.md: another nonce for every answer, never 'self'; nothing is allowed that isn't named."""
    policies, pages_ = [], []
    for _ in range(2):
        response = browse(server, path)
        parts = (part.split() for part in response.headers["content-security-policy"].split(";"))
        policies.append({name: set(sources) for name, *sources in parts})
        pages_.append(Page(response.text))
    nonces = [policy["script-src"].pop() for policy in policies]

    assert policies[0]["script-src"] == set()
    assert all(re.fullmatch(r"'nonce-[\w-]{20,}'", nonce) for nonce in nonces)
    assert nonces[0] != nonces[1]
    assert policies[0]["default-src"] == {"'none'"} == policies[0]["base-uri"]
    assert not any({"'unsafe-inline'", "'unsafe-eval'", "*", "https:"} & s for s in policies[0].values())
    for nonce, page in zip(nonces, pages_, strict=True):
        programs = [script for script in page.all("script") if script.get("type") != "application/json"]
        assert {f"'nonce-{script['nonce']}'" for script in programs} <= {nonce}


@pytest.mark.parametrize("path", ["/", "/{town}", "/{town}/roads/map"])
def test_a_page_works_without_the_internet_and_without_inline_code(server: Server, path: str) -> None:
    """Everything that it loads is ours, is there, and may be kept; styles and scripts are files."""
    response = browse(server, path)
    page = Page(response.text)
    loaded = [a["src"] for _, a in page.elements if "src" in a] + [a["href"] for a in page.all("link")]
    files = {name for name in loaded if not name.startswith("data:")}

    assert files
    assert not page.all("style") and not any(name == "style" for name, _ in page.attributes)
    for name in files:
        answer = server.get(name)
        assert name.startswith("/static/") and answer.status_code == 200
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.headers["content-type"].startswith(("text/css", "text/javascript"))
    assert response.headers["cache-control"] == "no-store"


# -- what they show


def test_a_canvas_page_lists_its_udfs(server: Server) -> None:
    """Title, description, and ways to the map and to the data, which all of them have."""
    page = Page(browse(server, "/{town}").text)
    base = f"/{server.tokens['town']}"

    assert [link["href"] for link in page.all("a")] == [
        *(f"{base}.api.json", f"{base}.wmts.xml"),
        *([f"{base}/hello/map"] * 3),
        f"{base}/hello",
        *([f"{base}/roads/map"] * 3),
        *(f"{base}/roads", f"{base}/roads/run/tiles.json"),
    ]
    assert "Roads of the town" in page.text
    assert "By class." in page.text
    assert len(page.all("code")) == 3  # two names, one word of prose
    assert page.data["udfs"] == {
        "hello": {"layer": False, "ready": True},
        "roads": {"layer": True, "ready": True},
    }


def test_a_broken_udf_says_why_on_the_pages(server: Server) -> None:
    """Its author sees file, line and reason in the place of its card and of its map."""
    listed = Page(browse(server, "/{city}").text)
    answer = server.get("/{city}/broken/map", headers={"accept": "text/html"})

    assert "broken.py:3: SyntaxError: invalid syntax" in listed.text
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "SyntaxError: invalid syntax (line 3)" in Page(answer.text).text


def test_a_canvas_page_lists_what_the_token_reaches(server: Server) -> None:
    """UDFs that are not shared are not named."""
    access = server.access
    access.share("town", udfs=["roads"])
    try:
        text = browse(server, "/{town}").text
    finally:
        access.share("town", code=True)
        access.close()

    assert "roads" in text
    assert "hello" not in text


def test_the_home_page_names_no_token(server: Server) -> None:
    """Except in the demo; programs get JSON."""
    assert "fc_" not in re.sub("fc_…", "", browse(server, "/").text)
    assert server.get("/").json()["name"] == "tileserver"


def test_the_home_page_of_the_demo_leads_into_it(demo: Server) -> None:
    """README.md: its token is no secret."""
    (link,) = Page(browse(demo, "/").text).all("a")

    assert link["href"] == "/fc_demo"
    assert demo.get(link["href"], headers={"accept": "text/html"}).status_code == 200


def test_a_map_page_asks_for_what_people_can_give() -> None:
    """A form of the signature: not the tile, not the screen; choices and defaults as they are."""
    source = (
        "bounds: fused.types.Bounds, n: int, kind: Literal['a', 'b'] = 'a', size: int = 256,"
        " box: Bbox = None, frame: fused.types.TileGDF = None"
    )
    (n, kind, box) = Page(pages.map_page(udf(source), "/x", "n", layer=True)).data["parameters"]

    assert n == {
        "name": "n",
        "type": "int",
        "choices": [],
        "default": None,
        "written": None,
        "required": True,
    }
    assert kind == {
        "name": "kind",
        "type": "Literal",
        "choices": ["a", "b"],
        "default": "a",
        "written": "'a'",
        "required": False,
    }
    assert (box["type"], box["written"]) == ("Bbox", "None")


def test_what_is_no_layer_is_shown_as_it_is(server: Server) -> None:
    """The page's script is told; nobody's tile decides the parameters then."""
    page = Page(browse(server, "/{town}/hello/map").text)

    assert page.data["layer"] is False and page.data["map"] is False
    assert page.data["base"] == f"/{server.tokens['town']}/hello"


def test_a_build_without_its_pages_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """``TILESERVER_NO_WEB``: a page that tells how to get the map, not a broken one."""
    monkeypatch.setattr(pages, "STATIC", tmp_path)
    page = Page(pages.map_page(udf(""), "/x", "n", layer=True))

    assert "TILESERVER_NO_WEB" in page.text
    assert page.all("script") == []


@pytest.mark.parametrize(
    ("docstring", "html"),
    [
        ("", ""),
        ("One.\n\n  Two.", "<p>One.</p><p>Two.</p>"),
        ("one\ntwo", "<p>one\ntwo</p>"),
        ("``a < b`` or `c`", "<p><code>a &lt; b</code> or <code>c</code></p>"),
        ("`` a", "<p>`` a</p>"),
    ],
    ids=["nothing", "paragraphs", "one paragraph", "code", "an open quote"],
)
def test_docstrings_are_prose(docstring: str, html: str) -> None:
    """Blank lines end paragraphs, backquotes mark code."""
    shown = pages.canvas_page("t", docstring, [], {}, "/x", "n")

    assert f"<h1>t</h1>{html}</div>" in shown
