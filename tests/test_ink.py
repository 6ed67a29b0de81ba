"""Painting: what is covered, against samples; how colours blend, against the formula; what must not hurt."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import shapely
from numpy.typing import NDArray

from tileserver.render.ink import Paths, Points, Shapes, chosen, circles, coats, painted
from tileserver.render.ink.shapes import NO_PATHS, NO_POINTS
from tileserver.render.paint import Paint

SIDE = 24
BLACK = (0.0, 0.0, 0.0, 1.0)


def coat(kind: Any, colour: Any = BLACK, features: Any = None, **values: Any) -> Paint:
    """A coat of the features with these numbers, or of the first hundreds; lines with round ends."""
    some = np.arange(500 if np.ndim(colour) < 2 else len(colour)) if features is None else features
    return Paint(kind, some, colour, **{"cap": "round", "join": "round", **values})


def rings(*polygons: Any) -> Paths:
    """Rings of polygons, one a row; of a multipolygon all in its row."""
    parts, rows = shapely.get_parts(np.array(polygons, dtype=object), return_index=True)
    found, owner = shapely.get_rings(parts, return_index=True)
    return _paths(found, rows[owner], ring=True, hole=np.diff(owner, prepend=-1) == 0)


def lines(*found: Any) -> Paths:
    return _paths(np.array(found, dtype=object), np.arange(len(found)), ring=False, hole=None)


def _paths(found: Any, rows: Any, *, ring: bool, hole: Any) -> Paths:
    x, y = shapely.get_coordinates(found).T.copy()
    flags = np.full(len(rows), ring)
    sizes = shapely.get_num_coordinates(found).astype(np.int64)
    return Paths(x, y, sizes, rows, flags, np.zeros(len(rows), bool) if hole is None else hole)


def polygons_(*found: Any) -> Shapes:
    return Shapes(NO_POINTS, NO_PATHS, rings(*found))


def lines_(*found: Any) -> Shapes:
    return Shapes(NO_POINTS, lines(*found), NO_PATHS)


def points_(*places: tuple[float, float]) -> Shapes:
    x, y = np.array(places, np.float64).reshape(-1, 2).T.copy()
    return Shapes(Points(x, y, np.arange(len(x))), NO_PATHS, NO_PATHS)


def alpha(shapes: Shapes, *painting: Paint, side: int = SIDE) -> NDArray[np.float64]:
    found: NDArray[np.float64] = painted(shapes, painting, side, side)[3] / 255
    return found


def sampled(geometry: Any, side: int = SIDE, fine: int = 16) -> NDArray[np.float64]:
    """The share of each pixel that lies within a geometry, by 16 x 16 samples."""
    places = (np.arange(side * fine) + 0.5) / fine
    x, y = np.meshgrid(places, places)
    shapely.prepare(geometry)
    inside = shapely.contains_xy(geometry, x.ravel(), y.ravel())
    return np.asarray(inside.reshape(side, fine, side, fine).mean(axis=(1, 3)))


def star(count: int) -> Any:
    turn = np.linspace(0, 2 * np.pi, 2 * count, endpoint=False)
    radius = np.where(np.arange(2 * count) % 2, 4.3, 10.7)
    return shapely.Polygon(np.column_stack([12.3 + radius * np.cos(turn), 11.6 + radius * np.sin(turn)]))


SHAPES = {
    "square between pixels": shapely.box(3.25, 4.5, 17.75, 20.125),
    "star": star(7),
    "hole": star(9).difference(shapely.Point(12, 12).buffer(3.1)),
    "hole wound like its ring": shapely.from_wkt("POLYGON((2 2,20 2,20 20,2 20,2 2),(6 6,12 7,8 13,6 6))"),
    "two parts": shapely.MultiPolygon(
        [shapely.box(1, 1, 6.5, 7), star(5).intersection(shapely.box(9, 9, 24, 24))]
    ),
    "ring that touches itself": shapely.from_wkt("POLYGON((2 2,12 12,22 2,22 22,12 12,2 22,2 2))"),
    "over every edge": shapely.box(-5, -6, 40, 12.5),
    "over the right edge": shapely.box(20.5, 3.5, 1000, 9),
    "far beyond": star(5).buffer(1e8),
}


@pytest.mark.parametrize("geometry", SHAPES.values(), ids=SHAPES.keys())
def test_polygons_cover_exactly_what_they_contain(geometry: Any) -> None:
    """A pixel's alpha is the share of it within the polygon."""
    found = alpha(polygons_(geometry), coat("fill", BLACK))

    assert np.abs(found - sampled(geometry)).max() < 0.04
    within = shapely.intersection(shapely.make_valid(geometry), shapely.box(0, 0, SIDE, SIDE))
    assert found.sum() == pytest.approx(within.area, rel=2e-3)


def test_a_bow_tie_is_filled_on_both_sides() -> None:
    """A ring that crosses itself encloses both of its loops, whatever way it winds around them."""
    bow = shapely.from_wkt("POLYGON((2 2,22 22,22 2,2 22,2 2))")

    found = alpha(polygons_(bow), coat("fill", BLACK))

    assert found[12, 5] == found[12, 18] == 1
    assert found.sum() == pytest.approx(200, rel=1e-3)


def test_slivers_are_faint_but_there() -> None:
    """What is much thinner than a pixel darkens by its area, wherever it lies."""
    for x in (3.0, 3.37, 3.99):
        found = alpha(polygons_(shapely.box(x, 2, x + 0.05, 22)), coat("fill", BLACK))
        assert found.sum() == pytest.approx(1, abs=0.05)
        assert (found[2:22].max(axis=1) > 0).all()


BENT = shapely.LineString([(3, 4), (17, 6), (8, 12), (19.5, 19)])
CASES = {
    "round": (BENT, 3.0, "round", "round"),
    "butt": (BENT, 3.0, "butt", "round"),
    "miter": (shapely.LineString([(3, 18), (12, 4), (21, 18)]), 3.0, "butt", "miter"),
    "wide": (BENT, 7.0, "round", "round"),
    "over the edges": (shapely.LineString([(-30, 2), (40, 20)]), 2.5, "butt", "miter"),
    "there and back": (shapely.LineString([(4, 12), (18, 12), (9, 12)]), 4.0, "round", "round"),
    "curve": (shapely.Point(12, 12).buffer(8).exterior, 2.0, "round", "round"),
    "square": (shapely.LineString([(4, 5), (17, 9), (12, 19)]), 4.0, "square", "bevel"),
    "cut off": (shapely.LineString([(4, 4), (18, 7), (5, 12)]), 3.0, "butt", "bevel"),
}


@pytest.mark.parametrize(("line", "width", "cap", "join"), CASES.values(), ids=CASES.keys())
def test_lines_are_what_lies_within_half_their_width(line: Any, width: float, cap: Any, join: Any) -> None:
    """A stroke is the buffer around its line, with the caps and joins asked for."""
    styles: Any = {
        "cap_style": {"butt": "flat"}.get(cap, cap),
        "join_style": {"miter": "mitre"}.get(join, join),
    }
    expected = sampled(line.buffer(width / 2, quad_segs=32, mitre_limit=2, **styles))

    found = alpha(lines_(line), coat("line", BLACK, width=width, cap=cap, join=join))

    # Where a line overlaps itself within a pixel its areas are added up; that is some pixels at sharp bends.
    assert np.abs(found - expected).mean() < 0.004
    assert np.percentile(np.abs(found - expected), 99) < 0.1
    assert found.sum() == pytest.approx(expected.sum(), rel=0.02)


@pytest.mark.parametrize("width", [0.1, 0.5, 0.9])
def test_hairlines_are_as_dark_as_they_are_wide(width: float) -> None:
    """A line that is thinner than a pixel covers a part of it, in any direction."""
    for end in ((22, 2.5), (20, 17), (2.5, 22)):
        line = shapely.LineString([(2.5, 2.5), end])
        found = alpha(lines_(line), coat("line", BLACK, width=width, cap="butt"))
        assert found.sum() == pytest.approx(line.length * width, rel=0.02, abs=0.1)


def test_a_ring_narrower_than_its_line_is_not_darker_for_it() -> None:
    """The line around a building smaller than itself covers what is near the building, once."""
    for small in (shapely.box(10.2, 10.4, 10.6, 10.7), shapely.box(11, 11, 11.3, 19)):
        found = alpha(polygons_(small), coat("line", BLACK, width=1.2))
        assert np.abs(found - sampled(small.buffer(0.6, quad_segs=16))).max() < 0.06


def test_a_ring_has_no_caps() -> None:
    """Where a polygon's ring closes there is a corner like any other."""
    box = shapely.box(4.5, 4.5, 19.5, 19.5)

    found = alpha(polygons_(box), coat("line", BLACK, width=3, cap="butt", join="miter"))

    assert found[3, 3] == found[20, 20] == found[3, 20] == 1


def test_dashes_begin_at_the_start_of_a_line_and_run_around_corners() -> None:
    """Lengths are drawn and left out in turn along the whole line."""
    line = shapely.LineString([(2, 2), (12, 2), (12, 20)])

    found = alpha(lines_(line), coat("line", BLACK, width=2, cap="butt", join="miter", dash=(3, 1.5)))

    assert found[1, 2:8] == pytest.approx(1)
    assert found[1, 8:11] == pytest.approx(0)
    assert found[1, 11] == found[1, 12] == pytest.approx(1)  # the corner, within the second dash
    assert found[10:12, 12] == pytest.approx(1 - 1 + found[10:12, 11])
    assert found.sum() == pytest.approx(2 * (6 + 6 + 6 + 1), rel=0.03)


@pytest.mark.parametrize("radius", [0.3, 0.7, 1.0, 2.4, 3.2, 9.7])
def test_discs_are_round_wherever_they_lie(radius: float) -> None:
    """A pixel's alpha is the share of it within the disc, and the whole has the disc's area."""
    for place in ((12.0, 12.0), (11.3, 12.6), (12.5, 11.9375)):
        found = alpha(points_(place), coat("circle", BLACK, radius=radius))
        assert np.abs(found - sampled(shapely.Point(place).buffer(radius, quad_segs=64))).max() < 0.07
        assert found.sum() == pytest.approx(np.pi * radius**2, rel=0.02, abs=0.02)


def test_discs_at_the_edge_are_cut_there() -> None:
    """A disc whose middle is outside is seen as far as it reaches in."""
    for place in ((-1.5, 12.0), (25.0, 3.0), (12.0, -2.0), (23.5, 24.5)):
        found = alpha(points_(place), coat("circle", BLACK, radius=3))
        assert np.abs(found - sampled(shapely.Point(place).buffer(3, quad_segs=64))).max() < 0.07


def test_a_circle_is_surrounded_by_its_stroke() -> None:
    """The stroke lies around the radius, and between the two nothing shines through."""
    ring = coat("circle", (1, 0, 0, 1), radius=5, stroke_colour=(0, 0, 1, 1), stroke_width=2)

    rgba = painted(points_((12, 12)), [ring], SIDE, SIDE)

    assert rgba[:, 12, 12].tolist() == [255, 0, 0, 255]
    assert rgba[:, 12, 17].tolist() == [0, 0, 255, 255]
    assert rgba[3, 6:18, 12].tolist() == [255] * 12
    assert (rgba[3] / 255).sum() == pytest.approx(np.pi * 49, rel=0.01)


def test_a_circle_without_a_radius_is_its_stroke() -> None:
    """Of a disc that has no size nothing is seen within its stroke."""
    dot = coat("circle", (1, 0, 0, 1), radius=0, stroke_colour=(0, 0, 1, 1), stroke_width=3)

    assert painted(points_((12.5, 12.5)), [dot], SIDE, SIDE)[:, 12, 12].tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize("count", [1, 2, 10, 300])
@pytest.mark.parametrize("kind", ["fill", "line", "circle"])
def test_equal_features_add_up(kind: Any, count: int) -> None:
    """A stack of translucent features lets through the product of what each lets through."""
    opacity = 0.03
    shapes = Shapes(
        points_(*[(12, 12)] * count).points,
        lines(*[shapely.LineString([(0, 12), (24, 12)])] * count),
        rings(*[shapely.box(2, 2, 22, 22)] * count),
    )
    colours = np.tile([0.2, 0.4, 0.6, opacity], (count, 1))
    colours[::2, 0] = 0.3 if count > 1 else 0.2  # several colours are blended in another way than one

    for colour in (colours[0], colours):
        rgba = painted(shapes, [coat(kind, colour, width=6, radius=6)], SIDE, SIDE)
        assert rgba[3, 12, 12] / 255 == pytest.approx(1 - (1 - opacity) ** count, abs=0.5 / 255 + 1e-6)


def test_what_is_later_lies_above() -> None:
    """Blending is in order: of coats, and of features in a coat, as its indices say."""
    shapes = polygons_(shapely.box(0, 0, 16, 24), shapely.box(8, 0, 24, 24))
    red, blue = (1, 0, 0, 0.5), (0, 0, 1, 0.5)
    over = [85, 0, 170, 191]

    forwards = painted(shapes, [coat("fill", np.array([red, blue]))], SIDE, SIDE)
    backwards = painted(shapes, [coat("fill", np.array([blue, red]), features=np.array([1, 0]))], SIDE, SIDE)
    layers = [
        coat("fill", red, features=np.array([0])),
        coat("fill", blue, features=np.array([1])),
    ]

    assert forwards[:, 12, 12].tolist() == pytest.approx(over, abs=1)
    assert painted(shapes, layers, SIDE, SIDE)[:, 12, 12].tolist() == pytest.approx(over, abs=1)
    assert backwards[:, 12, 12].tolist() == pytest.approx([170, 0, 85, 191], abs=1)


def test_sizes_are_of_each_feature() -> None:
    """Widths and radii may differ from feature to feature."""
    two = lines_(shapely.LineString([(0, 6), (24, 6)]), shapely.LineString([(0, 16), (24, 16)]))
    found = alpha(two, coat("line", BLACK, width=np.array([1.0, 5.0]), features=np.arange(2)))
    dots = alpha(
        points_((5, 5), (15, 15)), coat("circle", BLACK, radius=np.array([1.0, 6.0]), features=np.arange(2))
    )

    assert (found[:11, 12].sum(), found[11:, 12].sum()) == pytest.approx((1, 5), abs=0.02)
    assert dots.sum() == pytest.approx(np.pi * 37, rel=0.01)


def test_what_has_no_colour_or_size_is_left_out() -> None:
    """A value that is missing or no number hides its feature, and nothing else."""
    two = polygons_(shapely.box(0, 0, 8, 24), shapely.box(12, 0, 24, 24))
    colours = np.array([[np.nan, 0, 0, 1], [0, 0, 0, 1.0]])

    assert alpha(two, coat("fill", colours)).sum() == pytest.approx(288)
    assert not alpha(two, coat("line", BLACK, width=np.nan)).any()
    assert not alpha(two, coat("line", BLACK, width=np.array([0.0, -3.0]), features=np.arange(2))).any()
    assert not alpha(points_((3, 3)), coat("circle", BLACK, radius=-1.0)).any()
    assert not alpha(Shapes(NO_POINTS, NO_PATHS, NO_PATHS), coat("fill"), coat("line"), coat("circle")).any()


def test_lines_from_the_other_end_of_the_world_are_where_they_are() -> None:
    """Coordinates of a thousand million pixels cost neither time nor precision."""
    line = shapely.LineString([(-1e9, 12), (1e9, 12), (1e9, -1e9), (7, -1e9), (7, 1e9)])

    found = alpha(lines_(line), coat("line", BLACK, width=2))

    assert found[11:13].min() == found[:, 6:8].min() == 1
    assert found.sum() == pytest.approx(2 * 24 + 2 * 24 - 4, abs=0.1)


def test_pictures_do_not_depend_on_how_the_work_is_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches and strips are not seen."""
    chance = np.random.default_rng(3)
    places = chance.uniform(0, SIDE, (60, 2))
    shapes = Shapes(
        points_(*map(tuple, places)).points,
        lines(*(shapely.LineString(chance.uniform(-4, 28, (5, 2))) for _ in range(30))),
        rings(*(shapely.Point(place).buffer(5) for place in places)),
    )
    colours = chance.uniform(0, 1, (60, 4))
    painting = [
        coat("fill", colours),
        coat("line", colours[:30], features=np.arange(30), dash=(3, 2)),
        coat("circle", colours, radius=chance.uniform(1, 5, 60), stroke_width=1, stroke_colour=colours),
    ]
    whole = painted(shapes, painting, SIDE, SIDE).astype(int)

    monkeypatch.setattr(chosen, "_BATCH", 50)
    monkeypatch.setattr(coats, "_STRIP", 5 * SIDE)
    divided = painted(shapes, painting, SIDE, SIDE)

    assert np.abs(whole - divided)[:, whole[3] > 0].max() <= 1


@pytest.mark.parametrize("sorts", [0, 10**9], ids=["in rounds", "sorted"])
@pytest.mark.parametrize("opacity", [0.05, 0.9])
def test_circles_are_blended_in_their_order(
    monkeypatch: pytest.MonkeyPatch, opacity: float, sorts: int
) -> None:
    """However they are put together, each lies over those before it: as if painted one after the other."""
    chance = np.random.default_rng(11)
    count = 300
    places = chance.uniform(-3, SIDE + 3, (count, 2))
    shapes = points_(*map(tuple, places))
    values: dict[str, Any] = {
        "colour": np.column_stack([chance.uniform(0, 1, (count, 3)), np.full(count, opacity)]),
        "radius": chance.uniform(0.4, 6, count),
        "stroke_colour": chance.uniform(0, 1, (count, 4)),
        "stroke_width": chance.uniform(0, 2, count),
    }
    monkeypatch.setattr(circles, "_ROUND", sorts)
    monkeypatch.setattr(chosen, "_BATCH", 4000)
    single = [
        Paint("circle", np.array([at]), **{name: value[at : at + 1] for name, value in values.items()})
        for at in range(count)
    ]

    together = painted(shapes, [Paint("circle", np.arange(count), **values)], SIDE, SIDE).astype(int)

    assert np.abs(together - painted(shapes, single, SIDE, SIDE)).max() <= 1


def test_what_is_painted_below_stays() -> None:
    """A picture that is gone on with is as one that is painted at once."""
    first = coat("fill", (0.9, 0.1, 0.3, 0.5))
    second = coat("circle", (0.1, 0.5, 0.9, 0.4), radius=7)
    shapes = Shapes(points_((12, 12)).points, NO_PATHS, rings(shapely.box(2, 3, 15, 20)))

    below = painted(shapes, [first], SIDE, SIDE)
    found = painted(shapes, [second], SIDE, SIDE, below).astype(int)

    assert np.abs(found - painted(shapes, [first, second], SIDE, SIDE)).max() <= 2


def test_vertices_that_nobody_misses_are_left_out() -> None:
    """A long smooth line keeps its look with a part of its vertices, and its sharp turns."""
    turn = np.linspace(0, 2 * np.pi, 2000)
    curve = lines(shapely.LineString(np.column_stack([12 + 9 * np.cos(turn), 12 + 9 * np.sin(turn)])))
    zigzag = lines(shapely.LineString([(number * 0.01, 0.01 * (number % 2)) for number in range(100)]))

    thin = curve.thinned()
    both = [alpha(Shapes(NO_POINTS, one, NO_PATHS), coat("line", BLACK, width=2)) for one in (curve, thin)]

    assert len(thin.x) < 200
    assert np.abs(both[0] - both[1]).max() < 0.06
    assert len(zigzag.thinned().x) == 100


def test_many_features_take_bounded_memory() -> None:
    """What painting needs doesn't grow with the number of features beyond a few numbers for each."""
    chance = np.random.default_rng(5)
    count = 400_000
    x, y = chance.uniform(0, 256, (2, count))
    shapes = Shapes(Points(x, y, np.arange(count)), NO_PATHS, NO_PATHS)

    tracemalloc.start()
    try:
        rgba = painted(shapes, [coat("circle", chance.uniform(0, 1, (count, 4)), radius=1.5)], 256, 256)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert rgba[3].min() == 255
    assert peak < 250 * count + 60e6
