"""A round of the engine: what was decided since the last append, and the answers that wait for the next."""

from __future__ import annotations

from typing import NamedTuple

from msgspec.structs import replace

from writ.broker.ports import Answer, Message
from writ.schemas import bounds
from writ.schemas.codec import digest, encode
from writ.schemas.events import Fact, LeaderElected
from writ.schemas.ids import SYSTEM_TENANT
from writ.schemas.records import Record, Source
from writ.schemas.subjects import log_subject
from writ.schemas.upgrading import LOGICS, RecordsRaised

from .state import Partition, Undo, address

_ENVELOPE_BYTES = 700
"""Upper estimate of a record's body without its content, and of its headers."""


class Encoded(NamedTuple):
    """A round ready to be appended behind record `after`."""

    after: int
    messages: list[Message]
    digests: list[str]


class Round:
    """An overlay on the partition's state: applied at once with an undo list, kept only if it is stored.

    One decided while another is still being stored comes `behind` that, and is dropped before it.
    """

    def __init__(self, state: Partition, now: int, behind: Encoded | None = None) -> None:
        self.state = state
        self.now = now
        self.after = state.seq if behind is None else behind.after + len(behind.messages)
        self.records: list[Record] = []
        self.answers: list[tuple[Answer, bytes]] = []
        self.needs_fence = False
        self.needs_look = False
        self.size_bytes = 0
        self.whole = False
        """Whether the records must be stored all or none, however few they are."""

        self.long: dict[str, int] = {}
        """Jobs with a long history, by the newest record that this round adds to it."""

        self._prev = state.prev if behind is None else behind.digests[-1]
        self._version = state.records
        self._logic = LOGICS[self._version]
        self._undo = Undo()
        self._own: dict[str, int] = {}
        self._encoded: Encoded | None = None

    @property
    def position(self) -> int:
        """Sequence of the newest record decided so far."""
        return self.after + len(self.records)

    def has_room(self, records: int, size_bytes: int) -> bool:
        """Whether that much more fits into the batch of this round."""
        return (
            len(self.records) + records <= bounds.BATCH_MAX_RECORDS
            and self.size_bytes + size_bytes + records * _ENVELOPE_BYTES <= bounds.BATCH_MAX_BYTES
        )

    def record(
        self,
        tenant: str,
        kind: str,
        key: str,
        events: tuple[Fact, ...],
        *,
        actor: str,
        cause: str,
        vouched: bool | None = None,
        source: Source | None = None,
        size_bytes: int = 0,
        trace: str | None = None,
    ) -> Record:
        """Adds a record and applies it. `size_bytes` is about what its content weighs."""
        state = self.state
        record = Record(
            state.epoch,
            self.position + 1,
            tenant,
            kind,
            key,
            self.now,
            actor,
            events,
            "",
            cause,
            vouched,
            source,
            trace,
            self._logic,
        )
        state.evolve(record, self._undo)
        if kind == "job":
            place = address(tenant, key)
            self._own[place] = len(self.records)
            if state.jobs[place].records >= bounds.HISTORY_LONG_RECORDS:
                self.long[place] = record.seq
        elif kind == "partition":
            self._logic = LOGICS[state.records]
        self.records.append(record)
        self.size_bytes += size_bytes + _ENVELOPE_BYTES
        return record

    def extend(self, tenant: str, key: str, events: tuple[Fact, ...]) -> Record | None:
        """More events for the record that this round holds of a job; None where it holds none."""
        index = self._own.get(address(tenant, key))
        if index is None:
            return None
        record = self.records[index]
        self.state.extend(record, events, self._undo)
        record = self.records[index] = replace(record, events=record.events + events)
        return record

    def actor_of(self, tenant: str, key: str) -> str | None:
        """The actor of this round's record of a job."""
        index = self._own.get(address(tenant, key))
        return None if index is None else self.records[index].actor

    def answer(self, send: Answer, body: bytes, *, verdict_only: bool = False) -> None:
        """An answer to leave once the round is stored.

        With `verdict_only` it says something true only of a leader, and nothing of it is stored: it
        leaves after an append of this round, which is made for it if there is none.
        """
        self.answers.append((send, body))
        self.needs_fence = self.needs_fence or verdict_only

    def tell(self, send: Answer, body: bytes) -> None:
        """An answer to a question of how things are, which decides nothing and is not worth a record.

        It leaves once the log is seen to end where this round begins: nobody else has led since.
        """
        self.answers.append((send, body))
        self.needs_look = True

    def encode(self) -> Encoded:
        """The records' bytes, each chained to the one before. Nothing may be added to the round after it."""
        if self._encoded is not None:
            return self._encoded
        prev, version = self._prev, self._version
        messages: list[Message] = []
        digests: list[str] = []
        number = self.state.number
        for record in self.records:
            version = raised(record) or version
            body = encode(record, prev, version)
            prev = digest(body)
            digests.append(prev)
            messages.append(Message(log_subject(number, record.tenant, record.kind, record.key), body))
        self._encoded = Encoded(self.after, messages, digests)
        return self._encoded

    def keep(self, digests: list[str]) -> None:
        """The round is stored: moves the state's position behind it."""
        for record, body_digest in zip(self.records, digests, strict=True):
            self.state.advance(record, body_digest)

    def drop(self) -> None:
        """The round is not stored: the state is as it was."""
        self.state.revert(self._undo)


def raised(record: Record) -> int | None:
    """The version of records that is written from this one on, where it says so."""
    if record.kind != "partition":
        return None
    match record.events[0]:
        case LeaderElected(records=version) | RecordsRaised(version=version):
            return version
        case _:
            return None


def system_record(
    round_: Round, event: Fact, cause: str, source: Source | None = None, tenant: str = SYSTEM_TENANT
) -> Record:
    """A record of the partition about itself, or about how far it is with the submits of a tenant."""
    return round_.record(
        tenant,
        "partition",
        str(round_.state.number),
        (event,),
        actor="writ:orchestrator",
        cause=cause,
        source=source,
    )
