"""What the tokens of models cost, by the day: an event for each price, and the table folded from them."""

from __future__ import annotations

import datetime
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from .facts import Fact

PRICES_KEY: Final = "models"
"""The key of a tenant's price table, an aggregate of kind `prices`."""

_PER: Final = 1_000_000
Usd = Annotated[float, Meta(ge=0, le=1_000_000)]


class PriceSet(Fact, frozen=True):
    """From log time `from_at` on a million tokens of a model cost so many micro-dollars.

    `version` is that of the table, and grows by one with each.
    """

    version: int
    model: str
    from_at: int
    input_microusd: int
    output_microusd: int
    reason: str = ""


class Price(msgspec.Struct, frozen=True, gc=False):
    """What a million tokens cost from log time `from_at` on, in micro-dollars."""

    model: str
    from_at: int
    input_microusd: int
    output_microusd: int


class PricePolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a million tokens of a model cost, in US dollars to the millionth, from a time on."""

    input: Usd
    output: Usd
    from_: Annotated[datetime.datetime, Meta(tz=True)] | None = msgspec.field(name="from", default=None)

    @property
    def microusd(self) -> tuple[int, int]:
        """Of tokens in, and of tokens out."""
        return round(self.input * _PER), round(self.output * _PER)

    def price(self, model: str, at: int) -> Price:
        """As an entry of the table; from log time `at` on where it names no time."""
        from_at = at if self.from_ is None else round(self.from_.timestamp() * _PER)
        return Price(model, from_at, *self.microusd)


class Prices(msgspec.Struct, frozen=True, gc=False):
    """A tenant's price table; of two prices of a model from one time the later set one holds."""

    version: int = 0
    table: tuple[Price, ...] = ()

    def price(self, model: str, at: int) -> Price | None:
        """The price of a model at log time `at`."""
        known = [price for price in self.table if price.model == model and price.from_at <= at]
        return max(known, key=lambda price: price.from_at, default=None)

    def cost(self, model: str, input_tokens: int, output_tokens: int, at: int) -> int | None:
        """Micro-dollars, a begun one counted whole; None where the model has no price."""
        price = self.price(model, at)
        if price is None:
            return None
        return -(-(input_tokens * price.input_microusd + output_tokens * price.output_microusd) // _PER)


NO_PRICES: Final = Prices()


def adopted(prices: Prices | None, table: tuple[Price, ...], version: int) -> Prices:
    """The table with entries that another partition tells; those with a version make it whole."""
    known = prices or NO_PRICES
    entries = {(p.model, p.from_at): p for p in (*known.table, *table)}
    return Prices(version or known.version, tuple([entries[place] for place in sorted(entries)]))


def evolve_prices(prices: Prices | None, event: Fact) -> Prices:
    """The table after one of its own events."""
    if not isinstance(event, PriceSet):
        raise ValueError(f"{type(event).__name__} is no event of a price table")
    price = Price(event.model, event.from_at, event.input_microusd, event.output_microusd)
    kept = [p for p in (prices or NO_PRICES).table if (p.model, p.from_at) != (price.model, price.from_at)]
    table = sorted([*kept, price], key=lambda p: (p.model, p.from_at))
    return Prices(event.version, tuple(table))
