"""Styles: documents in a subset of the MapLibre style language that the browser, our pictures and legends
share.

``parse`` reads a document and ``find`` a reference to one: of the canvas, of those that come with the
package, or ``auto``, which looks at the data. Everything here is pure; ``render/styling.py`` evaluates for
whole tables.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from tileserver.errors import BadRequest
from tileserver.styles import parameters, raster
from tileserver.styles.bounds import check_size
from tileserver.styles.fault import StyleFault as StyleFault
from tileserver.styles.layers import Layer, check_keys, read_layers
from tileserver.styles.parameters import NO_ARGUMENTS, Arguments, Summary
from tileserver.styles.raster import RasterPart

DEFAULT: Final = "default"
AUTO: Final = "auto"
LEGEND: Final = "tileserver:legend"
_EXAMPLES: Final = {"attribute": "mag", "range": "0:9", "values": "a|b"}
# Beside this file where the package is installed, beside the package where it runs from its sources.
_FOLDERS: Final = (Path(__file__).parent / "shipped", Path(__file__).parents[2] / "styles")


@dataclass(frozen=True, slots=True)
class Style:
    """A document that has been read, and its JSON ``text``. ``layers`` draw features, ``raster`` colours
    pictures; ``title`` and ``unit`` are what the legend says. ``is_open`` says that it has parameters that
    only the data can fill."""

    name: str
    title: str
    description: str
    layers: tuple[Layer, ...]
    raster: RasterPart
    unit: str
    document: Mapping[str, Any] = field(repr=False)
    text: str = field(repr=False)
    digest: str
    given: Arguments = NO_ARGUMENTS
    is_open: bool = False

    @property
    def reference(self) -> str:
        """What finds this style again."""
        return parameters.reference(self.name, self.given)

    @property
    def key(self) -> str:
        """What stands for it in the key of a stored result."""
        return f"{self.reference} {self.digest}"


Styles = Mapping[str, "Style | StyleFault"]
_NONE: Final[Styles] = MappingProxyType({})


def parse(document: Any, name: str) -> Style:
    """A style document; ``name`` is that of its file.

    :raises StyleFault: with the path of what is wrong.
    """
    if not isinstance(document, dict):
        raise StyleFault("", "a style is a JSON object")
    known = ("version", "name", "metadata", "sources", "layers", "$schema")
    check_keys(document, known, "")
    if document.get("version") != 8:
        raise StyleFault("version", "takes 8")
    _check_sources(document.get("sources", {}))
    about = document.get("metadata", {})
    if not isinstance(about, dict):
        raise StyleFault("metadata", "takes an object")
    legend = raster.about(about, LEGEND)
    parameters.check(about.get(parameters.KEY, {}))
    text = json.dumps(document, sort_keys=True, ensure_ascii=True)
    return Style(
        name=name,
        title=str(legend.get("title", "")),
        description=str(about.get("description", "")),
        layers=read_layers(document.get("layers")),
        raster=raster.read_raster(about.get(raster.KEY)),
        unit=str(legend.get("unit", "")),
        document=document,
        text=text,
        digest=hashlib.blake2b(text.encode(), digest_size=8).hexdigest(),
        is_open=bool(parameters.declared(document)),
    )


def _check_sources(value: Any) -> None:
    if value not in ({}, {"udf": {"type": "vector"}}):
        raise StyleFault("sources", 'takes {"udf": {"type": "vector"}}: the tiles of the UDF')


def read(text: str | bytes, name: str) -> Style:
    """A style from the text of its file.

    :raises StyleFault: also when it is no JSON.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StyleFault("", f"is not JSON: {error}") from None
    check_size(document)
    return parse(document, name)


@functools.cache
def shipped() -> Mapping[str, Style]:
    """The styles that come with the package, by their names."""
    folder = next(place for place in _FOLDERS if place.is_dir())
    found = {path.stem: read(path.read_bytes(), path.stem) for path in sorted(folder.glob("*.json"))}
    return MappingProxyType(found)


def default() -> Style:
    """What draws a UDF that has no style of its own."""
    return shipped()[DEFAULT]


def find(reference: str, own: Styles = _NONE) -> Style:
    """The style of a reference such as ``default`` or ``choropleth(attribute=mag)``; ``own`` are the
    canvas's.

    :raises StyleFault: when the document has a fault, or makes one of what it is given.
    :raises BadRequest: for an unknown style, naming near ones.
    """
    name, given = parameters.parse_reference(reference)
    if name == AUTO and AUTO not in own:
        return replace(default(), name=AUTO, is_open=True)
    found = own.get(name) or shipped().get(name)
    if found is None:
        known = sorted({AUTO, *own, *shipped()})
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"near it: {', '.join(near)}" if near else f"known: {', '.join(known)}"
        raise BadRequest(f"no style called {name[:40]!r}; {hint}")
    if isinstance(found, StyleFault):
        raise StyleFault(found.path, f"{found.reason} (style {name})")
    return _given(found, given)


def _given(style: Style, given: Arguments) -> Style:
    if given == NO_ARGUMENTS:
        return style
    known = parameters.declared(style.document)
    for key in ("attribute", "range", "values"):
        if getattr(given, key) is not None and key not in known:
            raise BadRequest(f"the style {style.name} has no parameter {key}")
    still_open = parameters.left_open(style.document, given)
    if still_open:
        return replace(style, given=given)
    return _filled(style.text, style.name, given)


@functools.lru_cache(maxsize=256)
def _filled(text: str, name: str, given: Arguments) -> Style:
    """Once for each reference: every request of a tile comes by here."""
    made = parse(parameters.fill(json.loads(text), given), name)
    return replace(made, given=given, is_open=False)


def completed(style: Style, summary: Summary, own: Styles = _NONE) -> Style:
    """An open style with what the data says.

    :raises BadRequest: when the data says nothing of what the reference leaves open.
    """
    if not style.is_open:
        return style
    if style.name == AUTO:
        chosen = "choropleth" if summary.number else "categorical" if summary.category else DEFAULT
        return completed(shipped()[chosen], summary)
    base = own.get(style.name)
    base = base if isinstance(base, Style) else shipped()[style.name]
    found = parameters.completed(base.document, style.given, summary)
    if found is None:
        wanted = ", ".join(sorted(parameters.left_open(base.document, style.given)))
        example = ", ".join(f"{key}={_EXAMPLES[key]}" for key in parameters.declared(base.document))
        raise BadRequest(
            f"the data doesn't say what {style.name} needs ({wanted}); write it: {style.name}({example})"
        )
    return _given(base, found)
