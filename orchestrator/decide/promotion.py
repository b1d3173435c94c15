"""Deciding what becomes of releases: published, promoted through gates, rolled back, frozen, revoked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from writ.schemas.canaries import OnWorse
from writ.schemas.due_times import zone_fault
from writ.schemas.evaluations import Outcome
from writ.schemas.facts import Fact
from writ.schemas.gates import DAYS, GATES_MAX, Gate, GateDeclared, GateRemoved
from writ.schemas.principals import WHOLE_TENANT, Principal, PrincipalKind, Role, scope_fault
from writ.schemas.processes import (
    RELEASES_MAX,
    SCOPES_MAX,
    Alias,
    CanaryEnded,
    CanaryStarted,
    Check,
    DrillRecorded,
    EvaluationRecorded,
    PolicyChecked,
    Process,
    PromotionBlocked,
    PromotionProposed,
    Release,
    ReleaseApproved,
    ReleaseFrozen,
    ReleasePromoted,
    ReleasePublished,
    ReleaseRevoked,
    ReleaseRolledBack,
    ReleaseUnfrozen,
)
from writ.schemas.rejections import Rejection, RejectionKind
from writ.schemas.releasing import (
    ApprovePromotion,
    ApproveRelease,
    CheckGates,
    DeclareGate,
    EndCanary,
    FreezeRelease,
    OfProcess,
    PromoteRelease,
    PublishRelease,
    RecordDrill,
    RecordEvaluation,
    RecordPolicyCheck,
    RemoveGate,
    RevokeRelease,
    RollbackRelease,
    StartCanary,
    UnfreezeRelease,
)

from ..canaries import policy_fault
from ..statistics import judge
from .gate import evaluate, failed, holds, in_words, matching
from .release import bar

PROPOSALS_MAX: Final = 20
Outcomes = tuple[Fact, ...] | Rejection


class At(NamedTuple):
    """What a release is decided from: the process, the tenant's gates and principals, by whom, and when.

    `process` is empty where nothing was published. `governed` says whether principals are known at all.
    """

    process: Process
    gates: Mapping[str, Gate]
    known: Sequence[Principal]
    actor: str
    now: int
    governed: bool

    def person(self) -> Principal | None:
        return next((each for each in self.known if each.name == self.actor), None)


def _conflict(reason: str, field: str | None = None) -> Rejection:
    return Rejection(RejectionKind.CONFLICT, reason, field)


def _release(at: At, ref: str, scope: str = WHOLE_TENANT) -> Release | Rejection:
    found = at.process.find(ref, scope)
    if found is None:
        reason = f"{at.process.name} has no release {ref}; `writ release list` shows those that there are"
        return Rejection(RejectionKind.NOT_FOUND, reason, "release")
    return found


def publish(at: At, command: PublishRelease) -> Outcomes:
    """Nothing where it is published. A version is given once, and a package is signed by its sender."""
    process = at.process
    if command.digest in process.releases:
        return ()
    taken = next((r for r in process.releases.values() if r.version == command.version), None)
    if taken is not None:
        reason = (
            f"{process.name} {command.version} is release {taken.digest}, of other content; give this one "
            "the next version: writ publish --patch"
        )
        return _conflict(reason, "version")
    person = at.person()
    if at.governed and (person is None or command.key not in person.keys):
        return _conflict(f"the package is signed by {command.key}, which is no key of {at.actor}", "key")
    if len(process.releases) >= RELEASES_MAX:
        return _conflict(f"{process.name} has {RELEASES_MAX} releases; give the process another name")
    return (
        ReleasePublished(
            command.digest,
            command.version,
            command.size_bytes,
            command.key,
            command.kind,
            command.commit,
            command.modified,
        ),
    )


# --- promotion --------------------------------------------------------------------------------------------


def promote(at: At, command: PromoteRelease) -> Outcomes:
    """The alias moves, or is blocked by its gates, or, with `override`, waits for a second person."""
    release = _release(at, command.release, command.scope)
    if isinstance(release, Rejection):
        return release
    alias = Alias(command.alias)
    fault = _scope_fault(at.process, command.scope)
    if fault is not None:
        return fault
    pointer = at.process.own_pointer(alias, command.scope)
    was = None if pointer is None else pointer.digest
    gates = matching(at.gates, at.process.name, command.scope, alias)
    checks = evaluate(at.process, release, command.scope, gates, at.known, at.now)
    bad = failed(checks)
    if not bad:
        return (ReleasePromoted(command.scope, alias, release.digest, command.reason, was, checks),)
    blocked = PromotionBlocked(command.scope, alias, release.digest, command.reason, checks)
    if not command.override or any(check.hard for check in bad):
        return (blocked,)
    missing = _may_override(at, gates, command.scope)
    if missing is not None:
        return missing
    if len(at.process.proposals) >= PROPOSALS_MAX:
        return _conflict(
            f"{len(at.process.proposals)} promotions wait for a second person; approve some first"
        )
    number = at.process.proposed + 1
    return (PromotionProposed(number, command.scope, alias, release.digest, command.reason, checks),)


def checked(at: At, command: CheckGates) -> tuple[Release, tuple[Check, ...]] | Rejection:
    """The release, and what its gates would say of a promotion now."""
    release = _release(at, command.release, command.scope)
    if isinstance(release, Rejection):
        return release
    gates = matching(at.gates, at.process.name, command.scope, command.alias)
    return release, evaluate(at.process, release, command.scope, gates, at.known, at.now)


def approve_promotion(at: At, command: ApprovePromotion) -> Outcomes:
    """The second person's yes: the gates are asked again, and what blocks hard still does."""
    asked = (command.number, command.scope)
    proposal = next((each for each in at.process.proposals if (each.number, each.scope) == asked), None)
    if proposal is None:
        reason = f"no promotion of {at.process.name} waits as number {command.number} in {command.scope}"
        return Rejection(RejectionKind.NOT_FOUND, reason, "number")
    if proposal.by == at.actor:
        return _conflict(f"{at.actor} proposed this promotion; another person approves it")
    person = at.person()
    if at.governed and (person is None or person.kind is not PrincipalKind.PERSON):
        return _conflict(f"{at.actor} is no person; a person approves what goes against a gate")
    gates = matching(at.gates, at.process.name, proposal.scope, proposal.alias)
    missing = _may_override(at, gates, proposal.scope)
    if missing is not None:
        return missing
    release = at.process.releases[proposal.digest]
    checks = evaluate(at.process, release, proposal.scope, gates, at.known, at.now)
    if any(check.hard for check in failed(checks)):
        return (PromotionBlocked(proposal.scope, proposal.alias, release.digest, proposal.reason, checks),)
    pointer = at.process.own_pointer(proposal.alias, proposal.scope)
    return (
        ReleasePromoted(
            proposal.scope,
            proposal.alias,
            release.digest,
            proposal.reason,
            None if pointer is None else pointer.digest,
            checks,
            proposal.number,
            proposal.by,
        ),
    )


def _may_override(at: At, gates: Mapping[str, Gate], scope: str) -> Rejection | None:
    """Why somebody may not go against gates; each names the role that may."""
    person = at.person()
    for name, gate in gates.items():
        role: Role = gate.spec.override if gate.spec is not None else Role.OWNER
        if at.governed and (person is None or not holds(person, role, scope, at.now)):
            reason = f"to go against gate {name} takes {role.value} in {scope}, which {at.actor} is not"
            return _conflict(reason, "override")
    return None


def _scope_fault(process: Process, scope: str) -> Rejection | None:
    fault = scope_fault(scope)
    if fault is not None:
        return Rejection(RejectionKind.MALFORMED, fault, "scope")
    scopes = {pointer.scope for pointer in process.pointers}
    if scope not in scopes and len(scopes) >= SCOPES_MAX:
        return _conflict(f"{process.name} has aliases in {len(scopes)} scopes; at most {SCOPES_MAX}", "scope")
    return None


def rollback(at: At, command: RollbackRelease) -> Outcomes:
    """Live goes back in one event. No gate is asked: what it goes back to was live before."""
    process = at.process
    live = process.own_pointer(Alias.LIVE, command.scope)
    if live is None:
        return _conflict(f"live of {process.name} points at nothing in {command.scope}", "scope")
    release = _release(at, command.release or Alias.PREVIOUS, command.scope)
    if isinstance(release, Rejection):
        return release
    if release.digest == live.digest:
        return ()
    if release.digest not in live.before:
        return _conflict(
            f"release {release.version} was never live in {command.scope}; promote it", "release"
        )
    barred = bar(process, release)
    if barred is not None:
        return _conflict(f"{barred}; name another one that was live, as NAME@REF", "release")
    return (ReleaseRolledBack(command.scope, release.digest, live.digest, command.reason, command.pinned),)


# --- what may run -----------------------------------------------------------------------------------------


def freeze(at: At, command: FreezeRelease) -> Outcomes:
    """Nothing where it is frozen."""
    if command.release is None:
        return () if at.process.frozen is not None else (ReleaseFrozen(command.reason),)
    release = _release(at, command.release)
    if isinstance(release, Rejection):
        return release
    return () if release.frozen is not None else (ReleaseFrozen(command.reason, release.digest),)


def unfreeze(at: At, command: UnfreezeRelease) -> Outcomes:
    """Nothing where it is not frozen."""
    if command.release is None:
        return () if at.process.frozen is None else (ReleaseUnfrozen(command.reason),)
    release = _release(at, command.release)
    if isinstance(release, Rejection):
        return release
    return () if release.frozen is None else (ReleaseUnfrozen(command.reason, release.digest),)


def revoke(at: At, command: RevokeRelease) -> Outcomes:
    """Nothing where it is revoked."""
    release = _release(at, command.release)
    if isinstance(release, Rejection):
        return release
    return () if release.revoked is not None else (ReleaseRevoked(release.digest, command.reason),)


def start_canary(at: At, command: StartCanary) -> Outcomes:
    """Some jobs get it before the gates have said all that they ask; what blocks hard blocks this too."""
    release = _release(at, command.release, command.scope)
    if isinstance(release, Rejection):
        return release
    if not command.percent and not command.keys:
        return Rejection(RejectionKind.MALFORMED, "give a percentage or keys", "percent")
    if command.policy is not None and (wrong := policy_fault(command.policy)) is not None:
        return Rejection(RejectionKind.MALFORMED, f"no canary can be judged so: {wrong}", "policy")
    freezes = command.policy is not None and command.policy.on_worse is OnWorse.FREEZE
    if freezes and command.scope != WHOLE_TENANT:
        # Who may promote in a folder may not stop a release everywhere, and a canary may do no more.
        reason = f"a freeze holds for the whole tenant, and this canary for {command.scope}; let it end"
        return _conflict(reason, "policy")
    live = at.process.pointer(Alias.LIVE, command.scope)
    if live is None:
        return _conflict(f"live of {at.process.name} points at nothing in {command.scope}; promote first")
    fault = _scope_fault(at.process, command.scope)
    if fault is not None:
        return fault
    gates = matching(at.gates, at.process.name, command.scope, Alias.LIVE)
    checks = tuple(
        [c for c in evaluate(at.process, release, command.scope, gates, at.known, at.now) if c.hard]
    )
    if failed(checks):
        return (PromotionBlocked(command.scope, Alias.LIVE, release.digest, command.reason, checks),)
    return (
        CanaryStarted(
            *(command.scope, release.digest, command.reason, command.percent, command.keys, checks),
            policy=command.policy,
        ),
    )


def end_canary(at: At, command: EndCanary) -> Outcomes:
    """Nothing where there is none."""
    canary = next((each for each in at.process.canaries if each.scope == command.scope), None)
    return () if canary is None else (CanaryEnded(canary.scope, canary.digest, command.reason),)


# --- what is found out ------------------------------------------------------------------------------------


def approve_release(at: At, command: ApproveRelease) -> Outcomes:
    release = _release(at, command.release, command.scope)
    if isinstance(release, Rejection):
        return release
    return (ReleaseApproved(release.digest, command.scope, command.reason),)


def record_evaluation(at: At, command: RecordEvaluation) -> Outcomes:
    release = _release(at, command.release)
    if isinstance(release, Rejection):
        return release
    try:
        verdict = judge(command.measured)
    except ValueError as error:
        return Rejection(RejectionKind.MALFORMED, f"measured cannot be judged: {error}", "measured")
    return (
        EvaluationRecorded(
            release.digest,
            command.data,
            command.data_version,
            verdict,
            command.measured,
            command.baseline,
            command.job,
        ),
    )


def record_drill(at: At, command: RecordDrill) -> Outcomes:
    release = _release(at, command.release)
    if isinstance(release, Rejection):
        return release
    return (DrillRecorded(release.digest, command.drill, command.outcome, command.reason),)


def record_policy_check(at: At, command: RecordPolicyCheck) -> Outcomes:
    release = _release(at, command.release)
    if isinstance(release, Rejection):
        return release
    outcome = Outcome.FAIL if command.found else Outcome.PASS
    return (PolicyChecked(release.digest, command.check, outcome, command.found, command.job),)


# --- gates ------------------------------------------------------------------------------------------------


def declare_gate(gates: Mapping[str, Gate], command: DeclareGate) -> Outcomes:
    """The gate's next version; nothing where it is so already."""
    known, spec = gates.get(command.name), command.gate
    fault = scope_fault(spec.scope)
    if fault is not None:
        return Rejection(RejectionKind.MALFORMED, fault, "gate.scope")
    for window in spec.freeze_windows:
        fault = zone_fault(window.tz)
        wrong = [day for day in window.days if day not in DAYS]
        if fault is None and wrong:
            fault = f"{wrong[0]!r} is no day; the days are {', '.join(DAYS)}"
        if fault is None and window.end is not None and window.end <= window.start:
            fault = f"the window ends at {window.end}, before its start at {window.start}; make it two"
        if fault is not None:
            return Rejection(RejectionKind.MALFORMED, fault, "gate.freeze_windows")
    if known is None and len(gates) >= GATES_MAX:
        return _conflict(f"the tenant has {len(gates)} gates; at most {GATES_MAX}")
    if known is not None and known.spec == spec:
        return ()
    return (GateDeclared((0 if known is None else known.version) + 1, spec, command.reason),)


def remove_gate(gates: Mapping[str, Gate], command: RemoveGate) -> Outcomes:
    known = gates.get(command.name)
    if known is None or known.spec is None:
        return Rejection(RejectionKind.NOT_FOUND, f"there is no gate {command.name}", "name")
    return (GateRemoved(known.version + 1, command.reason),)


def blocked(checks: tuple[Check, ...]) -> Rejection:
    """What is answered to a promotion that its gates do not let through."""
    return _conflict(f"the gates say no: {in_words(checks)}"[:1_000])


DECIDED: Final[dict[type[OfProcess], Callable[[At, Any], Outcomes]]] = {
    PublishRelease: publish,
    PromoteRelease: promote,
    ApprovePromotion: approve_promotion,
    RollbackRelease: rollback,
    FreezeRelease: freeze,
    UnfreezeRelease: unfreeze,
    RevokeRelease: revoke,
    StartCanary: start_canary,
    EndCanary: end_canary,
    ApproveRelease: approve_release,
    RecordEvaluation: record_evaluation,
    RecordDrill: record_drill,
    RecordPolicyCheck: record_policy_check,
}
"""Each decision about a process, by what asks for it."""
