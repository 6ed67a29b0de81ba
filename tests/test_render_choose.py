"""Which format is chosen for a kind of value from what was asked."""

from __future__ import annotations

import pytest
from mercantile import Tile

from tileserver.errors import UnsupportedOutput
from tileserver.formats import FORMATS, Kind
from tileserver.protocol import Default, Job
from tileserver.render import Encoder, choose, encode, encoder

CLIENT = ("npy", "tiff", "parquet", "json")


@pytest.mark.parametrize(
    ("kind", "chosen"),
    [
        (Kind.RASTER, "npy"),
        (Kind.ARRAY, "npy"),
        (Kind.GEORASTER, "tiff"),
        (Kind.TABLE, "parquet"),
        (Kind.FEATURES, "parquet"),
        (Kind.SIMPLE, "json"),
        (Kind.TEXT, "json"),
    ],
)
def test_python_clients_list_gives_each_kind_its_format(kind: Kind, chosen: str) -> None:
    """The list that the Python client always sends leads to the formats it reads back."""
    assert choose(kind, CLIENT, "data").name == chosen


@pytest.mark.parametrize(
    ("kind", "default", "chosen"),
    [
        (Kind.TABLE, "data", "json"),
        (Kind.TABLE, "page", "html"),
        (Kind.TABLE, "tile", "json"),
        (Kind.FEATURES, "data", "json"),
        (Kind.FEATURES, "tile", "mvt"),
        (Kind.RASTER, "data", "png"),
        (Kind.GEORASTER, "tile", "png"),
        (Kind.IMAGE, "page", "html"),
        (Kind.SIMPLE, "tile", "json"),
        (Kind.TEXT, "data", "html"),
    ],
)
def test_nothing_asked_gives_the_default_of_the_mode(kind: Kind, default: Default, chosen: str) -> None:
    """Without a format each mode has its own default for each kind."""
    assert choose(kind, (), default).name == chosen


@pytest.mark.parametrize(
    ("kind", "wanted", "chosen"),
    [
        (Kind.TABLE, ("geojson", "png"), "geojson"),
        (Kind.RASTER, ("geojson", "png"), "png"),
        (Kind.FEATURES, ("png", "mvt"), "mvt"),
        (Kind.TABLE, ("png", "tiff"), "json"),
        (Kind.TABLE, ("vector:csv", "raster:png"), "csv"),
        (Kind.RASTER, ("vector:csv", "raster:png"), "png"),
        (Kind.FEATURES, ("vector:png", "raster:tiff"), "png"),
        (Kind.TEXT, ("html", "json"), "html"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, tuple) else str(value),
)
def test_first_fitting_format_of_a_list_is_taken(kind: Kind, wanted: tuple[str, ...], chosen: str) -> None:
    """A list is an order of preference; one without any fit gives the kind's default."""
    assert choose(kind, wanted, "data").name == chosen


@pytest.mark.parametrize(("default", "picture"), [("tile", True), ("value", False)])
@pytest.mark.parametrize("formats", [(), ("png",)])
def test_nothing_in_a_tile_is_a_picture_for_maps_only(
    default: Default, picture: bool, formats: tuple[str, ...]
) -> None:
    """Who posts code asks for a value: no data has no bytes there."""
    job = Job("c", "b", "u", {}, formats, default, tile=Tile(x=0, y=0, z=0))

    body, _, facts = encode(None, job)

    assert bool(body) is picture
    assert facts["empty"] is True


def test_features_alone_asked_as_png_are_drawn() -> None:
    """A picture is possible for features when it is the only format asked for."""
    assert choose(Kind.FEATURES, ("png",), "tile").name == "png"


@pytest.mark.parametrize(
    ("kind", "only", "able"),
    [(Kind.TABLE, "png", "csv"), (Kind.RASTER, "parquet", "tiff"), (Kind.SIMPLE, "mvt", "json")],
)
def test_single_format_that_cannot_hold_the_kind_is_refused(kind: Kind, only: str, able: str) -> None:
    """One explicit format that doesn't fit is an error which names those that do."""
    with pytest.raises(UnsupportedOutput, match=rf"^Result serialization failed: {only} can't hold .*{able}"):
        choose(kind, (only,), "data")


@pytest.mark.parametrize("name", FORMATS)
def test_every_row_of_the_table_names_an_encoder(name: str) -> None:
    """The import path of each format leads to a callable."""
    found: Encoder = encoder(FORMATS[name])

    assert callable(found)
