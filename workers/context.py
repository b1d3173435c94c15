"""What a task may know of the attempt it is."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, overload

import msgspec

from .steps import ASK, Sleep, StepPolicy, StepRefused, drive

if TYPE_CHECKING:
    from .run import Run
    from .stores import Files, Memory

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
    def traceparent(self) -> str | None:
        """The W3C trace context of this attempt, for the header `traceparent` of what it calls; None where
        neither the submitter nor the worker traces.
        """
        return self._run.lease.trace

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

    # --- waiting ----------------------------------------------------------------------------------------

    async def wait_for_signal(self, name: str, *, timeout_s: float | None = None) -> Any:
        """The data of the next signal of this name (`writ signal JOB NAME DATA`), or of one before.

        As all waits, it gives lease and slot back: where nothing has come the attempt ends here, without
        being counted as a failure, and the next one begins the task anew and comes, by its recorded steps,
        to the same place. So what has an effect stands in a step, and `except BaseException` must let the
        end of the attempt pass. Raises WaitTimedOut after `timeout_s` seconds.
        """
        return await self._run.waits.for_signal(name, timeout_s)

    async def request_approval(self, asks: str, *, timeout_s: float | None = None) -> Any:
        """Waits for a person's yes (`writ approve JOB`), and returns the data that came with it.

        `asks` says in at most 200 characters what is to be approved; it stands in the log, and is never
        sealed. A no (`writ reject JOB`) ends the job. Raises WaitTimedOut.
        """
        return await self._run.waits.for_approval(asks, timeout_s)

    async def sleep(self, seconds: float) -> None:
        """Goes on so many seconds after an attempt first came here. `job_timeout_s` runs on."""
        await self._run.waits.for_seconds(seconds)

    async def sleep_until(self, when: datetime.datetime) -> None:
        """Goes on at a time, which has a time zone. `job_timeout_s` runs on."""
        await self._run.waits.until(when)

    async def run(self, task: Any, input: object = None, *, queue: str | None = None, **options: Any) -> Any:
        """The output of a child: a job of another task (or its name), started once for this job.

        It is of this job's queue unless `queue` names another. `options` are those of `Client.submit`; with
        this job's end, other than by completion, the child is cancelled, unless `on_parent_end` is
        "abandon". A child that ends otherwise than completed raises ChildFailed; a later attempt then starts
        another one.
        """
        (output,) = await self.run_all([{"task": task, "input": input, "queue": queue, **options}])
        return output

    async def run_all(self, calls: Iterable[Mapping[str, Any]]) -> list[Any]:
        """The outputs of several children that run beside each other: mappings as the arguments of `run`.

        Together they are one step: at most 256 KiB of outputs. Raises ChildFailed when all have ended and
        one of them otherwise than completed; a later attempt starts only those again.
        """
        return await self._run.waits.for_children(calls)

    def snooze(self, delay_s: float) -> NoReturn:
        """Ends the attempt; the task begins anew in `delay_s` seconds, which is no failure."""
        if not delay_s >= 0:
            raise StepRefused(f"snooze takes seconds of 0 or more, not {delay_s!r}")
        raise Sleep("snooze", delay_s=delay_s)

    def wait_for_signal_sync(self, name: str, *, timeout_s: float | None = None) -> Any:
        """`wait_for_signal` for a task that is a plain function."""
        return self._plainly(self.wait_for_signal(name, timeout_s=timeout_s))

    def request_approval_sync(self, asks: str, *, timeout_s: float | None = None) -> Any:
        """`request_approval` for a task that is a plain function."""
        return self._plainly(self.request_approval(asks, timeout_s=timeout_s))

    def sleep_sync(self, seconds: float) -> None:
        """`sleep` for a task that is a plain function."""
        self._plainly(self.sleep(seconds))

    def sleep_until_sync(self, when: datetime.datetime) -> None:
        """`sleep_until` for a task that is a plain function."""
        self._plainly(self.sleep_until(when))

    def run_sync(self, task: Any, input: object = None, *, queue: str | None = None, **options: Any) -> Any:
        """`run` for a task that is a plain function."""
        return self._plainly(self.run(task, input, queue=queue, **options))

    def run_all_sync(self, calls: Iterable[Mapping[str, Any]]) -> list[Any]:
        """`run_all` for a task that is a plain function."""
        return self._plainly(self.run_all(calls))

    def _plainly(self, work: Coroutine[Any, Any, T]) -> T:
        if self._run.task.is_async:
            work.close()
            raise StepRefused("the task is a coroutine: await the method without _sync at its end")
        return drive(work)

    # --- what the tenant has put away ---------------------------------------------------------------------

    async def asset(self, name: str) -> str:
        """The newest value of an asset (`writ asset set NAME`), as text.

        The queue's policy must grant it to the task. The version is recorded, and a reproduction reads the
        same. What an attempt has read stays as it is. Raises StepRefused where it may not be read.
        """
        return (await self._run.assets.read(name, secret=False)).decode()

    async def secret(self, name: str) -> str:
        """The newest value of a secret, as `asset`. It is left out of whatever leaves the worker."""
        return (await self._run.assets.read(name, secret=True)).decode()

    def asset_sync(self, name: str) -> str:
        """`asset` for a task that is a plain function."""
        return self._plainly(self.asset(name))

    def secret_sync(self, name: str) -> str:
        """`secret` for a task that is a plain function."""
        return self._plainly(self.secret(name))

    @property
    def files(self) -> Files:
        """The tenant's files, by what they hold."""
        return self._run.files

    @property
    def memory(self) -> Memory:
        """Values by key that later attempts find; `memory.agent(name)` is an agent's, of all jobs."""
        return self._run.memory

    # --- saying -----------------------------------------------------------------------------------------

    def progress(self, value: object) -> None:
        """Says how far the attempt is, to whoever looks at the job: at most 128 KiB of JSON.

        It is recorded soon: the newest only, at most once a second and 1,000 times in an attempt.
        """
        self._run.said.put("progress", value)

    def heartbeat(self, details: object) -> None:
        """Leaves details for the next attempt, see `details`; recorded as `progress` is.

        The lease needs no heartbeat: the worker renews it by itself.
        """
        self._run.said.put("details", details)

    async def checkpoint(self, details: object) -> None:
        """Leaves details for the next attempt, see `details`, which are in the log when this returns."""
        self._run.said.put("details", details)
        await self._run.journal.say()

    def checkpoint_sync(self, details: object) -> None:
        """`checkpoint` for a task that is a plain function."""
        self._plainly(self.checkpoint(details))

    @property
    def details(self) -> Any:
        """The newest details that an attempt before this one has left; None where there are none."""
        before = self._run.said.before
        return None if before is None else msgspec.json.decode(before)

    # --- the rest ---------------------------------------------------------------------------------------

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
        """Logger `writ.task`, with queue, id and attempt ahead of each message and in the record's `writ`,
        with the tenant, the task and the trace's id.
        """
        if self._log is None:
            self._log = _Adapter(_log, self._run.where)
        return self._log


class _Adapter(logging.LoggerAdapter[logging.Logger]):
    def process(self, msg: Any, kwargs: Any) -> tuple[Any, Any]:
        where: dict[str, Any] = dict(self.extra or {})
        kwargs["extra"] = {**(kwargs.get("extra") or {}), "writ": where}
        return f"[{where['queue']}/{where['id']} attempt {where['attempt']}] {msg}", kwargs
