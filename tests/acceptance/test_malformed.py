"""Submits that cannot be accepted: refused by name, on record, and in nobody's way."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from writ.schemas import bounds, submits
from writ.schemas.commands import SubmitJob
from writ.schemas.events import CommandRejected, JobSubmitted, RejectionsFolded
from writ.schemas.records import Record
from writ.schemas.rejections import Rejection

if TYPE_CHECKING:
    from .conftest import Live

MAX = bounds.MESSAGE_MAX_BYTES
SUBJECT = b"writ.submit.default.owner."


def job(**fields: Any) -> bytes:
    return json.dumps({"task": "t", **fields}).encode()


def filled(before: bytes, after: bytes, size: int, fill: bytes = b"x") -> bytes:
    """A body of exactly so many bytes."""
    return before + fill * (size - len(before) - len(after)) + after


class Bad(NamedTuple):
    """A body, and where and how it must be refused."""

    body: bytes
    field: str | None
    words: str
    kind: str = "malformed"


NO_JSON = "not JSON"
DEEP = 100_000
TABLE = {
    # not JSON
    "empty": Bad(b"", None, NO_JSON),
    "blank": Bad(b" \n\t", None, NO_JSON),
    "words": Bad(b"run my job please", None, NO_JSON),
    "truncated": Bad(job()[:-1], None, NO_JSON),
    "trailing": Bad(job() + b"}", None, NO_JSON),
    "two documents": Bad(job() + job(), None, NO_JSON),
    "single quotes": Bad(b"{'task':'t'}", None, NO_JSON),
    "trailing comma": Bad(b'{"task":"t",}', None, NO_JSON),
    "comment": Bad(b'{"task":"t"/*hi*/}', None, NO_JSON),
    "byte order mark": Bad(b"\xef\xbb\xbf" + job(), None, NO_JSON),
    "NUL": Bad(b"\x00", None, NO_JSON),
    "not UTF-8": Bad(b'{"task":"\xff"}', None, "not UTF-8"),
    "UTF-16": Bad('{"task":"t"}'.encode("utf-16"), None, "not UTF-8"),
    "overlong": Bad(b'{"task":"\xc0\xaf"}', None, "not UTF-8"),
    "raw surrogate": Bad(b'{"task":"t","input":"\xed\xa0\x80"}', None, "not UTF-8"),
    "lone surrogate": Bad(b'{"task":"t","input":"\\ud800"}', None, NO_JSON),
    "lone surrogate in the task": Bad(b'{"task":"\\udc00"}', None, NO_JSON),
    "NaN": Bad(b'{"task":"t","input":NaN}', None, NO_JSON),
    "Infinity": Bad(b'{"task":"t","input":-Infinity}', None, NO_JSON),
    "control character": Bad(b'{"task":"t","input":"\x01"}', None, NO_JSON),
    "leading nought": Bad(b'{"task":"t","input":007}', None, NO_JSON),
    "number of 5,000 digits": Bad(b'{"task":"t","input":' + b"9" * 5_000 + b"}", "input", "out of range"),
    "number beyond floats": Bad(b'{"task":"t","input":[1e999]}', "input", "out of range"),
    "open arrays": Bad(b"[" * DEEP, None, NO_JSON),
    "open objects": Bad(b'{"input":' * DEEP, None, NO_JSON),
    "deep input": Bad(b'{"task":"t","input":' + b"[" * DEEP + b"]" * DEEP + b"}", None, NO_JSON),
    "broken array": Bad(b"[" + job() + b",", None, NO_JSON),
    # not an object
    "null": Bad(b"null", None, "Expected `object`"),
    "a number": Bad(b"7", None, "Expected `object`"),
    "a string": Bad(b'"task"', None, "Expected `object`"),
    "an empty array": Bad(b"[]", None, "holds no job"),
    # fields
    "no task": Bad(b"{}", "task", "missing required field"),
    "no task but input": Bad(b'{"input":{"to":"a"}}', "task", "missing required field"),
    "task null": Bad(b'{"task":null}', "task", "Expected `str`"),
    "task a number": Bad(b'{"task":5}', "task", "Expected `str`"),
    "task empty": Bad(b'{"task":""}', "task", "length >= 1"),
    "task blank": Bad(b'{"task":"a b"}', "task", "matching regex"),
    "task with a line end": Bad(b'{"task":"a\\n"}', "task", "matching regex"),
    "task long": Bad(job(task="x" * 257), "task", "length <= 256"),
    "unknown field": Bad(job(colour="red"), "colour", "unknown field"),
    "misspelled field": Bad(job(Priority=1), "Priority", "unknown field"),
    "unknown field without name": Bad(job(**{"": 1}), None, "unknown field"),
    "unknown field in retry": Bad(job(retry={"tries": 3}), "retry.tries", "unknown field"),
    "priority too low": Bad(job(priority=0), "priority", ">= 1"),
    "priority too high": Bad(job(priority=6), "priority", "<= 5"),
    "priority of a float": Bad(job(priority=1.5), "priority", "Expected `int | null`"),
    "priority a string": Bad(job(priority="1"), "priority", "Expected `int | null`"),
    "priority huge": Bad(b'{"task":"t","priority":1' + b"0" * 400 + b"}", "priority", ""),
    "delay negative": Bad(job(delay_s=-1), "delay_s", ">= 0"),
    "delay infinite": Bad(b'{"task":"t","delay_s":1e999}', "delay_s", "out of range"),
    "time without offset": Bad(job(not_before="2030-01-01T00:00:00"), "not_before", "timezone"),
    "time in words": Bad(job(not_before="tomorrow"), "not_before", "RFC3339"),
    "time of the dinosaurs": Bad(job(not_before="0001-01-01T00:00:00+23:59"), "not_before", "1970"),
    "time without end": Bad(job(not_before="9999-12-31T23:59:59-23:59"), "not_before", "2100"),
    "delay and time": Bad(job(not_before="2030-01-01T00:00:00Z", delay_s=1), "delay_s", "both given"),
    "id of a number": Bad(job(id=5), "id", "Expected `str"),
    "id with a dot": Bad(job(id="a.b"), "id", "matching regex"),
    "id with a star": Bad(job(id="*"), "id", "matching regex"),
    "id with a tilde": Bad(job(id="a~b"), "id", "matching regex"),
    "id with a line end": Bad(job(id="a\n"), "id", "matching regex"),
    "id long": Bad(job(id="x" * 257), "id", "length <= 256"),
    "id and queue long": Bad(job(id="x" * 255), "id", "at most 256"),
    "id of a derived form": Bad(job(id="1-2-3"), "id", "three numbers"),
    "retry a number": Bad(job(retry=3), "retry", "Expected `object | null`"),
    "jitter beyond one": Bad(job(retry={"jitter": 1.1}), "retry.jitter", "<= 1"),
    "backoff below one": Bad(job(retry={"backoff": 0.5}), "retry.backoff", ">= 1"),
    "lease too short": Bad(job(lease_s=0.5), "lease_s", ">= 1"),
    "no time for an attempt": Bad(job(attempt_timeout_s=0), "attempt_timeout_s", "> 0"),
    "type in retry": Bad(
        job(retry={"non_retryable_types": [5]}), "retry.non_retryable_types[0]", "Expected `str`"
    ),
    # too large, up to the broker's own limit
    "input too large": Bad(job(input="x" * bounds.INLINE_MAX_BYTES), "input", "262146 bytes", "too_large"),
    "input of a whole message": Bad(
        filled(b'{"task":"t","input":"', b'"}', MAX), "input", "at most 262144", "too_large"
    ),
    "task of a whole message": Bad(filled(b'{"task":"', b'"}', MAX), "task", "length <= 256"),
    "id of a whole message": Bad(filled(b'{"task":"t","id":"', b'"}', MAX), "id", "length <= 256"),
    "unknown field of a whole message": Bad(filled(b'{"task":"t","', b'":1}', MAX), "x" * 200, ""),
    "unknown field of control characters": Bad(
        b'{"task":"t","' + b"\\u0001" * 150_000 + b'":1}', "\x01" * 200, ""
    ),
    "unknown field of emoji": Bad(('{"task":"t","' + "😀" * 200_000 + '":1}').encode(), "😀" * 200, ""),
    "types of a whole message": Bad(
        filled(b'{"task":"t","retry":{"non_retryable_types":["', b'"]}}', MAX),
        "retry.non_retryable_types",
        "at most 16384",
        "too_large",
    ),
    "blanks of a whole message": Bad(b" " * MAX, None, NO_JSON),
    "noise of a whole message": Bad(random.Random(1).randbytes(MAX), None, "not UTF-8"),
    "input nested 101 deep": Bad(
        b'{"task":"t","input":' + b"[" * 101 + b"1" + b"]" * 101 + b"}",
        "input",
        "at most 100",
    ),
    "array of 501": Bad(b"[" + b",".join([b'{"task":"t"}'] * 501) + b"]", None, "at most 500", "too_large"),
}


def refusals(records: list[Record]) -> list[tuple[Record, CommandRejected]]:
    return [(r, e) for r in records for e in r.events if isinstance(e, CommandRejected)]


@pytest.mark.parametrize("name", TABLE)
async def test_a_malformed_submit_is_refused_by_name_and_delays_nothing(live: Live, name: str) -> None:
    """Must hold: a malformed one (not JSON, no task, unknown field, wrong type, too large, up to the broker's
    `max_payload`) is refused with a reason that names the field, is visible in the audit of the log, and does
    not delay the next message.
    """
    bad = TABLE[name]

    def send(client: Any) -> list[bytes]:
        # In one breath, so that whatever the first one stops has stopped before the next one comes.
        client.publish(SUBJECT + b"mail", bad.body)
        client.publish(SUBJECT + b"mail", job(id="next"))
        return [client.request(SUBJECT + b"mail", job(id="last"))]

    (ack,) = await live.play(send)
    assert json.loads(ack)["seq"] == 3
    for job_id in ("next", "last"):
        assert (await live.job(f"mail~{job_id}")).state == "pending"
    records = await live.records()
    ((record, event),) = refusals(records)
    assert (record.kind, record.key, record.actor, record.cause) == ("principal", "owner", "owner", "submit")
    assert record.source is not None
    assert record.source.seq == 1
    assert (event.verb, event.queue, event.count) == ("submit", "mail", 1)
    (rejection,) = event.refused
    assert (rejection.kind, rejection.field, rejection.index) == (bad.kind, bad.field, None)
    assert bad.words in rejection.reason
    assert record.seq < min(r.seq for r in records if r.key == "mail~next")
    await live.check()


@pytest.mark.parametrize(
    ("body", "accepted"),
    [
        (b" \r\n\t" + job(id="odd") + b"\n ", b"null"),
        (b'{"task":"t","id":"odd","input":1e-999}', b"1e-999"),
        (b'{"task":"t","id":"odd","input":1.000000000000000000000000001}', b"1.000000000000000000000000001"),
        (
            b'{"task":"t","id":"odd","input":123456789012345678901234567890}',
            b"123456789012345678901234567890",
        ),
        (b'{"task":"t","id":"odd","input":{"a":1,"a":2,"a":3}}', b'{"a":1,"a":2,"a":3}'),
        (b'{"task":"t","task":"t","id":"first","id":"odd"}', b"null"),
        (b'{"task":"t","id":"odd","input":"\\u0000\\ud83d\\ude00"}', b'"\\u0000\\ud83d\\ude00"'),
        (b'{"task":"t","id":"odd","input":' + b"[" * 100 + b"]" * 100 + b"}", b"[" * 100 + b"]" * 100),
        (filled(b'{"task":"t","id":"odd",', b'"input":5}', MAX, b" "), b"5"),
        (filled(b'{"task":"t","id":"odd","input":"', b'"}', 262_174 - 33 + 35), None),
        ('{"task":"Rechnungen.prüfen","id":"odd"}'.encode(), b"null"),
    ],
    ids=[
        *("blanks around", "tiny number", "long fraction", "long integer", "double keys"),
        *("double fields", "escapes", "100 deep", "a whole message", "a large input", "letters"),
    ],
)
async def test_what_is_odd_and_well_formed_is_taken_to_the_byte(
    live: Live, body: bytes, accepted: bytes | None, strictly: Callable[[bytes], Any]
) -> None:
    """The positive control: not everything is refused."""
    await live.play(lambda client: client.request(SUBJECT + b"mail", body))
    found = await live.job("mail~odd")
    assert found.state == "pending"
    if accepted is not None:
        assert bytes(found.input.plain) == accepted
    for message in await live.stored():
        strictly(message.body)
    await live.check()


async def test_beyond_the_brokers_limit_the_broker_refuses_and_says_so(live: Live, raw: Any) -> None:
    def send(client: Any) -> str:
        try:
            client.publish(SUBJECT + b"mail", filled(b'{"task":"', b'"}', MAX + 1))
            client.ping()
        except (raw.ServerError, ConnectionError) as refused:
            return str(refused)
        return ""

    assert await live.play(send)  # its last words may be lost with the connection
    said = (live.node.directory / "broker.log").read_text()
    assert "maximum payload" in said.lower()
    await live.play(lambda client: client.request(SUBJECT + b"mail", job(id="next")))
    assert (await live.job("mail~next")).state == "pending"
    assert (await live.streams())["WRIT_SUBMIT"][2] == 1


async def test_each_element_of_an_array_is_accepted_or_refused_by_its_index(live: Live) -> None:
    """Must hold: in an array each element is accepted or refused by its index."""
    bad = {
        1: (b"{}", "task"),
        3: (b'{"task":"t","colour":1}', "colour"),
        4: (b"null", None),
        5: (b"[" + job() + b"]", None),
        7: (b'{"task":"t","input":[1e999]}', "input"),
        8: (job(input="x" * bounds.INLINE_MAX_BYTES), "input"),
        10: (job(priority="high"), "priority"),
        11: (job(id="a b"), "id"),
    }
    elements = [bad[i][0] if i in bad else job(id=f"good{i}") for i in range(13)]
    await live.play(lambda client: client.request(SUBJECT + b"mail", b"[" + b",".join(elements) + b"]"))
    await live.job("mail~good12")
    records = await live.records()
    accepted = {r.source.index for r in records if r.kind == "job" and r.source is not None}
    assert accepted == set(range(13)) - set(bad)
    ((record, event),) = refusals(records)
    assert {r.index: r.field for r in event.refused} == {i: field for i, (_, field) in bad.items()}
    assert event.count == len(bad)
    assert record.source is not None
    await live.check()


async def test_of_very_many_refused_elements_the_first_hundred_are_named(live: Live) -> None:
    elements = b",".join([b'{"x":1}'] * 499 + [job(id="good")])
    await live.play(lambda client: client.request(SUBJECT + b"mail", b"[" + elements + b"]"))
    await live.job("mail~good")
    ((_, event),) = refusals(await live.records())
    assert (len(event.refused), event.count) == (100, 499)
    assert [r.index for r in event.refused] == list(range(100))


async def test_the_largest_refusal_fits_a_record(live: Live) -> None:
    """Everything that a refusal quotes of the sender's, as long and as costly to write as it may be."""
    queue = b"\x01" * 3_900
    elements = b",".join([b'{"task":"t","' + b"\\u0001" * 600 + b'":1}'] * 200)
    await live.play(lambda client: client.request(SUBJECT + queue, b"[" + elements + b"]"))
    await live.play(lambda client: client.request(SUBJECT + b"mail", job(id="next")))
    await live.job("mail~next")
    ((_, event),) = refusals(await live.records())
    assert (len(event.refused), event.count) == (100, 200)
    assert max(len(m.body) for m in await live.stored()) > 250_000
    await live.check()


# --- queues and headers ---------------------------------------------------------------------------------

QUEUES = {
    "not UTF-8": b"q\xff\xfe",
    "a truncated letter": b"q\xc3",
    "star": b"*",
    "tilde": b"~",
    "inner tilde": b"a~b",
    "letters": "grüße".encode(),
    "vertical tab": b"a\x0bb",
    "form feed": b"\x0c",
    "NUL": b"a\x00b",
    "escape": b"\x1b[31m",
    "no-break space": "\u00a0".encode(),
    "backslash": b"a\\b",
    "quote": b'a"b',
    "long": b"q" * 257,
    "very long": b"q" * 3_900,
    "dollar": b"$JS",
}
HEADERS = {
    "a heartbeat's status": b"NATS/1.0 100 Idle Heartbeat\r\n\r\n",
    "a status header": b"NATS/1.0\r\nStatus: 100\r\n\r\n",
    "a stalled consumer": b"NATS/1.0\r\nStatus: 100\r\nNats-Consumer-Stalled: $JS.API.STREAM.PURGE.X\r\n\r\n",
    "bytes": b"NATS/1.0\r\n\xff\xfe: \xff\r\n\r\n",
    "a status of bytes": b"NATS/1.0 \xff\xff\xff\r\n\r\n",
    "no end": b"NATS/1.0\r\nabc",
    "nothing but the version": b"NATS/1.0\r\n\r\n",
    "no colon": b"NATS/1.0\r\nabc\r\n\r\n",
    "another position": b"NATS/1.0\r\nNats-Last-Consumer: 99\r\nNats-Sequence: 5\r\n\r\n",
}


@pytest.mark.parametrize("name", QUEUES)
async def test_a_queue_that_is_no_name_is_refused_and_stops_no_reader(live: Live, name: str) -> None:
    """Submits and requests alike: a subject holds whatever bytes a sender puts there."""
    queue = QUEUES[name]

    def send(client: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        client.publish(SUBJECT + queue, job())
        asked = client.request(b"writ.lease.default.owner.acquire." + queue, b'{"worker":"w"}')
        client.request(SUBJECT + b"mail", job(id="next"))
        again = client.request(b"writ.lease.default.owner.acquire.mail", b'{"worker":"w","wait_s":9}')
        return json.loads(asked), json.loads(again)

    asked, again = await live.play(send)
    assert (asked["error"]["kind"], asked["error"]["field"]) == ("malformed", "queue")
    assert again["leases"][0]["id"] == "next"
    found = refusals(await live.records())
    assert sorted(event.verb for _, event in found) == ["acquire", "submit"]
    assert {rejection.field for _, event in found for rejection in event.refused} == {"queue"}
    await live.check()


async def test_a_queue_of_all_wildcards_reaches_nobody(live: Live, raw: Any) -> None:
    """The broker gives `>` to nobody: neither stored nor answered, and nothing else is held up."""

    def send(client: Any) -> None:
        client.publish(SUBJECT + b">", job(id="lost"))
        client.request(SUBJECT + b"mail", job(id="next"))

    await live.play(send)
    await live.job("mail~next")
    assert (await live.streams())["WRIT_SUBMIT"][2] == 1


@pytest.mark.parametrize("name", HEADERS)
async def test_no_header_stops_a_reader(live: Live, name: str) -> None:
    def send(client: Any) -> dict[str, Any]:
        client.publish(SUBJECT + b"mail", job(id="odd"), headers=HEADERS[name])
        client.publish(b"writ.lease.default.owner.acquire.mail", b'{"worker":"w"}', headers=HEADERS[name])
        client.request(SUBJECT + b"mail", job(id="next"))
        answer: dict[str, Any] = json.loads(
            client.request(b"writ.lease.default.owner.acquire.other", b'{"worker":"w"}')
        )
        return answer

    assert "error" not in await live.play(send)
    await live.job("mail~next")
    records = await live.records()
    # Either the message came through, or what the broker made of it was refused.
    assert any(r.key == "mail~odd" for r in records) or refusals(records)
    await live.check()


# --- noise ----------------------------------------------------------------------------------------------


class Noise:
    """Messages that nobody would think of, the same for the same seed."""

    ATOMS = (
        *(b"null", b"true", b"0", b"-0", b"1e308", b"1e400", b"-1e-400", b"9" * 40, b"9" * 4_400, b"NaN"),
        *(b"Infinity", b'""', b'"\\ud800"', b'"\\udfff\\ud800"', b'"\xff"', b'"\xed\xa0\x80"', b'"\\u0000"'),
        *(b"[]", b"{}", b'{"a":1,"a":2}', b'{"":{}}', b"[" * 99 + b"]" * 99, b"[" * 150 + b"]" * 150),
        *(b"[" * 5_000, b'"\x00"', b'"\\x"', b"01", b"+1", b".5", b"1.", b"--1", b"'a'", b"\xef\xbb\xbf1"),
        *('"é😀"'.encode(), b'"' + b"a" * 300 + b'"', b'"a.b"', b'"a~b"', b'"*"', b'"a\\nb"', b"1767225600"),
        *(b'"2030-01-01T00:00:00Z"', b'"2030-01-01T00:00:60Z"', b'"9999-12-31T23:59:59-23:59"', b"-5"),
    )
    FIELDS = (
        *(b"task", b"input", b"id", b"priority", b"not_before", b"delay_s", b"retry", b"lease_s"),
        *(b"attempt_timeout_s", b"job_timeout_s", b"expires_in_s", b"Task", b"\\u0074ask", b"", b"\\ud800"),
        *(b"a`b", b"$", b"- at `$.x`", b"x" * 2_000),
    )
    QUEUES = (*(b"mail",) * 20, b"bills", b"*", b"~", b"q\xff", b"q\x0b", "ü".encode(), b"a\\b", b"q" * 300)

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)

    def value(self, depth: int = 0) -> bytes:
        draw = self.draw
        if depth > 3 or draw.random() < 0.6:
            return draw.choice(self.ATOMS)
        if draw.random() < 0.5:
            return b"[" + b",".join(self.value(depth + 1) for _ in range(draw.randrange(4))) + b"]"
        pairs = (b'"k%d":%s' % (draw.randrange(3), self.value(depth + 1)) for _ in range(draw.randrange(4)))
        return b"{" + b",".join(pairs) + b"}"

    def element(self) -> bytes:
        draw = self.draw
        fields = {b"task": b'"t"'} if draw.random() < 0.8 else {}
        for _ in range(draw.randrange(4)):
            fields[draw.choice(self.FIELDS)] = self.value()
        pairs = [b'"%s":%s' % pair for pair in fields.items()]
        if draw.random() < 0.1:
            pairs += pairs[:1]
        return b"{" + b",".join(pairs) + b"}"

    def body(self) -> bytes:
        draw = self.draw
        kind = draw.random()
        if kind < 0.1:
            return draw.randbytes(draw.randrange(200))
        if kind < 0.2:
            return self.value()
        if kind < 0.4:
            whole = b"[" + b",".join(self.element() for _ in range(draw.randrange(6))) + b"]"
        else:
            whole = self.element()
        if draw.random() < 0.2:
            at = draw.randrange(len(whole) + 1)
            whole = whole[:at] + draw.choice((b"", draw.randbytes(1), b'"', b"}")) + whole[at + 1 :]
        return whole

    def queue(self) -> bytes:
        return self.draw.choice(self.QUEUES)


async def test_thousands_of_strange_messages_leave_an_orderly_log(
    live: Live, strictly: Callable[[bytes], Any], raw: Any
) -> None:
    """Never an unhandled error; every hundredth message is well-formed and accepted; each of the others is
    accepted, repeated or refused on record; and the log stays readable to the codec and to strict parsers.
    """
    noise = Noise(2026)
    count, good = 4_000, 40
    sent: dict[int, tuple[bytes, bytes]] = {}

    def send(client: Any) -> None:
        for number in range(1, count + 1):
            if number % 100 == 0:
                sent[number] = b"mail", job(id=f"good{number // 100}")
                client.publish(SUBJECT + b"mail", sent[number][1])
                continue
            queue, body = sent[number] = noise.queue(), noise.body()
            headers = noise.draw.choice((None, None, None, *HEADERS.values()))
            if headers == HEADERS["no end"]:
                headers = None  # the broker takes a part of the body for it
            client.publish(SUBJECT + queue, body, headers=headers)
        client.ping()

    await live.play(send)
    await live.job(f"mail~good{good}")
    assert (await live.streams())["WRIT_SUBMIT"][2] == count

    # What was refused beyond the budget is counted in a record within about a second.
    last = await live.until(lambda r: r.source is not None and r.source.seq == count)
    stored = await live.stored()
    records = await live.records()
    parsed = [strictly(message.body) for message in stored]
    assert [p["seq"] for p in parsed] == list(range(1, len(records) + 1))

    born = [r for r in records if any(isinstance(e, JobSubmitted) for e in r.events)]
    assert {f"mail~good{n}" for n in range(1, good + 1)} <= {r.key for r in born}
    assert len({r.key for r in born}) == len(born)
    assert len({r.source for r in born}) == len(born)
    refused = sum(
        e.count for r in records for e in r.events if isinstance(e, CommandRejected | RejectionsFolded)
    )
    taken: set[tuple[bytes, str]] = set()
    wanted = repeated = 0
    for number, (queue, body) in sent.items():
        parts = submits.split(body)
        wanted += 1 if isinstance(parts, Rejection) else len(parts)
        for index, part in enumerate([] if isinstance(parts, Rejection) else parts):
            command = submits.parse(part, None)
            if isinstance(command, SubmitJob) and queue in (b"mail", b"bills"):
                place = queue, command.id or f"1-{number}-{index}"
                repeated += place in taken
                taken.add(place)
    assert wanted == refused + len(born) + repeated, "an element left no trace"
    assert last.seq <= len(records)
    await live.check()

    node = shutil.which("node")
    if node is not None:
        lines = b"\n".join(message.body for message in stored)
        script = 'require("fs").readFileSync(0,"utf8").split("\\n").forEach(JSON.parse)'
        done = await asyncio.to_thread(
            subprocess.run, [node, "-e", script], input=lines, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr[-500:]


@given(st.binary(max_size=400))
@settings(max_examples=500, deadline=None)
def test_any_bytes_are_parsed_or_refused(body: bytes) -> None:
    parts = submits.split(body)
    if not isinstance(parts, Rejection):
        for part in parts:
            assert isinstance(submits.parse(part, None), SubmitJob | Rejection)


@given(st.integers(0, 2**32))
@settings(max_examples=500, deadline=None)
def test_any_noise_is_parsed_or_refused_and_can_be_stored(seed: int) -> None:
    body = Noise(seed).body()
    parts = submits.split(body)
    refused = [parts] if isinstance(parts, Rejection) else []
    for part in [] if isinstance(parts, Rejection) else parts:
        command = submits.parse(part, 0)
        if isinstance(command, Rejection):
            refused.append(command)
        else:
            json.loads(bytes(command.input).decode())
    for rejection in refused:
        assert len(rejection.reason) <= 500
        rejection.reason.encode()
        (rejection.field or "").encode()
