"""An xarray object as bands, bounds and a coordinate reference system.

Coordinates are pixel centres; CF grid mappings (what rioxarray, odc-stac and stackstac leave behind) name
the CRS, and longitudes and latitudes without one are EPSG:4326. The first row is made the northern one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tileserver.tiles import Bounds

_X = frozenset({"x", "lon", "longitude", "easting"})
_Y = frozenset({"y", "lat", "latitude", "northing"})
_DEGREES = frozenset({"lon", "longitude", "lat", "latitude"})


class Grid(NamedTuple):
    """``bands`` (bands, height, width), north up; ``bounds`` in ``crs``, each None where unknown: there are
    coordinates of no known CRS."""

    bands: NDArray[Any]
    bounds: Bounds | None
    crs: str | None


def grid(array: Any) -> Grid | None:
    """A ``DataArray`` with two dimensions or more; None for one with fewer."""
    if array.ndim < 2:
        return None
    y, x = _spatial(array)
    array = array.transpose(..., y, x)
    for dimension in array.dims[:-2]:
        if array.ndim > 3:
            array = array.isel({dimension: 0})
    bounds, crs = _georeference(array, y, x)
    for axis, descending in ((y, True), (x, False)):
        if axis in array.coords and array.sizes[axis] > 1:
            values = array[axis].values
            if (values[0] > values[-1]) != descending:
                array = array.isel({axis: slice(None, None, -1)})
    bands = array.values
    return Grid(_masked(bands if bands.ndim == 3 else bands[None], array), bounds, crs)


def stacked(dataset: Any) -> Grid | None:
    """A ``Dataset`` as the bands of its variables that share the first one's grid; None if it has none.

    Each of several variables gives its first band only.
    """
    grids = [found for name in dataset.data_vars if (found := grid(dataset[name])) is not None]
    alike = [found for found in grids if found.bands.shape[1:] == grids[0].bands.shape[1:]]
    if len(alike) < 2:
        return alike[0] if alike else None
    bands: NDArray[Any] = np.ma.concatenate([found.bands[:1] for found in alike])  # type: ignore[no-untyped-call]  # numpy.ma
    return Grid(bands, alike[0].bounds, alike[0].crs)


def _spatial(array: Any) -> tuple[Any, Any]:
    """Names of the dimensions that run north-south and east-west; the last two where nothing says."""
    found = {"Y": array.dims[-2], "X": array.dims[-1]}
    for dimension in array.dims:
        axis = array[dimension].attrs.get("axis") if dimension in array.coords else None
        name = str(dimension).lower()
        if axis == "X" or name in _X:
            found["X"] = dimension
        elif axis == "Y" or name in _Y:
            found["Y"] = dimension
    if found["X"] == found["Y"]:
        return array.dims[-2], array.dims[-1]
    return found["Y"], found["X"]


def _georeference(array: Any, y: Any, x: Any) -> tuple[Bounds | None, str | None]:
    if x not in array.coords or y not in array.coords:
        return None, None
    crs = _crs(array)
    xs, ys = array[x].values, array[y].values
    if xs.dtype.kind not in "iuf" or ys.dtype.kind not in "iuf":
        return None, None
    if crs is None and _degrees(xs, ys, str(x), str(y)):
        crs = "EPSG:4326"
    west_east, south_north = _edges(xs, ys), _edges(ys, xs)
    if west_east is None or south_north is None:
        return None, None
    return (west_east[0], south_north[0], west_east[1], south_north[1]), crs


def _degrees(xs: NDArray[Any], ys: NDArray[Any], x: str, y: str) -> bool:
    """Whether coordinates without a CRS are longitudes and latitudes rather than pixel numbers."""
    if {x.lower(), y.lower()} <= _DEGREES:
        return True
    counted = any(
        v.dtype.kind in "iu" and v[0] == 0 and np.array_equal(v, np.arange(len(v))) for v in (xs, ys)
    )
    inside = np.abs(ys).max() <= 90 and xs.min() >= -180 and xs.max() <= 360
    return bool(inside) and not counted


def _edges(values: NDArray[Any], other: NDArray[Any]) -> tuple[float, float] | None:
    """Outer edges of pixels with these centres; a single pixel is taken to be square."""
    steps = values if len(values) > 1 else other
    if len(steps) < 2 or not np.isfinite(values).all():
        return None
    half = abs(float(steps[-1]) - float(steps[0])) / (len(steps) - 1) / 2
    low, high = sorted((float(values[0]), float(values[-1])))
    return (low - half, high + half) if half > 0 else None


def _crs(array: Any) -> str | None:
    """The CRS as EPSG:n or WKT, from the grid mapping, an ``epsg`` coordinate or a ``crs`` attribute."""
    named = array.encoding.get("grid_mapping") or array.attrs.get("grid_mapping") or "spatial_ref"
    said: list[Any] = []
    for name in (named, "spatial_ref", "crs"):
        if name in array.coords:
            attributes = array.coords[name].attrs
            said += [attributes.get("crs_wkt"), attributes.get("spatial_ref")]
    if "epsg" in array.coords and array.coords["epsg"].ndim == 0:
        said.append(int(array.coords["epsg"].item()))
    said.append(array.attrs.get("crs"))
    first = next((one for one in said if one), None)
    return None if first is None else _text(first)


def _text(crs: Any) -> str | None:
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        parsed = CRS.from_user_input(crs)
    except CRSError:
        return None
    code = parsed.to_epsg()
    return str(parsed.to_wkt()) if code is None else f"EPSG:{code}"


def _masked(bands: NDArray[Any], array: Any) -> NDArray[Any]:
    """``_FillValue`` or ``nodata`` among the attributes hides pixels; NaN needs no mask."""
    fill = array.attrs.get("_FillValue", array.attrs.get("nodata"))
    if fill is None or bands.dtype.kind not in "iuf" or np.isnan(fill):
        return bands
    return np.ma.masked_equal(bands, fill)
