"""The client for programs without an event loop."""

from __future__ import annotations

import asyncio
import datetime
import threading
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from typing import Any, Self, TypeVar

from writ.schemas.commands import SubmitJob
from writ.schemas.lifecycle import State
from writ.schemas.policy import Retry
from writ.schemas.queries import JobsPage, JobView, NodeStatus, RecordsPage

from .client import Client, JobHandle
from .connect import Target

T = TypeVar("T")


class SyncClient:
    """`Client` with blocking calls, run on a thread of its own; safe to use from several threads.

    Connects at once, so that it raises Unreachable here. Use it with `with`, or `close` it. Arguments, units
    and errors are those of Client's methods.
    """

    def __init__(self, target: Target | str | None = None, *, name: str = "writ-client") -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="writ-client", daemon=True)
        self._thread.start()
        try:
            self._client = self._run(self._open(target, name))
        except BaseException:
            self._end()
            raise

    @staticmethod
    async def _open(target: Target | str | None, name: str) -> Client:
        return await Client(target, name=name).__aenter__()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def target(self) -> Target:
        return self._client.target

    def close(self) -> None:
        """Ends the connection and the thread."""
        if not self._loop.is_closed():
            self._run(self._client.close())
            self._end()

    def submit(
        self,
        queue: str,
        task: str,
        input: object = None,
        *,
        id: str | None = None,
        priority: int | None = None,
        delay_s: float | None = None,
        not_before: datetime.datetime | None = None,
        retry: Retry | None = None,
        lease_s: float | None = None,
        attempt_timeout_s: float | None = None,
        job_timeout_s: float | None = None,
        expires_in_s: float | None = None,
        timeout_s: float = 30.0,
    ) -> JobHandle:
        """See `Client.submit`."""
        return self._run(
            self._client.submit(
                queue,
                task,
                input,
                id=id,
                priority=priority,
                delay_s=delay_s,
                not_before=not_before,
                retry=retry,
                lease_s=lease_s,
                attempt_timeout_s=attempt_timeout_s,
                job_timeout_s=job_timeout_s,
                expires_in_s=expires_in_s,
                timeout_s=timeout_s,
            )
        )

    def submit_many(
        self, queue: str, jobs: Iterable[SubmitJob | Mapping[str, Any]], *, timeout_s: float = 60.0
    ) -> list[JobHandle]:
        """See `Client.submit_many`."""
        return self._run(self._client.submit_many(queue, jobs, timeout_s=timeout_s))

    def result(
        self, job: JobHandle | str, *, queue: str | None = None, timeout_s: float | None = None
    ) -> Any:
        """See `Client.result`."""
        return self._run(self._client.result(job, queue=queue, timeout_s=timeout_s))

    def job(self, id: str, queue: str | None = None, *, timeout_s: float = 10.0) -> JobView:
        """See `Client.job`."""
        return self._run(self._client.job(id, queue, timeout_s=timeout_s))

    def jobs(
        self,
        *,
        states: Sequence[State | str] = (),
        queue: str | None = None,
        task: str | None = None,
        limit: int = 100,
        cursor: str | None = None,
        timeout_s: float = 10.0,
    ) -> JobsPage:
        """See `Client.jobs`."""
        return self._run(
            self._client.jobs(
                states=states, queue=queue, task=task, limit=limit, cursor=cursor, timeout_s=timeout_s
            )
        )

    def records(
        self,
        id: str,
        queue: str,
        *,
        after: int = 0,
        limit: int = 100,
        context: bool = False,
        timeout_s: float = 10.0,
    ) -> RecordsPage:
        """See `Client.records`."""
        return self._run(
            self._client.records(id, queue, after=after, limit=limit, context=context, timeout_s=timeout_s)
        )

    def cancel(self, id: str, queue: str, reason: str = "requested", *, timeout_s: float = 10.0) -> None:
        """See `Client.cancel`."""
        self._run(self._client.cancel(id, queue, reason, timeout_s=timeout_s))

    def redrive(self, id: str, queue: str, reason: str = "requested", *, timeout_s: float = 10.0) -> None:
        """See `Client.redrive`."""
        self._run(self._client.redrive(id, queue, reason, timeout_s=timeout_s))

    def status(self, *, timeout_s: float = 10.0) -> NodeStatus:
        """See `Client.status`."""
        return self._run(self._client.status(timeout_s=timeout_s))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop.is_closed():
            work.close()
            raise RuntimeError("this SyncClient is closed")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
