"""Policy documents: what governs a job's retries and times, and a queue's order and limits."""

from __future__ import annotations

from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from .bounds import NAME_MAX_CHARS, REASON_MAX_CHARS, SECONDS_MAX, TOOL_RULES_MAX
from .errors import ErrorClass
from .fleet import Labels
from .ids import LANES_MAX
from .quotas import Reserve

Seconds = Annotated[float, Meta(ge=0, le=SECONDS_MAX)]
Priority = Annotated[int, Meta(ge=1, le=5)]
"""1 first; within one, first in first out."""

PositiveSeconds = Annotated[float, Meta(gt=0, le=SECONDS_MAX)]


class OnExhausted(StrEnum):
    """What becomes of a job whose attempts are used up."""

    DEAD_LETTER = "dead_letter"
    SUSPEND = "suspend"
    CANCEL = "cancel"


class ClassRetry(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """Overrides of a retry policy for one error class; what is left out is the policy's own."""

    max_attempts: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    initial_interval_s: Seconds | None = None
    backoff: Annotated[float, Meta(ge=1, le=1_000)] | None = None
    max_interval_s: Seconds | None = None


class Retry(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """When a failed attempt is tried again.

    The delay before attempt n+1 is `initial_interval_s * backoff**(failures - 1)`, at most
    `max_interval_s`, then spread by `jitter` (a fraction, to both sides) from a seed kept in the event.
    `max_attempts` counts failed attempts; 0 means without limit. `max_lease_losses` counts lost leases,
    which use up no attempt. `per_class` overrides by error class: `system`, `application` or `timeout`.
    A default here never changes: old records leave defaults out.
    """

    max_attempts: Annotated[int, Meta(ge=0, le=1_000_000)] = 5
    initial_interval_s: Seconds = 1.0
    backoff: Annotated[float, Meta(ge=1, le=1_000)] = 2.0
    max_interval_s: Seconds = 100.0
    jitter: Annotated[float, Meta(ge=0, le=1)] = 0.1
    max_lease_losses: Annotated[int, Meta(ge=1, le=1_000_000)] = 5
    non_retryable_types: tuple[str, ...] = ()
    per_class: Annotated[
        dict[Literal["system", "application", "timeout"], ClassRetry],
        Meta(extra_json_schema={"propertyNames": {"enum": ["system", "application", "timeout"]}}),
    ] = {}
    on_exhausted: OnExhausted = OnExhausted.DEAD_LETTER


class Limits(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """The time limits of a job, in seconds. A default here never changes: old records leave defaults out.

    `lease_s`: how long a lease lives unless renewed. `attempt_timeout_s`: grant to close of one attempt.
    `expires_in_s`: submit to first grant. `job_timeout_s`: due time to close, over all attempts.
    """

    lease_s: Annotated[float, Meta(ge=1, le=86_400)] = 30.0
    attempt_timeout_s: PositiveSeconds = 900.0
    job_timeout_s: PositiveSeconds = 86_400.0
    expires_in_s: PositiveSeconds | None = None


DEFAULT_RETRY: Final = Retry()
DEFAULT_LIMITS: Final = Limits()
"""The defaults themselves: a field that holds one of these is not written."""


class OnClash(StrEnum):
    """What becomes of a submit whose `unique_key` a live job has already."""

    RETURN = "return"
    """The live job stands for both; the submit is answered with it."""

    REJECT = "reject"
    REPLACE = "replace"
    """The live job is cancelled, a running one by request, and the new one accepted."""


ToolPattern = Annotated[str, Meta(min_length=1, max_length=NAME_MAX_CHARS)]
"""A name, in which `*` stands for anything."""

ToolPatterns = Annotated[tuple[ToolPattern, ...], Meta(max_length=TOOL_RULES_MAX)]


class ToolPolicy(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """Which tools a queue's jobs may call, how often, and what of their parameters is kept.

    A tool must match one of `allow`, where that is not empty, and none of `deny`. `max_calls` is a job's
    budget, over the attempts of a round. Parameters whose names match `redact` are recorded as `[redacted]`.
    """

    allow: ToolPatterns = ()
    deny: ToolPatterns = ()
    max_calls: Annotated[int, Meta(ge=0, le=1_000_000)] | None = None
    redact: ToolPatterns = ()

    def denies(self, tool: str, calls: int) -> str | None:
        """The rule by which a tool must not be called after so many calls; None where it may."""
        for pattern in self.deny:
            if fnmatchcase(tool, pattern):
                return f"deny lists {pattern}"
        if self.allow and not any(fnmatchcase(tool, pattern) for pattern in self.allow):
            return f"allow lists {', '.join(self.allow)}"[:REASON_MAX_CHARS]
        if self.max_calls is not None and calls >= self.max_calls:
            return f"max_calls is {self.max_calls}, and {calls} were made"
        return None

    def redacts(self, parameter: str) -> bool:
        """Whether a parameter's value is not kept."""
        return any(fnmatchcase(parameter, pattern) for pattern in self.redact)


ANY_TOOL: Final = ToolPolicy()


class Isolation(StrEnum):
    """How an attempt is kept apart from its worker and from others: each level contains the one before."""

    NONE = "none"
    PLAIN = "plain"
    LANDLOCK = "landlock"
    BUBBLEWRAP = "bubblewrap"

    def reaches(self, least: Isolation) -> bool:
        """Whether it is that level or a stronger one."""
        order = tuple(Isolation)
        return order.index(self) >= order.index(least)


Pattern = Annotated[str, Meta(min_length=1, max_length=NAME_MAX_CHARS)]
AssetGrants = Annotated[
    dict[Pattern, Annotated[tuple[Pattern, ...], Meta(max_length=TOOL_RULES_MAX)]],
    Meta(max_length=TOOL_RULES_MAX),
]


class QueuePolicy(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """What governs a queue. A default here never changes: old records leave defaults out.

    `retry`, `limits`, `priority` and `reserve_microusd` are for submits that name none of their own, and a
    job keeps those it was accepted under. The rest holds at every grant: `concurrency` running jobs in the
    queue and `key_concurrency` for each `concurrency_key`; `rate_per_s` grants with a `burst`; at most
    `retries_per_min` retries started, so that an outage is not amplified; `pending_max` jobs waiting, beyond
    which submits are refused; `tools` governs what their attempts call. `archive_after_s` is how long the
    history of a job stays in the log after the job has ended, before it may be moved to the archive. Where it
    is `erasable`, the content of each new job is sealed under a key that can be destroyed. Of these two, None
    leaves it to the tenant's policy, and where there is none, history stays and nothing is sealed.
    `isolation` is the least that a worker must keep an attempt apart, and `isolated_network` whether one that
    is kept apart by more than `plain` may use the network. `reserve_microusd` is what an attempt may cost:
    so much of the tenant's budget is set apart for each before it starts. `assets` are names, in which `*`
    stands for anything, each with the tasks whose jobs may read it.
    `requires` are labels that each new job of the queue demands of its worker, beside its own. With
    `strict_lease` a worker that cannot renew a lease stops the work before the job can be another's.
    With more than one of `lanes` the queue is spread over so many, each of them a queue of its own in a shard
    of its own, of which `unique_key` picks one: order, priorities and limits are exact, and hold, in each by
    itself. Their number is for good.
    """

    retry: Retry = DEFAULT_RETRY
    limits: Limits = DEFAULT_LIMITS
    priority: Priority = 3
    concurrency: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    key_concurrency: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    rate_per_s: Annotated[float, Meta(gt=0, le=1_000_000)] | None = None
    burst: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    retries_per_min: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    pending_max: Annotated[int, Meta(ge=1, le=100_000_000)] | None = None
    on_clash: OnClash = OnClash.RETURN
    tools: ToolPolicy = ANY_TOOL
    archive_after_s: Seconds | None = None
    erasable: bool | None = None
    isolation: Isolation = Isolation.NONE
    isolated_network: bool = False
    reserve_microusd: Reserve | None = None
    assets: AssetGrants = {}
    requires: Labels = {}
    strict_lease: bool = False
    lanes: Annotated[int, Meta(ge=1, le=LANES_MAX)] = 1


NEVER_RETRIED: Final[frozenset[ErrorClass]] = frozenset(
    {ErrorClass.POLICY, ErrorClass.CANCELLED, ErrorClass.POISON}
)
"""Error classes that end a job whatever its policy says."""
