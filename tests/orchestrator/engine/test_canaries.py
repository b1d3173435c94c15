"""Canaries that are judged by the engine from what becomes of their jobs, and what follows from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from writ.schemas.canaries import CanaryJudged, Finding
from writ.schemas.evaluations import Outcome
from writ.schemas.processes import (
    CanaryEnded,
    Process,
    PromotionBlocked,
    ReleaseFrozen,
    ReleasePromoted,
)

if TYPE_CHECKING:
    from .conftest import Tools, Twin
else:
    Tools = Twin = Any

KEY = f"U{'A' * 55}"
A, B, C = "a" * 64, "b" * 64, "c" * 64
FAILED = {"class": "application", "type": "Wrong", "text": "no"}
NEW = "acme"
"""The fairness key whose jobs are the canary's."""


class Trial:
    """A process of which live is A, and B is a canary for the jobs of one fairness key."""

    def __init__(self, twin: Twin) -> None:
        self.twin = twin
        self.count = 0

    async def told(self, verb: str, **fields: Any) -> dict[str, Any]:
        answer = await self.twin.ask(verb, "-", "owner", process="inv", **fields)
        assert "error" not in answer, answer
        return answer

    async def begin(self, **policy: Any) -> None:
        for number, digest in enumerate((A, B, C), 1):
            version = f"{number}.0.0"
            await self.told("publish_release", version=version, digest=digest, size_bytes=9, key=KEY)
        await self.told("promote_release", release=A)
        await self.canary(**policy)

    async def canary(self, release: str = B, **policy: Any) -> None:
        await self.told("start_canary", release=release, keys=[NEW], policy=policy, reason="a look")

    async def pairs(self, count: int, *, canary: bool = True, live: bool = True) -> None:
        """So many jobs of each side; whether those of either go well."""
        for _ in range(count):
            await self.jobs(canary, of_canary=True)
            await self.jobs(live, of_canary=False)

    async def jobs(self, well: bool, *, of_canary: bool, count: int = 1, attempts: int = 1) -> None:
        """Jobs of one side, one after the other; each fails at all of its attempts, or at none."""
        for _ in range(count):
            self.count += 1
            retry = {"max_attempts": attempts, "initial_interval_s": 0.001, "jitter": 0}
            side = {"fairness_key": NEW} if of_canary else {}
            job = {"task": "send", "id": f"j{self.count}", "process": "inv@live", "retry": retry, **side}
            await self.twin.submit(job)
            for _ in range(1 if well else attempts):
                (lease,) = await self.twin.acquire(1, 5.0, releases=[A, B, C])
                report = {} if well else FAILED
                answer = await self.twin.report("complete" if well else "fail", lease, **report)
                assert "error" not in answer, answer

    def process(self) -> Process:
        assert self.twin.engine is not None
        return self.twin.engine.state.processes["default.inv"]

    async def found(self) -> Finding:
        """What the canary has shown, as it is told to who asks."""
        answer = await self.told("list_processes")
        (finding,) = msgspec.convert(answer["canaries"], tuple[Finding, ...])
        return finding

    async def judged(self) -> list[Outcome]:
        """The verdicts in the log; all of it is decided again alike."""
        await self.twin.check()
        return [e.found.watched.outcome for e in await self.twin.events(CanaryJudged)]  # type: ignore[attr-defined]


@pytest.fixture
def trial(twin: Twin) -> Trial:
    return Trial(twin)


async def test_a_canary_whose_jobs_fail_is_ended_by_itself(trial: Trial) -> None:
    await trial.begin(minimum=10)
    assert (await trial.found()).watched.outcome is Outcome.INCONCLUSIVE
    await trial.pairs(9, canary=False)
    assert await trial.judged() == [], "too few results decide nothing"
    await trial.pairs(15, canary=False)
    assert await trial.judged() == [Outcome.FAIL]
    (record,) = [r for r in await trial.twin.records() if isinstance(r.events[0], CanaryJudged)]
    judged, ended = record.events
    assert isinstance(judged, CanaryJudged)
    assert isinstance(ended, CanaryEnded)
    assert (record.actor, record.cause) == ("writ:orchestrator", "canary")
    assert judged.found.watched.worse >= 1 / judged.policy.level
    assert trial.process().canaries == ()
    await trial.jobs(True, of_canary=True)
    assert trial.twin.job(f"j{trial.count}").release == A, "its jobs get live again"


async def test_a_canary_may_be_frozen_promoted_or_left_to_a_person(trial: Trial) -> None:
    await trial.begin(on_worse="freeze")
    await trial.pairs(25, canary=False)
    assert len(await trial.twin.events(ReleaseFrozen)) == 1
    assert trial.process().releases[B].frozen is not None
    await trial.canary(C, on_worse="hold")
    await trial.pairs(25, canary=False)
    assert trial.process().canaries[0].judged is Outcome.FAIL
    assert await trial.judged() == [Outcome.FAIL, Outcome.FAIL]
    await trial.canary(C, detect=0.4, on_fine="promote")
    await trial.pairs(40)
    assert await trial.judged() == [Outcome.FAIL, Outcome.FAIL, Outcome.PASS]
    pointer = trial.process().pointer("live", "*")
    assert pointer is not None
    assert pointer.digest == C


async def test_a_canary_that_is_fine_is_promoted_through_its_gates_and_never_around_them(
    trial: Trial,
) -> None:
    await trial.begin(detect=0.4, on_fine="promote")
    answer = await trial.twin.ask("declare_gate", "-", "owner", name="g", gate={"drills": ["restore"]})
    assert "error" not in answer
    await trial.pairs(60)
    assert await trial.judged() == [Outcome.PASS], "one verdict, however many results come behind it"
    assert len(await trial.twin.events(PromotionBlocked)) == 1
    assert len(await trial.twin.events(ReleasePromoted)) == 1, "A, at the start"
    assert trial.process().canaries[0].judged is Outcome.PASS


async def test_no_data_is_not_success_however_long_it_runs(trial: Trial) -> None:
    """Must hold: no data is not success. Of one side alone nothing is compared, and nothing proved."""
    await trial.begin(detect=0.5, minimum=1, on_fine="promote")
    await trial.jobs(True, of_canary=False, count=120)
    found = await trial.found()
    assert (found.watched.pairs, found.watched.outcome) == (0, Outcome.INCONCLUSIVE)
    assert await trial.judged() == []


@pytest.mark.parametrize("changed", ["canary", "live", "policy"])
async def test_a_revision_changed_in_the_middle_of_an_analysis_restarts_it(
    trial: Trial, changed: str
) -> None:
    """Must hold: a revision changed in the middle of an analysis restarts it."""
    await trial.begin(minimum=30)
    await trial.pairs(25, canary=False)
    before = await trial.found()
    assert before.watched.pairs == 25
    assert before.watched.worse > 1 / 0.05, "it would be condemned, were there enough results"
    if changed == "canary":
        await trial.canary(C, minimum=30)
    elif changed == "policy":
        await trial.canary(B, minimum=20)
    else:
        await trial.told("promote_release", release=C, scope="mail")
    after = await trial.found()
    assert (after.watched.pairs, after.watched.worse) == (0, 1.0)
    assert after.revision > before.revision
    await trial.pairs(10, canary=False)
    assert (await trial.found()).watched.pairs == 10
    assert await trial.judged() == [], "what was seen of the other revision counts for nothing"
    await trial.pairs(25, canary=False)
    assert await trial.judged() == [Outcome.FAIL]


async def test_a_verdict_that_was_left_to_a_person_goes_with_the_live_it_was_about(trial: Trial) -> None:
    await trial.begin(on_worse="hold")
    await trial.pairs(25, canary=False)
    assert trial.process().canaries[0].judged is Outcome.FAIL
    await trial.told("promote_release", release=C, scope="mail")
    assert trial.process().canaries[0].judged is None
    assert (await trial.found()).watched.pairs == 0, "it is watched from the beginning"
    await trial.pairs(25, canary=False)
    assert await trial.judged() == [Outcome.FAIL, Outcome.FAIL]


async def test_only_the_first_attempt_at_a_job_counts_or_how_the_job_ended(trial: Trial) -> None:
    """One bad input that is tried five times is one result: five would look like five failures."""
    await trial.begin(minimum=1_000)
    await trial.jobs(False, of_canary=True, attempts=5, count=2)
    await trial.jobs(True, of_canary=False, count=12)
    assert (await trial.found()).watched.pairs == 2
    await trial.canary(B, measure="jobs", minimum=1_000)
    await trial.jobs(False, of_canary=True, attempts=3)
    await trial.jobs(True, of_canary=False)
    found = await trial.found()
    assert (found.watched.pairs, found.watched.change) == (1, -1.0)
    assert await trial.judged() == []


async def test_leases_from_before_the_canary_are_none_of_its_results(trial: Trial) -> None:
    await trial.begin(minimum=1_000)
    await trial.twin.submit({"task": "send", "id": "old", "process": "inv@live"})
    (lease,) = await trial.twin.acquire(1, 1.0, releases=[A])
    await trial.canary(B, minimum=1_000)
    await trial.twin.report("complete", lease)
    await trial.jobs(True, of_canary=True)
    assert (await trial.found()).watched.pairs == 0
    await trial.jobs(True, of_canary=False)
    assert (await trial.found()).watched.pairs == 1
    await trial.twin.check()


async def test_a_crash_in_the_middle_of_an_analysis_forgets_nothing(trial: Trial) -> None:
    await trial.begin(minimum=10)
    await trial.pairs(9, canary=False)
    before = await trial.found()
    await trial.twin.crash()
    await trial.twin.start("next")
    assert await trial.found() == before
    await trial.pairs(3, canary=False)
    assert await trial.judged() == [Outcome.FAIL]


async def test_a_verdict_that_was_not_stored_comes_again(trial: Trial, tools: Tools) -> None:
    await trial.begin(minimum=10)
    await trial.pairs(9, canary=False)
    await trial.jobs(True, of_canary=False)
    await trial.twin.submit({"task": "send", "id": "last", "process": "inv@live", "fairness_key": NEW})
    (lease,) = await trial.twin.acquire(1, 5.0, releases=[B])
    trial.twin.log.script.extend(tools.full(2))
    await trial.twin.report("fail", lease, **FAILED)
    assert await trial.judged() == []
    await trial.twin.report("fail", lease, **FAILED)
    await trial.twin.report("fail", lease, **FAILED)
    assert await trial.judged() == [Outcome.FAIL]


async def test_a_policy_that_cannot_judge_is_refused(trial: Trial) -> None:
    await trial.begin()
    answer = await trial.twin.ask(
        "start_canary", "-", process="inv", release=B, percent=5, policy={"tolerate": 0.2, "detect": 0.1}
    )
    assert answer["error"]["field"] == "policy"
    assert "tolerate < detect" in answer["error"]["reason"]
