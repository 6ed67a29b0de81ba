"""What map programs are told of a layer."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tileserver.documents import Layer, tilejson
from tileserver.tiles import WORLD, Bounds

URL = "https://tiles.example.org/fc_a/roads/run/tiles/{z}/{x}/{y}.mvt?_v=1"


def layer(**facts: Any) -> Layer:
    given: dict[str, Any] = {
        "name": "roads",
        "title": "Roads",
        "description": "All roads & paths",
        "format": "mvt",
        "extension": "mvt",
        "bounds": (5.0, 45.0, 11.0, 48.0),
        "bounds_source": "samples",
        "minzoom": 2,
        "maxzoom": 14,
        "attribution": "(c) us",
        "fields": {"name": "String", "lanes": "Number", "toll": "Boolean"},
        "revision": "1",
    }
    return Layer(**{**given, **facts})


def test_a_vector_layer_in_full() -> None:
    """TileJSON 3.0.0, 3.1 to 3.15: every key that says something, under its own name."""
    assert tilejson(layer(), URL) == {
        "tilejson": "3.0.0",
        "name": "Roads",
        "description": "All roads & paths",
        "attribution": "(c) us",
        "scheme": "xyz",
        "tiles": [URL],
        "minzoom": 2,
        "maxzoom": 14,
        "bounds": [5.0, 45.0, 11.0, 48.0],
        "center": [8.0, 46.5, 5],
        "vector_layers": [
            {
                "id": "udf",
                "description": "Roads",
                "minzoom": 2,
                "maxzoom": 14,
                "fields": {"name": "String", "lanes": "Number", "toll": "Boolean"},
            }
        ],
        "format": "mvt",
        "tileserver:bounds_source": "samples",
    }


def test_a_layer_without_attributes_has_an_empty_object_of_fields() -> None:
    """3.3.2: the key is there all the same."""
    assert tilejson(layer(fields={}), URL)["vector_layers"][0]["fields"] == {}


@pytest.mark.parametrize("picture", ["png", "jpeg", "webp"])
def test_pictures_have_no_vector_layers(picture: str) -> None:
    """3.3: the key is for formats with layers."""
    document = tilejson(layer(format=picture, fields={}), URL)

    assert "vector_layers" not in document
    assert document["format"] == picture


@pytest.mark.parametrize(
    ("bounds", "minzoom", "maxzoom", "zoom"),
    [
        (WORLD, 0, 22, 0),
        (WORLD, 3, 22, 3),
        ((5.0, 45.0, 11.0, 48.0), 0, 22, 5),
        ((5.0, 45.0, 11.0, 48.0), 0, 4, 4),
        ((8.0, 47.0, 8.0, 47.0), 0, 14, 14),
        ((-180.0, -90.0, 180.0, 90.0), 0, 22, 0),
    ],
    ids=["world", "world from 3", "country", "country to 4", "point", "with the poles"],
)
def test_a_map_opens_where_all_of_it_is_seen(bounds: Bounds, minzoom: int, maxzoom: int, zoom: int) -> None:
    """3.6: the middle of the bounds, as near as shows them whole, within the layer's zooms."""
    west, south, east, north = bounds
    document = tilejson(layer(bounds=bounds, minzoom=minzoom, maxzoom=maxzoom), URL)

    assert document["center"] == [(west + east) / 2, (south + north) / 2, zoom]


longitudes = st.floats(-180, 180)
latitudes = st.floats(-90, 90)
zooms = st.integers(0, 30)


@given(
    st.tuples(longitudes, longitudes),
    st.tuples(latitudes, latitudes),
    st.tuples(zooms, zooms),
    st.sampled_from(["mvt", "png"]),
)
def test_every_document_keeps_the_specification(
    lon: tuple[float, float], lat: tuple[float, float], zoom: tuple[int, int], kind: str
) -> None:
    """Types, ranges and relations of TileJSON 3.0.0, whatever the layer; as JSON that any parser reads."""
    box = (min(lon), min(lat), max(lon), max(lat))
    document = tilejson(layer(bounds=box, minzoom=min(zoom), maxzoom=max(zoom), format=kind), URL)

    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert re.fullmatch(r"\d+\.\d+\.\d+", document["tilejson"])
    assert all({"{z}", "{x}", "{y}"} <= set(re.findall(r"{.}", url)) for url in document["tiles"])
    west, south, east, north = document["bounds"]
    assert (-180 <= west <= east <= 180) and (-90 <= south <= north <= 90)
    assert 0 <= document["minzoom"] <= document["maxzoom"] <= 30
    x, y, z = document["center"]
    assert west <= x <= east and south <= y <= north
    assert isinstance(z, int) and document["minzoom"] <= z <= document["maxzoom"]
    for row in document.get("vector_layers", []):
        assert document["minzoom"] <= row["minzoom"] <= row["maxzoom"] <= document["maxzoom"]
        assert all(isinstance(description, str) for description in row["fields"].values())
