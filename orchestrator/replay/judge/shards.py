"""What a partition says of shards, held against what its log has of them."""

from __future__ import annotations

from writ.schemas.hosting import HOST_TENANT
from writ.schemas.records import Record
from writ.schemas.shards import (
    AllTold,
    Cut,
    MoveShard,
    OfShard,
    ShardAwaited,
    ShardMoved,
    ShardOffered,
    ShardPlaced,
)

from ...decide.shard import move
from ...state import Partition
from .differs import need


def said(state: Partition, content: OfShard | ShardPlaced | AllTold, record: Record) -> None:
    """Raises Differs where a message of a shard does not follow."""
    shards, to = state.links.shards, int(record.key)
    if isinstance(content, AllTold):
        among = shards.partitions if shards.grown else 0
        need(content.version == among, f"counts {content.version} partitions, where {among} were to be told")
        return
    shard = content.shard
    if isinstance(content, ShardPlaced):
        placed = shards.placed.get(shard)
        here = placed is not None and (placed.partition, placed.term) == (state.number, content.version)
        need(here and content.partition == state.number, f"tells that shard {shard} is here, where it is not")
        return
    if isinstance(content, ShardOffered):
        offer = move(shards, shard, MoveShard(to=to), [*state.governed, HOST_TENANT])
        need(offer == content, f"offers shard {shard}: decided again it is {offer}")
        return
    if isinstance(content, ShardAwaited):
        awaited = shards.awaited.get(shard)
        asked = awaited is not None and (awaited.partition, awaited.term) == (to, content.term)
        need(asked and not (awaited and awaited.told), f"awaits shard {shard}, which is not on offer")
        need(shards.may_await, f"awaits shard {shard} before it may")
        need(content.tenants == tuple(sorted(state.governed)), "tells of other tenants than are known")
        return
    offered = shards.offers.get(shard)
    given = offered is not None and (offered.partition, offered.term) == (to, content.term)
    need(given and offered and offered.tenants is not None, f"shard {shard} is not awaited there")
    used = shards.used.get(shard, 0)
    if isinstance(content, ShardMoved):
        need(not used, f"gives shard {shard} away, which is in use since record {used}")
        for tenant, cut in content.cuts.items():
            source = state.sources.get(tenant)
            need(source is None or Cut(source.epoch, source.seq) <= cut, f"cuts tenant {tenant} too early")
    else:
        need(content.used == used, f"keeps shard {shard} for record {content.used}; it is {used}")
