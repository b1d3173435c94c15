"""The client for programs without an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import wraps
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from writ.schemas.stores import File

from .client import Client
from .connect import Target
from .errors import ClientClosed

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(
    method: Callable[Concatenate[Client, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[SyncClient, P], T]:
    """The same method, which returns when it is done."""

    @wraps(method)
    def call(self: SyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.run(lambda client: method(client, *args, **kwargs))

    return call


async def _next(parts: AsyncGenerator[bytes, None]) -> bytes | None:
    return await anext(parts, None)


class SyncClient:
    """`Client` with blocking calls, run on a thread of its own; safe to use from several threads.

    Connects at once, so that it raises Unreachable here. Use it with `with`, or `close` it, for good: calls
    that wait then raise ClientClosed, and further ones RuntimeError. Arguments, units and errors are those of
    Client's methods.
    """

    def __init__(self, target: Target | str | None = None, *, name: str = "writ-client") -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="writ-client", daemon=True)
        self._thread.start()
        self._closing = False
        self._lock = threading.Lock()
        """Nothing is begun on a loop that is about to stop: nobody would ever end it."""

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
        """Ends the connection and the thread. Calls of other threads that wait raise ClientClosed."""
        self._end(self._client)

    submit = _blocking(Client.submit)
    submit_many = _blocking(Client.submit_many)
    accepted = _blocking(Client.accepted)
    result = _blocking(Client.result)
    reproduce = _blocking(Client.reproduce)

    job = _blocking(Client.job)
    jobs = _blocking(Client.jobs)
    records = _blocking(Client.records)
    status = _blocking(Client.status)
    queues = _blocking(Client.queues)
    lanes = _blocking(Client.lanes)
    schedules = _blocking(Client.schedules)
    operations = _blocking(Client.operations)
    batches = _blocking(Client.batches)
    position = _blocking(Client.position)

    whoami = _blocking(Client.whoami)
    can = _blocking(Client.can)
    principals = _blocking(Client.principals)
    principal = _blocking(Client.principal)
    create_principal = _blocking(Client.create_principal)
    add_key = _blocking(Client.add_key)
    remove_key = _blocking(Client.remove_key)
    create_token = _blocking(Client.create_token)
    revoke_token = _blocking(Client.revoke_token)
    start_session = _blocking(Client.start_session)
    end_session = _blocking(Client.end_session)
    grant = _blocking(Client.grant)
    ungrant = _blocking(Client.ungrant)
    elevate = _blocking(Client.elevate)
    approve_access = _blocking(Client.approve_access)
    decline_access = _blocking(Client.decline_access)
    revoke_principal = _blocking(Client.revoke_principal)
    restore_principal = _blocking(Client.restore_principal)

    keep_package = _blocking(Client.keep_package)
    package = _blocking(Client.package)
    publish_release = _blocking(Client.publish_release)
    processes = _blocking(Client.processes)
    process = _blocking(Client.process)
    promote_release = _blocking(Client.promote_release)
    approve_promotion = _blocking(Client.approve_promotion)
    rollback_release = _blocking(Client.rollback_release)
    freeze_release = _blocking(Client.freeze_release)
    unfreeze_release = _blocking(Client.unfreeze_release)
    revoke_release = _blocking(Client.revoke_release)
    canaries = _blocking(Client.canaries)
    start_canary = _blocking(Client.start_canary)
    end_canary = _blocking(Client.end_canary)
    approve_release = _blocking(Client.approve_release)
    record_evaluation = _blocking(Client.record_evaluation)
    record_drill = _blocking(Client.record_drill)
    record_policy_check = _blocking(Client.record_policy_check)
    check_gates = _blocking(Client.check_gates)
    gates = _blocking(Client.gates)
    declare_gate = _blocking(Client.declare_gate)
    remove_gate = _blocking(Client.remove_gate)

    audit = _blocking(Client.audit)
    attempts = _blocking(Client.attempts)
    workers = _blocking(Client.workers)
    traffic = _blocking(Client.traffic)
    cost = _blocking(Client.cost)
    tools = _blocking(Client.tools)
    tool_calls = _blocking(Client.tool_calls)
    dead = _blocking(Client.dead)
    checkpoint = _blocking(Client.checkpoint)
    consistency = _blocking(Client.consistency)
    prove = _blocking(Client.prove)
    ask = _blocking(Client.ask)
    holds = _blocking(Client.holds)
    stretch = _blocking(Client.stretch)

    send = _blocking(Client.send)
    cancel = _blocking(Client.cancel)
    terminate = _blocking(Client.terminate)
    redrive = _blocking(Client.redrive)
    rerun = _blocking(Client.rerun)
    drop = _blocking(Client.drop)
    pause = _blocking(Client.pause)
    resume = _blocking(Client.resume)
    approve = _blocking(Client.approve)
    reject = _blocking(Client.reject)
    signal = _blocking(Client.signal)
    edit = _blocking(Client.edit)
    plan = _blocking(Client.plan)
    seal_batch = _blocking(Client.seal_batch)
    put_file = _blocking(Client.put_file)
    get_file = _blocking(Client.get_file)
    save_file = _blocking(Client.save_file)
    files = _blocking(Client.files)
    drop_file = _blocking(Client.drop_file)
    memory_keys = _blocking(Client.memory_keys)
    read_memory = _blocking(Client.read_memory)
    forget_memory = _blocking(Client.forget_memory)

    set_asset = _blocking(Client.set_asset)
    asset = _blocking(Client.asset)
    assets = _blocking(Client.assets)
    remove_asset = _blocking(Client.remove_asset)
    set_price = _blocking(Client.set_price)
    prices = _blocking(Client.prices)
    declare_tenant = _blocking(Client.declare_tenant)
    tenant = _blocking(Client.tenant)
    create_tenant = _blocking(Client.create_tenant)
    set_quotas = _blocking(Client.set_quotas)
    tenants = _blocking(Client.tenants)
    raise_records = _blocking(Client.raise_records)
    move_shard = _blocking(Client.move_shard)
    shards = _blocking(Client.shards)
    drain_worker = _blocking(Client.drain_worker)
    undrain_worker = _blocking(Client.undrain_worker)
    erase = _blocking(Client.erase)
    place_hold = _blocking(Client.place_hold)
    lift_hold = _blocking(Client.lift_hold)

    declare_queue = _blocking(Client.declare_queue)
    pause_queue = _blocking(Client.pause_queue)
    drain_queue = _blocking(Client.drain_queue)
    resume_queue = _blocking(Client.resume_queue)

    declare_schedule = _blocking(Client.declare_schedule)
    pause_schedule = _blocking(Client.pause_schedule)
    resume_schedule = _blocking(Client.resume_schedule)
    delete_schedule = _blocking(Client.delete_schedule)
    trigger_schedule = _blocking(Client.trigger_schedule)
    backfill_schedule = _blocking(Client.backfill_schedule)

    def read_file(self, file: File | str) -> Generator[bytes, None, None]:
        """What a file holds, in parts, by its reference or its SHA-256. Raises FileBroken."""
        parts = self._client.read_file(file)
        try:
            while (part := self.run(lambda _: _next(parts))) is not None:
                yield part
        finally:
            with suppress(RuntimeError):  # closed by now, and the parts with it
                self._run(parts.aclose())

    def run(self, work: Callable[[Client], Coroutine[Any, Any, T]]) -> T:
        """What `work` makes of the client, on its thread."""
        return self._run(work(self._client))

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        with self._lock:
            if self._closing:
                work.close()
                raise RuntimeError("this SyncClient is closed")
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except CancelledError as error:
            if self._closing:
                raise ClientClosed(self.target.url) from error
            raise
        except BaseException:
            future.cancel()
            raise

    def _end(self, client: Client | None = None) -> None:
        with self._lock:
            first, self._closing = not self._closing, True
        if first:
            try:
                asyncio.run_coroutine_threadsafe(self._finish(client), self._loop).result()
            finally:
                self._loop.call_soon_threadsafe(self._loop.stop)
                self._thread.join()
                self._loop.close()

    @staticmethod
    async def _finish(client: Client | None) -> None:
        """Ends all that still runs on the loop, as what waits for it is on other threads."""
        try:
            if client is not None:
                await client.close()
        finally:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await asyncio.get_running_loop().shutdown_asyncgens()
