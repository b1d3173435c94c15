"""How stored values are shown in answers."""

from __future__ import annotations

import datetime
from typing import Any, Final

import msgspec

from writ.schemas.queries import Timestamp
from writ.schemas.sealed import UNSEALED, Sealed

PAGE_MAX_BYTES: Final = 900 * 1024
"""Of a whole answer; the broker carries 1 MiB."""

_encode = msgspec.json.Encoder().encode
_EPOCH = datetime.datetime(1970, 1, 1)
_NULL = msgspec.Raw(b"null")
_tags = msgspec.json.Decoder(dict[str, str]).decode


def timestamp(at: int) -> Timestamp:
    """Microseconds since 1970 as RFC 3339 with microseconds."""
    return f"{(_EPOCH + datetime.timedelta(microseconds=at)).isoformat(timespec='microseconds')}Z"


def content(sealed: Sealed | None) -> msgspec.Raw:
    """What is in the envelope, null where there is none or this reader has no key."""
    if sealed is None or sealed.key != UNSEALED or not bytes(sealed.plain):
        return _NULL
    return sealed.plain


def tags_of(sealed: Sealed | None) -> dict[str, str]:
    """The tags in an envelope; none where this reader has no key."""
    if sealed is None or sealed.key != UNSEALED:
        return {}
    return _tags(sealed.plain)


def fit(views: list[tuple[str, Any]], limit: int) -> tuple[Any, str | None]:
    """What one answer carries, and the cursor behind it where there is more."""
    fitting: list[Any] = []
    room = PAGE_MAX_BYTES
    last = ""
    for key, view in views[:limit]:
        encoded = _encode(view)
        room -= len(encoded) + 1
        if room < 0 and fitting:
            break
        # Encoded one by one to know their sizes; as bytes they go into the same field.
        fitting.append(msgspec.Raw(encoded))
        last = key
    return tuple(fitting), last if len(fitting) < len(views) else None
