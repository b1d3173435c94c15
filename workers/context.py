"""What a task may know of the attempt it is."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar, overload

from .steps import ASK, StepPolicy, StepRefused, drive

if TYPE_CHECKING:
    from .run import Run

T = TypeVar("T")
_log = logging.getLogger("writ.task")


class Context:
    """One attempt at a job, for the task that runs it. Annotate a parameter with this class to get it.

    Safe to use from any thread.
    """

    __slots__ = ("_log", "_run", "tenant")

    def __init__(self, run: Run, tenant: str) -> None:
        self._run = run
        self._log: logging.LoggerAdapter[logging.Logger] | None = None
        self.tenant = tenant

    @property
    def id(self) -> str:
        """The job's id. In a reproduction this, the attempt and the token are those of the first run."""
        return self._run.told.id

    @property
    def queue(self) -> str:
        return self._run.queue

    @property
    def task(self) -> str:
        """The task's name."""
        return self._run.lease.task

    @property
    def attempt(self) -> int:
        """1 for the first try of a round."""
        return self._run.told.attempt

    @property
    def fencing_token(self) -> int:
        """Grows with every lease: a resource that refuses smaller ones is safe from a stale worker."""
        return self._run.told.token

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt at this job: give it to outside services that can tell repetitions."""
        return f"{self.tenant}/{self._run.queue}/{self.id}"

    @overload
    async def step(
        self,
        name: str,
        function: Callable[..., Awaitable[T]],
        /,
        *args: Any,
        policy: StepPolicy = ASK,
        **kwargs: Any,
    ) -> T: ...
    @overload
    async def step(
        self, name: str, function: Callable[..., T], /, *args: Any, policy: StepPolicy = ASK, **kwargs: Any
    ) -> T: ...
    async def step(
        self, name: str, function: Callable[..., Any], /, *args: Any, policy: StepPolicy = ASK, **kwargs: Any
    ) -> Any:
        """Calls a function once for the job, however often it is tried: a recorded step.

        Its intention, with the digest of the parameters, is in the log before the function runs, and its
        result, at most 256 KiB of JSON, before this returns it: converted to the annotated type, as a later
        attempt gets it from the record. What it raises is recorded, too, and raised as StepFailed; a later
        attempt runs the step again, unless the task had gone on to another one.

        Where an attempt ends within a step its outcome is unknown, and `policy` decides. Steps are told by
        their order: one that has another name than in the attempt before fails the job with both names.
        """
        return await self._run.journal.step(name, function, args, kwargs, policy)

    def step_sync(
        self, name: str, function: Callable[..., T], /, *args: Any, policy: StepPolicy = ASK, **kwargs: Any
    ) -> T:
        """`step` for a task that is a plain function."""
        if self._run.task.is_async:
            raise StepRefused(f"step {name!r}: the task is a coroutine; write await ctx.step(...)")
        answer: T = drive(self._run.journal.step(name, function, args, kwargs, policy))
        return answer

    def usage(self, *, model: str, input_tokens: int = 0, output_tokens: int = 0) -> None:
        """Records tokens of a model that were used, with their cost by the price table (`writ price`)."""
        self._run.journal.use(model, input_tokens, output_tokens)

    @property
    def cancelled(self) -> bool:
        """Whether the work shall stop: cancelled, lease lost, time over, or the end of a drain.

        A coroutine is cancelled besides; a plain function has to look here, or call `raise_if_cancelled`.
        """
        return self._run.stop is not None

    def raise_if_cancelled(self) -> None:
        """Raises Cancelled where the work shall stop."""
        self._run.check()

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """Logger `writ.task`, with queue, id and attempt ahead of each message and in the record's `writ`."""
        if self._log is None:
            where = {"queue": self.queue, "id": self.id, "task": self.task, "attempt": self.attempt}
            self._log = _Adapter(_log, where)
        return self._log


class _Adapter(logging.LoggerAdapter[logging.Logger]):
    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        where: dict[str, Any] = dict(self.extra or {})
        kwargs["extra"] = {**(kwargs.get("extra") or {}), "writ": where}
        return f"[{where['queue']}/{where['id']} attempt {where['attempt']}] {msg}", kwargs
