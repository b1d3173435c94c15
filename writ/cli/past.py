"""`writ explain` and `writ replay`: what happened, from the log's records alone."""

from __future__ import annotations

import asyncio
import datetime
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from .fetch import explained, job_with_records
from .output import next_steps, paint, print_json, state
from .reach import connected
from .timeline import steps_of, timeline_lines, wrapped
from .usage import CommandError, UsageError

if TYPE_CHECKING:
    from writ.orchestrator.replay.explain import Explanation
    from writ.orchestrator.replay.history import Step
    from writ.schemas.lifecycle import Job
    from writ.schemas.queries import JobView, QueueView, RecordView

_CITED_MAX: Final = 12


async def _fetch(args: Namespace) -> tuple[JobView, list[RecordView]]:
    async with connected(args) as client:
        return await job_with_records(client, args.id, args.queue)


# --- explain --------------------------------------------------------------------------------------------


def explain(args: Namespace) -> int:
    """The six questions, answered from the log; also why it is not running."""
    view, records, queue = asyncio.run(_fetch_with_queue(args))
    steps = _steps(view, records)
    found = _explanation(steps, queue)
    if args.json:
        print_json(found)
        return 0
    for line in explanation_lines(steps, found):
        print(line)
    print()
    next_steps(f"writ replay {view.id}", f"writ job {view.id}")
    return 0


async def _fetch_with_queue(args: Namespace) -> tuple[JobView, list[RecordView], QueueView | None]:
    view, records = await _fetch(args)
    async with connected(args) as client:
        queues = (await client.queues(view.queue)).queues
    return view, records, queues[0] if queues else None


def _explanation(steps: Sequence[Step], queue: QueueView | None = None) -> Explanation:
    return explained(steps, time.time_ns() // 1_000, queue)


def explanation_lines(steps: Sequence[Step], found: Explanation | None = None) -> Iterator[str]:
    """The explanation, wrapped to the terminal; in a pipe a sentence is a line."""
    found = found or _explanation(steps)
    yield f"job {paint(found.id, 'bold')} in queue {found.queue} is {state(found.state.value)}"
    for number, answer in enumerate(found.answers, 1):
        yield ""
        yield paint(f"{number}. {answer.question}", "bold")
        for sentence in answer.sentences:
            yield from wrapped(sentence, 3)
        if answer.records:
            shown = ", ".join(f"#{seq}" for seq in answer.records[:_CITED_MAX])
            more = len(answer.records) - _CITED_MAX
            yield paint(f"   from {shown}{f' and {more} more' if more > 0 else ''}", "dim")


# --- replay ---------------------------------------------------------------------------------------------


def replay(args: Namespace) -> int:
    """The job after each record; at one moment; or checked, with exit code 1 on a mismatch."""
    point = None if args.at is None else _point(args.at)
    if point is not None and args.verify:
        raise UsageError("--at and --verify exclude each other", ["writ replay --help"])
    view, records = asyncio.run(_fetch(args))
    steps = _steps(view, records)
    if point is not None:
        return _show_at(args, view, steps, point)
    faults = mismatches(view, steps) if args.verify else []
    if args.json:
        print_json(_document(view, steps) | ({"ok": not faults, "mismatches": faults} if args.verify else {}))
    elif args.verify:
        _show_verdict(view, steps, faults)
    else:
        for line in timeline_lines(steps, states=True):
            print(line)
        next_steps(f"writ replay {view.id} --verify", f"writ replay {view.id} --at {steps[-1].record.seq}")
    return 1 if faults else 0


def _steps(view: JobView, records: Sequence[RecordView]) -> list[Step]:
    from writ.orchestrator.replay.history import HistoryError

    try:
        return steps_of(view.tenant, view.queue, view.id, records)
    except HistoryError as error:
        raise CommandError(f"the log of job {view.id} contradicts itself: {error}") from error


Point = tuple[int | None, int | None]
"""A log sequence, or a log time in microseconds."""


def _point(text: str) -> Point:
    """What --at names. Raises UsageError."""
    if text.isdigit():
        return int(text), None
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"--at {text!r} is neither a log sequence nor an RFC 3339 time",
            ["writ replay ID --at 120", "writ replay ID --at 2026-01-31T12:00:00Z"],
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    since = moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    return None, since // datetime.timedelta(microseconds=1)


def _show_at(args: Namespace, view: JobView, steps: Iterable[Step], point: Point) -> int:
    from writ.orchestrator.replay.history import at_point

    job = at_point(steps, *point)
    if args.json:
        print_json({"id": view.id, "queue": view.queue, "at": args.at, "job": job})
    elif job is not None:
        print(f"At {args.at} job {paint(view.id, 'bold')} was {state(job.state.value)}: {standing(job)}")
    if job is None:
        raise CommandError(f"job {view.id} did not exist at {args.at}", [f"writ replay {view.id}"])
    return 0


def standing(job: Job) -> str:
    """What else there is to say of a state, in a few words."""
    parts = [f"attempt {job.attempt}"]
    if job.round > 1:
        parts.append(f"round {job.round}")
    if job.failures:
        parts.append(f"{job.failures} failed")
    if job.lease_losses:
        parts.append(f"{job.lease_losses} lost")
    if job.lease is not None:
        parts.append(f"leased to {job.lease.worker}")
    return ", ".join(parts)


# --- verify ---------------------------------------------------------------------------------------------


def mismatches(view: JobView, steps: Sequence[Step]) -> list[str]:
    """Where a recorded decision differs from the same decision made again, or the fold from the view."""
    from writ.orchestrator.replay.verify import expected_events
    from writ.schemas.records import LOGIC

    found: list[str] = []
    for step in steps:
        if step.is_context or step.before is None or step.record.logic != LOGIC:
            continue
        expected = expected_events(step.before, None, step.record)
        if expected is not None and step.record.events[: len(expected)] != expected:
            found.append(f"record {step.record.seq}: decided again it is {expected}")
    last = max((step.record.seq for step in steps if not step.is_context), default=0)
    job = steps[-1].job
    pairs: list[tuple[str, Any, Any]] = [
        ("state", job.state.value, view.state.value),
        ("task", job.task, view.task),
        ("actor", job.actor, view.actor),
        ("round", job.round, view.round),
        ("attempt", job.attempt, view.attempt),
        ("failures", job.failures, view.failures),
        ("lease_losses", job.lease_losses, view.lease_losses),
        ("worker", job.lease.worker if job.lease else None, view.worker),
        ("reason", job.reason, view.reason),
        ("seq", last, view.seq),
    ]
    return found + [
        f"{name}: {ours} in the log, {theirs} in the view" for name, ours, theirs in pairs if ours != theirs
    ]


def _show_verdict(view: JobView, steps: Sequence[Step], faults: Sequence[str]) -> None:
    own = [step for step in steps if not step.is_context]
    beside = f"{len(steps) - len(own)} beside them that move its lease"
    print(f"{len(own)} records of job {view.id} folded again, {beside}")
    for fault in faults:
        print(f"{paint('mismatch', 'red')}  {fault}")
    if not faults:
        same = "every transition is lawful, every decision comes out the same, the view agrees"
        print(f"{paint('no mismatch', 'green')}: {same}")


def _document(view: JobView, steps: Sequence[Step]) -> dict[str, Any]:
    from writ.schemas.events import type_names

    return {
        "id": view.id,
        "queue": view.queue,
        "tenant": view.tenant,
        "steps": [
            {
                "seq": step.record.seq,
                "at": step.record.at,
                "kind": step.record.kind,
                "actor": step.record.actor,
                "context": step.is_context,
                "events": [{"type": type_names[type(event)], "data": event} for event in step.record.events],
                "job": step.job,
            }
            for step in steps
        ],
    }
