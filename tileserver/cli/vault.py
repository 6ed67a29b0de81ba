"""``tileserver secret``."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from tileserver.cli.base import CONTEXT, canvas_of, command, load, show, table
from tileserver.vault import Vault


@click.group("secret", context_settings=CONTEXT)
def secret_group() -> None:
    """Secrets of a canvas: what fused.secrets of its UDFs reads, and [env] of its canvas.toml may name.

    Example: tileserver secret list
    """


def _split(address: str) -> tuple[str, str]:
    canvas, _, name = address.partition("/")
    if not (canvas and name):
        raise click.UsageError(f"{address!r} is not of the form CANVAS/NAME.")
    return canvas, name


@command("set", secret_group)
@click.argument("address", metavar="CANVAS/NAME")
def secret_set(address: str, workspace: Path, as_json: bool) -> None:
    """Store a secret; its value is read from standard input, without the end of its last line.

    Example: tileserver secret set city/API_KEY < key.txt
    """
    chosen = load(workspace)
    canvas, name = _split(address)
    canvas_of(chosen, canvas)
    vault = Vault(chosen.state_dir)
    try:
        vault.set(canvas, name, _value())
    finally:
        vault.close()
    show(as_json, {"secret": address}, f"{address} is set")


def _value() -> str:
    if sys.stdin.isatty():
        return str(click.prompt("Value", hide_input=True, err=True))
    raw = sys.stdin.buffer.read()
    try:
        return raw.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise click.UsageError("a secret is text in UTF-8.") from None


@command("list", secret_group)
def secret_list(workspace: Path, as_json: bool) -> None:
    """Names of the stored secrets; their values are not shown.

    Example: tileserver secret list
    """
    vault = Vault(load(workspace).state_dir)
    try:
        rows = [
            {"secret": f"{one.canvas}/{one.name}", "canvas": one.canvas, "name": one.name}
            for one in vault.names()
        ]
    finally:
        vault.close()
    show(as_json, rows, table(rows, ("secret",)))


@command("unset", secret_group)
@click.argument("address", metavar="CANVAS/NAME")
def secret_unset(address: str, workspace: Path, as_json: bool) -> None:
    """Forget a secret.

    Example: tileserver secret unset city/API_KEY
    """
    vault = Vault(load(workspace).state_dir)
    try:
        vault.unset(*_split(address))
    finally:
        vault.close()
    show(as_json, {"secret": address, "unset": True}, f"{address} is forgotten")
