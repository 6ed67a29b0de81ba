"""The capabilities of a canvas for programs that speak WMTS 1.0.0 (OGC 07-057r7), as a pure function.

Tiles are asked for by the RESTful templates of the document (section 10), in the one matrix set
``WebMercatorQuad``. Each layer's limits say where it has tiles: its bounds, within its zooms. Of hundreds of
layers these are a megabyte of text, made as text: a tree of elements takes ten times as long.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final
from xml.sax.saxutils import escape

import mercantile

from tileserver.documents import Layer
from tileserver.formats import FORMATS
from tileserver.tiles import Bounds

TILE_SIZE: Final = 256
_MATRIX_SET: Final = "WebMercatorQuad"
_EDGE: Final = 20037508.342789244  # metres of EPSG:3857
_SCALE: Final = 559082264.0287178  # denominator of zoom 0 (annex E.4, GoogleMapsCompatible)
_ALL: Final = 18  # the last zoom of that scale set: a set that names it has them all
_NO_TEXT: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, 2.2
_ROOT: Final = (
    '<Capabilities xmlns="http://www.opengis.net/wmts/1.0" xmlns:ows="http://www.opengis.net/ows/1.1"'
    ' xmlns:xlink="http://www.w3.org/1999/xlink" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
    ' xsi:schemaLocation="http://www.opengis.net/wmts/1.0'
    ' http://schemas.opengis.net/wmts/1.0/wmtsGetCapabilities_response.xsd" version="1.0.0">'
)

# Gives the template of a layer's tiles for the last segments of the address.
TilesUrl = Callable[[Layer, str], str]


def capabilities(
    title: str, description: str, layers: Sequence[Layer], *, url: str, tiles_url: TilesUrl
) -> bytes:
    """The document, in UTF-8. ``url`` is its own address; ``tiles_url`` makes those of the tiles."""
    last = max((_ALL, *(layer.maxzoom for layer in layers)))
    parts = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        _ROOT,
        _service(title, description),
        "<Contents>",
        *("".join(_layer(layer, tiles_url)) for layer in layers),
        *_matrix_set(last),
        "</Contents>",
        f'<ServiceMetadataURL xlink:href="{_text(url)}"/>',
        "</Capabilities>\n",
    ]
    return "\n".join(parts).encode()


def _service(title: str, description: str) -> str:
    version = (
        "<ows:ServiceType>OGC WMTS</ows:ServiceType><ows:ServiceTypeVersion>1.0.0</ows:ServiceTypeVersion>"
    )
    about = _description(title, description)
    return f"<ows:ServiceIdentification>{about}{version}</ows:ServiceIdentification>"


def _layer(layer: Layer, tiles_url: TilesUrl) -> Iterator[str]:
    west, south, east, north = _with_area(layer.bounds, layer.maxzoom)
    # One format: some clients take the last template, whatever format they were asked for. Vectors are drawn.
    picture = FORMATS["png" if layer.format == "mvt" else layer.format]
    template = tiles_url(layer, f"{{TileMatrix}}/{{TileCol}}/{{TileRow}}.{picture.extensions[0]}")
    yield f"<Layer>{_description(layer.title, layer.description)}"
    yield f"<ows:WGS84BoundingBox><ows:LowerCorner>{west!r} {south!r}</ows:LowerCorner>"
    yield f"<ows:UpperCorner>{east!r} {north!r}</ows:UpperCorner></ows:WGS84BoundingBox>"
    yield f"<ows:Identifier>{_text(layer.name)}</ows:Identifier>"
    yield '<Style isDefault="true"><ows:Identifier>default</ows:Identifier></Style>'
    yield f"<Format>{picture.media_type}</Format>"
    yield f"<TileMatrixSetLink><TileMatrixSet>{_MATRIX_SET}</TileMatrixSet><TileMatrixSetLimits>"
    yield from _limits(layer)
    yield "</TileMatrixSetLimits></TileMatrixSetLink>"
    yield f'<ResourceURL format="{picture.media_type}" resourceType="tile" template="{_text(template)}"/>'
    yield "</Layer>"


def _with_area(box: Bounds, zoom: int) -> Bounds:
    """The bounds, or where they are less than a pixel of this zoom, those of the tile: clients can't show a
    layer that has no pixel."""
    west, south, east, north = box
    if min(east - west, north - south) >= 360 / 2**zoom / TILE_SIZE:
        return box
    first, last = mercantile.tile(west, north, zoom), mercantile.tile(east, south, zoom)
    corner, other = mercantile.bounds(first), mercantile.bounds(last)
    return min(west, corner.west), min(south, other.south), max(east, other.east), max(north, corner.north)


def _limits(layer: Layer) -> Iterator[str]:
    """The tiles that hold the bounds: those of the last zoom, and at each other one those above them."""
    west, south, east, north = layer.bounds
    first = mercantile.tile(west, north, layer.maxzoom)
    last = mercantile.tile(east, south, layer.maxzoom)
    right, bottom = max(first.x, last.x), max(first.y, last.y)
    for zoom in range(layer.minzoom, layer.maxzoom + 1):
        up = layer.maxzoom - zoom
        yield f"<TileMatrixLimits><TileMatrix>{zoom}</TileMatrix>"
        yield f"<MinTileRow>{first.y >> up}</MinTileRow><MaxTileRow>{bottom >> up}</MaxTileRow>"
        yield f"<MinTileCol>{first.x >> up}</MinTileCol><MaxTileCol>{right >> up}</MaxTileCol>"
        yield "</TileMatrixLimits>"


def _matrix_set(last: int) -> Iterator[str]:
    yield f"<TileMatrixSet><ows:Identifier>{_MATRIX_SET}</ows:Identifier>"
    yield "<ows:SupportedCRS>urn:ogc:def:crs:EPSG::3857</ows:SupportedCRS>"
    yield "<WellKnownScaleSet>urn:ogc:def:wkss:OGC:1.0:GoogleMapsCompatible</WellKnownScaleSet>"
    for zoom in range(last + 1):
        yield f"<TileMatrix><ows:Identifier>{zoom}</ows:Identifier>"
        yield f"<ScaleDenominator>{math.ldexp(_SCALE, -zoom)!r}</ScaleDenominator>"
        yield f"<TopLeftCorner>{-_EDGE!r} {_EDGE!r}</TopLeftCorner>"
        yield f"<TileWidth>{TILE_SIZE}</TileWidth><TileHeight>{TILE_SIZE}</TileHeight>"
        yield f"<MatrixWidth>{2**zoom}</MatrixWidth><MatrixHeight>{2**zoom}</MatrixHeight></TileMatrix>"
    yield "</TileMatrixSet>"


def _description(title: str, abstract: str) -> str:
    shown = f"<ows:Abstract>{_text(abstract)}</ows:Abstract>" if abstract else ""
    return f"<ows:Title>{_text(title)}</ows:Title>{shown}"


def _text(text: str) -> str:
    """A text in an element or between quotes, with a mark for each character that XML has no way to say."""
    return escape(_NO_TEXT.sub("\ufffd", text), {'"': "&quot;"})
