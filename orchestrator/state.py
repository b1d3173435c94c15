"""The state of one partition: a fold of its log, with the indexes that deciding needs.

The live engine, recovery and the tests use the same `apply`; everything else here is derived from the jobs,
so that undoing a change is putting the old job back.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from writ.schemas import bounds
from writ.schemas.assets import Asset, evolve_asset
from writ.schemas.canaries import Finding
from writ.schemas.codec import digest
from writ.schemas.events import (
    ContentErased,
    Fact,
    HistoryLong,
    HoldLifted,
    HoldPlaced,
    JobSubmitted,
    LeaderElected,
    LeaseGranted,
    LeasesRenewed,
    RetryScheduled,
    TimeResumed,
)
from writ.schemas.fleet import Fleet, WorkerDrained, WorkerUndrained, evolve_fleet
from writ.schemas.gates import Gate, evolve_gate
from writ.schemas.hosting import HOSTED
from writ.schemas.ids import LANE_MARK, fencing_token
from writ.schemas.lifecycle import (
    TERMINAL,
    IllegalTransition,
    Job,
    State,
    evolve,
    evolve_record,
    next_deadline,
    regranted,
    renewed,
)
from writ.schemas.links import (
    Afar,
    CanaryTold,
    Content,
    FleetTold,
    MessageAccepted,
    PartitionOpened,
    PolicyTold,
    PricesTold,
    PrincipalTold,
    ProcessTold,
    QuotasTold,
    TenantHosted,
)
from writ.schemas.operations import OPERATION_CAUSE, Operation, acted, evolve_operation
from writ.schemas.prices import Prices, adopted, evolve_prices
from writ.schemas.principals import Principal, TenantCreated, evolve_principal
from writ.schemas.processes import Process, evolve_process, named
from writ.schemas.queues import BUILT_IN, Queue, evolve_queue, granted, retried
from writ.schemas.quotas import QUOTAS_KEY, Account, QuotasSet, evolve_account, spent, submitted
from writ.schemas.records import GENESIS, NO_SOURCE, Record, Source
from writ.schemas.schedules import Schedule, evolve_schedule, next_due
from writ.schemas.sealed import UNSEALED
from writ.schemas.steps import UsageRecorded
from writ.schemas.tenants import UNDECLARED, Tenant, evolve_tenant
from writ.schemas.upgrading import RecordsRaised

from .canaries import Watch, begun, judged_by_results, observed
from .deadlines import Deadlines
from .decide.quotas import Standing
from .jobs import Jobs
from .links import Links
from .ready import Ready, of_key, of_process
from .relations import Batch, Relations, evolve_batch
from .shards import Change
from .usage import Usage


class Undo:
    """How to take changes back: what stood in each place before, oldest change first."""

    def __init__(self) -> None:
        self.jobs: list[tuple[str, Job | None]] = []
        self.queues: list[tuple[str, Queue | None]] = []
        self.batches: list[tuple[str, Batch | None]] = []
        self.operations: list[tuple[str, Operation | None]] = []
        self.schedules: list[tuple[str, Schedule | None]] = []
        self.turns: list[tuple[str, str, int]] = []
        self.links: list[Change] = []
        self.kept: list[Change] = []
        self.long: list[tuple[str, int | None]] = []
        self.prices: list[tuple[str, Prices | None]] = []
        self.access: list[Change] = []
        self.processes: list[tuple[str, Process | None]] = []


_PENDING, _RUNNING, _ELSE = "pending", "running", "else"


def _standing(job: Job | None) -> str:
    """Which index a job belongs in."""
    if job is None:
        return _ELSE
    if job.lease is not None:
        return _RUNNING
    return _PENDING if job.state is State.PENDING else _ELSE


def address(tenant: str, key: str) -> str:
    """A job's place in memory; neither part holds a dot."""
    return f"{tenant}.{key}"


class Partition:
    """One partition's jobs, its position in its log and its indexes. `at` is the newest log time.

    What is declared here is what a snapshot keeps beside the jobs, with what `Links` and `Relations` declare;
    all else can be told from that.
    """

    at: int
    source: Source
    """The newest submit that is in the log."""

    sources: dict[str, Source]
    """The same of each tenant: its submits are dealt with in their order."""

    leader: str | None
    raised: dict[int, int]
    """The versions in which records were written, and the first record of each."""

    queues: dict[str, Queue]
    operations: dict[str, Operation]
    schedules: dict[str, Schedule]
    prices: dict[str, Prices]
    """The price table of each tenant."""

    tenants: dict[str, Tenant]
    accounts: dict[str, Account]
    """Of tenants that were given quotas."""

    assets: dict[str, Asset]
    """By `<tenant>.<name>`."""

    fleets: dict[str, Fleet]
    """Which workers of each tenant are drained."""

    governed: dict[str, int]
    """Tenants in which nothing is done without a grant, and the record from which on."""

    principals: dict[str, Principal]
    """By `<tenant>.<name>`."""

    hosted: dict[str, Principal]
    """Tenants that were made in the log, and the first owner as it was then."""

    processes: dict[str, Process]
    """By `<tenant>.<name>`; those of other homes as they were last told of."""

    gates: dict[str, Gate]
    """By `<tenant>.<name>`."""

    watches: dict[str, Watch]
    """Canaries that are judged, by `<tenant>.<process>~<scope>`."""

    findings: dict[str, Finding]
    """What other partitions have decided of them, by `<tenant>.<process>~<scope>~<partition>`."""

    erased: dict[str, int]
    """Keys that were destroyed, and the record that says so."""

    holds: dict[str, HoldPlaced]
    """By `<tenant>.<queue>~<name>`."""

    long: dict[str, int]
    """Jobs that were told of for their long history, and the newest round in which that was."""

    def __init__(self, number: int, epoch: int) -> None:
        self.number = number
        self.epoch = epoch
        self.seq = 0
        self.prev = GENESIS
        self.at = 0
        self.source = NO_SOURCE
        self.sources = {}
        self.leader = None
        self.raised = {}
        self.jobs = Jobs()
        self.running: set[str] = set()
        self.deadlines = Deadlines()
        self.queues = {}
        self.operations = {}
        self.schedules = {}
        self.schedule_deadlines = Deadlines()
        self.prices = {}
        self.tenants = {}
        self.accounts = {}
        self.usage = Usage()
        self.assets = {}
        self.fleets = {}
        self.governed = {}
        self.principals = {}
        self.hosted = {}
        self.processes = {}
        self.gates = {}
        self.watches = {}
        self.findings = {}
        self.access_changes = 0
        """Grows with every change of tenants and principals, and of one taken back."""

        self.access_at: dict[str, int] = {}
        """Log time of the newest change of each principal, as far as this process has folded it."""

        self._ready: dict[str, Ready] = {}
        self._running_in: dict[str, int] = {}
        self._running_by_key: dict[tuple[str, str], int] = {}
        self._unique: dict[tuple[str, str], dict[str, None]] = {}
        self.relations = Relations()
        self.links = Links(number)
        self.erased = {}
        self.holds = {}
        self.seals = False
        """Whether any job's content was ever sealed; never taken back, as it only calls for care."""

        self.long = {}

    @property
    def records(self) -> int:
        """The version in which records are written."""
        return max(self.raised, default=1)

    def job(self, tenant: str, queue: str, job_id: str) -> Job | None:
        return self.jobs.get(f"{tenant}.{queue}~{job_id}")

    def find(self, tenant: str, key: str) -> Job | Afar | None:
        """A job by its key, wherever it lives; None where it should live here and does not."""
        place = f"{tenant}.{key}"
        job = self.jobs.get(place)
        if job is not None or self.links.home(tenant, key) == self.number:
            return job
        return self.links.afar.get(place) or Afar(key)

    def queue(self, place: str) -> Queue:
        """A queue by `<tenant>.<queue>`, with the built-in policy where nobody declared one."""
        return self.queues.get(place, BUILT_IN)

    def is_drained(self, tenant: str, worker: str) -> bool:
        """Whether an operator has a worker take no more leases."""
        fleet = self.fleets.get(tenant)
        return fleet is not None and worker in fleet.drained

    def erasable(self, tenant: str, queue: str) -> bool:
        """Whether the content of a new job of the queue is sealed."""
        return self.tenants.get(tenant, UNDECLARED).erasable(self.queue(f"{tenant}.{queue}").policy)

    def archive_after_s(self, tenant: str, queue: str) -> float | None:
        """How long the history of the queue's jobs stays in the log once they have ended; None for ever."""
        return self.tenants.get(tenant, UNDECLARED).archive_after_s(self.queue(f"{tenant}.{queue}").policy)

    def standing(self, tenant: str) -> Standing | None:
        """What decisions on a tenant's quotas need; None where it has none."""
        account = self.accounts.get(tenant)
        return None if account is None else Standing(account, self.usage.of(tenant))

    def process_of(self, job: Job) -> Process | None:
        """The process that a job asks for a release of."""
        return (
            None if job.process is None else self.processes.get(f"{job.tenant}.{named(job.process).process}")
        )

    def ready(self, place: str) -> Ready | None:
        """The pending jobs of a queue; None where it never had one."""
        return self._ready.get(place)

    def queues_with_jobs(self, tenant: str) -> list[str]:
        """Queues of a tenant in which jobs are pending."""
        return [p for p, line in self._ready.items() if line.size and p.startswith(f"{tenant}.")]

    def turns(self) -> dict[str, dict[str, int]]:
        """By queue, the sequence at which each fairness key had its last turn; the jobs do not tell that."""
        return {place: line.served for place, line in self._ready.items() if line.served}

    def take_turns(self, place: str, served: dict[str, int]) -> None:
        """Gives a queue its turns, as `turns` told them."""
        self._ready.setdefault(place, Ready()).served |= served

    def pending_in(self, place: str) -> int:
        line = self._ready.get(place)
        return 0 if line is None else line.size

    def running_in(self, place: str) -> int:
        return self._running_in.get(place, 0)

    def running_by_key(self, place: str, key: str) -> int:
        return self._running_by_key.get((place, key), 0)

    def unique(self, place: str, key: str) -> Job | None:
        """The live job that has a unique key: the newest, while one that it replaced still runs.

        Of those only the newest was not asked to end; log time may be the same for several.
        """
        holders = [self.jobs[where] for where in self._unique.get((place, key), ())]
        return max(holders, key=lambda job: (job.cancel is None, job.round_at, job.key), default=None)

    def keyed(self, place: str) -> Job | None:
        """Any live job of a queue that has a unique key; looks at all such keys."""
        holders = (found for (queue, _), found in self._unique.items() if queue == place)
        return next((self.jobs[where] for found in holders for where in found), None)

    def lanes(self, place: str) -> int:
        """Into how many lanes a queue is spread; 1 for what is a lane itself."""
        return 1 if LANE_MARK in place else self.queue(place).policy.lanes

    def put(self, place: str, job: Job | None, undo: Undo | None = None) -> None:
        """The only way to change a job: keeps the indexes true, and notes how to go back."""
        old = self.jobs.get(place)
        if undo is not None:
            undo.jobs.append((place, old))
        queue = place.partition("~")[0]
        self.usage.change(queue.partition(".")[0], old, job)
        was, now = _standing(old), _standing(job)
        if was != now or (old is not None and job is not None and now is _PENDING and old.since != job.since):
            if was is _PENDING:
                self._ready[queue].remove()
            elif was is _RUNNING:
                self._stop_running(place, queue, old)
            if now is _PENDING and job is not None:
                line = self._ready.get(queue)
                if line is None:
                    line = self._ready[queue] = Ready()
                line.add(place, job)
            elif now is _RUNNING:
                self._start_running(place, queue, job)
        if job is not None and job.input.key != UNSEALED:
            self.seals = True
        self.jobs.put(place, job)
        self.deadlines.set(place, None if job is None else next_deadline(job))
        if was is not _ELSE and now is not _RUNNING and old is not None and old.concurrency_key is not None:
            line = self._ready.get(queue)
            if line is not None:
                line.free(of_key(old.concurrency_key), self.jobs)
        if (old is not None and old.unique_key) or (job is not None and job.unique_key):
            self._index_unique(place, queue, old, job)
        self.relations.put(place, queue, old, job)

    def _start_running(self, place: str, queue: str, job: Job | None) -> None:
        self.running.add(place)
        self._running_in[queue] = self._running_in.get(queue, 0) + 1
        if job is not None and job.concurrency_key is not None:
            key = (queue, job.concurrency_key)
            self._running_by_key[key] = self._running_by_key.get(key, 0) + 1

    def _stop_running(self, place: str, queue: str, job: Job | None) -> None:
        self.running.discard(place)
        self._running_in[queue] -= 1
        if job is not None and job.concurrency_key is not None:
            key = (queue, job.concurrency_key)
            self._running_by_key[key] -= 1
            if not self._running_by_key[key]:
                del self._running_by_key[key]

    def _index_unique(self, place: str, queue: str, old: Job | None, job: Job | None) -> None:
        if old is not None and old.unique_key:
            holders = self._unique.get((queue, old.unique_key), {})
            holders.pop(place, None)
            if not holders:
                self._unique.pop((queue, old.unique_key), None)
        if job is not None and job.unique_key and job.state not in TERMINAL:
            self._unique.setdefault((queue, job.unique_key), {})[place] = None

    def may_rest(self, place: str, job: Job) -> bool:
        """Whether nothing is owed to a job any more: it has ended, and its long history was told of."""
        if job.state not in TERMINAL:
            return False
        return job.records < bounds.HISTORY_LONG_RECORDS or self.long.get(place) == job.round

    def rearm(self, place: str) -> None:
        """Arms a job's next deadline, after an earlier one was met and is no longer true."""
        self.deadlines.set(place, next_deadline(self.jobs[place]))

    def evolve(self, record: Record, undo: Undo | None = None) -> None:
        """What a record's events change. The position is moved apart from it, by `advance`."""
        self.links.shards.touch(record, None if undo is None else undo.links)
        if record.kind == "job":
            place = address(record.tenant, record.key)
            self.put(place, evolve_record(self.jobs.get(place), record), undo)
            self._count(place, record.events, record, undo)
            if record.cause is not None and record.cause.startswith(OPERATION_CAUSE):
                by = f"{record.tenant}.{record.cause.removeprefix(OPERATION_CAUSE)}"
                self._put_operation(by, acted(self.operations[by], record.at), undo)
        elif record.kind == "queue":
            place = f"{record.tenant}.{record.key}"
            queue = self.queues.get(place)
            for event in record.events:
                queue = evolve_queue(queue, event)
            self._put_queue(place, queue, undo)
        elif record.kind == "schedule":
            place = f"{record.tenant}.{record.key}"
            schedule = self.schedules.get(place)
            for event in record.events:
                schedule = evolve_schedule(schedule, event, record)
            self._put_schedule(place, schedule, undo)
        elif record.kind == "operation":
            place = f"{record.tenant}.{record.key}"
            operation = self.operations.get(place)
            for event in record.events:
                operation = evolve_operation(operation, event, record.seq, record.at)
            self._put_operation(place, operation, undo)
        elif record.kind == "batch":
            place = f"{record.tenant}.{record.key}"
            batch = self.relations.batches.get(place)
            for event in record.events:
                batch = evolve_batch(batch, event)
            self._put_batch(place, batch, undo)
        elif record.kind == "prices":
            prices = self.prices.get(record.tenant)
            for event in record.events:
                prices = evolve_prices(prices, event)
            self._put_prices(record.tenant, prices, undo)
        elif record.kind == "principal" or isinstance(record.events[0], TenantCreated):
            self._evolve_access(record, undo)
        elif record.kind == "tenant" and record.key == QUOTAS_KEY:
            account = self.accounts.get(record.tenant)
            for event in record.events:
                account = self._evolve_account(account, event, record.at)
            self._keep(self.accounts, record.tenant, account, None if undo is None else undo.kept)
        elif record.kind == "tenant":
            tenant = self.tenants.get(record.tenant)
            for event in record.events:
                tenant = evolve_tenant(tenant, event)
            self._keep(self.tenants, record.tenant, tenant, None if undo is None else undo.kept)
        elif record.kind == "asset":
            place = f"{record.tenant}.{record.key}"
            asset = self.assets.get(place)
            for event in record.events:
                asset = evolve_asset(asset, event, record.at, record.actor)
            self._keep(self.assets, place, asset, None if undo is None else undo.kept)
        elif record.kind == "process":
            place = f"{record.tenant}.{record.key}"
            process = self.processes.get(place)
            for event in record.events:
                process = evolve_process(process, event, record.key, record.actor, record.at, record.seq)
            self._put_process(place, process, undo)
            self._watch(place, record, undo)
        elif record.kind == "gate":
            kept = None if undo is None else undo.kept
            self._keep(self.gates, f"{record.tenant}.{record.key}", evolve_gate(record.events[-1]), kept)
        elif record.kind == "link":
            self.links.evolve(record, None if undo is None else undo.links)
            for event in record.events:
                if isinstance(event, MessageAccepted):
                    self._adopt(event.content, record, undo)
        else:
            for event in record.events:
                self._evolve_other(event, record, undo)

    def extend(self, record: Record, events: tuple[Fact, ...], undo: Undo) -> None:
        """Further events for a job's record of this round that has been evolved already."""
        place = address(record.tenant, record.key)
        job: Job | None = self.jobs[place]
        for event in events:
            job = evolve(job, event, record)
        self.put(place, job, undo)
        self._count(place, events, record, undo)

    def _count(self, place: str, events: tuple[Fact, ...], record: Record, undo: Undo | None) -> None:
        """What a job's events do to its queue: turns and tokens are used up."""
        place_of_queue = place.partition("~")[0]
        queue = self.queues.get(place_of_queue)
        if record.tenant in self.accounts:
            self._charge(events, record, undo)
        if self.watches:
            self._observe(place, events, undo)
        for event in events:
            if isinstance(event, LeaseGranted):
                # Jobs without a fairness key take turns like those of one key: else they starve the others.
                fair = self.jobs[place].fairness_key or ""
                served = self._ready.setdefault(place_of_queue, Ready()).served
                if undo is not None:
                    undo.turns.append((place_of_queue, fair, served.get(fair, 0)))
                # A record of this round that is extended may be older than the key's newest turn.
                served[fair] = max(served.get(fair, 0), record.seq)
                if queue is not None and queue.policy.rate_per_s is not None:
                    queue = granted(queue, record.at)
                    self._put_queue(place_of_queue, queue, undo)
            elif isinstance(event, RetryScheduled) and queue is not None:
                queue = retried(queue, record.at)
                self._put_queue(place_of_queue, queue, undo)

    def _charge(self, events: tuple[Fact, ...], record: Record, undo: Undo | None) -> None:
        """What a job's events use up of its tenant's rate and budget."""
        account = known = self.accounts[record.tenant]
        for event in events:
            if isinstance(event, JobSubmitted):
                account = submitted(account, record.at)
            elif isinstance(event, UsageRecorded):
                account = spent(account, event.cost_microusd, record.at)
        if account is not known:
            self._keep(self.accounts, record.tenant, account, None if undo is None else undo.kept)

    def _evolve_account(self, account: Account | None, event: Fact, at: int) -> Account:
        return evolve_account(account, event, at, self.number, self.links.partitions)

    def _put_queue(self, place: str, queue: Queue | None, undo: Undo | None = None) -> None:
        old = self.queues.get(place)
        if undo is not None:
            undo.queues.append((place, old))
        if queue is None:
            self.queues.pop(place, None)
        else:
            self.queues[place] = queue
        line = self._ready.get(place)
        if line is not None and (queue or BUILT_IN).policy is not (old or BUILT_IN).policy:
            line.free_all()

    def _put_schedule(self, place: str, schedule: Schedule | None, undo: Undo | None = None) -> None:
        if undo is not None:
            undo.schedules.append((place, self.schedules.get(place)))
        if schedule is None:
            self.schedules.pop(place, None)
            self.schedule_deadlines.set(place, None)
        else:
            self.schedules[place] = schedule
            self.rearm_schedule(place)

    def rearm_schedule(self, place: str) -> None:
        """Arms a schedule's next due time."""
        self.schedule_deadlines.set(place, next_due(self.schedules[place]))

    def _put_operation(self, place: str, operation: Operation | None, undo: Undo | None = None) -> None:
        if undo is not None:
            undo.operations.append((place, self.operations.get(place)))
        if operation is None:
            self.operations.pop(place, None)
        else:
            self.operations[place] = operation

    def _put_batch(self, place: str, batch: Batch | None, undo: Undo | None = None) -> None:
        if undo is not None:
            undo.batches.append((place, self.relations.batches.get(place)))
        if batch is None:
            self.relations.batches.pop(place, None)
        else:
            self.relations.batches[place] = batch

    def _put_prices(self, tenant: str, prices: Prices | None, undo: Undo | None = None) -> None:
        if undo is not None:
            undo.prices.append((tenant, self.prices.get(tenant)))
        if prices is None:
            self.prices.pop(tenant, None)
        else:
            self.prices[tenant] = prices

    def _put_process(self, place: str, process: Process | None, undo: Undo | None = None) -> None:
        if undo is not None:
            undo.processes.append((place, self.processes.get(place)))
        if process is None:
            self.processes.pop(place, None)
        else:
            self.processes[place] = process
        tenant, _, name = place.partition(".")
        for queue, line in self._ready.items():
            if queue.startswith(f"{tenant}."):
                line.free_all(of_process(name))

    def _adopt(self, content: Content, record: Record, undo: Undo | None) -> None:
        """Takes what another partition tells of a tenant."""
        match content:
            case PricesTold(tenant=tenant, version=version, table=table):
                self._put_prices(tenant, adopted(self.prices.get(tenant), table, version), undo)
            case FleetTold(tenant=tenant, version=version, drained=drained):
                self._keep(self.fleets, tenant, Fleet(version, drained), None if undo is None else undo.kept)
            case PolicyTold(tenant=tenant, version=version, policy=policy):
                self._keep(self.tenants, tenant, Tenant(version, policy), None if undo is None else undo.kept)
            case QuotasTold(tenant=tenant, version=version, quotas=quotas):
                event = QuotasSet(version, quotas)
                account = self._evolve_account(self.accounts.get(tenant), event, record.at)
                self._keep(self.accounts, tenant, account, None if undo is None else undo.kept)
            case TenantHosted(tenant=tenant, owner=owner):
                self._put_access(self.governed, tenant, record.seq, undo)
                self._put_access(self.hosted, tenant, owner, undo)
                if address(tenant, owner.name) not in self.principals:
                    self._put_access(self.principals, address(tenant, owner.name), owner, undo)
            case PrincipalTold(tenant=tenant, principal=principal):
                self._put_access(self.principals, address(tenant, principal.name), principal, undo)
            case ProcessTold(tenant=tenant, process=process):
                self._put_process(f"{tenant}.{process.name}", process, undo)
                self._watch(f"{tenant}.{process.name}", record, undo)
            case CanaryTold(tenant=tenant, found=found):
                place = f"{tenant}.{found.process}~{found.scope}~{found.partition}"
                self._keep(self.findings, place, found, None if undo is None else undo.kept)
            case _:
                pass  # of a job

    def _watch(self, place: str, record: Record, undo: Undo | None) -> None:
        """A process has changed: what is compared in its canaries goes on where it is as it was."""
        kept = None if undo is None else undo.kept
        process = self.processes[place]
        judged = {f"{place}~{scope}": canary for scope, canary in judged_by_results(process).items()}
        for where in [w for w in self.watches if w.startswith(f"{place}~") and w not in judged]:
            self._keep(self.watches, where, None, kept)
        for where, canary in judged.items():
            known = self.watches.get(where)
            if known is None or known.revision != process.revision(canary):
                since = fencing_token(record.epoch, record.seq)
                self._keep(self.watches, where, begun(process, canary, since, self.links.partitions), kept)
        for where in [w for w in self.findings if w.startswith(f"{place}~")]:
            watch = self.watches.get(where.rpartition("~")[0])
            if watch is None or watch.revision != self.findings[where].revision:
                self._keep(self.findings, where, None, kept)

    def _observe(self, place: str, events: tuple[Fact, ...], undo: Undo | None) -> None:
        """What a job's events say of a canary."""
        job = self.jobs[place]
        process = self.process_of(job)
        canary = None if process is None else process.canary(job.queue)
        if process is None or canary is None:
            return
        where = f"{job.tenant}.{process.name}~{canary.scope}"
        watch = self.watches.get(where)
        now = None if watch is None else observed(watch, process, canary, job, events)
        if now is not watch:
            self._keep(self.watches, where, now, None if undo is None else undo.kept)

    def _put_long(self, place: str, told: int | None, undo: Undo | None = None) -> None:
        if undo is not None:
            undo.long.append((place, self.long.get(place)))
        if told is None:
            self.long.pop(place, None)
        else:
            self.long[place] = told

    def _evolve_other(self, event: Fact, record: Record, undo: Undo | None) -> None:
        kept = None if undo is None else undo.kept
        match event:
            case LeasesRenewed(leases=leases):
                for lease in leases:
                    place = address(record.tenant, lease.key)
                    job = self.jobs.get(place)
                    if job is None or job.lease is None or job.lease.token != lease.token:
                        raise IllegalTransition(lease.key, None if job is None else job.state, LeasesRenewed)
                    self.put(place, renewed(job, record.at), undo)
            case LeaderElected(leader=leader, records=version):
                self.leader = leader
                self._raise(version, record, kept)
                self._give_time_back(record, undo)
            case TimeResumed():
                self._give_time_back(record, undo)
            case RecordsRaised(version=version):
                self._raise(version, record, kept)
            case PartitionOpened():
                self.links.open(event)
                for tenant, account in list(self.accounts.items()):  # a share of what it was is ours now
                    quotas = QuotasSet(account.version, account.quotas)
                    shared = self._evolve_account(account, quotas, record.at)
                    self._keep(
                        self.accounts, tenant, replace(shared, told_percent=account.told_percent), kept
                    )
            case ContentErased():
                self._keep(self.erased, record.key, record.seq, kept)
            case HoldPlaced() as hold:
                self._keep(self.holds, address(record.tenant, record.key), hold, kept)
            case HoldLifted():
                self._keep(self.holds, address(record.tenant, record.key), None, kept)
            case WorkerDrained() | WorkerUndrained():
                fleet = evolve_fleet(self.fleets.get(record.tenant), event, record.key)
                self._keep(self.fleets, record.tenant, fleet, kept)
            case HistoryLong():
                place = address(record.tenant, record.key)
                self._put_long(place, self.jobs[place].round, undo)
            case _:
                pass  # refusals and barriers change no state: they are the audit's

    def _raise(self, version: int, record: Record, kept: list[Change] | None) -> None:
        if version not in self.raised:
            self._keep(self.raised, version, record.seq, kept)

    def _evolve_access(self, record: Record, undo: Undo | None) -> None:
        if isinstance(record.events[0], TenantCreated):
            self._put_access(self.governed, record.key, record.seq, undo)
            return
        place = address(record.tenant, record.key)
        known = principal = self.principals.get(place)
        for event in record.events:
            principal = evolve_principal(principal, event, record.tenant, record.key, record.actor, record.at)
        if principal is not known:
            self._put_access(self.principals, place, principal, undo)
            self._keep(self.access_at, place, record.at, None if undo is None else undo.access)
        if record.cause == HOSTED and principal is not None:
            self._put_access(self.hosted, record.tenant, principal, undo)

    def _put_access(self, where: dict[str, Any], key: str, value: Any, undo: Undo | None) -> None:
        self._keep(where, key, value, None if undo is None else undo.access)
        self.access_changes += 1

    @staticmethod
    def _keep(where: dict[Any, Any], key: Any, value: Any, changes: list[Change] | None) -> None:
        """Puts a value in its place; None takes it away."""
        if changes is not None:
            changes.append((where, key, where.get(key)))
        if value is None:
            where.pop(key, None)
        else:
            where[key] = value

    def _give_time_back(self, record: Record, undo: Undo | None) -> None:
        for place in sorted(self.running):
            self.put(place, regranted(self.jobs[place], record.at, record.epoch), undo)

    def advance(self, record: Record, body_digest: str) -> None:
        """Moves the position behind a stored record."""
        self.seq = record.seq
        self.prev = body_digest
        self.at = record.at
        if record.source is not None:
            self.sources[record.tenant] = record.source
            self.source = max(self.source, record.source)

    def apply(self, record: Record, body: bytes) -> None:
        """One stored record, as recovery and replay read it."""
        self.evolve(record)
        self.advance(record, digest(body))

    def revert(self, undo: Undo) -> None:
        """Takes changes back, newest first."""
        for place, job in reversed(undo.jobs):
            self.put(place, job)
        for place, queue in reversed(undo.queues):
            self._put_queue(place, queue)
        for place, batch in reversed(undo.batches):
            self._put_batch(place, batch)
        for place, schedule in reversed(undo.schedules):
            self._put_schedule(place, schedule)
        for place, operation in reversed(undo.operations):
            self._put_operation(place, operation)
        for place, told in reversed(undo.long):
            self._put_long(place, told)
        for place, process in reversed(undo.processes):
            self._put_process(place, process)
        for tenant, prices in reversed(undo.prices):
            self._put_prices(tenant, prices)
        self.links.revert(undo.links)
        for where, key, old in reversed(undo.kept):
            self._keep(where, key, old, None)
        for where, key, old in reversed(undo.access):
            self._put_access(where, key, old, None)
        for place, fair, seq in reversed(undo.turns):
            served = self._ready[place].served
            if seq:
                served[fair] = seq
            else:
                served.pop(fair, None)
