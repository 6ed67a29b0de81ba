"""Lines of requests: written behind, in order, none lost."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Sequence

import pytest

from tileserver import requestlog
from tileserver.requestlog import About, Line, RequestLog


class Written:
    """What a log has written; waits for ``gate`` before it takes anything."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.dropped = 0
        self.threads: set[str] = set()
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, lines: Sequence[Line], dropped: int) -> None:
        self.gate.wait(10)
        self.threads.add(threading.current_thread().name)
        self.lines.extend(lines)
        self.dropped += dropped


def test_lines_keep_their_order_and_none_is_lost() -> None:
    """Whatever was noted before the end is there after it, written by another thread."""
    written = Written()
    log = RequestLog(written)
    for number in range(20_000):
        log.note(About({"route": "tile"}), 200, "hit", 1.5, str(number))
    log.close()

    assert [line.id for line in written.lines] == [str(number) for number in range(20_000)]
    assert "request-log" in written.threads


def test_a_log_that_was_closed_goes_on() -> None:
    """What ends after the log was written out is told, too."""
    written = Written()
    log = RequestLog(written)
    for number in range(3):
        log.note(About({}), 200, "hit", 1.5, str(number))
        log.close()

    assert [line.id for line in written.lines] == ["0", "1", "2"]


def test_a_slow_reader_costs_lines_and_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded; requests go on."""
    monkeypatch.setattr(requestlog, "_MOST", 10)
    written = Written()
    written.gate.clear()
    log = RequestLog(written)
    for number in range(100):
        log.note(About({}), 200, "hit", 1.5, str(number))
    written.gate.set()
    log.close()

    assert len(written.lines) + written.dropped == 100
    assert written.dropped >= 80


def test_a_log_that_nobody_reads_stops_nothing() -> None:
    """Lines that could not be written are counted, and told of as soon as there is a reader again."""
    written = Written()
    trouble: list[Exception] = [BrokenPipeError(), ValueError("closed file")]

    def write(lines: Sequence[Line], dropped: int) -> None:
        if trouble:
            raise trouble.pop()
        written(lines, dropped)

    log = RequestLog(write)
    for number in range(3):
        log.note(About({}), 200, "hit", 1.5, str(number))
        log.close()

    assert written.lines[-1].id == "2"
    assert len(written.lines) + written.dropped == 3
    assert written.dropped > 0


PROGRAM = """
import sys
from tileserver.requestlog import About, RequestLog
from tileserver.telemetry import configure_logging, write_requests
configure_logging(sys.argv[1])
log = RequestLog(write_requests)
for number in range(1000):
    log.note(About({"route": "tile", "udf": "a b"}), 200, "hit", 1.5, str(number))
"""


@pytest.mark.parametrize("form", ["json", "text"])
def test_a_program_that_ends_has_written_its_lines(form: str) -> None:
    """At a normal end, without being asked to; in the form of all other lines."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, form], capture_output=True, text=True, check=True)
    lines = done.stderr.splitlines()

    assert len(lines) == 1000
    if form == "json":
        first = json.loads(lines[0])
        assert list(first) == ["time", "level", "event", "route", "udf", "status", "cache", "ms", "id"]
    else:
        assert lines[-1][8:] == ' info request route=tile udf="a b" status=200 cache=hit ms=1.50 id=999'
