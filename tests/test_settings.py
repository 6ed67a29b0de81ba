"""Settings: where they come from, what they accept, and what their errors say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import pytest

from tileserver import settings
from tileserver.errors import ConfigurationError
from tileserver.settings import TABLE, Settings

MIB = 2**20


def load(folder: Path, toml: str = "", environ: Mapping[str, str] | None = None, **flags: object) -> Settings:
    (folder / "tileserver.toml").write_text(toml, encoding="utf-8")
    return settings.load(folder, flags=flags, environ=environ or {})


def test_defaults_without_a_file(tmp_path: Path) -> None:
    """An empty folder is a workspace with the documented defaults."""
    found = settings.load(tmp_path, flags={}, environ={})

    assert (found.host, found.port, found.public_url) == ("127.0.0.1", 8000, None)
    assert (found.time_limit, found.tile_time_limit) == (120, 30)
    assert (found.queue_limit, found.queue_time_limit) == (256, 30)
    assert (found.output_limit, found.log_limit) == (256 * MIB, MIB)
    assert (found.cache_size, found.memory_cache) == (10240 * MIB, 256 * MIB)
    assert (found.http_max_age, found.max_tile_pixels) == (300, 4096)
    assert (found.cors_origins, found.data_dirs) == (("*",), ())


def test_flag_beats_environment_beats_file_beats_default(tmp_path: Path) -> None:
    """Each source overrides the one after it, and a flag that isn't given overrides nothing."""
    toml = 'time_limit = "10s"'
    environ = {"TILESERVER_TIME_LIMIT": "20s", "PATH": "/bin"}

    assert load(tmp_path, toml).time_limit == 10
    assert load(tmp_path, toml, environ).time_limit == 20
    assert load(tmp_path, toml, environ, time_limit="30s").time_limit == 30
    assert load(tmp_path, toml, environ, time_limit=None).time_limit == 20


def test_every_setting_has_one_row_with_all_its_names() -> None:
    """Flag, environment name and key are spellings of one name, and the table misses no field."""
    row = next(row for row in TABLE if row.key == "time_limit")

    assert (row.flag, row.variable) == ("--time-limit", "TILESERVER_TIME_LIMIT")
    assert [row.key for row in TABLE] == [f.name for f in fields(Settings) if f.name != "workspace"]
    assert all(row.default and row.help.endswith(".") for row in TABLE)


DERIVED = {
    "public_url",
    "allowed_hosts",
    "workers",
    "data_dirs",
    "log_format",
    "source_map",
    "fetch_allow",
    "trusted_proxies",
}


@pytest.mark.parametrize("row", [row for row in TABLE if row.key not in DERIVED], ids=lambda row: row.key)
def test_written_default_is_the_default(row: settings.Setting, tmp_path: Path) -> None:
    """What the manual gives as a default means the same when it is written out as a setting."""
    written = load(tmp_path, "", None, **{row.key: row.default})

    assert getattr(written, row.key) == getattr(load(tmp_path), row.key)


@pytest.mark.parametrize(
    ("key", "toml", "text", "value"),
    [
        ("port", "0", "0", 0),
        ("time_limit", '"5m"', "5m", 300),
        ("time_limit", "45", "45", 45),
        ("cache_size", '"4GiB"', "4GiB", 4 * 2**30),
        ("memory_cache", "0", "0", 0),
        ("http_max_age", '"0s"', "0s", 0),
        (
            "allowed_hosts",
            '["Tiles.example.org", "[::1]"]',
            "Tiles.example.org,[::1]",
            ("tiles.example.org", "::1"),
        ),
        ("cors_origins", "[]", "", ()),
        ("cors_origins", '["https://A.org:8443"]', "https://A.org:8443", ("https://a.org:8443",)),
        ("public_url", '"https://x.org/tiles/"', "https://x.org/tiles/", "https://x.org/tiles"),
        ("log_format", '"json"', "json", "json"),
        ("workers", "3", "3", 3),
        (
            "source_map",
            '{"https://x.org/a/" = "/one", "https://x.org/b" = "/two"}',
            "https://x.org/a=/one,https://x.org/b=/two",
            {"https://x.org/a": Path("/one"), "https://x.org/b": Path("/two")},
        ),
        ("fetch_allow", '["https://x.org/a/"]', "https://x.org/a", ("https://x.org/a",)),
    ],
)
def test_file_and_text_mean_the_same(key: str, toml: str, text: str, value: object, tmp_path: Path) -> None:
    """A value reads the same from TOML, from the environment and from a flag."""
    variable = {f"TILESERVER_{key.upper()}": text}

    assert getattr(load(tmp_path, f"{key} = {toml}"), key) == value
    assert getattr(load(tmp_path, "", variable), key) == value
    assert getattr(load(tmp_path, "", None, **{key: text}), key) == value


def test_folders_are_relative_to_the_workspace(tmp_path: Path) -> None:
    """Relative folders lie in the workspace wherever the command runs; absolute ones stay."""
    found = load(
        tmp_path, 'cache_dir = "c"\ndata_dirs = ["d", "/data"]\nsource_map = {"https://x.org" = "mirror"}'
    )

    assert found.cache_dir == tmp_path / "c"
    assert found.data_dirs == (tmp_path / "d", Path("/data"))
    assert found.source_map == {"https://x.org": tmp_path / "mirror"}
    assert found.state_dir == tmp_path / ".tileserver"
    assert load(tmp_path).cache_dir == tmp_path / ".tileserver" / "cache"


@pytest.mark.parametrize(
    ("toml", "environ", "flags", "message"),
    [
        (
            "tme_limit = 3",
            {},
            {},
            r"tileserver\.toml: tme_limit is not a setting; the nearest one is time_limit",
        ),
        ("", {"TILESERVER_WORKER": "3"}, {}, r"environment: TILESERVER_WORKER .* nearest one is workers"),
        ("", {}, {"prt": "3"}, r"--prt is not a setting; the nearest one is port"),
        ("executor = 'x'", {}, {}, "executor is not a setting"),
        ("sandbox = 'none'", {}, {}, "sandbox takes auto or strict or off"),
        ("port = 70000", {}, {}, r"tileserver\.toml: port takes a whole number from 0 to 65535, not '70000'"),
        ("port = true", {}, {}, "port takes a whole number"),
        ("port = 1.5", {}, {}, "port takes a whole number"),
        ("", {"TILESERVER_PORT": "eighty"}, {}, "TILESERVER_PORT takes a whole number"),
        ("", {}, {"time_limit": "soon"}, "--time-limit takes a duration above zero such as 30s"),
        ("time_limit = 0", {}, {}, "time_limit takes a duration above zero"),
        ("cache_size = 'big'", {}, {}, "cache_size takes a size such as 512MB or 4GiB"),
        ("allowed_hosts = ['a.org:80']", {}, {}, "allowed_hosts takes host names without a port"),
        ("allowed_hosts = 3", {}, {}, "allowed_hosts takes host names"),
        ("cors_origins = ['a.org']", {}, {}, "cors_origins takes origins such as https://example.org"),
        ("cors_origins = ['https://a.org/x']", {}, {}, "cors_origins takes origins"),
        ("public_url = 'a.org'", {}, {}, "public_url takes an address such as https"),
        ("source_map = ['a']", {}, {}, "source_map takes beginnings of URLs and folders, PREFIX=DIR"),
        ("fetch_allow = ['http://x.org']", {}, {}, "fetch_allow takes beginnings of https URLs"),
        ("fetch_allow = ['https://x.org:8443']", {}, {}, "fetch_allow takes beginnings of https URLs"),
        ("log_format = 'xml'", {}, {}, "log_format takes text or json, not 'xml'"),
        ("port = ", {}, {}, r"tileserver\.toml can't be read: Invalid value"),
    ],
)
def test_errors_name_source_key_and_what_is_accepted(
    toml: str, environ: dict[str, str], flags: dict[str, str], message: str, tmp_path: Path
) -> None:
    """A wrong setting is refused in one sentence that says where it stands and what would do."""
    with pytest.raises(ConfigurationError, match=message):
        load(tmp_path, toml, environ, **flags)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "tiles.example.org", "192.168.1.5"])
def test_public_host_needs_allowed_hosts(host: str, tmp_path: Path) -> None:
    """A server that others can reach must be told its names."""
    with pytest.raises(ConfigurationError, match="set allowed_hosts"):
        load(tmp_path, host=host)

    assert load(tmp_path, host=host, allowed_hosts="tiles.example.org").host == host


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "::1"])
def test_loopback_host_needs_nothing(host: str, tmp_path: Path) -> None:
    """Loopback addresses start without further settings."""
    assert load(tmp_path, host=host).allowed_hosts == ("localhost", "127.0.0.1", "::1")


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("localhost", True),
        ("LOCALHOST:8000", True),
        ("127.0.0.1:8000", True),
        ("[::1]:8000", True),
        ("[::1]", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("localhost@evil.example", False),
        ("evil.example/localhost", False),
        ("localhost:80:80", False),
        ("::1", False),
        ("", False),
    ],
)
def test_default_hosts_are_loopback_names(host: str, allowed: bool, tmp_path: Path) -> None:
    """Only loopback names pass by default, with or without a port."""
    assert load(tmp_path).allows_host(host) is allowed


def test_allowed_hosts_replace_the_default(tmp_path: Path) -> None:
    """Names, wildcards and the host of public_url pass; everything else doesn't."""
    found = load(tmp_path, 'allowed_hosts = ["a.org", "*.b.org"]\npublic_url = "https://c.org"')

    passing = ["a.org", "x.b.org", "x.y.b.org:443", "c.org"]
    assert [
        host for host in [*passing, "b.org", "x.a.org", "localhost", "xb.org"] if found.allows_host(host)
    ] == passing
    assert load(tmp_path, 'allowed_hosts = ["*"]').allows_host("anything.example:1")


@pytest.mark.parametrize(
    ("cores", "memory", "workers"),
    [(2, None, 8), (2, 64 * 2**30, 8), (16, 64 * 2**30, 32), (2, 1024 * MIB, 4), (2, 10 * MIB, 1)],
)
def test_workers_follow_cores_and_memory(cores: int, memory: int | None, workers: int) -> None:
    """Twice the cores, at least 8, at 256 MiB each as far as memory allows, at least 1."""
    assert settings._workers_for(cores, memory) == workers


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"memory.max": "1000", "memory.current": "300"}, [700]),
        ({"memory.max": "max", "memory.current": "300"}, []),
        ({"memory/memory.limit_in_bytes": "900", "memory/memory.usage_in_bytes": "1000"}, [0]),
        ({}, []),
    ],
    ids=["v2", "v2-unlimited", "v1-exhausted", "none"],
)
def test_cgroup_memory(files: dict[str, str], expected: list[int], tmp_path: Path) -> None:
    """A container's limit less what it uses counts, in both generations of control groups."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n", encoding="ascii")

    assert list(settings._cgroup_memory(tmp_path)) == expected
