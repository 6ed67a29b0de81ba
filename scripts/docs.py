"""Write docs/settings.md and docs/commands.md from the code they describe: ``python scripts/docs.py``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from tileserver.cli import main as program
from tileserver.settings import TABLE

DOCS = Path(__file__).parent.parent / "docs"


def settings_page() -> str:
    """The table of settings."""
    lines = [
        "# Settings",
        "",
        "A flag of `serve` and `demo` beats an environment variable beats a key of `tileserver.toml` in the",
        "workspace beats the default. An unknown key is an error that names the nearest known one.",
        "",
        "| key | flag | variable | default | meaning |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in TABLE:
        accepts = row.kind.accepts
        lines.append(
            f"| `{row.key}` | `{row.flag}` | `{row.variable}` | {row.default} | {row.help} Takes {accepts}. |"
        )
    return "\n".join(lines) + "\n"


def commands_page() -> str:
    """Every command with its options."""
    lines = [
        "# Commands",
        "",
        "Every command takes `--workspace DIR` (the current folder without it) and `--json` for machine-readable",
        "output. Exit status: 0, 1 when it failed, 2 for a usage error. Errors are one line on standard error.",
        "`serve` and `demo` also take a flag for each [setting](settings.md).",
    ]
    flags = {row.flag for row in TABLE} | {"--workspace", "--json"}
    for path, command in _commands(program, ()):
        usage = " ".join(["tileserver", *path, *_arguments(command)])
        text = (command.help or "").split("\n\n")
        lines += ["", f"## {usage}", "", " ".join(text[0].split()), ""]
        lines += [f"    {part.strip().removeprefix('Example: ')}" for part in text[1:]]
        options = [p for p in command.params if isinstance(p, click.Option) and not flags & set(p.opts)]
        if options:
            lines.append("")
        lines += [f"* `{', '.join(option.opts)}`: {option.help}" for option in options]
    return "\n".join(lines) + "\n"


def _commands(group: click.Group, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _commands(command, (*path, name))
        else:
            yield (*path, name), command


def _arguments(command: click.Command) -> list[str]:
    return [p.make_metavar(click.Context(command)) for p in command.params if isinstance(p, click.Argument)]


PAGES = {"settings.md": settings_page, "commands.md": commands_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())
