"""What a partition knows of others: jobs of theirs that ours rest on, and whom it must tell of its own."""

from __future__ import annotations

from writ.schemas.bounds import SECOND_US
from writ.schemas.ids import shard_of, split_job_key
from writ.schemas.links import (
    NOTHING,
    UNHEARD_OF_S,
    Afar,
    CanaryTold,
    Content,
    FleetTold,
    JobAsked,
    Mark,
    MessageAccepted,
    MessageSent,
    MessageSettled,
    OfTenant,
    PartitionOpened,
    PolicyTold,
    PricesTold,
    PrincipalTold,
    ProcessTold,
    QuotasTold,
    heard,
)
from writ.schemas.records import Record
from writ.schemas.shards import AllTold, OfShard, ShardMoved, ShardPlaced
from writ.schemas.subjects import NO_QUEUE

from .deadlines import Deadlines
from .shards import Change, Shards, set_in


def kind_of(content: OfTenant) -> str:
    """The kind of the aggregate that a partition tells of."""
    match content:
        case PricesTold():
            return "prices"
        case PolicyTold():
            return "tenant"
        case QuotasTold():
            return "quotas"
        case FleetTold():
            return "fleet"
        case PrincipalTold(principal=principal):
            return f"principal.{principal.name}"
        case ProcessTold(process=process):
            return f"process.{process.name}"
        case AllTold():
            return "all"
        case ShardPlaced(shard=shard):
            return f"shard.{shard}"
        case CanaryTold(found=found):
            return f"canary.{found.process}~{found.scope}"
        case _:
            return "hosted"


class Links:
    """A fold of the records of kind `link`. Jobs are known by `<tenant>.<queue>~<id>`."""

    afar: dict[str, Afar]
    """Jobs of other partitions that ours rest on: asked for, once each."""

    watched: dict[str, dict[int, int]]
    """Our jobs that others asked for: by partition, the `ended_by` that it was last told."""

    adopted: dict[str, dict[int, int]]
    """What was told of a tenant, `<tenant>.<kind>`: by partition, the newest version."""

    sent: dict[int, Mark]
    settled: dict[int, MessageSettled]
    accepted: dict[int, Mark]

    def __init__(self, number: int) -> None:
        self.number = number
        self.shards = Shards(number)
        self.afar = {}
        self.watched = {}
        self.adopted = {}
        self.sent = {}
        self.settled = {}
        self.accepted = {}
        self.unheard_of = Deadlines()
        """When to tell of asked jobs that we have not got."""

    @property
    def partitions(self) -> int:
        """How many there are."""
        return self.shards.partitions

    def home(self, tenant: str, key: str) -> int:
        """The partition in which a job lives."""
        return self.shards.home(tenant, split_job_key(key)[0])

    def home_of_tenant(self, tenant: str) -> int:
        """The partition in which that lives which is of no queue."""
        return self.shards.home(tenant, NO_QUEUE)

    def told_of(self, content: OfTenant, partition: int) -> int:
        """The newest version of what such content tells that a partition was told; 0 for none."""
        return self.adopted.get(f"{content.tenant}.{kind_of(content)}", {}).get(partition, 0)

    def accepted_from(self, partition: int) -> Mark:
        """The newest message that was accepted from a partition."""
        return self.accepted.get(partition, NOTHING)

    def unsettled(self, partition: int) -> bool:
        """Whether messages were sent that the other partition is not known to have accepted."""
        settled = self.settled.get(partition)
        return self.sent.get(partition, NOTHING) > (NOTHING if settled is None else settled.message)

    def read_from(self, partition: int, epoch: int) -> int:
        """The sequence in another partition's log from which on it may say something new."""
        accepted = self.accepted_from(partition)
        start = accepted.seq + 1 if accepted.epoch == epoch else 1
        if self.unsettled(partition):
            settled = self.settled.get(partition)
            start = min(start, 1 if settled is None else settled.accepted + 1)
        return start

    def evolve(self, record: Record, undo: list[Change] | None) -> None:
        """What a record of kind `link` changes."""
        other = int(record.key)
        for index, event in enumerate(record.events):
            match event:
                case MessageSent(content=content):
                    set_in(self.sent, other, Mark(record.epoch, record.seq, index), undo)
                    self._said(other, content, undo)
                case MessageAccepted(message=message, content=content):
                    if message <= self.accepted_from(other):
                        raise ValueError(f"message {message} of partition {other} is accepted twice")
                    set_in(self.accepted, other, message, undo)
                    self._heard(other, content, record, undo)
                case MessageSettled():
                    set_in(self.settled, other, event, undo)
                case _:
                    raise ValueError(f"{type(event).__name__} is no event of a link")

    def open(self, event: PartitionOpened) -> None:
        """The log is one of several."""
        self.shards.partitions = event.partitions
        self.shards.dealt = event.dealt or event.partitions

    def _said(self, other: int, content: Content, undo: list[Change] | None) -> None:
        if isinstance(content, OfTenant):
            place = f"{content.tenant}.{kind_of(content)}"
            told = self.adopted.get(place, {})
            newest = max(content.version, told.get(other, 0))
            set_in(self.adopted, place, told | {other: newest}, undo)
            return
        if isinstance(content, OfShard):
            self.shards.said(other, content, undo)
            if isinstance(content, ShardMoved):
                self._forget_asks(content.shard, undo)
            return
        place = f"{content.tenant}.{content.key}"
        if isinstance(content, JobAsked):
            set_in(self.afar, place, self.afar.get(place) or Afar(content.key), undo)
        else:
            told = self.watched.get(place, {}) | {other: content.ended_by}
            set_in(self.watched, place, told, undo)

    def _heard(self, other: int, content: Content, record: Record, undo: list[Change] | None) -> None:
        if isinstance(content, ShardPlaced):
            self.shards.told(content, undo)
            self._forget_asks(content.shard, undo)
            return
        if isinstance(content, AllTold):
            set_in(self.shards.all_told, other, content.version, undo)
            return
        if isinstance(content, OfShard):
            self.shards.heard(other, content, undo)
            if isinstance(content, ShardMoved):
                self._forget_asks(content.shard, undo)
            return
        if isinstance(content, OfTenant):
            return  # no job's: the partition adopts it
        place = f"{content.tenant}.{content.key}"
        if isinstance(content, JobAsked):
            if self.home(content.tenant, content.key) != self.number:
                return  # its shard has moved: whoever asks hears of that, and asks there
            set_in(self.watched, place, {other: 0} | self.watched.get(place, {}), undo)
            self.unheard_of.set(place, record.at + UNHEARD_OF_S * SECOND_US)
        else:
            set_in(self.afar, place, heard(content, record.seq), undo)

    def _forget_asks(self, shard: int, undo: list[Change] | None) -> None:
        """A shard is elsewhere now: what was asked of its jobs and not answered is to be asked there."""
        for place, known in list(self.afar.items()):
            tenant, _, key = place.partition(".")
            if known.state is None and shard_of(tenant, split_job_key(key)[0]) == shard:
                set_in(self.afar, place, None, undo)

    @staticmethod
    def revert(undo: list[Change]) -> None:
        """Takes changes back, newest first."""
        for where, key, old in reversed(undo):
            if old is None:
                where.pop(key, None)
            else:
                where[key] = old
