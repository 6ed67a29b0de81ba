"""``tileserver cache`` and ``tileserver doctor``."""

from __future__ import annotations

from pathlib import Path

import click

from tileserver.cli.base import CONTEXT, command, load, show


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
    """What this machine offers: versions and paths.

    Example: tileserver doctor --workspace my-maps
    """
    from tileserver.server import examine

    facts = examine(load(workspace))
    show(as_json, facts, "\n".join(f"{name}: {value}" for name, value in facts.items()))
