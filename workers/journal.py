"""The journal of one attempt: its steps, the calls of tools and the usage that it notes.

    step --> in the record: its answer             --> the task
         |   unknown outcome: probe, ask, undo     --> answer, or again
         '-> intent (stored) --> user function --> result (stored) --> the task

Used by user code on its own loop or thread; what is noted goes to the keeper through `Outbox.put`.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import inspect
import logging
import typing
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import msgspec
from msgspec.structs import replace

from writ.broker.clock import Clock
from writ.schemas.bounds import INLINE_MAX_BYTES, NAME_MAX_CHARS
from writ.schemas.errors import ErrorClass
from writ.schemas.events import WaitReason
from writ.schemas.notes import (
    AnyRemark,
    StepFault,
    StepIntent,
    StepResult,
    StepSeen,
    StepUndone,
    TokensUsed,
)
from writ.schemas.steps import OnUnknown, StepBy, StepState

from .children import Errand, ToSay
from .faults import fault_of, steers
from .steps import (
    ChildFailed,
    NotDone,
    NotReproducible,
    OutcomeUnknown,
    Rewind,
    Sleep,
    StepFailed,
    StepPolicy,
    StepRefused,
    WaitTimedOut,
    step_failed,
)

if TYPE_CHECKING:
    from .recording import Recording
    from .redaction import Redactor
    from .run import Run

T = TypeVar("T")
log = logging.getLogger("writ.task")
_MS: Final = 1_000
_encode = msgspec.json.Encoder().encode
_in_order = msgspec.json.Encoder(order="sorted").encode
running: ContextVar[Run | None] = ContextVar("writ_run", default=None)
"""The run that the code at hand belongs to."""


def _result(answered: Future[Any]) -> Any:
    return answered.result()


blocked: ContextVar[Callable[[Future[Any]], Any]] = ContextVar("writ_blocked", default=_result)
"""How the thread of a plain task waits for the keeper."""

within: ContextVar[int | None] = ContextVar("writ_step", default=None)
"""The number of the step that the code at hand is part of."""


class Entry(NamedTuple):
    """One note on its way; `answered` is told when it is stored, or why not."""

    remark: AnyRemark
    answered: Future[None] | None
    size_bytes: int


def digest_of(content: Any, what: str, key: bytes, redactor: Redactor) -> str:
    """SHA-256 of parameters as JSON, keyed if there is a key. Raises StepRefused where they are no JSON.

    Secrets are left out of it: who has the log could try values until one has the digest.
    """
    try:
        text = redactor.json(_in_order(content))
        return (hmac.new(key, text, hashlib.sha256) if key else hashlib.sha256(text)).hexdigest()
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        reason = f"{what}: its parameters cannot be written as JSON: {error}; hold such things in a closure"
        raise StepRefused(reason) from error


def returned_type(function: Callable[..., Any]) -> Any:
    """What a function is annotated to return; Any where that cannot be had."""
    try:
        hint = typing.get_type_hints(getattr(function, "func", function), include_extras=True).get("return")
    except (TypeError, NameError, AttributeError):
        return Any
    return Any if hint is None else hint


def as_returned(content: bytes | msgspec.Raw, function: Callable[..., Any]) -> Any:
    """A recorded value as the function returns it: converted where its annotation says to what."""
    kind = returned_type(function)
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.ValidationError:
        return msgspec.json.decode(content)
    except TypeError:  # an annotation that JSON cannot be read as
        return msgspec.json.decode(content)


class Journal:
    """What one run notes, and what was recorded before it. `blocking` where its task is a plain function."""

    def __init__(self, run: Run, clock: Clock) -> None:
        self._run = run
        self.lease = run.lease
        self.redactor = run.line.redactor
        self.now_us = clock.mono_us
        self.blocking = not run.task.is_async
        self._next = 0
        self._undo: dict[int, tuple[Callable[[Any], Any] | None, Any]] = {}
        self.recorded: Sequence[StepSeen] = ()
        self.recording: Recording | None = None
        self._calls = run.lease.tool_calls
        self.outbox: deque[Entry] = deque()
        self.stored = 0
        """How many notes of this lease the log has."""

        self.sending = False

    # --- notes ------------------------------------------------------------------------------------------

    def put(self, remark: AnyRemark, answered: Future[None] | None = None) -> None:
        """Notes something; it is sent soon, in its order."""
        self.outbox.append(Entry(remark, answered, len(_encode(remark)) + 100))
        self._run.line.outbox.put(self._run)

    async def _store(self, remark: AnyRemark) -> None:
        """Notes something and waits until it is in the log. Raises what the task shall end with."""
        answered: Future[None] = Future()
        answered.set_running_or_notify_cancel()  # one who no longer waits does not take the note back
        self.put(remark, answered)
        await self._answer(answered)

    async def _answer(self, answered: Future[T]) -> T:
        """Waits for the keeper: a plain task blocks its thread."""
        if not self.blocking:
            return await asyncio.wrap_future(answered)
        if self._run.line.outbox.is_here:
            raise StepRefused("a plain task that runs on the worker's own loop cannot take steps")
        answer: T = blocked.get()(answered)
        return answer

    async def errand(self, errand: Errand) -> Any:
        """What the keeper finds out or does for the task."""
        return await self._answer(self._run.line.errands.begin(self._run, errand))

    async def say(self) -> None:
        """Stores what the run says of itself."""
        await self.errand(ToSay())

    def use(self, model: str, input_tokens: int, output_tokens: int) -> None:
        """Notes tokens used, unless a first run has done so."""
        if self.recording is None:
            self.put(TokensUsed(model, input_tokens, output_tokens))

    def denied(self, tool: str) -> str | None:
        """The rule by which a tool must not be called; where there is none, counts the call."""
        rule = None if self.lease.tools is None else self.lease.tools.denies(tool, self._calls)
        self._calls += rule is None
        return rule

    # --- steps ------------------------------------------------------------------------------------------

    @property
    def number(self) -> int:
        """That of the step that the code at hand is part of."""
        number = within.get()
        assert number is not None
        return number

    @property
    def known_seq(self) -> int | None:
        """The record of the newest intention of the next step; None where it was never begun."""
        return self.recorded[self._next].seq if self._next < len(self.recorded) else None

    @property
    def is_answered(self) -> bool:
        """Whether the task only comes again to what was before: it waits for no time."""
        return self.recording is not None or self.lease.compensates

    async def step(
        self,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        policy: StepPolicy,
    ) -> Any:
        """The answer of the task's next step: from the record, or by running it."""
        if within.get() is not None:
            raise StepRefused(f"step {name!r} begins within step {within.get()}; steps follow one another")
        if not 1 <= len(name) <= NAME_MAX_CHARS:
            raise StepRefused(f"a step's name has {len(name)} characters; give 1 to {NAME_MAX_CHARS}")
        self._next += 1
        number = self._next
        call = _Call(number, name, function, args, kwargs, policy)
        params = digest_of([args, kwargs], f"step {name!r}", self.lease.digest_key, self.redactor)
        if self.recording is not None:
            return self._reproduced(call, params)
        known = self.recorded[number - 1] if number <= len(self.recorded) else None
        again: OnUnknown | None = None
        if known is None:
            self._stop_at_the_end()
        else:
            answer, again = await self._known(call, known, params)
            if again is None and answer is not _RUN:
                return self._answered(call, known, answer)
        return self._answered(call, known, await self._perform(call, params, again))

    async def _known(self, call: _Call, known: StepSeen, params: str) -> tuple[Any, OnUnknown | None]:
        """The answer of a recorded step, or `_RUN` and by what it runs again."""
        if known.name != call.name:
            raise StepRefused(
                f"step {call.number} was {known.name!r} in attempt {known.attempt} and is {call.name!r} now; "
                "steps keep their names and their order between attempts"
            )
        if known.params != params and known.state is not StepState.FAILED:
            told = "job %s: step %d, %r, was recorded with other parameters: digest %s, and now %s"
            log.warning(told, self.lease.id, call.number, call.name, known.params[:12], params[:12])
        if known.state is StepState.DONE:
            return as_returned(known.result, call.function), None
        undoing = self.lease.compensates
        if known.state is StepState.FAILED and (known.passed or undoing):
            raise step_failed(known.name, known.type, known.text, known.class_)
        if known.state is StepState.COMPENSATED and undoing:
            return as_returned(known.result, call.function), None
        if known.state is StepState.INTENDED:
            return await self._settle(call, known)
        return _RUN, None

    async def _settle(self, call: _Call, known: StepSeen) -> tuple[Any, OnUnknown | None]:
        """What becomes of a step whose outcome is unknown: the policy that it was begun under decides."""
        why = known.on_unknown
        if why is OnUnknown.ASK:
            said = self._word(known)
            if said is None:
                raise Sleep("suspend", reason="approval", step=call.number)
            if said.get("done"):
                result = _encode(said.get("result"))
                await self._store(StepResult(call.number, msgspec.Raw(result), by=StepBy.TOLD))
                return as_returned(result, call.function), None
        elif why is OnUnknown.PROBE:
            probe = _given(call.policy.probe, call, "probe")
            try:
                found = await self._run_user(call, probe, *call.args, **call.kwargs)
            except (WaitTimedOut, ChildFailed) as error:
                fault = StepFault(call.number, class_=error.class_, type=error.type, text=error.text)
                await self._store(replace(fault, by=StepBy.PROBED))
                raise
            if found is not NotDone:
                result = self._written(call, found)
                await self._store(StepResult(call.number, msgspec.Raw(result), by=StepBy.PROBED))
                return as_returned(result, call.function), None
        elif why is OnUnknown.COMPENSATE and not self.lease.compensates:
            await self._run_user(call, _given(call.policy.compensate, call, "compensate"), None)
            await self._store(StepUndone(call.number))
        elif why is OnUnknown.COMPENSATE:
            return None, None
        if self.lease.compensates and why is not OnUnknown.REPEAT:
            self._undo[call.number] = (None, None)  # nothing was done
            return None, None
        return _RUN, why

    def _word(self, known: StepSeen) -> dict[str, Any] | None:
        """What a person has said about a step since it was begun."""
        for came in reversed(self.lease.signals):
            if came.name == WaitReason.APPROVAL and came.seq > known.seq:
                said: dict[str, Any] = msgspec.json.decode(came.data)
                return said
        return None

    async def _perform(self, call: _Call, params: str, again: OnUnknown | None) -> Any:
        """Runs a step between its intention and its result."""
        policy = call.policy
        compensable = policy.compensate is not None
        self._run.check()
        await self._store(StepIntent(call.number, call.name, params, policy.unknown, compensable, again))
        if self._run.stop is not None:
            self.put(StepFault(call.number, class_=ErrorClass.CANCELLED, type="NotStarted"))
        self._run.check()
        began_us = self.now_us()
        try:
            value = await self._run_user(call, call.function, *call.args, **call.kwargs)
        except OutcomeUnknown:
            raise
        except Exception as error:
            if self._run.stop is not None:
                raise  # interrupted: what it did is not known
            fault = fault_of(error, None, self.redactor.text)
            await self._store(
                StepFault(
                    call.number,
                    class_=fault.class_,
                    type=fault.type,
                    text=fault.text,
                    run_ms=self._since_ms(began_us),
                )
            )
            if steers(error):
                raise
            if isinstance(error, WaitTimedOut | ChildFailed):
                raise
            raise StepFailed(call.name, fault.type, fault.text, fault.class_) from error
        result = self._written(call, value)
        await self._store(StepResult(call.number, msgspec.Raw(result), self._since_ms(began_us)))
        return as_returned(result, call.function)

    def _since_ms(self, began_us: int) -> int:
        return max(0, self.now_us() - began_us) // _MS

    def _written(self, call: _Call, value: Any) -> bytes:
        """A result as it is recorded. It was done: where it cannot be, the job must not go on as if not."""
        try:
            result = _encode(value)
        except (TypeError, ValueError, RecursionError, OverflowError) as error:
            reason = f"step {call.name!r} was done, but its result cannot be written as JSON: {error}"
            raise StepRefused(reason) from error
        if len(result) > INLINE_MAX_BYTES:
            reason = (
                f"step {call.name!r} was done, but its result has {len(result)} bytes; at most "
                f"{INLINE_MAX_BYTES} are recorded: return a reference to it"
            )
            raise StepRefused(reason)
        return result

    async def _run_user(self, call: _Call, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Calls a function of the user's as part of a step."""
        within.set(call.number)
        try:
            value = function(*args, **kwargs)
            if not inspect.isawaitable(value):
                return value
            if self.blocking:
                if inspect.iscoroutine(value):
                    value.close()
                raise StepRefused(f"step {call.name!r}: a plain task's steps are plain functions, too")
            return await value
        finally:
            within.set(None)

    # --- undoing ----------------------------------------------------------------------------------------

    @property
    def _owed(self) -> list[int]:
        """The steps that were to be undone when this lease began, last first."""
        open_ = (StepState.INTENDED, StepState.DONE)
        count = len(self.recorded)
        return [
            number
            for number in range(count, 0, -1)
            if (step := self.recorded[number - 1]).compensable and step.state in open_
        ]

    def _stop_at_the_end(self) -> None:
        if self.lease.compensates:
            raise Rewind

    def _answered(self, call: _Call, known: StepSeen | None, answer: Any) -> Any:
        """Hands an answer to the task; where the job is dying, notes how it is undone, or ends the task."""
        if not self.lease.compensates:
            return answer
        owed = self._owed
        if call.number in owed:
            compensate = _given(call.policy.compensate, call, "compensate")
            self._undo.setdefault(call.number, (compensate, answer))
        if not owed or call.number >= owed[0]:
            raise Rewind
        return answer

    async def rewind(self, error: Exception | None) -> None:
        """Undoes what the steps did, last first. `error` is what the task ended with before it got there."""
        for number in self._owed:
            step = self.recorded[number - 1]
            if number not in self._undo:
                reason = (
                    f"step {number}, {step.name!r}, is to be undone, but the task did not come to it again"
                )
                raise StepRefused(f"{reason}: {error}" if error else reason) from error
        for number in self._owed:
            compensate, result = self._undo[number]
            began_us = self.now_us()
            if compensate is not None:
                call = _Call(number, self.recorded[number - 1].name, compensate, (), {}, StepPolicy())
                await self._run_user(call, compensate, result)
            await self._store(StepUndone(number, self._since_ms(began_us)))

    # --- reproducing ------------------------------------------------------------------------------------

    def _reproduced(self, call: _Call, params: str) -> Any:
        """The answer of the first run. What is asked differently is noted, to be compared."""
        assert self.recording is not None
        first = self.recording.step(call.number)
        self.put(StepIntent(call.number, call.name, params))
        if first is None or first.name != call.name or first.state is StepState.INTENDED:
            told = "has no such step" if first is None else f"has {first.name!r}, {first.state}"
            raise NotReproducible(
                f"step {call.number} is {call.name!r}; the record of {self.recording.job} {told} there"
            )
        if first.state is StepState.FAILED:
            class_, kind, text = first.class_, first.type, first.text
            assert class_ is not None
            self.put(StepFault(call.number, class_=class_, type=kind, text=text, by=StepBy.RECORDED))
            raise step_failed(call.name, kind, text, class_)
        self.put(StepResult(call.number, first.result, by=StepBy.RECORDED))
        return as_returned(first.result, call.function)


class _Call(NamedTuple):
    """A step as the task asks for it."""

    number: int
    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    policy: StepPolicy


_RUN: Final = object()
"""In place of an answer: the step is to run."""


def _given(function: Callable[..., Any] | None, call: _Call, what: str) -> Callable[..., Any]:
    if function is None:
        raise StepRefused(f"step {call.name!r} was begun with {what}, and has none now")
    return function
