"""The task that scores: run `writ worker writ.evaluation.scoring --queue scoring` where your scorers are."""

from __future__ import annotations

import msgspec

from writ.workers import task

from .data import Item
from .endpoints import EndpointError
from .scorers import Answer, AnyScorer, ScorerError

TASK = "writ.score"


class Tried(msgspec.Struct, frozen=True):
    """One item and what the tries at it came to."""

    item: Item
    answers: tuple[Answer, ...]


class Scored(msgspec.Struct, frozen=True):
    """By scorer, item and try; `faults` say why there is no score, each sentence once."""

    values: tuple[tuple[tuple[float | None, ...], ...], ...]
    faults: tuple[str, ...] = ()


@task(name=TASK)
def score(scorers: list[AnyScorer], tried: list[Tried]) -> Scored:
    """Scores answers. What cannot be scored is missing, and said; an endpoint away fails the attempt."""
    faults: dict[str, None] = {}

    def one(scorer: AnyScorer, item: Item, answer: Answer) -> float | None:
        try:
            return scorer.score(item, answer)
        except EndpointError:
            raise
        except ScorerError as error:
            faults[str(error)] = None
        except Exception as error:  # a scorer of the user's may raise anything
            faults[f"item {item.id!r}: {type(error).__name__}: {error}"] = None
        return None

    values = tuple(
        tuple(tuple(one(scorer, each.item, answer) for answer in each.answers) for each in tried)
        for scorer in scorers
    )
    return Scored(values, tuple(faults)[:20])
