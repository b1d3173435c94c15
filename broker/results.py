"""Results on their way: what the feed and the views tell of one job until it has ended."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import msgspec

from writ.schemas.codec import CodecError, decode
from writ.schemas.events import AttemptFailed, JobCompleted, JobDeadLettered
from writ.schemas.events import JobCancelled as Cancelled
from writ.schemas.ids import split_job_key
from writ.schemas.lifecycle import State
from writ.schemas.queries import ErrorView, JobView
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.sealed import UNSEALED, Sealed, unseal

from .errors import JobCancelled, JobFailed, SubmitRefused


@dataclass(frozen=True, slots=True)
class JobHandle:
    """A submitted job: its name, and where its submit stands in the intake stream.

    `existing` is true for a job that was there before, and stands for a submit with its `unique_key`. It is
    None where that could not be learned, as nobody leads or the principal may not read; `result` finds out.
    """

    queue: str
    id: str
    seq: int
    index: int | None = None
    existing: bool | None = False


Outcome = bytes | Exception
"""How a job ended: its output as JSON, or why there is none."""


class Waiter:
    """One call of `result`: takes what the feed and the view say until one of them tells the end."""

    def __init__(self, handle: JobHandle, loop: asyncio.AbstractEventLoop) -> None:
        self.handle = handle
        self.outcome: asyncio.Future[Outcome] = loop.create_future()
        self.view: JobView | None = None
        self.hidden = asyncio.Event()
        """Set where the feed told of an end whose content is sealed: the view is to tell."""

    def end(self, outcome: Outcome) -> None:
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    def heard(self, subject: str, body: bytes) -> None:
        """A record of the job, from the feed."""
        try:
            record = decode(body)
            queue, job_id = split_job_key(record.key)
            error: ErrorView | None = None
            hidden = False
            for event in record.events:
                match event:
                    case AttemptFailed(error=failed):
                        error = ErrorView(failed.class_, failed.type, _text(failed.text))
                        hidden = failed.text is not None and failed.text.key != UNSEALED
                    case JobCompleted(output=output):
                        if output is not None and output.key != UNSEALED:
                            self.hidden.set()
                        else:
                            self.end(b"null" if output is None else unseal(output))
                    case Cancelled(reason=reason):
                        self.end(JobCancelled(queue, job_id, reason))
                    case JobDeadLettered() if error is not None and error.text is None and hidden:
                        self.hidden.set()
                    case JobDeadLettered(reason=reason, rule=rule):
                        self.end(JobFailed(queue, job_id, reason, rule, error))
                    case _:
                        pass
        except (CodecError, ValueError):
            return  # of a newer Writ: the view may tell

    def seen(self, view: JobView) -> None:
        """The job as the view has it."""
        self.view = view
        if view.state is State.COMPLETED:
            self.end(bytes(view.output))
        elif view.state is State.CANCELLED:
            self.end(JobCancelled(view.queue, view.id, view.reason))
        elif view.state is State.DEAD:
            self.end(JobFailed(view.queue, view.id, view.dead_reason, view.reason, view.error))

    def refused(self, refused: tuple[Rejection, ...]) -> None:
        """What was refused of the message that this job's submit stood in."""
        for rejection in refused:
            if rejection.index is None or rejection.index == self.handle.index:
                self.end(SubmitRefused(rejection))


class Verdict(Waiter):
    """The same for whether a submit becomes a job: any record of it says so, and so does the view."""

    def heard(self, subject: str, body: bytes) -> None:
        self.end(b"")

    def seen(self, view: JobView) -> None:
        self.end(b"")


def stand_in(outcome: Outcome) -> JobHandle | None:
    """The job that stands for a refused submit, where one does."""
    if not isinstance(outcome, SubmitRefused) or outcome.rejection.job is None:
        return None
    if outcome.kind is not RejectionKind.DUPLICATE:
        return None
    return JobHandle(*split_job_key(outcome.rejection.job), 0, existing=True)


def _text(sealed: Sealed | None) -> str | None:
    if sealed is None:
        return None
    try:
        return str(msgspec.json.decode(unseal(sealed)))
    except ValueError:
        return None
