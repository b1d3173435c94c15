"""Who a node knows from the start; and its broker lets in whom the log knows, as that changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from writ.broker.accounts import ALL_ROLES
from writ.broker.accounts import Principal as Account
from writ.broker.accounts import Role as Word
from writ.broker.owned import BrokerError
from writ.orchestrator.access_desk import Founder
from writ.orchestrator.state import address
from writ.schemas.access import OPERATIONS, built_in
from writ.schemas.bounds import SECOND_US
from writ.schemas.ids import LANES_MAX, lanes_of, queue_fault, queue_of
from writ.schemas.principals import WHOLE_TENANT, Principal, Role
from writ.schemas.subjects import NO_QUEUE

if TYPE_CHECKING:
    from writ.broker.clock import Clock
    from writ.broker.doors import Doors
    from writ.broker.ports import Shards
    from writ.orchestrator.state import Partition

log = logging.getLogger("writ.node")

CHANGES: Final = "writ.log.*.*.principal.*"
"""The records by which principals change; they are stored on these subjects."""

AGAIN_US: Final = SECOND_US // 2
"""How soon what the broker did not take is told to it again."""

LOOK_S: Final = 1.0
"""How often it is looked at all the same: who stands by folds a change after it was heard of."""

SETTLE_S: Final = 0.05
"""Changes that come so close together are one for the broker."""

_FEW: Final = 2
"""So many operator's verbs of a role are opened singly: who submits may seal a batch, and redrive nothing."""

_ROLES: Final[dict[Word, tuple[Role, ...]]] = {
    "submit": (Role.SUBMITTER,),
    "work": (Role.WORKER,),
    "operate": (Role.OPERATOR, Role.APPROVER, Role.RELEASER, Role.PRIVACY_OFFICER),
    "read": (Role.VIEWER, Role.AUDITOR),
}
_WORDS: Final[dict[str, Word]] = {
    "submit": "submit",
    "lease": "work",
    "control": "operate",
    "query": "ask",
    "store": "store",
    "node": "ask",
}


def founders(accounts: Sequence[Account]) -> tuple[Founder, ...]:
    """Those whom the broker is configured with, as principals: with all its words one is an owner."""
    return tuple([Founder(a.tenant, a.name, a.public, _roles(a.roles)) for a in accounts])


def _roles(words: Collection[Word]) -> tuple[Role, ...]:
    if set(words) >= ALL_ROLES:
        return (Role.OWNER,)
    return tuple([role for word, roles in _ROLES.items() if word in words for role in roles])


def accounts(principals: Collection[Principal], now: int, lanes: Callable[[str, str], int]) -> list[Account]:
    """Whom the broker lets in at log time `now`: those that are not revoked and have a key.

    It opens the subjects of what their roles allow, in queues that grants name one by one, with their
    `lanes` by tenant and queue, or in all; what is finer than that is for the orchestrator.
    """
    found: list[Account] = []
    for p in principals:
        if p.revoked is None and p.keys:
            try:
                found.append(account(p, now, lanes))
            except ValueError as fault:  # none may shut the others out
                log.error("principal %s of tenant %s is not let in: %s", p.name, p.tenant, fault)
    return found


def account(principal: Principal, now: int, lanes: Callable[[str, str], int]) -> Account:
    """A principal, as the broker is to know it."""
    # Any that is known may ask who it is, and for more.
    everywhere: list[Word] = ["ask"]
    in_queues: list[tuple[Word, str]] = [("operate", NO_QUEUE)]
    verbs: list[tuple[str, str]] = []
    for grant in principal.grants:
        if not grant.live(now):
            continue
        allowed = built_in().operations(grant.role)
        controls = [each for each in allowed if _WORDS[OPERATIONS[each]] == "operate"]
        few = controls if len(controls) <= _FEW else []
        words: list[Word] = [_WORDS[OPERATIONS[each]] for each in allowed.difference(few)]
        scopes: tuple[str, ...] = ("*",)
        if not grant.scope.endswith("*"):
            named = lanes_of(grant.scope, lanes(principal.tenant, grant.scope))
            scopes = (grant.scope, *[lane for lane in named if queue_fault(lane) is None])
        verbs.extend((each, scope) for each in few for scope in scopes)
        if grant.scope.endswith("*"):  # a folder is for the orchestrator, as no subject says it
            everywhere += words
        else:
            in_queues.extend((word, scope) for word in words for scope in scopes)
        if grant.scope == WHOLE_TENANT and "log" in allowed:
            everywhere.append("read")  # the feed holds all of the tenant
    return Account(
        principal.tenant,
        principal.name,
        principal.keys[-1],
        frozenset(everywhere),
        frozenset([each for each in in_queues if each[0] not in everywhere]),
        frozenset([(verb, q) for verb, q in verbs if q == "*" or (verb, "*") not in verbs]),
        principal.keys[:-1],
        tuple([t.digest for t in principal.tokens if t.until is None or now < t.until]),
    )


def _lanes(state: Partition, known: Mapping[str, int], tenant: str, queue: str) -> int:
    """How many lanes a queue has: as many as one may have where another partition is told of it."""
    here = state.links.shards.home(tenant, queue) == state.number
    return known.get(address(tenant, queue), 1 if here else LANES_MAX)


class Doorkeeper:
    """Has the broker let in whom the log knows, as the log changes and as roles for a time end."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._changed = asyncio.Event()
        self._as_of = -1
        self._lanes: tuple[dict[str, int], Shards] = {}, None
        self._due: int | None = None

    async def listen(self, link: Any) -> None:
        """Hears of changes on a connection that may read the log."""

        async def heard(_: Any) -> None:
            self._changed.set()

        await link.subscribe(CHANGES.replace("writ.log.*", "writ.feed"), cb=heard)
        self._changed.set()

    async def keep(self, broker: Doors, state: Partition) -> None:
        """One change: waits for it, and hands the broker all that are to be let in."""
        due_s = LOOK_S if self._due is None else (self._due - self._clock.wall_us()) / SECOND_US
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), min(LOOK_S, max(0.0, due_s)))
            await asyncio.sleep(SETTLE_S)
        self._changed.clear()
        now = self._clock.wall_us()
        known = {queue_of(place): q.policy.lanes for place, q in state.queues.items() if q.policy.lanes > 1}
        lanes = known, state.links.shards.ours()
        as_it_was = (state.access_changes, lanes) == (self._as_of, self._lanes)
        if as_it_was and (self._due is None or now < self._due):
            return
        as_of = state.access_changes
        principals = tuple(state.principals.values())
        wanted = accounts(principals, now, partial(_lanes, state, known))
        self._due = _next_end(principals, now)
        if wanted and (broker.owes or set(wanted) != set(broker.principals)):
            gone = [f"{p.tenant}.{p.name}" for p in principals if p.revoked is not None or not p.keys]
            try:
                await broker.set_principals(wanted, _changed_s(principals, state, now), gone)
            except (BrokerError, ValueError) as refused:
                log.error("the broker does not take the principals of the log; trying again: %s", refused)
                self._due = now + AGAIN_US
                return
        self._as_of, self._lanes = as_of, lanes


def owner_of(key: str, state: Partition) -> tuple[str, str] | None:
    """The tenant and the name of whom a key belongs to, revoked or not."""
    return next(((p.tenant, p.name) for p in state.principals.values() if key in p.keys), None)


def _changed_s(principals: Collection[Principal], state: Partition, now: int) -> dict[str, int]:
    """When principals became for the broker what they are, by account, in seconds: every process that joined
    one broker finds the same, as a change is a record or the end of a grant or token."""
    found: dict[str, int] = {}
    for p in principals:
        ends = [grant.until for grant in p.grants] + [token.until for token in p.tokens]
        times = [end for end in ends if end is not None and end <= now]
        at = state.access_at.get(address(p.tenant, p.name))
        if at is not None:
            times.append(at)
        if times:
            found[f"{p.tenant}.{p.name}"] = max(times) // SECOND_US
    return found


def _next_end(principals: Collection[Principal], now: int) -> int | None:
    """When the first of the grants and tokens that end does so; None where none will."""
    ends = [grant.until for p in principals for grant in p.grants]
    ends += [token.until for p in principals for token in p.tokens]
    return min([end for end in ends if end is not None and end > now], default=None)
