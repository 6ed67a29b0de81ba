"""What is wrong with a style document, and where in it."""

from __future__ import annotations

from typing import Final

from tileserver.errors import BadRequest

_LONGEST: Final = 500  # characters


class StyleFault(BadRequest):
    """``path`` is the place in the document: ``layers[2].paint.fill-color[3]``. What a document has in it may
    be long; what is said of it is not."""

    def __init__(self, path: str, reason: str) -> None:
        path, reason = path[:_LONGEST], reason[:_LONGEST]
        super().__init__(f"{path}: {reason}" if path else reason)
        self.path = path
        self.reason = reason
