"""The desk: everything that a leader decides, message by message and deadline by deadline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from writ.broker.clock import Clock
from writ.schemas import bounds, commands
from writ.schemas.access import denied
from writ.schemas.events import LeaseExpired
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.sealed import Keys

from .access_desk import AccessDesk
from .alarm_desk import AlarmDesk
from .asset_desk import AssetDesk
from .canary_desk import CanaryDesk
from .control_desk import ControlDesk
from .decide import timers
from .hosting_desk import HostingDesk
from .incidents import Incidents
from .intake_desk import Dealt, IntakeDesk
from .keeping_desk import KeepingDesk
from .lease_desk import LeaseDesk
from .link_desk import LinkDesk
from .messages import Asked
from .office import Office, encode
from .operating import Operating
from .release_desk import ReleaseDesk
from .round import Round
from .schedule_desk import ScheduleDesk
from .shard_desk import ShardDesk
from .state import Partition
from .tenant_desk import TenantDesk
from .upgrade_desk import UpgradeDesk


class Desk:
    """One leadership's desks over one state. Each call decides within a round, and stores nothing itself."""

    def __init__(
        self,
        state: Partition,
        clock: Clock,
        entropy: Callable[[], float],
        keys: Keys | None = None,
        live_max: int = bounds.LIVE_MAX,
    ) -> None:
        self.state = state
        self.office = Office(state, clock, entropy, keys, live_max)
        self.intake = IntakeDesk(self.office)
        self.leases = LeaseDesk(self.office, self.intake.dealt_to)
        self.operating = Operating(self.office)
        self.schedules = ScheduleDesk(self.office)
        self.links = LinkDesk(self.office)
        self.shards = ShardDesk(self.office, lambda: self.intake.handled)
        self.incidents = Incidents(state)
        self.canaries = CanaryDesk(self.office)
        self.access = AccessDesk(self.office)
        self.hosting = HostingDesk(self.office)
        self._verbs: dict[type[commands.Command], Callable[[Round, Asked, Any], None]] = {
            **self.leases.verbs,
            **self.schedules.verbs,
            **ControlDesk(self.office, self.operating).verbs,
            **KeepingDesk(self.office).verbs,
            **TenantDesk(self.office).verbs,
            **self.hosting.verbs,
            **self.shards.verbs,
            **ReleaseDesk(self.office).verbs,
            **AlarmDesk().verbs,
            **AssetDesk(self.office).verbs,
            **UpgradeDesk(self.office).verbs,
            **self.access.verbs,
        }
        self.office.consequences.recover()
        self.links.recover()
        self.incidents.recover()
        self.hosting.recover()

    def begin(self) -> Dealt:
        """A round begins: what `take_back` goes back to."""
        return self.intake.begin()

    def take_back(self, dealt: Dealt) -> None:
        """A round was not stored, and the state is as it was: so is what the desks remember."""
        self.intake.take_back(dealt)
        self.operating.recover()
        self.office.consequences.recover()
        self.links.recover()
        self.shards.recover()
        self.incidents.recover()
        self.hosting.recover()

    def request(self, round_: Round, asked: Asked) -> None:
        """Decides one request of a worker or an operator."""
        tenant, _, _, queue = asked.address
        home = self.state.links.shards.home(tenant, queue)
        if home != self.state.number:  # it came while its shard moved
            elsewhere = Rejection(
                RejectionKind.TRY_LATER, f"queue {queue} is in partition {home} by now; ask again"
            )
            round_.tell(asked.send, encode(commands.Answer(elsewhere)))
            return
        denial = self.office.guard.denial(asked, round_.now)
        if denial is not None:
            resource, decision = denial
            why = denied(asked.address.principal, asked.address.verb, resource, decision)
            self.office.deny(round_, asked, resource, why)
        elif isinstance(asked.command, Rejection):
            self.office.refuse(round_, asked, asked.command)
        else:
            self._verbs[type(asked.command)](round_, asked, asked.command)

    def fire(self, round_: Round) -> None:
        """Everything whose time has come, as far as the round has room."""
        self.office.wake_rated(round_.now)
        self.schedules.fire(round_)
        self.office.tell_denials(round_)
        state = self.state
        while round_.has_room(1, 0):
            place = state.deadlines.pop(round_.now)
            if place is None:
                return
            job = state.jobs[place]
            queue = state.queue(place.partition("~")[0])
            events = timers.due(job, queue, round_.now, self.office.entropy())
            if not events:
                state.rearm(place)
                continue
            if isinstance(events[0], LeaseExpired) and job.lease is not None:
                # Its holder is gone: what it still waits for would be lost on it as well.
                queue_place = place.partition("~")[0]
                self.leases.send_away(round_, queue_place, job.lease.principal, job.lease.worker)
            self.office.store(round_, job.tenant, job.key, events, cause=f"record:{job.since}")

    def finish(self, round_: Round) -> None:
        """What follows from the round's own decisions: consequences, grants, and ended waits."""
        self.operating.advance(round_)
        self.office.consequences.follow(round_)
        self.leases.match(round_)
        if self.shards.flush(round_):
            self.leases.turn_away(round_)
        # Behind whatever records what becomes of a job.
        self.canaries.flush(round_)
        self.links.flush(round_)
        self.incidents.flush(round_)
        self.hosting.flush(round_)
        self.leases.dismiss(round_)
        self.links.flush(round_)

    @property
    def unfinished(self) -> bool:
        """Whether something that follows found no room in the last round."""
        return (
            bool(self.office.consequences)
            or bool(self.links)
            or bool(self.incidents)
            or self.canaries.hurries
            or bool(self.office.stirred)
            or self.operating.hurries
        )

    def next_wake(self) -> int | None:
        """Log time at which a rate lets something through that waits for it, or counted denials are told."""
        wakes = [w for w in self._wakes() if w is not None]
        return min(wakes) if wakes else None

    def _wakes(self) -> tuple[int | None, ...]:
        office = self.office
        return office.next_rate_wake(), self.operating.next_wake(), office.denials.next_at()
