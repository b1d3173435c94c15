"""Plans followed in memory: jobs, scores, verdicts."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from writ import Context, task, testing
from writ.evaluation.plan import PlanError, prepare
from writ.evaluation.run import Evaluation, Evaluator, Side, exit_code
from writ.evaluation.scoring import score
from writ.schemas.evaluations import Outcome

ITEMS = 30


@task
def good(text: str) -> dict[str, Any]:
    return {"length": len(text)}


@task
def bad(text: str) -> dict[str, Any]:
    """Wrong for the longer half, and fails for the longest."""
    if len(text) == ITEMS:
        raise ValueError("too long")
    return {"length": len(text) if len(text) <= ITEMS / 2 else 0}


@task
def nosy(ctx: Context, text: str) -> dict[str, Any]:
    """Right, and dear: it calls a model that has a price."""
    ctx.usage(model="m", input_tokens=1000, output_tokens=0)
    return {"length": len(text)}


PLAN = """
data = "words.jsonl"
task = "good"
repeats = 3
queue = "test"
scoring_queue = "test"

[[dimension]]
name = "length"
scorer = { kind = "number", field = "length" }

[[dimension]]
name = "policy"
minimum = 1.0
every = true
scorer = { kind = "leaked_secrets", patterns = ["too long"] }
"""


@pytest.fixture
def plan(tmp_path: Path) -> str:
    lines = [
        json.dumps({"id": f"w{n}", "input": {"text": "x" * n}, "expected": {"length": n}})
        for n in range(1, ITEMS + 1)
    ]
    (tmp_path / "words.jsonl").write_text("\n".join(lines))
    (tmp_path / "words.toml").write_text(PLAN)
    return str(tmp_path / "words.toml")


def rewrite(plan: str, text: str) -> None:
    Path(plan).write_text(text)


def side(name: str) -> Side:
    return Side(name, name, {"task": name})


async def evaluated(plan: str, system: testing.System, candidate: str, baseline: str | None) -> Evaluation:
    evaluator = Evaluator(system.client, prepare(plan), lambda said: None)
    return await evaluator.evaluate(side(candidate), None if baseline is None else side(baseline))


@testing.virtual
async def test_a_release_as_good_passes_and_one_that_lost_fails(plan: str) -> None:
    async with testing.System([good, bad, score]) as system:
        same = await evaluated(plan, system, "good", "good")
        assert same.verdict.outcome is Outcome.PASS
        assert exit_code(same.verdict.outcome) == 0
        worse = await evaluated(plan, system, "bad", "good")
        assert worse.verdict.outcome is Outcome.FAIL
        length, policy = worse.verdict.dimensions
        assert length.change == pytest.approx(-0.5)
        # The error of the longest was written down, and holds what the policy calls a secret.
        assert policy.outcome is Outcome.FAIL
        assert worse.stability["length"].pass_hat == pytest.approx((0.5, 0.5, 0.5))
        jobs = await system.client.jobs(tags={"evaluation": "words"}, limit=500)
        # 30 items, three repeats, two sides: the baseline was tried once; and the jobs that scored.
        assert sum(job.task in ("good", "bad") for job in jobs.jobs) == 2 * 3 * ITEMS


@testing.virtual
async def test_without_a_baseline_a_bound_decides(plan: str) -> None:
    rewrite(plan, PLAN.replace('name = "length"', 'name = "length"\nminimum = 0.9'))
    async with testing.System([good, bad, score]) as system:
        assert (await evaluated(plan, system, "good", None)).verdict.outcome is Outcome.PASS
        assert (await evaluated(plan, system, "bad", None)).verdict.outcome is Outcome.FAIL


@testing.virtual
async def test_what_no_worker_can_score_is_missing_and_no_pass(plan: str) -> None:
    rewrite(plan, PLAN.replace('kind = "number", field', 'kind = "python", function = "no:where", field'))
    async with testing.System([good, score]) as system:
        found = await evaluated(plan, system, "good", "good")
    assert found.verdict.outcome is Outcome.INCONCLUSIVE
    assert found.verdict.dimensions[0].missing == 2 * 3 * ITEMS
    assert "'no:where' cannot be loaded" in found.faults[0]


@testing.virtual
async def test_cost_is_the_logs_and_unpriced_calls_are_missing(plan: str) -> None:
    cost = '\n[[dimension]]\nname = "cost"\nbetter = "lower"\nmaximum = 5000.0\nscorer = { kind = "cost" }\n'
    rewrite(plan, PLAN + cost)
    async with testing.System([nosy, score]) as system:
        unpriced = await evaluated(plan, system, "nosy", None)
        assert unpriced.verdict.dimensions[2].outcome is Outcome.INCONCLUSIVE
        assert unpriced.verdict.dimensions[2].missing == 3 * ITEMS


def refused(plan: str, text: str) -> str:
    rewrite(plan, text)
    with pytest.raises(PlanError) as raised:
        prepare(plan)
    return str(raised.value)


def test_plans_that_cannot_be_followed_say_why(plan: str) -> None:
    assert "repeats" in refused(plan, PLAN.replace("repeats = 3", "repeats = 0"))
    assert "is there 2 times" in refused(plan, PLAN.replace('name = "policy"', 'name = "length"'))
    assert "no dimension" in refused(plan, 'data = "words.jsonl"\ndimension = []\n')
    assert "Invalid value" in refused(plan, PLAN.replace('kind = "number"', 'kind = "numbr"'))
    assert "unknown field `minimun`" in refused(plan, PLAN.replace("minimum", "minimun"))
    assert "every = true needs a minimum" in refused(plan, PLAN.replace("minimum = 1.0\n", ""))
    assert "a policy holds in each try" in refused(plan, PLAN.replace("every = true\n", ""))
    assert "use minimum" in refused(plan, PLAN.replace("minimum", "maximum"))
    assert "must be more than tolerate" in refused(
        plan, PLAN.replace('"length"\nscorer', '"length"\ntolerate = 0.2\nscorer')
    )
    assert 'add better = "lower"' in refused(
        plan, PLAN.replace('kind = "number", field = "length"', 'kind = "cost"')
    )
    assert "is no TOML" in refused(plan, "data = ")
    assert "words2.jsonl cannot be read" in refused(plan, PLAN.replace("words.jsonl", "words2.jsonl"))
    with pytest.raises(PlanError, match=r"evaluations/absent\.toml cannot be read"):
        prepare("absent")


@testing.virtual
async def test_jobs_that_nobody_takes_are_told_of(plan: str) -> None:
    rewrite(plan, PLAN.replace('queue = "test"', 'queue = "nobody"', 1))
    said: list[str] = []
    async with testing.System([good, score]) as system:
        evaluator = Evaluator(system.client, prepare(plan), said.append)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(40):
                await evaluator.evaluate(side("good"), None)
    stuck = "0 of 90 jobs in queue nobody have ended; is there a worker for them? writ queue show nobody"
    assert said[1:] == [stuck, stuck]
