"""The checker: sees every record stored, every answer given, every execution, and says what must not be.

It knows DESIGN's invariants and none of the ways in which code may break them.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from writ.broker.ports import Message, Stored
from writ.schemas import commands
from writ.schemas.ids import derived_job_id
from writ.schemas.lifecycle import Job
from writ.schemas.rejections import Rejection, RejectionKind

from .fold import TERMINAL, Fold, Tally, elements
from .loop import SECOND_US, Host, World
from .mail import Wrong
from .net import INTAKE_EPOCH, LOG_EPOCH
from .plan import HOME, PARTITIONS, TENANT

if TYPE_CHECKING:
    from writ.orchestrator.engine import Engine

    from .ports import SimLog

AWAY_US: Final = 3 * SECOND_US // 2
"""Away for less than this may go unnoticed by a leader."""

ANSWERED_US: Final = 25 * SECOND_US
"""Longer than a wait, and than three time-outs of a leader that is in trouble, together."""

_SLEW: Final = 0.94
"""Log time may run a twentieth faster than true time."""

_acquire: Final = msgspec.json.Decoder(commands.Acquire).decode
_renew: Final = msgspec.json.Decoder(commands.Renew).decode
_start: Final = msgspec.json.Decoder(commands.Start).decode
_complete: Final = msgspec.json.Decoder(commands.Complete).decode
_fail: Final = msgspec.json.Decoder(commands.Fail).decode
_release: Final = msgspec.json.Decoder(commands.Release).decode
_acquired: Final = msgspec.json.Decoder(commands.Acquired).decode
_renewed: Final = msgspec.json.Decoder(commands.Renewed).decode
_reported: Final = msgspec.json.Decoder(commands.Reported).decode
_answer: Final = msgspec.json.Decoder(commands.Answer).decode
_REPORTS: Final = frozenset({"start", "complete", "fail", "release"})
_NOTHING: Final = msgspec.json.encode(commands.Acquired())


def _any(job: Job) -> bool:
    return True


def _never(job: Job) -> bool:
    return False


class Asked(NamedTuple):
    """A request at its arrival: what the log held then, and where the job it names stood."""

    partition: int
    tenant: str
    principal: str
    verb: str
    queue: str
    body: bytes
    number: int
    seq: int
    ended: bool
    round: int


class Watch:
    """Follows one history. The first thing that must not be is told to the world, which ends it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.folds = [Fold(partition, LOG_EPOCH) for partition in range(PARTITIONS)]
        for fold in self.folds:
            fold.mail.others = [other.mail for other in self.folds]
        self.intakes: list[list[Stored]] = []
        self.checks: Counter[str] = Counter()
        self.calm_from_us: int | None = None
        self.redrives_asked: Counter[str] = Counter()
        self._decided: list[dict[bytes, tuple[int, Host]]] = [{} for _ in range(PARTITIONS)]
        self._away: dict[tuple[Host, int | None], list[tuple[int, int]]] = {}
        self._cut_from: dict[Host, int] = {}
        self._down_from: int | None = None
        self._executed: set[tuple[int, int]] = set()
        self._compared: list[dict[str, set[str]]] = [{} for _ in range(PARTITIONS)]
        self._requests: dict[int, tuple[int, Host, str]] = {}
        self._arrived: dict[int, tuple[int, Host, str]] = {}
        self._request_count = 0

    # --- the log ------------------------------------------------------------------------------------------

    def append_begins(self, log: SimLog, messages: Sequence[Message], after: int) -> int:
        """A leader has decided these records; when it did counts, however often it has to send them."""
        now, decided = self.world.now_us, self._decided[log.partition]
        for message in messages:
            decided.setdefault(message.body, (now, log.host))
        return now

    def append_ends(self, log: SimLog, begun_us: int) -> None:
        """The append is over, whatever became of it: a broker that takes its time is away meanwhile."""
        if self.world.now_us - begun_us > AWAY_US:
            self._away.setdefault((log.host, log.partition), []).append((begun_us, self.world.now_us))

    def append_answered(self, log: SimLog, last: int) -> None:
        """A leader knows its records stored: what it has in memory must be what the log says."""
        fold = self.folds[log.partition]
        if log.engine is not None and fold.seq == last:
            self.compare(log.engine, fold, whole=False)

    def stored(self, partition: int, stored: Stored) -> None:
        fold = self.folds[partition]
        decided_us, host = self._decided[partition].get(stored.body, (self.world.now_us, None))
        try:
            fold.take(stored, decided_us)
        except Wrong as wrong:
            self.broken(f"log {partition}: {wrong}")
            return
        if host is not None and fold.lost_leases:
            for job, base_us in fold.lost_leases:
                self._check_expiry(job, base_us, decided_us, host, partition)
        fold.lost_leases.clear()
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

    def compare(self, engine: Engine, fold: Fold, *, whole: bool) -> None:
        """The leader's memory against the fold: all of it the first time, then what has changed."""
        touched = self._compared[fold.partition].get(engine.name)
        jobs = engine.state.jobs
        if whole or touched is None:
            touched = set(fold.jobs) | set(jobs)
        self.checks["memory"] += 1
        for place in sorted(touched):
            mine, theirs = fold.jobs.get(place), jobs.get(place)
            if mine is None or theirs is None:
                self.broken(f"{engine.name} and its log do not agree on whether {place} exists")
                return
            lease = theirs.lease
            have = (
                theirs.state.value, theirs.attempt, theirs.failures, theirs.lease_losses, theirs.round,
                theirs.cancel, theirs.due_at, theirs.since, theirs.records, theirs.last_token,
                (0, 0, "", False) if lease is None
                else (lease.token, lease.expires_at, lease.principal, lease.started_at is not None),
            )  # fmt: skip
            want = (
                mine.state, mine.attempt, mine.failures, mine.losses, mine.round,
                mine.cancel, mine.due_at, mine.since, mine.records, mine.last_token,
                (mine.token, mine.expires_at, mine.principal, mine.started) if mine.token
                else (0, 0, "", False),
            )  # fmt: skip
            if have != want:
                self.broken(f"{engine.name} remembers of {place} {have}, the log says {want}")
                return
        if len(jobs) != len(fold.jobs):
            self.broken(f"{engine.name} remembers {len(jobs)} jobs, its log has {len(fold.jobs)}")
        self._compared[fold.partition][engine.name] = set()

    def compare_at_rest(self, engine: Engine, log: SimLog) -> None:
        """At a crash or the end: the whole memory, where no append is under way."""
        fold = self.folds[log.partition]
        if not engine.leading.is_set() or log.busy or engine.state.seq != fold.seq:
            return
        self.compare(engine, fold, whole=True)
        for tenant_queue in {key.partition("~")[0] for key in fold.jobs}:
            line = copy.deepcopy(engine.state.ready(tenant_queue))
            picked = [] if line is None else line.pick(engine.state.jobs, 1_000, _any, _never, _any)
            have = [f"{job.tenant}.{job.key}" for job in picked]
            pending = [job for job in fold.jobs.values() if job.state == "pending"]
            mine = [job for job in pending if job.key.startswith(f"{tenant_queue}~")]
            want = [job.key for job in sorted(mine, key=lambda job: (job.priority, job.since))]
            if have != want:
                self.broken(f"{engine.name} would give out {have}, the log says {want}")

    # --- requests -----------------------------------------------------------------------------------------

    def asked(self, host: Host, partition: int, subject: str, body: bytes) -> Asked:
        """A request as it reaches a leader."""
        self._request_count += 1
        self._arrived[self._request_count] = self.world.now_us, host, subject
        _, _, _, _, tenant, principal, verb, queue = subject.split(".")
        fold = self.folds[partition]
        ended, round_ = False, 0
        if verb in ("cancel", "redrive"):
            job = self._named(fold, tenant, queue, body)
            if job is not None:
                ended, round_ = job.state in TERMINAL, job.round
                if verb == "redrive":
                    self.redrives_asked[job.key] += 1
        number = self._request_count
        return Asked(partition, tenant, principal, verb, queue, body, number, fold.seq, ended, round_)

    @staticmethod
    def _named(fold: Fold, tenant: str, queue: str, body: bytes) -> Tally | None:
        try:
            named = msgspec.json.decode(body)["id"]
        except (msgspec.MsgspecError, KeyError, TypeError):
            return None
        return fold.jobs.get(f"{tenant}.{queue}~{named}")

    def answered(self, asked: Asked, said: bytes) -> None:
        """An answer as it leaves: it must be true of the log at this moment."""
        self._arrived.pop(asked.number, None)
        if said == _NOTHING:
            return
        self.checks["answer"] += 1
        verb = asked.verb
        if verb == "acquire":
            self._check_acquired(asked, _acquired(said))
        elif verb == "renew":
            self._check_renewed(asked, _renewed(said))
        elif verb in ("cancel", "redrive"):
            self._check_control(asked, _answer(said))
        elif verb in _REPORTS:
            self._check_reported(asked, _reported(said))

    def _check_acquired(self, asked: Asked, said: commands.Acquired) -> None:
        if said.error is not None:
            return
        fold = self.folds[asked.partition]
        command = _acquire(asked.body)
        if len(said.leases) > command.count:
            self.broken(f"{len(said.leases)} leases for an acquire of {command.count}")
        for lease in said.leases:
            want = f"{asked.tenant}.{asked.queue}~{lease.id}", command.worker, asked.principal
            if fold.granted.get(lease.token) != want:
                self.broken(f"lease {lease.token} of {lease.id} was answered, and is not in the log")

    def _check_renewed(self, asked: Asked, said: commands.Renewed) -> None:
        if said.error is not None:
            return
        fold = self.folds[asked.partition]
        held = _renew(asked.body).leases
        lost = {rejection.index: rejection for rejection in said.lost}
        for index, each in enumerate(held):
            if index in lost:
                self._check_void(fold, asked, each.id, each.token, lost[index])
            elif fold.renewed.get(each.token, 0) <= asked.seq:
                self.broken(f"the renewal of token {each.token} was accepted, and is not in the log")

    def _check_reported(self, asked: Asked, said: commands.Reported) -> None:
        if said.error is not None:
            return
        fold = self.folds[asked.partition]
        refused = {rejection.index: rejection for rejection in said.refused}
        for index, (job_id, token) in enumerate(_named_in(asked.verb, asked.body)):
            if index in refused:
                self._check_void(fold, asked, job_id, token, refused[index])
                continue
            if asked.verb == "start":
                stored = token in fold.started
            else:
                stored = fold.ended.get(token, ("", 0))[0] == asked.verb
            granted = fold.granted.get(token)
            if not stored or granted is None:
                self.broken(f"the {asked.verb} of token {token} was accepted, and is not in the log")
            elif granted[0] != f"{asked.tenant}.{asked.queue}~{job_id}":
                self.broken(f"{asked.verb} of {job_id} was accepted for token {token} of {granted[0]}")

    def _check_void(self, fold: Fold, asked: Asked, job_id: str, token: int, said: Rejection) -> None:
        """What is said to be void must be so; nothing else may be claimed of a live lease."""
        job = fold.jobs.get(f"{asked.tenant}.{asked.queue}~{job_id}")
        if said.kind is RejectionKind.TRY_LATER:
            return
        self.checks["void"] += 1
        if said.kind is RejectionKind.NOT_FOUND:
            if job is not None and job.since <= asked.seq:
                self.broken(f"{asked.principal} was told that {job_id} does not exist")
        elif said.kind is RejectionKind.STALE and job is not None:
            live = job.token == token and job.principal == asked.principal
            if live:
                self.broken(f"{asked.principal} was told that live token {token} of {job_id} is void")

    def _check_control(self, asked: Asked, said: commands.Answer) -> None:
        fold = self.folds[asked.partition]
        job = self._named(fold, asked.tenant, asked.queue, asked.body)
        error = said.error
        if error is None:
            if job is None:
                self.broken(f"{asked.verb} was accepted of a job that the log does not know")
            elif asked.verb == "cancel" and job.cancel is None and job.state != "cancelled":
                if not (job.round > asked.round or job.state in TERMINAL):
                    self.broken(f"cancel of {job.key} was accepted, and is not in the log")
            elif asked.verb == "redrive" and fold.redriven.get(job.key, 0) <= asked.seq:
                self.broken(f"redrive of {job.key} was accepted, and is not in the log")
        elif error.kind is RejectionKind.NOT_FOUND:
            if job is not None and asked.round:
                self.broken(f"an operator was told that {job.key} does not exist")
        elif error.kind is RejectionKind.CONFLICT and job is not None and job.round == asked.round:
            ended = asked.ended or job.state in TERMINAL
            dead = job.state == "dead"
            if (asked.verb == "cancel" and not ended) or (asked.verb == "redrive" and dead and asked.ended):
                self.broken(f"{asked.verb} of {job.key}, which is {job.state}, was refused: {error.reason}")

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
        granted = self.folds[partition].granted.get(token)
        if granted is None or granted[0] != key or granted[1] != worker:
            self.broken(f"{worker} runs {key} under token {token}, which the log grants to {granted}")

    # --- the end ------------------------------------------------------------------------------------------

    def check_submits(self) -> None:
        """Every submit that the broker has is one job, or a recorded refusal; and nothing else is a job."""
        for partition, intake in enumerate(self.intakes):
            fold = self.folds[partition]
            born = {(job.source.seq, job.source.index): job for job in fold.jobs.values() if job.source}
            for stored in intake:
                self._check_submit(fold, stored, born)
            for place in born:
                if place[0] > len(intake):
                    self.broken(f"log {partition} has a job from submit {place}, which does not exist")

    def _check_submit(self, fold: Fold, stored: Stored, born: dict[tuple[int, int], Tally]) -> None:
        _, _, _, _, tenant, _, queue = stored.subject.split(".")
        for index, element in enumerate(elements(stored.body)):
            place = stored.seq, index
            named = element.get("id") or derived_job_id(INTAKE_EPOCH, stored.seq, index)
            job = fold.jobs.get(f"{tenant}.{queue}~{named}")
            refused = place in fold.refused or (stored.seq, -1) in fold.refused
            self.checks["submit"] += 1
            if "bad" in element:
                if place in born or not (refused or fold.folded):
                    self.broken(f"log {fold.partition}: malformed submit {place} was not refused")
            elif refused:
                self.broken(f"log {fold.partition}: submit {place} of {named} was refused")
            elif job is None:
                self.broken(f"log {fold.partition}: submit {place} of {named} is lost")
            elif place in born and (born[place] is not job or job.task != element["task"]):
                self.broken(f"log {fold.partition}: submit {place} of {named} became {born[place].key}")

    def check_again(self, logs: list[list[Stored]]) -> None:
        """A second fold from the first byte comes to the same."""
        for partition, log in enumerate(logs):
            again = Fold(partition, LOG_EPOCH)
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

    def check_redrives(self) -> None:
        """Only an operator has a job run again."""
        for fold in self.folds:
            for job in fold.jobs.values():
                if job.round - 1 > self.redrives_asked[job.key]:
                    self.broken(f"{job.key} is in round {job.round}, and was redriven by nobody")

    def check_mail(self) -> None:
        """Nothing that one partition said to another is still on its way."""
        for fold in self.folds:
            for left in fold.mail.left():
                self.broken(f"log {fold.partition}: {left}")
                return

    def find(self, queue: str, job_id: str) -> Tally | None:
        """A job as its log tells it."""
        return self.folds[HOME[queue]].jobs.get(f"{TENANT}.{queue}~{job_id}")

    def broken(self, what: str) -> None:
        self.world.broken(what)


def _named_in(verb: str, body: bytes) -> list[tuple[str, int]]:
    """The ids and tokens that a report is about."""
    match verb:
        case "complete":
            return [(each.id, each.token) for each in _complete(body).reports]
        case "fail":
            return [(each.id, each.token) for each in _fail(body).reports]
        case "start":
            return [(each.id, each.token) for each in _start(body).leases]
        case _:
            return [(each.id, each.token) for each in _release(body).leases]
