"""Documents that describe a layer to map programs: pure functions of a ``Layer``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tileserver.tiles import Bounds, fit_zoom


@dataclass(frozen=True, slots=True)
class Layer:
    """A UDF as a map layer. ``bounds`` in degrees; ``fields`` maps attribute names to TileJSON's types."""

    name: str
    title: str
    description: str
    format: str
    extension: str
    bounds: Bounds
    bounds_source: str
    minzoom: int
    maxzoom: int
    attribution: str
    fields: Mapping[str, str]
    revision: str


def tilejson(layer: Layer, tiles_url: str) -> dict[str, Any]:
    """TileJSON 3.0.0 of a layer; ``tiles_url`` is a template with ``{z}``, ``{x}`` and ``{y}``.

    ``format`` and ``tileserver:bounds_source`` are additions, which its section 3 allows.
    """
    west, south, east, north = layer.bounds
    document: dict[str, Any] = {
        "tilejson": "3.0.0",
        "name": layer.title,
        "description": layer.description,
        "attribution": layer.attribution,
        "scheme": "xyz",
        "tiles": [tiles_url],
        "minzoom": layer.minzoom,
        "maxzoom": layer.maxzoom,
        "bounds": [west, south, east, north],
        "center": [(west + east) / 2, (south + north) / 2, _start_zoom(layer)],
        "format": layer.format,
        "tileserver:bounds_source": layer.bounds_source,
    }
    if layer.format == "mvt":
        zooms = {"minzoom": layer.minzoom, "maxzoom": layer.maxzoom}
        fields = dict(layer.fields)
        document["vector_layers"] = [{"id": "udf", "fields": fields, "description": layer.title, **zooms}]
    return document


def _start_zoom(layer: Layer) -> int:
    return min(max(fit_zoom(layer.bounds), layer.minzoom), layer.maxzoom)
