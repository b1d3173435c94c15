"""Must hold: `promtool check metrics` passes; a real Prometheus scrapes a running node.

And what is counted from the log goes on where it was, after `kill -9` and after the view is deleted.
`make metrics-proof` runs this where Prometheus is installed; without it its makers' parser reads the pages.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
WAIT_S: Final = 40.0
TASKS = """
import asyncio

from writ import Context, task, tool

@task
def hello(n: int) -> int:
    return n

@task
def broken(n: int) -> None:
    raise ValueError(str(n))

@tool
async def look(n: int) -> int:
    return n

@task
async def spends(n: int, ctx: Context) -> int:
    await look(n)
    ctx.usage(model="small", input_tokens=100, output_tokens=10)
    await asyncio.sleep(1.2)  # longer than a third of its lease
    return n
"""
HELLOS, BROKEN = 20, 3
JOBS = "".join(
    [json.dumps({"task": "hello", "input": {"n": n}}) + "\n" for n in range(HELLOS)]
    + [
        json.dumps(
            {"task": "broken", "input": {"n": n}, "retry": {"max_attempts": 2, "initial_interval_s": 0.1}}
        )
        + "\n"
        for n in range(BROKEN)
    ]
)
NOT_HERE = "writ_outage_"
"""The broker was there all along."""
missing = [name for name in ("prometheus", "promtool") if shutil.which(name) is None]
real = pytest.mark.skipif(
    bool(missing), reason=f"{', '.join(missing)} not installed (Debian: apt install prometheus)"
)


def until(found: Callable[[], object]) -> None:
    """Waits for a condition."""
    end = time.monotonic() + WAIT_S
    while not found():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def fetch(port: int, path: str = "/metrics", accept: str = "") -> str:
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept})
    with urllib.request.urlopen(asked, timeout=10) as answer:
        said: bytes = answer.read()
        return said.decode()


class Watched:
    """A node and a worker of the command line, with a page each."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ports = (free_port(), free_port())
        (directory / "tasks.py").write_text(TASKS, encoding="utf-8")
        (directory / "jobs.ndjson").write_text(JOBS, encoding="utf-8")
        self.worker: subprocess.Popen[bytes] | None = None

    def writ(self, *words: str, code: int = 0) -> str:
        done = subprocess.run(
            self._command(*words), cwd=self.directory, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    def _command(self, *words: str) -> list[str]:
        return [sys.executable, "-P", "-m", "writ", *words, "--dir", str(self.directory / "writ")]

    def up(self) -> None:
        self.writ("up", "--detach", "--metrics-port", str(self.ports[0]))

    def work(self) -> None:
        self.worker = subprocess.Popen(
            self._command("worker", "tasks.py", "--queue", "q", "--metrics-port", str(self.ports[1])),
            cwd=self.directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(lambda: self.page(self.ports[1]))

    def page(self, port: int | None = None) -> str:
        """Empty while nobody answers."""
        try:
            return fetch(port or self.ports[0])
        except (urllib.error.URLError, OSError):
            return ""

    def told(self, name: str, port: int | None = None, **labels: str) -> float:
        """The sum of a metric's samples that have these labels; `class_` is the label `class`."""
        wanted = {label.rstrip("_"): value for label, value in labels.items()}.items()
        return sum(
            [
                each.value
                for family in parse_text(self.page(port))
                for each in family.samples
                if each.name == name and wanted <= each.labels.items()
            ]
        )

    def from_log(self) -> dict[str, float]:
        """What the page tells of the log, but for what moves with the clock and with the next election."""
        return {
            f"{each.name}{sorted(each.labels.items())}": each.value
            for family in parse_text(self.page())
            for each in family.samples
            if not re.match(
                r"writ_(engine|view|audit|process|component|broker|stream|disk|leader|queue_oldest|log)_",
                each.name,
            )
        }

    def close(self) -> None:
        if self.worker is not None:
            self.worker.kill()
            self.worker.wait()
        self.writ("down")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A node on which 20 jobs completed and 3 were dead-lettered after two attempts each."""
    made = Watched(tmp_path_factory.mktemp("node"))
    try:
        made.up()
        made.work()
        made.writ("submit", "q", "--file", "jobs.ndjson")
        until(lambda: made.told("writ_dead_letters_open") == BROKEN)
        until(lambda: made.told("writ_jobs", state="completed") == HELLOS)
        yield made
    finally:
        made.close()


def test_the_pages_tell_of_the_log_and_of_each_process(watched: Watched) -> None:
    node, worker = watched.ports
    ended = HELLOS + 2 * BROKEN
    assert watched.told("writ_attempts_total", outcome="completed", task="hello") == HELLOS
    assert watched.told("writ_attempts_total", outcome="failed", task="broken") == 2 * BROKEN
    assert watched.told("writ_retries_total", class_="application") == BROKEN
    assert watched.told("writ_dead_letters_total", reason="exhausted", class_="application") == BROKEN
    assert watched.told("writ_lease_grants_total") == ended
    assert watched.told("writ_schedule_to_start_seconds_count", queue="q") == ended
    assert watched.told("writ_execution_seconds_bucket", task="hello", le="+Inf") == HELLOS
    assert watched.told("writ_engine_leading", partition="0") == 1
    assert watched.told("writ_engine_append_seconds_count") == watched.told("writ_engine_rounds_total") > 0
    # All was stored by this process, and its views have it all: three ways to the same number.
    until(lambda: watched.told("writ_view_lag_records") == 0)
    records = watched.told("writ_log_records_total")
    first = 3  # the election, with whom and what the first one founds: apart
    assert watched.told("writ_engine_append_records_sum") == records - first
    assert (
        watched.told("writ_view_position", view="metrics")
        == watched.told("writ_engine_last_sequence")
        == records
    )
    for component in ("engine", "views"):
        assert watched.told("writ_component_up", component=component) == 1
        assert watched.told("writ_broker_connected", component=component) == 1
        assert watched.told("writ_process_resident_memory_bytes", component=component) > 1e6
    assert watched.told("writ_stream_messages", stream="WRIT_LOG_0") == records
    assert watched.told("writ_worker_slots", worker) == 10
    assert watched.told("writ_worker_leases_total", worker, what="completed") == HELLOS
    for port in (node, worker):
        accept = "application/openmetrics-text; version=1.0.0"
        parse: Any = vars(openmetrics)["text_string_to_metric_families"]
        assert list(parse(fetch(port, accept=accept)))
    targets = {path.stem for path in (watched.directory / "writ" / "metrics").glob("*.json")}
    assert targets == {"engine", "views"}


@real
def test_promtool_check_metrics_passes(watched: Watched) -> None:
    for port in watched.ports:
        done = subprocess.run(
            ["promtool", "check", "metrics"], input=fetch(port), capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class Prometheus:
    """A real one, with the shipped rules, that scrapes every second."""

    def __init__(self, watched: Watched, directory: Path) -> None:
        self.port = free_port()
        config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text(encoding="utf-8"))
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(DEPLOY / "prometheus" / each) for each in config["rule_files"]]
        for job, port in zip(config["scrape_configs"], watched.ports, strict=True):
            job["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
        found = str(watched.directory / "writ" / "metrics" / "*.json")
        config["scrape_configs"].append(
            {"job_name": "components", "file_sd_configs": [{"files": [found], "refresh_interval": "1s"}]}
        )
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
        self._log = (directory / "prometheus.log").open("wb")
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--enable-feature=native-histograms",
            ],
            stdout=self._log,
            stderr=self._log,
        )

    def get(self, path: str, **asked: str) -> Any:
        try:
            return json.loads(fetch(self.port, f"/api/v1/{path}?{urllib.parse.urlencode(asked)}"))["data"]
        except urllib.error.HTTPError as refused:
            if refused.code == 503:  # it starts
                return None
            raise AssertionError(f"{asked}: {refused.read().decode()}") from refused
        except (urllib.error.URLError, OSError):
            return None

    def ask(self, query: str) -> list[Any]:
        """The result of a query; none while it does not answer."""
        found = self.get("query", query=query)
        return [] if found is None else found["result"]

    def number(self, query: str) -> float | None:
        found = self.ask(query)
        return float(found[0]["value"][1]) if found else None

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(20)
        self._log.close()


@pytest.fixture(scope="module")
def prometheus(watched: Watched, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    made = Prometheus(watched, tmp_path_factory.mktemp("prometheus"))
    try:
        yield made
    finally:
        made.close()


@real
def test_a_real_prometheus_scrapes_a_running_node(watched: Watched, prometheus: Prometheus) -> None:
    until(lambda: prometheus.number('sum(up{job=~"writ|writ-worker"})') == 2)
    until(lambda: prometheus.number('sum(up{job="components"})') == 2)
    node = '{job="writ", task="hello"}'
    until(lambda: prometheus.number(f"sum(writ_jobs_submitted_total{node})") == HELLOS)
    # Native histograms: counts, and a quantile between the fixed bounds that nobody chose for it.
    until(lambda: prometheus.number(f"histogram_count(writ_execution_seconds{node})") == HELLOS)
    grants = HELLOS + 2 * BROKEN
    assert prometheus.number('histogram_count(writ_schedule_to_start_seconds{job="writ"})') == grants
    total = prometheus.number('histogram_sum(writ_schedule_to_start_seconds{job="writ"})')
    assert total == pytest.approx(watched.told("writ_schedule_to_start_seconds_sum"))
    quantile = prometheus.number('histogram_quantile(0.5, writ_schedule_to_start_seconds{job="writ"})')
    assert quantile is not None
    assert total is not None
    assert 0 < quantile < total
    appends = 'histogram_count(writ_engine_append_seconds{job="components"})'
    until(lambda: prometheus.number(appends) == watched.told("writ_engine_rounds_total"))
    targets = prometheus.get("targets", state="active")["activeTargets"]
    assert {target["lastError"] for target in targets} == {""}


@real
def test_every_question_of_the_rules_and_dashboards_has_an_answer(
    watched: Watched, prometheus: Prometheus
) -> None:
    watched.writ("price", "set", "small", "--input", "1", "--output", "2", "--reason", "as listed")
    watched.writ("submit", "q", "spends", '{"n": 1}', "--id", "spent", "--lease", "1", "--wait")
    watched.writ("cancel", "spent", code=1)  # refused, as it has ended
    until(lambda: prometheus.ask("tenant_queue:writ_backlog:sum"))
    groups = prometheus.get("rules")["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    until(lambda: all(r["health"] == "ok" for g in prometheus.get("rules")["groups"] for r in g["rules"]))
    assert len(rules) > 20
    queries: list[str] = []
    for path in sorted((DEPLOY / "grafana" / "dashboards").glob("*.json")):
        for panel in json.loads(path.read_bytes())["panels"]:
            for target in panel.get("targets", ()):
                expr = target["expr"].replace("$__rate_interval", "30s")
                queries.append(re.sub(r'"\$(tenant|queue)"', '".*"', expr))
    assert len(queries) > 30
    # Every one is answered, and all but those of things that did not happen here with something.
    happened = [query for query in queries if not re.search(NOT_HERE, query)]
    until(lambda: not [query for query in happened if not prometheus.ask(query)])
    for query in set(queries) - set(happened):
        assert prometheus.get("query", query=query)["result"] == []


def test_the_page_is_there_while_the_broker_is_not(watched: Watched) -> None:
    broker = int((watched.directory / "writ" / "broker.pid").read_text())
    os.kill(broker, signal.SIGSTOP)  # dead, it would be started again at once
    try:
        until(lambda: watched.told("writ_broker_connected", component="views") == 0)
        assert watched.told("writ_component_up") == 2
        hellos = watched.told("writ_jobs_submitted_total", task="hello")
        assert hellos == HELLOS, "what was folded is still told"
        assert "writ_view_lag_records" not in watched.page(), "what nobody knows is not"
    finally:
        os.kill(broker, signal.SIGCONT)
    until(lambda: watched.told("writ_broker_connected") == 2 and watched.told("writ_engine_leading") == 1)


def test_counters_go_on_after_a_kill_and_after_the_view_is_deleted(watched: Watched) -> None:
    before = watched.from_log()
    line = {"tenant": "default", "queue": "q", "task": "hello", "partition": "0"}
    assert before[f"writ_jobs_submitted_total{sorted(line.items())}"] == HELLOS
    node = json.loads((watched.directory / "writ" / "node.json").read_bytes())["pid"]
    os.kill(node, signal.SIGKILL)
    until(lambda: not watched.page())
    watched.up()
    until(lambda: watched.told("writ_view_lag_records") == 0 and watched.told("writ_component_up") == 2)
    assert watched.from_log() == before
    elections = watched.told("writ_leader_elections_total")
    assert elections > 1
    assert watched.told("writ_engine_rounds_total") < watched.told("writ_log_records_total") / 2, (
        "it began anew"
    )
    watched.writ("down")
    for file in (watched.directory / "writ" / "views").glob("metrics.*"):
        file.unlink()
    watched.up()
    until(lambda: watched.told("writ_leader_elections_total") == elections + 1)
    assert watched.from_log() == before


def test_a_view_that_has_halted_is_told_of(watched: Watched) -> None:
    """The last of the module, as it spoils a view."""
    watched.writ("down")
    with closing(sqlite3.connect(watched.directory / "writ" / "views" / "jobs.db")) as db, db:
        db.execute("UPDATE position SET digest = ?", ("0" * 64,))
    watched.up()
    until(lambda: watched.told("writ_view_halted", view="jobs") == 1)
    assert watched.told("writ_view_halted") == 1, "the others go on"
    assert watched.told("writ_component_up") == 2
