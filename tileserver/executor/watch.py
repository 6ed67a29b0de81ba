"""How much memory and disk the workers use, as the kernel counts it, and which of them has to go.

Resident pages are cheap to read but count shared ones for each process, and forked workers share most of
theirs. So the proportional share is asked for only where the cheap sum passes a limit.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from tileserver.executor import trees
from tileserver.executor.workers import Worker

log = logging.getLogger("tileserver.executor")

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")

_SCRATCH: Final = 2 * 2**30  # bytes, for one worker
_LOOK_EVERY: Final = 0.25  # at memory while anything runs; at all else every fourth time
_SHARE_OF_MACHINE: Final = 0.75
_IDLE_TICKS: Final = 10  # of processor time in a second, by a worker that has nothing to do


class Watch:
    """Looks at a pool's workers again and again. ``excess`` is called with a worker that is to be ended, what
    it uses too much of, and the reason for people; ``idle`` with one that computes although nobody asked it
    to. ``memory`` is bytes for one worker; ``scratch`` tells where its scratch is."""

    def __init__(
        self,
        workers: Mapping[int, Worker],
        scratch: Callable[[int], Path],
        *,
        memory: int,
        excess: Callable[[Worker, str, str], None],
        idle: Callable[[Worker, str], None],
    ) -> None:
        self._workers = workers
        self._scratch = scratch
        self._memory = memory
        self._together = int(_SHARE_OF_MACHINE * machine_memory())
        self._excess = excess
        self._idle = idle
        self._looks = 0

    async def forever(self) -> None:
        """Folders take longer to look at than memory does, and neither waits for the other."""
        await asyncio.gather(
            self._again(_LOOK_EVERY, self._look_at_memory),
            self._again(4 * _LOOK_EVERY, self._look_at_idle),
            self._again(4 * _LOOK_EVERY, self._look_at_scratch),
        )

    async def _again(self, seconds: float, look: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await look()
            except Exception:  # whatever one look comes across: without any, there would be no limits
                log.exception("what workers use could not be looked at")

    async def _look_at_memory(self) -> None:
        self._looks += 1
        if self._looks % 4 and not any(worker.busy for worker in self._workers.values()):
            return
        pids = [worker.child.pid for worker in self._workers.values() if worker.usable]
        found = await asyncio.to_thread(largest_over, pids, each=self._memory, together=self._together)
        worker = self._workers.get(found[0]) if found else None
        if worker is not None and found is not None:
            self._excess(worker, "memory", found[1])

    async def _look_at_idle(self) -> None:
        """Something of a run may live on in a worker."""
        for worker in tuple(self._workers.values()):
            if worker.busy or worker.owner is None or not worker.usable:
                worker.ticks = None
                continue
            ticks = processor_ticks(worker.child.pid)
            if worker.ticks is not None and ticks - worker.ticks > _IDLE_TICKS:
                self._idle(worker, "threads")
            worker.ticks = ticks

    async def _look_at_scratch(self) -> None:
        for worker in [w for w in self._workers.values() if w.busy and w.usable]:
            size = await asyncio.to_thread(trees.size, self._scratch(worker.slot), most=_SCRATCH)
            if size > _SCRATCH and worker.usable:
                reason = f"wrote more than {_SCRATCH // 2**20} MiB into its scratch, or what can't be counted"
                self._excess(worker, "scratch", reason)


def machine_memory() -> int:
    """Bytes that this machine, or the control group that this process is in, may use."""
    total = _PAGE * os.sysconf("SC_PHYS_PAGES")
    for place in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            total = min(total, int(Path(place).read_text("ascii")))
    return total


def largest_over(workers: Iterable[int], *, each: int, together: int) -> tuple[int, str] | None:
    """The worker to end now, and the limit that is passed: one that uses more than ``each`` bytes with its
    children, or the largest where all of them use more than ``together``. A worker is the leader of the
    process group that its children stay in."""
    groups = _groups(frozenset(workers))
    resident = {leader: sum(map(_resident, pids)) for leader, pids in groups.items()}
    if all(size <= each for size in resident.values()) and sum(resident.values()) <= together:
        return None
    exact = {leader: sum(map(_proportional, pids)) for leader, pids in groups.items()}
    if not exact:
        return None
    largest = max(exact, key=lambda leader: exact[leader])
    if exact[largest] > each:
        return largest, f"used more than {each // 2**20} MiB (memory_limit)"
    if sum(exact.values()) > together:
        return largest, f"used the most when all runs together passed {together // 2**20} MiB"
    return None


def processor_ticks(pid: int) -> int:
    """Processor time that a process has used, in ticks; 0 for one that is gone."""
    fields = _stat(pid)
    return int(fields[11]) + int(fields[12]) if fields else 0


def _groups(leaders: frozenset[int]) -> dict[int, list[int]]:
    """The processes of each group, by its leader."""
    groups: dict[int, list[int]] = {leader: [leader] for leader in leaders}
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) not in leaders:
            fields = _stat(int(name))
            if fields and int(fields[2]) in leaders:
                groups[int(fields[2])].append(int(name))
    return groups


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` behind the program's name: state, parent, group and so on."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace").rpartition(")")[2].split()
    return []


def _resident(pid: int) -> int:
    with suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * _PAGE
    return 0


def _proportional(pid: int) -> int:
    """Each page divided by the number of processes that share it; what is resident where that isn't told."""
    with suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return _resident(pid)
