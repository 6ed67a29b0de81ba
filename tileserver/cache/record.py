"""A stored result, and its form on disk: a seal, a JSON head and the body.

One seal covers everything behind it, another the head alone, which can be read without the body. They are
message authentication codes (GMAC, NIST SP 800-38D) keyed with the server's key: what doesn't match counts as
nothing stored, whoever wrote it, and 20 KB are checked in a microsecond.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tileserver.cache.label import NOTHING, Label
from tileserver.protocol import Encoded

_MAGIC: Final = b"tsr4"
_NONCE: Final = 12
_TAG: Final = 16
_FRAME: Final = struct.Struct(f"!4s{_NONCE}s{_TAG}s{_TAG}sI")
_SEALED: Final = 4 + _NONCE + _TAG  # where that begins which the whole's seal covers
_SHORT: Final = 2048  # bytes of a head that is worth remembering
HEAD_ROOM: Final = 4096  # bytes that hold the frame and the head of most records


class Head(NamedTuple):
    """What is known of a stored result without its body, of which ``size`` is the length in bytes. ``etag``
    is the strong validator, quotes included; ``label`` is what a purge may know it by."""

    key: str
    etag: str
    media_type: str
    created: float
    meta: Mapping[str, Any]
    size: int
    label: Label


@dataclass(frozen=True, slots=True)
class Stored:
    """A result with its key, its strong validator, quotes included, and what a purge may know it by."""

    key: str
    encoded: Encoded
    etag: str
    label: Label = NOTHING

    @property
    def head(self) -> Head:
        encoded = self.encoded
        facts = (encoded.media_type, encoded.created, encoded.meta, len(encoded.body))
        return Head(self.key, self.etag, *facts, self.label)


class Records:
    """Writes and reads the records of a server, whose ``secret`` keys their seals."""

    def __init__(self, secret: bytes) -> None:
        self._cipher = AESGCM(hashlib.blake2b(secret, digest_size=32, person=b"cache records").digest())

    def to_bytes(self, stored: Stored) -> bytes:
        head = json.dumps(
            {
                "key": stored.key,
                "etag": stored.etag,
                "media_type": stored.encoded.media_type,
                "created": stored.encoded.created,
                "meta": dict(stored.encoded.meta),
                "size": len(stored.encoded.body),
                "label": stored.label.to_json(),
            }
        ).encode()
        nonce = os.urandom(_NONCE)
        part = self._cipher.encrypt(_other(nonce), b"", head)
        rest = b"".join((part, len(head).to_bytes(4, "big"), head, stored.encoded.body))
        return b"".join((_MAGIC, nonce, self._cipher.encrypt(nonce, b"", rest), rest))

    def from_bytes(self, raw: bytes, key: str) -> Stored | None:
        """The result of a key; None for bytes that are damaged, foreign or another key's."""
        if len(raw) < _FRAME.size:
            return None
        magic, nonce, whole, _, length = _FRAME.unpack_from(raw)
        end = _FRAME.size + length
        if magic != _MAGIC or not self._fits(nonce, whole, memoryview(raw)[_SEALED:]):
            return None
        head = _parsed(raw[_FRAME.size : end])
        if head.key != key:
            return None
        encoded = Encoded(raw[end:], head.media_type, head.created, head.meta)
        return Stored(key, encoded, head.etag, head.label)

    def head_from_bytes(self, start: bytes, key: str) -> Head | None:
        """The head of a key's record, of at least ``head_length`` of its first bytes; None as
        ``from_bytes``."""
        end = head_length(start)
        if end is None or end > len(start):
            return None
        _, nonce, _, part, _ = _FRAME.unpack_from(start)
        text = start[_FRAME.size : end]
        if not self._fits(_other(nonce), part, text):
            return None
        head = _parsed(text)
        return head if head.key == key else None

    def _fits(self, nonce: bytes, tag: bytes, data: bytes | memoryview) -> bool:
        try:
            self._cipher.decrypt(nonce, tag, data)
        except InvalidTag:
            return False
        return True


def head_length(start: bytes) -> int | None:
    """How many bytes at the beginning of a record hold its head; None for what is no record."""
    if len(start) < _FRAME.size:
        return None
    magic, *_, length = _FRAME.unpack_from(start)
    return _FRAME.size + int(length) if magic == _MAGIC else None


def _other(nonce: bytes) -> bytes:
    """The nonce of the head's own seal: no two texts may be sealed with the same one."""
    return nonce[:-1] + bytes([nonce[-1] ^ 1])


def _parsed(text: bytes) -> Head:
    """A head whose seal fits; those in use are parsed once."""
    return _remembered(text) if len(text) <= _SHORT else _read(text)


def _read(text: bytes) -> Head:
    facts = json.loads(text)
    return Head(**{**facts, "label": Label.from_json(facts["label"])})


_remembered: Final = lru_cache(maxsize=4096)(_read)
