"""Styles over HTTP: of ``canvas.toml`` or the query, refused with their faults, seen when they are edited."""

from __future__ import annotations

import html
import io
import json
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.conftest import Server
from tileserver.canvas import Secrets, read_canvas

POINTS = """
import fused
import geopandas as gpd
import shapely

@fused.udf
def udf(bounds: fused.types.Bounds = None, least: float = 0):
    \"\"\"Points\"\"\"
    frame = gpd.GeoDataFrame({"mag": [1.0, 5.0, 9.0], "kind": ["a", "b", "a"]},
                             geometry=shapely.points([-90, 0, 90], [0, 0, 0]), crs=4326)
    return frame[frame["mag"] >= least]
"""
RAMP = """
import fused
import numpy as np

@fused.udf
def udf(x: int, y: int, z: int):
    return np.linspace(-100, 1100, 256 * 256, dtype="float32").reshape(256, 256)
"""


def dots(colour: str) -> str:
    layer = {"id": "dots", "type": "circle", "source": "udf", "source-layer": "udf"}
    paint = {"circle-color": colour, "circle-radius": 12}
    return json.dumps({"version": 8, "sources": {}, "layers": [{**layer, "paint": paint}]})


FILES = {
    "city/points.py": POINTS,
    "city/ramp.py": RAMP,
    "city/canvas.toml": '[udf.points]\nstyle = "dots"\n[udf.ramp]\nstyle = "terrain"\n',
    "city/styles/dots.json": dots("#ff0000"),
    "city/styles/broken.json": dots("nonsense"),
}


def shown(answer: Any) -> NDArray[np.uint8]:
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)).convert("RGBA"))


def test_a_style_of_the_canvas_draws_its_udf_until_the_query_says_another(
    serve: Callable[..., Server],
) -> None:
    """``style =`` in ``canvas.toml``, ``?style=`` in the address; an edit is seen in the next tile."""
    server = serve(FILES)
    tile = "/{city}/points/run/tiles/0/0/0.png"

    assert tuple(shown(server.get(tile))[128, 128]) == (255, 0, 0, 255)
    assert tuple(shown(server.get(f"{tile}?style=default"))[128, 128][:3]) == (219, 92, 51)

    server.write({"city/styles/dots.json": dots("#0000ff")})
    answers = (server.get(tile) for _ in range(200))
    edited = next(answer for answer in answers if answer.headers["x-cache"] == "miss")
    assert tuple(shown(edited)[128, 128]) == (0, 0, 255, 255)


@pytest.mark.parametrize(
    ("style", "reason"),
    [
        ("broken", "layers[0].paint.circle-color: takes a colour"),
        ("dot", "no style called 'dot'; near it: dots"),
        ("choropleth(attribute=mag,range=3:1)", "min below max"),
        ("choropleth(attribute=kind)", "choropleth(attribute=mag, range=0:9)"),
    ],
)
def test_a_style_that_is_no_good_is_refused(serve: Callable[..., Server], style: str, reason: str) -> None:
    """422 with the path of the fault, or with what is near it."""
    server = serve(FILES)
    answers = [
        server.get(f"/{{city}}/points/run/{what}", params={"style": style})
        for what in ("tiles/0/0/0.png", "style.json", "legend.json", "legend.png")
    ]

    assert [answer.status_code for answer in answers] == [422] * 4
    assert all(reason in answer.json()["detail"] for answer in answers)


def test_faults_of_styles_are_problems_of_their_canvas(tmp_path: Any) -> None:
    """By file and path; a UDF that names such a style is served by the default one."""
    (tmp_path / "city/styles").mkdir(parents=True)
    toml = '[udf.points]\nstyle = "broken"\n[udf.ramp]\nstyle = "terain"\n'
    for name, text in {**FILES, "city/canvas.toml": toml}.items():
        (tmp_path / name).write_text(text)

    canvas = read_canvas(tmp_path / "city", Secrets(), None)
    problems = [str(problem) for problem in canvas.problems]

    assert problems[0].startswith("styles/broken.json: layers[0].paint.circle-color: takes a colour")
    assert any("[udf.points] style: layers[0].paint.circle-color" in problem for problem in problems)
    assert any(
        "[udf.ramp] style: no style called 'terain'; near it: terrain" in problem for problem in problems
    )
    assert canvas.udfs["points"].settings.style == ""


def test_what_is_left_open_is_the_same_where_nothing_is_stored(serve: Callable[..., Server]) -> None:
    """A function whose numbers are others each time it runs, and whose results are not kept."""
    other = POINTS.replace("import fused", "import fused\nimport random").replace(
        "9.0]", "random.random() * 1e4]"
    )
    server = serve({"city/points.py": other, "city/canvas.toml": "[udf.points]\ncache = false\n"})
    styles = [server.get("/{city}/points/run/style.json?style=auto").json()["layers"] for _ in range(3)]
    answer = server.get("/{city}/points/run/tiles/0/0/0.png?style=auto")

    assert styles[0] == styles[1] == styles[2]
    assert answer.headers["x-cache"] == "miss" and answer.headers["cache-control"] == "no-store"


def test_what_is_left_open_is_the_same_in_all_tiles(serve: Callable[..., Server]) -> None:
    """The range comes from the UDF's own data, not from what a tile or a query has of it."""
    server = serve(FILES)
    chosen = [
        server.get(f"/{{city}}/points/run/style.json?style=auto{more}").json()["metadata"]["tileserver:style"]
        for more in ("", "&least=5", "&format=png")
    ]
    whole, part = (
        shown(server.get(f"/{{city}}/points/run/tiles/2/{place}.png?style=auto{more}"))
        for place, more in (("2/2", ""), ("2/2", "&least=5"))
    )

    assert chosen == ["choropleth(attribute=mag, range=1:9)"] * 3
    assert (whole == part).all() and whole[..., 3].any()


def test_a_picture_has_the_colours_of_the_stops(serve: Callable[..., Server]) -> None:
    """Values between stops have colours between theirs; ``rescale`` and ``colormap`` of the query win."""
    server = serve(FILES)
    tile = "/{city}/ramp/run/tiles/0/0/0.png"
    terrain = shown(server.get(tile)).astype(int)
    grey = shown(server.get(f"{tile}?rescale=-100,1100"))
    named = shown(server.get(f"{tile}?colormap=viridis&rescale=0,50"))

    def at(value: float) -> Any:
        return np.unravel_index(round((value + 100) / 1200 * 65535), (256, 256))

    assert terrain[at(150)] == pytest.approx([0x86, 0xB2, 0x6B, 255], abs=1)
    assert terrain[at(400)] == pytest.approx([0xCF, 0xD2, 0x8A, 255], abs=1)
    assert terrain[at(600)] == pytest.approx([0xDA, 0xD0, 0x8E, 255], abs=2)
    assert (grey[..., 0] == grey[..., 1]).all()
    assert tuple(named[0, 0]) == (0x44, 0x01, 0x54, 255)


def test_legends_of_pictures_follow_the_query(serve: Callable[..., Server]) -> None:
    """The colours along the values, as they are shown."""
    server = serve(FILES)

    def stops(query: str) -> Any:
        return server.get(f"/{{city}}/ramp/run/legend.json{query}").json()["items"][0]["stops"]

    assert stops("")[1] == [0.0, "#4f8f63"]
    assert stops("?rescale=0,50") == [[0.0, "#000000"], [50.0, "#ffffff"]]
    assert stops("?rescale=0,50&colormap=viridis")[::8] == [
        [0.0, "#440154"],
        [25.0, "#20908c"],
        [50.0, "#fde724"],
    ]


def test_a_legend_has_numbers_of_any_size(serve: Callable[..., Server]) -> None:
    """The whole range of 64 bits, and what only floats reach."""
    whole = RAMP.replace("float32", "uint64").replace("-100, 1100", "0, 9")
    server = serve({**FILES, "city/whole.py": whole})

    def ends(address: str) -> Any:
        [item] = server.get(f"/{{city}}/{address}").json()["items"]
        return item["stops"][0][0], item["stops"][-1][0]

    assert ends("whole/run/legend.json") == (0, 2.0**64 - 1)
    assert ends("ramp/run/legend.json?rescale=-1e300,1e300") == (-1e300, 1e300)
    assert shown(server.get("/{city}/ramp/run/legend.png?rescale=-1e300,1e300")).shape[0] > 40


def test_a_legend_is_drawn_at_any_scale_and_theme(serve: Callable[..., Server]) -> None:
    """Twice the pixels at scale 2, light ink on a dark ground; other scales and themes are refused."""
    server = serve(FILES)
    legend = "/{city}/points/run/legend.png?style=magnitude(attribute=mag,range=0:9)"
    one, two, dark = (
        shown(server.get(f"{legend}{more}")) for more in ("", "&scale=2", "&scale=2&theme=dark")
    )

    assert two.shape[:2] == pytest.approx([2 * side for side in one.shape[:2]], abs=1)
    assert two.shape == dark.shape
    assert two[two.shape[0] - 8, 30, :3].min() > 240 and dark[two.shape[0] - 8, 30, :3].max() < 60
    assert server.get(f"{legend}&scale=9").status_code == 422
    assert server.get(f"{legend}&theme=pink").status_code == 422
    assert server.get(legend).headers["x-cache"] == "hit"


def test_the_map_page_says_why_the_default_style_draws(serve: Callable[..., Server]) -> None:
    """docs/map-page.md: the place in the document, to those who may read the code; nothing where the query
    names another style."""
    named = '[udf.points]\nstyle = "broken"\n[udf.ramp]\nstyle = "<b>"\n'
    server = serve({**FILES, "city/canvas.toml": named})

    def fault(path: str, token: str = "{city}") -> str:
        page = server.get(f"/{token}/{path}", headers={"accept": "text/html"})
        assert page.status_code == 200
        found = re.search(r'id="style-fault".*?>(.*?)</p>', page.text)
        return html.unescape(found[1]) if found else ""

    assert fault("points/map").startswith("Drawn by the default style: layers[0].paint.circle-color: ")
    assert fault("points/map").endswith("(style broken)")
    assert "not '<b>'" in fault("ramp/map")
    assert fault("points/map?style=default") == ""
    assert shown(server.get("/{city}/points/run/tiles/0/0/0.png")).any()
    access = server.access
    closed = access.share("city").token
    access.close()
    assert fault("points/map", closed) == ""


def test_documents_are_for_layers_only(serve: Callable[..., Server]) -> None:
    """A result without a place has no style and no legend; the addresses in a style keep the query."""
    server = serve({**FILES, "city/text.py": "import fused\n@fused.udf\ndef udf():\n    return 'hello'\n"})
    style = server.get("/{city}/points/run/style.json?least=5&style=default").json()

    for what in ("style.json", "legend.json", "legend.png"):
        assert server.get(f"/{{city}}/text/run/{what}").status_code == 404
    assert "/points/run/tiles.json?least=5&_v=" in style["sources"]["udf"]["url"]
    assert "style=" not in style["sources"]["udf"]["url"]


def test_a_udf_with_a_parameter_called_style_gets_it(serve: Callable[..., Server]) -> None:
    """Then the query says nothing of how it is drawn."""
    source = "import fused\n@fused.udf\ndef udf(style: str = 'x'):\n    return {'style': style}\n"
    server = serve({"city/own.py": source})

    assert server.get("/{city}/own.json?style=nonsense").json() == {"style": "nonsense"}
