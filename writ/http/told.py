"""A job's history and its explanation, folded from its records as the command line does."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec

from writ.cli.fetch import around, explained, job_with_records
from writ.orchestrator.replay.explain import Answer as Explained
from writ.orchestrator.replay.history import Step, steps_of_views
from writ.orchestrator.replay.text import event_words
from writ.projections.shown import timestamp
from writ.schemas.events import type_names
from writ.schemas.lifecycle import State

from .route import Call, Reply

if TYPE_CHECKING:
    from writ.schemas.queries import JobView


class Told(msgspec.Struct, frozen=True):
    """An event: its type, and what it says in words."""

    type: str
    text: str


class Moment(msgspec.Struct, frozen=True):
    """A record of a history, and the state that it left the job in.

    With `context` it is another aggregate's that moves the job's lease: a beat, or a change of leader.
    """

    seq: int
    at: str
    actor: str
    state: State
    context: bool
    events: tuple[Told, ...]


class Timeline(msgspec.Struct, frozen=True):
    """What happened to a job, oldest first."""

    id: str
    queue: str
    tenant: str
    records: tuple[Moment, ...]


class Question(msgspec.Struct, frozen=True):
    """A question with its answer in sentences; `records` are the log sequences that it rests on."""

    question: str
    sentences: tuple[str, ...]
    records: tuple[int, ...]


class JobExplanation(msgspec.Struct, frozen=True):
    """The six questions, and why the job is not running now."""

    id: str
    queue: str
    tenant: str
    state: State
    answers: tuple[Question, ...]


async def timeline(call: Call) -> Reply:
    view, steps = await _steps(call)
    return Reply(Timeline(view.id, view.queue, view.tenant, tuple(map(_moment, steps))), view.seq)


async def explanation(call: Call) -> Reply:
    view, steps = await _steps(call)
    found = explained(steps, time.time_ns() // 1_000, await around(call.client, view))
    answers = tuple(map(_question, found.answers))
    return Reply(JobExplanation(view.id, view.queue, view.tenant, view.state, answers), view.seq)


async def _steps(call: Call) -> tuple[JobView, list[Step]]:
    view, records = await job_with_records(call.client, call.params.id, call.params.queue)
    return view, steps_of_views(records)


def _moment(step: Step) -> Moment:
    record = step.record
    events = tuple([Told(type_names[type(event)], event_words(event, step)) for event in record.events])
    return Moment(record.seq, timestamp(record.at), record.actor, step.job.state, step.is_context, events)


def _question(found: Explained) -> Question:
    return Question(found.question, found.sentences, found.records)
