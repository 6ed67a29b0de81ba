"""Arrays, drawn features and encoded images as PNG, JPEG, WebP, GIF, APNG, GeoTIFF and NPY.

In a tile, georeferenced data is put on the tile's grid; a bare array is taken to be the tile already.
PNG is written here, the other pictures by Pillow, behind one function.
"""

from __future__ import annotations

import io
import json
import warnings
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from tileserver import tiles
from tileserver.errors import UnsupportedOutput
from tileserver.formats import Format, Kind
from tileserver.protocol import Job, RenderOptions
from tileserver.render import pixels, png, warp
from tileserver.render.classify import Classified
from tileserver.render.pixels import Bytes, Picture, Raster

Facts = dict[str, Any]

_MODES: Final = {(1, False): "L", (1, True): "LA", (3, False): "RGB", (3, True): "RGBA"}
# GeoTIFF has neither; the next wider type holds them exactly.
_WIDER: Final = {"bool": "uint8", "float16": "float32", "longdouble": "float64", "float128": "float64"}


def check_options(options: RenderOptions) -> None:
    """Whatever can be wrong with the options before a function runs.

    :raises BadRequest: for an unknown colormap, naming near ones.
    """
    if options.colormap is not None:
        pixels.colormap(options.colormap)


def picture(found: Classified, row: Format, job: Job) -> tuple[bytes, Facts]:
    """A raster, features or an encoded image as a picture.

    Encoded images are sent as they are unless another format is asked for by name, or a tile needs them
    elsewhere or at another size. Facts: ``bounds`` in degrees where known, ``placed`` False where the data
    says nothing of where it lies, ``empty`` when nothing is visible, ``ramp`` with the colours that a single
    band's values have.

    :raises UnsupportedOutput: for arrays that aren't pictures, options that don't fit the number of bands,
        and tiles with a side over ``max_tile_pixels``.
    """
    if found.kind is Kind.FEATURES:
        from tileserver.render.drawing import draw

        rgba, facts = draw(found.value, job)
        return _encoded(Picture(rgba[:3], rgba[3]), row, facts)
    if found.kind is Kind.IMAGE:
        if _sendable(found, row, job):
            named = row.name == "apng" and row.name in job.formats  # the same bytes by another name
            media_type = row.media_type if named else found.media_type
            return found.value, {"media_type": media_type, **_place(found)}
        found = _decoded(found)
    image = pixels.picture(_placed(found, job), job.options)
    facts = _place(found, job)
    return _encoded(image, row, {**facts, "ramp": image.ramp} if image.ramp else facts)


def transparent(row: Format, job: Job) -> bytes:
    """An empty picture of the job's size; white in JPEG."""
    side = (job.options.pixels, job.options.pixels)
    return encode_picture(Picture(np.zeros((1, *side), np.uint8), np.zeros(side, np.uint8)), row)


def tiff(found: Classified, row: Format, job: Job) -> tuple[bytes, Facts]:
    """A GeoTIFF with the data as the function returned it: not warped, not rescaled, no nodata value.

    Its tags in the namespace ``fused`` let clients rebuild the value. Masked pixels are NaN or 0, and
    hidden by a mask band. Booleans become uint8, float16 float32. A bare array in a tile lies in its grid.

    :raises UnsupportedOutput: for an array without pixels.
    """
    if found.kind is Kind.IMAGE:
        if found.media_type == row.media_type:
            return found.value, _bounds(found)
        found = _decoded(found)
    value = found.value
    if value.size == 0:
        raise UnsupportedOutput(
            f"Result serialization failed: tiff can't hold an array of shape {value.shape}"
        )
    bounds, crs = found.bounds, found.crs
    if crs is None and job.tile is not None:
        bounds, crs = tiles.mercator_bounds(job.tile), warp.MERCATOR
    body = _geotiff(filled(value), bounds, crs, _tags(found), _mask(value))
    return body, _bounds(found, job)


def npy(found: Classified, row: Format, job: Job) -> tuple[bytes, Facts]:
    """The array exactly as the function returned it, by ``numpy.save``; masked values are NaN or 0."""
    buffer = io.BytesIO()
    np.save(buffer, filled(_array(found)), allow_pickle=False)
    return buffer.getvalue(), _bounds(found, job)


def filled(array: NDArray[Any]) -> NDArray[Any]:
    """The array without a mask: NaN where a float is masked, 0 in any other type."""
    if not isinstance(array, np.ma.MaskedArray):
        return array
    missing: Any = np.nan if array.dtype.kind in "fc" else array.dtype.type(0)
    result: NDArray[Any] = array.filled(missing)
    return result


def encode_picture(image: Picture, row: Format) -> bytes:
    """The file of a picture. Fast levels: a tile is made once and sent often, but somebody waits for it.

    WebP is lossless, as colours may be classes or measurements; JPEG is there for photographs. A palette
    stays one in PNG. JPEG puts transparent pixels on white, GIF knows no half-transparency.
    """
    if row.name in ("png", "apng"):  # of one frame: the same file
        return _indexed(image) or png.encode(_bands(image))
    buffer = io.BytesIO()
    if row.name == "webp":
        _pillow(image).save(buffer, "WEBP", lossless=True, method=0, quality=0)
    elif row.name == "gif":
        _gif(image).save(buffer, "GIF")
    else:
        _on_white(image).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _encoded(image: Picture, row: Format, facts: Facts) -> tuple[bytes, Facts]:
    if image.empty:
        facts = {**facts, "empty": True}
    return encode_picture(image, row), facts


def _bounds(found: Classified, job: Job | None = None) -> Facts:
    """Where the data lies, in degrees: as it says, or the tile it was made for."""
    if found.bounds is not None and found.crs is not None:
        return {"bounds": list(warp.lonlat_bounds(found.bounds, found.crs))}
    return {} if job is None or job.tile is None else {"bounds": list(tiles.bounds(job.tile))}


def _place(found: Classified, job: Job | None = None) -> Facts:
    """``_bounds``, and whether they are only the tile's."""
    placed = found.bounds is not None and found.crs is not None
    return {**_bounds(found, job), **({} if placed else {"placed": False})}


def _placed(found: Classified, job: Job) -> Raster:
    """What to show, on the tile's grid where there is a tile."""
    if 0 in found.value.shape:
        side = (job.options.pixels, job.options.pixels)
        return Raster(np.zeros((1, *side), np.uint8), np.ones(side, bool))
    options = job.options
    data = pixels.raster(found.value, options.nodata)
    if job.tile is None:
        return data
    if found.bounds is not None and found.crs is not None and not warp.covers_tile(found, job.tile):
        return warp.to_tile(
            data,
            found.bounds,
            found.crs,
            tile=job.tile,
            pixels=options.pixels,
            resampling=options.resampling,
        )
    if options.exact:
        return warp.resize(data, options.pixels, options.resampling)
    _check_side(data.bands.shape[1:], options)
    return data


def _check_side(shape: tuple[int, ...], options: RenderOptions) -> None:
    if max(shape) > options.max_pixels:
        raise UnsupportedOutput(
            f"Result serialization failed: a tile of {shape[1]} x {shape[0]} pixels is over the limit of "
            f"{options.max_pixels} a side (max_tile_pixels)"
        )


def _sendable(found: Classified, row: Format, job: Job) -> bool:
    """Whether an encoded image can be sent byte for byte."""
    named = row.name in {name.rpartition(":")[2] for name in job.formats}
    written = {"image/apng": "image/png"}.get(row.media_type, row.media_type)
    options = job.options
    if (
        (named and found.media_type != written)
        or options.rescale
        or options.colormap
        or options.stops
        or options.nodata is not None
    ):
        return False
    if job.tile is None:
        return True
    if found.bounds is not None and not warp.covers_tile(found, job.tile):
        return False
    width, height = _open(found).size
    if options.exact:
        return (width, height) == (options.pixels, options.pixels)
    _check_side((height, width), options)
    return True


def _open(found: Classified) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(io.BytesIO(found.value))
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _undecodable(found, error) from None


def _undecodable(found: Classified, error: Exception) -> UnsupportedOutput:
    return UnsupportedOutput(
        f"Result serialization failed: the {found.media_type} of {len(found.value)} bytes can't be decoded:"
        f" {error}"
    )


def _decoded(found: Classified) -> Classified:
    """An encoded image as a raster; bounds returned beside it win over those of a GeoTIFF."""
    if found.media_type == "image/tiff":
        return _read_tiff(found)
    image = _open(found)
    try:
        if image.mode not in _MODES.values():
            image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        bands = np.asarray(image)
    except (OSError, ValueError, SyntaxError) as error:
        raise _undecodable(found, error) from None
    bands = bands[None] if bands.ndim == 2 else np.moveaxis(bands, -1, 0)
    return replace(found, kind=Kind.RASTER if found.bounds is None else Kind.GEORASTER, value=bands)


def _read_tiff(found: Classified) -> Classified:
    from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
    from rasterio.io import MemoryFile

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with MemoryFile(found.value) as memory, memory.open() as dataset:
                bands = dataset.read(masked=True)
                crs, (west, first, east, second) = dataset.crs, dataset.bounds
    except RasterioIOError as error:
        raise _undecodable(found, error) from None
    if first > second:  # stored from south to north
        bands, first, second = bands[:, ::-1], second, first
    if found.bounds is not None or crs is None:
        return replace(found, kind=Kind.RASTER if found.bounds is None else Kind.GEORASTER, value=bands)
    code = crs.to_epsg()
    text = crs.to_wkt() if code is None else f"EPSG:{code}"
    return replace(found, kind=Kind.GEORASTER, value=bands, bounds=(west, first, east, second), crs=text)


def _array(found: Classified) -> NDArray[Any]:
    """The numpy array in what the function returned; masks are kept."""
    original = found.original
    if isinstance(original, tuple | list):
        original = original[0]
    if isinstance(original, np.ndarray):
        return original
    values = getattr(original, "values", None)
    return values if isinstance(values, np.ndarray) else np.ma.asanyarray(found.value)


def _tags(found: Classified) -> dict[str, str]:
    paired = isinstance(found.original, tuple | list)
    original = found.original[0] if paired else found.original
    tags = {"orig_type": "numpy.ndarray", "shape": json.dumps(_array(found).shape)}
    if paired and found.bounds is not None:
        # Clients know pairs of numpy arrays only.
        return {**tags, "bounds": json.dumps(found.bounds)}
    if type(original).__name__ == "DataArray":
        tags["orig_type"] = "xarray.DataArray"
    elif type(original).__name__ == "Dataset":
        names = [str(name) for name in original.data_vars]
        tags |= {"orig_type": "xarray.Dataset", "key": names[0] if len(names) == 1 else "image"}
    return tags


def _mask(value: NDArray[Any]) -> NDArray[np.bool_] | None:
    """True where a pixel is visible, None when all are."""
    if not np.ma.is_masked(value):
        return None
    return np.asarray(~np.ma.getmaskarray(value).all(axis=0))


def _geotiff(
    bands: NDArray[Any],
    bounds: tiles.Bounds | None,
    crs: str | None,
    tags: dict[str, str],
    visible: NDArray[np.bool_] | None,
) -> bytes:
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.io import MemoryFile

    bands = bands.astype(_WIDER.get(bands.dtype.name, bands.dtype.newbyteorder("=")), copy=False)
    count, height, width = bands.shape
    profile: dict[str, Any] = {"driver": "GTiff", "count": count, "height": height, "width": width}
    profile |= {"dtype": bands.dtype.name, "compress": "deflate", "zlevel": 1, "bigtiff": "if_safer"}
    if min(width, height) >= 512:
        profile |= {"tiled": True, "blockxsize": 256, "blockysize": 256}
    if bounds is not None:
        profile |= {"transform": warp.north_up(bounds, width, height), "crs": crs}
    with (
        warnings.catch_warnings(),
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        MemoryFile() as memory,
    ):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with memory.open(**profile) as dataset:
            dataset.write(bands)
            dataset.update_tags(ns="fused", **tags)
            if visible is not None:
                dataset.write_mask(visible)
        body: bytes = memory.read()
    return body


def _bands(image: Picture) -> list[Bytes]:
    """The bands of a file without a palette; alpha is left out where all is opaque."""
    image = pixels.coloured(image)
    if image.alpha is None or image.alpha.min() == 255:
        return list(image.colours)
    return [*image.colours, image.alpha]


def _pillow(image: Picture) -> Image.Image:
    bands = _bands(image)
    return Image.fromarray(bands[0] if len(bands) == 1 else np.stack(bands, axis=-1))


def _indexed(image: Picture) -> bytes | None:
    """The PNG of a palette picture; None where it has to be one without."""
    if image.palette is None:
        return None
    hidden = None
    if image.alpha is not None:
        hidden = image.alpha == 0
        if not (hidden | (image.alpha == 255)).all():
            return None
    return png.encode_indexed(image.colours[0], image.palette, hidden)


def _gif(image: Picture) -> Image.Image:
    """255 colours at most, and index 255 for what is more than half transparent."""
    image = pixels.coloured(image)
    drawing = _pillow(replace(image, alpha=None)).convert("RGB").quantize(255)
    if image.alpha is None or (image.alpha >= 128).all():
        return drawing
    indices = np.where(image.alpha < 128, 255, np.asarray(drawing)).astype(np.uint8)
    result = Image.frombytes("P", drawing.size, indices.tobytes())
    palette = drawing.getpalette() or []
    result.putpalette(palette + [0] * (768 - len(palette)))
    result.info["transparency"] = 255
    return result


def _on_white(image: Picture) -> Image.Image:
    image = pixels.coloured(image)
    if image.alpha is None:
        return _pillow(image)
    share = image.alpha.astype(np.float32) / 255.0
    blended = np.rint(image.colours * share + 255.0 * (1.0 - share)).astype(np.uint8)
    return _pillow(Picture(blended))
