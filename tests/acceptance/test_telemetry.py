"""Spans and structured logs of real processes, isolated attempts among them."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

if TYPE_CHECKING:
    from .conftest import Place

TASKS = """
from writ import Context, task


@task
async def agent(ctx: Context) -> str:
    ctx.log.info("it thinks")
    await ctx.step("look", lambda: 7)
    ctx.usage(model="small", input_tokens=1, output_tokens=2)
    return ctx.traceparent
"""


@contextmanager
def receiver() -> Generator[tuple[str, list[Any]]]:
    """A collector of OTLP over HTTP: where it is, and the spans that have come."""
    spans: list[Any] = []

    class Taking(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                spans.extend(span for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Taking)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", spans
    finally:
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("isolate", [(), ("--isolate", "plain")], ids=["in the worker", "isolated"])
def test_spans_reach_a_collector_and_logs_are_objects(
    own_place: Place, isolate: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Must hold: OpenTelemetry spans with the trace context carried from submitter to task, isolated attempts
    too; structured logs that carry tenant, queue, job, attempt.
    """
    (own_place.root / "traced.py").write_text(TASKS)
    with receiver() as (endpoint, spans):
        monkeypatch.setitem(os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        with own_place.worker("traced", "--queue", "q", "--log-format", "json", *isolate):
            told = json.loads(own_place.writ("submit", "q", "agent", "--id", "a", "--wait").stdout)
        found = {span.name: span for span in spans}
        assert set(found) >= {"submit q", "wait q", "attempt agent", "step look", "usage small"}
    _, trace, attempt, _ = told.split("-")
    assert {span.trace_id.hex() for span in spans} == {trace}
    assert found["attempt agent"].span_id.hex() == attempt
    assert found["attempt agent"].parent_span_id == found["submit q"].span_id
    assert found["step look"].parent_span_id == found["attempt agent"].span_id
    lines = [
        json.loads(line)
        for line in (own_place.root / "worker.log").read_text().splitlines()
        if line.startswith("{")
    ]
    (thought,) = [line for line in lines if "it thinks" in line["message"]]
    wanted = {"tenant": "default", "queue": "q", "id": "a", "task": "agent", "attempt": 1, "trace": trace}
    assert wanted.items() <= thought.items()
    assert thought["logger"] == "writ.task"
