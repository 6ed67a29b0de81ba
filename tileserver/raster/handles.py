"""Raster files that stay open from one run of a process to the next, as many as are worth it.

GDAL's handles belong to a thread, so each has its own. A local file is opened anew as soon as its size or its
time has changed, or those of a file that it is made of; anything else after a minute. Whatever is open ends
with the thread or the process; one that is forked opens its own.
"""

from __future__ import annotations

import math
import os
import re
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning

from tileserver.raster.positions import Source

_KEPT: Final = 24  # for each thread, overviews counted
_REMOTE_SECONDS: Final = 60.0
# What GDAL's manual recommends for files behind HTTP, unless the environment says otherwise.
_REMOTE: Final = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MULTIPLEX": "YES",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
    # Else GDAL would give what it remembers of a file that is opened anew.
    "CPL_VSIL_CURL_NON_CACHED": "/vsi",
}
_MOST_FILES: Final = 256  # that are looked at each time
# What names a part of a file to a driver: NETCDF:file.nc:variable.
_PART: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]+:", re.ASCII)
_NEARLY: Final = 1.05  # an overview may be this much coarser than what is asked for


class Stamp(NamedTuple):
    """Of which state of its files a handle is, and until when that counts (monotonic seconds)."""

    files: tuple[tuple[str, tuple[int, ...] | None], ...]
    until: float


@dataclass(frozen=True, eq=False)
class Handle:
    """An open file, or one of its overviews, and what reading asks of it every time.

    ``source`` is None where the file has no affine transform or no CRS: control points, say. ``nodata`` has
    the value of each of the file's bands; ``masked`` says that there are masks, ``apart`` that each band has
    its own; ``alpha`` is the number of the band that is one (from 1).
    """

    dataset: Any
    width: int
    height: int
    source: Source | None
    bands: tuple[int, ...]
    nodata: tuple[float | None, ...]
    masked: bool
    apart: bool
    alpha: int | None
    factors: tuple[int, ...]
    stamp: Stamp


class _Handles(threading.local):
    def __init__(self) -> None:
        self.opened: OrderedDict[tuple[str, int | None], Handle] = OrderedDict()


_handles = _Handles()
_parents: Final[list[object]] = []  # never closed here: that would move the parent's place in its files, too


def _forget_parents() -> None:
    _parents.append(_handles.opened)
    _handles.opened = OrderedDict()


os.register_at_fork(after_in_child=_forget_parents)


def opened(path: str | os.PathLike[str]) -> tuple[str, Handle]:
    """The file at a path or an address, and the name under which it stays open.

    :raises rasterio.errors.RasterioIOError: when it can't be read as a raster.
    """
    name = os.fspath(path)
    local = is_local(name)
    if local and (not _PART.match(name) or os.path.exists(name)):  # noqa: PTH110  # as below
        name = os.path.abspath(name)  # noqa: PTH100  # resolve() asks the disk about every folder
    kept = _handles.opened.get((name, None))
    if kept is not None and _is_current(kept.stamp):
        _handles.opened.move_to_end((name, None))
        return name, kept
    close(name)
    own = [name, f"{name}.ovr", f"{name}.msk", f"{name}.aux.xml"] if local else []
    return name, _keep(name, None, Stamp(_states(own), math.inf if local else _in_a_minute()))


def overview(name: str, handle: Handle, step: float) -> Handle:
    """The coarsest overview that still has a pixel for each that is ``step`` of the file's wide; else the
    file itself."""
    levels = [level for level, factor in enumerate(handle.factors) if factor <= step * _NEARLY]
    if not levels:
        return handle
    level = max(levels, key=lambda level: handle.factors[level])
    kept = _handles.opened.get((name, level))
    if kept is None or kept.stamp is not handle.stamp:
        return _keep(name, level, handle.stamp)
    _handles.opened.move_to_end((name, level))
    return kept


def close(name: str | None = None) -> None:
    """Close this thread's handles of a file, or all of them."""
    for key in [key for key in _handles.opened if name in (None, key[0])]:
        _handles.opened.pop(key).dataset.close()


def dtype(handle: Handle, bands: Iterable[int]) -> np.dtype[Any]:
    """That of an array of these bands. Complex whole numbers, which numpy doesn't have, are read as complex
    ones."""
    names = (handle.dataset.dtypes[number - 1] for number in bands)
    return np.result_type(*("complex64" if name == "complex_int16" else name for name in names))


def is_local(name: str) -> bool:
    """Whether a name is a path of this machine rather than an address."""
    return "://" not in name and not name.startswith("/vsi")


def environment(name: str) -> AbstractContextManager[Any]:
    """GDAL's options for reading under this name."""
    if is_local(name):
        return nullcontext()
    wanted = {**_REMOTE, **(_endpoint() if name.startswith(("s3://", "/vsis3/")) else {})}
    options: AbstractContextManager[Any] = rasterio.Env(
        **{key: value for key, value in wanted.items() if key not in os.environ}
    )
    return options


def _endpoint() -> dict[str, str]:
    """An object store of one's own, of which AWS's libraries are told by a variable, in GDAL's words."""
    parts = urlsplit(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", ""))
    if not parts.netloc:
        return {}
    secure = "YES" if parts.scheme == "https" else "NO"
    return {"AWS_S3_ENDPOINT": parts.netloc, "AWS_HTTPS": secure, "AWS_VIRTUAL_HOSTING": "FALSE"}


def _keep(name: str, level: int | None, stamp: Stamp) -> Handle:
    options: Mapping[str, Any] = {} if level is None else {"OVERVIEW_LEVEL": level}
    with environment(name), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        dataset = rasterio.open(name, **options)
        handle = _handle(dataset, stamp if level is not None else _with_parts(stamp, dataset))
    _handles.opened[name, level] = handle
    while len(_handles.opened) > _KEPT:
        _handles.opened.popitem(last=False)[1].dataset.close()
    return handle


def _handle(dataset: Any, stamp: Stamp) -> Handle:
    alpha = next((n for n, kind in enumerate(dataset.colorinterp, 1) if kind is ColorInterp.alpha), None)
    bands = tuple(n for n in dataset.indexes if n != alpha) or tuple(dataset.indexes)
    flags = dataset.mask_flag_enums[bands[0] - 1]
    # A file with control points says where it lies by them alone.
    placed = dataset.crs is not None and not dataset.transform.is_identity
    placed = placed or (dataset.crs is not None and not dataset.gcps[0] and dataset.rpcs is None)
    return Handle(
        dataset,
        dataset.width,
        dataset.height,
        Source(_text(dataset.crs), dataset.transform, dataset.width, dataset.height) if placed else None,
        bands,
        tuple(dataset.nodatavals),
        not flags or (MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags),
        not flags,
        alpha,
        tuple(dataset.overviews(bands[0])),
        stamp,
    )


def _text(crs: Any) -> str:
    code = crs.to_epsg()
    return str(crs.to_wkt()) if code is None else f"EPSG:{code}"


def _with_parts(stamp: Stamp, dataset: Any) -> Stamp:
    """The stamp of a local file with those of the files that it is made of: of a mosaic, say."""
    if not stamp.files:
        return stamp
    known = {path for path, _ in stamp.files}
    parts = [path for path in dataset.files if path not in known]
    files = (*stamp.files, *_states(parts[:_MOST_FILES]))
    complete = len(parts) <= _MOST_FILES and all(is_local(path) for path in parts)
    complete = complete and any(state is not None for _, state in files)
    return Stamp(files, stamp.until if complete else _in_a_minute())


def _states(paths: Iterable[str]) -> tuple[tuple[str, tuple[int, ...] | None], ...]:
    """Times, size and identity of each file; None where there is none."""
    return tuple((path, _state(path)) for path in paths)


def _state(path: str) -> tuple[int, ...] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)


def _in_a_minute() -> float:
    return time.monotonic() + _REMOTE_SECONDS


def _is_current(stamp: Stamp) -> bool:
    return time.monotonic() < stamp.until and all(_state(path) == state for path, state in stamp.files)
