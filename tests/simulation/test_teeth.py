"""Each planted bug is found by the checker. `make teeth` tells how many seeds that takes from seed 0."""

from __future__ import annotations

import pytest

from .planted_governing import BUGS
from .teeth import search

SEEDS = {
    "double_terminal_event": 4,
    "renewal_not_stored": 1,
    "unknown_taken_as_stored": 5,
    "others_records_taken_as_ours": 5,
    "undo_forgets_the_queues": 999,
    "verdicts_unfenced": 3821,
    "timers_not_armed_after_recovery": 3,
    "timer_not_rearmed": 2,
    "intake_position_not_kept": 2,
    "position_ahead_of_the_jobs": 10,
    "log_time_from_the_wall": 3,
    "no_time_back_after_a_pause": 1,
    "purge_before_append": 5,
    "duplicate_is_a_new_job": 1,
    "not_stored_submits_forgotten": 1,
    "lost_leases_uncounted": 2,
    "jitter_of_another_seed": 1,
    "listed_types_retried": 19,
    "cancel_lost": 22,
    "cancelled_job_runs_again": 22,
    "leases_never_expire": 2,
    "slot_leak": 94,
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
    assert len(BUGS) >= 25
