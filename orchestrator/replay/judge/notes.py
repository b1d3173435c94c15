"""What attempts note, decided again: steps in order, calls of tools by their policy, usage by its price."""

from __future__ import annotations

import msgspec

from writ.schemas.errors import AttemptError, ErrorClass
from writ.schemas.events import AttemptFailed, Fact
from writ.schemas.lifecycle import Job, evolve
from writ.schemas.notes import (
    AnyRemark,
    Noted,
    StepFault,
    StepIntent,
    StepResult,
    StepUndone,
    TokensUsed,
    ToolCall,
)
from writ.schemas.prices import NO_PRICES
from writ.schemas.records import Record
from writ.schemas.sealed import UNSEALED, Sealed
from writ.schemas.steps import (
    StepCompensated,
    StepDone,
    StepFailed,
    StepIntended,
    ToolCalled,
    UsageRecorded,
)

from ...decide import quotas, steps
from ...state import Partition, address
from ..noted import Governed
from .differs import Unrecorded, accepted, need

_NULL = msgspec.Raw(b"null")


class Notes:
    """Judges the notes of one log. Keeps each version of tool policies: a worker may go by an older one."""

    def __init__(self, state: Partition) -> None:
        self._state = state
        self._governed = Governed(state.prices)

    def take(self, record: Record) -> None:
        """A record that is of no job."""
        self._governed.take(record)

    def decided_again(self, record: Record, events: tuple[Fact, ...]) -> tuple[Fact, ...]:
        """What deciding again gives for the notes of a record. Raises Differs, and Unrecorded."""
        job = self._state.jobs.get(address(record.tenant, record.key))
        if job is None or job.lease is None:
            raise Unrecorded  # the table refuses it
        ended = next((at for at, event in enumerate(events) if isinstance(event, AttemptFailed)), len(events))
        remarks = tuple([_remark(event) for event in events[:ended]])
        report = Noted(job.id, _token(events[0]), job.lease.noted + 1, remarks)
        prices = self._state.prices.get(record.tenant, NO_PRICES)
        outcome = steps.note(job, report, record.actor, None, prices, record.at, record.seq)
        self._verdicts(job, record, events[:ended])
        noted = accepted(outcome)
        standing = self._state.standing(record.tenant)
        return noted if standing is None else quotas.with_end(standing, job, noted, record.at)

    def _verdicts(self, job: Job, record: Record, events: tuple[Fact, ...]) -> None:
        """Whether the policy that the worker went by denied each call that was denied, and no other."""
        for event in events:
            wrong = self._governed.fault(job, event, record.at)
            need(wrong is None, "" if wrong is None else wrong[1])
            job = evolve(job, event, record)


def _token(event: Fact) -> int:
    token: int = getattr(event, "token", 0)
    return token


def _remark(event: Fact) -> AnyRemark:
    """The note that an event was made from."""
    match event:
        case StepIntended():
            return StepIntent(
                event.step, event.name, event.params, event.on_unknown, event.compensable, event.again
            )
        case StepDone():
            return StepResult(event.step, _plain(event.result), event.run_ms, event.by)
        case StepFailed(error=error):
            return StepFault(
                event.step, ErrorClass(error.class_), error.type, _text(error), event.run_ms, event.by
            )
        case StepCompensated():
            return StepUndone(event.step, event.run_ms)
        case UsageRecorded():
            return TokensUsed(event.model, event.input_tokens, event.output_tokens)
        case ToolCalled(error=error):
            return ToolCall(
                event.tool,
                event.schema,
                _plain(event.params),
                event.digest,
                event.outcome,
                event.policy,
                event.rule,
                ErrorClass.APPLICATION if error is None else ErrorClass(error.class_),
                "" if error is None else error.type,
                "" if error is None else _text(error),
                msgspec.UNSET if event.result is None else _plain(event.result),
                event.run_ms,
                event.step,
                event.by,
            )
        case _:
            raise Unrecorded


def _plain(content: Sealed | None) -> msgspec.Raw:
    if content is None:
        return _NULL
    if content.key != UNSEALED:
        raise Unrecorded  # the envelope cannot be made again
    return content.plain


def _text(error: AttemptError) -> str:
    return "" if error.text is None else msgspec.json.decode(_plain(error.text), type=str)
