"""Deciding a submit: what the queue's policy and the jobs that are there make of it."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from writ.schemas.commands import SubmitJob
from writ.schemas.events import Fact, JobSubmitted
from writ.schemas.ids import LANE_MARK, lane_for, lanes_of, queue_of
from writ.schemas.lifecycle import TERMINAL, Job, micros
from writ.schemas.policy import DEFAULT_LIMITS, DEFAULT_RETRY, Limits, OnClash, Retry
from writ.schemas.queues import Mode, Queue
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.sealed import UNSEALED, seal, unseal
from writ.schemas.steps import Reproduces

from .depend import Find, Known

_T = TypeVar("_T", Retry, Limits)


def refusal(
    command: SubmitJob, queue: Queue, pending: int, find: Find, index: int | None
) -> Rejection | None:
    """Why the queue, or the jobs that the submit names, do not allow it now."""
    if queue.mode is Mode.DRAINING:
        reason = f"the queue is draining: {queue.reason}; it takes submits again when it is resumed"
        return Rejection(RejectionKind.CONFLICT, reason, None, index)
    most = queue.policy.pending_max
    if most is not None and pending >= most:
        reason = f"the queue has {pending} pending jobs; its pending_max is {most}"
        return Rejection(RejectionKind.CONFLICT, reason, None, index)
    for key in command.after:
        if find(key) is None:
            reason = f"after names {key}; there is no such job"
            return Rejection(RejectionKind.NOT_FOUND, reason, "after", index)
    # A parent may have ended before its children are taken in: they were acknowledged, and are not lost.
    if command.parent is not None and find(command.parent) is None:
        reason = f"parent names {command.parent}; there is no such job"
        return Rejection(RejectionKind.NOT_FOUND, reason, "parent", index)
    if command.reproduces is not None:
        return _unreproducible(command, command.reproduces, find(command.reproduces.job), index)
    return None


def full(
    live: int, live_max: int, no_room: str | None, index: int | None, own: int | None = None
) -> Rejection | None:
    """Why the partition takes no more jobs now; `no_room` is what keeps it from storing them, if anything.

    `own` is how many of the live jobs are the tenant's, where others share the partition: it gets no more
    than is left to them, so that no flood of one takes the place of all.
    """
    if no_room is not None:
        return Rejection(RejectionKind.CONFLICT, no_room, None, index)
    left = live_max - live
    if left > (own or 0):
        return None
    most = f"{live} jobs that have not ended, and takes at most {live_max} (writ up --live-max)"
    if left > 0:
        most += f"; {own} of them are the tenant's, and a tenant gets no more than the {left} that are left"
    reason = f"the partition has {most}; submit again when some have ended"
    return Rejection(RejectionKind.CONFLICT, reason, None, index)


def off_lane(
    name: str, lanes: int, unique_key: str | None, batch: str | None, index: int | None = None
) -> Rejection | None:
    """Why a job is not for this queue or lane, where the queue has lanes: its key picks one, for all of them.

    What has no key may be in any: the queue itself takes it from whoever knows nothing of lanes.
    """
    queue, is_lane = queue_of(name), LANE_MARK in name
    if is_lane and name not in lanes_of(queue, lanes):
        reason = f"{name} is no lane that was declared; submit it to {queue}"
        return Rejection(RejectionKind.NOT_FOUND, reason, "queue", index)
    if lanes > 1 and unique_key is not None and name != (lane := lane_for(queue, lanes, unique_key)):
        reason = f"unique_key {unique_key} picks {lane} of the {lanes} lanes of {queue}: submit it there"
        return Rejection(RejectionKind.CONFLICT, reason, "unique_key", index, lanes=lanes)
    if is_lane and batch is not None:
        reason = f"a batch is of one queue, and {name} is a lane: submit the jobs of batch {batch} to {queue}"
        return Rejection(RejectionKind.CONFLICT, f"{reason}, without unique_key", "batch", index)
    return None


def _unreproducible(
    command: SubmitJob, wanted: Reproduces, found: Known | None, index: int | None
) -> Rejection | None:
    """Why a job cannot be the same run as another once more."""
    if not isinstance(found, Job):
        reason = f"reproduces names {wanted.job}; there is no such job in this partition"
        return Rejection(RejectionKind.NOT_FOUND, reason, "reproduces", index)
    why = None
    if found.state not in TERMINAL or found.ended_by != wanted.end:
        ended = f"record {found.ended_by}" if found.ended_by else "none yet"
        why = f"is {found.state}, and its newest end is {ended}, not record {wanted.end}"
    elif found.task != command.task:
        why = f"is of task {found.task}, and this one of {command.task}"
    elif found.input.key == UNSEALED and bytes(command.input) != unseal(found.input):
        why = "has another input"
    if why is None:
        return None
    return Rejection(RejectionKind.CONFLICT, f"{wanted.job}, to be reproduced, {why}", "reproduces", index)


def another(
    command: SubmitJob, known: Job, content: bytes | None, digest: str, index: int | None
) -> Rejection | None:
    """Why a submit does not stand for the job that has its id: that is of another task or another input.

    `digest` is that of the submit's input, made as the job's was, and empty where that can be made no more.
    `content` is the job's input, where it can be compared: JSON that says the same is the same input.
    """
    first = known.first_input or known.input.digest
    if command.task != known.task:
        why = f"is of task {known.task}, and this submit of {command.task}"
    elif digest in (first, "") or (content is not None and _says(content) == _says(bytes(command.input))):
        return None
    else:
        why = f"has the input with digest {first}, and this submit the one with {digest}"
    reason = f"job {known.id} {why}; what is another job needs an id of its own"
    return Rejection(RejectionKind.CONFLICT, reason, "id", index)


def _says(content: bytes) -> bytes:
    """JSON without what makes no difference: blanks, and the order of fields."""
    return msgspec.json.encode(msgspec.json.decode(content), order="sorted")


def clashes(command: SubmitJob, live: Job, on_clash: OnClash, index: int | None) -> Rejection | None:
    """What is said of a second submit with a unique key; nothing where it replaces the first."""
    reason = f"unique_key {command.unique_key} belongs to the live job {live.key}; on_clash is {on_clash}"
    if on_clash is OnClash.REPLACE:
        if live.key not in (command.parent, *command.after):
            return None
        reason = f"{reason}, and a job cannot replace one that it is a child of or comes after"
    kind = RejectionKind.DUPLICATE if on_clash is OnClash.RETURN else RejectionKind.CONFLICT
    return Rejection(kind, reason, "unique_key", index, live.key)


def submit(
    command: SubmitJob,
    queue: Queue,
    now: int,
    schedule: str | None = None,
    process: str | None = None,
) -> tuple[Fact, ...]:
    """The event of an accepted submit; what it leaves open is the queue's.

    `process` is the release that it names, as `release.at_submit` tells it.
    """
    due_at: int | None = None
    if command.not_before is not None:
        due_at = micros(command.not_before.timestamp())
    elif command.delay_s:
        due_at = now + micros(command.delay_s)
    if due_at is not None and due_at <= now:
        due_at = None
    policy = queue.policy
    return (
        JobSubmitted(
            task=command.task,
            input=seal(bytes(command.input)),
            due_at=due_at,
            priority=policy.priority if command.priority is None else command.priority,
            retry=_default(command.retry or policy.retry, DEFAULT_RETRY),
            limits=_default(_limits(command, policy.limits), DEFAULT_LIMITS),
            policy=queue.version,
            fairness_key=command.fairness_key,
            concurrency_key=command.concurrency_key,
            unique_key=command.unique_key,
            after=command.after,
            on_dead=command.on_dead,
            input_from=command.input_from,
            parent=command.parent,
            on_parent_end=command.on_parent_end,
            batch=command.batch,
            schedule=schedule,
            approval=command.approval if command.after else None,
            reproduces=command.reproduces,
            tags=seal(msgspec.json.encode(command.tags, order="sorted")) if command.tags else None,
            reserve_microusd=command.reserve_microusd or policy.reserve_microusd,
            process=process,
            requires={**command.requires, **policy.requires},
        ),
    )


def _default(given: _T, default: _T) -> _T:
    """The default itself where it was given: what is the default is not written."""
    return default if given is default or given == default else given


def _limits(command: SubmitJob, limits: Limits) -> Limits:
    given = command.lease_s, command.attempt_timeout_s, command.job_timeout_s, command.expires_in_s
    if given == (None, None, None, None):
        return limits
    lease_s, attempt_timeout_s, job_timeout_s, expires_in_s = given
    return Limits(
        limits.lease_s if lease_s is None else lease_s,
        limits.attempt_timeout_s if attempt_timeout_s is None else attempt_timeout_s,
        limits.job_timeout_s if job_timeout_s is None else job_timeout_s,
        limits.expires_in_s if expires_in_s is None else expires_in_s,
    )
