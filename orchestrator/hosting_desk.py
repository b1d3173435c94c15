"""What the people of a node ask of its tenants; and word of a budget that is nearly, or wholly, spent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from writ.schemas import commands, hosting
from writ.schemas.events import Fact
from writ.schemas.quotas import NO_ACCOUNT, QUOTAS_KEY
from writ.schemas.rejections import Rejection, RejectionKind

from .consequences import ORCHESTRATOR
from .decide import quotas, tenant
from .decide.access import own_name
from .messages import Asked
from .office import Office, encode
from .round import Round
from .state import Partition


class HostingDesk:
    """Asked of the host tenant's home partition. Records about others name who asked with its tenant."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._state = office.state
        self._spending: dict[str, None] = {}
        """Tenants of which something may be to tell."""

        self.verbs: dict[type[commands.Command], Callable[[Round, Asked, Any], None]] = {
            hosting.CreateTenant: self._create,
            hosting.SetQuotas: self._set_quotas,
            hosting.ListTenants: self._list,
        }

    def recover(self) -> None:
        """Finds every tenant of which something may be to tell."""
        self._spending = dict.fromkeys(self._state.accounts)

    def flush(self, round_: Round) -> None:
        """Tells of budgets of which the round spent the last, or nearly so, as far as there is room."""
        accounts = self._state.accounts
        if not accounts:
            return
        self._spending |= {r.tenant: None for r in round_.records if r.tenant in accounts}
        while self._spending and round_.has_room(1, 0):
            name, _ = self._spending.popitem()
            standing = self._state.standing(name)
            events = () if standing is None else quotas.reached(standing, round_.now)
            if events:
                round_.record(name, "tenant", QUOTAS_KEY, events, actor=ORCHESTRATOR, cause="budget")

    def _create(self, round_: Round, asked: Asked, command: hosting.CreateTenant) -> None:
        outcome = create(self._state, command)
        if not isinstance(outcome, Rejection) and outcome:
            outcome = own_name(command.owner, "owner") or outcome
        if isinstance(outcome, Rejection):
            self._office.refuse(round_, asked, outcome)
            return
        if outcome:
            founded, owner = outcome
            self._record(round_, asked, command.name, "tenant", command.name, founded)
            self._record(round_, asked, command.name, "principal", command.owner, owner)
        self._done(round_, asked, stored=bool(outcome))

    def _set_quotas(self, round_: Round, asked: Asked, command: hosting.SetQuotas) -> None:
        outcome = set_quotas(self._state, command)
        if isinstance(outcome, Rejection):
            self._office.refuse(round_, asked, outcome)
            return
        if outcome:
            self._record(round_, asked, command.name, "tenant", QUOTAS_KEY, outcome)
            self._office.stir_held(command.name)
        self._done(round_, asked, stored=bool(outcome))

    def _list(self, round_: Round, asked: Asked, command: hosting.ListTenants) -> None:
        state, now = self._state, round_.now
        people: dict[str, int] = {}
        for each in state.principals.values():
            people[each.tenant] = people.get(each.tenant, 0) + 1
        told: list[hosting.HostedTenant] = []
        for name, seq in sorted(state.governed.items()):
            account = state.accounts.get(name, NO_ACCOUNT)
            uses = used(state, name, now)
            told.append(
                hosting.HostedTenant(name, seq, people.get(name, 0), account.version, account.quotas, uses)
            )
        answer = hosting.TenantsTold(None, round_.position, tuple(told))
        round_.tell(asked.send, encode(answer))

    @staticmethod
    def _record(
        round_: Round, asked: Asked, name: str, kind: str, key: str, events: tuple[Fact, ...]
    ) -> None:
        own, principal, verb, _ = asked.address
        round_.record(
            *(name, kind, key, events),
            actor=by(own, principal, name),
            vouched=False,
            cause=verb,
            size_bytes=asked.size_bytes,
        )

    @staticmethod
    def _done(round_: Round, asked: Asked, *, stored: bool) -> None:
        answer = commands.Answer(None, round_.position)
        round_.answer(asked.send, encode(answer), verdict_only=not stored)


def by(own: str, principal: str, name: str) -> str:
    """The actor of a record in tenant `name`: who is of another tenant is named with it."""
    return principal if own == name else f"{own}.{principal}"


def create(state: Partition, command: hosting.CreateTenant) -> tenant.Founding | Rejection | None:
    """What comes of making a tenant; None where it is there, just so."""
    owner = state.principals.get(f"{command.name}.{command.owner}")
    return tenant.create(set(state.governed), owner, command, tuple(state.principals.values()))


def set_quotas(state: Partition, command: hosting.SetQuotas) -> tuple[Fact, ...] | Rejection:
    """What comes of giving a tenant quotas."""
    if command.name not in state.governed:
        return Rejection(RejectionKind.NOT_FOUND, f"there is no tenant {command.name}", "name")
    return quotas.set_quotas(state.accounts.get(command.name, NO_ACCOUNT), command)


def used(state: Partition, name: str, now: int) -> hosting.Used:
    """What a tenant uses now."""
    load, account = state.usage.of(name), state.accounts.get(name, NO_ACCOUNT)
    budget = account.limits.budget
    since = 0 if budget is None else budget.period.begin(now)
    return hosting.Used(
        load.jobs, load.input_bytes, load.workers, account.spent(now), load.reserved_microusd, since
    )
