"""The checker: sees every record stored, every answer given, every execution, and says what must not be.

It knows DESIGN's invariants and none of the ways in which code may break them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from writ.broker.ports import Message, Stored
from writ.orchestrator.engine import AHEAD_WITHIN_S
from writ.schemas.ids import derived_job_id

from .answers import NOTHING, Answers, Asked, arrived
from .fold import Fold, elements
from .loop import SECOND_US, Host, World
from .memory import difference, difference_at_rest
from .net import INTAKE_EPOCH, LOG_EPOCH
from .plan import HOME, PARTITIONS, TENANT
from .tally import Tally, Wrong

if TYPE_CHECKING:
    from writ.orchestrator.engine import Engine

    from .ports import SimLog

AWAY_US: Final = 3 * SECOND_US // 2
"""Away for less than this may go unnoticed by a leader."""

ANSWERED_US: Final = 25 * SECOND_US
"""Longer than a wait, and than three time-outs of a leader that is in trouble, together."""

_SLEW: Final = 0.94
"""Log time may run a twentieth faster than true time."""


class Watch:
    """Follows one history. The first thing that must not be is told to the world, which ends it."""

    def __init__(self, world: World, intakes: list[list[Stored]]) -> None:
        self.world = world
        self.folds = [self._fold(partition, intake) for partition, intake in enumerate(intakes)]
        for fold in self.folds:
            fold.mail.others = [other.mail for other in self.folds]
        self.intakes = intakes
        self.checks: Counter[str] = Counter()
        self.tasks_of: dict[str, tuple[str, ...]] = {}
        """What each worker ever started knows."""
        self.labels_of: dict[str, dict[str, str]] = {}
        self.calm_from_us: int | None = None
        self._decided: list[dict[bytes, tuple[int, Host]]] = [{} for _ in range(PARTITIONS)]
        self._away: dict[tuple[Host, int | None], list[tuple[int, int]]] = {}
        self._cut_from: dict[Host, int] = {}
        self._down_from: int | None = None
        self._executed: set[tuple[int, int]] = set()
        self._compared: list[dict[str, set[str]]] = [{} for _ in range(PARTITIONS)]
        self._requests: dict[int, tuple[int, Host, str]] = {}
        self._arrived: dict[int, tuple[int, Host, str]] = {}
        self._request_count = 0
        self._answers = Answers(self.broken, self.checks)

    def _fold(self, partition: int, intake: list[Stored]) -> Fold:
        fold = Fold(partition, LOG_EPOCH, intake)
        fold.lines.knows = self._knows
        return fold

    def _knows(self, worker: str, job: Tally) -> bool:
        has = self.labels_of[worker].items()
        return job.task in self.tasks_of[worker] and set(job.given.requires.items()) <= set(has)

    # --- the log ------------------------------------------------------------------------------------------

    def append_begins(self, log: SimLog, messages: Sequence[Message], after: int) -> int:
        """A leader has decided these records: when counts, however late or often it has to send them."""
        now, decided = self.world.now_us, self._decided[log.partition]
        since_us = now
        if log.engine is not None and log.engine.open:
            since_us -= log.host.mono_us() - log.engine.open[0].since_us
        for message in messages:
            decided.setdefault(message.body, (since_us, log.host))
        return now

    def append_ends(self, log: SimLog, begun_us: int) -> None:
        """The append is over, whatever became of it: a broker that takes its time is away meanwhile.

        But for its first moments, in which its leader decides ahead as if it were not.
        """
        if self.world.now_us - begun_us > AWAY_US:
            span = begun_us + round(AHEAD_WITHIN_S * SECOND_US), self.world.now_us
            self._away.setdefault((log.host, log.partition), []).append(span)

    def append_answered(self, log: SimLog, last: int) -> None:
        """A leader knows its records stored: what it has in memory must be what the log says."""
        fold = self.folds[log.partition]
        engine = log.engine
        if engine is not None and fold.seq == last and len(engine.open) <= 1:  # this one
            self.compare(engine, fold)

    def stored(self, partition: int, stored: Stored) -> None:
        fold = self.folds[partition]
        decided_us, host = self._decided[partition].get(stored.body, (self.world.now_us, None))
        try:
            fold.take(stored, decided_us)
        except Wrong as wrong:
            self.broken(f"log {partition}: {wrong}")
            return
        if host is not None and fold.rules.lost_leases:
            for job, base_us in fold.rules.lost_leases:
                self._check_expiry(job, base_us, decided_us, host, partition)
        fold.rules.lost_leases.clear()
        for compared in self._compared[partition].values():
            compared.update(fold.touched)
        fold.touched.clear()

    def _check_expiry(self, job: Tally, base_us: int, decided_us: int, host: Host, partition: int) -> None:
        """No lease expires on a clock that ran while its leader or the broker was away."""
        self.checks["expiry"] += 1
        spans = [*self._away.get((host, None), ()), *self._away.get((host, partition), ())]
        away = [(start, end) for start, end in spans if end - start > AWAY_US]
        for since in (self._cut_from.get(host), self._down_from):
            if since is not None:
                away.append((since, decided_us))
        spent_us, reached = decided_us - base_us, base_us
        for start, end in sorted(away):
            until = min(end, decided_us)
            gone_us = until - max(start, reached)
            if gone_us > 0:
                spent_us -= gone_us
                reached = until
        least_us = round(job.limits.lease_s * SECOND_US * _SLEW)
        if spent_us < least_us:
            self.broken(
                f"a lease of {job.key} for {job.limits.lease_s} s expired after {spent_us / SECOND_US:.3f} s "
                f"in which its leader could hear of it"
            )

    def paused(self, host: Host, from_us: int) -> None:
        self._away.setdefault((host, None), []).append((from_us, self.world.now_us))

    def cut(self, host: Host, on: bool) -> None:
        if on:
            self._cut_from[host] = self.world.now_us
        else:
            self._cut_from.pop(host, None)

    def down(self, on: bool) -> None:
        self._down_from = self.world.now_us if on else None

    # --- memory -------------------------------------------------------------------------------------------

    def compare(self, engine: Engine, fold: Fold) -> None:
        """The leader's memory against the fold: all of it the first time, then what has changed."""
        touched = self._compared[fold.partition].get(engine.name)
        if touched is None:
            touched = set(fold.jobs) | set(engine.state.jobs)
        self.checks["memory"] += 1
        found = difference(engine, fold, touched)
        if found is not None:
            self.broken(f"{engine.name} {found}")
        self._compared[fold.partition][engine.name] = set()

    def compare_at_rest(self, engine: Engine, log: SimLog) -> None:
        """At a crash or the end: the whole memory, where no append is under way."""
        fold = self.folds[log.partition]
        if not engine.leading.is_set() or engine.open or log.busy or engine.state.seq != fold.seq:
            return
        self.checks["memory at rest"] += 1
        found = difference_at_rest(engine, fold)
        if found is not None:
            self.broken(f"{engine.name} {found}")

    # --- requests -----------------------------------------------------------------------------------------

    def asked(self, host: Host, partition: int, subject: str, body: bytes) -> Asked:
        """A request as it reaches a leader."""
        self._request_count += 1
        self._arrived[self._request_count] = self.world.now_us, host, subject
        return arrived(self.folds[partition], self._request_count, subject, body)

    def answered(self, asked: Asked, said: bytes) -> None:
        """An answer as it leaves: it must be true of the log at this moment."""
        self._arrived.pop(asked.number, None)
        if said != NOTHING:
            self.checks["answer"] += 1
            self._answers.check(self.folds[asked.partition], asked, said)

    # --- workers and clients ------------------------------------------------------------------------------

    def request_sent(self, host: Host, subject: str) -> int:
        self._request_count += 1
        self._requests[self._request_count] = self.world.now_us, host, subject
        return self._request_count

    def request_over(self, number: int, answer: bytes | None) -> None:
        """In a calm world every request is answered, be it with `try_later`."""
        sent_us, host, subject = self._requests.pop(number)
        if answer is None and self.calm_from_us is not None and sent_us > self.calm_from_us:
            self.broken(f"{host.name} was never answered to {subject}")

    def executes(self, host: Host, partition: int, key: str, token: int, worker: str) -> None:
        """User code begins under a lease."""
        self.checks["execution"] += 1
        if (partition, token) in self._executed:
            self.broken(f"{key} runs twice under token {token}")
        self._executed.add((partition, token))
        granted = self.folds[partition].rules.granted.get(token)
        if granted is None or granted[0] != key or granted[1] != worker:
            self.broken(f"{worker} runs {key} under token {token}, which the log grants to {granted}")

    def acts(self, partition: int, place: str, number: int, token: int) -> None:
        """The function of a step begins: its intention is in the log, and its answer is not.

        Nothing is said of who has lost the lease: the log has gone on without it.
        """
        job = self.folds[partition].jobs[place]
        if job.last_token != token:
            return
        self.checks["step"] += 1
        step = job.steps[number - 1] if number <= len(job.steps) else None
        if step is None or (step.state, step.token) != ("open", token):
            state = "not begun" if step is None else f"{step.state}, begun under token {step.token}"
            self.broken(f"{place} does step {number} under token {token}; in the log it is {state}")

    # --- the end ------------------------------------------------------------------------------------------

    def check_submits(self) -> None:
        """Every submit that the broker has is one job, or a recorded refusal; and nothing else is a job."""
        for partition, intake in enumerate(self.intakes):
            fold = self.folds[partition]
            born = {(job.source.seq, job.source.index): job for job in fold.jobs.values() if job.source}
            untold = sum(self._check_submit(fold, stored, born) for stored in intake)
            if untold != fold.folded:
                self.broken(
                    f"log {partition}: {untold} submits have come to nothing, it counts {fold.folded}"
                )
            for place in born:
                if all(stored.seq != place[0] for stored in intake):
                    self.broken(f"log {partition} has a job from submit {place}, which does not exist")

    def _check_submit(self, fold: Fold, stored: Stored, born: dict[tuple[int, int], Tally]) -> int:
        """How many of a message's jobs are neither there nor refused by name."""
        _, _, _, _, tenant, _, queue = stored.subject.split(".")
        untold = 0
        for index, element in enumerate(elements(stored.body)):
            place = stored.seq, index
            named = element.get("id") or derived_job_id(INTAKE_EPOCH, stored.seq, index)
            job = fold.jobs.get(f"{tenant}.{queue}~{named}")
            refused = place in fold.refused or (stored.seq, -1) in fold.refused
            self.checks["submit"] += 1
            if "bad" in element:
                job = None
            untold += job is None and not refused
            if place in born and (refused or born[place] is not job):
                self.broken(f"log {fold.partition}: submit {place} of {named} became {born[place].key}")
        return untold

    def check_again(self, logs: list[list[Stored]]) -> None:
        """A second fold from the first byte comes to the same."""
        for partition, log in enumerate(logs):
            again = self._fold(partition, self.intakes[partition])
            try:
                for stored in log:
                    again.take(stored, 0)
            except Wrong as wrong:
                self.broken(f"log {partition} folded again: {wrong}")
                return
            mine = self.folds[partition]
            if (again.seq, again.digest) != (mine.seq, mine.digest):
                self.broken(f"log {partition} folded again ends at {again.seq} {again.digest}")
            for key, job in again.jobs.items():
                if (job.state, job.round, job.attempt) != (
                    mine.jobs[key].state,
                    mine.jobs[key].round,
                    mine.jobs[key].attempt,
                ):
                    self.broken(f"log {partition} folded again has {key} as {job.state}")

    def check_answers(self) -> None:
        """Whatever reached a leader was answered, be it with `try_later`, unless the leader crashed."""
        for arrived_us, host, subject in self._arrived.values():
            if host.alive and self.world.now_us - arrived_us > ANSWERED_US:
                self.broken(f"{host.name} never answered {subject}, which came at {arrived_us / SECOND_US} s")
                return

    def over(self) -> bool:
        """Whether nothing is left to happen: all has ended, and no schedule starts another job."""
        return all(
            not any(job.live for job in fold.jobs.values())
            and all(operation.ended for operation in fold.operations.known.values())
            and all(schedule.over() for schedule in fold.timetable.schedules.values())
            and not fold.mail.left()
            for fold in self.folds
        )

    def left(self) -> list[str]:
        """What has not ended."""
        jobs = [
            f"{job.key} is still {job.state}" for fold in self.folds for job in fold.jobs.values() if job.live
        ]
        known = [(place, op) for fold in self.folds for place, op in fold.operations.known.items()]
        mail = [f"log {fold.partition}: {left}" for fold in self.folds for left in fold.mail.left()]
        return jobs + mail + [f"operation {place} has not ended" for place, op in known if not op.ended]

    def find(self, queue: str, job_id: str) -> Tally | None:
        """A job as its log tells it."""
        return self.folds[HOME[queue]].jobs.get(f"{TENANT}.{queue}~{job_id}")

    def broken(self, what: str) -> None:
        self.world.broken(what)
