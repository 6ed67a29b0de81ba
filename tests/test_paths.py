"""Which share, UDF and answer a path may mean, and in which order its readings are tried."""

from __future__ import annotations

import pytest

from tileserver.paths import Reading, readings

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("fc_a1/name", Reading("fc_a1", "name")),
        ("fc_a1/name.csv", Reading("fc_a1", "name.csv")),
        ("fc_a1/map/map", Reading("fc_a1", "map", ("map",))),
        ("fc_a1/run/run/file", Reading("fc_a1", "run", ("run", "file"))),
        ("fc_a1/tiles/run/tiles/1/0/0", Reading("fc_a1", "tiles", ("run", "tiles", "1", "0", "0"))),
        ("fc_a1", Reading("fc_a1")),
        ("fc_a1.api.json", Reading("fc_a1", None, (".api.json",))),
        ("fc_a1-my_udf", Reading("fc_a1", "my_udf")),
        ("fsh_b2", Reading("fsh_b2")),
        ("fsh_b2.png", Reading("fsh_b2", "png")),
        ("fsh_b2/run/tiles/1/0/0", Reading("fsh_b2", None, ("run", "tiles", "1", "0", "0"))),
        (f"{HEX}/run/file", Reading(HEX, None, ("run", "file"))),
        ("UDF_Name/run", Reading("UDF_Name", None, ("run",), "udf")),
    ],
)
def test_a_path_is_a_share_a_name_and_a_rest(path: str, expected: Reading) -> None:
    """Contract, section 2: after a canvas token comes the UDF's name, whatever it is called."""
    assert readings(path.split("/"))[0] == expected


def test_a_token_is_tried_before_a_team_and_the_joined_form() -> None:
    """docs/http.md: an exact token, then team/name, then the joined form."""
    assert readings(["fc_a1", "city", "roads", "run"]) == [
        Reading("fc_a1", "city", ("roads", "run")),
        Reading("fc_a1/city", "roads", ("run",), "canvas"),
    ]
    assert [reading.kind for reading in readings(["fc_a1-b", "c"])] == ["canvas", "token"]


@pytest.mark.parametrize("path", ["", "favicon.ico", "fc_", "fc_a%2eb", "fsh_", "FC_a/b", HEX[:-1], "fc_é/x"])
def test_other_first_segments_are_no_share(path: str) -> None:
    """Token ids are [A-Za-z0-9]+."""
    assert readings(path.split("/")) == []
