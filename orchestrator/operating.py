"""Operations on many jobs: each step is a decision on one job, recorded under the operation's name.

What an operation has done is in the log; which jobs are still before it is found again from the jobs, so
that a change of leader, or a round that was not stored, costs it nothing.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from writ.schemas.commands import Cancel, Drop, Pause, Plan, Redrive, Rerun, Resume, Terminate
from writ.schemas.events import (
    Fact,
    JobDropped,
    JobRedriven,
    JobRerun,
    OperationEnded,
    OperationPlanned,
    OperationVerb,
)
from writ.schemas.lifecycle import TERMINAL, TRANSITIONS, Job, State
from writ.schemas.operations import OPERATION_CAUSE, Operation, selects
from writ.schemas.rejections import Rejection

from .decide import control, quotas
from .office import Office
from .round import Round

_REOPENING: Final = frozenset({OperationVerb.REDRIVE, OperationVerb.RERUN})


class Operating:
    """Carries the live operations of a partition forward, as far as each round has room."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._state = office.state
        self._before: dict[str, deque[str]] = {}
        self._wakes: dict[str, int] = {}
        self.hurries = False
        """Whether an operation found no room in the last round."""

    def recover(self) -> None:
        """Forgets what it had worked out."""
        self._before.clear()
        self._wakes.clear()

    def matching(self, tenant: str, queue: str, plan: Plan) -> list[Job]:
        """The jobs that a plan means now, oldest change first."""
        start = f"{queue}~"
        found = [
            job
            for job in self._state.jobs.walk(_meant(plan))
            if job.key.startswith(start)
            and job.tenant == tenant
            and selects(plan.filter, job)
            and applies(plan.verb, job, plan.reason, None, 0)
        ]
        return sorted(found, key=lambda job: job.since)

    def next_wake(self) -> int | None:
        """Log time at which an operation's rate allows its next step."""
        return min(self._wakes.values()) if self._wakes else None

    def advance(self, round_: Round) -> None:
        """Steps of every live operation."""
        self.hurries = False
        for place, operation in list(self._state.operations.items()):
            if operation.ended is None:
                self._advance(round_, place, operation)

    def _advance(self, round_: Round, place: str, operation: Operation) -> None:
        self._wakes.pop(place, None)
        before = self._before.get(place)
        if before is None:
            before = self._before[place] = deque(self._targets(place, operation))
        while round_.has_room(2, 0):
            operation = self._state.operations[place]
            over = self.over(place, operation, bool(before))
            if over is not None:
                self._end(round_, place, operation, over)
                return
            if self._awaits_canary(place, operation):
                return
            if not operation.allowance(round_.now):
                self._wakes[place] = operation.next_at(round_.now)
                return
            if self._awaits_room(operation, self._state.jobs[before[0]]):
                return
            self._step(round_, place, operation, self._state.jobs[before.popleft()])
        self.hurries = True

    def _targets(self, place: str, operation: Operation) -> list[str]:
        """Jobs that it has still to look at: as old as its plan, and matching now."""
        start = place.partition("~")[0] + "~"
        jobs = [
            (job.since, where)
            for job in self._state.jobs.walk(_meant(operation.plan))
            if (where := f"{job.tenant}.{job.key}").startswith(start)
            and job.since <= operation.planned
            and selects(operation.plan.filter, job)
        ]
        return [where for _, where in sorted(jobs)]

    def _step(self, round_: Round, place: str, operation: Operation, job: Job) -> None:
        """One job, if it is still what the plan meant."""
        plan = operation.plan
        if job.since > operation.planned or not selects(plan.filter, job):
            return
        tenant, _, key = place.partition(".")
        events = applies(plan.verb, job, plan.reason, key, round_.now)
        if events and self._office.reopening_clash(job) is None:
            self._office.store(round_, tenant, job.key, events, cause=f"{OPERATION_CAUSE}{key}")

    def over(self, place: str, operation: Operation, more: bool) -> str | None:
        """Why an operation is to end here; None where it goes on."""
        plan, tally = operation.plan, self._state.relations.reopened(place)
        died = tally.get(State.DEAD, 0)
        if plan.canary and died and operation.done <= plan.canary:
            return f"the canary failed: {died} of {operation.done} died again"
        if plan.stop_after and died >= plan.stop_after:
            return f"{died} that it reopened died again; stop_after is {plan.stop_after}"
        if plan.limit and operation.done >= plan.limit:
            return f"limit {plan.limit} reached"
        return None if more else "done"

    def _awaits_canary(self, place: str, operation: Operation) -> bool:
        """Whether the first few have been changed, and have not all ended yet."""
        canary = operation.plan.canary
        if not canary or operation.done != canary:
            return False
        tally = self._state.relations.reopened(place)
        return sum(count for state, count in tally.items() if state not in TERMINAL) > 0

    def _awaits_room(self, operation: Operation, job: Job) -> bool:
        """Whether the tenant's quotas let no job be opened again now: it goes on when others have ended."""
        standing = self._state.standing(job.tenant)
        if standing is None or operation.plan.verb not in _REOPENING or job.state not in TERMINAL:
            return False
        return quotas.reopens(standing, job.input.size_bytes) is not None

    def _end(self, round_: Round, place: str, operation: Operation, reason: str) -> None:
        tenant, _, key = place.partition(".")
        event = OperationEnded(reason, operation.done)
        round_.record(tenant, "operation", key, (event,), actor="writ:orchestrator", cause="operation")
        self._before.pop(place, None)

    def plan(
        self, round_: Round, tenant: str, queue: str, actor: str, plan: Plan
    ) -> tuple[str | None, list[Job]]:
        """Records a plan, unless it is a dry run; its key, and the jobs it means."""
        found = self.matching(tenant, queue, plan)
        if plan.dry_run:
            return None, found
        key = f"{queue}~op{round_.position + 1}"
        event = OperationPlanned(
            plan.verb,
            plan.filter,
            plan.reason,
            len(found),
            plan.limit,
            plan.rate_per_s,
            plan.canary,
            plan.stop_after,
        )
        round_.record(tenant, "operation", key, (event,), actor=actor, vouched=False, cause="plan")
        return key, found


_REOPENS: Final = {
    OperationVerb.REDRIVE: JobRedriven,
    OperationVerb.RERUN: JobRerun,
    OperationVerb.DROP: JobDropped,
}


def _meant(plan: Plan | OperationPlanned) -> frozenset[State]:
    """The states of the jobs that a plan may change: most plans mean no job that has ended."""
    event = _REOPENS.get(plan.verb)
    if event is None:
        states = frozenset(State) - TERMINAL
    else:
        states = frozenset([state for state in TERMINAL if (state, event) in TRANSITIONS])
    return states & set(plan.filter.states) if plan.filter.states else states


def applies(verb: OperationVerb, job: Job, reason: str, operation: str | None, now: int) -> tuple[Fact, ...]:
    """The events of one step; none where the job's state does not allow it."""
    match verb:
        case OperationVerb.REDRIVE:
            outcome = control.redrive(job, Redrive(id=job.id, reason=reason), operation)
        case OperationVerb.RERUN:
            outcome = control.rerun(job, Rerun(id=job.id, reason=reason), operation)
        case OperationVerb.CANCEL:
            outcome = control.cancel(job, Cancel(id=job.id, reason=reason))
        case OperationVerb.TERMINATE:
            outcome = control.terminate(job, Terminate(id=job.id, reason=reason))
        case OperationVerb.DROP:
            outcome = control.drop(job, Drop(id=job.id, reason=reason))
        case OperationVerb.PAUSE:
            outcome = control.pause(job, Pause(id=job.id, reason=reason))
        case OperationVerb.RESUME:
            outcome = control.resume(job, Resume(id=job.id, reason=reason), now)
    return () if isinstance(outcome, Rejection) else outcome
