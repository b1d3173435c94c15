"""Shards that move: how one partition hands a shard over to another, by recorded messages alone.

A shard moves while it holds nothing: no job, queue, schedule, batch, operation or hold was ever recorded in
it. What must not be lost or taken twice then is what is on its way to it, the submits in the intake.

    shard_offered     the holder to the receiver, as an operator asked. The holder goes on taking submits
    all_told          where there are more partitions than once, each to each other: what holds for tenants is
                      known there from here on. A receiver awaits nothing before it has heard this of all
    shard_awaited     the receiver to the holder: it takes no submits at all from this record on
    (a mark)          the holder has one put into the intake behind all that is there, for each tenant
    shard_moved       the holder has met its marks, and the shard still holds nothing: up to the `cuts` every
                      submit of the shard was dealt with, what is behind them is the receiver's
    shard_kept        the holder has met its marks, and the shard is in use by now: it stays
    shard_placed      the receiver to all others: ask us from now on

The receiver stands still in the intake before the mark, so its own position cannot have passed a submit of
the shard that the holder leaves to it. Each offer has a `term`, one more than any before it of that shard.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from .forms import Answer, Command, Reason

ANY_TENANT: Final = "*"
"""In the cuts of a shard: all tenants that have none of their own."""


class Cut(msgspec.Struct, frozen=True, gc=False, array_like=True, order=True):
    """A message of the intake: its epoch and sequence."""

    epoch: int
    seq: int


class ShardOffered(msgspec.Struct, frozen=True, gc=False, tag="shard_offered"):
    """The sender would hand a shard over to the receiver."""

    shard: int
    term: int


class ShardAwaited(msgspec.Struct, frozen=True, gc=False, tag="shard_awaited"):
    """The sender takes no submits until it hears what becomes of the shard; it knows of these tenants."""

    shard: int
    term: int
    tenants: tuple[str, ...]


class ShardMoved(msgspec.Struct, frozen=True, tag="shard_moved"):
    """The shard is the receiver's, and of each tenant the submits behind its cut."""

    shard: int
    term: int
    cuts: dict[str, Cut]


class ShardKept(msgspec.Struct, frozen=True, gc=False, tag="shard_kept"):
    """The shard stays: it is in use since record `used`, or (0) others wait for a job of it."""

    shard: int
    term: int
    used: int


class ShardPlaced(msgspec.Struct, frozen=True, gc=False, tag="shard_placed"):
    """Where a shard is after the offer `version`; told to all partitions, as what holds for a tenant."""

    tenant: str
    version: int
    shard: int
    partition: int


class AllTold(msgspec.Struct, frozen=True, gc=False, tag="all_told"):
    """All that the sender tells of tenants was told to the receiver; `version` counts the partitions."""

    tenant: str
    version: int


OfShard = ShardOffered | ShardAwaited | ShardMoved | ShardKept
"""What holder and receiver say to each other."""


class Placed(msgspec.Struct, frozen=True):
    """Where a shard is that has moved, since which term, and what of the intake is another's there."""

    partition: int
    term: int
    cuts: dict[str, Cut] = {}

    def cut(self, tenant: str) -> Cut | None:
        """Up to where a tenant's submits were dealt with by who held the shard before."""
        return self.cuts.get(tenant) or self.cuts.get(ANY_TENANT)


class Offer(msgspec.Struct, frozen=True):
    """A shard of ours that is offered; `tenants` is None until the receiver awaits it."""

    partition: int
    term: int
    tenants: tuple[str, ...] | None = None


class Awaited(msgspec.Struct, frozen=True, gc=False):
    """A shard that another partition offers us; `told` as soon as we have said that we await it."""

    partition: int
    term: int
    told: bool = False


class IntakeMark(msgspec.Struct, frozen=True, gc=False):
    """A message of the intake by which the holder of a shard knows that it has met all that was before it."""

    shard: int
    tenant: str
    term: int


class MoveShard(Command, frozen=True, kw_only=True):
    """Has the shard of the queue that this is asked of handed over to another partition: it holds nothing."""

    to: Annotated[int, Meta(ge=0)]
    reason: Reason = "requested"


class ListShards(Command, frozen=True):
    """Asks where the shards are, as far as the asked partition knows."""


class ShardsTold(Answer, frozen=True):
    """The partition that each shard is in, by its number; `moving` are those on offer, and to whom."""

    partitions: int = 0
    shards: tuple[int, ...] = ()
    moving: dict[int, int] = {}


SHARD_VERBS: Final[dict[str, type[Command]]] = {"move_shard": MoveShard, "list_shards": ListShards}
SHARD_ANSWERS: Final[dict[type[Command], type[Answer]]] = {ListShards: ShardsTold}
