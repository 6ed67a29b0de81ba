"""What code may reach: the sources that it names, and the UDFs that it calls by a token or by name."""

from __future__ import annotations

import hashlib

from tileserver import paths
from tileserver.access import Access, Credentials, Grant, Identity
from tileserver.canvas import DEFAULT_CANVAS
from tileserver.catalog import Catalog
from tileserver.errors import (
    Forbidden,
    UnknownToken,
    UnknownUdf,
)
from tileserver.loading import complete, is_address, is_token
from tileserver.protocol import Bundle, Foreign
from tileserver.services import Doors
from tileserver.udf import Udf


def name_of(grant: Grant, asked: str | None) -> str:
    """A token of one UDF names it itself; what its path adds is an extension."""
    if grant.udf is None:
        return asked or ""
    return grant.udf if not asked else f"{grant.udf}.{asked}"


async def with_sources(udf: Udf, bundle: Bundle, services: Doors) -> tuple[Udf, Bundle]:
    """A UDF and its bundle with the sources from elsewhere that its code names."""
    return await complete(udf, bundle, lambda name: source(name, bundle, services))


async def source(name: str, bundle: Bundle, services: Doors) -> Foreign:
    """The source of an address, or of a UDF whose code the bundle's owner may read.

    :raises NotFound: when there is none.
    :raises Forbidden: when the owner may not read it.
    """
    if is_address(name):
        return await services.sources.load(name)
    grant, udf = await reached(name, bundle, services)
    if grant is None:
        return _as_foreign((await services.catalog.canvas(bundle.canvas)).bundle, udf)
    if not grant.may_read_code:
        raise Forbidden(f"the code of {udf or grant.udf!r} may not be read; run the UDF instead")
    found = await services.catalog.resolve(grant.canvas, name_of(grant, udf or None))
    if not grant.reaches(found.udf.name) or found.extension is not None:
        raise UnknownUdf(f"no UDF called {udf!r} here")
    return _as_foreign(found.bundle, found.udf.name)


def _as_foreign(bundle: Bundle, name: str) -> Foreign:
    source = bundle.udfs.get(name)
    if source is None:
        raise UnknownUdf(f"no UDF called {name!r} here")
    files = {path: bundle.files[path] for path in {source.path, *source.modules.values()}}
    digest = hashlib.blake2b(f"{bundle.id}/{name}".encode(), digest_size=16).hexdigest()
    return Foreign(name, source.entry, source.path, files, source.modules, source.defaults, digest)


async def reached(name: str, bundle: Bundle, services: Doors) -> tuple[Grant | None, str]:
    """What a name opens for a bundle's owner, and the UDF's name in it; no grant for the owner's own canvas.

    A token opens what it opens for anybody. ``canvas/name`` opens what the access token that posted the code
    may use, and for the code of a canvas only what anybody may use by its name. What is no canvas before the
    slash is taken for the owner's name, and there is one owner.

    :raises UnknownToken: and the others as ``Access.grant`` does.
    :raises UnknownUdf: when there is no such canvas, or the name doesn't say which.
    """
    if is_token(name):
        segments = name.split("/")
        reading, grant = await paths.find(paths.readings(segments), Credentials(), *_doors(services))
        if reading.tail:
            raise UnknownToken
        return grant, reading.name or ""
    place, _, udf = name.rpartition("/")
    place = place.rpartition("/")[2]
    identity = services.access.identity_of(owner_id) if (owner_id := _poster_of(bundle)) else None
    if not place and not bundle.canvas and identity is not None:
        place = await _canvas_with(udf, identity, services)
    if place == bundle.canvas or not services.catalog.has(place):
        if not bundle.canvas:
            raise UnknownUdf(f"no UDF called {name!r}: the code belongs to no canvas")
        return None, udf
    if identity is not None and identity.may_use(place):
        return Grant(place, None, True, f"fc_/{place}", identity.is_admin, True, identity=identity), udf
    canvas = await services.catalog.canvas(place)
    try:
        access = services.access
        return access.grant_named(f"fc_/{place}", place, Credentials(), public=canvas.public_name), udf
    except UnknownToken:
        raise UnknownUdf(f"no UDF called {name!r} that this one may use; a token opens it") from None


def _doors(services: Doors) -> tuple[Access, Catalog]:
    return services.access, services.catalog


def _poster_of(bundle: Bundle) -> str | None:
    """The id of the access token whose code it is."""
    return bundle.owner[1:].partition(".")[0] if bundle.owner.startswith("@") else None


async def _canvas_with(udf: str, identity: Identity, services: Doors) -> str:
    """The canvas that a plain name means to posted code: ``default``, else the only one that has it."""
    usable = [c for c in await services.catalog.canvases() if identity.may_use(c.name) and udf in c.udfs]
    names = [canvas.name for canvas in usable]
    if DEFAULT_CANVAS in names or len(names) == 1:
        return DEFAULT_CANVAS if DEFAULT_CANVAS in names else names[0]
    if names:
        raise UnknownUdf(f"several canvases have a UDF called {udf!r}: {', '.join(names)}")
    raise UnknownUdf(f"no UDF called {udf!r}")
