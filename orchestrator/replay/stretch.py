"""A stretch of a log, wherever it was read from: its records, how much of the log they are, and their fold.

Everything in forensics reads a log through `Stretch`, be it a node's, an archive's or a bundle's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import StrEnum
from typing import Final

import msgspec
from msgspec.structs import replace

from writ.broker.ports import Log
from writ.schemas.events import HistoryLong, LeasesRenewed
from writ.schemas.ids import SYSTEM_TENANT
from writ.schemas.lifecycle import IllegalTransition
from writ.schemas.operations import OPERATION_CAUSE
from writ.schemas.records import Record

from ..state import Partition, address
from .history import Entry, HistoryError, read_entry


class Coverage(StrEnum):
    """How much of a log a stretch holds."""

    WHOLE = "whole"
    """Every record from the first on: the chain is whole."""

    TENANT = "tenant"
    """Every record of one tenant, and those of the partition itself."""

    JOBS = "jobs"
    """Some jobs with what moves their leases, and their queues."""


class Stretch(msgspec.Struct, frozen=True):
    """Messages of one partition's log in order. `last` is where the log ended when it was read.

    `seen` is a record that somebody else has read before: its sequence, and its digest as it was then.
    """

    tenant: str
    partition: int
    epoch: int
    last: int
    coverage: Coverage
    entries: tuple[Entry, ...]
    seen: tuple[int, str] | None = None

    def records(self) -> Iterator[Record]:
        """Each message's record. Raises HistoryError."""
        return map(read_entry, self.entries)


class Point(msgspec.Struct, frozen=True):
    """A moment of a log: a sequence, or a log time in microseconds; neither is its end."""

    seq: int | None = None
    at: int | None = None

    def before(self, record: Record) -> bool:
        """Whether the moment lies before a record."""
        return (self.seq is not None and record.seq > self.seq) or (
            self.at is not None and record.at > self.at
        )


END: Final = Point()


async def stretch_of(log: Log) -> Stretch:
    """All of a log, as far as it goes when the reading begins. Raises what reading raises."""
    entries = [Entry(m.seq, m.subject, m.body) async for some in log.read() for m in some]
    last = entries[-1].seq if entries else 0
    return Stretch("", log.partition, log.epoch, last, Coverage.WHOLE, tuple(entries))


def folded(stretch: Stretch, point: Point = END) -> Partition:
    """The state after the last record that is not beyond the point. Raises HistoryError."""
    state = Partition(stretch.partition, stretch.epoch)
    for record in stretch.records():
        if point.before(record):
            break
        fold(state, record, stretch.coverage)
    return state


def fold(state: Partition, record: Record, coverage: Coverage) -> None:
    """One more record. Raises HistoryError where it cannot stand there."""
    known = record if coverage is Coverage.WHOLE else narrowed(state, record)
    try:
        if known is not None:
            state.evolve(known)
    except (IllegalTransition, ValueError, KeyError, AssertionError) as error:
        reason = str(error) if isinstance(error, IllegalTransition | ValueError) else repr(error)
        raise HistoryError(f"record {record.seq}: {reason}") from error
    state.seq, state.at = record.seq, record.at


def narrowed(state: Partition, record: Record) -> Record | None:
    """A record as far as it is about what a stretch holds; None where it is about nothing of that."""
    first = record.events[0]
    if isinstance(first, LeasesRenewed):
        leases = tuple([each for each in first.leases if _holds(state, record.tenant, each.key, each.token)])
        return replace(record, events=(LeasesRenewed(leases),)) if leases else None
    if isinstance(first, HistoryLong) and address(record.tenant, record.key) not in state.jobs:
        return None
    if record.kind == "job" and record.cause is not None and record.cause.startswith(OPERATION_CAUSE):
        by = address(record.tenant, record.cause.removeprefix(OPERATION_CAUSE))
        return record if by in state.operations else replace(record, cause=None)
    return record


def _holds(state: Partition, tenant: str, key: str, token: int) -> bool:
    job = state.jobs.get(address(tenant, key))
    return job is not None and job.lease is not None and job.lease.token == token


def of_jobs(stretch: Stretch, keys: Iterable[str]) -> Stretch:
    """Some jobs of a stretch, by their keys: with what moves their leases, and what governs their queues.

    Raises HistoryError.
    """
    wanted = frozenset(keys)
    queues = {key.partition("~")[0] for key in wanted}
    operations: set[str] = set()
    found: list[Entry] = []
    for entry in stretch.entries:
        record = read_entry(entry)
        if record.tenant not in (stretch.tenant or record.tenant, SYSTEM_TENANT):
            continue
        match record.kind:
            case "job" | "incident":
                keep = record.key in wanted
                if keep and record.cause is not None and record.cause.startswith(OPERATION_CAUSE):
                    operations.add(record.cause.removeprefix(OPERATION_CAUSE))
            case "queue":
                keep = record.key in queues
            case "worker":
                first = record.events[0]
                keep = isinstance(first, LeasesRenewed) and any(each.key in wanted for each in first.leases)
            case "partition":
                keep = True
            case _:
                keep = False
        if keep:
            found.append(entry)
    return replace(stretch, coverage=Coverage.JOBS, entries=tuple(found), seen=None)
