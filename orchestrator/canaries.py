"""Canaries that are judged, as a partition sees them in the ends of its own jobs: a fold of its log."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from writ.schemas.canaries import CanaryPolicy, Finding, Measure
from writ.schemas.errors import ErrorClass
from writ.schemas.evaluations import Outcome
from writ.schemas.events import AttemptFailed, Fact, JobCompleted, JobDeadLettered, LeaseExpired
from writ.schemas.jobs import Job
from writ.schemas.processes import Alias, Canary, Process, named

from .statistics import Stream


class Watch(msgspec.Struct, frozen=True, gc=False):
    """What a canary's jobs have come to, beside those of live, at one revision of what is compared.

    Leases count that are newer than the token `since`.
    """

    process: str
    scope: str
    revision: int
    since: int
    measure: Measure
    stream: Stream

    def found(self, partition: int) -> Finding:
        """As it is told."""
        watched, level = self.stream.watched(), self.stream.level
        return Finding(self.process, self.scope, self.revision, partition, level, watched)

    @property
    def decided(self) -> bool:
        return self.stream.outcome is not Outcome.INCONCLUSIVE


def begun(process: Process, canary: Canary, since: int, partitions: int) -> Watch:
    """A watch before its first result. Each of several partitions has its part of the level."""
    policy = canary.policy
    assert policy is not None
    stream = Stream(policy.tolerate, policy.detect, policy.level / partitions, policy.minimum)
    return Watch(process.name, canary.scope, process.revision(canary), since, policy.measure, stream)


def judged_by_results(process: Process) -> dict[str, Canary]:
    """The canaries of a process that wait for a verdict, by scope."""
    return {c.scope: c for c in process.canaries if c.policy is not None and c.judged is None}


def observed(watch: Watch, process: Process, canary: Canary, job: Job, events: Iterable[Fact]) -> Watch:
    """With the result that these events of a job are, if they are one. The job stands behind them."""
    if job.process is None or named(job.process).ref != Alias.LIVE or job.last_token <= watch.since:
        return watch
    live = process.pointer(Alias.LIVE, job.queue)
    if job.release != canary.digest and (live is None or job.release != live.digest):
        return watch  # of a release that was left meanwhile
    for event in events:
        result = _result(watch.measure, job, event)
        if result is not None:
            stream = watch.stream
            taken = stream.canary(result) if job.release == canary.digest else stream.baseline(result)
            watch = replace(watch, stream=taken)
    return watch


def _result(measure: Measure, job: Job, event: Fact) -> float | None:
    if job.compensation is not None:
        return None  # its attempts undo what was done
    if measure is Measure.JOBS:
        match event:
            case JobCompleted():
                return 1.0
            case JobDeadLettered():
                return 0.0
            case _:
                return None
    before = job.failures + job.lease_losses
    match event:
        case JobCompleted() if before == 0:
            return 1.0
        case AttemptFailed(error=error) if before == 1 and error.class_ is not ErrorClass.CANCELLED:
            return 0.0
        case LeaseExpired() if before == 1:
            return 0.0
        case _:
            return None


def policy_fault(policy: CanaryPolicy) -> str | None:
    """Why a canary cannot be judged so."""
    try:
        Stream(policy.tolerate, policy.detect, policy.level, policy.minimum)
    except ValueError as error:
        return str(error)
    return None
