"""Contract, section 7, as a client sees it: every class of result in every format, over HTTP."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator

import geopandas as gpd
import httpx
import numpy as np
import pandas as pd
import pytest
import rasterio
from PIL import Image

from tests.conftest import Server, serving

CLIENT = "npy,tiff,parquet,json"  # what the Python client sends with every call

HEAD = """
import io
import fused, geopandas as gpd, numpy as np, pandas as pd, pyarrow as pa, shapely, xarray as xr
from PIL import Image
from starlette.responses import HTMLResponse, Response

file = io.BytesIO()
Image.new("RGB", (8, 8), (255, 0, 0)).save(file, "PNG")
picture = file.getvalue()
grid = {"y": [3.0, 2.0, 1.0, 0.0], "x": [0.0, 1.0, 2.0, 3.0]}


@fused.udf
def udf(bounds: fused.types.Bounds = None):
    return """

VALUES = {
    # table
    "frame": "pd.DataFrame({'a': [1, 2]}, index=pd.Index(['x', 'y'], name='key'))",
    "series": "pd.Series([1.5, 2.5], name='s')",
    "arrow": "pa.table({'a': [1, 2]})",
    "no_rows": "pd.DataFrame({'a': pd.Series([], dtype='int64')})",
    # table with geometry
    "places": "gpd.GeoDataFrame({'n': ['x']}, geometry=[shapely.Point(500000, 0)], crs=32631)",
    "places_only": "gpd.GeoSeries([shapely.Point(3, 0)], crs=4326)",
    "geometry": "shapely.box(0, 0, 1, 1)",
    "no_places": "gpd.GeoDataFrame({'n': []}, geometry=[], crs=3857)",
    # raster
    "array": "np.full((3, 8, 8), 7, 'uint8')",
    "pair": "(np.full((3, 8, 8), 7, 'uint8'), [0, 0, 10, 10])",
    "data_array": "xr.DataArray(np.ones((4, 4)), dims=('y', 'x'), coords=grid)",
    "dataset": "xr.Dataset({'v': (('y', 'x'), np.ones((4, 4)))}, coords=grid)",
    "image": "picture",
    "file": "file",
    "image_pair": "(picture, [0, 0, 10, 10])",
    # simple
    "page": "'<b>hi</b>'",
    "word": "'hi'",
    "number": "5",
    "flag": "True",
    "time": "pd.Timestamp('2024-01-01')",
    "list": "[1, 'a', None]",
    "dict": "{'a': 1}",
    # bundle
    "bundle": "{'table': pd.DataFrame({'a': [1]}), 'text': 'x', 'array': np.zeros((2, 2))}",
    "tables": "{'table': pd.DataFrame({'a': [1]}), 'text': 'x'}",
    # response, none, anything else
    "response": "HTMLResponse('<p>r</p>', status_code=201)",
    "nothing": "None",
    "no_pair": "(None, None)",
    "no_list": "[]",
    "odd": "object()",
    # responses that can't be sent
    "split": "Response('x', headers={'x-a': '1\\r\\nset-cookie: a=b'})",
    "typed": "Response('x', media_type='text/plain\\r\\nset-cookie: a=b')",
    "status": "Response('x', status_code=100)",
    "bodyless": "Response('x', status_code=204)",
}

TYPES = {
    "parquet": "application/octet-stream",
    "geojson": "application/geo+json",
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "mvt": "application/vnd.mapbox-vector-tile",
    "feather": "application/vnd.apache.arrow.file",
    "excel": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "xml": "application/xml",
    "html": "text/html; charset=utf-8",
    "png": "image/png",
    "jpeg": "image/jpeg",
    "gif": "image/gif",
    "webp": "image/webp",
    "apng": "image/apng",
    "svg": "image/svg+xml",
    "tiff": "image/tiff",
    "npy": "application/x-numpy-data",
    "zip": "application/zip",
}
TABLES = ("frame", "series", "arrow", "no_rows")
PLACES = ("places", "places_only", "geometry", "no_places")
ARRAYS = ("array", "pair", "data_array", "dataset")
IMAGES = ("image", "file", "image_pair")
SIMPLE = ("number", "flag", "time", "list", "dict")
ROWS = ("parquet", "geojson", "json", "csv", "feather", "excel", "xml", "html")
PICTURES = ("png", "jpeg", "gif", "webp", "apng")
HELD = {
    **dict.fromkeys(TABLES, ROWS),
    **dict.fromkeys(PLACES, (*ROWS, *PICTURES)),
    **dict.fromkeys(ARRAYS, ("html", *PICTURES, "tiff", "npy")),
    **dict.fromkeys(IMAGES, ("html", *PICTURES, "tiff")),
    **dict.fromkeys(("page", "word"), ("json", "html", "svg")),
    **dict.fromkeys(SIMPLE, ("json", "html")),
}
PYTHON_TYPES = {
    "frame": "DataFrame",
    "places": "GeoDataFrame",
    "array": "numpy.ndarray",
    "pair": "tuple",
    "data_array": "DataArray",
    "image": "bytes",
    "word": "str",
    "number": "int",
    "odd": "object",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One UDF for each value."""
    files = {f"c/{name}.py": f"{HEAD.lstrip()}{value}\n" for name, value in VALUES.items()}
    with serving(tmp_path_factory.mktemp("output"), files) as running:
        yield running


def run(server: Server, name: str, asked: str | None = None, *, tile: bool = False) -> httpx.Response:
    query = "" if asked is None else f"?format={asked}"
    return server.get(f"/{{c}}/{name}{'/run/tiles/0/0/0' if tile else ''}{query}")


def kind(response: httpx.Response) -> str:
    """The format that an answer's content type says."""
    assert response.status_code == 200, response.text
    return {value: name for name, value in TYPES.items()}[response.headers["content-type"]]


# -- classes and formats


@pytest.mark.parametrize("name", HELD)
def test_each_class_in_each_format_that_holds_it(server: Server, name: str) -> None:
    """7.1 and 7.2: a body of exactly the content type of the table, by name and by extension."""
    for asked in HELD[name]:
        by_name, by_extension = (
            run(server, name, asked),
            server.get(f"/{{c}}/{name}.{'xlsx' if asked == 'excel' else asked}"),
        )
        assert kind(by_name) == asked
        assert by_name.content
        assert kind(by_extension) == asked


@pytest.mark.parametrize("name", HELD)
def test_a_single_format_that_can_not_hold_a_class_is_an_error(server: Server, name: str) -> None:
    """7.3 and 7.5: 422 with the metadata of a serialization error."""
    without_tile = {"mvt"} if name in PLACES else set()
    for asked in TYPES.keys() - {"zip", *HELD[name]} - without_tile:
        response = run(server, name, asked)
        if name == "no_rows":
            assert (response.status_code, response.content) == (200, b"")
            continue
        assert response.status_code == 422, asked
        metadata = json.loads(response.headers["x-fused-metadata"])
        assert metadata["error_type"] == "serialization_error"
        assert metadata["errormsg"].startswith(f"Result serialization failed: {asked} can't hold")


@pytest.mark.parametrize(("name", "python_type"), PYTHON_TYPES.items())
def test_a_serialization_error_names_the_python_type(server: Server, name: str, python_type: str) -> None:
    """7.5: a value of another type, or in the wrong format."""
    wrong = "npy" if name in ("frame", "places", "image", "word", "number") else "csv"

    metadata = json.loads(run(server, name, wrong).headers["x-fused-metadata"])

    assert metadata["errormsg"].startswith("Result serialization failed:")
    assert python_type in metadata["errormsg"]


def test_features_alone_are_vector_tiles(server: Server) -> None:
    """7.2: mvt is for tables with geometry; in a tile it needs nothing else."""
    for name in PLACES:
        assert kind(run(server, name, "mvt", tile=True)) == "mvt"
    assert run(server, "frame", "mvt", tile=True).status_code == 422


def test_a_vector_tile_of_a_single_run_needs_bounds(server: Server) -> None:
    """7.4: the smallest tile that holds the argument ``bounds``, else 422 that says what to ask."""
    without = run(server, "places", "mvt")

    assert kind(server.get("/{c}/places.mvt?bounds=[0,-1,6,1]")) == "mvt"
    assert without.status_code == 422
    assert "bounds=" in without.json()["detail"]


# -- choosing


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ((*TABLES, *PLACES), "parquet"),
        (("array",), "npy"),
        (("pair", "data_array", "dataset"), "tiff"),
        ((*SIMPLE, "word", "no_list"), "json"),
        (("bundle", "tables"), "zip"),
    ],
    ids=["tables", "arrays", "georeferenced", "simple", "bundles"],
)
@pytest.mark.parametrize("tile", [False, True], ids=["single", "tile"])
def test_the_clients_list_gives_what_the_client_reads_back(
    server: Server, names: tuple[str, ...], chosen: str, tile: bool
) -> None:
    """7.3: the list that the Python client sends with every call, in a tile as well."""
    for name in names:
        assert kind(run(server, name, CLIENT, tile=tile)) == chosen


def test_text_is_html_unless_json_is_preferred(server: Server) -> None:
    """7.3: markup stays HTML also in the client's list, other text is a JSON string there."""
    assert kind(run(server, "word")) == kind(run(server, "page")) == "html"
    assert kind(run(server, "page", CLIENT)) == "html"
    assert run(server, "word", CLIENT).json() == "hi"
    assert run(server, "page", "json").json() == "<b>hi</b>"
    assert kind(run(server, "word", "json,html")) == "json"


def test_the_first_format_that_fits_is_taken(server: Server) -> None:
    """7.3: a list is an order of preference; without any fit it is the default of the class."""
    assert kind(run(server, "places", "geojson,png")) == "geojson"
    assert kind(run(server, "array", "geojson,png")) == "png"
    assert kind(run(server, "frame", "png,tiff")) == "json"
    assert kind(run(server, "array", "csv,parquet")) == "png"
    assert kind(run(server, "places", "npy,tiff", tile=True)) == "mvt"


@pytest.mark.parametrize(
    ("names", "data", "tile"),
    [
        (TABLES[:3], "json", "json"),
        (PLACES, "json", "mvt"),
        ((*ARRAYS, *IMAGES), "png", "png"),
        (("page", "word"), "html", "json"),
        (SIMPLE, "json", "json"),
    ],
    ids=["tables", "features", "rasters", "text", "simple"],
)
def test_nothing_asked_gives_the_default_of_the_class(
    server: Server, names: tuple[str, ...], data: str, tile: str
) -> None:
    """7.3, defaults: for a program, in a tile, and a page for a browser."""
    for name in names:
        assert kind(run(server, name)) == data
        assert kind(run(server, name, tile=True)) == tile
        assert kind(server.get(f"/{{c}}/{name}", headers={"accept": "text/html,*/*;q=0.8"})) == "html"


@pytest.mark.parametrize(
    ("query", "table", "raster"),
    [
        ("dtype_out_vector=csv&dtype_out_raster=tiff", "csv", "tiff"),
        ("dtype_out_vector=parquet", "parquet", "png"),
        ("dtype_out_raster=webp&dtype_in=json", "json", "webp"),
        ("dtype_out_vector=csv&format=json,png", "json", "png"),
        ("=feather&dtype_out_vector=csv", "feather", None),
    ],
)
def test_the_older_names_of_format(server: Server, query: str, table: str, raster: str | None) -> None:
    """7.3: one for tables, one for pictures; ``format`` and the empty name come first."""
    assert kind(server.get(f"/{{c}}/frame?{query}")) == table
    if raster is not None:
        assert kind(server.get(f"/{{c}}/array?{query}")) == raster


def test_the_extension_beats_the_query(server: Server) -> None:
    """7.3: extension, ``format``, the empty name, in this order."""
    assert kind(server.get("/{c}/frame.csv?format=json&=xml")) == "csv"
    assert kind(server.get("/{c}/frame?format=json&=xml")) == "json"
    assert kind(server.get("/{c}/frame?=xml")) == "xml"


def test_encoded_images_are_sent_as_they_are(server: Server) -> None:
    """7.4: byte for byte with their own type, unless another picture is asked for by name."""
    plain = run(server, "image")

    assert plain.content == run(server, "file", CLIENT).content == run(server, "image_pair", "png").content
    assert run(server, "image", "apng").content == plain.content
    assert Image.open(io.BytesIO(run(server, "image", "webp").content)).format == "WEBP"
    with rasterio.open(io.BytesIO(run(server, "image_pair", "tiff").content)) as source:
        assert tuple(source.bounds) == (0, 0, 10, 10)


# -- what comes back


def test_rows_without_rows_are_still_a_file(server: Server) -> None:
    """7.4: zero bytes would mean None; in a tile as well, when a data format is asked for."""
    for tile in (False, True):
        frame = pd.read_parquet(io.BytesIO(run(server, "no_rows", CLIENT, tile=tile).content))
        places = gpd.read_parquet(io.BytesIO(run(server, "no_places", CLIENT, tile=tile).content))
        assert (len(frame), str(frame["a"].dtype)) == (0, "int64")
        assert (len(places), places.crs) == (0, "EPSG:3857")
        assert run(server, "no_rows", "json", tile=tile).json() == []
        assert run(server, "no_list", "json", tile=tile).json() == []


def test_no_data_is_an_empty_body(server: Server) -> None:
    """7.1: None and ``(None, None)``, whatever was asked for."""
    for name in ("nothing", "no_pair"):
        for asked in (None, CLIENT, "csv", "png", "html"):
            response = run(server, name, asked)
            assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize("name", ["nothing", "no_pair", "no_list", "no_rows"])
def test_no_data_in_a_tile_is_a_transparent_picture(server: Server, name: str) -> None:
    """13: where a map wants a picture; a vector tile has no bytes but a validator, data is empty."""
    for asked in (None, "png", "webp"):
        image = Image.open(io.BytesIO(run(server, name, asked, tile=True).content)).convert("RGBA")
        assert image.size == (256, 256)
        assert image.getchannel("A").getextrema() == (0, 0)
    vector = run(server, name, "mvt", tile=True)
    assert (kind(vector), vector.content) == ("mvt", b"")
    assert vector.headers["etag"]
    assert run(server, name, "tiff", tile=True).content == b""


def test_an_empty_list_is_no_data_where_a_list_has_no_form(server: Server) -> None:
    """13: as JSON it is a list; as a table or picture it is nothing."""
    assert run(server, "no_list").json() == []
    for asked in ("parquet", "geojson", "png"):
        response = run(server, "no_list", asked)
        assert (response.status_code, response.content) == (200, b"")


def test_a_tables_index_and_crs_come_back(server: Server) -> None:
    """7.4: what the client rebuilds from Parquet equals what the UDF returned."""
    frame = pd.read_parquet(io.BytesIO(run(server, "frame", CLIENT).content))
    places = gpd.read_parquet(io.BytesIO(run(server, "places", CLIENT).content))

    assert frame.equals(pd.DataFrame({"a": [1, 2]}, index=pd.Index(["x", "y"], name="key")))
    assert frame.index.name == "key"
    assert places.crs == "EPSG:32631"
    assert places.geometry[0].x == 500000


@pytest.mark.parametrize(
    ("name", "tags"),
    [
        ("array", {"orig_type": "numpy.ndarray", "shape": "[3, 8, 8]"}),
        ("pair", {"orig_type": "numpy.ndarray", "shape": "[3, 8, 8]", "bounds": "[0.0, 0.0, 10.0, 10.0]"}),
        ("data_array", {"orig_type": "xarray.DataArray", "shape": "[4, 4]"}),
        ("dataset", {"orig_type": "xarray.Dataset", "shape": "[1, 4, 4]", "key": "v"}),
    ],
)
@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_geotiff_says_what_it_was(server: Server, name: str, tags: dict[str, str]) -> None:
    """7.4: tags in the namespace ``fused``, and no nodata value."""
    with rasterio.open(io.BytesIO(run(server, name, "tiff").content)) as source:
        assert source.tags(ns="fused") == tags
        assert source.nodata is None
        assert (source.crs is None) is (name == "array")


def test_npy_is_the_array(server: Server) -> None:
    """7.4: plain ``numpy.save`` bytes."""
    array = np.load(io.BytesIO(run(server, "array", CLIENT).content))

    assert (array.shape, array.dtype) == ((3, 8, 8), "uint8")
    assert (array == 7).all()


def test_geojson_is_in_degrees(server: Server) -> None:
    """7.4: also for JSON of features; CSV keeps the coordinates of the frame, as WKT."""
    for asked in ("geojson", "json"):
        (feature,) = run(server, "places", asked).json()["features"]
        assert feature["geometry"]["coordinates"] == pytest.approx([3, 0])
    assert run(server, "places", "csv").text == "n,geometry\r\nx,POINT (500000 0)\r\n"


# -- bundles


def test_a_bundle_is_a_zip_whatever_is_asked(server: Server) -> None:
    """7.3 and 7.4: a member for each key, and their types in ``meta.json``."""
    for asked in (None, CLIENT, "csv", "html"):
        archive = zipfile.ZipFile(io.BytesIO(run(server, "bundle", asked).content))
        assert json.loads(archive.read("meta.json")) == {
            "files": {
                "table": {"content_type": "application/octet-stream"},
                "text": {"content_type": "text/html; charset=utf-8"},
                "array": {"content_type": "application/x-numpy-data"},
            }
        }
        assert set(archive.namelist()) == {"table", "text", "array", "meta.json"}


def test_a_bundle_is_json_where_that_alone_is_asked_and_can_say_it(server: Server) -> None:
    """7.3: a raster has no JSON, so a bundle with one stays a zip."""
    assert run(server, "tables", "json").json() == {"table": [{"a": 1}], "text": "x"}
    assert kind(run(server, "tables", "json,csv")) == "zip"
    assert kind(run(server, "bundle", "json")) == "zip"


# -- responses


def test_a_response_is_passed_through(server: Server) -> None:
    """7.1: status, type and body, whatever was asked for, in a tile as well."""
    for asked in (None, CLIENT, "png"):
        for tile in (False, True):
            response = run(server, "response", asked, tile=tile)
            assert (response.status_code, response.text) == (201, "<p>r</p>")
            assert response.headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize("name", ["split", "typed", "status"])
def test_a_response_that_can_not_be_sent_is_an_error(server: Server, name: str) -> None:
    """7.5: a header that would end and begin another one, or a status that isn't final, fails its own run."""
    response = run(server, name)

    assert response.status_code == 422
    assert response.json()["detail"].startswith("Result serialization failed: starlette.responses.Response")
    assert "set-cookie" not in response.headers


def test_a_status_without_body_has_none(server: Server) -> None:
    """7.1: 204 and 304 carry no body over HTTP, whatever the response holds."""
    response = run(server, "bodyless")

    assert (response.status_code, response.content) == (204, b"")
