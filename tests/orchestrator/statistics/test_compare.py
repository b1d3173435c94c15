"""What scores prove: pass, fail or inconclusive, and the sentence that goes with it."""

from __future__ import annotations

import random

import pytest

from writ.orchestrator.statistics import judge
from writ.schemas.evaluations import Better, Compared, Dimension, Measured, Outcome, Scores

QUALITY = Dimension("exact")


def steady(items: int, repeats: int = 5, value: float = 1.0) -> Scores:
    return ((value,) * repeats,) * items


def chancy(items: int, p: float, seed: int, repeats: int = 5) -> Scores:
    rng = random.Random(seed)
    return tuple(tuple(float(rng.random() < p) for _ in range(repeats)) for _ in range(items))


def one(candidate: Scores, baseline: Scores | None, dimension: Dimension = QUALITY) -> Compared:
    verdict = judge([Measured(dimension, candidate, baseline)])
    assert verdict.outcome is verdict.dimensions[0].outcome
    return verdict.dimensions[0]


def test_the_same_scores_pass_and_say_what_would_have_been_found() -> None:
    compared = one(steady(50), steady(50))
    assert compared.outcome is Outcome.PASS
    assert compared.change == 0
    # 250 tries without a difference exclude a rate of 3 in 250.
    assert compared.smallest_drop == pytest.approx(3 / 250)


def test_items_that_always_passed_and_never_do_now_are_a_drop() -> None:
    compared = one(steady(45) + steady(5, value=0.0), steady(50))
    assert compared.outcome is Outcome.FAIL
    assert compared.change == pytest.approx(-0.1)
    assert "a drop of 0.1" in compared.reason


def test_too_few_tries_decide_nothing_and_say_how_many_would() -> None:
    first = one(chancy(10, 0.5, 1), chancy(10, 0.5, 2))
    assert first.outcome is Outcome.INCONCLUSIVE
    assert first.repeats_needed is not None
    assert first.repeats_needed > 5
    again = one(chancy(10, 0.5, 1, first.repeats_needed), chancy(10, 0.5, 2, first.repeats_needed))
    assert again.smallest_drop == pytest.approx(QUALITY.detect, rel=0.15)


def test_three_perfect_items_tried_once_are_no_proof() -> None:
    compared = one(steady(3, 1), steady(3, 1))
    assert compared.outcome is Outcome.INCONCLUSIVE
    assert compared.repeats_needed == 10


def test_a_missing_score_is_never_a_pass() -> None:
    holed = (*steady(49), (1.0, 1.0, None, 1.0, 1.0))
    for candidate, baseline in ((holed, steady(50)), (steady(50), holed), ((*steady(49), ()), steady(50))):
        compared = one(candidate, baseline)
        assert compared.outcome is Outcome.INCONCLUSIVE
        assert compared.missing == 1
        assert "never a pass" in compared.reason


def test_a_drop_is_a_drop_though_scores_are_missing() -> None:
    assert one((*steady(40), *steady(9, value=0.0), ()), steady(50)).outcome is Outcome.FAIL


@pytest.mark.parametrize("nothing", [(), ((),) * 5, ((None,),) * 5])
def test_no_data_is_not_success(nothing: Scores) -> None:
    for baseline in (steady(len(nothing)), nothing, None):
        assert one(nothing, baseline).outcome is Outcome.INCONCLUSIVE
    assert judge([]).outcome is Outcome.INCONCLUSIVE


def test_what_is_tolerated_is_no_failure_and_what_is_beyond_is() -> None:
    tolerant = Dimension("exact", tolerate=0.1, detect=0.2)
    assert one(steady(48) + steady(2, value=0.0), steady(50), tolerant).outcome is Outcome.PASS
    failed = one(steady(35) + steady(15, value=0.0), steady(50), tolerant)
    assert failed.outcome is Outcome.FAIL
    assert "beyond the 0.1 tolerated" in failed.reason


def test_where_lower_is_better_more_is_a_drop() -> None:
    cost = Dimension("cost", better=Better.LOWER, relative=True, tolerate=0.05, detect=0.2)
    rng = random.Random(7)
    cheap = tuple(tuple(rng.gauss(100, 5) for _ in range(5)) for _ in range(40))
    dear = tuple(tuple(value * 1.3 for value in tries) for tries in cheap)
    assert one(cheap, cheap, cost).outcome is Outcome.PASS
    compared = one(dear, cheap, cost)
    assert compared.outcome is Outcome.FAIL
    assert compared.change == pytest.approx(-0.3)
    assert one(cheap, dear, cost).outcome is Outcome.PASS


def test_a_share_of_nothing_says_nothing() -> None:
    cost = Dimension("cost", better=Better.LOWER, relative=True)
    assert one(steady(20), steady(20, value=0.0), cost).outcome is Outcome.INCONCLUSIVE


def test_a_bound_holds_without_a_baseline() -> None:
    bound = Dimension("exact", minimum=0.9)
    assert one(steady(50), None, bound).outcome is Outcome.PASS
    assert one(steady(50, value=0.5), None, bound).outcome is Outcome.FAIL
    assert one(chancy(50, 0.9, 3), None, bound).outcome is Outcome.INCONCLUSIVE
    assert one(steady(50), None).outcome is Outcome.INCONCLUSIVE
    most = Dimension("latency", better=Better.LOWER, maximum=2.0)
    assert one(steady(50, value=1.5), None, most).outcome is Outcome.PASS
    assert one(steady(50, value=2.5), None, most).outcome is Outcome.FAIL


def test_a_bound_fails_what_is_no_worse_than_a_bad_baseline() -> None:
    compared = one(steady(50, value=0.5), steady(50, value=0.5), Dimension("exact", minimum=0.9))
    assert compared.outcome is Outcome.FAIL
    assert "at least 0.9" in compared.reason


def test_what_must_never_happen_fails_by_a_single_score() -> None:
    never = Dimension("policy", minimum=1.0, every=True)
    once = (*steady(199), (1.0, 1.0, 0.0, 1.0, 1.0))
    compared = one(once, once, never)
    assert compared.outcome is Outcome.FAIL
    assert "of each" in compared.reason
    assert one(steady(2, 1), None, never).outcome is Outcome.PASS
    assert one((*steady(2, 1), ()), None, never).outcome is Outcome.INCONCLUSIVE


def test_the_worst_dimension_decides() -> None:
    good = Measured(QUALITY, steady(50), steady(50))
    bad = Measured(Dimension("policy"), steady(50, value=0.0), steady(50))
    unsure = Measured(Dimension("f1"), chancy(50, 0.5, 1, 2), chancy(50, 0.5, 2, 2))
    assert (
        judge([good, good.__class__(Dimension("other"), good.candidate, good.baseline)]).outcome
        is Outcome.PASS
    )
    assert judge([good, unsure]).outcome is Outcome.INCONCLUSIVE
    verdict = judge([good, unsure, bad])
    assert verdict.outcome is Outcome.FAIL
    assert verdict.reason.startswith("policy: a drop of 1")


def test_many_dimensions_are_held_to_a_lower_level_each() -> None:
    """By Holm: the smallest of m against level/m. Alone, this drop fails; as one of ten it may be luck."""
    seed = next(
        seed
        for seed in range(1000)
        if 0.0125 < (one(chancy(40, 0.5, seed), chancy(40, 0.6, seed + 5000)).p or 0) < 0.024
    )
    drop = Measured(QUALITY, chancy(40, 0.5, seed), chancy(40, 0.6, seed + 5000))
    assert judge([drop]).outcome is Outcome.FAIL
    others = [Measured(Dimension(f"other-{i}"), steady(40), steady(40)) for i in range(9)]
    assert judge([drop, *others]).outcome is Outcome.INCONCLUSIVE
    worst = Measured(Dimension("worst"), steady(40, value=0.0), steady(40))
    # Once the surest is rejected, the next is held against the level of those that are left.
    beside = judge([drop, worst])
    assert [each.outcome for each in beside.dimensions] == [Outcome.FAIL, Outcome.FAIL]


def test_one_try_an_item_compares_the_items() -> None:
    failed = one(chancy(200, 0.5, 1, 1), chancy(200, 0.95, 2, 1))
    assert failed.outcome is Outcome.FAIL
    assert failed.low is not None
    assert failed.high is not None
    assert failed.low < failed.change < failed.high < 0  # type: ignore[operator]


def test_verdicts_are_the_same_each_time() -> None:
    scores = Measured(QUALITY, chancy(60, 0.7, 1), chancy(60, 0.7, 2))
    assert judge([scores]) == judge([scores])


def test_scores_that_do_not_fit_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match=r"each dimension may be scored once"):
        judge([Measured(QUALITY, steady(5), steady(5))] * 2)
    with pytest.raises(ValueError, match=r"the same items, not \[5, 6\]"):
        judge([Measured(QUALITY, steady(5), steady(6))])
