"""The cases of the worker protocol, each against a real node and a worker that is a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from writ.broker.client import Client
from writ.broker.connect import Target
from writ.broker.errors import JobCancelled, JobFailed, WritError
from writ.broker.results import JobHandle
from writ.node import Node
from writ.schemas.assets import AssetRead
from writ.schemas.codec import decode
from writ.schemas.events import Fact, LeaseExpired, LeaseGranted
from writ.schemas.policy import QueuePolicy, Retry
from writ.schemas.queries import JobView
from writ.schemas.states import State

QUEUE: Final = "conformance"
WITHIN_S: Final = 30.0
_ENDS_WITHIN_S: Final = 40.0
_TWICE: Final = Retry(max_attempts=2, initial_interval_s=0.1)
_ONCE: Final = Retry(max_attempts=1)
_NOTHING: Final[dict[str, Any]] = {}
_INPUTS: Final[tuple[dict[str, Any], ...]] = (
    _NOTHING, {"n": 1}, {"text": "Zürich, 東京, 🙂"}, {"deep": {"list": [1, 2.5, None, True, "x", "", 0]}},
    {"big": 2**53 - 1}, {"long": "x" * 200_000},
)  # fmt: skip


class Verdict(NamedTuple):
    """How a case came out; without `fault` it holds."""

    case: str
    fault: str | None


class Broken(Exception):
    """The worker did something else than the protocol says."""


class Cases:
    """What is tried on a worker; the docstring of each is what must hold."""

    def __init__(self, client: Client, worker: asyncio.subprocess.Process) -> None:
        self._client = client
        self._worker = worker

    async def echo(self) -> None:
        """completes a job with its output as JSON"""
        for given in _INPUTS:
            output = await self._result(await self._submit("conformance.echo", given))
            _need(output == given, f"echo of {str(given)[:80]} came back as {str(output)[:80]}")

    async def fail(self) -> None:
        """reports a failure with class, type and text, and runs the next attempt"""
        job = await self._submit("conformance.fail", {}, retry=_TWICE)
        view = await self._dead(job)
        _need(view.attempt == 2, f"it ended after attempt {view.attempt}, not 2")
        self._error(view, "application", "Planned", "as asked")

    async def refuse(self) -> None:
        """reports a hard stop as class policy, which is not tried again"""
        job = await self._submit("conformance.refuse", {}, retry=_TWICE)
        view = await self._dead(job)
        _need(view.attempt == 1, f"it ended after attempt {view.attempt}, not 1")
        self._error(view, "policy", "Refused", "")

    async def asset(self) -> None:
        """reads a secret that its queue grants, which the log tells, and leaves it out of what it says"""
        value = "conformance " * 3
        policy = QueuePolicy(assets={"conformance-*": ("conformance.asset",)})
        await self._client.set_asset("conformance-key", value, secret=True)
        await self._client.declare_queue(QUEUE, policy)
        job = await self._submit("conformance.asset", {"name": "conformance-key"})
        output = await self._result(job)
        _need(output == {"said": "[redacted]"}, f"it said {str(output)[:80]}")
        reads = [event for event in await self._events(job) if isinstance(event, AssetRead)]
        _need([event.asset for event in reads] == ["conformance-key"], "the log tells of no reading")
        refused = await self._dead(await self._submit("conformance.asset", {"name": "other-key"}))
        _need(refused.error is not None, "it read what the queue does not grant")

    async def renew(self) -> None:
        """renews a lease while a task runs for longer than that"""
        job = await self._submit("conformance.sleep", {"seconds": 4}, lease_s=1.5)
        await self._result(job)
        events = await self._events(job)
        _need(not any(isinstance(event, LeaseExpired) for event in events), "the lease has expired")

    async def cancel(self) -> None:
        """hears of a cancel with its renewal, stops the task, and reports class cancelled"""
        job = await self._running(await self._submit("conformance.sleep", {"seconds": 3_600}, lease_s=3))
        await self._client.cancel(job.id, QUEUE, "conformance")
        try:
            await self._result(job)
        except JobCancelled:
            return
        raise Broken("the cancelled job ended otherwise")

    async def lose(self) -> None:
        """goes on with other work when a lease was lost, whose reports are void"""
        job = await self._running(await self._submit("conformance.sleep", {"seconds": 4}, lease_s=2))
        await self._client.terminate(job.id, QUEUE, "conformance")
        await self.echo()
        view = await self._client.job(job.id, QUEUE)
        _need(view.state is State.CANCELLED, f"the job whose lease was lost is {view.state}")

    async def drain(self) -> None:
        """lets running tasks end at SIGTERM, leaves no lease to expire, and exits with 0"""
        job = await self._running(await self._submit("conformance.sleep", {"seconds": 2}, lease_s=3))
        self._worker.send_signal(signal.SIGTERM)
        try:
            code = await asyncio.wait_for(self._worker.wait(), _ENDS_WITHIN_S)
        except TimeoutError:
            raise Broken(f"it has not ended {_ENDS_WITHIN_S:g} s after SIGTERM") from None
        _need(code == 0, f"its exit code is {code}")
        view = await self._client.job(job.id, QUEUE)
        _need(view.state in (State.COMPLETED, State.PENDING), f"the job that ran is {view.state}")
        _need(view.lease_losses == 0, "a lease was left to expire")

    # --- parts ------------------------------------------------------------------------------------------

    async def _submit(self, task: str, given: Any, **options: Any) -> JobHandle:
        given_options: dict[str, Any] = {"retry": _ONCE, **options}
        return await self._client.submit(QUEUE, task, given, **given_options)

    async def _result(self, job: JobHandle) -> Any:
        try:
            return await self._client.result(job, timeout_s=WITHIN_S)
        except (TimeoutError, JobFailed) as error:
            raise Broken(str(error)) from error

    async def _dead(self, job: JobHandle) -> JobView:
        with suppress(JobFailed):
            await self._client.result(job, timeout_s=WITHIN_S)
            raise Broken("it completed")
        return await self._client.job(job.id, QUEUE)

    async def _running(self, job: JobHandle) -> JobHandle:
        async with asyncio.timeout(WITHIN_S):
            while True:
                if any(isinstance(event, LeaseGranted) for event in await self._events(job)):
                    return job
                await asyncio.sleep(0.1)

    async def _events(self, job: JobHandle) -> list[Fact]:
        page = await self._client.records(job.id, QUEUE)
        return [event for view in page.records for event in decode(bytes(view.record)).events]

    @staticmethod
    def _error(view: JobView, class_: str, type_: str, words: str) -> None:
        error = view.error
        said = "nothing" if error is None else f"class {error.class_}, type {error.type}, text {error.text!r}"
        held = error is not None and (error.class_, error.type) == (class_, type_)
        _need(held and words in str(error.text if error else ""), f"reported is {said[:200]}")


def _need(held: bool, fault: str) -> None:
    if not held:
        raise Broken(fault)


async def check(command: Sequence[str]) -> list[Verdict]:
    """The verdicts on a worker, in the order of the cases. Raises OSError where it cannot be started."""
    with tempfile.TemporaryDirectory(prefix="writ-conformance-") as directory:
        node = await Node.start(Path(directory) / "node")
        try:
            return await _check(node, command)
        finally:
            await node.stop()


async def _check(node: Node, command: Sequence[str]) -> list[Verdict]:
    key = node.broker.key_path("owner")
    env = os.environ | {
        "NATS_URL": node.url,
        "NATS_NKEY": str(key),
        "WRIT_TENANT": "default",
        "WRIT_PRINCIPAL": "owner",
        "WRIT_QUEUE": QUEUE,
    }
    worker = await asyncio.create_subprocess_exec(
        *command, env=env, stdin=asyncio.subprocess.DEVNULL, stdout=sys.stderr
    )
    verdicts: list[Verdict] = []
    try:
        async with Client(Target(node.url, key)) as client:
            cases = Cases(client, worker)
            order: list[Callable[[], Awaitable[None]]] = [
                cases.echo, cases.fail, cases.refuse, cases.asset, cases.renew, cases.cancel, cases.lose,
                cases.drain,
            ]  # fmt: skip
            for case in order:
                verdicts.append(Verdict(case.__doc__ or "", await _fault(case, worker)))
    finally:
        if worker.returncode is None:
            worker.kill()
            await worker.wait()
    return verdicts


async def _fault(case: Callable[[], Awaitable[None]], worker: asyncio.subprocess.Process) -> str | None:
    if worker.returncode is not None:
        return f"the worker has ended, with exit code {worker.returncode}"
    trying = asyncio.ensure_future(case())
    ended = asyncio.ensure_future(worker.wait())
    try:
        await asyncio.wait({trying, ended}, return_when=asyncio.FIRST_COMPLETED)
        if not trying.done() and worker.returncode:
            return f"the worker has ended, with exit code {worker.returncode}"
        await trying
    except (Broken, WritError) as error:
        return str(error)
    except TimeoutError:
        return f"nothing came within {WITHIN_S:g} s"
    finally:
        for each in (trying, ended):
            each.cancel()
    return None
