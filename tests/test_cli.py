"""The commands as people and scripts meet them: what they print, what they change, how they end."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import httpx
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from tests.conftest import running
from tileserver import __version__
from tileserver.access import Access, Credentials
from tileserver.cli import main
from tileserver.errors import UnknownToken
from tileserver.settings import TABLE

FILES = {
    "city/canvas.toml": 'title = "The city"\n',
    "city/hello.py": "import fused\n@fused.udf\ndef udf(name: str = 'world', n: int = 1):\n"
    '    """Says hello."""\n    print("greeting", name, end="")\n    return {"hello": name, "n": n}\n',
    "city/red.py": "import fused\nimport numpy as np\n@fused.udf\ndef udf(bounds: fused.types.Bounds):\n"
    "    a = np.zeros((3, 256, 256), 'uint8'); a[0] = 255\n    return a\n",
    "city/boom.py": "import fused\n@fused.udf\ndef udf():\n    print('so far')\n"
    "    raise ValueError('boom')\n",
    "city/broken.py": "import fused\n@fused.udf\ndef udf(:\n",
    "town/table.py": "import fused\nimport pandas as pd\n@fused.udf\ndef udf(rows: int = 2):\n"
    "    return pd.DataFrame({'a': range(rows)})\n",
}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose UDFs no test changes."""
    return _write(tmp_path_factory.mktemp("workspace"))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A workspace for one test."""
    return _write(tmp_path / "own")


def _write(folder: Path) -> Path:
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def run(*arguments: object, cwd: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    """``tileserver`` with these arguments, to its end."""
    command = [sys.executable, "-m", "tileserver", *map(str, arguments)]
    environment = {**os.environ, **environ}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=cwd, env=environment)


def ask(workspace: Path, *arguments: object) -> Any:
    """What a command prints with ``--json``."""
    result = run(*arguments, "--workspace", workspace, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    return json.loads(result.stdout)


def opens(workspace: Path, token: str) -> bool:
    """Whether a share token opens anything, as the server would decide."""
    access = Access(workspace / ".tileserver")
    try:
        access.grant(token, Credentials())
    except UnknownToken:
        return False
    finally:
        access.close()
    return True


def identity(workspace: Path, token: str) -> str | None:
    """The name of the holder of an access token, as the server would know it."""
    access = Access(workspace / ".tileserver")
    try:
        found = access.identify(Credentials(authorization=f"Bearer {token}"))
    finally:
        access.close()
    return found.name if found else None


# -- help


def commands(group: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command and group of commands, by its words."""
    yield path
    if isinstance(group, click.Group):
        for name, command in group.commands.items():
            yield from commands(command, (*path, name))


COMMANDS = list(commands(main))
GROUPS = {(), ("canvas",), ("udf",), ("token",), ("shared-token",), ("secret",), ("cache",)}


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: " ".join(path) or "tileserver")
def test_help_explains_with_an_example_that_works(path: tuple[str, ...]) -> None:
    """docs/commands.md, ``-h``; the example has the words of a command and options that it knows."""
    text = CliRunner().invoke(main, [*path, "-h"]).output
    line = next(line for line in text.splitlines() if "Example:" in line)
    words = shlex.split(line.partition("Example: tileserver ")[2])

    assert words[: len(path)] == list(path)
    command: click.Command = main
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= known


@pytest.mark.parametrize("path", [path for path in COMMANDS if path not in GROUPS], ids=" ".join)
def test_every_command_takes_workspace_and_json(path: tuple[str, ...]) -> None:
    """docs/commands.md; those that serve take a flag for each setting, too."""
    text = CliRunner().invoke(main, [*path, "-h"]).output
    assert "--workspace" in text
    assert "--json" in text
    assert all(row.flag in text for row in TABLE) is (path in {("serve",), ("demo",)})


def test_version() -> None:
    """The version of the package."""
    assert __version__ in run("--version").stdout


# -- errors


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nosuch"], "No such command 'nosuch'"),
        (["canvas", "list", "--bogus"], "No such option '--bogus'"),
        (["canvas", "share"], "Missing argument 'NAME'"),
        (["canvas", "share", "city", "--expires", "soon"], "--expires: 'soon' is not a duration such as 30s"),
        (["canvas", "share", "city", "--udf", "nobody"], "no UDF called 'nobody'; it has"),
        (["token", "create", "--scope", "root"], "'root' is not one of 'admin', 'run'"),
        (["udf", "run", "city"], "'city' is not of the form CANVAS/UDF"),
        (["shared-token", "create", "city/"], "'city/' is not of the form CANVAS/UDF"),
        (["udf", "run", "city/hello", "-p", "name"], "-p takes name=value, not 'name'"),
        (["canvas", "list", "--workspace", "nowhere"], "'tileserver init nowhere' makes a workspace"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_usage_is_one_line_and_status_two(workspace: Path, arguments: list[str], says: str) -> None:
    """docs/commands.md; the line says where help is."""
    result = run(*arguments, cwd=workspace)

    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: ")
    assert says in result.stderr
    assert "-h'." in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["canvas", "share", "nowhere"], "no canvas called 'nowhere'"),
        (["canvas", "share", "city", "--team", "--passcode", "x"], "not with both"),
        (["canvas", "unshare", "town"], "canvas 'town' is not shared"),
        (["canvas", "rotate", "town"], "canvas 'town' is not shared"),
        (["udf", "list", "nowhere"], "no canvas called 'nowhere'"),
        (["udf", "run", "city/nobody"], "no UDF called 'nobody'"),
        (["udf", "run", "city/hello.docx"], "unknown format 'docx'"),
        (["udf", "run", "city/broken"], "SyntaxError: invalid syntax (line 3)"),
        (["udf", "run", "city/red", "--tile", "1/2/0"], "x and y go from 0 to 1"),
        (["udf", "run", "city/red", "--tile", "1/2"], "a tile is z/x/y, not '1/2'"),
        (["token", "revoke", "nobody"], "no access token has the id 'nobody'"),
        (["shared-token", "disable", "fsh_nobody"], "no such shared token"),
        (["shared-token", "create", "city/nobody"], "no UDF called 'nobody'"),
        (["serve", "--time-limit", "soon"], "--time-limit takes a duration"),
        (["serve", "--host", "0.0.0.0"], "set allowed_hosts"),
        (["serve", "--fetch-allow", "http://a.example"], "not 'http://a.example'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_failure_is_one_line_and_status_one(workspace: Path, arguments: list[str], says: str) -> None:
    """docs/commands.md: no traceback, and nothing on standard output."""
    result = run(*arguments, cwd=workspace)

    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: ")
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_unknown_setting_names_the_nearest(own: Path) -> None:
    """docs/settings.md, from the environment and from the file, by any command."""
    by_environment = run("canvas", "list", cwd=own, TILESERVER_TIME_LIMT="3s")
    (own / "tileserver.toml").write_text("cache_sise = 3\n")
    by_file = run("doctor", cwd=own)

    assert (by_environment.returncode, by_file.returncode) == (1, 1)
    assert "TILESERVER_TIME_LIMT is not a setting; the nearest one is time_limit" in by_environment.stderr
    assert "cache_sise is not a setting; the nearest one is cache_size" in by_file.stderr


def test_a_port_in_use_is_said_in_one_line(workspace: Path) -> None:
    """With the flag that takes another one."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("serve", workspace, "--port", port)

    assert result.returncode == 1
    assert result.stderr.startswith(f"Error: can't listen on 127.0.0.1 port {port}: ")
    assert "--port takes another" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_database_without_its_key_is_refused(own: Path) -> None:
    """docs/workspace.md: no command goes on with another key."""
    ask(own, "canvas", "share", "city")
    (own / ".tileserver/key").unlink()

    result = run("canvas", "list", "--workspace", own)

    assert (result.returncode, result.stdout) == (1, "")
    assert "its key is missing" in result.stderr
    served = run("serve", own, "--port", "0")
    assert (served.returncode, served.stdout, served.stderr) == (1, "", result.stderr)


def test_a_reader_that_leaves_early_is_no_error(workspace: Path) -> None:
    """``tileserver udf list | head -0``: no traceback, nothing said."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        result = subprocess.run(
            [sys.executable, "-m", "tileserver", "udf", "list", "--workspace", str(workspace)],
            stdout=pipe,
            stderr=subprocess.PIPE,
            text=True,
        )

    assert (result.returncode, result.stderr) == (1, "")


# -- init and serve


def test_init_then_serve_then_edit(tmp_path: Path) -> None:
    """The first minute of a new user: a workspace, a tile, another tile after an edit, Ctrl-C."""
    made = json.loads(run("init", "maps", "--json", cwd=tmp_path).stdout)
    assert {"workspace": "maps", "canvas": "first"}.items() <= made.items()
    source = tmp_path / "maps/first/waves.py"

    with running("serve", str(tmp_path / "maps")) as (process, line):
        tile = f"{line['url']}/{made['token']}/waves/run/tiles/1/0/0.png"
        before, again = httpx.get(tile), httpx.get(tile)
        source.write_text(source.read_text().replace("160 - 50 * height", "0 * height"))
        after = httpx.get(tile)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0

    assert (before.headers["x-cache"], again.headers["x-cache"]) == ("miss", "hit")
    assert _pixels(before.content)[..., 2].min() > 100
    assert _pixels(after.content)[..., 2].max() == 0
    _check_what_was_stored(tmp_path / "maps")


def _pixels(content: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(content)))


def _check_what_was_stored(workspace: Path) -> None:
    """``cache stats`` and ``cache clear``."""
    stored = ask(workspace, "cache", "stats")
    assert stored["folder"] == str(workspace / ".tileserver/cache")
    assert (stored["entries"], stored["bytes"] > 0) == (2, True)
    assert ask(workspace, "cache", "clear") == {"removed": 2}
    assert ask(workspace, "cache", "stats")["entries"] == 0


def test_init_says_what_to_do_next(tmp_path: Path) -> None:
    """Commands that can be pasted, also where the folder has a space in its name."""
    result = run("init", "my maps", cwd=tmp_path, TILESERVER_PORT="8123")

    assert result.returncode == 0
    assert "tileserver serve 'my maps'" in result.stdout
    assert "http://127.0.0.1:8123/fc_" in result.stdout
    assert (tmp_path / "my maps/.gitignore").read_text() == ".tileserver/\n"


def test_init_leaves_other_folders_alone(own: Path) -> None:
    """One that is not empty is refused; nothing in it changes."""
    before = sorted(own.rglob("*"))
    result = run("init", own)

    assert result.returncode == 2
    assert result.stderr.startswith(f"Error: {own} is not empty; name a new folder.")
    assert sorted(own.rglob("*")) == before


def test_init_may_be_tried_again(tmp_path: Path) -> None:
    """When a wrong setting kept it from making the workspace."""
    failed = run("init", "maps", cwd=tmp_path, TILESERVER_PORT="many")
    again = run("init", "maps", cwd=tmp_path)

    assert (failed.returncode, again.returncode) == (1, 0)
    assert "TILESERVER_PORT takes a whole number" in failed.stderr


# -- canvases


def test_canvas_list(own: Path) -> None:
    """Shared or not, with what is broken; the same from inside the folder as from outside."""
    token = ask(own, "canvas", "share", "town")["token"]
    city, town = ask(own, "canvas", "list")
    inside = run("canvas", "list", "--json", cwd=own)

    assert {"canvas": "city", "title": "The city", "udfs": 3, "problems": 1}.items() <= city.items()
    assert "token" not in city
    assert (town["token"], town["url"]) == (token, f"http://127.0.0.1:8000/{token}")
    assert json.loads(inside.stdout) == [city, town]


def test_canvas_share(own: Path) -> None:
    """The keys that scripts read; sharing again changes the terms and keeps the token."""
    row = ask(own, "canvas", "share", "city", "--udf", "hello", "--expires", "7d", "--code")
    again = ask(own, "canvas", "share", "city", "--passcode", "sesame")

    assert row.keys() == {"canvas", "token", "url", "level", "udfs", "code", "expires"}
    assert (row["canvas"], row["level"], row["udfs"], row["code"]) == ("city", "public", ["hello"], True)
    assert row["url"].endswith(f"/{row['token']}")
    assert (again["token"], again["level"], again["udfs"]) == (row["token"], "passcode", None)
    assert (again["code"], again["expires"]) == (False, None)


def test_canvas_share_prints_the_address_that_clients_use(own: Path) -> None:
    """``public_url`` where it is set; brackets around an IPv6 address."""
    public = run("canvas", "share", "city", cwd=own, TILESERVER_PUBLIC_URL="https://tiles.example.org/")
    loopback = run("canvas", "share", "city", cwd=own, TILESERVER_HOST="::1", TILESERVER_PORT="9000")

    assert public.stdout.startswith("https://tiles.example.org/fc_")
    assert loopback.stdout.startswith("http://[::1]:9000/fc_")


def test_canvas_rotate_and_unshare(own: Path) -> None:
    """Each ends the token that was."""
    first = ask(own, "canvas", "share", "city")["token"]
    second = ask(own, "canvas", "rotate", "city")["token"]
    assert (opens(own, first), opens(own, second)) == (False, True)

    assert ask(own, "canvas", "unshare", "city") == {"canvas": "city", "shared": False}
    assert not opens(own, second)


# -- UDFs


def test_udf_list(workspace: Path) -> None:
    """Parameters of what can be served; reason and line of what can't."""
    rows = {row["udf"]: row for row in ask(workspace, "udf", "list")}
    text = run("udf", "list", "city", "--workspace", workspace).stdout

    assert rows["city/hello"]["parameters"] == ["name", "n"]
    assert (rows["city/hello"]["title"], rows["city/hello"]["layer"]) == ("Says hello", False)
    assert rows["city/red"]["layer"] is True
    assert (rows["city/broken.py"]["line"], rows["city/broken.py"]["problem"][:11]) == (3, "SyntaxError")
    assert "town/table" in rows
    assert "city/broken.py:3: SyntaxError" in text
    assert "town" not in text


def test_udf_run_prints_the_result(workspace: Path) -> None:
    """The result alone on standard output; output of the run and timings on standard error."""
    result = run("udf", "run", "city/hello", "-p", "n=4", "-p", "name=a=b", "--workspace", workspace)

    assert result.returncode == 0
    assert json.loads(result.stdout) == {"hello": "a=b", "n": 4}
    printed, facts = result.stderr.splitlines()
    assert printed == "greeting a=b"
    assert facts.startswith(f"media_type=application/json bytes={len(result.stdout)} run_ms=")


def test_udf_run_writes_a_tile(workspace: Path, tmp_path: Path) -> None:
    """``--tile`` and ``-o``; with ``--json`` facts about it."""
    file = tmp_path / "tile.webp"
    facts = ask(workspace, *("udf", "run", "city/red", "--tile", "3/4/2", "--format", "webp", "-o", file))

    assert file.read_bytes()[8:12] == b"WEBP"
    assert _pixels(file.read_bytes())[..., 0].min() > 250
    assert (facts["media_type"], facts["bytes"]) == ("image/webp", file.stat().st_size)
    assert (facts["output"], facts["run_ms"] >= 0, "result" in facts) == (str(file), True, False)


def test_udf_run_as_json_has_result_and_output(workspace: Path) -> None:
    """Everything that a script may want in one object."""
    facts = ask(workspace, "udf", "run", "town/table", "--format", "csv", "-p", "rows=3")

    assert facts["media_type"].startswith("text/csv")
    assert facts["result"].split() == ["a", "0", "1", "2"]
    assert (facts["stdout"], facts["stderr"]) == ("", "")


def test_udf_run_of_a_failing_udf(workspace: Path) -> None:
    """What it printed and its traceback, then the error in one line; status 1."""
    result = run("udf", "run", "city/boom", "--workspace", workspace)
    lines = result.stderr.splitlines()

    assert (result.returncode, result.stdout) == (1, "")
    assert lines[0] == "so far"
    assert '  File "boom.py", line 5, in udf' in lines
    assert lines[-1] == "Error: ValueError: boom (line 5)"
    assert "tileserver" not in result.stderr


# -- tokens


def test_access_tokens(own: Path) -> None:
    """Made, listed without their secrets, revoked."""
    made = ask(own, *("token", "create", "--name", "nb", "--scope", "admin", "--canvas", "city"))
    assert made.keys() == {"id", "token", "name", "scope"}
    assert identity(own, made["token"]) == "nb"

    (row,) = ask(own, "token", "list")
    assert (row["id"], row["scope"], row["canvases"], row["expires"]) == (made["id"], "admin", ["city"], None)
    assert made["token"] not in json.dumps(row)

    ask(own, "token", "revoke", made["id"])
    assert identity(own, made["token"]) is None
    assert ask(own, "token", "list") == []


def test_lists_for_people_say_when_a_token_ends(own: Path) -> None:
    """As a date; a token that never ends has none."""
    secret = run("token", "create", "--name", "week", "--expires", "7d", "--workspace", own).stdout.split()[0]
    run("token", "create", "--name", "ever", "--workspace", own)
    text = run("token", "list", "--workspace", own).stdout
    header, week, ever = text.splitlines()

    assert header.split() == ["ID", "NAME", "SCOPE", "CANVASES", "EXPIRES"]
    assert week.endswith(" UTC")
    assert ever.split()[1:] == ["ever", "run", "-", "-"]
    assert secret.startswith("ts_")
    assert secret not in text


def test_tokens_of_one_udf(own: Path) -> None:
    """Made, disabled, enabled, revoked."""
    made = ask(own, "shared-token", "create", "city/hello")
    assert made == {"token": made["token"], "udf": "city/hello", "enabled": True}
    assert opens(own, made["token"])

    for verb, state, open_after in (
        ("disable", "disabled", False),
        ("enable", "enabled", True),
        ("revoke", "revoked", False),
    ):
        assert ask(own, "shared-token", verb, made["token"]) == {"token": made["token"], "state": state}
        assert opens(own, made["token"]) is open_after
    assert ask(own, "shared-token", "list") == []


# -- secrets


def test_secrets_are_set_listed_and_forgotten(own: Path) -> None:
    """A value comes by standard input, never shows again, and reaches a run without a server."""
    (own / "city/canvas.toml").write_text('[env]\nWORD = "secret:WORD"\n')
    (own / "city/word.py").write_text(
        "import os\nimport fused\n@fused.udf\ndef udf():\n"
        "    return [os.environ['WORD'], fused.secrets['WORD'], fused.secrets.WORD, fused.secret('WORD')]\n"
    )
    command = [sys.executable, "-m", "tileserver", "secret", "set", "city/WORD", "--workspace", str(own)]
    made = subprocess.run(command, input="käse \n", capture_output=True, text=True, timeout=60, check=True)

    assert made.stdout == "city/WORD is set\n"
    assert ask(own, "secret", "list") == [{"secret": "city/WORD", "canvas": "city", "name": "WORD"}]
    assert json.loads(ask(own, "udf", "run", "city/word")["result"]) == ["käse "] * 4
    assert not [row for row in ask(own, "udf", "list", "city") if "secret" in row.get("problem", "")]
    assert ask(own, "secret", "unset", "city/WORD") == {"secret": "city/WORD", "unset": True}
    assert ask(own, "secret", "list") == []


@pytest.mark.parametrize(
    ("address", "value", "status", "says"),
    [
        ("city", "x", 2, "CANVAS/NAME"),
        ("nowhere/KEY", "x", 1, "no canvas called 'nowhere'"),
        ("city/2KEY", "x", 1, "begins with no digit"),
        ("city/KEY", "", 1, "1 to 65536 bytes"),
    ],
)
def test_a_secret_that_cannot_be_is_refused(
    own: Path, address: str, value: str, status: int, says: str
) -> None:
    """One line that says what a secret is; nothing is stored."""
    command = [sys.executable, "-m", "tileserver", "secret", "set", address, "--workspace", str(own)]
    result = subprocess.run(command, input=value, capture_output=True, text=True, timeout=60, check=False)

    assert (result.returncode, says in result.stderr, result.stderr.count("\n")) == (status, True, 1)
    assert ask(own, "secret", "list") == []


# -- the machine


def test_cache_of_a_workspace_that_never_ran(workspace: Path) -> None:
    """Nothing stored, nothing made."""
    shutil.rmtree(workspace / ".tileserver/cache", ignore_errors=True)
    assert ask(workspace, "cache", "stats")["entries"] == 0
    assert ask(workspace, "cache", "clear") == {"removed": 0}
    assert not (workspace / ".tileserver/cache").exists()


def test_doctor(workspace: Path) -> None:
    """Versions and paths, for people and for scripts."""
    facts = ask(workspace, "doctor")
    text = run("doctor", "--workspace", workspace).stdout

    assert (facts["tileserver"], facts["workspace"]) == (__version__, str(workspace))
    assert facts["canvases"] == "city, town"
    assert sys.executable in facts["python"]
    assert "not installed" not in facts.values()
    assert f"numpy: {np.__version__}" in text.splitlines()
