"""Features as an antialiased picture: the default style, and geometry on a pixel canvas.

Everything is drawn on a canvas with a margin wider than any stroke and then cropped, so that neighbouring
tiles meet without a seam. Agg blends straight alpha, so edges have no dark fringe.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import shapely
from matplotlib.backend_bases import GraphicsContextBase
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import to_rgba
from matplotlib.path import Path
from matplotlib.transforms import Affine2D, IdentityTransform
from mercantile import Tile
from numpy.typing import NDArray

from tileserver import style, tiles
from tileserver.protocol import Job
from tileserver.render import features, warp
from tileserver.tiles import Bounds

Colour = tuple[float, float, float, float]
Coordinates = NDArray[np.float64]
Geometries = NDArray[np.object_]
Pixels = NDArray[np.uint8]


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
MARGIN: Final = 8

SINGLE_SIDE: Final = 512
SINGLE_PADDING: Final = 12
SMALLEST_EXTENT: Final = 1000.0  # metres, for a single point

# Agg puts a marker on a whole pixel; markers drawn in 4 x 4 sub-pixel positions hide that.
PHASES: Final = 4

_WORLD: Final = 2 * math.pi * 6378137.0
_FAR: Final = 100 * _WORLD


class View(NamedTuple):
    """What is drawn: bounds in metres (EPSG:3857), size in pixels, and the width of a pixel of the style."""

    bounds: Bounds
    width: int
    height: int
    scale: float


def draw(frame: Any, job: Job) -> tuple[Pixels, dict[str, Any]]:
    """The features of a ``GeoDataFrame`` (EPSG:4326 if it doesn't say) as RGBA (4, height, width).

    A tile shows its extent at the job's size. Without a tile the data is fitted into 512 pixels, or the
    size asked for. Facts: ``bounds`` of the data in degrees, ``empty`` when nothing of it is visible.
    """
    geometry = _drawable(np.asarray(frame.geometry.array, dtype=object))
    lonlat = frame.crs is None or frame.crs == warp.LONLAT
    if not lonlat:
        geometry = _projected(geometry, frame.crs)
    boxes = _boxes(geometry, lonlat)
    view = _data_view(boxes, job) if job.tile is None else _tile_view(job.tile, job)
    canvas = _Canvas(view)
    for shift in (-_WORLD, 0.0, _WORLD):
        seen = _meets(boxes, canvas.bounds, shift)
        if seen.any():
            canvas.draw(_metres(geometry[seen], lonlat, shift))
    facts = features.facts(frame)
    picture = canvas.picture()
    return picture, facts if picture[3].any() else {**facts, "empty": True}


def _drawable(geometry: Geometries) -> Geometries:
    """Points, lines and polygons: collections and multi-geometries taken apart, nothing empty."""
    while True:
        geometry = geometry[~(shapely.is_missing(geometry) | shapely.is_empty(geometry))]
        kinds = shapely.get_type_id(geometry)
        if (kinds <= shapely.GeometryType.POLYGON).all():
            rings = kinds == shapely.GeometryType.LINEARRING
            geometry[rings] = [shapely.LineString(ring) for ring in geometry[rings]]
            return geometry
        geometry = shapely.get_parts(geometry)


def _projected(geometry: Geometries, crs: Any) -> Geometries:
    """Geometry of any CRS in metres; what has no place on the map (a pole) is moved far away."""
    from pyproj import Transformer

    to_metres = Transformer.from_crs(crs, warp.MERCATOR, always_xy=True)

    def project(coordinates: Coordinates) -> Coordinates:
        metres = np.column_stack(to_metres.transform(coordinates[:, 0], coordinates[:, 1]))
        placed: Coordinates = np.nan_to_num(metres, nan=_FAR, posinf=_FAR, neginf=-_FAR)
        return placed

    return np.asarray(shapely.transform(geometry, project))


def _boxes(geometry: Geometries, lonlat: bool) -> Coordinates:
    """Bounds (n, 4) in metres."""
    boxes: Coordinates = np.asarray(shapely.bounds(geometry))
    if lonlat:
        x, y = warp.mercator(boxes[:, ::2], boxes[:, 1::2])
        return np.column_stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]])
    return boxes


def _metres(geometry: Geometries, lonlat: bool, shift: float) -> Geometries:
    """Geometry in metres, moved east by ``shift``."""

    def project(coordinates: Coordinates) -> Coordinates:
        if lonlat:
            coordinates = np.column_stack(warp.mercator(coordinates[:, 0], coordinates[:, 1]))
        return np.add(coordinates, (shift, 0.0))

    return np.asarray(shapely.transform(geometry, project))


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


def _meets(boxes: Coordinates, bounds: Bounds, shift: float) -> NDArray[np.bool_]:
    """Which boxes, moved east by ``shift``, touch the bounds."""
    west, south, east, north = bounds
    x0, y0, x1, y1 = boxes.T
    return np.asarray((x0 + shift <= east) & (x1 + shift >= west) & (y0 <= north) & (y1 >= south))


class _Canvas:
    """A transparent picture with a margin; ``bounds`` (metres) include the margin."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.margin = math.ceil(MARGIN * view.scale)
        west, south, east, north = view.bounds
        self.pixel = (east - west) / view.width
        reach = self.margin * self.pixel
        self.bounds: Bounds = (west - reach, south - reach, east + reach, north + reach)
        # At 72 dots an inch, widths in points are widths in pixels.
        size = (view.width + 2 * self.margin, view.height + 2 * self.margin)
        self._agg: Any = RendererAgg(*size, 72)  # type: ignore[no-untyped-call]  # untyped in matplotlib

    def draw(self, geometry: Geometries) -> None:
        """Polygons below lines below points; geometry in metres."""
        kinds = shapely.get_type_id(geometry)
        polygons = self._clipped(geometry[kinds == shapely.GeometryType.POLYGON])
        lines = self._clipped(geometry[kinds == shapely.GeometryType.LINESTRING])
        points = geometry[kinds == shapely.GeometryType.POINT]
        self._paths(polygons, FILL, ((OUTLINE, OUTLINE_WIDTH),))
        self._paths(lines, None, ((CASING, CASING_WIDTH), (LINE, LINE_WIDTH)))
        if len(points):
            self._markers(self._to_pixels(shapely.get_coordinates(points)))

    def picture(self) -> Pixels:
        """RGBA (4, height, width), straight alpha, without the margin."""
        inner = slice(self.margin, -self.margin)
        rgba = np.asarray(self._agg.buffer_rgba())[inner, inner]
        return np.ascontiguousarray(np.moveaxis(rgba, -1, 0))

    def _to_pixels(self, metres: Coordinates) -> Coordinates:
        """Pixels from the lower left corner of the canvas."""
        return (metres - self.bounds[:2]) / self.pixel

    def _clipped(self, geometry: Geometries) -> Geometries:
        """What lies on the canvas. Cuts fall outside of it, where their strokes aren't seen."""
        reach = self.margin * self.pixel
        west, south, east, north = self.bounds
        box = (west - reach, south - reach, east + reach, north + reach)
        x0, y0, x1, y1 = shapely.bounds(geometry).T
        outside = (x0 < box[0]) | (y0 < box[1]) | (x1 > box[2]) | (y1 > box[3])
        if not outside.any():
            return geometry
        try:
            cut = shapely.clip_by_rect(geometry[outside], *box)
        except shapely.errors.GEOSException:
            # GEOS refuses to cut some invalid polygons.
            cut = shapely.clip_by_rect(shapely.make_valid(geometry[outside]), *box)
        cut = _drawable(cut)
        # Where an edge only touches the box, a polygon's cut is a line.
        whole = shapely.get_dimensions(cut) == shapely.get_dimensions(geometry[:1])
        return np.concatenate([geometry[~outside], cut[whole]])

    def _paths(
        self, geometry: Geometries, fill: Colour | None, strokes: tuple[tuple[Colour, float], ...]
    ) -> None:
        """One path after the other for each stroke, so that casings lie below all lines."""
        paths = [Path(self._to_pixels(vertices), codes) for vertices, codes in _outlines(geometry)]
        if not paths:
            return
        for colour, width in strokes:
            self._agg.draw_path_collection(
                _context(colour, width * self.view.scale),
                IdentityTransform(),
                paths,
                np.empty((0, 3, 3)),
                np.empty((0, 2)),
                IdentityTransform(),
                np.array([fill] if fill else np.empty((0, 4))),
                np.array([colour]),
                [width * self.view.scale],
                [(0, None)],
                [True],
                [None],
                "screen",
                hatchcolors=np.empty((0, 4)),
            )

    def _markers(self, centres: Coordinates) -> None:
        """White-ringed dots. Equal positions are drawn together, in an order all tiles share."""
        steps = np.floor(centres * PHASES + 0.5).astype(np.int64)
        whole, phase = np.divmod(steps, PHASES)
        group = phase[:, 1] * PHASES + phase[:, 0]
        dot = Path.unit_circle()
        scale = self.view.scale
        for number in np.unique(group):
            down, along = divmod(int(number), PHASES)
            # Agg's whole positions are centres of pixels, half a pixel right of and below their corner.
            shift = (along / PHASES - 0.5, down / PHASES + 0.5)
            offset = Affine2D().scale(POINT_RADIUS * scale).translate(*shift)
            positions = Path(whole[group == number].astype(float))
            context = _context(RING, RING_WIDTH * scale)
            self._agg.draw_markers(context, dot, offset, positions, IdentityTransform(), POINT)


def _context(stroke: Colour, width: float) -> GraphicsContextBase:
    context = GraphicsContextBase()
    context.set_foreground(stroke, isRGBA=True)
    context.set_linewidth(width)
    context.set_joinstyle("round")
    context.set_capstyle("round")
    # Snapping would move edges by up to half a pixel, differently at another scale.
    context.set_snap(False)
    return context


def _outlines(geometry: Geometries) -> Iterator[tuple[Coordinates, NDArray[np.uint8]]]:
    """Vertices and path codes of each line, or of each polygon with its holes."""
    if len(geometry) == 0:
        return
    kind, vertices, offsets = shapely.to_ragged_array(geometry, include_z=False)
    codes = np.full(len(vertices), Path.LINETO, np.uint8)
    starts = offsets[0][:-1]
    codes[starts[starts < len(codes)]] = Path.MOVETO
    if kind is shapely.GeometryType.POLYGON:
        codes[offsets[0][1:] - 1] = Path.CLOSEPOLY
        edges = offsets[0][offsets[1]]
    else:
        edges = offsets[0]
    for start, end in itertools.pairwise(edges):
        yield vertices[start:end], codes[start:end]
