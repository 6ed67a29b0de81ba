"""What travels between the server and its workers, and how it is framed.

A frame is two unsigned 32-bit lengths (network order), a JSON header and a raw body. Nothing is ever
pickled: a worker runs other people's code, so what it sends is data to be checked, not objects.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias

from mercantile import Tile

Json: TypeAlias = "None | bool | int | float | str | list[Json] | dict[str, Json]"

LENGTHS: Final = struct.Struct("!II")
MAX_HEADER: Final = 4 * 1024 * 1024

DEFAULT_SIZE: Final = 256
DEFAULT_EXTENT: Final = 4096
DEFAULT_BUFFER: Final = 64

# Which default applies when no format was asked for, or none of those asked for fits. "value" is a tile for
# who posted its code: nothing is nothing there, and no picture of it.
Default = Literal["data", "page", "tile", "value"]


@dataclass(frozen=True, slots=True)
class RenderOptions:
    """How a value becomes a picture or a vector tile.

    ``size`` is the side of a tile in pixels at ``scale`` 1, and ``exact`` says that an array of another
    shape must be resampled to it; ``rescale`` holds one (min, max) for all bands or one for each; ``stops``
    are values of a single band with their colours (value, red, green, blue, opacity, from 0 to 1), in the
    place of ``rescale`` and ``colormap``; ``summary`` asks for what attributes have in them, among a tile's
    facts; ``buffer`` and ``extent`` are in tile units; no side of a picture may exceed ``max_pixels``.
    """

    size: int = DEFAULT_SIZE
    scale: int = 1
    exact: bool = False
    rescale: tuple[tuple[float, float], ...] = ()
    colormap: str | None = None
    stops: tuple[tuple[float, ...], ...] = ()
    nodata: float | None = None
    resampling: str = "nearest"
    buffer: int = DEFAULT_BUFFER
    extent: int = DEFAULT_EXTENT
    max_pixels: int = 4096
    summary: bool = False

    @property
    def pixels(self) -> int:
        """Side of the picture to make, in pixels."""
        return self.size * self.scale

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Job:
    """One run: which function of which bundle, with which arguments, in which formats.

    ``owner`` is whose worker runs it (see ``Bundle``). ``arguments`` holds text as it came in the query (a
    list for a repeated key), or plain JSON values where the caller could say more (posted objects,
    defaults). ``headers`` is what the UDF may see of its caller. ``recursion`` counts UDFs that called one
    another, from 1; ``nested`` of them wait on this server for this one, which then ends by the
    ``deadline`` of the one that called it (the server's monotonic clock; None without one). ``style`` is the
    document that features are drawn with, as JSON text; the default one where it is None.
    """

    owner: str
    bundle: str
    udf: str
    arguments: Mapping[str, Json]
    formats: tuple[str, ...]
    default: Default
    options: RenderOptions = field(default_factory=RenderOptions)
    tile: Tile | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    recursion: int = 1
    nested: int = 0
    time_limit: float = 120.0
    deadline: float | None = None
    style: str | None = None

    def to_json(self) -> dict[str, Any]:
        header = {name: getattr(self, name) for name in _JOB_PLAIN}
        header["options"] = self.options.to_json()
        header["tile"] = None if self.tile is None else [self.tile.z, self.tile.x, self.tile.y]
        return header

    @classmethod
    def from_json(cls, header: Mapping[str, Any]) -> Job:
        options = dict(header["options"])
        options["rescale"] = tuple((low, high) for low, high in options["rescale"])
        options["stops"] = tuple(tuple(stop) for stop in options["stops"])
        tile = header["tile"]
        return cls(
            **{name: header[name] for name in _JOB_PLAIN if name != "formats"},
            formats=tuple(header["formats"]),
            options=RenderOptions(**options),
            tile=None if tile is None else Tile(z=tile[0], x=tile[1], y=tile[2]),
        )


_JOB_PLAIN: Final = (
    *("owner", "bundle", "udf", "arguments", "formats", "default"),
    *("headers", "recursion", "nested", "time_limit", "style"),
)


@dataclass(frozen=True, slots=True)
class Source:
    """One UDF of a bundle: where its text is and which function in it to call.

    ``modules`` maps the names it may import to paths in the bundle's ``files``. ``entry`` is None where
    the text has no usable entry point; ``defaults`` are parameters stored beside the UDF.
    """

    path: str
    entry: str | None
    modules: Mapping[str, str]
    defaults: Mapping[str, Json]


@dataclass(frozen=True, slots=True)
class Foreign:
    """A source that ``fused.load`` takes from outside the canvas, with or without a UDF in it.

    ``path`` is its text's among ``files``; ``modules`` and ``defaults`` are as in ``Source``. ``digest``
    changes with anything in it.
    """

    name: str
    entry: str | None
    path: str
    files: Mapping[str, str]
    modules: Mapping[str, str]
    defaults: Mapping[str, Json]
    digest: str

    @classmethod
    def of(
        cls,
        name: str,
        path: str,
        files: Mapping[str, str],
        *,
        entry: str | None = None,
        modules: Mapping[str, str] | None = None,
        defaults: Mapping[str, Json] | None = None,
    ) -> Foreign:
        """A source whose digest is that of its content."""
        facts = [name, entry, path, dict(files), dict(modules or {}), dict(defaults or {})]
        text = json.dumps(facts, sort_keys=True)
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
        return cls(name, entry, path, files, modules or {}, defaults or {}, digest)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Foreign:
        return cls(**facts)


@dataclass(frozen=True, slots=True)
class Bundle:
    """All sources that a canvas's UDFs may need, sent to a worker once for each ``id``.

    ``owner`` has workers, caches and scratch of its own: the canvas, or for posted code the access token
    that posted it (``canvas`` is then empty, or names the canvas whose files it may use). ``folder`` is the
    working directory of the run; ``files`` maps paths relative to it to text. ``foreign`` holds sources from
    elsewhere by the name or address that loads them. ``environment`` and ``secrets`` go to its workers and
    nowhere else.
    """

    id: str
    owner: str
    canvas: str
    folder: str
    files: Mapping[str, str]
    udfs: Mapping[str, Source]
    environment: Mapping[str, str] = field(repr=False)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    foreign: Mapping[str, Source] = field(default_factory=dict)

    def source(self, name: str) -> Source:
        """The UDF of the canvas, or the source from elsewhere, of this name.

        :raises KeyError: when there is neither.
        """
        return self.udfs[name] if name in self.udfs else self.foreign[name]

    def with_foreign(self, found: Mapping[str, Foreign]) -> Bundle:
        """The bundle with sources from elsewhere, by the names that load them. Its id is its own."""
        if not found:
            return self
        files, foreign = dict(self.files), dict(self.foreign)
        for name, source in found.items():
            folder = f".loaded/{source.digest[:16].replace('/', '-')}"
            files |= {f"{folder}/{path}": text for path, text in source.files.items()}
            modules = {module: f"{folder}/{path}" for module, path in source.modules.items()}
            foreign[name] = Source(f"{folder}/{source.path}", source.entry, modules, source.defaults)
        facts = [self.id, sorted((name, source.digest) for name, source in found.items())]
        digest = hashlib.blake2b(json.dumps(facts).encode(), digest_size=16).hexdigest()
        return replace(self, id=f"loaded-{digest}", files=files, foreign=foreign)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, header: Mapping[str, Any]) -> Bundle:
        sources = {
            group: {name: Source(**source) for name, source in header[group].items()}
            for group in ("udfs", "foreign")
        }
        return cls(**{**header, **sources})


@dataclass(frozen=True, slots=True)
class Encoded:
    """A result as bytes. ``created`` is the time of the run (Unix seconds).

    ``meta`` has plain facts about the run: ``kind``, ``format``, ``stdout``, ``stderr``, ``bounds`` of
    the data, ``empty``, ``status`` and ``headers`` of a ready-made response, ``run_ms``, ``encode_ms``.
    """

    body: bytes
    media_type: str
    created: float
    meta: Mapping[str, Any]


def pack(header: Mapping[str, Any], body: bytes = b"") -> tuple[bytes, bytes]:
    """A frame in two pieces, so that a large body is never copied."""
    text = json.dumps(header, separators=(",", ":")).encode()
    return LENGTHS.pack(len(text), len(body)) + text, body
