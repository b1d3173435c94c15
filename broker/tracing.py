"""Trace context of W3C, and spans of OpenTelemetry where the program at hand uses that.

Nothing here imports OpenTelemetry: a program that has not imported it has nobody who takes spans. There a
trace context that came with a job is carried on all the same.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Final

SCOPE: Final = "writ"


def api() -> ModuleType | None:
    """The module `opentelemetry.trace`, where this program has it; None costs a look into a dictionary."""
    return sys.modules.get("opentelemetry.trace")


def traceparent(span: Any = None) -> str | None:
    """The W3C trace context of a span, or of the current one; None where there is none."""
    otel = api()
    if otel is None:
        return None
    context = (otel.get_current_span() if span is None else span).get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def start(
    name: str,
    attributes: Mapping[str, Any],
    *,
    kind: str = "INTERNAL",
    parent: Any = None,
    start_ns: int | None = None,
) -> Any:
    """A new span, of the given parent: a trace context as text, a span, or the current one; None without
    OpenTelemetry. `kind` is the name of one of its span kinds, `start_ns` in nanoseconds since 1970.
    """
    otel = api()
    if otel is None:
        return None
    if isinstance(parent, str):
        parent = otel.NonRecordingSpan(_context(otel, parent))
    context = None if parent is None else otel.set_span_in_context(parent)
    return otel.get_tracer(SCOPE).start_span(
        name,
        context=context,
        kind=otel.SpanKind[kind],
        attributes=dict(attributes),
        start_time=start_ns,
    )


def fail(span: Any, why: str) -> None:
    """Marks a span as one that failed, with the type of its error."""
    otel = api()
    assert otel is not None, "there is a span"
    span.set_attribute("error.type", why)
    span.set_status(otel.Status(otel.StatusCode.ERROR, why))


@contextmanager
def within(span: Any) -> Generator[None]:
    """Makes a span the current one, for spans that the code in the block makes itself."""
    otel = api()
    if otel is None or span is None:
        yield
        return
    with otel.use_span(span, record_exception=False, set_status_on_exception=False):
        yield


@contextmanager
def spanning(name: str, attributes: Mapping[str, Any], *, kind: str = "INTERNAL") -> Generator[Any]:
    """A span around the block, which fails with it."""
    span = start(name, attributes, kind=kind)
    if span is None:
        yield None
        return
    try:
        with within(span):
            yield span
    except BaseException as error:
        fail(span, type(error).__name__)
        raise
    finally:
        span.end()


def _context(otel: ModuleType, text: str) -> Any:
    """A trace context from its text, whose form was checked when it was submitted."""
    _, trace, span, flags = text.split("-")
    return otel.SpanContext(int(trace, 16), int(span, 16), True, otel.TraceFlags(int(flags, 16)))
