"""The rules of schedules: each due time is met once, by what the policies say."""

from __future__ import annotations

import datetime

from writ.schemas import events as e
from writ.schemas import schedules as s
from writ.schemas.records import Record

from .lines import Lines
from .loop import SECOND_US
from .tally import Tally, Wrong, need, us

_MINUTE_US = 60 * SECOND_US
_ON_TIME_US = 60 * SECOND_US


def _time(moment: datetime.datetime) -> int:
    return us(moment.timestamp())


class Schedule:
    """One schedule. Up to `since` everything is dealt with."""

    def __init__(self) -> None:
        self.spec = s.ScheduleSpec("none", every_s=1)
        self.version = 0
        self.anchor = 0
        self.since = 0
        self.paused = False
        self.deleted = True

    def next(self, after: int) -> int:
        """The first due time later than `after`, as long as the schedule goes on."""
        if self.spec.cron is not None:
            need(self.spec.cron == "* * * * *", "a cron expression that the checker does not know")
            every, anchor = _MINUTE_US, 0
        else:
            every, anchor = us(self.spec.every_s or 0), self.anchor
        return after + every - (after - anchor) % every

    def times(self, until: int) -> list[int]:
        """The due times that are not dealt with, up to `until`, oldest first."""
        if self.paused or self.deleted:
            return []
        end = until + 1 if self.spec.ends_at is None else _time(self.spec.ends_at)
        due: list[int] = []
        at = self.next(self.since)
        while at <= until and at < end:
            due.append(at)
            at = self.next(at)
        return due

    def over(self) -> bool:
        """Whether it will never be due again."""
        ends_at = self.spec.ends_at
        return self.deleted or (ends_at is not None and self.next(self.since) >= _time(ends_at))

    def declare(self, event: s.ScheduleDeclared, record: Record) -> None:
        need(event.version == self.version + 1, f"version {event.version} after {self.version}")
        old, new = self.spec, event.spec
        anew = self.deleted or (old.cron, old.every_s, old.ends_at) != (new.cron, new.every_s, new.ends_at)
        if self.deleted or old.every_s != new.every_s:
            self.anchor = record.at
        if self.deleted:
            self.paused = new.paused
            self.since = record.at
        self.since = max(self.since, record.at) if anew else self.since
        self.spec, self.version, self.deleted = new, event.version, False


class Timetable:
    """The schedules of a log, by `<tenant>.<queue>~<name>`."""

    def __init__(self, jobs: dict[str, Tally], lines: Lines) -> None:
        self._jobs = jobs
        self._lines = lines
        self.schedules: dict[str, Schedule] = {}
        self._born: list[Tally] = []
        """Jobs of a schedule that has not said so yet."""

    def born(self, job: Tally) -> None:
        """A job that no submit asked for."""
        need(job.given.schedule is not None, "names neither a submit nor a schedule")
        self._born.append(job)

    def cancels(self, job: Tally) -> bool:
        """Whether a schedule may end a job: one of its own."""
        return job.given.schedule is not None

    def change(self, event: e.Fact, record: Record) -> None:
        place = f"{record.tenant}.{record.key}"
        if isinstance(event, s.ScheduleDeclared):
            self.schedules.setdefault(place, Schedule()).declare(event, record)
            return
        schedule = self.schedules.get(place)
        if schedule is None:
            raise Wrong("was never declared")
        match event:
            case s.ScheduleFired():
                self._fired(place, schedule, event, record)
            case s.ScheduleSkipped():
                self._skipped(place, schedule, event, record)
            case s.ScheduleTriggered(job=job, overlap=overlap, after=after, cancelled=cancelled):
                need(not record.actor.startswith("writ:"), "triggered by nobody")
                self._started(place, job, overlap, after, cancelled)
            case s.ScheduleBackfilled(jobs=started):
                need(not record.actor.startswith("writ:"), "backfilled by nobody")
                for job in started:
                    self._named(place, job)
            case s.SchedulePaused():
                need(not schedule.paused, "paused before")
                schedule.paused = True
            case s.ScheduleResumed():
                need(schedule.paused, "was not paused")
                schedule.paused, schedule.since = False, max(schedule.since, record.at)
            case _:
                need(isinstance(event, s.ScheduleDeleted) and not schedule.deleted, "deleted before")
                schedule.deleted = True

    def _live(self, place: str, but: str) -> list[str]:
        """Ids of the live jobs of a schedule, but for one."""
        queue, _, name = place.partition("~")
        mine = [job for job in self._jobs.values() if job.queue == queue and job.given.schedule == name]
        return [job.key.partition("~")[2] for job in mine if job.live and not job.key.endswith(f"~{but}")]

    def _named(self, place: str, job_id: str) -> Tally:
        """The job that a schedule says it started."""
        job = self._jobs.get(f"{place.partition('~')[0]}~{job_id}")
        if job is None or job.given.schedule != place.partition("~")[2]:
            raise Wrong(f"started {job_id}, which is no job of it")
        if job in self._born:
            self._born.remove(job)
        return job

    def _wanted(self, schedule: Schedule, due_at: int, now: int) -> bool:
        """Whether catching up runs a due time."""
        rank = len([at for at in schedule.times(now) if at > due_at])
        late_us, within_s = now - due_at, schedule.spec.catch_up_within_s
        if rank == 0 and late_us <= _ON_TIME_US:
            return True
        return rank < schedule.spec.catch_up_max and (within_s is None or late_us <= us(within_s))

    def _fired(self, place: str, schedule: Schedule, event: s.ScheduleFired, record: Record) -> None:
        first = next(iter(schedule.times(record.at)), None)
        need(event.due_at == first, f"fired for {event.due_at}; what is due next is {first}")
        stamp = datetime.datetime.fromtimestamp(event.due_at / SECOND_US, datetime.UTC)
        prefix = f"{place.partition('~')[2]}-{stamp:%Y%m%dT%H%M%S}"
        need(event.job.startswith(prefix), f"{event.job} is not the job of {event.due_at}")
        new = any(job.key.endswith(f"~{event.job}") for job in self._born)
        self._named(place, event.job)
        need(not new or self._wanted(schedule, event.due_at, record.at), "catching up does not run it")
        schedule.since = event.due_at
        if new:
            need(event.overlap == schedule.spec.overlap, "another overlap than its own")
            self._started(place, event.job, event.overlap, event.after, event.cancelled)

    def _started(
        self, place: str, job_id: str, overlap: str, after: tuple[str, ...], cancelled: tuple[str, ...]
    ) -> None:
        job = self._named(place, job_id)
        queue = place.partition("~")[0].partition(".")[2]
        keys = tuple([f"{queue}~{before}" for before in after])
        need(job.given.after == keys, f"{job_id} does not come after {after}")
        before = [other for other in self._live(place, job_id) if self._older(place, other, job)]
        match overlap:
            case "skip":
                need(not before, f"started beside {before}; overlap is skip")
            case "queue" | "cancel_running":
                late = [other for other in before if other not in after]
                need(not late, f"does not come after {late}; overlap is {overlap}")
            case _:
                need(not after and not cancelled, "overlap is allow")
        if overlap == "cancel_running":
            left = [other for other in before if self._at(place, other).cancel is None]
            need(not left, f"started, and {left} was not cancelled")
        else:
            need(not cancelled, f"cancelled {cancelled}; overlap is {overlap}")

    def _at(self, place: str, job_id: str) -> Tally:
        return self._jobs[f"{place.partition('~')[0]}~{job_id}"]

    def _older(self, place: str, job_id: str, than: Tally) -> bool:
        return self._at(place, job_id).opened < than.opened

    def _skipped(self, place: str, schedule: Schedule, event: s.ScheduleSkipped, record: Record) -> None:
        due = schedule.times(record.at)
        first = event.due_at if event.first_due_at is None else event.first_due_at
        need(due and first == due[0], f"skips {first}; what is due next is {due[:1]}")
        skipped = [at for at in due if at <= event.due_at]
        need(event.due_at in due, f"skips up to {event.due_at}, which is not due")
        need(event.count == len(skipped) and not event.more, f"skips {event.count} times, not {len(skipped)}")
        wanted = [at for at in due if self._wanted(schedule, at, record.at)]
        for at in skipped:
            if at in wanted:
                need(self._hindered(place, schedule, at == wanted[-1]), f"{at} is to be run")
        schedule.since = event.due_at

    def _hindered(self, place: str, schedule: Schedule, newest: bool) -> bool:
        """Whether the queue, or a live job, is against a due time that catching up runs."""
        queue, overlap = place.partition("~")[0], schedule.spec.overlap
        line = self._lines.at(queue)
        most = line.policy.pending_max
        if line.mode == "draining" or (most is not None and len(self._lines.pending(queue)) >= most):
            return True
        if overlap in ("skip", "cancel_running") and not newest:
            return True
        return overlap == "skip" and bool(self._live(place, ""))

    def close(self, at: int) -> None:
        """The records of a round at log time `at` are complete."""
        need(not self._born, f"{[job.key for job in self._born]} was started by no schedule")
        for place, schedule in self.schedules.items():
            due = schedule.times(at)
            need(not due, f"{place} was due at {due[:1]}, and at {at} it was passed over")
