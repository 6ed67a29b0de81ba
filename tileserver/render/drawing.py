"""Features as an antialiased picture: where they lie in pixels, and the coats of the default style.

A symbol reaches out of its tile by as much as its width, so features around a tile are painted, too, and
tiles meet without a seam. Only what may be seen is projected.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import shapely
from matplotlib.colors import to_rgba
from mercantile import Tile
from numpy.typing import NDArray

from tileserver import style, tiles
from tileserver.protocol import Job
from tileserver.render import features, ink, warp
from tileserver.render.ink import Paint, Paths, Points, Shapes
from tileserver.render.mvt import ragged
from tileserver.tiles import Bounds

Colour = tuple[float, float, float, float]
Coordinates = NDArray[np.float64]
Geometries = NDArray[np.object_]
Pixels = NDArray[np.uint8]
Index = NDArray[np.int64]


def _colour(layer: str, kind: str) -> Colour:
    """Red, green, blue and opacity (0 to 1) of one property of the default style."""
    rules = style.paint(layer)
    return to_rgba(rules[f"{kind}-color"], rules.get(f"{kind}-opacity", 1.0))


FILL: Final = _colour("udf-fill", "fill")
OUTLINE: Final = _colour("udf-outline", "line")
LINE: Final = _colour("udf-line", "line")
CASING: Final = _colour("udf-casing", "line")
POINT: Final = _colour("udf-point", "circle")
RING: Final = _colour("udf-point", "circle-stroke")

# Pixels at scale 1.
OUTLINE_WIDTH: Final[float] = style.paint("udf-outline")["line-width"]
LINE_WIDTH: Final[float] = style.paint("udf-line")["line-width"]
CASING_WIDTH: Final[float] = style.paint("udf-casing")["line-width"]
POINT_RADIUS: Final[float] = style.paint("udf-point")["circle-radius"]
RING_WIDTH: Final[float] = style.paint("udf-point")["circle-stroke-width"]

SINGLE_SIDE: Final = 512
SINGLE_PADDING: Final = 12
SMALLEST_EXTENT: Final = 1000.0  # metres, for a single point

_WORLD: Final = 2 * math.pi * 6378137.0


class View(NamedTuple):
    """What is drawn: bounds in metres (EPSG:3857), size in pixels, and the width of a pixel of the style."""

    bounds: Bounds
    width: int
    height: int
    scale: float


class Parts(NamedTuple):
    """Points, lines and polygons in degrees or metres, and the row of the frame that each belongs to."""

    geometries: Geometries
    rows: Index


def draw(frame: Any, job: Job) -> tuple[Pixels, dict[str, Any]]:
    """The features of a ``GeoDataFrame`` (EPSG:4326 if it doesn't say) as RGBA (4, height, width).

    A tile shows its extent at the job's size. Without a tile the data is fitted into 512 pixels, or the
    size asked for. Facts: ``bounds`` of the data in degrees, ``empty`` when nothing of it is visible.
    """
    geometry = np.array(frame.geometry.array, dtype=object)
    lonlat = frame.crs is None or frame.crs == warp.LONLAT
    if not lonlat and frame.crs != warp.MERCATOR:
        geometry = _projected(geometry, frame.crs)
    boxes = np.asarray(shapely.bounds(geometry))
    view = _data_view(_metres(boxes, lonlat), job) if job.tile is None else _tile_view(job.tile, job)
    coats = default_coats(view.scale)
    shapes = placed(geometry, boxes, view, lonlat=lonlat, reach=max(coat.reach for coat in coats))
    picture = ink.painted(shapes, coats, view.width, view.height)
    facts = features.facts(frame)
    return picture, facts if picture[3].any() else {**facts, "empty": True}


def default_coats(scale: float) -> Sequence[Paint]:
    """The default style: polygons below lines below points, casings below all lines."""
    return (
        Paint("fill", FILL),
        Paint("line", OUTLINE, width=OUTLINE_WIDTH * scale, of="polygons"),
        Paint("line", CASING, width=CASING_WIDTH * scale, of="lines"),
        Paint("line", LINE, width=LINE_WIDTH * scale, of="lines"),
        Paint(
            "circle",
            POINT,
            radius=POINT_RADIUS * scale,
            stroke_colour=RING,
            stroke_width=RING_WIDTH * scale,
        ),
    )


def placed(geometry: Geometries, boxes: Coordinates, view: View, *, lonlat: bool, reach: float) -> Shapes:
    """What of the geometry (degrees, or metres) comes within ``reach`` pixels of the view, in its pixels.

    :param boxes: bounds (n, 4) of the geometry.
    """
    west, south, east, north = view.bounds
    pixel = (east - west) / view.width
    wide = (west - reach * pixel, south - reach * pixel, east + reach * pixel, north + reach * pixel)
    found = []
    for turn in (-1, 0, 1):
        shift = turn * _WORLD
        window = _window((wide[0] - shift, wide[1], wide[2] - shift, wide[3]), lonlat)
        parts = _parts(geometry, boxes, window)

        def to_pixels(xy: Coordinates, shift: float = shift) -> tuple[Coordinates, Coordinates]:
            x, y = warp.mercator(xy[:, 0], xy[:, 1]) if lonlat else (xy[:, 0], xy[:, 1])
            return (x + (shift - west)) / pixel, (north - y) / pixel

        if len(parts.rows):
            found.append(_shapes(parts, to_pixels))
    return ink.together(found)


def _window(bounds: Bounds, lonlat: bool) -> Bounds:
    """Bounds in metres, in the geometry's own coordinates. What lies beyond the last latitude that has a
    place is drawn in to it."""
    if not lonlat:
        return bounds
    west, east = (math.degrees(x / 6378137.0) for x in bounds[::2])
    south, north = (math.degrees(math.atan(math.sinh(y / 6378137.0))) for y in bounds[1::2])
    return (west, south, east, north)


def _parts(geometry: Geometries, boxes: Coordinates, window: Bounds) -> Parts:
    """Points, lines and polygons whose boxes meet the window; collections are taken apart."""
    rows = np.flatnonzero(_meets(boxes, window))
    parts = geometry[rows]
    while True:
        kinds = shapely.get_type_id(parts)
        if not (kinds > shapely.GeometryType.POLYGON).any():
            break
        parts, index = shapely.get_parts(parts, return_index=True)
        rows = rows[index]
        met = _meets(shapely.bounds(parts), window)
        parts, rows = parts[met], rows[met]
    rings = kinds == shapely.GeometryType.LINEARRING
    if rings.any():
        coordinates, owner = shapely.get_coordinates(parts[rings], return_index=True)
        parts[rings] = shapely.linestrings(coordinates, indices=owner)
    return Parts(parts, rows)


def _meets(boxes: Coordinates, window: Bounds) -> NDArray[np.bool_]:
    """Which boxes touch the window; those of empty and missing geometry don't."""
    west, south, east, north = window
    met: NDArray[np.bool_] = (boxes[:, 0] <= east) & (boxes[:, 2] >= west)
    met &= (boxes[:, 1] <= north) & (boxes[:, 3] >= south)
    return met


def _shapes(parts: Parts, to_pixels: Any) -> Shapes:
    """The parts as flat arrays; those with a coordinate that is no place are left out."""
    kinds = shapely.get_type_id(parts.geometries)
    points, lines, polygons = (
        Parts(parts.geometries[which], parts.rows[which])
        for which in (np.flatnonzero(kinds == kind) for kind in (0, 1, 3))
    )
    x, y = to_pixels(shapely.get_coordinates(points.geometries))
    there = np.isfinite(x) & np.isfinite(y)
    return Shapes(
        Points(x[there], y[there], points.rows[there]),
        _paths(lines, to_pixels, rings=False),
        _paths(polygons, to_pixels, rings=True),
    )


def _paths(parts: Parts, to_pixels: Any, *, rings: bool) -> Paths:
    geometries, rows = parts
    x, y = to_pixels(shapely.get_coordinates(geometries))
    if rings and shapely.get_num_interior_rings(geometries).any():
        geometries, owner = shapely.get_rings(geometries, return_index=True)
        rows, hole = rows[owner], np.diff(owner, prepend=-1) == 0
    else:
        hole = np.zeros(len(rows), np.bool_)
    sizes = shapely.get_num_coordinates(geometries).astype(np.int64)
    paths = Paths(x, y, sizes, rows, np.full(len(rows), rings), hole)
    nowhere = ~(np.isfinite(x) & np.isfinite(y))
    if nowhere.any():
        paths = paths.taken(np.flatnonzero(ragged.summed(nowhere, sizes) == 0))
    return paths.thinned()


def _projected(geometry: Geometries, crs: Any) -> Geometries:
    """Geometry of any CRS in metres; what has no place on the map (a pole) is nowhere."""
    from pyproj import Transformer

    to_metres = Transformer.from_crs(crs, warp.MERCATOR, always_xy=True)

    def project(coordinates: Coordinates) -> Coordinates:
        return np.column_stack(to_metres.transform(coordinates[:, 0], coordinates[:, 1]))

    return np.asarray(shapely.transform(geometry, project))


def _metres(boxes: Coordinates, lonlat: bool) -> Coordinates:
    """Bounds (n, 4) in metres."""
    if lonlat:
        x, y = warp.mercator(boxes[:, ::2], boxes[:, 1::2])
        return np.column_stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]])
    return boxes


def _tile_view(tile: Tile, job: Job) -> View:
    side = job.options.pixels
    return View(tiles.mercator_bounds(tile), side, side, job.options.scale)


def _data_view(boxes: Coordinates, job: Job) -> View:
    """The data's own bounds with some space around, in a picture of its proportions."""
    options = job.options
    side = (options.size if options.exact else SINGLE_SIDE) * options.scale
    padding = min(SINGLE_PADDING * options.scale, side // 4)
    finite = boxes[np.isfinite(boxes).all(axis=1)]
    if len(finite) == 0:
        half = _WORLD / 2
        return View((-half, -half, half, half), side, side, options.scale)
    limit = _WORLD / 2
    west, east = finite[:, 0].min(), finite[:, 2].max()
    south, north = np.clip((finite[:, 1].min(), finite[:, 3].max()), -limit, limit)
    longer = max(east - west, north - south, SMALLEST_EXTENT)
    pixel = longer / (side - 2 * padding)
    width, height = (
        min(side, math.ceil(extent / pixel) + 2 * padding) for extent in (east - west, north - south)
    )
    x, y = (west + east) / 2, (south + north) / 2
    half_x, half_y = width * pixel / 2, height * pixel / 2
    return View((x - half_x, y - half_y, x + half_x, y + half_y), width, height, options.scale)
