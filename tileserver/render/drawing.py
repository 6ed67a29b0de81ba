"""Features as an antialiased picture, by a style: what is found near the view, what the style paints of it,
and texts over that.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import shapely
from mercantile import Tile
from numpy.typing import NDArray

from tileserver import styles, tiles
from tileserver.protocol import Job
from tileserver.render import features, ink, labels, styling, warp
from tileserver.render.paint import Labels, Paint
from tileserver.render.placing import WORLD, Coordinates, Geometries, Placed, View, placed

Pixels = NDArray[np.uint8]

# Pixels of the style around a picture in which features are looked for; further, up to the second number,
# where what is found in the first is that wide.
_NEAR: Final = 64
_FURTHEST: Final = 512

SINGLE_SIDE: Final = 512
SINGLE_PADDING: Final = 12
SMALLEST_EXTENT: Final = 1000.0  # metres, for a single point


def draw(frame: Any, job: Job) -> tuple[Pixels, dict[str, Any]]:
    """The features of a ``GeoDataFrame`` (EPSG:4326 if it doesn't say) as RGBA (4, height, width), by the
    job's style or the default one.

    A tile shows its extent at the job's size. Without a tile the data is fitted into 512 pixels, or the size
    asked for. Facts: ``bounds`` of the data in degrees, ``families`` of its geometry, ``empty`` when nothing
    of it is visible.
    """
    style = styles.default() if job.style is None else _read(job.style)
    geometry = np.asarray(frame.geometry.array, dtype=object)
    lonlat = features.is_lonlat(frame.crs)
    projected = not lonlat and frame.crs != warp.MERCATOR
    if projected:
        geometry = _projected(geometry, frame.crs)
    boxes = np.asarray(shapely.bounds(geometry))
    view = _data_view(_metres(boxes, lonlat), job) if job.tile is None else _tile_view(job.tile, job)

    def found(reach: float) -> tuple[Placed, list[Paint | Labels]]:
        near = placed(
            *(geometry, boxes, view), lonlat=lonlat, reach=reach * view.scale, whole=_has_labels(style)
        )
        zoom = styling.map_zoom(view.pixel * view.scale)
        return near, list(styling.paints(style.layers, frame, near.rows, near.families, zoom))

    reach = labels.REACH if _has_labels(style) else _NEAR
    near, painting = found(reach)
    widest = max((paint.reach for paint in painting if isinstance(paint, Paint)), default=0.0)
    if reach < min(widest, _FURTHEST):
        near, painting = found(_FURTHEST)
    picture = _painted(near, painting)
    facts = {
        **(features.frame_facts(frame) if projected else features.facts(boxes, frame.crs)),
        "families": features.families(shapely.get_type_id(geometry)),
    }
    return picture, facts if picture[3].any() else {**facts, "empty": True}


@functools.lru_cache(maxsize=32)
def _read(document: str) -> styles.Style:
    """The style of a job, which has been checked before it was sent."""
    return styles.read(document, "style")


def _has_labels(style: styles.Style) -> bool:
    return any(layer.type == "symbol" for layer in style.layers)


def _painted(near: Placed, painting: Sequence[Paint | Labels]) -> Pixels:
    """All of it in its order: runs of coats, and texts over what is below them."""
    view, shapes = near.view, near.shapes()
    picture = None
    for texts, run in itertools.groupby(painting, lambda paint: isinstance(paint, Labels)):
        if not texts:
            coats = [paint.scaled(view.scale) for paint in run if isinstance(paint, Paint)]
            picture = ink.painted(shapes, coats, view.width, view.height, picture)
            continue
        if picture is None:
            picture = np.zeros((4, view.height, view.width), np.uint8)
        for paint in run:
            if isinstance(paint, Labels):
                kept, places = near.anchors(paint.features)
                labels.draw(np.moveaxis(picture, 0, -1), paint.taken(kept), places, view.scale)
    return np.zeros((4, view.height, view.width), np.uint8) if picture is None else picture


def _projected(geometry: Geometries, crs: Any) -> Geometries:
    """Geometry of any CRS in metres; what has no place on the map (a pole) is nowhere.

    :raises UnsupportedOutput: when the CRS has no way there.
    """
    from pyproj import Transformer
    from pyproj.exceptions import ProjError

    try:
        to_metres = Transformer.from_crs(crs, warp.MERCATOR, always_xy=True)
    except ProjError as problem:
        raise features.without_a_way(crs, warp.MERCATOR, problem) from None

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
        half = WORLD / 2
        return View((-half, -half, half, half), side, side, options.scale)
    limit = WORLD / 2
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
