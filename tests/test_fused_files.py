"""Shared files, ``fused.api``, partitioned tables, and responses of FastAPI (contract, section 13)."""

from __future__ import annotations

import base64
import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import geopandas as gpd
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import shapely

from tests.bundles import bundle, run, value
from tests.bundles import worker_process as worker_process
from tests.conftest import Server
from tileserver import fused
from tileserver.errors import UdfError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The owner's folder of files."""
    monkeypatch.setenv("TILESERVER_UDF_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "files"


# -- paths


def test_a_file_path_makes_the_folders_that_it_needs(folder: Path) -> None:
    """A name with a full stop is a file's; a leading slash is the folder itself."""
    assert fused.file_path("a/b/c.txt") == str(folder / "a/b/c.txt")
    assert fused.file_path("/d/e") == str(folder / "d/e")
    assert fused.file_path(str(folder / "a")) == str(folder / "a")
    assert fused.file_path("n/o.txt", mkdir=False) == str(folder / "n/o.txt")
    assert ((folder / "a/b").is_dir(), (folder / "d/e").is_dir(), (folder / "n").exists()) == (
        True,
        True,
        False,
    )
    assert fused.core.create_path("x") == str(folder / "x")


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/../x", "link/x.txt", "link", "a\x00b"])
def test_no_path_leads_out_of_the_folder(folder: Path, tmp_path: Path, name: str) -> None:
    """By no link either, whatever is done with it."""
    fused.file_path("a")
    (tmp_path / "outside").mkdir()
    (folder / "link").symlink_to(tmp_path / "outside")

    for write in (
        fused.file_path,
        lambda path: fused.api.upload(b"x", path),
        lambda path: fused.download("https://example.org/x", path),
        fused.api.delete,
        lambda path: fused.api.download("a", path),
    ):
        with pytest.raises(ValueError, match="leads out of the folder"):
            write(name)
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_link_made_later_is_not_followed(folder: Path, tmp_path: Path) -> None:
    """A file is replaced, not written through its link."""
    outside = tmp_path / "outside.txt"
    outside.write_text("kept")
    fused.api.upload(b"one", "x.txt")
    (folder / "x.txt").unlink()
    (folder / "x.txt").symlink_to(outside)

    with pytest.raises(ValueError, match="leads out"):
        fused.api.upload(b"two", "x.txt")
    assert outside.read_text() == "kept"


# -- downloads


class Page(BaseHTTPRequestHandler):
    status: ClassVar[int] = 200
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        Page.asked.append(self.path)
        self.send_response(Page.status)
        self.end_headers()
        self.wfile.write(b"content")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as it is overridden
        pass


@pytest.fixture
def web() -> Iterator[str]:
    served = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=served.serve_forever, args=(0.02,))
    thread.start()
    Page.asked, Page.status = [], 200
    yield f"http://127.0.0.1:{served.server_port}/data.csv"
    served.shutdown()
    served.server_close()
    thread.join()


def test_a_download_happens_once(folder: Path, web: str) -> None:
    """Also when eight ask at the same time; nothing is left beside the file."""
    with ThreadPoolExecutor(8) as threads:
        paths = list(threads.map(lambda _: fused.download(web, "/tmp/data.csv"), range(8)))

    assert set(paths) == {folder / "tmp/data.csv"}
    assert paths[0].read_bytes() == b"content"
    assert len(Page.asked) == 1
    assert [path.name for path in (folder / "tmp").iterdir()] == ["data.csv"]


def test_a_download_that_fails_is_tried_again(folder: Path, web: str) -> None:
    """The failure is told, and leaves no file."""
    Page.status = 503
    with pytest.raises(OSError, match="answered with status 503"):
        fused.download(web, "data.csv")
    Page.status = 200

    assert fused.download(web, "data.csv").read_bytes() == b"content"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "data.csv", "nosuch://x/y", "memory://x"])
def test_other_kinds_of_address_are_refused(folder: Path, url: str) -> None:
    """With a sentence."""
    with pytest.raises(ValueError, match="can't? be read here|can be read here"):
        fused.download(url, "x.csv")


def test_downloads_are_shared_by_the_runs_of_a_canvas(serve: Callable[..., Server], web: str) -> None:
    """By those of different workers too, and by no other canvas."""
    source = f"""
@fused.udf(cache_max_age="0s")
def udf(n: int):
    import os
    return [str(fused.download("{web}", "data.csv")), os.getpid()]
"""
    many = "@fused.udf\ndef udf(): return fused.submit('get', [1, 2, 3, 4]).result.tolist()\n"
    server = serve({f"{c}/{n}.py": t for c in "ab" for n, t in (("get", source), ("many", many))})

    one, other = (server.get(f"/{{{canvas}}}/many.json").json() for canvas in "ab")

    assert len({path for path, _ in one}) == 1
    assert one[0][0] != other[0][0]
    assert len(Page.asked) == 2


# -- fused.api


def test_files_go_up_and_down(folder: Path, tmp_path: Path) -> None:
    """Bytes, files, frames; by paths in the owner's folder, with or without ``fd://``."""
    (tmp_path / "local.txt").write_text("local")
    api = fused.api
    api.upload(b"bytes", "fd://a/bytes.bin")
    api.upload(str(tmp_path / "local.txt"), "a/")
    api.upload(io.BytesIO(b"open"), "a/b/open.bin")
    api.upload(pd.DataFrame({"x": [1]}), "a/frame.parquet")

    assert (api.get("a/bytes.bin"), api.get("fd://a/local.txt")) == (b"bytes", b"local")
    names = ("b/", "bytes.bin", "frame.parquet", "local.txt")
    assert api.list("fd://a") == [f"{folder}/a/{name}" for name in names]
    details = {entry.file_name: entry for entry in api.list("a", details=True)}
    assert (details["b"].is_directory, details["bytes.bin"].size) == (True, 5)
    assert pd.read_parquet(api.resolve("a/frame.parquet")).x.tolist() == [1]
    api.download("a/bytes.bin", "copy.bin")
    assert (folder / "copy.bin").read_bytes() == b"bytes"
    assert api.sign_url("a/local.txt").startswith("file:///")
    assert pd.read_csv(api.sign_url("a/local.txt")).columns.tolist() == ["local"]
    assert list(api.sign_url_prefix("a/b")) == [f"{folder}/a/b/open.bin"]


def test_deleting_is_careful(folder: Path) -> None:
    """Not deeper than asked for, and never everything."""
    fused.api.upload(b"x", "a/b/c/d.txt")

    with pytest.raises(ValueError, match="deeper than max_deletion_depth=2"):
        fused.api.delete("a", max_deletion_depth=2)
    with pytest.raises(ValueError, match="itself is not deleted"):
        fused.api.delete("")
    with pytest.raises(FileNotFoundError):
        fused.api.delete("nothing")
    assert fused.api.delete("a/b/c/d.txt") is True
    assert fused.api.delete("a") is True
    assert list(folder.iterdir()) == []


@pytest.mark.usefixtures("worker_process")
def test_who_owns_the_code_is_no_look_at_the_caller(tmp_path: Path) -> None:
    """It is the canvas."""
    source = "@fused.udf\ndef udf(): return [fused.api.whoami()['handle'], list(fused.api.get_udfs())]\n"

    assert value(bundle(tmp_path, {"hello.py": source})) == ["canvas", ["hello"]]


# -- partitioned tables


@pytest.fixture
def table(tmp_path: Path) -> str:
    """A table of two files with two chunks each, as Fused writes them."""
    folder = tmp_path / "table"
    folder.mkdir()
    boxes = []
    for file in range(2):
        frames = []
        for chunk in range(2):
            x = 10.0 * file + chunk
            points = [shapely.Point(x, 0), shapely.Point(x + 0.5, 1)]
            frames.append(gpd.GeoDataFrame({"v": [file, chunk]}, geometry=points, crs=4326))
            box = {"bbox_minx": x, "bbox_miny": 0.0, "bbox_maxx": x + 0.5, "bbox_maxy": 1.0}
            boxes.append({"file_id": str(file), "chunk_id": chunk, **box})
        pd.concat(frames).to_parquet(folder / f"{file}.parquet", row_group_size=2)
    page = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pandas(pd.DataFrame(boxes)), page)
    write_sample(folder, b"5", page.getvalue())
    return str(folder)


def write_sample(folder: Path, version: bytes, content: bytes) -> None:
    metadata = {b"fused:format_version": version, b"fused:_metadata": base64.encodebytes(content)}
    sample = pa.table({"v": [1]}).replace_schema_metadata(metadata)
    pyarrow.parquet.write_table(sample, folder / "_sample")


@pytest.mark.parametrize("version", [b"5", b"4"])
def test_chunks_are_listed_with_their_boxes(table: str, version: bytes) -> None:
    """In the present version, and in the one before, which has 20 bytes more at byte 20."""
    if version == b"4":
        metadata = pyarrow.parquet.read_schema(f"{table}/_sample").metadata
        content = base64.b64decode(metadata[b"fused:_metadata"])
        write_sample(Path(table), version, content[:20] + b"-" * 20 + content[20:])

    chunks = fused.get_chunks_metadata(f"{table}/")

    assert chunks.crs.to_epsg() == 4326
    assert list(zip(chunks.file_id, chunks.chunk_id, strict=True)) == [("0", 0), ("0", 1), ("1", 0), ("1", 1)]
    assert chunks.geometry[3].bounds == (11.0, 0.0, 11.5, 1.0)


def test_a_chunk_is_a_row_group(table: str) -> None:
    """With its geometry, or without where other columns are asked for; or the whole file."""
    chunk = fused.get_chunk_from_table(table, "1", 1)
    plain = fused.get_chunk_from_table(table, 1, 1, columns=["v"])

    assert (type(chunk), chunk.crs.to_epsg(), chunk.geometry.iloc[0].x) == (gpd.GeoDataFrame, 4326, 11.0)
    assert (type(plain), plain.v.tolist()) == (pd.DataFrame, [1, 1])
    assert len(fused.get_chunk_from_table(table, 1, None)) == 4
    assert len(fused.get_chunk_from_table(f"{table}/0.parquet", None, None)) == 4
    assert list(fused.get_chunk_from_table(table, 0, 0, columns=["geometry"]).columns) == ["geometry"]


@pytest.mark.parametrize(("version", "says"), [(b"3", "in version 3"), (b"5", "is damaged")])
def test_a_table_of_another_kind_is_refused(table: str, version: bytes, says: str) -> None:
    """Saying why."""
    write_sample(Path(table), version, b"nonsense")

    with pytest.raises(ValueError, match=says):
        fused.get_chunks_metadata(table)
    pyarrow.parquet.write_table(pa.table({"v": [1]}), f"{table}/_sample")
    with pytest.raises(ValueError, match="no table with the metadata of Fused"):
        fused.get_chunks_metadata(table)


# -- responses


def test_responses_of_fastapi_are_starlettes(serve: Callable[..., Server]) -> None:
    """Published UDFs import them; nobody need install FastAPI for that."""
    files = {
        "a/page.py": (
            "from fastapi import Response\n@fused.udf\ndef udf(): "
            "return Response('<p>hello</p>', media_type='text/html', headers={'x-own': '1'})\n"
        ),
        "a/many.py": (
            "import fastapi\nfrom fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse\n"
            "@fused.udf\ndef udf():\n"
            "    return JSONResponse({'names': [HTMLResponse.__name__, fastapi.status.HTTP_200_OK]})\n"
        ),
    }
    server = serve(files)
    page, many = server.get("/{a}/page"), server.get("/{a}/many")

    assert (page.text, page.headers["content-type"]) == ("<p>hello</p>", "text/html; charset=utf-8")
    assert page.headers["x-own"] == "1"
    assert many.json() == {"names": ["HTMLResponse", 200]}


@pytest.mark.usefixtures("worker_process")
def test_an_installed_fastapi_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in is only for where it is missing, and has no more names than it needs."""
    (tmp_path / "fastapi.py").write_text("Response = 'real'")
    source = "@fused.udf\ndef udf():\n  import fastapi\n  return fastapi.Response\n"
    refused = "@fused.udf\ndef udf():\n  from fastapi import FastAPI\n"
    with pytest.raises(UdfError, match="ImportError: cannot import name 'FastAPI'"):
        value(bundle(tmp_path / "..", {"hello.py": refused}))
    monkeypatch.delitem(__import__("sys").modules, "fastapi")
    monkeypatch.syspath_prepend(tmp_path)

    assert value(bundle(tmp_path, {"hello.py": source})) == "real"


CONTEXT: dict[str, Any] = {
    "fused.context.get_recursion_factor()": 1,
    "fused.context.in_realtime()": True,
    "fused.context.in_batch()": False,
    "fused.context.get_realtime_client_id()": "local",
    "fused.context.get_execution_environment_id()": "local",
    "fused.context.this_udf().name": "hello",
}


@pytest.mark.usefixtures("worker_process")
@pytest.mark.parametrize("expression", list(CONTEXT))
def test_what_says_nothing_of_the_caller_is_no_look_at_it(tmp_path: Path, expression: str) -> None:
    """contract, section 13: these names may be read by a run that is stored."""
    canvas = bundle(tmp_path, {"hello.py": f"@fused.udf\ndef udf(): return {expression}\n"})

    assert value(canvas) == CONTEXT[expression]
    assert "read_caller" not in run(canvas).meta
