"""Hands that run each attempt in a process of its own. They are on the keeper's loop, and run no user code.

begin --> Pool.start --> Work --> Began, Noted..., Ended --> guard: nothing is left --> given back
interrupt --> Told --> 2 s: SIGTERM --> 2 s: SIGKILL
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any, Final

import msgspec

from writ.broker.clock import Clock
from writ.schemas.bounds import INLINE_MAX_BYTES
from writ.schemas.commands import SignalCame, Snooze, Suspend
from writ.schemas.errors import ErrorClass

from ..children import Errand, ToSay
from ..faults import GRACE_S, Fault
from ..redaction import Redactor
from ..run import Run
from ..steps import Sleep
from .ends import fault_of_end
from .frames import (
    BROKEN,
    FRAME_MAX_BYTES,
    KILL,
    LENGTH,
    TERM,
    Asked,
    Began,
    Ended,
    Found,
    Heard,
    Logged,
    Noted,
    Raised,
    Says,
    Slept,
    Status,
    Stored,
    ToChild,
    Told,
    Unfit,
    Work,
    encode,
    framed,
    read_from_child,
    read_status,
)
from .pool import NotIsolated, Pool, Started

log = logging.getLogger("writ.worker")
task_log = logging.getLogger("writ.task")
KEPT_BYTES: Final = 64 * 1024
_MS: Final = 1_000
_TYPE_MAX_CHARS: Final = 256
_WORD_MAX_BYTES: Final = INLINE_MAX_BYTES + 256
"""Progress and details of half as much each, with what they are called."""


class ChildHands:
    """Runs what the keeper gives out in processes of `pool`; `ended` takes each run back, on the loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, pool: Pool, ended: Callable[[Run], None], clock: Clock
    ) -> None:
        self._loop = loop
        self._pool = pool
        self._ended = ended
        self._clock = clock
        self._attempts: dict[Run, Attempt | None] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, runs: list[Run]) -> None:
        for run in runs:
            self._attempts[run] = None
            task = self._loop.create_task(self._live(run))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def interrupt(self, runs: list[Run]) -> None:
        for run in runs:
            attempt = self._attempts.get(run)
            if attempt is not None:
                attempt.stop()

    def heard(self, runs: list[Run]) -> None:
        for run in runs:
            attempt = self._attempts.get(run)
            if attempt is not None:
                attempt.hear()

    async def close(self) -> None:
        """Kills what still runs, and returns when nothing is left."""
        for attempt in self._attempts.values():
            if attempt is not None:
                attempt.kill()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2 * GRACE_S)

    async def _live(self, run: Run) -> None:
        try:
            if run.stop is None:
                started = await self._pool.start(network=run.lease.network)
                attempt = self._attempts[run] = Attempt(run, started, self._pool, self._clock)
                await attempt.live()
        except NotIsolated as error:
            log.error("job %s in queue %s: %s", run.lease.id, run.queue, error)
            run.fault = Fault(ErrorClass.SYSTEM, "NotIsolated", str(error))
        except Exception as error:
            log.exception("job %s in queue %s: its process was lost sight of", run.lease.id, run.queue)
            run.fault = Fault(ErrorClass.SYSTEM, "NotIsolated", f"{type(error).__name__}: {error}")
        finally:
            del self._attempts[run]
            self._ended(run)


class Attempt:
    """One attempt, from its processes' start to when none is left."""

    def __init__(self, run: Run, started: Started, pool: Pool, clock: Clock) -> None:
        self._run = run
        self._started = started
        self._pool = pool
        self._now_us = clock.mono_us
        self._loop = asyncio.get_running_loop()
        self._writer: asyncio.StreamWriter | None = None
        self._said: Ended | Unfit | None = None
        self._broke = False
        self._signals = 0
        """How many of the run's signals the child was told."""

        self._errands: set[Future[Any]] = set()
        self._timers: list[asyncio.TimerHandle] = []
        self._tails = {
            name: Tail(self._loop, fd) for name, fd in (("stdout", started.out), ("stderr", started.err))
        }

    async def live(self) -> None:
        """Returns when the attempt's processes and folder are gone, and what became of it is in the run."""
        started, run = self._started, self._run
        reader, self._writer = await asyncio.open_unix_connection(sock=started.link)
        lease = run.lease
        work = Work(run.queue, run.line.tenant, lease, self._new_signals())
        if lease.steps or lease.reproduces is not None:
            journal = run.journal
            work = replace(work, recorded=tuple(journal.recorded), recording=journal.recording)
        self._writer.write(framed(pickle.dumps(work)))
        if run.stop is not None:
            self.stop()
        hearing = self._loop.create_task(self._hear(reader))
        try:
            status = await self._until_over()
            await asyncio.wait({hearing}, timeout=GRACE_S)
        finally:
            hearing.cancel()
            for errand in tuple(self._errands):
                errand.cancel()  # nobody waits for it any more
            for timer in self._timers:
                timer.cancel()
            started.kill()
            started.line.close()
            self._writer.close()
            for tail in self._tails.values():
                tail.close()
            shutil.rmtree(started.folder, ignore_errors=True)
        self._settle(status)

    def stop(self) -> None:
        """The run's `stop` was set: says so, then ends the processes."""
        assert self._run.stop is not None
        self._tell(Told(self._run.stop.name))
        grace_s = self._run.grace_s
        self._timers.append(self._loop.call_later(grace_s, self._started.tell, TERM))
        self._timers.append(self._loop.call_later(2 * grace_s, self.kill))

    def hear(self) -> None:
        """The run's `heard` has grown: says by what."""
        if self._writer is not None:  # else it comes with the work
            self._tell(Heard(self._new_signals()))

    def _new_signals(self) -> tuple[SignalCame, ...]:
        new = tuple(self._run.heard[self._signals :])
        self._signals += len(new)
        return new

    def kill(self) -> None:
        """Ends all processes: by the guard, and where that takes long, the guard with its sandbox."""
        self._started.tell(KILL)
        self._timers.append(self._loop.call_later(GRACE_S, self._started.kill))

    def _tell(self, said: ToChild) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(framed(encode(said)))

    async def _until_over(self) -> Status | None:
        """What the guard says last; None where it is gone without a word."""
        line = self._started.line
        line.setblocking(False)
        said = b""
        with contextlib.suppress(OSError):
            while part := await self._loop.sock_recv(line, 4096):
                said += part
        return read_status(said) if said else None

    # --- what the child says ------------------------------------------------------------------------------

    async def _hear(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
                if size > FRAME_MAX_BYTES:
                    raise ValueError(f"a frame of {size} bytes")
                self._heard(await reader.readexactly(size))
        except (asyncio.IncompleteReadError, OSError):
            return
        except (ValueError, msgspec.MsgspecError) as error:
            log.warning("job %s: its process sent what is no message: %s", self._run.lease.id, error)
            self._broke = True
            self.kill()

    def _heard(self, frame: bytes) -> None:
        run = self._run
        match read_from_child(frame):
            case Began():
                run.began_us = self._now_us()
                run.isolation = self._pool.level
            case Noted(remark=remark, number=None):
                run.journal.put(remark)
            case Noted(remark=remark, number=int(number)):
                answered: Future[None] = Future()
                answered.set_running_or_notify_cancel()
                answered.add_done_callback(partial(self._answered, number))
                run.journal.put(remark, answered)
            case Says(content=content, number=number):
                if len(content) > _WORD_MAX_BYTES:
                    raise ValueError(f"a word of {len(content)} bytes")
                run.said.replace(content)
                if number is not None:
                    self._begin(number, ToSay())
            case Asked(number=number, errand=errand):
                self._begin(number, errand)
            case Logged(level=level, text=text):
                task_log.log(level, "%s", run.line.redactor.text(text), extra={"writ": run.where})
            case Unfit() | Ended() as said if self._said is None:
                self._said = said
                if run.began_us:
                    run.run_ms = max(0, self._now_us() - run.began_us) // _MS
                self._timers.append(self._loop.call_later(GRACE_S, self.kill))
            case _:
                raise ValueError("it has ended already")

    def _answered(self, number: int, answered: Future[None]) -> None:
        error = answered.exception()
        self._tell(Stored(number) if error is None else _raised(number, error))

    def _begin(self, number: int, errand: Errand) -> None:
        begun = self._run.line.errands.begin(self._run, errand)
        self._errands.add(begun)
        begun.add_done_callback(partial(self._found, number))

    def _found(self, number: int, done: Future[Any]) -> None:
        self._errands.discard(done)
        if not done.cancelled():
            error = done.exception()
            answer = msgspec.Raw(b"null") if error is not None else msgspec.Raw(encode(done.result()))
            self._tell(Found(number, answer) if error is None else _raised(number, error))

    # --- how it ended -------------------------------------------------------------------------------------

    def _settle(self, status: Status | None) -> None:
        run, said = self._run, self._said
        self._tell_output()
        if isinstance(said, Unfit):
            run.fault = Fault(ErrorClass.SYSTEM, "NotIsolated", said.text)
        elif said is not None and len(said.output) <= INLINE_MAX_BYTES:
            run.output, fault = bytes(said.output), said.fault
            if fault is not None:
                run.fault = msgspec.structs.replace(fault, type=fault.type[:_TYPE_MAX_CHARS], crashed=False)
            if said.sleep is not None and run.stop is None:
                self._sleep(said.sleep)
        else:
            if run.began_us:
                run.run_ms = max(0, self._now_us() - run.began_us) // _MS
            if self._broke:
                status = Status(0, BROKEN)
            run.fault = fault_of_end(
                run.stop, status, self._pool.limits, self._tails["stderr"].text(run.line.redactor)
            )

    def _sleep(self, said: Slept) -> None:
        """Has the job wait as the child says, where that is a wait at all."""
        lease = self._run.lease
        ours = {"worker": "-", "id": lease.id, "token": lease.token}
        try:
            checked = msgspec.convert({**said.fields, **ours}, Suspend if said.verb == "suspend" else Snooze)
        except msgspec.ValidationError as error:
            self._run.fault = Fault(ErrorClass.APPLICATION, "WaitRefused", str(error))
            return
        fields = msgspec.structs.asdict(checked)
        self._run.sleep = Sleep(said.verb, **{name: fields[name] for name in fields.keys() - ours.keys()})

    def _tell_output(self) -> None:
        """Logs what the attempt has written."""
        for name, tail in self._tails.items():
            if tail.count:
                run = self._run
                kept = min(tail.count, KEPT_BYTES)
                cut = f", the last {kept} of them" if tail.count > kept else ""
                told = "[%s/%s attempt %d] %s, %d bytes%s: %s"
                at = (run.queue, run.lease.id, run.lease.attempt)
                text = tail.text(run.line.redactor).rstrip()
                task_log.info(told, *at, name, tail.count, cut, text, extra={"writ": run.where})


def _raised(number: int, error: BaseException) -> Raised:
    return Raised(number, type(error).__name__, str(error))


class Tail:
    """What comes over a pipe: how much it was, and the last 64 KiB."""

    def __init__(self, loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
        self.count = 0
        self._kept = bytearray()
        self._loop = loop
        self._descriptor = descriptor
        os.set_blocking(descriptor, False)
        loop.add_reader(descriptor, self._read)

    def text(self, redactor: Redactor) -> str:
        """The last 64 KiB, without the secrets in it."""
        cut = self.count > len(self._kept)
        return redactor.tail(bytes(self._kept), KEPT_BYTES, cut=cut).decode("utf-8", "replace")

    def close(self) -> None:
        """Takes what is left in the pipe."""
        while self._descriptor >= 0:
            self._read()
            if self._descriptor >= 0 and self._empty:
                self._end()

    def _read(self) -> None:
        self._empty = False
        try:
            part = os.read(self._descriptor, KEPT_BYTES)
        except BlockingIOError:
            self._empty = True
            return
        if not part:
            self._end()
            return
        self.count += len(part)
        self._kept += part
        del self._kept[
            : -2 * KEPT_BYTES
        ]  # some more: where it is cut, a secret may be, and is left out whole

    def _end(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._descriptor = -1
