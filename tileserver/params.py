"""From a query to a ``Call``: reserved names, arguments, format preference, render options, age.

Pure: knows the UDF's signature, never its values. What a caller's request comes down to is one frozen
``Call``, whose ``cache_key`` is the same for every spelling of the same request.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final
from urllib.parse import parse_qsl

from mercantile import Tile

from tileserver import __version__, formats, styles, tiles
from tileserver.errors import BadRequest, InvalidTile, UdfError
from tileserver.protocol import DEFAULT_EXTENT, DEFAULT_SIZE, Bundle, Default, Job, Json, RenderOptions
from tileserver.styles import Style
from tileserver.styles.raster import RESAMPLING
from tileserver.subject import Subject, form
from tileserver.udf import Udf
from tileserver.units import parse_duration

QueryItems = Sequence[tuple[str, str]]

DEFAULT_MAX_AGE: Final = 90 * 86400
RECURSION_LIMIT: Final = 5
MAX_PARAMETERS: Final = 2000

# Never given to a UDF. Names beginning with "_" are reserved too.
RESERVED: Final = frozenset(
    {"", "format", "dtype_out_vector", "dtype_out_raster", "dtype_in", "cache_max_age", "cache"}
    | {"profile", "fused_cache_disable_stream", "fused_session_token"}
)


def is_reserved(name: str) -> bool:
    return name in RESERVED or name.startswith("_")


@dataclass(frozen=True, slots=True)
class Address:
    """What is asked of a UDF: a single run or one tile, with the extension of the path.

    ``scale`` is the n of ``@nx``; ``page`` says that the caller would rather look than parse."""

    tile: Tile | None = None
    scale: int = 1
    extension: str | None = None
    page: bool = False

    @classmethod
    def of_tile(cls, z: str, x: str, last: str) -> Address:
        """That of the three path segments of a tile.

        :raises InvalidTile: when they are no tile of the matrix, or a side-car file of one.
        """
        if extension := formats.sidecar(last):
            raise InvalidTile(f"there is no .{extension} beside a tile")
        found = tiles.parse(z, x, last)
        return cls(tile=found.tile, scale=found.scale, extension=found.extension)


@dataclass(frozen=True, slots=True)
class Limits:
    """What the settings allow a call."""

    time_limit: float = 120.0
    tile_time_limit: float = 30.0
    max_tile_pixels: int = 4096


@dataclass(frozen=True, slots=True)
class Caller:
    """What a run may know of who asked for it; no part of what is asked for. ``recursion`` counts UDFs that
    called one another, from 1; ``nested`` of them wait on this server, the last until ``deadline`` (see
    ``Job``)."""

    headers: Mapping[str, str] = field(default_factory=dict)
    recursion: int = 1
    nested: int = 0
    deadline: float | None = None

    @classmethod
    def of(cls, headers: Iterable[tuple[str, str]], shown: Mapping[str, str]) -> Caller:
        """The caller of an HTTP request; ``shown`` is what the server itself says of them."""
        own = {name.lower(): value for name, value in headers}
        depth = own.get("fused-recursion", "")
        return cls(
            headers={**{name: value for name, value in own.items() if not _is_hidden(name)}, **shown},
            recursion=max(1, int(depth)) if depth.isascii() and depth.isdigit() and len(depth) < 9 else 1,
        )


def _is_hidden(header: str) -> bool:
    """Credentials, what proxies add, and what only the server may say of a caller."""
    return header in _HIDDEN or header.startswith(_HIDDEN_PREFIXES)


_HIDDEN_PREFIXES: Final = (
    *("proxy-", "x-forwarded-", "x-original-", "x-envoy-", "x-amzn-", "cf-"),
    *("fused-share-", "fused-session-"),
)
_HIDDEN: Final = frozenset(
    {"authorization", "cookie", "forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip"}
    | {"client-ip", "true-client-ip", "fastly-client-ip", "fly-client-ip"}
)

NOBODY: Final = Caller()


@dataclass(frozen=True, slots=True)
class Call:
    """A request that is ready to run: arguments are still text, ``max_age`` is the reader's (seconds), and so
    is how much longer a result may be used while another is made, or in the place of a failure. ``style`` is
    None where there is nothing to draw."""

    udf: Udf
    arguments: Mapping[str, Json]
    tile: Tile | None
    formats: tuple[str, ...]
    default: Default
    options: RenderOptions
    max_age: int
    time_limit: float
    bundle: Bundle
    caller: Caller = NOBODY
    stale_while_revalidate: int = 0
    stale_if_error: int = 0
    style: Style | None = None

    def subject(self) -> Subject:
        """What a purge knows the result by: of the arguments, those with a value, given or by default."""
        parameters = {p.name: p for p in self.udf.signature.parameters}
        filled = self.udf.signature.filled_by_tile if self.tile is not None else frozenset()
        defaults = {p.name: p.literal for p in parameters.values() if p.name not in filled}
        return Subject(
            owner=self.bundle.owner,
            udf=self.udf.name,
            revision=self.udf.revision,
            tile=None if self.tile is None else (self.tile.z, self.tile.x, self.tile.y),
            values={
                name: form(parameters[name].type_name if name in parameters else "str", value)
                for name, value in {**defaults, **self.arguments}.items()
                if value is not None
            },
        )

    def cache_key(self) -> str:
        """The same for the same code, arguments, tile, formats and rendering, whoever asks."""
        facts = [
            *(__version__, self.bundle.owner, self.udf.name, self.udf.revision),
            *(self.udf.signature.entry, sorted(self.arguments.items()), self.tile),
            *(self.formats, self.default, self.options.to_json(), self.style and self.style.key),
        ]
        return hashlib.blake2b(json.dumps(facts).encode(), digest_size=20).hexdigest()

    def job(self) -> Job:
        return Job(
            owner=self.bundle.owner,
            bundle=self.bundle.id,
            udf=self.udf.name,
            arguments=self.arguments,
            formats=self.formats,
            default=self.default,
            options=self.options,
            tile=self.tile,
            headers=self.caller.headers,
            recursion=self.caller.recursion,
            nested=self.caller.nested,
            time_limit=self.time_limit,
            deadline=self.caller.deadline,
            style=None if self.style is None else self.style.text,
        )


def parse_query(query: bytes) -> list[tuple[str, str]]:
    """Decode a query string; ``+`` and ``%20`` are both spaces.

    :raises BadRequest: for bytes that aren't UTF-8, or too many parameters.
    """
    try:
        # All tiles of a layer have the same one.
        return list(_remembered(query)) if len(query) <= _SHORT else _pairs(query)
    except UnicodeError:
        raise BadRequest("the query string is not percent-encoded UTF-8") from None
    except ValueError:
        raise BadRequest(f"more than {MAX_PARAMETERS} query parameters") from None


def _pairs(query: bytes) -> list[tuple[str, str]]:
    text = query.decode("ascii")
    return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS)


_SHORT: Final = 2048  # bytes of a query that is remembered
_remembered: Final = lru_cache(maxsize=256)(_pairs)


def build_call(
    udf: Udf,
    bundle: Bundle,
    address: Address,
    query: QueryItems,
    *,
    limits: Limits,
    arguments: Mapping[str, Json] | None = None,
    caller: Caller = NOBODY,
) -> Call:
    """Turn a request for a UDF into a call. ``arguments`` are those of a posted UDF, beside the query's.

    :raises BadRequest: for a malformed reserved parameter or render option, a size beyond the limit,
        or a tile of a UDF whose mode is ``single``.
    :raises UnknownFormat: naming the known ones.
    :raises UdfError: when UDFs have called one another too deep.
    """
    if caller.recursion > RECURSION_LIMIT:
        raise UdfError(
            f"RecursionError: UDFs call one another more than {RECURSION_LIMIT} deep",
            exception_class="RecursionError",
            read_caller=True,  # who isn't called by so many gets a result
        )
    if address.tile is not None and udf.settings.mode == "single":
        raise BadRequest(f"{udf.name} has mode = single in canvas.toml: it has no tiles")
    tiled = address.tile is not None
    # Who says how old a result may be gets none that is older.
    may_be_stale = _last(query, "cache_max_age") is None
    limit = limits.tile_time_limit if tiled else limits.time_limit
    wanted = _formats(address.extension, query)
    # Of a single format the default says nothing, so it must not make two calls of one.
    page = address.page and (len(wanted) != 1 or ":" in wanted[0])
    default: Default = "tile" if tiled else "page" if page else "data"
    style = style_of(udf, query)
    return Call(
        udf=udf,
        arguments={
            # A stored None leaves the parameter to the function's own default, as a query can't say None.
            **{name: value for name, value in udf.defaults.items() if value is not None},
            **_arguments(udf, query, tiled=tiled),
            **_posted_arguments(udf, arguments or {}, tiled=tiled),
        },
        tile=address.tile,
        formats=wanted,
        default=default,
        options=_options(udf, query, style, address.scale, limits.max_tile_pixels),
        max_age=_max_age(udf, query),
        time_limit=udf.settings.time_limit or limit,
        bundle=bundle,
        caller=caller,
        stale_while_revalidate=udf.settings.stale_while_revalidate if may_be_stale else 0,
        stale_if_error=udf.settings.stale_if_error if may_be_stale else 0,
        style=style if _draws(wanted) else None,
    )


def _draws(wanted: tuple[str, ...]) -> bool:
    """Whether features may become a picture."""
    return any(name.rpartition(":")[2] in formats.PICTURES for name in wanted)


def style_of(udf: Udf, query: QueryItems) -> Style:
    """The style that a query names, else that of the UDF.

    :raises BadRequest: for a style that is unknown or has a fault.
    """
    asked = None if "style" in udf.signature.names else _last(query, "style")
    return styles.find(asked or udf.settings.style or styles.DEFAULT, udf.styles)


def _posted_arguments(udf: Udf, arguments: Mapping[str, Json], *, tiled: bool) -> dict[str, Json]:
    # None among them is an argument, too: only a query can't say it.
    ignored = udf.signature.filled_by_tile if tiled else frozenset()
    known, takes_any = udf.signature.names - ignored, udf.signature.takes_any
    return {
        name: value
        for name, value in arguments.items()
        if name in known or (takes_any and name not in ignored)
    }


def _arguments(udf: Udf, query: QueryItems, *, tiled: bool) -> dict[str, Json]:
    signature = udf.signature
    ignored = signature.filled_by_tile if tiled else frozenset()
    names = signature.names
    collected: dict[str, list[str]] = {}
    for name, value in query:
        if is_reserved(name) or name in ignored:
            continue
        if name in names or (signature.takes_any and not _is_option(name)):
            collected.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else list(values) for name, values in collected.items()}


def _last(query: QueryItems, name: str) -> str | None:
    return next((value for key, value in reversed(query) if key == name), None)


def _formats(extension: str | None, query: QueryItems) -> tuple[str, ...]:
    if extension is not None:
        return (formats.named(extension).name,)
    for name in ("format", ""):
        wanted = _last(query, name)
        if wanted:
            return tuple(dict.fromkeys(formats.named(part).name for part in wanted.split(",") if part))
    legacy = (("vector", _last(query, "dtype_out_vector")), ("raster", _last(query, "dtype_out_raster")))
    return tuple(f"{kind}:{formats.named(wanted).name}" for kind, wanted in legacy if wanted)


def _max_age(udf: Udf, query: QueryItems) -> int:
    if not udf.settings.cache or (_last(query, "cache") or "").lower() == "false":
        return 0
    asked = _last(query, "cache_max_age")
    if asked is not None:
        try:
            return parse_duration(asked)
        except ValueError as error:
            raise BadRequest(f"cache_max_age: {error}") from None
    for age in (udf.settings.cache_max_age, udf.signature.max_age):
        if age is not None:
            return age
    return DEFAULT_MAX_AGE


_OPTIONS: Final = ("rescale", "colormap", "nodata", "resampling", "size", "style", "buffer", "extent")


def _is_option(name: str) -> bool:
    return name in _OPTIONS


def _options(udf: Udf, query: QueryItems, style: Style, scale: int, max_pixels: int) -> RenderOptions:
    own = udf.signature.names
    asked = {name: value for name, value in query if name in _OPTIONS and name not in own}
    size = _whole(asked, "size", 1, max_pixels)
    options = replace(
        _styled(style, {name for name, value in asked.items() if value}),
        size=size or udf.settings.size or DEFAULT_SIZE,
        exact=size is not None or scale > 1,
        scale=scale,
        buffer=_or(_whole(asked, "buffer", 0, 4096), udf.settings.buffer),
        extent=_or(_whole(asked, "extent", 64, 65536), DEFAULT_EXTENT),
        max_pixels=max_pixels,
    )
    if asked.get("rescale"):
        ranges = tuple(_range(v) for k, v in query if k == "rescale" and k not in own)
        options = replace(options, rescale=ranges)
    if asked.get("colormap"):
        options = replace(options, colormap=asked["colormap"])
    if asked.get("nodata"):
        options = replace(options, nodata=_number("nodata", asked["nodata"]))
    if asked.get("resampling"):
        options = replace(options, resampling=_resampling(asked["resampling"]))
    if options.pixels > max_pixels:
        raise BadRequest(
            f"a tile of {options.pixels} pixels a side is over the limit of {max_pixels} (max_tile_pixels)"
        )
    return options


def _styled(style: Style, asked: set[str]) -> RenderOptions:
    """The raster part of a style, without what a query says itself. Stops are values with their colours,
    which neither another range nor another colormap goes with."""
    part = style.raster
    stops = () if asked & {"rescale", "colormap"} else tuple((value, *colour) for value, colour in part.stops)
    return RenderOptions(
        rescale=part.rescale,
        colormap=part.colormap,
        stops=stops,
        nodata=part.nodata,
        resampling=part.resampling or "nearest",
    )


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def _whole(asked: Mapping[str, str], name: str, low: int, high: int) -> int | None:
    text = asked.get(name)
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high):
        raise BadRequest(f"{name} takes a whole number from {low} to {high}, not {text[:40]!r}")
    return int(text)


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise BadRequest(f"{name} takes a number, not {text[:40]!r}") from None
    return number


def _range(text: str) -> tuple[float, float]:
    low, comma, high = text.partition(",")
    if not comma:
        raise BadRequest(f"rescale takes min,max, not {text[:40]!r}")
    pair = (_number("rescale", low), _number("rescale", high))
    if not (math.isfinite(pair[0]) and math.isfinite(pair[1]) and pair[0] < pair[1]):
        raise BadRequest(f"rescale takes min,max with min below max, not {text[:40]!r}")
    return pair


def _resampling(text: str) -> str:
    if text not in RESAMPLING:
        raise BadRequest(f"resampling takes one of {', '.join(RESAMPLING)}, not {text[:40]!r}")
    return text
