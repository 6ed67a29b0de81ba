"""A PostGIS of a benchmark's own: started in a folder that goes again, reached by a socket in it.

PostgreSQL refuses to run as root, so root starts it as the user "nobody". Its settings are the defaults.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import geopandas as gpd
import psycopg
import shapely
from mercantile import Tile
from psycopg import sql

_USER: Final = "nobody"
_TYPES: Final = {"i": "bigint", "u": "bigint", "f": "double precision", "b": "boolean"}


@dataclass(frozen=True, slots=True)
class Table:
    """A table of features: its name, the columns that become attributes, and its reference system."""

    name: str
    columns: tuple[str, ...]
    epsg: int


class Database:
    """A connection to the server."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.connection = connection
        self.tables = 0

    def table(self, frame: gpd.GeoDataFrame) -> Table:
        """A table with the rows of the frame, indexed and analysed."""
        self.tables += 1
        columns = tuple(column for column in frame.columns if column != frame.geometry.name)
        made = Table(f"layer{self.tables}", columns, frame.crs.to_epsg())
        kinds = [_TYPES.get(frame[column].dtype.kind, "text") for column in columns]
        defined = [
            *(
                sql.SQL("{} {}").format(sql.Identifier(column), sql.SQL(kind))
                for column, kind in zip(columns, kinds, strict=True)
            ),
            sql.SQL("geom geometry(Geometry, {})").format(made.epsg),
        ]
        values = [frame[column].tolist() for column in columns]
        marked = shapely.set_srid(frame.geometry.to_numpy(), made.epsg)
        name = sql.Identifier(made.name)
        with self.connection.cursor() as cursor:
            cursor.execute(sql.SQL("CREATE TABLE {} ({})").format(name, sql.SQL(", ").join(defined)))
            with cursor.copy(sql.SQL("COPY {} FROM STDIN").format(name)) as copy:
                for line in zip(*values, shapely.to_wkb(marked, hex=True, include_srid=True), strict=True):
                    copy.write_row(line)
            cursor.execute(sql.SQL("CREATE INDEX ON {} USING gist (geom)").format(name))
            cursor.execute(sql.SQL("VACUUM ANALYZE {}").format(name))
        return made

    def tile(self, table: Table, tile: Tile, extent: int, buffer: int) -> bytes:
        """The layer "udf" of a tile, with ids from the column that is called so."""
        place = sql.SQL("{}, {}, {}").format(tile.z, tile.x, tile.y)
        inner = sql.SQL("ST_TileEnvelope({})").format(place)
        outer = sql.SQL("ST_TileEnvelope({}, margin => {})").format(place, buffer / extent)
        placed = sql.SQL("geom")
        if table.epsg != 3857:
            placed = sql.SQL("ST_Transform(geom, 3857)")
            outer = sql.SQL("ST_Transform({}, {})").format(outer, table.epsg)
        query = sql.SQL(
            "SELECT ST_AsMVT(found, 'udf', {extent}, 'drawn', 'id') FROM ("
            "SELECT {columns}, ST_AsMVTGeom({placed}, {inner}, {extent}, {buffer}, true) AS drawn"
            " FROM {table} WHERE geom && {outer}) AS found WHERE drawn IS NOT NULL"
        ).format(
            extent=extent,
            buffer=buffer,
            columns=sql.SQL(", ").join(map(sql.Identifier, table.columns)),
            placed=placed,
            inner=inner,
            outer=outer,
            table=sql.Identifier(table.name),
        )
        with self.connection.cursor(binary=True) as cursor:
            (body,) = cursor.execute(query).fetchone() or (b"",)
        return bytes(body)


@contextmanager
def running() -> Iterator[Database]:
    """A server in a throw-away folder.

    :raises RuntimeError: when PostgreSQL or PostGIS is not installed.
    """
    programs = _programs()
    user = _USER if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory() as folder:
        if user is not None:
            shutil.chown(folder, user)
        data = Path(folder, "data")
        subprocess.run(
            [
                programs / "initdb",
                "-D",
                data,
                "-U",
                "bench",
                "--auth=trust",
                "--no-sync",
                "--locale=C",
                "-E",
                "UTF8",
            ],
            check=True,
            user=user,
            stdout=subprocess.DEVNULL,
            cwd=folder,
        )
        command: list[str | Path] = [
            programs / "postgres",
            "-D",
            data,
            "-k",
            folder,
            "-c",
            "listen_addresses=",
        ]
        with subprocess.Popen(command, user=user, stderr=subprocess.DEVNULL, cwd=folder) as server:
            try:
                with _connected(folder, server) as connection:
                    try:
                        connection.execute("CREATE EXTENSION postgis")
                    except psycopg.Error as problem:
                        raise RuntimeError(f"PostGIS is not installed: {problem}") from None
                    yield Database(connection)
            finally:
                server.terminate()


def _programs() -> Path:
    """Where initdb and postgres are."""
    found = [Path(path).parent for path in (shutil.which("initdb"),) if path]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in found:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise RuntimeError("PostgreSQL is not installed: apt-get install postgresql postgresql-15-postgis-3")


def _connected(folder: str, server: subprocess.Popen[bytes]) -> psycopg.Connection[Any]:
    """A connection as soon as the server takes one."""
    until = time.monotonic() + 30
    while True:
        try:
            return psycopg.connect(host=folder, dbname="postgres", user="bench", autocommit=True)
        except psycopg.OperationalError:
            if server.poll() is not None or time.monotonic() > until:
                raise
            time.sleep(0.05)
