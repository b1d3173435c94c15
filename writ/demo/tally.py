"""The closing counts, from the log: what the demonstration itself remembers plays no part."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from writ.broker.client import Client
from writ.cli.fetch import all_jobs, all_records
from writ.schemas.codec import decode
from writ.schemas.events import JobCompleted, LeaseExpired, LeaseGranted, RetryScheduled
from writ.schemas.lifecycle import Job, State, evolve_record
from writ.schemas.queries import JobView, RecordView
from writ.schemas.sealed import unseal

from .distributions import Report


@dataclass
class Past:
    """One job as its records tell it."""

    view: JobView
    records: list[RecordView]
    job: Job
    workers: list[str] = field(default_factory=list[str])
    """Those that held a lease, in order, each once."""

    expired: int = 0
    retries: int = 0
    report: Report | None = None


@dataclass
class Tally:
    """What a run came to."""

    pasts: list[Past]

    def ended(self, state: State) -> list[Past]:
        """The jobs whose records end in a state."""
        return [past for past in self.pasts if past.job.state is state]

    @property
    def reclaimed(self) -> list[Past]:
        """Jobs whose lease ran out and that another worker took over."""
        return [past for past in self.pasts if past.expired and len(past.workers) > 1]

    def closest(self, name: str) -> Past | None:
        """The reclaimed job to look at: the one of this name, if it is one."""
        return next(
            (past for past in self.reclaimed if past.job.id == name), next(iter(self.reclaimed), None)
        )

    @property
    def retried(self) -> list[Past]:
        """Jobs that failed and completed all the same."""
        return [past for past in self.ended(State.COMPLETED) if past.retries]

    @property
    def reports(self) -> list[Report]:
        return [past.report for past in self.pasts if past.report is not None]

    @property
    def records(self) -> int:
        return sum(len(past.records) for past in self.pasts)

    def faults(self, submitted: int) -> list[str]:
        """In what the log differs from what must be in it."""
        found: list[str] = []
        if len(self.pasts) != submitted:
            found.append(f"{submitted} jobs were submitted, the log has {len(self.pasts)}")
        dead, completed = self.ended(State.DEAD), self.ended(State.COMPLETED)
        if len(dead) != 1:
            found.append(f"there should be exactly one dead letter, there are {len(dead)}: {_names(dead)}")
        others = [past for past in self.pasts if past not in dead and past not in completed]
        if others:
            states = ", ".join(f"{past.job.id} is {past.job.state.value}" for past in others)
            found.append(f"all others should be completed, but {states}")
        if not self.reclaimed:
            found.append("no job was leased to two workers")
        if not self.retried:
            found.append("no job was retried and completed")
        for past in self.pasts:
            if past.job.state is not past.view.state:
                view = past.view.state.value
                found.append(f"{past.job.id} is {past.job.state.value} in the log and {view} in the view")
        return found


def _names(pasts: list[Past]) -> str:
    return ", ".join(past.job.id for past in pasts) or "none"


async def count(client: Client, queue: str) -> Tally:
    """Reads the records of every job of the queue and folds them."""
    pasts: list[Past] = []
    for view in reversed(await all_jobs(client, queue=queue)):
        pasts.append(fold(view, await all_records(client, queue, view.id)))
    return Tally(pasts)


def fold(view: JobView, records: list[RecordView]) -> Past:
    """One job from its records."""
    job: Job | None = None
    workers: list[str] = []
    expired = retries = 0
    report: Report | None = None
    for stored in records:
        record = decode(bytes(stored.record))
        job = evolve_record(job, record)
        for event in record.events:
            match event:
                case LeaseGranted(worker=worker):
                    workers += [worker] if worker not in workers else []
                case LeaseExpired():
                    expired += 1
                case RetryScheduled():
                    retries += 1
                case JobCompleted(output=output) if output is not None:
                    report = msgspec.json.decode(unseal(output), type=Report)
                case _:
                    pass
    assert job is not None, f"job {view.id} has no record"
    return Past(view, records, job, workers, expired, retries, report)
