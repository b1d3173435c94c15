"""What a task waits for: a time, a signal, a person, its children. The job waits, and no worker is held.

wait --> a recorded step: its intention --> has it come? --> its result --> the task
                                            '-> no: the attempt ends here, lease and slot are given back;
                                                the next one comes to the same step, and looks again
"""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from writ.broker.clock import Clock
from writ.schemas.bounds import AFTER_MAX, ASKS_MAX_CHARS, NAME_MAX_CHARS
from writ.schemas.errors import ErrorClass
from writ.schemas.events import OnTimeout, WaitReason
from writ.schemas.ids import token_fault
from writ.schemas.lifecycle import TERMINAL, State

from .children import Call, ToChildren
from .steps import ChildFailed, Sleep, StepPolicy, StepRefused, WaitTimedOut, drive

if TYPE_CHECKING:
    from .journal import Journal
    from .run import Run

_SECOND_US: Final = 1_000_000
_REPEATS: Final = StepPolicy(idempotent=True)


class _Came(NamedTuple):
    """A signal that was had: the next wait for its name takes one behind it."""

    seq: int
    data: Any


class Waits:
    """The waits of one run. Methods raise Sleep where the task is to end, as its job waits."""

    def __init__(self, run: Run, journal: Journal, clock: Clock) -> None:
        self._run = run
        self._journal = journal
        self._clock = clock
        self._had: dict[str, int] = {}
        """The newest signal of each name that a wait has taken."""

    async def for_signal(self, name: str, timeout_s: float | None) -> Any:
        """The data of the next signal of a name. Raises WaitTimedOut."""
        fault = token_fault(name, "signal")
        if fault is not None:
            raise StepRefused(fault)
        until = None if timeout_s is None else await self._deadline(f"signal {name}: until", timeout_s)
        seen = self._had.get(name, 0)

        async def look() -> _Came:
            for came in self._run.heard:
                if came.name == name and came.seq > seen:
                    return _Came(came.seq, came.data)
            left_s = self._left_s(until, f"signal {name} did not come within {timeout_s} s")
            raise _suspended("signal", left_s, on=name, seen=seen)

        came = _Came(*await self._look(f"signal {name}", look))
        self._had[name] = came.seq
        return came.data

    async def for_approval(self, asks: str, timeout_s: float | None) -> Any:
        """The data with which a person says yes. Raises WaitTimedOut; a no ends the job."""
        if not 1 <= len(asks) <= ASKS_MAX_CHARS:
            raise StepRefused(f"what is asked has {len(asks)} characters; give 1 to {ASKS_MAX_CHARS}")
        until = None if timeout_s is None else await self._deadline(f"approval: {asks}: until", timeout_s)
        begun = self._journal.known_seq

        async def look() -> _Came:
            for came in reversed(self._run.heard):
                if came.name == WaitReason.APPROVAL and begun is not None and came.seq > begun:
                    return _Came(came.seq, came.data)
            left_s = self._left_s(until, f"nobody approved {asks!r} within {timeout_s} s")
            raise _suspended("approval", left_s, asks=asks)

        return _Came(*await self._look(f"approval: {asks}", look)).data

    async def until(self, when: datetime.datetime) -> None:
        """Goes on at a time."""
        if when.tzinfo is None:
            raise StepRefused(f"{when.isoformat()} names no time zone; give one, such as datetime.UTC")
        await self._doze(await self._journal.step("sleep until", _same, (when,), {}, _REPEATS))

    async def for_seconds(self, seconds: float) -> None:
        """Goes on after some seconds."""
        await self._doze(await self._deadline("sleep", seconds))

    async def for_children(self, wanted: Iterable[Mapping[str, Any]]) -> list[Any]:
        """The outputs of children, which are started where that was not done. Raises ChildFailed."""
        calls = [_call_of(each, self._run.queue) for each in wanted]
        if not calls:
            return []
        name = f"run {calls[0].task}" if len(calls) == 1 else f"run {len(calls)} children"
        given = [[call.task, call.queue, call.input, call.options] for call in calls]
        outputs: list[Any] = await self._look(
            name[:NAME_MAX_CHARS],
            lambda: self._children(calls, anew=False),
            lambda: self._children(calls, anew=True),
            given,
        )
        return outputs

    async def _children(self, calls: Sequence[Call], *, anew: bool) -> list[Any]:
        children = await self._journal.errand(ToChildren(self._journal.number, tuple(calls), anew))
        open_ = [child.key for child in children if child.state not in TERMINAL]
        if open_:
            raise _suspended("child", None, children=tuple(open_[:AFTER_MAX]))
        failed = [child for child in children if child.state is not State.COMPLETED]
        if failed:
            first = failed[0]
            more = f", and {len(failed) - 1} more of {len(children)}" if len(failed) > 1 else ""
            text = f"child {first.key} is {first.state}{': ' if first.why else ''}{first.why}{more}"
            raise ChildFailed(first.key, ChildFailed.__name__, text)
        return [child.output for child in children]

    # --- parts ------------------------------------------------------------------------------------------

    async def _deadline(self, name: str, seconds: float) -> datetime.datetime:
        """The recorded time at which a wait ends that began now."""
        if not seconds >= 0:
            raise StepRefused(f"{name}: a wait takes seconds of 0 or more, not {seconds!r}")

        def begun(seconds: float) -> datetime.datetime:
            now = datetime.datetime.fromtimestamp(self._clock.wall_us() / _SECOND_US, datetime.UTC)
            return now + datetime.timedelta(seconds=seconds)

        return _time(await self._journal.step(name[:NAME_MAX_CHARS], begun, (seconds,), {}, _REPEATS))

    def _left_s(self, until: datetime.datetime | None, over: str) -> float | None:
        """The seconds to a deadline. Raises WaitTimedOut behind it."""
        if until is None:
            return None
        left_s = until.timestamp() - self._clock.wall_us() / _SECOND_US
        if left_s <= 0:
            raise WaitTimedOut("wait", WaitTimedOut.__name__, over, ErrorClass.TIMEOUT)
        return left_s

    async def _doze(self, until: datetime.datetime) -> None:
        if self._journal.is_answered:
            return
        left_s = _time(until).timestamp() - self._clock.wall_us() / _SECOND_US
        if left_s > 0:
            raise Sleep("snooze", delay_s=left_s)

    async def _look(
        self,
        name: str,
        probe: Callable[[], Awaitable[Any]],
        first: Callable[[], Awaitable[Any]] | None = None,
        params: object = None,
    ) -> Any:
        """The result of a recorded step that looks whether something has come, in each attempt anew."""

        def adapted(look: Callable[[], Any]) -> Callable[..., Any]:
            return (lambda *_: drive(look())) if self._journal.blocking else (lambda *_: look())

        policy = StepPolicy(probe=adapted(probe))
        args = () if params is None else (params,)
        return await self._journal.step(name, adapted(first or probe), args, {}, policy)


def _suspended(reason: str, timeout_s: float | None, **more: Any) -> Sleep:
    return Sleep("suspend", reason=reason, timeout_s=timeout_s, on_timeout=OnTimeout.RESUME, **more)


def _same(when: datetime.datetime) -> datetime.datetime:
    return when


def _time(when: Any) -> datetime.datetime:
    return msgspec.convert(when, datetime.datetime)


def _call_of(given: Mapping[str, Any], queue: str) -> Call:
    """A child as `run_all` is given it."""
    options = dict(given)
    task = options.pop("task", None)
    name = getattr(task, "name", task)
    if not isinstance(name, str):
        raise StepRefused(f"a child is a mapping with `task` and `input`, not {given!r}")
    return Call(name, options.pop("queue", None) or queue, options.pop("input", None), options)
