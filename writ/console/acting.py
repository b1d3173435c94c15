"""What can be done from a page: a command in the person's own name, with a reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec
from msgspec import Raw

from writ.http.problems import Fault
from writ.schemas import commands as ask
from writ.schemas.fleet import DrainWorker, UndrainWorker
from writ.schemas.granting import ApproveAccess, DeclineAccess
from writ.schemas.releasing import ApprovePromotion, FreezeRelease, RollbackRelease, UnfreezeRelease
from writ.schemas.subjects import NO_QUEUE

from .visit import Elsewhere, Visit, link

Made = Callable[[Visit, str, str], ask.Command]
"""Makes the command of a visit, the name of what it is about, and the reason."""


class Act(NamedTuple):
    """Something that can be done: the word on its button, what it means, and the command.

    `about` is what it is done to; `grave` where it cannot be taken back, `takes` what else is asked for.
    """

    label: str
    means: str
    about: str
    made: Made
    grave: bool = False
    takes: str = ""


def _of_job(kind: Callable[..., ask.Command]) -> Made:
    return lambda _, name, reason: kind(id=name, reason=reason)


def _of_queue(kind: Callable[..., ask.Command]) -> Made:
    return lambda _, __, reason: kind(reason=reason)


def _of_schedule(kind: Callable[..., ask.Command]) -> Made:
    return lambda _, name, reason: kind(name=name, reason=reason)


def _reopens(kind: Callable[..., ask.Command]) -> Made:
    """About the end that the person saw: a form that is sent twice opens one round."""

    def made(visit: Visit, name: str, reason: str) -> ask.Command:
        seen = visit.given("answers")
        return kind(id=name, reason=reason, answers=_whole(seen))

    return made


def _approve(visit: Visit, name: str, reason: str) -> ask.Command:
    return ask.Approve(id=name, reason=reason, data=_data(visit))


def _signal(visit: Visit, name: str, reason: str) -> ask.Command:
    return ask.Signal(id=name, name=visit.given("name"), data=_data(visit), reason=reason)


def _of_proposal(kind: Callable[..., ask.Command]) -> Made:
    def made(visit: Visit, name: str, reason: str) -> ask.Command:
        number = visit.given("number")
        return kind(name=name, number=_whole(number) or 0, reason=reason)

    return made


def _of_worker(kind: Callable[..., ask.Command]) -> Made:
    return lambda _, name, reason: kind(worker=name, reason=reason)


def _of_release(kind: Callable[..., ask.Command]) -> Made:
    """About `PROCESS@DIGEST`, or about all of a process."""

    def made(_: Visit, name: str, reason: str) -> ask.Command:
        process, _at, digest = name.partition("@")
        return kind(process=process, release=digest or None, reason=reason)

    return made


def _approve_promotion(visit: Visit, name: str, reason: str) -> ask.Command:
    number = _whole(visit.given("number")) or 0
    return ApprovePromotion(process=name, number=number, scope=visit.given("scope"), reason=reason)


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def _data(visit: Visit) -> Raw:
    text = visit.given("data")
    try:
        return Raw(msgspec.json.encode(msgspec.json.decode(text.encode()))) if text else Raw(b"null")
    except msgspec.MsgspecError as error:
        raise Fault(422, f"the data is not JSON: {error}", "data") from error


ACTS: Final[dict[str, Act]] = {
    "redrive": Act("Redrive", "Puts it back to pending, in a new round.", "job", _reopens(ask.Redrive)),
    "drop": Act("Drop", "Settles it: it is listed as a dead letter no more.", "job", _of_job(ask.Drop), True),
    "rerun": Act("Run again", "Runs it again from the start, in a new round.", "job", _reopens(ask.Rerun)),
    "cancel": Act("Cancel", "Ends it; a running attempt is asked to stop.", "job", _of_job(ask.Cancel), True),
    "terminate": Act("Terminate", "Ends it at once; the lease is void.", "job", _of_job(ask.Terminate), True),
    "pause": Act("Pause", "Holds it back until it is resumed.", "job", _of_job(ask.Pause)),
    "resume": Act("Resume", "Lets it go on.", "job", _of_job(ask.Resume)),
    "approve": Act("Approve", "Says yes; the job goes on.", "job", _approve, takes="data"),
    "reject": Act("Reject", "Says no; the job becomes a dead letter.", "job", _of_job(ask.Reject), True),
    "signal": Act("Signal", "Sends it data under a name.", "job", _signal, takes="name data"),
    "pause_queue": Act("Pause", "No more grants; submits are taken.", "queue", _of_queue(ask.PauseQueue)),
    "resume_queue": Act("Resume", "Grants and takes submits again.", "queue", _of_queue(ask.ResumeQueue)),
    "drain_queue": Act("Drain", "Takes no submits; works off the rest.", "queue", _of_queue(ask.DrainQueue)),
    "pause_schedule": Act("Pause", "Not due until resumed.", "schedule", _of_schedule(ask.PauseSchedule)),
    "resume_schedule": Act("Resume", "Due again from now on.", "schedule", _of_schedule(ask.ResumeSchedule)),
    "trigger_schedule": Act(
        "Start now",
        "Starts its job now, beside the due times.",
        "schedule",
        _of_schedule(ask.TriggerSchedule),
    ),
    "drain_worker": Act(
        "Drain", "It takes no more leases; what it holds it finishes.", "worker", _of_worker(DrainWorker)
    ),
    "undrain_worker": Act("Undrain", "It takes leases again.", "worker", _of_worker(UndrainWorker)),
    "freeze_release": Act(
        "Freeze", "No lease for it until it is unfrozen.", "release", _of_release(FreezeRelease), True
    ),
    "unfreeze_release": Act(
        "Unfreeze", "Leases are given for it again.", "release", _of_release(UnfreezeRelease)
    ),
    "rollback_release": Act(
        "Roll back",
        "Live points at what it pointed at before.",
        "release",
        _of_release(RollbackRelease),
        True,
    ),
    "approve_promotion": Act(
        "Approve",
        "The alias points at it, against what the gates say.",
        "promotion",
        _approve_promotion,
        True,
    ),
    "approve_access": Act("Approve", "Grants it.", "principal", _of_proposal(ApproveAccess)),
    "decline_access": Act("Decline", "It is not granted.", "principal", _of_proposal(DeclineAccess), True),
}


_OF_QUEUES: Final = ("job", "queue", "schedule")
"""What is asked of its queue; all else is asked of the tenant."""


async def act(visit: Visit) -> Elsewhere:
    """Does it, and goes on to where the resulting event is shown."""
    verb, queue, name = visit.given("verb"), visit.given("queue"), visit.given("of")
    found = ACTS.get(verb)
    if found is None:
        raise Fault(422, f"there is no action {verb[:40]!r}", "verb")
    reason = visit.given("reason")
    if not reason:
        raise Fault(422, f"say why: {verb} keeps its reason in the log", "reason")
    command = found.made(visit, name, reason)
    answer = await visit.client.send(queue if found.about in _OF_QUEUES else NO_QUEUE, command)
    seen = answer.position or None
    match found.about:
        case "job":
            return Elsewhere(link("queues", queue, "jobs", name, seen=seen) + (f"#r{seen}" if seen else ""))
        case "queue":
            return Elsewhere(link("queues", queue, seen=seen))
        case "schedule":
            return Elsewhere(link("queues", queue, "schedules", name, seen=seen))
        case "worker":
            return Elsewhere(link("workers", name, seen=seen))
        case "release" | "promotion":
            process, _, digest = name.partition("@")
            return Elsewhere(link("releases", process, *([digest] if digest else []), seen=seen))
        case _:
            return Elsewhere(link("approvals", seen=seen))


async def reproduce(visit: Visit) -> Elsewhere:
    """Runs a finished job once more with the recorded answers, and goes to the comparison of both."""
    queue, name = visit.path["queue"], visit.path["id"]
    try:
        handle = await visit.client.reproduce(name, queue)
    except ValueError as error:
        raise Fault(409, str(error)) from error
    await visit.client.accepted(handle)
    return Elsewhere(link("compare", a=f"{queue}~{name}", b=f"{handle.queue}~{handle.id}"))
