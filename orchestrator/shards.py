"""Where each shard is, as one partition's log tells it, and which are on their way."""

from __future__ import annotations

from itertools import count
from typing import Any, Final

from writ.schemas.bounds import SHARDS
from writ.schemas.ids import shard_of, split_job_key
from writ.schemas.links import partition_of
from writ.schemas.records import Record
from writ.schemas.shards import (
    Awaited,
    Offer,
    OfShard,
    Placed,
    ShardAwaited,
    ShardKept,
    ShardMoved,
    ShardOffered,
    ShardPlaced,
)
from writ.schemas.subjects import NO_QUEUE

Change = tuple[dict[Any, Any], Any, Any]
"""A dictionary, one of its keys, and what stood there before; None for nothing."""

ONE: Final = 1
"""The number of partitions where a log says nothing of it."""

_OF_QUEUE: Final = frozenset({"job", "queue", "schedule", "batch", "operation", "hold"})
_OF_NOBODY: Final = frozenset({"link", "partition"})


def set_in(where: dict[Any, Any], key: Any, value: Any, undo: list[Change] | None) -> None:
    """Puts a value in its place; None takes it away."""
    if undo is not None:
        undo.append((where, key, where.get(key)))
    if value is None:
        where.pop(key, None)
    else:
        where[key] = value


class Shards:
    """A fold of what a log says of shards; `partitions` is how many there are."""

    partitions: int
    dealt: int
    """Over how many partitions the shards were dealt out at first."""

    placed: dict[int, Placed]
    offers: dict[int, Offer]
    """Ours that others are to take over."""

    awaited: dict[int, Awaited]
    all_told: dict[int, int]
    """Who has told all of tenants, where there were so many partitions."""

    terms: dict[int, int]
    """The newest offer of each shard that this partition gave or got."""

    used: dict[int, int]
    """Shards in which something was recorded here, and the first record of it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.partitions = self.dealt = ONE
        self.placed = {}
        self.offers = {}
        self.awaited = {}
        self.all_told = {}
        self.terms = {}
        self.used = {}

    @property
    def stands_still(self) -> bool:
        """Whether no submits are taken, as another partition was told so."""
        return any([each.told for each in self.awaited.values()])

    @property
    def grown(self) -> bool:
        """Whether there are more partitions than there were."""
        return self.partitions != self.dealt

    @property
    def may_await(self) -> bool:
        """Whether this partition may stand still for a shard that it is offered.

        It has heard of each other what holds for tenants. And whoever stands still meets no marks for shards
        of its own: it does so with offers of its own to higher partitions alone, so that no ring of
        partitions waits for each other.
        """
        if any([offer.partition < self.number for offer in self.offers.values()]):
            return False
        others = [number for number in range(self.partitions) if number != self.number]
        return not self.grown or all([self.all_told.get(number) == self.partitions for number in others])

    # --- what is asked ------------------------------------------------------------------------------------

    def owner(self, shard: int) -> int:
        """The partition that a shard is in."""
        placed = self.placed.get(shard)
        return partition_of(shard, self.dealt) if placed is None else placed.partition

    def home(self, tenant: str, queue: str) -> int:
        """The partition that a queue is in."""
        return self.number if self.partitions == ONE else self.owner(shard_of(tenant, queue))

    def term(self, shard: int) -> int:
        """Of the newest offer of a shard that is known here."""
        placed = self.placed.get(shard)
        return max(self.terms.get(shard, 0), 0 if placed is None else placed.term)

    def awaits(self, tenant: str, key: str) -> bool:
        """Whether a job's shard may be ours soon."""
        return bool(self.awaited) and shard_of(tenant, split_job_key(key)[0]) in self.awaited

    def ours(self) -> frozenset[int] | None:
        """The shards that are here; None for all there are."""
        if self.partitions == ONE:
            return None
        held = set(range(self.number, SHARDS, self.dealt)) if self.number < self.dealt else set[int]()
        for shard, placed in self.placed.items():
            (held.add if placed.partition == self.number else held.discard)(shard)
        return frozenset(held)

    def takes(self, tenant: str, queue: str, epoch: int, seq: int) -> bool:
        """Whether a submit is for us: of our shards, and not dealt with by who held the shard before."""
        if self.partitions == ONE:
            return True
        shard = shard_of(tenant, queue)
        if self.owner(shard) != self.number:
            return False
        placed = self.placed.get(shard)
        cut = None if placed is None else placed.cut(tenant)
        return cut is None or (epoch, seq) > (cut.epoch, cut.seq)

    def beside(self, tenant: str, queue: str) -> tuple[str, ...]:
        """Names of queues that lead to all other partitions which hold shards, one each, in their order."""
        wanted = {self.owner(shard) for shard in range(SHARDS)} - {self.home(tenant, queue)}
        found: dict[int, str] = {}
        for number in count():
            if len(found) == len(wanted):
                return tuple([found[partition] for partition in sorted(found)])
            name = f"{queue}-{number}"
            home = self.home(tenant, name)
            if home in wanted:
                found.setdefault(home, name)
        raise AssertionError("numbers end")

    # --- the fold -----------------------------------------------------------------------------------------

    def touch(self, record: Record, undo: list[Change] | None) -> None:
        """Notes which shard a record is of, if it is the first there."""
        if record.kind in _OF_NOBODY:
            return
        queue = split_job_key(record.key)[0] if record.kind in _OF_QUEUE else NO_QUEUE
        shard = shard_of(record.tenant, queue)
        if shard not in self.used:
            set_in(self.used, shard, record.seq, undo)

    def said(self, other: int, content: OfShard, undo: list[Change] | None) -> None:
        """This partition said it to another."""
        shard, term = content.shard, content.term
        match content:
            case ShardOffered():
                set_in(self.offers, shard, Offer(other, term), undo)
                set_in(self.terms, shard, term, undo)
            case ShardAwaited():
                set_in(self.awaited, shard, Awaited(other, term, told=True), undo)
            case ShardMoved():
                set_in(self.placed, shard, Placed(other, term), undo)
                set_in(self.offers, shard, None, undo)
            case ShardKept():
                set_in(self.offers, shard, None, undo)

    def heard(self, other: int, content: OfShard, undo: list[Change] | None) -> None:
        """Another partition said it to this one."""
        shard, term = content.shard, content.term
        match content:
            case ShardOffered():
                set_in(self.awaited, shard, Awaited(other, term), undo)
                set_in(self.terms, shard, term, undo)
            case ShardAwaited(tenants=tenants):
                set_in(self.offers, shard, Offer(other, term, tenants), undo)
            case ShardMoved(cuts=cuts):
                set_in(self.placed, shard, Placed(self.number, term, cuts), undo)
                set_in(self.awaited, shard, None, undo)
            case ShardKept():
                set_in(self.awaited, shard, None, undo)

    def told(self, content: ShardPlaced, undo: list[Change] | None) -> None:
        """Another partition says where a shard is; older word of it changes nothing."""
        placed = self.placed.get(content.shard)
        if placed is None or placed.term < content.version:
            set_in(self.placed, content.shard, Placed(content.partition, content.version), undo)
