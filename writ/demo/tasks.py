"""The task of the demonstration, and the trouble that is planted in three of its jobs."""

from __future__ import annotations

import time
from typing import Final, Literal

from writ.workers import Context, task

from . import distributions
from .distributions import Report

TASK: Final = "distributions.verify"
Trouble = Literal["none", "slow", "flaky", "broken"]
HOLD_S: Final = 30.0
"""How long the slow one's first attempt would take. Its worker is killed in the course of it."""


class IndexUnavailable(ConnectionError):
    """The planted fault that goes away by itself."""


class UnreadableRecord(ValueError):
    """The planted fault that stays."""


@task(name=TASK)
def verify(context: Context, distribution: str, trouble: Trouble = "none") -> Report:
    """Verifies one installed distribution against the hashes in its RECORD."""
    if trouble == "slow" and context.attempt == 1:
        _hold(context)
    if trouble == "flaky" and context.attempt == 1:
        raise IndexUnavailable("planted: no answer on the first attempt")
    if trouble == "broken":
        raise UnreadableRecord(f"planted: the RECORD of {distribution} cannot be read")
    return distributions.verify(distribution)


def _hold(context: Context) -> None:
    until = time.monotonic() + HOLD_S
    while time.monotonic() < until:
        context.raise_if_cancelled()
        time.sleep(0.05)
