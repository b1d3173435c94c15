"""Submits: each element becomes a job, stands for one that is there, or is refused."""

from __future__ import annotations

from collections import Counter
from functools import partial

from writ.broker.coding import encoded_by
from writ.schemas import bounds
from writ.schemas.access import Resource, denied
from writ.schemas.commands import SubmitJob
from writ.schemas.events import (
    Barrier,
    CancelRequested,
    CommandRejected,
    Fact,
    RejectionsFolded,
)
from writ.schemas.ids import job_key
from writ.schemas.lifecycle import Job
from writ.schemas.principals import AccessDenied
from writ.schemas.processes import named
from writ.schemas.records import NO_SOURCE, Source
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.subjects import Addressed

from .decide import depend, intake, quotas
from .decide.death import cancelled
from .decide.release import at_submit
from .messages import Element, Marked, Submitted
from .office import Office, encode, size_of
from .round import Round, system_record

Dealt = tuple[dict[str, Source], dict[tuple[str, str], RejectionsFolded]]
"""The last submit dealt with of each tenant, and refusals that are counted but not recorded yet."""


class IntakeDesk:
    """Deals with submits in their order, and knows how far it has come."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._state = office.state
        self.handled = dict(office.state.sources)
        """The last submit dealt with of each tenant; the log may be behind while nothing was to record."""
        self.dealt: set[str] = set()
        """Tenants of which one was dealt with: before, that at the log's position may be there in part."""
        self.secret: dict[int, str] = {}
        """Submits whose content was sealed, or refused where it would have been: by sequence, the tenant."""

        self._folded: dict[tuple[str, str], RejectionsFolded] = {}

    def begin(self) -> Dealt:
        """What `take_back` goes back to, as a round begins."""
        return dict(self.handled), dict(self._folded)

    def take_back(self, dealt: Dealt) -> None:
        """Forgets what a round that was not stored had dealt with; its submits will come again."""
        handled, folded = dealt
        self.handled, self._folded = dict(handled), dict(folded)

    def submit(self, round_: Round, message: Submitted) -> None:
        """Accepts or refuses each element. What the log holds of this message already is passed over."""
        tenant, principal, _, queue = message.address
        self.dealt.add(tenant)
        if not self._state.links.shards.takes(tenant, queue, message.epoch, message.seq):
            self._reached(tenant, Source(message.epoch, message.seq, message.last))
            return
        self._note_secrets(message)
        known = self._state.sources.get(tenant, NO_SOURCE)
        if not self._office.guard.permits(tenant, principal, "submit", queue, round_.now):
            self._deny(round_, message)
            return
        resumed = (known.epoch, known.seq) == (message.epoch, message.seq)
        done = known.index if resumed else None
        if message.refused and done is None:
            # Ahead of what is accepted, so that no crash leaves the position past an unrecorded refusal.
            self._refuse(round_, message, message.refused, -1 if message.sound else message.last)
        late: list[Rejection] = []
        for element in message.sound:
            if done is None or element.source.index > done:
                refused = self._accept(round_, message.address, element, message.many)
                if refused is not None:
                    late.append(refused)
        if late:
            # What the state refuses is known only in its turn: the message is stored whole or not at all.
            round_.whole = True
            self._refuse(round_, message, late, message.last)
        self._reached(tenant, Source(message.epoch, message.seq, message.last))

    def meet(self, marked: Marked) -> None:
        """The position goes past a mark too, or that would be there until its tenant submits again."""
        self.dealt.add(marked.mark.tenant)
        self._reached(marked.mark.tenant, Source(marked.epoch, marked.seq, 0))

    def dealt_to(self, tenant: str) -> int:
        """The last submit of a tenant that was dealt with, if this leadership has dealt with any; else 0."""
        return self.handled[tenant].seq if tenant in self.dealt else 0

    def _reached(self, tenant: str, source: Source) -> None:
        """All submits of a tenant up to there are dealt with."""
        self.handled[tenant] = max(self.handled.get(tenant, NO_SOURCE), source)

    def _note_secrets(self, message: Submitted) -> None:
        """Remembers a message whose bytes must not stay in the intake."""
        tenant, _, _, queue = message.address
        asked_for = self._office.sealing.asked_for
        commands = [each.command for each in message.sound]
        if any(asked_for(tenant, queue, each.data_subject, each.reproduces) for each in commands):
            self.secret[message.seq] = tenant

    def _accept(self, round_: Round, address: Addressed, element: Element, many: bool) -> Rejection | None:
        tenant, principal, _, queue = address
        command, place = element.command, f"{tenant}.{queue}"
        index = element.source.index if many else None
        known_job = self._state.job(tenant, queue, element.job_id)
        if known_job is not None:
            return self._once_more(command, known_job, index)
        policy = self._state.queue(place)
        find = partial(self._state.find, tenant)
        refused = self._office.guard.naming(address, command, round_.now, index)
        if refused is None:
            live, shared = self._state.jobs.live, len(self._state.governed) > 1
            own = self._state.usage.of(tenant).jobs if shared else None
            refused = intake.full(live, self._office.live_max, self._office.no_room, index, own)
        if refused is not None:
            return refused
        known = find if command.reproduces is None else partial(self._plain, tenant, command.reproduces.job)
        refused = intake.refusal(command, policy, self._state.pending_in(place), known, index)
        if refused is not None:
            return refused
        lanes = policy.policy.lanes
        refused = intake.off_lane(queue, lanes, command.unique_key, command.batch, index)
        if refused is not None:
            return refused
        process: str | None = None
        if command.process is not None:
            known_process = self._state.processes.get(f"{tenant}.{named(command.process).process}")
            told = at_submit(command.process, known_process, index)
            if isinstance(told, Rejection):
                return told
            process = told
        clash = None if command.unique_key is None else self._state.unique(place, command.unique_key)
        if clash is not None:
            refused = intake.clashes(command, clash, policy.policy.on_clash, index)
            if refused is not None:
                return refused
        standing = self._state.standing(tenant)
        if standing is not None:
            reserve = command.reserve_microusd or policy.policy.reserve_microusd
            refused = quotas.refuses(standing, size_of(command.input), reserve, round_.now, index)
            if refused is not None:
                return refused
        self.flush_folded(round_)
        if clash is not None:
            self._replace(round_, clash, element.job_id)
        key = job_key(queue, element.job_id)
        self._office.store(
            round_,
            tenant,
            key,
            intake.submit(command, policy, round_.now, process=process),
            actor=principal,
            cause="submit",
            source=element.source,
            size_bytes=size_of(command.input),
            data_subject=command.data_subject,
            trace=command.trace,
        )
        self._hold_back(round_, tenant, key, command, find)
        return None

    def _once_more(self, command: SubmitJob, job: Job, index: int | None) -> Rejection | None:
        """What is said of a submit whose id is that of a job: nothing where it is the same one once more."""
        sealing, sent = self._office.sealing, bytes(command.input)
        digest = sealing.seal_of(job)(sent).digest
        content = sealing.open(job.input) if job.first_input is None else None
        if content is not None and encoded_by(content) is not None and encoded_by(sent) is not None:
            digest = ""  # a cipher of the submitter's own says the same in other bytes each time
        return intake.another(command, job, content, digest, index)

    def _plain(self, tenant: str, reproduced: str, key: str) -> depend.Known | None:
        """A job by its key; the one that is to be reproduced with its content in plain, to be compared."""
        found = self._state.find(tenant, key)
        if key == reproduced and isinstance(found, Job):
            return self._office.sealing.revealed(found)
        return found

    def _hold_back(self, round_: Round, tenant: str, key: str, command: SubmitJob, find: depend.Find) -> None:
        """Ends or suspends a job, as others or a person have it, in the record that accepts it."""
        job = self._state.jobs[f"{tenant}.{key}"]
        events: tuple[Fact, ...] = ()
        parent = None if command.parent is None else find(command.parent)
        if parent is not None:
            events = depend.on_parent_ended(job, parent)
        if not events and command.after:
            events = depend.on_submit(job, find)
        if not events:
            events = depend.ask_approval(command.approval, round_.now)
        if events:
            round_.extend(tenant, key, events)
            self._office.after_change(tenant, key)

    def _replace(self, round_: Round, clash: Job, by: str) -> None:
        """Ends the live job that has the unique key, a running one by request."""
        reason = f"replaced by {by}, which has its unique_key"
        asked: tuple[Fact, ...] = () if clash.cancel is not None else (CancelRequested(reason),)
        runs_on = clash.lease is not None or clash.compensation is not None
        ended: tuple[Fact, ...] = () if runs_on else (cancelled(clash, reason),)
        if asked or ended:
            self._office.store(round_, clash.tenant, clash.key, asked + ended, cause="submit")

    # --- what is refused, and the position ----------------------------------------------------------------

    def _refuse(self, round_: Round, message: Submitted, refused: list[Rejection], index: int) -> None:
        queue = message.address.queue
        source = Source(message.epoch, message.seq, index)
        answers = any(each.kind is RejectionKind.DUPLICATE for each in refused)
        if answers or self._office.may_refuse(message.address, round_.now):
            self.flush_folded(round_)
            event = CommandRejected("submit", _named(refused), queue, len(refused))
            self._office.note(round_, message.address, event, "submit", source)
            return
        self._fold(message.address, len(refused), refused[-1])
        self._reached(message.address.tenant, source)

    def _deny(self, round_: Round, message: Submitted) -> None:
        """Refuses a submit whole, as its principal may not submit there: told once, with its first part."""
        address = message.address
        if message.part:
            self._reached(address.tenant, Source(message.epoch, message.seq, message.last))
            return
        resource = Resource(address.tenant, address.queue)
        decision = self._office.guard.decide(*address[:3], resource, round_.now)
        source = Source(message.epoch, message.seq, message.last)
        why = denied(address.principal, address.verb, resource, decision)
        if self._office.may_refuse(address, round_.now):  # each one, as its sender waits to hear of it
            self.flush_folded(round_)
            event = AccessDenied(address.verb, str(resource), why, decision.rule)
            self._office.note(round_, address, event, address.verb, source)
        else:
            self._fold(address, 1, why)
        self._reached(address.tenant, source)

    def _fold(self, address: Addressed, count: int, last: Rejection) -> None:
        """Counts refusals that are beyond what is recorded of a principal."""
        who = (address.tenant, address.principal)
        before = self._folded.get(who)
        self._folded[who] = RejectionsFolded(count + (before.count if before else 0), last)

    def flush_folded(self, round_: Round) -> None:
        """Records what was refused beyond the budget, before the log's position moves past it."""
        left = Counter(tenant for tenant, _ in self._folded)
        for (tenant, principal), event in self._folded.items():
            left[tenant] -= 1
            who = Addressed(tenant, principal, "submit", "")
            # A tenant's position moves with its last, so that no crash between leaves one unrecorded.
            source = None if left[tenant] else self.handled[tenant]
            self._office.note(round_, who, event, "submit", source)
        self._folded.clear()

    @property
    def behind(self) -> bool:
        """Whether submits were dealt with that the log's position does not cover yet."""
        return self.handled != self._state.sources

    def settle(self, round_: Round) -> None:
        """Moves each tenant's position to the last submit dealt with, where nothing else has."""
        self.flush_folded(round_)
        moved = {record.tenant for record in round_.records if record.source is not None}
        for tenant, source in self.handled.items():
            if tenant not in moved and self._state.sources.get(tenant) != source and round_.has_room(1, 0):
                system_record(round_, Barrier(), "settle", source, tenant)


def _named(refused: list[Rejection]) -> tuple[Rejection, ...]:
    """Those that the record names: so many, and all for which another job stands, as far as they fit.

    The senders of those wait to hear which job it is.
    """
    named: list[Rejection] = []
    room, others = bounds.INLINE_MAX_BYTES, bounds.REFUSALS_NAMED_MAX
    for each in refused:
        if each.kind is RejectionKind.DUPLICATE:
            room -= len(encode(each))
            fits = room >= 0
        else:
            others -= 1
            fits = others >= 0
        if fits:
            named.append(each)
    return tuple(named)
