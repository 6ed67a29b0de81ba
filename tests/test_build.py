"""The build: what pip installs is complete, made on any machine, or fails with a sentence."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
VENDOR = "tileserver/static/vendor"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A clean checkout: nothing built in it."""
    folder = tmp_path / "source"
    folder.mkdir()
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", "CHANGELOG.md", ".gitignore"):
        shutil.copy(ROOT / name, folder)
    for name in ("tileserver", "styles", "web"):
        ignored = shutil.ignore_patterns("vendor", "__pycache__", "node_modules")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    return folder


def build(source: Path, target: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(source.parent / "dist")],
        cwd=source,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=300,
    )


def wheel(source: Path) -> set[str]:
    (file,) = (source.parent / "dist").glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        return set(archive.namelist())


def test_a_wheel_has_the_pages_libraries_with_their_licences(source: Path, tmp_path: Path) -> None:
    """Also where the machine has no node and no npm, and the folder of the user is new."""
    built = build(source, "wheel", PATH=str(tmp_path), HOME=str(tmp_path))

    assert built.returncode == 0, built.stderr
    files = wheel(source)
    assert {
        f"{VENDOR}/LICENSES.txt",
        f"{VENDOR}/maplibre-gl/maplibre-gl-csp.js",
        f"{VENDOR}/maplibre-gl/maplibre-gl-csp-worker.js",
        f"{VENDOR}/maplibre-gl/maplibre-gl.css",
        "tileserver/static/map/main.js",
        "tileserver/styles/shipped/default.json",
        "tileserver/demo/workspace/demo/data/blue_marble.tif",
        "tileserver/demo/workspace/demo/canvas.toml",
    } <= files
    assert "Copyright (c) 2023, MapLibre contributors" in (source / VENDOR / "LICENSES.txt").read_text()


def test_a_source_archive_builds_the_same_wheel(source: Path) -> None:
    """Nothing that the build needs is missing from it, and nothing that it makes is in it."""
    assert build(source, "wheel").returncode == 0
    direct = wheel(source)
    assert build(source, "sdist").returncode == 0
    (file,) = (source.parent / "dist").glob("*.tar.gz")
    with tarfile.open(file) as archive:
        assert not [name for name in archive.getnames() if "/vendor/" in name]
        archive.extractall(source.parent / "unpacked", filter="data")
    (unpacked,) = (source.parent / "unpacked").iterdir()

    assert build(unpacked, "wheel").returncode == 0
    assert wheel(unpacked) == direct


def test_the_libraries_are_fetched_once(source: Path) -> None:
    """A second build asks no registry, until the lock file changes."""
    assert build(source, "wheel").returncode == 0

    assert build(source, "wheel", npm_config_registry="http://127.0.0.1:9").returncode == 0
    lock = source / "web/package-lock.json"
    lock.write_text(lock.read_text() + "\n")
    assert build(source, "wheel", npm_config_registry="http://127.0.0.1:9").returncode != 0


def test_a_registry_out_of_reach_fails_with_what_to_do(source: Path, tmp_path: Path) -> None:
    """Loudly, and in one line: never a package whose map page is missing."""
    built = build(
        source, "wheel", npm_config_registry="http://127.0.0.1:9", npm_config_cache=str(tmp_path / "n")
    )

    assert built.returncode != 0
    assert "ECONNREFUSED" in built.stderr
    assert "TILESERVER_NO_WEB=1" in built.stderr
    assert "Traceback" not in built.stderr
    assert not list((source.parent).glob("dist/*.whl"))


def test_the_pages_can_be_left_out(source: Path) -> None:
    """For machines that may not reach npm's registry."""
    built = build(source, "wheel", TILESERVER_NO_WEB="1", npm_config_registry="http://127.0.0.1:9")

    assert built.returncode == 0, built.stderr
    assert not [name for name in wheel(source) if "/vendor/" in name]
    assert "tileserver/static/map/main.js" in wheel(source)
