"""`writ explain` and `writ replay`: what happened, from the log's records alone."""

from __future__ import annotations

import asyncio
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from .fetch import Around, around, explained, job_with_records
from .output import next_steps, paint, print_json, state
from .reach import connected
from .releases import names_release, release
from .stretches import key_in, of_records, read_bundle
from .timeline import timeline_lines, wrapped
from .usage import CommandError, UsageError

if TYPE_CHECKING:
    from writ.orchestrator.replay.explain import Explanation
    from writ.orchestrator.replay.history import Step
    from writ.orchestrator.replay.stretch import Stretch
    from writ.schemas.queries import JobView, RecordView

_CITED_MAX: Final = 12


class Told:
    """One job: what its records tell, and what the view says of it where there is one."""

    def __init__(
        self,
        stretch: Stretch,
        key: str,
        view: JobView | None = None,
        seen: Around | None = None,
    ) -> None:
        self.stretch = stretch
        self.key = key
        self.view = view
        self.seen = seen
        self.steps = _steps(stretch, key)
        self.job = self.steps[-1].job


def tell_of(args: Namespace) -> Told:
    """The job that the options name, read from a bundle or from the node. Raises CommandError."""
    if args.bundle is not None:
        _, stretch = read_bundle(args.bundle)
        return Told(stretch, key_in(stretch, args.id, args.queue))
    view, records, seen = asyncio.run(_fetch(args))
    from writ.schemas.ids import job_key

    return Told(of_records(view, records), job_key(view.queue, view.id), view, seen)


async def _fetch(
    args: Namespace,
) -> tuple[JobView, list[RecordView], Around]:
    async with connected(args) as client:
        view, records = await job_with_records(client, args.id, args.queue)
        return view, records, await around(client, view)


def _steps(stretch: Stretch, key: str) -> list[Step]:
    from writ.orchestrator.replay.history import HistoryError, steps

    try:
        return steps(stretch.entries, stretch.tenant, key)
    except HistoryError as error:
        raise CommandError(f"the log of job {key} contradicts itself: {error}") from error


# --- explain --------------------------------------------------------------------------------------------


def explain(args: Namespace) -> int:
    """The six questions, answered from the log; also why it is not running. Of NAME@REF, why it stands so."""
    if args.queue is None and args.bundle is None and names_release(args.id):
        args.release, args.verb, args.id = args.id, "show", None
        return release(args)
    told = tell_of(args)
    found = explanation(told)
    if args.json:
        print_json(found)
        return 0
    for line in explanation_lines(told.steps, found):
        print(line)
    print()
    next_steps(f"writ replay {told.job.id}", f"writ job {told.job.id}")
    return 0


def explanation(told: Told) -> Explanation:
    """The explanation of a job: as of now where a node tells of it, else as of its last record."""
    last = told.steps[-1].record.at
    now = last if told.view is None else time.time_ns() // 1_000
    return explained(told.steps, now, told.seen)


def explanation_lines(steps: Sequence[Step], found: Explanation | None = None) -> Iterator[str]:
    """The explanation, wrapped to the terminal; in a pipe a sentence is a line."""
    found = found or explained(steps, time.time_ns() // 1_000)
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

_MODES: Final = ("at", "diff", "verify", "what_if", "export", "shown_as")


def replay(args: Namespace) -> int:
    """A job after each record; or a job, queue or tenant as the options have it.

    Exit code 1 where verification finds a fault.
    """
    modes = [name for name in _MODES if getattr(args, name)]
    if len(modes) > 1:
        first, second = (f"--{name.replace('_', '-')}".replace("shown-as", "as") for name in modes[:2])
        raise UsageError(f"{first} and {second} exclude each other", ["writ replay --help"])
    mode = modes[0] if modes else ""
    from . import replays

    replays.points(args)  # a moment that is none is a mistake, wherever the log may be
    if mode == "export":
        return replays.export(args)
    if mode == "what_if":
        from .what_if import what_if

        return what_if(args)
    if args.id is None:
        if mode == "shown_as":
            raise UsageError("--as is for the timeline of one job", ["writ replay ID --as html"])
        return replays.verify(args) if mode == "verify" else replays.look(args)
    told = tell_of(args)
    if mode in ("at", "diff"):
        return replays.look_at_job(args, told)
    if mode == "verify":
        return replays.verify_job(args, told)
    return _timeline(args, told)


def _timeline(args: Namespace, told: Told) -> int:
    from writ.orchestrator.replay.mermaid import diagram
    from writ.orchestrator.replay.page import page

    if args.json or args.shown_as == "json":
        print_json(document(told))
    elif args.shown_as == "mermaid":
        print("\n".join(diagram(told.steps)))
    elif args.shown_as == "html":
        print("\n".join(page(told.steps, explanation(told))))
    else:
        for line in timeline_lines(told.steps, states=True):
            print(line)
        last = told.steps[-1].record.seq
        next_steps(f"writ replay {told.job.id} --verify", f"writ replay {told.job.id} --at {last}")
    return 0


def document(told: Told) -> dict[str, Any]:
    """A job's history as JSON: each record with its events and the whole job after it."""
    from msgspec.structs import asdict

    from writ.schemas.events import type_names

    return {
        "id": told.job.id,
        "queue": told.job.queue,
        "tenant": told.job.tenant,
        "steps": [
            {
                "seq": step.record.seq,
                "at": step.record.at,
                "kind": step.record.kind,
                "actor": step.record.actor,
                "context": step.is_context,
                "events": [{"type": type_names[type(event)], "data": event} for event in step.record.events],
                "job": asdict(step.job),
            }
            for step in told.steps
        ],
    }
