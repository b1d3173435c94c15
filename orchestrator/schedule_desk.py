"""Schedules: what is due starts jobs, and what operators ask of them.

A firing is stored in the order cancels, jobs, schedule: after a crash in between, deciding again finds the
jobs by their ids, which follow from the due times.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from writ.schemas import commands
from writ.schemas.commands import SubmitJob
from writ.schemas.events import CancelRequested, Fact, OnDead
from writ.schemas.ids import job_key
from writ.schemas.processes import named
from writ.schemas.rejections import Rejection
from writ.schemas.schedules import Schedule, ScheduleSpec, log_time
from writ.schemas.sealed import unseal

from .consequences import ORCHESTRATOR
from .decide import depend, intake, quotas
from .decide import schedule as deciding
from .decide.death import cancelled
from .decide.release import at_submit
from .decide.schedule import Firing, Start
from .messages import Asked
from .office import Office, encode
from .round import Round

_PER_ROUND = 50
"""Schedules that one round looks at: after a long downtime each may cost a millisecond."""


class ScheduleDesk:
    """Fires what is due, and keeps schedules declared, paused and resumed."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._state = office.state
        self.verbs: dict[type[commands.Command], Callable[[Round, Asked, Any], None]] = {
            commands.DeclareSchedule: self._declare,
            commands.PauseSchedule: self._named,
            commands.ResumeSchedule: self._named,
            commands.DeleteSchedule: self._named,
            commands.TriggerSchedule: self._trigger,
            commands.Backfill: self._backfill,
        }

    def fire(self, round_: Round) -> None:
        """Starts the jobs of schedules that are due, as far as the round has room."""
        for _ in range(_PER_ROUND):
            if not round_.has_room(2 * deciding.QUEUED_MAX + 3, 0):
                return
            place = self._state.schedule_deadlines.pop(round_.now)
            if place is None:
                return
            schedule = self._state.schedules[place]
            tenant = place.partition(".")[0]
            firing = deciding.due(schedule, self.live(place), round_.now, self.exists(tenant, schedule.queue))
            # What the queue refuses now is told as skipped.
            refused = self.refusals(tenant, schedule, firing, round_.now)
            firing = deciding.not_started(firing, {job: why.reason for job, why in refused.items()})
            if firing.events or firing.starts:
                self.store(round_, tenant, schedule, firing, ORCHESTRATOR, "schedule")
            self._state.rearm_schedule(place)

    def live(self, place: str) -> list[str]:
        """Ids of the jobs of a schedule that have not ended, oldest first."""
        jobs = self._state.jobs
        live = sorted((jobs[where].submitted_at, where) for where in self._state.relations.scheduled(place))
        return [jobs[where].id for _, where in live]

    def exists(self, tenant: str, queue: str) -> Callable[[str], bool]:
        return lambda job_id: self._state.job(tenant, queue, job_id) is not None

    def _submit(self, schedule: Schedule, start: Start) -> SubmitJob:
        """The submit that a start stands for."""
        spec, queue = schedule.spec, schedule.queue
        return SubmitJob(
            task=spec.task,
            input=msgspec.Raw(unseal(schedule.input)),
            id=start.id,
            priority=spec.priority,
            retry=spec.retry,
            lease_s=spec.lease_s,
            attempt_timeout_s=spec.attempt_timeout_s,
            job_timeout_s=spec.job_timeout_s,
            expires_in_s=spec.expires_in_s,
            fairness_key=spec.fairness_key,
            concurrency_key=spec.concurrency_key,
            after=tuple([job_key(queue, before) for before in start.after]),
            on_dead=OnDead.RUN,
        )

    def release_of(self, tenant: str, spec: ScheduleSpec) -> str | Rejection | None:
        """The release that the schedule's jobs name, as they keep it."""
        if spec.process is None:
            return None
        process = self._state.processes.get(f"{tenant}.{named(spec.process).process}")
        return at_submit(spec.process, process, None)

    def refusals(self, tenant: str, schedule: Schedule, firing: Firing, now: int) -> dict[str, Rejection]:
        """Why the queue or the tenant's quotas would refuse jobs of a firing now, by their ids."""
        place = f"{tenant}.{schedule.queue}"
        queue, pending = self._state.queue(place), self._state.pending_in(place)
        standing, size_bytes = self._state.standing(tenant), schedule.input.size_bytes
        release = self.release_of(tenant, schedule.spec)
        refused: dict[str, Rejection] = {}
        for start in firing.starts:
            if start.known:
                continue
            command = msgspec.structs.replace(self._submit(schedule, start), after=())
            against = intake.refusal(command, queue, pending, partial(self._state.find, tenant), None)
            if against is None and isinstance(release, Rejection):
                against = release
            if against is None and standing is not None:
                against = quotas.refuses(standing, size_bytes, queue.policy.reserve_microusd, now)
            if against is not None:
                refused[start.id] = against
                continue
            if standing is not None:
                standing = quotas.with_job(standing, size_bytes, now)
            if not start.after:
                pending += 1  # one that comes after others waits for them, and is not pending
        return refused

    def store(
        self, round_: Round, tenant: str, schedule: Schedule, firing: Firing, actor: str, cause: str
    ) -> None:
        """Cancels, jobs, schedule: in that order, and all in one batch."""
        round_.whole = True
        queue, release = schedule.queue, self.release_of(tenant, schedule.spec)
        for start in firing.starts:
            if start.known:
                continue
            for before in start.cancel:
                self._cancel(round_, tenant, queue, before, start.id)
            key = job_key(queue, start.id)
            command = self._submit(schedule, start)
            assert not isinstance(release, Rejection), "a job whose release is refused was not started"
            policy = self._state.queue(f"{tenant}.{queue}")
            events = intake.submit(command, policy, round_.now, schedule=schedule.name, process=release)
            self._office.store(round_, tenant, key, events, actor=actor, cause=cause)
            if command.after:
                job = self._state.jobs[f"{tenant}.{key}"]
                waits = depend.on_submit(job, partial(self._state.find, tenant))
                if waits:
                    round_.extend(tenant, key, waits)
                    self._office.after_change(tenant, key)
        if firing.events:
            self._record(round_, tenant, schedule.key, firing.events, actor, cause)

    def _cancel(self, round_: Round, tenant: str, queue: str, job_id: str, by: str) -> None:
        job = self._state.job(tenant, queue, job_id)
        if job is None or job.cancel is not None or job.finished_at is not None:
            return
        reason = f"its schedule started {by}; overlap is cancel_running"
        events: tuple[Fact, ...] = (CancelRequested(reason),)
        if job.lease is None and job.compensation is None:
            events = (*events, cancelled(job, reason))
        self._office.store(round_, tenant, job.key, events, cause="schedule")

    def _record(
        self, round_: Round, tenant: str, key: str, events: tuple[Fact, ...], actor: str, cause: str
    ) -> None:
        vouched = None if actor == ORCHESTRATOR else False
        round_.record(tenant, "schedule", key, events, actor=actor, vouched=vouched, cause=cause)

    # --- what operators ask -------------------------------------------------------------------------------

    def _schedule(self, asked: Asked, name: str) -> Schedule | None:
        return self._state.schedules.get(f"{asked.address.tenant}.{asked.address.queue}~{name}")

    def _known(self, asked: Asked, name: str) -> Schedule | Rejection:
        return deciding.known(self._schedule(asked, name), name)

    def _declare(self, round_: Round, asked: Asked, command: commands.DeclareSchedule) -> None:
        schedule, queue = self._schedule(asked, command.name), asked.address.queue
        content = bytes(command.input)
        release = self.release_of(asked.address.tenant, command.spec)
        if isinstance(release, Rejection):
            self._office.refuse(round_, asked, release)
            return
        outcome = deciding.declare(schedule, queue, command.name, command.spec, content, command.reason)
        self._decided(round_, asked, command.name, outcome)

    def _named(
        self,
        round_: Round,
        asked: Asked,
        command: commands.PauseSchedule | commands.ResumeSchedule | commands.DeleteSchedule,
    ) -> None:
        schedule = self._known(asked, command.name)
        match command:
            case _ if isinstance(schedule, Rejection):
                outcome: tuple[Fact, ...] | Rejection = schedule
            case commands.PauseSchedule():
                outcome = deciding.pause(schedule, command.reason)
            case commands.ResumeSchedule():
                outcome = deciding.resume(schedule, command.reason)
            case _:
                outcome = deciding.delete(schedule, command.reason)
        self._decided(round_, asked, command.name, outcome)

    def _decided(self, round_: Round, asked: Asked, name: str, outcome: tuple[Fact, ...] | Rejection) -> None:
        if isinstance(outcome, Rejection):
            self._office.refuse(round_, asked, outcome)
            return
        tenant, principal, verb, queue = asked.address
        if outcome:
            self._record(round_, tenant, job_key(queue, name), outcome, principal, verb)
        answer = commands.Answer(None, round_.position)
        round_.answer(asked.send, encode(answer), verdict_only=not outcome)

    def _trigger(self, round_: Round, asked: Asked, command: commands.TriggerSchedule) -> None:
        tenant, _, _, queue = asked.address
        schedule = self._known(asked, command.name)
        if isinstance(schedule, Rejection):
            self._office.refuse(round_, asked, schedule)
            return
        live = self.live(f"{tenant}.{schedule.key}")
        exists = self.exists(tenant, queue)
        firing = deciding.trigger(schedule, live, round_.now, command.reason, exists, command.overlap)
        self._fired(round_, asked, schedule, firing)

    def _backfill(self, round_: Round, asked: Asked, command: commands.Backfill) -> None:
        tenant, _, _, queue = asked.address
        schedule = self._known(asked, command.name)
        if isinstance(schedule, Rejection):
            self._office.refuse(round_, asked, schedule)
            return
        firing = deciding.backfill(
            schedule,
            self.live(f"{tenant}.{schedule.key}"),
            round_.now,
            log_time(command.from_),
            log_time(command.to),
            command.reason,
            self.exists(tenant, queue),
            command.limit,
            command.overlap,
        )
        self._fired(round_, asked, schedule, firing)

    def _fired(self, round_: Round, asked: Asked, schedule: Schedule, firing: Firing | Rejection) -> None:
        """Stores a firing that an operator asked for, unless the queue refuses its jobs."""
        tenant, principal, verb, _ = asked.address
        if isinstance(firing, Rejection):
            self._office.refuse(round_, asked, firing)
            return
        against = next(iter(self.refusals(tenant, schedule, firing, round_.now).values()), None)
        if against is not None:
            self._office.refuse(round_, asked, against)
            return
        self.store(round_, tenant, schedule, firing, principal, verb)
        started = tuple([start.id for start in firing.starts if not start.known])
        answer = commands.Started(None, round_.position, started)
        round_.answer(asked.send, encode(answer), verdict_only=not firing.events)
