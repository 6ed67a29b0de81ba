"""The OpenAPI document of a canvas: the contract's section 12, and an OpenAPI validator's word for it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openapi_spec_validator import validate
from openapi_spec_validator.validation.validators import OpenAPIV30SpecValidator

from tests.conftest import Server, serving
from tileserver import formats, openapi
from tileserver.access import Credentials
from tileserver.signature import read
from tileserver.udf import Udf, UdfSettings

BASE = "https://maps.example.org/fc_a"


def udf(parameters: str = "", *, name: str = "u", decorator: str = "@fused.udf", **facts: Any) -> Udf:
    signature = read(f'{decorator}\ndef udf({parameters}):\n    """What it does.\n\n    More."""\n')
    rest = {"title": "u", "description": "", "defaults": signature.defaults, **facts}
    return Udf("city", name, "r1", signature, UdfSettings(), **rest)


def made(*udfs: Udf, security: str | None = None, description: str = "") -> dict[str, Any]:
    """A document as its readers get it, accepted by the validator."""
    document = openapi.document("city", udfs, BASE, security=security, description=description)
    found: dict[str, Any] = json.loads(openapi.as_json(document))
    validate(found, cls=OpenAPIV30SpecValidator)
    return found


def operation(parameters: str = "", **facts: Any) -> dict[str, Any]:
    (path,) = made(udf(parameters, **facts))["paths"].values()
    found: dict[str, Any] = path["get"]
    return found


def parameter(text: str, **facts: Any) -> dict[str, Any]:
    found: dict[str, Any] = operation(text, **facts)["parameters"][0]
    return found


def test_a_document_of_one_udf_in_full() -> None:
    """Contract, section 12: version, title, server, one GET for a UDF, shared parameters, two responses."""
    assert made(udf("n: int = 5", name="hello-world")) == {
        "openapi": "3.0.3",
        "info": {"title": "city", "version": "1.0.0"},
        "servers": [{"url": BASE}],
        "security": [],
        "paths": {
            "/hello-world": {
                "get": {
                    "operationId": "hello_world",
                    "summary": "Run UDF: hello-world",
                    "description": "What it does.\n\nMore.",
                    "parameters": [
                        {
                            "name": "n",
                            "in": "query",
                            "required": False,
                            "schema": {"type": "integer", "default": 5},
                        },
                        {"$ref": "#/components/parameters/cache_max_age"},
                        {"$ref": "#/components/parameters/format"},
                    ],
                    "responses": {
                        "200": {"description": "The result."},
                        "422": {"description": "A malformed request, or the UDF failed; `detail` says how."},
                    },
                }
            }
        },
        "components": {
            "parameters": {
                "cache_max_age": {
                    "name": "cache_max_age",
                    "in": "query",
                    "required": False,
                    "description": "How old a stored result may be, in seconds."
                    " 0 runs the UDF and stores nothing.",
                    "schema": {"type": "integer", "minimum": 0},
                },
                "format": {
                    "name": "format",
                    "in": "query",
                    "required": False,
                    "description": "The format of the result.",
                    "schema": {"type": "string", "enum": list(formats.FORMATS), "default": "json"},
                },
            },
            "securitySchemes": {},
        },
    }
    assert len(formats.FORMATS) == 17


STRING = {"type": "string"}


@pytest.mark.parametrize(
    ("annotation", "expected"),
    [
        ("str", STRING),
        ("int", {"type": "integer"}),
        ("float", {"type": "number"}),
        ("bool", {"type": "boolean"}),
        ("list", {"type": "array", "items": {}}),
        ("List", {"type": "array", "items": {}}),
        ("list[int]", {"type": "array", "items": {"type": "integer"}}),
        ("typing.List[str]", {"type": "array", "items": STRING}),
        ("list[dict]", {"type": "array", "items": {}}),
        ("list[int | None]", {"type": "array", "items": {}}),
        ("tuple", {"type": "array", "items": {}}),
        ("tuple[float, ...]", {"type": "array", "items": {"type": "number"}}),
        ("Tuple[int, str]", {"type": "array", "items": {}}),
        ("set[str]", {"type": "array", "items": STRING}),
        ("dict", {"type": "object"}),
        ("Dict[str, int]", {"type": "object"}),
        ("datetime", {"type": "string", "format": "date-time"}),
        ("datetime.datetime", {"type": "string", "format": "date-time"}),
        ("datetime.date", {"type": "string", "format": "date"}),
        ("datetime.time", {"type": "string", "format": "time"}),
        ("uuid.UUID", {"type": "string", "format": "uuid"}),
        ("'int'", {"type": "integer"}),
        ("Optional[int]", {"type": "integer"}),
        ("typing.Optional[list[int]]", {"type": "array", "items": {"type": "integer"}}),
        ("int | None", {"type": "integer"}),
        ("None | float", {"type": "number"}),
        ("Union[bool, None]", {"type": "boolean"}),
        ("Annotated[int, 'pixels']", {"type": "integer"}),
        ("'Optional[datetime.date]'", {"type": "string", "format": "date"}),
        ("int | str", STRING),
        ("Union[int, float]", STRING),
        ("Any", STRING),
        ("np.ndarray", STRING),
        ("Callable[[int], str]", STRING),
        ("'not a type ['", STRING),
        ("Literal['a', 'b']", {"type": "string", "enum": ["a", "b"]}),
        ("Literal[1, 2]", STRING),
    ],
)
def test_an_annotation_has_a_schema(annotation: str, expected: dict[str, Any]) -> None:
    """Contract, section 12: by annotation; ``Optional[T]`` as T, what isn't known as a string."""
    assert parameter(f"p: {annotation}")["schema"] == expected


@pytest.mark.parametrize(
    "annotation",
    [
        *("gpd.GeoDataFrame", "pd.DataFrame", "shapely.Geometry", "shapely.geometry.Polygon"),
        *("fused.types.Bounds", "Bbox", "fused.types.Tile", "TileXYZ", "TileGDF", "ViewportGDF"),
    ],
)
def test_what_has_no_schema_is_text_with_a_description(annotation: str) -> None:
    """Contract, section 12: a string, and one line on how to write it."""
    schema = parameter(f"p: {annotation}")["schema"]

    assert schema["type"] == "string"
    assert schema["description"] and "\n" not in schema["description"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("p: str = 'a'", "a"),
        ("p: int = 5", 5),
        ("p: int = -5", -5),
        ("p: float = 1", 1),
        ("p: float = 0.5", 0.5),
        ("p: bool = False", False),
        ("p: list = [1, 'a']", [1, "a"]),
        ("p: tuple[int, ...] = (1, 2)", [1, 2]),
        ("p: dict = {'a': [1]}", {"a": [1]}),
        ("p = 'a'", "a"),
        ("p = 5", "5"),
        ("p = True", "true"),
        ("p: fused.types.Bounds = [1, 2, 3, 4]", "[1, 2, 3, 4]"),
        ("p: datetime.date = '2024-05-06'", "2024-05-06"),
        ("p: Literal['a', 'b'] = 'b'", "b"),
        ("*, p: int = 3", 3),
    ],
)
def test_a_literal_default_is_told(text: str, expected: object) -> None:
    """Contract, section 12; where the schema is a string, as a query says it."""
    found = parameter(text)

    assert found["schema"]["default"] == expected
    assert type(found["schema"]["default"]) is type(expected)
    assert found["required"] is False


@pytest.mark.parametrize(
    "text",
    [
        *("p: int = None", "p=None", "p: int = LATER", "p: str = str(1)", "p: int = 'five'", "p: int = True"),
        *(
            "p: int = 1.5",
            "p: float = 1e999",
            "p: list = [1e999]",
            "p: list[int] = ['a']",
            "p: str = '\\ud800'",
        ),
        *("p: dict = [1]", "p: datetime.datetime = 'today'", "p: datetime.datetime = '2024-05-06'"),
        *("p: uuid.UUID = 'x'", "p: Literal['a'] = 'b'", "p: int = 0x" + "f" * 2000),
    ],
)
def test_a_default_that_its_own_schema_refuses_is_left_out(text: str) -> None:
    """The validator would refuse the whole document; the parameter is optional all the same."""
    found = parameter(text)

    assert "default" not in found["schema"]
    assert found["required"] is False


@pytest.mark.parametrize(
    ("text", "required"),
    [
        ("p", True),
        ("p: int", True),
        ("p: int | str", True),
        ("*, p: int", True),
        ("p: Optional[int]", False),
        ("p: int | None", False),
        ("p: int | str | None", False),
        ("p=f()", False),
    ],
)
def test_required_is_what_has_no_default_and_is_not_optional(text: str, required: bool) -> None:
    """Contract, section 12."""
    assert parameter(text)["required"] is required


def test_stored_parameters_are_defaults() -> None:
    """Contract, section 4.3: ``default_parameters`` come before those of the function."""
    found = parameter("p: int", decorator="@fused.udf(default_parameters={'p': 7})")

    assert (found["required"], found["schema"]) == (False, {"type": "integer", "default": 7})


def test_only_what_a_query_can_say_is_a_parameter() -> None:
    """Contract, section 4.1: reserved names never reach the UDF; ``*args`` and ``**kwargs`` have no name."""
    found = operation("a, format, cache_max_age=1, _x=2, *args, b=1, **kwargs")["parameters"]

    assert [p.get("name") or p["$ref"].rpartition("/")[2] for p in found] == [
        *("a", "b", "cache_max_age", "format")
    ]


def test_the_stored_description_stands_for_the_docstring() -> None:
    """Contract, section 12."""
    assert operation(about="Kept beside it")["description"] == "Kept beside it"
    assert operation()["description"] == "What it does.\n\nMore."


def test_names_are_encoded_in_paths_and_told_apart_as_ids() -> None:
    """Contract, section 12: ``-`` and ``/`` become ``_``, and a name that is taken gets a number."""
    names = ["a_b", "a-b", "a/b", "two words", "50%", "{id}", "größe", "a_b_2"]
    paths = made(*(udf(name=name) for name in names))["paths"]

    assert list(paths) == [
        *("/a_b", "/a-b", "/a%2Fb", "/two%20words", "/50%25", "/%7Bid%7D", "/gr%C3%B6%C3%9Fe", "/a_b_2")
    ]
    ids = [path["get"]["operationId"] for path in paths.values()]
    assert ids == ["a_b", "a_b_2", "a_b_3", "two words", "50%", "{id}", "größe", "a_b_2_2"]


@pytest.mark.parametrize(
    "decorator",
    [
        *("@fused.udf(engine='small')", "@fused.udf(instance_type='r5.large')", "@udf(engine=ENGINE)"),
        "@fused.udf(cache_max_age='1h', engine=f'{size}')",
    ],
)
def test_udfs_of_other_machines_are_left_out(decorator: str) -> None:
    """Contract, section 12: whatever the decorator's ``engine`` or ``instance_type`` says."""
    assert list(made(udf(name="a"), udf(name="b", decorator=decorator))["paths"]) == ["/a"]


def test_udfs_that_the_canvas_does_not_list_are_left_out() -> None:
    """Contract, section 12: runnable and visible ones only."""
    assert list(made(udf(name="a", listed=False), udf(name="b"))["paths"]) == ["/b"]


@pytest.mark.parametrize(
    ("security", "facts"),
    [
        ("fused_session_token", {"type": "apiKey", "in": "query", "name": "fused_session_token"}),
        ("canvas_passcode", {"type": "apiKey", "in": "header", "name": "Authorization"}),
        ("access_token", {"type": "http", "scheme": "bearer"}),
    ],
)
def test_a_canvas_that_is_not_public_says_what_opens_it(security: str, facts: dict[str, str]) -> None:
    """Contract, section 12."""
    document = made(udf(), security=security)

    assert document["security"] == [{security: []}]
    schemes = document["components"]["securitySchemes"]
    assert list(schemes) == [security]
    assert facts.items() <= schemes[security].items()


WRITTEN = ("", ": int", ": float", ": bool", ": str", ": list[int]", ": dict", ": datetime", ": X | None")
literals = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(st.tuples(st.sampled_from(WRITTEN), literals), max_size=4), st.text(min_size=1))
def test_every_document_is_valid(parameters: list[tuple[str, Any]], name: str) -> None:
    """Contract, section 12: whatever a UDF is called and whatever its defaults are."""
    text = ", ".join(f"p{number}{kind} = {value!r}" for number, (kind, value) in enumerate(parameters))

    assert len(made(udf(text, name=name))["paths"]) == 1


# -- over HTTP


ENTRY = "import fused\n@fused.udf\n"
META = {
    "job_config": {
        "steps": [{"udf": {"entrypoint": "udf", "metadata": {"fused:description": "Told by the canvas"}}}]
    }
}
HIDDEN = {"job_config": {"steps": [{"udf": {"metadata": {"fused:isVisible": False}}}]}}
FILES = {
    "city/hello.py": f"{ENTRY}def udf(name: str = 'world'):\n    'Hello'\n    return {{'hello': name}}\n",
    "city/two words.py": f"{ENTRY}def udf(n: int):\n    return n + 1\n",
    "city/odd.py": f"{ENTRY}def udf(s: str = '\\ud800'):\n    '\\ud800 half'\n    return s\n",
    "city/big.py": "import fused\n@fused.udf(engine='large')\ndef udf():\n    return 1\n",
    "city/broken.py": f"{ENTRY}def udf(:\n",
    "city/module.py": "VALUE = 1\n",
    "city/Told/Told.py": f"{ENTRY}def udf():\n    'Docstring'\n    return 1\n",
    "city/Told/meta.json": json.dumps(META),
    "city/Hidden/Hidden.py": f"{ENTRY}def udf():\n    return 1\n",
    "city/Hidden/meta.json": json.dumps(HIDDEN),
    "city/canvas.toml": "title = 'The city'\ndescription = 'All of it'\npublic_name = true\n",
    "team/a.py": f"{ENTRY}def udf():\n    return 1\n",
    "team/b.py": f"{ENTRY}def udf():\n    return 2\n",
    "locked/a.py": f"{ENTRY}def udf():\n    return 1\n",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("openapi"), FILES) as running:
        access = running.access
        running.tokens["team"] = access.share("team", team=True, udfs=["a"]).token
        running.tokens["locked"] = access.share("locked", passcode="sesame").token
        access.close()
        yield running


def fetched(response: httpx.Response) -> dict[str, Any]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    found: dict[str, Any] = response.json()
    validate(found, cls=OpenAPIV30SpecValidator)
    return found


@pytest.mark.parametrize("root", ["", "/server/v1/realtime-shared"])
@pytest.mark.parametrize("share", ["{city}", "fc_anyone/city"])
def test_a_canvas_has_a_document_at_every_form_of_its_address(server: Server, root: str, share: str) -> None:
    """Contract, sections 1, 2, 3 and 12: its server is the canvas as it was asked for."""
    document = fetched(server.get(f"{root}/{share}.api.json"))

    token = share.replace("{city}", server.tokens["city"])
    assert document["servers"] == [{"url": f"{server.url}{root}/{token}"}]
    assert document["info"] == {"title": "city", "version": "1.0.0", "description": "All of it"}
    assert document["security"] == []
    assert sorted(document["paths"]) == ["/Told", "/hello", "/odd", "/two%20words"]
    assert document["paths"]["/Told"]["get"]["description"] == "Told by the canvas"


def test_every_address_of_a_document_answers(server: Server) -> None:
    """Contract, section 12: server and path together are the UDF's address."""
    document = fetched(server.get("/{city}.api.json"))
    base = document["servers"][0]["url"]

    for path in document["paths"]:
        assert httpx.get(f"{base}{path}?n=1&s=x&format=json", timeout=30).status_code == 200


def test_the_demo_has_a_valid_document(demo: Server) -> None:
    """Contract, section 12."""
    document = fetched(demo.get("/fc_demo.api.json"))

    assert {"/blue_marble", "/earthquakes", "/hello"} <= document["paths"].keys()
    assert document["paths"]["/earthquakes"]["get"]["parameters"][1]["schema"] == {
        "type": "number",
        "default": 0,
    }


def test_a_team_canvas_documents_what_the_token_grants(server: Server) -> None:
    """Contract, sections 6 and 12: 401 without a credential; a member sees the shared UDFs only."""
    _, secret = server.access.create_token("me", canvases=["team"])
    _, other = server.access.create_token("you", canvases=["city"])
    document = server.get("/{team}.api.json", headers={"authorization": f"Bearer {secret}"})

    assert server.get("/{team}.api.json").status_code == 401
    assert server.get("/{team}.api.json", headers={"authorization": f"Bearer {other}"}).status_code == 403
    assert list(fetched(document)["paths"]) == ["/a"]
    assert document.json()["security"] == [{"fused_session_token": []}]
    assert document.headers["cache-control"] == "private, no-cache"


def test_a_document_for_a_session_stays_nowhere(server: Server) -> None:
    """Contract, section 6: a session token opens it, and neither it nor what it opened is kept."""
    access = server.access
    _, secret = access.create_token("admin", scope="admin")
    admin = access.identify(Credentials(authorization=f"Bearer {secret}"))
    assert admin is not None
    session = access.mint_session(server.tokens["team"], by=admin).token
    response = server.get(f"/{{team}}.api.json?fused_session_token={session}")

    assert list(fetched(response)["paths"]) == ["/a"]
    assert response.headers["cache-control"] == "private, no-store"
    assert session not in response.text


def test_a_canvas_with_a_passcode_says_so(server: Server) -> None:
    """Contract, sections 6 and 12."""
    assert server.get("/{locked}.api.json").status_code == 401
    right = server.get("/{locked}.api.json", headers={"authorization": "fused-canvas-passcode sesame"})

    assert fetched(right)["security"] == [{"canvas_passcode": []}]
    assert right.headers["cache-control"] == "private, no-cache"


def test_a_name_that_is_not_public_opens_with_an_access_token(server: Server) -> None:
    """Contract, section 2: unknown without one."""
    _, secret = server.access.create_token("member", canvases=["team"])
    right = server.get("/fc_any/team.api.json", headers={"authorization": f"Bearer {secret}"})

    assert server.get("/fc_any/team.api.json").status_code == 404
    assert fetched(right)["servers"] == [{"url": f"{server.url}/fc_any/team"}]


@pytest.mark.parametrize(
    "path", ["/fc_unknown.api.json", "/{city}.other.json", "/{city}.api.json/x", "/{city}/.api.json"]
)
def test_other_documents_are_unknown(server: Server, path: str) -> None:
    """Contract, section 11: 404."""
    assert server.get(path).status_code == 404


def test_a_document_of_one_udf_there_is_none(server: Server) -> None:
    """Only canvases have one."""
    token = server.access.create_shared_token("city", "hello").token

    assert server.get(f"/{token}.api.json").status_code == 404


def test_a_document_is_sent_once(server: Server) -> None:
    """Contract, section 3: HEAD has the headers of GET; a known document is 304, a changed one isn't."""
    first = server.get("/{city}.api.json")
    head = server.get("/{city}.api.json", "HEAD")
    again = server.get("/{city}.api.json", headers={"if-none-match": first.headers["etag"]})

    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-length", "content-type", "etag", "cache-control"):
        assert head.headers[name] == first.headers[name]
    assert (again.status_code, again.content) == (304, b"")
    assert first.headers["cache-control"] == "public, no-cache"
    assert server.get("/{city}.api.json", headers={"if-none-match": '"x"'}).status_code == 200


def test_other_methods_are_refused(server: Server) -> None:
    """Contract, section 3."""
    response = server.get("/{city}.api.json", "POST")

    assert (response.status_code, response.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
