"""Is this the record that must come next? What every reader asks before it believes a message of the log."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .codec import CodecError, NewerRecord, decode, digest
from .records import GENESIS, Record
from .subjects import log_subject


class Position(NamedTuple):
    """How far a log was read: the newest record's epoch, sequence and digest."""

    epoch: int = 0
    seq: int = 0
    digest: str = GENESIS


class Violation(Exception):
    """A record that cannot stand where it stands. `seq` is where, the text says why, for people."""

    def __init__(self, seq: int, reason: str) -> None:
        self.seq = seq
        super().__init__(f"record {seq}: {reason}")


class TooNew(Violation):
    """A record of a newer Writ, on which this one cannot decide: it neither leads nor follows the log."""


def link(
    before: Position, stored_seq: int, subject: str, body: bytes, partition: int, epoch: int
) -> tuple[Record, Position]:
    """The stored message as the record after `before`, and the position behind it.

    Checks sequence, body against message and subject, epoch and the chain. Raises Violation, TooNew.
    """
    records: list[Record] = []
    at = link_all(before, [(stored_seq, subject, body, None)], partition, epoch, records)
    return records[0], at


def link_all(
    before: Position,
    messages: Iterable[tuple[int, str, bytes, object]],
    partition: int,
    epoch: int,
    records: list[Record],
) -> Position:
    """What `link` does, of messages that follow each other: sequence, subject, body and whatever of each.

    Adds what they hold to `records`, and returns the position behind them all. Raises Violation or TooNew,
    having added the records before it.
    """
    at_epoch, seq, prev = before
    for stored_seq, subject, body, _ in messages:
        seq += 1
        if stored_seq != seq:
            raise Violation(seq, f"missing; the log went on with sequence {stored_seq}")
        try:
            record = decode(body)
        except NewerRecord as newer:
            raise TooNew(seq, str(newer)) from newer
        except CodecError as error:
            raise Violation(seq, str(error)) from error
        if record.seq != seq:
            raise Violation(seq, f"its body says sequence {record.seq}")
        if not at_epoch <= record.epoch <= epoch:
            said = f"its body says epoch {record.epoch}, after epoch {at_epoch}"
            raise Violation(seq, f"{said} in a log of epoch {epoch}")
        if subject != log_subject(partition, record.tenant, record.kind, record.key):
            about = f"{record.tenant} {record.kind} {record.key}"
            raise Violation(seq, f"its body is about {about}, its subject is {subject}")
        if record.prev != prev:
            said = f"its prev is {record.prev[:12]}..."
            raise Violation(seq, f"{said}, but record {seq - 1} has digest {prev[:12]}...")
        records.append(record)
        at_epoch, prev = record.epoch, digest(body)
    return Position(at_epoch, seq, prev)
