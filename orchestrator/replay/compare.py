"""Two runs of one job side by side: what the second did otherwise points at what was not deterministic."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Any, cast

import msgspec

from writ.schemas.errors import AttemptError
from writ.schemas.recordings import Run
from writ.schemas.sealed import UNSEALED, Sealed
from writ.schemas.states import State
from writ.schemas.steps import RecordedStep, ToolCalled

from .text import one_line, shown

_PLACES_MAX = 20


class Difference(msgspec.Struct, frozen=True):
    """One thing that the two runs did otherwise: where, and what it was in each."""

    where: str
    first: str
    again: str
    """Values where they are recorded, digests where they are not."""

    hint: str


def compare(first: Run, again: Run) -> list[Difference]:
    """Where a reproduction differs from the run that it reproduces: steps, tools, and how it ended."""
    found = [*_steps(first, again), *_calls(first, again)]
    if first.job.state is not again.job.state:
        hint = "it ended in another state"
        found.append(Difference("state", _end(first), _end(again), hint))
    elif first.job.state is not State.COMPLETED and _error(first.job.error) != _error(again.job.error):
        found.append(Difference("error", _end(first), _end(again), "it failed otherwise"))
    return [*found, *_outputs(first.job.output, again.job.output)]


# --- steps and tools ------------------------------------------------------------------------------------


def _steps(first: Run, again: Run) -> Iterator[Difference]:
    pairs = zip_longest(first.job.steps, again.job.steps)
    for number, (one, other) in enumerate(pairs, 1):
        where = f"step {number}"
        if one is None or other is None or one.name != other.name:
            hint = "the task takes its steps in another order, or others: what decides that is not recorded"
            yield Difference(where, _named(one), _named(other), hint)
            return  # what follows is another run
        if one.params != other.params:
            hint = "it was called with other parameters: they rest on something outside of steps"
            where = f"{where}, {one.name!r}, parameters"
            yield Difference(where, f"digest {one.params[:16]}", f"digest {other.params[:16]}", hint)


def _named(step: RecordedStep | None) -> str:
    return "not taken" if step is None else repr(step.name)


def _calls(first: Run, again: Run) -> Iterator[Difference]:
    """Calls are told by tool and parameters: those that run side by side are recorded as they end."""
    left = list(first.calls)
    odd: list[ToolCalled] = []
    for call in again.calls:
        same = next((each for each in left if (each.tool, each.digest) == (call.tool, call.digest)), None)
        if same is None:
            odd.append(call)
        else:
            left.remove(same)
    for call in odd:
        other = next((each for each in left if each.tool == call.tool), None)
        hint = "it was called with other parameters: they rest on something outside of steps and tools"
        if other is None:
            hint = "it was called more often, or not in the first run"
        else:
            left.remove(other)
        yield Difference(f"tool {call.tool}, parameters", _called(other), _called(call), hint)
    for call in left:
        yield Difference(f"tool {call.tool}", _called(call), "not called", "it was called in the first run")


def _called(call: ToolCalled | None) -> str:
    return "not called" if call is None else f"{shown(call.params)} (digest {call.digest[:16]})"


# --- ends -----------------------------------------------------------------------------------------------


def _error(error: AttemptError | None) -> tuple[str, ...]:
    """What must be the same of an error: not its traceback."""
    if error is None:
        return ()
    return str(error.class_), error.type, _message(error)


def _message(error: AttemptError) -> str:
    if error.text is None or error.text.key != UNSEALED:
        return ""
    return str(msgspec.json.decode(error.text.plain)).partition("\n")[0]


def _end(run: Run) -> str:
    job = run.job
    if job.error is None or job.output is not None:
        return str(job.state)
    return f"{job.state}, {job.error.class_} error {job.error.type}: {one_line(_message(job.error))}"


def _outputs(one: Sealed | None, other: Sealed | None) -> Iterator[Difference]:
    if one is None and other is None:
        return
    if any(each is not None and each.key != UNSEALED for each in (one, other)):
        digests = [None if each is None else each.digest for each in (one, other)]
        if digests[0] != digests[1]:
            yield Difference("output", shown(one), shown(other), "the contents are sealed")
        return
    contents = [None if each is None else msgspec.json.decode(each.plain) for each in (one, other)]
    for count, (where, old, new) in enumerate(_places(contents[0], contents[1], "output")):
        if count >= _PLACES_MAX:
            return
        hint = "it does not follow from the input and the recorded answers alone, such as a clock or chance"
        yield Difference(where, _value(old), _value(new), hint)


def _places(one: Any, other: Any, where: str) -> Iterator[tuple[str, Any, Any]]:
    """The places in which two JSON values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        fields = cast("tuple[dict[str, Any], dict[str, Any]]", (one, other))
        for name in dict.fromkeys((*fields[0], *fields[1])):
            old, new = [each.get(name, _ABSENT) for each in fields]
            yield from _places(old, new, f"{where}.{name}")
    elif isinstance(one, list) and isinstance(other, list):
        for index, (old, new) in enumerate(zip_longest(one, other, fillvalue=_ABSENT)):  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
            yield from _places(old, new, f"{where}[{index}]")
    elif one != other:
        yield where, one, other


_ABSENT = object()


def _value(value: Any) -> str:
    return "absent" if value is _ABSENT else one_line(msgspec.json.encode(value).decode())
