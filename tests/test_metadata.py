"""What callers see of what a run has printed."""

from __future__ import annotations

import json

from tileserver.metadata import MAX_METADATA, metadata, printed
from tileserver.redaction import Redaction


def test_output_is_cut_when_it_is_made() -> None:
    """Of standard output both ends stay, of standard error its end: no more than a header can hold."""
    shown = printed(
        {"stdout": "first\n" + "x" * 10**6 + "\nlast", "stderr": "x" * 10**6 + "\nlast"}, Redaction()
    )

    assert max(map(len, shown.values())) <= MAX_METADATA + len("\n...\n")
    assert shown["stdout"].startswith("first\n")
    assert shown["stdout"].endswith("\nlast")
    assert shown["stderr"].endswith("\nlast")


def test_a_folder_is_hidden_before_the_cut() -> None:
    """So that no half of its path stays at the edge, wherever that falls."""
    redact = Redaction(["/srv/secret/place"])
    line = "/srv/secret/place/data.csv "

    for shift in range(len(line)):
        shown = printed({"stdout": "." * shift + line * 4000, "stderr": line * 4000 + "." * shift}, redact)
        assert "secret" not in shown["stdout"] + shown["stderr"]
        assert "srv" not in shown["stdout"] + shown["stderr"]


def test_what_was_kept_fits_the_header() -> None:
    """Both ends of standard output are still there."""
    shown = printed({"stdout": "first" + "é" * 10**5 + "last", "stderr": ""}, Redaction())

    header = metadata(shown)

    assert len(header) <= MAX_METADATA
    assert json.loads(header)["stdout"].startswith("first")
    assert json.loads(header)["stdout"].endswith("last")
