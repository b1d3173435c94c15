"""Each planted bug is found by the checker. `make teeth` tells how many seeds that takes from seed 0."""

from __future__ import annotations

import pytest

from .planted_links import BUGS
from .teeth import search

SEEDS = {
    "no_fencing": 4,
    "another_principals_report": 22,
    "stale_report_not_told": 4,
    "double_terminal_event": 5,
    "unknown_taken_as_stored": 125,
    "others_records_taken_as_ours": 20,
    "undo_forgets_the_newest": 3,
    "verdicts_unfenced": 1804,
    "no_time_back_at_election": 3,
    "timers_not_armed_after_recovery": 23,
    "intake_position_not_kept": 6,
    "log_time_from_the_wall": 50,
    "no_time_back_after_a_pause": 4,
    "purge_before_append": 8,
    "duplicate_is_a_new_job": 11,
    "lost_leases_uncounted": 3,
    "listed_types_retried": 6,
    "cancel_lost": 143,
    "cancelled_job_runs_again": 81,
    "slot_leak": 709,
    "asked_forgotten_when_deposed": 28,
    "slot_leak_per_key": 59,
    "concurrency_ignored": 8,
    "key_counted_once_a_round": 1233,
    "rate_ignored": 25,
    "rate_anew_with_each_leader": 1590,
    "retry_budget_ignored": 13,
    "pending_without_bound": 38,
    "drain_takes_submits": 11,
    "priority_inverted": 8,
    "fairness_ignored": 48,
    "turns_forgotten_by_each_leader": 391,
    "freed_slot_wakes_nobody": 519,
    "unique_keys_lost_with_the_leader": 158,
    "unique_key_unchecked_at_redrive": 471,
    "per_class_ignored": 8,
    "on_exhausted_ignored": 8,
    "snooze_counts_as_attempt": 6,
    "approval_not_asked": 3,
    "wait_forgotten_after_restart": 86,
    "silence_is_consent": 4,
    "no_is_yes": 16,
    "signal_lost": 511,
    "signals_stay_behind": 11,
    "clock_runs_while_suspended": 24,
    "cancel_not_told": 59,
    "terminate_with_grace": 10,
    "released_by_a_dead_one": 8,
    "released_by_the_first": 8,
    "outputs_not_passed_on": 8,
    "child_not_cancelled": 13,
    "consequences_owed_to_memory": 274,
    "batch_ends_twice": 10,
    "sealed_too_late": 22,
    "catch_up_fires_twice": 54,
    "overlap_forgotten": 20,
    "missed_times_forgotten": 20,
    "plan_ignores_its_limit": 67,
    "canary_not_awaited": 67,
    "plan_ignores_its_rate": 23,
    "dropped_ones_redriven": 100,
}
"""Where each was found when it was planted, 0 if not named; a change of the code may move it."""

NEARBY = 3
FURTHER = 5_000


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: str) -> None:
    found = search(bug, NEARBY, SEEDS.get(bug, 0))
    if found.seed is None:
        found = search(bug, FURTHER)
    assert found.seed is not None, f"{bug} was not found"
    print(f"{bug}: seed {found.seed}: {found.what}")


def test_there_are_enough_of_them() -> None:
    assert len(BUGS) >= 80
