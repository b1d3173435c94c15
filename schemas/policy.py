"""Policy documents: what governs a job's retries and times."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from .errors import ErrorClass

Seconds = Annotated[float, Meta(ge=0, le=10 * 365 * 86_400)]
PositiveSeconds = Annotated[float, Meta(gt=0, le=10 * 365 * 86_400)]


class Retry(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """When a failed attempt is tried again.

    The delay before attempt n+1 is `initial_interval_s * backoff**(failures - 1)`, at most
    `max_interval_s`, then spread by `jitter` (a fraction, to both sides) from a seed kept in the event.
    `max_attempts` counts failed attempts; 0 means without limit. `max_lease_losses` counts lost leases,
    which use up no attempt. A default here never changes: old records leave defaults out.
    """

    max_attempts: Annotated[int, Meta(ge=0, le=1_000_000)] = 5
    initial_interval_s: Seconds = 1.0
    backoff: Annotated[float, Meta(ge=1, le=1_000)] = 2.0
    max_interval_s: Seconds = 100.0
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.1
    max_lease_losses: Annotated[int, Meta(ge=1, le=1_000_000)] = 5
    non_retryable_types: tuple[str, ...] = ()


class Limits(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The time limits of a job, in seconds. A default here never changes: old records leave defaults out.

    `lease_s`: how long a lease lives unless renewed. `attempt_timeout_s`: grant to close of one attempt.
    `expires_in_s`: submit to first grant. `job_timeout_s`: due time to close, over all attempts.
    """

    lease_s: Annotated[float, Meta(ge=1, le=86_400)] = 30.0
    attempt_timeout_s: PositiveSeconds = 900.0
    job_timeout_s: PositiveSeconds = 86_400.0
    expires_in_s: PositiveSeconds | None = None


NEVER_RETRIED: frozenset[ErrorClass] = frozenset({ErrorClass.POLICY, ErrorClass.CANCELLED, ErrorClass.POISON})
"""Error classes that end a job whatever its policy says."""
