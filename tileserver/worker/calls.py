"""From an executed source to a value: which function is called, with what, and awaiting it."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import threading
from collections.abc import Callable, Coroutine, Mapping
from types import ModuleType
from typing import Any

from tileserver import signature
from tileserver.protocol import Bundle
from tileserver.signature import Signature

read_signature = functools.lru_cache(maxsize=256)(signature.read)


def entry_point(bundle: Bundle, module: ModuleType) -> tuple[Callable[..., Any], Signature]:
    """The function to call in an executed source, and its signature as written.

    :raises NotAUdf: when the source decorates no function.
    :raises BrokenSource: when it decorates several and none can be chosen.
    :raises TypeError: when the source has put something else in its place.
    """
    source = bundle.source(module.__name__)
    found = read_signature(bundle.files[source.path], source.entry)
    function = module.__dict__.get(found.entry)
    if not callable(function):
        raise TypeError(f"{found.entry} is no longer a function once the source has run")
    return function, found


def call(function: Callable[..., Any], arguments: Mapping[str, object]) -> Any:
    """Call a function; what it returns is awaited where that is asked for."""
    value = function(**arguments)
    return _await(value) if inspect.isawaitable(value) else value


def _await(value: Any) -> Any:
    async def result() -> Any:
        return await value

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(result())
    return _await_elsewhere(result())


def _await_elsewhere(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end although this thread's event loop is busy with the caller."""
    outcome: list[Any] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(asyncio.run(coroutine))
        except BaseException as error:  # handed to the caller, whatever it is
            failure.append(error)

    thread = threading.Thread(target=contextvars.copy_context().run, args=(run,))
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]
