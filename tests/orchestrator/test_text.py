"""Every event has words of its own, and a job that does not run is told why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from writ.orchestrator.replay.explain import QueueStanding, explain
from writ.orchestrator.replay.history import Entry, Step, steps
from writ.orchestrator.replay.text import event_words
from writ.schemas.buckets import Bucket
from writ.schemas.events import JOB_EVENTS, OTHER_EVENTS, Fact, JobSubmitted, type_names
from writ.schemas.policy import QueuePolicy
from writ.schemas.queues import Mode, Queue
from writ.schemas.records import Record
from writ.schemas.sealed import seal

if TYPE_CHECKING:
    from tests.histories.builder import Histories, History

_GIVEN: dict[str, Any] = {
    "spec": {"task": "t", "cron": "0 3 * * *"},
    "input": seal(b"1"),
    "output": seal(b"1"),
    "progress": seal(b"1"),
    "data": seal(b"1"),
    "error": {"class": "application", "type": "ValueError"},
    "refused": [],
    "members": [["o1", 2]],
    "leases": [],
    "filter": {"task": "t", "states": ["dead"]},
    "policy": {},
    "quotas": {},
    "jobs": ["j"],
    "last": {"kind": "conflict", "reason": "no"},
    "verb": "redrive",
    "message": [1, 7, 0],
    "content": {"type": "job_asked", "tenant": "default", "key": "mail~a"},
    "why": {"kind": "denied", "reason": "no"},
    "params": seal(b"{}"),
    "secret": True,
    "checks": [],
    "verdict": {"outcome": "pass", "dimensions": [], "items": 1, "repeats": 1},
    "gate": {},
    "found": {
        **{"process": "p", "scope": "*", "revision": 7, "partition": 0, "level": 0.05},
        "watched": {"outcome": "fail", "pairs": 30, "change": -0.5, "worse": 40.0, "fine": 0.1},
    },
}


def made(kind: type[Fact]) -> Fact:
    """An event of a kind, with something in every field that must be given."""
    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        if not field.required:
            continue
        if (
            field.name in _GIVEN
            and field.type not in (str, int)
            and not (field.name == "policy" and kind is JobSubmitted)
        ):
            values[field.encode_name] = _GIVEN[field.name]
        elif field.type is int:
            values[field.encode_name] = 1
        elif field.type is float:
            values[field.encode_name] = 1.0
        else:
            values[field.encode_name] = _word(field.type)
    return msgspec.json.decode(msgspec.json.encode(values), type=kind)


def _word(type_: Any) -> str:
    members = list(getattr(type_, "__members__", {}).values())
    return str(members[0].value) if members else "word"


def told_steps(told: History) -> list[Step]:
    entries = [Entry(each.seq, each.subject, each.body) for each in told.records]
    return steps(entries, "default", "mail~a")


@pytest.mark.parametrize("kind", [*JOB_EVENTS, *OTHER_EVENTS], ids=lambda kind: type_names[kind])
def test_every_event_has_words(kind: type[Fact], history: Histories) -> None:
    told = history()
    told.job("a").submitted()
    (step,) = told_steps(told)
    event = made(kind)
    record = Record(1, 2, "default", "job", "mail~a", step.record.at, "owner", (event,))
    words = event_words(event, Step(record, step.job, step.job, False))
    assert words.strip(), f"{type_names[kind]} says nothing"


@pytest.mark.parametrize(
    ("standing", "said"),
    [
        (QueueStanding(Queue(mode=Mode.PAUSED, reason="night")), "Queue mail is paused: night"),
        (
            QueueStanding(Queue(QueuePolicy(concurrency=2)), running=2),
            "All slots are taken: 2 jobs of queue mail run; its concurrency is 2",
        ),
        (
            QueueStanding(Queue(QueuePolicy(key_concurrency=1)), running_by_key={"k": 1}),
            "1 jobs with concurrency_key k run; the queue's key_concurrency is 1",
        ),
        (
            QueueStanding(Queue(QueuePolicy(rate_per_s=0.1), grants=Bucket(0.0, 1_767_225_600_000_000))),
            "Queue mail grants 0.1 a second with a burst of 1, and has 0 tokens",
        ),
        (QueueStanding(Queue(), pending=3), "2 other jobs of queue mail are pending"),
    ],
)
def test_a_queue_that_holds_a_job_back_is_named(
    standing: QueueStanding, said: str, history: Histories
) -> None:
    told = history()
    told.add("job", "mail~a", (JobSubmitted("t", seal(b"1"), concurrency_key="k"),))
    found = explain(told_steps(told), told_steps(told)[-1].record.at, standing)
    assert said in " ".join(found.not_running.sentences)
