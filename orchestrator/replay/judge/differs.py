"""How a recorded decision can differ from the same decision made again."""

from __future__ import annotations

from writ.schemas.events import Fact, type_names
from writ.schemas.rejections import Rejection

from ...decide.lease import Repeated


class Differs(Exception):
    """Deciding again does not give what is recorded; the text says what it gives."""


class Unrecorded(Exception):
    """What the decision was made from is not in the log: it cannot be judged."""


def need(holds: object, otherwise: str) -> None:
    """Raises Differs where something does not hold."""
    if not holds:
        raise Differs(otherwise)


def accepted(outcome: tuple[Fact, ...] | Repeated | Rejection) -> tuple[Fact, ...]:
    """The events of an outcome; Differs where deciding again refuses."""
    if isinstance(outcome, Rejection):
        raise Differs(f"decided again it is refused: {outcome.reason}")
    need(not isinstance(outcome, Repeated), "it was said before: there was nothing to store")
    assert not isinstance(outcome, Repeated)
    return outcome


def difference(expected: tuple[Fact, ...], events: tuple[Fact, ...]) -> str | None:
    """The first event, or field of one, that differs; None where they are the same."""
    if expected == events:
        return None
    if not expected:
        return f"{type_names[type(events[0])]} was recorded, but nothing was due"
    for number, should in enumerate(expected):
        name = type_names[type(should)]
        if number >= len(events):
            return f"{name} is missing"
        found = events[number]
        if type(found) is not type(should):
            return f"{type_names[type(found)]} was recorded; recomputed it is {name}"
        for field in should.__struct_fields__:
            was, is_ = getattr(found, field), getattr(should, field)
            if was != is_:
                return f"{name}.{field} was recorded as {was!r}; recomputed it is {is_!r}"
    return f"{type_names[type(events[len(expected)])]} was recorded, and does not follow"
