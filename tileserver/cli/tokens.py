"""``tileserver token`` and ``tileserver shared-token``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from tileserver.access import Scope, SharedToken
from tileserver.cli.base import (
    CONTEXT,
    access_of,
    catalog_of,
    command,
    duration,
    find_udf,
    load,
    show,
    split_address,
    table,
)
from tileserver.tidying import tidy


@click.group("token", context_settings=CONTEXT)
def token_group() -> None:
    """Access tokens for the Authorization header (Bearer and Fused-Service-Token).

    Example: tileserver token create --name notebook
    """


_SCOPES = "run may call team canvases and post code; admin also manages."


@command("create", token_group)
@click.option("--name", default="", help="What it is for.")
@click.option("--scope", type=click.Choice(["admin", "run"]), default="run", show_default=True, help=_SCOPES)
@click.option("--canvas", "canvases", multiple=True, help="Only for this canvas; may be repeated.")
@click.option("--expires", help="How long it is valid, such as 90d.")
def token_create(
    name: str, scope: Scope, canvases: tuple[str, ...], expires: str | None, workspace: Path, as_json: bool
) -> None:
    """Make an access token; it is shown once and stored as a hash.

    Example: tileserver token create --name notebook --scope run --expires 90d
    """
    chosen = load(workspace)
    known = catalog_of(chosen).names()
    for canvas in canvases:
        if canvas not in known:
            click.echo(f"Note: the workspace has no canvas called {canvas!r} yet.", err=True)
    access = access_of(chosen)
    token_id, secret = access.create_token(
        name, scope=scope, canvases=canvases or None, expires=duration("--expires", expires)
    )
    row = {"id": token_id, "token": secret, "name": name, "scope": scope}
    show(as_json, row, f"{secret}\n  id {token_id}; the token is not shown again")


@command("list", token_group)
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
        for token in access_of(load(workspace)).tokens()
    ]
    show(as_json, rows, table(rows, ("id", "name", "scope", "canvases", "expires")))


@command("revoke", token_group)
@click.argument("token_id", metavar="ID")
def token_revoke(token_id: str, workspace: Path, as_json: bool) -> None:
    """End an access token; from the next request on it is refused. What its code kept is deleted.

    Example: tileserver token revoke 8f3Kd0aZ1x
    """
    chosen = load(workspace)
    access = access_of(chosen)
    access.revoke(token_id)
    tidy(chosen.state_dir, lambda: {token.id for token in access.tokens()})
    show(as_json, {"id": token_id, "revoked": True}, f"{token_id} is revoked")


@click.group("shared-token", context_settings=CONTEXT)
def shared_token_group() -> None:
    """Tokens of one UDF (fsh_).

    Example: tileserver shared-token create city/buildings
    """


def _shared_row(token: SharedToken) -> dict[str, Any]:
    return {"token": token.token, "udf": f"{token.canvas}/{token.udf}", "enabled": token.enabled}


@command("create", shared_token_group)
@click.argument("address", metavar="CANVAS/UDF")
def shared_token_create(address: str, workspace: Path, as_json: bool) -> None:
    """Make a token for one UDF.

    Example: tileserver shared-token create city/buildings
    """
    chosen = load(workspace)
    canvas, name = split_address(address)
    udf = find_udf(chosen, canvas, name)
    row = _shared_row(access_of(chosen).create_shared_token(canvas, udf))
    show(as_json, row, row["token"])


@command("list", shared_token_group)
def shared_token_list(workspace: Path, as_json: bool) -> None:
    """Tokens of single UDFs.

    Example: tileserver shared-token list
    """
    rows = [_shared_row(token) for token in access_of(load(workspace)).shared_tokens()]
    show(as_json, rows, table(rows, ("token", "udf", "enabled")))


def _shared_token_command(verb: str, done: str) -> None:
    @click.argument("token")
    def body(token: str, workspace: Path, as_json: bool) -> None:
        getattr(access_of(load(workspace)), f"{verb}_shared_token")(token)
        show(as_json, {"token": token, "state": done}, f"{token} is {done}")

    body.__doc__ = f"{verb.capitalize()} a token of one UDF.\n\nExample: tileserver shared-token {verb} fsh_…"
    command(verb, shared_token_group)(body)


for _verb, _done in (("enable", "enabled"), ("disable", "disabled"), ("revoke", "revoked")):
    _shared_token_command(_verb, _done)
