"""Deciding what tokens of models cost from when on."""

from __future__ import annotations

from writ.schemas import bounds
from writ.schemas.commands import SetPrice
from writ.schemas.events import Fact
from writ.schemas.lifecycle import micros
from writ.schemas.prices import Price, Prices, PriceSet
from writ.schemas.rejections import Rejection, RejectionKind


def set_price(prices: Prices, command: SetPrice, now: int) -> tuple[Fact, ...] | Rejection:
    """A further entry of the table; nothing where it says just that already.

    What was recorded at an older price keeps it: an entry may lie in the past, but changes no usage recorded.
    """
    from_at = now if command.from_ is None else micros(command.from_.timestamp())
    given = Price(command.model, from_at, command.input_microusd, command.output_microusd)
    known = prices.price(command.model, from_at)
    if known is not None and (known.input_microusd, known.output_microusd) == (
        given.input_microusd,
        given.output_microusd,
    ):
        return ()
    if len(prices.table) >= bounds.PRICES_MAX:
        reason = f"the table has {len(prices.table)} prices; at most {bounds.PRICES_MAX} are held"
        return Rejection(RejectionKind.TOO_LARGE, reason, "model")
    return (
        PriceSet(
            prices.version + 1,
            given.model,
            given.from_at,
            given.input_microusd,
            given.output_microusd,
            command.reason,
        ),
    )
