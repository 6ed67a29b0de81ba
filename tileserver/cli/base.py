"""What all commands share: their options, their errors, how results are printed, what they work on."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeAlias

import click

from tileserver import __version__, settings
from tileserver.access import Access, Share
from tileserver.canvas import Canvas
from tileserver.catalog import Catalog
from tileserver.errors import TileServerError, UdfError, UnknownUdf
from tileserver.settings import Settings
from tileserver.units import parse_duration
from tileserver.vault import stored_secrets

Function: TypeAlias = Callable[..., Any]

CONTEXT: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class _Usage(click.ClickException):
    exit_code = 2


class _Commands(click.Group):
    """Turns errors into one line: ours with status 1, those of usage with status 2."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _one_line():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with _one_line():
            return super().invoke(ctx)


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "tileserver"
        raise _Usage(_line(f"{error.format_message()} See '{command} -h'.")) from None
    except UdfError as error:
        where = f" (line {error.lineno})" if error.lineno else ""
        raise click.ClickException(_line(f"{error.message}{where}")) from None
    except TileServerError as error:
        raise click.ClickException(_line(error.message)) from None
    except BrokenPipeError:
        raise  # click ends quietly
    except OSError as error:
        raise click.ClickException(_line(str(error))) from None


def _line(message: str) -> str:
    return " ".join(message.split())


@click.group(cls=_Commands, context_settings=CONTEXT)
@click.version_option(__version__)
def main() -> None:
    """Python functions as map tiles and data: write a UDF, get a map layer and an API.

    Example: tileserver demo
    """


def command(name: str, group: click.Group | None = None) -> Callable[[Function], click.Command]:
    """A command, of a group or by itself, with the two options that all have; the body gets ``workspace``
    and ``as_json``."""

    def decorate(function: Function) -> click.Command:
        wrapped = click.option(
            "--workspace",
            type=click.Path(path_type=Path, file_okay=False),
            default=Path(),
            help="The workspace (default: this folder).",
        )(click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")(function))
        make = group.command if group is not None else click.command
        return make(name, context_settings=CONTEXT)(wrapped)

    return decorate


def setting_options(function: Function) -> Function:
    """A flag for each setting; the body gets them as ``flags``."""

    @functools.wraps(function)
    def with_flags(*args: Any, **kwargs: Any) -> Any:
        given = {row.key: kwargs.pop(row.key) for row in settings.TABLE}
        flags = {key: None if value == () else value for key, value in given.items()}
        return function(*args, flags=flags, **kwargs)

    wrapped: Any = with_flags
    for row in reversed(settings.TABLE):
        text = f"{row.help} [default: {row.default}]"
        option = click.option(
            row.flag, row.key, metavar=row.kind.name.upper(), help=text, multiple=row.kind.repeats
        )
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


def load(workspace: Path, flags: Mapping[str, object] | None = None) -> Settings:
    """The settings of a workspace, whose folder must exist.

    :raises ConfigurationError: see ``settings.load``.
    """
    if not workspace.is_dir():
        raise click.UsageError(f"{workspace} is no folder; 'tileserver init {workspace}' makes a workspace.")
    return settings.load(workspace, flags=flags or {}, environ=os.environ)


def show(as_json: bool, value: Any, text: str) -> None:
    """Print a result: the value as JSON, or the text for people."""
    click.echo(json.dumps(value) if as_json else text)


def table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> str:
    """Rows as aligned columns below their names."""
    cells = [[_cell(name, row.get(name)) for name in columns] for row in rows]
    widths = [max(len(line[i]) for line in [list(columns), *cells]) for i in range(len(columns))]
    lines = [[name.upper() for name in columns], *cells]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name == "expires":
        return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M} UTC"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(value) if isinstance(value, list) else str(value)


def access_of(chosen: Settings) -> Access:
    """The tokens of the workspace.

    :raises ConfigurationError: when its state can't be used.
    """
    return Access(chosen.state_dir)


def catalog_of(chosen: Settings) -> Catalog:
    """The canvases of the workspace, with their secrets."""
    return Catalog(chosen.workspace, stored_secrets(chosen.state_dir))


def canvas_of(chosen: Settings, name: str) -> Canvas:
    """A canvas of the workspace.

    :raises UnknownUdf: naming those that there are.
    """
    catalog = catalog_of(chosen)
    try:
        return catalog.load(name)
    except UnknownUdf as error:
        raise UnknownUdf(f"{error.message}; it has {_listed(catalog.names())}") from None


def find_udf(chosen: Settings, canvas: str, name: str) -> str:
    """The UDF that is meant by a name, which may end in an extension.

    :raises UnknownUdf: naming those that there are.
    """
    found = canvas_of(chosen, canvas)
    try:
        return found.find(name)[0].name
    except UnknownUdf:
        raise UnknownUdf(f"{canvas} has no UDF called {name!r}; it has {_listed(found.udfs)}") from None


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"


def share_row(chosen: Settings, share: Share) -> dict[str, Any]:
    """A shared canvas as ``--json`` prints it; ``expires`` is in Unix seconds."""
    host = f"[{chosen.host}]" if ":" in chosen.host else chosen.host
    base = chosen.public_url or f"http://{host}:{chosen.port}"
    return {
        "canvas": share.canvas,
        "token": share.token,
        "url": f"{base}/{share.token}",
        "level": share.level,
        "udfs": list(share.udfs) if share.udfs is not None else None,
        "code": share.code,
        "expires": share.expires,
    }


def split_address(address: str) -> tuple[str, str]:
    """The canvas and the UDF of ``CANVAS/UDF``."""
    canvas, _, name = address.partition("/")
    if not (canvas and name):
        raise click.UsageError(f"{address!r} is not of the form CANVAS/UDF.")
    return canvas, name


def duration(option: str, text: str | None) -> int | None:
    """Seconds in an option's duration; None where it was not given."""
    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.UsageError(f"{option}: {error}.") from None
