"""What map documents say of a UDF: from ``canvas.toml``, else from what its tiles have in them; its style,
and the legend of that."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any, Final

from mercantile import Tile

from tileserver import __version__
from tileserver.documents import Layer
from tileserver.errors import BadRequest, NotFound
from tileserver.formats import FORMATS, PICTURES
from tileserver.params import Address, Call, QueryItems, build_call, style_of
from tileserver.pipeline import Services, answer, settled
from tileserver.protocol import Encoded, Json, Source
from tileserver.signature import read
from tileserver.styles import Style
from tileserver.styles import legend as legends
from tileserver.tiles import MAX_ZOOM, WORLD, Bounds, bounding_tile, bounds, sample_tile
from tileserver.udf import UdfSettings

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
        families=tuple(str(family) for family in sample.meta.get("families", ())),
        ramp=tuple((float(value), str(colour)) for value, colour in sample.meta.get("ramp", ())),
    )


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
    tile = sample_tile(call.udf.settings.bounds)
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
