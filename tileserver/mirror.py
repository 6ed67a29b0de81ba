"""Sources of UDFs elsewhere, by their URLs: found in folders of this machine, never fetched.

``source_map`` says which folder stands for which beginning of a URL, so that ``fused.load`` of a GitHub tree
works without a network, and at the commit that somebody has looked at.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from tileserver.errors import NotFound
from tileserver.protocol import Foreign

_MOST_FILES: Final = 200
_LARGEST: Final = 4 * 1024 * 1024


class Mirror:
    """``source_map`` maps beginnings of URLs to folders; the longest that fits counts."""

    def __init__(self, source_map: Mapping[str, Path]) -> None:
        self._map = {prefix.rstrip("/"): folder for prefix, folder in source_map.items()}

    def place(self, url: str) -> Path | None:
        """The file or folder that stands for a URL, whether it exists or not; None when nothing does."""
        plain = url.partition("?")[0].partition("#")[0].rstrip("/")
        for prefix in sorted(self._map, key=len, reverse=True):
            if plain == prefix or plain.startswith(f"{prefix}/"):
                rest = unquote(plain[len(prefix) :]).strip("/")
                folder = self._map[prefix].resolve()
                try:
                    path = (folder / rest).resolve()
                except ValueError:  # a name that no file can have
                    return None
                return path if path.is_relative_to(folder) else None
        return None

    def load(self, url: str) -> Foreign:
        """The sources of a URL, as its folder has them now.

        :raises NotFound: saying what is missing.
        """
        place = self.place(url)
        if place is None:
            host = urlsplit(url).netloc or url
            raise NotFound(f"no folder stands for {url} (source_map), and nothing is fetched from {host}")
        try:
            if place.is_file() and place.suffix == ".py":
                return Foreign.of(place.stem, place.name, {place.name: _text(place)})
            if place.is_dir():
                return _folder(place, url)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
            raise NotFound(f"what stands for {url} (source_map) can't be read: {reason}") from None
        raise NotFound(f"the folder that stands for {url} (source_map) has no such source")


def _folder(folder: Path, url: str) -> Foreign:
    root = folder.resolve()
    texts = {
        path.name: _text(path)
        for path in sorted(folder.glob("*.py"))[:_MOST_FILES]
        if path.is_file() and path.resolve().is_relative_to(root) and path.stat().st_size <= _LARGEST
    }
    described = folder / "meta.json"
    meta = b""
    if described.is_file() and described.resolve().is_relative_to(root):
        meta = _bytes(described)
    found = assemble(folder.name, texts, meta)
    if found is None:
        raise NotFound(f"the folder that stands for {url} (source_map) has no {folder.name}.py")
    return found


def assemble(folder: str, texts: Mapping[str, str], meta: bytes) -> Foreign | None:
    """A UDF in Fused's folder layout from the texts of its folder and its ``meta.json``; None where none of
    the texts is its source."""
    udf = udf_object(meta)
    named = (udf.get("source"), f"{folder}.py", "udf.py")
    path = next((name for name in named if isinstance(name, str) and name in texts), None)
    if path is None and len(texts) == 1:
        path = next(iter(texts))
    if path is None:
        return None
    modules = {name.removesuffix(".py"): name for name in texts if name != path}
    modules |= {name: file for name, file in header_files(udf).items() if file in texts}
    entry, defaults = udf.get("entrypoint"), udf.get("parameters")
    return Foreign.of(
        str(udf.get("name") or folder),
        path,
        texts,
        entry=entry if isinstance(entry, str) and entry else None,
        modules=modules,
        defaults=defaults if isinstance(defaults, dict) else {},
    )


def udf_object(meta: bytes) -> dict[str, Any]:
    """The UDF object of a ``meta.json``; nothing where there is none that can be read."""
    try:
        udf = json.loads(meta)["job_config"]["steps"][0]["udf"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}
    return udf if isinstance(udf, dict) else {}


def header_files(udf: Mapping[str, Any]) -> dict[str, str]:
    """Files of a UDF object's modules by the names that import them."""
    headers = udf.get("headers")
    found = {}
    for header in headers if isinstance(headers, list) else ():
        if isinstance(header, dict):
            name, file = header.get("module_name"), header.get("source_file")
            if isinstance(name, str) and isinstance(file, str):
                found[name] = file
    return found


def _text(path: Path) -> str:
    return _bytes(path).decode("utf-8-sig")


def _bytes(path: Path) -> bytes:
    """:raises OSError: also for a file that is too large."""
    with path.open("rb") as file:
        content = file.read(_LARGEST + 1)
    if len(content) > _LARGEST:
        raise OSError(errno.EFBIG, f"{path.name} is larger than {_LARGEST} bytes")
    return content
