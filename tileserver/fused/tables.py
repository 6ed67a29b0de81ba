"""``fused.get_chunks_metadata`` and ``fused.get_chunk_from_table``: tables that Fused has partitioned.

Such a table is a folder of Parquet files whose row groups are the chunks. Its file ``_sample`` holds, in its
schema's metadata, a Parquet table of their bounding boxes.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import Iterable
from typing import Any, Final

import geopandas as gpd
import pyarrow as pa
import pyarrow.parquet
import shapely

from tileserver.fused import files

_VERSION: Final = b"fused:format_version"
_METADATA: Final = b"fused:_metadata"
_BOX: Final = ("bbox_minx", "bbox_miny", "bbox_maxx", "bbox_maxy")
_OLD_MARK: Final = slice(20, 40)  # bytes that version 4 has more than version 5


def get_chunks_metadata(url: str) -> gpd.GeoDataFrame:
    """A row for each chunk of a table: ``file_id``, ``chunk_id``, its box, and what else the table says.

    :raises ValueError: for a table that Fused has not made, or in a version that isn't known.
    """
    metadata = _parquet(f"{url.rstrip('/')}/_sample").schema_arrow.metadata or {}
    version = metadata.get(_VERSION)
    if version is None or _METADATA not in metadata:
        raise ValueError(f"{url} is no table with the metadata of Fused")
    if version not in {b"4", b"5"}:
        raise ValueError(
            f"{url} has metadata in version {version.decode(errors='replace')}; 4 and 5 are known"
        )
    try:
        content = base64.b64decode(metadata[_METADATA])
        if version == b"4":
            content = content[: _OLD_MARK.start] + content[_OLD_MARK.stop :]
        frame = pyarrow.parquet.read_table(io.BytesIO(content)).to_pandas()
        boxes = shapely.box(*(frame[name] for name in _BOX))
    except (binascii.Error, pa.ArrowException, KeyError) as error:
        raise ValueError(f"the metadata of {url} is damaged: {error}") from None
    return gpd.GeoDataFrame(frame, geometry=boxes, crs="EPSG:4326")


def get_chunk_from_table(
    url: str,
    file_id: str | int | None,
    chunk_id: int | None,
    *,
    columns: Iterable[str] | None = None,
) -> Any:
    """One chunk of a table; without ``chunk_id`` a whole file of it, without ``file_id`` the file ``url``.

    It has its geometry where that is among ``columns``; without a CRS it is in EPSG:4326.
    """
    names = None if columns is None else list(columns)
    path = url if file_id is None else f"{url.rstrip('/')}/{file_id}.parquet"
    with _parquet(path) as file:
        whole = file_id is None or chunk_id is None
        table = file.read(columns=names) if whole else file.read_row_group(chunk_id, columns=names)
    frame = _frame(table)
    if isinstance(frame, gpd.GeoDataFrame) and frame.crs is None:
        return frame.set_crs(4326)
    return frame


def _frame(table: pa.Table) -> Any:
    try:
        described = json.loads((table.schema.metadata or {})[b"geo"])
        geometries = set(described["columns"]) & set(table.column_names)
    except (KeyError, ValueError, TypeError):
        return table.to_pandas()
    if not geometries:
        return table.to_pandas()
    # By way of a file in memory, since GeoPandas reads what its metadata says from files.
    page = io.BytesIO()
    described["columns"] = {name: described["columns"][name] for name in geometries}
    if described.get("primary_column") not in geometries:
        described["primary_column"] = min(geometries)
    metadata = {**table.schema.metadata, b"geo": json.dumps(described).encode()}
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), page)
    page.seek(0)
    return gpd.read_parquet(page)


def _parquet(path: str) -> Any:
    """A Parquet file, local (relative to the canvas) or at an address."""
    if "://" not in path:
        return pyarrow.parquet.ParquetFile(path)
    return pyarrow.parquet.ParquetFile(files.filesystem(path).open(path, "rb"))
