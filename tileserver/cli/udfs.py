"""``tileserver udf``."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import click

from tileserver.cli.base import (
    CONTEXT,
    canvas_of,
    catalog_of,
    command,
    find_udf,
    load,
    show,
    split_address,
    table,
)
from tileserver.errors import UdfError
from tileserver.protocol import Encoded


@click.group("udf", context_settings=CONTEXT)
def udf_group() -> None:
    """UDFs: list them, run one without a server.

    Example: tileserver udf list
    """


@command("list", udf_group)
@click.argument("canvas", required=False)
def udf_list(canvas: str | None, workspace: Path, as_json: bool) -> None:
    """UDFs with their parameters, and what is broken, with its reason and line.

    Example: tileserver udf list city
    """
    chosen = load(workspace)
    rows: list[dict[str, Any]] = []
    problems: list[str] = []
    for name in [canvas] if canvas else catalog_of(chosen).names():
        found = canvas_of(chosen, name)
        rows += [
            {
                "udf": f"{name}/{udf.name}",
                "title": udf.title,
                "layer": udf.is_layer,
                "parameters": [p.name for p in udf.signature.parameters],
            }
            for udf in found.udfs.values()
        ]
        rows += [{"udf": f"{name}/{p.path}", "problem": p.reason, "line": p.line} for p in found.problems]
        problems += [f"{name}/{problem}" for problem in found.problems]
    good = [row for row in rows if "problem" not in row]
    show(as_json, rows, "\n".join([table(good, ("udf", "title", "layer", "parameters")), *problems]))


@command("run", udf_group)
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
    """Run one UDF without a server; what it printed and the timings go to standard error, or
    with --json into the JSON.

    Example: tileserver udf run city/buildings -p min_height=20 --tile 14/8800/5374 -o tile.png
    """
    from tileserver.server import run_once

    canvas, name = split_address(address)
    query = []
    for item in parameters:
        key, equals, value = item.partition("=")
        if not equals:
            raise click.UsageError(f"-p takes name=value, not {item!r}.")
        query.append((key, value))
    if wanted:
        query.append(("format", wanted))
    chosen = load(workspace)
    find_udf(chosen, canvas, name)
    try:
        encoded = asyncio.run(run_once(chosen, canvas, name, query, tile))
    except UdfError as error:
        _show_output(error.stdout, error.stderr, error.traceback)
        raise
    meta = encoded.meta
    facts: dict[str, Any] = {
        "media_type": encoded.media_type,
        "bytes": len(encoded.body),
        "run_ms": meta.get("run_ms"),
        "encode_ms": meta.get("encode_ms"),
    }
    if output is not None:
        output.write_bytes(encoded.body)
        facts["output"] = str(output)
    if as_json:
        result = {} if output is not None else {"result": _readable(encoded)}
        click.echo(json.dumps({**facts, "stdout": meta["stdout"], "stderr": meta["stderr"], **result}))
        return
    _show_output(meta["stdout"], meta["stderr"])
    click.echo(" ".join(f"{name}={value}" for name, value in facts.items()), err=True)
    if output is None:
        _to_terminal(encoded)


def _show_output(*texts: str) -> None:
    """What a run printed, each part ending its line."""
    for text in texts:
        if text:
            click.echo(text.removesuffix("\n"), err=True)


def _is_text(encoded: Encoded) -> bool:
    kinds = ("text/", "application/json", "application/geo+json", "application/xml", "image/svg+xml")
    return encoded.media_type.startswith(kinds)


def _readable(encoded: Encoded) -> str | None:
    """A result as text; None for one that isn't, which -o writes to a file."""
    return encoded.body.decode("utf-8", "replace") if _is_text(encoded) else None


def _to_terminal(encoded: Encoded) -> None:
    if sys.stdout.isatty() and not _is_text(encoded):
        raise click.UsageError(f"{encoded.media_type} is not for a terminal; write it to a file with -o.")
    sys.stdout.buffer.write(encoded.body)
    sys.stdout.buffer.flush()
