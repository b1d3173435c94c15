"""Hands shards over to other partitions, and takes those that are offered. See `writ.schemas.shards`.

What is to be said next follows from the state and from the marks that were met in the intake since this
leadership began: after a change of leader new marks are put behind the old ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from writ.schemas import commands
from writ.schemas.bounds import SHARDS
from writ.schemas.hosting import HOST_TENANT
from writ.schemas.ids import SYSTEM_TENANT, shard_of, split_job_key
from writ.schemas.links import MessageSent
from writ.schemas.records import Source
from writ.schemas.rejections import Rejection
from writ.schemas.shards import (
    ANY_TENANT,
    SHARD_VERBS,
    Cut,
    IntakeMark,
    ListShards,
    MoveShard,
    Offer,
    OfShard,
    ShardAwaited,
    ShardKept,
    ShardMoved,
    ShardsTold,
)

from .consequences import ORCHESTRATOR
from .decide.shard import move
from .messages import Asked, Marked
from .office import Office, encode
from .round import Round


class ShardDesk:
    """`handled` is how far each tenant's submits were dealt with."""

    def __init__(self, office: Office, handled: Callable[[], Mapping[str, Source]]) -> None:
        self._office = office
        self._state = office.state
        self._shards = office.state.links.shards
        self._handled = handled
        self._met: dict[IntakeMark, Cut] = {}
        self.put: set[IntakeMark] = set()
        """Marks that were put into the intake."""

        self.verbs: dict[type[commands.Command], Callable[[Round, Asked, Any], None]] = {
            MoveShard: self._move,
            ListShards: self._list,
        }
        assert set(self.verbs) == set(SHARD_VERBS.values())

    def recover(self) -> None:
        """A round was not stored: what it met in the intake may come again, and may come too late."""
        self._met.clear()
        self.put.clear()

    # --- asked by operators -------------------------------------------------------------------------------

    def _move(self, round_: Round, asked: Asked, command: MoveShard) -> None:
        tenant, principal, verb, queue = asked.address
        offer = move(self._shards, shard_of(tenant, queue), command, [*self._state.governed, HOST_TENANT])
        if isinstance(offer, Rejection):
            self._office.refuse(round_, asked, offer)
            return
        self._send(round_, command.to, offer, actor=principal, vouched=False, cause=verb)
        round_.answer(asked.send, encode(commands.Answer(None, round_.position)))

    def _list(self, round_: Round, asked: Asked, _: ListShards) -> None:
        shards = self._shards
        where = tuple([shards.owner(shard) for shard in range(SHARDS)])
        moving = {shard: offer.partition for shard, offer in shards.offers.items()}
        answer = ShardsTold(None, round_.position, shards.partitions, where, moving)
        round_.tell(asked.send, encode(answer))

    # --- handing over -------------------------------------------------------------------------------------

    def wanted(self) -> Iterator[IntakeMark]:
        """Marks that are to be put into the intake now."""
        for shard, offer in self._shards.offers.items():
            for mark in self._marks(shard, offer):
                if mark not in self.put and mark not in self._met:
                    yield mark

    def meet(self, marked: Marked) -> None:
        """A mark was met: all submits of its tenant before it are dealt with."""
        self._met[marked.mark] = Cut(marked.epoch, marked.seq)

    def _marks(self, shard: int, offer: Offer) -> list[IntakeMark]:
        """One for each line in which submits are read, once the receiver stands still behind none of them."""
        governed = self._state.governed
        if offer.tenants is None or not set(offer.tenants) <= set(governed):
            return []
        return [IntakeMark(shard, tenant, offer.term) for tenant in governed or (HOST_TENANT,)]

    def flush(self, round_: Round) -> bool:
        """Says what offers and marks call for, as far as there is room; whether a shard was given away."""
        gave = False
        for shard, awaited in list(self._shards.awaited.items()):
            if not awaited.told and self._shards.may_await and round_.has_room(1, 0):
                tenants = tuple(sorted(self._state.governed))
                self._send(round_, awaited.partition, ShardAwaited(shard, awaited.term, tenants))
        for shard, offer in list(self._shards.offers.items()):
            marks = self._marks(shard, offer)
            if marks and all(mark in self._met for mark in marks) and round_.has_room(1, 0):
                decided = self._decided(shard, offer, marks)
                gave = gave or isinstance(decided, ShardMoved)
                self._send(round_, offer.partition, decided)
        return gave

    def _decided(self, shard: int, offer: Offer, marks: list[IntakeMark]) -> ShardMoved | ShardKept:
        """What becomes of a shard when all that was before its marks is dealt with."""
        if shard in self._shards.used or self._is_watched(shard):
            return ShardKept(shard, offer.term, self._shards.used.get(shard, 0))
        handled, cuts = self._handled(), dict[str, Cut]()
        for mark in marks:
            done = handled.get(mark.tenant)
            met = self._met[mark]
            cuts[mark.tenant] = met if done is None else max(met, Cut(done.epoch, done.seq))
        if not self._state.governed:  # then the submits of all tenants are one line
            newest = max([*cuts.values(), *[Cut(done.epoch, done.seq) for done in handled.values()]])
            cuts = {ANY_TENANT: newest}
        return ShardMoved(shard, offer.term, cuts)

    def _is_watched(self, shard: int) -> bool:
        """Whether another partition waits for a job of the shard that is not there yet."""
        for place in self._state.links.watched:
            tenant, _, key = place.partition(".")
            if shard_of(tenant, split_job_key(key)[0]) == shard:
                return True
        return False

    @staticmethod
    def _send(
        round_: Round,
        partition: int,
        content: OfShard,
        *,
        actor: str = ORCHESTRATOR,
        vouched: bool | None = None,
        cause: str = "message",
    ) -> None:
        key = str(partition)
        events = (MessageSent(content),)
        round_.record(SYSTEM_TENANT, "link", key, events, actor=actor, vouched=vouched, cause=cause)
