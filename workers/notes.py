"""Notes of attempts on their way to the log: gathered to few messages, each attempt's in their order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Final

from writ.broker.errors import PermissionDenied, Unreachable, WireError
from writ.schemas.bounds import LEASES_PER_REQUEST_MAX, NOTES_PER_REPORT_MAX
from writ.schemas.commands import Reported
from writ.schemas.notes import Note, Noted
from writ.schemas.rejections import Rejection, RejectionKind

from .asking import Asking, Refused, TryLater
from .errors import Cancelled
from .faults import Stop
from .journal import Entry
from .steps import StepRefused

if TYPE_CHECKING:
    from .line import Line
    from .run import Run

log = logging.getLogger("writ.worker")

TIMEOUT_S: Final = 5.0
_REPORT_BYTES: Final = 280 * 1024
"""What one attempt notes in one message; a single note may be larger."""

_MESSAGE_BYTES: Final = 600 * 1024
_ENCODED_MESSAGE_BYTES: Final = 400 * 1024
"""Of notes that a codec has yet to encode: with the last attempt's they fit a message after that, too."""

_IN_FLIGHT: Final = 4


class Notes:
    """Sends the notes of one worker. `changed` is called with runs of which all is stored or refused."""

    def __init__(
        self,
        asking: Asking,
        worker: str,
        entropy: Callable[[], float],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        changed: Callable[[Iterable[Run]], None],
        fatal: Callable[[Exception], None],
    ) -> None:
        self._asking = asking
        self._worker = worker
        self._entropy = entropy
        self._spawn = spawn
        self._changed = changed
        self._fatal = fatal

    def take(self, runs: Iterable[Run]) -> None:
        """Runs that have noted something."""
        lines: dict[Line, None] = {}
        for run in runs:
            line = run.line
            if not run.journal.sending and run.journal.outbox:
                line.noting[run.lease.token] = run
                lines[line] = None
        for line in lines:
            self._flush(line)

    def _flush(self, line: Line) -> None:
        most = _ENCODED_MESSAGE_BYTES if self._asking.coder.encodes else _MESSAGE_BYTES
        while line.noting and line.sending_notes < _IN_FLIGHT:
            batch: list[tuple[Run, list[Entry]]] = []
            size = 0
            while line.noting and len(batch) < LEASES_PER_REQUEST_MAX and size < most:
                run = line.noting.pop(next(iter(line.noting)))
                entries = _take(run)
                if entries:
                    size += sum(entry.size_bytes for entry in entries)
                    batch.append((run, entries))
            if not batch:
                return
            line.sending_notes += 1
            self._spawn(self._send(line, batch))

    async def _send(self, line: Line, batch: list[tuple[Run, list[Entry]]]) -> None:
        """One message of notes, repeated until it is answered or its leases are known to be lost."""
        runs = [run for run, _ in batch]
        try:
            await self._deliver(line, batch)
        finally:
            line.sending_notes -= 1
            for run in runs:
                run.journal.sending = False
        self.take(runs)
        self._flush(line)
        self._changed([run for run in runs if not run.unsent])

    async def _deliver(self, line: Line, batch: list[tuple[Run, list[Entry]]]) -> None:
        pause_s = 0.05
        while batch := [(run, entries) for run, entries in batch if not self._lost(run, entries)]:
            reports = tuple([_noted(run, entries) for run, entries in batch])
            try:
                command = Note(self._worker, reports)
                answer = await self._asking.ask(line.queue, "note", command, Reported, TIMEOUT_S)
            except Refused as error:
                if isinstance(error, TryLater):
                    log.info("notes in queue %s are sent again: %s", line.queue, error)
                elif len(batch) > 1:  # one of them spoils it for all
                    for each in batch:
                        await self._deliver(line, [each])
                    return
                else:
                    await self._refused(line, *batch[0], error.rejection)
                    return
            except (PermissionDenied, Unreachable) as error:
                for _, entries in batch:
                    _fail(entries, Cancelled(str(error)))
                self._fatal(error)
                return
            except WireError as error:
                log.info("notes in queue %s are sent again: %s", line.queue, error)
            else:
                batch = await self._settle(line, batch, answer.refused)
            if batch:
                await asyncio.sleep(pause_s * (0.5 + self._entropy()))
                pause_s = min(pause_s * 2, 2.0)

    @staticmethod
    def _lost(run: Run, entries: list[Entry]) -> bool:
        """Whether the lease is void: then nothing is stored any more."""
        if run.stop is not Stop.LOST:
            return False
        _fail(entries, Cancelled(Stop.LOST.value))
        _fail(run.journal.outbox, Cancelled(Stop.LOST.value))
        run.journal.outbox.clear()
        return True

    async def _settle(
        self, line: Line, batch: list[tuple[Run, list[Entry]]], refused: tuple[Rejection, ...]
    ) -> list[tuple[Run, list[Entry]]]:
        """Takes the verdicts of one message; what there is none of yet."""
        again: list[tuple[Run, list[Entry]]] = []
        verdicts = {rejection.index: rejection for rejection in refused}
        for index, (run, entries) in enumerate(batch):
            rejection = verdicts.get(index)
            if rejection is None:
                run.journal.stored += len(entries)
                for entry in entries:
                    if entry.answered is not None:
                        entry.answered.set_result(None)
            elif rejection.kind is RejectionKind.TRY_LATER:
                again.append((run, entries))
            else:
                await self._refused(line, run, entries, rejection)
        return again

    async def _refused(self, line: Line, run: Run, entries: list[Entry], rejection: Rejection) -> None:
        """Notes of one attempt that were not stored: one by one, as one of them spoils it for the others."""
        if rejection.kind in (RejectionKind.STALE, RejectionKind.NOT_FOUND):
            log.warning("job %s in queue %s: notes are void: %s", run.lease.id, line.queue, rejection.reason)
            _fail(entries, Cancelled(Stop.LOST.value))
            _fail(run.journal.outbox, Cancelled(Stop.LOST.value))
            run.journal.outbox.clear()
        elif len(entries) > 1:
            for entry in entries:
                await self._deliver(line, [(run, [entry])])
        else:
            log.error("job %s in queue %s: a note is refused: %s", run.lease.id, line.queue, rejection.reason)
            _fail(entries, StepRefused(rejection.reason))


def _take(run: Run) -> list[Entry]:
    """As many of a run's notes as one report may hold."""
    outbox = run.journal.outbox
    taken: list[Entry] = []
    size = 0
    while outbox and len(taken) < NOTES_PER_REPORT_MAX:
        size += outbox[0].size_bytes
        if taken and size > _REPORT_BYTES:
            break
        taken.append(outbox.popleft())
        if run.spans is not None:
            run.spans.noted(taken[-1].remark)
    run.journal.sending = bool(taken)
    return taken


def _noted(run: Run, entries: list[Entry]) -> Noted:
    remarks = tuple([entry.remark for entry in entries])
    return Noted(run.lease.id, run.lease.token, run.journal.stored + 1, remarks)


def _fail(entries: Iterable[Entry], error: Exception) -> None:
    for entry in entries:
        if entry.answered is not None:
            entry.answered.set_exception(error)
