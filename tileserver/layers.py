"""What map documents say of a UDF: from ``canvas.toml``, else from what its tiles have in them; its style,
and the legend of that."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from mercantile import Tile

from tileserver import __version__
from tileserver.documents import Layer
from tileserver.errors import BadRequest, NotFound, Overloaded, TileServerError
from tileserver.formats import FORMATS, PICTURES
from tileserver.params import Address, Call, QueryItems, build_call, style_of
from tileserver.pipeline import answer, settled
from tileserver.protocol import Encoded, Json, Source
from tileserver.services import Services
from tileserver.signature import read
from tileserver.styles import Style
from tileserver.styles import legend as legends
from tileserver.tiles import MAX_ZOOM, WORLD, Bounds, bounding_tile, bounds, clipped, reaching, sample_tile
from tileserver.udf import Udf, UdfSettings

_SAMPLES: Final = 8
_AT_ONCE: Final = 8  # UDFs that are described side by side
_PATIENCE: Final = 15.0  # seconds for all of a canvas
_DEEPEST: Final = 22  # zoom to which a layer goes that sets no limit itself


async def describe(call: Call, services: Services) -> Layer:
    """What map documents say of a UDF: from ``canvas.toml``, else from sample runs from zoom 0 down.

    ``call`` is a tile call; its arguments and formats are those of the document's tiles. What has been found
    out is kept for a minute, whatever the UDF's own results are kept for.

    :raises NotFound: when what the UDF returns is nothing to put on a map.
    """
    key = call.cache_key()
    known = services.described.get(key)
    if isinstance(known, Layer):
        return known
    layer, reads_caller = await _described(call, services)
    if not reads_caller:
        services.described.set(key, layer)
    return layer


async def describe_all(calls: Sequence[Call], services: Services) -> list[Layer]:
    """The layers among these UDFs. One that fails, or returns nothing for a map, is left out; one that is a
    layer by its settings or signature and can't be looked at in time is taken to show the whole world."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(call: Call) -> Layer | None:
        key = call.cache_key()
        if isinstance(services.described.get(key), TileServerError):
            return None
        async with gate:
            try:
                return await describe(call, services)
            except Overloaded:
                return _unseen(call)
            except TileServerError as error:
                if not getattr(error, "read_caller", False):
                    services.described.set(key, error)
                return None

    tasks = [asyncio.create_task(one(call)) for call in calls]
    try:
        if tasks:
            await asyncio.wait(tasks, timeout=_PATIENCE)
        found = [
            task.result() if task.done() else _unseen(call) for call, task in zip(calls, tasks, strict=True)
        ]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [layer for layer in found if layer is not None]


async def _described(call: Call, services: Services) -> tuple[Layer, bool]:
    """The layer, and whether a sample of it depends on who asked."""
    sample = await _sample(call, services)
    kind = sample.meta.get("format", "")
    if kind != "mvt" and kind not in PICTURES:
        raise NotFound(f"{call.udf.name} returns {sample.meta.get('kind')}, which is no map layer")
    if not _differs_by_tile(call.udf, sample):
        raise NotFound(f"{call.udf.name} returns a picture without bounds, which is no map layer")
    box, source, seen = call.udf.settings.bounds, "canvas.toml", [sample]
    if box is None:
        box, source = await _data_bounds(call, seen, services)
    fields: dict[str, Any] = {}
    for encoded in seen:
        fields = {**encoded.meta.get("fields", {}), **fields}
    layer = _layer(call, kind, clipped(box) or WORLD, source, {**sample.meta, "fields": fields})
    return layer, any(encoded.meta.get("read_caller") for encoded in seen)


def _differs_by_tile(udf: Udf, sample: Encoded) -> bool:
    """Whether the tiles of a UDF can be others than the same picture everywhere."""
    return udf.is_layer or bool(udf.signature.filled_by_tile) or sample.meta.get("placed", True)


def _layer(call: Call, kind: str, box: Bounds, source: str, meta: Mapping[str, Any]) -> Layer:
    """A layer of a kind; of what a sample says, its fields, families of geometry and colours count."""
    if meta.get("families"):
        box = reaching(box)
    settings = call.udf.settings
    deepest = settings.maxzoom if settings.maxzoom is not None else max(_DEEPEST, settings.minzoom)
    return Layer(
        name=call.udf.name,
        title=call.udf.title,
        description=call.udf.description,
        format=kind,
        extension=FORMATS[kind].extensions[0],
        bounds=box,
        bounds_source=source,
        minzoom=min(settings.minzoom, deepest),
        maxzoom=deepest,
        attribution=settings.attribution,
        fields=dict(meta.get("fields", {})),
        revision=call.udf.revision,
        families=tuple(str(family) for family in meta.get("families", ())),
        ramp=tuple((float(value), str(colour)) for value, colour in meta.get("ramp", ())),
    )


def _unseen(call: Call) -> Layer:
    """A layer of which only its settings are known: pictures, which every layer can give."""
    box = call.udf.settings.bounds
    source = "world" if box is None else "canvas.toml"
    return _layer(call, "png", (box and clipped(box)) or WORLD, source, {})


async def style(call: Call, query: QueryItems, services: Services) -> Style:
    """The style that features of a tile call are drawn with.

    :raises BadRequest: for an unknown style, or one that asks for more than the data says.
    """
    return await settled(style_of(call.udf, query), call, services)


async def legend(call: Call, query: QueryItems, services: Services) -> dict[str, Any]:
    """The legend of a tile call: ``name``, ``title``, ``unit`` and ``items``.

    :raises NotFound: when what the UDF returns is nothing to put on a map.
    """
    layer = await describe(call, services)
    chosen = await style(call, query, services)
    if layer.families or layer.ramp:
        return legends.legend(chosen, layer.families, () if layer.families else layer.ramp)
    # A picture in colours, which mean what they show.
    return {"name": chosen.name, "title": "", "unit": "", "items": []}


async def legend_call(call: Call, query: QueryItems, services: Services) -> Call:
    """The call that draws the legend of a tile call, in a worker of its canvas: the web process draws
    nothing.

    :raises BadRequest: for a ``scale`` or ``theme`` that there isn't.
    """
    asked = {name: value for name, value in query if name not in call.udf.signature.names}
    scale, theme = asked.get("scale") or "1", asked.get("theme") or "light"
    if scale not in {"1", "2", "3", "4"}:
        raise BadRequest(f"scale takes a whole number from 1 to 4, not {scale[:40]!r}")
    if theme not in {"light", "dark"}:
        raise BadRequest(f"theme takes light or dark, not {theme[:40]!r}")
    name = call.udf.name
    digest = hashlib.blake2b(f"{__version__} {name}\n{_LEGEND}".encode(), digest_size=12).hexdigest()
    bundle = replace(
        call.bundle,
        id=f"legend-{digest}",
        files={"legend.py": _LEGEND},
        udfs={name: Source("legend.py", "tileserver_legend", {}, {})},
        foreign={},
    )
    udf = replace(call.udf, signature=read(_LEGEND), settings=UdfSettings(), defaults={})
    arguments: dict[str, Json] = {
        "legend": await legend(call, query, services),
        "scale": int(scale),
        "theme": theme,
    }
    drawn = build_call(
        *(udf, bundle, Address(extension="png"), ()),
        limits=services.limits,
        arguments=arguments,
        caller=replace(call.caller, headers={}),
    )
    return replace(drawn, max_age=call.max_age, style=None)


_LEGEND: Final = """
import fused
from tileserver.render.legend import draw

@fused.udf
def tileserver_legend(legend: dict, scale: int, theme: str):
    return draw(legend, scale=scale, theme=theme)
"""


async def _sample(call: Call, services: Services) -> Encoded:
    """The tile that shows most."""
    tile = sample_tile(call.udf.settings.bounds, call.udf.settings.minzoom)
    return (await answer(replace(call, tile=tile), services)).stored.encoded


async def _data_bounds(call: Call, seen: list[Encoded], services: Services) -> tuple[Bounds, str]:
    """Bounds of the data, narrowed down tile by tile as long as that makes them finer. ``seen`` holds the
    first sample, and then the others."""
    tile = Tile(x=0, y=0, z=0)
    box = _bounds_of(seen[0])
    if box is None:
        return WORLD, "world"
    for _ in range(_SAMPLES - 1):
        finer = bounding_tile(box)
        if finer.z <= tile.z or finer.z > min(MAX_ZOOM, call.udf.settings.maxzoom or MAX_ZOOM):
            break
        tile = finer
        seen.append((await answer(replace(call, tile=tile), services)).stored.encoded)
        narrowed = _bounds_of(seen[-1])
        if narrowed is None or _same(narrowed, bounds(tile)):
            break
        box = narrowed
    return box, "samples"


def _bounds_of(encoded: Encoded) -> Bounds | None:
    found = encoded.meta.get("bounds")
    if not isinstance(found, list) or len(found) != 4:
        return None
    west, south, east, north = (float(number) for number in found)
    return clipped((west, south, east, north))


def _same(one: Bounds, other: Bounds) -> bool:
    return all(abs(a - b) < 1e-9 for a, b in zip(one, other, strict=True))
