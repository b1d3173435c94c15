"""Whether a shard may be handed over to another partition."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from writ.schemas.ids import shard_of
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.shards import MoveShard, Offer, ShardOffered
from writ.schemas.subjects import NO_QUEUE


class Known(Protocol):
    """What a partition knows of shards."""

    @property
    def number(self) -> int: ...
    @property
    def partitions(self) -> int: ...
    @property
    def offers(self) -> dict[int, Offer]: ...
    @property
    def stands_still(self) -> bool: ...
    @property
    def used(self) -> dict[int, int]: ...
    def owner(self, shard: int) -> int: ...
    def term(self, shard: int) -> int: ...


def move(known: Known, shard: int, command: MoveShard, tenants: Iterable[str]) -> ShardOffered | Rejection:
    """The offer of a shard, where these tenants are known."""
    if command.to >= known.partitions:
        reason = f"there is no partition {command.to}; there are {known.partitions}, numbered from 0"
        return Rejection(RejectionKind.NOT_FOUND, reason, "to")
    if known.owner(shard) == command.to:
        return Rejection(RejectionKind.CONFLICT, f"shard {shard} is in partition {command.to} already", "to")
    offered = known.offers.get(shard)
    if offered is not None:
        reason = f"shard {shard} is on its way to partition {offered.partition}; ask again when that is over"
        return Rejection(RejectionKind.CONFLICT, reason)
    if known.stands_still:
        reason = f"partition {known.number} waits for a shard itself; ask again when it has it"
        return Rejection(RejectionKind.CONFLICT, reason)
    for tenant in tenants:
        if shard_of(tenant, NO_QUEUE) == shard:
            reason = f"shard {shard} is the home of tenant {tenant}, which does not move"
            return Rejection(RejectionKind.CONFLICT, reason)
    used = known.used.get(shard)
    if used is not None:
        reason = f"shard {shard} is in use since record {used}: only one that holds nothing moves"
        return Rejection(RejectionKind.CONFLICT, reason)
    return ShardOffered(shard, known.term(shard) + 1)
