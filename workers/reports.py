"""Reports of what became of attempts: gathered to few messages, repeated until answered."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

import msgspec

from writ.broker.errors import NoAnswer, PermissionDenied, Unreachable, WireError
from writ.schemas.bounds import LEASES_PER_REQUEST_MAX
from writ.schemas.commands import (
    Command,
    Complete,
    Completion,
    Fail,
    Failure,
    Release,
    Reported,
    Snooze,
    Suspend,
)
from writ.schemas.errors import ErrorClass
from writ.schemas.rejections import Rejection, RejectionKind

from .asking import Asking, Refused, TryLater
from .faults import Fault, Stop
from .line import Counts, Line, held
from .run import Run

log = logging.getLogger("writ.worker")

REPORT_TIMEOUT_S: Final = 5.0
REPORT_MESSAGE_MAX_BYTES: Final = 900 * 1024
ENCODED_MESSAGE_MAX_BYTES: Final = REPORT_MESSAGE_MAX_BYTES * 3 // 4
"""Of reports that a codec has yet to encode, as base64 makes four bytes of three."""

REPORTS_IN_FLIGHT: Final = 4
"""Messages of one kind and queue; below the next number one at a time, so that reports gather meanwhile."""

REPORTS_WORTH_A_MESSAGE: Final = 64
_encode = msgspec.json.Encoder().encode


class Reports:
    """Sends the reports of one worker. `changed` is called when a message is done with."""

    def __init__(
        self,
        asking: Asking,
        worker: str,
        counts: Counts,
        entropy: Callable[[], float],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        changed: Callable[[], None],
        fatal: Callable[[Exception], None],
    ) -> None:
        self.counts = counts
        self._asking = asking
        self._worker = worker
        self._entropy = entropy
        self._spawn = spawn
        self._changed = changed
        self._fatal = fatal

    def flush(self, line: Line) -> None:
        """Sends what waits to be reported, gathered to few messages."""
        for verb in line.sending:
            waiting = line.waiting_reports(verb)
            while waiting:
                sending = line.sending[verb]
                if sending and (sending >= REPORTS_IN_FLIGHT or len(waiting) < REPORTS_WORTH_A_MESSAGE):
                    break
                line.sending[verb] += 1
                most = ENCODED_MESSAGE_MAX_BYTES if self._asking.coder.encodes else REPORT_MESSAGE_MAX_BYTES
                runs = [waiting.popleft()] if verb in line.asleep else _take(waiting, most)
                self._spawn(self._report(line, verb, runs))

    async def _report(self, line: Line, verb: str, runs: list[Run]) -> None:
        """One message of reports, repeated until it is answered or its leases are known to be lost."""
        pause_s = 0.05
        repeated = False
        try:
            while runs := [run for run in runs if run.stop is not Stop.LOST]:
                try:
                    command = self._command(verb, runs)
                    answer = await self._asking.ask(line.queue, verb, command, Reported, REPORT_TIMEOUT_S)
                except (PermissionDenied, Unreachable) as error:
                    self._fatal(error)
                    return
                except (WireError, TryLater) as error:
                    repeated = repeated or isinstance(error, NoAnswer)
                    log.info("a report of %s in queue %s is repeated: %s", verb, line.queue, error)
                    runs, again = list(runs), True
                except Refused as error:
                    if len(runs) > 1:  # one of them spoils it for all
                        for run in runs:
                            await self._report_one(line, verb, run)
                        break
                    refused: tuple[Rejection, ...] = (msgspec.structs.replace(error.rejection, index=0),)
                    runs = self._settle(line, verb, runs, refused, repeated)
                    continue
                else:
                    again = False
                    runs = self._settle(line, verb, runs, answer.refused, repeated)
                if runs or again:
                    await asyncio.sleep(pause_s * (0.5 + self._entropy()))
                    pause_s = min(pause_s * 2, 2.0)
        finally:
            line.sending[verb] -= 1
            self._changed()
        self.flush(line)

    async def _report_one(self, line: Line, verb: str, run: Run) -> None:
        line.sending[verb] += 1
        await self._report(line, verb, [run])

    def _command(self, verb: str, runs: list[Run]) -> Command:
        worker = self._worker
        if verb == "complete":
            return Complete(
                worker,
                tuple(
                    [
                        Completion(
                            run.lease.id,
                            run.lease.token,
                            msgspec.Raw(run.output),
                            run.run_ms,
                            run.isolation,
                        )
                        for run in runs
                    ]
                ),
            )
        if verb == "release":
            return Release(worker, held(runs))
        if verb in ("suspend", "snooze"):
            (run,) = runs
            assert run.sleep is not None
            asks = Suspend if verb == "suspend" else Snooze
            return asks(worker, run.lease.id, run.lease.token, **run.sleep.fields)
        reports: list[Failure] = []
        for run in runs:
            fault, lease = run.fault, run.lease
            assert fault is not None
            reports.append(
                Failure(
                    lease.id,
                    lease.token,
                    fault.class_,
                    fault.type,
                    fault.text,
                    run.run_ms,
                    fault.retry_after_s,
                    run.isolation,
                    fault.crashed,
                    fault.permanent,
                )
            )
        return Fail(worker, tuple(reports))

    def _settle(
        self, line: Line, verb: str, runs: list[Run], refused: tuple[Rejection, ...], repeated: bool
    ) -> list[Run]:
        """Takes the verdicts of one message; the runs of which there is none yet."""
        again: list[Run] = []
        if refused:
            verdicts = {rejection.index: rejection for rejection in refused}
            accepted: list[Run] = []
            for index, run in enumerate(runs):
                rejection = verdicts.get(index)
                if rejection is None:
                    accepted.append(run)
                elif rejection.kind is RejectionKind.TRY_LATER:
                    again.append(run)
                else:
                    self._refused(line, verb, run, rejection, repeated)
            runs = accepted
        if verb == "complete":
            self.counts.completed += len(runs)
        elif verb == "fail":
            self.counts.failed += len(runs)
        elif verb in line.asleep:
            self.counts.suspended += len(runs)
        else:
            self.counts.released += len(runs)
        for run in runs:
            line.drop(run.lease.token)
        return again

    def _refused(self, line: Line, verb: str, run: Run, rejection: Rejection, repeated: bool) -> None:
        """One report that changed nothing."""
        void = rejection.kind in (RejectionKind.STALE, RejectionKind.NOT_FOUND)
        if not void and (verb == "complete" or verb in line.asleep):
            # The output, or the wait, is not to the orchestrator's liking: that is the attempt's failure.
            what = "Output" if verb == "complete" else "Wait"
            log.error("job %s in queue %s: %s refused: %s", run.lease.id, line.queue, what, rejection.reason)
            run.fault = Fault(ErrorClass.APPLICATION, f"{what}Refused", rejection.reason)
            line.failed.append(run)
            self.flush(line)
            return
        line.drop(run.lease.token)
        if repeated:
            log.info("job %s in queue %s: %s was accepted before, or is void", run.lease.id, line.queue, verb)
            return
        if void:
            self.counts.stale += 1
        log.warning("job %s in queue %s: %s refused: %s", run.lease.id, line.queue, verb, rejection.reason)


def _take(waiting: deque[Run], most_bytes: int) -> list[Run]:
    """As many reports as one message of so many bytes may hold."""
    taken: list[Run] = []
    size = 0
    while waiting and len(taken) < LEASES_PER_REQUEST_MAX:
        size += _size_bytes(waiting[0])
        if taken and size > most_bytes:
            break
        taken.append(waiting.popleft())
    return taken


def _size_bytes(run: Run) -> int:
    """What a run's report may take in a message, or a little more."""
    size = 120 + len(run.lease.id) + len(run.output)
    if run.fault is not None:
        size += len(_encode(run.fault))
    return size
