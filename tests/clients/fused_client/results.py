"""Cases of results: each UDF runs by token, by object and by the client's own engine, and all are equal."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import fused
from compare import assert_as_sent
from values import RETURNED, UNSUPPORTED, source


def cases(place: dict[str, Any]) -> dict[str, Callable[[], None]]:
    token = place["tokens"]["values"]
    return {
        **{f"token-{name}": partial(by_token, token, name) for name in RETURNED},
        **{f"object-{name}": partial(by_object, name) for name in RETURNED},
        **{f"unsupported-{name}": partial(refused, token, name) for name in UNSUPPORTED},
    }


def by_token(token: str, name: str) -> None:
    assert_as_sent(name, fused.run(f"{token}/{name}"), local(name))


def by_object(name: str) -> None:
    assert_as_sent(name, fused.run(fused.load(source(RETURNED[name]))), local(name))


def local(name: str) -> Any:
    """What the client's own engine gives."""
    return fused.run(fused.load(source(RETURNED[name])), engine="local")


def refused(token: str, name: str) -> None:
    """A value of no class of the contract is a serialization error, by token and by object."""
    for udf in (f"{token}/{name}", fused.load(source(UNSUPPORTED[name]))):
        try:
            value = fused.run(udf)
        except fused.types.UdfSerializationError as error:
            assert "Result serialization failed:" in str(error), str(error)
        else:
            raise AssertionError(f"{value!r} was sent")
