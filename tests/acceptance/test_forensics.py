"""What forensics must hold, each at a small size; `make forensics` is the same at full size."""

# An older version of the deciding code is the one of today with one function as it was.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace

from tests.forensics.forged import unfound
from tests.forensics.judged import fewer_attempts, more_attempts, unchanged_with_faults
from tests.forensics.known import check_random_jobs
from tests.forensics.runs import of_both_sorts, with_faults
from tests.forensics.tampered import spoil_everywhere
from writ.orchestrator.decide import retry
from writ.orchestrator.replay.history import Entry
from writ.orchestrator.replay.judge import JUDGES
from writ.orchestrator.replay.judge.current import CurrentJudge
from writ.orchestrator.replay.stretch import Coverage
from writ.orchestrator.replay.verify import Range, Report, Verifier, verify_stretch
from writ.schemas.events import Fact, RetryScheduled
from writ.schemas.records import LOGIC, Record

if TYPE_CHECKING:
    from tests.histories.builder import Histories, History

CHUNKS = 4
EACH = 6


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_jobs_of_runs_with_faults_are_explained_as_they_are_known(chunk: int) -> None:
    seeds = range(chunk * EACH, (chunk + 1) * EACH)
    assert sum(check_random_jobs(of_both_sorts(seed), random.Random(seed), 2) for seed in seeds) >= EACH


@pytest.mark.parametrize("seed", [0, 16])
def test_jobs_with_many_attempts_and_with_steps_to_undo_are_explained_as_they_are_known(seed: int) -> None:
    """Of a job with 46 attempts task and policy are told still; one whose steps are to be undone is ready."""
    assert check_random_jobs(of_both_sorts(seed), random.Random(seed), 3) == 3


@pytest.mark.parametrize("seed", [812, 1784])
def test_what_if_knows_that_a_time_limit_ended_a_job_that_undid_its_steps(seed: int) -> None:
    assert unchanged_with_faults(seed).wrong == []


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_what_if_with_an_unchanged_policy_changes_nothing(chunk: int) -> None:
    judged = [unchanged_with_faults(seed) for seed in range(100 + chunk * EACH, 100 + (chunk + 1) * EACH)]
    assert [wrong for each in judged for wrong in each.wrong] == []
    assert sum(each.jobs for each in judged) > EACH


@pytest.mark.parametrize("seed", range(3))
def test_what_if_with_fewer_attempts_equals_a_run_under_that_policy(seed: int) -> None:
    judged = fewer_attempts(seed)
    assert judged.wrong == []
    assert judged.jobs == 40


def test_what_if_says_unknown_of_attempts_that_never_ran_and_of_nothing_else() -> None:
    assert more_attempts(7).wrong == []


@pytest.mark.parametrize("seed", [1, 2, 11])
def test_an_edited_deleted_inserted_reordered_or_cut_record_is_found(seed: int) -> None:
    for stretch in with_faults(seed).stretches:
        found = spoil_everywhere(stretch, random.Random(seed), 12)
        assert found.passed == []
        assert found.spoiled >= 7


@pytest.mark.parametrize("seed", [0, 3])
def test_a_forged_decision_is_found_where_the_chain_is_made_good(seed: int) -> None:
    for stretch in with_faults(seed).stretches:
        places = range(1, len(stretch.entries) + 1)
        count, passed = unfound(stretch, set(random.Random(seed).sample(places, min(12, len(places)))))
        assert passed == []
        assert count


def test_a_lawful_log_is_decided_again_as_it_was() -> None:
    reports = [
        verify_stretch(stretch) for seed in range(200, 220) for stretch in of_both_sorts(seed).stretches
    ]
    for report in reports:
        assert report.ok, report.lines()
        assert set(report.unrecorded) <= {"command_rejected", "rejections_folded", "cancel_requested"}
    records = sum(report.records for report in reports)
    assert sum(report.decisions for report in reports) > 0.8 * records, "next to nothing is left unjudged"


# --- older logic ------------------------------------------------------------------------------------------


class DelayTwice(CurrentJudge):
    """An older version of the deciding code, which waited twice as long before a retry."""

    def _expected(self, record: Record, events: tuple[Fact, ...]) -> tuple[Fact, ...]:
        expected = super()._expected(record, events)
        return tuple(
            [_twice(event, record.at) if isinstance(event, RetryScheduled) else event for event in expected]
        )


def _twice(event: RetryScheduled, at: int) -> RetryScheduled:
    return replace(event, due_at=at + 2 * (event.due_at - at))


def decided_by_an_older_logic(history: Histories, monkeypatch: pytest.MonkeyPatch) -> History:
    """Two failures decided by logic 0, which is not the one of today; the third by today's."""
    told = history()
    job = told.job().submitted().granted()
    again: Any = retry._again

    def twice(*arguments: Any) -> RetryScheduled:
        return _twice(again(*arguments), arguments[-2])

    with monkeypatch.context() as older:
        older.setattr(retry, "_again", twice)
        job.failed().at_due().granted().failed()
    job.at_due().granted().failed()
    forged = history()
    for stored in told.records:
        logic = 0 if 3 <= stored.seq <= 6 else LOGIC
        forged.put(told.forged(stored.seq, logic=logic))
    return forged


def verified(told: History, judges: Any) -> Report:
    verifier = Verifier(told.epoch, 0, Coverage.WHOLE, judges)
    for stored in told.records:
        verifier.take(Entry(stored.seq, stored.subject, stored.body))
    return verifier.report()


def test_what_an_older_logic_decided_is_not_recomputable_and_never_wrong(
    history: Histories, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = decided_by_an_older_logic(history, monkeypatch)
    report = verified(told, JUDGES)
    assert report.ok, report.lines()
    assert report.not_recomputable == (Range(0, 3, 6),)
    assert "records 3 to 6: not recomputable, as logic 0 decided them" in report.lines()
    by_todays = verified(told, {0: CurrentJudge, LOGIC: CurrentJudge})
    assert [fault.seq for fault in by_todays.faults] == [3, 6], "today's code decides those otherwise"


def test_what_an_older_logic_decided_is_verified_by_it_where_it_is_kept(
    history: Histories, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = decided_by_an_older_logic(history, monkeypatch)
    report = verified(told, {**JUDGES, 0: DelayTwice})
    assert report.ok, report.lines()
    assert report.not_recomputable == ()
    assert report.decisions == len(told.records)


def test_what_is_decided_now_can_be_decided_again() -> None:
    assert LOGIC in JUDGES
