"""Beats: the leases of a queue are renewed together, and what the answer says of each is passed on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any, Final

from writ.broker.clock import Clock
from writ.broker.errors import WireError
from writ.schemas.bounds import RENEWALS_PER_REQUEST_MAX
from writ.schemas.commands import Renew, Renewed, SignalCame
from writ.schemas.rejections import Rejection, RejectionKind

from .asking import Asking, Refused, TryLater
from .faults import Stop
from .line import Counts, Line, heard
from .reports import REPORT_TIMEOUT_S
from .run import Run

log = logging.getLogger("writ.worker")

BEATS_PER_LEASE: Final = 3
AGAIN_S: Final = 1.0
"""A beat that was not answered is followed by the next one within so many seconds."""


class Beats:
    """Keeps what a worker holds alive: one request for each queue, every third of its shortest lease.

    `stop` has work end, `hear` tells runs of new signals, and `changed` is called where leases were lost.
    """

    def __init__(
        self,
        asking: Asking,
        worker: str,
        clock: Clock,
        counts: Counts,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        stop: Callable[[Iterable[Run], Stop], None],
        hear: Callable[[list[Run]], None],
        changed: Callable[[], None],
    ) -> None:
        self._asking = asking
        self._worker = worker
        self._now_us = clock.mono_us
        self._counts = counts
        self._spawn = spawn
        self._stop = stop
        self._hear = hear
        self._changed = changed

    def keep(self, line: Line, runs: Iterable[Run]) -> None:
        """Has the queue's next beat come in time for these."""
        self._arm(line, min(run.lease.lease_s for run in runs) / BEATS_PER_LEASE)

    def _arm(self, line: Line, in_s: float) -> None:
        """The next beat of a queue comes within `in_s` seconds."""
        loop = asyncio.get_running_loop()
        if line.beat is not None:
            if line.beat.when() <= loop.time() + in_s:
                return
            line.beat.cancel()
        line.beat = loop.call_later(in_s, self._beat, line)

    def _beat(self, line: Line) -> None:
        line.beat = None
        if not line.held:
            return
        interval_s = min(run.lease.lease_s for run in line.held.values()) / BEATS_PER_LEASE
        self._arm(line, interval_s)
        if not line.beating:
            line.beating = True
            self._spawn(self._renew(line, min(interval_s, REPORT_TIMEOUT_S)))

    async def _renew(self, line: Line, timeout_s: float) -> None:
        """One beat: all leases of a queue. One unanswered is followed by the next one sooner."""
        try:
            runs = list(line.held.values())
            for start in range(0, len(runs), RENEWALS_PER_REQUEST_MAX):
                part = runs[start : start + RENEWALS_PER_REQUEST_MAX]
                asked_us = self._now_us()
                command = Renew(self._worker, heard(part))
                answer = await self._asking.ask(line.queue, "renew", command, Renewed, timeout_s)
                self._renewed(part, answer.lost, asked_us)
                self._lose(line, part, answer.lost)
                wanted = set(answer.cancel)
                self._stop([run for run in part if run.lease.id in wanted], Stop.CANCEL)
                if answer.signals:
                    self._take(part, answer.signals)
            line.unheard = False
        except (WireError, TryLater) as error:
            level = logging.INFO if line.unheard else logging.WARNING
            log.log(level, "the leases of queue %s were not renewed: %s", line.queue, error)
            line.unheard = True
            self._arm(line, min(AGAIN_S, timeout_s))
        except Refused as error:
            log.error("renewing the leases of queue %s is refused: %s", line.queue, error)
        finally:
            line.beating = False

    @staticmethod
    def _renewed(runs: Iterable[Run], lost: Iterable[Rejection], asked_us: int) -> None:
        """Those that nothing was said against live on."""
        besides = {rejection.index for rejection in lost}
        for index, run in enumerate(runs):
            if index not in besides:
                run.granted(asked_us)

    def _take(self, runs: Iterable[Run], signals: Mapping[str, Iterable[SignalCame]]) -> None:
        """Signals that came for jobs, by their ids."""
        told = [run for run in runs if signals.get(run.lease.id)]
        for run in told:
            run.heard += signals[run.lease.id]
        self._hear(told)

    def _lose(self, line: Line, runs: list[Run], lost: Iterable[Rejection]) -> None:
        """Leases that are void: their work ends, and nothing is reported of it."""
        gone: list[Run] = []
        for rejection in lost:
            if rejection.kind is RejectionKind.TRY_LATER or rejection.index is None:
                continue
            run = runs[rejection.index]
            if line.held.get(run.lease.token) is not run:
                continue  # reported meanwhile
            line.drop(run.lease.token)
            if run.ended:
                # Its report is under way or waits: accepted just before this beat, or void.
                run.stop = Stop.LOST
                continue
            self._counts.lost += 1
            told = "job %s in queue %s: lease lost: %s"
            log.warning(told, run.lease.id, line.queue, rejection.reason, extra={"writ": run.where})
            gone.append(run)
        self._stop(gone, Stop.LOST)
        self._changed()
