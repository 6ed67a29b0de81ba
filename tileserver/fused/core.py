"""``fused.core``: older names of what ``fused`` itself has."""

from __future__ import annotations

from tileserver.fused.caching import cache
from tileserver.fused.files import create_path, download, file_path
from tileserver.fused.neighbours import load
from tileserver.fused.tables import get_chunk_from_table, get_chunks_metadata

__all__ = [
    "cache",
    "create_path",
    "download",
    "file_path",
    "get_chunk_from_table",
    "get_chunks_metadata",
    "load_udf_from_code",
    "load_udf_from_github",
    "load_udf_from_shared_token",
]

load_udf_from_code = load
load_udf_from_github = load
load_udf_from_shared_token = load
