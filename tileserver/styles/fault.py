"""What is wrong with a style document, and where in it."""

from __future__ import annotations

from tileserver.errors import BadRequest


class StyleFault(BadRequest):
    """``path`` is the place in the document: ``layers[2].paint.fill-color[3]``."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.path = path
        self.reason = reason
