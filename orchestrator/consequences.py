"""What follows from a job's end: those that come after it, its children, its parent, its batch.

Each consequence is a decision on another aggregate, with a record of its own. They are taken as far as a
round has room; what is left is looked at in the next. After a change of leader, and after a round that was
not stored, they are found again from the jobs themselves, so that nothing is owed to memory.
"""

from __future__ import annotations

from writ.schemas.events import BatchEnded, Fact, WaitReason
from writ.schemas.lifecycle import TERMINAL, Job, State

from .decide import depend
from .round import Round
from .state import Partition

ORCHESTRATOR = "writ:orchestrator"


class Consequences:
    """The ends whose consequences are still to be decided."""

    def __init__(self, state: Partition) -> None:
        self._state = state
        self._ends: dict[str, None] = {}
        self._sealed: dict[str, None] = {}

    def __bool__(self) -> bool:
        return bool(self._ends or self._sealed)

    def ended(self, place: str, job: Job) -> None:
        """A job has reached a terminal state."""
        if (
            job.batch is not None
            or job.parent is not None
            or self._state.relations.after(place)
            or self._state.relations.children(place)
        ):
            self._ends[place] = None

    def told(self, place: str) -> None:
        """Another partition said how a job of its own stands, that ours rest on."""
        self._ends[place] = None

    def sealed(self, batch: str) -> None:
        """A batch was given its size, which its jobs may have reached already."""
        self._sealed[batch] = None

    def recover(self) -> None:
        """Finds every end that may have consequences which are not in the log."""
        self._ends.clear()
        self._sealed = {b: None for b, batch in self._state.relations.batches.items() if not batch.ended}
        jobs = self._state.jobs
        for job in jobs.here.values():
            if job.state in TERMINAL:
                continue
            if job.parent is not None:
                parent = f"{job.tenant}.{job.parent}"
                if parent in jobs and jobs[parent].state in TERMINAL:
                    self._ends[parent] = None
            if job.wait is not None and job.wait.reason in (WaitReason.DEPENDENCY, WaitReason.CHILD):
                for key in (*job.after, *job.wait.on):
                    end = f"{job.tenant}.{key}"
                    if end in jobs and jobs[end].state in TERMINAL:
                        self._ends[end] = None
        self._ends |= dict.fromkeys(self._state.links.afar)

    def follow(self, round_: Round) -> None:
        """Decides consequences, and those of what they end, as far as the round has room."""
        while self._sealed and round_.has_room(1, 0):
            self._tell_batch(round_, self._sealed.popitem()[0])
        while self._ends:
            place = next(iter(self._ends))
            if not self._follow(round_, place):
                return
            del self._ends[place]

    def _follow(self, round_: Round, place: str) -> bool:
        """Whether all consequences of one end found room."""
        relations, jobs = self._state.relations, self._state.jobs
        tenant = place.partition(".")[0]
        job = jobs.get(place) or self._state.links.afar.get(place)
        if job is None:  # its shard has moved since: it is asked for there
            return True
        if job.state not in TERMINAL:
            return True

        def find(key: str) -> depend.Known | None:
            return self._state.find(tenant, key)

        cause = f"record:{job.ended_by}"
        for other in relations.after(place):
            if not self._record(round_, jobs[other], depend.on_ended(jobs[other], find, round_.now), cause):
                return False
        for other in relations.children(place):
            if not self._record(round_, jobs[other], depend.on_parent_ended(jobs[other], job), cause):
                return False
        for parent in self._parents(tenant, job):
            if not self._record(round_, parent, depend.on_child_ended(parent, find), cause):
                return False
        if isinstance(job, Job) and job.batch is not None:
            if not round_.has_room(1, 0):
                return False
            self._tell_batch(round_, f"{place.partition('~')[0]}~{job.batch}")
        return True

    def _parents(self, tenant: str, child: depend.Known) -> list[Job]:
        """Whose child it is. Of one that was refused elsewhere nobody says so: whoever waits for it is."""
        jobs = self._state.jobs
        if isinstance(child, Job) or not child.gone:
            parent = jobs.get(f"{tenant}.{child.parent}")
            return [] if parent is None else [parent]
        return [
            job
            for job in jobs.here.values()
            if job.tenant == tenant and job.wait is not None and child.key in job.wait.on
        ]

    def _record(self, round_: Round, job: Job, events: tuple[Fact, ...], cause: str) -> bool:
        if not events:
            return True
        if not round_.has_room(1, 0):
            return False
        round_.record(job.tenant, "job", job.key, events, actor=ORCHESTRATOR, cause=cause)
        place = f"{job.tenant}.{job.key}"
        now = self._state.jobs[place]
        if now.state in TERMINAL:
            self.ended(place, now)
        return True

    def _tell_batch(self, round_: Round, place: str) -> None:
        """A sealed batch whose jobs have all ended gets its event, once."""
        batch = self._state.relations.batches.get(place)
        if batch is None or batch.ended:
            return
        tally = self._state.relations.tally(place)
        done = [tally.get(state, 0) for state in (State.COMPLETED, State.DEAD, State.CANCELLED)]
        if sum(done) < batch.size:
            return
        tenant, _, key = place.partition(".")
        round_.record(tenant, "batch", key, (BatchEnded(*done),), actor=ORCHESTRATOR, cause="batch")
