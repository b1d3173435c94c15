"""One run as its records tell it, to be answered from: recorded steps, and the calls of its last attempt."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from .assets import AssetRead
from .events import LeaseGranted
from .lifecycle import Job, evolve
from .records import Record
from .steps import ToolCalled


class Run(msgspec.Struct, frozen=True):
    """A job at one of its ends, with the calls of tools that its last attempt made outside of steps.

    `assets` are the versions that it has read, by name.

    `attempt` and `token` are of that attempt; one that undid what the steps had done does not count.
    """

    job: Job
    calls: tuple[ToolCalled, ...] = ()
    assets: dict[str, int] = {}
    attempt: int = 0
    token: int = 0


def last_run(records: Iterable[Record], end: int | None = None) -> Run | None:
    """The run that ends with record `end`, or with the last of the job's records; None where there is none.

    Raises IllegalTransition for records that do not follow one another.
    """
    job: Job | None = None
    calls: list[ToolCalled] = []
    assets: dict[str, int] = {}
    attempt = token = 0
    for record in records:
        if end is not None and record.seq > end:
            break
        for event in record.events:
            job = evolve(job, event, record)
            if job.compensation is not None:
                continue
            if isinstance(event, LeaseGranted):
                calls.clear()
                assets.clear()
                attempt, token = event.attempt, job.last_token
            elif isinstance(event, ToolCalled) and event.step is None:
                calls.append(event)
            elif isinstance(event, AssetRead):
                assets.setdefault(event.asset, event.version)
    return None if job is None else Run(job, tuple(calls), assets, attempt, token)
