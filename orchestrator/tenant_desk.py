"""What operators ask of a whole tenant: its policy, what the tokens of models cost, who takes no leases."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from writ.schemas import commands
from writ.schemas.fleet import NO_FLEET, DrainWorker, UndrainWorker
from writ.schemas.prices import NO_PRICES, PRICES_KEY
from writ.schemas.quotas import NO_ACCOUNT
from writ.schemas.rejections import Rejection
from writ.schemas.tenants import TENANT_KEY, UNDECLARED

from .decide import fleet
from .decide.prices import set_price
from .decide.tenant import declare_tenant
from .hosting_desk import used
from .messages import Asked
from .office import Office, encode
from .round import Round


class TenantDesk:
    """Asked of the tenant's home partition, which tells all others (see `LinkDesk`)."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._state = office.state
        self.verbs: dict[type[commands.Command], Callable[[Round, Asked, Any], None]] = {
            commands.DeclareTenant: self._declare,
            commands.GetTenant: self._get,
            commands.SetPrice: self._set_price,
            commands.ListPrices: self._list_prices,
            DrainWorker: self._drain,
            UndrainWorker: self._undrain,
        }

    def _declare(self, round_: Round, asked: Asked, command: commands.DeclareTenant) -> None:
        tenant = self._state.tenants.get(asked.address.tenant, UNDECLARED)
        self._office.recorded(round_, asked, "tenant", TENANT_KEY, declare_tenant(tenant, command))

    def _get(self, round_: Round, asked: Asked, command: commands.GetTenant) -> None:
        tenant = self._state.tenants.get(asked.address.tenant, UNDECLARED)
        account = self._state.accounts.get(asked.address.tenant, NO_ACCOUNT)
        answer = commands.TenantTold(
            None,
            round_.position,
            tenant.version,
            tenant.policy,
            account.version,
            account.limits,
            used(self._state, asked.address.tenant, round_.now),
        )
        round_.tell(asked.send, encode(answer))

    def _set_price(self, round_: Round, asked: Asked, command: commands.SetPrice) -> None:
        prices = self._state.prices.get(asked.address.tenant, NO_PRICES)
        outcome = set_price(prices, command, round_.now)
        if isinstance(outcome, Rejection):
            self._office.refuse(round_, asked, outcome)
            return
        self._office.recorded(round_, asked, "prices", PRICES_KEY, outcome)

    def _list_prices(self, round_: Round, asked: Asked, command: commands.ListPrices) -> None:
        prices = self._state.prices.get(asked.address.tenant, NO_PRICES)
        table = tuple([price for price in prices.table if command.model in (None, price.model)])
        answer = commands.PriceTable(None, round_.position, prices.version, table)
        round_.tell(asked.send, encode(answer))

    def _drain(self, round_: Round, asked: Asked, command: DrainWorker) -> None:
        outcome = fleet.drain(self._state.fleets.get(asked.address.tenant, NO_FLEET), command)
        if isinstance(outcome, Rejection):
            self._office.refuse(round_, asked, outcome)
            return
        self._office.recorded(round_, asked, "worker", command.worker, outcome)

    def _undrain(self, round_: Round, asked: Asked, command: UndrainWorker) -> None:
        known = self._state.fleets.get(asked.address.tenant, NO_FLEET)
        self._office.recorded(round_, asked, "worker", command.worker, fleet.undrain(known, command))
