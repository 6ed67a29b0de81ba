"""The public Python client ``fused``, unmodified, against a real server: what it gets equals what its own
engine gives for the same UDF and arguments.

All cases run in one process of the client's own interpreter; each is a test here. Where the server decides
otherwise, tests/clients/fused_client names the case and the reason (``compare.py``, ``calls.py``).
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import client_canvases
from tests.clients.fused_client.arguments import ARGUMENTS, ERRORS, TILED
from tests.clients.fused_client.values import RETURNED, UNSUPPORTED
from tests.conftest import running, serving

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "tests/clients/fused_client"
PYTHON = ROOT / ".venv-client/bin/python"

WAYS = pytest.mark.parametrize("way", ["token", "object"])


def stories() -> list[str]:
    """The functions of three modules, which only the client's interpreter can import."""
    trees = [
        ast.parse((FOLDER / f"{module}.py").read_text()) for module in ("running", "keeping", "elsewhere")
    ]
    return [node.name for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)]


def client(script: Path, home: Path, *, token: str, stdin: str) -> subprocess.CompletedProcess[str]:
    """Run a script with the client's interpreter, as a user who has an access token and nothing else."""
    assert PYTHON.exists(), "the client's environment is missing: scripts/test makes it (.venv-client)"
    home.mkdir(exist_ok=True)
    variables = {
        **{name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ},
        "HOME": str(home),
        "TMPDIR": str(home),
        "PYTHONDONTWRITEBYTECODE": "1",
        "FUSED_AUTH_TOKEN_TYPE": "Fused-Service-Token",
        "FUSED_AUTH_TOKEN": token,
    }
    return subprocess.run(
        [PYTHON, str(script)],
        input=stdin,
        capture_output=True,
        text=True,
        env=variables,
        cwd=home,
        timeout=120,
    )


def new_token(workspace: Path, *arguments: str) -> str:
    """An access token from the command line."""
    command = [sys.executable, "-m", "tileserver", "token", "create", "--workspace", str(workspace), "--json"]
    made = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True)
    token: str = json.loads(made.stdout)["token"]
    return token


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the client's process tells: its version, whom else it wanted to reach, what came of each case."""
    folder = tmp_path_factory.mktemp("client")
    files = client_canvases.files()
    sources = folder / "sources"
    for path, text in client_canvases.sources().items():
        (sources / path).parent.mkdir(parents=True, exist_ok=True)
        (sources / path).write_text(text)
    flags = ("--tile-time-limit", "1s", "--source-map", f"{client_canvases.ADDRESS}={sources}")
    with serving(folder / "workspace", files, *flags) as server:
        access = server.access
        access.unshare("closed")
        place = {
            "url": server.url,
            "address": client_canvases.ADDRESS,
            "tokens": server.tokens,
            "closed": access.share("closed").token,
            "one": access.create_shared_token("city", "greeting").token,
            "one_tile": access.create_shared_token("city", "tile").token,
            "runner": new_token(server.workspace, "--scope", "run"),
            "files": {path: text for path, text in files.items() if path.startswith("city/")},
        }
        access.close()
        admin = new_token(server.workspace, "--scope", "admin", "--name", "me@example.com")
        done = client(FOLDER / "driver.py", folder / "home", token=admin, stdin=json.dumps(place))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def passed(told: dict[str, Any], case: str) -> None:
    problem = told["cases"][case]
    assert problem is None, problem


def test_client_is_the_public_one(told: dict[str, Any]) -> None:
    """The package of that name from the registry, not what our workers provide."""
    assert told["version"] == "2.9.5"
    assert ".venv-client" in told["file"]


def test_client_reaches_nothing_but_the_server(told: dict[str, Any]) -> None:
    """Two options point it here; nothing of it goes elsewhere."""
    assert told["elsewhere"] == []


@pytest.mark.parametrize("name", RETURNED)
@WAYS
def test_result_is_the_engines(told: dict[str, Any], way: str, name: str) -> None:
    """What a UDF returns reaches the client as it is (contract, sections 7.1, 7.3 and 7.4)."""
    passed(told, f"{way}-{name}")


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_value_of_no_class_is_a_serialization_error(told: dict[str, Any], name: str) -> None:
    """The client raises its own error for it (contract, section 7.5)."""
    passed(told, f"unsupported-{name}")


@pytest.mark.parametrize("name", ARGUMENTS)
@WAYS
def test_argument_is_the_engines(told: dict[str, Any], way: str, name: str) -> None:
    """Arguments as the client encodes them become what its engine passes (contract, sections 4.2 and 5)."""
    passed(told, f"argument-{way}-{name}")


@pytest.mark.parametrize("name", TILED)
@WAYS
def test_tile_is_the_engines(told: dict[str, Any], way: str, name: str) -> None:
    """A tile run passes its tile by the rules of the engine (contract, section 5.1)."""
    passed(told, f"tile-{way}-{name}")


@pytest.mark.parametrize("name", ERRORS)
@WAYS
def test_error_is_the_engines(told: dict[str, Any], way: str, name: str) -> None:
    """A failure has the engine's message, class and line (contract, section 11)."""
    passed(told, f"error-{way}-{name}")


@pytest.mark.parametrize("name", stories())
def test_story(told: dict[str, Any], name: str) -> None:
    """Running, loading, saving, sharing: each as the docstring in its module says."""
    passed(told, f"story-{name}")


def test_no_case_is_left_out(told: dict[str, Any]) -> None:
    """Every case of the client's process is a test here."""
    counted = 2 * (len(RETURNED) + len(ARGUMENTS) + len(TILED) + len(ERRORS)) + len(UNSUPPORTED)
    assert len(told["cases"]) == counted + len(stories())


def test_readme_points_the_client_here(tmp_path: Path) -> None:
    """The lines of the README do what they say; only the port is another one."""
    section = (ROOT / "README.md").read_text().split("## With the `fused` Python client")[1].split("\n## ")[0]
    shell, python = re.findall(r"```(?:sh|python)\n(.*?)```", section, re.DOTALL)
    init = [sys.executable, "-m", "tileserver", "init", "my-maps"]
    subprocess.run(init, cwd=tmp_path, check=True, capture_output=True)

    with running("serve", str(tmp_path / "my-maps")) as (_, line):
        (tmp_path / "notebook.py").write_text(python.replace("http://127.0.0.1:8000", line["url"]))
        (tmp_path / "tileserver").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tileserver "$@"\n')
        (tmp_path / "tileserver").chmod(0o755)
        done = subprocess.run(
            ["sh", "-ec", f'{shell}\nexec "{PYTHON}" notebook.py'],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)},
            timeout=60,
        )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == re.findall(r"# (.+)", python)
