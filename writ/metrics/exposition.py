"""Families written down in the formats that Prometheus reads, and the choice among them.

text          the plain format 0.0.4, for people, `promtool check metrics` and every scraper
OpenMetrics   the same with stricter names
protobuf      delimited `io.prometheus.client.MetricFamily`: the only one that carries native histograms
JSON          between the components of a node; nothing is lost
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Final, NamedTuple

import msgspec

from writ.schemas.catalog import CATALOG
from writ.schemas.metrics import Family, Histogram, Kind, Metric, Series, Value

from .protobuf import message_of


class Page(NamedTuple):
    """What a scrape is answered with."""

    content_type: str
    body: bytes


TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROTOBUF: Final = (
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
)
JSON: Final = "application/json"

decode = msgspec.json.Decoder(list[Family]).decode
"""Families from JSON. Raises msgspec.MsgspecError."""


def unite(parts: Iterable[Iterable[Family]]) -> list[Family]:
    """One family for each metric, in the catalog's order, with the series of all parts."""
    series: dict[str, list[Series]] = {}
    for part in parts:
        for family in part:
            series.setdefault(family.name, []).extend(family.series)
    return [Family(name, series[name]) for name in CATALOG if name in series]


def page(families: Sequence[Family], accept: str = "") -> Page:
    """The page in the format that an Accept header likes best; text where it names none of ours."""
    content_type = _liked(accept)
    return Page(content_type, _WRITERS[content_type](families))


def _liked(accept: str) -> str:
    best, content_type = 0.0, TEXT
    for each in accept.split(","):
        kind, *parameters = [part.strip() for part in each.lower().split(";")]
        given = dict([part.split("=", 1) for part in parameters if "=" in part])
        try:
            quality = float(given.get("q", 1))
        except ValueError:
            continue
        ours = _MEDIA.get(kind)
        if ours is PROTOBUF and given.get("encoding") != "delimited":
            continue
        if ours is not None and quality > best:
            best, content_type = quality, ours
    return content_type


def _text(families: Iterable[Family]) -> bytes:
    lines: list[str] = []
    for family in families:
        metric = CATALOG[family.name]
        lines += [f"# HELP {metric.name} {metric.help}", f"# TYPE {metric.name} {metric.kind}"]
        lines += _samples(family, metric)
    return "".join([f"{line}\n" for line in lines]).encode()


def _openmetrics(families: Iterable[Family]) -> bytes:
    lines: list[str] = []
    for family in families:
        metric = CATALOG[family.name]
        name = metric.name.removesuffix("_total") if metric.kind is Kind.COUNTER else metric.name
        lines += [f"# HELP {name} {metric.help}", f"# TYPE {name} {metric.kind}"]
        lines += _samples(family, metric)
    return "".join([f"{line}\n" for line in [*lines, "# EOF"]]).encode()


def _samples(family: Family, metric: Metric) -> Iterator[str]:
    for labels, value in [(each.labels, each.value) for each in family.series]:
        pairs = [f'{name}="{_escape(told)}"' for name, told in zip(metric.labels, labels, strict=True)]
        if not isinstance(value, Histogram):
            yield f"{metric.name}{_braces(pairs)} {_number(value)}"
            continue
        assert metric.scale is not None, f"{metric.name} is a histogram without a scale"
        bounds = [*[str(float(bound)) for bound in metric.scale.bounds], "+Inf"]
        for bound, count in zip(bounds, accumulate(value.classic), strict=True):
            limit = f'le="{bound}"'
            yield f"{metric.name}_bucket{_braces([*pairs, limit])} {count}"
        yield f"{metric.name}_sum{_braces(pairs)} {_number(value.sum / metric.unit)}"
        yield f"{metric.name}_count{_braces(pairs)} {value.count}"


def _braces(pairs: list[str]) -> str:
    return f"{{{','.join(pairs)}}}" if pairs else ""


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: Value) -> str:
    return repr(value)


def _protobuf(families: Iterable[Family]) -> bytes:
    return b"".join([message_of(family, CATALOG[family.name]) for family in families])


_WRITERS: Final[dict[str, Callable[[Sequence[Family]], bytes]]] = {
    TEXT: _text,
    OPENMETRICS: _openmetrics,
    PROTOBUF: _protobuf,
    JSON: msgspec.json.Encoder().encode,
}
_MEDIA: Final = {each.split(";")[0]: each for each in _WRITERS}
