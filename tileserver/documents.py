"""Documents that describe a layer to map programs: pure functions of a ``Layer``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tileserver.styles import Style
from tileserver.tiles import Bounds, fit_zoom


@dataclass(frozen=True, slots=True)
class Layer:
    """A UDF as a map layer. ``bounds`` in degrees; ``fields`` maps attribute names to TileJSON's types.
    ``families`` are the kinds of geometry of features, ``ramp`` the colours along the values of a picture's
    only band."""

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
    families: tuple[str, ...] = ()
    ramp: tuple[tuple[float, str], ...] = ()


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


def style(layer: Layer, chosen: Style, tilejson_url: str, tiles_url: str) -> dict[str, Any]:
    """A MapLibre style that draws a layer: features from the ``tilejson_url`` by the layers of a style,
    pictures from the template ``tiles_url``."""
    west, south, east, north = layer.bounds
    document = {
        "version": 8,
        "name": layer.title,
        "metadata": {"tileserver:style": chosen.reference},
        "center": [(west + east) / 2, (south + north) / 2],
        # Of a map, whose tiles have 512 pixels where ours have 256.
        "zoom": max(_start_zoom(layer) - 1, 0),
    }
    if layer.format == "mvt":
        source: dict[str, Any] = {"type": "vector", "url": tilejson_url}
        return {
            **document,
            "sources": {"udf": source},
            "layers": [_drawn(one) for one in chosen.document["layers"]],
        }
    source = {"type": "raster", "tiles": [tiles_url], "tileSize": 256, "bounds": [west, south, east, north]}
    source |= {"minzoom": layer.minzoom, "maxzoom": layer.maxzoom, "attribution": layer.attribution}
    smooth = chosen.raster.resampling not in {None, "nearest"}
    paint = {"raster-resampling": "linear" if smooth else "nearest", "raster-fade-duration": 0}
    shown = {"id": "udf-raster", "type": "raster", "source": "udf", "paint": paint}
    return {**document, "sources": {"udf": source}, "layers": [shown]}


def _drawn(layer: Mapping[str, Any]) -> dict[str, Any]:
    """A layer of a style that draws what ours does: MapLibre would fill lines, and put circles on every
    vertex."""
    family = {"fill": "Polygon", "circle": "Point"}.get(layer["type"])
    given = layer.get("filter")
    if family is None or (given is not None and "geometry-type" in json.dumps(given)):
        return dict(layer)
    only = ["==", ["geometry-type"], family]
    return {**layer, "filter": only if given is None else ["all", given, only]}


def _start_zoom(layer: Layer) -> int:
    return min(max(fit_zoom(layer.bounds), layer.minzoom), layer.maxzoom)
