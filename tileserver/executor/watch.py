"""How much memory and disk the workers use, as the kernel counts it, and which of them has to go.

Resident pages are cheap to read but count shared ones for each process, and forked workers share most of
theirs. So the proportional share is asked for only where the cheap sum passes a limit.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")

SCRATCH_LIMIT: Final = 2 * 2**30  # bytes, for one worker


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


def folder_size(folder: Path) -> int:
    """Bytes that the files of a folder take, counted until they are too many to matter."""
    total = count = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_blocks * 512
            count += 1
            if total > SCRATCH_LIMIT or count > 100_000:
                return SCRATCH_LIMIT + 1
    return total


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
