"""Cases of calls: what a UDF is given, and how it fails, is the same as in the client's own engine."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import fused
import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from arguments import ARGUMENTS, ERRORS, TILED, broken, tell

_NAMES = {"dt": dt, "uuid": uuid, "gpd": gpd, "np": np, "pd": pd, "shapely": shapely}

TILE = {"x": 302, "y": 385, "z": 10}

# Where the server gives something else than the engine: why, and what.
DIFFERENCES: dict[str, tuple[str, dict[str, list[str]]]] = {
    "argument-token-int_string_annotation": (
        "plain types in quotes are resolved (contract, section 5, inferred)",
        {"v": ["int", "5"]},
    ),
    "argument-token-none": (
        "a query can't say None: the parameter is left out (contract, section 4.2)",
        {"v": ["int", "3"]},
    ),
    "argument-object-float_nan": (
        "the client's JSON can't say NaN: it posts null",
        {"v": ["NoneType", "None"]},
    ),
    **{
        f"tile-{way}-bounds_xyz": (
            "the same numbers, as plain integers",
            {"bounds": ["Tile", "Tile(x=302, y=385, z=10)"]},
        )
        for way in ("token", "object")
    },
    **{
        f"tile-{way}-bounds_list": (
            "a parameter that takes a list gets one (contract, section 5.1, inferred)",
            {"bounds": ["list", "[-73.828125, 40.4469470596005, -73.4765625, 40.713955826286046]"]},
        )
        for way in ("token", "object")
    },
    **{
        f"tile-{way}-coordinates": (
            "x, y and z are the tile's own where a UDF declares them (contract, section 5.1, inferred)",
            {"x": ["int", "302"], "y": ["int", "385"], "z": ["int", "10"]},
        )
        for way in ("token", "object")
    },
}


def cases(place: dict[str, Any]) -> dict[str, Callable[[], None]]:
    token = place["tokens"]["calls"]
    return {
        **{f"argument-token-{name}": partial(argument, name, f"{token}/{name}") for name in ARGUMENTS},
        **{f"argument-object-{name}": partial(argument, name, None) for name in ARGUMENTS},
        **{f"tile-token-{name}": partial(tile, name, f"{token}/tile_{name}") for name in TILED},
        **{f"tile-object-{name}": partial(tile, name, None) for name in TILED},
        **{f"error-token-{name}": partial(error, name, f"{token}/error_{name}") for name in ERRORS},
        **{f"error-object-{name}": partial(error, name, None) for name in ERRORS},
    }


def argument(name: str, token: str | None) -> None:
    signature, call = ARGUMENTS[name]
    given = eval(f"dict({call})", dict(_NAMES))  # of that table
    _same("argument", name, token, signature, given)


def tile(name: str, token: str | None) -> None:
    _same("tile", name, token, TILED[name], TILE)


def _same(kind: str, name: str, token: str | None, signature: str, given: dict[str, Any]) -> None:
    udf = fused.load(tell(signature))

    told = fused.run(token or udf, **given)

    case = f"{kind}-{'token' if token else 'object'}-{name}"
    _, expected = DIFFERENCES.get(case) or ("", fused.run(udf, engine="local", **given))
    assert told == expected, f"{told} instead of {expected}"


def error(name: str, token: str | None) -> None:
    """Message, class and line are the engine's; what was printed comes with them."""
    udf = fused.load(broken(name), import_globals=False)
    expected = fused.run(udf, engine="local", _return_response=True)

    got = fused.run(token or udf, _return_response=True)

    assert got.has_exception and got.data is None
    line = expected.error_lineno
    where = f" in line {line}" if line else ""
    # The engine writes "AssertionError: " where there is no message.
    message = expected.error_message.removesuffix(": ")
    assert got.error_message == f"The UDF returned the following error{where}:\n{message}"
    assert (got.error_lineno, got.exception_class) == (line, expected.exception_class)
    assert (got.stdout or "") == (expected.stdout or "")
    # The name of the class comes after that of its module, which is none in the engine.
    assert got.stderr.splitlines()[-1].endswith(expected.stderr.splitlines()[-1])
    try:
        fused.run(token or udf)
    except fused.types.UdfRuntimeError as raised:
        assert str(raised) == got.error_message
        assert raised.child_exception_class == expected.exception_class
    else:
        raise AssertionError("nothing was raised")
