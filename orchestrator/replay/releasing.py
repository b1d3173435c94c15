"""Releases in words: what became of each, and why, from the log alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from writ.schemas.canaries import CanaryJudged, CanaryPolicy
from writ.schemas.evaluations import Outcome
from writ.schemas.events import Fact
from writ.schemas.gates import GateDeclared, GateRemoved
from writ.schemas.processes import (
    CanaryEnded,
    CanaryStarted,
    Check,
    DrillRecorded,
    EvaluationRecorded,
    PolicyChecked,
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

from ..decide.canary import in_words
from .wording import one_line

_SHORT: int = 12


def short(digest: str) -> str:
    """Enough of a digest to tell releases apart."""
    return digest[:_SHORT]


def release_words(event: Fact, actor: str) -> str:
    """An event of a process or a gate, as a phrase; empty for others."""
    by = f"by {actor}"
    match event:
        case ReleasePublished(digest=digest, version=version):
            change = ", of changed sources" if event.modified else ""
            commit = "" if event.commit is None else f", commit {short(event.commit)}{change}"
            return f"{version} is release {short(digest)}{commit}, {by}"
        case ReleasePromoted(scope=scope, alias=alias, digest=digest, reason=reason):
            who = (
                by if event.proposed_by is None else f"by {event.proposed_by}, against its gates with {actor}"
            )
            was = "" if event.was is None else f", was {short(event.was)}"
            return f"{alias.value} in {scope} is {short(digest)}{was}, {who}: {one_line(reason)}"
        case PromotionBlocked(scope=scope, alias=alias, digest=digest, checks=checks):
            return f"{alias.value} in {scope} is not {short(digest)}, asked {by}: {one_line(_bad(checks))}"
        case PromotionProposed(number=number, scope=scope, digest=digest, alias=alias, checks=checks):
            what = f"{alias.value} in {scope} shall be {short(digest)} against its gates"
            return f"number {number}: {what}, {by}; another person approves: {one_line(_bad(checks))}"
        case ReleaseRolledBack(scope=scope, digest=digest, was=was, reason=reason, pinned=pinned):
            what = f"live in {scope} is {short(digest)} again, was {short(was)}"
            return f"{what}; jobs begun on it {pinned.value}, {by}: {one_line(reason)}"
        case ReleaseFrozen(digest=digest, reason=reason):
            return f"no lease for {_which(digest)}, {by}: {one_line(reason)}"
        case ReleaseUnfrozen(digest=digest, reason=reason):
            return f"leases for {_which(digest)} again, {by}: {one_line(reason)}"
        case ReleaseRevoked(digest=digest, reason=reason):
            return f"no lease for {_which(digest)} ever again, {by}: {one_line(reason)}"
        case CanaryStarted(scope=scope, digest=digest, percent=percent, keys=keys, reason=reason):
            keyed = f" and {len(keys)} fairness keys" if keys else ""
            judged = "" if event.policy is None else f", {policy_words(event.policy)}"
            what = f"{percent:g} %{keyed} of live in {scope} get {short(digest)}{judged}"
            return f"{what}, {by}: {one_line(reason)}"
        case CanaryJudged(scope=scope, digest=digest, policy=policy, found=found):
            after = policy.on_worse.value if found.watched.outcome is Outcome.FAIL else policy.on_fine.value
            where = f"{short(digest)} in {scope}, compared with live since record {found.revision}"
            return f"{where}: {in_words(found)}; a bet wins {1 / found.level:g} to 1, then {after}"
        case CanaryEnded(scope=scope, digest=digest, reason=reason):
            return f"no canary of {short(digest)} in {scope} any more, {by}: {one_line(reason)}"
        case _:
            return _found_words(event, actor)


def policy_words(policy: CanaryPolicy) -> str:
    """How a canary is judged."""
    asked = f"level {policy.level:g}, {policy.minimum} results each, a drop of {policy.detect:g}"
    then = f"{policy.on_worse.value} where worse, {policy.on_fine.value} where not"
    return f"judged by its {policy.measure.value} ({asked}): {then}"


def _found_words(event: Fact, actor: str) -> str:
    by = f"by {actor}"
    match event:
        case ReleaseApproved(digest=digest, scope=scope, reason=reason):
            return f"{actor} says yes to {short(digest)} in {scope}: {one_line(reason)}"
        case EvaluationRecorded(digest=digest, data=data, verdict=verdict):
            told = "; ".join(f"{each.dimension} {each.outcome.value}" for each in verdict.dimensions)
            size = f"{verdict.items} items x {verdict.repeats}"
            return f"{short(digest)} on {data}: {verdict.outcome.value} ({one_line(told)}), {size}, told {by}"
        case DrillRecorded(digest=digest, drill=drill, outcome=outcome, reason=reason):
            return f"{short(digest)}, drill {drill}: {outcome.value}, {by}: {one_line(reason)}"
        case PolicyChecked(digest=digest, check=check, outcome=outcome, found=found):
            what = one_line("; ".join(found)) if found else "nothing found"
            return f"{short(digest)}, {check}: {outcome.value}, {what}, told {by}"
        case GateDeclared(version=version, gate=gate, reason=reason):
            return f"version {version} for {gate.process} in {gate.scope}, {by}: {one_line(reason)}"
        case GateRemoved(version=version, reason=reason):
            return f"ended with version {version}, {by}: {one_line(reason)}"
        case _:
            return ""


def about(event: Fact, digest: str) -> bool:
    """Whether an event of a process is about a release, or about all of them."""
    told = (getattr(event, "digest", None), getattr(event, "was", None))
    return digest in told or told == (None, None)


def _which(digest: str | None) -> str:
    return "all of the process" if digest is None else f"release {short(digest)}"


def _bad(checks: Iterable[Check]) -> str:
    return "; ".join(f"{c.check}: {c.reason}" for c in checks if c.outcome is not Outcome.PASS)


def check_lines(checks: Iterable[Check]) -> Iterator[str]:
    """Each check of a promotion with what it was decided from, for people."""
    for check in checks:
        policy = check.gate if not check.version else f"gate {check.gate}, version {check.version}"
        hard = ", hard" if check.hard else ""
        yield f"{check.outcome.value:<12}  {check.check} ({policy}{hard}): {check.reason}"
        for given in check.inputs:
            yield f"{'':<12}    {one_line(given)}"
