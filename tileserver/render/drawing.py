"""Features as an antialiased picture: what a style paints, and geometry on a pixel canvas.

Everything is drawn on a canvas with a margin wider than its strokes and then cropped, so that neighbouring
tiles meet without a seam. Agg blends straight alpha, so edges have no dark fringe.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import shapely
from matplotlib.backend_bases import GraphicsContextBase
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.path import Path
from matplotlib.transforms import IdentityTransform
from mercantile import Tile
from numpy.typing import NDArray

from tileserver import styles, tiles
from tileserver.protocol import Job
from tileserver.render import features, labels, styling, warp
from tileserver.render.paint import Labels, Paint
from tileserver.tiles import Bounds

Coordinates = NDArray[np.float64]
Geometries = NDArray[np.object_]
Pixels = NDArray[np.uint8]


# Pixels of the style around a picture: what is drawn at least, and where features are looked for.
MARGIN: Final = 8
FURTHEST: Final = 64

SINGLE_SIDE: Final = 512
SINGLE_PADDING: Final = 12
SMALLEST_EXTENT: Final = 1000.0  # metres, for a single point

_WORLD: Final = 2 * math.pi * 6378137.0
_FAR: Final = 100 * _WORLD


class View(NamedTuple):
    """What is drawn: bounds in metres (EPSG:3857), size in pixels, and the width of a pixel of the style."""

    bounds: Bounds
    width: int
    height: int
    scale: float


def draw(frame: Any, job: Job) -> tuple[Pixels, dict[str, Any]]:
    """The features of a ``GeoDataFrame`` (EPSG:4326 if it doesn't say) as RGBA (4, height, width), by the
    job's style or the default one.

    A tile shows its extent at the job's size. Without a tile the data is fitted into 512 pixels, or the size
    asked for. Facts: ``bounds`` of the data in degrees, ``families`` of its geometry, ``empty`` when nothing
    of it is visible.
    """
    style = styles.default() if job.style is None else _read(job.style)
    geometry, rows = _drawable(np.asarray(frame.geometry.array, dtype=object))
    lonlat = frame.crs is None or frame.crs == warp.LONLAT
    if not lonlat:
        geometry = _projected(geometry, frame.crs)
    boxes = _boxes(geometry, lonlat)
    view = _data_view(boxes, job) if job.tile is None else _tile_view(job.tile, job)
    found = _Found.near(view, geometry, rows, boxes, lonlat, labels.REACH if _has_labels(style) else FURTHEST)
    zoom = styling.map_zoom((view.bounds[2] - view.bounds[0]) / view.width * view.scale)
    painted = list(styling.paints(style.layers, frame, found.rows, found.families, zoom))
    canvas = _Canvas(view, _margin(painted))
    for paint in painted:
        canvas.draw(paint, found)
    facts = {**features.facts(frame), "families": features.families(frame)}
    picture = canvas.picture()
    return picture, facts if picture[3].any() else {**facts, "empty": True}


@functools.lru_cache(maxsize=32)
def _read(document: str) -> styles.Style:
    """The style of a job, which has been checked before it was sent."""
    return styles.read(document, "style")


def _has_labels(style: styles.Style) -> bool:
    return any(layer.type == "symbol" for layer in style.layers)


def _margin(painted: list[Paint | Labels]) -> int:
    """Pixels of the style that strokes and circles reach out of their geometry."""
    reach = 0.0
    for paint in painted:
        if isinstance(paint, Paint):
            wide = np.max(paint.width) if paint.kind == "line" else np.max(paint.radius + paint.stroke_width)
            reach = max(reach, float(wide))
    return min(max(MARGIN, math.ceil(reach) + 2), FURTHEST)


@dataclass(frozen=True, slots=True)
class _Found:
    """Parts of features in metres, each with the row that it is of and its family of geometry."""

    geometry: Geometries
    rows: NDArray[np.intp]
    families: NDArray[np.object_]

    @classmethod
    def near(
        cls, view: View, geometry: Geometries, rows: Any, boxes: Coordinates, lonlat: bool, reach: int
    ) -> _Found:
        """What lies in a view or not far from it, in every world that the view shows."""
        metres = reach * view.scale * (view.bounds[2] - view.bounds[0]) / view.width
        west, south, east, north = view.bounds
        around = (west - metres, south - metres, east + metres, north + metres)
        shown: list[Geometries] = []
        of: list[NDArray[np.intp]] = []
        for shift in (-_WORLD, 0.0, _WORLD):
            seen = _meets(boxes, around, shift)
            if seen.any():
                shown.append(_metres(geometry[seen], lonlat, shift))
                of.append(rows[seen])
        parts = np.concatenate(shown) if shown else np.empty(0, object)
        kinds = shapely.get_type_id(parts)
        return cls(parts, np.concatenate(of) if of else np.empty(0, np.intp), _FAMILIES[kinds])


_FAMILIES: Final = np.array(["Point", "LineString", "LineString", "Polygon"], object)


def _drawable(geometry: Geometries) -> tuple[Geometries, NDArray[np.intp]]:
    """Points, lines and polygons with the position that each comes from: collections and multi-geometries
    taken apart, nothing empty."""
    rows = np.arange(len(geometry))
    while True:
        kept = ~(shapely.is_missing(geometry) | shapely.is_empty(geometry))
        geometry, rows = geometry[kept], rows[kept]
        kinds = shapely.get_type_id(geometry)
        if (kinds <= shapely.GeometryType.POLYGON).all():
            rings = kinds == shapely.GeometryType.LINEARRING
            geometry[rings] = [shapely.LineString(ring) for ring in geometry[rings]]
            return geometry, rows
        geometry, of = shapely.get_parts(geometry, return_index=True)
        rows = rows[of]


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

    def __init__(self, view: View, margin: int) -> None:
        self.view = view
        self.margin = math.ceil(margin * view.scale)
        west, south, east, north = view.bounds
        self.pixel = (east - west) / view.width
        reach = self.margin * self.pixel
        self.bounds: Bounds = (west - reach, south - reach, east + reach, north + reach)
        # At 72 dots an inch, widths in points are widths in pixels.
        size = (view.width + 2 * self.margin, view.height + 2 * self.margin)
        self._agg: Any = RendererAgg(*size, 72)  # type: ignore[no-untyped-call]  # untyped in matplotlib

    def draw(self, paint: Paint | Labels, found: _Found) -> None:
        """One layer of a style."""
        geometry = found.geometry[paint.features]
        if isinstance(paint, Labels):
            self._labels(paint, geometry, found.rows[paint.features])
        elif paint.kind == "circle":
            self._circles(paint, self._to_pixels(shapely.get_coordinates(geometry)))
        elif paint.kind == "fill":
            parts, of = self._clipped(geometry)
            nothing = np.empty((0, 4))
            self._paths(paint, parts, paint.colours(paint.colour)[of], nothing, np.empty(0))
        else:
            parts, of = self._clipped(geometry)
            width = paint.lengths(paint.width)[of] * self.view.scale
            self._paths(paint, parts, np.empty((0, 4)), paint.colours(paint.colour)[of], width)

    def _labels(self, wanted: Labels, geometry: Geometries, rows: NDArray[np.intp]) -> None:
        keep, places = _label_places(geometry, rows)
        shown = Labels(
            **{
                name: getattr(wanted, name)[keep]
                for name in ("features", "size", "colour", "halo_colour", "halo_width", "key")
            },
            **{
                name: getattr(wanted, name)
                for name in ("anchor", "offset", "max_width", "padding", "overlap")
            },
            texts=tuple(wanted.texts[at] for at in keep),
        )
        rgba = np.asarray(self._agg.buffer_rgba())
        pixels = self._to_pixels(places)
        pixels[:, 1] = len(rgba) - pixels[:, 1]
        labels.draw(rgba, shown, pixels, self.view.scale)

    def picture(self) -> Pixels:
        """RGBA (4, height, width), straight alpha, without the margin."""
        inner = slice(self.margin, -self.margin)
        rgba = np.asarray(self._agg.buffer_rgba())[inner, inner]
        return np.ascontiguousarray(np.moveaxis(rgba, -1, 0))

    def _to_pixels(self, metres: Coordinates) -> Coordinates:
        """Pixels from the lower left corner of the canvas."""
        return (metres - self.bounds[:2]) / self.pixel

    def _clipped(self, geometry: Geometries) -> tuple[Geometries, NDArray[np.intp]]:
        """What lies on the canvas, and which of the geometries it is of. Cuts fall outside of the canvas,
        where their strokes aren't seen."""
        reach = self.margin * self.pixel
        west, south, east, north = self.bounds
        box = (west - reach, south - reach, east + reach, north + reach)
        x0, y0, x1, y1 = shapely.bounds(geometry).T
        near = np.flatnonzero((x0 <= box[2]) & (x1 >= box[0]) & (y0 <= box[3]) & (y1 >= box[1]))
        geometry = geometry[near]
        outside = ((x0 < box[0]) | (y0 < box[1]) | (x1 > box[2]) | (y1 > box[3]))[near]
        if not outside.any():
            return geometry, near
        try:
            cut = shapely.clip_by_rect(geometry[outside], *box)
        except shapely.errors.GEOSException:
            # GEOS refuses to cut some invalid polygons.
            cut = shapely.clip_by_rect(shapely.make_valid(geometry[outside]), *box)
        whole = geometry.copy()
        whole[outside] = cut
        parts, of = _drawable(whole)
        # Where an edge only touches the box, a polygon's cut is a line.
        same = shapely.get_dimensions(parts) == shapely.get_dimensions(geometry)[of]
        return parts[same], near[of[same]]

    def _paths(
        self, paint: Paint, geometry: Geometries, faces: Coordinates, edges: Coordinates, widths: Coordinates
    ) -> None:
        paths = [Path(self._to_pixels(vertices), codes) for vertices, codes in _outlines(geometry)]
        if paths:
            dashes = [(0.0, [part * width for part in _even(paint.dash)]) for width in widths]
            self._collection(paint, paths, faces, edges, widths, dashes if paint.dash else [(0, None)])

    def _circles(self, paint: Paint, centres: Coordinates) -> None:
        """Discs, each with its ring around it before the next one."""
        scale, count = self.view.scale, len(centres)
        radius, ring = paint.lengths(paint.radius) * scale, paint.lengths(paint.stroke_width) * scale
        stroke = paint.colours(np.zeros(4) if paint.stroke_colour is None else paint.stroke_colour)
        faces, edges, widths = np.zeros((2 * count, 4)), np.zeros((2 * count, 4)), np.zeros(2 * count)
        faces[::2], edges[1::2], widths[1::2] = paint.colours(paint.colour), stroke, ring
        transforms = np.zeros((2 * count, 3, 3))
        transforms[::2, 0, 0] = transforms[::2, 1, 1] = radius
        transforms[1::2, 0, 0] = transforms[1::2, 1, 1] = radius + ring / 2
        transforms[:, 2, 2] = 1
        places = np.repeat(centres, 2, axis=0)
        self._collection(paint, [Path.unit_circle()], faces, edges, widths, [(0, None)], transforms, places)

    def _collection(
        self,
        paint: Paint,
        paths: list[Path],
        faces: Coordinates,
        edges: Coordinates,
        widths: Coordinates,
        dashes: list[Any],
        transforms: Coordinates | None = None,
        places: Coordinates | None = None,
    ) -> None:
        self._agg.draw_path_collection(
            _context(paint),
            IdentityTransform(),
            paths,
            np.empty((0, 3, 3)) if transforms is None else transforms,
            np.empty((0, 2)) if places is None else places,
            IdentityTransform(),
            faces,
            edges,
            list(widths),
            dashes,
            [True],
            [None],
            "screen",
            hatchcolors=np.empty((0, 4)),
        )


def _even(dash: tuple[float, ...]) -> tuple[float, ...]:
    """Dashes and gaps in turn; an odd number of lengths is repeated."""
    return dash if len(dash) % 2 == 0 else (*dash, *dash)


def _label_places(geometry: Geometries, rows: NDArray[np.intp]) -> tuple[NDArray[np.intp], Coordinates]:
    """One place for each row and family of geometry, in metres: the points themselves, the middle of the
    longest line, within the largest polygon; and which of the geometries they are of."""
    kinds = shapely.get_type_id(geometry)
    measure = np.where(
        kinds == shapely.GeometryType.POLYGON, shapely.area(geometry), shapely.length(geometry)
    )
    keep = np.flatnonzero(kinds == shapely.GeometryType.POINT)
    others = np.flatnonzero(kinds != shapely.GeometryType.POINT)
    # The largest of each row comes first; the worlds beside this one have labels of their own.
    west = np.floor((shapely.bounds(geometry)[:, 0] + _WORLD / 2) / _WORLD)
    order = others[np.lexsort((-measure[others], west[others], kinds[others], rows[others]))]
    facts = np.stack([rows[order], kinds[order], west[order]])
    first = np.ones(len(order), bool)
    first[1:] = (facts[:, 1:] != facts[:, :-1]).any(axis=0)
    keep = np.sort(np.concatenate([keep, order[first]])).astype(np.intp)
    chosen = geometry[keep]
    lines = shapely.get_type_id(chosen) == shapely.GeometryType.LINESTRING
    places = shapely.point_on_surface(chosen)
    places[lines] = shapely.line_interpolate_point(chosen[lines], 0.5, normalized=True)
    return keep, shapely.get_coordinates(places)


def _context(paint: Paint) -> GraphicsContextBase:
    context = GraphicsContextBase()
    context.set_foreground((0.0, 0.0, 0.0, 1.0), isRGBA=True)
    context.set_joinstyle(paint.join)
    context.set_capstyle("projecting" if paint.cap == "square" else paint.cap)
    # Snapping would move edges by up to half a pixel, differently at another scale.
    context.set_snap(False)
    return context


def _outlines(geometry: Geometries) -> list[tuple[Coordinates, NDArray[np.uint8]]]:
    """Vertices and path codes of each line, and of each polygon with its holes."""
    found: list[Any] = [None] * len(geometry)
    kinds = shapely.get_type_id(geometry)
    for kind in np.unique(kinds):
        of = np.flatnonzero(kinds == kind)
        for at, outline in zip(of.tolist(), _alike(geometry[of]), strict=True):
            found[at] = outline
    return found


def _alike(geometry: Geometries) -> Iterator[tuple[Coordinates, NDArray[np.uint8]]]:
    """Outlines of either lines or polygons."""
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
