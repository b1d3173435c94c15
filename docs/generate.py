"""Writes the reference pages that are made from code: `make docs`. `--check` only says whether they are."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import msgspec._json_schema as schema_writer

from writ.http import openapi
from writ.http.routes import ROUTES
from writ.schemas import assets, bounds, catalog, commands, lists, queries
from writ.schemas.events import JOB_EVENTS, OTHER_EVENTS, VERSIONS, Fact, type_names
from writ.schemas.lifecycle import REFUSALS, TERMINAL, TRANSITIONS, State
from writ.schemas.stores import STORE_VERBS
from writ.schemas.verbs import QUERY_VERBS

REFERENCE = Path(__file__).parent / "reference"
OPENAPI = Path(__file__).parent.parent / "writ" / "http" / "openapi.json"

PROJECT = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]

MESSAGES: dict[str, type[msgspec.Struct]] = {
    "writ.submit": commands.SubmitJob,
    **{f"writ.lease {verb}": cls for verb, cls in commands.LEASE_VERBS.items()},
    **{f"writ.control {verb}": cls for verb, cls in commands.CONTROL_VERBS.items()},
    **{f"writ.query {verb}": cls for verb, (cls, _) in QUERY_VERBS.items()},
    **{f"writ.store {verb}": cls for verb, (cls, _) in STORE_VERBS.items()},
}
ANSWERS: tuple[type[msgspec.Struct], ...] = (
    commands.Answer,
    commands.Acquired,
    commands.Renewed,
    commands.Reported,
    commands.Planned,
    commands.Started,
    commands.Erased,
    queries.JobsPage,
    queries.DeadPage,
    queries.RecordsPage,
    queries.QueuesPage,
    queries.SchedulesPage,
    queries.OperationsPage,
    queries.BatchesPage,
    queries.HoldsPage,
    lists.AuditPage,
    lists.AttemptsPage,
    lists.WorkersPage,
    lists.TrafficPage,
    lists.CostPage,
    lists.ToolsPage,
    lists.ToolCallsPage,
    queries.NodeStatus,
    assets.AssetTold,
    assets.AssetsTold,
    *dict.fromkeys(told for _, told in STORE_VERBS.values() if told is not commands.Answer),
)


def _plain_default(value: Any, **options: Any) -> Any:
    """msgspec's schema writer cannot show a default that is raw JSON; this can."""
    if isinstance(value, msgspec.Raw):
        return msgspec.json.decode(value) if bytes(value) else None
    return msgspec.to_builtins(value, **options)


def _schema(title: str, types: list[type[Any]]) -> str:
    refs, components = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
    document = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "anyOf": list(refs),
        "$defs": components,
    }
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def _first_line(cls: type[Any]) -> str:
    own = cls.__doc__ if "__doc__" in vars(cls) else None
    return (own or "").strip().split("\n")[0]


def _messages() -> str:
    lines = [
        "# Messages",
        "",
        "Made from `schemas/commands.py`, `schemas/queries.py` and `schemas/lists.py`.",
        "The JSON Schema is in `messages.schema.json`.",
        "",
        "| asked on | message | what it is |",
        "| --- | --- | --- |",
    ]
    lines += [f"| `{subject}` | `{cls.__name__}` | {_first_line(cls)} |" for subject, cls in MESSAGES.items()]
    lines += ["", "## Bounds", "", "| bound | value |", "| --- | --- |"]
    values = {k: v for k, v in vars(bounds).items() if k.isupper() and k != "SECOND_US"}
    lines += [f"| `{name}` | {value:,} |" for name, value in values.items()]
    return "\n".join(lines) + "\n"


def _event_rows(events: tuple[type[Fact], ...]) -> list[str]:
    rows: list[str] = []
    for cls in events:
        name = type_names[cls]
        fields = ", ".join(f"`{f.encode_name}`" for f in msgspec.structs.fields(cls)) or "none"
        rows.append(f"| `{name}` | {VERSIONS[name]} | {fields} | {_first_line(cls)} |")
    return rows


def _events() -> str:
    head = ["| event | version | fields | what it says |", "| --- | --- | --- | --- |"]
    lines = ["# Events", "", "Made from `schemas/events.py`; the JSON Schema is in `events.schema.json`.", ""]
    lines += ["## Of a job", "", *head, *_event_rows(JOB_EVENTS), ""]
    lines += ["## Of others", "", *head, *_event_rows(OTHER_EVENTS)]
    return "\n".join(lines) + "\n"


def _lifecycle() -> str:
    lines = [
        "# The lifecycle of a job",
        "",
        "Made from the table in `schemas/lifecycle.py`, which is the only thing that may move a job.",
        "",
        "```mermaid",
        "stateDiagram-v2",
    ]
    for (place, event), targets in TRANSITIONS.items():
        lines += [f"    {place or '[*]'} --> {target}: {type_names[event]}" for target in targets]
    lines += [f"    {state} --> [*]" for state in State if state in TERMINAL]
    lines += ["```", "", "## What is refused, and under which name", ""]
    places = [None, *State]
    lines.append("| event | " + " | ".join(str(p or "before the first record") for p in places) + " |")
    lines.append("| --- |" + " --- |" * len(places))
    for event in JOB_EVENTS:
        cells: list[str] = []
        for place in places:
            targets = TRANSITIONS.get((place, event))
            cells.append("**" + ", ".join(targets) + "**" if targets else REFUSALS[place, event])
        lines.append(f"| `{type_names[event]}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _http() -> str:
    lines = [
        "# The HTTP API",
        "",
        "Made from `writ/http/routes.py`; the OpenAPI document is `writ/http/openapi.json`, served at",
        "`/openapi.json`. `/docs` is a page to try it; `/healthz` and `/readyz` are for whoever watches it.",
        "",
        "| request | what it does |",
        "| --- | --- |",
    ]
    lines += [f"| `{route.method} {route.path}` | {route.about} |" for route in ROUTES]
    return "\n".join(lines) + "\n"


_TOLD_BY: dict[str, str] = {
    catalog.LOG: "Folded from the log, by the metrics view: a restart changes nothing",
    catalog.ENGINE: "Of an engine, since its process started",
    catalog.VIEWS: "Of the views",
    catalog.BROKER: "Of the broker, and of the disk that its data are on",
    catalog.WORKER: "Of a worker, since its process started, on its own page",
    catalog.COMPONENT: "Of the processes",
}


def _metrics() -> str:
    lines = [
        "# Metrics",
        "",
        "Made from `schemas/catalog.py`. How to have them: [docs/metrics.md](../metrics.md).",
    ]
    for source, metrics in catalog.BY_SOURCE.items():
        lines += ["", f"## {_TOLD_BY[source]}", "", "| metric | kind | labels | what it tells |"]
        lines.append("| --- | --- | --- | --- |")
        for each in metrics:
            labels = ", ".join([f"`{label}`" for label in each.labels]) or "none"
            lines.append(f"| `{each.name}` | {each.kind} | {labels} | {each.help} |")
    lines += ["", "## Bounds", "", "| bound | value | what it bounds |", "| --- | --- | --- |"]
    for name, what in (
        ("TENANTS_MAX", "tenants told by name; the others are `other`"),
        ("QUEUES_MAX", "queues of all tenants told by name; the others are `other` of their tenant"),
        ("TASKS_MAX", "tasks of all queues told by name; the others are `other` of their queue"),
        ("PROCESSES_MAX", "processes of all tenants told by name; the others are `other` of their tenant"),
        ("MODELS_MAX", "models of all tenants told by name; the others are `other` of their tenant"),
        ("TOOLS_MAX", "tools of all tenants told by name; the others are `other` of their tenant"),
    ):
        lines.append(f"| `{name}` | {vars(catalog)[name]} | {what} |")
    return "\n".join(lines) + "\n"


def pages() -> dict[Path, str]:
    """Every generated page with its content."""
    return {
        REFERENCE / "messages.schema.json": _schema("Messages of Writ", [*MESSAGES.values(), *ANSWERS]),
        REFERENCE / "events.schema.json": _schema("Event data of Writ", [*JOB_EVENTS, *OTHER_EVENTS]),
        REFERENCE / "messages.md": _messages(),
        REFERENCE / "events.md": _events(),
        REFERENCE / "lifecycle.md": _lifecycle(),
        REFERENCE / "http.md": _http(),
        OPENAPI: json.dumps(openapi.document(PROJECT["version"]), indent=1, sort_keys=True) + "\n",
        REFERENCE / "metrics.md": _metrics(),
    }


def main() -> int:
    """Writes the pages, or with `--check` only says which are stale. The exit code is 1 where one is."""
    schema_writer.to_builtins = _plain_default  # type: ignore[attr-defined]
    stale = [p for p, text in pages().items() if not p.exists() or p.read_text() != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.name} is not what the code says; run `make docs`")
        return 1 if stale else 0
    for path in stale:
        path.write_text(pages()[path])
        print(f"wrote {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
