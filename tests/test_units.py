"""Durations and sizes."""

from __future__ import annotations

import pytest

from tileserver.units import parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("5m", 300), ("12H", 43200), (" 90d ", 7776000), ("0", 0), ("45", 45), (45, 45)],
)
def test_a_duration_is_digits_and_a_unit(text: str | int, seconds: int) -> None:
    """Contract, section 8: s, m, h and d in any case, trimmed; bare digits are seconds."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "d", "1w", "-1", "1.5h", "1 d", "١s", "9" * 30, True])
def test_anything_else_is_no_duration(text: str) -> None:
    """Other units, signs, fractions and digits of other scripts are refused by a sentence."""
    with pytest.raises(ValueError, match="is not a duration such as"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("512MB", 512_000_000), ("4GiB", 4 * 2**30), ("10 kb", 10_000), ("77", 77), (77, 77), ("1b", 1)],
)
def test_a_size_is_digits_and_a_unit(text: str | int, size: int) -> None:
    """Decimal and binary units; a bare number is bytes."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "4 apples", "-1MB", "1.5GB", "MB", True])
def test_anything_else_is_no_size(text: str) -> None:
    """A size that can't be read says what one looks like."""
    with pytest.raises(ValueError, match="is not a size such as"):
        parse_size(text)
