"""Bugs planted into the shipped code from outside, to see that the checker has teeth.

Each is a function that patches what it breaks; nothing in the shipped code knows of them, and the checker
knows none of their names.
"""

# Bugs reach for what is private, and what they put in its place has its types.
# pyright: reportPrivateUsage=false, reportUnknownLambdaType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Final

from msgspec.structs import replace

from writ.orchestrator import control_desk, state
from writ.orchestrator.deadlines import Deadlines
from writ.orchestrator.decide import control, lease, retry, timers
from writ.orchestrator.engine import Decided, Engine
from writ.orchestrator.intake_desk import IntakeDesk
from writ.orchestrator.lease_desk import LeaseDesk
from writ.orchestrator.logtime import LogTime
from writ.orchestrator.ready import Ready
from writ.orchestrator.round import Round
from writ.orchestrator.state import Partition
from writ.orchestrator.waiting import Waiting
from writ.schemas import commands, lifecycle
from writ.schemas.events import JobCompleted, JobRedriven, RetryScheduled
from writ.schemas.ids import derived_job_id
from writ.schemas.lifecycle import State
from writ.schemas.records import Source
from writ.workers.hands import LoopHands
from writ.workers.keeper import Keeper
from writ.workers.line import Line

from .net import Broker

Patch = Callable[[Any, Any, Any], None]
"""Sets an attribute, or an entry of a dict, until the bug is taken out again."""

BUGS: Final[dict[str, Callable[[Patch], None]]] = {}
_ABSENT: Final = object()


def bug(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
    """Registers a planted bug under its function's name."""
    BUGS[plant.__name__] = plant
    return plant


@contextmanager
def planted(name: str) -> Generator[None]:
    """The shipped code with one bug in it."""
    undo: list[tuple[Any, Any, Any]] = []

    def patch(where: Any, what: Any, value: Any) -> None:
        if isinstance(where, dict):
            undo.append((where, what, where.get(what, _ABSENT)))  # pyright: ignore
            where[what] = value
        else:
            undo.append((where, what, vars(where)[what]))
            setattr(where, what, value)

    try:
        BUGS[name](patch)
        yield
    finally:
        for where, what, old in reversed(undo):
            if not isinstance(where, dict):
                setattr(where, what, old)
            elif old is _ABSENT:
                del where[what]
            else:
                where[what] = old


# --- fencing and reports ----------------------------------------------------------------------------------


@bug
def no_fencing(patch: Patch) -> None:
    """Any token will do for a running job."""
    honest = lease.fence

    def fence(job: Any, claim: Any, principal: str, index: int | None = None) -> Any:
        if job is not None and job.lease is not None:
            claim = replace(claim, token=job.lease.token)
        return honest(job, claim, principal, index)

    patch(lease, "fence", fence)


@bug
def another_principals_report(patch: Patch) -> None:
    """Whoever knows the token may report."""
    honest = lease.fence

    def fence(job: Any, claim: Any, principal: str, index: int | None = None) -> Any:
        holder = job.lease.principal if job is not None and job.lease is not None else principal
        return honest(job, claim, holder, index)

    patch(lease, "fence", fence)


@bug
def stale_report_not_told(patch: Patch) -> None:
    """A void report changes nothing, and is answered as if it had been accepted."""
    patch(LeaseDesk, "_refuse_reports", lambda self, round_, asked, worker, refused: ())


@bug
def double_terminal_event(patch: Patch) -> None:
    """A completion said twice is stored twice."""
    honest = lease.complete

    def complete(job: Any, report: Any, principal: str, index: int | None) -> Any:
        outcome = honest(job, report, principal, index)
        if isinstance(outcome, lease.Repeated):
            return (JobCompleted(job.attempt, report.token, job.output, report.run_ms),)
        return outcome

    patch(lease, "complete", complete)
    patch(lifecycle.TRANSITIONS, (State.COMPLETED, JobCompleted), (State.COMPLETED,))


@bug
def renewal_not_stored(patch: Patch) -> None:
    """A beat is answered, and no lease lives longer for it."""
    honest = Round.record

    def record(self: Round, tenant: str, kind: str, key: str, events: Any, **more: Any) -> Any:
        if kind == "worker":
            return None
        return honest(self, tenant, kind, key, events, **more)

    patch(Round, "record", record)


# --- the log ----------------------------------------------------------------------------------------------


@bug
def no_compare_and_set(patch: Patch) -> None:
    """The log takes an append whatever its last sequence is."""
    patch(Broker, "wrong_last", staticmethod(lambda log, after: False))


@bug
def answer_before_append(patch: Patch) -> None:
    """Whoever asked is answered while the records are still on their way."""
    honest = Engine._store

    async def store(self: Engine) -> None:
        self._send(self.open[0].round)
        self.open[0].round.answers.clear()
        await honest(self)

    patch(Engine, "_store", store)


@bug
def ahead_answered_with_the_one_before(patch: Patch) -> None:
    """What was decided while a round was being stored is answered with that round."""
    honest = Engine._store

    async def store(self: Engine) -> None:
        await honest(self)
        for ahead in self.open:
            self._send(ahead.round)
            ahead.round.answers.clear()

    patch(Engine, "_store", store)


@bug
def unknown_taken_as_stored(patch: Patch) -> None:
    """An append without an answer is believed to have been stored."""

    async def resolve(self: Engine, messages: Any, after: int) -> bool:
        return True

    patch(Engine, "_resolve", resolve)


@bug
def others_records_taken_as_ours(patch: Patch) -> None:
    """What is read back after a time-out counts, whoever wrote it."""

    async def resolve(self: Engine, messages: Any, after: int) -> bool:
        return len([m async for part in self._log.read(after + 1) for m in part]) >= len(messages)

    patch(Engine, "_resolve", resolve)


@bug
def undo_forgotten(patch: Patch) -> None:
    """What a full log did not take stays in the leader's memory."""
    patch(Round, "drop", lambda self: None)


@bug
def undo_forgets_the_newest(patch: Patch) -> None:
    """One change of a round that was not stored stays in memory."""
    honest = Partition.revert

    def revert(self: Partition, undo: Any) -> None:
        undo.jobs = undo.jobs[:-1]
        honest(self, undo)

    patch(Partition, "revert", revert)


@bug
def undo_forgets_the_queues(patch: Patch) -> None:
    """Jobs whose grant was not stored are pending again, and in no queue."""
    honest = Partition.revert

    def revert(self: Partition, undo: Any) -> None:
        add = Ready.add
        Ready.add = lambda ready, place, job: None  # type: ignore[method-assign,assignment]
        try:
            honest(self, undo)
        finally:
            Ready.add = add  # type: ignore[method-assign]

    patch(Partition, "revert", revert)


@bug
def verdicts_unfenced(patch: Patch) -> None:
    """A refusal leaves without an append: a deposed leader says what was true once."""
    honest = Round.record

    def answer(self: Round, send: Any, body: bytes, *, verdict_only: bool = False) -> None:
        self.answers.append((send, body))

    def record(self: Round, tenant: str, kind: str, key: str, events: Any, **more: Any) -> Any:
        if kind == "principal" and more.get("source") is None:
            return None
        return honest(self, tenant, kind, key, events, **more)

    patch(Round, "answer", answer)
    patch(Round, "record", record)


# --- elections and recovery -------------------------------------------------------------------------------


@bug
def no_time_back_at_election(patch: Patch) -> None:
    """A lease runs on while nobody led."""
    patch(Partition, "_give_time_back", lambda self, at, undo: None)


@bug
def timers_not_armed_after_recovery(patch: Patch) -> None:
    """A new leader knows the jobs, and not when something happens to them."""
    honest = Engine._recover

    async def recover(self: Engine) -> None:
        await honest(self)
        self.state.deadlines = Deadlines()

    patch(Engine, "_recover", recover)


@bug
def timer_not_rearmed(patch: Patch) -> None:
    """A deadline that was moved is forgotten when its old time comes."""
    patch(Partition, "rearm", lambda self, place: None)


@bug
def intake_position_not_kept(patch: Patch) -> None:
    """A new leader reads the submits from the first one it finds."""
    honest = Engine._recover

    async def recover(self: Engine) -> None:
        await honest(self)
        self.state.sources.clear()
        self._desk.intake.handled.clear()

    patch(Engine, "_recover", recover)


@bug
def position_ahead_of_the_jobs(patch: Patch) -> None:
    """A refusal moves the position past what is accepted of the same message."""
    honest = IntakeDesk._refuse

    def refuse(self: IntakeDesk, round_: Any, message: Any, refused: Any, index: int) -> None:
        honest(self, round_, message, refused, message.last)

    patch(IntakeDesk, "_refuse", refuse)


@bug
def log_time_from_the_wall(patch: Patch) -> None:
    """A new leader takes its own wall clock for the time of the log."""
    honest = LogTime.__init__
    patch(LogTime, "__init__", lambda self, clock, last_at: honest(self, clock, 0))


@bug
def no_time_back_after_a_pause(patch: Patch) -> None:
    """A leader that was stopped for a while ends the leases that nobody could renew."""
    patch(Engine, "_was_away", lambda self, gap_us: None)


# --- submits ----------------------------------------------------------------------------------------------


@bug
def purge_before_append(patch: Patch) -> None:
    """Submits are forgotten as soon as they were read."""

    async def purge(self: Engine) -> None:
        await self._intake.purge(await self._intake.last_seq())

    patch(Engine, "_purge", purge)


@bug
def duplicate_is_a_new_job(patch: Patch) -> None:
    """An id that is taken gives a job under another one."""
    honest = IntakeDesk._accept

    def accept(self: IntakeDesk, round_: Any, address: Any, element: Any, many: bool) -> Any:
        if self._state.job(address.tenant, address.queue, element.job_id) is not None:
            source = element.source
            element = element._replace(job_id=derived_job_id(source.epoch, source.seq, source.index))
        return honest(self, round_, address, element, many)

    patch(IntakeDesk, "_accept", accept)


@bug
def submit_dropped_in_silence(patch: Patch) -> None:
    """What is malformed is passed over without a word."""

    def refuse(self: IntakeDesk, round_: Any, message: Any, refused: Any, index: int) -> None:
        self.handled[message.address.tenant] = Source(message.epoch, message.seq, index)

    patch(IntakeDesk, "_refuse", refuse)


@bug
def not_stored_submits_forgotten(patch: Patch) -> None:
    """After a full log the submits of that round are not taken up again."""
    honest = Engine._take_back

    def take_back(self: Engine, down_to: int = 0) -> list[Decided]:
        for decided in list(self.open)[down_to:]:
            decided.taken.clear()
        return honest(self, down_to)

    patch(Engine, "_take_back", take_back)


@bug
def delay_forgotten(patch: Patch) -> None:
    """A job with a delay is due a little early."""
    honest = timers.due

    def due(job: Any, queue: Any, now: int, seed: float) -> Any:
        early = job.state in (State.SCHEDULED, State.RETRYING) and job.round == 1
        return honest(replace(job, due_at=job.due_at - 20_000) if early else job, queue, now, seed)

    honest_next = lifecycle.next_deadline

    def next_deadline(job: Any) -> int | None:
        at = honest_next(job)
        return at - 10_000 if at is not None and at == job.due_at else at

    patch(timers, "due", due)
    patch(state, "next_deadline", next_deadline)


# --- policy -----------------------------------------------------------------------------------------------


@bug
def retry_past_the_maximum(patch: Patch) -> None:
    """One attempt more than max_attempts."""
    honest = retry.consequence

    def consequence(job: Any, queue: Any, failed: Any, now: int, seed: float) -> Any:
        most = job.retry.max_attempts
        lax = replace(job, retry=replace(job.retry, max_attempts=most + 1 if most else 0))
        event = honest(lax, queue, failed, now, seed)
        return replace(event, max_attempts=most) if isinstance(event, RetryScheduled) else event

    patch(retry, "consequence", consequence)


@bug
def lost_leases_uncounted(patch: Patch) -> None:
    """A job that kills its workers is given out for ever."""
    honest = retry.after_lost_lease

    def after_lost_lease(job: Any) -> Any:
        return honest(job)[:1] if job.cancel is None else honest(job)

    patch(timers, "after_lost_lease", after_lost_lease)


@bug
def backoff_one_step_ahead(patch: Patch) -> None:
    """The first retry waits as long as the second one should."""
    honest = retry.backoff_s
    patch(retry, "backoff_s", lambda policy, failures: honest(policy, failures + 1))


@bug
def jitter_of_another_seed(patch: Patch) -> None:
    """The delay was drawn, and the draw not kept."""
    honest = retry.delay_s
    patch(retry, "delay_s", lambda base, jitter, seed: honest(base, jitter, 1 - seed))


@bug
def policy_errors_retried(patch: Patch) -> None:
    """A hard stop is tried again."""
    patch(retry, "NEVER_RETRIED", frozenset())


@bug
def listed_types_retried(patch: Patch) -> None:
    """non_retryable_types is not looked at."""
    honest = retry.consequence

    def consequence(job: Any, queue: Any, failed: Any, now: int, seed: float) -> Any:
        return honest(
            replace(job, retry=replace(job.retry, non_retryable_types=())), queue, failed, now, seed
        )

    patch(retry, "consequence", consequence)


@bug
def cancel_lost(patch: Patch) -> None:
    """Cancelling a running job is answered with yes, and not kept."""
    honest = control.cancel

    def cancel(job: Any, command: Any) -> Any:
        return () if job is not None and job.state is State.RUNNING else honest(job, command)

    patch(control_desk._OF_A_JOB, commands.Cancel, cancel)


@bug
def cancelled_job_runs_again(patch: Patch) -> None:
    """A cancelled job that fails or loses its lease is tried again."""
    honest, honest_loss = retry.consequence, retry.after_lost_lease

    def consequence(job: Any, *more: Any) -> Any:
        return honest(replace(job, cancel=None), *more)

    patch(retry, "consequence", consequence)
    patch(timers, "after_lost_lease", lambda job: honest_loss(replace(job, cancel=None)))


@bug
def completed_job_redriven(patch: Patch) -> None:
    """An operator may have a completed job run again without a word of it."""
    honest = control.redrive

    def redrive(job: Any, command: Any) -> Any:
        if job is not None and job.state is State.COMPLETED:
            return (JobRedriven(job.ended_by, command.reason),)
        return honest(job, command)

    patch(control_desk._OF_A_JOB, commands.Redrive, redrive)
    patch(lifecycle.TRANSITIONS, (State.COMPLETED, JobRedriven), (State.PENDING,))


@bug
def leases_never_expire(patch: Patch) -> None:
    """What a dead worker held stays its own until the attempt's time is over."""
    honest, honest_next = timers._running, lifecycle.next_deadline

    def held(job: Any) -> Any:
        if job.lease is None:
            return job
        return replace(job, lease=replace(job.lease, expires_at=job.lease.expires_at + 10**12))

    patch(timers, "_running", lambda job, queue, now, seed: honest(held(job), queue, now, seed))
    patch(state, "next_deadline", lambda job: honest_next(held(job)))


# --- workers and waiting ----------------------------------------------------------------------------------


@bug
def slot_leak(patch: Patch) -> None:
    """A slot whose job failed is never free again."""
    honest = Keeper.finished

    def finished(self: Keeper, runs: Any) -> None:
        runs = list(runs)
        self._free -= sum(run.fault is not None for run in runs)
        honest(self, runs)

    patch(Keeper, "finished", finished)


@bug
def lease_run_twice(patch: Patch) -> None:
    """A lease is worked on again when its first run was slow to begin."""
    honest = LoopHands.begin

    def begin(self: LoopHands, runs: Any) -> None:
        honest(self, runs)
        honest(self, [run for run in runs if run.lease.attempt == 2])

    patch(LoopHands, "begin", begin)


@bug
def lease_run_again(patch: Patch) -> None:
    """A late answer tells of a lease whose run is over, and it is run once more."""
    patch(Line, "is_new", lambda self, token: token not in self.held)


@bug
def waiters_forgotten(patch: Patch) -> None:
    """An acquire that waits in vain is never answered."""

    def over(self: Waiting, mono_us: int) -> Iterator[Any]:
        for place in list(self._lines):
            for number, waiter in list(self.line(place)):
                if waiter.until <= mono_us:
                    self.leave(place, number)
        return iter(())

    patch(Waiting, "over", over)


@bug
def asked_forgotten_when_deposed(patch: Patch) -> None:
    """A leader that steps down drops what it was asked."""

    async def step_down(self: Engine) -> None:
        self.leading.clear()
        await self._requests.stop()
        self._inbox.asked.clear()
        await self._inbox.close(b"")

    patch(Engine, "_step_down", step_down)
