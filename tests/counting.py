"""How many runs a server has begun, by its own account."""

from __future__ import annotations

import re

import httpx


def runs(url: str) -> int:
    """All runs of UDFs so far, however they ended."""
    text = httpx.get(f"{url}/metrics", timeout=30).text
    return sum(
        int(count) for count in re.findall(r"^tileserver_runs_total\{[^}]*\} (\d+)$", text, re.MULTILINE)
    )
