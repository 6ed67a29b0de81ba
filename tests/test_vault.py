"""Secrets at rest: what a database gives away without its key, and what stands for them in revisions."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tileserver.errors import BadRequest, ConfigurationError, NotFound
from tileserver.vault import MAX_VALUE, Vault, stored_secrets


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / ".tileserver"


@pytest.fixture
def vault(state: Path) -> Iterator[Vault]:
    opened = Vault(state)
    yield opened
    opened.close()


def test_a_secret_is_kept_until_it_is_unset(vault: Vault) -> None:
    """Set, replaced, listed by name, forgotten."""
    vault.set("city", "KEY", "one")
    vault.set("city", "KEY", "two")
    vault.set("sea", "OTHER", "three")

    assert vault.get("city", "KEY") == "two"
    assert [(one.canvas, one.name) for one in vault.names()] == [("city", "KEY"), ("sea", "OTHER")]
    assert [one.name for one in vault.names("sea")] == ["OTHER"]
    vault.unset("city", "KEY")
    with pytest.raises(NotFound, match="no secret called 'KEY'"):
        vault.get("city", "KEY")
    with pytest.raises(NotFound):
        vault.unset("city", "KEY")


def test_the_database_alone_reveals_no_secret(vault: Vault, state: Path) -> None:
    """Neither a value nor a digest of one that could be guessed at is in the files."""
    import hashlib

    vault.set("city", "KEY", "correct horse")

    stored = b"".join(path.read_bytes() for path in state.glob("database*"))

    assert b"KEY" in stored
    assert b"correct horse" not in stored
    for algorithm in ("sha256", "sha1", "md5", "blake2b"):
        assert hashlib.new(algorithm, b"correct horse").digest() not in stored


def test_equal_secrets_do_not_look_equal(vault: Vault, state: Path) -> None:
    """Nobody learns from a database that two canvases have the same password."""
    vault.set("city", "KEY", "same")
    vault.set("sea", "KEY", "same")

    rows = sqlite3.connect(state / "database").execute("SELECT sealed, digest FROM secrets").fetchall()

    assert len({value for row in rows for value in row}) == 4


def test_a_row_opens_only_in_its_own_place(vault: Vault, state: Path) -> None:
    """Whoever can write the database can't hand one canvas's secret to another."""
    vault.set("city", "KEY", "value")
    database = sqlite3.connect(state / "database")
    database.execute("INSERT INTO secrets SELECT 'sea', name, nonce, sealed, digest, changed FROM secrets")
    database.commit()
    database.close()

    with pytest.raises(ConfigurationError, match="sea/KEY is damaged"):
        vault.of("sea")
    assert vault.get("city", "KEY") == "value"


def test_what_stands_for_secrets_changes_with_them(vault: Vault) -> None:
    """Revisions follow names and values, of this canvas alone, and setting the same again changes nothing."""
    digests = [vault.of("city").digest]
    for name, value in (("A", "hunter1"), ("A", "hunter2"), ("B", "hunter2")):
        vault.set("city", name, value)
        digests.append(vault.of("city").digest)
    last = digests[-1]
    vault.set("city", "B", "hunter2")
    vault.set("sea", "B", "3")

    assert len(set(digests)) == 4
    assert vault.of("city").digest == last
    assert "hunter2" not in repr(vault.of("city"))


@pytest.mark.parametrize(
    ("canvas", "name", "value"),
    [
        ("../etc", "KEY", "x"),
        ("city", "2KEY", "x"),
        ("city", "A-B", "x"),
        ("city", "", "x"),
        ("city", "K" * 129, "x"),
        ("city", "KEY", ""),
        ("city", "KEY", "a\0b"),
        ("city", "KEY", "\ud800"),
        ("city", "KEY", "x" * (MAX_VALUE + 1)),
    ],
    ids=["canvas", "digit", "hyphen", "no-name", "long-name", "empty", "nul", "surrogate", "large"],
)
def test_what_no_secret_can_be_is_refused(vault: Vault, canvas: str, name: str, value: str) -> None:
    """Names are those of variables; values are text that an environment can hold."""
    with pytest.raises(BadRequest):
        vault.set(canvas, name, value)
    assert vault.names() == []


def test_another_process_sees_a_secret_at_once(vault: Vault, state: Path) -> None:
    """There is nothing to restart."""
    other = Vault(state)

    vault.set("city", "KEY", "value")

    assert other.get("city", "KEY") == "value"
    other.close()


def test_reading_makes_no_state(state: Path) -> None:
    """A program that only reads leaves a workspace without state as it is."""
    assert stored_secrets(state)("city").values == {}
    assert not state.exists()
