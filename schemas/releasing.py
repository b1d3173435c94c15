"""What is asked about processes, their releases and their gates. All of it is sent to the queue `-`."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from .bounds import TOKEN_MAX_BYTES
from .canaries import CanaryPolicy, Finding
from .evaluations import Measured, Outcome
from .forms import Answer, Command, Fence, JobKey, Reason, Token
from .gates import Gate, GateSpec, PolicyName
from .granting import PublicKey
from .processes import (
    Check,
    Digest,
    Pinned,
    Process,
    ProcessName,
    Scope,
    Version,
)

_Ref = Annotated[str, Meta(min_length=1, max_length=TOKEN_MAX_BYTES)]
"""A digest, a version or an alias."""

_Text = Annotated[str, Meta(max_length=1_000)]


class OfProcess(Command, frozen=True, kw_only=True):
    """Base of what is asked of a process, and why."""

    process: ProcessName
    reason: Reason = "requested"


class InScope(OfProcess, frozen=True, kw_only=True):
    """Base of what is asked of it for the queues of a scope."""

    scope: Scope = "*"


class PublishRelease(OfProcess, frozen=True, kw_only=True):
    """A package is in the store: it becomes a release, signed by `key`, which must be the sender's own."""

    digest: Digest
    version: Version
    size_bytes: Annotated[int, Meta(ge=1)]
    key: PublicKey
    kind: Literal["agent", "rpa", "job"] = "job"
    commit: Annotated[str, Meta(max_length=64)] | None = None
    modified: bool = False


class PromoteRelease(InScope, frozen=True, kw_only=True):
    """Points an alias at a release, if all gates let it through.

    With `override` a promotion that they block is proposed instead: another person approves it.
    """

    release: _Ref
    alias: Literal["live", "candidate"] = "live"
    override: bool = False


class ApprovePromotion(InScope, frozen=True, kw_only=True):
    """The second person's yes to a promotion against its gates, in the scope that it was proposed for."""

    number: Fence


class RollbackRelease(InScope, frozen=True, kw_only=True):
    """Points live back at what it pointed at before, or at `release`."""

    release: _Ref | None = None
    pinned: Pinned = Pinned.STAY


class FreezeRelease(OfProcess, frozen=True, kw_only=True):
    """No lease for a release any more, or for any of the process."""

    release: _Ref | None = None


class UnfreezeRelease(OfProcess, frozen=True, kw_only=True):
    """Ends a freeze, of a release or of the process."""

    release: _Ref | None = None


class RevokeRelease(OfProcess, frozen=True, kw_only=True):
    """No lease for a release, ever again."""

    release: _Ref


class StartCanary(InScope, frozen=True, kw_only=True):
    """Gives a release to some of the jobs that name live: by percentage, or by fairness key.

    With a `policy` the orchestrator judges it by the results of its jobs, and acts.
    """

    release: _Ref
    percent: Annotated[float, Meta(ge=0, le=100)] = 0.0
    keys: Annotated[tuple[Token, ...], Meta(max_length=1_000)] = ()
    policy: CanaryPolicy | None = None


class EndCanary(InScope, frozen=True, kw_only=True):
    """All jobs that name live get what it points at."""


class ApproveRelease(InScope, frozen=True, kw_only=True):
    """A person's yes to a release, which a gate may ask for."""

    release: _Ref


class RecordEvaluation(OfProcess, frozen=True, kw_only=True):
    """What was measured in an evaluation of a release; what that proves is decided by its scores."""

    release: _Ref
    data: Token
    data_version: Digest
    measured: Annotated[tuple[Measured, ...], Meta(min_length=1, max_length=50)]
    baseline: Digest | None = None
    job: JobKey | None = None


class RecordDrill(OfProcess, frozen=True, kw_only=True):
    """How a drill with a release went."""

    release: _Ref
    drill: Token
    outcome: Outcome


class RecordPolicyCheck(OfProcess, frozen=True, kw_only=True):
    """What a policy check found in a release; what is found does not pass."""

    release: _Ref
    check: PolicyName
    found: Annotated[tuple[_Text, ...], Meta(max_length=50)] = ()
    job: JobKey | None = None


class DeclareGate(Command, frozen=True, kw_only=True):
    """Gives the tenant a gate, as its next version."""

    name: Token
    gate: GateSpec
    reason: Reason = "declared"


class RemoveGate(Command, frozen=True, kw_only=True):
    """Ends a gate."""

    name: Token
    reason: Reason = "requested"


class ListProcesses(Command, frozen=True, kw_only=True):
    """Asks for the tenant's processes with their releases, or for one: every partition knows them.

    What was found out about releases is known at the tenant's home alone, the queue `-`.
    """

    process: ProcessName | None = None


class ListGates(Command, frozen=True, kw_only=True):
    """Asks for the tenant's gates."""


class CheckGates(Command, frozen=True, kw_only=True):
    """Asks what the gates would say now if an alias were to point at a release; nothing is recorded."""

    process: ProcessName
    release: _Ref
    scope: Scope = "*"
    alias: Literal["live", "candidate"] = "live"


class Promoted(Answer, frozen=True):
    """What the gates said; `proposal` is the number of what waits for a second person.

    Where they blocked it, `error` says so, and nothing has changed.
    """

    checks: tuple[Check, ...] = ()
    proposal: int | None = None


class GatesTold(Answer, frozen=True):
    """What the gates of a scope say of a release: `outcome` is the worst of its checks.

    `release` is how it was asked for. `aliases` point at it in that scope.
    """

    process: str = ""
    release: str = ""
    digest: str = ""
    version: str = ""
    scope: str = "*"
    outcome: Outcome = Outcome.INCONCLUSIVE
    checks: tuple[Check, ...] = ()
    aliases: tuple[str, ...] = ()


class Processes(Answer, frozen=True):
    """`canaries` are what this partition has found of those that are judged."""

    processes: tuple[Process, ...] = ()
    canaries: tuple[Finding, ...] = ()


class Gates(Answer, frozen=True):
    gates: dict[str, Gate] = msgspec.field(default_factory=dict[str, Gate])


RELEASE_VERBS: Final[dict[str, type[Command]]] = {
    "publish_release": PublishRelease,
    "promote_release": PromoteRelease,
    "approve_promotion": ApprovePromotion,
    "rollback_release": RollbackRelease,
    "freeze_release": FreezeRelease,
    "unfreeze_release": UnfreezeRelease,
    "revoke_release": RevokeRelease,
    "start_canary": StartCanary,
    "end_canary": EndCanary,
    "approve_release": ApproveRelease,
    "record_evaluation": RecordEvaluation,
    "record_drill": RecordDrill,
    "record_policy_check": RecordPolicyCheck,
    "declare_gate": DeclareGate,
    "remove_gate": RemoveGate,
    "list_processes": ListProcesses,
    "list_gates": ListGates,
    "check_gates": CheckGates,
}

RELEASE_ANSWERS: Final[dict[type[Command], type[Answer]]] = {
    PromoteRelease: Promoted,
    ApprovePromotion: Promoted,
    StartCanary: Promoted,
    ListProcesses: Processes,
    ListGates: Gates,
    CheckGates: GatesTold,
}
