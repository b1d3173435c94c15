"""Forgeries that keep the chain: a field of an event is another, and every record behind it is chained anew.

The bytes give nothing away then: only deciding again does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from enum import Enum
from typing import Any, Final

from msgspec.structs import replace

from writ.orchestrator.replay.history import Entry, read_entry
from writ.orchestrator.replay.stretch import Stretch
from writ.orchestrator.replay.verify import verify_stretch
from writ.schemas.codec import digest, encode
from writ.schemas.events import Fact, type_names
from writ.schemas.records import GENESIS, Record

Field = tuple[str, str]

GIVEN: Final[dict[str, frozenset[str]]] = {
    event: frozenset(fields.split())
    for event, fields in {
        "attempt_failed": "isolation permanent run_ms retry_after_s",
        "batch_sealed": "reason size",
        "command_rejected": "count queue verb",
        "job_completed": "isolation run_ms",
        "job_dead_lettered": "rule",
        "job_edited": "priority reason due_at",
        "job_resumed": "rule",
        "job_snoozed": "due_at",
        "job_submitted": "after batch concurrency_key due_at fairness_key on_dead on_parent_end parent "
        "priority reserve_microusd task unique_key",
        "job_suspended": "on_timeout rule until",
        "leader_elected": "leader version",
        "lease_granted": "isolation principal worker",
        "message_settled": "accepted",
        "operation_planned": "canary limit rate_per_s reason stop_after verb",
        "partition_opened": "dealt partitions",
        "queue_declared": "reason",
        "queue_draining": "reason",
        "queue_paused": "reason",
        "queue_resumed": "reason",
        "records_raised": "members reason",
        "rejections_folded": "count",
        "report_rejected": "verb worker",
        "retry_scheduled": "seed",
        "schedule_backfilled": "reason overlap from_at to_at known",
        "schedule_declared": "reason",
        "schedule_deleted": "reason",
        "schedule_paused": "reason",
        "schedule_resumed": "reason",
        "schedule_triggered": "reason overlap",
        "cancel_requested": "reason",
        "job_cancelled": "reason",
        "job_dropped": "reason",
        "job_redriven": "reason",
        "job_rerun": "reason",
        "lease_released": "reason",
        "signal_received": "name",
        "time_resumed": "gap_ms",
        "tenant_declared": "reason",
        "quotas_set": "reason quotas",
        "asset_set": "digest key reason secret size_bytes",
        "asset_removed": "reason",
    }.items()
}
"""What somebody gave, drew or measured, and so may be anything; all other fields follow from the log."""


def forge(stretch: Stretch, seq: int, events: tuple[Fact, ...]) -> Stretch:
    """The log as if record `seq` had held these events from the start."""
    entries: list[Entry] = []
    prev = GENESIS
    for entry in stretch.entries:
        record = read_entry(entry)
        body = encode(replace(record, events=events) if record.seq == seq else record, prev)
        prev = digest(body)
        entries.append(entry._replace(body=body))
    return replace(stretch, entries=tuple(entries), seen=None)


def forgeries(record: Record) -> Iterator[tuple[Field, tuple[Fact, ...]]]:
    """Each field of each event of a record as something else that it could be."""
    for index, event in enumerate(record.events):
        for field in event.__struct_fields__:
            for value in _others(getattr(event, field)):
                events = list(record.events)
                events[index] = replace(event, **{field: value})
                yield (type_names[type(event)], field), tuple(events)


def _others(value: Any) -> list[Any]:
    match value:
        case Enum():
            others = [each for each in type(value) if each is not value]
            return others[:1]
        case bool():
            return [not value]
        case int():
            return [value + 1]
        case float():
            return [value * 2 + 0.5]
        case str():
            return [f"{value}x"]
        case (str(), *_):
            return [value[1:]]
        case _:
            return []


def unfound(stretch: Stretch, seqs: set[int] | None = None) -> tuple[int, list[str]]:
    """How many forgeries of decided fields were looked at, and those that nobody noticed."""
    count, passed = 0, list[str]()
    for (event, field), (found, unnoticed) in judged_fields(stretch, seqs).items():
        if field not in GIVEN.get(event, ()):
            count += found + unnoticed
            passed += [f"{event}.{field}, {unnoticed} times"] if unnoticed else []
    return count, passed


def judged_fields(stretch: Stretch, seqs: set[int] | None = None) -> dict[Field, tuple[int, int]]:
    """Of each field that was forged: how often that was found, and how often it was not."""
    counts: dict[Field, list[int]] = defaultdict(lambda: [0, 0])
    for entry in stretch.entries:
        if seqs is None or entry.seq in seqs:
            for field, events in forgeries(read_entry(entry)):
                counts[field][verify_stretch(forge(stretch, entry.seq, events)).ok] += 1
    return {field: (found, passed) for field, (found, passed) in counts.items()}
