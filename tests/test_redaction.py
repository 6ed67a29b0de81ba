"""Paths of the machine in what callers are told."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path

import pandas as pd
import pytest

import tileserver
from tileserver.redaction import Redaction

FOLDERS = ["/srv/maps", "/srv/maps/city", "/srv/maps/.tileserver/"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("open('/srv/maps/city/data/x.csv')", "open('data/x.csv')"),
        ("/srv/maps/town/x.csv", "town/x.csv"),
        ("/srv/maps/.tileserver/scratch/a", "scratch/a"),
        ("cwd is /srv/maps/city", "cwd is ."),
        ("cwd is '/srv/maps'.", "cwd is '.'."),
        ("cwd is /srv/maps.", "cwd is .."),
        ("file:///srv/maps/city/a", "file://a"),
        ("PATH=/srv/maps/a:/srv/maps/city/b", "PATH=a:b"),
        ("cache/srv/maps/city/a", "cachea"),
        ("/srv/maps/city2/a", "city2/a"),
        ("/srv/maps.bak/a", "/srv/maps.bak/a"),
        ("/srv/mapsite/a", "/srv/mapsite/a"),
        ("/usr/share/x", "/usr/share/x"),
        ("é /srv/maps/city/ü", "é ü"),
        ("", ""),
    ],
)
def test_a_path_is_relative_to_the_innermost_folder(text: str, shown: str) -> None:
    """The folder itself is a dot; what only looks like it stays."""
    assert Redaction(FOLDERS)(text) == shown


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (pd.__file__, "pandas/__init__.py"),
        (f"{sysconfig.get_path('stdlib')}/json/decoder.py", "json/decoder.py"),
        (f"{Path(tileserver.__file__).parent}/worker/runner.py", "worker/runner.py"),
    ],
)
def test_libraries_are_named_without_their_place(path: str, shown: str) -> None:
    """Python's own, those installed beside it, and ours."""
    assert Redaction()(f'File "{path}", line 1') == f'File "{shown}", line 1'


def test_what_a_folder_is_a_link_to_is_hidden_too(tmp_path: Path) -> None:
    """Programs print either."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")

    assert Redaction([tmp_path / "link"])(f"{tmp_path}/link/a {tmp_path}/real/b") == "a b"


def test_the_interpreter_of_a_virtual_environment_is_hidden() -> None:
    """``sys.prefix`` is no library, but lies beside them."""
    assert str(sys.prefix) not in Redaction()(f"{sys.executable} {sys.prefix}") or sys.prefix == "/usr"
