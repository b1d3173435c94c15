"""What operators ask of jobs, queues and batches."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from writ.schemas import bounds, commands
from writ.schemas.events import Fact
from writ.schemas.lifecycle import Job
from writ.schemas.queues import Queue
from writ.schemas.rejections import Rejection
from writ.schemas.submits import content_fault

from .decide import control, quotas
from .decide import queue as queues
from .messages import Asked
from .office import Office, encode, size_of
from .operating import Operating
from .round import Round

_SAMPLE = 10
Outcome = tuple[Fact, ...] | Rejection

_OF_A_JOB: Final[dict[type[commands.Command], Callable[[Job | None, Any], Outcome]]] = {
    commands.Cancel: control.cancel,
    commands.Terminate: control.terminate,
    commands.Redrive: control.redrive,
    commands.Rerun: control.rerun,
    commands.Drop: control.drop,
    commands.Pause: control.pause,
    commands.Approve: control.approve,
    commands.Reject: control.reject,
    commands.Signal: control.signal,
}
_OF_A_QUEUE: Final[dict[type[commands.Command], Callable[[Queue, Any], Outcome]]] = {
    commands.PauseQueue: queues.pause,
    commands.DrainQueue: queues.drain,
    commands.ResumeQueue: queues.resume,
}


class ControlDesk:
    """Each command is one decision on one aggregate, recorded under the operator's name."""

    def __init__(self, office: Office, operating: Operating) -> None:
        self._office = office
        self._operating = operating
        self._state = office.state
        self.verbs: dict[type[commands.Command], Callable[[Round, Asked, Any], None]] = {
            commands.Edit: self._edit,
            commands.Resume: self._resume,
            commands.SealBatch: self._seal,
            commands.Plan: self._plan,
            **dict.fromkeys(_OF_A_JOB, self._job),
            commands.Declare: self._declare,
            **dict.fromkeys(_OF_A_QUEUE, self._queue),
        }

    def _job(self, round_: Round, asked: Asked, command: commands.Control) -> None:
        job = self._office.job(asked, command.id)
        outcome = None
        if isinstance(command, commands.Reopening):
            outcome = control.answered(job, command, asked.address.principal)
        if outcome is None:
            outcome = _OF_A_JOB[type(command)](job, command)
            if isinstance(command, commands.Reopening) and not isinstance(outcome, Rejection):
                outcome = self._office.reopening_clash(job) or outcome
        self._decided(round_, asked, job, outcome)

    def _resume(self, round_: Round, asked: Asked, command: commands.Resume) -> None:
        job = self._office.job(asked, command.id)
        self._decided(round_, asked, job, control.resume(job, command, round_.now))

    def _edit(self, round_: Round, asked: Asked, command: commands.Edit) -> None:
        job = self._office.job(asked, command.id)
        outcome = control.edit(job, command, round_.now)
        standing = self._state.standing(asked.address.tenant)
        if job is not None and standing is not None and not isinstance(outcome, Rejection):
            more_bytes = size_of(command.input) - job.input.size_bytes
            outcome = quotas.grows(standing, more_bytes) or outcome
        self._decided(round_, asked, job, outcome, size_of(command.input))

    def _decided(
        self, round_: Round, asked: Asked, job: Job | None, outcome: Outcome, size_bytes: int = 0
    ) -> None:
        if isinstance(outcome, Rejection):
            self._office.refuse(round_, asked, outcome)
            return
        if outcome:
            assert job is not None
            tenant, principal, verb, _ = asked.address
            size_bytes += asked.size_bytes + bounds.REASON_MAX_CHARS
            self._office.store(
                round_, tenant, job.key, outcome, actor=principal, cause=verb, size_bytes=size_bytes
            )
        self._done(round_, asked, stored=bool(outcome))

    def _declare(self, round_: Round, asked: Asked, command: commands.Declare) -> None:
        name = asked.address.queue
        place = f"{asked.address.tenant}.{name}"
        keyed = partial(self._state.keyed, place)
        self._governed(round_, asked, queues.declare(self._state.queue(place), command, name, keyed))

    def _queue(self, round_: Round, asked: Asked, command: commands.Command) -> None:
        place = f"{asked.address.tenant}.{asked.address.queue}"
        self._governed(round_, asked, _OF_A_QUEUE[type(command)](self._state.queue(place), command))

    def _governed(self, round_: Round, asked: Asked, outcome: Outcome) -> None:
        """What was decided of a queue, and how many lanes are to be asked the same."""
        place = f"{asked.address.tenant}.{asked.address.queue}"
        if isinstance(outcome, Rejection):
            self._office.refuse(round_, asked, outcome)
            return
        if outcome:
            self._record(round_, asked, "queue", asked.address.queue, outcome)
            self._office.stir(place)
        answer = commands.LanesTold(None, round_.position, self._state.lanes(place))
        round_.answer(asked.send, encode(answer), verdict_only=not outcome)

    def _seal(self, round_: Round, asked: Asked, command: commands.SealBatch) -> None:
        tenant, _, _, queue = asked.address
        key = f"{queue}~{command.batch}"
        relations = self._state.relations
        batch = relations.batches.get(f"{tenant}.{key}")
        jobs = sum(relations.tally(f"{tenant}.{key}").values())
        outcome = queues.seal(None if batch is None else batch.size, jobs, command)
        if isinstance(outcome, Rejection):
            self._office.refuse(round_, asked, outcome)
            return
        if outcome:
            self._record(round_, asked, "batch", key, outcome)
            self._office.consequences.sealed(f"{tenant}.{key}")
        self._done(round_, asked, stored=bool(outcome))

    def _plan(self, round_: Round, asked: Asked, command: commands.Plan) -> None:
        tenant, principal, _, queue = asked.address
        fault = content_fault("filter", encode(command.filter))
        if fault is not None:
            self._office.refuse(round_, asked, fault)
            return
        key, found = self._operating.plan(round_, tenant, queue, principal, command)
        sample = tuple([job.id for job in found[:_SAMPLE]])
        answer = commands.Planned(None, round_.position, key, len(found), sample)
        round_.answer(asked.send, encode(answer), verdict_only=key is None)

    def _record(self, round_: Round, asked: Asked, kind: str, key: str, events: tuple[Fact, ...]) -> None:
        tenant, principal, verb, _ = asked.address
        round_.record(
            tenant,
            kind,
            key,
            events,
            actor=principal,
            vouched=False,
            cause=verb,
            size_bytes=asked.size_bytes,
        )

    def _done(self, round_: Round, asked: Asked, *, stored: bool) -> None:
        answer = commands.Answer(None, round_.position)
        round_.answer(asked.send, encode(answer), verdict_only=not stored)
