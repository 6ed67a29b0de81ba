"""A pool of child processes on this machine: who runs what, in which order, and for how long.

A worker serves one owner from its first run until it is retired, one run at a time, in the sandbox that it
was put into before that (``confinement``). Beyond its time limit a run's worker is killed and replaced; one
that nobody waits for any more is asked to stop first.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import logging
import signal
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tileserver import errors, replies
from tileserver.errors import Overloaded, TileServerError, UdfError, UdfKilled, UdfTimeout
from tileserver.executor import Answers, trees
from tileserver.executor.asking import Asking
from tileserver.executor.channel import ChannelClosed
from tileserver.executor.confinement import Confinement
from tileserver.executor.waiting import Line
from tileserver.executor.watch import Watch
from tileserver.executor.workers import Worker
from tileserver.executor.zygote import Zygote
from tileserver.interest import Interest
from tileserver.protocol import Bundle, Encoded, Job

log = logging.getLogger("tileserver.executor")

_SPARE: Final = 2  # workers of no owner kept ready
_RUNS_BEFORE_RETIRING: Final = 5000
_EXIT_WAIT: Final = 0.5
_AGAIN: Final = 0.25  # after something couldn't be started
_SOFT_WAIT: Final = 1.0  # between asking an abandoned run to stop and killing it
_MOST_WAITING: Final = 8  # workers that wait for nested calls, for each one of the pool's size
_CONFINEMENT_FAILED: Final = 71  # exit status, see the worker
_REASONS: Final = frozenset({"children", "memory", "threads", "descriptors"})


class _NotBegun(Exception):
    """The worker has ended before it took up the run."""


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
        abandon_grace: float = 2.0,
        memory_limit: int = 4 * 2**30,
        confinement: Confinement | None = None,
    ) -> None:
        self.confinement = confinement or Confinement(state_dir, memory=memory_limit)
        self._state_dir = state_dir
        self._size = workers
        self._queue_limit = queue_limit
        self._queue_time_limit = queue_time_limit
        self._abandon_grace = abandon_grace
        self._zygote = Zygote(
            scratch=state_dir / "scratch",
            limits={"output_limit": output_limit, "udf_cache": str(state_dir / "udf-cache")},
            max_body=output_limit,
            max_log=log_limit,
            lost=self._zygote_lost,
        )
        self._workers: dict[int, Worker] = {}
        self._watch = Watch(
            self._workers,
            self.confinement.scratch,
            memory=memory_limit,
            excess=self._kill_for,
            idle=self._retire,
        )
        self._line: Line[Worker] = Line()
        self._environments: dict[str, Mapping[str, str]] = {}
        self._replenishing: asyncio.Task[None] | None = None
        self._restarting: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._closing = False
        self._counts: Counter[str] = Counter()

    # -- lifetime

    async def __aenter__(self) -> Self:
        for note in self.confinement.notes:
            log.warning("sandbox: %s", note)
        self.confinement.prepare()
        await self._zygote.start()
        self._watching = asyncio.create_task(self._watch.forever())
        self._watching.add_done_callback(_log_failure)
        self._replenish()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing = True
        for task in (self._replenishing, self._restarting, self._watching):
            if task is not None:
                task.cancel()
        self._line.cancel()
        for worker in tuple(self._workers.values()):
            self._discard(worker)
        await self._zygote.close()

    @property
    def ready(self) -> bool:
        return any(worker.usable for worker in self._workers.values())

    @property
    def level(self) -> str:
        return "off" if self.confinement.mode == "off" else self.confinement.level

    def stats(self) -> dict[str, Any]:
        """Counts since the start; ``retired`` and ``killed`` by their reasons, too."""
        workers = [w for w in self._workers.values() if w.usable]
        names = ("runs", "failed", "timeouts", "killed", "retired", "refused", "abandoned")
        return {
            **dict.fromkeys(names, 0),
            **self._counts,
            "workers": len(workers),
            "busy": sum(w.busy for w in workers),
            "queued": len(self._line),
        }

    # -- running

    async def run(
        self, job: Job, bundle: Bundle, answers: Answers | None = None, interest: Interest | None = None
    ) -> Encoded:
        """See ``Executor.run``."""
        arrived = time.monotonic()
        self._use_environment(bundle)
        while True:
            worker = await self._acquire(job, interest)
            started = time.monotonic()
            try:
                encoded = await self._run_in(worker, job, bundle, answers, interest)
                break
            except _NotBegun:
                continue  # what an earlier run has left behind ended the worker: no fault of this one's
        took = {
            "queue_ms": round(1000 * (started - arrived), 3),
            "wall_ms": round(1000 * (time.monotonic() - started), 3),
        }
        return Encoded(encoded.body, encoded.media_type, encoded.created, {**encoded.meta, **took})

    async def _run_in(
        self, worker: Worker, job: Job, bundle: Bundle, answers: Answers | None, interest: Interest | None
    ) -> Encoded:
        """Run a job in a worker that is let go of afterwards, and watch who waits for it."""
        now = time.monotonic()
        limit = _time_left(job, now)
        asking = worker.asking = Asking(worker.child.channel, answers, self._dispatch, now + limit)
        leaving = None
        if interest is not None:
            leaving = asyncio.create_task(self._end_when_abandoned(worker, interest))
        try:
            return await self._run_on(worker, job, bundle, limit)
        finally:
            if leaving is not None:
                leaving.cancel()
            asking.end()
            worker.asking = None
            self._release(worker)

    async def _run_on(self, worker: Worker, job: Job, bundle: Bundle, limit: float) -> Encoded:
        self._counts["runs"] += 1
        child, asking = worker.child, worker.asking
        assert asking is not None
        child.stdout.take()  # what an earlier run's left-overs wrote is nobody's
        child.stderr.take()
        try:
            async with asyncio.timeout(limit):
                self._enter(worker, job, bundle)
                header, body = await child.channel.request(
                    {"type": "run"}, json.dumps(job.to_json()).encode(), asking.hear
                )
        except TimeoutError:
            self._counts["timeouts"] += 1
            text = f"TimeoutError: {job.udf} ran longer than its limit of {job.time_limit:g} s"
            shortened = limit < job.time_limit  # whoever else asks for the same has time of their own
            if shortened:
                text = f"TimeoutError: {job.udf} ran longer than the run that called it may"
            failure = self._with_output(UdfTimeout(text, read_caller=shortened), worker)
            self._kill(worker)
            raise failure from None
        except ChannelClosed:
            if worker.runs > 1 and not child.channel.has_begun and not worker.ended_by:
                raise _NotBegun from None
            self._counts["killed"] += 1
            reason = await self._exit_reason(worker)
            text = f"the worker process ended in the middle of the run: {reason}"
            raise self._with_output(UdfKilled(text), worker) from None
        except asyncio.CancelledError:
            self._kill(worker)
            raise
        if isinstance(retire := header.get("retire"), str) and retire in _REASONS:
            worker.ended_by = retire
        if header.get("type") == "result":
            output = {"stdout": child.stdout.take(), "stderr": child.stderr.take()}
            meta = {**replies.checked(header["meta"]), **output}
            return Encoded(body, replies.media_type(header["media_type"]), float(header["created"]), meta)
        self._counts["failed"] += 1
        raise self._with_output(_failure(header), worker)

    def _enter(self, worker: Worker, job: Job, bundle: Bundle) -> None:
        """Make a worker the owner's, and tell it of the bundle, where it doesn't know."""
        channel = worker.child.channel
        worker.last_udf = job.udf
        if not worker.runs:
            plan = self.confinement.plan(bundle, worker.slot)
            channel.send({"type": "confine"}, json.dumps(plan.to_json()).encode())
        worker.runs += 1
        if worker.bundle != bundle.id:
            channel.send({"type": "bundle"}, json.dumps(bundle.to_json()).encode())
            worker.bundle, worker.environment = bundle.id, bundle.environment

    @staticmethod
    def _with_output(failure: TileServerError, worker: Worker) -> TileServerError:
        if isinstance(failure, UdfError):
            failure.stdout, failure.stderr = worker.child.stdout.take(), worker.child.stderr.take()
        return failure

    async def _exit_reason(self, worker: Worker) -> str:
        if worker.ended_by:
            return f"it {worker.ended_by}"
        try:
            status = await asyncio.wait_for(asyncio.shield(worker.exited), _EXIT_WAIT)
        except TimeoutError:
            self._kill(worker)
            return "it broke the connection"
        if status == _CONFINEMENT_FAILED:
            log.error("a worker could not be confined: %s", worker.child.stderr.take().strip())
        if status < 0:
            return f"killed by {signal.Signals(-status).name}"
        return f"it exited with status {status}"

    async def _end_when_abandoned(self, worker: Worker, interest: Interest) -> None:
        """A run that nobody waits for goes on for a while, so that a map that is moved costs no warm worker;
        then it is interrupted, then killed."""
        await interest.lost_for(self._abandon_grace)
        self._counts["abandoned"] += 1
        self._zygote.interrupt(worker.child.pid)
        await asyncio.sleep(_SOFT_WAIT)
        worker.ended_by = "was killed: nobody waited for it any more"
        self._kill(worker)

    def _use_environment(self, bundle: Bundle) -> None:
        """Retire idle workers that have another environment than this owner has now: libraries keep what
        they once read of it (connections to object stores with their credentials, for one)."""
        self._environments[bundle.owner] = bundle.environment
        for worker in [w for w in self._workers.values() if w.owner == bundle.owner and not w.busy]:
            if worker.usable and not self._is_current(worker):
                self._retire(worker, "environment")

    def _is_current(self, worker: Worker) -> bool:
        if worker.environment is None or worker.owner is None:
            return True
        return worker.environment == self._environments.get(worker.owner)

    # -- who runs next

    async def _acquire(self, job: Job, interest: Interest | None) -> Worker:
        length = self._line.length(job.owner)
        if length >= self._queue_limit and not job.nested:
            self._counts["refused"] += 1
            raise Overloaded(f"{length} runs of this canvas are waiting already (queue_limit)")
        if job.nested and sum(1 for w in self._workers.values() if w.waits) > _MOST_WAITING * self._size:
            raise Overloaded("too many runs wait for others already")
        waiting = self._line.join(job)
        try:
            self._dispatch()
            if not waiting.worker.done():
                limit = min(self._queue_time_limit, _time_left(job, time.monotonic()))
                await _first_of(waiting.worker, interest, limit)
            if waiting.worker.done():
                return waiting.worker.result()
        except asyncio.CancelledError:
            if waiting.worker.done() and not waiting.worker.cancelled():
                self._release(waiting.worker.result())
            raise
        finally:
            self._line.leave(waiting)
        if interest is not None and not interest.is_open:
            self._counts["abandoned"] += 1
            raise Overloaded("nobody waited for this run any more")
        self._counts["refused"] += 1
        raise Overloaded(
            f"no worker became free within {self._queue_time_limit:g} s (queue_time_limit)", retry_after=5
        )

    def _dispatch(self) -> None:
        """Hand idle workers to those who wait, one owner after the other."""
        progress = True
        while progress:
            progress = False
            for waiting in self._line.first():
                worker = None if waiting.worker.done() else self._worker_for(waiting.job)
                if worker is None:
                    continue
                worker.busy, worker.owner = True, waiting.job.owner
                waiting.worker.set_result(worker)
                self._line.served(waiting)
                progress = True
        self._replenish()

    def _worker_for(self, job: Job) -> Worker | None:
        """An idle worker of the owner, best the last to run this UDF; else one of no owner, unless others
        wait and the owner has its share."""
        idle = [w for w in self._workers.values() if w.usable and not w.busy]
        own = [w for w in idle if w.owner == job.owner]
        for worker in own:
            if worker.last_udf == job.udf and worker.bundle == job.bundle:
                return worker
        if own:
            return own[-1]
        if not job.nested and self._has_its_share(job.owner):
            return None
        return next((w for w in idle if w.owner is None), None)

    def _has_its_share(self, owner: str, *, beyond: int = 0) -> bool:
        """Whether an owner has half of the workers, and ``beyond`` more, while others wait."""
        if self._line.owners() <= {owner}:
            return False
        return self._held()[owner] >= max(1, self._size // 2) + beyond

    def _release(self, worker: Worker) -> None:
        worker.busy = False
        if not worker.usable:
            self._kill(worker)  # what has closed its channel may live on
        elif reason := self._reason_to_retire(worker):
            self._retire(worker, reason)
        if not self._closing:
            self._dispatch()

    def _reason_to_retire(self, worker: Worker) -> str | None:
        if worker.ended_by:
            return worker.ended_by
        if worker.runs >= _RUNS_BEFORE_RETIRING:
            return "runs"
        if not self._is_current(worker):
            return "environment"
        crowded = self._room() < 0 and (len(self._line) or self._held()[worker.owner] > 1)
        if crowded or self._has_its_share(worker.owner or "", beyond=1):
            return "room"
        return None

    # -- workers come and go

    def _replenish(self) -> None:
        under_way = self._replenishing is not None and not self._replenishing.done()
        if not (self._closing or under_way) and self._make_room() > 0:
            self._replenishing = asyncio.create_task(self._fork_until_enough())
            self._replenishing.add_done_callback(_log_failure)

    def _make_room(self) -> int:
        """How many workers to fork now: for those who wait, and a few spare ones. Where the pool is full
        while somebody waits, an idle worker of an owner that has nobody waiting goes."""
        usable = [w for w in self._workers.values() if w.usable]
        spare = sum(w.owner is None and not w.busy for w in usable)
        missing = max(len(self._line), _SPARE) - spare
        room = self._room()
        if room <= 0 and len(self._line) and spare == 0:
            idle = (w for w in usable if not w.busy and w.owner not in self._line.owners())
            evicted = next(idle, None)
            if evicted is not None:
                self._retire(evicted, "room")
                return 1
            room += self._extra()
        return min(missing, room)

    def _room(self) -> int:
        """How many more workers there may be."""
        return self._size - self._held().total()

    def _extra(self) -> int:
        """An owner that waits and has no worker isn't kept waiting by the runs of others: there may be one
        beyond the pool's size for each such, up to half as many again."""
        held = self._held()
        without = sum(not held[owner] for owner in self._line.owners())
        return min(without, max(1, self._size // 2))

    def _held(self) -> Counter[str | None]:
        """How many workers each owner has; None stands for those that are nobody's yet."""
        return Counter(worker.owner for worker in self._workers.values() if worker.takes_a_place)

    async def _fork_until_enough(self) -> None:
        while not self._closing and self._make_room() > 0:
            try:
                child = await self._zygote.fork()
            except (OSError, TileServerError) as error:
                log.warning("a worker could not be started, and will be tried again: %s", error)
                await asyncio.sleep(_AGAIN)
                continue
            worker = Worker(child, self._free_slot())
            self._workers[child.pid] = worker
            child.exited.add_done_callback(functools.partial(self._exited, worker))
            child.channel.closed.add_done_callback(functools.partial(self._lost, worker))
            self._dispatch()

    def _free_slot(self) -> int:
        used = {worker.slot for worker in self._workers.values()}
        return next(slot for slot in itertools.count() if slot not in used)

    def _lost(self, worker: Worker, _: asyncio.Future[None]) -> None:
        """The channel is gone: whoever runs on it is told by its own request."""
        if not worker.busy:
            self._kill(worker)
        if not self._closing:
            self._dispatch()

    def _retire(self, worker: Worker, reason: str) -> None:
        self._counts["retired"] += 1
        self._counts[f"retired_{reason}"] += 1
        self._kill(worker)

    def _kill_for(self, worker: Worker, what: str, reason: str) -> None:
        """End a worker that uses too much of something; its run is told the reason."""
        self._counts[f"killed_{what}"] += 1
        worker.ended_by = reason
        self._kill(worker)

    def _kill(self, worker: Worker) -> None:
        if not worker.exited.done():
            self._zygote.kill(worker.child.pid)
        self._discard(worker)

    def _discard(self, worker: Worker) -> None:
        """Have nothing more to do with a worker; its slot is free once its process has exited."""
        worker.gone = True
        worker.child.channel.close()
        worker.child.stdout.close()
        worker.child.stderr.close()
        if worker.exited.done() and self._workers.pop(worker.child.pid, None) is not None:
            # Removing what it has left can take long.
            asyncio.get_running_loop().run_in_executor(
                None, trees.remove, self.confinement.forget(worker.slot)
            )

    def _exited(self, worker: Worker, _: asyncio.Future[int]) -> None:
        if not worker.busy:
            self._discard(worker)

    def _zygote_lost(self) -> None:
        """Its children die with it; start another one."""
        if self._closing:
            return
        log.warning("the process that forks workers ended; starting another one")
        for worker in tuple(self._workers.values()):
            self._discard(worker)
        self._restarting = asyncio.create_task(self._restart())
        self._restarting.add_done_callback(_log_failure)

    async def _restart(self) -> None:
        while True:
            try:
                await self._zygote.start()
                break
            except (OSError, TileServerError) as error:
                log.error("the process that forks workers can't be started: %s", error)  # noqa: TRY400 - it says all
                await asyncio.sleep(_AGAIN)
        self._dispatch()


async def _first_of(worker: asyncio.Future[Worker], interest: Interest | None, limit: float) -> None:
    """Wait for a worker, no longer than ``limit`` seconds, and not once nobody waits for what it would do."""
    if interest is None:
        await asyncio.wait({worker}, timeout=limit)
        return
    leaving = asyncio.ensure_future(interest.lost_for(0))
    either: set[asyncio.Future[Any]] = {worker, leaving}
    try:
        await asyncio.wait(either, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()


def _time_left(job: Job, now: float) -> float:
    """Seconds that a run may take: its own limit, and no longer than the run that waits for it."""
    if job.deadline is None:
        return job.time_limit
    return max(0.0, min(job.time_limit, job.deadline - now))


def _failure(header: Mapping[str, Any]) -> TileServerError:
    """The exception that a worker described: a failure of the UDF, or what was wrong with the request."""
    error = errors.restore(header)
    if isinstance(error, UdfError):
        return error
    kind = errors.BadRequest if isinstance(error, errors.BadRequest) else UdfError
    return kind(error.message)


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("the pool of workers has a problem: %s", task.exception())
