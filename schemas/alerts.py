"""Alert policies: what somebody wants to hear of, as thresholds over what the log tells."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from .forms import Token
from .policy import PositiveSeconds, Seconds

THRESHOLD_MAX: Final = 1e12
"""More than any measure comes to, and few enough seconds for log time."""


class Measure(StrEnum):
    """What of a queue is held against a threshold."""

    BACKLOG = "backlog"
    """Pending jobs."""

    BACKLOG_AGE_S = "backlog_age_s"
    """How long the job that is pending longest has been so, in seconds."""

    DEAD_LETTERS = "dead_letters"
    """Jobs that became dead letters within the window."""

    DEAD_LETTER_RATIO = "dead_letter_ratio"
    """Dead letters among the jobs that ended within the window, 0 to 1."""

    FAILURES = "failures"
    """Attempts that failed within the window."""

    LEASE_LOSSES = "lease_losses"
    """Leases that expired within the window."""

    RETRIES = "retries"
    """Retries that were scheduled within the window."""

    SPEND_USD = "spend_usd"
    """What tokens of models cost within the window, in US dollars."""


class AlertPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Fires for a queue when the measure has been above a threshold for `for_s` seconds, until it is not.

    `queue` is the one that is looked at; None: each one for itself. `window_s` is for measures that count
    over a time.
    """

    measure: Measure
    above: Annotated[float, Meta(ge=0, le=THRESHOLD_MAX)]
    window_s: PositiveSeconds = 600.0
    for_s: Seconds = 0.0
    queue: Token | None = None
