"""A stored result, and its form on disk: checksums, a JSON head and the body.

One checksum covers head and body, another the head alone, which can be read without the body. What doesn't
match counts as nothing stored, whoever wrote it. They are there against damage, not against forgers, so they
are fast ones: 20 KB in half a microsecond.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

import xxhash

from tileserver.protocol import Encoded

_MAGIC: Final = b"tsr2"
_WHOLE: Final = 16  # bytes of the checksum over head and body
_PART: Final = 8  # of that over the head
_FRAME: Final = struct.Struct(f"!4s{_WHOLE}s{_PART}sI")
_SHORT: Final = 1024  # bytes of a head that is worth remembering
HEAD_ROOM: Final = 4096  # bytes that hold the frame and the head of most records


class Head(NamedTuple):
    """What is known of a stored result without its body, of which ``size`` is the length in bytes. ``etag``
    is the strong validator, quotes included."""

    key: str
    etag: str
    media_type: str
    created: float
    meta: Mapping[str, Any]
    size: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A result with its key and its strong validator, quotes included."""

    key: str
    encoded: Encoded
    etag: str

    @property
    def head(self) -> Head:
        encoded = self.encoded
        facts = (encoded.media_type, encoded.created, encoded.meta, len(encoded.body))
        return Head(self.key, self.etag, *facts)


def to_bytes(stored: Stored) -> bytes:
    encoded = stored.encoded
    head = json.dumps(
        {
            "key": stored.key,
            "etag": stored.etag,
            "media_type": encoded.media_type,
            "created": encoded.created,
            "meta": dict(encoded.meta),
            "size": len(encoded.body),
        }
    ).encode()
    rest = head + encoded.body
    return _FRAME.pack(_MAGIC, _whole(len(head), rest), _part(head), len(head)) + rest


def from_bytes(raw: bytes, key: str) -> Stored | None:
    """The result of a key; None for bytes that are damaged, foreign or another key's."""
    if len(raw) < _FRAME.size:
        return None
    magic, whole, _, length = _FRAME.unpack_from(raw)
    rest = memoryview(raw)[_FRAME.size :]
    if magic != _MAGIC or length > len(rest) or _whole(length, rest) != whole:
        return None
    head = _parsed(bytes(rest[:length]))
    if head.key != key:
        return None
    return Stored(key, Encoded(bytes(rest[length:]), head.media_type, head.created, head.meta), head.etag)


def head_length(start: bytes) -> int | None:
    """How many bytes at the beginning of a record hold its head; None for what is no record."""
    if len(start) < _FRAME.size:
        return None
    magic, _, _, length = _FRAME.unpack_from(start)
    return _FRAME.size + int(length) if magic == _MAGIC else None


def head_from_bytes(start: bytes, key: str) -> Head | None:
    """The head of a key's record, of at least ``head_length`` of its first bytes; None as ``from_bytes``."""
    end = head_length(start)
    if end is None or end > len(start):
        return None
    text = start[_FRAME.size : end]
    if _part(text) != _FRAME.unpack_from(start)[2]:
        return None
    head = _parsed(text)
    return head if head.key == key else None


def _parsed(text: bytes) -> Head:
    """A head that its checksum has been found to fit; those in use are parsed once."""
    return _remembered(text) if len(text) <= _SHORT else _read(text)


def _read(text: bytes) -> Head:
    return Head(**json.loads(text))


_remembered: Final = lru_cache(maxsize=4096)(_read)


def _whole(length: int, rest: bytes | memoryview) -> bytes:
    digest: bytes = xxhash.xxh3_128_digest(rest, seed=length)
    return digest


def _part(head: bytes) -> bytes:
    digest: bytes = xxhash.xxh3_64_digest(head, seed=len(head))
    return digest
