"""The rules of single jobs: which event may follow what, by whom, and with which numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from writ.schemas import events as e
from writ.schemas.records import Record
from writ.schemas.steps import CompensationDue, CompensationEnded

from . import steps
from .tally import BY_OPERATION, SYSTEM, TERMINAL, Rules, Tally, Waits, Wrong, need, us

if TYPE_CHECKING:
    from .fold import Fold

_NEVER: Final = frozenset({"policy", "poison", "cancelled"})
_RETRIED: Final = ("system", "application", "timeout")
_TOKEN_BITS: Final = 40
_REOPENS: Final = (e.JobRedriven, e.JobRerun, e.JobDropped)
Rule = Callable[[Tally, Any, Record], None]


def _by_operation(record: Record) -> bool:
    return record.cause is not None and record.cause.startswith(BY_OPERATION)


class JobRules:
    """Takes a job's events one by one. What tokens came to is kept for those who ask about answers."""

    def __init__(self, fold: Fold) -> None:
        self._fold = fold
        self.granted: dict[int, tuple[str, str, str]] = {}
        """Token to job, worker and principal."""
        self.ended: dict[int, tuple[str, int]] = {}
        """Token to how its lease ended, and in which record."""
        self.renewals: dict[int, int] = {}
        self.progressed: dict[int, int] = {}
        self.started: set[int] = set()
        self.noted: dict[int, list[Any]] = {}
        """Token to what its holder noted, in order."""
        self.reopened: dict[str, int] = {}
        self.waits: dict[int, Waits] = {}
        """Token of an attempt that ended so to what it waits for; for a snooze, the time."""
        self.slept: dict[int, tuple[int, int]] = {}
        """Token of an attempt that waits for a signal, to its record and the newest such signal before."""
        self.woken: set[int] = set()
        """Tokens of those that went on at once."""
        self.lost_leases: list[tuple[Tally, int]] = []
        """Jobs whose lease expired in the record at hand, with the true time the lease counted from."""
        self._rules: dict[type[e.Fact], Rule] = {
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
            e.JobRerun: self._rerun,
            e.JobDropped: self._dropped,
            e.JobSuspended: self._suspended,
            e.JobResumed: self._resumed,
            e.JobSnoozed: self._snoozed,
            e.ProgressReported: self._progressed,
            e.SignalReceived: self._signal,
            e.JobEdited: self._edited,
            **dict.fromkeys(steps.NOTED, self._noted),
            CompensationDue: self._undoes,
            CompensationEnded: self._undone,
        }

    def take(self, job: Tally, event: e.Fact, record: Record) -> None:
        rule = self._rules.get(type(event))
        name = type(event).__name__
        if rule is None:
            raise Wrong(f"{name} is no event of a job")
        if job.state in TERMINAL:
            need(isinstance(event, _REOPENS), f"{name} after the job was {job.state}")
        rule(job, event, record)

    def renewed(self, job: Tally, record: Record) -> None:
        self._by_holder(job, record)
        job.expires_at = record.at + us(job.limits.lease_s)
        job.base_us = self._fold.decided_us
        self.renewals[job.token] = record.seq

    # --- who says it --------------------------------------------------------------------------------------

    def _holds(self, job: Tally, token: int, attempt: int) -> None:
        need(job.token and token == job.token, f"token {token} is not the live lease {job.token}")
        need(attempt == job.attempt, f"attempt {attempt} is not the running one {job.attempt}")

    @staticmethod
    def _by_holder(job: Tally, record: Record) -> None:
        need(record.actor == job.principal, f"by {record.actor}, but {job.principal} holds the lease")

    @staticmethod
    def _by_person(record: Record, *, or_operation: bool = False) -> bool:
        return record.actor != SYSTEM or (or_operation and _by_operation(record))

    # --- attempts -----------------------------------------------------------------------------------------

    def _due(self, job: Tally, event: e.JobDue, record: Record) -> None:
        need(job.state in ("scheduled", "retrying"), f"due while {job.state}")
        need(record.at >= job.due_at, f"due {job.due_at - record.at} us too early")
        job.state, job.since = "pending", record.seq

    def _granted(self, job: Tally, event: e.LeaseGranted, record: Record) -> None:
        need(not job.token, f"a second lease beside {job.token}")
        need(job.state == "pending", f"a lease while {job.state}")
        need(job.cancel is None or job.undoes, "a lease after cancel was accepted")
        need(event.attempt == job.attempt + 1, f"attempt {event.attempt} after {job.attempt}")
        most = max(
            Rules.of(job.retry, class_).max_attempts or 1 << 60
            for class_ in ("system", "application", "timeout")
        )
        need(job.excused or job.failures < most, f"attempt after {job.failures} failures of {most}")
        need(job.losses < job.retry.max_lease_losses, f"attempt after {job.losses} lost leases")
        need(job.expiry is None or record.at <= job.expiry, "granted after expires_in_s")
        job.worker, job.principal = event.worker, event.principal or record.actor
        self._fold.lines.grants(job, record)
        job.attempt = event.attempt
        job.token = job.last_token = (record.epoch << _TOKEN_BITS) + record.seq
        job.granted_at = record.at
        job.expires_at = record.at + us(job.limits.lease_s)
        job.base_us = self._fold.decided_us
        job.started = False
        job.state, job.since = "running", record.seq
        self.granted[job.token] = job.key, job.worker, job.principal

    def _free(self, job: Tally, how: str, record: Record) -> None:
        self.ended[job.token] = how, record.seq
        self._fold.lines.frees(job)
        job.token = job.expires_at = 0
        job.since = record.seq

    def _started(self, job: Tally, event: e.AttemptStarted, record: Record) -> None:
        self._holds(job, event.token, event.attempt)
        self._by_holder(job, record)
        need(not job.started, "started twice")
        job.started = True
        self.started.add(event.token)

    def _progressed(self, job: Tally, event: e.ProgressReported, record: Record) -> None:
        self._holds(job, event.token, event.attempt)
        self._by_holder(job, record)
        self.progressed[event.token] = record.seq

    def _noted(self, job: Tally, event: Any, record: Record) -> None:
        self._holds(job, event.token, event.attempt)
        self._by_holder(job, record)
        steps.NOTED[type(event)](job, event, record)
        self.noted.setdefault(event.token, []).append(event)

    def _undoes(self, job: Tally, event: CompensationDue, record: Record) -> None:
        need(not job.token, "to be undone beside a live lease")
        if event.dead is None:
            self._may_cancel(job)
        else:
            self._may_die(job, event.dead, record)
        steps.ends(job, event, record)

    def _undone(self, job: Tally, event: CompensationEnded, record: Record) -> None:
        self._holds(job, event.token, event.attempt)
        self._by_holder(job, record)
        self._free(job, "complete", record)
        steps.ended(job, event, record)

    def _completed(self, job: Tally, event: e.JobCompleted, record: Record) -> None:
        self._holds(job, event.token, event.attempt)
        self._by_holder(job, record)
        need(job.undoes is None, "completed, though it is ending")
        job.output = None if event.output is None else bytes(event.output.plain)
        self._free(job, "complete", record)
        self._end(job, "completed", record)

    def _failed(self, job: Tally, event: e.AttemptFailed, record: Record) -> None:
        self._holds(job, event.token, event.attempt)
        if record.actor == SYSTEM:
            need(event.error.class_ == "timeout", f"the system failed it with class {event.error.class_}")
            over = job.granted_at + us(job.limits.attempt_timeout_s) <= record.at
            need(over or job.deadline <= record.at, "timed out too early")
        else:
            self._by_holder(job, record)
        job.error, job.permanent = event.error, event.permanent
        job.losses += event.crashed
        job.failures += not event.crashed
        self._free(job, "fail", record)
        job.state, job.owes = "retrying", "failed"

    def _expired(self, job: Tally, event: e.LeaseExpired, record: Record) -> None:
        self._holds(job, event.token, event.attempt)
        need(record.actor == SYSTEM, f"expired by {record.actor}")
        need(job.expires_at <= record.at, f"expired {job.expires_at - record.at} us too early")
        need(event.expires_at == job.expires_at, f"says it lived until {event.expires_at}")
        job.losses += 1
        need(event.losses == job.losses, f"says {event.losses} losses, there were {job.losses}")
        need(event.max_lease_losses == job.retry.max_lease_losses, "names another cap")
        self.lost_leases.append((job, job.base_us))
        self._free(job, "expire", record)
        over = job.losses >= job.retry.max_lease_losses or (job.cancel is not None and not job.undoes)
        job.state, job.owes = "pending", "lost" if over else ""

    def _released(self, job: Tally, event: e.LeaseReleased, record: Record) -> None:
        self._holds(job, event.token, event.attempt)
        if event.reason == "terminated":
            need(
                job.cancel is not None and self._by_person(record, or_operation=True), "terminated by nobody"
            )
        else:
            self._by_holder(job, record)
        self._free(job, "release", record)
        job.state, job.owes = "pending", "" if job.cancel is None or job.undoes else "lost"

    def _snoozed(self, job: Tally, event: e.JobSnoozed, record: Record) -> None:
        self._holds(job, event.token, event.attempt)
        self._by_holder(job, record)
        need(job.cancel is None or job.undoes, "snoozed after cancel was accepted")
        need(event.due_at >= record.at, "snoozed into the past")
        self._free(job, "snooze", record)
        job.state, job.due_at = "scheduled", event.due_at
        self.waits[event.token] = Waits("snooze", (), event.due_at, "", record.at)

    def _retry(self, job: Tally, event: e.RetryScheduled, record: Record) -> None:
        policy, error = job.retry, job.error
        need(job.owes == "failed", f"a retry while {job.state}")
        need(job.cancel is None or job.undoes, "a retry after cancel was accepted")
        need(error.class_ not in _NEVER, f"class {error.class_} is never retried")
        need(error.type not in policy.non_retryable_types, f"type {error.type} is not to be retried")
        need(not job.permanent, "a retry of what would fail again, whoever tried")
        need(event.failures == job.failures, f"counts {event.failures} failures, there were {job.failures}")
        rules = Rules.of(policy, error.class_)
        need(event.max_attempts == rules.max_attempts, "names another maximum")
        need(not job.exhausted(), f"a retry after {job.failures} failures of {rules.max_attempts}")
        need(event.rule, "names no rule")
        grown = rules.initial_interval_s * rules.backoff ** (job.failures - 1)
        base = min(grown, rules.max_interval_s)
        need(abs(event.base_s - base) < 1e-9, f"backoff {event.base_s}, should be {base}")
        need(event.jitter == policy.jitter and 0 <= event.seed <= 1, "another jitter or no seed")
        delay = base * (1 + policy.jitter * (2 * event.seed - 1))
        if event.retry_after_s is not None:
            delay = max(delay, event.retry_after_s)
        due_at = max(record.at + us(delay), event.budget_at or 0)
        need(abs(event.due_at - due_at) <= 1, f"due after {event.due_at - record.at} us")
        self._fold.lines.retries(job, event, record)
        job.due_at = event.due_at
        job.owes = ""

    # --- waits --------------------------------------------------------------------------------------------

    def _suspended(self, job: Tally, event: e.JobSuspended, record: Record) -> None:
        bonds, failed = self._fold.bonds, job.owes == "failed"
        need(job.cancel is None or job.undoes, "suspended after cancel was accepted")
        if event.token is not None:
            self._holds(job, event.token, event.attempt or 0)
            self._by_holder(job, record)
            need(event.reason in ("approval", "signal"), f"a task cannot wait for {event.reason}")
            self._free(job, "suspend", record)
            if event.reason == "signal":
                newest = max((seq for name, seq, _ in job.signals if name in event.on), default=0)
                self.slept[event.token] = record.seq, newest
        else:
            need(not job.token, "suspended beside a live lease")
            held: dict[str, object] = {
                "approval": job.asks is not None and job.wait is None,
                "dependency": bonds.holds_back(job, event.on),
                "paused": job.wait is None and self._by_person(record, or_operation=True),
                "exhausted": failed and job.retry.on_exhausted == "suspend" and job.exhausted(),
            }
            need(held.get(event.reason), f"suspended for {event.reason}, which does not hold")
            need(not failed or event.reason == "exhausted", "failed, and suspended for something else")
        if event.reason == "approval" and job.asks is not None and event.token is None:
            timeout_s = job.asks.get("timeout_s")
            until = None if timeout_s is None else record.at + us(timeout_s)
            need(event.until == until, f"waits until {event.until}, asked for {timeout_s} s")
            need(event.on_timeout == job.asks.get("on_timeout", "dead_letter"), "another on_timeout")
            job.asks = None
        job.stands(record.at)
        job.wait = Waits(event.reason, event.on, event.until, event.on_timeout, record.at)
        job.state, job.since, job.owes = "suspended", record.seq, ""
        if event.token is not None:
            self.waits[event.token] = job.wait

    def _resumed(self, job: Tally, event: e.JobResumed, record: Record) -> None:
        wait = job.wait
        if wait is None:
            raise Wrong(f"resumed while {job.state}")
        need(event.reason == wait.reason, f"resumed from {event.reason}, but waits for {wait.reason}")
        nobody = wait.until is not None and wait.until <= record.at and wait.on_timeout == "resume"
        person = self._by_person(record, or_operation=True)
        came = any(name in wait.on for name, _, _ in job.signals)
        held: dict[str, object] = {
            "approval": nobody or record.cause == "approve",
            "signal": nobody or came,
            "paused": person,
            "exhausted": person,
            "dependency": person or self._fold.bonds.met(job),
        }
        need(held.get(wait.reason), f"nothing ended the wait for {wait.reason}")
        if event.data is not None:
            job.signals.append((wait.reason, record.seq, bytes(event.data.plain)))
        if self.slept.get(job.last_token, (0, 0))[0] == record.seq:
            self.woken.add(job.last_token)
        job.excused = job.excused or wait.reason == "exhausted"
        job.stands(record.at)
        later = "retrying" if job.failures and job.attempt else "scheduled"
        job.state, job.since, job.owes = later if job.due_at > record.at else "pending", record.seq, ""

    def _signal(self, job: Tally, event: e.SignalReceived, record: Record) -> None:
        need(self._by_person(record), "nobody sent it")
        job.signals.append((event.name, record.seq, bytes(event.data.plain)))
        if job.wait is not None and job.wait.reason == "signal" and event.name in job.wait.on:
            job.owes = "wake"

    def _edited(self, job: Tally, event: e.JobEdited, record: Record) -> None:
        need(self._by_person(record), "edited by nobody")
        need(job.state in ("scheduled", "pending", "suspended"), f"edited while {job.state}")
        need(not job.attempt, f"edited after attempt {job.attempt}")
        if event.priority is not None:
            job.priority = event.priority
        if event.due_at is not None:
            job.due_at = job.round_due = event.due_at
        job.since = record.seq
        if job.wait is None:
            job.state = "scheduled" if job.due_at > record.at else "pending"

    # --- ends ---------------------------------------------------------------------------------------------

    def _cancel_requested(self, job: Tally, event: e.CancelRequested, record: Record) -> None:
        fold, cause = self._fold, record.cause
        need(job.cancel is None, "cancel was accepted before")
        by_system = (
            _by_operation(record)
            or (cause == "submit" and fold.lines.may_replace(job))
            or (cause == "schedule" and fold.timetable.cancels(job))
            or (cause is not None and cause.startswith("record:") and fold.bonds.parent_over(job))
        )
        need(record.actor != SYSTEM or by_system, "nobody asked for it")
        job.cancel, job.cancel_seq = event.reason, record.seq
        if not job.token and job.undoes is None:
            job.owes = "cancel"

    def _cancelled(self, job: Tally, event: e.JobCancelled, record: Record) -> None:
        need(not job.token, "cancelled beside a live lease")
        need(event.reason, "names no reason")
        if job.owes == "end":
            assert job.undoes is not None
            need(job.undoes.dead is None and event.reason == job.undoes.rule, "another end than waited")
        else:
            owes = job.undoes is None and any(step.owes for step in job.steps)
            need(not owes or self._at_once(record), "what its steps did is not undone")
            self._may_cancel(job)
        job.reason = event.reason
        self._end(job, "cancelled", record)

    @staticmethod
    def _at_once(record: Record) -> bool:
        """Whether an operator ended the job without undoing what its steps did."""
        released = any(isinstance(x, e.LeaseReleased) and x.reason == "terminated" for x in record.events)
        return released or record.cause == "terminate" or _by_operation(record)

    def _may_cancel(self, job: Tally) -> None:
        failed = job.owes == "failed"
        said = failed and job.error.class_ == "cancelled"
        used_up = failed and job.retry.on_exhausted == "cancel" and job.exhausted()
        alone = job.given.on_dead == "cancel" and self._fold.bonds.failed(job) is not None
        need(job.cancel is not None or said or used_up or alone, "nobody asked to cancel it")

    def _dead_lettered(self, job: Tally, event: e.JobDeadLettered, record: Record) -> None:
        need(not job.token, "dead beside a live lease")
        need(event.rule, "names no rule")
        if job.owes == "end":
            assert job.undoes is not None
            need((job.undoes.dead, job.undoes.rule) == (event.reason, event.rule), "another end than waited")
        else:
            need(job.undoes is not None or not any(s.owes for s in job.steps), "not undone")
            self._may_die(job, event.reason, record)
        job.dead, job.reason = str(event.reason), event.rule
        self._end(job, "dead", record)

    def _may_die(self, job: Tally, why: e.DeadReason, record: Record) -> None:
        need(job.cancel is None or job.undoes, "dead though cancel was accepted")
        policy, failed, wait = job.retry, job.owes == "failed", job.wait
        bonds = self._fold.bonds
        held: dict[str, object] = {
            "exhausted": failed and policy.on_exhausted == "dead_letter" and job.exhausted(),
            "non_retryable": failed and (job.permanent or job.error.type in policy.non_retryable_types),
            "policy": failed and job.error.class_ == "policy",
            "poison": (failed and job.error.class_ == "poison")
            or (job.owes == "lost" and job.losses >= policy.max_lease_losses),
            "expired": wait is None and job.expiry is not None and job.expiry <= record.at,
            "job_timeout": wait is None and job.deadline <= record.at,
            "history_limit": job.records >= 50_000,
            "dependency": job.given.on_dead == "dead_letter" and bonds.failed(job) is not None,
            "rejected": wait is not None and wait.reason == "approval" and record.cause == "reject",
            "wait_timeout": wait is not None
            and wait.until is not None
            and wait.until <= record.at
            and wait.on_timeout == "dead_letter",
        }
        need(held.get(why), f"reason {why} does not hold")

    @staticmethod
    def _end(job: Tally, state: str, record: Record) -> None:
        job.state, job.since, job.owes = state, record.seq, ""
        job.ended_by, job.ended_at = record.seq, record.at
        job.wait = job.asks = None

    # --- and again ----------------------------------------------------------------------------------------

    def _redriven(self, job: Tally, event: e.JobRedriven, record: Record) -> None:
        need(job.state == "dead", f"redriven while {job.state}")
        self._reopened(job, event, record)

    def _rerun(self, job: Tally, event: e.JobRerun, record: Record) -> None:
        need(job.state in TERMINAL, f"run again while {job.state}")
        self._reopened(job, event, record)

    def _reopened(self, job: Tally, event: e.JobRedriven | e.JobRerun, record: Record) -> None:
        need(event.answers == job.ended_by, f"answers record {event.answers}, not {job.ended_by}")
        need(self._by_person(record, or_operation=True), "opened again by nobody")
        by = f"{BY_OPERATION}{event.operation}"
        need(event.operation is None or record.cause == by, f"names operation {event.operation}")
        need(event.operation is not None or record.actor != SYSTEM, "names no operation")
        if isinstance(event, e.JobRerun):
            del job.steps[event.steps :]
        self._fold.lines.reopens(job)
        self.reopened[job.key] = record.seq
        job.reopen(record, event.operation)

    def _dropped(self, job: Tally, event: e.JobDropped, record: Record) -> None:
        need(job.state == "dead", f"dropped while {job.state}")
        need(job.dropped is None, "dropped before")
        need(self._by_person(record, or_operation=True), "dropped by nobody")
        job.dropped = event.reason
