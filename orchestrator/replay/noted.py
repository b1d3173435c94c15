"""What an attempt noted, looked at again: the order of steps, the verdicts on tools, the cost of usage."""

from __future__ import annotations

from collections.abc import Mapping

from writ.schemas.events import Fact, QueueDeclared
from writ.schemas.lifecycle import Job
from writ.schemas.policy import ANY_TOOL, ToolPolicy
from writ.schemas.prices import NO_PRICES, Prices
from writ.schemas.records import Record
from writ.schemas.steps import (
    StepCompensated,
    StepDone,
    StepFailed,
    StepIntended,
    StepState,
    ToolCalled,
    ToolOutcome,
    UsageRecorded,
)

_BUDGET = "max_calls is "


class Governed:
    """What the notes of attempts are held against: the tool policies, in each version, and the prices.

    `prices` are those of each tenant where the log stands.
    """

    def __init__(self, prices: Mapping[str, Prices]) -> None:
        self._policies: dict[tuple[str, str, int], ToolPolicy] = {}
        self._prices = prices

    def take(self, record: Record) -> None:
        """A record that is of no job."""
        for event in record.events:
            if isinstance(event, QueueDeclared):
                self._policies[record.tenant, record.key, event.version] = event.policy.tools

    def fault(self, job: Job, event: Fact, at: int) -> tuple[str, str] | None:
        """The rule that a note breaks and how; None where it stands rightly, or is no note."""
        match event:
            case StepIntended() | StepDone() | StepFailed() | StepCompensated():
                why = _misplaced(job, event)
                return None if why is None else ("lifecycle", why)
            case ToolCalled():
                policy = self._policies.get((job.tenant, job.queue, event.policy), ANY_TOOL)
                why = _misjudged(job, event, policy)
            case UsageRecorded():
                prices = self._prices.get(job.tenant, NO_PRICES)
                cost = prices.cost(event.model, event.input_tokens, event.output_tokens, at)
                told = f"cost_microusd was recorded as {event.cost_microusd}; recomputed it is {cost}"
                why = None if cost == event.cost_microusd else f"usage_recorded.{told}"
            case _:
                return None
        return None if why is None else ("decision", why)


def _misplaced(job: Job, event: StepIntended | StepDone | StepFailed | StepCompensated) -> str | None:
    """Why a step cannot be at this place of its job's record."""
    known = job.steps[event.step - 1] if event.step <= len(job.steps) else None
    if isinstance(event, StepIntended):
        if known is None:
            return None if event.step == len(job.steps) + 1 else f"step {event.step} begins out of turn"
        if known.name != event.name:
            return f"step {event.step} was {known.name!r} and is {event.name!r}"
        return f"step {event.step} runs again, though it is done" if known.state is StepState.DONE else None
    if known is None:
        return f"step {event.step} was never begun"
    undone = isinstance(event, StepCompensated) and known.state is StepState.DONE
    if undone or known.state is StepState.INTENDED:
        return None
    return f"step {event.step} is {known.state} already"


def _misjudged(job: Job, call: ToolCalled, policy: ToolPolicy) -> str | None:
    """Why a tool call should, or should not, have been denied."""
    if call.outcome is not ToolOutcome.DENIED:
        rule = policy.denies(call.tool, job.tool_calls)
        return None if rule is None else f"tool {call.tool} was called, but {rule}"
    # Calls that were under way count in the budget before they are recorded.
    spent = policy.max_calls or 0
    if (call.rule or "").startswith(_BUDGET) and policy.max_calls is not None:
        return None
    return None if policy.denies(call.tool, spent) else f"tool {call.tool} was denied, but nothing denies it"
