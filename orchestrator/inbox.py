"""What waits to be decided: requests, and what is read of the intake and of other partitions' logs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from writ.broker.ports import Answer, Intake, Log, Shards
from writ.schemas import commands
from writ.schemas.ids import SYSTEM_TENANT
from writ.schemas.records import NO_SOURCE, Source
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.subjects import link_filter
from writ.schemas.upgrading import RaiseRecords

from .figures import Figures
from .links import Links
from .messages import (
    Asked,
    Linked,
    Marked,
    Read,
    Submitted,
    in_parts,
    open_link,
    open_mark,
    open_request,
    open_submit,
)
from .roll import Roll
from .round import Round
from .strongroom import Strongroom
from .turns import Turns

log = logging.getLogger("writ.orchestrator")

READ_MAX = 2_000
"""Jobs that were read of the intake and wait to be decided on: there, more cost no memory and no time."""

ASKED_MAX = 8_000
"""Requests that wait; beyond it, whoever asks is told to ask again."""

_READ_OF_ONE = READ_MAX // 4
"""What may be read ahead of a tenant where several share the engine."""

LIGHT_RECORDS = 3
"""Up to so many records of a round are stored by themselves; more take several syncs of the disk together."""

FLOOD_RECORDS = 1
"""The same of whoever has much waiting: each record is a sync, and others wait for the end of it."""

PURGE_AFTER = 125
"""Submits that are stored as records and still take the place of others in the intake."""

_MANY = 8
"""More records in one go, or more things in line, are not those of somebody who asks now and then."""

_CALM_ROUNDS = 1_000
"""For so many rounds after the last of those who ask now and then, the next one of them is looked out for."""

_NEWS = 0.1
"""What the newest message counts for in the mean of a tenant's messages."""

_END_S = 0.2
_NOBODY = msgspec.json.encode(
    commands.Answer(Rejection(RejectionKind.TRY_LATER, "the leader stepped down; nothing was decided"))
)


async def end(task: asyncio.Task[None]) -> None:
    """Cancels a task until it has ended: `wait_for` of Python 3.11 may swallow a cancellation.

    A cancellation of the caller waits for that end: no part of a leadership may outlive it.
    """
    again: asyncio.CancelledError | None = None
    while not task.done():
        task.cancel()
        try:
            await asyncio.wait([task], timeout=_END_S)
        except asyncio.CancelledError as cancelled:
            again = cancelled
    if again is not None:
        raise again
    if not task.cancelled() and (failed := task.exception()) is not None:
        log.debug("a part ended with %r", failed)


class Inbox:
    """Of one leadership after the other, each from `open` to `close`. `wake` is called when more is there."""

    def __init__(
        self,
        partition: int,
        intake: Intake,
        others: Sequence[Log],
        figures: Figures,
        wake: Callable[[], None],
        strongroom: Strongroom,
        roll: Roll,
    ) -> None:
        self.asked: Turns[Asked] = Turns()
        self.read: Turns[Read] = Turns()
        self.tenants: frozenset[str] | None = None
        """Whose submits are read apart, each tenant's from a position of its own; None for all as one."""

        self.floods: dict[str, float] = {}
        """Of tenants that had more waiting than is read of them: how many jobs a message held of late."""

        self.unsettled = asyncio.Event()
        """Set when there is one more of those, or the tenants are others."""

        self.shards: Shards = None
        self.stands_still = False
        """Whether no submits are read at all, as a shard is to come."""

        self._jobs: dict[str, int] = {}
        self._round = 0
        self._little: dict[str, int] = {}
        """Of the two tenants that had little waiting last: the round in which some of it was taken."""

        self._done = 0
        self.purgeable = asyncio.Event()
        """Set when enough of the intake is dealt with that it should be forgotten there."""

        self._partition = partition
        self._intake = intake
        self.others = others
        """The logs that are read from the next `open` on."""

        self._figures = figures
        self._wake = wake
        self._strongroom = strongroom
        self._roll = roll
        self._drained = asyncio.Event()
        self._reading: list[asyncio.Task[None]] = []
        self._submits: list[asyncio.Task[None]] = []
        self._opened = False

    @property
    def jobs_read(self) -> int:
        """Jobs that were read and wait to be decided on."""
        return sum(self._jobs.values())

    @property
    def shared(self) -> bool:
        """Whether several tenants wait for this engine, or may at any moment."""
        return self.tenants is not None

    @property
    def records_max(self) -> int:
        """What all that waits makes of records, at most."""
        return self.jobs_read + sum([asked.records_max for asked in self.asked])

    @property
    def is_broken(self) -> bool:
        """Whether a reading has ended; `check` raises why."""
        return any([reading.done() for reading in (*self._reading, *self._submits)])

    def check(self) -> None:
        """Raises what a reading ended with."""
        for reading in (*self._reading, *self._submits):
            if reading.done():
                reading.result()

    def open(self, sources: Mapping[str, Source], links: Links, tenants: frozenset[str] | None) -> None:
        """Reads from the positions that the partition's log names."""
        self._opened = True
        self.stands_still = links.shards.stands_still
        if not self.stands_still:
            self._follow(sources, tenants, links.shards.ours())
        for other in self.others:
            self._reading.append(
                self._task(self._read_link(other, links.read_from(other.partition, other.epoch)))
            )

    async def follow(
        self, sources: Mapping[str, Source], tenants: frozenset[str] | None, shards: Shards
    ) -> None:
        """Reads the submits of other tenants or shards from now on; what was not decided is read again."""
        await self.stand_still()
        self.stands_still = False
        self._follow(sources, tenants, shards)

    async def stand_still(self) -> None:
        """Reads no submits until `follow`, and forgets those that are not decided."""
        self.stands_still = True
        for reading in self._submits:
            await end(reading)
        self._submits.clear()
        kept = [item for item in self.read if isinstance(item, Linked)]
        self.read.clear()
        self._jobs.clear()
        for item in kept:
            self.read.add(whose(item), item)

    def _follow(self, sources: Mapping[str, Source], tenants: frozenset[str] | None, shards: Shards) -> None:
        self.tenants, self.shards = tenants, shards
        self.unsettled.set()
        if shards is not None and not shards:
            self._submits = []
            return
        if tenants is None:
            newest = max(sources.values(), default=NO_SOURCE)
            self._submits = [self._task(self._read_intake(newest, None))]
            return
        self._submits = [
            self._task(self._read_intake(sources.get(tenant, NO_SOURCE), tenant))
            for tenant in sorted(tenants)
        ]

    async def close(self, refusal: bytes) -> None:
        """Reads no more, and answers every request that waits."""
        self._opened = False
        for readings in (self._reading, self._submits):
            while readings:
                await end(readings[-1])
                readings.pop()
        for asked in self.asked:
            asked.send(refusal)
        self.asked.clear()
        self.read.clear()
        self._jobs.clear()
        self.floods.clear()

    @property
    def crowded(self) -> bool:
        """Whether a tenant has much waiting, and others who ask now and then have done so lately.

        Then a round is to take no longer than it must: whoever asks next waits for the end of one.
        """
        if not self.shared:
            return False
        lately = [
            who
            for who, at in self._little.items()
            if self._round - at < _CALM_ROUNDS and not self._has_much(who)
        ]
        waits = [tenant for tenant, jobs in self._jobs.items() if jobs > LIGHT_RECORDS + 1]
        return any(who != tenant for tenant in waits for who in lately)

    def calm(self, tenant: str) -> None:
        """Little of a tenant waits: it floods no more, as soon as all of that may be read."""
        if self._jobs.get(tenant, 0) <= _READ_OF_ONE:
            self.floods.pop(tenant, None)

    def begin(self) -> None:
        """Another round begins."""
        self._round += 1

    def _had_little(self, tenant: str) -> None:
        self._little.pop(tenant, None)
        self._little[tenant] = self._round
        if len(self._little) > 2:
            del self._little[next(iter(self._little))]

    def take_asked(self) -> Asked:
        """The next request, of the tenant whose turn it is."""
        first = self.asked.next()
        assert first is not None, "somebody looked before"
        if not self._has_much(first.address.tenant):
            self._had_little(first.address.tenant)
        return self.asked.take(first.records_max)

    def next(self, round_: Round) -> Read | None:
        """What was read and is to be taken into a round next, of the tenant whose turn it is.

        Where a few records of others are in the round already, it is nothing of a flood, as that would hold
        them up: a few are stored several times as fast as many. Then it is what others have of little.
        """
        item = self.read.next()
        if item is None or not self.shared or not self._is_flood(item):
            return item
        apart = self.crowded or len(round_.records) <= LIGHT_RECORDS
        return self.read.next(self._has_little) if round_.records and apart else item

    def take(self, item: Read) -> Read:
        """Takes what `next` told, or a first part of it."""
        tenant = whose(item)
        if not isinstance(item, Submitted):
            return self.read.take(item.records_max, tenant)
        rest: Submitted | None = None
        if not self._is_flood(item):
            self._had_little(tenant)
        if self.crowded:
            item, rest = item.split(FLOOD_RECORDS if self._has_much(tenant) else LIGHT_RECORDS)
        self.read.take(item.elements, tenant)
        self._count(item, -1)
        if rest is not None:
            self.read.put_back(tenant, [rest])
            self._jobs[tenant] += 1  # it counts as a message of its own from now on
        self._drained.set()
        return item

    def is_passed_over(self, taken: Sequence[Read]) -> bool:
        """Whether a round took nothing of what was read, or nothing of a flood whose turn it was."""
        item = self.read.next()
        if item is None or not taken:
            return item is not None
        return self.crowded and whose(item) not in map(whose, taken)

    def few(self, taken: Iterable[Read], tenant: str) -> int | None:
        """After how many records a round ends with what a tenant sends, as others may come meanwhile.

        None where it may be long: those who have little go together, however many they are. What gathered of
        theirs behind one slow append is stored with the next one, and not by turns with a flood.
        """
        if not self.crowded:
            return None
        if self._has_much(tenant) or any([self._has_much(whose(item)) for item in taken]):
            return FLOOD_RECORDS
        return LIGHT_RECORDS if any(map(_is_array, taken)) else None

    def _is_flood(self, item: Read) -> bool:
        is_rest = isinstance(item, Submitted) and item.part > 0
        return is_rest or item.records_max > _MANY or self._has_much(whose(item))

    def _has_little(self, tenant: str) -> bool:
        return not self._is_flood(self.read.first(tenant))

    def _has_much(self, tenant: str) -> bool:
        return self._jobs.get(tenant, 0) > 2 * _MANY or self.read.length(tenant) > _MANY

    def stored(self, taken: Iterable[Read]) -> None:
        """What was taken is in the log."""
        self._done += sum([isinstance(item, Submitted) and not item.part for item in taken])
        if self._done >= PURGE_AFTER:
            self._done = 0
            self.purgeable.set()

    def put_back(self, taken: Iterable[Read]) -> None:
        """What was taken in vain waits again, in its order and before all else of its tenant."""
        lines: dict[str, list[Read]] = {}
        for item in taken:
            lines.setdefault(whose(item), []).append(item)
            if isinstance(item, Submitted):
                self._count(item, 1)
        for tenant, items in lines.items():
            self.read.put_back(tenant, items)

    def _count(self, item: Submitted, by: int) -> None:
        tenant = item.address.tenant
        self._jobs[tenant] = self._jobs.get(tenant, 0) + by * (1 + len(item.sound))
        if not self._jobs[tenant]:
            del self._jobs[tenant]

    def ask(self, subject: str, body: bytes, send: Answer) -> None:
        """Takes a request; too many at a time are told to ask again."""
        try:
            asked = open_request(subject, body, send)
        except ValueError as error:
            log.error("request passed over: %s", error)
            return
        self._figures.requests += 1
        tenant = asked.address.tenant
        if len(self.asked) > ASKED_MAX and self.asked.length(tenant) > ASKED_MAX // (self.asked.lines + 1):
            self._figures.shed += 1
            reason = "the orchestrator is behind; nothing was decided, ask again"
            send(msgspec.json.encode(commands.Answer(Rejection(RejectionKind.TRY_LATER, reason))))
            return
        if isinstance(asked.command, RaiseRecords):
            self._roll.take(asked, asked.command, self._put)
        else:
            self._strongroom.take(asked, self._put)

    def _put(self, asked: Asked) -> None:
        """One that is ready to be decided on, which may be some time after it came."""
        if not self._opened:
            asked.send(_NOBODY)
            return
        self.asked.add(asked.address.tenant, asked)
        self._wake()

    def _task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        reading = asyncio.create_task(work)
        reading.add_done_callback(lambda _: self._wake())
        return reading

    async def _read_intake(self, source: Source, tenant: str | None) -> None:
        """Brings submits of a tenant, or all, from the message that the log's position names."""
        start = source.seq if source.epoch == self._intake.epoch else 1
        most = READ_MAX if tenant is None else _READ_OF_ONE
        mean = 0.0
        async for messages in self._intake.read(max(start, 1), self.shards, tenant):
            for message in messages:
                try:
                    marked = open_mark(self._intake.epoch, message.seq, message.subject, message.body)
                    if marked is not None:
                        self.read.add(whose(marked), marked)
                        self._wake()
                        continue
                    item = open_submit(self._intake.epoch, message.seq, message.subject, message.body)
                except (ValueError, msgspec.MsgspecError) as error:
                    log.error("submit %d is passed over: %s", message.seq, error)
                    continue
                for part in (item,) if tenant is None else in_parts(item):
                    self.read.add(whose(part), part)
                    self._count(part, 1)
                jobs = max(1, len(item.sound) + len(item.refused))
                mean = mean + (jobs - mean) * _NEWS if mean else jobs
                self._wake()
                while (self.jobs_read if tenant is None else self._jobs.get(tenant, 0)) > most:
                    # What is read is parsed: while that goes on, no request is answered and no lease renewed.
                    self._drained.clear()
                    if tenant is not None:
                        self.floods[tenant] = mean
                        self.unsettled.set()
                    await self._drained.wait()

    async def _read_link(self, other: Log, start: int) -> None:
        """Brings what another partition says, from where the log's position names."""
        subjects = [link_filter(other.partition, self._partition)]
        async for messages in other.read(start, subjects, follow=True):
            for message in messages:
                linked = open_link(other.partition, message)
                if linked is not None:
                    self.read.add(whose(linked), linked)
            self._wake()


def _is_array(item: Read) -> bool:
    return isinstance(item, Submitted) and item.many


def whose(item: Read) -> str:
    """The line in which something that was read waits."""
    if isinstance(item, Marked):
        return item.mark.tenant
    return item.address.tenant if isinstance(item, Submitted) else SYSTEM_TENANT
