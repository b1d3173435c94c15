"""How stored values are shown in answers."""

from __future__ import annotations

import datetime
from collections.abc import Generator
from contextlib import closing
from typing import Any, Final, NamedTuple

import msgspec

from writ.schemas.queries import Timestamp
from writ.schemas.sealed import UNSEALED, Sealed

from .paging import SCANNED_MAX

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


class Seen(NamedTuple):
    """A row that a page came by: the cursor behind it, and its view, None where it was not asked for.

    `rows` is how many were looked at for it.
    """

    cursor: str
    view: Any
    rows: int = 1


def fit(coming: Generator[Seen], limit: int) -> tuple[Any, str | None]:
    """The views that one answer carries, and the cursor behind them where there may be more.

    No more are made than that, and no more rows looked at than a page may.
    """
    fitting: list[Any] = []
    room, looked = PAGE_MAX_BYTES, 0
    last: str | None = None
    with closing(coming):  # what it reads ends with it
        for seen in coming:
            if looked >= SCANNED_MAX:
                return tuple(fitting), last
            if seen.view is not None:
                encoded = _encode(seen.view)
                room -= len(encoded) + 1
                if len(fitting) == limit or (room < 0 and fitting):
                    return tuple(fitting), last
                # Encoded one by one to know their sizes; as bytes they go into the same field.
                fitting.append(msgspec.Raw(encoded))
            last = seen.cursor
            looked += seen.rows
    return tuple(fitting), None
