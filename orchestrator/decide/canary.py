"""What follows from what a canary's results proved."""

from __future__ import annotations

from writ.schemas.canaries import CanaryJudged, Finding, OnFine, OnWorse
from writ.schemas.evaluations import Outcome
from writ.schemas.facts import Fact
from writ.schemas.processes import Canary, CanaryEnded, ReleaseFrozen
from writ.schemas.rejections import Rejection
from writ.schemas.releasing import PromoteRelease

from .promotion import At, promote


def judge(at: At, found: Finding) -> tuple[Fact, ...]:
    """The verdict and its consequence; nothing where the finding is none, or of what is no more.

    A revision that was changed meanwhile makes a finding worthless, and one verdict is enough.
    """
    outcome = found.watched.outcome
    canary = next((each for each in at.process.canaries if each.scope == found.scope), None)
    if outcome is Outcome.INCONCLUSIVE or canary is None or canary.policy is None:
        return ()
    if canary.judged is not None or found.revision != at.process.revision(canary):
        return ()
    judged = CanaryJudged(canary.scope, canary.digest, canary.policy, found)
    if outcome is Outcome.FAIL:
        return (judged, *_worse(at, canary, canary.policy.on_worse, in_words(found)))
    return (judged, *_fine(at, canary, canary.policy.on_fine, in_words(found)))


def in_words(found: Finding) -> str:
    """What was found, as the reason of what follows from it."""
    seen = found.watched
    told = {
        Outcome.FAIL: f"worse than live, with evidence of {seen.worse:,.0f} to 1",
        Outcome.PASS: f"not worse than live, with evidence of {seen.fine:,.0f} to 1",
        Outcome.INCONCLUSIVE: "no verdict yet",
    }[seen.outcome]
    return f"{told}: a change of {seen.change:+.2%} over {seen.pairs} results each"


def _worse(at: At, canary: Canary, then: OnWorse, why: str) -> tuple[Fact, ...]:
    if then is OnWorse.HOLD:
        return ()
    ended = CanaryEnded(canary.scope, canary.digest, why)
    release = at.process.releases[canary.digest]
    if then is OnWorse.END or release.frozen is not None:
        return (ended,)
    return (ended, ReleaseFrozen(why, canary.digest))


def _fine(at: At, canary: Canary, then: OnFine, why: str) -> tuple[Fact, ...]:
    if then is OnFine.HOLD:
        return ()
    if then is OnFine.END:
        return (CanaryEnded(canary.scope, canary.digest, why),)
    command = PromoteRelease(process=at.process.name, release=canary.digest, scope=canary.scope, reason=why)
    outcome = promote(at, command)
    return () if isinstance(outcome, Rejection) else outcome
