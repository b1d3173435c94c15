"""Refusals, judged again as far as the log holds what was refused: the rest is told as unrecorded.

A lease may stand in a record before the refusal and have been granted behind it, in the same round. So each
is judged by the job as it stands and, where there is such a lease, as it stood before: `standing` gives both.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from writ.schemas import commands
from writ.schemas.commands import Held, SubmitJob
from writ.schemas.events import CommandRejected, ReportRejected
from writ.schemas.ids import job_key, split_job_key
from writ.schemas.lifecycle import Job
from writ.schemas.records import Record
from writ.schemas.rejections import Rejection, RejectionKind

from ...decide import control, intake, lease
from ...state import Partition, address
from .differs import Differs, Unrecorded, need

_ABOUT: Final = re.compile(r"\bjob (\S+?)[:,;]? (?:is|was|waits|in|has)\b")
_OF_A_JOB: Final[dict[str, tuple[Any, type[commands.Control]]]] = {
    "cancel": (control.cancel, commands.Cancel),
    "terminate": (control.terminate, commands.Terminate),
    "redrive": (control.redrive, commands.Redrive),
    "rerun": (control.rerun, commands.Rerun),
    "drop": (control.drop, commands.Drop),
    "pause": (control.pause, commands.Pause),
    "approve": (control.approve, commands.Approve),
    "reject": (control.reject, commands.Reject),
}
"""Verbs whose refusal follows from the job alone."""


Standing = Callable[[str], list[Job | None]]
"""How a job may have stood when it was decided on, by its address."""


def report_rejected(standing: Standing, event: ReportRejected, record: Record) -> None:
    """Each report that was void: the fence, put up again. Raises Differs, or Unrecorded for its content."""
    judged = False
    for refused in event.refused:
        why = refused.rejection
        if why.kind is not RejectionKind.STALE and not (
            why.kind is RejectionKind.NOT_FOUND and why.field == "id"
        ):
            continue  # about what the report held, which is not recorded
        claim = Held(split_job_key(refused.job)[1], refused.token)
        jobs = standing(address(record.tenant, refused.job))
        _same(why, [lease.fence(job, claim, record.actor, why.index) for job in jobs])
        judged = True
    if not judged:
        raise Unrecorded


def command_rejected(state: Partition, standing: Standing, event: CommandRejected, record: Record) -> None:
    """What was refused for the sake of the state. Raises Differs, or Unrecorded for a bad message."""
    judged = [
        _submit(state, event, record, why)
        if event.verb == "submit"
        else _control(standing, event, record, why)
        for why in event.refused
    ]
    if not any(judged):
        raise Unrecorded


def _submit(state: Partition, event: CommandRejected, record: Record, why: Rejection) -> bool:
    """Whether it could be judged. What of a message is refused stands behind what was accepted of it."""
    place = f"{record.tenant}.{event.queue}"
    queue, find = state.queue(place), partial(state.find, record.tenant)
    if why.field == "unique_key" and why.job is not None:
        live = find(why.job)
        need(live is not None, f"there is no job {why.job}, which is said to have the unique_key")
        return True
    if why.lanes is not None and (keyed := re.match(r"unique_key (\S+) picks ", why.reason)) is not None:
        _same(why, [intake.off_lane(event.queue, queue.policy.lanes, keyed[1], None, why.index)])
        return True
    named = re.match(r"(after|parent) names (\S+); there is no such job", why.reason)
    if named is not None:
        need(find(named[2]) is None, f"{named[2]}, which was said not to be there, is there")
        return True
    if why.kind is RejectionKind.CONFLICT and why.reason.startswith("the queue is draining"):
        _same(why, [intake.refusal(SubmitJob(""), queue, state.pending_in(place), find, why.index)])
        return True
    return False


def _control(standing: Standing, event: CommandRejected, record: Record, why: Rejection) -> bool:
    known = _OF_A_JOB.get(event.verb)
    about = _ABOUT.search(why.reason)
    if known is None or about is None or why.field != "id" or why.kind is RejectionKind.MALFORMED:
        return False
    decide, command = known
    jobs = standing(address(record.tenant, job_key(event.queue, about[1])))
    outcomes = [decide(job, command(id=about[1])) for job in jobs]
    _same(why, [each if isinstance(each, Rejection) else None for each in outcomes])
    return True


def _same(was: Rejection, again: list[Rejection | None]) -> None:
    """Whether any of the ways to decide again gives the same."""
    if any(each is not None and (each.kind, each.reason) == (was.kind, was.reason) for each in again):
        return
    now = again[0]
    otherwise = "it is not" if now is None else f"{now.kind}, {now.reason!r}"
    raise Differs(f"it was refused as {was.kind}, {was.reason!r}; decided again: {otherwise}")
