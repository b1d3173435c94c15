"""Families as `io.prometheus.client.MetricFamily`, the messages in which Prometheus takes native histograms.

The few fields that are needed are written here, as no client library for Python writes them, and the
`protobuf` package would be needed by nothing else. Source of the numbers: metrics.proto of client_model.
"""

from __future__ import annotations

import struct
from functools import cache
from itertools import accumulate, pairwise
from typing import Final

from writ.schemas.metrics import NATIVE_SCHEMA, Family, Histogram, Kind, Metric, Value

_TYPES: Final = {Kind.COUNTER: 0, Kind.GAUGE: 1, Kind.HISTOGRAM: 4}
_VALUE_FIELDS: Final = {Kind.GAUGE: 2, Kind.COUNTER: 3, Kind.HISTOGRAM: 7}
_ZERO_THRESHOLD: Final = 2.0**-128
"""What is observed as zero is zero."""


def message_of(family: Family, metric: Metric) -> bytes:
    """A family, with its length before it."""
    parts = [_text(1, metric.name), _text(2, metric.help), _number(3, _TYPES[metric.kind])]
    for each in family.series:
        labels = [
            _bytes(1, _text(1, name) + _text(2, told))
            for name, told in zip(metric.labels, each.labels, strict=True)
        ]
        value = _bytes(_VALUE_FIELDS[metric.kind], _value(each.value, metric))
        parts.append(_bytes(4, b"".join([*labels, value])))
    body = b"".join(parts)
    return _varint(len(body)) + body


def _value(value: Value, metric: Metric) -> bytes:
    if isinstance(value, Histogram):
        return _histogram(value, metric)
    return _double(1, value)


def _histogram(value: Histogram, metric: Metric) -> bytes:
    """Both kinds of buckets in one message: the server takes those that it is set up for."""
    assert metric.scale is not None, f"{metric.name} is a histogram without a scale"
    bounds = [*metric.scale.bounds, float("inf")]
    classic = [
        _bytes(3, _number(1, count) + _double(2, bound))
        for count, bound in zip(accumulate(value.classic), bounds, strict=True)
    ]
    head = _number(1, value.count) + _double(2, value.sum / metric.unit) + b"".join(classic)
    head += _number(5, _zigzag(NATIVE_SCHEMA)) + _double(6, _ZERO_THRESHOLD) + _number(7, value.zeros)
    return head + _native(value.native)


def _native(buckets: dict[int, int]) -> bytes:
    """Spans of consecutive buckets, each with its distance from the one before; the counts as differences."""
    indexes = sorted(buckets)
    spans: list[list[int]] = []  # offset and length
    end = 0
    for index in indexes:
        if spans and index == end:
            spans[-1][1] += 1
        else:
            spans.append([index - end, 1])
        end = index + 1
    counts = [buckets[index] for index in indexes]
    deltas = b"".join([_varint(_zigzag(after - before)) for before, after in pairwise([0, *counts])])
    told = [_bytes(12, _number(1, _zigzag(offset)) + _number(2, length)) for offset, length in spans]
    return b"".join(told) + (_bytes(13, deltas) if deltas else b"")


# --- the wire format ------------------------------------------------------------------------------------


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _zigzag(value: int) -> int:
    return value << 1 if value >= 0 else (-value << 1) - 1


@cache
def _key(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _number(field: int, value: int) -> bytes:
    return _key(field, 0) + _varint(value)


def _double(field: int, value: float) -> bytes:
    return _key(field, 1) + struct.pack("<d", value)


def _bytes(field: int, value: bytes) -> bytes:
    return _key(field, 2) + _varint(len(value)) + value


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())
