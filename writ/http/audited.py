"""What the API refuses by itself, for the audit: to whoever it does not know, there is no principal to name.

A flood of it costs the log a record a second at most: repeats are folded, and all strangers share one budget.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Final

import msgspec

from writ.broker.clock import Clock, SystemClock
from writ.broker.errors import NoAnswer, NoResponders, Unreachable, WireError
from writ.broker.refusals import Refusals
from writ.orchestrator.logtime import Budget
from writ.schemas.granting import NoteDenial
from writ.schemas.ids import SYSTEM_TENANT
from writ.schemas.subjects import NO_QUEUE, control_subject

from .bearers import COMPONENT

if TYPE_CHECKING:
    from writ.broker.wire import NatsWire

    from .problems import Fault

log = logging.getLogger("writ.http")

TOLD_BURST: Final = 10
TOLD_PER_S: Final = 1.0
"""With what the broker refuses to strangers no more than the orchestrator records of one name."""

KINDS_MAX: Final = 100
"""Hosts and origins that are told apart at once."""

_LOOK_S: Final = 1.0
_ANSWER_S: Final = 10.0
_TELL: Final = control_subject(SYSTEM_TENANT, COMPONENT, "note_denial", NO_QUEUE)


class Audited:
    """Has refusals recorded. Strangers are nobody in the tenant `tenant`."""

    def __init__(self, wire: NatsWire, tenant: str, clock: Clock | None = None) -> None:
        self._wire = wire
        self._clock = clock or SystemClock()
        self._budget = Budget(TOLD_BURST, TOLD_PER_S)
        self._refusals = Refusals(lambda _: None, tenant, self._may_tell, KINDS_MAX)
        self._due: deque[NoteDenial] = deque()
        self.is_behind = False
        """Whether what was to be recorded last was not, as where nobody leads."""
        self._some = asyncio.Event()

    def note(self, fault: Fault) -> None:
        """Takes notice of a fault that the audit is to know of; others are none of its business."""
        if fault.audit is None:
            return
        denial = self._refusals.take(fault.audit, self._clock.mono_us())
        if denial is not None:
            self._due.append(denial)
        self._some.set()

    async def keep(self) -> None:
        """Tells of them, until cancelled; while there are none it sleeps."""
        while True:
            await self._some.wait()
            self._some.clear()
            while self._due or self._refusals.is_counting:
                self._due.extend(self._refusals.over(self._clock.mono_us()))
                while self._due and await self._is_told(self._due[0]):
                    self._due.popleft()
                await asyncio.sleep(_LOOK_S)

    def _may_tell(self, who: str, now: int) -> bool:
        """While nobody records, refusals are counted, and what waits to be told does not grow."""
        return not self.is_behind and self._budget.take(who, now)

    async def _is_told(self, denial: NoteDenial) -> bool:
        """Whether it is dealt with. What nobody answered is told again: rather twice than never."""
        try:
            await self._wire.request(_TELL, msgspec.json.encode(denial), _ANSWER_S)
        except (NoAnswer, NoResponders, Unreachable) as error:
            if not self.is_behind:
                log.warning("what is refused is in the audit later: %s: %s", denial.why, error)
            self.is_behind = True
            return False
        except WireError as error:
            log.warning("a refusal is not in the audit: %s: %s", denial.why, error)
        self.is_behind = False
        return True
