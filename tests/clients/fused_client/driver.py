"""Runs every case in one process of the client and tells, as JSON, what came of each: null, or what is wrong.

The standard input says where the server is. No connection to anywhere else is let through.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

PLACE = json.load(sys.stdin)
SERVER = urlsplit(PLACE["url"])
elsewhere: list[str] = []


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Lets nothing but the server be reached, and no name but its be looked up."""
    if event == "socket.connect":
        address = arguments[1]
        if not isinstance(address, tuple) or address[:2] != (SERVER.hostname, SERVER.port):
            elsewhere.append(str(address))
            raise ConnectionRefusedError(f"the tests let nobody connect to {address}")
    elif event == "socket.getaddrinfo" and arguments[0] not in {SERVER.hostname, None}:
        elsewhere.append(str(arguments[0]))
        raise ConnectionRefusedError(f"the tests let nobody look {arguments[0]} up")


sys.addaudithook(watch)

import calls
import elsewhere as beyond
import fused
import keeping
import results
import running

fused.options.base_url = f"{PLACE['url']}/server/v1"
fused.options.shared_udf_base_url = PLACE["url"]
fused.options.local_engine_cache = False  # each result is made by its own UDF


def stories(module: ModuleType) -> dict[str, Callable[[], None]]:
    """The public functions of a module, each with a look at where things are."""
    at = SimpleNamespace(**PLACE, city=PLACE["tokens"]["city"])
    return {
        f"story-{name}": partial(story, at)
        for name, story in vars(module).items()
        if isinstance(story, FunctionType) and story.__module__ == module.__name__
    }


def attempt(case: Callable[[], None]) -> str | None:
    try:
        case()
    except BaseException:
        return traceback.format_exc()
    return None


warnings.simplefilter("ignore")
answer = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # for what UDFs print here
cases = {
    **results.cases(PLACE),
    **calls.cases(PLACE),
    **stories(running),
    **stories(keeping),
    **stories(beyond),
}
told = {"version": fused.__version__, "file": fused.__file__}
told["cases"] = {name: attempt(case) for name, case in cases.items()}
told["elsewhere"] = elsewhere
json.dump(told, answer)
answer.close()
