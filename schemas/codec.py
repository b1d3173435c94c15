"""Records to bytes and back. Old event versions are upcast on read, for ever."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from sys import intern
from typing import TYPE_CHECKING, Any, Final, Literal, Union

import msgspec

from .events import EVENT_TYPES, VERSIONS, Fact, type_names
from .records import Record, Source
from .upgrading import RECORDS, not_yet, written

Cast = Callable[[dict[str, Any]], dict[str, Any]]

UPCASTS: Final[dict[tuple[str, int], Cast]] = {
    ("leader_elected", 1): lambda data: {**data, "records": 1},
}
"""(event type, old version) to the function that turns its data into the next version's.

Example: `UPCASTS["job_due", 1] = lambda data: {**data, "late_ms": 0}` when job_due 2 gains a field.
"""

DOWNCASTS: Final[dict[tuple[str, int], Cast]] = {
    ("leader_elected", 2): lambda data: {name: data[name] for name in data if name != "records"},
}
"""The way back: (event type, version) to the function that turns its data into the last one's."""


class CodecError(ValueError):
    """A record's bytes cannot be read."""


class NewerRecord(CodecError):
    """A record is of a newer version than this Writ reads."""


class NotYetWritten(CodecError):
    """A log is not written in a version that knows this event."""


class _EventOut(msgspec.Struct, frozen=True, gc=False):
    type: str
    v: int
    data: Fact | dict[str, Any]


class _EventIn(msgspec.Struct, frozen=True, gc=False):
    type: str
    v: int
    data: msgspec.Raw


class _Header(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    epoch: int
    seq: int
    tenant: str
    kind: str
    key: str
    at: int
    actor: str
    vouched: bool | None = None
    cause: str | None = None
    source: Source | None = None
    trace: str | None = None
    logic: int = 0
    prev: str = ""


class _Out(_Header, frozen=True):
    events: tuple[_EventOut, ...] = ()


class _In(_Header, frozen=True):
    events: tuple[_EventIn, ...] = ()


class _OfToday(msgspec.Struct, frozen=True, gc=False):
    v: int
    data: Fact


def _of_today(name: str, cls: type[Fact]) -> type[msgspec.Struct]:
    """An event of one type, in the version that is written now and in no other."""
    fields = [("v", Literal[VERSIONS[name]]), ("data", cls)]
    return msgspec.defstruct(f"_{cls.__name__}", fields, bases=(_OfToday,), tag_field="type", tag=name)


if TYPE_CHECKING:
    _AnyOfToday = _OfToday
else:
    _AnyOfToday = Union[tuple([_of_today(name, cls) for name, cls in EVENT_TYPES.items()])]  # noqa: UP007


class _InOfToday(_Header, frozen=True):
    events: tuple[_AnyOfToday, ...] = ()


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_In).decode
_decode_of_today = msgspec.json.Decoder(_InOfToday).decode
_event_decoders = {name: msgspec.json.Decoder(cls).decode for name, cls in EVENT_TYPES.items()}


def encode(record: Record, prev: str, version: int = RECORDS) -> bytes:
    """The body of a record as a log of that version stores it, chained to the record whose digest is `prev`.

    Raises NotYetWritten.
    """
    return _encode(
        _Out(
            record.epoch,
            record.seq,
            record.tenant,
            record.kind,
            record.key,
            record.at,
            record.actor,
            record.vouched,
            record.cause,
            record.source,
            record.trace,
            record.logic,
            prev,
            tuple([_EventOut(n := type_names[type(e)], VERSIONS[n], e) for e in record.events])
            if version == RECORDS
            else tuple([_as_of(version, e) for e in record.events]),
        )
    )


def _as_of(version: int, event: Fact) -> _EventOut:
    """An event as an older version of records writes it."""
    name = type_names[type(event)]
    if name in not_yet(version):
        raise NotYetWritten(
            f"{name} is not known to records of version {version}, in which it is written: `writ upgrade`"
        )
    then, now = written(version).get(name, 1), VERSIONS[name]
    if then == now:
        return _EventOut(name, now, event)
    data: dict[str, Any] = msgspec.json.decode(_encode(event))
    for newer in range(now, then, -1):
        data = DOWNCASTS[name, newer](data)
    return _EventOut(name, then, data)


def digest(body: bytes) -> str:
    """What the next record's `prev` must be."""
    return hashlib.sha256(body).hexdigest()


def _decode_event(event: _EventIn) -> Fact:
    name, version = event.type, event.v
    current = VERSIONS.get(name)
    if current is None or version > current:
        raise NewerRecord(
            f"event {name} v{version} is of a newer Writ; this one knows {name} v{current or '-'}"
        )
    if version == current:
        return _event_decoders[name](event.data)
    data = msgspec.json.decode(event.data, type=dict[str, Any])
    for old in range(version, current):
        data = UPCASTS[name, old](data)
    return msgspec.convert(data, EVENT_TYPES[name])


def _decode_one_by_one(body: bytes) -> tuple[_Header, tuple[Fact, ...]]:
    """Reads older versions, and says what is wrong with what it cannot read. Raises CodecError."""
    try:
        raw = _decode(body)
        return raw, tuple([_decode_event(e) for e in raw.events])
    except (msgspec.MsgspecError, KeyError, UnicodeDecodeError, RecursionError) as error:
        raise CodecError(f"a record's body cannot be read: {error}") from error


def decode(body: bytes) -> Record:
    """A record from its stored body. Raises CodecError with what is wrong."""
    raw: _Header
    try:  # in one pass, as nearly all can be; what cannot is looked at event by event
        raw = found = _decode_of_today(body)
        events = tuple([event.data for event in found.events])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raw, events = _decode_one_by_one(body)
    return Record(
        raw.epoch,
        raw.seq,
        intern(raw.tenant),
        intern(raw.kind),
        raw.key,
        raw.at,
        intern(raw.actor),
        events,
        raw.prev,
        None if raw.cause is None else intern(raw.cause),
        raw.vouched,
        raw.source,
        raw.trace,
        raw.logic,
    )
