"""``fused.submit`` and ``udf.map``: a UDF run for each of a list of arguments, at the same time.

Each run goes to a worker of the server's pool, as many at a time as ``max_workers`` says and the server lets
one run wait for.
"""

from __future__ import annotations

import contextvars
import datetime as dt
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from concurrent.futures import TimeoutError as NotInTime
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, Self

import pandas as pd

from tileserver.fused import elsewhere, neighbours, state, wire
from tileserver.fused.elsewhere import Code, Outcome
from tileserver.fused.neighbours import UdfCall, UdfObject
from tileserver.fused.types import JobPoolTailTimeoutError, UdfSelfRecursionError, UdfTimeoutError
from tileserver.worker import nested

Status = Literal["pending", "running", "success", "error", "timeout", "cancelled"]
Work = Callable[[Mapping[str, Any]], Outcome]

DEFAULT_WORKERS: Final = 32
MOST_WORKERS: Final = 64  # as many as the server lets one run wait for
_FAILED: Final = ("error", "timeout", "cancelled")


def submit(
    udf: Any,
    arg_list: Any,
    /,
    *,
    engine: str | None = "remote",
    instance_type: str | None = None,
    max_workers: int | None = None,
    n_processes_per_worker: int | None = None,
    max_retry: int = 2,
    debug_mode: bool = False,
    collect: bool = True,
    execution_type: str = "thread_pool",
    run_cache_max_age: str | int | None = None,
    ignore_exceptions: bool = False,
    flatten: bool = True,
    drop_index: bool = False,
    **parameters: Any,
) -> Any:
    """Run a UDF for each of a list of arguments: values of its first parameter, dicts, or rows of a frame.

    With ``collect``, the results as one frame, whose index holds the arguments (their positions with
    ``drop_index``); without, a ``JobPool``. ``debug_mode`` runs only the first, here. ``engine="local"`` runs
    all in this process. A failed run is repeated up to ``max_retry`` times by whatever waits for it. Other
    ``parameters`` go to every run; options that say where Fused runs a UDF change nothing.

    :raises ValueError: for an empty list, or one of values that no parameter can take.
    :raises UdfSelfRecursionError: for the UDF that is running.
    """
    if execution_type not in {"thread_pool", "async_loop"}:
        raise ValueError(f"execution_type takes thread_pool or async_loop, not {execution_type!r}")
    if isinstance(udf, UdfCall):
        udf, parameters = udf.udf, {**udf.parameters, **parameters}
    if isinstance(udf, str) and ("\n" in udf or (own := neighbours.own_name(udf)) is not None):
        udf = neighbours.load(udf if "\n" in udf else own)
    if isinstance(udf, UdfObject) and udf.name == state.udf_name():
        raise UdfSelfRecursionError(f"{udf.name} can't submit itself")
    rows = _rows(arg_list, udf)
    if debug_mode:
        return neighbours.run(udf, **{**parameters, **rows[0]})
    limit = min(max_workers or DEFAULT_WORKERS, MOST_WORKERS)
    work = _local_work(udf) if engine == "local" or not nested.connected() else _work(udf)
    pool = JobPool(work, rows, parameters, max_workers=limit, max_retry=max_retry)
    if not collect:
        return pool
    with pool:
        return pool.collect(ignore_exceptions=ignore_exceptions, flatten=flatten, drop_index=drop_index)


def _rows(arg_list: Any, udf: Any) -> list[dict[str, Any]]:
    """The arguments of each run by name."""
    if isinstance(arg_list, pd.DataFrame):
        rows = [{str(name): value for name, value in row.items()} for row in arg_list.to_dict("records")]
    else:
        rows = list(arg_list)
    if not rows:
        raise ValueError("arg_list is empty: it takes the arguments of at least one run")
    if all(isinstance(row, dict) for row in rows):
        return rows
    if isinstance(udf, UdfObject):
        names = udf.parameter_list
    elif callable(udf):
        names = [parameter.name for parameter in neighbours.decorated_source(udf)[1].parameters]
    else:
        raise ValueError("for a UDF by its token or of another canvas, arg_list takes a list of dicts")
    if not names:
        raise ValueError("arg_list takes a list of dicts: the UDF has no parameter for plain values")
    return [{names[0]: row} for row in rows]


def _work(udf: Any) -> Work:
    """One run in a worker of the server's."""
    if isinstance(udf, str):
        return partial(elsewhere.run, udf, as_query=neighbours.is_token(udf))
    if isinstance(udf, UdfObject):
        if neighbours.own_name(udf.name) is not None and not udf.is_foreign:
            return partial(elsewhere.run, udf.name)
        modules = {header["module_name"]: header["source_code"] for header in udf.headers}
        return partial(elsewhere.run, udf.name, code=Code(udf.code, udf.entrypoint, modules))
    text, signature = neighbours.decorated_source(udf)
    return partial(elsewhere.run, signature.entry, code=Code(text, signature.entry, {}))


def _local_work(udf: Any) -> Work:
    return lambda parameters: Outcome(neighbours.run(udf, **parameters), "")


@dataclass(slots=True)
class Job:
    """One run of a pool, by the names that the client of Fused has."""

    index: int
    args: Mapping[str, Any]
    future: Future[Outcome]
    began: float | None = None
    ended: float | None = None

    def done(self) -> bool:
        return self.future.done()

    def result(self) -> Any:
        """What the UDF returned, once it has; raises what it raised."""
        return self.future.result().value

    def exception(self) -> BaseException | None:
        """What it raised, once it has ended; None where that is nothing."""
        return None if self.future.cancelled() else self.future.exception()

    def logs(self) -> str:
        """What it printed; nothing of a run that failed, whose error has it."""
        if not self.future.done() or self.future.cancelled() or self.future.exception() is not None:
            return ""
        return self.future.result().logs

    def time(self) -> dt.timedelta | None:
        """How long it took; None while it goes on."""
        if self.began is None or self.ended is None:
            return None
        return dt.timedelta(seconds=self.ended - self.began)

    def status(self) -> Status:
        if self.future.cancelled():
            return "cancelled"
        if not self.future.done():
            return "pending" if self.began is None else "running"
        error = self.future.exception()
        if error is None:
            return "success"
        return "timeout" if isinstance(error, UdfTimeoutError | TimeoutError) else "error"

    def __repr__(self) -> str:
        return f"<Job {self.index} [{self.status()}]>"


class JobPool:
    """Runs under way, in the order of their arguments; used by the thread that made it."""

    def __init__(
        self,
        work: Work,
        rows: Sequence[Mapping[str, Any]],
        parameters: Mapping[str, Any],
        *,
        max_workers: int,
        max_retry: int,
    ) -> None:
        self.arg_list = list(rows)
        self.n_jobs = len(rows)
        self._work = work
        self._parameters = dict(parameters)
        self._retries = max_retry
        self._started = time.monotonic()
        self._executor = ThreadPoolExecutor(max(1, min(max_workers, self.n_jobs)), "submit")
        self._jobs = [self._job(index, row) for index, row in enumerate(rows)]

    def _job(self, index: int, row: Mapping[str, Any]) -> Job:
        job = Job(index, row, Future())
        context = contextvars.copy_context()
        work, parameters = self._work, {**self._parameters, **row}

        def go() -> Outcome:
            job.began = time.monotonic()
            try:
                return context.run(work, parameters)
            finally:
                job.ended = time.monotonic()

        job.future = self._executor.submit(go)
        return job

    # -- waiting

    def wait(self, timeout: float | None = None) -> None:
        """Wait until all runs have ended, and repeat those that failed while there are repetitions left."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if wait([job.future for job in self._jobs], left).not_done:
                raise NotInTime
            if not (self._retries > 0 and self.any_failed()):
                self._executor.shutdown(wait=False)
                return
            self._retries -= 1
            self._repeat()

    def retry(self) -> None:
        """Repeat the runs that failed."""
        self._executor = ThreadPoolExecutor(self._executor._max_workers, "submit")  # noqa: SLF001
        self._repeat()

    def _repeat(self) -> None:
        self._jobs = [
            self._job(job.index, job.args) if job.status() in {"error", "timeout"} else job
            for job in self._jobs
        ]

    def tail(self, stop_on_exception: bool = False, timeout: float | None = None) -> None:
        """Wait, and print how it went.

        :raises JobPoolTailTimeoutError: when it takes longer than ``timeout`` seconds.
        """
        try:
            self.wait(timeout)
        except NotInTime:
            self.cancel()
            left: list[object] = [dict(job.args) for job in self._jobs if job.status() != "success"]
            text = f"{len(left)} of {self.n_jobs} runs did not succeed within {timeout:g} s"
            raise JobPoolTailTimeoutError(text, timeout=timeout or 0.0, not_succeeded_args=left) from None
        print(self._summary())
        if stop_on_exception and (error := self.first_error()) is not None:
            raise error

    def cancel(self, wait: bool = False) -> None:
        """Don't begin what hasn't begun."""
        self._retries = 0
        self._executor.shutdown(wait=wait, cancel_futures=True)

    # -- how it stands

    def done(self) -> bool:
        return all(job.done() for job in self._jobs)

    def all_succeeded(self) -> bool:
        return all(job.status() == "success" for job in self._jobs)

    def any_failed(self) -> bool:
        return any(job.status() in {"error", "timeout"} for job in self._jobs)

    def any_succeeded(self) -> bool:
        return any(job.status() == "success" for job in self._jobs)

    def status(self) -> pd.Series[int]:
        """How many runs there are of each status."""
        return pd.Series([job.status() for job in self._jobs], name="status").value_counts()

    def total_time(self, since_retry: bool = False) -> dt.timedelta:
        """From the start to the end of the last run that has ended."""
        ended = [job.ended for job in self._jobs if job.ended is not None]
        if not ended:
            raise ValueError("no run has ended yet")
        return dt.timedelta(seconds=max(ended) - self._started)

    def times(self) -> list[dt.timedelta | None]:
        return [job.time() for job in self._jobs]

    def pending(self) -> dict[int, Mapping[str, Any]]:
        """Arguments by position, of runs that have not begun."""
        return self._args_of("pending")

    def running(self) -> dict[int, Mapping[str, Any]]:
        return self._args_of("running")

    def cancelled(self) -> dict[int, Mapping[str, Any]]:
        return self._args_of("cancelled")

    def _args_of(self, status: Status) -> dict[int, Mapping[str, Any]]:
        return {job.index: job.args for job in self._jobs if job.status() == status}

    # -- what came of it

    def results(self, return_exceptions: bool = False) -> list[Any]:
        """What each run returned; the first error is raised, unless errors are to be among the results."""
        self.wait()
        return [self._result(job, return_exceptions) for job in self._jobs]

    def results_now(self, return_exceptions: bool = False) -> dict[int, Any]:
        """The same by position, of those that have ended."""
        return {job.index: self._result(job, return_exceptions) for job in self._jobs if job.done()}

    @staticmethod
    def _result(job: Job, return_exceptions: bool) -> Any:
        error = job.exception() if return_exceptions else None
        return job.result() if error is None else error

    def success(self) -> dict[int, Any]:
        return {job.index: job.result() for job in self._jobs if job.status() == "success"}

    def errors(self) -> dict[int, BaseException | None]:
        return {job.index: job.exception() for job in self._jobs if job.status() in _FAILED}

    def first_error(self) -> BaseException | None:
        return next(iter(self.errors().values()), None)

    def logs(self) -> list[str | None]:
        """What each run printed; None of those under way."""
        return [job.logs() if job.done() else None for job in self._jobs]

    def first_log(self) -> str | None:
        return next((job.logs() for job in self._jobs if job.done()), None)

    def arg_df(self) -> pd.DataFrame:
        """The arguments of each run as a row."""
        return pd.DataFrame(self.arg_list)

    def logs_df(
        self,
        status_column: str | None = "status",
        result_column: str | None = "result",
        time_column: str | None = "time",
        logs_column: str | None = "logs",
        exception_column: str | None = None,
        include_exceptions: bool = True,
    ) -> pd.DataFrame:
        """A row for each run: its arguments, and how it stands."""
        seconds = [None if took is None else took.total_seconds() for took in self.times()]
        values = [self._result(job, include_exceptions) if job.done() else None for job in self._jobs]
        columns: dict[str | None, Any] = {
            status_column: [job.status() for job in self._jobs],
            time_column: pd.Series(seconds, dtype=float),
            result_column: pd.Series(values, dtype=object),
            logs_column: self.logs(),
            exception_column: [job.exception() if job.done() else None for job in self._jobs],
        }
        frame = self.arg_df()
        for name, column in columns.items():
            if name is not None:
                frame[name] = column
        return frame

    def df(self, **options: Any) -> pd.DataFrame:
        """The same as ``collect``."""
        return self.collect(**options)

    def collect(
        self,
        ignore_exceptions: bool = False,
        flatten: bool = True,
        drop_index: bool = False,
        verbose: bool = False,
        log_timeout: float | None = None,
    ) -> pd.DataFrame:
        """All results as one frame: their rows where all are frames, else a column ``result``. The index
        begins with the arguments, or with their position."""
        if log_timeout is not None or verbose:
            self.tail(timeout=log_timeout)
        found = [
            (job, value)
            for job, value in zip(self._jobs, self.results(ignore_exceptions), strict=True)
            if not isinstance(value, BaseException)
        ]
        jobs = [job for job, _ in found]
        values = [value for _, value in found]
        if flatten and values and all(isinstance(value, pd.DataFrame) for value in values):
            frame: pd.DataFrame = pd.concat(values)
            lengths = [len(value) for value in values]
            inner = [frame.index.get_level_values(level) for level in range(frame.index.nlevels)]
        else:
            frame = pd.DataFrame({"result": pd.Series(values, dtype=object).infer_objects()})
            lengths, inner = [1] * len(values), []
        outer = self._arguments(jobs, lengths, drop_index)
        names = [*outer, *(level.name for level in inner)]
        levels = [*outer.values(), *inner]
        if levels:  # there are none where nothing was given to any run
            index = pd.MultiIndex.from_arrays(levels, names=names)
            frame.index = index.get_level_values(0) if len(levels) == 1 else index
        return frame

    def _arguments(self, jobs: Sequence[Job], lengths: Sequence[int], drop_index: bool) -> dict[str, Any]:
        """Columns of the index: for each row of the results the arguments that it comes from."""
        repeated = [job for job, count in zip(jobs, lengths, strict=True) for _ in range(count)]
        if drop_index:
            return {"arg_pos": [job.index for job in repeated]}
        names = dict.fromkeys(name for row in self.arg_list for name in row)
        return {name: [_index_value(job.args.get(name)) for job in repeated] for name in names}

    def _summary(self) -> str:
        counts = self.status()
        return ", ".join(f"{count} {status}" for status, count in counts.items())

    def __iter__(self) -> Iterator[Any]:
        return iter(self.results())

    def __getitem__(self, index: int) -> Job:
        return self._jobs[index]

    def __len__(self) -> int:
        return self.n_jobs

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def __repr__(self) -> str:
        return f"<JobPool with {self.n_jobs} jobs [{self._summary()}]>"


def _index_value(value: Any) -> Any:
    """An argument as an index can hold it: as the run was given it."""
    plain = wire.parameter(value)
    return str(plain) if isinstance(plain, list | dict) else plain
