"""Runs a plan: a job per item, repeat and side, jobs that score what they came to, and the verdict.

The jobs' ids follow from what they try, so that an evaluation that was killed goes on where it was, and the
tries of a baseline are not made twice within the time that a submit is remembered.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import msgspec

from writ.broker.client import Client
from writ.broker.errors import JobEnded
from writ.broker.results import JobHandle
from writ.orchestrator.statistics import Stability, judge, stability
from writ.schemas.codec import decode
from writ.schemas.evaluations import Better, Measured, Outcome, Scores, Verdict
from writ.schemas.events import AttemptFailed, JobCompleted
from writ.schemas.lifecycle import Job, evolve
from writ.schemas.policy import Retry
from writ.schemas.records import Record
from writ.schemas.sealed import UNSEALED, Sealed, unseal
from writ.schemas.steps import ToolCalled, UsageRecorded

from .plan import Prepared
from .scorers import Answer
from .scoring import TASK, Scored, Tried

AT_ONCE: Final = 100
"""Jobs that are waited for together."""
CHUNK_BYTES: Final = 128 * 1024
"""Of answers in one job that scores; its input may be twice that."""
TELL_EVERY_S: Final = 15.0
_PAGE: Final = 500


class Side(msgspec.Struct, frozen=True):
    """What is tried: `name` as it was asked for, `release` what that stood for when it began.

    `options` are those of `Client.submit` that choose it: a task, a process.
    """

    name: str
    release: str
    options: dict[str, Any]


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What an evaluation found."""

    plan: str
    plan_digest: str
    data: str
    data_digest: str
    candidate: Side
    baseline: Side | None
    repeats: int
    items: tuple[str, ...]
    measured: tuple[Measured, ...]
    verdict: Verdict
    stability: dict[str, Stability]
    """Of the candidate, for each dimension whose scores are 0 to 1."""
    faults: tuple[str, ...] = ()
    """Why scores are missing."""
    jobs: dict[str, tuple[tuple[str, ...], ...]] = {}
    """Ids of the jobs by side, item and repeat."""


class Evaluator:
    """Evaluates by a client. `tell` hears sentences of progress.

    What was tried before is not tried again, unless `fresh` names these tries apart from all others.
    """

    def __init__(
        self, client: Client, prepared: Prepared, tell: Callable[[str], None], fresh: str | None = None
    ) -> None:
        self._client = client
        self._prepared = prepared
        self._tell = tell
        self._fresh = fresh
        self._room = asyncio.Semaphore(AT_ONCE)
        self._ended = 0

    async def evaluate(self, candidate: Side, baseline: Side | None) -> Evaluation:
        """Tries and scores each side, and judges. Raises what `Client` raises."""
        prepared = self._prepared
        sides = {"candidate": candidate} | ({"baseline": baseline} if baseline is not None else {})
        handles = {name: await self._submit(side) for name, side in sides.items()}
        total = sum(len(tries) for each in handles.values() for tries in each)
        self._tell(f"{total} jobs in queue {prepared.plan.queue}: {len(prepared.data.items)} items,"
                   f" {prepared.plan.repeats} repeats, {len(sides)} sides")  # fmt: skip
        async with self._telling(prepared.plan.queue, total):
            answers = {name: await self._answers(each) for name, each in handles.items()}
        scored = {name: await self._score(name, sides[name], each) for name, each in answers.items()}
        measured = tuple(
            Measured(
                each.dimension(),
                scored["candidate"].values[i],
                scored["baseline"].values[i] if baseline is not None else None,
            )
            for i, each in enumerate(prepared.plan.dimension)
        )
        items = tuple(item.id for item in prepared.data.items)
        return Evaluation(
            plan=prepared.name,
            plan_digest=prepared.digest,
            data=prepared.data.name,
            data_digest=prepared.data.digest,
            candidate=candidate,
            baseline=baseline,
            repeats=prepared.plan.repeats,
            items=items,
            measured=measured,
            verdict=judge(measured),
            stability={
                each.dimension.name: stability(items, each.candidate)
                for each in measured
                if each.dimension.better is Better.HIGHER and _within_one(each.candidate)
            },
            faults=tuple(dict.fromkeys(fault for each in scored.values() for fault in each.faults)),
            jobs={
                name: tuple(tuple(h.id for h in tries) for tries in each) for name, each in handles.items()
            },
        )

    @asynccontextmanager
    async def _telling(self, queue: str, total: int) -> AsyncGenerator[None]:
        """Tells how far it is while jobs are waited for, and what to look at where nothing moves."""
        self._ended = 0

        async def tell() -> None:
            before = 0
            while True:
                await asyncio.sleep(TELL_EVERY_S)
                still = (
                    "" if self._ended > before else f"; is there a worker for them? writ queue show {queue}"
                )
                before = self._ended
                self._tell(f"{before} of {total} jobs in queue {queue} have ended{still}")

        telling = asyncio.create_task(tell())
        try:
            yield
        finally:
            telling.cancel()

    async def _submit(self, side: Side) -> list[list[JobHandle]]:
        prepared = self._prepared
        plan, repeats = prepared.plan, range(prepared.plan.repeats)
        of = (prepared.data.digest, plan.task, plan.attempt_timeout_s, side.release, side.options)
        line = _short(*of) if self._fresh is None else _short(*of, self._fresh)
        jobs = [
            {
                "task": plan.task,
                "input": item.input,
                "id": f"ev-{line}-{number}-{repeat}",
                "retry": Retry(max_attempts=1),
                "attempt_timeout_s": plan.attempt_timeout_s,
                "tags": {"evaluation": prepared.name},
                **side.options,
            }
            for number, item in enumerate(prepared.data.items)
            for repeat in repeats
        ]
        made = await self._client.submit_many(plan.queue, jobs)
        return [made[i : i + len(repeats)] for i in range(0, len(made), len(repeats))]

    async def _answers(self, handles: Sequence[Sequence[JobHandle]]) -> list[list[Answer]]:
        async def one(handle: JobHandle) -> Answer:
            async with self._room:
                with suppress(JobEnded):
                    await self._client.result(handle)
                self._ended += 1
                return answer_of([record async for record in self._records(handle)])

        flat = await asyncio.gather(*(one(handle) for tries in handles for handle in tries))
        return [
            flat[i : i + self._prepared.plan.repeats]
            for i in range(0, len(flat), self._prepared.plan.repeats)
        ]

    async def _records(self, handle: JobHandle) -> AsyncIterator[Record]:
        after = 0
        while True:
            page = await self._client.records(handle.id, handle.queue, after=after, reveal=True, limit=_PAGE)
            for view in page.records:
                record = decode(bytes(view.record))
                yield record
                after = record.seq
            if not page.more or not page.records:
                return

    async def _score(self, name: str, side: Side, answers: Sequence[Sequence[Answer]]) -> Scored:
        """Score one side, in as many jobs as its answers need."""
        prepared, plan = self._prepared, self._prepared.plan
        scorers = [each.scorer for each in plan.dimension]
        tried = [Tried(item, tuple(each)) for item, each in zip(prepared.data.items, answers, strict=True)]
        chunks = list(_chunks(tried))
        self._tell(f"{len(chunks)} jobs in queue {plan.scoring_queue} score the {name}")
        jobs = [
            {
                "task": TASK,
                "input": {"scorers": scorers, "tried": chunk},
                "id": f"sc-{_short(prepared.digest, side.release, msgspec.json.encode(chunk))}",
                "tags": {"evaluation": prepared.name},
            }
            for chunk in chunks
        ]
        handles = await self._client.submit_many(plan.scoring_queue, jobs)
        async with self._telling(plan.scoring_queue, len(chunks)):
            parts = await asyncio.gather(
                *(
                    self._scored(handle, len(chunk), len(scorers))
                    for handle, chunk in zip(handles, chunks, strict=True)
                )
            )
        return Scored(
            tuple(tuple(row for part in parts for row in part.values[i]) for i in range(len(scorers))),
            tuple(dict.fromkeys(fault for part in parts for fault in part.faults)),
        )

    async def _scored(self, handle: JobHandle, items: int, scorers: int) -> Scored:
        try:
            return msgspec.convert(await self._client.result(handle), Scored)
        except JobEnded as error:
            nothing: Scores = ((),) * items
            return Scored((nothing,) * scorers, (f"scoring job {handle.id}: {error}",))
        finally:
            self._ended += 1


def answer_of(records: Iterable[Record]) -> Answer:
    """What a job came to, by its records."""
    job: Job | None = None
    cost: int | None = 0
    run_ms, tools, texts = 0, list[str](), list[str]()
    for record in records:
        for event in record.events:
            job = evolve(job, event, record)
            if isinstance(event, UsageRecorded):
                cost = None if cost is None or event.cost_microusd is None else cost + event.cost_microusd
            elif isinstance(event, ToolCalled):
                tools.append(event.tool)
                texts += [_text(each) for each in (event.params, event.result) if each is not None]
            elif isinstance(event, AttemptFailed | JobCompleted):
                run_ms += event.run_ms or 0
                if isinstance(event, AttemptFailed) and event.error.text is not None:
                    texts.append(_text(event.error.text))
    if job is None:
        raise ValueError("a job that has ended has records")
    output = job.output
    return Answer(
        state=job.state.value,
        output=None if output is None or output.key != UNSEALED else msgspec.json.decode(unseal(output)),
        error=None if job.error is None or job.error.text is None else _text(job.error.text),
        run_s=run_ms / 1e3,
        cost_microusd=cost,
        tools=tuple(tools),
        texts=tuple(texts),
    )


def _text(sealed: Sealed) -> str:
    return unseal(sealed).decode(errors="replace") if sealed.key == UNSEALED else ""


def _chunks(tried: Sequence[Tried]) -> Iterable[list[Tried]]:
    """Items in their order, together while their answers are few enough for one message."""
    chunk, size = list[Tried](), 0
    for each in tried:
        more = len(msgspec.json.encode(each))
        if chunk and size + more > CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
        chunk.append(each)
        size += more
    if chunk:
        yield chunk


def _short(*parts: object) -> str:
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()[:16]


def _within_one(scores: Scores) -> bool:
    return all(value is None or 0 <= value <= 1 for tries in scores for value in tries)


def exit_code(outcome: Outcome) -> int:
    """0 for a pass, 1 for a failure, 4 where nothing is decided."""
    return {Outcome.PASS: 0, Outcome.FAIL: 1, Outcome.INCONCLUSIVE: 4}[outcome]
