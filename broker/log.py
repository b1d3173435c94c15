"""The log on JetStream: append by compare-and-set, in order reading, and the intake beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Generator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, Final

import msgspec
from nats.aio.client import Client as Nats
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError

from writ.schemas import bounds
from writ.schemas.subjects import SUBMIT_STORED, SUBMIT_STREAM, log_stream, mark_subject, shard_in, submits_of

from .hardened import HardenedClient
from .ports import AppendFailed, Message, NotStored, OutcomeUnknown, Shards, Stored, WrongLastSequence
from .reader import read_stream
from .spread import ALONE, Spread
from .streams import (
    NO_MESSAGE,
    REQUEST_TIMEOUT_S,
    ApiError,
    api,
    check_version,
    ensure_log,
    ensure_submit,
    kept_out,
    newest_seq,
    oldest_seq,
    take_of,
    waiting_of,
)

PLAIN_MAX: Final = 3
"""Up to so many records go as plain publishes, each durable in one sync; more go as one atomic batch."""

_HEADERS_BYTES: Final = 160
"""More than the headers of a record weigh."""

_RUN_CHARS: Final = 8
"""Of a random name: batches of two leaders at a time must not be taken for one, and each record keeps it."""

_BYTES_A_CHAR: Final = 4
"""At most, in UTF-8."""

_WRONG_LAST: Final = frozenset({10071, 10164})
_SURELY_NOT: Final = frozenset({10077, 10054, 10023, 10047, 10053})
"""Stream or store full, message too large, insufficient resources."""


_GONE: Final = frozenset({NO_MESSAGE, 10043, 10057})
"""What the broker says to a request to erase what is not there."""


@contextmanager
def _told() -> Generator[None]:
    """What the broker refuses here it may do the next time."""
    try:
        yield
    except ApiError as refused:
        raise OutcomeUnknown(str(refused)) from refused


def _failure(code: int, description: str) -> AppendFailed:
    if code in _WRONG_LAST:
        return WrongLastSequence(description)
    if code in _SURELY_NOT:
        return NotStored(f"{description} (JetStream error {code})")
    return OutcomeUnknown(f"{description} (JetStream error {code})")


class _Ack(msgspec.Struct):
    seq: int = 0
    error: dict[str, Any] | None = None


_decode_ack = msgspec.json.Decoder(_Ack).decode


class JetStreamLog:
    """A partition's log. The connection must be that of the `log` user."""

    def __init__(self, nats: HardenedClient, partition: int, epoch: int) -> None:
        self._nats = nats
        self._stream = log_stream(partition)
        self.partition = partition
        self.epoch = epoch
        self._batches = 0
        self._run = f"{nats.new_inbox()[-_RUN_CHARS:]}-"

    @classmethod
    async def open(
        cls,
        nats: HardenedClient,
        partition: int = 0,
        *,
        spread: Spread = ALONE,
        epoch_floor: int = 0,
        first_seq: int = 1,
    ) -> JetStreamLog:
        """Makes the stream where there is none, to begin with record `first_seq`.

        Raises BrokerTooOld, StreamMismatch or OutcomeUnknown.
        """
        check_version(nats)
        epoch = await ensure_log(nats, partition, spread=spread, epoch_floor=epoch_floor, first_seq=first_seq)
        return cls(nats, partition, epoch)

    async def last_seq(self) -> int:
        return await newest_seq(self._nats, self._stream)

    async def first_seq(self) -> int:
        """See `LiveLog`."""
        return await oldest_seq(self._nats, self._stream)

    async def trim(self, up_to: int) -> None:
        """See `LiveLog`."""
        try:
            await api(self._nats, f"STREAM.PURGE.{self._stream}", {"seq": up_to + 1})
        except ApiError as refused:
            raise OutcomeUnknown(str(refused)) from refused

    def read(
        self, start: int = 1, subjects: Sequence[str] = (), *, follow: bool = False
    ) -> AsyncIterator[list[Stored]]:
        return read_stream(self._nats, self._stream, start, subjects, follow=follow, whole=not subjects)

    async def append(self, messages: Sequence[Message], after: int, *, whole: bool = False) -> None:
        if len(messages) > bounds.BATCH_MAX_RECORDS:
            raise NotStored(f"{len(messages)} messages are more than one batch holds")
        for subject, body in messages:
            if not subject.isprintable() or " " in subject:
                raise NotStored(f"subject {subject!r} holds a blank")
            size = len(body) + len(subject) * _BYTES_A_CHAR + _HEADERS_BYTES
            if size > bounds.RECORD_MAX_BYTES:
                raise NotStored(f"a record of {size} bytes with its headers is too large")
        if len(messages) <= PLAIN_MAX and not (whole and len(messages) > 1):
            await self._append_plain(messages, after)
        else:
            await self._append_batch(messages, after)

    async def _append_plain(self, messages: Sequence[Message], after: int) -> None:
        # One after the other: were the second on its way before the first is stored, it would be stored alone
        # where another writer has put one record in the first one's place.
        for index, message in enumerate(messages):
            try:
                await self._publish(message, after + index)
            except AppendFailed as failed:
                if index == 0:
                    raise
                raise OutcomeUnknown(f"{index} of {len(messages)} records were stored: {failed}") from failed

    async def _publish(self, message: Message, after: int) -> None:
        self._check_ack(
            await self._request(message, b"Nats-Expected-Last-Sequence:%d\r\n" % after), after + 1
        )

    async def _append_batch(self, messages: Sequence[Message], after: int) -> None:
        self._batches += 1
        batch = f"{self._run}{self._batches:x}"
        head = f"Nats-Batch-Id:{batch}\r\nNats-Batch-Sequence:".encode()
        blocks = [
            (subject.encode(), b"%b%d\r\n" % (head, index + 1), body)
            for index, (subject, body) in enumerate(messages[:-1])
        ]
        subject, first, body = blocks[0]
        blocks[0] = subject, b"%bNats-Expected-Last-Sequence:%d\r\n" % (first, after), body
        last = b"%b%d\r\nNats-Batch-Commit:1\r\n" % (head, len(messages))
        try:
            await self._nats.publish_many(blocks)
            self._check_ack(await self._request(messages[-1], last), after + len(messages))
        except MaxPayloadError as large:
            raise NotStored(f"a record is larger than the broker's max_payload: {large}") from large
        except (NatsError, OSError) as lost:
            raise OutcomeUnknown(f"the connection failed in a batch: {lost or type(lost).__name__}") from lost

    async def _request(self, message: Message, head: bytes) -> bytes:
        try:
            return await self._nats.ask(message.subject.encode(), message.body, REQUEST_TIMEOUT_S, head)
        except MaxPayloadError as large:
            raise NotStored(f"a record is larger than the broker's max_payload: {large}") from large
        except (NatsError, OSError) as lost:
            raise OutcomeUnknown(f"no answer to an append: {lost or type(lost).__name__}") from lost

    @staticmethod
    def _check_ack(answer: bytes, expected: int) -> None:
        ack = _decode_ack(answer)
        if ack.error is not None:
            raise _failure(ack.error.get("err_code", 0), ack.error.get("description", "refused"))
        if ack.seq != expected:
            raise OutcomeUnknown(f"the append was stored at {ack.seq}, not at {expected}")


class JetStreamIntake:
    """The stream of submits. The connection must be that of the `log` user."""

    def __init__(self, nats: Nats, epoch: int) -> None:
        self._nats = nats
        self.epoch = epoch
        self._met: set[int] = set()
        self._unseen: set[str | None] = set()
        """Tenants, or None for all, of whom an earlier leader may have left what no reading brings again."""

    @classmethod
    async def open(cls, nats: Nats, *, spread: Spread = ALONE, epoch_floor: int = 0) -> JetStreamIntake:
        """Makes the stream where there is none."""
        return cls(nats, await ensure_submit(nats, spread=spread, epoch_floor=epoch_floor))

    async def last_seq(self) -> int:
        return await newest_seq(self._nats, SUBMIT_STREAM)

    async def read(
        self, start: int, shards: Shards = None, tenant: str | None = None
    ) -> AsyncIterator[list[Stored]]:
        subjects = submits_of(shards, tenant)
        if shards is not None:
            self._unseen.add(tenant)
        async with aclosing(read_stream(self._nats, SUBMIT_STREAM, start, subjects, follow=True)) as reading:
            async for messages in reading:
                if shards is not None:
                    self._met.update(shard_in(message.subject) for message in messages)
                yield messages

    async def first_seq(self) -> int:
        return await oldest_seq(self._nats, SUBMIT_STREAM)

    async def waiting(self, tenant: str) -> int:
        with _told():
            return sum((await waiting_of(self._nats, submits_of(None, tenant)[0])).values())

    async def take_of(
        self, tenants: Collection[str] | None, kept_out: Mapping[str, int] | None = None
    ) -> None:
        with _told():
            await take_of(self._nats, tenants, kept_out or {})

    async def kept_out(self) -> Mapping[str, int]:
        with _told():
            return await kept_out(self._nats)

    async def erase(self, seq: int) -> None:
        try:
            await api(self._nats, f"STREAM.MSG.DELETE.{SUBMIT_STREAM}", {"seq": seq, "no_erase": False})
        except ApiError as refused:
            if refused.code not in _GONE:
                raise OutcomeUnknown(str(refused)) from refused

    async def mark(self, shard: int, tenant: str, body: bytes) -> None:
        try:
            answer = await self._nats.request(mark_subject(shard, tenant), body, timeout=REQUEST_TIMEOUT_S)
        except (NatsError, OSError, TimeoutError) as lost:
            raise OutcomeUnknown(f"no answer to a mark: {lost or type(lost).__name__}") from lost
        refused = _decode_ack(answer.data).error
        if refused is not None:
            raise OutcomeUnknown(f"a mark was refused: {refused.get('description', 'refused')}")

    async def purge(self, up_to: int, shards: Shards = None, tenant: str | None = None) -> None:
        if shards is not None and tenant in self._unseen:
            (whose,) = submits_of(None, tenant) or [SUBMIT_STORED]
            with _told():
                self._met.update(map(shard_in, await waiting_of(self._nats, whose)))
            self._unseen.discard(tenant)
        # One request for each shard that anything came for: those of others are not ours to forget.
        subjects = submits_of(None if shards is None else self._met & frozenset(shards), tenant)
        if shards is None and tenant is None:
            subjects = [">"]
        with _told():
            for subject in subjects:
                asked = {"seq": up_to + 1, "filter": subject}
                await api(self._nats, f"STREAM.PURGE.{SUBMIT_STREAM}", asked)
