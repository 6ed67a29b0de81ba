"""The zygote and its children: the only processes that run UDF code.

The zygote imports the heavy libraries once, runs nobody's code, opens no dataset and starts no thread;
told to, it forks a child in about 20 ms. A child reads frames (how it is confined, a bundle, then runs),
answers each run with one frame, and leaves its standard output and error to pipes that the server drains.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Mapping
from types import FrameType
from typing import Any, NoReturn, TextIO

from tileserver.errors import TileServerError, UnsupportedOutput, describe
from tileserver.protocol import Bundle, Encoded, Job
from tileserver.sandbox import Plan, confine
from tileserver.sandbox.system import PR_SET_PDEATHSIG, prctl
from tileserver.worker.leftovers import Leftovers
from tileserver.worker.nested import Line, connect

# Imported before the first fork, so that children share their pages. Only importing is safe here.
_PRELOADED = (
    *("numpy", "numpy.ma", "pandas", "geopandas", "shapely", "pyproj", "pyarrow", "pyarrow.parquet"),
    *("pyogrio", "rasterio", "rasterio.warp", "rasterio.io", "rio_tiler.io", "rio_tiler.colormap"),
    *("xarray", "rioxarray", "PIL.Image", "mercantile", "encodings.idna"),
    *(
        "tileserver.worker.runner",
        "tileserver.worker.sources",
        "tileserver.render.raster",
        "tileserver.raster",
    ),
    *("tileserver.render.drawing", "tileserver.render.table", "tileserver.render.vector_tile"),
    *("tileserver.render.document", "tileserver.render.classify"),
)
CONFINEMENT_FAILED = 71  # exit status of a worker that could not be confined


def main() -> None:
    """Import, then fork a child for each message until the server closes the control socket.

    ``argv``: the descriptor of the control socket and the pool's limits as JSON.
    """
    control = socket.socket(fileno=int(sys.argv[1]))
    limits = json.loads(sys.argv[2])
    for name in _PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    _Zygote(control, limits).serve()


class _Zygote:
    def __init__(self, control: socket.socket, limits: dict[str, Any]) -> None:
        self.control = control
        self.limits = limits
        self.children: set[int] = set()

    def serve(self) -> NoReturn:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        # Nothing is done in a handler, which could interrupt itself: a signal only wakes the loop.
        self.woken, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._tell({"ready": os.getpid()})
        poll = select.poll()
        for descriptor in (self.control.fileno(), self.woken):
            poll.register(descriptor, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self.woken in ready:
                os.read(self.woken, 4096)
                self._reap()
            if self.control.fileno() in ready and not self._listen():
                self._end()

    def _listen(self) -> bool:
        """Do what one message says; False when there will be no more."""
        try:
            text, descriptors, _, _ = socket.recv_fds(self.control, 4096, 3)
        except ConnectionResetError:  # the server has ended with something unread
            return False
        if not text:
            return False
        message = json.loads(text)
        if "fork" in message:
            self._fork(message["fork"], *descriptors)
        elif message.get("kill") in self.children:
            _kill_group(message["kill"])
        return True

    def _fork(self, ticket: int, channel: int, output: int, error_output: int) -> None:
        try:
            pid = os.fork()
        except OSError as error:  # the machine is full; that must not be the end of those that run
            for descriptor in (channel, output, error_output):
                os.close(descriptor)
            self._tell({"failed": ticket, "reason": str(error)})
            return
        if pid == 0:
            os.close(signal.set_wakeup_fd(-1))
            os.close(self.woken)
            self.control.close()
            _become_child(channel, output, error_output, self.limits)
        self.children.add(pid)
        for descriptor in (channel, output, error_output):
            os.close(descriptor)
        self._tell({"forked": ticket, "pid": pid})

    def _reap(self) -> None:
        for pid in tuple(self.children):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            _kill_group(
                pid
            )  # what the child itself started and left behind, while the number is still its own
            _, status = os.waitpid(pid, 0)
            self.children.discard(pid)
            self._tell({"exited": pid, "status": os.waitstatus_to_exitcode(status)})

    def _tell(self, message: dict[str, Any]) -> None:
        try:
            self.control.send(json.dumps(message).encode())
        except OSError:
            self._end()

    def _end(self) -> NoReturn:
        """The server is gone, and all that runs goes with it; only workers themselves would by their death
        signal."""
        for pid in self.children:
            _kill_group(pid)
        for pid in self.children:  # once this process has ended, nothing is left of them
            os.waitpid(pid, 0)
        os._exit(0)  # taking so many libraries apart in order would keep the server waiting


def _kill_group(pid: int) -> None:
    for kill in (os.killpg, os.kill):
        try:
            kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue


def _become_child(channel: int, output: int, error: int, limits: dict[str, Any]) -> NoReturn:
    """Never returns: whatever happens, a child must not go on as a second zygote."""
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        os.dup2(output, 1)
        os.dup2(error, 2)
        os.close(output)
        os.close(error)
        sys.stdout, sys.stderr = _text_stream(1), _text_stream(2)
        _Child(socket.socket(fileno=channel), limits).serve()
    except BaseException:  # whatever it is, it belongs into this run's log, not into the zygote
        traceback.print_exc()
    os._exit(70)


def _text_stream(descriptor: int) -> TextIO:
    """A stream of its own for a pipe: the inherited one knows what the descriptor was before."""
    return open(descriptor, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


class _Child:
    def __init__(self, channel: socket.socket, limits: dict[str, Any]) -> None:
        self.line = Line(channel)
        connect(self.line)
        self.output_limit = int(limits["output_limit"])
        self.cache_root = str(limits["udf_cache"])
        self.bundle: Bundle | None = None
        self.leftovers = Leftovers(None)
        self.running = False

    def serve(self) -> None:
        signal.signal(signal.SIGINT, self._interrupted)
        while True:
            header, body = self.line.receive()
            if header["type"] == "confine":
                self._confine(Plan.from_json(json.loads(body)))
            elif header["type"] == "bundle":
                self._enter(Bundle.from_json(json.loads(body)))
            else:
                number = {"number": header["number"]}
                self.line.send({"type": "begun", **number})
                answer, content = self._answer(Job.from_json(json.loads(body)))
                self.line.send({**answer, **number}, content)

    def _confine(self, plan: Plan) -> None:
        """Before anybody's code has run in this process."""
        os.environ.update(plan.environment)
        try:
            confine(plan)
        except OSError as error:
            sys.stderr.write(f"{error}\n")
            sys.stderr.flush()
            os._exit(CONFINEMENT_FAILED)
        self.leftovers = Leftovers(plan.memory)

    def _enter(self, bundle: Bundle) -> None:
        from tileserver.worker.sources import enter_bundle

        os.environ["TILESERVER_UDF_CACHE"] = os.path.join(self.cache_root, bundle.owner)
        enter_bundle(bundle)
        self.bundle = bundle

    def _answer(self, job: Job) -> tuple[dict[str, Any], bytes]:
        from tileserver.worker.runner import run_job

        assert self.bundle is not None, "a run came before its bundle"
        # A run may have put something of its own in the place of the handler.
        signal.signal(signal.SIGINT, self._interrupted)
        try:
            self.running = True
            encoded = self._within_limit(run_job(job, self.bundle))
        except TileServerError as error:
            self.running = False
            facts = describe(error)
            return {"type": "failure", **facts, "retire": self._reason_to_retire(facts)}, b""
        self.running = False
        header = {"type": "result", "media_type": encoded.media_type, "created": encoded.created}
        retire = self._reason_to_retire({})
        return {**header, "meta": dict(encoded.meta), "retire": retire}, encoded.body

    def _reason_to_retire(self, failure: Mapping[str, Any]) -> str | None:
        if failure.get("exception_class") == "MemoryError":
            return "memory"
        return self.leftovers.found()

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        """Nobody waits for the run any more: it may end by itself and leave a warm worker behind."""
        if self.running:
            raise KeyboardInterrupt

    def _within_limit(self, encoded: Encoded) -> Encoded:
        if len(encoded.body) > self.output_limit:
            raise UnsupportedOutput(
                f"Result serialization failed: {len(encoded.body)} bytes of {encoded.media_type} are over"
                f" the limit of {self.output_limit} (output_limit)"
            )
        return encoded


if __name__ == "__main__":
    main()
