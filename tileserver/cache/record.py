"""A stored result, and its form on disk: a checksum, a JSON header and the body.

The checksum is keyed and covers everything after it. What doesn't match counts as nothing stored, whoever
wrote it.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from typing import Final

from tileserver.cache.label import NOTHING, Label
from tileserver.protocol import Encoded

_MAGIC: Final = b"tsr2"
_DIGEST: Final = 16
_HEADER: Final = struct.Struct(f"!4s{_DIGEST}sI")


@dataclass(frozen=True, slots=True)
class Stored:
    """A result with its key, its strong validator, quotes included, and what a purge may know it by."""

    key: str
    encoded: Encoded
    etag: str
    label: Label = NOTHING


def to_bytes(stored: Stored, secret: bytes) -> bytes:
    encoded = stored.encoded
    header = json.dumps(
        {
            "key": stored.key,
            "etag": stored.etag,
            "media_type": encoded.media_type,
            "created": encoded.created,
            "meta": dict(encoded.meta),
            "label": stored.label.to_json(),
        }
    ).encode()
    rest = header + encoded.body
    return _HEADER.pack(_MAGIC, _checksum(secret, len(header), rest), len(header)) + rest


def from_bytes(raw: bytes, key: str, secret: bytes) -> Stored | None:
    """The result of a key; None for bytes that are damaged, foreign or another key's."""
    if len(raw) < _HEADER.size:
        return None
    magic, checksum, length = _HEADER.unpack_from(raw)
    rest = memoryview(raw)[_HEADER.size :]
    if magic != _MAGIC or length > len(rest) or _checksum(secret, length, rest) != checksum:
        return None
    header = json.loads(bytes(rest[:length]))
    if header["key"] != key:
        return None
    body = bytes(rest[length:])
    encoded = Encoded(body, header["media_type"], header["created"], header["meta"])
    return Stored(key, encoded, header["etag"], Label.from_json(header["label"]))


def _checksum(secret: bytes, length: int, rest: bytes | memoryview) -> bytes:
    digest = hashlib.blake2b(length.to_bytes(4, "big"), key=secret, digest_size=_DIGEST)
    digest.update(rest)
    return digest.digest()
