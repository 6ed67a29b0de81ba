"""Bundles written by hand, and runs of their UDFs in this process."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tileserver import signature
from tileserver.protocol import Bundle, Encoded, Job, Source
from tileserver.worker.runner import run_job
from tileserver.worker.sources import enter_bundle


def bundle(
    folder: Path,
    files: Mapping[str, str],
    *,
    modules: Mapping[str, Mapping[str, str]] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Bundle:
    """A bundle of ``NAME.py`` files: those with a decorated function are UDFs, the others their modules.

    ``modules`` gives a UDF other modules than these: its name to (import name to path).
    """
    texts = {path: textwrap.dedent(text).removeprefix("\n") for path, text in files.items()}
    plain = {path[:-3]: path for path, text in texts.items() if "@fused.udf" not in text}
    udfs = {}
    for path, text in texts.items():
        if "@fused.udf" in text:
            udfs[path[:-3]] = _source(path, text, (modules or {}).get(path[:-3], plain))
    digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()
    return Bundle(digest, "canvas", "canvas", str(folder), texts, udfs, environment or {})


def _source(path: str, text: str, modules: Mapping[str, str]) -> Source:
    try:
        found = signature.read(text)
    except signature.BrokenSource:
        return Source(path, None, modules, {})
    return Source(path, found.entry, modules, found.defaults)


def job(canvas: Bundle, udf: str = "hello", **facts: Any) -> Job:
    """A job for a UDF; ``facts`` are fields of the job, or arguments by name."""
    names = {"formats", "tile", "options", "headers", "recursion"}
    fields = {"formats": ("json",), **{name: facts.pop(name) for name in names & facts.keys()}}
    return Job("canvas", canvas.id, udf, facts, default="data", **fields)


def run(canvas: Bundle, udf: str = "hello", **facts: Any) -> Encoded:
    """Enter the bundle, as a worker does, and run a job."""
    enter_bundle(canvas)
    return run_job(job(canvas, udf, **facts), canvas)


def value(canvas: Bundle, udf: str = "hello", **facts: Any) -> Any:
    """What a UDF returns, by way of JSON."""
    return json.loads(run(canvas, udf, **facts).body)


@pytest.fixture
def worker_process(tmp_path: Path) -> Iterator[None]:
    """Lets this process play a worker: what a run does to folder, environment and imports is undone."""
    folder, environment, finders = os.getcwd(), dict(os.environ), list(sys.meta_path)
    os.environ.setdefault("TILESERVER_UDF_CACHE", str(tmp_path / "udf-cache"))
    yield
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.meta_path[:] = finders
    for name in [name for name in sys.modules if name == "fused" or name.startswith("fused.")]:
        del sys.modules[name]
