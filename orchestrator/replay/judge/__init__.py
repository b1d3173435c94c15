"""Deciding again: each recorded decision, made once more from what the log held before it.

A judge is asked of each record before it is folded. It runs the functions of `decide/` on the folded state,
with the time, the seed and the content that the record keeps, and says where another record should stand.

    jobs        submits, reports, operators' words, deadlines, consequences
    grants      limits and order of leases
    governing   queues, batches, operations, schedules, links, leaders
    access      who is known, and what they were granted
    releases    releases and gates
    refusals    what was refused

`JUDGES` holds one for each version of the deciding code that can still be called.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Protocol

from writ.schemas.records import Record

from ...state import Partition
from .current import CurrentJudge, OfSomeJobs


class Judge(Protocol):
    """Decides the records of one log again, in their order, on a state that its caller folds.

    `decisions` counts what was decided again, and `unrecorded` the events whose inputs no log holds.
    """

    decisions: int
    unrecorded: dict[str, int]

    def __init__(self, state: Partition) -> None: ...

    def judge(self, record: Record) -> str | None:
        """What is wrong with a record, in words; None where deciding again gives it. Before it is folded."""
        ...

    def judge_grant(self, record: Record) -> str | None:
        """The same of the lease that ends a record, when all before it in the record is folded."""
        ...

    def finish(self, at: int) -> tuple[int, str] | None:
        """What is wrong with the round that ends as one of log time `at` begins, and the record to blame."""
        ...


JUDGES: Final[Mapping[int, type[Judge]]] = {1: CurrentJudge}
"""By the version of the deciding code. To change what is decided, keep the old one callable here, or leave it
out: then the records that it decided are reported as not recomputable."""

JUDGES_OF_SOME: Final[Mapping[int, type[Judge]]] = {1: OfSomeJobs}
"""The same for a stretch that holds some jobs alone."""
