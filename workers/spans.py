"""The spans of a worker's attempts, for OpenTelemetry.

They are made in the worker's own process, from what the keeper hears of an attempt anyway: so they are the
same for an attempt in a process of its own, which needs neither the library nor a way out.

    wait       from the time at which the job was ready until its lease came
    attempt    until its end, with the error's type; the context of its children and of what it calls
      step, execute_tool, usage, child
"""

from __future__ import annotations

import time
from typing import Any, Final

from msgspec.structs import replace

from writ.broker import tracing
from writ.schemas.commands import Lease
from writ.schemas.notes import AnyRemark, StepFault, StepIntent, StepResult, StepUndone, TokensUsed, ToolCall
from writ.schemas.steps import ToolOutcome

from .faults import Fault, Stop
from .steps import Sleep

_MS: Final = 1_000_000


class Spans:
    """The span of one attempt, and those of its parts that have begun."""

    def __init__(self, span: Any, about: dict[str, Any]) -> None:
        self.span = span
        self._about = about
        self._steps: dict[int, Any] = {}

    @classmethod
    def begin(cls, lease: Lease, tenant: str, queue: str) -> tuple[Lease, Spans | None]:
        """The lease with its attempt's trace context, and the attempt's span, where one is made."""
        if tracing.api() is None:
            return lease, None
        about = {
            "messaging.system": "writ",
            "messaging.destination.name": queue,
            "writ.tenant": tenant,
            "writ.queue": queue,
            "writ.job": lease.id,
            "writ.task": lease.task,
            "writ.attempt": lease.attempt,
        }
        now_ns = time.time_ns()
        if lease.waited_ms is not None:
            since_ns = now_ns - lease.waited_ms * _MS
            tracing.start(f"wait {queue}", about, parent=lease.trace, start_ns=since_ns).end(now_ns)
        span = tracing.start(f"attempt {lease.task}", about, kind="CONSUMER", parent=lease.trace)
        trace = tracing.traceparent(span)
        return (lease if trace is None else replace(lease, trace=trace)), cls(span, about)

    def noted(self, remark: AnyRemark) -> None:
        """What the attempt notes of itself."""
        match remark:
            case StepIntent(step=number, name=name):
                self._steps[number] = self._part(f"step {name}", {"writ.step": number})
            case StepResult(step=number) | StepFault(step=number) | StepUndone(step=number):
                self._step_ended(number, remark)
            case ToolCall():
                self._called(remark)
            case TokensUsed(model=model, input_tokens=tokens_in, output_tokens=tokens_out):
                used = {
                    "gen_ai.request.model": model,
                    "gen_ai.usage.input_tokens": tokens_in,
                    "gen_ai.usage.output_tokens": tokens_out,
                }
                self._part(f"usage {model}", used).end()

    def _part(self, name: str, more: dict[str, Any], parent: Any = None, run_ms: int | None = None) -> Any:
        since_ns = None if run_ms is None else time.time_ns() - run_ms * _MS
        about = {**self._about, **more}
        return tracing.start(name, about, parent=parent or self.span, start_ns=since_ns)

    def _step_ended(self, number: int, remark: StepResult | StepFault | StepUndone) -> None:
        span = self._steps.pop(number, None)
        if isinstance(remark, StepUndone):
            span = self._part(f"undo step {number}", {"writ.step": number}, run_ms=remark.run_ms)
        if span is None:
            return  # its outcome was told, and it did not run here
        if isinstance(remark, StepFault):
            tracing.fail(span, remark.type)
        span.end()

    def _called(self, call: ToolCall) -> None:
        named = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": call.tool,
            "writ.tool.outcome": call.outcome.value,
        }
        parent = None if call.step is None else self._steps.get(call.step)
        span = self._part(f"execute_tool {call.tool}", named, parent, call.run_ms)
        if call.outcome is not ToolOutcome.DONE:
            tracing.fail(span, call.type or call.outcome.value)
        span.end()

    def child(self, task: str, key: str) -> str | None:
        """The trace context for a child that is started."""
        about = {**self._about, "writ.child": key}
        span = tracing.start(f"child {task}", about, kind="PRODUCER", parent=self.span)
        span.end()
        return tracing.traceparent(span)

    def end(self, fault: Fault | None, sleep: Sleep | None, stop: Stop | None) -> None:
        """The attempt is over: failed, waiting, stopped, or completed."""
        for step in self._steps.values():
            tracing.fail(step, "unknown")
            step.end()
        self._steps.clear()
        outcome: str
        if sleep is not None:
            outcome = sleep.verb
        elif stop is not None:
            outcome = stop.name.lower()
        else:
            outcome = "completed" if fault is None else "failed"
        self.span.set_attribute("writ.outcome", outcome)
        if fault is not None and sleep is None:
            self.span.set_attribute("writ.error.class", fault.class_.value)
            tracing.fail(self.span, fault.type)
        self.span.end()
