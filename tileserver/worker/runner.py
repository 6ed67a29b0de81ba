"""One run, from a job to encoded bytes; knows no transport, so every engine calls it.

The only place that catches whatever user code raises.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from mercantile import Tile

from tileserver import fused, tiles
from tileserver.errors import BadRequest, TileServerError, UdfError, UnknownUdf, UnsupportedOutput
from tileserver.fused import state
from tileserver.fused.values import options
from tileserver.protocol import Bundle, Encoded, Job, RenderOptions
from tileserver.render import Part, encode
from tileserver.render.metatile import NotCuttable, encode_block
from tileserver.render.raster import check_options
from tileserver.worker import arguments, calls, failures, sources, standins


def run_job(job: Job, bundle: Bundle) -> Encoded:
    """Execute the UDF's source, call its entry point, and encode what it returns.

    The process must have entered the bundle (``sources.enter_bundle``). A traceback travels in the error,
    apart from what the UDF printed: not every caller may see it.

    :raises BadRequest: for render options that can't be met; nothing has run then.
    :raises UnknownUdf: when the bundle has no such UDF.
    :raises UdfError: for everything that goes wrong in user code, exits included.
    :raises CoercionError: for an argument that doesn't fit its annotation.
    :raises UnsupportedOutput: when the result can't be written in the format asked for.
    """
    check_options(job.options)
    if job.udf not in bundle.udfs:
        raise UnknownUdf(f"no UDF called {job.udf!r}")
    fused.install()
    standins.install()
    vars(options).clear()
    with state.running(job, bundle) as run, _own_streams():
        outcome = _attempt(job, bundle, run)
    if isinstance(outcome, Encoded):
        return outcome
    if isinstance(outcome, UdfError):
        outcome.read_caller = run.read_caller
    # Outside of any ``except``, so that the error keeps no frame of user code alive.
    raise outcome


def _attempt(job: Job, bundle: Bundle, run: state.Run) -> Encoded | TileServerError:
    lineno = None
    try:
        os.chdir(bundle.folder)
        created, started = time.time(), time.perf_counter()
        with sources.executed(bundle, job.udf) as module:
            function, signature = calls.entry_point(bundle, module)
            lineno = signature.lineno
            tile, options = _asked_of(job)
            values = arguments.coerce(function, job.arguments, tile, signature=signature, options=options)
            value = calls.call(function, values)
            returned = time.perf_counter()
            body, media_type, facts = _encode(value, job, bundle, size=values.get("size"))
    except NotCuttable as reason:
        single = _attempt(replace(job, metatile=1), bundle, run)
        if isinstance(single, Encoded):
            return replace(single, meta={**single.meta, "uncut": str(reason)})
        return single
    except (BadRequest, UnsupportedOutput) as error:
        return error.with_traceback(None)
    except BaseException as error:  # user code may raise anything, exits and interrupts included
        return failures.describe(error, bundle, job.udf, lineno)
    meta = {**facts, "run_ms": _ms(started, returned), "encode_ms": _ms(returned, time.perf_counter())}
    if run.read_caller:
        meta["read_caller"] = True
    if run.uncounted:
        meta["uncounted"] = True
    return Encoded(body, media_type, created, meta)


def _asked_of(job: Job) -> tuple[Tile | None, RenderOptions]:
    """The tile and the options that the function is told of: of a whole block where it is run for one."""
    if job.metatile == 1 or job.tile is None:
        return job.tile, job.options
    whole, _ = tiles.block(job.tile, job.metatile)
    return whole, replace(job.options, scale=job.options.scale * job.metatile)


def _encode(value: object, job: Job, bundle: Bundle, *, size: object) -> Part:
    try:
        if job.metatile == 1:
            return encode(value, job)
        return _joined(encode_block(value, job, size=size))
    except (BadRequest, UnsupportedOutput, NotCuttable):
        raise
    except BaseException as error:  # a value that fails when it is read: user code again, or its data
        cause = failures.describe(error, bundle, job.udf, None)
    raise UnsupportedOutput(
        f"Result serialization failed: {cause.message} (the result is a {type(value).__name__})",
        exception_class=cause.exception_class,
        lineno=cause.lineno,
        traceback=cause.traceback,
    )


def _joined(parts: Sequence[Part]) -> Part:
    """The tiles of a block as one body."""
    ends = itertools.accumulate(len(body) for body, _, _ in parts)
    listed = [[end, media_type, facts] for end, (_, media_type, facts) in zip(ends, parts, strict=True)]
    return b"".join(body for body, _, _ in parts), "application/octet-stream", {"tiles": listed}


def _ms(start: float, end: float) -> float:
    return round((end - start) * 1000, 3)


@contextmanager
def _own_streams() -> Iterator[None]:
    """Undo what a UDF does to ``sys.stdout`` and ``sys.stderr``."""
    stdout, stderr = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout, sys.stderr = stdout, stderr
        for stream in (stdout, stderr):
            if not stream.closed:
                stream.flush()
