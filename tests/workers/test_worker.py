"""The worker against an orchestrator in memory: leases, beats, reports, drains."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from writ.broker.clock import SystemClock
from writ.broker.connect import Target
from writ.broker.errors import PermissionDenied
from writ.schemas.bounds import MESSAGE_MAX_BYTES
from writ.schemas.commands import Acquired, Answer, Lease, Renewed, Reported
from writ.schemas.errors import ErrorClass
from writ.schemas.ids import lanes_of
from writ.schemas.rejections import Rejection, RejectionKind
from writ.workers import (
    Cancelled,
    Context,
    PolicyViolation,
    RetryAfter,
    Task,
    Worker,
    WorkerError,
    keeper,
    task,
)

if TYPE_CHECKING:
    from tests.workers.conftest import Call, Orchestra

TRY_LATER = msgspec.json.encode(Answer(Rejection(RejectionKind.TRY_LATER, "ask again")))


def worker(orchestra: Orchestra, *tasks: Task[..., Any], queues: Any = "q", **options: Any) -> Worker:
    async def connect() -> Orchestra:
        return orchestra

    options = {"wait_s": 0.05, "concurrency": 4} | options
    return Worker(queues, tasks, name="w1", target=Target(), connect=connect, **options)


@asynccontextmanager
async def running(made: Worker, orchestra: Orchestra | None = None) -> AsyncGenerator[asyncio.Task[None]]:
    """A worker at work, drained at the end; all on this loop where the orchestra is given."""
    run = asyncio.create_task(made.run() if orchestra is None else made.run_inline(orchestra))
    try:
        yield run
    finally:
        made.drain()
        await asyncio.wait_for(run, 30)


@task
async def double(n: int) -> int:
    return 2 * n


@task
def square(n: int) -> int:
    return n * n


# --- running --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inline", [True, False])
async def test_coroutines_and_plain_functions_are_run_and_reported(
    orchestra: Orchestra, inline: bool
) -> None:
    doubled = {orchestra.add("double", {"n": n}): 2 * n for n in range(50)}
    squared = {orchestra.add("square", {"n": n}): n * n for n in range(50)}
    made = worker(orchestra, double, square, concurrency=20)
    async with running(made, orchestra if inline else None):
        await orchestra.until(lambda: len(orchestra.completed) == 100)
    assert orchestra.completed == doubled | squared
    assert (made.counts.acquired, made.counts.completed, made.stale) == (100, 100, 0)
    assert not orchestra.live


async def test_reports_of_a_queue_travel_together(orchestra: Orchestra) -> None:
    for n in range(300):
        orchestra.add("double", {"n": n})
    async with running(worker(orchestra, double, concurrency=100), orchestra):
        await orchestra.until(lambda: len(orchestra.completed) == 300)
    assert len(orchestra.called("complete")) < 20
    assert max(call.command.count for call in orchestra.called("acquire")) == 100


async def test_the_wire_and_user_code_have_a_thread_each(orchestra: Orchestra) -> None:
    seen: dict[str, int] = {}

    @task
    async def where_async() -> None:
        seen["async"] = threading.get_ident()

    @task
    def where_plain() -> None:
        seen["plain"] = threading.get_ident()

    orchestra.add("where_async")
    orchestra.add("where_plain")
    async with running(worker(orchestra, where_async, where_plain)):
        await orchestra.until(lambda: len(orchestra.completed) == 2)
    assert seen["async"] == threading.get_ident()
    assert seen["plain"] != threading.get_ident()
    assert orchestra.closed


async def test_no_more_run_at_once_than_there_are_slots_and_every_queue_gets_its_turn(
    orchestra: Orchestra,
) -> None:
    now = most = 0

    @task
    async def counted() -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1

    queues = ("a", "b", "c")
    for number in range(60):
        orchestra.add("counted", queue=queues[number % 3])
    made = worker(orchestra, counted, queues=queues, concurrency=2)
    async with running(made, orchestra):
        await orchestra.until(lambda: len(orchestra.completed) == 60)
    assert most == 2


async def test_a_queue_that_is_empty_does_not_keep_the_slots_from_another(orchestra: Orchestra) -> None:
    gate = asyncio.Event()

    @task
    async def held() -> None:
        await gate.wait()

    for _ in range(40):
        orchestra.add("held", queue="busy")
    made = worker(orchestra, held, queues=("idle", "busy"), concurrency=40, wait_s=5)
    async with running(made, orchestra):
        await orchestra.until(lambda: len(orchestra.live) >= 35)
        gate.set()
        await orchestra.until(lambda: len(orchestra.completed) == 40)
        made.drain()
        made.drain()


@pytest.mark.parametrize("concurrency", [1, 8])
async def test_queues_get_leases_by_their_weights(orchestra: Orchestra, concurrency: int) -> None:
    served: list[str] = []

    @task
    async def noted(ctx: Context) -> None:
        served.append(ctx.queue)
        await asyncio.sleep(0)

    for queue in ("mail", "reports"):
        for _ in range(120):
            orchestra.add("noted", queue=queue)
    weights = {"mail": 3, "reports": 1}
    made = worker(orchestra, noted, queues=weights, concurrency=concurrency)
    async with running(made, orchestra):
        await orchestra.until(lambda: len(orchestra.completed) == 240)
    first = served[:120]
    assert 20 <= first.count("reports") <= 40, "three of mail for each of reports, while both have jobs"


@task
async def big() -> str:
    return "x" * 200_000


async def test_big_outputs_are_spread_over_messages(orchestra: Orchestra) -> None:
    for _ in range(12):
        orchestra.add("big")
    async with running(worker(orchestra, big, concurrency=12), orchestra):
        await orchestra.until(lambda: len(orchestra.completed) == 12)
    assert max(call.size_bytes for call in orchestra.called("complete")) < MESSAGE_MAX_BYTES


class Growing:
    """A codec that makes many bytes of each."""

    name = "growing"

    def __init__(self, times: int = 1) -> None:
        self._times = times

    def encode(self, content: bytes) -> bytes:
        return content * self._times

    def decode(self, data: bytes) -> bytes:
        return data[: len(data) // self._times]


async def test_what_a_codec_makes_of_big_outputs_is_spread_over_messages(orchestra: Orchestra) -> None:
    for _ in range(12):
        orchestra.add("big")
    async with running(worker(orchestra, big, concurrency=12, codecs=[Growing()]), orchestra):
        await orchestra.until(lambda: len(orchestra.completed) == 12)
    assert not orchestra.too_large
    assert len(orchestra.called("complete")) <= 6


async def test_an_output_that_no_message_holds_fails_its_attempt_and_holds_nobody_up(
    orchestra: Orchestra,
) -> None:
    @task
    async def sized(n: int) -> str:
        return "x" * n

    large = orchestra.add("sized", {"n": 200_000})
    small = {orchestra.add("sized", {"n": n}) for n in range(1, 5)}
    made = worker(orchestra, sized, concurrency=5, codecs=[Growing(times=8)])
    async with running(made, orchestra):
        await orchestra.until(lambda: len(orchestra.completed) == 4 and orchestra.failed)
    assert orchestra.completed.keys() == small
    assert orchestra.failed[large].type == "OutputRefused"
    assert orchestra.too_large <= 2, "with the others, and by itself"


async def test_what_a_codec_makes_of_big_notes_is_spread_over_messages(orchestra: Orchestra) -> None:
    @task
    async def steps(ctx: Context) -> int:
        return len(await ctx.step("big", lambda: "x" * 250_000))

    for _ in range(8):
        orchestra.add("steps")
    orchestra.answer = lambda call: msgspec.json.encode(Reported()) if call.verb == "note" else None
    async with running(worker(orchestra, steps, concurrency=8, codecs=[Growing()]), orchestra):
        await orchestra.until(lambda: len(orchestra.completed) == 8)
    assert not orchestra.too_large


async def test_a_note_that_no_message_holds_is_refused_and_the_others_are_stored(
    orchestra: Orchestra,
) -> None:
    @task
    async def steps(ctx: Context, n: int) -> int:
        return len(await ctx.step("sized", lambda: "x" * n))

    large = orchestra.add("steps", {"n": 200_000})
    small = {orchestra.add("steps", {"n": n}) for n in range(1, 5)}
    orchestra.answer = lambda call: msgspec.json.encode(Reported()) if call.verb == "note" else None
    async with running(worker(orchestra, steps, concurrency=5, codecs=[Growing(times=8)]), orchestra):
        await orchestra.until(lambda: len(orchestra.completed) == 4 and orchestra.failed)
    assert small >= orchestra.completed.keys()
    assert orchestra.failed[large].type == "StepRefused"


# --- around tasks ---------------------------------------------------------------------------------------


async def test_what_stands_around_a_task_sees_it_begin_end_and_fail(orchestra: Orchestra) -> None:
    seen: list[str] = []

    @contextmanager
    def outer(ctx: Context) -> Generator[None]:
        seen.append(f"outer {ctx.task}")
        try:
            yield
        except ValueError as error:
            seen.append(f"failed {error}")
            raise RuntimeError("told otherwise") from error
        finally:
            seen.append("outer end")

    @asynccontextmanager
    async def inner(ctx: Context) -> AsyncGenerator[None]:
        await asyncio.sleep(0)
        seen.append("inner")
        yield

    @task(around=[inner])
    async def fine() -> str:
        seen.append("task")
        return "done"

    @task
    def fails() -> None:
        raise ValueError("no")

    first, second = orchestra.add("fine"), orchestra.add("fails")
    made = worker(orchestra, fine, fails, around=[outer], concurrency=1)
    async with running(made, orchestra):
        await orchestra.until(lambda: orchestra.failed)
    assert orchestra.completed[first] == "done"
    assert orchestra.failed[second].type == "RuntimeError"
    assert seen == ["outer fine", "inner", "task", "outer end", "outer fails", "failed no", "outer end"]


async def test_a_plain_task_with_something_asynchronous_around_it_is_refused(orchestra: Orchestra) -> None:
    @asynccontextmanager
    async def around(ctx: Context) -> AsyncGenerator[None]:
        yield

    @task(around=[around])
    def plain() -> None: ...

    job = orchestra.add("plain")
    async with running(worker(orchestra, plain)):
        await orchestra.until(lambda: orchestra.failed)
    assert (orchestra.failed[job].class_, "plain function" in orchestra.failed[job].text) == ("policy", True)


# --- failures -------------------------------------------------------------------------------------------


@task
async def misbehaving(how: str) -> Any:
    match how:
        case "error":
            raise ValueError("no such invoice \ud800")
        case "policy":
            raise PolicyViolation("four eyes are needed")
        case "later":
            raise RetryAfter(7.5)
        case "cancelled":
            raise Cancelled("enough")
        case "object":
            return object()
        case "large":
            return "x" * 300_000
        case "exit":
            raise SystemExit(3)
        case _:
            raise RuntimeError("x" * 50_000)


@pytest.mark.parametrize(
    ("how", "class_", "type_", "words"),
    [
        ("error", ErrorClass.APPLICATION, "ValueError", "no such invoice ?\n\nTraceback"),
        ("policy", ErrorClass.POLICY, "PolicyViolation", "four eyes are needed"),
        ("later", ErrorClass.APPLICATION, "RetryAfter", "7.5 s"),
        ("cancelled", ErrorClass.CANCELLED, "Cancelled", "enough"),
        ("object", ErrorClass.APPLICATION, "OutputNotSerializable", "object"),
        ("large", ErrorClass.APPLICATION, "OutputTooLarge", "300002 bytes; at most 262144"),
        ("exit", ErrorClass.APPLICATION, "SystemExit", "3"),
        ("long", ErrorClass.APPLICATION, "RuntimeError", "cut: 50000 characters in all"),
    ],
)
@pytest.mark.parametrize("plain", [False, True])
async def test_what_a_task_raises_decides_the_class(
    orchestra: Orchestra, how: str, class_: ErrorClass, type_: str, words: str, plain: bool
) -> None:
    @task(name="plain")
    def in_a_thread(how: str) -> Any:
        return asyncio.run(misbehaving(how))

    job = orchestra.add("plain" if plain else "misbehaving", {"how": how})
    async with running(worker(orchestra, misbehaving, in_a_thread)):
        await orchestra.until(lambda: orchestra.failed)
    failure = orchestra.failed[job]
    assert (failure.class_, failure.type) == (class_, type_)
    assert words in failure.text
    assert len(failure.text) <= 10_000
    assert failure.retry_after_s == (7.5 if how == "later" else None)


@pytest.mark.parametrize("seconds", [-1, math.nan, math.inf, 10 * 365 * 86_400 + 1])
def test_to_be_tried_again_after_what_is_no_time_is_refused_where_it_is_raised(seconds: float) -> None:
    with pytest.raises(ValueError, match="takes seconds from 0 to 315,360,000, not "):
        RetryAfter(seconds)
    assert RetryAfter(10 * 365 * 86_400).seconds == 10 * 365 * 86_400


async def test_the_traceback_begins_in_user_code(orchestra: Orchestra) -> None:
    job = orchestra.add("misbehaving", {"how": "error"})
    async with running(worker(orchestra, misbehaving)):
        await orchestra.until(lambda: orchestra.failed)
    text = orchestra.failed[job].text
    assert "test_worker.py" in text
    assert "hands.py" not in text


async def test_an_input_that_does_not_fit_names_the_field(orchestra: Orchestra) -> None:
    job = orchestra.add("double", {"n": "two"})
    async with running(worker(orchestra, double)):
        await orchestra.until(lambda: orchestra.failed)
    failure = orchestra.failed[job]
    assert (failure.class_, failure.type) == (ErrorClass.APPLICATION, "InputMismatch")
    assert failure.text == "input.n: Expected `int`, got `str`"
    assert failure.permanent, "the same input would fail in the same way"


# --- keeping leases -------------------------------------------------------------------------------------


async def test_a_task_that_blocks_the_event_loop_keeps_its_lease(orchestra: Orchestra) -> None:
    @task
    async def blocking() -> str:
        time.sleep(1)  # noqa: ASYNC251 - this is the mistake that the test is about
        return "done"

    job = orchestra.add("blocking", lease_s=0.3)
    async with running(worker(orchestra, blocking)):
        await orchestra.until(lambda: orchestra.completed)
    assert orchestra.completed == {job: "done"}
    assert len(orchestra.called("renew")) >= 5


async def test_one_beat_names_all_leases_of_a_queue(orchestra: Orchestra) -> None:
    gate = asyncio.Event()

    @task
    async def held() -> None:
        await gate.wait()

    jobs = {orchestra.add("held", lease_s=30), orchestra.add("held", lease_s=0.3)}
    async with running(worker(orchestra, held), orchestra):
        await orchestra.until(lambda: len(orchestra.called("renew")) >= 2)
        gate.set()
    assert {held.id for held in orchestra.called("renew")[-1].command.leases} == jobs


async def test_work_whose_lease_is_lost_is_stopped_and_not_reported(orchestra: Orchestra) -> None:
    begun: list[str] = []
    stopped: list[str] = []

    @task
    async def coroutine(ctx: Context) -> None:
        begun.append("coroutine")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            stopped.append(f"coroutine {ctx.cancelled}")
            raise

    @task
    def plain(ctx: Context) -> None:
        begun.append("plain")
        while not ctx.cancelled:
            time.sleep(0.002)
        stopped.append("plain")

    jobs = [orchestra.add("coroutine", lease_s=0.1), orchestra.add("plain", lease_s=0.1)]
    made = worker(orchestra, coroutine, plain)
    async with running(made):
        await orchestra.until(lambda: len(begun) == 2)
        for job in jobs:
            orchestra.lose(job)
        await orchestra.until(lambda: len(stopped) == 2)
    assert sorted(stopped) == ["coroutine True", "plain"]
    assert made.counts.lost == 2
    assert not orchestra.called("complete") + orchestra.called("fail") + orchestra.called("release")


async def test_a_lost_lease_that_is_not_a_verdict_stops_nothing(orchestra: Orchestra) -> None:
    gate = asyncio.Event()

    @task
    async def held() -> None:
        await gate.wait()

    later = Renewed(lost=(Rejection(RejectionKind.TRY_LATER, "ask again", None, 0),))
    orchestra.answer = lambda call: msgspec.json.encode(later) if call.verb == "renew" else None
    job = orchestra.add("held", lease_s=0.1)
    async with running(worker(orchestra, held), orchestra):
        await orchestra.until(lambda: len(orchestra.called("renew")) >= 3)
        gate.set()
        await orchestra.until(lambda: job in orchestra.completed)


async def test_a_cancelled_job_ends_as_cancelled(orchestra: Orchestra) -> None:
    @task
    async def coroutine() -> None:
        await asyncio.sleep(60)

    @task
    def plain(ctx: Context) -> None:
        while True:
            ctx.raise_if_cancelled()
            time.sleep(0.002)

    jobs = {orchestra.add("coroutine", lease_s=0.1), orchestra.add("plain", lease_s=0.1)}
    orchestra.cancel = jobs
    async with running(worker(orchestra, coroutine, plain)):
        await orchestra.until(lambda: len(orchestra.failed) == 2)
    assert {failure.class_ for failure in orchestra.failed.values()} == {ErrorClass.CANCELLED}


async def test_work_that_was_done_in_spite_of_a_cancel_is_reported_as_done(orchestra: Orchestra) -> None:
    @task
    def plain(ctx: Context) -> str:
        while not ctx.cancelled:
            time.sleep(0.002)
        return "sent already"

    job = orchestra.add("plain", lease_s=0.1)
    orchestra.cancel = {job}
    async with running(worker(orchestra, plain)):
        await orchestra.until(lambda: orchestra.completed)
    assert orchestra.completed == {job: "sent already"}


async def test_start_is_said_only_of_attempts_that_last(
    orchestra: Orchestra, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "STARTED_AFTER_S", 0.05)
    gate = asyncio.Event()

    @task
    async def held() -> None:
        await gate.wait()

    orchestra.add("double", {"n": 1})
    lasting = {orchestra.add("held"), orchestra.add("held")}
    async with running(worker(orchestra, double, held), orchestra):
        await orchestra.until(lambda: orchestra.called("start"))
        gate.set()
    (call,) = orchestra.called("start")
    assert {held.id for held in call.command.leases} == lasting


async def test_an_attempt_that_runs_too_long_is_ended(
    orchestra: Orchestra, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "STARTED_AFTER_S", 0.05)

    @task
    async def endless() -> None:
        await asyncio.sleep(60)

    job = orchestra.add("endless", attempt_timeout_s=0.1)
    async with running(worker(orchestra, endless), orchestra):
        await orchestra.until(lambda: orchestra.failed)
    assert orchestra.failed[job].class_ is ErrorClass.TIMEOUT


# --- reporting ------------------------------------------------------------------------------------------


async def test_tasks_go_on_while_the_broker_is_away_and_are_reported_afterwards(orchestra: Orchestra) -> None:
    gate = asyncio.Event()
    ended: list[int] = []

    @task
    async def held(n: int) -> int:
        await gate.wait()
        ended.append(n)
        return n

    jobs = {orchestra.add("held", {"n": n}, lease_s=0.1): n for n in range(3)}
    made = worker(orchestra, held)
    async with running(made, orchestra):
        await orchestra.until(lambda: len(orchestra.live) == 3)
        orchestra.away = True
        gate.set()
        await orchestra.until(lambda: len(ended) == 3)
        assert not orchestra.completed
        orchestra.away = False
        await orchestra.until(lambda: len(orchestra.completed) == 3)
    assert orchestra.completed == jobs
    assert made.stale == 0


async def test_strict_work_ends_before_its_lease_can_and_is_not_told_as_done(
    orchestra: Orchestra, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, now_us = SystemClock(), 1_000_000
    monkeypatch.setattr(clock, "mono_us", lambda: now_us)
    ended: list[str] = []

    @task
    async def stubborn(ctx: Context) -> str:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        ended.append(ctx.id)
        return "done"

    def beats(count: int) -> Callable[[], bool]:
        """So many more renewals, one at a time: all but the last of them are answered."""
        wanted = len(orchestra.called("renew")) + count
        return lambda: len(orchestra.called("renew")) >= wanted

    job = orchestra.add("stubborn", lease_s=1, strict=True)
    async with running(worker(orchestra, stubborn, clock=clock), orchestra):
        await orchestra.until(beats(1))
        now_us = 1_600_000
        await orchestra.until(beats(3))
        now_us = 2_200_000  # behind what the first lease alone allows
        await orchestra.until(beats(3))
        assert not ended
        orchestra.away = True
        now_us = 3_160_000  # the lease is over at 3.2 s, or sooner where log time runs faster
        await orchestra.until(lambda: ended)
        orchestra.away = False
        await orchestra.until(lambda: orchestra.released)
    assert (orchestra.released, orchestra.completed, orchestra.failed) == ([job], {}, {})


async def test_a_renewal_without_a_verdict_does_not_prolong_a_strict_lease(
    orchestra: Orchestra,
) -> None:
    @task
    async def endless() -> None:
        await asyncio.sleep(60)

    def answer(call: Any) -> bytes | None:
        if call.verb != "renew":
            return None
        unknown = [
            Rejection(RejectionKind.TRY_LATER, "ask again", None, at)
            for at in range(len(call.command.leases))
        ]
        return msgspec.json.encode(Renewed(lost=tuple(unknown)))

    orchestra.answer = answer
    job = orchestra.add("endless", lease_s=1, strict=True)
    async with running(worker(orchestra, endless), orchestra):
        await orchestra.until(lambda: orchestra.released)
    assert orchestra.released == [job]


@pytest.mark.parametrize(("parked_s", "begins"), [(5.0, True), (0.0, False)])
async def test_strict_work_that_comes_too_late_is_not_begun(
    orchestra: Orchestra, monkeypatch: pytest.MonkeyPatch, parked_s: float, begins: bool
) -> None:
    """An acquire may wait longer than a lease lives: how long the grant was parked says how much is left."""
    clock = SystemClock()
    asked_us = clock.mono_us()
    monkeypatch.setattr(clock, "mono_us", lambda: asked_us + (5_000_000 if orchestra.live else 0))
    job = orchestra.add("double", {"n": 1}, lease_s=2, strict=True, parked_s=parked_s)
    async with running(worker(orchestra, double, clock=clock), orchestra):
        await orchestra.until(lambda: orchestra.completed or orchestra.released)
    assert (job in orchestra.completed) is begins
    assert (job in orchestra.released) is not begins


async def test_try_later_is_asked_again(orchestra: Orchestra) -> None:
    unkind = {"acquire": 2, "complete": 2}

    def answer(call: Any) -> bytes | None:
        if unkind.get(call.verb, 0) > 0:
            unkind[call.verb] -= 1
            return TRY_LATER
        return None

    orchestra.answer = answer
    job = orchestra.add("double", {"n": 4})
    async with running(worker(orchestra, double), orchestra):
        await orchestra.until(lambda: job in orchestra.completed)
    assert len(orchestra.called("complete")) == 3


async def test_what_ends_while_many_reports_are_put_off_is_reported(orchestra: Orchestra) -> None:
    """It waited behind a message of several that came to nothing, and was forgotten there."""
    gate, ended, refused = asyncio.Event(), False, 0

    @task
    async def late() -> None:
        nonlocal ended
        await gate.wait()
        ended = True

    def answer(call: Any) -> bytes | None:
        nonlocal refused
        if call.verb != "complete" or refused > 4:
            return None
        gate.set()
        refused += ended
        return TRY_LATER

    orchestra.answer = answer
    jobs = [orchestra.add("double", {"n": n}) for n in range(8)]
    jobs.append(orchestra.add("late"))
    async with running(worker(orchestra, double, late), orchestra):
        await orchestra.until(lambda: set(jobs) <= set(orchestra.completed))


async def test_a_stale_report_is_counted_and_void(orchestra: Orchestra) -> None:
    gate = asyncio.Event()

    @task
    async def held() -> None:
        await gate.wait()

    job = orchestra.add("held")
    made = worker(orchestra, held)
    async with running(made, orchestra):
        await orchestra.until(lambda: orchestra.live)
        orchestra.lose(job)
        gate.set()
        await orchestra.until(lambda: made.stale == 1)
    assert not orchestra.completed
    assert len(orchestra.called("complete")) == 1


async def test_one_report_that_spoils_a_message_does_not_hold_up_the_others(orchestra: Orchestra) -> None:
    refusal = msgspec.json.encode(Answer(Rejection(RejectionKind.MALFORMED, "not to our liking", "reports")))

    def answer(call: Any) -> bytes | None:
        bad = call.verb == "complete" and any(
            bytes(report.output) == b"26" for report in call.command.reports
        )
        return refusal if bad else None

    orchestra.answer = answer
    jobs = {n: orchestra.add("double", {"n": n}) for n in range(10, 16)}
    async with running(worker(orchestra, double, concurrency=6), orchestra):
        await orchestra.until(lambda: len(orchestra.completed) == 5 and orchestra.failed)
    assert orchestra.failed[jobs[13]].type == "OutputRefused"


async def test_a_worker_that_may_not_acquire_says_so(orchestra: Orchestra) -> None:
    orchestra.deny = PermissionDenied("writ.lease.default.owner.acquire.q")
    with pytest.raises(WorkerError, match=r"permission denied: this principal may not publish to writ.lease"):
        await worker(orchestra, double).run()
    assert orchestra.closed


async def test_a_lane_that_the_broker_has_not_opened_yet_is_asked_again(orchestra: Orchestra) -> None:
    """The broker learns of lanes a moment later than a worker whose role is in that queue alone."""
    lanes = lanes_of("q", 2)
    denied: list[str] = []

    def answer(call: Call) -> bytes | None:
        if call.verb == "acquire" and call.queue == "q":
            return msgspec.json.encode(Acquired(lanes=2))
        if call.queue in lanes and len(denied) < 3:
            denied.append(call.queue)
            raise PermissionDenied(f"writ.lease.default.owner.acquire.{call.queue}")
        return None

    orchestra.answer = answer
    job = orchestra.add("double", {"n": 4}, queue=lanes[1])
    async with running(worker(orchestra, double), orchestra):
        await orchestra.until(lambda: orchestra.completed == {job: 8})
    assert len(denied) == 3


# --- late answers and drains ----------------------------------------------------------------------------


async def test_leases_in_an_answer_that_is_late_are_given_back_where_their_slots_are_asked_for_again(
    orchestra: Orchestra, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "PATIENCE_S", 0.05)
    late = iter([0.5])
    orchestra.delay_s = lambda verb: next(late, 0.0) if verb == "acquire" else 0.0
    lease = Lease("late", "double", 77, 1, msgspec.Raw(b'{"n":1}'))
    answer = msgspec.json.encode(Acquired(leases=(lease,)))
    orchestra.answer = lambda call: answer if call is orchestra.called("acquire")[0] else None
    orchestra.live["late"] = 77
    async with running(worker(orchestra, double), orchestra):
        await orchestra.until(lambda: orchestra.released == ["late"])
        job = orchestra.add("double", {"n": 4})
        await orchestra.until(lambda: orchestra.completed == {job: 8})


async def test_all_leases_of_answers_that_were_lost_are_asked_for_again(orchestra: Orchestra) -> None:
    """Of what the worker holds one answer tells only a part."""
    gate = asyncio.Event()

    @task
    async def held(n: int) -> int:
        await gate.wait()
        return n

    first = orchestra.add("held", {"n": 0})
    async with running(worker(orchestra, held), orchestra):
        await orchestra.until(lambda: orchestra.called("start") or orchestra.live)
        orchestra.losing = 1
        jobs = [first, *(orchestra.add("held", {"n": n}) for n in (1, 2, 3))]
        await orchestra.until(lambda: not orchestra.losing)
        gate.set()
        await orchestra.until(lambda: len(orchestra.completed) == 4)
    assert orchestra.completed == {job: n for n, job in enumerate(jobs)}
    asked = [call.command for call in orchestra.called("acquire") if call.command.again]
    assert 1 in asked[0].known
    assert len(asked) == 4, "one for each, and one that told of no other"


async def test_a_lease_of_which_two_answers_tell_is_run_once(
    orchestra: Orchestra, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The later answer comes when one of its runs is over, and the other has the last slot."""
    monkeypatch.setattr(keeper, "PATIENCE_S", 0.05)
    runs, gate, late = list[int](), asyncio.Event(), asyncio.Event()
    request = orchestra.request

    @task
    async def once(n: int) -> int:
        runs.append(n)
        return n

    @task
    async def held() -> None:
        await gate.wait()

    async def slow(subject: str, body: bytes, timeout_s: float) -> bytes:
        answer = await request(subject, body, timeout_s)
        if len(orchestra.called("acquire")) == 1:
            await late.wait()
        return answer

    monkeypatch.setattr(orchestra, "request", slow)
    job, other = orchestra.add("once", {"n": 1}), orchestra.add("held")
    async with running(worker(orchestra, once, held, concurrency=2, wait_s=0.05), orchestra):
        await orchestra.until(lambda: orchestra.completed == {job: 1})
        filler = orchestra.add("held")
        await orchestra.until(lambda: filler in orchestra.live)
        late.set()
        gate.set()
        last = orchestra.add("once", {"n": 2})
        await orchestra.until(lambda: orchestra.completed.keys() == {job, other, filler, last})
    assert (runs, orchestra.released) == ([1, 2], [])


async def test_a_drain_lets_running_tasks_end_and_acquires_no_more(orchestra: Orchestra) -> None:
    gate = asyncio.Event()

    @task
    async def held() -> str:
        await gate.wait()
        return "ended"

    job = orchestra.add("held")
    made = worker(orchestra, held)
    run = asyncio.create_task(made.run_inline(orchestra))
    await orchestra.until(lambda: orchestra.live)
    made.drain()
    asked = len(orchestra.called("acquire"))
    left = orchestra.add("held")
    gate.set()
    await asyncio.wait_for(run, 30)
    assert orchestra.completed == {job: "ended"}
    assert len(orchestra.called("acquire")) <= asked + 1
    assert left not in orchestra.live


async def test_what_still_runs_at_the_end_of_a_drain_is_stopped_and_released(orchestra: Orchestra) -> None:
    begun: list[str] = []
    unwound: list[str] = []
    ended = threading.Event()

    @task
    async def coroutine() -> None:
        begun.append("coroutine")
        try:
            await asyncio.sleep(60)
        finally:
            unwound.append("coroutine")

    @task
    def deaf() -> None:
        begun.append("deaf")
        ended.wait(30)

    jobs = [orchestra.add("coroutine"), orchestra.add("deaf")]
    made = worker(orchestra, coroutine, deaf, drain_s=0.05)
    run = asyncio.create_task(made.run())
    await orchestra.until(lambda: len(begun) == 2)
    made.drain()
    await asyncio.wait_for(run, 30)
    ended.set()
    assert unwound == ["coroutine"]
    assert sorted(orchestra.released) == sorted(jobs)
    assert {call.command.reason for call in orchestra.called("release")} == {"drain"}
    assert made.counts.released == 2


async def test_what_ends_while_its_lease_is_released_is_not_reported_besides(orchestra: Orchestra) -> None:
    begun = threading.Event()
    ended = threading.Event()
    gone = threading.Event()

    @task
    def deaf() -> None:
        begun.set()
        ended.wait(30)
        gone.set()

    def delay_s(verb: str) -> float:
        if verb == "release":
            ended.set()
            assert gone.wait(10)
            return 0.05
        return 0.0

    orchestra.delay_s = delay_s
    job = orchestra.add("deaf")
    made = worker(orchestra, deaf)
    run = asyncio.create_task(made.run())
    await orchestra.until(begun.is_set)
    made.drain()
    made.drain()
    await asyncio.wait_for(run, 30)
    assert orchestra.released == [job]
    assert not orchestra.called("complete")


async def test_leases_that_an_acquire_brings_during_a_drain_are_released(orchestra: Orchestra) -> None:
    orchestra.deaf_to_withdraw = True
    made = worker(orchestra, double, wait_s=2)
    run = asyncio.create_task(made.run_inline(orchestra))
    await orchestra.until(lambda: orchestra.called("acquire")[1:])  # the first does not wait
    made.drain()
    job = orchestra.add("double", {"n": 1})
    await asyncio.wait_for(run, 30)
    assert orchestra.released == [job]
    assert not orchestra.completed


async def test_a_drain_takes_waiting_acquires_back(orchestra: Orchestra) -> None:
    made = worker(orchestra, double, wait_s=30)
    run = asyncio.create_task(made.run_inline(orchestra))
    await orchestra.until(lambda: orchestra.called("acquire")[1:])  # the first does not wait
    made.drain()
    await asyncio.wait_for(run, 30)
    assert len(orchestra.called("withdraw")) == 1
    assert len(orchestra.called("acquire")) == 2


async def test_signals_drain_and_a_second_one_releases_at_once(orchestra: Orchestra) -> None:
    begun = asyncio.Event()
    stopping = asyncio.Event()

    @task
    async def held() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            stopping.set()

    before = signal.getsignal(signal.SIGTERM)
    job = orchestra.add("held")
    made = worker(orchestra, held)
    run = asyncio.create_task(made.run(handle_signals=True))
    await orchestra.until(begun.is_set)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.sleep(0)
    assert not stopping.is_set()
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(run, 30)
    await asyncio.wait_for(stopping.wait(), 30)
    assert orchestra.released == [job]
    assert signal.getsignal(signal.SIGTERM) == before


async def test_cancelling_run_releases_at_once(orchestra: Orchestra) -> None:
    @task
    async def held() -> None:
        await asyncio.sleep(60)

    job = orchestra.add("held")
    run = asyncio.create_task(worker(orchestra, held).run())
    await orchestra.until(lambda: orchestra.live)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert orchestra.released == [job]
    assert orchestra.closed


# --- set-up ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("queues", "options", "words"),
    [
        ((), {}, "no queue is given"),
        ("a.b", {}, "queue 'a.b' holds '.'"),
        ("q", {"concurrency": 0}, "concurrency is 0; give 1 to 10,000"),
        ("q", {"wait_s": 31}, "wait_s is 31; give 0 to 30 seconds"),
    ],
)
def test_a_wrong_set_up_is_refused(
    orchestra: Orchestra, queues: Any, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(WorkerError, match=words):
        worker(orchestra, double, queues=queues, **options)


def test_two_tasks_of_one_name_are_refused(orchestra: Orchestra) -> None:
    @task(name="double")
    async def other() -> None: ...

    with pytest.raises(WorkerError, match="two tasks are named double"):
        worker(orchestra, double, other)


async def test_the_context_tells_which_attempt_this_is(
    orchestra: Orchestra, caplog: pytest.LogCaptureFixture
) -> None:
    @task
    async def telling(ctx: Context) -> list[Any]:
        ctx.log.warning("hello")
        return [ctx.tenant, ctx.queue, ctx.id, ctx.task, ctx.attempt, ctx.fencing_token, ctx.idempotency_key]

    job = orchestra.add("telling", id="7")
    async with running(worker(orchestra, telling), orchestra):
        await orchestra.until(lambda: orchestra.completed)
    assert orchestra.completed[job] == ["default", "q", "7", "telling", 1, 1, "default/q/7"]
    assert "[q/7 attempt 1] hello" in caplog.text
