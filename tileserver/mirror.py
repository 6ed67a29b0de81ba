"""Sources of UDFs elsewhere, by their URLs: found in folders of this machine, never fetched.

``source_map`` says which folder stands for which beginning of a URL, so that ``fused.load`` of a GitHub tree
works without a network, and at the commit that somebody has looked at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tileserver.errors import NotFound

_MOST_FILES = 200
_LARGEST = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Mirrored:
    """A UDF's folder or file: its name, its entry point where that is stated, its texts by their names,
    which of them is its source, and the modules that it may import."""

    name: str
    entry: str | None
    path: str
    files: Mapping[str, str]
    modules: Mapping[str, str]


class Mirror:
    """``source_map`` maps beginnings of URLs to folders; the longest that fits counts."""

    def __init__(self, source_map: Mapping[str, Path]) -> None:
        self._map = dict(source_map)

    def place(self, url: str) -> Path | None:
        """The file or folder that stands for a URL, whether it exists or not; None when nothing does."""
        plain = url.partition("?")[0].partition("#")[0]
        for prefix in sorted(self._map, key=len, reverse=True):
            if plain.startswith(prefix) or f"{plain}/" == prefix:
                rest = unquote(plain[len(prefix) :]).strip("/")
                folder = self._map[prefix].resolve()
                path = (folder / rest).resolve()
                return path if path.is_relative_to(folder) else None
        return None

    def load(self, url: str) -> Mirrored:
        """The sources of a URL.

        :raises NotFound: saying what is missing.
        """
        place = self.place(url)
        if place is None:
            host = urlsplit(url).netloc or url
            raise NotFound(f"no folder stands for {url} (source_map); nothing is fetched from {host}")
        if place.is_file() and place.suffix == ".py":
            return Mirrored(place.stem, None, place.name, {place.name: place.read_text("utf-8")}, {})
        if not place.is_dir():
            raise NotFound(f"the folder that stands for {url} (source_map) has no such source")
        return _read_folder(place, url)


def _read_folder(folder: Path, url: str) -> Mirrored:
    texts = {
        path.name: path.read_text("utf-8")
        for path in sorted(folder.glob("*.py"))[:_MOST_FILES]
        if path.stat().st_size <= _LARGEST
    }
    udf = _meta(folder / "meta.json")
    path = next((n for n in (udf.get("source"), f"{folder.name}.py", "udf.py") if n in texts), None)
    if path is None and len(texts) == 1:
        path = next(iter(texts))
    if path is None:
        raise NotFound(f"the folder that stands for {url} (source_map) has no {folder.name}.py")
    modules = {name.removesuffix(".py"): name for name in texts if name != path}
    for header in udf.get("headers") or ():
        if isinstance(header, dict) and header.get("source_file") in texts:
            modules[str(header.get("module_name"))] = header["source_file"]
    return Mirrored(udf.get("name") or folder.name, udf.get("entrypoint"), path, texts, modules)


def _meta(path: Path) -> dict[str, Any]:
    """The UDF object of a ``meta.json``; nothing where there is none that can be read."""
    try:
        steps = json.loads(path.read_bytes())["job_config"]["steps"]
        udf = steps[0]["udf"]
    except (OSError, ValueError, LookupError, TypeError):
        return {}
    return udf if isinstance(udf, dict) else {}
