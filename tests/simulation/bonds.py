"""The rules of jobs that belong together: who comes after whom, whose children they are, in which batch."""

from __future__ import annotations

from writ.schemas import events as e
from writ.schemas.records import Record

from .mail import Distant, Mail
from .tally import TERMINAL, Tally, Wrong, need

_FAILED = ("dead", "cancelled")


class Batch:
    """A sealed batch."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.told = False


class Bonds:
    """Reads the jobs of a log; what follows from an end must be there when the round's records are."""

    def __init__(self, jobs: dict[str, Tally], mail: Mail) -> None:
        self._jobs = jobs
        self._mail = mail
        self.batches: dict[str, Batch] = {}
        """By `<tenant>.<queue>~<name>`."""

    def find(self, tenant: str, key: str) -> Tally | Distant | None:
        """A job, or what this log was told of one of another partition."""
        place = f"{tenant}.{key}"
        return self._jobs.get(place) or self._mail.distant(place)

    def failed(self, job: Tally) -> Tally | Distant | None:
        """The first of those before it that ended otherwise than completed, where that matters."""
        if job.given.on_dead == "run":
            return None
        found = [self.find(job.tenant, key) for key in job.given.after]
        return next((other for other in found if other is not None and other.state in _FAILED), None)

    def awaited(self, job: Tally) -> tuple[str, ...]:
        """The keys of those before it that have not ended."""
        found = [(key, self.find(job.tenant, key)) for key in job.given.after]
        return tuple([key for key, other in found if other is None or other.live])

    def met(self, job: Tally) -> bool:
        return self.failed(job) is None and not self.awaited(job)

    def holds_back(self, job: Tally, on: tuple[str, ...]) -> bool:
        """Whether a job waits for just these."""
        new = job.records == 0 and job.wait is None
        waits = job.wait is not None and job.wait.reason == "dependency"
        failed = self.failed(job)
        if failed is None:
            return new and bool(on) and on == self.awaited(job)
        return job.given.on_dead == "suspend" and (new or waits) and on == (failed.key.partition(".")[2],)

    def parent_over(self, job: Tally) -> bool:
        """Whether the parent has ended otherwise than completed; an operator's later wish counts for more."""
        if job.given.parent is None or job.given.on_parent_end != "cancel":
            return False
        parent = self.find(job.tenant, job.given.parent)
        return (
            parent is not None
            and parent.state in _FAILED
            and (job.round == 1 or parent.ended_by > job.opened)
        )

    def submitted(self, job: Tally) -> None:
        """The record that accepted a job is complete."""
        waits = job.wait is not None and job.wait.reason == "dependency"
        need(waits or not job.live or self.met(job), "it does not wait for those that it comes after")

    def batch(self, event: e.BatchSealed | e.BatchEnded, record: Record) -> None:
        place = f"{record.tenant}.{record.key}"
        batch = self.batches.get(place)
        if isinstance(event, e.BatchSealed):
            need(batch is None, "the batch was sealed before")
            self.batches[place] = Batch(event.size)
            return
        if batch is None:
            raise Wrong("the batch has no size yet")
        need(not batch.told, "the end of the batch was told before")
        counts = [self._count(place, state) for state in ("completed", "dead", "cancelled")]
        need(sum(counts) >= batch.size, f"only {sum(counts)} of {batch.size} jobs of the batch have ended")
        need([event.completed, event.dead, event.cancelled] == counts, f"the batch has {counts}")
        batch.told = True

    def _count(self, place: str, state: str) -> int:
        queue, _, name = place.partition("~")
        mine = [job for job in self._jobs.values() if job.queue == queue and job.given.batch == name]
        return sum(job.state == state for job in mine)

    def close(self) -> None:
        """Raises Wrong where a consequence is missing."""
        for job in self._jobs.values():
            wait = job.wait
            if wait is not None and wait.reason == "dependency":
                failed = self.failed(job)
                told = failed is not None and job.given.on_dead == "suspend" and len(wait.on) == 1
                need(told or failed is None, f"{job.key} still waits, though one before it has failed")
                need(not self.met(job), f"{job.key} still waits, though all before it have completed")
            if job.live and job.cancel is None and job.undoes is None:
                need(not self.parent_over(job), f"{job.key} goes on, though its parent has ended")
        for place, batch in self.batches.items():
            if not batch.told:
                ended = sum(self._count(place, state) for state in TERMINAL)
                need(ended < batch.size, f"the batch {place} has ended, and nobody was told")
