"""Every setting: its default, its kind, its help, and where its value comes from.

A field of ``Settings`` with metadata is one row of ``TABLE``: the flag, the environment name, the key of
``tileserver.toml`` and the manual's page are all derived from it. A flag beats the environment beats the
file beats the default.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from tileserver.errors import ConfigurationError
from tileserver.units import parse_duration, parse_size

PREFIX: Final = "TILESERVER_"
_OF_THE_BUILD: Final = frozenset({"TILESERVER_NO_WEB"})  # may still be set when the server starts
FILE: Final = "tileserver.toml"
LOOPBACK_HOSTS: Final = ("localhost", "127.0.0.1", "::1")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_AUTHORITY: Final = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::[0-9]*)?", re.ASCII)
_MIB: Final = 2**20
_WORKER_MEMORY: Final = 256 * _MIB


@dataclass(frozen=True, slots=True)
class Kind:
    """What a setting takes: ``accepts`` completes the sentence "takes …". ``read`` makes the value of a
    text (flag, environment) or of a TOML value, and raises ValueError or TypeError for any other. A flag that
    ``repeats`` gives a tuple of texts."""

    name: str
    accepts: str
    read: Callable[[Any], Any]
    repeats: bool = False


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table. ``default`` is text for people; ``help`` is one sentence."""

    key: str
    kind: Kind
    default: str
    help: str

    @property
    def flag(self) -> str:
        return "--" + self.key.replace("_", "-")

    @property
    def variable(self) -> str:
        return PREFIX + self.key.upper()


def _whole(low: int, high: int) -> Kind:
    def read(value: Any) -> int:
        number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
        if isinstance(number, bool) or not isinstance(number, int) or not low <= number <= high:
            raise ValueError
        return number

    return Kind("number", f"a whole number from {low} to {high}", read)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError
    return value.strip()


def _limit(value: Any) -> int:
    seconds = parse_duration(value)
    if seconds == 0:
        raise ValueError
    return seconds


def _listed(read: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, ...]]:
    def read_list(value: Any) -> tuple[Any, ...]:
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list | tuple):
            raise TypeError
        return tuple(read(part) for part in parts if part != "")

    return read_list


def _url(value: Any) -> str:
    text = _text(value).rstrip("/")
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
        raise ValueError
    return text


def _host_name(value: Any) -> str:
    name = _text(value).lower().removeprefix("[").removesuffix("]")
    if "/" in name or " " in name or (":" in name and not _is_address(name)):
        raise ValueError
    return name


def _origin(value: Any) -> str:
    text = _text(value)
    if text == "*":
        return text
    url = _url(text)
    if urlsplit(url).path:
        raise ValueError
    return url.lower()


def _folder(value: Any) -> Path:
    return Path(_text(value)).expanduser()


def _network(value: Any) -> Network:
    """An address is a network of one; IPv4 addresses written as IPv6 ones are IPv4 addresses."""
    network = ipaddress.ip_network(_text(value))
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    return ipaddress.ip_network((mapped, network.prefixlen - 96)) if mapped else network


def _prefix(value: Any) -> str:
    """The beginning of an https URL, up to the end of a segment."""
    url = _url(value)
    parts = urlsplit(url)
    if parts.scheme != "https" or parts.netloc != parts.hostname:
        raise ValueError
    return url


def _folders_by_url(value: Any) -> dict[str, Path]:
    if isinstance(value, Mapping):
        return {_url(prefix): _folder(folder) for prefix, folder in value.items()}
    pairs = [part.partition("=") for part in _listed(_text)(value)]
    if not all(mark for _, mark, _ in pairs):
        raise ValueError
    return {_url(prefix): _folder(folder) for prefix, _, folder in pairs}


def _one_of(*words: str) -> Kind:
    def read(value: Any) -> str:
        if value not in words:
            raise ValueError
        return str(value)

    return Kind("choice", " or ".join(words), read)


_HOST: Final = Kind("text", "a host name or an address", _text)
_URL: Final = Kind("text", "an address such as https://tiles.example.org", _url)
_HOST_NAMES: Final = Kind(
    "list",
    "host names without a port, such as tiles.example.org, *.example.org or * for any",
    _listed(_host_name),
)
_NETWORKS: Final = Kind("list", "addresses or networks such as 10.0.0.5 or 10.0.0.0/8", _listed(_network))
_ORIGINS: Final = Kind("list", "origins such as https://example.org, or * for any", _listed(_origin))
_LIMIT: Final = Kind("duration", "a duration above zero such as 30s, 5m or 12h, or seconds", _limit)
_AGE: Final = Kind("duration", "a duration such as 30s, 5m, 12h or 90d, or seconds", parse_duration)
_SIZE: Final = Kind("size", "a size such as 512MB or 4GiB, or bytes", parse_size)
_FOLDER: Final = Kind("folder", "a folder, absolute or relative to the workspace", _folder)
_FOLDERS: Final = Kind("list", "folders, absolute or relative to the workspace", _listed(_folder))
_URL_FOLDERS: Final = Kind(
    "prefix=dir",
    "beginnings of URLs and folders, PREFIX=DIR; the flag may be repeated, a file has a table",
    _folders_by_url,
    repeats=True,
)
_PREFIXES: Final = Kind(
    "prefix",
    "beginnings of https URLs; the flag may be repeated",
    _listed(_prefix),
    repeats=True,
)


def _key(kind: Kind, default: Any, text: str, sentence: str) -> Any:
    """A field that is a setting. ``default`` may be a function that finds it out on this machine."""
    metadata = {"kind": kind, "default": text, "help": sentence}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def _default_workers() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return _workers_for(cores, _available_memory())


def _workers_for(cores: int, memory: int | None) -> int:
    wanted = max(8, 2 * cores)
    return wanted if memory is None else max(1, min(wanted, memory // _WORKER_MEMORY))


def _default_log_format() -> str:
    return "text" if sys.stderr.isatty() else "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How one server runs. Durations are seconds, sizes bytes; folders are absolute.

    ``allowed_hosts`` holds lower-case host names without port or brackets (see ``allows_host``).
    """

    workspace: Path
    host: str = _key(_HOST, "127.0.0.1", "127.0.0.1", "Address to listen on.")
    port: int = _key(_whole(0, 65535), 8000, "8000", "Port to listen on; 0 takes a free one.")
    public_url: str | None = _key(
        _URL, None, "from the request", "Base of every absolute URL that the server writes."
    )
    allowed_hosts: tuple[str, ...] = _key(
        _HOST_NAMES,
        LOOPBACK_HOSTS,
        "loopback names",
        "Host names that requests may be addressed to; must be set when host is not loopback.",
    )
    trusted_proxies: tuple[Network, ...] = _key(
        _NETWORKS, (), "none", "Proxies whose X-Forwarded-For, -Proto and -Host count."
    )
    cors_origins: tuple[str, ...] = _key(
        _ORIGINS, ("*",), "*", "Origins whose pages may read shared data and tiles (GET and HEAD)."
    )
    workers: int = _key(
        _whole(1, 4096),
        _default_workers,
        "the larger of 8 and twice the cores, at 256 MiB each as far as memory allows",
        "Processes that run UDFs.",
    )
    http_workers: int = _key(
        _whole(1, 256), 1, "1", "Processes that answer requests; all else is per server, not per process."
    )
    time_limit: int = _key(_LIMIT, 120, "120s", "Longest run of a UDF, from the start of the run.")
    tile_time_limit: int = _key(_LIMIT, 30, "30s", "Longest run of a UDF for one tile.")
    queue_limit: int = _key(
        _whole(1, 1_000_000), 256, "256", "Runs of one canvas that may wait for a worker; beyond it 503."
    )
    abandon_grace: int = _key(
        _AGE, 2, "2s", "How long a run goes on after the last client that waits for it has left."
    )
    memory_limit: int = _key(
        _SIZE, 4096 * _MIB, "4GiB", "Memory of one worker; all together use three quarters of the machine's."
    )
    queue_time_limit: int = _key(_LIMIT, 30, "30s", "Longest wait for a worker; beyond it 503.")
    output_limit: int = _key(_SIZE, 256 * _MIB, "256MiB", "Largest result of a run.")
    log_limit: int = _key(_SIZE, _MIB, "1MiB", "How much of a run's printed output is kept.")
    max_tile_pixels: int = _key(_whole(1, 16384), 4096, "4096", "Longest side of a tile picture in pixels.")
    cache_dir: Path = _key(
        _FOLDER, Path(".tileserver/cache"), ".tileserver/cache", "Folder of the disk cache."
    )
    cache_size: int = _key(_SIZE, 10 * 1024 * _MIB, "10GiB", "Size of the disk cache.")
    memory_cache: int = _key(
        _SIZE,
        256 * _MIB,
        "256MiB",
        "Size of the cache in memory, in front of the disk; a quarter is for compressed bodies.",
    )
    http_max_age: int = _key(
        _AGE, 300, "300s", "Longest time a browser or proxy may keep an answer without asking again."
    )
    sandbox: Literal["auto", "strict", "off"] = _key(
        _one_of("auto", "strict", "off"),
        "auto",
        "auto",
        "How UDF code is confined: by all parts that the kernel offers, not below level B, or not at all.",
    )
    network: Literal["on", "public", "off"] = _key(
        _one_of("on", "public", "off"),
        "on",
        "on",
        "What UDF code may reach: everything, public addresses only (by TCP), or nothing.",
    )
    data_dirs: tuple[Path, ...] = _key(
        _FOLDERS, (), "none", "Folders that UDFs may read besides their canvas."
    )
    source_map: Mapping[str, Path] = _key(
        _URL_FOLDERS, dict, "none", "Folders that stand for URLs which UDFs load with fused.load."
    )
    fetch_allow: tuple[str, ...] = _key(
        _PREFIXES,
        (),
        "none",
        "URLs that may be fetched for fused.load: by https, from public addresses, kept by commit.",
    )
    log_format: Literal["text", "json"] = _key(
        _one_of("text", "json"),
        _default_log_format,
        "text on a terminal, else json",
        "Form of the log lines.",
    )

    @property
    def state_dir(self) -> Path:
        """The private folder of the server's database, key, cache and scratch."""
        return self.workspace / ".tileserver"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return _is_loopback(self.host)

    def allows_host(self, host: str) -> bool:
        """Whether a request may carry this ``Host`` header, whose port doesn't count."""
        match = _AUTHORITY.fullmatch(host.lower())
        if match is None:
            return False
        name = match[1].removeprefix("[").removesuffix("]")
        if self.public_url is not None and name == urlsplit(self.public_url).hostname:
            return True
        return any(_matches(name, pattern) for pattern in self.allowed_hosts)


TABLE: Final[tuple[Setting, ...]] = tuple(
    Setting(row.name, row.metadata["kind"], row.metadata["default"], row.metadata["help"])
    for row in fields(Settings)
    if row.metadata
)
_BY_KEY: Final = {row.key: row for row in TABLE}


def load(workspace: Path, *, flags: Mapping[str, object], environ: Mapping[str, str]) -> Settings:
    """The settings of a workspace. ``flags`` maps keys to values; None stands for a flag not given.

    :raises ConfigurationError: naming the source, the key and what it takes.
    """
    root = workspace.absolute()
    values: dict[str, Any] = {}
    for source, key, value in (*_from_file(root), *_from_environment(environ), *_from_flags(flags)):
        values[key] = _read(source, key, value)
    settings = Settings(workspace=root, **_resolved(root, values))
    if "allowed_hosts" not in values and not _is_loopback(settings.host):
        raise ConfigurationError(
            f"host {settings.host} is not loopback: set allowed_hosts (--allowed-hosts) to the names that "
            "clients use for this server, such as tiles.example.org"
        )
    return settings


Rows = Iterator[tuple[str, str, object]]


def _from_file(workspace: Path) -> Rows:
    path = workspace / FILE
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{FILE} can't be read: {error}") from None
    for key, value in table.items():
        yield f"{FILE}: {key}", key, value


def _from_environment(environ: Mapping[str, str]) -> Rows:
    for name, value in environ.items():
        if name.startswith(PREFIX) and name not in _OF_THE_BUILD:
            yield f"environment: {name}", name.removeprefix(PREFIX).lower(), value


def _from_flags(flags: Mapping[str, object]) -> Rows:
    for key, value in flags.items():
        if value is not None:
            yield f"--{key.replace('_', '-')}", key, value


def _read(source: str, key: str, value: object) -> Any:
    row = _BY_KEY.get(key)
    if row is None:
        nearest = difflib.get_close_matches(key, _BY_KEY, n=1, cutoff=0.0)[0]
        raise ConfigurationError(f"{source} is not a setting; the nearest one is {nearest}")
    try:
        return row.kind.read(value)
    except (ValueError, TypeError):
        given = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        raise ConfigurationError(f"{source} takes {row.kind.accepts}, not {given[:80]!r}") from None


def _resolved(workspace: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    cache_dir: Path = values.get("cache_dir", Path(".tileserver/cache"))
    data_dirs: tuple[Path, ...] = values.get("data_dirs", ())
    source_map: Mapping[str, Path] = values.get("source_map", {})
    paths = {
        "cache_dir": workspace / cache_dir,
        "data_dirs": tuple(workspace / path for path in data_dirs),
        "source_map": {prefix: workspace / folder for prefix, folder in source_map.items()},
    }
    return {**values, **paths}


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    name = host.lower().removeprefix("[").removesuffix("]")
    return name == "localhost" or (_is_address(name) and ipaddress.ip_address(name).is_loopback)


def _matches(name: str, pattern: str) -> bool:
    if pattern.startswith("*."):
        return name.endswith(pattern[1:])
    return pattern in ("*", name)


def _available_memory() -> int | None:
    """Bytes that new processes may use: what the machine has left, and what its cgroup allows.

    None where the system doesn't say.
    """
    amounts = [*_machine_memory(), *_cgroup_memory()]
    return min(amounts, default=None)


def _machine_memory() -> Iterator[int]:
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            yield int(line.split()[1]) * 1024


def _cgroup_memory(root: Path = Path("/sys/fs/cgroup")) -> Iterator[int]:
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        numbers = [*_lines(root / limit), *_lines(root / used)]
        if len(numbers) == 2 and all(number.isdigit() for number in numbers):
            yield max(0, int(numbers[0]) - int(numbers[1]))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("ascii").splitlines()
    except OSError:
        return []
