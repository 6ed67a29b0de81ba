"""GDAL and what is built on it: tiles of all kinds, and files where they lie."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from xml.sax.saxutils import escape

import mercantile
import numpy as np
import pyogrio
import pytest
import rasterio
from numpy.typing import NDArray
from pyproj import Transformer
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from tests.conftest import Server, serving
from tests.counting import runs

ENTRY = """
import fused, geopandas as gpd, numpy as np, shapely

"""
FILES = {
    "city/where.py": f"{ENTRY}@fused.udf\ndef udf(x: int, y: int, z: int):\n"
    "    column, row = np.meshgrid(np.arange(256), np.arange(256))\n"
    "    tile = np.full_like(row, (x * 7 + y * 13 + z * 29) % 256)\n"
    "    return np.stack([column, row, tile]).astype('uint8')\n",
    "city/places.py": f"{ENTRY}@fused.udf\ndef udf(bounds: fused.types.Tile = None, k: int = 1):\n"
    "    shapes = [shapely.Point(8.5, 47.4), shapely.box(8.1, 47.1, 8.9, 47.9)]\n"
    "    return gpd.GeoDataFrame({'k': [k, 2], 'name': ['a', 'b']}, geometry=shapes, crs=4326)\n",
    "city/relief.py": f"{ENTRY}@fused.udf\ndef udf(n: int = 0):\n"
    "    values = np.arange(700 * 500, dtype='float32').reshape(700, 500)\n"
    "    return values, (8.0, 47.0, 9.0, 48.4)\n",
    "city/picture.py": f"{ENTRY}@fused.udf\ndef udf(n: int = 0):\n"
    "    rows, columns = np.mgrid[0:300, 0:400]\n"
    "    return np.stack([rows % 256, columns % 256, rows * 0 + 77]).astype('uint8')\n",
}
_count = itertools.count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("gdal"), FILES) as running:
        yield running


def base(server: Server) -> str:
    return f"{server.url}/{server.tokens['city']}"


# -- pictures


def tms(server: Server, last: int) -> str:
    """What GDAL's manual has people write for an XYZ layer."""
    address = f"{base(server)}/where/run/tiles/${{z}}/${{x}}/${{y}}?format=png"
    return f"""<GDAL_WMS>
      <Service name="TMS"><ServerUrl>{escape(address)}</ServerUrl></Service>
      <DataWindow>
        <UpperLeftX>-20037508.34</UpperLeftX><UpperLeftY>20037508.34</UpperLeftY>
        <LowerRightX>20037508.34</LowerRightX><LowerRightY>-20037508.34</LowerRightY>
        <TileLevel>{last}</TileLevel><TileCountX>1</TileCountX><TileCountY>1</TileCountY>
        <YOrigin>top</YOrigin>
      </DataWindow>
      <Projection>EPSG:3857</Projection>
      <BlockSizeX>256</BlockSizeX><BlockSizeY>256</BlockSizeY><BandsCount>4</BandsCount>
      <ZeroBlockHttpCodes>204,404</ZeroBlockHttpCodes>
    </GDAL_WMS>"""


@pytest.mark.parametrize("z", [3, 9, 14])
def test_xyz_tiles_show_every_pixel_in_its_place(server: Server, z: int) -> None:
    """As a TMS layer, over the border between two tiles."""
    tile = mercantile.tile(8.5, 47.4, z)
    with rasterio.open(tms(server, z)) as source:
        read = source.read(window=Window(256 * tile.x - 20, 256 * tile.y, 256, 256))

    def of(x: int) -> int:
        return int(x * 7 + tile.y * 13 + z * 29) % 256

    assert (read[3] == 255).all()
    assert (read[1] == np.arange(256)[:, None]).all()
    assert (read[0, 0] == (np.arange(256) - 20) % 256).all()
    assert set(read[2, :, :20].ravel()) == {of(tile.x - 1)}
    assert set(read[2, :, 20:].ravel()) == {of(tile.x)}


@pytest.mark.parametrize("age", ["", "&cache_max_age=1h"])
def test_a_picture_is_opened_where_it_lies(server: Server, age: str) -> None:
    """``rasterio.open(url.png)``: HEAD, ranges and probes for side-car files come to one run."""
    before = runs(server.url)
    with (
        pytest.warns(NotGeoreferencedWarning),
        rasterio.open(f"{base(server)}/picture.png?n={next(_count)}{age}") as source,
    ):
        pixels: NDArray[np.uint8] = source.read()

    assert pixels.shape[1:] == (300, 400)
    assert (pixels[0] == np.arange(300)[:, None] % 256).all()
    assert (pixels[2] == 77).all()
    assert runs(server.url) == before + 1


def test_a_geotiff_is_read_in_parts(server: Server) -> None:
    """Georeferenced, with the values that the UDF returned; a window of it is one run, too."""
    before = runs(server.url)
    with rasterio.open(f"{base(server)}/relief.tiff?n={next(_count)}") as source:
        window = source.read(1, window=Window(100, 600, 50, 40))
        bounds = source.bounds

    assert tuple(bounds) == pytest.approx((8.0, 47.0, 9.0, 48.4))
    assert (window == np.arange(700 * 500).reshape(700, 500)[600:640, 100:150]).all()
    assert runs(server.url) == before + 1


# -- vectors

TO_DEGREES = Transformer.from_crs(3857, 4326, always_xy=True)


@pytest.mark.parametrize("extension", ["mvt", "pbf"])
def test_one_vector_tile_lies_where_it_belongs(server: Server, extension: str) -> None:
    """``MVT:http://...``: GDAL reads its place out of the address."""
    tile = mercantile.tile(8.5, 47.4, 8)
    url = f"{base(server)}/places/run/tiles/{tile.z}/{tile.x}/{tile.y}.{extension}"
    frame = pyogrio.read_dataframe(f"MVT:{url}")
    point = frame[frame.geom_type.isin(["Point", "MultiPoint"])].geometry.iloc[0].centroid

    assert set(frame["k"]) == {1, 2} and set(frame["name"]) == {"a", "b"}
    assert TO_DEGREES.transform(point.x, point.y) == pytest.approx((8.5, 47.4), abs=360 / 2**8 / 4096)


def test_a_zoom_of_vector_tiles_is_one_layer(server: Server) -> None:
    """``MVT:http://.../tiles/{z}``: TileJSON tells it which tiles there are; it asks for no other."""
    before = runs(server.url)
    frame = pyogrio.read_dataframe(f"MVT:{base(server)}/places/run/tiles/9")
    west, south, east, north = frame.total_bounds

    assert (*TO_DEGREES.transform(west, south), *TO_DEGREES.transform(east, north)) == pytest.approx(
        (8.1, 47.1, 8.9, 47.9), abs=360 / 2**9 / 4096 * 2
    )
    assert runs(server.url) - before <= 8 + len(list(mercantile.tiles(8.0, 47.0, 9.0, 48.0, [9])))


@pytest.mark.parametrize("extension", ["geojson", "json", "csv"])
def test_a_table_is_opened_where_it_lies(server: Server, extension: str) -> None:
    """``/vsicurl/``: probes and ranges come to one run."""
    before = runs(server.url)
    driver = "CSV:" if extension == "csv" else ""
    frame = pyogrio.read_dataframe(
        f"{driver}/vsicurl/{base(server)}/places.{extension}?k={next(_count) + 100}"
    )

    assert list(frame["name"]) == ["a", "b"]
    assert runs(server.url) == before + 1


@pytest.mark.parametrize(
    "name",
    [
        *("where/run/tiles/1/0/0.png.aux.xml", "where/run/tiles/metadata.json", "places.csvt", "places.prj"),
        *("places.cpg", "places.dbf", "places.shx", "picture.png.ovr", "picture.png.msk", "picture.wld"),
        *(
            "relief.tfw",
            "picture.aux.xml",
            "relief.tiff.aux.xml",
            "places.idx",
            "where/run/tiles/1/metadata.json",
        ),
    ],
)
def test_side_car_files_are_not_there(server: Server, name: str) -> None:
    """docs/http.md: 404 at once, of any UDF, without a run."""
    before = runs(server.url)
    response = server.get(f"/{{city}}/{name}")

    assert response.status_code == 404
    assert runs(server.url) == before
    assert server.get(f"/{{city}}/{name}", method="HEAD").status_code == 404
