"""What a what-if supposes: the policies in whose place others are put, and alerts to be looked at."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from .alerts import AlertPolicy
from .forms import QueueName, Token
from .notes import ModelName
from .policy import QueuePolicy
from .prices import Price, PricePolicy

Each = Meta(max_length=1_000)


class Supposed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Policies of queues by name, prices by model, alerts by a name of theirs.

    A price that names no time holds from the beginning.
    """

    queues: Annotated[dict[QueueName, QueuePolicy], Each] = {}
    prices: Annotated[dict[ModelName, Annotated[tuple[PricePolicy, ...], Meta(min_length=1)]], Each] = {}
    alerts: Annotated[dict[Token, AlertPolicy], Each] = {}

    def price_tables(self) -> dict[str, tuple[Price, ...]]:
        """The prices of each model, each from its time on."""
        return {
            model: tuple([price.price(model, 0) for price in prices]) for model, prices in self.prices.items()
        }
