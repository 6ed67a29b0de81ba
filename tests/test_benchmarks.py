"""The benchmarks run, and a small sample keeps a bound that a busy machine keeps, too."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks import cache, cog, mvt, png, refusals, scenes, soak, tile_servers

ROOT = Path(__file__).parent.parent


def test_refusals_are_quick_and_run_nothing(tmp_path: Path) -> None:
    """Four times the bound of the benchmark, over all kinds; each with its status and a message."""
    with refusals.serving(tmp_path) as place:
        times = sorted(
            time
            for kind in refusals.kinds(place)
            for time in refusals.measure(place, kind, requests=20, connections=2)
        )

        assert refusals.percentile(times, 0.99) < 4 * refusals.BOUND
        assert not place.ran


def test_a_refusal_of_another_status_is_an_error(tmp_path: Path) -> None:
    """Fast, but wrong, is not measured."""
    with refusals.serving(tmp_path) as place:
        wrong = refusals.Kind("no refusal", 404, "/healthz")

        with pytest.raises(RuntimeError, match="no refusal: 200"):
            refusals.measure(place, wrong, requests=1, connections=1)


@pytest.mark.parametrize(("share", "expected"), [(0.0, 1.0), (0.5, 51.0), (0.99, 100.0), (1.0, 100.0)])
def test_percentiles(share: float, expected: float) -> None:
    """Of a hundred values."""
    assert refusals.percentile([float(n) for n in range(1, 101)], share) == expected


def test_the_documented_figures_name_every_kind() -> None:
    """docs/benchmarks.md was written from a run of this version."""
    place = refusals.Place("", Path(), "fc_a", "fc_b", "s")
    rows = re.findall(
        r"^\| ([^|]+) \| +[\d.]+ \| +[\d.]+ \| +[\d.]+ \|$",
        (ROOT / "docs/benchmarks.md").read_text(),
        re.MULTILINE,
    )

    assert [row.strip() for row in rows] == [*(kind.name for kind in refusals.kinds(place)), "**all**"]


@pytest.mark.parametrize("case", png.cases(256), ids=lambda case: case.name)
def test_png_is_much_faster_than_the_peers(case: png.Case) -> None:
    """The same pixels, at a third of the speed that is aimed at, in no more bytes than that."""
    png.check(case)

    found = png.ratios(png.measure(case, rounds=9))

    assert found[png.PILLOW][0] > case.aim.pillow / 3
    assert found[png.RIO_TILER][0] > case.aim.rio_tiler / 3
    assert found[png.PILLOW][1] <= case.aim.size


def test_other_pixels_are_not_measured() -> None:
    """An encoder that writes another picture is an error that names it."""
    case = png.cases(64)[0]
    other = partial(png.ours, np.zeros((3, 64, 64), np.uint8))

    with pytest.raises(RuntimeError, match="RGB 64: the pixels of tileserver"):
        png.check(replace(case, encoders={**case.encoders, png.OURS: other}))


def test_the_documented_figures_name_every_picture() -> None:
    """docs/benchmarks.md was written from a run of these pictures."""
    text = (ROOT / "docs/benchmarks.md").read_text()
    expected = [
        (case.name, name) for side in (256, 512) for case in png.cases(side) for name in case.encoders
    ]

    found = re.findall(r"^\| ([^|]+?) +\| ([^|]+?) +\|(?: +[\d.]+ \|){6}$", text, re.MULTILINE)

    assert found == expected


@pytest.mark.filterwarnings(
    "ignore:The 'shapely.ops.transform:DeprecationWarning"
)  # mapbox-vector-tile calls it
@pytest.mark.parametrize("kind", ["points", "buildings", "large", "lines"])
@pytest.mark.parametrize("crs", [3857, 4326])
def test_vector_tiles_that_are_timed_agree(kind: str, crs: int) -> None:
    """Each kind of layer has the same features, properties and shapes both ways, and no invalid polygon."""
    frame = mvt.layer(kind, 100, crs=crs)
    ours = mvt.Features.of(mvt.ours(frame))

    found = mvt.differences(ours, mvt.Features.of(mvt.obvious(frame)))

    assert found == mvt.Differences(compared=len(ours.shapes), absent=0, extra=0, properties=0, far=0)
    assert ours.shapes and not ours.invalid


def test_a_vector_tile_that_differs_is_told() -> None:
    """A feature missing, one too many, a property changed, a shape moved: none goes unseen."""
    frame = mvt.layer("buildings", 100)
    moved = frame.iloc[1:].copy()
    moved.geometry = moved.geometry.translate(50, 0)
    ours = mvt.Features.of(mvt.ours(frame))

    found = mvt.differences(ours, mvt.Features.of(mvt.ours(moved.assign(floors=0))))

    assert found.far and found.properties and found.absent
    assert not found.within(0.5)


def test_ratios_are_of_the_same_round() -> None:
    """The median of ratios, not the ratio of medians: load comes and goes."""
    contest = mvt.Contest({"ours": [1.0, 10.0, 1.0], "obvious": [20.0, 200.0, 30.0]})

    assert contest.ratio("obvious", "ours") == 20.0


def test_a_larger_cache_costs_no_more(tmp_path: Path) -> None:
    """Four times the bounds of the benchmark, at a fiftieth of its size."""
    small = cache.ours(tmp_path / "small", 1000, 100, samples=1000)
    large = cache.ours(tmp_path / "large", 20_000, 100, samples=1000)

    assert large.get50 < 4 * cache.BOUND * small.get50
    assert large.opened < 4 * cache.OPENING
    assert large.evicted > 0


def test_the_peer_of_the_cache_is_measured_alike(tmp_path: Path) -> None:
    """It finds, stores, purges and makes room for the same entries."""
    theirs = cache.theirs(tmp_path, 1000, 100, samples=200)

    assert theirs.entries == 1000
    assert min(theirs.get50, theirs.set50, theirs.written, theirs.purge, theirs.evicted) > 0


def test_a_short_soak_finds_nothing(tmp_path: Path) -> None:
    """Two web processes, edits and kills, for some seconds: no wrong byte, nothing lost that need not be."""
    report = soak.soak(tmp_path / "soak", 8)

    assert report.problems == []
    assert all(report.times[kind] for kind in ("hit", "miss", "head", "range", "unchanged", "fails"))
    assert report.events["edits"] > 0


def test_rasters_that_are_read_agree(tmp_path: Path) -> None:
    """Ours within 0.02 % of exact pixels, peers the same picture, times of all, at native resolution."""
    cases = [case for case in cog.cases(tmp_path, 2048) if case.level is None]
    assert len(cases) == 5
    for case in cases:
        tiles = case.scene.inside(case.zoom)[:2]
        found, close = cog.readers(case)

        shares = cog.check(case, found, tiles)
        times = cog.measure(case, found, tiles)
        close()

        assert shares[cog.OURS] <= 0.0002 and shares.keys() == times.times.keys()
        assert all(len(values) == len(tiles) for values in times.times.values())


def test_a_raster_that_is_read_wrongly_is_not_timed(tmp_path: Path) -> None:
    """Pixels beside those wanted are an error that says how many."""
    case = cog.cases(tmp_path, 2048)[0]
    found, close = cog.readers(case)
    shifted = {**found, cog.OURS: lambda tile: np.roll(found[cog.OURS](tile), 1, axis=-1)}

    with pytest.raises(RuntimeError, match="of our pixels are off"):
        cog.check(case, shifted, case.scene.inside(case.zoom)[:1])
    close()


def test_every_tile_is_asked_for_once(tmp_path: Path) -> None:
    """So that no cache of tiles is measured; all zooms are there from the beginning."""
    tiles = tile_servers.drawn(scenes.imagery(tmp_path, 4096))

    assert len(set(tiles)) == len(tiles)
    assert {tile.z for tile in tiles[:60]} == {15, 16, 17, 18}


def test_our_server_answers_with_the_rasters_pixels(tmp_path: Path) -> None:
    """As the benchmark starts and asks it; the same server twice gives the same pictures."""
    scene = scenes.imagery(tmp_path, 2048)
    tiles = scene.inside(17)[:4]
    with tile_servers.ours(scene) as server:
        differing = tile_servers.check((server, server), tiles)
        _, times = tile_servers.turn(server, tiles)

    assert differing == 0 and len(times) == 4


def test_another_picture_is_not_timed(tmp_path: Path) -> None:
    """Two servers that disagree."""
    scene = scenes.imagery(tmp_path, 2048)
    tile = scene.inside(17)[0]
    with tile_servers.ours(scene) as server:
        beside = (server[0], lambda tile: server[1](tile._replace(x=tile.x + 1)))

        with pytest.raises(RuntimeError, match="pictures differ"):
            tile_servers.check((server, beside), [tile])
