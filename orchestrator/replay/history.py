"""One job's history, read back from the log and folded step by step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from writ.broker.ports import Log
from writ.schemas.codec import CodecError, decode
from writ.schemas.events import LeaderElected, LeasesRenewed, TimeResumed
from writ.schemas.ids import SYSTEM_TENANT
from writ.schemas.lifecycle import TERMINAL, IllegalTransition, Job, evolve_record, regranted, renewed
from writ.schemas.queries import RecordView
from writ.schemas.records import Record
from writ.schemas.subjects import log_subject, parse_log


class Entry(NamedTuple):
    """A message of the log, wherever it was read from."""

    seq: int
    subject: str
    body: bytes


class Step(NamedTuple):
    """A record and the job after it; `before` is the job before it, None for the first.

    With `is_context` the record is another aggregate's: a beat, or time given back to leases.
    """

    record: Record
    before: Job | None
    job: Job
    is_context: bool


class HistoryError(ValueError):
    """A record that cannot stand where it stands. The text says which and why."""


def read_entry(entry: Entry) -> Record:
    """The record in a message, checked against the message. Raises HistoryError."""
    try:
        record = decode(entry.body)
        partition = parse_log(entry.subject).partition
    except (CodecError, ValueError) as error:
        raise HistoryError(f"record {entry.seq}: {error}") from error
    if record.seq != entry.seq:
        raise HistoryError(f"record {entry.seq}: its body says sequence {record.seq}")
    if entry.subject != log_subject(partition, record.tenant, record.kind, record.key):
        names = f"{record.tenant} {record.kind} {record.key}"
        raise HistoryError(f"record {entry.seq}: its body is about {names}, its subject is {entry.subject}")
    return record


def steps(entries: Iterable[Entry], tenant: str, key: str) -> list[Step]:
    """The steps that messages tell of the job, in order; those that are about others are passed over.

    Raises HistoryError where a message contradicts itself, the order, or the lifecycle.
    """
    job: Job | None = None
    found: list[Step] = []
    seq = epoch = 0
    for entry in entries:
        record = read_entry(entry)
        if record.seq <= seq or record.epoch < epoch:
            raise HistoryError(f"record {record.seq} of epoch {record.epoch} comes after {seq} of {epoch}")
        seq, epoch = record.seq, record.epoch
        before = job
        is_own = (record.kind, record.tenant, record.key) == ("job", tenant, key)
        if is_own:
            try:
                job = evolve_record(job, record)
            except IllegalTransition as error:
                raise HistoryError(f"record {seq}: {error}") from error
        elif job is None or not concerns(record, tenant, key):
            continue
        else:
            job = _moved(job, record)
        found.append(Step(record, before, job, not is_own))
    return found


def concerns(record: Record, tenant: str, key: str) -> bool:
    """Whether a record of another aggregate moves the leases of the job, if it has one."""
    return any(
        isinstance(event, LeaderElected | TimeResumed)
        or (
            isinstance(event, LeasesRenewed)
            and record.tenant == tenant
            and any(lease.key == key for lease in event.leases)
        )
        for event in record.events
    )


def _moved(job: Job, record: Record) -> Job:
    if job.lease is None:
        return job
    for event in record.events:
        if isinstance(event, LeasesRenewed):
            job = renewed(job, record.at)
        else:
            job = regranted(job, record.at, record.epoch)
    return job


def steps_of_views(views: Iterable[RecordView]) -> list[Step]:
    """The steps of the job whose records, with context, these pages of the `records` query hold.

    Raises as `steps`.
    """
    entries = [Entry(view.seq, view.subject, bytes(view.record)) for view in views]
    for entry in entries:
        record = read_entry(entry)
        if record.kind == "job":
            return steps(entries, record.tenant, record.key)
    return []


async def timeline(log: Log, tenant: str, key: str) -> list[Step]:
    """The whole history of a job with its context; empty where the log has no such job.

    Raises HistoryError, and what reading the log raises.
    """
    own = log_subject(log.partition, tenant, "job", key)
    records = [
        read_entry(Entry(m.seq, m.subject, m.body)) async for some in log.read(1, (own,)) for m in some
    ]
    if not records:
        return []
    job: Job | None = None
    for record in records:
        try:
            job = evolve_record(job, record)
        except IllegalTransition as error:
            raise HistoryError(f"record {record.seq}: {error}") from error
    assert job is not None
    last = records[-1].seq if job.state in TERMINAL else None
    subjects = (
        own,
        log_subject(log.partition, tenant, "worker", "*"),
        log_subject(log.partition, SYSTEM_TENANT, "partition", "*"),
    )
    entries: list[Entry] = []
    async for some in log.read(records[0].seq, subjects):
        if last is not None and some[0].seq > last:
            break
        for m in some:
            if m.subject == own or ".worker." not in m.subject or key.encode() in m.body:
                entries.append(Entry(m.seq, m.subject, m.body))
    return steps((e for e in entries if last is None or e.seq <= last), tenant, key)


def at_point(found: Iterable[Step], seq: int | None = None, at: int | None = None) -> Job | None:
    """The job after the last step not beyond the sequence `seq` and the log time `at` (microseconds)."""
    job: Job | None = None
    for step in found:
        if (seq is not None and step.record.seq > seq) or (at is not None and step.record.at > at):
            break
        job = step.job
    return job


async def state_at(
    log: Log, tenant: str, key: str, seq: int | None = None, at: int | None = None
) -> Job | None:
    """The job as it was; None before it was submitted. Raises as `timeline`."""
    return at_point(await timeline(log, tenant, key), seq, at)
