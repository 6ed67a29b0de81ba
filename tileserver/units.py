"""Durations and sizes as people write them: ``90d``, ``30s``, ``512MB``, ``4GiB``."""

from __future__ import annotations

import re

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_BYTES |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
LONGEST = 100 * 365 * 86400  # seconds of any duration

_DURATION = re.compile(r"([0-9]{1,12})([smhd]?)", re.ASCII)
_SIZE = re.compile(r"([0-9]{1,15})\s*([kmgt]?i?b|)", re.ASCII)


def parse_duration(value: str | int) -> int:
    """Seconds in a duration: digits and one of s, m, h, d in any case; bare digits are seconds.

    :raises ValueError: for anything else, or for more than a hundred years.
    """
    match = _DURATION.fullmatch(str(value).strip().lower()) if not isinstance(value, bool) else None
    seconds = int(match[1]) * _SECONDS[match[2]] if match else -1
    if not 0 <= seconds <= LONGEST:
        raise ValueError(f"{str(value)[:40]!r} is not a duration such as 30s, 5m, 12h or 90d")
    return seconds


def parse_size(value: str | int) -> int:
    """Bytes in a size: a whole number and an optional unit, decimal (MB) or binary (MiB).

    :raises ValueError: for anything else.
    """
    match = _SIZE.fullmatch(str(value).strip().lower()) if not isinstance(value, bool) else None
    if match is None:
        raise ValueError(f"{str(value)[:40]!r} is not a size such as 512MB, 4GiB or a number of bytes")
    return int(match[1]) * _BYTES[match[2]]
