"""Is this the record that must come next? What every reader asks before it believes a message of the log."""

from __future__ import annotations

from typing import NamedTuple

from .codec import CodecError, decode, digest
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


def link(
    before: Position, stored_seq: int, subject: str, body: bytes, partition: int, epoch: int
) -> tuple[Record, Position]:
    """The stored message as the record after `before`, and the position behind it.

    Checks sequence, body against message and subject, epoch and the chain. Raises Violation.
    """
    seq = before.seq + 1
    if stored_seq != seq:
        raise Violation(seq, f"missing; the log went on with sequence {stored_seq}")
    try:
        record = decode(body)
    except CodecError as error:
        raise Violation(seq, str(error)) from error
    if record.seq != seq:
        raise Violation(seq, f"its body says sequence {record.seq}")
    if not before.epoch <= record.epoch <= epoch:
        raise Violation(
            seq, f"its body says epoch {record.epoch}, after epoch {before.epoch} in a log of epoch {epoch}"
        )
    if subject != log_subject(partition, record.tenant, record.kind, record.key):
        raise Violation(
            seq,
            f"its body is about {record.tenant} {record.kind} {record.key}, its subject is {subject}",
        )
    if record.prev != before.digest:
        raise Violation(
            seq,
            f"its prev is {record.prev[:12]}..., but record {before.seq} has digest {before.digest[:12]}...",
        )
    return record, Position(record.epoch, seq, digest(body))
