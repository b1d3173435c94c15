"""The rules of recorded steps, tools and usage, and of what is undone before a job ends."""

from __future__ import annotations

from typing import Any

from writ.schemas.records import Record
from writ.schemas.steps import (
    CompensationDue,
    CompensationEnded,
    StepCompensated,
    StepDone,
    StepFailed,
    StepIntended,
    ToolCalled,
    UsageRecorded,
)

from .tally import StepTally, Tally, Wrong, need


def intended(job: Tally, event: StepIntended, record: Record) -> None:
    """A step begins in its turn, and never twice without a reason."""
    need(event.step <= len(job.steps) + 1, f"step {event.step} out of turn")
    step = StepTally(event, record)
    if event.step > len(job.steps):
        need(job.undoes is None, "a new step while the others are undone")
        _pass(job, event.token)
        job.steps.append(step)
        return
    before = job.steps[event.step - 1]
    need(before.name == event.name, f"step {event.step} was {before.name}, and is {event.name}")
    need(before.state != "done", f"step {event.step} is done, and runs again")
    need(not before.passed, f"step {event.step} failed, was gone on from, and runs again")
    if before.state == "open":
        need(before.token != event.token, f"step {event.step} runs twice at once")
        need(event.again == before.unknown, f"step {event.step} runs again by {event.again}")
        word = any(name == "approval" and seq > before.seq for name, seq, _ in job.signals)
        need(event.again != "ask" or word, f"step {event.step} runs again, and nobody said so")
    _pass(job, event.token)
    job.steps[event.step - 1] = step


def _pass(job: Tally, token: int) -> None:
    for each in job.steps:
        each.passed = each.passed or (each.state == "failed" and each.token == token)


def _known(job: Tally, number: int) -> StepTally:
    if number > len(job.steps):
        raise Wrong(f"step {number} was never begun")
    return job.steps[number - 1]


def answered(job: Tally, event: StepDone | StepFailed, record: Record) -> None:
    """An answer to a step that is open."""
    step = _known(job, event.step)
    need(step.state == "open", f"step {event.step} is {step.state} already")
    need(event.by != "ran" or step.token == event.token, f"step {event.step} ran in another attempt")
    step.state = "done" if isinstance(event, StepDone) else "failed"


def undone(job: Tally, event: StepCompensated, record: Record) -> None:
    """The last of those to be undone; or one of unknown outcome that is to run again."""
    step = _known(job, event.step)
    if job.undoes is None:
        need(step.state == "open" and step.unknown == "compensate", f"step {event.step} undone for nothing")
    else:
        need(step.owes, f"step {event.step} is {step.state}, and undone")
        later = [each.name for each in job.steps[event.step :] if each.owes]
        need(not later, f"step {event.step} is undone before {later}")
    step.state = "undone"


def called(job: Tally, event: ToolCalled | UsageRecorded, record: Record) -> None:
    """A call of a tool counts, unless it was denied; usage has a price or none."""
    if isinstance(event, ToolCalled):
        job.calls += event.outcome != "denied"
        need(event.outcome != "denied" or event.rule, "denied by no rule")
    else:
        need(event.prices or event.cost_microusd is None, "a cost without prices")


def ends(job: Tally, event: CompensationDue, record: Record) -> None:
    """The job would end: first its steps are undone."""
    need(any(step.owes for step in job.steps), "nothing is to be undone")
    need(job.undoes is None, "undone a second time")
    job.undoes = event
    job.stood = job.failures = job.losses = 0
    job.round_due = job.due_at = record.at
    job.wait = None
    job.excused = False
    job.state, job.since, job.owes = "pending", record.seq, ""


def ended(job: Tally, event: CompensationEnded, record: Record) -> None:
    """All is undone; the end that waited stands behind it."""
    need(job.undoes is not None, "ended what never began")
    need(not any(step.owes for step in job.steps), "not everything is undone")
    job.state, job.owes = "pending", "end"


NOTED: dict[Any, Any] = {
    StepIntended: intended,
    StepDone: answered,
    StepFailed: answered,
    StepCompensated: undone,
    ToolCalled: called,
    UsageRecorded: called,
}
"""What the holder of a lease says; the rule of each."""
