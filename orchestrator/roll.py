"""Who takes part, asked of the orchestrators themselves before a leader decides what it rests on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from writ.schemas.commands import Answer
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.upgrading import CountedRaise, Member, RaiseRecords

from .messages import Asked

log = logging.getLogger("writ.orchestrator")
_AT_ONCE: Final = 4
_SHED: Final = "who takes part is being asked already; nothing was decided, ask again"
_SILENT: Final = "the broker did not carry the question who takes part; nothing was decided, ask again"


class Roll:
    """Calls the roll for requests that need it; `call` asks all that are there."""

    def __init__(self, call: Callable[[], Awaitable[tuple[Member, ...]]]) -> None:
        self._call = call
        self._calling: set[asyncio.Task[None]] = set()

    def take(self, asked: Asked, command: RaiseRecords, decide: Callable[[Asked], None]) -> None:
        """Hands a request on to be decided, with who is there."""
        if len(self._calling) >= _AT_ONCE:
            _put_off(asked, _SHED)
            return
        task = asyncio.get_running_loop().create_task(self._take(asked, command, decide))
        self._calling.add(task)
        task.add_done_callback(self._calling.discard)

    async def _take(self, asked: Asked, command: RaiseRecords, decide: Callable[[Asked], None]) -> None:
        try:
            members = await self._call()
        except (ConnectionError, TimeoutError) as silent:
            log.warning("the roll cannot be called: %s", silent)
            _put_off(asked, _SILENT)
            return
        decide(asked._replace(command=CountedRaise(asked=command, members=members)))


def _put_off(asked: Asked, reason: str) -> None:
    asked.send(msgspec.json.encode(Answer(Rejection(RejectionKind.TRY_LATER, reason))))
