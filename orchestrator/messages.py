"""What arrives at the desk, taken apart as far as that needs no state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import msgspec

from writ.broker.ports import Answer as Send
from writ.broker.ports import Stored
from writ.schemas import bounds, commands, submits
from writ.schemas.assets import KeptAsset, RemoveAsset, SetAsset
from writ.schemas.codec import decode
from writ.schemas.commands import CONTROL_VERBS, LEASE_VERBS, SYSTEM_VERBS, SubmitJob
from writ.schemas.facts import Fact
from writ.schemas.faults import explain_fault
from writ.schemas.ids import SYSTEM_TENANT, derived_job_id, queue_fault
from writ.schemas.links import MessageAccepted, MessageSent
from writ.schemas.notes import Note
from writ.schemas.records import Source
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.shards import IntakeMark
from writ.schemas.subjects import Addressed, mark_tenant, parse_served

_VERBS = LEASE_VERBS | CONTROL_VERBS
_decoders = {verb: msgspec.json.Decoder(cls).decode for verb, cls in _VERBS.items()}
_system_decoders = {verb: msgspec.json.Decoder(cls).decode for verb, cls in SYSTEM_VERBS.items()}
_decode_mark = msgspec.json.Decoder(IntakeMark).decode
_NEVER_QUOTED = next(verb for verb, cls in CONTROL_VERBS.items() if cls is SetAsset)
_ROUND_ROOM = bounds.BATCH_MAX_RECORDS - 10
"""Records that one message may need at most, so that an empty round always has room for it."""


PART: Final = 25
"""Elements of a message that are dealt with in one go where tenants share the engine."""


class Element(NamedTuple):
    """One job of a submit that is well formed, and where it stood."""

    source: Source
    command: SubmitJob
    job_id: str


class Submitted(NamedTuple):
    """A message of the intake: its sound elements, and what is wrong with the others."""

    epoch: int
    seq: int
    last: int
    """Index of its last element; -1 where it has none."""

    address: Addressed
    sound: list[Element]
    refused: list[Rejection]
    size_bytes: int
    many: bool = False
    """Whether it was sent as several: of what is refused it is then told at which index that stood."""

    part: int = 0
    """Which of its parts it is, where it was taken in several."""

    @property
    def records_max(self) -> int:
        """Records that it may need: one or two for each job, and some for what is refused."""
        return 3 + len(self.sound) + sum(1 for e in self.sound if e.command.unique_key is not None)

    @property
    def elements(self) -> int:
        """What it counts for where tenants take turns: one at least."""
        return max(1, len(self.sound))

    def split(self, elements: int) -> tuple[Submitted, Submitted | None]:
        """The message as two, the first of so many elements; None for the second where it has no more.

        Each deals with it up to its own last element; what is refused for its form comes first.
        """
        sound = self.sound
        if len(sound) <= elements:
            return self, None
        some = sound[:elements]
        size_bytes = self.size_bytes * elements // len(sound)
        first = self._replace(last=some[-1].source.index, sound=some, size_bytes=size_bytes)
        left = self.size_bytes - size_bytes
        return first, self._replace(sound=sound[elements:], refused=[], size_bytes=left, part=self.part + 1)


def in_parts(message: Submitted) -> Iterator[Submitted]:
    """A message as several, each of so few elements that others need not wait for all of it."""
    rest: Submitted | None = message
    while rest is not None:
        part, rest = rest.split(PART)
        yield part


class Asked(NamedTuple):
    """A request of a worker or operator."""

    address: Addressed
    command: commands.Command | Rejection
    send: Send
    size_bytes: int

    @property
    def records_max(self) -> int:
        """Records that it may need."""
        command = self.command
        if isinstance(command, commands.Acquire):
            return command.count
        if isinstance(command, commands.Complete | commands.Fail | Note):
            return len(command.reports) + 1
        if isinstance(command, commands.Start | commands.Release):
            return len(command.leases) + 1
        if isinstance(command, commands.Backfill | commands.TriggerSchedule | KeptAsset | RemoveAsset):
            return _ROUND_ROOM
        return 2


class Linked(NamedTuple):
    """A record by which another partition speaks to this one."""

    partition: int
    epoch: int
    seq: int
    events: tuple[Fact, ...]
    size_bytes: int

    @property
    def records_max(self) -> int:
        """Records that it may need."""
        return 1


class Marked(NamedTuple):
    """A mark met in the intake."""

    epoch: int
    seq: int
    mark: IntakeMark
    size_bytes: int = 0
    records_max: int = 1


Read = Submitted | Marked | Linked
"""What is read, and not asked."""


def open_mark(epoch: int, seq: int, subject: str, body: bytes) -> Marked | None:
    """Takes a mark apart; None where a message of the intake is none. Raises msgspec.MsgspecError."""
    return Marked(epoch, seq, _decode_mark(body)) if mark_tenant(subject) is not None else None


def open_link(partition: int, stored: Stored) -> Linked | None:
    """Takes a record of another partition's log apart; None where it says nothing that matters here.

    Raises ValueError where it is no such record.
    """
    record = decode(stored.body)
    if (record.seq, record.kind) != (stored.seq, "link"):
        raise ValueError(
            f"message {stored.seq} of partition {partition} holds record {record.seq} of kind {record.kind}"
        )
    if not any(isinstance(event, MessageSent | MessageAccepted) for event in record.events):
        return None
    return Linked(partition, record.epoch, record.seq, record.events, len(stored.body))


def _too_large(body: bytes) -> Rejection | None:
    """Why a message fits no round: one that waited for room would keep all others waiting for ever."""
    if len(body) <= bounds.MESSAGE_MAX_BYTES:
        return None
    reason = (
        f"the message has {len(body)} bytes; at most {bounds.MESSAGE_MAX_BYTES} are taken: send less at once"
    )
    return Rejection(RejectionKind.TOO_LARGE, reason)


def open_request(subject: str, body: bytes, send: Send) -> Asked:
    """Takes a request apart; what is wrong with it becomes the command's rejection.

    Raises ValueError where the subject is not one that is served.
    """
    address = parse_served(subject)
    large = _too_large(body)
    if large is not None:
        return Asked(address, large, send, 0)
    verb = address.verb
    decoders = _system_decoders if address.tenant == SYSTEM_TENANT else _decoders
    open_ = decoders.get(verb)
    command: commands.Command | Rejection
    if open_ is None:
        known = ", ".join(sorted(decoders))
        command = submits.malformed(f"verb {verb!r} is not known; there are {known}", "verb")
    else:
        try:
            command = open_(body)
        except msgspec.ValidationError as error:
            # A refusal is recorded, and quotes what stood there: not of a value that is to be kept secret.
            sent = None if verb == _NEVER_QUOTED else body
            field, reason = explain_fault(error, sent, (_VERBS | SYSTEM_VERBS)[verb])
            command = submits.malformed(reason, field)
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            command = submits.malformed(f"the message is not JSON: {error}")
    fault = queue_fault(address.queue)
    if fault is not None:
        command = submits.malformed(fault, "queue")
    return Asked(address, command, send, len(body))


def open_submit(epoch: int, seq: int, subject: str, body: bytes) -> Submitted:
    """Takes a submit apart into its elements, each sound or refused by its index.

    Raises ValueError where the subject is not that of a submit.
    """
    address = parse_served(subject)
    elements = _too_large(body) or submits.split(body)
    if isinstance(elements, Rejection):
        return Submitted(epoch, seq, -1, address, [], [elements], 0)
    single = len(elements) == 1 and not isinstance(elements[0], msgspec.Raw)
    sound: list[Element] = []
    refused: list[Rejection] = []
    for index, element in enumerate(elements):
        place = None if single else index
        command = submits.parse(element, place)
        if isinstance(command, SubmitJob):
            job_id = command.id or derived_job_id(epoch, seq, index)
            fault = submits.address_fault(address.queue, job_id, place)
            if fault is None:
                sound.append(Element(Source(epoch, seq, index), command, job_id))
                continue
            command = fault
        refused.append(command)
    message = Submitted(epoch, seq, len(elements) - 1, address, sound, refused, len(body), len(elements) > 1)
    if message.records_max > _ROUND_ROOM:
        reason = (
            f"the array would make {message.records_max} records; at most {_ROUND_ROOM} fit: send it in parts"
        )
        return message._replace(sound=[], refused=[Rejection(RejectionKind.TOO_LARGE, reason)])
    return message
