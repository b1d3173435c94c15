"""What operators ask about keeping and erasing: erasure of content, and holds that forbid it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from writ.schemas import commands
from writ.schemas.events import ContentErased, Fact, HoldLifted, HoldPlaced
from writ.schemas.ids import job_key
from writ.schemas.lifecycle import TERMINAL, Job, State
from writ.schemas.operations import matches
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.sealed import UNSEALED
from writ.schemas.submits import content_fault, malformed

from .messages import Asked
from .office import Office, encode
from .round import Round


class KeepingDesk:
    """Each erasure is a record of its own; the key goes when that is stored."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._state = office.state
        self.verbs: dict[type[commands.Command], Callable[[Round, Asked, Any], None]] = {
            commands.Erase: self._erase,
            commands.PlaceHold: self._place_hold,
            commands.LiftHold: self._lift_hold,
        }

    def _erase(self, round_: Round, asked: Asked, command: commands.Erase) -> None:
        keys = self._keys(asked, command)
        if isinstance(keys, Rejection):
            self._office.refuse(round_, asked, keys)
            return
        tenant = asked.address.tenant
        meant: dict[str, list[Job]] = {key: [] for key in keys}
        for job in self._state.jobs.walk(tuple(State), sealed=True) if keys else ():
            if job.tenant == tenant and job.input.key in meant:
                meant[job.input.key].append(job)
        for jobs in meant.values():
            for job in jobs:
                refused = self._why_not(job)
                if refused is not None:
                    self._office.refuse(round_, asked, refused)
                    return
        for key, jobs in meant.items():
            self._record(round_, asked, "subject", key, (ContentErased(len(jobs), command.reason),))
        count = sum(len(jobs) for jobs in meant.values())
        tenant, _, _, queue = asked.address
        beside = () if command.id is not None else self._state.links.shards.beside(tenant, queue)
        answer = commands.Erased(None, round_.position, count, beside)
        round_.answer(asked.send, encode(answer), verdict_only=not meant)

    def _keys(self, asked: Asked, command: commands.Erase) -> list[str] | Rejection:
        """The keys that are still to be destroyed."""
        tenant, _, _, queue = asked.address
        if (command.id is None) == (command.data_subject is None):
            # Not whom: a refusal is recorded, and a subject's name stands nowhere.
            given = "neither id nor data_subject is" if command.id is None else "id and data_subject are both"
            return malformed(f"{given} given; give one", "id")
        if command.data_subject is not None:
            keys = self._office.sealing.of(tenant, command.data_subject)
        else:
            assert command.id is not None
            job = self._state.job(tenant, queue, command.id)
            if job is None:
                return Rejection(
                    RejectionKind.NOT_FOUND, f"there is no job {job_key(queue, command.id)}", "id"
                )
            if job.input.key == UNSEALED:
                reason = (
                    f"the content of job {job.id} is not sealed, as its queue was not erasable when it was "
                    "submitted; the log cannot be changed"
                )
                return Rejection(RejectionKind.CONFLICT, reason, "id")
            keys = [job.input.key]
        return [key for key in keys if key not in self._state.erased]

    def _why_not(self, job: Job) -> Rejection | None:
        if job.state not in TERMINAL:
            reason = f"job {job.key} is {job.state.value}; content is erased when all its jobs have ended"
            return Rejection(RejectionKind.CONFLICT, reason)
        start = f"{job.tenant}.{job.queue}~"
        for place, hold in self._state.holds.items():
            if place.startswith(start) and matches(hold.filter, job):
                name = place.removeprefix(start)
                return Rejection(RejectionKind.CONFLICT, f"job {job.key} is held by {name}: {hold.reason}")
        return None

    def _place_hold(self, round_: Round, asked: Asked, command: commands.PlaceHold) -> None:
        fault = content_fault("filter", encode(command.filter))
        if fault is not None:
            self._office.refuse(round_, asked, fault)
            return
        key = job_key(asked.address.queue, command.name)
        hold = HoldPlaced(command.filter, command.reason)
        changes = self._state.holds.get(f"{asked.address.tenant}.{key}") != hold
        if changes:
            self._record(round_, asked, "hold", key, (hold,))
        self._done(round_, asked, stored=changes)

    def _lift_hold(self, round_: Round, asked: Asked, command: commands.LiftHold) -> None:
        key = job_key(asked.address.queue, command.name)
        if f"{asked.address.tenant}.{key}" not in self._state.holds:
            reason = f"queue {asked.address.queue} has no hold {command.name}"
            self._office.refuse(round_, asked, Rejection(RejectionKind.NOT_FOUND, reason, "name"))
            return
        self._record(round_, asked, "hold", key, (HoldLifted(command.reason),))
        self._done(round_, asked, stored=True)

    def _record(self, round_: Round, asked: Asked, kind: str, key: str, events: tuple[Fact, ...]) -> None:
        tenant, principal, verb, _ = asked.address
        round_.record(
            *(tenant, kind, key, events),
            actor=principal,
            vouched=False,
            cause=verb,
            size_bytes=asked.size_bytes,
        )

    @staticmethod
    def _done(round_: Round, asked: Asked, *, stored: bool) -> None:
        answer = commands.Answer(None, round_.position)
        round_.answer(asked.send, encode(answer), verdict_only=not stored)
