"""What the stories share: a UDF to run, and how to say what is expected of a call."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Iterator
from typing import Any

import fused

DOUBLE = """
@fused.udf
def udf(n: int = 1):
    import pandas as pd
    return pd.DataFrame({"n": [n], "twice": [n * 2]})
"""


@contextlib.contextmanager
def raises(kind: type[Exception], part: str) -> Iterator[None]:
    try:
        yield
    except kind as error:
        assert part in str(error), f"{error} has no {part!r}"
    else:
        raise AssertionError(f"no {kind.__name__} was raised")


@contextlib.contextmanager
def holding(token: str) -> Iterator[None]:
    """With another access token."""
    kept = os.environ["FUSED_AUTH_TOKEN"]
    os.environ["FUSED_AUTH_TOKEN"] = token
    try:
        yield
    finally:
        os.environ["FUSED_AUTH_TOKEN"] = kept


def shown(call: Callable[[], Any]) -> str:
    """What a call prints to standard output."""
    page = io.StringIO()
    with contextlib.redirect_stdout(page):
        call()
    return page.getvalue()


def named(code: str, name: str) -> Any:
    udf = fused.load(code)
    udf.name = name
    return udf
