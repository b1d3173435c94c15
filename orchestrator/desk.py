"""The desk: turns each message into decisions, and the decisions into records and answers of a round."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import msgspec

from writ.broker.clock import Clock
from writ.broker.ports import Answer as Send
from writ.schemas import bounds, commands
from writ.schemas.codec import explain_fault
from writ.schemas.commands import CONTROL_VERBS, LEASE_VERBS, SubmitJob
from writ.schemas.events import (
    Barrier,
    CommandRejected,
    DeadReason,
    Fact,
    JobDeadLettered,
    LeaseExpired,
    LeasesRenewed,
    RefusedReport,
    RejectionsFolded,
    Renewal,
    ReportRejected,
)
from writ.schemas.ids import derived_job_id, job_key, token_fault
from writ.schemas.lifecycle import Job
from writ.schemas.records import Source
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.sealed import unseal
from writ.schemas.subjects import Addressed, parse_served

from .decide import control, intake, lease, timers
from .decide.lease import Repeated
from .logtime import Budget
from .round import Round, system_record
from .state import Partition
from .waiting import Waiter, Waiting

_encode = msgspec.json.Encoder().encode
_decoders = {verb: msgspec.json.Decoder(cls).decode for verb, cls in (LEASE_VERBS | CONTROL_VERBS).items()}
_ACQUIRED_MAX_BYTES = 700 * 1024
_LEASE_BYTES = 200
"""More than a lease weighs in an answer, but for its names and its input."""
_TRY_LATER = Rejection(RejectionKind.TRY_LATER, "too many refusals; nothing was decided, ask again later")
ORCHESTRATOR = "writ:orchestrator"


class Submitted(NamedTuple):
    """A message of the intake, split into its elements."""

    epoch: int
    seq: int
    address: Addressed
    elements: list[bytes | msgspec.Raw] | Rejection
    size_bytes: int

    @property
    def records_max(self) -> int:
        """Records that it may need: one for each element, and one for what is refused."""
        return 1 + (0 if isinstance(self.elements, Rejection) else len(self.elements))


class Asked(NamedTuple):
    """A request of a worker or operator, decoded as far as its verb."""

    address: Addressed
    command: commands.Command | Rejection
    send: Send
    size_bytes: int

    @property
    def records_max(self) -> int:
        """Records that it may need."""
        command = self.command
        if isinstance(command, commands.Acquire):
            return command.count
        if isinstance(command, commands.Complete | commands.Fail):
            return len(command.reports) + 1
        if isinstance(command, commands.Start | commands.Release):
            return len(command.leases) + 1
        return 2


def open_request(subject: str, body: bytes, send: Send) -> Asked:
    """Takes a request apart; what is wrong with it becomes the command's rejection."""
    address = parse_served(subject)
    verb = address.verb
    decode = _decoders.get(verb)
    command: commands.Command | Rejection
    if decode is None:
        known = ", ".join(sorted(_decoders))
        command = intake.malformed(f"verb {verb!r} is not known; there are {known}", "verb")
    else:
        try:
            command = decode(body)
        except msgspec.ValidationError as error:
            field, reason = explain_fault(error)
            command = intake.malformed(reason, field)
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            command = intake.malformed(f"the message is not JSON: {error}")
    fault = token_fault(address.queue, "queue")
    if fault is not None:
        command = intake.malformed(fault, "queue")
    return Asked(address, command, send, len(body))


def open_submit(epoch: int, seq: int, subject: str, body: bytes) -> Submitted:
    """Takes a submit message apart into its elements."""
    return Submitted(epoch, seq, parse_served(subject), intake.split(body), len(body))


class Desk:
    """Everything that a leader decides, message by message, on its partition's state."""

    def __init__(self, state: Partition, clock: Clock, entropy: Callable[[], float]) -> None:
        self.state = state
        self.waiting = Waiting()
        self.handled = state.source
        """The last submit dealt with; the log's own position may be behind while nothing was to record."""
        self.dealt = False
        """Whether a submit was dealt with: until then, the one at the log's position may be there in part."""
        self._clock = clock
        self._entropy = entropy
        self._budget = Budget()
        self._folded: dict[tuple[str, str], RejectionsFolded] = {}
        self._before = self.handled, self._folded
        self._stirred: dict[str, None] = {}
        """Queues in which jobs became ready, in order, so that the same input gives the same records."""
        self._verbs: dict[type[commands.Command], Callable[[Round, Asked, Any], None]] = {
            commands.Acquire: self._acquire,
            commands.Withdraw: self._withdraw,
            commands.Renew: self._renew,
            commands.Start: self._start,
            commands.Complete: self._complete,
            commands.Fail: self._fail,
            commands.Release: self._release,
            commands.Cancel: self._cancel,
            commands.Redrive: self._redrive,
        }

    def begin(self) -> None:
        """Notes, as a round begins, what `take_back` goes back to."""
        self._before = self.handled, dict(self._folded)

    def take_back(self) -> None:
        """Forgets what a round that was not stored had dealt with; its submits will come again."""
        self.handled, self._folded = self._before

    # --- intake -----------------------------------------------------------------------------------------

    def submit(self, round_: Round, message: Submitted) -> None:
        """Accepts or refuses each element. What the log holds of this message already is passed over."""
        self.dealt = True
        known = self.state.source
        resumed = (known.epoch, known.seq) == (message.epoch, message.seq)
        done = known.index if resumed else None
        refused: list[Rejection] = []
        accepted: list[tuple[Source, SubmitJob, str]] = []
        elements = message.elements
        if isinstance(elements, Rejection):
            refused.append(elements)
        else:
            single = len(elements) == 1 and isinstance(elements[0], bytes)
            for index, element in enumerate(elements):
                source = Source(message.epoch, message.seq, index)
                command = intake.parse(element, None if single else index)
                if isinstance(command, SubmitJob):
                    job_id = command.id or derived_job_id(*_place(source))
                    fault = intake.address_fault(message.address.queue, job_id, None if single else index)
                    if fault is None:
                        accepted.append((source, command, job_id))
                        continue
                    command = fault
                refused.append(command)
        last = -1 if isinstance(elements, Rejection) else len(elements) - 1
        if refused and done is None:
            # Ahead of what is accepted, so that no crash leaves the position past an unrecorded refusal.
            self._refuse_submit(round_, message, refused, -1 if accepted else last)
        for source, command, job_id in accepted:
            if done is None or source.index > done:
                self._accept(round_, message.address, source, command, job_id)
        self.handled = Source(message.epoch, message.seq, last)

    def _accept(
        self, round_: Round, address: Addressed, source: Source, command: SubmitJob, job_id: str
    ) -> None:
        existing = self.state.job(address.tenant, address.queue, job_id)
        events = intake.submit(existing, command, round_.now)
        if not events:
            return
        self.flush_folded(round_)
        round_.record(
            address.tenant,
            "job",
            job_key(address.queue, job_id),
            events,
            actor=address.principal,
            vouched=False,
            cause="submit",
            source=source,
            size_bytes=len(bytes(command.input)),
        )
        self._stirred[f"{address.tenant}.{address.queue}"] = None

    def _refuse_submit(self, round_: Round, message: Submitted, refused: list[Rejection], index: int) -> None:
        tenant, principal, _, queue = message.address
        if self._budget.take(f"{tenant}.{principal}", round_.now):
            self.flush_folded(round_)
            named = tuple(refused[: bounds.REFUSALS_NAMED_MAX])
            event = CommandRejected("submit", named, queue, len(refused))
            source = Source(message.epoch, message.seq, index)
            self._note(round_, message.address, event, "submit", source)
            return
        before = self._folded.get((tenant, principal))
        count = len(refused) + (before.count if before else 0)
        self._folded[tenant, principal] = RejectionsFolded(count, refused[-1])
        self.handled = Source(message.epoch, message.seq, index)

    def flush_folded(self, round_: Round) -> None:
        """Records what was refused beyond the budget, before the log's position moves past it."""
        left = len(self._folded)
        for (tenant, principal), event in self._folded.items():
            left -= 1
            who = Addressed(tenant, principal, "submit", "")
            # The position moves with the last of them, so that no crash between leaves one unrecorded.
            self._note(round_, who, event, "submit", None if left else self.handled)
        self._folded.clear()

    @property
    def behind(self) -> bool:
        """Whether submits were dealt with that the log's position does not cover yet."""
        return self.handled != self.state.source

    def settle(self, round_: Round) -> None:
        """Moves the log's position to the last submit dealt with, where nothing else has."""
        if self._folded:
            self.flush_folded(round_)
        elif not round_.records:
            system_record(round_, Barrier(), "settle", self.handled)

    def _note(
        self, round_: Round, address: Addressed, event: Fact, cause: str, source: Source | None = None
    ) -> None:
        """A record about what a principal was refused."""
        round_.record(
            address.tenant,
            "principal",
            address.principal,
            (event,),
            actor=address.principal,
            vouched=False,
            cause=cause,
            source=source,
            size_bytes=len(_encode(event)),
        )

    # --- requests ---------------------------------------------------------------------------------------

    def request(self, round_: Round, asked: Asked) -> None:
        """Decides one request of a worker or an operator."""
        if isinstance(asked.command, Rejection):
            self._refuse(round_, asked, asked.command)
        else:
            self._verbs[type(asked.command)](round_, asked, asked.command)

    def _refuse(self, round_: Round, asked: Asked, rejection: Rejection) -> None:
        tenant, principal, verb, queue = asked.address
        if self._budget.take(f"{tenant}.{principal}", round_.now):
            self._note(round_, asked.address, CommandRejected(verb, (rejection,), queue), verb)
        else:
            rejection = _TRY_LATER
        round_.answer(asked.send, _encode(commands.Answer(rejection, round_.position)))

    def _refuse_reports(
        self, round_: Round, asked: Asked, worker: str, refused: list[RefusedReport]
    ) -> tuple[Rejection, ...]:
        """Records refused reports of one message; the verdicts to answer, or none but `try_later`."""
        if not refused:
            return ()
        tenant, principal, verb, _ = asked.address
        if self._budget.take(f"{tenant}.{principal}", round_.now):
            named = tuple(refused[: bounds.REFUSALS_NAMED_MAX])
            self._note(round_, asked.address, ReportRejected(verb, worker, named), verb)
            return tuple([r.rejection for r in refused])
        return tuple(
            [Rejection(_TRY_LATER.kind, _TRY_LATER.reason, None, r.rejection.index) for r in refused]
        )

    def _job(self, asked: Asked, job_id: str) -> Job | None:
        return self.state.job(asked.address.tenant, asked.address.queue, job_id)

    def _store(
        self, round_: Round, asked: Asked, job: Job, events: tuple[Fact, ...], size_bytes: int
    ) -> None:
        """A record of a job that a request caused."""
        tenant, principal, verb, queue = asked.address
        round_.record(
            tenant,
            "job",
            job.key,
            events,
            actor=principal,
            vouched=False,
            cause=verb,
            size_bytes=size_bytes,
        )
        self._stirred[f"{tenant}.{queue}"] = None

    def _acquire(self, round_: Round, asked: Asked, command: commands.Acquire) -> None:
        tenant, principal, _, queue = asked.address
        until = self._clock.mono_us() + round(command.wait_s * bounds.SECOND_US)
        waiter = Waiter(tenant, principal, queue, command, asked.send, until)
        # Those who wait already have had their chance at what is ready: what is left is not for them.
        if not self._grant(round_, waiter):
            if command.wait_s > 0:
                self.waiting.park(waiter)
            else:
                round_.answer(asked.send, _encode(commands.Acquired()))

    def _withdraw(self, round_: Round, asked: Asked, command: commands.Withdraw) -> None:
        """A worker that stops takes its waiting acquires back, so that nothing is granted to nobody."""
        tenant, principal, _, queue = asked.address
        self._send_away(round_, f"{tenant}.{queue}", principal, command.worker)
        round_.answer(asked.send, _encode(commands.Answer()))

    def _send_away(self, round_: Round, place: str, principal: str, worker: str) -> None:
        for number, waiter in self.waiting.line(place):
            if waiter.principal == principal and waiter.command.worker == worker:
                self.waiting.leave(place, number)
                round_.answer(waiter.send, _encode(commands.Acquired()))

    def _grant(self, round_: Round, waiter: Waiter) -> bool:
        """Leases for one acquire, answered; False where there was no job for it."""
        tenant, queue, command = waiter.tenant, waiter.queue, waiter.command
        ready = self.state.ready(tenant, queue)
        if ready is None:
            return False
        chosen: list[Job] = []
        size_bytes = 0
        for place in ready:
            job = self.state.jobs[place]
            if not lease.wanted(job, command):
                continue
            size_bytes += len(bytes(job.input.plain)) + len(job.task.encode()) + len(job.key) + _LEASE_BYTES
            if chosen and size_bytes > _ACQUIRED_MAX_BYTES:
                break
            chosen.append(job)
            if len(chosen) >= command.count:
                break
        leases = [granted for job in chosen if (granted := self._grant_one(round_, waiter, job)) is not None]
        if not leases:
            return False
        round_.answer(waiter.send, _encode(commands.Acquired(None, round_.position, tuple(leases))))
        return True

    def _grant_one(self, round_: Round, waiter: Waiter, job: Job) -> commands.Lease | None:
        tenant, principal = waiter.tenant, waiter.principal
        if job.records >= bounds.HISTORY_MAX_RECORDS:
            rule = (
                f"the history holds {job.records} records; at most {bounds.HISTORY_MAX_RECORDS} are allowed"
            )
            event = JobDeadLettered(DeadReason.HISTORY_LIMIT, rule)
            round_.record(tenant, "job", job.key, (event,), actor=ORCHESTRATOR, cause="acquire")
            return None
        actor = round_.actor_of(tenant, job.key)
        record = None
        if actor is not None:
            record = round_.extend(tenant, job.key, lease.grant(job, waiter.command, principal, actor))
        if record is None:
            events = lease.grant(job, waiter.command, principal, principal)
            record = round_.record(
                tenant, "job", job.key, events, actor=principal, vouched=False, cause="acquire"
            )
        now = self.state.jobs[f"{tenant}.{job.key}"]
        return commands.Lease(
            now.id,
            now.task,
            now.last_token,
            now.attempt,
            msgspec.Raw(unseal(now.input)),
            now.limits.lease_s,
            now.limits.attempt_timeout_s,
        )

    def match(self, round_: Round) -> None:
        """Gives jobs that became ready to those who wait for them."""
        for place in tuple(self._stirred):
            for number, waiter in self.waiting.line(place):
                if self.state.ready(waiter.tenant, waiter.queue) is None:
                    break
                if not round_.has_room(waiter.command.count, _ACQUIRED_MAX_BYTES // 2):
                    return  # this queue and the others that are left have their turn in the next round
                if self._grant(round_, waiter):
                    self.waiting.leave(place, number)
            del self._stirred[place]

    @property
    def unmatched(self) -> bool:
        """Whether jobs became ready that nobody was matched with yet."""
        return bool(self._stirred)

    def _renew(self, round_: Round, asked: Asked, command: commands.Renew) -> None:
        tenant, principal, verb, queue = asked.address
        lost: list[RefusedReport] = []
        live: list[Renewal] = []
        cancel: list[str] = []
        for index, held in enumerate(command.leases):
            key = job_key(queue, held.id)
            job = self._job(asked, held.id)
            void = lease.fence(job, held.token, principal, index)
            if void is not None:
                lost.append(RefusedReport(key, held.token, void))
                continue
            live.append(Renewal(key, held.token))
            if job is not None and job.cancel is not None:
                cancel.append(held.id)
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
        answer = commands.Renewed(None, round_.position, verdicts, tuple(cancel))
        round_.answer(asked.send, _encode(answer), verdict_only=not live)

    def _reports(
        self,
        round_: Round,
        asked: Asked,
        worker: str,
        decided: Iterable[tuple[str, int, Job | None, tuple[Fact, ...] | Repeated | Rejection, int]],
    ) -> None:
        """Stores what was decided of each report, and answers the message. Decides lazily, one at a time."""
        refused: list[RefusedReport] = []
        stored = 0
        for job_id, token, job, outcome, size_bytes in decided:
            if isinstance(outcome, Rejection):
                refused.append(RefusedReport(job_key(asked.address.queue, job_id), token, outcome))
            elif not isinstance(outcome, Repeated):
                assert job is not None
                self._store(round_, asked, job, outcome, size_bytes)
                stored += 1
        verdicts = self._refuse_reports(round_, asked, worker, refused)
        answer = commands.Reported(None, round_.position, verdicts)
        round_.answer(asked.send, _encode(answer), verdict_only=not stored)

    def _complete(self, round_: Round, asked: Asked, command: commands.Complete) -> None:
        principal = asked.address.principal
        self._reports(
            round_,
            asked,
            command.worker,
            (
                (
                    r.id,
                    r.token,
                    job := self._job(asked, r.id),
                    lease.complete(job, r, principal, i),
                    _size(r.output),
                )
                for i, r in enumerate(command.reports)
            ),
        )

    def _fail(self, round_: Round, asked: Asked, command: commands.Fail) -> None:
        who, now = asked.address.principal, round_.now
        self._reports(
            round_,
            asked,
            command.worker,
            (
                (
                    r.id,
                    r.token,
                    job := self._job(asked, r.id),
                    lease.fail(job, r, who, i, now, self._entropy()),
                    len(r.text) * 6,
                )
                for i, r in enumerate(command.reports)
            ),
        )

    def _start(self, round_: Round, asked: Asked, command: commands.Start) -> None:
        principal = asked.address.principal
        self._reports(
            round_,
            asked,
            command.worker,
            (
                (h.id, h.token, job := self._job(asked, h.id), lease.start(job, h.token, principal, i), 0)
                for i, h in enumerate(command.leases)
            ),
        )

    def _release(self, round_: Round, asked: Asked, command: commands.Release) -> None:
        who, why = asked.address.principal, command.reason
        self._reports(
            round_,
            asked,
            command.worker,
            (
                (
                    h.id,
                    h.token,
                    job := self._job(asked, h.id),
                    lease.release(job, h.token, who, why, i),
                    len(why),
                )
                for i, h in enumerate(command.leases)
            ),
        )

    def _cancel(self, round_: Round, asked: Asked, command: commands.Cancel) -> None:
        job = self._job(asked, command.id)
        self._control(round_, asked, job, control.cancel(job, command))

    def _redrive(self, round_: Round, asked: Asked, command: commands.Redrive) -> None:
        job = self._job(asked, command.id)
        self._control(round_, asked, job, control.redrive(job, command))

    def _control(
        self, round_: Round, asked: Asked, job: Job | None, outcome: tuple[Fact, ...] | Rejection
    ) -> None:
        if isinstance(outcome, Rejection):
            self._refuse(round_, asked, outcome)
            return
        if outcome:
            assert job is not None
            self._store(round_, asked, job, outcome, bounds.REASON_MAX_CHARS)
        answer = commands.Answer(None, round_.position)
        round_.answer(asked.send, _encode(answer), verdict_only=not outcome)

    # --- time -------------------------------------------------------------------------------------------

    def fire(self, round_: Round) -> None:
        """Everything whose time has come, as far as the round has room."""
        deadlines, jobs = self.state.deadlines, self.state.jobs
        while round_.has_room(1, 0):
            place = deadlines.pop(round_.now)
            if place is None:
                return
            job = jobs[place]
            events = timers.due(job, round_.now, self._entropy())
            if not events:
                self.state.rearm(place)
                continue
            if isinstance(events[0], LeaseExpired) and job.lease is not None:
                # Its holder is gone: what it still waits for would be lost on it as well.
                self._send_away(round_, f"{job.tenant}.{job.queue}", job.lease.principal, job.lease.worker)
            cause = f"record:{job.since}"
            round_.record(job.tenant, "job", job.key, events, actor=ORCHESTRATOR, cause=cause)
            self._stirred[f"{job.tenant}.{job.queue}"] = None

    def dismiss(self, round_: Round) -> None:
        """Answers those whose wait is over with no lease."""
        for waiter in self.waiting.over(self._clock.mono_us()):
            round_.answer(waiter.send, _encode(commands.Acquired()))


def _place(source: Source) -> tuple[int, int, int]:
    return source.epoch, source.seq, source.index


def _size(content: msgspec.Raw) -> int:
    return len(bytes(content))
