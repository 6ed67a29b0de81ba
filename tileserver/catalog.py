"""The canvases of a workspace, and whether they have changed.

A canvas is read into an immutable ``Canvas`` (see ``canvas.py``) and read again when its files or secrets
have changed: that is looked at twice a second at most, and for the UDF asked for at every request. While
requests keep coming, none of them waits for a look.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from tileserver.canvas import CANVAS_NAME, Canvas, Secrets, has_udf, read_canvas
from tileserver.errors import UnknownUdf
from tileserver.protocol import Bundle
from tileserver.udf import Udf

_LOOK_EVERY: Final = 0.5  # seconds
_GLANCE_EVERY: Final = 0.005  # seconds between looks at one file, while requests keep coming
_WAIT_FROM: Final = 0.8  # seconds since the last look from which a request waits for the next one


class Found(NamedTuple):
    """A UDF, the extension that the asked name had, and what a worker needs to run it."""

    udf: Udf
    extension: str | None
    bundle: Bundle


class Catalog:
    """The canvases of a workspace. ``secrets_of`` gives a canvas's secrets, and is called from any thread."""

    def __init__(
        self,
        workspace: Path,
        secrets_of: Callable[[str], Secrets] = lambda _: Secrets(),
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._workspace = workspace
        self._clock = clock
        self._secrets_of = secrets_of
        self._names: tuple[list[str], float] = ([], float("-inf"))
        self._canvases: dict[str, tuple[Canvas, float]] = {}
        self._reading: dict[str, asyncio.Task[Canvas]] = {}
        self._seen: dict[tuple[str, str], float] = {}  # when a UDF's file was last seen unchanged

    def names(self) -> list[str]:
        """Canvases of the workspace: folders with a ``canvas.toml`` or a UDF."""
        try:
            entries = sorted(os.scandir(self._workspace), key=lambda entry: entry.name)
        except OSError:
            return []
        return [entry.name for entry in entries if self.has(entry.name)]

    def has(self, name: str) -> bool:
        """Whether there is a canvas of this name now."""
        folder = self._workspace / name
        if not CANVAS_NAME.fullmatch(name) or not folder.is_dir():
            return False
        return (folder / "canvas.toml").is_file() or has_udf(folder)

    def load(self, name: str) -> Canvas:
        """Read a canvas now.

        :raises UnknownUdf: when the workspace has no such canvas.
        """
        if not self.has(name):
            self._canvases.pop(name, None)
            raise UnknownUdf(f"the workspace has no canvas called {name!r}")
        started = self._clock()
        known = self._canvases.get(name)
        if known is None:
            self._names = ([], float("-inf"))  # it is new, so what ``canvases`` remembers is too old
        canvas = read_canvas(self._workspace / name, self._secrets_of(name), known[0] if known else None)
        current = self._canvases.get(name)
        if current is None or current[1] <= started:
            self._canvases[name] = (canvas, started)
        return canvas

    async def canvas(self, name: str) -> Canvas:
        """A canvas as it was less than a second ago.

        :raises UnknownUdf: when the workspace has no such canvas.
        """
        known = self._canvases.get(name)
        if known is None:
            return await self._refreshed(name)
        age = self._clock() - known[1]
        if age >= _WAIT_FROM:
            return await self._refreshed(name)
        if age >= _LOOK_EVERY:
            self._look(name)
        return known[0]

    def known(self, name: str) -> Canvas | None:
        """A canvas as it was when it was last read."""
        known = self._canvases.get(name)
        return None if known is None else known[0]

    def holds(self, canvas: Canvas, udf: str) -> bool:
        """Whether ``resolve`` would still find this UDF in what was read as ``canvas``, without waiting. Its
        file is looked at every few milliseconds."""
        known = self._canvases.get(canvas.name)
        now = self._clock()
        if known is None or known[0] is not canvas or now - known[1] >= _WAIT_FROM:
            return False
        if now - known[1] >= _LOOK_EVERY:
            self._look(canvas.name)
        key = (canvas.name, udf)
        if now - self._seen.get(key, float("-inf")) < _GLANCE_EVERY:
            return True
        unchanged = canvas.unchanged(udf)
        self._seen[key] = now if unchanged else float("-inf")
        return unchanged

    async def canvases(self) -> list[Canvas]:
        """All canvases by name, as they were less than a second ago."""
        if self._clock() - self._names[1] >= _LOOK_EVERY:
            self._names = (await asyncio.to_thread(self.names), self._clock())
        found = []
        for name in self._names[0]:
            with suppress(UnknownUdf):  # gone since
                found.append(await self.canvas(name))
        return found

    async def resolve(self, canvas: str, name: str) -> Found:
        """The UDF of a URL's name as its file is now.

        :raises UnknownUdf: see ``Canvas.find`` for this and the others.
        :raises UnknownFormat: for an unknown extension.
        :raises UdfError: for a broken source.
        """
        current = await self.canvas(canvas)
        for _ in range(2):  # a look that was under way may have come before the change
            if current.unchanged(name):
                break
            current = await self._refreshed(canvas)
        return Found(*current.find(name), current.bundle)

    async def _refreshed(self, name: str) -> Canvas:
        return await asyncio.shield(self._look(name))

    def _look(self, name: str) -> asyncio.Task[Canvas]:
        """Read a canvas again in a thread, once for all who ask meanwhile."""
        reading = self._reading.get(name)
        if reading is None:
            reading = asyncio.create_task(asyncio.to_thread(self.load, name))
            self._reading[name] = reading
            reading.add_done_callback(lambda done: self._looked(name, done))
        return reading

    def _looked(self, name: str, reading: asyncio.Task[Canvas]) -> None:
        del self._reading[name]
        if not reading.cancelled():
            reading.exception()  # it has been told to those who waited; nobody may have
