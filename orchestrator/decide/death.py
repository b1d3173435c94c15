"""Dead letters, each with its reason, the rule that decided, and the fingerprint of its cause."""

from __future__ import annotations

from writ.schemas.causes import fingerprint
from writ.schemas.errors import AttemptError
from writ.schemas.events import DeadReason, JobDeadLettered
from writ.schemas.lifecycle import Job


def dead(job: Job, reason: DeadReason, rule: str, error: AttemptError | None = None) -> JobDeadLettered:
    """The end of a job; `error` is the one that brought it about, where one did."""
    return JobDeadLettered(reason, rule, fingerprint(job.task, reason, error))
