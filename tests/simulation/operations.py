"""The rules of operations: what each may do to how many jobs, and how fast."""

from __future__ import annotations

from typing import Final

from writ.schemas import events as e
from writ.schemas.records import Record

from .lines import Bucket
from .tally import BY_OPERATION, Tally, Wrong, need

_DOES: Final[dict[str, type[e.Fact] | tuple[type[e.Fact], ...]]] = {
    "redrive": e.JobRedriven,
    "rerun": e.JobRerun,
    "cancel": e.CancelRequested,
    "terminate": (e.CancelRequested, e.LeaseReleased, e.JobCancelled),
    "drop": e.JobDropped,
    "pause": e.JobSuspended,
    "resume": e.JobResumed,
}


class Operation:
    """One operation: its plan, and what it has done."""

    def __init__(self, plan: e.OperationPlanned, record: Record) -> None:
        self.plan = plan
        self.seq = record.seq
        self.queue = f"{record.tenant}.{record.key.partition('~')[0]}"
        self.done = 0
        self.ended = False
        self.pace = None if plan.rate_per_s is None else Bucket(plan.rate_per_s, max(1.0, plan.rate_per_s))
        if self.pace is not None:
            self.pace.level, self.pace.at = 1.0, record.at


class Operations:
    """The operations of a log, by `<tenant>.<queue>~<id>`."""

    def __init__(self, jobs: dict[str, Tally]) -> None:
        self._jobs = jobs
        self.known: dict[str, Operation] = {}

    def change(self, event: e.OperationPlanned | e.OperationEnded, record: Record) -> None:
        place = f"{record.tenant}.{record.key}"
        operation = self.known.get(place)
        if isinstance(event, e.OperationPlanned):
            need(operation is None, "planned before")
            self.known[place] = Operation(event, record)
            return
        if operation is None:
            raise Wrong("ends, and was never planned")
        need(not operation.ended, "ended before")
        need(event.done == operation.done, f"says {event.done} jobs, there were {operation.done}")
        operation.ended = True

    def acted(self, job: Tally, since: int, dropped: bool, record: Record) -> None:
        """A record of a job is complete; it may be the step of an operation.

        `since` is where the job stood before, and `dropped` whether it was settled then.
        """
        cause = record.cause or ""
        if not cause.startswith(BY_OPERATION):
            return
        place = f"{record.tenant}.{cause.removeprefix(BY_OPERATION)}"
        operation = self.known.get(place)
        if operation is None:
            raise Wrong(f"operation {place} is not known")
        plan = operation.plan
        need(not operation.ended, "the operation had ended")
        need(job.queue == operation.queue, "a job of another queue")
        need(isinstance(record.events[0], _DOES[plan.verb]), f"the operation was to {plan.verb}")
        need(since <= operation.seq, "the job has changed since the plan was made")
        need(not dropped, "the job was dropped")
        need(plan.filter.task is None or job.task == plan.filter.task, "the filter leaves it out")
        need(not plan.limit or operation.done < plan.limit, f"one more than limit {plan.limit}")
        self._gently(place.partition(".")[2], operation, job)
        if operation.pace is not None:
            level = operation.pace.upto(record.at)
            need(level >= 1 - 1e-6, f"with {level:.3f} tokens left of {plan.rate_per_s}/s")
            operation.pace.level -= 1
        operation.done += 1

    def _gently(self, key: str, operation: Operation, job: Tally) -> None:
        """What has become of those before decides whether there is a next one."""
        plan = operation.plan
        mine = [other.state for other in self._jobs.values() if other.operation == key and other is not job]
        died = mine.count("dead")
        need(not plan.stop_after or died < plan.stop_after, f"{died} died again, of {plan.stop_after}")
        if plan.canary and operation.done == plan.canary:
            left = [state for state in mine if state not in ("completed", "cancelled", "dead")]
            need(not left, f"{len(left)} of the canary have not ended")
            need(not died, f"{died} of the canary died again")
