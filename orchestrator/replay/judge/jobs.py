"""Decisions on jobs, made again: submits, reports of workers, operators' words, deadlines, consequences."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from writ.schemas import commands
from writ.schemas.assets import AssetRead, ReadAsset
from writ.schemas.bounds import SECOND_US
from writ.schemas.commands import Completion, Held, SubmitJob
from writ.schemas.events import (
    AttemptFailed,
    AttemptStarted,
    CancelRequested,
    DeadReason,
    Fact,
    JobCancelled,
    JobCompleted,
    JobDeadLettered,
    JobDropped,
    JobDue,
    JobEdited,
    JobRedriven,
    JobRerun,
    JobResumed,
    JobSnoozed,
    JobSubmitted,
    JobSuspended,
    LeaseExpired,
    LeaseReleased,
    ProgressReported,
    RetryScheduled,
    SignalReceived,
    WaitReason,
)
from writ.schemas.fleet import label_words, meets
from writ.schemas.lifecycle import TERMINAL, Job, evolve
from writ.schemas.operations import OPERATION_CAUSE, selects
from writ.schemas.policy import Isolation
from writ.schemas.processes import named
from writ.schemas.records import Record
from writ.schemas.sealed import UNSEALED, Sealed
from writ.schemas.steps import CompensationDue, CompensationEnded

from ...consequences import ORCHESTRATOR
from ...decide import control, depend, intake, lease, quotas, retry, timers
from ...decide.assets import read_asset
from ...decide.death import cancelled
from ...decide.release import at_submit
from ...operating import applies
from ...state import Partition, address
from .differs import Differs, Unrecorded, accepted, need

_AFTER = "record:"
_SNOOZED, _SUSPENDED = "snooze", "suspend"


def decided_again(state: Partition, record: Record, events: tuple[Fact, ...]) -> tuple[Fact, ...]:
    """What deciding again gives for `events`, the record's without a lease at its end.

    Raises Differs where there is nothing to decide, or it is refused, and Unrecorded.
    """
    job = state.jobs.get(address(record.tenant, record.key))
    first = events[0]
    if isinstance(first, JobSubmitted):
        return _submitted(state, record, first, events)
    if job is None:
        raise Unrecorded  # the table refuses it
    if record.actor != ORCHESTRATOR:
        by_person = record.cause == "terminate" or (isinstance(first, JobSuspended) and first.token is None)
        report = None if by_person else _REPORTS.get(type(first))
        return _asked(job, record, events) if report is None else report(state, job, record, events)
    return _by_itself(state, job, record, events)


# --- submits --------------------------------------------------------------------------------------------


def _submitted(
    state: Partition, record: Record, first: JobSubmitted, events: tuple[Fact, ...]
) -> tuple[Fact, ...]:
    place = f"{record.tenant}.{record.key.partition('~')[0]}"
    queue, find = state.queue(place), partial(state.find, record.tenant)
    need(first.policy == queue.version, f"accepted under policy {first.policy}, not {queue.version}")
    need(first.due_at is None or first.due_at > record.at, "due_at is not later than the record")
    demanded = queue.policy.requires
    need(meets(first.requires, demanded), f"the queue demands {label_words(demanded)} of each worker")
    _may_be_taken(state, record.tenant, record.at, place, first, find)
    job = evolve(None, first, record)
    parent = None if first.parent is None else find(first.parent)
    held = () if parent is None else depend.on_parent_ended(job, parent)
    if not held and first.after:
        held = depend.on_submit(job, find)
    if not held:
        held = depend.ask_approval(first.approval, record.at)
    if not held and not first.after and len(events) > 1:
        held = _approval(record, events[1])
    return (first, *held)


def _may_be_taken(
    state: Partition, tenant: str, now: int, place: str, first: JobSubmitted, find: depend.Find
) -> None:
    """Whether the queue, the jobs that it names, and its unique key allow a submit."""
    queue = state.queue(place)
    # One of a schedule was looked at with all that were due: those that it comes after may stand behind it.
    after = () if first.schedule is not None else first.after
    # What is sealed under a key cannot be compared with the input of the job that it is to reproduce.
    reproduces = first.reproduces if first.input.key == UNSEALED else None
    command = SubmitJob(
        first.task,
        _plain(first.input),
        unique_key=first.unique_key,
        after=after,
        parent=first.parent,
        reproduces=reproduces,
    )
    if first.process is not None:
        name = named(first.process).process
        told = at_submit(first.process, state.processes.get(f"{place.partition('.')[0]}.{name}"), None)
        need(told == first.process, told if isinstance(told, str) else told.reason)
    refused = intake.refusal(command, queue, state.pending_in(place), find, None)
    standing, lanes = state.standing(tenant), queue.policy.lanes
    if refused is None and first.schedule is None:
        refused = intake.off_lane(place.partition(".")[2], lanes, first.unique_key, first.batch)
    if refused is None and standing is not None:
        refused = quotas.refuses(standing, first.input.size_bytes, first.reserve_microusd, now)
    need(refused is None, "" if refused is None else f"decided again it is refused: {refused.reason}")
    clash = None if first.unique_key is None else state.unique(place, first.unique_key)
    if clash is not None:
        refused = intake.clashes(command, clash, queue.policy.on_clash, None)
        need(refused is None, "" if refused is None else f"decided again it is refused: {refused.reason}")
        need(clash.cancel is not None, f"{clash.key}, which has its unique_key, was not cancelled")


def _approval(record: Record, event: Fact) -> tuple[Fact, ...]:
    """The wait that a submit asks for by itself: how long is told by the event alone."""
    asked = isinstance(event, JobSuspended) and event.reason is WaitReason.APPROVAL and not event.on
    need(asked, "nothing holds the job back, by what is recorded of its submit")
    assert isinstance(event, JobSuspended)
    need(event.until is None or event.until > record.at, "it waits for approval until before it was asked")
    return (event,)


# --- reports of workers ---------------------------------------------------------------------------------


def _fenced(job: Job, record: Record, token: int, attempt: int) -> Held:
    """The claim that a report makes. Raises Differs where it is not by the holder of the live lease."""
    held = Held(job.id, token)
    void = lease.fence(job, held, record.actor)
    need(void is None, "" if void is None else void.reason)
    need(attempt == job.attempt, f"it speaks for attempt {attempt}; live is {job.attempt}")
    return held


def _completed(state: Partition, job: Job, record: Record, events: tuple[Fact, ...]) -> tuple[Fact, ...]:
    (first, *_) = events
    assert isinstance(first, JobCompleted | CompensationEnded)
    _fenced(job, record, first.token, first.attempt)
    output = _NULL if isinstance(first, CompensationEnded) or first.output is None else _plain(first.output)
    isolation = Isolation.NONE if isinstance(first, CompensationEnded) else first.isolation
    report = Completion(job.id, first.token, output, first.run_ms, isolation)
    return _with_content(accepted(lease.complete(job, report, record.actor, None)), events)


def _failed(state: Partition, job: Job, record: Record, events: tuple[Fact, ...]) -> tuple[Fact, ...]:
    (first, *_) = events
    assert isinstance(first, AttemptFailed)
    _fenced(job, record, first.token, first.attempt)
    queue = state.queue(address(job.tenant, job.queue))
    return retry.after_failure(job, queue, first, record.at, _seed(events))


def _started(state: Partition, job: Job, record: Record, events: tuple[Fact, ...]) -> tuple[Fact, ...]:
    (first, *_) = events
    assert isinstance(first, AttemptStarted)
    held = _fenced(job, record, first.token, first.attempt)
    return accepted(lease.start(job, held, record.actor, None))


def _released(state: Partition, job: Job, record: Record, events: tuple[Fact, ...]) -> tuple[Fact, ...]:
    (first, *_) = events
    assert isinstance(first, LeaseReleased)
    held = _fenced(job, record, first.token, first.attempt)
    if record.cause in (_SNOOZED, _SUSPENDED):
        need(job.stops is not None, f"a {record.cause} gives a lease back only where the job is to end")
        need(first.reason == record.cause, f"the reason of a {record.cause} is {first.reason!r}")
    return accepted(lease.release(job, held, record.actor, first.reason, None))


def _snoozed(state: Partition, job: Job, record: Record, events: tuple[Fact, ...]) -> tuple[Fact, ...]:
    (first, *_) = events
    assert isinstance(first, JobSnoozed)
    _fenced(job, record, first.token, first.attempt)
    need(job.stops is None, "the job is asked to end: its lease was to be given back")
    need(first.due_at >= record.at, "it is due before it was asked for")
    return (first,)


def _progressed(state: Partition, job: Job, record: Record, events: tuple[Fact, ...]) -> tuple[Fact, ...]:
    (first, *_) = events
    assert isinstance(first, ProgressReported)
    _fenced(job, record, first.token, first.attempt)
    return (first,)


def _suspended(state: Partition, job: Job, record: Record, events: tuple[Fact, ...]) -> tuple[Fact, ...]:
    """What an attempt waits for; what has come already, as far as the log tells, lets it go on at once."""
    (first, *rest) = events
    assert isinstance(first, JobSuspended)
    assert first.token is not None
    _fenced(job, record, first.token, first.attempt or 0)
    need(job.stops is None, "the job is asked to end: its lease was to be given back")
    need(first.until is None or first.until >= record.at, "it waits until before it was asked")
    if first.reason is WaitReason.CHILD:
        find = partial(state.find, record.tenant)
        count = _number(first.rule.rpartition(" of ")[2])
        for key in first.on:
            found = find(key)
            need(found is not None and not depend.ended(found), f"{key}, which it waits for, is not live")
        rule = f"the task waits for {len(first.on)} of {count} children"
        after = () if first.on else (depend.children_ended(count),)
        return (replace(first, rule=rule), *after)
    if lease.about_step(first.on) is not None:
        until_s = None if first.until is None else (first.until - record.at) / SECOND_US
        command = commands.Suspend(
            "-",
            job.id,
            first.token,
            "approval",
            None,
            until_s,
            first.on_timeout,
            step=lease.about_step(first.on),
        )
        return accepted(lease.suspend(job, command, record.actor, record.at, partial(state.find, job.tenant)))
    if first.on == (lease.ASKED,):
        asks = first.rule.removeprefix(lease.ASKS)
        return (replace(first, reason=WaitReason.APPROVAL, rule=f"{lease.ASKS}{asks}"),)
    named = f" {first.on[0]}" if first.on else ""
    rule = f"the task waits for {first.reason}{named}"
    if rest:
        came = first.reason is WaitReason.SIGNAL and any(s.name in first.on for s in job.signals)
        need(came, "it goes on at once, and no signal had come")
        return (replace(first, rule=rule), JobResumed(first.reason, f"signal{named} had come already"))
    return (replace(first, rule=rule),)


def _asset_read(state: Partition, job: Job, record: Record, events: tuple[Fact, ...]) -> tuple[Fact, ...]:
    (first, *_) = events
    assert isinstance(first, AssetRead)
    version = first.version if job.reproduces is not None else None
    command = ReadAsset("-", job.id, first.token, first.asset, first.secret, version)
    queue, asset = state.queue(f"{job.tenant}.{job.queue}"), state.assets.get(f"{job.tenant}.{first.asset}")
    return accepted(read_asset(job, queue, asset, command, record.actor, state.erased))


_REPORTS: Final[dict[type[Fact], Callable[[Partition, Job, Record, tuple[Fact, ...]], tuple[Fact, ...]]]] = {
    JobCompleted: _completed,
    CompensationEnded: _completed,
    AttemptFailed: _failed,
    AttemptStarted: _started,
    LeaseReleased: _released,
    JobSnoozed: _snoozed,
    ProgressReported: _progressed,
    AssetRead: _asset_read,
    JobSuspended: _suspended,
}


# --- operators ------------------------------------------------------------------------------------------


def _asked(job: Job, record: Record, events: tuple[Fact, ...]) -> tuple[Fact, ...]:
    """What a person asked for, from the reason and the content that the events keep."""
    first, now = events[0], record.at
    match first:
        case CancelRequested(reason=reason) if record.cause == "terminate":
            outcome: Any = control.terminate(job, commands.Terminate(id=job.id, reason=reason))
        case CancelRequested(reason=reason):
            outcome = control.cancel(job, commands.Cancel(id=job.id, reason=reason))
        case LeaseReleased() | JobCancelled():
            ended = events[-1]
            need(isinstance(ended, JobCancelled), "a terminated job is cancelled")
            assert isinstance(ended, JobCancelled)
            outcome = control.terminate(job, commands.Terminate(id=job.id, reason=ended.reason))
        case JobRedriven(reason=reason):
            outcome = control.redrive(job, commands.Redrive(id=job.id, reason=reason))
        case JobRerun(reason=reason, steps=kept):
            need(kept <= len(job.steps), f"keeps {kept} steps of {len(job.steps)}")
            from_step = job.steps[kept].name if 0 < kept < len(job.steps) else None
            outcome = control.rerun(job, commands.Rerun(id=job.id, reason=reason, from_step=from_step))
        case JobDropped(reason=reason):
            outcome = control.drop(job, commands.Drop(id=job.id, reason=reason))
        case JobSuspended(rule=rule):
            outcome = control.pause(job, commands.Pause(id=job.id, reason=rule.removeprefix("paused: ")))
        case JobResumed(reason=WaitReason.APPROVAL, rule=rule, data=data):
            given = _NULL if data is None else _plain(data)
            command = commands.Approve(id=job.id, reason=rule.removeprefix("approved: "), data=given)
            outcome = control.approve(job, command)
        case JobResumed(rule=rule):
            outcome = control.resume(
                job, commands.Resume(id=job.id, reason=rule.removeprefix("resumed: ")), now
            )
        case (
            JobDeadLettered(reason=DeadReason.REJECTED, rule=rule)
            | CompensationDue(dead=DeadReason.REJECTED, rule=rule)
        ):
            reason = rule.rpartition("rejected: ")[2]
            outcome = control.reject(job, commands.Reject(id=job.id, reason=reason))
        case SignalReceived(name=name, data=data):
            outcome = control.signal(job, commands.Signal(id=job.id, name=name, data=_plain(data)))
        case JobEdited():
            return _edited(job, record, first)
        case JobDeadLettered() | JobDue() | LeaseExpired() | RetryScheduled():
            raise Differs(f"nobody can ask for it: {record.actor} did")
        case _:
            raise Unrecorded
    return _with_content(accepted(outcome), events)


def _edited(job: Job, record: Record, first: JobEdited) -> tuple[Fact, ...]:
    content = msgspec.UNSET if first.input is None else _plain(first.input)
    command = commands.Edit(id=job.id, reason=first.reason, priority=first.priority, input=content)
    need(first.due_at is None or first.due_at >= record.at, "it is due before it was asked for")
    (edited,) = _with_content(accepted(control.edit(job, command, record.at)), (first,))
    assert isinstance(edited, JobEdited)
    return (replace(edited, due_at=first.due_at),)


# --- by itself ------------------------------------------------------------------------------------------


def _by_itself(state: Partition, job: Job, record: Record, events: tuple[Fact, ...]) -> tuple[Fact, ...]:
    """What nobody asked for: an operation's step, a consequence, or the passing of time."""
    cause = record.cause or f"{_AFTER}{job.since}"
    if cause.startswith(OPERATION_CAUSE):
        return _stepped(state, job, record, cause.removeprefix(OPERATION_CAUSE))
    if cause == "acquire":
        return lease.hopeless(job, lease.filled_bytes(job, partial(state.find, job.tenant)))
    if cause == "submit":
        return _replaced(state, job, events)
    if cause == "schedule":
        raise Unrecorded  # decided with all that was due, see `governing`
    if cause.startswith(_AFTER) and cause != f"{_AFTER}{job.since}":
        return _followed(state, job, record, _number(cause.removeprefix(_AFTER)))
    queue = state.queue(address(job.tenant, job.queue))
    return timers.due(job, queue, record.at, _seed(events))


def _stepped(state: Partition, job: Job, record: Record, key: str) -> tuple[Fact, ...]:
    operation = state.operations.get(address(record.tenant, key))
    need(operation is not None, f"operation {key} is not known")
    assert operation is not None
    plan = operation.plan
    need(operation.ended is None, f"operation {key} has ended")
    need(job.since <= operation.planned, f"the job has changed since operation {key} was planned")
    need(selects(plan.filter, job), f"the filter of operation {key} does not match the job")
    need(operation.allowance(record.at) > 0, f"the limit or rate of operation {key} does not allow it yet")
    return applies(plan.verb, job, plan.reason, key, record.at)


def _replaced(state: Partition, job: Job, events: tuple[Fact, ...]) -> tuple[Fact, ...]:
    """A newcomer with its unique key takes its place."""
    queue = state.queue(address(job.tenant, job.queue))
    need(job.unique_key is not None, "it has no unique_key that another could take")
    need(queue.policy.on_clash == "replace", f"on_clash is {queue.policy.on_clash}")
    reasons = [e.reason for e in events if isinstance(e, CancelRequested | JobCancelled)]
    reason = reasons[0] if reasons else ""
    need(reason.startswith("replaced by "), f"the reason {reason!r} names nobody that replaces it")
    asked: tuple[Fact, ...] = () if job.cancel is not None else (CancelRequested(reason),)
    runs_on = job.lease is not None or job.compensation is not None
    return asked if runs_on else (*asked, cancelled(job, reason))


def _followed(state: Partition, job: Job, record: Record, ended_by: int) -> tuple[Fact, ...]:
    """What the end of another job means for this one."""
    find = partial(state.find, job.tenant)

    def is_it(key: str | None) -> bool:
        found = None if key is None else find(key)
        return found is not None and found.state in TERMINAL and found.ended_by == ended_by

    if any(is_it(key) for key in job.after):
        events = depend.on_ended(job, find, record.at)
        if events:
            return events
    if is_it(job.parent):
        parent = find(job.parent or "")
        events = () if parent is None else depend.on_parent_ended(job, parent)
        if events:
            return events
    if job.wait is not None and job.wait.reason is WaitReason.CHILD:
        return depend.on_child_ended(job, find)
    raise Differs(f"record {ended_by} ended no job that this one rests on")


# --- content --------------------------------------------------------------------------------------------

_NULL: Final = msgspec.Raw(b"null")


def _plain(content: Sealed) -> msgspec.Raw:
    """Content as a command holds it; null stands for what is sealed under a key."""
    return content.plain if content.key == UNSEALED else _NULL


def _with_content(expected: tuple[Fact, ...], events: tuple[Fact, ...]) -> tuple[Fact, ...]:
    """What was decided again, with the envelopes that cannot be made again as they are recorded."""
    made: list[Fact] = list(expected)
    for index, (should, found) in enumerate(zip(expected, events, strict=False)):
        if type(should) is type(found):
            kept = {
                field: value
                for field in found.__struct_fields__
                if isinstance(value := getattr(found, field), Sealed) and value.key != UNSEALED
            }
            made[index] = replace(should, **kept) if kept else should
    return tuple(made)


def _seed(events: tuple[Fact, ...]) -> float:
    return next((event.seed for event in events if isinstance(event, RetryScheduled)), 0.5)


def _number(text: str) -> int:
    digits = text.split(" ", 1)[0]
    need(digits.isdigit(), f"{text!r} does not begin with a number")
    return int(digits)
