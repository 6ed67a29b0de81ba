"""The command line: every command takes ``--workspace`` and ``--json``, and ends with 0, 1 or 2.

Errors go to standard error as one line without a traceback; what a command makes goes to standard output.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from tileserver import __version__, settings
from tileserver.errors import TileServerError, UdfError
from tileserver.settings import Settings
from tileserver.units import parse_duration

Function = TypeVar("Function", bound=Callable[..., Any])

_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class _Commands(click.Group):
    """Turns our errors into one line and status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except UdfError as error:
            where = f" (line {error.lineno})" if error.lineno else ""
            raise _failed(f"{error.message}{where}") from None
        except TileServerError as error:
            raise _failed(error.message) from None
        except BrokenPipeError:
            sys.stderr.close()
            sys.exit(1)
        except OSError as error:
            raise _failed(str(error)) from None


def _failed(message: str) -> click.ClickException:
    return click.ClickException(" ".join(message.split()))


def command(group: click.Group, name: str) -> Callable[[Function], Function]:
    """A command with the two options that all have; the body gets ``workspace`` and ``as_json``."""

    def decorate(function: Function) -> Function:
        wrapped = click.option(
            "--workspace",
            type=click.Path(path_type=Path, file_okay=False),
            default=Path(),
            help="The workspace (default: this folder).",
        )(click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")(function))
        return group.command(name, context_settings=_CONTEXT)(wrapped)  # type: ignore[return-value]

    return decorate


def setting_options(function: Function) -> Function:
    """A flag for each setting; the body gets them as ``flags``."""

    @functools.wraps(function)
    def with_flags(*args: Any, **kwargs: Any) -> Any:
        flags = {row.key: kwargs.pop(row.key) for row in settings.TABLE}
        return function(*args, flags=flags, **kwargs)

    wrapped: Any = with_flags
    for row in reversed(settings.TABLE):
        text = f"{row.help} [default: {row.default}]"
        wrapped = click.option(row.flag, row.key, metavar=row.kind.name.upper(), help=text)(wrapped)
    return wrapped  # type: ignore[no-any-return]


def _load(workspace: Path, flags: Mapping[str, object] | None = None) -> Settings:
    if not workspace.is_dir():
        raise click.UsageError(f"{workspace} is no folder; 'tileserver init {workspace}' makes a workspace")
    return settings.load(workspace, flags=flags or {}, environ=os.environ)


def _print(as_json: bool, value: Any, text: str) -> None:
    click.echo(json.dumps(value) if as_json else text)


def _table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> str:
    """Rows as aligned columns."""
    cells = [[str(row.get(name) if row.get(name) is not None else "-") for name in columns] for row in rows]
    widths = [max(len(line[i]) for line in [list(columns), *cells]) for i in range(len(columns))]
    lines = [[name.upper() for name in columns], *cells]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )


@click.group(cls=_Commands, context_settings=_CONTEXT)
@click.version_option(__version__)
def main() -> None:
    """Python functions as map tiles and data: write a UDF, get a map layer and an API.

    Begin with: tileserver demo
    """


# -- serving


@command(main, "serve")
@click.argument(
    "folder", metavar="[WORKSPACE]", required=False, type=click.Path(path_type=Path, file_okay=False)
)
@setting_options
def serve(folder: Path | None, workspace: Path, as_json: bool, flags: dict[str, object]) -> None:
    """Serve a workspace until it is stopped.

    Example: tileserver serve my-maps --port 8080
    """
    chosen = _load(folder or workspace, flags)
    from tileserver.server import serve as run

    run(chosen, announce=lambda url: _print(as_json, {"url": url}, f"tileserver {__version__} at {url}"))


@command(main, "demo")
@setting_options
def demo(workspace: Path, as_json: bool, flags: dict[str, object]) -> None:
    """Serve the bundled demo: real data, no account, no internet.

    Example: tileserver demo --port 8001
    """
    from tileserver.demo import TOKENS, prepare
    from tileserver.server import serve as run

    with _private_folder() as folder:
        chosen = settings.load(prepare(folder), flags=flags, environ=os.environ)
        token = next(iter(TOKENS))

        def announce(url: str) -> None:
            _print(as_json, {"url": url, "token": token}, _TOUR.format(base=f"{url}/{token}"))

        run(chosen, announce=announce, fixed_tokens=TOKENS)


_TOUR = """The demo is running. Open:

  {base}/blue_marble/map
  {base}/hillshade/map
  {base}/countries/map
  {base}/earthquakes/map

or ask for data:

  curl '{base}/earthquakes.json?min_magnitude=4'
  curl -O {base}/airports.parquet

Stop it with Ctrl-C."""


@contextmanager
def _private_folder() -> Iterator[Path]:
    """Where the demo keeps its state: the user's own folder for such things, else a temporary one."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    folder = Path(home) / "tileserver-demo"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        usable = os.access(folder, os.W_OK) and folder.stat().st_uid == os.getuid()
    except OSError:
        usable = False
    if usable:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="tileserver-demo-") as temporary:
        yield Path(temporary)


_FIRST_UDF = '''"""Hills that the browser draws: change a number, save, and move the map."""

import fused


@fused.udf
def udf(bounds: fused.types.Bounds = None, wavelength: float = 20.0):
    """Waves over the world, one pixel at a time."""
    import numpy as np

    west, south, east, north = bounds or [-180, -85, 180, 85]
    lon = np.linspace(west, east, 256)
    lat = np.linspace(north, south, 256)[:, None]
    height = np.sin(2 * np.pi * lon / wavelength) * np.cos(2 * np.pi * lat / wavelength)

    red, green, blue = 40 + 90 * (height + 1), 90 + 60 * (height + 1), 160 - 50 * height
    return np.stack([red, green, blue]).astype("uint8")
'''
_FIRST_CANVAS = """title = "My first canvas"

[udf.waves]
maxzoom = 12
"""


@command(main, "init")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
def init(folder: Path, workspace: Path, as_json: bool) -> None:
    """Make a new workspace with one canvas and one UDF to edit.

    Example: tileserver init my-maps
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise click.UsageError(f"{folder} is not empty; name a new folder")
    canvas = folder / "first"
    canvas.mkdir(parents=True, exist_ok=True)
    (canvas / "waves.py").write_text(_FIRST_UDF)
    (canvas / "canvas.toml").write_text(_FIRST_CANVAS)
    (folder / ".gitignore").write_text(".tileserver/\n")
    share = _access(_load(folder)).share("first", code=True)
    lines = (
        f"{folder} has one canvas, 'first', with one UDF: {canvas / 'waves.py'}",
        f"  tileserver serve {folder}",
        f"  then open http://127.0.0.1:8000/{share.token}/waves/map, edit the file, and move the map",
    )
    _print(as_json, {"workspace": str(folder), "canvas": "first", "token": share.token}, "\n".join(lines))


# -- canvases and UDFs


@main.group("canvas", context_settings=_CONTEXT)
def canvas_group() -> None:
    """Canvases and their fc_ tokens."""


def _access(chosen: Settings) -> Any:
    from tileserver.access import Access

    return Access(chosen.state_dir)


def _catalog(chosen: Settings) -> Any:
    from tileserver.catalog import Catalog

    return Catalog(chosen.workspace)


def _share_row(chosen: Settings, share: Any) -> dict[str, Any]:
    base = chosen.public_url or f"http://{chosen.host}:{chosen.port}"
    return {
        "canvas": share.canvas,
        "token": share.token,
        "url": f"{base}/{share.token}",
        "level": share.level,
        "udfs": list(share.udfs) if share.udfs is not None else None,
        "code": share.code,
        "expires": share.expires,
    }


@command(canvas_group, "list")
def canvas_list(workspace: Path, as_json: bool) -> None:
    """Canvases, how many UDFs they have, and their tokens.

    Example: tileserver canvas list --workspace my-maps
    """
    chosen = _load(workspace)
    shares = {share.canvas: share for share in _access(chosen).shares()}
    rows = []
    for name in (catalog := _catalog(chosen)).names():
        found = catalog.load(name)
        shared = _share_row(chosen, shares[name]) if name in shares else {}
        counts = {"udfs": len(found.udfs), "problems": len(found.problems)}
        rows.append({**shared, "canvas": name, "title": found.title, **counts})
    _print(as_json, rows, _table(rows, ("canvas", "title", "udfs", "problems", "level", "url")))


@command(canvas_group, "share")
@click.argument("name")
@click.option("--passcode", help="Ask callers for this passcode.")
@click.option("--team", is_flag=True, help="Only for holders of an access token.")
@click.option("--udf", "udfs", multiple=True, help="Share only this UDF; may be repeated.")
@click.option("--code", is_flag=True, help="Let holders of the token read the source and tracebacks.")
@click.option("--expires", help="How long the token is valid, such as 7d.")
def canvas_share(
    name: str,
    passcode: str | None,
    team: bool,
    udfs: tuple[str, ...],
    code: bool,
    expires: str | None,
    workspace: Path,
    as_json: bool,
) -> None:
    """Share a canvas under a token; sharing again changes how, not the token.

    Example: tileserver canvas share city --expires 7d
    """
    chosen = _load(workspace)
    found = _catalog(chosen).load(name)
    unknown = [udf for udf in udfs if udf not in found.udfs and udf not in found.broken]
    if unknown:
        raise click.UsageError(f"{name} has no UDF called {unknown[0]!r}; it has {', '.join(found.udfs)}")
    share = _access(chosen).share(
        name,
        passcode=passcode,
        team=team,
        udfs=udfs or None,
        code=code,
        expires=_duration("--expires", expires),
    )
    row = _share_row(chosen, share)
    _print(as_json, row, f"{row['url']}\n  for example {row['url']}/{next(iter(found.udfs), 'UDF')}")


@command(canvas_group, "unshare")
@click.argument("name")
def canvas_unshare(name: str, workspace: Path, as_json: bool) -> None:
    """End a canvas's token; from the next request on it is unknown.

    Example: tileserver canvas unshare city
    """
    _access(_load(workspace)).unshare(name)
    _print(as_json, {"canvas": name, "shared": False}, f"{name} is no longer shared")


@command(canvas_group, "rotate")
@click.argument("name")
def canvas_rotate(name: str, workspace: Path, as_json: bool) -> None:
    """Give a canvas a new token; the old one is unknown from the next request on.

    Example: tileserver canvas rotate city
    """
    chosen = _load(workspace)
    row = _share_row(chosen, _access(chosen).rotate(name))
    _print(as_json, row, row["url"])


@main.group("udf", context_settings=_CONTEXT)
def udf_group() -> None:
    """UDFs: list them, run one without a server."""


@command(udf_group, "list")
@click.argument("canvas", required=False)
def udf_list(canvas: str | None, workspace: Path, as_json: bool) -> None:
    """UDFs with their parameters, and what is broken, with its reason and line.

    Example: tileserver udf list city
    """
    catalog = _catalog(_load(workspace))
    rows: list[dict[str, Any]] = []
    for name in [canvas] if canvas else catalog.names():
        found = catalog.load(name)
        for udf in found.udfs.values():
            parameters = ", ".join(p.name for p in udf.signature.parameters)
            rows.append(
                {
                    "udf": f"{name}/{udf.name}",
                    "title": udf.title,
                    "layer": udf.is_layer,
                    "parameters": parameters,
                }
            )
        rows += [{"udf": f"{name}/{p.path}", "problem": p.reason, "line": p.line} for p in found.problems]
    good = [row for row in rows if "problem" not in row]
    bad = [f"{r['udf']}:{r['line'] or 1}: {r['problem']}" for r in rows if "problem" in r]
    _print(as_json, rows, "\n".join([_table(good, ("udf", "title", "layer", "parameters")), *bad]))


@command(udf_group, "run")
@click.argument("address", metavar="CANVAS/UDF")
@click.option("-p", "parameters", multiple=True, metavar="K=V", help="A parameter; may be repeated.")
@click.option("--tile", metavar="Z/X/Y", help="Run for this tile.")
@click.option("--format", "wanted", help="The format, such as json or png.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the result here."
)
def udf_run(
    address: str,
    parameters: tuple[str, ...],
    tile: str | None,
    wanted: str | None,
    output: Path | None,
    workspace: Path,
    as_json: bool,
) -> None:
    """Run one UDF without a server; what it printed and the timings go to standard error.

    Example: tileserver udf run city/buildings -p min_height=20 --tile 14/8800/5374 -o tile.png
    """
    from tileserver.server import run_once

    canvas, slash, name = address.partition("/")
    if not slash:
        raise click.UsageError(f"{address!r} is not of the form CANVAS/UDF")
    query = []
    for item in parameters:
        key, equals, value = item.partition("=")
        if not equals:
            raise click.UsageError(f"-p takes name=value, not {item!r}")
        query.append((key, value))
    if wanted:
        query.append(("format", wanted))
    try:
        encoded = asyncio.run(run_once(_load(workspace), canvas, name, query, tile))
    except UdfError as error:
        click.echo(error.stdout + error.stderr, err=True, nl=False)
        click.echo(error.traceback, err=True, nl=False)
        raise
    meta = encoded.meta
    click.echo(meta["stdout"], err=True, nl=False)
    click.echo(meta["stderr"], err=True, nl=False)
    facts = {
        "media_type": encoded.media_type,
        "bytes": len(encoded.body),
        "run_ms": meta.get("run_ms"),
        "encode_ms": meta.get("encode_ms"),
    }
    if output is not None:
        output.write_bytes(encoded.body)
        facts["output"] = str(output)
    click.echo(
        json.dumps(facts) if as_json else " ".join(f"{k}={v}" for k, v in facts.items()), err=not as_json
    )
    if output is None and not as_json:
        _to_terminal(encoded.body, encoded.media_type)


def _to_terminal(body: bytes, media_type: str) -> None:
    textual = media_type.startswith(("text/", "application/json", "application/geo+json", "application/xml"))
    if sys.stdout.isatty() and not textual:
        raise click.UsageError(f"{media_type} is not for a terminal; write it to a file with -o")
    sys.stdout.buffer.write(body)
    sys.stdout.buffer.flush()


# -- tokens


@main.group("token", context_settings=_CONTEXT)
def token_group() -> None:
    """Access tokens for the Authorization header (Bearer and Fused-Service-Token)."""


@command(token_group, "create")
@click.option("--name", default="", help="What it is for.")
@click.option("--scope", type=click.Choice(["admin", "run"]), default="run", show_default=True)
@click.option("--canvas", "canvases", multiple=True, help="Only for this canvas; may be repeated.")
@click.option("--expires", help="How long it is valid, such as 90d.")
def token_create(
    name: str, scope: str, canvases: tuple[str, ...], expires: str | None, workspace: Path, as_json: bool
) -> None:
    """Make an access token; it is shown once and stored as a hash.

    Example: tileserver token create --name notebook --scope run --expires 90d
    """
    access = _access(_load(workspace))
    token_id, secret = access.create_token(
        name, scope=scope, canvases=canvases or None, expires=_duration("--expires", expires)
    )
    row = {"id": token_id, "token": secret, "name": name, "scope": scope}
    _print(as_json, row, f"{secret}\n  id {token_id}; the token is not shown again")


@command(token_group, "list")
def token_list(workspace: Path, as_json: bool) -> None:
    """Access tokens, without their secrets.

    Example: tileserver token list
    """
    rows = [
        {
            "id": token.id,
            "name": token.name,
            "scope": token.scope,
            "canvases": sorted(token.canvases) if token.canvases is not None else None,
            "created": token.created,
            "expires": token.expires,
        }
        for token in _access(_load(workspace)).tokens()
    ]
    _print(as_json, rows, _table(rows, ("id", "name", "scope", "canvases", "expires")))


@command(token_group, "revoke")
@click.argument("token_id", metavar="ID")
def token_revoke(token_id: str, workspace: Path, as_json: bool) -> None:
    """End an access token; from the next request on it is refused.

    Example: tileserver token revoke 8f3Kd0aZ1x
    """
    _access(_load(workspace)).revoke(token_id)
    _print(as_json, {"id": token_id, "revoked": True}, f"{token_id} is revoked")


@main.group("shared-token", context_settings=_CONTEXT)
def shared_token_group() -> None:
    """Tokens of one UDF (fsh_)."""


def _shared_row(token: Any) -> dict[str, Any]:
    return {"token": token.token, "udf": f"{token.canvas}/{token.udf}", "enabled": token.enabled}


@command(shared_token_group, "create")
@click.argument("address", metavar="CANVAS/UDF")
def shared_token_create(address: str, workspace: Path, as_json: bool) -> None:
    """Make a token for one UDF.

    Example: tileserver shared-token create city/buildings
    """
    chosen = _load(workspace)
    canvas, _, name = address.partition("/")
    udf, _ = _catalog(chosen).load(canvas).find(name)
    row = _shared_row(_access(chosen).create_shared_token(canvas, udf.name))
    _print(as_json, row, row["token"])


@command(shared_token_group, "list")
def shared_token_list(workspace: Path, as_json: bool) -> None:
    """Tokens of single UDFs.

    Example: tileserver shared-token list
    """
    rows = [_shared_row(token) for token in _access(_load(workspace)).shared_tokens()]
    _print(as_json, rows, _table(rows, ("token", "udf", "enabled")))


def _shared_token_command(verb: str, done: str) -> None:
    @click.argument("token")
    def body(token: str, workspace: Path, as_json: bool) -> None:
        getattr(_access(_load(workspace)), f"{verb}_shared_token")(token)
        _print(as_json, {"token": token, "state": done}, f"{token} is {done}")

    body.__doc__ = f"{verb.capitalize()} a token of one UDF.\n\nExample: tileserver shared-token {verb} fsh_…"
    command(shared_token_group, verb)(body)


for _verb, _done in (("enable", "enabled"), ("disable", "disabled"), ("revoke", "revoked")):
    _shared_token_command(_verb, _done)


# -- the cache and the machine


@main.group("cache", context_settings=_CONTEXT)
def cache_group() -> None:
    """Stored results."""


@command(cache_group, "stats")
def cache_stats(workspace: Path, as_json: bool) -> None:
    """How much is stored.

    Example: tileserver cache stats
    """
    from tileserver.cache import disk_stats

    facts = disk_stats(_load(workspace).cache_dir)
    _print(as_json, facts, "\n".join(f"{name}: {value}" for name, value in facts.items()))


@command(cache_group, "clear")
def cache_clear(workspace: Path, as_json: bool) -> None:
    """Forget every stored result; a running server notices.

    Example: tileserver cache clear
    """
    from tileserver.cache import clear_disk

    removed = clear_disk(_load(workspace).cache_dir)
    _print(as_json, {"removed": removed}, f"{removed} results removed")


@command(main, "doctor")
def doctor(workspace: Path, as_json: bool) -> None:
    """What this machine offers: versions and paths.

    Example: tileserver doctor --workspace my-maps
    """
    from tileserver.server import examine

    facts = examine(_load(workspace))
    _print(as_json, facts, "\n".join(f"{name}: {value}" for name, value in facts.items()))


def _duration(option: str, text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.UsageError(f"{option}: {error}") from None
