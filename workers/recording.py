"""What was recorded of a job before an attempt: its steps, or the run that it reproduces."""

from __future__ import annotations

from typing import Final

import msgspec

from writ.schemas.codec import CodecError, decode
from writ.schemas.commands import Lease
from writ.schemas.ids import split_job_key
from writ.schemas.lifecycle import IllegalTransition
from writ.schemas.notes import Recall, Recalled, StepSeen, seen
from writ.schemas.queries import RecordsPage, RecordsQuery
from writ.schemas.recordings import Run as FirstRun
from writ.schemas.recordings import last_run
from writ.schemas.records import Record
from writ.schemas.steps import Reproduces, ToolCalled

from .asking import Asking
from .steps import NotReproducible

TIMEOUT_S: Final = 10.0
_PAGE: Final = 200


class Recording:
    """The answers of a first run, each given once.

    `id`, `attempt` and `token` are those that the task saw in it, and sees again.
    """

    def __init__(self, run: FirstRun) -> None:
        self.job = run.job.key
        self.id = run.job.id
        self.attempt = run.attempt
        self.token = run.token
        self._steps = [seen(step) for step in run.job.steps]
        self._calls = list(run.calls)
        self.assets = run.assets

    def step(self, number: int) -> StepSeen | None:
        """The step of that number; None where the first run had no such."""
        return self._steps[number - 1] if number <= len(self._steps) else None

    def call(self, tool: str, digest: str) -> ToolCalled | None:
        """The next call of a tool: that with the same parameters, or else the first that is left of it."""
        mine = [call for call in self._calls if call.tool == tool]
        same = [call for call in mine if call.digest == digest]
        found = next(iter(same or mine), None)
        if found is not None:
            self._calls.remove(found)
        return found


async def recorded_steps(asking: Asking, queue: str, worker: str, lease: Lease) -> list[StepSeen]:
    """All recorded steps of a leased job. Raises WireError, TryLater, Refused."""
    found: list[StepSeen] = []
    while True:
        command = Recall(worker, lease.id, lease.token, len(found))
        answer = await asking.ask(queue, "recall", command, Recalled, TIMEOUT_S)
        found += answer.steps
        if len(found) >= answer.total or not answer.steps:
            return found


async def first_run(asking: Asking, wanted: Reproduces) -> Recording:
    """The run that a job reproduces, from the records of the log.

    Raises NotReproducible, and WireError, TryLater, Refused as asking does.
    """
    queue, job_id = split_job_key(wanted.job)
    records: list[Record] = []
    while True:
        after = records[-1].seq if records else 0
        query = RecordsQuery(
            id=job_id, queue=queue, after=after, limit=_PAGE, min_position=wanted.end, reveal=True
        )
        page = await asking.query("records", query, RecordsPage, TIMEOUT_S)
        try:
            records += [decode(bytes(view.record)) for view in page.records]
        except CodecError as error:
            raise NotReproducible(f"the records of {wanted.job} cannot be read: {error}") from error
        if not page.more or not page.records or records[-1].seq >= wanted.end:
            break
    try:
        run = last_run(records, wanted.end)
        if run is None or run.job.ended_by != wanted.end:
            raise NotReproducible(f"the log has no end of {wanted.job} in record {wanted.end}")
        return Recording(run)
    except (IllegalTransition, ValueError, msgspec.MsgspecError) as error:
        raise NotReproducible(f"the record of {wanted.job} cannot be answered from: {error}") from error
