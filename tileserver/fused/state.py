"""What the run under way is, for the names in ``fused`` that need to know.

A worker does one run at a time, so this is a plain global: threads and tasks that a UDF starts see it
too. Only the chain of nested neighbours belongs to its own context, since threads may nest side by side.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from tileserver.protocol import Bundle, Job


@dataclass(slots=True)
class Run:
    """``read_caller`` is set once the UDF has looked at its caller, ``uncounted`` once it has used a source
    that its revision doesn't know; ``loaded`` holds what it has loaded, by name. The bundle grows by that."""

    job: Job
    bundle: Bundle
    secrets: Mapping[str, str] = field(default_factory=dict)
    read_caller: bool = False
    uncounted: bool = False
    loaded: dict[str, Any] = field(default_factory=dict)


nested: ContextVar[tuple[str, ...]] = ContextVar("nested", default=())
_run: Run | None = None


@contextmanager
def running(job: Job, bundle: Bundle) -> Iterator[Run]:
    """Make this run the current one."""
    global _run
    _run = Run(job, bundle, bundle.secrets)
    try:
        yield _run
    finally:
        _run = None


@contextmanager
def looks() -> Iterator[list[bool]]:
    """Notes at its end whether the run looked at its caller inside the block: the list isn't empty then."""
    run, noted = _run, list[bool]()
    if run is None:
        yield noted
        return
    before, run.read_caller = run.read_caller, False
    try:
        yield noted
    finally:
        noted.extend([True] * run.read_caller)
        run.read_caller |= before


def depth() -> int:
    """How many UDFs have called one another up to the one that is running here, from 1."""
    return current().job.recursion + len(nested.get())


def udf_name() -> str:
    """The UDF that is running here: the one asked for, or the innermost neighbour."""
    chain = nested.get()
    return chain[-1] if chain else current().job.udf


def current() -> Run:
    """The run under way.

    :raises RuntimeError: outside of one.
    """
    if _run is None:
        raise RuntimeError("this part of fused works only while a UDF runs")
    return _run
