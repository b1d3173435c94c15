"""One attempt in a worker's hands: from its lease to what is reported of it."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import msgspec

from writ.broker.clock import Clock
from writ.broker.coding import encoded_by
from writ.broker.tracing import within
from writ.schemas.bounds import INLINE_MAX_BYTES, SECOND_US, SLEW
from writ.schemas.commands import Lease
from writ.schemas.errors import ErrorClass
from writ.schemas.policy import Isolation

from .assets import Assets
from .context import Context
from .errors import Cancelled, FailJob
from .faults import GRACE_S, Fault, Stop, fault_of
from .journal import Journal, running
from .saying import Said
from .steps import Rewind, Sleep, drive
from .stores import Files, Memory
from .tasks import InputMismatch, OutputMismatch, Task
from .waits import Waits

if TYPE_CHECKING:
    from .line import Line
    from .recording import Recording
    from .spans import Spans

_MS: Final = 1_000
_encode = msgspec.json.Encoder().encode


class Run:
    """A lease being worked on. The keeper owns it; the hands fill in the outcome, then give it back.

    `stop` is set by the keeper and read by all, and `heard` are the signals that came, oldest first.
    `taken_us` is when the lease came, `began_us` when user code did, by the worker's own monotonic clock.
    `until_us` is when the work must be told to stop, where the lease is strict and nothing renews it.
    `isolation` is the level that it came to run at. With `sleep` the job waits, and nothing else is reported.
    `spans` are OpenTelemetry's, where that is used.
    """

    __slots__ = (
        "_assets",
        "_clock",
        "_journal",
        "_said",
        "_waits",
        "began_us",
        "ended",
        "fault",
        "handle",
        "heard",
        "isolation",
        "lease",
        "line",
        "output",
        "run_ms",
        "sleep",
        "spans",
        "start_sent",
        "stop",
        "taken_us",
        "task",
        "until_us",
    )

    def __init__(
        self, lease: Lease, line: Line, task: Task[..., Any], clock: Clock, spans: Spans | None = None
    ) -> None:
        self.lease = lease
        self.spans = spans
        self.line = line
        self.task = task
        self._clock = clock
        self._journal: Journal | None = None
        self._waits: Waits | None = None
        self._assets: Assets | None = None
        self._said: Said | None = None
        self.heard = list(lease.signals)
        self.taken_us = clock.mono_us()
        self.began_us = 0
        self.stop: Stop | None = None
        self.handle: asyncio.Task[None] | None = None
        self.isolation = Isolation.NONE
        self.output = b"null"
        self.fault: Fault | None = None
        self.sleep: Sleep | None = None
        self.run_ms = 0
        self.ended = False
        self.start_sent = False
        self.until_us: int | None = None

    @property
    def queue(self) -> str:
        return self.line.queue

    @property
    def where(self) -> dict[str, Any]:
        """What a line in the log tells of it, in the record's `writ`."""
        told = self.told
        where: dict[str, Any] = {
            "tenant": self.line.tenant,
            "queue": self.queue,
            "id": told.id,
            "task": self.lease.task,
            "attempt": told.attempt,
        }
        if self.lease.trace is not None:
            where["trace"] = self.lease.trace.split("-")[1]
        return where

    @property
    def journal(self) -> Journal:
        """Made at its first use: most runs note nothing."""
        if self._journal is None:
            self._journal = Journal(self, self._clock)
        return self._journal

    @property
    def waits(self) -> Waits:
        """Made at its first use, as the journal."""
        if self._waits is None:
            self._waits = Waits(self, self.journal, self._clock)
        return self._waits

    @property
    def assets(self) -> Assets:
        """Made at its first use, as the journal."""
        if self._assets is None:
            self._assets = Assets(self.journal)
        return self._assets

    @property
    def files(self) -> Files:
        return Files(self)

    @property
    def memory(self) -> Memory:
        return Memory(self)

    @property
    def said(self) -> Said:
        """What it says of itself, made at its first use."""
        if self._said is None:
            self._said = Said(self.lease.progress, self.lease.attempt_timeout_s)
        return self._said

    @property
    def has_news(self) -> bool:
        """Whether it has said something that is not on its way."""
        return self._said is not None and self._said.fresh

    @property
    def told(self) -> Lease | Recording:
        """What the task is told that it is: in a reproduction, what it was in the first run."""
        recording = None if self._journal is None else self._journal.recording
        return self.lease if recording is None else recording

    @property
    def unsent(self) -> bool:
        """Whether something noted is not in the log yet."""
        journal = self._journal
        return journal is not None and bool(journal.outbox or journal.sending)

    @property
    def grace_s(self) -> float:
        """From being told to stop to SIGTERM, and on to SIGKILL: less where a strict lease is short."""
        return min(GRACE_S, self.lease.lease_s / 12) if self.lease.strict else GRACE_S

    def granted(self, asked_us: int, parked_s: float = 0.0) -> None:
        """The lease was granted or renewed, `parked_s` after that was asked for at the earliest."""
        if self.lease.strict:
            lives_s = (parked_s + self.lease.lease_s) * SLEW / (SLEW + 1)  # log time may be that much faster
            self.until_us = asked_us + round((lives_s - 2 * self.grace_s) * SECOND_US)

    def lapses(self, now_us: int) -> bool:
        """Whether the work must be told to stop, as the lease may be over soon."""
        return self.until_us is not None and now_us >= self.until_us

    def check(self) -> None:
        """Raises Cancelled where the work shall stop."""
        if self.stop is not None:
            raise Cancelled(self.stop.value)

    def arguments(self) -> dict[str, Any]:
        """The arguments of the call. Raises InputMismatch."""
        codec = encoded_by(self.lease.input)
        if codec is not None:
            reason = f"the input is encoded by codec {codec!r}, and this worker cannot decode it"
            raise InputMismatch(f"{reason}: give it the codec, with its key")
        arguments = self.task.arguments(self.lease.input)
        name = self.task.context_name
        if name is not None:
            arguments[name] = Context(self, self.line.tenant)
        return arguments

    async def work(self) -> Any:
        """Runs a coroutine task; one whose job is dying, up to the last of its steps that is undone."""
        with self._running():
            if not self.lease.compensates:
                return await self._awaited()
            error: Exception | None = None
            try:
                await self._awaited()
            except Rewind:
                pass
            except Exception as raised:
                error = raised
            return await self.journal.rewind(error)

    def work_plainly(self) -> Any:
        """The same of a plain function."""
        with self._running():
            if not self.lease.compensates:
                return self._called()
            error: Exception | None = None
            try:
                self._called()
            except Rewind:
                pass
            except Exception as raised:
                error = raised
            return drive(self.journal.rewind(error))

    async def _awaited(self) -> Any:
        """The task's function within what stands around it."""
        if not self.task.around:
            return await self.task.function(**self.arguments())
        async with AsyncExitStack() as stack:
            for each in self.task.around:
                manager = each(Context(self, self.line.tenant))
                if isinstance(manager, AbstractAsyncContextManager):
                    await stack.enter_async_context(manager)
                else:
                    stack.enter_context(manager)
            return await self.task.function(**self.arguments())

    def _called(self) -> Any:
        """The same of a plain function."""
        if not self.task.around:
            return self.task.function(**self.arguments())
        with ExitStack() as stack:
            for each in self.task.around:
                manager = each(Context(self, self.line.tenant))
                if isinstance(manager, AbstractAsyncContextManager):
                    raise FailJob(f"{each!r} is asynchronous; {self.task!r} is a plain function")
                stack.enter_context(manager)
            return self.task.function(**self.arguments())

    @contextmanager
    def _running(self) -> Generator[None, None, None]:
        """Tells tools, which may be called without a context, whose attempt this is."""
        running.set(self)
        try:
            if self.spans is None:
                yield
            else:
                with within(self.spans.span):
                    yield
        finally:
            running.set(None)  # no reset: a coroutine may be closed in another context than it began in

    def returned(self, value: Any, now_us: int) -> None:
        """The function came back with a value."""
        self.run_ms = max(0, now_us - self.began_us) // _MS
        try:
            output = _encode(value)
            if not self.lease.compensates:
                self.task.check_output(output)
        except OutputMismatch as error:
            self.fault = Fault(ErrorClass.APPLICATION, "OutputMismatch", str(error))
            return
        except (TypeError, ValueError, RecursionError, OverflowError) as error:
            self.fault = Fault(
                ErrorClass.APPLICATION,
                "OutputNotSerializable",
                f"the output cannot be written as JSON: {error}",
            )
            return
        if len(output) > INLINE_MAX_BYTES:
            reason = f"output has {len(output)} bytes; at most {INLINE_MAX_BYTES} are carried inline"
            self.fault = Fault(ErrorClass.APPLICATION, "OutputTooLarge", reason)
            return
        self.output = output

    def raised(self, error: BaseException, now_us: int) -> None:
        """The function raised."""
        self.run_ms = max(0, now_us - self.began_us) // _MS if self.began_us else 0
        self.fault = fault_of(error, self.stop, self.line.redactor.text)
        if self.stop is None:
            self.sleep = _sleep_in(error)


def _sleep_in(error: BaseException) -> Sleep | None:
    """The wait that ended a task, also one within a task group."""
    if isinstance(error, BaseExceptionGroup):
        found = [_sleep_in(each) for each in cast("BaseExceptionGroup[BaseException]", error).exceptions]
        return next((each for each in found if each is not None), None)
    return error if isinstance(error, Sleep) else None
