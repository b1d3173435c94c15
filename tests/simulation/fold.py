"""The checker's own fold of a log: what the records say happened, and whether it may have.

It shares with the shipped code the decoder of records and nothing that decides or evolves. Every rule here is
one of DESIGN's invariants in terms of what is stored.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, NoReturn

import msgspec

from writ.broker.ports import Stored
from writ.schemas import events as e
from writ.schemas.codec import CodecError, decode
from writ.schemas.links import PartitionOpened
from writ.schemas.policy import Limits, Retry
from writ.schemas.records import Record, Source

from .loop import SECOND_US
from .mail import Mail, Wrong

TERMINAL: Final = frozenset({"completed", "cancelled", "dead"})
SYSTEM: Final = "writ:orchestrator"
_NEVER: Final = frozenset({"policy", "poison", "cancelled"})
_TOKEN_BITS: Final = 40
_LATE_US: Final = 3 * SECOND_US


class Tally:
    """One job as the checker sees it. Times are log time in microseconds, `base_us` is true time."""

    __slots__ = (
        "attempt", "base_us", "cancel", "dead", "due_at", "ended_by", "error", "expires_at", "failures",
        "granted_at", "key", "last_token", "limits", "losses", "output", "owes", "principal", "priority",
        "reason", "records", "retry", "round", "round_at", "round_due", "since", "source", "started",
        "state", "task", "token", "worker",
    )  # fmt: skip

    def __init__(self, key: str, record: Record, event: e.JobSubmitted) -> None:
        due_at = record.at if event.due_at is None else event.due_at
        self.key = key
        self.task = event.task
        self.retry: Retry = event.retry
        self.limits: Limits = event.limits
        self.priority = event.priority
        self.state = "scheduled" if due_at > record.at else "pending"
        self.due_at = self.round_due = due_at
        self.round_at = record.at
        self.since = record.seq
        self.source = record.source
        self.round = 1
        self.attempt = self.failures = self.losses = self.records = 0
        self.token = self.last_token = 0
        self.worker = self.principal = ""
        self.granted_at = self.expires_at = self.base_us = 0
        self.started = False
        self.owes = ""
        """What the record at hand must still say the consequence of: failed, lost, cancel, or nothing."""
        self.cancel: str | None = None
        self.error: Any = None
        self.output: bytes | None = None
        self.dead: str | None = None
        self.reason: str | None = None
        self.ended_by = 0

    @property
    def deadline(self) -> int:
        return self.round_due + _us(self.limits.job_timeout_s)


def _us(seconds: float) -> int:
    return round(seconds * SECOND_US)


def _need(holds: object, why: str) -> None:
    if not holds:
        raise Wrong(why)


class Fold:
    """One partition's log, record by record. `seq`, `at` and `digest` are the newest record's."""

    def __init__(self, partition: int, epoch: int) -> None:
        self.partition = partition
        self.epoch = epoch
        self.seq = 0
        self.at = 0
        self.digest = "0" * 64
        self.source = Source(0, 0, 0)
        self.leader: str | None = None
        self.jobs: dict[str, Tally] = {}
        self.granted: dict[int, tuple[str, str, str]] = {}
        """Token to job, worker and principal."""
        self.ended: dict[int, tuple[str, int]] = {}
        """Token to how its lease ended, and in which record."""
        self.renewed: dict[int, int] = {}
        self.started: set[int] = set()
        self.redriven: dict[str, int] = {}
        self.refused: dict[tuple[int, int], int] = {}
        """Intake sequence and index (-1 for all of it) to the record that refuses it."""
        self.folded = 0
        self.mail = Mail(partition)
        self.touched: dict[str, None] = {}
        self.edges: Counter[tuple[str | None, str]] = Counter()
        self.lost_leases: list[tuple[Tally, int]] = []
        """Jobs whose lease expired in the record at hand, with the true time the lease counted from."""
        self._job_rules: dict[type[e.Fact], Callable[[Tally, Any, Record], None]] = {
            e.JobDue: self._due,
            e.LeaseGranted: self._granted,
            e.AttemptStarted: self._started,
            e.AttemptFailed: self._failed,
            e.LeaseExpired: self._expired,
            e.LeaseReleased: self._released,
            e.RetryScheduled: self._retry,
            e.CancelRequested: self._cancel_requested,
            e.JobCompleted: self._completed,
            e.JobCancelled: self._cancelled,
            e.JobDeadLettered: self._dead_lettered,
            e.JobRedriven: self._redriven,
        }
        self._decided_us = 0

    def take(self, stored: Stored, decided_us: int) -> None:
        """The next record. Raises Wrong; `decided_us` is the true time at which its leader decided it."""
        try:
            record = decode(stored.body)
        except CodecError as error:
            raise Wrong(f"record {stored.seq} cannot be read: {error}") from error
        self._decided_us = decided_us
        try:
            self._follows(stored, record)
            if record.kind == "job":
                self._job(record)
            elif record.kind == "link":
                self.mail.take(record)
            else:
                for event in record.events:
                    self._other(event, record)
            self._none_outlived(record)
        except Wrong as wrong:
            names = "+".join(type(event).__name__ for event in record.events)
            raise Wrong(f"record {record.seq} ({record.key}: {names}): {wrong}") from None

    def _follows(self, stored: Stored, record: Record) -> None:
        _need(record.seq == stored.seq == self.seq + 1, f"says sequence {record.seq}")
        _need(record.epoch == self.epoch, f"says epoch {record.epoch}")
        _need(record.prev == self.digest, "the chain is broken")
        _need(record.at >= self.at, f"log time went back from {self.at} to {record.at}")
        _need(record.actor and record.cause, "names no actor or no cause")
        subject = f"writ.log.{self.partition}.{record.tenant}.{record.kind}.{record.key}"
        _need(stored.subject == subject, f"stands under {stored.subject}")
        _need(record.events, "holds no event")
        if record.source is not None:
            new = (record.source.epoch, record.source.seq, record.source.index)
            old = (self.source.epoch, self.source.seq, self.source.index)
            _need(new > old, f"the intake position went from {old} to {new}")
            self.source = record.source
        self.seq, self.at = record.seq, record.at
        self.digest = hashlib.sha256(stored.body).hexdigest()

    def _none_outlived(self, record: Record) -> None:
        """A leader that leads ends leases when they are over."""
        for job in self.jobs.values():
            if job.token and job.expires_at + _LATE_US < record.at:
                raise Wrong(f"{job.key} still holds a lease that ended {record.at - job.expires_at} us ago")

    # --- jobs ---------------------------------------------------------------------------------------------

    def _job(self, record: Record) -> None:
        key = f"{record.tenant}.{record.key}"
        self.touched[key] = None
        job = self.jobs.get(key)
        ended = False
        for event in record.events:
            kind = type(event)
            _need(not ended, f"{kind.__name__} follows a terminal event in one record")
            self.edges[None if job is None else job.state, kind.__name__] += 1
            if isinstance(event, e.JobSubmitted):
                _need(job is None, "the job was submitted before")
                _need(record.source is not None, "names no submit")
                job = self.jobs[key] = Tally(key, record, event)
                continue
            if job is None:
                raise Wrong("there is no such job")
            if job.state in TERMINAL:
                _need(kind is e.JobRedriven, f"{kind.__name__} after the job was {job.state}")
            rule = self._job_rules.get(kind)
            if rule is None:
                raise Wrong(f"{kind.__name__} is no event of a job")
            rule(job, event, record)
            ended = job.state in TERMINAL
        assert job is not None
        _need(not job.owes, f"{job.owes}, without a consequence")
        job.records += 1

    def _due(self, job: Tally, event: e.JobDue, record: Record) -> None:
        _need(job.state in ("scheduled", "retrying"), f"due while {job.state}")
        _need(record.at >= job.due_at, f"due {job.due_at - record.at} us too early")
        job.state, job.since = "pending", record.seq

    def _granted(self, job: Tally, event: e.LeaseGranted, record: Record) -> None:
        _need(not job.token, f"a second lease beside {job.token}")
        _need(job.state == "pending", f"a lease while {job.state}")
        _need(job.cancel is None, "a lease after cancel was accepted")
        _need(event.attempt == job.attempt + 1, f"attempt {event.attempt} after {job.attempt}")
        most = job.retry.max_attempts
        _need(not most or job.failures < most, f"attempt after {job.failures} failures of {most}")
        _need(job.losses < job.retry.max_lease_losses, f"attempt after {job.losses} lost leases")
        job.attempt = event.attempt
        job.token = job.last_token = (record.epoch << _TOKEN_BITS) + record.seq
        job.worker, job.principal = event.worker, event.principal or record.actor
        job.granted_at = record.at
        job.expires_at = record.at + _us(job.limits.lease_s)
        job.base_us = self._decided_us
        job.started = False
        job.state, job.since = "running", record.seq
        self.granted[job.token] = job.key, job.worker, job.principal

    def _holds(self, job: Tally, token: int, attempt: int) -> None:
        _need(job.token and token == job.token, f"token {token} is not the live lease {job.token}")
        _need(attempt == job.attempt, f"attempt {attempt} is not the running one {job.attempt}")

    def _by_holder(self, job: Tally, record: Record) -> None:
        _need(record.actor == job.principal, f"by {record.actor}, but {job.principal} holds the lease")

    def _free(self, job: Tally, how: str, record: Record) -> None:
        self.ended[job.token] = how, record.seq
        job.token = job.expires_at = 0
        job.since = record.seq

    def _started(self, job: Tally, event: e.AttemptStarted, record: Record) -> None:
        self._holds(job, event.token, event.attempt)
        self._by_holder(job, record)
        _need(not job.started, "started twice")
        job.started = True
        self.started.add(event.token)

    def _completed(self, job: Tally, event: e.JobCompleted, record: Record) -> None:
        self._holds(job, event.token, event.attempt)
        self._by_holder(job, record)
        job.output = None if event.output is None else bytes(event.output.plain)
        self._free(job, "complete", record)
        self._end(job, "completed", record)

    def _failed(self, job: Tally, event: e.AttemptFailed, record: Record) -> None:
        self._holds(job, event.token, event.attempt)
        if record.actor == SYSTEM:
            _need(event.error.class_ == "timeout", f"the system failed it with class {event.error.class_}")
            over = job.granted_at + _us(job.limits.attempt_timeout_s) <= record.at
            _need(over or job.deadline <= record.at, "timed out too early")
        else:
            self._by_holder(job, record)
        job.error = event.error
        job.failures += 1
        self._free(job, "fail", record)
        job.state, job.owes = "retrying", "failed"

    def _expired(self, job: Tally, event: e.LeaseExpired, record: Record) -> None:
        self._holds(job, event.token, event.attempt)
        _need(record.actor == SYSTEM, f"expired by {record.actor}")
        _need(job.expires_at <= record.at, f"expired {job.expires_at - record.at} us too early")
        _need(event.expires_at == job.expires_at, f"says it lived until {event.expires_at}")
        job.losses += 1
        _need(event.losses == job.losses, f"says {event.losses} losses, there were {job.losses}")
        _need(event.max_lease_losses == job.retry.max_lease_losses, "names another cap")
        self.lost_leases.append((job, job.base_us))
        self._free(job, "expire", record)
        over = job.losses >= job.retry.max_lease_losses or job.cancel is not None
        job.state, job.owes = "pending", "lost" if over else ""

    def _released(self, job: Tally, event: e.LeaseReleased, record: Record) -> None:
        self._holds(job, event.token, event.attempt)
        self._by_holder(job, record)
        self._free(job, "release", record)
        job.state, job.owes = "pending", "" if job.cancel is None else "lost"

    def _retry(self, job: Tally, event: e.RetryScheduled, record: Record) -> None:
        policy, error = job.retry, job.error
        _need(job.owes == "failed", f"a retry while {job.state}")
        _need(job.cancel is None, "a retry after cancel was accepted")
        _need(error.class_ not in _NEVER, f"class {error.class_} is never retried")
        _need(error.type not in policy.non_retryable_types, f"type {error.type} is not to be retried")
        _need(event.failures == job.failures, f"counts {event.failures} failures, there were {job.failures}")
        most = policy.max_attempts
        _need(event.max_attempts == most, "names another maximum")
        _need(not most or job.failures < most, f"a retry after {job.failures} failures of {most}")
        _need(event.rule, "names no rule")
        base = min(policy.initial_interval_s * policy.backoff ** (job.failures - 1), policy.max_interval_s)
        _need(abs(event.base_s - base) < 1e-9, f"backoff {event.base_s}, should be {base}")
        _need(event.jitter == policy.jitter and 0 <= event.seed <= 1, "another jitter or no seed")
        delay = base * (1 + policy.jitter * (2 * event.seed - 1))
        if event.retry_after_s is not None:
            delay = max(delay, event.retry_after_s)
        _need(abs(event.due_at - record.at - _us(delay)) <= 1, f"due after {event.due_at - record.at} us")
        job.due_at = event.due_at
        job.owes = ""

    def _cancel_requested(self, job: Tally, event: e.CancelRequested, record: Record) -> None:
        _need(record.actor != SYSTEM, "nobody asked for it")
        job.cancel = event.reason
        if not job.token:
            job.owes = "cancel"

    def _cancelled(self, job: Tally, event: e.JobCancelled, record: Record) -> None:
        _need(not job.token, "cancelled beside a live lease")
        _need(event.reason, "names no reason")
        asked = job.cancel is not None
        said = job.owes == "failed" and job.error.class_ == "cancelled"
        _need(asked or said, "nobody asked to cancel it")
        job.reason = event.reason
        self._end(job, "cancelled", record)

    def _dead_lettered(self, job: Tally, event: e.JobDeadLettered, record: Record) -> None:
        _need(not job.token, "dead beside a live lease")
        _need(event.rule, "names no rule")
        _need(job.cancel is None, "dead though cancel was accepted")
        why, policy, failed = event.reason, job.retry, job.owes == "failed"
        held: dict[str, object] = {
            "exhausted": failed and policy.max_attempts and job.failures >= policy.max_attempts,
            "non_retryable": failed and job.error.type in policy.non_retryable_types,
            "policy": failed and job.error.class_ == "policy",
            "poison": (failed and job.error.class_ == "poison")
            or (job.owes == "lost" and job.losses >= policy.max_lease_losses),
            "expired": not job.attempt
            and job.limits.expires_in_s is not None
            and job.round_at + _us(job.limits.expires_in_s) <= record.at,
            "job_timeout": job.deadline <= record.at,
            "history_limit": job.records >= 50_000,
        }
        _need(held.get(why), f"reason {why} does not hold")
        job.dead, job.reason = str(why), event.rule
        self._end(job, "dead", record)

    def _end(self, job: Tally, state: str, record: Record) -> None:
        job.state, job.since, job.ended_by, job.owes = state, record.seq, record.seq, ""

    def _redriven(self, job: Tally, event: e.JobRedriven, record: Record) -> None:
        _need(job.state == "dead", f"redriven while {job.state}")
        _need(event.answers == job.ended_by, f"answers record {event.answers}, not {job.ended_by}")
        _need(record.actor != SYSTEM, "redriven by nobody")
        self.redriven[job.key] = record.seq
        job.state, job.since, job.round = "pending", record.seq, job.round + 1
        job.round_at = job.round_due = job.due_at = record.at
        job.attempt = job.failures = job.losses = 0
        job.cancel = job.error = job.dead = job.reason = None

    # --- others -------------------------------------------------------------------------------------------

    def _other(self, event: e.Fact, record: Record) -> None:
        match event:
            case e.LeasesRenewed(leases=leases):
                for lease in leases:
                    job = self.jobs.get(f"{record.tenant}.{lease.key}")
                    _need(job is not None and job.token == lease.token, f"renews void token {lease.token}")
                    assert job is not None
                    self._by_holder(job, record)
                    job.expires_at = record.at + _us(job.limits.lease_s)
                    job.base_us = self._decided_us
                    self.renewed[lease.token] = record.seq
                    self.touched[job.key] = None
            case e.LeaderElected(leader=leader, previous=previous):
                _need(previous == self.leader, f"follows leader {previous}, but {self.leader} led")
                self.leader = leader
                self._give_time_back(record)
            case e.TimeResumed():
                self._give_time_back(record)
            case e.CommandRejected(verb="submit", refused=refused, count=count):
                self._refused(record, refused, count)
            case e.RejectionsFolded(count=count):
                self.folded += count
            case e.CommandRejected() | e.ReportRejected() | e.Barrier() | PartitionOpened():
                pass
            case _:
                _wrong(f"{type(event).__name__} is not known to the checker")

    def _refused(self, record: Record, refused: tuple[Any, ...], count: int) -> None:
        source = record.source
        if source is None:
            raise Wrong("a refused submit without its place")
        _need(len(refused) == count, "not all refusals are named")
        for rejection in refused:
            place = source.seq, -1 if rejection.index is None else rejection.index
            _need(rejection.reason, "names no reason")
            _need(place not in self.refused, f"submit {place} was refused before")
            self.refused[place] = record.seq

    def _give_time_back(self, record: Record) -> None:
        for job in self.jobs.values():
            if job.token:
                job.expires_at = max(job.expires_at, record.at + _us(job.limits.lease_s))
                job.base_us = self._decided_us
                self.touched[job.key] = None


def _wrong(why: str) -> NoReturn:
    raise Wrong(why)


def elements(body: bytes) -> list[dict[str, Any]]:
    """The elements of a submit message; one that says `bad` where it cannot be read."""
    many = body if body.startswith(b"[") else b"[%s]" % body
    try:
        return msgspec.json.decode(many, type=list[dict[str, Any]])
    except msgspec.MsgspecError:
        return [{"bad": True}]
