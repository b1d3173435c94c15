"""Floods: of whom too much waits where tenants share a node, no more is stored until that is decided on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

from writ.broker.clock import Clock
from writ.broker.ports import Intake, OutcomeUnknown
from writ.schemas.bounds import KEPT_OUT_FROM

from .figures import Figures
from .inbox import Inbox

log = logging.getLogger("writ.orchestrator")

TAKEN_AGAIN_AT: Final = 5_000
"""Jobs of a tenant that wait: so few are decided on within some seconds, in which more of them come."""

NAMED_MAX: Final = 1_000
"""Tenants that the intake may name: of more subjects a stream would be shut for longer than a flood keeps
others waiting. Where there are more tenants nobody is kept out."""

_LOOK_S: Final = 0.05
"""How often it is looked how much of a flood waits."""

_CHECK_S: Final = 5.0
"""How often it is looked whether the intake is as it was left: a leader before this one may wake up late."""

_CLOSE_S: Final = 1.0


class Floods:
    """Of one leadership after the other, each from `open` to `close`, with `run` in between.

    What waits is counted in jobs, of a tenant as a whole. What comes for one that is kept out reaches neither
    the disk nor this process: no stream takes it, and the broker answers that nobody does.
    """

    def __init__(self, intake: Intake, inbox: Inbox, clock: Clock, figures: Figures) -> None:
        self.kept_out: Mapping[str, int] = {}
        """Who is, and since when in microseconds UTC."""

        self._intake = intake
        self._inbox = inbox
        self._clock = clock
        self._figures = figures
        self._floods: Mapping[str, int] = {}
        """Who would be, were there few enough tenants."""

        self._apart = False
        """Whether the intake names those of whom it takes submits: it does from the first flood on."""

    async def open(self) -> None:
        """Takes in whom a leader before this one kept out. Raises OutcomeUnknown."""
        self.kept_out, self._floods, self._apart = {}, {}, False
        await self._intake.take_of(None)

    async def run(self) -> None:
        """Keeps tenants out and takes them in again, until cancelled."""
        unsettled = self._inbox.unsettled
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CHECK_S):
                    await unsettled.wait()
            unsettled.clear()
            try:
                await self._settle(self._floods)
                while self._inbox.floods:
                    floods = await self._look()
                    if floods != self._floods:
                        await self._settle(floods)
                    await asyncio.sleep(_LOOK_S)
            except OutcomeUnknown as silent:
                log.warning("tenants are kept out or taken in later: %s", silent)

    async def close(self) -> None:
        """Leaves the intake as it was found, where the broker can be reached."""
        self.kept_out = {}
        if self._apart:
            with suppress(OutcomeUnknown, TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await self._intake.take_of(None)

    async def _look(self) -> Mapping[str, int]:
        """Who is to be kept out now, and since when."""
        out = dict(self._floods)
        for tenant, mean in list(self._inbox.floods.items()):
            jobs = await self._intake.waiting(tenant) * mean
            if jobs >= KEPT_OUT_FROM:
                out.setdefault(tenant, self._clock.wall_us())
            elif jobs <= TAKEN_AGAIN_AT:
                out.pop(tenant, None)
                self._inbox.calm(tenant)
        return out

    async def _settle(self, out: Mapping[str, int]) -> None:
        """Brings the intake to where these are kept out, and nobody else."""
        tenants = self._inbox.tenants
        if tenants is None:
            return
        self._apart = self._apart or bool(out)
        named = self._apart and len(tenants) <= NAMED_MAX
        kept_out: Mapping[str, int] = out if named else {}
        await self._intake.take_of(tenants - out.keys() if named else None, kept_out)
        for tenant in kept_out.keys() - self.kept_out:
            self._figures.flooded(tenant)
        self.kept_out, self._floods = kept_out, out
