"""What the desks share: the state, the budget for refusals, and how a decision becomes a record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from writ.broker.clock import Clock
from writ.broker.vault import Vault
from writ.schemas import bounds, commands
from writ.schemas.access import Resource, rule_in
from writ.schemas.events import CommandRejected, Fact
from writ.schemas.lifecycle import TERMINAL, Job
from writ.schemas.principals import AccessDenied
from writ.schemas.records import Record, Source
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.sealed import Keys
from writ.schemas.subjects import Addressed

from .consequences import ORCHESTRATOR, Consequences
from .decide import quotas
from .decide.intake import off_lane
from .guard import Denials, Guard
from .logtime import Budget
from .messages import Asked
from .round import Round
from .sealing import Sealing
from .state import Partition

encode = msgspec.json.Encoder().encode
TRY_LATER = Rejection(
    RejectionKind.TRY_LATER,
    f"too many refusals: {bounds.REFUSALS_BURST} at once and {bounds.REFUSALS_PER_S:g} a second are recorded "
    "of a principal; nothing was decided, ask again later",
)


REPEATS: Final = "denials"
"""The cause of a record that tells of a denial's repeats."""


class Office:
    """One leadership's memory beside the state: nothing in it is owed to anybody after a change of leader."""

    def __init__(
        self,
        state: Partition,
        clock: Clock,
        entropy: Callable[[], float],
        keys: Keys | None = None,
        live_max: int = bounds.LIVE_MAX,
    ) -> None:
        self.state = state
        self.live_max = live_max
        self.no_room: str | None = None
        """Why submits are refused now, if they are."""

        self.sealing = Sealing(state, keys or Vault())
        self.clock = clock
        self.entropy = entropy
        self.budget = Budget()
        self.guard = Guard(state)
        self.denials = Denials()
        self.consequences = Consequences(state)
        self.stirred: dict[str, None] = {}
        """Queues, as `<tenant>.<queue>`, in which a job may have become ready or a slot free."""

        self.rate_wakes: dict[str, int] = {}
        """Log time at which a queue's rate allows the next lease, where somebody waits for it."""

        self.held: dict[str, dict[str, None]] = {}
        """By tenant, the queues in which a lease was not granted for the sake of the tenant's quotas."""

    def stir(self, place: str) -> None:
        """Something changed for those who wait for leases of a queue."""
        self.stirred[place] = None

    def stir_tenant(self, tenant: str) -> None:
        """Something changed for all who wait for leases in a tenant."""
        for place in self.state.queues_with_jobs(tenant):
            self.stir(place)

    def store(
        self,
        round_: Round,
        tenant: str,
        key: str,
        events: tuple[Fact, ...],
        *,
        cause: str,
        actor: str = ORCHESTRATOR,
        source: Source | None = None,
        size_bytes: int = 0,
        data_subject: str | None = None,
        trace: str | None = None,
    ) -> Record:
        """A record of a job, its content sealed where that is asked for, with what follows from it noted."""
        vouched = None if actor == ORCHESTRATOR else False
        plain, events = events, self.sealing.sealed(tenant, key, events, data_subject)
        if events is not plain:
            size_bytes = 3 * size_bytes // 2  # base64, and what is around it
        record = round_.record(
            tenant,
            "job",
            key,
            events,
            actor=actor,
            vouched=vouched,
            cause=cause,
            source=source,
            size_bytes=size_bytes,
            trace=trace,
        )
        self.after_change(tenant, key)
        return record

    def after_change(self, tenant: str, key: str) -> None:
        """Notes what may follow from a job's change."""
        place = f"{tenant}.{key}"
        job = self.state.jobs[place]
        self.stirred[place.partition("~")[0]] = None
        if tenant in self.held:
            self.stir_held(tenant)
        if job.state in TERMINAL:
            self.consequences.ended(place, job)

    def hold(self, place: str, now: int) -> None:
        """A queue's tenant may start no more now: looked at again as that changes, or its period ends."""
        tenant = place.partition(".")[0]
        self.held.setdefault(tenant, {})[place] = None
        account = self.state.accounts.get(tenant)
        budget = None if account is None else account.limits.budget
        end = None if budget is None else budget.period.end(now)
        if end is not None:
            self.rate_wakes[place] = min(end, self.rate_wakes.get(place, end))

    def stir_held(self, tenant: str) -> None:
        """What a tenant uses, or may use, has changed."""
        self.stirred |= self.held.pop(tenant, {})

    def note(
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
            size_bytes=len(encode(event)),
        )

    def may_refuse(self, address: Addressed, now: int) -> bool:
        """Whether another refusal of this principal is recorded singly."""
        return self.budget.take(f"{address.tenant}.{address.principal}", now)

    def deny(self, round_: Round, asked: Asked, resource: Resource, rejection: Rejection) -> None:
        """Records and answers what a principal may not do; repeats are counted and told of later."""
        address, rule = asked.address, rule_in(rejection)
        if self.denials.first(address, str(resource), rule, rejection, round_.now):
            event = AccessDenied(address.verb, str(resource), rejection, rule)
            self.note(round_, address, event, address.verb)
        round_.answer(asked.send, encode(commands.Answer(rejection, round_.position)), verdict_only=True)

    def tell_denials(self, round_: Round) -> None:
        """Records the repeats whose time to be told has come."""
        for tenant, principal, event in self.denials.over(round_.now):
            self.note(round_, Addressed(tenant, principal, event.operation, ""), event, REPEATS)
            if not round_.has_room(1, 0):
                return

    def refuse(self, round_: Round, asked: Asked, rejection: Rejection) -> None:
        """Records and answers a refused request; beyond the budget nothing is decided."""
        if self.may_refuse(asked.address, round_.now):
            event = CommandRejected(asked.address.verb, (rejection,), asked.address.queue)
            self.note(round_, asked.address, event, asked.address.verb)
        else:
            rejection = TRY_LATER
        round_.answer(asked.send, encode(commands.Answer(rejection, round_.position)))

    def record(self, round_: Round, asked: Asked, kind: str, key: str, events: tuple[Fact, ...]) -> None:
        """Stores what was decided on a request, if anything is to be stored."""
        tenant, principal, verb, _ = asked.address
        if events:
            round_.record(
                *(tenant, kind, key, events),
                actor=principal,
                vouched=False,
                cause=verb,
                size_bytes=asked.size_bytes,
            )

    def recorded(self, round_: Round, asked: Asked, kind: str, key: str, events: tuple[Fact, ...]) -> None:
        """Stores what was decided, if anything is to be stored, and answers."""
        self.record(round_, asked, kind, key, events)
        answer = commands.Answer(None, round_.position)
        round_.answer(asked.send, encode(answer), verdict_only=not events)

    def job(self, asked: Asked, job_id: str) -> Job | None:
        """A job of the request's queue."""
        return self.state.job(asked.address.tenant, asked.address.queue, job_id)

    def reopening_clash(self, job: Job | None) -> Rejection | None:
        """Why an ended job cannot be opened again: erased content, a quota, or its unique key is taken."""
        if job is not None and job.input.key in self.state.erased:
            reason = f"the input of job {job.id} was erased, by record {self.state.erased[job.input.key]}"
            return Rejection(RejectionKind.CONFLICT, reason)
        if job is None or job.state not in TERMINAL:
            return None
        standing = self.state.standing(job.tenant)
        over = None if standing is None else quotas.reopens(standing, job.input.size_bytes)
        if over is not None or job.unique_key is None:
            return over
        place = f"{job.tenant}.{job.queue}"
        elsewhere = off_lane(job.queue, self.state.queue(place).policy.lanes, job.unique_key, None)
        if elsewhere is not None:
            return elsewhere  # it ended before the queue had lanes
        live = self.state.unique(place, job.unique_key)
        if live is None:
            return None
        reason = f"unique_key {job.unique_key} belongs to the live job {live.key}; one at a time may have it"
        return Rejection(RejectionKind.CONFLICT, reason, "unique_key")

    def next_rate_wake(self) -> int | None:
        """Log time at which a rate lets the next lease through to somebody who waits."""
        return min(self.rate_wakes.values()) if self.rate_wakes else None

    def wake_rated(self, now: int) -> None:
        """Stirs the queues whose rate allows another lease."""
        for place in [p for p, at in self.rate_wakes.items() if at <= now]:
            del self.rate_wakes[place]
            self.stir(place)


def size_of(content: msgspec.Raw | msgspec.UnsetType) -> int:
    """Bytes of raw JSON."""
    return 0 if isinstance(content, msgspec.UnsetType) else memoryview(content).nbytes
