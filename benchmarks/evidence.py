"""Are a workload's figures worth anything? The log is read back, and must tell each job's history whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

from writ.broker.log import JetStreamLog
from writ.broker.ports import Stored
from writ.orchestrator.replay.history import Entry
from writ.orchestrator.replay.verify import Verifier
from writ.schemas.codec import decode
from writ.schemas.events import (
    CommandRejected,
    JobCancelled,
    JobCompleted,
    JobDeadLettered,
    JobSubmitted,
    LeaseGranted,
)
from writ.schemas.sealed import unseal

from .figures import Evidence

FAULTS_MAX: Final = 10
_TERMINAL: Final = (JobCompleted, JobCancelled, JobDeadLettered)


class _Input(msgspec.Struct):
    n: int


_read_input = msgspec.json.Decoder(_Input).decode


class History(msgspec.Struct):
    """What the log tells of one job. `ended_us` is the broker's time of storing its terminal record."""

    n: int
    priority: int
    submits: int = 0
    grants: int = 0
    ends: list[str] = msgspec.field(default_factory=list[str])
    ended_us: int = 0
    after_end: int = 0


class Told(NamedTuple):
    """The log of one workload: every message, and the jobs by their number."""

    messages: list[Stored]
    histories: dict[int, History]
    evidence: Evidence


async def read_back(log: JetStreamLog, first: int, jobs: int, bodies: Mapping[int, int]) -> Told:
    """Reads the whole log, verifies it from its first record on, and takes the workload's part apart.

    That part begins with record `first`. It must hold the jobs 0 to `jobs` - 1, each with one submit, one
    terminal event, which is its last, and as many grants as its body was run: `bodies` by number.
    """
    verifier = Verifier(log.epoch)
    messages: list[Stored] = []
    async for some in log.read():
        for message in some:
            verifier.take(Entry(message.seq, message.subject, message.body))
        messages += [message for message in some if message.seq >= first]
    report = verifier.report()
    histories = _histories(messages)
    faults = [f"record {fault.seq}: {fault.rule}: {fault.reason}" for fault in report.faults]
    faults += _refused(messages)
    faults += faults_of(histories, jobs, bodies)
    ends = Counter(end for history in histories.values() for end in history.ends)
    attempts = sum(history.grants for history in histories.values())
    told = Evidence(report.records, len(histories), attempts, dict(ends), tuple(faults[:FAULTS_MAX]))
    return Told(messages, histories, told)


def _histories(messages: Iterable[Stored]) -> dict[int, History]:
    by_key: dict[str, History] = {}
    for message in messages:
        if ".job." not in message.subject:
            continue
        record = decode(message.body)
        history = by_key.get(record.key)
        for event in record.events:
            if isinstance(event, JobSubmitted):
                told = History(_read_input(unseal(event.input)).n, event.priority)
                history = by_key.setdefault(record.key, told)
                history.submits += 1
            elif history is None:
                continue  # of the warm-up
            elif history.ends:
                history.after_end += 1
            elif isinstance(event, LeaseGranted):
                history.grants += 1
            elif isinstance(event, _TERMINAL):
                history.ends.append(type(event).__name__)
                history.ended_us = message.stored_us
    return {history.n: history for history in by_key.values()}


def _refused(messages: Iterable[Stored]) -> list[str]:
    """Submits that the orchestrator did not take, though the broker had acknowledged them."""
    found: list[str] = []
    for message in messages:
        if b'"command_rejected"' in message.body:
            for event in decode(message.body).events:
                if isinstance(event, CommandRejected):
                    reason = event.refused[0].reason
                    found.append(
                        f"record {message.seq}: {event.count} of a {event.verb} are refused: {reason}"
                    )
    return found


def faults_of(histories: Mapping[int, History], jobs: int, bodies: Mapping[int, int]) -> list[str]:
    missing = [n for n in range(jobs) if n not in histories]
    found = [f"{len(missing)} of {jobs} jobs are not in the log, as job {missing[0]}"] if missing else []
    for n, history in histories.items():
        if n >= jobs:
            found.append(f"job {n} was never sent")
        if history.submits != 1 or history.ends != [JobCompleted.__name__] or history.after_end:
            found.append(
                f"job {n}: {history.submits} submits, ends {history.ends}, {history.after_end} events after"
            )
        if history.grants != bodies.get(n, 0):
            found.append(f"job {n}: {history.grants} grants, but its body was run {bodies.get(n, 0)} times")
    return found
