"""Spans of the command line's own processes, where the environment says to whom they go."""

from __future__ import annotations

import os
from importlib.util import find_spec

from .usage import CommandError

_WHERE = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


def begin(service: str) -> None:
    """Has spans sent by OTLP over HTTP where OTEL_EXPORTER_OTLP_ENDPOINT is set; else does nothing.

    `service` is the name of the service unless OTEL_SERVICE_NAME gives another. Raises CommandError where
    the libraries are not installed.
    """
    if not any(os.environ.get(name) for name in _WHERE) or os.environ.get("OTEL_SDK_DISABLED") == "true":
        return
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.exporter.otlp.proto.http") is None:
        raise CommandError(
            f"{_WHERE[1]} asks for spans, and OpenTelemetry is not installed",
            ["pip install 'writ-orchestrator[otel]'", f"unset {_WHERE[1]}"],
        )
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    name = os.environ.get("OTEL_SERVICE_NAME") or service
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)  # what is left is sent as the process ends
