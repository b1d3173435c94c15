"""What is written down is read back the same by readers that are not ours."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from writ.metrics.exposition import JSON, OPENMETRICS, PROTOBUF, TEXT, decode, page, unite
from writ.schemas import catalog
from writ.schemas.metrics import SECONDS, Family, Histogram, Series, histogram, told

AWKWARD = 'a "quoted" \\ name'
OBSERVED_US = (0, 900, 1_000, 1_001, 20_000, 21_000, 7_200_000_000)
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def observed() -> Histogram:
    made = histogram(SECONDS)
    for each in OBSERVED_US:
        made.observe(each, SECONDS)
    return made


FAMILIES = [
    Family(
        catalog.JOBS.name,
        [Series(("acme", "bills", "pending", "0"), 3), Series(("acme", AWKWARD, "dead", "0"), 0)],
    ),
    told(catalog.OLDEST, 0.25, "acme", "bills", "0"),
    told(catalog.GRANTS, 7, "acme", "bills", "0"),
    told(catalog.WAIT, observed(), "acme", "bills", "0"),
    told(catalog.APPEND, histogram(SECONDS), "0"),
]


def samples(families: Any) -> Samples:
    return {
        (each.name, frozenset(each.labels.items())): each.value
        for family in families
        for each in family.samples
    }


PARSERS: dict[str, Any] = {TEXT: parse_text, OPENMETRICS: vars(openmetrics)["text_string_to_metric_families"]}


@pytest.mark.parametrize("kind", PARSERS)
def test_both_texts_tell_what_there_is(kind: str) -> None:
    made = page(FAMILIES, kind)
    assert made.content_type == kind
    found = samples(PARSERS[kind](made.body.decode()))
    first = ("partition", "0")
    queue = {("tenant", "acme"), ("queue", "bills"), first}
    assert found["writ_jobs", frozenset({*queue, ("state", "pending")})] == 3
    assert (
        found["writ_jobs", frozenset({("tenant", "acme"), ("queue", AWKWARD), ("state", "dead"), first})] == 0
    )
    assert found["writ_queue_oldest_age_seconds", frozenset(queue)] == 0.25
    assert found["writ_lease_grants_total", frozenset(queue)] == 7
    below = {
        float(dict(labels)["le"]): value
        for (name, labels), value in found.items()
        if name == "writ_schedule_to_start_seconds_bucket"
    }
    assert below == {
        bound: sum([each / 1e6 <= bound for each in OBSERVED_US]) for bound in (*SECONDS.bounds, float("inf"))
    }
    assert found["writ_schedule_to_start_seconds_count", frozenset(queue)] == len(OBSERVED_US)
    assert found["writ_schedule_to_start_seconds_sum", frozenset(queue)] == pytest.approx(
        sum(OBSERVED_US) / 1e6
    )
    assert found["writ_engine_append_seconds_count", frozenset({first})] == 0


def test_json_loses_nothing() -> None:
    made = page(FAMILIES, JSON)
    assert (made.content_type, decode(made.body)) == (JSON, FAMILIES)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/html, nonsense;q=x", TEXT),
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", OPENMETRICS),
        ("text/plain;q=0.9, application/openmetrics-text;q=0.3", TEXT),
        (
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited,"
            "application/openmetrics-text;version=1.0.0;q=0.8",
            PROTOBUF,
        ),
        ("application/vnd.google.protobuf;encoding=text, text/plain;q=0.1", TEXT),
    ],
)
def test_the_format_is_the_one_that_is_liked_best(accept: str, kind: str) -> None:
    assert page(FAMILIES, accept).content_type == kind


def test_united_families_stand_once() -> None:
    first, second = told(catalog.UP, 1, "engine"), told(catalog.UP, 0, "views")
    both = unite([[first, told(catalog.GRANTS, 1, "a", "b")], [second, Family("unknown_metric", [])]])
    assert [each.name for each in both] == [catalog.GRANTS.name, catalog.UP.name], "in the catalog's order"
    assert both[1].series == [*first.series, *second.series]


# --- protobuf, by a reader of its own -------------------------------------------------------------------


def fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Field numbers and values of a message: numbers, doubles or bytes."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            value |= (message[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if message[at - 1] < 0x80:
                return value

    while at < len(message):
        number, wire = divmod(varint(), 8)
        if wire == 0:
            yield number, varint()
        elif wire == 1:
            yield number, struct.unpack_from("<d", message, at)[0]
            at += 8
        else:
            assert wire == 2, f"wire type {wire} in field {number}"
            size = varint()
            yield number, message[at : at + size]
            at += size


def signed(value: int) -> int:
    return (value >> 1) ^ -(value & 1)


def varints(packed: bytes) -> list[int]:
    """The numbers in a packed field, each as a field of a message that nothing else is in."""
    found: list[int] = []
    value = shift = 0
    for byte in packed:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            found.append(value)
            value = shift = 0
    return found


def native_buckets(message: bytes) -> dict[int, int]:
    """Index and count, from spans and differences."""
    told = list(fields(message))
    deltas = [signed(each) for number, packed in told if number == 13 for each in varints(packed)]
    counts = [sum(deltas[: n + 1]) for n in range(len(deltas))]
    buckets: dict[int, int] = {}
    at = 0
    for number, body in told:
        if number == 12:
            span = dict(fields(body))
            at += signed(span[1])
            for _ in range(span[2]):
                buckets[at] = counts[len(buckets)]
                at += 1
    assert len(buckets) == len(counts)
    return buckets


def test_protobuf_carries_native_and_classic_buckets() -> None:
    body = page(FAMILIES, PROTOBUF).body
    families: dict[str, list[tuple[int, Any]]] = {}
    while body:
        size, shift, at = 0, 0, 0
        while True:
            size |= (body[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if body[at - 1] < 0x80:
                break
        family = list(fields(body[at : at + size]))
        families[dict(family)[1].decode()] = family
        body = body[at + size :]
    assert [dict(each)[3] for each in families.values()] == [1, 1, 0, 4, 4], "gauges, a counter, histograms"

    metric = dict(families[catalog.WAIT.name])[4]
    labels = [dict(fields(body)) for number, body in fields(metric) if number == 1]
    assert labels == [
        {1: name, 2: value}
        for name, value in ((b"tenant", b"acme"), (b"queue", b"bills"), (b"partition", b"0"))
    ]
    told = list(fields(dict(fields(metric))[7]))
    assert dict(told)[1] == len(OBSERVED_US)
    assert dict(told)[2] == pytest.approx(sum(OBSERVED_US) / 1e6)
    assert signed(dict(told)[5]) == 3
    assert dict(told)[7] == 1, "one observation was zero"
    assert native_buckets(dict(fields(metric))[7]) == observed().native
    classic = [tuple(dict(fields(body)).values()) for number, body in told if number == 3]
    assert classic[0] == (3, 0.001), "0, 0.9 and 1 ms"
    assert classic[-1] == (len(OBSERVED_US), float("inf"))
