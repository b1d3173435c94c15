"""A few histories of the whole system, and that a seed says everything about one; see `make simulate`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from .history import run
from .plan import APPEND_FAULTS, MESSAGE_FAULTS
from .shrink import shrink, story
from .simulate import KINDS, STEPS_MIN, add, nothing
from .workload import draw, plans

ROOT = Path(__file__).parents[2]
CHUNKS = 6
EACH = 25


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_histories_break_no_invariant(chunk: int) -> None:
    total = nothing()
    for seed in range(chunk * EACH, (chunk + 1) * EACH):
        for plan in plans(seed):
            outcome = run(plan)
            assert not outcome.violations, f"make simulate SEED={seed}: {outcome.violations[0]}"
            total = add(total, outcome)
    assert total.fewest >= STEPS_MIN
    assert sum(total.faults[kind] > 0 for kind in KINDS) > len(KINDS) / 2
    assert total.checks["memory"] > 100
    assert total.checks["answer"] > 100
    assert total.edges["running", "StepDone"] > total.edges["running", "StepCompensated"] > 0


def test_a_seed_says_everything() -> None:
    """The same bytes again, also in another process with other hashes."""
    program = (
        "from tests.simulation.history import run\n"
        "from tests.simulation.workload import draw\n"
        "for seed in (3, 134, 8048): print(run(draw(seed)).digest)\n"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hashes},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hashes in ("1", "2")
    ]
    here = "".join(f"{run(draw(seed)).digest}\n" for seed in (3, 134, 8048))
    assert said == [here, here]


def test_without_faults_nothing_goes_wrong_by_chance() -> None:
    plan = replace(draw(1), faults=(), off=frozenset({*MESSAGE_FAULTS, *APPEND_FAULTS}))
    outcome = run(plan)
    assert not outcome.violations
    assert set(outcome.faults) <= {"clock_skew", "task_crash"}


def test_a_failing_history_is_made_small() -> None:
    """What fails for one job's sake is told with that job alone."""
    plan = draw(2)
    wanted = plan.jobs[-1]

    def fails_with_that_job(smaller: object) -> object:
        outcome = run(smaller)  # type: ignore[arg-type]
        has = any(job.number == wanted.number for job in smaller.jobs)  # type: ignore[attr-defined]
        return outcome._replace(violations=["it is there"] if has else [])

    best, outcome = shrink(plan, fails_with_that_job)  # type: ignore[arg-type]
    assert best.jobs == (wanted,)
    assert best.faults == ()
    assert best.deeds == ()
    assert "it is there" in story(best, outcome)
