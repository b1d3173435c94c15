"""The client: submit jobs, wait for results, look, operate.

    async with Client() as client:
        job = await client.submit("billing", "invoices.extract", {"invoice": 7})
        print(await client.result(job, timeout_s=60))

`SyncClient` in `blocking.py` is the same for programs without an event loop.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Final

import msgspec

from writ.schemas.codec import CodecError, decode
from writ.schemas.commands import Approval, SubmitJob
from writ.schemas.events import CommandRejected, OnDead, OnParentEnd
from writ.schemas.ids import job_key, lane_for
from writ.schemas.policy import Retry
from writ.schemas.principals import AccessDenied
from writ.schemas.queries import JobQuery, JobsPage, JobView
from writ.schemas.recordings import last_run
from writ.schemas.records import Record
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.sealed import UNSEALED, unseal
from writ.schemas.steps import Reproduces
from writ.schemas.subjects import feed_subject, submit_subject

from . import tracing
from .asking import TRY_S, Trying, encode
from .clock import Clock
from .coding import PayloadCodec
from .connect import Target
from .errors import (
    STREAM_FULL,
    ClientClosed,
    JobNotFound,
    NoAnswer,
    NoResponders,
    PermissionDenied,
    Refused,
    SubmitNotStored,
    SubmitRefused,
    Unreachable,
    WireError,
    WritError,
)
from .granting import Granting
from .listing import Listing
from .proving import Proving
from .releasing import Releasing
from .results import JobHandle, Outcome, Verdict, Waiter, stand_in
from .storing import Storing
from .submits import Element, Together, check_submit, joined, lost_number, new_job_id, nonce, pack
from .wire import Wire

__all__ = ["Client", "JobHandle"]

SUBMITS_IN_FLIGHT: Final = 8
VERDICTS_AT_ONCE: Final = 32
"""How many submits with a unique key of one array are waited for together."""

REQUERY_S: Final = 5.0
_HIDDEN_S: Final = 0.1
_LAST_LOOK_S: Final = 0.5
"""How long one may ask for a job's state after the time in which it should have ended."""
"""Where the feed told of an end whose content is sealed, the view is asked so often."""

"""How often a waiting `result` asks the view, in case the live feed missed something."""

_REFUSALS_KEPT: Final = 10_000


class Client(Granting, Listing, Proving, Releasing, Storing):
    """Talks to Writ as one principal. Use it with `async with`, or `close` it; it connects at first use.

    `target` is a broker's url or a Target, from the environment if not given (see `Target.from_env`). Another
    `wire`, `clock` or `entropy` is for simulations. With `codecs` inputs, and data of signals and approvals,
    are encoded by the first of them, and what is told of jobs is decoded; records stay as they are stored.
    All methods raise Unreachable where no broker can be had, PermissionDenied where the principal lacks the
    role, Refused for what Writ refuses, and after `timeout_s` seconds of trying NoResponders or NoAnswer.
    """

    def __init__(
        self,
        target: Target | str | None = None,
        *,
        wire: Wire | None = None,
        name: str = "writ-client",
        clock: Clock | None = None,
        entropy: Callable[[int], bytes] = os.urandom,  # noqa: TID251 - this is the shell; ids are drawn here
        codecs: Iterable[PayloadCodec] = (),
    ) -> None:
        super().__init__(target, wire=wire, name=name, clock=clock, entropy=entropy, codecs=codecs)
        self._refusals: OrderedDict[int, tuple[Rejection, ...]] = OrderedDict()
        self._hears_refusals: bool | None = None
        self._waiting: dict[int, list[Waiter]] = {}
        self._together = Together(self._publish)

    async def close(self) -> None:
        for waiter in [each for several in self._waiting.values() for each in several]:
            waiter.end(ClientClosed(self.target.url))
        await super().close()

    def _connects(self) -> None:
        self._hears_refusals = None

    # --- submitting -------------------------------------------------------------------------------------

    async def submit(
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
        fairness_key: str | None = None,
        concurrency_key: str | None = None,
        unique_key: str | None = None,
        approval: Approval | None = None,
        after: Sequence[JobHandle | str] = (),
        on_dead: OnDead | None = None,
        input_from: Mapping[str, JobHandle | str] | None = None,
        parent: JobHandle | str | None = None,
        on_parent_end: OnParentEnd | None = None,
        batch: str | None = None,
        tags: Mapping[str, str] | None = None,
        reproduces: Reproduces | None = None,
        data_subject: str | None = None,
        reserve_microusd: int | None = None,
        process: str | None = None,
        requires: Mapping[str, str] | None = None,
        timeout_s: float = 30.0,
    ) -> JobHandle:
        """Stores a job's submit, on the broker's disk when this returns.

        `input` is anything msgspec writes as JSON, at most 256 KiB; parameters of the task are matched to its
        fields by name. An `id` makes the submit idempotent: while a job of that id is known to the queue, a
        further submit of it is the same job, and one of another task or input is refused. `priority` is 1 to
        5 [3; 1 first]. `delay_s` and `not_before` (a datetime with time zone) say when it may first run: give
        one. `lease_s` [30] is how soon a dead worker is noticed, `attempt_timeout_s` [900] bounds an attempt,
        `job_timeout_s` [86,400] all of them, `expires_in_s` [none] the time to the first start; in seconds.

        `fairness_key` takes turns with others of its priority, `concurrency_key` shares the queue's
        `key_concurrency` slots, and one live job at a time has a `unique_key`. With `approval` a person must
        say yes first. The job waits for those in `after` (handles, `<queue>~<id>`, or ids of this queue),
        with `on_dead` [dead_letter] if one ends otherwise than completed; `input_from` fills fields of the
        input with their outputs. `parent` is the job that starts this one, which ends with it by
        `on_parent_end` [cancel], and `batch` a group that it counts in. `tags` are names and values of your
        own, at most 20, by which `jobs` finds it. `reproduces` is for `reproduce`. `process` is the release
        that runs it: `NAME@live` or another alias, or `NAME@` and a version or digest. `data_subject` is whom
        the content is about: it can be erased for all jobs of that subject at once, see `erase`.
        `reserve_microusd` is what an attempt may cost, in millionths of a dollar: so much of the tenant's
        budget is set apart before it starts. `requires` are labels, as `{"gpu": "true"}`: only a worker that
        has them all is given the job.

        A queue with lanes has its jobs in them, and the handle says in which: see `lanes`.

        With a `unique_key` it waits for the orchestrator, for `timeout_s` in all: where the queue's
        `on_clash` is `return`, the handle is that of the live job with that key, marked `existing`.

        Raises SubmitRefused for what can be told to be wrong before sending; what the orchestrator refuses
        later is raised by `result`, or here where it is waited for.
        """
        options = {
            "id": id,
            "priority": priority,
            "delay_s": delay_s,
            "not_before": not_before,
            "retry": retry,
            "lease_s": lease_s,
            "attempt_timeout_s": attempt_timeout_s,
            "job_timeout_s": job_timeout_s,
            "expires_in_s": expires_in_s,
            "fairness_key": fairness_key,
            "concurrency_key": concurrency_key,
            "unique_key": unique_key,
            "approval": approval,
            "after": [self._key(queue, each) for each in after] or None,
            "on_dead": on_dead,
            "input_from": {k: self._key(queue, each) for k, each in (input_from or {}).items()} or None,
            "parent": None if parent is None else self._key(queue, parent),
            "on_parent_end": on_parent_end,
            "batch": batch,
            "tags": tags,
            "reproduces": reproduces,
            "data_subject": data_subject,
            "reserve_microusd": reserve_microusd,
            "process": process,
            "requires": requires or None,
        }
        job = {"task": task, "input": input} | {k: v for k, v in options.items() if v is not None}
        until = asyncio.get_running_loop().time() + timeout_s
        with tracing.spanning(f"submit {queue}", self._about(queue, {"writ.task": task}), kind="PRODUCER"):
            element = self._element(queue, job, None)
            if element.unique:
                await self._learn(queue)
            handle = await self._stored(queue, element, timeout_s)
        if not element.unique:
            return handle
        outcome = await self._decided(queue, element, handle, until)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def _stored(self, queue: str, element: Element, timeout_s: float) -> JobHandle:
        """One submit, on the broker's disk: in the lane that it picks, as far as the queue is known to have
        some. Raises NoAnswer.
        """
        lane = self._lane(queue, element)
        try:
            seq, index = await self._together.submit(lane, element, timeout_s)
        except TimeoutError:
            subject = submit_subject(self.target.tenant, self.target.principal, lane)
            raise NoAnswer(subject, timeout_s) from None
        return JobHandle(lane, element.id, seq, index)

    async def _learn(self, queue: str) -> None:
        """Who may not hear of refusals asks for a queue's lanes, or would not know that a key picks one."""
        if queue in self._lanes:
            return
        await self._hear_refusals(await self._connected())
        if not self._hears_refusals:
            with suppress(WritError):  # else it is refused, and the audit trail has it
                await self.lanes(queue, timeout_s=TRY_S)

    def _lane(self, queue: str, element: Element) -> str:
        """Where a job is to be sent to."""
        return queue if element.word is None else lane_for(queue, self._lanes.get(queue, 1), element.word)

    async def reproduce(self, id: str, queue: str, *, timeout_s: float = 30.0) -> JobHandle:
        """Runs a finished job once more as another job: same task and input, steps and tools answered from
        the record of the first run, so that nothing outside is called.

        It has one attempt, and the time limits of the first, and is of the release of its last lease,
        wherever an alias points by now. Refused is raised by `result`; JobNotFound where
        there is no such job, ValueError where it has not ended, or its content was erased.
        """
        run = last_run(await self._records_of(id, queue, timeout_s))
        if run is None:
            raise JobNotFound(f"no job {id} in queue {queue}")
        job = run.job
        if job.finished_at is None:
            raise ValueError(f"job {id} is {job.state}; a job can be reproduced when it has ended")
        if job.input.key != UNSEALED:
            raise ValueError(f"the content of job {id} was erased; it cannot be run again")
        limits = job.limits
        return await self.submit(
            queue,
            job.task,
            msgspec.Raw(unseal(job.input)),
            retry=Retry(max_attempts=1),
            lease_s=limits.lease_s,
            attempt_timeout_s=limits.attempt_timeout_s,
            job_timeout_s=limits.job_timeout_s,
            after=job.after,
            on_dead=OnDead.RUN if job.after else None,
            input_from=job.input_from,
            reproduces=Reproduces(job.key, job.ended_by),
            process=job.pinned,
            timeout_s=timeout_s,
        )

    async def _records_of(self, id: str, queue: str, timeout_s: float) -> list[Record]:
        found: list[Record] = []
        while True:
            after = found[-1].seq if found else 0
            page = await self.records(id, queue, after=after, reveal=True, timeout_s=timeout_s)
            found += [decode(bytes(view.record)) for view in page.records]
            if not page.more or not page.records:
                return found

    async def submit_many(
        self, queue: str, jobs: Iterable[SubmitJob | Mapping[str, Any]], *, timeout_s: float = 60.0
    ) -> list[JobHandle]:
        """Stores many submits, up to 500 in a message; the handles are in the order of `jobs`.

        A job is a mapping with `task`, `input` and the options of `submit`, or a SubmitJob. All are checked
        before the first is sent: SubmitRefused names the wrong one by its index. Where some messages could
        not be stored, the first reason is raised with a note of how many jobs were. What the orchestrator
        refuses is raised by `result`. For those with a `unique_key` see `submit`.
        """
        with tracing.spanning(f"submit {queue}", self._about(queue, {}), kind="PRODUCER"):
            return await self._submit_many(queue, jobs, timeout_s)

    async def _submit_many(
        self, queue: str, jobs: Iterable[SubmitJob | Mapping[str, Any]], timeout_s: float
    ) -> list[JobHandle]:
        until = asyncio.get_running_loop().time() + timeout_s
        made = [self._element(queue, job, index) for index, job in enumerate(jobs)]
        if any(each.unique for each in made):
            await self._learn(queue)
        places: dict[str, list[int]] = {}
        for place, element in enumerate(made):
            places.setdefault(self._lane(queue, element), []).append(place)
        messages: list[tuple[str, list[int], list[Element]]] = []
        for lane, those in places.items():
            left = iter(those)
            for some in pack([made[place] for place in those]):
                messages.append((lane, list(islice(left, len(some))), some))
        room = asyncio.Semaphore(SUBMITS_IN_FLIGHT)
        waits = asyncio.Semaphore(VERDICTS_AT_ONCE)

        async def decided(element: Element, handle: JobHandle) -> JobHandle:
            async with waits:
                outcome = await self._decided(queue, element, handle, until)
            return handle if isinstance(outcome, Exception) else outcome

        async def send(lane: str, elements: list[Element]) -> list[JobHandle]:
            async with room:
                seq = await self._publish(lane, elements[0].id, joined(elements), timeout_s)
            handles = [JobHandle(lane, each.id, seq, index) for index, each in enumerate(elements)]
            unique = [index for index, each in enumerate(elements) if each.unique]
            verdicts = await asyncio.gather(*(decided(elements[index], handles[index]) for index in unique))
            for index, handle in zip(unique, verdicts, strict=True):
                handles[index] = handle
            return handles

        sent = [send(lane, some) for lane, _, some in messages]
        done = await asyncio.gather(*sent, return_exceptions=True)
        handles: dict[int, JobHandle] = {}
        for (_, where, _), part in zip(messages, done, strict=True):
            if isinstance(part, list):
                handles |= zip(where, part, strict=True)
        for part in done:
            if isinstance(part, BaseException):
                part.add_note(f"{len(handles)} of {len(made)} jobs were stored")
                raise part
        return [handles[place] for place in range(len(made))]

    async def accepted(self, job: JobHandle, *, timeout_s: float = 10.0) -> JobView:
        """The job that a submit has become, as soon as the orchestrator has decided on it.

        Of a submit whose `unique_key` another live job had, it is that job. Raises SubmitRefused, and
        TimeoutError where nobody has decided within `timeout_s` seconds: the submit is stored, and will be.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        view: JobView | None = None
        with suppress(JobNotFound):
            view = await self.job(job.id, job.queue, timeout_s=timeout_s)  # waits for what was submitted
        if view is not None:
            waiter = Verdict(job, loop)
            waiter.refused(self._refusals.get(job.seq, ()))  # the job of its id may be another one's
            if not waiter.outcome.done():
                return view
        outcome = await self._told(Verdict(job, loop), until)
        standing = stand_in(outcome)
        if isinstance(outcome, Exception) and standing is None:
            raise outcome
        found = standing or job
        return await self.job(found.id, found.queue, timeout_s=max(0.1, until - loop.time()))

    def _about(self, queue: str, more: dict[str, Any]) -> dict[str, Any]:
        """What a span tells of a submit."""
        named = {"messaging.system": "writ", "messaging.destination.name": queue, "writ.queue": queue}
        return {**named, "writ.tenant": self.target.tenant, **more}

    def _element(self, queue: str, job: SubmitJob | Mapping[str, Any], index: int | None) -> Element:
        """The job with its id, made if not given. Raises SubmitRefused."""
        given = job.id if isinstance(job, SubmitJob) else job.get("id")
        if isinstance(job, SubmitJob):
            unique, batch = job.unique_key, job.batch
        else:
            unique, batch = job.get("unique_key"), job.get("batch")
        job_id = given if given is not None else new_job_id(self._clock.wall_us() // 1_000, self._entropy)
        if isinstance(job, SubmitJob):
            whole: Any = job if given else msgspec.structs.replace(job, id=job_id)
        else:
            whole = job if given is not None else {**job, "id": job_id}
            if "trace" not in job and (trace := tracing.traceparent()) is not None:
                whole = {**whole, "trace": trace}
        try:
            if self.coder.encodes:
                whole = msgspec.to_builtins(whole) if isinstance(whole, SubmitJob) else dict(whole)
                whole["input"] = self.coder.content(encode(whole.get("input")))
            body = encode(whole)
        except (TypeError, ValueError, RecursionError, OverflowError) as error:
            reason = f"the job cannot be written as JSON: {error}"
            raise SubmitRefused(Rejection(RejectionKind.MALFORMED, reason, "input", index)) from error
        fault = lost_number(whole, body, index) or check_submit(queue, body, index)
        if fault is not None:
            raise SubmitRefused(fault)
        word = unique or (job_id if batch is None else None)
        return Element(job_id, body, unique is not None, word)

    def _key(self, queue: str, job: JobHandle | str) -> str:
        """The key of a job; a bare id is one of `queue`, in the lane that it picks."""
        if isinstance(job, JobHandle):
            return job_key(job.queue, job.id)
        return job if "~" in job else job_key(lane_for(queue, self._lanes.get(queue, 1), job), job)

    async def _decided(
        self, queue: str, element: Element, handle: JobHandle, until: float
    ) -> JobHandle | SubmitRefused:
        """What a submit with a unique key has become: its own job, the one that stands for it, or nothing.

        One that is refused as its key picks a lane of the queue is sent there.
        """
        outcome = await self._verdict(handle, until)
        if not isinstance(outcome, SubmitRefused) or outcome.rejection.lanes is None or handle.queue != queue:
            return outcome
        self._lanes[queue] = outcome.rejection.lanes
        left_s = max(until - asyncio.get_running_loop().time(), 0.001)
        return await self._verdict(await self._stored(queue, element, left_s), until)

    async def _verdict(self, handle: JobHandle, until: float) -> JobHandle | SubmitRefused:
        """The same of one submit by itself."""
        unknown = dataclasses.replace(handle, existing=None)
        if not self._hears_refusals:
            return unknown
        try:
            outcome = await self._told(Verdict(handle, asyncio.get_running_loop()), until)
        except (TimeoutError, WireError):
            return unknown
        if isinstance(outcome, SubmitRefused):
            return stand_in(outcome) or outcome
        return unknown if isinstance(outcome, Exception) else handle

    async def _publish(self, queue: str, first: str, body: bytes, timeout_s: float) -> int:
        """The stream sequence of a stored submit, or array whose first job is `first`.

        Repeated under one message id until the broker says that it is stored.
        """
        subject = submit_subject(self.target.tenant, self.target.principal, queue)
        # The nonce keeps apart two submits of one id (the second may correct a refused first one), and keeps
        # others from guessing the id and having ours taken for a repetition.
        msg_id = f"{self.target.tenant}.{queue}.{first}.{nonce(self._entropy)}"
        trying = Trying(timeout_s, self._entropy)
        while True:
            wire = await self._connected()
            await self._hear_refusals(wire)
            try:
                return await wire.publish_submit(subject, body, msg_id)
            except (NoAnswer, NoResponders) as error:
                await trying.again(error)
            except SubmitNotStored as error:
                if error.code != STREAM_FULL:
                    raise
                await trying.again(error)

    # --- results ----------------------------------------------------------------------------------------

    async def result(
        self, job: JobHandle | str, *, queue: str | None = None, timeout_s: float | None = None
    ) -> Any:
        """The output of a job, as soon as it has one; waits up to `timeout_s` seconds, or for ever.

        `job` is a handle or an id; with an id, `queue` is needed only where several queues have one of it.
        Of a submit whose `unique_key` another live job had, it is that job's. Raises JobFailed for a dead
        letter, JobCancelled, SubmitRefused where the orchestrator refused the submit of this handle,
        JobNotFound for an unknown id, and TimeoutError.
        """
        loop = asyncio.get_running_loop()
        until = None if timeout_s is None else loop.time() + timeout_s
        if isinstance(job, str):
            if queue is None or queue in self._lanes:
                queue = (await self.job(job, queue)).queue
            handle = JobHandle(queue, job, 0)
        else:
            handle = job
        while True:
            waiter = Waiter(handle, loop)
            try:
                outcome = await self._told(waiter, until)
            except TimeoutError:
                last = Waiter(handle, loop)
                await self._look(last, _LAST_LOOK_S)  # it was seen a while ago, and may have gone on since
                if not last.outcome.done():
                    view = last.view or waiter.view
                    state = view.state if view else "not known to the node yet"
                    where = f"job {handle.id} in queue {handle.queue}"
                    told = f"{where} has not ended within {timeout_s:g} s: it is {state}"
                    raise TimeoutError(told) from None
                outcome = last.outcome.result()
            if not isinstance(outcome, Exception):
                return msgspec.json.decode(outcome)
            standing = stand_in(outcome)
            if standing is None:
                raise outcome
            handle = standing

    async def _told(self, waiter: Waiter, until: float | None) -> Outcome:
        """What the feed, the view or a refusal tells a waiter first. Raises TimeoutError."""
        handle = waiter.handle
        wire = await self._connected()
        known = self._refusals.get(handle.seq)
        if known is not None:
            waiter.refused(known)
        self._waiting.setdefault(handle.seq, []).append(waiter)
        subject = feed_subject(self.target.tenant, "job", job_key(handle.queue, handle.id))

        def heard(subject: str, body: bytes) -> None:
            waiter.heard(subject, self.coder.opened(body))

        stop = await wire.subscribe(subject, heard)
        asking = asyncio.ensure_future(self._requery(waiter))
        try:
            async with asyncio.timeout_at(until):
                return await waiter.outcome
        finally:
            asking.cancel()
            self._forget(waiter)
            await stop()

    async def _requery(self, waiter: Waiter) -> None:
        """Asks the view now and then; the feed alone would miss what came before it."""
        while True:
            await self._look(waiter, TRY_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(REQUERY_S):
                    await waiter.hidden.wait()
                    await asyncio.sleep(_HIDDEN_S)

    async def _look(self, waiter: Waiter, timeout_s: float) -> None:
        """Asks the view once."""
        asked = JobQuery(id=waiter.handle.id, queue=waiter.handle.queue)
        try:
            page = await self._query("job", asked, JobsPage, timeout_s)
            if page.jobs:
                waiter.seen(page.jobs[0])
        except (PermissionDenied, Unreachable) as error:  # a broker that is away for a while is neither
            waiter.end(error)
        except (WireError, Refused):
            pass  # the next one may do better, and the caller's time limit rules

    def _forget(self, waiter: Waiter) -> None:
        seq = waiter.handle.seq
        self._waiting[seq].remove(waiter)
        if not self._waiting[seq]:
            del self._waiting[seq]

    async def _hear_refusals(self, wire: Wire) -> None:
        """Listens for what becomes of refused submits, from before the first one on."""
        if self._hears_refusals is not None:
            return
        self._hears_refusals = False
        subject = feed_subject(self.target.tenant, "principal", self.target.principal)
        try:
            await wire.subscribe(subject, self._on_principal)
            self._hears_refusals = True
        except PermissionDenied:
            pass  # a principal that may submit but not read learns of no refusal; the audit trail has it
        except WireError:
            self._hears_refusals = None
            raise

    def _on_principal(self, subject: str, body: bytes) -> None:
        try:
            record = decode(body)
        except CodecError:
            return
        if record.source is None:
            return
        for event in record.events:
            if isinstance(event, AccessDenied) or (
                isinstance(event, CommandRejected) and event.verb == "submit"
            ):
                refused = (event.why,) if isinstance(event, AccessDenied) else event.refused
                before = self._refusals.get(record.source.seq, ())  # a long array is told of in parts
                self._refusals[record.source.seq] = (*before, *refused)
                while len(self._refusals) > _REFUSALS_KEPT:
                    self._refusals.popitem(last=False)
                for waiter in self._waiting.get(record.source.seq, ()):
                    waiter.refused(refused)
