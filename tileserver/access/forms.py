"""How tokens are written and how they are kept: their forms, the hashes that they are looked up by."""

from __future__ import annotations

import hashlib
import re
import secrets
import string
from typing import Final

CANVAS_TOKEN: Final = re.compile(r"fc_[A-Za-z0-9]+", re.ASCII)
UDF_TOKEN: Final = re.compile(r"fsh_[A-Za-z0-9]+|[0-9a-f]{64}", re.ASCII)

_ALPHABET: Final = string.digits + string.ascii_letters
_SHARE_LENGTH: Final = 24  # 142 bits


def digest(token: str) -> bytes:
    """What is stored of a token."""
    return hashlib.sha256(token.encode("utf-8", errors="replace")).digest()


def base62(raw: bytes) -> str:
    """The first characters of 32 random bytes written in base 62."""
    number = int.from_bytes(raw, "big")
    text = ""
    for _ in range(_SHARE_LENGTH):
        number, rest = divmod(number, len(_ALPHABET))
        text += _ALPHABET[rest]
    return text


def random_text(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def fits_header(text: str) -> bool:
    """Whether a header can carry a text as it is."""
    return text.isascii() and text.isprintable() and bool(text) and text == text.strip()
