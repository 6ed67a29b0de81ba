"""Which UDF an address means: each rule of the order in which paths are read, over HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import Server, serving

ROOTS = ("", "/server/v1/realtime-shared")


def named(text: str, parameters: str = "bounds: fused.types.Bounds = None") -> str:
    return f"import fused\n@fused.udf\ndef udf({parameters}):\n    return [{text!r}]\n"


NAMES = (
    "map",
    "run",
    "tiles",
    "file",
    "server",
    "my udf",
    "a.b",
    "50%",
    "report",
    "report.csv",
    "über",
    "x-y",
)
FILES = {
    **{f"city/{name}.py": named(name) for name in NAMES},
    "report/run.py": named("report/run"),
    "report/canvas.toml": "public_name = true\n",
    "closed/only.py": named("only"),
    "closed/report.py": named("closed/report"),
    "closed/other.json.py": named("other.json"),
    "locked/here.py": named("here"),
    "locked/canvas.toml": "public_name = true\n",
    "default/twice.py": named("default/twice"),
    "default/canvas.toml": "public_name = true\n",
    "second/twice.py": named("second/twice"),
    "second/thrice.py": named("second/thrice"),
    "second/canvas.toml": "public_name = true\n",
    "third/thrice.py": named("third/thrice"),
    "third/canvas.toml": "public_name = true\n",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("matching") / "w", FILES) as running:
        running.access.share("locked", passcode="sesame")
        running.tokens["fsh"] = running.access.create_shared_token("city", "report").token
        running.tokens["dotted"] = running.access.create_shared_token("city", "report.csv").token
        yield running


@pytest.fixture(scope="module")
def member(server: Server) -> dict[str, str]:
    _, secret = server.access.create_token(canvases=["closed", "city"])
    return {"authorization": f"Bearer {secret}"}


# -- tokens


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize(
    ("path", "udf"),
    [
        # After a canvas token comes a UDF's name, whatever it is called.
        ("{city}/map", "map"),
        ("{city}/run", "run"),
        ("{city}/run/run", "run"),
        ("{city}/run/run/file", "run"),
        ("{city}/tiles", "tiles"),
        ("{city}/tiles/run", "tiles"),
        ("{city}/file/run/file", "file"),
        ("{city}/server", "server"),
        ("{city}/run/run/tiles/0/0/0?format=json", "run"),
        ("{city}/tiles/run/tiles/0/0/0.json", "tiles"),
        # An exact token comes before a canvas of that name.
        ("{city}/report/run", "report"),
        # Names are decoded, segment by segment.
        ("{city}/my%20udf", "my udf"),
        ("{city}/my%20udf/run/file", "my udf"),
        ("{city}/my%20udf.json", "my udf"),
        ("{city}/m%61p", "map"),
        ("{city}/50%25", "50%"),
        ("{city}/%C3%BCber", "über"),
        ("{city}/x-y", "x-y"),
        # An exact name comes before a name and an extension.
        ("{city}/a.b", "a.b"),
        ("{city}/a.b.json", "a.b"),
        ("{city}/report.json", "report"),
        ("{city}/report.csv", "report.csv"),
        ("{city}/report.csv.json", "report.csv"),
        ("{city}/report.csv/run/file?format=json", "report.csv"),
        # A token of one UDF needs no name; what follows it is an extension.
        ("{fsh}", "report"),
        ("{fsh}.json", "report"),
        ("{fsh}/run", "report"),
        ("{fsh}/run/file", "report"),
        ("{fsh}/run/tiles/0/0/0.json", "report"),
        ("{dotted}", "report.csv"),
        ("{dotted}.json", "report.csv"),
        # The older joined form.
        ("{city}-map", "map"),
        ("{city}-report.json", "report"),
        ("{city}-report.csv", "report.csv"),
        ("{city}-x-y/run/file", "x-y"),
        ("{city}-my%20udf/run", "my udf"),
        ("{city}-tiles/run/tiles/0/0/0.json", "tiles"),
        # Names that are public.
        ("fc_team/report/run", "report/run"),
        ("fc_any.team-1/report/run/run/file", "report/run"),
        ("UDF_run", "report/run"),
        ("UDF_run/run/file", "report/run"),
        ("UDF_run.json", "report/run"),
        ("UDF_run/run/tiles/0/0/0.json", "report/run"),
        # A name that several canvases have means the one called default.
        ("UDF_twice", "default/twice"),
    ],
)
def test_which_udf_is_meant(server: Server, root: str, path: str, udf: str) -> None:
    """Contract, sections 1 to 3: the same at each root."""
    answer = server.get(f"{root}/{path}")

    assert (answer.status_code, answer.json()) == (200, [udf])


def test_the_page_of_a_udf_called_map(server: Server) -> None:
    """``/TOKEN/map`` is the UDF, ``/TOKEN/map/map`` its page; a canvas and a document of one don't mix."""
    page = server.get("/{city}/map/map")

    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert server.get("/{city}/map/run/tiles.json").status_code in {200, 404}
    assert {udf["name"] for udf in server.get("/{city}").json()["udfs"]} == set(NAMES)


@pytest.mark.parametrize(
    "path",
    [
        "fc_unknown/map",
        "fc_unknown",
        "fsh_unknown",
        "f" * 64,
        "UDF_unknown",
        "UDF_thrice",  # two canvases have it, and neither is the default one
        "fc_team/nothing/map",
        "fc_team/report/nothing",
        "{city}/nothing",
        "{city}/nothing.json",
        "{city}/map/nothing",
        "{city}/map/run/nothing",
        "{city}/map%2Frun",  # an encoded slash stays in its segment
        "{city}%2Fmap",
        "{city}-nothing",
        "{city}-map/nothing",
        "{fsh}/report",
        "{fsh}-report",
        "FC_x/map",
        "map",
        "nothing",
        "server/v1/nothing",
        "server/v2",
        "server",
        "run",
        "run/udf/nothing",
        "static/nothing.js",
        "healthz/map",
    ],
)
def test_what_means_nothing_is_not_found(server: Server, path: str) -> None:
    """Contract, section 11: 404 with ``detail`` and ``x-fused-error``, and nothing runs."""
    answer = server.get(f"/{path}")

    assert answer.status_code == 404
    assert answer.headers["x-fused-error"] == answer.json()["detail"]
    assert answer.headers["cache-control"] == "no-store"
    assert "x-fused-metadata" not in answer.headers


@pytest.mark.parametrize("path", ["server", "run", "healthz", "readyz", "metrics", "static"])
def test_reserved_first_segments_run_no_udf(server: Server, path: str) -> None:
    """They are ours, whatever a canvas or UDF is called."""
    assert "x-cache" not in server.get(f"/{path}").headers


# -- names


@pytest.mark.parametrize(
    ("path", "udf"),
    [
        ("fc_team/closed/only", "only"),
        ("fc_team/closed/only.json", "only"),
        ("fc_team/closed/other.json", "other.json"),
        ("fc_team/closed/only/run/tiles/0/0/0.json", "only"),
        ("UDF_only", "only"),
        ("UDF_only/run/file", "only"),
        ("UDF_other.json", "other.json"),
    ],
)
def test_a_name_that_is_not_public_wants_a_credential(
    server: Server, member: dict[str, str], path: str, udf: str
) -> None:
    """Names are no secrets: 404 to strangers and to tokens of other canvases, private to members."""
    _, other = server.access.create_token(canvases=["report"])

    answer = server.get(f"/{path}", headers=member)

    assert (answer.status_code, answer.json()) == (200, [udf])
    assert answer.headers["cache-control"].startswith("private")
    for headers in ({}, {"authorization": "Bearer x"}, {"authorization": f"Bearer {other}"}):
        assert server.get(f"/{path}", headers=headers).status_code == 404


@pytest.mark.parametrize("path", ["fc_team/locked/here", "UDF_here"])
def test_a_public_name_still_wants_the_passcode(server: Server, path: str) -> None:
    """The name stands in the place of the token, not of what else is asked for."""
    passcode = {"authorization": "fused-canvas-passcode sesame"}

    assert server.get(f"/{path}").status_code == 401
    assert server.get(f"/{path}", headers=passcode).json() == ["here"]


# -- methods


PATHS = {
    "single": ("{city}/map", 200),
    "tile": ("{city}/map/run/tiles/0/0/0.json", 200),
    "joined": ("{city}-map", 200),
    "one": ("{fsh}.json", 200),
    "named": ("UDF_run", 200),
    "canvas": ("{city}", 200),
    "unknown": ("fc_unknown/map", 404),
    "outside": ("{city}/map/run/tiles/0/1/0", 404),
    "format": ("{city}/map?format=gpx", 422),
    "locked": ("fc_team/locked/here", 401),
}


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("case", PATHS)
def test_head_is_get_without_its_body(server: Server, root: str, case: str) -> None:
    """Contract, section 3: the same status and headers, the length included."""
    path, status = PATHS[case]
    server.get(f"{root}/{path}")  # so that both are answered from what is stored
    get, head = (server.get(f"{root}/{path}", method) for method in ("GET", "HEAD"))

    own = {"date", "x-fused-request-id", "server-timing"}
    assert (get.status_code, head.status_code, head.content) == (status, status, b"")
    assert {k: v for k, v in head.headers.items() if k not in own} == {
        k: v for k, v in get.headers.items() if k not in own
    }


@pytest.mark.parametrize("root", ROOTS)
@pytest.mark.parametrize("case", PATHS)
def test_pages_of_other_origins_may_read(server: Server, root: str, case: str) -> None:
    """Contract, section 3: CORS on answers, on errors, and on the question that comes before."""
    path, status = PATHS[case]
    origin = {"origin": "https://maps.example"}
    answer = server.get(f"{root}/{path}", headers=origin)
    asked = server.get(
        f"{root}/{path}",
        "OPTIONS",
        headers={
            **origin,
            "access-control-request-method": "GET",
            "access-control-request-headers": "authorization",
        },
    )

    assert (answer.status_code, asked.status_code) == (status, 204)
    for one in (answer, asked):
        assert one.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in one.headers
    assert "x-fused-error" in answer.headers["access-control-expose-headers"]
    assert "GET" in asked.headers["access-control-allow-methods"]
    assert "Authorization" in asked.headers["access-control-allow-headers"]


@pytest.mark.parametrize("root", ROOTS)
def test_other_methods_are_not_for_shared_addresses(server: Server, root: str) -> None:
    """Contract, section 3: 405 with ``Allow``; a plain OPTIONS names what there is."""
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = server.get(f"{root}/{{city}}/map", method)
        assert (answer.status_code, "GET" in answer.headers["allow"]) == (405, True)
    options = server.get(f"{root}/{{city}}/map", "OPTIONS")
    assert (options.status_code, options.headers["allow"]) == (204, "GET, HEAD, OPTIONS")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/run/udf", "POST"),
        ("PUT", "/run/udf/tiles/0/0/0", "POST"),
        ("GET", "/server/v1/udf/new", "POST"),
        ("POST", "/server/v1/user/self", "GET, HEAD"),
        ("PUT", "/server/v1/udf/by-id/x", "DELETE, GET, HEAD, POST"),
        ("POST", "/server/v1/realtime/local/api/v1/secrets/KEY", "DELETE, GET, HEAD, PUT"),
        ("GET", "/server/v1/session-token/by-access-token/fc_x", "DELETE, POST"),
    ],
)
def test_other_methods_of_the_platform(server: Server, method: str, path: str, allow: str) -> None:
    """405 with the methods that there are, in ``Allow`` and in the usual form of errors."""
    answer = server.get(path, method)

    assert (answer.status_code, answer.headers["allow"]) == (405, allow)
    assert answer.json()["detail"] == answer.headers["x-fused-error"]


def test_a_long_address_is_read(server: Server) -> None:
    """Contract, section 4.2: at least 64 KiB of request line."""
    answer = server.get(f"/{{city}}/map?other={'x' * 60_000}")

    assert answer.status_code == 200
