"""Records to bytes and back: round trips, frozen bytes, upcasts, faults in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from writ.schemas import codec
from writ.schemas.codec import CodecError, decode, digest, encode, explain_fault
from writ.schemas.commands import SubmitJob
from writ.schemas.errors import AttemptError, ErrorClass
from writ.schemas.events import (
    EVENT_TYPES,
    VERSIONS,
    AttemptFailed,
    AttemptStarted,
    Barrier,
    CancelRequested,
    CommandRejected,
    DeadReason,
    Fact,
    JobCancelled,
    JobCompleted,
    JobDeadLettered,
    JobDue,
    JobRedriven,
    JobSubmitted,
    LeaderElected,
    LeaseExpired,
    LeaseGranted,
    LeaseReleased,
    LeasesRenewed,
    RefusedReport,
    RejectionsFolded,
    Renewal,
    ReportRejected,
    RetryScheduled,
    TimeResumed,
    type_names,
)
from writ.schemas.policy import Limits, Retry
from writ.schemas.records import GENESIS, Record, Source
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.sealed import seal

GOLDEN = Path(__file__).parent.parent / "golden"

# --- round trips ----------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
NUMBER = st.integers(0, 2**62)
SHARE = st.floats(0, 1)
JSON_TEXT: st.SearchStrategy[bytes] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
).map(lambda value: json.dumps(value, ensure_ascii=False).encode())
SEALED = st.builds(seal, JSON_TEXT)
ERROR = st.builds(AttemptError, st.sampled_from(ErrorClass), TEXT, st.none() | SEALED)
REJECTION = st.builds(
    Rejection, st.sampled_from(RejectionKind), TEXT, st.none() | TEXT, st.none() | st.integers(0, 499)
)
RETRY = st.builds(
    Retry, st.integers(0, 9), st.floats(0, 9), st.floats(1, 9), st.floats(0, 9), SHARE, st.integers(1, 9)
)
LIMITS = st.builds(
    Limits, st.floats(1, 99), st.floats(0.1, 99), st.floats(0.1, 99), st.none() | st.floats(0.1, 9)
)
MAYBE = st.none() | NUMBER
EVENTS: dict[type[Fact], st.SearchStrategy[Fact]] = {
    JobSubmitted: st.builds(JobSubmitted, TEXT, SEALED, MAYBE, st.integers(1, 5), RETRY, LIMITS, NUMBER),
    JobDue: st.builds(JobDue),
    LeaseGranted: st.builds(LeaseGranted, TEXT, NUMBER, st.none() | TEXT),
    AttemptStarted: st.builds(AttemptStarted, NUMBER, NUMBER),
    AttemptFailed: st.builds(AttemptFailed, NUMBER, NUMBER, ERROR, MAYBE, st.none() | SHARE),
    LeaseExpired: st.builds(LeaseExpired, NUMBER, NUMBER, TEXT, NUMBER, NUMBER, NUMBER),
    LeaseReleased: st.builds(LeaseReleased, NUMBER, NUMBER, TEXT),
    RetryScheduled: st.builds(
        RetryScheduled, NUMBER, TEXT, NUMBER, NUMBER, SHARE, SHARE, SHARE, st.none() | SHARE
    ),
    CancelRequested: st.builds(CancelRequested, TEXT),
    JobCompleted: st.builds(JobCompleted, NUMBER, NUMBER, st.none() | SEALED, MAYBE),
    JobCancelled: st.builds(JobCancelled, TEXT),
    JobDeadLettered: st.builds(JobDeadLettered, st.sampled_from(DeadReason), TEXT),
    JobRedriven: st.builds(JobRedriven, NUMBER, TEXT),
    LeasesRenewed: st.builds(LeasesRenewed, st.lists(st.builds(Renewal, TEXT, NUMBER)).map(tuple)),
    LeaderElected: st.builds(LeaderElected, TEXT, TEXT, st.none() | TEXT),
    TimeResumed: st.builds(TimeResumed, NUMBER),
    Barrier: st.builds(Barrier),
    CommandRejected: st.builds(CommandRejected, TEXT, st.lists(REJECTION).map(tuple), TEXT, NUMBER),
    ReportRejected: st.builds(
        ReportRejected, TEXT, TEXT, st.lists(st.builds(RefusedReport, TEXT, NUMBER, REJECTION)).map(tuple)
    ),
    RejectionsFolded: st.builds(RejectionsFolded, NUMBER, REJECTION),
}
RECORDS = st.builds(
    Record,
    epoch=NUMBER,
    seq=NUMBER,
    tenant=TEXT,
    kind=TEXT,
    key=TEXT,
    at=NUMBER,
    actor=TEXT,
    events=st.lists(st.one_of(list(EVENTS.values())), min_size=1, max_size=3).map(tuple),
    cause=st.none() | TEXT,
    vouched=st.none() | st.booleans(),
    source=st.none() | st.builds(Source, NUMBER, NUMBER, st.integers(-1, 499)),
    trace=st.none() | TEXT,
    logic=st.integers(1, 99),
)


def test_every_event_has_a_strategy_here() -> None:
    assert set(EVENTS) == set(EVENT_TYPES.values())


@given(RECORDS, st.sampled_from([GENESIS, "ab" * 32]))
@settings(max_examples=300, deadline=None)
def test_any_record_comes_back_as_it_was(record: Record, prev: str) -> None:
    body = encode(record, prev)
    assert decode(body) == msgspec.structs.replace(record, prev=prev)
    assert encode(decode(body), prev) == body
    for event, stored in zip(record.events, json.loads(body)["events"], strict=True):
        assert stored["type"] == type_names[type(event)]
        assert stored["v"] == VERSIONS[stored["type"]]


@pytest.mark.parametrize("cls", EVENTS, ids=lambda cls: cls.__name__)
def test_every_event_comes_back_as_it_was(cls: type[Fact]) -> None:
    @given(EVENTS[cls])
    @settings(max_examples=60, deadline=None)
    def check(event: Fact) -> None:
        record = Record(1, 2, "t", "job", "q~1", 3, "me", (event,))
        assert decode(encode(record, GENESIS)).events == (event,)

    check()


# --- frozen bytes ---------------------------------------------------------------------------------------


def plainly(value: Any) -> Any:
    """A record as JSON shows it: structs with the names of their classes, raw JSON as its text."""
    match value:
        case msgspec.Struct():
            fields = {name: plainly(getattr(value, name)) for name in value.__struct_fields__}
            return {"class": type(value).__name__, **fields}
        case tuple():
            return [plainly(each) for each in value]  # pyright: ignore[reportUnknownVariableType]
        case msgspec.Raw():
            return bytes(value).decode()
        case bytes():
            return value.hex()
        case _:
            return value


def golden() -> list[tuple[str, dict[str, Any]]]:
    return [
        (f"{path.stem}: {case['name']}", case)
        for path in sorted(GOLDEN.glob("*.json"))
        for case in json.loads(path.read_text(encoding="utf-8"))["cases"]
    ]


@pytest.mark.parametrize(("name", "case"), golden(), ids=[name for name, _ in golden()])
def test_bytes_once_written_read_the_same_for_ever(name: str, case: dict[str, Any]) -> None:
    """`read` is what the bytes must be read as; current versions must also be written as these bytes."""
    body = case["body"].encode()
    record = decode(body)
    assert plainly(record) == case["read"]
    assert digest(body) == case["sha256"]
    if all(event["v"] == VERSIONS[event["type"]] for event in json.loads(body)["events"]):
        assert encode(record, record.prev) == body


def test_every_event_type_and_version_is_frozen() -> None:
    frozen = {(e["type"], e["v"]) for _, case in golden() for e in json.loads(case["body"])["events"]}
    written = {(name, version) for name, now in VERSIONS.items() for version in range(1, now + 1)}
    missing = written - frozen
    assert not missing, f"add a case to tests/golden for each of {sorted(missing)}"


# --- upcasts --------------------------------------------------------------------------------------------


def stored(name: str, version: int, data: dict[str, Any]) -> bytes:
    event = {"type": name, "v": version, "data": data}
    head = {"epoch": 1, "seq": 1, "tenant": "t", "kind": "job", "key": "q~1", "at": 5, "actor": "me"}
    return json.dumps(head | {"events": [event]}).encode()


def test_old_versions_are_read_through_every_step_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(VERSIONS, "lease_released", 3)
    monkeypatch.setitem(codec.UPCASTS, ("lease_released", 1), lambda data: {**data, "why": "drain"})
    monkeypatch.setitem(
        codec.UPCASTS,
        ("lease_released", 2),
        lambda data: {"attempt": data["attempt"], "token": data["token"], "reason": data["why"]},
    )
    first = decode(stored("lease_released", 1, {"attempt": 1, "token": 7}))
    second = decode(stored("lease_released", 2, {"attempt": 1, "token": 7, "why": "stop"}))
    third = decode(stored("lease_released", 3, {"attempt": 1, "token": 7, "reason": "end"}))
    expected = [LeaseReleased(1, 7, reason) for reason in ("drain", "stop", "end")]
    assert [event for r in (first, second, third) for event in r.events] == expected
    monkeypatch.delitem(codec.UPCASTS, ("lease_released", 2))
    with pytest.raises(CodecError, match="cannot be read"):
        decode(stored("lease_released", 2, {"attempt": 1, "token": 7, "why": "stop"}))


def test_every_older_version_has_its_upcast() -> None:
    steps = {(name, old) for name, now in VERSIONS.items() for old in range(1, now)}
    assert set(codec.UPCASTS) == steps


@pytest.mark.parametrize(("name", "version"), [("job_due", 2), ("job_teleported", 1)])
def test_what_a_newer_writ_wrote_is_not_guessed_at(name: str, version: int) -> None:
    with pytest.raises(CodecError, match="newer Writ"):
        decode(stored(name, version, {}))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"\xff",
        b'{"epoch":1}',
        stored("lease_granted", 1, {"worker": 5}),
        stored("lease_granted", 1, {}),
        stored("job_due", 1, {})[:-1],
    ],
)
def test_what_is_no_record_is_refused_in_words(body: bytes) -> None:
    with pytest.raises(CodecError, match=r"record's body cannot be read"):
        decode(body)


def test_an_unknown_field_of_data_is_passed_over() -> None:
    """Within a version fields may be added: an older reader of the same version lives with them."""
    body = stored("attempt_started", 1, {"attempt": 1, "token": 2, "added_later": 3})
    assert decode(body).events == (AttemptStarted(1, 2),)


# --- faults in words ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        (b"{}", "task", "missing required field"),
        (b'{"task":1}', "task", "Expected `str`"),
        (b'{"task":"a","colour":1}', "colour", "unknown field"),
        (b'{"task":"a","retry":{"jitter":2}}', "retry.jitter", "<= 1"),
        (b'{"task":"a","retry":{"speed":2}}', "retry.speed", "unknown field"),
        (b'{"task":"a","priority":9}', "priority", "<= 5"),
        (b"7", None, "Expected `object`"),
    ],
)
def test_a_fault_names_the_field(body: bytes, field: str | None, words: str) -> None:
    with pytest.raises(msgspec.ValidationError) as fault:
        msgspec.json.decode(body, type=SubmitJob)
    named, reason = explain_fault(fault.value)
    assert named == field
    assert words in reason
