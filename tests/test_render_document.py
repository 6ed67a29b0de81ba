"""Pages, SVG, ready-made responses and zip bundles."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from lxml import html as lxml_html
from PIL import Image
from starlette.responses import FileResponse, HTMLResponse, Response, StreamingResponse

from tileserver.errors import UnsupportedOutput
from tileserver.formats import FORMATS, Kind
from tileserver.protocol import Job
from tileserver.render.classify import Classified, classify
from tileserver.render.document import bundle, html, response, svg

JOB = Job(owner="c", bundle="b", udf="<my & udf>", arguments={}, formats=("html",), default="page")


def page(value: Any) -> lxml_html.HtmlElement:
    """The parsed page of a value; it must be UTF-8, without scripts and without addresses outside itself."""
    body = html(classify(value), FORMATS["html"], JOB)[0].decode()
    root = lxml_html.document_fromstring(body)
    assert not root.xpath("//script | //link | //iframe")
    assert all(address.startswith("data:") for address in root.xpath("//@src | //@href"))
    assert root.xpath("string(//title)") == JOB.udf
    return root


@pytest.mark.parametrize("text", ["<b>é</b>", "<!doctype html><script>1</script>", ""])
def test_text_is_sent_as_it_is(text: str) -> None:
    """A str is taken for HTML, a fragment as much as a full page."""
    assert html(classify(text), FORMATS["html"], JOB) == (text.encode(), {})


def test_svg_is_sent_as_it_is() -> None:
    """A str asked as SVG is not touched."""
    assert svg(classify("<svg/>"), FORMATS["svg"], JOB)[0] == b"<svg/>"


def test_table_page_shows_escaped_cells() -> None:
    """Names and values are escaped; a missing value is an empty cell."""
    root = page(pd.DataFrame({"<i>": ["<script>1</script>", None], "n": [1.5, 2.0]}))

    assert [cell.text for cell in root.xpath("//th")] == ["<i>", "n"]
    assert [cell.text for cell in root.xpath("//td")] == ["<script>1</script>", "1.5", None, "2.0"]


def test_long_table_says_what_is_left_out() -> None:
    """A page has the first thousand rows and a hundred columns, and says where all are."""
    root = page(pd.DataFrame(np.zeros((1500, 120), dtype=int)))

    assert (len(root.xpath("//tbody/tr")), len(root.xpath("//th"))) == (1000, 100)
    note = root.xpath("string(//p[@class='note'])")
    assert note.startswith("1,500 rows, 120 columns. Shown: the first 1,000 rows and the first 100 columns")
    assert ".csv" in note


def test_empty_table_has_a_page() -> None:
    """A table without rows shows its columns and says so."""
    root = page(pd.DataFrame({"a": []}))

    assert root.xpath("string(//th)") == "a"
    assert "no rows" in root.xpath("string(//p[@class='empty'])")


def test_features_page_cuts_long_geometries_and_reports_bounds() -> None:
    """Geometry is shown as WKT, cut to a readable length; bounds come with the page."""
    frame = gpd.GeoDataFrame({"a": [1]}, geometry=[shapely.Point(1, 2).buffer(1)], crs=4326)

    assert page(frame).xpath("string(//td[2])").endswith("…")
    assert html(classify(frame), FORMATS["html"], JOB)[1]["bounds"] == pytest.approx([0, 1, 2, 3])


def test_simple_page_shows_json() -> None:
    """A dict is shown as escaped, indented JSON."""
    shown = page({"a": "</pre><b>", "n": float("nan")}).xpath("string(//pre)")

    assert json.loads(shown) == {"a": "</pre><b>", "n": None}
    assert "\n  " in shown


@pytest.mark.parametrize("value", [np.full((8, 9), 7, dtype="uint8"), (np.ones((3, 8, 9)), [0, 0, 9, 8])])
def test_raster_page_embeds_the_picture(value: Any) -> None:
    """A raster's page holds it as a PNG and says its size."""
    root = page(value)

    head, _, data = root.xpath("string(//img/@src)").partition(",")
    assert head == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (9, 8)
    assert "9 by 8 pixels" in root.xpath("string(//p)")


def test_encoded_image_is_embedded_as_it_is() -> None:
    """An image that browsers know keeps its bytes and type."""
    picture = io.BytesIO()
    Image.new("RGB", (4, 4)).save(picture, "JPEG")

    assert page(picture.getvalue()).xpath("string(//img/@src)").startswith("data:image/jpeg;base64,/9j/")


def opened(value: dict[Any, Any]) -> tuple[dict[str, bytes], dict[str, str]]:
    """Members and their content types, read as the Python client does."""
    archive = zipfile.ZipFile(io.BytesIO(bundle(Classified(Kind.BUNDLE, value, value), JOB)[0]))
    files = json.loads(archive.read("meta.json"))["files"]
    return {name: archive.read(name) for name in files}, {
        name: facts["content_type"] for name, facts in files.items()
    }


def test_bundle_has_a_readable_member_for_each_key() -> None:
    """Each kind of value is a member in the format that the client reads back."""
    picture = io.BytesIO()
    Image.new("RGB", (4, 4)).save(picture, "PNG")
    place = gpd.GeoDataFrame({"a": [1]}, geometry=[shapely.Point(1, 2)], crs=4326)

    members, types = opened(
        {
            "table": pd.DataFrame({"a": [1]}),
            "places": place,
            "array": np.arange(6).reshape(2, 3),
            "list": np.arange(3),
            "raster": (np.ones((1, 4, 4), dtype="uint8"), [0, 0, 1, 1]),
            "page": "<b>é</b>",
            "facts": {"n": 1},
            "nothing": None,
            "image": picture.getvalue(),
            "inner": {"t": pd.DataFrame({"b": [2]})},
        }
    )

    assert pd.read_parquet(io.BytesIO(members["table"]))["a"].tolist() == [1]
    assert gpd.read_parquet(io.BytesIO(members["places"])).crs == place.crs
    assert np.load(io.BytesIO(members["array"])).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert np.load(io.BytesIO(members["list"])).tolist() == [0, 1, 2]
    with rasterio.open(io.BytesIO(members["raster"])) as source:
        assert tuple(source.bounds) == (0, 0, 1, 1)
    assert members["page"].decode() == "<b>é</b>"
    assert [json.loads(members[name]) for name in ("facts", "nothing")] == [{"n": 1}, None]
    assert "meta.json" in zipfile.ZipFile(io.BytesIO(members["inner"])).namelist()
    assert types == {
        **dict.fromkeys(("table", "places"), "application/octet-stream"),
        **dict.fromkeys(("array", "list"), "application/x-numpy-data"),
        "raster": "image/tiff",
        "page": "text/html; charset=utf-8",
        **dict.fromkeys(("facts", "nothing"), "application/json"),
        "image": "image/png",
        "inner": "application/zip",
    }


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        (["../../etc/passwd", "a/../..", "a\\b"], ["_/_/etc/passwd", "a/_/_", "a_b"]),
        (["/etc", "//etc", "C:/x", "a//b", "a/", "."], ["_etc", "_/etc", "_/x", "a_b", "a_", "_"]),
        (["meta.json", 7, "", "\x00"], ["meta.json_2", "7", "_", "__2"]),
        (["a/b", "x > 5?", ".hidden", "sum: b", "..."], ["a/b", "x > 5?", ".hidden", "sum: b", "..."]),
    ],
    ids=["up", "absolute", "odd", "kept"],
)
def test_bundle_members_have_safe_distinct_names(keys: list[Any], names: list[str]) -> None:
    """A key can't lead outside the folder it is unpacked in, nor displace another member."""
    members, _ = opened({key: pd.DataFrame({"a": [1]}) for key in keys})

    assert list(members) == names
    assert not any(Path(name).is_absolute() or ".." in Path(name).parts for name in members)


def test_bundle_of_equal_values_is_equal_bytes() -> None:
    """No clock is written into the archive."""
    value = {"a": "text"}
    found = Classified(Kind.BUNDLE, value, value)

    assert bundle(found, JOB) == bundle(found, JOB)
    archive = zipfile.ZipFile(io.BytesIO(bundle(found, JOB)[0]))
    assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_bundle_names_the_key_it_cannot_write() -> None:
    """A value without a form is an error that names its key."""
    with pytest.raises(UnsupportedOutput, match=r"^Result serialization failed: key 'odd'"):
        opened({"fine": pd.DataFrame({"a": [1]}), "odd": object()})


def passed(value: Any) -> tuple[bytes, str, dict[str, Any]]:
    return response(Classified(Kind.RESPONSE, value, value))


def test_response_passes_status_type_and_own_headers() -> None:
    """Body, status and type are the UDF's; of its headers only those that are its own to set."""
    headers = {
        "X-Mine": "1",
        "Content-Disposition": "attachment",
        "X-Fused-Metadata": "no",
        "X-Cache": "no",
        "Set-Cookie": "no",
        "Cache-Control": "no",
    }

    body, media_type, facts = passed(HTMLResponse("<b>é</b>", status_code=404, headers=headers))

    assert (body.decode(), media_type) == ("<b>é</b>", "text/html; charset=utf-8")
    assert facts["status"] == 404
    assert facts["headers"] == {"x-mine": "1", "content-disposition": "attachment"}


def test_response_without_a_type_is_bytes() -> None:
    """A response that says no type is sent as plain bytes."""
    assert passed(Response(b"\x00"))[:2] == (b"\x00", "application/octet-stream")


async def _chunks() -> AsyncIterator[str | bytes]:
    yield "é"
    yield b"!"


@pytest.mark.parametrize("chunks", [_chunks, lambda: iter(["é", b"!"])], ids=["asynchronous", "plain"])
def test_streaming_response_is_collected(chunks: Any) -> None:
    """A stream ends up as one body."""
    assert passed(StreamingResponse(chunks(), media_type="text/plain"))[0].decode() == "é!"


def test_file_response_is_read(tmp_path: Path) -> None:
    """A file response is the file's bytes; a missing file is an error that says so."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"a\n1\n")

    body, media_type, facts = passed(FileResponse(path, filename="b.csv"))

    assert (body, media_type) == (b"a\n1\n", "text/csv; charset=utf-8")
    assert "b.csv" in facts["headers"]["content-disposition"]
    path.unlink()
    with pytest.raises(UnsupportedOutput, match="can't be read: No such file"):
        passed(FileResponse(path))
