"""What is asked about processes, their releases and their gates: all of it in the tenant's home partition."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from writ.schemas import commands, releasing
from writ.schemas.events import Fact
from writ.schemas.gates import Gate
from writ.schemas.processes import Alias, Process, PromotionBlocked, PromotionProposed
from writ.schemas.rejections import Rejection

from .decide import promotion
from .decide.gate import worst
from .messages import Asked
from .office import Office, encode
from .round import Round
from .state import Partition


class ReleaseDesk:
    """Records what becomes of releases; what holds from there on is met at the next grant."""

    def __init__(self, office: Office) -> None:
        self._office = office
        self._state = office.state
        self.verbs: dict[type[commands.Command], Callable[[Round, Asked, Any], None]] = {
            **dict.fromkeys(promotion.DECIDED, self._change),
            releasing.DeclareGate: self._gate,
            releasing.RemoveGate: self._gate,
            releasing.ListProcesses: self._list,
            releasing.ListGates: self._list_gates,
            releasing.CheckGates: self._check_gates,
        }

    def _change(self, round_: Round, asked: Asked, command: releasing.OfProcess) -> None:
        outcome = decide(self._state, asked.address.tenant, asked.address.principal, command, round_.now)
        if isinstance(outcome, Rejection):
            self._office.refuse(round_, asked, outcome)
            return
        self._recorded(round_, asked, "process", command.process, outcome)
        self._office.stir_tenant(asked.address.tenant)
        answer: commands.Answer = commands.Answer(None, round_.position)
        if type(command) in releasing.RELEASE_ANSWERS:
            answer = _promoted(outcome, round_.position)
        round_.answer(asked.send, encode(answer), verdict_only=not outcome)

    def _gate(
        self, round_: Round, asked: Asked, command: releasing.DeclareGate | releasing.RemoveGate
    ) -> None:
        outcome = decide_gate(gates_of(self._state, asked.address.tenant), command)
        if isinstance(outcome, Rejection):
            self._office.refuse(round_, asked, outcome)
            return
        self._recorded(round_, asked, "gate", command.name, outcome)
        round_.answer(asked.send, encode(commands.Answer(None, round_.position)), verdict_only=not outcome)

    def _list(self, round_: Round, asked: Asked, command: releasing.ListProcesses) -> None:
        start = f"{asked.address.tenant}."
        found = [
            each
            for place, each in sorted(self._state.processes.items())
            if place.startswith(start) and command.process in (None, each.name)
        ]
        watched = [
            watch.found(self._state.number)
            for place, watch in sorted(self._state.watches.items())
            if place.startswith(start) and command.process in (None, watch.process)
        ]
        answer = releasing.Processes(None, round_.position, tuple(found), tuple(watched))
        round_.tell(asked.send, encode(answer))

    def _list_gates(self, round_: Round, asked: Asked, command: releasing.ListGates) -> None:
        found = {
            name: gate
            for name, gate in gates_of(self._state, asked.address.tenant).items()
            if gate.spec is not None
        }
        round_.tell(asked.send, encode(releasing.Gates(None, round_.position, found)))

    def _check_gates(self, round_: Round, asked: Asked, command: releasing.CheckGates) -> None:
        tenant, principal, _, _ = asked.address
        at = at_home(self._state, tenant, command.process, principal, round_.now)
        found = promotion.checked(at, command)
        if isinstance(found, Rejection):
            self._office.refuse(round_, asked, found)
            return
        release, checks = found
        aliases = [
            each.value
            for each in Alias
            if (pointer := at.process.pointer(each, command.scope)) is not None
            and pointer.digest == release.digest
        ]
        answer = releasing.GatesTold(
            *(None, round_.position, command.process, command.release, release.digest, release.version),
            *(command.scope, worst(checks), checks, tuple(aliases)),
        )
        round_.tell(asked.send, encode(answer))

    @staticmethod
    def _recorded(round_: Round, asked: Asked, kind: str, key: str, events: tuple[Fact, ...]) -> None:
        tenant, principal, verb, _ = asked.address
        if events:
            round_.record(
                *(tenant, kind, key, events),
                actor=principal,
                vouched=False,
                cause=verb,
                size_bytes=len(encode(events)),
            )


def decide(
    state: Partition, tenant: str, actor: str, command: releasing.OfProcess, now: int
) -> promotion.Outcomes:
    """What becomes of a process, from what the log says: for who asks, and for who judges it again."""
    return promotion.DECIDED[type(command)](at_home(state, tenant, command.process, actor, now), command)


def at_home(state: Partition, tenant: str, process: str, actor: str, now: int) -> promotion.At:
    """What a decision about a process is made from, in the tenant's home."""
    known = [each for each in state.principals.values() if each.tenant == tenant]
    there = state.processes.get(f"{tenant}.{process}", Process(process))
    return promotion.At(there, gates_of(state, tenant), known, actor, now, tenant in state.governed)


def decide_gate(
    gates: dict[str, Gate], command: releasing.DeclareGate | releasing.RemoveGate
) -> promotion.Outcomes:
    """What becomes of a gate."""
    if isinstance(command, releasing.DeclareGate):
        return promotion.declare_gate(gates, command)
    return promotion.remove_gate(gates, command)


def gates_of(state: Partition, tenant: str) -> dict[str, Gate]:
    """The gates of a tenant by name, also those that were removed."""
    start = f"{tenant}."
    return {place[len(start) :]: gate for place, gate in state.gates.items() if place.startswith(start)}


def _promoted(events: tuple[Fact, ...], position: int) -> releasing.Promoted:
    """What the gates said, as it is answered."""
    for event in events:
        checks = getattr(event, "checks", ())
        if isinstance(event, PromotionBlocked):
            return releasing.Promoted(promotion.blocked(checks), position, checks)
        number = event.number if isinstance(event, PromotionProposed) else None
        return releasing.Promoted(None, position, checks, number)
    return releasing.Promoted(None, position)
