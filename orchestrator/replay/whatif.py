"""What would have come out under other policies: the log folded again with some decisions made otherwise.

Each job is followed along its own records, at its own time. Where a decision on it is made again under
another policy and comes out the same, it goes on as it did; where a retry is due earlier or later, or a limit
holds a lease back, all that follows of it moves by as much; where it ends sooner, the rest never happens.

What is taken as given: an attempt that ran takes as long and ends as it did, whenever it starts; a worker is
there when one was there; people do what they did, when they did it. What rests on an attempt that never ran,
or on a person who would have met the job in another state, is unknown, and so is what rests on that.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from msgspec.structs import replace

from writ.schemas.events import (
    AttemptFailed,
    DeadReason,
    Fact,
    JobCancelled,
    JobDeadLettered,
    JobRedriven,
    JobRerun,
    JobSuspended,
    LeaseExpired,
    LeaseGranted,
    QueueDeclared,
    RetryScheduled,
)
from writ.schemas.lifecycle import TERMINAL, Job, State, job_deadline, micros
from writ.schemas.policy import QueuePolicy
from writ.schemas.queues import BUILT_IN, Mode, Queue, evolve_queue, granted, retried
from writ.schemas.records import Record
from writ.schemas.steps import CompensationDue
from writ.schemas.supposed import Supposed

from ..decide import retry
from .alerts import alerted
from .otherwise import Otherwise, Sum, WhatIf
from .spending import Ledger, Tables
from .stretch import Stretch
from .threads import ENDINGS, OPENS, Records, Step, Thread, caused_by, from_outside, lay_out, recorded

UNKNOWN: Final = "unknown"
_BY_TIME: Final = (DeadReason.EXPIRED, DeadReason.JOB_TIMEOUT)
_WEIGHED: Final = ("retry", "concurrency", "key_concurrency", "rate_per_s", "burst", "retries_per_min")


_Place = tuple[int, int]
"""In the line of those held back: priority, and sequence of the recorded lease."""


class _Line:
    """A queue in this telling: its state under the policy in question, what runs, and who is held back."""

    def __init__(self) -> None:
        self.queue = BUILT_IN
        self.running = 0
        self.by_key: dict[str, int] = {}
        self.held: dict[int, Thread] = {}
        """Whose lease is held back, by the sequence of the recorded one."""

        self._next: list[_Place] = []
        self._of_key: dict[str, list[_Place]] = {}
        """Those for whom the others of their key leave no room: looked at again when one of these ends."""

        self._limits: list[tuple[int, int]] = []
        self.wake: int | None = None

    def is_open(self, now: int) -> bool:
        """Whether the queue's own limits let somebody go."""
        most = self.queue.policy.concurrency
        if self.queue.mode is Mode.PAUSED or (most is not None and self.running >= most):
            return False
        tokens = self.queue.grant_tokens(now)
        return tokens is None or tokens > 0

    def has_room(self, job: Job) -> bool:
        """Whether the others of its key leave room."""
        most, key = self.queue.policy.key_concurrency, job.concurrency_key
        return most is None or key is None or self.by_key.get(key, 0) < most

    def count(self, job: Job, by: int) -> None:
        self.running += by
        key = job.concurrency_key
        if key is not None:
            self.by_key[key] = self.by_key.get(key, 0) + by
            if by < 0:
                self._look_at(key)

    def hold(self, thread: Thread, step: Step, deadline: int) -> None:
        """A job is not let go before `deadline`, by which its time would be over."""
        assert step.before is not None
        self.held[step.seq] = thread
        heapq.heappush(self._next, (step.before.priority, step.seq))
        heapq.heappush(self._limits, (deadline, step.seq))

    def overdue(self, now: int) -> Iterator[Thread]:
        """Those held back past their time, who are so no more."""
        while self._limits and self._limits[0][0] < now:
            thread = self.held.pop(heapq.heappop(self._limits)[1], None)
            if thread is not None:
                yield thread

    def released(self, now: int) -> Iterator[Thread]:
        """Those who may go now, in their order; each is to be counted before the next one is asked for."""
        while self._next and self.is_open(now):
            place = heapq.heappop(self._next)
            thread = self.held.get(place[1])
            if thread is None:
                continue
            job = thread.steps[thread.next].before
            assert job is not None
            if self.has_room(job):
                del self.held[place[1]]
                yield thread
            else:
                heapq.heappush(self._of_key.setdefault(job.concurrency_key or "", []), place)

    def look_at_all(self) -> None:
        """The limits are others now."""
        for places in self._of_key.values():
            for place in places:
                heapq.heappush(self._next, place)
        self._of_key.clear()

    def _look_at(self, key: str) -> None:
        places = self._of_key.get(key, [])
        while places:
            place = heapq.heappop(places)
            if place[1] in self.held:
                heapq.heappush(self._next, place)
                return


def what_if(
    stretch: Stretch, policies: Mapping[str, QueuePolicy], prices: Tables = MappingProxyType({})
) -> WhatIf:
    """What would have come out had these queues had these policies, and these models these prices.

    A policy stands in place of all that were declared for its queue, from the first declaration on; where
    none ever was, from the start. The prices of a model stand in place of all that were set for it. Raises
    HistoryError.
    """
    return _Telling(stretch, policies, prices).tell()


def supposing(stretch: Stretch, supposed: Supposed) -> WhatIf:
    """What would have come out under all that is supposed, and which alerts would have fired.

    Raises HistoryError.
    """
    prices = supposed.price_tables()
    alerts = alerted(stretch, supposed.alerts, prices)
    return replace(what_if(stretch, supposed.queues, prices), alerts=alerts)


class _Telling:
    def __init__(self, stretch: Stretch, policies: Mapping[str, QueuePolicy], prices: Tables) -> None:
        self._policies = policies
        self._ledger = Ledger(prices)
        records = lay_out(stretch)
        self._threads, self._ended = records.threads, records.ended
        self._lines: dict[str, _Line] = {}
        self._heap: list[tuple[int, int, int, Thread | Record | str]] = []
        """Times at which a job takes its next step, a queue changes, or one has a token again."""

        self._pushed = 0
        self._waits_for: dict[int, list[Thread]] = {}
        self._told: dict[int, bool] = {}
        """Whether the end that a record tells came, and was the same; by its sequence."""

        self._moved_by: dict[int, int] = {}
        self._not_weighed: dict[str, tuple[str, ...]] = {}
        self._begin(records)

    def _begin(self, records: Records) -> None:
        """Puts each job's first step, and what was done to queues, at their times."""
        for thread in self._threads.values():
            self._ledger.lay_out(thread)
            policy = self._policies.get(thread.queue)
            if policy is not None and thread.queue not in records.declared:
                self._line(thread.place).queue = replace(BUILT_IN, policy=policy)
            self._settle_policy(thread, records.declared)
            self._advance(thread)
        for record in records.governing:
            self._push(record.at, record.seq, record)
        self._weigh(records.queues)

    def _settle_policy(self, thread: Thread, declared: set[str]) -> None:
        """Which retry policy a job that took its queue's has in this telling."""
        policy = self._policies.get(thread.queue)
        version = thread.steps[0].after.policy
        if policy is None or (thread.queue in declared and not version):
            thread.retry = None
        elif thread.retry is not None:
            thread.retry = policy.retry if policy.retry != thread.retry else None

    def _weigh(self, recorded: dict[str, Queue]) -> None:
        """Names what of the policies differs from the newest ones and is not looked at."""
        for name, policy in self._policies.items():
            old = next(
                (q.policy for place, q in recorded.items() if place.endswith(f".{name}")), QueuePolicy()
            )
            left = tuple(
                field
                for field in policy.__struct_fields__
                if field not in _WEIGHED and getattr(policy, field) != getattr(old, field)
            )
            if left:
                self._not_weighed[name] = left

    # --- telling it again ----------------------------------------------------------------------------------

    def tell(self) -> WhatIf:
        while self._heap:
            now, _, _, what = heapq.heappop(self._heap)
            if isinstance(what, Thread):
                self._step(what, now)
            elif isinstance(what, Record):
                self._govern(what)
            else:
                self._lines[what].wake = None
                self._open(what, now)
        return self._result()

    def _push(self, at: int, seq: int, what: Thread | Record | str) -> None:
        self._pushed += 1
        heapq.heappush(self._heap, (at, seq, self._pushed, what))

    def _line(self, place: str) -> _Line:
        return self._lines.setdefault(place, _Line())

    def _govern(self, record: Record) -> None:
        """A queue is declared, closed or opened, with the policy in question in place of the recorded one."""
        line = self._line(f"{record.tenant}.{record.key}")
        for event in record.events:
            if isinstance(event, QueueDeclared):
                event = replace(event, policy=self._policies.get(record.key, event.policy))  # noqa: PLW2901
            line.queue = evolve_queue(line.queue, event)
        line.look_at_all()
        self._open(f"{record.tenant}.{record.key}", record.at)

    def _advance(self, thread: Thread) -> None:
        """Puts the next step of a job at its time, if that is known."""
        if thread.next == len(thread.steps):
            return
        step = thread.steps[thread.next]
        other = self._follows(thread, step)
        if other is not None and other not in self._told:
            self._waits_for.setdefault(other, []).append(thread)
        elif other is not None:
            self._push(step.at + self._moved_by[other], step.seq, thread)
        else:
            later_us = 0 if from_outside(step) else thread.later_us
            self._push(step.at + later_us, step.seq, thread)

    def _follows(self, thread: Thread, step: Step) -> int | None:
        """The record of another job's end that a step follows from."""
        seq = caused_by(step)
        return seq if seq is not None and self._ended.get(seq, thread) is not thread else None

    def _step(self, thread: Thread, now: int) -> None:
        step = thread.steps[thread.next]
        place, first = thread.place, step.events[0]
        if thread.came is not None and not self._reopens(thread, first):
            self._skip(thread, step)
            return
        other = self._follows(thread, step)
        if other is not None and not self._told[other]:
            self._unknown(
                thread, step, f"it rests on {self._ended[other].key}, which would end otherwise", now
            )
            return
        if other is not None:
            thread.later_us = now - step.at
        if thread.later_us and from_outside(step) and not isinstance(first, OPENS):
            self._unknown(thread, step, "it would have met what was done then at another point", now)
            return
        if thread.later_us and self._too_late(thread, step, now):
            return
        if isinstance(first, LeaseGranted):
            line = self._line(place)
            assert step.before is not None
            if not (line.is_open(now) and line.has_room(step.before)):
                line.hold(thread, step, _limit(step.before)[0])
                self._await_token(place, now)
                return
            self._grant(thread, step, now)
        elif not self._decide(thread, step, now):
            return
        self._done(thread, step, now)

    def _done(self, thread: Thread, step: Step, now: int) -> None:
        """A step was taken as it is recorded."""
        model = self._ledger.tell(thread, step, now)
        if model is not None:
            thread.repriced = thread.repriced or (
                step.seq,
                f"its usage of model {model} would cost otherwise",
            )
        if self._ended.get(step.seq) is thread:
            thread.ends_at = now
            self._tell_end(step.seq, True, now - step.at)
        thread.next += 1
        self._advance(thread)

    def _skip(self, thread: Thread, step: Step) -> None:
        """A step that would not have been: those that follow from it are looked at all the same."""
        if self._ended.get(step.seq) is thread and step.seq not in self._told:
            self._tell_end(step.seq, False, 0)
        thread.next += 1
        self._advance(thread)

    def _tell_end(self, seq: int, same: bool, moved_us: int) -> None:
        self._told[seq], self._moved_by[seq] = same, moved_us
        for waiting in self._waits_for.pop(seq, ()):
            self._advance(waiting)

    @staticmethod
    def _reopens(thread: Thread, first: Fact) -> bool:
        """Whether an operator opens a job again that has ended in this telling too: all is as it was."""
        came = thread.came
        assert came is not None
        opens = isinstance(first, JobRedriven) and came.state == State.DEAD
        opens = opens or (isinstance(first, JobRerun) and came.state in TERMINAL)
        if opens:
            thread.came, thread.later_us = None, 0
        return opens

    # --- leases --------------------------------------------------------------------------------------------

    def _grant(self, thread: Thread, step: Step, now: int) -> None:
        line = self._line(thread.place)
        assert step.before is not None
        if now - step.at != thread.later_us:
            self._part(thread, step.seq, "the queue's limits hold its lease back")
        thread.later_us = now - step.at
        thread.running = True
        thread.tally[0] += 1
        line.count(step.before, 1)
        line.queue = granted(line.queue, now)

    def _release(self, thread: Thread, job: Job | None, now: int) -> None:
        if thread.running and job is not None:
            thread.running = False
            place = thread.place
            self._line(place).count(job, -1)
            self._open(place, now)

    def _open(self, place: str, now: int) -> None:
        """Who is held back and may go now, goes."""
        line = self._line(place)
        for thread in line.overdue(now):
            self._too_late(thread, thread.steps[thread.next], now)
        for thread in line.released(now):
            step = thread.steps[thread.next]
            self._grant(thread, step, now)
            self._done(thread, step, now)
        if line.held:
            self._await_token(place, now)

    def _await_token(self, place: str, now: int) -> None:
        line = self._line(place)
        at = line.queue.next_grant_at(now)
        if at > now and (line.wake is None or at < line.wake):
            line.wake = at
            self._push(at, 0, place)

    def _too_late(self, thread: Thread, step: Step, now: int) -> bool:
        """Whether a time limit of the job would have ended it before this step."""
        job = step.before
        if job is None or now <= step.at or job.wait is not None or job.state in TERMINAL:
            return False
        deadline, words = _limit(job)
        if now <= deadline:
            return False
        thread.tally[1] += thread.running
        self._end(thread, step, State.DEAD, words, deadline)
        return True

    # --- decisions -----------------------------------------------------------------------------------------

    def _decide(self, thread: Thread, step: Step, now: int) -> bool:
        """Makes the decision of a step again; whether the job goes on as recorded."""
        first, job = step.events[0], step.before
        by_time = _is_by_time(step.events[-1])
        if by_time and thread.later_us:
            self._unknown(thread, step, "its time limits would have met it at another point", now)
            return False
        match first:
            case AttemptFailed() if job is not None:
                thread.tally[1] += 1
                going_on = by_time or self._failed(thread, step, job, first, now)
            case LeaseExpired() if job is not None:
                thread.tally[2] += 1
                going_on = self._lost(thread, step, job, now)
            case _:
                going_on = True
        if isinstance(first, (*ENDINGS, JobSuspended)) or step.after.state in TERMINAL:
            self._release(thread, job, now)
        return going_on

    def _failed(self, thread: Thread, step: Step, job: Job, first: AttemptFailed, now: int) -> bool:
        line = self._line(thread.place)
        job = job if thread.retry is None else replace(job, retry=thread.retry)
        was = step.events[1]
        seed = was.seed if isinstance(was, RetryScheduled) else 0.5
        now_is = retry.what_follows(job, line.queue, first, now, seed)
        if isinstance(now_is, RetryScheduled):
            line.queue = retried(line.queue, now)
            if not isinstance(was, RetryScheduled):
                never = f"it would have been retried ({now_is.rule}), and that attempt never ran"
                self._unknown(thread, step, never, now)
                return False
            moved = (now_is.due_at - now) - (was.due_at - step.at)
            if moved:
                self._part(thread, step.seq, f"its retry would be due {moved / 1e6:+.6g} s from when it was")
                thread.later_us += moved
            return True
        if type(now_is) is type(was):
            return True
        self._ends(thread, step, now_is, now)
        return False

    def _lost(self, thread: Thread, step: Step, job: Job, now: int) -> bool:
        job = job if thread.retry is None else replace(job, retry=thread.retry)
        now_is, was = retry.after_lost_lease(job)[1:], step.events[1:]
        if [type(event) for event in now_is] == [type(event) for event in was]:
            return True
        if not now_is:
            self._unknown(thread, step, "it would have been given out again, and that attempt never ran", now)
        else:
            self._ends(thread, step, now_is[0], now)
        return False

    def _ends(self, thread: Thread, step: Step, event: Fact, now: int) -> None:
        match event:
            case JobDeadLettered(rule=rule):
                self._end(thread, step, State.DEAD, rule, now)
            case JobCancelled(reason=reason):
                self._end(thread, step, State.CANCELLED, reason, now)
            case JobSuspended(rule=rule):
                self._end(thread, step, State.SUSPENDED, rule, now)
            case CompensationDue(rule=rule):
                never = f"it would end ({rule}) when its steps are undone, and those attempts never ran"
                self._unknown(thread, step, never, now)
            case _:
                raise AssertionError(type(event))

    # --- how it comes out ----------------------------------------------------------------------------------

    @staticmethod
    def _part(thread: Thread, seq: int, why: str) -> None:
        thread.parted = thread.parted or (seq, why)

    def _end(self, thread: Thread, step: Step, state: str, why: str, now: int) -> None:
        """The job ends here in this telling; what is recorded of it from here on never was."""
        self._part(thread, step.seq, why)
        ended_at = now if state in TERMINAL else None
        thread.came = thread.comes(state, ended_at, why)
        thread.ends_at = now
        self._release(thread, step.before, now)
        for later in thread.steps[thread.next :]:
            if isinstance(later.events[0], OPENS):
                break
            if self._ended.get(later.seq) is thread:
                self._tell_end(later.seq, later.after.state == state, now - later.at)
                break
        self._skip(thread, step)

    def _unknown(self, thread: Thread, step: Step, why: str, now: int) -> None:
        self._end(thread, step, UNKNOWN, why, now)

    def _result(self) -> WhatIf:
        otherwise: list[Otherwise] = []
        was_all, would_all = Sum(), Sum()
        moved = 0
        for place in sorted(self._threads):
            thread = self._threads[place]
            was = recorded(thread)
            would = thread.came or thread.comes(
                was.state, None if was.ended_at is None else thread.ends_at, was.reason
            )
            if thread.next < len(thread.steps):
                # A limit holds it back until after the end of the log.
                self._part(thread, thread.steps[thread.next].seq, "the queue's limits hold its lease back")
                held = thread.steps[thread.next].before
                would = thread.comes(State.PENDING if held is None else held.state)
            was_all.add(was)
            would_all.add(would)
            parted = thread.parted or thread.repriced
            if was == would and parted is None:
                continue
            seq, why = parted or (thread.steps[-1].seq, "what it rests on comes at another time")
            same_time = (was.ended_at, 0) == (would.ended_at, thread.later_us)
            moved += not same_time and (was.state, was.attempts) == (would.state, would.attempts)
            otherwise.append(Otherwise(thread.key, seq, why, was, would, thread.later_us))
        return WhatIf(
            tuple(sorted(self._policies)),
            self._not_weighed,
            len(self._threads),
            was_all.totals(),
            would_all.totals(),
            moved,
            tuple(otherwise),
            self._ledger.pricing.models,
            self._ledger.lines(),
        )


def _limit(job: Job) -> tuple[int, str]:
    """When a job's time is over, in microseconds, and which limit says so."""
    limits, deadline = job.limits, job_deadline(job)
    if job.attempt == 0 and limits.expires_in_s is not None:
        expires = job.round_at + job.stood_us + micros(limits.expires_in_s)
        if expires < deadline:
            return expires, f"not started within expires_in_s {limits.expires_in_s}"
    return deadline, f"not finished within job_timeout_s {limits.job_timeout_s}"


def _is_by_time(event: Fact) -> bool:
    """Whether an event ends a job because a time limit has passed, be it when its steps are undone."""
    match event:
        case JobDeadLettered(reason=reason) | CompensationDue(dead=reason):
            return reason in _BY_TIME
        case _:
            return False
