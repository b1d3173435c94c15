"""Who a node knows from the start; and its broker lets in whom the log knows, as that changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Final

from writ.broker.accounts import ALL_ROLES
from writ.broker.accounts import Principal as Account
from writ.broker.accounts import Role as Word
from writ.broker.embedded import BrokerError
from writ.orchestrator.access_desk import Founder
from writ.schemas.access import OPERATIONS, built_in
from writ.schemas.principals import WHOLE_TENANT, Principal, Role

if TYPE_CHECKING:
    from writ.broker.embedded import EmbeddedBroker
    from writ.orchestrator.state import Partition

log = logging.getLogger("writ.node")

CHANGES: Final = "writ.log.*.*.principal.*"
"""The records by which principals change; they are stored on these subjects."""

SETTLE_S: Final = 0.05
"""Changes that come so close together are one for the broker."""

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
    "node": "ask",
}


def founders(accounts: Sequence[Account]) -> tuple[Founder, ...]:
    """Those whom the broker is configured with, as principals: with all its words one is an owner."""
    return tuple([Founder(a.tenant, a.name, a.public, _roles(a.roles)) for a in accounts])


def _roles(words: Collection[Word]) -> tuple[Role, ...]:
    if set(words) >= ALL_ROLES:
        return (Role.OWNER,)
    return tuple([role for word, roles in _ROLES.items() if word in words for role in roles])


def accounts(principals: Collection[Principal]) -> list[Account]:
    """Whom the broker lets in: those that are not revoked and have a key, by the newest one.

    It opens the subjects of what their roles allow somewhere, at some time; the rest is for the orchestrator.
    """
    found: list[Account] = []
    for principal in principals:
        if principal.revoked is None and principal.keys:
            found.append(Account(principal.tenant, principal.name, principal.keys[-1], words(principal)))
    return found


def words(principal: Principal) -> frozenset[Word]:
    """The kinds of subjects that a principal's roles call for."""
    allowed = {"whoami", "elevate"}  # any that is known may ask who it is, and for more
    allowed = allowed.union(*[built_in().operations(grant.role) for grant in principal.grants])
    found: set[Word] = {_WORDS[OPERATIONS[each]] for each in allowed}
    # The feed holds all of the tenant, whatever the scope of a grant.
    reads = any(g.scope == WHOLE_TENANT and "log" in built_in().operations(g.role) for g in principal.grants)
    feed: set[Word] = {"read"} if reads else set()
    return frozenset(found | feed)


class Doorkeeper:
    """Has the broker let in whom the log knows, as the log changes."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._as_of = -1

    async def listen(self, link: Any) -> None:
        """Hears of changes on a connection that may read the log."""

        async def heard(_: Any) -> None:
            self._changed.set()

        await link.subscribe(CHANGES.replace("writ.log.*", "writ.feed"), cb=heard)
        self._changed.set()

    async def keep(self, broker: EmbeddedBroker, state: Partition) -> None:
        """One change: waits for it, and hands the broker all that are to be let in."""
        await self._changed.wait()
        await asyncio.sleep(SETTLE_S)
        self._changed.clear()
        if state.access_changes == self._as_of:
            return
        as_of = state.access_changes
        wanted = accounts(tuple(state.principals.values()))
        if wanted and set(wanted) != set(broker.principals):
            try:
                await broker.set_principals(wanted)
            except (BrokerError, ValueError) as refused:
                log.error("the broker does not take the principals of the log: %s", refused)
        self._as_of = as_of
