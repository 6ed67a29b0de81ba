"""The capabilities of a canvas for programs that speak WMTS 1.0.0 (OGC 07-057r7), as a pure function.

Tiles are asked for by the RESTful templates of the document (section 10), in the one matrix set
``WebMercatorQuad``. Each layer's limits say where it has tiles: its bounds, within its zooms.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Sequence
from typing import Final

import mercantile

from tileserver.documents import Layer
from tileserver.formats import FORMATS
from tileserver.tiles import Bounds

TILE_SIZE: Final = 256
_MATRIX_SET: Final = "WebMercatorQuad"
_EDGE: Final = 20037508.342789244  # metres of EPSG:3857
_SCALE: Final = 559082264.0287178  # denominator of zoom 0 (annex E.4, GoogleMapsCompatible)
_ALL: Final = 18  # the last zoom of that scale set: a set that names it has them all
_NAMESPACES: Final = {
    "xmlns": "http://www.opengis.net/wmts/1.0",
    "xmlns:ows": "http://www.opengis.net/ows/1.1",
    "xmlns:xlink": "http://www.w3.org/1999/xlink",
    "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance",
    "xsi:schemaLocation": "http://www.opengis.net/wmts/1.0"
    " http://schemas.opengis.net/wmts/1.0/wmtsGetCapabilities_response.xsd",
}
_NO_TEXT: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, 2.2

# Gives the template of a layer's tiles for the last segments of the address.
TilesUrl = Callable[[Layer, str], str]


def capabilities(
    title: str, description: str, layers: Sequence[Layer], *, url: str, tiles_url: TilesUrl
) -> bytes:
    """The document, in UTF-8. ``url`` is its own address; ``tiles_url`` makes those of the tiles."""
    root = ET.Element("Capabilities", {**_NAMESPACES, "version": "1.0.0"})
    service = _add(root, "ows:ServiceIdentification")
    _describe(service, title, description)
    _add(service, "ows:ServiceType", "OGC WMTS")
    _add(service, "ows:ServiceTypeVersion", "1.0.0")
    contents = _add(root, "Contents")
    for layer in layers:
        _add_layer(contents, layer, tiles_url)
    _add_matrix_set(contents, max((_ALL, *(layer.maxzoom for layer in layers))))
    _add(root, "ServiceMetadataURL", **{"xlink:href": url})
    body: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return body


def _add_layer(contents: ET.Element, layer: Layer, tiles_url: TilesUrl) -> None:
    element = _add(contents, "Layer")
    _describe(element, layer.title, layer.description)
    west, south, east, north = _with_area(layer.bounds, layer.maxzoom)
    box = _add(element, "ows:WGS84BoundingBox")
    _add(box, "ows:LowerCorner", f"{west!r} {south!r}")
    _add(box, "ows:UpperCorner", f"{east!r} {north!r}")
    _add(element, "ows:Identifier", layer.name)
    style = _add(element, "Style", isDefault="true")
    _add(style, "ows:Identifier", "default")
    # One format: some clients take the last template, whatever format they were asked for. Vectors are drawn.
    picture = FORMATS["png" if layer.format == "mvt" else layer.format]
    _add(element, "Format", picture.media_type)
    link = _add(element, "TileMatrixSetLink")
    _add(link, "TileMatrixSet", _MATRIX_SET)
    _add_limits(_add(link, "TileMatrixSetLimits"), layer)
    template = tiles_url(layer, f"{{TileMatrix}}/{{TileCol}}/{{TileRow}}.{picture.extensions[0]}")
    about = {"format": picture.media_type, "resourceType": "tile", "template": _text(template)}
    _add(element, "ResourceURL", **about)


def _with_area(box: Bounds, zoom: int) -> Bounds:
    """The bounds, or where they are less than a pixel of this zoom, those of the tile: clients can't show a
    layer that has no pixel."""
    west, south, east, north = box
    if min(east - west, north - south) >= 360 / 2**zoom / TILE_SIZE:
        return box
    first_column, first_row, last_column, last_row = _range(box, zoom)
    corner = mercantile.bounds(first_column, first_row, zoom)
    other = mercantile.bounds(last_column, last_row, zoom)
    return min(west, corner.west), min(south, other.south), max(east, other.east), max(north, corner.north)


def _add_limits(limits: ET.Element, layer: Layer) -> None:
    for zoom in range(layer.minzoom, layer.maxzoom + 1):
        first_column, first_row, last_column, last_row = _range(layer.bounds, zoom)
        row = _add(limits, "TileMatrixLimits")
        _add(row, "TileMatrix", str(zoom))
        _add(row, "MinTileRow", str(first_row))
        _add(row, "MaxTileRow", str(last_row))
        _add(row, "MinTileCol", str(first_column))
        _add(row, "MaxTileCol", str(last_column))


def _range(box: Bounds, zoom: int) -> tuple[int, int, int, int]:
    """First column and row, last column and row of the tiles that hold the bounds."""
    west, south, east, north = box
    first, last = mercantile.tile(west, north, zoom), mercantile.tile(east, south, zoom)
    return first.x, first.y, max(first.x, last.x), max(first.y, last.y)


def _add_matrix_set(contents: ET.Element, last: int) -> None:
    matrix_set = _add(contents, "TileMatrixSet")
    _add(matrix_set, "ows:Identifier", _MATRIX_SET)
    _add(matrix_set, "ows:SupportedCRS", "urn:ogc:def:crs:EPSG::3857")
    _add(matrix_set, "WellKnownScaleSet", "urn:ogc:def:wkss:OGC:1.0:GoogleMapsCompatible")
    for zoom in range(last + 1):
        matrix = _add(matrix_set, "TileMatrix")
        _add(matrix, "ows:Identifier", str(zoom))
        _add(matrix, "ScaleDenominator", repr(math.ldexp(_SCALE, -zoom)))
        _add(matrix, "TopLeftCorner", f"{-_EDGE!r} {_EDGE!r}")
        _add(matrix, "TileWidth", str(TILE_SIZE))
        _add(matrix, "TileHeight", str(TILE_SIZE))
        _add(matrix, "MatrixWidth", str(2**zoom))
        _add(matrix, "MatrixHeight", str(2**zoom))


def _describe(parent: ET.Element, title: str, abstract: str) -> None:
    _add(parent, "ows:Title", title)
    if abstract:
        _add(parent, "ows:Abstract", abstract)


def _add(parent: ET.Element, tag: str, text: str = "", **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, tag, attributes)
    if text:
        element.text = _text(text)
    return element


def _text(text: str) -> str:
    """A text with a mark for each character that XML has no way to say."""
    return _NO_TEXT.sub("\ufffd", text)
