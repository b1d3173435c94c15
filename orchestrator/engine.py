"""The loop: gather, decide, append, answer. The only place where the parts of the write side meet.

One engine leads one partition, or stands by. Nothing is answered before the records that it rests on are
stored, and nothing is stored but directly after the record that this engine last knew.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any, NamedTuple, cast

import msgspec

from writ.broker.archive import ArchiveDamaged
from writ.broker.clock import Clock
from writ.broker.keyvalue import KeyValue, MemoryKeyValue
from writ.broker.ports import (
    AppendFailed,
    Intake,
    Log,
    Message,
    NotStored,
    OutcomeUnknown,
    Requests,
    Shards,
    Stored,
    WrongLastSequence,
)
from writ.broker.vault import Vault
from writ.schemas import bounds, commands
from writ.schemas.chain import Violation
from writ.schemas.codec import decode
from writ.schemas.events import Barrier, ContentErased, LeaderElected, TimeResumed
from writ.schemas.links import PartitionOpened
from writ.schemas.records import Source
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.sealed import Keys
from writ.schemas.upgrading import RECORDS, Member

from .access_desk import Founder
from .desk import Desk
from .ended import SnapshotDamaged
from .figures import Backlog, Figures
from .floods import Floods
from .following import LOOK_S, Following, let_rest
from .inbox import Inbox, end, whose
from .intake_desk import Dealt
from .logtime import ClockOff, LogTime, compare_clocks
from .messages import Marked, Read, Submitted
from .roll import Roll
from .round import Encoded, Round, system_record
from .shards import ONE
from .snapshots import Snapshots
from .state import Partition
from .strongroom import Strongroom

log = logging.getLogger("writ.orchestrator")

BEAT_S = 0.5
SILENCE_S = 2.0
"""No beat and no new record for this long, and a little longer by chance: the leader is gone."""
JITTER_S = 1.0
REST_S = 10.0
"""How long a deposed leader stands by before it may stand again."""
SETTLE_S = 1.0
"""How long the log's intake position may lag behind what was dealt with."""
AWAY_S = 1.0
"""A leader that stood still, or waited for an append, for longer gives leases their time back."""
_RETRY_S = 0.2
_LOOK_BACK_S = 1.0
_LOOK_ON_S = 0.8
"""So long may a look at the log's end hold up every other round."""
_SUBMITS_A_ROUND = 500
"""Records that a round holds before the last message of the intake in it. Short rounds answer soon."""

_SHARED_A_ROUND = 16
"""The same where several tenants share the engine: nobody waits longer for the others than that takes."""

AHEAD_FROM = 64
"""Of an append of so many records on, the next round is decided while it is being stored, if as many wait."""

AHEAD_WITHIN_S = 0.1
"""From then on the log may be away, and renewals are kept waiting: nothing is decided ahead any more."""

_NOT_LEADING = msgspec.json.encode(
    commands.Answer(
        Rejection(RejectionKind.TRY_LATER, "the leader stepped down; nothing was decided, ask again")
    )
)

_AGAIN = "the log was away; nothing was decided, ask again"
_DEPOSED = "the leader was deposed before it could answer; ask again"


class Deposed(Exception):
    """Another engine extended the log: this one leads no more."""


Beside = Callable[[], Awaitable[Sequence[Log]]]
"""Tells the logs of all other partitions, in their order. Raises OutcomeUnknown."""


class Decided(NamedTuple):
    """A round with what it takes to take it back: what it took of what was read, and what stood before it."""

    round: Round
    taken: list[Read]
    dealt: Dealt
    away_us: int
    since_us: int
    """When it was decided: what was noticed until then is in it."""


class Engine:
    """One orchestrator's part in one partition. `name` must be its own alone, for each start.

    `others` are the logs of all other partitions, which it only reads, or tells them whenever it is asked:
    where there are more than the log has said so far, it says so as it is elected. `snapshots` shorten its
    start, `keys` seal content, `founders` are known before the first command, `assets` is where the sealed
    values of assets are kept. Where `live_max` jobs have not ended, submits are refused. It `reads` records
    up to that version, and writes none that is newer.
    Raises ValueError from `run` where the log says that it is one of more, TooNew where records are of a
    newer version than it reads: then it has appended nothing.
    """

    def __init__(
        self,
        log_: Log,
        intake: Intake,
        requests: Requests,
        clock: Clock,
        *,
        name: str,
        version: str,
        entropy: Callable[[], float],
        others: Sequence[Log] | Beside = (),
        ahead_from: int = AHEAD_FROM,
        snapshots: Snapshots | None = None,
        keys: Keys | None = None,
        founders: Sequence[Founder] = (),
        assets: KeyValue | None = None,
        live_max: int = bounds.LIVE_MAX,
        reads: int = RECORDS,
    ) -> None:
        self.name = name
        self.reads = reads
        self.leading = asyncio.Event()
        self.is_led = asyncio.Event()
        """Set as soon as anybody is known to lead."""

        self._led: Partition | None = None
        self.figures = Figures()
        self._following = Following(log_, snapshots, clock, reads)
        self.open: deque[Decided] = deque()
        """Rounds in memory that are not known to be stored, in their order; two at most."""

        self._log = log_
        self._intake = intake
        self._requests = requests
        self._clock = clock
        self._version = version
        self._entropy = entropy
        self._others: Sequence[Log] = () if callable(others) else others
        self._beside = others if callable(others) else None
        self._grown = False
        """Whether there are more logs than this leadership knows of."""

        self._ahead_from = ahead_from
        self._snapshots = snapshots
        self._served: Shards = None
        """The shards whose requests come here."""

        self._time = LogTime(clock, 0)
        self._keys = keys or Vault()
        self._founders = founders
        self.live_max = live_max
        self.no_room: str | None = None
        """Why submits are refused now; None while they are taken."""

        self._desk = Desk(self.state, clock, entropy, self._keys, live_max)
        self._passed_over = False
        """Whether something that was read had its turn in the last round, which others filled."""

        self._wake = asyncio.Event()
        self._inbox = Inbox(
            log_.partition,
            intake,
            self._others,
            self.figures,
            self._wake.set,
            Strongroom(self._keys, assets or MemoryKeyValue(clock)),
            Roll(self._members),
        )
        self._floods = Floods(intake, self._inbox, clock, self.figures)
        self._stopping = False
        self._heard_us = 0
        self._heard: str | None = None
        self._purged: dict[str | None, int] = {}
        self._behind_since: int | None = None
        self._awake_us = 0
        self._away_us = 0
        self._rival = False
        self._parts: list[asyncio.Task[None]] = []
        """What a leadership does beside its rounds."""

        self._resigned = False
        """Whether the leader said that it leads no more."""

    # --- leadership -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Stands by and leads by turns until `stop`."""
        await self._requests.hear(self._log.partition, self._hear)
        member = Member(self.name, self.reads)
        await self._requests.attend(self._log.partition, member, lambda: self.state.records)
        rest_s, led, grown = 0.0, False, False
        while not self._stopping:
            try:
                if not grown:  # else it led until a moment ago, and nobody else does
                    await self._stand_by(rest_s)
                rest_s, grown = 0.0, False
                if not self._stopping:
                    await self._lead()
                    led, grown = True, self._grown
            except (Deposed, WrongLastSequence) as deposed:
                log.warning("%s steps back: %s", self.name, deposed or "another leader extended the log")
                # Who lost an election has nothing to rest from, and may be needed soon.
                rest_s = REST_S if self.leading.is_set() else min(SILENCE_S, REST_S)
            except ClockOff as off:
                log.error("%s does not lead: %s; it tries again after %g s", self.name, off, REST_S)
                rest_s = REST_S
            except SnapshotDamaged as damaged:
                log.error("%s folds the log anew: %s", self.name, damaged)
                if self._snapshots is not None:
                    await self._snapshots.clear()
                self._following = Following(self._log, self._snapshots, self._clock, self.reads)
            except (OutcomeUnknown, NotStored, ConnectionError, TimeoutError) as failed:
                log.warning("%s cannot stand now: %s", self.name, failed)
                rest_s = _RETRY_S
            finally:
                await self._step_down()
        if led:
            with suppress(ConnectionError):
                await self._requests.resign(self._log.partition)

    @property
    def state(self) -> Partition:
        """What this engine leads, or follows while it stands by."""
        return self._following.state if self._led is None or self._following.begun else self._led

    @property
    def leader(self) -> str | None:
        """Who leads, as far as this engine knows; None where it has not been heard of of late."""
        if self.leading.is_set():
            return self.name
        silent_us = self._clock.mono_us() - self._heard_us
        return None if silent_us > SILENCE_S * bounds.SECOND_US else self._heard

    @property
    def waiting(self) -> Backlog:
        """What waits for this engine now."""
        parked = self._desk.leases.waiting
        counts = [waiter.command.count for place in parked.queues() for _, waiter in parked.line(place)]
        return Backlog(len(self._inbox.asked), self._inbox.jobs_read, len(counts), sum(counts))

    @property
    def kept_out(self) -> Mapping[str, int]:
        """The tenants of whom it has no more stored now, and since when in microseconds UTC."""
        return self._floods.kept_out

    @property
    def now(self) -> int:
        """Log time."""
        return self._time.now()

    def refuse_submits(self, why: str | None) -> None:
        """Has submits refused from here on, for that reason; None has them taken again."""
        self.no_room = self._desk.office.no_room = why

    def stop(self) -> None:
        """Ends `run` after the round at hand."""
        self._stopping = True
        self._wake.set()

    def _hear(self, leader: str) -> None:
        if not leader:
            self._heard, self._resigned = None, True
            self._wake.set()
        elif leader != self.name:
            self._heard, self._heard_us = leader, self._clock.mono_us()
            self.is_led.set()
            if self.leading.is_set():
                self._rival = True
                self._wake.set()

    async def _stand_by(self, rest_s: float) -> None:
        """Returns when this engine may stand: nobody leads, and it has rested. Follows the log meanwhile."""
        self._resigned = False
        if rest_s == 0 and self._heard is None and await self._requests.who(self._log.partition) is None:
            return
        following = self._following
        task = asyncio.create_task(following.run())
        task.add_done_callback(lambda _: self._wake.set())
        begun_us = self._clock.mono_us()
        patience_us = round((SILENCE_S + JITTER_S * self._entropy()) * bounds.SECOND_US)
        try:
            await self._pause(rest_s)
            while not self._stopping and not self._resigned and not task.done():
                heard_us = max(self._heard_us, following.moved_us, begun_us)
                left_us = heard_us + patience_us - self._clock.mono_us()
                if left_us <= 0:
                    break
                await self._pause(left_us / bounds.SECOND_US)
        finally:
            await end(task)
        if task.done() and not task.cancelled():
            task.result()

    async def _pause(self, seconds: float) -> None:
        """Waits, but not past a `stop`, nor past the word that the leader has resigned."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while not self._stopping and (left := until - loop.time()) > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), left)
                if self._resigned:
                    return
            self._wake.clear()

    async def _lead(self) -> None:
        await self._recover()
        self._awake_us, self._away_us, self._rival = self._clock.mono_us(), 0, False
        await self._elect()
        self._wake.clear()
        await self._floods.open()
        self._inbox.open(self.state.sources, self.state.links, self._tenants())
        with suppress(ConnectionError, TimeoutError):
            # Whoever starts in this moment must hear that there is a leader.
            await self._requests.beat(self.state.number, self.name)
            await self._requests.announce(self.state.number)
        self._served = self.state.links.shards.ours()
        await self._requests.serve(self._inbox.ask, self._served)
        works = [self._beat(), self._forget()]
        if not self._others:  # one intake is of all partitions: none of them shuts it for the others
            works.append(self._floods.run())
        self._parts = [self._part(work) for work in works]
        self.leading.set()
        self.is_led.set()
        log.info("%s leads partition %d from record %d", self.name, self.state.number, self.state.seq)
        try:
            while self.open or not (self._stopping or self._grown):
                if not self.open:
                    await self._next()
                    self._check()
                    await self._follow_log()
                    self._decide()
                await self._store()
            if self._desk.office.denials.hurry():
                self._decide()
                await self._store()
        finally:
            for part in self._parts:
                await end(part)
            self._parts = []
            await self._floods.close()

    def _part(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        part = asyncio.create_task(work)
        part.add_done_callback(lambda _: self._wake.set())
        return part

    @property
    def _is_broken(self) -> bool:
        """Whether a part of this leadership has ended; `_check` raises why."""
        return self._inbox.is_broken or any([part.done() for part in self._parts])

    def _check(self) -> None:
        """Raises what a part ended with: without one of them nobody leads, whatever the rounds still do."""
        self._inbox.check()
        for part in self._parts:
            if part.done():
                part.result()

    async def _look_beside(self) -> bool:
        """Takes notice of logs that were made, for the next election; whether there are any. See `Log`."""
        if self._beside is None:
            return False
        known, self._others = len(self._others), await self._beside()
        self._inbox.others = self._others
        return len(self._others) > known

    async def _members(self) -> tuple[Member, ...]:
        """All that take part now, this engine always among them. Raises ConnectionError."""
        found = await self._requests.roll(self._log.partition)
        return tuple(sorted({*found, Member(self.name, self.reads)}))

    def _tenants(self) -> frozenset[str] | None:
        """Whose submits are taken in turns; None while there is one tenant, or none that is known."""
        return frozenset(self.state.governed) if len(self.state.governed) > 1 else None

    @property
    def _reads_otherwise(self) -> bool:
        """Whether other submits are to be read than are, as there is another tenant, or a shard has moved."""
        inbox, shards = self._inbox, self.state.links.shards
        if shards.stands_still:
            return not inbox.stands_still
        return inbox.stands_still or (inbox.tenants, inbox.shards) != (self._tenants(), shards.ours())

    async def _follow_log(self) -> None:
        """Reads and serves what the log has come to say is ours."""
        shards = self.state.links.shards
        if self._reads_otherwise:
            # What is forgotten here is read again: until then nobody knows that there is more of a message.
            self._desk.intake.dealt.clear()
            if shards.stands_still:
                await self._inbox.stand_still()
            elif self._desk.intake.behind:
                self._behind_since = 0  # settled with the next round: the log must say how far it is
            else:
                await self._inbox.follow(self.state.sources, self._tenants(), shards.ours())
        if self._served != (ours := shards.ours()):
            self._served = ours
            await self._requests.serve(self._inbox.ask, ours)

    async def _step_down(self) -> None:
        """Leaves no request unanswered that this engine will not decide."""
        self.leading.clear()
        await self._requests.stop()
        await self._inbox.close(_NOT_LEADING)
        for place in self._desk.leases.waiting.queues():
            for _, waiter in self._desk.leases.waiting.line(place):
                waiter.send(_NOT_LEADING)

    async def _recover(self) -> None:
        """The state is folded from the log, while standing by or now: what an earlier leadership left is not.

        It begins with the newest snapshot that fits the log. Raises Violation where a record does not
        continue the log: no leader may build on that.
        """
        led = self._led.seq if self._led is not None else 0
        await self._look_beside()
        self._grown = False
        state = await self._following.catch_up()
        if state.seq < led:
            raise Violation(state.seq + 1, f"the log ends before it, and went on to record {led}: it was cut")
        self._led = state
        self._following = Following(self._log, self._snapshots, self._clock, self.reads)
        for key in state.erased:
            self._keys.destroy(key)  # where a crash came between the record and this
        self._desk = Desk(state, self._clock, self._entropy, self._keys, self.live_max)
        self._desk.office.no_room = self.no_room
        self.open.clear()
        self._time = LogTime(self._clock, state.at)
        self._purged.clear()
        self._behind_since = None

    async def _elect(self) -> None:
        links = self.state.links
        round_ = Round(self.state, self._time.now())
        partitions = len(self._others) + 1
        if partitions > links.partitions:
            system_record(round_, PartitionOpened(partitions, await self._dealt()), "election")
        elif links.partitions != partitions:
            raise ValueError(
                f"the log of partition {self.state.number} is one of {links.partitions}, and this node is "
                f"set up for {partitions}; start it with partitions = {links.partitions}"
            )
        records = self.state.records if self.state.leader else self.reads
        event = LeaderElected(self.name, self._version, self.state.leader, records)
        system_record(round_, event, "election")
        self._desk.access.found(round_, self._founders)
        encoded = round_.encode()
        begun_us = self._clock.wall_us()
        await self._log.append(encoded.messages, round_.after)
        ended_us = self._clock.wall_us()
        round_.keep(encoded.digests)
        if len(round_.records) > 1:
            self._desk.links.recover()  # who was made known is to be told to other partitions
        async for part in self._log.read(self.state.seq):
            for message in part:
                if message.seq == self.state.seq:
                    compare_clocks(begun_us, ended_us, message.stored_us)

    async def _dealt(self) -> int:
        """Over how many partitions the shards were dealt out, where there are more by now; 0 for all."""
        if self.state.seq:
            return self.state.links.shards.dealt
        for other in self._others:
            if other.partition != 0:
                continue
            async with aclosing(cast("AsyncGenerator[list[Stored]]", other.read(1))) as reading:
                async for first, *_ in reading:
                    if first.seq != 1:
                        raise ValueError("the log of partition 0 has no record 1: its archive is missing")
                    event = decode(first.body).events[0]
                    opened = event if isinstance(event, PartitionOpened) else PartitionOpened(ONE)
                    dealt = opened.dealt or opened.partitions
                    return 0 if dealt == len(self._others) + 1 else dealt
        return 0

    async def _beat(self) -> None:
        """Says that this engine leads."""
        while True:
            self._notice_gap()
            try:
                await self._requests.beat(self.state.number, self.name)
            except (ConnectionError, TimeoutError) as silent:
                log.warning("%s was not heard: %s", self.name, silent)
            await asyncio.sleep(BEAT_S)

    async def _forget(self) -> None:
        """Has the intake forget what need not be kept. Apart from the beat: it may take long to answer.

        And looks now and then whether the log went on without us: a leader with nothing to do learns it in no
        other way where the one that deposed it was never heard.
        """
        looked_us = self._clock.mono_us()
        rests_since = self.state.seq
        purgeable = self._inbox.purgeable
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(BEAT_S):
                    await purgeable.wait()
            purgeable.clear()
            try:
                await self._purge()
                for mark in list(self._desk.shards.wanted()):
                    await self._intake.mark(mark.shard, mark.tenant, msgspec.json.encode(mark))
                    self._desk.shards.put.add(mark)
                if self._clock.mono_us() - looked_us >= LOOK_S * bounds.SECOND_US:
                    looked_us = self._clock.mono_us()
                    rests_since = await self._let_rest(rests_since)
                    if await self._log.last_seq() > self.state.seq:
                        self._rival = True
                        self._wake.set()
                    if await self._look_beside():
                        self._grown = True  # to be elected once more, and to say so then
                        self._wake.set()
            except (OutcomeUnknown, ConnectionError, TimeoutError) as silent:
                log.warning("%s cannot purge the intake: %s", self.name, silent)

    async def _let_rest(self, since: int) -> int:
        """See `let_rest`. What cannot be read now may be the next time, or in the next snapshot."""
        if self._snapshots is None:
            return since
        try:
            return await let_rest(self.state, self._log, self._snapshots, since)
        except (SnapshotDamaged, ArchiveDamaged, OSError) as damaged:
            log.error("%s keeps jobs that have ended in memory: %s", self.name, damaged)
            return since

    def _notice_gap(self) -> None:
        """Called twice a second at least: whoever was not, was stopped meanwhile, and heard no renewal."""
        now = self._clock.mono_us()
        self._was_away(now - self._awake_us)
        self._awake_us = now

    def _was_away(self, gap_us: int) -> None:
        """After a time in which nobody could renew a lease, the next round begins with giving it back."""
        if gap_us > AWAY_S * bounds.SECOND_US and self.state.running:
            self._away_us += gap_us
            self._wake.set()

    def _wrote(self, since_us: int) -> None:
        """A round is stored: what was given back until it was decided is settled, the time since is not."""
        self._away_us = 0
        self._was_away(self._clock.mono_us() - since_us)

    # --- gather -----------------------------------------------------------------------------------------

    async def _next(self) -> None:
        """Returns when there is something to do: a message, or a time that has come."""
        inbox = self._inbox
        if inbox.asked or inbox.read or self._desk.unfinished or self._away_us or self._rival or self._grown:
            return
        if self._is_broken or self._reads_otherwise:
            return
        self._wake.clear()
        delay_s = self._delay_s()
        if delay_s is None:
            await self._wake.wait()
        elif delay_s > 0:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(delay_s, self._wake.set)
            try:
                await self._wake.wait()
            finally:
                timer.cancel()

    def _delay_s(self) -> float | None:
        """Seconds to the next time at which something happens by itself; None where nothing will."""
        delays: list[int] = []
        for deadlines in (self.state.deadlines, self.state.schedule_deadlines, self.state.links.unheard_of):
            due = deadlines.first()
            if due is not None:
                delays.append(due - self._time.now())
        end = self._desk.leases.waiting.first_end()
        if end is not None:
            delays.append(end - self._clock.mono_us())
        rated = self._desk.next_wake()
        if rated is not None:
            delays.append(rated - self._time.now())
        if self._behind_since is not None:
            delays.append(self._behind_since + round(SETTLE_S * bounds.SECOND_US) - self._clock.mono_us())
        return min(delays) / bounds.SECOND_US if delays else None

    # --- decide, append, answer -------------------------------------------------------------------------

    def _decide(self, behind: Encoded | None = None) -> None:
        """Opens a round of whatever waits, on top of one that is still being stored where there is one."""
        desk = self._desk
        self._notice_gap()
        self._inbox.begin()
        round_ = Round(self.state, self._time.now(), behind)
        decided = Decided(round_, [], desk.begin(), self._away_us, self._awake_us)
        taken = decided.taken
        if self._away_us:
            system_record(round_, TimeResumed(self._away_us // 1_000), "outage")
            self._away_us = 0
        desk.fire(round_)
        if self._passed_over:
            self._take(round_, taken)
        # Requests first otherwise: who asks waits, and a beat must not stand behind a flood of submits.
        inbox, asked = self._inbox, self._inbox.asked
        while (first := asked.next()) is not None and round_.has_room(first.records_max, first.size_bytes):
            if inbox.crowded and self._is_full(round_, taken, first.address.tenant):
                break  # what was passed over came first, and fills it
            desk.request(round_, inbox.take_asked())
            if self._is_full(round_, taken, first.address.tenant):
                break
        self._take(round_, taken)
        # Not twice in a row: requests come first in every second round at least.
        self._passed_over = not (self._passed_over and taken) and inbox.is_passed_over(taken)
        desk.finish(round_)
        if behind is None:
            self._settle(round_)
        if (round_.needs_fence or self._rival) and not round_.records:
            system_record(round_, Barrier(), "rival" if self._rival else "verdict")
        self._rival = False  # somebody else beats as leader: this append tells which of the two is one
        self.open.append(decided)

    def _take(self, round_: Round, taken: list[Read]) -> None:
        """Decides on what was read, in its order."""
        inbox = self._inbox
        while (item := inbox.next(round_)) is not None:
            full = (taken or inbox.crowded) and self._is_full(round_, taken, whose(item))
            if full or not round_.has_room(item.records_max, item.size_bytes):
                break
            item = inbox.take(item)
            taken.append(item)
            if isinstance(item, Submitted):
                self._desk.intake.submit(round_, item)
            elif isinstance(item, Marked):
                self._desk.shards.meet(item)
                self._desk.intake.meet(item)
            else:
                self._desk.links.hear(round_, item)

    def _is_full(self, round_: Round, taken: Iterable[Read], tenant: str) -> bool:
        """Whether a round takes nothing more of a tenant: it is short where others wait for it to end."""
        most = self._inbox.few(taken, tenant)
        if most is None:
            most = _SHARED_A_ROUND if self._inbox.shared else _SUBMITS_A_ROUND
        return len(round_.records) >= most

    def _settle(self, round_: Round) -> None:
        """Lets the log's intake position catch up, where refusals or repeats left it behind for long."""
        if not self._desk.intake.behind:
            self._behind_since = None
            return
        now = self._clock.mono_us()
        if self._behind_since is None:
            self._behind_since = now
        elif now - self._behind_since >= SETTLE_S * bounds.SECOND_US:
            self._desk.intake.settle(round_)
            self._behind_since = None

    async def _store(self) -> None:
        """Appends the oldest open round, and answers."""
        decided = self.open[0]
        round_ = decided.round
        if not round_.records:
            if not round_.needs_look or await self._is_newest(round_.after):
                self._send(round_)
            else:
                self._put_off(_AGAIN, [decided])
            self.open.popleft()
            return
        encoded = round_.encode()
        if self._keys.unsynced:  # a record must not outlive the key to its content
            await asyncio.to_thread(self._keys.sync)
        begun_us = self._clock.mono_us()
        try:
            await self._append(encoded, round_.whole)
        except NotStored as full:
            log.error("%s cannot store: %s", self.name, full)
            self.figures.refused += 1
            self._put_off(f"the log takes no records now: {full}", self._take_back())
            await asyncio.sleep(_RETRY_S)
            self._away_us += self._clock.mono_us() - decided.since_us  # no renewal could be stored meanwhile
            return
        except OutcomeUnknown as unknown:
            log.warning("%s asks the log what became of an append: %s", self.name, unknown)
            self.figures.unknown += 1
            self._put_off(_AGAIN, self._take_back(down_to=1))
            if not await self._was_stored(decided, encoded):
                return
        except WrongLastSequence:
            self._put_off(_DEPOSED, self.open)
            raise
        else:
            round_.keep(encoded.digests)
            self._wrote(decided.since_us)
        self.figures.stored(len(encoded.messages), self._clock.mono_us() - begun_us)
        self._inbox.stored(decided.taken)
        self.open.popleft()
        for record in round_.records:
            if isinstance(record.events[0], ContentErased):
                self._keys.destroy(record.key)
        self._send(round_)

    async def _is_newest(self, seq: int) -> bool:
        """Whether the log ends with record `seq`; False where it does not say. Raises WrongLastSequence."""
        try:
            async with asyncio.timeout(_LOOK_ON_S):
                last = await self._log.last_seq()
        except (AppendFailed, TimeoutError) as unknown:
            reason = str(unknown) or "no answer in time"
            log.warning("%s cannot say where the log ends: %s", self.name, reason)
            return False
        if last != seq:
            self._put_off(_DEPOSED, self.open)
            raise WrongLastSequence(f"the log ends with record {last}, and {self.name} knows {seq}")
        return True

    async def _append(self, encoded: Encoded, whole: bool) -> None:
        """One append. While a long one is under way, and as much waits, the next round is decided."""
        if len(encoded.messages) < self._ahead_from:
            await self._log.append(encoded.messages, encoded.after, whole=whole)
            return
        append = asyncio.create_task(self._log.append(encoded.messages, encoded.after, whole=whole))
        append.add_done_callback(lambda _: self._wake.set())
        try:
            await asyncio.sleep(0)  # it is on its way
            while not append.done():
                if self._may_decide_ahead():
                    self._decide(encoded)
                    self.open[-1].round.encode()  # so that it goes out as soon as this one is stored
                self._wake.clear()
                await self._wake.wait()
        except BaseException:
            await end(append)
            raise
        append.result()

    async def _was_stored(self, decided: Decided, encoded: Encoded) -> bool:
        """Whether a round is stored, by the log's own word; one that is not is taken back."""
        try:
            stored = await self._resolve(encoded.messages, encoded.after)
            if stored:
                decided.round.keep(encoded.digests)
            else:
                # What was decided while the log was away, such as the end of a lease, is decided anew.
                self._take_back()
            await self._resume(decided.since_us)
        except (Deposed, WrongLastSequence):
            self._put_off(_DEPOSED, [decided])
            raise
        if not stored:
            self._put_off(_AGAIN, [decided])
        return stored

    def _may_decide_ahead(self) -> bool:
        """Whether much waits, behind one open round that is being stored in good time."""
        if len(self.open) > 1 or self._stopping or self._grown or self._reads_otherwise:
            return False
        if self._clock.mono_us() - self.open[0].since_us > AHEAD_WITHIN_S * bounds.SECOND_US:
            return False
        return self._inbox.records_max >= self._ahead_from

    def _send(self, round_: Round) -> None:
        for send, body in round_.answers:
            send(body)

    def _take_back(self, down_to: int = 0) -> list[Decided]:
        """Undoes open rounds, of which nothing was stored, and keeps what was read for another try.

        All but the oldest `down_to`; those that were undone.
        """
        undone: list[Decided] = []
        while len(self.open) > down_to:
            decided = self.open.pop()
            decided.round.drop()
            self._desk.take_back(decided.dealt)
            self._away_us += decided.away_us
            self._inbox.put_back(decided.taken)
            undone.append(decided)
        return undone

    def _put_off(self, reason: str, rounds: Iterable[Decided]) -> None:
        """Whoever asked in these rounds may ask again."""
        body = msgspec.json.encode(commands.Answer(Rejection(RejectionKind.TRY_LATER, reason)))
        for decided in rounds:
            for send, _ in decided.round.answers:
                send(body)

    async def _resolve(self, messages: Sequence[Message], after: int) -> bool:
        """Whether the messages are stored, all of them, after an append whose outcome is unknown.

        Where a part is, the rest is appended. Where nothing is, it may still be on its way to the broker:
        only an append of our own in its place makes sure. Raises Deposed where others' are in its place.
        """
        while not self._stopping:
            try:
                found = [m.body async for part in self._log.read(after + 1) for m in part]
                ours = [m.body for m in messages]
                if found != ours[: len(found)]:
                    raise Deposed(f"record {after + 1} and on are another leader's")
                if 0 < len(found) < len(ours):
                    await self._log.append(messages[len(found) :], after + len(found))
                return bool(found)
            except (OutcomeUnknown, NotStored) as again:
                log.warning("%s still waits for the log: %s", self.name, again)
                await asyncio.sleep(_RETRY_S)
        raise Deposed("stopped while the outcome of an append was unknown")

    async def _resume(self, gap_from: int) -> None:
        """Gives leases their time back, by an append of our own: only then does what was read back count."""
        while True:
            gap_ms = (self._clock.mono_us() - gap_from) // 1_000
            round_ = Round(self.state, self._time.now())
            begun_us = self._clock.mono_us()
            system_record(round_, TimeResumed(gap_ms), "outage")
            encoded = round_.encode()
            try:
                await self._log.append(encoded.messages, round_.after)
            except NotStored as full:
                log.error("%s cannot store: %s", self.name, full)
                round_.drop()
                await asyncio.sleep(_RETRY_S)
                continue
            except OutcomeUnknown:
                if await self._resolve(encoded.messages, round_.after):
                    round_.keep(encoded.digests)
                else:
                    round_.drop()
                continue
            round_.keep(encoded.digests)
            self._wrote(begun_us)
            return

    async def _purge(self) -> None:
        """Forgets submits that the log's position is past: they are kept there as records."""
        intake, tenants = self._desk.intake, self._inbox.tenants
        if tenants is None:
            newest = self.state.source
            whole = intake.dealt and not self._inbox.read and not intake.behind
            await self._forget_up_to(None, newest, bool(whole))
            return
        for tenant, source in list(self.state.sources.items()):
            waits = self._inbox.read.length(tenant)
            whole = tenant in intake.dealt and not waits and intake.handled.get(tenant) == source
            await self._forget_up_to(tenant, source, whole)

    async def _forget_up_to(self, tenant: str | None, source: Source, whole: bool) -> None:
        """Purges a tenant's submits up to its position; with it where that one is dealt with as a whole."""
        done = source.seq if whole else source.seq - 1
        if source.epoch == self._intake.epoch and done > self._purged.get(tenant, 0):
            await self._erase_submits(tenant, done)
            ours = self.state.links.shards.ours()
            # What is ours and was read: neither what was another's a moment ago, nor what is another's now.
            mine = None if ours is None else ours & frozenset(self._inbox.shards or ())
            await self._intake.purge(done, mine, tenant)
            self._purged[tenant] = done

    async def _erase_submits(self, tenant: str | None, done: int) -> None:
        """Overwrites submits of content that may be erased: a purge leaves bytes in the broker's files.

        A leader before this one may have ended in between; of one partition all are looked at, once.
        """
        secret = self._desk.intake.secret
        if tenant not in self._purged and self.state.links.partitions == ONE and self.state.seals:
            for seq in await self._left_by_others(tenant, done):
                secret.setdefault(seq, tenant or "")
        for seq in [seq for seq, its in secret.items() if seq <= done and tenant in (None, its)]:
            await self._intake.erase(seq)
            del secret[seq]

    async def _left_by_others(self, tenant: str | None, done: int) -> Iterable[int]:
        """The submits that are still there up to a position: of all tenants, or of one."""
        first = await self._intake.first_seq()
        if tenant is None:
            return range(first, done + 1)
        found: list[int] = []
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_BACK_S), aclosing(self._submits_of(tenant, first)) as submits:
                async for seq in submits:
                    if seq > done:
                        break
                    found.append(seq)
        return found

    async def _submits_of(self, tenant: str, start: int) -> AsyncGenerator[int]:
        async for messages in self._intake.read(start, self._inbox.shards, tenant):
            for message in messages:
                yield message.seq
