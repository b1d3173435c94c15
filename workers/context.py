"""What a task may know of the attempt it is."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from .errors import Cancelled

if TYPE_CHECKING:
    from .run import Run

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
        """The job's id."""
        return self._run.lease.id

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
        return self._run.lease.attempt

    @property
    def fencing_token(self) -> int:
        """Grows with every lease: a resource that refuses smaller ones is safe from a stale worker."""
        return self._run.lease.token

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt at this job: give it to outside services that can tell repetitions."""
        return f"{self.tenant}/{self._run.queue}/{self._run.lease.id}"

    @property
    def cancelled(self) -> bool:
        """Whether the work shall stop: cancelled, lease lost, time over, or the end of a drain.

        A coroutine is cancelled besides; a plain function has to look here, or call `raise_if_cancelled`.
        """
        return self._run.stop is not None

    def raise_if_cancelled(self) -> None:
        """Raises Cancelled where the work shall stop."""
        stop = self._run.stop
        if stop is not None:
            raise Cancelled(stop.value)

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
