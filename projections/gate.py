"""The readers' gate: who may ask what, by the principals view; what each may know of itself; denials told.

It decides on queries as the orchestrator decides on commands, by the same function, as of its view.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple

import msgspec
from msgspec.structs import replace

from writ.broker.clock import Clock
from writ.schemas.access import Decision, Resource, allowed, denied
from writ.schemas.bounds import SECOND_US
from writ.schemas.commands import Answer
from writ.schemas.granting import NoteDenial
from writ.schemas.ids import SYSTEM_TENANT
from writ.schemas.lists import (
    Bearer,
    BearerQuery,
    CanQuery,
    PrincipalsPage,
    PrincipalsQuery,
    Verdict,
    WhoamiQuery,
)
from writ.schemas.principals import WHOLE_TENANT
from writ.schemas.queries import Query

from .asked import Refused, parse
from .file import Reader
from .principals import Standing, bearer, principals, standing

GATE_VIEW: Final = "principals"
"""What is decided from."""

ONESELF: Final = ("whoami", "can")
GATE_WAIT_S: Final = 2.0
"""How long a denial waits for the newest grants to be known."""

FOLD_US: Final = 10 * SECOND_US
"""A denial is told of at once, and its repeats within so long together."""

_BEARER: Final = "bearer"
_FOLDED_MAX: Final = 1_000

CaughtUp = Callable[[Query, str], Awaitable[None]]
"""Returns when a view is as new as a query asks. Raises Refused."""

Tell = Callable[[NoteDenial], Awaitable[None]]
"""Has a denial recorded; what cannot be told is lost, and the denial stands all the same."""


class _About(msgspec.Struct):
    """What of a query says which queue it is about."""

    queue: str | None = None


_about = msgspec.json.Decoder(_About).decode


class _Counted(NamedTuple):
    """What was denied, how often since it was told of, and until when it is counted."""

    end: int
    times: int
    denial: NoteDenial


class Gate:
    """Stands before the queries of one partition."""

    def __init__(self, reader: Reader, clock: Clock, caught_up: CaughtUp, tell: Tell | None = None) -> None:
        self._reader = reader
        self._clock = clock
        self._caught_up = caught_up
        self._tell = tell
        self._told: dict[tuple[str, ...], _Counted] = {}
        self._telling: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Tells what was counted up to now."""
        if self._telling is not None:
            self._telling.cancel()
            with suppress(asyncio.CancelledError):
                await self._telling
        for counted in self._told.values():
            await self._tell_of(counted)
        self._told = {}

    async def admit(self, tenant: str, principal: str, verb: str, body: bytes) -> None:
        """Raises Refused where the principal may not ask this; a log without tenants governs nobody."""
        if tenant == SYSTEM_TENANT and verb in {_BEARER, "status"}:
            return  # a part of Writ: the broker lets nobody else into that tenant
        resource = Resource(tenant, _queue_of(body))
        decision = await self._decide(principal, verb, resource)
        if decision is not None and not decision.allowed:
            await self._caught_up(Query(max_wait_s=GATE_WAIT_S), GATE_VIEW)  # it may have just been granted
            decision = await self._decide(principal, verb, resource)
        if decision is not None and not decision.allowed:
            why = denied(principal, verb, resource, decision)
            await self._note(tenant, principal, verb, str(resource), decision.rule, why.reason)
            raise Refused(why.kind, why.reason)

    def verbs(self, tenant: str, principal: str) -> dict[str, Callable[[str, bytes], Awaitable[Answer]]]:
        """What is answered to each about itself, and about API tokens to those who take them."""
        found: dict[str, Callable[[str, bytes], Awaitable[Answer]]] = {
            "whoami": partial(self._whoami, principal),
            "can": partial(self._can, principal),
        }
        return found | ({_BEARER: self._of_token} if tenant == SYSTEM_TENANT else {})

    async def _standing(self, tenant: str, principal: str) -> Standing:
        return await self._reader.read(lambda db: standing(db, tenant, principal))

    async def _decide(self, principal: str, verb: str, resource: Resource) -> Decision | None:
        found = await self._standing(resource.tenant, principal)
        return allowed(found.principal, verb, resource, self._clock.wall_us()) if found.governed else None

    async def _whoami(self, principal: str, tenant: str, body: bytes) -> PrincipalsPage:
        await self._caught_up(parse(body, WhoamiQuery), GATE_VIEW)
        query = PrincipalsQuery(name=principal)
        return await self._reader.read(lambda db: principals(db, tenant, query))

    async def _can(self, principal: str, tenant: str, body: bytes) -> Verdict:
        """Of another principal it is told to those who may see principals."""
        query = parse(body, CanQuery)
        await self._caught_up(query, GATE_VIEW)
        about = query.principal or principal
        if about != principal:
            seen = await self._decide(principal, "principals", Resource(tenant))
            if seen is not None and not seen.allowed:
                return Verdict(None, 0, False, seen.rule, f"to see what others may do: {seen.reason}")
        decision = await self._decide(about, query.operation, Resource(tenant, query.queue))
        if decision is None:
            return Verdict(None, 0, True, "ungoverned", "the log knows no tenant: nothing is checked")
        return Verdict(None, 0, decision.allowed, decision.rule, decision.reason)

    async def _of_token(self, tenant: str, body: bytes) -> Bearer:
        query = parse(body, BearerQuery)
        now = self._clock.wall_us()
        found = await self._reader.read(lambda db: bearer(db, query.digest, now))
        if found.principal is None:
            await self._caught_up(query, GATE_VIEW)  # it may have been issued a moment ago
            found = await self._reader.read(lambda db: bearer(db, query.digest, now))
        return found

    async def _note(self, tenant: str, principal: str, verb: str, resource: str, rule: str, why: str) -> None:
        """Has a denial recorded, unless the same was a moment ago: then it is counted, and told of later."""
        if self._tell is None:
            return
        now = self._clock.mono_us()
        denial = NoteDenial(
            tenant=tenant, principal=principal, operation=verb, resource=resource, rule=rule, why=why
        )
        key = (tenant, principal, verb, resource, rule)
        if key not in self._told and len(self._told) >= _FOLDED_MAX:
            self._told = {k: told for k, told in self._told.items() if told.times or told.end > now}
            if len(self._told) >= _FOLDED_MAX:
                key = (tenant, principal, verb, "", rule)  # many resources: counted together
        known = self._told.get(key)
        if known is not None and (known.times or now < known.end):
            self._told[key] = known._replace(times=known.times + 1)
            if self._telling is None or self._telling.done():
                self._telling = asyncio.create_task(self._tell_counted(), name="denials")
            return
        self._told[key] = _Counted(now + FOLD_US, 0, replace(denial, resource=key[3]))
        await self._tell(denial)

    async def _tell_counted(self) -> None:
        """Tells of what was counted as its time is over, until nothing is left that was."""
        while ends := [told.end for told in self._told.values() if told.times]:
            await asyncio.sleep(max(0, min(ends) - self._clock.mono_us()) / SECOND_US)
            now = self._clock.mono_us()
            for key, told in list(self._told.items()):
                if told.times and told.end <= now:
                    # Others may be counted while this is told of, and it may be again.
                    counted = self._told[key]
                    self._told[key] = counted._replace(end=now + FOLD_US, times=0)
                    await self._tell_of(counted)

    async def _tell_of(self, counted: _Counted) -> None:
        if counted.times and self._tell is not None:
            await self._tell(replace(counted.denial, count=counted.times))


def _queue_of(body: bytes) -> str:
    """The queue that a query is about; the whole tenant where it names none."""
    try:
        return _about(body).queue or WHOLE_TENANT
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return WHOLE_TENANT  # what cannot be read is refused behind this, to those who may ask
