"""Our own HTML: the map of a UDF, the list of a canvas, the home page.

Everything that comes from a workspace or a request is escaped. Pages load nothing from other hosts, and their
policy lets only the scripts run that carry the page's nonce, and what these import: never whatever else this
origin serves. HTML of a UDF stands in a frame of another origin (``static/frame.html``).
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
import secrets
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any, Final

from tileserver import __version__
from tileserver.protocol import Json
from tileserver.signature import Parameter
from tileserver.udf import Udf

STATIC: Final = Path(__file__).parent / "static"
_MAPLIBRE: Final = "vendor/maplibre-gl/maplibre-gl-csp"


def headers(nonce: str, *, framed: bool = True) -> dict[str, str]:
    """Headers of a page whose scripts carry the nonce; whether pages of others may show it in a frame."""
    policy = (
        "default-src 'none'",
        f"script-src 'nonce-{nonce}'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "worker-src blob:",
        "frame-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        *(() if framed else ("frame-ancestors 'none'",)),
    )
    return {"content-security-policy": "; ".join(policy), "cache-control": "no-store"}


def new_nonce() -> str:
    return secrets.token_urlsafe(16)


def map_page(udf: Udf, base: str, nonce: str, *, layer: bool, style_fault: str = "") -> str:
    """A page with a UDF on a map and a form for its parameters; where it is no ``layer``, with its result.
    ``base`` is the path of the UDF; ``style_fault`` why the default style draws it in the place of its own.
    """
    if not (STATIC / f"{_MAPLIBRE}.js").is_file():
        return _page(udf.title, _WITHOUT_MAP)
    asked = _asked(udf, layer=layer)
    with_map = layer or any(parameter.type_name in _AREAS for parameter in asked)
    data = {
        "name": udf.name,
        "base": base,
        "worker": _static(f"{_MAPLIBRE}-worker.js"),
        "countries": _static("countries.json"),
        "frame": _static("frame.html"),
        "layer": layer,
        "map": with_map,
        "bounds": udf.settings.bounds,
        "empty": udf.settings.empty,
        "parameters": [_described(p) for p in asked],
    }
    fault = f"Drawn by the default style: {escape(style_fault)}"
    told = f'<p id="style-fault" role="status">{fault}</p>\n' if layer and style_fault else ""
    maplibre = f'<script nonce="{nonce}" src="{_static(f"{_MAPLIBRE}.js")}"></script>' if with_map else ""
    body = f"""
<main class="map">
<div id="map"></div>
<section id="result" aria-label="Result of {escape(udf.name)}" hidden></section>
<div id="progress" role="progressbar" aria-label="Tiles" aria-valuemin="0" hidden><div></div></div>
<details id="panel" open>
<summary><h1>{escape(udf.title)}</h1></summary>
<div class="about">{_prose(udf.description)}</div>
<form id="parameters" class="part" aria-label="Parameters"></form>
<p id="message" role="alert"></p>
{told}<section id="legend" class="part" aria-label="Legend" hidden></section>
<section id="display" class="part" aria-label="Display"></section>
<div id="actions" class="part"></div>
</details>
<div id="status"><span id="loading" role="status"></span><span id="timing" hidden></span></div>
<section id="errors" aria-label="Errors" hidden></section>
<dialog id="uses" aria-label="Use it elsewhere"></dialog>
<dialog id="help" aria-label="Keys"></dialog>
</main>
<script type="application/json" id="data">{_embedded(data)}</script>
{maplibre}
<script nonce="{nonce}" type="module" src="{_static("map/main.js")}"></script>"""
    sheets = (f"{_MAPLIBRE.removesuffix('-csp')}.css", "page.css", "map/map.css")
    return _page(udf.title, body, sheets)


_WITHOUT_MAP: Final = """<main><h1>No map here</h1>
<p>This server was built without its web pages (<code>TILESERVER_NO_WEB</code>). Tiles and data are served
as ever; install it again without that variable to have the map.</p></main>"""


def locked_page(scheme: str, nonce: str) -> str:
    """The shell of a page of a canvas that is not public, without anything of that: it asks for what an
    ``Authorization`` header of this scheme takes, and becomes the page."""
    asked = "Access token" if scheme == "Bearer" else "Passcode"
    field = '<input name="secret" type="password" autocomplete="off" required autofocus>'
    body = f"""
<main><h1>This canvas is not public</h1>
<form id="lock"><label>{asked} {field}</label> <button>Open</button></form>
<p id="message" role="alert"></p></main>
<script type="application/json" id="data">{_embedded({"scheme": scheme})}</script>
<script nonce="{nonce}" type="module" src="{_static("lock.js")}"></script>"""
    return _page("This canvas is not public", body)


def broken_page(name: str, reason: str) -> str:
    """In the place of the map of a UDF that can't be served."""
    return _page(
        name,
        f'<main><h1>{escape(name)}</h1><p class="reason" role="alert">{escape(reason)}</p>'
        "<p>Once its file is mended, load this page again.</p></main>",
    )


def canvas_page(
    title: str, description: str, udfs: Iterable[Udf], broken: Mapping[str, str], base: str, nonce: str
) -> str:
    """The UDFs that a token reaches, with their addresses below ``base``, and why some are broken."""
    listed = list(udfs)
    good = [_card(udf, f"{base}/{udf.name}") for udf in listed]
    cards = "\n".join([*good, *(_broken_card(name, reason) for name, reason in broken.items())])
    data = {
        "base": base,
        "frame": _static("frame.html"),
        "udfs": {udf.name: {"layer": udf.is_layer, "ready": _is_ready(udf)} for udf in listed},
    }
    here = escape(base, quote=True)
    body = f"""<main>
<div class="top"><div><h1>{escape(title)}</h1>{_prose(description)}</div></div>
<p class="links"><a href="{here}.api.json">OpenAPI</a> <a href="{here}.wmts.xml">WMTS</a></p>
<label class="find"><span class="offscreen">Search the functions</span>
<input type="search" id="find" placeholder="Search (/)" autocomplete="off"></label>
<div class="cards">{cards}</div>
<p id="nothing" class="nothing quiet" hidden>No function has these words.</p>
</main>
<script type="application/json" id="data">{_embedded(data)}</script>
<script nonce="{nonce}" type="module" src="{_static("canvas.js")}"></script>"""
    return _page(title, body)


def _is_ready(udf: Udf) -> bool:
    """Whether it can run as it is asked for by a page that gives no parameters."""
    return not any(parameter.required for parameter in _asked(udf, layer=udf.is_layer))


def _card(udf: Udf, address: str) -> str:
    # Only what every UDF answers to: its source doesn't tell what it returns.
    here = escape(address, quote=True)
    tilejson = f'<a href="{here}/run/tiles.json">TileJSON</a> ' if udf.is_layer else ""
    asked = "".join(f"<li>{escape(_short(p))}</li>" for p in _asked(udf, layer=udf.is_layer))
    return (
        f'<article data-udf="{escape(udf.name, quote=True)}">'
        f'<a class="thumbnail" href="{here}/map" tabindex="-1" aria-hidden="true"></a><div class="text">'
        f'<h2><a href="{here}/map">{escape(udf.title)}</a></h2>'
        f'<p class="name"><code>{escape(udf.name)}</code><span class="kind" hidden></span></p>'
        f'{_prose(udf.description)}{f"""<ul class="parameters">{asked}</ul>""" if asked else ""}'
        f'<p class="links"><a href="{here}/map">map</a> <a href="{here}">data</a> {tilejson}</p>'
        "</div></article>"
    )


def _short(parameter: Parameter) -> str:
    """A parameter as its signature has it, on one short line."""
    text = parameter.name if parameter.default is None else f"{parameter.name} = {parameter.default}"
    return text if len(text) <= 40 else f"{text[:39]}…"


def _broken_card(name: str, reason: str) -> str:
    return (
        f'<article><div class="text"><h2>{escape(name)}</h2><p class="reason">{escape(reason)}</p></div>'
        "</article>"
    )


def home_page(tokens: Iterable[str]) -> str:
    """What this is; where the demo runs, the way to it."""
    links = "".join(f'<li><a href="/{escape(t)}">Open the demo: /{escape(t)}</a></li>' for t in tokens)
    shared = f"<ul>{links}</ul>" if links else _HOME_HINT
    about = '<p class="lead">Python functions as map tiles and data.</p>'
    version = f'<p class="quiet">Version {__version__}</p>'
    return _page("tileserver", f'<main class="hero"><h1>tileserver</h1>{about}{shared}{version}</main>')


_HOME_HINT: Final = (
    "<p>Canvases answer below their tokens: <code>/fc_…/name</code>. "
    "<code>tileserver canvas list</code> shows them to whoever runs this server.</p>"
)


def _prose(text: str) -> str:
    """A docstring as people write it: blank lines end paragraphs, backquotes mark code."""
    marked = re.sub(r"(?<!`)(`+)(?!`)([^`]+)\1", r"<code>\2</code>", escape(text))
    return "".join(f"<p>{part.strip()}</p>" for part in re.split(r"\n\s*\n", marked) if part.strip())


def _asked(udf: Udf, *, layer: bool) -> list[Parameter]:
    """Parameters for people: not those that the tile or the screen decides, nor what only code can give."""
    filled = udf.signature.filled_by_tile | {"size"} if layer else frozenset()
    return [p for p in udf.signature.parameters if p.name not in filled and p.type_name not in _FRAMES]


_AREAS: Final = frozenset({"Bounds", "Bbox"})  # a page takes them from a map
_FRAMES: Final = frozenset({"Tile", "TileGDF", "TileXYZ", "ViewportGDF"})


def _described(parameter: Parameter) -> dict[str, Json]:
    return {
        "name": parameter.name,
        "type": parameter.type_name,
        "choices": list(parameter.choices),
        "default": parameter.literal,
        "written": parameter.default,
        "required": parameter.required,
    }


def _embedded(data: Mapping[str, Any]) -> str:
    """JSON that can stand inside a script element, whatever text is in it."""
    text = json.dumps(data)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


@functools.cache
def version() -> str:
    """A name for the content of all our files: addresses with it in them never change what they give."""
    digest = hashlib.blake2b(digest_size=6)
    for path in sorted(STATIC.rglob("*")):
        if path.is_file():
            digest.update(path.relative_to(STATIC).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _static(path: str) -> str:
    # In the path, not in the query: scripts import each other by relative addresses.
    return f"/static/{version()}/{path}"


def _page(title: str, body: str, styles: Iterable[str] = ("page.css",)) -> str:
    links = "\n".join(f'<link rel="stylesheet" href="{_static(path)}">' for path in styles)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
{links}
</head>
<body>
{body}
</body>
</html>
"""
