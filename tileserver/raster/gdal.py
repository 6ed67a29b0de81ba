"""GDAL's own warper, for what the arithmetic of this package leaves to it: other kernels, and files that are
placed by control points."""

from __future__ import annotations

from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.warp import calculate_default_transform, reproject

from tileserver.raster import handles
from tileserver.raster.handles import Handle
from tileserver.raster.positions import MERCATOR, Grid
from tileserver.tiles import Bounds

Flags = NDArray[np.bool_]


def north_up(bounds: Bounds, width: int, height: int) -> Affine:
    """The affine transform from pixels to coordinates, north up."""
    west, south, east, north = bounds
    return Affine((east - west) / width, 0.0, west, 0.0, (south - north) / height, north)


def warped(
    bands: NDArray[Any],
    hidden: Flags | None,
    *,
    place: tuple[Affine, str],
    target: tuple[Bounds, str],
    shape: tuple[int, int],
    resampling: str,
) -> tuple[NDArray[Any], Flags | None]:
    """``bands`` (bands, height, width), placed by a transform and a CRS, on the grid of ``target`` bounds
    with the (height, width) of ``shape``; and what is hidden there.

    What is visible goes along as an alpha band, so that hidden values never bleed. Half covered counts as
    covered: a soft edge would be a second, invented alpha.
    """
    kind = bands.dtype
    if kind.kind == "c":
        options: Any = {"place": place, "target": target, "shape": shape, "resampling": resampling}
        (real, unseen), (imaginary, _) = (warped(one, hidden, **options) for one in (bands.real, bands.imag))
        return (real + 1j * imaginary).astype(kind, copy=False), unseen
    work = np.dtype(np.uint8 if kind == np.uint8 else np.float64 if kind.itemsize > 2 else np.float32)
    count = len(bands)
    source = np.full((count + 1, *bands.shape[1:]), 255, work)
    source[:count] = bands
    if hidden is not None:
        source[:, hidden] = 0
    result = np.zeros((count + 1, *shape), work)
    reproject(
        source,
        result,
        src_transform=place[0],
        src_crs=place[1],
        dst_transform=north_up(target[0], shape[1], shape[0]),
        dst_crs=target[1],
        resampling=Resampling[resampling],
        src_alpha=count + 1,
        dst_alpha=count + 1,
        tolerance=0.01,
        SRC_ALPHA_MAX=255,
        DST_ALPHA_MAX=255,
    )
    unseen = result[count] < 127.5
    return _as_type(result[:count], kind), unseen if unseen.any() else None


def warped_file(
    name: str, handle: Handle, grid: Grid, *, bands: tuple[int, ...], nodata: float | None, resampling: str
) -> tuple[NDArray[Any], Flags]:
    """``bands`` of a file with control points or rational polynomials on a grid, of the overview that fits,
    and what is hidden, (1 or bands, height, width).

    :raises ValueError: when it has neither.
    """
    place = _points(handle)
    own, _, _ = calculate_default_transform(
        place.pop("src_crs"), MERCATOR, handle.width, handle.height, **{k: v for k, v in place.items() if v}
    )
    level = handles.overview(name, handle, (grid.bounds[2] - grid.bounds[0]) / grid.width / own.a)
    result = np.zeros((len(bands) + 1, grid.height, grid.width), handles.dtype(level, bands))
    read = bands if level.alpha is None else (*bands, level.alpha)
    nodata = level.nodata[bands[0] - 1] if nodata is None else nodata
    reproject(
        rasterio.band(level.dataset, read),
        result,
        **_points(level),
        dst_transform=north_up(grid.bounds, grid.width, grid.height),
        dst_crs=MERCATOR,
        resampling=Resampling[resampling],
        src_alpha=0 if level.alpha is None else len(read),
        dst_alpha=len(bands) + 1,
        src_nodata=nodata,
        tolerance=0.01,
    )
    hidden: Flags = result[-1:] == 0
    values = result[:-1]
    return values, hidden | np.isnan(values) if values.dtype.kind in "fc" else hidden


def _points(handle: Handle) -> dict[str, Any]:
    """What places a file without a transform, as rasterio takes it."""
    points, crs = handle.dataset.gcps
    if points:
        return {"src_crs": crs, "gcps": points}
    if handle.dataset.rpcs is not None:
        return {"src_crs": "EPSG:4326", "rpcs": handle.dataset.rpcs}
    raise ValueError(f"{handle.dataset.name} does not say where it lies: it has no CRS and no control points")


def _as_type(values: NDArray[Any], kind: np.dtype[Any]) -> NDArray[Any]:
    if kind == values.dtype or kind.kind == "f":
        return values.astype(kind, copy=False)
    if kind.kind == "b":
        return np.asarray(values >= 0.5)
    info = np.iinfo(kind)
    # Cubic methods overshoot; 64-bit limits aren't floats, hence the step below the upper one.
    high = np.nextafter(float(info.max), 0) if kind.itemsize == 8 else info.max
    result: NDArray[Any] = np.clip(np.rint(values), info.min, high).astype(kind)
    return result
