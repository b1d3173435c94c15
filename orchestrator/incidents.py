"""What somebody should know of before it does harm: a job whose history grows long.

Nothing is owed to memory: which round of a job was told of is in the state, and what is left is found from it
again after a change of leader and after a round that was not stored.
"""

from __future__ import annotations

from writ.schemas import bounds
from writ.schemas.events import HistoryLong

from .consequences import ORCHESTRATOR
from .round import Round
from .state import Partition


class Incidents:
    """The jobs with a long history that may not have been told of yet."""

    def __init__(self, state: Partition) -> None:
        self._state = state
        self._long: dict[str, int] = {}
        """By job, the record to name as the cause."""

    def __bool__(self) -> bool:
        return bool(self._long)

    def recover(self) -> None:
        """Finds every job that is to be told of."""
        most = bounds.HISTORY_LONG_RECORDS
        self._long = {place: job.since for place, job in self._state.jobs.here.items() if job.records >= most}

    def flush(self, round_: Round) -> None:
        """Tells of each job once per round of its own, as far as there is room."""
        self._long |= round_.long
        while self._long and round_.has_room(1, 0):
            place, seq = self._long.popitem()
            job = self._state.jobs[place]
            if self._state.long.get(place) != job.round:
                event = HistoryLong(job.records, bounds.HISTORY_LONG_RECORDS)
                round_.record(
                    job.tenant, "incident", job.key, (event,), actor=ORCHESTRATOR, cause=f"record:{seq}"
                )
