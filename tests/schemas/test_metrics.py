"""Histograms, and label values that stay few whatever comes."""

from __future__ import annotations

import math
import random
import re

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from writ.schemas.catalog import CATALOG
from writ.schemas.metrics import (
    NATIVE_SCHEMA,
    OTHER,
    RECORDS,
    SECONDS,
    Histogram,
    Kind,
    Metric,
    Names,
    Scale,
    histogram,
)

EACH_DOUBLING = 2**NATIVE_SCHEMA


@given(st.integers(1, 2**30), st.sampled_from((SECONDS, RECORDS)))
def test_a_native_bucket_holds_what_its_bounds_say(observed: int, scale: Scale) -> None:
    index = scale.native(observed)
    value = observed / scale.unit
    assert value <= math.nextafter(2 ** (index / EACH_DOUBLING), math.inf)
    assert value > math.nextafter(2 ** ((index - 1) / EACH_DOUBLING), 0)


@given(st.integers(0, 10**11), st.sampled_from((SECONDS, RECORDS)))
def test_a_classic_bucket_holds_what_is_at_most_its_bound(observed: int, scale: Scale) -> None:
    index = scale.classic(observed)
    value = observed / scale.unit
    assert index == len(scale.bounds) or value <= scale.bounds[index]
    assert index == 0 or value > scale.bounds[index - 1]


@given(st.lists(st.integers(-5, 10**10), max_size=40), st.randoms())
def test_the_order_of_observations_does_not_matter(observed: list[int], order: random.Random) -> None:
    forward, shuffled = histogram(SECONDS), histogram(SECONDS)
    mixed = sorted(observed, key=lambda _: order.random())
    for first, second in zip(observed, mixed, strict=True):
        forward.observe(first, SECONDS)
        shuffled.observe(second, SECONDS)
    assert forward == shuffled
    assert forward.count == len(observed) == forward.zeros + sum(forward.native.values())
    assert forward.sum == sum([max(0, each) for each in observed])
    assert msgspec.json.decode(msgspec.json.encode(forward), type=Histogram) == forward


def test_names_past_the_limit_are_other_of_what_they_belong_to() -> None:
    names = Names(2)
    assert [names.fold(("acme",), name) for name in ("a", "b", "c", "a", "b")] == [
        *(("acme", "a"), ("acme", "b"), ("acme", OTHER), ("acme", "a"), ("acme", "b"))
    ]
    assert names.full
    assert names.find(("acme",), "a") == ("acme", "a")
    assert Names(2).find(("acme",), "a") == ("acme", OTHER), "what is made up takes no place"


@pytest.mark.parametrize("metric", CATALOG.values(), ids=CATALOG)
def test_names_are_in_prometheus_conventions(metric: Metric) -> None:
    """Base units, `_total` on counters alone, no label that a format has for itself."""
    name, kind, labels = metric.name, metric.kind, metric.labels
    assert re.fullmatch(r"writ_[a-z]+(_[a-z]+)*", name)
    assert name.endswith("_total") == (kind is Kind.COUNTER)
    assert not re.search(r"_(ms|us|millis|micros|minutes|hours|kb|mb|percent|count|sum|bucket)(_|$)", name)
    assert not {"le", "quantile", "job", "instance"} & set(labels)
    assert (kind is Kind.HISTOGRAM) == (metric.scale is not None)
    assert metric.help.endswith(".")
