"""The page of one job, and what belongs to it: its state at a record, records, content, export, checks."""

from __future__ import annotations

import asyncio
import datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import msgspec
from starlette.responses import Response, StreamingResponse

from writ.broker.coding import shown
from writ.broker.errors import JobNotFound
from writ.cli.fetch import Around, all_records, explained
from writ.cli.replays import against_view
from writ.cli.stretches import of_records
from writ.http.problems import Fault
from writ.http.replaying import BUNDLE
from writ.orchestrator.replay.bundle import lines
from writ.orchestrator.replay.compare import compare as differences
from writ.orchestrator.replay.verify import verify_stretch
from writ.schemas.bounds import SECOND_US
from writ.schemas.codec import decode
from writ.schemas.events import WaitReason
from writ.schemas.ids import job_key
from writ.schemas.lifecycle import TERMINAL, State
from writ.schemas.recordings import Run, last_run

from .telling import CHILDREN, drawn, fields_at, row, rows
from .text import CONTENT_CHARS
from .visit import Denied, Page, Visit, part

if TYPE_CHECKING:
    from writ.schemas.queries import JobView

    from .histories import History

_COMPARED: Final = (
    *("queue", "task", "state", "attempt", "round", "failures", "lease_losses", "priority", "policy"),
    *("actor", "release", "reason", "cause", "tags", "submitted_at", "finished_at"),
)
_REOPENING: Final = ("rerun",)
_CONTENTS: Final = ("input", "output", "error", "progress")


def actions_of(view: JobView) -> tuple[str, ...]:
    """What an operator may want to do to a job as it stands, the likeliest first."""
    waits_for = None if view.wait is None else view.wait.reason
    match view.state:
        case State.DEAD:
            return ("redrive", "rerun") if view.dropped else ("redrive", "drop", "rerun")
        case State.COMPLETED | State.CANCELLED:
            return _REOPENING
        case State.RUNNING:
            return ("cancel", "terminate", "signal")
        case State.SUSPENDED if waits_for is WaitReason.APPROVAL:
            return ("approve", "reject", "cancel")
        case State.SUSPENDED if waits_for in (WaitReason.PAUSED, WaitReason.EXHAUSTED):
            return ("resume", "cancel")
        case State.SUSPENDED:
            return ("signal", "cancel", "terminate")
        case _:
            return ("pause", "cancel")


async def history_of(visit: Visit) -> History:
    return await visit.histories.of(visit.client, visit.path["queue"], visit.path["id"])


async def job(visit: Visit) -> Page:
    found = await history_of(visit)
    view, steps = found.view, found.steps
    wanted = actions_of(view)
    again = ("submit",) if view.state in TERMINAL else ()
    queues, children, may = await asyncio.gather(
        part(visit.client.queues(view.queue)),
        part(visit.client.jobs(parent=job_key(view.queue, view.id), limit=CHILDREN)),
        visit.may((*wanted, *again), view.queue),
    )
    queue = None if isinstance(queues, Denied) else next(iter(queues.queues), None)
    explanation = await asyncio.to_thread(explained, steps, visit.now, Around(queue))
    seen = _sequence(visit, "seen")
    kin = () if isinstance(children, Denied) else children.jobs
    return Page(
        "job.html",
        {
            "job": view,
            "key": job_key(view.queue, view.id),
            "steps": len(steps),
            "last": steps[-1].record.seq,
            "took_us": (view_end(found, visit.now) - steps[0].record.at),
            "drawing": await asyncio.to_thread(drawn, steps, kin, visit.now),
            "children": kin,
            "more_children": not isinstance(children, Denied) and children.next is not None,
            "answers": explanation.answers,
            "because": because(view, explanation.not_running.sentences),
            "events": rows(steps, _sequence(visit, "from") or seen),
            "seen": next((row(s, steps[0].record.at) for s in steps if s.record.seq == seen), None),
            "actions": [verb for verb in wanted if verb in may],
            "may_reproduce": "submit" in may,
            "standing": (steps[-1], fields_at(steps[-1])),
            "contents": contents(view),
        },
    )


def view_end(found: History, now: int) -> int:
    """Log time of the job's end, or now."""
    job = found.steps[-1].job
    return job.finished_at if job.finished_at is not None else max(now, found.steps[-1].record.at)


def because(view: JobView, not_running: tuple[str, ...]) -> str:
    """Why it is where it is, in a sentence."""
    error = "" if view.error is None else f"{view.error.class_} error, {view.error.type}"
    match view.state:
        case State.DEAD:
            last = f" The last was of class {view.error.class_}: {view.error.type}." if view.error else ""
            return f"It is dead: {view.reason or view.dead_reason}.{last}"
        case State.COMPLETED:
            return f"Attempt {view.attempt} completed it." + (f" Before that: {error}." if error else "")
        case State.CANCELLED:
            return f"It was cancelled: {view.reason or 'no reason is recorded'}."
        case State.RUNNING:
            asked = f" It is asked to end: {view.cancel}." if view.cancel else ""
            return f"Attempt {view.attempt} runs with worker {view.worker}.{asked}"
        case _:
            return " ".join(not_running)


def contents(view: JobView) -> list[tuple[str, str, int]]:
    """What a user wrote: which, the text of it, and how many bytes."""
    found: list[tuple[str, str, int]] = []
    for name in _CONTENTS:
        text = content_of(view, name)
        if text is not None:
            found.append((name, shown(text), len(text.encode("utf-8", "replace"))))
    return found


def content_of(view: JobView, name: str) -> str | None:
    """The text of one of them; None where there is none."""
    if name == "error":
        return None if view.error is None or view.error.text is None else view.error.text
    raw = bytes(getattr(view, name))
    return None if raw == b"null" else raw.decode("utf-8", "replace")


def _sequence(visit: Visit, name: str) -> int | None:
    text = visit.one(name)
    if text is not None and not (text.isascii() and text.isdigit() and len(text) < 19):
        raise Fault(422, f"{name} is the sequence of a record; {text!r} is not", name)
    return None if text is None else int(text)


async def at(visit: Visit) -> Page:
    """The job after its `n`th record, or after the last one not beyond a sequence."""
    found = await history_of(visit)
    place, seq = _sequence(visit, "n"), _sequence(visit, "seq")
    steps = found.steps
    if seq is not None:
        before = [number for number, step in enumerate(steps) if step.record.seq <= seq]
        if not before:
            raise Fault(404, f"the job did not exist at {seq}; its first record is {steps[0].record.seq}")
        place = before[-1]
    place = len(steps) - 1 if place is None else min(place, len(steps) - 1)
    step = steps[place]
    shows = {"job": found.view, "steps": len(steps), "n": place, "standing": (step, fields_at(step))}
    return Page("at.html", shows | {"row": row(step, steps[0].record.at)})


async def record(visit: Visit) -> Page:
    found = await history_of(visit)
    seq = visit.path["seq"]
    for each in found.records:
        if str(each.seq) == seq:
            return Page("record.html", {"job": found.view, "record": each})
    raise Fault(404, f"the job has no record {seq[:20]}")


async def content(visit: Visit) -> Response:
    """The input, output, error or progress, whole, as a file."""
    view = await visit.client.job(visit.path["id"], visit.path["queue"])
    name = visit.path["name"]
    text = content_of(view, name) if name in _CONTENTS else None
    if text is None:
        raise Fault(404, f"the job has no {name[:40]}")
    headers = {"Content-Disposition": f'attachment; filename="{name}.txt"', "Cache-Control": "no-store"}
    return Response(text.encode("utf-8", "replace"), headers=headers, media_type="text/plain")


async def bundle(visit: Visit) -> Response:
    """The job's records with what moves its leases, as `writ replay --bundle` takes them."""
    found = await history_of(visit)
    made_at = datetime.datetime.fromtimestamp(visit.now // SECOND_US, datetime.UTC).isoformat()
    body = lines(
        of_records(found.view, found.records),
        made_at=made_at.replace("+00:00", "Z"),
        by=visit.principal,
        version=version("writ-orchestrator"),
        jobs=(job_key(found.view.queue, found.view.id),),
    )
    headers = {"Content-Disposition": 'attachment; filename="job.bundle"', "Cache-Control": "no-store"}
    return StreamingResponse(body, headers=headers, media_type=BUNDLE)


async def verification(visit: Visit) -> Page:
    """Every record, transition and decision of the job once more."""
    found = await history_of(visit)
    report = await asyncio.to_thread(verify_stretch, of_records(found.view, found.records))
    faults = [f"record {fault.seq}: {fault.rule}: {fault.reason}" for fault in report.faults]
    faults += against_view(found.view, found.steps)
    return Page("verification.html", {"job": found.view, "report": report, "faults": faults})


async def compare(visit: Visit) -> Page:
    """Two jobs side by side; the second is asked for where only one is named."""
    one, other = visit.one("a"), visit.one("b")
    shows: dict[str, Any] = {"a": one, "b": other, "jobs": None, "differences": (), "fields": ()}
    if one and other:
        views = [await _named(visit, key, one) for key in (one, other)]
        runs = [await _run(visit, view) for view in views]
        shows |= {
            "jobs": views,
            "fields": _side_by_side(*views),
            "differences": [] if None in runs else await asyncio.to_thread(differences, *runs),  # type: ignore[arg-type]
            "contents": [(name, *[content_of(view, name) for view in views]) for name in _CONTENTS],
            "most": CONTENT_CHARS,
        }
    return Page("compare.html", shows)


async def _named(visit: Visit, key: str, like: str) -> JobView:
    """A job by its key, or by its id where its queue is that of another one."""
    queue, sign, name = key.strip().rpartition("~")
    if not sign:
        queue = like.partition("~")[0]
    try:
        return await visit.client.job(name, queue or None)
    except JobNotFound as error:
        raise Fault(
            404, f"{error}; name it as QUEUE~ID, or its id alone where it is in the same queue"
        ) from error


async def _run(visit: Visit, view: JobView) -> Run | None:
    records = await all_records(visit.client, view.queue, view.id)
    return await asyncio.to_thread(lambda: last_run([decode(bytes(each.record)) for each in records]))


def _side_by_side(one: JobView, other: JobView) -> list[tuple[str, str, str, bool]]:
    found: list[tuple[str, str, str, bool]] = []
    for name in _COMPARED:
        left, right = [_word(getattr(each, name)) for each in (one, other)]
        found.append((name.replace("_", " "), left, right, left != right))
    return found


def _word(value: Any) -> str:
    if value is None or value == {}:
        return "none"
    return str(value) if isinstance(value, str | int) else msgspec.json.encode(value).decode()
