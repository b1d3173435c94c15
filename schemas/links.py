"""How logs speak to each other: by recorded messages alone.

A partition decides only from its own log. Where a job rests on one that lives in another partition, its own
partition asks, and is told of each end and each opening of that job, for as long as there are the two.

    message_sent         in the sender's log; known by that record's epoch and sequence, and the event's index
    message_accepted     in the receiver's log, once, with what was said: a log is whole by itself
    message_settled      in the sender's log: everything up to that message has been accepted

All three stand in records of kind `link`, whose key is the number of the other partition. `partition_opened`
says as one of how many partitions a log began: shard n belongs to partition n modulo that number, unless it
has moved since (`shards.py`).
"""

from __future__ import annotations

from typing import Final

import msgspec

from .canaries import Finding
from .facts import Fact
from .prices import Price
from .principals import Principal
from .processes import Process
from .quotas import Quotas
from .sealed import Sealed
from .shards import AllTold, OfShard, ShardPlaced
from .states import State
from .tenants import TenantPolicy

UNHEARD_OF_S: Final = 30
"""How long a partition waits, once asked of a job that it does not have, before it says so.

A submit acknowledged earlier may still be on its way to it: two partitions read the intake each in its pace.
"""

GONE: Final = -1
"""Stands for the record that ended a job where there is no such job."""


class Mark(msgspec.Struct, frozen=True, gc=False, array_like=True, order=True):
    """Which message: epoch and sequence of the record that sent it, and the index of its event there."""

    epoch: int
    seq: int
    index: int


NOTHING: Final = Mark(0, 0, 0)
"""Before the first message."""


class JobAsked(msgspec.Struct, frozen=True, gc=False, tag="job_asked"):
    """The sender wants to be told of this job's end."""

    tenant: str
    key: str


class JobTold(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag="job_told"):
    """How a job stands that the receiver asked for.

    `ended_by` is the sequence of the record that ended it, 0 while it is open, GONE where there is none.
    """

    tenant: str
    key: str
    ended_by: int
    state: State | None = None
    output: Sealed | None = None
    parent: str | None = None


class PricesTold(msgspec.Struct, frozen=True, gc=False, tag="prices_told"):
    """Some of a tenant's prices; `version` is that of the table which the last of them make whole, else 0."""

    tenant: str
    version: int
    table: tuple[Price, ...]


class PolicyTold(msgspec.Struct, frozen=True, gc=False, tag="policy_told"):
    """A tenant's policy."""

    tenant: str
    version: int
    policy: TenantPolicy


class TenantHosted(msgspec.Struct, frozen=True, gc=False, tag="tenant_hosted"):
    """A tenant that was made, with its first owner."""

    tenant: str
    owner: Principal
    version: int = 1


class QuotasTold(msgspec.Struct, frozen=True, gc=False, tag="quotas_told"):
    """A tenant's quotas, all of them: the receiver takes its share."""

    tenant: str
    version: int
    quotas: Quotas


class PrincipalTold(msgspec.Struct, frozen=True, gc=False, tag="principal_told"):
    """A principal with all that it holds; `version` is how many changes made it."""

    tenant: str
    version: int
    principal: Principal


class ProcessTold(msgspec.Struct, frozen=True, gc=False, tag="process_told"):
    """A process as its home knows it, but for what was found out about its releases."""

    tenant: str
    version: int
    process: Process


class CanaryTold(msgspec.Struct, frozen=True, gc=False, tag="canary_told"):
    """What a partition has decided of a canary from its own jobs; `version` is the finding's revision."""

    tenant: str
    version: int
    found: Finding


class FleetTold(msgspec.Struct, frozen=True, gc=False, tag="fleet_told"):
    """The workers of a tenant that are drained."""

    tenant: str
    version: int
    drained: tuple[str, ...]


OfTenant = (
    PricesTold
    | PolicyTold
    | TenantHosted
    | QuotasTold
    | PrincipalTold
    | ProcessTold
    | FleetTold
    | CanaryTold
    | ShardPlaced
    | AllTold
)
"""What the home partition tells all others as soon as it holds, and they adopt: that of the tenant, or of
the host tenant for what only the host says. `CanaryTold` is what the others tell the tenant's home, and
`ShardPlaced` what who holds a shard by now tells the others."""

Content = JobAsked | JobTold | OfTenant | OfShard


class MessageSent(Fact, frozen=True):
    content: Content


class MessageAccepted(Fact, frozen=True):
    """`message` is which of the other partition's."""

    message: Mark
    content: Content


class MessageSettled(Fact, frozen=True):
    """All messages up to `message` have been accepted, as record `accepted` of the other log says."""

    message: Mark
    accepted: int


class PartitionOpened(Fact, frozen=True):
    """The log is one of several: its first record, or one since which there are more.

    `dealt` is the number of partitions over which the shards were dealt out, 0 for all.
    """

    partitions: int
    dealt: int = 0


LINK_EVENTS: Final[tuple[type[Fact], ...]] = (MessageSent, MessageAccepted, MessageSettled)


class Afar(msgspec.Struct, frozen=True, gc=False):
    """What a partition knows of a job of another. `state` is None until something was heard of it.

    `gone` says that there is no such job, which counts as dead. `ended_by` is a sequence in the log of the
    partition that heard of its end, which orders it with that one's own jobs.
    """

    key: str
    state: State | None = None
    output: Sealed | None = None
    parent: str | None = None
    gone: bool = False
    ended_by: int = 0


def heard(told: JobTold, seq: int) -> Afar:
    """What is known of a job after this was told by the record with that sequence."""
    if not told.ended_by:
        return Afar(told.key, told.state, parent=told.parent)
    gone = told.ended_by == GONE
    state = State.DEAD if gone else told.state
    return Afar(told.key, state, told.output, told.parent, gone, seq)


def partition_of(shard: int, partitions: int) -> int:
    """The partition that a shard belongs to from the start."""
    return shard % partitions
