"""The checker's own fold of a log: what the records say happened, and whether it may have.

It shares with the shipped code the decoder of records and nothing that decides or evolves. Every rule here is
one of DESIGN's invariants in terms of what is stored: this file has those of the log itself and of what
does not belong to one job; `jobs` has those of single jobs, `lines` those of queues, `bonds` those of jobs
that belong together, `timetable` those of schedules and `operations` those of operations.

Records that were decided together have one log time. What a round owes (whatever was due, consequences, an
order) is looked at when its records are complete: with the first record of a later time.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any, Final, NoReturn

import msgspec

from writ.broker.ports import Stored
from writ.schemas import events as e
from writ.schemas.codec import CodecError, decode
from writ.schemas.fleet import WorkerDrained, WorkerUndrained
from writ.schemas.gates import GATE_EVENTS
from writ.schemas.ids import derived_job_id
from writ.schemas.links import FleetTold, MessageAccepted, PartitionOpened
from writ.schemas.prices import PriceSet
from writ.schemas.principals import PRINCIPAL_EVENTS
from writ.schemas.processes import PROCESS_EVENTS
from writ.schemas.records import Record, Source
from writ.schemas.schedules import SCHEDULE_EVENTS
from writ.schemas.tenants import TenantDeclared

from .bonds import Bonds
from .jobs import JobRules
from .lines import Lines
from .mail import Mail
from .operations import Operations
from .tally import TERMINAL, Tally, Wrong, need, us
from .timetable import Timetable

_SYSTEM_ONLY: Final = (e.LeaderElected, e.TimeResumed, e.Barrier)


_WAYS: Final[dict[type[e.Fact], str]] = {e.JobSuspended: "waits", e.JobDeadLettered: "dead"}


class Fold:
    """One partition's log, record by record. `seq`, `at` and `digest` are the newest record's."""

    def __init__(self, partition: int, epoch: int, intake: list[Stored]) -> None:
        self.partition = partition
        self.epoch = epoch
        self.seq = 0
        self.at = 0
        self.digest = "0" * 64
        self.source = Source(0, 0, 0)
        self.leader: str | None = None
        self.jobs: dict[str, Tally] = {}
        self.refused: dict[tuple[int, int], int] = {}
        """Intake sequence and index (-1 for all of it) to the record that refuses it."""
        self.folded = 0
        self.mail = Mail(partition, self.jobs)
        self.touched: dict[str, None] = {}
        self.operated: dict[tuple[str, str], int] = {}
        """Verb and key of the newest record that a command caused, to its sequence."""
        self.edges: Counter[tuple[str | None, str]] = Counter()
        self.ways: Counter[str] = Counter()
        """How often each event apart from a job's came, and each reason of a wait, an end or a refusal."""
        self.decided_us = 0
        self.bonds = Bonds(self.jobs, self.mail)
        self.lines = Lines(self.jobs)
        self.timetable = Timetable(self.jobs, self.lines)
        self.operations = Operations(self.jobs)
        self.rules = JobRules(self)
        self._intake = intake
        self._elements: dict[int, list[dict[str, Any]]] = {}
        self._group_fires = False
        """Whether the newest records are of a round that does what is due, and not only of the log itself."""

    def take(self, stored: Stored, decided_us: int) -> None:
        """The next record. Raises Wrong; `decided_us` is the true time at which its leader decided it."""
        try:
            record = decode(stored.body)
        except CodecError as error:
            raise Wrong(f"record {stored.seq} cannot be read: {error}") from error
        self.decided_us = decided_us
        try:
            self._follows(stored, record)
            if record.kind == "job":
                self._job(record)
            elif record.kind == "link":
                self.mail.take(record)
                for event in record.events:
                    if isinstance(event, MessageAccepted) and isinstance(event.content, FleetTold):
                        self.lines.drained = set(event.content.drained)
                self.ways.update(type(event).__name__ for event in record.events)
            else:
                for event in record.events:
                    self._other(event, record)
        except Wrong as wrong:
            names = "+".join(type(event).__name__ for event in record.events)
            raise Wrong(f"record {record.seq} ({record.key}: {names}): {wrong}") from None

    def _follows(self, stored: Stored, record: Record) -> None:
        need(record.seq == stored.seq == self.seq + 1, f"says sequence {record.seq}")
        need(record.epoch == self.epoch, f"says epoch {record.epoch}")
        need(record.prev == self.digest, "the chain is broken")
        need(record.at >= self.at, f"log time went back from {self.at} to {record.at}")
        need(record.actor and record.cause, "names no actor or no cause")
        subject = f"writ.log.{self.partition}.{record.tenant}.{record.kind}.{record.key}"
        need(stored.subject == subject, f"stands under {stored.subject}")
        need(record.events, "holds no event")
        self._group(record)
        if record.source is not None:
            new = (record.source.epoch, record.source.seq, record.source.index)
            old = (self.source.epoch, self.source.seq, self.source.index)
            # What of a message is refused for the sake of others stands behind what is accepted of it.
            same = new == old and isinstance(record.events[0], e.CommandRejected)
            need(new > old or same, f"the intake position went from {old} to {new}")
            self.source = record.source
        self.seq, self.at = record.seq, record.at
        self.digest = hashlib.sha256(stored.body).hexdigest()
        self.operated[record.cause or "", f"{record.tenant}.{record.key}"] = record.seq

    def _group(self, record: Record) -> None:
        """Looks at the records before, where this one begins another round."""
        elected = isinstance(record.events[0], e.LeaderElected)
        if record.at == self.at and not elected:
            self._group_fires = self._group_fires or not isinstance(record.events[0], _SYSTEM_ONLY)
            return
        # What a leader could store only in part is for the next leader to go on with.
        if self._group_fires and not elected:
            for job in self.jobs.values():
                late = job.overdue(self.at)
                need(late is None, f"{job.key} was passed over: {late}, {self.at} us")
            self.timetable.close(self.at)
            self.bonds.close()
            self.mail.close()
            self.lines.close()
        self.lines.open(record.seq)
        self._group_fires = not isinstance(record.events[0], _SYSTEM_ONLY)

    # --- jobs ---------------------------------------------------------------------------------------------

    def _job(self, record: Record) -> None:
        key = f"{record.tenant}.{record.key}"
        self.touched[key] = None
        job = self.jobs.get(key)
        ended, since = False, 0 if job is None else job.since
        dropped = job is not None and job.dropped is not None
        for event in record.events:
            kind = type(event)
            need(not ended, f"{kind.__name__} follows a terminal event in one record")
            if isinstance(event, e.JobSuspended | e.JobDeadLettered):
                self.ways[f"{_WAYS[kind]} {event.reason}"] += 1
            self.edges[None if job is None else job.state, kind.__name__] += 1
            if isinstance(event, e.JobSubmitted):
                need(job is None, "the job was submitted before")
                job = self._submitted(key, event, record)
                continue
            if job is None:
                raise Wrong("there is no such job")
            self.rules.take(job, event, record)
            ended = job.state in TERMINAL
        assert job is not None
        need(not job.owes, f"{job.owes}, without a consequence")
        later = job.wait is not None and job.wait.reason == "dependency"
        need(job.asks is None or later or not job.live, "the approval was not asked for")
        if not job.records:
            self.bonds.submitted(job)
        self.operations.acted(job, since, dropped, record)
        job.records += 1

    def _submitted(self, key: str, event: e.JobSubmitted, record: Record) -> Tally:
        self.lines.submits(key.partition("~")[0], event, self.bonds, record)
        job = self.jobs[key] = Tally(key, record, event)
        if record.source is None:
            self.timetable.born(job)
            return job
        element = self.element(record.source)
        named = element.get("id") or derived_job_id(
            record.source.epoch, record.source.seq, record.source.index
        )
        need(key.partition("~")[2] == named, f"its submit names the job {named}")
        need(event.schedule is None, "a submit cannot speak for a schedule")
        policy = self.lines.at(job.queue).policy
        asked = element.get("retry")
        retry = policy.retry if asked is None else msgspec.convert(asked, type(policy.retry))
        need(event.retry == retry, f"another retry policy than {asked or 'its queue has'}")
        for field in ("lease_s", "attempt_timeout_s", "job_timeout_s", "expires_in_s"):
            want = element.get(field, getattr(policy.limits, field))
            need(getattr(event.limits, field) == want, f"{field} is not {want}")
        for field, otherwise in _AS_SUBMITTED.items():
            want = element.get(field, otherwise)
            have: Any = getattr(event, field)
            need((list(event.after) if field == "after" else have) == want, f"{field} is not {want}")
        need(event.priority == element.get("priority", policy.priority), "another priority")
        delay_s = element.get("delay_s")
        need(event.due_at == (record.at + us(delay_s) if delay_s else None), f"not due after {delay_s} s")
        job.asks = element.get("approval")
        return job

    def element(self, source: Source) -> dict[str, Any]:
        """What was submitted there."""
        if source.seq not in self._elements:
            body = next((stored.body for stored in self._intake if stored.seq == source.seq), None)
            need(body is not None, f"submit {source.seq} does not exist")
            self._elements[source.seq] = elements(body or b"")
        found = self._elements[source.seq]
        return found[source.index] if source.index < len(found) else _wrong(f"submit {source} does not exist")

    # --- others -------------------------------------------------------------------------------------------

    def _other(self, event: e.Fact, record: Record) -> None:
        self.ways[type(event).__name__] += 1
        match event:
            case e.LeasesRenewed(leases=leases):
                for lease in leases:
                    job = self.jobs.get(f"{record.tenant}.{lease.key}")
                    need(job is not None and job.token == lease.token, f"renews void token {lease.token}")
                    assert job is not None
                    self.rules.renewed(job, record)
                    self.touched[job.key] = None
            case e.LeaderElected(leader=leader, previous=previous):
                need(previous == self.leader, f"follows leader {previous}, but {self.leader} led")
                self.leader = leader
                self._give_time_back(record)
            case e.TimeResumed():
                self._give_time_back(record)
            case e.CommandRejected(verb="submit", refused=refused, count=count, queue=queue):
                self._refused(record, refused, count, f"{record.tenant}.{queue}")
            case e.RejectionsFolded(count=count):
                self.folded += count
            case e.QueueDeclared() | e.QueuePaused() | e.QueueDraining() | e.QueueResumed():
                self.lines.change(event, record)
            case e.BatchSealed() | e.BatchEnded():
                self.bonds.batch(event, record)
            case e.OperationPlanned() | e.OperationEnded():
                self.operations.change(event, record)
            case e.CommandRejected() | e.ReportRejected() | e.Barrier() | PartitionOpened():
                pass
            case PriceSet() | TenantDeclared():
                pass
            case e.WorkerSeen():
                pass  # what machine it is decides nothing
            case WorkerDrained() | WorkerUndrained():
                self.lines.drains(event, record)
            case _ if isinstance(event, PRINCIPAL_EVENTS):
                pass  # nobody is governed in a simulated history
            case _ if isinstance(event, (*PROCESS_EVENTS, *GATE_EVENTS)):
                pass  # no job of a simulated history names a release
            case _ if isinstance(event, SCHEDULE_EVENTS):
                self.timetable.change(event, record)
            case _:
                _wrong(f"{type(event).__name__} is not known to the checker")

    def _refused(self, record: Record, refused: tuple[Any, ...], count: int, queue: str) -> None:
        source = record.source
        if source is None:
            raise Wrong("a refused submit without its place")
        need(len(refused) == count, "not all refusals are named")
        for rejection in refused:
            index = -1 if rejection.index is None else rejection.index
            place = source.seq, index
            need(rejection.reason, "names no reason")
            self.ways[f"refused {rejection.kind}"] += 1
            need(place not in self.refused, f"submit {place} was refused before")
            self.refused[place] = record.seq
            element = self.element(Source(source.epoch, source.seq, max(0, index)))
            if "bad" not in element:
                holds = self.lines.refuses(queue, element, rejection.kind, self.bonds, record.tenant)
                need(holds, f"submit {place} was refused for no reason: {rejection.reason}")

    def _give_time_back(self, record: Record) -> None:
        for job in self.jobs.values():
            if job.token:
                job.expires_at = max(job.expires_at, record.at + us(job.limits.lease_s))
                job.base_us = self.decided_us
                self.touched[job.key] = None


_AS_SUBMITTED: Final[dict[str, Any]] = {
    "task": None,
    "fairness_key": None,
    "concurrency_key": None,
    "unique_key": None,
    "after": [],
    "on_dead": "dead_letter",
    "input_from": {},
    "parent": None,
    "on_parent_end": "cancel",
    "batch": None,
    "requires": {},
}
"""What of a submit is stored as it is, and what stands for what is left out."""


def _wrong(why: str) -> NoReturn:
    raise Wrong(why)


def elements(body: bytes) -> list[dict[str, Any]]:
    """The elements of a submit message; one that says `bad` where it cannot be read."""
    many = body if body.startswith(b"[") else b"[%s]" % body
    try:
        return msgspec.json.decode(many, type=list[dict[str, Any]])
    except msgspec.MsgspecError:
        return [{"bad": True}]
