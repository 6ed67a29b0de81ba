"""What map documents say of a UDF: from ``canvas.toml``, else from what its tiles have in them."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from mercantile import Tile

from tileserver.documents import Layer
from tileserver.errors import NotFound
from tileserver.formats import FORMATS, PICTURES
from tileserver.params import Call
from tileserver.pipeline import Services, answer
from tileserver.protocol import Encoded
from tileserver.tiles import MAX_ZOOM, WORLD, Bounds, bounding_tile, bounds

_SAMPLES: Final = 8


async def describe(call: Call, services: Services) -> Layer:
    """What map documents say of a UDF: from ``canvas.toml``, else from sample runs from zoom 0 down.

    ``call`` is a tile call; its arguments and formats are those of the document's tiles.

    :raises NotFound: when what the UDF returns is nothing to put on a map.
    """
    settings = call.udf.settings
    sample = await _sample(call, services)
    kind = sample.meta.get("format", "")
    if kind != "mvt" and kind not in PICTURES:
        raise NotFound(f"{call.udf.name} returns {sample.meta.get('kind')}, which is no map layer")
    box, source = settings.bounds, "canvas.toml"
    if box is None:
        box, source = await _data_bounds(call, sample, services)
    return Layer(
        name=call.udf.name,
        title=call.udf.title,
        description=call.udf.description,
        format=kind,
        extension=FORMATS[kind].extensions[0],
        bounds=box,
        bounds_source=source,
        minzoom=settings.minzoom,
        maxzoom=settings.maxzoom if settings.maxzoom is not None else 22,
        attribution=settings.attribution,
        fields=dict(sample.meta.get("fields", {})),
        revision=call.udf.revision,
    )


async def _sample(call: Call, services: Services) -> Encoded:
    """The tile that shows most: that of the bounds where they are known, else the whole world."""
    box = call.udf.settings.bounds
    tile = bounding_tile(box) if box is not None else Tile(x=0, y=0, z=0)
    return (await answer(replace(call, tile=tile), services)).stored.encoded


async def _data_bounds(call: Call, sample: Encoded, services: Services) -> tuple[Bounds, str]:
    """Bounds of the data, narrowed down tile by tile as long as that makes them finer."""
    tile = Tile(x=0, y=0, z=0)
    box = _bounds_of(sample)
    if box is None:
        return WORLD, "world"
    for _ in range(_SAMPLES - 1):
        finer = bounding_tile(box)
        if finer.z <= tile.z or finer.z > min(MAX_ZOOM, call.udf.settings.maxzoom or MAX_ZOOM):
            break
        tile = finer
        narrowed = _bounds_of((await answer(replace(call, tile=tile), services)).stored.encoded)
        if narrowed is None or _same(narrowed, bounds(tile)):
            break
        box = narrowed
    return box, "samples"


def _bounds_of(encoded: Encoded) -> Bounds | None:
    found = encoded.meta.get("bounds")
    if not isinstance(found, list) or len(found) != 4:
        return None
    west, south, east, north = (float(number) for number in found)
    clipped = (max(west, WORLD[0]), max(south, WORLD[1]), min(east, WORLD[2]), min(north, WORLD[3]))
    return clipped if clipped[0] <= clipped[2] and clipped[1] <= clipped[3] else None


def _same(one: Bounds, other: Bounds) -> bool:
    return all(abs(a - b) < 1e-9 for a, b in zip(one, other, strict=True))
