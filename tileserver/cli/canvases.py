"""``tileserver canvas``."""

from __future__ import annotations

from pathlib import Path

import click

from tileserver.cli.base import (
    CONTEXT,
    access_of,
    canvas_of,
    catalog_of,
    command,
    duration,
    load,
    share_row,
    show,
    table,
)


@click.group("canvas", context_settings=CONTEXT)
def canvas_group() -> None:
    """Canvases and their fc_ tokens.

    Example: tileserver canvas list
    """


@command("list", canvas_group)
def canvas_list(workspace: Path, as_json: bool) -> None:
    """Canvases, how many UDFs they have, and their tokens.

    Example: tileserver canvas list --workspace my-maps
    """
    chosen = load(workspace)
    shares = {share.canvas: share for share in access_of(chosen).shares()}
    rows = []
    for name in (catalog := catalog_of(chosen)).names():
        found = catalog.load(name)
        shared = share_row(chosen, shares[name]) if name in shares else {}
        counts = {"udfs": len(found.udfs), "problems": len(found.problems)}
        rows.append({**shared, "canvas": name, "title": found.title, **counts})
    columns = ("canvas", "title", "udfs", "problems", "level", "expires", "url")
    show(as_json, rows, table(rows, columns))


@command("share", canvas_group)
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
    chosen = load(workspace)
    found = canvas_of(chosen, name)
    unknown = [udf for udf in udfs if udf not in found.udfs and udf not in found.broken]
    if unknown:
        known = ", ".join(found.udfs) or "none"
        raise click.UsageError(f"{name} has no UDF called {unknown[0]!r}; it has {known}.")
    share = access_of(chosen).share(
        name,
        passcode=passcode,
        team=team,
        udfs=udfs or None,
        code=code,
        expires=duration("--expires", expires),
    )
    row = share_row(chosen, share)
    show(as_json, row, f"{row['url']}\n  for example {row['url']}/{next(iter(found.udfs), 'UDF')}")


@command("unshare", canvas_group)
@click.argument("name")
def canvas_unshare(name: str, workspace: Path, as_json: bool) -> None:
    """End a canvas's token; from the next request on it is unknown.

    Example: tileserver canvas unshare city
    """
    access_of(load(workspace)).unshare(name)
    show(as_json, {"canvas": name, "shared": False}, f"{name} is no longer shared")


@command("rotate", canvas_group)
@click.argument("name")
def canvas_rotate(name: str, workspace: Path, as_json: bool) -> None:
    """Give a canvas a new token; the old one is unknown from the next request on.

    Example: tileserver canvas rotate city
    """
    chosen = load(workspace)
    row = share_row(chosen, access_of(chosen).rotate(name))
    show(as_json, row, row["url"])
