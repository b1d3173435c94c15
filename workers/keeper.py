"""The keeper: acquires leases, keeps them alive, reports what became of them. Runs no user code.

    acquire --> begin (hands) --> finished --> complete | fail | release, repeated until answered
                   |  every third of a lease: renew --> lost: stop, report nothing
                   |                                    cancel: stop, report `cancelled`
                   |  no answer, and the queue is strict: stop before the lease may be over, release
                   '-- after 1 s: start

A slot is taken from the asking for a lease until its user code has ended. A lease is held, and renewed,
until its report is answered.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from writ.broker.clock import Clock
from writ.broker.coding import Coder
from writ.broker.errors import NoAnswer, PermissionDenied, Unreachable, WireError
from writ.broker.wire import Wire
from writ.schemas.bounds import LEASES_PER_REQUEST_MAX, RENEWALS_PER_REQUEST_MAX
from writ.schemas.commands import (
    Acquire,
    Acquired,
    Answer,
    Lease,
    Reported,
    Start,
    Withdraw,
    WorkerAbout,
)
from writ.schemas.errors import ErrorClass
from writ.schemas.ids import lanes_of, queue_of

from .asking import Asking, Refused, TryLater
from .beats import Beats
from .children import Errands
from .errors import Cancelled, WorkerError
from .faults import Fault, Stop
from .hands import Hands, Outbox, from_anywhere
from .line import Counts, Line, Post, held
from .notes import Notes
from .recording import first_run, recorded_steps
from .redaction import Redactor
from .reports import REPORT_TIMEOUT_S, Reports
from .run import Run
from .spans import Spans
from .steps import NotReproducible, StepRefused
from .tasks import Task

log = logging.getLogger("writ.worker")

PATIENCE_S: Final = 5.0
"""How long after its wait an acquire's answer may be late before another one is sent."""

STRAGGLER_S: Final = 60.0
"""How long a late answer is still listened for: leases that it brings are run or released, never lost."""

STARTED_AFTER_S: Final = 1.0
TICK_S: Final = 0.5
SCARCE_WAIT_S: Final = 1.0
"""The wait of an acquire while there are fewer free slots than queues: the others want their turn."""

TELL_TASKS_S: Final = 600.0
"""So often a worker says what its tasks take: a leader that is new asks for nothing that it may not need."""

UNWIND_S: Final = 2.0
FLUSH_S: Final = 10.0
_SECOND_US: Final = 1_000_000


class Keeper:
    """Keeps one worker's leases over a wire. All methods are called on the loop that runs `run`."""

    def __init__(
        self,
        wire: Wire,
        post: Post,
        tasks: Mapping[str, Task[..., Any]],
        clock: Clock,
        entropy: Callable[[], float],
        coder: Coder | None = None,
    ) -> None:
        self.counts = Counts()
        self._post = post
        self._tasks = tasks
        self._names = tuple(tasks)
        self._clock = clock
        self._now_us = clock.mono_us
        self._entropy = entropy
        self._hands: Hands | None = None
        self.redactor = Redactor()
        self._lines = deque(
            Line(queue, post.tenant, post.weights.get(queue, 1), self.redactor) for queue in post.queues
        )
        self._known = set(post.queues)
        """Queues and lanes that have a line."""
        self._free = post.concurrency
        self._polls = 0
        self._told_us: int | None = None
        self._draining = False
        self._hurry = False
        self._failure: Exception | None = None
        self._changed = asyncio.Event()
        self._jobs: set[asyncio.Task[None]] = set()
        self._tick: asyncio.TimerHandle | None = None
        self._wire = wire
        self._asking = Asking(wire, post, self.redactor, coder or Coder())
        self._reports = Reports(
            self._asking, post.worker, self.counts, entropy, self._spawn, self._changed.set, self._fail
        )

        self._beats = Beats(
            self._asking,
            post.worker,
            clock,
            self.counts,
            self._spawn,
            self._stop,
            self._tell_heard,
            self._changed.set,
        )
        self._notes = Notes(self._asking, post.worker, entropy, self._spawn, self._all_noted, self._fail)
        self._unsent: set[Run] = set()
        """Runs that have ended, and of which not everything noted or said is in the log."""

        self._saying: set[Run] = set()
        """Runs of which something said is on its way."""

    async def run(self, hands: Hands) -> None:
        """Works until `drain`, then ends orderly. Raises WorkerError where the worker cannot go on."""
        self._hands = hands
        loop = asyncio.get_running_loop()
        self._errands = Errands(self._wire, self._asking, self._post, self._entropy, loop, self.redactor)
        outbox = Outbox(from_anywhere(asyncio.get_running_loop()), self._notes.take)
        self._outbox = outbox
        for line in self._lines:
            line.outbox, line.errands = outbox, self._errands
        try:
            self._fill()
            await self._until(lambda: self._draining, None)
            await self._wind_up()
        finally:
            for handle in (self._tick, *(line.beat for line in self._lines)):
                if handle is not None:
                    handle.cancel()
            for job in self._jobs:
                job.cancel()
            if self._jobs:
                await asyncio.wait(self._jobs)
        if self._failure is not None:
            raise WorkerError(f"worker {self._post.worker} cannot go on: {self._failure}") from self._failure

    @property
    def running(self) -> int:
        """Runs in the hands of user code. Asked from other threads, too: it reads copies."""
        return sum([not run.ended for line in tuple(self._lines) for run in list(line.held.values())])

    def drain(self) -> None:
        """Stops acquiring; called again, stops waiting for what runs, too."""
        self._hurry = self._draining
        self._draining = True
        self._changed.set()

    def release_now(self) -> None:
        """Gives everything back without waiting for what runs."""
        self._draining = self._hurry = True
        self._changed.set()

    def finished(self, runs: Iterable[Run]) -> None:
        """Takes back runs whose user code has ended."""
        for run in runs:
            self._free += 1
            if run.spans is not None:
                run.spans.end(run.fault, run.sleep, run.stop)
            if run.ended:
                continue  # given up on: its lease is being released
            run.ended = True
            if run.has_news:
                self._tell(run)
            if run.unsent or run in self._saying:
                self._unsent.add(run)  # what it noted and said stands before its end
            else:
                self._to_report(run)
        for line in self._lines:
            self._reports.flush(line)
        self._fill()
        self._changed.set()

    def _all_noted(self, runs: Iterable[Run]) -> None:
        """Runs of which everything noted so far is in the log."""
        for run in self._unsent.intersection(runs).difference(self._saying):
            self._unsent.discard(run)
            self._to_report(run)
            self._reports.flush(run.line)
        self._changed.set()

    @staticmethod
    def _to_report(run: Run) -> None:
        """Sorts a run that has ended by what is to be reported of it."""
        line = run.line
        if line.held.get(run.lease.token) is not run or run.stop is Stop.LOST:
            return  # void: lost or released already
        if run.fault is None and run.stop is not None and not run.began_us:
            text = run.stop.value
            kind = ErrorClass.TIMEOUT if run.stop is Stop.TIMEOUT else ErrorClass.CANCELLED
            run.fault = Fault(kind, "NotStarted", text)
        if run.stop is Stop.LAPSED:
            line.given_back.append(run)  # whatever became of it: nobody could know whether it was in time
        elif run.sleep is not None:
            line.asleep[run.sleep.verb].append(run)
        elif run.fault is None:
            line.completed.append(run)
        elif run.stop is Stop.RELEASE:
            line.given_back.append(run)
        else:
            line.failed.append(run)

    # --- acquiring --------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Asks for as many leases as there are free slots, shared out among the queues by their weights.

        Queues that seem empty have an acquire waiting for a few slots only (all of a quarter together), so
        that they do not keep slots from the others.
        """
        if self._draining or self._free <= 0:
            return
        slots = self._post.concurrency
        most = max(1, slots // 4)
        wanting = [line for line in self._lines if not line.resting and line.polls < (2 if line.hot else 1)]
        wanting.sort(key=lambda line: line.turn)
        weight = sum(line.weight for line in wanting)
        for place, line in enumerate(wanting):
            if self._free <= 0:
                break
            waiters = len(wanting) - place
            share = min(self._free, int(-(-self._free * line.weight // weight)))
            weight -= line.weight
            if len(self._lines) > 1 and not line.hot:
                share = min(share, max(1, most // len(self._lines)))
            if line.polls and share < most:
                continue  # a second acquire at a time is worth it only for many
            count = min(share, LEASES_PER_REQUEST_MAX)
            scarce = waiters > self._free
            wait_s = min(self._post.wait_s, SCARCE_WAIT_S) if scarce else self._post.wait_s
            if not line.greeted:
                line.greeted, wait_s = True, 0.0  # it may have lanes: whoever waits for jobs learns it late
            self._free -= count
            self._polls += 1
            line.polls += 1
            line.turn += count / line.weight
            self._spawn(self._poll(line, count, wait_s))
        self._lines.rotate(-1)

    def _about(self, now_us: int) -> WorkerAbout | None:
        """What it says of itself; what its tasks take only now and then, as that is long."""
        about = self._post.about
        if about is None or self._told_us is None or now_us - self._told_us >= TELL_TASKS_S * _SECOND_US:
            self._told_us = now_us
            return about
        return msgspec.structs.replace(about, tasks={})

    async def _poll(self, line: Line, count: int, wait_s: float) -> None:
        """One acquire. Its slots are free again but for the leases that it brings."""
        post = self._post
        asked_us = self._now_us()
        about = self._about(asked_us)
        command = Acquire(
            post.worker, count, wait_s, self._names, about, post.isolation, post.releases, post.labels
        )
        taken, open_ = 0, line.opened()
        asking = asyncio.ensure_future(
            self._asking.ask(line.queue, "acquire", command, Acquired, wait_s + PATIENCE_S + STRAGGLER_S)
        )
        try:
            await asyncio.wait({asking}, timeout=wait_s + PATIENCE_S)
            if asking.done():
                answer = asking.result()
                self._learn(line, answer.lanes)
                taken = self._acquired(line, answer, count, asked_us)
                idle_us = self._now_us() - asked_us
                empty_early = taken == 0 and not self._draining and idle_us < wait_s * _SECOND_US / 2
                self._rest(line, "no lease, and no wait" if empty_early else None)
            else:
                self._spawn(self._straggler(line, asking, asked_us, open_))
                open_ = 0
                self._missed(line)
                self._rest(line, f"no answer to acquire within {wait_s + PATIENCE_S:g} s")
        except PermissionDenied as error:
            if queue_of(line.queue) == line.queue:
                self._fail(error)
            else:  # the broker learns of lanes a little later than whoever asks for work in the queue
                self._rest(line, str(error))
        except Unreachable as error:
            self._fail(error)
        except NoAnswer as error:
            self._missed(line)
            self._rest(line, str(error))
        except (WireError, TryLater) as error:
            self._rest(line, str(error))
        except Refused as error:
            self._fail(error)
        except asyncio.CancelledError:
            asking.cancel()
            raise
        finally:
            if open_:
                line.closed(open_)
            line.polls -= 1
            line.turn -= (count - taken) / line.weight
            if not taken:  # what it leaves to others while it is empty, it does not get later
                line.turn = max(line.turn, *(each.turn for each in self._lines))
            self._polls -= 1
            self._free += count - taken
            self._changed.set()
        self._fill()

    def _learn(self, line: Line, lanes: int) -> None:
        """A queue has lanes: each of them is one to work on, with the queue's weight for all of them."""
        if self._draining:
            return
        for lane in [lane for lane in lanes_of(line.queue, lanes) if lane not in self._known]:
            self._known.add(lane)
            more = Line(lane, line.tenant, line.weight / lanes, self.redactor)
            more.outbox, more.errands, more.turn, more.greeted = self._outbox, self._errands, line.turn, True
            self._lines.append(more)

    def _missed(self, line: Line) -> None:
        """An acquire was not answered, and may have brought leases all the same: asks for those at once."""
        if not line.missed and not self._draining:
            line.missed = True
            self._spawn(self._ask_again(line))

    async def _ask_again(self, line: Line) -> None:
        """Learns of the leases in an answer that was lost, before they expire; others are here already."""
        pause_s = 0.1
        while not self._draining:
            line.missed = False  # from here on another one may be lost
            asked_us = self._now_us()
            newest = sorted(line.held, reverse=True)[:RENEWALS_PER_REQUEST_MAX]
            command = Acquire(
                self._post.worker, again=True, known=tuple(newest), isolation=self._post.isolation
            )
            open_ = line.opened()
            try:
                answer = await self._asking.ask(line.queue, "acquire", command, Acquired, PATIENCE_S)
                if not self._take_late(line, answer.leases, asked_us):
                    return
                continue  # there may be more than one answer holds
            except (WireError, TryLater) as error:
                log.info("the leases of queue %s are asked for again: %s", line.queue, error)
                line.missed = True
            except Refused:
                return
            finally:
                line.closed(open_)
            await asyncio.sleep(pause_s * (0.5 + self._entropy()))
            pause_s = min(pause_s * 2, 1.0)

    async def _straggler(
        self, line: Line, asking: asyncio.Future[Acquired], asked_us: int, open_: int
    ) -> None:
        """Waits for an answer that is late: what it brings is run where there is room, else released."""
        try:
            self._take_late(line, (await asking).leases, asked_us)
        except (WireError, TryLater, Refused):
            return
        finally:
            line.closed(open_)

    def _take_late(self, line: Line, leases: Sequence[Lease], asked_us: int) -> int:
        """Runs leases that were not waited for any more, where there is room, and releases the others.

        How many that are: none of what another answer has told of.
        """
        new = tuple([each for each in leases if line.is_new(each.token)])
        if new:
            log.warning("an acquire of queue %s was answered late with %d leases", line.queue, len(new))
            room = max(0, self._free)
            self._free -= self._acquired(line, Acquired(leases=new[:room]), 0, asked_us)
            self._return(line, new[room:])
        return len(new)

    def _acquired(self, line: Line, answer: Acquired, asked: int, asked_us: int) -> int:
        """Starts work on what an acquire of `asked_us` brought; how many slots that takes."""
        line.hot = asked > 0 and len(answer.leases) >= asked
        leases = [each for each in answer.leases if line.is_new(each.token)]
        if not leases:
            return 0
        self.counts.acquired += len(leases)
        if self._draining:
            self._return(line, leases)
            return 0
        runs: list[Run] = []
        unknown: list[Lease] = []
        late: list[Lease] = []
        key = self._asking.coder.digest_key
        for lease in leases:
            if key:
                lease = msgspec.structs.replace(lease, digest_key=key)  # noqa: PLW2901 - the same lease
            task = self._tasks.get(lease.task)
            if task is None:
                unknown.append(lease)
            else:
                told, spans = Spans.begin(lease, line.tenant, line.queue)
                run = Run(told, line, task, self._clock, spans)
                run.granted(asked_us, lease.parked_s)
                if run.lapses(self._now_us()):
                    late.append(lease)
                    continue
                line.held[lease.token] = run
                runs.append(run)
        if unknown:
            log.error(
                "queue %s gave leases for tasks that this worker lacks, as %s", line.queue, unknown[0].task
            )
            self._return(line, unknown)
        if late:
            log.warning("queue %s gave %d strict leases that came too late to work on", line.queue, len(late))
            self._return(line, late)
        if runs:
            assert self._hands is not None
            self._hands.begin([run for run in runs if not _has_past(run)])
            for run in runs:
                if _has_past(run):
                    self._spawn(self._recall(run))
            self._beats.keep(line, runs)
            self._arm_tick(runs)
        return len(runs)

    async def _recall(self, run: Run) -> None:
        """Begins a run when what was recorded before it is here."""
        lease, pause_s = run.lease, 0.05
        while run.stop is not Stop.LOST and not run.ended:
            try:
                if lease.reproduces is not None:
                    run.journal.recording = await first_run(self._asking, lease.reproduces)
                elif lease.steps:
                    worker = self._post.worker
                    run.journal.recorded = await recorded_steps(self._asking, run.queue, worker, lease)
            except (WireError, TryLater) as error:
                log.info("what was recorded of job %s is asked for again: %s", lease.id, error)
            except (Refused, NotReproducible) as error:
                run.fault = Fault(ErrorClass.POLICY, NotReproducible.__name__, str(error))
                self.finished([run])
                return
            else:
                break
            await asyncio.sleep(pause_s * (0.5 + self._entropy()))
            pause_s = min(pause_s * 2, 2.0)
        assert self._hands is not None
        self._hands.begin([run])

    def _return(self, line: Line, leases: Iterable[Lease]) -> None:
        """Releases leases that no work was begun for."""
        nothing = Task(_nothing, "nothing")
        for lease in leases:
            run = Run(lease, line, nothing, self._clock)
            run.stop, run.ended = Stop.RELEASE, True
            line.held[lease.token] = run
            line.given_back.append(run)
        self._reports.flush(line)

    def _rest(self, line: Line, why: str | None) -> None:
        """After a failure the queue is left alone for a while, longer each time."""
        if why is None:
            line.pause_s = 0.0
            return
        line.pause_s = min(2.0, max(0.1, line.pause_s * 2))
        if line.pause_s >= 2.0:
            log.warning("acquiring from queue %s fails: %s", line.queue, why)
        line.resting = True
        line.hot = False

        def rested() -> None:
            line.resting = False
            self._fill()

        asyncio.get_running_loop().call_later(line.pause_s * (0.5 + self._entropy()), rested)

    # --- keeping ----------------------------------------------------------------------------------------

    def _stop(self, runs: Iterable[Run], why: Stop) -> None:
        told: list[Run] = []
        for run in runs:
            if not run.ended and (run.stop is None or (why is Stop.LOST and run.stop is not why)):
                run.stop = why
                told.append(run)
        if told:
            assert self._hands is not None
            self._hands.interrupt(told)

    def _tell_heard(self, runs: list[Run]) -> None:
        assert self._hands is not None
        self._hands.heard(runs)

    def _arm_tick(self, runs: Iterable[Run]) -> None:
        """The next tick comes soon, or earlier where the work on one of these must stop."""
        loop, now_us = asyncio.get_running_loop(), self._now_us()
        stops = [(run.until_us - now_us) / _SECOND_US for run in runs if run.until_us is not None]
        in_s = max(0.0, min(TICK_S, *stops)) if stops else TICK_S
        if self._tick is not None:
            if self._tick.when() <= loop.time() + in_s:
                return
            self._tick.cancel()
        self._tick = loop.call_later(in_s, self._on_tick)

    def _on_tick(self) -> None:
        """Twice a second while leases are held: says what has started, ends what ran too long."""
        self._tick = None
        now_us = self._now_us()
        long_ago = now_us - round(STARTED_AFTER_S * _SECOND_US)
        busy: list[Run] = []
        for line in self._lines:
            begun: list[Run] = []
            over: list[Run] = []
            for run in line.held.values():
                if run.ended:
                    continue
                if run.began_us and run.began_us <= long_ago and not run.start_sent:
                    run.start_sent = True
                    begun.append(run)
                if run.has_news and run.said.is_due(now_us):
                    self._tell(run)
                if now_us - run.taken_us >= run.lease.attempt_timeout_s * _SECOND_US:
                    over.append(run)
                if run.lapses(now_us):
                    self._lapse(run)
                busy.append(run)
            for start in range(0, len(begun), LEASES_PER_REQUEST_MAX):
                self._spawn(self._started(line, begun[start : start + LEASES_PER_REQUEST_MAX]))
            self._stop(over, Stop.TIMEOUT)
        if busy:
            self._arm_tick([run for run in busy if run.stop is None])

    def _lapse(self, run: Run) -> None:
        """The work on a strict lease ends: it may be over soon, and the broker does not tell."""
        if run.stop is None:
            told = "job %s in queue %s is stopped: its lease of %g s was not renewed in time, and is strict"
            log.warning(told, run.lease.id, run.queue, run.lease.lease_s, extra={"writ": run.where})
            self._stop([run], Stop.LAPSED)

    async def _started(self, line: Line, runs: list[Run]) -> None:
        try:
            command = Start(self._post.worker, held(runs))
            await self._asking.ask(line.queue, "start", command, Reported, REPORT_TIMEOUT_S)
        except (WireError, TryLater):
            for run in runs:
                run.start_sent = False  # the next tick says it again
        except Refused as error:
            log.error("a start in queue %s is refused: %s", line.queue, error)

    def _tell(self, run: Run) -> None:
        """Has stored what a run says of itself."""
        if run not in self._saying:
            self._saying.add(run)
            run.said.sent_us = self._now_us()
            self._spawn(self._say(run))

    async def _say(self, run: Run) -> None:
        """Stores the newest word of a run; an end that waits for it is reported then."""
        try:
            while run.has_news:
                await self._errands.say(run)
                if not run.ended:
                    break  # what is newer has its time
        except (Cancelled, StepRefused) as error:
            log.info("job %s: what it says of itself is not stored: %s", run.lease.id, error)
        finally:
            self._saying.discard(run)
        if not run.unsent:
            self._all_noted([run])

    # --- ending -----------------------------------------------------------------------------------------

    async def _wind_up(self) -> None:
        """Lets running tasks end, then stops and releases the rest, and sees the reports through."""
        runs = self._running
        for line in self._lines:
            if line.polls:
                self._spawn(self._withdraw(line))
        await self._until(lambda: self._hurry or not (runs() or self._polls), self._post.drain_s)
        left = runs()
        if left:
            log.warning("draining: %d running tasks are stopped and their leases released", len(left))
            self._stop(left, Stop.RELEASE)
            if not self._hurry:
                await self._until(lambda: self._hurry or not runs(), UNWIND_S)
            for line in self._lines:
                late = [run for run in line.held.values() if not run.ended]
                for run in late:
                    run.ended = True  # what it still does is void
                    line.given_back.append(run)
                self._reports.flush(line)
        if not await self._until(lambda: not any(line.held for line in self._lines), FLUSH_S):
            count = sum(len(line.held) for line in self._lines)
            log.error("%d leases end unreported, as nobody answers; they will expire", count)

    async def _withdraw(self, line: Line) -> None:
        """Takes waiting acquires back; one that cannot be runs out by itself."""
        with suppress(WireError, Refused):
            await self._asking.ask(line.queue, "withdraw", Withdraw(self._post.worker), Answer, PATIENCE_S)

    def _running(self) -> list[Run]:
        return [run for line in self._lines for run in line.held.values() if not run.ended]

    async def _until(self, ready: Callable[[], object], timeout_s: float | None) -> bool:
        """Waits until something holds; False after `timeout_s` seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                while not ready():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    def _fail(self, error: Exception) -> None:
        """The worker cannot go on: it ends, with what it can still do done."""
        if self._failure is None:
            log.error("worker %s cannot go on: %s", self._post.worker, error)
            self._failure = error
        self.release_now()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        job = asyncio.get_running_loop().create_task(work)
        self._jobs.add(job)
        job.add_done_callback(self._ended)

    def _ended(self, job: asyncio.Task[None]) -> None:
        self._jobs.discard(job)
        if not job.cancelled() and (error := job.exception()) is not None:
            self._fail(error if isinstance(error, Exception) else RuntimeError(str(error)))


def _has_past(run: Run) -> bool:
    """Whether something was recorded that the run answers from."""
    return bool(run.lease.steps) or run.lease.reproduces is not None


def _nothing() -> None:
    """The task of a lease that is given back at once."""
