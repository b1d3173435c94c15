"""The child: one attempt, in a process that is limited and kept apart before it hears of its job."""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import itertools
import logging
import os
import pickle
import select
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final

from msgspec import Raw
from msgspec.json import decode

from writ.broker.clock import SystemClock
from writ.schemas.policy import Isolation

from ..children import ERRAND_ANSWERS, Errand, Errands, ToSay
from ..errors import Cancelled
from ..faults import Stop
from ..hands import Outbox
from ..line import Line
from ..redaction import LogFilter, Redactor
from ..run import Run
from ..steps import StepRefused
from .ends import overstepped
from .frames import (
    FRAME_MAX_BYTES,
    LENGTH,
    Asked,
    Began,
    Ended,
    Found,
    FromChild,
    Heard,
    Logged,
    Noted,
    Raised,
    Says,
    Slept,
    Stored,
    ToChild,
    Told,
    Unfit,
    Work,
    encode,
    framed,
    read_to_child,
)
from .levels import confine
from .limits import AttemptLimits

if TYPE_CHECKING:
    from .guard import Start

_LOOK_S: Final = 0.25
"""Between two looks at whether the attempt has said something of itself."""

_LINES_MAX: Final = 1_000
_LINE_MAX_CHARS: Final = 8_000
_REFUSALS: Final[dict[str, Callable[[str], Exception]]] = {
    "Cancelled": Cancelled,
    "StepRefused": StepRefused,
}


def live(start: Start) -> None:
    """Runs one attempt and ends the process."""
    setup, folder = start.setup, start.spawn.folder
    link = Link(start.link)
    try:
        _settle_in(start)
        setup.limits.hold()
        network = start.spawn.network
        confine(setup.level, folder, start.readable, start.listable, network=network)
    except (OSError, ValueError) as error:
        link.send(Unfit(f"an attempt could not be isolated by {setup.level}: {error}"))
        os._exit(0)
    work: Work = pickle.loads(link.receive())  # noqa: S301 - of the worker's own making
    line = Line(work.queue, work.tenant)
    line.outbox, line.errands = _Outbox(link), _Errands(link)
    run = Run(work.lease, line, start.tasks[work.lease.task], SystemClock())
    run.isolation = Isolation(setup.level)
    run.heard = list(work.heard)
    if work.recorded or work.recording is not None:
        run.journal.recorded = work.recorded
        run.journal.recording = work.recording
    _log_to(link, line.redactor)
    link.send(Began())
    _run(run, link, setup.limits)
    link.say_news(run)
    fault = None if run.sleep is not None else run.fault
    sleep = None if run.sleep is None else Slept(run.sleep.verb, run.sleep.fields)
    link.send(Ended(Raw(run.output), fault, sleep))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(0)


def _settle_in(start: Start) -> None:
    """A session, streams, folder and environment of its own."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDONLY)
    for stream, descriptor in enumerate((null, start.out, start.err)):
        os.dup2(descriptor, stream)
        os.close(descriptor)
    faulthandler.enable(file=2)
    folder = start.spawn.folder
    os.chdir(folder)
    os.environ.update(HOME=folder, TMPDIR=folder, PWD=folder)
    tempfile.tempdir = None


def _run(run: Run, link: Link, limits: AttemptLimits) -> None:
    """The user's code; what becomes of it is in the run."""
    now_us = SystemClock().mono_us

    def raised(error: BaseException) -> None:
        fault = overstepped(error, limits, run.line.redactor.text)
        run.raised(error, now_us())
        if fault is not None and run.stop is None:
            run.fault = fault

    if run.task.is_async:
        # Not asyncio.run: it would wait for threads that the task has left behind, and the process ends next.
        asyncio.new_event_loop().run_until_complete(_drive(run, link, raised))
        return
    link.listen(run, lambda: None)
    try:
        run.began_us = now_us()
        run.returned(run.work_plainly(), now_us())
    except BaseException as error:
        raised(error)


async def _drive(run: Run, link: Link, raised: Callable[[BaseException], None]) -> None:
    loop = asyncio.get_running_loop()
    work = loop.create_task(_work(run, raised))
    link.listen(run, lambda: loop.call_soon_threadsafe(work.cancel))
    try:
        await work
    except BaseException as error:
        raised(error)


async def _work(run: Run, raised: Callable[[BaseException], None]) -> None:
    now_us = SystemClock().mono_us
    run.began_us = now_us()
    try:
        run.returned(await run.work(), now_us())
    except (SystemExit, KeyboardInterrupt) as error:  # of a task they would end the loop
        raised(error)


class Link:
    """The child's end of what it and the worker say to each other."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self._socket = socket.socket(fileno=descriptor)
        self._sending = threading.Lock()
        self._saying = threading.Lock()
        self._waiting: dict[int, tuple[Future[Any], Any]] = {}
        self._numbers = itertools.count(1)

    def send(self, said: FromChild) -> None:
        """Any thread. One who is not heard any more says it in vain."""
        body = framed(encode(said))
        with self._sending, contextlib.suppress(OSError):
            self._socket.sendall(body)

    def ask(self, answered: Future[Any], kind: Any = None) -> int:
        """A number by which the answer, of that kind, is told."""
        number = next(self._numbers)
        self._waiting[number] = (answered, kind)
        return number

    def say_news(self, run: Run) -> None:
        """Sends the newest that the run says of itself, if it was not sent."""
        with self._saying:
            if run.has_news:
                self.send(Says(Raw(run.said.newest())))

    def say(self, run: Run, answered: Future[Any], kind: Any) -> None:
        """Sends the newest that the run says of itself, to have it stored; nothing older goes after it."""
        with self._saying:
            self.send(Says(Raw(run.said.newest()), self.ask(answered, kind)))

    def receive(self) -> bytes:
        """The next frame. Raises EOFError."""
        (size,) = LENGTH.unpack(self._exactly(LENGTH.size))
        return self._exactly(size)

    def _exactly(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size:
            part = self._socket.recv(min(size, FRAME_MAX_BYTES))
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def listen(self, run: Run, interrupt: Callable[[], object]) -> None:
        """Hears the worker on a thread of its own. `interrupt` is called where the work shall stop."""
        threading.Thread(target=self._hear, args=(run, interrupt), name="writ-link", daemon=True).start()

    def _hear(self, run: Run, interrupt: Callable[[], object]) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                there, _, _ = select.select([self._socket], [], [], _LOOK_S)
                self.say_news(run)
                if there:
                    self._take(read_to_child(self.receive()), run, interrupt)

    def _take(self, said: ToChild, run: Run, interrupt: Callable[[], object]) -> None:
        match said:
            case Stored(number=number):
                self._waiting.pop(number)[0].set_result(None)
            case Found(number=number, answer=answer):
                answered, kind = self._waiting.pop(number)
                answered.set_result(decode(answer, type=kind))
            case Raised(number=number, kind=kind, text=text):
                made = _REFUSALS.get(kind, RuntimeError)
                self._waiting.pop(number)[0].set_exception(made(text))
            case Heard(signals=signals):
                run.heard += signals
            case Told(stop=stop):
                run.stop = Stop[stop]
                with contextlib.suppress(RuntimeError):  # the loop is closed: it has ended
                    interrupt()


class _Outbox(Outbox):
    """Sends what the run notes over the link, at once and in its order."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._taking = threading.Lock()

    def put(self, run: Run) -> None:
        outbox = run.journal.outbox
        with self._taking:
            while outbox:
                entry = outbox.popleft()
                number = None if entry.answered is None else self._link.ask(entry.answered)
                self._link.send(Noted(entry.remark, number))

    @property
    def is_here(self) -> bool:
        """Never: the worker's thread is in another process."""
        return False


class _Errands(Errands):
    """Has errands done over the link."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def begin(self, run: Run, errand: Errand) -> Future[Any]:
        answered: Future[Any] = Future()
        kind = ERRAND_ANSWERS[type(errand)]
        answered.set_running_or_notify_cancel()  # one who no longer waits does not take the errand back
        if isinstance(errand, ToSay):
            self._link.say(run, answered, kind)
            return answered
        asked = Asked(self._link.ask(answered, kind), errand)
        size = len(encode(asked))
        if size > FRAME_MAX_BYTES:
            reason = f"the children of one step have {size} bytes of input and options together"
            raise StepRefused(f"{reason}; an isolated attempt may give them {FRAME_MAX_BYTES}")
        self._link.send(asked)
        return answered


class _Handler(logging.Handler):
    """Takes what the task logs to the worker."""

    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link
        self._left = _LINES_MAX

    def emit(self, record: logging.LogRecord) -> None:
        self._left -= 1
        if self._left < 0:
            return
        text = self.format(record)
        if not self._left:
            text = f"[after {_LINES_MAX} lines no more of this attempt are logged] {text}"
        self._link.send(Logged(record.levelno, text[:_LINE_MAX_CHARS]))


def _log_to(link: Link, redactor: Redactor) -> None:
    root: Any = logging.getLogger()
    handler = _Handler(link)
    handler.addFilter(LogFilter(redactor))  # before a line is cut
    root.addHandler(handler)
    if root.level > logging.INFO:
        root.setLevel(logging.INFO)
