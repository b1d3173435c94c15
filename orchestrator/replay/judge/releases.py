"""Decisions on releases and gates, made again: what was asked is told by the events, the rest by the log."""

from __future__ import annotations

from typing import Final

from writ.schemas import releasing
from writ.schemas.access import allowed
from writ.schemas.canaries import CanaryJudged
from writ.schemas.facts import Fact
from writ.schemas.gates import GateDeclared, GateRemoved, PolicyName
from writ.schemas.processes import (
    CanaryEnded,
    CanaryStarted,
    DrillRecorded,
    EvaluationRecorded,
    PolicyChecked,
    Process,
    PromotionBlocked,
    PromotionProposed,
    ReleaseApproved,
    ReleaseFrozen,
    ReleasePromoted,
    ReleasePublished,
    ReleaseRevoked,
    ReleaseRolledBack,
    ReleaseUnfrozen,
)
from writ.schemas.records import Record

from ...canary_desk import findings, verdict
from ...consequences import ORCHESTRATOR
from ...guard import about_release
from ...release_desk import decide, decide_gate, gates_of
from ...state import Partition, address
from .differs import Differs, Unrecorded, accepted, need

_ANY_PERCENT: Final = 1.0
"""A canary that was blocked does not tell how large it was to be."""


def decided_again(state: Partition, record: Record) -> tuple[Fact, ...]:
    """What deciding again gives in the place of a record of a process. Raises Differs and Unrecorded."""
    if isinstance(record.events[0], CanaryJudged):
        return _canary_judged(state, record, record.events[0])
    process = state.processes.get(address(record.tenant, record.key), Process(record.key))
    command = _command(record, process)
    _allowed(state, record, command)
    return accepted(decide(state, record.tenant, record.actor, command, record.at))


def _canary_judged(state: Partition, record: Record, event: CanaryJudged) -> tuple[Fact, ...]:
    """The verdict that the results in the log give, which must be what was told."""
    need(record.actor == ORCHESTRATOR, f"{record.actor} judges no canary")
    for tenant, found in findings(state):
        about = (tenant, found.process, found.scope, found.partition)
        if about == (record.tenant, record.key, event.scope, event.found.partition):
            return verdict(state, tenant, found, record.at)
    raise Differs("the results in the log decide nothing about this canary here")


def gate_decided_again(state: Partition, record: Record) -> tuple[Fact, ...]:
    """The same of a gate."""
    command: releasing.DeclareGate | releasing.RemoveGate
    match record.events[0]:
        case GateDeclared(gate=gate, reason=reason):
            command = releasing.DeclareGate(name=record.key, gate=gate, reason=reason)
        case GateRemoved(reason=reason):
            command = releasing.RemoveGate(name=record.key, reason=reason)
        case _:
            raise Unrecorded
    _allowed(state, record, command)
    return accepted(decide_gate(gates_of(state, record.tenant), command))


def _allowed(
    state: Partition,
    record: Record,
    command: releasing.OfProcess | releasing.DeclareGate | releasing.RemoveGate,
) -> None:
    verb = record.cause or ""
    need(releasing.RELEASE_VERBS.get(verb) is type(command), f"it does not follow from {record.cause}")
    if not state.governed:
        return
    actor = state.principals.get(address(record.tenant, record.actor))
    decision = allowed(actor, verb, about_release(record.tenant, command), record.at)
    need(decision.allowed, f"{record.actor} may not {verb}: {decision.reason} [{decision.rule}]")


def _command(record: Record, process: Process) -> releasing.OfProcess:
    """The command that a record answers."""
    name, event = record.key, record.events[0]
    match event:
        case ReleasePublished():
            return releasing.PublishRelease(
                process=name,
                digest=event.digest,
                version=event.version,
                size_bytes=event.size_bytes,
                key=event.key,
                kind=event.kind,  # type: ignore[arg-type]
                commit=event.commit,
                modified=event.modified,
            )
        case ReleasePromoted(scope=scope, overrides=int(number)):
            return releasing.ApprovePromotion(process=name, scope=scope, number=number)
        case PromotionBlocked() if record.cause == "approve_promotion":
            number = _number(process, event)
            return releasing.ApprovePromotion(process=name, scope=event.scope, number=number)
        case PromotionBlocked() if record.cause == "start_canary":
            return releasing.StartCanary(
                process=name,
                scope=event.scope,
                release=event.digest,
                percent=_ANY_PERCENT,
                reason=event.reason,
            )
        case ReleasePromoted() | PromotionBlocked() | PromotionProposed():
            return releasing.PromoteRelease(
                process=name,
                scope=event.scope,
                release=event.digest,
                alias=event.alias.value,  # type: ignore[arg-type]
                override=isinstance(event, PromotionProposed),
                reason=event.reason,
            )
        case ReleaseRolledBack():
            return releasing.RollbackRelease(
                process=name,
                scope=event.scope,
                release=event.digest,
                pinned=event.pinned,
                reason=event.reason,
            )
        case ReleaseFrozen(digest=digest, reason=reason):
            return releasing.FreezeRelease(process=name, release=digest, reason=reason)
        case ReleaseUnfrozen(digest=digest, reason=reason):
            return releasing.UnfreezeRelease(process=name, release=digest, reason=reason)
        case ReleaseRevoked(digest=digest, reason=reason):
            return releasing.RevokeRelease(process=name, release=digest, reason=reason)
        case CanaryStarted():
            return releasing.StartCanary(
                process=name,
                scope=event.scope,
                release=event.digest,
                percent=event.percent,
                keys=event.keys,
                policy=event.policy,
                reason=event.reason,
            )
        case CanaryEnded(scope=scope, reason=reason):
            return releasing.EndCanary(process=name, scope=scope, reason=reason)
        case ReleaseApproved(digest=digest, scope=scope, reason=reason):
            return releasing.ApproveRelease(process=name, release=digest, scope=scope, reason=reason)
        case _:
            return _found(name, event)


def _found(name: str, event: Fact) -> releasing.OfProcess:
    """The command that told what was found out about a release."""
    match event:
        case EvaluationRecorded():
            return releasing.RecordEvaluation(
                process=name,
                release=event.digest,
                data=event.data,
                data_version=event.data_version,
                measured=event.measured,
                baseline=event.baseline,
                job=event.job,
            )
        case DrillRecorded():
            return releasing.RecordDrill(
                process=name,
                release=event.digest,
                drill=event.drill,
                outcome=event.outcome,
                reason=event.reason,
            )
        case PolicyChecked():
            return releasing.RecordPolicyCheck(
                process=name,
                release=event.digest,
                check=PolicyName(event.check),
                found=event.found,
                job=event.job,
            )
        case _:
            raise Unrecorded


def _number(process: Process, event: PromotionBlocked) -> int:
    """The number of the proposal that was blocked once more."""
    meant = (event.scope, event.alias, event.digest, event.reason)
    for each in process.proposals:
        if (each.scope, each.alias, each.digest, each.reason) == meant:
            return each.number
    return 0
