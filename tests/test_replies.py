"""What a UDF may decide of its own HTTP response, and what of it a server believes."""

from __future__ import annotations

import pytest

from tileserver import replies


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("x-mine", True),
        ("content-disposition", True),
        ("set-cookie", False),
        ("location", False),
        ("cache-control", False),
        ("content-security-policy", False),
        ("x-cache", False),
        ("x-fused-metadata", False),
        ("x-fused-redirect", False),
        ("x-content-type-options", False),
        ("x-accel-redirect", False),
        ("x-sendfile", False),
    ],
)
def test_which_headers_are_the_udfs_to_set(name: str, allowed: bool) -> None:
    """Its own ``x-`` headers and Content-Disposition; never what the server says itself, nor
    what a proxy takes for an order."""
    assert replies.may_set(name) is allowed


@pytest.mark.parametrize(
    ("name", "text", "sendable"),
    [
        ("x-a", "plain, with spaces", True),
        ("x-a", "caf\u00e9", True),
        ("x-a", "", True),
        ("x-a", "1\r\nset-cookie: a=b", False),
        ("x-a", "1\n", False),
        ("x-a", "\x00", False),
        ("x-a", "\u20ac", False),
        ("x-a", "x" * 5000, False),
        ("x a", "1", False),
        ("x-a:", "1", False),
        ("x-\u00e9", "1", False),
    ],
)
def test_what_can_stand_in_a_header(name: str, text: str, sendable: bool) -> None:
    """RFC 9110, 5.5: nothing that ends a header or that HTTP has no byte for."""
    assert replies.is_header(name, text) is sendable


def test_facts_of_a_worker_are_not_believed() -> None:
    """A worker that runs hostile code may answer anything: what no UDF may decide is left out."""
    told = {
        "kind": "response",
        "status": 101,
        "headers": {"x-mine": "1", "set-cookie": "a=b", "x-a": "1\r\nx-b: 2", "x-n": 5},
    }

    assert replies.checked(told) == {"kind": "response", "headers": {"x-mine": "1"}}
    assert replies.checked({"status": "200", "headers": ["set-cookie"]}) == {}
    assert replies.checked({"status": 404})["status"] == 404
    assert replies.checked({"status": True, "run_ms": "1", "bounds": [1, 2, 3], "kind": 1}) == {}
    assert replies.checked({"run_ms": 1.5, "bounds": [1, 2, 3, 4.5]}) == {
        "run_ms": 1.5,
        "bounds": [1, 2, 3, 4.5],
    }
    assert replies.checked({"ramp": [[0, 1]], "families": "Point", "placed": "no"}) == {}
    assert replies.checked({"ramp": [["0", "#fff"]], "families": [1]}) == {}
    for value in (float("nan"), float("inf"), 1.7e308, 10**400, True):
        assert replies.checked({"ramp": [[value, "#fff"]]}) == {}
    legend = {"ramp": [[0, "#000000"], [2.5, "#ffffff"]], "families": ["Point"]}
    assert replies.checked(legend) == legend
    assert len(replies.checked({"headers": {f"x-{n}": "" for n in range(99)}})["headers"]) == 50


@pytest.mark.parametrize(
    ("said", "sent"),
    [
        ("text/html; charset=utf-8", "text/html; charset=utf-8"),
        ("text/plain\r\nset-cookie: a=b", "application/octet-stream"),
        ("", "application/octet-stream"),
    ],
)
def test_a_media_type_that_can_not_be_sent_is_that_of_bytes(said: object, sent: str) -> None:
    """So that a body always has one."""
    assert replies.media_type(said) == sent
