"""What workers ask and report: leases granted, renewed and ended."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import msgspec

from writ.schemas import bounds, commands
from writ.schemas.events import (
    Fact,
    LeasesRenewed,
    RefusedReport,
    Renewal,
    ReportRejected,
    WorkerSeen,
)
from writ.schemas.ids import job_key
from writ.schemas.lifecycle import Job
from writ.schemas.notes import Note, Recall
from writ.schemas.policy import ANY_TOOL
from writ.schemas.prices import NO_PRICES
from writ.schemas.processes import named
from writ.schemas.queues import Mode
from writ.schemas.rejections import Rejection

from .decide import lease, quotas, steps
from .decide.depend import Known
from .decide.lease import Repeated
from .decide.release import choose
from .logtime import Budget
from .messages import Asked
from .office import TRY_LATER, Office, encode, size_of
from .ready import of_key, of_process
from .round import Round
from .waiting import Waiter, Waiting

_ACQUIRED_MAX_BYTES = 700 * 1024
_LEASE_BYTES = 200
"""More than a lease weighs in an answer, but for its names and its input."""

Outcome = tuple[Fact, ...] | Repeated | Rejection
Verb = Callable[[Round, Asked, Any], None]


class LeaseDesk:
    """Grants in the queues' order and under their limits, and hears what becomes of them."""

    def __init__(self, office: Office, dealt_to: Callable[[str], int]) -> None:
        self.waiting = Waiting()
        self._dealt_to = dealt_to
        self._heard: OrderedDict[tuple[str, str, str], tuple[int, WorkerSeen]] = OrderedDict()
        self._hearings = Budget()
        self._office = office
        self._state = office.state
        self.verbs: dict[type[commands.Command], Verb] = {
            commands.Acquire: self._acquire,
            commands.Withdraw: self._withdraw,
            commands.Renew: self._renew,
            commands.Start: self._start,
            commands.Complete: self._complete,
            commands.Fail: self._fail,
            commands.Release: self._release,
            commands.Snooze: self._snooze,
            commands.Suspend: self._suspend,
            commands.Progress: self._progress,
            Note: self._note,
            Recall: self._recall,
        }

    # --- grants -----------------------------------------------------------------------------------------

    def _acquire(self, round_: Round, asked: Asked, command: commands.Acquire) -> None:
        tenant, principal, _, queue = asked.address
        too_open = lease.too_open(self._state.queue(f"{tenant}.{queue}"), command.isolation)
        if too_open is not None:
            self._office.refuse(round_, asked, too_open)
            return
        if command.again:
            self._tell_again(round_, asked, command)
            return
        if command.about is not None:
            self._hear(round_, asked, command, command.about)
        until = self._office.clock.mono_us() + round(command.wait_s * bounds.SECOND_US)
        waiter = Waiter(tenant, principal, queue, command, asked.send, until, round_.now)
        # Those who wait already have had their chance at what is ready: what is left is not for them.
        if not self._grant(round_, waiter):
            if command.wait_s > 0:
                self.waiting.park(waiter)
            else:
                round_.answer(asked.send, encode(commands.Acquired(lanes=self._state.lanes(waiter.place))))

    def _tell_again(self, round_: Round, asked: Asked, command: commands.Acquire) -> None:
        """Answers with what the worker holds in the queue and does not know of, as far as it fits.

        The newest come first: those of an answer that was lost are among them, also where a worker holds
        more than it can name. It asks again with these known until nothing is new to it.
        """
        tenant, principal, _, queue = asked.address
        self.send_away(round_, f"{tenant}.{queue}", principal, command.worker)
        known, fits, leases = set(command.known), self._fits(), list[commands.Lease]()
        held = [
            (job.lease.token, job.lease.expires_at, job)
            for key in self._state.usage.held_by(tenant, principal, command.worker)
            if (job := self._state.jobs[f"{tenant}.{key}"]).queue == queue and job.lease is not None
        ]
        for token, expires_at, job in sorted(held, key=lambda each: each[0], reverse=True):
            if token not in known and len(leases) < bounds.LEASES_PER_REQUEST_MAX and fits(job):
                granted_at = expires_at - round(job.limits.lease_s * bounds.SECOND_US)
                leases.append(self._lease(job, granted_at - round_.now))
        answer = commands.Acquired(None, round_.position, tuple(leases))
        round_.answer(asked.send, encode(answer), verdict_only=True)

    def _hear(
        self, round_: Round, asked: Asked, command: commands.Acquire, about: commands.WorkerAbout
    ) -> None:
        """Records what a worker says of itself, unless that was done within the last minutes.

        This is no state of the log: a leader that knows of nobody records each worker once more.
        """
        tenant, principal, verb, _ = asked.address
        who = (tenant, principal, command.worker)
        at, known = self._heard.get(who, (0, None))
        size = sum(len(name) + len(schema) for name, schema in about.tasks.items())
        if (known is not None and not about.tasks) or size > bounds.TASKS_TOLD_MAX_BYTES:
            about = msgspec.structs.replace(about, tasks={} if known is None else known.tasks)
        seen = WorkerSeen(about.host, about.version, about.slots, about.tasks, command.labels, about.queues)
        if known == seen and round_.now - at < bounds.WORKER_SEEN_S * bounds.SECOND_US:
            return
        if not self._hearings.take(f"{tenant}.{principal}", round_.now):
            return  # with its next acquire
        told = seen
        if known is not None and known.tasks == about.tasks:
            told = msgspec.structs.replace(seen, tasks={})
        round_.record(tenant, "worker", command.worker, (told,), actor=principal, vouched=False, cause=verb)
        self._heard[who] = (round_.now, seen)
        self._heard.move_to_end(who)
        if len(self._heard) > bounds.WORKERS_KNOWN_MAX:
            self._heard.popitem(last=False)

    def _withdraw(self, round_: Round, asked: Asked, command: commands.Withdraw) -> None:
        """A worker that stops takes its waiting acquires back, so that nothing is granted to nobody."""
        tenant, principal, _, queue = asked.address
        self.send_away(round_, f"{tenant}.{queue}", principal, command.worker)
        round_.answer(asked.send, encode(commands.Answer()))

    def send_away(self, round_: Round, place: str, principal: str, worker: str) -> None:
        """Answers all that a worker waits for in a queue with no lease."""
        for number, waiter in list(self.waiting.line(place)):
            if waiter.principal == principal and waiter.command.worker == worker:
                self.waiting.leave(place, number)
                round_.answer(waiter.send, encode(commands.Acquired()))

    def turn_away(self, round_: Round) -> None:
        """Answers all that is waited for in queues which are another partition's now: it is asked of that."""
        links = self._state.links
        for place in self.waiting.queues():
            tenant, _, queue = place.partition(".")
            if links.shards.home(tenant, queue) != links.number:
                for number, waiter in list(self.waiting.line(place)):
                    self.waiting.leave(place, number)
                    round_.answer(waiter.send, encode(commands.Acquired()))

    def _allowance(self, place: str, count: int, now: int) -> int:
        """How many leases the queue's mode, slots and rate allow, up to `count`."""
        queue = self._state.queue(place)
        if queue.mode is Mode.PAUSED:
            return 0
        policy = queue.policy
        if policy.concurrency is not None:
            count = min(count, policy.concurrency - self._state.running_in(place))
        tokens = queue.grant_tokens(now)
        if tokens is not None and tokens < count:
            count = tokens
            if not tokens:
                self._office.rate_wakes[place] = queue.next_grant_at(now)
        return max(0, count)

    def _grant(self, round_: Round, waiter: Waiter) -> bool:
        """Leases for one acquire, answered; False where there was no job for it."""
        tenant, queue, command = waiter.tenant, waiter.queue, waiter.command
        place = waiter.place
        ready = self._state.ready(place)
        if ready is None or not ready.size:
            return False
        allowed = self._allowance(place, command.count, round_.now)
        if not allowed or lease.too_open(self._state.queue(place), command.isolation) is not None:
            return False
        if not self._office.guard.permits(tenant, waiter.principal, "acquire", queue, round_.now):
            return False  # it was allowed to wait, and is not allowed to work any more
        if self._state.is_drained(tenant, command.worker):
            return False  # it waits, as where there is no job
        standing = self._state.standing(tenant)
        if standing is not None and self._has_no_seat(standing, waiter):
            self._office.hold(place, round_.now)
            return False
        fits = self._fits() if standing is None else self._affords(standing, place, round_.now)
        limits = self._wanted(command), self._full(place), fits
        chosen = ready.pick(self._state.jobs, allowed, *limits, command.labels)
        leases = [given for job in chosen if (given := self._grant_one(round_, waiter, job)) is not None]
        if not leases:
            return False
        answer = commands.Acquired(None, round_.position, tuple(leases), self._state.lanes(place))
        round_.answer(waiter.send, encode(answer))
        return True

    def _wanted(self, command: commands.Acquire) -> Callable[[Job], bool]:
        process_of = self._state.process_of
        return lambda job: lease.wanted(job, command, process_of(job))

    def _full(self, place: str) -> Callable[[Job], str | None]:
        """What a job must wait for: a release, or a slot of its key; counts those it lets through."""
        most = self._state.queue(place).policy.key_concurrency
        taken: dict[str, int] = {}

        def full(job: Job) -> str | None:
            if job.process is not None and choose(job, self._state.process_of(job)).digest is None:
                return of_process(named(job.process).process)
            key = job.concurrency_key
            if key is None or most is None:
                return None
            running = self._state.running_by_key(place, key) + taken.get(key, 0)
            if running < most:
                taken[key] = taken.get(key, 0) + 1
                return None
            return of_key(key)

        return full

    def _fits(self) -> Callable[[Job], bool]:
        """Whether another lease fits into the answer; the first one always does."""
        size_bytes = 0

        def fits(job: Job) -> bool:
            nonlocal size_bytes
            first = size_bytes == 0
            more = self._filled_bytes(job) + len(job.task.encode()) + len(job.key) + _LEASE_BYTES
            more += sum(s.size_bytes for s in job.signals)
            more += 0 if job.progress is None else job.progress.size_bytes
            if not first and size_bytes + more > _ACQUIRED_MAX_BYTES:
                return False
            size_bytes += more
            return True

        return fits

    def _has_no_seat(self, standing: quotas.Standing, waiter: Waiter) -> bool:
        """Whether as many workers hold leases of the tenant as may, and this one holds none."""
        has_lease = self._state.usage.holds_lease(waiter.tenant, waiter.principal, waiter.command.worker)
        return quotas.too_many_workers(standing, has_lease) is not None

    def _affords(self, standing: quotas.Standing, place: str, now: int) -> Callable[[Job], bool]:
        """Whether another lease fits into the answer and into the tenant's budget."""
        fits, load = self._fits(), standing.load

        def affords(job: Job) -> bool:
            nonlocal load
            if quotas.holds(standing._replace(load=load), job, now) is not None:
                self._office.hold(place, now)
                return False
            if not fits(job):
                return False
            reserved = load.reserved_microusd + quotas.reserve(standing.account, job)
            load = load._replace(reserved_microusd=reserved)
            return True

        return affords

    def _grant_one(self, round_: Round, waiter: Waiter, job: Job) -> commands.Lease | None:
        tenant, principal = waiter.tenant, waiter.principal
        ended = lease.hopeless(job, self._filled_bytes(job))
        if ended:
            self._office.store(round_, tenant, job.key, ended, cause="acquire")
            return None
        actor, process = round_.actor_of(tenant, job.key), self._state.process_of(job)
        account = self._state.accounts.get(tenant)
        reserved = 0 if account is None else quotas.reserve(account, job)
        governed = f"{tenant}.{waiter.queue}" in self._state.queues or account is not None
        if governed or process is not None:
            # What made room for it stands in a record of this round, which must not come after the grant.
            actor = None
        command = waiter.command
        if actor is not None:
            events = lease.grant(job, command, principal, actor, reserved, process)
            actor = None if round_.extend(tenant, job.key, events) is None else actor
        if actor is None:
            events = lease.grant(job, command, principal, principal, reserved, process)
            round_.record(tenant, "job", job.key, events, actor=principal, vouched=False, cause="acquire")
        job = self._state.jobs[f"{tenant}.{job.key}"]
        return self._lease(job, round_.now - waiter.since)

    def _lease(self, job: Job, parked_us: int) -> commands.Lease:
        """The lease of a job, as told to an acquire that waited so long for it; less than 0 if it had it."""
        queue = self._state.queue(f"{job.tenant}.{job.queue}")
        strict = queue.policy.strict_lease
        content = self._office.sealing.open(job.input)
        if job.input_from:
            content = self._filled(job, content)
        return commands.Lease(
            job.id,
            job.task,
            job.last_token,
            job.attempt,
            msgspec.Raw(content),
            job.limits.lease_s,
            job.limits.attempt_timeout_s,
            self._signals(job, 0),
            len(job.steps),
            job.compensation is not None,
            job.reproduces,
            None if queue.policy.tools == ANY_TOOL else queue.policy.tools,
            queue.version,
            job.tool_calls,
            self._office.sealing.digest_key(job),
            msgspec.UNSET if job.progress is None else msgspec.Raw(self._office.sealing.open(job.progress)),
            queue.policy.isolated_network,
            job.release,
            job.trace,
            lease.waited_ms(job),
            strict,
            parked_us / bounds.SECOND_US if strict else 0.0,
        )

    def _filled_bytes(self, job: Job) -> int:
        return lease.filled_bytes(job, partial(self._state.find, job.tenant))

    def _filled(self, job: Job, content: bytes) -> bytes:
        """The input with the outputs of the jobs before it in the fields that name them."""
        fields: dict[str, msgspec.Raw] = (
            msgspec.json.decode(content, type=dict[str, msgspec.Raw] | None) or {}
        )
        for field, key in job.input_from.items():
            before = self._state.find(job.tenant, key)
            output = None if before is None else before.output
            fields[field] = msgspec.Raw(b"null" if output is None else self._office.sealing.open(output))
        return encode(fields)

    def match(self, round_: Round) -> None:
        """Gives jobs that became ready to those who wait for them."""
        stirred = self._office.stirred
        while stirred:
            # Whoever ends a job at its grant stirs the queue again, for those behind it.
            place = next(iter(stirred))
            del stirred[place]
            if not self._match_queue(round_, place):
                self._office.stir(place)
                return

    def _match_queue(self, round_: Round, place: str) -> bool:
        """Whether everybody who waits for a queue had a chance, as far as it has jobs."""
        served: list[int] = []
        room = True
        for number, waiter in self.waiting.line(place):
            ready = self._state.ready(place)
            if ready is None or not ready.size:
                break
            room = round_.has_room(waiter.command.count, _ACQUIRED_MAX_BYTES // 2)
            if not room:
                break
            if self._grant(round_, waiter):
                served.append(number)
        for number in served:
            self.waiting.leave(place, number)
        return room

    def dismiss(self, round_: Round) -> None:
        """Answers those whose wait is over with no lease."""
        for waiter in self.waiting.over(self._office.clock.mono_us()):
            round_.answer(waiter.send, encode(commands.Acquired(lanes=self._state.lanes(waiter.place))))

    # --- beats ------------------------------------------------------------------------------------------

    def _renew(self, round_: Round, asked: Asked, command: commands.Renew) -> None:
        tenant, principal, verb, queue = asked.address
        lost: list[RefusedReport] = []
        ended: list[RefusedReport] = []
        live: list[Renewal] = []
        cancel: list[str] = []
        signals: dict[str, tuple[commands.SignalCame, ...]] = {}
        room = bounds.SIGNALS_MAX_BYTES
        for index, held in enumerate(command.leases):
            key = job_key(queue, held.id)
            job = self._office.job(asked, held.id)
            void = lease.fence(job, held, principal, index)
            if void is not None:
                # A beat often crosses the report that ended its lease: the log tells that end already.
                crossed = job is not None and job.lease is None and job.last_token == held.token
                (ended if crossed else lost).append(RefusedReport(key, held.token, void))
                continue
            assert job is not None
            live.append(Renewal(key, held.token))
            if job.stops is not None:
                cancel.append(held.id)
            if job.signals and (came := self._signals(job, held.seen)):
                # What does not fit is told at the next beat, when its holder has seen the rest.
                weight = sum(s.size_bytes for s in job.signals if s.seq > held.seen)
                if weight <= room:
                    signals[held.id] = came
                    room -= weight
        if live:
            round_.record(
                tenant,
                "worker",
                command.worker,
                (LeasesRenewed(tuple(live)),),
                actor=principal,
                vouched=False,
                cause=verb,
                size_bytes=len(live) * 300,
            )
        verdicts = self._refuse_reports(round_, asked, command.worker, lost)
        verdicts += tuple([report.rejection for report in ended])
        answer = commands.Renewed(None, round_.position, verdicts, tuple(cancel), signals or None)
        round_.answer(asked.send, encode(answer), verdict_only=not live)

    # --- reports ----------------------------------------------------------------------------------------

    def _refuse_reports(
        self, round_: Round, asked: Asked, worker: str, refused: list[RefusedReport]
    ) -> tuple[Rejection, ...]:
        """Records refused reports of one message; the verdicts to answer, or none but `try_later`."""
        if not refused:
            return ()
        if self._office.may_refuse(asked.address, round_.now):
            named = tuple(refused[: bounds.REFUSALS_NAMED_MAX])
            verb = asked.address.verb
            self._office.note(round_, asked.address, ReportRejected(verb, worker, named), verb)
            return tuple([r.rejection for r in refused])
        kind, reason = TRY_LATER.kind, TRY_LATER.reason
        return tuple([Rejection(kind, reason, None, r.rejection.index) for r in refused])

    def _reports(
        self,
        round_: Round,
        asked: Asked,
        worker: str,
        decided: Iterable[tuple[str, int, Job | None, Outcome, int]],
    ) -> None:
        """Stores what was decided of each report, and answers the message. Decides lazily, one at a time."""
        tenant, principal, verb, queue = asked.address
        refused: list[RefusedReport] = []
        stored = 0
        for job_id, token, job, outcome, size_bytes in decided:
            if isinstance(outcome, Rejection):
                refused.append(RefusedReport(job_key(queue, job_id), token, outcome))
            elif not isinstance(outcome, Repeated):
                assert job is not None
                self._office.store(
                    round_, tenant, job.key, outcome, actor=principal, cause=verb, size_bytes=size_bytes
                )
                stored += 1
        verdicts = self._refuse_reports(round_, asked, worker, refused)
        answer = commands.Reported(None, round_.position, verdicts)
        round_.answer(asked.send, encode(answer), verdict_only=not stored)

    def _complete(self, round_: Round, asked: Asked, command: commands.Complete) -> None:
        who, find = asked.address.principal, self._office.job
        self._reports(
            round_,
            asked,
            command.worker,
            (
                (r.id, r.token, job := find(asked, r.id), lease.complete(job, r, who, i), size_of(r.output))
                for i, r in enumerate(command.reports)
            ),
        )

    def _fail(self, round_: Round, asked: Asked, command: commands.Fail) -> None:
        tenant, who, _, queue = asked.address
        find, draw, now = self._office.job, self._office.entropy, round_.now
        policy, seal_of = self._state.queue, self._office.sealing.seal_of
        place = f"{tenant}.{queue}"
        self._reports(
            round_,
            asked,
            command.worker,
            (
                (
                    r.id,
                    r.token,
                    job := find(asked, r.id),
                    lease.fail(job, policy(place), r, who, i, now, draw(), seal_of(job)),
                    len(r.text) * 6,
                )
                for i, r in enumerate(command.reports)
            ),
        )

    def _start(self, round_: Round, asked: Asked, command: commands.Start) -> None:
        who, find = asked.address.principal, self._office.job
        self._reports(
            round_,
            asked,
            command.worker,
            (
                (h.id, h.token, job := find(asked, h.id), lease.start(job, h, who, i), 0)
                for i, h in enumerate(command.leases)
            ),
        )

    def _release(self, round_: Round, asked: Asked, command: commands.Release) -> None:
        who, why, find = asked.address.principal, command.reason, self._office.job
        self._reports(
            round_,
            asked,
            command.worker,
            (
                (h.id, h.token, job := find(asked, h.id), lease.release(job, h, who, why, i), len(why))
                for i, h in enumerate(command.leases)
            ),
        )

    def _one(
        self,
        round_: Round,
        asked: Asked,
        command: commands.Snooze | commands.Suspend | commands.Progress,
        outcome: Outcome,
        size_bytes: int = 0,
    ) -> None:
        job = self._office.job(asked, command.id)
        decided = [(command.id, command.token, job, outcome, size_bytes)]
        self._reports(round_, asked, command.worker, decided)

    def _snooze(self, round_: Round, asked: Asked, command: commands.Snooze) -> None:
        job, who = self._office.job(asked, command.id), asked.address.principal
        self._one(round_, asked, command, lease.snooze(job, command, who, round_.now))

    def _suspend(self, round_: Round, asked: Asked, command: commands.Suspend) -> None:
        job, who = self._office.job(asked, command.id), asked.address.principal
        find = partial(self._state.find, asked.address.tenant)
        self._one(round_, asked, command, lease.suspend(job, command, who, round_.now, find))

    def _note(self, round_: Round, asked: Asked, command: Note) -> None:
        tenant, who, _, _ = asked.address
        find, now, revealed = self._office.job, round_.now, self._office.sealing.revealed
        prices = self._state.prices.get(tenant, NO_PRICES)
        self._reports(
            round_,
            asked,
            command.worker,
            (
                (
                    r.id,
                    r.token,
                    job := find(asked, r.id),
                    self._ended(
                        job, steps.note(revealed(job), r, who, i, prices, now, round_.position + 1), now
                    ),
                    asked.size_bytes // len(command.reports),
                )
                for i, r in enumerate(command.reports)
            ),
        )

    def _ended(self, job: Job | None, outcome: Outcome, now: int) -> Outcome:
        """What an attempt noted, and its end where it used more than the tenant's budget has."""
        if job is None or not isinstance(outcome, tuple):
            return outcome
        standing = self._state.standing(job.tenant)
        if standing is None:
            return outcome
        return quotas.with_end(standing, job, outcome, now)

    def _recall(self, round_: Round, asked: Asked, command: Recall) -> None:
        job, who = self._office.job(asked, command.id), asked.address.principal
        revealed, tenant = self._office.sealing.revealed, asked.address.tenant

        def find(key: str) -> Known | None:
            found = self._state.find(tenant, key)
            return revealed(found) if isinstance(found, Job) else found

        outcome = steps.recall(revealed(job), command, who, round_.position, find, self._dealt_to(tenant))
        if isinstance(outcome, Rejection):
            self._office.refuse(round_, asked, outcome)
        else:
            round_.answer(asked.send, encode(outcome), verdict_only=True)

    def _progress(self, round_: Round, asked: Asked, command: commands.Progress) -> None:
        job, who = self._office.job(asked, command.id), asked.address.principal
        self._one(round_, asked, command, lease.progress(job, command, who), size_of(command.progress))

    def _signals(self, job: Job, seen: int) -> tuple[commands.SignalCame, ...]:
        opened = self._office.sealing.open
        return tuple(
            [
                commands.SignalCame(s.name, s.seq, msgspec.Raw(opened(s.data)))
                for s in job.signals
                if s.seq > seen
            ]
        )
