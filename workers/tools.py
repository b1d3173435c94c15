"""Tools: functions of which every call is governed by the queue's policy, and recorded."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable
from typing import Any, Final, Generic, ParamSpec, TypeVar, cast, overload

import msgspec

from writ.schemas.bounds import INLINE_MAX_BYTES, NAME_MAX_CHARS
from writ.schemas.notes import ToolCall, text_of
from writ.schemas.policy import ANY_TOOL
from writ.schemas.sealed import unseal
from writ.schemas.steps import StepBy, ToolOutcome
from writ.schemas.submits import content_fault

from .errors import TaskError
from .faults import fault_of, steers
from .journal import Journal, as_returned, digest_of, running, within
from .steps import NotReproducible, ToolDenied, ToolFailed

P = ParamSpec("P")
R = TypeVar("R")
REDACTED: Final = "[redacted]"
_PARAMS_MAX_BYTES: Final = 64 * 1024
_KEPT_MAX_BYTES: Final = INLINE_MAX_BYTES - _PARAMS_MAX_BYTES
_US: Final = 1_000
_encode = msgspec.json.Encoder().encode


class Tool(Generic[P, R]):
    """A function whose calls, from a task that a worker runs, are allowed or denied, and recorded.

    What such a call returns is what was recorded: the answer as JSON, converted to the annotated type. Called
    from elsewhere it is the function. What it raises reaches the task as ToolFailed.
    """

    def __init__(
        self, function: Callable[P, R], name: str | None, version: str | None, redact: Iterable[str]
    ) -> None:
        self.function = function
        self.name = name if name is not None else getattr(function, "__name__", "")
        if not 1 <= len(self.name) <= NAME_MAX_CHARS:
            raise TaskError(f"tool name {self.name!r} is not allowed: give 1 to {NAME_MAX_CHARS} characters")
        self._signature = inspect.signature(function)
        described = f"{self.name}{self._signature}".encode()
        self.version = version if version is not None else hashlib.sha256(described).hexdigest()
        self._redact = frozenset(redact)
        unknown = self._redact - set(self._signature.parameters)
        if unknown:
            raise TaskError(f"tool {self.name}: redact names {sorted(unknown)}, which are no parameters")
        self.is_async = inspect.iscoroutinefunction(function)
        self.__doc__ = function.__doc__
        self.__wrapped__ = function

    def __repr__(self) -> str:
        return f"<tool {self.name}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        run = running.get()
        if run is None:
            return self.function(*args, **kwargs)
        call = _Call(cast("Tool[..., Any]", self), run.journal, args, kwargs)
        if self.is_async:
            return cast("R", call.wait())
        return cast("R", call.make())

    def shown(self, values: dict[str, Any], redacts: Callable[[str], bool]) -> msgspec.Raw:
        """The parameters as they are recorded."""
        kept = {n: REDACTED if n in self._redact or redacts(n) else value for n, value in values.items()}
        content = _encode(kept)
        if len(content) > _PARAMS_MAX_BYTES:
            content = _encode(f"[left out: {len(content)} bytes]")
        return msgspec.Raw(content)

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The parameters by name, defaults included. Raises TypeError for a call that does not fit."""
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return dict(bound.arguments)


class _Call:
    """One call: what is known of it before, and what is noted after."""

    def __init__(
        self, tool: Tool[..., Any], journal: Journal, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._tool = tool
        self._journal = journal
        self._args, self._kwargs = args, kwargs
        values = tool.bind(args, kwargs)
        lease = journal.lease
        self._digest = digest_of(values, f"tool {tool.name}", lease.digest_key, journal.redactor)
        policy = lease.tools or ANY_TOOL
        self._params = tool.shown(values, policy.redacts)
        self._policy = lease.policy
        self._step = within.get()
        self._began_us = journal.now_us()

    def make(self) -> Any:
        known = self._before()
        if known is not _CALL:
            return known
        try:
            value = self._tool.function(*self._args, **self._kwargs)
        except BaseException as error:
            raise self._raised(error) from error
        return self._returned(value)

    async def wait(self) -> Any:
        known = self._before()
        if known is not _CALL:
            return known
        try:
            value = await self._tool.function(*self._args, **self._kwargs)
        except BaseException as error:
            raise self._raised(error) from error
        return self._returned(value)

    def _before(self) -> Any:
        """The answer of the first run in a reproduction, or `_CALL`. Raises ToolDenied."""
        tool, journal = self._tool, self._journal
        if journal.recording is not None:
            return self._recorded()
        rule = journal.denied(tool.name)
        if rule is not None:
            self._note(ToolOutcome.DENIED, rule=rule)
            raise ToolDenied(f"tool {tool.name} is denied by version {self._policy} of the policy: {rule}")
        return _CALL

    def _raised(self, error: BaseException) -> BaseException:
        """Notes a failure; what the task hears of it."""
        fault = fault_of(error, None, self._journal.redactor.text)
        self._note(ToolOutcome.FAILED, class_=fault.class_, type=fault.type, text=fault.text)
        if steers(error):
            return error
        return ToolFailed(self._tool.name, fault.type, fault.text, fault.class_)

    def _returned(self, value: Any) -> Any:
        """Notes the answer and hands it on, as it was recorded; what JSON cannot hold goes on as it is."""
        try:
            content = _encode(value)
        except (TypeError, ValueError, RecursionError, OverflowError):
            content = b""
        if not content or len(content) > _KEPT_MAX_BYTES or content_fault("result", content) is not None:
            self._note(ToolOutcome.DONE)
            return value
        self._note(ToolOutcome.DONE, result=msgspec.Raw(content))
        return as_returned(content, self._tool.function)

    def _recorded(self) -> Any:
        tool, journal = self._tool, self._journal
        assert journal.recording is not None
        first = journal.recording.call(tool.name, self._digest)
        if first is None:
            job = journal.recording.job
            raise NotReproducible(f"tool {tool.name} is called; the record of {job} has no such call left")
        if first.outcome is ToolOutcome.DENIED:
            self._note(first.outcome, rule=first.rule, by=StepBy.RECORDED)
            raise ToolDenied(f"tool {tool.name} was denied: {first.rule}")
        if first.error is not None:
            class_, kind, text = first.error.class_, first.error.type, text_of(first.error)
            self._note(first.outcome, class_=class_, type=kind, text=text, by=StepBy.RECORDED)
            raise ToolFailed(tool.name, kind, text, class_)
        if first.result is None:
            raise NotReproducible(f"the answer of tool {tool.name} was not kept: it was too large")
        content = unseal(first.result)
        self._note(first.outcome, result=msgspec.Raw(content), by=StepBy.RECORDED)
        return as_returned(content, tool.function)

    def _note(self, outcome: ToolOutcome, **more: Any) -> None:
        tool = self._tool
        run_ms = max(0, self._journal.now_us() - self._began_us) // _US
        self._journal.put(
            ToolCall(
                tool.name,
                tool.version,
                self._params,
                self._digest,
                outcome,
                policy=self._policy,
                run_ms=run_ms,
                step=self._step,
                **more,
            )
        )


async def called(
    tool: Tool[..., Any], journal: Journal, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """What a call of a tool gives that is a coroutine function, for one attempt."""
    return await _Call(tool, journal, args, kwargs).wait()


_CALL: Final = object()
"""In place of an answer: the tool is to be called."""


@overload
def tool(function: Callable[P, R], /) -> Tool[P, R]: ...
@overload
def tool(
    *, name: str | None = None, version: str | None = None, redact: Iterable[str] = ()
) -> Callable[[Callable[P, R]], Tool[P, R]]: ...
def tool(
    function: Callable[P, R] | None = None,
    /,
    *,
    name: str | None = None,
    version: str | None = None,
    redact: Iterable[str] = (),
) -> Tool[P, R] | Callable[[Callable[P, R]], Tool[P, R]]:
    """Makes a function a governed tool: `@tool`, or `@tool(name="mail.send", redact=["password"])`.

    Each call by a task is recorded: name, `version` (the signature's digest if not given), parameters with
    the values of those in `redact` left out, the digest of all, duration, outcome and answer. The queue's
    policy may deny it before it runs: the call raises ToolDenied, which ends the job as `policy` unless the
    task catches it. Raises TaskError for a tool that cannot be recorded.
    """
    if function is not None:
        return Tool(function, name, version, redact)
    return lambda f: Tool(f, name, version, redact)
