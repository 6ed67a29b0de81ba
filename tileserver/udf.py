"""One UDF as the web process knows it: its name, its signature, its settings, its revision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from tileserver.protocol import DEFAULT_BUFFER, Json
from tileserver.signature import Signature
from tileserver.styles import Styles
from tileserver.tiles import MAX_ZOOM, Bounds
from tileserver.units import parse_duration

Mode = Literal["auto", "tile", "single"]
Empty = Literal["transparent", "204", "404"]


@dataclass(frozen=True, slots=True)
class UdfSettings:
    """The table ``[udf.NAME]`` of ``canvas.toml``. Ages and limits are seconds, ``bounds`` degrees,
    ``buffer`` tile units, ``size`` pixels, ``metatile`` tiles along a side; None leaves a value open."""

    mode: Mode = "auto"
    cache: bool = True
    cache_max_age: int | None = None
    stale_while_revalidate: int = 0
    stale_if_error: int = 0
    minzoom: int = 0
    maxzoom: int | None = None
    bounds: Bounds | None = None
    style: str = ""
    attribution: str = ""
    empty: Empty = "transparent"
    size: int | None = None
    buffer: int = DEFAULT_BUFFER
    metatile: int = 1
    time_limit: int | None = None
    data: tuple[str, ...] = ()

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> UdfSettings:
        """Read a table of ``canvas.toml``.

        :raises ValueError: naming the key and what it takes.
        """
        values: dict[str, Any] = {}
        for key, value in table.items():
            reader = _READERS.get(key)
            if reader is None:
                known = ", ".join(one.name for one in fields(cls))
                raise ValueError(f"unknown key {key!r}; known: {known}")
            try:
                values[key] = reader(value)
            except (ValueError, TypeError) as error:
                raise ValueError(f"{key}: {error}") from None
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Udf:
    """``revision`` changes with everything that can change an answer; ``signature`` is read from source.
    ``about`` is the description stored beside the source, where there is one; ``listed`` is False where it
    says that documents leave the UDF out. ``styles`` are its canvas's, ``style_fault`` what is wrong with the
    one that its settings name."""

    canvas: str
    name: str
    revision: str
    signature: Signature
    settings: UdfSettings
    title: str
    description: str
    defaults: Mapping[str, Json]
    hint: Mode = "auto"
    about: str = ""
    listed: bool = True
    styles: Styles = field(default_factory=dict, repr=False)
    style_fault: str = ""

    @property
    def is_layer(self) -> bool:
        """Whether its natural use is a tile layer: by its settings, else by the ``hint`` that its
        ``meta.json`` gives, else by its signature. A hint refuses no address."""
        for mode in (self.settings.mode, self.hint):
            if mode != "auto":
                return mode == "tile"
        return self.signature.takes_tile


def _whole(low: int, high: int) -> Any:
    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"takes a whole number from {low} to {high}")
        return value

    return read


def _one_of(*words: str) -> Any:
    def read(value: Any) -> str:
        if str(value) not in words:
            raise ValueError(f"takes one of {', '.join(words)}")
        return str(value)

    return read


def _power(value: Any) -> int:
    if value not in (1, 2, 4, 8) or isinstance(value, bool | float):
        raise ValueError("takes 1, 2, 4 or 8")
    return int(value)


def _switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("takes true or false")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("takes text")
    return value


def _bounds(value: Any) -> Bounds:
    numbers = isinstance(value, list) and all(isinstance(n, int | float) for n in value)
    if not numbers or len(value) != 4 or not (value[0] < value[2] and value[1] < value[3]):
        raise ValueError("takes [west, south, east, north] in degrees")
    west, south, east, north = (float(number) for number in value)
    return (west, south, east, north)


def _globs(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError("takes a list of globs")
    return tuple(value)


_READERS: dict[str, Any] = {
    "mode": _one_of("auto", "tile", "single"),
    "cache": _switch,
    "cache_max_age": parse_duration,
    "stale_while_revalidate": parse_duration,
    "stale_if_error": parse_duration,
    "minzoom": _whole(0, MAX_ZOOM),
    "maxzoom": _whole(0, MAX_ZOOM),
    "bounds": _bounds,
    "style": _text,
    "attribution": _text,
    "empty": _one_of("transparent", "204", "404"),
    "size": _whole(1, 4096),
    "buffer": _whole(0, 4096),
    "metatile": _power,
    "time_limit": parse_duration,
    "data": _globs,
}
