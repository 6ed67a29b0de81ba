"""Raster files that stay open from one run of a process to the next, as many as are worth it.

GDAL's handles belong to a thread, so each has its own. A local file is opened anew as soon as its size or its
time has changed, anything else after a minute. Whatever is open ends with the thread or the process.
"""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Final

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
}
_NEARLY: Final = 1.05  # an overview may be this much coarser than what is asked for


@dataclass(frozen=True, eq=False)
class Handle:
    """An open file, or one of its overviews, and what reading asks of it every time.

    ``source`` is None where the file has no affine transform or no CRS: control points, say. ``nodata`` is
    the bands' own value; ``masked`` says that there is a mask of the whole file, ``alpha`` the number of the
    band that is one (from 1).
    """

    dataset: Any
    width: int
    height: int
    source: Source | None
    bands: tuple[int, ...]
    nodata: float | None
    masked: bool
    alpha: int | None
    factors: tuple[int, ...]
    stamp: object


class _Handles(threading.local):
    def __init__(self) -> None:
        self.opened: OrderedDict[tuple[str, int | None], Handle] = OrderedDict()


_handles = _Handles()


def opened(path: str | os.PathLike[str]) -> tuple[str, Handle]:
    """The file at a path or an address, and the name under which it stays open.

    :raises rasterio.errors.RasterioIOError: when it can't be read as a raster.
    """
    name = os.fspath(path)
    local = is_local(name)
    if local:
        name = os.path.abspath(name)  # noqa: PTH100  # resolve() asks the disk about every folder
    kept = _handles.opened.get((name, None))
    if kept is not None and _is_current(kept.stamp):
        _handles.opened.move_to_end((name, None))
        return name, kept
    close(name)
    return name, _keep(name, None, _stamp(name) if local else time.monotonic())


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


def is_local(name: str) -> bool:
    """Whether a name is a path of this machine rather than an address."""
    return "://" not in name and not name.startswith("/vsi")


def environment(name: str) -> AbstractContextManager[Any]:
    """GDAL's options for reading under this name."""
    if is_local(name):
        return nullcontext()
    options: AbstractContextManager[Any] = rasterio.Env(
        **{key: value for key, value in _REMOTE.items() if key not in os.environ}
    )
    return options


def _keep(name: str, level: int | None, stamp: object) -> Handle:
    options: Mapping[str, Any] = {} if level is None else {"OVERVIEW_LEVEL": level}
    with environment(name), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        handle = _handle(rasterio.open(name, **options), stamp)
    _handles.opened[name, level] = handle
    while len(_handles.opened) > _KEPT:
        _handles.opened.popitem(last=False)[1].dataset.close()
    return handle


def _handle(dataset: Any, stamp: object) -> Handle:
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
        dataset.nodata,
        MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags,
        alpha,
        tuple(dataset.overviews(bands[0])),
        stamp,
    )


def _text(crs: Any) -> str:
    code = crs.to_epsg()
    return str(crs.to_wkt()) if code is None else f"EPSG:{code}"


def _stamp(name: str) -> tuple[tuple[str, int, int, int], ...]:
    """Size and time of the file, and of what GDAL reads beside it."""
    found = []
    for path in (name, f"{name}.ovr", f"{name}.msk", f"{name}.aux.xml"):
        try:
            status = os.stat(path)
        except OSError:
            continue
        found.append((path, status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(found)


def _is_current(stamp: object) -> bool:
    if isinstance(stamp, tuple):
        return bool(stamp) and stamp == _stamp(stamp[0][0])
    return isinstance(stamp, float) and time.monotonic() - stamp < _REMOTE_SECONDS
