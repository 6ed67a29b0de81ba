"""Libraries that read tables from a URL: each gets the data, and one read is one run of the UDF.

They ask for a file in parts, by HEAD and by ranges of their own choosing; every part is cut from the bytes of
the same run.
"""

from __future__ import annotations

import importlib.util
import io
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import geopandas as gpd
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
import pyogrio
import pytest

from tests.conftest import Server, serving
from tests.counting import runs

ROWS = 60_000
SUM = ROWS * (ROWS - 1) // 2

# No two runs have the same bytes: parts of two don't fit.
TABLES = f"""
import uuid
import fused, geopandas as gpd, numpy as np, pandas as pd

@fused.udf
def udf(reader: str, points: int = 0):
    k = np.arange(points or {ROWS})
    run = uuid.uuid4().hex
    rows = pd.DataFrame({{"k": k, "name": [f"row {{number}}" for number in k], "run": run}})
    if not points:
        return rows
    return gpd.GeoDataFrame(rows, geometry=gpd.points_from_xy(k / 10, k / 20), crs=4326)
"""
FILES = {"city/table.py": TABLES}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("tables"), FILES) as running:
        yield running


# Readers of tables: what they are called, the format that they ask for, and what of it they tell: the sum of
# "k", the number of rows, and how many runs the rows are of.
Told = tuple[int, int, int]
Reader = Callable[[str], Told]


def told(frame: pd.DataFrame) -> Told:
    return int(frame["k"].sum()), len(frame), frame["run"].nunique()


def told_by_polars(frame: pl.DataFrame) -> Told:
    return int(frame["k"].sum()), len(frame), frame["run"].n_unique()


def by_fsspec(url: str) -> Told:
    with fsspec.open(url, block_size=64 * 1024) as file:
        return told(pq.read_table(file, use_threads=False).to_pandas())


def by_columns(url: str) -> Told:
    """Two columns of three, so that most of the file is not read."""
    lazy = pl.scan_parquet(url).select(pl.col("k").sum(), pl.len(), pl.col("run").n_unique().alias("runs"))
    (row,) = lazy.collect().rows()
    return int(row[0]), int(row[1]), int(row[2])


def duck(function: str) -> Reader:
    def read(url: str) -> Told:
        spec = importlib.util.find_spec("duckdb_extension_httpfs")
        assert spec is not None and spec.origin is not None
        (extension,) = Path(spec.origin).parent.glob("extensions/*/httpfs.duckdb_extension")
        with duckdb.connect() as connection:
            connection.execute(f"LOAD '{extension}'")
            query = f"SELECT sum(k), count(*), count(DISTINCT run) FROM {function}('{url}')"
            row = connection.execute(query).fetchone()
        assert row is not None
        return int(row[0]), int(row[1]), int(row[2])

    return read


READERS: dict[str, tuple[str, Reader]] = {
    "pandas.read_csv": ("csv", lambda url: told(pd.read_csv(url))),
    "pandas.read_parquet": ("parquet", lambda url: told(pd.read_parquet(url))),
    "pandas.read_json": ("json", lambda url: told(pd.read_json(url))),
    "pandas.read_feather": ("feather", lambda url: told(pd.read_feather(url))),
    "fsspec and pyarrow": ("parquet", by_fsspec),
    "polars.read_csv": ("csv", lambda url: told_by_polars(pl.read_csv(url))),
    "polars.read_parquet": ("parquet", lambda url: told_by_polars(pl.read_parquet(url))),
    "polars.scan_parquet": ("parquet", by_columns),
    "duckdb read_parquet": ("parquet", duck("read_parquet")),
    "duckdb read_csv": ("csv", duck("read_csv")),
    "duckdb read_json": ("json", duck("read_json")),
}
PLACES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "geopandas.read_file": ("geojson", gpd.read_file),
    "geopandas.read_parquet": ("parquet", gpd.read_parquet),
    "pyogrio, vsicurl, geojson": ("geojson", lambda url: pyogrio.read_dataframe(f"/vsicurl/{url}")),
    "pyogrio, vsicurl, csv": ("csv", lambda url: pyogrio.read_dataframe(f"CSV:/vsicurl/{url}")),
}
_count = itertools.count()


def url_of(server: Server, extension: str, query: str = "") -> str:
    """An address that nobody has asked for yet, so that no library remembers anything of it."""
    base = f"{server.url}/{server.tokens['city']}/table.{extension}"
    return f"{base}?reader=r{next(_count)}{query}"


@pytest.mark.parametrize("name", READERS)
def test_a_table_is_read_in_one_run(server: Server, name: str) -> None:
    """Every row, all of one run."""
    extension, read = READERS[name]
    url, before = url_of(server, extension), runs(server.url)

    assert read(url) == (SUM, ROWS, 1)
    assert runs(server.url) == before + 1


@pytest.mark.parametrize("name", PLACES)
def test_a_table_of_places_is_read_in_one_run(server: Server, name: str) -> None:
    """Its geometry lies where the UDF put it."""
    extension, read = PLACES[name]
    url, before = url_of(server, extension, "&points=500"), runs(server.url)
    frame = read(url)

    assert len(frame) == 500
    assert len(set(frame["run"])) == 1
    assert frame["k"].astype(int).sum() == 500 * 499 // 2
    assert runs(server.url) == before + 1
    if extension == "csv":
        assert frame["geometry"][10] in {"POINT (1 0.5)", "POINT(1 0.5)"}
    else:
        assert tuple(frame.total_bounds) == pytest.approx((0, 0, 49.9, 24.95))
        assert frame.crs.to_epsg() == 4326


def test_parts_make_the_whole(server: Server) -> None:
    """A whole GET, and the same in parts of a size that divides nothing."""
    url = url_of(server, "parquet")
    path = url.removeprefix(server.url)
    whole = server.get(path).content
    parts = [
        server.get(path, headers={"range": f"bytes={start}-{start + 99_990}"}).content
        for start in range(0, len(whole), 99_991)
    ]

    assert b"".join(parts) == whole
    assert pq.read_table(io.BytesIO(whole)).num_rows == ROWS
