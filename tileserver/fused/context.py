"""``fused.context``: which UDF runs, and who asked for it.

A run that looks at its caller is not stored and not shared, so each look sets a flag. What says nothing of
the caller sets none.
"""

from __future__ import annotations

from typing import Final

from tileserver.fused import state
from tileserver.fused.neighbours import UdfObject, load

PLACE: Final = "local"


class Headers(dict[str, str]):
    """Request headers; names are matched in any case."""

    def __init__(self, items: dict[str, str]) -> None:
        super().__init__({name.lower(): value for name, value in items.items()})

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(name.lower())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(name.lower())

    def get(self, name: str, default: str | None = None) -> str | None:  # type: ignore[override]
        return super().get(name.lower(), default)


def this_udf() -> UdfObject:
    """The UDF that is running; inside a neighbour called by ``fused.run``, that neighbour."""
    return load(state.udf_name())


def get_headers() -> Headers:
    """The caller's headers, without credentials and forwarding headers."""
    run = state.current()
    run.read_caller = True
    return Headers(dict(run.job.headers))


def get_header(name: str) -> str | None:
    """One header of the caller, or None."""
    return get_headers().get(name)


def get_share_token() -> str | None:
    """The share token that the caller used, or None."""
    return get_header("Fused-Share-Token")


def get_session_token() -> str | None:
    """The session token that let the caller in, or None."""
    return get_header("Fused-Session-Token")


def get_user_email() -> str | None:
    """The caller's address as the server knows it, or None."""
    return get_header("Fused-Share-User-Email")


def get_recursion_factor() -> int:
    """How many UDFs have called one another up to this one, which is 1 where nobody's UDF called it."""
    return state.depth()


def get_execution_environment_id() -> str:
    """Where UDFs run: on this server."""
    return PLACE


def get_realtime_client_id() -> str:
    """The same."""
    return PLACE


def in_realtime() -> bool:
    """Whether somebody waits for this run: always so."""
    return True


def in_batch() -> bool:
    """Whether this is a run of a batch: there are none."""
    return False
