"""What operators do in a history: single deeds, and in the end they let go whatever waits for people."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

import msgspec

from writ.broker.client import Client
from writ.broker.errors import WritError
from writ.schemas import commands
from writ.schemas.policy import QueuePolicy
from writ.schemas.schedules import Overlap, ScheduleSpec

from .fold import Fold
from .hosts import ClientHost
from .loop import SECOND_US
from .plan import HOME, TENANT, Deed, Plan
from .tally import Tally, Waits
from .watch import Watch

LET_GO_US: Final = 11 * SECOND_US
"""From when on whatever waits for people is seen to."""

_PATIENCE_S: Final = 6.0
_LOOK_S: Final = 0.2
_TIMEOUT_S: Final = 8.0
_QUICK_S: Final = 3.0


class Operator:
    """The operator at one client."""

    def __init__(self, plan: Plan, host: ClientHost, client: Client, watch: Watch) -> None:
        self._plan = plan
        self._host = host
        self._client = client
        self._watch = watch

    async def do(self, deed: Deed, job_id: str | None) -> None:
        """A deed. One to a job without a name, or that is not in the state hoped for, is guesswork."""
        named = job_id or "nobody"
        if deed.when:
            await self._until(deed.queue, named, deed.when)
        if deed.job >= 0:
            await self._to_a_job(deed, named)
        else:
            await self._to_a_queue(deed)

    async def _until(self, queue: str, job_id: str, state: str) -> None:
        for _ in range(round(_PATIENCE_S / _LOOK_S)):
            found = self._watch.find(queue, job_id)
            if found is not None and found.state == state:
                return
            await asyncio.sleep(_LOOK_S)

    async def _to_a_job(self, deed: Deed, job_id: str) -> None:
        client, queue, how = self._client, deed.queue, dict(deed.how)
        if deed.what == "signal":
            await client.signal(job_id, queue, how["name"], how["data"], timeout_s=_TIMEOUT_S)
        elif deed.what == "edit":
            in_s = how.get("in_s")
            at = None if in_s is None else self._in(in_s)
            await client.edit(job_id, queue, priority=how["priority"], not_before=at, timeout_s=_TIMEOUT_S)
        else:
            act: Callable[..., Awaitable[None]] = getattr(client, deed.what)
            await act(job_id, queue, timeout_s=_TIMEOUT_S)

    def _in(self, seconds: float) -> datetime.datetime:
        moment = self._host.wall_us() / SECOND_US + seconds
        return datetime.datetime.fromtimestamp(moment, datetime.UTC)

    async def _to_a_queue(self, deed: Deed) -> None:
        client, queue, how = self._client, deed.queue, dict(deed.how)
        match deed.what:
            case "declare":
                await client.declare_queue(queue, msgspec.convert(how, QueuePolicy), timeout_s=_TIMEOUT_S)
            case "plan":
                await client.plan(queue, msgspec.convert(how, commands.Plan), timeout_s=_TIMEOUT_S)
            case "seal_batch":
                await client.seal_batch(queue, how["batch"], how["size"], timeout_s=_TIMEOUT_S)
            case "declare_schedule":
                ends_at = self._in(how["ends_in_s"])
                spec = msgspec.convert({**how["spec"], "ends_at": ends_at}, ScheduleSpec)
                await client.declare_schedule(queue, how["name"], spec, how["input"], timeout_s=_TIMEOUT_S)
            case "drain_worker" | "undrain_worker" as verb:
                await getattr(client, verb)(how["worker"], timeout_s=_TIMEOUT_S)
            case "trigger_schedule":
                overlap = None if "overlap" not in how else Overlap(how["overlap"])
                await client.trigger_schedule(queue, how["name"], overlap=overlap, timeout_s=_TIMEOUT_S)
            case "backfill_schedule":
                span = self._in(-6), self._in(-2)
                await client.backfill_schedule(queue, how["name"], *span, timeout_s=_TIMEOUT_S)
            case what:
                act: Callable[..., Awaitable[None]] = getattr(client, what)
                await act(queue, *how.values(), timeout_s=_TIMEOUT_S)

    # --- the end ------------------------------------------------------------------------------------------

    async def let_go(self) -> None:
        """Opens what was closed, ends what goes on by itself, and answers what waits for people."""
        await asyncio.sleep(max(0, LET_GO_US - self._host.world.now_us) / SECOND_US)
        while True:
            for act, *args in list(self._left()):
                try:
                    await act(*args, timeout_s=_QUICK_S)
                except WritError:
                    continue
            await asyncio.sleep(1)

    def _left(self) -> Iterator[tuple[Any, ...]]:
        """What is to be called, and with what."""
        client = self._client
        for queue in self._plan.queues:
            fold = self._watch.folds[HOME[queue]]
            if fold.lines.at(f"{TENANT}.{queue}").mode != "open":
                yield client.resume_queue, queue
            start = f"{TENANT}.{queue}~"
            for place, schedule in fold.timetable.schedules.items():
                if place.startswith(start) and not schedule.over():
                    yield client.delete_schedule, queue, place.removeprefix(start)
            for job in fold.jobs.values():
                if job.wait is not None and job.key.startswith(start):
                    act = self._answer(fold, job, job.wait)
                    if act is not None:
                        yield act[0], job.key.removeprefix(start), queue, *act[1:]

    def _answer(self, fold: Fold, job: Tally, wait: Waits) -> tuple[Any, ...] | None:
        """What a suspended job is told; nothing where no person is waited for."""
        client, often = self._client, job.since % 4
        match wait.reason:
            case "approval":
                return (client.approve if often else client.reject,)
            case "signal":
                return client.signal, wait.on[0], 1
            case "exhausted" if job.excused:
                return (client.cancel,)
            case "paused" | "exhausted":
                return (client.resume,)
            case "dependency" if fold.bonds.failed(job) is not None:
                return (client.resume if often else client.cancel,)
            case _:
                return None
