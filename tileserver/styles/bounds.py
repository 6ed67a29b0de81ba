"""How large a style document may be: so much that reading it takes no time that others would notice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from tileserver.styles.fault import StyleFault

MOST_VALUES: Final = 20_000
DEEPEST: Final = 64
LARGEST: Final = 1e300  # of a number; sums and differences of two are still numbers


def check_size(document: Any) -> None:
    """Whether a document is small enough, and its numbers are.

    :raises StyleFault: with the path of what is too much.
    """
    pending: list[tuple[str, Any, int]] = [("", document, 0)]
    count = 0
    while pending:
        path, value, depth = pending.pop()
        if isinstance(value, dict | list):
            if depth == DEEPEST:
                raise StyleFault(path, f"is nested too deep: a style has up to {DEEPEST} levels")
            count += len(value)
            if count > MOST_VALUES:
                raise StyleFault(path, f"is too long: a style has up to {MOST_VALUES} values")
            pending += ((inner, one, depth + 1) for inner, one in _inside(path, value))
        elif isinstance(value, int | float) and not abs(value) <= LARGEST:  # NaN compares as nothing
            raise StyleFault(path, f"takes a finite number, up to {LARGEST:g}")


def _inside(path: str, value: dict[str, Any] | list[Any]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        return ((f"{path}.{key}" if path else key, one) for key, one in value.items())
    return ((f"{path}[{at}]", one) for at, one in enumerate(value))
