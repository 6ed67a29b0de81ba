"""``tileserver cache`` and ``tileserver doctor``."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import click

from tileserver.cli.base import CONTEXT, access_of, command, load, show
from tileserver.protocol import Json
from tileserver.sandbox import DESCRIPTIONS, PARTS
from tileserver.tiles import MAX_ZOOM, Bounds

Result = TypeVar("Result")


@click.group("cache", context_settings=CONTEXT)
def cache_group() -> None:
    """Stored results.

    Example: tileserver cache stats
    """


@command("stats", cache_group)
def cache_stats(workspace: Path, as_json: bool) -> None:
    """How much is stored; bytes are those of live results, size that of the files.

    Example: tileserver cache stats
    """
    from tileserver.cache import folder_stats

    folder = load(workspace).cache_dir
    facts = {"folder": str(folder), **_told(lambda: folder_stats(folder))}
    show(as_json, facts, "\n".join(f"{name}: {value}" for name, value in facts.items()))


@command("clear", cache_group)
def cache_clear(workspace: Path, as_json: bool) -> None:
    """Forget every stored result; a running server notices.

    Example: tileserver cache clear
    """
    from tileserver.cache import folder_clear

    folder = load(workspace).cache_dir
    _show_removed(as_json, _told(lambda: folder_clear(folder)))


@command("purge", cache_group)
@click.argument("address", metavar="CANVAS[/UDF]")
@click.option(
    "-p", "parameters", multiple=True, metavar="K=V", help="Only with this argument; may be repeated."
)
@click.option("--bounds", metavar="W,S,E,N", help="Only tiles that touch this, in degrees.")
@click.option("--zoom", metavar="A-B", help="Only tiles of these zooms.")
def cache_purge(
    address: str,
    parameters: tuple[str, ...],
    bounds: str | None,
    zoom: str | None,
    workspace: Path,
    as_json: bool,
) -> None:
    """Forget what is stored of a canvas or a UDF, which need not exist any more; a running server notices.
    A value counts as the UDF takes it, also where it is the default.

    Example: tileserver cache purge city/buildings -p year=2024 --bounds 6.0,46.1,6.3,46.3 --zoom 10-14
    """
    from tileserver.cache import Rule, arguments_of, folder_purge

    canvas, slash, udf = address.partition("/")
    if not canvas or bool(slash) != bool(udf) or "/" in udf:
        raise click.UsageError(f"{address!r} is not of the form CANVAS or CANVAS/UDF.")
    values = _values(parameters)
    box, zooms = _box(bounds), _zooms(zoom)
    chosen = load(workspace)
    with closing(access_of(chosen)) as access:
        arguments = arguments_of(values, access.keyed("cache"))
    rule = Rule(canvas, udf or None, arguments, zooms, box)
    _show_removed(as_json, _told(lambda: folder_purge(chosen.cache_dir, rule)))


def _show_removed(as_json: bool, removed: int) -> None:
    show(as_json, {"removed": removed}, f"{removed} results removed")


def _told(act: Callable[[], Result]) -> Result:
    """What touches the cache folder, its troubles told in one line."""
    try:
        return act()
    except sqlite3.Error as error:
        raise click.ClickException(
            f"the cache can't be used: {error}; 'tileserver cache clear' starts a new one"
        ) from None


def _values(parameters: tuple[str, ...]) -> dict[str, Json]:
    """Values by name as a query has them: a list where a name was repeated."""
    found: dict[str, list[Json]] = {}
    for item in parameters:
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise click.UsageError(f"-p takes name=value, not {item!r}.")
        found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def _box(text: str | None) -> Bounds | None:
    if text is None:
        return None
    try:
        west, south, east, north = (float(part) for part in text.split(","))
    except ValueError:
        raise click.UsageError("--bounds takes west,south,east,north in degrees.") from None
    if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= north <= 90):
        raise click.UsageError(
            "--bounds takes longitudes from -180 to 180, and latitudes from -90 to 90, south before north."
        )
    return (west, south, east, north)


def _zooms(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    low, _, high = text.partition("-")
    if not re.fullmatch(r"[0-9]{1,2}(-[0-9]{1,2})?", text, re.ASCII) or int(high or low) < int(low):
        raise click.UsageError("--zoom takes one zoom such as 12, or a range such as 10-14.")
    if int(high or low) > MAX_ZOOM:
        raise click.UsageError(f"--zoom goes up to {MAX_ZOOM}.")
    return int(low), int(high or low)


@command("doctor")
def doctor(workspace: Path, as_json: bool) -> None:
    """What this machine offers: the level of its sandbox, found out by real attacks; versions and paths.

    Example: tileserver doctor --workspace my-maps
    """
    from tileserver.server import examine

    facts = examine(load(workspace))
    show(as_json, facts, "\n".join(_lines(facts)))


def _lines(facts: dict[str, Any]) -> Iterator[str]:
    sandbox = facts["sandbox"]
    yield from (f"{name}: {value}" for name, value in facts.items() if name != "sandbox")
    yield f"sandbox: level {sandbox['level']}, {DESCRIPTIONS[sandbox['level']]}"
    yield from (f"  in force: {part}: {PARTS[part]}" for part in sandbox["parts"])
    yield from (f"  missing: {part}: {text}" for part, text in sandbox["missing"].items())
    yield from (f"  note: {note}" for note in sandbox["notes"])
    for name, reason in sandbox["attacks"].items():
        yield f"  attack: {name}: {'SUCCEEDED' if reason == 'succeeded' else f'refused ({reason})'}"
    yield from (f"  works: {name}: {said}" for name, said in sandbox["works"].items())
