"""What partitions say to each other: asks after jobs that ours rest on, and word of ours that others rest on.

Nothing is owed to memory: what must be said follows from the state, and is found from it again after a change
of leader and after a round that was not stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from writ.schemas.events import Fact, WaitReason
from writ.schemas.fleet import FLEET_EVENTS, NO_FLEET
from writ.schemas.hosting import HOST_TENANT
from writ.schemas.ids import SYSTEM_TENANT
from writ.schemas.lifecycle import TERMINAL, Job
from writ.schemas.links import (
    GONE,
    CanaryTold,
    Content,
    FleetTold,
    JobAsked,
    JobTold,
    Mark,
    MessageAccepted,
    MessageSent,
    MessageSettled,
    OfTenant,
    PolicyTold,
    PricesTold,
    PrincipalTold,
    ProcessTold,
    QuotasTold,
    TenantHosted,
)
from writ.schemas.prices import NO_PRICES
from writ.schemas.principals import PRINCIPAL_EVENTS, AccessDenied
from writ.schemas.quotas import NO_ACCOUNT
from writ.schemas.records import Record
from writ.schemas.shards import AllTold, OfShard, ShardMoved, ShardPlaced
from writ.schemas.tenants import UNDECLARED

from .consequences import ORCHESTRATOR
from .messages import Linked
from .office import Office, encode
from .round import Round
from .shards import ONE

_RECORD_BYTES = 200 * 1024
"""A record of messages is full above it; one more output fits behind."""
_MESSAGE_BYTES = 600
_PRICES_AT_ONCE = 200


class LinkDesk:
    """Accepts messages of other partitions, once each, and sends ours."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._state = office.state
        self._links = office.state.links
        self._asks: dict[str, None] = {}
        self._tells: dict[str, None] = {}
        self._spreads: dict[str, None] = {}
        """Tenants of which something is to be told to all others, where this is their home."""

        self._settles: dict[int, MessageSettled] = {}

    def __bool__(self) -> bool:
        return bool(self._asks or self._tells or self._spreads)

    def recover(self) -> None:
        """Finds everything that is to be said and is not in the log."""
        self._asks.clear()
        if self._links.partitions == ONE:
            return
        self._tells = dict.fromkeys(self._links.watched)
        self._look_again()
        state = self._state
        of_processes = [place.partition(".")[0] for place in state.processes]
        known = (state.prices, state.tenants, state.accounts, state.governed, state.fleets, of_processes)
        self._spreads = {tenant: None for each in known for tenant in each} | {SYSTEM_TENANT: None}

    def _look_again(self) -> None:
        """Finds every job of another partition that ours rest on, and that nobody asked for there."""
        self._asks.clear()
        for place, job in self._state.jobs.here.items():
            self._look_at(place, job)

    # --- hearing ------------------------------------------------------------------------------------------

    def hear(self, round_: Round, linked: Linked) -> None:
        """Takes the messages of one record of another partition; those taken before are passed over."""
        events: list[Fact] = []
        places: list[str] = []
        shards_moved = False
        newest = self._links.accepted_from(linked.partition)
        for index, event in enumerate(linked.events):
            mark = Mark(linked.epoch, linked.seq, index)
            match event:
                case MessageSent(content=content) if mark > newest:
                    events.append(MessageAccepted(mark, content))
                    if isinstance(content, ProcessTold):
                        self._office.stir_tenant(content.tenant)
                    if isinstance(content, OfShard | ShardPlaced):
                        shards_moved = True
                    elif not isinstance(content, OfTenant):
                        places.append(f"{content.tenant}.{content.key}")
                case MessageAccepted(message=message):
                    self._settles[linked.partition] = MessageSettled(message, linked.seq)
                case _:
                    pass
        if not events:
            return
        self._record(round_, linked.partition, events, linked.size_bytes)
        if shards_moved:
            self._look_again()
            self._spreads[SYSTEM_TENANT] = None
        for place in places:
            if place in self._links.watched:
                self._tells[place] = None
            if place in self._links.afar:
                self._office.consequences.told(place)

    # --- speaking -----------------------------------------------------------------------------------------

    def flush(self, round_: Round) -> None:
        """Says what the round's own records call for, and what found no room before."""
        links = self._links
        if links.partitions == ONE:
            return
        while (place := links.unheard_of.pop(round_.now)) is not None:
            self._tells[place] = None
        for record in round_.records:
            if record.kind == "job":
                self._notice(record)
                if self._state.watches and links.home_of_tenant(record.tenant) != links.number:
                    self._spreads[record.tenant] = None
            elif record.kind == "link" and _hands_over(record):
                self._look_again()
            elif record.kind in ("prices", "tenant", "process") or _changes_others(record):
                self._spreads[record.tenant] = None
        contents: dict[int, list[tuple[Content, int]]] = {}
        for place in self._asks:
            tenant, _, key = place.partition(".")
            if place not in links.afar:
                ask = JobAsked(tenant, key)
                contents.setdefault(links.home(tenant, key), []).append((ask, _MESSAGE_BYTES))
        for place in self._tells:
            for partition, told in self._due(place, round_.now):
                size_bytes = 0 if told.output is None else told.output.size_bytes
                contents.setdefault(partition, []).append((told, size_bytes + _MESSAGE_BYTES))
        for tenant in self._spreads:
            for partition, content in self._untold(tenant):
                weight = len(encode(content)) + _MESSAGE_BYTES
                contents.setdefault(partition, []).append((content, weight))
        if all(self._send(round_, partition, contents[partition]) for partition in sorted(contents)):
            self._asks.clear()
            self._tells.clear()
            self._spreads.clear()
        self._settle(round_)

    def _notice(self, record: Record) -> None:
        place = f"{record.tenant}.{record.key}"
        if place in self._links.watched:
            self._tells[place] = None
        self._look_at(place, self._state.jobs[place])

    def _look_at(self, place: str, job: Job) -> None:
        """Notes the jobs of other partitions that a job rests on, and that nobody asked for yet."""
        if job.state in TERMINAL:
            return
        keys: Iterable[str] = job.after
        if job.parent is not None:
            keys = (*keys, job.parent)
        if job.wait is not None and job.wait.reason is WaitReason.CHILD:
            keys = (*keys, *job.wait.on)
        for key in keys:
            other = f"{job.tenant}.{key}"
            if other in self._links.afar or self._links.home(job.tenant, key) == self._links.number:
                continue
            # One whose shard may be ours soon is asked for, or here, when that is over.
            if not self._links.shards.awaits(job.tenant, key):
                self._asks[other] = None

    def _due(self, place: str, now: int) -> list[tuple[int, JobTold]]:
        """Who is to be told what of a job of ours: its end, or that it was opened again."""
        tenant, _, key = place.partition(".")
        job = self._state.jobs.get(place)
        if job is None:
            if self._links.unheard_of.armed(place):
                return []
            told = JobTold(tenant, key, GONE)
        elif job.state in TERMINAL:
            told = JobTold(tenant, key, job.ended_by, job.state, job.output, job.parent)
        else:
            told = JobTold(tenant, key, 0, job.state, None, job.parent)
        watchers = self._links.watched.get(place, {})
        return [(partition, told) for partition, last in watchers.items() if last != told.ended_by]

    def _untold(self, tenant: str) -> Iterator[tuple[int, OfTenant]]:
        """What others have not been told of a tenant whose home this is, or of where shards are."""
        links, contents = self._links, list[OfTenant]()
        if tenant == SYSTEM_TENANT:
            contents += [
                ShardPlaced(SYSTEM_TENANT, placed.term, shard, links.number)
                for shard, placed in links.shards.placed.items()
                if placed.partition == links.number
            ]
            if links.shards.grown:  # behind all else: it comes last among what is to be spread
                contents.append(AllTold(SYSTEM_TENANT, links.partitions))
            yield from self._to_all(contents)
            return
        if links.home_of_tenant(HOST_TENANT) == links.number:
            contents += self._of_host(tenant)
        at_home = links.home_of_tenant(tenant) == links.number
        if at_home:
            declared = self._state.tenants.get(tenant, UNDECLARED)
            contents.append(PolicyTold(tenant, declared.version, declared.policy))
            fleet = self._state.fleets.get(tenant, NO_FLEET)
            contents.append(FleetTold(tenant, fleet.version, fleet.drained))
            mine = [each for each in self._state.principals.values() if each.tenant == tenant]
            contents += [PrincipalTold(tenant, each.version, each) for each in mine]
            start = f"{tenant}."
            processes = [each for place, each in self._state.processes.items() if place.startswith(start)]
            contents += [ProcessTold(tenant, each.version, each.told()) for each in processes]
        else:
            yield from self._untold_findings(tenant)
        yield from self._to_all(contents)
        if at_home:
            for partition in range(links.partitions):
                if partition != links.number:
                    yield from self._untold_prices(tenant, partition)

    def _to_all(self, contents: list[OfTenant]) -> Iterator[tuple[int, OfTenant]]:
        """What of it each other partition has not been told."""
        for partition in range(self._links.partitions):
            for content in contents if partition != self._links.number else ():
                if self._links.told_of(content, partition) < content.version:
                    yield partition, content

    def _untold_findings(self, tenant: str) -> Iterator[tuple[int, CanaryTold]]:
        """What was decided here of the tenant's canaries, for its home to judge."""
        links, home = self._links, self._links.home_of_tenant(tenant)
        for place, watch in self._state.watches.items():
            if watch.decided and place.startswith(f"{tenant}."):
                told = CanaryTold(tenant, watch.revision, watch.found(links.number))
                if links.told_of(told, home) < told.version:
                    yield home, told

    def _of_host(self, tenant: str) -> Iterator[OfTenant]:
        """What the host says of a tenant: that there is one, its first owner, and what it may use."""
        account = self._state.accounts.get(tenant, NO_ACCOUNT)
        yield QuotasTold(tenant, account.version, account.quotas)
        owner = self._state.hosted.get(tenant)
        if owner is not None:
            yield TenantHosted(tenant, owner)

    def _untold_prices(self, tenant: str, partition: int) -> Iterator[tuple[int, OfTenant]]:
        """What another partition has not been told of a tenant's prices: a long table goes in parts."""
        prices = self._state.prices.get(tenant, NO_PRICES)
        if self._links.told_of(PricesTold(tenant, prices.version, ()), partition) < prices.version:
            for begin in range(0, len(prices.table), _PRICES_AT_ONCE):
                some = prices.table[begin : begin + _PRICES_AT_ONCE]
                is_last = begin + _PRICES_AT_ONCE >= len(prices.table)
                yield partition, PricesTold(tenant, prices.version if is_last else 0, some)

    def _send(self, round_: Round, partition: int, contents: list[tuple[Content, int]]) -> bool:
        """Whether all of it found room."""
        events: list[Fact] = []
        size_bytes = 0
        for content, weight in contents:
            if size_bytes > _RECORD_BYTES:
                if not round_.has_room(2, size_bytes):
                    return False
                self._record(round_, partition, events, size_bytes)
                events, size_bytes = [], 0
            events.append(MessageSent(content))
            size_bytes += weight
        if events:
            if not round_.has_room(1, size_bytes):
                return False
            self._record(round_, partition, events, size_bytes)
        return True

    def _settle(self, round_: Round) -> None:
        """Notes what others have accepted, as far as it is news."""
        for partition, settled in list(self._settles.items()):
            if not round_.has_room(1, 0):
                return
            before = self._links.settled.get(partition)
            if before is None or settled.message > before.message:
                self._record(round_, partition, [settled], 0)
            del self._settles[partition]

    @staticmethod
    def _record(round_: Round, partition: int, events: list[Fact], size_bytes: int) -> None:
        round_.record(
            SYSTEM_TENANT,
            "link",
            str(partition),
            tuple(events),
            actor=ORCHESTRATOR,
            cause="message",
            size_bytes=size_bytes,
        )


def _hands_over(record: Record) -> bool:
    """Whether a record says that a shard of ours is another's from now on."""
    first = record.events[0]
    return isinstance(first, MessageSent) and isinstance(first.content, ShardMoved)


def _changes_others(record: Record) -> bool:
    """Whether a record changes a principal or a fleet, and does not tell of what was refused to one."""
    first = record.events[0]
    return isinstance(first, (*PRINCIPAL_EVENTS, *FLEET_EVENTS)) and not isinstance(first, AccessDenied)
