"""Spans of OpenTelemetry: from the submitter to the task, its parts and its children, as the SDK has them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from writ import Context, Retry, ToolFailed, task, testing, tool
from writ.testing import System
from writ.workers import Task

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
EXPORTER = InMemorySpanExporter()
PROVIDER = TracerProvider()
PROVIDER.add_span_processor(SimpleSpanProcessor(EXPORTER))


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """What was exported; a program sets its provider once, and a test must leave none behind."""
    EXPORTER.clear()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", PROVIDER)
    yield EXPORTER
    EXPORTER.clear()


@tool
async def search(words: str) -> list[str]:
    return [words]


@tool
async def broken() -> None:
    raise ConnectionError("away")


@task
async def child(n: int, ctx: Context) -> str | None:
    return ctx.traceparent


@task
async def agent(ctx: Context) -> list[str | None]:
    async def look() -> list[str]:
        with trace.get_tracer("user").start_as_current_span("of the user"):
            return await search(words="otters")

    await ctx.step("look", look)
    with suppress(ToolFailed):
        await broken()
    ctx.usage(model="small", input_tokens=12, output_tokens=3)
    return [ctx.traceparent, await ctx.run("child", {"n": 1})]


@task
async def fails(ctx: Context) -> None:
    raise ValueError("no")


TASKS: list[Task[..., Any]] = [child, agent, fails]


def named(exporter: InMemorySpanExporter) -> dict[str, list[ReadableSpan]]:
    found: dict[str, list[ReadableSpan]] = {}
    for span in exporter.get_finished_spans():
        found.setdefault(span.name, []).append(span)
    return found


def ids(span: ReadableSpan) -> tuple[int, int | None]:
    """A span's own id and its parent's."""
    assert span.context is not None
    return span.context.span_id, None if span.parent is None else span.parent.span_id


@testing.virtual
async def test_one_trace_leads_from_the_submitter_to_the_task_and_its_children(
    exporter: InMemorySpanExporter,
) -> None:
    async with System(TASKS, "q") as system:
        with trace.get_tracer("user").start_as_current_span("request") as request:
            job = await system.client.submit("q", "agent")
        told, of_child = await system.client.result(job)
    spans = named(exporter)
    traces = {span.context.trace_id for each in spans.values() for span in each if span.context is not None}
    assert traces == {request.get_span_context().trace_id}

    (submit,) = spans["submit q"]
    assert ids(submit)[1] == request.get_span_context().span_id
    attempts = spans["attempt agent"]  # where its child takes long, it goes on in another attempt
    first, last = attempts[0], attempts[-1]
    assert {ids(span)[1] for span in attempts} == {ids(submit)[0]}
    assert dict(last.attributes or {})["writ.outcome"] == "completed"
    (wait,) = spans["wait q"][:1]
    assert ids(wait)[1] == ids(submit)[0]

    (step,) = spans["step look"]
    assert ids(step)[1] == ids(first)[0]
    (searched,) = spans["execute_tool search"]
    assert ids(searched)[1] == ids(step)[0]
    assert dict(searched.attributes or {})["gen_ai.tool.name"] == "search"
    failed = spans["execute_tool broken"][0]
    assert dict(failed.attributes or {})["error.type"] == "ConnectionError"
    usage = dict(spans["usage small"][0].attributes or {})
    assert usage["gen_ai.request.model"] == "small"
    assert (usage["gen_ai.usage.input_tokens"], usage["gen_ai.usage.output_tokens"]) == (12, 3)
    assert usage["writ.job"] == job.id
    (own,) = spans["of the user"]
    assert ids(own)[1] == ids(first)[0], "what the task makes itself stands below its attempt"

    (started,) = spans["child child"]
    assert ids(started)[1] == ids(first)[0]
    (attempt,) = spans["attempt child"]
    assert ids(attempt)[1] == ids(started)[0]
    assert of_child is not None
    assert of_child.split("-")[1:3] == [
        f"{request.get_span_context().trace_id:032x}",
        f"{ids(attempt)[0]:016x}",
    ]
    assert told is not None
    assert told.split("-")[2] == f"{ids(last)[0]:016x}"


@testing.virtual
async def test_a_failed_attempt_is_a_failed_span(exporter: InMemorySpanExporter) -> None:
    async with System(TASKS, "q") as system:
        job = await system.client.submit("q", "fails", retry=Retry(max_attempts=2, initial_interval_s=1))
        await system.when(job, "dead")
    spans = named(exporter)["attempt fails"]
    assert [dict(span.attributes or {})["writ.attempt"] for span in spans] == [1, 2]
    assert {span.status.status_code for span in spans} == {trace.StatusCode.ERROR}
    assert [dict(span.attributes or {})["error.type"] for span in spans] == ["ValueError"] * 2


@testing.virtual
async def test_a_trace_context_is_carried_where_nobody_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    """A submitter in any language gives `trace`; it is in the log, and reaches the task and its children."""
    monkeypatch.setattr("writ.broker.tracing.api", lambda: None)
    async with System(TASKS, "q") as system:
        (job,) = await system.client.submit_many("q", [{"task": "agent", "trace": PARENT}])
        assert await system.client.result(job) == [PARENT, PARENT]
        submitted = [record for record in await system.records() if record.trace is not None]
    assert [record.trace for record in submitted] == [PARENT, PARENT]
