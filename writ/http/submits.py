"""Submitting jobs: stored on the broker's disk first, then told what the orchestrator made of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import msgspec

from writ.broker.errors import SubmitRefused
from writ.schemas.lifecycle import State
from writ.schemas.rejections import Rejection

from .route import ACCEPTED, CREATED, Call, Reply

if TYPE_CHECKING:
    from writ.broker.client import Client
    from writ.broker.results import JobHandle

DECIDED_S: Final = 5.0
"""How long a submit waits for its verdict; without one it is stored, and will be decided."""

_AT_ONCE: Final = 32


class Submitted(msgspec.Struct, frozen=True, kw_only=True):
    """A submit: the job that it is now, `existing` where that was there before.

    `state` and `position`, the log position to ask later reads for, are null where the orchestrator has not
    decided yet; `error` says why it was refused.
    """

    queue: str
    id: str
    state: State | None
    position: int | None
    existing: bool
    error: Rejection | None


class SubmittedMany(msgspec.Struct, frozen=True, kw_only=True):
    """What became of each submit, in their order. `position` is the newest one of theirs."""

    jobs: tuple[Submitted, ...]
    position: int | None


async def submit(call: Call) -> Reply:
    """201 with the job, 202 where it is stored and not decided on yet. Raises SubmitRefused."""
    (handle,) = await call.client.submit_many(call.params.queue, [call.body])
    found = await _became(call.client, handle)
    if found.error is not None:
        raise SubmitRefused(found.error)
    where = f"/v1/queues/{quote(found.queue, safe='')}/jobs/{quote(found.id, safe='')}"
    status = ACCEPTED if found.state is None else CREATED
    return Reply(found, found.position, status=status, location=where)


async def submit_many(call: Call) -> Reply:
    """Nothing is stored where one is not as it must be; what the orchestrator refuses is in the answer."""
    handles = await call.client.submit_many(call.params.queue, call.body)
    turns = asyncio.Semaphore(_AT_ONCE)

    async def became(handle: JobHandle) -> Submitted:
        async with turns:
            return await _became(call.client, handle)

    found = tuple(await asyncio.gather(*map(became, handles)))
    position = max((each.position for each in found if each.position is not None), default=None)
    return Reply(SubmittedMany(jobs=found, position=position), position)


async def _became(client: Client, handle: JobHandle) -> Submitted:
    state: State | None = None
    position: int | None = None
    error: Rejection | None = None
    queue, id_ = handle.queue, handle.id
    existing = bool(handle.existing)
    try:
        job = await client.accepted(handle, timeout_s=DECIDED_S)
        state, position = job.state, job.seq
        existing = existing or (job.queue, job.id) != (queue, id_)
        queue, id_ = job.queue, job.id
    except SubmitRefused as refused:
        error = refused.rejection
    except TimeoutError:
        pass  # stored, and nobody has decided
    return Submitted(queue=queue, id=id_, state=state, position=position, existing=existing, error=error)
