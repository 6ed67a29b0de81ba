"""``tileserver cache`` and ``tileserver doctor``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from tileserver.cli.base import CONTEXT, command, load, show
from tileserver.sandbox import DESCRIPTIONS, PARTS


@click.group("cache", context_settings=CONTEXT)
def cache_group() -> None:
    """Stored results.

    Example: tileserver cache stats
    """


@command("stats", cache_group)
def cache_stats(workspace: Path, as_json: bool) -> None:
    """How much is stored.

    Example: tileserver cache stats
    """
    from tileserver.cache import disk_stats

    facts = disk_stats(load(workspace).cache_dir)
    show(as_json, facts, "\n".join(f"{name}: {value}" for name, value in facts.items()))


@command("clear", cache_group)
def cache_clear(workspace: Path, as_json: bool) -> None:
    """Forget every stored result; a running server notices.

    Example: tileserver cache clear
    """
    from tileserver.cache import clear_disk

    removed = clear_disk(load(workspace).cache_dir)
    show(as_json, {"removed": removed}, f"{removed} results removed")


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
