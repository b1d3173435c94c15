"""Floods: of whom too much waits where tenants share a node, no more is stored until that is decided on."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Final

from writ.broker.ports import Intake, OutcomeUnknown
from writ.schemas.bounds import KEPT_OUT_FROM

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

    def __init__(self, intake: Intake, inbox: Inbox) -> None:
        self._intake = intake
        self._inbox = inbox
        self._out: frozenset[str] = frozenset()
        self._apart = False
        """Whether the intake names those of whom it takes submits: it does from the first flood on."""

    async def open(self) -> None:
        """Takes in whom a leader before this one kept out. Raises OutcomeUnknown."""
        self._out, self._apart = frozenset(), False
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
                await self._settle(self._out)
                while self._inbox.floods:
                    out = await self._look()
                    if out != self._out:
                        await self._settle(out)
                    await asyncio.sleep(_LOOK_S)
            except OutcomeUnknown as silent:
                log.warning("tenants are kept out or taken in later: %s", silent)

    async def close(self) -> None:
        """Leaves the intake as it was found, where the broker can be reached."""
        if self._apart:
            with suppress(OutcomeUnknown, TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await self._intake.take_of(None)

    async def _look(self) -> frozenset[str]:
        """Who is to be kept out now."""
        out = set(self._out)
        for tenant, mean in list(self._inbox.floods.items()):
            jobs = await self._intake.waiting(tenant) * mean
            if jobs >= KEPT_OUT_FROM:
                out.add(tenant)
            elif jobs <= TAKEN_AGAIN_AT:
                out.discard(tenant)
                self._inbox.calm(tenant)
        return frozenset(out)

    async def _settle(self, out: frozenset[str]) -> None:
        """Brings the intake to where these are kept out, and nobody else."""
        tenants = self._inbox.tenants
        if tenants is None:
            return
        self._apart = self._apart or bool(out)
        named = self._apart and len(tenants) <= NAMED_MAX
        await self._intake.take_of(tenants - out if named else None)
        self._out = out
