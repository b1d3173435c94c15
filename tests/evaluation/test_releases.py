"""Evaluations of releases in memory: aliases that move meanwhile, and what gates are told."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from writ import task, testing
from writ.evaluation.plan import prepare
from writ.evaluation.releases import STARTS_MAX, Asked, EvaluationError, evaluate, record
from writ.evaluation.scoring import score
from writ.schemas.evaluations import Outcome
from writ.workers import tool

DIGESTS = [f"{n:064x}" for n in range(1, 9)]
CANDIDATE = Asked("p@candidate")


@tool(name="mail.send")
def send(n: int) -> None:
    """Goes nowhere."""


@task
def double(n: int) -> int:
    """Right, and for one item by a tool that is forbidden."""
    if n == 7:
        send(n)
    return 2 * n


PLAN = """
data = "numbers.jsonl"
task = "double"
repeats = 2
queue = "test"
scoring_queue = "test"

[[dimension]]
name = "double"
minimum = 0.9
scorer = { kind = "exact" }

[[dimension]]
name = "tools"
minimum = 1.0
every = true
scorer = { kind = "forbidden_tools", tools = ["mail.*"] }

[[dimension]]
name = "spent"
minimum = 1.0
every = true
scorer = { kind = "over_budget", usd = 1.0 }
"""


@pytest.fixture
def plan(tmp_path: Path) -> str:
    lines = [json.dumps({"input": {"n": n}, "expected": 2 * n}) for n in range(20)]
    (tmp_path / "numbers.jsonl").write_text("\n".join(lines))
    (tmp_path / "numbers.toml").write_text(PLAN)
    return str(tmp_path / "numbers.toml")


def unchecked(plan: str) -> None:
    """Without tools that are forbidden, and with a pattern that cannot be looked for."""
    changed = PLAN.replace('["mail.*"]', "[]").replace(
        '"over_budget", usd = 1.0', '"leaked_secrets", patterns = ["("]'
    )
    Path(plan).write_text(changed)


async def publish(system: testing.System, number: int) -> None:
    await system.client.publish_release(
        "p", f"0.{number}.0", DIGESTS[number], size_bytes=1, key="U" + "A" * 55
    )


class Mover:
    """Publishes another release when it hears that scoring begins, so many times."""

    def __init__(self, system: testing.System, times: int) -> None:
        self.system = system
        self.left = range(1, times + 1).__iter__()
        self.said: list[str] = []
        self.work: list[asyncio.Task[None]] = []

    def __call__(self, said: str) -> None:
        self.said.append(said)
        number = next(self.left, None) if "score the candidate" in said else None
        if number is not None:
            self.work.append(asyncio.create_task(publish(self.system, number)))


@testing.virtual
async def test_a_revision_that_changes_in_the_middle_starts_the_analysis_again(plan: str) -> None:
    """Must hold: a revision changed in the middle of an analysis restarts it."""
    async with testing.System([double, score], releases=DIGESTS) as system:
        await publish(system, 0)
        mover = Mover(system, 1)
        found = await evaluate(system.client, prepare(plan), CANDIDATE, None, mover)
        assert found.candidate.release == DIGESTS[1]
        assert sum("what was measured is of another release" in said for said in mover.said) == 1
        tried = (await system.client.jobs(task="double", limit=500)).jobs
        assert sorted({str(job.process) for job in tried}) == [f"p@{each}" for each in DIGESTS[:2]]


@testing.virtual
async def test_an_alias_that_never_stands_still_is_given_up(plan: str) -> None:
    async with testing.System([double, score], releases=DIGESTS) as system:
        await publish(system, 0)
        mover = Mover(system, STARTS_MAX)
        with pytest.raises(EvaluationError, match="p@candidate moved in each of 3 starts"):
            await evaluate(system.client, prepare(plan), CANDIDATE, None, mover)


@testing.virtual
async def test_a_gate_is_told_of_the_verdict_and_of_each_policy(plan: str) -> None:
    async with testing.System([double, score], releases=DIGESTS) as system:
        await publish(system, 0)
        prepared = prepare(plan)
        found = await evaluate(system.client, prepared, CANDIDATE, None, lambda said: None)
        await record(system.client, prepared, found)
        release = (await system.client.process("p")).releases[DIGESTS[0]]
        (evaluation,) = release.evaluations
        assert (evaluation.data, evaluation.data_version) == ("numbers", prepared.data.digest)
        assert {each.dimension: each.outcome.value for each in evaluation.verdict.dimensions} == {
            "double": "pass",
            "tools": "fail",
            "spent": "pass",
        }
        checks = {each.check: each for each in release.checks}
        assert checks["over_budget"].outcome is Outcome.PASS
        assert checks["forbidden_tools"].outcome is Outcome.FAIL
        (line,) = checks["forbidden_tools"].found
        assert line.startswith("item 8 broke it in 2 of 2 tries, first in job ev-")


@testing.virtual
async def test_what_could_not_be_checked_is_no_pass(plan: str) -> None:
    """Must hold: no data is not success."""
    unchecked(plan)
    async with testing.System([double, score], releases=DIGESTS) as system:
        await publish(system, 0)
        prepared = prepare(plan)
        found = await evaluate(system.client, prepared, CANDIDATE, None, lambda said: None)
        await record(system.client, prepared, found)
        checks = {each.check: each for each in (await system.client.process("p")).releases[DIGESTS[0]].checks}
        assert checks["forbidden_tools"].outcome is Outcome.PASS
        assert checks["leaked_secrets"].outcome is Outcome.FAIL
        assert checks["leaked_secrets"].found[0].startswith("item 1 could not be checked in 2 of 2 tries")


@testing.virtual
async def test_tasks_without_a_release_are_tried_anew_each_time(plan: str) -> None:
    async with testing.System([double, score]) as system:
        for runs in (1, 2):
            await evaluate(system.client, prepare(plan), Asked(), Asked(task="double"), lambda said: None)
            tried = (await system.client.jobs(task="double", limit=500)).jobs
            assert len(tried) == runs * 2 * 20  # both sides are the same code, and tried once
        with pytest.raises(EvaluationError, match="q has no release live"):
            await evaluate(system.client, prepare(plan), Asked("q@live"), None, lambda said: None)


@testing.virtual
async def test_a_release_is_tried_once_unless_it_is_to_be_tried_anew(plan: str) -> None:
    async with testing.System([double, score], releases=DIGESTS) as system:
        await publish(system, 0)
        for fresh, tried in ((False, 40), (False, 40), (True, 80), (True, 120)):
            found = await evaluate(
                system.client, prepare(plan), CANDIDATE, None, lambda said: None, fresh=fresh
            )
            assert len((await system.client.jobs(task="double", limit=500)).jobs) == tried
            assert found.verdict.repeats == 2
