"""Processes and their releases: which package may run, under which alias, and the events that say so.

A process belongs to a tenant, whose home shard holds its records: kind `process`, its name the key. Its
*releases* are known by the digest of their package. An *alias* points at one of them, in a scope: `*` the
whole tenant, `billing/*` a folder, `invoices` one queue; for a job the narrowest that holds its queue counts.

    release_published      a package is in the store; the candidate of the whole tenant points at it
    release_promoted       an alias points at another release, with what its gates said
    promotion_blocked      a gate said no, and why
    promotion_proposed     somebody wants it against the gates: a second person approves or it stays a wish
    release_rolled_back    live points at an earlier release again
    release_frozen         no lease for a release, or for all of the process; release_unfrozen ends that
    release_revoked        no lease for a release, ever again
    canary_started         some of the jobs that name live get another release; canary_ended
    canary_judged          what the canary's results proved, see `canaries`
    release_approved       a person says yes to a release
    evaluation_recorded    what an evaluation of a release proved
    drill_recorded         how a drill with a release went
    policy_checked         what a policy check found in a release

A job names a release as `NAME@<digest>`, which is fixed, or as `NAME@live`: that is looked up at each grant
until its first recorded step, and kept from then on, unless a rollback says that such jobs move too.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Annotated, Final, NamedTuple

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from .bounds import TOKEN_MAX_BYTES
from .canaries import CanaryJudged, CanaryPolicy
from .evaluations import Measured, Outcome, Verdict
from .facts import Fact
from .principals import WHOLE_TENANT, covers

NAME_PATTERN: Final = r"[A-Za-z][A-Za-z0-9_-]{0,63}"
VERSION_PATTERN: Final = r"(?:0|[1-9][0-9]{0,8})(?:\.(?:0|[1-9][0-9]{0,8})){2}"
DIGEST_PATTERN: Final = r"[0-9a-f]{64}"
ProcessName = Annotated[str, Meta(pattern=rf"^{NAME_PATTERN}$(?!\n)")]
Digest = Annotated[str, Meta(pattern=rf"^{DIGEST_PATTERN}$(?!\n)")]
"""SHA-256 in hex; of a package, that of its manifest."""

Version = Annotated[str, Meta(max_length=64, pattern=rf"^{VERSION_PATTERN}$(?!\n)")]
ReleaseRef = Annotated[
    str,
    Meta(pattern=rf"^{NAME_PATTERN}@(?:{DIGEST_PATTERN}|{VERSION_PATTERN}|live|candidate|previous)$(?!\n)"),
]
"""`NAME@` and an alias, a version or a digest."""

Scope = Annotated[str, Meta(min_length=1, max_length=TOKEN_MAX_BYTES)]

RELEASES_MAX: Final = 1_000
"""Releases of one process."""

SCOPES_MAX: Final = 100
"""Scopes in which one process has aliases."""

EVIDENCE_MAX: Final = 50
"""Evaluations, approvals, drills and checks of one release that are remembered: the newest of each name."""

_BEFORE_MAX: Final = 20
"""Earlier releases of an alias that are remembered: so far it may be rolled back."""

_CANARY_PARTS: Final = 10_000


class Alias(StrEnum):
    """A name that points at a release."""

    LIVE = "live"
    CANDIDATE = "candidate"
    PREVIOUS = "previous"
    """What live pointed at before."""


class Pinned(StrEnum):
    """What a rollback does to jobs that have recorded a step on the release it leaves."""

    STAY = "stay"
    MOVE = "move"


class Check(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One check of a gate, with what it was decided from, in words. `gate` and `version` are the policy's."""

    gate: str
    version: int
    check: str
    outcome: Outcome
    reason: str
    inputs: tuple[str, ...] = ()
    hard: bool = False
    """Whether nobody may override it."""


class ReleasePublished(Fact, frozen=True):
    """`key` is the public NKey that signed the package; `commit` the git commit of its sources."""

    digest: str
    version: str
    size_bytes: int
    key: str
    kind: str
    commit: str | None = None
    modified: bool = False


class ReleasePromoted(Fact, frozen=True):
    """`was` is what the alias pointed at. `checks` are those of the gates.

    With `overrides` some of them did not pass: `proposed_by` asked for it, and the record's actor approved.
    """

    scope: str
    alias: Alias
    digest: str
    reason: str
    was: str | None = None
    checks: tuple[Check, ...] = ()
    overrides: int | None = None
    proposed_by: str | None = None


class PromotionBlocked(Fact, frozen=True):
    scope: str
    alias: Alias
    digest: str
    reason: str
    checks: tuple[Check, ...]


class PromotionProposed(Fact, frozen=True):
    """A promotion against its gates, by somebody who may; another one must approve number `number`."""

    number: int
    scope: str
    alias: Alias
    digest: str
    reason: str
    checks: tuple[Check, ...]


class ReleaseRolledBack(Fact, frozen=True):
    """Live goes from `was` back to `digest`. What ran on the one that is left stays or moves, by `pinned`."""

    scope: str
    digest: str
    was: str
    reason: str
    pinned: Pinned = Pinned.STAY


class ReleaseFrozen(Fact, frozen=True):
    """Without `digest` all releases of the process."""

    reason: str
    digest: str | None = None


class ReleaseUnfrozen(Fact, frozen=True):
    reason: str
    digest: str | None = None


class ReleaseRevoked(Fact, frozen=True):
    digest: str
    reason: str


class CanaryStarted(Fact, frozen=True):
    """Of the jobs that name live in the scope some get `digest`.

    They are `percent` of them, by the hash of their key, and those whose fairness key is in `keys`. With a
    `policy` it is judged as their results come.
    """

    scope: str
    digest: str
    reason: str
    percent: float = 0.0
    keys: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    policy: CanaryPolicy | None = None


class CanaryEnded(Fact, frozen=True):
    scope: str
    digest: str
    reason: str


class ReleaseApproved(Fact, frozen=True):
    digest: str
    scope: str
    reason: str


class EvaluationRecorded(Fact, frozen=True):
    """What an evaluation proved: of a release, on a version of a data set, against a baseline's release.

    `verdict` follows from `measured` by `writ.orchestrator.statistics.judge`. `job` is the key of a job that
    measured.
    """

    digest: str
    data: str
    data_version: str
    verdict: Verdict
    measured: tuple[Measured, ...] = ()
    baseline: str | None = None
    job: str | None = None


class DrillRecorded(Fact, frozen=True):
    digest: str
    drill: str
    outcome: Outcome
    reason: str


class PolicyChecked(Fact, frozen=True):
    """`check` is forbidden_tools, leaked_secrets or over_budget; `found` what it found, in words."""

    digest: str
    check: str
    outcome: Outcome
    found: tuple[str, ...] = ()
    job: str | None = None


PROCESS_EVENTS: Final[tuple[type[Fact], ...]] = (
    ReleasePublished,
    ReleasePromoted,
    PromotionBlocked,
    PromotionProposed,
    ReleaseRolledBack,
    ReleaseFrozen,
    ReleaseUnfrozen,
    ReleaseRevoked,
    CanaryStarted,
    CanaryEnded,
    CanaryJudged,
    ReleaseApproved,
    EvaluationRecorded,
    DrillRecorded,
    PolicyChecked,
)


# --- what they make ---------------------------------------------------------------------------------------


class Approved(msgspec.Struct, frozen=True, gc=False):
    """A person's yes to a release, for queues of a scope."""

    by: str
    scope: str
    at: int
    reason: str


class Release(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One published version. `seq` is the record that published it; times are log time.

    `frozen` and `revoked` say why no lease is given for it. What was found out about it is kept, the newest
    of each name.
    """

    digest: str
    version: str
    size_bytes: int
    key: str
    kind: str
    published_by: str
    published_at: int
    seq: int
    commit: str | None = None
    modified: bool = False
    frozen: str | None = None
    revoked: str | None = None
    approvals: tuple[Approved, ...] = ()
    evaluations: tuple[EvaluationRecorded, ...] = ()
    drills: tuple[DrillRecorded, ...] = ()
    checks: tuple[PolicyChecked, ...] = ()
    found_at: dict[str, int] = {}
    """Log time of each evaluation and drill: by `evaluation <data>` and `drill <name>`."""


class Pointer(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """An alias in a scope. `seq` is the record that set it, `before` what it pointed at earlier, newest last.

    Jobs pinned to one of `left` follow the alias.
    """

    scope: str
    alias: Alias
    digest: str
    seq: int
    before: tuple[str, ...] = ()
    left: tuple[str, ...] = ()


class Canary(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Which of the jobs that name live in a scope get another release.

    It is judged by `policy`, until it was `judged`.
    """

    scope: str
    digest: str
    seq: int
    percent: float = 0.0
    keys: tuple[str, ...] = ()
    policy: CanaryPolicy | None = None
    judged: Outcome | None = None

    def takes(self, key: str, fairness_key: str | None) -> bool:
        """Whether a job is one of them, by its key: the same at each grant."""
        if fairness_key is not None and fairness_key in self.keys:
            return True
        drawn = int.from_bytes(hashlib.sha256(f"{self.digest} {key}".encode()).digest()[:8]) % _CANARY_PARTS
        return drawn < round(self.percent * _CANARY_PARTS / 100)


class Proposal(msgspec.Struct, frozen=True, gc=False):
    """A promotion against its gates that waits for a second person."""

    number: int
    scope: str
    alias: Alias
    digest: str
    reason: str
    by: str


class Process(msgspec.Struct, frozen=True, omit_defaults=True):
    """A process as its records tell it. `version` grows with each of them."""

    name: str
    version: int = 0
    releases: dict[str, Release] = {}
    pointers: tuple[Pointer, ...] = ()
    canaries: tuple[Canary, ...] = ()
    frozen: str | None = None
    proposals: tuple[Proposal, ...] = ()
    proposed: int = 0

    def pointer(self, alias: str, queue: str) -> Pointer | None:
        """Where an alias points for a queue, or for a scope: the narrowest scope that holds it counts."""
        held = [each for each in self.pointers if each.alias == alias and covers(each.scope, queue)]
        return max(held, key=lambda each: len(each.scope), default=None)

    def own_pointer(self, alias: str, scope: str) -> Pointer | None:
        """Where an alias was set to point in just this scope."""
        return next((each for each in self.pointers if (each.alias, each.scope) == (alias, scope)), None)

    def canary(self, queue: str) -> Canary | None:
        """The canary for a queue."""
        held = [each for each in self.canaries if covers(each.scope, queue)]
        return max(held, key=lambda each: len(each.scope), default=None)

    def revision(self, canary: Canary) -> int:
        """The record that last changed what a canary is compared with, or how."""
        lives = [
            each.seq
            for each in self.pointers
            if each.alias is Alias.LIVE and _share_jobs(each.scope, canary.scope)
        ]
        return max(canary.seq, *lives)

    def find(self, ref: str, scope: str = WHOLE_TENANT) -> Release | None:
        """A release by its alias in a scope, its version, or its digest."""
        pointer = self.pointer(ref, scope)
        if pointer is not None:
            return self.releases.get(pointer.digest)
        if ref in self.releases:
            return self.releases[ref]
        return next((each for each in self.releases.values() if each.version == ref), None)

    def told(self) -> Process:
        """What other partitions must know to grant leases: without what was found out about releases."""
        releases = {
            digest: replace(each, approvals=(), evaluations=(), drills=(), checks=(), found_at={})
            for digest, each in self.releases.items()
        }
        return replace(self, releases=releases, proposals=())


class Named(NamedTuple):
    """A release as a job names it."""

    process: str
    ref: str

    @property
    def is_alias(self) -> bool:
        return self.ref in set(Alias)


def named(text: str) -> Named:
    """`NAME@ref` taken apart."""
    process, _, ref = text.partition("@")
    return Named(process, ref)


def evolve_process(process: Process | None, event: Fact, name: str, actor: str, at: int, seq: int) -> Process:
    """The process after one of its own events."""
    known = process or Process(name)
    known = replace(known, version=known.version + 1)
    match event:
        case ReleasePublished():
            release = Release(
                event.digest,
                event.version,
                event.size_bytes,
                event.key,
                event.kind,
                actor,
                at,
                seq,
                event.commit,
                event.modified,
            )
            known = replace(known, releases={**known.releases, event.digest: release})
            return _pointed(known, WHOLE_TENANT, Alias.CANDIDATE, event.digest, seq)
        case ReleasePromoted():
            known = _promoted(known, event, seq)
            return replace(
                known, proposals=tuple([p for p in known.proposals if p.number != event.overrides])
            )
        case PromotionProposed():
            proposal = Proposal(event.number, event.scope, event.alias, event.digest, event.reason, actor)
            return replace(known, proposals=(*known.proposals, proposal), proposed=event.number)
        case ReleaseRolledBack():
            left = (event.was,) if event.pinned is Pinned.MOVE else ()
            known = _pointed(known, event.scope, Alias.LIVE, event.digest, seq, left)
            known = _pointed(known, event.scope, Alias.PREVIOUS, event.was, seq)
            return _without_canary(known, event.scope)
        case ReleaseFrozen(digest=None) | ReleaseUnfrozen(digest=None):
            return replace(known, frozen=event.reason if isinstance(event, ReleaseFrozen) else None)
        case ReleaseFrozen(digest=digest) | ReleaseUnfrozen(digest=digest) | ReleaseRevoked(digest=digest):
            return _changed(known, str(digest), event)
        case CanaryStarted():
            canary = Canary(event.scope, event.digest, seq, event.percent, event.keys, event.policy)
            kept = _without_canary(known, event.scope)
            return replace(kept, canaries=(*kept.canaries, canary))
        case CanaryJudged(scope=scope, found=found):
            judged = [
                replace(each, judged=found.watched.outcome) if each.scope == scope else each
                for each in known.canaries
            ]
            return replace(known, canaries=tuple(judged))
        case CanaryEnded(scope=scope):
            return _without_canary(known, scope)
        case PromotionBlocked():
            return known
        case ReleaseApproved(digest=digest):
            return _found(known, digest, at, approved=Approved(actor, event.scope, at, event.reason))
        case EvaluationRecorded(digest=digest) | DrillRecorded(digest=digest) | PolicyChecked(digest=digest):
            return _found(known, digest, at, event)
        case _:
            raise ValueError(f"{type(event).__name__} is no event of a process")


def _pointed(
    process: Process, scope: str, alias: Alias, digest: str, seq: int, left: tuple[str, ...] = ()
) -> Process:
    """With an alias that points elsewhere; what it once left behind for good stays left, but for `digest`."""
    known = process.own_pointer(alias, scope)
    before: tuple[str, ...] = ()
    if known is not None:
        left = (*known.left, *left)
        before = tuple([each for each in (*known.before, known.digest) if each != digest])[-_BEFORE_MAX:]
    gone = tuple([each for each in dict.fromkeys(left) if each != digest])
    kept = tuple([p for p in process.pointers if (p.scope, p.alias) != (scope, alias)])
    process = replace(process, pointers=(*kept, Pointer(scope, alias, digest, seq, before, gone)))
    return _unjudged(process, scope) if alias is Alias.LIVE else process


def _unjudged(process: Process, scope: str) -> Process:
    """With no verdict on canaries that were compared with what live was in a scope."""
    canaries = [
        replace(each, judged=None) if _share_jobs(each.scope, scope) else each for each in process.canaries
    ]
    return replace(process, canaries=tuple(canaries))


def _share_jobs(one: str, other: str) -> bool:
    """Whether there may be jobs in both of two scopes."""
    return covers(one, other) or covers(other, one)


def _promoted(process: Process, event: ReleasePromoted, seq: int) -> Process:
    process = _pointed(process, event.scope, event.alias, event.digest, seq)
    if event.alias is not Alias.LIVE:
        return process
    if event.was is not None and event.was != event.digest:
        process = _pointed(process, event.scope, Alias.PREVIOUS, event.was, seq)
    return _without_canary(process, event.scope)


def _without_canary(process: Process, scope: str) -> Process:
    return replace(process, canaries=tuple([each for each in process.canaries if each.scope != scope]))


def _changed(process: Process, digest: str, event: Fact) -> Process:
    release = process.releases[digest]
    match event:
        case ReleaseFrozen(reason=reason):
            release = replace(release, frozen=reason)
        case ReleaseRevoked(reason=reason):
            release = replace(release, revoked=reason)
        case _:
            release = replace(release, frozen=None)
    return replace(process, releases={**process.releases, digest: release})


def _found(
    process: Process, digest: str, at: int, event: Fact | None = None, approved: Approved | None = None
) -> Process:
    """With what was found out about a release, in place of what was found under that name before."""
    release = process.releases[digest]
    match event:
        case EvaluationRecorded(data=data):
            kept = [each for each in release.evaluations if each.data != data]
            times = {**release.found_at, f"evaluation {data}": at}
            # The scores stand in the record; what is remembered is what they proved.
            told = replace(event, measured=())
            release = replace(release, evaluations=(*kept, told)[-EVIDENCE_MAX:], found_at=times)
        case DrillRecorded(drill=drill):
            kept_drills = [each for each in release.drills if each.drill != drill]
            times = {**release.found_at, f"drill {drill}": at}
            release = replace(release, drills=(*kept_drills, event)[-EVIDENCE_MAX:], found_at=times)
        case PolicyChecked(check=check):
            kept_checks = [each for each in release.checks if each.check != check]
            release = replace(release, checks=(*kept_checks, event)[-EVIDENCE_MAX:])
        case _:
            assert approved is not None
            kept_yes = [each for each in release.approvals if each.by != approved.by]
            release = replace(release, approvals=(*kept_yes, approved)[-EVIDENCE_MAX:])
    return replace(process, releases={**process.releases, digest: release})
