"""WMTS capabilities: the schema's word for them, what they list, and programs that use them."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import httpx
import mercantile
import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from lxml import etree
from owslib.wmts import WebMapTileService
from PIL import Image
from rasterio.windows import Window

from tests.conftest import Server, serving
from tests.counting import runs
from tileserver import layers, settings, wmts
from tileserver.app import create_app
from tileserver.documents import Layer
from tileserver.executor import Answers
from tileserver.interest import Interest
from tileserver.protocol import Bundle, Encoded, Job

CLIENTS = Path(__file__).parent / "clients"
HOSTILE = '</Abstract><x onload="alert(1)"> & \' ]]> \x00\x0b\ufffe &#0;'
BASE = "https://maps.example.org/fc_a"
NS = {"w": "http://www.opengis.net/wmts/1.0", "ows": "http://www.opengis.net/ows/1.1"}

ENTRY = """
import fused, numpy as np, geopandas as gpd, shapely

"""
WHERE = f"""{ENTRY}
@fused.udf
def udf(x: int, y: int, z: int, side: int = 256):
    '''Where it is.

    Columns, rows & "tiles".
    '''
    column, row = np.meshgrid(np.arange(side), np.arange(side))
    return np.stack([column, row, np.full_like(row, (x * 7 + y * 13 + z * 29) % 256)]).astype("uint8")
"""
TAKES_BOUNDS = f"{ENTRY}\n@fused.udf\ndef udf(bounds: fused.types.Bounds):\n"
FILES = {
    "city/canvas.toml": "title = 'A < B & \"C\"'\ndescription = 'of <all> kinds'\n"
    "[udf.where]\nminzoom = 1\nmaxzoom = 20\nbounds = [-10, 40, 30, 60]\n"
    "[udf.large]\nbounds = [-500, -100, 500, 100]\n[udf.single]\nmode = 'single'\n",
    "city/where.py": WHERE,
    "city/large.py": WHERE.replace("side: int = 256", "side: int = 512"),
    "city/points and <lines>.py": f"{ENTRY}\n@fused.udf(cache_max_age=0)\n"
    "def udf(bounds: fused.types.Bounds):\n"
    "    shapes = [shapely.Point(8, 47), shapely.LineString([(8, 47), (9, 48)])]\n"
    "    return gpd.GeoDataFrame({'k': [1, 2]}, geometry=shapes, crs=4326)\n",
    "city/one.py": f"{TAKES_BOUNDS}"
    "    return gpd.GeoDataFrame({'k': [1]}, geometry=[shapely.Point(8, 47)], crs=4326)\n",
    "city/boom.py": f"{TAKES_BOUNDS}    raise ValueError('no')\n",
    "city/wants.py": f"{TAKES_BOUNDS}    return None\n".replace("Bounds)", "Bounds, year: int)"),
    "city/numbers.py": f"{TAKES_BOUNDS}    return {{'a': 1}}\n",
    "city/broken.py": "import fused\n@fused.udf\ndef udf(:\n",
    "city/single.py": WHERE,
    "city/table.py": "import fused\n@fused.udf\ndef udf():\n    return [1]\n",
    "locked/where.py": WHERE,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("wmts"), FILES) as running:
        yield running


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> etree.XMLSchema:
    """OGC's schema of WMTS 1.0.0 with its corrigendum: rows and columns are counted from 0."""
    spec = importlib.util.find_spec("mapproxy")
    assert spec is not None and spec.origin is not None
    folder = tmp_path_factory.mktemp("schemas") / "schemas"
    shutil.copytree(Path(spec.origin).parent / "test/schemas", folder)
    main = folder / "wmts/1.0/wmtsGetCapabilities_response.xsd"
    text = main.read_text("utf-8")
    for name in ("MinTileRow", "MaxTileRow", "MinTileCol", "MaxTileCol"):
        old = f'name="{name}" type="positiveInteger"'
        assert old in text
        text = text.replace(old, f'name="{name}" type="nonNegativeInteger"')
    main.write_text(text, "utf-8")
    return etree.XMLSchema(etree.parse(main))


def layer(**facts: Any) -> Layer:
    given: dict[str, Any] = {
        "name": "roads",
        "title": "Roads",
        "description": "",
        "format": "mvt",
        "extension": "mvt",
        "bounds": (5.0, 45.0, 11.0, 48.0),
        "bounds_source": "samples",
        "minzoom": 2,
        "maxzoom": 14,
        "attribution": "",
        "fields": {},
        "revision": "1",
    }
    return Layer(**{**given, **facts})


def made(*found: Layer, title: str = "City", description: str = "") -> Any:
    """The document as its readers get it."""
    body = wmts.capabilities(
        title,
        description,
        found,
        url=f"{BASE}.wmts.xml",
        tiles_url=lambda one, tile: f"{BASE}/{quote(one.name, safe='')}/run/tiles/{tile}?a=1&b=2",
    )
    return etree.fromstring(body)


# -- the document


def test_a_layer_in_full(schema: etree.XMLSchema) -> None:
    """OGC 07-057r7, table 6: texts, bounds, the template, and the tiles that hold the bounds at each zoom."""
    document = made(layer(minzoom=0, maxzoom=3))
    (element,) = document.findall(".//w:Layer", NS)

    schema.assertValid(document)
    assert element.findtext("ows:Identifier", "", NS) == "roads"
    assert element.findtext("ows:WGS84BoundingBox/ows:LowerCorner", "", NS) == "5.0 45.0"
    assert element.findtext("ows:WGS84BoundingBox/ows:UpperCorner", "", NS) == "11.0 48.0"
    assert element.find("w:ResourceURL", NS).attrib == {
        "format": "image/png",
        "resourceType": "tile",
        "template": f"{BASE}/roads/run/tiles/{{TileMatrix}}/{{TileCol}}/{{TileRow}}.png?a=1&b=2",
    }
    limits = [[child.text for child in row] for row in element.iter("{*}TileMatrixLimits")]
    assert limits == [
        ["0", "0", "0", "0", "0"],
        ["1", "0", "0", "1", "1"],
        ["2", "1", "1", "2", "2"],
        ["3", "2", "2", "4", "4"],
    ]


def test_the_matrix_set_is_the_well_known_one() -> None:
    """OGC 07-057r7, annex E.4: its CRS, its origin and each of its denominators."""
    (matrix_set,) = made(layer(maxzoom=2)).findall("w:Contents/w:TileMatrixSet", NS)
    matrices = matrix_set.findall("w:TileMatrix", NS)

    assert matrix_set.findtext("ows:Identifier", "", NS) == "WebMercatorQuad"
    assert matrix_set.findtext("w:WellKnownScaleSet", "", NS).endswith("GoogleMapsCompatible")
    assert [int(matrix.findtext("ows:Identifier", "", NS)) for matrix in matrices] == list(range(19))
    for zoom, matrix in enumerate(matrices):
        metres = float(matrix.findtext("w:ScaleDenominator", "", NS)) * 0.00028 * 256 * 2**zoom
        assert metres == pytest.approx(2 * 20037508.342789244, rel=1e-9)
        assert [matrix.findtext(f"w:Matrix{side}", "", NS) for side in ("Width", "Height")] == [
            str(2**zoom)
        ] * 2


boxes = st.tuples(st.floats(-180, 180), st.floats(-85.05, 85.05), st.floats(0, 360), st.floats(0, 170)).map(
    lambda b: (b[0], b[1], min(180.0, b[0] + b[2]), min(85.05, b[1] + b[3]))
)


@given(
    box=boxes,
    zooms=st.tuples(st.integers(0, 30), st.integers(0, 30)),
    texts=st.tuples(st.text(max_size=20), st.text(max_size=20) | st.just(HOSTILE), st.text(max_size=20)),
    kind=st.sampled_from(["mvt", "png", "jpeg", "webp"]),
)
def test_every_document_keeps_the_schema(
    schema: etree.XMLSchema,
    box: tuple[float, float, float, float],
    zooms: tuple[int, int],
    texts: tuple[str, str, str],
    kind: str,
) -> None:
    """Whatever the layer is called and wherever it lies; its limits are tiles, the first of its corner."""
    name, title, description = texts
    facts = {"name": name, "title": title, "description": description, "bounds": box, "format": kind}
    one = layer(**facts, minzoom=min(zooms), maxzoom=max(zooms))
    document = made(one, title=title, description=description)

    schema.assertValid(document)
    for row in document.iter("{*}TileMatrixLimits"):
        zoom, first_row, last_row, first_column, last_column = (int(child.text) for child in row)
        assert 0 <= first_row <= last_row < 2**zoom and 0 <= first_column <= last_column < 2**zoom
        corner = mercantile.tile(box[0], box[3], zoom)
        assert (corner.x, corner.y) == (first_column, first_row)


def test_hostile_text_stays_text(schema: etree.XMLSchema) -> None:
    """Titles, names and addresses end nothing; what XML can't say is marked as missing."""
    document = made(
        layer(name=HOSTILE, title=HOSTILE, description=HOSTILE), title=HOSTILE, description=HOSTILE
    )

    schema.assertValid(document)
    assert not document.findall(".//{*}x")
    shown = document.findtext("ows:ServiceIdentification/ows:Title", "", NS)
    assert shown == HOSTILE.translate(dict.fromkeys(map(ord, "\x00\x0b\ufffe"), "\ufffd"))


# -- of a canvas


def fetch(server: Server, query: str = "", canvas: str = "city", **options: Any) -> httpx.Response:
    return server.get(f"/{{{canvas}}}.wmts.xml{query}", **options)


def test_a_canvas_lists_its_layers(server: Server, schema: etree.XMLSchema) -> None:
    """docs/http.md: what takes a tile and gives a picture; not what fails, needs more or is no map."""
    response = fetch(server)
    document = etree.fromstring(response.content)
    found = {
        element.findtext("ows:Identifier", "", NS): element for element in document.findall(".//w:Layer", NS)
    }

    schema.assertValid(document)
    assert (response.status_code, response.headers["content-type"]) == (200, "application/xml")
    assert response.headers["cache-control"] == "public, no-cache"
    assert found.keys() == {"where", "large", "points and <lines>", "one"}
    assert found["where"].findtext("ows:Abstract", "", NS) == 'Columns, rows & "tiles".'
    assert document.findtext("ows:ServiceIdentification/ows:Title", "", NS) == 'A < B & "C"'
    zooms = [row.findtext("w:TileMatrix", "", NS) for row in found["where"].iter("{*}TileMatrixLimits")]
    assert zooms == [str(zoom) for zoom in range(1, 21)]
    corners = [
        [float(n) for n in found[name].findtext(f"ows:WGS84BoundingBox/ows:{corner}Corner", "", NS).split()]
        for name, corner in (("where", "Lower"), ("points and <lines>", "Lower"), ("large", "Upper"))
    ]
    assert corners == [[-10, 40], [8, 47], [180, 85.051129]]


def test_a_second_document_runs_nothing(server: Server) -> None:
    """Samples are kept, also those of a UDF that keeps no results, and of one that fails."""
    first = fetch(server)
    before = runs(server.url)
    second = fetch(server)

    assert runs(server.url) == before
    assert second.content == first.content
    assert fetch(server, headers={"if-none-match": first.headers["etag"]}).status_code == 304


@pytest.mark.parametrize(
    "query",
    [
        "?service=WMTS&request=GetCapabilities&version=1.0.0",
        "?SERVICE=WMTS&REQUEST=GetTile&side=9",
        "?bounds=1",
    ],
)
def test_another_way_to_ask_says_nothing(server: Server, query: str) -> None:
    """Clients add what they would ask a KVP service with."""
    assert fetch(server, query).content == fetch(server).content


def test_an_edit_is_seen(server: Server) -> None:
    """Template URLs name the revision, and may be kept for ever."""
    template = etree.fromstring(fetch(server).content).find(".//w:ResourceURL", NS).attrib["template"]
    url = template.format(TileMatrix=0, TileCol=0, TileRow=0)
    tile = httpx.get(url)

    assert tile.headers["content-type"] == "image/png"
    assert "immutable" in tile.headers["cache-control"]
    assert Image.open(io.BytesIO(tile.content)).size == (256, 256)


def test_a_session_is_repeated_and_nothing_is_kept(server: Server) -> None:
    """docs/http.md: with a session the document opens its tiles, and stays nowhere."""
    with closing(server.access) as access:
        token = access.share("locked", team=True, code=False).token
        _, secret = access.create_token("tester", scope="run")
    headers = {"authorization": f"Bearer {secret}"}
    session = httpx.post(
        f"{server.url}/server/v1/session-token/by-access-token/{token}", headers=headers
    ).json()["session_token"]
    url = f"{server.url}/{token}.wmts.xml"
    by_session = httpx.get(f"{url}?fused_session_token={session}", timeout=30)
    by_header = httpx.get(url, headers=headers)

    assert httpx.get(url).status_code == 401
    assert by_session.headers["cache-control"] == "private, no-store"
    assert by_header.headers["cache-control"] == "private, no-cache"
    assert session not in by_header.text
    template = etree.fromstring(by_session.content).find(".//w:ResourceURL", NS).attrib["template"]
    assert httpx.get(template.format(TileMatrix=0, TileCol=0, TileRow=0)).status_code == 200
    assert WebMapTileService(f"{url}?fused_session_token={session}").contents.keys() == {"where"}


class Stuck:
    """An executor whose runs never end, but for those of ``quick``."""

    ready = True
    level = "A"

    def __init__(self) -> None:
        self.begun: list[str] = []

    async def run(
        self, job: Job, bundle: Bundle, answers: Answers | None = None, interest: Interest | None = None
    ) -> Encoded:
        self.begun.append(job.udf)
        if job.udf != "quick":
            assert interest is not None
            await interest.lost_for(3600)
        facts = {"format": "mvt", "kind": "features", "bounds": [8, 47, 9, 48]}
        return Encoded(b"", "application/vnd.mapbox-vector-tile", 0.0, facts)

    def stats(self) -> dict[str, Any]:
        return {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None


@pytest.mark.anyio
async def test_hundreds_of_udfs_have_a_document_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few run at once; those that haven't told where they lie are taken to show the world."""
    monkeypatch.setattr(layers, "_PATIENCE", 0.5)
    (tmp_path / "city").mkdir()
    source = "import fused\n@fused.udf\ndef udf(bounds: fused.types.Bounds):\n    return None\n"
    for name in ("quick", *(f"slow{number}" for number in range(300))):
        (tmp_path / f"city/{name}.py").write_text(source)
    stuck = Stuck()
    app = create_app(
        settings.load(tmp_path, flags={}, environ={}), executor=stuck, fixed_tokens={"fc_a": "city"}
    )
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client,
    ):
        response = await client.get("/fc_a.wmts.xml", timeout=30)

    document = etree.fromstring(response.content)
    corners = [element.text for element in document.iter("{*}LowerCorner")]
    assert len(corners) == 301
    assert corners[0] == "8.0 47.0"
    assert set(corners[1:]) == {"-180.0 -85.051129"}
    assert len(stuck.begun) <= 20


# -- programs


@pytest.mark.parametrize("name", ["where", "large"])
def test_gdal_shows_every_pixel_in_its_place(server: Server, name: str) -> None:
    """Tiles of 256 pixels, as the document says, also of a UDF that makes larger ones."""
    zoom = 22  # the last of the set, whatever the layer's own last is
    url = f"{server.url}/{server.tokens['city']}.wmts.xml"
    with rasterio.open(f"WMTS:{url},layer={name}") as source:
        assert source.crs.to_epsg() == 3857
        column, row = (2**zoom * share // 100 * 256 for share in (52, 34))  # of the world, a corner of a tile
        west, north = (-20037508.342789244 + column * source.res[0], 20037508.342789244 - row * source.res[1])
        line, place = source.index(west + source.res[0] / 2, north - source.res[1] / 2)
        pixels = source.read([1, 2, 3], window=Window(place, line, 256, 256))
    x, y = column // 256, row // 256
    expected = np.broadcast_to(np.arange(256) if name == "where" else np.arange(512)[::2] % 256, (256, 256))

    assert (pixels[2] == (x * 7 + y * 13 + zoom * 29) % 256).all()
    off = np.abs(pixels[0].astype(int) - expected)
    assert np.minimum(off, 256 - off).max() <= 1
    assert np.array_equal(pixels[0].T, pixels[1])


def test_gdal_lists_and_opens_all_layers(server: Server) -> None:
    """Names with spaces and brackets, bounds without an area."""
    url = f"{server.url}/{server.tokens['city']}.wmts.xml"
    with rasterio.open(f"WMTS:{url}") as source:
        names = [name.partition("layer=")[2].strip('"') for name in source.subdatasets]

    assert len(names) == 4
    for name in names:
        with rasterio.open(f'WMTS:{url},layer="{name}"') as source:
            assert source.count == 4
            assert source.read(4, out_shape=(128, 128)).any()


def test_owslib_reads_the_document_and_a_tile(server: Server) -> None:
    """What Python programs ask with."""
    service = WebMapTileService(f"{server.url}/{server.tokens['city']}.wmts.xml")
    found = service["where"]
    tile = service.gettile(layer="where", tilematrixset="WebMercatorQuad", tilematrix="3", row=2, column=4)
    pixels = np.asarray(Image.open(io.BytesIO(tile.read())))

    assert service.identification.title == 'A < B & "C"'
    assert found.boundingBoxWGS84 == (-10, 40, 30, 60)
    assert found.formats == ["image/png"]
    assert (pixels[5, 9] == [9, 5, (4 * 7 + 2 * 13 + 3 * 29) % 256]).all()


@pytest.mark.large
def test_qgis_shows_a_layer(server: Server, tmp_path: Path) -> None:
    """As its users add it: the address of the document, and a name out of it."""
    url = f"{server.url}/{server.tokens['city']}.wmts.xml"
    source = (
        f"crs=EPSG:3857&format=image/png&layers=where&styles=default&tileMatrixSet=WebMercatorQuad&url={url}"
    )
    tile = mercantile.Tile(x=17, y=11, z=5)
    box = mercantile.xy_bounds(tile)
    middle = (box.left + box.right) / 2, (box.bottom + box.top) / 2
    job = {"source": source, "vector": False, "folder": str(tmp_path), "views": [(5, *middle)]}
    subprocess.run(
        ["/usr/bin/python3", str(CLIENTS / "qgis_render.py")],
        input=json.dumps(job),
        text=True,
        check=True,
        capture_output=True,
        timeout=120,
    )
    shown = np.asarray(Image.open(tmp_path / "0.png").convert("RGB")).astype(int)

    for column, row in ((150, 150), (256, 200), (300, 370)):
        red, green, blue = shown[row, column]
        assert blue == (17 * 7 + 11 * 13 + 5 * 29) % 256
        assert abs(red - (column - 128)) <= 1.6
        assert abs(green - (row - 128)) <= 1.6
