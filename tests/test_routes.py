"""Which token, UDF and answer a path means."""

from __future__ import annotations

import pytest

from tileserver.errors import UnknownToken
from tileserver.routes import split

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("fc_a1/name", ("fc_a1", "name", [])),
        ("fc_a1/name.csv", ("fc_a1", "name.csv", [])),
        ("fc_a1/map/map", ("fc_a1", "map", ["map"])),
        ("fc_a1/run/run/file", ("fc_a1", "run", ["run", "file"])),
        ("fc_a1/tiles/run/tiles/1/0/0", ("fc_a1", "tiles", ["run", "tiles", "1", "0", "0"])),
        ("fc_a1", ("fc_a1", None, [])),
        ("fc_a1-my_udf/run", ("fc_a1", "my_udf", ["run"])),
        ("fsh_b2", ("fsh_b2", None, [])),
        ("fsh_b2.png", ("fsh_b2", "png", [])),
        ("fsh_b2/run/tiles/1/0/0", ("fsh_b2", None, ["run", "tiles", "1", "0", "0"])),
        (f"{HEX}/run/file", (HEX, None, ["run", "file"])),
    ],
)
def test_a_path_is_a_token_a_name_and_a_rest(path: str, expected: tuple[str, str | None, list[str]]) -> None:
    """CONTRACT 2 and SURFACE 5: after a canvas token comes the UDF's name, whatever it is called."""
    assert split(path.split("/")) == expected


@pytest.mark.parametrize("path", ["", "favicon.ico", "fc_", "fc_a.b", "fsh_", "FC_a/b", HEX[:-1], "fc_é/x"])
def test_other_first_segments_are_no_token(path: str) -> None:
    """Token ids are [A-Za-z0-9]+."""
    with pytest.raises(UnknownToken):
        split(path.split("/"))
