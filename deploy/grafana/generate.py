"""Writes the Grafana dashboards beside it: `make docs`. `--check` only says whether they are as here.

A panel is a question, what answers it in PromQL, and a unit; rows and places follow from the order.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

from writ.schemas import catalog as m
from writ.schemas.metrics import Metric

FOLDER: Final = Path(__file__).parent / "dashboards"
_WIDTH: Final = 24
_HEIGHT: Final = 8
_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


class Query(NamedTuple):
    """A PromQL expression, and how its series are called."""

    expr: str
    legend: str


class Panel(NamedTuple):
    """`unit` is one of Grafana's. A `stat` shows the newest value, a `timeseries` how it came to that."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    kind: str = "timeseries"
    width: int = 12
    help: str = ""
    bad_above: float | None = None
    """From here on a stat is red."""


class Row(NamedTuple):
    title: str
    panels: tuple[Panel, ...]


class Dashboard(NamedTuple):
    """`variables` are the labels that can be chosen at its top, each with the metric that has its values."""

    uid: str
    title: str
    rows: tuple[Row, ...]
    variables: tuple[tuple[str, str], ...] = ()


def _rate(metric: Metric, by: str, where: str = "") -> str:
    return f"sum by ({by}) (rate({metric.name}{where}[$__rate_interval]))"


def _quantile(q: float, metric: Metric, by: str = "", where: str = "") -> str:
    """Of the fixed buckets where those were scraped, else of the native ones."""
    by_bucket = f"{by}, le" if by else "le"
    classic = f"sum by ({by_bucket}) (rate({metric.name}_bucket{where}[$__rate_interval]))"
    return f"histogram_quantile({q}, {classic}) or histogram_quantile({q}, {_rate(metric, by, where)})"


def _quantiles(metric: Metric, where: str = "") -> tuple[Query, ...]:
    return tuple([Query(_quantile(q, metric, where=where), f"p{q * 100:g}") for q in (0.5, 0.9, 0.99)])


def _one(expr: str, legend: str = "") -> tuple[Query, ...]:
    return (Query(expr, legend),)


_TENANT: Final = '{tenant=~"$tenant"}'
_QUEUE: Final = '{tenant=~"$tenant", queue=~"$queue"}'


def _in(**labels: str) -> str:
    """The chosen queues, with more labels."""
    more = "".join([f', {name}="{value}"' for name, value in labels.items()])
    return f"{_QUEUE[:-1]}{more}}}"


JOBS: Final = Dashboard(
    "writ-jobs",
    "Writ: jobs",
    (
        Row(
            "Now",
            (
                Panel("Pending", "short", _one(f"sum({m.JOBS.name}{_in(state='pending')})"), "stat", 4),
                Panel("Running", "short", _one(f"sum({m.JOBS.name}{_in(state='running')})"), "stat", 4),
                Panel("Retrying", "short", _one(f"sum({m.JOBS.name}{_in(state='retrying')})"), "stat", 4),
                Panel("Suspended", "short", _one(f"sum({m.JOBS.name}{_in(state='suspended')})"), "stat", 4),
                Panel(
                    *("Open dead letters", "short", _one(f"sum({m.DEAD_OPEN.name}{_QUEUE})"), "stat", 4),
                    help=m.DEAD_OPEN.help,
                    bad_above=1,
                ),
                Panel(
                    *("Oldest pending", "s", _one(f"max({m.OLDEST.name}{_QUEUE})"), "stat", 4),
                    help=m.OLDEST.help,
                    bad_above=600,
                ),
            ),
        ),
        Row(
            "Flow",
            (
                Panel(
                    "Submitted, by queue",
                    "ops",
                    _one(_rate(m.SUBMITTED, "tenant, queue", _QUEUE), "{{tenant}} {{queue}}"),
                ),
                Panel("Attempts ended", "ops", _one(_rate(m.ATTEMPTS, "outcome", _QUEUE), "{{outcome}}")),
                Panel(
                    *("Backlog, by queue", "short"),
                    _one(
                        f"sum by (tenant, queue) ({m.JOBS.name}{_in(state='pending')})",
                        "{{tenant}} {{queue}}",
                    ),
                ),
                Panel(
                    *("Oldest pending, by queue", "s"),
                    _one(f"max by (tenant, queue) ({m.OLDEST.name}{_QUEUE})", "{{tenant}} {{queue}}"),
                ),
                Panel(
                    *("Schedule to start", "s", _quantiles(m.WAIT, _QUEUE)),
                    help=m.WAIT.help,
                ),
                Panel(
                    *("Execution, 99th percentile by task", "s"),
                    _one(_quantile(0.99, m.EXECUTION, "task", _QUEUE), "{{task}}"),
                    help=m.EXECUTION.help,
                ),
            ),
        ),
        Row(
            "What goes wrong",
            (
                Panel("Retries, by class", "ops", _one(_rate(m.RETRIES, "class", _QUEUE), "{{class}}")),
                Panel(
                    *("Dead letters, by reason and class", "ops"),
                    _one(_rate(m.DEAD, "reason, class", _QUEUE), "{{reason}} {{class}}"),
                ),
                Panel(
                    "Leases",
                    "ops",
                    (
                        Query(_rate(m.GRANTS, "", _QUEUE), "granted"),
                        Query(_rate(m.RENEWALS, "", _QUEUE), "renewed"),
                        Query(_rate(m.EXPIRIES, "", _QUEUE), "expired"),
                        Query(_rate(m.STALE, "", _QUEUE), "stale reports"),
                    ),
                ),
                Panel(
                    *("Refused, by kind", "ops"),
                    _one(_rate(m.REFUSALS, "kind", _TENANT), "{{kind}}"),
                ),
            ),
        ),
        Row(
            "Models and tools",
            (
                Panel(
                    *("Cost an hour, by model", "currencyUSD"),
                    _one(f"3600 * {_rate(m.COST, 'model', _TENANT)}", "{{model}}"),
                    help=m.COST.help,
                ),
                Panel(
                    "Tokens",
                    "ops",
                    _one(_rate(m.TOKENS, "model, direction", _TENANT), "{{model}} {{direction}}"),
                ),
                Panel(
                    "Tool calls",
                    "ops",
                    _one(_rate(m.TOOL_CALLS, "tool, outcome", _TENANT), "{{tool}} {{outcome}}"),
                ),
                Panel(
                    *("Tool calls, 99th percentile", "s"),
                    _one(_quantile(0.99, m.TOOL_TIME, "tool", _TENANT), "{{tool}}"),
                    help=m.TOOL_TIME.help,
                ),
            ),
        ),
    ),
    (("tenant", m.SUBMITTED.name), ("queue", m.SUBMITTED.name)),
)

NODE: Final = Dashboard(
    "writ-node",
    "Writ: node",
    (
        Row(
            "Now",
            (
                Panel(
                    *("Partitions with a leader", "short"),
                    _one(f"sum(max by (partition) ({m.LEADING.name}))"),
                    "stat",
                    6,
                ),
                Panel(
                    *("Views halted", "short", _one(f"sum({m.HALTED.name})"), "stat", 6),
                    help=m.HALTED.help,
                    bad_above=1,
                ),
                Panel(
                    *("Components away", "short", _one(f"count({m.UP.name} == 0) or vector(0)"), "stat", 6),
                    help=m.UP.help,
                    bad_above=1,
                ),
                Panel(
                    *(
                        "Disk free",
                        "percentunit",
                        _one(f"min({m.DISK_FREE.name} / {m.DISK_SIZE.name})"),
                        "stat",
                        6,
                    ),
                ),
            ),
        ),
        Row(
            "Engine",
            (
                Panel("Append", "s", _quantiles(m.APPEND), help=m.APPEND.help),
                Panel("Records in one append", "short", _quantiles(m.BATCH), help=m.BATCH.help),
                Panel(
                    "Work",
                    "ops",
                    (
                        Query(_rate(m.ROUNDS, ""), "rounds"),
                        Query(_rate(m.REQUESTS, ""), "requests"),
                        Query(_rate(m.SHED, ""), "turned away"),
                        Query(_rate(m.RECORDS_TOTAL, ""), "records"),
                    ),
                ),
                Panel(
                    "Waiting",
                    "short",
                    (
                        Query(f"sum({m.ASKED.name})", "requests"),
                        Query(f"sum({m.INTAKE.name})", "submits"),
                        Query(f"sum({m.WAITING_SLOTS.name})", "slots of workers"),
                        Query(f"sum({m.RUNNING.name})", "live leases"),
                    ),
                ),
            ),
        ),
        Row(
            "Views and workers",
            (
                Panel(
                    *("Lag", "s", _one(f"max by (view) ({m.LAG_SECONDS.name})", "{{view}}")),
                    help=m.LAG_SECONDS.help,
                ),
                Panel(
                    *("Lag in records", "short", _one(f"max by (view) ({m.LAG_RECORDS.name})", "{{view}}")),
                    help=m.LAG_RECORDS.help,
                ),
                Panel(
                    "Slots of workers",
                    "short",
                    (
                        Query(f"sum({m.SLOTS.name})", "slots"),
                        Query(f"sum({m.SLOTS_BUSY.name})", "busy"),
                    ),
                ),
                Panel("Leases of workers", "ops", _one(_rate(m.WORKER_RUNS, "what"), "{{what}}")),
            ),
        ),
        Row(
            "Machine",
            (
                Panel("CPU", "percentunit", _one(_rate(m.CPU, "component"), "{{component}}")),
                Panel("Memory", "bytes", _one(f"sum by (component) ({m.MEMORY.name})", "{{component}}")),
                Panel("Streams", "bytes", _one(f"max by (stream) ({m.STREAM_BYTES.name})", "{{stream}}")),
                Panel(
                    *("Elections and outages", "short"),
                    (
                        Query(f"sum(increase({m.ELECTIONS.name}[$__rate_interval]))", "elections"),
                        Query(f"sum(increase({m.OUTAGE.name}[$__rate_interval]))", "seconds given back"),
                    ),
                ),
            ),
        ),
    ),
)

DASHBOARDS: Final = (JOBS, NODE)


# --- Grafana's JSON -------------------------------------------------------------------------------------


def render(dashboard: Dashboard) -> str:
    """The dashboard as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    x = y = 0
    for row in dashboard.rows:
        y += _HEIGHT if x else 0
        panels.append(
            _placed({"type": "row", "title": row.title, "panels": []}, len(panels), 0, y, _WIDTH, 1)
        )
        x, y = 0, y + 1
        for panel in row.panels:
            if x + panel.width > _WIDTH:
                x, y = 0, y + _HEIGHT
            panels.append(_placed(_panel(panel), len(panels), x, y, panel.width, _HEIGHT))
            x += panel.width
    document = {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "tags": ["writ"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_DATASOURCE, *[_variable(*each) for each in dashboard.variables]]},
        "panels": panels,
    }
    return json.dumps(document, indent=1) + "\n"


_DATASOURCE: Final = {
    "name": "datasource",
    "label": "Prometheus",
    "type": "datasource",
    "query": "prometheus",
}


def _variable(label: str, metric: str) -> dict[str, Any]:
    return {
        "name": label,
        "type": "query",
        "datasource": _SOURCE,
        "query": f"label_values({metric}, {label})",
        "includeAll": True,
        "multi": True,
        "refresh": 2,
        "sort": 1,
        "current": {"text": "All", "value": "$__all"},
    }


def _placed(panel: dict[str, Any], number: int, x: int, y: int, width: int, height: int) -> dict[str, Any]:
    return {"id": number + 1, **panel, "gridPos": {"x": x, "y": y, "w": width, "h": height}}


def _panel(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.bad_above is not None:
        steps.append({"color": "red", "value": panel.bad_above})
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.help,
        "datasource": _SOURCE,
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "min": 0, "thresholds": {"mode": "absolute", "steps": steps}},
            "overrides": [],
        },
        "targets": [
            {
                "refId": chr(ord("A") + n),
                "datasource": _SOURCE,
                "expr": each.expr,
                "legendFormat": each.legend,
            }
            for n, each in enumerate(panel.queries)
        ],
    }


def main() -> int:
    """Writes the dashboards, or with `--check` only says which are stale. The exit code is 1 where one is."""
    pages = {FOLDER / f"{each.uid}.json": render(each) for each in DASHBOARDS}
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text() != text]
    left = sorted(set(FOLDER.glob("*.json")) - set(pages))
    if "--check" in sys.argv[1:]:
        for path in [*stale, *left]:
            print(f"{path.name} is not what deploy/grafana/generate.py says; run `make docs`")
        return 1 if stale or left else 0
    FOLDER.mkdir(exist_ok=True)
    for path in stale:
        path.write_text(pages[path])
        print(f"wrote deploy/grafana/dashboards/{path.name}")
    for path in left:
        path.unlink()
    return 0


if __name__ == "__main__":
    sys.exit(main())
