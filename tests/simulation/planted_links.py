"""Bugs planted into what partitions say to each other."""

# Bugs reach for what is private, and what they put in its place has its types.
# pyright: reportPrivateUsage=false, reportUnknownLambdaType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from typing import Any

from writ.orchestrator.consequences import Consequences
from writ.orchestrator.link_desk import LinkDesk
from writ.orchestrator.links import Links
from writ.schemas.lifecycle import TERMINAL
from writ.schemas.links import NOTHING, JobTold

from .planted import Patch, bug
from .planted_governing import BUGS as BUGS  # noqa: PLC0414 - with these among them


@bug
def messages_accepted_again(patch: Patch) -> None:
    """What is read again is taken for new, and the fold lets it pass."""
    honest = LinkDesk.hear
    fold = Links.evolve

    def hear(self: LinkDesk, round_: Any, linked: Any) -> None:
        self._links.accepted.pop(linked.partition, None)
        honest(self, round_, linked)

    def evolve(self: Links, record: Any, undo: Any) -> None:
        self.accepted[int(record.key)] = NOTHING
        fold(self, record, undo)

    patch(LinkDesk, "hear", hear)
    patch(Links, "evolve", evolve)


@bug
def questions_lost_with_their_leader(patch: Patch) -> None:
    """A new leader does not see which jobs of other partitions nobody has asked for yet."""

    def recover(self: LinkDesk) -> None:
        self._tells = dict.fromkeys(self._links.watched)

    patch(LinkDesk, "recover", recover)


@bug
def ends_told_only_once(patch: Patch) -> None:
    """Whoever was told of an end is not told that the job was opened again, nor of its next end."""
    honest = LinkDesk._due

    def due(self: LinkDesk, place: str, now: int) -> list[tuple[int, JobTold]]:
        watchers = self._links.watched.get(place, {})
        return [(partition, told) for partition, told in honest(self, place, now) if not watchers[partition]]

    patch(LinkDesk, "_due", due)


@bug
def told_and_not_acted_on(patch: Patch) -> None:
    """What another partition says of its job is kept, and nobody looks whom it concerns."""
    patch(Consequences, "told", lambda self, place: None)


@bug
def positions_of_other_logs_lost(patch: Patch) -> None:
    """A new leader passes over what stands right behind the newest message accepted, and what was settled."""

    def read_from(self: Links, partition: int, epoch: int) -> int:
        return self.accepted_from(partition).seq + 8

    patch(Links, "read_from", read_from)


@bug
def open_jobs_told_as_ended(patch: Patch) -> None:
    """A question is answered at once, as if every job that is known had completed."""
    honest = LinkDesk._due

    def due(self: LinkDesk, place: str, now: int) -> list[tuple[int, JobTold]]:
        job = self._state.jobs.get(place)
        if job is None or job.state in TERMINAL:
            return honest(self, place, now)
        tenant, _, key = place.partition(".")
        told = JobTold(tenant, key, max(1, job.since), "completed")  # type: ignore[arg-type]
        return [(partition, told) for partition, last in self._links.watched[place].items() if not last]

    patch(LinkDesk, "_due", due)
