"""A pool of child processes on this machine: who runs what, in which order, and for how long.

A worker serves one canvas from its first run until it is retired, one run at a time. Beyond its time
limit a run's worker is killed and replaced. Runs that find no worker wait: first come, first served
within a canvas, canvases in turn.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tileserver import errors, replies
from tileserver.errors import Overloaded, TileServerError, UdfError, UdfKilled, UdfTimeout
from tileserver.executor import Answers
from tileserver.executor.channel import Channel, ChannelClosed, Drain
from tileserver.protocol import Bundle, Encoded, Job

log = logging.getLogger("tileserver.executor")

_SPARE: Final = 2  # workers of no canvas kept ready
_RUNS_BEFORE_RETIRING: Final = 5000
_EXIT_WAIT: Final = 0.5
_MAX_ASKING: Final = 64  # nested calls of one run at the same time
_START_LIMIT: Final = 60.0

# What a worker inherits of the server's environment. Never secrets: UDF code can read all of it.
_ENVIRONMENT: Final = ("PATH", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "SSL_CERT_FILE", "SSL_CERT_DIR")
_WORKER_SETTINGS: Final = {
    "ARROW_DEFAULT_MEMORY_POOL": "system",  # the default one reserves a GiB of address space
    "MALLOC_ARENA_MAX": "2",
    "OPENBLAS_NUM_THREADS": "1",  # a pool of processes already uses every core
    "OMP_NUM_THREADS": "1",
    "GDAL_CACHEMAX": "128",  # MB, for each worker
    "PYTHONUNBUFFERED": "",
    "PYTHONDONTWRITEBYTECODE": "1",
    "MPLBACKEND": "agg",
}


@dataclass(slots=True)
class _Worker:
    pid: int
    channel: Channel
    stdout: Drain
    stderr: Drain
    exited: asyncio.Future[int]
    owner: str | None = None
    bundle: str | None = None
    environment: Mapping[str, str] | None = None
    runs: int = 0
    last_udf: str = ""
    busy: bool = False
    asking: int = 0  # nested calls that its run waits for
    gone: bool = False

    @property
    def usable(self) -> bool:
        return not (self.gone or self.channel.closed.done())


@dataclass(slots=True)
class _Waiting:
    job: Job
    worker: asyncio.Future[_Worker]
    since: float = field(default_factory=time.monotonic)


class LocalPool:
    """The default executor. ``state_dir`` holds scratch space and the caches of ``@fused.cache``."""

    def __init__(
        self,
        *,
        state_dir: Path,
        workers: int = 8,
        queue_limit: int = 256,
        queue_time_limit: float = 30.0,
        output_limit: int = 256 * 2**20,
        log_limit: int = 2**20,
    ) -> None:
        self._scratch = state_dir / "scratch"
        self._udf_cache = state_dir / "udf-cache"
        self._size = workers
        self._queue_limit = queue_limit
        self._queue_time_limit = queue_time_limit
        self._output_limit = output_limit
        self._log_limit = log_limit
        self._workers: dict[int, _Worker] = {}
        self._forking: dict[int, asyncio.Future[int]] = {}
        self._queues: OrderedDict[str, deque[_Waiting]] = OrderedDict()
        self._environments: dict[str, Mapping[str, str]] = {}
        self._replenishing: asyncio.Task[None] | None = None
        self._tickets = 0
        self._closing = False
        self._counts = {"runs": 0, "failed": 0, "timeouts": 0, "killed": 0, "retired": 0, "refused": 0}

    # -- lifetime

    async def __aenter__(self) -> Self:
        for folder in (self._scratch, self._udf_cache):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        await self._start_zygote()
        self._replenish()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing = True
        if self._replenishing is not None:
            self._replenishing.cancel()
        for waiting in [w for queue in self._queues.values() for w in queue]:
            waiting.worker.cancel()
        self._stop_control()
        for worker in tuple(self._workers.values()):
            self._discard(worker)
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._zygote.wait(), 5)
        if self._zygote.returncode is None:
            self._zygote.kill()
            await self._zygote.wait()

    @property
    def ready(self) -> bool:
        return any(worker.usable for worker in self._workers.values())

    def stats(self) -> dict[str, Any]:
        workers = [w for w in self._workers.values() if w.usable]
        return {
            **self._counts,
            "workers": len(workers),
            "busy": sum(w.busy for w in workers),
            "queued": sum(len(queue) for queue in self._queues.values()),
        }

    # -- running

    async def run(self, job: Job, bundle: Bundle, answers: Answers | None = None) -> Encoded:
        """See ``Executor.run``."""
        arrived = time.monotonic()
        self._use_environment(bundle)
        worker = await self._acquire(job)
        started = time.monotonic()
        limit = _time_left(job, started)
        asking = _Asking(worker, answers or _nothing_to_ask, self._dispatch, started + limit)
        try:
            encoded = await self._run_on(worker, job, bundle, asking, limit)
        finally:
            asking.end()
            self._release(worker)
        took = {
            "queue_ms": round(1000 * (started - arrived), 3),
            "wall_ms": round(1000 * (time.monotonic() - started), 3),
        }
        return Encoded(encoded.body, encoded.media_type, encoded.created, {**encoded.meta, **took})

    async def _run_on(
        self, worker: _Worker, job: Job, bundle: Bundle, asking: _Asking, limit: float
    ) -> Encoded:
        self._counts["runs"] += 1
        worker.runs += 1
        worker.last_udf = job.udf
        worker.stdout.take()  # what an earlier run's left-overs wrote is nobody's
        worker.stderr.take()
        try:
            async with asyncio.timeout(limit):
                if worker.bundle != bundle.id:
                    worker.channel.send({"type": "bundle"}, json.dumps(bundle.to_json()).encode())
                    worker.bundle, worker.environment = bundle.id, bundle.environment
                header, body = await worker.channel.request(
                    {"type": "run"}, json.dumps(job.to_json()).encode(), asking.hear
                )
        except TimeoutError:
            self._counts["timeouts"] += 1
            text = f"TimeoutError: {job.udf} ran longer than its limit of {job.time_limit:g} s"
            if limit < job.time_limit:
                text = f"TimeoutError: {job.udf} ran longer than the run that called it may"
            failure = self._with_output(UdfTimeout(text), worker)
            self._kill(worker)
            raise failure from None
        except ChannelClosed:
            self._counts["killed"] += 1
            text = f"the worker process ended in the middle of the run: {await self._exit_reason(worker)}"
            raise self._with_output(UdfKilled(text), worker) from None
        except asyncio.CancelledError:
            self._kill(worker)
            raise
        if header.get("type") == "result":
            output = {"stdout": worker.stdout.take(), "stderr": worker.stderr.take()}
            meta = {**replies.checked(header["meta"]), **output}
            return Encoded(body, replies.media_type(header["media_type"]), float(header["created"]), meta)
        self._counts["failed"] += 1
        raise self._with_output(_failure(header), worker)

    @staticmethod
    def _with_output(failure: TileServerError, worker: _Worker) -> TileServerError:
        if isinstance(failure, UdfError):
            failure.stdout, failure.stderr = worker.stdout.take(), worker.stderr.take()
        return failure

    async def _exit_reason(self, worker: _Worker) -> str:
        try:
            status = await asyncio.wait_for(asyncio.shield(worker.exited), _EXIT_WAIT)
        except (TimeoutError, asyncio.CancelledError):
            self._kill(worker)
            return "it broke the connection"
        if status < 0:
            return f"killed by {signal.Signals(-status).name}"
        return f"it exited with status {status}"

    def _use_environment(self, bundle: Bundle) -> None:
        """Retire idle workers that have another environment than this owner has now: libraries keep what
        they once read of it (connections to object stores with their credentials, for one)."""
        self._environments[bundle.owner] = bundle.environment
        for worker in [w for w in self._workers.values() if w.owner == bundle.owner and not w.busy]:
            if worker.usable and not self._is_current(worker):
                self._counts["retired"] += 1
                self._kill(worker)

    def _is_current(self, worker: _Worker) -> bool:
        if worker.environment is None or worker.owner is None:
            return True
        return worker.environment == self._environments.get(worker.owner)

    # -- who runs next

    async def _acquire(self, job: Job) -> _Worker:
        queue = self._queues.setdefault(job.owner, deque())
        if len(queue) >= self._queue_limit and not job.nested:
            self._counts["refused"] += 1
            raise Overloaded(f"{len(queue)} runs of this canvas are waiting already (queue_limit)")
        waiting = _Waiting(job, asyncio.get_running_loop().create_future())
        # Before all that are less deep: a run that others wait for must not wait for new ones.
        queue.insert(next((n for n, w in enumerate(queue) if w.job.nested < job.nested), len(queue)), waiting)
        self._dispatch()
        try:
            async with asyncio.timeout(min(self._queue_time_limit, _time_left(job, time.monotonic()))):
                return await waiting.worker
        except TimeoutError:
            self._counts["refused"] += 1
            raise Overloaded(
                f"no worker became free within {self._queue_time_limit:g} s (queue_time_limit)", retry_after=5
            ) from None
        except asyncio.CancelledError:
            if waiting.worker.done() and not waiting.worker.cancelled():
                self._release(waiting.worker.result())
            raise
        finally:
            with suppress(ValueError):
                queue.remove(waiting)
            if not queue and self._queues.get(job.owner) is queue:
                del self._queues[job.owner]

    def _dispatch(self) -> None:
        """Hand idle workers to those who wait, one canvas after the other."""
        progress = True
        while progress:
            progress = False
            for owner, queue in self._in_turn():
                while queue and queue[0].worker.done():
                    queue.popleft()
                if not queue:
                    continue
                worker = self._worker_for(queue[0].job)
                if worker is None:
                    continue
                worker.busy, worker.owner = True, owner
                queue.popleft().worker.set_result(worker)
                self._queues.move_to_end(owner)
                progress = True
        self._replenish()

    def _in_turn(self) -> list[tuple[str, deque[_Waiting]]]:
        """Queues with somebody in them: those with the deepest nested run first, then in turn."""
        waiting = [(owner, queue) for owner, queue in self._queues.items() if queue]
        return sorted(waiting, key=lambda item: -item[1][0].job.nested)

    def _worker_for(self, job: Job) -> _Worker | None:
        """An idle worker of the canvas, best the last to run this UDF; else one of no canvas."""
        idle = [w for w in self._workers.values() if w.usable and not w.busy]
        own = [w for w in idle if w.owner == job.owner]
        for worker in own:
            if worker.last_udf == job.udf and worker.bundle == job.bundle:
                return worker
        if own:
            return own[-1]
        return next((w for w in idle if w.owner is None), None)

    def _release(self, worker: _Worker) -> None:
        worker.busy = False
        if not worker.usable:
            self._discard(worker)
        elif worker.runs >= _RUNS_BEFORE_RETIRING or self._room() < 0 or not self._is_current(worker):
            self._counts["retired"] += 1
            self._kill(worker)
        if not self._closing:
            self._dispatch()

    # -- workers come and go

    def _replenish(self) -> None:
        under_way = self._replenishing is not None and not self._replenishing.done()
        if not (self._closing or under_way) and self._make_room() > 0:
            self._replenishing = asyncio.create_task(self._fork_until_enough())
            self._replenishing.add_done_callback(_log_failure)

    def _make_room(self) -> int:
        """How many workers to fork now: for those who wait, and a few spare ones. Where the pool is full
        while somebody waits, an idle worker of another canvas goes."""
        usable = [w for w in self._workers.values() if w.usable]
        spare = sum(w.owner is None and not w.busy for w in usable)
        waiting = sum(len(queue) for queue in self._queues.values())
        missing = max(waiting, _SPARE) - spare
        room = self._room()
        if room <= 0 and waiting and spare == 0:
            idle = (w for w in usable if not w.busy and w.owner not in self._queues)
            evicted = next(idle, None)
            if evicted is not None:
                self._counts["retired"] += 1
                self._kill(evicted)
                room = 1
        return min(missing, room)

    def _room(self) -> int:
        """How many more workers there may be. One that waits for a nested call leaves its place to that:
        if it did not, workers that all wait for one another would wait for ever."""
        return self._size - sum(w.usable and not w.asking for w in self._workers.values())

    async def _fork_until_enough(self) -> None:
        while not self._closing and self._make_room() > 0:
            await self._fork()
            self._dispatch()

    async def _fork(self) -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        out_read, out_write = os.pipe()
        err_read, err_write = os.pipe()
        self._tickets += 1
        pid_known: asyncio.Future[int] = loop.create_future()
        self._forking[self._tickets] = pid_known
        stdout, stderr = Drain(out_read, self._log_limit), Drain(err_read, self._log_limit)
        try:
            request = json.dumps({"fork": self._tickets}).encode()
            socket.send_fds(self._control, [request], [theirs.fileno(), out_write, err_write])
            pid = await asyncio.wait_for(pid_known, _START_LIMIT)
        except BaseException:
            ours.close()
            stdout.close()
            stderr.close()
            raise
        finally:
            self._forking.pop(self._tickets, None)
            theirs.close()
            os.close(out_write)
            os.close(err_write)
        ours.setblocking(False)
        _, channel = await loop.create_unix_connection(lambda: Channel(self._output_limit), sock=ours)
        worker = _Worker(pid, channel, stdout, stderr, loop.create_future())
        self._workers[pid] = worker
        channel.closed.add_done_callback(lambda _: self._lost(worker))

    def _lost(self, worker: _Worker) -> None:
        """The channel is gone: whoever runs on it is told by its own request."""
        if not worker.busy:
            self._discard(worker)
        if not self._closing:
            self._dispatch()

    def _kill(self, worker: _Worker) -> None:
        with suppress(OSError):
            self._control.send(json.dumps({"kill": worker.pid}).encode())
        self._discard(worker)

    def _discard(self, worker: _Worker) -> None:
        worker.gone = True
        worker.channel.close()
        worker.stdout.close()
        worker.stderr.close()
        if worker.exited.done():
            self._workers.pop(worker.pid, None)

    # -- the zygote

    async def _start_zygote(self) -> None:
        loop = asyncio.get_running_loop()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        limits = {"output_limit": self._output_limit, "udf_cache": str(self._udf_cache)}
        self._started: asyncio.Future[int] = loop.create_future()
        self._zygote = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "tileserver.worker", str(theirs.fileno()), json.dumps(limits)),
            stdin=asyncio.subprocess.DEVNULL,
            env=self._environment(),
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
        )
        theirs.close()
        loop.add_reader(self._control, self._hear)
        try:
            await asyncio.wait_for(self._started, _START_LIMIT)
        except TimeoutError:
            self._zygote.kill()
            raise TileServerError("the worker processes did not start within a minute") from None

    def _environment(self) -> dict[str, str]:
        inherited = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        places = {"HOME": str(self._scratch), "TMPDIR": str(self._scratch)}
        return {**inherited, **_WORKER_SETTINGS, **places, "MPLCONFIGDIR": str(self._scratch)}

    def _hear(self) -> None:
        """Read what the zygote tells: that it is ready, that a child was forked, that one exited."""
        while True:
            try:
                text = self._control.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                text = b""
            if not text:
                self._zygote_lost()
                return
            self._heard(json.loads(text))

    def _heard(self, message: Mapping[str, Any]) -> None:
        if "ready" in message:
            self._started.set_result(message["ready"])
        elif "forked" in message:
            known = self._forking.get(message["forked"])
            if known is not None and not known.done():
                known.set_result(message["pid"])
        else:
            worker = self._workers.get(message["exited"])
            if worker is not None and not worker.exited.done():
                worker.exited.set_result(message["status"])
                if not worker.busy:
                    self._discard(worker)

    def _zygote_lost(self) -> None:
        """Its children die with it; start another one."""
        self._stop_control()
        if not self._started.done():
            self._started.set_exception(TileServerError("the worker processes ended while starting"))
            return
        for pending in self._forking.values():
            if not pending.done():
                pending.set_exception(TileServerError("the worker processes were restarted"))
        if not self._closing:
            log.warning("the process that forks workers ended; starting another one")
            for worker in tuple(self._workers.values()):
                if not worker.exited.done():
                    worker.exited.set_result(-signal.SIGKILL)
                self._discard(worker)
            self._restart = asyncio.create_task(self._restart_zygote())
            self._restart.add_done_callback(_log_failure)

    async def _restart_zygote(self) -> None:
        await self._start_zygote()
        self._dispatch()

    def _stop_control(self) -> None:
        asyncio.get_running_loop().remove_reader(self._control)
        self._control.close()


class _Asking:
    """The nested calls of one run: served as tasks, which end with the run."""

    def __init__(
        self, worker: _Worker, answers: Answers, changed: Callable[[], None], deadline: float
    ) -> None:
        self._worker = worker
        self._answers = answers
        self._deadline = deadline
        self._changed = changed
        self._tasks: set[asyncio.Task[None]] = set()

    def hear(self, header: dict[str, Any], body: bytes) -> None:
        task = asyncio.create_task(self._serve(header, body))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, header: dict[str, Any], body: bytes) -> None:
        self._worker.asking += 1
        self._changed()
        try:
            reply, content = await self._answered({**header, "deadline": self._deadline}, body)
        except TileServerError as error:
            reply, content = {"failure": errors.describe(error)}, b""
        except Exception:  # whatever was asked for: somebody waits for an answer
            log.exception("a nested call could not be answered")
            failure = TileServerError("the server could not answer")
            reply, content = {"failure": errors.describe(failure)}, b""
        finally:
            self._worker.asking -= 1
        with suppress(ChannelClosed):
            self._worker.channel.send({"type": "answer", "number": header.get("number"), **reply}, content)

    async def _answered(self, header: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        if self._worker.asking > _MAX_ASKING:
            raise Overloaded(f"a run may wait for {_MAX_ASKING} others at a time")
        return await self._answers(header, body)

    def end(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()


def _time_left(job: Job, now: float) -> float:
    """Seconds that a run may take: its own limit, and no longer than the run that waits for it."""
    if job.deadline is None:
        return job.time_limit
    return max(0.0, min(job.time_limit, job.deadline - now))


async def _nothing_to_ask(header: Mapping[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
    raise errors.BadRequest("this run can't call others")


def _failure(header: Mapping[str, Any]) -> TileServerError:
    """The exception that a worker described: a failure of the UDF, or what was wrong with the request."""
    error = errors.restore(header)
    if isinstance(error, UdfError):
        return error
    kind = errors.BadRequest if isinstance(error, errors.BadRequest) else UdfError
    return kind(error.message)


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("a worker could not be started: %s", task.exception())
