"""Bugs planted into what governs jobs: limits, order, waits, relations, schedules and operations."""

# Bugs reach for what is private, and what they put in its place has its types.
# pyright: reportPrivateUsage=false, reportUnknownLambdaType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from writ.orchestrator import control_desk, operating, state
from writ.orchestrator.consequences import Consequences
from writ.orchestrator.decide import control, depend, intake, lease, retry, schedule, timers
from writ.orchestrator.engine import Engine
from writ.orchestrator.intake_desk import IntakeDesk
from writ.orchestrator.lease_desk import LeaseDesk
from writ.orchestrator.office import Office
from writ.orchestrator.operating import Operating
from writ.orchestrator.ready import Ready
from writ.orchestrator.state import Partition
from writ.schemas import commands, lifecycle
from writ.schemas.events import JobResumed, JobSnoozed, OnTimeout, WaitReason
from writ.schemas.operations import Operation, selects
from writ.schemas.policy import OnExhausted
from writ.schemas.queues import Mode, Queue

from .planted import BUGS as BUGS  # noqa: PLC0414 - with these among them
from .planted import Patch, bug


def _after_recovery(patch: Patch, spoil: Callable[[Partition], None]) -> None:
    """A new leader's state is spoilt when it has been folded."""
    honest = Engine._recover

    async def recover(self: Engine) -> None:
        await honest(self)
        spoil(self.state)

    patch(Engine, "_recover", recover)


def _allows_as(patch: Patch, other: Callable[[Queue], Queue]) -> None:
    """Grants are allowed as if the queue were another one."""
    honest = LeaseDesk._allowance

    def allowance(self: LeaseDesk, place: str, count: int, now: int) -> int:
        queues = self._state.queues
        queue = queues.get(place)
        if queue is None:
            return honest(self, place, count, now)
        queues[place] = other(queue)
        allowed = honest(self, place, count, now)
        queues[place] = queue
        return allowed

    patch(LeaseDesk, "_allowance", allowance)


# --- limits -----------------------------------------------------------------------------------------------


@bug
def slot_leak_per_key(patch: Patch) -> None:
    """A slot of a concurrency key is not free again when its job was cancelled."""
    honest = Partition._stop_running

    def stop_running(self: Partition, place: str, queue: str, job: Any) -> None:
        if job is not None and job.cancel is not None and job.concurrency_key is not None:
            job = replace(job, concurrency_key=None)
        honest(self, place, queue, job)

    patch(Partition, "_stop_running", stop_running)


@bug
def concurrency_ignored(patch: Patch) -> None:
    """More run in a queue than it allows."""

    def unlimited(queue: Queue) -> Queue:
        return replace(queue, policy=replace(queue.policy, concurrency=None))

    _allows_as(patch, unlimited)


@bug
def key_counted_once_a_round(patch: Patch) -> None:
    """Of one key several are given out at once, as each looks at the slots that were free before."""
    honest = LeaseDesk._full

    def full(self: LeaseDesk, place: str) -> Callable[[Any], str | None]:
        def looks_anew(job: Any) -> str | None:
            return honest(self, place)(job)

        return looks_anew

    patch(LeaseDesk, "_full", full)


@bug
def rate_ignored(patch: Patch) -> None:
    """Whoever asks is given, at whatever rate."""
    patch(Queue, "grant_tokens", lambda self, now: None)


@bug
def rate_anew_with_each_leader(patch: Patch) -> None:
    """A new leader begins with a full burst."""

    def spoil(state: Partition) -> None:
        for place, queue in state.queues.items():
            state.queues[place] = replace(queue, grants=None)

    _after_recovery(patch, spoil)


@bug
def retry_budget_ignored(patch: Patch) -> None:
    """An outage is amplified."""
    patch(Queue, "retry_at", lambda self, now: now)


@bug
def pending_without_bound(patch: Patch) -> None:
    """pending_max is not looked at."""
    honest = intake.refusal
    patch(intake, "refusal", lambda command, queue, pending, *more: honest(command, queue, 0, *more))


@bug
def pause_not_checked_at_grant(patch: Patch) -> None:
    """A paused queue gives out what is there."""
    _allows_as(patch, lambda queue: replace(queue, mode=Mode.OPEN))


@bug
def drain_takes_submits(patch: Patch) -> None:
    """A queue that drains is never empty."""
    honest = intake.refusal

    def refusal(command: Any, queue: Any, *more: Any) -> Any:
        return honest(command, replace(queue, mode=Mode.OPEN), *more)

    patch(intake, "refusal", refusal)


# --- order ------------------------------------------------------------------------------------------------


@bug
def priority_inverted(patch: Patch) -> None:
    """5 first."""

    def pick(self: Ready, jobs: Any, count: int, *limits: Any) -> list[Any]:
        picked: list[Any] = []
        skipped: list[Any] = []
        wanted, full, fits = limits[:3]
        labels = limits[3] if len(limits) > 3 else None
        for priority in sorted(self._lines, reverse=True):
            if not self._pick_line(priority, jobs, count, wanted, full, fits, labels, picked, skipped):
                break
        for entry in skipped:
            self._push(*entry)
        return picked

    patch(Ready, "pick", pick)


@bug
def fairness_ignored(patch: Patch) -> None:
    """Nobody remembers whose turn it was."""
    honest = Ready._pick_line

    def pick_line(self: Ready, *more: Any) -> bool:
        self.served.clear()
        return honest(self, *more)

    patch(Ready, "_pick_line", pick_line)


@bug
def turns_forgotten_by_each_leader(patch: Patch) -> None:
    """With a new leader the fairness keys begin anew."""

    def spoil(state: Partition) -> None:
        for line in state._ready.values():
            line.served.clear()

    _after_recovery(patch, spoil)


@bug
def freed_slot_wakes_nobody(patch: Patch) -> None:
    """Jobs that were held for their key stay held."""
    patch(Ready, "free", lambda self, key, jobs: None)


# --- unique keys ------------------------------------------------------------------------------------------


@bug
def unique_keys_lost_with_the_leader(patch: Patch) -> None:
    """A new leader knows no unique key."""
    _after_recovery(patch, lambda state: state._unique.clear())


@bug
def unique_key_unchecked_at_redrive(patch: Patch) -> None:
    """A dead letter comes back beside the job that has its key now."""
    patch(Office, "reopening_clash", lambda self, job: None)


@bug
def replaced_job_lives_on(patch: Patch) -> None:
    """The newcomer is accepted, and the one it replaces not ended."""
    patch(IntakeDesk, "_replace", lambda self, round_, clash, by: None)


# --- retries ----------------------------------------------------------------------------------------------


@bug
def per_class_ignored(patch: Patch) -> None:
    """An error class has no rules of its own."""
    honest = retry.rules_for
    patch(retry, "rules_for", lambda policy, class_: honest(replace(policy, per_class={}), class_))


@bug
def on_exhausted_ignored(patch: Patch) -> None:
    """Used-up attempts always end in a dead letter."""
    honest = retry._exhausted

    def exhausted(job: Any, *more: Any) -> Any:
        return honest(replace(job, retry=replace(job.retry, on_exhausted=OnExhausted.DEAD_LETTER)), *more)

    patch(retry, "_exhausted", exhausted)


@bug
def snooze_counts_as_attempt(patch: Patch) -> None:
    """A task that asks to be run later has failed."""
    honest = lifecycle.evolve_record

    def evolve_record(job: Any, record: Any) -> Any:
        evolved = honest(job, record)
        if any(isinstance(event, JobSnoozed) for event in record.events):
            return replace(evolved, failures=evolved.failures + 1)
        return evolved

    patch(state, "evolve_record", evolve_record)


# --- waits ------------------------------------------------------------------------------------------------


@bug
def approval_not_asked(patch: Patch) -> None:
    """A job that a person must allow runs without a word."""
    honest = IntakeDesk._hold_back

    def hold_back(self: IntakeDesk, round_: Any, tenant: str, key: str, command: Any, find: Any) -> None:
        honest(self, round_, tenant, key, replace(command, approval=None), find)

    patch(IntakeDesk, "_hold_back", hold_back)


@bug
def wait_forgotten_after_restart(patch: Patch) -> None:
    """A new leader does not know when a wait is over."""

    def spoil(state: Partition) -> None:
        for place, job in state.jobs.items():
            if job.wait is not None:
                state.deadlines.set(place, None)

    _after_recovery(patch, spoil)


@bug
def silence_is_consent(patch: Patch) -> None:
    """When nobody came the job goes on, whatever was asked for."""
    honest = timers._wait_over

    def wait_over(job: Any, now: int) -> Any:
        return honest(replace(job, wait=replace(job.wait, on_timeout=OnTimeout.RESUME)), now)

    patch(timers, "_wait_over", wait_over)


@bug
def no_is_yes(patch: Patch) -> None:
    """A job that was rejected goes on."""

    def reject(job: Any, command: Any) -> Any:
        fault = control._no_approval(job, command)
        return fault or (JobResumed(WaitReason.APPROVAL, f"rejected: {command.reason}"),)

    patch(control_desk._OF_A_JOB, commands.Reject, reject)


@bug
def signal_lost(patch: Patch) -> None:
    """A signal that came before its job waited for it does not end the wait."""
    honest = lease.suspend

    def suspend(job: Any, *more: Any) -> Any:
        return honest(None if job is None else replace(job, signals=()), *more)

    patch(lease, "suspend", suspend)


@bug
def signals_stay_behind(patch: Patch) -> None:
    """A lease brings no signals."""
    patch(LeaseDesk, "_signals", lambda self, job, seen: ())


@bug
def clock_runs_while_suspended(patch: Patch) -> None:
    """job_timeout_s counts the time for which a job was suspended."""
    honest = lifecycle.job_deadline

    def job_deadline(job: Any) -> int:
        return honest(replace(job, stood_us=0))

    patch(lifecycle, "job_deadline", job_deadline)
    patch(timers, "job_deadline", job_deadline)


@bug
def cancel_not_told(patch: Patch) -> None:
    """A worker does not hear that its job was cancelled."""
    honest = commands.Renewed

    def renewed(error: Any, position: int, lost: Any, cancel: Any, signals: Any) -> Any:
        return honest(error, position, lost, (), signals)

    patch(commands, "Renewed", renewed)


@bug
def terminate_with_grace(patch: Patch) -> None:
    """Terminating a running job only asks it to end."""
    honest = control.terminate

    def terminate(job: Any, command: Any) -> Any:
        outcome: Any = honest(job, command)
        running = job is not None and job.lease is not None and job.cancel is None
        return outcome[:1] if running else outcome

    patch(control_desk._OF_A_JOB, commands.Terminate, terminate)


# --- relations --------------------------------------------------------------------------------------------


@bug
def released_by_a_dead_one(patch: Patch) -> None:
    """A job whose forerunner is dead goes on as if it had completed."""
    patch(depend, "_first_failed", lambda job, find: None)


@bug
def released_by_the_first(patch: Patch) -> None:
    """A job waits for one of those before it instead of for all."""
    honest = depend.awaited

    def awaited(job: Any, find: Any) -> tuple[str, ...]:
        left = honest(job, find)
        return left if len(left) == len(job.after) else ()

    patch(depend, "awaited", awaited)


@bug
def outputs_not_passed_on(patch: Patch) -> None:
    """input_from fills nothing in."""
    patch(LeaseDesk, "_filled", lambda self, job, content: content)


@bug
def child_not_cancelled(patch: Patch) -> None:
    """Children go on when their parent has died."""
    patch(depend, "on_parent_ended", lambda child, parent: ())


@bug
def consequences_owed_to_memory(patch: Patch) -> None:
    """A new leader does not look for what its predecessor had still to decide."""
    patch(Consequences, "recover", lambda self: None)


@bug
def batch_ends_twice(patch: Patch) -> None:
    """The end of a batch is told with each job that ends in it from then on."""
    honest = Consequences._tell_batch

    def tell_batch(self: Consequences, round_: Any, place: str) -> None:
        batches = self._state.relations.batches
        if place in batches:
            batches[place] = replace(batches[place], ended=False)
        honest(self, round_, place)

    patch(Consequences, "_tell_batch", tell_batch)


@bug
def sealed_too_late(patch: Patch) -> None:
    """The end of a batch whose jobs have all ended before it was sealed is never told."""
    patch(Consequences, "sealed", lambda self, batch: None)


# --- schedules --------------------------------------------------------------------------------------------


@bug
def catch_up_fires_twice(patch: Patch) -> None:
    """After a downtime the last due time before it is run again."""
    honest = schedule.due

    def due(known: Any, live: Any, now: int, exists: Any = None) -> Any:
        if now - known.since > 3_000_000 and known.last_due is not None:
            known = replace(known, since=known.last_due - 1)
        return honest(known, live, now, exists)

    patch(schedule, "due", due)


@bug
def overlap_forgotten(patch: Patch) -> None:
    """What a schedule started before is not looked at."""
    honest = schedule.due
    patch(schedule, "due", lambda known, live, now, exists=None: honest(known, (), now, exists))


@bug
def missed_times_forgotten(patch: Patch) -> None:
    """A new leader takes all due times until it led for dealt with."""

    def spoil(state: Partition) -> None:
        for place, known in state.schedules.items():
            state._put_schedule(place, replace(known, since=max(known.since, state.at + 1_000_000)))

    _after_recovery(patch, spoil)


# --- operations -------------------------------------------------------------------------------------------


@bug
def plan_ignores_its_limit(patch: Patch) -> None:
    """A redrive of two dead letters redrives all."""

    def boundless(operation: Any) -> Any:
        return replace(operation, plan=replace(operation.plan, limit=0))

    honest, honest_over = Operation.allowance, Operating.over
    patch(Operation, "allowance", lambda self, now: honest(boundless(self), now))
    patch(Operating, "over", lambda self, place, op, more: honest_over(self, place, boundless(op), more))


@bug
def canary_not_awaited(patch: Patch) -> None:
    """The rest follows at once."""
    patch(Operating, "_awaits_canary", lambda self, place, operation: False)


@bug
def plan_ignores_its_rate(patch: Patch) -> None:
    """All at once."""
    honest = Operation.allowance
    patch(Operation, "allowance", lambda self, now: honest(replace(self, pace=None), now))


@bug
def plan_goes_on_with_newer_ones(patch: Patch) -> None:
    """A job that changed after the plan was made is changed all the same."""
    honest, honest_step = Operating._targets, Operating._step

    def late(operation: Any) -> Any:
        return replace(operation, planned=1 << 60)

    patch(Operating, "_targets", lambda self, place, op: honest(self, place, late(op)))
    patch(
        Operating,
        "_step",
        lambda self, round_, place, op, job: honest_step(self, round_, place, late(op), job),
    )


@bug
def dropped_ones_redriven(patch: Patch) -> None:
    """A plan brings back what was settled for good."""
    honest = selects
    patch(operating, "selects", lambda filter_, job: honest(filter_, replace(job, dropped=None)))
