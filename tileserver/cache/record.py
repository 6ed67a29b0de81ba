"""A stored result, and its form on disk: a checksum, a JSON header and the body.

The checksum covers everything after it. What doesn't match counts as nothing stored, whoever wrote it.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from typing import Final

from tileserver.protocol import Encoded

MAGIC: Final = b"tsr1"
_DIGEST: Final = 16
FRAME: Final = struct.Struct(f"!4s{_DIGEST}sI")


@dataclass(frozen=True, slots=True)
class Stored:
    """A result with its key and its strong validator, quotes included."""

    key: str
    encoded: Encoded
    etag: str


def to_bytes(stored: Stored) -> bytes:
    encoded = stored.encoded
    header = json.dumps(
        {
            "key": stored.key,
            "etag": stored.etag,
            "media_type": encoded.media_type,
            "created": encoded.created,
            "meta": dict(encoded.meta),
        }
    ).encode()
    rest = header + encoded.body
    return FRAME.pack(MAGIC, _checksum(len(header), rest), len(header)) + rest


def from_bytes(raw: bytes, key: str) -> Stored | None:
    """The result of a key; None for bytes that are damaged, foreign or another key's."""
    if len(raw) < FRAME.size:
        return None
    magic, checksum, length = FRAME.unpack_from(raw)
    rest = raw[FRAME.size :]
    if magic != MAGIC or length > len(rest) or _checksum(length, rest) != checksum:
        return None
    header = json.loads(rest[:length])
    if header["key"] != key:
        return None
    encoded = Encoded(rest[length:], header["media_type"], header["created"], header["meta"])
    return Stored(key, encoded, header["etag"])


def _checksum(length: int, rest: bytes) -> bytes:
    digest = hashlib.blake2b(length.to_bytes(4, "big"), digest_size=_DIGEST)
    digest.update(rest)
    return digest.digest()
