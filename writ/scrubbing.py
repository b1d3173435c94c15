"""Reads the whole log now and then, and raises an alarm where it is not what was stored."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec

from .children.apart import run_apart

log = logging.getLogger("writ.node")

FIRST_S: Final = 45.0
"""After the start: who restarts a node that misbehaves wants to know soon. And not when the archive looks."""


class _Fault(msgspec.Struct):
    seq: int
    reason: str


class _Found(msgspec.Struct):
    faults: tuple[_Fault, ...]


class Scrubbing:
    """`writ audit verify` of a partition, every so many seconds; `told` is called with words about the first
    fault."""

    def __init__(
        self,
        directory: Path,
        every_s: float,
        told: Callable[[str], Awaitable[None]],
        first_s: float = FIRST_S,
        partition: int = 0,
    ) -> None:
        self._every_s = every_s
        self._told = told
        self._first_s = first_s
        self._words = ("audit", "verify", "--dir", str(directory), "--partition", str(partition))

    async def keep(self) -> None:
        """Until cancelled. What was told is told again only when it is another fault."""
        await asyncio.sleep(min(self._first_s, self._every_s))
        before = ""
        while True:
            found = await self.scrub()
            if found and found != before:
                log.error("the log is not what was stored: %s", found)
                await self._told(found)
            before = before if found is None else found
            await asyncio.sleep(self._every_s)

    async def scrub(self) -> str | None:
        """One reading of everything; the first fault in words, empty where there is none.

        None where it could not be read, which says nothing about it.
        """
        try:
            code, said = await run_apart(*self._words)
        except OSError as error:  # no process, no file: the node goes on, and tries again
            log.warning("the log could not be scrubbed: %s", error)
            return None
        try:
            faults = msgspec.json.decode(said, type=_Found).faults
        except msgspec.MsgspecError:
            log.warning("the log could not be scrubbed: writ audit verify ended with code %d", code)
            return None
        return (
            "" if not faults else f"{len(faults)} faults, first at record {faults[0].seq}: {faults[0].reason}"
        )
