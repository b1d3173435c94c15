"""Rules and dashboards speak of metrics that there are, and each alert is tested and explained."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from writ.schemas.catalog import CATALOG
from writ.schemas.metrics import Kind

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
DOCS = sorted((ROOT / "docs").glob("*.md"))
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: apt install prometheus)"
)


def rules_in(name: str) -> list[dict[str, Any]]:
    document = yaml.safe_load((PROMETHEUS / name).read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules_in("alerts.yml")}
RECORDED = {rule["record"]: rule for rule in rules_in("recording.yml")}
TOLD = {
    f"{each.name}{suffix}"
    for each in CATALOG.values()
    for suffix in (("", "_bucket", "_sum", "_count") if each.kind is Kind.HISTOGRAM else ("",))
}
LABELS = {
    *(label for each in CATALOG.values() for label in each.labels),
    *("le", "job", "instance"),
}
QUERIES = {
    **{name: rule["expr"] for name, rule in {**ALERTS, **RECORDED}.items()},
    **{
        f"{path.stem}: {panel['title']} {target['refId']}": target["expr"]
        for path in DASHBOARDS
        for panel in json.loads(path.read_bytes())["panels"]
        for target in panel.get("targets", ())
    },
}


@pytest.mark.parametrize("expr", QUERIES.values(), ids=QUERIES)
def test_a_query_names_metrics_and_labels_that_there_are(expr: str) -> None:
    without_strings = re.sub(r'"[^"]*"', '""', expr)
    named = set(re.findall(r"\b(?:[a-z_0-9]+:)?writ_[a-z_0-9]+(?::[a-z_0-9]+)?", without_strings))
    assert named or "up{" in expr, "it asks for something of ours"
    assert named <= TOLD | set(RECORDED), named - TOLD - set(RECORDED)
    grouped = re.findall(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)", without_strings)
    matched = re.findall(r"([a-z_]+)\s*=~?\s*\"\"", without_strings)
    labels = {each.strip() for part in grouped for each in part.split(",") if each.strip()} | set(matched)
    assert labels <= LABELS, labels - LABELS
    assert expr.count("(") == expr.count(")")


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_how_bad_it_is_and_what_to_do(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}"
    _, _, page = RUNBOOK.partition(f"\n## {name}\n")
    assert len(page.partition("\n## ")[0].split()) > 20, f"the runbook tells of {name}"


def test_the_runbook_tells_of_no_other_alert() -> None:
    assert set(re.findall(r"^## (\w+)$", RUNBOOK, re.MULTILINE)) == set(ALERTS)


@pytest.mark.parametrize("path", DOCS, ids=[path.stem for path in DOCS])
def test_the_documentation_speaks_of_metrics_that_there_are(path: Path) -> None:
    named = set(
        re.findall(r"\bwrit_[a-z_0-9]+_(?:total|seconds|bytes|count|sum|bucket)\b", path.read_text("utf-8"))
    )
    assert named <= TOLD, named - TOLD


def test_each_rule_has_a_test_in_which_it_tells_something_and_each_alert_one_in_which_it_is_quiet() -> None:
    fires: set[str] = set()
    quiet: set[str] = set()
    tells: set[str] = set()
    for path in (PROMETHEUS / "tests").glob("*.test.yml"):
        for test in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            for each in test.get("alert_rule_test", ()):
                (fires if each["exp_alerts"] else quiet).add(each["alertname"])
            tells |= {each["expr"] for each in test.get("promql_expr_test", ()) if each["exp_samples"]}
    assert fires == quiet == set(ALERTS)
    assert tells == set(RECORDED)


@promtool
def test_promtool_finds_no_fault_and_every_rule_does_what_its_test_says() -> None:
    """Must hold: `promtool test rules` passes."""
    tests = sorted((PROMETHEUS / "tests").glob("*.test.yml"))
    for words in (
        ("check", "config", PROMETHEUS / "prometheus.yml"),
        ("check", "rules", PROMETHEUS / "alerts.yml", PROMETHEUS / "recording.yml"),
        ("test", "rules", *tests),
    ):
        done = subprocess.run(
            ["promtool", *map(str, words)], capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboards_are_what_the_code_says() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "deploy" / "grafana" / "generate.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_grafanas_own_types_know_all_that_a_dashboard_says(path: Path) -> None:
    """They are made from the schema that Grafana publishes, and leave out what that does not name."""
    register_default_plugins()  # the types of panels and queries
    document = json.loads(path.read_bytes())
    read = json.loads(JSONEncoder().encode(Dashboard.from_json(document)))
    assert set(said_in(document)) <= set(said_in(read))
    assert {panel["type"] for panel in document["panels"]} == {"row", "stat", "timeseries"}


def said_in(document: dict[str, Any] | list[Any], place: str = "") -> Iterator[str]:
    """Each value that is no container, behind its place."""
    for name, value in document.items() if isinstance(document, dict) else enumerate(document):
        if type(value) in (dict, list):
            yield from said_in(value, f"{place}/{name}")
        else:
            yield f"{place}/{name} {value}"


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_do_not_overlap_and_have_ids_of_their_own(path: Path) -> None:
    panels = json.loads(path.read_bytes())["panels"]
    cells = [
        (x, y)
        for place in [panel["gridPos"] for panel in panels]
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in panels}) == len(panels)
